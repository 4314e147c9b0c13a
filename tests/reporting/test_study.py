"""What the workbooks show: which rows there are, which count, and whose analysis it is."""

from __future__ import annotations

import html
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.analysis import campaign
from edgebench.analysis.levels import Settings, analyze, as_json
from edgebench.errors import UserError
from edgebench.records.run import HARD_FLAG_MEANINGS, HARD_FLAGS
from edgebench.reporting import study as study_room
from edgebench.reporting.page import Sources, page_of, read_report
from edgebench.reporting.study import Study, Wanted, read_study
from edgebench.reporting.terminal import text_of
from edgebench.reporting.words import in_words
from tests.fakes.made_workbooks import SCORES, all_text, book_of, record, study_of, write_runs

FIELD_CASES = Path(__file__).resolve().parents[3] / "shared" / "data" / "field-cases" / "judge"
JUNK = st.sampled_from([math.nan, math.inf, -math.inf, None, "ERROR", -1, True, [], {}, 10**400, 1e171])


def row_of(study: Study, metric: str = "latency_ms", level: str = "L0") -> dict[str, Any]:
    (row,) = [
        row for row in study.analysis["level_means"] if (row["metric"], row["level"]) == (metric, level)
    ]
    return dict(row)


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 1e6)), min_size=1, max_size=12),
    junk=st.lists(st.tuples(st.integers(1, 5), JUNK), max_size=5),
    errors=st.lists(st.integers(1, 5), max_size=3),
)
def test_what_is_no_measurement_changes_no_mean(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[int, float]],
    junk: list[tuple[int, Any]],
    errors: list[int],
) -> None:
    rows = [record(id=task, latency_ms=value) for task, value in values]
    rows += [record(id=task, latency_ms=value) for task, value in junk]
    rows += [record(id=task, latency_ms=5.0, error="CUDA out of memory") for task in errors]
    study = study_of(tmp_path_factory.mktemp("study"), rows)
    by_task = [[value for one, value in values if one == task] for task in {task for task, _ in values}]
    row = row_of(study)
    assert (row["n_runs"], row["n_tasks"]) == (len(values), len(by_task))
    assert row["mean"] == pytest.approx(statistics.fmean(map(statistics.fmean, by_task)))
    if len(values) > 1:
        assert row["std"] == pytest.approx(statistics.stdev(value for _, value in values), abs=1e-6)
    assert len(study.runs) == len(rows) and (~study.runs["kept"]).sum() == len(errors)


def test_what_was_invalid_is_flagged_and_empty(tmp_path: Path) -> None:
    rows = [record(), record(id=2, latency_ms=-1, completion_tokens="ERROR")]
    runs = study_of(tmp_path, rows).runs
    assert runs["latency_ms"].tolist()[0] == 100 and math.isnan(runs["latency_ms"].tolist()[1])
    assert runs["flags"].tolist() == ["", "invalid_completion_tokens invalid_latency_ms"]
    assert runs["kept"].all()


def test_numbers_as_text_are_read_with_a_remark(tmp_path: Path) -> None:
    study = study_of(tmp_path, [record(latency_ms="1028.46", energy_joule=" 3 "), record(id=2)])
    assert study.runs["latency_ms"].tolist() == [1028.46, 100.0] and study.runs["flags"].eq("").all()
    assert "2 numbers written as text (latency_ms, energy_joule): read as numbers" in study.remarks
    assert row_of(study)["mean"] == pytest.approx((1028.46 + 100) / 2)


def test_what_the_reader_noticed_is_told_once_in_workbooks_text_and_page(tmp_path: Path) -> None:
    rows = [record(latency_ms="1,5"), record(id=2, latency_ms="12.3"), record(id=3, run_key="k")]
    study = study_of(tmp_path, [*rows, record(id=3, run_key="k")])
    said = [
        "1 record left out: the last good one of each run counts",
        "1 number written as text (latency_ms): read as numbers",
        '1 value where a number belongs, taken as missing: latency_ms ("1,5"); decimals are written with a'
        " point",
    ]
    assert [row["text"] for row in study.analysis["remarks"]] == said
    (tmp_path / "analysis.json").write_bytes(as_json(study.analysis))
    book = all_text(book_of(study, tmp_path / "latency.xlsx"))
    text = " ".join(text_of(study.analysis, "#").split())
    page = html.unescape(page_of(read_report(tmp_path / "analysis.json", Sources())))
    for sentence in said:
        assert study.remarks.count(sentence) == 1
        assert (book.count(f"– {sentence}"), text.count(sentence), page.count(sentence)) == (1, 1, 1)


def test_who_decides_which_runs_count_decides_the_same(tmp_path: Path) -> None:
    """The analysis and the rows agree on which runs count, and of a repeated run the last good one does."""
    assert set(HARD_FLAG_MEANINGS) == HARD_FLAGS
    cases: list[dict[str, Any]] = [{"flags": [flag]} for flag in HARD_FLAG_MEANINGS]
    cases += [{}, {"flags": ["throttled"]}, {"flags": "timeout"}, {"error": {}}, {"error": {"type": "E"}}]
    cases += [{"prompt_tokens_evaluated": value} for value in (None, 10, 9)]
    rows = [record(id=n, **case) for n, case in enumerate(cases)]
    kept = study_of(tmp_path, rows).runs["kept"].tolist()
    assert kept == [campaign.add_context(row, {})["in_means"] for row in rows]
    assert study_of(tmp_path, rows, include_flagged=True).runs["kept"].all()
    keyed = [record(run_key=f"k{n % 3}", id=n, **case) for n, case in enumerate(cases)]
    study = study_of(tmp_path, keyed)
    assert study.analysis["counts"]["superseded"] == len(rows) - 3 == len(study.dropped)
    assert sorted(study.runs["task_id"]) == sorted(last_good(keyed))


def last_good(rows: list[dict[str, Any]]) -> list[int]:
    """The ids that stand when of each key the last good record counts."""
    stands: dict[str, dict[str, Any]] = {}
    for row in rows:
        good = campaign.add_context(row, {})["in_means"]
        before = stands.get(row["run_key"])
        if before is None or good or not campaign.add_context(before, {})["in_means"]:
            stands[row["run_key"]] = row
    return [row["id"] for row in stands.values()]


def test_the_same_file_twice_counts_once_and_the_last_good_record_of_a_key_wins(tmp_path: Path) -> None:
    tries = [record(run_key="k", latency_ms=None, error={"type": "Timeout", "message": "120 s"})]
    tries += [record(run_key="k", latency_ms=50.0), record(run_key="k", latency_ms=70.0)]
    tries += [record(run_key="k", latency_ms=90.0, error="late"), record(id=2, latency_ms=10.0)]
    one = write_runs(tmp_path / "one.jsonl", tries)
    shutil.copy(one, tmp_path / "two.jsonl")
    study = read_study(Wanted([str(tmp_path / "*.jsonl")]))
    assert (row_of(study)["n_runs"], row_of(study)["mean"], len(study.runs)) == (2, 40, 2)
    said = "\n".join(study.remarks)
    assert (
        "two.jsonl is the same file as" in said
        and "3 records left out: the last good one of each run counts" in said
    )


def test_a_task_is_one_whatever_it_is_called_and_however_it_is_written(tmp_path: Path) -> None:
    rows = [record(id=81), record(id="81", repeat=2), record(id=81.0, repeat=3)]
    one, two = record(repeat=4), record(repeat=5)
    one["question_id"], two["task_id"] = 81, "81"
    del one["id"], two["id"]
    study = study_of(tmp_path, [*rows, one, two, record(id=9)])
    assert study.runs["task_id"].tolist() == [9, 81, 81, 81, 81, 81]
    assert row_of(study)["n_tasks"] == 2


def test_slices_of_a_big_file_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [record(id=task % 7, latency_ms=float(task + 1), run_key=str(task % 40)) for task in range(50)]
    whole = study_of(tmp_path, rows)
    monkeypatch.setattr(study_room, "SLICE", 8)
    sliced = study_of(tmp_path, rows)
    assert whole.runs.equals(sliced.runs) and row_of(whole) == row_of(sliced)


# --- what is refused, and what it is


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
    rows = [record(**base), record(id=2, **{**base, **change})]
    with pytest.raises(UserError, match=named) as refused:
        study_of(tmp_path, rows)
    assert "--allow_mixed" in str(refused.value)
    assert named in "\n".join(study_of(tmp_path, rows, allow_mixed=True).remarks)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps([record(), record(id=2)]), "one JSON array"),
        (json.dumps(record(), indent=1), "over several lines each"),
        ("\n\n", "is empty"),
    ],
)
def test_a_refused_file_is_named_for_what_it_is(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=what):
        read_study(Wanted([str(path)]))


def test_records_glued_together_are_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(record()) + json.dumps(record(id=2)) + "\n" + json.dumps(record(id=3)) + "\n")
    study = read_study(Wanted([str(path)]))
    assert sorted(study.runs["task_id"]) == [1, 2, 3]
    assert f"{path}: 1 line holds records glued together: every whole record in it is read" in study.remarks


# --- scores


def test_unusable_and_repeated_scores_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = ["1,w,m,L0_vs_L1,B,j,1"] * 2
    rows += ["2,w,m,L0_vs_L1,error,j,1", "3,w,m,L0-L1,A,j,1", ",w,m,L0_vs_L1,A,j,1"]
    study = study_of(tmp_path, [record(), record(level="L1")], "\n".join(rows) + "\n")
    assert len(study.verdicts) == 1 and study.verdicts["winning_level"].tolist() == ["L1"]
    said = "\n".join(study.remarks)
    assert "the winner is 'error', not A, B or Tie" in said
    assert "no task, no model, or not two levels" in said and "the pair stands again below" in said
    (rate,) = [row for row in study.analysis["win_rates"] if row["level"] == "L1"]
    assert (rate["win_rate"], rate["n_verdicts"]) == (1.0, 1)


def test_scores_of_excel_with_semicolons_are_read(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "r.jsonl", [record(), record(level="L1")])
    scores = tmp_path / "scores.csv"
    scores.write_text("\ufeff" + SCORES.replace(",", ";") + "1;w;m;L0_vs_L1;B;j;1\r\n", encoding="utf-8")
    assert read_study(Wanted([str(runs)], scores)).verdicts["winner"].tolist() == ["B"]


@pytest.mark.parametrize("content", [None, "", SCORES])
def test_without_scores_there_are_no_win_rates_and_a_remark(tmp_path: Path, content: str | None) -> None:
    scores = tmp_path / "scores.csv"
    if content is not None:
        scores.write_text(content)
    study = read_study(Wanted([str(write_runs(tmp_path / "r.jsonl", [record()]))], scores))
    assert study.verdicts.empty and not study.analysis["win_rates"]
    assert any("no win rates" in remark for remark in study.remarks)


@pytest.mark.skipif(not FIELD_CASES.exists(), reason="../shared is not here")
@pytest.mark.parametrize("case", ["floatid", "german", "nan"])
def test_field_cases_are_read_whole(case: str) -> None:
    folder = FIELD_CASES / case
    study = read_study(Wanted([str(folder / "runs.jsonl")], folder / "scores.csv"))
    assert set(study.verdicts["task_id"]) >= set(study.runs["task_id"]) and study.analysis["win_rates"]
    assert not any("left out" in remark for remark in study.remarks)


# --- whose analysis


def written_analysis(tmp_path: Path, **how: Any) -> Path:
    analysis = analyze(Settings(runs=[str(tmp_path / "runs.jsonl")], **how))
    path = tmp_path / "analysis.json"
    path.write_bytes(as_json({**analysis, **in_words(analysis), "answer": ["Of the file."]}))
    return path


def test_an_analysis_of_the_same_runs_is_taken_and_one_of_others_is_made_anew(tmp_path: Path) -> None:
    rows = [record(id=task, level=level) for task in (1, 2) for level in ("L0", "L1")]
    study_of(tmp_path, rows)
    path = written_analysis(tmp_path)
    assert study_of(tmp_path, rows, analysis=path).analysis["answer"] == ["Of the file."]
    for how, told in (
        ({"include_flagged": True}, "without --include_flagged"),
        ({"baseline": "L1"}, "with another --baseline, L0"),
    ):
        study = study_of(tmp_path, rows, analysis=path, **how)
        assert study.analysis["answer"] != ["Of the file."]
        assert any(told in remark and "make it anew" in remark for remark in study.remarks)
    other = study_of(tmp_path, [*rows, record(id=3)], analysis=path)
    assert any("from other runs than these" in remark for remark in other.remarks)
    judged = study_of(tmp_path, rows, "1,w,m,L0_vs_L1,A,j,1\n", analysis=path)
    assert any("from other scores than these" in remark for remark in judged.remarks)


def test_without_an_analysis_the_same_one_is_made(tmp_path: Path) -> None:
    rows = [record(id=task, level=f"L{k}", energy_joule=task + k) for task in (1, 2) for k in (0, 1)]
    own = study_of(tmp_path, rows).analysis
    given_one = study_of(tmp_path, rows, analysis=written_analysis(tmp_path)).analysis
    assert json.loads(as_json(own))["level_means"] == given_one["level_means"]
    assert len(own["answer"]) == 3


def test_a_file_that_is_no_analysis_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="--analysis"):
        study_of(tmp_path, [record()], analysis=wrong)


def test_where_no_run_counts_the_rows_are_there_all_the_same(tmp_path: Path) -> None:
    study = study_of(tmp_path, [record(error="late"), record(id=2, level="L1", error="late")])
    assert len(study.runs) == 2 and study.analysis["levels"] == ["L0", "L1"]
    assert "no run counts, so there is no mean" in study.remarks
