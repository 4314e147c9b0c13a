#!/usr/bin/env python3
"""Which runs count: reads run records of one or several boards and writes one clean table of those that do.

campaign.py beside this room reads the files and decides: runs with an error or a hard flag are out,
of two records with one run_key the last good one counts, and different experiments are not mixed. This room
makes of that a table of numbers for statistics, and lists and counts what is left out. Memory stays the same
for any number of runs, but for the list of those left out.

Output: a table (CSV, one row per run that counts: ms, J, tokens; empty is missing) and a selection (JSON:
inputs with hashes, models, counts, flags, runs left out). levels.py calls it first.

Example:
    python edgebench/__main__.py edgebench.analysis.selection --runs results/runs_llamacpp.jsonl \\
        --table results/runs_table.csv \\
        --out results/selection.json
"""

import argparse
import csv
import json
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.analysis import campaign
from edgebench.analysis.campaign import Request
from edgebench.errors import UserError
from edgebench.records.jsonl import read_jsonl
from edgebench.records.run import as_number, task_of

NUMBERS = (
    "prompt_tokens",
    "completion_tokens",
    "latency_ms",
    "energy_joule",
    "ttft_ms",
    "energy_prefill_joule",
    "energy_decode_joule",
    "decode_tok_per_s",
    "tpot_ms",
)
MAY_BE_NEGATIVE = {"energy_joule", "energy_prefill_joule", "energy_decode_joule"}  # net of idle, not clamped
# t_s is the monotonic stamp: it begins anew at a reboot, see records/run.py: campaign_seconds.
TABLE = ("group", "id", "turn", "level", "repeat", "t_s", *NUMBERS)
FACTS = ("power_scope", "power_source", "power_mode", "quantization")
Group = tuple[str, str]  # board ("" is unknown), model_id


class SelectError(UserError):
    """Something the user can put right: a missing file, runs that must not be averaged together."""


@dataclass
class Seen:
    """What is counted while the runs stream by."""

    cells: dict[Group, Counter[tuple[str, str, str]]] = field(default_factory=dict)  # used runs by task...
    flags: Counter[tuple[Group, str]] = field(default_factory=Counter)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    used: int = 0


# --- one run ---


def finite(value: Any, negative: bool) -> float | None:
    """A finite number, or None: a word, a NaN, a negative time or count is not a measurement."""
    number = as_number(value)
    return number if number is not None and (negative or number >= 0) else None


def table_row(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """The row of TABLE, without the group."""
    numbers = (finite(run.get(name), name in MAY_BE_NEGATIVE) for name in NUMBERS)
    # Python 3.10's csv cannot write a NUL.
    names = (str(name).replace("\0", "\\0") for name in (task_of(run), run.get("turn") or 1, run["level"]))
    return (*names, run.get("repeat"), finite(run.get("t0_s"), negative=False), *numbers)


# --- files ---


def gather(request: Request, out: Path) -> None:
    """Read the files and decide which runs count."""
    try:
        campaign.gather(request, out)
    except (OSError, EOFError, zlib.error) as exc:
        raise SelectError(str(exc)) from exc


def write_table(
    path: Path, runs: Iterator[Mapping[str, Any]], place: Mapping[Group, int], every: bool
) -> Seen:
    """The clean table of the runs that count (or of every run), full precision, empty is missing; and what
    was seen on the way.
    """
    seen = Seen(cells={group: Counter() for group in place})
    # A lone surrogate in a name is no UTF-8: it is written as its escape.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
        table = csv.writer(out)
        table.writerow(TABLE)
        for run in runs:
            group, row = (run["board"], str(run["model_id"])), table_row(run)
            seen.flags.update((group, flag) for flag in run["flags"])
            if run["left_out"]:
                named = {"board": group[0] or None, "model_id": group[1], "level": row[2], "id": row[0]}
                repeat = None if row[3] is None else str(row[3])
                seen.left_out.append(named | {"repeat": repeat, "why": run["left_out"]})
            if every or not run["left_out"]:
                seen.cells[group][row[0], row[1], row[2]] += 1
                seen.used += 1
                table.writerow((place[group], *row))
    return seen


# --- the selection ---


def model_row(facts: Mapping[str, Any], cells: Counter[tuple[str, str, str]]) -> dict[str, Any]:
    """One board and model; the row's place is the `group` of the table."""
    row: dict[str, Any] = {"board": facts["board"] or None, "model_id": facts["model_id"]}
    row |= {name: "+".join(facts[name]) or None for name in (*FACTS, "model_sha256")}
    row |= {"runs": cells.total(), "tasks": len({task for task, _, _ in cells})}
    return row | {"simulated_power": "yes" in facts["simulated_power"], "repeats_max": max(cells.values())}


def selection(head: Mapping[str, Any], models: Sequence[Mapping[str, Any]], seen: Seen) -> dict[str, Any]:
    """What was read, what counts and what does not."""
    errors = sum(row["why"].startswith("error: ") for row in seen.left_out)
    counts = {"records": sum(row.get("records", 0) for row in head["inputs"]), "used": seen.used}
    counts |= {"errors": errors, "hard_flags": len(seen.left_out) - errors, **head["counts"]}
    flags = [
        {
            "board": board or None,
            "model_id": model,
            "flag": flag,
            "runs": n,
            "hard": flag in head["hard_flags"],
        }
        for ((board, model), flag), n in sorted(seen.flags.items())
    ]
    left_out = sorted(seen.left_out, key=lambda row: [str(value) for value in row.values()])
    return {
        "inputs": head["inputs"],
        "counts": counts,
        "mixed": head["mixed"],
        "flags": flags,
        "left_out": left_out,
        "models": [model_row(facts, seen.cells[facts["board"], facts["model_id"]]) for facts in models],
    }


def select(request: Request, table: Path, include_flagged: bool = False) -> dict[str, Any]:
    """Write the clean table and return the selection. Raises UserError, OSError."""
    with tempfile.TemporaryDirectory() as room:
        gathered = Path(room) / "gathered.jsonl"
        gather(request, gathered)
        lines = (record for _, record in read_jsonl(gathered) if record)
        head = next(lines)
        models = [facts for facts in head["models"] if include_flagged or facts["in_means"]]
        place = {(facts["board"], facts["model_id"]): number for number, facts in enumerate(models)}
        seen = write_table(table, lines, place, include_flagged)
    return selection(head, models, seen)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", required=True, help="run records: files, .gz files, globs")
    parser.add_argument("--env", nargs="*", type=Path, default=[], help="environment records elsewhere")
    parser.add_argument("--include_flagged", action="store_true", help="keep runs with errors or hard flags")
    parser.add_argument("--allow_mixed", action="store_true", help="average over different conditions")
    parser.add_argument("--table", type=Path, required=True, help="the table to write (CSV)")
    parser.add_argument("--out", type=Path, required=True, help="the selection to write (JSON)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        request = Request(args.runs, args.env, allow_mixed=args.allow_mixed)
        chosen = select(request, args.table, args.include_flagged)
        args.out.write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: {exc.filename or args.out}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
