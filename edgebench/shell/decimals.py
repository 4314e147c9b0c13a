"""How many decimals a figure gets: as many as its uncertainty carries, the same for a whole column.

Text, page and workbooks print with the places found here, so that one column never shows 8, 10.3 and 12.25
below each other and the same joule reads the same in all three. Source of the two digits: JCGM 100:2008
(GUM), 7.2.6, "it usually suffices to quote uncertainties to at most two significant digits". Standard
library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from edgebench.shell.text import fixed

DIGITS = 3  # significant ones of a figure whose uncertainty nobody knows
UNCERTAINTY_DIGITS = 2
MOST_DIGITS = 7  # of the largest figure of a column, whatever the smallest asks for
MOST_PLACES = 6
NEGLIGIBLE = 1e-9  # of the largest figure: what rounding errors leave of an uncertainty of nothing


def places_for(value: float, digits: int = DIGITS) -> int:
    """Decimals at which a value other than 0 shows so many significant digits; none for large values.

    The digits are those of the value as printed: 9.996 with three digits is 10.0.

    >>> places_for(0.0421, 2), places_for(9.996), places_for(123.4), places_for(5e-9)
    (3, 1, 0, 6)
    """
    rounded = float(f"{value:.{digits - 1}e}")
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return min(max(places, 0), MOST_PLACES)


def half_of(ci95: Sequence[float] | None) -> float | None:
    """Half the width of an interval, which stands for the uncertainty of its middle; None without one."""
    return None if ci95 is None else (ci95[1] - ci95[0]) / 2


def column_places(values: Iterable[float | None], uncertainties: Iterable[float | None] = ()) -> int:
    """The decimals of a column of figures, from its uncertainties (half widths, same unit) where there are
    any.

    The usual uncertainty shows two significant digits and the smallest at least one; without uncertainties
    the usual figure shows three and the smallest at least one. Whole numbers alone have no decimals.

    >>> column_places([8, 10.3, 12.25]), column_places([6.29, 10.7, 11.7], [1.5, 1.5, 2.2])
    (1, 1)
    >>> column_places([1, 250, None]), column_places([]), column_places([0.0004, 12.0])
    (0, 0, 4)
    """
    sizes = [abs(value) for value in values if value]
    largest = max(sizes, default=0.0)
    halves = [half for half in uncertainties if half and half > NEGLIGIBLE * largest]
    if halves:
        usual, smallest = statistics.median(halves), min(halves)
        places = max(places_for(usual, UNCERTAINTY_DIGITS), places_for(smallest, 1))
    elif all(size == int(size) for size in sizes):
        places = 0
    else:
        places = max(places_for(statistics.median(sizes)), places_for(min(sizes), 1))
    return min(places, places_for(largest, MOST_DIGITS)) if largest else places


def places_beside(value: float, ci95: Sequence[float] | None) -> int:
    """The decimals of one figure: those of its interval, else three significant digits.

    >>> places_beside(3.5066, [3.188, 3.825]), places_beside(3.5066, None), places_beside(8.0, None)
    (2, 2, 0)
    """
    return column_places([value], [half_of(ci95)])


def at_places(value: float | None, places: int, sign: bool = False, dash: str = "-") -> str:
    """A figure with so many decimals; what rounds to zero is zero, without a sign; a dash for what is
    missing.

    >>> at_places(8.0, 1), at_places(-0.04, 1), at_places(0.25, 1, sign=True), at_places(None, 1)
    ('8.0', '0.0', '+0.2', '-')
    """
    text = fixed(value, places, dash)
    is_above_zero = value is not None and value > 0 and text.strip("0.") != ""
    return f"+{text}" if sign and is_above_zero else text


def in_column(
    values: Iterable[float | None], uncertainties: Iterable[float | None] = (), sign: bool = False
) -> list[str]:
    """The figures of one column as text, all with the same decimals.

    >>> in_column([8, 10.3, None, 12.25])
    ['8.0', '10.3', '-', '12.2']
    """
    column = list(values)
    places = column_places(column, uncertainties)
    return [at_places(value, places, sign) for value in column]


def edges_at(ci95: Sequence[float] | None, places: int, sign: bool = False, between: str = " to ") -> str:
    """An interval with the decimals of the column beside it; a dash without one.

    >>> edges_at([9.2144, 12.2], 1), edges_at([-0.04, 1], 1, sign=True), edges_at(None, 2)
    ('9.2 to 12.2', '0.0 to +1.0', '-')
    """
    return "-" if ci95 is None else between.join(at_places(edge, places, sign) for edge in ci95)


def places_of_ratios(halves: Iterable[float | None]) -> int:
    """The decimals of ratios, from half their intervals: the usual one shows its first digit; without, two.

    >>> places_of_ratios([0.094]), places_of_ratios([0.096, 3.2, 0.11]), places_of_ratios([None, 0.0])
    (2, 1, 2)
    """
    known = [half for half in halves if half]
    return places_for(statistics.median(known), 1) if known else 2


def ratio_text(ratio: float, half: float, places: int | None = None) -> str:
    """A ratio and half its interval, with the same decimals; by default those of `places_of_ratios`.

    >>> ratio_text(1.8034, 0.094), ratio_text(12.4, 3.2), ratio_text(1.0, 0.0)
    ('1.80 ± 0.09', '12 ± 3', '1.00 ± 0.00')
    """
    places = places_of_ratios([half]) if places is None else places
    return f"{at_places(ratio, places)} ± {at_places(half, places)}"
