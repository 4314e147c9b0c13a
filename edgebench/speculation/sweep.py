"""Speculative decoding on this board: do adaptive drafts and confidence early exit pay, for which workload?

Runs grids of cells, each cell a process of its own with its power recorded, beside plain decoding of every
workload. A cell that is finished is skipped while its configuration, model and prompts are the same.

  adaptive     fixed draft length, the published adaptive rule, our cost rule: run1_…_adaptive0.json,
               run1_…_adaptivepub.json, run1_…_adaptive1.json
  early-exit   thresholds of the draft's confidence: run3_r36_t128_temp0.0_thresh0.5.json
  oneoff       four scenarios: scenario_a_code_completion.json and its twin …_plain.json
  all          these three
  --grid FILE  a grid of your own, JSON or YAML: {requests: 8, draft_tokens: [2, 4, 8], adaptive: [off, cost]}
  summary      what came of it: Markdown, CSV, plots (summary --help)

Output: <outdir>/<grid>/<cell>.json, experiment.log per grid, power/ with the traces; of `all` a
master_experiment.log, too. Plain decoding is plain_r36_t128_temp0.0.json. A cell that no longer fits its
configuration is done again, the old file kept as <cell>.json.1 and so on. Latency s, energy J, power mW.

Example:
  python companions/sweep_speculative.py adaptive --model models/demo/demo-llama-F32.gguf --dry_run
  python companions/sweep_speculative.py all --model target.gguf --draft draft.gguf --requests 8
  python companions/sweep_speculative.py summary sweeps --outdir results/sweeps
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.session import PowerSettings
from edgebench.records.jsonl import exclusive, write_whole
from edgebench.shell import lifeline
from edgebench.shell.door import Parser
from edgebench.shell.launch import room_command
from edgebench.speculation.plan import Cell, plan
from edgebench.speculation.traffic import profile
from edgebench.speculation.weighing import CellFailed, CellRun, run_cell

GRIDS = ("adaptive", "early-exit", "oneoff")
ENGINE_FLAGS = ("n_ctx", "n_batch", "n_gpu_layers", "n_threads", "flash_attn", "prompt_format")
PILOT_TOKENS = 32
Pace = tuple[float, float]  # seconds per cell beside decoding, seconds per planned token


# ---------------------------------------------------------------------------
# Plan


def engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's flags that were given."""
    return {name: value for name in ENGINE_FLAGS if (value := getattr(args, name)) is not None}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the plan is made from."""
    grids = list(GRIDS) if args.action == "all" else [args.action] if args.action else []
    if args.dirs:
        raise UserError(f"{' '.join(args.dirs)}: one grid at a time; all, or --grid FILE for more")
    if loose := [pair for pair in args.prompts_for if "=" not in pair]:
        raise UserError(f"--prompts_for {loose[0]}: give SCENARIO=FILE, as in a=code.csv")
    if args.interval_ms < 1 or args.idle_seconds < 0:
        raise UserError("--interval_ms must be 1 or more, --idle_seconds 0 or more")
    swept = ("requests", "max_tokens", "temperature", "draft_tokens", "threshold")
    try:
        engine = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        engine = None
    return {
        "grids": grids + [str(path) for path in args.grid],
        "prompts_for": dict(pair.split("=", 1) for pair in args.prompts_for),
        **{name: getattr(args, name) for name in ("model", "draft", "drafter", "prompts", "levels", *swept)},
        **{name: getattr(args, name) for name in ("batches", "warmup", "seed", "compare")},
        "engine": engine_settings(args),
        "measure": {name: getattr(args, name) for name in ("power_source", "feed", "interval_ms")},
        "versions": {"llama-cpp-python": engine},
    }


def plan_cells(args: argparse.Namespace) -> list[Cell]:
    """The cells. Raises UserError."""
    if not args.action and not args.grid:
        raise UserError("which grid? adaptive, early-exit, oneoff, all, or --grid FILE")
    if not args.model:
        raise UserError("which model? give its file with --model, or set TARGET_MODEL")
    return plan(settings_of(args))


def cell_file(cell: Mapping[str, Any], args: argparse.Namespace) -> Path:
    """Where a cell's result belongs."""
    return Path(args.outdir, cell["grid"], f"{cell['name']}.json")


def stored(path: Path) -> dict[str, Any] | None:
    """A finished cell's document, or None."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if document["summary"]["per_mode"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_done(cell: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """Whether the cell's result is there and is one of this very configuration."""
    document = stored(cell_file(cell, args))
    return document is not None and (document.get("sweep") or {}).get("config_hash") == cell["config_hash"]


# ---------------------------------------------------------------------------
# Time


def pace_of_finished(cells: Sequence[Cell], args: argparse.Namespace) -> Pace | None:
    """The pace of the cells of this model that are finished; None without one."""
    took_s = decoded_s = 0.0
    units = count = 0
    for grid in {cell["grid"] for cell in cells}:
        for path in sorted((Path(args.outdir) / grid).glob("*.json")):
            document = stored(path) or {}
            sweep = document.get("sweep") or {}
            if sweep.get("model") == args.model and sweep.get("wall_s"):
                batches = [*document.get("results", []), *(document.get("plain") or [])]
                decoded_s += sum(batch.get("latency_s") or 0.0 for batch in batches)
                took_s += sweep.get("took_s") or sweep["wall_s"]
                units, count = units + sweep["units"], count + 1
    return (max(0.0, took_s - decoded_s) / count, decoded_s / units) if units else None


def seconds_for(cells: Sequence[Cell], pace: Pace) -> float:
    """How long these cells take, if every answer has its full length."""
    units: int = sum(cell["units"] for cell in cells)
    return len(cells) * pace[0] + units * pace[1]


def pilot(args: argparse.Namespace) -> Pace | None:
    """The pace of a short plain run; None, with the cause on stderr, where it fails."""
    say(args, f"pilot: {PILOT_TOKENS} tokens, for an estimate of time")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pilot.json"
        flags = ["--model", args.model, "--prompts", args.prompts, "--levels", args.levels, "--plain"]
        flags += ["--requests", "1", "--max_tokens", str(PILOT_TOKENS), "--batches", "1", "--warmup", "0"]
        for name, value in engine_settings(args).items():
            flags += [f"--{name}", str(value)]
        begin = time.monotonic()
        done = lifeline.run(
            [*speculate_command(args), *flags, "--out", str(out)], capture_output=True, text=True
        )
        took_s = time.monotonic() - begin
        document = stored(out)
    if document is None:
        cause = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        say(args, f"pilot failed: {cause}")
        return None
    decoded_s = float(document["summary"]["per_mode"][0]["latency_avg_s"])
    return max(0.0, took_s - decoded_s) + args.idle_seconds, decoded_s / PILOT_TOKENS


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(3700)
    ('42 s', '1 h 02 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# ---------------------------------------------------------------------------
# Running


def say(args: argparse.Namespace, text: str) -> None:
    """A line for people, on stderr."""
    if not args.quiet:
        print(text, file=sys.stderr, flush=True)


def log_line(folder: Path, text: str) -> None:
    """Append one stamped line to a grid's experiment.log."""
    stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with (folder / "experiment.log").open("a", encoding="utf-8") as log:
        log.write(f"{stamp} {text}\n")


def speculate_command(args: argparse.Namespace) -> list[str]:
    """The process of one cell."""
    return shlex.split(args.speculate) if args.speculate else [*room_command("edgebench.speculation.cell")]


def cell_run(cell: Cell, args: argparse.Namespace, part: Path) -> CellRun:
    """A cell's process, which sits still once its models are loaded, and its power."""
    command = [*speculate_command(args), *cell["flags"], "--out", str(part)]
    sit_still = ("--idle_seconds", str(args.idle_seconds))
    power = PowerSettings(args.power_source, args.feed, args.interval_ms, args.idle_seconds)
    trace = part.parent / "power" / f"{cell['name']}.csv"
    return CellRun(command, sit_still, part, trace, power, args.cell_timeout)


def set_aside(path: Path) -> None:
    """Keep an older result under the next free number."""
    if path.exists():
        number = 1
        while (old := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.replace(old)


def profile_cell(cell: Cell, args: argparse.Namespace, document: dict[str, Any]) -> None:
    """Counters of a short profiled process of its own, into ncu_metrics; timed batches stay untouched."""
    mode = document["summary"]["per_mode"][0]
    csv = cell_file(cell, args).parent / "ncu" / f"{cell['name']}.ncu.csv"
    csv.parent.mkdir(exist_ok=True)
    short: dict[str, object] = {"--requests": args.ncu_requests, "--max_tokens": args.ncu_tokens}
    short |= {"--batches": 1, "--warmup": 0}
    flags = [*cell["flags"]]
    if cell["role"] != "plain":
        short["--compare"] = "none"  # plain decoding beside it would be counted, too
    for flag, value in short.items():
        flags[flags.index(flag) + 1] = str(value)
    with tempfile.TemporaryDirectory() as folder:
        inner = [*speculate_command(args), *flags, "--out", str(Path(folder) / "profiled.json")]
        try:
            found = profile(inner, csv, args.ncu_path)
            mode["ncu_metrics"] = found["metrics"]
            mode["ncu"] = {"kernels": found["kernels"], "csv": str(csv), "reason": None}
        except (UserError, OSError) as exc:
            mode["ncu"] = {"reason": str(exc)}
            say(args, f"  no memory counters: {exc}")
    mode["ncu"] |= {"requests": args.ncu_requests, "max_tokens": args.ncu_tokens}


def add_counters(cells: Sequence[Cell], args: argparse.Namespace) -> None:
    """Profile finished cells that have no counters yet; their timed batches stay as they are."""
    for cell in cells:
        path = cell_file(cell, args)
        document = stored(path)
        if document is None or document["summary"]["per_mode"][0].get("ncu_metrics"):
            continue
        say(args, f"{cell['grid']}/{cell['name']}: memory counters")
        profile_cell(cell, args, document)
        if document["summary"]["per_mode"][0]["ncu_metrics"]:  # else the file stays as it is
            write_whole(path, json.dumps(document))


def finish_cell(
    cell: Cell, args: argparse.Namespace, part: Path, started_at: str, took_s: float
) -> dict[str, Any]:
    """Give the result its identity and its place. CellFailed where the process wrote none."""
    document = stored(part)
    if document is None:
        raise CellFailed("the process ended well but wrote no result")
    if args.ncu:
        profile_cell(cell, args, document)
    document["sweep"] = {
        **{name: cell[name] for name in ("grid", "name", "group", "role", "units", "config", "config_hash")},
        "model": args.model,
        "draft": args.draft,
        "started_at": started_at,
        "wall_s": document.get("cell_wall_s"),
        "took_s": round(took_s, 3),
    }
    path = cell_file(cell, args)
    if "out" in (document.get("config") or {}):
        document["config"]["out"] = str(path)  # not the temporary name that it was written under
    set_aside(path)
    write_whole(path, json.dumps(document))
    part.unlink()
    return document


def stats_line(document: Mapping[str, Any]) -> str:
    """What the draft's confidence has stopped, in the words that people grep for."""
    mode = document["summary"]["per_mode"][0]
    stopped, checks = mode.get("tokens_stopped_by_confidence") or 0, mode.get("total_confidence_checks") or 0
    # One check ends a whole draft: the share is of the tokens that were to be drafted.
    wanted = stopped + (mode.get("spec_num_draft_tokens") or 0)
    share = f"{100 * stopped / wanted:.1f}% of the tokens to draft" if checks and wanted else "none checked"
    return f"Confidence early exit stats: {stopped} tokens stopped out of {checks} checks ({share})"


def measure_cell(cell: Cell, args: argparse.Namespace, label: str) -> str | None:
    """Run one cell; None, or the cause of its failure. Its grid's log tells both."""
    path = cell_file(cell, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{cell['name']}.part")
    part.unlink(missing_ok=True)
    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    log_line(path.parent, f"{cell['name']}: START {shlex.join(cell['flags'])}")
    begin = time.monotonic()
    try:
        run_cell(cell_run(cell, args, part), lambda past_s: show_progress(args, label, past_s))
        document = finish_cell(cell, args, part, started_at, time.monotonic() - begin)
    except CellFailed as exc:
        part.unlink(missing_ok=True)
        log_line(path.parent, f"{cell['name']}: FAILED {exc}")
        return str(exc)
    mode = document["summary"]["per_mode"][0]
    reason = (mode.get("energy") or {}).get("reason")
    log_line(path.parent, f"{cell['name']}: {stats_line(document)}")
    log_line(
        path.parent, f"{cell['name']}: COMPLETE in {time.monotonic() - begin:.1f} s, "
        f"latency_avg_s {mode['latency_avg_s']:.4f}" + (f"; no energy: {reason}" if reason else "")
    )  # fmt: skip
    return None


def show_progress(args: argparse.Namespace, label: str, past_s: float) -> None:
    """How long the cell under way takes already, on a terminal."""
    if sys.stderr.isatty() and not args.quiet:
        print(f"\r{label} {duration(past_s)} ", end="", file=sys.stderr, flush=True)


def sweep(args: argparse.Namespace) -> int:
    """Run what is left of the grids; the exit status."""
    cells = plan_cells(args)
    todo = [cell for cell in cells if not is_done(cell, args)]
    pace = pace_of_finished(cells, args)
    if args.dry_run:
        print_plan(cells, todo, pace, args)
        return 0
    outdir = Path(args.outdir)
    busy = "another sweep writes to this folder; wait for it or give another --outdir"
    with exclusive(outdir / ".sweep", busy):
        say(args, f"{len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to do")
        if todo and pace is None and not args.no_pilot:
            pace = pilot(args)
        if pace is not None and todo:
            say(args, f"about {duration(seconds_for(todo, pace))}, if every answer has its full length")
        if args.ncu:
            add_counters([cell for cell in cells if cell not in todo], args)
        return run_cells(cells, todo, pace or (0.0, 1.0), args)


def run_cells(cells: Sequence[Cell], todo: Sequence[Cell], pace: Pace, args: argparse.Namespace) -> int:
    """Run cells in their order; failed ones are counted and the rest goes on."""
    master(args, f"START {len(todo)} of {len(cells)} cells")
    spent_s, expected_s, failed = 0.0, 0.0, 0
    for number, cell in enumerate(todo, 1):
        label = f"[{number}/{len(todo)}] {cell['grid']}/{cell['name']}"
        begin = time.monotonic()
        cause = measure_cell(cell, args, label)
        took_s = time.monotonic() - begin
        left_s = seconds_for(todo[number:], pace)
        if cause is None:
            spent_s, expected_s = spent_s + took_s, expected_s + seconds_for([cell], pace)
        failed += cause is not None
        eta = f", {duration(left_s * spent_s / expected_s)} left" if expected_s and left_s else ""
        start = "\r" if sys.stderr.isatty() else ""
        say(args, f"{start}{label} {'FAILED: ' + cause if cause else duration(took_s)}{eta}")
        if number == len(todo) or todo[number]["grid"] != cell["grid"]:
            master(args, f"{cell['grid']} is through, {failed} failed so far")
    if failed:
        say(args, f"{failed} cells failed, see experiment.log; the same command does them again")
    master(args, f"END {len(todo) - failed} done, {failed} failed")
    return 1 if failed else 0


def master(args: argparse.Namespace, text: str) -> None:
    """A line for master_experiment.log, which `all` writes."""
    if args.action == "all":
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with (Path(args.outdir) / "master_experiment.log").open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {text}\n")


def print_plan(
    cells: Sequence[Cell], todo: Sequence[Cell], pace: Pace | None, args: argparse.Namespace
) -> None:
    """The plan for people, 80 columns."""
    open_names = {(cell["grid"], cell["name"]) for cell in todo}
    grid = None
    for cell in cells:
        if cell["grid"] != grid:
            grid = cell["grid"]
            print(f"{Path(args.outdir) / grid}")
        state = "to do" if (grid, cell["name"]) in open_names else "done"
        time_s = f"{duration(seconds_for([cell], pace)):>12}" if pace else ""
        print(f"  {cell['name']:54}{state:>7}{time_s}")
    total = f", about {duration(seconds_for(todo, pace))}" if pace else ""
    print(f"{len(cells)} cells, {len(todo)} to do{total}")
    if todo and not pace:
        print("no estimate of time yet: no cell of this model is finished; a start begins with a pilot")


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("action", nargs="?", choices=[*GRIDS, "all", "summary"], help="a grid of the original experiment")
    add("dirs", nargs="*", metavar="DIR", help="with summary: folders with results")
    add("--grid", action="append", default=[], metavar="FILE", help="a grid of your own, repeatable")
    add("--model", default=os.environ.get("TARGET_MODEL"), help="the GGUF (default: $TARGET_MODEL)")
    add("--draft", default=os.environ.get("DRAFT_MODEL"), help="a small GGUF, same vocabulary ($DRAFT_MODEL)")
    add("--drafter", choices=["lookup", "model"], help="default: model with --draft, else prompt lookup")
    add("--prompts", default="data/writing_prompts_hierarchical.csv", help="default: %(default)s")
    add("--prompts_for", action="append", default=[], metavar="SCENARIO=FILE", help="as in a=code.csv")
    add("--levels", default="L0", help="the prompts' level (default: L0)")
    add("--outdir", default="sweeps", help="default: sweeps")
    for name, kind in (("requests", int), ("max_tokens", int), ("draft_tokens", int),
                       ("temperature", float), ("threshold", float)):  # fmt: skip
        add(f"--{name}", type=kind, nargs="+", help="in place of the grid's own")
    add("--batches", type=int, default=3, help="timed passes over the requests (default: 3)")
    add("--warmup", type=int, default=1, help="requests before them (default: 1)")
    add("--seed", type=int, default=42, help="of sampling and of the order of cells (default: 42)")
    add(
        "--compare",
        choices=["first", "every"],
        default="first",
        help="batches decoded plainly beside it, too",
    )
    for name in ("n_ctx", "n_batch", "n_gpu_layers", "n_threads"):
        add(f"--{name}", type=int, help="for the engine")
    add("--flash_attn", choices=["auto", "on", "off"], help="for the engine")
    add("--prompt_format", choices=["chat", "raw"], help="default: chat")
    source = (
        "auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none; tegrastats tells EMC load, too"
    )
    add(
        "--power_source",
        default="auto",
        help=source,
    )
    add("--feed", metavar="CMD", help="a command that prints power lines, instead of --power_source")
    add("--interval_ms", type=int, default=100, help="between power samples (default: 100)")
    add("--idle_seconds", type=float, default=5.0, help="idle in each cell, after loading (default: 5)")
    add("--cell_timeout", type=float, metavar="S", help="end a cell after so long (default: never)")
    add("--ncu", action="store_true", help="memory counters by Nsight Compute, in a process of their own")
    add("--ncu_path", default="ncu", help="the profiler (default: ncu)")
    add("--ncu_requests", type=int, default=1, help="requests that are profiled (default: 1)")
    add("--ncu_tokens", type=int, default=16, help="tokens that are profiled (default: 16)")
    add("--speculate", metavar="CMD", help="another command in place of the cell's")
    add("--dry_run", action="store_true", help="print the cells and the time they need")
    add("--no_pilot", action="store_true", help="start at once, without an estimate")
    add("--quiet", action="store_true", help="no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run grids."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    try:
        return sweep(args)
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        command = shlex.join([sys.executable, sys.argv[0], *words])
        print(f"\nstopped; finished cells stay. Go on with:\n  {command}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
