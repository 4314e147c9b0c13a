"""The tables of the workbooks: figures of the analysis, labels for people, nothing empty, what follows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from edgebench.reporting import book_tables
from edgebench.reporting.sheets import Column
from edgebench.reporting.study import Study
from tests.fakes.made_workbooks import record, study_of

COSTS = ("energy_joule", "latency_ms", "completion_tokens")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return campaign(tmp_path_factory.mktemp("measured"), ("one", "two"), 10)


def campaign(tmp_path: Path, models: tuple[str, ...] = ("one",), tasks: int = 2, **changes: Any) -> Study:
    """Three levels, two repeats; the judge has met L0 with both others."""
    rows = [
        record(
            id=task, model_id=model, level=level, repeat=repeat, prompt_tokens=10 + 50 * k,
            completion_tokens=100 + 3 * task + 7 * k, latency_ms=1000.0 + 11 * task + 100 * k + repeat,
            energy_joule=5 + 0.3 * task + k + 0.01 * repeat, energy_uncertainty_joule=0.21, **changes,
        )
        for model in models for task in range(tasks)
        for k, level in enumerate(("L0", "L1", "P")) for repeat in (1, 2)
    ]  # fmt: skip
    scores = [
        f"{task},w,{model},L0_vs_{level},{'BBAT'[task % 4].replace('T', 'Tie')},j,1\n"
        for model in models for task in range(tasks) for level in ("L1", "P")
    ]  # fmt: skip
    return study_of(tmp_path, rows, "".join(scores))


def by_name(table: tuple[pd.DataFrame, list[Column]]) -> pd.DataFrame:
    return table[0].set_index([name for name in ("model_id", "level") if name in table[0]])


@pytest.mark.parametrize("metric", COSTS)
def test_every_figure_is_the_analysis_own(measured: Study, metric: str) -> None:
    study = measured
    table = by_name(book_tables.summary(study, metric))
    for row in study.analysis["level_means"]:
        if row["metric"] == metric:
            shown = table.loc[(row["model_id"], row["level"])]
            assert (shown["mean"], shown["std"]) == (row["mean"], row["std"])
            assert [shown["ci95_low"], shown["ci95_high"]] == row["ci95"]
            assert (shown["n_runs"], shown["n_tasks"]) == (row["n_runs"], row["n_tasks"])
    for row in study.analysis["paired"]:
        if (row["metric"], row["against"]) == (metric, "L0"):
            shown = table.loc[(row["model_id"], row["level"])]
            assert (shown["mean_difference"], shown["percent"]) == (row["mean_difference"], row["percent"])
            if row["ci95"]:
                assert [shown["difference_low"], shown["difference_high"]] == row["ci95"]


def test_win_rates_are_those_of_the_analysis_and_within_0_and_1(measured: Study) -> None:
    study = measured
    table = by_name(book_tables.summary(study, book_tables.QUALITY))
    rates = [row for row in study.analysis["win_rates"] if row["against"] == "L0"]
    assert len(table) == len(rates) == 4
    for row in rates:
        shown = table.loc[(row["model_id"], row["level"])]
        assert shown["win_rate"] == row["win_rate"] and (shown["wins"], shown["ties"]) == (
            row["wins"],
            row["ties"],
        )
        assert [shown["ci95_low"], shown["ci95_high"]] == row["ci95"]
        assert 0 <= shown["ci95_low"] <= row["win_rate"] <= shown["ci95_high"] <= 1
    beside = by_name(book_tables.summary(study, "energy_joule"))["win_rate"]
    assert beside[("one", "L1")] == table["win_rate"][("one", "L1")]


def test_with_pairs_against_p_only_the_win_rates_are_against_p(tmp_path: Path) -> None:
    rows = [record(id=task, level=level) for task in (1, 2) for level in ("L0", "L1", "P")]
    scores = "1,w,m,L0_vs_P,A,j,1\n1,w,m,L1_vs_P,B,j,1\n2,w,m,L1_vs_P,Tie,j,1\n"
    study = study_of(tmp_path, rows, scores)
    table = by_name(book_tables.summary(study, book_tables.QUALITY))["win_rate"]
    assert book_tables.reference_of(study.analysis) == "P"
    assert table.to_dict() == {("m", "L0"): 1.0, ("m", "L1"): 0.25}


def test_two_judges_are_rows_of_their_own(tmp_path: Path) -> None:
    scores = "1,w,m,L0_vs_L1,A,a,1\n1,w,m,L0_vs_L1,B,b,1\n"
    study = study_of(tmp_path, [record(), record(level="L1")], scores)
    frame, columns = book_tables.summary(study, book_tables.QUALITY)
    assert frame.set_index("judge_model")["win_rate"].to_dict() == {"a": 0.0, "b": 1.0}
    assert "Judge" in [column.label for column in columns]
    assert "by a" in book_tables.win_column(study.analysis).label


def test_no_percentage_of_a_baseline_at_or_below_zero(tmp_path: Path) -> None:
    values = [("L0", 1, -0.5), ("L0", 2, 2.0), ("L1", 1, 3.0), ("L1", 2, 4.0)]
    runs = [record(level=level, id=task, energy_joule=joule) for level, task, joule in values]
    row = by_name(book_tables.summary(study_of(tmp_path, runs), "energy_joule")).loc[("m", "L1")]
    assert row["mean_difference"] == 2.75 and "percent" not in row


# --- columns


@pytest.mark.parametrize("metric", COSTS)
def test_no_column_is_empty_and_labels_are_words(measured: Study, metric: str) -> None:
    study = measured
    columns = book_tables.run_columns(study, metric)
    tables = [(book_tables.run_rows(study, "one", columns), columns)]
    tables += [book_tables.summary(study, metric), book_tables.pivot(study, metric)]
    tables += [book_tables.paired_table(study, metric), book_tables.win_rate_table(study)]
    for frame, shown in tables:
        assert [column.name for column in shown] == list(frame)
        labels = [column.label for column in shown]
        assert len(set(labels)) == len(labels) and not [label for label in labels if "_" in label]
        for name in frame:
            assert book_tables.has_any(frame[name]), name


def test_joules_have_as_many_digits_as_they_are_certain(measured: Study) -> None:
    columns = {column.name: column for column in book_tables.run_columns(measured, "energy_joule")}
    assert columns["energy_joule"].number_format == "#,##0.00"  # ± 0.21 J
    assert columns["energy_uncertainty_joule"].number_format == "#,##0.00"
    assert columns["energy_joule"].label == "Energy net of idle [J]"


def test_simulated_joules_say_so_in_every_header(tmp_path: Path) -> None:
    study = campaign(tmp_path, flags=["simulated_power"])
    labels = [column.label for column in book_tables.run_columns(study, "energy_joule")]
    for value in (*COSTS, book_tables.QUALITY):
        labels += [column.label for column in book_tables.summary(study, value)[1]]
    joules = [label for label in labels if "Energy" in label]
    assert len(joules) > 5 and all("simulated" in label for label in joules)


def test_ttft_and_tpot_stand_beside_latency_where_they_were_measured(tmp_path: Path) -> None:
    study = campaign(tmp_path, ttft_ms=40.0, tpot_ms=9.5)
    labels = [column.label for column in book_tables.run_columns(study, "latency_ms")]
    assert {"Time to first token [ms]", "Time per output token [ms]"} <= set(labels)
    assert "Time to first token, mean [ms]" in [c.label for c in book_tables.summary(study, "latency_ms")[1]]


# --- rows


def test_rows_keep_every_run_and_the_missing_is_an_empty_cell(tmp_path: Path) -> None:
    rows = [record(), record(id=2, energy_joule=None), record(id=3, flags=["warm_cache"])]
    study = study_of(tmp_path, rows)
    frame = book_tables.run_rows(study, "m", book_tables.run_columns(study, "energy_joule"))
    assert frame["in_means"].tolist() == ["yes", "yes", "no"]
    assert frame["energy_joule"].tolist()[::2] == [1.0, 1.0] and math.isnan(frame["energy_joule"].tolist()[1])


def test_pivot_has_mean_std_and_n_of_the_repeats_that_count(tmp_path: Path) -> None:
    rows = [record(id=task, repeat=n, latency_ms=float(n)) for task in (1, 2) for n in (1, 3)]
    rows += [record(id=2, repeat=4, latency_ms=99.0, flags=["timeout"]), record(id=3, error="late")]
    frame, columns = book_tables.pivot(study_of(tmp_path, rows), "latency_ms")
    table = frame.set_index("task_id")
    assert table.loc[1, ["L0 mean", "L0 std", "L0 count"]].tolist() == [2.0, pytest.approx(math.sqrt(2)), 2.0]
    assert table.loc[2, "L0 mean"] == 2.0 and math.isnan(table.loc[3, "L0 mean"])
    assert [column.label for column in columns][2:] == [
        "L0: Latency, mean [ms]",
        "L0: Latency, std [ms]",
        "L0: n",
    ]


def test_pivot_of_scores_is_seen_from_the_other_level(tmp_path: Path) -> None:
    study = study_of(
        tmp_path, [record(), record(level="L1")], "1,w,m,L0_vs_L1,B,j,1\n2,w,m,L1_vs_L0,Tie,j,1\n"
    )
    frame, _ = book_tables.pivot(study, book_tables.QUALITY)
    assert frame.set_index("task_id")["L1 mean"].to_dict() == {1: 1.0, 2: 0.5}


# --- flags and notes


def test_flags_say_what_they_mean_and_what_follows(tmp_path: Path) -> None:
    reason = "no power source: tegrastats not found"
    rows = [
        record(id=1, flags=["truncated_output"]),
        record(id=2, flags=["warm_cache"]),
        record(id=3, error={"type": "WarmCache", "message": "the engine evaluated 1 of 20 prompt tokens"}),
        record(id=4, energy_joule=None, energy_missing=reason, flags=["no_power"]),
        record(id=5, energy_joule=-1e9, latency_ms=-1),
        record(id=6),
    ]
    table = book_tables.flag_rows(study_of(tmp_path, rows), "energy_joule")[0].set_index("task_id")
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    assert table["follows"].tolist() == [
        "counts in means", "left out of means", "left out of means",
        "counts, but has no energy net of idle: not in its means", "counts in means",
    ]  # fmt: skip
    assert table.loc[1, "meaning"].startswith("cut at the token limit")
    assert table.loc[2, "meaning"].startswith("part of the prompt came from the cache")
    assert table.loc[3, "meaning"] == "WarmCache: the engine evaluated 1 of 20 prompt tokens"
    assert table.loc[4, "meaning"] == reason
    assert table.loc[5, "meaning"] == "the record has no usable latency_ms"


def test_a_flag_that_every_run_carries_is_a_note_and_no_row(tmp_path: Path) -> None:
    study = study_of(tmp_path, [record(id=task, flags=["simulated_power"]) for task in (1, 2)])
    assert book_tables.flag_rows(study, "energy_joule")[0].empty
    notes = book_tables.note_rows(study, [], [])[0]
    assert "simulated_power" in notes[notes["about"] == "Flag of every run"]["name"].tolist()


def test_notes_tell_every_columns_name_in_the_records_and_what_was_left_away(measured: Study) -> None:
    study = measured
    columns = book_tables.run_columns(study, "latency_ms")
    notes = book_tables.note_rows(study, columns, ["2 texts had control characters: replaced or cut"])[0]
    told = dict(zip(notes["about"], notes["name"], strict=True))
    assert told["Column Latency [ms]"] == "latency_ms" and told["Column In means"] == "in_means"
    left_away = notes[notes["about"] == "Column left away"]["name"].tolist()
    assert {"category", "error", "ttft_ms"} <= set(left_away) and "latency_ms" not in left_away
    assert "2 texts had control characters: replaced or cut" in notes["note"].tolist()


def test_graded_win_rates_and_the_lean_taken_out_are_shown_where_there_are_any(measured: Study) -> None:
    graded = {"graded_win_rate": 0.61, "graded_ci95": [0.4, 0.8], "graded_n_tasks": 10, "graded_reason": None}
    rates = [{**row, **graded} for row in measured.analysis["win_rates"]]
    lean = {"model_id": None, "judge_model": "j", "pairs": 20, "lean_log_odds_mean": 0.4}
    lean |= {"lean_log_odds_std": 0.2, "first_slot_share": 0.6}
    study = replace(measured, analysis={**measured.analysis, "win_rates": rates, "graded_leans": [lean]})
    frame, columns = book_tables.summary(study, book_tables.QUALITY)
    assert set(frame["graded_win_rate"]) == {0.61} and set(frame["graded_win_rate_high"]) == {0.8}
    labels = [column.label for column in columns]
    assert labels.index("Graded win rate") > labels.index("Win rate against L0")
    assert book_tables.lean_table(study)[0]["model_id"].tolist() == ["all models"]
    assert "Graded win rate" not in [c.label for c in book_tables.summary(measured, book_tables.QUALITY)[1]]


def test_median_and_95th_percentile_of_ttft_stand_where_the_analysis_has_them(tmp_path: Path) -> None:
    study = campaign(tmp_path, ttft_ms=40.0)
    known = {"p50": 41.0, "p95": 55.0}
    means = [row | known if row["metric"] == "ttft_ms" else row for row in study.analysis["level_means"]]
    study = replace(study, analysis={**study.analysis, "level_means": means})
    frame, columns = book_tables.waiting_table(study)
    assert set(frame["ttft_ms p50"]) == {41.0} and set(frame["ttft_ms p95"]) == {55.0}
    assert "Time to first token, 95th percentile [ms]" in [column.label for column in columns]
