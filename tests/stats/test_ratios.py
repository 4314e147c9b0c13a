"""Ratios of sums and correlations, with their intervals."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.stats.correlation import pearson
from edgebench.stats.intervals import FEWEST, mean_interval, ratio_interval
from edgebench.stats.ratios import Ratio, geometric_mean, product_of_sums, ratio_of_repeats, ratio_of_sums

PAIRS = st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)), min_size=3, max_size=20)


@given(PAIRS)
def test_a_ratio_lies_between_the_extremes_and_in_its_interval(pairs: list[tuple[float, float]]) -> None:
    extremes = sorted(value / reference for value, reference in pairs)
    for found in (ratio_of_sums(pairs), ratio_of_repeats(pairs)):
        assert found.value is not None and found.units == len(pairs)
        assert extremes[0] * (1 - 1e-9) <= found.value <= extremes[-1] * (1 + 1e-9)
        assert (found.low is None) == (found.high is None) == (found.reason is not None)
        if found.low is not None and found.high is not None:
            assert found.low <= found.value * (1 + 1e-9) and found.value * (1 - 1e-9) <= found.high


@given(PAIRS)
def test_turned_over_the_interval_of_repeats_turns_over(pairs: list[tuple[float, float]]) -> None:
    one, other = ratio_of_repeats(pairs), ratio_of_repeats([(b, a) for a, b in pairs])
    assert one.value and other.value and one.high and other.low
    assert one.value * other.value == pytest.approx(1)
    if other.low > 1e-300:
        assert one.high * other.low == pytest.approx(1)


def test_over_prompts_the_interval_is_that_of_the_house() -> None:
    draw = random.Random(1)
    pairs = [(draw.uniform(1, 2), draw.uniform(2, 3)) for _ in range(10)]
    ours, theirs = zip(*pairs, strict=True)
    found = ratio_of_sums(pairs)
    assert [found.low, found.high] == ratio_interval(ours, theirs, "prompts").edges
    few = ratio_of_sums(pairs[: FEWEST - 1])
    assert few.low is None and few.reason and "7 prompts" in few.reason


def test_too_few_pairs_tell_no_interval() -> None:
    assert ratio_of_repeats([(1.0, 2.0), (1.0, 2.0)]) == Ratio(0.5, None, None, 2, "fewer than 3 repeats")
    for nothing in (ratio_of_repeats([]), ratio_of_sums([]), product_of_sums([], (1, -1))):
        assert nothing.value is None and nothing.units == 0 and nothing.reason
    for zero in (ratio_of_repeats([(1.0, 0.0)] * 4), ratio_of_sums([(1.0, 0.0)] * 4)):
        assert zero.value is None and zero.units == 4 and zero.reason


def test_throughput_is_a_product_of_sums() -> None:
    draw = random.Random(2)
    units = [(30.0, draw.uniform(90, 110), 30.0, draw.uniform(190, 230)) for _ in range(10)]
    found = product_of_sums(units, (1, -1, -1, 1))
    ms, reference_ms = sum(unit[1] for unit in units), sum(unit[3] for unit in units)
    assert found.value == pytest.approx((300 / ms) / (300 / reference_ms))
    assert found.low and found.high and found.low < found.value < found.high
    # With equal tokens it is the latency ratio, turned over.
    latency = ratio_of_sums([(unit[1], unit[3]) for unit in units])
    assert latency.low and latency.high
    assert [found.low, found.high] == pytest.approx([1 / latency.high, 1 / latency.low], rel=0.01)


def test_a_geometric_mean_has_the_interval_of_the_logarithms() -> None:
    ratios = [0.5, 0.8, 1.2, 0.9, 0.7, 1.1, 0.6, 1.0]
    found = geometric_mean(ratios, "workloads")
    edges = mean_interval([math.log(ratio) for ratio in ratios]).edges
    assert edges is not None and found.value == pytest.approx(math.prod(ratios) ** (1 / 8))
    assert [found.low, found.high] == pytest.approx([math.exp(edge) for edge in edges])
    assert geometric_mean([0.5, 0.6], "workloads").low is None


@pytest.mark.parametrize("units", [3, 5, 10])
def test_the_interval_of_repeats_covers_what_it_claims(units: int) -> None:
    """Of 1,500 made studies whose true ratio is known; a percentile bootstrap covers 75 % of three units."""
    draw = random.Random(units)
    hits = 0
    for _ in range(1500):
        theirs = [draw.gauss(10, 0.5) for _ in range(units)]
        found = ratio_of_repeats([(x * draw.gauss(0.9, 0.05), x) for x in theirs])
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.9 <= found.high
    assert 0.92 < hits / 1500 < 0.98


def test_pearson_is_that_of_the_textbook() -> None:
    pairs = [(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0), (5.0, 5.0)]
    found = pearson(pairs)
    assert found.value == pytest.approx(0.8) and found.pairs == 5
    half = 1.959963984540054 / math.sqrt(2)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.8) - half))
    assert pearson(pairs[:3]).value is None
    assert (
        pearson([(0.1 + 0.2, 1.0), (0.3, 2.0), (0.3, 3.0), (0.3, 4.0)]).value is None
    )  # rounding is no spread
