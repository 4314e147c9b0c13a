"""llama-completion, llama.cpp's text tool, or an older llama-cli."""

from __future__ import annotations

import re
from typing import Any

from edgebench.backends.engines.engine import Asked, Command, Done, Engine, Failed, Job, Missing, log_row
from edgebench.backends.engines.llama_cpp_tools import LLAMA_CPP, help_of, layers, tool

TOKEN_LINE = re.compile(r"^\S*(?: I)?\s+(\d+) -> '", re.M)  # --verbose-prompt, with or without log prefix


def completion_commands(job: Job, asked: Asked) -> list[Command]:
    program = tool(asked, "llama-completion", "llama-cli")
    flags = help_of(program)
    if "no-cnv" not in flags and "no-conversation" not in flags:
        raise Missing(f"{program} only chats; {LLAMA_CPP.format(name='llama-completion')}")
    fresh = ["-fa", job["flash_attn"]] if "'auto'" in flags or "on|off|auto" in flags else []
    argv = [
        program, "-m", job["model"], "-f", asked.file("prompt.txt"), "--no-escape",
        "-no-cnv", "--no-display-prompt", "--verbose-prompt", "--ignore-eos", "--temp", "0",
        "--repeat-penalty", "1.0", "-n", str(job["max_tokens"]), "-c", str(job["n_ctx"]),
        "-t", str(job["n_threads"]), "-ngl", layers(job), *fresh,
    ]  # fmt: skip
    return [Command(tuple(argv))]


def read_completion(job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    row, told = log_row(done[0]), done[0].stderr + done[0].stdout
    read_ids = [int(one) for one in TOKEN_LINE.findall(told)]
    if read_ids and read_ids != job["prompt_ids"]:
        raise Failed(
            f"it read {len(read_ids)} prompt tokens that are not the job's {job['prompt_tokens']};"
            " choose --prompt_format raw"
        )
    names = (
        "device",
        "build",
        "prompt_tokens",
        "prefill_tok_per_s",
        "decode_tok_per_s",
        "ttft_ms",
        "tpot_ms",
    )
    notes = [] if read_ids else ["which prompt tokens it read was not printed"]
    begun_s = next((at_s for at_s, line in done[0].marks if "generate: n_ctx" in line), None)
    # The figures come in one go when the last token is out.
    ended_s = next((at_s for at_s, line in done[0].marks if "print" in line), None)
    return {
        "spans_s": [(begun_s, ended_s)] if begun_s is not None and ended_s is not None else None,
        **{name: row[name] for name in names},
        # The first token is sampled from the prompt's evaluation and is no "run".
        "generated_tokens": (row["generated_tokens"] or 0) + 1,
        "text": done[0].stdout.split(" [end of text]")[0],
        "notes": [*notes, "TTFT without sampling and start-up: the engine's own clock"],
    }


ENGINE = Engine("llama-completion", completion_commands, read_completion)
