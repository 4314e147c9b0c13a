"""Samples power in a thread: the one reader of what a feed prints.

A feed is a child that prints one line per sample in tegrastats' grammar. keeper.py, a process between it and
us, stamps its lines with the monotonic clock, restarts it once, and ends it with us. Times are
time.monotonic() seconds, one clock for all processes.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

from edgebench.board.thermal import hottest_c
from edgebench.power.feeds import ANNOUNCE, FeedChoice, find_feed
from edgebench.power.tegrastats import DROPPED, TOTAL_RULES, Reading, decode_line, doubts, parse_line
from edgebench.power.trace import IdleBaseline, PowerTrace, PowerWindow, SamplerError
from edgebench.power.trace_file import NO_HEAT, TRACE_FIELDS, trace_row
from edgebench.records.run import SIMULATED_SOURCES
from edgebench.shell import lifeline
from edgebench.shell.launch import room_command

START_TIMEOUT_S = 15.0  # start() gives up after so long without a sample
MAX_POWERLESS = 20  # or after so many lines without a total
MAX_AHEAD_S = 60.0  # a later t1 is of another clock
OnLine = Callable[[float, str], None]  # the time of a line, and the line
ENDED, KEEPER_WORDS = "# feed_ended: ", ("feed_restarted", "stale_power")


@dataclass(frozen=True)
class FeedInfo:
    """Where the watts come from; rail and scope are known once start() has returned."""

    source: str  # tegrastats, ina3221, nvml, rapl, simulated, replay, feed, none
    rail: str | None
    scope: str | None  # board, module, package, gpu
    interval_ms: int  # asked for; power_period_ms of a window is what came
    simulated: bool = False
    origin: str | None = None  # the replayed file, the card's name, the sensors' folder
    quantum_mw: float | None = None


class Sample(NamedTuple):
    """One valid sample."""

    t_s: float
    power_mw: float
    temp_c: float | None


class TegrastatsSampler:
    """Samples power in a thread: start(), measure_idle(), integrate_energy(t0, t1, idle_mw), stop().

    Without a choice it launches `tegrastats --interval 100`, or what find_feed() finds instead. trace_path
    gets a CSV row per sample, appended. on_sample is called in the thread with each sample as it is read,
    on_line with the time and the text of each line before it is taken.
    """

    def __init__(
        self,
        choice: FeedChoice | None = None,
        interval_ms: int = 100,
        trace_path: Path | None = None,
        on_sample: Callable[[Sample], None] | None = None,
        on_line: OnLine | None = None,
    ) -> None:
        self._choice = choice or find_feed(interval_ms=interval_ms)
        self._silent_s, self._trace_path = max(2.0, 5 * interval_ms / 1000), trace_path
        self._on_sample, self._on_line = on_sample, on_line
        self.trace_error: str | None = None  # why the trace file ends early: a full disk, a closed pipe
        self.info = FeedInfo(self._choice.source, None, None, interval_ms)
        self.trace, self._news = PowerTrace(), threading.Condition()
        self.trace.asked_interval_s = self._choice.paced_s
        self.end_reason: str | None = "was not started"
        self.rails_mw: dict[str, int] = {}  # of the last line that had any
        self.temps_c: dict[str, float] = {}  # likewise
        self.troubles = Counter[str]()  # zero_total, stale_power, ...: how often, since the first start
        self._thread: threading.Thread | None = None
        self._file: IO[str] | None = None
        self._taken, self._powerless = 0, 0  # samples since start(), lines without one
        self._lost: str | None = None  # what the lines since the last sample lack
        self._quanta_mw: dict[str, float] = {}  # what the feed said of its sensors' steps

    def __enter__(self) -> TegrastatsSampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Launch the feed, return after its first valid sample; SamplerError, and why, if none comes."""
        command = self._choice.command
        if command is None or self._thread:
            raise SamplerError(f"no power source: {self._choice.reason or 'it is in use'}")
        self._file = self._open_trace()
        self._child = start_keeper(command, self._silent_s)
        self._taken, self._powerless, self._lost, self.end_reason = 0, 0, None, None
        self._thread = threading.Thread(target=self._read, args=(self._child,), name="power", daemon=True)
        self._thread.start()
        with self._news:
            heard = lambda: self._taken or self.end_reason or self._powerless > MAX_POWERLESS  # noqa: E731
            self._news.wait_for(heard, START_TIMEOUT_S + self._silent_s)
            taken, said = self._taken, self.end_reason
        if not taken:
            self.stop()
            said = said or f"printed {'no valid total' if self._powerless else 'nothing in time'}"
            raise SamplerError(f"no power sample: {shlex.join(command)} {said}; see --source and --feed")

    def _open_trace(self) -> IO[str] | None:
        """The trace's file, with its head line if it is new; SamplerError where it cannot be written."""
        if self._trace_path is None:
            return None
        file: IO[str] | None = None
        try:
            self._trace_path.parent.mkdir(parents=True, exist_ok=True)
            file = self._trace_path.open("a", 1, "utf-8")
            if not (file.seekable() and file.tell()):
                file.write(TRACE_FIELDS + "\n")
        except OSError as exc:
            if file:
                with contextlib.suppress(OSError):
                    file.close()  # now, or Python complains of what the disk did not take when it collects it
            raise SamplerError(f"cannot write {self._trace_path}: {exc.strerror}") from exc
        return file

    def stop(self) -> None:
        """End the feed and the thread; the samples stay, and start() may follow."""
        if self._thread is None:
            return
        self.end_reason = self.end_reason or "was stopped"
        with self._child as child:  # leaving it closes the pipes and reaps the child
            if child.stdin:
                child.stdin.close()  # the keeper ends with it, and the feed with the keeper
            self._thread.join(2.0)
        self._thread = None
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        """Thread: take every line with the time it was read."""
        for raw in child.stdout or ():
            if not raw.endswith(b"\n"):
                break  # the keeper was killed while it wrote
            stamp, _, said = raw[:-1].partition(b" ")
            t_s, line = float(stamp), decode_line(said)
            if self._on_line:
                self._on_line(t_s, line)
            with self._news:
                sample = self._hear(t_s, line)
                self._news.notify_all()
            if sample and self._on_sample:
                self._on_sample(sample)
        with self._news:
            self.end_reason = self.end_reason or "lost its keeper"  # which says so when the feed ends
            self._news.notify_all()

    def _hear(self, t_s: float, line: str) -> Sample | None:
        """Take one line; the sample in it is returned."""
        if not line.startswith("#"):
            return self._take(t_s, parse_line(line))
        word = line.removeprefix("# ").partition(":")[0]
        if word in KEEPER_WORDS:
            self._note(word, t_s)
        elif line.startswith(ENDED):
            self.end_reason = self.end_reason or line.removeprefix(ENDED)
        elif line.startswith(ANNOUNCE):
            self._announce(line)
        else:
            self.troubles["no_power_line"] += 1
        return None

    def _note(self, word: str, t_s: float) -> None:
        """Something was wrong at that moment."""
        self.trace.notes[word].append(t_s)
        self.troubles[word] += 1

    def _announce(self, line: str) -> None:
        """A feed of ours says in its first line what it is."""
        with contextlib.suppress(ValueError, AttributeError):
            said, info = json.loads(line.removeprefix(ANNOUNCE)), self.info
            source, rail = said.get("source") or info.source, info.rail or said.get("rail")
            simulated = said.get("simulated") is True or source in SIMULATED_SOURCES
            self._quanta_mw, origin = said.get("quantum_mw") or {}, said.get("origin")
            self.info = replace(
                info,
                source=source,
                rail=rail,
                scope=info.scope or said.get("scope"),
                simulated=simulated,
                origin=origin,
            )
            self.trace.simulated = simulated
            lag_ms = said.get("lag_ms")
            self.trace.lag_s = lag_ms / 1000 if isinstance(lag_ms, (int, float)) else self.trace.lag_s

    def _take(self, t_s: float, reading: Reading) -> Sample | None:
        """Store one sample. Its rail stays that of the first: totals of two scopes never mix."""
        self.rails_mw = reading.rails or self.rails_mw
        self.temps_c = reading.temps_c or self.temps_c
        rail = self.info.rail or reading.total_rail or ""
        if any(name not in reading.rails for name in rail.split("+")):
            self._powerless += 1
            self._lost = f"prints lines without {rail}"
            if self._taken and reading.rails:
                self._note("rail_missing", t_s)
            else:
                self.troubles["rail_missing" if reading.rails else "no_power_line"] += 1
            return None
        if not self._taken:
            self._know_rail(rail, reading.scope)
        total_mw = sum(reading.rails[name] for name in rail.split("+"))
        words = doubts(total_mw, {} if "+" in rail else reading.rails)
        for word in words:
            self._note(word, t_s)
        if not DROPPED.isdisjoint(words):
            self._powerless += 1
            self._lost = f"prints impossible values of {rail}"
            return None
        self._taken += 1
        self._lost = None
        sample = Sample(t_s, total_mw, hottest_c(reading.temps_c))
        self.trace.add(t_s, total_mw, NO_HEAT if sample.temp_c is None else sample.temp_c)
        self._write(sample)
        return sample

    @property
    def failure(self) -> str | None:
        """Why no samples come: the feed has ended, or it lives and its lines have held no total for long."""
        silence_s = time.monotonic() - self.trace.last_s()
        return self.end_reason or (self._lost if silence_s > self._silent_s else None)

    def _know_rail(self, rail: str, scope: str) -> None:
        """The first sample settles what is sampled: rail, scope, and what a step of its sensors is worth."""
        known_scope, quantum_mw = TOTAL_RULES.get(rail, (scope, None))
        quantum_mw = sum(self._quanta_mw.get(name, 0.0) for name in rail.split("+")) or quantum_mw
        self.trace.quantum_mw = quantum_mw
        self.info = replace(self.info, rail=rail, scope=self.info.scope or known_scope, quantum_mw=quantum_mw)

    def _write(self, sample: Sample) -> None:
        """A row in the trace's file, until that cannot be written any more."""
        if self._file and not self.trace_error:
            try:
                self._file.write(trace_row(*sample, self.info.rail, self.info.scope, self.info.source))
            except OSError as exc:
                self.trace_error = str(exc)

    def measure_idle(self, seconds: float = 10.0) -> float:
        """Mean power in mW over the coming seconds; SamplerError if no samples come."""
        return self.idle_baseline(seconds).mean_mw

    def idle_baseline(self, seconds: float = 10.0) -> IdleBaseline:
        """Sample for so long; then what idle power is and whether it was steady. SamplerError as above."""
        if not 0 < seconds < float("inf"):
            raise SamplerError(f"cannot measure idle power for {seconds} s: give a positive number")
        t0 = time.monotonic()
        return self.baseline(t0, t0 + seconds)

    def baseline(self, t0: float, t1: float) -> IdleBaseline:
        """Idle power over [t0, t1], in which nothing worked; waits for the sample after t1. SamplerError."""
        with self._news:
            self._wait_for(t1)
            failure = self.failure
            if failure:
                raise SamplerError(f"no idle power: the power feed {failure}")
            return self.trace.baseline(t0, t1)

    def _wait_for(self, t1: float) -> None:
        """Until there is a sample at or after t1, or it is clear that none will come."""
        patience_s = max(0.0, t1 - time.monotonic()) + self._silent_s
        self._news.wait_for(lambda: self.trace.last_s() >= t1 or self.end_reason, patience_s)

    def integrate_energy(self, t0: float, t1: float, idle_mw: float | None) -> float | None:
        """Joule above idle over [t0, t1], not clamped; None, never 0, where it cannot be known."""
        return self.window(t0, t1, idle_mw).energy_joule

    def window(
        self, t0: float, t1: float, idle_mw: float | None, idle_uncertainty_mw: float | None = 0.0
    ) -> PowerWindow:
        """Energy and power over [t0, t1]; waits for the sample after t1, without which it would guess."""
        ahead_s = t1 - time.monotonic()
        if ahead_s > MAX_AHEAD_S:
            return PowerWindow(reason=f"t1 is {ahead_s:.0f} s ahead: times must be time.monotonic() seconds")
        with self._news:
            self._wait_for(t1)
            window = self.trace.window(t0, t1, idle_mw, idle_uncertainty_mw)
            failure = self.failure
        lost, why = window.energy_gross_joule is None, f"{window.reason}; the power feed {failure}"
        return replace(window, reason=why) if lost and failure else window

    def forget(self, before_t_s: float) -> None:
        """Drop samples older than this moment, so that a campaign of days stays small."""
        with self._news:
            self.trace.forget(before_t_s)


def start_keeper(command: tuple[str, ...], silent_s: float) -> subprocess.Popen[bytes]:
    """keeper.py around the command, in a session of its own: Ctrl-C is not for it.

    It ends when our end of its standard input closes, and at our death with SIGTERM: then it still ends all
    that the feed has started.
    """
    launch = room_command("edgebench.power.keeper", str(silent_s), *command, isolated=True)
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return lifeline.start(
        launch,
        death_signal=signal.SIGTERM,
        stdin=pipe,
        stdout=pipe,
        stderr=null,
        start_new_session=True,
    )
