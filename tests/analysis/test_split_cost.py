"""Prompt against answer: known coefficients come back within their intervals, at the nominal rate."""

from __future__ import annotations

from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")

from edgebench.analysis import split as split_cost  # noqa: E402
from edgebench.analysis.selection import Measured  # noqa: E402

TRUE = np.array([1.0, 0.002, 0.02])
DRAFT = {"settings": {"baseline": "L0", "seed": 0, "resamples": 400}, "levels": ["L0", "L3"]}
MODEL = {"board": None, "power_scope": None, "model_id": "m"}


def made(rng: Any, tasks: int, task_spread: float, noise: float) -> tuple[Any, Any, Any]:
    """Tokens (n, 2), energy (n,) and task (n,) of five levels and three repeats."""
    tokens, cost, task = [], [], []
    for number in range(tasks):
        base, shift = rng.integers(120, 320), rng.normal(0, task_spread)
        for prompt, longer in ((45, 0), (130, 30), (290, 90), (560, 130), (900, 140)):
            pair = (prompt + rng.integers(0, 40), base + longer + rng.integers(-30, 30))
            for _ in range(3):
                mean = TRUE[0] + TRUE[1] * pair[0] + TRUE[2] * pair[1]
                tokens.append(pair)
                cost.append(mean + shift + rng.normal(0, noise * mean))
                task.append(number)
    return np.array(tokens, float), np.array(cost), np.array(task)


def rows_of(tokens: Any, cost: Any, task: Any, levels: Any) -> Any:
    levels = [levels] * len(task) if isinstance(levels, str) else levels
    return [
        Measured(
            id=f"t{number:02d}",
            turn="1",
            level=str(level),
            repeat=None,
            t_s=None,
            prompt_tokens=float(pair[0]),
            completion_tokens=float(pair[1]),
            energy_joule=float(joule),
        )
        for number, level, pair, joule in zip(task, levels, tokens, cost, strict=True)
    ]


def test_least_squares_of_a_case_small_enough_to_do_by_hand() -> None:
    tokens = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    fit = split_cost.fit_cost(tokens, np.array([1.0, 3.0, 4.0, 7.0]), np.array([0, 1, 2, 3]))
    assert fit is not None and fit.coefficients == pytest.approx((0.75, 2.5, 3.5), abs=1e-12)
    # Residuals +-1/4: sum of squares 1/4 on 1 degree of freedom; (X'X)^-1 has diagonal 3/4, 1, 1.
    assert fit.se_ols == pytest.approx((np.sqrt(3 / 16), 0.5, 0.5), abs=1e-12)
    assert fit.r_squared == pytest.approx(1 - 0.25 / 18.75, abs=1e-12)


@pytest.mark.parametrize(
    ("task_spread", "noise"), [(0.0, 0.05), (0.5, 0.02)], ids=["noise in proportion", "tasks differ"]
)
def test_known_coefficients_are_within_their_interval_at_the_nominal_rate(
    task_spread: float, noise: float
) -> None:
    rng, covered, runs = np.random.default_rng(11), np.zeros(3), 200
    for _ in range(runs):
        tokens, cost, task = made(rng, 20, task_spread, noise)
        row, _ = split_cost.split_row(rows_of(tokens, cost, task, "L0"), "energy_joule")
        edges = np.array([one["ci95"] for one in row["coefficients"].values()])
        covered += (edges[:, 0] <= TRUE) & (edges[:, 1] >= TRUE)
    # 95 % of 200 is 190; the seed is fixed, the bounds are three standard errors.
    assert ((covered >= 180) & (covered <= 199)).all()


def test_parts_add_up_and_shares_are_those_of_the_known_coefficients() -> None:
    rng = np.random.default_rng(2)
    tokens, _, task = made(rng, 12, 0.0, 0.0)
    keep = np.tile([True] * 3 + [False] * 6 + [True] * 3 + [False] * 3, 12)
    tokens, task = tokens[keep], task[keep]
    cost = TRUE[0] + tokens @ TRUE[1:] + rng.normal(0, 0.05, len(tokens))
    levels = np.tile(["L0"] * 3 + ["L3"] * 3, 12)
    tables = split_cost.split([rows_of(tokens, cost, task, levels)], DRAFT | {"models": [MODEL]})
    (part,) = tables["cost_parts"]
    assert part["extra"] == pytest.approx(
        part["prompt_part"] + part["answer_part"] + part["unexplained"], abs=1e-9
    )
    extra = (tokens[levels == "L3"].mean(axis=0) - tokens[levels == "L0"].mean(axis=0)) * TRUE[1:]
    low, high = part["prompt_share_ci95"]
    assert low < extra[0] / extra.sum() < high and high - low < 0.2
    assert part["prompt_share"] + part["answer_share"] == pytest.approx(1)
    assert f"{100 * part['prompt_share']:.0f} % is prompt" in part["sentence"]
    assert "is longer answer" in part["sentence"] and " at L3" in part["sentence"]


def test_equal_answers_leave_the_prompt_alone_to_pay() -> None:
    tokens = np.array([[40, 64], [500, 64]] * 6, float)
    cost = 1 + 0.01 * tokens[:, 0] + np.tile([0.01, -0.02, 0.005, 0.0], 3)
    frame = rows_of(tokens, cost, np.repeat(range(6), 2), ["L0", "L3"] * 6)
    tables = split_cost.split([frame], DRAFT | {"models": [MODEL]})
    energy = tables["cost_split"][0]["coefficients"]
    assert energy["per_output_token"]["estimate"] is None
    assert energy["per_output_token"]["reason"] == "completion_tokens is the same in all runs"
    assert energy["per_prompt_token"]["estimate"] == pytest.approx(0.01, abs=1e-4)
    assert tables["cost_parts"][0]["sentence"].endswith("at L3, all is prompt")


def test_a_shorter_answer_has_no_share_but_a_sentence() -> None:
    rng = np.random.default_rng(4)
    tokens = np.array(
        [
            [
                40 + t,
                300 + 9 * t,
            ]
            if level == 0
            else [500 - 3 * t, 200 + 5 * t]
            for t in range(8)
            for level in (0, 1)
        ],
        float,
    )
    cost = 1 + tokens @ np.array([0.004, 0.02]) + rng.normal(0, 0.01, 16)
    frame = rows_of(tokens, cost, np.repeat(range(8), 2), ["L0", "L3"] * 8)
    (part,) = split_cost.split([frame], DRAFT | {"models": [MODEL]})["cost_parts"]
    assert part["prompt_share"] is None and part["reason"]
    assert part["sentence"].startswith("at L3: ") and "less for the shorter answer" in part["sentence"]


def test_tokens_that_move_together_are_refused_or_remarked() -> None:
    tokens = np.array([[n, 2 * n] for n in range(10, 22)], float)
    assert split_cost.fit_cost(tokens, tokens[:, 0], np.arange(12)) is None
    frame = rows_of(tokens, tokens[:, 0], np.repeat(range(6), 2), ["L0", "L3"] * 6)
    row = split_cost.split([frame], DRAFT | {"models": [MODEL]})["cost_split"][0]
    assert row["reason"] and row["coefficients"]["per_run"]["estimate"] is None
