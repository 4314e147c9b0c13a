"""Power beside a measurement: the one way every measuring command asks what its work has drawn.

A session starts the feed, or says why there is none; measures idle power with the model resident; gives the
energy of a stretch of time as the fields of a record; and ends the feed.

  with PowerSession.start(PowerSettings(source="auto"), say) as power:
      power.new_resident()                          # a model has been loaded
      power.measure_idle()                          # opens a block of runs
      ... a run from t0_s to t1_s (time.monotonic) ...
      power.window(t0_s, t1_s).fill(record)
      change = power.measure_idle()                 # closes the block, and opens the next

Idle power drifts: a board warms up, a clock steps up, a service wakes. So a block of runs stands between two
baselines of the same resident model. Until its closing baseline is known, a window is net of the opening one.
From then on it is net of the line between the two, at the window's middle, and if the two differ by more than
either is known to, it is flagged `idle_drift`, its idle_drift_mw says by how much, and its uncertainty
includes that idle may have stood at either of the two.

A record is written the moment its run ends, before its block closes, so that no crash can cost it. When
measure_idle() returns a change that is beyond the noise, whoever wrote the block's records asks window()
again for each and replaces them in their file, all at once (copy, fsync, rename): at every moment the file
holds each run once. The samples of a block are kept until the next has closed. A change within the noise
alters nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.power.feeds import find_feed
from edgebench.power.sampler import FeedInfo, OnLine, TegrastatsSampler
from edgebench.power.trace import IdleBaseline, PowerTrace, SamplerError

SETTLE_SECONDS = 1.0  # after loading or a run, before idle is measured: clocks and power step down
PRINTED_STEP_MW = 1.0  # power lines hold whole milliwatts: less is rounding
OPTIONAL_SOURCES = ("auto", "none")  # that give no power are no error

# The fields of a record that a window fills; their names are the record's.
WINDOW_FIELDS = (
    "energy_joule",
    "energy_gross_joule",
    "energy_uncertainty_joule",
    "energy_missing",
    "power_mw_mean",
    "power_mw_max",
    "power_samples",
    "power_period_ms",
    "power_max_gap_ms",
    "power_coverage",
    "idle_mw",
    "idle_std_mw",
    "idle_drift_mw",
)
SOURCE_FIELDS = ("power_source", "power_rail", "power_scope")
HEAT_FIELDS = ("temp_start_c", "temp_max_c")
# Flags that a later answer about the same window may withdraw.
REVISED_FLAGS = frozenset(("negative_energy", "idle_drift", "idle_unstable", "extrapolated_edge"))

Say = Callable[[str], None]


@dataclass(frozen=True)
class PowerSettings:
    """What the user asked for."""

    source: str = "auto"  # auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none
    feed: str | None = None  # a command line that prints power lines, instead of source
    interval_ms: int = 100
    idle_seconds: float = 10.0
    settle_seconds: float = SETTLE_SECONDS  # at most: see settling_s
    trace_path: Path | None = None  # every sample is appended there as CSV

    @property
    def is_explicit(self) -> bool:
        """Whether a certain source was named: then it is an error that it does not work."""
        return self.feed is not None or self.source not in OPTIONAL_SOURCES

    @property
    def settling_s(self) -> float:
        """How long the board is left alone before its idle power counts.

        Never longer than idle_seconds: whoever asks for a look of a moment waits no second for it.
        """
        return min(self.settle_seconds, self.idle_seconds)


@dataclass(frozen=True)
class IdlePoint:
    """A baseline and the middle of the time it was measured in."""

    at_s: float
    baseline: IdleBaseline


@dataclass(frozen=True)
class IdleChange:
    """How idle power moved over a block, from its opening to its closing baseline."""

    opening: IdlePoint
    closing: IdlePoint

    @property
    def drift_mw(self) -> float:
        """The closing baseline's mean minus the opening one's."""
        return self.closing.baseline.mean_mw - self.opening.baseline.mean_mw

    @property
    def noise_mw(self) -> float:
        """Up to here two baselines of one idle power differ: by what both are known to."""
        points = (self.opening.baseline, self.closing.baseline)
        known_mw = [p.std_mw if p.uncertainty_mw is None else p.uncertainty_mw for p in points]
        return max(PRINTED_STEP_MW, sum(known_mw))

    @property
    def beyond_noise(self) -> bool:
        """Whether idle power has moved."""
        return abs(self.drift_mw) > self.noise_mw

    def idle_mw(self, at_s: float) -> float:
        """Idle power at a moment, on the line between the two baselines; theirs beyond them."""
        share = (at_s - self.opening.at_s) / (self.closing.at_s - self.opening.at_s)
        return self.opening.baseline.mean_mw + self.drift_mw * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class PowerFields:
    """What a record says of its energy and power, under the record's names. Missing is None and a reason."""

    energy_joule: float | None = None  # net of idle, may be negative
    energy_gross_joule: float | None = None
    energy_uncertainty_joule: float | None = None
    energy_missing: str | None = None  # why energy_joule is None
    power_source: str = "none"
    power_rail: str | None = None
    power_scope: str | None = None
    power_mw_mean: float | None = None
    power_mw_max: float | None = None
    power_samples: int | None = None
    power_period_ms: float | None = None
    power_max_gap_ms: float | None = None
    power_coverage: float | None = None
    idle_mw: float | None = None  # what was subtracted: at the window's middle
    idle_std_mw: float | None = None  # of the opening baseline's samples
    idle_drift_mw: float | None = None  # over the block, where it is beyond the noise
    temp_start_c: float | None = None  # by the feed's own sensor
    temp_max_c: float | None = None
    flags: tuple[str, ...] = ()

    def fill(self, record: Any) -> None:
        """Set these fields of a record. Flags join its own; temperatures are set if the feed has any."""
        for name in (*SOURCE_FIELDS, *WINDOW_FIELDS):
            if hasattr(record, name):
                setattr(record, name, getattr(self, name))
        if self.temp_max_c is not None and hasattr(record, "temp_max_c"):
            record.temp_start_c, record.temp_max_c = self.temp_start_c, self.temp_max_c
        kept = [flag for flag in record.flags if flag not in REVISED_FLAGS or flag in self.flags]
        record.flags = kept + [flag for flag in self.flags if flag not in kept]


class PowerSession:
    """The feed beside a command's work; missing says why there is none. Open it with start()."""

    def __init__(
        self, settings: PowerSettings, sampler: TegrastatsSampler | None, missing: str | None, say: Say
    ) -> None:
        self.settings = settings
        self.missing = missing
        self._sampler, self._say = sampler, say
        self._points: list[IdlePoint] = []  # of the resident model: what opens the open block stands last
        self._kept_from_s = 0.0  # samples before are of no block that may still be asked for

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, settings: PowerSettings, say: Say, on_line: OnLine | None = None
    ) -> Iterator[PowerSession]:
        """Start the feed, and end it when the block is left.

        `say` is told where the power comes from, or why there is none; `on_line` is called in another thread
        with each of the feed's lines and its time. Where a source or feed was named and does not work,
        SamplerError; OSError where the trace cannot be written.
        """
        sampler, missing = start_feed(settings, say, on_line)
        try:
            yield cls(settings, sampler, missing, say)
        finally:
            if sampler is not None:
                sampler.stop()

    @property
    def info(self) -> FeedInfo:
        """Where the watts come from; its source is none where they come from nowhere."""
        if self._sampler is None:
            return FeedInfo("none", None, None, self.settings.interval_ms)
        return self._sampler.info

    def environment(self) -> dict[str, Any]:
        """Of the environment's record: where the power comes from, or why there is none."""
        return {"missing": self.missing} if self.missing is not None else asdict(self.info)

    @property
    def trace(self) -> PowerTrace | None:
        """The samples that are held; None without power."""
        return None if self._sampler is None else self._sampler.trace

    @property
    def idle(self) -> IdleBaseline | None:
        """The baseline that opened the block under way; None where idle power is not known."""
        return self._points[-1].baseline if self._points else None

    @property
    def idle_due(self) -> bool:
        """Whether idle power has to be measured before the next run: it is unknown, or the feed failed."""
        if self._sampler is None:
            return False
        return not self._points or self._sampler.failure is not None

    def new_resident(self) -> None:
        """Another model lies in memory, or none: what was measured before is not its idle power."""
        self._points.clear()

    def measure_idle(self) -> IdleChange | None:
        """Settle, then measure idle power: that closes the block under way, if any, and opens the next.

        Returns how idle power moved over the block that closed; None if none did. A feed that has died, or
        prints no power any more, is started again first. What cannot be known is said, and idle is None.
        SamplerError if the feed lives and idle_seconds are too few for it.
        """
        sampler = self._sampler
        if sampler is None:
            return None
        opening = self._points[-1] if self._points else None
        self._points.clear()  # until it is known again
        try:
            if sampler.failure:
                sampler.stop()
                sampler.start()
            time.sleep(self.settings.settling_s)
            begin_s = time.monotonic()
            baseline = sampler.idle_baseline(self.settings.idle_seconds)
        except SamplerError as exc:
            if not sampler.failure:  # it works, but the flags do not fit
                raise SamplerError(f"{exc}; raise --idle_seconds") from exc
            self._say(f"power: {exc}; energy will be null until it is back")
            return None
        closing = IdlePoint(begin_s + self.settings.idle_seconds / 2, baseline)
        self._points = [closing] if opening is None else [opening, closing]
        sampler.forget(self._kept_from_s)
        self._kept_from_s = begin_s
        self._say_idle(baseline)
        return None if opening is None else IdleChange(opening, closing)

    def take_idle(self, t0_s: float, t1_s: float) -> None:
        """Idle power is what was drawn from t0_s to t1_s: another process sat still then, its model resident.

        Opens a block, as measure_idle() does. What cannot be known is said, and idle is None.
        """
        if self._sampler is None:
            return
        self._points.clear()
        try:
            baseline = self._sampler.baseline(t0_s, t1_s)
        except SamplerError as exc:
            self._say(f"power: {exc}; energy will be null")
            return
        self._points = [IdlePoint((t0_s + t1_s) / 2, baseline)]
        self._say_idle(baseline)

    def _say_idle(self, idle: IdleBaseline) -> None:
        """What idle power is, and once more where the trace has ended early."""
        lost = self._sampler.trace_error if self._sampler else None
        ends = f"; {self.settings.trace_path} ends early: {lost}" if lost else ""
        self._say(f"idle {idle.mean_mw:.0f} mW, std {idle.std_mw:.0f} ({idle.verdict}){ends}")

    def window(self, t0_s: float, t1_s: float) -> PowerFields:
        """Energy and power of [t0_s, t1_s], net of idle power as it is known by now.

        Waits for the sample after t1_s. Asked again after its block has closed, it gives the final answer.
        """
        sampler = self._sampler
        if sampler is None:
            return PowerFields(energy_missing=self.missing, flags=("no_power",))
        opening, change = self._idle_around((t0_s + t1_s) / 2)
        idle_mw, idle_uncertainty_mw = None, None
        if opening is not None:
            idle_mw, idle_uncertainty_mw = opening.mean_mw, opening.uncertainty_mw
        if change is not None:
            idle_mw, idle_uncertainty_mw = interpolated(change, (t0_s + t1_s) / 2)
        window = sampler.window(t0_s, t1_s, idle_mw, idle_uncertainty_mw)
        drifts = change is not None and change.beyond_noise
        checks = {"idle_unstable": opening is not None and not opening.stable, "idle_drift": drifts}
        info = sampler.info
        return PowerFields(
            energy_joule=window.energy_joule,
            energy_gross_joule=window.energy_gross_joule,
            energy_uncertainty_joule=window.energy_uncertainty_joule,
            energy_missing=window.reason,
            power_source=info.source,
            power_rail=info.rail,
            power_scope=info.scope,
            power_mw_mean=window.power_mw_mean,
            power_mw_max=window.power_mw_max,
            power_samples=window.power_samples,
            power_period_ms=window.power_period_ms,
            power_max_gap_ms=window.power_max_gap_ms,
            power_coverage=window.power_coverage,
            idle_mw=idle_mw,
            idle_std_mw=None if opening is None else opening.std_mw,
            idle_drift_mw=change.drift_mw if change is not None and drifts else None,
            temp_start_c=window.temp_start_c,
            temp_max_c=window.temp_max_c,
            flags=(*window.flags, *(word for word, found in checks.items() if found)),
        )

    def _idle_around(self, at_s: float) -> tuple[IdleBaseline | None, IdleChange | None]:
        """The baseline that opened the block of this moment, and the block's change if it has closed."""
        if not self._points:
            return None, None
        if len(self._points) == 2 and at_s <= self._points[1].at_s:
            return self._points[0].baseline, IdleChange(self._points[0], self._points[1])
        return self._points[-1].baseline, None


def interpolated(change: IdleChange, at_s: float) -> tuple[float, float | None]:
    """(idle power at a moment between two baselines, how far it may be off).

    Within the noise the two are one number measured twice. Beyond it idle may have stood at either: it may
    have stepped, at any moment, rather than crept.
    """
    idle_mw = change.idle_mw(at_s)
    points = (change.opening.baseline, change.closing.baseline)
    known_mw = [point.uncertainty_mw for point in points if point.uncertainty_mw is not None]
    if len(known_mw) < len(points):
        return idle_mw, None
    apart_mw = max(abs(idle_mw - point.mean_mw) for point in points) if change.beyond_noise else 0.0
    return idle_mw, max(known_mw) + apart_mw


def start_feed(
    settings: PowerSettings, say: Say, on_line: OnLine | None = None
) -> tuple[TegrastatsSampler | None, str | None]:
    """(sampler, None) with the feed running, or (None, why there is no power)."""
    choice = find_feed(settings.source, settings.feed, settings.interval_ms)
    if settings.trace_path and choice.command:
        # A trace that cannot be written is no reason to go without power.
        settings.trace_path.parent.mkdir(parents=True, exist_ok=True)
        settings.trace_path.open("a").close()
    sampler = TegrastatsSampler(choice, settings.interval_ms, settings.trace_path, on_line=on_line)
    try:
        sampler.start()
    except SamplerError as exc:
        if settings.is_explicit:
            raise
        say(f"{exc}; energy will be null")
        return None, str(exc)
    info = sampler.info
    made = ", SIMULATED" if info.simulated else ""
    say(f"power: {info.source}, rail {info.rail}, scope {info.scope}{made}")
    return sampler, None
