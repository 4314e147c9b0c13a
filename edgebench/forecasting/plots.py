#!/usr/bin/env python3
"""Charts of token2metrics.py: predicted against measured, residuals over lengths, energy over both lengths.

From the held-out predictions of evaluate_metrics.py --pairs and, for the surface, a model:
  predicted_<quantity>.png   measured against predicted, both logarithmic, the diagonal
  residuals_<quantity>.png   error in percent over prompt and over output tokens, 90 % intervals shaded
  energy_surface.png         predicted Joule over both lengths, with lines of equal cost, the measured cells

Example:
    python companions/plot_metrics.py --pairs pairs.jsonl --model_file model.json --outdir plots
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

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


class PlotError(Exception):
    """Something the user can put right."""


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def read_pairs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Quantity -> held-out predictions."""
    pairs: dict[str, list[dict[str, Any]]] = {}
    for number, pair in read_jsonl(path):
        if pair is None or not {"quantity", "measured", "mean", "input_tokens", "decode_steps"} <= set(pair):
            raise PlotError(
                f"{path} line {number}: no held-out prediction; evaluate_metrics.py --pairs makes them"
            )
        pairs.setdefault(str(pair["quantity"]), []).append(pair)
    if not pairs:
        raise PlotError(f"{path} holds no predictions; check --pairs")
    return pairs


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
    print(path)


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


def predict_grid(path: Path, low: Sequence[float], high: Sequence[float]) -> tuple[list[int], list[int], Any]:
    """Predicted energy [J] (output, prompt) over a logarithmic grid of the trained range."""
    import numpy as np

    axes = [
        sorted({round(value) for value in np.geomspace(start, max(end, start + 1), GRID)})
        for start, end in zip(low, high, strict=True)
    ]
    pairs = [[prompt, output] for output in axes[1] for prompt in axes[0]]
    command = [
        *room_command("edgebench.forecasting.fit"),
        "predict",
        str(path),
    ]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise PlotError(done.stderr.strip().removeprefix("error: ") or "fit_metrics.py said nothing")
    energy = [json.loads(line)["total_energy_joule"]["mean"] for line in done.stdout.splitlines()]
    return axes[0], axes[1], np.array(energy).reshape(len(axes[1]), len(axes[0]))


def draw_surface(path: Path, pairs: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
    """Energy over both lengths; nothing to draw for a model without energy."""
    import numpy as np

    checker = room_command("edgebench.forecasting.model_file")
    done = subprocess.run([*checker, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise PlotError(done.stderr.strip().removeprefix("error: "))
    told = json.loads(done.stdout)
    if told["no_energy_reason"] or not any("energy" in target for target in told["targets"]):
        print(f"no energy surface: {told['no_energy_reason']}", file=sys.stderr)
        return
    prompt, output, energy = predict_grid(path, told["ranges"]["low"], told["ranges"]["high"])
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
    title = f"{told['model']}{', simulated power' if told['simulated_power'] else ''}"
    axis.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel="output tokens", title=title)
    save(figure, out)


def draw_all(args: argparse.Namespace) -> None:
    """Every chart there is data for."""
    pairs = read_pairs(args.pairs)
    args.outdir.mkdir(parents=True, exist_ok=True)
    for quantity, mine in pairs.items():
        draw_predicted(quantity, mine, args.outdir / f"predicted_{quantity}.png")
        draw_residuals(quantity, mine, args.outdir / f"residuals_{quantity}.png")
    if args.model_file:
        draw_surface(args.model_file, pairs, args.outdir / "energy_surface.png")


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="JSONL", help="of evaluate_metrics.py --pairs"
    )
    parser.add_argument("--model_file", type=Path, metavar="JSON", help="draw its energy surface, too")
    parser.add_argument("--outdir", type=Path, required=True, metavar="DIR", help="where the charts go")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and print the names of the files."""
    args = build_parser().parse_args(argv)
    try:
        draw_all(args)
    except (PlotError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
