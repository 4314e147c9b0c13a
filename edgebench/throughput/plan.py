#!/usr/bin/env python3
"""Which measurements throughput.py has to make: models, prompts, batch sizes, repeats, less what is there.

The flags of throughput.py come as one JSON object on stdin; the plan goes to
stdout as JSON lines. First {"prompts": [{id, level, text}…], "total"}; then per
model its identity (see name_models.py) with todo [{run_key, batch_size, repeat}…]
in running order. run_key is a hash of all that could change the result: model
file, prompts, settings, engine version, batch size, repeat.

An output that holds measurements of another board or power mode is refused: the
table would take their mean.

Each repeat begins one batch size later than the one before, so that a warming
board does not favour one size.

Example:
  echo '{"models": ["models/demo/demo-llama-F32.gguf"], "batch_sizes": [1, 2], "repeats": 1,
      "prompts": ["data/writing_prompts_hierarchical.csv"], "levels": ["L0"], "out_jsonl": "t.jsonl"}' \\
      | tr -d '\\n' | python companions/plan_throughput.py
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

AT_LEAST_ONE = ("repeats", "max_tokens", "n_batch", "n_ubatch", "n_threads", "limit", "n_ctx", "interval")
KEY_SETTINGS = (
    "prompt_format", "max_tokens", "temperature", "seed", "n_ctx", "n_batch", "n_ubatch", "n_threads",
    "n_gpu_layers", "flash_attn", "kv_type", "kv_unified",
)  # fmt: skip
Json = Mapping[str, Any]


class PlanThroughputError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


def check(flags: Json) -> None:
    """PlanThroughputError for a number that makes no sense, by the name of its flag."""
    for name in AT_LEAST_ONE:
        if flags.get(name) is not None and flags[name] < 1:
            raise PlanThroughputError(f"--{name} {flags[name]} must be at least 1")
    largest = max(flags["batch_sizes"])
    if largest > flags.get("n_batch", largest):
        raise PlanThroughputError(f"--n_batch {flags['n_batch']} is less than a batch of {largest}; raise it")
    if not flags["out_jsonl"].endswith(".jsonl"):
        raise PlanThroughputError(f"--out_jsonl {flags['out_jsonl']} must end in .jsonl")


def lines_of(script: str, *words: str) -> list[dict[str, Any]]:
    """What a script beside this one prints, JSON line by JSON line; its own last words where it fails."""
    command = [*room_command(script), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.strip():
        said = done.stderr.strip().splitlines() or [f"{script} ended with status {done.returncode}"]
        raise PlanThroughputError(said[-1].removeprefix("error: "))
    return [json.loads(line) for line in done.stdout.splitlines()]


def choose_prompts(flags: Json) -> list[dict[str, Any]]:
    """{"id", "level", "text"} per prompt: as many as the largest batch needs, or as --limit says."""
    words = ["--prompts", *flags["prompts"], "--levels", *flags["levels"]]
    words += ["--limit", str(flags["limit"])] if flags.get("limit") else []
    prompts = [
        {"id": task["id"], "level": level, "text": text}
        for task in lines_of("edgebench.prompts.tasks", *words)
        for level, text in task["levels"].items()
    ]
    largest = max(flags["batch_sizes"])
    if len(prompts) < largest:
        raise PlanThroughputError(
            f"a batch of {largest} needs {largest} prompts, and there are {len(prompts)};"
            " lower --batch_sizes, or give more --prompts, --levels or a higher --limit"
        )
    return prompts if flags.get("limit") else prompts[:largest]


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


def done_keys(out: Path, retry_errors: bool) -> set[str]:
    """run_keys in the output; without those whose last record failed, if they are to be done again."""
    last = {}
    for _, record in read_jsonl(out) if out.exists() else ():
        if record and record.get("kind") == "throughput" and "run_key" in record:
            last[record["run_key"]] = record
    return {key for key, one in last.items() if not (retry_errors and one.get("error"))}


def refuse_mixture(flags: Json) -> None:
    """PlanThroughputError where the output was measured on another board, or in another power mode."""
    out, names = Path(flags["out_jsonl"]), ("board", "power_mode_name")
    here = [flags.get(name) for name in names]
    for _, record in read_jsonl(out) if out.exists() else ():
        if record and record.get("kind") == "throughput" and not record.get("error"):
            there = [record.get(name) for name in names]
            if there != here:
                was, now = (
                    " in power mode ".join(str(one or "unknown") for one in two) for two in (there, here)
                )
                raise PlanThroughputError(
                    f"{out} was measured on board {was}, and this is {now}; choose another --out_jsonl"
                )


def cells(sizes: Sequence[int], repeats: int) -> list[tuple[int, int]]:
    """(batch size, repeat) in running order: each repeat begins one size later than the one before.

    >>> cells([1, 2], 2)
    [(1, 1), (2, 1), (2, 2), (1, 2)]
    """
    turns = [(place + repeat) % len(sizes) for repeat in range(repeats) for place in range(len(sizes))]
    return [(sizes[turn], place // len(sizes) + 1) for place, turn in enumerate(turns)]


def plan(flags: Json) -> list[dict[str, Any]]:
    """The header and one line per model."""
    check(flags)
    refuse_mixture(flags)
    prompts = choose_prompts(flags)
    done = done_keys(Path(flags["out_jsonl"]), bool(flags.get("retry_errors")))
    try:
        engine = importlib.metadata.version("llama_cpp_python")
    except importlib.metadata.PackageNotFoundError:
        engine = None
    settings = {name: flags.get(name) for name in KEY_SETTINGS}
    models = lines_of("edgebench.gguf.identity", "--models", *flags["models"])
    wanted = cells(flags["batch_sizes"], flags["repeats"])
    for model in models:
        model["todo"] = []
        for size, repeat in wanted:
            told = [model.get("sha256") or model["path"], prompts, settings, engine, size, repeat]
            key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
            if key not in done:
                model["todo"].append({"run_key": key, "batch_size": size, "repeat": repeat})
    return [{"prompts": prompts, "total": len(models) * len(wanted)}, *models]


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: the flags of throughput.py come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan."""
    build_parser().parse_args(argv)
    try:
        for line in plan(json.load(sys.stdin)):
            print(json.dumps(line))
    except (PlanThroughputError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except (KeyError, ValueError) as exc:
        print(f"error: stdin must hold the flags as one JSON object, see --help ({exc!r})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
