"""Exact intervals of win rates of 2 to 7 tasks: the table, and that the intervals hold."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.stats import exact_win_rates as exact
from edgebench.stats.intervals import win_rate_interval
from edgebench.stats.significance import sign_test
from tests import bench_coverage

TASKS = range(exact.FEWEST_EXACT, exact.MOST_EXACT + 1)
PLAIN = (0.0, 0.5, 1.0)
TURNS = (0.0, 0.25, 0.5, 0.75, 1.0)


def edges(tasks: int, wins: int, losses: int) -> list[float]:
    found = win_rate_interval([1.0] * wins + [0.0] * losses + [0.5] * (tasks - wins - losses)).edges
    assert found is not None
    return found


TABLES = ((exact.LOWEST, exact.ALPHA), (exact.LOWEST_BETWEEN, exact.ALPHA_BETWEEN))


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize(("table", "alpha"), TABLES, ids=["95 %", "97.5 %"])
def test_the_table_is_what_its_definition_gives(table: exact.Table, alpha: float, tasks: int) -> None:
    lowest = {one: table[tasks][one[0]][one[1]] for one in exact.outcomes(tasks)}
    assert sum(map(len, table[tasks])) == len(lowest)
    limit = alpha * (1 - exact.BETWEEN_SHARES)
    for rate in sorted({*lowest.values(), *(step / 40 for step in range(30))}):
        here, above = exact.chances(tasks, rate), exact.chances(tasks, rate + exact.STEP)
        for outcome, low in lowest.items():
            if rate <= low and low > 0:
                assert here[outcome] <= limit, (outcome, rate)
            if rate == low:  # no lower than it need be
                assert above[outcome] > limit, (outcome, rate)


def test_the_table_is_made_by_its_function() -> None:
    for table, alpha in TABLES:
        assert exact.lowest_rates(2, alpha) == {
            (wins, losses): table[2][wins][losses] for wins, losses in exact.outcomes(2)
        }


def test_a_p_value_by_hand() -> None:
    # Two wins of two at a true rate of 0.3: as far off is nothing else, and it is likeliest without ties.
    assert exact.chances(2, 0.3)[2, 0] == pytest.approx(0.3**2)
    # The true rate of which every outcome is as far off or farther than what it says itself.
    assert exact.chances(4, 0.5)[1, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("tasks", TASKS)
def test_the_interval_holds_at_every_truth_by_all_outcomes(tasks: int) -> None:
    worst = bench_coverage.worst_of_win_rate(tasks, PLAIN, bench_coverage.all_truths(3, 24))
    assert worst.held >= 0.95, worst


@pytest.mark.parametrize("tasks", TASKS)
def test_it_holds_of_scores_between_too(tasks: int) -> None:
    """Truths of two scores, among which are those where Tango's holds 71 to 82 % of the time."""
    for pair in itertools.combinations(TURNS, 2):
        worst = bench_coverage.worst_of_win_rate(tasks, pair, bench_coverage.all_truths(2, 40))
        assert worst.held >= 0.95, (pair, worst)
    if tasks <= 4:
        worst = bench_coverage.worst_of_win_rate(tasks, TURNS, bench_coverage.all_truths(5, 6))
        assert worst.held >= 0.95, worst


@pytest.mark.parametrize("tasks", TASKS)
def test_it_mirrors_contains_the_rate_moves_with_wins_and_never_contradicts_the_sign_test(tasks: int) -> None:
    for wins, losses in exact.outcomes(tasks):
        low, high = edges(tasks, wins, losses)
        mirrored = edges(tasks, losses, wins)
        assert [low, high] == pytest.approx([1 - mirrored[1], 1 - mirrored[0]], abs=1e-12)
        assert 0 <= low <= (1 + (wins - losses) / tasks) / 2 <= high <= 1 and high - low > 0.3
        assert (low <= 0.5 <= high) == (sign_test(wins, losses) >= exact.ALPHA), (wins, losses)
        better = [(wins + 1, losses - 1)] if losses else []
        if wins + losses < tasks:
            better.append((wins + 1, losses))  # a tie is won
        if losses:
            better.append((wins, losses - 1))  # a loss is tied
        for other in better:
            assert all(one <= two for one, two in zip((low, high), edges(tasks, *other), strict=True))


def test_scores_between_are_tossed_for_and_mean_themselves() -> None:
    made = exact.tossed([0.25, 0.9, 1.0])
    assert made == pytest.approx({(1, 1): 0.1, (2, 1): 0.4, (1, 0): 0.1, (2, 0): 0.4})
    assert sum(made.values()) == pytest.approx(1.0)
    mean = sum(chance * (1 + (wins - losses) / 3) / 2 for (wins, losses), chance in made.items())
    assert mean == pytest.approx((0.25 + 0.9 + 1) / 3)
    noisy = win_rate_interval([0.5 + 1e-13, 1 - 1e-13, 1e-13]).edges  # a mean of thirds is no score between
    assert noisy == edges(3, 1, 1)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=7))
def test_scores_between_have_an_interval_that_mirrors_and_contains_their_mean(scores: list[float]) -> None:
    low, high = exact.edges_of_scores(scores)
    assert 0 <= low <= sum(scores) / len(scores) + 1e-9 and sum(scores) / len(scores) - 1e-9 <= high <= 1
    mirrored = exact.edges_of_scores([1 - score for score in scores])
    # Near 0, 1/2 and 1 rounding decides whether a score is one between, and with it how wide it is.
    if all(abs(2 * score - round(2 * score)) > 1e-6 for score in scores):
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
