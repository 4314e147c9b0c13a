"""Which measurements a throughput campaign has to make: models × batch sizes × repeats, less what is there.

A measurement's run_key is a hash of all that could change the result: model file, prompts, settings, engine
version, batch size, repeat. An output that holds measurements of another board or power mode is refused: the
table would take their mean. Each repeat begins one batch size later than the one before, so that a warming
board does not favour one size.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.gguf.cache import kv_type_problem
from edgebench.gguf.identity import make_entries
from edgebench.prompts.tasks import wanted_tasks
from edgebench.records.jsonl import last_of_each, records_in
from edgebench.throughput.settings import Settings

KEY_SETTINGS = (
    "prompt_format", "max_tokens", "temperature", "seed", "n_ctx", "n_batch", "n_ubatch", "n_threads",
    "n_gpu_layers", "flash_attn", "kv_type", "kv_unified",
)  # fmt: skip
Json = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedPrompt:
    """One sequence of every batch."""

    id: int | str
    level: str
    text: str


@dataclass(frozen=True)
class Cell:
    """All prompts at one batch size, once."""

    run_key: str
    batch_size: int
    repeat: int


@dataclass(frozen=True)
class PlannedModel:
    """A model file, and what is left to measure of it, in running order."""

    path: str
    model_id: str
    quantization: str | None
    error: str | None  # why the file is no usable model
    todo: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """The campaign."""

    prompts: tuple[PlannedPrompt, ...]
    models: tuple[PlannedModel, ...]
    keys: frozenset[str]  # of all measurements, those that are there included

    @property
    def total(self) -> int:
        """Measurements, those that are there included."""
        return len(self.keys)

    @property
    def due(self) -> int:
        """Measurements that are left."""
        return sum(len(model.todo) for model in self.models)


def batch_sizes(text: str) -> list[int]:
    """Sizes of --batch_sizes, without doubles; ValueError for what is none.

    >>> batch_sizes("1,2,4,8")
    [1, 2, 4, 8]
    """
    sizes = [int(part) for part in text.split(",")]
    if min(sizes) < 1:
        raise ValueError(text)
    return list(dict.fromkeys(sizes))


def choose_prompts(settings: Settings) -> tuple[PlannedPrompt, ...]:
    """As many prompts as the largest batch needs, or as --limit says."""
    tasks = wanted_tasks(list(map(Path, settings.prompts)), settings.levels, limit=settings.limit)
    prompts = tuple(
        PlannedPrompt(task.id, level, text) for task in tasks for level, text in task.levels.items()
    )
    largest = settings.largest_batch
    if len(prompts) < largest:
        raise UserError(
            f"a batch of {largest} needs {largest} prompts, and there are {len(prompts)};"
            " lower --batch_sizes, or give more --prompts, --levels or a higher --limit"
        )
    return prompts if settings.limit else prompts[:largest]


def measurements_in(out: Path) -> list[dict[str, Any]]:
    """The records of a campaign in its output; none where there is no output yet."""
    records = records_in(out) if out.exists() else []
    return [one for one in records if one.get("kind") == "throughput"]


def done_keys(out: Path, retry_errors: bool) -> set[str]:
    """run_keys in the output; without those whose last record failed, if they are to be done again."""
    keyed = [one for one in measurements_in(out) if "run_key" in one]
    last = last_of_each(keyed, lambda record: str(record["run_key"]))
    return {record["run_key"] for record in last if not (retry_errors and record.get("error"))}


def refuse_mixture(out: Path, board: Json) -> None:
    """UserError where the output was measured on another board, or in another power mode."""
    here = [board.get(name) for name in ("board", "power_mode_name")]
    for record in measurements_in(out):
        there = [record.get(name) for name in ("board", "power_mode_name")]
        if not record.get("error") and there != here:
            was, now = (" in power mode ".join(str(one or "unknown") for one in two) for two in (there, here))
            raise UserError(
                f"{out} was measured on board {was}, and this is {now}; choose another --out_jsonl"
            )


def cells(sizes: Sequence[int], repeats: int) -> list[tuple[int, int]]:
    """(batch size, repeat) in running order: each repeat begins one size later than the one before.

    >>> cells([1, 2], 2)
    [(1, 1), (2, 1), (2, 2), (1, 2)]
    """
    turns = [(place + repeat) % len(sizes) for repeat in range(repeats) for place in range(len(sizes))]
    return [(sizes[turn], place // len(sizes) + 1) for place, turn in enumerate(turns)]


def identify_models(settings: Settings) -> list[dict[str, Any]]:
    """Identity of each model, with its error where the file is no usable one.

    UserError, with all that is wrong, for a slip of the command: a file that is not there, a cache that a
    model cannot take. A file that is damaged costs its own measurements, and the others go on; where none is
    usable nothing is left to go on with.
    """
    entries = make_entries(list(map(Path, settings.models)), {})
    slips = []
    for entry in entries:
        if entry["error"] is None:
            why = kv_type_problem(Path(entry["path"]), settings.kv_type, settings.flash_attn)
            slips += [f"{entry['path']}: {why}"] if why else []
        elif not Path(entry["path"]).is_file():
            slips.append(entry["error"])
    if not slips and all(entry["error"] for entry in entries):
        slips = [entry["error"] for entry in entries]
    if slips:
        raise UserError("\nerror: ".join(slips))
    return entries


def engine_version() -> str | None:
    """The version of the engine's package; None where it is not installed."""
    try:
        return importlib.metadata.version("llama_cpp_python")
    except importlib.metadata.PackageNotFoundError:
        return None


def make_plan(settings: Settings, board: Json) -> Plan:
    """What is left to measure on this board. Raises UserError, OSError."""
    refuse_mixture(settings.out_jsonl, board)
    prompts = choose_prompts(settings)
    done = done_keys(settings.out_jsonl, settings.retry_errors)
    engine = engine_version()
    told_prompts = [{"id": one.id, "level": one.level, "text": one.text} for one in prompts]
    told_settings = {name: getattr(settings, name) for name in KEY_SETTINGS}
    wanted = cells(settings.batch_sizes, settings.repeats)
    models = []
    keys = set()
    for entry in identify_models(settings):
        todo = []
        for size, repeat in wanted:
            identity = entry.get("sha256") or entry["path"]
            defining = [identity, told_prompts, told_settings, engine, size, repeat]
            key = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:16]
            keys.add(key)
            if key not in done:
                todo.append(Cell(key, size, repeat))
        models.append(
            PlannedModel(entry["path"], entry["model_id"], entry["quantization"], entry["error"], tuple(todo))
        )
    return Plan(prompts, tuple(models), frozenset(keys))
