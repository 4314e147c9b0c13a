"""Becomes a program that is not ours, armed to end with the process that started it (see shell/lifeline.py).

The launcher has armed this process before this module runs. Words: the descriptor that reports an error
number, `become` or `tree`, the command. `become` is replaced by the program. `tree` stays as its guard: the
program and all that it starts, also what leaves its session, is killed when the guard gets SIGUSR1, which is
also the signal that the kernel sends at the death of the guard's parent. Other signals are passed on to the
program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from edgebench.shell.lifeline import die_with_parent, processes

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2}
WATCHED = {*PASSED_ON, signal.SIGUSR1, signal.SIGCHLD}
CANNOT_RUN = 127


def restore_signals() -> None:
    """Python ignores these, and what is ignored stays ignored over exec: `yes | head` would never end."""
    for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def report(descriptor: int, error: OSError) -> NoReturn:
    """Tell the parent the error's number and leave."""
    os.write(descriptor, str(error.errno or 0).encode())
    os._exit(CANNOT_RUN)


def descendants() -> list[int]:
    """Numbers of all processes below this one.

    Those whose own parent has ended are below us: we are their reaper.
    """
    below: dict[int, list[int]] = {}
    for status in processes():
        if status.state not in "ZX":
            below.setdefault(status.parent, []).append(status.pid)
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = below.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def kill_all() -> None:
    """Kill everything below this process; what starts meanwhile is found at the next look."""
    not_ours: set[int] = set()  # runs as another user
    while left := [pid for pid in descendants() if pid not in not_ours]:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                not_ours.add(pid)
        reap()


def reap() -> dict[int, int]:
    """Process number -> status of what has ended since the last call."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            ended[pair[0]] = pair[1]
    return ended


def guard(descriptor: int, command: Sequence[str]) -> NoReturn:
    """Run the command and end as it ends, with nothing left of it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    guardian = os.getpid()

    def arm() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        die_with_parent(signal.SIGKILL, guardian)

    try:
        # preexec_fn is safe here: this process has one thread.
        program = subprocess.Popen(command, preexec_fn=arm, close_fds=False)
    except OSError as error:
        report(descriptor, error)
    os.close(descriptor)
    while True:
        number = signal.sigwait(WATCHED)
        if number in PASSED_ON:
            # Not Popen's send_signal: it would reap the program's status away from us.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(program.pid, number)
        elif number == signal.SIGUSR1:
            kill_all()
            leave_as(signal.SIGKILL)
        elif (status := reap().get(program.pid)) is not None:
            kill_all()
            leave_as(status)


def leave_as(status: int) -> NoReturn:
    """End with the exit code or by the signal of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left its own
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


def main() -> None:
    """Become the command, or guard it."""
    descriptor, mode, *command = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    restore_signals()
    if mode == "tree":
        guard(int(descriptor), command)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        report(int(descriptor), error)


if __name__ == "__main__":
    main()
