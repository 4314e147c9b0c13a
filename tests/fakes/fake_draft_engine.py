"""Stands in for the engine's process of a sweep: answers at once, decodes nothing, fails where it is told to.

A draft takes `pace` of what plain decoding takes. `play` is called before each answer and may raise, or send
a signal.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgebench.engine.client import DraftGeneration, Drafting, EngineFailure, ModelLoad, PromptCount

Play = Callable[["FakeEngine"], None]


class FakeEngine:
    """One process after the other; `started` counts those that loaded something."""

    pace = 0.6
    answer_s = 0.0
    play: Play = staticmethod(lambda _: None)
    refuses_draft: str | None = None
    loaded: list[Drafting] = []  # noqa: RUF012  of all engines, in order; the test's fixture empties it

    def __init__(self, run_timeout_s: float = 900.0) -> None:
        self.run_timeout_s = run_timeout_s
        self.drafting: Drafting | None = None
        self.draw = random.Random(1)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.drafting = None

    def open(self, model_path: str) -> None:
        self.model = model_path

    def count(self, prompt: Any, with_ids: bool = False) -> PromptCount:
        ids = tuple(range(len(prompt.messages[0].content)))
        return PromptCount(len(ids), "sha", ids=ids)

    def check_draft(self, draft_path: str) -> None:
        if self.refuses_draft:
            raise EngineFailure("EngineError", self.refuses_draft)

    def load(self, model_path: str, settings: ModelLoad, drafting: Drafting) -> None:
        self.drafting = drafting
        self.loaded.append(drafting)

    def draft(self, ids: Sequence[int], max_tokens: int, seed: int, plain: bool) -> DraftGeneration:
        assert self.drafting is not None
        type(self).play(self)
        time.sleep(self.answer_s)
        drafts = not plain and self.drafting.drafter != "none"
        latency_s = 0.001 * len(ids) * (self.pace if drafts else 1.0) * self.draw.uniform(0.98, 1.02)
        t0_s = time.monotonic()
        return DraftGeneration(
            token_ids=tuple(range(max_tokens)),
            text="",
            finish_reason="length",
            t0_s=t0_s,
            first_token_s=t0_s + latency_s / 10,
            t1_s=t0_s + latency_s,
            steps=max_tokens - (20 if drafts else 0),
            drafted=40 if drafts else 0,
            accepted=20 if drafts else 0,
            stopped=3 if drafts else 0,
            checks=40 if drafts else 0,
            draft_ms=1.0,
            verify_ms=1.0,
            catch_up_ms=0.0,
            windows=10 if drafts else 0,
            tries=(10, 8) if drafts else (),
            hits=(8, 4) if drafts else (),
            lengths={4: 10} if drafts else {},
        )

    def cross_check(self, *_: object) -> list[list[int]]:
        raise EngineFailure("EngineError", "not here")
