"""The charts of a campaign as SVG: quality against cost, costs by level, prompt against answer, win rates.

This room says which charts there are, what is to be seen in them and how to read them; plots.py draws. Up to
eight models are drawn one by one, more of them as their median, their middle half and a faint mark each, in
multiples of each model's own baseline. What lies beyond a chart's limits is said beside it. Each chart is one
SVG, for a column 400 pixels wide, whose text stays text and whose colours are CSS variables with fallbacks
(--ink, --faint, --c0 to --c7), so that a page can show it light or dark. Same input, same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of
from edgebench.reporting import plots
from edgebench.reporting.cases import Row, by_case, case_name, cost_word, listed, ordered_by_level
from edgebench.reporting.limits import Limits, robust_limits
from edgebench.reporting.plots import Axis, Bar, Group, Line, Point, Share, Strip, clean
from edgebench.reporting.power_trace import Trace
from edgebench.shell.decimals import at_places, places_beside
from edgebench.shell.text import counted, number, percent
from edgebench.stats.intervals import quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCH = 4.2
ONE_BY_ONE = 8  # models; as many as there are colours
NAMES_IN_WORDS = 6  # models that a description names
AROUND_CHANCE = (40.0, 60.0)  # win rates that an axis always holds: rates near 50 % then look near
PHASES = ("prompt", "answer")  # what begins at the first edges of a run
COSTS = {
    "energy_joule": ("Energy per answer", "J", 1.0),
    "latency_ms": ("Latency per answer", "s", 1000.0),
    "completion_tokens": ("Answer length", "tokens", 1.0),
}
NEEDED = ("models", "levels", "settings", "level_means", "cost_parts", "win_rates", "value")


@dataclass(frozen=True)
class Chart:
    """One chart: its file name without .svg, its title, how to read it, what it shows, how it is drawn."""

    name: str
    title: str
    reading: str
    description: str
    draw: Callable[[Figure], None]
    height_inch: float = 3.2


def charts(analysis: Row, trace: Trace | None) -> list[Chart]:
    """Every chart the data allows."""
    drawn = front_charts(analysis)
    for metric in COSTS:
        drawn += level_charts(analysis, metric)
    drawn += split_charts(analysis) + win_charts(analysis)
    return drawn + ([trace_chart(analysis, trace)] if trace else [])


# --- words ---


def is_many(analysis: Row) -> bool:
    """Whether there are too many models to draw one by one."""
    return len(analysis["models"]) > ONE_BY_ONE


def in_colours(analysis: Row, rows: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    """The rows of each model with the number of its look, which is its place among all models."""
    found = by_case(rows)
    ordered = []
    for place, model in enumerate(analysis["models"]):
        for board in (model["board"], None):  # rows about the judge have no board
            if own := found.pop((model["model_id"], board), None):
                ordered.append((place, own))
    rest = len(analysis["models"])  # judged, but never run
    return ordered + [(rest + place, own) for place, own in enumerate(found.values())]


def sentence(parts: Iterable[str]) -> str:
    """What is to be seen, model by model: the first few, and how many others there are."""
    every = list(parts)
    shown = "; ".join(every[:NAMES_IN_WORDS])
    rest = len(every) - NAMES_IN_WORDS
    return f"{shown}; and {rest} more." if rest > 0 else f"{shown}."


def beyond(values: Iterable[tuple[str, float]], limits: Limits, unit: str) -> str:
    """What is not on the axis, for the words beside the chart; "" where everything is."""
    outside = [(name, value) for name, value in values if not limits.holds(value)]
    if not outside:
        return ""
    told = listed(
        f"{name} ({at_places(value, places_beside(value, None))} {unit})" for name, value in outside
    )
    return f" Beyond the axis, which an outlier does not stretch: {told}."


def log_words(limits: Limits) -> str:
    """That an axis is logarithmic."""
    return " The axis is logarithmic." if limits.is_log else ""


# --- costs by level ---


def level_charts(analysis: Row, metric: str) -> list[Chart]:
    """One cost over the ordered levels."""
    rows = [row for row in analysis["level_means"] if row["metric"] == metric and row["mean"] is not None]
    if not rows:
        return []
    title, _, _ = COSTS[metric]
    if metric in ("energy_joule", "latency_ms"):
        title = f"{cost_word(analysis, metric).capitalize()} per answer"
    own = {place: ordered_by_level(found, analysis["levels"]) for place, found in in_colours(analysis, rows)}
    if is_many(analysis):
        return many_level_charts(analysis, metric, title, own)
    return [few_level_chart(analysis, metric, title, own)]


def few_level_chart(analysis: Row, metric: str, title: str, own: dict[int, list[Row]]) -> Chart:
    """A line for each model with its intervals."""
    levels, (_, unit, scale) = list(analysis["levels"]), COSTS[metric]
    lines, told = [], []
    for place, rows in own.items():
        name = clean(case_name(analysis, rows[0]))
        places = [levels.index(row["level"]) for row in rows]
        values = [row["mean"] / scale for row in rows]
        ends = [row["ci95"] and [edge / scale for edge in row["ci95"]] for row in rows]
        lines.append(Line(place, name, places, values, ends))
        shown = [f"{number(values[end])} {unit} at {rows[end]['level']}" for end in (0, -1)]
        told.append(f"{name}: {', '.join(shown)}")
    limits = robust_limits(
        [value for line in lines for value in line.values],
        [edge for line in lines for ends in line.intervals if ends for edge in ends],
        may_be_log=True,
    )
    known = any(ends for line in lines for ends in line.intervals)
    reasons = dict.fromkeys(row["reason"] for rows in own.values() for row in rows if row["reason"])
    reading = "Mean over tasks; bars are 95 % intervals."
    if not known:
        reading = f"Mean over tasks, without intervals: {listed(reasons, 1) or 'none is known'}."
    reading += log_words(limits)
    named = [
        (f"{line.name} {levels[int(place)]}", value)
        for line in lines
        for place, value in zip(line.places, line.values, strict=True)
    ]
    height = 2.9 + plots.LEGEND_LINE_INCH * plots.legend_rows([line.name for line in lines])
    draw = partial(plots.draw_lines, lines=lines, levels=levels, axis=Axis(unit, limits))
    return Chart(
        metric, f"{title}, by level", reading + beyond(named, limits, unit), sentence(told), draw, height
    )


def many_level_charts(analysis: Row, metric: str, title: str, own: dict[int, list[Row]]) -> list[Chart]:
    """Multiples of each model's own baseline: the median over models, the middle half, a faint line each."""
    levels, base = list(analysis["levels"]), analysis["settings"]["baseline"]
    lines = []
    for place, rows in own.items():
        means = {row["level"]: row["mean"] for row in rows}
        if (means.get(base) or 0) > 0:
            name = clean(case_name(analysis, rows[0]))
            places = [levels.index(row["level"]) for row in rows]
            lines.append(Line(place, name, places, [row["mean"] / means[base] for row in rows]))
    if not lines:
        return []
    named = [
        (f"{line.name} {levels[int(place)]}", value)
        for line in lines
        for place, value in zip(line.places, line.values, strict=True)
    ]
    limits = robust_limits([value for _, value in named])
    silent = len(own) - len(lines)
    reading = (
        f"Times each model's own {clean(base)}: {counted(len(lines), 'model')}, their median and middle half."
    )
    if silent:
        reading += f" Left out: {counted(silent, 'model')} without {clean(base)}."
    at_level = {
        level: [line.values[line.places.index(place)] for line in lines if place in line.places]
        for place, level in enumerate(levels)
    }
    told = [
        f"{level}: median {at_places(quantile(values, 0.5), 2)} times {base}, "
        f"from {at_places(min(values), 2)} to {at_places(max(values), 2)}"
        for level, values in at_level.items()
        if values
    ]
    axis = Axis(f"times {clean(base)}", limits, reference=1.0)
    draw = partial(plots.draw_many_lines, lines=lines, levels=levels, axis=axis)
    return [
        Chart(metric, f"{title}, by level", reading + beyond(named, limits, "times"), sentence(told), draw)
    ]


# --- quality against cost ---


def value_rows(analysis: Row) -> list[Row]:
    """Points with a quality and a cost, of one judge and one cost: energy where there is any."""
    rows = [row for row in analysis["value"] if row["quality"] is not None and row["cost_mean"] is not None]
    metric = min((row["cost_metric"] for row in rows), default=None)
    judge = min((row["judge_model"] for row in rows), default=None)
    return [row for row in rows if (row["cost_metric"], row["judge_model"]) == (metric, judge)]


def front_charts(analysis: Row) -> list[Chart]:
    """Quality against cost."""
    rows = value_rows(analysis)
    if not rows:
        return []
    return many_front_charts(analysis, rows) if is_many(analysis) else [few_front_chart(analysis, rows)]


def few_front_chart(analysis: Row, rows: Sequence[Row]) -> Chart:
    """One point per model and level; the front of each model as a line."""
    metric = rows[0]["cost_metric"]
    _, unit, scale = COSTS[metric]
    name = cost_word(analysis, metric)
    series = [
        Group(
            place,
            clean(case_name(analysis, own[0])),
            [
                Point(row["cost_mean"] / scale, 100 * row["quality"], row["level"], row["on_model_front"])
                for row in sorted(own, key=lambda row: row["cost_mean"])
            ],
        )
        for place, own in in_colours(analysis, rows)
    ]
    points = [(group.name, point) for group in series for point in group.rows]
    x_limits = robust_limits([point.x for _, point in points], zero=False, may_be_log=True)
    y_limits = robust_limits([*(point.y for _, point in points), *AROUND_CHANCE], zero=False)
    best = [f"{group_name} {clean(point.label)}" for group_name, point in points if point.is_filled]
    reading = (
        f"Filled points on a line: no level of that model is better for less {name}. Win rate against "
        f"{clean(rows[0]['quality_against'])} of the same model, so compare levels, not models."
    )
    named = [(f"{group_name} {clean(point.label)}", point.x) for group_name, point in points]
    reading += log_words(x_limits) + beyond(named, x_limits, unit)
    told = f"No level of the same model is both cheaper and better than these: {listed(best, 12)}."
    draw = partial(
        plots.draw_front,
        series=series,
        x_axis=Axis(f"{name} per answer, {unit}", x_limits),
        y_axis=Axis("win rate, %", y_limits, reference=50.0),
    )
    height = 3.3 + plots.LEGEND_LINE_INCH * plots.legend_rows([group.name for group in series])
    return Chart("front", f"Quality against {name}", reading, told, draw, height)


def many_front_charts(analysis: Row, rows: Sequence[Row]) -> list[Chart]:
    """Levels as clouds over the models: cost in multiples of each model's own baseline."""
    base, name = analysis["settings"]["baseline"], cost_word(analysis, rows[0]["cost_metric"])
    costs = {
        (row["model_id"], row["board"]): row["cost_mean"]
        for row in rows
        if row["level"] == base and row["cost_mean"] > 0
    }
    clouds = []
    for place, level in enumerate(analysis["levels"]):
        points = [
            Point(row["cost_mean"] / costs[case], 100 * row["quality"], level)
            for row in rows
            if row["level"] == level and (case := (row["model_id"], row["board"])) in costs
        ]
        if points and level != base:
            clouds.append(Group(place, clean(level), points))
    if not clouds:
        return []
    named = [
        (clean(case_name(analysis, row)), row["cost_mean"] / costs[case])
        for row in rows
        if row["level"] != base and (case := (row["model_id"], row["board"])) in costs
    ]
    x_limits = robust_limits([point.x for cloud in clouds for point in cloud.rows], zero=False)
    heights = [point.y for cloud in clouds for point in cloud.rows]
    y_limits = robust_limits([*heights, *AROUND_CHANCE], zero=False)
    reading = (
        f"Each dot is a model; a marker is the level's median, its lines the middle half of "
        f"{counted(len(costs), 'model')}. Win rate and cost against {clean(base)} of the same model."
    )
    told = [
        f"{cloud.name}: {at_places(quantile([point.x for point in cloud.rows], 0.5), 2)} times the cost, "
        f"win rate {percent(quantile([point.y for point in cloud.rows], 0.5) / 100)}"
        for cloud in clouds
    ]
    x_axis = Axis(f"{name} per answer, times {clean(base)}", x_limits, reference=1.0)
    y_axis = Axis("win rate, %", y_limits, reference=50.0)
    draw = partial(plots.draw_clouds, clouds=clouds, x_axis=x_axis, y_axis=y_axis)
    reading += beyond(named, x_limits, "times")
    return [Chart("front", f"Quality against {name}", reading, sentence(told), draw, 3.6)]


# --- prompt against answer ---


def split_charts(analysis: Row) -> list[Chart]:
    """The extra cost in its parts, for energy where there is any."""
    metric = min((row["metric"] for row in analysis["cost_parts"]), default="")
    parts = [row for row in analysis["cost_parts"] if row["metric"] == metric and row["extra"] is not None]
    if not parts:
        return []
    title = f"What the extra {cost_word(analysis, metric)} pays for"
    if is_many(analysis):
        return many_split_charts(analysis, parts, title)
    return [few_split_chart(analysis, parts, title)]


def few_split_chart(analysis: Row, parts: Sequence[Row], title: str) -> Chart:
    """Stacked bars per model and level."""
    metric = parts[0]["metric"]
    _, unit, scale = COSTS[metric]
    groups = [
        Group(
            place,
            clean(case_name(analysis, own[0])),
            [
                Bar(
                    row["level"],
                    (row["prompt_part"] or 0) / scale,
                    (row["answer_part"] or 0) / scale,
                    row["extra"] / scale,
                )
                for row in own
            ],
        )
        for place, own in in_colours(analysis, parts)
    ]
    bars = [(f"{group.name} {clean(bar.label)}", bar) for group in groups for bar in group.rows]
    limits = robust_limits(
        [bar.measured for _, bar in bars],
        [edge for _, bar in bars for edge in (bar.prompt, bar.answer, bar.prompt + bar.answer)],
    )
    reading = (
        f"Extra {cost_word(analysis, metric)} of a level in two parts: reading the longer prompt, "
        "writing the longer answer."
    )
    told = [f"{clean(row['model_id'])}: {row['sentence']}" for row in parts if row["sentence"]]
    axis = Axis(f"extra {unit} against {clean(analysis['settings']['baseline'])}", limits, reference=0.0)
    reading += beyond([(name, bar.measured) for name, bar in bars], limits, unit)
    draw = partial(plots.draw_bars, groups=groups, axis=axis)
    return Chart("split", title, reading, sentence(told), draw, plots.rows_height(groups, 1.1))


def many_split_charts(analysis: Row, parts: Sequence[Row], title: str) -> list[Chart]:
    """The prompt's share of the extra cost, a strip of models for each level."""
    strips = strips_of(analysis, parts, "prompt_share")
    if not strips:
        return []
    values = [value for strip in strips for value in strip.values]
    limits = robust_limits([*values, 0.0, 100.0])
    silent = sum(row["prompt_share"] is None for row in parts)
    reading = f"The prompt's share; the answer's is the rest. {strip_words(strips)}"
    if silent:
        reading += f" Left out: {counted(silent, 'row')} whose parts have opposite signs."
    outside = sum(not limits.holds(value) for value in values)
    if outside:
        reading += f" Beyond the axis, at its end: {outside}."
    axis = Axis("share of the prompt, %", limits)
    draw = partial(plots.draw_strips, strips=strips, axis=axis)
    height = 0.9 + 0.5 * len(strips)
    return [Chart("split", title, reading, sentence(map(strip_in_words, strips)), draw, height)]


# --- win rates ---


def win_rows(analysis: Row) -> list[Row]:
    """Win rates against the baseline, the first judge's where there are several."""
    rows = [row for row in analysis["win_rates"] if row["against"] == analysis["settings"]["baseline"]]
    judge = min((row["judge_model"] for row in rows), default=None)
    return ordered_by_level([row for row in rows if row["judge_model"] == judge], analysis["levels"])


def win_charts(analysis: Row) -> list[Chart]:
    """Win rate of each level against the baseline; chance is the line at 50 %."""
    rows = win_rows(analysis)
    if not rows:
        return []
    base = clean(analysis["settings"]["baseline"])
    limits = Limits(0.0, 100.0)
    axis = Axis(f"win rate against {base}, %", limits, reference=50.0)
    if len(by_case(rows)) > ONE_BY_ONE:
        strips = strips_of(analysis, rows, "win_rate")
        told = sentence(map(strip_in_words, strips))
        reading = f"{strip_words(strips)} At 50 % a level is no better than {base}."
        draw: Callable[[Figure], None] = partial(plots.draw_strips, strips=strips, axis=axis)
        return [Chart("win_rates", f"Win rate against {base}", reading, told, draw, 0.9 + 0.5 * len(strips))]
    groups = [
        Group(
            place,
            clean(own[0]["model_id"]),
            [
                Share(
                    row["level"],
                    100 * row["win_rate"],
                    in_percent(row["ci95"]),
                    None if row.get("graded_win_rate") is None else 100 * row["graded_win_rate"],
                    in_percent(row.get("graded_ci95")),
                )
                for row in own
            ],
        )
        for place, own in in_colours(analysis, rows)
    ]
    told = ", ".join(
        f"{clean(row['model_id'])} {clean(row['level'])} {percent(row['win_rate'])}" for row in rows
    )
    reading = f"Bars are 95 % intervals over tasks; at 50 % a level is no better than {base}."
    without = sum(row["ci95"] is None for row in rows)
    if without:
        reading += f" {counted(without, 'dot')} without a bar: no interval, the table says why."
    if any(row.get("graded_win_rate") is not None for row in rows):
        reading += " Hollow: graded by the judge's probabilities, its lean to a slot taken out."
    draw = partial(plots.draw_shares, groups=groups, axis=axis)
    height = plots.rows_height(groups, 0.8)
    return [Chart("win_rates", f"Win rate against {base}", reading, f"Win rates: {told}.", draw, height)]


def in_percent(interval: Sequence[float] | None) -> list[float] | None:
    """An interval of shares in percent."""
    return None if interval is None else [100 * edge for edge in interval]


def strips_of(analysis: Row, rows: Sequence[Row], name: str) -> list[Strip]:
    """The shares of many models in percent, a strip for each level."""
    at_level: dict[str, list[float]] = {}
    for row in ordered_by_level(rows, analysis["levels"]):
        if row[name] is not None:
            at_level.setdefault(row["level"], []).append(100 * row[name])
    return [Strip(level, values) for level, values in at_level.items()]


def strip_words(strips: Sequence[Strip]) -> str:
    """How to read strips."""
    most = max(len(strip.values) for strip in strips)
    return f"Each dot is one of {counted(most, 'model')}; the line is their median, the bar the middle half."


def strip_in_words(strip: Strip) -> str:
    """What a strip shows."""
    low, middle, high = (quantile(strip.values, share) / 100 for share in (0.25, 0.5, 0.75))
    return f"{clean(strip.label)}: median {percent(middle)}, middle half {percent(low)} to {percent(high)}"


# --- power ---


def trace_chart(analysis: Row, trace: Trace) -> Chart:
    """Power over one run."""
    watts = [power_mw / 1000 for _, power_mw in trace.points]
    span_s = trace.points[-1][0] - trace.points[0][0]
    told = f"Power between {number(min(watts))} and {number(max(watts))} W over {number(span_s)} s."
    reading = "The first busy stretch of the power trace, with two seconds around it."
    if trace.edges:
        reading = f"{trace.run}: the prompt is read up to the second line, the answer written up to the last."
        told += f" The run lasts {number(trace.edges[-1] - trace.edges[0])} s."
        told += f" The first token comes after {number(trace.edges[1] - trace.edges[0])} s."
    if plots.highest_power(watts) < max(watts):
        reading += f" A spike reaches beyond the axis, to {number(max(watts))} W."
    title = cost_word(analysis, "energy_joule").replace("energy", "power").capitalize()
    draw = partial(plots.draw_trace, points=trace.points, edges=trace.edges, phases=PHASES)
    return Chart("trace", f"{title} over one run", reading, told, draw, 2.4)


# --- SVG ---


def svg_text(chart: Chart) -> str:
    """The chart as SVG: text as text, ids of its own, colours as CSS variables, nothing that changes by
    itself.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans"],
        "svg.hashsalt": chart.name,
        "text.parse_math": False,
        "hatch.linewidth": 1.5,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A name in a script the font lacks is drawn by the reader's own fonts: the text stays text.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(WIDTH_INCH, chart.height_inch), layout="constrained")
        FigureCanvasSVG(figure)
        chart.draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several charts share one page: an id must be its own.
    text = re.sub(r'\bid="', f'id="{chart.name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{chart.name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    for colour, variable in plots.CSS.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text.replace("#ffffff", "var(--paper, #ffffff)")


def write_charts(drawn: Sequence[Chart], folder: Path) -> None:
    """Each chart as a file of its own. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in drawn:
            (folder / f"{chart.name}.svg").write_text(svg_text(chart), encoding="utf-8")
    except OSError as problem:
        raise UserError(
            f"cannot write into {folder}: {reason_of(problem)}; choose another --charts"
        ) from problem
