"""Calls a door in this process: the same story as its command line, without a new Python (0.2 to 0.5 s each).

    done = call("judge_pairs.py", "--questions", path, "--dry_run", cwd=tmp_path, env={"MY_KEY": "k"})
    assert done.returncode == 0, done.stderr

It goes through the door's own `main` and `open_door`. What the door, and the processes that it starts, write
to stdout and stderr is caught at the descriptors. Folder, environment, argv, streams, signal handlers and
children are afterwards as they were before: a child that the door leaves is ended, as the kernel ends it with
a real door (edgebench/shell/lifeline.py). An exception that the door does not catch is raised in the test.

A door that becomes another program of ours (os.execv) goes on as that one, in this process, too. What is not
for `call`: a door that is to be killed or sent a signal, one that runs beside the test, at a terminal, in a
copy of the repository, or that starts what is meant to outlive it (run --detach): those want a real command,
see `command`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgebench.shell import launch, lifeline
from edgebench.shell.door import open_door
from tests.waiting import comes_to_an_end

ROOT = Path(__file__).resolve().parents[1]
RESTORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGCHLD")
PATIENCE_S = 300  # with a door that hangs


def command(script: str, *arguments: object) -> list[str]:
    """The words of the real command, for a process of its own; `script` as it lies in the repository."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def call(
    script: str,
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: str | bytes | None = None,
    stdout: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Call the door with these arguments and return its exit code, stdout and stderr, as subprocess.run does.

    `script` as it lies in the repository: "companions/throughput.py". `env` is put on top of
    the environment; None takes a variable away. `stdin` is what can be read there: nothing, unless given.
    `stdout`: a descriptor that the output goes to, instead of into what is returned.
    """
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    words = command(script, *arguments)
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as noted,
    ):
        given.write(stdin if isinstance(stdin, bytes) else (stdin or "").encode())
        given.seek(0)
        with (
            comes_to_an_end(script, PATIENCE_S),
            _surroundings(cwd, env),
            _signals_restored(),
            _children_ended(),
            _streams(given.fileno(), said.fileno() if stdout is None else stdout, noted.fileno()),
        ):
            status = _status_of(module.main, words)
        return subprocess.CompletedProcess(words, status, _text_of(said), _text_of(noted))


# --- The door ---


class _Became(BaseException):
    """The door has gone on as the program with these words."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        self.words = words


def _status_of(main: Callable[[], int], words: Sequence[str]) -> int:
    """Run a door, and the room that it becomes; the exit code as a shell sees it."""
    sys.argv = list(words[1:])
    became: Sequence[str] = ()
    try:
        open_door(main)
    except SystemExit as ended:
        return _code_of(ended)
    except _Became as other:
        became = other.words
    assert became[1] == str(launch.LAUNCHER), f"only a room of ours can be gone on as, not {became}"
    module, *rest = became[2:]
    sys.argv = [module, *rest]
    code: int = importlib.import_module(module).main()
    return code


def _code_of(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1


def _become(path: str, words: Sequence[str]) -> NoReturn:
    """Stands for os.execv, which would end this process."""
    sys.audit("os.exec", path, words, None)
    sys.stdout.flush()
    raise _Became(words)


# --- What is afterwards as it was before ---


@contextlib.contextmanager
def _surroundings(cwd: Path | None, env: Mapping[str, str | None] | None) -> Iterator[None]:
    """Another folder, environment, argv and execv within the block; what it logs goes its own way."""
    folder, variables, argv, execv = Path.cwd(), dict(os.environ), sys.argv, os.execv
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.root.handlers[:] = []  # a door that makes its own would close them
    try:
        os.chdir(cwd or folder)
        for name, value in (env or {}).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.execv = _become  # type: ignore[assignment]
        yield
    finally:
        os.execv = execv
        sys.argv = argv
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        if dict(os.environ) != variables:
            os.environ.clear()
            os.environ.update(variables)
        os.chdir(folder)


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    """The handlers of before stand again after the block."""
    numbers = [getattr(signal, name) for name in RESTORED_SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _children_ended() -> Iterator[None]:
    """What the block has started and left is ended, as the kernel ends it when a real door is gone."""
    before = _children()
    try:
        yield
    finally:
        left = _children() - before
        for pid in left:
            # Not SIGKILL: a guard of the lifeline would leave alone what it guards.
            os.kill(pid, signal.SIGUSR1)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """Numbers of this process's children that still run."""
    if sys.platform != "linux":
        return set()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are none, and /proc need not be read
        return set()
    me = os.getpid()
    return {one.pid for one in lifeline.processes() if one.parent == me and one.state not in "ZX"}


@contextlib.contextmanager
def _streams(given: int, said: int, noted: int) -> Iterator[None]:
    """stdin, stdout and stderr lead to these descriptors within the block, for us and for every child."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    for number, other in enumerate((given, said, noted)):
        os.dup2(other, number)
    # As an interpreter makes them for a pipe; held here, for the streams that open_door makes share buffers.
    made = (_stream(0, "rb"), _stream(1, "wb"), _stream(2, "wb", line_buffering=True))
    sys.stdin, sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, SystemExit):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, other in enumerate(kept):
            os.dup2(other, number)
            os.close(other)


def _stream(number: int, mode: str, line_buffering: bool = False) -> io.TextIOWrapper:
    errors = "backslashreplace" if number == 2 else "strict"
    raw: Any = open(number, mode, closefd=False)  # noqa: SIM115  a descriptor, not a path
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=line_buffering)


def _text_of(file: Any) -> str:
    """All that was written; every end of a line is a newline, as subprocess.run(text=True) has it."""
    file.seek(0)
    text: str = file.read().decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")
