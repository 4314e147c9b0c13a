"""The process between the sampler and its feed: stamps, restarts, silence, and an end that leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebench.power import keeper
from edgebench.shell.launch import room_command


def keep(*words: str, silent_s: float = 2.0) -> list[tuple[float, str]]:
    command = room_command("edgebench.power.keeper", str(silent_s), *words)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stderr
    pairs = [line.partition(" ") for line in done.stdout.splitlines()]
    return [(float(stamp), text) for stamp, _, text in pairs]


def test_lines_are_stamped_with_the_monotonic_clock_and_time_only_grows() -> None:
    before_s = time.monotonic()
    rows = keep("sh", "-c", "echo a; echo b; sleep 0.2; printf 'c\\nd\\ne\\ntorn'")
    assert [text for _, text in rows[:5]] == ["a", "b", "c", "d", "e"]
    times_s = [t_s for t_s, _ in rows]
    assert times_s == sorted(times_s) and len(set(times_s)) == len(times_s)
    assert before_s < times_s[0] and times_s[-1] < time.monotonic()
    assert "torn" not in [text for _, text in rows]


def test_a_command_that_worked_is_started_once_more() -> None:
    rows = [text for _, text in keep("sh", "-c", "echo a; echo why >&2; exit 3")]
    assert rows == [
        "a",
        "# feed_restarted: ended with exit code 3: why",
        "a",
        "# feed_ended: ended with exit code 3: why",
    ]


def test_a_command_that_never_worked_is_not() -> None:
    assert [text for _, text in keep("false")] == ["# feed_ended: ended with exit code 1"]
    assert "cannot be run" in keep("/no/such/program")[0][1]


def test_silence_is_a_failure() -> None:
    rows = [text for _, text in keep("sh", "-c", "echo a; sleep 60", silent_s=0.3)]
    assert rows[1] == "# feed_restarted: printed nothing for 0.3 s" and rows[3].startswith("# feed_ended")


def test_a_feed_may_take_its_time_to_its_first_line() -> None:
    """Silence counts from the first line on: on a busy board an interpreter takes seconds to start."""
    rows = [text for _, text in keep("sh", "-c", "sleep 1; echo late; exit 3", silent_s=0.2)]
    assert rows[0] == "late" and not any("printed nothing" in row for row in rows)


def test_a_feed_that_never_prints_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "START_S", 0.3)
    reading, writing = os.pipe()
    orders: Any = SimpleNamespace(descriptors=lambda: (), obey=lambda ready: None)
    began_s = time.monotonic()
    assert keeper.forward(reading, 0.1, orders) == (0, "printed nothing for 0.3 s")
    assert time.monotonic() - began_s >= 0.3
    os.write(writing, b"half a line")
    assert keeper.forward(reading, 0.1, orders) == (0, "printed nothing for 0.1 s")
    os.close(writing)
    os.close(reading)


def test_an_endless_line_does_not_fill_the_memory() -> None:
    rows = keep(sys.executable, "-c", "print('x' * 1_000_000); print('VDD_IN 1mW')")
    assert rows[1][1] == "VDD_IN 1mW" and len(rows[0][1]) < 200_000


def test_everything_ends_when_the_reader_closes_its_end() -> None:
    inner = "sleep 300 & echo $!; while :; do sleep 0.05; done"
    command = room_command("edgebench.power.keeper", "2", "sh", "-c", inner)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        grandchild = int(process.stdout.readline().split()[1])
        assert Path(f"/proc/{grandchild}").exists()
        process.stdin.close()
        assert process.wait(90) == 0
    deadline_s = time.monotonic() + 60
    while Path(f"/proc/{grandchild}").exists() and time.monotonic() < deadline_s:
        state = Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{grandchild}").exists()


def test_a_killed_keeper_takes_its_command_with_it() -> None:
    inner = "echo $$; while :; do sleep 0.05; done"
    command = room_command("edgebench.power.keeper", "2", "sh", "-c", inner)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline().split()[1])
        process.kill()
        process.wait()
    deadline_s = time.monotonic() + 60
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and ") Z " not in stat.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not stat.exists() or ") Z " in stat.read_text()


def test_a_frozen_feed_is_called_stale() -> None:
    stuck = keeper.Stuck()
    lines = [f"01-01-2026 12:00:{k:02d} VDD_IN 5000mW/5000mW".encode() for k in range(60)]
    since = [stuck.since(k * 0.5, [line]) for k, line in enumerate(lines)]
    assert since[19] == 0 and since[40] == 20.0
    assert stuck.since(40.0, [b"VDD_IN 5040mW/5000mW"]) == 0
