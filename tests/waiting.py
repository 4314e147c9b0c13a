"""Waiting for what must come: with an end that is generous, for no test judges by the machine's speed."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import pytest

PATIENCE_S = 120.0  # what comes at all has come by then, also on a machine that does much else
LOOK_AGAIN_S = 0.01
Seen = TypeVar("Seen")


def wait_for(
    event: Callable[[], Seen], what: str = "what was waited for", patience_s: float = PATIENCE_S
) -> Seen:
    """Look until `event()` is true, and return it; the test fails where it never is."""
    until_s = time.monotonic() + patience_s
    while not (seen := event()):
        if time.monotonic() > until_s:
            pytest.fail(f"{what} has not come within {patience_s:g} s")
        time.sleep(LOOK_AGAIN_S)
    return seen


@contextlib.contextmanager
def comes_to_an_end(what: str = "this", patience_s: float = PATIENCE_S) -> Iterator[None]:
    """The block ends by itself; one that runs away (a regular expression, a loop) fails the test.

    In the main thread, by an alarm: blocks may lie in each other. Nothing happens where there are no alarms.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(_signum: int, _frame: FrameType | None) -> NoReturn:
        pytest.fail(f"{what} has not come to its end within {patience_s:g} s")

    handler = signal.signal(signal.SIGALRM, give_up)
    outer_s, _ = signal.setitimer(signal.ITIMER_REAL, patience_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer_s)
        signal.signal(signal.SIGALRM, handler)


def is_gone(pid: int) -> bool:
    """Whether no process of this number runs any more; one that is only to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
