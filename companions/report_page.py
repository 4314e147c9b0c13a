#!/usr/bin/env python3
"""One self-contained page, report.html, that says what the longer prompt bought.

Light and dark, fit to print. The answer in three sentences, every caveat, the
charts, the tables, one task's answers side by side, the method and where each
number comes from. No network, no script: it opens from a USB stick. All text
of models and files is escaped.

Output: report.html (J, s, tokens; win rates in percent).

Example:
    python companions/report_page.py --runs results/runs_llamacpp.jsonl \\
        --analysis results/analysis.json \\
        --out results/report.html
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


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, nargs="*", default=[], help="run records, for one task's answers"
    )
    parser.add_argument("--analysis", type=Path, required=True, help="analysis.json of analyze_levels.py")
    parser.add_argument(
        "--env", type=Path, nargs="*", help="environment records (default: those beside the runs)"
    )
    parser.add_argument("--trace", type=Path, help="power trace (the collector's --power_trace)")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument(
        "--charts", type=Path, metavar="FOLDER", help="also write each chart as an SVG file into this folder"
    )
    parser.add_argument(
        "--tables",
        type=Path,
        metavar="FILE",
        help="also write the tables as Markdown, for a paper",
    )
    return parser


def write_report(args: argparse.Namespace) -> None:
    """The page, and the charts and tables as files where they are wanted. Raises UserError."""
    from edgebench.records.jsonl import write_output
    from edgebench.reporting.charts import write_charts
    from edgebench.reporting.page import Sources, page_of, read_report
    from edgebench.reporting.tables import markdown, tables_of

    report = read_report(args.analysis, Sources(args.runs, args.env, args.trace))
    write_output(args.out, page_of(report), "--out")
    if args.charts:
        write_charts(report.charts, args.charts)
    if args.tables:
        write_output(args.tables, markdown(tables_of(report.analysis)), "--tables")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    args = build_parser().parse_args(argv)
    try:
        write_report(args)
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    print(f"{args.out}: open it in a browser", file=sys.stderr)
    return 0


if __name__ == "__main__":
    open_door(main)
