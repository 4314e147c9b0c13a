"""Win rates of 2 to 7 tasks: exact 95 % intervals, read from a table. Standard library only.

Of so few tasks Tango's score interval (1998) is too short near 0 and 100 %: at the worst truth it holds 84
% of the time with 7 tasks, and 71 % with 6 where scores lie between those of wins, ties and losses. What is
exact asks of every true rate how likely an outcome at least as far off is:

  outcomes  b wins, c losses and n - b - c ties of n tasks
  far off   by the absolute value of Tango's statistic (Statistics in Medicine 17, 1998, pp. 891-908)
  likely    at whatever share of ties makes it likeliest: the tail over all outcomes at least as far off,
            its maximum over that share, as Chan & Zhang do for two samples (Biometrics 55, 1999, pp.
            1202-1209); one two-sided test inverted, not two one-sided ones, which is shorter (Agresti & Min,
            Biometrics 57, 2001, pp. 963-971)

The interval reaches from the first to the last true rate at which that is above 5 %. It never holds less
often than 95 %, whatever the share of ties. lowest_rates() makes the tables, in seconds, so they are written
down; edges are rounded outwards.

Scores between 0, 1/2 and 1 (two turns, graded preferences) are rounded by a coin for each, up or down, that
leaves the true rate as it is: what comes out are wins, ties and losses, and of those the interval is exact.
Given is the mean of the 97.5 % intervals over all that may come out. That it holds 95 % is found, not
proved: a search among truths on grids of 5 to 9 scores, and among all pairs of 18 scores, met none at which
it holds less often. The mean of the 95 % intervals held 93 % at worst. Certain, but far wider, would be the
lower edge of all scores rounded down with the upper edge of all rounded up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

FEWEST_EXACT, MOST_EXACT = 2, 7  # tasks
ALPHA = 0.05  # of wins, ties and losses
ALPHA_BETWEEN = 0.025  # of what coins make of scores between
STEP = 0.001  # of the table
TIE_SHARES = 64  # steps between no ties and as many as the rate allows
BETWEEN_SHARES = 0.002  # by this part of alpha a tail may be above its value at the shares tried
SAME_SCORE = 1e-9  # a mean of turns this near to 0, 1/2 or 1 is it
SAME_STATISTIC = 1e-9  # a difference this small is rounding

Outcome = tuple[int, int]  # wins, losses

Table = dict[int, tuple[tuple[float, ...], ...]]
# The lowest true rate of n tasks: LOWEST[n][wins][losses]. The highest is 1 - LOWEST[n][losses][wins].
LOWEST: Table = {
    2: (
        (0.111, 0.012, 0.0),
        (0.193, 0.025),
        (0.223,),
    ),
    3: (
        (0.184, 0.067, 0.008, 0.0),
        (0.275, 0.116, 0.016),
        (0.339, 0.135),
        (0.368,),
    ),
    4: (
        (0.236, 0.124, 0.048, 0.006, 0.0),
        (0.323, 0.184, 0.084, 0.012),
        (0.387, 0.228, 0.097),
        (0.446, 0.248),
        (0.472,),
    ),
    5: (
        (0.274, 0.171, 0.094, 0.038, 0.005, 0.0),
        (0.342, 0.232, 0.14, 0.065, 0.01),
        (0.411, 0.274, 0.173, 0.076),
        (0.444, 0.322, 0.189),
        (0.473, 0.342),
        (0.499,),
    ),
    6: (
        (0.303, 0.209, 0.135, 0.074, 0.031, 0.004, 0.0),
        (0.368, 0.258, 0.164, 0.113, 0.054, 0.008),
        (0.399, 0.303, 0.221, 0.14, 0.062),
        (0.449, 0.357, 0.255, 0.153),
        (0.499, 0.389, 0.271),
        (0.549, 0.416),
        (0.583,),
    ),
    7: (
        (0.325, 0.225, 0.17, 0.112, 0.059, 0.026, 0.003, 0.0),
        (0.363, 0.29, 0.211, 0.128, 0.095, 0.045, 0.007),
        (0.409, 0.325, 0.225, 0.183, 0.118, 0.053),
        (0.445, 0.357, 0.292, 0.212, 0.128),
        (0.499, 0.4, 0.325, 0.225),
        (0.532, 0.424, 0.341),
        (0.552, 0.445),
        (0.622,),
    ),
}
# The same of 97.5 % intervals.
LOWEST_BETWEEN: Table = {
    2: (
        (0.078, 0.006, 0.0),
        (0.136, 0.012),
        (0.157,),
    ),
    3: (
        (0.146, 0.047, 0.004, 0.0),
        (0.218, 0.081, 0.008),
        (0.269, 0.094),
        (0.292,),
    ),
    4: (
        (0.193, 0.096, 0.033, 0.003, 0.0),
        (0.272, 0.144, 0.058, 0.006),
        (0.326, 0.178, 0.067),
        (0.375, 0.193),
        (0.397,),
    ),
    5: (
        (0.238, 0.141, 0.073, 0.026, 0.002, 0.0),
        (0.283, 0.193, 0.109, 0.045, 0.005),
        (0.36, 0.231, 0.134, 0.052),
        (0.411, 0.267, 0.146),
        (0.457, 0.283),
        (0.477,),
    ),
    6: (
        (0.27, 0.179, 0.111, 0.059, 0.021, 0.002, 0.0),
        (0.335, 0.222, 0.151, 0.087, 0.037, 0.004),
        (0.358, 0.268, 0.179, 0.108, 0.043),
        (0.428, 0.306, 0.209, 0.118),
        (0.454, 0.342, 0.222),
        (0.478, 0.358),
        (0.499,),
    ),
    7: (
        (0.29, 0.207, 0.145, 0.09, 0.049, 0.018, 0.001, 0.0),
        (0.355, 0.26, 0.178, 0.124, 0.073, 0.031, 0.003),
        (0.391, 0.29, 0.217, 0.15, 0.09, 0.036),
        (0.416, 0.333, 0.247, 0.173, 0.098),
        (0.458, 0.37, 0.277, 0.183),
        (0.499, 0.405, 0.29),
        (0.541, 0.421),
        (0.571,),
    ),
}


def exact_edges(tasks: int, wins: int, losses: int) -> tuple[float, float]:
    """The exact 95 % interval of a win rate of 2 to 7 tasks; what is neither won nor lost is tied.

    >>> exact_edges(3, 3, 0), exact_edges(4, 2, 1)
    ((0.368, 1.0), (0.228, 0.916))
    """
    return _edges(LOWEST, tasks, (wins, losses))


def edges_of_scores(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of 2 to 7 scores from 0 to 1: exact if all are 0, 1/2 or 1.

    >>> edges_of_scores([1, 1, 1])
    (0.368, 1.0)
    >>> [round(edge, 3) for edge in edges_of_scores([0.75, 0.75, 0.75])]
    [0.237, 0.963]
    """
    made = tossed(scores)
    if len(made) == 1:
        return exact_edges(len(scores), *next(iter(made)))
    edges = [(chance, _edges(LOWEST_BETWEEN, len(scores), outcome)) for outcome, chance in made.items()]
    low = math.fsum(chance * low for chance, (low, _) in edges)
    high = math.fsum(chance * high for chance, (_, high) in edges)
    return low, high


def tossed(scores: Sequence[float]) -> dict[Outcome, float]:
    """What coins make of scores: each is rounded to 0, 1/2 or 1, and is itself on average.

    >>> tossed([1, 0.75])
    {(1, 0): 0.5, (2, 0): 0.5}
    """
    made: dict[Outcome, float] = {(0, 0): 1.0}
    for score in scores:
        below = math.floor(2 * score + SAME_SCORE)  # in halves
        up = 2 * score - below
        sides = [(below, 1 - up), (below + 1, up)] if up > SAME_SCORE else [(below, 1.0)]
        longer: dict[Outcome, float] = defaultdict(float)
        for (wins, losses), chance in made.items():
            for halves, share in sides:
                longer[wins + (halves == 2), losses + (halves == 0)] += chance * share
        made = dict(longer)
    return made


def _edges(table: Table, tasks: int, outcome: Outcome) -> tuple[float, float]:
    wins, losses = outcome
    return table[tasks][wins][losses], round(1 - table[tasks][losses][wins], 3)


def lowest_rates(tasks: int, alpha: float) -> dict[Outcome, float]:
    """The table's part of so many tasks, from the definition: the last rate below those not refused."""
    lowest: dict[Outcome, float] = {}
    wanted, step = len(outcomes(tasks)), 0
    while len(lowest) < wanted:
        for outcome, chance in chances(tasks, step * STEP).items():
            if chance > alpha * (1 - BETWEEN_SHARES):
                lowest.setdefault(outcome, round(max(step - 1, 0) * STEP, 3))
        step += 1
    return lowest


def outcomes(tasks: int) -> list[Outcome]:
    return [(wins, losses) for wins in range(tasks + 1) for losses in range(tasks + 1 - wins)]


def chances(tasks: int, rate: float) -> dict[Outcome, float]:
    """The p value of a true rate, from 0 to 1, after each outcome."""
    theta = 2 * rate - 1  # the share of wins less that of losses
    far = {outcome: _statistic(tasks, outcome, theta) for outcome in outcomes(tasks)}
    ordered = sorted(far, key=lambda outcome: -far[outcome])
    # In how many orders of the tasks it may come.
    ways = [math.comb(tasks, wins) * math.comb(tasks - wins, losses) for wins, losses in ordered]
    # After how many of the ordered outcomes those as far off as each one end.
    ends = [
        max(place for place, other in enumerate(ordered) if far[other] >= far[one] - SAME_STATISTIC)
        for one in ordered
    ]
    found = [0.0] * len(ordered)
    for part in range(TIE_SHARES + 1):
        decided = abs(theta) + (1 - abs(theta)) * part / TIE_SHARES  # the share that is not tied
        powers = [
            [max(share, 0.0) ** count for count in range(tasks + 1)]
            for share in ((decided + theta) / 2, (decided - theta) / 2, 1 - decided)
        ]
        tail, tails = 0.0, []
        for (wins, losses), count in zip(ordered, ways, strict=True):
            tail += count * powers[0][wins] * powers[1][losses] * powers[2][tasks - wins - losses]
            tails.append(tail)
        found = [max(chance, tails[end]) for chance, end in zip(found, ends, strict=True)]
    return dict(zip(ordered, found, strict=True))


def _statistic(tasks: int, outcome: Outcome, theta: float) -> float:
    """How far off an outcome is at a true difference: Tango's statistic without its sign."""
    wins, losses = outcome
    variance = variance_of_difference(tasks, wins, losses, theta)
    off = abs(wins - losses - tasks * theta)
    if variance < 1e-12:  # the likeliest shares leave one outcome only
        return 0.0 if off < SAME_STATISTIC else math.inf
    return off / math.sqrt(variance)


def variance_of_difference(tasks: int, wins: float, losses: float, theta: float) -> float:
    """Of wins - losses, if the true shares differ by theta and are the likeliest that do (Tango 1998)."""
    b = -wins - losses + (2 * tasks - wins + losses) * theta
    c = -losses * theta * (1 - theta)
    share = (math.sqrt(max(b * b - 8 * tasks * c, 0.0)) - b) / (4 * tasks)  # of losses
    return max(tasks * (2 * share + theta * (1 - theta)), 0.0)
