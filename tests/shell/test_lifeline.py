"""Children end with their parent, for real: parents are killed by SIGKILL, and what is left is counted.

All processes of a case hold the writing end of one pipe, their standard output: the pipe's end of file is the
proof that none is left, however long that takes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from edgebench.shell import lifeline
from edgebench.shell.launch import room_command

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 60.0  # of patience; nothing here takes a second
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's signal at a death")

# Programs that last until they are killed.
LASTING = ["sleep", "1000"]
STARTS_OTHERS = ["sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 1000"]


def parent_script(body: str) -> list[str]:
    """A Python process that runs this text with lifeline at hand."""
    head = f"""
        import os, subprocess, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from edgebench.shell import lifeline
        from edgebench.shell.launch import room_command
        LASTING, STARTS_OTHERS = {LASTING!r}, {STARTS_OTHERS!r}
        print("begins", flush=True)
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


CASES = {
    "foreign": "child = lifeline.start(LASTING); print('started', flush=True); child.wait()",
    "three": """
        children = [lifeline.start(LASTING) for _ in range(3)]
        print('started', flush=True)
        children[0].wait()
    """,
    "room": """
        child = lifeline.start(room_command('tests.shell.lasting'))
        print('started', flush=True)
        child.wait()
    """,
    "own session": """
        child = lifeline.start(LASTING, start_new_session=True)
        print('started', flush=True)
        child.wait()
    """,
    "from a thread": """
        made = []
        thread = threading.Thread(target=lambda: made.append(lifeline.start(LASTING)))
        thread.start()
        thread.join()
        print('started', flush=True)
        made[0].wait()
    """,
    "tree": "child = lifeline.start(STARTS_OTHERS, tree=True); print('started', flush=True); child.wait()",
    "chain": """
        child = lifeline.start(room_command('tests.shell.lasting', 'with a child of its own'))
        print('started', flush=True)
        child.wait()
    """,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "after_ms", [0, 15, 60, 110, *(pytest.param(one, marks=pytest.mark.slow) for one in (5, 30))]
)
def test_nothing_is_left_whenever_the_parent_is_killed(case: str, after_ms: int) -> None:
    parent = subprocess.Popen(parent_script(CASES[case]), stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"begins\n"
    time.sleep(after_ms / 1000)  # which moment is hit does not matter: it must hold at every one
    parent.kill()
    parent.communicate(timeout=LONG_S)
    assert parent.returncode == -signal.SIGKILL


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_when_the_parent_is_killed_with_its_group_once_all_runs(case: str) -> None:
    parent = subprocess.Popen(parent_script(CASES[case]), stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    while parent.stdout.readline() != b"started\n":
        assert parent.poll() is None
    os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate(timeout=LONG_S)


@pytest.mark.parametrize("command", ["['touch', 'ran']", "room_command('tests.shell.lasting', 'touch')"])
def test_a_parent_killed_before_the_child_has_armed_itself_is_noticed(tmp_path: Path, command: str) -> None:
    """The child's interpreter is held until the parent is dead; what it was to run must never run."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\necho held\nread line < {gate}\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    body = f"sys.executable = {str(slow)!r}\nlifeline.start({command}).wait()"
    parent = subprocess.Popen(parent_script(body), stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == [b"begins\n", b"held\n"]
    parent.kill()
    parent.wait()
    gate.write_text("go on\n")
    rest, _ = parent.communicate(timeout=LONG_S)
    assert rest == b"" and not (tmp_path / "ran").exists()


def test_a_child_started_in_a_thread_outlives_the_thread() -> None:
    made: list[lifeline.Child] = []

    def make() -> None:
        made.append(lifeline.start(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    said, _ = made[0].communicate(b"still here", timeout=LONG_S)
    assert said == b"still here" and made[0].returncode == 0


@pytest.mark.parametrize("tree", [False, True])
def test_a_program_that_cannot_run_is_an_error_as_of_popen(tmp_path: Path, tree: bool) -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_program"):
        lifeline.start(["no_such_program"], tree=tree)
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(PermissionError):
        lifeline.start([plain], tree=tree)
    plain.chmod(0o755)
    plain.write_bytes(b"\x7fELF but no more")
    with pytest.raises(OSError, match="format"):
        lifeline.start([plain], tree=tree)


@pytest.mark.parametrize("tree", [False, True])
def test_a_program_finds_its_words_folder_environment_and_signals_as_popen_gives_them(
    tmp_path: Path, tree: bool
) -> None:
    probe = "import os, signal; print(os.environ, os.getcwd(), signal.getsignal(signal.SIGPIPE), "
    probe += "signal.pthread_sigmask(0, []), sorted(map(int, os.listdir('/dev/fd'))))"
    command = [sys.executable, "-IS", "-c", "import sys; " + probe, "a b", "ü", ""]
    asked = {"env": {"ONLY": "this", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, "cwd": tmp_path}
    ours = lifeline.run(command, tree=tree, capture_output=True, text=True, **asked)
    theirs = subprocess.run(command, capture_output=True, text=True, **asked)
    assert ours.stdout == theirs.stdout and ours.returncode == 0


def test_a_room_finds_no_trace_of_the_lifeline_in_its_environment() -> None:
    done = lifeline.run(room_command("tests.shell.lasting", "environment"), capture_output=True, text=True)
    assert done.returncode == 0 and "ONES_OWN" in done.stdout and lifeline.PARENT not in done.stdout


@pytest.mark.parametrize("tree", [False, True])
def test_exit_codes_and_signals_come_through(tree: bool) -> None:
    for number in (0, 3, 255):
        assert lifeline.run(["sh", "-c", f"exit {number}"], tree=tree).returncode == number
    for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGPIPE):
        assert lifeline.run(["sh", "-c", f"kill -{signum.value} $$"], tree=tree).returncode == -signum
    with pytest.raises(subprocess.CalledProcessError):
        lifeline.run(["false"], tree=tree, check=True)


@pytest.mark.parametrize("tree", [False, True])
def test_a_signal_reaches_the_program(tree: bool) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    child = lifeline.start(["sh", "-c", script], tree=tree, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.terminate()
    assert child.communicate(timeout=LONG_S)[0] == b"got it\n"
    assert child.returncode == 7


def test_run_kills_past_its_timeout_and_leaves_no_grandchild() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        # The pipe's end is read to the end: that the call returns shows that nobody holds it.
        lifeline.run(STARTS_OTHERS, tree=True, stdout=subprocess.PIPE, timeout=0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        same_group = ["sh", "-c", "sleep 1000 & sleep 1000"]
        lifeline.run(same_group, start_new_session=True, stdout=subprocess.PIPE, timeout=0.2)


def test_end_gives_grace_and_then_kills() -> None:
    kind = ["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"]
    child = lifeline.start(kind, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    lifeline.end(child, grace_s=LONG_S)
    assert child.returncode == 5
    deaf = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]
    child = lifeline.start(deaf, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    lifeline.end(child, grace_s=0.1)
    assert child.returncode == -signal.SIGKILL
    lifeline.end(child)  # nothing to one that has ended


@pytest.mark.parametrize("tree", [False, True])
def test_end_group_leaves_nobody_who_ignores_the_request(tree: bool) -> None:
    deaf = "trap '' TERM; while :; do sleep 0.01; done"
    leader = f"({deaf}) & (setsid true; {deaf}) & echo ready; wait"
    child = lifeline.start(["sh", "-c", leader], tree=tree, start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    lifeline.end_group(child, grace_s=0.2)
    assert child.stdout.read() == b""  # everybody who held the pipe is gone
    assert child.returncode is not None


def test_end_of_a_guarded_program_reaches_what_left_its_session() -> None:
    child = lifeline.start(
        [*STARTS_OTHERS[:2], "echo ready; " + STARTS_OTHERS[2]], tree=True, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    lifeline.end(child)
    assert child.stdout.read() == b""


def test_a_guard_ends_with_its_program_and_leaves_no_background_child() -> None:
    child = lifeline.start(["sh", "-c", "setsid sleep 1000 & exit 4"], tree=True, stdout=subprocess.PIPE)
    assert child.communicate(timeout=LONG_S)[0] == b"" and child.returncode == 4


def test_what_start_cannot_promise_is_refused() -> None:
    with pytest.raises(TypeError, match="preexec_fn"):
        lifeline.start(["true"], preexec_fn=print)
    with pytest.raises(TypeError, match="shell"):
        lifeline.start(["true"], shell=True)
