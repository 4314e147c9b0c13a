"""Runs a command that prints power lines and stamps each line with the monotonic clock as it is read.

It stands between the sampler and its feed, as a process of its own: a busy Python there cannot delay a stamp,
and the feed never outlives its reader. Started with the seconds of silence that are a failure, and the
command. Prints `SECONDS LINE`, seconds of time.monotonic(), and between them, when there is something to say,

  SECONDS # feed_restarted: REASON    the command died or fell silent after it had worked, and runs again
  SECONDS # stale_power: REASON       nothing but the date has changed in its lines for ten seconds
  SECONDS # feed_ended: REASON        it failed twice within a minute, or never worked

It ends, and ends the command and all that the command started, when its standard input (a pipe) closes, when
nobody reads its output, when its parent ends, on SIGTERM and on Ctrl-C. If it is killed itself, the kernel
kills the command.
"""

from __future__ import annotations

import functools
import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from edgebench.shell import lifeline

HEALTHY_S = 60.0  # a command that ran this long has earned its restart back
START_S = 10.0  # a command may take as long to its first byte: a busy board starts an interpreter in seconds
GRACE_S = 0.1  # from SIGTERM to SIGKILL
CHUNK_BYTE = 65_536  # also the longest line kept
STALE_S, STALE_LINES = 10.0, 20  # idle boards do not freeze: some temperature or load always moves
DATE = re.compile(rb"^\d\d-\d\d-\d{4} \d\d:\d\d:\d\d ")


class ReaderGone(Exception):
    """Nobody wants the lines any more."""


def stamped(t_s: float, lines: Sequence[bytes], before_s: float, silent_s: float) -> bytes:
    """Lines of one read with their times. Several at once: we were late, they came evenly until now.

    >>> stamped(10.0, [b"a", b"b"], 9.8, 2.0)
    b'9.900000000 a\\n10.000000000 b\\n'
    """
    # No line before, or too long ago to have been evenly paced: they came together.
    step_s = (t_s - before_s) / len(lines) if t_s - before_s < silent_s else 1e-6
    times_s = (t_s - (len(lines) - k) * step_s for k in range(1, len(lines) + 1))
    return b"".join(b"%.9f %s\n" % pair for pair in zip(times_s, lines, strict=True))


def emit(data: bytes) -> None:
    """Write to standard output at once; ReaderGone when nobody reads it."""
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except BrokenPipeError as exc:
        raise ReaderGone from exc


class Orders:
    """What ends us: our reader's end of standard input, its death, SIGTERM and Ctrl-C.

    Signals are only noted, and seen while we wait for the command. A handler that raised could do so between
    the start of the command and the first line that would end it.
    """

    def __init__(self) -> None:
        self._noted, noting = os.pipe()
        os.set_blocking(noting, False)
        signal.set_wakeup_fd(noting)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # By hand standard input is a terminal, or /dev/null, which always looks closed: only a pipe tells.
        self._has_pipe = stat.S_ISFIFO(os.fstat(0).st_mode)
        self._parent = os.getppid()

    def descriptors(self) -> tuple[int, ...]:
        """Where to wait for them."""
        return (self._noted, 0) if self._has_pipe else (self._noted,)

    def obey(self, ready: set[int]) -> None:
        """ReaderGone or KeyboardInterrupt if we are to end."""
        if self._noted in ready and signal.SIGINT in os.read(self._noted, CHUNK_BYTE):
            raise KeyboardInterrupt
        if self._noted in ready:
            raise ReaderGone
        if self._has_pipe and 0 in ready and not os.read(0, CHUNK_BYTE):
            raise ReaderGone
        # A forked copy of a killed reader may still hold the pipe open: then only the parent's number tells.
        if self._has_pipe and os.getppid() != self._parent:
            raise ReaderGone


def reads(out: int, silent_s: float, orders: Orders) -> Iterator[tuple[float, bytes]]:
    """Yield (t_s, bytes) from the command; b'' last if it ends, nothing more if it is silent for too long.

    It may take START_S to its first byte: on a board that is busy, the start of an interpreter takes seconds.
    """
    began_s, has_spoken = time.monotonic(), False
    poller = select.poll()
    for descriptor in (out, *orders.descriptors()):
        poller.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(1000 * silent_s)}
        orders.obey(ready)
        if not ready and (has_spoken or time.monotonic() - began_s >= START_S):
            return
        if out in ready:
            chunk = os.read(out, CHUNK_BYTE)
            yield time.monotonic(), chunk
            if not chunk:
                return
            has_spoken = True


class Stuck:
    """Whether a feed prints the same again and again: a sensor that hangs, a reader of old values."""

    def __init__(self) -> None:
        self._line, self._since_s, self._count = b"", 0.0, 0

    def since(self, t_s: float, lines: Sequence[bytes]) -> float:
        """For how long, in seconds, nothing but the date has changed."""
        words = DATE.sub(b"", lines[-1])
        same = words == self._line
        self._count = self._count + 1 if same else 0
        self._line, self._since_s = words, self._since_s if same else t_s
        return t_s - self._since_s if self._count >= STALE_LINES else 0.0


def forward(out: int, silent_s: float, orders: Orders) -> tuple[int, str]:
    """Stamp and pass on whole lines until the command ends or is silent; (lines, what happened)."""
    count, rest, before_s, stuck = 0, b"", -1e9, Stuck()
    patience_s = max(silent_s, START_S)
    for t_s, chunk in reads(out, silent_s, orders):
        if not chunk:
            return count, "ended"
        patience_s = silent_s
        *lines, rest = (rest[-CHUNK_BYTE:] + chunk).split(b"\n")
        if lines:
            emit(stamped(t_s, lines, before_s, silent_s))
            count, before_s = count + len(lines), t_s
            if (same_s := stuck.since(t_s, lines)) > STALE_S:
                emit(b"%.9f # stale_power: the same line for %.0f s\n" % (t_s, same_s))
    return count, f"printed nothing for {patience_s:g} s"


def linger(child: subprocess.Popen[bytes]) -> None:
    """Give a command whose output just closed the time to reach its own exit code.

    It is looked at, not reaped: a reaped process no longer holds its number, and it is ended by number.
    """
    deadline_s = time.monotonic() + GRACE_S
    seen = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, child.pid, seen) is None and time.monotonic() < deadline_s:
        time.sleep(0.005)


def run_once(command: Sequence[str], silent_s: float, orders: Orders) -> tuple[int, str]:
    """Run the command to its end: (lines it printed, reason in words)."""
    with tempfile.TemporaryFile() as errors:
        try:
            # preexec_fn is safe here: this process has one thread. Not over a setuid program such as sudo;
            # there the closed pipe ends the command at its next line.
            child = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=functools.partial(lifeline.die_with_parent, signal.SIGKILL, os.getpid()),
            )
        except OSError as exc:
            return 0, f"cannot be run: {exc.strerror}"
        assert child.stdout
        try:
            count, reason = forward(child.stdout.fileno(), silent_s, orders)
            if reason == "ended":
                linger(child)
        finally:
            lifeline.end_group(child, GRACE_S)
            child.stdout.close()
        if reason == "ended":
            reason = f"ended with exit code {child.returncode}"
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
        words = errors.read().decode("utf-8", "replace").strip().splitlines()
    return count, f"{reason}: {words[-1]}" if words else reason


def keep(command: Sequence[str], silent_s: float, orders: Orders) -> None:
    """Run the command, once more if it fails after having worked, and say so in the stream."""
    restarts = 1
    while True:
        born_s = time.monotonic()
        count, reason = run_once(command, silent_s, orders)
        restarts = 1 if time.monotonic() - born_s > HEALTHY_S else restarts
        word = "feed_restarted" if count and restarts else "feed_ended"
        emit(f"{time.monotonic():.9f} # {word}: {reason}\n".encode())
        if word == "feed_ended":
            return
        restarts -= 1


def main() -> int:
    """Keep the command of the command line."""
    silent_s, *command = sys.argv[1:]
    try:
        keep(command, float(silent_s), Orders())
    except ReaderGone:
        return 0
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
