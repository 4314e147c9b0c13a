"""Watches power over SSH: what a board offers, idle power, a live view or a trace, the energy of a command.

What `python tegrastats_sampler.py rails|idle|record|run` does. Results go to standard output, all that is
said about them to standard error. SamplerError for what the user can fix.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from edgebench.power.feeds import FeedChoice
from edgebench.power.sampler import FeedInfo, Sample, TegrastatsSampler
from edgebench.power.trace import IdleBaseline, PowerWindow, SamplerError
from edgebench.power.trace_file import TRACE_FIELDS, trace_row
from edgebench.shell import lifeline
from edgebench.shell.text import counted

CHART_WIDTH, BLOCKS, ASCII_BLOCKS = 32, "▁▂▃▄▅▆▇█", "_.-:=+*#"
REPORT_S = 10.0  # how often a recording that is no live view says that it lives
KEPT_S = 60.0  # of the samples in memory while a trace is recorded
IDLE_SECONDS = 10.0
IDLE_BEFORE_RUN_SECONDS = 3.0


@dataclass(frozen=True)
class Metering:
    """The feed to watch, and for how long; None stands for each command's own default."""

    choice: FeedChoice
    interval_ms: int = 100
    seconds: float | None = None

    def sampler(self) -> TegrastatsSampler:
        """A sampler of the feed."""
        return TegrastatsSampler(self.choice, self.interval_ms)


def label(info: FeedInfo) -> str:
    """Source, rail and scope in words."""
    made = ", SIMULATED" if info.simulated else ""
    return f"{info.rail} ({info.scope}) from {info.source}{made}"


def warn(sampler: TegrastatsSampler) -> None:
    """Say on stderr what was wrong with the samples, and that simulated ones are no measurement."""
    for word, count in sorted(sampler.troubles.items()):
        print(f"warning: {word}: {count} times", file=sys.stderr)
    if sampler.info.simulated:
        print("warning: simulated power, not measured here", file=sys.stderr)


def rails(metering: Metering) -> int:
    """Print what this board offers and which rail is taken for its total."""
    seconds = metering.seconds
    with metering.sampler() as sampler:
        time.sleep(seconds if seconds is not None else max(1.0, 12 * metering.interval_ms / 1000))
    info, periods_s = sampler.info, sampler.trace.interval_s[1:]
    rate = (
        f"{1000 * statistics.median(periods_s):.1f} ms per sample" if periods_s else "not known: one sample"
    )
    print(f"source  {info.source}{' (simulated)' if info.simulated else ''}")
    print(f"total   {info.rail}\nscope   {info.scope}\nrate    {rate}, {metering.interval_ms} ms asked for\n")
    width = max(map(len, [*sampler.rails_mw, *sampler.temps_c]))
    total = (info.rail or "").split("+")
    for name, power_mw in sampler.rails_mw.items():
        print(f"{name:{width}}{power_mw:9d} mW{'  total' if name in total else ''}")
    for name, temp_c in sampler.temps_c.items():
        print(f"{name:{width}}{temp_c:9.1f} C")
    warn(sampler)
    return 0


def idle(metering: Metering) -> int:
    """Print the idle baseline."""
    seconds = IDLE_SECONDS if metering.seconds is None else metering.seconds
    print(f"measuring idle power for {seconds:g} s: leave the board alone", file=sys.stderr)
    with metering.sampler() as sampler:
        baseline = sampler.idle_baseline(seconds)
    for name, value in (asdict(baseline) | {"rail": sampler.info.rail, "scope": sampler.info.scope}).items():
        print(f"{name:16}{value:.1f}" if isinstance(value, float) else f"{name:16}{value}")
    warn(sampler)
    return 0


# --- A recording


def record(metering: Metering, out: Path | None) -> int:
    """A trace to `out` or a pipe, a live view on a terminal; ends in time, with Ctrl-C or with the feed."""
    live = out is None and sys.stdout.isatty()
    try:
        with contextlib.ExitStack() as held:
            rows: IO[str] | None = None if live else sys.stdout
            if out:
                out.parent.mkdir(parents=True, exist_ok=True)
                rows = held.enter_context(out.open("a", encoding="utf-8"))
            recorder = held.enter_context(Recorder(metering, rows, View() if live else None))
            with contextlib.suppress(KeyboardInterrupt):
                watch(recorder, math.inf if metering.seconds is None else metering.seconds, quiet=live)
    except OSError as exc:
        raise SamplerError(f"cannot write {out or 'standard output'}: {exc.strerror}; see --out") from exc
    sampler = recorder.sampler
    end = "\n" if live else ""
    print(f"{end}{counted(recorder.count, 'sample')} of {label(sampler.info)}", file=sys.stderr)
    warn(sampler)
    if recorder.error or recorder.feed_ended:
        raise SamplerError(recorder.error or f"the feed {recorder.feed_ended}")
    return 0


def watch(recorder: Recorder, seconds: float, quiet: bool) -> None:
    """Wait, and say now and then how far the recording is."""
    began_s = said_s = time.monotonic()
    while recorder.alive() and (now_s := time.monotonic()) < began_s + seconds:
        if now_s - said_s >= REPORT_S:
            said_s = now_s
            recorder.sampler.forget(now_s - KEPT_S)
            if not quiet:
                print(f"{now_s - began_s:.0f} s, {counted(recorder.count, 'sample')}", file=sys.stderr)
        time.sleep(min(0.05, max(0.0, began_s + seconds - now_s)))


class Recorder:
    """Writes each sample as a row, in the sampler's thread, while it is held as a context."""

    def __init__(self, metering: Metering, rows: IO[str] | None, view: View | None) -> None:
        self._rows, self._view = rows, view
        self.count, self.error = 0, ""
        self.feed_ended: str | None = None
        self.sampler = TegrastatsSampler(metering.choice, metering.interval_ms, on_sample=self._take)
        self._lock = threading.Lock()

    def __enter__(self) -> Recorder:
        self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed_ended = self.sampler.end_reason
        self.sampler.stop()
        with self._lock:  # the last row is whole
            self._rows = self._view = None

    def _take(self, sample: Sample) -> None:
        with self._lock:
            if self.error or (self._rows is None and self._view is None):
                return
            try:
                self._write(sample)
            except (OSError, ValueError) as exc:
                self.error = f"the recording broke off: {exc}"
                return
            self.count += 1

    def _write(self, sample: Sample) -> None:
        rows, info = self._rows, self.sampler.info
        if rows is not None:
            if self.count == 0:
                if rows is not sys.stdout:
                    with contextlib.suppress(OSError):  # a device has no length
                        rows.truncate(0)  # an older trace goes when there is a new one, not before
                rows.write(TRACE_FIELDS + "\n")
            rows.write(trace_row(*sample, info.rail, info.scope, info.source))
            rows.flush()
        if self._view:
            self._view.show(info, sample)

    def alive(self) -> bool:
        """Is it still recording?"""
        return not self.error and self.sampler.end_reason is None


class View:
    """One line on a terminal, rewritten: power, energy so far, temperature, the last seconds as a chart."""

    def __init__(self) -> None:
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        self._blocks = BLOCKS if unicode else ASCII_BLOCKS
        self._recent = deque[float](maxlen=CHART_WIDTH)
        self._energy_joule, self._last, self._shown_s = 0.0, Sample(math.nan, 0.0, None), 0.0

    def show(self, info: FeedInfo, sample: Sample) -> None:
        """Add a sample; redraw at most four times a second."""
        if sample.t_s > self._last.t_s:
            mean_mw = (sample.power_mw + self._last.power_mw) / 2
            self._energy_joule += mean_mw / 1000 * (sample.t_s - self._last.t_s)
        self._last = sample
        if sample.t_s - self._shown_s < 0.25:
            return
        self._shown_s = sample.t_s
        self._recent.append(sample.power_mw)
        print("\r" + self.line(info, sample)[:79].ljust(79), end="", flush=True)

    def line(self, info: FeedInfo, sample: Sample) -> str:
        """Fits 80 columns: the rail is cut first."""
        low, high = min(self._recent), max(self._recent)
        step = (high - low) / (len(self._blocks) - 1) or 1.0
        chart = "".join(self._blocks[round((power_mw - low) / step)] for power_mw in self._recent)
        heat = "" if sample.temp_c is None else f" {sample.temp_c:.0f} C"
        made = " SIMULATED" if info.simulated else ""
        numbers = f"{sample.power_mw / 1000:7.2f} W {self._energy_joule:8.1f} J{heat}{made}"
        return f"{(info.rail or '')[:12]}{numbers} {chart}"


# --- The energy of a command


def run(metering: Metering, words: Sequence[str], idle_mw: float | None) -> int:
    """Run a command and say on stderr what energy it took; its exit code is ours.

    idle_mw is its idle power, taken as it is; None: it is measured first, unless metering.seconds is 0.
    """
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise SamplerError("run needs a command: run -- CMD ARGS")
    if not shutil.which(words[0]):  # said before the idle power is measured, not after
        raise SamplerError(f"cannot run {words[0]}: there is no such command")
    sampler = metering.sampler()
    try:
        sampler.start()
    except SamplerError as exc:
        print(f"power: energy unknown: {exc}", file=sys.stderr)
        return child(words)[0]
    try:
        baseline = None if idle_mw is not None else idle_before(sampler, metering.seconds)
        uncertainty_mw: float | None = 0.0
        if baseline is not None:
            idle_mw, uncertainty_mw = baseline.mean_mw, baseline.uncertainty_mw
        code, t0, t1 = child(words)
        report(sampler, sampler.window(t0, t1, idle_mw, uncertainty_mw), t1 - t0, idle_mw)
    finally:
        sampler.stop()
    return code


def idle_before(sampler: TegrastatsSampler, seconds: float | None) -> IdleBaseline | None:
    """Idle power, measured now; None if it is not wanted or cannot be known."""
    seconds = IDLE_BEFORE_RUN_SECONDS if seconds is None else seconds
    if seconds == 0:
        return None
    print(f"power: {seconds:g} s of idle power first (--seconds, or give --idle_mw)", file=sys.stderr)
    try:
        baseline = sampler.idle_baseline(seconds)
    except SamplerError as exc:
        print(f"power: idle power unknown: {exc}", file=sys.stderr)
        return None
    if not baseline.stable:
        print(f"warning: idle power is not steady: {baseline.verdict}", file=sys.stderr)
    return baseline


def child(words: Sequence[str]) -> tuple[int, float, float]:
    """(exit code, t0, t1) of a command that has the terminal; Ctrl-C is for it alone."""
    try:
        process = lifeline.start(words, death_signal=signal.SIGTERM)
    except OSError as exc:
        raise SamplerError(f"cannot run {words[0]}: {exc.strerror}") from exc
    t0 = time.monotonic()  # start() returns when the command has just taken its process over
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return (code if code >= 0 else 128 - code), t0, time.monotonic()


def report(sampler: TegrastatsSampler, window: PowerWindow, seconds: float, idle_mw: float | None) -> None:
    """The energy of a window, in four lines on stderr."""
    lines = [f"time    {seconds:.3f} s"]
    if window.energy_gross_joule is None:
        lines.append(f"energy  unknown: {window.reason}")
    else:
        bound_joule = window.energy_uncertainty_joule
        known_to = "to what is not known" if bound_joule is None else f"known to {bound_joule:.3f} J"
        lines.append(f"energy  {window.energy_gross_joule:.3f} J, {known_to}")
        if idle_mw is not None:
            lines.append(f"net     {window.energy_joule:.3f} J above idle power of {idle_mw:.0f} mW")
        highest_mw = window.power_mw_max
        peak = "" if highest_mw is None else f", highest sample {highest_mw:.0f} mW"
        lines.append(
            f"power   {window.power_mw_mean:.0f} mW mean{peak}, {counted(window.power_samples, 'sample')}"
        )
    lines.append(f"rail    {label(sampler.info)}")
    lines += [f"flags   {', '.join(window.flags)}"] if window.flags else []
    print("\n".join(lines), file=sys.stderr)
    warn(sampler)
