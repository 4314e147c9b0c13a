"""One cell of a sweep with its power: runs the cell's process, and puts the energy into its result.

The cell is a command that writes a JSON result whose batches carry t0_s and t1_s (time.monotonic). It loads
its models, sits still for a while and says when it did (idle: {t0_s, t1_s}): what is drawn then is idle
power, with the models resident. The result is completed in its place, whole or not at all:

  summary.per_mode[0].energy   joule per request and per output token (net, above idle, and gross), the same
                               per batch, idle power, where the watts come from, "simulated", and where there
                               is no energy the reason
  summary.per_mode[0].emc      load of a Jetson's memory controller over the batches, percent, or the reason
  cell_wall_s                  seconds the command took, with loading
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.session import PowerFields, PowerSession, PowerSettings
from edgebench.records.jsonl import write_whole
from edgebench.shell import lifeline
from edgebench.shell.launch import room_command
from edgebench.speculation.traffic import emc_load

LOOK_S = 1.0  # between two lines of progress
POWER = (
    "power_mw_mean",
    "power_samples",
    "power_max_gap_ms",
    "power_coverage",
    "energy_uncertainty_joule",
)
RESIDENT = "after the model was loaded"
Json = Mapping[str, Any]


class CellFailed(Exception):
    """The cell gave no result; the message says why."""


@dataclass(frozen=True)
class CellRun:
    """A cell's process and where its files go."""

    command: Sequence[str]
    sit_still: Sequence[str]  # its flag for that, given where power is measured
    result: Path  # the JSON that the command writes
    trace: Path  # the power trace, written anew
    power: PowerSettings
    timeout_s: float | None = None

    @property
    def feed_log(self) -> Path:
        """The feed's own lines, with their times."""
        return self.trace.with_suffix(".feed.log")


def run_cell(cell: CellRun, passed: Callable[[float], None]) -> None:
    """Run the cell, weigh it, and complete its result. Raises CellFailed, OSError.

    `passed` is called every second with the seconds that have passed. Whatever the power source does, the
    cell runs.
    """
    cell.trace.parent.mkdir(parents=True, exist_ok=True)
    cell.trace.unlink(missing_ok=True)  # one of an interrupted attempt
    with power_beside(cell) as (power, missing):
        begin_s = time.monotonic()
        run_command([*cell.command, *(cell.sit_still if power else ())], cell.timeout_s, passed)
        wall_s = time.monotonic() - begin_s
        complete(cell, power, missing, wall_s)


@contextlib.contextmanager
def power_beside(cell: CellRun) -> Iterator[tuple[PowerSession | None, str | None]]:
    """(the session, None), or (None, why there is no power)."""
    tee = room_command("edgebench.speculation.traffic", str(cell.feed_log))
    settings = replace(cell.power, trace_path=cell.trace, through=tuple(tee))
    with contextlib.ExitStack() as stack:
        try:
            power = stack.enter_context(PowerSession.start(settings, lambda _: None))
        except UserError as exc:
            yield None, str(exc)
            return
        yield (power, None) if power.missing is None else (None, power.missing)


def run_command(command: Sequence[str], timeout_s: float | None, passed: Callable[[float], None]) -> None:
    """The cell's process, to its end. Raises CellFailed with its last words; Ctrl-C ends it."""
    with tempfile.TemporaryFile("w+", errors="replace") as words:
        child = lifeline.start(command, tree=True, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        begin_s = time.monotonic()
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_S)
                past_s = time.monotonic() - begin_s
                passed(past_s)
                if timeout_s and past_s > timeout_s:
                    raise CellFailed(f"took more than {timeout_s:g} s, see --cell_timeout")
        finally:
            lifeline.end(child)
        if child.returncode:
            words.seek(0)
            raise CellFailed(cause_of(child.returncode, [line.strip() for line in words if line.strip()]))


def cause_of(status: int, lines: Sequence[str]) -> str:
    """Why a process with this status ended so."""
    by_signal = -status if status < 0 else status - 128 if status > 128 else 0
    if by_signal:
        hint = ": out of memory?" if by_signal == signal.SIGKILL else ""
        return f"ended by {signal.Signals(by_signal).name}{hint}"
    told = [line for line in lines if "rror" in line] or list(lines)
    return told[-1].removeprefix("error: ") if told else f"ended with status {status} and no word"


# --- The result ---


def complete(cell: CellRun, power: PowerSession | None, missing: str | None, wall_s: float) -> None:
    """Write energy and EMC load into the result, whole or not at all. Raises CellFailed, OSError."""
    try:
        result = json.loads(cell.result.read_text(encoding="utf-8"))
        mode = result["summary"]["per_mode"][0]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise CellFailed(f"the command wrote no result to {cell.result} ({exc!r})") from exc
    mode["energy"] = mode["emc"] = {"reason": missing}
    if power is not None:
        try:
            mode["energy"] = weigh(power, result)
            mode["emc"] = emc_over(cell.feed_log, result)
        except (UserError, OSError, KeyError) as exc:
            mode["energy"] = {"reason": f"the trace cannot be weighed: {exc}"}
    result["cell_wall_s"] = round(wall_s, 3)
    write_whole(cell.result, json.dumps(result))


def weigh(power: PowerSession, result: Json) -> dict[str, Any]:
    """The energy block of a result."""
    idle = result.get("idle")
    if idle:
        power.take_idle(idle["t0_s"], idle["t1_s"])
    batches = [weigh_batch(power, batch) for batch in result["results"]]
    plain = [weigh_batch(power, batch) for batch in result.get("plain") or [] if "t0_s" in batch]
    known = [row for row in batches if row["energy_gross_joule"] is not None]
    gross = sum(row["energy_gross_joule"] for row in known)
    joules = sum(row["energy_joule"] or 0.0 for row in known)
    requests, tokens = (sum(row[name] for row in known) for name in ("requests", "output_tokens"))
    flags = {flag for row in batches for flag in row["flags"]}
    net_known = power.idle is not None
    info = power.info
    energy = {
        "energy_joule_per_request": joules / requests if requests and net_known else None,
        "energy_gross_joule_per_request": gross / requests if requests else None,
        "joule_per_output_token": joules / tokens if tokens and net_known else None,
        "joule_gross_per_output_token": gross / tokens if tokens else None,
        "idle_mw": power.idle.mean_mw if power.idle else None,
        "idle_std_mw": power.idle.std_mw if power.idle else None,
        "idle_method": RESIDENT if net_known else None,
        "power_source": info.source,
        "power_rail": info.rail,
        "power_scope": info.scope,
        "simulated": "simulated_power" in flags,
        "flags": sorted(flags),
        "reason": None,
        "per_batch": batches,
        "plain_per_batch": plain,  # plain decoding interleaved in the same process
    }
    if not requests:
        energy["reason"] = next((row["reason"] for row in batches if row["reason"]), "no batch has a window")
    elif not net_known:
        energy["reason"] = "no idle power: too few samples before the run, see --idle_seconds"
    return energy


def weigh_batch(power: PowerSession, batch: Json) -> dict[str, Any]:
    """Energy and power of one batch of requests, and how many requests and tokens it was."""
    window: PowerFields = power.window(batch["t0_s"], batch["t1_s"])
    outputs = batch.get("outputs") or []
    return {
        "batch_index": batch["batch_index"],
        "reason": window.energy_missing,
        "requests": len(outputs),
        "output_tokens": sum(len(output["token_ids"]) for output in outputs),
        "energy_joule": window.energy_joule,
        "energy_gross_joule": window.energy_gross_joule,
        **{name: getattr(window, name) for name in POWER},
        "flags": list(window.flags),
    }


def emc_over(feed_log: Path, result: Json) -> dict[str, Any]:
    """Memory-controller load over the batches, from the feed's own lines."""
    windows = [emc_load(feed_log, batch["t0_s"], batch["t1_s"]) for batch in result["results"]]
    known = [window for window in windows if window["samples"]]
    samples = sum(window["samples"] for window in known)
    mean = sum(w["emc_load_percent_mean"] * w["samples"] for w in known) / samples if samples else None
    reason = None if known else next((window["reason"] for window in windows), "no batch")
    return {
        "emc_load_percent_mean": mean,
        "emc_load_percent_max": max((window["emc_load_percent_max"] for window in known), default=None),
        "samples": samples,
        "reason": reason,
    }
