#!/usr/bin/env python3
"""How far off is a prediction? Intervals for a model of token2metrics.py, from rows it was not fitted on.

Made:    stdin   {"counts": [[prompt tokens, decode steps] ..], "group": [..], "measured": {quantity: [..]},
                  "jobs": [{"rows": [place ..], "held_out": {quantity: [prediction or null ..]}} ..]}
         stdout  an object per job: quantity -> log_spread, quantiles, held_out_mape_percent, rows
Applied: stdin   {"level": 0.9, "bounds": [{"counts", "means", "intervals", "between", "ranges"} ..]}
         stdout  an object per entry: quantity -> {"mean", "low", "high", "beyond": doublings}

The relative error of held-out rows is divided by a spread that may grow or shrink with the lengths
(log-linear, fitted on the cells); the quantiles of what remains are the half widths (split conformal with a
scaled score: Lei et al. 2018, J. Am. Stat. Assoc. 113, section 5.2). A row's whole cell of repeats was held
out with it, so the error has both the noise of one run and the misfit of the model between cells. Totals are
sums of held-out parts. Two things widen an interval: a prompt length that was not measured (by the errors of
measured ones left out whole), and lengths at which that quantity was not measured (twice as wide per
doubling beyond, a guess).

Example:
    python companions/metric_intervals.py < held_out.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEVELS = (0.5, 0.8, 0.9, 0.95)
SAME_LENGTH = 0.02  # as a share: closer than this to a measured prompt length is that length
PARTS = {
    "total_ms": ("prefill_ms", "decode_ms"),
    "total_energy_joule": ("prefill_energy_joule", "decode_energy_joule"),
}
GROUPS_LEAST, GROUPS_FOR_SLOPES = 3, 12
PULL = 0.05  # of the slopes towards zero, per cell
SPREAD_LEAST = 1e-6  # relative; repeats that agree to the last digit have no logarithm


def log_lengths(counts: Floats) -> Floats:
    """log2 of prompt and output tokens (n, 2)."""
    import numpy as np

    return np.asarray(np.log2(counts + np.array([0, 1])))


def spread_slopes(logs: Floats, relative: Floats, group: Ints) -> Floats:
    """Two slopes: how the logarithm of the errors' size changes as the prompt or the answer doubles."""
    import numpy as np

    groups = np.unique(group)
    if len(groups) < GROUPS_FOR_SLOPES:
        return np.zeros(2)
    size = np.array([math.sqrt(np.mean(relative[group == one] ** 2)) for one in groups])
    centre = np.array([logs[group == one].mean(axis=0) for one in groups])
    columns = np.column_stack([np.ones(len(groups)), centre - centre.mean(axis=0)])
    pull = np.diag([0.0, 1.0, 1.0]) * len(groups) * PULL
    aim = columns.T @ np.log(np.maximum(size, SPREAD_LEAST))
    return np.asarray(np.linalg.solve(columns.T @ columns + pull, aim)[1:])


def make_interval(counts: Floats, relative: Floats, group: Ints) -> dict[str, Any]:
    """Spread and quantiles of relative errors (n,) at counts (n, 2); group (n,) numbers the cells."""
    import numpy as np

    logs = log_lengths(counts)
    slopes = spread_slopes(logs, relative, group)
    start = float(-slopes @ logs.mean(axis=0))
    score = np.abs(relative) / np.exp(start + logs @ slopes)
    # One more cell is to come, whose errors may be beyond all of these: the finite-sample correction, with
    # cells as the unit, because the repeats of a cell err alike (Lee et al., arXiv 2306.06342).
    cells = len(np.unique(group))
    raised = [min(1.0, level * (1 + 1 / cells)) for level in LEVELS]
    quantiles = {str(k): float(np.quantile(score, r)) for k, r in zip(LEVELS, raised, strict=True)}
    ends = {"log2_low": logs.min(axis=0).tolist(), "log2_high": logs.max(axis=0).tolist()}
    return {"log_spread": [start, *slopes.tolist()], "quantiles": quantiles, **ends}


def as_numbers(values: Sequence[float | None]) -> Floats:
    """null -> nan."""
    import numpy as np

    return np.array([math.nan if value is None else value for value in values], float)


def job_intervals(shared: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """The intervals of one model; a quantity held out at fewer than three lengths gets none."""
    import numpy as np

    rows = np.asarray(job["rows"])
    counts, group = np.array(shared["counts"], float)[rows], np.array(shared["group"])[rows]
    predicted = {name: as_numbers(values) for name, values in job["held_out"].items()}
    measured = {name: as_numbers(values)[rows] for name, values in shared["measured"].items()}
    for total, (first, second) in PARTS.items():
        if total not in predicted and first in predicted and second in predicted:
            predicted[total] = predicted[first] + predicted[second]
    intervals = {}
    for name, values in predicted.items():
        known = np.isfinite(values) & np.isfinite(measured[name]) & (values > 0)
        if len(np.unique(group[known])) < GROUPS_LEAST:
            continue
        truth, guess = measured[name][known], values[known]
        # Half widths are shares of the prediction, so the errors that make them are, too.
        interval = make_interval(counts[known], truth / guess - 1, group[known])
        mape = float(100 * np.mean(np.abs(guess / truth - 1)))
        intervals[name] = {**interval, "rows": int(known.sum()), "held_out_mape_percent": mape}
    return intervals


def unmeasured(job: Mapping[str, Any], target: str, counts: Floats, level: float) -> Floats:
    """Least relative half width (n,) at prompt lengths that were not measured; 0 at those that were."""
    import numpy as np

    errors, lengths = job["between"].get(target), job["ranges"].get("lengths")
    if not errors or not lengths:
        return np.zeros(len(counts))
    nearest = np.abs(counts[:, :1] / np.asarray(lengths) - 1).min(axis=1)
    return np.where(nearest > SAME_LENGTH, errors[LEVELS.index(level)], 0.0)


def doublings_beyond(job: Mapping[str, Any], target: str, counts: Floats, mean: Floats) -> Floats:
    """How often (n,) lengths double beyond those this quantity was measured at; a prefill has no answer."""
    import numpy as np

    interval = job["intervals"].get(target)
    if not interval:
        return np.zeros(len(counts))
    logs = log_lengths(counts)
    low, high = (np.asarray(interval[name], float) for name in ("log2_low", "log2_high"))
    beyond = np.clip(np.maximum(logs - high, low - logs), 0, None)
    if target.startswith("prefill"):
        beyond[:, 1] = 0
    return np.where(mean > 0, beyond.sum(axis=1), 0.0)  # of no decoding, nothing is beyond


def bounds(job: Mapping[str, Any], level: float) -> dict[str, Any]:
    """Quantity -> {"mean", "low", "high"}; low and high null where no interval could be made."""
    import numpy as np

    counts = np.array(job["counts"], float).reshape(-1, 2)
    means = {name: np.array(values, float) for name, values in job["means"].items()}
    found: dict[str, Any] = {}
    for name, mean in means.items():
        interval = job["intervals"].get(name)
        if not interval:
            found[name] = {"mean": mean.tolist(), "low": None, "high": None}
            continue
        logs = np.clip(log_lengths(counts), interval["log2_low"], interval["log2_high"])
        start, *slopes = interval["log_spread"]
        half = mean * interval["quantiles"][str(level)] * np.exp(start + logs @ np.array(slopes))
        parts = [name] if name in job["between"] else PARTS[name]
        least = sum(means[part] * unmeasured(job, part, counts, level) for part in parts)
        beyond = np.max([doublings_beyond(job, part, counts, means[part]) for part in parts], axis=0)
        half = np.maximum(half, least) * 2**beyond
        ends = {"low": np.maximum(mean - half, 0), "high": mean + half}
        found[name] = {"mean": mean.tolist(), **{end: values.tolist() for end, values in ends.items()}}
        if name in job["between"]:
            found[name]["beyond"] = beyond.tolist()
    return found


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: the held-out rows come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """All jobs."""
    build_parser().parse_args(argv)
    try:
        asked = json.loads(sys.stdin.read())
        if "bounds" in asked:
            print(json.dumps([bounds(job, asked["level"]) for job in asked["bounds"]]))
        else:
            print(json.dumps([job_intervals(asked, job) for job in asked["jobs"]]))
    except (ValueError, KeyError, IndexError) as exc:
        print(f"error: not held-out rows this script can read ({exc!r})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
