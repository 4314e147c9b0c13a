"""One reading of a runs file and what stands beside it: the runs to judge, their environments, the anchors.

A record of any version is read; one that has only the eight required fields, too. What is missing stays
missing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.checking.limits import Limits, is_number, limits_of
from edgebench.errors import UserError
from edgebench.records.jsonl import UNREADABLE, read_jsonl, reason_of, what_it_is
from edgebench.records.run import NUMBER_FIELDS, as_number, campaign_seconds, flags_of, task_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One record: who it is, and its finite numbers by their names in the record (units in the names)."""

    line: int
    place: int  # in the file; a line may hold several records
    model_id: str
    cell: tuple[str, str, str]  # task, level, turn: runs of one cell answer one prompt
    key: str  # of the run; the same key twice is the same run twice
    error: str | None
    flags: tuple[str, ...]
    numbers: Mapping[str, float]
    words: Mapping[str, Any]  # everything else
    limits: Limits
    as_text: tuple[str, ...] = ()  # numbers that stand as text in the record

    def __getitem__(self, name: str) -> float | None:
        return self.numbers.get(name)

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first, as limits.py derives it [1/s]."""
        return self.limits.decode_tok_per_s


Rows = Sequence[Run]


@dataclass(frozen=True)
class RunsFile:
    """What a runs file holds, read once."""

    path: Path
    records: list[Record]  # all that are records
    runs: list[Run]  # in the order of time, without failures that were done again
    broken: list[int]  # numbers of lines that are no JSON object
    glued: list[int]  # of lines that hold several records
    anchors: list[Run]  # of OUT.anchors.jsonl: one prompt, again and again


def read_runs_file(path: Path, env_path: Path | None = None) -> RunsFile:
    """Read a runs file, its environments (beside it, or env_path) and anchors; UserError where that fails."""
    glued: list[int] = []
    try:
        lines = list(read_jsonl(path, glued))
    except UNREADABLE as problem:
        raise UserError(f"{path}: {reason_of(problem)}; --runs names the collector's output file") from None
    envs = read_environments(path, env_path)
    numbered = [(line, record) for line, record in lines if record is not None]
    if lines and not numbered:
        raise UserError(f"no run record in {path}: it {what_it_is(path)}; --runs wants a record a line")
    return RunsFile(
        path=path,
        records=[record for _, record in numbered],
        runs=select(
            [
                to_run(line, record, limits_of(record, envs), place)
                for place, (line, record) in enumerate(numbered)
            ]
        ),
        broken=[line for line, record in lines if record is None],
        glued=glued,
        anchors=read_anchors(path),
    )


def beside(runs_path: Path, kind: str) -> Path:
    """A file beside the runs: runs_llamacpp.jsonl.gz -> runs_llamacpp.KIND.jsonl."""
    stem = runs_path.name.removesuffix(".gz").removesuffix(".jsonl")
    return runs_path.with_name(f"{stem}.{kind}.jsonl")


def read_environments(runs_path: Path, env_path: Path | None) -> dict[str, Record]:
    """Environment records by env_id; {} when none stands beside the runs and none was asked for."""
    path = env_path or beside(runs_path, "env")
    if env_path is None and not path.exists():
        return {}
    try:
        return {str(env.get("env_id")): env for _, env in read_jsonl(path) if env is not None}
    except UNREADABLE as problem:
        raise UserError(f"{path}: {reason_of(problem)}; see --env") from None


def read_anchors(runs_path: Path) -> list[Run]:
    """The collector's anchor runs; [] without them."""
    path = beside(runs_path, "anchors")
    if not path.exists():
        return []
    # Their decode rate is their own: they have no limits, and no minimal form that lacks it.
    runs = []
    for place, (line, record) in enumerate(read_jsonl(path)):
        if record is not None:
            run = to_run(line, record, Limits(), place)
            runs.append(to_run(line, record, Limits(decode_tok_per_s=run["decode_tok_per_s"]), place))
    return select(runs)


def to_run(line: int, record: Record, limits: Limits, place: int) -> Run:
    """A record of any version, the place-th of its file.

    NaN, Infinity and true, which a JSON reader lets through, are no numbers.
    """
    numbers = {name: float(value) for name, value in record.items() if is_number(value)}
    as_text = numbers_in_text(record)
    task = task_of(record)
    cell = ("?" if task is None else text(task), text(record.get("level")), text(record.get("turn")))
    model, error = text(record.get("model_id")) or "?", record.get("error")
    if isinstance(error, Mapping):
        error = error.get("type") or error.get("message") or "error"
    names = [text(record.get(name)) for name in ("repeat", "started_at")]
    key = text(record.get("run_key"))
    if not key:
        # A record without any of these cannot be told from a repeat: its place is its key.
        key = " ".join([model, *cell, *names]) if any(names) else f"record {place}"
    return Run(
        line=line,
        place=place,
        model_id=model,
        cell=cell,
        key=key,
        error=text(error) or None,
        flags=tuple(flags_of(record)),
        numbers=numbers | as_text,
        words={name: value for name, value in record.items() if name not in (numbers | as_text)},
        limits=limits,
        as_text=tuple(as_text),
    )


def numbers_in_text(record: Record) -> dict[str, float]:
    """The numbers that a program wrote as text, by their field."""
    texts = {name: record[name] for name in NUMBER_FIELDS if isinstance(record.get(name), str)}
    found = {name: as_number(value) for name, value in texts.items()}
    return {name: number for name, number in found.items() if number is not None}


def text(value: Any) -> str:
    """A value as a word; "" for none."""
    return "" if value is None else str(value)


def select(runs: Rows) -> list[Run]:
    """Runs in the order of time, without failures that were done again."""
    last = {run.key: run for run in runs}
    return in_order_of_time([run for run in runs if not (run.error and last[run.key] is not run)])


def in_order_of_time(runs: Rows) -> list[Run]:
    """As the file has them: the collector appends. A file that was sorted is put right by the stamps."""
    times_s: list[float] = []
    stamps_s, latencies_ms = [run["t0_s"] for run in runs], [run["latency_ms"] for run in runs]
    for time_s in campaign_seconds(stamps_s, latencies_ms):
        if time_s is None:  # it failed before it began: it stays with the run before it
            time_s = times_s[-1] if times_s else -math.inf
        times_s.append(time_s)
    return [runs[index] for index in sorted(range(len(runs)), key=lambda index: times_s[index])]


def good(runs: Rows) -> list[Run]:
    """Those that did not fail."""
    return [run for run in runs if not run.error]


def grouped(runs: Rows, key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    """Runs by a key, in the order in which the keys appear."""
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return groups


def blocks(runs: Rows) -> Iterator[list[Run]]:
    """Successive runs of one model that were measured with one idle baseline."""
    block: list[Run] = []
    for run in runs:
        if block and (run.model_id, run["idle_mw"]) != (block[0].model_id, block[0]["idle_mw"]):
            yield block
            block = []
        block.append(run)
    if block:
        yield block
