#!/usr/bin/env python3
"""Time and peak memory of aggregate_to_excels.py, beside a plain pandas + openpyxl script.

Makes run records (4 models × 5 levels × tasks × 3 repeats, with an answer text each) in a temporary folder,
then runs both, one after the other, in processes of their own; on a busy machine compare the CPU seconds. The
plain script reads the whole file with pandas.read_json and writes the same tidy columns with
DataFrame.to_excel: four workbooks, one sheet per model, without statistics, formats or charts.

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


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MiB of a command (the largest of its processes)."""
    code = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    code += "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    code += "print(used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(code)"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    processor, peak = done.stdout.split()[-2:]
    return time.monotonic() - start, float(processor), int(peak) / 1024


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
        wall, processor, peak = measure(ours)
        print(
            f"aggregate_to_excels.py  {wall:8.1f} s  CPU {processor:8.1f} s  peak {peak:7,.0f} MiB",
            flush=True,
        )
        if not args.skip_plain:
            plain = measure([sys.executable, "-c", PLAIN, str(runs), room])
            print("plain pandas + openpyxl {:8.1f} s  CPU {:8.1f} s  peak {:7,.0f} MiB".format(*plain))
            ratios = [one / other for one, other in zip((wall, processor, peak), plain, strict=True)]
            print("ours / plain: time {:.2f}, CPU {:.2f}, memory {:.2f}".format(*ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
