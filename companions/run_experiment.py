#!/usr/bin/env python3
"""Written experiments: run them in cycles, leave them alone, come back to them.

An experiment is a file (YAML or JSON), a preset, or both, and flags beat them.
Each has a folder results/experiments/ID with its effective configuration, what
overrode what, the state, one JSONL of the collector's own records per cycle,
environments, summary.json and summary.md. The same command again goes on where
it stopped.

  run        measure; --detach outlives the terminal; also called experiment
  batch      several files, one after the other
  plan       what it will cost: time, energy, disk, judge
  status, follow, stop      from any shell; without ID the one that runs, else
                            the newest
  results    list, or show ID
  aggregate  summary and workbooks of what is there
  config     show, validate, new, grid: the experiment files
  presets, datasets, devices

ID is an experiment's name and hash, the beginning of it, or its folder. Flags
may be written with - or _ between their words.

Exit: 0 done, 1 something failed, 2 usage, 130 Ctrl-C (with the command to go
on).

Example:
  python companions/run_experiment.py config new --preset benchmark \\
      --out results/exp.yaml
  python companions/run_experiment.py run results/exp.yaml --cycles 5 \\
      --until_ci 2% --detach
  python companions/run_experiment.py follow
  python companions/run_experiment.py results show exp
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError, told
from edgebench.shell.door import Parser, at_least, between, open_door

if TYPE_CHECKING:  # the rooms are imported by the command that needs them: a reading one answers at once
    from edgebench.experiments.config import Chosen

OUTPUT = "results/experiments"
PRESETS = "quick-test, benchmark or throughput"
MOST_CYCLES = 10
# Flags that are a key of the experiment file under their own name or this one.
FLAG_KEYS = {
    "model": "models", "prompts": "prompts", "levels": "levels", "limit": "limit", "repeats": "repeats",
    "cycles": "cycles", "until_ci": "until_ci", "order": "order", "warm_up": "warm_up", "name": "name",
    "max_tokens": "generation.max_tokens", "temperature": "generation.temperature",
    "seed": "generation.seed", "n_ctx": "engine.n_ctx", "n_gpu_layers": "engine.n_gpu_layers",
    "source": "power.source", "feed": "power.feed", "idle_seconds": "power.idle_seconds",
    "batch_sizes": "batch_sizes", "batch_size": "batch_size", "dataset": "dataset.source",
    "sample_size": "sample_size", "shuffle": "dataset.shuffle", "output": "output",
    "precision": "fp_precision", "num_processes": "num_processes", "gpu_list": "gpu_list",
    "quantization": "quantization",
}  # fmt: skip


# --- run, batch, plan ---


def assignments(args: argparse.Namespace) -> list[str]:
    """The flags as KEY=VALUE; JSON values are YAML too."""
    given = []
    for flag, key in FLAG_KEYS.items():
        value = getattr(args, flag, None)
        if value is not None:
            given.append(f"{key}={json.dumps(value)}")
    return [*given, *args.set]


def chosen_by(args: argparse.Namespace, file: Path | None) -> Chosen:
    """The effective configuration of a file and the flags; what has no meaning here is said."""
    from edgebench.experiments.config import effective
    from edgebench.shell.progress import say

    chosen = effective(file, args.preset, assignments(args))
    for note in chosen.notes:
        say(f"note: {note}")
    return chosen


def run(args: argparse.Namespace) -> int:
    """Measure an experiment, or what is left of it."""
    from edgebench.experiments import starting
    from edgebench.experiments.folder import command_for

    if args.dry_run:
        return dry_run(args)
    folder = folder_to_run(args)
    if folder is None:
        return 0
    start = starting.Start(args.fresh, args.retry_failed, args.no_aggregate)
    if not starting.is_left(folder, start):
        shown = command_for("results show", folder)
        print(f"{folder.name} is complete; see it with: {shown}; or start over with --fresh")
        return 0
    starting.remember(folder, start)
    if args.detach:
        starting.start_detached(folder)
        print(f"{folder.name} runs on its own now. From any shell:")
        for verb in ("status", "follow", "stop"):
            print(f"  {command_for(verb, folder)}")
        return 0
    print(f"experiment {folder}", file=sys.stderr, flush=True)
    starting.become_conductor(folder.resolve())
    return 0


def folder_to_run(args: argparse.Namespace) -> Path | None:
    """The folder of the experiment that is wanted, made where it is new; None if the user leaves it be."""
    from edgebench.experiments import folder as folders
    from edgebench.experiments import starting
    from edgebench.shell.progress import say

    if args.resume:
        if args.file or args.preset or args.fresh or assignments(args)[bool(args.output) :]:
            raise UserError("--resume restores everything; leave out file, preset, flags and --fresh")
        return folders.find(Path(args.output or OUTPUT), args.resume)
    if not args.file and not args.preset:
        raise UserError("what is to run? give FILE, --preset NAME --model PATH, or --resume ID")
    chosen = chosen_by(args, args.file)
    match = None if args.fresh else starting.match_of(chosen)
    if match and sys.stdin.isatty() and sys.stderr.isatty():
        answer = ask_about(match, starting.how_far(match))
        if answer == "leave":
            return None
        if answer == "resume":
            return Path(match["folder"])
        args.fresh = Path(match["folder"]) == starting.folder_of(chosen)
    starting.check(chosen, args.fresh)
    folder = starting.prepare(chosen, args.fresh)
    for state in starting.unfinished(folder.parent, but=folder):
        say(starting.line_of(state))
    return folder


def ask_about(match: dict[str, Any], how_far: str) -> str:
    """resume, fresh or leave: what the user wants of an unfinished experiment."""
    print(f"unfinished: {how_far}", file=sys.stderr)
    while True:
        print("[r]esume it, start [f]resh, or [l]eave everything as it is? [r] ", end="", file=sys.stderr)
        sys.stderr.flush()
        line = sys.stdin.readline()
        answer = line.strip().lower() or ("r" if line else "l")  # no line at all: the terminal has gone
        for word in ("resume", "fresh", "leave"):
            if word.startswith(answer):
                return word


def dry_run(args: argparse.Namespace) -> int:
    """Only show the effective configuration."""
    from edgebench.experiments.preflight import refuse_unready, runs_per_cycle

    chosen = chosen_by(args, args.file)
    refuse_unready(chosen.config)
    runs = (runs_per_cycle(chosen.config) or 0) * chosen.config["cycles"] or None
    print(json.dumps({**chosen.as_record(), "runs": runs}, indent=2))
    return 0


def batch(args: argparse.Namespace) -> int:
    """Several experiment files."""
    from edgebench.experiments import batch as room
    from edgebench.experiments.starting import Start

    chosen = [chosen_by(args, file) for file in room.matching(args.patterns)]
    start = Start(args.fresh, args.retry_failed, args.no_aggregate)
    outcomes = room.run_all(chosen, args.parallel, start)
    for outcome in outcomes:
        print(outcome)
    return room.exit_code(outcomes)


def plan(args: argparse.Namespace) -> int:
    """What an experiment will cost."""
    from edgebench.experiments.costs import Asked, as_text, cost_of

    asked = Asked(
        file=args.file,
        preset=args.preset,
        assignments=args.set,
        pilot_tasks=args.pilot_tasks,
        trained=args.trained,
        model_path=args.model_path,
        output_tokens=args.output_tokens,
        price_in=args.price_in,
        price_out=args.price_out,
    )
    cost = cost_of(asked)
    print(json.dumps(cost, indent=2) if args.json else as_text(cost))
    return 0


# --- Looking at them ---


def watch(args: argparse.Namespace) -> int:
    """status, follow, stop."""
    from edgebench.experiments import watch as room
    from edgebench.experiments.folder import find, look

    folder = find(Path(args.output), args.id)
    if args.command == "follow":
        return room.follow(folder)
    if args.command == "stop":
        print(room.stop(folder, args.now))
        return 0
    state = look(folder)
    print(json.dumps(state, indent=2) if args.json else room.text_of(state))
    return 0


def results_list(args: argparse.Namespace) -> int:
    """One line per experiment, the newest first."""
    from edgebench.experiments.results import list_line, states_of
    from edgebench.shell.progress import say

    states = states_of(Path(args.output), args.all)
    if args.json:
        print(json.dumps(states, indent=2))
        return 0
    for state in states:
        print(list_line(state))
    if not states:
        say(f"no experiments in {args.output}; start one with: run FILE")
    return 0


def results_show(args: argparse.Namespace) -> int:
    """The summary as text or as JSON; raw: the collector's records of all cycles."""
    from edgebench.experiments import results
    from edgebench.experiments.folder import find

    if args.id is None:
        raise UserError("which experiment? results show ID; see them with: results list")
    folder = find(Path(args.output), args.id)
    if args.raw:
        for line in results.raw_lines(folder):
            sys.stdout.write(line)
    elif args.json:
        print(results.summary_json(folder), end="")
    else:
        print(results.summary_text(folder), end="")
    return 0


def aggregate(args: argparse.Namespace) -> int:
    """Summary and workbooks of one experiment, or of all."""
    from edgebench.experiments import results
    from edgebench.experiments.folder import find

    if bool(args.id) == args.all:
        raise UserError("which experiment? aggregate ID, or aggregate --all")
    output = Path(args.output)
    if args.all:
        return results.aggregate_all(output, args.force)
    return results.aggregate_one(find(output, args.id), args.force)


# --- Experiment files ---


def config_show(args: argparse.Namespace) -> int:
    """The effective configuration as JSON."""
    print(json.dumps(chosen_by(args, args.file).as_record(), indent=2))
    return 0


def config_validate(args: argparse.Namespace) -> int:
    """All faults of all files; 1 if a file could not be run even with everything in place."""
    from edgebench.experiments.validate import validate

    reports = [validate(file, args.preset) for file in args.files]
    for report in reports:
        for line in report.lines():
            print(line, file=sys.stderr)
        if report.id is not None:
            print(f"{report.file}: valid, id {report.id}")
    return int(any(report.faults for report in reports))


def config_new(args: argparse.Namespace) -> int:
    """A file to begin with."""
    from edgebench.experiments.grid import new_text, write_new

    if args.out is None:
        print(new_text(args.preset, args.model, None), end="")
    else:
        write_new(args.preset, args.model, args.out)
    return 0


def config_grid(args: argparse.Namespace) -> int:
    """One file per combination."""
    from edgebench.experiments.grid import write_grid

    print(*write_grid(args.file, args.vary, args.outdir or args.file.parent, args.preset), sep="\n")
    return 0


def config_values(args: argparse.Namespace) -> int:
    """Typed values, as JSON."""
    from edgebench.experiments.config import grid_values

    print(json.dumps(grid_values(args.vary)))
    return 0


def presets(args: argparse.Namespace) -> int:
    """What the presets set."""
    from edgebench.experiments.config import presets_as_record, presets_as_text

    print(json.dumps(presets_as_record(), indent=2) if args.json else presets_as_text())
    return 0


def datasets(args: argparse.Namespace) -> int:
    """The named sets of prompts."""
    from edgebench.prompts.sources import format_sets, sets_as_records

    print(json.dumps(sets_as_records()) if args.json else format_sets())
    return 0


def devices(args: argparse.Namespace) -> int:
    """What this machine computes on."""
    from edgebench.board import devices as room

    listed = room.list_devices(args.root)
    print(json.dumps(listed.as_record()) if args.json else room.format_table(listed))
    return 0


# --- Command line ---


def percentage(text: str) -> str:
    """2%: a share above 0 and below 100 percent."""
    number = at_least(0, float)(text.strip().removesuffix("%"))
    if not text.strip().endswith("%") or not 0 < number < 100:
        raise argparse.ArgumentTypeError(f"{text} must be a percentage, as in 2%")
    return text


def add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of run and batch that beat the file."""
    add = parser.add_argument_group("experiment; each beats the file").add_argument
    add("--preset", metavar="NAME", help=f"{PRESETS}; see: presets")
    add("--model", "-m", nargs="+", metavar="GGUF", help="model files")
    add("--prompts", nargs="+", metavar="FILE", help="prompts files")
    add("--dataset", "-d", metavar="SOURCE", help="instead of prompts: a file or a named set, see: datasets")
    add("--sample_size", "-n", type=at_least(1), metavar="N", help="prompts to take of it (or of each file)")
    add("--shuffle", action="store_const", const=True, help="draw them")
    add("--levels", nargs="+", metavar="NAME", help="prompt lengths")
    add("--limit", type=at_least(1), metavar="N", help="tasks")
    add("--repeats", type=at_least(1), metavar="N", help="runs of each prompt within a cycle")
    add("--batch_sizes", nargs="+", type=at_least(1), metavar="N", help="of preset throughput")
    add(
        "--batch_size",
        "-b",
        type=at_least(1),
        metavar="N",
        help="answers decoded together: above 1 throughput",
    )
    add("--max_tokens", type=at_least(1), metavar="N", help="length of answers")
    add("--temperature", type=at_least(0, float), metavar="T", help="0 is greedy")
    add("--seed", type=int, metavar="N", help="of the first cycle")
    add("--n_ctx", type=at_least(1), metavar="N", help="context")
    add("--n_gpu_layers", type=int, metavar="N", help="layers on the GPU")
    add("--source", metavar="SOURCE", help="of power; none: measure times only")
    add("--feed", metavar="CMD", help="a command that prints tegrastats lines")
    add("--idle_seconds", type=at_least(0, float), metavar="S", help="of idle baseline")
    add("--cycles", "-c", type=between(1, MOST_CYCLES), metavar="N", help="whole repeats, 1 to 10")
    add("--until_ci", type=percentage, metavar="N%", help="stop when energy per token is known this well")
    add("--warm_up", type=at_least(0), metavar="N", help="runs that do not count")
    add("--order", metavar="ORDER", help="sequential, interleaved or shuffled")
    add("--name", metavar="NAME", help="of the experiment")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the file")
    add = parser.add_argument_group("words of other tools; what stands for them here is said").add_argument
    add("--precision", metavar="TYPE", help="a GGUF has the precision of its file")
    add("--quantization", action="store_const", const=True, help="a GGUF is quantized or not")
    add("--no-quantization", dest="quantization", action="store_const", const=False, help="the same")
    add("--num_processes", type=at_least(1), metavar="N", help="one board, one process")
    add("--gpu_list", metavar="N,N", help="CUDA_VISIBLE_DEVICES=UUID chooses")
    add = parser.add_argument_group("course").add_argument
    add("--output", metavar="DIR", help=f"folder of all experiments (default: {OUTPUT})")
    add("--fresh", action="store_true", help="keep what is there under another name and start over")
    add("--retry_failed", action="store_true", help="do failed cycles again")
    add("--no_aggregate", action="store_true", help="no workbooks at the end")


def add_output(command: argparse.ArgumentParser, default: str = OUTPUT) -> None:
    """Where the experiments are."""
    command.add_argument("--output", default=default, metavar="DIR", help=f"(default: {OUTPUT})")


def add_running(add: Callable[..., Any]) -> None:
    """run, batch, plan."""
    one = add("run", run, "measure an experiment, or what is left of it", aliases=["experiment"])
    one.add_argument("file", nargs="?", type=Path, metavar="FILE", help="YAML or JSON")
    add_experiment_flags(one)
    one.add_argument("--resume", metavar="ID", help="go on, everything as it was")
    one.add_argument("--detach", action="store_true", help="run on when the terminal closes")
    one.add_argument("--dry_run", action="store_true", help="only show the effective configuration")
    many = add("batch", batch, "several files, one after the other")
    many.add_argument("patterns", nargs="+", metavar="GLOB", help="experiment files")
    many.add_argument(
        "--parallel", type=at_least(1), default=1, metavar="N", help="at once; without energy only"
    )
    add_experiment_flags(many)
    cost = add("plan", plan, "what an experiment will cost")
    cost.add_argument("file", type=Path, metavar="FILE", help="YAML or JSON")
    cost.add_argument("--preset", metavar="NAME", help="beaten by the file")
    cost.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="beats the file")
    cost.add_argument(
        "--pilot_tasks", type=at_least(1), default=2, metavar="N", help="of each prompts file (2)"
    )
    cost.add_argument("--trained", metavar="NAME", help="a model of token2metrics.py instead of a pilot")
    cost.add_argument(
        "--model_path", type=Path, default=Path("outputs"), metavar="DIR", help="where it lies (outputs)"
    )
    cost.add_argument(
        "--output_tokens", type=at_least(1), metavar="N", help="with --trained: length of answers"
    )
    cost.add_argument(
        "--price_in", type=at_least(0, float), metavar="X", help="of a million tokens to the judge"
    )
    cost.add_argument("--price_out", type=at_least(0, float), metavar="X", help="of a million tokens from it")
    cost.add_argument("--json", action="store_true", help="as JSON")


def add_looking(add: Callable[..., Any]) -> None:
    """status, follow, stop, results, aggregate."""
    for name, about in (
        ("status", "how far it is"),
        ("follow", "the same, until it ends"),
        ("stop", "end it after the current run"),
    ):
        command = add(name, watch, about)
        command.add_argument("id", nargs="?", metavar="ID", help="(default: the one that runs)")
        add_output(command)
        if name == "status":
            command.add_argument("--json", action="store_true", help="as JSON")
        if name == "stop":
            command.add_argument("--now", action="store_true", help="without waiting for the current run")
    results = add("results", None, "list, or show ID")
    kinds = results.add_subparsers(dest="what", required=True, metavar="list|show")
    listing = kinds.add_parser("list", help="one line per experiment, the newest first")
    listing.set_defaults(act=results_list)
    listing.add_argument("--all", action="store_true", help="those too that --fresh has set aside")
    show = kinds.add_parser("show", help="one summary")
    show.set_defaults(act=results_show)
    show.add_argument("id", nargs="?", metavar="ID", help="or the beginning of one")
    unless_before = argparse.SUPPRESS  # `results --json list` is as good as `results list --json`
    show.add_argument("--raw", action="store_true", default=unless_before, help="the collector's records")
    for command in (listing, show):
        command.add_argument("--json", action="store_true", default=unless_before, help="as JSON")
        add_output(command, unless_before)
    for flag in ("--json", "--raw"):
        results.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    results.add_argument("--output", default=OUTPUT, help=argparse.SUPPRESS)
    again = add("aggregate", aggregate, "summary and workbooks of what is there")
    again.add_argument("id", nargs="?", metavar="ID")
    again.add_argument("--all", action="store_true", help="all experiments")
    again.add_argument("--force", action="store_true", help="also of what is not complete")
    add_output(again)


def add_files(add: Callable[..., Any]) -> None:
    """config, presets, datasets, devices."""
    kinds = add("config", None, "show, validate, new, grid").add_subparsers(
        dest="what", required=True, metavar="COMMAND"
    )
    show = kinds.add_parser("show", help="the effective configuration as JSON")
    show.set_defaults(act=config_show)
    show.add_argument("file", nargs="?", type=Path, metavar="FILE")
    show.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="beats the file")
    validate = kinds.add_parser("validate", help="check files, and whether they could be run now")
    validate.set_defaults(act=config_validate)
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    new = kinds.add_parser("new", help="a file to begin with")
    new.set_defaults(act=config_new)
    new.add_argument("--model", "-m", nargs="+", default=[], metavar="GGUF", help="model files")
    new.add_argument("--out", type=Path, metavar="FILE", help="YAML or .json (default: stdout)")
    grid = kinds.add_parser("grid", aliases=["generate-grid"], help="one file per combination")
    grid.set_defaults(act=config_grid)
    grid.add_argument("file", type=Path, metavar="FILE")
    grid.add_argument("--vary", action="append", required=True, metavar="KEY=A,B", help="values to combine")
    grid.add_argument("--outdir", "--output_dir", type=Path, metavar="DIR", help="(default: beside FILE)")
    values = kinds.add_parser("values", help="typed values, as JSON")
    values.set_defaults(act=config_values)
    values.add_argument("vary", nargs="+", metavar="KEY=A,B", help="as of --vary")
    for command in (show, validate, new, grid):
        command.add_argument("--preset", metavar="NAME", help=PRESETS)
    former = kinds.add_parser("presets")  # what it was called before, not listed
    former.set_defaults(act=presets)
    former.add_argument("--json", action="store_true", help="as JSON")
    for name, act, about in (
        ("presets", presets, "what the presets set"),
        ("datasets", datasets, "named sets of prompts"),
    ):
        add(name, act, about).add_argument("--json", action="store_true", help="as JSON")
    machine = add("devices", devices, "what this machine computes on", aliases=["gpus"])
    machine.add_argument("--json", action="store_true", help="as JSON")
    machine.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="a recorded machine")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, act: Any, about: str, aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, aliases=list(aliases))
        command.set_defaults(act=act)
        return command

    add_running(add)
    add_looking(add)
    add_files(add)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command says."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.act(args))
    except (UserError, OSError) as problem:
        print(f"error: {told(problem)}", file=sys.stderr)
        return getattr(problem, "exit_code", 1)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    open_door(main)
