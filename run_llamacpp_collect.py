#!/usr/bin/env python3
"""Run small language models over tasks written at several prompt lengths.

For every model × task × level × repeat: a cold prompt, a timed generation, the
energy of exactly that stretch of time, and the text. A second start skips what
is there. Each model runs in its own process, so that a crash costs one run.
Times in ms, energy in joule, power in mW; without power the energy is null.

Writes   OUT.jsonl       one record per run (fields: edgebench/records/run.py)
         OUT.env.jsonl   one per environment: board, power mode, engine, models

Example:
  python run_llamacpp_collect.py --models models/gemma-2-2b-it-Q6_K.gguf \\
      --prompts data/writing_prompts_hierarchical.csv \\
      --out_jsonl results/runs_llamacpp.jsonl
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgebench.checking.report import check_runs
from edgebench.collecting.campaign import Campaign
from edgebench.collecting.plan import Plan, make_plan
from edgebench.collecting.settings import Settings
from edgebench.engine.client import EngineProcess
from edgebench.errors import UserError
from edgebench.power.session import PowerSession
from edgebench.records.jsonl import exclusive, reason_of
from edgebench.shell.calls import own_call
from edgebench.shell.door import Parser, above, at_least, engine_flags, open_door
from edgebench.shell.progress import advise, say
from edgebench.shell.signals import Interrupted, ending_signals
from edgebench.shell.text import counted, let_file_names_through

HERE = Path(__file__).resolve().parent


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument_group("what to run").add_argument
    add("--models", nargs="+", required=True, metavar="GGUF", help="model files")
    add("--prompts", nargs="+", required=True, metavar="FILE", help="CSV or JSONL, one column per level")
    add("--out_jsonl", type=Path, required=True, metavar="FILE", help="where the records go")
    add("--levels", nargs="+", metavar="NAME", help="columns to run (default: L0 L1 L2 L3 P)")
    add("--ids", nargs="+", metavar="ID", help="only these tasks")
    add("--limit", type=at_least(1), metavar="N", help="only the first N tasks of each prompts file")
    add("--repeats", type=at_least(1), default=1, metavar="N", help="runs of each prompt (default: 1)")
    add("--turns", type=int, choices=(1, 2), default=1, help="2: go on with the second question")
    add(
        "--questions",
        default=str(HERE / "data/questionset.jsonl.txt"),
        metavar="FILE",
        help="where --turns 2 finds it",
    )
    add(
        "--order",
        choices=("balanced", "sequential", "shuffled"),
        default="balanced",
        help="of a task's levels (default: balanced)",
    )
    add = parser.add_argument_group("generation").add_argument
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--system", metavar="TEXT", help="system message")
    add("--thinking", choices=("off", "on"), default="off", help="of reasoning models (default: off)")
    add("--max_tokens", type=at_least(1), default=512, metavar="N", help="length of answers (default: 512)")
    add("--temperature", type=at_least(0, float), default=0.0, help="0 is greedy (default)")
    add("--seed", type=int, default=0, help="of the order and of draws above temperature 0")
    add = engine_flags(parser, n_ctx="context (default: as the longest prompt needs)")
    add("--allow_cpu", action="store_true", help="run on a Jetson whose engine cannot use the GPU")
    add = parser.add_argument_group("power").add_argument
    add(
        "--source",
        default="auto",
        help="auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE or none",
    )
    add("--feed", metavar="CMD", help="any other command that prints tegrastats lines")
    add("--interval", type=at_least(1), default=100, metavar="MS", help="between samples (default: 100)")
    add(
        "--idle_seconds",
        type=at_least(0, float),
        default=10.0,
        metavar="S",
        help="of idle baseline (default: 10)",
    )
    add(
        "--idle_every", type=at_least(1), default=50, metavar="N", help="and again every N runs (default: 50)"
    )
    add("--phase_energy", choices=("auto", "block"), default="auto", help="block: repeat prefills 5 s")
    add("--power_trace", type=Path, metavar="FILE", help="keep every power sample in this CSV")
    add = parser.add_argument_group("course").add_argument
    add("--cooldown", default="0", metavar="S|temp:C", help="pause before each run")
    add("--anchor_every", type=at_least(1), metavar="N", help="repeat one prompt every N runs to see drift")
    add("--run_timeout", type=above(0), default=900.0, metavar="S", help="of one run (default: 900)")
    add("--retry_errors", action="store_true", help="do failed runs again")
    add("--fresh", action="store_true", help="rename old output and start over")
    add("--allow_mixed", action="store_true", help="add to a file measured under other conditions")
    add("--dry_run", action="store_true", help="only show runs, tokens and memory needed")
    return parser


def collect(settings: Settings) -> int:
    """Plan, measure, sum up. Returns the exit code."""
    out = settings.out_jsonl
    cure = "choose another --out_jsonl"
    with contextlib.ExitStack() as held:
        if not settings.dry_run:
            held.enter_context(
                exclusive(out, f"another collector is writing it; wait for it, or {cure}", cure)
            )
        engine = held.enter_context(EngineProcess(settings.run_timeout))
        plan = make_plan(settings, engine)
        if settings.dry_run:
            print(plan.as_table(command_again("--dry_run")))
            return plan.exit_code
        for note in plan.notes:
            say(note)
        campaign = measure(plan, engine) if plan.todo else None
    return sum_up(plan, campaign)


def measure(plan: Plan, engine: EngineProcess) -> Campaign:
    """Run what is left, one model after the other, with power beside it."""
    with PowerSession.start(plan.settings.power, say) as power:
        campaign = Campaign(plan, engine, power, sys.argv)
        for model in plan.models:
            if plan.todo_of(model):
                campaign.run_model(model)
    return campaign


def sum_up(plan: Plan, campaign: Campaign | None) -> int:
    """Say what could not be run and whether the measurements can be true. Returns the exit code."""
    errors = [*plan.errors, *(campaign.refused if campaign else [])]
    for error in errors:
        say(f"error: {error}")
    if plan.runs:
        print(check_runs(plan.settings.out_jsonl).as_text(), flush=True)
    if errors or (campaign and campaign.failed):
        return 1
    if plan.failed_before:
        failed = counted(plan.failed_before, "failed run")
        say(f"{failed} of earlier starts left as they are; --retry_errors does them again")
    return 0


def command_again(*left_out: str) -> str:
    """The command line of this start, without some of its flags."""
    return shlex.join(own_call([word for word in sys.argv[1:] if word not in left_out]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    let_file_names_through()
    try:
        with ending_signals():
            return collect(Settings.from_flags(vars(args)))
    except UserError as problem:
        say(f"error: {problem}")
        return problem.exit_code
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        say(
            f"error: {where}{reason_of(problem)}; every finished run is kept, start again when that is mended"
        )
        return 1
    except Interrupted as interrupted:
        # --fresh would set aside what is finished.
        advise(f"stopped; every finished run is kept. Go on with:\n  {command_again('--fresh')}")
        return interrupted.exit_code


if __name__ == "__main__":
    open_door(main)
