"""Graded preferences: from a judge's probabilities of A, B and Tie in both orders of two answers.

The model. Let d be how much the judge prefers the left answer and g how much it leans to the first slot, both
in log odds, and nu how fond it is of ties. Then with the left answer shown first

    P(A) : P(B) : P(Tie) = exp((d + g)/2) : exp(-(d + g)/2) : nu

and with the right answer first the same with -d for d. So log P(A)/P(B) is g + d in one order and g - d in
the other: half their difference is d, whatever g is, and half their sum is g. The lean is taken out, where
counting turns it into ties. Without the lean the left answer wins with P = exp(d/2) / (exp(d/2) + exp(-d/2) +
nu) and ties with nu over the same; the graded preference is the win and half the tie, as a score is counted.

Sources: R. R. Davidson (1970), On extending the Bradley-Terry model to accommodate ties in paired comparison
experiments, JASA 65, 317-328 (nu); R. R. Davidson and R. J. Beaver (1977), On extending the Bradley-Terry
model to incorporate within-pair order effects, Biometrics 33, 693-702 (g). That a mean of log probabilities
over the orders of the options takes out a model's liking for an option's letter: C. Zheng et al., Large
language models are not robust multiple choice selectors, ICLR 2024, arXiv 2309.03882. That a judge should be
asked in both orders and averaged: P. Wang et al., Large language models are not fair evaluators, ACL 2024,
arXiv 2305.17926; A. Liusie et al., LLM comparative assessment, EACL 2024, arXiv 2307.07889.

The lean is taken for the same in both orders of a pair, and additive in log odds. It may differ from pair to
pair: each pair's own is taken out. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chances:
    """A judge's probabilities of its three words at one place, each in (0, 1]; they need not sum to 1.

    bounded: the words whose probability is only known not to be larger than what stands here.
    """

    a: float
    b: float
    tie: float
    bounded: tuple[str, ...] = ()

    @property
    def mass(self) -> float:
        """The share of all that the judge might have said that is one of the three words."""
        return min(1.0, sum(self.chance(word) for word in ("A", "B", "Tie") if word not in self.bounded))

    @property
    def slot_log_odds(self) -> float:
        """Log odds of the first slot over the second."""
        return math.log(self.a / self.b)

    @property
    def likeliest(self) -> str:
        """The word that the judge says where it says the likeliest: A, B or Tie."""
        return max(("A", "B", "Tie"), key=self.chance)

    def chance(self, word: str) -> float:
        """The probability of A, B or Tie."""
        return {"A": self.a, "B": self.b, "Tie": self.tie}[word]


@dataclass(frozen=True)
class Preference:
    """What a judge thinks of two answers, its lean to a slot taken out.

    log_odds: of the left answer over the right one. lean_log_odds: what was taken out, of the first slot over
    the second. tie_odds: nu, ties against the geometric mean of both wins. mass: the smaller of both orders'.
    bounded: some probability was only known as a bound, so that the preference is at least this far from 1/2,
    or ties are fewer.
    """

    log_odds: float
    lean_log_odds: float
    tie_odds: float
    mass: float
    bounded: bool

    @property
    def share(self) -> float:
        """The graded preference for the left answer, 0 to 1: P(it wins) + P(tie)/2 without the lean."""
        return preferred_share(self.log_odds, self.tie_odds)


def preferred_share(log_odds: float, tie_odds: float = 0.0) -> float:
    """P(win) + P(tie)/2 of the answer with these log odds.

    >>> preferred_share(0.0, 3.0), round(preferred_share(math.log(3.0)), 12)
    (0.5, 0.75)
    """
    # tanh keeps digits where the exponentials of a sure judge would overflow.
    half = min(350.0, abs(log_odds) / 2)
    win, loss = math.exp(half), math.exp(-half)
    share = (win + tie_odds / 2) / (win + loss + tie_odds)
    return share if log_odds >= 0 else 1.0 - share


def preference_of(left_first: Chances, right_first: Chances) -> Preference:
    """The preference for the left answer, from the judge's chances in both orders.

    >>> fair, leaning = Chances(0.6, 0.2, 0.2), Chances(0.2, 0.6, 0.2)
    >>> round(preference_of(fair, leaning).share, 3), preference_of(fair, fair).share
    (0.7, 0.5)
    """
    one, other = left_first.slot_log_odds, right_first.slot_log_odds
    tie_log_odds = [
        math.log(chances.tie) - (math.log(chances.a) + math.log(chances.b)) / 2
        for chances in (left_first, right_first)
    ]
    return Preference(
        log_odds=(one - other) / 2,
        lean_log_odds=(one + other) / 2,
        tie_odds=math.exp(min(350.0, sum(tie_log_odds) / 2)),
        mass=min(left_first.mass, right_first.mass),
        bounded=bool(left_first.bounded or right_first.bounded),
    )


def winner_of(share: float, margin: float) -> str:
    """A where the left answer is preferred by more than the margin, B where the right one is, else Tie.

    >>> winner_of(0.61, 0.1), winner_of(0.6, 0.1), winner_of(0.35, 0.1)
    ('A', 'Tie', 'B')
    """
    beyond = abs(share - 0.5) > margin + 1e-12
    return "Tie" if not beyond else "A" if share > 0.5 else "B"


@dataclass(frozen=True)
class TakenOut:
    """The lean to a slot that graded preferences are free of, over several pairs; odds are natural logs."""

    pairs: int
    lean_log_odds_mean: float | None  # of the first slot over the second; None without pairs
    lean_log_odds_std: float | None  # sample standard deviation; None below two pairs

    @property
    def first_slot_share(self) -> float | None:
        """How often the first slot would win of two equal answers where no tie is said; 1/2: no lean."""
        mean = self.lean_log_odds_mean
        return None if mean is None else preferred_share(mean)


def taken_out(preferences: Sequence[Preference]) -> TakenOut:
    """The lean that was taken out of these preferences."""
    leans = [one.lean_log_odds for one in preferences]
    if not leans:
        return TakenOut(0, None, None)
    mean = math.fsum(leans) / len(leans)
    spread = math.fsum((lean - mean) ** 2 for lean in leans)
    return TakenOut(len(leans), mean, math.sqrt(spread / (len(leans) - 1)) if len(leans) > 1 else None)
