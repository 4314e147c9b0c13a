"""Samples of power in time order, the energy of a window of them, and idle power.

Times are seconds of one monotonic clock, power in mW, energy in J. What cannot be known is None with a
reason, never 0. The energy is the trapezoid over [t0, t1], linear between samples and interpolated at both
edges, minus idle power times duration; how far it may be off is worked out in energy.py.
"""

from __future__ import annotations

import math
import statistics
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgebench.errors import UserError
from edgebench.power.energy import (
    LONGEST_LAG_S,
    MAX_QUANTUM_MW,
    baseline_uncertainty_mw,
    highest,
    lowest,
    step_bound_mj,
    swing_mw,
)

MIN_SAMPLES = 5  # fewer inside a window are flagged
GAP_PERIODS = 3.0  # a longer interval is a gap
IDLE_SAMPLES = 0.8  # of those expected in a baseline
IDLE_STD = 0.05  # of the mean; more is unrest
IDLE_DRIFT = 0.02  # of the mean per baseline


class SamplerError(UserError):
    """What the user can fix: no power source, a bad interval, an unreadable trace."""


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
    uncertainty_mw: float | None = None  # of the mean; None where nobody knows the sensor's step


@dataclass(frozen=True)
class PowerWindow:
    """Energy and power between two moments; names as in the run record."""

    energy_joule: float | None = None  # net of idle, not clamped
    energy_gross_joule: float | None = None
    energy_idle_joule: float | None = None
    energy_uncertainty_joule: float | None = None  # of both, net and gross; None where it cannot be bounded
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


@dataclass(frozen=True)
class Span:
    """A window among the samples of a trace."""

    t0: float
    t1: float
    first: int  # the last sample at or before t0, else the first of all
    last: int  # the first sample at or after t1, else the last of all
    inside: tuple[int, int]  # samples in [t0, t1]: from, up to without
    period_s: float
    limit_s: float  # a longer interval is a gap
    longest_s: float
    gaps: tuple[int, ...]  # intervals, by their later sample
    early_s: float  # of the window before the first sample
    late_s: float  # and after the last
    lost_s: float  # both, and what lies in gaps


class PowerTrace:
    """Samples in time order, their integral, and what was wrong with them."""

    def __init__(self) -> None:
        self.t_s = array("d")
        self.power_mw = array("d")
        self.temp_c = array("d")  # -inf where unknown
        self.interval_s = array("d")  # since the sample before
        self._sum_mj = array("d")  # energy since the first sample
        self._arrays = (self.t_s, self.power_mw, self.temp_c, self.interval_s, self._sum_mj)
        self._step_mw = math.inf  # smallest change seen
        self.quantum_mw: float | None = None  # where nobody stated it, the smallest change seen stands in
        # By how much a line is stamped after its reading. The feed may have stated it; of tegrastats the
        # interval asked for is known, and what the true period is longer is spent between the two.
        self.lag_s: float | None = None
        self.asked_interval_s: float | None = None
        self.simulated = False
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

    def sensor_step_mw(self) -> float | None:
        """What a step of the sensor is worth: as stated, else the smallest change seen; None without any."""
        if self.quantum_mw:
            return self.quantum_mw
        return min(self._step_mw, MAX_QUANTUM_MW) if self._step_mw < math.inf else None

    def longest_lag_s(self, period_s: float) -> float:
        """How much later than its reading a line may have been stamped, where it comes every period_s."""
        if self.lag_s is not None:
            return self.lag_s
        if self.asked_interval_s is not None:
            return max(0.0, period_s - self.asked_interval_s)
        return LONGEST_LAG_S

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

    def window(
        self, t0: float, t1: float, idle_mw: float | None, idle_uncertainty_mw: float | None = 0.0
    ) -> PowerWindow:
        """Energy and power over [t0, t1] of the samples' clock; None and a reason if they do not cover it.

        idle_uncertainty_mw is how far idle_mw may be off; None makes the uncertainty of the energy None, too.
        """
        if not (math.isfinite(t0) and math.isfinite(t1) and t0 <= t1):
            return PowerWindow(reason=f"not a window: t0 {t0}, t1 {t1}")
        if not self.t_s:
            return PowerWindow(reason="no power sample")
        span = self._span(t0, t1)
        noted = self._noted(span)
        if max(span.early_s, span.late_s) > span.limit_s:
            side = f"begins {span.early_s:.3g} s before"
            if span.late_s >= span.early_s:
                side = f"ends {span.late_s:.3g} s after"
            return PowerWindow(reason=f"the window {side} the power samples do", flags=tuple(sorted(noted)))
        seconds, (first_in, end_in) = t1 - t0, span.inside
        gross_mj = self.energy_mj(t0, t1)
        idle_mj = None if idle_mw is None else idle_mw * seconds
        bounds_mj = [self.uncertainty_mj(span)]
        if idle_mw is not None:
            bounds_mj.append(None if idle_uncertainty_mw is None else idle_uncertainty_mw * seconds)
        checks = {
            "few_power_samples": end_in - first_in < MIN_SAMPLES,
            "power_gap": bool(span.gaps),
            "extrapolated_edge": span.early_s + span.late_s > 0,
            "negative_energy": idle_mj is not None and gross_mj < idle_mj,
            "simulated_power": self.simulated,
        }
        known_mj = [bound_mj for bound_mj in bounds_mj if bound_mj is not None]
        return PowerWindow(
            energy_joule=None if idle_mj is None else (gross_mj - idle_mj) / 1000,
            energy_gross_joule=gross_mj / 1000,
            energy_idle_joule=None if idle_mj is None else idle_mj / 1000,
            energy_uncertainty_joule=sum(known_mj) / 1000 if len(known_mj) == len(bounds_mj) else None,
            power_mw_mean=gross_mj / seconds if seconds > 0 else None,
            power_mw_max=highest(self.power_mw, first_in, end_in),
            power_samples=end_in - first_in,
            power_period_ms=1000 * self.period_s(span.first, span.last) or None,
            power_max_gap_ms=1000 * span.longest_s or None,
            power_coverage=1 - span.lost_s / seconds if seconds > 0 else None,
            temp_start_c=highest(self.temp_c, span.first, span.first + 1),
            temp_max_c=highest(self.temp_c, span.first, max(span.first + 1, end_in)),
            flags=tuple(sorted(noted.keys() | {word for word, found in checks.items() if found})),
            flag_counts=noted,
            reason="no idle baseline" if idle_mw is None else None,
        )

    def _span(self, t0: float, t1: float) -> Span:
        """Where a window lies among the samples, and what of it they do not cover."""
        t_s = self.t_s
        first, last = max(0, bisect_right(t_s, t0) - 1), min(len(t_s) - 1, bisect_left(t_s, t1))
        period_s = self.period_s(first - 50, last + 50)
        limit_s = GAP_PERIODS * period_s
        early_s, late_s = max(0.0, t_s[0] - t0), max(0.0, t1 - t_s[-1])
        longest_s = highest(self.interval_s, first + 1, last + 1) or 0.0
        suspects = range(first + 1, last + 1 if longest_s > limit_s else 0)
        gaps = tuple(k for k in suspects if self.interval_s[k] > limit_s)
        lost_s = early_s + late_s + sum(min(t1, t_s[k]) - max(t0, t_s[k - 1]) for k in gaps)
        return Span(
            t0=t0,
            t1=t1,
            first=first,
            last=last,
            inside=(bisect_left(t_s, t0), bisect_right(t_s, t1)),
            period_s=period_s,
            limit_s=limit_s,
            longest_s=longest_s,
            gaps=gaps,
            early_s=early_s,
            late_s=late_s,
            lost_s=lost_s,
        )

    def _noted(self, span: Span) -> dict[str, int]:
        """What was said of lines between the samples around the window, and how often."""
        begin_s, end_s = self.t_s[span.first], max(span.t1, self.t_s[span.last])
        counts = {w: bisect_right(at_s, end_s) - bisect_left(at_s, begin_s) for w, at_s in self.notes.items()}
        return {word: count for word, count in counts.items() if count}

    def uncertainty_mj(self, span: Span) -> float | None:
        """Bound on the error of energy_mj, the sum of energy.py's parts.

        None where nothing bounds it: no quantum is known, or no sample lies inside the window, so that a load
        may have come and gone unseen.
        """
        quantum_mw = self.sensor_step_mw()
        if quantum_mw is None or span.inside[0] == span.inside[1]:
            return None
        t_s, mw, seconds = self.t_s, self.power_mw, span.t1 - span.t0
        edges = {k for k in (bisect_right(t_s, span.t0), bisect_left(t_s, span.t1)) if 0 < k < len(mw)}
        bound_mj = quantum_mw / 2 * seconds
        for k in edges:  # the change is only known to within one step of the sensor
            change_mw = abs(mw[k] - mw[k - 1]) + quantum_mw
            bound_mj += change_mw * min(self.interval_s[k] / 2, seconds)
        for k in span.gaps:
            bound_mj += self._gap_mj(k, span, quantum_mw) * (k not in edges)
        bound_mj += self._inner_steps_mj(edges, span, quantum_mw)
        lag_s = self.longest_lag_s(span.period_s)
        around = [self._around(at_s, at_s + lag_s) for at_s in (span.t0, span.t1)]
        bound_mj += swing_mw(*around) * min(lag_s, seconds)
        # What is held beyond the first or last sample may be wrong altogether.
        return bound_mj + mw[0] * span.early_s + mw[-1] * span.late_s

    def _inner_steps_mj(self, edges: set[int], span: Span, quantum_mw: float) -> float:
        """Load steps in the window's intervals, but for the edges' and the gaps."""
        begin = span.first + 1
        interval_s = self.interval_s[begin : span.last + 1]
        for k in (*edges, *span.gaps):
            if begin <= k <= span.last:
                interval_s[k - begin] = 0.0
        return step_bound_mj(self.power_mw[span.first : span.last + 1], interval_s, quantum_mw)

    def _gap_mj(self, k: int, span: Span, quantum_mw: float) -> float:
        """A gap, where power was anything between the least and the most of the window's samples."""
        low_mw = lowest(self.power_mw, span.first, span.last + 1)
        high_mw = highest(self.power_mw, span.first, span.last + 1)
        middle_mw = (self.power_mw[k] + self.power_mw[k - 1]) / 2
        worst_mw = max((high_mw or middle_mw) - middle_mw, middle_mw - (low_mw or middle_mw))
        return (worst_mw + quantum_mw / 2) * self.interval_s[k]

    def _around(self, begin_s: float, end_s: float) -> Sequence[float]:
        """Powers of the samples in [begin, end], with the one before and the one after."""
        return self.power_mw[max(0, bisect_right(self.t_s, begin_s) - 1) : bisect_left(self.t_s, end_s) + 1]

    def baseline(self, t0: float, t1: float) -> IdleBaseline:
        """Idle power over [t0, t1] and whether to trust it; SamplerError without samples there."""
        inside, seconds = slice(bisect_left(self.t_s, t0), bisect_right(self.t_s, t1)), t1 - t0
        power_mw, window = self.power_mw[inside], self.window(t0, t1, None)
        if window.power_mw_mean is None or len(power_mw) < 2:
            raise SamplerError(f"no idle power: {len(power_mw)} samples in {seconds:.3g} s, too few")
        mean_mw, std_mw = window.power_mw_mean, statistics.stdev(power_mw)
        quantum_mw, sensor_step_mw = self.quantum_mw or 0.0, self.sensor_step_mw()
        slope_mw_per_s = statistics.linear_regression(self.t_s[inside], power_mw).slope
        drift_mw, samples = slope_mw_per_s * seconds, len(power_mw)
        wanted = IDLE_SAMPLES * seconds / self.period_s(len(self.t_s) - 500, len(self.t_s))
        # One step of a coarse sensor is not unrest: on an AGX Orin it is most of a watt (TOTAL_RULES).
        std_max, drift_max = max(IDLE_STD * mean_mw, quantum_mw), max(IDLE_DRIFT * mean_mw, quantum_mw / 2)
        checks = {
            f"{samples} samples, at least {wanted:.0f} wanted": samples < wanted,
            f"power varies by {std_mw:.0f} mW, {std_max:.0f} mW allowed": std_mw > std_max,
            f"power drifts by {drift_mw:+.0f} mW, {drift_max:.0f} mW allowed": abs(drift_mw) > drift_max,
        }
        verdict = "; ".join(text for text, found in checks.items() if found) or "stable"
        return IdleBaseline(
            mean_mw=mean_mw,
            median_mw=statistics.median(power_mw),
            std_mw=std_mw,
            slope_mw_per_s=slope_mw_per_s,
            samples=samples,
            temp_c=window.temp_max_c,
            stable=verdict == "stable",
            verdict=verdict,
            uncertainty_mw=None
            if sensor_step_mw is None
            else baseline_uncertainty_mw(power_mw, sensor_step_mw),
        )
