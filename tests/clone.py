"""A copy of the repository as git would clone it; and one folder for all the workers of a test run."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def clone_repository(there: Path) -> None:
    """The files git would clone, and nothing beside them but their compiled forms; skips without a checkout.

    A copied file keeps its time, so that Python believes what is compiled already; else each command that a
    test starts in the copy would compile a hundred modules again.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            copy_file(name, there)
            compiled = Path(importlib.util.cache_from_source(name)) if name.endswith(".py") else None
            if compiled is not None and (ROOT / compiled).is_file():
                copy_file(str(compiled), there)


def copy_file(name: str, there: Path) -> None:
    (there / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / name, there / name)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` filled: one worker of pytest-xdist makes it, the others wait, and all only read.

    A test that changes something copies it first.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
