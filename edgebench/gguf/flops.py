#!/usr/bin/env python3
"""How many floating-point operations a prompt and its answer ask of a model.

Counted from the tensors of the GGUF file: a weight matrix of rows x cols costs
2*rows*cols per token (a multiplication and an addition per weight), attention
2*n_head*(key_length + value_length)*context per token and layer, the context
being the tokens seen so far, this one included. Looking up the embedding is no
multiplication; an embedding that is the output matrix too counts once, as the
output. Of a mixture of experts the experts in use count. The prompt needs logits
for its last token alone, and every decode step for its one; so the output matrix
counts once per sampled token. An answer of n tokens takes n - 1 steps after the
prompt, or n where the model ended it, since sampling the end took one more.

  method      matmul_count, or 2_params_tokens where the file's tensors are not
              all known here: 2 * parameters * (prompt + answer tokens)
  confidence  high; medium where the context outgrew a sliding window, which is
              counted in full; low for 2_params_tokens. The reason is in `note`
  flops       flops_prefill + flops_decode; null where tokens are missing

Norms, rotary positions, softmax and activations are left out, as is usual: they
are well below a hundredth. Prints one JSON line; with --runs writes one per run.

Example:
  python companions/count_flops.py --model models/gemma-2-2b-it-Q6_K.gguf \\
      --prompt_tokens 120 --completion_tokens 256
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

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
Json = Mapping[str, Any]


class CountFlopsError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


@dataclass(frozen=True)
class Cost:
    """What a model costs; for method 2_params_tokens only n_params counts."""

    n_params: int
    why_not: str | None  # why the tensors cannot be counted, None where they can
    per_token: int = 0  # FLOP of all layers' weights per token
    output: int = 0  # FLOP of the output matrix per token with logits
    per_context: int = 0  # FLOP per token and token of context, all layers
    window: int | None = None  # sliding window of some layers [token]


# ---------------------------------------------------------------------------
# A model's cost


def model_cost(metadata: Json, shapes: Mapping[str, Sequence[int]]) -> Cost:
    """Cost from metadata and tensor shapes; why_not is set where a tensor or the attention is not known."""
    n_params = sum(math.prod(shape) for shape in shapes.values())
    arch = str(metadata.get("general.architecture", ""))
    odd = [
        key for key in metadata if any(key.startswith(f"{arch}.") and one in key for one in OTHER_ATTENTION)
    ]
    if odd:
        return Cost(n_params, f"{arch} has attention or state of another kind ({odd[0]})")
    used, all_ = (metadata.get(f"{arch}.expert_{name}") for name in ("used_count", "count"))
    per_token = 0
    for name, shape in shapes.items():
        if NO_MATMUL.match(name) or name == OUTPUT:
            continue
        if not MATMUL.match(name):
            return Cost(n_params, f"tensor {name} is not known here")
        weights = math.prod(shape)
        if "_exps." in name:
            if not used or not all_:
                return Cost(n_params, f"{arch} has experts but does not say how many are used")
            weights = weights // all_ * used
        per_token += 2 * weights
    head = shapes.get(OUTPUT) or shapes.get(EMBEDDING)
    attention = context_cost(metadata, arch)
    if head is None or attention is None or not per_token:
        missing = "embedding" if head is None else "usable block_count, head_count and embedding_length"
        return Cost(n_params, f"{arch or 'the file'} states no {missing}")
    window = metadata.get(f"{arch}.attention.sliding_window")
    return Cost(n_params, None, per_token, 2 * math.prod(head), attention, window or None)


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


def flops(cost: Cost, prompt: int, completion: int, steps: int) -> dict[str, Any]:
    """FLOP of a cold prompt and `steps` decode steps.

    The context of prompt token i is i; that of decode step k is prompt + k.
    """
    if cost.why_not:
        parts = [2 * cost.n_params * prompt, 2 * cost.n_params * completion]
        return told(parts, "2_params_tokens", "low", cost.why_not)
    prefill = prompt * cost.per_token + cost.output + cost.per_context * prompt * (prompt + 1) // 2
    seen = steps * prompt + steps * (steps + 1) // 2
    decode = steps * (cost.per_token + cost.output) + cost.per_context * seen
    if cost.window and prompt + steps > cost.window:
        note = f"some layers see {cost.window} tokens only, and are counted in full"
        return told([prefill, decode], "matmul_count", "medium", note)
    return told([prefill, decode], "matmul_count", "high", None)


def told(parts: Sequence[int], method: str, confidence: str, note: str | None) -> dict[str, Any]:
    """The fields of a count."""
    names = {"flops": sum(parts), "flops_prefill": parts[0], "flops_decode": parts[1]}
    return {**names, "method": method, "confidence": confidence, "note": note}


# ---------------------------------------------------------------------------
# Files


def read_model(path: Path) -> Cost:
    """Cost of a GGUF file. CountFlopsError where it is no complete model."""
    # It says in words what is wrong with a file, where the package raises whatever comes.
    command = [*room_command("edgebench.gguf.facts"), "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    facts = json.loads(done.stdout or "{}")
    if facts.get("error"):
        raise CountFlopsError(f"{path}: {facts['error']}; check --model")
    try:
        import gguf
    except ImportError as exc:
        raise CountFlopsError("the tensors are read with a package: pip install gguf") from exc
    try:
        reader = gguf.GGUFReader(path)
        keys = [key for key in reader.fields if not key.startswith(("GGUF.", "tokenizer."))]
        metadata = {key: reader.fields[key].contents() for key in keys}
        shapes = {one.name: [int(size) for size in one.shape] for one in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as exc:
        raise CountFlopsError(f"{path}: no readable GGUF file ({exc}); check --model") from exc
    return model_cost(metadata, shapes)


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def same_model(path: Path, record: Json) -> bool:
    """Is this file what a run's model_id and quantization name?"""
    stem, name = path.stem.lower(), str(record.get("model_id", "")).lower()
    ending = str(record.get("quantization") or "").lower()
    return stem == name or (stem.startswith(name) and stem[len(name) :].lstrip("-_.") == ending)


def count_run(record: Json, costs: Mapping[Path, Cost]) -> dict[str, Any]:
    """The count of one run record; null with a note where it cannot be told."""
    names = {name: record.get(name) for name in ("run_key", "model_id")}
    blank = {"flops": None, "flops_prefill": None, "flops_decode": None, "method": None, "confidence": None}
    found = [cost for path, cost in costs.items() if same_model(path, record)]
    if record.get("kind") == "throughput" and len(found) == 1:
        return {**names, **count_batch(record, found[0], blank)}
    prompt, completion = record.get("prompt_tokens"), record.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return {**names, **blank, "note": "the run has no token counts"}
    if len(found) != 1:
        why = "no --model file" if not found else "more than one --model file"
        return {**names, **blank, "note": f"{why} is called {record.get('model_id')}"}
    return {**names, **flops(found[0], prompt, completion, steps_of(record))}


def steps_of(record: Json) -> int:
    """Decode steps of an answer: the prompt gave its first token, and seeing its end took one more."""
    completion = int(record["completion_tokens"])
    return completion if record.get("finish_reason") == "stop" else max(0, completion - 1)


def count_batch(record: Json, cost: Cost, blank: Json) -> dict[str, Any]:
    """The count of a record of throughput.py: decoding together spares loading weights, but no arithmetic."""
    parts = [
        flops(cost, one["prompt_tokens"], one["completion_tokens"], steps_of(one))
        for one in record.get("sequences") or ()
    ]
    if not parts:
        return {**blank, "note": "the run has no token counts"}
    least = max(parts, key=lambda part: ("high", "medium", "low").index(part["confidence"]))
    summed = {name: sum(part[name] for part in parts) for name in ("flops", "flops_prefill", "flops_decode")}
    return {**least, **summed}


def count_runs(args: argparse.Namespace) -> None:
    """One line per run, written whole by rename."""
    costs = {path: read_model(path) for path in args.model}
    lines, unread = [], 0
    for _, record in read_jsonl(args.runs):
        if record is None:
            unread += 1
        else:
            lines.append(json.dumps(count_run(record, costs)) + "\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_name(f".{args.out.name}.{os.getpid()}.part")
    try:
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(args.out)
    finally:
        part.unlink(missing_ok=True)
    nulls = sum('"flops": null' in line for line in lines)
    notes = (f", {nulls} without a count" if nulls else "") + (
        f", {unread} unreadable lines" if unread else ""
    )
    print(f"{args.out}: {len(lines)} runs{notes}", file=sys.stderr)


# ---------------------------------------------------------------------------
# Command line


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", type=Path, required=True, metavar="GGUF", help="model files")
    parser.add_argument("--prompt_tokens", type=int, metavar="N", help="length of the prompt")
    parser.add_argument("--completion_tokens", type=int, metavar="N", help="length of the answer")
    parser.add_argument("--runs", type=Path, metavar="JSONL", help="run records, instead of the two lengths")
    parser.add_argument("--out", type=Path, metavar="JSONL", help="with --runs: where the lines go")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit by argparse where the flags do not go together."""
    if args.runs is not None:
        if args.out is None or args.prompt_tokens is not None or args.completion_tokens is not None:
            parser.error("--runs needs --out, and takes the lengths from the runs")
    elif len(args.model) > 1 or args.prompt_tokens is None or args.completion_tokens is None:
        parser.error("give one --model with --prompt_tokens and --completion_tokens, or --runs and --out")
    elif args.prompt_tokens < 1 or args.completion_tokens < 0:
        parser.error("--prompt_tokens must be at least 1, --completion_tokens at least 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Count."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check(parser, args)
    try:
        if args.runs is not None:
            count_runs(args)
            return 0
        steps = max(0, args.completion_tokens - 1)
        counted = flops(read_model(args.model[0]), args.prompt_tokens, args.completion_tokens, steps)
        print(json.dumps({"run_key": None, "model_id": args.model[0].stem, **counted}))
    except (CountFlopsError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
