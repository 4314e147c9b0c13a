#!/usr/bin/env python3
"""Samples this board's power and integrates it to Joule: a library of the collector, and a tool by itself.

A child prints one line per sample: `tegrastats`, companions/power_feed.py, or a command of yours that prints
`NAME 5040mW`; companions/feed_keeper.py stamps it with the monotonic clock. Energy is the trapezoid over
[t0, t1], interpolated at both edges, minus idle power times duration. Power in mW, energy in J, time in
seconds of time.monotonic(). What cannot be known is null with a reason, never 0. The commands rails, idle,
record and run are carried out by companions/power_meter.py.

Example:
  python tegrastats_sampler.py rails                              # what this board offers
  python tegrastats_sampler.py run -- python my_inference.py      # as `time` does, in Joule
  python tegrastats_sampler.py record                             # live; to a file with --out trace.csv
  python tegrastats_sampler.py integrate trace.csv --idle_mw 4800
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from edgebench.shell.launch import room_command

MIN_SAMPLES, GAP_PERIODS = 5, 3.0  # fewer inside a window are flagged; a longer interval is a gap
IDLE_SAMPLES, IDLE_STD, IDLE_DRIFT = 0.8, 0.05, 0.02  # of those expected; of the mean; of the mean per window
START_TIMEOUT_S, MAX_POWERLESS = 15.0, 20  # start() gives up after so long, or so many lines without a total
MAX_AHEAD_S = 60.0  # a later t1 is of another clock
MAX_QUANTUM_MW = 1000.0  # no known board's total moves in coarser steps: a larger one was the load's
MAX_POWER_MW = 5e6  # more is a wrong unit (hwmon prints microwatt), not a computer
DROPPED = frozenset(("zero_total", "implausible_power"))  # no sample at all; other doubts flag the window
SENSOR_OFF_C = -100.0  # a zone that is powered down prints -256C
NOT_SILICON = frozenset(("PMIC", "Tboard", "Tdiode", "iwlwifi"))  # PMIC is a constant 50 or 100
ANNOUNCE, ENDED, KEEPER_WORDS = "# power_feed ", "# feed_ended: ", ("feed_restarted", "stale_power")
METER_COMMANDS = ("rails", "idle", "record", "run")
TRACE_FIELDS = "t_s,power_mw,rail,scope,source,temp_c"

# Which rails make a board's total: scope, and what one step of its sensors is worth. INA3221: 40 uV over the
# shunt, so 8 mA at 5 mOhm and 20 mA at 2 mOhm, times the rail's voltage, added up over the rails.
TOTAL_RULES: dict[str, tuple[str, float | None]] = {
    "VDD_IN": ("module", 40.0),  # TX1, TX2, Xavier NX, Orin Nano and NX: 8 mA x 5 V
    "POM_5V_IN": ("board", 40.0),  # Nano 4GB
    "VIN": ("board", None),  # Thor with an INA238: module and carrier
    # AGX Orin. VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0 and would count twice. 20 mA x (20 + 20 + 5 V)
    "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0": ("module", 898.0),
    # AGX Xavier. SYS5V alone is the 5 V parts without CPU, GPU and memory. 8 mA x (5 x 19.4 + 5 V)
    "GPU+CPU+SOC+CV+VDDRQ+SYS5V": ("module", 815.0),
    "VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0": ("module", 884.0),  # Thor without VIN: another scope than with it
}
RULE_RAILS = {rail: frozenset(rail.split("+")) for rail in TOTAL_RULES}

# NAME 5040mW/5016mW[/5100mW] (JetPack 5 on) or NAME 920/920 (JetPack 4, where RAM, SWAP and IRAM look alike).
# Only the first number is a sample: the second is the mean since tegrastats started, and may be cut off. Each
# pattern begins with a plain space: the regex engine skips to it instead of trying every position.
RAIL = re.compile(
    r" (?!I?RAM |SWAP )([A-Z][A-Z0-9_]+) +(-?\d{1,9})(?:\.\d+)?(?:mW(?:/\S*)?|/(?:-?\d+(?:/-?\d*)?)?)(?!\S)",
    re.A,
)
TEMPERATURE = re.compile(r" ([A-Za-z][\w-]*)@(-?\d{1,4}(?:\.\d{1,6})?)C(?![^\s/])", re.A)
LOADS = {
    "gpu_load_percent": re.compile(r" GR3D_FREQ (\d{1,3})%", re.A),
    "emc_load_percent": re.compile(r" EMC_FREQ (\d{1,3})%", re.A),
    "ram_used_mb": re.compile(r" RAM (\d{1,9})/\d", re.A),
    "ram_total_mb": re.compile(r" RAM \d+/(\d{1,9})MB", re.A),
}


class SamplerError(Exception):
    """What the user can fix: no power source, a bad interval, an unreadable trace."""


class Reading(NamedTuple):
    """One line of a feed."""

    total_mw: int | None
    total_rail: str | None  # a rail or a sum of rails
    scope: str  # board, module; none without a total
    rails: dict[str, int]  # mW, instantaneous
    temps_c: dict[str, float]
    loads: dict[str, int | None]  # LOADS


@dataclass(frozen=True)
class FeedChoice:
    """The command that will print power lines; None where there is no power source, and why."""

    command: tuple[str, ...] | None
    source: str
    reason: str | None


@dataclass(frozen=True)
class FeedInfo:
    """Where the watts come from; rail and scope are known once start() has returned."""

    source: str  # tegrastats, ina3221, nvml, rapl, replay, feed, none
    rail: str | None
    scope: str | None  # board, module, package, gpu
    interval_ms: int  # asked for; power_period_ms of a window is what came
    simulated: bool = False
    origin: str | None = None  # the replayed file, the card's name, the sensors' folder
    quantum_mw: float | None = None


@dataclass(frozen=True)
class IdleBaseline:
    """Power with nothing to do."""

    mean_mw: float  # time-weighted
    median_mw: float
    std_mw: float
    slope_mw_per_s: float  # least squares
    samples: int
    temp_c: float | None
    stable: bool
    verdict: str


@dataclass(frozen=True)
class PowerWindow:
    """Energy and power between two moments; names as in the run record."""

    energy_joule: float | None = None  # net of idle, not clamped
    energy_gross_joule: float | None = None
    energy_idle_joule: float | None = None
    energy_uncertainty_joule: float | None = None
    power_mw_mean: float | None = None
    power_mw_max: float | None = None
    power_samples: int = 0  # inside the window
    power_period_ms: float | None = None  # median
    power_max_gap_ms: float | None = None
    power_coverage: float | None = None  # share of the window outside gaps
    temp_start_c: float | None = None
    temp_max_c: float | None = None
    flags: tuple[str, ...] = ()
    flag_counts: dict[str, int] = field(default_factory=dict)  # of the flags that lines raise: how many did
    reason: str | None = None  # why energy_joule is None


def parse_line(line: str) -> Reading:
    """Read one line of tegrastats (any JetPack) or of a feed in its grammar; unknown words are skipped."""
    line = " " + line.replace("\t", " ")
    rails = {name: int(value) for name, value in RAIL.findall(line)}
    temps_c = {name: c for name, value in TEMPERATURE.findall(line) if (c := float(value)) > SENSOR_OFF_C}
    loads = {key: int(found[1]) if (found := word.search(line)) else None for key, word in LOADS.items()}
    for rail, names in RULE_RAILS.items():
        if rails.keys() >= names:
            return Reading(sum(rails[n] for n in names), rail, TOTAL_RULES[rail][0], rails, temps_c, loads)
    return Reading(None, None, "none", rails, temps_c, loads)


def doubts(total_mw: float, rails: dict[str, int]) -> tuple[str, ...]:
    """Words for what cannot be right in a sample."""
    if total_mw == 0:
        return ("zero_total",)  # tegrastats prints 0 for a sensor it cannot read
    if not 0 < total_mw < MAX_POWER_MW:
        return ("implausible_power",)
    return ("subrail_above_total",) if max(rails.values(), default=0) > total_mw else ()


def hottest_c(temps_c: dict[str, float]) -> float:
    """The junction temperature, else the hottest zone on the chip; -inf without one."""
    return temps_c.get("tj", max((c for n, c in temps_c.items() if n not in NOT_SILICON), default=-math.inf))


def highest(values: array[float], first: int, end: int) -> float | None:
    """Maximum of [first, end); None of nothing, or of nothing but unknown ones (-inf)."""
    part: Sequence[float] = values[first:end]
    if len(part) > 20_000:
        with contextlib.suppress(ImportError):  # 2 ms for a million values instead of 50
            import numpy

            part = [float(numpy.max(part))]
    top = max(part, default=-math.inf)
    return top if math.isfinite(top) else None


class PowerTrace:
    """Samples in time order, their integral, and what was wrong with them."""

    def __init__(self) -> None:
        self._arrays = tuple(array("d") for _ in range(5))
        self.t_s, self.power_mw, self.temp_c, self.interval_s, self._sum_mj = self._arrays
        self.quantum_mw: float | None = None  # where nobody stated it, the smallest change seen stands in
        self.simulated, self._step_mw = False, math.inf
        self.notes: dict[str, array[float]] = defaultdict(lambda: array("d"))  # word: moments it was said of

    def add(self, t_s: float, power_mw: float, temp_c: float = -math.inf) -> None:
        """Append a sample; SamplerError unless it is a number and later than the one before."""
        if not (math.isfinite(t_s) and math.isfinite(power_mw)):
            raise SamplerError(f"{power_mw} mW at {t_s} s")
        interval_s, sum_mj = 0.0, 0.0
        if self.t_s:
            interval_s, before_mw = t_s - self.t_s[-1], self.power_mw[-1]
            if not interval_s > 0:
                raise SamplerError(f"time runs backwards, {t_s} s after {self.t_s[-1]} s: cut it there")
            sum_mj = self._sum_mj[-1] + (before_mw + power_mw) / 2 * interval_s
            self._step_mw = min(self._step_mw, abs(power_mw - before_mw) or math.inf)
        for values, value in zip(self._arrays, (t_s, power_mw, temp_c, interval_s, sum_mj), strict=True):
            values.append(value)

    def last_s(self) -> float:
        """Time of the last sample, -inf without one."""
        return self.t_s[-1] if self.t_s else -math.inf

    def forget(self, before_t_s: float) -> None:
        """Drop samples older than this, but for the last of them."""
        first = max(0, bisect_left(self.t_s, before_t_s) - 1)
        for values in self._arrays:
            del values[:first]
        for at_s in self.notes.values():
            del at_s[: bisect_left(at_s, self.t_s[0] if self.t_s else before_t_s)]

    def period_s(self, first: int, last: int) -> float:
        """Median interval between samples first..last, from a thousand of them; 0 with fewer than two."""
        first, last = max(0, first), min(last, len(self.t_s) - 1)
        intervals_s = self.interval_s[first + 1 : last + 1 : max(1, (last - first) // 1000)]
        return statistics.median(intervals_s) if intervals_s else 0.0

    def _sum_at_mj(self, t_s: float) -> float:
        """Energy from the first sample to t_s: power linear between samples, held beyond their ends."""
        k = bisect_right(self.t_s, t_s) - 1
        if k < 0:
            return self.power_mw[0] * (t_s - self.t_s[0])
        later_s, power_mw = t_s - self.t_s[k], self.power_mw[k]
        if k + 1 < len(self.t_s):
            power_mw += (self.power_mw[k + 1] - power_mw) / 2 * (later_s / self.interval_s[k + 1])
        return self._sum_mj[k] + power_mw * later_s

    def energy_mj(self, t0: float, t1: float) -> float:
        """Trapezoid over [t0, t1], interpolated at both edges: exact where power is linear in between."""
        return self._sum_at_mj(t1) - self._sum_at_mj(t0)

    def uncertainty_mj(self, t0: float, t1: float, gaps: list[int]) -> float:
        """Bound on the error of energy_mj: a load step anywhere in an edge interval or gap, and the quantum.

        A straight line misplaces a step by at most half its interval, |dP| * dt / 2. The sensor's step q does
        not average out of a steady load, q / 2 * (t1 - t0), and dP is only known to within q.
        """
        mw, step_mw = self.power_mw, self._step_mw if self._step_mw < math.inf else 0.0
        quantum_mw = self.quantum_mw or min(step_mw, MAX_QUANTUM_MW)
        edges = [k for k in (bisect_right(self.t_s, t0), bisect_left(self.t_s, t1)) if 0 < k < len(mw)]
        bound_mj = quantum_mw / 2 * (t1 - t0)
        for k in (*edges, *(k for k in gaps if k not in edges)):
            bound_mj += (abs(mw[k] - mw[k - 1]) + quantum_mw) / 2 * self.interval_s[k]
        # What is held beyond the first or last sample may be wrong altogether.
        return bound_mj + mw[0] * max(0.0, self.t_s[0] - t0) + mw[-1] * max(0.0, t1 - self.t_s[-1])

    def window(self, t0: float, t1: float, idle_mw: float | None) -> PowerWindow:
        """Energy and power over [t0, t1] of the samples' clock; None and a reason if they do not cover it."""
        if not (math.isfinite(t0) and math.isfinite(t1) and t0 <= t1):
            return PowerWindow(reason=f"not a window: t0 {t0}, t1 {t1}")
        if not self.t_s:
            return PowerWindow(reason="no power sample")
        t_s, seconds = self.t_s, t1 - t0
        first, last = max(0, bisect_right(t_s, t0) - 1), min(len(t_s) - 1, bisect_left(t_s, t1))
        limit_s = GAP_PERIODS * self.period_s(first - 50, last + 50)
        early_s, late_s, end_s = max(0.0, t_s[0] - t0), max(0.0, t1 - t_s[-1]), max(t1, t_s[last])
        counts = {w: bisect_right(m, end_s) - bisect_left(m, t_s[first]) for w, m in self.notes.items()}
        noted = {word: count for word, count in counts.items() if count}
        if max(early_s, late_s) > limit_s:
            side = f"begins {early_s:.3g} s before" if early_s > late_s else f"ends {late_s:.3g} s after"
            return PowerWindow(reason=f"the window {side} the power samples do", flags=tuple(sorted(noted)))
        longest_s = highest(self.interval_s, first + 1, last + 1) or 0.0
        suspects = range(first + 1, last + 1 if longest_s > limit_s else 0)
        gaps = [k for k in suspects if self.interval_s[k] > limit_s]
        lost_s = early_s + late_s + sum(min(t1, t_s[k]) - max(t0, t_s[k - 1]) for k in gaps)
        inside = bisect_left(t_s, t0), bisect_right(t_s, t1)
        gross_mj, idle_mj = self.energy_mj(t0, t1), None if idle_mw is None else idle_mw * seconds
        checks = {
            "few_power_samples": inside[1] - inside[0] < MIN_SAMPLES,
            "power_gap": bool(gaps),
            "extrapolated_edge": early_s + late_s > 0,
            "negative_energy": idle_mj is not None and gross_mj < idle_mj,
            "simulated_power": self.simulated,
        }
        return PowerWindow(
            energy_joule=None if idle_mj is None else (gross_mj - idle_mj) / 1000,
            energy_gross_joule=gross_mj / 1000,
            energy_idle_joule=None if idle_mj is None else idle_mj / 1000,
            energy_uncertainty_joule=self.uncertainty_mj(t0, t1, gaps) / 1000,
            power_mw_mean=gross_mj / seconds if seconds > 0 else None,
            power_mw_max=highest(self.power_mw, *inside),
            power_samples=inside[1] - inside[0],
            power_period_ms=1000 * self.period_s(first, last) or None,
            power_max_gap_ms=1000 * longest_s or None,
            power_coverage=1 - lost_s / seconds if seconds > 0 else None,
            temp_start_c=highest(self.temp_c, first, first + 1),
            temp_max_c=highest(self.temp_c, first, max(first + 1, inside[1])),
            flags=tuple(sorted(noted.keys() | {word for word, found in checks.items() if found})),
            flag_counts=noted,
            reason="no idle baseline" if idle_mw is None else None,
        )

    def baseline(self, t0: float, t1: float) -> IdleBaseline:
        """Idle power over [t0, t1] and whether to trust it; SamplerError without samples there."""
        inside, seconds = slice(bisect_left(self.t_s, t0), bisect_right(self.t_s, t1)), t1 - t0
        power_mw, window = self.power_mw[inside], self.window(t0, t1, None)
        if window.power_mw_mean is None or len(power_mw) < 2:
            raise SamplerError(f"no idle power: {len(power_mw)} samples in {seconds:.3g} s, too few")
        mean_mw, std_mw, quantum_mw = window.power_mw_mean, statistics.stdev(power_mw), self.quantum_mw or 0.0
        slope = statistics.linear_regression(self.t_s[inside], power_mw).slope
        drift_mw, n, temp_c = slope * seconds, len(power_mw), window.temp_max_c
        wanted = IDLE_SAMPLES * seconds / self.period_s(len(self.t_s) - 500, len(self.t_s))
        # One step of a coarse sensor (898 mW on AGX Orin) is not unrest.
        std_max, drift_max = max(IDLE_STD * mean_mw, quantum_mw), max(IDLE_DRIFT * mean_mw, quantum_mw / 2)
        checks = {
            f"{n} samples, at least {wanted:.0f} wanted": n < wanted,
            f"power varies by {std_mw:.0f} mW, {std_max:.0f} mW allowed": std_mw > std_max,
            f"power drifts by {drift_mw:+.0f} mW, {drift_max:.0f} mW allowed": abs(drift_mw) > drift_max,
        }
        verdict = "; ".join(text for text, found in checks.items() if found) or "stable"
        median_mw, stable = statistics.median(power_mw), verdict == "stable"
        return IdleBaseline(mean_mw, median_mw, std_mw, slope, n, temp_c, stable, verdict)


def find_feed(source: str = "auto", feed: str | None = None, interval_ms: int = 100) -> FeedChoice:
    """Choose the command that prints power lines; its command is None, with the reason, where there is none.

    SamplerError for what was mistyped: source, interval, or feed (split as a shell would, run without one).
    """
    ask = [
        *room_command("edgebench.power.feeds"),
        "--choose",
        "--source",
        source,
        "--interval",
        str(interval_ms),
    ]
    ask += [] if feed is None else [f"--feed={feed}"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SamplerError((done.stderr.strip() or "error: no answer").splitlines()[-1].partition(": ")[2])
    choice = json.loads(done.stdout)
    return FeedChoice(choice["command"] and tuple(choice["command"]), choice["source"], choice["reason"])


class TegrastatsSampler:
    """Samples power in a thread: start(), measure_idle(), integrate_energy(t0, t1, idle_mw), stop().

    Without a choice it launches `tegrastats --interval 100`, or what find_feed() finds instead. trace_path
    gets a CSV row per sample, appended. Times are time.monotonic() seconds, one clock for all processes.
    """

    def __init__(
        self, choice: FeedChoice | None = None, interval_ms: int = 100, trace_path: Path | None = None
    ) -> None:
        self._choice = choice or find_feed(interval_ms=interval_ms)
        self._silent_s, self._trace_path = max(2.0, 5 * interval_ms / 1000), trace_path
        self.trace_error: str | None = None  # why the trace file ends early: a full disk, a closed pipe
        self.info = FeedInfo(self._choice.source, None, None, interval_ms)
        self.trace, self._news = PowerTrace(), threading.Condition()
        self.end_reason: str | None = "was not started"
        self._thread: threading.Thread | None = None
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
        # The keeper stamps, restarts and cleans up, in a process of its own. Ctrl-C is not for it.
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        launch = [
            *room_command("edgebench.power.keeper", isolated=True),
            "--silent_s",
            str(self._silent_s),
            "--",
            *command,
        ]
        try:
            self._file = self._trace_path.open("a", 1, "utf-8") if self._trace_path else None
            if self._file and not (self._file.seekable() and self._file.tell()):
                self._file.write(TRACE_FIELDS + "\n")
        except OSError as exc:
            raise SamplerError(f"cannot write {self._trace_path}: {exc.strerror}") from exc
        self._child = subprocess.Popen(launch, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
        self._taken, self._powerless, self.end_reason = 0, 0, None  # samples, lines without one
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
            stamp, _, line = raw.decode("utf-8", "replace").rstrip("\n").partition(" ")
            t_s = float(stamp)
            with self._news:
                word = line.removeprefix("# ").partition(":")[0]
                if word in KEEPER_WORDS:
                    self.trace.notes[word].append(t_s)
                elif line.startswith(ENDED):
                    self.end_reason = self.end_reason or line.removeprefix(ENDED)
                elif line.startswith(ANNOUNCE):
                    self._announce(line)
                else:
                    self._take(t_s, parse_line(line))
                self._news.notify_all()
        with self._news:
            self.end_reason = self.end_reason or "ended"
            self._news.notify_all()

    def _announce(self, line: str) -> None:
        """A feed of ours says in its first line what it is."""
        with contextlib.suppress(ValueError, AttributeError):
            said, info = json.loads(line.removeprefix(ANNOUNCE)), self.info
            simulated = self.trace.simulated = said.get("simulated") is True
            self._quanta_mw, origin = said.get("quantum_mw") or {}, said.get("origin")
            source, rail = said.get("source") or info.source, info.rail or said.get("rail")
            self.info = replace(info, source=source, rail=rail, simulated=simulated, origin=origin)
            self.info = replace(self.info, scope=info.scope or said.get("scope"))

    def _take(self, t_s: float, reading: Reading) -> None:
        """Store one sample. Its rail stays that of the first: totals of two scopes never mix."""
        rail = self.info.rail or reading.total_rail or ""
        if any(name not in reading.rails for name in rail.split("+")):
            self._powerless += 1
            if self._taken and reading.rails:
                self.trace.notes["rail_missing"].append(t_s)
            return
        if not self._taken:
            scope, quantum_mw = TOTAL_RULES.get(rail, (reading.scope, None))
            self.trace.quantum_mw = sum(self._quanta_mw.get(n, 0.0) for n in rail.split("+")) or quantum_mw
            scope, quantum_mw = self.info.scope or scope, self.trace.quantum_mw
            self.info = replace(self.info, rail=rail, scope=scope, quantum_mw=quantum_mw)
        total_mw = sum(reading.rails[name] for name in rail.split("+"))
        words = doubts(total_mw, {} if "+" in rail else reading.rails)
        for word in words:
            self.trace.notes[word].append(t_s)
        if not DROPPED.isdisjoint(words):
            self._powerless += 1
            return
        self._taken += 1
        temp_c = hottest_c(reading.temps_c)
        self.trace.add(t_s, total_mw, temp_c)
        if self._file and not self.trace_error:
            heat = f"{temp_c:g}" if math.isfinite(temp_c) else ""
            try:
                self._file.write(f"{t_s:.6f},{total_mw},{rail},{self.info.scope},{self.info.source},{heat}\n")
            except OSError as exc:
                self.trace_error = str(exc)

    def measure_idle(self, seconds: float = 10.0) -> float:
        """Mean power in mW over the coming seconds; SamplerError if no samples come."""
        return self.idle_baseline(seconds).mean_mw

    def idle_baseline(self, seconds: float = 10.0) -> IdleBaseline:
        """Sample for so long; then what idle power is and whether it was steady. SamplerError as above."""
        if not 0 < seconds < math.inf:
            raise SamplerError(f"cannot measure idle power for {seconds} s: give a positive number")
        t1 = seconds + (t0 := time.monotonic())
        with self._news:
            self._wait_for(t1)
            if self.end_reason:
                raise SamplerError(f"no idle power: the power feed {self.end_reason}")
            return self.trace.baseline(t0, t1)

    def _wait_for(self, t1: float) -> None:
        """Until there is a sample at or after t1, or it is clear that none will come."""
        patience_s = max(0.0, t1 - time.monotonic()) + self._silent_s
        self._news.wait_for(lambda: self.trace.last_s() >= t1 or self.end_reason, patience_s)

    def integrate_energy(self, t0: float, t1: float, idle_mw: float | None) -> float | None:
        """Joule above idle over [t0, t1], not clamped; None, never 0, where it cannot be known."""
        return self.window(t0, t1, idle_mw).energy_joule

    def window(self, t0: float, t1: float, idle_mw: float | None) -> PowerWindow:
        """Energy and power over [t0, t1]; waits for the sample after t1, without which it would guess."""
        ahead_s = t1 - time.monotonic()
        if ahead_s > MAX_AHEAD_S:
            return PowerWindow(reason=f"t1 is {ahead_s:.0f} s ahead: times must be time.monotonic() seconds")
        with self._news:
            self._wait_for(t1)
            window = self.trace.window(t0, t1, idle_mw)
        lost, why = window.energy_gross_joule is None, f"{window.reason}; the power feed {self.end_reason}"
        return replace(window, reason=why) if lost and self.end_reason else window

    def forget(self, before_t_s: float) -> None:
        """Drop samples older than this moment, so that a campaign of days stays small."""
        with self._news:
            self.trace.forget(before_t_s)


def integrate(args: argparse.Namespace) -> int:
    """Print energy and power of a window of a trace as JSON, and what it is as an idle baseline."""
    trace, path, number = PowerTrace(), Path(args.file), 1
    try:
        with path.open(encoding="utf-8", newline="") as rows:
            for number, row in enumerate(csv.DictReader(rows), 2):  # noqa: B007, an error names the line
                t_s, power_mw = float(row["t_s"]), float(row["power_mw"])
                trace.add(t_s, power_mw, float(row.get("temp_c") or -math.inf))
                for word in doubts(power_mw, {}):
                    trace.notes[word].append(t_s)
                trace.quantum_mw = TOTAL_RULES.get(row.get("rail") or "", ("", None))[1]
                trace.simulated |= row.get("source") == "replay"
    except (KeyError, TypeError, ValueError, SamplerError, csv.Error) as exc:
        raise SamplerError(f"{path} line {number} is no sample of a trace: {exc}") from exc
    t0 = args.t0 if args.t0 is not None else next(iter(trace.t_s), 0.0)
    t1 = args.t1 if args.t1 is not None else max(trace.last_s(), t0)
    if not -math.inf < t0 <= t1 < math.inf:
        raise SamplerError(f"--t0 {t0} and --t1 {t1} are no window")
    window = trace.window(t0, t1, args.idle_mw)
    idle = trace.baseline(t0, t1) if window.power_samples > 1 and t0 < t1 else None
    print(json.dumps({"t0": t0, "t1": t1} | asdict(window) | {"baseline": idle and asdict(idle)}), flush=True)
    return 0


def parse(args: argparse.Namespace) -> int:
    """Print one JSON object per line read."""
    with sys.stdin.buffer if args.file == "-" else Path(args.file).open("rb") as lines:
        for line in lines:
            reading = parse_line(line.decode("utf-8", "replace"))
            flags = () if reading.total_mw is None else doubts(reading.total_mw, reading.rails)
            print(json.dumps(reading._asdict() | {"flags": flags}), flush=True)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    for name in METER_COMMANDS:  # their flags are power_meter.py's: without a prefix, all words are plain
        meter = commands.add_parser(name, help=f"see {name} --help", add_help=False, prefix_chars="\0")
        meter.add_argument("words", nargs="*")
    area = commands.add_parser("integrate", help="energy of a window of a recorded trace")
    area.add_argument("file", metavar="TRACE", help="CSV with t_s and power_mw")
    area.add_argument("--t0", type=float, help="seconds, as in the trace (default: its first sample)")
    area.add_argument("--t1", type=float, help="seconds, as in the trace (default: its last sample)")
    area.add_argument("--idle_mw", type=float, help="subtracted; without it the net energy is null")
    lines = commands.add_parser("parse", help="tegrastats lines to JSON, one object per line")
    lines.add_argument("file", metavar="FILE|-", help="a log, or - for standard input")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.command in METER_COMMANDS:
            os.execv(sys.executable, room_command("edgebench.power.meter", args.command, *args.words))
        return integrate(args) if args.command == "integrate" else parse(args)
    except OSError as exc:
        if exc.filename is None:  # standard output: full, or its reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or exiting fails on it, too
        if not isinstance(exc, BrokenPipeError):
            what = f"read {exc.filename}" if exc.filename else "write standard output"
            print(f"error: cannot {what}: {exc.strerror}", file=sys.stderr)
        return 1
    except SamplerError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
