"""The win rate of a level, one for everybody who prints one. Standard library only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from edgebench.stats.intervals import win_rate_interval


@dataclass(frozen=True)
class WinRate:
    """A level against another one. Scores are 1 (won), 1/2 (tie) or 0 (lost)."""

    rate: float  # mean over tasks of a task's mean score: each task counts once, whatever its turns
    tasks: int
    won: int  # verdicts
    tied: int
    lost: int
    ci95: list[float] | None = None  # stats/intervals.py: win_rate_interval; None of one task


def task_scores(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Each task's mean score, from (task, score) pairs in any order.

    >>> task_scores([("81", 1.0), ("81", 0.5), ("82", 0.0)])
    {'81': 0.75, '82': 0.0}
    """
    found: dict[str, list[float]] = defaultdict(list)
    for task, score in scores:
        found[task].append(score)
    return {task: fmean(own) for task, own in found.items()}


def win_rate_of(scores: Iterable[tuple[str, float]]) -> WinRate | None:
    """The win rate from (task, score of the level) pairs; None without any.

    A tie is half a win, as in Zheng et al. (2023), arXiv 2306.05685 (win_rate_adjusted).

    >>> rate = win_rate_of([("81", 1.0), ("81", 0.5), ("82", 0.0)])
    >>> rate.rate, rate.tasks, rate.won, rate.tied, rate.lost
    (0.375, 2, 1, 1, 1)
    """
    listed = list(scores)
    if not listed:
        return None
    means = task_scores(listed)
    values = [score for _, score in listed]
    return WinRate(
        rate=fmean(means.values()),
        tasks=len(means),
        won=sum(value == 1 for value in values),
        tied=sum(0 < value < 1 for value in values),
        lost=sum(value == 0 for value in values),
        ci95=win_rate_interval(list(means.values())).edges,
    )
