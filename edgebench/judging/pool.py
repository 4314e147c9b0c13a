"""The workers that ask: never more requests in flight than allowed, and an end where going on is of no use.

Owns when a request goes out, when it goes out again, and when the run stops. What an answer means stands in
faults.py, what becomes of a reply in journal.py.

A limit (429, Retry-After) is no failure: it closes a gate for all workers, for as long as the endpoint says
and at least for a backoff that grows while nothing is answered. Faults that pass are tried again with
exponential backoff and jitter. Until the first reply the endpoint is on probation: no more requests are open
than there are workers, after a fault one request at a time goes out, and what is likely to be so for every
request ends the run after a few.
"""

from __future__ import annotations

import heapq
import math
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from edgebench.judging.endpoint import Endpoint
from edgebench.judging.faults import Fault, Reply, is_too_long
from edgebench.judging.games import Asking, Game, journal_line, request_body
from edgebench.judging.journal import Journal, JournalError
from edgebench.judging.soft import chances_of, kept, read_line
from edgebench.records.jsonl import utc_now
from edgebench.shell.signals import Interrupted
from edgebench.shell.text import counted, printable

BACKOFF_CAP_S = 60.0
FIRST_CONTACT_TRIES = 3  # of a request, before a fault that is suspect is taken for the endpoint's own
FIRST_CONTACT_FAILURES = 6  # the same for faults that usually pass
COMES_IN_S = 5.0  # what is on its way has been paid for: waited for at the end
TOO_LONG_WORDS = "longer than the model's context"
CUT_CHARS_PER_TOKEN = 6.5  # English has about 4.5, other languages less: beyond this a prompt was cut
SMALLEST_CONTEXT = 256  # tokens; below, a count is a server's invention
CUT_AGAINST_OTHERS = 1.7  # times the characters per token of the run's other prompts
COUNTED = (
    "this endpoint gives no log probabilities ({why}):\n"
    "  verdicts are asked for in words and counted, as without --soft"
)

USED_UP, UNUSABLE = 3, 4  # codes of a stop: quota or limit used up; endpoint or journal unusable


@dataclass(frozen=True)
class Patience:
    """How much is borne. Seconds are those of the monotonic clock."""

    concurrency: int = 4
    max_attempts: int = 12  # failures until a request is given up
    backoff_s: float = 0.5  # the first wait, then doubled
    max_outage_s: float = 900.0  # stop after so long without any reply
    reasks: int = 2  # times to ask again after an unreadable reply
    budget: int | None = None  # HTTP requests


@dataclass(frozen=True)
class Prices:
    """Money per million tokens; None where it is not known."""

    per_million_in: float | None = None
    per_million_out: float | None = None

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """Money for so many tokens; None without a price."""
        if self.per_million_in is None and self.per_million_out is None:
            return None
        return (tokens_in * (self.per_million_in or 0.0) + tokens_out * (self.per_million_out or 0.0)) / 1e6


@dataclass
class Job:
    """A game on its way: the HTTP requests it has cost, and how many of them failed."""

    game: Game
    attempts: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Outcome:
    """How the asking ended. code 0: all answered, 1: some given up, 3, 4: stopped, 130, 143: by a signal."""

    code: int = 0
    reason: str = ""  # of a stop
    given_up: Counter[str] = field(default_factory=Counter)  # by reason
    given_up_keys: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


class Pool:
    """Workers, a heap of retries by the time they are due, and one gate that a limit closes for all."""

    def __init__(
        self,
        endpoint: Endpoint,
        journal: Journal,
        asking: Asking,
        patience: Patience,
        parse: Callable[[str, bool], str | None],
        prices: Prices | None = None,
    ) -> None:
        """`parse`: the verdict by slot that a reply states, or None, and whether the token limit cut it."""
        self.endpoint, self.journal, self.asking, self.patience = endpoint, journal, asking, patience
        self.parse, self.prices = parse, prices or Prices()
        self.fresh: deque[Job] = deque()
        self.retries: list[tuple[float, int, Job]] = []
        self.changed = threading.Condition()
        self.total = self.in_flight = self.requests = self.pushed = self.retried = self.answered = 0
        self.tokens: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()
        self.given_up_keys: set[str] = set()
        self.stopped: tuple[int, str] | None = None
        self.over = False  # what comes in now is too late
        self.broken: JournalError | None = None
        self.gate_s = 0.0  # monotonic seconds: no request before it
        self.limits = 0  # how often the gate was closed since the last reply
        self.silent_since_s: float | None = None  # first fault since the last reply
        self.refused = 0  # requests since the last reply
        self.refused_tasks: set[str] = set()  # tasks of prompts refused for their text, before any reply
        self.doubted = False  # a fault or a silent reply has come that may be so for every request
        self.silences = 0  # replies without text, before any with
        self.counted_said = False  # that verdicts are asked for in words
        self.soft_replies = 0  # replies with log probabilities
        self.wordless = 0  # of them those where none of the three words is likely, before any other
        self.sizes: list[tuple[int, int]] = []  # characters sent and tokens counted, of each reply

    # --- The run

    def ask_all(self, games: Sequence[Game]) -> Outcome:
        """Ask every game; the replies go into the journal. A signal ends it early, what is out comes in."""
        self.fresh.extend(map(Job, games))
        self.total = len(games)
        progress = Progress()
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.patience.concurrency)]
        try:
            for worker in workers:
                worker.start()
            while any(worker.is_alive() for worker in workers) and not self.stopped:
                time.sleep(0.02)
                progress.show(self)
        except Interrupted as caught:
            self.stop(
                caught.exit_code,
                "Ctrl-C" if caught.signum == signal.SIGINT else signal.Signals(caught.signum).name,
            )
        until_s = time.monotonic() + (0.5 if self.stopped and self.stopped[0] == UNUSABLE else COMES_IN_S)
        while self.in_flight and time.monotonic() < until_s:
            time.sleep(0.01)
        progress.show(self, last=True)
        self.over = True
        if self.broken:
            raise self.broken
        code, reason = self.stopped or (1 if self.given_up else 0, "")
        return Outcome(
            code, reason, self.given_up, frozenset(self.given_up_keys), tuple(cut_remarks(self.sizes))
        )

    def stop(self, code: int, reason: str) -> None:
        """End the run; the first reason counts."""
        with self.changed:
            self.stopped = self.stopped or (code, reason)
            self.changed.notify_all()

    def _work(self) -> None:
        while job := self._next_job():
            try:
                began_s = time.monotonic()
                body = request_body(job.game, self._asking_now())
                result, sent = self.endpoint.ask(body)
                job.attempts += 1
                if self.over:
                    return
                if isinstance(result, Reply):
                    told = {name: sent[name] for name in sent if name not in ("model", "messages", "stream")}
                    self._write_reply(job, result, told, round(time.monotonic() - began_s, 4))
                with self.changed:
                    if isinstance(result, Reply):
                        characters = sum(len(message["content"]) for message in body["messages"])
                        self._take_reply(job, result, characters, bool(sent.get("logprobs")))
                    else:
                        self._take_fault(job, result)
            except JournalError as problem:
                self.broken = self.broken or problem
                self.stop(UNUSABLE, str(problem))
            finally:
                with self.changed:
                    self.in_flight -= 1
                    self.changed.notify_all()

    def _next_job(self) -> Job | None:
        """The next job that may go out, waited for; due retries before fresh ones. None: it is over."""
        with self.changed:
            while not self.stopped:
                now = time.monotonic()
                due_s = self.retries[0][0] if self.retries else math.inf
                ready_s = max(self.gate_s, now if self._may_begin() else due_s)
                if ready_s <= now and not self._probing():
                    if self.patience.budget is not None and self.requests >= self.patience.budget:
                        allowed = counted(self.patience.budget, "request")
                        self.stop(USED_UP, f"{allowed} sent, no more are allowed today (--daily_limit)")
                        break
                    self.requests += 1
                    self.in_flight += 1
                    return heapq.heappop(self.retries)[2] if due_s <= now else self.fresh.popleft()
                if not (self.fresh or self.retries or self.in_flight):
                    self.changed.notify_all()
                    break
                # While one request probes, its end wakes the others.
                self.changed.wait(60.0 if self._probing() else min(ready_s - now, 60.0))
            return None

    def _probing(self) -> bool:
        """Whether a request is out to see if the endpoint answers at all: the others wait for its end."""
        return self.doubted and not self.endpoint.proven and self.in_flight > 0

    def _may_begin(self) -> bool:
        """Whether a fresh job may go out: on probation no more are open than there are workers."""
        is_open = self.in_flight + len(self.retries)
        return bool(self.fresh) and (self.endpoint.proven or is_open < self.patience.concurrency)

    def _asking_now(self) -> Asking:
        """How to ask: in words where the endpoint gives no log probabilities."""
        if self.asking.soft and not self.endpoint.dialect.gives_logprobs:
            return replace(self.asking, soft=False)
        return self.asking

    # --- What becomes of a job

    def _write_reply(self, job: Job, reply: Reply, params: dict[str, Any], duration_s: float) -> None:
        line = replace(
            journal_line(job.game, self.asking.model),
            raw_reply=reply.text,
            reply_model=reply.model,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            params=params,
            duration_s=duration_s,
            attempts=job.attempts,
            asked_at=utc_now(),
            logprobs=kept(reply.alternatives) if reply.alternatives and "logprobs" in params else None,
        )
        self.journal.append(read_line(line, self.parse))

    def _take_reply(self, job: Job, reply: Reply, characters: int, is_soft: bool) -> None:
        """A reply is in the journal. is_soft: one token was asked for. Called with the lock held."""
        self.silent_since_s, self.limits, self.refused = None, 0, 0
        self.tokens.update({"in": reply.prompt_tokens or 0, "out": reply.completion_tokens or 0})
        if reply.prompt_tokens:
            self.sizes.append((characters, reply.prompt_tokens))
        if is_soft:
            self._take_chances(reply)
        # Of one token's silence a judge that needs more is no cause.
        if reply.silence and not is_soft and not self.endpoint.proven:
            self.silences += 1
            self.doubted = True
            if self.silences >= self._a_few():
                self.stop(UNUSABLE, f"the first {self.silences} replies say nothing: {reply.silence}")
        if self.journal.lacking([job.game], self.patience.reasks):
            self.fresh.append(Job(job.game))  # unreadable: once more, when all others have been asked
        else:
            self.answered += 1

    def _take_chances(self, reply: Reply) -> None:
        """See whether verdicts by probability can be had here. Called with the lock held."""
        if reply.alternatives is None:
            if not self.soft_replies and self.endpoint.expect_no_logprobs():
                self._say_counted("its replies hold none")
            return
        self.soft_replies += 1
        if chances_of(reply.alternatives):
            self.wordless = -1  # it can
        elif self.wordless >= 0:
            self.wordless += 1
            if self.wordless >= self._a_few():
                likely = ", ".join(repr(printable(token)) for token, _ in reply.alternatives[:5])
                self.stop(
                    UNUSABLE,
                    f"the first {self.wordless} replies begin with none of A, B and Tie (likeliest:"
                    f" {likely}); leave --soft out, or take another --model",
                )

    def _say_counted(self, why: str) -> None:
        """Say once, and at once, that verdicts are counted: the run goes on."""
        if not self.counted_said:
            self.counted_said = True
            print(COUNTED.format(why=printable(why)), file=sys.stderr, flush=True)

    def _take_fault(self, job: Job, fault: Fault) -> None:
        """Decide what becomes of a job without a reply. Called with the lock held."""
        now = time.monotonic()
        kind = fault.kind
        if kind == "barred":
            kind = fault.later if self.endpoint.proven else "fatal"
        if kind in ("quota", "fatal"):
            self.stop(USED_UP if kind == "quota" else UNUSABLE, fault.reason)
        elif kind == "again":
            if self.asking.soft and not self.endpoint.dialect.gives_logprobs:
                self._say_counted(fault.reason)
            self._push(job, now)
        elif kind == "refused":
            self._refuse(job, fault)
        elif kind == "limit":
            self._wait(job, fault, now)
        else:
            self._retry(job, replace(fault, kind=kind), now)

    def _refuse(self, job: Job, fault: Fault) -> None:
        """Give a request up that the endpoint will not answer; end the run where it answers none."""
        self._give_up(job, fault)
        if fault.about_prompt:
            if not self.endpoint.proven:
                self.refused_tasks.add(job.game.comparison.task_id)
        else:
            self.refused += 1
        if max(self.refused, len(self.refused_tasks)) >= self._a_few():
            # A refusal of everything is no matter of one request: a wrong model name, say.
            self.stop(UNUSABLE, f"every request is refused: {fault.reason}")

    def _wait(self, job: Job, fault: Fault, now: float) -> None:
        """A limit: close the gate for all, for as long as is asked and for a growing backoff at least."""
        self.retried += 1
        if now >= self.gate_s:  # those that were out together are one limit
            self.limits += 1
        delay_s = max(fault.wait_s or 0.0, self._backoff_s(self.limits))
        self.gate_s = max(self.gate_s, now + delay_s)
        self._note_silence(fault, now, USED_UP)
        self._push(job, now + delay_s)

    def _retry(self, job: Job, fault: Fault, now: float) -> None:
        """A failure: once more later, unless it has failed too often or the endpoint is of no use."""
        self.retried += 1
        self.doubted = True
        job.failures += 1
        tries = FIRST_CONTACT_FAILURES if fault.kind == "retry" else FIRST_CONTACT_TRIES
        if not self.endpoint.proven and job.failures >= min(tries, self.patience.max_attempts):
            waited = (
                f"no answer for {now - (self.silent_since_s or now):.0f} s: " if fault.kind == "down" else ""
            )
            hint = "" if "--" in fault.reason or "NO_PROXY" in fault.reason else " (--api_url)"
            self.stop(UNUSABLE, f"{waited}{fault.reason}{hint}")
            return
        self._note_silence(fault, now, UNUSABLE)
        # An outage says nothing of the request: it is borne as long as --max_outage_s says.
        if fault.kind != "down" and job.failures >= self.patience.max_attempts:
            self._give_up(job, fault)
            return
        self._push(job, now + self._backoff_s(job.failures))

    def _note_silence(self, fault: Fault, now: float, code: int) -> None:
        """End the run where nothing has been answered for too long."""
        self.silent_since_s = now if self.silent_since_s is None else self.silent_since_s
        limit_s = self.patience.max_outage_s
        if now - self.silent_since_s > limit_s:
            self.stop(code, f"no answer for {limit_s:.0f} s: {fault.reason} (--api_url, --max_outage_s)")

    def _give_up(self, job: Job, fault: Fault) -> None:
        line = journal_line(job.game, self.asking.model)
        self.journal.append(replace(line, error=fault.reason, attempts=job.attempts, asked_at=utc_now()))
        self.given_up[TOO_LONG_WORDS if is_too_long(fault.reason) else fault.reason] += 1
        self.given_up_keys.add(job.game.key)

    def _push(self, job: Job, due_s: float) -> None:
        self.pushed += 1
        heapq.heappush(self.retries, (due_s, self.pushed, job))

    def _backoff_s(self, times: int) -> float:
        """The wait after so many failures in a row, with jitter: the workers must not come back as one."""
        grown_s = self.patience.backoff_s * 2.0 ** min(times - 1, 20)
        return min(BACKOFF_CAP_S, grown_s) * random.uniform(0.5, 1.0)

    def _a_few(self) -> int:
        return max(3, self.patience.concurrency)


def cut_remarks(sizes: Sequence[tuple[int, int]]) -> list[str]:
    """A warning where the endpoint counted far fewer tokens than were sent: it may have cut the prompt.

    `sizes`: characters sent and prompt tokens counted, of each reply. A prompt was cut where a token would
    hold more characters than in any language, or many more than in the run's other prompts; and where prompts
    of different length are all exactly as long as the longest is said to be.

    >>> cut_remarks([(4500, 1000), (9000, 2000)])
    []
    >>> cut_remarks([(4500, 1000), (30000, 2050)])[0][:33]
    'warning: 1 of 2 prompts may have '
    """
    believable = [(characters, tokens) for characters, tokens in sizes if tokens >= SMALLEST_CONTEXT]
    if not believable:
        return []
    usual = median(characters / tokens for characters, tokens in sizes)
    limit = min(CUT_CHARS_PER_TOKEN, CUT_AGAINST_OTHERS * usual)
    longest = max(tokens for _, tokens in sizes)
    at_the_end = [characters for characters, tokens in sizes if tokens == longest]
    capped_from = 1.3 * min(at_the_end)  # longer ones of as many tokens: the server stops counting there
    cut = [(c, t) for c, t in believable if c / t > limit or (t == longest and c > capped_from)]
    if not cut:
        return []
    characters, tokens = max(cut)
    return [
        f"warning: {len(cut)} of {counted(len(sizes), 'prompt')} may have been cut: the endpoint counted"
        f" {tokens:,} tokens where {characters:,} characters were sent; give the judge a larger context"
        " (Ollama: num_ctx)"
    ]


class Progress:
    """A bar with rate and ETA on a terminal, a line every 30 s in a log file; on stderr."""

    def __init__(self) -> None:
        """The clock starts now."""
        self.began_s = self.shown_s = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            with suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(unit="call", file=sys.stderr, dynamic_ncols=True)

    def show(self, pool: Pool, last: bool = False) -> None:
        """Bring the bar up to date, or write the line that is due."""
        done, now = pool.answered + pool.given_up.total(), time.monotonic()
        cost = pool.prices.cost(pool.tokens["in"], pool.tokens["out"])
        note = f"retries {pool.retried}" + ("" if cost is None else f", cost {cost:.2f}")
        note += f", told to wait {pool.gate_s - now:.0f} s" if pool.gate_s > now else ""
        if self.bar is not None:
            self.bar.total = pool.total
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
            if last:
                self.bar.close()
        elif last or now - self.shown_s > 30:
            self.shown_s = now
            rate = done / max(1e-9, now - self.began_s)
            eta = f", {(pool.total - done) / rate:.0f} s left" if rate and not last else ""
            print(f"answered {done}/{pool.total}, {rate:.1f} per s{eta}, {note}", file=sys.stderr)


def told(outcome: Outcome) -> list[str]:
    """What is to be said of how the asking ended, line by line."""
    lines = [f"given up: {count} ({printable(why)})" for why, count in outcome.given_up.most_common(5)]
    lines += outcome.remarks
    if outcome.code in (USED_UP, UNUSABLE):
        lines.append(f"error: {printable(outcome.reason)}")
    elif outcome.reason:
        lines.append(f"stopped by {outcome.reason}; every reply that came is in the journal")
    return lines
