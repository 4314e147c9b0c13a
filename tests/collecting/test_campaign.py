"""What the collector does when a campaign goes wrong: idle drifts, prompts change, models say nothing."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.collecting import campaign as campaign_room
from edgebench.collecting import plan as planning
from edgebench.collecting.campaign import Campaign
from edgebench.collecting.pace import CampaignProgress, ModelPace, Pace
from edgebench.collecting.resume import Earlier, with_anchors
from edgebench.collecting.settings import Settings
from edgebench.engine.client import (
    ENGINE_CRASH,
    MODEL_LOAD,
    NOT_A_GENERATION,
    NOT_COLD,
    BoardState,
    EngineFailure,
    Failure,
    Generation,
    Loaded,
    ModelFacts,
    PromptCount,
    Resolved,
)
from edgebench.power.sampler import FeedInfo
from edgebench.power.session import IdleChange, IdlePoint, PowerFields, PowerSession
from edgebench.power.trace import IdleBaseline
from edgebench.prompts.tasks import Task
from edgebench.records.jsonl import sha256_of
from tests.doors import call

DOOR = "run_llamacpp_collect.py"
FACTS = ModelFacts("1", False, "CPU", "made up", 4096, 100, True)
BOARD = {
    "board": "PC",
    "power_mode_name": None,
    "engine": {"version": "1", "gpu_offload": False, "system_info": "CPU", "error": None},
    "checks": [],
    "memory_available_byte": None,
}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- A campaign with an engine that is made up: what it answers is the test's to say ---


class MadeUpEngine:
    """An engine whose every answer is right until the test says otherwise."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.resolved = Resolved(flash_attn="on", n_ctx=768, n_batch=512, n_threads=1)
        self.template = ""  # what the chat template adds to a prompt
        self.faults: list[
            object
        ] = []  # of the coming runs: a Failure in the answer, an EngineFailure, or None
        self.load_faults: list[EngineFailure] = []
        self.loads = 0
        self.runs = 0

    def open(self, model_path: str) -> ModelFacts:
        return FACTS

    def count(self, prompt) -> PromptCount:  # type: ignore[no-untyped-def]
        text = self.template + "|".join(message.content or "" for message in prompt.messages)
        return PromptCount(len(text), sha256_of(text))

    def load(self, model_path: str, settings: object, warm_up: object = None) -> Loaded:
        if self.loaded is None:
            self.loads += 1
            if self.load_faults:
                raise self.load_faults.pop(0)
            self.loaded = Loaded(5.0, self.resolved.n_ctx, FACTS, self.resolved)
        return self.loaded

    def run(self, prompt, sampling) -> Generation:  # type: ignore[no-untyped-def]
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, EngineFailure):
            self.loaded = None
            raise fault
        count, state = self.count(prompt), BoardState()
        self.runs += 1
        t0_s = 10.0 * self.runs
        return Generation(
            prompt_tokens=count.prompt_tokens, prompt_tokens_evaluated=count.prompt_tokens,
            prompt_ids_sha256=count.prompt_ids_sha256, completion_tokens=3, finish_reason="stop",
            t0_s=t0_s, first_token_s=t0_s + 0.1, t1_s=t0_s + 0.3, latency_ms=300.0, ttft_ms=100.0,
            tpot_ms=100.0, prefill_tok_per_s=10.0, decode_tok_per_s=10.0, overhead_ratio=0.0,
            temp_start_c=None, temp_max_c=None, throttled=None, board_start=state, board_end=state,
            output_text="An answer.",
            reasoning_text=None, reasoning_tokens=0, reasoning_open=False, flags=("system_in_user",),
            error=fault,
        )  # fmt: skip


TASKS = [
    Task(id=n, category=None, levels={"L0": f"{n}?", "L1": f"{n}? Be brief."}, where="here") for n in range(3)
]


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., Campaign]:
    """A function that plans and runs a campaign of 6 runs with a made-up engine; a second call goes on."""

    def run(
        engine: MadeUpEngine,
        before_run: Callable[[], None] = lambda: None,
        power: object = None,
        **flags: object,
    ) -> Campaign:
        given = {"models": ["m.gguf"], "prompts": ["p.csv"], "out_jsonl": tmp_path / "runs.jsonl", **flags}
        settings = Settings.from_flags({"source": "none", **given})
        before = Earlier.read(settings.out_jsonl, mend=True)
        model = planning.PlannedModel(
            facts={"model_id": "m", "quantization": None, "sha256": "0", "path": "/m.gguf", "file_byte": 9}
        )
        runs = planning.plan_model(model, TASKS, settings, BOARD, engine, before)
        if not settings.allow_mixed:
            planning.refuse_mixture(runs, before.records, settings.out_jsonl)
        left = planning.left_to_do(runs, before.records, settings.retry_errors)
        todo = with_anchors(runs, left, settings.anchor_every)
        plan = planning.Plan(settings, BOARD, [model], runs, todo, before)
        before_run()
        with PowerSession.start(settings.power, lambda text: None) as none:
            campaign = Campaign(plan, engine, power or none, ["collect"])
            if todo:
                campaign.run_model(model)
        return campaign

    return run


def test_a_prompt_that_changes_in_the_middle_makes_other_runs_and_is_said_so(
    collect: Callable[..., Campaign], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Midnight comes between planning and the runs, and the template prints the date."""
    engine = MadeUpEngine()
    engine.template = "28 Nov "

    def midnight() -> None:
        engine.template = "29 Nov "

    campaign = collect(engine, before_run=midnight)
    assert campaign.failed == 0 and capsys.readouterr().err.count("does it print the date?") == 1
    records = read(tmp_path / "runs.jsonl")
    ids = {record["prompt_ids_sha256"] for record in records}
    assert ids == {sha256_of("29 Nov " + text) for task in TASKS for text in task.levels.values()}
    # They are the runs of the new day: planned on it, nothing is left to do.
    assert collect(engine).plan.todo == [] and len(read(tmp_path / "runs.jsonl")) == 6
    engine.template = "30 Nov "
    with pytest.raises(planning.UserError, match="date"):
        collect(engine)
    assert len(collect(engine, allow_mixed=True).plan.todo) == 6
    keys = [record["run_key"] for record in read(tmp_path / "runs.jsonl")]
    assert len(keys) == len(set(keys)) == 12


@pytest.mark.parametrize("kind", [NOT_A_GENERATION, NOT_COLD, "warm_cache"])
def test_an_answer_that_is_none_is_a_failed_run_and_the_loop_goes_on(
    collect: Callable[..., Campaign], tmp_path: Path, kind: str
) -> None:
    engine = MadeUpEngine()
    engine.faults = [None, Failure(kind, "what was seen"), None, Failure(kind, "what was seen")]
    assert collect(engine).failed == 2
    records = read(tmp_path / "runs.jsonl")
    assert [record["error"] and record["error"]["type"] for record in records] == [
        None, kind, None, kind, None, None]  # fmt: skip
    assert all(record["flags"] == ["no_power", "system_in_user"] for record in records)
    # What was measured stands beside the error; a retry does these two again.
    assert records[1]["latency_ms"] == 300.0
    assert [run.run_key for run in collect(engine, retry_errors=True).plan.todo] == [
        records[n]["run_key"] for n in (1, 3)]  # fmt: skip


def test_failures_that_are_alike_are_one_line_and_a_count(
    collect: Callable[..., Campaign], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = MadeUpEngine()
    same, other = Failure(NOT_A_GENERATION, "all logits are NaN"), Failure(NOT_COLD, "27 positions")
    engine.faults = [same, same, same, other, same]
    assert collect(engine).failed == 5
    said = capsys.readouterr().err
    assert said.count("all logits are NaN") == 2 and said.count("27 positions") == 1
    assert said.count("m: 2 more runs failed alike") == said.count("failed alike") == 1


def test_a_model_that_twice_cannot_be_loaded_fails_all_its_runs_at_once(
    collect: Callable[..., Campaign], tmp_path: Path
) -> None:
    engine = MadeUpEngine()
    engine.load_faults = [EngineFailure(MODEL_LOAD, "no memory")] * 9
    assert collect(engine).failed == 6 and engine.loads == 2
    assert {record["error"]["type"] for record in read(tmp_path / "runs.jsonl")} == {MODEL_LOAD}
    (env,) = read(tmp_path / "runs.env.jsonl")
    assert env["resolved"] == {"m": None}


def test_a_crash_costs_its_run_and_the_next_loads_again(
    collect: Callable[..., Campaign], tmp_path: Path
) -> None:
    engine = MadeUpEngine()
    engine.faults = [None, EngineFailure(ENGINE_CRASH, "killed"), None]
    engine.load_faults = []
    assert collect(engine).failed == 1 and engine.loads == 2
    assert [bool(record["error"]) for record in read(tmp_path / "runs.jsonl")] == [False, True, *[False] * 4]


def test_what_the_engine_chose_stands_in_the_environment_of_its_runs(
    collect: Callable[..., Campaign], tmp_path: Path
) -> None:
    engine = MadeUpEngine()
    engine.resolved = dataclasses.replace(engine.resolved, warnings=("missing pre-tokenizer type",))
    collect(engine)
    (env,) = read(tmp_path / "runs.env.jsonl")
    assert env["resolved"]["m"]["flash_attn"] == "on" and env["resolved"]["m"]["n_ctx"] == 768
    assert env["resolved"]["m"]["warnings"] == ["missing pre-tokenizer type"]
    assert {record["env_id"] for record in read(tmp_path / "runs.jsonl")} == {env["env_id"]}
    collect(engine, repeats=2)  # the same environment in a second start
    assert {env["env_id"] for env in read(tmp_path / "runs.env.jsonl")} == {env["env_id"]}


@pytest.mark.parametrize(
    ("choice", "value"), [("flash_attn", "off"), ("n_threads", 3), ("warnings", ("missing pre-tokenizer",))]
)
def test_runs_with_other_choices_of_the_engine_are_not_mixed_in(
    collect: Callable[..., Campaign], tmp_path: Path, choice: str, value: object
) -> None:
    engine = MadeUpEngine()
    collect(engine)
    before = (tmp_path / "runs.jsonl").read_bytes()
    other = MadeUpEngine()
    other.resolved = dataclasses.replace(other.resolved, **{choice: value})
    (refused,) = collect(other, repeats=2).refused
    assert (
        "m: " in refused and "--allow_mixed" in refused and (tmp_path / "runs.jsonl").read_bytes() == before
    )
    assert collect(other, repeats=2, allow_mixed=True).refused == []
    records = read(tmp_path / "runs.jsonl")
    assert len(records) == 12 and len({record["env_id"] for record in records}) == 2


# --- Idle power that moves ---

FEED = """
import pathlib, time
out, steady = pathlib.Path({out!r}), {steady!r}
while True:
    # From the third record on the board draws 480 mW more, with nothing to do and at work alike.
    moved = not steady and out.exists() and out.read_bytes().count(b"\\n") >= 3
    print(f"VDD_IN {{5480 if moved else 5000}}mW/5000mW", flush=True)
    time.sleep(0.02)
"""


def with_feed(folder: Path, model: Path, steady: bool) -> list[object]:
    prompts, feed = folder / "prompts.jsonl", folder / "feed.py"
    rows = [{"question_id": n, "L0": f"{n}?", "L1": f"{n}? Be brief."} for n in range(4)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    feed.write_text(FEED.format(out=str(folder / "runs.jsonl"), steady=steady))
    return [
        *("--models", model, "--prompts", prompts, "--levels", "L0", "L1", "--max_tokens", 100),
        *("--out_jsonl", folder / "runs.jsonl", "--feed", f"{sys.executable} {feed}", "--interval", 20),
        *("--idle_seconds", 0.4, "--idle_every", 6),
    ]


def test_idle_power_that_moves_is_interpolated_flagged_and_told(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    words = with_feed(tmp_path, tiny_model("llama", mode="never"), steady=False)
    done = call(DOOR, *words)
    assert done.returncode == 0, done.stderr
    records = read(tmp_path / "runs.jsonl")
    assert len({record["run_key"] for record in records}) == len(records) == 8
    drifted, steady = records[:6], records[6:]
    assert all("idle_drift" in record["flags"] for record in drifted)
    assert not any("idle_drift" in record["flags"] for record in steady)
    assert all(record["idle_drift_mw"] == pytest.approx(480, abs=5) for record in drifted)
    assert all(record["idle_drift_mw"] is None for record in steady)
    idle_mw = [record["idle_mw"] for record in drifted]
    assert idle_mw == sorted(idle_mw) and 5000 < idle_mw[0] < idle_mw[-1] < 5480
    for record in records:
        net_joule = record["energy_gross_joule"] - record["idle_mw"] / 1000 * record["latency_ms"] / 1000
        assert record["energy_joule"] == pytest.approx(net_joule, abs=1e-6)
        assert record["joule_per_output_token"] == pytest.approx(
            record["energy_joule"] / record["completion_tokens"]
        )
        if record["energy_phase_method"]:
            total_joule = record["energy_prefill_joule"] + record["energy_decode_joule"]
            assert total_joule == pytest.approx(record["energy_joule"], abs=1e-3)
    assert re.search(r"warn +idle power: 6 of 8 runs: idle power moved by up to \+4\d\d mW", done.stdout)
    assert "--idle_every" in done.stdout and not list(tmp_path.glob(".*.part"))
    # A further start changes nothing that stands there.
    before = (tmp_path / "runs.jsonl").read_bytes()
    assert call(DOOR, *words).returncode == 0 and (tmp_path / "runs.jsonl").read_bytes() == before


def test_steady_idle_power_writes_nothing_twice(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    done = call(DOOR, *with_feed(tmp_path, tiny_model("llama", mode="never"), steady=True))
    assert done.returncode == 0, done.stderr
    assert all(record["idle_drift_mw"] is None for record in read(tmp_path / "runs.jsonl"))
    assert "idle power: 8 runs, " in done.stdout.replace("\n       ", " ")
    assert done.stderr.count("idle 5000 mW") == 3  # before, between and after the two blocks


class DriftingPower:
    """A power session whose idle power has moved at its second baseline."""

    missing, info, idle_due = None, FeedInfo("feed", "VDD_IN", "module", 100), False

    def __init__(self) -> None:
        self.baselines = 0

    def environment(self) -> dict:
        return {"source": "feed"}

    def new_resident(self) -> None:
        self.baselines = 0

    def measure_idle(self) -> IdleChange | None:
        self.baselines += 1
        points = [IdlePoint(at_s, baseline_of(mean_mw)) for at_s, mean_mw in ((0.0, 5000.0), (9.0, 5480.0))]
        return IdleChange(*points) if self.baselines == 2 else None

    def window(self, t0_s: float, t1_s: float) -> PowerFields:
        moved = self.baselines >= 2
        return PowerFields(
            energy_joule=0.5 if moved else 1.0,
            power_source="feed",
            power_samples=9,
            idle_mw=5240.0 if moved else 5000.0,
            idle_drift_mw=480.0 if moved else None,
            flags=("idle_drift",) if moved else (),
        )


def baseline_of(mean_mw: float) -> IdleBaseline:
    return IdleBaseline(mean_mw, mean_mw, 5.0, 0.0, 99, None, True, "stable", 2.0)


def test_a_disk_without_room_for_the_new_records_keeps_the_old_ones_and_says_so(
    collect: Callable[..., Campaign],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, changed: object, key: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(campaign_room, "replace_records", full)
    campaign = collect(MadeUpEngine(), power=DriftingPower(), anchor_every=3)
    said = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert campaign.failed == 0 and len(said) == 2  # one line for each file
    records = read(tmp_path / "runs.jsonl")
    assert len(records) == 6 and all(record["energy_joule"] == 1.0 for record in records)


def test_anchors_and_runs_that_were_done_again_get_their_own_new_records(
    collect: Callable[..., Campaign], tmp_path: Path
) -> None:
    """They stand under one key several times: the failure of before and other anchors stay as they are."""
    engine = MadeUpEngine()
    engine.faults = [EngineFailure(ENGINE_CRASH, "killed")] * 2
    collect(engine, anchor_every=3)
    before = (tmp_path / "runs.jsonl").read_bytes()
    collect(engine, power=DriftingPower(), anchor_every=3, retry_errors=True)
    after = (tmp_path / "runs.jsonl").read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 1
    last = json.loads(after.splitlines()[-1])
    assert (last["energy_joule"], last["idle_drift_mw"]) == (0.5, 480.0)
    anchors = read(tmp_path / "runs.anchors.jsonl")
    assert [anchor["idle_drift_mw"] for anchor in anchors] == [None, None, 480.0]
    assert len({anchor["anchor_run_key"] for anchor in anchors}) == 1


# --- The time left ---


def test_the_time_left_counts_the_runs_and_not_what_came_before_them() -> None:
    pace = Pace({"a": ModelPace(10, weight=1.0)})
    assert pace.left_s() is None
    pace.started("a", 100.0)
    pace.ran("a", 2.0)
    assert pace.left_s() == pytest.approx(9 * 2.0)
    pace.ran("a", 4.0)
    assert pace.left_s() == pytest.approx(8 * 3.0)


def test_a_model_of_another_speed_is_reckoned_by_its_size_until_it_has_runs_of_its_own() -> None:
    pace = Pace({"small": ModelPace(2, weight=1e9), "large": ModelPace(2, weight=4e9)})
    pace.started("small", 5.0)
    pace.ran("small", 1.0)
    assert pace.left_s() == pytest.approx(1.0 + 2 * 4.0 + 5.0)
    pace.ran("small", 1.0)
    pace.started("large", 20.0)
    pace.ran("large", 6.0)  # it was slower than its size said
    assert pace.left_s() == pytest.approx(6.0)
    pace.ran("large", 6.0)
    assert pace.left_s() == 0.0


def test_a_log_has_a_steady_line_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("edgebench.shell.progress.time.monotonic", lambda: clock[0])
    pace = Pace({"m": ModelPace(100, weight=1.0)})
    progress = CampaignProgress(100, pace)
    for _ in range(100):
        clock[0] += 3.0
        pace.ran("m", 3.0)
        progress.step("m task 1 L0")
    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"\d+/100 runs, m task 1 L0, \d:\d\d:\d\d left", line) for line in lines)
    assert [line.partition("/")[0] for line in lines] == [str(n) for n in range(1, 100, 10)] + ["100"]
    assert "91/100 runs, m task 1 L0, 0:00:27 left" in lines
