"""Student's t distribution in the standard library, so that the board and the laptop need no scipy for it.

Source: Press et al., Numerical Recipes (3rd ed. 2007), section 6.4: the tail as an incomplete beta function
by its continued fraction (Lentz's method). The tests hold it against scipy to 1e-10.
"""

from __future__ import annotations

import math
from functools import lru_cache

TINY = 1e-300  # keeps Lentz's method from dividing by zero
CLOSE = 1e-15
CONFIDENCE = 0.95  # of every interval of the suite


def two_sided_p(t: float, freedom: float) -> float:
    """Probability of a |t| as large as this, or larger, at these degrees of freedom.

    >>> round(two_sided_p(2.262157162740992, 9), 6)
    0.05
    """
    if not math.isfinite(t):
        return 0.0
    square = t * t
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


@lru_cache(maxsize=1024)
def student_quantile(freedom: float, share: float = (1 + CONFIDENCE) / 2) -> float:
    """Student's t at this share (above one half) and these degrees of freedom.

    >>> round(student_quantile(9), 3)
    2.262
    """
    tail = 2 * (1 - share)
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > tail:
        low, high = high, 2 * high
    # Bisection to the last bit: 60 halvings are more than a double can tell apart.
    for _ in range(60):
        middle = (low + high) / 2
        if two_sided_p(middle, freedom) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularized incomplete beta function I_x(a, b); rest is 1 - x, which x near 1 has no digits for."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    front = math.exp(log_front)
    # The fraction converges quickly on one side of the mean only; the other side is its mirror.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > TINY else TINY)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1 + coefficient * d
            d = 1 / (d if abs(d) > TINY else TINY)
            c = 1 + coefficient / c
            c = c if abs(c) > TINY else TINY
            value *= c * d
        if abs(c * d - 1) < CLOSE:
            break
    return value
