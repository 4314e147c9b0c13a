"""Tests: sign test, signed-rank test and Holm's adjustment. Standard library only."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

FOUND_P = 0.05  # below it, adjusted after Holm, a difference is more than chance explains


def sign_test(one: int, other: int) -> float:
    """Exact two-sided p of `one` against `other` at even odds (McNemar's exact test); 1 without any.

    >>> sign_test(16, 2)
    0.001312255859375
    """
    total = one + other
    tail = sum(math.comb(total, count) for count in range(min(one, other) + 1))
    return float(min(1.0, 2 * tail / 2**total))  # whole numbers until the last step: exact


def signed_rank_test(differences: Sequence[float]) -> float:
    """Exact two-sided p of Wilcoxon's signed-rank test (1945); zeros are left out, 1 without any other.

    Equal sizes share their mean rank, as in scipy.stats.wilcoxon, which tries every pattern of signs for
    them: a second for ten tasks. Here the patterns are counted by their sum, in n³ steps.

    >>> signed_rank_test([1.0, 2.0, 3.0, 4.0]), signed_rank_test([2.0, 2.0, 1.0, -1.0])
    (0.125, 0.375)
    """
    sizes = sorted(abs(one) for one in differences if one)
    # Twice a mean rank is a whole number: equal sizes on the ranks from i to j share (i + j) / 2.
    twice_rank = {size: bisect_left(sizes, size) + 1 + bisect_right(sizes, size) for size in sizes}
    patterns = [1]  # place s: how many patterns of signs have positive ranks that add up to s / 2
    for size in sizes:
        without = [*patterns, *[0] * twice_rank[size]]
        including = [*[0] * twice_rank[size], *patterns]
        patterns = [one + other for one, other in zip(without, including, strict=True)]
    positive = sum(twice_rank[one] for one in differences if one > 0)
    tail = min(sum(patterns[: positive + 1]), sum(patterns[positive:]))
    return float(min(1.0, 2 * tail / 2 ** len(sizes)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979); a missing p stays missing and does not count as a test.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - step)))
        adjusted[place] = largest
    return adjusted
