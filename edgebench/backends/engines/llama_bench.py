"""llama-bench, llama.cpp's benchmark: the same lengths, but tokens of its own."""

from __future__ import annotations

from typing import Any

from edgebench.backends.engines.engine import Asked, Command, Done, Engine, Job, log_row
from edgebench.backends.engines.llama_cpp_tools import help_of, layers, tool


def bench_commands(job: Job, asked: Asked) -> list[Command]:
    program = tool(asked, "llama-bench")
    flags = help_of(program)
    switch = {
        "on": "1",
        "off": "0",
        "auto": "auto" if "auto" in flags.partition("--flash-attn")[2][:60] else "0",
    }
    common = [
        program, "-m", job["model"], "-r", "1", "-o", "jsonl", "-t", str(job["n_threads"]),
        "-ngl", layers(job), "-fa", switch[job["flash_attn"]],
    ]  # fmt: skip
    # Decoding after a prompt as long as everyone's: an empty cache is read faster.
    depth = ["-d", str(job["prompt_tokens"])] if "--n-depth" in flags else []
    if "--progress" in flags:  # tells when the timed run begins, which its energy needs
        common.append("--progress")
    return [
        Command((*common, "-p", str(job["prompt_tokens"]), "-n", "0")),
        Command((*common, "-p", "0", "-n", str(job["max_tokens"]), *depth)),
    ]


def read_bench(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    prompt, answer = (log_row(one) for one in done)
    names = ("device", "build", "n_threads", "n_gpu_layers", "flash_attn", "generated_tokens")
    rate = answer["decode_tok_per_s"]
    begun_s = [next((at_s for at_s, line in one.marks if " run 1/1" in line), None) for one in done]
    took_s = (
        prompt["prompt_tokens"] / prompt["prefill_tok_per_s"],
        answer["generated_tokens"] / rate if rate else 0.0,
    )
    spans_s = [(t0_s, t0_s + s) for t0_s, s in zip(begun_s, took_s, strict=True) if t0_s is not None]
    return {
        "spans_s": spans_s if len(spans_s) == len(done) else None,
        **{name: answer[name] for name in names},
        "prompt_tokens": prompt["prompt_tokens"],
        "prefill_tok_per_s": prompt["prefill_tok_per_s"],
        "decode_tok_per_s": rate,
        "tpot_ms": 1e3 / rate if rate else None,
        "notes": ["decodes random tokens and samples none: no answer to compare, no first token to time"],
    }


ENGINE = Engine("llama-bench", bench_commands, read_bench)
