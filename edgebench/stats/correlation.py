"""Pearson's correlation with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.stats.intervals import NORMAL_QUANTILE

FEWEST_PAIRS = 4  # three lie on a line too easily, and Fisher's z has the standard error 1 / sqrt(n - 3)


@dataclass(frozen=True)
class Correlation:
    """r and its 95 % interval, of how many pairs. What cannot be known is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0


def pearson(pairs: Sequence[tuple[float, float]]) -> Correlation:
    """r of (x, y) pairs; its interval by Fisher's z transform (1921). None where one side does not
    vary, and for fewer than four pairs.

    >>> pearson([(1, 2), (2, 4), (3, 6), (4, 8)]).value
    1.0
    >>> pearson([(1, 5), (2, 5), (3, 5), (4, 5)])
    Correlation(value=None, low=None, high=None, pairs=4)
    """
    count = len(pairs)
    if count < FEWEST_PAIRS:
        return Correlation(pairs=count)
    means = [math.fsum(column) / count for column in zip(*pairs, strict=True)]
    off = [(x - means[0], y - means[1]) for x, y in pairs]
    squares = [math.fsum(one * one for one in column) for column in zip(*off, strict=True)]
    scales = [max(abs(x) for x in column) for column in zip(*pairs, strict=True)]
    if any(math.sqrt(s / count) <= 1e-12 * scale for s, scale in zip(squares, scales, strict=True)):
        return Correlation(pairs=count)
    r = math.fsum(x * y for x, y in off) / math.sqrt(squares[0] * squares[1])
    r = min(1.0, max(-1.0, r))
    if abs(r) > 1 - 1e-12:
        return Correlation(r, r, r, count)
    half = NORMAL_QUANTILE / math.sqrt(count - 3)
    return Correlation(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), count)
