"""Tests: sign test and Holm's adjustment. Standard library only."""

from __future__ import annotations

import math
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
