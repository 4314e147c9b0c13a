"""A trained model and token counts -> predictions with intervals; numpy alone, so that it starts at once.

Counts (n, 2) are prompt tokens and decode steps: an answer of M tokens is M - 1 steps, because its first
token belongs to the prefill. Times in ms, energies in J.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.forecasting import intervals
from edgebench.forecasting.designs import DESIGNS, tokens_of
from edgebench.forecasting.quantities import BOUNDS, PARTS, TARGETS, TIMES, UNKNOWN_INPUT

Floats = NDArray[np.float64]
PER_THOUSAND = 1000  # of a polynomial's token counts: products of thousands stay of one size


def apply_trees(spec: Mapping[str, Any], x: Floats) -> Floats:
    """exp of the summed leaves of all trees (n,)."""
    logs, counts = np.full(len(x), float(spec["start"])), x[:, :2].astype(np.float32)
    for tree in spec["trees"]:
        left, right, feature, threshold, value = (
            np.asarray(tree[name]) for name in ("left", "right", "feature", "threshold", "value")
        )
        node: Any = np.zeros(len(x), int)
        for _ in range(len(left)):
            inner = left[node] >= 0
            if not inner.any():
                break
            goes_left = counts[np.arange(len(x)), np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        logs += spec["weight"] * value[node]
    return np.asarray(np.exp(logs))


def apply_spec(spec: Mapping[str, Any], x: Floats, target: str = "", base: Any = None) -> Floats:
    """Predictions (n,) of one target, never below zero."""
    if spec["regressor"] == "analytic":
        columns = DESIGNS[target](x, spec["options"])[0]
        if spec["names"][0] == "base":
            columns = np.column_stack([base[target], -tokens_of(target, x), columns])
        found = columns @ np.asarray(spec["coefficients"])
    elif spec["regressor"] == "polynomial":
        powers = np.asarray(spec["powers"])
        found = np.prod((x[:, None, :2] / PER_THOUSAND) ** powers[None], axis=2) @ np.asarray(
            spec["coefficients"]
        )
    elif spec["regressor"] == "transfer":
        found = spec["ratio"] * base[target] + spec["per_token"] * tokens_of(target, x)
    else:
        found = apply_trees(spec, x)
    return np.asarray(np.maximum(found, 0.0))


def predict_parts(model: Mapping[str, Any], counts: Floats) -> dict[str, Floats]:
    """Quantity -> predictions (n,) for counts (n, 2) of prompt tokens and decode steps; totals are sums."""
    x = np.column_stack([counts, np.zeros((len(counts), 2))])
    base = predict_parts(model["base"], counts) if model.get("base") else None
    found: dict[str, Floats] = {}
    for target in TARGETS:
        spec = model["targets"].get(target)
        if spec is None:
            continue
        found[target] = apply_spec(spec, x, target, base)
        if target.startswith("decode"):
            found[target] = np.where(x[:, 1] > 0, found[target], 0.0)  # one output token: nothing is decoded
        if target in TIMES:
            x[:, 2 + TIMES.index(target)] = found[target] / 1000
    for total, (first, second) in PARTS.items():
        if total not in found and first in found and second in found:
            found[total] = found[first] + found[second]
    return {name: found[name] for name in TARGETS if name in found}


def predict_quantities(model: Mapping[str, Any], counts: Sequence[Any], level: float) -> dict[str, Any]:
    """Quantity -> {"mean", "low", "high"} lists for counts [prompt tokens, decode steps]."""
    pairs = np.array(counts, float).reshape(-1, 2)
    return intervals.bounds(model, pairs, predict_parts(model, pairs), level)


def predict(
    model: Mapping[str, Any], pairs: Sequence[Sequence[int]], level: float = 0.9
) -> list[dict[str, Any]]:
    """One row per request [input tokens, output tokens], both at least 1. Raises UserError.

    A row: input_tokens, output_tokens, level, quantity -> {"mean", "low", "high"} (low and high None where
    there is no interval), and extrapolated: what lies beyond the lengths the model was trained on.
    """
    if not all(len(pair) == 2 and all(type(v) is int and v >= 1 for v in pair) for pair in pairs):
        raise UserError(
            "token counts are whole numbers of at least 1; check --input-tokens and --output-tokens"
        )
    known = model.get("input_tokens_known") is not False  # else every prompt is the mean one
    counts = [[prompt if known else UNKNOWN_INPUT, output - 1] for prompt, output in pairs]
    found = predict_quantities(model, counts, level)
    rows = []
    for place, pair in enumerate(pairs):
        row: dict[str, Any] = {"input_tokens": pair[0], "output_tokens": pair[1], "level": level}
        row |= {
            name: {bound: values[bound] and values[bound][place] for bound in BOUNDS}
            for name, values in found.items()
        }
        limits = zip(
            ("input_tokens", "output_tokens"), pair, *map(model["ranges"].get, ("low", "high")), strict=True
        )
        beyond = [
            name
            for name, value, low, high in limits
            if not low <= value <= high and (known or name != "input_tokens")
        ]
        # A quantity may have been measured at fewer lengths than others: short windows have no energy.
        own = [
            name for name, values in found.items() if values.get("beyond") and values["beyond"][place] > 1e-9
        ]
        rows.append({**row, "extrapolated": beyond or own})
    return rows
