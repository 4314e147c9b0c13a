#!/usr/bin/env python3
"""A model that decodes with drafted tokens: requests on stdin, one JSON line on stdout for each.

A drafter guesses the next tokens (prompt lookup, or a small model of the same vocabulary), the model checks
them in one batch, and what it would have said itself is kept: at temperature 0 the output is that of plain
decoding, above it the distribution is (rejection sampling, Leviathan et al. 2023, arXiv 2211.17192). Plain
decoding is the same loop without a draft.

First line: {"model", "drafter": "lookup"|"model"|"none", "draft": PATH, "adaptive": "off"|"published"|"cost",
"draft_tokens", "threshold", "temperature", "n_ctx", "n_batch", "n_gpu_layers", "n_threads", "flash_attn"}.
Then one line per generation: {"ids": [1, 2, …], "max_tokens": 64, "seed": 0, "plain": false}
  -> token_ids, text, finish_reason, t0_s, first_token_s, t1_s (monotonic clock), steps, and of the drafts:
     drafted, accepted, stopped, checks, tries and hits by position, lengths asked for, milliseconds spent.
Every answer has "ok"; where it is false, "error" says why. The rule that chooses draft lengths keeps what it
has learned, as in a server.

Example:
  python companions/draft_worker.py < requests.jsonl
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import itertools
import json
import operator
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
NGRAMS = (4, 3, 2)  # lookup: the longest match first
VOCAB_SLACK = 128  # sizes padded for the hardware differ by so much, tokens do not (llama.cpp's own limit)
FAR_BEHIND = 8  # more tokens than this to catch up on are no part of a step's usual cost
clock = time.monotonic


class DraftError(Exception):
    """What the user can put right."""


@dataclass
class Draft:
    """What a drafter proposes, and what it cost."""

    tokens: list[int] = field(default_factory=list)
    chances: list[Any] = field(default_factory=list)  # its distribution at each; [] = it was certain
    stopped: int = 0  # tokens not drafted for lack of confidence
    checks: int = 0  # confidences looked at
    catch_up_ms: float = 0.0  # reading what was said while it did not draft


@dataclass
class Step:
    """One pass of the model."""

    length: int  # draft length asked for
    drafted: int
    judged: int  # drafts the model got to: the first refusal is the last
    accepted: int
    stopped: int
    checks: int
    draft_ms: float = 0.0  # without catch_up_ms
    verify_ms: float = 0.0
    catch_up_ms: float = 0.0
    caught_up: int = 0  # tokens


# --- How long a draft? ---


@dataclass
class FixedLength:
    """The same length always; 0 is plain decoding."""

    length: int

    def choose(self, behind: int) -> int:
        return self.length

    def learn(self, step: Step) -> None: ...


class PublishedRule:
    """The rule of the published sweeps.

    Its quirks, kept: "double" is capped at 8, so from 10 drafts on the longest option is the given length
    itself; never fewer than 2, never none; the rate is accepted per *drafted* token, which a longer draft
    lowers by itself, so the rule drifts to its shortest option.

    >>> PublishedRule(10).options, PublishedRule(5).options, PublishedRule(15).options
    ([5, 8, 10], [2, 5, 8], [7, 8, 15])
    """

    def __init__(self, length: int) -> None:
        self.options = sorted({max(2, length // 2), length, min(8, 2 * length)})
        self.rate = 0.5

    def choose(self, behind: int) -> int:
        options = self.options
        if self.rate > 0.7:
            return options[-1]
        if self.rate > 0.5:
            return options[len(options) // 2]
        return options[min(1, len(options) - 1)] if self.rate > 0.3 else options[0]

    def learn(self, step: Step) -> None:
        if step.drafted:
            self.rate = 0.9 * self.rate + 0.1 * step.accepted / step.drafted


class CostRule:
    """The length with most expected tokens per millisecond of drafting and checking, as measured here.

    With a_j the chance that the j-th drafted token is accepted given that those before it were, a step of
    length K gives 1 + a_1 + a_1 a_2 + … tokens (one is the model's own) and takes K drafts and one check of
    K + 1 rows. Chances are decayed counts per position, drawn to their common mean; costs are medians of the
    last steps, a check never cheaper than one of fewer rows. K = 0 takes part: drafting ends where it does
    not pay, and is tried again only when the trial costs less than 2 % of the time since the last one.
    """

    TRIALS_AT_START = 3  # rounds over no draft, the longest, the half, one
    DECAY = 0.98  # per drafted step: about the last 50 count
    PULL = 4.0  # tries that the common mean is worth at a position
    HYSTERESIS = 1.03  # a new length must promise 3 % more
    TRY_ASIDE = 40  # every so many drafted steps, one at a neighbouring length
    TRIAL_SHARE = 0.02
    TRIAL_STEPS = 4

    def __init__(self, longest: int) -> None:
        self.longest, self.length, self.steps = longest, min(4, longest), 0
        self.hits, self.tries = [0.0] * longest, [0.0] * longest
        self.verify_ms: dict[int, collections.deque[float]] = {}  # by rows
        self.typical_ms: dict[int, float] = {}  # their medians, kept: every step asks for them
        self.draft_ms: collections.deque[float] = collections.deque([0.0], maxlen=31)  # per token
        self.catch_up_ms = 0.0  # per token, the last one measured
        self.trials = [0, longest, (longest + 1) // 2, 1] * self.TRIALS_AT_START
        self.since_trial_ms = 0.0

    def choose(self, behind: int) -> int:
        if self.trials:
            return self.trials.pop(0)
        if self.length:
            if self.steps % self.TRY_ASIDE:
                return self.length
            return max(0, min(self.longest, self.length + (1 if self.steps % (2 * self.TRY_ASIDE) else -1)))
        cost_ms = behind * self.catch_up_ms + self.TRIAL_STEPS * self.cost_ms(2)
        if cost_ms < self.TRIAL_SHARE * self.since_trial_ms:
            self.since_trial_ms = 0.0
            # Old evidence is worth less now: without this, a few good trials could not outvote it.
            self.hits = [value / 4 for value in self.hits]
            self.tries = [value / 4 for value in self.tries]
            self.verify_ms = {1: self.verify_ms[1]}  # the machine may be faster by now than in those checks
            self.typical_ms = {1: self.typical_ms[1]}
            self.trials = [min(2, self.longest)] * self.TRIAL_STEPS
            return self.trials.pop(0)
        return 0

    def learn(self, step: Step) -> None:
        self.since_trial_ms += step.draft_ms + step.verify_ms
        rows = self.verify_ms.setdefault(step.drafted + 1, collections.deque(maxlen=31))
        rows.append(step.verify_ms)
        self.typical_ms[step.drafted + 1] = statistics.median(rows)
        if step.caught_up:
            self.catch_up_ms = step.catch_up_ms / step.caught_up
        passes = step.drafted + (1 if step.stopped else 0)
        if passes:
            self.draft_ms.append(step.draft_ms / passes)
        self.steps += 1
        for j in range(step.drafted):
            self.hits[j] *= self.DECAY
            self.tries[j] *= self.DECAY
        for j in range(step.judged):
            self.tries[j] += 1
            self.hits[j] += j < step.accepted
        if self.steps % 4 == 0 or (step.drafted and not self.trials):
            self.length = self.best()

    def acceptance(self, hope: float = 0.0) -> list[float]:
        """Estimated a_1 … a_longest, plus `hope` standard errors."""
        pooled = (sum(self.hits) + 1) / (sum(self.tries) + 2)
        pairs = [
            (hit + self.PULL * pooled, n + self.PULL) for hit, n in zip(self.hits, self.tries, strict=True)
        ]
        return [min(1.0, c / n + hope * (c / n * max(0.0, 1 - c / n) / n) ** 0.5) for c, n in pairs]

    def check_ms(self, rows: int) -> float:
        """Cost of checking so many rows: interpolated between measured numbers of rows, flat beyond."""
        before = (0, 0.0)
        for size, value in sorted(self.typical_ms.items()):
            value = max(value, before[1])
            if size >= rows:
                share = (rows - before[0]) / (size - before[0]) if before[0] else 1.0
                return before[1] + share * (value - before[1])
            before = (size, value)
        return before[1]

    def cost_ms(self, length: int) -> float:
        return length * statistics.median(self.draft_ms) + self.check_ms(length + 1)

    def best(self) -> int:
        """The best length, or the present one if that is nearly as good; none only on clear evidence."""
        costs_ms = [self.cost_ms(length) for length in range(self.longest + 1)]
        for hope in (0.0, 1.0):
            chances = itertools.accumulate(self.acceptance(hope), operator.mul, initial=1.0)
            expected = itertools.accumulate(chances)
            rates = [tokens / max(ms, 1e-9) for tokens, ms in zip(expected, costs_ms, strict=True)]
            top = rates.index(max(rates))
            if top:
                break
        return top if rates[top] > rates[self.length] * self.HYSTERESIS else self.length


Rule = FixedLength | PublishedRule | CostRule
RULES: dict[str, Callable[[int], Rule]] = {"off": FixedLength, "published": PublishedRule, "cost": CostRule}


# --- Choosing tokens ---


def softmax(row: Any, temperature: float) -> Any:
    """Probabilities of one row of logits (n_vocab,), in float64."""
    import numpy as np

    chances = np.exp((row - row.max()).astype(np.float64) / temperature)
    return chances / chances.sum()


def draw(chances: Any, rng: random.Random) -> int:
    """One index, by its probability."""
    import numpy as np

    total = np.cumsum(chances)
    return int(min(np.searchsorted(total, rng.random() * total[-1], side="right"), len(total) - 1))


def judge_guess(row: Any, guess: int | None, drafted: Any, temperature: float, rng: random.Random) -> int:
    """The model's token at one place, from its logits; equal to `guess` where that is accepted.

    `drafted`: the drafter's distribution q, None if it was certain. Accepted with chance min(1, p/q), else
    drawn from what p has over q: the result is distributed as p.
    """
    if temperature <= 0:
        return int(row.argmax())
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


class Net:
    """A model with one context, fed by token ids at given positions."""

    def __init__(self, path: str, args: SimpleNamespace) -> None:
        import llama_cpp
        import numpy as np

        self.api, self.path = llama_cpp, path
        self.vocab = llama_cpp.llama_model_get_vocab(model := open_model(path, args.n_gpu_layers))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = args.n_ctx, args.n_batch, args.n_batch
        settings.n_threads = settings.n_threads_batch = args.n_threads
        settings.flash_attn_type = FLASH_ATTN[args.flash_attn]
        settings.swa_full = True  # a pruned sliding window could not take refused tokens back
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise DraftError(f"no memory for a context of {args.n_ctx} tokens; lower --n_ctx or --n_batch")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.n_vocab, self.n_batch = llama_cpp.llama_vocab_n_tokens(self.vocab), args.n_batch
        self._batch = llama_cpp.llama_batch_init(args.n_batch, 0, 1)
        for i in range(args.n_batch):
            self._batch.n_seq_id[i], self._batch.seq_id[i][0] = 1, 0
        view = np.ctypeslib.as_array
        self._token, self._pos = (view(getattr(self._batch, a), (args.n_batch,)) for a in ("token", "pos"))
        self._wanted = view(self._batch.logits, (args.n_batch,))
        self._rows_at = 0

    def feed(self, tokens: Sequence[int], start: int, rows: int) -> None:
        """Decode `tokens` at positions from `start`; keep the logits of the last `rows` (<= n_batch)."""
        for first in range(0, len(tokens), self.n_batch):
            part = tokens[first : first + self.n_batch]
            size, last = len(part), first + self.n_batch >= len(tokens)
            self._token[:size] = part
            self._pos[:size] = range(start + first, start + first + size)
            self._wanted[:size] = 0
            if last:
                self._rows_at = size - rows
                self._wanted[self._rows_at : size] = 1
            self._batch.n_tokens = size
            status = self.api.llama_decode(self.context, self._batch)
            if status:
                raise DraftError(f"the engine's decode of {self.path} returned {status}; raise --n_ctx")

    def row(self, index: int) -> Any:
        """Logits (n_vocab,) of the index-th row kept; valid until the next feed. Waits for the device."""
        import numpy as np

        pointer = self.api.llama_get_logits_ith(self.context, self._rows_at + index)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def keep(self, count: int) -> None:
        """Forget what stands at positions from `count` on."""
        if not self.api.llama_memory_seq_rm(self.memory, 0, count, -1):
            raise DraftError(f"{self.path} cannot take tokens back (a recurrent model?); use --plain")

    def is_end(self, token: int) -> bool:
        return bool(self.api.llama_vocab_is_eog(self.vocab, token))

    def text(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        wanted = (self.api.llama_token * max(1, len(ids)))(*ids)
        room = ctypes.create_string_buffer(64 * len(ids) + 64)
        length = self.api.llama_detokenize(self.vocab, wanted, len(ids), room, len(room), True, False)
        return room.raw[: max(0, length)].decode("utf-8", "replace")


LOG: collections.deque[str] = collections.deque(maxlen=20)  # the engine's complaints, for error messages


def open_model(path: str, n_gpu_layers: int) -> Any:
    """Load a model file. Raises DraftError with the engine's reason."""
    import llama_cpp

    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = n_gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), settings)
    if not model:
        raise DraftError(f"the engine cannot load {path}: {'; '.join(LOG) or 'no such file?'}")
    return model


def quiet_engine() -> Any:
    """Keep the engine's complaints in LOG. The result must be held, or ctypes frees it."""
    import llama_cpp

    def note(level: int, text: bytes, _data: Any) -> None:
        if level in (3, 4):  # warning, error
            LOG.append(text.decode("utf-8", "replace").strip())

    callback = llama_cpp.llama_log_callback(note)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return callback


def check_same_vocabulary(target: Net, draft: Net) -> None:
    """Refuse a draft model whose token ids mean other texts. Raises DraftError."""
    sizes = (target.n_vocab, draft.n_vocab)
    text = target.api.llama_vocab_get_text
    if abs(sizes[0] - sizes[1]) > VOCAB_SLACK:
        raise DraftError(f"--draft has {sizes[1]} tokens, --model {sizes[0]}: not one vocabulary")
    for token in range(min(sizes)):
        ours, theirs = text(target.vocab, token), text(draft.vocab, token)
        if ours != theirs:
            raise DraftError(f"--draft has another vocabulary: its token {token} is {theirs!r}, not {ours!r}")
    for special in (target.api.llama_vocab_bos, target.api.llama_vocab_eos):
        if special(target.vocab) != special(draft.vocab):
            raise DraftError("--draft has another vocabulary: its BOS or EOS is another token than --model's")


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
        self.confirm(0)

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
                if softmax(row, 1.0).max() < self.threshold:
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

    def guess(self, row: Any, rng: random.Random) -> tuple[int, Any]:
        if self.temperature <= 0:
            return int(row.argmax()), None
        chances = softmax(row, self.temperature)
        return draw(chances, rng), chances

    def confirm(self, count: int) -> None:
        """The first `count` tokens are what was said; forget the rest."""
        if self.held > count or count == 0:
            self.held = count
            self.net.keep(count)


Drafter = LookupDrafter | ModelDrafter


# --- The loop ---


def verify(target: Net, draft: Draft, temperature: float, rng: random.Random) -> list[int]:
    """What the model says after the tokens just fed: accepted drafts, and one token of its own."""
    said: list[int] = []
    for i, guess in enumerate([*draft.tokens, None]):
        drafted = draft.chances[i] if i < len(draft.chances) else None
        said.append(judge_guess(target.row(i), guess, drafted, temperature, rng))
        if said[-1] != guess or target.is_end(said[-1]):
            break
    return said


def decode(
    target: Net, drafter: Drafter | None, rule: Rule, request: Mapping[str, Any], temperature: float
) -> dict[str, Any]:
    """One cold generation. The clock starts before the prompt, the drafter after the first token."""
    context, limit = list(request["ids"]), request["max_tokens"]
    end, rng = len(context) + limit, random.Random(request["seed"])
    steps: list[Step] = []
    target.keep(0)
    if drafter:
        drafter.restart()
    t0_s = clock()
    target.feed(context, 0, 1)
    context += verify(target, Draft(), temperature, rng)
    first_token_s = clock()
    while len(context) < end and not target.is_end(context[-1]):
        began_s, draft, length, behind = clock(), Draft(), 0, 0
        if drafter:
            behind = drafter.behind(context)
            length = rule.choose(behind)
            # No draft past the last token wanted, no more rows than one batch holds.
            room = min(length, end - len(context) - 1, target.n_batch - 1)
            draft = drafter.propose(context, room, rng) if room > 0 else draft
        drafted_s = clock()
        target.feed([context[-1], *draft.tokens], len(context) - 1, len(draft.tokens) + 1)
        said = verify(target, draft, temperature, rng)
        accepted = sum(map(int.__eq__, said, draft.tokens))
        if drafter and draft.tokens:
            target.keep(len(context) + accepted)
            drafter.confirm(len(context) + accepted)
        context += said
        done_s = clock()
        n, late_ms = len(draft.tokens), draft.catch_up_ms
        step = Step(length, n, min(len(said), n), accepted, draft.stopped, draft.checks)
        step.draft_ms, step.verify_ms = (drafted_s - began_s) * 1000 - late_ms, (done_s - drafted_s) * 1000
        step.catch_up_ms, step.caught_up = late_ms, behind if late_ms else 0
        rule.learn(step)
        steps.append(step)
    t1_s = clock()
    out = context[len(request["ids"]) :]
    stopped = target.is_end(out[-1])
    times = {"t0_s": t0_s, "first_token_s": first_token_s, "t1_s": t1_s}
    ids = out[: len(out) - stopped]
    reason = "stop" if stopped else "length"
    return {"token_ids": ids, "text": target.text(ids), "finish_reason": reason, **times, **counts(steps)}


def counts(steps: Sequence[Step]) -> dict[str, Any]:
    """Sums over the steps; by position: how often a draft was judged there, how often it was accepted."""
    longest = max((step.drafted for step in steps), default=0)
    names = ("drafted", "accepted", "stopped", "checks", "draft_ms", "verify_ms", "catch_up_ms")
    return {
        "steps": len(steps) + 1,  # and the prompt's
        **{name: sum(getattr(step, name) for step in steps) for name in names},
        "windows": sum(step.drafted > 0 for step in steps),
        "tries": [sum(step.judged > j for step in steps) for j in range(longest)],
        "hits": [sum(step.accepted > j for step in steps) for j in range(longest)],
        "lengths": dict(sorted(collections.Counter(step.length for step in steps).items())),
    }


class Server:
    """The loaded models and the rule, which outlives the requests."""

    def __init__(self, settings: SimpleNamespace) -> None:
        self.temperature = settings.temperature
        self.target = Net(settings.model, settings)
        self.drafter: Drafter | None = None
        self.rule: Rule = FixedLength(0)
        if settings.drafter == "model":
            net = Net(settings.draft, settings)
            check_same_vocabulary(self.target, net)
            net.n_vocab = min(net.n_vocab, self.target.n_vocab)  # padding is no token of the target
            self.drafter = ModelDrafter(net, settings.threshold, settings.temperature)
        elif settings.drafter == "lookup":
            self.drafter = LookupDrafter()
        if self.drafter:
            self.rule = RULES[settings.adaptive](settings.draft_tokens)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        plain = request.get("plain")
        rule, drafter = (FixedLength(0), None) if plain else (self.rule, self.drafter)
        return decode(self.target, drafter, rule, request, self.temperature)


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: requests come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer requests until stdin ends."""
    build_parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the starter decides
    # The engine may print to stdout; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server: Server | None = None
    try:
        held = quiet_engine()
    except ImportError as exc:
        print(f"error: the engine is not installed ({exc}); run ./run_all.sh --setup", file=sys.stderr)
        return 1
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if server is None:
                server = Server(SimpleNamespace(**request))
                reply = {"n_vocab": server.target.n_vocab, "complaints": list(LOG), "held": bool(held)}
            else:
                reply = server.answer(request)
            reply = {"ok": True, **reply}
        except (DraftError, ValueError, AttributeError, KeyError) as exc:
            words = str(exc) if isinstance(exc, DraftError) else f"bad request: {exc!r}"
            reply = {"ok": False, "error": words}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
