#!/usr/bin/env python3
"""What the collector's own code costs, measured side by side with the engine's llama-bench.

Interleaved rounds on one model: llama-bench (tg at a depth), then a run of companions/engine_worker.py with a
prompt of the same depth. Prints the ratio of the decode rates (goal: at least 0.97), the in-run overhead
(wall - engine) / wall (goal: at most 1.5 %), the overhead per token at 2,048 output tokens (goal: at most
0.3 ms: no quadratic cost), and the decode rate with the power sampler on against off (goal: within 1 %).

Example:
    python models/make_demo_model.py --outdir /tmp/m --size medium --arch llama --type Q8_0 --mode never
    python tests/bench_collect.py --model /tmp/m/medium-llama-Q8_0.gguf --llama_bench path/to/llama-bench
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """One engine process, asked line by line."""

    def __init__(self, model: str, n_ctx: int, threads: int) -> None:
        command = [sys.executable, str(ROOT / "edgebench/engine/single.py")]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask(op="open", model=model)
        self.ask(op="load", n_ctx=n_ctx, n_batch=2048, n_ubatch=512, n_threads=threads, flash_attn="off",
                 kv_type="f16", n_gpu_layers=-1)  # fmt: skip

    def ask(self, **request: object) -> dict:
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        assert answer["ok"], answer
        return answer

    def run(self, text: str, max_tokens: int) -> dict:
        prompt = {"messages": [{"role": "user", "content": text}], "format": "raw"}
        return self.ask(op="run", prompt=prompt, max_tokens=max_tokens, temperature=0, seed=0)["record"]

    def text_of(self, tokens: int) -> str:
        """A text of so many tokens, found by asking."""
        words = 1
        while True:
            text = " the" * words
            count = self.ask(
                op="count", prompt={"messages": [{"role": "user", "content": text}], "format": "raw"}
            )
            if count["prompt_tokens"] >= tokens:
                return text
            words += max(1, (tokens - count["prompt_tokens"]) // 2)


def llama_bench(binary: str, model: str, depth: int, tokens: int, threads: int) -> float:
    """Decode rate [tok/s] of one llama-bench repetition."""
    command = [binary, "-m", model, "-p", "0", "-n", str(tokens), "-d", str(depth), "-r", "1", "-o", "json"]
    command += ["-t", str(threads), "-fa", "0", "-ngl", "99"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]["avg_ts"]


def show(name: str, values: list[float], unit: str) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    print(f"{name:44} {statistics.median(values):10.3f} ± {spread:.3f} {unit} (n={len(values)})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama_bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    # As the collector does it, a context as long as the run needs: without flash attention the cache of a
    # longer one is read with longer strides.
    worker = Worker(args.model, 512, args.threads)
    text = worker.text_of(128)
    depth = worker.run(text, 2)["prompt_tokens"]
    ours, theirs, ratios, overhead = [], [], [], []
    for _ in range(args.rounds):
        record = worker.run(text, 128)
        ours.append(record["decode_tok_per_s"])
        overhead.append(record["overhead_ratio"] * 100)
        if args.llama_bench:
            theirs.append(llama_bench(args.llama_bench, args.model, depth, 128, args.threads))
            ratios.append(ours[-1] / theirs[-1])
    show("decode rate, collector", ours, "tok/s")
    if theirs:
        show("decode rate, llama-bench", theirs, "tok/s")
        show("ratio, interleaved", ratios, "")
    show("in-run overhead", overhead, "%")
    long = Worker(args.model, 2304, args.threads).run(text, 2048)
    engine_ms = long["latency_ms"] * (1 - long["overhead_ratio"])
    show("overhead per token at 2,048 tokens", [(long["latency_ms"] - engine_ms) / 2048], "ms")
    on, off = [], []
    feed = [sys.executable, str(ROOT / "tegrastats_sampler.py"), "record", "--seconds", "600"]
    feed += ["--source", f"replay:{ROOT / 'data/demo/power_replay.log'}", "--out", "/dev/null"]
    for _ in range(args.rounds):
        off.append(worker.run(text, 128)["decode_tok_per_s"])
        sampler = subprocess.Popen(feed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        on.append(worker.run(text, 128)["decode_tok_per_s"])
        sampler.terminate()
        sampler.wait()
    show("decode rate, sampler on ÷ off", [a / b for a, b in zip(on, off, strict=True)], "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
