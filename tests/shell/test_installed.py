"""What `pip install .` makes of the doors: commands that end as the scripts end, and name each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.shell import calls, installed

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = re.findall(r'^([\w-]+) = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
DOORS = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("companions/*.py")]}


def test_every_door_is_a_command_and_behind_every_command_stands_its_door() -> None:
    assert {name.replace("-", "_") for name, _, _ in SCRIPTS} == DOORS
    for name, module, attribute in SCRIPTS:
        assert (module, attribute) == (installed.__name__, name.replace("-", "_"))
        assert callable(getattr(installed, attribute))
        assert calls.module_of(attribute) in (attribute, f"companions.{attribute}")


def test_what_is_no_door_is_no_command() -> None:
    with pytest.raises(AttributeError, match="json"):
        _ = installed.json


@pytest.mark.parametrize(
    "text, there",
    [
        ("python companions/run_experiment.py follow", "run-experiment follow"),
        ("companions/analyze_levels.py writes it", "analyze-levels writes it"),
        ("python judge_pairs.py ...", "judge-pairs ..."),
        ("run -- python my_inference.py", "run -- python my_inference.py"),
        ("(fields: edgebench/records/run.py)", "(fields: edgebench/records/run.py)"),
        ("no engine; run ./run_all.sh --setup", "no engine; install edgebench again with pip"),
    ],
)
def test_a_text_calls_the_doors_as_they_are_called_here(text: str, there: str) -> None:
    assert calls.as_called(text, installed=True) == there
    assert calls.as_called(text) == text  # a checkout


def test_the_call_to_go_on_with_is_that_of_the_program_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["judge_pairs.py", "--dry_run"])
    assert calls.own_call(["--soft"]) == [sys.executable, "judge_pairs.py", "--soft"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/judge-pairs", "--dry_run"])
    assert calls.own_call(["--soft"]) == ["/usr/bin/judge-pairs", "--soft"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as pip lays them, and programs as pip writes them."""
    top = tmp_path_factory.mktemp("installed")
    packages = top / "site-packages"
    only_code = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgebench", packages / "edgebench", ignore=only_code)
    shutil.copytree(ROOT / "companions", packages / "companions", ignore=only_code)
    for door in ROOT.glob("*.py"):
        shutil.copy(door, packages)
    (top / "bin").mkdir()
    for name, module, attribute in SCRIPTS:
        program = top / "bin" / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {attribute}\n"
            f"if __name__ == '__main__':\n    sys.exit({attribute}())\n"
        )
        program.chmod(0o755)
    return top


def call(house: Path, name: str, *words: str, **streams: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(house / "site-packages"), "PYTHONDONTWRITEBYTECODE": "1"}
    settings = {"cwd": house, "env": environment, "text": True, "timeout": 120} | streams
    return subprocess.run([house / "bin" / name, *words], **settings)  # type: ignore[call-overload,no-any-return]


def test_help_names_the_commands_that_exist(house: Path) -> None:
    done = call(house, "run-experiment", "--help", capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: run-experiment ")
    assert "  run-experiment follow" in done.stdout and ".py" not in done.stdout


def test_help_without_a_reader_ends_quietly(house: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = call(house, "judge-pairs", "--help", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_an_error(house: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = call(house, "load-prompts", "--list", stdout=full, stderr=subprocess.PIPE)
    told = "error: cannot write standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_missing_file_is_an_error_that_names_the_command_which_writes_it(house: Path) -> None:
    (house / "runs.jsonl").touch()
    words = ["--runs", "runs.jsonl", "--analysis", "missing.json", "--out", "page.html"]
    done = call(house, "report-page", *words, capture_output=True)
    told = "error: cannot read missing.json: No such file or directory; analyze-levels writes it\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
