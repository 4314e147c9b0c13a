"""Is each run possible by itself? Physical limits and tests of one record.

Owns what a single run can be held against: the rate that the memory bandwidth allows, the power that the
board's rail can show, and what a record says against itself. Runs are compared with each other in
verdicts.py. Failed runs and simulated power are not judged here. Rates in tokens per second, power in watt,
energy in joule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from edgebench.records.environment import ENGINE_CHOICES
from edgebench.records.run import SIMULATED_SOURCES, as_number, flags_of

# Weights that fit into a last-level cache are not read from memory for each token, and a model that small is
# bound by launch overhead: the bound says nothing about it.
MIN_READ_BYTE = 64_000_000
# Watts a board's input rail (or the sum of its rails) can show: a floor under any idle reading, and a ceiling
# over its strongest mode. The first name found in the board's model counts.
BOARD_WATTS = (
    ("agx thor", 8.0, 165.0),
    ("agx orin", 4.0, 80.0),
    ("orin nx", 3.0, 50.0),
    ("orin nano", 3.0, 30.0),
    ("xavier nx", 2.0, 30.0),
    ("agx xavier", 3.0, 65.0),
    ("jetson-agx", 3.0, 65.0),  # what an AGX Xavier calls itself on JetPack 4 and 5
    ("jetson nano", 0.8, 15.0),
)
CARD_FLOOR_W, CARD_OVERSHOOT = 3.0, 1.1  # a card passes its power limit for a moment
# J per token: twice the power floor at the bound, to 5/6 of the ceiling at a fifth of the bound. For an Orin
# Nano that is 6 W to 25 W; llama.cpp was measured at 33 to 54 percent of the bound there.
FLOOR_FACTOR, CEILING_FACTOR, SLOWEST_SHARE = 2.0, 5 / 6, 0.2
# A decode rate this far under the bound is what a CPU-only build gives.
FAR_BELOW_BOUND = 0.10
COVERAGE, POWER_SAMPLES, GAP_PERIODS = 0.90, 5, 3
DECODE_TOKENS, PROMPT_SHARE = 32, 4  # answers long enough that the prefill hides in J per token
Record = Mapping[str, Any]


@dataclass(frozen=True)
class TestAnswer:
    """What one test says of one run."""

    check: str
    severity: str  # of a fault: error or warn
    fault: bool | None  # None: cannot be told
    message: str  # what a fault means, or why it cannot be told


@dataclass(frozen=True)
class Limits:
    """What a run is held against, and how it stands it. None where it is not known."""

    decode_tok_per_s: float | None = None  # after the first token; without a TTFT of the whole run
    decode_bound_tok_per_s: float | None = None  # highest rate that the memory bandwidth allows
    power_low_w: float | None = None  # what this board's rail can show
    power_high_w: float | None = None
    joule_per_token_low: float | None = None  # gross energy per output token
    joule_per_token_high: float | None = None
    env: Mapping[str, Any] | None = None  # what must be equal for two runs to be comparable
    tests: tuple[TestAnswer, ...] = ()


def section(env: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A part of a record; {} when it is missing or no object."""
    for key in keys:
        inner = env.get(key)
        env = inner if isinstance(inner, Mapping) else {}
    return env


def positive(value: Any) -> float:
    """A usable size, count or rate; 0.0 for anything else (missing, null, text, NaN, negative)."""
    return float(value) if is_number(value) and value > 0 else 0.0


def env_of(record: Record, envs: Mapping[str, Record]) -> Mapping[str, Any]:
    """The run's environment; of several, one that the record does not name is not guessed."""
    if record.get("env_id") is None:
        return next(iter(envs.values())) if len(envs) == 1 else {}
    return envs.get(str(record["env_id"]), {})


def decode_bound(record: Record, env: Record) -> tuple[float | None, str | None]:
    """Highest possible decode rate [token/s], and why when it is unknown.

    Roofline (Williams, Waterman and Patterson 2009) at batch 1, where each token reads every weight and the
    cache so far once:  bound = bandwidth / (weight bytes per token + cache bytes per token x mean depth),
    with the mean depth = prompt tokens + half of the output tokens.

    >>> env = {"board": {"memory_bandwidth_gb_per_s": 100}, "models": {"m": {"read_byte_per_token": 2e9}}}
    >>> decode_bound({"model_id": "m"}, env)
    (50.0, None)
    """
    if not env:
        return None, "no environment record"
    bandwidth = positive(section(env, "board").get("memory_bandwidth_gb_per_s"))
    model = section(env, "models", str(record.get("model_id")))
    weights, cache = positive(model.get("read_byte_per_token")), positive(model.get("kv_byte_per_token"))
    if not bandwidth:
        return None, "the environment record has no memory bandwidth"
    if not weights:
        return None, "the environment record has no read_byte_per_token for the model"
    if weights < MIN_READ_BYTE:
        return None, "the model is so small that it stays in the processor's caches"
    # The cache grows by one token each step, so its mean is that of the middle of the answer.
    depth = positive(record.get("prompt_tokens")) + positive(record.get("completion_tokens")) / 2
    return bandwidth * 1e9 / (weights + cache * depth), None


def watt_range(record: Record, env: Record) -> tuple[float, float] | None:
    """Lowest and highest power [W] that the record's rail can show, or None where this is not known."""
    board, source = section(env, "board"), record.get("power_source")
    if source == "nvml":
        cards = [card for card in board.get("gpus") or [] if isinstance(card, Mapping)]
        limits = [limit for card in cards if (limit := positive(card.get("power_limit_w")))]
        return (CARD_FLOOR_W, CARD_OVERSHOOT * max(limits)) if limits else None
    # RAPL sees the processor package, whose limits the record does not hold.
    if source == "rapl" or record.get("power_scope") in ("package", "gpu"):
        return None
    name = str(board.get("board") or "").lower()
    return next(((low, high) for word, low, high in BOARD_WATTS if word in name), None)


def environment(record: Record, env: Record) -> dict[str, Any] | None:
    """What must be equal for two runs to be comparable."""
    if not env:
        return None
    board, model = section(env, "board"), str(record.get("model_id"))
    conditions = {
        "power mode": board.get("power_mode_name"),
        "L4T": board.get("l4t"),
        "locked clocks": board.get("clocks_locked"),
        "engine": section(env, "engine").get("version") or section(board, "engine").get("version"),
        f"file of {model}": section(env, "models", model).get("sha256"),
    }
    for name, choice in section(env, "resolved", model).items():
        told = ("; ".join(map(str, choice)) or "none") if isinstance(choice, list) else choice
        conditions[f"{ENGINE_CHOICES.get(name, name)} of {model}"] = told
    return conditions


def number(record: Record, name: str) -> float | None:
    """A number of a record, also one that is written as text, or None."""
    return as_number(record.get(name))


def is_number(value: Any) -> TypeGuard[float]:
    """A number that can be measured; NaN, Infinity and true, which a JSON reader lets through, are none."""
    return not isinstance(value, str) and as_number(value) is not None


def decode_rate(record: Record) -> float | None:
    """Tokens per second after the first: (n - 1) / (latency - TTFT), or n / latency where TTFT is missing."""
    stated, tokens = number(record, "decode_tok_per_s"), number(record, "completion_tokens")
    latency, ttft = number(record, "latency_ms"), number(record, "ttft_ms")
    if stated is not None or not tokens or not latency:
        return stated
    if ttft is None or tokens < 2 or latency <= ttft:
        return 1000 * tokens / latency
    return 1000 * (tokens - 1) / (latency - ttft)


# --- tests of one run: True is a fault, None cannot be told ---


def is_warm(record: Record, limit: Limits) -> bool | None:
    """Every prompt token must have been computed inside the timed run."""
    asked, done = number(record, "prompt_tokens"), number(record, "prompt_tokens_evaluated")
    if "warm_cache" in flags_of(record):
        return True
    return None if asked is None or done is None else asked != done


def share_of_bound(record: Record, limit: Limits) -> float | None:
    """The decode rate over its bound; None where one of them is not known, or there was nothing to decode."""
    rate, bound = limit.decode_tok_per_s, limit.decode_bound_tok_per_s
    if rate is None or not bound or (number(record, "completion_tokens") or 0) < 2:
        return None
    return rate / bound


def is_above_bound(record: Record, limit: Limits) -> bool | None:
    """Faster than the weights can be read from memory."""
    share = share_of_bound(record, limit)
    return None if share is None else share > 1


def is_far_below_bound(record: Record, limit: Limits) -> bool | None:
    """So slow that something else than the memory holds it up."""
    # Without TTFT the rate counts the prefill too, so a low one proves nothing.
    timed = number(record, "ttft_ms") is not None or number(record, "decode_tok_per_s") is not None
    share = share_of_bound(record, limit)
    return None if share is None or not timed else share < FAR_BELOW_BOUND


def draws_wrong_power(record: Record, limit: Limits) -> bool | None:
    """Mean power outside what the board's rail can show."""
    power_mw, low_w, high_w = number(record, "power_mw_mean"), limit.power_low_w, limit.power_high_w
    if power_mw is None or low_w is None or high_w is None:
        return None
    return not low_w <= power_mw / 1000 <= high_w


def takes_wrong_energy(record: Record, limit: Limits) -> bool | None:
    """Gross J per output token against its range; net energy is below gross, so only the upper limit holds.

    Answers shorter than a quarter of the prompt are not judged: their energy is that of the prefill.
    """
    low, high = limit.joule_per_token_low, limit.joule_per_token_high
    tokens = number(record, "completion_tokens") or 0
    if low is None or high is None:
        return None
    if tokens < DECODE_TOKENS or tokens * PROMPT_SHARE < (number(record, "prompt_tokens") or 0):
        return None
    gross_joule, net_joule = number(record, "energy_gross_joule"), number(record, "energy_joule")
    if gross_joule is not None:
        return not low <= gross_joule / tokens <= high
    return None if net_joule is None else net_joule / tokens > high


def is_negative(record: Record, limit: Limits) -> bool | None:
    """Less than idle power, beyond what is uncertain."""
    energy = number(record, "energy_joule")
    return None if energy is None else energy < -(number(record, "energy_uncertainty_joule") or 0)


def has_thin_power(record: Record, limit: Limits) -> bool | None:
    """Too few samples, or too far apart, to stand for the run."""
    gap, period = number(record, "power_max_gap_ms"), number(record, "power_period_ms")
    samples, coverage = number(record, "power_samples"), number(record, "power_coverage")
    tests = [] if gap is None or not period else [gap > GAP_PERIODS * period]
    tests += [] if samples is None else [samples < POWER_SAMPLES]
    tests += [] if coverage is None else [coverage < COVERAGE]
    return any(tests) if tests else None


def is_throttled(record: Record, limit: Limits) -> bool | None:
    """A throttle counter moved during the run."""
    value = record.get("throttled")
    return value if isinstance(value, bool) else None


def slowest_rate(record: Record, bound_tok_per_s: float) -> float:
    """The decode rate [token/s] at which a token may still take the board's highest power.

    A fifth of the bound; slower where all layers are on a GPU that the model is too small to fill.
    """
    slowest = SLOWEST_SHARE * bound_tok_per_s
    rate = decode_rate(record)
    return min(slowest, rate) if rate and is_all_offloaded(record) else slowest


def why_far_below(record: Record) -> str:
    """What a rate far under the bound suggests: the record says whether the layers were on the GPU."""
    under = f"decode rate under {FAR_BELOW_BOUND:.0%} of the memory-bandwidth bound"
    if is_all_offloaded(record):
        return f"{under} with all layers on the GPU: a model too small to fill it, or low clocks"
    return f"{under}: a CPU-only build?"


def is_all_offloaded(record: Record) -> bool:
    """Whether the engine put every layer on the GPU, as "17/17" says."""
    on_gpu, _, layers = str(record.get("offloaded") or "").partition("/")
    return on_gpu.isdigit() and on_gpu == layers and int(layers) > 0


@dataclass(frozen=True)
class RunTest:
    """A question to one run."""

    check: str
    severity: str  # of a fault: error or warn
    of_power: bool  # not for simulated power
    ask: Callable[[Record, Limits], bool | None]
    fault: str | Callable[[Record], str]  # what it means, or what it means of this run
    why_unknown: str


TESTS = (
    RunTest(
        "cold prefill", "error", False, is_warm,
        "cached prompt tokens were re-used, so TTFT and energy are too low",
        "the records have no prompt_tokens_evaluated",
    ),
    RunTest(
        "decode rate, upper bound", "error", False, is_above_bound,
        "decode rate above what the memory bandwidth allows: this cannot be",
        "the records have no decode rate",
    ),
    RunTest(
        "decode rate, lower bound", "warn", False, is_far_below_bound,
        why_far_below,
        "the records have neither ttft_ms nor decode_tok_per_s",
    ),
    RunTest(
        "power", "warn", True, draws_wrong_power,
        "mean power is not what this board draws: wrong rail or unit?",
        "the records have no power_mw_mean",
    ),
    RunTest(
        "J per token", "warn", True, takes_wrong_energy,
        "J per output token is outside the board's range for this model",
        "the answers are too short against their prompts, or have no energy",
    ),
    RunTest(
        "energy sign", "warn", True, is_negative,
        "net energy is negative beyond its uncertainty: the idle baseline was too high",
        "the records have no energy_joule",
    ),
    RunTest(
        "power samples", "warn", True, has_thin_power,
        f"coverage under {COVERAGE:.0%}, under {POWER_SAMPLES} samples, or a gap over {GAP_PERIODS} periods",
        "the records have no sample counts",
    ),
    RunTest(
        "throttling", "warn", False, is_throttled,
        "the board slowed itself down", "the records do not say",
    ),
)  # fmt: skip


def has_simulated_power(record: Record) -> bool:
    """The power was replayed or made up."""
    return "simulated_power" in flags_of(record) or record.get("power_source") in SIMULATED_SOURCES


def run_test(test: RunTest, record: Record, limit: Limits, missing: Mapping[str, str | None]) -> TestAnswer:
    """What the test says. A missing limit is named before a missing field."""
    answer = None
    if test.of_power and has_simulated_power(record):
        message = "the power is simulated, so it is not judged"
    elif test.of_power and number(record, "energy_joule") is number(record, "power_mw_mean") is None:
        message = "no measured power"
    else:
        answer = test.ask(record, limit)
        fault = test.fault if isinstance(test.fault, str) else test.fault(record)
        message = fault if answer else missing.get(test.check) or test.why_unknown
    return TestAnswer(test.check, test.severity, answer, message)


def limits_of(record: Record, envs: Mapping[str, Record]) -> Limits:
    """The limits of one run and its tests; `envs` by env_id."""
    env = env_of(record, envs)
    bound, no_bound = decode_bound(record, env)
    watts = watt_range(record, env)
    low_w, high_w = watts if watts is not None else (None, None)
    limit = Limits(
        decode_tok_per_s=decode_rate(record),
        decode_bound_tok_per_s=bound,
        power_low_w=low_w,
        power_high_w=high_w,
        joule_per_token_low=FLOOR_FACTOR * low_w / bound if low_w and bound else None,
        joule_per_token_high=CEILING_FACTOR * high_w / slowest_rate(record, bound)
        if high_w and bound
        else None,
        env=environment(record, env),
    )
    if record.get("error"):  # it is counted as failed; its leftovers are no measurement
        return limit
    no_watts = None if watts else "no power range is known for this board and rail"
    missing = {
        "decode rate, upper bound": no_bound,
        "decode rate, lower bound": no_bound,
        "power": no_watts,
        "J per token": no_bound or no_watts,
    }
    return replace(limit, tests=tuple(run_test(test, record, limit, missing) for test in TESTS))
