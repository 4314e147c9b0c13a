"""Memory traffic of a command: Nsight Compute's DRAM counters, or a Jetson's memory-controller (EMC) load.

Nsight Compute replays every kernel, so a profiled run's times mean nothing: never mix them with timed runs.
Its report is exported as CSV (`ncu --csv --page raw`: a header, a row of units, then a row per kernel, or the
older layout with a row per metric) and summed: byte counts in byte, times in nanosecond, unit prefixes are
resolved. Counters that end in .sum or .total are added over the kernels; others are averaged, weighted with
each kernel's time where gpu__time_duration.sum was measured too, and maxima (.max) are the highest.

The EMC load [percent of the memory clock's capacity] is the everyday measure on a Jetson, where `tegrastats`
prints EMC_FREQ: run as a process, this room hands a power feed's lines on unchanged and keeps them with
time.monotonic() stamps in a log (words: the log, then the feed's command).
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.tegrastats import parse_line
from edgebench.records.jsonl import write_whole
from edgebench.shell import lifeline

METRICS = (
    "dram__bytes_write.sum",
    "dram__bytes_read.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__t_sectors_op_write.sum",
    "gpu__time_duration.sum",
)
DURATION = "gpu__time_duration.sum"
# Nsight Compute scales each column to its largest value unless told --print-units base; both spellings occur.
PREFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
TIMES_NS = {"nsecond": 1.0, "usecond": 1e3, "msecond": 1e6, "second": 1e9, "ns": 1.0, "us": 1e3, "ms": 1e6}
NEVER_COUNTERS = ("ID", "Process ID", "Context", "Stream", "Device", "CC")


# ---------------------------------------------------------------------------
# Nsight Compute's CSV


def unit_factor(unit: str) -> float:
    """What a value in this unit is to be multiplied with to be in byte, nanosecond or the bare unit.

    >>> unit_factor("Mbyte"), unit_factor("usecond"), unit_factor("%")
    (1000000.0, 1000.0, 1.0)
    """
    if unit in TIMES_NS:
        return TIMES_NS[unit]
    for name in ("byte", "sector", "inst", "cycle"):
        if unit.removesuffix("s") in {prefix + name for prefix in PREFIXES}:
            return PREFIXES[unit.removesuffix("s").removesuffix(name)]
    return 1.0


def number(text: str) -> float | None:
    """A value of the CSV, which may have thousands separators; None for n/a and the like."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def csv_rows(lines: Iterable[str]) -> list[list[str]]:
    """The table in a profiler's output, without the ==PROF== lines and the program's own words around it."""
    inside: list[str] = []
    for line in lines:
        if inside or line.lstrip("\ufeff").startswith('"ID"'):
            inside += [line] if line.startswith(('"', "\ufeff")) else []
    return [row for row in csv.reader(inside) if row]


def wide_kernels(rows: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Counters by kernel of the raw page: rows[0] names, rows[1] units, then a row per kernel."""
    header, units, kernels = rows[0], rows[1] if len(rows) > 1 else [], rows[2:]
    if units and units[0].strip():  # no row of units: an export with base units may leave it out
        units, kernels = [""] * len(header), rows[1:]
    factors = [unit_factor(unit.strip()) for unit in units]
    found = []
    for row in kernels:
        values = {}
        for name, factor, text in zip(header, factors, row, strict=False):
            value = number(text) if "__" in name and name not in NEVER_COUNTERS else None
            if value is not None:
                values[name] = value * factor
        found.append(values)
    return found


def long_kernels(rows: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Counters by kernel of the details page: a row per kernel and metric."""
    kernels: dict[str, dict[str, float]] = {}
    for row in rows[1:]:
        cell = dict(zip(rows[0], row, strict=False))
        value = number(cell.get("Metric Value", ""))
        values = kernels.setdefault(cell.get("ID", ""), {})
        if value is not None and "__" in cell.get("Metric Name", ""):
            values[cell["Metric Name"]] = value * unit_factor(cell.get("Metric Unit", "").strip())
    return list(kernels.values())


def combined(kernels: Sequence[dict[str, float]]) -> dict[str, float]:
    """One value per counter over all kernels: sums, highest, or means weighted with the kernels' time."""
    metrics: dict[str, float] = {}
    for name in sorted({name for kernel in kernels for name in kernel}):
        having = [kernel for kernel in kernels if name in kernel]
        values = [kernel[name] for kernel in having]
        if name.endswith((".sum", ".total")):
            metrics[name] = math.fsum(values)
        elif name.endswith(".max"):
            metrics[name] = max(values)
        else:
            weights = [kernel.get(DURATION, 0.0) for kernel in having]
            weights = weights if all(weight > 0 for weight in weights) else [1.0] * len(values)
            metrics[name] = math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(
                weights
            )
    return metrics


def parse_csv(path: Path) -> dict[str, Any]:
    """Sums of a CSV file. Raises UserError where it holds no kernel."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as lines:
            rows = csv_rows(lines)
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}") from exc
    if not rows:
        raise UserError(f"{path} has no table: export it with ncu --import REPORT --csv --page raw")
    kernels = long_kernels(rows) if "Metric Name" in rows[0] else wide_kernels(rows)
    if not kernels:
        raise UserError(f"{path} lists no kernel: the command ran nothing on the GPU")
    return {"metrics": combined(kernels), "kernels": len(kernels), "csv": str(path), "reason": None}


# ---------------------------------------------------------------------------
# Profiling a command


def profile(
    command: Sequence[str],
    out: Path,
    ncu: str = "ncu",
    metrics: Sequence[str] = METRICS,
    timeout_s: float = 3600.0,
) -> dict[str, Any]:
    """Sums of a command under Nsight Compute, as CSV in `out`, the report beside it. Raises UserError."""
    program = shutil.which(ncu)
    if program is None:
        raise UserError(
            f"Nsight Compute is not here: there is no {ncu} on PATH; install it or give --ncu_path PATH"
        )
    report = out.with_suffix(".ncu-rep")
    collect = [program, "--target-processes", "all", "--force-overwrite", "--export", str(report)]
    run_step([*collect, "--metrics", ",".join(metrics), *command], timeout_s, "profiling")
    if not report.exists():
        raise UserError("the command ran nothing on the GPU: Nsight Compute wrote no report")
    export = [program, "--import", str(report), "--csv", "--page", "raw", "--print-units", "base"]
    write_whole(out, run_step(export, timeout_s, "the export"))
    return parse_csv(out)


def run_step(command: Sequence[str], timeout_s: float, what: str) -> str:
    """A step's stdout. A hung profiler goes with all that it started."""
    try:
        done = lifeline.run(
            command, tree=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as exc:
        raise UserError(f"{what} took more than {timeout_s:g} s") from exc
    output = str(done.stdout)
    if done.returncode:
        lines = [line for line in output.splitlines() if line.strip()]
        told = [line for line in lines if "==ERROR==" in line] or lines or ["it said nothing"]
        # NVIDIA's word for: the driver shows its counters to root only.
        hint = (
            "; run it as root, or set NVreg_RestrictProfilingToAdminUsers=0"
            if "ERR_NVGPUCTRPERM" in output
            else ""
        )
        raise UserError(f"{what} ended with status {done.returncode}: {told[-1].strip()}{hint}")
    return output


# ---------------------------------------------------------------------------
# EMC


def tee(command: Sequence[str], log: Path) -> int:
    """Hand on a feed's lines, and keep them in a log as `SECONDS LINE`."""
    with (
        log.open("w", encoding="utf-8", buffering=1) as kept,
        lifeline.start(command, stdout=subprocess.PIPE, text=True, errors="replace") as feed,
    ):
        assert feed.stdout

        def end(*_: object) -> None:
            feed.terminate()

        signal.signal(signal.SIGTERM, end)
        try:
            for line in feed.stdout:
                kept.write(f"{time.monotonic():.6f} {line}")
                print(line, end="", flush=True)
        except (BrokenPipeError, KeyboardInterrupt):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            feed.terminate()
    return max(0, int(feed.returncode))


def stamped(path: Path, t0: float, t1: float) -> Iterator[str]:
    """Lines of a log that were read between t0 and t1 [monotonic seconds]."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            stamp, _, text = line.partition(" ")
            t_s = number(stamp)
            if t_s is not None and t0 <= t_s <= t1 and text.endswith("\n"):
                yield text


def emc_load(path: Path, t0: float = -math.inf, t1: float = math.inf) -> dict[str, Any]:
    """Mean and highest EMC load of a window; null with the reason where the feed prints none."""
    try:
        text = "".join(line for line in stamped(path, t0, t1) if not line.startswith("#"))
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}") from exc
    readings = [parse_line(line).loads["emc_load_percent"] for line in text.splitlines()]
    loads = [load for load in readings if load is not None]
    reason = None
    if not loads:
        reason = "the feed prints no EMC_FREQ: only tegrastats does" if readings else "no line in this window"
    return {
        "emc_load_percent_mean": sum(loads) / len(loads) if loads else None,
        "emc_load_percent_max": max(loads, default=None),
        "samples": len(loads),
        "reason": reason,
    }


def main() -> int:
    """Hand a feed's lines on: words are the log, then the feed's command."""
    log, *command = sys.argv[1:]
    return tee(command, Path(log))


if __name__ == "__main__":
    sys.exit(main())
