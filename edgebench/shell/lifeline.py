"""Every process that we start ends when we end, also after kill -9 at any moment: the one way to start one.

`start` returns a Popen; `run` is subprocess.run's face over it; `end` and `end_group` end what was started.

How it holds (Linux): the child asks the kernel for a signal at its parent's death (prctl PR_SET_PDEATHSIG)
and then compares its parent's number with the one it was told, so that a parent killed between the fork and
that request is noticed, too. The child does so itself in the first lines that it runs: a Python function
between fork and exec (preexec_fn) may hang when the parent has threads. A room of ours is armed by the
launcher (edgebench/__main__.py); a foreign program by edgebench.shell.foreign, which then becomes the
program: the kernel keeps the request over exec, except for setuid programs such as sudo. So a chain of our
own processes falls link by link. What a foreign program starts by itself is reached with `tree=True`.

The kernel speaks of the parent's thread that forked, not of the process. So `start` forks from the main
thread, or from one thread that lasts as long as the process.

Elsewhere than on Linux a child is an ordinary one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgebench.shell.launch import LAUNCHER, room_command

PARENT = "EDGEBENCH_PARENT"  # environment variable, "PID SIGNAL", read and removed by the child's first lines
PR_SET_PDEATHSIG = 1  # linux/prctl.h
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows, where a judge may run, knows no SIGKILL
LOOK_AGAIN_S = 0.005  # between two looks at a process that is asked to end
Made = TypeVar("Made")


class Child(subprocess.Popen[Any]):
    """A process that ends with us."""

    is_tree = False  # what was started stands behind a guard, with all that it starts itself


# --- Starting ---


def start(
    command: Sequence[str | os.PathLike[str]],
    *,
    death_signal: int = KILL,
    tree: bool = False,
    env: Mapping[str, str] | None = None,
    **popen_options: Any,
) -> Child:
    """Start `command` so that it gets `death_signal` when this process ends, however it ends.

    The further options are Popen's, without preexec_fn, shell and executable. Raises OSError where the
    command cannot be run, as Popen does. `tree`: a guard stays between us and the command, in a session of
    its own, and kills the command and everything that it has started; for programs that start others.
    """
    forbidden = {"preexec_fn", "shell", "executable"} & popen_options.keys()
    if forbidden:
        raise TypeError(f"lifeline.start has no {', '.join(sorted(forbidden))}")
    words = [os.fspath(word) for word in command]
    if sys.platform != "linux":
        return Child(words, env=env, **popen_options)
    if tree:
        death_signal = signal.SIGUSR1  # the guard's order to end everything
        popen_options["start_new_session"] = True
    told = {**(os.environ if env is None else env), PARENT: f"{os.getpid()} {int(death_signal)}"}
    if not tree and str(LAUNCHER) in words[:3]:
        return _from_a_lasting_thread(lambda: Child(words, env=told, **popen_options))
    return _from_a_lasting_thread(lambda: _start_foreign(words, tree, told, popen_options))


def _start_foreign(
    words: Sequence[str], tree: bool, env: Mapping[str, str], popen_options: dict[str, Any]
) -> Child:
    """A foreign program, armed by edgebench.shell.foreign. Returns when it runs; OSError where it cannot."""
    receiving, sending = os.pipe()
    try:
        mode = "tree" if tree else "become"
        wrapped = room_command("edgebench.shell.foreign", str(sending), mode, *words, isolated=True)
        passed = (*popen_options.pop("pass_fds", ()), sending)
        child = Child(wrapped, env=env, pass_fds=passed, **popen_options)
    except BaseException:
        os.close(receiving)
        raise
    finally:
        os.close(sending)
    child.args, child.is_tree = list(words), tree
    try:
        with open(receiving, "rb") as report:  # noqa: PTH123  a descriptor, not a path
            number = report.read()  # ends when exec has closed the other end
    except BaseException:
        child.kill()
        child.wait()
        raise
    if number:
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        raise OSError(int(number), os.strerror(int(number)), words[0])
    return child


_lock = threading.Lock()
_lasting: list[Any] = []  # the executor of the one lasting thread, once it is needed


def _from_a_lasting_thread(make: Callable[[], Made]) -> Made:
    """Call `make` in the main thread, or in a thread that lasts as long as the process."""
    if threading.current_thread() is threading.main_thread():
        return make()
    with _lock:
        if not _lasting:
            from concurrent.futures import ThreadPoolExecutor

            _lasting.append(ThreadPoolExecutor(1, thread_name_prefix="lifeline"))
    made: Made = _lasting[0].submit(make).result()
    return made


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lasting.clear)  # threads do not survive a fork


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    input: str | bytes | None = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Start a command and wait for its end: subprocess.run, with a child that ends with us.

    `timeout` in seconds; past it the child is killed and subprocess.TimeoutExpired is raised.
    """
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = start(command, **options)
    with child:
        try:
            said, noted = child.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            end_all(child)
            late.output, late.stderr = child.communicate()
            raise
        except BaseException:
            end_all(child)
            raise
    if check and child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args, said, noted)
    return subprocess.CompletedProcess(child.args, child.returncode, said, noted)


# --- In the child ---


def obey_parent() -> None:
    """Arm this process if `start` started it; the launcher's first lines call it."""
    told = os.environ.pop(PARENT, None)
    if told is not None:
        parent, death_signal = (int(word) for word in told.split())
        die_with_parent(death_signal, parent)


def die_with_parent(death_signal: int = KILL, parent: int | None = None) -> None:
    """Have the kernel send us `death_signal` when our parent ends; end at once if it has ended already.

    `parent` is its process number; without it the parent of now is meant, and one that ended before this call
    cannot be noticed.
    """
    if sys.platform != "linux":
        return
    expected = os.getppid() if parent is None else parent
    with contextlib.suppress(OSError, AttributeError):  # a C library without prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal), 0, 0, 0)
    if os.getppid() != expected:
        signal.raise_signal(death_signal)
        os._exit(1)


# --- Ending ---


def end(child: subprocess.Popen[Any], grace_s: float = 0.0) -> None:
    """End a child and wait until it is gone and its memory free: SIGTERM, after `grace_s` seconds SIGKILL.

    Without grace SIGKILL at once. Nothing happens to one that has ended already. What the child has started
    through `start` falls with it; for a session of a foreign program's making see `end_group`.
    """
    if grace_s > 0 and child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    if child.poll() is None:
        if _is_guarded(child):
            child.send_signal(signal.SIGUSR1)
        else:
            child.kill()
    child.wait()


def end_group(child: subprocess.Popen[Any], grace_s: float = 0.1) -> None:
    """End a child that was started with start_new_session, and every process of its group, and reap it.

    SIGTERM to all, SIGKILL to those that are left after `grace_s` seconds. What runs under sudo may not be
    signalled; it ends when it writes to its closed pipe.
    """
    # A reaped process no longer holds its number: another's group could be meant.
    if _is_guarded(child) or child.returncode is not None or os.getpgid(child.pid) != child.pid:
        end(child, grace_s)
        return
    deadline_s = time.monotonic() + grace_s
    _signal_group(child.pid, signal.SIGTERM)
    while time.monotonic() < deadline_s and _lives(child.pid):
        time.sleep(LOOK_AGAIN_S)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def end_all(child: subprocess.Popen[Any]) -> None:
    """Kill a child at once, with its group where it leads one."""
    end_group(child, grace_s=0.0)


def _is_guarded(child: subprocess.Popen[Any]) -> bool:
    return isinstance(child, Child) and child.is_tree


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _lives(group: int) -> bool:
    """Whether a process of this group still runs; one that is only to be reaped does not."""
    if sys.platform != "linux":
        return os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
    return any(status.group == group and status.state not in "ZX" for status in processes())


class Status:
    """One line of /proc: number, parent, group, state (a letter)."""

    __slots__ = ("group", "parent", "pid", "state")

    def __init__(self, pid: int, parent: int, group: int, state: str) -> None:
        self.pid, self.parent, self.group, self.state = pid, parent, group, state


def processes() -> list[Status]:
    """All processes that /proc shows.

    A name may hold spaces and brackets: the fields begin after the last one.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                found.append(Status(int(folder.name), int(parent), int(group), state))
    return found
