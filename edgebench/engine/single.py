"""One answer at a time: a cold prompt, a timed generation, and the proofs that it was both.

Runs in the engine's process. What the clock sees stands in `timed_run`; everything else (ids, text, the
board's sensors) happens before it starts or after it has stopped.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from edgebench.board.sysfs import read_text
from edgebench.board.thermal import read_hottest_c
from edgebench.engine.binding import LOG, Chooser, Context
from edgebench.engine.protocol import (
    NOT_COLD,
    REFUSED,
    WARM_CACHE,
    BoardState,
    EngineFailure,
    Failure,
    Generation,
    PrefillBlock,
    Prompt,
    Sampling,
)
from edgebench.engine.reading import read_prompt
from edgebench.engine.template import ReadPrompt, ids_sha256
from edgebench.prompts.thinking import ReasonedTokens, split_pieces

SYSFS = Path("/sys")
clock = time.monotonic


@dataclass
class TimedRun:
    """What came out of one generation, and when."""

    ids: list[int]  # end of sequence not
    t0_s: float
    first_token_s: float
    t1_s: float
    decode_steps: int
    finish_reason: str  # stop, length


# ---------------------------------------------------------------------------
# A run


def run(context: Context, prompt: Prompt, sampling: Sampling) -> Generation:
    """One cold, timed generation. EngineFailure where there is none, or what came out is no language."""
    context.check_it_generates()
    read = read_prompt(context.model, prompt)
    check_it_fits(context, read, sampling.max_tokens)
    before = board_state()
    done = timed_run(context, read.ids, sampling)
    after = board_state()
    counters = llama_cpp.llama_perf_context(context.handle)
    said = split_pieces(context.model.pieces(done.ids), read.thinking_open)
    error = why_not_cold(context, done, len(read.ids), counters.n_p_eval)
    return Generation(
        prompt_tokens=len(read.ids),
        # The counter never reports less than 1, and a prompt of one token is counted as decoding.
        prompt_tokens_evaluated=counters.n_p_eval,
        prompt_ids_sha256=ids_sha256(read.ids),
        completion_tokens=len(done.ids),
        finish_reason=done.finish_reason,
        t0_s=done.t0_s,
        first_token_s=done.first_token_s,
        t1_s=done.t1_s,
        **vars(rates_of(done, len(read.ids), counters.t_p_eval_ms + counters.t_eval_ms)),
        temp_start_c=before.temp_c,
        temp_max_c=max((one.temp_c for one in (before, after) if one.temp_c is not None), default=None),
        throttled=was_throttled(before, after),
        board_start=before,
        board_end=after,
        output_text=said.answer,
        reasoning_text=said.reasoning,
        reasoning_tokens=said.reasoning_tokens,
        reasoning_open=said.still_open,
        flags=(
            *prompt_flags(read, prompt, said),
            *outcome_flags(done, said, error, was_throttled(before, after)),
        ),
        error=error,
    )


def check_it_fits(context: Context, read: ReadPrompt, max_tokens: int) -> None:
    """EngineFailure for a prompt that is empty, or too long for the context together with its answer."""
    if not read.ids:
        raise EngineFailure(REFUSED, "the prompt is empty")
    if len(read.ids) + max_tokens > context.n_ctx:
        raise EngineFailure(
            REFUSED,
            f"prompt of {len(read.ids)} tokens + max_tokens {max_tokens} exceed the context of"
            f" {context.n_ctx}; lower --max_tokens or raise --n_ctx",
        )


def timed_run(context: Context, ids: Sequence[int], sampling: Sampling) -> TimedRun:
    """Decode a prompt and its answer from an empty cache.

    The clock starts before the first batch of the prompt and stops when the last id is chosen. Inside the
    loop there are two engine calls, the look for the highest logit, and one timestamp; text is made
    afterwards, because turning all ids into text at every token is quadratic work.
    """
    decode, is_end = llama_cpp.llama_decode, llama_cpp.llama_vocab_is_eog
    handle, vocab = context.handle, context.model.vocab
    prompt = (llama_cpp.llama_token * len(ids))(*ids)
    one = (llama_cpp.llama_token * 1)()
    batch = llama_cpp.llama_batch_get_one(ctypes.cast(one, llama_cpp.llama_token_p), 1)
    out: list[int] = []
    stamps_s: list[float] = []
    limit, finish, status = sampling.max_tokens, "length", 0
    chooser = Chooser(context, sampling.temperature, sampling.seed)
    take = chooser.take
    try:
        context.start_cold()
        t0_s = clock()
        prefill(context, prompt, len(ids))
        while True:
            token = take()  # waits for the device: the stamp is of a finished token
            stamps_s.append(clock())
            if is_end(vocab, token):
                finish = "stop"
                break
            out.append(token)
            if len(out) >= limit:
                break
            one[0] = token
            status = decode(handle, batch)
            if status:
                break
        if status:
            raise EngineFailure(
                REFUSED, f"the engine's decode returned {status} after {len(out)} tokens: {LOG.reason()}"
            )
        chooser.watch.check_it_moved()
    finally:
        chooser.close()
    return TimedRun(out, t0_s, stamps_s[0], stamps_s[-1], len(stamps_s) - 1, finish)


def prefill(context: Context, ids: Any, count: int) -> None:
    """Decode the prompt in batches; the engine queues them and only choosing waits for the result."""
    size = context.n_batch
    for start in range(0, count, size):
        length = min(size, count - start)
        tokens = ctypes.cast(
            ctypes.byref(ids, start * ctypes.sizeof(ctypes.c_int32)), llama_cpp.llama_token_p
        )
        status = llama_cpp.llama_decode(context.handle, llama_cpp.llama_batch_get_one(tokens, length))
        if status:
            raise EngineFailure(
                REFUSED, f"the engine's decode returned {status} in the prompt: {LOG.reason()}"
            )


def why_not_cold(context: Context, done: TimedRun, prompt_tokens: int, computed: int) -> Failure | None:
    """Why a run was not computed from scratch: the engine's counter, and the cache's own positions."""
    if computed != prompt_tokens:
        return Failure(
            WARM_CACHE, f"the engine computed {computed} of {prompt_tokens} prompt tokens in the timed run"
        )
    # Each step after the first id decoded one token more.
    doubt = context.doubt_of_cold(prompt_tokens + done.decode_steps)
    return Failure(NOT_COLD, doubt) if doubt else None


@dataclass
class Rates:
    """Times and rates of a finished run; None where too few tokens tell."""

    latency_ms: float
    ttft_ms: float
    tpot_ms: float | None
    prefill_tok_per_s: float
    decode_tok_per_s: float | None
    overhead_ratio: float


def rates_of(done: TimedRun, prompt_tokens: int, engine_ms: float) -> Rates:
    """What the stamps say; `engine_ms` by the engine's own counters."""
    latency_ms = (done.t1_s - done.t0_s) * 1000
    ttft_ms = (done.first_token_s - done.t0_s) * 1000
    steps, tokens = done.decode_steps, len(done.ids)
    return Rates(
        latency_ms=latency_ms,
        ttft_ms=ttft_ms,
        tpot_ms=(latency_ms - ttft_ms) / (tokens - 1) if tokens > 1 else None,
        prefill_tok_per_s=prompt_tokens / ttft_ms * 1000,
        # Steps, not tokens: the one that chose the end of sequence took its time too.
        decode_tok_per_s=steps / (latency_ms - ttft_ms) * 1000 if steps else None,
        overhead_ratio=1 - engine_ms / latency_ms,
    )


def prompt_flags(read: ReadPrompt, prompt: Prompt, said: ReasonedTokens) -> tuple[str, ...]:
    """What must be known of the prompt. Only the answer tells that thinking could not be switched off."""
    thought_unasked = said.reasoning_tokens > 0 and not prompt.thinking and not read.has_thinking_switch
    unheard = ("thinking_switch_missing",) if thought_unasked else ()
    return tuple(dict.fromkeys((*read.flags, *unheard)))


def outcome_flags(
    done: TimedRun, said: ReasonedTokens, error: Failure | None, throttled: bool | None
) -> list[str]:
    """Short words for what a reader of the record must know."""
    cut = done.finish_reason == "length"
    words = {
        "warm_cache": error is not None and error.kind in (WARM_CACHE, NOT_COLD),
        "truncated_output": cut,
        "cut_in_thinking": cut and said.still_open,
        "empty_output": not said.answer.strip(),
        "throttled": throttled is True,
    }
    return [word for word, holds in words.items() if holds]


def prefill_block(context: Context, prompt: Prompt, seconds: float) -> PrefillBlock:
    """The same cold prefill again and again for at least `seconds`: long enough for a slow power sensor."""
    context.check_it_generates()
    read = read_prompt(context.model, prompt)
    check_it_fits(context, read, max_tokens=0)
    ids = (llama_cpp.llama_token * len(read.ids))(*read.ids)
    count = 0
    t0_s = t1_s = clock()
    while t1_s - t0_s < seconds:
        context.start_cold()
        prefill(context, ids, len(read.ids))
        llama_cpp.llama_synchronize(context.handle)
        count += 1
        t1_s = clock()
    return PrefillBlock(t0_s, t1_s, count, len(read.ids))


# ---------------------------------------------------------------------------
# The board around a run, read from sysfs: a tool of its own would cost more than it tells


def board_state(sysfs: Path = SYSFS) -> BoardState:
    """Hottest zone, clocks, throttle events so far; None where this machine has no such file."""
    # Over-current events of a Jetson's power monitor; thermal throttling of a PC's package.
    package = "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    events = read_numbers(sysfs, "class/hwmon/hwmon*/oc*_event_cnt", package)
    return BoardState(
        temp_c=read_hottest_c(sysfs),
        cpu_khz=max(read_numbers(sysfs, "devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"), default=None),
        # 17000000.gpu on Orin, .ga10b on JetPack 5; gv11b, gp10b, gm20b before it; gpu-gpc-0 on Thor.
        gpu_hz=max(read_numbers(sysfs, "class/devfreq/*g[pvma][u120]*/cur_freq"), default=None),
        throttle_events=sum(events) if events else None,
    )


def read_numbers(sysfs: Path, *patterns: str) -> list[int]:
    """Numbers in the files below `sysfs` that match."""
    texts = [read_text(path) for pattern in patterns for path in sorted(sysfs.glob(pattern))]
    return [int(text) for text in texts if re.fullmatch(r"-?\d+", text)]


def was_throttled(before: BoardState, after: BoardState) -> bool | None:
    """Whether a throttle counter moved; None where the machine has none."""
    if before.throttle_events is None or after.throttle_events is None:
        return None
    return after.throttle_events > before.throttle_events
