"""A desk for experiments: a copy of the scripts with a stand-in for the collector, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 90


class Desk:
    """A copy of the scripts with a stand-in for the collector, and a folder to work in."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        for folder in ("companions", "edgebench"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tests/fakes/stand_in_collector.py", root / "run_llamacpp_collect.py")
        shutil.copy(model, root / "m.gguf")
        (root / "p.csv").write_text(
            "question_id,category,L0,P\n1,writing,a,b\n2,writing,c,d\n3,writing,e,f\n"
        )
        self.file = root / "exp.yaml"
        self.write("cycles: 3\n")

    def write(self, text: str) -> None:
        self.file.write_text(f"models: [m.gguf]\nprompts: [p.csv]\nlevels: [L0, P]\naggregate: false\n{text}")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.root / "companions/run_experiment.py"), *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.root, capture_output=True, text=True, timeout=WAIT_SECONDS
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(*words), cwd=self.root, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    @property
    def folder(self) -> Path:
        (one,) = [path.parent for path in (self.root / "results/experiments").glob("[!.]*/state.json")]
        return one

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def hold_back(self) -> None:
        """Make the folder before the first run, and every run of it wait for go()."""
        assert self("run", "exp.yaml", "--dry_run").returncode == 0
        (shown := json.loads(self("config", "show", "exp.yaml").stdout))
        folder = self.root / "results/experiments" / shown["id"]
        folder.mkdir(parents=True)
        (folder / "pace").touch()

    def folder_before(self) -> Path:
        """The folder that hold_back made."""
        return next((self.root / "results/experiments").iterdir())

    def go(self, cycle: int, *runs: int) -> None:
        for run in runs or range(1, 7):
            (self.folder / f"go_cycle_{cycle}_{run}").touch()

    def lines(self, cycle: int) -> int:
        path = self.folder / f"cycle_{cycle}.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
