"""Grids run through the door, on a played engine: what lands where, what is redone, what failures cost."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companions import sweep_speculative
from edgebench.engine.client import ENGINE_CRASH, REFUSED, TIMEOUT, EngineFailure
from edgebench.speculation import cell, checks
from tests.fakes.fake_draft_engine import FakeEngine
from tests.fakes.fake_ncu import fake_ncu

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions" / "sweep_speculative.py"
FEED = "sh -c 'while :; do echo EMC_FREQ 12%@2133 tj@40C VDD_IN 5000mW/5000mW; sleep 0.02; done'"
QUICK = (
    "--requests", 3, "--max_tokens", 8, "--batches", 2, "--idle_seconds", 0, "--power_source", "none",
    "--no_pilot",
)  # fmt: skip
TIMED = ("--requests", 2, "--max_tokens", 5, "--no_pilot")  # power is recorded


def one_cell(folder: Path) -> tuple[object, ...]:
    """The words for a grid of one cell, one/one.json."""
    grid = folder / "one.json"
    grid.write_text(json.dumps([{"name": "one"}]))
    return "--grid", grid


class Bench:
    """A folder with a model, prompts, and a door whose engine is played."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.capsys = folder, folder / "sweeps", capsys
        self.engine: type[FakeEngine]
        self.said = self.printed = ""
        for name in ("model.gguf", "draft.gguf"):
            (folder / name).write_text(name)
        (folder / "prompts.csv").write_text("question_id,L0\n1,hello\n2,what is a lock?\n3,why\n")

    def words(self, *words: object) -> list[str]:
        files = ["--model", self.folder / "model.gguf", "--prompts", self.folder / "prompts.csv"]
        return [*map(str, words), *map(str, files), "--outdir", str(self.out)]

    def run(self, *words: object) -> int:
        """The exit status; what was said stands in `said` and `printed`."""
        code = sweep_speculative.main(self.words(*words))
        self.printed, self.said = self.capsys.readouterr()
        return code

    @property
    def cells(self) -> int:
        """Engines that were loaded so far."""
        return len(self.engine.loaded)

    def results(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*.json")}

    def mode(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / name).read_text())["summary"]["per_mode"][0]
        return found

    def log(self, grid: str) -> str:
        return (self.out / grid / "experiment.log").read_text()


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    class Engine(FakeEngine):
        loaded: list[Any] = []  # noqa: RUF012

    for room in (cell, checks):
        monkeypatch.setattr(room, "EngineProcess", Engine)
    for name in ("TARGET_MODEL", "DRAFT_MODEL", "TENSOR_PARALLEL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    made = Bench(tmp_path, capsys)
    made.engine = Engine
    return made


@pytest.fixture
def small_grid(tmp_path: Path) -> Path:
    cells = [{"draft_tokens": 4, "adaptive": ["off", "cost"]}]
    (tmp_path / "small.json").write_text(json.dumps(cells))
    return tmp_path / "small.json"


# --- What lands where


def test_all_grids_leave_the_folders_people_know(bench: Bench) -> None:
    words = (
        "--draft",
        bench.folder / "draft.gguf",
        "--temperature",
        "0.0",
        "--draft_tokens",
        "10",
        "--no_ncu",
    )
    assert bench.run("all", *QUICK, *words) == 0, bench.said
    names = set(bench.results())
    assert {
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptive0.json",
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptive1.json",
        "adaptive_grid/run1_r3_t8_temp0.0_d10_adaptivepub.json",
        "adaptive_grid/plain_r3_t8_temp0.0.json",
        "early_exit_grid/run1_r3_t8_temp0.0_thresh0.0.json",
        "early_exit_grid/run3_r3_t8_temp0.0_thresh0.5.json",
        "oneoff_scenarios/scenario_b_chatbot.json",
        "oneoff_scenarios/scenario_b_chatbot_plain.json",
    } <= names
    log = bench.log("early_exit_grid")
    assert log.count("COMPLETE") == len([name for name in names if name.startswith("early")])
    stats = r"Confidence early exit stats: \d+ tokens stopped out of \d+ checks"
    found = re.search(stats + r" \((\d+\.\d)% of the tokens to draft\)", log)
    assert found and 0 < float(found[1]) < 100
    assert "0 failed" in (bench.out / "master_experiment.log").read_text()
    assert f"[{len(names)}/{len(names)}]" in bench.said and "left" in bench.said


def test_a_grid_of_ones_own_takes_the_place_of_a_built_in_one_and_says_so(
    bench: Bench, small_grid: Path
) -> None:
    assert bench.run("adaptive", "--grid", small_grid, *QUICK) == 0
    assert {Path(name).parts[0] for name in bench.results()} == {"small"}
    assert f"--grid takes the place of adaptive: {small_grid}" in bench.said
    assert not (bench.out / "master_experiment.log").exists()


def test_the_prompts_of_the_repository_are_found_from_any_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    words = ["adaptive", "--model", bench.folder / "model.gguf", "--temperature", 0.0, "--draft_tokens", 4]
    assert sweep_speculative.main([*map(str, words), *map(str, QUICK)]) == 0
    assert (bench.folder / "sweeps" / "adaptive_grid" / "plain_r3_t8_temp0.0.json").exists()


def test_more_requests_than_prompts_are_told(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK, "--requests", 7) == 0
    assert "7 requests over 3 prompts" in bench.said
    row = json.loads((bench.out / "small" / "plain_r7_t8_temp0.0.json").read_text())
    assert len(row["results"][0]["outputs"]) == 7


@pytest.mark.parametrize("size", ["4", "1"])
def test_tensor_parallelism_has_no_meaning_here_and_that_is_said(
    bench: Bench, small_grid: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", size)
    assert bench.run("--grid", small_grid, *QUICK) == 0
    assert ("TENSOR_PARALLEL_SIZE=4 has no meaning on one board" in bench.said) == (size == "4")


# --- What is done again


def test_what_is_done_is_skipped_and_what_changed_is_done_again(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK) == 0
    before = bench.results()
    assert bench.cells == 3
    assert bench.run("--grid", small_grid, *QUICK) == 0
    assert "3 done, 0 to do" in bench.said
    assert bench.results() == before and bench.cells == 3
    assert bench.run("--grid", small_grid, *QUICK, "--warmup", 2) == 0
    assert bench.cells == 6
    for name, content in before.items():  # the old ones are kept aside
        assert (bench.out / f"{name}.1").read_bytes() == content
    torn = bench.out / next(iter(before))
    torn.write_bytes(torn.read_bytes()[:100])
    assert bench.run("--grid", small_grid, *QUICK, "--warmup", 2) == 0
    assert bench.cells == 7 and json.loads(torn.read_text())


def test_what_a_killed_start_has_left_half_written_goes(bench: Bench, small_grid: Path) -> None:
    folder = bench.out / "small"
    folder.mkdir(parents=True)
    (folder / ".plain_r3_t8_temp0.0.json.4711.part").write_text("{")
    (folder / ".plain_r3_t8_temp0.0.part").write_text("{")
    assert bench.run("--grid", small_grid, *QUICK) == 0
    assert not list(bench.out.rglob("*.part"))


def failing_at(adaptive: str, failure: EngineFailure) -> Callable[[FakeEngine], None]:
    def play(engine: FakeEngine) -> None:
        if engine.drafting is not None and engine.drafting.adaptive == adaptive:
            raise failure

    return play


def test_a_failed_cell_says_why_and_the_rest_goes_on(bench: Bench, small_grid: Path) -> None:
    bench.engine.play = staticmethod(failing_at("cost", EngineFailure(ENGINE_CRASH, "was killed by SIGKILL")))
    assert bench.run("--grid", small_grid, *QUICK) == 1
    assert "1 cell failed" in bench.said
    assert "_adaptive1: FAILED was killed by SIGKILL" in bench.log("small")
    assert len(bench.results()) == 2
    bench.engine.play = FakeEngine.play
    assert bench.run("--grid", small_grid, *QUICK) == 0
    assert len(bench.results()) == 3


def test_a_cell_that_takes_too_long_is_ended_and_the_flag_is_named(bench: Bench, small_grid: Path) -> None:
    allowed: list[float] = []

    def play(engine: FakeEngine) -> None:
        allowed.append(engine.run_timeout_s)
        if engine.drafting is not None and engine.drafting.adaptive == "cost":
            raise EngineFailure(TIMEOUT, "no answer within 2 s; raise --run_timeout to wait longer")

    bench.engine.play = staticmethod(play)
    assert bench.run("--grid", small_grid, *QUICK, "--cell_timeout", 2) == 1
    assert "took more than 2 s, see --cell_timeout" in bench.said and "--run_timeout" not in bench.said
    assert len(bench.results()) == 2
    assert max(allowed) <= 2 and min(allowed) > 0  # what is left of the cell's time, request by request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ending_signal_tells_how_to_go_on(bench: Bench, small_grid: Path, number: signal.Signals) -> None:
    def play(engine: FakeEngine) -> None:
        if engine.drafting is not None and engine.drafting.adaptive == "cost":
            signal.raise_signal(number)

    bench.engine.play = staticmethod(play)
    assert bench.run("--grid", small_grid, *QUICK) == 128 + number
    assert "Go on with" in bench.said and str(small_grid) in bench.said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_sweeps_do_not_share_a_folder(bench: Bench, small_grid: Path) -> None:
    codes: list[int] = []

    def play(_: FakeEngine) -> None:
        bench.engine.play = FakeEngine.play
        codes.append(sweep_speculative.main(bench.words("--grid", small_grid, *QUICK)))

    bench.engine.play = staticmethod(play)
    assert bench.run("--grid", small_grid, *QUICK) == 0
    assert codes == [1] and "another sweep" in bench.said


# --- Power


def test_power_is_recorded_and_weighed_over_the_batches(bench: Bench, tmp_path: Path) -> None:
    bench.engine.answer_s = 0.15
    words = [*one_cell(tmp_path), *TIMED, "--batches", 2]
    assert bench.run(*words, "--idle_seconds", 0.6, "--interval_ms", 20, "--feed", FEED) == 0, bench.said
    document = json.loads((bench.out / "one" / "one.json").read_text())
    mode = document["summary"]["per_mode"][0]
    energy = mode["energy"]
    assert energy["reason"] is None and not energy["simulated"] and energy["power_rail"] == "VDD_IN"
    spent_s = sum(batch["t1_s"] - batch["t0_s"] for batch in document["results"])
    assert energy["energy_gross_joule_per_request"] == pytest.approx(5.0 * spent_s / 4, rel=1e-3)
    assert energy["energy_joule_per_request"] == pytest.approx(0.0, abs=1e-3)  # a steady 5 W, idle too
    assert energy["joule_gross_per_output_token"] == pytest.approx(5.0 * spent_s / 20, rel=1e-3)
    assert energy["idle_mw"] == pytest.approx(5000.0) and len(energy["per_batch"]) == 2
    assert energy["batches_without_energy"] == 0 and len(energy["plain_per_batch"]) == 1
    assert mode["emc"]["emc_load_percent_mean"] == pytest.approx(12.0)
    assert document["sweep"]["wall_s"] >= 0.8
    assert document["idle"]["t1_s"] - document["idle"]["t0_s"] == pytest.approx(0.6)
    assert document["idle"]["t1_s"] <= document["results"][0]["t0_s"]


def test_idle_power_is_that_of_loaded_models(bench: Bench, tmp_path: Path) -> None:
    """A board that draws 3 W until the first cell has loaded, and 5 W from then on."""
    loaded = tmp_path / "loaded"
    bench.engine.answer_s = 0.1
    load = bench.engine.load

    def mark(self: FakeEngine, *words: Any, **more: Any) -> None:
        load(self, *words, **more)
        loaded.write_text("x")

    bench.engine.load = mark  # type: ignore[method-assign]
    watts = f"[ -s {shlex.quote(str(loaded))} ] && echo VDD_IN 5000mW || echo VDD_IN 3000mW"
    words = [*one_cell(tmp_path), *TIMED, "--batches", 1]
    feed = shlex.join(["bash", "-c", f"while :; do {watts}; sleep 0.02; done"])
    assert bench.run(*words, "--idle_seconds", 0.8, "--interval_ms", 20, "--feed", feed) == 0, bench.said
    for path in bench.results():  # the cell and plain decoding: one of them was the first to load
        energy = bench.mode(path)["energy"]
        assert energy["idle_method"] == "after the model was loaded"
        assert energy["idle_mw"] == pytest.approx(5000.0, rel=0.05)
        assert abs(energy["energy_joule_per_request"]) < 0.1 < energy["energy_gross_joule_per_request"]


def test_a_feed_that_gives_nothing_costs_the_energy_and_not_the_cell(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(*one_cell(tmp_path), *QUICK, "--feed", "false") == 0
    energy = bench.mode("one/one.json")["energy"]
    assert energy.get("energy_joule_per_request") is None and "no power sample" in energy["reason"]


# --- Memory counters


def noting_ncu(folder: Path, run: str = "pass") -> Path:
    """A profiler that notes the settings of its cell in ncu.log and then does `run`."""
    log = str(folder / "ncu.log")
    note = f"print(pathlib.Path(command[-2]).read_text(), file=open({log!r}, 'a'), flush=True)"
    return fake_ncu(folder / "ncu", f"{note}\n{run}")


def profiled(folder: Path) -> list[dict[str, Any]]:
    """The settings of the cells that the profiler was given."""
    log = folder / "ncu.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_counters_come_from_a_profiled_process_of_its_own(bench: Bench, tmp_path: Path) -> None:
    words = [*one_cell(tmp_path), *QUICK, "--ncu"]
    assert bench.run(*words, "--ncu_path", tmp_path / "no_ncu") == 0
    mode = bench.mode("one/one.json")
    assert mode["ncu_metrics"] == {} and "not here" in mode["ncu"]["reason"]
    assert bench.said.count("not here") == 1  # once, and not with every cell
    shutil.rmtree(bench.out)
    cells = bench.cells
    assert bench.run(*words, "--ncu_path", noting_ncu(tmp_path), "--ncu_requests", 2, "--ncu_tokens", 5) == 0
    document = json.loads((bench.out / "one" / "one.json").read_text())
    assert document["summary"]["per_mode"][0]["ncu_metrics"] == {"dram__bytes_write.sum": 7e6}
    assert len(document["results"]) == 2 and len(document["results"][0]["outputs"]) == 3  # the timed ones
    assert bench.cells == cells + 2 and len(profiled(tmp_path)) == 2
    for short in profiled(tmp_path):
        # Plain decoding beside the drafts would be counted with them.
        assert (short["compare"], short["batches"], short["warmup"]) == ("none", 1, 0)
        assert (short["requests"], short["max_tokens"]) == (2, 5)


def test_the_original_grids_profile_what_the_original_did(bench: Bench, tmp_path: Path) -> None:
    words = [
        "--draft",
        bench.folder / "draft.gguf",
        *QUICK,
        "--temperature",
        0.0,
        "--ncu_path",
        noting_ncu(tmp_path),
    ]
    assert bench.run("all", *words) == 0, bench.said
    thresholds = {one["threshold"] for one in profiled(tmp_path)}
    assert len(profiled(tmp_path)) == 4 + 1  # four thresholds and scenario c
    assert thresholds == {0.0, 0.3, 0.5, 0.7}
    assert bench.mode("early_exit_grid/run3_r3_t8_temp0.0_thresh0.5.json")["ncu_metrics"]
    assert bench.mode("oneoff_scenarios/scenario_c_high_throughput.json")["ncu_metrics"]
    assert not bench.mode("oneoff_scenarios/scenario_b_chatbot.json")["ncu_metrics"]
    assert bench.run("all", *words, "--no_ncu") == 0 and len(profiled(tmp_path)) == 5


def test_finished_cells_get_their_counters_later_and_keep_their_times(bench: Bench, tmp_path: Path) -> None:
    words = [*one_cell(tmp_path), *QUICK]
    assert bench.run(*words) == 0
    before, cells = bench.results(), bench.cells
    assert bench.run(*words, "--ncu", "--ncu_path", tmp_path / "no_ncu") == 0
    assert bench.results() == before
    assert bench.run(*words, "--ncu", "--ncu_path", noting_ncu(tmp_path)) == 0
    assert bench.cells == cells and len(profiled(tmp_path)) == 2  # profiled only
    for name, old in before.items():
        was, now = json.loads(old), json.loads((bench.out / name).read_text())
        assert now["summary"]["per_mode"][0]["ncu_metrics"] == {"dram__bytes_write.sum": 7e6}
        assert now["results"] == was["results"] and now["sweep"] == was["sweep"]


def test_the_timed_result_is_in_its_place_before_profiling_begins(bench: Bench, tmp_path: Path) -> None:
    found = tmp_path / "found"
    look = f"print(*pathlib.Path({str(bench.out)!r}).rglob('one*.json'), file=open({str(found)!r}, 'a'))"
    assert bench.run(*one_cell(tmp_path), *QUICK, "--ncu", "--ncu_path", noting_ncu(tmp_path, look)) == 0
    assert all("one/one" in line for line in found.read_text().splitlines())
    assert "one/one.json" in found.read_text()


def test_a_profiler_that_hangs_is_ended_with_all_it_started_and_is_said(bench: Bench, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hang = (
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"print(child.pid, file=open({str(pids)!r}, 'a'), flush=True)\ntime.sleep(600)"
    )
    ncu = noting_ncu(tmp_path, hang)
    words = [*one_cell(tmp_path), *QUICK, "--ncu", "--ncu_path", ncu]
    assert bench.run(*words, "--ncu_timeout", 2) == 0
    assert "profiling by ncu took more than 2 s and was ended" in bench.said and "--ncu_timeout" in bench.said
    (pid,) = pids.read_text().split()  # the other cell is not tried in this start
    assert not running(int(pid))
    reasons = {bench.mode(name)["ncu"]["reason"] for name in bench.results()}
    assert any("more than 2 s" in reason for reason in reasons)
    assert any("not tried" in reason for reason in reasons)
    assert len(bench.results()) == 2 and "NCU profiling by ncu took" in bench.log("one")


def running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- Time


def test_a_dry_run_and_an_estimate(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK, "--dry_run") == 0
    assert "no estimate of time yet" in bench.printed and not bench.out.exists()
    assert bench.run("--grid", small_grid, *QUICK[:-1]) == 0
    assert "pilot: " in bench.said and "about " in bench.said
    assert bench.run("--grid", small_grid, *QUICK, "--dry_run", "--warmup", 3) == 0
    assert "3 to do, about" in bench.printed


def test_what_a_cell_costs_beside_decoding_is_not_taken_for_decoding(bench: Bench, small_grid: Path) -> None:
    assert bench.run("--grid", small_grid, *QUICK) == 0
    for path in bench.results():  # as of a board: 60 s to load, 24 tokens at 10 ms
        document = json.loads((bench.out / path).read_text())
        assert document["config"]["out"] == str(bench.out / path)
        units, runs = document["sweep"]["units"], [*document["results"], *document["plain"]]
        for run in runs:
            run["latency_s"] = 0.01 * units / len(runs)
        document["sweep"]["took_s"] = 60 + 0.01 * units
        (bench.out / path).write_text(json.dumps(document))
    longer = ("--max_tokens", 800)  # 100 times as many tokens: 3 x 60 s, and 10 ms per token
    assert bench.run("--grid", small_grid, *QUICK, *longer, "--dry_run") == 0
    tokens = 800 * (3 * (2 + 2 + 2) + 2 * 3 + 3 * 1)  # batches, plain beside two of the cells, warm-up
    assert f"3 to do, about {round((180 + 0.01 * tokens) / 60)} min" in bench.printed


# --- What is wrong, told before the first cell


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "--grid"),
        (("oneoff", "--model", ""), "--model"),
        (("oneoff", "--model", "none.gguf"), "--model"),
        (("--grid", "none.json"), "No such file or directory; check --grid"),
        (("adaptive", "early-exit"), "one grid at a time"),
        (("oneoff", "--prompts_for", "code.csv"), "SCENARIO=FILE"),
        (
            ("oneoff", "--prompts_for", "a=x.csv", "--prompts_for", "a=y.csv"),
            "--prompts_for a stands there twice",
        ),
        (("all",), "--threshold 0"),
        (("adaptive", "--ncu", "--no_ncu"), "contradict"),
        (("adaptive", "--levels", "L9"), "L9"),
        (("adaptive", "--n_ctx", "32"), "--n_ctx 512"),
        (("summary",), "summary DIR"),
    ],
)
def test_what_is_missing_is_named(bench: Bench, words: tuple[str, ...], hint: str) -> None:
    given = bench.words("--no_pilot", "--power_source", "none")
    code = sweep_speculative.main([*given, *words] if "--model" in words else [*words, *given])
    said = bench.capsys.readouterr().err
    assert code == 1 and said.splitlines()[-1].startswith("error: ") and hint in said
    assert "Errno" not in said and bench.cells == 0


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--interval_ms", "0"), ("--idle_seconds", "-1"), ("--ncu_timeout", "0"), ("--cell-timeout", "0")],
)
def test_a_number_out_of_its_range_is_a_usage_error(bench: Bench, flag: str, value: str) -> None:
    with pytest.raises(SystemExit) as ended:
        sweep_speculative.main(["adaptive", flag, value, *bench.words("--no_pilot")])
    assert ended.value.code == 2 and flag.replace("-t", "_t") in bench.capsys.readouterr().err
    assert bench.cells == 0


def test_a_draft_of_another_vocabulary_is_told_before_the_first_cell(bench: Bench) -> None:
    bench.engine.refuses_draft = "--draft has another vocabulary: its token 3 is b'x', not b'y'"
    assert bench.run("adaptive", "--draft", bench.folder / "draft.gguf", *QUICK) == 1
    assert "another vocabulary" in bench.said and "give another --draft" in bench.said
    assert bench.cells == 0 and not bench.results()


def test_a_folder_that_cannot_be_written_is_told_without_a_number(bench: Bench, small_grid: Path) -> None:
    bench.out.mkdir()
    (bench.out / "small").write_text("a file where a folder is to be")
    assert bench.run("--grid", small_grid, *QUICK) == 1
    assert "give another --outdir" in bench.said and "Errno" not in bench.said and bench.cells == 0
    (bench.folder / "file").write_text("x")
    code = sweep_speculative.main(
        [*bench.words("--grid", small_grid, *QUICK), "--outdir", str(bench.folder / "file")]
    )
    said = bench.capsys.readouterr().err
    assert code == 1 and "give another --outdir" in said and "Errno" not in said


def test_a_name_that_is_too_long_for_the_file_system_is_told(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "long.json").write_text(json.dumps([{"name": "n" * 250}]))
    assert bench.run("--grid", tmp_path / "long.json", *QUICK) == 1
    assert "bytes too long" in bench.said and "Errno" not in bench.said and bench.cells == 0
    (tmp_path / "long.json").write_text(json.dumps([{"name": "n" * 200}]))
    assert bench.run("--grid", tmp_path / "long.json", *QUICK) == 0


def test_a_refusal_of_the_engine_names_the_flag(bench: Bench, small_grid: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineFailure(REFUSED, "model.gguf: the engine cannot load it: invalid magic")

    bench.engine.open = refuse  # type: ignore[assignment]
    assert bench.run("--grid", small_grid, *QUICK) == 1
    assert "invalid magic; check --model" in bench.said and bench.cells == 0


# --- As a command


def test_the_help_needs_no_engine_and_the_door_ends_with_its_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "adaptive"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("error: which model?")
