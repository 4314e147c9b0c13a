"""An analysis of any number of models, made from one of a single model: each costs another multiple of it.

The statistics are those of the first model in other units, so that a page or text over 300 models can be
looked at without measuring or resampling anything. Seeded: the same count gives the same analysis.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

COSTS = ("mean", "std", "std_tasks", "std_within", "mean_difference", "extra", "prompt_part", "answer_part")
COSTS_BY_VALUE = ("cost_mean",)
INTERVALS = ("ci95", "prompt_part_ci95", "answer_part_ci95")
COUNTED = ("tokens", None)  # units that do not scale with a model's size


def with_models(analysis: Mapping[str, Any], count: int, seed: int = 1) -> dict[str, Any]:
    """The analysis as if its first model had been one of `count`, from 0.3 to 30 times as costly."""
    made: dict[str, Any] = copy.deepcopy(dict(analysis))
    first = made["models"][0]["model_id"]
    rng = random.Random(seed)
    sizes = [10 ** rng.uniform(-0.5, 1.5) for _ in range(count)]
    leans = [rng.uniform(-0.2, 0.2) for _ in range(count)]
    for name, table in made.items():
        if not isinstance(table, list) or not table or not isinstance(table[0], dict):
            continue
        own = [row for row in table if row.get("model_id") == first]
        rest = [row for row in table if row.get("model_id") is None]
        if own:
            made[name] = rest + [
                of_model(row, number, sizes[number], leans[number]) for number in range(count) for row in own
            ]
    made["counts"]["used"] *= count
    made["counts"]["records"] *= count
    return made


def with_intervals(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The analysis with a made interval, a tenth to both sides, where a campaign so small has none."""
    made: dict[str, Any] = copy.deepcopy(dict(analysis))
    values = {"ci95": ("mean", "mean_difference", "win_rate", "estimate"), "percent_ci95": ("percent",)}
    tables = [row for table in made.values() if isinstance(table, list) for row in table]
    rows = [row for row in tables if isinstance(row, dict)]
    rows += [rate for row in made["cost_split"] for rate in row["coefficients"].values()]
    for row in rows:
        for name, middles in values.items():
            middle = next((row[one] for one in middles if row.get(one) is not None), None)
            if name in row and row[name] is None and middle is not None:
                row[name] = sorted(
                    (0.9 * middle, min(1.1 * middle, 1.0) if "win_rate" in row else 1.1 * middle)
                )
                row["reason"] = row["percent_reason"] = None
    return made


def of_model(row: Mapping[str, Any], number: int, size: float, lean: float) -> dict[str, Any]:
    """A row of the first model as the row of the n-th; `lean` is how much more each further level costs."""
    new = copy.deepcopy(dict(row))
    growth = (1 + lean / 2) ** (ord(str(new.get("level", "L0"))[-1]) % 4)
    new["model_id"] = f"family-{number % 7}-{1 + number // 7}b-instruct-Q4_K_M-{number:03d}"
    if new.get("unit", "J") not in COUNTED:
        for name in COSTS + COSTS_BY_VALUE:
            if isinstance(new.get(name), (int, float)):
                new[name] *= size * growth
        for name in INTERVALS:
            if "win_rate" not in new and new.get(name):
                new[name] = [edge * size * growth for edge in new[name]]
    if new.get("percent") is not None:
        new["percent"] *= growth
        new["percent_ci95"] = new["percent_ci95"] and [edge * growth for edge in new["percent_ci95"]]
    for name in ("win_rate", "quality", "prompt_share"):
        if new.get(name) is not None and new.get("level") != new.get("quality_against"):
            new[name] = as_share(new[name] - lean / 2)
    if new.get("win_rate") is not None and new["ci95"]:
        new["ci95"] = [as_share(edge - lean / 2) for edge in new["ci95"]]
    return new


def as_share(value: float) -> float:
    """The value, or the nearest share."""
    return min(max(value, 0.0), 1.0)
