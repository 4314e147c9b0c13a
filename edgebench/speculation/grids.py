"""Grids of speculative decoding -> cells, in the order in which they are to be run.

Settings are grids (adaptive, early-exit, oneoff, or the path of a grid file), model, draft, drafter, prompts,
and what DEFAULTS below lists. Lists under requests, max_tokens, temperature, draft_tokens, threshold take the
place of a grid's own values. A cell has:

  grid, name    the folder and the file name (without .json) of the cell's result
  group         cells that are compared with each other: a run number, a scenario
  role          plain, fixed, published or cost
  units         tokens it decodes at most, the measure for time estimates
  flags         the flags of cell.py, without --out
  config        all that defines the result; config_hash is its hash

Every workload (requests, tokens, temperature, prompts) has one cell of plain decoding. Groups keep the grid's
order; inside a group a seeded shuffle decides, so that a board that warms up favours no rule.

A grid file is a JSON or YAML list of cells, or {"name": ..., "cells": [...]}. A cell has any of the keys
requests, max_tokens, temperature, draft_tokens, adaptive (off, published, cost), threshold, batches, drafter,
prompts, levels, name; a list as a value stands for one cell per item.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError

DEFAULTS: dict[str, Any] = {
    "draft": None,
    "drafter": None,
    "levels": "L0",
    "prompts_for": {},
    "requests": None,
    "max_tokens": None,
    "temperature": None,
    "draft_tokens": None,
    "threshold": None,
    "batches": 3,
    "warmup": 1,
    "seed": 42,
    "compare": "first",
    "engine": {},
    "measure": {},
    "versions": {},
}
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
FOLDERS = {"adaptive": "adaptive_grid", "early-exit": "early_exit_grid", "oneoff": "oneoff_scenarios"}
ADAPTIVE_MARK = {"off": "adaptive0", "cost": "adaptive1", "published": "adaptivepub"}
ROLES = {"off": "fixed", "published": "published", "cost": "cost"}
SWEPT = ("requests", "max_tokens", "temperature", "draft_tokens", "threshold")
CELL_KEYS = {*SWEPT, "adaptive", "batches", "drafter", "prompts", "levels", "name"}
WHOLE, PORTIONS = ("requests", "max_tokens", "draft_tokens", "batches"), ("temperature", "threshold")
EDGE_BYTE = 1 << 20
Cell = dict[str, Any]


def check_texts(cell: Mapping[str, Any], where: str) -> None:
    """UserError for a name, a drafter and other texts that make no sense."""
    for key in ("name", "prompts", "levels"):
        if not isinstance(cell.get(key, ""), str):
            raise UserError(f"{where}: {key} {cell[key]!r} must be a text, in quotes")
    name = cell.get("name", "a")
    if Path(name).name != name or name == "..":
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
        document = json.loads(text) if path.suffix == ".json" else load_yaml(text)
    except (OSError, ValueError) as exc:
        raise UserError(f"cannot read the grid {path} ({exc}); check --grid") from exc
    name = path.stem
    if isinstance(document, dict):
        name, document = str(document.get("name", name)), document.get("cells")
    if not isinstance(document, list) or not document or not all(isinstance(c, dict) for c in document):
        raise UserError(
            f"{path}: a grid is a list of cells, such as [{{requests: 8, draft_tokens: [2, 4]}}]; "
            "mend the file of --grid"
        )
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"{path}: the name {name!r} must do for a folder")
    cells = []
    for number, cell in enumerate(document, 1):
        values = [value if isinstance(value, list) else [value] for value in cell.values()]
        expanded = [dict(zip(cell, row, strict=True)) for row in itertools.product(*values)]
        if not expanded:
            raise UserError(f"{path} cell {number}: an empty list stands for no cell at all")
        if len(expanded) > 1 and "name" in cell:
            raise UserError(f"{path} cell {number}: a name and lists do not go together")
        for one in expanded:
            if isinstance(
                one.get("adaptive"), bool | int
            ):  # YAML reads off as false; 0 and 1 as in file names
                one["adaptive"] = "cost" if one["adaptive"] else "off"
            check_cell(one, f"{path} cell {number}")
        cells += expanded
    return name, cells


def load_yaml(text: str) -> Any:
    """A YAML document; ValueError where it is none."""
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError as exc:
        raise ValueError("PyYAML is not installed: pip install PyYAML, or write the grid as JSON") from exc
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(f"no YAML: {str(exc).splitlines()[0]}") from exc


def overridden(cells: Sequence[Cell], settings: Mapping[str, Any]) -> list[Cell]:
    """The cells with the flags' values in place of their own, each distinct one once."""
    given = {key: settings[key] for key in SWEPT if settings[key]}
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


def prompts_of(name: str, cell: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The prompts file of a cell: its own, its scenario's (--prompts_for), or that of all."""
    if "prompts" in cell:
        return str(cell["prompts"])
    short = name.removeprefix("scenario_")
    for key, path in settings["prompts_for"].items():
        if short == key or short.startswith(f"{key}_"):
            return str(path)
    return str(settings["prompts"])


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
        raise UserError(f"cannot read {path} ({exc.strerror}); check --model, --draft, --prompts") from exc
    seen[path] = [size, digest.hexdigest()[:24]]
    return seen[path]


def finished_cell(
    grid: str,
    group: str,
    name: str,
    cell: Mapping[str, Any],
    settings: Mapping[str, Any],
    seen: dict[str, Any],
) -> Cell:
    """One line of the plan."""
    plain = cell["role"] == "plain"
    config = {
        **{key: cell[key] for key in ("requests", "max_tokens", "temperature", "batches", "levels")},
        **{key: settings[key] for key in ("warmup", "seed")},
        "role": cell["role"],
        "scenario": group if group.startswith("scenario_") else Path(cell["prompts"]).name.partition(".")[0],
    }
    if not plain:
        config |= {key: cell[key] for key in ("draft_tokens", "adaptive", "threshold", "drafter")}
        config["compare"] = settings["compare"]
    flags = ["--model", settings["model"], "--prompts", cell["prompts"], "--levels", cell["levels"]]
    for key in ("requests", "max_tokens", "temperature", "batches"):
        flags += [f"--{key}", str(cell[key])]
    flags += ["--warmup", str(settings["warmup"]), "--seed", str(settings["seed"])]
    if plain:
        flags.append("--plain")
    else:
        use_draft = cell["drafter"] == "model"
        flags += ["--draft", settings["draft"]] if use_draft else ["--drafter", cell["drafter"]]
        for key in ("draft_tokens", "adaptive", "threshold"):
            flags += [f"--{key}", str(cell[key])]
        flags += ["--compare", settings["compare"]]
    for key, value in settings["engine"].items():
        flags += [f"--{key}", str(value)]
    files = [settings["model"], cell["prompts"]] + (
        [settings["draft"]] if config.get("drafter") == "model" else []
    )
    identity = [
        config,
        [fingerprint(path, seen) for path in files],
        *(settings[key] for key in ("engine", "measure", "versions")),
    ]
    beside = 0 if plain else cell["batches"] if settings["compare"] == "every" else 1  # decoded plainly
    decoded = cell["requests"] * (cell["batches"] + beside) + settings["warmup"]
    return {
        "grid": grid,
        "name": name,
        "group": group,
        "role": cell["role"],
        "units": cell["max_tokens"] * decoded,
        "flags": flags,
        "config": config,
        "config_hash": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24],
    }


def plan_grid(grid: str, settings: Mapping[str, Any], seen: dict[str, Any]) -> list[Cell]:
    """All cells of one grid, plain decoding beside the first group of its workload."""
    folder, cells = (FOLDERS[grid], published_grid(grid)) if grid in FOLDERS else read_grid(Path(grid))
    usual = {"draft_tokens": 10, "threshold": 0.0, "temperature": 0.0, "requests": 8, "max_tokens": 64}
    cells = [{**usual, "adaptive": "off", **cell} for cell in cells]
    groups: dict[str, list[Cell]] = {}
    workloads: set[str] = set()
    for cell, group, name in numbered(overridden(cells, settings), grid):
        cell = {**{key: settings[key] for key in ("batches", "levels", "drafter")}, **cell}
        cell |= {"prompts": prompts_of(name, cell, settings), "role": ROLES[cell["adaptive"]]}
        if cell["drafter"] == "model" and settings["draft"] is None:
            raise UserError(f"{name} drafts with a model: give its file with --draft")
        if cell["drafter"] == "lookup" and cell["threshold"]:
            raise UserError(
                f"{name}: prompt lookup has no probabilities to check; give --draft FILE, or --threshold 0"
            )
        members = groups.setdefault(group, [])
        members.append(finished_cell(folder, group, name, cell, settings, seen))
        plain = "_".join(("plain", workload_name(cell))) if "name" not in cell else f"{cell['name']}_plain"
        key = plain if "name" in cell else json.dumps([plain, cell["prompts"], cell["levels"]])
        if key not in workloads:
            number = sum(plain == json.loads(k)[0] for k in workloads if k.startswith("[")) + 1
            plain += f"_{number}" if number > 1 and "name" not in cell else ""
            workloads.add(key)
            members.append(finished_cell(folder, group, plain, {**cell, "role": "plain"}, settings, seen))
    draw = random.Random(settings["seed"])
    return [cell for members in groups.values() for cell in draw.sample(members, len(members))]


def plan(given: Mapping[str, Any]) -> list[Cell]:
    """The cells of all grids. Raises UserError."""
    settings = {**DEFAULTS, **given}
    settings["drafter"] = settings["drafter"] or ("model" if settings["draft"] else "lookup")
    check_cell({"batches": settings["batches"]}, "flags")
    if settings["warmup"] < 0:
        raise UserError(f"flags: warmup {settings['warmup']} must be 0 or more")
    seen: dict[str, Any] = {}
    cells = [cell for grid in settings["grids"] for cell in plan_grid(grid, settings, seen)]
    for key, path in settings["prompts_for"].items():
        if not any(path in cell["flags"] for cell in cells):
            raise UserError(f"--prompts_for {key}=…: no cell is called so; oneoff has {', '.join(SCENARIOS)}")
    names = [(cell["grid"], cell["name"]) for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two cells are called {sorted(twice)[0][1]}; give them names of their own")
    return cells
