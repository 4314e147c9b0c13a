"""What a start would refuse, known before anything is made: models, prompts, cache, dataset, judge.

Each finding is one of three kinds:

  wrong     cannot work as it is written
  absent    a file or a hub that may be there when the experiment starts
  doubtful  the measuring will work, a later step may not

A start is refused by the first two; `config validate` takes only what is wrong for an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgebench.errors import UserError
from edgebench.gguf.cache import kv_type_problem
from edgebench.gguf.facts import read_facts
from edgebench.gguf.header import one_path_a_model
from edgebench.prompts.sources import Wish, hub_cache, is_here, load, why_no_hub
from edgebench.prompts.tasks import wanted_tasks

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One fault, with its cure."""

    kind: Literal["wrong", "absent", "doubtful"]
    text: str

    @property
    def refuses(self) -> bool:
        """Does it keep an experiment from starting?"""
        return self.kind != "doubtful"


def findings(config: Json) -> list[Finding]:
    """All that is to be said of what a configuration names."""
    return [*of_models(config), *of_prompts(config), *of_power(config), *of_judge(config)]


def refuse_unready(config: Json) -> None:
    """UserError for what a start cannot do without; all of it, one line each."""
    found = [one.text for one in findings(config) if one.refuses]
    if found:
        raise UserError("\nerror: ".join(found))


def of_models(config: Json) -> Iterator[Finding]:
    """Files that are no usable model, and a cache that one cannot take."""
    if not config["models"]:
        yield Finding("wrong", "no model; name one with --model PATH.gguf or in the file under models")
    engine = config["engine"]
    for path in one_path_a_model([Path(name) for name in config["models"]]):
        if not path.is_file():
            yield Finding("absent", f"models: {path} does not exist; {where_models_come_from(str(path))}")
            continue
        problem = read_facts(path).error or kv_type_problem(path, engine["kv_type"], engine["flash_attn"])
        if problem:
            yield Finding("wrong", f"models: {path}: {problem}")


def where_models_come_from(name: str) -> str:
    """What to do about a model that is not there."""
    if not name.endswith(".gguf"):
        return "models are GGUF files: download one, as in --model models/NAME-Q4_K_M.gguf"
    return f"paths are relative to {Path.cwd()}"


def of_prompts(config: Json) -> Iterator[Finding]:
    """Prompts that are not there, or lack a level, a task, or as many as a batch takes."""
    missing = [str(path) for path in config["prompts"] if not Path(path).is_file()]
    for path in missing:
        yield Finding("absent", f"prompts: {path} does not exist; paths are relative to {Path.cwd()}")
    if missing:
        return
    source = (config["dataset"] or {}).get("source")
    if source and not is_here(source):
        why = why_no_hub(source)
        if why:  # what an earlier start has downloaded may be enough
            yield Finding("doubtful" if hub_cache().is_dir() else "absent", f"dataset: {why}")
        return
    try:
        count = prompts_in(config)
    except (UserError, OSError) as problem:
        yield Finding("wrong", f"{'dataset' if source else 'prompts'}: {problem}")
        return
    largest = max(config["batch_sizes"])
    if config["mode"] == "throughput" and count < largest:
        cure = "lower batch_sizes, or give more prompts, levels or a higher limit"
        yield Finding("wrong", f"a batch of {largest} needs {largest} prompts, and there are {count}; {cure}")
    if config["mode"] == "throughput" and largest > config["engine"]["n_batch"]:
        yield Finding("wrong", f"engine.n_batch is less than a batch of {largest}; raise it")


def prompts_in(config: Json) -> int:
    """Prompts of a configuration whose source is on this machine. Raises UserError, OSError."""
    if config["dataset"]:
        loaded = load(Wish(**config["dataset"]))
        levels = config["levels"] or loaded.levels
        lacking = [level for level in levels if level not in loaded.levels]
        if lacking:
            there = ", ".join(loaded.levels)
            raise UserError(f"it has no level {', '.join(map(str, lacking))}; it has {there}: check levels")
        rows = loaded.rows[: config["limit"]]
        return len([row for row in rows for level in levels if row[level].strip()])
    default = ["L0"] if config["mode"] == "throughput" else None  # the default of each of the two commands
    levels = [str(one) for one in config["levels"]] or default
    ids = [str(one) for one in config["ids"]] or None
    tasks = wanted_tasks(list(map(Path, config["prompts"])), levels, ids, config["limit"] or None)
    return sum(len(task.levels) for task in tasks)


def of_power(config: Json) -> Iterator[Finding]:
    """A recorded feed that is not there."""
    source = config["power"]["source"]
    log = source.removeprefix("replay:")
    if log != source and not config["power"]["feed"] and not Path(log).is_file():
        yield Finding("absent", f"power.source: {log} does not exist; paths are relative to {Path.cwd()}")


def of_judge(config: Json) -> Iterator[Finding]:
    """What the judge will need hours later."""
    judge = config["judge"]
    if not judge:
        return
    for name in ("serve_model", "questions"):
        if judge[name] and not Path(judge[name]).is_file():
            yield Finding("doubtful", f"judge.{name}: {judge[name]} does not exist; the judge will need it")
    key = judge["api_key_env"]
    if key and key not in os.environ:
        yield Finding("doubtful", f"judge.api_key_env: {key} is not set; the judge will need it")


def runs_per_cycle(config: Json) -> int | None:
    """Runs a cycle will take; None for a set on a hub, whose prompts are not there yet. Raises UserError."""
    if config["mode"] == "throughput":
        return len(config["models"]) * len(set(config["batch_sizes"])) * int(config["repeats"])
    if config["dataset"] and not is_here(config["dataset"]["source"]):
        return None
    each = len(config["models"]) * int(config["repeats"]) * int(config["turns"])
    return prompts_in(config) * each
