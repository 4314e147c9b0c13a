"""One engine, one process, one run of a prepared job: one row, with the commands that made it.

commands.py knows the engines and their commands.

What an engine prints is kept in job folder/logs. An engine that is not there is a row MISSING with the way to
get it, one that dies or hangs is a row FAILED with its last words. Prefill is prompt tokens over the time to
the first token; decode is the steady rate after it, without the tokens a just-in-time compiler held up.

Rates are in tokens per second, times in ms, None where the engine does not say.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.backends.commands import BEFORE_RUN_S, Asked, Command, Missing, commands_of
from edgebench.backends.logs.story import parse_path
from edgebench.backends.logs.timings import read_timings
from edgebench.shell import lifeline

GRACE_SECONDS = 5.0  # for an engine to give its memory back by itself
TAIL_CHARS = 400
JOIN_SECONDS = 5  # a child of the engine may still hold its stderr
LONGEST_LINE = 1 << 16  # bytes; a progress bar has no line ends
STEADY_AFTER = 3  # tokens of an answer; fewer leave tinygrad's graph uncaptured
TOKEN_LINE = re.compile(r"^\S*(?: I)?\s+(\d+) -> '", re.M)  # --verbose-prompt, with or without log prefix
COLLECTOR_LINE = re.compile(r" task prompt L0: (.+)")  # a failed run of run_llamacpp_collect.py
# Lines of stderr that llama.cpp's tools write at the very edges of their timed work.
MARK = re.compile(rb"(?:prompt|generation) run 1/1\b|generate: n_ctx|perf\w*_print:|print_timings:")
Job = Mapping[str, Any]


class Failed(Exception):
    """The engine ran and gave no result; the message is its own."""


@dataclass(frozen=True)
class Done:
    """What a finished process left."""

    stdout: str
    stderr: str
    log: Path  # stdout, then stderr
    marks: tuple[tuple[float, str], ...] = ()  # (s of time.monotonic(), line) where a phase begins or ends


# --- results, engine by engine ---


def rows_of_log(log: Path) -> list[dict[str, Any]]:
    """What the reader of logs finds in one."""
    return [asdict(row) for row in parse_path(str(log))]


def log_row(done: Done) -> dict[str, Any]:
    """The last result of a log; its cause as Failed where there is none."""
    rows = rows_of_log(done.log)
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        raise Failed(rows[-1]["cause"])
    return good[-1]


def read_collector(job: Job, asked: Asked, _done: list[Done]) -> dict[str, Any]:
    lines = Path(asked.file("collector.jsonl")).read_text(encoding="utf-8").split("\n")
    record = json.loads([line for line in lines if line][-1])
    if record["error"]:
        raise Failed(record["error"]["message"])
    names = ("prompt_tokens", "prefill_tok_per_s", "decode_tok_per_s", "ttft_ms", "tpot_ms", "load_ms")
    idle = None
    if asked.idle_s:  # the collector waited so long with the model loaded, just before
        until_s = record["t0_s"] - BEFORE_RUN_S
        idle = {"t0_s": until_s - asked.idle_s, "t1_s": until_s}
    return {
        **{name: record[name] for name in (*names, "t0_s", "t1_s")},
        "idle": idle,
        "idle_method": "with the model resident, before the answer",
        "generated_tokens": record["completion_tokens"],
        "text": (record["reasoning_text"] or "") + record["output_text"],
        "notes": [f"offloaded {record['offloaded']} layers"] if record["offloaded"] else [],
    }


def read_bench(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    prompt, answer = (log_row(one) for one in done)
    names = ("device", "build", "n_threads", "n_gpu_layers", "flash_attn", "generated_tokens")
    rate = answer["decode_tok_per_s"]
    begun_s = [next((at_s for at_s, line in one.marks if " run 1/1" in line), None) for one in done]
    took_s = (
        prompt["prompt_tokens"] / prompt["prefill_tok_per_s"],
        answer["generated_tokens"] / rate if rate else 0.0,
    )
    spans_s = [(t0_s, t0_s + s) for t0_s, s in zip(begun_s, took_s, strict=True) if t0_s is not None]
    return {
        "spans_s": spans_s if len(spans_s) == len(done) else None,
        **{name: answer[name] for name in names},
        "prompt_tokens": prompt["prompt_tokens"],
        "prefill_tok_per_s": prompt["prefill_tok_per_s"],
        "decode_tok_per_s": rate,
        "tpot_ms": 1e3 / rate if rate else None,
        "notes": ["decodes random tokens and samples none: no answer to compare, no first token to time"],
    }


def read_completion(job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    row, told = log_row(done[0]), done[0].stderr + done[0].stdout
    read_ids = [int(one) for one in TOKEN_LINE.findall(told)]
    if read_ids and read_ids != job["prompt_ids"]:
        raise Failed(
            f"it read {len(read_ids)} prompt tokens that are not the job's {job['prompt_tokens']};"
            " choose --prompt_format raw"
        )
    names = (
        "device",
        "build",
        "prompt_tokens",
        "prefill_tok_per_s",
        "decode_tok_per_s",
        "ttft_ms",
        "tpot_ms",
    )
    notes = [] if read_ids else ["which prompt tokens it read was not printed"]
    begun_s = next((at_s for at_s, line in done[0].marks if "generate: n_ctx" in line), None)
    # The figures come in one go when the last token is out.
    ended_s = next((at_s for at_s, line in done[0].marks if "print" in line), None)
    return {
        "spans_s": [(begun_s, ended_s)] if begun_s is not None and ended_s is not None else None,
        **{name: row[name] for name in names},
        # The first token is sampled from the prompt's evaluation and is no "run".
        "generated_tokens": (row["generated_tokens"] or 0) + 1,
        "text": done[0].stdout.split(" [end of text]")[0],
        "notes": [*notes, "TTFT without sampling and start-up: the engine's own clock"],
    }


def read_driver(done: Done) -> dict[str, Any]:
    """The answer of a driver: what its stamps mean."""
    answers = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    if not answers or "error" in answers[-1]:
        raise Failed(answers[-1]["error"] if answers else last_words(done))
    told, ttft_ms = answers[-1], (answers[-1]["stamps_s"][0] - answers[-1]["t0_s"]) * 1e3
    first = told["warmup"][0]["ttft_ms"] if told["warmup"] else ttft_ms
    return {
        **told, "ttft_ms": ttft_ms, "prefill_tok_per_s": told["prompt_tokens"] / ttft_ms * 1e3,
        "generated_tokens": len(told["ids"]), "token_ids": told["ids"], "t1_s": told["stamps_s"][-1],
        "idle_method": "with the model resident, after the answer",
        "first_run_ttft_ms": first, **rates(told["stamps_s"]), "notes": [],
    }  # fmt: skip


def rates(stamps_s: Sequence[float]) -> dict[str, Any]:
    """Decode rate over all tokens after the first."""
    steps, took_s = len(stamps_s) - 1, stamps_s[-1] - stamps_s[0]
    if steps < 1 or took_s <= 0:
        return {"decode_tok_per_s": None, "decode_all_tok_per_s": None, "tpot_ms": None}
    rate = steps / took_s
    return {"decode_tok_per_s": rate, "decode_all_tok_per_s": rate, "tpot_ms": 1e3 / rate}


def read_server(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    found = read_driver(done[0])
    found["notes"] = ["the client's clock: HTTP and scheduling included"]
    return found


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


def read_example(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    row = log_row(done[0])
    names = (
        "prefill_tok_per_s",
        "decode_tok_per_s",
        "ttft_ms",
        "tpot_ms",
        "warmup_excluded",
        "generated_tokens",
    )
    model = "GPT-2 124M" if "gpt2" in asked.engine else row["model"] or "LLaMA 3.2 1B"
    return {
        **{name: row[name] for name in names}, "model": model, "quantization": row["quantization"],
        "weights": "as the example loads them", "same_work": False,
        "notes": [*row["notes"], "weights, prompt and length are the example's: not the same work"],
    }  # fmt: skip


@dataclass(frozen=True)
class Runner:
    """How to read an engine's results, and its name in the table."""

    read: Callable[[Job, Asked, list[Done]], dict[str, Any]]
    backend: str


RUNNERS = {
    "llama-cpp-python": Runner(read_collector, "llama-cpp-python"),
    "llama-bench": Runner(read_bench, "llama-bench"),
    "llama-completion": Runner(read_completion, "llama-completion"),
    "llama-server": Runner(read_server, "llama-server"),
    "tinygrad": Runner(read_tinygrad, "tinygrad"),
    "tinygrad-gpt2": Runner(read_example, "tinygrad gpt2.py"),
    "tinygrad-llama3": Runner(read_example, "tinygrad llama3.py"),
}


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
    if failed := COLLECTOR_LINE.findall(done.stderr):
        return str(failed[-1])
    row = rows_of_log(done.log)[-1]
    known = row["status"] == "FAILED" and not row["cause"].startswith(("nothing recognised", "the log ends"))
    return str(row["cause"]) if known else last_words(done)


def last_words(done: Done) -> str:
    """The tail of what it said, errors first; one line."""
    tail = (done.stderr.strip() or done.stdout.strip())[-TAIL_CHARS:]
    return " | ".join(line.strip() for line in tail.splitlines()[-3:] if line.strip()) or "it said nothing"


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


def new_row(job: Job, asked: Asked, runner: Runner) -> dict[str, Any]:
    """A row with what is known before the engine has run."""
    names = ("quantization", "n_threads", "n_gpu_layers", "flash_attn")
    return {
        **ROW, **{name: job[name] for name in names}, "engine": asked.engine, "backend": runner.backend,
        "device": asked.engine.partition(":")[2] or None, "model": job["model_id"], "notes": [],
        "weights": job["quantization"] or "as in the file", "weight_read_byte": job["read_byte_per_token"],
        "model_sha256": job["model_sha256"], "prompt_sha256": job["prompt_sha256"],
        "prompt_format": job["prompt_format"], "asked_tokens": job["max_tokens"], "commands": [],
    }  # fmt: skip


def measure(job: Job, asked: Asked, label: str = "run") -> dict[str, Any]:
    """The row of one run, whatever happens to it. `label` stands in the names of its logs."""
    runner = RUNNERS[asked.engine.partition(":")[0]]
    row = new_row(job, asked, runner)
    began_s = time.monotonic()
    name = re.sub(r"[^\w.-]+", "-", f"{asked.engine}-{label}")
    try:
        commands = commands_of(job, asked)
        row["commands"] = [one.shell() for one in commands]
        done = [
            run_command(one, Path(asked.file(f"logs/{name}-{number}.log")), asked.timeout_s)
            for number, one in enumerate(commands)
        ]
        row["source_file"] = str(done[-1].log)
        found = runner.read(job, asked, done)
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
