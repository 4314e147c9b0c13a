"""Experiments as the user meets them: cycles, kills, terminals that go away, status from another shell."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.experiments.folder import identity
from tests.experiments.desk import ROOT, WAIT_SECONDS, Desk, is_gone, wait
from tests.fakes.judge_stub import JudgeStub

# --- A campaign ---


def test_three_cycles_leave_everything_in_one_folder(desk: Desk) -> None:
    done = desk("run", "exp.yaml", "--max_tokens", "64")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in desk.folder.iterdir()}
    assert names >= {
        "effective_config.json", "overrides.json", "environment.jsonl", "state.json", "cycle_1.jsonl",
        "cycle_2.jsonl", "cycle_3.jsonl", "summary.json", "summary.md", "run.log",
    }  # fmt: skip
    assert {"key": "generation.max_tokens", "from": 512, "to": 64, "by": "flag"} in json.loads(
        (desk.folder / "overrides.json").read_text()
    )
    state = desk.state()
    assert state["status"] == "completed" and [cycle["runs"] for cycle in state["cycles"]] == [6, 6, 6]
    starts = (desk.folder / "starts.txt").read_text().splitlines()
    assert len(starts) == 3 and all("--max_tokens=64 --temperature=0.0" in line for line in starts)
    seeds = [line.partition("--seed=")[2].split()[0] for line in starts]
    assert [int(seed) - int(seeds[0]) for seed in seeds] == [0, 1, 2]
    again = desk("run", "exp.yaml", "--max_tokens", "64")
    assert again.returncode == 0 and "is complete" in again.stdout
    assert len((desk.folder / "starts.txt").read_text().splitlines()) == 3

    shown = desk("results", "show", "exp").stdout
    assert shown.startswith("exp\n\nm F32\nlevel ") and re.search(r"^L0 +3 +\S+ ± \S+ ", shown, re.M)
    assert shown in done.stdout and max(map(len, shown.splitlines())) <= 80
    page = (desk.folder / "summary.md").read_text()
    assert page.startswith("# exp") and "| m F32 | L0 | 3 |" in page
    assert len(desk("results", "show", "exp", "--raw").stdout.splitlines()) == 18
    assert json.loads(desk("results", "show", "exp", "--json").stdout)["cells"]
    assert "completed" in desk("results", "list").stdout
    assert json.loads(desk("results", "list", "--json").stdout)[0]["done"] == 18
    (desk.folder / "summary.md").unlink()
    assert desk("aggregate", "exp").returncode == 0 and (desk.folder / "summary.md").exists()


@pytest.mark.slow
def test_fresh_starts_over_and_keeps_the_old(desk: Desk) -> None:
    assert desk("run", "exp.yaml", "--cycles", "1").returncode == 0
    assert desk("run", "exp.yaml", "--cycles", "1", "--fresh").returncode == 0
    assert len(list((desk.root / "results/experiments").glob(".*.old"))) == 1
    assert len((desk.folder / "starts.txt").read_text().splitlines()) == 1
    assert len(desk("results", "list").stdout.splitlines()) == 1  # the old one is no experiment any more


def test_killed_in_cycle_2_of_3_it_goes_on_and_sums_up_the_same(desk: Desk, tmp_path: Path) -> None:
    whole = Desk(tmp_path / "whole", desk.root / "m.gguf")
    assert whole("run", "exp.yaml").returncode == 0

    desk.hold_back()
    running = desk.start("run", "exp.yaml")
    wait(lambda: list((desk.root / "results/experiments").glob("*/state.json")))
    desk.go(1)
    wait(lambda: desk.state()["cycle"] == 2)
    assert json.loads(desk("status", "--json").stdout)["eta_s"] is not None  # from the cycle before
    desk.go(2, 1, 2)
    wait(lambda: desk.lines(2) == 2)
    wait(lambda: (desk.state()["collector"] or {}).get("pid"))
    collector = desk.state()["collector"]["pid"]
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    status = json.loads(desk("status", "--json").stdout)
    assert status["status"] == "interrupted" and status["stale"] and status["done"] == 8
    assert "gone, without a word" in desk("status").stdout
    wait(lambda: is_gone(collector))  # the kernel told it

    # As on a machine without the kernel's help: a collector of the start before still runs.
    orphan = subprocess.Popen(["sleep", "1000"])
    left = desk.state() | {"collector": identity(orphan.pid)}
    (desk.folder / "state.json").write_text(json.dumps(left))
    before = (desk.folder / "cycle_1.jsonl").read_bytes()
    again = desk.start("run", "exp.yaml")
    assert orphan.wait(WAIT_SECONDS) == -signal.SIGINT  # two must not measure at once
    desk.go(2)
    desk.go(3)
    _, said = again.communicate(timeout=WAIT_SECONDS)
    assert again.returncode == 0 and f"process {orphan.pid}" in said, said
    assert (desk.folder / "cycle_1.jsonl").read_bytes() == before
    starts = [line.split()[0] for line in (desk.folder / "starts.txt").read_text().splitlines()]
    assert starts.count("cycle_1.jsonl") == 1
    for name in ("cycle_1.jsonl", "cycle_2.jsonl", "cycle_3.jsonl", "summary.json", "summary.md"):
        assert (desk.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_ctrl_c_ends_the_collector_and_says_how_to_go_on(desk: Desk) -> None:
    desk.hold_back()
    running = desk.start("run", "exp.yaml", "--limit", "3", "--set", "generation.max_tokens=512")
    wait(lambda: list((desk.root / "results/experiments").glob("*/state.json")))
    folder = next((desk.root / "results/experiments").glob("*/state.json")).parent
    wait(lambda: (folder / "cycle_1.jsonl").exists())
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 130, said
    assert f"run --resume {folder.name}" in said
    pid = int((folder / "starts.txt").read_text().split()[1])
    assert is_gone(pid)
    assert json.loads((folder / "state.json").read_text())["status"] == "interrupted"
    other = desk("run", "exp.yaml", "--cycles", "1", "--name", "other")
    assert f"unfinished: {folder.name}" in other.stderr
    moved = folder.parent.rename(desk.root / "elsewhere") / folder.name
    assert f"run --resume elsewhere/{folder.name}" in desk("status", f"elsewhere/{folder.name}").stdout
    folder = moved.parent.rename(desk.root / "results/experiments") / folder.name
    done = desk("run", "--resume", folder.name)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "state.json").read_text())["status"] == "completed"


# --- Left alone ---


def test_a_hangup_changes_nothing_when_detached_and_status_is_true(desk: Desk) -> None:
    desk.hold_back()
    terminal = desk.start("run", "exp.yaml", "--detach")  # a session of its own, as a login has
    out, said = terminal.communicate(timeout=WAIT_SECONDS)
    assert terminal.returncode == 0 and "From any shell" in out, said
    conductor = desk.state()["process"]["pid"]
    assert os.getsid(conductor) != terminal.pid  # the hang-up of that session cannot reach it
    os.kill(conductor, signal.SIGHUP)  # and were it sent all the same
    desk.go(1, 1, 2)
    wait(lambda: desk.lines(1) == 2)
    status = json.loads(desk("status", "--json").stdout)
    assert (status["status"], status["done"], status["total"], status["cycle"]) == ("running", 2, 18, 1)
    assert status["last"]["level"] == "P" and status["eta_s"] > 0
    text = desk("status").stdout
    assert "2 of 18 runs" in text and "5.00 W" in text and "50.0 C" in text and " left" in text
    second = desk("run", "exp.yaml")
    assert second.returncode == 1 and "is running already" in second.stderr
    assert desk("run", "exp.yaml", "--fresh").returncode == 1

    follower = desk.start("follow")
    assert "ends after the current run" in desk("stop").stdout
    assert "ends after the current run" in desk("status").stdout
    desk.go(1, 3)
    told, _ = follower.communicate(timeout=WAIT_SECONDS)
    assert follower.returncode == 0 and "3/18" in told and "stopped" in told
    wait(lambda: is_gone(conductor))
    assert desk.lines(1) == 3
    assert "run --resume" in desk("status").stdout
    assert "does not run" in desk("stop").stdout
    assert "cycle 1 of 3" in (desk.folder / "run.log").read_text()

    (desk.folder / "pace").unlink()
    assert desk("run", "--resume", "exp").returncode == 0
    assert json.loads(desk("status", "--json").stdout)["done"] == 18


def test_the_time_left_knows_nothing_of_the_night_between_two_starts(desk: Desk) -> None:
    desk.hold_back()
    running = desk.start("run", "exp.yaml")
    wait(lambda: (desk.folder_before() / "state.json").exists())
    desk.go(1, 1, 2)
    wait(lambda: desk.lines(1) == 2)
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=WAIT_SECONDS)
    state = desk.state()
    state["cycles"][0]["started_at"] = "2020-01-01T00:00:00Z"
    (desk.folder / "state.json").write_text(json.dumps(state))
    again = desk.start("run", "exp.yaml")
    wait(lambda: desk.state()["status"] == "running" and desk.state()["collector"])
    assert json.loads(desk("status", "--json").stdout)["eta_s"] is None  # nothing finished since
    desk.go(1, 3)
    wait(lambda: desk.lines(1) == 3)
    assert json.loads(desk("status", "--json").stdout)["eta_s"] < 86400
    (desk.folder / "pace").unlink()
    again.communicate(timeout=WAIT_SECONDS)


def test_a_number_that_another_process_has_by_now_is_no_running_experiment(desk: Desk) -> None:
    assert desk("run", "exp.yaml", "--cycles", "1").returncode == 0
    stale = desk.state() | {"status": "running", "process": {"pid": os.getpid(), "start_ticks": 1}}
    stale["cycles"][0]["status"] = "running"
    (desk.folder / "state.json").write_text(json.dumps(stale))
    assert json.loads(desk("status", "--json").stdout)["status"] == "interrupted"
    assert desk("run", "exp.yaml", "--cycles", "1").returncode == 0
    assert desk.state()["status"] == "completed"


# --- Cycles ---


def test_a_failed_cycle_is_kept_as_failed_and_the_rest_go_on(desk: Desk) -> None:
    desk.hold_back()
    folder = next((desk.root / "results/experiments").iterdir())
    (folder / "pace").unlink()
    (folder / "fail_2").touch()
    done = desk("run", "exp.yaml")
    assert done.returncode == 1 and "cycle 2 failed" in done.stderr
    state = desk.state()
    assert [cycle["status"] for cycle in state["cycles"]] == ["completed", "failed", "completed"]
    assert state["status"] == "completed"
    summary = json.loads((folder / "summary.json").read_text())
    assert [cell["cycles_counted"] for cell in summary["cells"]] == [[1, 3], [1, 3]]
    assert "cycle 2: failed (6 of 6 runs failed)" in (folder / "summary.md").read_text()
    (folder / "fail_2").unlink()
    assert desk("run", "exp.yaml", "--retry_failed").returncode == 0
    assert [cycle["status"] for cycle in desk.state()["cycles"]] == ["completed"] * 3


def test_it_stops_once_the_interval_is_narrow_enough(desk: Desk) -> None:
    done = desk("run", "exp.yaml", "--set", "cycles=8", "--until_ci", "20%")
    assert done.returncode == 0, done.stderr
    state = desk.state()
    assert state["reached_at"] == 3 and [c["status"] for c in state["cycles"]][3:] == ["pending"] * 5
    summary = json.loads((desk.folder / "summary.json").read_text())
    assert summary["until_ci"]["reached"] and summary["until_ci"]["widest"] <= 0.2
    assert json.loads(desk("status", "--json").stdout)["total"] == 18


@pytest.mark.slow
def test_warm_up_and_cool_down_leave_no_trace_in_the_cycles(desk: Desk) -> None:
    done = desk("run", "exp.yaml", "--warm_up", "2", "--cycles", "2", "--set", "cool_down.seconds=0.5")
    assert done.returncode == 0, done.stderr
    starts = [line.split() for line in (desk.folder / "starts.txt").read_text().splitlines()]
    assert [words[0] for words in starts] == ["warm_up.jsonl", "cycle_1.jsonl", "cycle_2.jsonl"]
    assert {"--limit=1", "--repeats=2", "--source=none"} <= set(starts[0])
    assert json.loads((desk.folder / "summary.json").read_text())["cells"][0]["cycles_counted"] == [1, 2]


def set_to(zone: Path, temp_c: float) -> None:
    """At once, as a sensor does: a file that is empty for a moment would be one that is off."""
    draft = zone.with_name("draft")
    draft.write_text(f"{temp_c * 1000:.0f}\n")
    draft.replace(zone)


def with_thermal_zone(desk: Desk) -> Path:
    """A zone in place of this machine's, which the test heats."""
    zone = desk.root / "sys/class/thermal/thermal_zone0/temp"
    zone.parent.mkdir(parents=True)
    zone.write_text("40000\n")
    script = desk.root / "edgebench/board/thermal.py"
    assert 'Path("/sys")' in script.read_text()
    script.write_text(script.read_text().replace('Path("/sys")', f"Path({str(desk.root / 'sys')!r})"))
    return zone


@pytest.mark.parametrize("patience", [2 * WAIT_SECONDS, 0])
def test_a_cycle_waits_until_the_board_is_as_cool_as_it_was(desk: Desk, patience: int) -> None:
    zone = with_thermal_zone(desk)
    desk.write(f"cycles: 2\ncool_down: {{to_within_c: 3.0, most_seconds: {patience}}}\n")
    desk.hold_back()
    running = desk.start("run", "exp.yaml")
    folder = desk.folder_before()
    wait(lambda: (folder / "cycle_1.env.jsonl").exists())
    set_to(zone, 60)
    (folder / "pace").unlink()
    if patience:
        wait(lambda: "60.0 C, waiting for 43.0 C" in (folder / "run.log").read_text())
        assert not (folder / "cycle_2.jsonl").exists()
        set_to(zone, 42.9)
    _, said = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 0, said
    assert ("given up at 60.0 C" in said) == (patience == 0)
    assert [cycle["temp_c"] for cycle in desk.state()["cycles"]] == [40.0, 42.9 if patience else 60.0]


# --- The judge ---


def judge_words(desk: Desk, url: str) -> list[str]:
    shutil.copy(ROOT / "judge_pairs.py", desk.root)
    asked = [{"question_id": n, "category": "writing", "turns": [f"Question {n}?"]} for n in (1, 2, 3)]
    (desk.root / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    sets = {"judge.model": "j", "judge.api_url": url, "judge.questions": "questions.jsonl"}
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


def test_the_judge_compares_the_first_good_cycle_and_is_asked_once(desk: Desk) -> None:
    desk.hold_back()
    (desk.folder_before() / "pace").unlink()
    (desk.folder_before() / "fail_1").touch()
    assert desk("run", "exp.yaml").returncode == 1
    with JudgeStub() as stub:
        words = judge_words(desk, stub.url)
        # The judge is not of the hash: the measured experiment goes on with it.
        done = desk("run", "exp.yaml", *words)
        assert done.returncode == 1 and "judge: j" in done.stderr, (
            done.stderr
        )  # cycle 1 is still a failed one
        assert stub.requests == 6  # three tasks, one pair, both ways round
        assert "is complete" in desk("run", "exp.yaml", *words).stdout
        assert stub.requests == 6
    rows = (desk.folder / "scores_mtbench.csv").read_text().splitlines()
    assert len(rows) == 4 and all(",L0_vs_P," in row for row in rows[1:])
    assert len((desk.folder / "starts.txt").read_text().splitlines()) == 3


def test_a_judge_that_fails_is_told_and_asked_again_at_the_next_start(desk: Desk) -> None:
    with JudgeStub(then="bad_key", after=2) as stub:
        words = judge_words(desk, stub.url)
        done = desk("run", "exp.yaml", "--cycles", "1", *words)
        assert done.returncode == 1 and "judge: exit code" in done.stderr, done.stderr
    assert "the judge failed" in desk("status").stdout
    with JudgeStub() as stub:
        done = desk("run", "exp.yaml", "--cycles", "1", *judge_words(desk, stub.url))
        assert done.returncode == 0, done.stderr
        assert 0 < stub.requests < 6  # what was judged before is kept
    assert "the judge failed" not in desk("status").stdout
    assert len((desk.folder / "starts.txt").read_text().splitlines()) == 1


def test_ctrl_c_ends_the_judge_too(desk: Desk) -> None:
    with JudgeStub(latency_s=WAIT_SECONDS) as stub:
        running = desk.start("run", "exp.yaml", "--cycles", "1", *judge_words(desk, stub.url))
        wait(lambda: stub.requests)
        judge = desk.state()["collector"]["pid"]
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 130 and "run --resume" in said and is_gone(judge), said
    state = desk.state()
    assert state["status"] == "interrupted" and state["cycles"][0]["status"] == "completed"


def test_other_prompts_under_the_same_name_are_not_mixed_in(desk: Desk) -> None:
    assert desk("run", "exp.yaml", "--cycles", "1").returncode == 0
    before = (desk.root / "p.csv").read_text()
    (desk.root / "p.csv").write_text(before.replace("a,b", "another,b"))
    for words in (["run", "exp.yaml"], ["run", "--resume", "exp"], ["batch", "exp.yaml"]):
        more = ["--cycles", "1"] if "--resume" not in words else []
        done = desk(*words, *more)
        assert done.returncode == 1 and "p.csv is not what it was when exp-" in done.stderr, done.stderr
    (desk.root / "p.csv").write_text(before)
    assert "is complete" in desk("run", "exp.yaml", "--cycles", "1").stdout


def test_cycles_of_two_power_modes_are_told_and_never_enough(desk: Desk) -> None:
    assert desk("run", "exp.yaml", "--until_ci", "50%").returncode == 0
    summary = json.loads((desk.folder / "summary.json").read_text())
    assert summary["mixed"] == {}
    for n, mode in ((1, "15W"), (2, "15W"), (3, "MAXN")):
        env = {"env_id": "e", "board": {"power_mode_name": mode}, "engine": {"version": "1"}, "models": {}}
        (desk.folder / f"cycle_{n}.env.jsonl").write_text(json.dumps(env) + "\n")
    assert "power mode 15W and MAXN" in desk("aggregate", "exp").stderr  # the workbooks refuse
    summary = json.loads((desk.folder / "summary.json").read_text())
    assert summary["mixed"] == {"power_mode_name": {"15W": [1, 2], "MAXN": [3]}}
    assert not summary["until_ci"]["reached"] and "power_mode_name" in summary["until_ci"]["reason"]
    assert (
        "MIXED: power_mode_name is 15W in cycle 1, 2; MAXN in cycle 3"
        in (desk.folder / "summary.md").read_text()
    )


# --- Several, and mistakes ---


@pytest.mark.slow
def test_batch_runs_in_parallel_where_no_energy_is_measured(desk: Desk) -> None:
    assert desk("config", "grid", "exp.yaml", "--vary", "max_tokens=8,16", "--outdir", "grid").returncode == 0
    done = desk("batch", "grid/*.yaml", "--parallel", "2", "--source", "none", "--cycles", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": done") == 2
    assert len(list((desk.root / "results/experiments").glob("*/summary.json"))) == 2


def test_a_dataset_becomes_prompts_by_another_process(desk: Desk) -> None:
    (desk.root / "set.txt").write_text("one\ntwo\nthree\nfour\n")
    desk.file.write_text("models: [m.gguf]\naggregate: false\n")
    done = desk("run", "exp.yaml", "--dataset", "set.txt", "--sample_size", "2", "--set", "column=null")
    assert done.returncode == 0, done.stderr
    assert len((desk.folder / "prompts.csv").read_text().splitlines()) == 3
    assert "--levels L0" in (desk.folder / "starts.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "what is to run?"),
        (["run", "--preset", "quick-test"], "no model; name one with --model"),
        (["run", "exp.yaml", "--model", "gone.gguf"], "gone.gguf does not exist"),
        (["run", "exp.yaml", "--set", "max_tokns=3"], "did you mean generation.max_tokens"),
        (["run", "--resume", "nothing"], "which experiment is nothing?"),
        (["run", "exp.yaml", "--levels", "L7"], "no column L7"),
        (["results", "show"], "results show ID"),
        (["results", "show", "nothing"], "which experiment is nothing?"),
        (["aggregate"], "aggregate ID, or aggregate --all"),
        (["status"], "no experiments in"),
        (["batch", "exp.yaml", "--parallel", "2"], "experiments run together share one meter"),
        (["batch", "none*.yaml"], "no file matches none*.yaml"),
        (["batch", "none.yaml"], "none.yaml does not exist"),
    ],
)
def test_mistakes_are_told_in_a_line(desk: Desk, words: list[str], said: str) -> None:
    done = desk(*words)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (desk.root / "results").exists()


def test_the_real_collector_in_cycles(tmp_path: Path, llama_cpp: object, tiny_model: Any) -> None:
    command = [sys.executable, str(ROOT / "companions/run_experiment.py")]
    flags = ["--model", str(tiny_model("llama")), "--output", str(tmp_path / "exp")]
    power = ["--source", f"replay:{ROOT}/data/demo/power_replay.log", "--idle_seconds", "1"]
    short = ["--max_tokens", "8", "--limit", "2", "--no_aggregate"]
    prompts = ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
    done = subprocess.run(
        [*command, "run", "--preset", "quick-test", "--cycles", "2", *flags, *power, *short, *prompts],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "exp").glob("quick-test-*/summary.json")
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["cycles_counted"] == [1, 2] and cell["simulated_power"]
    assert cell["metrics"]["energy_joule"]["n"] == 2 and cell["metrics"]["flops"]["std"] == 0
    assert "SIMULATED" in path.with_suffix(".md").read_text()


def test_the_throughput_preset_batches(tmp_path: Path, llama_cpp: object, tiny_model: Any) -> None:
    command = [sys.executable, str(ROOT / "companions/run_experiment.py"), "run", "--preset", "throughput"]
    flags = ["--model", str(tiny_model("llama")), "--output", str(tmp_path / "exp"), "--source", "none"]
    short = ["--max_tokens", "8", "--repeats", "1", "--batch_sizes", "1", "2", "--cycles", "1"]
    prompts = ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
    done = subprocess.run([*command, *flags, *short, *prompts], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "exp").glob("throughput-*/summary.json")
    cells = json.loads(path.read_text())["cells"]
    assert [cell["level"] for cell in cells] == ["batch 1", "batch 2"]
    assert all(cell["metrics"]["tok_per_s"]["mean"] > 0 for cell in cells)
    assert all("energy_joule" not in cell["metrics"] for cell in cells)
    one, two = (cell["metrics"] for cell in cells)
    assert one["flops"]["mean"] == two["flops"]["mean"] > 0  # decoded together, the arithmetic is the same


# --- Plans ---


def test_a_plan_from_a_pilot_scales_what_was_measured(desk: Desk) -> None:
    shutil.copy(ROOT / "judge_pairs.py", desk.root)
    judge = ["--set", "judge.model=j", "--set", "judge.api_url=http://localhost/v1"]
    done = desk("plan", "exp.yaml", "--pilot_tasks", "1", "--json", *judge)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["runs"] == 18 and plan["method"] == "pilot" and len(plan["cells"]) == 2
    (path,) = (desk.root / "results/experiments").glob("pilot-*/cycle_1.jsonl")
    pilot = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(pilot) == 2
    expected = 9 * sum(record["energy_joule"] for record in pilot)
    assert plan["energy_joule"]["mean"] == pytest.approx(expected)
    assert plan["time_s"]["mean"] == pytest.approx(9 * sum(record["latency_ms"] for record in pilot) / 1000)
    assert plan["judge"]["requests"] == 6  # three tasks, one pair, both ways round
    starts = len((path.parent / "starts.txt").read_text().splitlines())
    assert "time " in desk("plan", "exp.yaml", "--pilot_tasks", "1", *judge).stdout
    assert len((path.parent / "starts.txt").read_text().splitlines()) == starts  # the pilot is kept


def test_a_plan_of_a_trained_model_runs_nothing(desk: Desk) -> None:
    (desk.root / "edgebench/forecasting/budget.py").write_text(
        "Budget = dict\nfig = {'mean': 2.0, 'low': 1.0, 'high': 3.0}\n"
        "no = dict.fromkeys(fig)\n"
        "levels = {'L0': {'runs': 9, 'latency_s': fig, 'energy_joule': no}}\n"
        "def make_plan(asked):\n    return {'levels': levels, 'warnings': ['w']}\n"
    )
    plan = json.loads(desk("plan", "exp.yaml", "--trained", "m", "--json").stdout)
    assert plan["time_s"] == {"low": 1.0, "mean": 2.0, "high": 3.0}
    assert plan["energy_joule"] is None and plan["warnings"] == ["w"]
    assert not (desk.root / "results").exists()
