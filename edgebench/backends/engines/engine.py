"""What an engine is here: the commands that make it do a prepared job, and how their output is read.

An engine that is not on this machine raises Missing, with the way to get it; one that ran and gave no result
raises Failed, with its own words.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebench.backends.logs.story import parse_path

ASK_SECONDS = 60
SETTLE_S = 1.0  # after loading or an answer, before idle power means anything
TAIL_CHARS = 400
Job = Mapping[str, Any]


class Missing(Exception):
    """The engine is not on this machine; the message says how to get it."""


class Failed(Exception):
    """The engine ran and gave no result; the message is its own."""


@dataclass(frozen=True)
class Asked:
    """One engine, and where its parts are."""

    engine: str  # a name of COMMANDS, with :DEVICE where it takes one
    work: Path  # the job's folder
    warmup: int = 2  # answers of a driver inside its process, before the timed one
    timeout_s: float = 900.0
    idle_s: float = 0.0  # s to sit still with the model resident, where the engine can be told to
    llama_bin: Path | None = None  # folder of llama.cpp's programs; None: PATH
    tinygrad_python: str | None = None  # a Python that has tinygrad; None: this one
    tinygrad_dir: Path | None = None  # a checkout of tinygrad

    def file(self, name: str) -> str:
        """The path of one of the job's files."""
        return str(self.work.resolve() / name)


@dataclass(frozen=True)
class Command:
    """One process to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # beyond the caller's
    cwd: Path | None = None

    def shell(self) -> str:
        """The line that does the same in a terminal."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        line = " ".join([*words, shlex.join(self.argv)])
        return f"cd {shlex.quote(str(self.cwd))} && {line}" if self.cwd else line


@dataclass(frozen=True)
class Done:
    """What a finished process left."""

    stdout: str
    stderr: str
    log: Path  # stdout, then stderr
    marks: tuple[tuple[float, str], ...] = ()  # (s of time.monotonic(), line) where a phase begins or ends


@dataclass(frozen=True)
class Engine:
    """One engine: how it is started, how it is read, and its name in the table."""

    backend: str
    commands: Callable[[Job, Asked], list[Command]]  # raises Missing, OSError, subprocess.TimeoutExpired
    read: Callable[[Job, Asked, list[Done]], dict[str, Any]]  # raises Failed
    idles_by_itself: bool = False  # can be told to sit still with its model resident


def device_of(engine: str) -> str | None:
    return engine.partition(":")[2] or None


def idle_flag(asked: Asked) -> list[str]:
    """For a driver: sit still, the model resident, once the timed answer is out."""
    return ["--idle_seconds", f"{asked.idle_s:g}"] if asked.idle_s else []


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


def last_words(done: Done) -> str:
    """The tail of what it said, errors first; one line."""
    tail = (done.stderr.strip() or done.stdout.strip())[-TAIL_CHARS:]
    return " | ".join(line.strip() for line in tail.splitlines()[-3:] if line.strip()) or "it said nothing"


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
