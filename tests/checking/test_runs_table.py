"""The table per model and level: known means, missing values, width."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgebench.checking import report
from edgebench.checking import table as runs_table
from edgebench.errors import UserError


def record(level: str = "L0", **changes: Any) -> dict[str, Any]:
    eight = {"id": 1, "model_id": "gemma", "level": level, "prompt_tokens": 40, "completion_tokens": 10}
    return {**eight, "latency_ms": 1000.0, "energy_joule": 5.0, "output_text": "x", **changes}


def lines_of(*records: dict[str, Any]) -> list[str]:
    return runs_table.format_rows(runs_table.make_rows(records)).splitlines()


def test_means_and_standard_deviation() -> None:
    (row,) = runs_table.make_rows([record(ttft_ms=100), record(ttft_ms=300, energy_joule=7.0), record()])
    assert (row.n, row.failed, row.ttft_ms_mean) == (3, 0, 200.0)  # the mean of the two that have it
    assert row.joule_per_output_token_mean == pytest.approx((0.5 + 0.7 + 0.5) / 3)
    assert row.joule_per_output_token_std == pytest.approx(0.11547, abs=1e-5)
    assert row.decode_tok_per_s_mean is None


def test_missing_is_null_and_a_dash_never_zero() -> None:
    odd = record(energy_joule=None, completion_tokens=0, latency_ms=True, ttft_ms=float("nan"))
    (row,) = runs_table.make_rows([odd])
    assert row.energy_joule_mean is row.joule_per_output_token_mean is row.ttft_ms_mean is None
    assert lines_of(odd)[-1].split() == [
        "L0",
        "1",
        "0",
        "40",
        "0",
        *"----",
        "0",
    ]


def test_a_failed_run_that_was_done_again_is_not_counted() -> None:
    runs = [record(run_key="a", error={"type": "oom"}), record(run_key="a"), record(run_key="b", error="x")]
    (row,) = runs_table.make_rows(runs)
    assert (row.n, row.failed) == (1, 1)


def test_levels_come_in_order_and_the_placebo_last() -> None:
    rows = runs_table.make_rows(
        [record(level) for level in ("P", "L2", "L0", "L1")] + [record("L1", model_id="a")]
    )
    assert [(row.model_id, row.level) for row in rows] == [
        ("gemma", "L0"), ("gemma", "L1"), ("gemma", "L2"), ("gemma", "P"), ("a", "L1")]  # fmt: skip


def test_simulated_power_is_marked() -> None:
    lines = lines_of(record(flags=["simulated_power"]), record("L2"))
    assert "~5.00" in lines[2] and "~0.500" in lines[2] and "~" not in lines[3]
    assert lines[3].split()[0] == "L2" and "simulated power, not a measurement" in lines[-1]


def test_the_table_fits_a_terminal() -> None:
    big = record("a_long_level_name", prompt_tokens=99999, completion_tokens=99999, ttft_ms=99999.9)
    big |= {"decode_tok_per_s": 9999.9, "energy_joule": 99999.99, "model_id": "m" * 100}
    assert max(map(len, lines_of(*[big] * 3))) <= 80


def test_gz_torn_lines_and_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(record()) + '\n{"id": 2, "mod').encode()))
    assert report.check_runs(path).table[0].n == 1
    empty = tmp_path / "e.jsonl"
    empty.touch()
    assert report.check_runs(empty).table == [] and lines_of() == ["no runs"]
    path.write_bytes(path.read_bytes()[:-12])
    for unreadable in (path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"^{re.escape(str(unreadable))}: "):
            report.check_runs(unreadable)


def test_a_figure_that_rounds_to_zero_has_no_sign() -> None:
    tiny = record(energy_joule=-0.0004, completion_tokens=10, flags=["simulated_power"])
    (line,) = [line for line in lines_of(tiny, tiny) if line.split()[0] == "L0"]
    assert "~0.00" in line and "~0.000" in line and "-0.0" not in line


def test_a_run_that_failed_twice_is_one_failed_run() -> None:
    runs = [
        record(run_key="a", error="x"),
        record(run_key="a", error="x"),
        record(error="x"),
        record(error="x"),
    ]
    (row,) = runs_table.make_rows(runs)
    assert (row.n, row.failed) == (0, 3)


def test_numbers_as_text_are_in_the_means_and_what_is_beyond_measure_is_not() -> None:
    rows = runs_table.make_rows(
        [record(energy_joule="4"), record(energy_joule=6.0), record(energy_joule=1e171)]
    )
    assert rows[0].energy_joule_mean == 5.0 and rows[0].joule_per_output_token_mean == 0.5
