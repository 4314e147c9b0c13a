"""A model of one machine + few runs of another -> a model of the other (server to board, model to model).

simple_scaling   prediction x mean of the ratios measured / predicted
median_ratio     prediction x their median
through_origin   prediction x the least-squares slope through the origin
two_parameter    prediction x ratio + constant per token: what scales, and what each token costs more
shrunk           the same, and a fit of what that leaves unexplained, as far as held-out runs ask for it;
                 or the runs alone, if held-out runs like that better
chosen           of simple_scaling, two_parameter and shrunk what held-out runs like best, per quantity:
                 the form that so few runs support (default)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.card import card_of
from edgebench.forecasting.evaluate import HoldOut, evaluate
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.model_file import read_model, slug, write_model
from edgebench.forecasting.quantities import CHOSEN, METHODS, TRANSFER
from edgebench.records.jsonl import write_whole
from edgebench.shell.progress import say

ALONE = "alone"  # the board's runs without the base


@dataclass(frozen=True)
class Calibration:
    """What is asked; names and meanings are those of the flags."""

    base: Path
    model: str
    board: str | None = None
    method: str | None = None
    scale_factor: float | None = None
    sizes: Sequence[int] = (5, 10, 20, 50)
    per_subject: bool = False
    seeds: int = 20
    output: Path = Path("outputs")


def read_base(path: Path) -> dict[str, Any]:
    """The model of the other machine."""
    base = read_model(path)
    if base.get("base"):
        raise UserError(f"{path} is itself a transfer; give the model that was trained on the server")
    return base


def curve(asked: Calibration, base: Mapping[str, Any], samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per size, method and quantity: MAPE mean, median and worst over the seeds."""
    rows = []
    for size in asked.sizes:
        for method in (*([asked.method] if asked.method else METHODS), ALONE):
            drawn = {"per_subject": size} if asked.per_subject else {"train_rows": size}
            settings = Settings() if method == ALONE else Settings(base=base, method=method)
            say(f"{size} runs{' per subject' if asked.per_subject else ''}, {method}")
            try:
                answer, _ = evaluate(
                    samples, HoldOut(split="rows", seeds=asked.seeds, settings=settings, **drawn)
                )
            except UserError as exc:
                if method != ALONE:
                    raise
                say(f"  {exc}")  # so few runs that no model of their own can be fitted
                continue
            for quantity, row in answer["quantities"].items():
                mapes = sorted(row["mape_percent_by_split"].values())
                found = {"mape_percent": mean(mapes), "mape_percent_worst": mapes[-1], "seeds": len(mapes)}
                found["mape_percent_median"] = mapes[len(mapes) // 2]
                rows.append({"size": size, "method": method, "quantity": quantity, **found})
    return rows


def format_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """A block per quantity: methods down, sizes across; mean MAPE over the seeds (worst)."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        mine = {(row["method"], row["size"]): row for row in rows if row["quantity"] == quantity}
        lines.append(f"{quantity + ', runs:':24}" + "".join(f"{size:>14}" for size in sizes))
        for method in dict.fromkeys(method for method, _ in mine):
            cells = [mine.get((method, size)) for size in sizes]
            shown = [
                "-" if row is None else f"{row['mape_percent']:.3g} ({row['mape_percent_worst']:.3g})"
                for row in cells
            ]
            lines.append(f"  {method:22}" + "".join(f"{cell:>14}" for cell in shown))
    return "\n".join([*lines, "MAPE of rows not trained on [%], mean over the draws (worst)"])


def calibrated(
    asked: Calibration, base: Mapping[str, Any], samples: Mapping[str, Any] | None
) -> tuple[Path, dict[str, Any]]:
    """Fit the transfer to all runs, or take the given factor; write model and card. File and model."""
    if samples is None:
        model = scaled_model(asked, base)
    else:
        model = fit_all(samples, Settings(base=base, method=asked.method or CHOSEN))
    folder = asked.output / f"{slug(model['model'])}_{TRANSFER}"
    path = folder / "models" / "model.json"
    write_model(path, model)
    write_whole(folder / "model_card.md", card_of(model, None))
    return path, model


def scaled_model(asked: Calibration, base: Mapping[str, Any]) -> dict[str, Any]:
    """The base times a factor the user gives: times and energies alike, no intervals."""
    spec = {
        "regressor": TRANSFER,
        "method": "manual",
        "ratio": asked.scale_factor,
        "per_token": 0.0,
        "rows": 0,
    }
    return {
        **{name: base[name] for name in ("kind", "schema_version")},
        "model": asked.model,
        "regression": TRANSFER,
        "board": asked.board,
        **{
            name: base.get(name)
            for name in ("ranges", "data", "energy_scope", "no_energy_reason", "simulated_power")
        },
        "input_tokens_known": base.get("input_tokens_known", True),
        "rows": 0,
        "groups": 0,
        "training_rows": [],
        "outliers": [],
        "intervals": {},
        "base": base,
        "targets": {target: dict(spec) for target in base["targets"]},
    }


def told(spec: Mapping[str, Any]) -> str:
    """A target's transfer in words."""
    if spec["regressor"] == TRANSFER:
        return f"base x {spec['ratio']:.5g} + {spec['per_token']:.5g} per token"
    if spec["names"][0] != "base":
        return "a fit of these runs alone"
    return f"base x {spec['coefficients'][0]:.5g}, and a fit of the rest"
