"""By whom no level can be told from another: a judge that leans and finds nothing; nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.analysis.judge_trust import undecided_judges
from edgebench.analysis.value import weigh


def lean(judge: str, biased: bool, model: str | None = None) -> dict[str, Any]:
    return {"judge_model": judge, "model_id": model, "biased": biased}


def rate(judge: str, p_holm: float | None) -> dict[str, Any]:
    return {"judge_model": judge, "p_holm": p_holm}


@pytest.mark.parametrize(
    ("leans", "rates", "expected"),
    [
        ([lean("j", True)], [rate("j", None), rate("j", 0.3)], ["j"]),
        ([lean("j", True)], [rate("j", 0.3), rate("j", 0.04)], []),  # it leans, and yet both orders agree
        ([lean("j", False)], [rate("j", None)], []),  # tasks are few: another sentence says so
        ([lean("j", True), lean("j", False, "m"), lean("j", True, "n")], [rate("j", 1.0)], ["j"]),
        ([lean("j", False), lean("j", True, "m"), lean("j", False, "n")], [rate("j", 1.0)], []),
        ([lean("j", True, "m")], [rate("j", 1.0)], ["j"]),  # one model: there is no row over all
        ([lean("j", True), lean("k", False)], [rate("j", 1.0), rate("k", 1.0)], ["j"]),
        ([], [rate("j", 1.0)], []),  # no journal: nothing is known of a lean
        ([lean("j", True)], [], []),  # no win rates: nobody judged
    ],
)
def test_who_is_undecided(leans: Any, rates: Any, expected: list[str]) -> None:
    assert undecided_judges(leans, rates) == expected


@pytest.mark.parametrize("undecided", [False, True])
def test_no_level_is_the_cheapest_by_an_undecided_judge(undecided: bool) -> None:
    verdicts = [
        {"model_id": "m", "judge_model": "j", "task": str(task), "turn": "1", "left": "L0", "right": "P"}
        | {"score": 1.0, "averaged": 1.0}
        for task in range(9)
    ]
    means = [
        {"board": "b", "power_scope": "module", "model_id": "m", "level": level, "metric": "energy_joule"}
        | {"mean": mean, "n_runs": 3, "n_tasks": 3}
        for level, mean in (("L0", 1.0), ("P", 2.0))
    ]
    draft = {
        "settings": {"baseline": "L0", "placebo": "P", "margin": 0.05, "seed": 0, "resamples": 100},
        "levels": ["L0", "P"],
        "models": [{"board": "b", "power_scope": "module", "model_id": "m"}],
        "level_means": means,
        "win_rates": [],
        "bradley_terry": [],
        "undecided_judges": ["j"] if undecided else [],
    }
    (row,) = weigh(verdicts, draft)["cheapest"]
    assert (row["cheapest_level"], row["best_level"]) == ((None, None) if undecided else ("L0", "L0"))
    assert (row["statement"] is None) == undecided and (row["reason"] is not None) == undecided
