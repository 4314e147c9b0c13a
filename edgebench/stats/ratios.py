"""Ratios of sums over independent units (prompts, batches), with intervals that hold for few units.

A ratio of sums, such as latency with drafts over latency without, is log R = sum_k p_k log(sum_i x_ki) with
powers p_k of +1 and -1. Its variance by linearization (Cochran, Sampling Techniques, 3rd ed. 1977, 6.3 and
6.11; Woodruff 1971) is n / (n - 1) * sum_i e_i**2 with e_i = sum_k p_k x_ki / sum_i x_ki; the interval is
Student's t with n - 1 degrees of freedom on the log scale, so it never crosses zero. A percentile bootstrap,
which these tables used before, covers too seldom for the ten prompts that there usually are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.stats.student import student_quantile

FEWEST_UNITS = 3  # two would give an interval of any width, and nothing to judge their spread by
NO_SPREAD = 1e-12  # what rounding leaves of units that all say the same


@dataclass(frozen=True)
class Ratio:
    """A ratio, its 95 % interval, and how many units it is made of. What cannot be known is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    units: int = 0


def ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Sum of ours over sum of theirs, of one pair (ours, theirs) per unit.

    >>> ratio_of_sums([(1.0, 2.0)] * 5)
    Ratio(value=0.5, low=0.5, high=0.5, units=5)
    """
    return product_of_sums(pairs, (1, -1))


def product_of_sums(units: Sequence[Sequence[float]], powers: Sequence[int]) -> Ratio:
    """The product of the columns' sums, each to its power; one row of `units` per unit.

    Tokens per second over tokens per second is (tokens, ms, tokens, ms) to the powers (1, -1, -1, 1). A sum
    that is not above zero makes no ratio: Ratio() with the count of units alone.
    """
    count = len(units)
    sums = [math.fsum(column) for column in zip(*units, strict=True)]
    if not count or any(total <= 0 or not math.isfinite(total) for total in sums):
        return Ratio(units=count)
    value = math.exp(math.fsum(power * math.log(total) for power, total in zip(powers, sums, strict=True)))
    if len(sums) == 2 and tuple(powers) == (1, -1):
        value = sums[0] / sums[1]  # to the last digit
    if count < FEWEST_UNITS:
        return Ratio(value, units=count)
    off = [math.fsum(p * x / total for p, x, total in zip(powers, unit, sums, strict=True)) for unit in units]
    error = math.sqrt(count / (count - 1) * math.fsum(one * one for one in off))
    if error < NO_SPREAD:
        return Ratio(value, value, value, count)
    half = student_quantile(count - 1) * error
    return Ratio(value, value * math.exp(-half), value * math.exp(half), count)
