"""What is stated of an energy's uncertainty holds, on loads of many shapes, and is not uselessly wide."""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import subprocess
import sys
from array import array
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.power import energy
from edgebench.power.trace import PowerTrace
from tests.doors import call

ROOT = Path(__file__).resolve().parents[2]


def loaded(script: str) -> ModuleType:
    """A bench of tests/ as a module."""
    spec = importlib.util.spec_from_file_location(script, ROOT / f"tests/{script}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


bench = loaded("bench_energy_uncertainty")


@pytest.mark.parametrize("name", sorted(bench.SHAPES))
def test_the_stated_uncertainty_holds_and_is_no_wider_than_it_must_be(name: str) -> None:
    rng = random.Random(f"quick {name}")
    outcomes = [bench.measure(bench.SHAPES[name], rng) for _ in range(150)]
    least = 0.90 if name == "short_bursts" else 0.95  # faster than the samples: no reader can promise more
    assert min(bench.covered(outcomes)) >= least
    used = sorted(abs(one.gross_error_joule) / one.gross_stated_joule for one in outcomes)
    assert used[int(0.95 * len(used))] > 0.25  # what is stated is within four times what 95 % need
    assert all(one.gross_stated_joule > 0 for one in outcomes)


@pytest.mark.parametrize("lag_ms", [0, 16, 40, 64])
@pytest.mark.parametrize("period_ms", [20, 100, 171, 1000])
def test_a_program_on_an_idle_board_is_within_at_any_lag_and_pace(lag_ms: int, period_ms: int) -> None:
    """Nothing but times and powers is known: not the interval asked for, not the lag."""
    rng = random.Random(lag_ms * 10_000 + period_ms)
    within = []
    for _ in range(60):
        t0 = 10 + rng.random()
        t1 = t0 + rng.uniform(3, 30) * period_ms / 1000
        trace, read_s = PowerTrace(), 9 + rng.random() - 3 * period_ms / 1000
        trace.quantum_mw = 40.0
        while read_s < t1 + 2 * period_ms / 1000 + 0.1:
            trace.add(read_s + lag_ms / 1000, 15_000.0 if t0 <= read_s < t1 else 5000.0)
            read_s += period_ms / 1000
        window = trace.window(t0, t1, 5000.0)
        assert window.energy_joule is not None and window.energy_uncertainty_joule is not None
        within.append(abs(window.energy_joule - 10 * (t1 - t0)) <= window.energy_uncertainty_joule)
    assert statistics.fmean(within) >= 0.95


def steady(count: int = 40, step_at: int | None = None, quantum_mw: float | None = 40.0) -> PowerTrace:
    """Samples of 5 W every 0.1 s, of 15 W from step_at on."""
    trace = PowerTrace()
    trace.quantum_mw = quantum_mw
    trace.lag_s = 0.0
    for k in range(count):
        trace.add(k * 0.1, 15_000.0 if step_at is not None and k >= step_at else 5000.0)
    return trace


def test_a_step_inside_counts_as_one_at_the_edge_does() -> None:
    inside = steady(step_at=20).window(1.05, 3.05, None).energy_uncertainty_joule
    edge = steady(step_at=11).window(1.05, 3.05, None).energy_uncertainty_joule
    calm = steady().window(1.05, 3.05, None).energy_uncertainty_joule
    assert inside is not None and edge is not None and calm is not None
    assert inside - calm == pytest.approx(10 * 0.1 / 2) and edge == pytest.approx(inside)


def test_a_window_between_two_samples_does_not_claim_to_be_exact() -> None:
    """A load may have come and gone between them: nothing bounds that, and no number stands for it."""
    between = steady().window(1.02, 1.08, 5000.0)
    assert (between.power_samples, between.energy_uncertainty_joule) == (0, None)
    assert between.energy_gross_joule == pytest.approx(0.3) and "few_power_samples" in between.flags
    one = steady().window(1.02, 1.12, 5000.0).energy_uncertainty_joule
    assert one is not None and one >= 0.02 * 0.1


def test_an_unknown_quantum_is_not_taken_for_none() -> None:
    """A steady sensor that nobody knows: its step may be anything."""
    assert steady(quantum_mw=None).window(1.0, 3.0, None).energy_uncertainty_joule is None
    moved = steady(quantum_mw=None, step_at=39).window(1.0, 3.0, None).energy_uncertainty_joule
    assert moved == pytest.approx((1.0 * 2 + 2 * 1.0 * 0.1) / 2)  # at most 1 W, also at each edge


def test_what_the_lag_can_do_follows_the_pace() -> None:
    """The interval asked for is known: what the period is longer, a line may be late."""
    trace = steady(step_at=11)
    plain = trace.window(1.05, 3.05, None).energy_uncertainty_joule or 0
    trace.lag_s, trace.asked_interval_s = None, 0.08
    late = trace.window(1.05, 3.05, None).energy_uncertainty_joule or 0
    assert late - plain == pytest.approx(10 * 0.02)
    trace.asked_interval_s = None
    unknown = trace.window(1.05, 3.05, None).energy_uncertainty_joule or 0
    assert unknown - plain == pytest.approx(10 * energy.LONGEST_LAG_S)


def test_idle_power_is_part_of_the_uncertainty() -> None:
    trace = steady()
    known = trace.window(1.05, 3.05, 5000.0).energy_uncertainty_joule or 0
    assert trace.window(1.05, 3.05, 5000.0, 100.0).energy_uncertainty_joule == pytest.approx(known + 0.2)
    assert trace.window(1.05, 3.05, 5000.0, None).energy_uncertainty_joule is None


def test_a_gap_may_hide_all_that_the_samples_around_have_shown() -> None:
    """Two seconds without a sample in the middle of a load: it may have been idle."""
    trace = PowerTrace()
    trace.quantum_mw, trace.lag_s = 40.0, 0.0
    for k in range(60):
        if not 25 <= k < 45:
            trace.add(k * 0.1, 15_000.0 if 10 <= k < 55 else 5000.0)
    window = trace.window(0.55, 5.75, None)
    assert "power_gap" in window.flags and (window.energy_uncertainty_joule or 0) >= 10 * 2.0


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 50_000)), min_size=2, max_size=60))
@settings(deadline=None)
def test_many_steps_state_no_more_than_their_sum_and_no_less_than_the_largest(
    samples: list[tuple[float, float]],
) -> None:
    power_mw = [power for _, power in samples]
    interval_s = [seconds for seconds, _ in samples[1:]]
    changes_mw = [abs(after - before) for before, after in pairwise(power_mw)]
    steps_mj = [mw * seconds for mw, seconds in zip(changes_mw, interval_s, strict=True) if mw > 40]
    bound_mj = energy.step_bound_mj(power_mw, interval_s, 40.0)
    assert bound_mj <= sum(steps_mj) / 2 + 1e-6
    assert bound_mj >= max(steps_mj, default=0) / 2 - 1e-6


def test_a_bound_over_many_samples_needs_no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    power_mw = array("d", (5000.0 + 37 * (k * k % 101) for k in range(energy.MANY_SAMPLES + 1)))
    interval_s = array("d", [0.1]) * energy.MANY_SAMPLES
    with_numpy = energy.step_bound_mj(power_mw, interval_s, 40.0)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert energy.step_bound_mj(power_mw, interval_s, 40.0) == pytest.approx(with_numpy, rel=1e-9)


@pytest.mark.parametrize("quantum_mw", [40.0, 400.0])
@pytest.mark.parametrize("noise_mw", [0.0, 15.0, 100.0])
def test_a_baseline_is_known_to_what_it_says(quantum_mw: float, noise_mw: float) -> None:
    rng = random.Random(f"{quantum_mw} {noise_mw}")
    within = []
    for _ in range(120):
        idle_mw, trace = rng.uniform(3000, 7000), PowerTrace()
        trace.quantum_mw = quantum_mw
        for k in range(101):
            trace.add(k * 0.1, round((idle_mw + rng.gauss(0, noise_mw)) / quantum_mw) * quantum_mw)
        baseline = trace.baseline(0, 10)
        assert baseline.uncertainty_mw is not None
        within.append(abs(baseline.mean_mw - idle_mw) <= baseline.uncertainty_mw)
        assert baseline.uncertainty_mw <= quantum_mw / 2 + noise_mw
    assert statistics.fmean(within) >= 0.93


# --- Traces of odd shape


def integrate(path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return call("tegrastats_sampler.py", "integrate", path, *words)


def answer(path: Path, *words: object) -> Any:
    done = integrate(path, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trace_text(*parts: tuple[str, float], rows: int = 6) -> str:
    """Rows of each part after the other, a tenth of a second apart."""
    lines, number = ["t_s,power_mw,rail,scope,source,temp_c"], 0
    for origin, power_mw in parts:
        for _ in range(rows):
            lines.append(f"{100 + number * 0.1:.3f},{power_mw:.0f},{origin},40")
            number += 1
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("VDD_IN,module,tegrastats", "VIN,board,ina3221"),  # two scopes
        ("VDD_IN,module,tegrastats", "VDD_IN,module,replay"),  # measured, then played
        ("VDD_IN,module,tegrastats", "POM_5V_IN,module,tegrastats"),  # two rails
        ("VDD_IN,module,tegrastats", "VDD_IN,board,tegrastats"),
        ("VDD_IN,module,tegrastats", ",,"),
    ],
)
def test_a_window_over_two_kinds_of_power_is_refused(first: str, second: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(trace_text((first, 5000), (second, 15_000)))
    done = integrate(trace, "--idle_mw", 4000)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: ")
    assert "line 8" in done.stderr and "t_s 100.6" in done.stderr and "--t0 and --t1" in done.stderr
    assert first.split(",")[0] in done.stderr and (second.split(",")[0] or "no rail") in done.stderr
    assert answer(trace, "--t1", 100.5)["power_mw_mean"] == pytest.approx(5000)
    later = answer(trace, "--t0", 100.6)
    assert later["power_mw_mean"] == pytest.approx(15_000)
    assert ("simulated_power" in later["flags"]) == second.endswith("replay")
    assert integrate(trace, "--t1", 100.55).returncode == 1  # its last interval ends in the other kind


@pytest.mark.parametrize("tail", ["101.5", "100.6,", "100.6,50", "100.6,5000,VDD_IN,mod"])
def test_a_torn_last_row_is_left_out_and_said(tail: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(trace_text(("VDD_IN,module,tegrastats", 5000)) + tail)
    done = integrate(trace)
    assert done.returncode == 0 and json.loads(done.stdout)["t1"] == pytest.approx(100.5)
    assert f"{trace} line 8 is cut off" in done.stderr


def test_a_last_row_without_its_newline_is_used_where_its_power_is_whole(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(trace_text(("VDD_IN,module,tegrastats", 5000)) + "100.6,5000,VDD_IN,module,tegrastats,4")
    whole = answer(trace)
    assert whole["t1"] == pytest.approx(100.6) and whole["temp_max_c"] == 40.0  # not 4
    trace.write_text("t_s,power_mw\n1,5000\n2,5000\n3,50")
    assert answer(trace)["t1"] == 2.0
    trace.write_text("t_s,power_mw\n1,5000\n2,broken\n3,5000\n")
    assert integrate(trace).returncode == 1  # a row in the middle is no torn one


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_trace_redirected_by_powershell_is_read(encoding: str, newline: str, tmp_path: Path) -> None:
    text = trace_text(("VDD_IN,module,tegrastats", 5000)).replace("\n", newline)
    (tmp_path / "trace.csv").write_bytes(text.encode(encoding))
    assert answer(tmp_path / "trace.csv")["energy_gross_joule"] == pytest.approx(2.5)
