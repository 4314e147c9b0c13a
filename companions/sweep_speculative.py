#!/usr/bin/env python3
"""Speculative decoding on this board: do adaptive drafts and confidence early exit pay, for
which workload?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError
from edgebench.shell.door import Parser, open_door
from edgebench.speculation import sweep
from edgebench.speculation.sweep import build_parser

__all__ = ["build_parser", "main"]


def summary_parser() -> argparse.ArgumentParser:
    """The flags of `summary`."""
    parser = Parser(
        prog="sweep_speculative.py summary",
        description="What the sweeps came to: Markdown, CSV, JSON, plots.",
    )
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="folders or files of results")
    parser.add_argument("--outdir", type=Path, default=Path("results/sweeps"), help="default: results/sweeps")
    parser.add_argument("--no_plots", action="store_true", help="no PNG files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run grids, or sum their results up."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["summary"]:
        return sweep.main(words)
    args = summary_parser().parse_args(words[1:])
    from edgebench.speculation.report import write_report
    from edgebench.speculation.summary import summarize, write_tables

    try:
        summary = summarize(args.dirs)
        write_tables(summary, args.outdir)
        print(write_report(summary, args.outdir, not args.no_plots))
    except (UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    open_door(main)
