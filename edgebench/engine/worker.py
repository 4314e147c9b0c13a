"""The engine's process: reads requests on stdin, answers each with one JSON line on stdout.

Started by engine/client.py, which says what the requests mean; engine/protocol.py has their types. It is a
process of its own so that a crash, an allocation that is refused or a hang of the engine costs one run and
not the campaign, and so that all memory is free again before the next model is loaded.

Every answer has "ok"; where it is false, "error" {type, message} says why, with the engine's own log lines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgebench.engine.protocol import (
    BAD_REQUEST,
    REFUSED,
    Drafting,
    EngineFailure,
    Loaded,
    ModelLoad,
    Prompt,
    PromptCount,
    Sampling,
    as_json,
    from_json,
)
from edgebench.shell.calls import as_called

if TYPE_CHECKING:
    from edgebench.engine.batch import BatchDecoder
    from edgebench.engine.binding import Context, Model
    from edgebench.engine.draft import DraftDecoder

Request = Mapping[str, Any]


class Holder:
    """What the process holds: a vocabulary, or a model with its context, or models that draft."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._context: Context | None = None
        self._batch: BatchDecoder | None = None
        self._draft: DraftDecoder | None = None

    def close(self) -> None:
        """Give all memory back; a second model in one process must not find the first one's still held."""
        for part in (self._batch, self._context, self._model, self._draft):
            if part is not None:
                part.close()
        self._batch = self._context = self._model = self._draft = None

    def model(self) -> Model:
        if self._model is None:
            raise EngineFailure(BAD_REQUEST, "no model is open")
        return self._model

    def context(self) -> Context:
        if self._context is None:
            raise EngineFailure(BAD_REQUEST, "no model is loaded")
        return self._context

    # --- Answers

    def open(self, request: Request) -> dict[str, Any]:
        """The vocabulary alone."""
        from edgebench.engine.binding import Model

        self.close()
        self._model = Model(request["model"], vocab_only=True)
        return as_json(self._model.facts())

    def count(self, request: Request) -> dict[str, Any]:
        """A prompt in tokens, exactly as a run would read it."""
        from edgebench.engine.reading import read_prompt
        from edgebench.engine.template import ids_sha256

        read = read_prompt(self.model(), from_json(Prompt, request["prompt"]))
        listed = tuple(read.ids) if request["ids"] else None
        return as_json(PromptCount(len(read.ids), ids_sha256(read.ids), read.flags, listed))

    def suits(self, request: Request) -> dict[str, Any]:
        """Whether a drafting model has the vocabulary of the open one; a refusal says what differs."""
        from edgebench.engine.binding import Model
        from edgebench.engine.draft import check_same_vocabulary

        draft = Model(request["draft"], vocab_only=True)
        try:
            check_same_vocabulary(self.model(), draft)
        finally:
            draft.close()
        return {}

    def load(self, request: Request) -> dict[str, Any]:
        """The weights and the context. The clock sees the file mapped or read and the buffers made."""
        from edgebench.engine.binding import LOG, Context, Model, check_settings

        self.close()
        load = from_json(ModelLoad, request["settings"])
        check_settings(load)
        began_s = time.monotonic()
        if "drafting" in request:
            from edgebench.engine.draft import DraftDecoder

            self._draft = DraftDecoder(request["model"], load, from_json(Drafting, request["drafting"]))
            self._model, context = self._draft.target.model, self._draft.target.context
        else:
            self._model = Model(request["model"], n_gpu_layers=load.n_gpu_layers)
            # The engine's own counters prove the cold prefill of a single answer.
            context = self._context = Context(self._model, load, no_perf=load.n_seq_max > 1)
        load_ms = (time.monotonic() - began_s) * 1000
        told = Loaded(load_ms, context.n_ctx, self._model.facts(), context.resolved, tuple(LOG.telling()))
        return as_json(told)

    def run(self, request: Request) -> dict[str, Any]:
        """One cold, timed generation."""
        from edgebench.engine import single

        prompt, sampling = from_json(Prompt, request["prompt"]), from_json(Sampling, request["sampling"])
        return as_json(single.run(self.context(), prompt, sampling))

    def prefill(self, request: Request) -> dict[str, Any]:
        """The same cold prefill again and again."""
        from edgebench.engine import single

        prompt = from_json(Prompt, request["prompt"])
        return as_json(single.prefill_block(self.context(), prompt, request["seconds"]))

    def batch(self, request: Request) -> dict[str, Any]:
        """Groups of prompts, each decoded together."""
        from edgebench.engine.batch import BatchDecoder

        if self._batch is None:
            self._batch = BatchDecoder(self.context())
        groups = [[from_json(Prompt, prompt) for prompt in group] for group in request["groups"]]
        return as_json(self._batch.run(groups, from_json(Sampling, request["sampling"])))

    def draft(self, request: Request) -> dict[str, Any]:
        """One answer decoded with drafts."""
        from edgebench.engine.draft import DraftRequest

        if self._draft is None:
            raise EngineFailure(BAD_REQUEST, "no model is loaded for drafting")
        asked = DraftRequest(request["ids"], request["max_tokens"], request["seed"])
        return as_json(self._draft.run(asked, request["plain"]))

    def reference(self, request: Request) -> dict[str, Any]:
        """An untimed greedy answer, to compare others with."""
        from edgebench.engine import reference

        return as_json(reference.decode(self.context(), request["ids"], request["max_tokens"]))

    def board(self, _request: Request) -> dict[str, Any]:
        """The board now."""
        from edgebench.engine.single import board_state

        return as_json(board_state())

    def cross_check(self, request: Request) -> dict[str, Any]:
        """Answers through the engine's own speculative interface."""
        from edgebench.engine.crosscheck import decode_all

        requests = [(one["ids"], one["max_tokens"]) for one in request["requests"]]
        load = from_json(ModelLoad, request["settings"])
        return {"answers": decode_all(request["model"], load, request["draft_tokens"], requests)}

    def answers(self) -> dict[str, Callable[[Request], dict[str, Any]]]:
        """By the word that asks for them."""
        return {
            "open": self.open,
            "count": self.count,
            "suits": self.suits,
            "load": self.load,
            "run": self.run,
            "prefill": self.prefill,
            "batch": self.batch,
            "draft": self.draft,
            "reference": self.reference,
            "board": self.board,
            "cross_check": self.cross_check,
        }


def answer(holder: Holder, line: str) -> dict[str, Any]:
    """Answer one request line; a failure becomes an answer too."""
    try:
        from edgebench.engine.binding import LOG

        LOG.clear()
        request = json.loads(line)
        return {"ok": True, **holder.answers()[request["op"]](request)}
    except EngineFailure as failure:
        error = failure.failure
    except ImportError as exc:
        message = f"the engine is not installed ({exc}); {as_called('run ./run_all.sh --setup')}"
        error = EngineFailure(REFUSED, message).failure
    except (KeyError, ValueError, TypeError, AttributeError, OSError, MemoryError) as exc:
        error = EngineFailure(BAD_REQUEST, f"bad request: {exc!r}").failure
    return {"ok": False, "error": error.record()}


def main() -> int:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # Read when the engine's library is loaded: a debugger's backtrace would bury the reason of an abort.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # The engine may print to stdout; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    holder = Holder()
    for line in sys.stdin:
        answers.write(json.dumps(answer(holder, line)) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
