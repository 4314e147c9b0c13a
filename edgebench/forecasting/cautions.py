"""What must be known of a model's figures: said at training, with each prediction and in each plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SIMULATED = "energies are of simulated power, not of a measurement; they mean nothing for a board"
BAD_MAPE_PERCENT = 50.0  # held-out: such a model is no help, and says so
# Intervals come from so many held-out cells that their coverage is known to 90 +- 3 %: its standard deviation
# is sqrt(0.9 * 0.1 / cells) (Angelopoulos and Bates, arXiv 2107.07511, section 3.2).
COVERAGE, COVERAGE_OFF = 0.9, 0.03
CELLS_LEAST = math.ceil(COVERAGE * (1 - COVERAGE) / COVERAGE_OFF**2)


def cautions(model: Mapping[str, Any]) -> list[str]:
    """What must be known of each figure of a model: said at training and with each prediction."""
    lines = []
    if model.get("input_tokens_known") is False:
        lines.append("the data had no prompt lengths: prefill is its requests' mean, whatever the prompt")
    lines += [f"no {name}: {why}" for name, why in model.get("unfitted", {}).items()]
    for name, interval in model["intervals"].items():
        if interval["held_out_mape_percent"] > BAD_MAPE_PERCENT:
            lines.append(
                f"{name} errs by {interval['held_out_mape_percent']:.0f} % on held-out rows: no help"
            )
    lines += [uncertain] if (uncertain := cannot_hold(model)) else []
    if model["no_energy_reason"]:
        lines.append(f"no energy: {model['no_energy_reason']}")
    if model["simulated_power"]:
        lines.append(SIMULATED)
    return lines


def cannot_hold(model: Mapping[str, Any]) -> str | None:
    """What a model's intervals cannot promise, because they come from too few cells."""
    cells = [interval["cells"] for interval in model["intervals"].values() if interval.get("cells")]
    return few_cells(min(cells)) if cells else None


def few_cells(cells: int) -> str | None:
    """What intervals from so many cells cannot promise; None where they can.

    >>> few_cells(36), few_cells(100)
    ('intervals come from 36 cells of lengths: a 90 % one may cover 80 to 100 %', None)
    """
    if cells >= CELLS_LEAST:
        return None
    off = 100 * math.sqrt(COVERAGE * (1 - COVERAGE) / cells)
    return (
        f"intervals come from {cells} cells of lengths: a 90 % one may cover {max(0, 90 - 2 * off):.0f}"
        f" to {min(100, 90 + 2 * off):.0f} %"
    )
