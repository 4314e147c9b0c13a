"""The words of other tools for what an experiment file says, and what stands for those without a meaning.

Requirement 003 and the tools like it write `fp_precision`, `max_output_tokens`, `prompt_source` and
`batch_size`. What has a meaning on one board is taken over under its name here; what has none is left out,
and one line says so and what stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Without a meaning for a GGUF on one board -> what stands for it.
STANDS_FOR_IT = {
    "fp_precision": "a GGUF has the precision of its file; choose the file (NAME-F16.gguf, NAME-Q6_K.gguf),"
    " and engine.kv_type for its cache",
    "quantization": "a GGUF is quantized or not; choose the file: NAME-Q4_K_M.gguf, or NAME-F16.gguf",
    "num_processes": "one board answers in one process; several answers at once are batch_size",
    "gpu_list": "the engine takes this machine's GPU; choose another by CUDA_VISIBLE_DEVICES=UUID, see:"
    " devices",
}
# Unknown here, and not near enough to any key to be guessed.
WORD_FOR = {
    "max_input_tokens": "engine.n_ctx (tokens of prompt and answer), and levels for the length of prompts",
    "model_name": "models",
    "num_input_prompts": "limit, or dataset.sample_size",
    "gpus": "CUDA_VISIBLE_DEVICES in front of the command",
    "decoder": "generation",
}
OF_A_SOURCE = {"dataset": "source", "path": "source"}  # keys of prompt_source under other names here
SOURCE_TYPES = ("huggingface", "file")
BATCH = "batch_size"
SAMPLE = "sample_size"  # of the dataset; where there is none, of each prompts file
WORDS = (*STANDS_FOR_IT, "max_output_tokens", BATCH, SAMPLE)  # that --set and --vary take beside the keys


def translate(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """(the content in the words of here, notes, faults); what is not of this vocabulary stays as it is.

    >>> translate({"max_output_tokens": 64, "cycles": 3})
    ({'cycles': 3, 'generation': {'max_tokens': 64}}, [], [])
    """
    said = dict(content)
    notes: list[str] = []
    faults: list[str] = []
    for key, instead in STANDS_FOR_IT.items():
        value = said.pop(key, None)
        says_nothing = value is None or value == [] or (key == "num_processes" and value == 1)
        if not says_nothing:
            notes.append(f"{key} {shown(value)} is left out: {instead}")
    if "max_output_tokens" in said:
        put_in(said, "generation", "max_tokens", said.pop("max_output_tokens"), "max_output_tokens", faults)
    if "prompt_source" in said:
        take_source(said, faults)
    return said, notes, faults


def shown(value: Any) -> str:
    """As a user writes it.

    >>> shown([0, 1]), shown(True), shown("float16")
    ('0,1', 'true', 'float16')
    """
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def put_in(said: dict[str, Any], section: str, name: str, value: Any, word: str, faults: list[str]) -> None:
    """Set a key of a section under another word; a fault where it stands there, too."""
    inner = said.get(section) or {}
    if not isinstance(inner, Mapping):
        return  # the section's own fault is told when it is checked
    if name in inner:
        faults.append(f"{word} and {section}.{name} say the same; give one of them")
    said[section] = {**inner, name: value}


def take_source(said: dict[str, Any], faults: list[str]) -> None:
    """prompt_source becomes dataset."""
    given = said.pop("prompt_source")
    if not isinstance(given, Mapping):
        faults.append("prompt_source: has keys, as in prompt_source: {type: huggingface, dataset: alpaca}")
        return
    kind = given.get("type", "huggingface")
    if kind not in SOURCE_TYPES:
        faults.append(f"prompt_source.type: {' or '.join(SOURCE_TYPES)}, not {kind}")
    if said.get("dataset"):
        faults.append("prompt_source and dataset say the same; give one of them")
    said["dataset"] = {OF_A_SOURCE.get(key, key): value for key, value in given.items() if key != "type"}


def settle(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` without the words whose meaning depends on what lies below it.

    One answer at a time is what the collector does; several at once are mode throughput. A sample is one of
    the dataset, or, without a dataset, of the prompts files.

    >>> settle({}, {"batch_size": 8}), settle({}, {"batch_size": 1}), settle({}, {"sample_size": 5})
    ({'mode': 'throughput', 'batch_sizes': [8]}, {}, {'limit': 5})
    >>> settle({"dataset": {"source": "a"}}, {"sample_size": 5})
    {'dataset': {'sample_size': 5}}
    """
    settled = dict(high)
    if BATCH in settled:
        sizes = settled.pop(BATCH)
        sizes = sizes if isinstance(sizes, list) else [sizes]
        mode = settled.get("mode") or low.get("mode")
        if sizes != [1] or mode == "throughput":
            settled |= {"mode": "throughput", "batch_sizes": sizes}
    if SAMPLE in settled:
        size = settled.pop(SAMPLE)
        dataset = settled.get("dataset") or {}
        if isinstance(dataset, Mapping) and (dataset or (low.get("dataset") and not settled.get("prompts"))):
            settled["dataset"] = {**dataset, SAMPLE: size}
        else:
            settled["limit"] = size
    return settled


def cannot_vary(key: str) -> str | None:
    """Why a grid cannot be made over a word without a meaning here; None for one that it can."""
    if key not in STANDS_FOR_IT:
        return None
    cure = "vary the files: --vary models=a-F16.gguf,a-Q6_K.gguf"
    return f"{key}: {STANDS_FOR_IT[key]}" + (f"; {cure}" if key in ("fp_precision", "quantization") else "")
