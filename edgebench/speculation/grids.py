"""Grids of speculative decoding -> cells, in the order in which they are to be run.

A grid is adaptive, early-exit or oneoff, those of the original experiment, or a file. Every workload
(requests, tokens, temperature, prompts) has one cell of plain decoding beside it. Groups keep the grid's
order; inside a group a seeded shuffle decides, so that a board that warms up favours no rule.

A grid file is a JSON or YAML list of cells, or {"name": ..., "cells": [...]}. A cell has any of the keys
requests, max_tokens, temperature, draft_tokens, adaptive (off, published, cost), threshold, batches, drafter,
prompts, levels, name; a list as a value stands for one cell per item. A key that is unknown, or that stands
there twice, is an error: neither JSON nor YAML would tell.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.account import by_key
from edgebench.records.jsonl import reason_of
from edgebench.speculation.settings import SWEPT, CellSettings, GridSettings

# The grids of the original experiment: (requests, tokens, temperature, draft tokens).
ADAPTIVE_GRID = (
    (12, 64, 0.0, 10),
    (12, 64, 0.7, 10),
    (36, 128, 0.0, 10),
    (36, 128, 0.7, 10),
    (60, 64, 0.0, 10),
    (36, 256, 0.0, 10),
    (36, 128, 0.0, 5),
    (36, 128, 0.0, 15),
)
# (requests, tokens, temperature, threshold)
EARLY_EXIT_GRID = (
    (36, 128, 0.0, 0.0),
    (36, 128, 0.0, 0.3),
    (36, 128, 0.0, 0.5),
    (36, 128, 0.0, 0.7),
    (36, 128, 0.7, 0.0),
    (36, 128, 0.7, 0.5),
    (36, 256, 0.0, 0.5),
)
# name -> (requests, tokens, temperature, threshold)
SCENARIOS = {
    "a_code_completion": (24, 64, 0.0, 0.0),
    "b_chatbot": (36, 128, 0.3, 0.0),
    "c_high_throughput": (60, 128, 0.0, 0.5),
    "d_creative_writing": (24, 256, 0.7, 0.0),
}
# What the original profiled with Nsight Compute: this grid, and this scenario.
PROFILED_GRID, PROFILED_SCENARIO = "early-exit", "scenario_c_high_throughput"
FOLDERS = {"adaptive": "adaptive_grid", "early-exit": "early_exit_grid", "oneoff": "oneoff_scenarios"}
ADAPTIVE_MARK = {"off": "adaptive0", "cost": "adaptive1", "published": "adaptivepub"}
ROLES = {"off": "fixed", "published": "published", "cost": "cost"}
FILE_KEYS = {"name", "cells"}
CELL_KEYS = {*SWEPT, "adaptive", "batches", "drafter", "prompts", "levels", "name"}
WHOLE, PORTIONS = ("requests", "max_tokens", "draft_tokens", "batches"), ("temperature", "threshold")
EDGE_BYTE = 1 << 20
Cell = dict[str, Any]  # of a grid, before it has its settings


@dataclass(frozen=True)
class PlannedCell:
    """One cell: what it is called, what it is decoded with, and what its result is recognized by."""

    grid: str  # folder
    name: str  # of its file, without .json
    group: str  # cells that are compared with each other: a run number, a scenario
    role: str  # plain, fixed, published, cost
    settings: CellSettings
    config: Mapping[str, Any]  # all that defines the result, as it stands in it
    config_hash: str
    profiled: bool = False  # the original experiment counted its memory traffic

    @property
    def label(self) -> str:
        """Folder and name."""
        return f"{self.grid}/{self.name}"

    @property
    def units(self) -> int:
        """Tokens it decodes at most, the measure for time estimates."""
        settings = self.settings
        beside = 0 if settings.is_plain else settings.batches if settings.compare == "every" else 1
        decoded = settings.requests * (settings.batches + beside) + settings.warmup
        return settings.max_tokens * decoded


def check_texts(cell: Mapping[str, Any], where: str) -> None:
    """UserError for a name, a drafter and other texts that make no sense."""
    for key in ("name", "prompts", "levels"):
        if not isinstance(cell.get(key, ""), str):
            raise UserError(f"{where}: {key} {cell[key]!r} must be a text, in quotes")
    name = cell.get("name", "a")
    if Path(name).name != name or name in ("", "..") or not name.isprintable():
        raise UserError(f"{where}: the name {name!r} must do for a file, without folders")
    if cell.get("drafter", "model") not in ("lookup", "model"):
        raise UserError(f"{where}: drafter {cell['drafter']!r} must be lookup or model")


def check_cell(cell: Mapping[str, Any], where: str) -> None:
    """UserError for a key that no cell has and for a value that makes no sense."""
    if unknown := set(cell) - CELL_KEYS:
        raise UserError(
            f"{where}: no cell has {', '.join(sorted(unknown))}; the keys are {', '.join(sorted(CELL_KEYS))}"
        )
    check_texts(cell, where)
    for key in WHOLE:
        value = cell.get(key, 2)
        least = 2 if key == "max_tokens" else 1  # the first token comes from the prompt, without a draft
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{where}: {key} {value!r} must be a whole number of at least {least}")
    for key in PORTIONS:
        value = cell.get(key, 0.0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 2:
            raise UserError(f"{where}: {key} {value!r} must be a number from 0 to 2")
    if cell.get("threshold", 0.0) > 1:
        raise UserError(f"{where}: threshold {cell['threshold']} is a probability, 0 to 1")
    if cell.get("adaptive", "off") not in ADAPTIVE_MARK:
        raise UserError(f"{where}: adaptive {cell['adaptive']!r} must be one of {', '.join(ADAPTIVE_MARK)}")


# ---------------------------------------------------------------------------
# Grids


def published_grid(grid: str) -> list[Cell]:
    """The cells of a grid of the original experiment, with their group and the rule's role."""
    if grid == "adaptive":
        keys = ("requests", "max_tokens", "temperature", "draft_tokens")
        rows = [dict(zip(keys, row, strict=True)) for row in ADAPTIVE_GRID]
        return [{**row, "adaptive": rule} for row in rows for rule in ADAPTIVE_MARK]
    keys = ("requests", "max_tokens", "temperature", "threshold")
    if grid == "early-exit":
        return [{**dict(zip(keys, row, strict=True)), "adaptive": "off"} for row in EARLY_EXIT_GRID]
    return [
        {**dict(zip(keys, row, strict=True)), "adaptive": "cost", "name": f"scenario_{name}"}
        for name, row in SCENARIOS.items()
    ]


def read_grid(path: Path) -> tuple[str, list[Cell]]:
    """Folder name and cells of a grid file, lists in cells multiplied out. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = load_json(text) if path.suffix == ".json" else load_yaml(text)
    except OSError as exc:
        raise UserError(f"cannot read the grid {path}: {reason_of(exc)}; check --grid") from exc
    except ValueError as exc:
        raise UserError(f"cannot read the grid {path} ({exc}); check --grid") from exc
    name = path.stem
    if isinstance(document, dict) and "cells" not in document and "requests" in document:
        document = [document]  # one cell alone, as --help shows it
    if isinstance(document, dict):
        if unknown := {str(key) for key in document} - FILE_KEYS:
            raise UserError(
                f"{path}: a grid has no {', '.join(sorted(unknown))}; its keys are name and cells, and "
                "those of a cell belong into the list of cells"
            )
        name, document = str(document.get("name", name)), document.get("cells")
    if not isinstance(document, list) or not document or not all(isinstance(c, dict) for c in document):
        raise UserError(
            f"{path}: a grid is a list of cells, such as [{{requests: 8, draft_tokens: [2, 4]}}]; "
            "mend the file of --grid"
        )
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"{path}: the name {name!r} must do for a folder")
    cells = [
        one for number, cell in enumerate(document, 1) for one in expanded(cell, f"{path} cell {number}")
    ]
    return name, cells


def expanded(cell: Cell, where: str) -> list[Cell]:
    """The cells that a cell with lists stands for, each checked. Raises UserError."""
    values = [value if isinstance(value, list) else [value] for value in cell.values()]
    cells = [dict(zip(cell, row, strict=True)) for row in itertools.product(*values)]
    if not cells:
        raise UserError(f"{where}: an empty list stands for no cell at all")
    if len(cells) > 1 and "name" in cell:
        raise UserError(f"{where}: a name and lists do not go together")
    for one in cells:
        if isinstance(one.get("adaptive"), bool | int):  # YAML reads off as false; 0 and 1 as in file names
            one["adaptive"] = "cost" if one["adaptive"] else "off"
        check_cell(one, where)
    return cells


def load_json(text: str) -> Any:
    """A JSON document; ValueError where it is none, or where a key stands there twice."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(unique_keys(pairs))

    return json.loads(text, object_pairs_hook=object_of)


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """The pairs; ValueError for a key that stands there twice: the first value would be lost."""
    try:
        by_key(pairs, lambda pair: pair[0], "the key")
    except UserError as exc:
        raise ValueError(str(exc)) from exc
    return pairs


def load_yaml(text: str) -> Any:
    """A YAML document; ValueError where it is none, or where a key stands there twice."""
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError as exc:
        raise ValueError("PyYAML is not installed: pip install PyYAML, or write the grid as JSON") from exc

    class Loader(yaml.SafeLoader):
        """Tells a key that stands there twice, of which YAML would keep the last."""

    def mapping_of(loader: Any, node: Any) -> dict[Any, Any]:
        unique_keys([(loader.construct_object(key), None) for key, _ in node.value])
        return dict(loader.construct_mapping(node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping_of)
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as exc:
        raise ValueError(f"no YAML: {str(exc).splitlines()[0]}") from exc


def overridden(cells: Sequence[Cell], settings: GridSettings) -> list[Cell]:
    """The cells with the flags' values in place of their own, each distinct one once."""
    given = {key: settings.given[key] for key in SWEPT if settings.given.get(key)}
    distinct: dict[str, Cell] = {}
    for cell in cells:
        for values in itertools.product(*given.values()):
            one = {**cell, **dict(zip(given, values, strict=True))}
            check_cell(one, "flags")
            if "name" in one and any(len(items) > 1 for items in given.values()):
                one["name"] += "_" + "_".join(
                    f"{k}{v}" for k, v in zip(given, values, strict=True) if len(given[k]) > 1
                )
            distinct.setdefault(json.dumps(one, sort_keys=True), one)
    return list(distinct.values())


# ---------------------------------------------------------------------------
# Names, flags, hashes


def numbered(cells: Sequence[Cell], style: str) -> list[tuple[Cell, str, str]]:
    """(cell, group, name): cells that differ only in their rule share a run number, and make a pair."""
    groups: dict[str, int] = {}
    named = []
    for cell in cells:
        if "name" in cell:
            named.append((cell, cell["name"], cell["name"]))
            continue
        key = json.dumps({k: v for k, v in cell.items() if k != "adaptive"}, sort_keys=True)
        run = f"run{groups.setdefault(key, len(groups) + 1)}"
        name = f"{run}_{workload_name(cell)}"
        if style != "early-exit":
            name += f"_d{cell['draft_tokens']}"
            name += f"_thresh{float(cell['threshold'])}" if cell["threshold"] else ""
            name += f"_{ADAPTIVE_MARK[cell['adaptive']]}"
        else:
            name += f"_thresh{float(cell['threshold'])}"
        named.append((cell, run, name))
    return named


def workload_name(cell: Mapping[str, Any]) -> str:
    """The part of a file name that tells the workload."""
    return f"r{cell['requests']}_t{cell['max_tokens']}_temp{float(cell['temperature'])}"


def prompts_of(name: str, cell: Mapping[str, Any], settings: GridSettings) -> str:
    """The prompts file of a cell: its own, its scenario's (--prompts_for), or that of all."""
    if "prompts" in cell:
        return str(cell["prompts"])
    short = name.removeprefix("scenario_")
    for key, path in settings.prompts_for.items():
        if short == key or short.startswith(f"{key}_"):
            return str(path)
    return str(settings.prompts)


def fingerprint(path: str | None, seen: dict[str, Any]) -> Any:
    """Size and hash of both ends: tells files apart without reading gigabytes. Raises UserError."""
    if path is None or path in seen:
        return seen.get(path or "")
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(file.read(EDGE_BYTE))
            file.seek(max(size - EDGE_BYTE, 0))
            digest.update(file.read(EDGE_BYTE))
    except OSError as exc:
        raise UserError(f"cannot read {path}: {reason_of(exc)}; check --model, --draft, --prompts") from exc
    seen[path] = [size, digest.hexdigest()[:24]]
    return seen[path]


def finished_cell(
    grid: str,
    group: str,
    name: str,
    cell: Mapping[str, Any],
    settings: GridSettings,
    seen: dict[str, Any],
) -> PlannedCell:
    """One line of the plan."""
    decoded = cell_settings(cell, settings)
    config = {
        **{key: cell[key] for key in ("requests", "max_tokens", "temperature", "batches", "levels")},
        "warmup": settings.warmup,
        "seed": settings.seed,
        "role": cell["role"],
        "scenario": group if group.startswith("scenario_") else Path(cell["prompts"]).name.partition(".")[0],
    }
    if not decoded.is_plain:
        config |= {key: cell[key] for key in ("draft_tokens", "adaptive", "threshold", "drafter")}
        config["compare"] = settings.compare
        config |= {"cross_check": True} if settings.cross_check else {}
    files = [settings.model, cell["prompts"], *([settings.draft] if decoded.drafter == "model" else [])]
    prints = [fingerprint(path, seen) for path in files]
    identity = [config, prints, dict(settings.engine), dict(settings.measure), dict(settings.versions)]
    return PlannedCell(
        grid,
        name,
        group,
        role=cell["role"],
        settings=decoded,
        config=config,
        config_hash=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24],
    )


def cell_settings(cell: Mapping[str, Any], settings: GridSettings) -> CellSettings:
    """What a cell is decoded with."""
    plain = CellSettings(
        model=settings.model,
        prompts=(cell["prompts"],),
        levels=(cell["levels"],),
        temperature=cell["temperature"],
        requests=cell["requests"],
        batches=cell["batches"],
        warmup=settings.warmup,
        max_tokens=cell["max_tokens"],
        seed=settings.seed,
        **settings.engine,
    )
    if cell["role"] == "plain":
        return plain
    return replace(
        plain,
        drafter=cell["drafter"],
        draft=settings.draft if cell["drafter"] == "model" else None,
        draft_tokens=cell["draft_tokens"],
        adaptive=cell["adaptive"],
        threshold=cell["threshold"],
        compare=settings.compare,
        cross_check=settings.cross_check and cell["drafter"] == "lookup",
    )


def plan_grid(grid: str, settings: GridSettings, seen: dict[str, Any]) -> list[PlannedCell]:
    """All cells of one grid, plain decoding beside the first group of its workload."""
    folder, cells = (FOLDERS[grid], published_grid(grid)) if grid in FOLDERS else read_grid(Path(grid))
    usual = {"draft_tokens": 10, "threshold": 0.0, "temperature": 0.0, "requests": 8, "max_tokens": 64}
    own = {"batches": settings.batches, "levels": settings.levels, "drafter": settings.drafter}
    groups: dict[str, list[PlannedCell]] = {}
    workloads: set[str] = set()
    for cell, group, name in numbered(
        overridden([{**usual, "adaptive": "off", **cell} for cell in cells], settings), grid
    ):
        cell = {**own, **cell}
        cell |= {"prompts": prompts_of(name, cell, settings), "role": ROLES[cell["adaptive"]]}
        check_drafter(name, cell, settings)
        members = groups.setdefault(group, [])
        planned = finished_cell(folder, group, name, cell, settings, seen)
        profiled = grid == PROFILED_GRID or (grid in FOLDERS and group == PROFILED_SCENARIO)
        members.append(replace(planned, profiled=profiled))
        plain = "_".join(("plain", workload_name(cell))) if "name" not in cell else f"{cell['name']}_plain"
        key = plain if "name" in cell else json.dumps([plain, cell["prompts"], cell["levels"]])
        if key not in workloads:
            number = sum(plain == json.loads(k)[0] for k in workloads if k.startswith("[")) + 1
            plain += f"_{number}" if number > 1 and "name" not in cell else ""
            workloads.add(key)
            members.append(finished_cell(folder, group, plain, {**cell, "role": "plain"}, settings, seen))
    draw = random.Random(settings.seed)
    return [cell for members in groups.values() for cell in draw.sample(members, len(members))]


def check_drafter(name: str, cell: Mapping[str, Any], settings: GridSettings) -> None:
    """UserError where the drafter of a cell is not there, or cannot do what the cell asks."""
    if cell["drafter"] == "model" and settings.draft is None:
        raise UserError(f"{name} drafts with a model: give its file with --draft, or set DRAFT_MODEL")
    if cell["drafter"] == "lookup" and cell["threshold"]:
        raise UserError(
            f"{name}: prompt lookup has no probabilities to check; give --draft FILE, or --threshold 0"
        )


def plan(settings: GridSettings) -> list[PlannedCell]:
    """The cells of all grids. Raises UserError."""
    settings = replace(settings, drafter=settings.drafter or ("model" if settings.draft else "lookup"))
    check_cell({"batches": settings.batches}, "flags")
    if settings.warmup < 0:
        raise UserError(f"flags: warmup {settings.warmup} must be 0 or more")
    seen: dict[str, Any] = {}
    cells = [cell for grid in settings.grids for cell in plan_grid(grid, settings, seen)]
    for key, path in settings.prompts_for.items():
        if not any(path in cell.settings.prompts for cell in cells):
            raise UserError(f"--prompts_for {key}=…: no cell is called so; oneoff has {', '.join(SCENARIOS)}")
    names = [(cell.grid, cell.name) for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two cells are called {sorted(twice)[0][1]}; give them names of their own")
    return cells
