"""How far is an experiment? Status, follow and stop, from any shell.

Stop asks the conductor to end after the run under way, or at once. Where the conductor is gone and what it
started still works, that is said, and stop ends the work itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.folder import command_for, is_alive, look
from edgebench.records.run import as_number, flags_of
from edgebench.shell.text import duration

POLL_SECONDS = 0.5
END_SECONDS = 60  # a collector that was told to stop ends its engine and its feed
Json = Mapping[str, Any]


def text_of(state: Json) -> str:
    """The state for a terminal of 80 columns."""
    lines = [state["id"], f"  {word_of(state)}, cycle {state['cycle']} of {state['cycles_total']}"]
    failed = f", {state['failed']} failed" if state["failed"] else ""
    lines.append(f"  {state['done']} of {state['total'] or '?'} runs{failed}{time_left_text(state)}")
    if state["last"]:
        lines.append(f"  last: {one_line(state['last'])}")
    folder = Path(state["folder"])
    unjudged = state["status"] == "completed" and state["judge_exit_code"]
    if unjudged:
        lines.append(f"  the judge failed, exit code {state['judge_exit_code']}")
    if state["working"]:
        lines.append(f"  end it with: {command_for('stop', folder)}")
    elif unjudged or state["status"] in ("prepared", "interrupted", "stopped", "failed"):
        every_cycle_failed = state["status"] == "failed" and state["failed_cycles"] == state["cycles_total"]
        again = " --retry_failed" if every_cycle_failed else ""
        lines.append(f"  go on with: {command_for('run --resume', folder)}{again}")
    return "\n".join(lines)


def word_of(state: Json) -> str:
    """The status in words."""
    if state["working"]:
        return f"its conductor is gone, but process {state['working']['pid']} still works on"
    if state["stale"]:
        return "interrupted: its process is gone, without a word"
    return f"{state['status']}, ends after the current run" if state["stopping"] else str(state["status"])


def time_left_text(state: Json) -> str:
    """ ", 0:12:00 left", where it is known."""
    return "" if state["eta_s"] is None else f", {duration(state['eta_s'])} left"


def one_line(last: Json) -> str:
    """A record in a line."""
    what = f"batch {last['batch_size']}" if last["batch_size"] else f"task {last['id']} {last['level']}"
    words = [f"{last['model_id']} {what}"]
    if last["error"]:
        kind = last["error"].get("type") if isinstance(last["error"], dict) else last["error"]
        words.append(f"failed: {kind}")
    for name, unit, form in (("completion_tokens", "tok", ".0f"), ("energy_joule", "J", ".3g")):
        value = as_number(last[name])
        if value is not None:
            words.append(f"{value:{form}} {unit}")
    power_mw, temp_c = as_number(last["power_mw_mean"]), as_number(last["temp_max_c"])
    if power_mw is not None:
        simulated = " SIMULATED" if "simulated_power" in flags_of(last) else ""
        words.append(f"{power_mw / 1000:.2f} W{simulated}")
    if temp_c is not None:
        words.append(f"{temp_c:.1f} C")
    return ", ".join(words)


def follow(folder: Path) -> int:
    """A line per finished run until the experiment ends; 0 if it completed."""
    told = -1
    while True:
        state = look(folder)
        if state["done"] != told and state["last"]:
            left = time_left_text(state)
            print(f"{state['done']}/{state['total'] or '?'} {one_line(state['last'])}{left}", flush=True)
            told = state["done"]
        if state["status"] != "running" and not state["working"]:
            print(text_of(state))
            return 0 if state["status"] in ("completed", "stopped") else 1
        time.sleep(POLL_SECONDS)


def stop(folder: Path, at_once: bool) -> str:
    """End the work: after the run under way, or at once. What was done, in a line. Raises UserError."""
    state = look(folder)
    if state["working"]:
        end_work(state["working"], at_once)
        return f"{state['id']} has ended; its conductor was gone before"
    if state["status"] != "running":
        return f"{state['id']} does not run: {state['status']}"
    if at_once:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["process"]["pid"], signal.SIGINT)
        return f"{state['id']} ends now"
    (folder / "stop").touch()
    return f"{state['id']} ends after the current run"


def end_work(process: Json, at_once: bool) -> None:
    """End a process whose conductor is gone, and wait until it has ended. UserError where it does not.

    It ends its engine and its feed itself; every finished run is kept.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(process["pid"], signal.SIGKILL if at_once else signal.SIGINT)
    until_s = time.monotonic() + END_SECONDS
    while is_alive(process):
        if time.monotonic() > until_s:
            raise UserError(f"process {process['pid']} does not end; end it with: kill -9 {process['pid']}")
        time.sleep(POLL_SECONDS / 5)
