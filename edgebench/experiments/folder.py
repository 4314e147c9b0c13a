"""How far is an experiment? Status, follow and stop, from any shell.

  status  done and total runs, time left, the last record, power and temperature
  follow  the same, a line whenever a run is done, until the experiment ends
  stop    end it after the current run; --now: at once, without that run

Without ID: the one that runs, else the newest. ID is an experiment's name and hash,
the beginning of it, or its folder. What is told is read from the files: runs
counted in cycle_N.jsonl, and whether the process of state.json, known by its number
and its start time, still lives. Time left is the mean of the runs that this start has
finished in the cycle, or else in the one before, times the runs left; cool-down
is not in it.

Example:
  python companions/run_experiment.py status
  python companions/run_experiment.py stop demo
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import read_jsonl, write_whole
from edgebench.shell.door import Parser

OUTPUT = "results/experiments"
POLL_SECONDS = 0.5
Json = Mapping[str, Any]


# --- Files of an experiment ---


def write_json(path: Path, content: Any) -> None:
    """A file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A file of an experiment's folder. Raises UserError."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UserError(f"{path.parent} is no experiment's folder: {exc}") from None
    return content


def cycle_files(folder: Path) -> list[Path]:
    """The records of the cycles that have begun, in their order."""
    paths = [path for path in folder.glob("cycle_*.jsonl") if path.stem[6:].isdigit()]
    return sorted(paths, key=lambda path: int(path.stem[6:]))


def runs_in(path: Path) -> list[dict[str, Any]]:
    """The last record of each run in a cycle's file; none where there is no file yet."""
    numbered = list(read_jsonl(path)) if path.exists() else []
    records = [(record.get("run_key") or number, record) for number, record in numbered if record is not None]
    return list(dict(records).values())


# --- Its process ---


def start_ticks(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, field 22 of its stat; None: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # a name may hold spaces and parentheses
    return None if after_name[0] in "ZX" else int(after_name[19])


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from another that has its number later."""
    return {"pid": pid, "start_ticks": start_ticks(pid)}


def is_alive(process: Json | None) -> bool:
    """Does this very process still run? Its number may be another's by now."""
    return process is not None and start_ticks(process["pid"]) == process["start_ticks"] is not None


# --- What is there ---


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All finished runs of all cycles, the last record of each, in the order of their cycles."""
    return [record for path in cycle_files(folder) for record in runs_in(path)]


def seconds_since(stamp: str) -> float:
    """Wall seconds since an RFC 3339 time; the only clock that two shells share is the wall's."""
    then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()


def look(folder: Path) -> dict[str, Any]:
    """The state with what the files and /proc say of it."""
    state = read_json(folder / "state.json")
    records = read_records(folder)
    config = read_json(folder / "effective_config.json")
    alive = is_alive(state["process"])
    stale = state["status"] == "running" and not alive
    status = "interrupted" if stale else state["status"]
    cycles_done = sum(cycle["status"] in ("completed", "failed") for cycle in state["cycles"])
    planned = len(state["cycles"]) if status != "completed" else cycles_done
    total = state["runs_per_cycle"] * planned if state["runs_per_cycle"] else None
    last = records[-1] if records else None
    return {
        **state,
        "status": status,
        "stale": stale,
        "stopping": (folder / "stop").exists() and status == "running",
        "mode": config["mode"],
        "judge_exit_code": state.get("judge_exit_code") if config["judge"] else None,
        "folder": str(folder),
        "done": len(records),
        "failed": sum(record.get("error") is not None for record in records),
        "failed_cycles": sum(cycle["status"] == "failed" for cycle in state["cycles"]),
        "total": total,
        "cycles_done": cycles_done,
        "cycles_total": len(state["cycles"]),
        "eta_s": time_left(state, records, total) if status == "running" else None,
        "last": last and summary_of(last),
    }


def time_left(state: Json, records: Sequence[Json], total: int | None) -> float | None:
    """Seconds, from the wall time that the runs of this start took in the current cycle, or else in the one
    before; None before the first run.
    """
    n = state["cycle"]
    if not total or not n or not records:
        return None
    cycle = state["cycles"][n - 1]
    began = cycle.get("resumed_at")
    here = len(records) - sum(one["runs"] for one in state["cycles"] if one["n"] < n)
    here -= cycle.get("runs_before", 0)
    if began is not None and here > 0:
        each_s = seconds_since(began) / here
    else:  # nothing done in this cycle yet: as long as in the one before
        before = [one for one in state["cycles"][: n - 1] if one.get("resumed_at") and one["ended_at"]]
        runs = before[-1]["runs"] - before[-1]["runs_before"] if before else 0
        if runs <= 0:
            return None
        each_s = (seconds_since(before[-1]["resumed_at"]) - seconds_since(before[-1]["ended_at"])) / runs
    return round(float(each_s * max(0, total - len(records))), 1)


def summary_of(record: Json) -> dict[str, Any]:
    """What status tells of the last record."""
    names = (
        "model_id",
        "id",
        "level",
        "batch_size",
        "repeat",
        "started_at",
        "latency_ms",
        "completion_tokens",
    )
    more = ("energy_joule", "power_mw_mean", "temp_max_c", "power_source", "error", "flags")
    return {name: record.get(name) for name in (*names, *more)}


def text_of(state: Json) -> str:
    """The state for a terminal of 80 columns."""
    lines = [state["id"]]
    word = state["status"] + (", ends after the current run" if state["stopping"] else "")
    if state["stale"]:
        word = "interrupted: its process is gone, without a word"
    lines.append(f"  {word}, cycle {state['cycle']} of {state['cycles_total']}")
    failed = f", {state['failed']} failed" if state["failed"] else ""
    eta = "" if state["eta_s"] is None else f", {datetime.timedelta(seconds=round(state['eta_s']))} left"
    lines.append(f"  {state['done']} of {state['total'] or '?'} runs{failed}{eta}")
    last = state["last"]
    if last:
        lines.append(f"  last: {one_line(last)}")
    unjudged = state["status"] == "completed" and state["judge_exit_code"]
    if unjudged:
        lines.append(f"  the judge failed, exit code {state['judge_exit_code']}")
    if unjudged or state["status"] in ("interrupted", "stopped", "failed"):
        every_cycle_failed = state["status"] == "failed" and state["failed_cycles"] == state["cycles_total"]
        again = " --retry_failed" if every_cycle_failed else ""
        lines.append(
            f"  go on with: python companions/run_experiment.py run --resume {name_of(state)}{again}"
        )
    return "\n".join(lines)


def name_of(state: Json) -> str:
    """What finds it from here: its ID, or its folder where that is not among the others."""
    folder = Path(state["folder"])
    return str(state["id"]) if folder.parent == Path(OUTPUT) else str(folder)


def one_line(last: Json) -> str:
    """A record in a line."""
    what = f"batch {last['batch_size']}" if last["batch_size"] else f"task {last['id']} {last['level']}"
    words = [f"{last['model_id']} {what}"]
    if last["error"]:
        words.append(f"failed: {last['error'].get('type')}")
    for name, unit, form in (("completion_tokens", "tok", "d"), ("energy_joule", "J", ".3g")):
        if last[name] is not None:
            words.append(f"{last[name]:{form}} {unit}")
    if last["power_mw_mean"] is not None:
        simulated = " SIMULATED" if "simulated_power" in (last["flags"] or ()) else ""
        words.append(f"{last['power_mw_mean'] / 1000:.2f} W{simulated}")
    if last["temp_max_c"] is not None:
        words.append(f"{last['temp_max_c']:.1f} C")
    return ", ".join(words)


def folders(output: Path) -> list[Path]:
    """All experiments of an output folder, the newest first."""
    # Those set aside begin with a dot; glob's star takes them too.
    found = [path.parent for path in output.glob("*/state.json") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda folder: (folder / "state.json").stat().st_mtime, reverse=True)


def find(output: Path, name: str | None) -> Path:
    """The folder of an ID, its beginning or its path; without one the running experiment, else the newest."""
    if name and (Path(name) / "state.json").exists():
        return Path(name)
    there = folders(output)
    if name:
        hits = [folder for folder in there if folder.name.startswith(name)]
        exact = [folder for folder in hits if folder.name == name]
        if len(exact or hits) != 1:
            some = ", ".join(folder.name for folder in hits or there[:5]) or "none yet"
            raise UserError(f"which experiment is {name}? In {output} there are: {some}")
        return (exact or hits)[0]
    if not there:
        raise UserError(f"no experiments in {output}; start one with run_experiment.py run")
    return next((folder for folder in there if look(folder)["status"] == "running"), there[0])


def follow(folder: Path) -> int:
    """A line per finished run until the experiment ends; 0 if it completed."""
    told = -1
    while True:
        state = look(folder)
        if state["done"] != told and state["last"]:
            eta = (
                ""
                if state["eta_s"] is None
                else f", {datetime.timedelta(seconds=round(state['eta_s']))} left"
            )
            print(f"{state['done']}/{state['total'] or '?'} {one_line(state['last'])}{eta}", flush=True)
            told = state["done"]
        if state["status"] != "running":
            print(text_of(state))
            return 0 if state["status"] in ("completed", "stopped") else 1
        time.sleep(POLL_SECONDS)


def stop(folder: Path, at_once: bool) -> int:
    """Ask the conductor to end."""
    state = look(folder)
    if state["status"] != "running":
        print(f"{state['id']} does not run: {state['status']}")
        return 0
    if at_once:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["process"]["pid"], signal.SIGINT)
        print(f"{state['id']} ends now")
    else:
        (folder / "stop").touch()
        print(f"{state['id']} ends after the current run")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(prog="run_experiment.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("status", "follow", "stop"))
    parser.add_argument("id", nargs="?", metavar="ID", help="(default: the one that runs)")
    parser.add_argument(
        "--output", type=Path, default=Path(OUTPUT), metavar="DIR", help=f"(default: {OUTPUT})"
    )
    parser.add_argument("--json", action="store_true", help="status as JSON")
    parser.add_argument("--now", action="store_true", help="stop without waiting for the current run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    try:
        folder = find(args.output, args.id)
        if args.command == "follow":
            return follow(folder)
        if args.command == "stop":
            return stop(folder, args.now)
        state = look(folder)
        print(json.dumps(state, indent=2) if args.json else text_of(state))
        return 0
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
