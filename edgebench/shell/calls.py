"""How the doors are called: as scripts from a checkout, by name where `pip install .` has put them.

From a checkout it is `python companions/check_runs.py`; installed it is `check-runs`. Every text that tells
the user to call a door is written in the first form and passes through `as_called`. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT.name in ("site-packages", "dist-packages")  # Debian's own pip writes to the second
SCRIPT = re.compile(r"(?:python )?(?:companions/)?\b([a-z0-9_]+)\.py\b")
# What a checkout has for installing packages, and what stands for it in an installed house.
SETUPS = {
    "run ./run_all.sh --setup": "install edgebench again with pip",
    "pip install -r requirements-judge.txt": "pip install requests",
}


def module_of(name: str) -> str | None:
    """The module of the door of that name; None where it is none.

    >>> module_of("judge_pairs"), module_of("check_runs"), module_of("json")
    ('judge_pairs', 'companions.check_runs', None)
    """
    if (ROOT / "companions" / f"{name}.py").is_file():
        return f"companions.{name}"
    return name if (ROOT / f"{name}.py").is_file() else None


def as_called(text: str, installed: bool = INSTALLED) -> str:
    """A text of ours that names doors, as they are called in this house. Other files' names stay.

    >>> as_called("python companions/check_runs.py says why; see run.py", installed=True)
    'check-runs says why; see run.py'
    """
    if not installed:
        return text
    for here, there in SETUPS.items():
        text = text.replace(here, there)
    return SCRIPT.sub(
        lambda found: found[1].replace("_", "-") if module_of(found[1]) else found[0],
        text,
    )


def own_call(words: Sequence[str], python: str = sys.executable) -> list[str]:
    """The words that start the program that runs now, with `words` after it: a script by that python."""
    program = sys.argv[0]
    return [python, program, *words] if program.endswith(".py") else [program, *words]
