"""One answer with drafted tokens: a drafter guesses the next ones, the model checks them in one batch.

Runs in the engine's process. What the model would have said itself is kept: at temperature 0 the output is
that of plain decoding, above it the distribution is (rejection sampling, Leviathan et al. 2023, arXiv
2211.17192). Plain decoding is the same loop without a draft. The drafter is prompt lookup, or a small model
of the same vocabulary. The rule that chooses draft lengths keeps what it has learned from answer to answer,
as in a server.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import llama_cpp
import numpy as np

from edgebench.engine.binding import LOG, Context, Model, Watch
from edgebench.engine.draft_rules import RULES, FixedLength, Rule, Step
from edgebench.engine.protocol import (
    BAD_REQUEST,
    NOT_COLD,
    REFUSED,
    DraftGeneration,
    Drafting,
    EngineFailure,
    ModelLoad,
)
from edgebench.engine.template import ids_sha256

NGRAMS = (4, 3, 2)  # lookup: the longest match first
VOCAB_SLACK = 128  # sizes padded for the hardware differ by so much, tokens do not (llama.cpp's own limit)
FAR_BEHIND = 8  # more tokens than this to catch up on are no part of a step's usual cost
clock = time.monotonic


@dataclass
class Draft:
    """What a drafter proposes, and what it cost."""

    tokens: list[int] = field(default_factory=list)
    chances: list[Any] = field(default_factory=list)  # its distribution at each; [] = it was certain
    stopped: int = 0  # tokens not drafted for lack of confidence
    checks: int = 0  # confidences looked at
    catch_up_ms: float = 0.0  # reading what was said while it did not draft


# --- Choosing tokens ---


def softmax(row: Any, temperature: float) -> Any:
    """Probabilities of one row of logits (n_vocab,), in float64."""
    chances = np.exp((row - row.max()).astype(np.float64) / temperature)
    return chances / chances.sum()


def draw(chances: Any, rng: random.Random) -> int:
    """One index, by its probability."""
    total = np.cumsum(chances)
    return int(min(np.searchsorted(total, rng.random() * total[-1], side="right"), len(total) - 1))


def judge_guess(row: Any, guess: int | None, drafted: Any, temperature: float, rng: random.Random) -> int:
    """The model's token at one place, from its logits; equal to `guess` where that is accepted.

    `drafted`: the drafter's distribution q, None if it was certain. Accepted with chance min(1, p/q), else
    drawn from what p has over q: the result is distributed as p. For temperatures above 0.
    """
    chances = softmax(row, temperature)
    if guess is None:
        return draw(chances, rng)
    if rng.random() * (1.0 if drafted is None else drafted[guess]) < chances[guess]:
        return guess
    surplus = chances.copy()
    if drafted is None:
        surplus[guess] = 0.0
    else:
        surplus[: len(drafted)] -= drafted
    surplus = surplus.clip(0.0)
    return draw(surplus if surplus.any() else chances, rng)  # none at all: p = q but for rounding


# --- The engine ---


class Row(NamedTuple):
    """The model's opinion of the token at one place."""

    logits: Any  # (n_vocab,)
    best: int  # id of the highest


class Net:
    """A model with one context, fed by token ids at given positions."""

    def __init__(self, path: str, load: ModelLoad) -> None:
        """EngineFailure where the engine refuses it."""
        self.model = Model(path, n_gpu_layers=load.n_gpu_layers)
        self.context = Context(self.model, load, no_perf=True)
        self.n_vocab = self.model.n_vocab
        self.n_batch = load.n_batch
        self.held = 0  # positions that the cache holds, by our own count
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        for i in range(self.n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        view = np.ctypeslib.as_array
        self._token = view(self._batch.token, (self.n_batch,))
        self._pos = view(self._batch.pos, (self.n_batch,))
        self._wanted = view(self._batch.logits, (self.n_batch,))
        self._rows_at = 0
        self._watch = Watch()

    def close(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_batch_free(self._batch)
        self.context.close()
        self.model.close()

    def start_cold(self) -> None:
        """Forget everything; EngineFailure of kind not_cold where something is left."""
        self.context.start_cold()
        self.held = 0
        self._watch = Watch()

    def feed(self, tokens: Sequence[int], start: int, rows: int) -> None:
        """Decode `tokens` at positions from `start`; keep the logits of the last `rows` (<= n_batch)."""
        for first in range(0, len(tokens), self.n_batch):
            part = tokens[first : first + self.n_batch]
            size = len(part)
            self._token[:size] = part
            self._pos[:size] = range(start + first, start + first + size)
            self._wanted[:size] = 0
            if first + self.n_batch >= len(tokens):
                self._rows_at = size - rows
                self._wanted[self._rows_at : size] = 1
            self._batch.n_tokens = size
            status = llama_cpp.llama_decode(self.context.handle, self._batch)
            if status:
                message = f"the engine's decode of {self.model.path} returned {status}: {LOG.reason()}"
                raise EngineFailure(REFUSED, f"{message}; raise --n_ctx")
        self.held = start + len(tokens)

    def row(self, index: int) -> Row:
        """The index-th row kept; valid until the next feed. Waits for the device.

        EngineFailure of kind not_a_generation where the logits are no language model's.
        """
        logits = self.context.logits(self._rows_at + index)[: self.n_vocab]
        return Row(logits, self._watch.best(logits))

    def keep(self, count: int) -> None:
        """Forget what stands at positions from `count` on. EngineFailure where the memory cannot be cut."""
        if not self.context.forget_from(count):
            message = f"{self.model.path} cannot take tokens back (a recurrent model?); use --plain"
            raise EngineFailure(REFUSED, message)
        self.held = count

    def check_answer(self) -> None:
        """EngineFailure where the cache holds other positions than this run's, or the answer is none."""
        self._watch.check_it_moved()
        doubt = self.context.doubt_of_cold(self.held)
        if doubt:
            raise EngineFailure(NOT_COLD, doubt)

    def is_end(self, token: int) -> bool:
        return self.model.is_end(token)

    def text(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.model.text_of(ids)


def check_same_vocabulary(target: Model, draft: Model) -> None:
    """EngineFailure for a draft model whose token ids mean other texts. Vocabularies are enough."""
    sizes = (target.n_vocab, draft.n_vocab)
    if abs(sizes[0] - sizes[1]) > VOCAB_SLACK:
        message = f"--draft has {sizes[1]} tokens, --model {sizes[0]}: not one vocabulary"
        raise EngineFailure(REFUSED, message)
    text = llama_cpp.llama_vocab_get_text
    for token in range(min(sizes)):
        ours, theirs = text(target.vocab, token), text(draft.vocab, token)
        if ours != theirs:
            message = f"--draft has another vocabulary: its token {token} is {theirs!r}, not {ours!r}"
            raise EngineFailure(REFUSED, message)
    if (target.bos, target.eos) != (draft.bos, draft.eos):
        message = "--draft has another vocabulary: its BOS or EOS is another token than --model's"
        raise EngineFailure(REFUSED, message)


# --- Drafters ---


class LookupDrafter:
    """What followed the last time the same few tokens stood in prompt or answer."""

    def restart(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}
        self.indexed = 0

    def behind(self, context: Sequence[int]) -> int:
        return 0

    def propose(self, context: Sequence[int], length: int, rng: random.Random) -> Draft:
        for end in range(self.indexed, len(context)):
            for n in NGRAMS:
                if end >= n:
                    self.after[tuple(context[end - n : end])] = end
        self.indexed = len(context)
        found = (self.after.get(tuple(context[-n:])) for n in NGRAMS if len(context) > n)
        at = next((end for end in found if end is not None), None)
        tokens: list[int] = []
        while at is not None and len(tokens) < length:
            here = at + len(tokens) - len(context)  # from 0 on: a cycle that goes on in the draft itself
            tokens.append(tokens[here] if here >= 0 else context[at + len(tokens)])
        return Draft(tokens)

    def confirm(self, count: int) -> None:
        pass


class ModelDrafter:
    """A second model that reads along. It catches up only when it drafts, never before the first token."""

    def __init__(self, net: Net, threshold: float, temperature: float) -> None:
        self.net, self.threshold, self.temperature = net, threshold, temperature
        self.held = 0  # tokens of the context that its memory holds

    def restart(self) -> None:
        self.held = 0
        self.net.start_cold()

    def behind(self, context: Sequence[int]) -> int:
        return len(context) - self.held

    def propose(self, context: Sequence[int], length: int, rng: random.Random) -> Draft:
        draft, began_s = Draft(), clock()
        missing = context[self.held :]
        self.net.feed(missing, self.held, 1)
        row = self.net.row(0)
        if len(missing) > FAR_BEHIND:
            draft.catch_up_ms = (clock() - began_s) * 1000
        self.held = len(context)
        while True:
            token, chances = self.guess(row, rng)
            if self.threshold > 0:
                draft.checks += 1
                if softmax(row.logits, 1.0).max() < self.threshold:
                    draft.stopped = length - len(draft.tokens)
                    return draft
            draft.tokens.append(token)
            if chances is not None:
                draft.chances.append(chances)
            if len(draft.tokens) == length:
                return draft
            self.net.feed([token], self.held, 1)
            self.held += 1
            row = self.net.row(0)

    def guess(self, row: Row, rng: random.Random) -> tuple[int, Any]:
        if self.temperature <= 0:
            return row.best, None
        chances = softmax(row.logits, self.temperature)
        return draw(chances, rng), chances

    def confirm(self, count: int) -> None:
        """The first `count` tokens are what was said; forget the rest."""
        if self.held > count:
            self.held = count
            self.net.keep(count)


Drafter = LookupDrafter | ModelDrafter


# --- The loop ---


def verify(target: Net, draft: Draft, temperature: float, rng: random.Random) -> list[int]:
    """What the model says after the tokens just fed: accepted drafts, and one token of its own."""
    said: list[int] = []
    for i, guess in enumerate([*draft.tokens, None]):
        drafted = draft.chances[i] if i < len(draft.chances) else None
        row = target.row(i)
        greedy = temperature <= 0
        said.append(row.best if greedy else judge_guess(row.logits, guess, drafted, temperature, rng))
        if said[-1] != guess or target.is_end(said[-1]):
            break
    return said


@dataclass(frozen=True)
class DraftRequest:
    """What one answer is asked with."""

    ids: Sequence[int]
    max_tokens: int
    seed: int = 0


def decode(
    target: Net, drafter: Drafter | None, rule: Rule, request: DraftRequest, temperature: float
) -> DraftGeneration:
    """One cold generation. The clock starts before the prompt, the drafter after the first token."""
    context = list(request.ids)
    end = len(context) + request.max_tokens
    rng = random.Random(request.seed)
    steps: list[Step] = []
    target.start_cold()
    if drafter:
        drafter.restart()
    t0_s = clock()
    target.feed(context, 0, 1)
    context += verify(target, Draft(), temperature, rng)
    first_token_s = clock()
    while len(context) < end and not target.is_end(context[-1]):
        step, said = one_step(target, drafter, rule, context, end, temperature, rng)
        context += said
        rule.learn(step)
        steps.append(step)
    t1_s = clock()
    target.check_answer()
    out = context[len(request.ids) :]
    stopped = target.is_end(out[-1])
    ids = out[: len(out) - stopped]
    return DraftGeneration(
        token_ids=tuple(ids),
        text=target.text(ids),
        finish_reason="stop" if stopped else "length",
        t0_s=t0_s,
        first_token_s=first_token_s,
        t1_s=t1_s,
        prompt_ids_sha256=ids_sha256(request.ids),
        **counts(steps),
    )


def one_step(
    target: Net,
    drafter: Drafter | None,
    rule: Rule,
    context: Sequence[int],
    end: int,
    temperature: float,
    rng: random.Random,
) -> tuple[Step, list[int]]:
    """One pass of the model over the last token and a draft: what it took, and what the model says."""
    began_s = clock()
    draft = Draft()
    length = behind = 0
    if drafter:
        behind = drafter.behind(context)
        length = rule.choose(behind)
        # No draft past the last token wanted, no more rows than one batch holds.
        room = min(length, end - len(context) - 1, target.n_batch - 1)
        if room > 0:
            draft = drafter.propose(context, room, rng)
    drafted_s = clock()
    target.feed([context[-1], *draft.tokens], len(context) - 1, len(draft.tokens) + 1)
    said = verify(target, draft, temperature, rng)
    accepted = sum(map(int.__eq__, said, draft.tokens))
    if drafter and draft.tokens:
        target.keep(len(context) + accepted)
        drafter.confirm(len(context) + accepted)
    done_s = clock()
    drafted = len(draft.tokens)
    late_ms = draft.catch_up_ms
    step = Step(
        length=length,
        drafted=drafted,
        judged=min(len(said), drafted),
        accepted=accepted,
        stopped=draft.stopped,
        checks=draft.checks,
        draft_ms=(drafted_s - began_s) * 1000 - late_ms,
        verify_ms=(done_s - drafted_s) * 1000,
        catch_up_ms=late_ms,
        caught_up=behind if late_ms else 0,
    )
    return step, said


def counts(steps: Sequence[Step]) -> dict[str, Any]:
    """Sums over the steps; by position: how often a draft was judged there, how often it was accepted."""
    longest = max((step.drafted for step in steps), default=0)
    names = ("drafted", "accepted", "stopped", "checks", "draft_ms", "verify_ms", "catch_up_ms")
    return {
        "steps": len(steps) + 1,  # and the prompt's
        **{name: sum(getattr(step, name) for step in steps) for name in names},
        "windows": sum(step.drafted > 0 for step in steps),
        "tries": tuple(sum(step.judged > j for step in steps) for j in range(longest)),
        "hits": tuple(sum(step.accepted > j for step in steps) for j in range(longest)),
        "lengths": dict(sorted(collections.Counter(step.length for step in steps).items())),
    }


# --- What is loaded ---


class DraftDecoder:
    """The loaded models and the rule, which outlives the requests."""

    def __init__(self, path: str, load: ModelLoad, drafting: Drafting) -> None:
        """EngineFailure where a model is refused, or the two are not of one vocabulary."""
        self.drafting = drafting
        self.drafter: Drafter | None = None
        self.rule: Rule = FixedLength(0)
        self._nets: list[Net] = []
        self.target = self._net(path, load)
        if drafting.drafter == "model":
            if drafting.draft is None:
                raise EngineFailure(BAD_REQUEST, "a model that drafts must be named")
            net = self._net(drafting.draft, load)
            check_same_vocabulary(self.target.model, net.model)
            net.n_vocab = min(net.n_vocab, self.target.n_vocab)  # padding is no token of the target
            self.drafter = ModelDrafter(net, drafting.threshold, drafting.temperature)
        elif drafting.drafter == "lookup":
            self.drafter = LookupDrafter()
        if self.drafter:
            self.rule = RULES[drafting.adaptive](drafting.draft_tokens)

    def _net(self, path: str, load: ModelLoad) -> Net:
        """One of the models, which `close` will end."""
        net = Net(path, load)
        self._nets.append(net)
        net.context.check_it_generates()
        return net

    def close(self) -> None:
        """Give the memory back."""
        for net in self._nets:
            net.close()

    def run(self, request: DraftRequest, plain: bool) -> DraftGeneration:
        """One answer; `plain`: the same loop without a draft."""
        if not request.ids:
            raise EngineFailure(REFUSED, "the prompt is empty")
        if plain:
            return decode(self.target, None, FixedLength(0), request, self.drafting.temperature)
        return decode(self.target, self.drafter, self.rule, request, self.drafting.temperature)
