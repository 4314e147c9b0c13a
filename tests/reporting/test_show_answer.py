"""The answer in words: what the sentences say, which caveats are loud, what fits a terminal."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.reporting import words as show_answer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


@pytest.fixture
def analysis() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


def test_three_sentences_say_what_it_cost_what_it_bought_and_what_is_enough(analysis: dict[str, Any]) -> None:
    cost, quality, advice = show_answer.answer(analysis)
    assert cost.startswith("From L0 to L3 the prompt grows from ") and "simulated energy" in cost
    assert "is prompt" in cost and "is longer answer" in cost
    assert quality.startswith("The judge gives L3 a win rate of ") and "the placebo P wins " in quality
    assert advice == analysis["cheapest"][0]["statement"] + "."


def test_the_sentences_follow_the_data_when_models_disagree(analysis: dict[str, Any]) -> None:
    two = copy.deepcopy(analysis)
    for table in (
        "models",
        "level_means",
        "paired",
        "cost_parts",
        "cost_split",
        "win_rates",
        "cheapest",
        "variation",
    ):
        two[table] += [row | {"model_id": "other"} for row in copy.deepcopy(analysis[table])]
    for row in two["paired"]:
        if row["model_id"] == "other" and row["metric"] == "energy_joule":
            row |= {"mean_difference": -1.0, "percent": -10.0}
    for row in two["win_rates"]:
        if row["model_id"] == "other":
            row |= {"win_rate": 0.3, "p_holm": 0.9}
    cost, quality, advice = show_answer.answer(two)
    assert "rises in 1 of 2 models, by -10 % to +" in cost
    assert "prefers L3 to L0 in 1 of 2 models (win rates 30 % to " in quality
    assert "for made-demo, other" in advice


def test_a_split_that_holds_for_some_models_names_them(analysis: dict[str, Any]) -> None:
    two = copy.deepcopy(analysis)
    for table in ("models", "level_means", "paired", "cost_parts", "cost_split"):
        two[table] += [row | {"model_id": "other"} for row in copy.deepcopy(analysis[table])]
    assert "; reading the prompt is " in show_answer.answer(two)[0]
    for row in two["cost_split"]:
        row["r_squared"] = 0.1 if row["model_id"] == "other" else 0.9
    assert "; for made-demo, of the extra " in show_answer.answer(two)[0]


def test_a_baseline_and_the_placebo_alone_are_compared(analysis: dict[str, Any]) -> None:
    kept = {"L0", "P"}
    tables = ("level_means", "paired", "cost_parts", "win_rates")
    for table in tables:
        rows = [row for row in analysis[table] if {row["level"], row.get("against", "L0")} <= kept]
        analysis[table] = rows
    cost, quality, _ = show_answer.answer(analysis | {"levels": ["L0", "P"], "cheapest": []})
    assert cost.startswith("From L0 to P the prompt grows from ")
    assert quality.startswith("The judge gives P a win rate of ") and " against L0 (" in quality


def test_simulated_power_demo_models_and_a_leaning_judge_are_loud(analysis: dict[str, Any]) -> None:
    high = {row["key"] for row in show_answer.caveats(analysis) if row["severity"] == "high"}
    assert {"simulated_power", "demo_models", "few_tasks"} <= high
    leaning = {
        "model_id": None,
        "judge_model": "j",
        "biased": True,
        "first_slot_score": 0.7,
        "mcnemar_p": 0.001,
    }
    analysis["position_bias"] = [leaning]
    texts = [row["text"] for row in show_answer.caveats(analysis)]
    assert any("favours the first answer" in text for text in texts)
    analysis["win_rates"] = []
    assert "no_scores" in {row["key"] for row in show_answer.caveats(analysis)}


def test_the_text_fits_80_columns_and_no_name_moves_the_cursor(analysis: dict[str, Any]) -> None:
    name = "\x1b[31m" + "very-long-model-name-" * 5
    text = json.dumps(analysis).replace("made-demo", json.dumps(name)[1:-1])
    shown = show_answer.text_of(json.loads(text), "█")
    assert max(map(len, shown.splitlines())) <= 80 and "\x1b" not in shown
    assert "WIN RATE AGAINST L0" in shown and "█" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_prints_in_any_terminal(encoding: str) -> None:
    command = [sys.executable, "-S", str(ROOT / "edgebench/reporting/words.py"), "--analysis", str(GOLDEN)]
    done = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, check=True
    )
    text = done.stdout.decode(encoding)
    assert text.startswith("THE ANSWER") and ("█" if encoding == "utf-8" else "####") in text


def test_win_rates_stand_where_they_belong_on_the_axis(analysis: dict[str, Any]) -> None:
    row = {"level": "L1", "against": "L0", "win_rate": 1.0, "ci95": [0.0, 1.0], "p_holm": None}
    chart = show_answer.win_chart(analysis, row)
    axis = chart[chart.index("[") + 1 : chart.index("]")]
    assert (axis[0], axis[15], axis[-1], len(axis)) == ("-", "|", "o", show_answer.SCALE)


@pytest.mark.parametrize("content", ["{}", "no json", None])
def test_another_file_is_a_clear_error(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert show_answer.main(["--analysis", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_several_judges_are_not_counted_as_several_models(analysis: dict[str, Any]) -> None:
    one = show_answer.answer(analysis)
    for table in ("win_rates", "cheapest"):
        analysis[table] += [
            row | {"judge_model": "zz", "win_rate": 0.0, "statement": "x"} for row in analysis[table]
        ]
    assert show_answer.answer(analysis) == one
    told = [row["text"] for row in show_answer.caveats(analysis) if row["key"] == "several_judges"]
    assert told and told[0].startswith("2 judges: ")
    assert " 0 % [" not in show_answer.text_of({**analysis, "answer": one, "caveats": []}, "#")


def test_a_wide_interval_leaves_room_before_the_bar(analysis: dict[str, Any]) -> None:
    for row in analysis["level_means"]:
        row["ci95"] = [-0.000512345, 123456.0]
    lines = show_answer.text_of(analysis, "#").splitlines()
    shown = [line for line in lines if "123456" in line]
    assert shown and all("123456 " in line or line.endswith("123456") for line in shown)
    assert max(map(len, lines)) <= 80


def test_a_leaning_judge_who_finds_nothing_tells_no_level_from_another(analysis: dict[str, Any]) -> None:
    """No sentence may prefer a level then, and no line of the text name a cheapest one."""
    judge = analysis["win_rates"][0]["judge_model"]
    analysis["undecided_judges"] = [judge]
    lean = {"judge_model": judge, "model_id": None, "biased": True, "pairs": 12, "consistency": 0.0}
    analysis["position_bias"] = [lean | {"first_slot_score": 1.0, "mcnemar_p": 0.0005}]
    for row in analysis["cheapest"]:
        row |= {"cheapest_level": None, "best_level": None, "statement": None}
    cost, quality, advice = show_answer.answer(analysis)
    assert cost.startswith("From L0 to L3 ")  # what was measured stays
    assert quality.startswith("By this judge no level can be told from another: ")
    assert "favours the first of two answers" in quality and "0 % of 12 pairs" in quality
    assert advice.startswith("No level can be recommended")
    text = show_answer.text_of({**analysis, "answer": [cost, quality, advice], "caveats": []}, "#")
    assert "GOOD ENOUGH" not in text and "prefers" not in text


def test_an_analysis_from_before_the_undecided_judges_is_read(analysis: dict[str, Any]) -> None:
    analysis.pop("undecided_judges", None)
    assert show_answer.answer(analysis)[1].startswith("The judge gives L3 ")
