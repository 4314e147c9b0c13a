"""Experiments as the user meets them: cycles, kills, terminals that go away, status from another shell."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgebench.experiments import conductor, costs
from edgebench.experiments.folder import identity
from tests.doors import call
from tests.experiments.desk import ROOT, Desk
from tests.fakes.judge_stub import JudgeStub
from tests.waiting import PATIENCE_S, is_gone, wait_for

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
    whole = Desk(tmp_path / "whole", desk.root / "m.gguf", desk.tree)
    assert whole("run", "exp.yaml").returncode == 0

    running, _ = desk.started()
    desk.go(1)
    wait_for(lambda: desk.state()["cycle"] == 2)
    assert json.loads(desk("status", "--json").stdout)["eta_s"] is not None  # from the cycle before
    desk.go(2, 1, 2)
    wait_for(lambda: desk.lines(2) == 2)
    wait_for(lambda: (desk.state()["collector"] or {}).get("pid"))
    collector = desk.state()["collector"]["pid"]
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    status = json.loads(desk("status", "--json").stdout)
    assert status["status"] == "interrupted" and status["stale"] and status["done"] == 8
    assert "gone, without a word" in desk("status").stdout
    wait_for(lambda: is_gone(collector))  # the kernel told it

    # As on a machine without the kernel's help: a collector of the start before still runs.
    orphan = subprocess.Popen(["sleep", "1000"])
    left = desk.state() | {"collector": identity(orphan.pid)}
    (desk.folder / "state.json").write_text(json.dumps(left))
    before = (desk.folder / "cycle_1.jsonl").read_bytes()
    (desk.folder / "pace").unlink()
    again = desk("run", "exp.yaml")
    assert orphan.wait(PATIENCE_S) == -signal.SIGINT  # two must not measure at once
    assert again.returncode == 0 and f"process {orphan.pid}" in again.stderr, again.stderr
    assert (desk.folder / "cycle_1.jsonl").read_bytes() == before
    starts = [line.split()[0] for line in (desk.folder / "starts.txt").read_text().splitlines()]
    assert starts.count("cycle_1.jsonl") == 1
    for name in ("cycle_1.jsonl", "cycle_2.jsonl", "cycle_3.jsonl", "summary.json", "summary.md"):
        assert (desk.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_ctrl_c_ends_the_collector_and_says_how_to_go_on(desk: Desk) -> None:
    running, folder = desk.started()
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=PATIENCE_S)
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
    (folder / "pace").unlink()
    done = desk("run", "--resume", folder.name)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "state.json").read_text())["status"] == "completed"


# --- Left alone ---


def test_a_hangup_changes_nothing_when_detached_and_status_is_true(desk: Desk) -> None:
    desk.folder_before("pace")
    terminal = desk.start("run", "exp.yaml", "--detach")  # a session of its own, as a login has
    out, said = terminal.communicate(timeout=PATIENCE_S)
    assert terminal.returncode == 0 and "From any shell" in out, said
    conductor = desk.state()["process"]["pid"]
    assert os.getsid(conductor) != terminal.pid  # the hang-up of that session cannot reach it
    os.kill(conductor, signal.SIGHUP)  # and were it sent all the same
    desk.go(1, 1, 2)
    wait_for(lambda: desk.lines(1) == 2)
    status = json.loads(desk("status", "--json").stdout)
    assert (status["status"], status["done"], status["total"], status["cycle"]) == ("running", 2, 18, 1)
    assert status["last"]["level"] == "P" and status["eta_s"] > 0
    text = desk("status").stdout
    assert "2 of 18 runs" in text and "5.00 W" in text and "50.0 C" in text and " left" in text
    second = desk("run", "exp.yaml")
    assert second.returncode == 1 and "is running already" in second.stderr
    assert desk("run", "exp.yaml", "--fresh").returncode == 1

    assert "ends after the current run" in desk("stop").stdout
    assert "ends after the current run" in desk("status").stdout
    desk.go(1, 3)
    followed = desk("follow")
    assert followed.returncode == 0 and "3/18" in followed.stdout and "stopped" in followed.stdout
    wait_for(lambda: is_gone(conductor))
    assert desk.lines(1) == 3
    assert "run --resume" in desk("status").stdout
    assert "does not run" in desk("stop").stdout
    assert "cycle 1 of 3" in (desk.folder / "run.log").read_text()

    (desk.folder / "pace").unlink()
    assert desk("run", "--resume", "exp").returncode == 0
    assert json.loads(desk("status", "--json").stdout)["done"] == 18


def test_the_time_left_knows_nothing_of_the_night_between_two_starts(desk: Desk) -> None:
    desk.folder_before("interrupt_cycle_1_3")
    assert desk("run", "exp.yaml").returncode == 130
    state = desk.state()
    state["cycles"][0]["started_at"] = "2020-01-01T00:00:00Z"
    (desk.folder / "state.json").write_text(json.dumps(state))
    (desk.folder / "pace").touch()
    again = desk.start("run", "exp.yaml")
    wait_for(lambda: desk.state()["status"] == "running" and desk.state()["collector"])
    assert json.loads(desk("status", "--json").stdout)["eta_s"] is None  # nothing finished since
    desk.go(1, 3)
    wait_for(lambda: desk.lines(1) == 3)
    assert json.loads(desk("status", "--json").stdout)["eta_s"] < 86400
    (desk.folder / "pace").unlink()
    again.communicate(timeout=PATIENCE_S)


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
    folder = desk.folder_before("fail_2")
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


@pytest.mark.parametrize("patience_s", [2 * PATIENCE_S, 0])
def test_a_cycle_waits_until_the_board_is_as_cool_as_it_was(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    """The board is 40 C until the first cycle has begun, then 60; once that has been said, it cools down."""
    desk.write(f"cycles: 2\ncool_down: {{to_within_c: 3.0, most_seconds: {patience_s}}}\n")
    folder = desk.folder_before()

    def read_hottest_c() -> float:
        if not (folder / "cycle_1.env.jsonl").exists():
            return 40.0
        assert not (folder / "cycle_2.jsonl").exists()
        waits = "60.0 C, waiting for 43.0 C" in (folder / "run.log").read_text()
        return 42.9 if waits and patience_s else 60.0

    monkeypatch.setattr(conductor, "read_hottest_c", read_hottest_c)
    done = desk("run", "exp.yaml")
    assert done.returncode == 0, done.stderr
    assert "waiting for 43.0 C" in done.stderr
    assert ("given up at 60.0 C" in done.stderr) == (patience_s == 0)
    assert [cycle["temp_c"] for cycle in desk.state()["cycles"]] == [40.0, 42.9 if patience_s else 60.0]


# --- The judge ---


def judge_words(desk: Desk, url: str) -> list[str]:
    asked = [{"question_id": n, "category": "writing", "turns": [f"Question {n}?"]} for n in (1, 2, 3)]
    (desk.root / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    sets = {"judge.model": "j", "judge.api_url": url, "judge.questions": "questions.jsonl"}
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


def test_the_judge_compares_the_first_good_cycle_and_is_asked_once(desk: Desk) -> None:
    desk.folder_before("fail_1")
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
    with JudgeStub(latency_s=PATIENCE_S) as stub:
        running = desk.start("run", "exp.yaml", "--cycles", "1", *judge_words(desk, stub.url))
        wait_for(lambda: stub.requests)
        judge = desk.state()["collector"]["pid"]
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=PATIENCE_S)
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
    flags = ["--model", str(tiny_model("llama")), "--output", str(tmp_path / "exp")]
    power = ["--source", f"replay:{ROOT}/data/demo/power_replay.log", "--idle_seconds", "0.5"]
    short = ["--max_tokens", "8", "--limit", "2", "--no_aggregate"]
    prompts = ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
    words = ["run", "--preset", "quick-test", "--cycles", "2", *flags, *power, *short, *prompts]
    done = call("companions/run_experiment.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "exp").glob("quick-test-*/summary.json")
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["cycles_counted"] == [1, 2] and cell["simulated_power"]
    assert cell["metrics"]["energy_joule"]["n"] == 2 and cell["metrics"]["flops"]["std"] == 0
    assert "SIMULATED" in path.with_suffix(".md").read_text()


def test_the_throughput_preset_batches(tmp_path: Path, llama_cpp: object, tiny_model: Any) -> None:
    flags = ["--model", str(tiny_model("llama")), "--output", str(tmp_path / "exp"), "--source", "none"]
    short = ["--max_tokens", "8", "--repeats", "1", "--batch_sizes", "1", "2", "--cycles", "1"]
    prompts = ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv")]
    words = ["run", "--preset", "throughput", *flags, *short, *prompts]
    done = call("companions/run_experiment.py", *words, cwd=tmp_path)
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


def test_a_plan_of_a_trained_model_runs_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"mean": 2.0, "low": 1.0, "high": 3.0}
    levels = {"L0": {"runs": 9, "latency_s": figures, "energy_joule": dict.fromkeys(figures)}}
    monkeypatch.setattr(costs, "make_plan", lambda budget: {"levels": levels, "warnings": ["w"]})
    plan = json.loads(desk("plan", "exp.yaml", "--trained", "m", "--json").stdout)
    assert plan["time_s"] == {"low": 1.0, "mean": 2.0, "high": 3.0}
    assert plan["energy_joule"] is None and plan["warnings"] == ["w"]
    assert not (desk.root / "results").exists()
