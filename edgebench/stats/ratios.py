"""Ratios of sums with their intervals: over tasks or prompts, and over repeats of one measurement.

Over prompts, which differ from each other, the interval is that of stats/intervals.py. Repeats of one
measurement (batches) differ by noise alone, which is near normal: for them Student's t holds from few on.
There log R = log sum(x) - log sum(y), its variance by linearization (Cochran, Sampling Techniques, 3rd ed.
1977, 6.3) is n / (n - 1) * sum_i e_i**2 with e_i = x_i / sum(x) - y_i / sum(y), and on the log scale the
interval never crosses zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.stats.intervals import Interval, jackknife_interval, mean_interval, mean_std, ratio_interval
from edgebench.stats.student import student_quantile

FEWEST_REPEATS = 3  # two would give an interval of any width, and nothing to judge their spread by
NO_SPREAD = 1e-12  # what rounding leaves of units that all say the same


@dataclass(frozen=True)
class Ratio:
    """A ratio, its 95 % interval or why there is none, and how many units it is made of."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    units: int = 0
    reason: str | None = None  # why there is no interval, or no value


def _with(value: float, interval: Interval, units: int) -> Ratio:
    """A value with an interval of stats/intervals.py."""
    low, high = interval.edges or (None, None)
    return Ratio(value, low, high, units, interval.reason)


def _from_logs(log: float, interval: Interval, units: int) -> Ratio:
    """The same of a logarithm."""
    low, high = map(math.exp, interval.edges) if interval.edges else (None, None)
    return Ratio(math.exp(log), low, high, units, interval.reason)


def ratio_of_sums(pairs: Sequence[tuple[float, float]], what: str = "prompts") -> Ratio:
    """Sum of ours over sum of theirs, of one pair (ours, theirs) per unit.

    >>> ratio_of_sums([(1.0, 2.0), (2.0, 4.0)]).value
    0.5
    """
    if not _are_above_zero(pairs):
        return Ratio(units=len(pairs), reason=f"no {what} with a sum above zero on both sides")
    ours, theirs = zip(*pairs, strict=True)
    return _with(math.fsum(ours) / math.fsum(theirs), ratio_interval(ours, theirs, what), len(pairs))


def product_of_sums(units: Sequence[Sequence[float]], powers: Sequence[int], what: str = "prompts") -> Ratio:
    """The product of the columns' sums, each to its power; one row of `units` per unit.

    Tokens per second over tokens per second is (tokens, ms, tokens, ms) to the powers (1, -1, -1, 1). The
    interval is the jackknife's, on the log scale.
    """
    if not _are_above_zero(units):
        return Ratio(units=len(units), reason=f"no {what} with sums above zero")
    sums = [math.fsum(column) for column in zip(*units, strict=True)]
    whole = _log_product(sums, powers)
    rests = [[total - x for total, x in zip(sums, unit, strict=True)] for unit in units]
    if len(units) < 2 or any(rest <= 0 for one in rests for rest in one):
        return Ratio(math.exp(whole), units=len(units), reason=f"too few {what}")
    without = [_log_product(one, powers) for one in rests]
    return _from_logs(whole, jackknife_interval(whole, without, what), len(units))


def ratio_of_repeats(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Sum of ours over sum of theirs, of one pair per repeat of the same measurement.

    >>> ratio_of_repeats([(1.0, 2.0)] * 5)
    Ratio(value=0.5, low=0.5, high=0.5, units=5, reason=None)
    """
    count = len(pairs)
    if not _are_above_zero(pairs):
        return Ratio(units=count, reason="no repeats with a sum above zero on both sides")
    ours, theirs = (math.fsum(column) for column in zip(*pairs, strict=True))
    value = ours / theirs
    if count < FEWEST_REPEATS:
        return Ratio(value, units=count, reason=f"fewer than {FEWEST_REPEATS} repeats")
    off = [x / ours - y / theirs for x, y in pairs]
    error = math.sqrt(count / (count - 1) * math.fsum(one * one for one in off))
    if error < NO_SPREAD:
        return Ratio(value, value, value, count)
    half = student_quantile(count - 1) * error
    return Ratio(value, value * math.exp(-half), value * math.exp(half), count)


def geometric_mean(ratios: Sequence[float], what: str) -> Ratio:
    """The geometric mean of ratios, with the interval of the mean of their logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, _ = mean_std(logs)
    if mean is None:
        return Ratio(reason=f"no {what}")
    return _from_logs(mean, mean_interval(logs, what), len(logs))


def _are_above_zero(units: Sequence[Sequence[float]]) -> bool:
    """Whether every column's sum is a number above zero."""
    sums = [math.fsum(column) for column in zip(*units, strict=True)]
    return bool(sums) and all(total > 0 and math.isfinite(total) for total in sums)


def _log_product(sums: Sequence[float], powers: Sequence[int]) -> float:
    return math.fsum(power * math.log(total) for power, total in zip(powers, sums, strict=True))
