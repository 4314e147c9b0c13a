"""What is left to run, on what, in which order: tasks, models, board, and what is there already -> a Plan.

Owns the plan and the environment record; the order is prompts/orders.py's, keys and the earlier output are
resume.py's. Nothing is loaded here but vocabularies, to count and hash the prompts.

Models come one after the other (loading is slow), inside each the runs in the order of prompts/orders.py.
A file that is no usable model has its error in the plan, and the others are run all the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgebench.board import check as board_check
from edgebench.board import facts as board_facts
from edgebench.collecting.resume import (
    Earlier,
    PlannedRun,
    base_key,
    beside,
    engine_choices,
    is_good,
    left_to_do,
    refuse_mixture,
    set_aside,
    with_anchors,
    with_keys,
)
from edgebench.collecting.settings import LOAD_SETTINGS, Settings
from edgebench.engine.client import (
    NOT_A_GENERATION,
    EngineFailure,
    Message,
    ModelFacts,
    ModelLoad,
    Prompt,
    PromptCount,
    Resolved,
)
from edgebench.errors import UserError
from edgebench.gguf import identity
from edgebench.gguf.cache import kv_type_problem
from edgebench.power.feeds import find_feed
from edgebench.prompts.orders import ordered_cells
from edgebench.prompts.tasks import LEVELS, Task, wanted_tasks
from edgebench.records.environment import STABLE_BOARD
from edgebench.records.jsonl import sha256_of
from edgebench.shell.calls import as_called
from edgebench.shell.text import counted

CONTEXT_STEP = 256  # the engine pads a context to this; asking for another number reports a wrong one
ROOT_OF_BOARD = Path("/")  # tests judge recorded boards
Facts = Mapping[str, Any]


class Tokenizer(Protocol):
    """What planning asks of the engine: it opens vocabularies and counts prompts."""

    def open(self, model_path: str) -> ModelFacts: ...

    def count(self, prompt: Prompt) -> PromptCount: ...


@dataclass
class PlannedModel:
    """One model file: who it is, and how it will be loaded, or why it cannot be used."""

    facts: Facts  # identity and header, from gguf/identity.py
    error: str | None = None
    prompt_tokens_max: dict[str, int] = dataclasses.field(default_factory=dict)  # by level
    load: ModelLoad | None = None
    note: str | None = None  # for the user

    @property
    def model_id(self) -> str:
        return str(self.facts["model_id"])

    @property
    def path(self) -> str:
        return str(self.facts["path"])

    @property
    def memory_byte(self) -> int:
        """Weights and cache; the header of some models does not tell the cache."""
        assert self.load is not None
        return int(self.facts["file_byte"] + (self.facts.get("kv_byte_per_token") or 0) * self.load.n_ctx)

    def as_record(self) -> dict[str, Any]:
        """The model's entry in the environment record."""
        record = {**self.facts, "error": self.error}
        if self.load is not None:
            load = {name: getattr(self.load, name) for name in (*LOAD_SETTINGS, "n_ctx")}
            record |= {"prompt_tokens_max": self.prompt_tokens_max, "load": load}
        if self.note is not None:
            record["note"] = self.note
        return record


@dataclass
class Plan:
    """Everything one start of the collector needs to know."""

    settings: Settings
    board: Facts
    models: list[PlannedModel]
    runs: list[PlannedRun]  # the whole campaign, what is done too
    todo: list[PlannedRun]  # what is left, anchors in between
    before: Earlier
    skipped_levels: int = 0

    @property
    def errors(self) -> list[str]:
        """Why models cannot be used."""
        return [model.error for model in self.models if model.error]

    @property
    def left(self) -> list[PlannedRun]:
        """Runs to do, without anchors."""
        return [run for run in self.todo if not run.is_anchor]

    @property
    def done(self) -> int:
        """Runs that are in the output already, failed ones too."""
        return len(self.runs) - len(self.left)

    @property
    def failed_before(self) -> int:
        """Runs of earlier starts that failed and will not be done again by this one."""
        settled = {record["run_key"] for record in self.before.records if is_good(record)}
        settled |= {run.run_key for run in self.left}
        return sum(run.run_key not in settled for run in self.runs)

    @property
    def exit_code(self) -> int:
        """Of a dry run."""
        return 1 if self.errors else 0

    def todo_of(self, model: PlannedModel) -> list[PlannedRun]:
        """What is left for one model, in order."""
        return [run for run in self.todo if run.model_id == model.model_id]

    @property
    def notes(self) -> list[str]:
        """What the user should know before the campaign starts, one line each."""
        return [*board_notes(self.board), *self.model_notes(), *self.progress_notes()]

    def model_notes(self) -> list[str]:
        """Models that may not fit: into the memory, into the context they were trained for."""
        lines = []
        free_byte = self.board["memory_available_byte"] or float("inf")
        for model in self.models:
            if model.error:
                continue
            if model.memory_byte > free_byte:
                lines.append(
                    f"{model.model_id}: needs more memory than is free; close programs, or lower --n_ctx"
                )
            if model.note:
                lines.append(f"{model.model_id}: {model.note}; lower --max_tokens or --n_ctx")
        return lines

    def progress_notes(self) -> list[str]:
        """What is skipped and what is done already."""
        lines = []
        if self.skipped_levels:
            lines.append(f"{self.skipped_levels} levels without text are skipped")
        if self.done:
            failed = f"; {self.failed_before} of them failed" if self.failed_before else ""
            if failed and self.settings.dry_run:  # a campaign says it at its end
                failed += ", --retry_errors does those again"
            lines.append(f"{self.done} of {len(self.runs)} runs are done already{failed}")
        return lines

    def environment(
        self, power: Facts, command_line: Sequence[str], model: PlannedModel, resolved: Resolved | None
    ) -> dict[str, Any]:
        """The environment record of one loaded model; `resolved` None where it could not be loaded.

        env_id stays the same for the same board, mode, engine, models, settings and engine's own choices.
        """
        engine = self.engine
        choices = None if resolved is None else engine_choices(resolved)
        shas = [model.facts.get("sha256") for model in self.models]
        stable = [[self.board.get(name) for name in STABLE_BOARD], engine, shas]
        identity = [stable, conditions(self.settings, self.board), model.model_id, choices]
        return {
            "schema_version": 1,
            "env_id": sha256_of(json.dumps(identity, sort_keys=True))[:12],
            "created_at": self.board.get("checked_at"),
            "board": self.board,
            "engine": engine,
            "models": {model.model_id: model.as_record() for model in self.models},
            "settings": self.settings.as_record(),
            "resolved": {model.model_id: choices},
            "power": power,
            "command_line": list(command_line),
        }

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's part of the environment record."""
        return {name: self.board["engine"].get(name) for name in ("version", "gpu_offload", "system_info")}

    def as_table(self, command: str) -> str:
        """The plan for people, 80 columns."""
        lines = [f"{counted(len(self.runs), 'run')} planned, {self.done} done, {len(self.todo)} to do"]
        lines += self.notes
        for model in self.models:
            lines += model_lines(model, len(self.todo_of(model)))
        lines.append(f"power: {power_line(self.settings)}")
        lines += ["start it with:", f"  {command}"]
        return "\n".join(lines)


# --- Making the plan ---


def make_plan(settings: Settings, engine: Tokenizer) -> Plan:
    """Read the tasks, the models, the board and the earlier output; UserError for what stops everything.

    The engine counts the prompts of each model with its vocabulary alone, all in one process.
    """
    out = settings.out_jsonl
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch_board)  # for a while, before the engine makes this machine busy
        tasks = read_tasks(settings)
        before = Earlier.read(out, mend=not settings.dry_run)
        models = identify_models(settings, before)
        facts = watched.result()
    if settings.fresh:
        before = Earlier()
    board = check_board(facts, ask_engine(engine, models), settings.allow_cpu)
    # A campaign that runs over midnight goes on with the prompts it was planned with.
    today = datetime.date.today().isoformat()
    runs: list[PlannedRun] = []
    for model in models:
        if not model.error:
            runs += plan_model(model, tasks, settings, board, engine, before, today)
    if not settings.allow_mixed:
        refuse_mixture(runs, before.records, out)
    left = left_to_do(runs, before.records, settings.retry_errors)
    if settings.fresh and not settings.dry_run and runs:
        set_aside(*beside(out))
    skipped = levels_skipped(tasks, settings)
    todo = with_anchors(runs, left, settings.anchor_every)
    return Plan(settings, board, models, runs, todo, before, skipped)


def plan_model(
    model: PlannedModel,
    tasks: Sequence[Task],
    settings: Settings,
    board: Facts,
    engine: Tokenizer,
    before: Earlier,
    today: str | None = None,
) -> list[PlannedRun]:
    """All runs of one model; [] with the reason in the model where it cannot be used.

    `today` (2026-03-14) is what a template that prints the date prints.
    """
    runs: list[PlannedRun] = []
    told = conditions(settings, board)
    for task, level, repeat in ordered_cells(tasks, settings.order, settings.seed, settings.repeats):
        for turn in range(1, settings.turns + 1):
            runs.append(plan_run(model.facts, task, level, repeat, turn, settings, told, today))
    try:
        counts = count_prompts(model, runs, engine)
    except EngineFailure as failure:
        model.error = str(failure) if model.path in str(failure) else f"{model.path}: {failure}"
        return []
    choose_context(model, counts, settings, before)
    runs = [
        dataclasses.replace(run, prompt_ids_sha256=counts[run.prompt_cell].prompt_ids_sha256) for run in runs
    ]
    return with_keys(runs, before.records)


def plan_run(
    model: Facts,
    task: Task,
    level: str,
    repeat: int,
    turn: int,
    settings: Settings,
    told_conditions: Facts,
    today: str | None = None,
) -> PlannedRun:
    """One run; its base key changes when anything that could change its result does."""
    second = task.second if turn == 2 else None
    messages = conversation(task.levels[level], settings.system, second)
    asked = "\x1e".join(message.content or "" for message in messages if message.role == "user")
    return PlannedRun(
        model_id=model["model_id"],
        quantization=model["quantization"],
        model_sha256=model["sha256"],
        task_id=task.id,
        category=task.category,
        level=level,
        turn=turn,
        repeat=repeat,
        seed=settings.seed + repeat - 1,
        prompt=Prompt(messages, settings.prompt_format, settings.thinking == "on", today),
        prompt_sha256=sha256_of(asked),
        base_key=base_key(model["sha256"], task.id, level, repeat, turn, messages, told_conditions),
    )


def conversation(text: str, system: str | None, second: str | None) -> tuple[Message, ...]:
    """Messages of a run; with a second question the model's own first answer stands between, as None."""
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", text))
    if second is not None:
        messages += [Message("assistant", None), Message("user", second)]
    return tuple(messages)


def conditions(settings: Settings, board: Facts) -> dict[str, Any]:
    """What belongs to the key of a run beside the model and the text."""
    return {
        **settings.key_conditions(),
        **{name: board["engine"][name] for name in ("version", "gpu_offload", "system_info")},
        **{name: board[name] for name in ("board", "power_mode_name")},
    }


def count_prompts(
    model: PlannedModel, runs: Sequence[PlannedRun], engine: Tokenizer
) -> dict[tuple[int | str, str, int], PromptCount]:
    """Each distinct prompt of the model's runs in its own tokens; EngineFailure with the engine's reason."""
    if not engine.open(model.path).has_decoder:
        raise EngineFailure(NOT_A_GENERATION, "an embedding model: it reads a text and says none")
    counts: dict[tuple[int | str, str, int], PromptCount] = {}
    for run in runs:
        if run.prompt_cell not in counts:
            counts[run.prompt_cell] = engine.count(run.prompt)
    return counts


def choose_context(
    model: PlannedModel,
    counts: Mapping[tuple[int | str, str, int], PromptCount],
    settings: Settings,
    before: Earlier,
) -> None:
    """Write each level's longest prompt and the context it needs into the model.

    A second turn is reckoned with a first answer of full length. Without --n_ctx a context that runs of this
    model in the output had already is taken again where it is large enough: another one is another condition.
    """
    longest: dict[str, int] = {}
    for (_, level, turn), count in counts.items():
        tokens = count.prompt_tokens + (settings.max_tokens if turn == 2 else 0)
        longest[level] = max(longest.get(level, 0), tokens)
    trained = (model.facts.get("n_ctx_train") or 0) // CONTEXT_STEP * CONTEXT_STEP
    needed = max(longest.values()) + settings.max_tokens
    fitting = min(needed, trained) if trained else needed
    n_ctx = settings.n_ctx or max(fitting, before.context_of(model.model_id))
    model.prompt_tokens_max = longest
    load = {name: getattr(settings, name) for name in LOAD_SETTINGS}
    model.load = ModelLoad(n_ctx=-(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP, **load)
    if trained and max(needed, n_ctx) > trained:
        model.note = f"it was trained for a context of {trained}, but this takes up to {max(needed, n_ctx)}"


# --- What is asked of other rooms ---


def read_tasks(settings: Settings) -> list[Task]:
    """Tasks of the prompts files, as the flags choose them."""
    paths = [Path(name) for name in settings.prompts]
    questions = Path(settings.questions) if settings.turns == 2 else None
    try:
        return wanted_tasks(paths, settings.levels, settings.ids, settings.limit, questions)
    except OSError as problem:
        raise UserError(str(problem)) from None


def levels_skipped(tasks: Sequence[Task], settings: Settings) -> int:
    """Levels for which a task has no text."""
    wanted = len(settings.levels or LEVELS)
    return sum(wanted - len(task.levels) for task in tasks)


def identify_models(settings: Settings, before: Earlier) -> list[PlannedModel]:
    """Who each model file is; what is no usable model, or cannot take the cache asked for, has its error."""
    entries = identity.make_entries([Path(name) for name in settings.models], before.known_models)
    models = []
    for entry in entries:
        error = entry["error"]
        if error is None:
            problem = kv_type_problem(Path(entry["path"]), settings.kv_type, settings.flash_attn)
            error = problem and f"{entry['path']}: {problem}"
        models.append(PlannedModel(facts=entry, error=error))
    return models


def watch_board() -> Facts:
    """What machine this is, without its engine."""
    return board_facts.machine_facts(ROOT_OF_BOARD)


def ask_engine(engine: Tokenizer, models: Sequence[PlannedModel]) -> dict[str, Any]:
    """The engine's version and build, as the first vocabulary that opens tells them.

    Where none opens, or a GPU that the engine is built for does not answer, a process of its own is asked:
    what it says on its way tells why.
    """
    for model in models:
        if model.error:
            continue
        try:
            told = engine.open(model.path)
        except EngineFailure:
            continue
        if told.gpu_offload or "CUDA" not in told.system_info:
            return {
                "version": told.engine_version,
                "gpu_offload": told.gpu_offload,
                "system_info": told.system_info,
                "error": None,
            }
        break
    return board_facts.ask_engine()


def check_board(machine: Facts, engine: Facts, allow_cpu: bool) -> Facts:
    """Facts and checks; without an engine, or on a Jetson without its GPU, nothing runs: UserError."""
    facts = board_facts.with_engine(dict(machine), dict(engine))
    checks = [dataclasses.asdict(check) for check in board_check.check(facts)]
    board = {**facts, "models": [], "checks": checks}
    cure = next((check["cure"] for check in checks if check["name"] == "engine"), None)
    if engine["version"] is None:
        raise UserError(f"the engine does not start ({engine['error']}); install it: {cure}")
    if board["is_jetson"] and not engine["gpu_offload"] and not allow_cpu:
        raise UserError(f"the engine on this Jetson cannot use its GPU; mend it: {cure} (or --allow_cpu)")
    return board


def power_line(settings: Settings) -> str:
    """The command that will print power lines, or why there is none; for a dry run."""
    choice = find_feed(settings.source, settings.feed, settings.interval)
    return shlex.join(choice.command) if choice.command else str(choice.reason)


# --- Lines for people ---


def board_notes(board: Facts) -> list[str]:
    """What is wrong with the board: each bad thing with its cure, and the names of what could be better."""
    lines = []
    for check in board["checks"]:
        if check["status"] == "bad":
            lines.append(f"board: {check['message']}; cure: {check['cure']}")
    warned = [check["name"] for check in board["checks"] if check["status"] == "warn"]
    if warned:
        check = as_called("python companions/board_check.py")
        lines.append(f"board: {', '.join(warned)}: {check} says what to mend")
    return lines


def model_lines(model: PlannedModel, runs: int) -> list[str]:
    """One model of a dry run."""
    if model.error:
        return [f"{model.model_id}: cannot run: {model.error}"]
    assert model.load is not None
    longest = "  ".join(f"{level} {tokens}" for level, tokens in model.prompt_tokens_max.items())
    weights_byte = model.facts["file_byte"]
    cache_gb = (model.memory_byte - weights_byte) / 1e9
    cache = f"{cache_gb:.2f} GB cache" if cache_gb else "cache of unknown size"
    return [
        f"{model.model_id}: {counted(runs, 'run')}",
        f"  longest prompt, tokens: {longest}",
        f"  context {model.load.n_ctx}, memory {weights_byte / 1e9:.2f} GB weights + {cache}",
    ]
