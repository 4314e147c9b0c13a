"""How good are the predictions on rows the model has not seen? Errors, coverage, per phase and total.

  split cells     each cell (same prompt and output length) is held out once, in `folds` parts
  split lengths   each prompt length is held out once, with all its rows; many lengths in `folds` parts
  split rows      `train_rows` random rows train, all cells without one of them test; `seeds` times
Of a trained model, its predictions of the rows it was not fitted on; if it was fitted on all of them,
its kind of regression is held out by the split instead, and the answer says so. Repeats of a cell never stand
on both sides. A row that most fits it took part in call an outlier is named, and left out of all scores but
mape_all_percent.

The answer is {"how", "rows", "quantities": {name: scores}, "outliers"}; the pairs are one row per held-out
prediction. Errors are relative to the measurement, in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgebench.errors import UserError
from edgebench.forecasting import fit
from edgebench.forecasting.apply import predict
from edgebench.forecasting.cautions import few_cells
from edgebench.forecasting.quantities import BEST, BOUNDS, TARGETS


@dataclass(frozen=True)
class HoldOut:
    """What is held out, and how the predictions of it are made."""

    split: str = "cells"  # cells, lengths, rows
    folds: int = 10  # parts of split cells, and of many lengths
    seed: int = 0  # of these parts
    train_rows: int = 50  # of split rows
    per_subject: int | None = None  # of split rows: so many rows of each subject instead
    seeds: int = 10  # draws of split rows
    level: float = 0.9  # of the intervals
    settings: fit.Settings = field(default_factory=fit.Settings)


# --- splits ---


def cell_splits(samples: Mapping[str, Any], folds: int, seed: int) -> list[dict[str, Any]]:
    """Every cell in one of `folds` test parts."""
    group = np.array(samples["group"])
    cells = int(group.max()) + 1
    part = np.random.default_rng(seed).permutation(cells)[group] % min(folds, cells)
    return [make_split(f"part {place + 1}", part == place) for place in range(int(part.max()) + 1)]


def length_splits(samples: Mapping[str, Any], folds: int, seed: int) -> list[dict[str, Any]]:
    """Every prompt length once in a test; each by itself where they are few, else in `folds` parts."""
    lengths = np.array([prompt for prompt, _ in samples["counts"]])
    distinct, place = np.unique(lengths, return_inverse=True)
    if len(distinct) <= fit.LENGTHS_MOST:
        return [make_split(f"{length} prompt tokens", lengths == length) for length in distinct]
    part = np.random.default_rng(seed).permutation(len(distinct))[place.reshape(-1)] % folds
    return [make_split(f"prompt lengths, part {one + 1}", part == one) for one in range(folds)]


def row_splits(samples: Mapping[str, Any], wanted: HoldOut) -> list[dict[str, Any]]:
    """Random rows train, train_rows of all or per_subject of each; the test is every cell none is of."""
    group = np.array(samples["group"])
    _, subject = np.unique([str(name) for name in samples["subject"]], return_inverse=True)
    if wanted.train_rows >= len(group) and not wanted.per_subject:
        raise UserError(f"--train-rows {wanted.train_rows}: there are only {len(group)} rows")
    splits = []
    for seed in range(wanted.seeds):
        order = np.random.default_rng(seed).permutation(len(group))
        train = order[: wanted.train_rows]
        if wanted.per_subject:
            of_each = [order[subject[order] == one][: wanted.per_subject] for one in np.unique(subject)]
            train = np.concatenate(of_each)
        test = ~np.isin(group, group[train])
        splits.append(
            {"split": f"seed {seed}", "train": train.tolist(), "test": np.flatnonzero(test).tolist()}
        )
    return splits


def make_split(name: str, test: Any) -> dict[str, Any]:
    """A split from a mask of test rows."""
    return {"split": name, "train": np.flatnonzero(~test).tolist(), "test": np.flatnonzero(test).tolist()}


# --- the fits ---


def splits_of(samples: Mapping[str, Any], wanted: HoldOut) -> list[dict[str, Any]]:
    """The splits that are asked for, each {"split": its name, "train": rows, "test": rows}."""
    splits = {
        "cells": lambda: cell_splits(samples, wanted.folds, wanted.seed),
        "lengths": lambda: length_splits(samples, wanted.folds, wanted.seed),
        "rows": lambda: row_splits(samples, wanted),
    }[wanted.split]()
    splits = [split for split in splits if split["train"] and split["test"]]
    if not splits:
        raise UserError("nothing to hold out: all rows are of one cell; measure other lengths")
    return splits


def crossed(samples: Mapping[str, Any], wanted: HoldOut, fits: fit.Settings) -> list[dict[str, Any]]:
    """Predictions of each split's test rows by a model of its training rows."""
    return fit.cross(samples, splits_of(samples, wanted), fits, wanted.level)


def unseen(samples: Mapping[str, Any], model: Mapping[str, Any], level: float) -> list[dict[str, Any]]:
    """A trained model's predictions of the rows it was not fitted on, as one split; none if there are none.

    Their cells may have been seen; rows of the same values in another file count as seen.
    """
    known = set(model["training_rows"])
    places = [place for place, digest in enumerate(samples["row_sha256"]) if digest not in known]
    if not places:
        return []
    pairs = [[samples["counts"][place][0], samples["counts"][place][1] + 1] for place in places]
    rows = predict(model, pairs, level)
    predicted = {
        name: {bound: [row[name][bound] for row in rows] for bound in BOUNDS}
        for name in TARGETS
        if name in rows[0]
    }
    return [{"split": "rows the model has not seen", "test": places, "outliers": [], "predicted": predicted}]


# --- scores ---


def make_pairs(samples: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per held-out prediction whose quantity was measured."""
    named = outliers_of(answers)
    pairs = []
    for answer in answers:
        for name, found in answer["predicted"].items():
            for at, place in enumerate(answer["test"]):
                measured, prompt = samples["measured"][name][place], samples["counts"][place]
                if measured is None:
                    continue
                pair = {"split": answer["split"], "quantity": name, "row": place, "measured": measured}
                pair |= {
                    "input_tokens": prompt[0],
                    "decode_steps": prompt[1],
                    "group": samples["group"][place],
                }
                pair |= {bound: None if values is None else values[at] for bound, values in found.items()}
                pairs.append(pair | {"outlier": (name, place) in named})
    return pairs


def outliers_of(answers: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """(quantity, row) that at least half of the fits it could be in left out."""
    votes = Counter((o["target"], o["row"]) for answer in answers for o in answer["outliers"])
    tested = Counter(place for answer in answers for place in answer["test"])
    return {
        (target, row)
        for (target, row), times in votes.items()
        if times >= max(1, (len(answers) - tested[row]) / 2)
    }


def score(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of one quantity: errors in percent of the measurement, RMSE in its unit, coverage in percent."""
    kept = [pair for pair in pairs if not pair["outlier"]]
    every = np.array([[pair["measured"], pair["mean"]] for pair in pairs])
    measured, mean = np.array([[pair["measured"], pair["mean"]] for pair in kept]).T
    off = 100 * np.abs(mean / measured - 1)
    bounds = [
        (p["low"] <= p["measured"] <= p["high"], p["high"] - p["low"], p)
        for p in kept
        if p["low"] is not None
    ]
    spread = float(((measured - measured.mean()) ** 2).sum())
    by_split = {split: [] for split in dict.fromkeys(pair["split"] for pair in kept)}  # type: ignore[var-annotated]
    for pair, error in zip(kept, off, strict=True):
        by_split[pair["split"]].append(error)
    mapes = [float(np.mean(errors)) for errors in by_split.values()]
    # A net energy may be predicted as 0: its interval has no share of that.
    halves = [width / 2 / shown["mean"] for _, width, shown in bounds if shown["mean"] > 0]
    return {
        "n": len(kept),
        "cells": len({pair["group"] for pair in kept}),
        "mape_percent": float(off.mean()),
        "median_ape_percent": float(np.median(off)),
        "rmse": float(np.sqrt(((mean - measured) ** 2).mean())),
        "r2": 1 - float(((mean - measured) ** 2).sum()) / spread if spread > 0 else None,
        "coverage_percent": 100 * float(np.mean([b[0] for b in bounds])) if bounds else None,
        "half_width_percent": 100 * float(np.mean(halves)) if halves else None,
        "mape_percent_by_split": dict(zip(by_split, mapes, strict=True)),
        "mape_all_percent": float(100 * np.mean(np.abs(every[:, 1] / every[:, 0] - 1))),
    }


def evaluate(
    samples: Mapping[str, Any], wanted: HoldOut, model: Mapping[str, Any] | None = None, where: str = ""
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything: answer and pairs. `model` is scored instead of fits, `where` its file. Raises UserError."""
    how, answers, fits = "", [], wanted.settings
    if model is not None:
        if model["model"].casefold() != samples["model"].casefold():
            raise UserError(f"{where} is a model of {model['model']}, the rows are of {samples['model']}")
        answers = unseen(samples, model, wanted.level)
        how = "the model in the file, on rows it was not fitted on"
        if not answers:
            fits = replace(fits, regression=BEST if model["base"] else model["regression"])
            how = f"all rows trained the model in the file, so {fits.regression} models were fitted anew: "
    if not answers:
        answers = crossed(samples, wanted, fits)
        how += f"{wanted.split} held out, {len(answers)} fits"
    pairs = make_pairs(samples, answers)
    scores = {name: score(mine) for name in TARGETS if (mine := [p for p in pairs if p["quantity"] == name])}
    named = [
        {"quantity": name, "where": samples["where"][row], "value": samples["measured"][name][row]}
        | {"input_tokens": samples["counts"][row][0], "output_tokens": samples["counts"][row][1] + 1}
        for name, row in sorted(outliers_of(answers))
    ]
    facts = {name: samples[name] for name in ("model", "board", "no_energy_reason", "simulated_power")}
    answer = {**facts, "how": how, "regression": fits.regression, "level": wanted.level}
    return {**answer, "rows": len(samples["counts"]), "quantities": scores, "outliers": named}, pairs


# --- output ---


def shown(value: float | None) -> str:
    """Three figures, or a dash."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def format_table(answer: Mapping[str, Any]) -> str:
    """At most 80 columns."""
    lines = [f"{answer['model']}{' on ' + answer['board'] if answer['board'] else ''}", answer["how"]]
    lines.append(
        f"{'':20} {'n':>6} {'MAPE %':>7} {'median %':>8} {'RMSE':>8} {'R2':>8} {'cover %':>7} {'± %':>6}"
    )
    for name, row in answer["quantities"].items():
        r2 = "-" if row["r2"] is None else f"{row['r2']:.5f}"
        cells = [shown(row[key]) for key in ("mape_percent", "median_ape_percent", "rmse")]
        last = [shown(row[key]) for key in ("coverage_percent", "half_width_percent")]
        first = f"{name:20} {row['n']:>6} {cells[0]:>7} {cells[1]:>8} {cells[2]:>8}"
        lines.append(f"{first} {r2:>8} {last[0]:>7} {last[1]:>6}")
    for one in answer["outliers"]:
        lines.append(
            f"outlier, not scored: {one['where']}, {one['input_tokens']} tokens in,"
            f" {one['output_tokens']} out: {one['quantity']} {shown(one['value'])}"
        )
    counted = [row["cells"] for row in answer["quantities"].values() if row["coverage_percent"] is not None]
    lines += [told] if counted and (told := few_cells(min(counted))) else []
    if answer["no_energy_reason"]:
        lines.append(f"no energy: {answer['no_energy_reason']}")
    if answer["simulated_power"]:
        lines.append("energies are of simulated power, not of a measurement")
    return "\n".join(
        [*lines, f"cover: rows inside their {answer['level']:.0%} interval, ± % of the prediction"]
    )
