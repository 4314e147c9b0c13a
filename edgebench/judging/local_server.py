"""A judge on this machine: the engine's own OpenAI-compatible server over a GGUF model, for one run.

Started on a free loopback port with a random key and what judging needs: no logits kept, thinking off, and a
context that holds the longest request, counted in the model's own tokens. The server ends with the run, on a
signal, or when this process is killed. It gets no key of the user's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.engine.client import EngineFailure, EngineProcess, Message, Prompt
from edgebench.errors import UserError
from edgebench.judging.endpoint import Address
from edgebench.shell import lifeline
from edgebench.shell.launch import room_command

LARGEST_N_CTX = 32768  # tokens; on an 8 GB board the KV cache of a 4B model fills the memory about there
STOP_SECONDS = 5.0  # for the server to end by itself
SPARE_TOKENS = 128  # what another build of a chat template may add, rounded up
COUNTED_PROMPTS = 3  # the longest in characters; the longest in tokens is among them
INSTALL = "install the engine with its server: pip install 'llama-cpp-python[server]==0.3.36'"
# The server lets these variables overrule its configuration.
OVERRULING = ("HOST", "PORT", "CONFIG_FILE")


class ServeError(UserError):
    """Something the user can put right: no engine, no model file, no room."""


@dataclass(frozen=True)
class Served:
    """What to serve. n_ctx None: what the requests need."""

    model: Path
    n_ctx: int | None = None
    n_gpu_layers: int = -1  # -1 is all


def context_tokens(prompt_tokens: Sequence[int], max_tokens: int, largest: int = LARGEST_N_CTX) -> int:
    """The context for the longest prompt and its reply: a multiple of 256, as the engine pads it anyway.

    >>> context_tokens([1000, 3000], 256)
    3584
    >>> context_tokens([], 16)
    512
    """
    needed = max(prompt_tokens, default=0) + max_tokens + SPARE_TOKENS
    return min(largest, max(512, -(-needed // 256) * 256))


def check_engine(model: Path) -> None:
    """ServeError where the engine, its server or the model is not there."""
    for package in ("llama_cpp", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ServeError(f"there is no {package} here; {INSTALL}")
    if not model.is_file():
        raise ServeError(f"no such model file: {model} (--serve_model)")


def count_tokens(model: Path, bodies: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens of each request in the model's own vocabulary and chat template, all of it that is loaded."""
    try:
        with EngineProcess() as engine:
            engine.open(str(model))
            return [engine.count(prompt_of(body)).prompt_tokens for body in bodies]
    except EngineFailure as problem:
        if "not installed" in str(problem):
            raise ServeError(f"{problem}; {INSTALL}") from problem
        raise ServeError(f"{model} is no model the engine can load: {problem} (--serve_model)") from problem


def prompt_of(body: Mapping[str, Any]) -> Prompt:
    """The conversation of a request."""
    said = [(str(message["role"]), str(message["content"])) for message in body["messages"]]
    return Prompt(tuple(Message(role, text) for role, text in said))


def longest(bodies: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The requests to count: those of most characters."""
    return sorted(bodies, key=lambda body: sum(len(message["content"]) for message in body["messages"]))[
        -COUNTED_PROMPTS:
    ]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_settings(served: Served, port: int, n_ctx: int, key: str) -> dict[str, Any]:
    """The server's configuration. Its own default would keep all logits: n_ctx x vocabulary floats."""
    cores = os.cpu_count() or 1
    model = {
        "model": str(served.model),
        "model_alias": "judge",
        "n_ctx": n_ctx,
        "n_gpu_layers": served.n_gpu_layers,
        "logits_all": False,
        "n_threads": cores,  # its own default leaves half of the cores idle
        "n_threads_batch": cores,
        "verbose": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    return {"host": "127.0.0.1", "port": port, "api_key": key, "interrupt_requests": False, "models": [model]}


@contextmanager
def serving(
    served: Served,
    bodies: Sequence[Mapping[str, Any]],
    key_variable: str | None = None,
    timeout_s: float = 120.0,
    connections: int = 4,
) -> Iterator[Address]:
    """The address of a server that can answer `bodies`, as long as the block runs. ServeError.

    `key_variable`: the variable of a key that nobody needs here; `timeout_s`: of a reply.
    """
    check_engine(served.model)
    if key_variable:  # an endpoint's, which is not asked: no child is to have it
        os.environ.pop(key_variable, None)
    replies = [body.get("max_tokens") or 256 for body in bodies]
    n_ctx = served.n_ctx or context_tokens(
        count_tokens(served.model, longest(bodies)), max(replies, default=256)
    )
    key, port = secrets.token_urlsafe(24), free_port()
    gives_logprobs = any(body.get("logprobs") for body in bodies)
    server = start_server(server_settings(served, port, n_ctx, key), gives_logprobs)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        yield Address(url, key=key, timeout_s=timeout_s, connections=connections)
    finally:
        lifeline.end(server, STOP_SECONDS)


def start_server(settings: dict[str, Any], gives_logprobs: bool = False) -> subprocess.Popen[bytes]:
    """The server as a child. Its configuration holds the key: a private file, gone once it has been read.

    `gives_logprobs`: with the log probabilities of one token, as engine/last_logits.py has them. What the
    server says goes to a log, and is shown where it does not come up.
    """
    env = {name: value for name, value in os.environ.items() if name not in OVERRULING}
    with tempfile.TemporaryDirectory(prefix="serve_judge_") as folder:  # readable by this user only
        config, log = Path(folder) / "server.json", Path(folder) / "server.log"
        config.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-m", "llama_cpp.server", "--config_file", str(config)]
        if gives_logprobs:
            command = room_command("edgebench.engine.last_logits", "--config_file", str(config))
        with log.open("wb") as out:
            # A session of its own: Ctrl-C is the asker's to answer, who waits for what is on its way.
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            child = lifeline.start(command, env=env, start_new_session=True, **pipes)
        try:
            wait_until_ready(child, settings)
        except BaseException as problem:
            lifeline.end(child, STOP_SECONDS)
            if isinstance(problem, ServeError):  # after Ctrl-C nobody wants to know
                print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
    return child


def wait_until_ready(
    child: subprocess.Popen[bytes], settings: dict[str, Any], timeout_s: float = 600.0
) -> None:
    """Return once the server lists its model. ServeError where it ends instead."""
    request = urllib.request.Request(f"http://127.0.0.1:{settings['port']}/v1/models")
    request.add_header("Authorization", f"Bearer {settings['api_key']}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until_s = time.monotonic() + timeout_s
    while child.poll() is None and time.monotonic() < until_s:
        try:
            with opener.open(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServeError(f"the server did not come up (exit code {child.poll()}); its own lines above say why")
