"""By hand: how fast judge_pairs.py is against the ideal, and what a call costs in CPU time.

    python tests/bench_judge.py                      # 200 ms a reply, 20 calls per worker, N = 1, 4, 16, 64
    python tests/bench_judge.py --latency_ms 20 --calls 1600 --workers 16

The judge is tests/fakes/judge_stub.py in a process of its own. "ideal" is calls / N x latency; "wall" is the
asker from its first request to its last reply (journal on disk), "all" the whole command with start-up, plan,
CSV and table. The stub shares this machine's cores: its own CPU is not counted, its queueing is.
"""

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


def write_desk(folder: Path, calls: int) -> list[str]:
    """Questions and two answers each: two calls per question."""
    tasks = range(calls // 2)
    questions, runs = folder / "questions.jsonl", folder / "runs.jsonl"
    questions.write_text(
        "".join(json.dumps({"question_id": n, "turns": ["Why? " * 60]}) + "\n" for n in tasks)
    )
    answer = "Because of this and that. " * 70  # about as long as real answers: 4,000 characters a request
    records = [
        {"id": n, "model_id": "m", "level": level, "output_text": f"{answer} QUALITY={quality}"}
        for n in tasks
        for quality, level in enumerate(("L0", "P"))
    ]
    runs.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [
        "--questions",
        str(questions),
        "--runs_root",
        str(runs),
        "--model",
        "stub",
        "--out",
        str(folder / "s.csv"),
    ]


def one(latency_ms: float, workers: int, calls: int) -> None:
    stub_command = [
        sys.executable,
        str(ROOT / "tests/fakes/judge_stub.py"),
        "--latency_s",
        str(latency_ms / 1000),
    ]
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(stub_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stub,
    ):
        assert stub.stdin and stub.stdout
        url = stub.stdout.readline().strip()
        command = [sys.executable, str(ROOT / "judge_pairs.py"), *write_desk(Path(name), calls)]
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [*command, "--api_url", url, "--concurrency", str(workers)], capture_output=True, text=True
        )
        all_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        journal = (Path(name) / "s.journal.jsonl").read_text().splitlines()
        stub.stdin.close()
        told = json.loads(stub.stdout.readline())
    cpu_ms = 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    ideal_s, wall_s = calls / workers * latency_ms / 1000, told["last_s"] - told["first_s"]
    print(
        f"N {workers:3}  calls {len(journal):5}  ideal {ideal_s:6.2f} s  wall {wall_s:6.2f} s"
        f"  ratio {wall_s / ideal_s:.3f}"
        f"  all {all_s:6.2f} s  CPU {cpu_ms / calls:.2f} ms a call, start-up included"
        f"  most in flight {told['most_in_flight']}  load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency_ms", type=float, default=200.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--calls", type=int, help="default: 20 per worker")
    args = parser.parse_args()
    for workers in args.workers:
        one(args.latency_ms, workers, args.calls or 20 * workers)


if __name__ == "__main__":
    main()
