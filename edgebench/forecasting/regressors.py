"""The regressions beside the analytic one, as plain numbers: token counts in, coefficients or trees out.

KIND is linear, polynomial, random_forest or xgboost on x = (prompt tokens, decode steps), or one of the
transfers on x = (base prediction, tokens): simple_scaling (mean ratio), median_ratio, through_origin (least
squares), two_parameter (y = ratio base + c tokens, relative errors). y > 0 in any unit. held_out is what a
fit without the row's fold says of it. Trees leave as arrays, so that prediction needs neither library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.forecasting.apply import PER_THOUSAND

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TREES, TREE_FOLDS = 60, 5  # a forest per fold takes its time
BOOSTED = {"max_depth": 4, "eta": 0.1, "seed": 0, "nthread": 1}
BOOST_ROUNDS = 200
STAY_NEAR = 1e-3  # how strongly the two-parameter transfer holds to plain scaling, per row

# A trained regression: its plain numbers, and what the library itself predicts for x (n, 2) -> (n,).
Trained = tuple[dict[str, Any], Callable[[Any], Any]]


@dataclass(frozen=True)
class Regression:
    """A trained regression."""

    spec: dict[str, Any]  # its plain numbers
    predicted: Floats  # (n,): what the library itself says of its training rows
    held_out: Floats  # (n,): what a fit without the row's fold says of it


def train_polynomial(x: Floats, y: Floats, degree: int) -> Trained:
    """Least squares on all products of a and b up to a degree, weighted for relative errors."""
    powers = np.array([(a, total - a) for total in range(degree + 1) for a in range(total, -1, -1)])

    def columns(new: Floats) -> Floats:
        return np.asarray(np.prod((new[:, None, :] / PER_THOUSAND) ** powers[None], axis=2))

    solved = np.linalg.lstsq(columns(x) / y[:, None], np.ones(len(y)), rcond=None)[0]
    spec = {"regressor": "polynomial", "powers": powers.tolist(), "coefficients": solved.tolist()}
    return spec, lambda new: np.asarray(columns(new) @ solved)


def train_forest(x: Floats, y: Floats) -> Trained:
    """Random forest on log y: errors of short and long requests weigh the same."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=TREES, random_state=0, n_jobs=1).fit(x, np.log(y))
    trees = []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        arrays = {"left": tree.children_left, "right": tree.children_right, "feature": tree.feature}
        arrays |= {"threshold": tree.threshold, "value": tree.value[:, 0, 0]}
        trees.append({name: array.tolist() for name, array in arrays.items()})
    spec = {"regressor": "trees", "start": 0.0, "weight": 1 / len(trees), "trees": trees}
    return spec, lambda new: np.exp(forest.predict(new))


def train_boosted(x: Floats, y: Floats) -> Trained:
    """XGBoost on log y, from its own JSON."""
    import xgboost

    logs = np.log(y)
    settings = {**BOOSTED, "base_score": float(logs.mean())}
    booster = xgboost.train(settings, xgboost.DMatrix(x, label=logs), num_boost_round=BOOST_ROUNDS)
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    trees = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        # xgboost sends x < threshold to the left, our rule is x <= threshold: one float32 step below.
        below = np.nextafter(np.asarray(tree["split_conditions"], np.float32), np.float32(-np.inf))
        leaf = np.asarray(tree["left_children"]) == -1
        arrays = {name: [int(node) for node in tree[f"{name}_children"]] for name in ("left", "right")}
        arrays["feature"] = [int(feature) for feature in tree["split_indices"]]
        arrays["threshold"] = np.where(leaf, -2.0, below.astype(float)).tolist()
        arrays["value"] = np.where(leaf, tree["split_conditions"], 0.0).tolist()
        trees.append(arrays)
    spec = {"regressor": "trees", "start": settings["base_score"], "weight": 1.0, "trees": trees}
    return spec, lambda new: np.exp(booster.predict(xgboost.DMatrix(new)))


def two_parameters(x: Floats, y: Floats) -> tuple[float, float]:
    """ratio, constant per token of y ~ ratio base + constant tokens, squared relative errors.

    With one length only, the two cannot be told apart: a weak pull towards plain scaling decides.
    """
    typical = float(np.median(x[:, 0] / np.maximum(x[:, 1], 1)))
    near = STAY_NEAR * math.sqrt(len(y)) * np.array([[1.0, 0.0], [0.0, 1 / max(typical, 1e-12)]])
    aim = np.concatenate([np.ones(len(y)), near @ np.array([float((y / x[:, 0]).mean()), 0.0])])
    solved = np.linalg.lstsq(np.vstack([x / y[:, None], near]), aim, rcond=None)[0]
    return float(solved[0]), float(solved[1])


def train_transfer(method: str, x: Floats, y: Floats) -> Trained:
    """A base prediction of another machine, scaled to this one."""
    if not (x[:, 0] > 0).all():
        raise UserError("the base model predicts nothing above zero at some length; train it again")
    ratios = y / x[:, 0]
    found = {
        "simple_scaling": lambda: (float(ratios.mean()), 0.0),
        "median_ratio": lambda: (float(np.median(ratios)), 0.0),
        "through_origin": lambda: (float(x[:, 0] @ y / (x[:, 0] @ x[:, 0])), 0.0),
        "two_parameter": lambda: two_parameters(x, y),
    }[method]()
    spec = {"regressor": "transfer", "method": method, "ratio": found[0], "per_token": found[1]}
    return spec, lambda new: new @ np.array(found)


TRAINERS: dict[str, Callable[[Any, Any], Trained]] = {
    "linear": lambda x, y: train_polynomial(x, y, 1),
    "polynomial": lambda x, y: train_polynomial(x, y, 2),
    "random_forest": train_forest,
    "xgboost": train_boosted,
    "simple_scaling": lambda x, y: train_transfer("simple_scaling", x, y),
    "median_ratio": lambda x, y: train_transfer("median_ratio", x, y),
    "through_origin": lambda x, y: train_transfer("through_origin", x, y),
    "two_parameter": lambda x, y: train_transfer("two_parameter", x, y),
}


def train(kind: str, x: Floats, y: Floats, fold: Ints) -> Regression:
    """Train on all rows x (n, 2), y (n,), and again without each fold (n,). Raises UserError."""
    try:
        return _train(kind, x, y, fold)
    except ImportError as exc:
        raise UserError(str(exc)) from exc
    except (ValueError, TypeError) as exc:
        raise UserError(f"{kind} cannot be trained on these rows ({exc!r})") from exc


def _train(kind: str, x: Floats, y: Floats, fold: Ints) -> Regression:
    """train, with the errors of its libraries."""
    trainer = TRAINERS[kind]
    if kind in ("random_forest", "xgboost"):
        fold = fold % TREE_FOLDS
    spec, predict = trainer(x, y)
    predicted = np.asarray(predict(x), float)
    held_out = np.empty_like(y)
    for place in np.unique(fold):
        test = fold == place
        # One group of rows only: nothing is left to hold out, and no interval will be made of it.
        held_out[test] = predicted[test] if test.all() else trainer(x[~test], y[~test])[1](x[test])
    return Regression(spec, predicted, held_out)
