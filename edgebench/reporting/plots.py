"""How a chart is drawn: lines by level, points, bars and strips on the axes of a figure.

Each function draws what it is given, in units as given, and decides nothing about the data. Colours come from
a fixed list that the page's style sheet knows; a marker and a dash go with each, so that colour is never the
only difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgebench.reporting.limits import Limits, place_labels
from edgebench.shell.decimals import at_places, places_beside
from edgebench.shell.text import printable, shortened
from edgebench.stats.intervals import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ink and series colours: each at least 4.5 to 1 on white; a page overrides them for dark.
INK, FAINT = "#1f2933", "#8a939d"
SERIES = ("#0b62a4", "#b3470f", "#1b7340", "#7a3fa0", "#a3264f", "#5b6400", "#00707a", "#6b5344")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
CSS = {INK: "--ink", FAINT: "--faint"} | {colour: f"--c{place}" for place, colour in enumerate(SERIES)}
NAME_LENGTH = 22
TICK_LENGTH = 12  # of a level's name under an axis
LEVELS_SIDE_BY_SIDE = 6  # names under an axis that stand level; more of them lean
LEGEND_LINE_INCH = 0.21
LEGEND_NAME_BESIDE = 20  # letters of a name that leaves room for a second one beside it
GOLDEN_RATIO = 0.618  # steps of it spread dots over a strip without two neighbours in one place
CHANCE = (0, (2, 3))  # the dash of a line that is no data


@dataclass(frozen=True)
class Line:
    """A model's values over the levels: place of the level, value, interval. number: which look it has."""

    number: int
    name: str
    places: Sequence[float]
    values: Sequence[float]
    intervals: Sequence[Sequence[float] | None] = ()


@dataclass(frozen=True)
class Point:
    """A place in the plane with its label; `is_filled` where it belongs to a front."""

    x: float
    y: float
    label: str
    is_filled: bool = True


@dataclass(frozen=True)
class Bar:
    """A row of stacked parts: where they begin and end, and the total that was measured."""

    label: str
    prompt: float
    answer: float
    measured: float


@dataclass(frozen=True)
class Share:
    """A row with a value from 0 to 100 and its interval, and a second opinion of it where there is one."""

    label: str
    value: float
    interval: Sequence[float] | None
    second: float | None = None
    second_interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Strip:
    """Many values of one level, in a row of their own."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """A title, its ends, and a line across at a value that means nothing happened."""

    title: str
    limits: Limits
    reference: float | None = None


@dataclass(frozen=True)
class Group:
    """Rows under the name of their model. number: which look it has, the same in every chart."""

    number: int
    name: str
    rows: Sequence[Any] = field(default_factory=tuple)


# --- names and looks ---


def clean(name: Any, length: int = NAME_LENGTH) -> str:
    """A name short enough for a legend, without characters a font cannot draw.

    The middle gives way: models of one family differ at the end, in size or quantization.

    >>> clean("SmolLM2-135M-Instruct-Q4_1")
    'SmolLM2-13…struct-Q4_1'
    """
    return shortened(printable(name), length)


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th series."""
    dash = DASHES[place // len(SERIES) % len(DASHES)]
    return {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)], "linestyle": dash}


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Two spines, a faint grid across the values, ink for text."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3, which="both")
    axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def show_axis(axes: Axes, axis: Axis, side: Literal["x", "y"]) -> None:
    """Title, ends and scale of one axis, and its reference line."""
    low, high = axis.limits.low, axis.limits.high
    reference: dict[str, Any] = {"color": FAINT, "linewidth": 0.8, "linestyle": CHANCE, "zorder": 0.5}
    if side == "x":
        axes.set_xscale("log" if axis.limits.is_log else "linear")
        axes.set_xlim(low, high)
        axes.set_xlabel(axis.title, color=INK)
        if axis.reference is not None:
            axes.axvline(axis.reference, **reference)
    else:
        axes.set_yscale("log" if axis.limits.is_log else "linear")
        axes.set_ylim(low, high)
        axes.set_title(axis.title, loc="left", fontsize=9, color=INK)
        if axis.reference is not None:
            axes.axhline(axis.reference, **reference)
    if axis.limits.is_log:
        plain_numbers(axes, side)


def plain_numbers(axes: Axes, side: Literal["x", "y"]) -> None:
    """A logarithmic axis with 2, 5, 10 in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ruler = axes.xaxis if side == "x" else axes.yaxis
    ruler.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ruler.set_minor_formatter(NullFormatter())


def show_levels(axes: Axes, levels: Sequence[str]) -> None:
    """The levels' names under the axis; many or long ones lean."""
    names = [clean(level, TICK_LENGTH) for level in levels]
    leans = len(names) > LEVELS_SIDE_BY_SIDE or max(map(len, names)) * len(names) > 45
    axes.set_xticks(range(len(names)), names)
    if leans:
        axes.tick_params(axis="x", rotation=40 if len(names) <= 2 * LEVELS_SIDE_BY_SIDE else 90)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    axes.set_xlim(-0.4, len(names) - 0.6)


def legend_columns(names: Sequence[str]) -> int:
    """Columns of a legend: one where two long names would not fit side by side."""
    return 1 if max(map(len, names), default=0) > LEGEND_NAME_BESIDE else 2


def legend_rows(names: Sequence[str]) -> int:
    """Lines of a legend; one name needs none."""
    return math.ceil(len(names) / legend_columns(names)) if len(names) > 1 else 0


def legend_below(figure: Figure, axes: Axes, columns: int = 0) -> None:
    """A legend under the plot, where it covers nothing; without `columns` in as many as the names allow."""
    handles, names = axes.get_legend_handles_labels()
    if len(handles) < 2:
        return
    columns = columns or legend_columns(names)
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "borderpad": 0.1}
    figure.legend(handles, names, loc="lower center", ncols=columns, **look)
    room = LEGEND_LINE_INCH * math.ceil(len(handles) / columns) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room))


def mark_beyond(axes: Axes, place: float, value: float, limits: Limits, colour: str) -> None:
    """A triangle at the end of the axis for a value beyond it, with the value."""
    is_above = value > limits.high
    y = limits.high if is_above else limits.low
    axes.plot([place], [y], "^" if is_above else "v", color=colour, markersize=7, clip_on=False)
    told = at_places(value, places_beside(value, None))
    look: dict[str, Any] = {"fontsize": 8, "color": INK, "textcoords": "offset points", "va": "center"}
    axes.annotate(told, (place, y), (6, 0), **look)


# --- charts over the levels ---


def draw_lines(figure: Figure, lines: Sequence[Line], levels: Sequence[str], axis: Axis) -> None:
    """One line a model over the levels, with intervals; what lies beyond the axis is marked at its end."""
    axes = figure.add_subplot()
    # Side by side within a level, or intervals would hide each other.
    step = min(0.08, 0.6 / max(len(lines), 1))
    for side, line in enumerate(lines):
        nudge = (side - (len(lines) - 1) / 2) * step
        look = style(line.number)
        x = [place + nudge for place in line.places]
        axes.plot(x, line.values, label=line.name, markersize=5, linewidth=1.4, **look)
        # Drawn by their ends: the interval of a skewed sample need not hold its mean.
        known = [
            (place, *ends) for place, ends in zip(x, line.intervals or [None] * len(x), strict=True) if ends
        ]
        for place, low, high in known:
            axes.plot([place, place], [low, high], color=look["color"], linewidth=1, marker="_", markersize=4)
        for place, value in zip(x, line.values, strict=True):
            if not axis.limits.holds(value):
                mark_beyond(axes, place, value, axis.limits, look["color"])
    show_axis(axes, axis, "y")
    show_levels(axes, levels)
    tidy(axes)
    legend_below(figure, axes)


def draw_many_lines(figure: Figure, lines: Sequence[Line], levels: Sequence[str], axis: Axis) -> None:
    """Faint lines of many models, the middle half of them as a band, their median as a line."""
    from matplotlib.collections import LineCollection

    axes = figure.add_subplot()
    paths = [list(zip(line.places, line.values, strict=True)) for line in lines]
    faint = min(0.4, 20 / len(paths))  # hundreds of lines must not hide the band under them
    axes.add_collection(LineCollection(paths, colors=FAINT, linewidths=0.6, alpha=faint))
    axes.plot([], [], color=FAINT, linewidth=0.8, label="one model")
    at_level: dict[float, list[float]] = {}
    for line in lines:
        for place, value in zip(line.places, line.values, strict=True):
            at_level.setdefault(place, []).append(value)
    places = sorted(at_level)
    low, middle, high = (
        [quantile(at_level[place], share) for place in places] for share in (0.25, 0.5, 0.75)
    )
    axes.fill_between(places, low, high, color=SERIES[0], alpha=0.3, linewidth=0, label="middle half")
    axes.plot(places, middle, color=SERIES[0], marker="o", markersize=5, linewidth=1.8, label="median")
    for place, value in zip(places, middle, strict=True):
        look: dict[str, Any] = {"fontsize": 8, "color": INK, "textcoords": "offset points", "ha": "center"}
        axes.annotate(at_places(value, 2), (place, value), (0, 7), **look)
    show_axis(axes, axis, "y")
    show_levels(axes, levels)
    tidy(axes)
    legend_below(figure, axes, columns=3)


# --- charts in the plane of cost and quality ---


def draw_front(figure: Figure, series: Sequence[Group], x_axis: Axis, y_axis: Axis) -> None:
    """Points of each model, those of its front filled and joined; labels where there is room."""
    axes = figure.add_subplot()
    for group in series:
        look = style(group.number)
        front = sorted((point.x, point.y) for point in group.rows if point.is_filled)
        axes.plot(
            [x for x, _ in front], [y for _, y in front], color=look["color"], linestyle=look["linestyle"],
            linewidth=1.2,
        )  # fmt: skip
        for place, point in enumerate(group.rows):
            axes.plot(
                [x_axis.limits.nearest(point.x)], [y_axis.limits.nearest(point.y)], look["marker"],
                markersize=6, markerfacecolor=look["color"] if point.is_filled else "none",
                markeredgecolor=look["color"], label=group.name if place == 0 else None,
            )  # fmt: skip
    show_axis(axes, x_axis, "x")
    show_axis(axes, y_axis, "y")
    label_points(axes, [point for group in series for point in group.rows], x_axis.limits, y_axis.limits)
    tidy(axes, grid="both")
    legend_below(figure, axes)


def label_points(axes: Axes, points: Sequence[Point], x_limits: Limits, y_limits: Limits) -> None:
    """The points' labels, those of the fronts first; one that finds no room is left away."""
    width, height = 340.0, 235.0  # pixels of the plot in a chart of usual size
    ordered = sorted(points, key=lambda point: not point.is_filled)
    places = [(width * part_of(point.x, x_limits), height * part_of(point.y, y_limits)) for point in ordered]
    labels = [clean(point.label, TICK_LENGTH) for point in ordered]
    for point, label, offset in zip(
        ordered, labels, place_labels(places, labels, width, height), strict=True
    ):
        if offset:
            shift = (0.75 * offset[0], 0.75 * offset[1])  # points of 1/72 inch for pixels of 1/96
            at = (x_limits.nearest(point.x), y_limits.nearest(point.y))
            axes.annotate(label, at, shift, textcoords="offset points", fontsize=8, color=INK)


def part_of(value: float, limits: Limits) -> float:
    """Where on an axis a value lies, from 0 to 1."""
    low, high, value = limits.low, limits.high, limits.nearest(value)
    if limits.is_log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def draw_clouds(figure: Figure, clouds: Sequence[Group], x_axis: Axis, y_axis: Axis) -> None:
    """Each level of many models as a cloud of dots with its median and the middle half in both directions."""
    axes = figure.add_subplot()
    middles = []
    for cloud in clouds:
        look = style(cloud.number)
        xs, ys = [point.x for point in cloud.rows], [point.y for point in cloud.rows]
        axes.plot(xs, ys, ".", color=look["color"], markersize=3, alpha=0.35)
        x, y = quantile(xs, 0.5), quantile(ys, 0.5)
        axes.plot([quantile(xs, 0.25), quantile(xs, 0.75)], [y, y], color=look["color"], linewidth=1.6)
        axes.plot([x, x], [quantile(ys, 0.25), quantile(ys, 0.75)], color=look["color"], linewidth=1.6)
        axes.plot([x], [y], look["marker"], color=look["color"], markersize=7, label=cloud.name)
        middles.append(Point(x, y, cloud.name))
    show_axis(axes, x_axis, "x")
    show_axis(axes, y_axis, "y")
    tidy(axes, grid="both")
    legend_below(figure, axes, columns=4)


# --- charts of rows ---


def lay_rows(axes: Axes, groups: Sequence[Group]) -> list[tuple[float, int, Any]]:
    """(height, number of the group, row) of a chart that lists rows under their models; names the rows."""
    laid, y = [], 0.0
    for group in groups:
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0.01, y, group.name, fontsize=9, fontweight="bold", color=INK, **place)
        for row in group.rows:
            y += 1
            laid.append((y, group.number, row))
        y += 1.4
    axes.set_yticks([height for height, _, _ in laid], [clean(row.label, TICK_LENGTH) for _, _, row in laid])
    axes.set_ylim(y - 0.7, -0.7)
    tidy(axes, grid="x")
    return laid


def rows_height(groups: Sequence[Group], around: float) -> float:
    """Inches that a chart of rows needs, with so many around them."""
    return around + 0.23 * (sum(len(group.rows) for group in groups) + 1.4 * len(groups))


def draw_bars(figure: Figure, groups: Sequence[Group], axis: Axis) -> None:
    """Stacked bars: the prompt's and the answer's part of the extra cost, and a line at what was measured."""
    axes = figure.add_subplot()
    for y, _, bar in lay_rows(axes, groups):
        # Parts of opposite sign grow to both sides of zero, others end to end.
        start = bar.prompt if bar.prompt * bar.answer > 0 else 0
        axes.barh(y, bar.prompt, 0.7, color=SERIES[1], hatch="////", edgecolor="white", linewidth=0)
        axes.barh(y, bar.answer, 0.7, left=start, color=SERIES[0])
        at = axis.limits.nearest(bar.measured)
        axes.plot([at], [y], "|", color=INK, markersize=11, markeredgewidth=1.6, clip_on=False)
        if at != bar.measured:
            told = at_places(bar.measured, places_beside(bar.measured, None))
            side = "right" if bar.measured > at else "left"
            arrow = f"{told} ▸" if side == "right" else f"◂ {told}"
            axes.text(at, y, arrow, ha=side, va="center", fontsize=8, color=INK, zorder=5)
    axes.barh([math.nan], [0], color=SERIES[1], hatch="////", edgecolor="white", label="longer prompt")
    axes.barh([math.nan], [0], color=SERIES[0], label="longer answer")
    look: dict[str, Any] = {"color": INK, "markersize": 11, "markeredgewidth": 1.6, "linestyle": "none"}
    axes.plot([], [], "|", label="measured", **look)
    show_axis(axes, axis, "x")
    legend_below(figure, axes, columns=3)


def draw_shares(figure: Figure, groups: Sequence[Group], axis: Axis) -> None:
    """A dot with its interval for each row, a second opinion hollow below it."""
    axes = figure.add_subplot()
    for y, number, row in lay_rows(axes, groups):
        look = style(number)
        if row.interval:
            axes.plot(row.interval, [y, y], color=look["color"], linewidth=1.6)
        axes.plot([row.value], [y], look["marker"], color=look["color"], markersize=6, clip_on=False)
        if row.second is not None:
            below: dict[str, Any] = {"color": look["color"], "linewidth": 0.9, "markerfacecolor": "none"}
            axes.plot(row.second_interval or [row.second] * 2, [y + 0.36] * 2, **below)
            axes.plot([row.second], [y + 0.36], look["marker"], markersize=4.5, clip_on=False, **below)
    show_axis(axes, axis, "x")


def draw_strips(figure: Figure, strips: Sequence[Strip], axis: Axis) -> None:
    """Dots of many models in a row for each level, the middle half as a bar, the median as a line."""
    axes = figure.add_subplot()
    for y, strip in enumerate(strips):
        look = style(y)
        shaken = [y + 0.5 * ((number * GOLDEN_RATIO) % 1 - 0.5) for number in range(len(strip.values))]
        shown = [axis.limits.nearest(value) for value in strip.values]
        axes.plot(shown, shaken, ".", color=look["color"], markersize=3.5, alpha=0.4)
        low, middle, high = (quantile(strip.values, share) for share in (0.25, 0.5, 0.75))
        axes.barh(y, high - low, 0.62, left=low, color=look["color"], alpha=0.22)
        axes.plot([middle, middle], [y - 0.36, y + 0.36], color=look["color"], linewidth=2.2)
    axes.set_yticks(range(len(strips)), [clean(strip.label, TICK_LENGTH) for strip in strips])
    axes.set_ylim(len(strips) - 0.4, -0.6)
    show_axis(axes, axis, "x")
    tidy(axes, grid="x")


# --- power over time ---


def highest_power(watts: Sequence[float]) -> float:
    """The highest power to show: the highest there is, unless it is a spike of a few samples.

    >>> highest_power([5.0] * 500 + [9.0] * 50), highest_power([5.0] * 999 + [400.0])
    (9.0, 7.5)
    """
    usual = quantile(watts, 0.995)
    return max(watts) if max(watts) <= 2 * usual else 1.5 * usual


def draw_trace(
    figure: Figure, points: Sequence[tuple[float, float]], edges: Sequence[float], phases: Sequence[str]
) -> None:
    """Power in watt over seconds; a line at each edge, the phases that begin there named."""
    axes, start = figure.add_subplot(), edges[0] if edges else points[0][0]
    watts = [power_mw / 1000 for _, power_mw in points]
    top = 1.2 * highest_power(watts)
    axes.plot([t_s - start for t_s, _ in points], watts, color=SERIES[0], linewidth=1)
    axes.set_xlabel("s", color=INK)
    axes.set_title("W", loc="left", fontsize=9, color=INK)
    axes.set_ylim(0, top)
    for edge, name in zip(edges, phases, strict=False):
        axes.axvline(edge - start, color=INK, linewidth=0.9, linestyle=CHANCE)
        # A prompt is read in an instant: its label stands before it, where the answer's cannot cover it.
        x, side = (-3, "right") if name == phases[0] else (3, "left")
        look: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "top", "ha": side}
        axes.annotate(name, (edge - start, 0.98 * top), (x, 0), textcoords="offset points", **look)
    tidy(axes)
