"""Grids run as processes: what lands where, what is done again, what a failure costs. One cell is played."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions" / "sweep_speculative.py"
FAKE = shlex.join([sys.executable, str(ROOT / "tests" / "fakes" / "fake_speculate.py")])
FEED = "sh -c 'while :; do echo EMC_FREQ 12%@2133 tj@40C VDD_IN 5000mW/5000mW; sleep 0.02; done'"
QUICK = (
    "--requests", "3", "--max_tokens", "8", "--batches", "2", "--idle_seconds", "0", "--power_source", "none",
)  # fmt: skip


class Bench:
    """A folder with a model, prompts, and a sweep that runs the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "sweeps"
        (folder / "model.gguf").write_text("model")
        (folder / "prompts.csv").write_text("question_id,L0\n1,hello\n")

    def command(self, *words: object) -> list[str]:
        files = ["--model", self.folder / "model.gguf", "--prompts", self.folder / "prompts.csv"]
        flags = [*words, *files, "--outdir", self.out, "--speculate", FAKE, "--no_pilot"]
        return [sys.executable, str(SCRIPT), *map(str, flags)]

    def env(self, **play: object) -> dict[str, str]:
        play = {"seconds": 0.01, "log": str(self.folder / "starts.log"), **play}
        return {**os.environ, "FAKE_SPECULATE": json.dumps(play)}

    def run(self, *words: object, **play: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, env=self.env(**play))

    def starts(self) -> int:
        log = self.folder / "starts.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def results(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*.json")}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def small_grid(tmp_path: Path) -> Path:
    cells = [{"draft_tokens": 4, "adaptive": ["off", "cost"]}]
    (tmp_path / "small.json").write_text(json.dumps(cells))
    return tmp_path / "small.json"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def test_all_grids_leave_the_folders_people_know(bench: Bench) -> None:
    (bench.folder / "draft.gguf").write_text("draft")
    words = ("--draft", bench.folder / "draft.gguf", "--temperature", "0.0", "--draft_tokens", "10")
    done = bench.run("all", *QUICK, *words)
    assert done.returncode == 0, done.stderr
    names = set(bench.results())
    assert {
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptive0.json",
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptive1.json",
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptivepub.json",
        "adaptive_grid/plain_r3_t8_temp0.0.json",
        "early_exit_grid/run1_r3_t8_temp0.0_thresh0.0.json",
        "early_exit_grid/run3_r3_t8_temp0.0_thresh0.5.json",
        "oneoff_scenarios/scenario_a_code_completion.json",
        "oneoff_scenarios/scenario_c_high_throughput_plain.json",
    } <= names
    log = (bench.out / "early_exit_grid" / "experiment.log").read_text()
    stats = (
        r"Confidence early exit stats: 18 tokens stopped out of 240 checks \((.+)% of the tokens to draft\)"
    )
    found = re.search(stats, log)
    assert found and 0 < float(found[1]) < 100
    assert "0 failed" in (bench.out / "master_experiment.log").read_text()
    assert f"[{len(names)}/{len(names)}]" in done.stderr and "left" in done.stderr


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_the_jq_lines_people_use_find_their_pairs(bench: Bench) -> None:
    bench.run("adaptive", *QUICK, "--temperature", "0.0")
    loop = """
    for f in sweeps/adaptive_grid/run*_adaptive0.json; do
        jq -r '.summary.per_mode[0].latency_avg_s' "$f" "${f/_adaptive0/_adaptive1}" || exit 3
    done
    jq -r '.summary.per_mode[0].ncu_metrics."dram__bytes_write.sum"' "$f"
    grep -c "Confidence early exit stats" sweeps/adaptive_grid/experiment.log
    """
    done = subprocess.run(["bash", "-c", loop], cwd=bench.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *latencies, dram, lines = done.stdout.split()
    assert len(latencies) == 6 and all(float(value) > 0 for value in latencies)
    assert dram == "null" and int(lines) == 10  # 3 draft lengths x 3 rules, plain


def test_what_is_done_is_skipped_and_what_changed_is_done_again(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK).returncode == 0
    before = bench.results()
    assert bench.starts() == 3
    done = bench.run("--grid", small_grid, *QUICK)
    assert done.returncode == 0 and "3 done, 0 to do" in done.stderr
    assert bench.results() == before and bench.starts() == 3
    assert bench.run("--grid", small_grid, *QUICK, "--warmup", 2).returncode == 0
    assert bench.starts() == 6
    for name, content in before.items():  # the old ones are kept aside
        assert (bench.out / f"{name}.1").read_bytes() == content
    torn = bench.out / next(iter(before))
    torn.write_bytes(torn.read_bytes()[:100])
    assert bench.run("--grid", small_grid, *QUICK, "--warmup", 2).returncode == 0
    assert bench.starts() == 7 and json.loads(torn.read_text())


def test_kill_9_costs_the_cell_that_ran_and_leaves_nothing_running(bench: Bench, small_grid: Path) -> None:
    command = bench.command("--grid", small_grid, *QUICK)
    sweep = subprocess.Popen(command, env=bench.env(hang="adaptive1"), stderr=subprocess.DEVNULL)
    started = bench.folder / "starts.log"
    wait_for(lambda: started.exists() and "adaptive1" in started.read_text())
    before = bench.results()
    hanging = [pid for pid in children_of_all() if "adaptive1" in pid[1] and "fake_speculate" in pid[1]]
    assert hanging
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    wait_for(lambda: not any(alive(pid) for pid, _ in hanging))
    done = bench.run("--grid", small_grid, *QUICK)
    assert done.returncode == 0, done.stderr
    after = bench.results()
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert not list(bench.out.rglob("*.part"))


def children_of_all() -> list[tuple[int, str]]:
    """(pid, command line) of every process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")))
    return found


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_failed_cell_says_why_and_the_rest_goes_on(bench: Bench, small_grid: Path) -> None:
    done = bench.run("--grid", small_grid, *QUICK, fail="adaptive1")
    assert done.returncode == 1 and "1 cells failed" in done.stderr
    log = (bench.out / "small" / "experiment.log").read_text()
    assert "_adaptive1: FAILED the drafter has another vocabulary" in log
    assert len(bench.results()) == 2
    assert bench.run("--grid", small_grid, *QUICK).returncode == 0
    assert len(bench.results()) == 3


def test_a_cell_that_hangs_is_ended(bench: Bench, small_grid: Path) -> None:
    done = bench.run("--grid", small_grid, *QUICK, "--cell_timeout", 2, hang="adaptive1")
    assert done.returncode == 1 and "--cell_timeout" in done.stderr and len(bench.results()) == 2


def test_ctrl_c_tells_how_to_go_on(bench: Bench, small_grid: Path) -> None:
    command = bench.command("--grid", small_grid, *QUICK)
    sweep = subprocess.Popen(command, env=bench.env(hang="adaptive1"), stderr=subprocess.PIPE, text=True)
    started = bench.folder / "starts.log"
    wait_for(lambda: started.exists() and "adaptive1" in started.read_text())
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Go on with" in said and str(small_grid) in said


def test_power_is_recorded_and_weighed_over_the_batches(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([{"name": "one"}]))
    words = ["--grid", tmp_path / "one.json", "--requests", 2, "--max_tokens", 5, "--batches", 2]
    done = bench.run(*words, "--idle_seconds", 0.6, "--interval_ms", 20, "--feed", FEED, seconds=0.4)
    assert done.returncode == 0, done.stderr
    document = json.loads((bench.out / "one" / "one.json").read_text())
    mode = document["summary"]["per_mode"][0]
    energy = mode["energy"]
    assert energy["reason"] is None and not energy["simulated"] and energy["power_rail"] == "VDD_IN"
    spent_s = sum(batch["t1_s"] - batch["t0_s"] for batch in document["results"])
    assert energy["energy_gross_joule_per_request"] == pytest.approx(5.0 * spent_s / 4, rel=1e-3)
    assert energy["energy_joule_per_request"] == pytest.approx(0.0, abs=1e-3)  # a steady 5 W, idle too
    assert energy["joule_gross_per_output_token"] == pytest.approx(5.0 * spent_s / 20, rel=1e-3)
    assert energy["idle_mw"] == pytest.approx(5000.0) and len(energy["per_batch"]) == 2
    assert mode["emc"]["emc_load_percent_mean"] == pytest.approx(12.0)
    assert document["sweep"]["wall_s"] >= 0.8


def test_idle_power_is_that_of_loaded_models(bench: Bench, tmp_path: Path) -> None:
    """A board that draws 3 W until the cell is up, and 5 W from then on."""
    (tmp_path / "one.json").write_text(json.dumps([{"name": "one"}]))
    watts = (
        f"[ -s {shlex.quote(str(bench.folder / 'starts.log'))} ] && echo VDD_IN 5000mW || echo VDD_IN 3000mW"
    )
    words = ["--grid", tmp_path / "one.json", "--requests", 2, "--max_tokens", 5, "--batches", 1]
    feed = shlex.join(["bash", "-c", f"while :; do {watts}; sleep 0.02; done"])
    done = bench.run(*words, "--idle_seconds", 0.8, "--interval_ms", 20, "--feed", feed, seconds=0.4)
    assert done.returncode == 0, done.stderr
    for path in bench.results():  # the cell and plain decoding: one of them was the first to load
        energy = json.loads((bench.out / path).read_text())["summary"]["per_mode"][0]["energy"]
        assert energy["idle_method"] == "after the model was loaded"
        assert energy["idle_mw"] == pytest.approx(5000.0, rel=0.05)
        assert abs(energy["energy_joule_per_request"]) < 0.1 < energy["energy_gross_joule_per_request"]


def test_a_feed_that_gives_nothing_costs_the_energy_and_not_the_cell(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([{"name": "one"}]))
    done = bench.run("--grid", tmp_path / "one.json", *QUICK, "--feed", "false")
    assert done.returncode == 0, done.stderr
    energy = json.loads((bench.out / "one" / "one.json").read_text())["summary"]["per_mode"][0]["energy"]
    assert energy.get("energy_joule_per_request") is None and "no power sample" in energy["reason"]


def fake_ncu(folder: Path) -> Path:
    """A profiler that runs the command, notes it in ncu.log and exports two kernels."""
    ncu = folder / "ncu"
    table = '"ID","Kernel Name","dram__bytes_write.sum"\n"","","Mbyte"\n"0","k","3"\n"1","k","4"\n'
    ncu.write_text(
        f"#!{sys.executable}\nimport pathlib, subprocess, sys\nwords = sys.argv[1:]\n"
        f"if '--import' in words: print({table!r}); sys.exit()\n"
        f"print(*words, file=open({str(folder / 'ncu.log')!r}, 'a'))\n"
        "pathlib.Path(words[words.index('--export') + 1]).write_text('report')\n"
        "sys.exit(subprocess.call(words[words.index('--metrics') + 2:]))\n"
    )
    ncu.chmod(0o755)
    return ncu


def test_counters_come_from_a_profiled_process_of_its_own(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([{"name": "one"}]))
    words = ["--grid", tmp_path / "one.json", *QUICK, "--ncu"]
    assert bench.run(*words, "--ncu_path", tmp_path / "no_ncu").returncode == 0
    mode = json.loads((bench.out / "one" / "one.json").read_text())["summary"]["per_mode"][0]
    assert mode["ncu_metrics"] == {} and "not here" in mode["ncu"]["reason"]
    shutil.rmtree(bench.out)
    ncu = fake_ncu(tmp_path)
    starts = bench.starts()
    assert bench.run(*words, "--ncu_path", ncu).returncode == 0
    document = json.loads((bench.out / "one" / "one.json").read_text())
    assert document["summary"]["per_mode"][0]["ncu_metrics"] == {"dram__bytes_write.sum": 7e6}
    assert len(document["results"]) == 2 and len(document["results"][0]["outputs"]) == 3  # the timed ones
    assert bench.starts() == starts + 4  # two cells, each timed and profiled
    drafted = next(line for line in (tmp_path / "ncu.log").read_text().splitlines() if "--plain" not in line)
    assert "--compare none" in drafted  # plain decoding beside the drafts would be counted with them


def test_finished_cells_get_their_counters_later_and_keep_their_times(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([{"name": "one"}]))
    words = ["--grid", tmp_path / "one.json", *QUICK]
    assert bench.run(*words).returncode == 0
    before, starts = bench.results(), bench.starts()
    assert bench.run(*words, "--ncu", "--ncu_path", tmp_path / "no_ncu").returncode == 0
    assert bench.results() == before
    assert bench.run(*words, "--ncu", "--ncu_path", fake_ncu(tmp_path)).returncode == 0
    assert bench.starts() == starts + 2  # profiled only
    for name, old in before.items():
        was, now = json.loads(old), json.loads((bench.out / name).read_text())
        assert now["summary"]["per_mode"][0]["ncu_metrics"] == {"dram__bytes_write.sum": 7e6}
        assert now["results"] == was["results"] and now["sweep"] == was["sweep"]


def test_a_dry_run_and_an_estimate(bench: Bench, small_grid: Path) -> None:
    done = bench.run("--grid", small_grid, *QUICK, "--dry_run")
    assert done.returncode == 0 and "no estimate of time yet" in done.stdout and not bench.out.exists()
    command = [word for word in bench.command("--grid", small_grid, *QUICK) if word != "--no_pilot"]
    done = subprocess.run(command, capture_output=True, text=True, env=bench.env())
    assert "pilot: " in done.stderr and "about " in done.stderr
    done = bench.run("--grid", small_grid, *QUICK, "--dry_run", "--warmup", 3)
    assert "3 to do, about" in done.stdout


def test_what_a_cell_costs_beside_decoding_is_not_taken_for_decoding(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK).returncode == 0
    for path in bench.results():  # as of a board: 60 s to load, 24 tokens at 10 ms
        document = json.loads((bench.out / path).read_text())
        assert document["config"]["out"] == str(bench.out / path)
        units, runs = document["sweep"]["units"], [*document["results"], *document["plain"]]
        for run in runs:
            run["latency_s"] = 0.01 * units / len(runs)
        document["sweep"]["took_s"] = 60 + 0.01 * units
        (bench.out / path).write_text(json.dumps(document))
    longer = ("--max_tokens", 800)  # 100 times as many tokens: 3 x 60 s, and 10 ms per token
    done = bench.run("--grid", small_grid, *QUICK, *longer, "--dry_run")
    tokens = 800 * (3 * (2 + 2 + 2) + 2 * 3 + 3 * 1)  # batches, plain beside two of the cells, warm-up
    assert f"3 to do, about {round((180 + 0.01 * tokens) / 60)} min" in done.stdout, done.stdout


def test_two_sweeps_do_not_share_a_folder(bench: Bench, small_grid: Path) -> None:
    play = bench.env(hang="adaptive")
    command = bench.command("--grid", small_grid, *QUICK)
    first = subprocess.Popen(command, env=play, stderr=subprocess.DEVNULL)
    wait_for(lambda: bench.starts() > 0)
    done = bench.run("--grid", small_grid, *QUICK)
    first.send_signal(signal.SIGINT)
    first.wait(60)
    assert done.returncode == 1 and "another sweep" in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "--grid"),
        (("oneoff", "--model", "none.gguf"), "--model"),
        (("--grid", "none.json"), "--grid"),
        (("adaptive", "early-exit"), "one grid at a time"),
        (("oneoff", "--prompts_for", "code.csv"), "SCENARIO=FILE"),
        (("all",), "--threshold 0"),
        (("adaptive", "--interval_ms", "0"), "--interval_ms"),
        (("adaptive", "--idle_seconds", "-1"), "--idle_seconds"),
    ],
)
def test_what_is_missing_is_named(bench: Bench, words: tuple[str, ...], hint: str) -> None:
    command = bench.command(*words)
    if "--model" in words:
        at = len(command) - 1 - command[::-1].index("--model")
        del command[at : at + 2]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and hint in done.stderr


def test_a_cell_of_the_real_thing(tmp_path: Path, llama_cpp: object, tiny_model: Callable[..., Path]) -> None:
    target, draft = (
        tiny_model("llama", chain=True, mode="never"),
        tiny_model("llama", chain=True, mode="never", draft_accept=0.7, n_layer=1),
    )
    (tmp_path / "prompts.csv").write_text("question_id,L0\n1,one\n2,two\n3,three\n")
    (tmp_path / "real.json").write_text(json.dumps([{"draft_tokens": 3, "threshold": 0.1}]))
    flags = ["--grid", tmp_path / "real.json", "--model", target, "--draft", draft, "--n_threads", 1]
    flags += ["--prompts", tmp_path / "prompts.csv", "--outdir", tmp_path / "sweeps", *QUICK]
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, flags)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = ["summary", tmp_path / "sweeps", "--outdir", tmp_path / "summed", "--no_plots"]
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summed" / "summary.json").read_text())
    (row,) = [row for row in summary["rows"] if row["role"] == "fixed"]
    assert row["reference"] == "plain, same process" and row["latency_ratio"] > 0
    assert row["outputs"] == row["outputs_identical"] == 3  # F32
    assert 0 < row["spec_num_accepted_tokens"] <= row["spec_num_draft_tokens"]
    assert row["accept_by_position"] and not [note for note in summary["notes"] if "latencies" in note]
