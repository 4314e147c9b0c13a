"""aggregate_to_excels.py as the user meets it: golden records, several boards, bad input."""

from __future__ import annotations

import gzip
import math
import statistics
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

import aggregate_to_excels
from tests.doors import call
from tests.fakes.made_workbooks import (
    BOOKS,
    FIXED,
    GOLDEN,
    SCORES,
    aggregate,
    all_text,
    one_book,
    record,
    summary,
    write_runs,
)

NO_POWER = "no power was measured: the run counts for time and tokens, not for energy"


def refuse(*arguments: object) -> str:
    """Call the script, which must fail with one error line and no traceback; that line."""
    done = call("aggregate_to_excels.py", *arguments)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr and "[Errno" not in done.stderr
    return errors[0]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workbooks of the golden records and a few scores."""
    outdir = tmp_path_factory.mktemp("golden")
    scores = outdir / "scores.csv"
    rows = ["81,w,alpha-1b,L0_vs_L1,B,judge,1", "82,w,alpha-1b,L0_vs_L1,Tie,judge,1"]
    rows += ["83,w,alpha-1b,L0_vs_L1,A,judge,1", "84,w,alpha-1b,L0_vs_L1,B,judge,1"]
    rows += ["81,w,alpha-1b,L1_vs_P,A,judge,1", "81,w,alpha-1b,L0_vs_P,B,judge,1"]
    scores.write_text(SCORES + "\n".join(rows) + "\n")
    return aggregate(outdir, "--runs", GOLDEN / "runs.jsonl", "--scores", scores)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The table as if no power had been simulated."""
    return table.rename(columns=lambda label: label.replace(", simulated", ""))


def test_numbers_of_the_golden_records_match_those_computed_by_hand(golden: Path) -> None:
    table = measured(summary(golden / "energy_per_run.xlsx"))
    l0, l1 = table.loc[("alpha-1b", "L0")], table.loc[("alpha-1b", "L1")]
    # L0: task 81 has 2 J and 4 J (a third run came from a warm cache), task 82 has 6 J.
    assert (l0["Runs"], l0["Tasks"], l0["Runs left out"]) == (3, 2, 1)
    assert l0["Energy net of idle, mean [J]"] == pytest.approx(4.5)
    assert l0["Energy net of idle, std [J]"] == pytest.approx(2.0)
    assert math.isnan(l0["Change to L0 [J]"])
    # L1: 5 J and 7 J, and 9 J from the second try of a run that had failed.
    assert (l1["Runs"], l1["Runs left out"], l1["Energy net of idle, mean [J]"]) == (3, 0, pytest.approx(7.5))
    assert l1["Change to L0 [J]"] == pytest.approx(3.0)
    assert l1["Change to L0 [%]"] == pytest.approx(100 * 3.0 / 4.5)
    assert l1["Prompt tokens, mean"] == pytest.approx(62)
    means = table["Energy net of idle, mean [J]"]
    assert means[("beta-2b", "P")] == -0.5  # net energy may be negative
    assert means[("gemma-2-2b-it", "L2")] == 92.75


def test_win_rates_match_those_computed_by_hand(golden: Path) -> None:
    table = summary(golden / "quality_scores.xlsx")
    row = table.loc[("alpha-1b", "L1")]  # against L0: win, tie, loss, win
    assert (row["Verdicts"], row["Tasks"], row["Won"], row["Tied"], row["Lost"]) == (4, 4, 2, 1, 1)
    assert row["Win rate against L0"] == pytest.approx(statistics.fmean([1, 0.5, 0, 1]))
    assert table.loc[("alpha-1b", "P")]["Win rate against L0"] == 1.0
    assert ("alpha-1b", "L0") not in table.index  # against itself a level is even


@pytest.mark.parametrize("book", BOOKS)
def test_a_book_opens_on_summary_and_pandas_reads_one_sheet_per_model(golden: Path, book: str) -> None:
    sheets = openpyxl.load_workbook(golden / f"{book}.xlsx")
    assert sheets.sheetnames[0] == "Summary" == sheets.active.title
    models = {"alpha-1b", "beta-2b", "gamma-demo", "gemma-2-2b-it"}
    assert set(sheets.sheetnames) == FIXED | models
    frames = pd.read_excel(golden / f"{book}.xlsx", sheet_name=None)
    for name in models | {"Pivot", "Flags", "Provenance", "Notes"}:
        sheet = sheets[name]
        assert sheet.freeze_panes == "A2" and sheet.auto_filter.ref.startswith("A1:")
        assert sheet.auto_filter.ref.endswith(str(sheet.max_row)) and not sheet.merged_cells.ranges
        assert list(frames[name].columns) == [cell.value for cell in sheet[1]]


def test_rows_flags_and_pivot_of_the_golden_records(golden: Path) -> None:
    frames = pd.read_excel(golden / "energy_per_run.xlsx", sheet_name=None)
    alpha = measured(frames["alpha-1b"])
    assert list(alpha["In means"]).count("no") == 1 and len(alpha) == 7
    assert alpha["Energy net of idle [J]"].tolist() == [2, 4, 1, 5, 7, 6, 9]
    flags = frames["Flags"]
    row = flags[flags["Task"] == "q-9"].iloc[0]
    assert (row["Model"], row["What it means"]) == ("beta-2b", NO_POWER)
    assert row["What follows"] == "counts, but has no energy net of idle: not in its means"
    left_out = flags[flags["What follows"] == "left out of means"]
    assert left_out["What it means"].tolist() == ["WarmCache: the engine evaluated 1 of 20 prompt tokens"]
    assert left_out["Flags"].tolist() == ["warm_cache"]
    pivot = measured(frames["Pivot"])
    pivot = pivot.astype({"Task": str}).set_index(["Model", "Task"])
    assert pivot.loc[("alpha-1b", "81"), "L0: Energy net of idle, mean [J]"] == 3
    assert pivot.loc[("alpha-1b", "81"), "L0: Energy net of idle, std [J]"] == pytest.approx(math.sqrt(2))
    assert pivot.loc[("alpha-1b", "81"), "L0: n"] == 2 and math.isnan(pivot.loc[("beta-2b", "q-9"), "P: n"])


def test_the_screen_has_a_table_the_alarm_and_the_files(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--runs", GOLDEN / "runs.jsonl", "--scores", golden / "scores.csv")
    one_book("quality_scores", golden / "again", *files)
    screen = capsys.readouterr().out
    lines = screen.splitlines()
    assert " ".join(lines[0].split()) == "model level tokens out latency ms energy J win vs L0"
    assert lines[2].split()[:4] == ["alpha-1b", "L1", "166", "1660"] and lines[2].endswith(" 0.625")
    assert "SIMULATED POWER in 1 of 11 runs" in screen
    assert max(map(len, screen.split("wrote")[0].splitlines())) <= 80
    assert lines[-1].endswith("again/quality_scores.xlsx")


def board_files(folder: Path, name: str, mode: str, value: float) -> Path:
    folder.mkdir()
    board = {"board": name, "power_mode_name": mode}  # what companions/board_check.py found
    env = {"env_id": "e", "board": board, "models": {"m": {"sha256": "0" * 64}}}
    write_runs(folder / "runs.env.jsonl", [env])
    more: dict[str, Any] = {"env_id": "e", "power_scope": "module", "power_source": "ina3221"}
    runs = [record(id=task, run_key=f"key {task}", energy_joule=value, **more) for task in (1, 2)]
    return write_runs(folder / "runs.jsonl.gz", runs)


def test_the_board_and_its_mode_come_from_the_environment_record(tmp_path: Path) -> None:
    board_files(tmp_path / "a", "Orin Nano", "MAXN_SUPER", 1.0)
    board_files(tmp_path / "b", "AGX Orin", "MAXN", 3.0)
    book = one_book("energy_per_run", tmp_path, "--runs", tmp_path / "*" / "runs.jsonl.gz")
    table = summary(book)["Energy net of idle, mean [J]"]
    assert table[("m", "Orin Nano", "L0")] == 1 and table[("m", "AGX Orin", "L0")] == 3
    rows = pd.read_excel(book, sheet_name="Provenance").astype(str).agg(" ".join, axis=1)
    assert any("power_mode_name MAXN_SUPER" in row for row in rows) and any("sha256" in row for row in rows)
    assert any("command line" in row and "--runs" in row for row in rows)


def test_a_mixed_power_mode_is_refused(tmp_path: Path) -> None:
    board_files(tmp_path / "a", "Orin Nano", "MAXN_SUPER", 1.0)
    board_files(tmp_path / "b", "Orin Nano", "15W", 3.0)
    error = refuse("--runs", tmp_path / "*" / "runs.jsonl.gz", "--outdir", tmp_path)
    assert "m on Orin Nano: power mode 15W and MAXN_SUPER" in error and not list(tmp_path.glob("*.xlsx"))


def test_parquet_is_written_beside_the_workbooks(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="--parquet needs pyarrow")
    runs = [record(run_key="k", latency_ms=1.0), record(run_key="k", latency_ms=2.0), record(id=2)]
    write_runs(tmp_path / "r.jsonl", [one | {"board": "Nano"} for one in runs])
    one_book("latency_per_run", tmp_path, "--runs", tmp_path / "r.jsonl", "--parquet", tmp_path / "tidy")
    rows = parquet.read_table(tmp_path / "tidy").to_pylist()
    stand = [(row["id"], row["latency_ms"], row["in_means"]) for row in rows]
    assert stand == [
        ("1", 2.0, True),
        ("2", 100.0, True),
    ]


def test_bad_input_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*arguments: object) -> str:
        """The one line of error, without a process of its own."""
        assert aggregate_to_excels.main([str(one) for one in arguments]) == 1
        told = capsys.readouterr().err.splitlines()
        errors = [line for line in told if line.startswith("error: ")]
        assert len(errors) == 1 and "[Errno" not in errors[0]
        return errors[0]

    good, empty, broken = GOLDEN / "runs.jsonl", tmp_path / "empty.jsonl", tmp_path / "broken.jsonl.gz"
    empty.write_text("\n\n")
    broken.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-20])
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    assert "no run records at nothing.jsonl" in refuse("--runs", "nothing.jsonl", "--outdir", tmp_path)
    assert "no run record in" in refuse("--runs", empty, "--outdir", tmp_path)
    assert "check --runs" in refuse("--runs", broken, "--outdir", tmp_path)
    error = refuse("--runs", good, "--scores", wrong, "--outdir", tmp_path)
    assert "wrong.csv has no column task_id, model_id, pair, winner" in error
    assert "--analysis" in refuse("--runs", good, "--analysis", wrong, "--outdir", tmp_path)
    assert "name another --outdir" in refuse("--runs", good, "--outdir", wrong / "below")
    assert not list(tmp_path.glob("*.xlsx"))


def test_hostile_names_reach_no_formula(tmp_path: Path) -> None:
    runs = [record(model_id="=1+1", id="=2+3", level=level, category="=4") for level in ("L0", "=L1")]
    scores = tmp_path / "scores.csv"
    scores.write_text(SCORES + '=2+3,=2,=1+1,L0_vs_=L1,A,"=HYPERLINK(""x"")",1\n')
    outdir = aggregate(tmp_path, "--runs", write_runs(tmp_path / "r.jsonl", runs), "--scores", scores)
    for book in BOOKS:
        sheets = openpyxl.load_workbook(outdir / f"{book}.xlsx")
        assert not [c for sheet in sheets for row in sheet.iter_rows() for c in row if c.data_type in "fe"]
    assert "=HYPERLINK" in all_text(outdir / "quality_scores.xlsx")


def test_without_scores_all_four_are_written_and_quality_says_why_it_is_empty(tmp_path: Path) -> None:
    outdir = aggregate(tmp_path, "--runs", write_runs(tmp_path / "r.jsonl", [record()]))
    assert {path.stem for path in outdir.glob("*.xlsx")} == set(BOOKS)
    assert "no --scores given: no win rates" in all_text(outdir / "quality_scores.xlsx")
    rows = pd.read_excel(outdir / "quality_scores.xlsx", sheet_name="m")
    assert rows["Pair"].tolist() == ["no verdict on this model; see Notes"]
