"""The judge away from the board: a copy of a few folders, two packages, or uv."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def requirements(path: Path) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}


def test_the_laptops_packages_stand_in_the_script_too_and_among_the_boards() -> None:
    script = (ROOT / "judge_pairs.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n(.*?)^# ///$", script, re.S | re.M)
    assert block is not None
    inline = set(re.findall(r'"([a-z].*?)"', block[1].partition("dependencies")[2]))
    laptop = requirements(ROOT / "requirements-judge.txt")
    assert inline == laptop <= requirements(ROOT / "requirements.txt")
    assert 'requires-python = ">=3.10"' in block[1]
