"""How many floating-point operations a prompt and its answer ask of a model.

Counted from the tensors of the GGUF file: a weight matrix of rows x cols costs 2*rows*cols per token (a
multiplication and an addition per weight), attention 2*n_head*(key_length + value_length)*context per token
and layer, the context being the tokens seen so far, this one included. Looking up the embedding is no
multiplication; an embedding that is the output matrix too counts once, as the output. Of a mixture of experts
the experts in use count. The prompt needs logits for its last token alone, and every decode step for its one;
so the output matrix counts once per sampled token. An answer of n tokens takes n - 1 steps after the prompt,
or n where the model ended it, since sampling the end took one more.

  method      matmul_count, or 2_params_tokens where the file's tensors are not all known here:
              2 * parameters * (prompt + answer tokens)
  confidence  high; medium where the context outgrew a sliding window, which is counted in full; low for
              2_params_tokens. The reason is in `note`
  flops       flops_prefill + flops_decode; None where tokens are missing

Norms, rotary positions, softmax and activations are left out, as is usual: they are well below a hundredth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.gguf.header import GgufError, Header, read_header
from edgebench.gguf.identity import split_stem, stem_of
from edgebench.records.jsonl import reason_of
from edgebench.shell.text import printable

# Tensors of which rows are looked up, or which are added or scaled: no matrix multiplication.
NO_MATMUL = re.compile(
    r"(token_embd|position_embd|token_types)\.weight$|.*norm.*|rope_(freqs|factors).*|.*\.bias$|.*_scale$"
)
# Weight matrices of a decoder every token goes through; `_exps` hold all experts of a layer.
MATMUL = re.compile(
    r"blk\.\d+\.(attn_(q|k|v|qkv|output|gate)|ffn_(gate|up|down|gate_up)(_exps|_shexp)?"
    r"|ffn_gate_inp(_shexp)?)\.weight$"
)
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
# Keys of metadata that mean another kind of attention or state than the formula above.
OTHER_ATTENTION = ("kv_lora_rank", "ssm.", "wkv", "shortconv", "recurrent")
CONFIDENCES = ("high", "medium", "low")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a model costs; for method 2_params_tokens only n_params counts."""

    n_params: int
    why_not: str | None  # why the tensors cannot be counted, None where they can
    per_token: int = 0  # FLOP of all layers' weights per token
    output: int = 0  # FLOP of the output matrix per token with logits
    per_context: int = 0  # FLOP per token and token of context, all layers
    window: int | None = None  # sliding window of some layers [token]


@dataclass(frozen=True)
class FlopCount:
    """The operations of one run [FLOP]; None, with the reason in `note`, where they cannot be told."""

    flops: int | None = None
    flops_prefill: int | None = None
    flops_decode: int | None = None
    method: str | None = None
    confidence: str | None = None
    note: str | None = None
    run_key: str | None = None
    model_id: str | None = None

    def as_record(self) -> dict[str, Any]:
        """The line of this run in flops.jsonl."""
        named = {"run_key": self.run_key, "model_id": self.model_id}
        return {**named, **{name: value for name, value in asdict(self).items() if name not in named}}


# --- A model's cost ---


def read_cost(path: Path) -> Cost:
    """Cost of a model file. UserError for what is no complete GGUF file or cannot be read."""
    try:
        return model_cost(read_header(path))
    except GgufError as problem:
        raise UserError(f"{printable(path)}: {problem}; check --model") from None
    except OSError as problem:
        raise UserError(f"{printable(path)}: {reason_of(problem)}; check --model") from None


def model_cost(header: Header) -> Cost:
    """Cost from metadata and tensors; why_not is set where a tensor or the attention is not known."""
    metadata = header.metadata
    elements = {tensor.name: tensor.elements for tensor in header.tensors}
    n_params = sum(elements.values())
    arch = str(metadata.get("general.architecture", ""))
    odd = [
        key for key in metadata if any(key.startswith(f"{arch}.") and one in key for one in OTHER_ATTENTION)
    ]
    if odd:
        return Cost(n_params, f"{arch} has attention or state of another kind ({odd[0]})")
    used, all_ = (metadata.get(f"{arch}.expert_{name}") for name in ("used_count", "count"))
    per_token = 0
    for name, weights in elements.items():
        if NO_MATMUL.match(name) or name == OUTPUT:
            continue
        if not MATMUL.match(name):
            return Cost(n_params, f"tensor {name} is not known here")
        if "_exps." in name:
            if not used or not all_:
                return Cost(n_params, f"{arch} has experts but does not say how many are used")
            weights_in_use = weights // all_ * used
        else:
            weights_in_use = weights
        per_token += 2 * weights_in_use
    head = elements.get(OUTPUT) or elements.get(EMBEDDING)
    attention = context_cost(metadata, arch)
    if head is None or attention is None or not per_token:
        missing = "embedding" if head is None else "usable block_count, head_count and embedding_length"
        return Cost(n_params, f"{arch or 'the file'} states no {missing}")
    window = metadata.get(f"{arch}.attention.sliding_window")
    return Cost(n_params, None, per_token, 2 * head, attention, window or None)


def context_cost(metadata: Json, arch: str) -> int | None:
    """FLOP per token and token of context: 2 * heads * (key_length + value_length), over all layers."""
    layers, width = metadata.get(f"{arch}.block_count"), metadata.get(f"{arch}.embedding_length")
    heads = metadata.get(f"{arch}.attention.head_count")
    if not layers or not width or not heads:
        return None
    per_layer = list(heads) if isinstance(heads, Sequence) else [heads] * layers
    size = width // max(per_layer)
    key = metadata.get(f"{arch}.attention.key_length") or size
    value = metadata.get(f"{arch}.attention.value_length") or size
    return int(2 * sum(per_layer) * (key + value))


# --- Runs ---


def count(cost: Cost, prompt_tokens: int, completion_tokens: int, steps: int) -> FlopCount:
    """FLOP of a cold prompt and `steps` decode steps.

    The context of prompt token i is i; that of decode step k is prompt_tokens + k.
    """
    if cost.why_not:
        prefill = 2 * cost.n_params * prompt_tokens
        decode = 2 * cost.n_params * completion_tokens
        return FlopCount(prefill + decode, prefill, decode, "2_params_tokens", "low", cost.why_not)
    context_sum = prompt_tokens * (prompt_tokens + 1) // 2
    prefill = prompt_tokens * cost.per_token + cost.output + cost.per_context * context_sum
    seen = steps * prompt_tokens + steps * (steps + 1) // 2
    decode = steps * (cost.per_token + cost.output) + cost.per_context * seen
    confidence, note = "high", None
    if cost.window and prompt_tokens + steps > cost.window:
        confidence, note = "medium", f"some layers see {cost.window} tokens only, and are counted in full"
    return FlopCount(prefill + decode, prefill, decode, "matmul_count", confidence, note)


def count_runs(records: Iterable[Json], costs: Mapping[Path, Cost]) -> list[FlopCount]:
    """The count of each run record, by the model file that its model_id names."""
    return [count_run(record, costs) for record in records]


def count_run(record: Json, costs: Mapping[Path, Cost]) -> FlopCount:
    """The count of one run record; None with a note where it cannot be told."""
    found = [cost for path, cost in costs.items() if same_model(path, record)]
    prompt, completion = record.get("prompt_tokens"), record.get("completion_tokens")
    if record.get("kind") == "throughput" and len(found) == 1:
        counted = count_batch(record, found[0])
    elif not isinstance(prompt, int) or not isinstance(completion, int):
        counted = FlopCount(note="the run has no token counts")
    elif len(found) != 1:
        why = "no --model file" if not found else "more than one --model file"
        counted = FlopCount(note=f"{why} is called {record.get('model_id')}")
    else:
        counted = count(found[0], prompt, completion, steps_of(record))
    return replace(counted, run_key=record.get("run_key"), model_id=record.get("model_id"))


def same_model(path: Path, record: Json) -> bool:
    """Is this file what a run's model_id and quantization name?"""
    stem = stem_of(path)
    model_id, quantization = split_stem(stem)
    name = str(record.get("model_id", "")).lower()
    ending = str(record.get("quantization") or "").lower()
    # Records of before may hold a quantization that is parted otherwise: X-UD and Q4_K_XL.
    if stem.lower() == name or stem.lower() in {f"{name}{sign}{ending}" for sign in "-_."}:
        return True
    return model_id.lower() == name and (quantization or "").lower() == ending


def steps_of(record: Json) -> int:
    """Decode steps of an answer: the prompt gave its first token, and seeing its end took one more."""
    completion = int(record["completion_tokens"])
    return completion if record.get("finish_reason") == "stop" else max(0, completion - 1)


def count_batch(record: Json, cost: Cost) -> FlopCount:
    """The count of a record of throughput.py: decoding together spares loading weights, but no arithmetic."""
    parts = [
        count(cost, one["prompt_tokens"], one["completion_tokens"], steps_of(one))
        for one in record.get("sequences") or ()
    ]
    if not parts:
        return FlopCount(note="the run has no token counts")
    least = max(parts, key=lambda part: CONFIDENCES.index(str(part.confidence)))
    return replace(
        least,
        flops=sum(part.flops or 0 for part in parts),
        flops_prefill=sum(part.flops_prefill or 0 for part in parts),
        flops_decode=sum(part.flops_decode or 0 for part in parts),
    )
