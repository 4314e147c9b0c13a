"""The bar, the steady line of a log, and its estimate."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from edgebench.shell import progress
from edgebench.shell.progress import Progress, say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets the monotonic clock go on by so many seconds."""
    now_s = [5.0]  # a machine that has just started: nothing has been told "30 s ago"
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])

    def go_on(seconds: float) -> None:
        now_s[0] += seconds

    return go_on


def test_the_estimate_leaves_out_what_came_before_the_first_run(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Progress(5)
    clock(600.0)  # loading, idle baseline, the first run
    campaign.step("a")
    clock(60.0)
    campaign.step("b")
    clock(120.0)
    campaign.step("c")
    assert capsys.readouterr().err.splitlines() == [
        "1/5 runs, a",
        "2/5 runs, b, 0:03:00 left",
        "3/5 runs, c, 0:03:00 left",
    ]


def test_a_log_gets_the_first_the_last_and_a_line_every_half_minute(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Progress(100, unit="measurement")
    for number in range(100):
        clock(7.0)
        campaign.step(f"task {number}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/100 measurements, task 0"
    assert lines[-1] == "100/100 measurements, task 99, 0:00:00 left"
    assert [int(line.partition("/")[0]) for line in lines] == [*range(1, 100, 5), 100]


def test_a_terminal_gets_a_bar_with_the_same_estimate(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    campaign = Progress(3)
    for seconds in (600.0, 60.0, 60.0):
        clock(seconds)
        campaign.step("x")
    said = capsys.readouterr().err
    assert "3/3" in said and "0:00:00 left" in said and "0:11:" not in said


def test_saying_a_line_to_a_terminal_that_is_gone_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

        flush = close = lambda self: None
        encoding = "utf-8"

    monkeypatch.setattr(sys, "stderr", Gone())
    say("anything")
