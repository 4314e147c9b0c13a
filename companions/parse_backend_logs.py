#!/usr/bin/env python3
"""Results out of LLM engines' logs: a row per result, FAILED with its cause.

Reads the logs of tinygrad (--timing, --benchmark), of llama.cpp's tools and
server and of Ollama (--verbose), and llama-bench's tables in all formats;
finds out what failed, and why. Progress bars, escape codes, carriage returns,
NULs, broken text, gzip and several runs in one file are no obstacle. Of a file
beyond --max_mb only the beginning and the end are read, and its rows say so.
Tokens that a just-in-time compiler slowed down are kept out of the decode
figures; the notes of a row state the rule and the count.

Output: JSON lines with --json or --out, else a table. Rates in tokens per
second, times in ms, null where the log does not say. Exit 1 if no file gave a
result.

Example:
    python companions/parse_backend_logs.py results/*.log
    python companions/parse_backend_logs.py run_nv.log bench.md.gz \\
        --out results/backend_rows.jsonl
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.backends.logs.rows import table
from edgebench.backends.logs.story import parse_path
from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of, write_whole
from edgebench.shell.door import Parser, at_least, open_door


def write_rows(path: Path, text: str) -> None:
    """The rows into a file, in a folder that is made for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {reason_of(problem)}; give --out a path in a folder you may write"
        ) from problem


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", metavar="LOG", nargs="+", help="log files, .gz too; - for stdin")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines instead of a table")
    parser.add_argument("--out", metavar="ROWS.jsonl", type=Path, help="write the rows there as JSON lines")
    parser.add_argument("--device", help="device of rows whose log does not name it, e.g. CUDA")
    parser.add_argument("--model", help="model of rows whose log does not name it")
    parser.add_argument(
        "--max_mb", type=at_least(2), default=256, help="MB of a log to read at most (default %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Read the logs, say what is in them; 1 if none gave a result."""
    rows = [row for path in args.logs for row in parse_path(path, args.max_mb << 20)]
    rows = [replace(row, device=row.device or args.device, model=row.model or args.model) for row in rows]
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    if args.out:
        write_rows(args.out, lines)
    if args.json:
        sys.stdout.write(lines)
    elif not args.out:
        print("\n".join(table(rows)))
    if any(row.status == "ok" for row in rows):
        return 0
    print("error: no log gave a result; the rows say why", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    args = build_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        return run(args)
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    open_door(main)
