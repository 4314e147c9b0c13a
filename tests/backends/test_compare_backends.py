"""A whole comparison, llama.cpp's programs played, the collector real: order, resume, refusals, energy."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.backends import campaign
from edgebench.backends.campaign import plan
from edgebench.backends.engines.engine import Asked
from edgebench.backends.job import JobSettings, make_job
from edgebench.backends.reading import readable
from edgebench.backends.rows import measure
from edgebench.board.facts import ask_engine
from tests.doors import call, command
from tests.test_nothing_left_running import MARK, Marked, described
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "fakes" / "fake_engines.py"
LOGS = ROOT.parent / "shared" / "data" / "backends"


def compare(*words: object) -> subprocess.CompletedProcess[str]:
    return call("companions/compare_backends.py", *words)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


@pytest.fixture
def setting(llama_cpp, tiny_model: Callable[..., Path], tmp_path: Path) -> list[object]:  # type: ignore[no-untyped-def]
    """The words of a run over played engines; their steering file is tmp_path/FAKE."""
    for name in ("llama-bench", "llama-completion"):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\n" + FAKE.read_text())
        program.chmod(0o755)
    model = tiny_model("qwen3", mode="never", type="Q8_0", n_layer=1)
    return [
        "run", "--model", model, "--prompt", "Tell me of a dog.", "--max_tokens", 20, "--n_threads", 1,
        "--n_gpu_layers", 0, "--llama_bin", tmp_path, "--out", tmp_path / "rows.jsonl", "--source", "none",
    ]  # fmt: skip


def test_rounds_interleave_resume_and_end_in_a_table(
    setting: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(campaign, "ask_engine", lambda: asked.append(ask_engine()) or asked[-1])
    engines = ["llama-bench", "llama-completion", "llama-server"]
    done = compare(*setting, "--engines", *engines, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert [one["error"] for one in asked] == [None]  # once, and not beside every run
    rows = rows_of(tmp_path / "rows.jsonl")
    # One warm-up each; the missing server is one row with its reason and not three.
    assert [row["phase"] for row in rows].count("warmup") == 3
    assert [row["status"] for row in rows].count("MISSING") == 1 and len(rows) == 5
    assert {row["engine"] for row in rows if row["round"] == 1} == set(engines[:2])
    assert all(row["conditions"]["board"] for row in rows)
    assert all(row["energy_joule"] is None and row["energy_missing"] for row in rows)
    header = done.stdout.splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[1:7]] == [
        "Backend", "Model", "Prefill tok/s", "Decode tok/s", "TTFT ms", "Notes"]  # fmt: skip
    assert "llama-server" in done.stdout and "cmake" in done.stdout
    # Again, with one more round: only what is new, and the missing engine is asked again.
    done = compare(*setting, "--engines", *engines, "--rounds", 2)
    assert done.returncode == 0, done.stderr
    more = rows_of(tmp_path / "rows.jsonl")[5:]
    assert [row["round"] for row in more if row["status"] == "ok"] == [2, 2]
    assert "±" in done.stdout and "paired rounds" not in done.stderr
    shown = compare("show-commands", tmp_path / "rows.jsonl")
    assert shown.returncode == 0 and shown.stdout.count("llama-bench -m") == 2
    line = next(line for line in shown.stdout.splitlines() if "llama-completion -m" in line)
    assert subprocess.run(["bash", "-c", line], capture_output=True).returncode == 0
    table = compare("table", tmp_path / "rows.jsonl", "--csv")
    assert table.returncode == 0 and table.stdout.startswith("Backend,Model,Prefill tok/s")


@pytest.mark.slow
def test_an_engine_that_fails_is_left_out_until_asked_again(setting: list[object], tmp_path: Path) -> None:
    (tmp_path / "FAKE").write_text(json.dumps({"fail": "CUDA error: out of memory"}))
    words = [*setting, "--engines", "llama-bench", "--rounds", 1]
    done = compare(*words)
    assert done.returncode == 0 and "out of memory" in done.stdout
    assert len(rows_of(tmp_path / "rows.jsonl")) == 1
    (tmp_path / "FAKE").unlink()
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"torn')  # by a power cut
    done = compare(*words, "--retry_errors")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "rows.jsonl")
    assert [row["status"] for row in rows] == ["FAILED", "ok", "ok"]


def test_one_bad_start_does_not_cost_all_rounds(setting: list[object], tmp_path: Path) -> None:
    (tmp_path / "FAKE").write_text(json.dumps({"fail": "CUDA error: out of memory", "once": True}))
    done = compare(*setting, "--engines", "llama-bench", "--rounds", 1)
    assert done.returncode == 0 and "out of memory; once more" in done.stderr
    warm_up, timed = rows_of(tmp_path / "rows.jsonl")
    assert (warm_up["status"], timed["status"], timed["round"]) == ("ok", "ok", 1)
    assert any("a first start failed" in note for note in warm_up["notes"])


@pytest.mark.slow
def test_other_conditions_are_refused(setting: list[object], tmp_path: Path) -> None:
    words = [*setting, "--engines", "llama-bench", "--rounds", 1]
    assert compare(*words).returncode == 0
    rows = rows_of(tmp_path / "rows.jsonl")
    for row in rows:
        row["conditions"]["power_mode_name"] = "15W"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words[-1] = 2
    done = compare(*words)
    assert done.returncode == 1 and "power_mode_name was 15W" in done.stderr
    assert len(rows_of(tmp_path / "rows.jsonl")) == 2
    assert compare(*words, "--allow_differing_conditions").returncode == 0


def test_ctrl_c_ends_the_engine_and_keeps_the_rows(setting: list[object], tmp_path: Path) -> None:
    (tmp_path / "FAKE").write_text(json.dumps({"hang": True}))
    words = command("companions/compare_backends.py", *setting, "--engines", "llama-bench", "--rounds", 1)
    child = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    pid_file = tmp_path / "PID"
    wait_for(lambda: child.poll() is not None or (pid_file.is_file() and pid_file.read_text()))
    assert child.poll() is None, child.communicate()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130 and b"Traceback" not in err
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


# What a process is, by its command line: the first that fits, for the keeper's names the feed, too.
ROOMS = {
    "edgebench.shell.foreign": "guard",
    "edgebench.power.keeper": "keeper",
    "edgebench.power.feeds": "feed",
    "edgebench.engine.worker": "engine",
    "run_llamacpp_collect.py": "collector",
    "compare_backends.py": "door",
    "llama-bench": "llama-bench",
}


def rooms_of(pids: set[int]) -> dict[int, str]:
    """What each process is."""
    lines = {pid: " ".join(described({pid})) for pid in pids}
    return {pid: next((ROOMS[one] for one in ROOMS if one in line), line) for pid, line in lines.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("engine", "row"),
    [("llama-bench", ["guard", "llama-bench"]), ("llama-cpp-python", ["collector", "engine", "guard"])],
)
def test_a_row_is_its_engine_and_a_guard_beside_the_door_and_power(
    engine: str, row: list[str], setting: list[object], tmp_path: Path
) -> None:
    """Counted while the engine is stopped in the middle of its row; all of it ends with the door."""
    (tmp_path / "FAKE").write_text(json.dumps({"hang": True}))
    started, rooms = Marked(), {}
    words = [*setting[:-1], f"replay:{ROOT / 'data/demo/power_replay.log'}", "--idle_seconds", 1]
    said = tmp_path / "said.txt"
    with said.open("w") as stderr:
        door = subprocess.Popen(
            command("companions/compare_backends.py", *words, "--engines", engine),
            env={**os.environ, MARK: started.mark},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )

    def a_row_is_under_way() -> bool:
        """All that belongs to it is there, and nothing else; the collector's engine goes no further."""
        rooms.clear()
        rooms.update(rooms_of(started.found()))
        assert door.poll() is None, said.read_text()
        if "collector" in rooms.values():  # before, the engine is the one that prepares the job
            for pid in [pid for pid, room in rooms.items() if room == "engine"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        return sorted(rooms.values()) == sorted(["door", "keeper", "feed", *row])

    try:
        wait_for(a_row_is_under_way, f"a row of these alone: {row}")
    finally:
        door.kill()
        door.wait()
    wait_for(lambda: not started.found(), "the end of what the row had started")


@pytest.mark.slow
def test_energy_of_each_answer(setting: list[object], tmp_path: Path) -> None:
    """A feed of constant power: what is above idle is nothing, and the row says what it was computed from."""
    feed = "while :; do echo 'VDD_IN 5000mW'; sleep 0.1; done"
    words = [word for word in setting if word not in ("--source", "none")]
    words += ["--feed", f'bash -c "{feed}"', "--interval", 100, "--idle_seconds", 1]
    # An answer must be as long as a sample or two.
    (tmp_path / "FAKE").write_text(json.dumps({"seconds": 0.5}))
    done = compare(*words, "--engines", "llama-cpp-python", "llama-completion", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    timed = {row["engine"]: row for row in rows_of(tmp_path / "rows.jsonl") if row["round"] == 1}
    ours = timed["llama-cpp-python"]
    assert ours["idle_mw"] == pytest.approx(5000)
    assert "resident, before" in ours["idle_method"]
    assert ours["energy_joule"] == pytest.approx(0, abs=1e-6), ours["energy_missing"]
    tool = timed["llama-completion"]
    assert tool["idle_method"] == "before the engine was started"
    assert tool["energy_joule"] == pytest.approx(0, abs=1e-6), tool["energy_missing"]


def test_bad_input_is_an_error(setting: list[object], tmp_path: Path) -> None:
    done = compare(*setting, "--engines", "llama-bench", "llama-bench")
    assert done.returncode == 1 and "twice" in done.stderr
    done = compare(*setting, "--engines", "nonsense")
    assert done.returncode == 1 and "nonsense" in done.stderr and "Traceback" not in done.stderr
    words = [tmp_path / "none.gguf" if str(word).endswith(".gguf") else word for word in setting]
    done = compare(*words, "--engines", "llama-bench")
    assert done.returncode == 1 and "none.gguf" in done.stderr and "Traceback" not in done.stderr
    done = compare("show-commands", tmp_path / "none.jsonl")
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_a_dry_run_prints_commands_and_order(setting: list[object], tmp_path: Path) -> None:
    done = compare(*setting, "--engines", "llama-bench", "llama-server", "--rounds", 2, "--dry_run")
    assert done.returncode == 0 and not (tmp_path / "rows.jsonl").exists()
    assert "llama-bench -m" in done.stdout and "cmake" in done.stdout and "# round 2:" in done.stdout


@pytest.mark.skipif(not LOGS.is_dir(), reason="the shared logs are not here")
def test_logs_give_the_published_figures() -> None:
    done = compare("parse", *sorted(LOGS.glob("*.log")))
    assert done.returncode == 0, done.stderr
    for figure in (
        "1090.46 ± 0.35",
        "25.61 ± 0.01",
        "1391.94 ± 2.35",
        "27.82 ± 0.03",
        "38.81",
        "38.32",
        "3.30",
    ):
        assert figure in done.stdout
    assert "record neither power mode nor clocks" in done.stdout


def test_lines_of_logs_say_what_was_measured(tmp_path: Path) -> None:
    head = "| model | size | params | backend | test | t/s |\n|---|---|---|---|---|---|\n"
    row = "| x Q8_0 | 1 MiB | 1 M | CPU | {} | {} ± 1.00 |\n"
    tests = (("pp16", 90), ("tg8", 50), ("pp16+tg8", 70), ("pp16 @ d32", 60), ("tg8 @ d32", 40))
    (tmp_path / "bench.md").write_text(head + "".join(row.format(*test) for test in tests))
    lines = [line for line in compare("parse", tmp_path / "bench.md").stdout.splitlines() if "x Q8_0" in line]
    assert "pp16; tg8; pp16+tg8: 70.00 ± 1.00 tok/s over both phases" in lines[0]
    assert "pp16 @ d32; tg8 @ d32" in lines[1] and len(lines) == 2


def test_a_warm_up_of_several_tokens_is_all_in_the_answer(tmp_path: Path) -> None:
    times = (2000, 1000, 500, *[10] * 50)
    (tmp_path / "a.log").write_text("".join(f"ran model in {time} ms\n" for time in times))
    said = " ".join(compare("parse", tmp_path / "a.log").stdout.split())
    assert "(3 of 53 tokens) take 88% of the answer, the first token alone 50%" in said


def test_a_log_without_result_is_a_failed_line(tmp_path: Path) -> None:
    (tmp_path / "bad.log").write_text(
        "using NV backend\nTraceback (most recent call last):\nMemoryError: 4 GB\n"
    )
    done = compare("parse", tmp_path / "bad.log")
    assert done.returncode == 1 and "FAILED" in done.stdout and "MemoryError" in done.stdout


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), unique=True, min_size=1, max_size=5), st.integers(1, 6), st.integers())
def test_every_engine_once_per_round(engines: list[str], rounds: int, seed: int) -> None:
    cells = plan(engines, rounds, seed)
    assert cells == plan(engines, rounds, seed)
    for number in range(rounds + 1):
        assert sorted(engine for r, _, engine in cells if r == number) == sorted(engines)


@pytest.mark.slow
def test_tinygrad_runs_the_same_job(  # type: ignore[no-untyped-def]
    llama_cpp, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, once; its kernels are compiled into a cache of the test's own."""
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    import shutil

    if shutil.which("clang") is None:
        pytest.skip("tinygrad's CPU device needs clang")
    model = tiny_model("qwen3", mode="never", type="Q8_0", n_layer=1)
    wanted = JobSettings(model, prompt="a dog", prompt_format="raw", max_tokens=16, n_gpu_layers=0)
    job = make_job(wanted, tmp_path)
    monkeypatch.setenv("CACHEDB", str(tmp_path / "cache.db"))
    row = measure(job, Asked("tinygrad:CPU", tmp_path, warmup=1))
    assert row["status"] == "ok", row["cause"]
    assert len(row["token_ids"]) == row["generated_tokens"] == 16 and row["agreed_tokens"] >= 1
    # Warmed up before, it is timed as the others are: no slow token is forgiven.
    assert row["warmup_excluded"] is None and row["decode_tok_per_s"] == row["decode_all_tok_per_s"]
    assert row["first_run_ttft_ms"] > row["ttft_ms"] > 0
    assert "half" in row["weights"] and row["build"]
    assert readable(row) == (row, [])  # nothing of a row of ours is taken as missing
