"""How far off is a prediction? Intervals for a model of token2metrics.py, from rows it was not fitted on.

The relative error of held-out rows is divided by a spread that may grow or shrink with the lengths
(log-linear, fitted on the cells); the quantiles of what remains are the half widths (split conformal with a
scaled score: Lei et al. 2018, J. Am. Stat. Assoc. 113, section 5.2). A row's whole cell of repeats was held
out with it, so the error has both the noise of one run and the misfit of the model between cells. Totals are
sums of held-out parts. Two things widen an interval: a prompt length that was not measured (by the errors of
measured ones left out whole), and lengths at which that quantity was not measured (twice as wide per
doubling beyond, a guess).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.forecasting.quantities import LEVELS, PARTS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAME_LENGTH = 0.02  # as a share: closer than this to a measured prompt length is that length
GROUPS_LEAST, GROUPS_FOR_SLOPES = 3, 12
PULL = 0.05  # of the slopes towards zero, per cell
SPREAD_LEAST = 1e-6  # relative; repeats that agree to the last digit have no logarithm


def log_lengths(counts: Floats) -> Floats:
    """log2 of prompt and output tokens (n, 2)."""
    return np.asarray(np.log2(counts + np.array([0, 1])))


def spread_slopes(logs: Floats, relative: Floats, group: Ints) -> Floats:
    """Two slopes: how the logarithm of the errors' size changes as the prompt or the answer doubles."""
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
    return np.array([math.nan if value is None else value for value in values], float)


def intervals_of(
    samples: Mapping[str, Any], chosen: Sequence[int], held_out: Mapping[str, Sequence[float | None]]
) -> dict[str, Any]:
    """Quantity -> its interval, for a model of the `chosen` rows of a samples file.

    `held_out`: quantity -> prediction of each chosen row by a fit without it, None where there is none. A
    quantity held out at fewer than three lengths gets no interval.
    """
    rows = np.asarray(chosen)
    counts, group = np.array(samples["counts"], float)[rows], np.array(samples["group"])[rows]
    predicted = {name: as_numbers(values) for name, values in held_out.items()}
    measured = {name: as_numbers(values)[rows] for name, values in samples["measured"].items()}
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
        cells = len(np.unique(group[known]))
        counted = {"rows": int(known.sum()), "cells": cells, "held_out_mape_percent": mape}
        intervals[name] = {**interval, **counted}
    return intervals


def unmeasured(model: Mapping[str, Any], target: str, counts: Floats, level: float) -> Floats:
    """Least relative half width (n,) at prompt lengths that were not measured; 0 at those that were."""
    errors = model["targets"][target].get("between_lengths")
    lengths = model["ranges"].get("lengths")
    if not errors or not lengths:
        return np.zeros(len(counts))
    nearest = np.abs(counts[:, :1] / np.asarray(lengths) - 1).min(axis=1)
    return np.where(nearest > SAME_LENGTH, errors[LEVELS.index(level)], 0.0)


def doublings_beyond(model: Mapping[str, Any], target: str, counts: Floats, mean: Floats) -> Floats:
    """How often (n,) lengths double beyond those this quantity was measured at; a prefill has no answer."""
    interval = model["intervals"].get(target)
    if not interval:
        return np.zeros(len(counts))
    logs = log_lengths(counts)
    low, high = (np.asarray(interval[name], float) for name in ("log2_low", "log2_high"))
    beyond = np.clip(np.maximum(logs - high, low - logs), 0, None)
    if target.startswith("prefill"):
        beyond[:, 1] = 0
    return np.where(mean > 0, beyond.sum(axis=1), 0.0)  # of no decoding, nothing is beyond


def bounds(
    model: Mapping[str, Any], counts: Floats, means: Mapping[str, Floats], level: float
) -> dict[str, Any]:
    """Quantity -> {"mean", "low", "high"} lists; low and high None where no interval could be made.

    `counts` (n, 2): prompt tokens and decode steps; `means`: quantity -> the model's predictions (n,). A
    quantity that is fitted by itself also says how often its lengths double "beyond" the measured ones.
    """
    found: dict[str, Any] = {}
    for name, mean in means.items():
        interval = model["intervals"].get(name)
        if not interval:
            found[name] = {"mean": mean.tolist(), "low": None, "high": None}
            continue
        logs = np.clip(log_lengths(counts), interval["log2_low"], interval["log2_high"])
        start, *slopes = interval["log_spread"]
        half = mean * interval["quantiles"][str(level)] * np.exp(start + logs @ np.array(slopes))
        parts = [name] if name in model["targets"] else PARTS[name]
        least = sum(means[part] * unmeasured(model, part, counts, level) for part in parts)
        beyond = np.max([doublings_beyond(model, part, counts, means[part]) for part in parts], axis=0)
        half = np.maximum(half, least) * 2**beyond
        ends = {"low": np.maximum(mean - half, 0), "high": mean + half}
        found[name] = {"mean": mean.tolist(), **{end: values.tolist() for end, values in ends.items()}}
        if name in model["targets"]:
            found[name]["beyond"] = beyond.tolist()
    return found
