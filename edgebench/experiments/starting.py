"""The start of an experiment: its folder is made or found again, and its conductor set to work.

Nothing is made unless the whole can be run. The same command again finds the folder by the hash of all that
is measured, and goes on where it stopped.
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.config import Chosen
from edgebench.experiments.folder import (
    UNFINISHED,
    command_for,
    folders,
    look,
    look_if_there,
    read_config,
    read_json,
    read_state,
    write_json,
)
from edgebench.experiments.preflight import refuse_unready, runs_per_cycle
from edgebench.records.jsonl import reason_of, sha256_of
from edgebench.shell.launch import room_command
from edgebench.shell.progress import say

START_SECONDS = 60  # for a detached conductor to say that it runs
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """What a start is told beside the configuration."""

    fresh: bool = False
    retry_failed: bool = False
    no_aggregate: bool = False


def folder_of(chosen: Chosen) -> Path:
    """Where this configuration is, or will be."""
    return Path(str(chosen.config["output"])) / chosen.id


# --- The folder ---


def check(chosen: Chosen, fresh: bool) -> None:
    """UserError for what keeps a configuration from being started; nothing is made."""
    folder = folder_of(chosen)
    is_there = (folder / "state.json").exists()
    if is_there and fresh:
        state = look_if_there(folder)  # one that cannot be read may be set aside
        if state and (state["status"] == "running" or state["working"]):
            raise UserError(f"{folder.name} is running; stop it first with: {command_for('stop', folder)}")
    if is_there and not fresh:
        check_unchanged(folder)
    else:
        refuse_unready(chosen.config)


def prepare(chosen: Chosen, fresh: bool) -> Path:
    """The experiment's folder, made or found again. `check` has found nothing against it.

    UserError where it cannot be written; nothing is left of the attempt.
    """
    folder = folder_of(chosen)
    is_new = not folder.exists()
    try:
        if fresh and not is_new:
            set_aside(folder)
        if (folder / "state.json").exists():
            adopt(folder, chosen)
        else:
            make(folder, chosen)
    except OSError as problem:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"cannot write {folder}: {reason_of(problem)}; name another folder with --output"
        ) from None
    return folder


def make(folder: Path, chosen: Chosen) -> None:
    """A new experiment."""
    config = chosen.config
    runs = runs_per_cycle(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "effective_config.json", config)
    write_json(folder / "overrides.json", chosen.overrides)
    seed = config["generation"]["seed"]
    cycle = {"status": "pending", "runs": 0, "failed": 0, "started_at": None, "ended_at": None, "why": None}
    cycles = [{"n": n, **cycle} for n in range(1, config["cycles"] + 1)]
    state = {
        "schema_version": 1,
        "id": chosen.id,
        "hash": chosen.hash,
        "preset": chosen.preset,
        "status": "prepared",
        "cwd": str(Path.cwd()),
        "seed": int(chosen.hash, 16) % 2**31 if seed is None else seed,
        "runs_per_cycle": runs,
        "prompts_sha256": prompts_sha256(config, Path.cwd()),
        "process": None,
        "collector": None,
        "cycle": 0,
        "cycles": cycles,
    }
    write_json(folder / "state.json", state)  # last: with it, the folder is an experiment


def set_aside(folder: Path) -> None:
    """Rename an old folder: nothing is deleted."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S.%f")
    old = folder.with_name(f".{folder.name}.{stamp}.old")
    folder.rename(old)
    say(f"the earlier {folder.name} is kept as {old}")


def prompts_sha256(config: Json, cwd: Path) -> dict[str, str | None]:
    """The prompts files as they are; None for one that is gone."""
    files = {path: cwd / path for path in map(str, config["prompts"])}
    return {name: sha256_of(path) if path.is_file() else None for name, path in files.items()}


def check_unchanged(folder: Path) -> None:
    """UserError where the cycles would not all be of the same prompts."""
    state = read_state(folder)
    now = prompts_sha256(read_config(folder), Path(state.get("cwd", ".")))
    for name, sha256 in state.get("prompts_sha256", {}).items():
        if now.get(name) != sha256:
            raise UserError(
                f"{name} is not what it was when {folder.name} began; put it back, or start over with --fresh"
            )


def adopt(folder: Path, chosen: Chosen) -> None:
    """Take over what may change in an experiment that is there: how its answers are judged and laid out."""
    path = folder / "effective_config.json"
    old = read_json(path)
    new = {**old, **{name: chosen.config[name] for name in ("judge", "aggregate")}}
    if new != old and look(folder)["status"] != "running":
        write_json(path, new)
        write_json(folder / "overrides.json", chosen.overrides)


# --- What there is to do in it ---


def is_over(folder: Path, state: Json) -> bool:
    """Measured, and judged where the configuration names a judge?"""
    judge = read_config(folder)["judge"]
    return state["status"] == "completed" and (not judge or state.get("judged") == judge)


def has_failed_whole(state: Json) -> bool:
    """Every cycle was tried, and none is any good?"""
    over = all(cycle["status"] in ("completed", "failed") for cycle in state["cycles"])
    return state["status"] == "failed" and over


def is_left(folder: Path, start: Start) -> bool:
    """Is there anything left to run in this folder? Raises UserError where it cannot be started."""
    try:
        state = look(folder)
    except (UserError, OSError):
        raise UserError(f"{folder}/state.json cannot be read; start over with: run FILE --fresh") from None
    if state["status"] == "running":
        raise UserError(f"{folder.name} is running already; see it with: {command_for('follow', folder)}")
    check_unchanged(folder)
    if has_failed_whole(state) and not start.retry_failed:
        raise UserError(f"{folder.name}: every cycle failed, {folder}/run.log says why; --retry_failed")
    return not is_over(folder, state) or (start.retry_failed and state["failed_cycles"] > 0)


def remember(folder: Path, start: Start) -> None:
    """Write down what this start is told."""
    state = read_state(folder)
    state |= {"no_aggregate": start.no_aggregate, "retry_failed": start.retry_failed}
    write_json(folder / "state.json", state)


# --- Unfinished ones ---


def unfinished(output: Path, but: Path | None = None) -> list[dict[str, Any]]:
    """States of the experiments that began and did not end, the newest first."""
    states = [look_if_there(folder) for folder in folders(output)[:20] if folder != but]
    return [state for state in states if state and state["status"] in UNFINISHED and not state["working"]]


def line_of(state: Json) -> str:
    """An unfinished experiment, and how to go on with it."""
    again = command_for("run --resume", Path(state["folder"]))
    return f"unfinished: {how_far(state)}; go on with: {again}"


def how_far(state: Json) -> str:
    """Its ID and its runs."""
    return f"{state['id']}, {state['done']} of {state['total'] or '?'} runs"


def match_of(chosen: Chosen) -> dict[str, Any] | None:
    """The unfinished experiment that a user may mean with this configuration: itself, or one of its name."""
    own = folder_of(chosen)
    states = unfinished(own.parent)
    for state in states:
        if Path(state["folder"]) == own and state["done"]:
            return state
    if own.exists():
        return None
    name = chosen.config["name"]
    return next((state for state in states if state["id"].rpartition("-")[0] == name), None)


# --- The conductor ---


def conductor(folder: Path, detached: bool) -> list[str]:
    """The words that start an experiment's conductor."""
    command = [*room_command("edgebench.experiments.conductor"), str(folder.resolve())]
    return [*command, "--detached"] if detached else command


def become_conductor(folder: Path) -> None:
    """Go on as the conductor: one process less between Ctrl-C and it. Does not return."""
    command = conductor(folder, False)
    os.chdir(read_state(folder)["cwd"])
    os.execv(command[0], command)


def start_detached(folder: Path) -> None:
    """Start the conductor in a session of its own and wait until it says that it runs. Raises UserError.

    The one child that is meant to outlive us, and the terminal: no lifeline.
    """
    cwd = read_state(folder)["cwd"]
    with (folder / "run.log").open("ab") as log:
        child = subprocess.Popen(
            conductor(folder, True), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until_s = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < until_s:
        state = read_state(folder)
        if (state["process"] or {}).get("pid") == child.pid:
            break
        time.sleep(0.1)
    if child.poll():
        raise UserError(f"it did not start; {folder}/run.log says why")
