"""From samples to Joule: how far an integral over samples can be from the truth.

Pure numbers over the samples' times [s] and powers [mW]; energies in mJ. What a trapezoid does not see:

  steps     between two samples the load changes at once, anywhere. A straight line misplaces a step of dP by
            at most half its interval, |dP| * dt / 2. At the two edges of a window the errors have a sign (a
            step at an edge always loses), so they are added. Inside it they fall either way: few of them
            are added, too, many of them as random errors, whichever is less.
  quantum   the sensor counts in steps of q, which does not average out of a steady load: q / 2 * (t1 - t0)
  lag       a line is stamped when it is printed, after it was read: the trace stands later than the power.
            What was drawn in the last lag before t0 is taken for what was drawn in the last lag before t1.
  gaps      where samples are missing for long, the power was anything between the least and the most seen.
  ends      what is held beyond the first or last sample may be wrong altogether.

Two of them are biases, not noise: a window that begins and ends with its load (a program run on an idle
board) is too small by dP * dt / 6 at each edge on average, and by dP * lag. They are stated, not corrected.
A load that comes and goes between two samples is seen by none of this, nor is the sensor's gain error.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from array import array
from collections.abc import Sequence

LONGEST_LAG_S = 0.08  # of a line behind its reading: 71 ms were seen of tegrastats under sudo (AGX Orin)
MAX_QUANTUM_MW = 1000.0  # no known board's total moves in coarser steps: a larger one was the load's
MANY_SAMPLES = 20_000  # from here on numpy, where it is installed, saves tens of milliseconds
BLOCKS = 10  # of an idle baseline, to see how far its mean moves by itself


def step_bound_mj(power_mw: Sequence[float], interval_s: Sequence[float], quantum_mw: float) -> float:
    """Bound on the error by load steps in the intervals between these samples.

    power_mw has one sample more than interval_s. Changes of up to one quantum are the sensor's, and bounded
    with it. The random sum takes each interval as a draw from a power that jumps as the samples do: then one
    sample's deviation is |dP| / sqrt(2), and two standard deviations of the sum are stated.

    >>> step_bound_mj([5000.0, 5000.0, 15000.0], [0.1, 0.1], 40.0)
    500.0
    """
    if len(interval_s) >= MANY_SAMPLES:
        with contextlib.suppress(ImportError):
            return _step_bound_by_numpy_mj(power_mw, interval_s, quantum_mw)
    sum_mj, squares_mj2 = 0.0, 0.0
    before_mw = power_mw[0] if power_mw else 0.0
    for after_mw, seconds in zip(power_mw[1:], interval_s, strict=True):
        change_mw = abs(after_mw - before_mw)
        before_mw = after_mw
        if change_mw > quantum_mw:
            change_mj = change_mw * seconds
            sum_mj += change_mj
            squares_mj2 += change_mj * change_mj
    return min(sum_mj / 2, 2 * math.sqrt(squares_mj2 / 2))


def _step_bound_by_numpy_mj(
    power_mw: Sequence[float], interval_s: Sequence[float], quantum_mw: float
) -> float:
    """The same of very many samples."""
    import numpy

    changes = numpy.diff(numpy.asarray(power_mw))
    numpy.abs(changes, out=changes)
    changes[changes <= quantum_mw] = 0.0
    changes *= numpy.asarray(interval_s)  # mJ from here on
    return min(float(changes.sum()) / 2, 2 * math.sqrt(float(changes @ changes) / 2))


def swing_mw(before_mw: Sequence[float], after_mw: Sequence[float]) -> float:
    """The largest difference between a power of the one stretch and a power of the other.

    >>> swing_mw([5000.0, 5040.0], [15000.0, 5000.0])
    10000.0
    """
    if not before_mw or not after_mw:
        return 0.0
    return max(max(after_mw) - min(before_mw), max(before_mw) - min(after_mw))


def mean_noise_mw(power_mw: Sequence[float]) -> float:
    """Standard error of the mean of these samples, which need not be independent.

    An idle board wakes up now and then for a second: neighbouring samples resemble each other, and
    std / sqrt(n) is too small. The means of ten consecutive parts tell how far a mean moves by itself.
    """
    count = len(power_mw)
    if count < 2:
        return 0.0
    plain_mw = statistics.stdev(power_mw) / math.sqrt(count)
    size = count // BLOCKS
    if size < 2:
        return plain_mw
    means_mw = [statistics.fmean(power_mw[k * size : (k + 1) * size]) for k in range(BLOCKS)]
    return max(plain_mw, statistics.stdev(means_mw) / math.sqrt(BLOCKS))


def baseline_uncertainty_mw(power_mw: Sequence[float], quantum_mw: float) -> float:
    """How far the mean of idle samples may be from idle power: two standard errors, and the quantum.

    A steady power stands anywhere within half a step of what the sensor prints. Noise of a step or more blurs
    the steps, and their mean is then right.
    """
    noise_mw = statistics.stdev(power_mw) if len(power_mw) > 1 else 0.0
    return max(0.0, quantum_mw - noise_mw) / 2 + 2 * mean_noise_mw(power_mw)


def highest(values: array[float], first: int, end: int) -> float | None:
    """Maximum of [first, end); None of nothing, or of nothing but unknown ones (-inf)."""
    part: Sequence[float] = values[first:end]
    if len(part) > MANY_SAMPLES:
        with contextlib.suppress(ImportError):  # 2 ms for a million values instead of 50
            import numpy

            part = [float(numpy.max(part))]
    top = max(part, default=-math.inf)
    return top if math.isfinite(top) else None


def lowest(values: array[float], first: int, end: int) -> float | None:
    """Minimum of [first, end); None of nothing."""
    return min(values[first:end], default=None)
