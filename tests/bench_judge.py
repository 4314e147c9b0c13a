"""By hand: how fast judge_pairs.py is against the ideal, and what a call costs in CPU time.

    python tests/bench_judge.py                      # 200 ms a reply, 20 calls per worker, N = 1, 4, 16, 64
    python tests/bench_judge.py --latency_ms 20 --calls 1600 --workers 16

The judge is an asyncio server in a process of its own, as light as Python has them (--be_stub). "ideal" is
calls / N x latency; "wall" is the asker from its first request to its last reply (journal on disk), "all" the
whole command with start-up, plan, CSV and table. The stub shares this machine's cores: its CPU is given
apart, its queueing is in the wall time.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
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


class Stub:
    """Answers A after the latency; tells at the end of stdin what it has seen."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.in_flight = self.most_in_flight = 0
        self.first_s, self.last_s = 0.0, 0.0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        choice = {"message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"}
        data = json.dumps({"model": "stub", "choices": [choice], "usage": {"prompt_tokens": 1000}}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(asked.split(b"content-length: ")[1].split(b"\r\n")[0]))
                self.first_s = self.first_s or time.monotonic()
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                await asyncio.sleep(self.latency_s)
                self.in_flight -= 1
                writer.write(head.encode() + data)
                self.last_s = time.monotonic()
        writer.close()

    async def serve(self) -> None:
        server = await asyncio.start_server(self.converse, "127.0.0.1", 0, backlog=512)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        print(json.dumps(vars(self) | {"cpu_s": time.process_time()}), flush=True)


def one(latency_ms: float, workers: int, calls: int) -> None:
    stub_command = [sys.executable, __file__, "--be_stub", "--latency_ms", str(latency_ms)]
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
        f" (stub: {1000 * told['cpu_s'] / calls:.2f})"
        f"  most in flight {told['most_in_flight']}  load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency_ms", type=float, default=200.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--calls", type=int, help="default: 20 per worker")
    parser.add_argument("--be_stub", action="store_true", help="be the judge, for another of these")
    args = parser.parse_args()
    if args.be_stub:
        asyncio.run(Stub(args.latency_ms / 1000).serve())
        return
    for workers in args.workers:
        one(args.latency_ms, workers, args.calls or 20 * workers)


if __name__ == "__main__":
    main()
