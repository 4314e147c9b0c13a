"""One cold, timed generation by llama.cpp's server over HTTP: token ids in, token ids with timestamps out.

Starts llama-server on a free port of this machine alone, waits until the model is loaded, sends --warmup
requests and then the timed one to /completion, streaming, sits still for --idle_seconds with the model
resident, and ends the server. The prompt goes as token ids,
the cached prefix is not used, the end of an answer is ignored, temperature is 0. The clock is the client's:
it holds what HTTP and the server's scheduling cost; the server's own times are beside it as server_timings.

Output: one JSON line with engine_version, load_ms, warmup [{ttft_ms, total_ms}], t0_s, stamps_s [s of
time.monotonic(), one per id], ids, text, server_timings, idle {t0_s, t1_s}; or error, with exit 1.

Example:
    echo '[1, 2, 3]' | python edgebench/__main__.py edgebench.backends.drive_server \\
        --model models/demo/demo-llama-F32.gguf
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from edgebench.backends.drive_tinygrad import sit_still
from edgebench.shell import lifeline

POLL_SECONDS = 0.05
END_SECONDS = 10  # a driver may take its time to give the memory back


class ServerError(Exception):
    """What the user can fix, or what the server said."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return " | ".join(lines[-3:])[-400:] or "it said nothing"


def wait_until_loaded(child: subprocess.Popen[bytes], port: int, log: IO[bytes], seconds: float) -> None:
    """Until /health says ok; ServerError with the server's last words if it ends, or is late."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        if child.poll() is not None:
            raise ServerError(f"the server ended with {child.returncode}: {last_words(log)}")
        try:
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(POLL_SECONDS)
    raise ServerError(f"the server has not loaded the model in {seconds:g} s; raise --timeout")


def complete(port: int, ids: Sequence[int], max_tokens: int, seconds: float) -> dict[str, Any]:
    """One request; a stamp per id, taken when the event that brought it has been read."""
    body = {
        "prompt": list(ids), "n_predict": max_tokens, "temperature": 0, "top_k": 1, "stream": True,
        "cache_prompt": False, "ignore_eos": True, "return_tokens": True, "seed": 0,
    }  # fmt: skip
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    payload = json.dumps(body).encode()
    out: list[int] = []
    stamps_s: list[float] = []
    text, told = "", {}
    t0_s = time.monotonic()
    link.request("POST", "/completion", payload, {"Content-Type": "application/json"})
    answer = link.getresponse()
    if answer.status != 200:
        raise ServerError(f"HTTP {answer.status}: {answer.read(400).decode('utf-8', 'replace')}")
    for line in answer:
        now_s = time.monotonic()
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise ServerError(f"the server broke off: {event['error']}")
        text += event.get("content", "")
        # A character of several tokens comes as one event: its tokens share a stamp. The last event, stop,
        # repeats none.
        fresh = event.get("tokens") or []
        out += fresh
        stamps_s += [now_s] * len(fresh)
        if event.get("stop"):
            told = event
            break
    link.close()
    if not out:
        raise ServerError("the server sent no token ids; it is too old for return_tokens: update llama.cpp")
    timings = told.get("timings")
    return {"t0_s": t0_s, "stamps_s": stamps_s, "ids": out, "text": text, "server_timings": timings}


def total_ms(run: dict[str, Any]) -> dict[str, float]:
    begin_s, stamps_s = run["t0_s"], run["stamps_s"]
    return {"ttft_ms": (stamps_s[0] - begin_s) * 1e3, "total_ms": (stamps_s[-1] - begin_s) * 1e3}


def drive(args: argparse.Namespace) -> dict[str, Any]:
    """Start, warm up, time, end."""
    ids = json.loads(args.ids.read_text() if args.ids else sys.stdin.read())
    port = free_port()
    command = [
        args.server, "--model", str(args.model), "--host", "127.0.0.1", "--port", str(port),
        "--ctx-size", str(args.n_ctx or len(ids) + args.max_tokens + 64), "--parallel", "1",
        "--threads", str(args.n_threads), "--n-gpu-layers", str(args.n_gpu_layers),
        "--flash-attn", args.flash_attn,
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        began_s = time.monotonic()
        try:
            child = lifeline.start(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        except OSError as exc:
            raise ServerError(f"{args.server} cannot be started: {exc.strerror}") from exc
        try:
            wait_until_loaded(child, port, log, args.timeout)
            load_ms = (time.monotonic() - began_s) * 1e3
            warm = [total_ms(complete(port, ids, args.max_tokens, args.timeout)) for _ in range(args.warmup)]
            timed = complete(port, ids, args.max_tokens, args.timeout)
            idle = sit_still(args.idle_seconds)
        except (OSError, http.client.HTTPException) as exc:
            raise ServerError(f"{type(exc).__name__}: {exc}; the server: {last_words(log)}") from exc
        finally:
            lifeline.end(child, END_SECONDS)  # its memory must be free before the next engine starts
    told = {"load_ms": load_ms, "prompt_tokens": len(ids), "warmup": warm, **timed}
    return {**told, "idle": idle, "command": command}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", metavar="FILE", default="llama-server", help="the program to start")
    parser.add_argument("--model", metavar="GGUF", type=Path, required=True, help="model file")
    parser.add_argument("--ids", metavar="FILE", type=Path, help="JSON list of token ids (default: stdin)")
    parser.add_argument("--max_tokens", metavar="N", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--n_ctx", metavar="N", type=int, help="(default: what prompt and answer need)")
    parser.add_argument("--n_threads", metavar="N", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--n_gpu_layers", metavar="N", type=int, default=999, help="(default: %(default)s)")
    parser.add_argument("--flash_attn", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--warmup", metavar="N", type=int, default=1, help="requests before (default: 1)")
    parser.add_argument(
        "--idle_seconds", metavar="S", type=float, default=0.0, help="sit still so long after it (default: 0)"
    )
    parser.add_argument("--timeout", metavar="S", type=float, default=600, help="(default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    # A killed parent sends SIGTERM: the server must not outlive us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told = drive(args)
    except (ServerError, OSError, ValueError) as exc:
        told = {"error": str(exc)}
        print(f"error: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    print(json.dumps(told), flush=True)
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main())
