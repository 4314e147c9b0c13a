"""Starts: unfinished experiments on a terminal, refusals that leave nothing, batches, hints that work."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companions.run_experiment import main
from edgebench.experiments.batch import matching
from edgebench.experiments.folder import identity
from tests.experiments.desk import Desk
from tests.waiting import PATIENCE_S, is_gone, wait_for

# --- On a terminal


def on_a_terminal(desk: Desk, typed: str, *words: str) -> tuple[int, str]:
    """(exit code, what it said) of a command at a terminal, at which this is typed."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    child = subprocess.Popen(
        desk.command(*words),
        cwd=desk.root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 65536):
            said += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return child.wait(PATIENCE_S), said.decode()


def test_an_unfinished_experiment_is_asked_about(desk: Desk) -> None:
    folder = desk.interrupted()
    code, said = on_a_terminal(desk, "what\nl\n", "run", "exp.yaml")
    assert code == 0 and said.count("[r]esume it, start [f]resh, or [l]eave") == 2, said
    assert "2 of 6 runs" in said
    assert desk.state()["status"] == "interrupted"
    # Another configuration of the same name: the unfinished one may be what is meant.
    code, said = on_a_terminal(desk, "\n", "run", "exp.yaml", "--max_tokens", "9")
    assert code == 0 and "2 of 6 runs" in said, said
    assert json.loads((folder / "state.json").read_text())["status"] == "completed"
    assert not list(folder.parent.glob(".*"))


def test_fresh_on_a_terminal_keeps_the_old_one(desk: Desk) -> None:
    folder = desk.interrupted()
    code, said = on_a_terminal(desk, "f\n", "run", "exp.yaml")
    assert code == 0 and "is kept as" in said, said
    assert desk.state()["status"] == "completed"
    (old,) = folder.parent.glob(".*.old")
    assert len((old / "cycle_1.jsonl").read_text().splitlines()) == 2
    assert len(desk("results", "list").stdout.splitlines()) == 1
    listed = desk("results", "list", "--all").stdout.splitlines()
    assert len(listed) == 2 and listed[1].endswith(old.name)


def test_without_a_terminal_it_goes_on_without_a_question(desk: Desk) -> None:
    desk.interrupted()
    done = desk("run", "exp.yaml")
    assert done.returncode == 0 and "[r]esume" not in done.stderr
    assert desk.state()["status"] == "completed"


# --- kill -9


def test_status_and_stop_speak_of_the_work_that_outlived_its_conductor(desk: Desk) -> None:
    folder = desk.interrupted()
    # As on a machine whose kernel does not tell children of their parent's death.
    orphan = subprocess.Popen(["sleep", "1000"])
    state = desk.state() | {"status": "running", "process": {"pid": 1, "start_ticks": 1}}
    (folder / "state.json").write_text(json.dumps(state | {"collector": identity(orphan.pid)}))
    shown = json.loads(desk("status", "--json").stdout)
    assert (shown["status"], shown["stale"], shown["working"]["pid"]) == ("interrupted", True, orphan.pid)
    text = desk("status").stdout
    assert f"process {orphan.pid} still works on" in text and "run_experiment.py stop " in text
    assert desk("results", "list").stdout.startswith("orphaned")
    fresh = desk("run", "exp.yaml", "--fresh")
    assert fresh.returncode == 1 and "stop it first" in fresh.stderr  # it would write into another's folder
    stopped = desk("stop")
    assert orphan.wait(PATIENCE_S) == -signal.SIGINT
    assert stopped.returncode == 0 and "has ended" in stopped.stdout
    text = desk("status").stdout
    assert "gone, without a word" in text and "run --resume" in text


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
def test_kills_at_any_moment_change_nothing_in_the_summary(
    desk: Desk, tmp_path: Path, tiny_model: Callable[..., Path], moment: int
) -> None:
    """The conductor and its collector are killed after so many runs; then it goes on."""
    whole = Desk(tmp_path / "whole", desk.root / "m.gguf", desk.tree)
    assert whole("run", "exp.yaml").returncode == 0
    running, folder = desk.started()
    for run in range(1, moment + 1):
        desk.go(1, run)
    wait_for(lambda: desk.lines(1) == moment)
    victims = [running.pid, desk.state()["collector"]["pid"]]
    for pid in victims if moment % 2 else reversed(victims):
        os.kill(pid, signal.SIGKILL)
    running.communicate(timeout=PATIENCE_S)
    wait_for(lambda: all(map(is_gone, victims)))
    (folder / "pace").unlink()
    again = desk("run", "--resume", folder.name, *(["--retry_failed"] if moment % 2 == 0 else []))
    assert again.returncode == 0, again.stderr
    for name in ("cycle_1.jsonl", "cycle_2.jsonl", "cycle_3.jsonl", "summary.json", "summary.md"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


# --- Hints


def test_ctrl_c_says_once_how_to_go_on_and_the_hint_works(desk: Desk) -> None:
    desk.write("cycles: 1\noutput: elsewhere/of mine\n")
    desk.folder_before("interrupt_cycle_1_1")
    stopped = desk("run", "exp.yaml")
    said = stopped.stderr
    assert stopped.returncode == 130 and said.lower().count("go on with") == 1, said
    assert_hint_works(desk, said)


def assert_hint_works(desk: Desk, said: str) -> None:
    """The command of a hint runs as it stands."""
    hint = re.search(r"python companions/run_experiment.py (.+)", said)
    assert hint is not None, said
    done = desk(*shlex.split(hint[1]))
    assert done.returncode == 0, (hint[1], done.stderr)


def test_every_hint_finds_an_experiment_elsewhere(desk: Desk) -> None:
    desk.write("cycles: 1\noutput: elsewhere\n")
    assert desk("run", "exp.yaml").returncode == 0
    again = desk("run", "exp.yaml")
    assert "is complete" in again.stdout
    assert_hint_works(desk, again.stdout.split(";")[1])
    (folder,) = (desk.root / "elsewhere").iterdir()
    (folder / "summary.json").unlink()
    shown = desk("results", "show", f"elsewhere/{folder.name}")
    assert shown.returncode == 1
    assert_hint_works(desk, shown.stderr)


def test_the_collector_says_how_to_go_on_when_it_is_started_by_hand_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgebench.shell.progress import CONDUCTED, advise

    advise("Go on with: this")
    assert capsys.readouterr().err == "Go on with: this\n"
    monkeypatch.setenv(CONDUCTED, "1")
    advise("Go on with: this")
    assert capsys.readouterr().err == ""


# --- Refused before anything is made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "exp.yaml", "--set", "kv_type=q8_0"], "cannot take a q8_0 cache"),
        (
            [
                "run",
                "--preset",
                "throughput",
                "--model",
                "m.gguf",
                "--prompts",
                "p.csv",
                "--limit",
                "3",
                "--batch_sizes",
                "1",
                "2",
                "4",
            ],
            "a batch of 4 needs 4 prompts, and there are 3",
        ),
        (["batch", "exp.yaml", "worse.yaml"], "gone.gguf does not exist"),
        (["batch", "exp.yaml", "wrong.yaml"], "unknown key modles"),
        (["batch", "exp.yaml", "--parallel", "2"], "share one meter"),
    ],
)
def test_a_refusal_leaves_no_folder(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(desk.root)
    Path("worse.yaml").write_text("models: [gone.gguf]\nprompts: [p.csv]\nlevels: [L0]\n")
    Path("wrong.yaml").write_text("modles: [m.gguf]\n")
    assert main(words) == 1
    assert said in capsys.readouterr().err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["batch", "exp.yaml", "--parallel", "-2"],
        ["batch", "exp.yaml", "--parallel", "0"],
        ["run", "exp.yaml", "--cycles", "11"],
        ["run", "exp.yaml", "--cycles", "0"],
        ["run", "exp.yaml", "--until_ci", "2"],
        ["run", "exp.yaml", "--until-ci", "200%"],
        ["run", "exp.yaml", "--limit", "0"],
        ["run", "exp.yaml", "--temperature", "-1"],
        ["run", "exp.yaml", "--cyc", "2"],
        ["plan", "exp.yaml", "--pilot_tasks", "0"],
        ["results"],
        ["status", "--now"],
    ],
)
def test_a_wrong_flag_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# --- Batch


def test_a_second_batch_leaves_failed_experiments_unless_told(desk: Desk) -> None:
    desk.write("cycles: 1\n")
    folder = desk.folder_before("fail_1")
    first = desk("batch", "exp.yaml")
    assert first.returncode == 1 and "exit code 1" in first.stdout
    starts = (folder / "starts.txt").read_text()
    second = desk("batch", "exp.yaml")
    assert second.returncode == 1 and "failed before" in second.stdout and "--retry_failed" in second.stdout
    assert (folder / "starts.txt").read_text() == starts
    (folder / "fail_1").unlink()
    third = desk("batch", "exp.yaml", "--retry-failed")
    assert third.returncode == 0 and ": done" in third.stdout, third.stderr


def test_patterns_that_the_shell_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        Path(name).touch()
    assert matching(["*.yaml", "a.yaml"]) == [Path("a.yaml"), Path("b.yaml")]
    assert matching(["gone.yaml"]) == [Path("gone.yaml")]


# --- Counts


def made_state(desk: Desk, **changes: Any) -> Path:
    folder = desk.root / "results/experiments/made-0123456789ab"
    folder.mkdir(parents=True)
    shown = json.loads(desk("config", "show", "exp.yaml", "--set", "cycles=1").stdout)
    (folder / "effective_config.json").write_text(json.dumps(shown["config"]))
    cycle = {"n": 1, "status": "completed", "runs": 2, "failed": 0, "started_at": None, "ended_at": None}
    state = {
        "id": folder.name, "status": "completed", "process": None, "collector": None, "cycle": 1,
        "runs_per_cycle": None, "cycles": [cycle],
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state | changes))
    return folder


def test_a_finished_experiment_of_a_dataset_knows_its_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_state(desk)
    (folder / "cycle_1.jsonl").write_text('{"run_key": "a"}\n{"run_key": "b"}\n')
    monkeypatch.chdir(desk.root)
    assert main(["results", "list"]) == 0
    assert re.match(r"completed +2/2 runs +1/1 cycles +made-0123456789ab$", capsys.readouterr().out)


def test_failed_runs_and_cycles_are_no_good_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"n": 1, "status": "failed", "runs": 1, "failed": 1, "started_at": None, "ended_at": None}
    folder = made_state(desk, status="failed", runs_per_cycle=1, cycles=[failed])
    error = {"type": "model_load", "message": "no"}
    (folder / "cycle_1.jsonl").write_text(json.dumps({"run_key": "a", "error": error}) + "\n")
    monkeypatch.chdir(desk.root)
    assert main(["results", "list"]) == 0
    shown = capsys.readouterr().out
    assert re.match(r"failed +0/1 runs +0/1 cycles +made-0123456789ab  \(1 run failed\)$", shown)


# --- Workbooks


def test_the_workbooks_are_made_without_scores(desk: Desk) -> None:
    desk.write("cycles: 1\n")
    desk.file.write_text(desk.file.read_text().replace("aggregate: false\n", ""))
    done = desk("run", "exp.yaml")  # pandas, in the conductor
    assert done.returncode == 0 and "workbooks in " in done.stderr, done.stderr
    books = {path.name for path in desk.folder.glob("*.xlsx")}
    assert books == {
        f"{name}.xlsx"
        for name in ("quality_scores", "energy_per_run", "latency_per_run", "output_tokens_per_run")
    }
