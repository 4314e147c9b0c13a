"""From measurements to trained models on disk, each with its card and, if asked, its charts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.forecasting.card import card_of
from edgebench.forecasting.cautions import cautions
from edgebench.forecasting.evaluate import HoldOut
from edgebench.forecasting.evaluate import evaluate as score_held_out
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.model_file import slug, write_model
from edgebench.forecasting.samples import list_models, samples_of
from edgebench.records.jsonl import write_whole
from edgebench.shell.text import WIDTH


@dataclass(frozen=True)
class Training:
    """How models are trained, and where they go."""

    output: Path = Path("outputs")
    regression: str = Settings().regression
    board: str | None = None
    folds: int = 10  # of a cross-validation for the card and the charts
    cross_validate: bool = False
    plots: Path | None = None


@dataclass(frozen=True)
class Made:
    """A trained model and where it stands."""

    model: Mapping[str, Any]
    path: Path
    card: Path
    drawn: Sequence[Path] = field(default=())


def models_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the models that the rows are of."""
    return sorted({str(entry["model"]) for entry in list_models(rows)})


def train_one(rows: Sequence[dict[str, Any]], name: str, asked: Training) -> Made:
    """Fit, score, write the model, its card and its charts. Raises UserError."""
    samples = samples_of(rows, name, asked.board)
    settings = Settings(asked.regression)
    folder = asked.output / f"{slug(samples['model'])}_{asked.regression}"
    path, card = folder / "models" / "model.json", folder / "model_card.md"
    model = fit_all(samples, settings)
    write_model(path, model)
    scores = None
    drawn: Sequence[Path] = ()
    if asked.cross_validate or asked.plots:
        scores, pairs = score_held_out(samples, HoldOut(folds=asked.folds, settings=settings))
        if asked.plots:
            from edgebench.forecasting.plots import draw_all  # matplotlib takes half a second

            drawn = draw_all(pairs, asked.plots / slug(samples["model"]), model)
    write_whole(card, card_of(model, scores))
    return Made(model, path, card, drawn)


def summary_of(made: Made) -> str:
    """What came of a training, in a few lines."""
    model = made.model
    lines = [
        f"{model['model']} ({model['regression']}): {model['rows']} rows, {model['groups']} cells"
        f" -> {made.path}"
    ]
    for name, interval in model["intervals"].items():
        won = chosen(model["targets"].get(name, {}))
        mape = interval["held_out_mape_percent"]
        line = f"  {name:21} held-out MAPE {mape:.3g} % (n = {interval['rows']}){won}"
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=" " * 26)
    lines += [f"  {line}" for line in cautions(model)]
    lines += [
        f"  outlier left out: {one['where']}, {one['target']} {one['value']:g}" for one in model["outliers"]
    ]
    lines += [f"  drawn: {made.drawn[0].parent}/ ({len(made.drawn)} charts)"] if made.drawn else []
    return "\n".join([*lines, f"  model card: {made.card}"])


def chosen(spec: Mapping[str, Any]) -> str:
    """Which regression won over which other, and by how much.

    >>> chosen({"won": "analytic", "tried_mape_percent": {"analytic": 0.5, "linear": 3.0}})
    '; analytic, next linear 3 %'
    >>> chosen({"won": "analytic", "tried_mape_percent": {"analytic": 0.005, "linear": 0.001}})
    '; analytic, simpler than linear 0.001 %'
    """
    others = {name: off for name, off in spec.get("tried_mape_percent", {}).items() if name != spec["won"]}
    if not others:
        return ""
    second = min(others, key=lambda name: others[name])
    mine = spec["tried_mape_percent"][spec["won"]]
    how = "next" if mine <= others[second] else "simpler than"
    return f"; {spec['won']}, {how} {second} {others[second]:.2g} %"
