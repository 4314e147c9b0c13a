"""tinygrad's language model on NV, CUDA, CPU, ..., driven by drive_tinygrad.py in tinygrad's own Python."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.backends.engines.engine import (
    ASK_SECONDS,
    Asked,
    Command,
    Done,
    Engine,
    Job,
    Missing,
    device_of,
    idle_flag,
    read_driver,
)
from edgebench.backends.logs.timings import read_timings
from edgebench.shell import lifeline

DRIVER = Path(__file__).resolve().parents[1] / "drive_tinygrad.py"
TINYGRAD = "pip install tinygrad==0.13.0, or name a Python or checkout by --tinygrad_python, --tinygrad_dir"
STEADY_AFTER = 3  # tokens of an answer; fewer leave tinygrad's graph uncaptured


def tinygrad_python(asked: Asked) -> tuple[str, dict[str, str]]:
    """The Python that has tinygrad, and the environment it needs for a checkout."""
    python = str(asked.tinygrad_python or sys.executable)
    env = {"PYTHONPATH": str(asked.tinygrad_dir.resolve())} if asked.tinygrad_dir else {}
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tinygrad') is None)"
    try:
        done = lifeline.run(
            [python, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except OSError as exc:
        raise Missing(f"{python} cannot be started ({exc.strerror}); {TINYGRAD}") from exc
    if done.returncode:
        raise Missing(f"{python} has no tinygrad; {TINYGRAD}")
    return python, env


def tinygrad_commands(job: Job, asked: Asked) -> list[Command]:
    python, env = tinygrad_python(asked)
    argv = [
        python, str(DRIVER), "--model", job["model"],
        "--ids", asked.file("prompt_ids.json"),
        "--max_tokens", str(job["max_tokens"]), "--warmup", str(asked.warmup),
    ]  # fmt: skip
    device = device_of(asked.engine)
    return [Command((*argv, *(["--device", device] if device else []), *idle_flag(asked)), env)]


def read_tinygrad(job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    found = read_driver(done[0])
    stamps_s = found["stamps_s"]
    gaps = [(late - early) * 1e3 for early, late in itertools.pairwise(stamps_s)]
    # An answer of the same ids and length came before: nothing is left to compile, and a token that is slow
    # now is slow for all engines to see. Without it the rule for logs tells what still compiles.
    if gaps and not told_before(found):
        lines = enumerate((f"ran model in {gap:.6f} ms" for gap in gaps), 1)
        steady = [one for one in read_timings(lines) if one["kind"] == "row"][-1]
        for name in ("decode_tok_per_s", "tpot_ms", "warmup_excluded"):
            found[name] = steady.get(name)
        found["notes"] = [note for note in steady.get("notes", []) if "first token" not in note]
    stored, kept = found.get("stored_dtype"), found["held_byte"] <= 1.1 * job["file_byte"]
    kept = kept and stored == "uchar"  # blocks as in the file; unpacked weights have a type of their own
    compute = found["weight_dtype"]
    if kept:
        found["weights"] = f"{job['quantization'] or 'as in the file'}, unpacked to {compute} at every use"
    else:
        found["weights"] = f"{stored or compute} ({found['held_byte'] / 1e6:.1f} MB held)"
        found["weight_read_byte"] = job["read_byte_per_token"] and round(
            found["held_byte"] * job["read_byte_per_token"] / job["file_byte"]
        )
    found["build"] = f"{found['engine_version']} ({found['entry']})"
    return found


def told_before(found: Mapping[str, Any]) -> bool:
    """Had this process made the whole answer before it was timed?"""
    return bool(found["warmup"]) and len(found["stamps_s"]) > STEADY_AFTER


ENGINE = Engine("tinygrad", tinygrad_commands, read_tinygrad, idles_by_itself=True)
