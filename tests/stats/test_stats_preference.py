"""edgebench/stats/preference.py: a lean that is the same in both orders is taken out whole."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.stats.preference import (
    Chances,
    preference_of,
    preferred_share,
    taken_out,
    winner_of,
)

ODDS = st.floats(-8, 8)
TIES = st.floats(0.001, 50)


def made(log_odds: float, lean: float, ties: float, left_first: bool) -> Chances:
    """What a judge says that prefers the left answer by log_odds and the first slot by lean."""
    first = (log_odds if left_first else -log_odds) + lean
    weights = math.exp(first / 2), math.exp(-first / 2), ties
    return Chances(*(weight / sum(weights) for weight in weights))


@given(ODDS, ODDS, TIES)
def test_the_preference_does_not_depend_on_the_lean(log_odds: float, lean: float, ties: float) -> None:
    found = preference_of(made(log_odds, lean, ties, True), made(log_odds, lean, ties, False))
    assert found.log_odds == pytest.approx(log_odds, abs=1e-9)
    assert found.lean_log_odds == pytest.approx(lean, abs=1e-9)
    assert found.tie_odds == pytest.approx(ties, rel=1e-9)
    fair = made(log_odds, 0.0, ties, True)
    assert found.share == pytest.approx(fair.a + fair.tie / 2, abs=1e-9)


@given(ODDS, ODDS, TIES)
def test_naming_the_other_answer_left_turns_the_preference_round(
    log_odds: float, lean: float, ties: float
) -> None:
    one = preference_of(made(log_odds, lean, ties, True), made(log_odds, lean, ties, False))
    other = preference_of(made(-log_odds, lean, ties, True), made(-log_odds, lean, ties, False))
    assert one.share + other.share == pytest.approx(1.0, abs=1e-12)
    assert one.lean_log_odds == pytest.approx(other.lean_log_odds, abs=1e-9)


@given(st.floats(-1000, 1000), st.floats(0, 1e6))
def test_a_share_is_a_share_and_grows_with_the_odds(log_odds: float, ties: float) -> None:
    share = preferred_share(log_odds, ties)
    assert 0.0 <= share <= 1.0 and preferred_share(log_odds + 0.5, ties) >= share - 1e-12
    assert (share - 0.5) * log_odds >= 0


def test_known_shares() -> None:
    assert preferred_share(math.log(4)) == pytest.approx(0.8)
    assert preferred_share(0.0) == 0.5
    # wins 4 : 1, ties as many as half the wins' geometric mean: (4 + 1/2) / (4 + 1 + 1)
    assert preferred_share(math.log(4), 0.5) == pytest.approx((2 + 0.25) / (2 + 0.5 + 0.5))


@given(st.floats(0, 1), st.floats(0, 0.5))
def test_the_winner_is_named_beyond_the_margin_alone(share: float, margin: float) -> None:
    assert winner_of(1.0 - share, margin) == {"A": "B", "B": "A", "Tie": "Tie"}[winner_of(share, margin)]
    assert winner_of(0.5, margin) == "Tie"


def test_the_lean_over_pairs() -> None:
    found = [preference_of(made(0.3, lean, 0.2, True), made(0.3, lean, 0.2, False)) for lean in (0.5, 1.5)]
    lean = taken_out(found)
    assert (lean.pairs, lean.lean_log_odds_mean) == (2, pytest.approx(1.0))
    assert lean.lean_log_odds_std == pytest.approx(math.sqrt(0.5))
    assert lean.first_slot_share == pytest.approx(1 / (1 + math.exp(-1)))
    assert taken_out([]).first_slot_share is None and taken_out(found[:1]).lean_log_odds_std is None
