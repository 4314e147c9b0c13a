"""One request, or a file of them, to predictions; and a prediction in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.apply import predict
from edgebench.forecasting.cautions import cautions
from edgebench.forecasting.measurements import count, read_table
from edgebench.forecasting.trained import choose_trained
from edgebench.records.jsonl import read_jsonl

MOST_TOKENS = 999_999_999
UNITS = {"ms": "ms", "joule": "J"}
# Other words people have for token columns of a batch file.
COLUMNS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "generated_tokens"),
}
MODEL_FACTS = ("regression", "board", "no_energy_reason", "simulated_power")


@dataclass(frozen=True)
class Wanted:
    """Which trained model is asked, and for intervals of what level."""

    model: str | None
    model_path: Path = Path("outputs")
    regression: str | None = None
    level: float = 0.9


def predict_one(wanted: Wanted, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The prediction of one request, with its model's name, board and cautions."""
    model = choose_trained(wanted.model_path, wanted.model or "", wanted.regression).model
    (row,) = predict(model, [(input_tokens, output_tokens)], wanted.level)
    facts = {name: model.get(name) for name in MODEL_FACTS}
    return {"model": model["model"], **with_power(row), **facts, "cautions": cautions(model)}


def predict_file(wanted: Wanted, path: Path) -> list[dict[str, Any]]:
    """The predictions of a file's requests, in its order; a request of its own model takes that one."""
    requests = read_requests(path)
    by_model: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        name = request.get("model") or wanted.model
        if not name:
            raise UserError(f"{path}: no column model; name one model with --model")
        by_model.setdefault(name, []).append(place)
    answers: list[dict[str, Any]] = [{} for _ in requests]
    for name, places in by_model.items():
        model = choose_trained(wanted.model_path, name, wanted.regression).model
        pairs = [[requests[place][column] for column in COLUMNS] for place in places]
        facts = {key: model.get(key) for key in ("no_energy_reason", "simulated_power")}
        facts["cautions"] = cautions(model)
        for place, row in zip(places, predict(model, pairs, wanted.level), strict=True):
            answers[place] = {"model": model["model"], **with_power(row), **facts}
    return answers


def with_power(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with power_mw, the mean over the request: predicted energy over predicted time."""
    energy, time = row.get("total_energy_joule"), row.get("total_ms")
    power = energy["mean"] / time["mean"] * 1e6 if energy and time and time["mean"] > 0 else None
    return {**row, "power_mw": power}


def format_prediction(row: Mapping[str, Any]) -> str:
    """A table of at most 80 columns."""
    where = f" on {row['board']}" if row["board"] else ""
    lines = [f"{row['model']}{where}: {row['input_tokens']} tokens in, {row['output_tokens']} out"]
    for name, value in row.items():
        if isinstance(value, dict):
            bounds = "" if value["low"] is None else f"  ({value['low']:.5g} to {value['high']:.5g})"
            unit = UNITS[name.rsplit("_", 1)[1]]
            lines.append(
                f"  {name.rsplit('_', 1)[0].replace('_', ' '):16} {value['mean']:>10.5g} {unit:2}{bounds}"
            )
    if row["power_mw"] is not None:
        lines.append(f"  {'mean power':16} {row['power_mw']:>10.5g} mW")
    lines.append(f"in brackets: {row['level']:.0%} interval of one request")
    if row["extrapolated"]:
        lines.append(f"extrapolated: {' and '.join(row['extrapolated'])} outside the measured range")
    return "\n".join([*lines, *row["cautions"]])


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Token counts, and models where there are some, of a table or of JSON lines. Raises UserError."""
    rows = numbered_rows(path)
    if not rows:
        raise UserError(f"{path} holds no requests; it needs input_tokens and output_tokens")
    requests, used = [], [name for names in COLUMNS.values() for name in names]
    for number, row in rows:
        request: dict[str, Any] = {"model": row.get("model")}
        for column, names in COLUMNS.items():
            value = next((row[name] for name in names if name in row), None)
            if value is None:
                near = difflib.get_close_matches(column, [name for name in row if name not in used], 1, 0.7)
                hint = f"; is it {near[0]}? Rename that column" if near else ""
                raise UserError(f"{path} request {number}: no {column} ({', '.join(names)}){hint}")
            tokens = count(value)
            if not tokens or tokens > MOST_TOKENS:
                raise UserError(f"{path} request {number}: {column} is {value!r}, not a number above 0")
            request[column] = tokens
        requests.append(request)
    return requests


def numbered_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of each request in a file: read as the tables of measurements are."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        lines = list(read_jsonl(path))
        for place, row in lines:
            if row is None:
                raise UserError(f"{path} line {place} is no JSON object; mend it or take it out")
        return list(enumerate((row for _, row in lines if row is not None), 1))
    return list(enumerate(read_table(path), 1))
