"""Does a judge favour a slot? From pairs that it was asked in both orders. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.stats.significance import sign_test


@dataclass(frozen=True)
class Lean:
    """How the judge treats the two slots. Scores are 1 (won), 1/2 (tie) or 0 (lost)."""

    pairs: int
    agree: int  # the same verdict in both orders
    first_both: int  # the answer in the first slot won twice
    second_both: int
    partial_first: int  # won once and tied once
    partial_second: int
    first_slot_score: float | None  # mean score of the first slot, 1/2: no lean; None without pairs

    @property
    def p_value(self) -> float:
        """Exact two-sided sign test of first_both against second_both (McNemar): 1 where neither happened."""
        return sign_test(self.first_both, self.second_both)


def lean_of(first_slot_scores: Sequence[tuple[float, float]]) -> Lean:
    """The lean, from the score of the first slot in one order and in the other.

    In the other order the answers have changed places: the same verdict means opposite scores.

    Source: Zheng et al. (2023), arXiv 2306.05685.
    """
    seen = Counter(first_slot_scores)
    total = sum(one + other for one, other in first_slot_scores)
    pairs = len(first_slot_scores)
    return Lean(
        pairs=pairs,
        agree=sum(one + other == 1 for one, other in first_slot_scores),
        first_both=seen[1, 1],
        second_both=seen[0, 0],
        partial_first=seen[1, 0.5] + seen[0.5, 1],
        partial_second=seen[0, 0.5] + seen[0.5, 0],
        first_slot_score=total / (2 * pairs) if pairs else None,
    )
