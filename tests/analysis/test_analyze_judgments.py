"""Win rates and Bradley-Terry strengths against published and closed-form values."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")

from edgebench.analysis import judgments  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "judge"


def verdicts_of(wins: Any, ties: Any, players: list[str]) -> list[dict[str, Any]]:
    """One verdict per win and tie, each on a task of its own."""
    rows: list[dict[str, Any]] = []
    for i, j in itertools.combinations(range(len(players)), 2):
        outcomes = [(1.0, wins[i][j]), (0.0, wins[j][i]), (0.5, ties[i][j])]
        for score, count in outcomes:
            for _ in range(int(count)):
                row = {
                    "model_id": "m",
                    "judge_model": "j",
                    "task": str(len(rows)),
                    "turn": "1",
                    "score": score,
                }
                rows.append(
                    row | {"left": players[i], "right": players[j], "averaged": None, "extra_chars": None}
                )
    return rows


def analyze(verdicts: list[dict[str, Any]], reference: str | None = None, slots: Any = ()) -> dict[str, Any]:
    return judgments.analyze({"verdicts": verdicts, "slots": list(slots)}, reference)


def test_stiglers_citations() -> None:
    # Citations between four journals, published strengths and standard errors (Turner & Firth 2012).
    players = ["Biometrika", "Comm Statist", "JASA", "JRSS-B"]
    wins = [[0, 730, 498, 221], [33, 0, 68, 17], [320, 813, 0, 142], [284, 276, 325, 0]]
    result = analyze(verdicts_of(wins, np.zeros((4, 4)), players), "Biometrika")
    rows = {row["level"]: row for row in result["bradley_terry"]}
    published = {
        "JRSS-B": (0.26895, 0.07083),
        "JASA": (-0.47957, 0.06059),
        "Comm Statist": (-2.94907, 0.10255),
    }
    for player, (beta, se) in published.items():
        assert (round(rows[player]["beta"], 5), round(rows[player]["se"], 5)) == (beta, se)
    assert (rows["Biometrika"]["beta"], rows["Biometrika"]["se"]) == (0, 0)
    assert rows["JRSS-B"]["elo"] == pytest.approx(1183.9456, abs=1e-4)
    (fit,) = result["bradley_terry_fits"]
    assert fit["status"] == "ok" and fit["log_likelihood"] == pytest.approx(-1622.88980883, abs=1e-6)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared cases are not here")
@pytest.mark.parametrize("number", range(8))
def test_every_known_strength(number: int) -> None:
    cases = json.loads((SHARED / "bt_cases.json").read_text())["cases"]
    case = cases[number]
    if "wtl" in case:
        players = case["players"]
        wins, ties = np.zeros((5, 5)), np.zeros((5, 5))
        for pair, (won, tied, lost) in case["wtl"].items():
            i, j = (players.index(name) for name in pair.split("-"))
            wins[i, j], wins[j, i], ties[i, j], ties[j, i] = won, lost, tied, tied
        fit = judgments.bradley_terry(wins, players.index(case["reference"]), ties)
        assert fit is not None and fit.coefficients[:5] == pytest.approx(case["beta"], abs=1e-6)
        assert math.exp(fit.coefficients[5]) == pytest.approx(case["nu"], abs=1e-6)
        return
    wins = np.array(case["wins"], dtype=float)
    status, _ = judgments.connection(wins)
    if "beta" not in case:
        assert status == ("separated" if "separation" in case["name"] else "disconnected")
        return
    fit = judgments.bradley_terry(wins, case["players"].index(case["reference"]))
    assert status == "ok" and fit is not None
    assert fit.coefficients == pytest.approx(case["beta"], abs=1e-6)
    assert np.sqrt(np.diag(fit.covariance)) == pytest.approx(case["se"], abs=1e-6)
    assert fit.log_likelihood == pytest.approx(-case["neg_loglik"], abs=1e-6)


# Wins of the row team at home over the column team, 1987 American League East (Agresti 2002, table 10.10).
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
HOME = {
    "Milwaukee": [None, (4, 3), (4, 2), (4, 3), (6, 1), (4, 2), (6, 0)],
    "Detroit": [(3, 3), None, (4, 2), (4, 3), (6, 0), (6, 1), (4, 3)],
    "Toronto": [(2, 5), (4, 3), None, (2, 4), (4, 3), (4, 2), (6, 0)],
    "New York": [(3, 3), (5, 1), (2, 5), None, (4, 3), (4, 2), (6, 1)],
    "Boston": [(5, 1), (2, 5), (3, 3), (4, 2), None, (5, 2), (6, 0)],
    "Cleveland": [(2, 5), (3, 3), (3, 4), (4, 3), (4, 2), None, (2, 4)],
    "Baltimore": [(2, 5), (1, 5), (1, 6), (2, 4), (1, 6), (3, 4), None],
}


def test_baseball_strengths_and_the_home_advantage_as_order_effect() -> None:
    # Agresti: .68 1.11 1.25 1.29 1.44 1.58 against Baltimore, SE about .3; home advantage .302 (SE .131).
    wins = np.zeros((7, 7))
    slots = []
    for i, home in enumerate(TEAMS):
        for j, away in enumerate(TEAMS):
            won, lost = HOME[home][j] or (0, 0)
            wins[i, j] += won
            wins[j, i] += lost
            if i != j:
                slots.append(
                    {
                        "model_id": "m",
                        "judge_model": "j",
                        "first": home,
                        "second": away,
                        "first_score": won,
                        "second_score": lost,
                    }
                )
    result = analyze(verdicts_of(wins, np.zeros((7, 7)), TEAMS), "Baltimore", slots)
    betas = sorted(round(row["beta"], 2) for row in result["bradley_terry"])
    assert betas == [0.0, 0.68, 1.11, 1.25, 1.29, 1.44, 1.58]
    (fit,) = result["bradley_terry_fits"]
    assert fit["order_effect_gamma"] == pytest.approx(0.302, abs=5e-4)
    assert fit["order_effect_se"] == pytest.approx(0.131, abs=5e-4)


def test_what_pairs_do_not_allow_is_said_and_no_number_given() -> None:
    separated = verdicts_of([[0, 0, 0], [20, 0, 5], [20, 15, 0]], np.zeros((3, 3)), ["L0", "L1", "P"])
    result = analyze(separated, "P")
    assert all(row["beta"] is None and row["reason"] for row in result["bradley_terry"])
    (fit,) = result["bradley_terry_fits"]
    assert fit["status"] == "separated" and fit["components"] == [["L0"], ["L1", "P"]]
    assert all(math.isfinite(beta) for beta in fit["half_win_beta"].values())
    apart = verdicts_of(
        [[0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 4], [0, 0, 1, 0]], np.zeros((4, 4)), ["L0", "L1", "L2", "P"]
    )
    (fit,) = analyze(apart)["bradley_terry_fits"]
    assert fit["status"] == "disconnected" and "{L0, L1}, {L2, P}" in fit["statement"]


def test_pairs_against_one_level_give_the_logit_of_the_win_rate_and_say_so() -> None:
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    wins[0, 2], wins[2, 0], ties[0, 2] = 4, 13, 3
    wins[1, 2], wins[2, 1], ties[1, 2] = 11, 4, 5
    result = analyze(verdicts_of(wins, ties, ["L0", "L3", "P"]), "P")
    rows = {row["level"]: row["beta"] for row in result["bradley_terry"]}
    assert rows["L0"] == pytest.approx(math.log(5.5 / 14.5), abs=1e-8)
    assert rows["L3"] == pytest.approx(math.log(13.5 / 6.5), abs=1e-8)
    assert result["bradley_terry_fits"][0]["status"] == "only_against_one"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=12, max_size=12), st.integers(0, 3))
def test_strengths_do_not_depend_on_the_reference_and_reproduce_the_wins(
    counts: list[int], reference: int
) -> None:
    wins = np.zeros((4, 4))
    wins[~np.eye(4, dtype=bool)] = counts
    fit, other = judgments.bradley_terry(wins, reference), judgments.bradley_terry(wins, 0)
    assert fit is not None and other is not None
    assert fit.coefficients - fit.coefficients[0] == pytest.approx(other.coefficients, abs=1e-7)
    # At the maximum every player's expected wins are the wins it had.
    share = 1 / (1 + np.exp(fit.coefficients[None, :] - fit.coefficients[:, None]))
    expected = ((wins + wins.T) * share * ~np.eye(4, dtype=bool)).sum(axis=1)
    assert expected == pytest.approx(wins.sum(axis=1), abs=1e-6)


def test_win_rate_error_and_interval_of_the_leaderboard_case() -> None:
    # AlpacaEval's alpaca-7b: 205 wins, 584 losses, 16 ties of 805: 26.459627 +- 1.535711 percent.
    rate = judgments.win_rate([1.0] * 205 + [0.0] * 584 + [0.5] * 16)
    assert 100 * rate["rate"] == pytest.approx(26.459627, abs=1e-6)
    assert 100 * rate["se"] == pytest.approx(1.535711, abs=1e-6)
    half = 1.96 * rate["se"]
    assert rate["ci95"] == pytest.approx([rate["rate"] - half, rate["rate"] + half], abs=0.01)


def test_the_interval_of_five_tasks_stays_within_0_and_1_and_has_a_width_where_all_is_won() -> None:
    rate = judgments.win_rate([1, 1, 0.5, 0, 1])
    assert rate["rate"] == 0.7 and 0 < rate["ci95"][0] < 0.5 < rate["ci95"][1] < 1
    all_won = judgments.win_rate([1.0] * 10)["ci95"]
    assert all_won == pytest.approx([0.7224672, 1.0], abs=1e-6)  # Wilson's of 10 of 10


def test_tasks_are_the_sample_not_rows() -> None:
    """A task judged over two turns is one observation: two equal turns must not narrow the interval."""
    one = verdicts_of([[0, 6], [4, 0]], np.zeros((2, 2)), ["L0", "L3"])
    two = [row | {"turn": turn} for row in one for turn in ("1", "2")]
    rows = [analyze(verdicts)["win_rates"][0] for verdicts in (one, two)]
    assert (
        rows[1]["n_verdicts"] == 2 * rows[0]["n_verdicts"] and rows[1]["n_tasks"] == rows[0]["n_tasks"] == 10
    )
    assert (rows[0]["ci95"], rows[0]["win_rate_se"], rows[0]["sign_p"]) == (
        rows[1]["ci95"],
        rows[1]["win_rate_se"],
        rows[1]["sign_p"],
    )


def test_each_pair_is_seen_from_both_sides() -> None:
    wins, ties = [[0, 7], [2, 0]], [[0, 3], [3, 0]]
    upper, lower = analyze(verdicts_of(wins, ties, ["L0", "P"]))["win_rates"]
    assert (upper["level"], lower["level"]) == ("P", "L0")
    assert (lower["wins"], lower["ties"], lower["losses"]) == (7, 3, 2)
    assert lower["win_rate"] == pytest.approx(8.5 / 12, abs=1e-12)
    assert upper["win_rate"] == pytest.approx(3.5 / 12, abs=1e-12)
    assert lower["sign_p"] == pytest.approx(2 * sum(math.comb(9, k) for k in range(3)) / 2**9, abs=1e-12)
    assert lower["decisive_wilson95"] == pytest.approx([0.452587, 0.936773], abs=1e-5)


def test_length_control_finds_the_rate_at_equal_length_and_refuses_what_it_cannot_fit() -> None:
    rng = np.random.default_rng(3)
    extra = rng.normal(300, 400, size=4000)
    chance = 1 / (1 + np.exp(-(-0.4 + 1.2 * np.tanh(extra / extra.std(ddof=1)))))
    won = (rng.random(4000) < chance).astype(float)
    fit = judgments.length_controlled(won, extra)
    assert fit is not None and fit["rate"] == pytest.approx(1 / (1 + math.exp(0.4)), abs=0.03)
    assert fit["gamma"] == pytest.approx(1.2, abs=0.2) and fit["extrapolated"] is False
    assert fit["ci95"][0] < 1 / (1 + math.exp(0.4)) < fit["ci95"][1]
    longer = judgments.length_controlled(won, extra - extra.min() + 1)
    assert longer is not None and longer["extrapolated"] is True
    assert judgments.length_controlled([1, 1, 0, 0], [5, 5, 5, 5]) is None
    assert judgments.length_controlled([1, 1, 0, 0], [9, 8, -3, -4]) is None  # separated: no finite fit
