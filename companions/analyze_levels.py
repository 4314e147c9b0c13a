#!/usr/bin/env python3
"""What the longer prompt bought, and what it cost: a campaign's statistics.

Levels are compared within the same task: differences are taken task by task,
intervals are over tasks (never rows) and hold what they claim or are left out,
and p values are adjusted over the family of tests. Reads run records of one or
several boards and, if given, the judge's scores; what cannot be known is null
with a reason.

Output: analysis.json (ms, J, tokens, shares 0-1; same input, same bytes) and
the answer as text on stdout.

Example:
    python companions/analyze_levels.py --runs results/runs_llamacpp.jsonl \\
        --scores results/scores_mtbench.csv --out results/analysis.json
"""

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError
from edgebench.shell.door import Parser, open_door


def share(text: str) -> float:
    """A command-line number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", nargs="+", default=[], help="run records: files, .gz files, globs; several boards"
    )
    parser.add_argument("--scores", type=Path, help="scores_mtbench.csv, plain or .gz")
    parser.add_argument(
        "--journal", type=Path, help="the judge's journal (default: beside the scores, if there)"
    )
    parser.add_argument(
        "--env",
        nargs="*",
        type=Path,
        default=[],
        help="environment records that do not lie beside the runs",
    )
    parser.add_argument("--out", type=Path, required=True, help="analysis.json to write")
    parser.add_argument("--baseline", help="level the others are compared with (default: L0)")
    parser.add_argument("--placebo", help="level with length but no information (default: P, if there)")
    parser.add_argument(
        "--margin", type=share, default=0.05, help="win rate one is ready to lose (default: 0.05)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="nothing is drawn any more: kept for old command lines"
    )
    parser.add_argument("--resamples", type=int, default=10_000, help="kept for old command lines, as --seed")
    parser.add_argument("--include_flagged", action="store_true", help="keep runs with errors or hard flags")
    parser.add_argument(
        "--allow_mixed", action="store_true", help="average over power modes, scopes, model files"
    )
    return parser


def write_analysis(args: argparse.Namespace) -> None:
    """Analyze, write the file, print the answer in words. Raises UserError."""
    from edgebench.analysis.levels import Settings, analyze, as_json
    from edgebench.records.jsonl import write_output
    from edgebench.reporting.terminal import print_text
    from edgebench.reporting.words import in_words

    given = {name: value for name, value in vars(args).items() if name != "out"}
    analysis = analyze(Settings(**given))
    analysis |= in_words(analysis)
    write_output(args.out, as_json(analysis), "--out")
    print_text(analysis)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.runs and not args.scores:
        parser.error("give --runs, --scores or both")
    try:
        write_analysis(args)
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    open_door(main)
