"""A real sweep, killed by -9 while it times and while it profiles; and how many processes it is.

Every process below a start carries a mark in its environment, whatever session or parent it has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.fake_ncu import START, fake_ncu
from tests.test_nothing_left_running import MARK, Marked, described
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions" / "sweep_speculative.py"
FEED = f"replay:{ROOT / 'data/demo/power_replay.log'}"
PATIENCE_S = 90.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Bench:
    """A folder, a model, a grid of two rules; starts that carry a mark."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.out, self.started = folder, folder / "sweeps", Marked()
        (folder / "prompts.csv").write_text("question_id,L0\n1,one\n2,two\n3,three\n")
        grid = [{"requests": 20, "max_tokens": 100, "draft_tokens": 4, "adaptive": ["off", "cost"]}]
        (folder / "two.json").write_text(json.dumps(grid))
        self.words = [
            sys.executable, SCRIPT, "--grid", folder / "two.json", "--model", model, "--outdir", self.out,
            "--prompts", folder / "prompts.csv", "--n_threads", 1, "--batches", 1, "--idle_seconds", 0.6,
            "--no_pilot",
        ]  # fmt: skip

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*map(str, self.words), *map(str, words)],
            env={**os.environ, MARK: self.started.mark},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self, *words: object) -> None:
        assert self.start(*words).wait(PATIENCE_S) == 0, self.log()

    def log(self) -> str:
        path = self.out / "two" / "experiment.log"
        return path.read_text() if path.exists() else ""

    def results(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.out / "two").glob("*.json")}

    def rooms(self) -> dict[int, str]:
        """Process number -> what it is, of all that carry the mark."""
        found = {}
        for pid in self.started.found():
            (line,) = described({pid}) or [""]
            known = ("edgebench.engine.worker", "edgebench.power.keeper", "edgebench.power.feeds")
            # The keeper's line names the feed, too: it is given its command.
            found[pid] = next((name for name in known if name in line), line)
        return found

    def kill(self, sweep: subprocess.Popen[bytes]) -> None:
        """Kill -9 the sweep alone; everything else must end by itself."""
        sweep.kill()
        sweep.wait()
        wait_for(lambda: not self.started.found(), patience_s=90)


@pytest.fixture
def bench(tmp_path: Path, llama_cpp: object, tiny_model: Callable[..., Path]) -> Iterator[Bench]:
    made = Bench(tmp_path, tiny_model("llama", mode="never"))
    yield made
    for pid in made.started.found():
        os.kill(pid, signal.SIGKILL)


def worker_of_second_cell(bench: Bench) -> int | None:
    """The engine's process of the cell after the first one that is finished, once it has the model open.

    Stopped before, it would not have asked the kernel yet to end with its parent.
    """
    if "COMPLETE" not in bench.log() or bench.log().count("START") < 2:
        return None
    workers = [pid for pid, room in bench.rooms().items() if "engine.worker" in room]
    return next((pid for pid in workers if ".gguf" in Path(f"/proc/{pid}/maps").read_text()), None)


def test_killed_while_timing_nothing_runs_on_and_the_rest_resumes(bench: Bench) -> None:
    sweep = bench.start("--power_source", FEED)
    wait_for(lambda: worker_of_second_cell(bench) is not None, patience_s=90)
    worker = worker_of_second_cell(bench)
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)  # a cell that goes on for ever
    before = bench.results()
    assert len(before) == 1 and sweep.poll() is None
    wait_for(lambda: "edgebench.power.feeds" in bench.rooms().values(), patience_s=90)
    rooms = bench.rooms()
    # The door, the cell's engine, the keeper: three beside the feed.
    assert sorted(name for pid, name in rooms.items() if pid != sweep.pid) == [
        "edgebench.engine.worker", "edgebench.power.feeds", "edgebench.power.keeper",
    ], rooms  # fmt: skip
    assert sweep.pid in rooms
    bench.kill(sweep)
    assert bench.results() == before
    bench.finish("--power_source", FEED)
    after = bench.results()
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert not list(bench.out.rglob("*.part")) and not list(bench.out.rglob("*.json.1"))


def hanging_ncu(folder: Path) -> Path:
    """A profiler that starts the command and a process in a session of its own, and hangs."""
    hang = f"pathlib.Path({str(folder / 'hangs')!r}).touch()\ntime.sleep(600)"
    beside = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    return fake_ncu(folder / "hanging_ncu", f"{beside}\n{START}\n{hang}")


def test_killed_while_profiling_nothing_runs_on_and_the_timed_cell_stays(bench: Bench) -> None:
    sweep = bench.start("--power_source", "none", "--ncu", "--ncu_path", hanging_ncu(bench.folder))
    wait_for((bench.folder / "hangs").exists, patience_s=90)
    before = bench.results()
    assert len(before) == 1 and sweep.poll() is None  # placed, though its counters are not there yet
    (timed,) = (json.loads(content) for content in before.values())
    assert timed["summary"]["per_mode"][0]["ncu_metrics"] == {} and timed["sweep"]["config_hash"]
    bench.kill(sweep)
    assert bench.results() == before
    bench.finish("--power_source", "none", "--ncu", "--ncu_path", fake_ncu(bench.folder / "ncu"))
    after = {name: json.loads(content) for name, content in bench.results().items()}
    assert len(after) == 3
    for document in after.values():
        assert document["summary"]["per_mode"][0]["ncu_metrics"] == {"dram__bytes_write.sum": 7e6}
    (name,) = before
    assert after[name]["results"] == timed["results"] and after[name]["sweep"] == timed["sweep"]
