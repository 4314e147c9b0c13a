"""llama-cpp-python: run_llamacpp_collect.py, this suite's collector, and the reference of the others."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from edgebench.backends.engines.engine import SETTLE_S, Asked, Command, Done, Engine, Failed, Job

COLLECTOR = Path(__file__).resolve().parents[3] / "run_llamacpp_collect.py"
BEFORE_RUN_S = 0.5  # of the collector, between its pause and its run: it reads the prompt and proves it
COLLECTOR_LINE = re.compile(r" task prompt L0: (.+)")  # a failed run of run_llamacpp_collect.py


def collector_commands(job: Job, asked: Asked) -> list[Command]:
    # One level, one repeat, no idle baseline: the comparison measures power for all engines alike.
    argv = [
        sys.executable, str(COLLECTOR), "--models", job["model"], "--prompts", asked.file("prompt.jsonl"),
        "--levels", "L0", "--prompt_format", job["prompt_format"], "--max_tokens", str(job["max_tokens"]),
        "--n_threads", str(job["n_threads"]), "--n_gpu_layers", str(job["n_gpu_layers"]),
        "--flash_attn", job["flash_attn"], "--source", "none", "--allow_cpu", "--fresh",
        "--out_jsonl", asked.file("collector.jsonl"),
    ]  # fmt: skip
    if asked.idle_s:  # the collector waits so long with the model loaded, just before its run
        argv += ["--cooldown", f"{SETTLE_S + asked.idle_s + BEFORE_RUN_S:g}"]
    return [Command(tuple(argv))]


def read_collector(job: Job, asked: Asked, _done: list[Done]) -> dict[str, Any]:
    lines = Path(asked.file("collector.jsonl")).read_text(encoding="utf-8").split("\n")
    record = json.loads([line for line in lines if line][-1])
    if record["error"]:
        raise Failed(record["error"]["message"])
    names = ("prompt_tokens", "prefill_tok_per_s", "decode_tok_per_s", "ttft_ms", "tpot_ms", "load_ms")
    idle = None
    if asked.idle_s:  # the collector waited so long with the model loaded, just before
        until_s = record["t0_s"] - BEFORE_RUN_S
        idle = {"t0_s": until_s - asked.idle_s, "t1_s": until_s}
    return {
        **{name: record[name] for name in (*names, "t0_s", "t1_s")},
        "idle": idle,
        "idle_method": "with the model resident, before the answer",
        "generated_tokens": record["completion_tokens"],
        "text": (record["reasoning_text"] or "") + record["output_text"],
        "notes": [f"offloaded {record['offloaded']} layers"] if record["offloaded"] else [],
    }


def cause_in(said: str) -> str | None:
    """Why its run failed, as it says it while it runs."""
    failed = COLLECTOR_LINE.findall(said)
    return str(failed[-1]) if failed else None


ENGINE = Engine("llama-cpp-python", collector_commands, read_collector, idles_by_itself=True)
