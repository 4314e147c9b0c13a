"""Planning without an engine: the order of levels, the keys of runs, what is left, what must not be mixed."""

import collections
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from fakes import board_trees
from hypothesis import given
from hypothesis import strategies as st

from edgebench.collecting import plan as planning
from edgebench.collecting import resume
from edgebench.collecting.resume import Earlier, PlannedRun
from edgebench.collecting.settings import CoolDown, Settings
from edgebench.engine.client import REFUSED, EngineFailure, ModelFacts, PromptCount, Resolved
from edgebench.errors import UserError
from edgebench.prompts import orders
from edgebench.prompts.tasks import Task
from edgebench.records.jsonl import sha256_of

ROOT = Path(__file__).resolve().parents[2]
TASKS = [Task(id=i, category=None, levels=dict.fromkeys("ABCDE", "text"), where="here") for i in range(10)]
MODEL = {"model_id": "m", "quantization": None, "sha256": "0" * 64, "path": "/m.gguf", "file_byte": 10**6}
BOARD = {
    "board": "PC",
    "power_mode_name": None,
    "engine": {"version": "1", "gpu_offload": False, "system_info": "CPU", "error": None},
    "checks": [],
    "memory_available_byte": None,
}


def settings(**changes: object) -> Settings:
    given = {"models": ["m.gguf"], "prompts": ["p.csv"], "out_jsonl": Path("runs.jsonl"), **changes}
    return Settings.from_flags(given)


def cells_in_order(**changes: object) -> list[tuple]:
    told = settings(**changes)
    cells = orders.ordered_cells(TASKS, told.order, told.seed, told.repeats)
    return [(task.id, level, repeat) for task, level, repeat in cells]


class MadeUpEngine:
    """Opens every vocabulary and makes a prompt's ids of its text and of what the template adds to it."""

    def __init__(self, adds: str = "") -> None:
        self.adds = adds

    def open(self, model: str) -> ModelFacts:
        return ModelFacts("1", False, "CPU", "made up", 4096, 100, True)

    def count(self, prompt) -> PromptCount:  # type: ignore[no-untyped-def]
        text = self.adds + "|".join(message.content or "" for message in prompt.messages)
        return PromptCount(len(text), sha256_of(text))


@given(st.integers(2, 8), st.integers())
def test_latin_square_balances_place_and_carry_over(n: int, seed: int) -> None:
    """Every level stands in every place, and follows every other level, equally often."""
    levels = "ABCDEFGH"[:n]
    rows = orders.williams_rows(levels, seed)
    assert all(sorted(row) == list(levels) for row in rows)
    places = collections.Counter((place, level) for row in rows for place, level in enumerate(row))
    followers = collections.Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert set(places.values()) == {len(rows) // n}
    assert len(followers) == n * (n - 1) and len(set(followers.values())) == 1


def test_seed_decides_the_order_and_nothing_else_does() -> None:
    once = cells_in_order(seed=1)
    assert once == cells_in_order(seed=1)
    assert once != cells_in_order(seed=2)


@pytest.mark.parametrize("order", ["balanced", "sequential", "shuffled"])
def test_every_order_holds_every_run_once_and_repeats_in_turn(order: str) -> None:
    cells = cells_in_order(order=order, repeats=3)
    assert sorted(cells) == sorted(itertools.product(range(10), "ABCDE", (1, 2, 3)))
    assert [repeat for _, _, repeat in cells] == sorted(repeat for _, _, repeat in cells)


def test_over_ten_tasks_five_levels_stand_in_each_place_equally_often() -> None:
    places = collections.Counter((index % 5, level) for index, (_, level, _) in enumerate(cells_in_order()))
    assert set(places.values()) == {2}


# --- Keys ---


def planned(
    before: Earlier | None = None,
    adds: str = "",
    tasks: list[Task] | None = None,
    facts: dict[str, object] | None = None,
    **changes: object,
) -> list[PlannedRun]:
    """The runs of one model, planned with a made-up engine; `facts` beats those of MODEL."""
    model = planning.PlannedModel(facts=MODEL | (facts or {}))
    told = settings(**changes)
    runs = planning.plan_model(
        model, tasks or TASKS[:2], told, BOARD, MadeUpEngine(adds), before or Earlier()
    )
    assert model.error is None
    return runs


def record_of(run: PlannedRun, **changes: object) -> dict:
    """What the collector would have written of a run."""
    return {
        "run_key": run.run_key,
        "id": run.task_id,
        "model_id": run.model_id,
        "level": run.level,
        "turn": run.turn,
        "repeat": run.repeat,
        "prompt_ids_sha256": run.prompt_ids_sha256,
        "error": None,
        "output_text": "An answer.",
        **changes,
    }


def test_a_start_goes_on_after_midnight_with_the_date_it_was_planned_on() -> None:
    model = planning.PlannedModel(facts=dict(MODEL))
    told = settings(turns=2)
    runs = planning.plan_model(model, TASKS[:2], told, BOARD, MadeUpEngine(), Earlier(), "2026-03-14")
    assert len(runs) > 2 and {run.prompt.today for run in runs} == {"2026-03-14"}


def test_the_key_changes_with_whatever_defines_the_run() -> None:
    def key(
        task: Task = TASKS[0], level: str = "A", repeat: int = 1, model: dict = MODEL, **changes: object
    ) -> str:
        told = changes.pop("conditions", {})
        return planning.plan_run(model, task, level, repeat, 1, settings(**changes), told).base_key

    keys = [
        key(),
        key(task=dataclasses.replace(TASKS[0], levels={"A": "other"})),
        key(level="B"),
        key(repeat=2),
        key(model={**MODEL, "sha256": "1" * 64}),
        key(system="be kind"),
        key(conditions={"power_mode": "MAXN"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(order="shuffled", out_jsonl=Path("elsewhere.jsonl"))


def test_a_base_key_is_that_of_collectors_before_the_ids_were_recorded() -> None:
    """Golden, of the collector of before: with another key its files could not be gone on with."""
    conditions = {
        "prompt_format": "chat", "thinking": "off", "temperature": 0.0, "max_tokens": 512, "seed": 0,
        "n_ctx": None, "n_gpu_layers": -1, "n_batch": 2048, "n_ubatch": 512, "n_threads": 1,
        "flash_attn": "auto", "kv_type": "f16", "version": "1", "gpu_offload": False, "system_info": "CPU",
        "board": "PC", "power_mode_name": None,
    }  # fmt: skip
    told = settings(system="be kind")
    assert planning.conditions(told, BOARD) == conditions
    run = planning.plan_run(MODEL, TASKS[3], "B", 2, 1, told, conditions)
    assert run.base_key == "23a77b5e35001e5e9950c6ff"


def test_the_prompt_ids_are_part_of_the_key() -> None:
    """A template that prints the date: the same text is another prompt tomorrow."""
    today, tomorrow = planned(adds="28 Nov"), planned(adds="29 Nov")
    assert {run.base_key for run in today} == {run.base_key for run in tomorrow}
    assert not {run.run_key for run in today} & {run.run_key for run in tomorrow}
    records = [record_of(run) for run in today]
    with pytest.raises(UserError, match=r"another prompt from the same text.*date") as refused:
        resume.refuse_mixture(tomorrow, records, Path("runs.jsonl"))
    assert all(flag in str(refused.value) for flag in ("--out_jsonl", "--fresh", "--allow_mixed"))
    resume.refuse_mixture(today, records, Path("runs.jsonl"))
    assert resume.left_to_do(today, records, retry_errors=False) == []
    assert len(resume.left_to_do(tomorrow, records, retry_errors=False)) == len(tomorrow)


def test_a_file_of_before_the_ids_is_gone_on_with_and_nothing_in_it_is_done_again() -> None:
    old = [record_of(run, run_key=run.base_key) for run in planned()][:7]
    for record in old:
        del record["prompt_ids_sha256"]
    old[3]["error"] = {"type": "timeout", "message": "no answer"}
    runs = planned(Earlier(old))
    resume.refuse_mixture(runs, old, Path("runs.jsonl"))
    assert len(resume.left_to_do(runs, old, retry_errors=False)) == len(runs) - 7
    again = resume.left_to_do(runs, old, retry_errors=True)
    # A run that is done again keeps the key of its failure, which it replaces.
    assert [run.run_key for run in again if run.run_key == run.base_key] == [old[3]["run_key"]]
    assert len({run.run_key for run in runs}) == len(runs)


def test_a_second_turn_points_at_the_key_of_its_first_in_old_files_too() -> None:
    tasks = [dataclasses.replace(task, second="And why?") for task in TASKS[:2]]
    for before in (
        Earlier(),
        Earlier([record_of(run, run_key=run.base_key) for run in planned(tasks=tasks)]),
    ):
        runs = planned(before, tasks=tasks, turns=2, max_tokens=512)
        keys = {(run.task_id, run.level): run.run_key for run in runs if run.turn == 1}
        second = [run for run in runs if run.turn == 2]
        assert len(second) == len(keys) == 10
        assert all(run.first_key == keys[run.task_id, run.level] for run in second)
    left = resume.left_to_do(runs, before.records, retry_errors=False)
    assert [run.turn for run in left] == [2] * 10
    assert all(run.prompt.messages[-2].content == "An answer." for run in left)


def test_a_second_turn_goes_on_from_the_answer_of_its_own_file_whatever_the_order() -> None:
    """Two quantizations of one model share its id: what parts them is the file."""
    tasks = [dataclasses.replace(task, second="And why?") for task in TASKS[:2]]
    q4 = planned(tasks=tasks, turns=2, facts={"quantization": "Q4_0", "sha256": "4" * 64})
    q8 = planned(tasks=tasks, turns=2, facts={"quantization": "Q8_0", "sha256": "8" * 64})
    pairs = list(zip(q4, q8, strict=True))
    interleaved = [run for turn in (1, 2) for pair in pairs for run in pair if run.turn == turn]
    runs = resume.with_keys(interleaved, [])
    first = {run.run_key: run for run in runs if run.turn == 1}
    assert len(first) == 20
    for run in runs:
        if run.turn == 2:
            assert run.first_key is not None
            before = first[run.first_key]
            assert (before.quantization, before.task_id, before.level) == (
                run.quantization, run.task_id, run.level,
            )  # fmt: skip
    records = [record_of(run, output_text=f"As {run.quantization}.") for run in first.values()]
    left = resume.left_to_do(runs, records, retry_errors=False)
    assert [run.prompt.messages[-2].content for run in left] == [f"As {run.quantization}." for run in left]


# --- What must not be mixed ---


def test_the_context_of_earlier_runs_is_taken_again_where_it_is_large_enough() -> None:
    env = {"env_id": "e", "settings": {"n_ctx": None}}

    def context(before: Earlier, **changes: object) -> int:
        model = planning.PlannedModel(facts=dict(MODEL))
        planning.plan_model(model, TASKS[:1], settings(**changes), BOARD, MadeUpEngine(), before)
        assert model.load is not None
        return model.load.n_ctx

    records = [record_of(run, n_ctx=1024, env_id="e") for run in planned()]
    assert context(Earlier()) == 768 and context(Earlier(records, {"e": env})) == 1024
    assert context(Earlier(records, {"e": env}), max_tokens=2000) == 2048  # more is needed now
    assert context(Earlier(records, {"e": env}), n_ctx=512) == 512  # the user says so
    told = {"env_id": "e", "settings": {"n_ctx": 1024}}
    assert context(Earlier(records, {"e": told})) == 768  # there the user had said so
    assert context(Earlier(records)) == 768  # of an unknown environment


@pytest.mark.parametrize(
    ("choice", "now", "named"),
    [
        ("flash_attn", "off", "flash attention on, now off"),
        ("n_ctx", 1024, "context 512, now 1024"),
        ("n_threads", 3, "threads 1, now 3"),
        ("warnings", ("missing pre-tokenizer",), "engine warnings none, now missing pre-tokenizer"),
        ("offloaded", "0/27", "layers on the GPU 27/27, now 0/27"),
    ],
)
def test_other_choices_of_the_engine_are_refused_by_name(choice: str, now: object, named: str) -> None:
    then = Resolved(flash_attn="on", n_ctx=512, n_batch=512, n_threads=1, offloaded="27/27")
    env = {"resolved": {"m": json.loads(json.dumps(resume.engine_choices(then)))}}
    records = [record_of(run, env_id="e") for run in planned()]
    before = Earlier(records, {"e": env})
    assert resume.other_defaults("m", then, before) is None
    told = resume.other_defaults("m", dataclasses.replace(then, **{choice: now}), before)
    assert told is not None and named in told and "--allow_mixed" in told
    # Files of before the choices were recorded, and of other models, cannot tell.
    assert resume.other_defaults("m", dataclasses.replace(then, **{choice: now}), Earlier(records)) is None
    assert resume.other_defaults("other", dataclasses.replace(then, **{choice: now}), before) is None


# --- Models and boards ---


@pytest.mark.parametrize("flags", [{}, {"allow_cpu": True}])
def test_a_jetson_whose_engine_has_no_gpu_is_refused(
    tmp_path: Path, flags: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real board check judges a recorded board; only where it looks is changed."""
    board = board_trees.orin_nano_super(tmp_path / "board")
    monkeypatch.setattr(planning, "ROOT_OF_BOARD", board)
    (tmp_path / "p.jsonl").write_text('{"id": 1, "L0": "Why?"}\n')
    told = settings(
        models=["none.gguf"], prompts=[str(tmp_path / "p.jsonl")], levels=["L0"],
        out_jsonl=tmp_path / "runs.jsonl", **flags,
    )  # fmt: skip
    if flags:
        (error,) = planning.make_plan(told, MadeUpEngine()).errors
        assert "none.gguf" in error
    else:
        with pytest.raises(UserError, match="--allow_cpu") as refused:
            planning.make_plan(told, MadeUpEngine())
        assert "GGML_CUDA=ON" in str(refused.value)


def test_a_model_that_the_engine_refuses_has_its_error_and_stops_nobody() -> None:
    class Refusing(MadeUpEngine):
        def count(self, prompt) -> PromptCount:  # type: ignore[no-untyped-def]
            raise EngineFailure(REFUSED, "its chat template refused the prompt")

    model = planning.PlannedModel(facts=dict(MODEL))
    assert planning.plan_model(model, TASKS, settings(), BOARD, Refusing(), Earlier()) == []
    assert model.error == "/m.gguf: its chat template refused the prompt"


def test_anchors_are_the_first_run_of_the_plan_whatever_is_left() -> None:
    (run, *_) = planned()
    plan = [dataclasses.replace(run, model_id=m, task_id=n) for m in "ab" for n in range(5)]
    lines = resume.with_anchors(plan, plan[2:5] + plan[7:], 2)
    assert [(line.model_id, line.task_id) for line in lines if line.is_anchor] == [
        ("a", 0), ("a", 0), ("b", 0), ("b", 0)]  # fmt: skip
    assert resume.with_anchors(plan, plan[2:], None) == plan[2:]


def test_runs_glued_together_are_done_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a collector that was killed within a line, and a line break lost, would leave them."""
    runs = planned()
    lines = [json.dumps(record_of(run)) for run in runs]
    out = tmp_path / "runs.jsonl"
    out.write_text(
        lines[0] + lines[1] + "\n" + lines[2][:30] + lines[3] + "\n" + "\n".join(lines[4:]) + lines[4]
    )
    before = Earlier.read(out, mend=True)
    left = resume.left_to_do(runs, before.records, retry_errors=False)
    assert [run.run_key for run in left] == [runs[2].run_key]
    told = f"{out}: 3 lines hold records glued together: every whole record in them is read\n"
    assert capsys.readouterr().err == told


def test_a_last_line_that_only_lacks_its_line_break_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    whole = '{"run_key": "a"}'
    for text, healed in ((whole, whole + "\n"), (whole + '\n{"a', whole + "\n"), ("", "")):
        out.write_text(text)
        Earlier.read(out, mend=True)
        assert out.read_text() == healed


# --- Flags ---


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("limit", 0), ("repeats", -1), ("max_tokens", 0), ("n_ctx", 0), ("n_threads", 0), ("interval", 0),
        ("idle_every", 0), ("anchor_every", 0), ("temperature", float("nan")), ("temperature", -0.1),
        ("idle_seconds", float("inf")), ("run_timeout", -1.0), ("cooldown", "temp:x"), ("cooldown", "-1"),
        ("cooldown", "temp:nan"), ("out_jsonl", Path("runs.csv")),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_named_by_its_flag(flag: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^--{flag} "):
        settings(**{flag: value})


def test_a_cool_down_is_seconds_or_a_temperature() -> None:
    assert CoolDown.parse("0") == CoolDown() and CoolDown.parse("temp:50.5") == CoolDown(to_c=50.5)
