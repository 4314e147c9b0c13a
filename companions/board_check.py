#!/usr/bin/env python3
"""Is this machine ready to be measured, and what is it? It changes no setting.

Asks the machine and the models, and judges the answers. Prints one line per
check, each with the command that cures it:

  ok       nothing to do
  warn     numbers will be slower, noisier or less certain than they could be
  bad      a campaign would fail or measure the wrong thing: exit status 1
  unknown  the machine does not say; `why` follows

With --json it prints one line instead: the facts of the machine, the models,
and the checks; units in the names, null for what could not be read.

Two commands answer a smaller question:

  devices  what the machine computes on: a Jetson, GPUs with their MIG instances
           (uuid is what CUDA_VISIBLE_DEVICES takes), the processor
  models   what model files ask of a board: bytes to load, to cache, to read per
           token (the bound of its memory bus); what a file is that is no model

Example:
  python companions/board_check.py --models models/gemma-2-2b-it-Q6_K.gguf
  python companions/board_check.py models models/gemma-2-2b-it-Q6_K.gguf --n_ctx 4096
  python companions/board_check.py devices --json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.board import check, devices
from edgebench.board.facts import board_facts
from edgebench.errors import UserError
from edgebench.gguf import facts as gguf_facts
from edgebench.gguf.header import one_path_a_model

MACHINE = Path("/")


def tokens(text: str) -> int:
    """A command-line number of tokens."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """All flags. Those of a command are absent from its result where they are not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", type=Path, default=[], metavar="GGUF", help="models that must fit into memory")
    add("--n_ctx", type=tokens, default=4096, metavar="N", help="their context (default %(default)s)")
    add(
        "--root", type=Path, default=MACHINE, metavar="DIR", help="judge a recorded copy of /etc, /sys, /proc"
    )
    add("--json", action="store_true", help="facts and checks as one JSON line")

    commands = parser.add_subparsers(dest="command", title="smaller questions", metavar="COMMAND")
    listing = commands.add_parser("devices", help="what this machine computes on")
    add = listing.add_argument
    add("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object instead of a table")
    add("--root", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="a recorded machine")

    files = commands.add_parser("models", help="what model files ask of a board")
    add = files.add_argument
    add("files", nargs="+", type=Path, metavar="GGUF", help="model files; of a split model the first part")
    add(
        "--n_ctx",
        type=tokens,
        default=argparse.SUPPRESS,
        metavar="N",
        help="context in tokens (default 4096)",
    )
    add("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object per model and line")
    return parser


def check_machine(models: Sequence[Path], n_ctx: int, root: Path, as_json: bool) -> int:
    """Ask, judge, print. 1 where something is bad."""
    facts = board_facts(root)
    asked = [gguf_facts.read_facts(path, n_ctx) for path in one_path_a_model(models)]
    checks = check.check(facts, asked)
    if as_json:
        judged = [vars(one) for one in checks]
        print(json.dumps({**facts, "models": [model.as_record() for model in asked], "checks": judged}))
    else:
        print(check.format_table(checks))
    return 1 if any(one.status == "bad" for one in checks) else 0


def list_models(files: Sequence[Path], n_ctx: int, as_json: bool) -> int:
    """What the models ask of a board. 1 where a file is no usable model."""
    asked = [gguf_facts.read_facts(path, n_ctx) for path in one_path_a_model(files)]
    if as_json:
        for model in asked:
            print(json.dumps(model.as_record()))
    else:
        print(gguf_facts.format_table(asked))
    return 1 if any(model.error for model in asked) else 0


def list_devices(root: Path, as_json: bool) -> int:
    """What this machine computes on."""
    listed = devices.list_devices(root)
    print(json.dumps(listed.as_record()) if as_json else devices.format_table(listed))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the question; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        if args.command == "devices":
            return list_devices(args.root, args.json)
        if args.command == "models":
            return list_models(args.files, args.n_ctx, args.json)
        return check_machine(args.models, args.n_ctx, args.root, args.json)
    except (UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
