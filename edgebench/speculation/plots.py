"""Two plots per folder of results (PNG): ratios to the reference, and acceptance by position in the draft.

A treatment has one colour, line and marker in every panel. A panel never holds more lines than the eye parts:
each workload with its draft length is a panel of its own. Legends stand below the axes, off the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgebench.records.account import grouped
from edgebench.records.jsonl import writing_whole
from edgebench.speculation.comparing import Compared
from edgebench.speculation.findings import latency_of, treatment_of, workload_words
from edgebench.speculation.results import Place
from edgebench.stats.ratios import Ratio

# Okabe and Ito (2008): told apart by the colour-blind, too. With a line and a marker of its own each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_LINES = len(COLOURS)  # of a panel
MOST_ROWS = 30  # of a panel of ratios
FEWEST_JUDGED = 10
COLUMNS = 3  # of panels of acceptance
GREY = "#8a939d"


def plot_folders(compared: Sequence[Compared], outdir: Path) -> list[Path]:
    """<grid>.png and <grid>_acceptance.png for every folder that has something to show. OSError."""
    written: list[Path] = []
    for members in grouped(compared, lambda one: one.result.path.parent).values():
        name = str(members[0].result["grid"])
        while outdir / f"{name}.png" in written:  # two folders of one name
            name += "_2"
        if any(ratio_of(one) is not None for one in members):
            written.append(save(ratios_figure(name, members), outdir / f"{name}.png"))
        if any(one.result.positions for one in members):
            written.append(save(acceptance_figure(name, members), outdir / f"{name}_acceptance.png"))
    return written


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all."""
    FigureCanvasAgg(figure)
    with writing_whole(path) as part:
        figure.savefig(part, format="png", dpi=120)
    return path


Styles = dict[str, dict[str, Any]]  # by treatment


def styles_of(compared: Sequence[Compared]) -> Styles:
    """A style for each treatment, in the order in which they appear."""
    treatments = dict.fromkeys(treatment_of(one.result) for one in compared)
    return {treatment: style_of(place) for place, treatment in enumerate(treatments)}


def style_of(place: int) -> dict[str, Any]:
    """Colour, line and marker of the treatment at this place: another one for each of the first 36."""
    turned = place + place // MOST_LINES  # a colour comes again with another line and another marker
    return {
        "color": COLOURS[place % MOST_LINES],
        "linestyle": LINES[turned % MOST_LINES],
        "marker": MARKERS[turned % MOST_LINES],
    }


# --- Ratios ---


def ratio_of(compared: Compared) -> Ratio | None:
    """The latency ratio to the reference, if there is one."""
    ratio = latency_of(compared.main)
    return ratio if ratio is not None and ratio.value is not None else None


def ratios_figure(name: str, compared: Sequence[Compared]) -> Figure:
    """Latency and, where there is any, energy of every cell over that of its reference, with intervals.

    A point without an interval is of too few units for one.
    """
    known = [one for one in compared if ratio_of(one) is not None]
    parts = [known[start : start + MOST_ROWS] for start in range(0, len(known), MOST_ROWS)]
    has_energy = any(one.energy is not None for one in known)
    kinds = ("latency", "energy") if has_energy else ("latency",)
    height = max(2.4, 0.27 * max(map(len, parts)) + 1.6)
    figure = Figure(
        figsize=(5.6 * len(parts) + 2.6 * (len(kinds) - 1) * len(parts) + 1.5, height), layout="constrained"
    )
    panels = figure.subplots(1, len(parts) * len(kinds), squeeze=False, sharex=False)[0]
    styles = styles_of(known)
    for index, part in enumerate(parts):
        for place, kind in enumerate(kinds):
            draw_ratios(panels[index * len(kinds) + place], part, kind, styles, with_names=place == 0)
    legend(figure, panels)
    simulated = any(one.result["power_simulated"] for one in known)
    without = "" if has_energy else "; no energy was measured"
    references = {"plain decoding" if one.result.is_ours else "fixed drafts" for one in known}
    figure.suptitle(f"{name}: cost over that of {' or '.join(sorted(references))}{without}", fontsize=10)
    if has_energy and simulated:
        panels[1].set_title("power is simulated", fontsize=8, color="#b00020")
    return figure


def draw_ratios(axes: Any, compared: Sequence[Compared], kind: str, styles: Styles, with_names: bool) -> None:
    """One panel: a point and its interval per cell, the first on top; no interval where there is none."""
    places = range(len(compared))
    found = False
    for place, one in zip(places, compared, strict=True):
        ratio = ratio_of(one) if kind == "latency" else one.energy
        if ratio is None or ratio.value is None:
            continue
        found = True
        low, high = ratio.low or ratio.value, ratio.high or ratio.value
        errors = [[max(ratio.value - low, 0.0)], [max(high - ratio.value, 0.0)]]
        words = treatment_of(one.result)
        style = {name: styles[words][name] for name in ("color", "marker")}
        axes.errorbar(
            ratio.value, place, xerr=errors, linestyle="", capsize=2, markersize=4, label=words, **style
        )
    if not found:
        axes.text(0.5, 0.5, f"no {kind} ratio is known", transform=axes.transAxes, ha="center", va="center")
    axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.set_yticks(list(places), [one.result.name for one in compared] if with_names else [], fontsize=7)
    axes.set_xlabel(f"{kind} ratio [95 %]")
    axes.grid(axis="x", color="#e4e7ea", linewidth=0.6)
    axes.set_axisbelow(True)


# --- Acceptance by position ---


def acceptance_figure(name: str, compared: Sequence[Compared]) -> Figure:
    """Small multiples: a panel per workload and draft length, a line per treatment."""
    having = [one for one in compared if one.result.positions and not one.result.profiled]
    having = having or [one for one in compared if one.result.positions]
    styles = styles_of(having)
    panels = [
        (title, members[start : start + MOST_LINES])
        for title, members in grouped(having, panel_title).items()
        for start in range(0, len(members), MOST_LINES)
    ]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 2.5 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    longest = max(len(one.result.positions) for one in having)
    for panel, (title, members) in zip(axes, panels, strict=False):
        for one in members:
            draw_acceptance(panel, one, styles[treatment_of(one.result)])
        panel.set_title(title, fontsize=8)
        panel.set_ylim(0, 1.02)
        panel.set_xlim(0.5, max(2, longest) + 0.5)  # one position alone would get ticks like 0.94, 0.96
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(color="#e4e7ea", linewidth=0.6)
        panel.tick_params(labelsize=8)
    for panel in axes[max(0, len(panels) - columns) : len(panels)]:
        panel.set_xlabel("position in the draft", fontsize=8)
    for panel in axes[: len(panels) : columns]:
        panel.set_ylabel("accepted", fontsize=8)
    for unused in axes[len(panels) :]:
        unused.remove()
    few = f"; places judged fewer than {FEWEST_JUDGED} times are left out"
    left_out = few if any(is_rare(place) for one in having for place in one.result.positions) else ""
    figure.suptitle(f"{name}: acceptance by position{left_out}", fontsize=10)
    legend(figure, axes[: len(panels)])
    return figure


def panel_title(compared: Compared) -> str:
    """What a panel is about: a workload and its draft length."""
    return f"{workload_words(compared.result)}, draft {compared.result['draft_tokens']}"


def draw_acceptance(axes: Any, compared: Compared, style: dict[str, Any]) -> None:
    """One line."""
    ratios = [
        math.nan if place.accept_ratio is None or is_rare(place) else place.accept_ratio
        for place in compared.result.positions
    ]
    axes.plot(
        range(1, len(ratios) + 1),
        ratios,
        **style,
        markersize=3.5,
        linewidth=1.3,
        label=treatment_of(compared.result),
    )


def is_rare(place: Place) -> bool:
    """Whether so few tokens were judged at a place of the draft that their share says nothing."""
    return place.judged is not None and place.judged < FEWEST_JUDGED


def legend(figure: Figure, axes: Iterable[Any]) -> None:
    """One legend for all panels, below them."""
    handles: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(4, len(handles))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8)
