"""Fits time and energy of a request from its token counts.

  fit_all      samples -> one model of plain numbers (no pickles), with intervals from held-out rows
  cross        a model per split, fitted on its training rows, predicting its test rows: for evaluations

The regression `analytic` is the machine's own arithmetic (designs.py), fitted by non-negative least squares
on relative errors (solve.py): all coefficients are >= 0, so a longer prompt or answer never takes less time.
Others (regressors.py): linear, polynomial, random_forest, xgboost. `best`, the default, takes for each
quantity the one whose error is least on rows that were held out, all of it inside the training rows; the spec
keeps what each of them erred. With a base, a model of another machine is transferred: base prediction x ratio
+ constant per token, and, as far as held-out rows ask for it (method `shrunk`), the columns of a design for
what that does not explain; `chosen` takes what held-out rows like best, of few runs the form of two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.forecasting import intervals, regressors, solve
from edgebench.forecasting.apply import apply_spec, predict_parts, predict_quantities
from edgebench.forecasting.designs import BANDS, DESIGNS, EDGES, OWN_LEVEL, design_options, tokens_of
from edgebench.forecasting.model_file import KIND, SCHEMA_VERSION
from edgebench.forecasting.quantities import (
    ANALYTIC,
    BEST,
    CHOSEN,
    REGRESSIONS,
    SHRUNK,
    TARGETS,
    TIMES,
    TRANSFER,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FOLDS, OUTLIER_ROUNDS = 12, 3
LENGTHS_MOST = 40
GROUPS_LEAST = 3
GROSS_FACTOR, GROSS_MADS = 1.5, 12.0  # an outlier is off by half, and far beyond the spread of the others
TREES = ("random_forest", "xgboost")
# Trees know nothing of lengths they have not seen, and take seconds to load: tried where the others err more,
# and where there are cells enough to fill their leaves.
GOOD_ENOUGH, TREE_CELLS_LEAST = 0.02, 100
CALIBRATIONS = (SHRUNK, "two_parameter", "simple_scaling")  # what `chosen` chooses from
FEW, FEW_RUNS_FORM = 10, "two_parameter"  # fewer different lengths cannot choose: the form with two numbers
FACTS = ("data", "engine", "input_tokens_known", "energy_scope", "no_energy_reason", "simulated_power")


@dataclass(frozen=True)
class Settings:
    """What a fit is told."""

    regression: str = BEST
    base: Mapping[str, Any] | None = None  # transfer this model of another machine
    method: str = CHOSEN  # of the transfer
    designs: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # quantity -> options of its design


@dataclass(frozen=True)
class Task:
    """The measurements of one quantity, and what is known beside them."""

    target: str
    x: Floats  # (n, 4), see designs.py
    y: Floats  # (n,)
    fold: Ints  # (n,)
    engine: str | None
    base: Floats | None = None  # (n,): what the base says of these rows
    base_options: Mapping[str, Any] | None = None  # of the base's design for this quantity
    options: Mapping[str, Any] | None = None  # of the one design that may be taken

    def part(self, kept: Mask) -> Task:
        """Some of the rows."""
        base = None if self.base is None else self.base[kept]
        return replace(self, x=self.x[kept], y=self.y[kept], fold=self.fold[kept], base=base)


@dataclass(frozen=True)
class Fitted:
    """One quantity's regression: plain numbers, and what fits without them say of the rows that were kept."""

    spec: dict[str, Any]
    held_out: Floats  # (kept rows,)
    kept: Mask  # (n,)


# --- the analytic fit, whose least squares are solve.py's ---


def fit_analytic(task: Task) -> tuple[dict[str, Any], Floats]:
    """Spec of the best design, and predictions (n,) of rows by fits that saw neither them nor their cell."""
    rows, place = np.unique(task.x, axis=0, return_inverse=True)
    place = place.reshape(-1)
    first = np.array([int(np.argmax(place == one)) for one in range(len(rows))])
    timed = bool((rows[:, 2] > 0).all())
    tokens = tokens_of(task.target, rows)
    designs, kinds = [], []
    for lean in [False] if task.base is None else [True, False]:
        own = [dict(task.options)] if task.options else None
        own = own or design_options(task.target, task.x[:, 0], task.engine, timed)
        if lean and task.base_options is not None:
            own = [dict(task.base_options)]
        for options in own:
            columns, names = DESIGNS[task.target](rows, options)
            if lean and task.base is not None:
                columns = np.column_stack([task.base[first], -tokens, columns])
                names = ["base", "minus_per_token", *names]
            kinds.append({"options": options, "names": names})
            pulled = tuple(place for place, name in enumerate(names) if name.startswith(OWN_LEVEL))
            designs.append(solve.Design(columns, named=len(names), free=2 * lean, pulled=pulled))
    problem = solve.Problem(
        designs=designs,
        place=place,
        y=task.y,
        fold=task.fold,
        tokens=tokens,
        length=rows[:, 0],
        bands=BANDS,
        tolerant=task.base is None,
    )
    solution = solve.solve_problem(problem)
    spec = {
        "regressor": ANALYTIC,
        "edges": list(EDGES),
        **kinds[solution.design],
        "smoothing": solution.smoothing,
        "coefficients": solution.coefficients,
        "standard_errors": solution.standard_errors,
        "between_lengths": solution.between_lengths,
    }
    return spec, solution.held_out


def without_outliers(task: Task) -> Fitted:
    """The analytic fit of all rows but the gross outliers."""
    kept = np.ones(len(task.y), bool)
    base = None if task.base is None else {task.target: task.base}
    for _ in range(OUTLIER_ROUNDS):
        spec, held_out = fit_analytic(task.part(kept))
        gross = gross_outliers(apply_spec(spec, task.x, task.target, base), task.y)
        if not (gross & kept).any():
            break
        kept &= ~gross
    return Fitted(spec, held_out, kept)


def gross_outliers(predicted: Floats, y: Floats) -> Mask:
    """Rows off by a factor beyond GROSS_FACTOR and far outside the others' spread; none if they are many."""
    off = np.log(y / np.maximum(predicted, 1e-12))
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    gross = np.abs(off - np.median(off)) > max(math.log(GROSS_FACTOR), GROSS_MADS * spread)
    return np.asarray(gross if gross.sum() <= max(1, 0.05 * len(y)) else np.zeros(len(y), bool))


# --- which regression ---


def fit_plainly(kind: str, task: Task) -> tuple[dict[str, Any], Floats]:
    """One of the other regressions, or of the transfers: spec and held-out predictions (n,)."""
    seen = task.x[:, :2]
    if task.base is not None:
        seen = np.column_stack([task.base, tokens_of(task.target, task.x)])
    trained = regressors.train(kind, seen, task.y, task.fold)
    base = None if task.base is None else {task.target: task.base}
    found = apply_spec(trained.spec, task.x, task.target, base)
    # Its plain numbers must predict what the library itself predicts.
    if not np.allclose(found, np.maximum(trained.predicted, 0), rtol=1e-3, atol=1e-9):
        raise UserError(
            f"{kind} hands over a model that predicts otherwise here; choose another --regression"
        )
    return trained.spec, trained.held_out


def fit_best(task: Task, others: Sequence[str]) -> Fitted:
    """The analytic fit, or one of the others if held-out rows speak for it; the spec says by how much.

    The analytic one counts as the simplest: it knows that more tokens take more time.
    """
    analytic = without_outliers(task)
    kept = task.part(analytic.kept)
    found = {SHRUNK if task.base is not None else ANALYTIC: (analytic.spec, analytic.held_out)}

    def off() -> Floats:
        return np.array([np.abs(held_out / kept.y - 1) for _, held_out in found.values()])

    untried: dict[str, str] = {}
    for kind in others:
        least = float(off().mean(axis=1).min())
        if kind in TREES and least <= GOOD_ENOUGH:
            untried[kind] = f"not tried: the best of the others errs {100 * least:.2g} %"
            continue
        if kind in TREES and len(np.unique(kept.x[:, :2], axis=0)) < TREE_CELLS_LEAST:
            untried[kind] = f"not tried: fewer than {TREE_CELLS_LEAST} different lengths"
            continue
        try:
            found[kind] = fit_plainly(kind, kept)
        except UserError as exc:
            untried[kind] = f"not tried: {exc}"
    errors, names = off(), list(found)
    place = solve.choose(errors, tolerant=task.base is None)
    spec, held_out = found[names[place]]
    tried = {name: 100 * float(one.mean()) for name, one in zip(names, errors, strict=True)}
    return Fitted(
        {**spec, "won": names[place], "tried_mape_percent": tried, "untried": untried},
        held_out,
        analytic.kept,
    )


def fit_target(task: Task, settings: Settings) -> Fitted:
    """One quantity by the regression that is asked for."""
    kind = settings.regression if settings.base is None else settings.method
    if kind in (ANALYTIC, SHRUNK):
        return without_outliers(task)
    if kind == BEST:
        return fit_best(task, REGRESSIONS[2:])
    if kind == CHOSEN and len(np.unique(task.x[:, :2], axis=0)) >= FEW:
        return fit_best(task, CALIBRATIONS[1:])
    if kind == CHOSEN:
        spec, held_out = fit_plainly(FEW_RUNS_FORM, task)
        why = {SHRUNK: f"not tried: fewer than {FEW} different lengths"}
        tried = {FEW_RUNS_FORM: 100 * float(np.abs(held_out / task.y - 1).mean())}
        spec |= {"won": FEW_RUNS_FORM, "tried_mape_percent": tried, "untried": why}
        return Fitted(spec, held_out, np.ones(len(task.y), bool))
    return Fitted(*fit_plainly(kind, task), np.ones(len(task.y), bool))


# --- training ---


def fit_model(samples: Mapping[str, Any], rows: Sequence[int], settings: Settings) -> dict[str, Any]:
    """The model of some rows of a samples file, its intervals still to come from "held_out"."""
    chosen = np.asarray(rows)
    counts, base = np.array(samples["counts"], float)[chosen], settings.base
    _, group = np.unique(np.array(samples["group"])[chosen], return_inverse=True)
    count = int(group.max()) + 1
    if base is None and count < GROUPS_LEAST:
        raise UserError(
            f"{samples['model']}: only {count} different pairs of prompt and output length; measure at least"
            f" {GROUPS_LEAST}"
        )
    # Repeats of one cell are never in two folds.
    fold = np.random.default_rng(0).permutation(count)[group] % min(FOLDS, count)
    model: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "model": samples["model"],
        "regression": TRANSFER if base else settings.regression,
        "board": samples["board"],
        **{name: samples.get(name) for name in FACTS},
        "base": base,
        "ranges": ranges_of(counts),
        "targets": {},
        "unfitted": {},
        "outliers": [],
        "intervals": {},
    }
    held_out: dict[str, list[float | None]] = {}
    for target in [t for t in TARGETS if t in samples["targets"] and (base is None or t in base["targets"])]:
        measured = np.array(samples["measured"][target], float)[chosen]
        places = np.flatnonzero(np.isfinite(measured))
        lengths = len(np.unique(group[places]))
        if lengths == 0 or (base is None and lengths < GROUPS_LEAST):
            model["unfitted"][target] = f"measured at {lengths} pairs of lengths, of {GROUPS_LEAST} at least"
            continue
        task = make_task(target, model, counts[places], measured[places], fold[places])
        fitted = fit_target(replace(task, options=settings.designs.get(target)), settings)
        for place in chosen[places[~fitted.kept]].tolist():
            where = {"target": target, "row": place, "where": samples["where"][place]}
            model["outliers"].append({**where, "value": samples["measured"][target][place]})
        model["targets"][target] = {**fitted.spec, "rows": int(fitted.kept.sum())}
        values: list[float | None] = [None] * len(chosen)
        for place, value in zip(places[fitted.kept].tolist(), fitted.held_out.tolist(), strict=True):
            values[place] = value
        held_out[target] = values
    if not model["targets"]:
        raise UserError(
            f"{samples['model']}: no time and no energy was measured at {GROUPS_LEAST} lengths or more"
        )
    hashes = sorted(samples["row_sha256"][place] for place in rows)
    return {**model, "rows": len(rows), "groups": count, "training_rows": hashes, "held_out": held_out}


def ranges_of(counts: Floats) -> dict[str, Any]:
    """Least and greatest prompt and output; all prompt lengths where they are few."""
    lengths = counts + np.array([0, 1])
    ranges = {"low": lengths.min(axis=0).tolist(), "high": lengths.max(axis=0).tolist()}
    if len(distinct := np.unique(counts[:, 0])) <= LENGTHS_MOST:
        ranges["lengths"] = distinct.tolist()
    return ranges


def make_task(target: str, model: Mapping[str, Any], counts: Floats, measured: Floats, fold: Ints) -> Task:
    """One quantity's measurements, with the times that are fitted already and the base's predictions."""
    x = np.column_stack([counts, np.zeros((len(counts), 2))])
    for column, time in enumerate(TIMES):
        if time in model["targets"]:
            x[:, 2 + column] = predict_parts(model, counts)[time] / 1000
    base, options = None, None
    if model["base"]:
        base = predict_parts(model["base"], counts)[target]
        options = model["base"]["targets"][target].get("options")
    return Task(target, x, measured, fold, model.get("engine"), base, options)


# --- what others ask for ---


def with_interval(samples: Mapping[str, Any], rows: Sequence[int], model: dict[str, Any]) -> dict[str, Any]:
    """The model with the intervals that its held-out rows allow."""
    held_out = model.pop("held_out")
    return {**model, "intervals": intervals.intervals_of(samples, rows, held_out)}


def fit_all(samples: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The model of all rows of a samples file. Raises UserError."""
    rows = range(len(samples["counts"]))
    return with_interval(samples, rows, fit_model(samples, rows, settings))


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
