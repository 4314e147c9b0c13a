"""Takes the collector's place in a copy of the repository: its flags, its files, its exit codes, no engine.

Records are a function of the file's name, the task, the level and the seed, so that two campaigns can be
compared byte for byte. Empty files beside the output are orders: with `pace` it waits for `go_cycle_C_N`
before run N of cycle C, with `fail_C` cycle C fails, with `interrupt_cycle_C_N` it sends its conductor the
signal of a Ctrl-C before run N, once.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--prompts", nargs="+")
    parser.add_argument("--levels", nargs="+", default=["L0", "P"])
    parser.add_argument("--out_jsonl", type=Path)
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--repeats", type=int, default=1)
    args, _ = parser.parse_known_args()
    out, cycle = args.out_jsonl, args.out_jsonl.stem.rpartition("_")[2]
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    with (out.parent / "starts.txt").open("a") as starts:
        starts.write(f"{out.name} {os.getpid()} {' '.join(sys.argv[1:])}\n")
    done = [json.loads(line)["run_key"] for line in out.read_text().splitlines()] if out.exists() else []
    out.with_suffix(".env.jsonl").write_text(json.dumps({"env_id": "e", "board": "none"}) + "\n")
    fails = (out.parent / f"fail_{cycle}").exists()
    for task in range(1, args.limit + 1):
        for level in args.levels:
            key = hashlib.sha256(f"{out.name} {task} {level} {args.seed}".encode()).hexdigest()
            if key in done:
                continue
            interrupt_conductor(out, len(done), stopped)
            wait_for_go(out, len(done), stopped)
            if stopped:
                return 130
            append(out, record(key, task, level, args, fails))
            done.append(key)
    return 1 if fails else 0


def wait_for_go(out: Path, runs: int, stopped: list[int]) -> None:
    """With `pace`, run N of a cycle waits until go_CYCLE_N is there."""
    go = out.parent / f"go_{out.stem}_{runs + 1}"
    while (out.parent / "pace").exists() and not go.exists() and not stopped:
        time.sleep(0.02)


def interrupt_conductor(out: Path, runs: int, stopped: list[int]) -> None:
    """With the order, as if the user had pressed Ctrl-C before run N; the conductor then stops us."""
    order = out.parent / f"interrupt_{out.stem}_{runs + 1}"
    if order.exists():
        order.unlink()
        os.kill(os.getppid(), signal.SIGINT)
        while not stopped:
            time.sleep(0.02)


def record(key: str, task: int, level: str, args: argparse.Namespace, fails: bool) -> dict:
    noise = int(key[:6], 16) / 16**6
    tokens = 10 * task + (5 if level == "P" else 0)
    return {
        "schema_version": 1, "run_key": key, "id": task, "category": "writing", "level": level, "turn": 1,
        "repeat": 1, "model_id": Path(args.models[0]).stem, "quantization": "F32", "prompt_tokens": 50,
        "completion_tokens": tokens, "latency_ms": 100.0 * task + noise, "ttft_ms": 10.0 + noise,
        "energy_joule": 2.0 * tokens + noise, "power_mw_mean": 5000.0, "temp_max_c": 50.0, "seed": args.seed,
        "power_source": "replay", "flags": [], "output_text": f"An answer to task {task} at {level}.",
        "error": {"type": "made", "message": "made to fail"} if fails else None,
    }  # fmt: skip


def append(out: Path, line: dict) -> None:
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
