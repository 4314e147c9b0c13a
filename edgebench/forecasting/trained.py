"""The trained models in a folder, and which of them a name means."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.quantities import REGRESSIONS
from edgebench.forecasting.model_file import read_model
from edgebench.forecasting.samples import find_model

LOG = logging.getLogger("token2metrics")


@dataclass(frozen=True)
class Trained:
    """A model and the file it stands in."""

    path: Path
    model: dict[str, Any]


def trained_models(path: Path) -> dict[str, Trained]:
    """Label -> all models in a file or below a folder; a broken one is named and passed over."""
    if not path.exists():
        raise UserError(f"no trained models at {path}; train some, or name them with --model-path")
    files = [path] if path.is_file() else sorted(path.rglob("model.json"))
    found: dict[str, Trained] = {}
    for file in files:
        try:
            model = read_model(file)
        except UserError as exc:
            if path.is_file():
                raise
            LOG.warning("%s", exc)
            continue
        found[f"{model['model']} ({model['regression']})"] = Trained(file, model)
    if not found:
        raise UserError(f"no trained model below {path}; train one first, or see --model-path")
    return found


def choose_trained(path: Path, name: str, regression: str | None = None) -> Trained:
    """The one trained model a name means; analytic where several regressions of it are there."""
    found = trained_models(path)
    names = sorted({label.rsplit(" (", 1)[0] for label in found})
    name = find_model(name, names)
    kinds = [kind for kind in (*REGRESSIONS, "transfer") if f"{name} ({kind})" in found]
    kind = regression or kinds[0]
    if kind not in kinds:
        raise UserError(f"{name} was not trained with {kind}; there is {', '.join(kinds)}")
    return found[f"{name} ({kind})"]
