#!/usr/bin/env python3
"""One page that says what the longer prompt bought: report.html, self-contained, light and dark, fit to
print.

The answer in three sentences, every caveat, the charts, the tables, one task's answers side by side, the
method and where each number comes from. No network, no script: it opens from a USB stick. All text of
models and files is escaped.

Output: report.html (J, s, tokens; win rates in percent).

Example:
    python companions/report_page.py --runs results/runs_llamacpp.jsonl --analysis results/analysis.json \\
        --out results/report.html
"""

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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    args = build_parser().parse_args(argv)
    from edgebench.records.jsonl import write_whole
    from edgebench.reporting.page import Sources, page

    try:
        write_whole(args.out, page(args.analysis, Sources(args.runs, args.env, args.trace)))
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except OSError as exc:
        print(f"error: {exc.filename}: {exc.strerror}", file=sys.stderr)
        return 1
    print(f"{args.out}: open it in a browser", file=sys.stderr)
    return 0


if __name__ == "__main__":
    open_door(main)
