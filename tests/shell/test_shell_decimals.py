"""How many decimals a figure gets; the everyday cases are in the doctests of the module."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.shell import decimals

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)
halves = st.floats(min_value=0, max_value=1e6)


def places_of(text: str) -> int:
    return len(text.partition(".")[2])


@settings(deadline=None)
@given(st.lists(st.none() | finite), st.lists(st.none() | halves))
def test_a_column_has_one_number_of_decimals(values: list[float | None], widths: list[float | None]) -> None:
    texts = [text for text in decimals.in_column(values, widths) if text != "-"]
    assert len({places_of(text) for text in texts}) <= 1
    for text, value in zip(texts, (value for value in values if value is not None), strict=True):
        # What is printed is the value, rounded at the place that is printed.
        assert abs(float(text) - value) <= 0.5 * 10 ** -places_of(text) * (1 + 1e-9) + 1e-9 * abs(value)
        assert not re.fullmatch(r"-0(\.0*)?", text)


@settings(deadline=None)
@given(st.floats(min_value=1e-5, max_value=1e5), st.integers(1, 5))
def test_so_many_significant_digits_are_shown(value: float, digits: int) -> None:
    text = decimals.at_places(value, decimals.places_for(value, digits))
    shown = text.replace(".", "").lstrip("0")
    assert len(shown) >= digits or places_of(text) == decimals.MOST_PLACES
    assert len(shown) == digits or places_of(text) in (0, decimals.MOST_PLACES)


@pytest.mark.parametrize(
    ("values", "widths", "texts"),
    [
        ([8, 10.3, 12.0, 14.5], [], ["8.0", "10.3", "12.0", "14.5"]),  # what stood as 8 and 12
        ([6.2931, 10.71, 11.68], [1.5, 1.5, 2.2], ["6.3", "10.7", "11.7"]),
        ([4.4073, 7.914], [0.52, 0.61], ["4.41", "7.91"]),
        ([1234.5, 1301.2], [42.0, 40.0], ["1234", "1301"]),
        ([5.0, 5.0], [1e-17, 0.0], ["5", "5"]),  # repeats without noise: no uncertainty, whole numbers
        ([-0.4, 12.5], [], ["-0.40", "12.50"]),
        ([0.0, 0.0], [], ["0", "0"]),
        ([1e9, 0.001], [], ["1000000000", "0"]),  # seven digits of the largest, no more
    ],
)
def test_columns_as_people_meet_them(values: list[float], widths: list[float], texts: list[str]) -> None:
    assert decimals.in_column(values, widths) == texts


def test_a_usual_uncertainty_decides_and_the_smallest_still_shows_a_digit() -> None:
    assert decimals.column_places([10.0, 11.0, 12.0], [1.2, 1.4, 0.003]) == 3
    assert decimals.column_places([10.0, 11.0, 12.0], [1.2, 1.4, 300.0]) == 1


def test_half_of_an_interval() -> None:
    assert math.isclose(decimals.half_of([3.0, 3.5]) or 0, 0.25)
    assert decimals.half_of(None) is None
