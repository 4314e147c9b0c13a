"""One engine, one process, one run of a prepared job: one row, with the commands that made it.

engines/ knows the engines, their commands and what they leave. What an engine prints is kept in job
folder/logs. An engine that is not there is a row MISSING with the way to get it, one that dies or hangs is
a row FAILED with its last words. Prefill is prompt tokens over the time to the first token; decode is the
steady rate after it, without the tokens a just-in-time compiler held up.

Rates are in tokens per second, times in ms, None where the engine does not say.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.backends.engines import collector
from edgebench.backends.engines.catalogue import engine_of
from edgebench.backends.engines.engine import (
    TAIL_CHARS,
    Asked,
    Command,
    Done,
    Engine,
    Failed,
    Job,
    Missing,
    last_words,
    rows_of_log,
)
from edgebench.shell import lifeline

GRACE_SECONDS = 5.0  # for an engine to give its memory back by itself
JOIN_SECONDS = 5  # a child of the engine may still hold its stderr
LONGEST_LINE = 1 << 16  # bytes; a progress bar has no line ends
# Lines of stderr that llama.cpp's tools write at the very edges of their timed work.
MARK = re.compile(rb"(?:prompt|generation) run 1/1\b|generate: n_ctx|perf\w*_print:|print_timings:")


# --- the run ---


def stamp_lines(child: subprocess.Popen[bytes], err: Path, marks: list[tuple[float, str]]) -> None:
    """Keep what a process says on stderr, and when it said what begins or ends its timed work."""
    assert child.stderr is not None
    with err.open("wb", buffering=0) as kept:
        while line := child.stderr.readline(LONGEST_LINE):
            now_s = time.monotonic()
            kept.write(line)
            if MARK.search(line):
                marks.append((now_s, line.decode("utf-8", "replace").strip()))


def run_command(command: Command, log: Path, timeout_s: float) -> Done:
    """Run it with its output in files; Failed with its last words where it dies or hangs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    marks: list[tuple[float, str]] = []
    with out.open("wb") as stdout:
        try:
            # With all it starts: a hanging engine may have children. Ctrl-C is ours to pass on.
            child = lifeline.start(
                command.argv,
                tree=True,
                env={**os.environ, **command.env},
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
            )
        except OSError as exc:
            raise Failed(f"{command.argv[0]} cannot be started: {exc.strerror}") from exc
        stamping = threading.Thread(target=stamp_lines, args=(child, err, marks), daemon=True)
        stamping.start()
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end within {timeout_s:g} s; raise --timeout; {words_of(err, out)}") from None
        finally:
            lifeline.end(child, GRACE_SECONDS)
            stamping.join(JOIN_SECONDS)
    done = Done(out.read_text(errors="replace"), err.read_text(errors="replace"), log, tuple(marks))
    log.write_text(done.stdout + "\n" + done.stderr, encoding="utf-8")
    if child.returncode:
        raise Failed(f"ended with {child.returncode}: {cause_of(done)}")
    return done


def words_of(*files: Path) -> str:
    return " ".join(one.read_text(errors="replace").strip()[-TAIL_CHARS:] for one in files)


def cause_of(done: Done) -> str:
    """What the reader of logs takes for the cause, else the tail of what it said."""
    told = [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"error"')]
    if told:  # a driver of ours
        return str(told[-1]["error"])
    if failed := collector.cause_in(done.stderr):
        return failed
    row = rows_of_log(done.log)[-1]
    known = row["status"] == "FAILED" and not row["cause"].startswith(("nothing recognised", "the log ends"))
    return str(row["cause"]) if known else last_words(done)


def common_length(first: str, second: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(first), len(second)))


def agreement(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    """Where an answer parts from the reference; by text where an engine gives no ids.

    >>> job = {"reference_ids": [7, 8, 9], "reference_text": "a b c", "reference_ends": [1, 3, 5]}
    >>> [agreement(job, found)["first_difference"] for found in ({"token_ids": [7, 8, 1]}, {"text": "a b x"})]
    [2, 2]
    """
    wanted, ids, text = job["reference_ids"], found.get("token_ids"), found.get("text")
    if ids is not None:
        pairs = list(zip(wanted, ids, strict=False))
        agreed = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
        compared, basis = len(pairs), "tokens"
    elif text is not None:
        # Tools put line ends around an answer that belong to no token.
        reference, said = job["reference_text"], text.strip("\n")
        begin = len(reference) - len(reference.lstrip("\n"))
        common = begin + common_length(reference[begin:], said)
        if common >= len(reference.rstrip("\n")):
            common = len(reference)
        agreed = sum(end <= common for end in job["reference_ends"])
        compared, basis = len(wanted), "text"
    else:
        return {
            "agreed_tokens": None,
            "compared_tokens": None,
            "first_difference": None,
            "margin_logit": None,
            "agreement_by": None,
        }
    margins = job.get("reference_margins") or []
    return {
        "agreed_tokens": agreed, "compared_tokens": compared,
        "first_difference": None if agreed == compared else agreed, "agreement_by": basis,
        "margin_logit": margins[agreed] if agreed < min(compared, len(margins)) else None,
    }  # fmt: skip


ROW: dict[str, Any] = {
    "schema_version": 1, "kind": "backend_run", "engine": None, "backend": None, "device": None,
    "model": None, "quantization": None, "test": "generate", "prompt_tokens": None, "generated_tokens": None,
    "prefill_tok_per_s": None, "prefill_tok_per_s_std": None, "decode_tok_per_s": None,
    "decode_tok_per_s_std": None, "decode_all_tok_per_s": None, "ttft_ms": None, "first_run_ttft_ms": None,
    "tpot_ms": None, "load_ms": None, "n": 1, "warmup_excluded": None, "n_threads": None,
    "n_gpu_layers": None, "flash_attn": None, "build": None, "memory_gb_per_s": None, "weights": None,
    "weight_read_byte": None,
    "kernels_per_token": None, "same_work": True, "status": "ok", "cause": None, "source_file": None,
    "source_line": None, "notes": [], "token_ids": None, "t0_s": None, "t1_s": None, "spans_s": None,
    "warmup": None, "idle": None, "idle_method": None,
}  # fmt: skip


def new_row(job: Job, asked: Asked, engine: Engine) -> dict[str, Any]:
    """A row with what is known before the engine has run."""
    names = ("quantization", "n_threads", "n_gpu_layers", "flash_attn")
    return {
        **ROW, **{name: job[name] for name in names}, "engine": asked.engine, "backend": engine.backend,
        "device": asked.engine.partition(":")[2] or None, "model": job["model_id"], "notes": [],
        "weights": job["quantization"] or "as in the file", "weight_read_byte": job["read_byte_per_token"],
        "model_sha256": job["model_sha256"], "prompt_sha256": job["prompt_sha256"],
        "prompt_format": job["prompt_format"], "asked_tokens": job["max_tokens"], "commands": [],
    }  # fmt: skip


def measure(job: Job, asked: Asked, label: str = "run") -> dict[str, Any]:
    """The row of one run, whatever happens to it. `label` stands in the names of its logs."""
    engine = engine_of(asked.engine)
    row = new_row(job, asked, engine)
    began_s = time.monotonic()
    name = re.sub(r"[^\w.-]+", "-", f"{asked.engine}-{label}")
    try:
        commands = engine.commands(job, asked)
        row["commands"] = [one.shell() for one in commands]
        done = [
            run_command(one, Path(asked.file(f"logs/{name}-{number}.log")), asked.timeout_s)
            for number, one in enumerate(commands)
        ]
        row["source_file"] = str(done[-1].log)
        found = engine.read(job, asked, done)
        row |= {key: value for key, value in found.items() if key in ROW and value is not None}
        row |= agreement(job, found)
        if row["decode_tok_per_s"] is None:
            raise Failed("no steady token is left after the warm-up; raise --max_tokens")
    except Missing as exc:
        row |= {"status": "MISSING", "cause": str(exc)}
    except (Failed, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as exc:
        cause = str(exc) if isinstance(exc, Failed) else f"{type(exc).__name__}: {exc}"
        row |= {"status": "FAILED", "cause": cause}
    row["wall_s"] = time.monotonic() - began_s
    return row
