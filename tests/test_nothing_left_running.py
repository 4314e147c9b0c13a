"""Measuring commands, killed by -9 at every stage of their start: nothing of what they started is left.

Each start carries a mark in its environment, which every process below it inherits, whatever session or
parent it has. A command is killed at the moment when its n-th process appears, or when its work is under way;
then all marked processes must end by themselves. Nothing here leans on the machine's speed: stages are
counted in processes and told by files, not by seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "data/writing_prompts_hierarchical.csv"
POWER = f"replay:{ROOT}/data/demo/power_replay.log"
FAKES = ROOT / "tests" / "fakes"
MARK = "EDGEBENCH_TEST_MARK"
PATIENCE_S = 90.0
LOOK_S = 0.01
LOOK_SELDOM_S = 0.05
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Start = Callable[[Path], tuple[list[str], dict[str, str]]]  # a folder -> words and variables of a long start


class Marked:
    """Finds processes that carry a mark: those that have come since it was made. The others are not read."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._before = numbers()

    def found(self) -> set[int]:
        """Numbers of all processes that carry the mark and are more than zombies."""
        wanted = f"{MARK}={self.mark}".encode()
        found = set()
        for number in numbers() - self._before:
            folder = Path("/proc") / number
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes():
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    found |= set() if state in "ZX" else {int(number)}
        return found


def numbers() -> set[str]:
    """Of all processes."""
    return {path.name for path in Path("/proc").glob("[0-9]*")}


def described(pids: set[int]) -> list[str]:
    """Command lines, for a failure's message."""
    lines = []
    for pid in pids:
        with contextlib.suppress(OSError):
            lines.append(f"{pid}: {(Path('/proc') / str(pid) / 'cmdline').read_text()}".replace("\0", " "))
    return lines


def kill_when(
    start: Start, folder: Path, ready: Callable[[int], bool], group: bool = False, look_s: float = LOOK_S
) -> int:
    """Kill a start once ready(processes seen so far); how many were seen. All must end."""
    marked = Marked()
    words, variables = start(folder)
    child = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **variables, MARK: marked.mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    seen: set[int] = set()
    deadline_s = time.monotonic() + PATIENCE_S
    while not ready(len(seen)) and child.poll() is None and time.monotonic() < deadline_s:
        seen |= marked.found()
        time.sleep(look_s)
    assert child.poll() is None and time.monotonic() < deadline_s, "it ended, or never came so far"
    os.killpg(child.pid, signal.SIGKILL) if group else child.kill()
    child.wait()
    while (left := marked.found()) and time.monotonic() < deadline_s + PATIENCE_S:
        time.sleep(LOOK_S)
    try:
        assert not left, described(left)
    finally:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return len(seen)


@pytest.fixture
def long_model(llama_cpp, tiny_model: Callable[..., Path]) -> Path:  # type: ignore[no-untyped-def]
    """A model whose answers never end by themselves."""
    return tiny_model("llama", mode="never")


def throughput(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        flags = ["--models", model, "--prompts", PROMPTS, "--out_jsonl", folder / "t.jsonl", "--repeats", 500]
        flags += ["--source", POWER, "--idle_seconds", 0.6, "--max_tokens", 64, "--batch_sizes", "1,2"]
        return [sys.executable, str(ROOT / "companions/throughput.py"), *map(str, flags)], {}

    return start


def backends(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        program = folder / "llama-bench"
        program.write_text(f"#!{sys.executable}\n" + (FAKES / "fake_engines.py").read_text())
        program.chmod(0o755)
        (folder / "FAKE").write_text(json.dumps({"hang": True}))
        flags = ["run", "--model", model, "--prompt", "a dog", "--engines", "llama-bench", "--rounds", 3]
        flags += ["--llama_bin", folder, "--out", folder / "rows.jsonl", "--max_tokens", 16]
        flags += ["--source", POWER, "--idle_seconds", 0.5, "--n_gpu_layers", 0]
        return [sys.executable, str(ROOT / "companions/compare_backends.py"), *map(str, flags)], {}

    return start


def sweep_with_a_profiler(model: Path) -> Start:
    """The profiler hangs, with what it has started."""

    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        ncu = folder / "ncu"
        ncu.write_text(f"#!/bin/sh\nsleep 600 & touch {folder / 'profiled'}; setsid sleep 600\n")
        ncu.chmod(0o755)
        words, variables = sweep(model)(folder)
        return [*words, "--ncu", "--ncu_path", str(ncu)], variables

    return start


def sweep(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        flags = ["adaptive", "--model", model, "--prompts", PROMPTS, "--outdir", folder / "sweeps"]
        flags += ["--no_pilot", "--power_source", POWER, "--idle_seconds", 0.6, "--n_threads", 1]
        flags += ["--requests", 1, "--max_tokens", 8, "--batches", 1]
        return [sys.executable, str(ROOT / "companions/sweep_speculative.py"), *map(str, flags)], {}

    return start


def experiment(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        flags = ["run", "--preset", "quick-test", "--model", model, "--prompts", PROMPTS, "--cycles", 3]
        flags += ["--source", POWER, "--idle_seconds", 0.6, "--repeats", 200, "--no_aggregate"]
        return [sys.executable, str(ROOT / "companions/run_experiment.py"), *map(str, flags)], {}

    return start


def batch_of_experiments(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        for name in ("one", "two"):
            lines = [f"name: {name}", f"models: [{model}]", f"prompts: [{PROMPTS}]", "power: {source: none}"]
            lines += ["levels: [L0]", "repeats: 200", "aggregate: false", "generation: {max_tokens: 32}"]
            (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
        words = [
            str(ROOT / "companions/run_experiment.py"),
            "batch",
            "one.yaml",
            "two.yaml",
            "--parallel",
            "2",
        ]
        return [sys.executable, *words], {}

    return start


def plan_of_a_pilot(model: Path) -> Start:
    def start(folder: Path) -> tuple[list[str], dict[str, str]]:
        power = f"power: {{source: '{POWER}', idle_seconds: 0.3}}"
        lines = [f"models: [{model}]", f"prompts: [{PROMPTS}]", power]
        (folder / "exp.yaml").write_text("\n".join([*lines, "generation: {max_tokens: 512}"]) + "\n")
        return [sys.executable, str(ROOT / "companions/run_experiment.py"), "plan", "exp.yaml"], {}

    return start


def has_lines(pattern: str) -> Callable[[Path], bool]:
    """Whether a file of the folder has a whole line: a measurement is done, the next one under way."""
    return lambda folder: any(b"\n" in path.read_bytes() for path in folder.glob(pattern))


def a_cell_is_complete(folder: Path) -> bool:
    return any(b"COMPLETE" in log.read_bytes() for log in folder.glob("sweeps/*/experiment.log"))


# command -> its start, and what tells that its work is under way
STARTS: dict[str, tuple[Callable[[Path], Start], Callable[[Path], bool]]] = {
    "throughput": (throughput, has_lines("t.jsonl")),
    "backends": (backends, lambda folder: (folder / "PID").exists()),  # the engine hangs
    "sweep": (sweep, a_cell_is_complete),
    "sweep with a profiler": (sweep_with_a_profiler, lambda folder: (folder / "profiled").exists()),
    "experiment": (experiment, has_lines("results/experiments/*/cycle_1.jsonl")),
    "batch of experiments": (batch_of_experiments, has_lines("results/experiments/two-*/cycle_1.jsonl")),
    "plan of a pilot": (plan_of_a_pilot, has_lines("results/experiments/pilot-*/cycle_1.jsonl")),
}


@pytest.mark.parametrize("command", STARTS)
def test_a_command_killed_in_the_middle_of_its_work_leaves_nothing(
    command: str, long_model: Path, tmp_path: Path
) -> None:
    start, is_working = STARTS[command]
    seen = kill_when(start(long_model), tmp_path, lambda _: is_working(tmp_path), look_s=LOOK_SELDOM_S)
    assert seen >= 3  # it had started others, and those had


@pytest.mark.parametrize("command", ["throughput", "backends", "sweep", "experiment"])
@pytest.mark.parametrize("number", [2, 4])
def test_a_command_killed_as_a_child_appears_leaves_nothing(
    command: str, number: int, long_model: Path, tmp_path: Path
) -> None:
    kill_when(STARTS[command][0](long_model), tmp_path, lambda seen: seen >= number)


@pytest.mark.slow
@pytest.mark.parametrize("command", STARTS)
def test_a_command_killed_at_random_leaves_nothing(command: str, long_model: Path, tmp_path: Path) -> None:
    start, is_working = STARTS[command]
    draw = random.Random(command)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        number = draw.randrange(1, 9)

        def ready(seen: int, folder: Path = folder, number: int = number) -> bool:
            return seen >= number or is_working(folder)

        kill_when(start(long_model), folder, ready, group=attempt % 4 == 3)


def test_a_detached_conductor_outlives_the_command_that_started_it(long_model: Path, tmp_path: Path) -> None:
    """By design: it has a session of its own. Killed itself, it leaves nothing either."""
    marked = Marked()
    words, _ = experiment(long_model)(tmp_path)
    done = subprocess.run(
        [*words, "--detach"],
        cwd=tmp_path,
        env={**os.environ, MARK: marked.mark},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (state,) = (tmp_path / "results/experiments").glob("*/state.json")
    deadline_s = time.monotonic() + PATIENCE_S
    while len(marked.found()) < 4 and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
    conductor = json.loads(state.read_text())["process"]["pid"]
    assert conductor in marked.found() and len(marked.found()) >= 4
    os.kill(conductor, signal.SIGKILL)
    while (left := marked.found()) and time.monotonic() < deadline_s + PATIENCE_S:
        time.sleep(LOOK_S)
    assert not left, described(left)
