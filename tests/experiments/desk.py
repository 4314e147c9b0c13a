"""A desk for experiments: a folder to work in, and the command over a collector that is a stand-in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from edgebench.experiments import conductor
from edgebench.shell import launch, lifeline
from tests.doors import call
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


def copy_suite(tree: Path) -> Path:
    """A copy of the scripts in which the collector is the stand-in, for commands that are processes.

    A copied file keeps its time, so that what is compiled already is not compiled again.
    """
    for folder in ("companions", "edgebench"):
        shutil.copytree(ROOT / folder, tree / folder)
    shutil.copy2(ROOT / "judge_pairs.py", tree)
    shutil.copy2(ROOT / "tests/fakes/stand_in_collector.py", tree / "run_llamacpp_collect.py")
    return tree


class Desk:
    """A folder with a model, prompts and an experiment file, and the command over it.

    `desk("run", "exp.yaml")` calls the door in this process, `start` starts it: where it is to be killed, or
    runs beside the test.
    """

    def __init__(self, root: Path, model: Path, tree: Path) -> None:
        self.root, self.tree = root, tree
        root.mkdir(exist_ok=True)
        shutil.copy(model, root / "m.gguf")
        (root / "p.csv").write_text(
            "question_id,category,L0,P\n1,writing,a,b\n2,writing,c,d\n3,writing,e,f\n"
        )
        self.file = root / "exp.yaml"
        self.write("cycles: 3\n")

    def write(self, text: str) -> None:
        self.file.write_text(f"models: [m.gguf]\nprompts: [p.csv]\nlevels: [L0, P]\naggregate: false\n{text}")

    # --- The command

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        launcher = self.tree / "edgebench/__main__.py"
        with (
            mock.patch.object(conductor, "ROOT", self.tree),
            mock.patch.object(launch, "LAUNCHER", launcher),
            mock.patch.object(lifeline, "LAUNCHER", launcher),
        ):
            return call("companions/run_experiment.py", *words, cwd=self.root)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.tree / "companions/run_experiment.py"), *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(*words), cwd=self.root, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    # --- The folder of the experiment

    @property
    def folder(self) -> Path:
        (one,) = [path.parent for path in (self.root / "results/experiments").glob("[!.]*/state.json")]
        return one

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def folder_before(self, *orders: str) -> Path:
        """The folder, made before the first run; orders to the stand-in are empty files of these names."""
        shown = json.loads(self("config", "show", "exp.yaml").stdout)
        folder = self.root / shown["config"]["output"] / shown["id"]
        folder.mkdir(parents=True)
        for order in orders:
            (folder / order).touch()
        return folder

    def started(self, *words: str) -> tuple[subprocess.Popen[str], Path]:
        """An experiment that runs and waits before each run for go(), and its folder."""
        folder = self.folder_before("pace")
        running = self.start("run", "exp.yaml", *words)
        wait_for(lambda: (folder / "starts.txt").exists() or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        return running, folder

    def interrupted(self) -> Path:
        """The folder of an experiment of one cycle that Ctrl-C has ended after its second run."""
        self.write("cycles: 1\n")
        folder = self.folder_before("interrupt_cycle_1_3")
        assert self("run", "exp.yaml").returncode == 130
        return folder

    def go(self, cycle: int, *runs: int) -> None:
        for run in runs or range(1, 7):
            (self.folder / f"go_cycle_{cycle}_{run}").touch()

    def lines(self, cycle: int) -> int:
        path = self.folder / f"cycle_{cycle}.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0
