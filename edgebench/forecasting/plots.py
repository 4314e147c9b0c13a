"""Charts of token2metrics.py: predicted against measured, residuals over lengths, energy over both lengths.

From the held-out predictions of evaluate.py and, for the surface, a model:
  predicted_<quantity>.png   measured against predicted, both logarithmic, the diagonal
  residuals_<quantity>.png   error in percent over prompt and over output tokens, 90 % intervals shaded
  energy_surface.png         predicted Joule over both lengths, with lines of equal cost, the measured cells
  where_the_time_goes.png    one request's time and energy by what they are spent on, and over answer lengths
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.errors import UserError
from edgebench.forecasting.apply import predict, predict_parts
from edgebench.forecasting.designs import DESIGNS
from edgebench.forecasting.quantities import ANALYTIC, PARTS, TIMES, TOTALS
from edgebench.records.jsonl import writing_whole

LOG = logging.getLogger("token2metrics")
LABELS = {
    "prefill_ms": "time to the first token [ms]",
    "decode_ms": "decode time [ms]",
    "total_ms": "latency [ms]",
    "prefill_energy_joule": "prefill energy [J]",
    "decode_energy_joule": "decode energy [J]",
    "total_energy_joule": "energy [J]",
}
# Axis, column of a held-out prediction, tokens beside the steps: the first one belongs to the prefill.
LENGTHS = (("prompt tokens", "input_tokens", 0), ("output tokens", "decode_steps", 1))
GRID = 40  # points per axis of the surface
COST_LINES = 8
TICKS_LEAST, TICKS_MOST = 3, 6
OKABE_ITO = ("#0072B2", "#D55E00", "#999999")  # told apart by colour-blind readers, too


def by_quantity(pairs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Quantity -> its held-out predictions. Raises UserError."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, pair in enumerate(pairs, 1):
        if not {"quantity", "measured", "mean", "input_tokens", "decode_steps"} <= set(pair):
            raise UserError(f"prediction {number} is no held-out prediction; evaluate makes them")
        found.setdefault(str(pair["quantity"]), []).append(pair)
    if not found:
        raise UserError("there are no held-out predictions to draw")
    return found


def new_figure(columns: int, width: float = 4.6) -> Any:
    """A figure without a display, and its axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, columns, figsize=(width * columns, 4.0), squeeze=False, layout="constrained"
    )
    return figure, axes[0]


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis (`axis.xaxis` or `axis.yaxis`), as few as stand beside each other.

    Powers of ten where the range holds several, else 1, 2 and 5 times them; matplotlib's own labels of a
    range below a decade lie on each other.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [step * 10**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low * 0.98 <= tick <= high * 1.02]
        if len(ticks) >= TICKS_LEAST:
            break
    while len(ticks) > TICKS_MOST:
        ticks = ticks[::2]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def save(figure: Any, path: Path) -> None:
    """Write and forget a figure. UserError for a name that says no format of a chart, OSError."""
    from matplotlib import pyplot as plt

    form = path.suffix[1:].lower() or "png"
    try:
        if form not in figure.canvas.get_supported_filetypes():
            raise UserError(f"{path}: no chart can be written as {form}; name it .png, .svg or .pdf")
        with writing_whole(path) as part:
            figure.savefig(part, format=form, dpi=130)
    finally:
        plt.close(figure)
    LOG.debug("%s", path)


def draw_predicted(quantity: str, pairs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Measured against predicted."""
    figure, axes = new_figure(1)
    axis = axes[0]
    for outlier, colour, mark in ((False, OKABE_ITO[0], "o"), (True, OKABE_ITO[1], "x")):
        mine = [pair for pair in pairs if bool(pair.get("outlier")) == outlier]
        if mine:
            label = "outlier, not scored" if outlier else f"{len(mine)} held-out rows"
            x, y = [pair["measured"] for pair in mine], [pair["mean"] for pair in mine]
            axis.plot(x, y, mark, ms=4, alpha=0.5, color=colour, label=label)
    ends = [min(pair["measured"] for pair in pairs), max(pair["measured"] for pair in pairs)]
    axis.plot(ends, ends, "-", lw=1, color=OKABE_ITO[2], label="predicted = measured")
    label = LABELS.get(quantity, quantity)
    axis.set(xscale="log", yscale="log", xlabel=f"measured {label}", ylabel=f"predicted {label}")
    for one, key in ((axis.xaxis, "measured"), (axis.yaxis, "mean")):
        values = [pair[key] for pair in pairs if pair[key] > 0]
        log_ticks(one, min(values), max(values))
    axis.legend(fontsize=8)
    save(figure, path)


def draw_residuals(quantity: str, pairs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Errors in percent of the prediction over both lengths; the mean interval of each length shaded."""
    figure, axes = new_figure(2)
    kept = [pair for pair in pairs if not pair.get("outlier") and pair["mean"] > 0]
    for axis, (name, column, first) in zip(axes, LENGTHS, strict=True):
        off = [100 * (pair["measured"] / pair["mean"] - 1) for pair in kept]
        axis.plot([pair[column] + first for pair in kept], off, "o", ms=3, alpha=0.4, color=OKABE_ITO[0])
        widths: dict[int, list[float]] = {}
        for pair in kept:
            if pair.get("high") is not None:
                widths.setdefault(pair[column] + first, []).append(100 * (pair["high"] / pair["mean"] - 1))
        at = sorted(widths)
        half = [sum(widths[one]) / len(widths[one]) for one in at]
        if at:
            low = [-value for value in half]
            axis.fill_between(at, low, half, alpha=0.2, color=OKABE_ITO[1], label="mean interval")
            axis.legend(fontsize=8)
        axis.axhline(0, lw=1, color=OKABE_ITO[2])
        axis.set(xscale="log", xlabel=name, ylabel=f"{LABELS.get(quantity, quantity)}: error [%]")
        if lengths := [pair[column] + first for pair in kept]:
            log_ticks(axis.xaxis, min(lengths), max(lengths))
    save(figure, path)


def predict_grid(model: Mapping[str, Any]) -> tuple[list[int], list[int], Any]:
    """Predicted energy [J] (output, prompt) over a logarithmic grid of the trained range."""
    axes = [
        sorted({round(value) for value in np.geomspace(start, max(end, start + 1), GRID)})
        for start, end in zip(model["ranges"]["low"], model["ranges"]["high"], strict=True)
    ]
    pairs = [[prompt, output] for output in axes[1] for prompt in axes[0]]
    energy = [row["total_energy_joule"]["mean"] for row in predict(model, pairs)]
    return axes[0], axes[1], np.array(energy).reshape(len(axes[1]), len(axes[0]))


def draw_surface(
    model: Mapping[str, Any], pairs: Mapping[str, Sequence[Mapping[str, Any]]], out: Path
) -> None:
    """Energy over both lengths; nothing to draw for a model without energy."""
    if model["no_energy_reason"] or not any("energy" in target for target in model["targets"]):
        LOG.info("no energy surface: %s", model["no_energy_reason"])
        return
    prompt, output, energy = predict_grid(model)
    figure, axes = new_figure(1)
    axis = axes[0]
    levels = np.geomspace(max(float(energy.min()), 1e-9), float(energy.max()), COST_LINES + 2)
    axis.pcolormesh(prompt, output, np.log10(np.maximum(energy, 1e-9)), cmap="cividis", shading="nearest")
    lines = axis.contour(prompt, output, energy, levels=levels[1:-1], colors="white", linewidths=1)
    axis.clabel(lines, fmt=lambda value: f"{plain_number(value)} J", fontsize=7)
    cells = {(p["input_tokens"], p["decode_steps"] + 1) for p in pairs.get("total_energy_joule", ())}
    if cells:
        axis.plot(*zip(*sorted(cells), strict=True), ".", ms=3, color=OKABE_ITO[1], label="measured")
        axis.legend(fontsize=8)
    title = f"{model['model']}{', simulated power' if model['simulated_power'] else ''}"
    axis.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel="output tokens", title=title)
    log_ticks(axis.xaxis, prompt[0], prompt[-1])
    log_ticks(axis.yaxis, output[0], output[-1])
    save(figure, out)


# --- where the time goes ---

# What a design's named columns are, in words; bands are the tokens or steps themselves.
PART_OF = {
    "constant": "start",
    "per_token_pair": "attention",
    "per_context_token": "attention",
    "base": "base model",
}
COLOURS = {"prefill": "#0072B2", "decode": "#D55E00"}


def part_of(column: str) -> str:
    """What a named column of a design is paid for.

    >>> part_of("constant"), part_of("per_tile_of_128"), part_of("per_context_token")
    ('start', 'tiles', 'attention')
    """
    return PART_OF.get(
        column, "tiles" if any(word in column for word in ("tile", "micro_batch", "own_level")) else column
    )


def spent_on(model: Mapping[str, Any], prompt: int, output: int) -> dict[str, dict[str, float]]:
    """Total -> part -> how much of it, for one request: times [ms] and energies [J] of both phases.

    A time is parted further where an analytic fit knows by what it is spent; an energy into its phases.
    """
    counts = np.array([[prompt, output - 1]], float)
    found = predict_parts(model, counts)
    x = np.column_stack([counts, np.zeros((1, 2))])
    totals: dict[str, dict[str, float]] = {}
    for total, phases in PARTS.items():
        if not set(phases) <= set(found):
            continue
        totals[total] = {}
        for phase in phases:
            name, spec = phase.split("_")[0], model["targets"].get(phase, {})
            value = float(found[phase][0])
            if phase in TIMES and spec.get("regressor") == ANALYTIC and "base" not in spec["names"]:
                columns, names = DESIGNS[phase](x, spec["options"])
                each = columns[0] * np.asarray(spec["coefficients"])
                words = [
                    *map(part_of, names),
                    *["steps" if name == "decode" else "tokens"] * (len(each) - len(names)),
                ]
                for word, one in zip(words, each, strict=True):
                    key = f"{name}: {word}"
                    totals[total][key] = totals[total].get(key, 0.0) + float(one if value else 0.0)
            else:
                totals[total][name] = value
    return totals


def draw_where_the_time_goes(model: Mapping[str, Any], prompt: int, output: int, path: Path) -> None:
    """A bar for each part of one request's time and energy; beside them both phases over answer lengths."""
    totals = spent_on(model, prompt, output)
    if not totals:
        raise UserError("the model has no phases to tell apart: it was trained on totals alone")
    figure, axes = new_figure(2, 5.4)
    bars, curve = axes
    names: list[str] = []
    for total, parts in totals.items():
        whole, unit = sum(parts.values()), "ms" if total == TOTALS[0] else "J"
        names.append(f"{LABELS[total].split(' [')[0]}: {plain_number(whole)} {unit}")
        for name, value in ((name, value) for name, value in parts.items() if value):
            share = 100 * value / whole if whole else 0.0
            bars.barh(len(names), share, color=COLOURS[name.split(":")[0]], height=0.7)
            bars.text(
                share + 1.5,
                len(names),
                f"{plain_number(value)} {unit}, {share:.3g} %",
                va="center",
                fontsize=8,
            )
            names.append(name)
    bars.set_yticks(range(len(names)), names, fontsize=9)
    for place, label in enumerate(bars.get_yticklabels()):
        if ": " in names[place] and names[place].split(":")[0] not in COLOURS:
            label.set_fontweight("bold")
    bars.invert_yaxis()
    bars.set(xlim=(0, 130), xticks=range(0, 101, 20), xlabel="share [%]")
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_title(f"{model['model']}: {prompt:,} tokens in, {output:,} out", fontsize=10)
    draw_over_outputs(model, prompt, output, curve)
    if model["simulated_power"] and TOTALS[1] in totals:
        figure.suptitle("energies are of simulated power, not of a measurement", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def plain_number(value: float) -> str:
    """Three figures or more, without an exponent.

    >>> plain_number(50850.4), plain_number(2.3456), plain_number(0.0)
    ('50,850', '2.35', '0')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def draw_over_outputs(model: Mapping[str, Any], prompt: int, output: int, axis: Any) -> None:
    """Both phases of a prompt over the length of its answer, stacked, this request's marked."""
    high = max(output, int(model["ranges"]["high"][1]), 2)
    lengths = sorted({round(value) for value in np.geomspace(1, high, GRID)} | {output})
    counts = np.array([[prompt, one - 1] for one in lengths], float)
    found = predict_parts(model, counts)
    prefill, decode = (found.get(name, np.zeros(len(lengths))) / 1000 for name in TIMES)
    axis.fill_between(lengths, 0, prefill, color=COLOURS["prefill"], alpha=0.85, label="prefill")
    axis.fill_between(lengths, prefill, prefill + decode, color=COLOURS["decode"], alpha=0.85, label="decode")
    axis.axvline(output, color="black", lw=1, ls="--")
    axis.annotate(
        f"{output:,}",
        (output, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -12),
        textcoords="offset points",
        fontsize=8,
    )
    equal = int(np.argmin(np.abs(decode - prefill)))
    title = (
        f"as long to read as to write at {lengths[equal]:,} tokens out"
        if decode[-1] > prefill[-1]
        else "reading takes longer throughout"
    )
    axis.set(xscale="log", yscale="log", xlabel="output tokens", ylabel="latency [s]")
    whole = prefill + decode
    axis.set_xlim(1, lengths[-1])
    axis.set_ylim(max(float(whole.min()) / 3, 1e-6), float(whole.max()) * 1.3)
    log_ticks(axis.xaxis, 1, lengths[-1])
    log_ticks(axis.yaxis, *axis.get_ylim())
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, loc="upper left")


def draw_all(
    pairs: Sequence[dict[str, Any]], outdir: Path, model: Mapping[str, Any] | None = None
) -> list[Path]:
    """Every chart there is data for, and with a model its own, as PNG files in a folder; returns them."""
    quantities = by_quantity(pairs)
    outdir.mkdir(parents=True, exist_ok=True)
    drawn = []
    for quantity, mine in quantities.items():
        drawn += [outdir / f"predicted_{quantity}.png", outdir / f"residuals_{quantity}.png"]
        draw_predicted(quantity, mine, drawn[-2])
        draw_residuals(quantity, mine, drawn[-1])
    if model is not None:
        draw_surface(model, quantities, outdir / "energy_surface.png")
        drawn += [outdir / "energy_surface.png"] if (outdir / "energy_surface.png").exists() else []
        if spent_on(model, *typical(pairs)):
            drawn.append(outdir / "where_the_time_goes.png")
            draw_where_the_time_goes(model, *typical(pairs), drawn[-1])
    return drawn


def typical(pairs: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Median prompt and output tokens of some predictions."""
    prompts, outputs = (sorted(pair[name] for pair in pairs) for name in ("input_tokens", "decode_steps"))
    return int(prompts[len(prompts) // 2]), int(outputs[len(outputs) // 2]) + 1
