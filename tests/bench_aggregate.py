#!/usr/bin/env python3
"""Time and peak memory of aggregate_to_excels.py, beside a plain pandas + openpyxl script.

Makes run records (4 models × 5 levels × tasks × 3 repeats, with an answer text each) in a temporary folder,
then runs both, one after the other, in processes of their own. The plain script reads the whole file with
pandas.read_json and writes the same tidy columns with DataFrame.to_excel: four workbooks, one sheet per
model, without statistics, formats or charts.

Example:
  python tests/bench_aggregate.py --runs 100000
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAIN = """
import sys, pandas as pd
runs = pd.read_json(sys.argv[1], lines=True)
for file, value in zip("qelo", ["prompt_tokens", "energy_joule", "latency_ms", "completion_tokens"]):
    with pd.ExcelWriter(f"{sys.argv[2]}/{file}.xlsx", engine="openpyxl") as book:
        for model, part in runs.groupby("model_id"):
            columns = ["id", "category", "level", "turn", "repeat", "prompt_tokens", "completion_tokens"]
            part = part.assign(in_means="yes", error="", flags=part["flags"].str.join(" "))
            part = part[[*dict.fromkeys([*columns, value, "in_means", "error", "flags"])]]
            part.to_excel(book, sheet_name=model, index=False)
"""


def make_runs(path: Path, count: int, text_length: int) -> None:
    """Seeded run records, as many as asked for."""
    draw, text = random.Random(1), "An answer of ordinary words. " * (text_length // 29)
    levels = ("L0", "L1", "L2", "L3", "P")
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            rest, repeat = divmod(number, 3)
            rest, level = divmod(rest, 5)
            task, model = divmod(rest, 4)
            tokens = 150 + 40 * level + draw.randint(-20, 20)
            record = {"schema_version": 1, "run_key": f"{number:032x}", "id": task, "category": "writing"}
            record |= {"model_id": f"model-{model}", "level": levels[level], "turn": 1, "repeat": repeat + 1}
            record |= {
                "prompt_tokens": 40 + 90 * level,
                "completion_tokens": tokens,
                "power_source": "ina3221",
            }
            record |= {
                "latency_ms": tokens * draw.gauss(30, 1),
                "energy_joule": tokens * draw.gauss(0.2, 0.01),
            }
            record |= {"flags": [], "error": None, "output_text": text}
            out.write(json.dumps(record) + "\n")


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command (the largest of its processes)."""
    code = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return time.monotonic() - start, int(done.stdout.split()[-1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000, metavar="N", help="run records (default 100000)")
    parser.add_argument(
        "--text", type=int, default=300, metavar="N", help="characters of an answer (default 300)"
    )
    parser.add_argument("--skip_plain", action="store_true", help="measure only aggregate_to_excels.py")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as room:
        runs = Path(room) / "runs.jsonl"
        make_runs(runs, args.runs, args.text)
        print(f"{args.runs:,} runs, {runs.stat().st_size / 2**20:,.0f} MiB", flush=True)
        ours = [sys.executable, str(ROOT / "aggregate_to_excels.py"), "--runs", str(runs), "--outdir", room]
        seconds, peak = measure(ours)
        print(f"aggregate_to_excels.py  {seconds:8.1f} s  peak {peak:7,.0f} MiB", flush=True)
        if not args.skip_plain:
            plain, plain_peak = measure([sys.executable, "-c", PLAIN, str(runs), room])
            print(f"plain pandas + openpyxl {plain:8.1f} s  peak {plain_peak:7,.0f} MiB")
            print(f"ours / plain: time {seconds / plain:.2f}, memory {peak / plain_peak:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
