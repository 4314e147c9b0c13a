"""Which cells a grid has, what they are called, and when two are the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgebench.errors import UserError
from edgebench.speculation.grids import PlannedCell
from edgebench.speculation.grids import plan as plan_cells
from edgebench.speculation.settings import SWEPT, GridSettings


def plan(tmp_path: Path, **settings: Any) -> list[PlannedCell]:
    for name in ("model.gguf", "draft.gguf", "prompts.csv", "code.csv"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text(name)
    # Thresholds need a draft model's probabilities.
    draft = {"draft": str(tmp_path / "draft.gguf")} if {"early-exit", "oneoff"} & {*settings["grids"]} else {}
    given = {
        **draft,
        "model": str(tmp_path / "model.gguf"),
        "prompts": str(tmp_path / "prompts.csv"),
        **{name: value for name, value in settings.items() if name not in SWEPT},
        "grids": tuple(settings["grids"]),
        "given": {name: tuple(value) for name, value in settings.items() if name in SWEPT},
    }
    return plan_cells(GridSettings(**given))


def complaint(tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as told:
        plan(tmp_path, **settings)
    return str(told.value)


def names(cells: list[PlannedCell]) -> set[str]:
    return {cell.name for cell in cells}


def test_every_run_of_the_adaptive_grid_has_its_pair_under_the_same_number(tmp_path: Path) -> None:
    found = names(plan(tmp_path, grids=["adaptive"]))
    fixed = {name for name in found if name.endswith("_adaptive0")}
    assert len(fixed) == 8 and "run1_r12_t64_temp0.0_d10_adaptive0" in fixed
    for mark in ("_adaptive1", "_adaptivepub"):
        assert {name.replace("_adaptive0", mark) for name in fixed} <= found


def test_the_other_grids_have_the_names_people_look_for(tmp_path: Path) -> None:
    cells = plan(tmp_path, grids=["early-exit", "oneoff"])
    assert {cell.grid for cell in cells} == {"early_exit_grid", "oneoff_scenarios"}
    assert {
        "run1_r36_t128_temp0.0_thresh0.0",
        "run3_r36_t128_temp0.0_thresh0.5",
        "run7_r36_t256_temp0.0_thresh0.5",
        "scenario_a_code_completion",
        "scenario_b_chatbot",
        "scenario_c_high_throughput",
        "scenario_d_creative_writing",
    } <= names(cells)


@pytest.mark.parametrize("grid", ["adaptive", "early-exit", "oneoff"])
def test_every_workload_has_plain_decoding(tmp_path: Path, grid: str) -> None:
    def workload(cell: PlannedCell) -> tuple[Any, ...]:
        config = cell.config
        return tuple(config[key] for key in ("requests", "max_tokens", "temperature", "scenario"))

    cells = plan(tmp_path, grids=[grid])
    plain = [workload(cell) for cell in cells if cell.role == "plain"]
    assert set(plain) == {workload(cell) for cell in cells} and len(plain) == len(set(plain))
    assert all(cell.settings.is_plain == (cell.role == "plain") for cell in cells)


def test_the_order_inside_a_group_is_drawn_and_groups_stay_together(tmp_path: Path) -> None:
    cells = plan(tmp_path, grids=["adaptive"])
    groups = [cell.group for cell in cells]
    assert [g for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g] == [
        f"run{n}" for n in range(1, 9)
    ]
    firsts = {next(cell.role for cell in cells if cell.group == group) for group in set(groups)}
    assert len(firsts) > 1
    assert cells == plan(tmp_path, grids=["adaptive"])
    assert cells != plan(tmp_path, grids=["adaptive"], seed=7)


def test_flags_take_the_place_of_the_grids_values_and_doubles_go(tmp_path: Path) -> None:
    cells = plan(
        tmp_path, grids=["adaptive"], requests=[2], max_tokens=[8], temperature=[0.0], draft_tokens=[4, 6]
    )
    assert names(cells) == {"plain_r2_t8_temp0.0"} | {
        f"run{run}_r2_t8_temp0.0_d{draft}_{mark}"
        for run, draft in ((1, 4), (2, 6))
        for mark in ("adaptive0", "adaptive1", "adaptivepub")
    }


def test_the_hash_changes_with_all_that_changes_the_result(tmp_path: Path) -> None:
    def hashes(**settings: object) -> list[str]:
        cells = plan(tmp_path, grids=["oneoff"], **settings)
        return [cell.config_hash for cell in sorted(cells, key=lambda cell: cell.name)]

    before = hashes()
    assert before == hashes() and len(set(before)) == len(before)
    changes: tuple[dict, ...] = (
        {"batches": 2},
        {"levels": "L1"},
        {"engine": {"n_threads": 2}},
        {"measure": {"power_source": "none"}},
        {"versions": {"llama-cpp-python": "9"}},
        {"warmup": 0},
    )
    for change in changes:
        assert not set(before) & set(hashes(**change)), change
    (tmp_path / "model.gguf").write_text("another")
    assert not set(before) & set(hashes())


def test_a_draft_model_drafts_and_prompt_lookup_is_the_default(tmp_path: Path) -> None:
    lookup = next(c for c in plan(tmp_path, grids=["adaptive"]) if c.role == "cost")
    assert lookup.settings.drafter == "lookup" and lookup.settings.draft is None
    draft = str(tmp_path / "draft.gguf")
    cells = plan(tmp_path, grids=["oneoff"], draft=draft, prompts_for={"a": str(tmp_path / "code.csv")})
    a = next(c for c in cells if c.name == "scenario_a_code_completion")
    assert a.settings.draft == draft and a.settings.drafter == "model"
    assert str(tmp_path / "code.csv") in a.settings.prompts


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_grid_file_of_ones_own(tmp_path: Path, suffix: str) -> None:
    grid = tmp_path / f"mine{suffix}"
    if suffix == ".json":
        grid.write_text(json.dumps([{"requests": 2, "max_tokens": 8, "draft_tokens": [2, 4]}]))
    else:
        pytest.importorskip("yaml")
        grid.write_text(
            "name: mine\ncells:\n  - {requests: 2, max_tokens: 8, draft_tokens: [2, 4], adaptive: off}\n"
        )
    cells = plan(tmp_path, grids=[str(grid)])
    assert {cell.grid for cell in cells} == {"mine"}
    assert names(cells) == {
        "plain_r2_t8_temp0.0", "run1_r2_t8_temp0.0_d2_adaptive0", "run2_r2_t8_temp0.0_d4_adaptive0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([{"requests": 0}], "requests 0"),
        ([{"temperature": -1}], "temperature -1"),
        ([{"threshold": 1.5}], "probability"),
        ([{"adaptive": "wild"}], "wild"),
        ([{"tokens": 3}], "no cell has tokens"),
        ([{"drafter": "model"}], "--draft"),
        ([{"threshold": 0.5}], "--threshold 0"),  # prompt lookup has no probabilities
        ([{"max_tokens": 1}], "max_tokens 1"),
        ([{"name": "../../far"}], "must do for a file"),
        ([{"name": 5}], "name 5"),
        ([{"name": ""}], "must do for a file"),
        ([{"name": "two\nlines"}], "must do for a file"),
        ([{"levels": 7}], "levels 7"),
        ([{"drafter": "guess"}], "lookup or model"),
        ([{"requests": []}], "empty list"),
        ([{"name": "x"}, {"name": "x", "draft_tokens": 3}], "called x"),
        ({}, "list of cells"),
        ([], "list of cells"),
        ({"cells": [{}], "requests": 8, "seeds": 3}, "a grid has no requests, seeds"),
    ],
)
def test_a_grid_that_makes_no_sense_is_told_so(tmp_path: Path, cells: object, words: str) -> None:
    (tmp_path / "grid.json").write_text(json.dumps(cells))
    assert words in complaint(tmp_path, grids=[str(tmp_path / "grid.json")])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[{"requests": 8, "requests": 36}]'),
        ("b.json", '{"name": "x", "cells": [{"requests": 8}], "cells": []}'),
        ("c.yaml", "- {requests: 8, max_tokens: 8, requests: 36}"),
        ("d.yaml", "name: x\ncells: [{requests: 8}]\nname: y"),
    ],
)
def test_a_key_that_stands_there_twice_is_told_and_not_lost(tmp_path: Path, name: str, text: str) -> None:
    if name.endswith(".yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    told = complaint(tmp_path, grids=[str(tmp_path / name)])
    assert "stands there twice" in told and name in told


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"batches": 0}, "batches 0"), ({"warmup": -1}, "warmup -1"), ({"prompts_for": {"z": "no.csv"}}, "z=")],
)
def test_flags_that_no_cell_can_follow_are_told_before_the_first(
    tmp_path: Path, settings: dict, word: str
) -> None:
    assert word in complaint(tmp_path, grids=["oneoff"], **settings)


def test_missing_files(tmp_path: Path) -> None:
    assert "--grid" in complaint(tmp_path, grids=[str(tmp_path / "none.yaml")])
    assert "--model" in complaint(tmp_path, grids=["oneoff"], model="no.gguf")
