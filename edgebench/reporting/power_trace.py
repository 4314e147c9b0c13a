"""The power trace of a campaign: the stretch around one run, which the page shows.

Reads the CSV that the collector's --power_trace or tegrastats_sampler.py writes (t_s, power_mw, rail).
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import read_jsonl, reason_of
from edgebench.records.run import task_of
from edgebench.reporting.cases import Row
from edgebench.shell.text import printable

TRACE_POINTS = 1500  # drawn at most
STAMPS = ("t0_s", "first_token_s", "t1_s")


@dataclass(frozen=True)
class Trace:
    """A stretch of a power trace: (seconds, milliwatt), and where a known run starts, answers and ends."""

    points: Sequence[tuple[float, float]]
    edges: tuple[float, ...] = ()  # t0_s, first_token_s, t1_s
    run: str = ""


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
        raise UserError(
            f"cannot read the power trace {path}: {reason_of(exc)}; give --trace the file of the "
            "collector's --power_trace"
        ) from exc
    if not points:
        raise UserError(
            f"{path} has no rows with t_s and power_mw; give --trace the file of the collector's "
            "--power_trace"
        )
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
        named = (run.get("model_id"), run.get("level"), task_of(run), run.get("repeat"))
        if tuple(map(str, named)) in spoilt:
            continue
        first, last = (bisect_left(points, (edge,)) for edge in (edges[0], edges[-1]))
        inside = [t_s for t_s, _ in points[max(first - 1, 0) : last + 1]]
        gap = max((after - before for before, after in pairwise(inside)), default=math.inf)
        if first > 0 and last < len(points) and gap < (edges[-1] - edges[0]) / 2:
            shown = [point for point in points if edges[0] - 2 <= point[0] <= edges[-1] + 2]
            model, level, task = map(printable, named[:3])
            return Trace(shown, edges, f"{model}, {level}, task {task}")
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
