"""Graded win rates and the lean taken out: from a journal of judge_pairs.py --soft to analysis.json."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from companions import analyze_levels
from edgebench.analysis import judge_trust, judgments
from edgebench.records.judgment import JournalLine, ScoreRow, as_line, write_scores
from edgebench.stats.preference import preferred_share

TIES = 0.25
LEAN = 1.5
BETTER = {81: 1.0, 82: -0.5, 83: 2.0, 84: 0.2}  # how much the judge prefers P, in log odds


def line(task: int, order: str, log_odds: float, **more: Any) -> JournalLine:
    """A reply of a judge that prefers the right level by log_odds and the first slot by LEAN."""
    first = (-log_odds if order == "left_first" else log_odds) + LEAN
    weights = {"A": math.exp(first / 2), "B": math.exp(-first / 2), "Tie": TIES}
    chances = {word: weight / sum(weights.values()) for word, weight in weights.items()}
    said = max(chances, key=lambda word: chances[word])
    found = JournalLine(
        key=f"{task}{order}",
        task_id=str(task),
        model_id="m",
        pair="L0_vs_P",
        left_level="L0",
        right_level="P",
        order=order,
        left_sha256="a",
        right_sha256="b",
        left_chars=10,
        right_chars=20,
        judge_model="j",
        raw_reply=said,
        verdict=said,
        chance_a=chances["A"],
        chance_b=chances["B"],
        chance_tie=chances["Tie"],
    )
    return replace(found, winner_side=found.side_of(said), **more)


def desk(folder: Path, lines: Sequence[JournalLine]) -> Path:
    scores = folder / "scores.csv"
    write_scores(scores, [ScoreRow(str(task), "c", "m", "L0_vs_P", "Tie", "j") for task in BETTER])
    scores.with_suffix(".journal.jsonl").write_bytes(b"".join(map(as_line, lines)))
    return scores


def both_orders(**more: Any) -> list[JournalLine]:
    orders = ("left_first", "right_first")
    return [line(task, order, by, **more) for task, by in BETTER.items() for order in orders]


def rate_of_p(scores: Path) -> dict[str, Any]:
    rows = judgments.analyze(judge_trust.check_files(scores), "L0")["win_rates"]
    return next(row for row in rows if row["level"] == "P")


def test_the_graded_rate_is_the_mean_preference_without_the_lean(tmp_path: Path) -> None:
    row = rate_of_p(desk(tmp_path, both_orders()))
    shares = [preferred_share(by, TIES) for by in BETTER.values()]
    assert row["graded_win_rate"] == pytest.approx(sum(shares) / 4, abs=1e-9)
    assert row["graded_n_tasks"] == 4 and row["graded_reason"] is None
    low, high = row["graded_ci95"]
    assert 0 <= low < row["graded_win_rate"] < high <= 1
    assert row["win_rate"] == 0.5  # beside it, as counted


def test_the_mirror_and_the_lean(tmp_path: Path) -> None:
    check = judge_trust.check_files(desk(tmp_path, both_orders()))
    one, other = judgments.analyze(check, "L0")["win_rates"]
    assert one["graded_win_rate"] + other["graded_win_rate"] == pytest.approx(1.0)
    assert one["graded_ci95"] == pytest.approx([1 - edge for edge in other["graded_ci95"][::-1]])
    (lean,) = judgments.graded_leans(check["graded"])
    assert lean["pairs"] == 4 and lean["lean_log_odds_mean"] == pytest.approx(LEAN)
    assert lean["lean_log_odds_std"] == pytest.approx(0.0, abs=1e-9)
    assert lean["first_slot_share"] == pytest.approx(1 / (1 + math.exp(-LEAN)))


def test_tasks_with_counted_verdicts_only_are_named(tmp_path: Path) -> None:
    lines = both_orders()
    lines[0] = replace(lines[0], chance_a=None)  # task 81, asked in words
    row = rate_of_p(desk(tmp_path, lines))
    assert row["graded_n_tasks"] == 3 and row["n_tasks"] == 4
    assert row["graded_reason"] == "1 of 4 tasks have no probabilities in both orders"


def test_counted_verdicts_alone_have_no_graded_fields(tmp_path: Path) -> None:
    row = rate_of_p(desk(tmp_path, both_orders(chance_a=None)))
    assert not [name for name in row if name.startswith("graded")]


def test_orders_about_different_answers_are_not_mixed(tmp_path: Path) -> None:
    lines = both_orders()
    lines[1] = replace(lines[1], right_sha256="changed")
    assert rate_of_p(desk(tmp_path, lines))["graded_n_tasks"] == 3


def test_a_pair_that_a_rule_decided_is_graded_as_counted(tmp_path: Path) -> None:
    lines = both_orders()
    rule = {"order": None, "rule": "identical", "winner_side": "tie", "chance_a": None, "raw_reply": None}
    row = rate_of_p(desk(tmp_path, [*lines[2:], replace(lines[0], **rule)]))
    shares = [0.5, *(preferred_share(by, TIES) for task, by in BETTER.items() if task != 81)]
    assert row["graded_win_rate"] == pytest.approx(sum(shares) / 4, abs=1e-9)


def test_analysis_json_and_its_text_name_both_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, out = desk(tmp_path, both_orders()), tmp_path / "analysis.json"
    assert analyze_levels.main(["--scores", str(scores), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    (row,) = [row for row in found["win_rates"] if row["level"] == "P" and row["against"] == "L0"]
    assert row["graded_win_rate"] == pytest.approx(
        sum(preferred_share(by, TIES) for by in BETTER.values()) / 4, abs=1e-6
    )
    assert found["graded_leans"][0]["lean_log_odds_mean"] == pytest.approx(LEAN, abs=1e-6)
    said = " ".join(capsys.readouterr().out.split())
    assert "graded" in said
    if "favours the first answer" in said:  # a matter of how many pairs there are
        assert "+1.50 in log odds were taken out" in said
