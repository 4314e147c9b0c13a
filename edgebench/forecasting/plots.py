"""Charts of token2metrics.py: predicted against measured, residuals over lengths, energy over both lengths.

From the held-out predictions of evaluate.py and, for the surface, a model:
  predicted_<quantity>.png   measured against predicted, both logarithmic, the diagonal
  residuals_<quantity>.png   error in percent over prompt and over output tokens, 90 % intervals shaded
  energy_surface.png         predicted Joule over both lengths, with lines of equal cost, the measured cells
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.errors import UserError
from edgebench.forecasting.apply import predict

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


def new_figure(columns: int) -> Any:
    """A figure without a display, and its axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(4.6 * columns, 4.0), squeeze=False, layout="constrained")
    return figure, axes[0]


def save(figure: Any, path: Path) -> None:
    """Write and forget a figure."""
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=130)
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
    axis.clabel(lines, fmt=lambda value: f"{value:.3g} J", fontsize=7)
    cells = {(p["input_tokens"], p["decode_steps"] + 1) for p in pairs.get("total_energy_joule", ())}
    if cells:
        axis.plot(*zip(*sorted(cells), strict=True), ".", ms=3, color=OKABE_ITO[1], label="measured")
        axis.legend(fontsize=8)
    title = f"{model['model']}{', simulated power' if model['simulated_power'] else ''}"
    axis.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel="output tokens", title=title)
    save(figure, out)


def draw_all(pairs: Sequence[dict[str, Any]], outdir: Path, model: Mapping[str, Any] | None = None) -> None:
    """Every chart there is data for, as PNG files in a folder; with a model its energy surface, too."""
    quantities = by_quantity(pairs)
    outdir.mkdir(parents=True, exist_ok=True)
    for quantity, mine in quantities.items():
        draw_predicted(quantity, mine, outdir / f"predicted_{quantity}.png")
        draw_residuals(quantity, mine, outdir / f"residuals_{quantity}.png")
    if model is not None:
        draw_surface(model, quantities, outdir / "energy_surface.png")
