"""The engine as a measuring command sees it: one process, typed requests and answers, whatever happens to it.

`EngineProcess` starts `edgebench.engine.worker` when it is first needed. That process may crash, be killed
for memory or hang: the request under way then fails (`EngineFailure`, with the engine's own reason), and the
next one is given to a fresh process, which is loaded and warmed up again first.

The story of a campaign over several models:

    with EngineProcess(run_timeout_s) as engine:
        for model in models:                    # planning: the vocabulary alone, all in the same process
            facts = engine.open(model.path)
            counts = [engine.count(prompt) for prompt in prompts]
        for model in models:
            loaded = engine.load(model.path, settings, warm_up=prompts[0])   # the first one in that process,
            too generation = engine.run(prompt, Sampling(max_tokens=512))

A process that has held a model's weights is ended before another model is loaded, and the memory it held is
free before the new one starts: every model is measured on an empty board.

Owns no timing: what the clock sees stands in engine/single.py, batch.py and draft.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from edgebench.board.thermal import read_hottest_c
from edgebench.engine.protocol import (
    BAD_REQUEST,
    ENGINE_CRASH,
    MODEL_LOAD,
    NO_TEMPERATURE,
    NOT_A_GENERATION,
    NOT_COLD,
    REFUSED,
    TIMEOUT,
    WARM_CACHE,
    BatchGeneration,
    BoardState,
    DraftGeneration,
    Drafting,
    EngineFailure,
    Failure,
    Generation,
    Loaded,
    Message,
    ModelFacts,
    ModelLoad,
    PrefillBlock,
    Prompt,
    PromptCount,
    ReferenceAnswer,
    Resolved,
    Sampling,
    SequenceAnswer,
    as_json,
    from_json,
)
from edgebench.shell.launch import room_command
from edgebench.shell.worker import Worker, WorkerFailed

# Other wings import everything of the engine from here.
__all__ = [
    "BAD_REQUEST",
    "ENGINE_CRASH",
    "MODEL_LOAD",
    "NOT_A_GENERATION",
    "NOT_COLD",
    "NO_TEMPERATURE",
    "REFUSED",
    "TIMEOUT",
    "WARM_CACHE",
    "BatchGeneration",
    "BoardState",
    "DraftGeneration",
    "Drafting",
    "EngineFailure",
    "EngineProcess",
    "Failure",
    "Generation",
    "Loaded",
    "Message",
    "ModelFacts",
    "ModelLoad",
    "PrefillBlock",
    "Prompt",
    "PromptCount",
    "ReferenceAnswer",
    "Resolved",
    "Sampling",
    "SequenceAnswer",
]

WORKER = "edgebench.engine.worker"
WARM_UP = Sampling(max_tokens=8)
COOL_LIMIT_S = 600.0
T = TypeVar("T")


@dataclass(frozen=True)
class _Wanted:
    """What the process must have loaded before it can run."""

    model_path: str
    settings: ModelLoad
    drafting: Drafting | None
    warm_up: Prompt | Sequence[Prompt] | None


class EngineProcess:
    """One engine process, and what it has loaded. Not for several threads at once."""

    def __init__(self, run_timeout_s: float = 900.0) -> None:
        """`run_timeout_s`: the longest that any request may take; then the process is ended."""
        self.run_timeout_s = run_timeout_s
        self.loaded: Loaded | None = None  # of the process of now; None while nothing is loaded
        self._worker: Worker | None = None
        self._opened: str | None = None  # model whose vocabulary the process of now has
        self._vocabulary: str | None = None  # model whose vocabulary was asked for last
        self._wanted: _Wanted | None = None

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    # --- Before anything is loaded: vocabulary and metadata alone

    def open(self, model_path: str) -> ModelFacts:
        """Open a model's vocabulary, enough to count tokens. EngineFailure with the engine's reason."""
        if self.loaded is not None:  # its weights would stay in memory beside the next model's
            self.end()
        self._wanted = None
        self._vocabulary, self._opened = model_path, None
        told = self._ask({"op": "open", "model": model_path})
        self._opened = model_path
        return from_json(ModelFacts, told)

    def count(self, prompt: Prompt, with_ids: bool = False) -> PromptCount:
        """A prompt in tokens of the model opened or loaded last, exactly as `run` would read it."""
        if self.loaded is None and self._vocabulary is not None and self._opened != self._vocabulary:
            self.open(self._vocabulary)
        return from_json(PromptCount, self._ask({"op": "count", "prompt": as_json(prompt), "ids": with_ids}))

    def check_draft(self, draft_path: str) -> None:
        """EngineFailure unless this model can draft for the open one: its token ids mean the same texts.

        Vocabularies alone are read.
        """
        self._ask({"op": "suits", "draft": draft_path})

    # --- Loading

    def load(
        self,
        model_path: str,
        settings: ModelLoad,
        warm_up: Prompt | Sequence[Prompt] | None = None,
        drafting: Drafting | None = None,
    ) -> Loaded:
        """Load a model and warm it up; EngineFailure of kind model_load where that fails.

        `warm_up` is run once and its answer dropped: it is the first to touch the file's pages, the kernels
        and the buffers. A sequence of prompts is run as one batch. Where it is refused (it does not fit,
        say), its own run will say so. `drafting`: the model is loaded for `draft`, else for `run`, `prefill`
        and `batch`.

        Asked again for what is loaded already, this answers at once; after a failure it tries once more. From
        now on a request that finds no process loads the model again first.
        """
        wanted = _Wanted(str(model_path), settings, drafting, warm_up)
        if wanted != self._wanted:
            if self.loaded is not None:
                self.end()
            self._wanted = wanted
        return self._load_if_needed(wanted)

    def _load_if_needed(self, wanted: _Wanted) -> Loaded:
        """What is loaded, after loading it where it is not."""
        if self.loaded is not None:
            return self.loaded
        request: dict[str, Any] = {"op": "load", "model": wanted.model_path}
        request["settings"] = as_json(wanted.settings)
        if wanted.drafting is not None:
            request["drafting"] = as_json(wanted.drafting)
        try:
            loaded = from_json(Loaded, self._ask(request))
            self._run_warm_up(wanted)
        except EngineFailure as failure:
            self.end()
            if failure.kind == NOT_A_GENERATION:
                raise
            lost = failure.kind in (ENGINE_CRASH, TIMEOUT)
            text = f"{wanted.model_path}: {failure}" if lost else str(failure)
            raise EngineFailure(MODEL_LOAD, text) from failure
        self._vocabulary = self._opened = wanted.model_path
        self.loaded = loaded
        return loaded

    def _run_warm_up(self, wanted: _Wanted) -> None:
        """The discarded first run."""
        if wanted.warm_up is None or wanted.drafting is not None:
            return
        if isinstance(wanted.warm_up, Prompt):
            request: dict[str, Any] = {"op": "run", "prompt": as_json(wanted.warm_up)}
        else:
            request = {"op": "batch", "groups": [[as_json(prompt) for prompt in wanted.warm_up]]}
        try:
            self._ask({**request, "sampling": as_json(WARM_UP)})
        except EngineFailure as failure:
            if failure.kind in (ENGINE_CRASH, TIMEOUT):
                raise

    # --- Measuring: all of these load first where need be

    def run(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """One cold, timed generation. Look at its `error`: with one it is a failed run."""
        return self._measure(
            Generation, {"op": "run", "prompt": as_json(prompt), "sampling": as_json(sampling)}
        )

    def prefill(self, prompt: Prompt, seconds: float) -> PrefillBlock:
        """The same cold prefill again and again, for at least `seconds`."""
        return self._measure(PrefillBlock, {"op": "prefill", "prompt": as_json(prompt), "seconds": seconds})

    def batch(self, groups: Sequence[Sequence[Prompt]], sampling: Sampling) -> BatchGeneration:
        """Group after group, the prompts of each decoded together; ModelLoad.n_seq_max of them at most."""
        listed = [[as_json(prompt) for prompt in group] for group in groups]
        return self._measure(
            BatchGeneration, {"op": "batch", "groups": listed, "sampling": as_json(sampling)}
        )

    def draft(
        self, ids: Sequence[int], max_tokens: int, seed: int = 0, plain: bool = False
    ) -> DraftGeneration:
        """One cold, timed generation with drafts from token ids; `plain`: the same loop without a draft."""
        request = {"op": "draft", "ids": list(ids), "max_tokens": max_tokens, "seed": seed, "plain": plain}
        return self._measure(DraftGeneration, request)

    def _measure(self, cls: type[T], request: Mapping[str, Any]) -> T:
        """The typed answer of a loaded process."""
        if self._wanted is None:
            raise ValueError("load a model first")
        self._load_if_needed(self._wanted)
        return from_json(cls, self._ask(request))

    def reference(self, ids: Sequence[int], max_tokens: int) -> ReferenceAnswer:
        """The greedy answer to a prompt of token ids, untimed."""
        return self._measure(ReferenceAnswer, {"op": "reference", "ids": list(ids), "max_tokens": max_tokens})

    # --- Beside the engine

    def board_state(self) -> BoardState:
        """Temperature, clocks and throttle events as the engine's process reads them around a run."""
        return from_json(BoardState, self._ask({"op": "board"}))

    def cool_down(
        self, to_c: float, limit_s: float = COOL_LIMIT_S, sleep: Callable[[float], None] = time.sleep
    ) -> float:
        """Wait, the model resident, until the hottest zone is down to `to_c` [°C] or `limit_s` is over.

        Returns the temperature; EngineFailure of kind no_temperature where this machine shows none.
        """
        until_s = time.monotonic() + limit_s
        while True:
            temp_c = read_hottest_c()
            if temp_c is None:
                message = "this machine shows no temperature; give --cooldown in seconds"
                raise EngineFailure(NO_TEMPERATURE, message)
            if temp_c <= to_c or time.monotonic() >= until_s:
                return temp_c
            sleep(1)

    def cross_check(
        self,
        model_path: str,
        settings: ModelLoad,
        draft_tokens: int,
        requests: Sequence[tuple[Sequence[int], int]],
    ) -> list[list[int]]:
        """Token ids of (prompt ids, max_tokens) through the engine's own prompt lookup, at temperature 0.

        It keeps the logits of the whole context, and aborts where it is not content: the process ends with
        it.
        """
        self.end()
        asked = [{"ids": list(ids), "max_tokens": max_tokens} for ids, max_tokens in requests]
        request = {"op": "cross_check", "model": model_path, "settings": as_json(settings)}
        try:
            told = self._ask({**request, "draft_tokens": draft_tokens, "requests": asked})
        finally:
            self.end()
        answers: list[list[int]] = told["answers"]
        return answers

    # --- The process

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one answer. EngineFailure; after a crash or a timeout there is no process left."""
        try:
            if self._worker is None:
                # A session of its own: Ctrl-C in the terminal is the parent's to answer.
                self._worker = Worker(room_command(WORKER))
            told: dict[str, Any] = self._worker.ask(request, self.run_timeout_s)
        except WorkerFailed as failed:
            self.end()
            raise EngineFailure(failed.kind, str(failed)) from failed
        if not told["ok"]:
            raise EngineFailure(told["error"]["type"], told["error"]["message"])
        return told

    def end(self) -> None:
        """End the process, if there is one, and wait until its memory is free. What `load` asked is kept."""
        worker, self._worker = self._worker, None
        self.loaded = None
        self._opened = None
        if worker is not None:
            worker.end()
