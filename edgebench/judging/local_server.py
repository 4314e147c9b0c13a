#!/usr/bin/env python3
"""Let a GGUF model on this machine answer a list of chat requests: a server of our own, for this list only.

Takes the same stdin and the same further flags as judging/asking.py, which it runs. Before that it starts the
engine's own OpenAI-compatible server (llama-cpp-python[server]) on a free loopback port, with a random key
and what judging needs: no logits kept, thinking off, and a context that holds the longest request, counted in
the model's own tokens. The server ends with the list, on a signal, or when this process is killed.

Example:
    echo '{"body": {"model": "judge", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}}' |
        python edgebench/__main__.py edgebench.judging.local_server --serve_model models/judge.gguf
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.shell import lifeline
from edgebench.shell.launch import room_command

LARGEST_N_CTX = 32768  # tokens; on an 8 GB board the KV cache of a 4B model fills the memory about there
STOP_SECONDS = 5.0  # for the server to end by itself
KEY_NAME = "JUDGE_SERVER_KEY"
CHAT_TOKENS = 128  # what a chat template adds around the messages, rounded up


class ServeError(UserError):
    """Something the user can put right: no engine, no model file, no room."""


def context_tokens(prompt_tokens: Sequence[int], max_tokens: int, largest: int = LARGEST_N_CTX) -> int:
    """The context for the longest prompt and its reply: a multiple of 256, as the engine pads it anyway.

    >>> context_tokens([1000, 3000], 256)
    3584
    >>> context_tokens([], 16)
    512
    """
    needed = max(prompt_tokens, default=0) + max_tokens + CHAT_TOKENS
    return min(largest, max(512, -(-needed // 256) * 256))


def count_tokens(model: Path, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt in the model's own vocabulary, all of it that is loaded. Raises ServeError."""
    try:
        import llama_cpp
        import uvicorn  # noqa: F401  the server's own need, told apart here
    except ImportError as exc:
        raise ServeError(
            f"{exc}; install the engine with its server: pip install 'llama-cpp-python[server]==0.3.36'"
        ) from exc
    if not model.is_file():
        raise ServeError(f"no such model file: {model} (--serve_model)")
    try:
        vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    except ValueError as exc:
        raise ServeError(f"{model} is no model the engine can load: {exc} (--serve_model)") from exc
    counts = [len(vocabulary.tokenize(prompt.encode("utf-8", "replace"))) for prompt in prompts]
    vocabulary.close()
    return counts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_settings(args: argparse.Namespace, port: int, n_ctx: int, key: str) -> dict[str, Any]:
    """The server's configuration. Its own default would keep all logits: n_ctx x vocabulary floats."""
    model = {
        "model": str(args.serve_model),
        "model_alias": "judge",
        "n_ctx": n_ctx,
        "n_gpu_layers": args.n_gpu_layers,
        "logits_all": False,
        "n_threads": os.cpu_count() or 1,  # its own default leaves half of the cores idle
        "n_threads_batch": os.cpu_count() or 1,
        "verbose": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    return {"host": "127.0.0.1", "port": port, "api_key": key, "interrupt_requests": False, "models": [model]}


def start_server(settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The server as a child. Its configuration holds the key: a private file, gone once it has been read."""
    # The server lets these variables overrule its configuration.
    env = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT", "CONFIG_FILE")}
    with tempfile.TemporaryDirectory(prefix="serve_judge_") as folder:  # readable by this user only
        config, log = Path(folder) / "server.json", Path(folder) / "server.log"
        config.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-m", "llama_cpp.server", "--config_file", str(config)]
        with log.open("wb") as out:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            child = lifeline.start(command, env=env, **pipes)
        try:
            wait_until_ready(child, settings)
        except BaseException:
            lifeline.end(child, STOP_SECONDS)
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
    return child


def wait_until_ready(
    child: subprocess.Popen[bytes], settings: dict[str, Any], timeout_s: float = 600.0
) -> None:
    """Return once the server lists its model. Raises ServeError where it ends instead."""
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


def read_requests() -> tuple[list[str], list[str]]:
    """The lines of stdin up to a blank one, and the texts they hold, one per request."""
    lines, texts = [], []
    for line in sys.stdin:
        if not line.strip():
            break
        lines.append(line)
        texts.append("\n".join(str(message["content"]) for message in json.loads(line)["body"]["messages"]))
    return lines, texts


def run_asker(lines: Sequence[str], flags: Sequence[str], port: int, key: str) -> int:
    """judging/asking.py over the lines. Its exit code; SIGTERM is passed on to it."""
    where = ["--lifeline", "--api_url", f"http://127.0.0.1:{port}/v1", "--api_key_env", KEY_NAME]
    command = [*room_command("edgebench.judging.asking"), *flags, *where]
    surroundings = {**os.environ, KEY_NAME: key}
    with lifeline.start(command, stdin=subprocess.PIPE, text=True, env=surroundings) as child:
        assert child.stdin
        try:
            child.stdin.writelines([*lines, "\n"])
            child.stdin.flush()
            return child.wait()
        except BrokenPipeError:
            return child.wait()
        except SystemExit:
            child.terminate()
            return child.wait()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve_model", type=Path, required=True, metavar="GGUF", help="model file")
    parser.add_argument("--n_ctx", type=int, help="context in tokens (default: what the requests need)")
    parser.add_argument(
        "--n_gpu_layers", type=int, default=-1, help="layers on the GPU, -1 for all (default: -1)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args, flags = build_parser().parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lifeline.die_with_parent()  # by hand, too: what the parent starts through the lifeline is armed already
    key, port = secrets.token_urlsafe(24), free_port()
    try:
        lines, texts = read_requests()
        longest = sorted(texts, key=len)[-3:]
        replies = [json.loads(line)["body"].get("max_tokens") or 256 for line in lines]
        n_ctx = args.n_ctx or context_tokens(
            count_tokens(args.serve_model, longest), max(replies, default=256)
        )
        server = start_server(server_settings(args, port, n_ctx, key))
        try:
            return run_asker(lines, flags, port, key)
        finally:
            lifeline.end(server, STOP_SECONDS)
    except ServeError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
