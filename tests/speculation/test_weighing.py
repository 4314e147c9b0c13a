"""One cell with its power: what ends it, and what it says when there is no energy."""

import json
import sys
from pathlib import Path

import pytest

from edgebench.power.session import PowerSettings
from edgebench.speculation.weighing import CellFailed, CellRun, run_cell

RESULT = {"summary": {"per_mode": [{}]}, "results": []}


def run(tmp_path: Path, *command: str, power: str = "none", timeout_s: float | None = None) -> dict:  # type: ignore[type-arg]
    result, settings = tmp_path / "run.json", PowerSettings(power, idle_seconds=0.1)
    cell = CellRun(command, ("--idle_seconds", "0.1"), result, tmp_path / "power.csv", settings, timeout_s)
    run_cell(cell, lambda _: None)
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def writer(tmp_path: Path) -> tuple[str, str, str]:
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'run.json')!r}).write_text({json.dumps(RESULT)!r})"
    return sys.executable, "-c", code


def test_without_power_the_result_says_why(tmp_path: Path) -> None:
    document = run(tmp_path, *writer(tmp_path))
    assert (
        "switched off" in document["summary"]["per_mode"][0]["energy"]["reason"]
        and document["cell_wall_s"] > 0
    )
    energy = run(tmp_path, *writer(tmp_path), power="replay:none.log")["summary"]["per_mode"][0]["energy"]
    assert "none.log" in energy["reason"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "echo error: no room; exit 7"), "no room"),
        (("sh", "-c", "exit 7"), "status 7 and no word"),
        (("sh", "-c", "kill -9 $$"), "SIGKILL: out of memory"),
        (("true",), "wrote no result"),
    ],
)
def test_a_cell_that_fails_says_why(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    with pytest.raises(CellFailed, match=said):
        run(tmp_path, *command)


def test_a_command_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no_such_command"):
        run(tmp_path, "no_such_command")


def test_a_cell_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(CellFailed, match="--cell_timeout"):
        run(tmp_path, "sh", "-c", f"setsid sh -c 'echo $$ > {mark}; sleep 600' & sleep 600", timeout_s=1)
    status = Path(f"/proc/{mark.read_text().strip()}/status")  # a zombie until the machine's init reaps it
    assert not status.exists() or "(zombie)" in status.read_text()
