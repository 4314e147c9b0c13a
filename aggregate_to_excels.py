#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["pandas>=2.2,<4", "openpyxl>=3.1,<4", "scipy>=1.11,<2"]
# ///
"""Turn runs and a judge's scores into four Excel workbooks, a sheet per model.

Writes quality_scores.xlsx (win rates, a tie is half a win),
energy_per_run.xlsx (J, net of idle), latency_per_run.xlsx (ms) and
output_tokens_per_run.xlsx (tokens). Runs with an error or a hard flag are in
no mean; a missing value is an empty cell with its reason in Flags. Records
need id, model_id, level, prompt_tokens, completion_tokens, latency_ms and
energy_joule only.

Example:
  python aggregate_to_excels.py --runs results/runs_llamacpp.jsonl \\
      --scores results/scores_mtbench.csv
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgebench.errors import UserError
from edgebench.shell.calls import as_called
from edgebench.shell.door import Parser, open_door


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--runs", nargs="+", required=True, metavar="FILE", help="run records (JSON lines, .gz; globs)")
    option("--scores", type=Path, metavar="CSV", help="the judge's scores; may be missing or empty")
    option("--analysis", type=Path, metavar="JSON", help="of analyze_levels.py; default: made here")
    option("--outdir", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    option("--baseline", metavar="LEVEL", help="differences are against it (default: L0)")
    option("--include_flagged", action="store_true", help="keep runs with an error or hard flag in means")
    option("--allow_mixed", action="store_true", help="average over mixed power scope, mode or model file")
    option("--parquet", type=Path, metavar="DIR", help="also write the records by board and model, for SQL")
    return parser


def aggregate(args: argparse.Namespace, command: Sequence[str]) -> list[str]:
    """Read, analyse, write; what is to be printed. Raises UserError."""
    from edgebench.reporting.parquet import check_folder, write_parquet
    from edgebench.reporting.study import Wanted, read_study, runs_again
    from edgebench.reporting.summary_text import screen_lines
    from edgebench.reporting.workbooks import write_all

    if args.parquet:
        check_folder(args.parquet)
    wanted = Wanted(
        args.runs, args.scores, args.analysis, args.baseline, args.include_flagged, args.allow_mixed
    )
    study = read_study(wanted, shlex.join(command))
    written = write_all(study, args.outdir, lambda line: print(line, file=sys.stderr))
    if args.parquet:
        write_parquet(runs_again(wanted, study), args.parquet)
    return [*screen_lines(study), *(f"wrote {path}" for path in written)]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(words)
    try:
        lines = aggregate(args, [as_called(Path(__file__).name), *words])
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        return 130
    text = "\n".join(lines)
    print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    return 0


if __name__ == "__main__":
    open_door(main)
