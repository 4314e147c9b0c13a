"""aggregate_to_excels.py and edgebench/analysis/campaign.py as the user meets them."""

import gzip
import json
import math
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregate_to_excels
from edgebench.analysis import campaign as gather_campaign
from edgebench.records.run import HARD_FLAG_MEANINGS, HARD_FLAGS

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BOOKS = ("quality_scores", "energy_per_run", "latency_per_run", "output_tokens_per_run")
FIXED = {"Summary", "Pivot", "Provenance", "Notes", "Flags"}
T_975 = {1: 12.706204736432095, 2: 4.302652729911275, 3: 3.182446305284263}  # Student's t, published tables
SCORES = "task_id,category,model_id,pair,winner,judge_model,turn\n"


def record(**changes: Any) -> dict[str, Any]:
    """A record with only the eight required names, changed as asked."""
    texts = {"id": 1, "model_id": "m", "level": "L0", "output_text": "text"}
    return {
        **texts,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "latency_ms": 100.0,
        "energy_joule": 1.0,
        **changes,
    }


def write_runs(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    lines = "".join(json.dumps(one) + "\n" for one in records)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def aggregate(outdir: Path, *arguments: object) -> Path:
    """Run the script in this process; it must succeed."""
    assert aggregate_to_excels.main([*map(str, arguments), "--outdir", str(outdir)]) == 0
    return outdir


def one_book(name: str, outdir: Path, *arguments: object) -> Path:
    """Run the script as aggregate() does, but let it write this workbook only, in a quarter of the time."""
    books = {f"{name}.xlsx": aggregate_to_excels.BOOKS[f"{name}.xlsx"]}
    with mock.patch.object(aggregate_to_excels, "BOOKS", books):
        return aggregate(outdir, *arguments) / f"{name}.xlsx"


def gather(*arguments: object) -> None:
    """Run the companion in this process; it must succeed."""
    assert gather_campaign.main([str(one) for one in arguments]) == 0


def refuse(*arguments: object, script: Path = ROOT / "aggregate_to_excels.py") -> str:
    """Run the script as a command that must fail with one error line and no traceback; that line."""
    done = subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr
    return errors[0]


def summary(book: Path) -> pd.DataFrame:
    """The table on Summary, by model and level; below it are other blocks."""
    rows = pd.read_excel(book, sheet_name="Summary", header=None).values.tolist()
    top = next(i for i, row in enumerate(rows) if row[0] == "model_id")
    end = next((i for i in range(top, len(rows)) if not isinstance(rows[i][0], str)), len(rows))
    frame = pd.DataFrame(rows[top + 1 : end], columns=rows[top])
    return frame.set_index([name for name in ("model_id", "board", "level") if name in frame])


def all_text(book: Path) -> str:
    sheets = openpyxl.load_workbook(book)
    return "\n".join(
        str(cell.value) for sheet in sheets for row in sheet.iter_rows() for cell in row if cell.value
    )


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workbooks of the golden records and a few scores."""
    outdir = tmp_path_factory.mktemp("golden")
    scores = outdir / "scores.csv"
    rows = [
        "81,w,alpha-1b,L0_vs_L1,B,judge,1",
        "82,w,alpha-1b,L0_vs_L1,Tie,judge,1",
        "83,w,alpha-1b,L0_vs_L1,A,judge,1",
    ]
    rows += [
        "84,w,alpha-1b,L0_vs_L1,B,judge,1",
        "81,w,alpha-1b,L1_vs_P,A,judge,1",
        "81,w,alpha-1b,L0_vs_P,B,judge,1",
    ]
    scores.write_text(SCORES + "\n".join(rows) + "\n")
    return aggregate(outdir, "--runs", GOLDEN / "runs.jsonl", "--scores", scores)


def test_numbers_of_the_golden_records_match_those_computed_by_hand(golden: Path) -> None:
    table = summary(golden / "energy_per_run.xlsx")
    l0, l1 = table.loc[("alpha-1b", "L0")], table.loc[("alpha-1b", "L1")]
    # L0: task 81 has 2 J and 4 J (a third run came from a warm cache), task 82 has 6 J.
    assert (l0["n"], l0["n_tasks"], l0["n_left_out"]) == (3, 2, 1)
    assert l0["energy_joule mean"] == pytest.approx(4.5)
    assert l0["energy_joule std"] == pytest.approx(2.0)
    half = T_975[1] * statistics.stdev([3, 6]) / math.sqrt(2)
    assert l0["energy_joule ci95_half"] == pytest.approx(half, rel=1e-9)
    assert l0["energy_joule ci95_low"] == pytest.approx(4.5 - half, rel=1e-9)
    assert l0["energy_joule ci95_high"] == pytest.approx(4.5 + half, rel=1e-9)
    assert math.isnan(l0["energy_joule delta"])
    # L1: 5 J and 7 J, and 9 J from the second try of a run that had failed.
    assert (l1["n"], l1["n_left_out"], l1["energy_joule mean"]) == (3, 0, pytest.approx(7.5))
    assert l1["energy_joule delta"] == pytest.approx(3.0)
    assert l1["energy_joule delta_percent"] == pytest.approx(100 * 3.0 / 4.5)
    assert l1["prompt_tokens mean"] == pytest.approx(62)
    assert table.loc[("beta-2b", "P")]["energy_joule mean"] == -0.5  # net energy may be negative
    assert table.loc[("gemma-2-2b-it", "L2")]["energy_joule mean"] == 92.75


def test_win_rates_match_those_computed_by_hand(golden: Path) -> None:
    table = summary(golden / "quality_scores.xlsx")
    row = table.loc[("alpha-1b", "L1")]  # against L0: win, tie, loss, win
    assert (row["n"], row["n_tasks"], row["win_rate_vs_L0 mean"]) == (4, 4, pytest.approx(0.625))
    scores = [1, 0.5, 0, 1]
    assert row["win_rate_vs_L0 std"] == pytest.approx(statistics.stdev(scores))
    assert row["win_rate_vs_L0 ci95_half"] == pytest.approx(T_975[3] * statistics.stdev(scores) / 2, rel=1e-9)
    assert row["win_rate_vs_L0 delta"] == pytest.approx(0.125)
    assert table.loc[("alpha-1b", "P")]["win_rate_vs_L0 mean"] == 1.0
    assert math.isnan(table.loc[("alpha-1b", "L0")]["win_rate_vs_L0 mean"])


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
    for name in models | {"Summary"}:
        (chart,) = sheets[name]._charts
        assert all(series.errBars is not None for series in chart.series)
        assert chart.anchor._from.col >= sheets[name].max_column or name == "Summary"


def test_tidy_rows_keep_every_run_and_the_missing_is_an_empty_cell_with_its_reason(golden: Path) -> None:
    frames = pd.read_excel(golden / "energy_per_run.xlsx", sheet_name=None)
    alpha = frames["alpha-1b"]
    assert list(alpha["in_means"]).count("no") == 1 and len(alpha) == 7
    assert alpha["energy_joule"].tolist() == [2, 4, 1, 5, 7, 6, 9]
    beta = frames["beta-2b"].set_index("task_id")
    assert math.isnan(beta.loc["q-9", "energy_joule"])
    flags = frames["Flags"]
    row = flags[flags["task_id"] == "q-9"].iloc[0]
    assert (row["model_id"], row["effect"], row["reason"]) == ("beta-2b", "kept, no energy_joule", "no_power")
    left_out = frames["Flags"][frames["Flags"]["effect"] == "left out of means"]
    assert left_out["reason"].tolist() == ["WarmCache: the engine evaluated 1 of 20 prompt tokens"]
    assert left_out["flags"].tolist() == ["prompt_not_evaluated warm_cache"]
    pivot = frames["Pivot"].astype({"task_id": str}).set_index(["model_id", "task_id"])
    assert pivot.loc[("alpha-1b", "81"), "L0 energy_joule mean"] == 3
    assert pivot.loc[("alpha-1b", "81"), "L0 energy_joule std"] == pytest.approx(math.sqrt(2))
    assert pivot.loc[("alpha-1b", "81"), "L0 n"] == 2 and math.isnan(pivot.loc[("beta-2b", "q-9"), "P n"])


def test_numbers_are_numbers_with_formats(golden: Path) -> None:
    sheet = openpyxl.load_workbook(golden / "latency_per_run.xlsx")["alpha-1b"]
    column = [cell.value for cell in sheet[1]].index("latency_ms")
    cells = [row[column] for row in sheet.iter_rows(min_row=2)]
    assert all(isinstance(cell.value, (int, float)) and cell.number_format == "#,##0.0" for cell in cells)


def test_simulated_power_is_said_everywhere(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for book in BOOKS:
        assert "SIMULATED POWER in 1 of 11 runs" in all_text(golden / f"{book}.xlsx")
    aggregate(golden / "again", "--runs", GOLDEN / "runs.jsonl")
    screen = capsys.readouterr().out
    assert "SIMULATED POWER" in screen and max(map(len, screen.split("wrote")[0].splitlines())) <= 80
    assert [line.split("/")[-1] for line in screen.splitlines()[-4:]] == [f"{book}.xlsx" for book in BOOKS]


def test_the_demo_table_has_tokens_latency_energy_and_win_rate(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aggregate(golden / "table", "--runs", GOLDEN / "runs.jsonl", "--scores", golden / "scores.csv")
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "model level tokens out latency ms energy J win vs L0"
    assert lines[2].split() == ["alpha-1b", "L1", "166.0", "1,660.0", "7.500", "0.625"]


JUNK = st.sampled_from([math.nan, math.inf, -math.inf, None, "ERROR", "12", -1, True, [], {}, 10**400])


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 1e6)), min_size=1, max_size=12),
    junk=st.lists(st.tuples(st.integers(1, 5), JUNK), max_size=5),
    errors=st.lists(st.integers(1, 5), max_size=3),
)
def test_what_is_no_measurement_changes_no_mean(
    values: list[tuple[int, float]], junk: list[tuple[int, Any]], errors: list[int]
) -> None:
    rows = [record(id=task, latency_ms=value) for task, value in values]
    rows += [record(id=task, latency_ms=value) for task, value in junk]
    rows += [record(id=task, latency_ms=5.0, error="CUDA out of memory") for task in errors]
    frame = aggregate_to_excels.checked([aggregate_to_excels.slim(row) for row in rows])
    stats = aggregate_to_excels.level_stats(frame.assign(kept=~frame["hard"]), "latency_ms", "L0")
    by_task = [[value for one, value in values if one == task] for task in {task for task, _ in values}]
    means = [statistics.fmean(group) for group in by_task]
    row = stats.loc[("", "m", "L0")]
    assert (row["n"], row["n_tasks"]) == (len(values), len(means))
    assert row["mean"] == pytest.approx(statistics.fmean(means))
    if len(values) > 1:
        assert row["std"] == pytest.approx(statistics.stdev(value for _, value in values), abs=1e-6)
    if len(means) in (2, 3, 4):
        half = T_975[len(means) - 1] * statistics.stdev(means) / math.sqrt(len(means))
        assert row["ci95_half"] == pytest.approx(half, rel=1e-9, abs=1e-6)


def test_what_was_invalid_is_flagged_and_empty(tmp_path: Path) -> None:
    runs = write_runs(
        tmp_path / "r.jsonl", [record(), record(id=2, latency_ms=-1, completion_tokens="ERROR")]
    )
    frames = pd.read_excel(one_book("latency_per_run", tmp_path, "--runs", runs), sheet_name=None)
    assert frames["m"]["latency_ms"].tolist()[0] == 100 and math.isnan(frames["m"]["latency_ms"].tolist()[1])
    assert frames["Flags"]["flags"].tolist() == ["invalid_completion_tokens invalid_latency_ms"]
    assert frames["Flags"]["effect"].tolist() == ["kept, no latency_ms"]


def test_no_power_at_all_keeps_its_reason(tmp_path: Path) -> None:
    reason = "no power source: tegrastats not found"
    runs = [record(id=task, energy_joule=None, energy_missing=reason, flags=["no_power"]) for task in (1, 2)]
    book = one_book("energy_per_run", tmp_path, "--runs", write_runs(tmp_path / "r.jsonl", runs))
    assert pd.read_excel(book, sheet_name="Flags")["reason"].tolist() == [reason] * 2
    assert math.isnan(summary(book).iloc[0]["energy_joule mean"])


def test_flagged_runs_come_back_with_include_flagged(tmp_path: Path) -> None:
    runs = [record(latency_ms=100.0), record(id=2, latency_ms=300.0, flags=["warm_cache"])]
    path = write_runs(tmp_path / "r.jsonl", runs)
    without = summary(one_book("latency_per_run", tmp_path, "--runs", path)).iloc[0]
    kept = summary(one_book("latency_per_run", tmp_path, "--runs", path, "--include_flagged")).iloc[0]
    assert (without["latency_ms mean"], without["n_left_out"]) == (100, 1)
    assert (kept["latency_ms mean"], kept["n_left_out"]) == (200, 0)


def test_who_decides_which_runs_count_decides_the_same(tmp_path: Path) -> None:
    """The gathered file and the workbooks agree on which runs count."""
    assert set(HARD_FLAG_MEANINGS) == HARD_FLAGS
    cases: list[dict[str, Any]] = [{"flags": [flag]} for flag in HARD_FLAG_MEANINGS]
    cases += [{}, {"flags": ["throttled"]}, {"flags": "timeout"}, {"error": {}}, {"error": {"type": "E"}}]
    cases += [{"prompt_tokens_evaluated": value} for value in (None, 10, 9)]
    alone = aggregate_to_excels.checked([aggregate_to_excels.slim(record(**case)) for case in cases])
    together = [gather_campaign.add_context(record(**case), {})["in_means"] for case in cases]
    assert (~alone["hard"]).tolist() == together
    keys = [record(run_key=f"k{n % 3}", id=n, **case) for n, case in enumerate(cases)]
    path = write_runs(tmp_path / "r.jsonl", keys)
    kept, _, _ = aggregate_to_excels.read_runs(path)
    campaign = gather_campaign.Campaign()
    runs = list(gather_campaign.stream_runs([path], [], campaign))
    left = [run["id"] for number, run in enumerate(runs) if number not in campaign.dropped]
    assert kept["task_id"].astype(int).tolist() == left


def test_no_percentage_of_a_baseline_at_or_below_zero(tmp_path: Path) -> None:
    values = [("L0", 1, -0.5), ("L0", 2, 2.0), ("L1", 1, 3.0), ("L1", 2, 4.0)]
    runs = [record(level=level, id=task, energy_joule=joule) for level, task, joule in values]
    book = one_book("energy_per_run", tmp_path, "--runs", write_runs(tmp_path / "r.jsonl", runs))
    row = summary(book).loc[("m", "L1")]
    assert row["energy_joule delta"] == 2.75 and math.isnan(row["energy_joule delta_percent"])
    half = summary(book)["energy_joule ci95_half"].max()
    axis = openpyxl.load_workbook(book)["Summary"]._charts[0].y_axis.scaling
    assert axis.min <= 0.75 - half and axis.max >= 3.5  # the intervals are inside the chart


def test_colours_mark_high_values_and_the_runs_left_out(golden: Path) -> None:
    sheets = openpyxl.load_workbook(golden / "energy_per_run.xlsx")
    rules = {
        (rule.type, str(cells.sqref))
        for cells in sheets["alpha-1b"].conditional_formatting
        for rule in cells.rules
    }
    assert rules == {("colorScale", "H2:H8"), ("expression", "A2:K8")}
    assert sheets["alpha-1b"]["H1"].value == "energy_joule"
    (pivot,) = sheets["Pivot"].conditional_formatting
    assert len(str(pivot.sqref).split()) == 5  # one scale over the means of all levels


def test_task_id_is_read_under_its_other_names(tmp_path: Path) -> None:
    one, two = record(), record()
    one["question_id"], two["task_id"] = one.pop("id"), two.pop("id") + 8
    runs = write_runs(tmp_path / "r.jsonl", [one, two, record(id=10)])
    frame = pd.read_excel(one_book("latency_per_run", tmp_path, "--runs", runs), sheet_name="m")
    assert frame["task_id"].tolist() == [1, 9, 10]


@pytest.mark.parametrize("content", [None, "", SCORES])
def test_without_scores_quality_says_so(tmp_path: Path, content: str | None) -> None:
    scores = tmp_path / "scores.csv"
    if content is not None:
        scores.write_text(content)
    book = one_book("quality_scores", tmp_path, "--runs", GOLDEN / "runs.jsonl", "--scores", scores)
    frames = pd.read_excel(book, sheet_name=None)
    assert "see Notes" in frames["alpha-1b"]["flags"][0]
    assert any("no win rates" in note for note in frames["Notes"]["note"])


def test_with_pairs_against_p_only_the_win_rates_are_against_p(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text(SCORES + "1,w,m,L0_vs_P,A,j,1\n1,w,m,L1_vs_P,B,j,1\n2,w,m,L1_vs_P,Tie,j,1\n")
    runs = [record(id=task, level=level) for task in (1, 2) for level in ("L0", "L1", "P")]
    outdir = aggregate(tmp_path, "--runs", write_runs(tmp_path / "r.jsonl", runs), "--scores", scores)
    table = summary(outdir / "quality_scores.xlsx")["win_rate_vs_P mean"]
    assert (table[("m", "L0")], table[("m", "L1")]) == (1.0, 0.25)
    assert math.isnan(table[("m", "P")])


def test_unusable_and_repeated_scores_are_counted_and_left_out(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    rows = ["1,w,m,L0_vs_L1,B,j,1"] * 2 + [
        "2,w,m,L0_vs_L1,error,j,1",
        "3,w,m,L0-L1,A,j,1",
        ",w,m,L0_vs_L1,A,j,1",
    ]
    scores.write_text("\ufeff" + SCORES.replace("\n", "\r\n") + "\r\n".join(rows), encoding="utf-8")
    runs = write_runs(tmp_path / "r.jsonl", [record(), record(level="L1")])
    book = one_book("quality_scores", tmp_path, "--runs", runs, "--scores", scores)
    assert summary(book).loc[("m", "L1")]["win_rate_vs_L0 mean"] == 1.0
    assert ": 4 rows repeat another or lack" in all_text(book)


def test_the_same_file_twice_counts_once_and_the_last_good_record_of_a_key_wins(tmp_path: Path) -> None:
    tries = [record(run_key="k", latency_ms=None, error={"type": "Timeout", "message": "120 s"})]
    tries += [record(run_key="k", latency_ms=50.0), record(run_key="k", latency_ms=70.0)]
    tries += [record(run_key="k", latency_ms=90.0, error="late"), record(id=2, latency_ms=10.0)]
    one = write_runs(tmp_path / "one.jsonl", tries)
    shutil.copy(one, tmp_path / "two.jsonl")
    book = one_book("latency_per_run", tmp_path, "--runs", tmp_path / "*.jsonl")
    row = summary(book).iloc[0]
    assert (row["n"], row["latency_ms mean"], row["n_left_out"]) == (2, 40, 0)
    assert "two.jsonl is the same file as" in all_text(book) and "3 records repeat a run" in all_text(book)


def board_files(folder: Path, name: str, mode: str, value: float) -> Path:
    folder.mkdir()
    board = {"board": name, "power_mode_name": mode}  # what companions/board_check.py found
    env = {"env_id": "e", "board": board, "models": {"m": {"sha256": "0" * 64}}}
    write_runs(folder / "runs.env.jsonl", [env])
    more = {"env_id": "e", "power_scope": "module", "power_source": "ina3221", "energy_joule": value}
    runs = [record(id=task, run_key=f"key {task}", **more) for task in (1, 2)]
    return write_runs(folder / "runs.jsonl.gz", runs)


def test_boards_are_a_column_and_never_share_a_mean(tmp_path: Path) -> None:
    board_files(tmp_path / "a", "Orin Nano", "MAXN_SUPER", 1.0)
    board_files(tmp_path / "b", "AGX Orin", "MAXN", 3.0)
    book = one_book("energy_per_run", tmp_path, "--runs", tmp_path / "*" / "runs.jsonl.gz")
    table = summary(book)["energy_joule mean"]
    assert table[("m", "Orin Nano", "L0")] == 1 and table[("m", "AGX Orin", "L0")] == 3
    frames = pd.read_excel(book, sheet_name=None)
    assert set(frames["m"]["board"]) == {"Orin Nano", "AGX Orin"} == set(frames["Pivot"]["board"])
    rows = frames["Provenance"].astype(str).agg(" ".join, axis=1)
    assert any("power_mode_name MAXN_SUPER" in row for row in rows) and any("sha256" in row for row in rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"power_scope": "board"}, "power scope board and module"),
        ({"flags": ["simulated_power"]}, "simulated power no and yes"),
        ({"quantization": "Q4_0"}, "quantization Q4_0 and Q6_K"),
    ],
)
def test_what_must_not_be_averaged_together_is_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    base = {"power_scope": "module", "quantization": "Q6_K"}
    runs = write_runs(tmp_path / "r.jsonl", [record(**base), record(id=2, **{**base, **change})])
    error = refuse("--runs", runs, "--outdir", tmp_path)
    assert named in error and "--allow_mixed" in error and not list(tmp_path.glob("*.xlsx"))
    book = one_book("energy_per_run", tmp_path, "--runs", runs, "--allow_mixed")
    assert named in all_text(book)


def test_a_mixed_power_mode_is_refused(tmp_path: Path) -> None:
    board_files(tmp_path / "a", "Orin Nano", "MAXN_SUPER", 1.0)
    board_files(tmp_path / "b", "Orin Nano", "15W", 3.0)
    error = refuse("--runs", tmp_path / "*" / "runs.jsonl.gz", "--outdir", tmp_path)
    assert "m on Orin Nano: power mode 15W and MAXN_SUPER" in error


HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "#N/A",
    "a\x00b",
    "bad \ud800",
    "<script>alert(1)</script>",
]
HOSTILE += [
    "x" * 40_000,
    "a/b:c*d?[e]",
    "A/B:C*D?[E]",
    "Summary",
    "history",
    "'q'",
    "",
    " ",
    "\U0001f600" * 20,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outdir = tmp_path_factory.mktemp("hostile")
    models = [*filter(None, HOSTILE), *(f"one-long-name-that-many-models-share-{n}" for n in range(10))]
    texts = {"id": "=2+3", "category": "=4", "output_text": "=HYPERLINK()", "error": None}
    runs = [record(model_id=model, level=level, **texts) for model in models for level in ("L0", "=L1")]
    runs += [record(model_id="last", id=text, error={"type": "=E", "message": text}) for text in HOSTILE]
    scores = outdir / "scores.csv"
    scores.write_text(SCORES + '=1,=2,=1+1,L0_vs_=L1,A,"=HYPERLINK(""x"")",1\n')
    return aggregate(outdir, "--runs", write_runs(outdir / "r.jsonl", runs), "--scores", scores)


@pytest.mark.parametrize("book", BOOKS)
def test_hostile_text_stays_text(hostile: Path, book: str) -> None:
    sheets = openpyxl.load_workbook(hostile / f"{book}.xlsx")
    assert not [c for sheet in sheets for row in sheet.iter_rows() for c in row if c.data_type in "fe"]
    names = [name.casefold() for name in sheets.sheetnames]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 31
    assert not [name for name in sheets.sheetnames if set(name) & set("[]:*?/\\") or name.strip("'") != name]
    rows = [[cell.value for cell in row] for row in sheets["Summary"].iter_rows(max_col=2)]
    mapped = dict(rows[rows.index(["model_id", "sheet"]) + 1 :])
    assert mapped["=1+1"] == "=1+1" and mapped["Summary"] == "Summary~2" and mapped["history"] != "history"
    assert {f"one-long-name-that-many-models-share-{n}" for n in range(10)} <= set(mapped)
    assert len(set(mapped.values())) == len(mapped) <= len(sheets.sheetnames) - len(FIXED)
    notes = all_text(hostile / f"{book}.xlsx")
    assert all(cause in notes for cause in ("control characters", "lone surrogates", "too long"))
    with zipfile.ZipFile(hostile / f"{book}.xlsx") as archive:
        for name in archive.namelist():
            tree = ElementTree.fromstring(archive.read(name))
            assert not [tag for tag in tree.iter() if tag.tag.endswith("}f") and "worksheets" in name]


@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_opens_hostile_workbooks(hostile: Path, tmp_path: Path) -> None:
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = ["soffice", profile, "--headless", "--convert-to", "csv", "--outdir", str(tmp_path)]
    subprocess.run(
        [*command, *(str(hostile / f"{book}.xlsx") for book in BOOKS)], capture_output=True, timeout=60
    )
    for book in BOOKS:
        text = (tmp_path / f"{book}.csv").read_text()
        assert "=1+1" in text and "Err:" not in text


def test_long_tables_go_on_in_numbered_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate_to_excels, "MAX_ROWS", 21)
    runs = write_runs(tmp_path / "r.jsonl", [record(id=task, model_id="m" * 31) for task in range(50)])
    frames = pd.read_excel(one_book("latency_per_run", tmp_path, "--runs", runs), sheet_name=None)
    parts = [frames[name] for name in ("m" * 31, "m" * 27 + " (2)", "m" * 27 + " (3)")]
    assert [len(part) for part in parts] == [20, 20, 10]
    assert pd.concat(parts)["task_id"].tolist() == list(range(50)) and len(frames["Pivot (2)"]) == 20


def test_slices_of_a_big_file_give_the_same_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [record(id=task % 7, latency_ms=float(task + 1), run_key=str(task % 40)) for task in range(50)]
    path = write_runs(tmp_path / "r.jsonl.gz", runs)
    whole = summary(one_book("latency_per_run", tmp_path / "a", "--runs", path))
    monkeypatch.setattr(aggregate_to_excels, "SLICE", 8)
    sliced = summary(one_book("latency_per_run", tmp_path / "b", "--runs", path))
    pd.testing.assert_frame_equal(whole, sliced)


@pytest.mark.parametrize("lock", [".~lock.latency_per_run.xlsx#", "~$latency_per_run.xlsx"])
def test_a_workbook_that_is_open_elsewhere_is_not_touched(tmp_path: Path, lock: str) -> None:
    aggregate(tmp_path, "--runs", GOLDEN / "runs.jsonl")
    (tmp_path / lock).touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    error = refuse("--runs", GOLDEN / "runs.jsonl", "--outdir", tmp_path)
    assert "latency_per_run.xlsx is open" in error and "close it" in error
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_failure_in_the_middle_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregate(tmp_path, "--runs", GOLDEN / "runs.jsonl")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write: Callable[..., None] = aggregate_to_excels.write_book

    def full(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        if "latency" in path.name:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(aggregate_to_excels, "write_book", full)
    assert aggregate_to_excels.main(["--runs", str(GOLDEN / "runs.jsonl"), "--outdir", str(tmp_path)]) == 1
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_bad_input_is_one_line_of_error(tmp_path: Path) -> None:
    good, empty, broken = GOLDEN / "runs.jsonl", tmp_path / "empty.jsonl", tmp_path / "broken.jsonl.gz"
    empty.write_text("\n\n")
    broken.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-20])
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    assert "no run records at nothing.jsonl" in refuse("--runs", "nothing.jsonl", "--outdir", tmp_path)
    assert "no run record in" in refuse("--runs", empty, "--outdir", tmp_path)
    refuse("--runs", broken, "--outdir", tmp_path)
    error = refuse("--runs", good, "--scores", wrong, "--outdir", tmp_path)
    assert "wrong.csv has no column model_id, pair, task_id, winner" in error
    assert "--analysis" in refuse("--runs", good, "--analysis", wrong, "--outdir", tmp_path)
    refuse("--runs", good, "--outdir", wrong / "below")
    assert not list(tmp_path.glob("*.xlsx"))


def test_the_analysis_is_on_summary(tmp_path: Path) -> None:
    answer = ["From L0 to L3 the prompt grows.", "The judge prefers L3.", "L1 is the cheapest."]
    rates = [
        {"model_id": "m", "level": "L1", "against": "L0", "win_rate": 0.6, "ci95": [0.4, 0.8], "reason": None}
    ]
    strengths = [{"model_id": "m", "level": "L1", "beta": 0.405, "se": 0.2, "elo": 1035.2}]
    paired = {
        "model_id": "m",
        "level": "L1",
        "against": "L0",
        "metric": "energy_joule",
        "unit": "J",
        "wilcoxon_p": 0.03,
    }
    other = {**paired, "metric": "latency_ms", "wilcoxon_p": 0.9}
    found = {
        "answer": answer,
        "win_rates": rates,
        "bradley_terry": strengths,
        "paired": [paired, other],
        "inputs": [],
    }
    analysis = tmp_path / "analysis.json"
    analysis.write_text(json.dumps(found))
    runs = write_runs(tmp_path / "r.jsonl", [record(), record(level="L1")])
    text = all_text(one_book("energy_per_run", tmp_path, "--runs", runs, "--analysis", analysis))
    assert all(sentence in text for sentence in answer)
    assert all(
        word in text.split("\n")
        for word in ("win_rate", "ci95_low", "0.4", "beta", "0.405", "wilcoxon_p", "0.03")
    )
    assert "0.9" not in text.split("\n") and "was made from other runs than these" in text


def test_parquet_is_partitioned_and_duckdb_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="--parquet needs pyarrow")
    duckdb = pytest.importorskip("duckdb", reason="the query is run with duckdb")
    board_files(tmp_path / "a", "Orin Nano", "MAXN_SUPER", 1.0)
    board_files(tmp_path / "b", "AGX/Orin", "MAXN", 3.0)
    folder = tmp_path / "tidy"
    runs, out = tmp_path / "*" / "runs.jsonl.gz", tmp_path / "gathered.jsonl"
    aggregate(tmp_path, "--runs", runs, "--parquet", folder)
    gather("--runs", runs, "--out", out, "--parquet", folder)  # a second time replaces it
    query = f"""
        SELECT board, model_id, level, count(*) AS n, avg(energy_joule) AS energy_joule_mean
        FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)
        WHERE in_means GROUP BY ALL ORDER BY board
    """
    assert duckdb.sql(query).fetchall() == [("AGX/Orin", "m", "L0", 2, 3.0), ("Orin Nano", "m", "L0", 2, 1.0)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    runs = tmp_path / "a" / "runs.jsonl.gz"
    assert "holds other files" in refuse("--runs", runs, "--outdir", tmp_path, "--parquet", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    gather("--runs", GOLDEN / "runs.jsonl", "--out", out, "--parquet", tmp_path / "unknown")
    found = f"read_parquet('{tmp_path}/unknown/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"SELECT DISTINCT board FROM {found}").fetchall() == [(None,)]


def test_gathered_file_keeps_no_answer_texts(tmp_path: Path) -> None:
    out = tmp_path / "gathered.jsonl"
    gather("--runs", GOLDEN / "runs.jsonl", "--out", out)
    head, *runs = map(json.loads, out.read_text().splitlines())
    assert head["records"] == len(runs) == 11 and "Once upon" not in out.read_text()
    assert [run["in_means"] for run in runs].count(False) == 1
    assert len({row[1]: row[2] for row in head["provenance"]}["sha256"]) == 64
