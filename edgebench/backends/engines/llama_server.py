"""llama-server, llama.cpp's server over HTTP, driven by drive_server.py."""

from __future__ import annotations

from typing import Any

from edgebench.backends.engines.engine import Asked, Command, Done, Engine, Job, idle_flag, read_driver
from edgebench.backends.engines.llama_cpp_tools import layers, tool
from edgebench.shell.launch import room_command


def server_commands(job: Job, asked: Asked) -> list[Command]:
    argv = [
        *room_command("edgebench.backends.drive_server"), "--server", tool(asked, "llama-server"),
        "--model", job["model"], "--ids", asked.file("prompt_ids.json"),
        "--max_tokens", str(job["max_tokens"]), "--n_ctx", str(job["n_ctx"]),
        "--n_threads", str(job["n_threads"]), "--n_gpu_layers", layers(job),
        "--flash_attn", job["flash_attn"], "--warmup", str(asked.warmup), "--timeout", str(asked.timeout_s),
    ]  # fmt: skip
    return [Command((*argv, *idle_flag(asked)))]


def read_server(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    found = read_driver(done[0])
    found["notes"] = ["the client's clock: HTTP and scheduling included"]
    return found


ENGINE = Engine("llama-server", server_commands, read_server, idles_by_itself=True)
