"""How long a draft? The rules that choose its length, pass by pass, from what the passes before it told.

Pure: no engine, no clock. The loop in draft.py asks `choose` before a pass and tells `learn` after it. What a
rule has learned stays from answer to answer, as in a server.
"""

from __future__ import annotations

import collections
import itertools
import operator
import statistics
from collections.abc import Callable
from dataclasses import dataclass


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
