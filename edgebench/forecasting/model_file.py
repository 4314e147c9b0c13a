"""Is this JSON file a model of token2metrics.py that can be used? Says so, or what is wrong with it.

A model comes from other machines and other people. It is numbers only: nothing in it is ever executed, and
before one is applied this room has seen format, version, finite numbers, sizes, and trees that end.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.quantities import LEVELS, TARGETS
from edgebench.records.jsonl import write_whole
from edgebench.shell.calls import as_called

# Format history:
# 1 - first.
# 2 - staircases, micro-batches and prefill ramps among the options; what each regression erred; the engine.
KIND, SCHEMA_VERSION = "token2metrics_model", 2
READABLE_VERSIONS = (1, 2)
FILE_LIMIT_BYTE, TREES_MOST = 1 << 26, 5000
QUANTILES = tuple(map(str, LEVELS))
OPTIONS = {  # name -> least, most; of a list, of each
    "pad": (1, 1 << 16),
    "pads": (1, 1 << 16),
    "micro_batch": (1, 1 << 20),
    "own_level": (1, 1 << 20),
    "tau_s": (0, 3600),
    "prefill_tau_s": (1e-3, 3600),
    "ramps_s": (1e-3, 3600),
}
POWER_MOST = 4


def finite(values: Any, size: int | None = None) -> Sequence[float]:
    """The list itself if all of it are finite numbers (and it has this many); ValueError otherwise."""
    if not isinstance(values, list) or not values or size not in (None, len(values)):
        raise ValueError(f"a list of {size or 'some'} numbers was expected")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no finite number")
    return values


def check_analytic(spec: Mapping[str, Any]) -> None:
    """Edges that rise, options in bounds, one non-negative coefficient per column."""
    edges = finite(spec["edges"])
    if edges[0] != 0 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ValueError("band edges that do not rise")
    for name, value in spec["options"].items():
        least, most = OPTIONS[name]
        listed = value if isinstance(value, list) else [value]
        if any(not least <= one <= most for one in (finite(listed) if listed else ())):
            raise ValueError(f"option {name} = {value}")
    if min(finite(spec["coefficients"])) < 0:
        raise ValueError("a negative coefficient")
    finite(spec["standard_errors"], len(spec["coefficients"]))
    if spec["between_lengths"] is not None:
        finite(spec["between_lengths"], len(QUANTILES))


def check_polynomial(spec: Mapping[str, Any]) -> None:
    """A pair of small whole powers per coefficient."""
    coefficients = finite(spec["coefficients"])
    powers = spec["powers"]
    if len(powers) != len(coefficients):
        raise ValueError("not one pair of powers per coefficient")
    for pair in powers:
        if any(type(power) is not int or not 0 <= power <= POWER_MOST for power in finite(pair, 2)):
            raise ValueError(f"powers {pair}")


def check_trees(spec: Mapping[str, Any]) -> None:
    """Arrays of one length; every child comes after its parent, so that each walk ends."""
    finite([spec["start"], spec["weight"]])
    if not 0 < len(spec["trees"]) <= TREES_MOST:
        raise ValueError("number of trees")
    for tree in spec["trees"]:
        size = len(tree["left"])
        for name in ("left", "right", "feature", "threshold", "value"):
            finite(tree[name], size)
        for node, (left, right) in enumerate(zip(tree["left"], tree["right"], strict=True)):
            if left == right == -1:
                continue
            whole = all(type(number) is int for number in (left, right, tree["feature"][node]))
            if not whole or not node < min(left, right) <= max(left, right) < size:
                raise ValueError("a tree whose children do not come after it")
            if tree["feature"][node] not in (0, 1):
                raise ValueError("a tree that asks for an unknown feature")


def check_transfer(spec: Mapping[str, Any]) -> None:
    """Two numbers."""
    finite([spec["ratio"], spec["per_token"]])


CHECKS = {
    "analytic": check_analytic,
    "polynomial": check_polynomial,
    "trees": check_trees,
    "transfer": check_transfer,
}


def check_parts(model: Mapping[str, Any]) -> None:
    """Targets, ranges and intervals; KeyError, TypeError or ValueError where one is not as it should be."""
    base = model.get("base")
    if base is not None:
        if base.get("base") is not None:
            raise ValueError("a transfer of a transfer")
        check_parts(base)
    if not model["targets"] or not isinstance(model["model"], str):
        raise ValueError("no targets or no name")
    for target, spec in model["targets"].items():
        if target not in TARGETS:
            raise ValueError(f"target {target}")
        CHECKS[spec["regressor"]](spec)
        leans = spec["regressor"] == "transfer" or spec.get("names", [""])[0] == "base"
        if leans and (base is None or target not in base["targets"]):
            raise ValueError(f"nothing to transfer {target} from")
    if min(*finite(model["ranges"]["low"], 2), *finite(model["ranges"]["high"], 2)) <= 0:
        raise ValueError("ranges")
    if "lengths" in model["ranges"] and min(finite(model["ranges"]["lengths"])) <= 0:
        raise ValueError("lengths")
    check_intervals(model)


def check_intervals(model: Mapping[str, Any]) -> None:
    """Each interval's numbers."""
    for interval in model["intervals"].values():
        finite(interval["log_spread"], 3)
        finite([interval["quantiles"][level] for level in QUANTILES])
        for name in ("log2_low", "log2_high"):
            finite(interval[name], 2)


def read_model(path: Path) -> dict[str, Any]:
    """The model in a file, found usable. UserError says what is wrong with it."""
    if path.stat().st_size > FILE_LIMIT_BYTE:
        raise UserError(f"{path} is too large for a model ({path.stat().st_size} bytes)")
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise UserError(f"{path} is not JSON ({exc}); check --model-path, or train it again") from exc
    if not isinstance(model, dict) or model.get("kind") != KIND:
        trainer = as_called("token2metrics.py")
        raise UserError(f"{path} is no model of {trainer}; check --model-path, or train one")
    if model.get("schema_version") not in READABLE_VERSIONS:
        version = model.get("schema_version")
        raise UserError(f"{path} has format {version!r}, this version reads {SCHEMA_VERSION}; train it again")
    try:
        check_parts(model)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
        raise UserError(f"{path} is damaged ({type(exc).__name__}: {exc}); train it again") from exc
    return model


def write_model(path: Path, model: Mapping[str, Any]) -> None:
    """Write the model, whole or not at all, into a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(model) + "\n")


def slug(name: str) -> str:
    """A folder's name from a model's.

    >>> slug("Llama-3.2-1B Q6_K")
    'llama-3.2-1b-q6_k'
    """
    return re.sub(r"[^a-z0-9._]+", "-", name.casefold()).strip("-.") or "model"
