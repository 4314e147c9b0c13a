"""Position bias, length effect and noise: published and hand-computed values, hostile and stale journals."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from edgebench.analysis import judge_trust as check_judge
from edgebench.analysis.campaign import Request
from edgebench.analysis.selection import select
from edgebench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "data" / "judge" / "stats_cases.json"
SIDE = {"model_1": "left", "model_2": "right", "tie": "tie"}


def check(folder: Path, runs: Path | None = None) -> dict[str, Any]:
    lengths = select(Request([str(runs)])).answer_chars if runs else None
    return check_judge.check_files(folder / "scores.csv", lengths=lengths)


def line(task: Any, order: str, side: str | None, **more: Any) -> dict[str, Any]:
    identity = {
        "task_id": str(task),
        "model_id": "m",
        "turn": 1,
        "pair": "L0_vs_P",
        "repeat": 1,
        "judge_model": "j",
    }
    levels = {"left_level": "L0", "right_level": "P", "order": order, "winner_side": side, "rule": None}
    return identity | levels | {"left_sha256": "a", "right_sha256": "b"} | more


def write(folder: Path, journal: list[dict[str, Any]], winners: dict[Any, str] | None = None) -> None:
    """A journal and the scores that follow from it: a win only if both orders agree."""
    if winners is None:
        sides: dict[str, set[Any]] = {}
        for row in journal:
            sides.setdefault(row["task_id"], set()).add(row["winner_side"])
        rule = {frozenset({"left"}): "A", frozenset({"right"}): "B"}
        winners = {task: rule.get(frozenset(seen), "Tie") for task, seen in sides.items() if None not in seen}
    with (folder / "scores.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn"))
        table.writerows((task, "w", "m", "L0_vs_P", winner, "j", 1) for task, winner in winners.items())
    text = "".join(json.dumps(row) + "\n" for row in journal)
    (folder / "scores.journal.jsonl").write_text(text)


def journal_of(outcomes: dict[str, int]) -> list[dict[str, Any]]:
    """A journal from counts of "verdict in order 1|verdict in order 2"."""
    journal: list[dict[str, Any]] = []
    for outcome, count in outcomes.items():
        one, two = (SIDE[name] for name in outcome.split("|"))
        for _ in range(count):
            task = len(journal)
            journal += [line(task, "left_first", one), line(task, "right_first", two)]
    return journal


def test_the_published_phi3_comparison(tmp_path: Path) -> None:
    # Counts of 73 real pairs judged in both orders: 16 times the first slot won both, twice the second.
    outcomes = {"model_1|model_2": 16, "model_1|tie": 5, "model_2|model_2": 20, "model_1|model_1": 18}
    outcomes |= {"tie|tie": 8, "model_2|model_1": 2, "tie|model_2": 3, "model_2|tie": 1}
    write(tmp_path, journal_of(outcomes))
    result = check(tmp_path)
    (row,) = result["position_bias"]
    assert row["pairs"] == 73 and (row["first_first"], row["second_second"]) == (16, 2)
    assert (row["partial_first"], row["partial_second"]) == (8, 1)
    assert row["consistency"] == pytest.approx(46 / 73, abs=1e-12)
    assert row["first_slot_score"] == pytest.approx(0.61986301, abs=1e-8)
    assert row["mcnemar_p"] == 0.001312255859375 and row["biased"] is True
    mean = [verdict["averaged"] for verdict in result["verdicts"]]
    assert sum(mean) / len(mean) == pytest.approx(0.48972603, abs=1e-8)
    conservative = [verdict["score"] for verdict in result["verdicts"]]
    assert sum(conservative) / len(conservative) == pytest.approx(0.48630137, abs=1e-8)


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
def test_every_known_swap_case(tmp_path: Path) -> None:
    for case in json.loads(CASES.read_text())["swap_cases"]:
        write(tmp_path, journal_of(case["order1_order2"]))
        result = check(tmp_path)
        (row,) = result["position_bias"]
        for name in ("pairs", "first_first", "second_second"):
            assert row[name] == case[name]
        assert (row["partial_first"], row["partial_second"]) == (
            case["partial_lean_first"],
            case["partial_lean_second"],
        )
        assert row["consistency"] == pytest.approx(case["consistency"], abs=1e-8)
        assert row["first_slot_score"] == pytest.approx(case["first_slot_score"], abs=1e-8)
        assert row["mcnemar_p"] == pytest.approx(case["mcnemar_exact_p"], abs=1e-8)
        mean = [verdict["averaged"] for verdict in result["verdicts"]]
        assert sum(mean) / len(mean) == pytest.approx(case["averaged"]["win_rate"], abs=1e-8)


def test_length_share_wilson_and_z_of_a_published_case() -> None:
    # 29 of 38 decided pairs went to the longer answer.
    verdicts = [
        check_judge.Verdict("m", "j", str(n), "1", "L0", "P", score=1.0, extra_chars=7 if n < 29 else -7)
        for n in range(38)
    ]
    row = check_judge.length_effect(
        [*verdicts, check_judge.Verdict("m", "j", "t", "1", "L0", "P", 1.0, None, 0)]
    )
    assert (row["decisive"], row["longer_won"]) == (38, 29)
    assert row["longer_share"] == pytest.approx(0.76315789, abs=1e-8)
    assert row["wilson95"] == pytest.approx([0.607932, 0.870063], abs=1e-6)
    assert row["z"] == pytest.approx(3.244428, abs=1e-6)


def test_correlations_match_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = [1.0, 0.5, 0.0, 1.0, 0.25, 0.5, 0.0, 1.0]
    extra = [30, 5, -20, 30, 0, 12, 5, -4]
    verdicts = [
        check_judge.Verdict("m", "j", str(n), "1", "L0", "P", 0.5, s, d)
        for n, (s, d) in enumerate(zip(scores, extra, strict=True))
    ]
    row = check_judge.length_effect(verdicts)
    assert row["spearman"] == pytest.approx(stats.spearmanr(extra, scores).statistic, abs=1e-12)
    assert row["pearson"] == pytest.approx(stats.pearsonr(extra, scores).statistic, abs=1e-12)


def test_noise_of_the_judge_on_equal_questions_and_over_repeats(tmp_path: Path) -> None:
    # The same request answered twice (a superseded line), and a second pair of answers.
    journal = []
    for task, (one, two) in enumerate(
        [("left", "left"), ("left", "right"), ("tie", "tie"), ("right", "right")]
    ):
        journal += [
            line(task, "left_first", one),
            line(task, "left_first", two),
            line(task, "right_first", two),
        ]
        journal += [
            line(task, order, "left", repeat=2, left_sha256="c") for order in ("left_first", "right_first")
        ]
    write(tmp_path, journal, dict.fromkeys(range(4), "Tie"))
    same, repeats = check(tmp_path)["judge_noise"]
    assert (same["kind"], same["compared"], same["same"], same["flips"]) == ("same_answers", 4, 3, 1)
    # Agreement 3/4; expected from the margins (2/4)(1/4) + (1/4)(2/4) + (1/4)(1/4) = 5/16.
    assert same["kappa"] == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert (repeats["kind"], repeats["compared"]) == ("repeats", 8)


def test_a_later_line_replaces_an_earlier_one_and_changed_answers_make_the_old_ones_stale(
    tmp_path: Path,
) -> None:
    old = [line(1, "left_first", "right"), line(1, "right_first", "right")]
    reasked = [line(1, "left_first", None), line(1, "left_first", "left")]
    changed = [line(1, "right_first", "tie", left_sha256="new")]
    write(tmp_path, [*old, *reasked], {1: "Tie"})
    (row,) = check(tmp_path)["position_bias"]
    assert (row["pairs"], row["consistency"]) == (1, 0.0)
    write(tmp_path, [*old, *reasked, *changed], {1: "Tie"})
    result = check(tmp_path)
    assert result["position_bias"][0]["pairs"] == 0  # one order of the new answers is not a pair
    assert result["judge_counts"]["pairs_one_order_only"] == 1


def test_a_pair_decided_by_a_rule_counts_in_the_average_and_not_in_the_bias(tmp_path: Path) -> None:
    rule = line(1, "left_first", "tie") | {"order": None, "rule": "identical"}
    write(tmp_path, [rule, *journal_of({"model_1|model_1": 0})], {1: "Tie"})
    result = check(tmp_path)
    assert result["verdicts"][0]["averaged"] == 0.5
    assert result["position_bias"][0]["pairs"] == 0 and result["position_bias"][0]["reason"]
    assert result["judge_counts"]["by_rule"] == {"identical": 1}


def test_without_a_journal_everything_that_needs_it_is_null_with_a_reason(tmp_path: Path) -> None:
    write(tmp_path, [], {1: "A", 2: "B"})
    (tmp_path / "scores.journal.jsonl").unlink()
    result = check(tmp_path)
    assert result["position_bias"][0]["mcnemar_p"] is None and result["position_bias"][0]["reason"]
    assert [verdict["averaged"] for verdict in result["verdicts"]] == [None, None]
    assert result["length_effect"][0]["longer_share"] is None and result["length_effect"][0]["reason"]


def test_lengths_come_from_the_runs_where_the_journal_has_none(tmp_path: Path) -> None:
    write(tmp_path, [], {1: "A", 2: "B"})
    runs = [
        {"question_id": task, "model_id": "m", "level": level, "output_text": "x" * length, "repeat": repeat}
        for task, level, length, repeat in [
            (1, "L0", 9, 1),
            (1, "L0", 99, 2),
            (1, "P", 4, 1),
            (2, "L0", 3, 1),
            (2, "P", 8, 1),
        ]
    ]
    with gzip.open(tmp_path / "runs.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(run) + "\n" for run in runs)
    result = check(tmp_path, tmp_path / "runs.jsonl.gz")
    assert [verdict["extra_chars"] for verdict in result["verdicts"]] == [5, -5]
    assert result["length_effect"][0]["longer_share"] == 1.0


def test_odd_rows_are_counted_never_scored(tmp_path: Path) -> None:
    write(tmp_path, [], {1: "A", 2: "error", 3: "", 4: "Tie"})
    with (tmp_path / "scores.csv").open("a") as out:
        out.write("1,w,m,P_vs_L0,A,j,1\n5,w,m,L0,A,j,1\n")  # the first pair again, sides swapped
    result = check(tmp_path)
    assert result["judge_counts"]["unknown_winners"] == 2
    assert result["judge_counts"]["malformed"] == 3 and result["judge_counts"]["duplicates"] == 1
    assert [(v["task"], v["left"], v["score"]) for v in result["verdicts"]] == [
        ("1", "P", 1.0),
        ("4", "L0", 0.5),
    ]


@pytest.mark.parametrize(("content", "needle"), [("a,b\n1,2\n", "no column"), (None, "cannot read")])
def test_a_wrong_or_missing_scores_file_is_a_clear_error(
    tmp_path: Path, content: str | None, needle: str
) -> None:
    path = tmp_path / "scores.csv"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=needle):
        check(tmp_path)
