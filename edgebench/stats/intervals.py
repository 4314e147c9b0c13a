"""Means, shares and ratios with intervals that hold what they claim. Standard library only.

Every interval of the suite is made here, at 95 %:

  mean_interval      of a mean over tasks (or what else is independent of each other)
  ratio_interval     of one sum over another, and jackknife_interval of any other statistic over tasks
  win_rate_interval  of a win rate with ties, from 0 to 1, exact below 8 tasks; wilson of a plain share
  graded_interval    of a mean of graded preferences, from 0 to 1

The percentile bootstrap is not among them: where 95 % are claimed it covers 49 % at 2 tasks, 76 % at 3, 84
% at 5 and 90 % at 10, and 80 % of a skewed quantity at 10. tests/bench_coverage.py counts what these cover,
and where nothing covers what it claims there is no interval, and a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgebench.stats.exact_win_rates import ALPHA, MOST_EXACT, edges_of_scores, variance_of_difference
from edgebench.stats.significance import sign_test
from edgebench.stats.student import student_quantile

NORMAL_QUANTILE = 1.959963984540054  # 0.975 of the normal distribution
FEWEST = 8  # values of a mean's interval: of fewer no rule covers a skewed quantity (lognormal, sigma 1)
LATTICE = 4  # so many different values or fewer: ties, like wins and losses or counts of 0, 1, 2
FEWEST_FOR_P95 = 20  # runs: below it the 95th percentile lies between the two largest
FIELLER_DOUBLINGS = 12  # of an eighth of the ratio: an edge 256 times as far away is none
SAME = 1e-9  # differences this small beside the largest value are rounding
METHODS = {  # how each interval is made, in words for text, page and workbooks
    "mean": f"over tasks: the wider of Student's t and Hall's t for skewed samples, {FEWEST} tasks or more",
    "ratio": f"over tasks: Fieller's, from the same intervals of a mean, {FEWEST} tasks or more",
    "win_rate": f"over tasks: exact for 2 to {MOST_EXACT} tasks, of more Tango's score interval (Wilson's "
    "where nothing is tied); a tie counts half",
    "share": "Wilson's score interval",
    "part": f"over tasks: jackknife, with the same intervals of a mean, {FEWEST} tasks or more",
}

# Of graded win rates, where there are any.
GRADED_METHOD = f"over tasks: that of a mean with {FEWEST} tasks or more, that of a win rate with fewer"


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, or why there is none."""

    edges: list[float] | None = None  # [low, high]
    reason: str | None = None  # set exactly where there are no edges


# --- means and quantiles ---


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1). No values: (None, None); one value: (mean, None)."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the closest ranks.

    >>> quantile([1.0, 2.0, 4.0], 0.5), quantile([1.0, 2.0, 4.0], 0.75)
    (2.0, 3.0)
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


# --- intervals of a mean ---


def student_half_width(std: float, n: int) -> float:
    """Half of Student's 95 % interval of a mean of n values with this sample standard deviation.

    For repeats of one measurement, whose noise is near normal: of those it holds from two values on. Tasks
    differ from each other in no such way: their interval is mean_interval.
    """
    return student_quantile(n - 1) * std / math.sqrt(n)


def mean_interval(values: Sequence[float], what: str = "tasks") -> Interval:
    """The 95 % interval of the mean of independent values, which may be skewed; `what` the values are.

    The wider on each side of Student's t (1908) and of Hall's t (1992, On the removal of skewness by
    transformation, J. R. Stat. Soc. B 54, pp. 221-228), which turns the skewness of the sample into a
    longer side. A small sample shows only part of the skewness it comes from, so it is taken 1 + 5/n fold;
    where the values are few and tied (LATTICE) it shows all, and half of it covers best. By simulation 93
    to 97 % of normal, exponential and lognormal (sigma 1) samples of 8 and more; ties may make it more.

    >>> mean_interval([4.9, 5.0, 5.2, 4.8, 5.1, 5.3, 4.7, 5.0]).edges  # doctest: +ELLIPSIS
    [4.83..., 5.16...]
    >>> mean_interval([4.9, 5.0, 5.2]).reason
    '3 tasks: too few for an interval of a mean (8 at least)'
    """
    n = len(values)
    if n < FEWEST:
        return too_few(n, what)
    largest = max(abs(value) for value in values)
    shares = (
        [value / largest for value in values] if largest else [0.0] * n
    )  # no power of these over- or underflows
    mean = sum(shares) / n
    second = sum((share - mean) ** 2 for share in shares) / n
    if math.sqrt(second) <= SAME:
        return Interval(reason=f"all {n} {what} have the same value: nothing shows how others would differ")
    third = sum((share - mean) ** 3 for share in shares) / n
    edges = _edges_of_mean(Moments(n, mean, second, third), _fold(shares))
    return Interval([largest * edge for edge in edges])


def too_few(n: int, what: str) -> Interval:
    """No interval: so few values of `what`."""
    count = f"{n} {what}" if n != 1 else f"1 {what.removesuffix('s')}"
    return Interval(reason=f"{count}: too few for an interval of a mean ({FEWEST} at least)")


@dataclass(frozen=True)
class Moments:
    """n values: their mean, and the mean second and third power about it."""

    n: int
    mean: float
    second: float
    third: float


def _fold(values: Sequence[float]) -> float:
    """How many fold the skewness of the sample is taken."""
    largest = max(abs(value) for value in values) or 1.0
    different = len({round(value / largest / SAME) for value in values})
    return 0.5 if different <= LATTICE else 1 + 5 / len(values)


def _edges_of_mean(sample: Moments, fold: float) -> list[float]:
    """The wider of Student's and Hall's edges; second must be above zero."""
    n = sample.n
    std = math.sqrt(sample.second * n / (n - 1))
    # Adjusted for n as Fisher and Pearson do (G1), but over the standard deviation with n - 1.
    skewness = fold * sample.third / std**3 * n * n / ((n - 1) * (n - 2))
    t = student_quantile(n - 1) / math.sqrt(n)
    below, above = _halls_t(skewness, n, t), -_halls_t(skewness, n, -t)
    return [sample.mean - std * max(t, below), sample.mean + std * max(t, above)]


def _halls_t(skewness: float, n: int, t: float) -> float:
    """What stands for t / sqrt(n) in `mean - std * t`: Hall's cubic transformation, inverted."""
    if abs(skewness) < SAME:
        return t
    inner = 1 + skewness * (t - skewness / (6 * n))
    return 3 / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def ratio_interval(values: Sequence[float], base: Sequence[float], what: str = "tasks") -> Interval:
    """The 95 % interval of sum(values) / sum(base) of pairs; the sum of base must be above zero.

    All ratios r for which the mean of value - r * base may be zero: Fieller's interval (1954, J. R. Stat.
    Soc. B 16, pp. 175-185) with the edges of mean_interval in place of Student's.
    """
    n = len(values)
    if n < FEWEST:
        return too_few(n, what)
    ratio, mean, mean_base = sum(values) / sum(base), sum(values) / n, sum(base) / n
    pairs = [(value - mean, below - mean_base) for value, below in zip(values, base, strict=True)]
    left = [value - ratio * below for value, below in zip(values, base, strict=True)]
    if max(map(abs, left)) <= SAME * max(map(abs, values)):
        return Interval(reason=f"all {n} {what} have the same ratio: nothing shows how others would differ")
    fold = _fold(left)
    # Moments of value - r * base at any r, from those of the two.
    second = [sum(v ** (2 - k) * b**k for v, b in pairs) / n for k in range(3)]
    third = [sum(v ** (3 - k) * b**k for v, b in pairs) / n for k in range(4)]

    def is_outside(r: float) -> bool:
        squares = second[0] - 2 * r * second[1] + r * r * second[2]
        cubes = third[0] - 3 * r * third[1] + 3 * r * r * third[2] - r**3 * third[3]
        moved = Moments(n, mean - r * mean_base, max(squares, 0.0), cubes)
        if not moved.second:
            return moved.mean != 0
        low, high = _edges_of_mean(moved, fold)
        return low > 0 or high < 0

    edges = []
    for side in (-1, 1):
        step = max(abs(ratio), SAME) / 8
        ends = (ratio + side * step * 2**doubling for doubling in range(FIELLER_DOUBLINGS))
        end = next((end for end in ends if is_outside(end)), None)
        if end is None:
            return Interval(
                reason=f"the reference of {n} {what} is too near zero for an interval of the ratio"
            )
        edges.append(_last_inside(is_outside, ratio, end))
    return Interval(edges)


def jackknife_interval(estimate: float, left_out: Sequence[float], what: str = "tasks") -> Interval:
    """The 95 % interval of a statistic from its value without each task in turn.

    mean_interval of Tukey's pseudo-values n * estimate - (n - 1) * left out (1958), about the estimate.
    """
    n = len(left_out)
    pseudo = [(n - 1) * (estimate - without) for without in left_out]
    centre = sum(pseudo) / n if n else 0.0
    return _about(estimate, mean_interval([value - centre for value in pseudo], what))


def _about(estimate: float, interval: Interval) -> Interval:
    """The interval of values about zero, moved to the estimate."""
    if interval.edges is None:
        return interval
    return Interval([estimate + edge for edge in interval.edges])


# --- intervals of a share ---


def wilson(won: int, total: int) -> list[float]:
    """Wilson's 95 % interval (1927) of a share, as Newcombe (1998) and scipy write it.

    >>> [round(edge, 4) for edge in wilson(7, 10)]
    [0.3968, 0.8922]
    """
    z = NORMAL_QUANTILE
    share = won / total
    denominator = 2 * (total + z**2)
    centre = (2 * total * share + z**2) / denominator
    half = z / denominator * math.sqrt(4 * total * share * (1 - share) + z**2)
    return [centre - half if won else 0.0, centre + half if won < total else 1.0]


def win_rate_interval(scores: Sequence[float]) -> Interval:
    """The 95 % interval of a win rate, from each task's score: 1 won, 1/2 tied, 0 lost, or a mean of such.

    Wins b and losses c of n tasks are the discordant cells of matched pairs: the win rate is (1 + (b - c) /
    n) / 2. From 8 tasks on the interval is that of b - c in Tango, Statistics in Medicine 17 (1998), pp.
    891-908, which is Wilson's without ties; scores between (two turns, graded preferences) count as what
    has their mean and mean square. Of 2 to 7 tasks that holds too seldom, and the exact one is given
    (exact_win_rates.py, which says too what becomes of scores between).

    Both lie within 0 and 1 and have a width where all is won or all is tied. Where the exact sign test
    finds nothing (p >= 0.05) an edge beyond 1/2 stands at 1/2: the interval and the test never disagree
    about chance.

    >>> [round(edge, 4) for edge in win_rate_interval([1] * 7 + [0] * 3).edges]
    [0.3968, 0.8922]
    >>> win_rate_interval([1, 0.5, 0.5]).edges
    [0.275, 0.933]
    """
    n = len(scores)
    if n < 2:
        return Interval(reason="one task only: no interval" if n else "no task: no interval")
    difference = [2 * score - 1 for score in scores]
    if n <= MOST_EXACT:
        edges = edges_of_scores(scores)
    else:
        low, high = _tango(difference)
        edges = (1 + low) / 2, (1 + high) / 2
    ahead, behind = sum(one > SAME for one in difference), sum(one < -SAME for one in difference)
    if sign_test(ahead, behind) >= ALPHA:
        edges = min(edges[0], 0.5), max(edges[1], 0.5)
    return Interval([max(0.0, edges[0]), min(1.0, edges[1])])


def graded_interval(shares: Sequence[float]) -> Interval:
    """The 95 % interval of the mean of graded preferences, each from 0 to 1.

    They are no wins and losses, but values with a spread of their own: their mean's interval, cut at 0 and 1,
    where there are values enough for it. Of fewer the one of a win rate.

    >>> graded_interval([0.55, 0.6, 0.5, 0.58, 0.62, 0.57, 0.53, 0.61]).edges  # doctest: +ELLIPSIS
    [0.51..., 0.60...]
    >>> [round(edge, 2) for edge in graded_interval([0.55, 0.6, 0.5]).edges]
    [0.17, 0.88]
    """
    found = mean_interval(shares)
    if found.edges is None:
        return win_rate_interval(shares)
    return Interval([max(0.0, found.edges[0]), min(1.0, found.edges[1])])


def difference_interval(differences: Sequence[float]) -> Interval:
    """The same of the mean of differences between -1 and 1 (of two levels' scores, task by task)."""
    rates = win_rate_interval([(1 + one) / 2 for one in differences])
    if rates.edges is None:
        return rates
    return Interval([2 * edge - 1 for edge in rates.edges])


def _tango(differences: Sequence[float]) -> tuple[float, float]:
    """Tango's interval of the mean of differences between -1 and 1."""
    n = len(differences)
    total, squares = sum(differences), sum(one * one for one in differences)
    wins, losses = (squares + total) / 2, (squares - total) / 2

    def is_outside(theta: float) -> bool:
        variance = variance_of_difference(n, wins, losses, theta)
        return (total - n * theta) ** 2 > NORMAL_QUANTILE**2 * variance

    estimate = total / n
    return _last_inside(is_outside, estimate, -1.0), _last_inside(is_outside, estimate, 1.0)


def _last_inside(is_outside: Callable[[float], bool], inside: float, end: float) -> float:
    """The edge between a place that is inside and an end that may be."""
    if not is_outside(end):
        return end
    outside = end
    for _ in range(60):
        middle = (inside + outside) / 2
        if is_outside(middle):
            outside = middle
        else:
            inside = middle
    return inside
