"""Intervals and tests against scipy's, and without scipy where the judge on a laptop needs them."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.stats import intervals, significance

ROOT = Path(__file__).resolve().parents[2]
counts = st.integers(0, 300)


@settings(deadline=None)
@given(counts, counts)
def test_sign_test_is_scipys(one: int, other: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert math.isclose(significance.sign_test(one, other), expected, rel_tol=1e-9)


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


def test_the_bootstrap_over_tasks_is_seeded_and_centred() -> None:
    numpy = pytest.importorskip("numpy")
    columns = numpy.random.default_rng(1).normal(5.0, 2.0, (40, 2))
    means = intervals.resampled_means(columns, seed=7, resamples=2500)
    assert means.shape == (2500, 2)
    assert (means == intervals.resampled_means(columns, seed=7, resamples=2500)).all()
    assert means.mean(axis=0) == pytest.approx(columns.mean(axis=0), abs=0.05)
    low, high = intervals.percentile_interval(means[:, 0])
    assert low < columns[:, 0].mean() < high


def test_the_interval_of_a_ratio_covers_what_it_says() -> None:
    draw = random.Random(3)
    held = 0
    for _ in range(40):
        pairs = [(draw.gauss(2.0, 0.3), draw.gauss(4.0, 0.6)) for _ in range(25)]
        _, low, high = intervals.bootstrap_ratio(pairs)
        assert low is not None and high is not None
        held += low <= 0.5 <= high
    assert held >= 32
    assert intervals.bootstrap_ratio([]) == (None, None, None)
    assert intervals.bootstrap_ratio([(1.0, 2.0), (1.0, 2.0)]) == (0.5, None, None)
    assert intervals.bootstrap_ratio([(1.0, 0.0)] * 5) == (None, None, None)


def test_what_the_laptop_needs_works_without_numpy_and_scipy() -> None:
    program = (
        "import sys; sys.modules.update(numpy=None, scipy=None)\n"
        "from edgebench.stats import intervals as i, significance as s\n"
        "print(i.wilson(3, 4), i.quantile([1, 2], 0.5), i.mean_std([1, 3]), s.sign_test(3, 1), s.holm([0.1]))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("]") == 2, done.stderr
