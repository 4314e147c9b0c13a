"""The command line over SSH: rails, idle, record, run, on a replayed log and on feeds that fail."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.doors import call, command
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DOOR = "tegrastats_sampler.py"
REPLAY = ("--source", f"replay:{ROOT / 'data/demo/power_replay.log'}")
STEADY = ("--feed", "sh -c 'while :; do echo tj@40C VDD_IN 5000mW/5000mW VDD_SOC 1mW/1mW; sleep 0.02; done'")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return call(DOOR, *words)


def wait_for_rows(trace: Path, characters: int) -> None:
    """Until a recording has written so much."""
    deadline_s = time.monotonic() + 90
    while not trace.exists() or len(trace.read_text()) < characters:
        assert time.monotonic() < deadline_s, "the recording writes nothing"
        time.sleep(0.05)


def test_rails_names_the_total_its_scope_and_the_true_rate() -> None:
    done = run("rails", "--seconds", 0.5, *REPLAY)
    assert done.returncode == 0, done.stderr
    assert "source  replay (simulated)\ntotal   VDD_IN\nscope   module\nrate    " in done.stdout
    assert re.search(r"^VDD_IN +\d+ mW  total$", done.stdout, re.M) and re.search(
        r"^tj +44\.\d C$", done.stdout, re.M
    )
    assert "simulated power" in done.stderr


def test_idle_prints_the_baseline() -> None:
    done = run("idle", "--seconds", 0.5, *STEADY)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^mean_mw +5000\.0$", done.stdout, re.M) and re.search(
        r"^stable +True$", done.stdout, re.M
    )
    assert run("idle", "--seconds", 0, *STEADY).returncode == 1


def test_record_writes_a_trace_that_integrate_reads(tmp_path: Path) -> None:
    done = run("record", "--out", tmp_path / "trace.csv", "--seconds", 0.7, *STEADY)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "trace.csv").open()))
    assert len(rows) > 5 and {
        (row["power_mw"], row["rail"], row["scope"], row["source"], row["temp_c"]) for row in rows
    } == {("5000", "VDD_IN", "module", "feed", "40")}
    whole = json.loads(run("integrate", tmp_path / "trace.csv", "--idle_mw", 4000).stdout)
    assert whole["energy_joule"] == pytest.approx(whole["t1"] - whole["t0"])


def test_control_c_ends_a_recording_cleanly(tmp_path: Path) -> None:
    words = command(DOOR, "record", "--out", tmp_path / "trace.csv", *STEADY)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for_rows(tmp_path / "trace.csv", 300)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0 and process.stderr and "samples of VDD_IN" in process.stderr.read()
    assert (tmp_path / "trace.csv").read_text().endswith("\n")


def test_without_out_a_pipe_gets_the_trace() -> None:
    done = run("record", "--seconds", 0.3, *STEADY)
    assert (
        done.stdout.startswith("t_s,power_mw,rail,scope,source,temp_c\n") and done.stdout.count("VDD_IN") > 2
    )


def test_a_recording_says_when_its_feed_dies(tmp_path: Path) -> None:
    feed = "sh -c 'for i in 1 2 3; do echo VDD_IN 5000mW/5000mW; sleep 0.05; done; echo bus lost >&2; exit 3'"
    done = run("record", "--out", tmp_path / "trace.csv", "--seconds", 30, "--feed", feed)
    assert done.returncode == 1 and "bus lost" in done.stderr and "feed_restarted: 1 times" in done.stderr
    assert len((tmp_path / "trace.csv").read_text().splitlines()) == 7  # head, and three samples of each life


def test_an_unwritable_trace_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run("record", "--out", tmp_path / "file/trace.csv", "--seconds", 1, *STEADY)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    done = run("record", "--out", "/dev/full", "--seconds", 1, *STEADY)
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_an_older_trace_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,power_mw\n1,5000\n")
    assert run("record", "--out", trace, "--feed", "false").returncode == 1
    assert trace.read_text() == "t_s,power_mw\n1,5000\n"
    assert run("record", "--out", trace, "--seconds", 0.2, *STEADY).returncode == 0
    assert trace.read_text().startswith("t_s,power_mw,rail,") and "\n1,5000\n" not in trace.read_text()


def test_a_full_standard_output_and_bad_numbers_are_errors_of_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        words = command(DOOR, "rails", "--seconds", 0.1, *STEADY)
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "No space left" in done.stderr
    for bad in (
        ("rails", "--seconds", "-3"),
        ("record", "--seconds", "nan"),
        ("run", "--idle_mw", "nan", "ls"),
    ):
        done = run(*bad)
        assert done.returncode == 1 and done.stderr.startswith("error: --") and "Traceback" not in done.stderr


def children_running(script: str, parent: int) -> list[int]:
    """Process ids. From /proc: ps cuts its rows at COLUMNS, and a long path hides the script."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                words = (stat.parent / "cmdline").read_bytes().split(b"\0")
                found += [int(stat.parent.name)] * any(word.endswith(script.encode()) for word in words)
    return found


def test_a_recording_notices_that_its_keeper_was_killed(tmp_path: Path) -> None:
    words = command(DOOR, "record", "--out", tmp_path / "trace.csv", *STEADY)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for_rows(tmp_path / "trace.csv", 200)
        (keeper,) = children_running("edgebench.power.keeper", process.pid)
        os.kill(keeper, signal.SIGKILL)
        assert process.wait(90) == 1 and process.stderr and "lost its keeper" in process.stderr.read()


def test_a_terminal_gets_a_live_view() -> None:
    ours, theirs = pty.openpty()
    words = command(DOOR, "record", "--seconds", 1, *REPLAY)
    with subprocess.Popen(words, stdout=theirs, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(90) == 0
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    frames = [frame.strip() for frame in shown.split("\r") if "W" in frame]
    assert len(frames) >= 2 and all(len(frame) <= 80 for frame in frames)
    assert re.match(r"VDD_IN +\d+\.\d\d W +\d+\.\d J 44 C SIMULATED ", frames[-1])


def test_run_gives_the_energy_of_a_command_and_its_exit_code() -> None:
    done = run(
        "run",
        "--seconds",
        0.3,
        *STEADY,
        "--",
        "sh",
        "-c",
        "sleep 0.3; exit 7",
    )
    assert done.returncode == 7, done.stderr
    seconds = float(re.search(r"^time +(\S+) s$", done.stderr, re.M)[1])  # type: ignore[index]
    joule = float(re.search(r"^energy +(\S+) J", done.stderr, re.M)[1])  # type: ignore[index]
    assert joule == pytest.approx(5 * seconds, rel=0.01)
    assert re.search(r"^net +-?0\.0\d\d J above idle power of 5000 mW$", done.stderr, re.M)


def test_run_passes_everything_through_and_works_without_power() -> None:
    done = run("run", "--source", "none", "--", "sh", "-c", "cat; echo out --flag; exit 5")
    assert (done.returncode, done.stdout) == (5, "out --flag\n") and "energy unknown" in done.stderr
    assert run("run", "--source", "none", "--", "sh", "-c", "kill -9 $$").returncode == 137
    done = run("run", "--source", "none", "--", "no-such-program")
    assert done.returncode == 1 and "cannot run no-such-program" in done.stderr
    assert "run needs a command" in run("run", "--source", "none").stderr


def test_bad_words_are_errors_of_one_line() -> None:
    for words, message in (
        (("rails", "--source", "usb"), "unknown source 'usb'"),
        (("idle", "--feed", "sh -c 'exit 9'"), "exit code 9"),
        (("rails", "--source", "none"), "no power source: power measurement is switched off"),
    ):
        done = run(*words)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")


def test_nothing_is_left_running(tmp_path: Path) -> None:
    mark = f"{tmp_path}/mark"
    run(
        "idle", "--seconds", 0.2, "--feed", f"sh -c 'while :; do echo VDD_IN 5000mW; sleep 0.02; done' {mark}"
    )
    wait_for(lambda: processes_with(mark) == [], patience_s=90)


def processes_with(mark: str) -> list[int]:
    """Numbers of processes that have this word on their command line; ended ones have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("watching", ["record", "idle", "rails", "run"])
def test_nothing_is_left_of_a_command_that_was_killed(watching: str, tmp_path: Path) -> None:
    """Neither the feed, nor what the feed has started itself, nor the program that was weighed."""
    mark, script = f"{tmp_path}/mark", tmp_path / "feed.sh"
    script.write_text(
        f"sh -c 'while :; do sleep 0.1; done' {mark} &\nwhile :; do echo VDD_IN 5000mW; sleep 0.02; done\n"
    )
    feed = f"sh {script} {mark}"
    words = ["--seconds", "0.2" if watching == "run" else "300", "--feed", feed]
    words += ["--", "sh", "-c", "while :; do sleep 0.1; done", mark] if watching == "run" else []
    with subprocess.Popen(
        command(DOOR, watching, *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        others = 3 if watching == "run" else 2  # keeper and feed; and the program
        wait_for(lambda: len(processes_with(mark)) >= others + 1, patience_s=90)
        process.kill()
        process.wait()
    wait_for(lambda: processes_with(mark) == [], patience_s=90)
