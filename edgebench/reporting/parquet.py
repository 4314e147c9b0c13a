"""Runs as Parquet, one folder per board and model, for DuckDB, Spark, Dask and pandas.

Every run is a row, those that count in no mean with their reason: in_means, left_out. pyarrow is imported
where a folder is written: nothing else of the suite needs it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from edgebench.analysis.campaign import NUMBERS, TEXTS
from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of
from edgebench.records.run import as_number, task_of
from edgebench.shell.text import encodable

ROWS_AT_ONCE = 50_000
PARTS = ("board", "model_id")  # of the folders' names
MORE_TEXTS = ("power_mode", "model_sha256", "error", "left_out")


def parquet_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """One run in fixed types: text, numbers as float (missing is null), flags as a list of text."""
    row: dict[str, Any] = {name: None if run.get(name) is None else str(run[name]) for name in TEXTS}
    row |= {name: as_number(run.get(name)) for name in NUMBERS}
    row |= {name: run[name] for name in ("power_mode", "model_sha256", "in_means", "left_out")}
    task, error = task_of(run), run.get("error")
    row["id"] = None if task is None else str(task)
    # An unknown board is null: readers of such folders know the name that Arrow gives to a null.
    row["board"], row["model_id"] = run["board"] or None, str(run["model_id"])
    row["flags"] = [encodable(flag) for flag in run["flags"]]
    row["error"] = (error if isinstance(error, str) else json.dumps(error)) if error else None
    return {name: encodable(value) for name, value in row.items()}


def check_folder(folder: Path) -> None:
    """UserError for a folder that holds what is not ours, and where pyarrow is missing."""
    try:
        import pyarrow.dataset  # noqa: F401
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install pyarrow") from None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a new folder as --parquet")
    if folder.is_dir() and not all(inner.name.startswith("board=") for inner in folder.iterdir()):
        raise UserError(f"{folder} holds other files; name a new folder as --parquet")


def write_parquet(runs: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """The runs (as analysis/campaign.py gives them) in folder/board=.../model_id=.../.

    An older folder of this kind is replaced whole, when the new one is complete. Raises UserError.
    """
    check_folder(folder)
    import pyarrow as pa
    import pyarrow.dataset as ds

    text, number = pa.string(), pa.float64()
    columns = dict.fromkeys((*PARTS, *TEXTS, *MORE_TEXTS), text) | dict.fromkeys(NUMBERS, number)
    columns |= {"flags": pa.list_(text), "in_means": pa.bool_()}
    schema = pa.schema(list(columns.items()))

    def batches() -> Iterator[Any]:
        left = iter(runs)
        while rows := [parquet_row(run) for run in islice(left, ROWS_AT_ONCE)]:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)

    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    keys = pa.schema([(name, text) for name in PARTS])
    try:
        part.mkdir(parents=True)  # here, for a reason in the system's words: Arrow's are longer
        parts = ds.partitioning(keys, flavor="hive")
        ds.write_dataset(batches(), part, format="parquet", schema=schema, partitioning=parts)
        if folder.exists():
            shutil.rmtree(folder)

        part.rename(folder)
    except OSError as problem:
        raise UserError(f"cannot write {folder}: {reason_of(problem)}; name another --parquet") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
