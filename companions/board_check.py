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
  python companions/board_check.py models models/gemma-2-2b-it-Q6_K.gguf \\
      --n_ctx 4096
  python companions/board_check.py devices --json
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

from edgebench.board import check, devices
from edgebench.board.facts import board_facts
from edgebench.errors import UserError, told
from edgebench.gguf import facts as gguf_facts
from edgebench.gguf.header import one_path_a_model
from edgebench.shell.door import Parser, at_least, open_door
from edgebench.shell.text import let_file_names_through

MACHINE = Path("/")
DEVICES = """\
What can this machine compute on? Jetson, NVIDIA GPUs and MIG, or the processor.

A Jetson is known by its device tree; its GPU shares the board's memory. Other
NVIDIA GPUs come from NVML (package nvidia-ml-py), and a GPU that is split into
MIG instances is listed with each of them below it. A process takes one of them
by CUDA_VISIBLE_DEVICES=UUID. The processor stands last, always.

Prints a table, or with --json one object: devices [{kind (jetson, gpu, mig,
cpu), index ("0", of an instance "0:1"), name, uuid, memory_byte,
memory_free_byte, parent, mig_enabled, cuda_arch}], and why NVML has no say in
`nvml_missing`. What the machine does not tell is null.
"""
MODELS = """\
What a model file asks of a board: bytes to load, to cache, to read per token.

Reads the header of each GGUF file and nothing behind it. Of a split model the
first part stands for all.

  file_byte            size of the file [byte]; as much memory for the weights
  n_params             parameters, from the tensor shapes
  read_byte_per_token  weight bytes read to produce one token [byte]: all
                       tensors, without the input embedding (a look-up of one
                       row) unless it is the output matrix too; of a mixture of
                       experts only the share in use
  kv_byte_per_token    key/value cache per token of context, f16 [byte]
  kv_byte              the cache at --n_ctx, rounded up to 256 tokens as the
                       engine does [byte]
  compute_byte         buffer for a batch of 512 tokens: the larger of logits
                       and attention scores, without flash attention [byte]
  need_byte            file_byte + kv_byte + compute_byte

Prints a table, or with --json one JSON object per model and line. What the
header does not settle is null, with the reason in `why_unknown`; a file that is
no usable model has the reason in `error`, and the exit code is 1.
"""


def build_parser() -> argparse.ArgumentParser:
    """All flags. Those of a command are absent from its result where they are not given."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", type=Path, default=[], metavar="GGUF", help="models that must fit into memory")
    add("--n_ctx", type=at_least(1), default=4096, metavar="N", help="their context (default %(default)s)")
    add(
        "--root", type=Path, default=MACHINE, metavar="DIR", help="judge a recorded copy of /etc, /sys, /proc"
    )
    add("--json", action="store_true", help="facts and checks as one JSON line")

    commands = parser.add_subparsers(dest="command", title="smaller questions", metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    listing = commands.add_parser(
        "devices", help="what this machine computes on", description=DEVICES, formatter_class=raw
    )
    add = listing.add_argument
    add("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object instead of a table")
    add("--root", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="a recorded machine")

    files = commands.add_parser(
        "models", help="what model files ask of a board", description=MODELS, formatter_class=raw
    )
    add = files.add_argument
    add("files", nargs="+", type=Path, metavar="GGUF", help="model files; of a split model the first part")
    add(
        "--n_ctx",
        type=at_least(1),
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
    let_file_names_through()
    try:
        if args.command == "devices":
            return list_devices(args.root, args.json)
        if args.command == "models":
            return list_models(args.files, args.n_ctx, args.json)
        return check_machine(args.models, args.n_ctx, args.root, args.json)
    except (UserError, OSError) as problem:
        print(f"error: {told(problem)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    open_door(main)
