#!/usr/bin/env python3
"""Prompts from any file or a well-known set -> a CSV that the collector reads.

SOURCE is a file or a name:
  *.csv *.jsonl *.json *.parquet   rows; a file with level columns (L0 L1 L2 L3
                                   P) keeps them all
  *.txt                            one prompt per line
  a folder                         of save_to_disk, or of Parquet shards;
                                   --split chooses
  alpaca gsm8k mmlu sharegpt       from a hub, through the optional package
                                   `datasets`
  owner/name                       any other set of that hub

Where there are no levels, the prompt of a row is, in this order: --column; the
shape of a known set (instruction + input; question + choices; the first human
turn of conversations, messages or turns); the first column called text, prompt,
question, instruction, input or content. Answers in a row are never shown to the
model. --sample_size takes the first N rows, with --shuffle N drawn by --seed.

Writes question_id, category, topic and one column per level, whole or not at
all. Ids are the rows' own where every row has its own, else row numbers.

Example:
  python companions/load_prompts.py gsm8k --sample_size 100 --shuffle \\
      --out results/gsm8k_prompts.csv
"""

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError, told
from edgebench.prompts.sources import Wish, format_sets, load, sets_as_records, write_prompts
from edgebench.shell.door import Parser, at_least, open_door


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help="a file, a named set, or owner/name")
    add("--out", type=Path, metavar="CSV", help="the prompts file to write")
    add("--level", default="L0", metavar="NAME", help="column to write (default: L0)")
    add("--column", metavar="NAME", help="column to read (default: found by itself)")
    add("--split", metavar="NAME", help="of a set on the hub (default: see --list)")
    add("--subset", metavar="NAME", help="of a set on the hub")
    add("--sample_size", type=at_least(1), metavar="N", help="prompts to take (default: all)")
    add("--shuffle", action="store_true", help="draw them instead of taking the first")
    add("--seed", type=int, default=42, help="of the draw (default: 42)")
    add("--list", action="store_true", help="show the named sets")
    add("--json", action="store_true", help="with --list: as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List the sets, or load one; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list:
        print(json.dumps(sets_as_records()) if args.json else format_sets())
        return 0
    if args.source is None or args.out is None:
        parser.error("give a SOURCE and --out, or --list")
    names = ("source", "level", "column", "split", "subset", "sample_size", "shuffle", "seed")
    try:
        loaded = load(Wish(**{name: getattr(args, name) for name in names}))
        write_prompts(args.out, loaded)
    except (UserError, OSError) as problem:
        print(f"error: {told(problem)}", file=sys.stderr)
        return 1
    print(loaded.told(args.out, args.sample_size), file=sys.stderr)
    return 0


if __name__ == "__main__":
    open_door(main)
