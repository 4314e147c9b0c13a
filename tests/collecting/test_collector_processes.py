"""Which processes the collector starts, and that none of them outlives it, however it ends."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.doors import command
from tests.waiting import wait_for

DOOR = "run_llamacpp_collect.py"
LEVELS = ("L0", "L1", "L2", "L3", "P")
PATIENCE_S = 120.0


def write_prompts(folder: Path, tasks: int) -> Path:
    path = folder / "prompts.jsonl"
    rows = [{"question_id": n, **{level: f"{n}: {level} " * 3 for level in LEVELS}} for n in range(tasks)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words_for(folder: Path, *models: Path, tasks: int, **more: object) -> list[str]:
    log = folder / "power.log"
    log.write_text("VDD_IN 5000mW/5000mW\n" * 100)  # no line says when it was: the pace is --interval
    flags = {
        "prompts": write_prompts(folder, tasks),
        "out_jsonl": folder / "runs.jsonl",
        "max_tokens": 6,
        "source": f"replay:{log}",
        "interval": 20,
        "idle_seconds": 0.2,
        **more,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return command(DOOR, "--models", *models, *words)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which counts, is not installed")
def test_sixty_runs_of_two_models_start_two_engines_one_keeper_and_one_feed(
    demo_models: dict[str, Path], tmp_path: Path
) -> None:
    """Counted by the kernel's calls: nothing else is started, from the plan to the final check."""
    calls = tmp_path / "calls"
    # By seccomp the kernel stops at these calls alone, and not at each of any kind.
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", calls]
    asked = words_for(tmp_path, demo_models["llama"], demo_models["qwen2"], tasks=6, idle_every=15)
    done = subprocess.run([*map(str, strace), *asked], capture_output=True, text=True)
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip("this machine lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "runs.jsonl")) == 60
    started = [line for line in calls.read_text().splitlines() if "execve(" in line and line.endswith("= 0")]
    rooms = Counter(
        next(
            (
                word
                for word in ("engine.worker", "power.keeper", "power.feeds")
                if f"edgebench.{word}" in line
            ),
            line,
        )
        for line in started[1:]  # the first is the collector itself
    )
    # The keeper's line names the feed, too: it is given its command.
    assert rooms == {"engine.worker": 2, "power.keeper": 1, "power.feeds": 1}, started


def processes_below(pid: int) -> list[int]:
    """Process ids below `pid`."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, open_ends = [], [pid]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def lives(pid: int) -> bool:
    """Whether a process of this house runs under this number; one that is only to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and b"edgebench" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def whole_keys(path: Path) -> list[str]:
    """Keys of the records that are whole."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line)["run_key"] for line in data[: data.rfind(b"\n") + 1].splitlines()]


def kill_at_random(
    asked: list[str], out: Path, draw: random.Random, whole_group: bool, at_a_record: bool
) -> list[int]:
    """Start the collector, kill -9 it (or its group) at a random moment; the processes that were below it."""
    there = len(whole_keys(out))
    child = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    assert child.stderr is not None
    # A moment is a record it writes, or a line it says, and a pinch of time: planning, loading, idle, runs,
    # the end.
    if at_a_record:
        wait_for(lambda: len(whole_keys(out)) > there or child.poll() is not None)
        time.sleep(draw.random() * 0.1)
    else:
        for _ in range(draw.randrange(1, 7)):
            child.stderr.readline()
        time.sleep(draw.random() * 0.4)
    below = processes_below(child.pid)
    if whole_group:
        with contextlib.suppress(ProcessLookupError):  # it was through
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()
    child.stderr.close()
    return below


def kill_and_finish(folder: Path, model: Path, kills: int, repeats: int) -> None:
    """Kill it again and again, the parent alone and its group in turn; then let it finish, and look."""
    draw = random.Random(kills)
    asked = words_for(folder, model, tasks=2, repeats=repeats, idle_every=8, cooldown=0.02)
    out = folder / "runs.jsonl"
    for number in range(kills):
        before = whole_keys(out)
        whole_group, at_a_record = number % 2 == 1, number % 4 < 2
        below = kill_at_random(asked, out, draw, whole_group, at_a_record)
        wait_for(lambda below=below: not any(map(lives, below)))
        assert whole_keys(out)[: len(before)] == before
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = read(out)
    keys = [record["run_key"] for record in records]
    assert len(keys) == len(set(keys)) == 10 * repeats
    assert all(record["error"] is None for record in records)
    assert not list(folder.glob(".*.part"))


def test_kill_9_of_the_parent_or_the_group_loses_doubles_and_leaves_nothing(
    demo_models: dict[str, Path], tmp_path: Path
) -> None:
    kill_and_finish(tmp_path, demo_models["llama"], kills=4, repeats=2)


@pytest.mark.slow
def test_twenty_kills(demo_models: dict[str, Path], tmp_path: Path) -> None:
    kill_and_finish(tmp_path, demo_models["llama"], kills=20, repeats=12)
