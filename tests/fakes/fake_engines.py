#!/usr/bin/env python3
"""Plays llama-bench, llama-completion and llama-server, by the name it is started under, in their forms.

A file FAKE beside it steers it: {"fail": text} ends it so (with "once": true only
its first start), {"hang": true} lets it wait, {"tokens": [...]} are
the ids it answers with, {"prompt_ids": [...]} those it says it has read.

Example: ln -s fake_engines.py llama-bench && ./llama-bench -p 5 -n 0
"""

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HERE = Path(sys.argv[0]).absolute().parent
STEER = json.loads((HERE / "FAKE").read_text()) if (HERE / "FAKE").is_file() else {}
HELP = "-fa, --flash-attn <on|off|auto>  -no-cnv, --no-conversation  -d, --n-depth <n>  --progress"


def bench(args: argparse.Namespace) -> None:
    row = {
        "build_commit": "0c1e570", "build_number": 1, "backends": "CPU", "model_type": "qwen3 ?B Q8_0",
        "n_threads": 1, "n_gpu_layers": -1, "flash_attn": -1, "n_prompt": args.p, "n_gen": args.n,
        "n_depth": args.d, "avg_ns": 7380678, "stddev_ns": 0, "avg_ts": 4335.6 if args.p else 2424.9,
        "stddev_ts": 0.0, "samples_ns": [7380678], "samples_ts": [4335.6],
    }  # fmt: skip
    phase = "prompt" if args.p else "generation"
    print(f"llama-bench: benchmark 1/1: {phase} run 1/1", file=sys.stderr, flush=True)
    time.sleep(STEER.get("seconds", 0))
    print(json.dumps(row))


def completion(args: argparse.Namespace) -> None:
    job = json.loads((Path(args.f).parent / "job.json").read_text())
    ids = STEER.get("prompt_ids", job["prompt_ids"])
    print("0.00.041.219 I generate: n_ctx = 256, n_batch = 2048", file=sys.stderr, flush=True)
    time.sleep(STEER.get("seconds", 0))
    print("\n" + STEER.get("text", job["reference_text"]) + "\n")
    lines = [f"0.00.023.600 I llama_completion: number of tokens in prompt = {len(ids)}"]
    lines += [f"0.00.023.630 I {one:6d} -> 'x'" for one in ids]
    lines += [
        "0.00.032.299 I common_perf_print: prompt eval time =       2.00 ms /    10 tokens"
        " (    0.20 ms per token,  5000.00 tokens per second)",
        f"0.00.032.318 I common_perf_print:        eval time =      10.00 ms /    {args.n - 1} runs   "
        f"(    0.48 ms per token,  {100 * (args.n - 1):.2f} tokens per second)",
    ]
    print("\n".join(lines), file=sys.stderr)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["ignore_eos"] and not asked["cache_prompt"] and asked["temperature"] == 0
        if STEER.get("http"):
            self.send_error(STEER["http"])
            return
        self.send_response(200)
        self.end_headers()
        for token in STEER["tokens"][: asked["n_predict"]]:
            event = {"content": "x", "tokens": [token], "stop": False}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            time.sleep(0.001)
        end = {"content": "", "tokens": [], "stop": True, "timings": {"prompt_ms": 1.0}}
        self.wfile.write(f"data: {json.dumps(end)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> int:
    if "--help" in sys.argv:
        print(HELP)
        return 0
    if STEER.get("hang"):
        (HERE / "PID").write_text(str(os.getpid()))
        time.sleep(600)
    if STEER.get("once"):
        (HERE / "FAKE").unlink()
    if "fail" in STEER:
        print(STEER["fail"], file=sys.stderr)
        return 1
    # Not argparse's own reading: it would take -ngl for -n.
    given = dict(zip(sys.argv, sys.argv[1:], strict=False))
    numbers = {flag.strip("-"): int(given.get(flag, 0)) for flag in ("-p", "-n", "-d", "--port")}
    args = argparse.Namespace(f=given.get("-f"), **numbers)
    name = Path(sys.argv[0]).name
    if name == "llama-server":
        HTTPServer(("127.0.0.1", args.port), Answers).serve_forever()
    {"llama-bench": bench, "llama-completion": completion}[name](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
