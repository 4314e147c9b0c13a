"""Memory traffic of a command: Nsight Compute's DRAM counters, or a Jetson's memory-controller (EMC) load.

Nsight Compute replays every kernel, so a profiled run's times mean nothing: never mix them with timed runs.
Its report is exported as CSV (`ncu --csv --page raw`: a header, a row of units, then a row per kernel, or the
older layout with a row per metric) and summed: byte counts in byte, times in nanosecond, unit prefixes are
resolved. Counters that end in .sum or .total are added over the kernels; others are averaged, weighted with
each kernel's time where gpu__time_duration.sum was measured too, and maxima (.max) are the highest.

The EMC load [percent of the memory clock's capacity] is the everyday measure on a Jetson, where `tegrastats`
prints EMC_FREQ: it is read from the power feed's lines, which are kept with their time.monotonic() stamps.
"""

from __future__ import annotations

import contextlib
import csv
import math
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

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
NO_PROFILER = "Nsight Compute is not here: there is no {ncu} on PATH; install it or give --ncu_path PATH"
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


class ProfilerHangs(UserError):
    """It did not come to an end in time, and was ended."""


def profile(
    command: Sequence[str],
    out: Path,
    ncu: str = "ncu",
    metrics: Sequence[str] = METRICS,
    timeout_s: float = 600.0,
) -> dict[str, Any]:
    """Sums of a command under Nsight Compute, as CSV in `out`, the report beside it. Raises UserError.

    `timeout_s` is for the profiled run and for the export, each. What runs past it is killed with all that it
    has started; so it is when this process ends, however it ends.
    """
    program = shutil.which(ncu)
    if program is None:
        raise UserError(NO_PROFILER.format(ncu=ncu))
    out.parent.mkdir(exist_ok=True)
    report = out.with_suffix(".ncu-rep")
    # Nsight Compute would set the card's clocks to their base for the time of the run: nothing here changes a
    # setting of the machine, and the counters are to be those of the clocks that the timed run had.
    collect = [program, "--target-processes", "all", "--clock-control", "none", "--force-overwrite"]
    collect += ["--export", str(report)]
    run_step([*collect, "--metrics", ",".join(metrics), *command], timeout_s, "profiling by ncu")
    if not report.exists():
        raise UserError("the command ran nothing on the GPU: Nsight Compute wrote no report")
    export = [program, "--import", str(report), "--csv", "--page", "raw", "--print-units", "base"]
    write_whole(out, run_step(export, timeout_s, "the export by ncu"))
    return parse_csv(out)


def run_step(command: Sequence[str], timeout_s: float, what: str) -> str:
    """A step's stdout. A hung profiler goes with all that it started."""
    try:
        done = lifeline.run(
            command, tree=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as exc:
        kernels = str(exc.output or "").count("==PROF== Profiling ")
        came = (
            f"at kernel {kernels}: raise --ncu_timeout, or lower --ncu_tokens"
            if kernels
            else "before it told of a kernel: the profiler hangs, or see --ncu_timeout"
        )
        raise ProfilerHangs(f"{what} took more than {timeout_s:g} s and was ended {came}") from exc
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


class FeedLog:
    """A feed's own lines, kept in a file as `SECONDS LINE`; no file before the first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: str | None = None  # why the file ends early
        self._file: IO[str] | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[FeedLog]:
        """Start the file anew, and close it when the block is left."""
        path.unlink(missing_ok=True)
        log = cls(path)
        try:
            yield log
        finally:
            if log._file is not None:
                log._file.close()

    def take(self, t_s: float, line: str) -> None:
        """Keep a line; once that fails (a full disk) no more."""
        if self.lost is None:
            try:
                self._file = self._file or self.path.open("w", encoding="utf-8", buffering=1)
                self._file.write(f"{t_s:.6f} {line}\n")
            except (OSError, ValueError) as problem:  # ValueError: the cell is over and the file closed
                self.lost = str(problem)


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
