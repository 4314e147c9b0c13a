"""Drift: how far a measurement moves over a campaign while what is measured stays the same.

One definition for the collector's check and for the analysis. Runs of one cell (a prompt and its repeats)
are held against their own mean, so neither task nor level can pass for drift; a line is drawn through all
of them over time; drift is the change along that line from the first to the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from edgebench.stats.student import student_quantile, two_sided_p

NOTABLE_PERCENT = 5.0  # a change below it is not worth a word, however sure
NOTABLE_P = 0.01
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True)
class Drift:
    """The change over the span of the repeated runs, in percent of the cells' means; or why none is known."""

    n_runs: int  # repeated ones
    span_s: float | None = None
    change_percent: float | None = None
    ci95_percent: tuple[float, float] | None = None  # of the change
    p: float | None = None  # two-sided, of no change
    reason: str | None = None

    @property
    def is_notable(self) -> bool:
        """Whether the runs drift: more than noise explains, and enough to matter."""
        if self.change_percent is None or self.p is None:
            return False
        return self.p < NOTABLE_P and abs(self.change_percent) > NOTABLE_PERCENT

    @property
    def percent_per_hour(self) -> float | None:
        """The slope of the line."""
        return None if self.change_percent is None else self._per_hour(self.change_percent)

    @property
    def ci95_percent_per_hour(self) -> list[float] | None:
        """The interval of the slope."""
        if self.ci95_percent is None:
            return None
        return [self._per_hour(edge) for edge in self.ci95_percent]

    def _per_hour(self, percent: float) -> float:
        assert self.span_s  # there is no change without a span
        return percent * SECONDS_AN_HOUR / self.span_s


def cells_of_rates(cells: Sequence[Hashable], levels: Sequence[Hashable]) -> list[Hashable]:
    """Cells for a time per token: those of the repeats, or where nothing was repeated the levels.

    What a token takes hardly depends on the task, so runs of one level may be held against each other.
    """
    return list(levels if len(set(cells)) == len(cells) else cells)


def drift_of(times_s: Sequence[float], values: Sequence[float], cells: Sequence[Hashable]) -> Drift:
    """Least squares of each run's percentage of its cell's mean over time, with Student's interval.

    times_s, values and cells are of the same runs. Cells with a single run say nothing of drift and are
    left out. Freedom: runs less cells less one. Source: Frisch and Waugh (1933), the within estimator.
    """
    own: dict[Hashable, list[tuple[float, float]]] = {}
    for at_s, value, cell in zip(times_s, values, cells, strict=True):
        own.setdefault(cell, []).append((at_s, value))
    groups = [runs for runs in own.values() if len(runs) > 1]
    n = sum(len(runs) for runs in groups)
    points: list[tuple[float, float]] = []
    for runs in groups:
        middle_s = sum(at_s for at_s, _ in runs) / len(runs)
        mean = sum(value for _, value in runs) / len(runs)
        if mean <= 0:
            return Drift(n, reason="a mean at or below zero has no percentage")
        points += [(at_s - middle_s, 100 * (value / mean - 1)) for at_s, value in runs]
    squares = sum(x * x for x, _ in points)
    freedom = n - len(groups) - 1
    if freedom < 1 or squares <= 0:
        return Drift(n, reason="drift needs repeats of a task and level at different times")
    stamps = [at_s for runs in groups for at_s, _ in runs]
    span_s = max(stamps) - min(stamps)
    slope = sum(x * y for x, y in points) / squares
    error = math.sqrt(sum((y - slope * x) ** 2 for x, y in points) / freedom / squares)
    half = student_quantile(freedom) * error
    edges = ((slope - half) * span_s, (slope + half) * span_s)
    p = two_sided_p(slope / error, freedom) if error > 0 else 0.0 if slope else None
    return Drift(n, span_s, slope * span_s, edges, p)
