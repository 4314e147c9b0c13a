#!/usr/bin/env python3
"""Memory traffic of a command: Nsight Compute's DRAM counters, or a Jetson's memory-controller (EMC) load.

  ncu     runs a command under Nsight Compute, exports the report as CSV, prints its sums. The profiler
          replays every kernel, so a profiled run's times mean nothing: never mix them with timed runs
  parse   the same sums from a CSV that `ncu --csv --page raw` wrote: a header, a row of units, then a row
          per kernel (or the older layout with a row per metric)
  tee     runs a power feed, hands its lines on unchanged and keeps them with time.monotonic() stamps
  emc     mean and highest EMC load [percent of the memory clock's capacity] in such a log: the everyday
          measure on a Jetson, where `tegrastats` prints EMC_FREQ

One JSON object on stdout. Byte counts in byte, times in nanosecond: unit prefixes are resolved. Counters that
end in .sum or .total are added over the kernels; others are averaged, weighted with each kernel's time where
gpu__time_duration.sum was measured too, and maxima (.max) are the highest.

Example:
  python companions/profile_memory.py ncu --out cell.ncu.csv -- python my_inference.py
  python companions/profile_memory.py parse cell.ncu.csv
  python tegrastats_sampler.py record --out trace.csv \\
      --feed "python companions/profile_memory.py tee --out feed.log -- tegrastats --interval 100"
  python companions/profile_memory.py emc feed.log
"""

from __future__ import annotations

import argparse
import csv
import json
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
SAMPLER = Path(__file__).resolve().parents[2] / "tegrastats_sampler.py"
NEVER_COUNTERS = ("ID", "Process ID", "Context", "Stream", "Device", "CC")


class ProfileError(Exception):
    """What the user can fix, or what this machine lacks; the message says which."""


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
    """Sums of a CSV file. Raises ProfileError where it holds no kernel."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as lines:
            rows = csv_rows(lines)
    except OSError as exc:
        raise ProfileError(f"cannot read {path}: {exc.strerror}") from exc
    if not rows:
        raise ProfileError(f"{path} has no table: export it with ncu --import REPORT --csv --page raw")
    kernels = long_kernels(rows) if "Metric Name" in rows[0] else wide_kernels(rows)
    if not kernels:
        raise ProfileError(f"{path} lists no kernel: the command ran nothing on the GPU")
    return {"metrics": combined(kernels), "kernels": len(kernels), "csv": str(path), "reason": None}


# ---------------------------------------------------------------------------
# Profiling a command


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Sums of a command under Nsight Compute. Raises ProfileError, with the profiler's words."""
    ncu = shutil.which(args.ncu)
    if ncu is None:
        raise ProfileError(
            f"Nsight Compute is not here: there is no {args.ncu} on PATH; install it or give --ncu PATH"
        )
    report = args.out.with_suffix(".ncu-rep")
    collect = [ncu, "--target-processes", "all", "--force-overwrite", "--export", str(report)]
    run_step([*collect, "--metrics", args.metrics, *args.command], args.timeout, "profiling")
    if not report.exists():
        raise ProfileError("the command ran nothing on the GPU: Nsight Compute wrote no report")
    export = [ncu, "--import", str(report), "--csv", "--page", "raw", "--print-units", "base"]
    part = args.out.with_name(f".{args.out.name}.part")
    part.write_text(run_step(export, args.timeout, "the export"), encoding="utf-8")
    part.replace(args.out)
    return parse_csv(args.out)


def run_step(command: Sequence[str], timeout_s: float, what: str) -> str:
    """A step's stdout. It has its own session, so that a hung profiler goes with all that it started."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as step:
        try:
            output, _ = step.communicate(timeout=timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as exc:
            os.killpg(step.pid, signal.SIGKILL)
            if isinstance(exc, KeyboardInterrupt):
                raise
            raise ProfileError(f"{what} took more than {timeout_s:g} s; see --timeout") from exc
    if step.returncode:
        lines = [line for line in output.splitlines() if line.strip()]
        told = [line for line in lines if "==ERROR==" in line] or lines or ["it said nothing"]
        # NVIDIA's word for: the driver shows its counters to root only.
        hint = (
            "; run it as root, or set NVreg_RestrictProfilingToAdminUsers=0"
            if "ERR_NVGPUCTRPERM" in output
            else ""
        )
        raise ProfileError(f"{what} ended with status {step.returncode}: {told[-1].strip()}{hint}")
    return output


# ---------------------------------------------------------------------------
# EMC


def tee(command: Sequence[str], log: Path) -> int:
    """Hand on a feed's lines, and keep them in a log as `SECONDS LINE`."""
    with (
        log.open("w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as feed,
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
    return feed.returncode if feed.returncode > 0 else 0


def stamped(path: Path, t0: float, t1: float) -> Iterator[str]:
    """Lines of a log that were read between t0 and t1 [monotonic seconds]."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            stamp, _, text = line.partition(" ")
            t_s = number(stamp)
            if t_s is not None and t0 <= t_s <= t1 and text.endswith("\n"):
                yield text


def emc_load(path: Path, t0: float, t1: float) -> dict[str, Any]:
    """Mean and highest EMC load of a window; null with the reason where the feed prints none."""
    try:
        text = "".join(line for line in stamped(path, t0, t1) if not line.startswith("#"))
    except OSError as exc:
        raise ProfileError(f"cannot read {path}: {exc.strerror}") from exc
    done = subprocess.run(
        [sys.executable, str(SAMPLER), "parse", "-"], input=text, capture_output=True, text=True
    )
    readings = [json.loads(line)["loads"]["emc_load_percent"] for line in done.stdout.splitlines()]
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


def build_parser() -> argparse.ArgumentParser:
    """Subcommands and flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ncu|parse|tee|emc")
    ncu = actions.add_parser("ncu", help="profile a command")
    ncu.add_argument("--out", type=Path, required=True, metavar="CSV", help="the report stays beside it")
    ncu.add_argument("--metrics", default=",".join(METRICS), help="comma separated (default: %(default)s)")
    ncu.add_argument("--ncu", default="ncu", help="the profiler (default: ncu)")
    ncu.add_argument("--timeout", type=float, default=3600.0, metavar="S", help="per step (default: 3600)")
    ncu.add_argument("command", nargs="+", metavar="-- CMD")
    parse = actions.add_parser("parse", help="sums of an exported CSV")
    parse.add_argument("csv", type=Path)
    hand_on = actions.add_parser("tee", help="hand on a power feed, keep its lines")
    hand_on.add_argument("--out", type=Path, required=True, metavar="LOG")
    hand_on.add_argument("command", nargs="+", metavar="-- CMD")
    emc = actions.add_parser("emc", help="EMC load in a log of tee")
    emc.add_argument("log", type=Path)
    emc.add_argument("--t0", type=float, default=-math.inf, help="monotonic seconds (default: the start)")
    emc.add_argument("--t1", type=float, default=math.inf, help="monotonic seconds (default: the end)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand."""
    args = build_parser().parse_args(argv)
    try:
        if args.action == "tee":
            return tee(args.command, args.out)
        if args.action == "ncu":
            print(json.dumps(profile(args)))
        else:
            found = parse_csv(args.csv) if args.action == "parse" else emc_load(args.log, args.t0, args.t1)
            print(json.dumps(found))
    except (ProfileError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
