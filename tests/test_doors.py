"""tests/doors.py: what a door that is called in this process sees, and what it leaves: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgebench.shell import lifeline
from tests.doors import ROOT, call, command


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A door without a story; the test gives it one as its `main`."""
    made = ModuleType("a_door")
    monkeypatch.setitem(sys.modules, "a_door", made)
    return made


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("judge_pairs.py", ["--help"]),
        ("companions/check_runs.py", []),
        ("companions/run_experiment.py", ["presets"]),
        ("companions/run_experiment.py", ["run", "gone.yaml"]),
    ],
)
def test_a_call_answers_as_the_command_does(tmp_path: Path, script: str, words: list[str]) -> None:
    real = subprocess.run(command(script, *words), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    called = call(script, *words, cwd=tmp_path)
    assert (called.returncode, called.stdout, called.stderr) == (real.returncode, real.stdout, real.stderr)
    assert called.args == real.args


def test_everything_is_as_before(door: ModuleType, tmp_path: Path) -> None:
    seen = {}

    def main() -> int:
        seen["folder"], seen["variables"], seen["argv"] = Path.cwd(), dict(os.environ), list(sys.argv)
        seen["read"] = sys.stdin.read()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ["ONE_MORE"] = "x"
        os.chdir("/")
        left = lifeline.start(["sleep", "1000"])
        seen["child"] = left.pid
        print("said")
        print("noted", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo a child said; echo a child noted >&2"], check=True)
        raise SystemExit("in the end")

    door.main = main  # type: ignore[attr-defined]
    before = (Path.cwd(), dict(os.environ), sys.argv, sys.stdout, signal.getsignal(signal.SIGTERM), os.execv)
    done = call("a_door.py", "--flag", 3, cwd=tmp_path, env={"GIVEN": "1", "HOME": None}, stdin="typed")
    assert before == (
        Path.cwd(), dict(os.environ), sys.argv, sys.stdout, signal.getsignal(signal.SIGTERM), os.execv
    )  # fmt: skip
    assert seen["folder"] == tmp_path and seen["read"] == "typed"
    assert seen["variables"]["GIVEN"] == "1" and "HOME" not in seen["variables"]
    assert seen["argv"] == [str(ROOT / "a_door.py"), "--flag", "3"]
    assert (done.returncode, done.stdout) == (1, "a child said\nsaid\n")
    assert done.stderr == "noted\na child noted\nin the end\n"
    assert not Path(f"/proc/{seen['child']}").exists()


def test_what_the_door_does_not_catch_is_the_tests(door: ModuleType) -> None:
    def main() -> int:
        raise ZeroDivisionError

    door.main = main  # type: ignore[attr-defined]
    before = sys.stdout
    with pytest.raises(ZeroDivisionError):
        call("a_door.py")
    assert sys.stdout is before
