"""Numbers, intervals and tables as text. Standard library only.

Missing is a dash, never a zero. Nothing is printed as minus zero.
"""

from __future__ import annotations

import datetime
import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 80  # columns of a terminal that every table fits in
DASH = "–"  # missing, in a document; on a screen it is "-"


# --- Numbers ---


def number(value: float | None, digits: int = 3, dash: str = "-") -> str:
    """Significant digits, without an exponent for what people count in; a dash for what is missing.

    >>> number(1234.5), number(0.04567), number(3.2e-07), number(-0.0), number(None)
    ('1234', '0.0457', '3.20e-07', '0', '-')
    """
    if value is None:
        return dash
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value or 0.0:.{digits}g}"
    return f"{value:.{digits - 1}e}" if "e" in text else text


def fixed(value: float | None, places: int, dash: str = "-") -> str:
    """So many decimal places; a value that rounds to zero is zero, without a sign.

    >>> fixed(2.345, 1), fixed(-0.0001, 3), fixed(None, 3)
    ('2.3', '0.000', '-')
    """
    if value is None:
        return dash
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def percent(value: float | None, dash: str = "-") -> str:
    """A share as whole percent; rounded as an integer, so that nothing becomes -0.

    >>> percent(0.256), percent(-0.001), percent(None)
    ('26 %', '0 %', '-')
    """
    return dash if value is None else f"{round(100 * value)} %"


def p_value(value: float | None, dash: str = "-") -> str:
    """p as people print it.

    >>> p_value(0.0004), p_value(0.0312), p_value(None)
    ('< 0.001', '0.031', '-')
    """
    if value is None:
        return dash
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """A count and its noun.

    >>> counted(1, "run"), counted(3, "run")
    ('1 run', '3 runs')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725.4)
    '1:02:05'
    """
    try:
        return str(datetime.timedelta(seconds=round(seconds)))
    except OverflowError:  # more than Python's calendar has: a stamp that is none
        return f"{seconds / 86400:.0e} days"


# --- Values with their uncertainty ---


def mean_half_width(mean: float | None, half: float | None) -> str:
    """1.230 ± 0.042: mean and half the 95 % interval, to the same decimal place where that shows both.

    >>> mean_half_width(1.23, 0.0421), mean_half_width(25.6, None), mean_half_width(None, None)
    ('1.230 ± 0.042', '25.6', '-')
    >>> mean_half_width(2.84e-4, 0.0102), mean_half_width(1.775e-5, 63e-5)
    ('0.00028 ± 0.01020', '(0.177 ± 6.3)e-04')
    """
    if mean is None:
        return "-"
    if half is None or not half:
        return f"{mean:.4g}" + (" ± 0" if half == 0 else "")
    # Where the interval is wider than its mean, its size sets the places: more of the mean would say nothing.
    power = math.floor(math.log10(max(abs(mean), half)))
    if -4 < power < 6:
        decimals = max(0, 3 - power, 1 - math.floor(math.log10(half)) if half < 10 ** (power - 3) else 0)
        return f"{fixed(mean, decimals)} ± {half:.{decimals}f}"
    return f"({fixed(mean / 10**power, 3)} ± {half / 10**power:.2g})e{power:+03d}"


def mean_std_text(mean: float | None, std: float | None = None) -> str:
    """A figure with two places, with four digits below 1 and none beyond 10,000; ± in the same places.

    >>> mean_std_text(25.6134, 0.0123), mean_std_text(0.016743), mean_std_text(None)
    ('25.61 ± 0.01', '0.01674', '-')
    """
    if mean is None:
        return "-"
    size = abs(mean)
    places = 0 if size >= 10_000 else 2 if size >= 1 or not size else 3 - math.floor(math.log10(size))
    return f"{mean:.{places}f}" + (f" ± {std:.{places}f}" if std is not None else "")


# --- Words ---


def printable(name: Any) -> str:
    """A name without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(name))


def shortened(name: str, letters: int) -> str:
    """A name of at most so many letters. The middle gives way: names of one family differ at their ends.

    >>> shortened("qwen2.5-0.5b", 20), shortened("SmolLM2-135M-Instruct-Q4_1", 22)
    ('qwen2.5-0.5b', 'SmolLM2-13…struct-Q4_1')
    """
    if len(name) <= letters:
        return name
    head = (letters - 1) // 2
    return name[:head] + "…" + name[head + 1 - letters :]


def encodable(value: Any) -> Any:
    """A text without lone surrogates, which UTF-8 cannot hold; other values as they are."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def let_file_names_through() -> None:
    """From here on stdout writes a file name that is no UTF-8 as its bytes, instead of failing on it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


# --- Tables ---


def text_table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1, gap: str = "  "
) -> list[str]:
    """Lines of a table, columns as wide as their cells; the first `left` hold words, the others numbers.

    >>> text_table(["level", "J"], [["L0", "1.5"], ["placebo", "12.25"]])
    ['level        J', 'L0         1.5', 'placebo  12.25']
    """
    lines = [[str(cell) for cell in line] for line in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        gap.join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, its columns padded for reading in a terminal; then an empty line."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = ["| " + " | ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return [text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:], ""]


def first_with(rows: Iterable[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any] | None:
    """The first row with these values."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)
