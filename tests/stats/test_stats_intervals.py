"""Intervals and tests against scipy's, and without scipy where the judge on a laptop needs them."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.stats import intervals, significance, student
from tests import bench_coverage

ROOT = Path(__file__).resolve().parents[2]
counts = st.integers(0, 300)


@settings(deadline=None)
@given(counts, counts)
def test_sign_test_is_scipys(one: int, other: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert math.isclose(significance.sign_test(one, other), expected, rel_tol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=6).filter(any))
def test_signed_rank_test_is_scipys_where_sizes_are_equal_or_zero(values: list[int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = [float(value) for value in values]
    every_pattern = stats.PermutationMethod()
    expected = stats.wilcoxon(differences, method=every_pattern).pvalue
    assert significance.signed_rank_test(differences) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6).filter(bool), min_size=1, max_size=13, unique_by=abs))
def test_signed_rank_test_is_scipys_where_all_sizes_differ(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.wilcoxon(values, method="exact").pvalue
    assert significance.signed_rank_test(values) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(counts, counts)
def test_wilson_is_scipys(won: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    if won + lost:
        theirs = stats.binomtest(won, won + lost).proportion_ci(method="wilson")
        assert intervals.wilson(won, won + lost) == pytest.approx([theirs.low, theirs.high], abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    numpy = pytest.importorskip("numpy")
    assert math.isclose(
        intervals.quantile(values, share), numpy.quantile(values, share), rel_tol=1e-9, abs_tol=1e-6
    )


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_students_interval_is_scipys(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    mean, std = intervals.mean_std(values)
    assert mean is not None and std is not None
    if std > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, mean, std / math.sqrt(len(values)))
        half = intervals.student_half_width(std, len(values))
        assert half == pytest.approx((high - low) / 2, rel=1e-9)


def test_too_few_values_have_no_spread() -> None:
    assert intervals.mean_std([]) == (None, None)
    assert intervals.mean_std([3.0]) == (3.0, None)


@settings(deadline=None)
@given(st.floats(-50, 50), st.floats(1, 500))
def test_students_distribution_is_scipys(t: float, freedom: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student.two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-8)
    assert student.student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=30))
def test_an_interval_of_a_mean_is_students_or_longer_on_the_side_of_the_skewness(values: list[float]) -> None:
    found = intervals.mean_interval(values)
    if found.edges is None:
        assert found.reason and max(values) - min(values) < 1e-6 * max(1.0, *map(abs, values))
        return
    mean, std = intervals.mean_std(values)
    assert mean is not None and std is not None
    half = intervals.student_half_width(std, len(values))
    low, high = found.edges
    slack = 1e-9 * max(map(abs, values))
    assert low <= mean - half + slack and mean + half <= high + slack
    mirrored = intervals.mean_interval([-value for value in values]).edges
    assert mirrored == pytest.approx([-high, -low], rel=1e-6, abs=slack)


def test_below_eight_values_there_is_no_interval_of_a_mean_and_a_reason() -> None:
    for count in range(8):
        found = intervals.mean_interval([float(value) for value in range(count)])
        assert found.edges is None and found.reason is not None and str(count) in found.reason
    same = intervals.mean_interval([0.1 + 0.2] * 9 + [0.3])
    assert same.edges is None and "the same value" in str(same.reason)


scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@settings(deadline=None)
@given(st.lists(scores, min_size=2, max_size=40))
def test_a_win_rates_interval_is_bounded_has_a_width_and_never_contradicts_the_sign_test(
    won: list[float],
) -> None:
    edges = intervals.win_rate_interval(won).edges
    assert edges is not None
    low, high = edges
    rate = sum(won) / len(won)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1 and high - low > 0.05
    mirrored = intervals.win_rate_interval([1 - one for one in won]).edges
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=1e-9)
    ahead, behind = sum(one > 0.5 for one in won), sum(one < 0.5 for one in won)
    if significance.sign_test(ahead, behind) >= 0.05:
        assert low <= 0.5 <= high


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_a_win_rates_interval_without_ties_is_wilsons_but_where_it_would_contradict(
    w: int, lost: int
) -> None:
    if w + lost >= 8:  # of fewer it is exact: test_exact_win_rates.py
        low, high = intervals.wilson(w, w + lost)
        if significance.sign_test(w, lost) >= 0.05:
            low, high = min(low, 0.5), max(high, 0.5)
        found = intervals.win_rate_interval([1.0] * w + [0.0] * lost).edges
        assert found == pytest.approx([low, high], abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "losses", "ties"), [(12, 2, 30), (3, 1, 6), (1, 0, 2), (0, 0, 10), (7, 7, 1)]
)
def test_tangos_edges_are_where_the_score_test_by_brute_force_is_at_its_limit(
    wins: int, losses: int, ties: int
) -> None:
    numpy = pytest.importorskip("numpy")
    n = wins + losses + ties

    def likelihood(lost: Any, theta: float) -> Any:
        cells = ((wins, lost + theta), (losses, lost), (ties, 1 - 2 * lost - theta))
        return sum(count * numpy.log(numpy.maximum(share, 1e-300)) for count, share in cells if count)

    for theta in intervals._tango([1.0] * wins + [-1.0] * losses + [0.0] * ties):
        low, high = max(0.0, -theta), (1 - theta) / 2
        tried = numpy.linspace(low, high, 200_001)
        best = float(tried[numpy.argmax(likelihood(tried, theta))])
        z = (wins - losses - n * theta) / math.sqrt(n * (2 * best + theta - theta**2))
        assert abs(z) == pytest.approx(1.959964, abs=1e-3)


def test_the_interval_of_a_ratio_holds_it_and_turns_over_with_it() -> None:
    draw = random.Random(3)
    base = [draw.uniform(1, 9) for _ in range(12)]
    values = [1.8 * below * draw.uniform(0.9, 1.1) for below in base]
    edges = intervals.ratio_interval(values, base).edges
    assert edges is not None
    ratio = sum(values) / sum(base)
    assert edges[0] < ratio < edges[1] and edges[1] - edges[0] < 0.2
    # Fieller's interval of base over values is that of values over base, turned over.
    turned = intervals.ratio_interval(base, values).edges
    assert turned == pytest.approx([1 / edges[1], 1 / edges[0]], rel=1e-3)
    exact = intervals.ratio_interval([2 * below for below in base], base)
    assert exact.edges is None and "the same ratio" in str(exact.reason)
    near_zero = intervals.ratio_interval(values, [below - 4.9 for below in base])
    assert near_zero.edges is None and near_zero.reason


def test_intervals_hold_what_they_claim_or_are_not_there() -> None:
    """A small seeded part of tests/bench_coverage.py; 400 samples are known to two percent."""
    for case in bench_coverage.cases():
        if case.kind in ("mean", "win rate", "ratio"):
            for tasks in (3, 10, 20):
                found = bench_coverage.coverage(case, tasks, 400, seed=5)
                if case.kind != "win rate" and tasks < 8:
                    assert found.given == 0
                elif found.held is not None:
                    assert found.held >= 0.91, (case.kind, case.shape, tasks)


def test_what_the_laptop_needs_works_without_numpy_and_scipy() -> None:
    program = (
        "import sys; sys.modules.update(numpy=None, scipy=None)\n"
        "from edgebench.stats import drift, intervals as i, ratios, significance as s, slots\n"
        "print(i.wilson(3, 4), i.mean_interval([1, 2] * 5), i.win_rate_interval([1, 0.5]), s.holm([0.1]))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("]") == 4, done.stderr
