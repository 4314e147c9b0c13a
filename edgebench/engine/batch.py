"""Several answers decoded together, one batch after the other.

Runs in the engine's process. The groups are decoded one after the other, each as one batch. Its prompts are
prefilled from an empty cache, one call each: a prompt fills the machine by itself, and prompts of unequal
length in one call are split into small pieces. Then every step is one llama_decode with one token of each
sequence that is still running. A sequence that ends leaves the batch. Each keeps its keys and values apart
from the others (unless kv_unified), so that it reads what it would read alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import llama_cpp

from edgebench.engine.binding import LOG, Chooser, Context
from edgebench.engine.protocol import (
    NOT_COLD,
    REFUSED,
    BatchGeneration,
    EngineFailure,
    Prompt,
    Sampling,
    SequenceAnswer,
)
from edgebench.engine.reading import read_prompt
from edgebench.engine.template import ReadPrompt, ids_sha256

clock = time.monotonic


@dataclass
class Stream:
    """One sequence of a batch under way."""

    number: int  # the engine's seq_id
    prompt: ReadPrompt
    chooser: Chooser
    ids: list[int] = field(default_factory=list)  # chosen so far, end of sequence not
    last_id: int = 0
    row: int = -1  # of the batch decoded last, where its logits stand
    decoded: int = 0  # tokens given to the engine
    first_token_s: float = 0.0
    end_s: float = 0.0
    finish_reason: str | None = None

    @property
    def is_going(self) -> bool:
        return self.finish_reason is None


class Entry(NamedTuple):
    """One token of a batch."""

    stream: Stream
    token: int
    position: int
    wants_logits: bool


@dataclass
class Span:
    """The times of one group."""

    begin_s: float  # before the first prompt token
    prefilled_s: float  # all first ids chosen
    end_s: float  # last id chosen
    steps: int


class BatchDecoder:
    """A context for several sequences, and the batch that carries their tokens to it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._batch: Any = llama_cpp.llama_batch_init(context.n_batch, 0, 1)

    def close(self) -> None:
        """Give the batch's memory back."""
        llama_cpp.llama_batch_free(self._batch)

    # --- The timed batches

    def run(self, groups: Sequence[Sequence[Prompt]], sampling: Sampling) -> BatchGeneration:
        """Decode group after group. The clock starts before the first prompt token and ends with the last id.

        Prompts become ids before it starts, and ids become text when it has stopped. EngineFailure where one
        of the sequences cannot be decoded, or says what is no language: then none of it counts.
        """
        self.context.check_it_generates()
        read = [[read_prompt(self.context.model, prompt) for prompt in group] for group in groups]
        self._check_they_fit(read, sampling.max_tokens)
        streams = [
            [Stream(number, prompt, self._chooser(sampling)) for number, prompt in enumerate(group)]
            for group in read
        ]
        try:
            spans = [self._timed_group(group, sampling.max_tokens) for group in streams]
            for stream in (stream for group in streams for stream in group):
                stream.chooser.watch.check_it_moved()
        finally:
            for stream in (stream for group in streams for stream in group):
                stream.chooser.close()
        return BatchGeneration(
            t0_s=spans[0].begin_s,
            t1_s=spans[-1].end_s,
            prefill_ms=sum(span.prefilled_s - span.begin_s for span in spans) * 1000,
            decode_ms=sum(span.end_s - span.prefilled_s for span in spans) * 1000,
            steps=sum(span.steps for span in spans),
            sequences=tuple(
                self._answer_of(stream, span.begin_s)
                for group, span in zip(streams, spans, strict=True)
                for stream in group
            ),
        )

    def _chooser(self, sampling: Sampling) -> Chooser:
        """The same seed for each sequence, as if it were alone."""
        return Chooser(self.context, sampling.temperature, sampling.seed)

    def _check_they_fit(self, groups: Sequence[Sequence[ReadPrompt]], max_tokens: int) -> None:
        """EngineFailure for prompts that are empty or too long, and groups that are too large."""
        prompts = [prompt for group in groups for prompt in group]
        if not prompts or not all(prompt.ids for prompt in prompts):
            raise EngineFailure(REFUSED, "a prompt is empty")
        largest = max(len(group) for group in groups)
        if largest > self.context.n_seq_max:
            raise EngineFailure(
                REFUSED,
                f"a batch of {largest} sequences, and the context has room for {self.context.n_seq_max}",
            )
        longest = max(len(prompt.ids) for prompt in prompts)
        room = self.context.n_ctx
        if longest + max_tokens > room:
            raise EngineFailure(
                REFUSED,
                f"prompt of {longest} tokens + max_tokens {max_tokens} exceed the {room} tokens of a"
                " sequence; lower --max_tokens or raise --n_ctx",
            )

    def _timed_group(self, group: Sequence[Stream], limit: int) -> Span:
        """One batch from an empty cache. EngineFailure also where the cache was not empty."""
        begin_s = clock()
        self.context.start_cold()
        going = self._prefill(group, limit)
        prefilled_s = max(stream.first_token_s for stream in group)
        steps = 0
        while going:
            # The token chosen last stands behind the prompt and the ids before it.
            self._decode([Entry(stream, stream.last_id, stream.decoded, True) for stream in going])
            going = self._take(going, limit)
            steps += 1
        for stream in group:
            doubt = self.context.doubt_of_cold(stream.decoded, stream.number)
            if doubt:
                raise EngineFailure(NOT_COLD, doubt)
        return Span(begin_s, prefilled_s, max(stream.end_s for stream in group), steps)

    def _prefill(self, group: Sequence[Stream], limit: int) -> list[Stream]:
        """One prompt after the other, logits for its last token alone, which the next call overwrites."""
        size = self.context.n_batch
        going: list[Stream] = []
        for stream in group:
            ids = stream.prompt.ids
            last = len(ids) - 1
            for start in range(0, last + 1, size):
                places = range(start, min(start + size, last + 1))
                self._decode([Entry(stream, ids[place], place, place == last) for place in places])
            going += self._take([stream], limit)
        return going

    def _decode(self, entries: Sequence[Entry]) -> None:
        """One llama_decode."""
        batch = self._batch
        for row, (stream, token, position, wants_logits) in enumerate(entries):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = stream.number
            batch.logits[row] = wants_logits
            stream.decoded = position + 1
            if wants_logits:
                stream.row = row
        batch.n_tokens = len(entries)
        status = llama_cpp.llama_decode(self.context.handle, batch)
        if status:
            raise EngineFailure(
                REFUSED, f"the engine's decode returned {status} for {len(entries)} tokens: {LOG.reason()}"
            )

    def _take(self, streams: Sequence[Stream], limit: int) -> list[Stream]:
        """Choose the next token of each sequence from the batch just decoded; those that go on."""
        for stream in streams:
            token = stream.chooser.take(stream.row)  # waits for the device: the stamp is of a finished token
            now_s = clock()
            if not stream.first_token_s:
                stream.first_token_s = now_s
            if self.context.model.is_end(token):
                stream.finish_reason = "stop"
            else:
                stream.ids.append(token)
                stream.last_id = token
                if len(stream.ids) >= limit:
                    stream.finish_reason = "length"
            if not stream.is_going:
                stream.end_s = now_s
        return [stream for stream in streams if stream.is_going]

    def _answer_of(self, stream: Stream, begin_s: float) -> SequenceAnswer:
        """What is told of a finished sequence."""
        return SequenceAnswer(
            prompt_tokens=len(stream.prompt.ids),
            completion_tokens=len(stream.ids),
            finish_reason=stream.finish_reason,
            ttft_ms=(stream.first_token_s - begin_s) * 1000,
            output_text=self.context.model.text_of(stream.ids),
            ids_sha256=ids_sha256(stream.ids),
            prompt_ids_sha256=ids_sha256(stream.prompt.ids),
            flags=stream.prompt.flags,
        )
