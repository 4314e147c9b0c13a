"""The request lines of the former engine scripts, until their callers speak to engine/client.py.

Goes with its last caller: plan and campaign of the collector, throughput, speculation, backends, forecasting.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from edgebench.engine.client import EngineProcess
from edgebench.engine.protocol import (
    BAD_REQUEST,
    Drafting,
    EngineFailure,
    Message,
    ModelLoad,
    Prompt,
    Sampling,
    as_json,
)
from edgebench.shell.lifeline import die_with_parent

Request = Mapping[str, Any]
LOAD = ("n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "flash_attn", "kv_type", "kv_unified")


def serve(answer: Callable[[Request], dict[str, Any]], flat_error: bool = False) -> int:
    """Answer lines until stdin ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = {"ok": True, **answer(json.loads(line))}
        except EngineFailure as failure:
            error = failure.failure.record()
            reply = {"ok": False, "error": error["message"] if flat_error else error}
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            words: Any = f"bad request: {exc!r}"
            reply = {"ok": False, "error": words if flat_error else {"type": BAD_REQUEST, "message": words}}
        print(json.dumps(reply), file=answers, flush=True)
    return 0


def prompt_of(told: Request) -> Prompt:
    if "text" in told:
        return Prompt.of_text(told["text"], told["format"])
    turns = tuple(Message(one["role"], one["content"]) for one in told["messages"])
    return Prompt(turns, told["format"], bool(told.get("thinking")))


def load_of(told: Request, **more: Any) -> ModelLoad:
    return ModelLoad(**{name: told[name] for name in LOAD if name in told}, **more)


def sampling_of(told: Request) -> Sampling:
    return Sampling(told["max_tokens"], told["temperature"], told["seed"])


class Single:
    """The former engine_worker.py, and with `kept` the former engine_keeper.py."""

    def __init__(self, kept: Request | None = None) -> None:
        self.engine = EngineProcess(kept["run_timeout"] if kept else 86400.0)
        self.path = kept["model"] if kept else ""
        self.kept = kept

    def loaded(self) -> dict[str, Any]:
        assert self.kept is not None
        warm_up = prompt_of(self.kept["warm_up"]) if self.kept["warm_up"] else None
        load = load_of(self.kept["load"], n_ctx=self.kept["load"]["n_ctx"])
        loaded = self.engine.load(self.path, load, warm_up)
        told = {**as_json(loaded.facts), "load_ms": loaded.load_ms, "n_ctx": loaded.n_ctx}
        return {**told, "engine_log": list(loaded.engine_log), "offloaded": loaded.offloaded}

    def answer(self, told: Request) -> dict[str, Any]:
        op = told["op"]
        if op == "open":
            self.path = told["model"]
            return as_json(self.engine.open(self.path))
        if op == "count":
            count = self.engine.count(prompt_of(told["prompt"]), with_ids=bool(told.get("ids")))
            listed = {"ids": list(count.ids)} if count.ids is not None else {}
            sha256 = count.prompt_ids_sha256
            tokens = {"prompt_tokens": count.prompt_tokens, "prompt_sha256": sha256}
            return {**tokens, "flags": list(count.flags), **listed}
        if op == "load":
            self.kept = {"load": told, "warm_up": None}
        if op in ("start", "load"):
            return self.loaded()
        if op == "cool":
            return {"temp_c": self.engine.cool_down(told["to_c"])}
        if op == "board":
            return as_json(self.engine.board_state())
        self.loaded()  # a fresh keeper may get any request first
        if op == "prefill":
            return as_json(self.engine.prefill(prompt_of(told["prompt"]), told["seconds"]))
        done = self.engine.run(prompt_of(told["prompt"]), sampling_of(told))
        record = done.record_fields()
        if done.error:
            record["error"] = done.error.record()
        # A field that the run record does not know yet.
        del record["prompt_ids_sha256"]
        return {"record": record, "flags": list(done.flags)}


def single_main() -> int:
    return serve(Single().answer)


def keeper_main() -> int:
    first = sys.stdin.readline()
    if not first:
        return 0
    keeper = Single(json.loads(first))
    try:
        return serve(keeper.answer)
    finally:
        keeper.engine.end()


class Batch:
    """The former batch_worker.py."""

    def __init__(self) -> None:
        self.engine = EngineProcess(86400.0)
        self.open = ""

    def answer(self, told: Request) -> dict[str, Any]:
        if told["op"] == "tokens":
            if not self.open:
                self.open = told["model"]
                self.engine.open(self.open)
            counts = [self.engine.count(prompt_of(one)) for one in told["prompts"]]
            return {
                "prompt_tokens": [count.prompt_tokens for count in counts],
                "prompt_sha256": [count.prompt_ids_sha256 for count in counts],
            }
        if told["op"] == "load":
            self.open = told["model"]
            load = load_of(told, n_ctx=told["n_ctx_seq"], n_seq_max=told["n_seq_max"])
            loaded = self.engine.load(self.open, load)
            version = loaded.facts.engine_version
            told = {"load_ms": loaded.load_ms, "n_ctx_seq": told["n_ctx_seq"], "engine_version": version}
            return {**told, "offloaded": loaded.offloaded}
        if told["op"] != "batch":
            raise KeyError(told["op"])
        groups = [[prompt_of(one) for one in group] for group in told["groups"]]
        return as_json(self.engine.batch(groups, sampling_of(told)))


def batch_main() -> int:
    return serve(Batch().answer)


class Draft:
    """The former draft_worker.py."""

    def __init__(self) -> None:
        self.engine = EngineProcess(86400.0)
        self.is_loaded = False

    def answer(self, told: Request) -> dict[str, Any]:
        if not self.is_loaded:
            names = ("drafter", "draft", "adaptive", "draft_tokens", "threshold", "temperature")
            drafting = Drafting(**{name: told[name] for name in names})
            load = load_of({**told, "n_ubatch": told["n_batch"]}, n_ctx=told["n_ctx"])
            loaded = self.engine.load(told["model"], load, drafting=drafting)
            self.is_loaded = True
            return {
                "n_vocab": loaded.facts.n_vocab,
                "complaints": list(loaded.resolved.warnings),
                "held": True,
            }
        plain = bool(told.get("plain"))
        return as_json(self.engine.draft(told["ids"], told["max_tokens"], told["seed"], plain))


def draft_main() -> int:
    return serve(Draft().answer, flat_error=True)


def crosscheck_main() -> int:
    told = json.load(sys.stdin)
    requests = [(one["ids"], one["max_tokens"]) for one in told["requests"]]
    load = load_of(told, n_ctx=told["n_ctx"])
    engine = EngineProcess(86400.0)
    try:
        answers = engine.cross_check(told["model"], load, told["draft_tokens"], requests)
    except EngineFailure as failure:
        found = re.search(r"[^|]*GGML_ASSERT[^|]*", str(failure))
        print(f"error: {found[0].strip() if found else failure}", file=sys.stderr)
        return 1
    print(json.dumps({"answers": answers}))
    return 0
