"""Fits time and energy of a request from its token counts, and predicts them.

  fit_all      samples -> one model of plain numbers (no pickles), with intervals from held-out rows
  predict      a model and token counts -> one row per request, with intervals, extrapolation flagged
  cross        a model per split, fitted on its training rows, predicting its test rows: for evaluations

The default regression, `analytic`, is the machine's own arithmetic, fitted by non-negative least squares on
relative errors (I prompt tokens, padded as the engine pads them; S decode steps = output tokens - 1):
  prefill  c + sum_b v_b I_b + a I^2 / 2        v_b: time per prompt token in the b-th length band
  decode   c + sum_b v_b S_b + m sum_k k        v_b: time per step while the context is in band b; m: growth
  energy   as its phase, less what a power that starts low has not drawn yet: d (1 - exp(-T_decode / tau)),
           and more of it after a short prefill: d' exp(-T_prefill / tau'); per step more after a long one
Neighbouring bands are drawn together as strongly as held-out rows like it. All coefficients are >= 0, so a
longer prompt or answer never takes less time. Other regressions (regressors.py): linear, polynomial,
random_forest, xgboost. With a base, a model of another machine is transferred: base prediction x ratio +
constant per token, and, as far as held-out rows ask for it (method `shrunk`), the columns above for what
that does not explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebench.errors import UserError
from edgebench.forecasting import intervals, regressors, solve
from edgebench.forecasting.model_file import KIND, SCHEMA_VERSION
from edgebench.forecasting.quantities import BOUNDS, PARTS, TARGETS, TIMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# Band edges at powers of two: attention kernels, batch and cache sizes change there.
EDGES = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 1 << 40)
PADS = (128, 1)  # tensor-core tiles and paged caches round the prompt up, mostly to 128
RAMPS_S = tuple((tau, prefill) for tau in (0.0, 0.25, 0.5, 1.0, 2.0) for prefill in (0.25, 1.0))
FOLDS, OUTLIER_ROUNDS = 12, 3
LENGTHS_MOST = 40
GROUPS_LEAST = 3
GROSS_FACTOR, GROSS_MADS = 1.5, 12.0  # an outlier is off by half, and far beyond the spread of the others
REGRESSIONS = ("analytic", "linear", "polynomial", "random_forest", "xgboost")
METHODS = ("shrunk", "two_parameter", "simple_scaling", "median_ratio", "through_origin")
FACTS = ("model", "board", "data", "energy_scope", "no_energy_reason", "simulated_power")


@dataclass(frozen=True)
class Settings:
    """What a fit is told."""

    regression: str = REGRESSIONS[0]
    base: Mapping[str, Any] | None = None  # transfer this model of another machine
    method: str = METHODS[0]  # of the transfer


# --- designs: token counts -> columns that the coefficients multiply ---


def band_tokens(low: Floats, high: Floats) -> Floats:
    """How many of the tokens low+1 .. high (n,) lie in each band (n, bands)."""
    import numpy as np

    edges = np.asarray(EDGES, float)
    inside = np.minimum(high[:, None], edges[None, 1:]) - np.maximum(low[:, None], edges[None, :-1])
    return np.asarray(np.clip(inside, 0, None))


def prefill_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Columns [constant, I^2/2, tokens per band] of requests x (n, 4): I, S, prefill s, decode s."""
    import numpy as np

    padded = options["pad"] * np.ceil(x[:, 0] / options["pad"])
    bands = band_tokens(np.zeros_like(padded), padded)
    return np.column_stack([np.ones_like(padded), padded**2 / 2, bands]), ["constant", "per_token_pair"]


def decode_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Columns [constant, sum of context lengths, steps per band], and the two of the power ramp if asked."""
    import numpy as np

    prompt, steps = x[:, 0], x[:, 1]
    columns = [np.ones_like(prompt), steps * prompt + steps * (steps + 1) / 2]
    names = ["constant", "per_context_token"]
    if "tau_s" in options:
        tau_s, prefill_tau_s = options["tau_s"], options["prefill_tau_s"]
        ramp = 1 - np.exp(-x[:, 3] / tau_s) if tau_s else np.ones_like(prompt)
        columns += [-ramp, -ramp * np.exp(-x[:, 2] / prefill_tau_s)]
        names += ["minus_ramp", "minus_ramp_after_short_prefill", "per_step_and_prompt_doubling"]
        columns.append(steps * np.log2(np.maximum(prompt, 1)))  # a long prefill leaves the board warmer
    return np.column_stack([*columns, band_tokens(prompt, prompt + steps)]), names


def total_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Both phases at once, for totals that were not split: [.., tokens per band, steps per band]."""
    import numpy as np

    before, names = prefill_design(x, {"pad": options["pad"]})
    after, _ = decode_design(x, {})
    columns = [before[:, :2], after[:, 1:2], before[:, 2:], after[:, 2:]]
    return np.column_stack(columns), [*names, "per_context_token"]


DESIGNS: dict[str, Callable[[Any, Mapping[str, Any]], tuple[Any, list[str]]]] = {
    "prefill_ms": prefill_design,
    "prefill_energy_joule": prefill_design,
    "decode_ms": decode_design,
    "decode_energy_joule": decode_design,
    "total_ms": total_design,
    "total_energy_joule": total_design,
}


def design_options(target: str, lengths: Floats, hints: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The designs to choose from, the simplest first; an energy takes over the padding of its time."""
    if hints.get("options") is not None:
        return [dict(hints["options"])]
    if target.startswith("prefill"):
        # Padding that no measured length shows must not be believed.
        shown = [p for p in PADS if p == 1 or (lengths % p).any()]
        return [{"pad": p} for p in ([hints["pad"]] if hints.get("pad") else shown)]
    if target.startswith("total"):
        return [{"pad": 1}]
    if target == "decode_ms":
        return [{}]
    return [{"tau_s": tau, "prefill_tau_s": prefill} for tau, prefill in RAMPS_S]


# --- the analytic fit, whose least squares are solve.py's ---


def fit_analytic(
    target: str, x: Floats, y: Floats, fold: Ints, hints: Mapping[str, Any]
) -> tuple[dict[str, Any], Floats]:
    """Spec of the best design, and predictions (n,) of rows by fits that saw neither them nor their cell.

    hints: "pad" of the time whose energy this is; "base", predictions (n,) to lean on; its "options".
    """
    import numpy as np

    rows, place = np.unique(x, axis=0, return_inverse=True)
    first = np.array([int(np.argmax(place == one)) for one in range(len(rows))])
    designs, kinds = [], []
    leaning = [False] if hints.get("base") is None else [True, False]
    for lean in leaning:
        # Its base's ramp serves a fit of the runs alone as well; their padding may be another.
        own = {} if not lean and target == "prefill_ms" else hints
        for options in design_options(target, x[:, 0], own):
            columns, names = DESIGNS[target](rows, options)
            if lean:
                base = hints["base"][first]
                columns = np.column_stack([base, -tokens_of(target, rows), columns])
                names = ["base", "minus_per_token", *names]
            kinds.append({"options": options, "names": names})
            designs.append(solve.Design(columns, named=len(names), free=2 * lean))
    problem = solve.Problem(
        designs=designs,
        place=place.reshape(-1),
        y=y,
        fold=fold,
        tokens=tokens_of(target, rows),
        length=rows[:, 0],
        bands=len(EDGES) - 1,
        tolerant=len(leaning) == 1,
    )
    solution = solve.solve_problem(problem)
    spec = {
        "regressor": "analytic",
        "edges": list(EDGES),
        **kinds[solution.design],
        "smoothing": solution.smoothing,
        "coefficients": solution.coefficients,
        "standard_errors": solution.standard_errors,
        "between_lengths": solution.between_lengths,
    }
    return spec, solution.held_out


def gross_outliers(predicted: Floats, y: Floats) -> NDArray[np.bool_]:
    """Rows off by a factor beyond GROSS_FACTOR and far outside the others' spread; none if they are many."""
    import numpy as np

    off = np.log(y / np.maximum(predicted, 1e-12))
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    gross = np.abs(off - np.median(off)) > max(math.log(GROSS_FACTOR), GROSS_MADS * spread)
    return np.asarray(gross if gross.sum() <= max(1, 0.05 * len(y)) else np.zeros(len(y), bool))


def tokens_of(target: str, x: Floats) -> Floats:
    """The tokens a phase works through (n,)."""
    if target.startswith("prefill"):
        return x[:, 0]
    return x[:, 1] if target.startswith("decode") else x[:, 0] + x[:, 1]


# --- prediction ---


def apply_trees(spec: Mapping[str, Any], x: Floats) -> Floats:
    """exp of the summed leaves of all trees (n,)."""
    import numpy as np

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
    import numpy as np

    if spec["regressor"] == "analytic":
        columns = DESIGNS[target](x, spec["options"])[0]
        if spec["names"][0] == "base":
            columns = np.column_stack([base[target], -tokens_of(target, x), columns])
        found = columns @ np.asarray(spec["coefficients"])
    elif spec["regressor"] == "polynomial":
        powers = np.asarray(spec["powers"])
        found = np.prod((x[:, None, :2] / 1000) ** powers[None], axis=2) @ np.asarray(spec["coefficients"])
    elif spec["regressor"] == "transfer":
        found = spec["ratio"] * base[target] + spec["per_token"] * tokens_of(target, x)
    else:
        found = apply_trees(spec, x)
    return np.asarray(np.maximum(found, 0.0))


def predict_parts(model: Mapping[str, Any], counts: Floats) -> dict[str, Floats]:
    """Quantity -> predictions (n,) for counts (n, 2) of prompt tokens and decode steps; totals are sums."""
    import numpy as np

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


# --- training ---


def fit_model(samples: Mapping[str, Any], rows: Sequence[int], settings: Settings) -> dict[str, Any]:
    """The model of some rows of a samples file, its intervals still to come from "held_out"."""
    import numpy as np

    chosen = np.asarray(rows)
    counts, base = np.array(samples["counts"], float)[chosen], settings.base
    _, group = np.unique(np.array(samples["group"])[chosen], return_inverse=True)
    count = int(group.max()) + 1
    if base is None and count < GROUPS_LEAST:
        raise UserError(
            f"{samples['model']}: only {count} different lengths; measure at least {GROUPS_LEAST}"
        )
    # Repeats of one cell are never in two folds.
    fold = np.random.default_rng(0).permutation(count)[group] % min(FOLDS, count)
    lengths = counts + np.array([0, 1])
    model: dict[str, Any] = {"kind": KIND, "schema_version": SCHEMA_VERSION, "base": base, "targets": {}}
    model |= {"regression": "transfer" if base else settings.regression, "outliers": [], "intervals": {}}
    model["ranges"] = {"low": lengths.min(axis=0).tolist(), "high": lengths.max(axis=0).tolist()}
    if len(distinct := np.unique(counts[:, 0])) <= LENGTHS_MOST:
        model["ranges"]["lengths"] = distinct.tolist()
    held_out: dict[str, list[float | None]] = {}
    for target in [t for t in TARGETS if t in samples["targets"] and (base is None or t in base["targets"])]:
        measured = np.array(samples["measured"][target], float)[chosen]
        places = np.flatnonzero(np.isfinite(measured))
        if len(places) == 0 or (base is None and len(np.unique(group[places])) < GROUPS_LEAST):
            continue
        x = np.column_stack([counts[places], np.zeros((len(places), 2))])
        for column, time in enumerate(TIMES):
            if time in model["targets"]:
                x[:, 2 + column] = predict_parts(model, counts[places])[time] / 1000
        spec, predicted, kept = fit_target(target, x, measured[places], fold[places], model, settings)
        for place in chosen[places[~kept]].tolist():
            where = {"target": target, "row": place, "where": samples["where"][place]}
            model["outliers"].append({**where, "value": samples["measured"][target][place]})
        model["targets"][target] = {**spec, "rows": int(kept.sum())}
        values: list[float | None] = [None] * len(chosen)
        for place, value in zip(places[kept].tolist(), predicted.tolist(), strict=True):
            values[place] = value
        held_out[target] = values
    if not model["targets"]:
        raise UserError(
            f"{samples['model']}: no time and no energy was measured at {GROUPS_LEAST} lengths or more"
        )
    facts = {name: samples[name] for name in FACTS}
    hashes = sorted(samples["row_sha256"][place] for place in rows)
    return {
        **model,
        **facts,
        "rows": len(rows),
        "groups": count,
        "training_rows": hashes,
        "held_out": held_out,
    }


def fit_target(
    target: str, x: Floats, y: Floats, fold: Ints, model: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], Floats, NDArray[np.bool_]]:
    """One target without its gross outliers: spec, held-out predictions of the kept rows, which were kept."""
    import numpy as np

    kept = np.ones(len(y), bool)
    base = predict_parts(model["base"], x[:, :2]) if model["base"] else None
    kind = settings.method if base else settings.regression
    if kind not in (REGRESSIONS[0], METHODS[0]):
        seen = x[:, :2] if base is None else np.column_stack([base[target], tokens_of(target, x)])
        trained = regressors.train(kind, seen, y, fold)
        found = apply_spec(trained.spec, x, target, base)
        # Its plain numbers must predict what the library itself predicts.
        if not np.allclose(found, np.maximum(trained.predicted, 0), rtol=1e-3, atol=1e-9):
            raise UserError(
                f"{kind} hands over a model that predicts otherwise here; choose another --regression"
            )
        return trained.spec, trained.held_out, kept
    hints: dict[str, Any] = {"pad": model["targets"].get("prefill_ms", {}).get("options", {}).get("pad")}
    if base:
        hints["options"] = model["base"]["targets"][target].get("options")
    for _ in range(OUTLIER_ROUNDS):
        hints["base"] = base[target][kept] if base else None
        spec, held_out = fit_analytic(target, x[kept], y[kept], fold[kept], hints)
        gross = gross_outliers(apply_spec(spec, x, target, base), y)
        if not (gross & kept).any():
            break
        kept &= ~gross
    return spec, held_out, kept


# --- what others ask for ---


def with_interval(samples: Mapping[str, Any], rows: Sequence[int], model: dict[str, Any]) -> dict[str, Any]:
    """The model with the intervals that its held-out rows allow."""
    held_out = model.pop("held_out")
    return {**model, "intervals": intervals.intervals_of(samples, rows, held_out)}


def fit_all(samples: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The model of all rows of a samples file. Raises UserError."""
    rows = range(len(samples["counts"]))
    return with_interval(samples, rows, fit_model(samples, rows, settings))


def predict_quantities(model: Mapping[str, Any], counts: Sequence[Any], level: float) -> dict[str, Any]:
    """Quantity -> {"mean", "low", "high"} lists for counts [prompt tokens, decode steps]."""
    import numpy as np

    pairs = np.array(counts, float).reshape(-1, 2)
    return intervals.bounds(model, pairs, predict_parts(model, pairs), level)


def cross(
    samples: Mapping[str, Any], splits: Sequence[Mapping[str, Any]], settings: Settings, level: float
) -> list[dict[str, Any]]:
    """Fit each split's training rows; per split its outliers and the predictions of its test rows.

    A split: {"split": its name, "train": [row ..], "test": [row ..]}. Raises UserError.
    """
    models = [fit_model(samples, split["train"], settings) for split in splits]
    answers = []
    for split, half_done in zip(splits, models, strict=True):
        model = with_interval(samples, split["train"], half_done)
        found = predict_quantities(model, [samples["counts"][row] for row in split["test"]], level)
        named = {name: split[name] for name in split if name != "train"}
        answers.append({**named, "outliers": model["outliers"], "predicted": found})
    return answers


def predict(
    model: Mapping[str, Any], pairs: Sequence[Sequence[int]], level: float = 0.9
) -> list[dict[str, Any]]:
    """One row per request [input tokens, output tokens], both at least 1. Raises UserError.

    A row: input_tokens, output_tokens, level, quantity -> {"mean", "low", "high"} (low and high None where
    there is no interval), and extrapolated: what lies beyond the lengths the model was trained on.
    """
    if not all(len(pair) == 2 and all(type(v) is int and v >= 1 for v in pair) for pair in pairs):
        raise UserError("token counts are whole numbers of at least 1; check --tokens")
    found = predict_quantities(model, [[prompt, output - 1] for prompt, output in pairs], level)
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
        beyond = [name for name, value, low, high in limits if not low <= value <= high]
        # A quantity may have been measured at fewer lengths than others: short windows have no energy.
        own = [
            name for name, values in found.items() if values.get("beyond") and values["beyond"][place] > 1e-9
        ]
        rows.append({**row, "extrapolated": beyond or own})
    return rows
