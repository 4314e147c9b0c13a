"""The energy of one cell: idle power with its models resident, and what each batch drew above it.

Put into summary.per_mode[0] of the cell's document:

  energy   joule per request and per output token (net, above idle, and gross), the same per batch, idle power
           and its drift, where the watts come from, "simulated", and where there is no energy the reason
  emc      load of a Jetson's memory controller over the batches, percent, or the reason
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.session import PowerFields, PowerSession, PowerSettings
from edgebench.speculation.traffic import FeedLog, emc_load

WINDOW_COLUMNS = (
    "power_mw_mean",
    "power_samples",
    "power_max_gap_ms",
    "power_coverage",
    "energy_uncertainty_joule",
    "idle_mw",
    "idle_drift_mw",
)
RESIDENT = "after the model was loaded"
Json = Mapping[str, Any]


class Scale:
    """Weighs one cell. Whatever the power source does, the cell is decoded."""

    def __init__(self, power: PowerSession | None, missing: str | None, feed_log: Path) -> None:
        self.power, self.missing, self.feed_log = power, missing, feed_log
        self.idle: dict[str, float] | None = None  # when the board was left alone
        self.idle_missing: str | None = None

    @classmethod
    @contextlib.contextmanager
    def beside(cls, settings: PowerSettings, trace: Path) -> Iterator[Scale]:
        """A scale with its feed running, or one that knows why there is none. OSError."""
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.unlink(missing_ok=True)  # one of an interrupted attempt
        feed_log = trace.with_suffix(".feed.log")
        settings = replace(settings, trace_path=trace)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(FeedLog.opened(feed_log))
            try:
                power = stack.enter_context(PowerSession.start(settings, lambda _: None, log.take))
            except UserError as problem:
                yield cls(None, str(problem), feed_log)
                return
            yield cls(power if power.missing is None else None, power.missing, feed_log)

    def measure_idle(self) -> None:
        """Leave the board alone, the models resident: opens the block of the batches, and closes it."""
        if self.power is None or self.power.settings.idle_seconds <= 0:
            return
        begin_s = time.monotonic() + self.power.settings.settling_s
        try:
            self.power.measure_idle()
        except UserError as problem:  # too short for this feed
            self.idle_missing = str(problem)
            return
        if self.idle is None:
            self.idle = {"t0_s": begin_s, "t1_s": begin_s + self.power.settings.idle_seconds}

    def complete(self, document: dict[str, Any]) -> None:
        """Put energy and EMC load into a cell's document."""
        mode = document["summary"]["per_mode"][0]
        document["idle"] = self.idle
        mode["energy"] = mode["emc"] = {"reason": self.missing}
        if self.power is None:
            return
        try:
            mode["energy"] = weigh(self.power, document, self.idle_missing)
            mode["emc"] = emc_over(self.feed_log, document)
        except (UserError, OSError, KeyError) as problem:
            mode["energy"] = {"reason": f"the trace cannot be weighed: {problem}"}


def weigh(power: PowerSession, document: Json, idle_missing: str | None = None) -> dict[str, Any]:
    """The energy block of a document."""
    batches = [weigh_batch(power, batch) for batch in document["results"]]
    plain = [weigh_batch(power, batch) for batch in document.get("plain") or [] if "t0_s" in batch]
    known = [row for row in batches if row["energy_gross_joule"] is not None]
    gross = sum(row["energy_gross_joule"] for row in known)
    joules = sum(row["energy_joule"] or 0.0 for row in known)
    requests, tokens = (sum(row[name] for row in known) for name in ("requests", "output_tokens"))
    flags = {flag for row in batches for flag in row["flags"]}
    net_known = power.idle is not None
    info = power.info
    return {
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
        "reason": reason_for_none(batches, requests, net_known, idle_missing),
        "batches_without_energy": len(batches) - len(known),
        "per_batch": batches,
        "plain_per_batch": plain,  # plain decoding interleaved in the same process
    }


def reason_for_none(
    batches: list[dict[str, Any]], requests: int, net_known: bool, idle_missing: str | None
) -> str | None:
    """Why there is no net energy; None where there is."""
    if not requests:
        return next((row["reason"] for row in batches if row["reason"]), "no batch has a window")
    if net_known:
        return None
    return idle_missing or "no idle power: it was not measured, or too few samples, see --idle_seconds"


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
        **{name: getattr(window, name) for name in WINDOW_COLUMNS},
        "flags": list(window.flags),
    }


def emc_over(feed_log: Path, document: Json) -> dict[str, Any]:
    """Memory-controller load over the batches, from the feed's own lines."""
    windows = [emc_load(feed_log, batch["t0_s"], batch["t1_s"]) for batch in document["results"]]
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
