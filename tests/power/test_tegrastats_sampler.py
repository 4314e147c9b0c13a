"""Power lines of every board, energy against closed forms, a feed that fails as a real one does."""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tegrastats_sampler as power
from tests.doors import call
from tests.waiting import is_gone, wait_for

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tegrastats_sampler.py"
FAKE = ROOT / "tests/fakes/tegrastats"
CORPUS = ROOT.parent / "shared/data/tegrastats"
GOLDEN = [json.loads(line) for line in (ROOT / "tests/golden/tegrastats_lines.jsonl").open()]
QUICK = "sh -c 'while :; do echo VDD_IN 5000mW/5000mW; sleep 0.01; done'"
Play = Callable[..., None]


@pytest.fixture
def tegrastats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Put the fake on PATH; call with what it shall play. It is never asked to stop others, or to log."""
    folder, log = tmp_path / "bin", tmp_path / "starts.log"
    folder.mkdir()
    (folder / "tegrastats").symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")

    def play(**what: Any) -> None:
        monkeypatch.setenv("FAKE_TEGRASTATS", json.dumps(what | {"log": str(log)}))

    play()
    yield play
    for line in log.read_text().splitlines() if log.exists() else ():
        assert line.split()[1:2] == ["--interval"] and len(line.split()) == 3


def starts(tmp_path: Path) -> list[int]:
    return [int(line.split()[0]) for line in (tmp_path / "starts.log").read_text().splitlines()]


def sampled(sampler: power.TegrastatsSampler, count: int = 10) -> tuple[float, float]:
    """Wait until so many samples more have come; when that began and when it was over."""
    t0, before = time.monotonic(), len(sampler.trace.t_s)
    wait_for(lambda: len(sampler.trace.t_s) >= before + count, patience_s=90)
    return t0, time.monotonic()


def run(*words: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return call("tegrastats_sampler.py", *words, stdin=stdin)


# --- lines


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["board"])
def test_a_line_gives_rails_total_and_scope(case: dict[str, Any]) -> None:
    reading = power.parse_line(case["line"])
    assert (reading.total_mw, reading.total_rail, reading.scope) == (
        case["total_mw"], case["total_rail"], case["scope"],
    )  # fmt: skip
    assert reading.rails == case["rails"]


@pytest.mark.skipif(not CORPUS.exists(), reason="needs the collected lines")
def test_every_collected_line_is_read_exactly() -> None:
    for text in (CORPUS / "lines.jsonl").open():
        case = json.loads(text)
        reading, wanted = power.parse_line(case["line"]), case["expected"]
        found = (reading.total_mw, reading.total_rail, reading.scope, reading.rails)
        assert found == (wanted["total_mw"], wanted["total_rail"], case["scope"], wanted["rails"]), case[
            "board"
        ]
    for log in CORPUS.glob("*.log"):
        readings = [power.parse_line(line) for line in log.open(errors="replace") if line.strip()]
        assert len({reading.total_rail for reading in readings if reading.total_rail}) == 1
        assert sum(reading.total_mw is None for reading in readings) <= 3


def test_a_line_gives_loads_memory_and_temperatures() -> None:
    orin = power.parse_line(
        "05-09-2026 18:42:07 RAM 18202/62841MB (lfb 4x4MB) SWAP 86/31420MB CPU [16%@1949,off] "
        "EMC_FREQ 3%@2133 GR3D_FREQ 21%@[305,0] VIC off APE 174 cpu@52.343C/53C CV0@-256C tj@52.5C "
        "PMIC@100C VDD_IN 5000mW/5000mW"
    )
    assert orin.loads == {
        "gpu_load_percent": 21,
        "emc_load_percent": 3,
        "ram_used_mb": 18202,
        "ram_total_mb": 62841,
    }
    assert orin.temps_c == {"cpu": 52.343, "tj": 52.5, "PMIC": 100.0}
    assert power.hottest_c(orin.temps_c) == 52.5
    bare = power.parse_line("CPU[1%@102] GR3D_FREQ @[0,0,0] PMIC@50C AO@29.5C GPU@28C")
    assert set(bare.loads.values()) == {None} and power.hottest_c(bare.temps_c) == 29.5


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_mutation_of_a_line_raises(count: int) -> None:
    rng, lines = random.Random(7), [case["line"] for case in GOLDEN if case["line"]]
    junk = [
        "",
        " ",
        "/",
        "mW",
        "\t",
        "999999999999999",
        "-",
        "@",
        "[",
        "\x00",
        "é",
        "VDD_IN",
        "0mW/0mW",
        "%",
        "٣",
    ]
    for _ in range(count):
        line = rng.choice(lines)
        a, b = sorted((rng.randrange(len(line)), rng.randrange(len(line))))
        line = line[:a] + rng.choice(junk) + line[min(b, a + rng.randrange(4)) :]
        reading = power.parse_line(line[: rng.randrange(1, 700)])
        assert (reading.total_mw is None) == (reading.total_rail is None) == (reading.scope == "none")


@given(st.text())
def test_no_text_raises(text: str) -> None:
    power.parse_line(text)


def test_parse_prints_one_object_per_line(tmp_path: Path) -> None:
    log = tmp_path / "some.log"
    log.write_bytes(
        b"RAM 1/2MB VDD_IN 5000mW/5000mW VDD_SOC 6000mW/1mW tj@40C\n\nRAM 1/2MB\n\xff\xfe junk\n"
        b"POM_5V_IN 0/0 POM_5V_CPU 0/0\nVDD_IN 7"
    )
    for done in (run("parse", log), run("parse", "-", stdin=log.read_text(errors="replace"))):
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["total_mw"] for row in rows] == [5000, None, None, None, 0, None]
        assert rows[0]["rails"] == {"VDD_IN": 5000, "VDD_SOC": 6000} and rows[0]["temps_c"] == {"tj": 40.0}
        assert [row["flags"] for row in rows] == [["subrail_above_total"], [], [], [], ["zero_total"], []]
    assert rows[0]["loads"]["ram_total_mb"] == 2
    head = subprocess.run(
        f"{shlex.join([sys.executable, str(SCRIPT), 'parse', str(log)])} {'| cat' * 3} | head -1",
        shell=True,
        capture_output=True,
    )
    assert head.stdout.count(b"\n") == 1 and head.stderr == b""
    done = run("parse", tmp_path / "nothing.log")
    assert (done.returncode, done.stderr.count("error: cannot read")) == (1, 1)


# --- integration


def trace_of(points: list[tuple[float, float]]) -> power.PowerTrace:
    trace = power.PowerTrace()
    for t_s, power_mw in points:
        trace.add(t_s, power_mw)
    return trace


def exact_mj(points: list[tuple[float, float]], t0: float, t1: float) -> float:
    """Integral of the piecewise-linear function through the points, piece by piece."""
    total = []
    for (t_a, p_a), (t_b, p_b) in pairwise(points):
        a, b = max(t0, t_a), min(t1, t_b)
        if a < b:
            slope = (p_b - p_a) / (t_b - t_a)
            total.append((b - a) * (p_a + slope * ((a + b) / 2 - t_a)))
    return math.fsum(total)


steps_s = st.lists(st.floats(0.001, 2.0), min_size=2, max_size=60)
shares = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))


@given(steps_s, st.data(), shares)
@settings(deadline=None)
def test_energy_of_piecewise_linear_power_is_exact(
    dts: list[float], data: st.DataObject, at: tuple[float, ...]
) -> None:
    times = [100.0]
    for dt in dts:
        times.append(times[-1] + dt)
    watts = data.draw(st.lists(st.floats(100, 60_000), min_size=len(times), max_size=len(times)))
    points = list(zip(times, watts, strict=True))
    a, b, c = sorted(times[0] + share * (times[-1] - times[0]) for share in at)
    trace = trace_of(points)
    for t0, t1 in ((a, b), (b, c), (a, c)):
        window = trace.window(t0, t1, 1000.0)
        gross = window.energy_gross_joule
        assert gross is not None and window.energy_joule is not None
        scale = max(trace.energy_mj(times[0], times[-1]) * 1e-3, 1e-9)
        assert gross == pytest.approx(exact_mj(points, t0, t1) / 1000, rel=1e-9, abs=1e-12 * scale)
        assert window.energy_joule == pytest.approx(gross - (t1 - t0), abs=1e-12 + 1e-9 * abs(gross))
    whole = trace.energy_mj(a, c)
    assert trace.energy_mj(a, b) + trace.energy_mj(b, c) == pytest.approx(whole, rel=1e-9, abs=1e-9)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1_000, 20_000), st.sampled_from([0.02, 0.1, 0.171]))
@settings(deadline=None)
def test_a_load_step_at_the_edges_errs_by_no_more_than_stated(
    phase: float, end: float, step_mw: float, period_s: float
) -> None:
    t0 = 1.0 + phase * period_s
    t1 = t0 + 1.0 + end
    points = [
        (k * period_s, 5000 + (step_mw if t0 <= k * period_s < t1 else 0)) for k in range(round(4 / period_s))
    ]
    window = trace_of(points).window(t0, t1, 5000.0)
    assert window.energy_joule is not None and window.energy_uncertainty_joule is not None
    true_joule = step_mw / 1000 * (t1 - t0)
    assert abs(window.energy_joule - true_joule) <= window.energy_uncertainty_joule + 1e-9


def test_mean_error_of_a_step_is_a_third_of_the_bound() -> None:
    errors = []
    for k in range(200):
        t0 = 1 + k / 200 * 0.1
        points = [(i * 0.1, 15_000.0 if t0 <= i * 0.1 < t0 + 1.03 else 5000.0) for i in range(40)]
        errors.append(10.3 - (trace_of(points).window(t0, t0 + 1.03, 5000.0).energy_joule or 0))
    assert 0 < sum(errors) / len(errors) <= 1.05 * 10_000 * 0.1 / 3 / 1000


@pytest.mark.skipif(not CORPUS.exists(), reason="needs the collected logs")
def test_a_real_log_integrates_as_numpy_does() -> None:
    import numpy

    log = CORPUS / "orinnano8_gwonxhj_multi_workload_605.log"
    mw = [power.parse_line(line).total_mw or 0 for line in log.open()]
    t_s = [1.0066 * k for k in range(len(mw))]
    trace = trace_of(list(zip(t_s, mw, strict=True)))
    assert trace.energy_mj(t_s[0], t_s[-1]) == pytest.approx(numpy.trapezoid(mw, t_s), rel=1e-12)


def test_a_window_says_how_good_it_is() -> None:
    points = [(k * 0.1, 5000.0 + 40 * (k % 2)) for k in range(30)] + [
        (5.0 + k * 0.1, 9000.0) for k in range(30)
    ]
    trace = trace_of(points)
    trace.quantum_mw = 40.0
    good = trace.window(0.55, 2.05, 5000.0)
    assert (good.power_samples, good.flags, good.power_coverage) == (15, (), 1.0)
    assert good.power_period_ms == pytest.approx(100) and good.power_max_gap_ms == pytest.approx(100)
    # Half a step of the sensor over the whole window, a step at each edge known to within one, and what the
    # two edges differ by over the longest lag of a feed of which nothing is known.
    edges_mj, lag_mj = 2 * 80 / 2 * 0.1, 40 * 0.08
    assert good.energy_uncertainty_joule == pytest.approx((20 * 1.5 + edges_mj + lag_mj) / 1000)
    gap = trace.window(2.0, 6.0, None)
    assert gap.flags == ("power_gap",) and gap.power_max_gap_ms == pytest.approx(2100)
    assert gap.power_coverage == pytest.approx(1 - 2.1 / 4) and gap.power_mw_max == 9000
    assert gap.energy_joule is None and gap.energy_gross_joule and gap.reason == "no idle baseline"
    assert (gap.energy_uncertainty_joule or 0) > 4 * 2.1 / 2
    short = trace.window(0.31, 0.39, 4000.0)
    assert (short.power_samples, short.flags) == (0, ("few_power_samples",)) and short.power_mw_max is None
    assert short.energy_joule == pytest.approx(0.08 * 1.02, rel=0.02)
    below = trace.window(0.5, 1.5, 6000.0)
    assert below.energy_joule is not None and below.energy_joule < 0 and below.flags == ("negative_energy",)
    edge = trace.window(7.0, 8.0, 5000.0)
    assert edge.flags == ("extrapolated_edge",) and (edge.energy_uncertainty_joule or 0) > 0.9


@pytest.mark.parametrize(
    ("t0", "t1", "words"),
    [
        (-5.0, 1.0, "begins 5 s before"),
        (1.0, 9.0, "ends 6 s after"),
        (2.0, 1.0, "not a window"),
        (math.nan, 1.0, "not a window"),
    ],
)
def test_what_the_samples_do_not_cover_is_none_and_never_zero(t0: float, t1: float, words: str) -> None:
    window = trace_of([(k * 0.1, 5000.0) for k in range(31)]).window(t0, t1, 4000.0)
    assert (window.energy_joule, window.energy_gross_joule, window.power_samples) == (None, None, 0)
    assert words in (window.reason or "")
    assert power.PowerTrace().window(0, 1, 0).reason == "no power sample"


def test_idle_baseline_knows_a_restless_board() -> None:
    rng = random.Random(1)

    def baseline(noise: float, slope: float, every: int = 1) -> power.IdleBaseline:
        points = [(k * 0.1, 5000 + slope * k * 0.1 + rng.gauss(0, noise)) for k in range(0, 101, every)]
        return trace_of(points).baseline(0, 10)

    calm = baseline(30, 0)
    assert calm.stable and calm.verdict == "stable" and calm.mean_mw == pytest.approx(5000, abs=15)
    assert calm.samples == 101 and calm.std_mw == pytest.approx(30, rel=0.3) and calm.temp_c is None
    assert "varies" in baseline(400, 0).verdict and not baseline(400, 0).stable
    drifting = baseline(1, 20)
    assert drifting.slope_mw_per_s == pytest.approx(20, abs=1) and "drifts by +200 mW" in drifting.verdict
    few = trace_of([(k * 0.1, 5000.0) for k in range(40)] + [(10.0, 5000.0)]).baseline(0, 10)
    assert "samples, at least" in few.verdict and not few.stable
    with pytest.raises(power.SamplerError, match="too few"):
        power.PowerTrace().baseline(0, 1)


def test_a_long_trace_is_forgotten_without_changing_later_windows() -> None:
    trace = trace_of([(k * 0.1, 5000.0 + k % 7 * 100) for k in range(30_000)])
    trace.notes["zero_total"].append(1.0)
    before = trace.window(2500.03, 2600.07, 5000.0)
    trace.forget(2500.0)
    assert len(trace.t_s) < 5100 and not any(trace.notes.values())
    after = trace.window(2500.03, 2600.07, 5000.0)
    assert after.energy_joule == pytest.approx(before.energy_joule, rel=1e-9)
    assert trace.window(100.0, 101.0, None).energy_gross_joule is None


def test_a_maximum_over_a_long_window_is_the_same_with_and_without_numpy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = trace_of([(k * 0.01, 5000.0 + k % 997) for k in range(30_000)])
    monkeypatch.setitem(sys.modules, "numpy", None)
    without = trace.window(1.0, 290.0, None)
    monkeypatch.undo()
    assert trace.window(1.0, 290.0, None) == without and without.power_mw_max == 5996


# --- traces on disk


def test_integrate_reads_a_recorded_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{100 + k * 0.1:.6f},{5000 + 100 * k},VDD_IN,module,tegrastats,4{k % 10}.5\n" for k in range(11)]
    trace.write_text(power.TRACE_FIELDS + "\n" + "".join(rows))
    answer = json.loads(run("integrate", trace, "--t0", 100.25, "--t1", 100.75, "--idle_mw", 5000).stdout)
    assert answer["energy_joule"] == pytest.approx(0.25) and answer["energy_gross_joule"] == pytest.approx(
        2.75
    )
    assert answer["temp_max_c"] == 47.5 and answer["baseline"]["samples"] == 5
    whole = json.loads(run("integrate", trace).stdout)
    assert (whole["t0"], whole["t1"], whole["energy_joule"]) == (100.0, 101.0, None)
    trace.write_text(trace.read_text().replace("tegrastats", "replay"))
    assert "simulated_power" in json.loads(run("integrate", trace).stdout)["flags"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t_s,power_mw\n1.0,5000\n2.0,5000\n1.5,5000\n", "line 4"),
        ("t_s,power_mw\n1.0,5000\n2.0,5000\n1.5,5000\n", "time runs backwards"),
        ("t_s,power_mw\n1.0,5000\n2.0,much\n", "line 3"),
        ("a,b\n1,2\n", "line 2"),
        ("t_s,power_mw\nnan,5000\n", "line 2"),
        ("t_s,power_mw\n1.0,inf\n", "line 2"),
    ],
)
def test_a_broken_trace_is_a_clear_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    done = run("integrate", tmp_path / "trace.csv")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot read" in run("integrate", tmp_path / "none.csv").stderr


def test_an_empty_trace_gives_null(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("t_s,power_mw\n")
    done = run("integrate", tmp_path / "trace.csv", "--idle_mw", 1)
    assert json.loads(done.stdout)["energy_joule"] is None and done.returncode == 0
    assert "NaN" not in done.stdout and "Infinity" not in done.stdout


def test_a_zero_in_a_trace_is_counted_and_times_must_be_a_window(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,power_mw\n" + "".join(f"{k},{5000 * (k != 4)}\n" for k in range(9)))
    answer = json.loads(run("integrate", trace).stdout)
    assert answer["flags"] == ["zero_total"] and answer["flag_counts"] == {"zero_total": 1}
    for t0, t1 in ((5, 1), ("nan", 3), (1, "inf")):
        done = run("integrate", trace, "--t0", t0, "--t1", t1)
        assert (done.returncode, done.stdout) == (1, "") and "are no window" in done.stderr


def test_a_step_of_the_load_is_not_taken_for_the_sensors(tmp_path: Path) -> None:
    """Nobody states the quantum of these samples, and their only change is a load of 10 W."""
    trace = trace_of([(k * 0.1, 15_000.0 if 10 <= k < 20 else 5000.0) for k in range(30)])
    window = trace.window(0.55, 2.55, 5000.0)
    # A quantum of at most 1 W: half of it over two seconds and at each edge; half an interval of both steps.
    assert window.energy_uncertainty_joule == pytest.approx(1.0 + 2 * 1 * 0.1 / 2 + 2 * 10 * 0.1 / 2)


def test_full_standard_output_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("t_s,power_mw\n1,5000\n2,5000\n")
    (tmp_path / "some.log").write_text("VDD_IN 5000mW/5000mW\n" * 9)
    for words in (("integrate", tmp_path / "trace.csv"), ("parse", tmp_path / "some.log")):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, SCRIPT, *map(str, words)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: cannot write standard output: No space left on device\n"


# --- the feed


def test_energy_is_right_when_the_true_period_is_not_the_nominal_one(
    tegrastats: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    tegrastats(work_ms=71, power_mw=[12_000])
    clock = time.time
    with power.TegrastatsSampler() as sampler:
        assert (sampler.info.source, sampler.info.rail, sampler.info.scope) == (
            "tegrastats",
            "VDD_IN",
            "module",
        )
        t0, _ = sampled(sampler, 3)
        monkeypatch.setattr(time, "time", lambda: clock() - 3600)  # the wall clock is set back
        _, t1 = sampled(sampler, 3)
        window = sampler.window(t0, t1, 5000.0)
    assert window.energy_joule == pytest.approx(7.0 * (t1 - t0), rel=0.005)
    assert (window.power_period_ms or 0) > 165
    assert window.power_coverage == 1.0 or "power_gap" in window.flags  # this machine may stand still
    assert sampler.integrate_energy(t0, t1, 5000.0) == window.energy_joule  # and after stop()


def test_measure_idle_and_the_four_functions(tegrastats: Play) -> None:
    tegrastats(power_mw=[4000, 6000])
    sampler = power.TegrastatsSampler(power.find_feed(interval_ms=20), 20)
    sampler.start()
    assert sampler.measure_idle(0.4) == pytest.approx(5000, rel=0.05)
    idle = sampler.idle_baseline(0.4)
    assert not idle.stable and "varies" in idle.verdict and idle.temp_c == 43.093
    t0, t1 = sampled(sampler)
    energy = sampler.integrate_energy(t0, t1, 5000.0)
    assert energy is not None and abs(energy) < 0.1
    assert sampler.integrate_energy(t0 - 100, t0, 5000.0) is None
    assert sampler.integrate_energy(t0, t0 + 1e6, 5000.0) is None
    with pytest.raises(power.SamplerError, match="positive number"):
        sampler.measure_idle(0)
    sampler.stop()
    sampler.stop()
    assert "was stopped" in (sampler.window(t0 + 50, t0 + 51, 1).reason or "")


def test_bad_samples_are_flagged_on_the_window(tegrastats: Play) -> None:
    tegrastats(junk_every=5, zero_every=7, torn_every=11, missing_every=13)
    with power.TegrastatsSampler(power.find_feed(interval_ms=10), 10) as sampler:
        t0, t1 = sampled(sampler, 40)
        window = sampler.window(t0, t1, 5000.0)
    assert {"zero_total", "rail_missing"} <= set(window.flags)
    assert 3 <= window.flag_counts["zero_total"] <= sampler.troubles["zero_total"]
    assert 1 <= window.flag_counts["rail_missing"] <= sampler.troubles["rail_missing"]
    assert window.energy_joule == pytest.approx(0, abs=1e-6)  # no zero was integrated


def test_a_sub_rail_above_the_total_is_flagged(tegrastats: Play) -> None:
    tegrastats(line="POM_5V_GPU 8949/8742 POM_5V_IN {p}/3086 POM_5V_CPU 3148/3134", power_mw=[3227])
    with power.TegrastatsSampler(power.find_feed(interval_ms=10), 10) as sampler:
        window = sampler.window(*sampled(sampler), None)
    assert "subrail_above_total" in window.flags and window.power_mw_mean == pytest.approx(3227)
    assert sampler.info.scope == "board"


def test_a_dead_feed_is_restarted_once_and_then_given_up(tegrastats: Play, tmp_path: Path) -> None:
    tegrastats(die_after=20)
    with power.TegrastatsSampler(power.find_feed(interval_ms=10), 10) as sampler:
        t0 = time.monotonic()
        wait_for(lambda: len(starts(tmp_path)) == 2, patience_s=90)
        wait_for(lambda: sampler.end_reason is not None, patience_s=90)
        window = sampler.window(t0, sampler.trace.last_s(), 5000.0)
        assert "feed_restarted" in window.flags and window.energy_joule is not None
        lost = sampler.window(t0, t0 + 3, 5000.0)
        assert lost.energy_joule is None and "exit code 3: tegrastats: sensor bus lost" in (lost.reason or "")
        with pytest.raises(power.SamplerError, match="sensor bus lost"):
            sampler.measure_idle(1.0)
    assert len(starts(tmp_path)) == 2


def test_a_silent_feed_is_restarted_and_the_gap_recorded(tegrastats: Play, tmp_path: Path) -> None:
    tegrastats(hang_after=30)
    sampler = power.TegrastatsSampler(power.find_feed(interval_ms=10), 10)
    sampler._silent_s = 0.7  # two seconds otherwise
    with sampler:
        t0 = time.monotonic()
        restarts = sampler.trace.notes["feed_restarted"]
        wait_for(lambda: bool(restarts), patience_s=90)
        wait_for(lambda: sampler.trace.last_s() > restarts[-1] + 0.1, patience_s=90)
        t1 = time.monotonic()
        window = sampler.window(t0, t1, 5000.0)
    assert {"feed_restarted", "power_gap"} <= set(window.flags)
    gap_s = (window.power_max_gap_ms or 0) / 1000
    assert gap_s > 0.65 and window.power_coverage is not None
    assert window.power_coverage <= 1 - gap_s / (t1 - t0) + 1e-6  # the gap is no part of what was covered
    assert all(is_gone(pid) for pid in starts(tmp_path))


def test_a_feed_that_gives_no_power_is_an_error_with_its_own_words(tegrastats: Play) -> None:
    cases = {
        "sh -c 'echo out of order >&2; exit 4'": "ended with exit code 4: out of order",
        "sh -c 'while :; do echo RAM 1/2MB CPU [1%@2]; sleep 0.01; done'": "printed no valid total",
        "sh -c 'while :; do echo VDD_IN 0mW/0mW; sleep 0.01; done'": "printed no valid total",
    }
    for feed, words in cases.items():
        with pytest.raises(power.SamplerError, match=words):
            power.TegrastatsSampler(power.find_feed(feed=feed)).start()


def test_a_deaf_child_is_stopped_all_the_same(tegrastats: Play, tmp_path: Path) -> None:
    tegrastats(deaf=True)
    sampler = power.TegrastatsSampler(power.find_feed(interval_ms=10), 10)
    sampler.start()
    sampler.stop()
    assert all(is_gone(pid) for pid in starts(tmp_path))


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_many_starts_leave_nothing_behind(count: int) -> None:
    sampler = power.TegrastatsSampler(power.find_feed(feed=QUICK, interval_ms=10), 10)
    sampler.start()
    sampler.stop()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(count):
        sampler.start()
        sampler.stop()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not children.exists() or children.read_text() == ""


def test_nothing_outlives_a_killed_parent_and_other_feeds_are_left_alone(
    tegrastats: Play, tmp_path: Path
) -> None:
    tegrastats()
    others = subprocess.Popen(
        [shutil.which("tegrastats") or "", "--interval", "50"], stdout=subprocess.DEVNULL
    )
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import tegrastats_sampler as power\n"
        "sampler = power.TegrastatsSampler(power.find_feed(interval_ms=50), 50)\n"
        "sampler.start(); sampler.stop(); sampler.start(); print('ready', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, ROOT], stdout=subprocess.PIPE)
    try:
        assert parent.stdout and parent.stdout.readline() == b"ready\n"
        mine = [pid for pid in starts(tmp_path) if pid != others.pid]
        assert len(mine) == 2 and not is_gone(mine[1])
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_for(lambda: all(map(is_gone, mine)), patience_s=90)
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
        parent.stdout.close() if parent.stdout else None


def test_a_trace_is_written_and_a_full_disk_does_not_stop_the_sampling(tmp_path: Path) -> None:
    choice = power.find_feed(feed=QUICK, interval_ms=10)
    for _ in range(2):
        with power.TegrastatsSampler(choice, 10, trace_path=tmp_path / "trace.csv") as sampler:
            sampled(sampler)
    lines = (tmp_path / "trace.csv").read_text().splitlines()
    assert lines[0] == power.TRACE_FIELDS and lines.count(power.TRACE_FIELDS) == 1 and len(lines) > 10
    assert lines[1].endswith(",5000,VDD_IN,module,feed,")
    for path in (tmp_path / "trace.csv/no_folder.csv", Path("/dev/full")):
        with pytest.raises(power.SamplerError, match=f"cannot write {path}"):
            power.TegrastatsSampler(choice, 10, trace_path=path).start()


def test_a_disk_that_fills_up_ends_the_trace_and_not_the_sampling(tmp_path: Path) -> None:
    code = (
        "import resource, sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import tegrastats_sampler as power\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n"
        "choice = power.find_feed(feed=sys.argv[2], interval_ms=10)\n"
        "with power.TegrastatsSampler(choice, 10, trace_path=Path(sys.argv[3])) as sampler:\n"
        "    t0 = time.monotonic()\n"
        "    while not sampler.trace_error: time.sleep(0.01)\n"
        "    print(sampler.integrate_energy(t0, time.monotonic(), 4000.0) > 0, sampler.trace_error)"
    )
    command = [sys.executable, "-c", code, str(ROOT), QUICK, str(tmp_path / "trace.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("True [Errno 27] File too large"), done.stderr


def test_the_rail_of_the_first_sample_stays(tmp_path: Path) -> None:
    """Thor prints VIN in some lines only: without it the sum is another scope, and the two must not mix."""
    sums = "VDD_GPU 1000mW/1000mW VDD_CPU_SOC_MSS 5000mW/5000mW VIN_SYS_5V0 4000mW/4000mW"
    feed = f"sh -c 'while :; do echo {sums} VIN 20000mW/1mW; sleep 0.01; echo {sums}; sleep 0.01; done'"
    with power.TegrastatsSampler(power.find_feed(feed=feed, interval_ms=10), 10) as sampler:
        window = sampler.window(*sampled(sampler), None)
    assert (sampler.info.rail, sampler.info.scope) == ("VIN", "board")
    assert window.power_mw_mean == pytest.approx(20_000) and "rail_missing" in window.flags


def test_a_rail_that_goes_for_good_is_told_with_the_missing_energy() -> None:
    sums = "VDD_GPU 1000mW/1mW VDD_CPU_SOC_MSS 5000mW/1mW VIN_SYS_5V0 4000mW/1mW"
    line = "while :; do sleep 0.01; echo"
    feed = f"sh -c 'echo {sums} VIN 20000mW/1mW; echo {sums} VIN 20000mW/1mW; {line} {sums}; done'"
    with power.TegrastatsSampler(power.find_feed(feed=feed, interval_ms=10), 10) as sampler:
        t0 = time.monotonic()
        wait_for(lambda: len(sampler.trace.notes["rail_missing"]) > 5, patience_s=90)
        window = sampler.window(t0, time.monotonic(), 5000.0)
    assert window.energy_joule is None and "ends" in str(window.reason)
    assert window.flags == ("rail_missing",)


def test_a_feed_may_say_what_it_is() -> None:
    said = json.dumps(
        {"source": "nvml", "rail": "GPU0", "scope": "gpu", "simulated": True, "quantum_mw": {"GPU0": 7}}
    )
    loop = 'echo "# power_feed $0"; while :; do echo gpu@50C GPU0 70123mW/1mW; sleep 0.01; done'
    feed = f"sh -c '{loop}' '{said}'"
    with power.TegrastatsSampler(power.find_feed(feed=feed, interval_ms=10), 10) as sampler:
        window = sampler.window(*sampled(sampler), None)
    info = sampler.info
    assert (info.source, info.rail, info.scope, info.simulated, info.quantum_mw) == (
        "nvml",
        "GPU0",
        "gpu",
        True,
        7,
    )
    assert window.flags == ("simulated_power",) and window.power_mw_mean == pytest.approx(70_123)


# --- finding a feed


def test_auto_takes_tegrastats_first_and_says_why_there_is_none(
    tegrastats: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = power.find_feed(interval_ms=250)
    assert choice.source == "tegrastats" and (choice.command or ())[1:] == ("--interval", "250")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.syspath_prepend(ROOT / "tests/fakes/nvml")
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("FAKE_NVML", "none")
    choice = power.find_feed("tegrastats")
    assert choice == power.FeedChoice(None, "none", "there is no tegrastats on PATH")
    with pytest.raises(power.SamplerError, match="no power source: there is no tegrastats"):
        power.TegrastatsSampler(choice).start()
    assert power.find_feed("none").command is None
    monkeypatch.setenv("FAKE_NVML", "card")
    assert power.find_feed("nvml").source == "nvml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"source": "bogus"}, "unknown source 'bogus'"),
        ({"interval_ms": 0}, "interval of 0 ms"),
        ({"interval_ms": -5}, "interval of -5 ms"),
        ({"interval_ms": 70_000}, "interval of 70000 ms"),
        ({"feed": "no-such-program --x"}, "there is no such command"),
        ({"feed": "echo 'open"}, "no command line"),
        ({"feed": ""}, "there is no such command"),
        ({"source": "replay:/no/such.log"}, "cannot read /no/such.log"),
    ],
)
def test_what_was_mistyped_is_an_error(words: dict[str, Any], message: str) -> None:
    with pytest.raises(power.SamplerError, match=message):
        power.find_feed(**words)
