"""The table per model and level: known means, missing values, width."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.checking import table as runs_table

ROOT = Path(__file__).resolve().parents[2]


def record(level: str = "L0", **changes: Any) -> dict[str, Any]:
    eight = {"id": 1, "model_id": "gemma", "level": level, "prompt_tokens": 40, "completion_tokens": 10}
    return {**eight, "latency_ms": 1000.0, "energy_joule": 5.0, "output_text": "x", **changes}


def ask(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "edgebench/checking/table.py"), "--runs", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def test_means_and_standard_deviation() -> None:
    (row,) = runs_table.make_rows([record(ttft_ms=100), record(ttft_ms=300, energy_joule=7.0), record()])
    assert (row["n"], row["failed"], row["ttft_ms_mean"]) == (3, 0, 200.0)  # the mean of the two that have it
    assert row["joule_per_output_token_mean"] == pytest.approx((0.5 + 0.7 + 0.5) / 3)
    assert row["joule_per_output_token_std"] == pytest.approx(0.11547, abs=1e-5)
    assert row["decode_tok_per_s_mean"] is None


def test_missing_is_null_and_a_dash_never_zero(tmp_path: Path) -> None:
    odd = record(energy_joule=None, completion_tokens=0, latency_ms=True, ttft_ms=float("nan"))
    (row,) = json.loads(ask(write(tmp_path / "r.jsonl", odd), "--json").stdout)
    assert row["energy_joule_mean"] is row["joule_per_output_token_mean"] is row["ttft_ms_mean"] is None
    assert ask(tmp_path / "r.jsonl").stdout.splitlines()[-1].split() == [
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
    assert (row["n"], row["failed"]) == (1, 1)


def test_levels_come_in_order_and_the_placebo_last() -> None:
    rows = runs_table.make_rows(
        [record(level) for level in ("P", "L2", "L0", "L1")] + [record("L1", model_id="a")]
    )
    assert [(row["model_id"], row["level"]) for row in rows] == [
        ("gemma", "L0"), ("gemma", "L1"), ("gemma", "L2"), ("gemma", "P"), ("a", "L1")]  # fmt: skip


def test_simulated_power_is_marked(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", record(flags=["simulated_power"]), record("L2"))
    lines = ask(path).stdout.splitlines()
    assert "~5.00" in lines[2] and "~0.500" in lines[2] and "~" not in lines[3]
    assert lines[3].split()[0] == "L2" and "simulated power, not a measurement" in lines[-1]


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    big = record("a_long_level_name", prompt_tokens=99999, completion_tokens=99999, ttft_ms=99999.9)
    big |= {"decode_tok_per_s": 9999.9, "energy_joule": 99999.99, "model_id": "m" * 100}
    done = ask(write(tmp_path / "r.jsonl", *[big] * 3))
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_gz_torn_lines_and_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(record()) + '\n{"id": 2, "mod').encode()))
    assert json.loads(ask(path, "--json").stdout)[0]["n"] == 1
    empty = tmp_path / "e.jsonl"
    empty.touch()
    assert ask(empty).stdout == "no runs\n" and ask(empty, "--json").stdout == "[]\n"
    path.write_bytes(path.read_bytes()[:-12])
    done = ask(path)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {path}: ")
    assert ask(tmp_path / "none").returncode == 1
