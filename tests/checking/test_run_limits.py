"""Limits and tests of single runs: hand-computed bounds, and the rule that missing data gives no verdict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.checking import limits as run_limits
from edgebench.checking import reading
from edgebench.errors import UserError

# gemma-2-2b Q6_K on an Orin Nano Super at 102.4 GB/s.
WEIGHTS, CACHE = 2_140_000_000, 106_496
ENV: dict[str, Any] = {
    "env_id": "e1",
    "board": {
        "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "memory_bandwidth_gb_per_s": 102.4, "power_mode_name": "MAXN_SUPER", "l4t": "36.4.3", "gpus": [],
    },
    "engine": {"version": "0.3.36"},
    "models": {"gemma": {"read_byte_per_token": WEIGHTS, "kv_byte_per_token": CACHE, "sha256": "ab"}},
}  # fmt: skip
RUN: dict[str, Any] = {
    "id": 1, "model_id": "gemma", "level": "L0", "env_id": "e1", "prompt_tokens": 100,
    "completion_tokens": 200, "prompt_tokens_evaluated": 100, "latency_ms": 10_000.0, "ttft_ms": 200.0,
    "decode_tok_per_s": 20.3, "energy_joule": 60.0, "energy_gross_joule": 110.0,
    "energy_uncertainty_joule": 1.0, "power_mw_mean": 11_000.0, "power_source": "tegrastats",
    "power_samples": 94, "power_period_ms": 106.0, "power_max_gap_ms": 140.0, "power_coverage": 1.0,
    "throttled": False, "flags": [], "error": None,
}  # fmt: skip


def limits(env: dict[str, Any] | None = ENV, **changes: Any) -> run_limits.Limits:
    return run_limits.limits_of({**RUN, **changes}, {"e1": env} if env else {})


def faults(env: dict[str, Any] | None = ENV, **changes: Any) -> dict[str, bool | None]:
    return {test.check: test.fault for test in limits(env, **changes).tests}


def test_the_bound_is_bandwidth_over_bytes_per_token() -> None:
    bound = limits().decode_bound_tok_per_s
    assert bound == pytest.approx(102.4e9 / (WEIGHTS + CACHE * 200))  # mean depth 100 + 200 / 2
    short = limits(prompt_tokens=0, completion_tokens=2).decode_bound_tok_per_s
    assert short == pytest.approx(47.8, abs=0.1)  # 102.4 GB/s over 2.14 GB


def test_a_sound_run_has_no_fault() -> None:
    assert set(faults().values()) == {False}


def test_range_of_joule_per_token_is_6_w_at_the_bound_to_25_w_at_a_fifth_of_it() -> None:
    found = limits(prompt_tokens=0, completion_tokens=0)
    assert found.joule_per_token_low == pytest.approx(6 / 47.85, rel=1e-3)
    assert found.joule_per_token_high == pytest.approx(25 / (0.2 * 47.85), rel=1e-3)


@pytest.mark.parametrize(
    ("offloaded", "words"),
    [("17/17", "all layers on the GPU"), ("0/17", "CPU-only"), (None, "CPU-only"), ("0/0", "CPU-only")],
)
def test_a_slow_decode_is_no_cpu_only_build_where_all_layers_are_on_the_gpu(
    offloaded: str | None, words: str
) -> None:
    tests = {test.check: test for test in limits(decode_tok_per_s=3.0, offloaded=offloaded).tests}
    assert tests["decode rate, lower bound"].fault and words in tests["decode rate, lower bound"].message


def test_a_small_model_on_a_large_card_may_take_more_for_a_token_than_at_a_fifth_of_the_bound() -> None:
    """An H200 at 3 % of the bound: 134 tokens in 111 ms took 17.1 J, of 770 W at most."""
    board = {"gpus": [{"power_limit_w": 700.0}], "memory_bandwidth_gb_per_s": 4814.3}
    models = {"gemma": {"read_byte_per_token": 116_438_016, "kv_byte_per_token": 36_864}}
    env = {**ENV, "board": board, "models": models}
    run = {
        "prompt_tokens": 200, "completion_tokens": 134, "latency_ms": 111.0, "ttft_ms": 5.3,
        "decode_tok_per_s": 1258.0, "power_source": "nvml", "power_mw_mean": 154_573.0,
        "energy_joule": 3.68, "energy_gross_joule": 17.12,
    }  # fmt: skip
    assert faults(env, **run, offloaded="13/13")["J per token"] is False
    assert faults(env, **run, offloaded="0/13")["J per token"] is True
    assert faults(env, **{**run, "energy_gross_joule": 171.2}, offloaded="13/13")["J per token"] is True


@pytest.mark.parametrize(
    ("check", "changes", "fault"),
    [
        ("cold prefill", {"prompt_tokens_evaluated": 20}, True),
        ("cold prefill", {"prompt_tokens_evaluated": None}, None),
        ("cold prefill", {"prompt_tokens_evaluated": None, "flags": ["warm_cache"]}, True),
        ("decode rate, upper bound", {"decode_tok_per_s": 229.0}, True),
        ("decode rate, upper bound", {"decode_tok_per_s": 47.5}, True),  # over the bound at this depth
        ("decode rate, upper bound", {"decode_tok_per_s": 47.3}, False),
        ("decode rate, upper bound", {"completion_tokens": 1}, None),
        ("decode rate, lower bound", {"decode_tok_per_s": 3.0}, True),
        ("decode rate, lower bound", {"decode_tok_per_s": 5.0}, False),
        ("power", {"power_mw_mean": 31_000}, True),
        ("power", {"power_mw_mean": 900}, True),
        ("power", {"power_mw_mean": None}, None),
        ("power", {"power_mw_mean": 31_000, "flags": ["simulated_power"]}, None),
        ("power", {"power_mw_mean": 31_000, "power_source": "replay"}, None),
        ("power", {"power_source": "rapl"}, None),
        ("J per token", {"energy_gross_joule": 1.2}, True),
        ("J per token", {"energy_gross_joule": 900.0}, True),
        ("J per token", {"energy_gross_joule": None, "energy_joule": 1.2}, False),  # net may be small
        ("J per token", {"energy_gross_joule": None, "energy_joule": 900.0}, True),
        ("J per token", {"completion_tokens": 20}, None),
        ("J per token", {"prompt_tokens": 2000, "prompt_tokens_evaluated": 2000}, None),
        ("energy sign", {"energy_joule": -1.5}, True),
        ("energy sign", {"energy_joule": -0.5}, False),
        ("power samples", {"power_samples": 3}, True),
        ("power samples", {"power_coverage": 0.5}, True),
        ("power samples", {"power_max_gap_ms": 500}, True),
        ("power samples", {"power_samples": None, "power_coverage": None, "power_max_gap_ms": None}, None),
        ("throttling", {"throttled": True}, True),
        ("throttling", {"throttled": None}, None),
    ],
)
def test_single_tests(check: str, changes: dict[str, Any], fault: bool | None) -> None:
    assert faults(**changes)[check] is fault


def test_the_decode_rate_of_a_record_without_one() -> None:
    assert run_limits.decode_rate({"completion_tokens": 101, "latency_ms": 6000, "ttft_ms": 1000}) == 20.0
    assert run_limits.decode_rate({"completion_tokens": 100, "latency_ms": 5000}) == 20.0
    assert run_limits.decode_rate({"completion_tokens": 0, "latency_ms": 5000}) is None
    # 420 tokens in 1.83 s is impossible on this board even with the prefill counted in.
    eight = {"model_id": "gemma", "prompt_tokens": 350, "completion_tokens": 420, "latency_ms": 1830.5}
    found = run_limits.limits_of(
        {**eight, "id": 1, "level": "L2", "energy_joule": 2.7, "output_text": ""}, {"e1": ENV}
    )
    assert {test.check for test in found.tests if test.fault} == {"decode rate, upper bound"}


def test_a_low_rate_with_the_prefill_in_it_proves_nothing() -> None:
    slow = {"decode_tok_per_s": None, "ttft_ms": None, "latency_ms": 200_000.0}
    assert faults(**slow)["decode rate, lower bound"] is None
    assert faults(**{**slow, "ttft_ms": 100.0})["decode rate, lower bound"] is True


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"board": {}}, "no memory bandwidth"),
        ({"models": {}}, "no read_byte_per_token"),
        ({"models": {"gemma": {"read_byte_per_token": 300_000}}}, "caches"),
        ({"models": None, "board": None}, "no memory bandwidth"),
    ],
)
def test_without_limits_there_is_no_verdict_but_a_reason(change: dict[str, Any], why: str) -> None:
    tests = {test.check: test for test in limits({**ENV, **change}).tests}
    upper = tests["decode rate, upper bound"]
    assert upper.fault is None and why in upper.message


def test_no_environment_at_all() -> None:
    found = limits(None)
    assert found.env is None and found.decode_bound_tok_per_s is None
    assert faults(None)["cold prefill"] is False  # needs no limit
    assert faults(None)["power"] is None and faults(None)["J per token"] is None


def test_of_several_environments_none_is_guessed() -> None:
    record = {key: value for key, value in RUN.items() if key != "env_id"}
    assert run_limits.env_of(record, {"e1": ENV}) is ENV
    assert run_limits.env_of(record, {"e1": ENV, "e2": ENV}) == {}
    assert run_limits.env_of({"env_id": "gone"}, {"e1": ENV}) == {}


def test_power_of_a_card_is_held_against_its_own_limit() -> None:
    board = {"board": "LENOVO", "gpus": [{"power_limit_w": 350.0}]}
    nvml = {"power_source": "nvml", "power_scope": "gpu"}
    assert faults({**ENV, "board": board}, **nvml, power_mw_mean=300_000)["power"] is False
    assert faults({**ENV, "board": board}, **nvml, power_mw_mean=390_000)["power"] is True
    assert faults({**ENV, "board": {"board": "LENOVO"}}, **nvml)["power"] is None


@pytest.mark.parametrize(
    ("board", "low", "high"),
    [("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 3, 50),
     ("Jetson AGX Orin Developer Kit", 4, 80),
     ("NVIDIA Jetson Xavier NX Developer Kit", 2, 30), ("NVIDIA Jetson Nano Developer Kit", 0.8, 15),
     ("NVIDIA Jetson AGX Thor Developer Kit", 8, 165), ("Jetson-AGX", 3, 65)],
)  # fmt: skip
def test_boards_are_told_apart(board: str, low: float, high: float) -> None:
    assert run_limits.watt_range({}, {"board": {"board": board}}) == (low, high)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(RUN)), JSON), st.dictionaries(st.sampled_from(list(ENV)), JSON))
def test_any_record_and_environment_is_survived(changes: dict[str, Any], env: dict[str, Any]) -> None:
    json.dumps(dataclasses.asdict(run_limits.limits_of({**RUN, **changes}, {"e1": {**ENV, **env}})))


def test_a_file_joins_by_line_and_skips_failed_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs.jsonl"
    failed = {**RUN, "error": {"type": "oom", "message": "killed"}}
    runs.write_text(json.dumps(RUN) + "\n\nno json\n" + json.dumps(failed) + "\n")
    (tmp_path / "runs.env.jsonl").write_text(json.dumps(ENV) + "\n")
    found = reading.read_runs_file(runs)
    first, second = found.runs
    assert (first.line, second.line) == (1, 4) and found.broken == [3]
    assert first.limits.decode_bound_tok_per_s > 40 and first.limits.env["power mode"] == "MAXN_SUPER"
    assert second.limits.tests == ()
    with pytest.raises(UserError, match=r"^/none: No such file"):
        reading.read_runs_file(runs, Path("/none"))
