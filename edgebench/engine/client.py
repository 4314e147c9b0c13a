#!/usr/bin/env python3
"""Keeps one model's engine process alive: starts it, loads, warms up, and survives its death.

Between the collector and companions/engine_worker.py. The worker does the work
and may crash, be killed for memory or hang; this process notices, answers the
request with an error that carries the engine's last words, and starts a fresh
worker for the next one.

The first line on stdin says what to keep:
  {"model": "a.gguf", "load": {"n_ctx": 4096, …}, "warm_up": PROMPT, "run_timeout": 900}
Every further line is a request; each gets one JSON line on stdout:
  {"op": "start"}                load and warm up now -> n_ctx, load_ms, offloaded, engine_log
  {"op": "run", …}, {"op": "prefill", …}, {"op": "board"}
                                 handed to the worker, loaded first if need be
  {"op": "cool", "to_c": 60}     wait until the hottest zone is down to it, ten minutes at most
A failure is {"ok": false, "error": {"type", "message"}} with type model_load,
engine_crash, timeout, or the worker's own.

Example:
  echo '{"model": "models/demo/demo-llama-F32.gguf", "load": {}, "warm_up": null, "run_timeout": 60}' \\
      | python companions/engine_keeper.py
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.shell.launch import room_command

WORKER = "edgebench.engine.single"
LAST_WORDS = 12  # lines of the engine's log that an error carries
COOL_LIMIT_SECONDS = 600
WARM_UP_TOKENS = 8
PR_SET_PDEATHSIG = 1


class WorkerFailed(Exception):
    """The worker crashed, hung or could not load."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def die_with_parent() -> None:
    """Linux: be killed when the parent dies, even by SIGKILL: an orphan would hold the board's memory."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


class Worker:
    """One engine process."""

    def __init__(self) -> None:
        self.log: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        self.child = subprocess.Popen(
            room_command(WORKER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Safe here: the thread that listened to the worker before this one has ended.
            preexec_fn=die_with_parent,
        )
        self.unread = b""
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self) -> None:
        """Keep the last lines of the engine's log; an unread pipe would fill up and block it."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log.append(line.decode("utf-8", "replace").rstrip())

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer; WorkerFailed on a crash or past the timeout."""
        assert self.child.stdin is not None and self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps(request).encode() + b"\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise self.death() from None
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self.unread:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([self.child.stdout], [], [], left_s)[0]:
                raise WorkerFailed(
                    "timeout", f"no answer within {timeout_s:g} s; raise --run_timeout to wait longer"
                )
            data = os.read(self.child.stdout.fileno(), 1 << 16)
            if not data:
                raise self.death()
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def death(self) -> WorkerFailed:
        """How the process ended, with the engine's last words."""
        code = self.child.wait()
        self.listener.join(1)
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (out of memory? sudo dmesg | tail tells)"
        return WorkerFailed(
            "engine_crash", f"the engine's process {how}; its log: {' | '.join(self.log) or 'empty'}"
        )

    def end(self) -> None:
        """Kill the process and wait until its memory is free again."""
        self.child.kill()
        self.child.wait()
        self.listener.join()


class Keeper:
    """The worker of now, if any, and what it has loaded."""

    def __init__(self, model: str, load: Mapping[str, Any], warm_up: Any, run_timeout: float) -> None:
        self.model, self.load, self.warm_up, self.run_timeout = model, load, warm_up, run_timeout
        self.worker: Worker | None = None
        self.loaded: dict[str, Any] = {}

    def started(self) -> Worker:
        """The loaded worker; a new one is started, loaded and warmed up if there is none.

        The warm-up is discarded: it is the first to touch the file's pages, the kernels and the buffers.
        """
        if self.worker is not None:
            return self.worker
        self.worker = Worker()
        self.loaded = {}
        warm = {"prompt": self.warm_up, "max_tokens": WARM_UP_TOKENS, "temperature": 0, "seed": 0}
        for request in (
            {"op": "open", "model": self.model},
            {"op": "load", **self.load},
            {"op": "run", **warm},
        ):
            try:
                answer = self.worker.ask(request, self.run_timeout)
            except WorkerFailed as failed:
                raise WorkerFailed("model_load", f"{self.model}: {failed}") from failed
            if request["op"] == "run":  # where the prompt does not fit, its own run will say so
                break
            if not answer["ok"]:
                raise WorkerFailed("model_load", answer["error"]["message"])
            self.loaded |= answer
        found = re.search(r"offloaded (\d+/\d+)", " ".join(self.loaded["engine_log"]))
        self.loaded["offloaded"] = found[1] if found else None
        return self.worker

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request; whatever happens to the worker becomes an answer."""
        try:
            worker = self.started()
            if request["op"] == "start":
                return {"ok": True, **self.loaded}
            if request["op"] == "cool":
                return self.cool(worker, request["to_c"])
            return worker.ask(request, self.run_timeout)
        except WorkerFailed as failed:
            self.end()
            return {"ok": False, "error": {"type": failed.kind, "message": str(failed)}}

    def cool(self, worker: Worker, to_c: float) -> dict[str, Any]:
        """Wait for the hottest zone to come down; where there is no sensor, say so."""
        until_s = time.monotonic() + COOL_LIMIT_SECONDS
        while True:
            temp_c = worker.ask({"op": "board"}, self.run_timeout)["temp_c"]
            if temp_c is None:
                message = "this machine shows no temperature; give --cooldown in seconds"
                return {"ok": False, "error": {"type": "no_temperature", "message": message}}
            if temp_c <= to_c or time.monotonic() > until_s:
                return {"ok": True, "temp_c": temp_c}
            time.sleep(1)

    def end(self) -> None:
        """End the worker, if there is one."""
        if self.worker is not None:
            self.worker.end()
        self.worker = None


def leave(*_: Any) -> None:
    """SIGTERM: go through every `finally`, which ends the worker and waits until its memory is free."""
    sys.exit(0)


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: requests come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer requests until stdin ends."""
    build_parser().parse_args(argv)
    die_with_parent()
    # Ctrl-C in a terminal reaches the whole group; the collector decides what to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    first = sys.stdin.readline()
    if not first:
        return 0
    try:
        keeper = Keeper(**json.loads(first))
    except (TypeError, ValueError) as exc:
        print(f"error: the first line must say what to keep, see --help ({exc})", file=sys.stderr)
        return 1
    try:
        for line in sys.stdin:
            print(json.dumps(keeper.answer(json.loads(line))), flush=True)
    finally:
        keeper.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
