"""The answer in words: what the sentences and the verdict lines say, which caveats are loud."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgebench.reporting import caveats, terminal, words
from tests.fakes.made_analysis import with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


@pytest.fixture
def analysis() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


def with_a_choice(analysis: dict[str, Any]) -> dict[str, Any]:
    """The analysis as if its five tasks had told L3 from the others."""
    choice = {"best_level": "L3", "cheapest_level": "L3", "shown": True, "reason": None}
    analysis["cheapest"][0] |= choice | {"statement": "L3 is the best level, and none within 0.05 is cheaper"}
    return analysis


def test_three_sentences_say_what_it_cost_what_it_bought_and_what_is_enough(analysis: dict[str, Any]) -> None:
    cost, quality, advice = words.answer(with_a_choice(analysis))
    assert cost.startswith("From L0 to L3 the prompt grows from ") and "simulated energy" in cost
    assert "is prompt" in cost and "is longer answer" in cost
    assert quality.startswith("The judge gives L3 a win rate of ") and "the placebo P wins " in quality
    assert advice == analysis["cheapest"][0]["statement"] + "."


def test_the_sentences_follow_the_data_when_models_disagree(analysis: dict[str, Any]) -> None:
    analysis = with_a_choice(analysis)
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
    cost, quality, advice = words.answer(two)
    assert "rises in 1 of 2 models, by -10 % to +" in cost
    assert "prefers L3 to L0 in 1 of 2 models (win rates 30 % to " in quality
    assert "for made-demo, other" in advice


def test_a_split_that_holds_for_some_models_names_them(analysis: dict[str, Any]) -> None:
    two = copy.deepcopy(analysis)
    for table in ("models", "level_means", "paired", "cost_parts", "cost_split"):
        two[table] += [row | {"model_id": "other"} for row in copy.deepcopy(analysis[table])]
    assert "; reading the prompt is " in words.answer(two)[0]
    for row in two["cost_split"]:
        row["r_squared"] = 0.1 if row["model_id"] == "other" else 0.9
    assert "; for made-demo, of the extra " in words.answer(two)[0]


def test_a_baseline_and_the_placebo_alone_are_compared(analysis: dict[str, Any]) -> None:
    kept = {"L0", "P"}
    tables = ("level_means", "paired", "cost_parts", "win_rates")
    for table in tables:
        rows = [row for row in analysis[table] if {row["level"], row.get("against", "L0")} <= kept]
        analysis[table] = rows
    cost, quality, _ = words.answer(analysis | {"levels": ["L0", "P"], "cheapest": []})
    assert cost.startswith("From L0 to P the prompt grows from ")
    assert quality.startswith("The judge gives P a win rate of ") and " against L0 (" in quality


def test_simulated_power_demo_models_and_a_leaning_judge_are_loud(analysis: dict[str, Any]) -> None:
    high = {row["key"] for row in caveats.caveats(analysis) if row["severity"] == "high"}
    assert {"simulated_power", "demo_models", "few_tasks"} <= high
    leaning = {
        "model_id": None,
        "judge_model": "j",
        "biased": True,
        "first_slot_score": 0.7,
        "mcnemar_p": 0.001,
    }
    analysis["position_bias"] = [leaning]
    texts = [row["text"] for row in caveats.caveats(analysis)]
    assert any("favours the first answer" in text for text in texts)
    analysis["win_rates"] = []
    assert "no_scores" in {row["key"] for row in caveats.caveats(analysis)}


def test_several_judges_are_not_counted_as_several_models(analysis: dict[str, Any]) -> None:
    one = words.answer(analysis)
    for table in ("win_rates", "cheapest"):
        analysis[table] += [
            row | {"judge_model": "zz", "win_rate": 0.0, "statement": "x"} for row in analysis[table]
        ]
    assert words.answer(analysis) == one
    told = [row["text"] for row in caveats.caveats(analysis) if row["key"] == "several_judges"]
    assert told and told[0].startswith("2 judges: ")
    assert " 0 % [" not in terminal.text_of({**analysis, "answer": one, "caveats": []}, "#")


def test_a_leaning_judge_who_finds_nothing_tells_no_level_from_another(analysis: dict[str, Any]) -> None:
    """No sentence may prefer a level then, and no line of the text name a cheapest one."""
    judge = analysis["win_rates"][0]["judge_model"]
    analysis["undecided_judges"] = [judge]
    lean = {"judge_model": judge, "model_id": None, "biased": True, "pairs": 12, "consistency": 0.0}
    analysis["position_bias"] = [lean | {"first_slot_score": 1.0, "mcnemar_p": 0.0005}]
    for row in analysis["cheapest"]:
        row |= {"cheapest_level": None, "best_level": None, "statement": None}
    cost, quality, advice = words.answer(analysis)
    assert cost.startswith("From L0 to L3 ")  # what was measured stays
    assert quality.startswith("By this judge no level can be told from another: ")
    assert "favours the first of two answers" in quality and "0 % of 12 pairs" in quality
    assert advice.startswith("No level can be recommended")
    text = terminal.text_of({**analysis, "answer": [cost, quality, advice], "caveats": []}, "#")
    assert "GOOD ENOUGH" not in text and "prefers" not in text


def test_an_analysis_from_before_the_undecided_judges_is_read(analysis: dict[str, Any]) -> None:
    analysis.pop("undecided_judges", None)
    assert words.answer(analysis)[1].startswith("The judge gives L3 ")


def test_where_no_level_can_be_told_from_another_the_answer_says_so_once(analysis: dict[str, Any]) -> None:
    reason = "no level can be told from another: chance alone could explain the win rates"
    for row in analysis["cheapest"]:
        row |= {"cheapest_level": None, "best_level": None, "statement": None, "reason": reason}
    advice = words.answer(analysis)[2]
    assert advice == f"N{reason[1:]}, so none is recommended."


def test_a_graded_win_rate_is_told_beside_the_counted_one(analysis: dict[str, Any]) -> None:
    for row in analysis["win_rates"]:
        row |= {"graded_win_rate": 0.71, "graded_ci95": [0.62, 0.8], "graded_reason": None}
    quality = words.answer(analysis)[1]
    assert quality.startswith("The judge gives L3 a win rate of ")
    assert "its lean to a slot taken out, it is 71 % (95 % CI 62 % to 80 %)" in quality
    for row in analysis["win_rates"]:
        row |= {"graded_n_tasks": 1, "graded_ci95": None}
    assert "taken out, it is 71 % (1 task, no interval)" in words.answer(analysis)[1]


def test_a_lean_is_taken_out_of_those_pairs_alone_that_have_probabilities() -> None:
    bias = {"model_id": "m", "judge_model": "j", "pairs": 15}
    lean = {"model_id": "m", "judge_model": "j", "pairs": 5, "lean_log_odds_mean": 2.4}
    some = caveats.cure_of_lean({"graded_leans": [lean]}, bias)
    assert some.endswith("(5 pairs); the other 10 pairs are not free of it")
    every = caveats.cure_of_lean({"graded_leans": [lean | {"pairs": 15}]}, bias)
    assert every.endswith("(15 pairs); winners and graded win rates are free of it")


# --- the verdict lines


def test_a_verdict_line_says_how_many_times_as_much(analysis: dict[str, Any]) -> None:
    for row in analysis["paired"]:
        row |= {"percent": 79.56, "percent_ci95": [69.5, 90.4]}
    (line,) = words.verdicts(analysis)
    assert "L3 costs 1.8 ± 0.1, P 1.8" in line["text"] and line["text"].endswith(
        "times the simulated energy of L0"
    )
    assert [row["level"] for row in line["levels"]] == ["L3", "P"]
    assert line["levels"][0]["ratio"] == pytest.approx(1.7956)
    assert line["levels"][0]["ratio_ci95"] == pytest.approx([1.695, 1.904])


def test_without_percentages_there_is_no_verdict_line(analysis: dict[str, Any]) -> None:
    for row in analysis["paired"]:
        row |= {"percent": None, "percent_ci95": None}
    assert words.verdicts(analysis) == []


def test_over_many_models_a_verdict_line_is_a_level_s(analysis: dict[str, Any]) -> None:
    lines = words.verdicts(with_models(analysis, 40))
    assert [line["levels"][0]["level"] for line in lines] == ["L3", "P"]
    assert all("median of 40 models" in line["text"] for line in lines)


@pytest.mark.parametrize("count", [4, 40, 300])
def test_no_sentence_and_no_caveat_lists_hundreds_of_names(analysis: dict[str, Any], count: int) -> None:
    many = with_models(analysis, count)
    for row in many["cost_split"]:
        row["r_squared"] = 0.1
    for row in many["drift"]:
        row |= {"p": 0.001, "hours": 2.0, "slope_percent_per_hour": 3.0}
    told = words.in_words(many)
    texts = [*told["answer"], *(row["text"] for row in (*told["verdicts"], *told["caveats"]))]
    assert max(map(len, texts)) < 600
    assert ("others" in " ".join(texts)) == (count > 5)


def test_a_superlative_names_the_models_it_could_not_consider(analysis: dict[str, Any]) -> None:
    many = with_models(with_a_choice(analysis), 3)
    many["cheapest"][0] |= {"cheapest_level": None, "statement": None, "reason": "no cost was measured"}
    assert "for 1 other no level can be named" in words.answer(many)[2]


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"rows": 36, "malformed": 12, "unknown_winners": 12}, "their winner is not A, B or Tie"),
        (
            {"rows": 36, "malformed": 2, "unknown_winners": 0},
            "they name no task, no model, or not two levels",
        ),
        ({"rows": 36, "malformed": 0, "unknown_winners": 0}, ""),
        ({}, ""),
    ],
)
def test_rows_of_the_scores_that_are_left_out_are_counted(
    analysis: dict[str, Any], counts: dict[str, int], told: str
) -> None:
    for win_rates in (analysis["win_rates"], []):
        found = caveats.caveats({**analysis, "judge_counts": counts, "win_rates": win_rates})
        texts = [row["text"] for row in found if row["key"] == "scores_left_out"]
        whole = f"{counts.get('malformed')} of 36 rows of the scores left out: {told}"
        assert texts == ([whole] if told else [])


def test_lines_of_the_runs_that_are_left_out_are_counted(analysis: dict[str, Any]) -> None:
    lost = {"torn_lines": 1, "without_level_or_model": 1}
    found = caveats.caveats({**analysis, "counts": {**analysis["counts"], **lost}})
    texts = {row["key"]: row["text"] for row in found}
    assert texts["lines_left_out"].startswith("2 lines of the runs read as no run record")
    none = dict.fromkeys(lost, 0)
    found = caveats.caveats({**analysis, "counts": {**analysis["counts"], **none}})
    assert "lines_left_out" not in {row["key"] for row in found}
