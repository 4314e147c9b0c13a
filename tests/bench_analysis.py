#!/usr/bin/env python3
"""Time of the three commands that read a campaign, beside the bare import of what they stand on.

Makes a campaign of the size of a study (by default 1,200 runs and 800 scores) in a temporary folder and runs
analyze_levels, report_page and aggregate_to_excels, each several times in turn with
`python -c "import pandas, scipy.stats"`; prints the shortest wall and processor time of each, and both over
the bare import. Goals on one idle core: analysis 3 s, page 2 s, workbooks 3 s.

Example:
    python tests/bench_analysis.py --rounds 3
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = "import pandas, scipy.stats"


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    wall_s: float
    processor_s: float  # user and system, of the command and its children


def cost_of(command: Sequence[str], folder: Path) -> Cost:
    before, began = os.times(), time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed: {done.stderr.strip()}")
    after = os.times()
    spent_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.monotonic() - began, spent_s)


def commands(folder: Path) -> dict[str, list[str]]:
    """The bare import first, then the commands in the order in which one needs the other."""
    runs, scores = ("--runs", "runs_llamacpp.jsonl"), ("--scores", "scores_mtbench.csv")
    doors = {
        "analyze_levels": ["companions/analyze_levels.py", *runs, *scores, "--out", "analysis.json"],
        "report_page": ["companions/report_page.py", "--analysis", "analysis.json", "--out", "report.html"],
        "aggregate_to_excels": ["aggregate_to_excels.py", *runs, *scores, "--outdir", "books"],
        "  with --analysis": ["aggregate_to_excels.py", *runs, *scores, "--outdir", "books"],
    }
    doors["  with --analysis"] += ["--analysis", "analysis.json"]
    found = {"bare import": [sys.executable, "-c", BARE]}
    for name, (door, *flags) in doors.items():
        found[name] = [sys.executable, str(ROOT / door), *flags]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=4, help="models (default: 4)")
    parser.add_argument("--tasks", type=int, default=20, help="tasks, each at 5 levels (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of a cell (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="times each command is run (default: 3)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [sys.executable, str(ROOT / "tests/fakes/made_campaign.py"), str(folder), "--models"]
        made += [f"model-{n + 1}" for n in range(args.models)]
        made += ["--tasks", str(args.tasks), "--repeats", str(args.repeats)]
        subprocess.run(made, check=True, capture_output=True)
        costs: dict[str, list[Cost]] = {name: [] for name in commands(folder)}
        for _ in range(args.rounds):
            for name, command in commands(folder).items():
                costs[name].append(cost_of(command, folder))
    runs, pairs = args.models * args.tasks * 5 * args.repeats, args.models * args.tasks * 10
    print(f"{runs:,} runs, {pairs:,} scores; shortest of {args.rounds} rounds")
    print(f"{'':<22}{'wall s':>8}{'over bare':>11}{'processor s':>13}{'over bare':>11}")
    bare_wall_s = min(cost.wall_s for cost in costs["bare import"])
    bare_processor_s = min(cost.processor_s for cost in costs["bare import"])
    for name, own in costs.items():
        wall_s, processor_s = min(c.wall_s for c in own), min(c.processor_s for c in own)
        ratios = (wall_s / bare_wall_s, processor_s / bare_processor_s)
        print(f"{name:<22}{wall_s:>8.2f}{ratios[0]:>11.2f}{processor_s:>13.2f}{ratios[1]:>11.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
