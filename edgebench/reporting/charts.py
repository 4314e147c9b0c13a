#!/usr/bin/env python3
"""The charts of a campaign as SVG files: quality against energy, costs by level, prompt against answer, win
rates.

Reads an analysis.json and, if given, a power trace (t_s, power_mw, rail as tegrastats_sampler.py records
it) and the run records, of which the first that the trace covers is shown. Each chart is one SVG, drawn for a
column 400 pixels wide, whose text stays text and whose colours are CSS variables with fallbacks (--ink,
--faint, --c0 to --c7), so that a page can show it light or dark. Same input, same bytes.

Output: a folder of SVG files and charts.json (name, title, description of what is to be seen). J, s, tokens,
W.

Example:
    python edgebench/__main__.py edgebench.reporting.charts --analysis results/analysis.json \\
        --outdir results/charts
"""

import argparse
import csv
import json
import math
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgebench.errors import UserError
from edgebench.records.analysis import read_analysis
from edgebench.records.jsonl import read_jsonl
from edgebench.shell.text import number, printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ink and series colours: each at least 4.5 to 1 on white; a page overrides them for dark.
INK, FAINT = "#1f2933", "#8a939d"
SERIES = ("#0b62a4", "#b3470f", "#1b7340", "#7a3fa0", "#a3264f", "#5b6400", "#00707a", "#6b5344")
MARKERS = "osD^vPX*"  # colour is never the only difference
DASHES = ("-", "--", "-.", ":")
CSS = {INK: "--ink", FAINT: "--faint"} | {colour: f"--c{place}" for place, colour in enumerate(SERIES)}
WIDTH_INCH, PIXELS_PER_INCH = 4.2, 96
NAME_LENGTH = 22
TRACE_POINTS = 1500
STAMPS = ("t0_s", "first_token_s", "t1_s")
PHASES = ("prompt", "answer")  # what begins at the first edges of a run
COSTS = {
    "energy_joule": ("Energy per answer", "J", 1.0),
    "latency_ms": ("Latency per answer", "s", 1000.0),
    "completion_tokens": ("Answer length", "tokens", 1.0),
}
Row = Mapping[str, Any]
NEEDED = ("models", "levels", "settings", "level_means", "cost_parts", "win_rates", "value")


class ChartError(UserError):
    """Something the user can put right: a missing file, a folder that cannot be written."""


@dataclass(frozen=True)
class Chart:
    """One drawn chart: its file name without .svg, its title, how to read it, what it shows."""

    name: str
    title: str
    reading: str
    description: str
    draw: Callable[["Figure"], None]
    height_inch: float = 3.2


@dataclass(frozen=True)
class Trace:
    """A stretch of a power trace: (seconds, milliwatt), and where a known run starts, answers and ends."""

    points: Sequence[tuple[float, float]]
    edges: tuple[float, ...] = ()  # t0_s, first_token_s, t1_s
    run: str = ""


# --- names, numbers, series ---


def clean(name: Any) -> str:
    """A name short enough for a legend, without characters a font cannot draw.

    The middle gives way: models of one family differ at the end, in size or quantization.

    >>> clean("SmolLM2-135M-Instruct-Q4_1")
    'SmolLM2-13…struct-Q4_1'
    """
    return shortened(printable(name), NAME_LENGTH)


def cases(analysis: Row) -> list[Row]:
    """The models on their boards, in the order of their colours."""
    return list(analysis["models"])


def label(analysis: Row, case: Row) -> str:
    """A model's name, with the board where there are several."""
    several = len({model["board"] for model in analysis["models"]}) > 1
    return clean(case["model_id"]) + (f" · {clean(case['board'] or 'unknown board')}" if several else "")


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th series."""
    dash = DASHES[place // len(SERIES) % len(DASHES)]
    return {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)], "linestyle": dash}


def of_case(rows: Iterable[Row], case: Row) -> list[Row]:
    """The rows of one model on its board; rows about the judge have no board."""
    return [
        row
        for row in rows
        if row["model_id"] == case["model_id"] and row.get("board", case["board"]) in (None, case["board"])
    ]


def tidy(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    """Two spines, a faint grid across the values, ink for text."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def lines_under_names(
    axes: "Axes", groups: Sequence[tuple[str, Sequence[Row]]]
) -> Iterator[tuple[float, int, Row]]:
    """(height, place of the group, row) of a chart that lists levels under their models; names the lines."""
    ticks, names, y = [], [], 0.0
    for place, (name, rows) in enumerate(groups):
        axes.text(0, y, name, fontsize=9, fontweight="bold", color=INK, va="center")
        for row in rows:
            y += 1
            ticks.append(y)
            names.append(clean(row["level"]))
            yield y, place, row
        y += 1.4
    axes.set_yticks(ticks, names)
    axes.invert_yaxis()
    tidy(axes, grid="x")


def legend_below(figure: "Figure", axes: "Axes") -> None:
    """A legend under the plot, where it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
    if len(handles) > 1:
        rows = math.ceil(len(handles) / 2)
        figure.legend(
            handles,
            names,
            loc="lower center",
            ncols=2,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            borderpad=0.1,
        )
        figure.set_layout_engine("constrained", rect=(0, 0.065 * rows, 1, 1 - 0.065 * rows))


def draw_levels(figure: "Figure", analysis: Row, metric: str) -> None:
    """One line per model over the ordered levels, with 95 % intervals over tasks."""
    _, unit, scale = COSTS[metric]
    axes, levels = figure.add_subplot(), list(analysis["levels"])
    for place, case in enumerate(cases(analysis)):
        rows = [
            row
            for row in of_case(analysis["level_means"], case)
            if row["metric"] == metric and row["mean"] is not None
        ]
        rows.sort(key=lambda row: levels.index(row["level"]))
        # Side by side within a level, or intervals would hide each other.
        nudge = (place - (len(cases(analysis)) - 1) / 2) * 0.08
        x = [levels.index(row["level"]) + nudge for row in rows]
        y = [row["mean"] / scale for row in rows]
        edges = [[(edge - row["mean"]) / scale for edge in row["ci95"] or [row["mean"]] * 2] for row in rows]
        bars = [[-low for low, _ in edges], [high for _, high in edges]]
        axes.errorbar(
            x,
            y,
            yerr=bars,
            markersize=5,
            linewidth=1.4,
            elinewidth=1,
            capsize=2,
            label=label(analysis, case),
            **style(place),
        )
    axes.set_xticks(range(len(levels)), [clean(level) for level in levels])
    axes.set_ylabel(unit, color=INK, rotation=0, ha="right", va="top", y=1.0)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    tidy(axes)
    legend_below(figure, axes)


def draw_front(figure: "Figure", analysis: Row) -> None:
    """Quality over cost, one point per model and level; the front of each model as a line."""
    axes = figure.add_subplot()
    rows = value_rows(analysis)
    scale = 1000 if rows[0]["cost_unit"] == "ms" else 1
    for place, case in enumerate(cases(analysis)):
        own = sorted(of_case(rows, case), key=lambda row: row["cost_mean"])
        look = style(place)
        front = [row for row in own if row["on_model_front"]]
        axes.plot(
            [row["cost_mean"] / scale for row in front], [100 * row["quality"] for row in front],
            color=look["color"], linestyle=look["linestyle"], linewidth=1.2,
        )  # fmt: skip
        for row in own:
            filled = look["color"] if row["on_model_front"] else "none"
            x, y = row["cost_mean"] / scale, 100 * row["quality"]
            axes.plot(
                [x], [y], look["marker"], markersize=6, markerfacecolor=filled, markeredgecolor=look["color"],
                label=label(analysis, case) if row is own[0] else None,
            )  # fmt: skip
            axes.annotate(
                clean(row["level"]), (x, y), (4, 4), textcoords="offset points", fontsize=8, color=INK
            )
    axes.axhline(50, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    name = "energy per answer, J" if rows[0]["cost_metric"] == "energy_joule" else "latency per answer, s"
    axes.set_xlabel(name, color=INK)
    axes.set_ylabel("win rate, %", color=INK)
    axes.margins(x=0.12, y=0.12)
    if axes.get_xlim()[0] < 0 <= min(row["cost_mean"] for row in rows):
        axes.set_xlim(left=0)
    tidy(axes)
    legend_below(figure, axes)


def draw_split(figure: "Figure", analysis: Row, metric: str) -> None:
    """Stacked bars per model and level: the prompt's part and the answer's part of the extra cost."""
    parts = [row for row in analysis["cost_parts"] if row["metric"] == metric and row["extra"] is not None]
    axes, scale = figure.add_subplot(), COSTS[metric][2]
    groups = [(label(analysis, case), own) for case in cases(analysis) if (own := of_case(parts, case))]
    for y, _, row in lines_under_names(axes, groups):
        prompt, answer = row["prompt_part"] / scale, row["answer_part"] / scale
        # Parts of opposite sign grow to both sides of zero, others end to end.
        start = prompt if prompt * answer > 0 else 0
        axes.barh(y, prompt, 0.7, color=SERIES[1], hatch="////", edgecolor="white", linewidth=0)
        axes.barh(y, answer, 0.7, left=start, color=SERIES[0])
        axes.plot([row["extra"] / scale], [y], "|", color=INK, markersize=11, markeredgewidth=1.6)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    unit = COSTS[metric][1]
    axes.set_xlabel(f"extra {unit} against {clean(analysis['settings']['baseline'])}", color=INK)
    axes.barh([math.nan], [0], color=SERIES[1], hatch="////", edgecolor="white", label="longer prompt")
    axes.barh([math.nan], [0], color=SERIES[0], label="longer answer")
    axes.plot([], [], "|", color=INK, markersize=11, markeredgewidth=1.6, linestyle="none", label="measured")
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    room = 0.32 / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room))


def draw_wins(figure: "Figure", analysis: Row) -> None:
    """Win rate of each level against the baseline with its interval; chance is the line at 50 %."""
    rows, axes = win_rows(analysis), figure.add_subplot()
    models = sorted({row["model_id"] for row in rows})
    groups = [(clean(model), [row for row in rows if row["model_id"] == model]) for model in models]
    for y, place, row in lines_under_names(axes, groups):
        look = style(place)
        if row["ci95"]:
            axes.plot([100 * edge for edge in row["ci95"]], [y, y], color=look["color"], linewidth=1.6)
        axes.plot([100 * row["win_rate"]], [y], look["marker"], color=look["color"], markersize=6)
    axes.set_xlim(0, 100)
    axes.axvline(50, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.set_xlabel(f"win rate against {clean(analysis['settings']['baseline'])}, %", color=INK)


def win_rows(analysis: Row) -> list[Row]:
    """Win rates against the baseline, the first judge's where there are several."""
    rows = [row for row in analysis["win_rates"] if row["against"] == analysis["settings"]["baseline"]]
    judge = min((row["judge_model"] for row in rows), default=None)
    order = {level: place for place, level in enumerate(analysis["levels"])}
    return sorted((row for row in rows if row["judge_model"] == judge), key=lambda row: order[row["level"]])


def draw_trace(figure: "Figure", trace: Trace) -> None:
    """Power over time, in watt, from the start of the run, else from the first sample shown."""
    axes, start = figure.add_subplot(), trace.edges[0] if trace.edges else trace.points[0][0]
    seconds = [t_s - start for t_s, _ in trace.points]
    watts = [power_mw / 1000 for _, power_mw in trace.points]
    axes.plot(seconds, watts, color=SERIES[0], linewidth=1)
    axes.set_xlabel("s", color=INK)
    axes.set_ylabel("W", color=INK, rotation=0, ha="right", va="top", y=1.0)
    axes.set_ylim(0, 1.2 * max(watts))
    for edge, name in zip(trace.edges, PHASES, strict=False):
        axes.axvline(edge - start, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
        # A prompt is read in an instant: its label stands before it, where the answer's cannot cover it.
        (x, side), y = ((-3, "right") if name == PHASES[0] else (3, "left")), 1.16 * max(watts)
        look: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "top", "ha": side}
        axes.annotate(name, (edge - start, y), (x, 0), textcoords="offset points", **look)
    tidy(axes)


# --- which charts there are, and what is to be seen in them ---


def charts(analysis: Row, trace: Trace | None) -> list[Chart]:
    """Every chart the data allows."""
    drawn = [front_chart(analysis)] if value_rows(analysis) else []
    for metric, (title, _, _) in COSTS.items():
        if any(row["metric"] == metric and row["mean"] is not None for row in analysis["level_means"]):
            draw = partial(draw_levels, analysis=analysis, metric=metric)
            reading = "Mean over tasks; bars are 95 % intervals."
            told = describe_levels(analysis, metric)
            if metric in ("energy_joule", "latency_ms"):
                title = f"{cost_word(analysis, metric).capitalize()} per answer"
            drawn.append(Chart(metric, f"{title}, by level", reading, told, draw))
    drawn += split_chart(analysis) + win_chart(analysis)
    return drawn + ([trace_chart(analysis, trace)] if trace else [])


def trace_chart(analysis: Row, trace: Trace) -> Chart:
    """The chart of a run's power."""
    low, high = (edge(mw for _, mw in trace.points) / 1000 for edge in (min, max))
    span_s = trace.points[-1][0] - trace.points[0][0]
    told = f"Power between {number(low)} and {number(high)} W over {number(span_s)} s."
    reading = "The first busy stretch of the power trace, with two seconds around it."
    if trace.edges:
        reading = f"{trace.run}: the prompt is read up to the second line, the answer written up to the last."
        told += f" The run lasts {number(trace.edges[-1] - trace.edges[0])} s."
        told += f" The first token comes after {number(trace.edges[1] - trace.edges[0])} s."
    title = cost_word(analysis, "energy_joule").replace("energy", "power").capitalize()
    return Chart("trace", f"{title} over one run", reading, told, partial(draw_trace, trace=trace), 2.4)


def cost_word(analysis: Row, metric: str) -> str:
    """What a cost is called in a title; power that was not measured says so."""
    if metric != "energy_joule":
        return "latency"
    return "simulated energy" if any(model["simulated_power"] for model in analysis["models"]) else "energy"


def value_rows(analysis: Row) -> list[Row]:
    """Points with a quality and a cost, of one judge and one cost: energy where there is any."""
    rows = [row for row in analysis["value"] if row["quality"] is not None and row["cost_mean"] is not None]
    metric = min((row["cost_metric"] for row in rows), default=None)
    judge = min((row["judge_model"] for row in rows), default=None)
    return [row for row in rows if (row["cost_metric"], row["judge_model"]) == (metric, judge)]


def front_chart(analysis: Row) -> Chart:
    """The chart of quality against cost."""
    rows = value_rows(analysis)
    name = cost_word(analysis, rows[0]["cost_metric"])
    best = [f"{clean(row['model_id'])} {clean(row['level'])}" for row in rows if row["on_model_front"]]
    told = f"No level of the same model is both cheaper and better than these: {', '.join(best)}."
    reading = f"Filled points on a line: no level of that model is better for less {name}. Win rate against "
    reading += f"{clean(rows[0]['quality_against'])} of the same model, so compare levels, not models."
    return Chart(
        "front", f"Quality against {name}", reading, told, partial(draw_front, analysis=analysis), 3.6
    )


def split_chart(analysis: Row) -> list[Chart]:
    """The chart of prompt against answer, for energy where there is any."""
    metric = min((row["metric"] for row in analysis["cost_parts"]), default="")
    parts = [row for row in analysis["cost_parts"] if row["metric"] == metric and row["extra"] is not None]
    if not parts:
        return []
    name = cost_word(analysis, metric)
    told = "; ".join(f"{clean(row['model_id'])}: {row['sentence']}" for row in parts) + "."
    reading = f"Extra {name} of a level in two parts: reading the longer prompt, writing the longer answer."
    height = 1.1 + 0.23 * (len(parts) + 1.4 * len(analysis["models"]))
    draw = partial(draw_split, analysis=analysis, metric=metric)
    return [
        Chart(
            "split",
            f"What the extra {name} pays for",
            reading,
            told,
            draw,
            height,
        )
    ]


def win_chart(analysis: Row) -> list[Chart]:
    """The chart of win rates."""
    rows = win_rows(analysis)
    if not rows:
        return []
    base = clean(analysis["settings"]["baseline"])
    told = ", ".join(f"{clean(row['model_id'])} {clean(row['level'])} {row['win_rate']:.0%}" for row in rows)
    reading = f"Bars are 95 % intervals over tasks; at 50 % a level is no better than {base}."
    height = 0.8 + 0.23 * (len(rows) + 1.4 * len({row["model_id"] for row in rows}))
    draw = partial(draw_wins, analysis=analysis)
    return [Chart("win_rates", f"Win rate against {base}", reading, f"Win rates: {told}.", draw, height)]


def describe_levels(analysis: Row, metric: str) -> str:
    """From the first to the last level, per model."""
    _, unit, scale = COSTS[metric]
    told = []
    for case in cases(analysis):
        means = {
            row["level"]: row["mean"]
            for row in of_case(analysis["level_means"], case)
            if row["metric"] == metric
        }
        known = [level for level in analysis["levels"] if means.get(level) is not None]
        if known:
            first, last = known[0], known[-1]
            values = [number(means[level] / scale) for level in (first, last)]
            told.append(
                f"{label(analysis, case)}: {values[0]} {unit} at {first}, {values[1]} {unit} at {last}"
            )
    return "; ".join(told) + "."


# --- files ---


def svg_text(chart: Chart) -> str:
    """The chart as SVG: text as text, ids of its own, colours as CSS variables, nothing that changes by
    itself.
    """
    import io
    import warnings

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
    for colour, variable in CSS.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text.replace("#ffffff", "var(--paper, #ffffff)")


def read_trace(path: Path, runs: Sequence[Path], left_out: Sequence[Row]) -> Trace:
    """The first rail of a power trace around the first good run that it covers, else around its first busy
    stretch; thinned for drawing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("t_s") and row.get("power_mw")]
            points = [
                (float(row["t_s"]), float(row["power_mw"]))
                for row in rows
                if row.get("rail") == rows[0].get("rail")
            ]
        trace = covered_run(sorted(points), runs, left_out)
    except (OSError, ValueError, EOFError) as exc:
        raise ChartError(f"cannot read the power trace {path}: {exc}") from exc
    if not points:
        raise ChartError(f"{path} has no rows with t_s and power_mw: is it a power trace?")
    trace = trace or Trace(busy_stretch(sorted(points)))
    return replace(trace, points=trace.points[:: math.ceil(len(trace.points) / TRACE_POINTS)])


def covered_run(
    points: Sequence[tuple[float, float]], runs: Sequence[Path], left_out: Sequence[Row]
) -> Trace | None:
    """The trace with two seconds around the first good run that it covers without a gap; None without one.

    Records carry t0_s, first_token_s and t1_s on the clock of the trace's t_s (monotonic seconds).
    """
    spoilt = {tuple(str(row[name]) for name in ("model_id", "level", "id", "repeat")) for row in left_out}
    for _, run in (line for path in runs for line in read_jsonl(path)):
        stamps: list[Any] = [run.get(name) if run else None for name in STAMPS]
        if not run or run.get("error") or not all(isinstance(stamp, (int, float)) for stamp in stamps):
            continue
        edges = tuple(map(float, stamps))
        if tuple(str(run.get(name)) for name in ("model_id", "level", "id", "repeat")) in spoilt:
            continue
        first, last = (bisect_left(points, (edge,)) for edge in (edges[0], edges[-1]))
        inside = [t_s for t_s, _ in points[max(first - 1, 0) : last + 1]]
        gap = max((after - before for before, after in pairwise(inside)), default=math.inf)
        if first > 0 and last < len(points) and gap < (edges[-1] - edges[0]) / 2:
            shown = [point for point in points if edges[0] - 2 <= point[0] <= edges[-1] + 2]
            name = f"{clean(run.get('model_id'))}, {clean(run.get('level'))}, task {clean(run.get('id'))}"
            return Trace(shown, edges, name)
    return None


def busy_stretch(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The first stretch above half of the trace's range, with two seconds around it; all of it if there is
    none.
    """
    powers = sorted(power for _, power in points)
    half = (powers[len(powers) // 20] + powers[-1 - len(powers) // 20]) / 2
    start = next((t for t, power in points if power > half), None)
    if start is None:
        return points
    # Half a second below half power ends a run: the sensor's noise does not.
    last = start
    for t, power in points:
        if t < start:
            continue
        if power > half:
            last = t
        elif t - last > 0.5:
            break
    return [(t, power) for t, power in points if start - 2 <= t <= last + 2]


def words_of(chart: Chart) -> dict[str, str]:
    """What stands beside a chart."""
    return {
        "name": chart.name,
        "title": chart.title,
        "reading": chart.reading,
        "description": chart.description,
    }


def write_charts(drawn: Sequence[Chart], outdir: Path) -> None:
    """The SVG files and their table of contents."""
    contents = []
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        for chart in drawn:
            (outdir / f"{chart.name}.svg").write_text(svg_text(chart), encoding="utf-8")
            contents.append(words_of(chart))
        (outdir / "charts.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ChartError(f"cannot write into {outdir}: {exc.strerror}; choose another --outdir") from exc


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--analysis", type=Path, required=True, help="analysis.json of analyze_levels.py")
    parser.add_argument("--trace", type=Path, help="a power trace (CSV with t_s, power_mw, rail)")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run records, for the trace's run")
    parser.add_argument("--outdir", type=Path, required=True, help="folder for the SVG files and charts.json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        analysis = read_analysis(args.analysis, NEEDED)
        left_out = analysis.get("left_out", [])
        trace = read_trace(args.trace, args.runs, left_out) if args.trace else None
        write_charts(charts(analysis, trace), args.outdir)
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
