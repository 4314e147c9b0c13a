"""What an earlier start has done already, what is left, and what must not be mixed with it.

Owns the keys of runs and the reading of the collector's own output. Planning hands its runs in; nothing here
knows the engine or the power feed.

A run's key is a hash of everything that defines it. It has two parts: the base key, of what is known from the
flags and the files (model file, text, level, repeat, turn, sampling, engine version and settings, power
mode), and the ids of the prompt as the model's tokenizer and chat template make them. The ids tell two
prompts apart that share a text, such as those of a template that prints today's date.

Files of collectors before the ids were recorded carry base keys alone. A run that stands in the file under
its base key keeps that key, so that such a file is gone on with, not done again; which prompt ids it had
cannot be told, and is not guessed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.engine.client import Message, Prompt, Resolved
from edgebench.errors import UserError
from edgebench.records.environment import ENGINE_CHOICES, environment_path
from edgebench.records.jsonl import glued_remark, heal_tail, read_jsonl, sha256_of
from edgebench.shell.progress import say

KEY_CHARACTERS = 24
CURES = "choose another --out_jsonl, move the old file aside with --fresh, or mix them with --allow_mixed"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """One run: what it is, what it asks, and under which key it stands in the output."""

    model_id: str
    quantization: str | None
    model_sha256: str  # of the file: two quantizations of one model may share its model_id
    task_id: int | str
    category: str | None
    level: str
    turn: int
    repeat: int
    seed: int  # of this repeat
    prompt: Prompt  # in a second turn, content None stands for the model's own first answer
    prompt_sha256: str  # of the user's text
    base_key: str
    run_key: str = ""  # base key and prompt ids; known when the tokenizer has been asked
    prompt_ids_sha256: str | None = None  # as planned; of a second turn, with an empty first answer
    first_key: str | None = None  # of the first turn, for a second
    is_anchor: bool = False  # not of the campaign, but repeated to see drift

    @property
    def cell(self) -> tuple[str, str, str, int, int]:
        """What the run is, whatever it is measured with."""
        return self.model_id, str(self.task_id), self.level, self.turn, self.repeat

    @property
    def conversation(self) -> tuple[str, str, str, int]:
        """Which turns belong together: a second one goes on from the first answer of the same file."""
        return self.model_sha256, str(self.task_id), self.level, self.repeat

    @property
    def prompt_cell(self) -> tuple[int | str, str, int]:
        """What its prompt is: the same in every repeat."""
        return self.task_id, self.level, self.turn

    @property
    def name(self) -> str:
        """For the user."""
        return f"{self.model_id} task {self.task_id} {self.level}"


# --- Keys ---


def base_key(
    model_sha256: str,
    task_id: int | str,
    level: str,
    repeat: int,
    turn: int,
    messages: Sequence[Message],
    conditions: Mapping[str, Any],
) -> str:
    """Hash of all that defines a run and is known before the tokenizer is asked."""
    told = [dataclasses.asdict(message) for message in messages]
    identity = [model_sha256, task_id, level, repeat, turn, told, conditions]
    return sha256_of(json.dumps(identity, sort_keys=True))[:KEY_CHARACTERS]


def full_key(base: str, prompt_ids_sha256: str) -> str:
    """Key of a run whose prompt has these ids."""
    return sha256_of(f"{base} {prompt_ids_sha256}")[:KEY_CHARACTERS]


def with_keys(runs: Sequence[PlannedRun], records: Sequence[Record]) -> list[PlannedRun]:
    """The runs under their keys; one that stands in the output under its base key alone keeps it."""
    old_keys = {record["run_key"] for record in records}
    keyed = []
    first_keys: dict[tuple[str, str, str, int], str] = {}
    for run in runs:
        if run.base_key in old_keys or run.prompt_ids_sha256 is None:
            key = run.base_key
        else:
            key = full_key(run.base_key, run.prompt_ids_sha256)
        if run.turn == 1:
            first_keys[run.conversation] = key
            first_key = None
        else:
            first_key = first_keys[run.conversation]
        keyed.append(dataclasses.replace(run, run_key=key, first_key=first_key))
    return keyed


# --- The output of earlier starts ---


@dataclass(frozen=True)
class Earlier:
    """What earlier starts left: run records in the order of the file, environments by env_id."""

    records: Sequence[Record] = ()
    environments: Mapping[str, Record] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, out: Path, mend: bool) -> Earlier:
        """Read the output, after cutting off what was half written (mend); UserError for a foreign file."""
        runs_path, env_path, anchors_path = beside(out)
        if mend:
            for path in (runs_path, env_path, anchors_path):
                if heal_tail(path):
                    say(f"{path}: dropping a half-written last line; its run is done again")
        environments = {}
        for _, record in read_jsonl(env_path) if env_path.exists() else ():
            if record is not None:
                environments[str(record.get("env_id"))] = record
        return cls(read_own(runs_path), environments)

    @property
    def known_models(self) -> dict[str, Record]:
        """Model entries by path: an unchanged file need not be hashed again."""
        known = {}
        for environment in self.environments.values():
            for model in environment.get("models", {}).values():
                if model.get("sha256"):
                    known[model["path"]] = model
        return known

    def context_of(self, model_id: str) -> int:
        """The context that the engine chose for the model's last good run; 0 without one, or if told."""
        for record in reversed(self.records):
            if record["model_id"] != model_id or not is_good(record):
                continue
            environment = self.environments.get(str(record.get("env_id")), {})
            was_told = environment.get("settings", {}).get("n_ctx") is not None
            n_ctx = record.get("n_ctx")
            return n_ctx if isinstance(n_ctx, int) and environment and not was_told else 0
        return 0


def beside(out: Path) -> tuple[Path, Path, Path]:
    """The output and what stands beside it: environments, anchors."""
    return out, environment_path(out), out.with_suffix(".anchors.jsonl")


def set_aside(*paths: Path) -> None:
    """Rename old output: nothing is deleted, and no reader takes it for current."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    n = 0
    while any(path.with_name(f"{path.name}.{stamp}.{n}.old").exists() for path in paths):
        n += 1  # a second start within the second
    for path in paths:
        if path.exists():
            path.rename(path.with_name(f"{path.name}.{stamp}.{n}.old"))


def read_own(out: Path) -> list[Record]:
    """Records of earlier starts."""
    records: list[Record] = []
    glued: list[int] = []
    for number, record in read_jsonl(out, glued) if out.exists() else ():
        if record is None or "run_key" not in record:
            raise UserError(
                f"{out} line {number}: not a run record; delete that line, or start over with --fresh"
            )
        records.append(record)
    if glued:
        say(f"{out}: {glued_remark(glued)}")
    return records


def cell_of(record: Record) -> tuple[Any, ...]:
    """What a recorded run is, whatever it was measured with; as PlannedRun.cell."""
    return record["model_id"], str(record["id"]), record["level"], record["turn"], record["repeat"]


def is_good(record: Record) -> bool:
    """The run did not fail."""
    return record.get("error") is None


def left_to_do(runs: Sequence[PlannedRun], records: Sequence[Record], retry_errors: bool) -> list[PlannedRun]:
    """Runs that are not in the output; second turns get the first answer where it is there already."""
    good = {record["run_key"]: record for record in records if is_good(record)}
    finished = good.keys() if retry_errors else {record["run_key"] for record in records}
    left = []
    for run in runs:
        if run.run_key in finished:
            continue
        first = good.get(run.first_key) if run.first_key is not None else None
        if first is not None:
            run = dataclasses.replace(run, prompt=with_first_answer(run.prompt, first["output_text"]))
        left.append(run)
    return left


def with_first_answer(prompt: Prompt, answer: str) -> Prompt:
    """The prompt of a second turn with the model's own answer to the first in its place."""
    *before, _, question = prompt.messages
    return dataclasses.replace(prompt, messages=(*before, Message("assistant", answer), question))


def with_anchors(
    runs: Sequence[PlannedRun], todo: Sequence[PlannedRun], every: int | None
) -> list[PlannedRun]:
    """Put the first run of each model's plan, marked as an anchor, before every so many of its runs."""
    if not every:
        return list(todo)
    first: dict[str, PlannedRun] = {}
    for run in runs:
        first.setdefault(run.model_id, run)
    count = dict.fromkeys(first, 0)
    lines = []
    for run in todo:
        if count[run.model_id] % every == 0:
            lines.append(dataclasses.replace(first[run.model_id], is_anchor=True))
        count[run.model_id] += 1
        lines.append(run)
    return lines


# --- What must not be mixed ---


def refuse_mixture(runs: Sequence[PlannedRun], records: Sequence[Record], out: Path) -> None:
    """UserError where the output holds a planned run that was measured under other conditions."""
    planned = {run.cell: run for run in runs}
    strange = [
        record
        for record in records
        if (run := planned.get(cell_of(record))) is not None and run.run_key != record["run_key"]
    ]
    if not strange:
        return
    if all(differs_in_ids_alone(record, planned[cell_of(record)]) for record in strange):
        raise UserError(
            f"{out} holds {len(strange)} of these runs with another prompt from the same text: the model's"
            f" chat template writes it anew, with today's date perhaps; {CURES}"
        )
    raise UserError(
        f"{out} holds {len(strange)} of these runs measured with another model file, prompt, setting,"
        f" engine or power mode; {CURES}"
    )


def differs_in_ids_alone(record: Record, run: PlannedRun) -> bool:
    """All that defines the recorded run is as planned, but for the ids of its prompt."""
    ids = record.get("prompt_ids_sha256")
    return ids is not None and full_key(run.base_key, ids) == record["run_key"]


def other_defaults(model_id: str, resolved: Resolved, before: Earlier) -> str | None:
    """Why runs of this model in the output cannot be joined: the engine chose other defaults for them.

    None where they are the same, or the output is of a collector that did not record them.
    """
    now = engine_choices(resolved)
    for record in reversed(before.records):
        if record["model_id"] != model_id or not is_good(record):
            continue
        environment = before.environments.get(str(record.get("env_id")), {})
        then = environment.get("resolved", {}).get(model_id)
        if then is None:
            continue
        differing = [name for name in now if name in then and then[name] != now[name]]
        if not differing:
            return None
        told = ", ".join(
            f"{ENGINE_CHOICES[name]} {shown(then[name])}, now {shown(now[name])}" for name in differing
        )
        return f"holds runs of it with other choices of the engine ({told}); {CURES}"
    return None


def engine_choices(resolved: Resolved) -> dict[str, Any]:
    """What the engine made of "auto" and of round numbers, as it stands in the environment record."""
    told = dataclasses.asdict(resolved)
    return {name: list(told[name]) if name == "warnings" else told[name] for name in ENGINE_CHOICES}


def shown(choice: Any) -> str:
    """A choice for people."""
    if isinstance(choice, list):
        return "; ".join(choice) or "none"
    return "unknown" if choice is None else str(choice)
