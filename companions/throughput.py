#!/usr/bin/env python3
"""Tokens per second and joule per token when several answers are decoded together.

The same prompts are answered at each batch size: one by one, two at a time, and
so on, every group in one llama_decode per step. A sequence that ends leaves its
batch; its place stays empty, so that a batch ends as slowly as its longest
answer. Each repeat begins with another batch size, so that a warming board does
not favour one.

Appends one JSON record per model, batch size and repeat; a second start skips
what is there. Times in ms, energy in joule (net of the idle power with the
model loaded), power in mW. tok_per_s counts answer tokens over the whole time;
decode_tok_per_s what was sampled after each sequence's first token, over the
decode time; joule_per_token is energy over answer tokens. Without power the
energy is null, with the reason in energy_missing. A table comes at the end.

Example:
  python companions/throughput.py --models models/gemma-2-2b-it-Q6_K.gguf \\
      --prompts data/writing_prompts_hierarchical.csv --batch_sizes 1,2,4,8 \\
      --out_jsonl results/throughput.jsonl
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError, told
from edgebench.shell.calls import own_call
from edgebench.shell.door import Parser, above, at_least, engine_flags, open_door
from edgebench.shell.progress import advise, say
from edgebench.shell.signals import Interrupted, catch_ending_signals
from edgebench.throughput.campaign import measure_all
from edgebench.throughput.plan import batch_sizes
from edgebench.throughput.settings import Settings
from edgebench.throughput.table import table_of


def sizes(text: str) -> list[int]:
    """Sizes of --batch_sizes."""
    try:
        return batch_sizes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of at least 1, as in 1,2,4,8") from None


def build_parser() -> argparse.ArgumentParser:
    """All flags; those of the collector mean what they mean there."""
    parser = Parser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument_group("what to run").add_argument
    add("--models", nargs="+", required=True, metavar="GGUF", help="model files")
    add("--prompts", nargs="+", required=True, metavar="FILE", help="CSV or JSONL, one column per level")
    add("--out_jsonl", type=Path, required=True, metavar="FILE", help="where the records go")
    add("--levels", nargs="+", default=["L0"], metavar="NAME", help="columns to run (default: L0)")
    add(
        "--limit",
        type=at_least(1),
        metavar="N",
        help="the first N tasks (default: as the largest batch needs)",
    )
    add("--batch_sizes", type=sizes, default=[1, 2, 4, 8], metavar="N,N", help="(default: 1,2,4,8)")
    add("--repeats", type=at_least(1), default=3, metavar="N", help="of each batch size (default: 3)")
    add = parser.add_argument_group("generation").add_argument
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--max_tokens", type=at_least(1), default=128, metavar="N", help="length of answers (default: 128)")
    add("--temperature", type=at_least(0, float), default=0.0, help="0 is greedy (default)")
    add("--seed", type=int, default=0, help="of draws above temperature 0")
    add = engine_flags(parser, n_ctx="context of each sequence (default: as the prompts need)")
    add("--kv_unified", action="store_true", help="one cache for all sequences instead of one each")
    add = parser.add_argument_group("power").add_argument
    add(
        "--source",
        "--power_source",
        default="auto",
        help="auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none",
    )
    add("--feed", metavar="CMD", help="any other command that prints tegrastats lines")
    add(
        "--interval",
        "--interval_ms",
        type=at_least(1),
        default=100,
        metavar="MS",
        help="between samples (default: 100)",
    )
    add(
        "--idle_seconds",
        type=at_least(0, float),
        default=10.0,
        metavar="S",
        help="of idle baseline (default: 10)",
    )
    add("--power_trace", type=Path, metavar="FILE", help="keep every power sample in this CSV")
    add = parser.add_argument_group("course").add_argument
    add(
        "--run_timeout",
        type=above(0),
        default=900.0,
        metavar="S",
        help="of one measurement (default: 900)",
    )
    add("--retry_errors", action="store_true", help="do failed measurements again")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is left, then print the table of all that this command asks for."""
    args = build_parser().parse_args(argv)
    catch_ending_signals()
    try:
        settings = Settings(**vars(args))
        outcome = measure_all(settings)
        print(table_of(settings.out_jsonl, outcome.keys))
    except (UserError, OSError) as exc:
        say(f"error: {told(exc)}")
        return 1
    except Interrupted as exc:
        again = shlex.join(own_call(sys.argv[1:]))
        advise(f"stopped; every finished measurement is kept. Go on with:\n  {again}")
        return exc.exit_code
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    open_door(main)
