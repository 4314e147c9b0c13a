"""Quality against cost: fronts, ratios and the cheapest level that is good enough, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numpy")

from edgebench.analysis import value as weigh_quality

MODEL = {"board": "nano", "power_scope": "board", "model_id": "m"}
SETTINGS = {"baseline": "L0", "placebo": "P", "margin": 0.05, "seed": 0, "resamples": 1000}


def verdicts(repeated: int = 5, **wins: float) -> list[dict[str, Any]]:
    """Four kinds of tasks, repeated, of each level against L0; 2.5 wins are two wins, a tie and a loss."""
    rows = []
    for level, won in wins.items():
        scores = [1.0] * int(won) + [0.5] * (won != int(won)) + [0.0] * 4
        for task, score in enumerate(scores[:4] * repeated):
            row = {"model_id": "m", "judge_model": "j", "task": str(task), "turn": "1"}
            rows.append(row | {"left": "L0", "right": level, "score": 1 - score})
    return rows


def draft(costs: dict[str, float | None], metric: str = "energy_joule") -> dict[str, Any]:
    means = [MODEL | {"level": level, "metric": metric, "mean": mean} for level, mean in costs.items()]
    return {
        "settings": SETTINGS,
        "levels": list(costs),
        "models": [MODEL],
        "level_means": means,
        "win_rates": [],
    }


def test_ratios_front_and_the_cheapest_by_hand() -> None:
    tables = weigh_quality.weigh(
        verdicts(L1=3.0, L3=3.0, P=2.5), draft({"L0": 2.0, "L1": 4.0, "L3": 5.0, "P": 8.0})
    )
    rows = {row["level"]: row for row in tables["value"]}
    assert [rows[level]["quality"] for level in ("L0", "L1", "L3", "P")] == [0.5, 0.75, 0.75, 0.625]
    assert rows["L1"]["quality_per_cost"] == 0.75 / 4 and rows["L1"]["gain_per_extra_cost"] == 0.125
    assert [level for level, row in rows.items() if row["on_model_front"]] == ["L0", "L1"]


def cheapest(
    rows: list[dict[str, Any]], costs: dict[str, float | None], margin: float = 0.05
) -> dict[str, Any]:
    made = draft(costs)
    made["settings"] = SETTINGS | {"margin": margin}
    (row,) = weigh_quality.weigh(rows, made)["cheapest"]
    return dict(row)


def test_the_best_level_is_told_from_every_other_or_it_is_said_from_which() -> None:
    costs = {"L0": 2.0, "L1": 4.0, "L3": 5.0}
    clear = cheapest(verdicts(L1=0.0, L3=4.0), costs)
    assert (clear["best_level"], clear["cheapest_level"], clear["shown"]) == ("L3", "L3", True)
    assert clear["statement"] == "L3 is the best level, and none within 0.05 of it is cheaper"
    close = cheapest(verdicts(L1=3.0, L3=4.0), costs)
    assert (close["best_told_from"], close["best_not_told_from"]) == (["L0"], ["L1"])
    assert close["statement"].startswith("L3 has the highest win rate (it can be told from L0, not from L1)")


def test_a_level_that_loses_side_by_side_is_not_the_better_one() -> None:
    made = draft({"L0": 2.0, "L1": 4.0, "L3": 5.0})
    made["win_rates"] = [
        {"model_id": "m", "judge_model": "j", "level": level, "against": against, "win_rate": rate}
        | {"ci95": None, "sign_p": 1e-6, "p_holm": p_holm}
        for level, against, rate, p_holm in (("L3", "L1", 0.0, None), ("L1", "L3", 1.0, None))
    ]
    (row,) = weigh_quality.weigh(verdicts(L1=0.0, L3=4.0), made)["cheapest"]
    assert (row["best_told_from"], row["best_not_told_from"]) == (["L0"], ["L1"])
    assert row["statement"] == (
        "L3 has the highest win rate (it can be told from L0, not from L1), but L1 beats it side by side,"
        " and none within 0.05 of it is cheaper"
    )


def test_one_win_and_two_ties_make_no_best_level() -> None:
    rows = verdicts(repeated=1, P=1.0)[:1] + [
        row | {"score": 0.5} for row in verdicts(repeated=1, P=1.0)[1:3]
    ]
    row = cheapest(rows, {"L0": 1.0, "P": 2.0})
    assert (row["best_level"], row["cheapest_level"], row["statement"]) == (None, None, None)
    assert row["reason"] == "no level can be told from another: chance alone could explain the win rates"
    assert row["best_not_told_from"] == ["L0"]


def test_a_level_whose_energy_is_missing_is_named_and_stays_the_best() -> None:
    rows = verdicts(L1=0.0, L2=4.0, P=3.5)
    row = cheapest(rows, {"L0": 1.0, "L1": None, "L2": None, "P": 5.0})
    assert (row["best_level"], row["cheapest_level"]) == ("L2", None)
    assert "but its cost was not measured, and no level with one is within 0.05" in row["reason"]
    assert "not considered: L1: no energy was measured" in row["reason"]
    near = cheapest(rows, {"L0": 1.0, "L1": None, "L2": None, "P": 5.0}, margin=0.2)
    assert (near["best_level"], near["cheapest_level"], near["saving_percent"]) == ("L2", "P", None)
    assert (
        "P is within 0.2 of it" in near["statement"] and "L2's energy was not measured" in near["statement"]
    )
    assert near["not_considered"] == [{"level": "L1", "reason": "no energy was measured"}]


def test_a_level_within_the_margin_is_named_with_how_sure_it_is() -> None:
    row = cheapest(verdicts(L1=3.5, L3=4.0), {"L0": 2.0, "L1": 4.0, "L3": 8.0}, margin=0.125)
    assert (row["best_level"], row["cheapest_level"], row["saving_percent"]) == ("L3", "L1", 50.0)
    assert row["difference_from_best"] == -0.125 and row["difference_ci95"][0] < -0.125
    assert row["shown"] is False and "too few tasks to be sure" in row["statement"]


def test_latency_is_the_cost_where_no_energy_was_measured() -> None:
    tables = weigh_quality.weigh(verdicts(L1=3.0), draft({"L0": 1000.0, "L1": 2000.0}, "latency_ms"))
    assert {(row["cost_metric"], row["cost_unit"]) for row in tables["value"]} == {("latency_ms", "ms")}


def test_what_is_missing_is_null_with_a_reason() -> None:
    tables = weigh_quality.weigh(verdicts(L1=3.0), draft({"L0": -0.5, "L1": 2.0, "L2": 3.0}))
    rows = {row["level"]: row for row in tables["value"]}
    assert rows["L0"]["quality_per_cost"] is None and "zero" in rows["L0"]["reason"]
    assert rows["L2"]["quality"] is None and rows["L2"]["reason"] == "not judged at this level"
    (none,) = weigh_quality.weigh(verdicts(L1=3.0), draft({}))["cheapest"]
    assert none["cheapest_level"] is None and none["reason"]


def test_the_level_most_were_judged_against_is_the_measure() -> None:
    against_placebo = [row | {"left": "P"} for row in verdicts(L1=3.0, L2=1.0)]
    quality = weigh_quality.quality_of(against_placebo, ["L0", "P"])
    assert quality.against == "P" and quality.mean("L1") == 0.75


@given(st.dictionaries(st.integers(), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_every_point_off_the_front_is_beaten_by_one_on_it(points: dict[int, tuple[int, int]]) -> None:
    best = weigh_quality.front(points)
    assert best
    for name, (cost, quality) in points.items():
        beaten = [points[other] for other in best if points[other][0] <= cost and points[other][1] >= quality]
        assert beaten if name not in best else all(other == (cost, quality) for other in beaten)
