"""Ending signals are answered once, and never within a record."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.shell.signals import ENDING_SIGNALS, Interrupted, ending_signals, uninterrupted

ROOT = Path(__file__).resolve().parents[2]
EVERY = [one.value for one in ENDING_SIGNALS]


@pytest.fixture(autouse=True)
def handlers_of_before() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in ENDING_SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", EVERY)
def test_an_ending_signal_becomes_an_exception_with_the_shells_exit_code(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, ending_signals():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number and caught.value.args == (number,)
    assert signal.getsignal(number) == before


def test_the_second_signal_does_not_tear_the_cleaning_up() -> None:
    cleaned = []
    with pytest.raises(Interrupted), ending_signals():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            cleaned.append("all of it")
    assert cleaned == ["all of it"]


@pytest.mark.parametrize("number", EVERY)
def test_a_block_is_finished_before_a_signal_is_answered(number: int) -> None:
    done = []
    with ending_signals(), pytest.raises(Interrupted) as caught:
        with uninterrupted():
            signal.raise_signal(number)
            done.append("written")
        done.append("not reached")
    assert done == ["written"] and caught.value.signum == number


def test_an_error_in_the_block_is_not_hidden_by_a_signal() -> None:
    with ending_signals(), pytest.raises(ZeroDivisionError), uninterrupted():
        raise ZeroDivisionError


def test_under_nohup_the_hangup_stays_ignored() -> None:
    program = (
        "import signal; from edgebench.shell.signals import *\n"
        "with ending_signals():\n    signal.raise_signal(signal.SIGHUP)\nprint('goes on')"
    )
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "goes on\n", done.stderr
