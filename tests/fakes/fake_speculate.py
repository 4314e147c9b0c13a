#!/usr/bin/env python3
"""Stands in for a cell of a sweep: takes its flags, writes a result of its format, decodes nothing.

FAKE_SPECULATE (JSON in the environment): {"seconds": 0.2} per batch; "fail": a part of --out's name for which
it ends with an error; "hang": the same for a run that never ends; "log": a file that gets a line per start.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("model", "draft", "drafter", "prompts", "levels", "adaptive", "prompt_format", "compare"):
        parser.add_argument(f"--{flag}")
    for flag in (
        "requests",
        "max_tokens",
        "draft_tokens",
        "batches",
        "warmup",
        "seed",
        "n_ctx",
        "n_gpu_layers",
    ):
        parser.add_argument(f"--{flag}", type=int)
    for flag in ("temperature", "threshold", "idle_seconds"):
        parser.add_argument(f"--{flag}", type=float)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    play = {"seconds": 0.05, **json.loads(os.environ.get("FAKE_SPECULATE", "{}"))}
    name = args.out.name
    if play.get("log"):
        with Path(play["log"]).open("a") as log:
            print(name, file=log)
    if play.get("fail") and play["fail"] in name:
        sys.exit("error: the drafter has another vocabulary; give --draft a model of the same family")
    if play.get("hang") and play["hang"] in name:
        time.sleep(600)
    began_s = time.monotonic()
    time.sleep(args.idle_seconds or 0)
    idle = {"t0_s": began_s, "t1_s": time.monotonic()} if args.idle_seconds else None
    draw = random.Random(name)
    factor = 1.0 if args.plain else 0.6
    results, plain = [], []
    for batch in range(args.batches):
        t0_s = time.monotonic()
        time.sleep(play["seconds"])
        outputs = [
            {
                "id": request,
                "token_ids": list(range(args.max_tokens)),
                "text": "",
                "ttft_ms": 5.0,
                "latency_ms": 100.0 * factor * (1 + request / 10) * draw.uniform(0.98, 1.02),
                "steps": 10,
                "drafted": 0 if args.plain else 40,
                "accepted": 0 if args.plain else 20,
                "stopped": 0 if args.plain else 3,
                "checks": 0 if args.plain else 40,
                "first_difference": None if request else (None if args.plain else 7),
                "finish_reason": "length",
            }
            for request in range(args.requests)
        ]
        if not args.plain and (batch == 0 or args.compare == "every"):
            beside = [
                {"id": n, "latency_ms": 100.0 * (1 + n / 10), "token_ids": [1]} for n in range(args.requests)
            ]
            plain.append({"batch_index": batch, "outputs": beside})
        results.append(
            {
                "nwor_mode": "vanilla"
                if args.plain
                else f"adaptive={args.adaptive},threshold={args.threshold}",
                "scv_mode": "off",
                "batch_index": batch,
                "latency_s": sum(output["latency_ms"] for output in outputs) / 1000,
                "t0_s": t0_s,
                "t1_s": time.monotonic(),
                "outputs": outputs,
                "sampling_params": {"temperature": args.temperature, "max_tokens": args.max_tokens},
            }
        )
    latencies = sorted(result["latency_s"] for result in results)
    total = args.requests * args.batches
    mode = {
        "scv_mode": "off",
        "nwor_mode": results[0]["nwor_mode"],
        "batches": args.batches,
        "latency_avg_s": sum(latencies) / len(latencies),
        "latency_p50_s": statistics.median(latencies),
        "latency_p95_s": latencies[-1]
        if len(latencies) == 1
        else statistics.quantiles(latencies, n=20, method="inclusive")[-1],
        "spec_num_drafts": 0 if args.plain else 10 * total,
        "spec_num_draft_tokens": 0 if args.plain else 40 * total,
        "spec_num_accepted_tokens": 0 if args.plain else 20 * total,
        "spec_avg_accepted_per_window": None if args.plain else 2.0,
        "spec_acceptance_ratio": None if args.plain else 0.5,
        "tokens_stopped_by_confidence": 0 if args.plain else 3 * total,
        "total_confidence_checks": 0 if args.plain else 40 * total,
        "ncu_metrics": {},
        "ttft_avg_ms": 5.0,
        "decode_tok_per_s": 50.0,
        "accept_by_position": [] if args.plain else [0.8, 0.6, 0.4],
        "draft_length_histogram": {} if args.plain else {"4": 10 * total},
        "energy": None,
    }
    config = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    document = {"config": config, "summary": {"per_mode": [mode]}, "results": results, "plain": plain}
    document["idle"] = idle
    part = args.out.with_name(f".{name}.tmp")
    part.write_text(json.dumps(document))
    part.replace(args.out)


if __name__ == "__main__":
    main()
