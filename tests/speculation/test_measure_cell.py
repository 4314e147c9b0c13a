"""One cell with its power: what ends it, and what it says when there is no energy."""

import json
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "edgebench/speculation/weighing.py"
RESULT = {"summary": {"per_mode": [{}]}, "results": []}


def command(tmp_path: Path, *cell: str, power: str = "none") -> list[str]:
    paths = ["--result", str(tmp_path / "run.json"), "--trace", str(tmp_path / "power.csv")]
    return [
        sys.executable,
        str(SCRIPT),
        *paths,
        "--power_source",
        power,
        "--idle_seconds",
        "0.1",
        "--",
        *cell,
    ]


def run(tmp_path: Path, *cell: str, power: str = "none") -> subprocess.CompletedProcess[str]:
    words = command(tmp_path, *cell, power=power)
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def writer(tmp_path: Path) -> tuple[str, str, str]:
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'run.json')!r}).write_text({json.dumps(RESULT)!r})"
    return sys.executable, "-c", code


def test_without_power_the_result_says_why(tmp_path: Path) -> None:
    assert run(tmp_path, *writer(tmp_path)).returncode == 0
    document = json.loads((tmp_path / "run.json").read_text())
    assert "none" in document["summary"]["per_mode"][0]["energy"]["reason"] and document["cell_wall_s"] > 0
    assert run(tmp_path, *writer(tmp_path), power="replay:none.log").returncode == 0
    energy = json.loads((tmp_path / "run.json").read_text())["summary"]["per_mode"][0]["energy"]
    assert "none.log" in energy["reason"]


def test_the_exit_status_is_the_commands(tmp_path: Path) -> None:
    assert run(tmp_path, "sh", "-c", "exit 7").returncode == 7
    assert run(tmp_path, "sh", "-c", "kill -9 $$").returncode == 137
    done = run(tmp_path, "true")
    assert done.returncode == 1 and "wrote no result" in done.stderr
    assert run(tmp_path, "no_such_command").returncode == 1


def test_the_command_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    words = command(tmp_path, "sh", "-c", f"echo $$ > {mark}; sleep 600")
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    assert process.stdin
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.stdin.close()
    assert process.wait(60) == 130
    status = Path(f"/proc/{mark.read_text().strip()}/status")  # a zombie until the machine's init reaps it
    assert not status.exists() or "(zombie)" in status.read_text()
