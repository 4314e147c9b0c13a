#!/usr/bin/env python3
"""Times the power sampler; run by hand. Parser lines/s, a window over a million samples, CPU of the reader.

Prints one line per figure. CPU shares are of one core, over --seconds, from the kernel's accounts.

Example:
  python tests/bench_sampler.py --seconds 20
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/fakes")]

import power_trees  # noqa: E402

import tegrastats_sampler as power  # noqa: E402
from edgebench.power.feeds import FeedRequest, feed_command  # noqa: E402


def bench_parser() -> None:
    lines = [json.loads(line)["line"] for line in (ROOT / "tests/golden/tegrastats_lines.jsonl").open()]
    best_s = min(timed(lambda: [power.parse_line(line) for line in lines]) for _ in range(300))
    size = sum(map(len, lines)) / len(lines)
    print(f"parse_line          {len(lines) / best_s:10.0f} lines/s, best of 300, {size:.0f} characters each")


def timed(call: object) -> float:
    began_s = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - began_s


def bench_window() -> None:
    trace = power.PowerTrace()
    for k in range(1_000_000):
        trace.add(k * 0.1, 5000.0 + k % 997)
    trace.window(1.0, 99_999.0, 5000.0)  # the first one imports numpy
    best_s = min(timed(lambda: trace.window(1.05, 99_998.93, 5000.0)) for _ in range(10))
    print(f"window of 10^6      {best_s * 1000:10.1f} ms")
    small_s = min(timed(lambda: trace.window(50_000.05, 50_003.93, 5000.0)) for _ in range(100))
    print(f"window of 39 in it  {small_s * 1e6:10.0f} us")


def cpu_s(pid: int) -> float:
    """User and system time of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    text = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in text.splitlines()]
    found, new = [], [pid]
    while new:
        new = [child for child, parent in pairs if parent in new]
        found += new
    return found


def bench_cpu(name: str, choice: power.FeedChoice, interval_ms: int, seconds: float) -> None:
    with power.TegrastatsSampler(choice, interval_ms) as sampler:
        time.sleep(0.5)
        pids = [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}").exists()]
        own = resource.getrusage(resource.RUSAGE_SELF)
        before, own_s = {pid: cpu_s(pid) for pid in pids if is_ours(pid)}, own.ru_utime + own.ru_stime
        time.sleep(seconds)
        own = resource.getrusage(resource.RUSAGE_SELF)
        shares = {what(pid): (cpu_s(pid) - before_s) / seconds for pid, before_s in before.items()}
        shares["sampler"] = (own.ru_utime + own.ru_stime - own_s) / seconds
        count = len(sampler.trace.t_s)
    parts = ", ".join(f"{part} {share * 100:.2f} %" for part, share in shares.items())
    reader = sum(share for part, share in shares.items() if part in ("sampler", "keeper"))
    print(f"{name:20}{reader * 100:10.2f} % of a core for the reader; {parts}; {count} samples")


def what(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    rooms = (word.rpartition(".")[2] for word in words if word.startswith("edgebench.power."))
    return next(rooms, Path(words[0]).stem)


def is_ours(pid: int) -> bool:
    try:
        return what(pid) in ("keeper", "feeds")
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each CPU figure (default: 20)")
    args = parser.parse_args()
    bench_parser()
    bench_window()
    demo = power.find_feed(f"replay:{ROOT / 'data/demo/power_replay.log'}")
    bench_cpu("10 Hz, full lines", demo, 100, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        power_trees.orin_nano(Path(folder))
        request = FeedRequest("ina3221", 20, sysfs=Path(folder))
        choice = power.FeedChoice(tuple(feed_command(request)), "ina3221", None)
        bench_cpu("50 Hz, sysfs", choice, 20, args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
