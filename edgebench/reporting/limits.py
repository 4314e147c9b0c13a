"""What a chart shows of its values: limits that an outlier does not stretch, and labels that do not overlap.

Pure numbers, no drawing. Whatever is left out of the limits is given back, so that the chart can say so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

FAR = 8.0  # standard deviations, as the median absolute deviation estimates them
MAD_TO_STD = 1.4826  # for normal values; Rousseeuw and Croux (1993)
RARE = 0.1  # share of the values that may be called outliers: more of them are a second group, and shown
MARGIN = 0.06  # of the span, beyond the outermost value shown
LOG_FROM = 25.0  # largest over smallest value from which a linear axis would hide the small ones


@dataclass(frozen=True)
class Limits:
    """The ends of an axis, and whether it is logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is on the axis."""
        return self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """The value, or the end of the axis it lies beyond."""
        return min(max(value, self.low), self.high)


def is_far(values: Sequence[float]) -> Callable[[float], bool]:
    """Which values are outliers: far from the median in terms of the median absolute deviation, and rare.

    Source: the rule of Iglewicz and Hoaglin (1993), with a wider limit: a chart may cut, but only what would
    flatten all the rest. Of fewer than four values none is.

    >>> [value for value in (5, 6, 7, 500) if is_far([5, 6, 7, 500])(value)]
    [500]
    >>> [value for value in (5, 6, 50, 60) if is_far([5, 6, 50, 60])(value)]
    []
    """
    if len(values) < 4:
        return lambda value: False
    middle = statistics.median(values)
    deviations = [abs(value - middle) for value in values]
    reach = FAR * MAD_TO_STD * statistics.median(deviations)
    # One that stands not much farther out than its neighbour is the end of a group, and shown.
    reach = max([reach, *(2 * deviation for deviation in deviations if deviation <= reach)])
    beyond = sum(deviation > reach for deviation in deviations)
    if not statistics.median(deviations) or beyond > max(1, RARE * len(values)):
        return lambda value: False
    return lambda value: abs(value - middle) > reach


def robust_limits(
    values: Sequence[float], edges: Iterable[float] = (), zero: bool = True, may_be_log: bool = False
) -> Limits:
    """An axis for the values without their outliers; the ends of their intervals as far as there is room.

    An interval may take as much room as the values themselves, no more. zero: the axis holds 0.
    """
    far = is_far(values)
    shown = [value for value in values if not far(value)]
    low, high = min(shown), max(shown)
    if may_be_log and low > 0 and high / low > LOG_FROM:
        return Limits(low / 1.3, high * 1.3, is_log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or abs(high) or 1.0
    ends = [edge for edge in edges if low - span <= edge <= high + span]
    low, high = min([low, *ends]), max([high, *ends])
    margin = MARGIN * (high - low or span)
    return Limits(low if zero and low == 0 else low - margin, high if zero and high == 0 else high + margin)


# --- labels ---


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels: its left and lower edge, its size."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Box) -> bool:
        """Whether two boxes overlap."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


LETTER_PIXELS, LINE_PIXELS = 5.6, 10.0  # a letter of 8 points at 96 pixels an inch, on average
POINT_PIXELS = 8.0
GAP = 5.0  # between a point's centre and its label


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], width: float, height: float
) -> list[tuple[float, float] | None]:
    """Where each label stands, as an offset in pixels of its lower left corner from its point.

    A label meets no point and no label placed before it, and stays in the picture of width × height; None for
    one that finds no room. Labels that come first have the choice.
    """
    half = POINT_PIXELS / 2
    taken = [Box(x - half, y - half, POINT_PIXELS, POINT_PIXELS) for x, y in points]
    places: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        size = LETTER_PIXELS * len(text), LINE_PIXELS
        place = next(
            (
                (dx, dy)
                for dx, dy in offsets(*size)
                if is_inside(box := Box(x + dx, y + dy, *size), width, height)
                and not any(box.meets(other) for other in taken)
            ),
            None,
        )
        places.append(place)
        if place:
            taken.append(Box(x + place[0], y + place[1], *size))
    return places


def offsets(width: float, height: float) -> list[tuple[float, float]]:
    """The places around a point that a label of this size tries, the usual one first."""
    right, left, middle = GAP, -GAP - width, -width / 2
    above, below, level = GAP, -GAP - height, -height / 2
    near = [(right, above), (left, above), (right, below), (left, below)]
    return [*near, (middle, above), (middle, below), (right + 1, level), (left - 1, level)]


def is_inside(box: Box, width: float, height: float) -> bool:
    """Whether a box lies in the picture."""
    return box.x >= 0 and box.y >= 0 and box.x + box.width <= width and box.y + box.height <= height
