"""companions/plan_runs.py: the order of levels, the identity of models, the keys of runs."""

import collections
import itertools
from pathlib import Path

import plan_runs
import pytest
from hypothesis import given
from hypothesis import strategies as st

TASKS = [
    {"id": i, "category": None, "second": None, "levels": dict.fromkeys("ABCDE", "text")} for i in range(10)
]
MODEL = {"model_id": "m", "quantization": None, "sha256": "0" * 64}


def settings(**changes: object) -> dict:
    return {**plan_runs.DEFAULTS, "conditions": {}, **changes}


@given(st.integers(2, 8), st.integers())
def test_latin_square_balances_place_and_carry_over(n: int, seed: int) -> None:
    """Every level stands in every place, and follows every other level, equally often."""
    levels = "ABCDEFGH"[:n]
    rows = plan_runs.williams_rows(levels, seed)
    assert all(sorted(row) == list(levels) for row in rows)
    places = collections.Counter((place, level) for row in rows for place, level in enumerate(row))
    followers = collections.Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert set(places.values()) == {len(rows) // n}
    assert len(followers) == n * (n - 1) and len(set(followers.values())) == 1


def test_seed_decides_the_order_and_nothing_else_does() -> None:
    once = list(plan_runs.ordered_cells(TASKS, settings(seed=1)))
    assert once == list(plan_runs.ordered_cells(TASKS, settings(seed=1)))
    assert once != list(plan_runs.ordered_cells(TASKS, settings(seed=2)))


@pytest.mark.parametrize("order", ["balanced", "sequential", "shuffled"])
def test_every_order_holds_every_run_once_and_repeats_in_turn(order: str) -> None:
    cells = [
        (task["id"], level, repeat)
        for task, level, repeat in plan_runs.ordered_cells(TASKS, settings(order=order, repeats=3))
    ]
    assert sorted(cells) == sorted(itertools.product(range(10), "ABCDE", (1, 2, 3)))
    assert [repeat for _, _, repeat in cells] == sorted(repeat for _, _, repeat in cells)


def test_over_ten_tasks_five_levels_stand_in_each_place_equally_often() -> None:
    cells = list(plan_runs.ordered_cells(TASKS, settings()))
    places = collections.Counter((index % 5, level) for index, (_, level, _) in enumerate(cells))
    assert set(places.values()) == {2}


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("gemma-2-2b-it-Q6_K", ("gemma-2-2b-it", "Q6_K")),
        ("qwen1.5-1.8b-chat-q6_k", ("qwen1.5-1.8b-chat", "Q6_K")),
        ("Phi-3.5-mini-instruct-Q4_K_M", ("Phi-3.5-mini-instruct", "Q4_K_M")),
        ("Llama-3.2-1B-Instruct.IQ3_XXS", ("Llama-3.2-1B-Instruct", "IQ3_XXS")),
        ("model-f16", ("model", "F16")),
        ("gpt-oss-20b-MXFP4", ("gpt-oss-20b", "MXFP4")),
        ("Qwen3-4B", ("Qwen3-4B", None)),
        ("tiny", ("tiny", None)),
    ],
)
def test_model_id_is_the_stem_without_its_quantization(stem: str, expected: tuple[str, str | None]) -> None:
    assert plan_runs.split_stem(stem) == expected


def test_files_that_would_share_an_id_keep_their_full_stems() -> None:
    named = plan_runs.name_models([Path("a/m-Q4_0.gguf"), Path("m-Q6_K.gguf"), Path("n-Q6_K.gguf")])
    assert [name for name, _, _ in named] == ["m-Q4_0", "m-Q6_K", "n"]
    with pytest.raises(plan_runs.PlanError, match="rename one"):
        plan_runs.name_models([Path("a/m.gguf"), Path("b/m.gguf")])


def test_the_key_changes_with_whatever_defines_the_run() -> None:
    def key(
        task: dict = TASKS[0], level: str = "A", repeat: int = 1, model: dict = MODEL, **changes: object
    ) -> str:
        return plan_runs.plan_line(task, level, repeat, 1, model, settings(**changes))["record"]["run_key"]

    other_text = {**TASKS[0], "levels": {"A": "other"}}
    keys = [
        key(),
        key(task=other_text),
        key(level="B"),
        key(repeat=2),
        key(model={**MODEL, "sha256": "1" * 64}),
        key(system="be kind"),
        key(conditions={"power_mode": "MAXN"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(order="shuffled", out_jsonl="elsewhere.jsonl")
