#!/usr/bin/env python3
"""Can these measurements be true? A table per model and level, then verdicts.

Reads run records (.jsonl or .jsonl.gz) and, for the limits of the board, the
environment records beside them (runs_llamacpp.jsonl -> runs_llamacpp.env.jsonl,
or --env). A record that has only the eight required fields is read too; what
needs a missing field is `?`, with the reason, never a guess.

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

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.checking.report import check_runs
from edgebench.errors import UserError
from edgebench.shell.door import Parser, open_door


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, type=Path, metavar="JSONL", help="run records")
    parser.add_argument(
        "--env", type=Path, metavar="JSONL", help="environment records (default: beside the runs)"
    )
    parser.add_argument("--json", action="store_true", help="table, verdicts and counts as one JSON line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs once, hold them against each other and against physics, say what was found."""
    args = build_parser().parse_args(argv)
    try:
        report = check_runs(args.runs, args.env)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    print(json.dumps(report.as_json()) if args.json else report.as_text())
    return report.exit_code


if __name__ == "__main__":
    open_door(main)
