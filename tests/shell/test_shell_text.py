"""Numbers and tables as text; the forms that people see are in the doctests of the module."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.shell import text

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("value", [-0.0, -1e-15, -1e-9, -0.0004])
def test_nothing_is_minus_zero(value: float) -> None:
    for places in (0, 1, 2, 3):
        assert text.fixed(value, places) == text.fixed(0.0, places)
    for shown in (text.number(value), text.percent(value)):
        assert shown.strip("-−0.% ") or not shown.startswith(("-", "−")), shown


@settings(deadline=None)
@given(finite)
def test_a_number_is_read_back_to_three_digits(value: float) -> None:
    assert math.isclose(float(text.number(value)), value, rel_tol=0.0051, abs_tol=0.0)


@settings(deadline=None)
@given(finite, st.integers(0, 6))
def test_fixed_is_python_s_own_but_for_the_sign_of_zero(value: float, places: int) -> None:
    shown = text.fixed(value, places)
    assert float(shown) == float(f"{value:.{places}f}") and (float(shown) or not shown.startswith("-"))


def test_missing_is_a_dash_everywhere() -> None:
    shown = [text.number(None), text.fixed(None, 2), text.percent(None), text.p_value(None)]
    shown += [text.mean_half_width(None, None), text.mean_std_text(None)]
    assert set(shown) == {"-"}
    assert text.number(None, dash=text.DASH) == "–"


def test_a_table_holds_its_columns_together() -> None:
    lines = text.text_table(["model", "level", "J"], [["a", "L0", 1], ["longer", "P", "12.5"]], left=2)
    assert lines == ["model   level     J", "a       L0        1", "longer  P      12.5"]
    assert text.markdown_table(["a", "b"], [["1", "22"]]) == ["| a | b  |", "|---|----|", "| 1 | 22 |", ""]


def test_names_move_no_cursor_and_fit_in_utf_8() -> None:
    assert text.printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert text.encodable("a\ud800b").encode() == b"a?b" and text.encodable(3) == 3
