"""Rows used, rows left out, rows of one key: nothing is lost in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.records.account import Miscounted, account, by_key, check_sum, grouped

ROWS = st.lists(st.tuples(st.integers(0, 5), st.text(max_size=3)), max_size=30)


@given(ROWS)
def test_used_and_left_out_add_up_and_keep_their_order(rows: list[tuple[int, str]]) -> None:
    parted = account(rows, lambda row: None if row[0] < 3 else f"of {row[0]}")
    assert list(parted.used) == [row for row in rows if row[0] < 3]
    assert [row for row, _ in parted.left_out] == [row for row in rows if row[0] >= 3]
    assert parted.present == len(rows)
    counts = [int(part.split()[0]) for part in parted.reasons().split(", ") if part]
    assert sum(counts) == len(parted.left_out)


@given(ROWS)
def test_a_doubled_key_raises_or_is_kept_beside_the_other(rows: list[tuple[int, str]]) -> None:
    groups = grouped(rows, lambda row: row[0])
    assert sum(map(len, groups.values())) == len(rows)
    if len(groups) == len(rows):
        assert list(by_key(rows, lambda row: row[0]).values()) == rows
    else:
        with pytest.raises(UserError, match="stands there twice"):
            by_key(rows, lambda row: row[0])


def test_a_sum_that_does_not_add_up_is_a_fault() -> None:
    check_sum(5, 3, 2)
    with pytest.raises(Miscounted):
        check_sum(5, 3, 1)
