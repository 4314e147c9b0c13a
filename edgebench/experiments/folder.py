"""An experiment's folder: its files, its state, and whether its processes still live.

  effective_config.json   every key
  overrides.json          [{key, from, to, by}]
  state.json              what conductor.py writes; replaced whole at every change
  cycle_N.jsonl           the collector's own records, cycle_N.env.jsonl their environments
  environment.jsonl       each environment once
  summary.json, .md       summary.py
  run.log                 what the conductor and its children said

What is told is read from the files: runs counted in cycle_N.jsonl, and whether the processes of state.json,
known by their number and start time, still live. The time left is the mean of the runs that this start has
finished in the cycle, or else in the one before, times the runs left; cool-down is not in it.
"""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError, told
from edgebench.records.jsonl import records_in, write_whole
from edgebench.shell.calls import as_called

OUTPUT = "results/experiments"
DOOR = as_called("python companions/run_experiment.py")
UNFINISHED = ("interrupted", "stopped")
# What state.json and effective_config.json must have to be those of an experiment.
STATE_KEYS = ("id", "status", "cycle", "cycles", "runs_per_cycle", "process")
CYCLE_KEYS = {"n": int, "status": str, "runs": int, "failed": int}
CONFIG_KEYS = ("name", "mode", "models", "prompts", "cycles", "until_ci", "judge")
Json = Mapping[str, Any]


# --- Files of an experiment ---


def write_json(path: Path, content: Any) -> None:
    """A file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A file of an experiment's folder. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UserError(f"{path.parent} is no experiment's folder: {told(exc)}") from None
    except (ValueError, RecursionError) as exc:
        raise UserError(f"{path.parent} is no experiment's folder: {path.name} is no JSON: {exc}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.parent} is no experiment's folder: {path.name} is no JSON object")
    return content


def read_state(folder: Path) -> dict[str, Any]:
    """state.json, with all that the rooms rely on. Raises UserError, for another program's file too."""
    state = read_json(folder / "state.json")
    lacking = [name for name in STATE_KEYS if name not in state] or list(odd_cycles(state))
    if lacking:
        raise UserError(f"{folder} is no experiment's folder: its state.json lacks {', '.join(lacking)}")
    return state


def odd_cycles(state: Json) -> Iterator[str]:
    """What is not as it must be in the cycles of a state."""
    cycles = state["cycles"]
    if not isinstance(cycles, list) or not all(isinstance(one, dict) for one in cycles):
        yield "a list of cycles"
        return
    for name, kind in CYCLE_KEYS.items():
        if not all(isinstance(one.get(name), kind) for one in cycles):
            yield f"{name} of each cycle"


def read_config(folder: Path) -> dict[str, Any]:
    """effective_config.json, with its sections. Raises UserError."""
    config = read_json(folder / "effective_config.json")
    lacking = [name for name in CONFIG_KEYS if name not in config]
    if lacking:
        raise UserError(
            f"{folder} is no experiment's folder: its effective_config.json lacks {', '.join(lacking)}"
        )
    return config


def cycle_files(folder: Path) -> list[Path]:
    """The records of the cycles that have begun, in their order."""
    paths = [path for path in folder.glob("cycle_*.jsonl") if path.stem[6:].isdigit()]
    return sorted(paths, key=lambda path: int(path.stem[6:]))


def runs_in(path: Path) -> list[dict[str, Any]]:
    """The last record of each run in a cycle's file; none where there is no file yet."""
    records = records_in(path) if path.exists() else []
    keyed = [(record.get("run_key") or place, record) for place, record in enumerate(records)]
    return list(dict(keyed).values())


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
    if not isinstance(process, dict):
        return False
    ticks = start_ticks(process.get("pid", 0))
    return ticks is not None and ticks == process.get("start_ticks")


# --- What is there ---


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All finished runs of all cycles, the last record of each, in the order of their cycles."""
    return [record for path in cycle_files(folder) for record in runs_in(path)]


def seconds_since(stamp: str) -> float:
    """Wall seconds since an RFC 3339 time; the only clock that two shells share is the wall's."""
    then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()


def look(folder: Path) -> dict[str, Any]:
    """The state with what the files and /proc say of it. Raises UserError.

    A running state whose conductor is gone reads interrupted, and `working` is then the process that it left
    behind and that still measures or judges.
    """
    state = read_state(folder)
    config = read_config(folder)
    records = read_records(folder)
    stale = state["status"] == "running" and not is_alive(state["process"])
    status = "interrupted" if stale else state["status"]
    orphan = state.get("collector")
    failed = sum(record.get("error") is not None for record in records)
    cycles = [cycle["status"] for cycle in state["cycles"]]
    cycles_done = sum(one in ("completed", "failed") for one in cycles)
    planned = len(cycles) if status != "completed" else cycles_done
    total = state["runs_per_cycle"] * planned if state["runs_per_cycle"] else None
    if total is None and status == "completed":
        total = len(records)
    last = records[-1] if records else None
    return {
        **state,
        "status": status,
        "stale": stale,
        "working": orphan if status != "running" and is_alive(orphan) else None,
        "stopping": (folder / "stop").exists() and status == "running",
        "mode": config["mode"],
        "judge_exit_code": state.get("judge_exit_code") if config["judge"] else None,
        "folder": str(folder),
        "done": len(records),
        "failed": failed,
        "good": len(records) - failed,
        "failed_cycles": cycles.count("failed"),
        "completed_cycles": cycles.count("completed"),
        "total": total,
        "cycles_done": cycles_done,
        "cycles_total": len(cycles),
        "eta_s": time_left(state, records, total) if status == "running" else None,
        "last": last and summary_of(last),
    }


def look_if_there(folder: Path) -> dict[str, Any] | None:
    """The same; None where there is no state that can be read."""
    try:
        return look(folder)
    except (UserError, OSError):
        return None


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


# --- Which one is meant ---


def name_from_here(folder: Path) -> str:
    """What finds an experiment from here: its ID, or its folder where that is not among the others."""
    full = folder.resolve()
    if full.parent == Path(OUTPUT).resolve():
        return folder.name
    return str(full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else folder)


def command_for(words: str, folder: Path) -> str:
    """The command that does something with this experiment, from here: `run --resume`, `follow`, …"""
    return f"{DOOR} {words} {shlex.quote(name_from_here(folder))}"


def folders(output: Path) -> list[Path]:
    """All experiments of an output folder, the newest first."""
    # Those set aside begin with a dot; glob's star takes them too.
    found = [path.parent for path in output.glob("*/state.json") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda folder: (folder / "state.json").stat().st_mtime, reverse=True)


def folders_set_aside(output: Path) -> list[Path]:
    """The experiments that --fresh has renamed, by name."""
    return sorted(path.parent for path in output.glob(".*.old/state.json"))


def no_experiments(output: Path) -> str:
    """What to do where there are none."""
    return f"no experiments in {output}; start one with: {DOOR} run FILE, or name their folder with --output"


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
        raise UserError(no_experiments(output))
    states = {folder: state for folder in there if (state := look_if_there(folder))}
    running = (folder for folder, state in states.items() if state["status"] == "running")
    return next(running, next(iter(states), there[0]))
