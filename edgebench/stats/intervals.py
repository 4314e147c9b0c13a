"""Means, their intervals, and quantiles. scipy and numpy only within the functions that need them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NORMAL_QUANTILE = 1.959963984540054  # 0.975 of the normal distribution
BATCH = 1000  # samples of tasks summed at once: more would only cost memory
RATIO_RESAMPLES, RATIO_SEED = 2000, 1


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1). No values: (None, None); one value: (mean, None)."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def student_quantile(freedom: float) -> float:
    """Student's t(0.975) at these degrees of freedom.

    >>> round(student_quantile(9), 3)
    2.262
    """
    from scipy import special  # scipy.stats takes a second to import

    return float(special.stdtrit(freedom, 0.975))


def student_half_width(std: float, n: int) -> float:
    """Half of Student's 95 % interval of a mean of n values with this sample standard deviation."""
    return student_quantile(n - 1) * std / math.sqrt(n)


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


# --- Bootstrap: samples with replacement of tasks, since the runs of one task move together ---


@lru_cache(maxsize=4)
def task_draws(tasks: int, seed: int, resamples: int) -> NDArray[np.uint16]:
    """How often each task is drawn in each sample of tasks with replacement: (resamples, tasks). Seeded."""
    import numpy as np

    even = np.full(tasks, 1 / tasks)
    return np.random.default_rng(seed).multinomial(tasks, even, size=resamples).astype(np.uint16)


def resampled_means(columns: Floats, seed: int, resamples: int) -> Floats:
    """Means of (tasks, k) columns over the samples of tasks: (resamples, k)."""
    import numpy as np

    draws = task_draws(len(columns), seed, resamples)
    return np.concatenate([draws[i : i + BATCH] @ columns for i in range(0, resamples, BATCH)]) / len(columns)


def percentile_interval(values: Any) -> list[float]:
    """The 95 % interval [low, high] of resampled values."""
    import numpy as np

    edges: list[float] = np.percentile(values, [2.5, 97.5]).tolist()
    return edges


def bootstrap_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, ...]:
    """Ratio of the sums of pairs (ours, reference), and its 95 % interval from drawing pairs.

    Fewer than three pairs tell no interval: (ratio, None, None). Source: Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), section 13.3, percentile interval.

    >>> bootstrap_ratio([(1.0, 2.0)] * 5)
    (0.5, 0.5, 0.5)
    """
    below = sum(reference for _, reference in pairs)
    if not pairs or below <= 0:
        return None, None, None
    ratio = sum(value for value, _ in pairs) / below
    if len(pairs) < 3:
        return ratio, None, None
    draw = random.Random(RATIO_SEED)
    ratios = []
    for _ in range(RATIO_RESAMPLES):
        drawn = draw.choices(pairs, k=len(pairs))
        if (total := sum(reference for _, reference in drawn)) > 0:
            ratios.append(sum(value for value, _ in drawn) / total)
    return ratio, quantile(ratios, 0.025), quantile(ratios, 0.975)
