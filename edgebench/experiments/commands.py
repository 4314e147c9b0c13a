"""Written experiments: run them in cycles, leave them alone, come back to them.

An experiment is a file (YAML or JSON), a preset, or both, and flags beat them. Each
has a folder results/experiments/ID with its effective configuration, what overrode
what, the state, one JSONL of the collector's own records per cycle, environments,
summary.json and summary.md. The same command again goes on where it stopped.

  run        measure; --detach outlives the terminal
  batch      several files, one after the other
  plan       what it will cost: time, energy, disk, judge
  status, follow, stop      from any shell
  results    list, or show ID
  aggregate  summary and workbooks of what is there
  config     show, validate, new, grid: the experiment files
  presets, datasets, devices

Exit: 0 done, 1 something failed, 2 usage, 130 Ctrl-C (with the command to go on).

Example:
  python companions/run_experiment.py config new --preset benchmark --out results/exp.yaml
  python companions/run_experiment.py run results/exp.yaml --cycles 5 --until_ci 2% --detach
  python companions/run_experiment.py follow
  python companions/run_experiment.py results show exp
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.batch import main as write_files
from edgebench.experiments.config import check_inputs, effective, runs_per_cycle
from edgebench.experiments.config import main as show_configuration
from edgebench.experiments.costs import main as plan_costs
from edgebench.experiments.folder import OUTPUT, cycle_files, find, folders, look, read_json, write_json
from edgebench.experiments.folder import main as watch
from edgebench.experiments.summary import screen_of, sum_up
from edgebench.records.jsonl import sha256_of
from edgebench.shell import lifeline
from edgebench.shell.door import Parser
from edgebench.shell.launch import room_command
from edgebench.shell.progress import say

ROOT = Path(__file__).resolve().parents[2]
WRITERS = ("new", "grid")  # `config` commands of batch.py; the others are config.py's
START_SECONDS = 60  # for a detached conductor to say that it runs
# Flags that are a key of the experiment file under their own name or this one.
FLAG_KEYS = {
    "model": "models", "prompts": "prompts", "levels": "levels", "limit": "limit", "repeats": "repeats",
    "cycles": "cycles", "until_ci": "until_ci", "order": "order", "warm_up": "warm_up", "name": "name",
    "max_tokens": "generation.max_tokens", "temperature": "generation.temperature",
    "seed": "generation.seed", "n_ctx": "engine.n_ctx", "n_gpu_layers": "engine.n_gpu_layers",
    "source": "power.source", "feed": "power.feed", "idle_seconds": "power.idle_seconds",
    "batch_sizes": "batch_sizes", "dataset": "dataset.source", "sample_size": "dataset.sample_size",
    "shuffle": "dataset.shuffle", "output": "output",
}  # fmt: skip
WATCHING = ("status", "follow", "stop")
OTHER_DOORS = {"datasets": ("load_prompts.py", "--list"), "devices": ("board_check.py", "devices")}
OTHERS = {  # commands of other rooms and doors, and what they do
    "config": "show, validate, new, grid",
    "presets": "what the presets set",
    "datasets": "named sets of prompts",
    "devices": "what this machine computes on",
    "plan": "what an experiment will cost",
    "status": "how far it is",
    "follow": "the same, until it ends",
    "stop": "end it after the current run",
}
Json = Mapping[str, Any]


# --- Configuration and folder ---


def assignments(args: argparse.Namespace) -> list[str]:
    """The flags as KEY=VALUE; JSON values are YAML too."""
    given = []
    for flag, key in FLAG_KEYS.items():
        value = getattr(args, flag, None)
        if value is not None:
            given.append(f"{key}={json.dumps(value)}")
    return [*given, *args.set]


def chosen_by(args: argparse.Namespace, file: str | None) -> dict[str, Any]:
    """{id, hash, preset, config, overrides} of a file and the flags."""
    return effective(Path(file) if file else None, args.preset, assignments(args))


def read_state(experiment: Path) -> dict[str, Any] | None:
    """The state, None where there is none; a running state whose process has gone reads interrupted."""
    try:
        return look(experiment)
    except (UserError, OSError):
        return None


def set_aside(folder: Path) -> None:
    """Rename an old folder: nothing is deleted."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S.%f")
    old = folder.with_name(f".{folder.name}.{stamp}.old")
    folder.rename(old)
    say(f"the earlier {folder.name} is kept as {old}")


def prepare(chosen: Json, fresh: bool) -> Path:
    """The experiment's folder, made or found again."""
    config = chosen["config"]
    folder = Path(str(config["output"])) / str(chosen["id"])
    if fresh and folder.exists():
        state = read_state(folder)
        if state and state["status"] == "running":
            raise UserError(f"{folder.name} is running; stop it first with: stop {folder.name}")
        set_aside(folder)
    if (folder / "state.json").exists():
        adopt(folder, chosen)
        return folder
    check_inputs(config)
    runs = runs_per_cycle(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "effective_config.json", config)
    write_json(folder / "overrides.json", chosen["overrides"])
    seed = config["generation"]["seed"]
    cycle = {"status": "pending", "runs": 0, "failed": 0, "started_at": None, "ended_at": None, "why": None}
    cycles = [{"n": n, **cycle} for n in range(1, config["cycles"] + 1)]
    state = {
        "schema_version": 1,
        "id": chosen["id"],
        "hash": chosen["hash"],
        "preset": chosen["preset"],
        "status": "prepared",
        "cwd": str(Path.cwd()),
        "seed": int(chosen["hash"], 16) % 2**31 if seed is None else seed,
        "runs_per_cycle": runs,
        "prompts_sha256": prompts_sha256(config, Path.cwd()),
        "process": None,
        "collector": None,
        "cycle": 0,
        "cycles": cycles,
    }
    write_json(folder / "state.json", state)  # last: with it, the folder is an experiment
    return folder


def prompts_sha256(config: Json, cwd: Path) -> dict[str, str | None]:
    """The prompts files as they are; None for one that is gone."""
    files = {path: cwd / path for path in map(str, config["prompts"])}
    return {name: sha256_of(path) if path.is_file() else None for name, path in files.items()}


def check_unchanged(folder: Path, state: Json) -> None:
    """The cycles must all be of the same prompts."""
    config = read_json(folder / "effective_config.json")
    now = prompts_sha256(config, Path(state.get("cwd", ".")))
    for name, sha256 in state.get("prompts_sha256", {}).items():
        if now.get(name) != sha256:
            raise UserError(
                f"{name} is not what it was when {folder.name} began; put it back, or start over with --fresh"
            )


def adopt(folder: Path, chosen: Json) -> None:
    """Take over what may change in an experiment that is there: how its answers are judged and laid out."""
    path = folder / "effective_config.json"
    old = read_json(path)
    new = {**old, **{name: chosen["config"][name] for name in ("judge", "aggregate")}}
    if new != old and (read_state(folder) or {}).get("status") != "running":
        write_json(path, new)
        write_json(folder / "overrides.json", chosen["overrides"])


def is_over(folder: Path, state: Json) -> bool:
    """Measured, and judged where the configuration names a judge?"""
    judge = read_json(folder / "effective_config.json")["judge"]
    return state["status"] == "completed" and (not judge or state.get("judged") == judge)


# --- Running ---


def conductor(folder: Path, detached: bool) -> list[str]:
    command = [*room_command("edgebench.experiments.conductor"), str(folder.resolve())]
    return [*command, "--detached"] if detached else command


def tell_unfinished(output: Path, but: Path) -> None:
    """A line on experiments that began and did not end."""
    for folder in folders(output)[:20]:
        state = read_state(folder) if folder != but else None
        if state and state["status"] in ("interrupted", "stopped"):
            done = f"{state['done']} of {state['total'] or '?'} runs"
            name = folder.name if output == Path(OUTPUT) else folder
            again = f"python companions/run_experiment.py run --resume {name}"
            say(f"unfinished: {folder.name}, {done}; go on with: {again}")


def choose(args: argparse.Namespace) -> Path | None:
    """The folder to run, None when there is nothing left to do in it."""
    if args.resume:
        if args.file or args.preset or assignments(args)[bool(args.output) :]:
            raise UserError("--resume restores everything; leave out file, preset and flags")
        folder = find(Path(args.output or OUTPUT), args.resume)
    else:
        if not args.file and not args.preset:
            raise UserError("what is to run? give FILE, --preset NAME --model PATH, or --resume ID")
        chosen = chosen_by(args, args.file)
        folder = prepare(chosen, args.fresh)
        tell_unfinished(folder.parent, folder)
    state = read_state(folder)
    if state is None:
        raise UserError(f"{folder}/state.json cannot be read; start over with --fresh")
    if state["status"] == "running":
        raise UserError(f"{folder.name} is running already; see it with: follow {folder.name}")
    check_unchanged(folder, state)
    over = all(cycle["status"] in ("completed", "failed") for cycle in state["cycles"])
    if state["status"] == "failed" and over and not args.retry_failed:
        raise UserError(f"{folder.name}: every cycle failed, {folder}/run.log says why; --retry_failed")
    if is_over(folder, state) and not (args.retry_failed and state["failed_cycles"]):
        print(
            f"{folder.name} is complete; see it with: results show {folder.name}, or start over with --fresh"
        )
        return None
    remember(folder, args)
    return folder


def remember(folder: Path, args: argparse.Namespace) -> None:
    """What a start is told beside the configuration."""
    state = read_json(folder / "state.json")
    state |= {"no_aggregate": bool(args.no_aggregate), "retry_failed": bool(args.retry_failed)}
    write_json(folder / "state.json", state)


def start_detached(folder: Path) -> int:
    """Start the conductor in a session of its own and wait until it says that it runs.

    The one child that is meant to outlive us, and the terminal: no lifeline.
    """
    cwd = read_json(folder / "state.json")["cwd"]
    with (folder / "run.log").open("ab") as log:
        child = subprocess.Popen(
            conductor(folder, True), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < until:
        state = read_json(folder / "state.json")
        if (state["process"] or {}).get("pid") == child.pid:
            break
        time.sleep(0.1)
    if child.poll():
        raise UserError(f"it did not start; {folder}/run.log says why")
    print(f"{folder.name} runs on its own now. From any shell:")
    for verb in ("status", "follow", "stop"):
        print(f"  python companions/run_experiment.py {verb} {folder}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Measure an experiment, or what is left of it."""
    if args.dry_run:
        chosen = chosen_by(args, args.file)
        check_inputs(chosen["config"])
        chosen["runs"] = (runs_per_cycle(chosen["config"]) or 0) * chosen["config"]["cycles"] or None
        print(json.dumps(chosen, indent=2))
        return 0
    folder = choose(args)
    if folder is None:
        return 0
    if args.detach:
        return start_detached(folder)
    print(f"experiment {folder}", file=sys.stderr, flush=True)
    folder = folder.resolve()
    os.chdir(read_json(folder / "state.json")["cwd"])
    command = conductor(folder, False)
    os.execv(command[0], command)  # one process less between Ctrl-C and the conductor


def matching(pattern: str) -> list[str]:
    """Files of a pattern that the shell has left alone; a name without a match stays, to be complained of."""
    base = Path(pattern).anchor
    return sorted(map(str, Path(base).glob(str(Path(pattern).relative_to(base))))) or [pattern]


def batch(args: argparse.Namespace) -> int:
    """Several experiment files; more than one at a time only where no energy is measured."""
    files = [path for pattern in args.patterns for path in matching(pattern)]
    chosen = [chosen_by(args, file) for file in files]  # a wrong file is found before the first run
    measuring = [
        one["id"]
        for one in chosen
        if one["config"]["power"]["source"] != "none" or one["config"]["power"]["feed"]
    ]
    if args.parallel > 1 and measuring:
        raise UserError(
            f"--parallel {args.parallel}: {measuring[0]} measures energy, and experiments run together share"
            " one meter, so that none of them could be told from the others. Leave out --parallel, or measure"
            " times only with --source none"
        )
    ready = [prepare(one, args.fresh) for one in chosen]
    for folder in ready:
        check_unchanged(folder, read_state(folder) or {})
    # Ctrl-C is the conductors' to answer; we wait for them. A handler, unlike SIG_IGN, is not inherited.
    signal.signal(signal.SIGINT, lambda *_: None)

    def one(folder: Path) -> int:
        state = read_state(folder)
        if state and is_over(folder, state):
            return 0
        # Told that we are gone, it ends its collector and writes down how far it is.
        done = lifeline.run(conductor(folder, False), death_signal=signal.SIGTERM, cwd=Path.cwd())
        return int(done.returncode)

    if args.parallel > 1:
        with ThreadPoolExecutor(args.parallel) as pool:
            codes = list(pool.map(one, ready))
    else:
        codes = []
        for folder in ready:
            codes.append(one(folder))
            if codes[-1] >= 128:  # Ctrl-C ends the batch, not only the experiment
                return codes[-1]
    for folder, code in zip(ready, codes, strict=True):
        print(f"{folder.name}: {'done' if code == 0 else f'exit code {code}'}")
    return 130 if 130 in codes else int(any(codes))  # a conductor that was killed has a code below 0


# --- Results ---


def results_list(output: Path, as_json: bool) -> int:
    """One line per experiment, the newest first."""
    states = [state for folder in folders(output) if (state := read_state(folder))]
    if as_json:
        print(json.dumps(states, indent=2))
        return 0
    for state in states:
        runs, cycles = (
            f"{state['done']}/{state['total'] or '?'}",
            f"{state['cycles_done']}/{state['cycles_total']}",
        )
        print(f"{state['status']:<12} {runs:>11} runs  {cycles:>5} cycles  {state['id']}")
    if not states:
        say(f"no experiments in {output}; start one with: run FILE")
    return 0


def results_show(folder: Path, raw: bool, as_json: bool) -> int:
    """The summary as text or as JSON; raw: the collector's records of all cycles."""
    if raw:
        for path in cycle_files(folder):
            sys.stdout.write(path.read_text(encoding="utf-8"))
        return 0
    if not (folder / "summary.json").exists():
        raise UserError(f"{folder.name} has no summary yet; make one with: aggregate {folder.name}")
    if as_json:
        print((folder / "summary.json").read_text(encoding="utf-8"), end="")
        return 0
    print(screen_of(folder), end="")
    return 0


def results(args: argparse.Namespace) -> int:
    """list or show."""
    output = Path(args.output or OUTPUT)
    if args.what == "list":
        return results_list(output, args.json)
    if not args.id:
        raise UserError("which experiment? results show ID; see them with: results list")
    return results_show(find(output, args.id), args.raw, args.json)


def aggregate(args: argparse.Namespace) -> int:
    """Summary and workbooks of one experiment, or of all."""
    output = Path(args.output or OUTPUT)
    if bool(args.id) == args.all:
        raise UserError("which experiment? aggregate ID, or aggregate --all")
    worst = 0
    for folder in folders(output) if args.all else [find(output, args.id)]:
        state = read_state(folder)
        if state is None or not state["done"]:
            say(f"{folder.name}: nothing measured yet")
            worst = worst if args.all else 1
        elif state["status"] not in ("completed", "failed") and not args.force:
            done = f"{state['done']} of {state['total'] or '?'} runs"
            say(f"{folder.name}: {state['status']}, {done}; sum up what is there with --force")
            worst = worst if args.all else 1
        else:
            worst = max(worst, lay_out(folder, state["mode"]))
    return worst


def lay_out(folder: Path, mode: str) -> int:
    """summary.json, summary.md, workbooks."""
    code = 0
    try:
        sum_up(folder)
    except (UserError, OSError, KeyError) as exc:
        say(f"error: {exc}")
        code = 1
    if mode == "collect":
        scores = [str(path) for path in folder.glob("scores_mtbench.csv")]
        given = ["--scores", *scores] if scores else []
        command = [sys.executable, str(ROOT / "aggregate_to_excels.py"), "--outdir", str(folder), *given]
        code = max(code, lifeline.run([*command, "--runs", *map(str, cycle_files(folder))]).returncode)
    print(f"{folder.name}: {folder / 'summary.md'}")
    return code


# --- Command line ---


def hand_over(command: str, words: Sequence[str]) -> int:
    """A command whose words are another room's, or another door's."""
    if command == "config":
        return write_files(words) if words and words[0] in WRITERS else show_configuration(words)
    if command == "presets":
        return show_configuration(["presets", *words])
    if command == "plan":
        return plan_costs(words)
    if command in WATCHING:
        return watch([command, *words])
    script, first = OTHER_DOORS[command]
    with contextlib.suppress(KeyboardInterrupt):
        done = lifeline.run([sys.executable, str(ROOT / "companions" / script), first, *words])
        return int(done.returncode)
    return 130


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of run and batch."""
    add = parser.add_argument_group("experiment; each beats the file").add_argument
    add("--preset", metavar="NAME", help="quick-test, benchmark or throughput; see: presets")
    add("--model", nargs="+", metavar="GGUF", help="model files")
    add("--prompts", nargs="+", metavar="FILE", help="prompts files")
    add("--dataset", metavar="SOURCE", help="instead of prompts: a file or a named set, see: datasets")
    add("--sample_size", type=int, metavar="N", help="prompts to take of the dataset")
    add("--shuffle", action="store_const", const=True, help="draw them")
    add("--levels", nargs="+", metavar="NAME", help="prompt lengths")
    add("--limit", type=int, metavar="N", help="tasks")
    add("--repeats", type=int, metavar="N", help="runs of each prompt within a cycle")
    add("--batch_sizes", nargs="+", type=int, metavar="N", help="of preset throughput")
    add("--max_tokens", type=int, metavar="N", help="length of answers")
    add("--temperature", type=float, metavar="T", help="0 is greedy")
    add("--seed", type=int, metavar="N", help="of the first cycle")
    add("--n_ctx", type=int, metavar="N", help="context")
    add("--n_gpu_layers", type=int, metavar="N", help="layers on the GPU")
    add("--source", metavar="SOURCE", help="of power; none: measure times only")
    add("--feed", metavar="CMD", help="a command that prints tegrastats lines")
    add("--idle_seconds", type=float, metavar="S", help="of idle baseline")
    add("--cycles", type=int, metavar="N", help="whole repeats, 1 to 10")
    add("--until_ci", metavar="N%", help="stop when energy per token is known this well")
    add("--warm_up", type=int, metavar="N", help="runs that do not count")
    add("--order", metavar="ORDER", help="sequential, interleaved or shuffled")
    add("--name", metavar="NAME", help="of the experiment")
    add("--output", metavar="DIR", help=f"folder of all experiments (default: {OUTPUT})")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the file")
    add("--fresh", action="store_true", help="keep what is there under another name and start over")


def add_other_commands(commands: Any) -> None:
    """results, aggregate, and those that other scripts do."""
    show = commands.add_parser("results", help="list, or show ID")
    show.add_argument("what", choices=("list", "show"))
    show.add_argument("id", nargs="?", metavar="ID", help="or the beginning of one")
    show.add_argument("--raw", action="store_true", help="the collector's records")
    show.add_argument("--json", action="store_true", help="as JSON")
    again = commands.add_parser("aggregate", help="summary and workbooks of what is there")
    again.add_argument("id", nargs="?", metavar="ID")
    again.add_argument("--all", action="store_true", help="all experiments")
    again.add_argument("--force", action="store_true", help="also of what is not complete")
    for command in (show, again):
        command.add_argument("--output", metavar="DIR", help=f"(default: {OUTPUT})")
    for name, about in OTHERS.items():
        other = commands.add_parser(name, help=about, add_help=False)
        other.add_argument("words", nargs=argparse.REMAINDER)


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("run", help="measure an experiment, or what is left of it")
    one.add_argument("file", nargs="?", metavar="FILE", help="YAML or JSON")
    add_run_flags(one)
    one.add_argument("--resume", metavar="ID", help="go on, everything as it was")
    one.add_argument("--retry_failed", action="store_true", help="do failed cycles again")
    one.add_argument("--no_aggregate", action="store_true", help="no workbooks at the end")
    one.add_argument("--detach", action="store_true", help="run on when the terminal closes")
    one.add_argument("--dry_run", action="store_true", help="only show the effective configuration")
    many = commands.add_parser("batch", help="several files, one after the other")
    many.add_argument("patterns", nargs="+", metavar="GLOB", help="experiment files")
    many.add_argument("--parallel", type=int, default=1, metavar="N", help="at once; without energy only")
    add_run_flags(many)
    add_other_commands(commands)
    return parser


def dispatch(args: argparse.Namespace) -> int:
    """The chosen command."""
    own = {"run": run, "batch": batch, "results": results, "aggregate": aggregate}
    return own[args.command](args) if args.command in own else hand_over(args.command, args.words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] and words[0] in OTHERS:
            return hand_over(words[0], words[1:])  # flags and --help are the other's
        return dispatch(build_parser().parse_args(words))
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
