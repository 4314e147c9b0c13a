"""Axes that an outlier does not stretch, and labels that do not overlap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.reporting import limits
from edgebench.reporting.limits import Box, place_labels, robust_limits

values = st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("shown", "outliers"),
    [
        ([5, 6, 7, 9], [500]),
        ([5.0] * 20 + [6.0] * 20, [80.0, 90.0]),
        ([-3, 1, 2, 4, 5], [-900]),
        ([4, 5, 6, 7, 8, 40, 45, 50, 60], []),  # two sizes of models are two groups, not outliers
        ([1.0, 2.0], []),
        ([7.0, 7.0, 7.0, 7.0, 7.1], []),  # no spread to measure by
    ],
)
def test_an_outlier_is_off_the_axis_and_nothing_else(shown: list[float], outliers: list[float]) -> None:
    axis = robust_limits([*shown, *outliers])
    assert all(axis.holds(value) for value in shown)
    assert not any(axis.holds(value) for value in outliers)


@settings(deadline=None)
@given(values)
def test_at_least_nine_of_ten_values_are_on_the_axis(drawn: list[float]) -> None:
    axis = robust_limits(drawn)
    beyond = sum(not axis.holds(value) for value in drawn)
    assert beyond <= max(1, 0.1 * len(drawn)) and axis.low < axis.high
    assert all(axis.low <= axis.nearest(value) <= axis.high for value in drawn)


def test_a_wide_interval_takes_no_more_room_than_the_values() -> None:
    assert robust_limits([4.0, 5.0, 6.0], [3.0, 7.0]).holds(7.0)
    assert not robust_limits([4.0, 5.0, 6.0], [-50.0, 60.0]).holds(60.0)


def test_sizes_far_apart_get_a_logarithmic_axis() -> None:
    small, large = [1.0, 2.0, 3.0], [100.0, 200.0, 300.0]
    assert robust_limits(small + large, may_be_log=True).is_log
    assert not robust_limits(small, may_be_log=True).is_log
    assert not robust_limits([-1.0, *small, *large], may_be_log=True).is_log


point = st.tuples(st.floats(0, 300), st.floats(0, 200))


@settings(deadline=None)
@given(st.lists(st.tuples(point, st.text("ab1", min_size=1, max_size=9)), max_size=40))
def test_labels_overlap_neither_each_other_nor_a_point(drawn: list[tuple[tuple[float, float], str]]) -> None:
    points, texts = [at for at, _ in drawn], [text for _, text in drawn]
    places = place_labels(points, texts, 300, 200)
    boxes = [
        Box(x + place[0], y + place[1], limits.LETTER_PIXELS * len(text), limits.LINE_PIXELS)
        for (x, y), text, place in zip(points, texts, places, strict=True)
        if place
    ]
    half = limits.POINT_PIXELS / 2
    dots = [Box(x - half, y - half, 2 * half, 2 * half) for x, y in points]
    assert not any(one.meets(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.meets(dot) for box in boxes for dot in dots)
    assert all(limits.is_inside(box, 300, 200) for box in boxes)


def test_a_lone_label_always_finds_room() -> None:
    assert place_labels([(0.0, 0.0), (300.0, 200.0)], ["L0", "placebo"], 300, 200).count(None) == 0
