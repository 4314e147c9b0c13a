"""Tidy rows -> the samples one model is fitted on: which row may teach which time or energy.

Takes the rows of measurements.py and the name of a model as found in them (or a part of it: 8B, Q4_0), and
makes one object: counts (prompt tokens, decode steps), group (cell of repeats), the measured values
per target or null, the targets worth fitting, and where all of it comes from. Left out of energy: rows too
short for their sensor, energies that are no measurement of that request, and energies not above zero (no
relative errors there). A total is fitted by itself only where its phases were not told apart as often.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.names import SIZE, find_model, is_part, plain
from edgebench.forecasting.quantities import PARTS, TARGETS

LOG = logging.getLogger("token2metrics")
NO_ENERGY = {
    "too_short_for_sensor": "windows too short for their sensor",
    "few_power_samples": "fewer than five power samples in the window",
    "energy_not_per_request": "energies that were not measured per request",
    "power_lost": "the power source died",
    "negative_energy": "less than idle",
    "zero_total": "a sensor that printed 0",
}
# A phase known at this share of the rows or more is fitted, instead of the total.
PHASES_ENOUGH = 2 / 3


def choose_rows(rows: Sequence[dict[str, Any]], asked: str, board: str | None) -> list[dict[str, Any]]:
    """The rows of one model on one board, energies of one kind."""
    names = sorted({str(row["model"]) for row in rows})
    if len(names) == 1 and all("named_after_file" in row["flags"] for row in rows):
        rows, names = named_as_asked(rows, names[0], asked)
    name = find_model(asked, names)
    mine = [row for row in rows if row["model"] == name]
    boards = sorted({str(row["board"]) for row in mine if row["board"]})
    if board:
        mine = [row for row in mine if row["board"] == board]
        if not mine:
            raise UserError(
                f"{name} was not measured on {board}; --board takes {', '.join(boards) or 'none'}"
            )
    elif len(boards) > 1:
        raise UserError(f"{name} was measured on {' and '.join(boards)}; name one with --board")
    unknown = sorted({str(row.get("source")) for row in mine if not row["board"]})
    if unknown and len(unknown) + len(boards) > 1:
        said = f"{', '.join(unknown)} name no board: all rows of {name} are taken to be of one machine"
        LOG.info("caution: %s", said)
    scopes = sorted({str(row["energy_scope"]) for row in mine if may_teach_energy(row)})
    if len(scopes) > 1:
        raise UserError(
            f"energies of {name} are of different kinds ({'; '.join(scopes)}) and cannot be one model;"
            " give these files apart"
        )
    return mine


def named_as_asked(
    rows: Sequence[dict[str, Any]], stem: str, asked: str
) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """One file without a name, and the name asked for: it is the file's, unless that says another size."""
    sizes, wanted = SIZE.findall(plain(stem)), SIZE.findall(plain(asked))
    if any(is_part(part, plain(stem)) for part in [plain(asked)]) or (sizes and wanted):
        return rows, [stem]
    LOG.info("the data names no model; all of it is taken to be of %s", asked)
    return [{**row, "model": asked} for row in rows], [asked]


def may_teach_energy(row: Mapping[str, Any]) -> bool:
    """Whether the row's energies, if it has any, are measurements of this request."""
    has = any(row[name] is not None for name in TARGETS if "energy" in name)
    return has and not set(row["flags"]) & set(NO_ENERGY)


def measured_value(row: Mapping[str, Any], target: str) -> float | None:
    """The value a fit or an evaluation may use, or None."""
    value = row[target]
    if value is None and target in PARTS:
        parts = [measured_value(row, part) for part in PARTS[target]]
        value = None if None in parts else sum(part for part in parts if part is not None)
    if value is None or value <= 0:
        return None
    if target in ("decode_ms", "decode_energy_joule") and row["decode_steps"] == 0:
        return None
    if "energy" in target and not may_teach_energy(row):
        return None
    if "assumed_input_tokens" in row["flags"] and not target.startswith("decode"):
        return None
    return float(value)


def fitted_targets(measured: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Phases where they were told apart often enough, else the total."""
    known = {target: sum(value is not None for value in values) for target, values in measured.items()}
    wanted = {target for target, times in known.items() if times}
    for total, parts in PARTS.items():
        if min(known[part] for part in parts) >= PHASES_ENOUGH * known[total]:
            wanted.discard(total)
        elif "energy" in total:
            wanted -= set(parts)
    return [target for target in TARGETS if target in wanted]


def samples_of(rows: Sequence[dict[str, Any]], asked: str, board: str | None = None) -> dict[str, Any]:
    """The samples of the model that is asked for. Raises UserError."""
    return make_samples(choose_rows(rows, asked, board))


def make_samples(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The samples file of one model's rows."""
    measured = {target: [measured_value(row, target) for row in rows] for target in TARGETS}
    groups = {name: place for place, name in enumerate(sorted({row["group"] for row in rows}))}
    scopes = sorted({str(row["energy_scope"]) for row in rows if may_teach_energy(row)})
    has_energy = any(value is not None for t, values in measured.items() if "energy" in t for value in values)
    boards = sorted({str(row["board"]) for row in rows if row["board"]})
    files = {str(row["source"]): row.get("source_sha256") for row in rows}
    return {
        "kind": "token2metrics_samples",
        "model": rows[0]["model"],
        "board": boards[0] if boards else None,
        "engine": engine_of(rows),
        "input_tokens_known": not all("unknown_input_tokens" in row["flags"] for row in rows),
        "data": [{"file": name, "sha256": digest} for name, digest in sorted(files.items())],
        "energy_scope": scopes[0] if has_energy and scopes else None,
        "no_energy_reason": None if has_energy else why_no_energy(rows),
        "simulated_power": has_energy and any("simulated_power" in row["flags"] for row in rows),
        "counts": [[row["input_tokens"], row["decode_steps"]] for row in rows],
        "group": [groups[row["group"]] for row in rows],
        "subject": [row.get("subject") for row in rows],
        "row_sha256": [row["row_sha256"] for row in rows],
        "where": [f"{row['source']} row {row['source_row']}" for row in rows],
        "measured": measured,
        "targets": fitted_targets(measured),
    }


def engine_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The engine that all rows name; None where they name none or several."""
    engines = {row.get("engine") for row in rows}
    return engines.pop() if len(engines) == 1 else None


def why_no_energy(rows: Sequence[Mapping[str, Any]]) -> str:
    """What keeps all energies of these rows out."""
    having = [row for row in rows if any(row[name] is not None for name in TARGETS if "energy" in name)]
    if not having:
        return "no energy was measured"
    flags = Counter(flag for row in having for flag in row["flags"] if flag in NO_ENERGY)
    return NO_ENERGY[flags.most_common(1)[0][0]] if flags else "no energy above zero"


def list_models(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What can be fitted: one entry per model and board."""
    pairs = Counter((str(row["model"]), row["board"]) for row in rows)
    return [{"model": model, "board": board, "rows": times} for (model, board), times in pairs.items()]
