"""A child that answers one JSON line with one JSON line, seen from the parent: the engine and its like."""

from __future__ import annotations

import collections
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.shell import lifeline

LAST_WORDS = 12  # lines of the child's log that an error carries
KEPT_LINES = 2000  # of the log, for whoever looks something up in it
KEPT_CAUSES = 4
# What a dying engine says of the reason, before dozens of lines of backtrace push it out of the last words.
# ggml and assert() give file, line and a message in any words; the C library names what was corrupted.
CAUSE = re.compile(
    r"\.(c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+: "
    r"|^(free|malloc|realloc|munmap_chunk)\(\)|^double free|^corrupted (size|double-linked)"
    r"|cannot open shared object file|fatal error|CUDA error|NvMapMemAlloc|cudaMalloc|CUBLAS_STATUS|vk::"
    r"|GGML_ASSERT|out of memory"
    r"|error loading model|(failed|unable) to (allocate|load|create|initialize)"
    r"|error while loading shared libraries|terminate called|what\(\):|Fatal Python error"
    r"|^\w*(Error|Exception)\b.*:"
)
FRAME = re.compile(r"\s*#\d+\s")  # of a debugger's backtrace; its arguments may quote the cause's format
READ_BYTE = 1 << 16


class WorkerFailed(Exception):
    """The child crashed (kind engine_crash), hung (timeout) or could not load its model (model_load)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def as_error(self) -> dict[str, str]:
        """The `error` of a record."""
        return {"type": self.kind, "message": str(self)}


class Log:
    """What a child says on stderr: its last lines, and the lines that name a cause whatever follows them."""

    def __init__(self) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.causes: collections.deque[str] = collections.deque(maxlen=KEPT_CAUSES)

    def add(self, line: str) -> None:
        """Keep one line."""
        self.lines.append(line)
        if CAUSE.search(line) and not FRAME.match(line):
            self.causes.append(line)

    def last_words(self) -> list[str]:
        """The causes, where they are not among the last lines, and the last lines."""
        last = list(self.lines)[-LAST_WORDS:]
        return [line for line in self.causes if line not in last] + last


class Worker:
    """One child process. It ends with this process, or by `end`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        what: str = "the engine's process",
        cure: str = "raise --run_timeout to wait longer",
        env: Mapping[str, str] | None = None,
        **popen_options: Any,
    ) -> None:
        """Start `command`; OSError where it cannot be run. `what` and `cure` are words for messages."""
        self.what = what
        self.cure = cure
        self.log = Log()
        # ggml's backtrace starts a debugger on the dying process, takes seconds, and hides the reason.
        surroundings = {**(os.environ if env is None else env), "GGML_NO_BACKTRACE": "1"}
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C in the terminal is the parent's to answer.
        self.child = lifeline.start(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            env=surroundings,
            **popen_options,
        )
        assert self.child.stdin is not None and self.child.stdout is not None
        self._requests = self.child.stdin.fileno()
        self._answers = self.child.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._unread = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the log; an unread pipe would fill up and block the child."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log.add(line.decode("utf-8", "replace").rstrip())

    def ask(self, request: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer, `timeout_s` seconds at most.

        WorkerFailed on a crash or past the timeout; the child is gone then.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._send(json.dumps(request).encode() + b"\n", until_s)
            return self._receive(until_s)
        except TimeoutError:
            self.end()
            raise WorkerFailed("timeout", f"no answer within {timeout_s:g} s; {self.cure}") from None
        except (BrokenPipeError, EOFError):
            raise self.death() from None

    def _send(self, data: bytes, until_s: float | None) -> None:
        """Write all of it; a long request may find a child that does not read.

        TimeoutError, BrokenPipeError.
        """
        while data:
            if not select.select([], [self._requests], [], _left_s(until_s))[1]:
                raise TimeoutError
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                continue

    def _receive(self, until_s: float | None) -> dict[str, Any]:
        """The next line that is a JSON object; what a library prints in between goes to the log.

        TimeoutError, or EOFError where the child has closed its output.
        """
        while True:
            line, ended, rest = self._unread.partition(b"\n")
            if ended:
                self._unread = rest
                answer = _object_of(line)
                if answer is not None:
                    return answer
                self.log.add(line.decode("utf-8", "replace").rstrip())
                continue
            if not select.select([self._answers], [], [], _left_s(until_s))[0]:
                raise TimeoutError
            data = os.read(self._answers, READ_BYTE)
            if not data:
                raise EOFError
            self._unread += data

    def death(self) -> WorkerFailed:
        """How the child ended, with its last words. Ends one that has only closed its output."""
        try:
            code = self.child.wait(1)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        self._listener.join(1)  # a grandchild may hold the pipe open
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (out of memory? sudo dmesg | tail tells)"
        words = " | ".join(self.log.last_words()) or "empty"
        return WorkerFailed("engine_crash", f"{self.what} {how}; its log: {words}")

    def end(self) -> None:
        """Kill the child and wait until its memory is free again."""
        lifeline.end(self.child)
        self._listener.join(1)
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def _left_s(until_s: float | None) -> float | None:
    return None if until_s is None else max(0.0, until_s - time.monotonic())


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
