"""The run record: one line of the collector's output, and the one rule which runs count.

A reader takes a record of any age: unknown fields are ignored, and a record that has only the REQUIRED names
is read. The task's number stands under id, question_id or task_id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

Json = Mapping[str, Any]
IDENTITY = ("id", "question_id", "task_id")  # names of the task, by the age and the origin of a file
REQUIRED = (
    "id",
    "model_id",
    "level",
    "prompt_tokens",
    "completion_tokens",
    "latency_ms",
    "energy_joule",
    "output_text",
)
# Why a flagged run may not count: no mean holds it, no judge reads it. Every other flag is a remark.
HARD_FLAG_MEANINGS = {
    "warm_cache": "part of the prompt came from the cache, so time and energy are too low",
    "prompt_not_evaluated": "the engine did not compute exactly the tokens of the prompt",
    "token_mismatch": "the token counts contradict the engine's own",
    "implausible_rate": "faster than the memory of the board allows",
    "timeout": "stopped before the answer ended",
    "interrupted": "stopped before the answer ended",
}
HARD_FLAGS = frozenset(HARD_FLAG_MEANINGS)
# Values of power_source that measure nothing. A tuple: a stranger's value may not be hashable.
SIMULATED_SOURCES = ("replay", "simulated")
# Beyond it a number is no measurement of anything here, and the squares that statistics take would overflow.
BEYOND_MEASURE = 1e30
# What a window of the power trace gives a record, under the same names (power/energy.py).
WINDOW_FIELDS = (
    "energy_joule",
    "energy_gross_joule",
    "energy_uncertainty_joule",
    "power_mw_mean",
    "power_mw_max",
    "power_samples",
    "power_period_ms",
    "power_max_gap_ms",
    "power_coverage",
)


# Record format history:
# 1 - first.
@dataclass
class RunRecord:
    """One run, one line of the output. Missing is None, with a word in flags or a message in error."""

    # --- identity ---
    schema_version: int = 1  # 1
    run_key: str = ""  # hash of everything that defines the run
    id: int | str = ""  # the task; readers take question_id and task_id, too
    category: str | None = None  # of the task: writing, roleplay, ...
    model_id: str = ""  # file stem without its quantization
    quantization: str | None = None  # from the file's name, else from its header: Q6_K
    level: str = ""  # column of the prompts file: L0, L1, L2, L3, P
    turn: int = 1  # of the conversation
    repeat: int = 1  # of the same run, from 1
    started_at: str = ""  # RFC 3339, UTC; a label, never used to compute
    env_id: str = ""  # line of OUT.env.jsonl
    # --- request ---
    prompt_sha256: str = ""  # of the user's text
    prompt_ids_sha256: str | None = None  # of the token ids that the model read, little-endian 32-bit
    prompt_format: str = "chat"  # chat (the model's own template) or raw
    thinking: bool = False  # whether a reasoning model was told to think
    temperature: float = 0.0  # 0 takes the likeliest token
    seed: int = 0  # of the sampler, above temperature 0
    max_tokens: int = 0  # the answer was cut there at the latest
    n_ctx: int | None = None  # tokens of context the model was loaded with
    n_gpu_layers: int = -1  # as asked for; -1 is all
    offloaded: str | None = None  # layers the engine put on the GPU, as it logs them: "27/27"
    # --- tokens ---
    prompt_tokens: int | None = None  # the template's own included
    prompt_tokens_evaluated: int | None = None  # computed by the engine in this run: equal, or the run failed
    completion_tokens: int | None = None  # reasoning included, end of sequence not
    reasoning_tokens: int | None = None  # those between the marks of thinking
    reasoning_open: bool | None = None  # the answer ended while still thinking
    finish_reason: str | None = None  # stop or length
    # --- time ---
    t0_s: float | None = None  # monotonic seconds, as in the power trace: first prompt batch handed over
    first_token_s: float | None = None  # first id sampled
    t1_s: float | None = None  # last id sampled
    latency_ms: float | None = None  # t1 - t0
    ttft_ms: float | None = None  # first token - t0
    tpot_ms: float | None = None  # (latency - ttft) / (completion_tokens - 1)
    prefill_tok_per_s: float | None = None  # prompt_tokens / ttft
    decode_tok_per_s: float | None = None  # decode steps / time after the first token
    load_ms: float | None = None  # of the model's process
    overhead_ratio: float | None = None  # 1 - engine time / latency
    # --- energy ---
    energy_joule: float | None = None  # net of idle, may be negative
    energy_gross_joule: float | None = None  # idle included
    idle_mw: float | None = None  # idle power that was subtracted, with the model resident
    idle_std_mw: float | None = None  # standard deviation of the idle samples
    # Idle power after the run's block minus before, where beyond its noise.
    idle_drift_mw: float | None = None
    energy_uncertainty_joule: float | None = None  # of energy_joule, either way; or null
    energy_prefill_joule: float | None = None  # of energy_joule, the part until the first token
    energy_decode_joule: float | None = None  # and the part after it
    energy_phase_method: str | None = None  # integrated or block
    joule_per_output_token: float | None = None  # energy_joule / completion_tokens
    energy_missing: str | None = None  # why energy_joule is null
    # --- power ---
    power_source: str = "none"  # tegrastats, ina3221, nvml, rapl, feed, simulated, replay, none
    power_rail: str | None = None  # the rail, or the rails that were added
    power_scope: str | None = None  # board, module, package or gpu
    power_mw_mean: float | None = None  # over the run, idle included
    power_mw_max: float | None = None  # of the samples in the run
    power_samples: int | None = None  # in the run
    power_period_ms: float | None = None  # between two samples, median
    power_max_gap_ms: float | None = None  # the longest time without a sample
    power_coverage: float | None = None  # share of the run with no gap over three periods, 0 to 1
    # --- board ---
    temp_start_c: float | None = None  # hottest zone just before
    temp_max_c: float | None = None  # hottest zone during the run
    throttled: bool | None = None  # did a throttle counter move during the run
    board_start: dict[str, Any] | None = None  # clocks, temperature, counters just before
    board_end: dict[str, Any] | None = None  # and just after
    # --- outcome ---
    flags: list[str] = field(default_factory=list)  # remarks, and reasons why no mean holds the run
    error: dict[str, str] | None = None  # {type, message} of a failed run
    output_text: str | None = None  # the answer, thinking split off
    reasoning_text: str | None = None  # the thinking


# Fields that hold a number, by their annotation: "float | None", "int".
NUMBER_FIELDS = frozenset(
    one.name for one in fields(RunRecord) if set(str(one.type).split(" | ")) <= {"int", "float", "None"}
)


def run_from_dict(record: Json) -> RunRecord:
    """A record as it stands in a file. Unknown fields are ignored, absent ones have their defaults.

    A required name that is absent stays at its default, too: the caller decides what a record without it is
    worth.
    """
    known = {one.name for one in fields(RunRecord)}
    given = {name: value for name, value in record.items() if name in known}
    task = task_of(record)
    if task is not None:
        given["id"] = task
    given["flags"] = flags_of(record)
    return RunRecord(**given)


def task_id(value: Any) -> int | str | None:
    """One name for one task, however a program has written it: 81, "81", 81.0 and "81.0" are the task 81.

    pandas makes 81.0 of a column of numbers in which one is missing, a CSV makes text of any. None for what
    names nothing: null, blanks, NaN.

    >>> task_id(81), task_id(" 81 "), task_id(81.0), task_id("81.0"), task_id("081"), task_id("q7")
    (81, 81, 81, 81, '081', 'q7')
    >>> task_id(None), task_id(" "), task_id(float("nan"))
    (None, None, None)
    """
    if value is None or value != value:
        return None
    text = str(value).strip()
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.0+)?", text):
        return int(text.partition(".")[0])
    return text or None


def task_of(record: Json) -> int | str | None:
    """The task of a record, under any of its three names, as `task_id` writes it; None without one.

    >>> task_of({"question_id": "81", "task_id": "no"}), task_of({"id": "", "task_id": "q7"}), task_of({})
    (81, 'q7', None)
    """
    found = (task_id(record.get(name)) for name in IDENTITY)
    return next((task for task in found if task is not None), None)


def as_number(value: Any) -> float | None:
    """A number, also one that a program wrote as text; None for what is none: NaN, infinities, 1e171.

    >>> as_number(12), as_number("1028.46"), as_number(" 3 "), as_number("1e3")
    (12.0, 1028.46, 3.0, 1000.0)
    >>> as_number("ERROR"), as_number(True), as_number(float("nan")), as_number("inf"), as_number(10**400)
    (None, None, None, None, None)
    """
    if type(value) is float:  # nearly always; a million runs have ten million numbers
        return value if abs(value) <= BEYOND_MEASURE else None  # nor NaN
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= BEYOND_MEASURE else None


def flags_of(record: Json) -> list[str]:
    """The flags of a record of any age: a list, one word, or nothing."""
    found = record.get("flags") or []
    return [str(flag) for flag in (found if isinstance(found, list) else [found])]


def all_flags_of(record: Json) -> list[str]:
    """The flags of a record, and those that follow from its other fields: files older than a flag lack it."""
    flags = flags_of(record)
    if record.get("power_source") in SIMULATED_SOURCES and "simulated_power" not in flags:
        flags.append("simulated_power")
    if not was_evaluated(record) and HARD_FLAGS.isdisjoint(flags):
        flags.append("prompt_not_evaluated")
    return flags


def was_evaluated(record: Json) -> bool:
    """Whether the engine computed exactly the tokens of the prompt, as far as the record says."""
    done = record.get("prompt_tokens_evaluated")
    number = as_number(done)
    return done is None or (number is not None and number == as_number(record.get("prompt_tokens")))


def campaign_seconds(
    stamps_s: Sequence[float | None], latencies_ms: Sequence[float | None]
) -> list[float | None]:
    """Seconds into the campaign of runs in the order of their file, from t0_s and latency_ms.

    The wall clock (started_at) says nothing of time: a time server sets it back in the middle of a campaign.
    The collector appends, so the file's order is that of time. Where the monotonic clock goes back, the board
    was booted anew, and time goes on from where it stood; how long the board was off is not known. Unless the
    file was sorted by something else: then the stamps, of one boot, are right as they are. A run without a
    stamp (it failed before it began) has no time.

    >>> campaign_seconds([10.0, 30.0, None, 5.0, 9.0], [1000.0] * 5)
    [0.0, 20.0, None, 20.0, 24.0]
    """
    known = [
        (stamp_s, (latency_ms or 0.0) / 1000)
        for stamp_s, latency_ms in zip(stamps_s, latencies_ms, strict=True)
        if stamp_s is not None
    ]
    if was_sorted(known):
        first_s = min(stamp_s for stamp_s, _ in known)
        return [None if stamp_s is None else stamp_s - first_s for stamp_s in stamps_s]
    seconds: list[float | None] = []
    before_s, gone_s = known[0][0] if known else 0.0, 0.0
    for stamp_s in stamps_s:
        if stamp_s is None:
            seconds.append(None)
            continue
        gone_s += max(0.0, stamp_s - before_s)
        before_s = stamp_s
        seconds.append(gone_s)
    return seconds


def was_sorted(runs: Sequence[tuple[float, float]]) -> bool:
    """Whether runs of one boot, each (start, length) in seconds, do not stand in the order of time.

    The stretches between the places where the clock goes back overlap then, as those of two boots may, too.
    But on one boot no run begins before the one before it has ended; those of two boots fall on each other.
    """
    stretches: list[list[float]] = []
    for start_s, _ in runs:
        if not stretches or start_s < stretches[-1][1]:
            stretches.append([start_s, start_s])
        stretches[-1][1] = start_s
    apart = all(before[1] < after[0] for before, after in pairwise(sorted(stretches)))
    in_turn = all(before[0] + before[1] <= after[0] for before, after in pairwise(sorted(runs)))
    return in_turn and not apart


def why_left_out(error: Any, flags: Sequence[str]) -> str | None:
    """Why no mean may hold a run with this error and these flags, or None.

    >>> why_left_out({"type": "timeout", "message": "no answer within 900 s"}, [])
    'error: no answer within 900 s'
    >>> why_left_out(None, ["truncated_output", "warm_cache"]), why_left_out(None, ["truncated_output"])
    ('flag: warm_cache', None)
    """
    if error:
        named = (error.get("message") or error.get("type") or "unnamed") if isinstance(error, dict) else error
        return f"error: {named}"
    hard = [flag for flag in flags if flag in HARD_FLAGS]
    return f"flag: {', '.join(hard)}" if hard else None


def counts(record: Json) -> bool:
    """Whether a run may stand in means: no error, and no flag that says its numbers are not its own."""
    return why_left_out(record.get("error"), all_flags_of(record)) is None
