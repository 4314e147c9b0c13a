"""companions/plan_runs.py: the order of levels, the identity of models, the keys of runs."""

import collections
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import board_trees
from hypothesis import given
from hypothesis import strategies as st

from edgebench.collecting import plan as plan_runs

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("flags", [{}, {"allow_cpu": True}])
def test_a_jetson_whose_engine_has_no_gpu_is_refused(tmp_path: Path, flags: dict) -> None:
    """The real board check judges a recorded board; only where it looks is changed."""
    board = board_trees.orin_nano_super(tmp_path / "board")
    shutil.copytree(ROOT / "edgebench", tmp_path / "edgebench")
    (tmp_path / "edgebench/board/check.py").write_text(
        "import subprocess, sys\n"
        f"command = [sys.executable, {str(ROOT / 'companions/board_check.py')!r}, '--root', {str(board)!r}]\n"
        "sys.exit(subprocess.run([*command, *sys.argv[1:]]).returncode)\n"
    )
    settings = {"models": ["none.gguf"], "prompts": [str(tmp_path / "p.jsonl")], "levels": ["L0"], **flags}
    (tmp_path / "p.jsonl").write_text('{"id": 1, "L0": "Why?"}\n')
    done = subprocess.run(
        [sys.executable, str(tmp_path / "edgebench/__main__.py"), "edgebench.collecting.plan"],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
    )
    if flags:
        assert done.returncode == 0 and "none.gguf" in json.loads(done.stdout.splitlines()[0])["errors"][0]
    else:
        assert done.returncode == 1 and "--allow_cpu" in done.stderr and "GGML_CUDA=ON" in done.stderr


def test_anchors_are_the_first_run_of_the_plan_whatever_is_left() -> None:
    plan = [{"record": {"model_id": m, "n": n}, "anchor": False} for m in "ab" for n in range(5)]
    lines = plan_runs.with_anchors(plan, plan[2:5] + plan[7:], 2)
    shown = [(line["record"]["model_id"], line["record"]["n"]) for line in lines if line["anchor"]]
    assert shown == [("a", 0), ("a", 0), ("b", 0), ("b", 0)]
    assert plan_runs.with_anchors(plan, plan[2:], None) == plan[2:]


def test_a_last_line_that_only_lacks_its_line_break_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    for text, healed in (('{"a": 1}', '{"a": 1}\n'), ('{"a": 1}\n{"a', '{"a": 1}\n'), ("", "")):
        out.write_text(text)
        plan_runs.heal(out)
        assert out.read_text() == healed
