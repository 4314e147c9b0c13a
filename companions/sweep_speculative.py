#!/usr/bin/env python3
"""Does speculative decoding pay on this board, and for which workload?

Adaptive drafts and confidence early exit: runs grids of cells, each cell an
engine process of its own with its power recorded, beside plain decoding of
every workload. A cell that is finished is skipped while its configuration,
model and prompts are the same.

  adaptive     fixed draft length, the published adaptive rule, our cost rule:
               run1_…_adaptive0.json, run1_…_adaptivepub.json,
               run1_…_adaptive1.json
  early-exit   thresholds of the draft's confidence:
               run3_r36_t128_temp0.0_thresh0.5.json; with memory counters where
               Nsight Compute is installed
  oneoff       four scenarios: scenario_a_code_completion.json and its twin
               …_plain.json
  all          these three
  --grid FILE  a grid of your own in place of these, JSON or YAML:
               {requests: 8, draft_tokens: [2, 4, 8], adaptive: [off, cost]}
  summary DIR  what came of it, into --outdir: summary.md, summary.csv,
               findings.csv, summary.json, plots

Output: <outdir>/<grid>/<cell>.json, experiment.log per grid, power/ with the
traces; of `all` a master_experiment.log, too. Plain decoding is
plain_r36_t128_temp0.0.json. A cell that no longer fits its configuration is
done again, the old file kept as <cell>.json.1 and so on. Latency s, energy J,
power mW. Ratios in the summary are sums over the same requests, below 1 is
better than the reference; their 95 % intervals are over prompts.

run_adaptive_grid.sh, run_early_exit_grid.sh, run_oneoff_scenarios.sh and
run_all_experiments.sh, which lie beside this file in the repository, are the
original experiment's commands; TARGET_MODEL and DRAFT_MODEL name the models'
files for them.

Example:
  python companions/sweep_speculative.py adaptive \\
      --model models/demo/demo-llama-F32.gguf --dry_run
  python companions/sweep_speculative.py all --model target.gguf \\
      --draft draft.gguf --requests 8
  python companions/sweep_speculative.py summary sweeps --outdir results/sweeps
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError, told
from edgebench.power.session import PowerSettings
from edgebench.records.account import by_key
from edgebench.shell.calls import own_call
from edgebench.shell.door import Parser, above, at_least, open_door
from edgebench.shell.signals import Interrupted, ending_signals
from edgebench.speculation.settings import SWEPT, GridSettings, Profiling, SweepSettings

ROOT = Path(__file__).resolve().parents[1]
GRIDS = ("adaptive", "early-exit", "oneoff")
ENGINE_FLAGS = ("n_ctx", "n_batch", "n_gpu_layers", "n_threads", "flash_attn", "prompt_format")
SWEEPS, SUMMED = Path("sweeps"), Path("results/sweeps")
PROMPTS = Path("data/writing_prompts_hierarchical.csv")


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("action", nargs="?", choices=[*GRIDS, "all", "summary"], help="a grid of the original experiment")
    add("dirs", nargs="*", metavar="DIR", help="with summary: folders or files of results")
    add("--outdir", type=Path, help="default: sweeps; of summary results/sweeps")
    add("--no_plots", action="store_true", help="with summary: no PNG files")
    add = parser.add_argument_group("what to run").add_argument
    add("--grid", action="append", default=[], metavar="FILE", help="a grid of your own, repeatable")
    add("--model", default=os.environ.get("TARGET_MODEL"), help="the GGUF (default: $TARGET_MODEL)")
    add("--draft", default=os.environ.get("DRAFT_MODEL"), help="a small GGUF, same vocabulary ($DRAFT_MODEL)")
    add("--drafter", choices=["lookup", "model"], help="default: model with --draft, else prompt lookup")
    add("--prompts", help=f"default: {PROMPTS}")
    add("--prompts_for", action="append", default=[], metavar="SCENARIO=FILE", help="as in a=code.csv")
    add("--levels", default="L0", help="the prompts' level (default: L0)")
    for name, kind in (("requests", int), ("max_tokens", int), ("draft_tokens", int),
                       ("temperature", float), ("threshold", float)):  # fmt: skip
        add(f"--{name}", type=kind, nargs="+", help="in place of the grid's own")
    add("--batches", type=at_least(1), default=3, help="timed passes over the requests (default: 3)")
    add("--warmup", type=at_least(0), default=1, help="requests before them (default: 1)")
    add("--seed", type=int, default=42, help="of sampling and of the order of cells (default: 42)")
    compare = "batches decoded plainly beside it, too"
    add("--compare", choices=["first", "every"], default="first", help=compare)
    add("--cross_check", action="store_true", help="ask the engine's own prompt lookup for the same outputs")
    add = parser.add_argument_group("engine").add_argument
    for name in ("n_ctx", "n_batch", "n_gpu_layers", "n_threads"):
        add(f"--{name}", type=int, help="for the engine")
    add("--flash_attn", choices=["auto", "on", "off"], help="for the engine (default: off)")
    add("--prompt_format", choices=["chat", "raw"], help="default: chat")
    add = parser.add_argument_group("power").add_argument
    source = "auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none; tegrastats tells EMC load"
    add("--power_source", default="auto", help=source)
    add("--feed", metavar="CMD", help="a command that prints power lines, instead of --power_source")
    add("--interval_ms", type=at_least(1), default=100, help="between power samples (default: 100)")
    idle = "idle in each cell, models loaded, before and after the batches (default: 5)"
    add("--idle_seconds", type=at_least(0, float), default=5.0, help=idle)
    add = parser.add_argument_group(
        "memory counters, by Nsight Compute in a process of their own"
    ).add_argument
    add("--ncu", action="store_true", help="of all cells (default: early-exit and scenario c)")
    add("--no_ncu", action="store_true", help="of none")
    add("--ncu_path", default="ncu", help="the profiler (default: ncu)")
    add("--ncu_requests", type=at_least(1), default=1, help="requests that are profiled (default: 1)")
    add("--ncu_tokens", type=at_least(2), default=16, help="tokens that are profiled (default: 16)")
    add(
        "--ncu_timeout",
        type=above(0),
        default=600.0,
        metavar="S",
        help="end a profiler after so long (default: 600)",
    )
    add = parser.add_argument_group("course").add_argument
    add("--cell_timeout", type=above(0), metavar="S", help="end a cell after so long (default: never)")
    add("--dry_run", action="store_true", help="print the cells and the time they need")
    add("--no_pilot", action="store_true", help="start at once, without an estimate")
    add("--quiet", action="store_true", help="no progress")
    return parser


def grids_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The grids that are to be run. UserError."""
    if args.dirs:
        raise UserError(f"{' '.join(args.dirs)}: one grid at a time; all, or --grid FILE for more")
    if args.grid:
        if args.action:
            print(f"--grid takes the place of {args.action}: {', '.join(args.grid)}", file=sys.stderr)
        return tuple(args.grid)
    if not args.action:
        raise UserError("which grid? adaptive, early-exit, oneoff, all, or --grid FILE")
    return GRIDS if args.action == "all" else (args.action,)


def prompts_by_scenario(pairs: Sequence[str]) -> dict[str, str]:
    """SCENARIO=FILE by scenario. UserError."""
    if loose := [pair for pair in pairs if "=" not in pair]:
        raise UserError(f"--prompts_for {loose[0]}: give SCENARIO=FILE, as in a=code.csv")
    parted = by_key((pair.split("=", 1) for pair in pairs), lambda parts: parts[0], "--prompts_for")
    return {scenario: parts[1] for scenario, parts in parted.items()}


def engine_version() -> str | None:
    """Of the engine that decodes; None where it is not installed."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return None


def settings_of(args: argparse.Namespace) -> SweepSettings:
    """The flags as settings. UserError."""
    grids = grids_of(args)
    if not args.model:
        raise UserError("which model? give its file with --model, or set TARGET_MODEL")
    if args.ncu and args.no_ncu:
        raise UserError("--ncu and --no_ncu contradict each other")
    grid = GridSettings(
        grids=grids,
        model=args.model,
        prompts=args.prompts or str(PROMPTS if PROMPTS.exists() else ROOT / PROMPTS),
        draft=args.draft,
        drafter=args.drafter,
        prompts_for=prompts_by_scenario(args.prompts_for),
        levels=args.levels,
        given={name: tuple(value) for name in SWEPT if (value := getattr(args, name))},
        batches=args.batches,
        warmup=args.warmup,
        seed=args.seed,
        compare=args.compare,
        cross_check=args.cross_check,
        engine={name: value for name in ENGINE_FLAGS if (value := getattr(args, name)) is not None},
        measure={name: getattr(args, name) for name in ("power_source", "feed", "interval_ms")},
        versions={"llama-cpp-python": engine_version()},
    )
    cells = "all" if args.ncu else "none" if args.no_ncu else "document"
    return SweepSettings(
        grid=grid,
        outdir=args.outdir or SWEEPS,
        power=PowerSettings(args.power_source, args.feed, args.interval_ms, args.idle_seconds),
        profiling=Profiling(cells, args.ncu_path, args.ncu_requests, args.ncu_tokens, args.ncu_timeout),
        cell_timeout_s=args.cell_timeout,
        dry_run=args.dry_run,
        pilot=not args.no_pilot,
        quiet=args.quiet,
        keeps_master_log=args.action == "all" and not args.grid,
    )


def tell_of_tensor_parallelism() -> None:
    """The original's variable has no meaning here; who set it is told."""
    size = os.environ.get("TENSOR_PARALLEL_SIZE", "1")
    if size != "1":
        print(f"TENSOR_PARALLEL_SIZE={size} has no meaning on one board, and is left aside", file=sys.stderr)


def sum_up(args: argparse.Namespace) -> int:
    """What the sweeps came to, written and printed."""
    if not args.dirs:
        raise UserError("which results? summary DIR, as in: summary sweeps")
    from edgebench.speculation.report import write_report
    from edgebench.speculation.summary import summarize, write_tables

    outdir = args.outdir or SUMMED
    summary = summarize([Path(name) for name in args.dirs])
    write_tables(summary, outdir)
    print(write_report(summary, outdir, not args.no_plots))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left of the grids, or sum up what there is."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_intermixed_args(words)
    try:
        if args.action == "summary":
            return sum_up(args)
        tell_of_tensor_parallelism()
        settings = settings_of(args)
        from edgebench.speculation.sweep import run_sweep

        with ending_signals():
            return run_sweep(settings)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
    except OSError as problem:
        print(f"error: {told(problem)}", file=sys.stderr)
    except Interrupted as interrupted:
        command = shlex.join(own_call(words))
        print(f"\nstopped; finished cells stay. Go on with:\n  {command}", file=sys.stderr)
        return interrupted.exit_code
    return 1


if __name__ == "__main__":
    open_door(main)
