"""Rows as they stand in a file, whoever wrote it: each value of the kind that its name has, else missing.

NaN, Infinity, words for numbers and rates that are not above zero are no measurement: such a value is null,
and what was left out is told, with its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgebench.records.run import as_number

RATES = ("prefill_tok_per_s", "decode_tok_per_s", "decode_all_tok_per_s", "tok_per_s", "memory_gb_per_s")
NUMBERS = (
    *RATES, "prefill_tok_per_s_std", "decode_tok_per_s_std", "tok_per_s_std", "prompt_tokens",
    "generated_tokens", "ttft_ms", "first_run_ttft_ms", "tpot_ms", "load_ms", "n", "warmup_excluded",
    "warmup_ms", "n_threads", "n_gpu_layers", "depth_tokens", "weight_read_byte", "kernels_per_token",
    "agreed_tokens", "compared_tokens", "first_difference", "margin_logit", "run", "runs", "round",
    "energy_joule", "energy_gross_joule", "joule_per_token", "joule_per_token_gross", "idle_mw", "t0_s",
    "t1_s", "wall_s", "asked_tokens", "source_line",
)  # fmt: skip
TEXTS = (
    "engine", "backend", "device", "model", "quantization", "test", "status", "phase", "build", "cause",
    "weights", "source_file", "run_key", "model_sha256", "prompt_sha256", "prompt_format", "idle_method",
    "energy_missing", "power_source", "power_rail", "power_scope", "agreement_by",
)  # fmt: skip
LISTS = ("notes", "token_ids", "commands", "power_flags", "spans_s", "warmup")
MAPPINGS = ("settings", "conditions", "idle")
FLAGS = ("same_work",)


def readable(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the row with every value of its kind, the names of those that were of none and are null now).

    >>> readable({"decode_tok_per_s": float("nan"), "n": "3", "model": 7, "notes": None})
    ({'decode_tok_per_s': None, 'n': 3.0, 'model': '7', 'notes': None}, ['decode_tok_per_s'])
    """
    found = {name: value if value is None else of_its_kind(name, value) for name, value in row.items()}
    return found, [name for name, value in row.items() if value is not None and found[name] is None]


def of_its_kind(name: str, value: Any) -> Any:
    """A value as its name wants it; None where it is none of that kind."""
    if name in NUMBERS:
        number = as_number(value)
        if number is None or (name in RATES and number <= 0):
            return None
        return value if isinstance(value, int) else number
    if name in TEXTS:
        return str(value) if isinstance(value, str) or as_number(value) is not None else None
    if name == "flash_attn":
        return value if isinstance(value, bool | str) else None
    if name == "notes" and isinstance(value, list):
        return [note for note in value if isinstance(note, str)]
    for names, kind in ((LISTS, list), (MAPPINGS, dict), (FLAGS, bool)):
        if name in names:
            return value if isinstance(value, kind) else None
    return value
