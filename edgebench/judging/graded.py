"""Graded preferences out of a journal: a pair's two lines by probability, made one share.

Owns which lines make a pair. What a preference is, stats/preference.py says; what a line is,
records/judgment.py. The summary, the scores and the analysis ask here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgebench.records.judgment import SCORE_OF_SIDE, JournalLine
from edgebench.stats.preference import Preference, TakenOut, preference_of, taken_out


@dataclass(frozen=True)
class GradedPair:
    """Two answers and how much the judge prefers the left one, its lean to a slot taken out."""

    task_id: str
    model_id: str
    turn: int
    pair: str
    judge_model: str
    repeat: int
    left_level: str
    right_level: str
    share: float  # of the left level, 0 to 1
    preference: Preference | None  # None where a rule decided


@dataclass(frozen=True)
class Graded:
    """All pairs of a journal that have a graded preference, and how many have only counted verdicts."""

    pairs: list[GradedPair]
    counted_only: int

    @property
    def asked(self) -> list[Preference]:
        """The preferences of those pairs that a judge was asked about."""
        return [pair.preference for pair in self.pairs if pair.preference]

    @property
    def lean(self) -> TakenOut:
        """The lean to a slot that the shares are free of."""
        return taken_out(self.asked)


def graded_pairs(lines: Iterable[JournalLine]) -> Graded:
    """The graded preferences in the lines that count, the last one of each game.

    A pair decided by a rule is graded as it is counted. A pair that was asked in one order alone, in words in
    one of them, or about other answers in one of them, is not graded: its lean cannot be taken out.
    """
    last = {line.game: line for line in lines if line.winner_side}
    by_pair: dict[tuple[Any, ...], dict[str | None, JournalLine]] = defaultdict(dict)
    for line in last.values():
        by_pair[line.game[:-1]][line.order] = line
    found = [graded(orders) for orders in by_pair.values()]
    return Graded([pair for pair in found if pair], found.count(None))


def graded(orders: dict[str | None, JournalLine]) -> GradedPair | None:
    """The graded preference of a pair from its lines by order; None where it has none."""
    chances = [orders[order].chances if order in orders else None for order in ("left_first", "right_first")]
    line = next(iter(orders.values()))
    answers = {(one.left_sha256, one.right_sha256) for one in orders.values()}
    if len(answers) > 1:  # other answers than before, asked about in one order so far
        return None
    preference = preference_of(chances[0], chances[1]) if chances[0] and chances[1] else None
    if preference is None and None not in orders:
        return None
    share = preference.share if preference else SCORE_OF_SIDE[str(orders[None].winner_side)]
    return GradedPair(
        task_id=line.task_id,
        model_id=line.model_id,
        turn=line.turn,
        pair=line.pair,
        judge_model=line.judge_model,
        repeat=line.repeat,
        left_level=line.left_level,
        right_level=line.right_level,
        share=share,
        preference=preference,
    )
