#!/usr/bin/env python3
"""Tidy rows -> the samples one model is fitted on: which row may teach which time or energy.

Takes the rows of read_measurements.py and the name of a model as found in them (or a part of it: 8B, Q4_0),
and prints one JSON object: counts (prompt tokens, decode steps), group (cell of repeats), the measured values
per target or null, the targets worth fitting, and where all of it comes from. Left out of energy: rows too
short for their sensor, energies that are no measurement of that request, and energies not above zero (no
relative errors there). A total is fitted by itself only where its phases were not told apart as often.

Example:
    python companions/select_measurements.py --rows rows.jsonl --list
    python companions/select_measurements.py --rows rows.jsonl --model 8B > samples.json
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = {
    "total_ms": ("prefill_ms", "decode_ms"),
    "total_energy_joule": ("prefill_energy_joule", "decode_energy_joule"),
}
TARGETS = (
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "prefill_energy_joule",
    "decode_energy_joule",
    "total_energy_joule",
)
NO_ENERGY = {
    "too_short_for_sensor": "windows too short for their sensor",
    "few_power_samples": "fewer than five power samples in the window",
    "energy_not_per_request": "energies that were not measured per request",
    "power_lost": "the power source died",
    "negative_energy": "less than idle",
    "zero_total": "a sensor that printed 0",
}
# A phase known at this share of the rows or more is fitted, instead of the total.
PHASES_ENOUGH = 2 / 3
UNNAMED = "model"  # what read_measurements.py calls the model of a table without such a column
# Names the model sizes are called by, where more than one name has the size in it.
SHORT_NAMES = {
    "1.5b": "deepseek-r1-distill-qwen-1.5b",
    "8b": "deepseek-r1-distill-llama-8b",
    "14b": "deepseek-r1-distill-qwen-14b",
    "l1max": "l1-qwen-1.5b-max",
}


class SelectError(Exception):
    """Something the user can put right: a name, a file."""


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


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """All measurement rows of a file."""
    if path is None or not path.is_file():
        raise SelectError(f"no such file: {path}; check --rows")
    rows = [record for _, record in read_jsonl(path) if record and record.get("kind") == "measurement"]
    if not rows:
        raise SelectError(f"{path} holds no measurements; read_measurements.py makes them")
    return rows


def find_model(asked: str, names: Sequence[str]) -> str:
    """The one name that is meant: itself, a short name, or the only name that has it as a part.

    >>> find_model("q4_0", ["llama Q4_0", "llama Q6_K"])
    'llama Q4_0'
    """
    folded = {name.casefold(): name for name in names}
    wanted = asked.casefold().replace("_", "-") if asked.casefold() not in folded else asked.casefold()
    for exact in (asked.casefold(), wanted, SHORT_NAMES.get(wanted, "")):
        if exact in folded:
            return folded[exact]
    parts = asked.casefold().split()
    within = [name for fold, name in folded.items() if all(part in fold for part in parts)]
    if len(within) == 1:
        return within[0]
    if within:
        raise SelectError(f"--model {asked} is not one model: {', '.join(within)}; name one of them")
    near = difflib.get_close_matches(asked.casefold(), list(folded), 1, 0.3)
    hint = f"; did you mean {folded[near[0]]}?" if near else "."
    raise SelectError(f"no model {asked}{hint} There are: {', '.join(names)}")


def choose_rows(rows: Sequence[dict[str, Any]], asked: str, board: str | None) -> list[dict[str, Any]]:
    """The rows of one model on one board, energies of one kind."""
    names = sorted({str(row["model"]) for row in rows})
    if names == [UNNAMED] and asked != UNNAMED:
        print(f"the data names no model; all of it is taken to be of {asked}", file=sys.stderr)
        rows, names = [{**row, "model": asked} for row in rows], [asked]
    name = find_model(asked, names)
    mine = [row for row in rows if row["model"] == name]
    boards = sorted({str(row["board"]) for row in mine if row["board"]})
    if board:
        mine = [row for row in mine if row["board"] == board]
        if not mine:
            raise SelectError(
                f"{name} was not measured on {board}; --board takes {', '.join(boards) or 'none'}"
            )
    elif len(boards) > 1:
        raise SelectError(f"{name} was measured on {' and '.join(boards)}; name one with --board")
    unknown = sorted({str(row.get("source")) for row in mine if not row["board"]})
    if unknown and len(unknown) + len(boards) > 1:
        said = f"{', '.join(unknown)} name no board: all rows of {name} are taken to be of one machine"
        print(f"caution: {said}", file=sys.stderr)
    scopes = sorted({str(row["energy_scope"]) for row in mine if may_teach_energy(row)})
    if len(scopes) > 1:
        raise SelectError(
            f"energies of {name} are of different kinds ({'; '.join(scopes)}) and cannot be one model;"
            " give these files apart"
        )
    return mine


def may_teach_energy(row: Mapping[str, Any]) -> bool:
    """Whether the row's energies, if it has any, are measurements of this request."""
    has = any(row[name] is not None for name in TARGETS if "energy" in name)
    return has and not set(row["flags"]) & set(NO_ENERGY)


def measured_value(row: Mapping[str, Any], target: str) -> float | None:
    """The value a fit or an evaluation may use, or None."""
    value = row[target]
    if value is None and target in PARTS:
        parts = [measured_value(row, part) for part in PARTS[target]]
        value = None if None in parts else sum(part for part in parts if part is not None)
    if value is None or value <= 0:
        return None
    if target in ("decode_ms", "decode_energy_joule") and row["decode_steps"] == 0:
        return None
    if "energy" in target and not may_teach_energy(row):
        return None
    if "assumed_input_tokens" in row["flags"] and not target.startswith("decode"):
        return None
    return float(value)


def fitted_targets(measured: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Phases where they were told apart often enough, else the total."""
    known = {target: sum(value is not None for value in values) for target, values in measured.items()}
    wanted = {target for target, times in known.items() if times}
    for total, parts in PARTS.items():
        if min(known[part] for part in parts) >= PHASES_ENOUGH * known[total]:
            wanted.discard(total)
        elif "energy" in total:
            wanted -= set(parts)
    return [target for target in TARGETS if target in wanted]


def make_samples(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The samples file of one model's rows."""
    measured = {target: [measured_value(row, target) for row in rows] for target in TARGETS}
    groups = {name: place for place, name in enumerate(sorted({row["group"] for row in rows}))}
    scopes = sorted({str(row["energy_scope"]) for row in rows if may_teach_energy(row)})
    has_energy = any(value is not None for t, values in measured.items() if "energy" in t for value in values)
    boards = sorted({str(row["board"]) for row in rows if row["board"]})
    files = {str(row["source"]): row.get("source_sha256") for row in rows}
    return {
        "kind": "token2metrics_samples",
        "model": rows[0]["model"],
        "board": boards[0] if boards else None,
        "data": [{"file": name, "sha256": digest} for name, digest in sorted(files.items())],
        "energy_scope": scopes[0] if has_energy and scopes else None,
        "no_energy_reason": None if has_energy else why_no_energy(rows),
        "simulated_power": has_energy and any("simulated_power" in row["flags"] for row in rows),
        "counts": [[row["input_tokens"], row["decode_steps"]] for row in rows],
        "group": [groups[row["group"]] for row in rows],
        "subject": [row.get("subject") for row in rows],
        "row_sha256": [row["row_sha256"] for row in rows],
        "where": [f"{row['source']} row {row['source_row']}" for row in rows],
        "measured": measured,
        "targets": fitted_targets(measured),
    }


def why_no_energy(rows: Sequence[Mapping[str, Any]]) -> str:
    """What keeps all energies of these rows out."""
    having = [row for row in rows if any(row[name] is not None for name in TARGETS if "energy" in name)]
    if not having:
        return "no energy was measured"
    flags = Counter(flag for row in having for flag in row["flags"] if flag in NO_ENERGY)
    return NO_ENERGY[flags.most_common(1)[0][0]] if flags else "no energy above zero"


def list_models(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What can be fitted: one entry per model and board."""
    pairs = Counter((str(row["model"]), row["board"]) for row in rows)
    return [{"model": model, "board": board, "rows": times} for (model, board), times in pairs.items()]


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, metavar="JSONL", help="of read_measurements.py")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--model", metavar="NAME", help="a model's name, or a part that only it has")
    wanted.add_argument("--list", action="store_true", help="print the models there are, one JSON line each")
    wanted.add_argument(
        "--choose", metavar="NAME", help="print which of the names on stdin (JSON list) is meant"
    )
    parser.add_argument("--board", metavar="NAME", help="only rows of this board")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List, or select."""
    args = build_parser().parse_args(argv)
    try:
        if args.choose:
            lines = [json.dumps(find_model(args.choose, json.loads(sys.stdin.read())))]
        elif args.list:
            lines = [json.dumps(entry) for entry in list_models(read_rows(args.rows))]
        else:
            lines = [json.dumps(make_samples(choose_rows(read_rows(args.rows), args.model, args.board)))]
        print("\n".join(lines))
    except (SelectError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
