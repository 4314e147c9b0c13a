"""One cell of a sweep: decodes prompts with drafted tokens, and plainly beside it; counts every draft.

One configuration, one engine process, one document. At temperature 0 every output is compared with plain
decoding of the same request in the same process: identical with F32 weights; quantized ones round differently
in a batch, so the first position that differs is kept. Requests are decoded one after the other, as a board
serves one user; a batch is so many requests. What a rule has learned stays from request to request, warm-up
included, as in a server.

The document: config, summary.per_mode[], results[] (one per batch of requests), plain[] (the same requests
without drafts). Times in _s are seconds of the monotonic clock, t0_s and t1_s those of a power trace.

As a process of its own, for a profiler to wrap: words are a file of CellSettings as JSON and the file that
the document goes to.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgebench.engine.client import (
    TIMEOUT,
    DraftGeneration,
    Drafting,
    EngineFailure,
    EngineProcess,
    ModelLoad,
)
from edgebench.errors import UserError
from edgebench.records.jsonl import write_whole
from edgebench.speculation.settings import CellSettings
from edgebench.speculation.tokens import TokenPrompt, read_prompts, token_prompts
from edgebench.stats.intervals import quantile

CONTEXT_STEP = 256  # the engine rounds n_ctx up to a multiple of this
REQUEST_TIMEOUT_S = 3600.0  # of one request, where a cell has no time limit of its own
Document = dict[str, Any]


class CellFailed(Exception):
    """The cell gave no result; the message says why."""


@dataclass(frozen=True)
class Beside:
    """What happens beside the decoding, with the models resident and the engine at rest."""

    loaded: Callable[[], None] = lambda: None  # before the first request
    decoded: Callable[[], None] = lambda: None  # after the last one
    passed: Callable[[str], None] = lambda _: None  # a request is done: which


# --- Requests ---


@dataclass(frozen=True)
class Request:
    """One answer that is to be decoded."""

    prompt: TokenPrompt
    seed: int
    max_tokens: int

    def decode(self, engine: EngineProcess, plain: bool) -> DraftGeneration:
        """The answer, with drafts or plainly."""
        return engine.draft(self.prompt.ids, self.max_tokens, self.seed, plain)


def batch_of(prompts: Sequence[TokenPrompt], batch: int, settings: CellSettings) -> list[Request]:
    """The requests of one batch: the next prompts, from the start again when they run out."""
    numbers = range(batch * settings.requests, (batch + 1) * settings.requests)
    return [Request(prompts[n % len(prompts)], settings.seed + n, settings.max_tokens) for n in numbers]


def in_order(prompts: Sequence[TokenPrompt], seed: int) -> list[TokenPrompt]:
    """The prompts in the order in which they are asked: drawn, the same for every cell of one seed."""
    drawn = list(prompts)
    random.Random(seed).shuffle(drawn)
    return drawn


def context_length(prompts: Sequence[TokenPrompt], settings: CellSettings) -> int:
    """The context for the longest prompt, its answer and a draft, or --n_ctx. Raises UserError."""
    longest = (
        max(prompt.prompt_tokens for prompt in prompts) + settings.max_tokens + settings.draft_tokens + 1
    )
    needed = -(-longest // CONTEXT_STEP) * CONTEXT_STEP
    if settings.n_ctx and settings.n_ctx < longest:
        raise UserError(f"prompt, answer and draft need {longest} tokens; give --n_ctx {needed}")
    return settings.n_ctx or needed


# --- Decoding ---


@dataclass(frozen=True)
class Timed:
    """A batch that was decoded: its answers, start and end in monotonic seconds."""

    answers: list[DraftGeneration]
    t0_s: float
    t1_s: float


class Clock:
    """How long a cell may still take."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self.until_s = None if timeout_s is None else time.monotonic() + timeout_s

    def limit(self, engine: EngineProcess) -> None:
        """The next request may take no longer than what is left. Raises CellFailed where nothing is."""
        left_s = REQUEST_TIMEOUT_S if self.until_s is None else self.until_s - time.monotonic()
        if left_s <= 0:
            raise self.over()
        engine.run_timeout_s = left_s

    def over(self) -> CellFailed:
        """The time is up."""
        if self.timeout_s is None:
            return CellFailed(f"no answer to one request within {REQUEST_TIMEOUT_S:g} s")
        return CellFailed(f"took more than {self.timeout_s:g} s, see --cell_timeout")


class Cell:
    """One cell while it is decoded."""

    def __init__(
        self, engine: EngineProcess, prompts: Sequence[TokenPrompt], settings: CellSettings, clock: Clock
    ) -> None:
        self.engine, self.settings, self.clock = engine, settings, clock
        self.prompts = in_order(prompts, settings.seed)
        self.n_ctx = context_length(prompts, settings)

    def load(self) -> None:
        """Load the models. EngineFailure."""
        settings = self.settings
        drafting = Drafting(
            drafter=settings.drafter,
            draft=settings.draft,
            adaptive=settings.adaptive,
            draft_tokens=settings.draft_tokens,
            threshold=settings.threshold,
            temperature=settings.temperature,
        )
        self.clock.limit(self.engine)
        self.engine.load(settings.model, self.model_load, drafting=drafting)

    @property
    def model_load(self) -> ModelLoad:
        """How the models are loaded."""
        settings = self.settings
        return ModelLoad(
            n_ctx=self.n_ctx,
            n_batch=settings.n_batch,
            n_threads=settings.n_threads,
            n_gpu_layers=settings.n_gpu_layers,
            flash_attn=settings.flash_attn,
        )

    def decode(self, request: Request, plain: bool) -> DraftGeneration:
        """One request. EngineFailure, CellFailed."""
        self.clock.limit(self.engine)
        return request.decode(self.engine, plain)

    def decode_batch(self, requests: Sequence[Request], plain: bool, passed: Callable[[int], None]) -> Timed:
        """All requests of a batch, one after the other."""
        answers = []
        t0_s = time.monotonic()
        for number, request in enumerate(requests, 1):
            answers.append(self.decode(request, plain))
            passed(number)
        return Timed(answers, t0_s, time.monotonic())

    def warm_up(self) -> None:
        """Requests before the clock; may be more than a batch has."""
        settings = self.settings
        for number in range(settings.warmup):
            batch, place = divmod(number, settings.requests)
            request = batch_of(self.prompts, batch, settings)[place]
            self.decode(request, plain=False)
            if not settings.is_plain:
                self.decode(request, plain=True)

    def batches(self, passed: Callable[[str], None]) -> Iterator[tuple[Document, Document | None]]:
        """Yield (batch with drafts, the same requests plainly or None), each with its times."""
        settings = self.settings
        for index in range(settings.batches):
            requests = batch_of(self.prompts, index, settings)
            compare = not settings.is_plain and (
                settings.compare == "every" or (settings.compare == "first" and index == 0)
            )
            done: dict[bool, Timed] = {}
            # Every other batch begins with plain decoding, so that a drift favours neither.
            for plain in ([False, True] if index % 2 == 0 else [True, False]) if compare else [False]:
                where = f"batch {index + 1}/{settings.batches}{', plainly' if plain else ''}"
                told = [f"{where}, request {n + 1}/{len(requests)}" for n in range(len(requests))]
                done[plain] = self.decode_batch(requests, plain, lambda number, t=told: passed(t[number - 1]))  # type: ignore[misc]
            yield self.entries(index, requests, done[False], done.get(True))

    def entries(
        self, index: int, requests: Sequence[Request], ours: Timed, plain: Timed | None
    ) -> tuple[Document, Document | None]:
        """A batch as it stands in the document, and the same requests decoded plainly."""
        settings = self.settings
        # Above temperature 0 two draws need not agree.
        greedy = plain is not None and settings.temperature <= 0
        beside = plain.answers if plain is not None and greedy else [None] * len(requests)
        asked = [request.prompt for request in requests]
        rows = [request_row(*three) for three in zip(asked, ours.answers, beside, strict=True)]
        batch = entry(settings, index, rows, ours, mode_name(settings))
        if plain is None:
            return batch, None
        again = [request_row(*pair, None) for pair in zip(asked, plain.answers, strict=True)]
        return batch, entry(settings, index, again, plain, "vanilla")


def request_row(prompt: TokenPrompt, answer: DraftGeneration, plain: DraftGeneration | None) -> Document:
    """One request of results[].outputs."""
    row: Document = {
        "id": prompt.id,
        "level": prompt.level,
        "category": prompt.category,
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": len(answer.token_ids),
        "latency_ms": (answer.t1_s - answer.t0_s) * 1000,
        "ttft_ms": (answer.first_token_s - answer.t0_s) * 1000,
        **{name: value for name, value in asdict(answer).items() if not name.endswith("_s")},
    }
    if plain is not None:
        ours, theirs = answer.token_ids, plain.token_ids
        row["identical_to_plain"] = ours == theirs
        pairs = enumerate(zip(ours, theirs, strict=False))
        differing = (at for at, (one, other) in pairs if one != other)
        row["first_difference"] = None if ours == theirs else next(differing, min(len(ours), len(theirs)))
    return row


def mode_name(settings: CellSettings) -> str:
    """The configuration in the words of the published files: "vanilla", "adaptive=1,threshold=0.0"."""
    if settings.is_plain:
        return "vanilla"
    adaptive = {"off": "0", "cost": "1", "published": "published"}[settings.adaptive]
    return f"adaptive={adaptive},threshold={settings.threshold}"


def entry(settings: CellSettings, index: int, rows: list[Document], timed: Timed, mode: str) -> Document:
    """One member of results[] or plain[]."""
    return {
        "nwor_mode": mode,
        "scv_mode": "off",
        "batch_index": index,
        "latency_s": timed.t1_s - timed.t0_s,
        "t0_s": timed.t0_s,
        "t1_s": timed.t1_s,
        "outputs": rows,
        "sampling_params": {
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
        },
    }


# --- Summary ---


def by_position(rows: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Per position in the draft: how often a token there was judged, how often accepted."""
    longest = max((len(row["tries"]) for row in rows), default=0)
    sums = [
        [sum(row[name][j] for row in rows if j < len(row[name])) for name in ("tries", "hits")]
        for j in range(longest)
    ]
    return [
        {
            "position": j + 1,
            "judged": tries,
            "accepted": hits,
            "accept_ratio": hits / tries if tries else None,
        }
        for j, (tries, hits) in enumerate(sums)
    ]


def summarize(settings: CellSettings, results: Sequence[Mapping[str, Any]]) -> Document:
    """The member of summary.per_mode, with the published names; counts over all batches."""
    rows = [row for batch in results for row in batch["outputs"]]
    latencies_s = [batch["latency_s"] for batch in results]
    total = {
        name: sum(row[name] for row in rows)
        for name in ("drafted", "accepted", "windows", "stopped", "checks")
    }
    steps_ms = sum(row["latency_ms"] - row["ttft_ms"] for row in rows)
    decoded = sum(max(0, row["completion_tokens"] - 1) for row in rows)
    lengths: Counter[int] = Counter()
    for row in rows:
        lengths.update({int(length): count for length, count in row["lengths"].items()})
    compared = [row for row in rows if "identical_to_plain" in row]
    return {
        "scv_mode": "off",
        "nwor_mode": mode_name(settings),
        "batches": len(results),
        "latency_avg_s": sum(latencies_s) / len(latencies_s),
        "latency_p50_s": quantile(latencies_s, 0.5),
        "latency_p95_s": quantile(latencies_s, 0.95),
        "spec_num_drafts": total["windows"],
        "spec_num_draft_tokens": total["drafted"],
        "spec_num_accepted_tokens": total["accepted"],
        "spec_avg_accepted_per_window": total["accepted"] / total["windows"] if total["windows"] else None,
        "spec_acceptance_ratio": total["accepted"] / total["drafted"] if total["drafted"] else None,
        "tokens_stopped_by_confidence": total["stopped"],
        "total_confidence_checks": total["checks"],
        "ncu_metrics": {},
        "requests": len(rows),
        "output_tokens": sum(row["completion_tokens"] for row in rows),
        "target_steps": sum(row["steps"] for row in rows),
        "request_latency_avg_ms": sum(row["latency_ms"] for row in rows) / len(rows),
        "ttft_avg_ms": sum(row["ttft_ms"] for row in rows) / len(rows),
        "decode_tok_per_s": 1000 * decoded / steps_ms if decoded and steps_ms > 0 else None,
        "accept_by_position": by_position(rows),
        "draft_length_histogram": dict(sorted(lengths.items())),
        "identical_to_plain": sum(row["identical_to_plain"] for row in compared) if compared else None,
        "compared_with_plain": len(compared),
        "energy": {"energy_joule": None, "reason": "no power was recorded around this run"},
    }


def cross_check(cell: Cell, results: Sequence[Mapping[str, Any]]) -> Document:
    """How many of the first batch's outputs the engine's own prompt lookup gives, too, at temperature 0."""
    settings = cell.settings
    asked = [(one.prompt.ids, one.max_tokens) for one in batch_of(cell.prompts, 0, settings)]
    try:
        cell.clock.limit(cell.engine)
        answers = cell.engine.cross_check(settings.model, cell.model_load, settings.draft_tokens, asked)
    except EngineFailure as failure:
        return {"identical": None, "requests": None, "reason": str(failure)}
    pairs = zip(answers, results[0]["outputs"], strict=True)
    same = [tuple(theirs) == tuple(ours["token_ids"]) for theirs, ours in pairs]
    return {"identical": sum(same), "requests": len(same), "reason": None}


# --- The run ---


def run_cell(
    settings: CellSettings,
    prompts: Sequence[TokenPrompt] | None = None,
    beside: Beside | None = None,
    timeout_s: float | None = None,
) -> Document:
    """Decode a cell in an engine process of its own; its document, without energy.

    `prompts`: the prompts of the settings, where they have been read already. CellFailed where the engine
    refuses, dies or takes longer than `timeout_s`; UserError where prompts or context do not suit.
    """
    beside, clock = beside or Beside(), Clock(timeout_s)
    with EngineProcess() as engine:
        try:
            if prompts is None:
                texts = read_prompts([Path(path) for path in settings.prompts], settings.levels)
                prompts = token_prompts(engine, settings.model, texts, settings.prompt_format)
            cell = Cell(engine, prompts, settings, clock)
            cell.load()
            beside.loaded()
            cell.warm_up()
            pairs = list(cell.batches(beside.passed))
            beside.decoded()
            results = [batch for batch, _ in pairs]
            checked = cross_check(cell, results) if settings.cross_check else None
        except EngineFailure as failure:
            raise clock.over() if failure.kind == TIMEOUT else CellFailed(str(failure)) from failure
    document: Document = {
        "config": config_of(settings, cell.n_ctx, len(prompts)),
        "summary": {"per_mode": [summarize(settings, results)]},
        "results": results,
        "plain": [batch for _, batch in pairs if batch],
        "idle": None,
    }
    return document if checked is None else {**document, "cross_check": checked}


def config_of(settings: CellSettings, n_ctx: int, prompts_read: int) -> Document:
    """The settings, and what they were taken for, on which machine."""
    return {
        **asdict(settings),
        "plain": settings.is_plain,
        "n_ctx": n_ctx,
        "prompts_read": prompts_read,
        "host": platform.node(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def settings_from(told: Mapping[str, Any]) -> CellSettings:
    """The settings that `asdict` made a JSON object of."""
    known = {field.name for field in fields(CellSettings)}
    lists = {name: tuple(told[name]) for name in ("prompts", "levels")}
    return CellSettings(**{name: value for name, value in told.items() if name in known} | lists)


def main() -> int:
    """Decode the cell of a settings file; 1 and the reason on stderr where that fails."""
    job, out = map(Path, sys.argv[1:3])
    try:
        document = run_cell(settings_from(json.loads(job.read_text(encoding="utf-8"))))
        write_whole(out, json.dumps(document, allow_nan=False))
    except (CellFailed, UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
