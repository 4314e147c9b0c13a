"""Measurements of any supported kind -> tidy rows, one unit per quantity.

Reads run records of the collector (.jsonl, .jsonl.gz), CSV, Excel and JSON tables of requests or of sweeps
(columns under the names in QUANTITIES, whatever their unit), and its own rows. One row is one request:

  model, board, source, source_row, group   what was measured where; group: rows of one group are repeats
  input_tokens, output_tokens, decode_steps prompt and answer; the first token belongs to the prefill, so
                                            decode_ms is the time of output_tokens - 1 steps, one more where
                                            the model ended its text itself
  prefill_ms, decode_ms, total_ms
  prefill_energy_joule, decode_energy_joule, total_energy_joule, energy_scope
  flags                                     why a row is kept out of a fit, see README
Missing is null. A time without a unit in its name (`ttft`, `decode`) gets the unit that agrees with the row's
tokens per second or total.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.names import file_names, plain
from edgebench.forecasting.quantities import LLAMA_CPP, UNKNOWN_INPUT
from edgebench.records.csv_text import rows_of
from edgebench.records.environment import environment_path
from edgebench.records.jsonl import read_jsonl, sha256_of
from edgebench.records.run import counts
from edgebench.shell.calls import as_called

LOG = logging.getLogger("token2metrics")
# Quantity -> (column, factor to our unit). The first column that is there counts.
QUANTITIES: dict[str, tuple[tuple[str, float], ...]] = {
    "input_tokens": (("input_tokens", 1), ("prompt_tokens", 1), ("n_prompt", 1)),
    "output_tokens": (
        ("output_tokens", 1), ("generated_tokens", 1), ("completion_tokens", 1), ("gen_tokens", 1),
        ("n_gen", 1),
    ),
    "prefill_ms": (
        ("ttft_ms", 1), ("prefill_ms", 1), ("prefill_time_ms", 1), ("ttft_s", 1e3), ("prefill_s", 1e3),
        ("prefill_time_s", 1e3),
    ),
    "decode_ms": (("decode_ms", 1), ("decode_time_ms", 1), ("decode_time_s", 1e3), ("decode_s", 1e3)),
    "total_ms": (
        ("latency_ms", 1), ("total_latency_ms", 1), ("total_time_ms", 1), ("total_ms", 1), ("latency_s", 1e3),
        ("total_latency_s", 1e3), ("total_time_s", 1e3), ("total_s", 1e3),
    ),
    "tpot_ms": (("tpot_ms", 1), ("itl_ms", 1), ("tpot_s", 1e3), ("itl_s", 1e3)),
    "prefill_energy_joule": (
        ("energy_prefill_joule", 1),
        ("prefill_energy_joule", 1),
        ("prefill_energy_j", 1),
        ("prefill_energy_mj", 1e-3),
    ),
    "decode_energy_joule": (
        ("energy_decode_joule", 1),
        ("decode_energy_joule", 1),
        ("decode_energy_j", 1),
        ("decode_energy_mj", 1e-3),
        ("avg_decode_energy", 1),
    ),
    "total_energy_joule": (
        ("energy_joule", 1),
        ("total_energy_joule", 1),
        ("total_energy_j", 1),
        ("total_energy_mj", 1e-3),
        ("energy_j", 1),
        ("energy_mj", 1e-3),
    ),
}  # fmt: skip
# Columns that carry no unit: seconds in some logs, milliseconds in others. `unit_of` finds out.
UNITLESS = {
    "prefill_ms": ("ttft", "prefill"),
    "decode_ms": ("decode_time", "decode"),
    "total_ms": ("inference_time",),
}
NAMES = ("model_name", "model", "model_id")
BOARDS = ("device_name", "board", "device")
ENGINES = ("framework", "engine", "backend")
SUBJECTS = ("subject", "subset", "category")  # questions of one kind; samples are drawn per subject
# Rails of the sweeps that publish powers beside energies [mW]; without energies, power x time gives them.
RAIL_MW = {
    "prefill_energy_joule": ("pp_total_mw", "pp_dram_mw"),
    "decode_energy_joule": ("dec_total_mw", "dec_dram_mw"),
}
# Tables of a 1 Hz tegrastats log with whole-second stamps say so by these columns.
ONE_HERTZ = {"energy_per_token_j", "energy_per_token", "monitoring_time"}
MEAN_POWER_W = "avg_power_w"
# A log of one power reading per line, whose request is named with its lengths: …_in1024_out1_…
POWER_LOG = {"power_w", "elapsed_seconds", "subject"}
LOGGED_LENGTHS = re.compile(r"(?:^|_)in(\d+)_out(\d+)(?:_|$)")
PARALLEL = ("ps_factor", "parallel_scaling", "n_parallel")  # answers that are decoded together
TIMES = ("prefill_ms", "decode_ms", "total_ms")
SECONDS_AT_MOST = 60.0
ENERGIES = ("prefill_energy_joule", "decode_energy_joule", "total_energy_joule")
MOST = 1e15  # of any quantity in our units: thirty thousand years in ms; beyond it stands no measurement
NEARLY_SURE = 0.85  # likeness of a column's name to one we read
UNNAMED = "model"  # of a table that names none, until its file does
# Both spellings, because a delimiter is found by the header as it stands in the file.
KNOWN_COLUMNS = frozenset(
    form(name)
    for name in (
        *(name for places in QUANTITIES.values() for name, _ in places),
        *(name for names in UNITLESS.values() for name in names),
        *NAMES,
        *SUBJECTS,
    )
    for form in (str.lower, str.upper, str.title)
)
BLANKS = ("", "-", "–", "nan", "na", "n/a", "#n/a", "null", "none")
SAMPLES_LEAST = 2  # a window shorter than two sample periods holds no measurement of its energy


@dataclass(frozen=True)
class Reading:
    """What is not in the files and must be said of them."""

    board: str | None = None  # the board of all rows
    assume_input_tokens: int | None = None  # prompt length of tables that do not have it
    sample_period_s: float | None = None  # of the power sensor behind a table's energies
    default_places: bool = False  # the files were found, not named: a board's come before a server's


# --- numbers ---


def number(value: Any) -> float | None:
    """A number that can have been measured, or None for what is none.

    >>> number("1.5"), number(""), number("nan"), number(True), number("1e300")
    (1.5, None, None, None, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) <= MOST else None


def is_blank(value: Any) -> bool:
    """Whether a cell says that nothing was measured, as tables of other programs write it.

    >>> is_blank(None), is_blank(" NaN "), is_blank("-"), is_blank("inf"), is_blank("12 ms")
    (True, True, True, False, False)
    """
    return value is None or str(value).strip().casefold() in BLANKS


def count(value: Any) -> int | None:
    """A token count: a whole number of at least 0."""
    found = number(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def column_of(quantity: str, columns: Sequence[str]) -> tuple[str, float] | None:
    """The column that holds a quantity, and its factor."""
    return next(((name, factor) for name, factor in QUANTITIES[quantity] if name in columns), None)


def unit_of(rows: Sequence[Mapping[str, Any]], column: str, quantity: str) -> float:
    """Factor to ms of a time without a unit: the total or the tokens per second beside it decide.

    UserError where neither does.
    """
    columns = rows[0] if rows else {}
    if quantity == "prefill_ms":
        # The prefill alone proves nothing: it is in the unit of the table's other time.
        for other, names in (("decode_ms", UNITLESS["decode_ms"]), ("total_ms", UNITLESS["total_ms"])):
            found = next((name for name in names if name in columns), None)
            if found:
                return unit_of(rows, found, other)
        return unit_of_first_token(rows, column)
    guesses = []
    for row in rows:
        value, rate = number(row.get(column)), number(row.get("tokens_per_second"))
        total = total_ms(row)
        tokens = number(row.get("output_tokens"))
        if not value or value <= 0:
            continue
        if total and total > 0:
            guesses.append(math.log(total / value))
        elif rate and rate > 0 and tokens and tokens > 1:
            guesses.append(math.log(1000 * tokens / rate / value))
    if not guesses:
        raise no_unit(column)
    return 1e3 if median(guesses) > math.log(1000) / 2 else 1.0


def total_ms(row: Mapping[str, Any]) -> float | None:
    """The row's total time, where a column says its unit."""
    place = column_of("total_ms", list(row))
    found = number(row.get(place[0])) if place else None
    return None if found is None or place is None else found * place[1]


def unit_of_first_token(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Factor to ms of a time to the first token that stands beside a total alone.

    It cannot be longer than the total, and no engine answers within 1 ms; between, a value below 60 is taken
    to be in seconds if a thousand times it still leaves the total room for the other tokens.
    """
    pairs = [(value, total_ms(row)) for row in rows if (value := number(row.get(column))) and value > 0]
    if not pairs or all(total is None for _, total in pairs):
        raise no_unit(column)
    too_long = sum(total is not None and 1000 * value > total for value, total in pairs)
    if too_long > len(pairs) / 10:
        return 1.0
    return 1e3 if median(value for value, _ in pairs) < SECONDS_AT_MOST else 1.0


def no_unit(column: str) -> UserError:
    """What to do about a time whose unit nothing tells."""
    return UserError(
        f"column {column} has no unit, and no tokens_per_second or total_time_ms tells it;"
        " rename times by their unit, such as decode_ms or decode_s"
    )


# --- tables ---


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV, Excel or JSON file, whatever their columns; names of columns in one form."""
    suffix = path.suffix.lower()
    if suffix in (".xlsx", ".xlsm"):
        rows = excel_rows(path)
    elif suffix == ".json":
        rows = json_rows(path)
    else:
        rows = csv_rows(path)
    return [{one_form(name): value for name, value in row.items()} for row in rows]


def one_form(name: object) -> str:
    """A column's name as QUANTITIES writes it.

    >>> one_form(" Input Tokens"), one_form("TTFT-ms"), one_form("Total time (ms)")
    ('input_tokens', 'ttft_ms', 'total_time_ms')
    """
    return re.sub(r"[^0-9a-z]+", "_", str(name or "").casefold()).strip("_")


def csv_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file, packed or not, with any delimiter; in decimal commas where it is a semicolon."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    lines = [cells for _, cells in rows_of(path, content, KNOWN_COLUMNS)]
    if not lines:
        return []
    header, *lines = lines
    first = b";" in content.split(b"\n", 1)[0]
    return [
        {name: decimal_point(cell) if first else cell for name, cell in zip(header, cells, strict=False)}
        for cells in lines
    ]


def decimal_point(cell: str) -> str:
    """A number as programs read it; other text as it is.

    >>> decimal_point("12,5"), decimal_point("a,b")
    ('12.5', 'a,b')
    """
    return cell.replace(",", ".") if re.fullmatch(r"\s*-?\d+,\d+\s*", cell) else cell


def fold_power_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """A log of power readings as one line per request, and its sample period [s].

    Energy is the sum of power times the time since the reading before, a period for the first. The readings
    begin and end around the request, so they tell no time.
    """
    logged: dict[tuple[str, str], list[tuple[float, float, int]]] = defaultdict(list)
    for place, row in enumerate(rows, 2):
        at_s, watt = number(row["elapsed_seconds"]), number(row["power_w"])
        if at_s is not None and watt is not None:
            logged[(model_name(row), str(row["subject"]))].append((at_s, watt, place))
    gaps = [b[0] - a[0] for log in logged.values() for a, b in pairwise(log)]
    period_s = median(gaps) if gaps else 0.0
    folded = []
    for (model, subject), log in logged.items():
        if (lengths := LOGGED_LENGTHS.search(subject)) and period_s > 0:
            steps = [period_s, *(b[0] - a[0] for a, b in pairwise(log))]
            joule = sum(step * watt for step, (_, watt, _) in zip(steps, log, strict=True))
            line = {"model": model, "input_tokens": lengths[1], "output_tokens": lengths[2], "row": log[0][2]}
            folded.append(line | {"total_energy_joule": joule, MEAN_POWER_W: joule / sum(steps)})
    if not folded:
        raise UserError(f"{path}: a power log whose Subject names no lengths such as _in1024_out1_")
    return folded, period_s


def excel_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of the first sheet whose header names token counts."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as exc:  # openpyxl raises zip, key, value and XML errors for what is no workbook
        raise UserError(f"{path}: not an Excel workbook ({exc}); save it as .xlsx") from exc
    seen: list[str] = []
    for sheet in book.worksheets:
        lines = sheet.iter_rows(values_only=True)
        header = [one_form(cell) for cell in next(lines, ())]
        seen += [name for name in header if name]
        if column_of("output_tokens", header) or column_of("input_tokens", header):
            return [
                dict(zip(header, line, strict=False)) for line in lines if any(c is not None for c in line)
            ]
    raise UserError(f"{path}: {missing_column('output_tokens', seen)}")


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON table: a list of objects, or {model: list of objects or object of lists}."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise UserError(f"{path}: not JSON ({exc}); check --data") from exc
    if isinstance(data, list):
        return [row for row in data if isinstance(row, dict)]
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no table; check --data")
    data = data["data"] if isinstance(data.get("data"), dict) else data
    rows = []
    for model, table in data.items():
        if isinstance(table, dict) and table and all(isinstance(column, list) for column in table.values()):
            size = max(len(column) for column in table.values())
            full = {name: column for name, column in table.items() if len(column) == size}
            table = [dict(zip(full, values, strict=True)) for values in zip(*full.values(), strict=True)]
        if isinstance(table, list):
            rows += [{"model": model, **row} for row in table if isinstance(row, dict)]
    return rows


def missing_column(quantity: str, columns: Sequence[str]) -> str:
    """What is missing, and the column that looks most like it."""
    wanted = [name for name, _ in QUANTITIES[quantity]]
    near = nearest_column(quantity, columns, 0.7)
    hint = f"; is it {near}? Rename that column" if near else ""
    if together := next((name for name in PARALLEL if name in columns), None):
        hint = f"; {together} says that answers were decoded together, which is no single request's cost"
    return f"no column for {quantity.removesuffix('_ms')} ({', '.join(wanted[:4])}){hint}"


def nearest_column(quantity: str, columns: Sequence[str], cutoff: float) -> str | None:
    """The column most like a quantity's names; one that is read already is no wrong name for another."""
    taken = {name for places in QUANTITIES.values() for name, _ in places}
    taken |= {name for names in UNITLESS.values() for name in names}
    near: dict[str, float] = {}
    for column in (name for name in columns if name not in taken):
        likeness = max(
            difflib.SequenceMatcher(None, name, column).ratio() for name, _ in QUANTITIES[quantity]
        )
        if likeness >= cutoff:
            near[column] = likeness
    return max(near, key=lambda name: near[name]) if near else None


def table_factors(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """Quantity -> (column, factor) of one table. UserError names the column that is missing."""
    columns = list(dict.fromkeys(name for row in rows[:50] for name in row))
    found = {name: place for name in QUANTITIES if (place := column_of(name, columns))}
    for quantity, names in UNITLESS.items():
        column = next((name for name in names if name in columns), None)
        if quantity not in found and column:
            # A table with an hertz stamp writes decode_time in seconds beside whole monitoring seconds.
            try:
                factor = 1e3 if "monitoring_time" in columns else unit_of(rows, column, quantity)
            except UserError as exc:
                raise UserError(f"{path}: {exc}") from exc
            found[quantity] = (column, factor)
    if "input_tokens" not in found and "output_tokens" not in found:
        raise UserError(f"{path}: {missing_column('input_tokens', columns)}")
    if not {"prefill_ms", "decode_ms", "total_ms", "tpot_ms", *ENERGIES} & set(found):
        raise UserError(f"{path}: {missing_column('prefill_ms', columns)}")
    if "output_tokens" not in found and ({"decode_ms", "tpot_ms"} & set(found)):
        raise UserError(f"{path}: {missing_column('output_tokens', columns)}")
    either = {"decode_ms", "tpot_ms"}  # one of them tells the other
    read = set(found) | (either if either & set(found) else set())
    for quantity in (name for name in QUANTITIES if name not in read):
        if near := nearest_column(quantity, columns, NEARLY_SURE):
            LOG.info("%s: column %s is not read; if it is %s, rename it so", path, near, quantity)
    return found


def table_rows(path: Path, assumed: int | None, period_s: float | None) -> list[dict[str, Any]]:
    """Tidy rows of one table."""
    raw = read_table(path)
    if not raw:
        raise UserError(f"{path} holds no rows; check --data")
    logged_s = None
    if set(raw[0]) >= POWER_LOG:
        raw, logged_s = fold_power_log(path, raw)
        period_s = logged_s if period_s is None else period_s
    places = table_factors(path, raw)
    if "input_tokens" not in places and assumed is None:
        missing = missing_column("input_tokens", list(raw[0]))
        if "is it" in missing:
            raise UserError(f"{path}: {missing}; --assume-input-tokens N gives all rows one")
    for name, (column, _) in places.items():
        odd = [line.get(column) for line in raw if not is_blank(line.get(column))]
        odd = [value for value in odd if number(value) is None]
        if odd:
            LOG.info(
                "left out %d of %d values of %s: no number, %r for one", len(odd), len(raw), name, odd[0]
            )
    period_s = period_s if period_s is not None else (1.0 if ONE_HERTZ & set(raw[0]) else None)
    rows = []
    for place, line in enumerate(raw, 2):
        values = {
            name: None if (found := number(line.get(column))) is None else found * factor
            for name, (column, factor) in places.items()
        }
        row = table_row(line, values, assumed, period_s)
        rows.append(row | {"source": path.name, "source_row": line["row"] if logged_s else place})
    return rows


def table_row(
    line: Mapping[str, Any], values: dict[str, float | None], assumed: int | None, period_s: float | None
) -> dict[str, Any]:
    """One line of a table as a tidy row, still without its place."""
    flags = []
    tokens_in, tokens_out = count(values.get("input_tokens")), count(values.get("output_tokens"))
    if tokens_in is None and "input_tokens" not in values:
        tokens_in = UNKNOWN_INPUT if assumed is None else assumed
        flags.append("unknown_input_tokens" if assumed is None else "assumed_input_tokens")
    if "output_tokens" not in values:
        tokens_out = 1  # a sweep of prompts: the time to the first token is all there is
        values["prefill_energy_joule"] = values.get("prefill_energy_joule") or values.get(
            "total_energy_joule"
        )
    prefill, steps = values.get("prefill_ms"), (tokens_out or 1) - 1
    if values.get("tpot_ms") is not None and values.get("decode_ms") is None:
        values["decode_ms"] = values["tpot_ms"] * steps  # type: ignore[operator]
    if tokens_out == 1 and prefill is None and values.get("total_ms") is not None:
        prefill = values["prefill_ms"] = values["total_ms"]
    if values.get("decode_ms") is None and prefill is not None and values.get("total_ms") is not None:
        values["decode_ms"] = values["total_ms"] - prefill  # type: ignore[operator]
    add_rail_energy(line, values)
    flags += drop_short_phases(values, period_s)
    if str(line.get("energy_matched_by") or ""):
        flags.append("energy_not_per_request")  # a subject's mean power times this request's duration
    row: dict[str, Any] = {
        "model": model_name(line),
        "board": first_text(line, BOARDS),
        "group": None,
        "flags": flags,
    }
    row |= {"input_tokens": tokens_in, "output_tokens": tokens_out, "power_period_s": period_s}
    row["subject"] = first_text(line, SUBJECTS)
    row["engine"] = engine_name(line)
    row["decode_steps"] = None if tokens_out is None else max(tokens_out - 1, 0)
    row |= {name: values.get(name) for name in (*TIMES, *ENERGIES)}
    row["power_window_s"] = power_window_s(line, row)
    return row | {"energy_scope": f"{first_text(line, ('power_rail',)) or 'as in the table'}, gross"}


def drop_short_phases(values: dict[str, float | None], period_s: float | None) -> list[str]:
    """Take away the energy of a phase too short for the sensor in a request that is not; flags for it."""
    least_ms, flags = SAMPLES_LEAST * (period_s or 0.0) * 1000, []
    if max(values.get(name) or 0.0 for name in TIMES) < least_ms:
        return []  # all of it is too short, which is said of the row
    for phase in ("prefill", "decode"):
        time_ms, energy = values.get(f"{phase}_ms"), f"{phase}_energy_joule"
        if time_ms is not None and time_ms < least_ms and values.get(energy) is not None:
            values[energy] = None
            flags.append(f"{phase}_too_short_for_sensor")
    return flags


def power_window_s(line: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """How long the sensor was read for a row without any time: its energy over its mean power."""
    watt, joule = number(line.get(MEAN_POWER_W)), row["total_energy_joule"]
    if any(row[name] is not None for name in TIMES) or not watt or watt <= 0 or joule is None:
        return None
    return float(joule / watt)


def add_rail_energy(line: Mapping[str, Any], values: dict[str, float | None]) -> None:
    """Energies from the phase's rails [mW] where the table has powers but no energies."""
    for energy, rails in RAIL_MW.items():
        time_ms = values.get(energy.replace("_energy_joule", "_ms"))
        total = number(line.get(rails[0]))
        if values.get(energy) is None and total is not None and time_ms is not None:
            values[energy] = (total + (number(line.get(rails[1])) or 0)) * time_ms / 1e6


def first_text(line: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns that is not empty."""
    return next((str(line[name]).strip() for name in names if str(line.get(name) or "").strip()), None)


def engine_name(line: Mapping[str, Any]) -> str | None:
    """The engine that made the row, llama.cpp under one name; None where no column says it.

    >>> engine_name({"framework": "llamacpp"}), engine_name({"backend": "llama-cpp-python"}), engine_name({})
    ('llama.cpp', 'llama.cpp', None)
    """
    name = first_text(line, ENGINES)
    folded = re.sub(r"[^a-z]", "", (name or "").casefold())
    return LLAMA_CPP if folded.startswith("llamacpp") else name


def model_name(line: Mapping[str, Any]) -> str:
    """Model and quantization as one name; "DeepSeek_R1_Distill_Qwen_1.5B" and its dashed form are one.

    >>> model_name({"model_id": "SmolLM2-135M-Q4_1", "quantization": "Q4_1"})
    'SmolLM2-135M-Q4_1'
    >>> model_name({"model": "DSR1_Qwen_1.5B"}), model_name({"model": "llama", "quantization": "Q6_K"})
    ('DeepSeek-R1-Distill-Qwen-1.5B', 'llama Q6_K')
    """
    # The underscores of a quantization, Q4_K_M, stay.
    name = re.sub(r"_(?![KMSLX01](?:[-_\s]|$))", "-", first_text(line, NAMES) or UNNAMED)
    name = name.replace("DSR1-", "DeepSeek-R1-Distill-")
    quantization = first_text(line, ("quantization",))
    return f"{name} {quantization}" if quantization and plain(quantization) not in plain(name) else name


# --- run records ---


def jsonl_rows(path: Path) -> list[dict[str, Any]]:
    """Tidy rows of run records; rows this script wrote pass through."""
    rows, torn, other, unsound = [], 0, "", 0
    machines = machines_beside(path)
    for place, record in read_jsonl(path):
        if record is None:
            torn += 1
        elif record.get("kind") == "measurement":
            rows.append(record)
        elif "latency_ms" not in record or "completion_tokens" not in record:
            other = missing_column(
                "total_ms" if "latency_ms" not in record else "output_tokens", list(record)
            )
        elif not record.get("error") and not counts(record):
            unsound += 1
        elif not record.get("error"):
            row = run_row(record) | {"source": path.name, "source_row": place}
            rows.append(row | {"board": row["board"] or machines.get(str(record.get("env_id")))})
    if torn:
        LOG.info("%s: %d lines are no JSON objects, left out", path, torn)
    if unsound:
        check = as_called("check_runs.py")
        LOG.info("%s: %d runs are left out by their flags; %s says why", path, unsound, check)
    if not rows:
        raise UserError(f"{path}: {other or 'no successful run in it'}; check --data")
    return rows


def machines_beside(runs: Path) -> dict[str, str]:
    """env_id -> machine and power mode, of the environment records beside run records.

    Another power mode is another machine: its runs are no repeats of these.
    """
    path = environment_path(runs)
    machines = {}
    for _, record in read_jsonl(path) if path.is_file() else ():
        board = (record or {}).get("board")
        if record and isinstance(board, dict) and (name := first_text(board, ("board", "cpu_model"))):
            mode = first_text(board, ("power_mode_name",))
            machines[str(record.get("env_id"))] = f"{name}, {mode}" if mode else name
    return machines


def run_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """One run record as a tidy row. The step that sampled the end of the text took its time, too."""
    given = record.get("flags")
    flags = [str(flag) for flag in given] if isinstance(given, list) else []
    tokens_out = count(record.get("completion_tokens"))
    latency, ttft = number(record.get("latency_ms")), number(record.get("ttft_ms"))
    row: dict[str, Any] = {"model": model_name(record), "board": first_text(record, BOARDS), "flags": flags}
    row["engine"] = LLAMA_CPP  # the collector has no other
    row |= {"group": None, "input_tokens": count(record.get("prompt_tokens")), "output_tokens": tokens_out}
    # "stop": the step that sampled the end of the text was timed, and is not among the tokens.
    stopped = record.get("finish_reason") == "stop"
    row["decode_steps"] = None if tokens_out is None else max(tokens_out - 1 + stopped, 0)
    row |= {"prefill_ms": ttft, "total_ms": latency, "subject": first_text(record, SUBJECTS)}
    row["decode_ms"] = latency - ttft if latency is not None and ttft is not None else None
    # The first column of each energy's list is the run record's own.
    row |= {name: number(record.get(QUANTITIES[name][0][0])) for name in ENERGIES}
    period = number(record.get("power_period_ms"))
    row["power_period_s"] = None if period is None else period / 1000
    parts = [str(record.get(name) or f"unknown {name}") for name in ("power_scope", "power_source")]
    scope = f"{', '.join(parts)}, net"
    return row | {"energy_scope": scope + (", simulated" if "simulated_power" in flags else "")}


# --- rows ---


def finish_row(row: dict[str, Any], board: str | None) -> dict[str, Any]:
    """Flags that follow from the values, the group of repeats, and a hash that names the row."""
    flags = [flag for flag in row["flags"] if flag != "too_short_for_sensor"]
    period_s = row.get("power_period_s")
    durations = [row[name] for name in ("decode_ms", "prefill_ms", "total_ms") if row.get(name) is not None]
    has_energy = any(row.get(name) is not None for name in ENERGIES)
    if not durations and period_s and row.get("power_window_s"):
        # Readings begin before the request and end after it: it may be two periods shorter than they are.
        durations = [1000 * (row["power_window_s"] - 2 * period_s)]
    if has_energy and period_s and durations and max(durations) < SAMPLES_LEAST * period_s * 1000:
        flags.append("too_short_for_sensor")
    row = {"kind": "measurement", "schema_version": 1, **row, "flags": flags, "board": board or row["board"]}
    row["group"] = f"{row['input_tokens']}x{row['output_tokens']}"
    # The values, not the place: the same measurement in two files is the same measurement.
    name = UNNAMED if "named_after_file" in flags else row["model"]
    values = [name, *(row[name] for name in ("input_tokens", "output_tokens", *TIMES, *ENERGIES))]
    row["row_sha256"] = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    return row


def usable(row: Mapping[str, Any]) -> str | None:
    """Why a row cannot be used at all, or None."""
    if row["input_tokens"] is None or row["output_tokens"] is None:
        return "no token counts"
    if row["input_tokens"] < 1 or row["output_tokens"] < 1:
        return "no prompt or no output tokens"
    if not any((row.get(name) or 0) > 0 for name in (*TIMES, *ENERGIES)):
        return "no time and no energy above zero"
    return None


def read_file(path: Path, reading: Reading) -> list[dict[str, Any]]:
    """Tidy rows of one file, with the hash of the file."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; check --data")
    digest = sha256_of(path)
    stem = path.name.removesuffix(".gz")
    if stem.endswith(".jsonl"):
        rows = jsonl_rows(path)
    else:
        rows = table_rows(path, reading.assume_input_tokens, reading.sample_period_s)
    return [row | {"source_sha256": row.get("source_sha256", digest)} for row in rows]


def read_measurements(paths: Sequence[Path], reading: Reading | None = None) -> list[dict[str, Any]]:
    """Tidy rows of all files; the log says what was left out. Raises UserError, OSError, EOFError."""
    files = {path: read_file(path, reading or Reading()) for path in paths}
    name_by_file(files, (reading or Reading()).default_places)
    tell_of_unknown_prompts(files)
    rows = [finish_row(row, (reading or Reading()).board) for found in files.values() for row in found]
    for what, times in (left_out := reasons_left_out(rows)).items():
        LOG.info("left out %d of %d rows: %s", times, len(rows), what)
    negative = Counter(name for row in rows for name in (*TIMES, *ENERGIES) if (row[name] or 0) < 0)
    for name, times in negative.items():
        LOG.info("left out %d of %d values of %s: below zero", times, len(rows), name)
    flagged = Counter(
        flag
        for row in rows
        for flag in row["flags"]
        if flag.endswith("too_short_for_sensor") or flag == "energy_not_per_request"
    )
    for flag, times in flagged.items():
        LOG.info("flagged %d rows %s: kept out of energy fits", times, flag)
    kept = [row for row in rows if not usable(row)]
    if not kept:
        why = "; ".join(f"{times} rows: {what}" for what, times in left_out.items())
        raise UserError(f"no usable rows ({why}); check --data")
    return kept


def reasons_left_out(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Why rows cannot be used, and how many."""
    return Counter(reason for row in rows if (reason := usable(row)))


def name_by_file(files: Mapping[Path, Sequence[dict[str, Any]]], default_places: bool) -> None:
    """Rows of a table that names no model get the name of its file: two files are never one model."""
    unnamed = [path for path, rows in files.items() if any(row["model"] == UNNAMED for row in rows)]
    names = file_names(unnamed, default_places)
    for path, name in names.items():
        for row in files[path]:
            if row["model"] == UNNAMED:
                row["model"] = name
                row["flags"].append("named_after_file")
    if names:
        told = ", ".join(f"{path} is {name}" for path, name in names.items())
        LOG.info("no model is named, so each file is a model of its own: %s", told)


def tell_of_unknown_prompts(files: Mapping[Path, Sequence[Mapping[str, Any]]]) -> None:
    """Say what tables without prompt lengths can teach."""
    without = [
        str(path)
        for path, rows in files.items()
        if any("unknown_input_tokens" in row["flags"] for row in rows)
    ]
    if without:
        LOG.info(
            "no column input_tokens in %s: decode is learnt against output tokens, prefill and total as those"
            " requests' own, whatever the prompt; --assume-input-tokens N gives all rows one length",
            ", ".join(without),
        )
