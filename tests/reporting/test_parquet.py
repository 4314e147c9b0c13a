"""The records as Parquet: fixed types, one folder per board and model, replaced whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgebench.analysis.campaign import add_context
from edgebench.errors import UserError
from edgebench.reporting.parquet import parquet_row, write_parquet
from tests.fakes.made_workbooks import record


def runs(board: str, joule: float, **changes: Any) -> list[dict[str, Any]]:
    return [add_context(record(id=task, board=board, energy_joule=joule, **changes), {}) for task in (1, 2)]


def test_a_row_has_fixed_types_and_what_is_no_number_is_null() -> None:
    odd = record(id=81.0, latency_ms="1028.5", energy_joule="ERROR", turn=True, level="L\ud800")
    odd["error"] = {"type": "E"}
    row = parquet_row(add_context(odd, {}))
    assert (row["id"], row["latency_ms"], row["energy_joule"], row["turn"]) == ("81", 1028.5, None, None)
    assert row["board"] is None and row["in_means"] is False and row["left_out"] == "error: E"
    assert row["level"] == "L?" and row["error"] == '{"type": "E"}'


def test_duckdb_reads_the_folders(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="--parquet needs pyarrow")
    duckdb = pytest.importorskip("duckdb", reason="the query is run with duckdb")
    folder = tmp_path / "tidy"
    write_parquet([*runs("Orin Nano", 9.0)], folder)
    failed = runs("AGX/Orin", 8.0, error="late")
    write_parquet([*runs("Orin Nano", 1.0), *runs("AGX/Orin", 3.0), *failed], folder)
    query = f"""
        SELECT board, model_id, level, count(*) AS n, avg(energy_joule) AS energy_joule_mean
        FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)
        WHERE in_means GROUP BY ALL ORDER BY board
    """
    assert duckdb.sql(query).fetchall() == [("AGX/Orin", "m", "L0", 2, 3.0), ("Orin Nano", "m", "L0", 2, 1.0)]
    write_parquet(runs("", 1.0), tmp_path / "unknown")
    found = f"read_parquet('{tmp_path}/unknown/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"SELECT DISTINCT board FROM {found}").fetchall() == [(None,)]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="--parquet needs pyarrow")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files; name a new folder as --parquet"):
        write_parquet(runs("", 1.0), tmp_path / "mine")
    with pytest.raises(UserError, match="is a file; name a new folder"):
        write_parquet(runs("", 1.0), tmp_path / "mine" / "thesis.tex")
    assert (tmp_path / "mine" / "thesis.tex").exists()
