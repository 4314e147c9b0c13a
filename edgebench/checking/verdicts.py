#!/usr/bin/env python3
"""Can these measurements be true? A table per model and level, then verdicts.

Reads run records (.jsonl or .jsonl.gz) and, for the limits of the board, the
environment records beside them (runs_llamacpp.jsonl -> runs_llamacpp.env.jsonl,
or --env). A record that has only the eight required fields is read too; what
needs a missing field is `?`, with the reason, never a guess. The table is that
of runs_table.py, the tests of a run by itself are those of run_limits.py; both
stand beside this script.

Verdicts, each with the lines of the file it concerns:
  error  a number that physics or the design forbids; the runs must be repeated
  warn   a number to explain before it is published
  ok     looked at, nothing found
  ?      cannot tell, and why
Simulated power is named and not judged.

Exit status 1 if there is an error, else 0.

Example:
  python companions/check_runs.py --runs results/runs_llamacpp.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
import sys
import textwrap
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

SCHEMA_VERSION = 1
WIDTH, ROWS_SHOWN = 80, 12
CAP_SHARE = 0.30  # of runs ended by max_tokens: beyond it, output length measures the cap
TEMP_RISE_C = 10.0
DRIFT_SHARE, DRIFT_ERRORS = 0.05, 3.0  # of the mean, and standard errors it must exceed
REPEAT_SPREAD = 0.10  # standard deviation over mean of one prompt's repeats
PROMPT_SPREAD = 1.5  # longest over shortest prompt: closer ones cannot show growth
SIMULATED = "simulated_power"
SEVERITIES = ("error", "warn", "?", "ok")
NO_RUN = "no finished run"
Rows = Sequence["Run"]
Test = Callable[["Run"], "bool | None"]
Check = Callable[[Rows], "list[Verdict]"]


class CheckRunsError(Exception):
    """What the user can fix."""


@dataclass(frozen=True)
class Run:
    """One record: who it is, and its finite numbers by their names in the record (units in the names)."""

    line: int
    model_id: str
    cell: tuple[str, str, str]  # task, level, turn: runs of one cell answer one prompt
    key: str  # of the run; the same key twice is the same run twice
    order: str  # started_at
    error: str | None
    flags: tuple[str, ...]
    numbers: Mapping[str, float]
    words: Mapping[str, Any]  # everything else
    limits: Mapping[str, Any]  # the line of run_limits.py for it

    def __getitem__(self, name: str) -> float | None:
        return self.numbers.get(name)

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first, as run_limits.py derives it [1/s]."""
        rate: float | None = self.limits.get("decode_tok_per_s")
        return rate


@dataclass(frozen=True)
class Verdict:
    check: str
    severity: str  # error, warn, ok or ?
    message: str
    lines: tuple[int, ...] = ()  # of the runs file


# --- reading ---


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


# Copied from runs_table.mean_std
def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1). No values: (None, None); one value: (mean, None)."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def text(value: Any) -> str:
    return "" if value is None else str(value)


def to_run(line: int, record: Mapping[str, Any], limits: Mapping[str, Any]) -> Run:
    """A record of any version. NaN, Infinity and true, which a JSON reader lets through, are no numbers."""
    numbers = {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    task = next((record[key] for key in ("id", "question_id", "task_id") if record.get(key) is not None), "?")
    cell = (text(task), text(record.get("level")), text(record.get("turn")))
    model, error, flags = text(record.get("model_id")) or "?", record.get("error"), record.get("flags")
    if isinstance(error, Mapping):
        error = error.get("type") or error.get("message") or "error"
    names = [text(record.get(name)) for name in ("repeat", "started_at")]
    return Run(
        line=line,
        model_id=model,
        cell=cell,
        # A record without any of these cannot be told from a repeat: its line is its key.
        key=text(record.get("run_key"))
        or (" ".join([model, *cell, *names]) if any(names) else f"line {line}"),
        order=names[1],
        error=text(error) or None,
        flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
        numbers=numbers,
        words={name: value for name, value in record.items() if name not in numbers},
        limits=limits,
    )


def load_runs(path: Path, limits: Mapping[int, Mapping[str, Any]]) -> tuple[list[Run], list[int]]:
    """The runs to judge, and the numbers of unreadable lines."""
    runs, broken = [], []
    for line, record in read_jsonl(path):
        if record is None:
            broken.append(line)
        else:
            runs.append(to_run(line, record, limits.get(line, {})))
    return select(runs), broken


def select(runs: Rows) -> list[Run]:
    """Runs in the order of their start, without failures that were done again."""
    last = {run.key: run.line for run in runs}
    kept = [run for run in runs if not (run.error and last[run.key] > run.line)]
    # RFC 3339 in UTC sorts as text; records without a start keep the order of the file.
    return sorted(kept, key=lambda run: run.order)


def load_anchors(runs_path: Path) -> list[Run]:
    """The collector's anchor runs (one prompt, again and again) from OUT.anchors.jsonl, [] without it."""
    stem = runs_path.name.removesuffix(".gz").removesuffix(".jsonl")
    path = runs_path.with_name(f"{stem}.anchors.jsonl")
    records = [(line, record) for line, record in read_jsonl(path) if record] if path.exists() else []
    # Their decode rate is their own: they have no limits, and no minimal form that lacks it.
    return select([to_run(line, record, record) for line, record in records])


def ask(script: str, arguments: Sequence[str]) -> str:
    """What another script beside this one prints; its own `error:` is passed on."""
    child = subprocess.run([*room_command(script), *arguments], capture_output=True, text=True, timeout=600)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"{script} failed"])[-1]
        raise CheckRunsError(reason.removeprefix("error: "))
    return child.stdout.rstrip()


# --- checks: runs in, verdicts out ---


def judge_each(name: str, severity: str, rows: Rows, test: Test, message: str, why: str) -> Verdict:
    """One verdict from a test of each run: True when the run is at fault, None when it cannot be told."""
    answers = [(run, test(run)) for run in rows]
    judged = sum(answer is not None for _, answer in answers)
    found = tuple(run.line for run, answer in answers if answer)
    if found:
        return Verdict(name, severity, f"{len(found)} of {judged} runs: {message}", found)
    return Verdict(name, "ok", f"{judged} runs") if judged else Verdict(name, "?", why)


def good(runs: Rows) -> list[Run]:
    return [run for run in runs if not run.error]


def grouped(runs: Rows, key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return groups


def check_failed(runs: Rows) -> list[Verdict]:
    kinds = Counter(run.error for run in runs if run.error).most_common(3)
    message = (
        f"failed ({', '.join(f'{kind} x {count}' for kind, count in kinds)}); collect with --retry_errors"
    )
    return [
        judge_each("failed runs", "error", runs, lambda run: bool(run.error), message, "no run in the file")
    ]


def check_duplicates(runs: Rows) -> list[Verdict]:
    first: dict[str, int] = {}
    for run in good(runs):
        first.setdefault(run.key, run.line)
    message = "the same run is in the file twice"
    return [judge_each("duplicates", "error", good(runs), lambda r: first[r.key] != r.line, message, NO_RUN)]


def look_up(fault_of: Mapping[int, bool | None], run: Run) -> bool | None:
    return fault_of[run.line]


def check_each_run(runs: Rows) -> list[Verdict]:
    """What run_limits.py found in each run by itself, one verdict per test."""
    verdicts = []
    answers = [(run, test) for run in good(runs) for test in run.limits.get("tests", ())]
    for name in dict.fromkeys(test["check"] for _, test in answers):
        mine = {run.line: test for run, test in answers if test["check"] == name}
        rows = [run for run in runs if run.line in mine]
        faults = [test for test in mine.values() if test["fault"]]
        why = Counter(test["message"] for test in mine.values()).most_common(1)[0][0]
        severity, message = (faults[0]["severity"], faults[0]["message"]) if faults else ("ok", "")
        fault_of = {line: test["fault"] for line, test in mine.items()}
        verdicts.append(judge_each(name, severity, rows, partial(look_up, fault_of), message, why))
    return verdicts


def check_prompt_length(runs: Rows) -> list[Verdict]:
    """One prompt has one length in every repeat (a second turn contains the first answer, so not there)."""
    rows = [run for run in good(runs) if run.cell[2] in ("", "1") and run["prompt_tokens"]]
    cells = grouped(rows, lambda run: (run.model_id, run.cell))
    wrong = {key for key, cell in cells.items() if len({run["prompt_tokens"] for run in cell}) > 1}
    repeated = [run for cell in cells.values() if len(cell) > 1 for run in cell]
    message = "repeats of one prompt differ in prompt_tokens: prompts or template changed meanwhile"
    why = "no prompt was run twice"
    return [
        judge_each("prompt length", "error", repeated, lambda r: (r.model_id, r.cell) in wrong, message, why)
    ]


def check_output_cap(runs: Rows) -> list[Verdict]:
    """Cells of model and level where the cap, not the model, ends the answers."""

    def capped(run: Run) -> bool | None:
        if run.words.get("finish_reason") is not None:
            return bool(run.words["finish_reason"] == "length")
        cap, tokens = run["max_tokens"], run["completion_tokens"]
        return None if cap is None or tokens is None else tokens >= cap

    rows = [run for run in good(runs) if capped(run) is not None]
    cells = grouped(rows, lambda run: (run.model_id, run.cell[1]))
    full = {key for key, cell in cells.items() if sum(map(bool, map(capped, cell))) >= CAP_SHARE * len(cell)}
    where = ", ".join(sorted({f"{model} {level}" for model, level in full})[:4])
    message = f"cut off at max_tokens, as {CAP_SHARE:.0%} or more are of {where}: raise --max_tokens"
    why = "the records have neither finish_reason nor max_tokens"
    at_fault: Test = lambda run: bool(capped(run)) and (run.model_id, run.cell[1]) in full  # noqa: E731
    return [judge_each("output cap", "warn", rows, at_fault, message, why)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; x must not be constant.

    >>> slope([(1, 10), (2, 12), (3, 14)])
    2.0
    """
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def check_ttft(runs: Rows) -> list[Verdict]:
    """TTFT must grow with the prompt: least-squares slope of TTFT over prompt tokens, per model."""
    verdicts = []
    for model, rows in grouped(good(runs), lambda run: run.model_id).items():
        points = [(run["prompt_tokens"], run["ttft_ms"]) for run in rows]
        known = [(tokens, ttft) for tokens, ttft in points if tokens and ttft]
        lengths = [tokens for tokens, _ in known]
        if len(known) < 4 or max(lengths) < PROMPT_SPREAD * min(lengths):
            why = "too few or too similar prompt lengths" if known else "the records have no ttft_ms"
            verdicts.append(Verdict("TTFT", "?", f"{model}: {why}"))
        # A fast GPU's TTFT may hardly grow, but it never falls.
        elif (growth := slope(known)) <= 0:
            message = f"{model}: TTFT does not grow with the prompt: was it cached?"
            verdicts.append(Verdict("TTFT", "warn", message, tuple(run.line for run in rows)))
        else:
            verdicts.append(Verdict("TTFT", "ok", f"{model}: {growth:.3g} ms for each prompt token"))
    return verdicts or [Verdict("TTFT", "?", NO_RUN)]


def check_drift(runs: Rows) -> list[Verdict]:
    """Time per token in the last third of the campaign against the first, each run over its own cell's mean.

    Cells are repeats of one prompt, or where there are none the runs of one level.
    """
    verdicts = []
    for model, rows in grouped(
        [run for run in good(runs) if run.decode_rate], lambda run: run.model_id
    ).items():
        cells = grouped(rows, lambda run: run.cell)
        if all(len(cell) == 1 for cell in cells.values()):
            cells = grouped(rows, lambda run: run.cell[1])
        relative: dict[int, float] = {}
        for cell in (cell for cell in cells.values() if len(cell) > 1):
            mean = sum(1 / (run.decode_rate or 1) for run in cell) / len(cell)
            relative |= {run.line: 1 / (run.decode_rate or 1) / mean for run in cell}
        ratios = [relative[run.line] for run in rows if run.line in relative]
        verdicts.append(drift_verdict(model, ratios, tuple(run.line for run in rows)))
    return verdicts or [Verdict("drift", "?", "the records have no decode rate")]


def anchor_drift(anchors: Rows) -> list[Verdict]:
    """The same of the anchor runs, whose lines are those of their own file."""
    found = [v for v in check_drift(anchors) if v.severity != "?"] if anchors else []
    return [Verdict("drift of anchors", v.severity, v.message) for v in found]


def drift_verdict(model: str, ratios: Sequence[float], lines: tuple[int, ...]) -> Verdict:
    third = len(ratios) // 3
    if third < 3:
        return Verdict("drift", "?", f"{model}: too few comparable runs")
    (first, spread0), (last, spread1) = mean_std(ratios[:third]), mean_std(ratios[-third:])
    change = (last or 0) - (first or 0)
    # Standard error of the difference of two means of `third` runs each.
    noise = math.hypot(spread0 or 0, spread1 or 0) / math.sqrt(third)
    message = f"{model}: time per token {100 * change:+.1f} % from the first to the last third"
    if abs(change) > DRIFT_SHARE and abs(change) > DRIFT_ERRORS * noise:
        return Verdict("drift", "warn", message, lines)
    return Verdict("drift", "ok", message)


def check_temperature(runs: Rows) -> list[Verdict]:
    """Start temperatures of one model's runs: a warm board leaks more power and may throttle."""
    coolest: dict[str, float] = {}
    for run in good(runs):
        if (temp := run["temp_start_c"]) is not None:
            coolest[run.model_id] = min(temp, coolest.get(run.model_id, temp))

    def warm(run: Run) -> bool | None:
        temp = run["temp_start_c"]
        return None if temp is None else temp > coolest[run.model_id] + TEMP_RISE_C

    message = f"started more than {TEMP_RISE_C:.0f} C above the model's coolest run: add --cooldown"
    return [judge_each("temperature", "warn", good(runs), warm, message, "the records have no temp_start_c")]


def check_repeats(runs: Rows) -> list[Verdict]:
    """Repeats with equal output differ by noise alone: standard deviation of the latency over its mean."""
    rows = [run for run in good(runs) if run["latency_ms"]]
    cells = grouped(rows, lambda run: (run.model_id, run.cell, run["completion_tokens"])).values()
    repeated = [cell for cell in cells if len(cell) > 1]
    loose = set()
    for cell in repeated:
        mean, std = mean_std([run["latency_ms"] or 0 for run in cell])
        loose |= {run.line for run in cell if mean and std and std >= REPEAT_SPREAD * mean}
    message = f"latency of equal repeats spreads by {REPEAT_SPREAD:.0%} of its mean or more"
    flat = [run for cell in repeated for run in cell]
    return [
        judge_each("repeats", "warn", flat, lambda run: run.line in loose, message, "no run was repeated")
    ]


def check_environment(runs: Rows) -> list[Verdict]:
    """One table must not mix power modes, engines or model files."""
    known = [env for run in runs if (env := run.limits.get("env"))]
    values: dict[str, set[str]] = defaultdict(set)
    for env in known:
        for name, value in env.items():
            values[name].add(text(value)[:24])
    mixed = [
        f"{name} ({', '.join(sorted(found))})" for name, found in values.items() if len(found - {""}) > 1
    ]
    if mixed:
        return [Verdict("one environment", "warn", f"the runs mix {'; '.join(mixed)}")]
    fine = Verdict("one environment", "ok", f"{len(known)} runs")
    return [fine if known else Verdict("one environment", "?", "no environment record")]


CHECKS: tuple[Check, ...] = (
    check_failed, check_duplicates, check_each_run, check_prompt_length, check_output_cap,
    check_ttft, check_drift, check_temperature, check_repeats, check_environment,
)  # fmt: skip


def judge(runs: Rows, broken: Sequence[int], anchors: Rows = ()) -> list[Verdict]:
    """All verdicts, errors first."""
    verdicts = [verdict for check in CHECKS for verdict in check(runs)] + anchor_drift(anchors)
    if broken:
        message = f"{len(broken)} lines are no JSON object; the collector heals a torn last line"
        verdicts.append(Verdict("unreadable lines", "warn", message, tuple(broken)))
    if any(SIMULATED in run.flags for run in runs):
        verdicts.append(Verdict("simulated power", "warn", "energy here is simulated: not a measurement"))
    return sorted(verdicts, key=lambda verdict: SEVERITIES.index(verdict.severity))


# --- output ---


def format_verdict(verdict: Verdict) -> str:
    shown = ", ".join(map(str, verdict.lines[:ROWS_SHOWN])) + (
        ", ..." if len(verdict.lines) > ROWS_SHOWN else ""
    )
    message = f"{verdict.check}: {verdict.message}" + (f" [lines {shown}]" if shown else "")
    lines = textwrap.wrap(message, WIDTH - 7, break_on_hyphens=False)
    return "\n".join([f"{verdict.severity:5}  {lines[0]}"] + ["       " + line for line in lines[1:]])


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, type=Path, metavar="JSONL", help="run records")
    parser.add_argument(
        "--env", type=Path, metavar="JSONL", help="environment records (default: beside the runs)"
    )
    parser.add_argument("--json", action="store_true", help="table, verdicts and counts as one JSON line")
    return parser


def make_report(args: argparse.Namespace) -> dict[str, Any]:
    """The JSON report; `table` is the printed text instead of rows unless --json asks for it."""
    where = ["--runs", str(args.runs)]
    answers = ask("edgebench.checking.limits", [*where, *(["--env", str(args.env)] if args.env else [])])
    table = ask("edgebench.checking.table", [*where, *(["--json"] if args.json else [])])
    limits = {line["line"]: line for line in map(json.loads, answers.splitlines())}
    runs, broken = load_runs(args.runs, limits)
    verdicts = judge(runs, broken, load_anchors(args.runs))
    counts = Counter(verdict.severity for verdict in verdicts)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": str(args.runs),
        "n_runs": len(runs),
        "flags": dict(Counter(flag for run in runs for flag in run.flags).most_common()),
        "counts": {severity: counts[severity] for severity in SEVERITIES},
        "table": json.loads(table) if args.json else table,
        "verdicts": verdicts,
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = make_report(args)
    except (CheckRunsError, OSError, EOFError, zlib.error, subprocess.TimeoutExpired) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({**report, "verdicts": [asdict(verdict) for verdict in report["verdicts"]]}))
    else:
        print(report["table"], *map(format_verdict, report["verdicts"]), sep="\n")
        print(f"flags: {counted(report['flags'])}\nverdicts: {counted(report['counts'])}")
    return 1 if report["counts"]["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
