"""The trained models in a folder, and which of them a name means.

A folder may hold many models, some of megabytes: only the beginning of each file is read to find the one that
is meant, and that one alone is checked.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.model_file import KIND, read_model
from edgebench.forecasting.names import find_model
from edgebench.forecasting.quantities import REGRESSIONS, TRANSFER

LOG = logging.getLogger("token2metrics")
HEAD_BYTE = 4096  # kind, name and regression stand at the beginning of a file
KINDS = (*REGRESSIONS, TRANSFER)  # the first one there is, if no other is asked for


@dataclass(frozen=True)
class Trained:
    """A model and the file it stands in."""

    path: Path
    model: dict[str, Any]


def label(name: str, regression: str) -> str:
    """How a model is listed."""
    return f"{name} ({regression})"


def read_head(path: Path) -> tuple[str, str]:
    """Name and regression of the model in a file. UserError where it is none."""
    with path.open(encoding="utf-8", errors="replace") as text:
        head = text.read(HEAD_BYTE)
    found = {
        key: re.search(rf'"{key}": ("(?:[^"\\\\]|\\\\.)*")', head) for key in ("kind", "model", "regression")
    }
    if all(found.values()) and json.loads(found["kind"][1]) == KIND:  # type: ignore[index]
        return json.loads(found["model"][1]), json.loads(found["regression"][1])  # type: ignore[index]
    model = read_model(path)  # a file of an earlier version names itself at its end
    return model["model"], model["regression"]


def trained_models(path: Path) -> dict[str, Path]:
    """Label -> file of all models in a file or below a folder; a broken one is named and passed over."""
    if not path.exists():
        raise UserError(f"no trained models at {path}; train some, or name them with --model-path")
    files = [path] if path.is_file() else sorted(path.rglob("model.json"))
    found: dict[str, Path] = {}
    for file in files:
        try:
            found[label(*read_head(file))] = file
        except UserError as exc:
            if path.is_file():
                raise
            LOG.warning("%s", exc)
    if not found:
        raise UserError(f"no trained model below {path}; train one first, or see --model-path")
    return found


def choose_trained(path: Path, name: str, regression: str | None = None) -> Trained:
    """The one trained model a name means; the best where several regressions of it are there."""
    found = trained_models(path)
    name = find_model(name, sorted({one.rsplit(" (", 1)[0] for one in found}))
    kinds = [kind for kind in KINDS if label(name, kind) in found]
    kind = regression or kinds[0]
    if kind not in kinds:
        raise UserError(f"{name} was not trained with {kind}; there is {', '.join(kinds)}")
    file = found[label(name, kind)]
    return Trained(file, read_model(file))
