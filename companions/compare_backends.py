#!/usr/bin/env python3
"""One model, several engines, one honest table.

  run            measure: the same model, prompt ids, length and temperature 0
                 for every engine; one warm-up round kept apart, then --rounds
                 rounds, the engines of each in a new seeded order; each run a
                 process of its own; the state of the board stored with every
                 row
  table          rows -> table, speed-ups with intervals, where the time goes
  parse          the same from logs of campaigns already run, as
                 parse_backend_logs.py reads them
  show-commands  the commands behind the rows, ready to run again

A second start of run skips what is there. An engine that is missing is a row
with the way to get it; one that fails or hangs in its warm-up is left out of
the rounds, its last words in its row. Rates in tokens per second, times in ms,
energy in joule; null where it was not measured.

Writes ROWS.jsonl (a row per run) and a folder ROWS.work (the job, and every
engine's own output).

Example:
  python companions/compare_backends.py run \\
      --model models/demo/demo-llama-F32.gguf \\
      --prompt "Why is it dark at night?" \\
      --engines llama-cpp-python llama-bench tinygrad:NV tinygrad:CUDA \\
      --out results/backends.jsonl
  python companions/compare_backends.py table results/backends.jsonl
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.backends.campaign import (
    DEFAULT_ENGINES,
    Campaign,
    Settings,
    commands_in,
    logs_to_rows,
    prepare,
)
from edgebench.backends.job import JobSettings
from edgebench.backends.table import Wanted, read_rows, tabulate
from edgebench.errors import UserError, told
from edgebench.power.session import PowerSettings
from edgebench.records.jsonl import write_output
from edgebench.shell.door import Parser, above, at_least, open_door
from edgebench.shell.progress import say


def command_run(args: argparse.Namespace) -> int:
    """Measure, then print the table."""
    settings = run_settings(args)
    job = prepare(settings)
    if args.dry_run:
        print(settings.dry_run(job))
        return 0
    Campaign(settings, job).run()
    return print_table(args, tabulate(read_rows([str(args.out)]), table_settings(args), str(args.out)))


def command_table(args: argparse.Namespace) -> int:
    """Rows to a table."""
    return print_table(args, tabulate(read_rows(args.rows), table_settings(args), ", ".join(args.rows)))


def command_parse(args: argparse.Namespace) -> int:
    """Logs to rows to a table; 1 if none gave a result."""
    rows = logs_to_rows(args.logs, args.device, args.model)
    print_table(args, tabulate(rows, table_settings(args), ", ".join(args.logs)))
    return 0 if any(row["status"] == "ok" for row in rows) else 1


def command_show(args: argparse.Namespace) -> int:
    """Each engine's commands, once, from the rows."""
    for line in commands_in(args.rows):
        print(line)
    return 0


def table_settings(args: argparse.Namespace) -> Wanted:
    """How the table is to look."""
    return Wanted(args.csv, args.bandwidth_gb_s, args.allow_differing_conditions)


def print_table(args: argparse.Namespace, text: str) -> int:
    """The table on stdout, or in its file."""
    if args.table_out:
        write_output(args.table_out, text, "--table_out")
    else:
        sys.stdout.write(text)
    return 0


def run_settings(args: argparse.Namespace) -> Settings:
    """What run was told."""
    job = JobSettings(
        model=args.model,
        prompt=args.prompt,
        prompt_file=args.prompt_file,
        prompt_format=args.prompt_format,
        max_tokens=args.max_tokens,
        name=args.name,
        n_gpu_layers=args.n_gpu_layers,
        n_threads=args.n_threads or max(1, (os.cpu_count() or 2) - 1),
        flash_attn=args.flash_attn,
    )
    power = PowerSettings(args.source, args.feed, args.interval, args.idle_seconds)
    return Settings(
        job=job,
        engines=args.engines,
        out=args.out,
        rounds=args.rounds,
        seed=args.seed,
        llama_bin=args.llama_bin,
        tinygrad_python=args.tinygrad_python,
        tinygrad_dir=args.tinygrad_dir,
        warmup=args.warmup,
        timeout_s=args.timeout,
        power=power,
        retry_errors=args.retry_errors,
        allow_differing_conditions=args.allow_differing_conditions,
    )


# --- the command line ---


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of run; names as in run_llamacpp_collect.py."""
    add = parser.add_argument
    add("--model", metavar="GGUF", type=Path, required=True, help="the model for all engines")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", metavar="TEXT", help="what all are asked")
    asked.add_argument("--prompt_file", metavar="FILE", type=Path, help="the same, from a file")
    add(
        "--engines",
        metavar="NAME",
        nargs="+",
        default=list(DEFAULT_ENGINES),
        help="llama-cpp-python, llama-bench, llama-completion, llama-server, tinygrad, tinygrad-gpt2,"
        " tinygrad-llama3; a tinygrad one with its device: tinygrad:NV, tinygrad:CPU:LLVM",
    )
    add("--out", metavar="ROWS.jsonl", type=Path, required=True, help="where the rows go")
    add("--rounds", metavar="N", type=at_least(1), default=5, help="timed runs per engine (default: 5)")
    add("--seed", type=int, default=42, help="of the order in each round (default: 42)")
    add("--max_tokens", metavar="N", type=at_least(1), default=128, help="of each answer (default: 128)")
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--name", metavar="MODEL", help="the model's name in the table")
    add("--n_gpu_layers", metavar="N", type=int, default=-1, help="layers on the GPU (default: -1, all)")
    add("--n_threads", metavar="N", type=at_least(1), help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="of llama.cpp (default: auto)")
    add("--llama_bin", metavar="DIR", type=Path, help="llama.cpp's programs (default: PATH)")
    add("--tinygrad_python", metavar="FILE", help="Python with tinygrad (default: this one)")
    add("--tinygrad_dir", metavar="DIR", type=Path, help="a checkout of tinygrad")
    add(
        "--warmup",
        metavar="N",
        type=at_least(0),
        default=2,
        help="answers inside a process, before (default: 2)",
    )
    add("--timeout", metavar="S", type=above(0), default=900, help="of one run (default: 900)")
    add("--source", default="auto", help="of power: auto, tegrastats, ina3221, ..., simulated, none")
    add("--feed", metavar="CMD", help="a command that prints power lines, instead of --source")
    add("--interval", metavar="MS", type=at_least(1), default=100, help="between samples (default: 100)")
    add(
        "--idle_seconds",
        metavar="S",
        type=at_least(0, float),
        default=10,
        help="of idle baseline (default: 10)",
    )
    add("--retry_errors", action="store_true", help="do failed runs again")
    add("--dry_run", action="store_true", help="print commands and order, measure nothing")


def build_parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure", description="Measure engines in interleaved rounds.")
    table = commands.add_parser("table", help="rows to a table")
    table.add_argument("rows", metavar="ROWS.jsonl", nargs="+")
    parse = commands.add_parser("parse", help="logs to a table")
    parse.add_argument("logs", metavar="LOG", nargs="+")
    parse.add_argument("--device", help="of logs that do not name it")
    parse.add_argument("--model", help="of logs that do not name it")
    add_run_flags(run)
    for one in (run, table, parse):
        one.add_argument(
            "--bandwidth_gb_s", metavar="GB/S", type=above(0), help="the board's memory bandwidth"
        )
        one.add_argument("--csv", action="store_true", help="the table as CSV")
        one.add_argument("--table_out", metavar="FILE", type=Path, help="the table into a file")
        one.add_argument("--allow_differing_conditions", action="store_true", help="compare all the same")
    show = commands.add_parser("show-commands", help="commands behind the rows")
    show.add_argument("rows", metavar="ROWS.jsonl", type=Path)
    return parser


COMMANDS = {"run": command_run, "parse": command_parse, "show-commands": command_show, "table": command_table}


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return COMMANDS[args.command](args)
    except (UserError, OSError) as exc:
        say(f"error: {told(exc)}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    open_door(main)
