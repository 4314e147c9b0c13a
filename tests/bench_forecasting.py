"""How quick token2metrics.py is, beside what Python and numpy cost alone; run by hand.

    .venv/bin/python tests/bench_forecasting.py [--rounds 7]

Prints, measured in turns in one run: `python -c "import numpy"`, one prediction with 16 trained models in the
folder, the training of four models; and how many processes each command started. Goals: predict <= 0.25 s
beyond numpy, train <= 4 s.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOOR = ROOT / "companions" / "token2metrics.py"
LENGTHS = (64, 100, 256, 500, 1024, 2000)


def write_sweep(path: Path, models: int) -> None:
    """Requests of some models, 6 x 6 lengths, five repeats, within half a percent of the arithmetic."""
    noise = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        names = ("model", "prompt_tokens", "gen_tokens", "ttft_ms", "tpot_ms")
        writer.writerow((*names, "prefill_energy_mj", "decode_energy_mj"))
        for size in range(1, models + 1):
            for prompt in LENGTHS:
                for output in LENGTHS:
                    for _ in range(5):
                        ttft = size * (10 + 0.3 * prompt + 1e-5 * prompt**2) * noise.gauss(1, 0.005)
                        step = size * (20 + 1e-3 * (prompt + output / 2)) * noise.gauss(1, 0.003)
                        energies = ttft * 20 * noise.gauss(1, 0.005), step * (output - 1) * 30
                        writer.writerow((f"made-{size}b", prompt, output, ttft, step, *energies))


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Of the clock, and of the processor: on a busy machine the clock counts the others, too."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, used


def processes(command: list[str], folder: Path) -> str:
    """How many processes the command was, by strace where it is installed."""
    if not shutil.which("strace"):
        return "not counted: strace is not installed"
    log = folder / "strace.log"
    words = ["strace", "-f", "-e", "trace=execve", "-o", str(log), *command]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return str(sum("execve(" in line and " = 0" in line for line in log.read_text().splitlines()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sweep(folder / "sixteen.csv", 16)
        write_sweep(folder / "four.csv", 4)
        door = [sys.executable, str(DOOR)]
        subprocess.run(
            [*door, "train", "--data", "sixteen.csv", "--all-models"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        predict = ["predict", "--model", "made-8b", "--input-tokens", "300", "--output-tokens", "200"]
        commands = {
            "import numpy": [sys.executable, "-c", "import numpy"],
            "predict, 16 models": [*door, *predict],
            "train, 4 models": [*door, "train", "--data", "four.csv", "--all-models", "--output", "four"],
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                taken[name].append(seconds(command, folder))
        base = statistics.median(clock for clock, _ in taken["import numpy"])
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median of {rounds} rounds, in turns")
        for name, times in taken.items():
            middle = statistics.median(clock for clock, _ in times)
            cpu = statistics.median(used for _, used in times)
            beyond = "" if name == "import numpy" else f"  {middle - base:+.2f} s beyond numpy"
            count = "" if name == "import numpy" else f"  processes: {processes(commands[name], folder)}"
            print(f"{name:20} {middle:6.2f} s, processor {cpu:.2f} s{beyond}{count}")


if __name__ == "__main__":
    main()
