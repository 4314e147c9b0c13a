#!/usr/bin/env python3
"""How long a campaign as the study asks for takes to analyse, to show and to aggregate.

Makes 1,200 runs (4 models × 20 tasks × 5 levels × 3 repeats) and 800 scores in a temporary folder, and starts
analyze_levels.py, report_page.py and aggregate_to_excels.py (with the analysis, and without it), each some
times. The least seconds of each are printed beside those of a bare `import pandas, scipy.stats`, which all of
them pay: on a busy machine the ratio says more than the seconds.

Example:
  python tests/bench_reporting.py --times 3
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("qwen1.5-1.8b-chat", "gemma-2-2b-it", "Phi-3.5-mini-instruct", "Qwen3-4B")
LEVELS = ("L0", "L1", "L2", "L3", "P")
TASKS, REPEATS = range(81, 101), (1, 2, 3)


def run_records(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Seeded records: longer prompts give longer answers; one run in a hundred has failed."""
    for (size, model), task in itertools.product(enumerate(MODELS), TASKS):
        base = draw.gauss(200, 30)
        for (place, level), repeat in itertools.product(enumerate(LEVELS), REPEATS):
            tokens = int(base + 25 * place + draw.gauss(0, 8))
            ttft_ms, tpot_ms = 60 + 40 * place + draw.gauss(0, 3), 30 + 4 * size + draw.gauss(0, 0.4)
            failed = draw.random() < 0.01
            yield {
                "schema_version": 1, "run_key": f"{model} {task} {level} {repeat}", "id": task,
                "category": "writing", "model_id": model, "quantization": "Q6_K", "level": level, "turn": 1,
                "repeat": repeat, "t0_s": 10.0 * (len(LEVELS) * repeat + place), "ttft_ms": ttft_ms,
                "tpot_ms": tpot_ms, "prompt_tokens": 40 + 110 * place, "completion_tokens": tokens,
                "prompt_tokens_evaluated": 40 + 110 * place,
                "latency_ms": None if failed else ttft_ms + tokens * tpot_ms,
                "energy_joule": None if failed else 0.2 * tokens * (1 + 0.3 * size) + 0.8 * place,
                "energy_uncertainty_joule": 0.4, "power_source": "ina3221", "power_scope": "module",
                "error": {"type": "Timeout", "message": "no answer within 900 s"} if failed else None,
                "flags": [], "output_text": "An answer of ordinary words. " * (tokens // 6),
            }  # fmt: skip


def make_campaign(folder: Path) -> None:
    """runs.jsonl and scores.csv: every pair of levels of every task and model."""
    draw = random.Random(3)
    with (folder / "runs.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(record) + "\n" for record in run_records(draw))
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn"))
        for model, task, (left, right) in itertools.product(MODELS, TASKS, itertools.combinations(LEVELS, 2)):
            winner = draw.choices(("A", "B", "Tie"), (3, 4, 3))[0]
            table.writerow((task, "writing", model, f"{left}_vs_{right}", winner, "gpt-4o", 1))


def least_seconds(command: list[str], times: int) -> tuple[float, float]:
    """The least wall and the least processor seconds of a command."""
    walls, processor = [], []
    for _ in range(times):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        walls.append(time.monotonic() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls), min(processor)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--times", type=int, default=3, metavar="N", help="starts of each (default 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        make_campaign(folder)
        runs, scores = ("--runs", f"{room}/runs.jsonl"), ("--scores", f"{room}/scores.csv")
        analysis, page = f"{room}/analysis.json", f"{room}/report.html"
        doors = {
            "import pandas, scipy.stats": ["-c", "import pandas, scipy.stats"],
            "analyze_levels.py": ["companions/analyze_levels.py", *runs, *scores, "--out", analysis],
            "report_page.py": ["companions/report_page.py", *runs, "--analysis", analysis, "--out", page],
            "aggregate_to_excels.py --analysis": [
                "aggregate_to_excels.py", *runs, *scores, "--analysis", analysis, "--outdir", room,
            ],
            "aggregate_to_excels.py": ["aggregate_to_excels.py", *runs, *scores, "--outdir", room],
        }  # fmt: skip
        print(f"{'1,200 runs, 800 scores':36}{'wall s':>8}{'CPU s':>8}{'× import':>10}")
        bare = 0.0
        for name, words in doors.items():
            wall, processor = least_seconds([sys.executable, *paths(words)], args.times)
            bare = bare or processor
            print(f"{name:36}{wall:8.2f}{processor:8.2f}{processor / bare:10.1f}", flush=True)
    return 0


def paths(words: list[str]) -> list[str]:
    """The words with the script's own path."""
    return [str(ROOT / words[0]), *words[1:]] if words[0].endswith(".py") else words


if __name__ == "__main__":
    sys.exit(main())
