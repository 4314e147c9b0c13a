"""Tables made from rows: each row is used, or left out with a reason; two rows never pass for one.

A dictionary that is filled row by row keeps the last of several rows with one key and drops the others
without a word. Whoever makes a table takes one of these instead:

  by_key   one row per key, or DoubledKey
  grouped  all rows of each key
  account  the rows that are used and those that are left out, with their reasons, which add up
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgebench.errors import UserError

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)


class DoubledKey(UserError):
    """Two rows claim one place; the text names it."""


class Miscounted(AssertionError):
    """Rows used and rows left out are not the rows that were there: a fault of ours."""


@dataclass(frozen=True)
class Account(Generic[Row]):
    """What became of rows. Made by `account`, which proves that nothing is missing."""

    used: tuple[Row, ...]
    left_out: tuple[tuple[Row, str], ...]  # each with its reason

    @property
    def present(self) -> int:
        """How many rows there were."""
        return len(self.used) + len(self.left_out)

    def reasons(self) -> str:
        """Why rows are left out, with counts, the most frequent first; empty where all are used.

        >>> account(["a", "b", "c"], lambda row: None if row == "a" else "not a").reasons()
        '2 not a'
        """
        counted = Counter(reason for _, reason in self.left_out)
        return ", ".join(f"{count} {reason}" for reason, count in counted.most_common())


def account(rows: Sequence[Row], why_not: Callable[[Row], str | None]) -> Account[Row]:
    """Part rows in those that are used and those that are left out: `why_not` gives None or the reason."""
    used, left_out = [], []
    for row in rows:
        reason = why_not(row)
        if reason is None:
            used.append(row)
        else:
            left_out.append((row, reason))
    parted = Account(tuple(used), tuple(left_out))
    check_sum(len(rows), len(used), len(left_out))
    return parted


def check_sum(present: int, used: int, left_out: int) -> None:
    """Raise Miscounted unless used = present - left out."""
    if used != present - left_out:
        raise Miscounted(f"{used} rows used and {left_out} left out of {present}")


def by_key(rows: Iterable[Row], key: Callable[[Row], Key], what: str = "row") -> dict[Key, Row]:
    """The rows by their key, in order. Raises DoubledKey where two have the same.

    >>> by_key([(1, "a"), (2, "b")], key=lambda row: row[0])
    {1: (1, 'a'), 2: (2, 'b')}
    """
    found: dict[Key, Row] = {}
    for row in rows:
        place = key(row)
        if place in found:
            raise DoubledKey(f"{what} {place} stands there twice")
        found[place] = row
    return found


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """All rows of each key, in the order in which the keys first appear.

    >>> grouped(["ab", "c", "de"], key=len)
    {2: ['ab', 'de'], 1: ['c']}
    """
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
