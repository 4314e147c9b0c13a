#!/usr/bin/env python3
"""Is each run possible by itself? Physical limits and tests, one JSON line per run.

Joins the run records with the environment record of their campaign
(runs_llamacpp.jsonl -> runs_llamacpp.env.jsonl beside it, or --env) and prints
for each run, by its line in the runs file:

  decode_tok_per_s         decode rate after the first token; without a TTFT the
                           rate of the whole run, which is never higher
  decode_bound_tok_per_s   highest decode rate the memory bandwidth allows
  power_low_w, power_high_w              power this board's rail can show [W]
  joule_per_token_low, joule_per_token_high  gross energy per output token [J]
  tests  check, severity, fault (null: cannot tell) and a message that says what
         a fault means or why it cannot be told
  env    power mode, L4T, clocks, engine and model file of the run, or null

check_runs.py collects these lines, compares the runs with each other and prints
the verdicts. Failed runs and simulated power are not judged here.

Example:
  python companions/run_limits.py --runs results/runs_llamacpp.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
SIMULATED_SOURCES = ("replay", "simulated")
Record = Mapping[str, Any]


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def load_envs(path: Path | None, runs_path: Path) -> dict[str, dict[str, Any]]:
    """Environment records by env_id; {} when none stands beside the runs and none was asked for."""
    stem = runs_path.name.removesuffix(".gz").removesuffix(".jsonl")
    beside = path or runs_path.with_name(f"{stem}.env.jsonl")
    if path is None and not beside.exists():
        return {}
    return {str(env.get("env_id")): env for _, env in read_jsonl(beside) if env}


def section(env: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A part of a record; {} when it is missing or no object."""
    for key in keys:
        inner = env.get(key)
        env = inner if isinstance(inner, Mapping) else {}
    return env


def positive(value: Any) -> float:
    """A usable size, count or rate; 0.0 for anything else (missing, null, text, NaN, negative)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < float("inf") else 0.0


def env_of(record: Record, envs: Mapping[str, dict[str, Any]]) -> Mapping[str, Any]:
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
    return {
        "power mode": board.get("power_mode_name"),
        "L4T": board.get("l4t"),
        "locked clocks": board.get("clocks_locked"),
        "engine": section(env, "engine").get("version") or section(board, "engine").get("version"),
        f"file of {model}": section(env, "models", model).get("sha256"),
    }


def number(record: Record, name: str) -> float | None:
    """A finite number of a record; NaN, Infinity and true, which a JSON reader lets through, are none."""
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


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


def is_warm(record: Record, limit: Record) -> bool | None:
    """Every prompt token must have been computed inside the timed run."""
    asked, done = number(record, "prompt_tokens"), number(record, "prompt_tokens_evaluated")
    if "warm_cache" in flags(record):
        return True
    return None if asked is None or done is None else asked != done


def is_above_bound(record: Record, limit: Record) -> bool | None:
    rate, bound = limit["decode_tok_per_s"], limit["decode_bound_tok_per_s"]
    if rate is None or bound is None or (number(record, "completion_tokens") or 0) < 2:
        return None
    return bool(rate > bound)


def is_far_below_bound(record: Record, limit: Record) -> bool | None:
    # Without TTFT the rate counts the prefill too, so a low one proves nothing.
    timed = number(record, "ttft_ms") is not None or number(record, "decode_tok_per_s") is not None
    if is_above_bound(record, limit) is None or not timed:
        return None
    return bool(limit["decode_tok_per_s"] < FAR_BELOW_BOUND * limit["decode_bound_tok_per_s"])


def draws_wrong_power(record: Record, limit: Record) -> bool | None:
    power, low, high = number(record, "power_mw_mean"), limit["power_low_w"], limit["power_high_w"]
    return None if power is None or low is None else not low <= power / 1000 <= high


def takes_wrong_energy(record: Record, limit: Record) -> bool | None:
    """Gross J per output token against its range; net energy is below gross, so only the upper limit holds.

    Answers shorter than a quarter of the prompt are not judged: their energy is that of the prefill.
    """
    low, high = limit["joule_per_token_low"], limit["joule_per_token_high"]
    gross, net = number(record, "energy_gross_joule"), number(record, "energy_joule")
    tokens = number(record, "completion_tokens") or 0
    if low is None or (gross is None and net is None):
        return None
    if tokens < DECODE_TOKENS or tokens * PROMPT_SHARE < (number(record, "prompt_tokens") or 0):
        return None
    return bool((net or 0) / tokens > high) if gross is None else not low <= gross / tokens <= high


def is_negative(record: Record, limit: Record) -> bool | None:
    energy = number(record, "energy_joule")
    return None if energy is None else energy < -(number(record, "energy_uncertainty_joule") or 0)


def has_thin_power(record: Record, limit: Record) -> bool | None:
    gap, period = number(record, "power_max_gap_ms"), number(record, "power_period_ms")
    samples, coverage = number(record, "power_samples"), number(record, "power_coverage")
    tests = [] if gap is None or not period else [gap > GAP_PERIODS * period]
    tests += [] if samples is None else [samples < POWER_SAMPLES]
    tests += [] if coverage is None else [coverage < COVERAGE]
    return any(tests) if tests else None


def is_throttled(record: Record, limit: Record) -> bool | None:
    value = record.get("throttled")
    return value if isinstance(value, bool) else None


@dataclass(frozen=True)
class RunTest:
    check: str
    severity: str  # of a fault: error or warn
    of_power: bool  # not for simulated power
    ask: Callable[[Record, Record], bool | None]
    fault: str
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
        f"decode rate under {FAR_BELOW_BOUND:.0%} of the memory-bandwidth bound: a CPU-only build?",
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


def flags(record: Record) -> list[str]:
    value = record.get("flags")
    return list(map(str, value)) if isinstance(value, list) else []


def has_simulated_power(record: Record) -> bool:
    return "simulated_power" in flags(record) or record.get("power_source") in SIMULATED_SOURCES


def run_test(
    test: RunTest, record: Record, limit: Record, missing: Mapping[str, str | None]
) -> dict[str, Any]:
    """One entry of `tests`. A missing limit is named before a missing field."""
    answer = None
    if test.of_power and has_simulated_power(record):
        message = "the power is simulated, so it is not judged"
    elif test.of_power and number(record, "energy_joule") is number(record, "power_mw_mean") is None:
        message = "no measured power"
    else:
        answer = test.ask(record, limit)
        message = test.fault if answer else missing.get(test.check) or test.why_unknown
    return {"check": test.check, "severity": test.severity, "fault": answer, "message": message}


def limits(line: int, record: Record, envs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The output line of one run."""
    env = env_of(record, envs)
    bound, no_bound = decode_bound(record, env)
    watts = watt_range(record, env)
    no_watts = None if watts else "no power range is known for this board and rail"
    limit: dict[str, Any] = {
        "line": line,
        "decode_tok_per_s": decode_rate(record),
        "decode_bound_tok_per_s": bound,
        "power_low_w": watts[0] if watts else None,
        "power_high_w": watts[1] if watts else None,
        "joule_per_token_low": FLOOR_FACTOR * watts[0] / bound if watts and bound else None,
        "joule_per_token_high": CEILING_FACTOR * watts[1] / (SLOWEST_SHARE * bound)
        if watts and bound
        else None,
        "env": environment(record, env),
    }
    missing = {"decode rate, upper bound": no_bound, "decode rate, lower bound": no_bound}
    missing |= {"power": no_watts, "J per token": no_bound or no_watts}
    # A failed run is counted as such; its leftovers are no measurement.
    judged = TESTS if not record.get("error") else ()
    return {**limit, "tests": [run_test(test, record, limit, missing) for test in judged]}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, type=Path, metavar="JSONL", help="run records")
    parser.add_argument(
        "--env", type=Path, metavar="JSONL", help="environment records (default: beside the runs)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        envs = load_envs(args.env, args.runs)
        for line, record in read_jsonl(args.runs):
            if record:
                print(json.dumps(limits(line, record, envs)))
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        print(
            f"error: {getattr(problem, 'filename', None) or args.runs}: {reason}; see --runs, --env",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
