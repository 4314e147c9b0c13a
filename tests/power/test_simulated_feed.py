"""The simulated board: it follows the CPUs, speaks as an Orin Nano, is never chosen unasked, and says so."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebench.power import feeds
from edgebench.power.feeds import FeedError, FeedRequest, Sample, Source
from edgebench.power.sampler import TegrastatsSampler
from edgebench.power.tegrastats import parse_line
from edgebench.power.trace_file import read_trace, trace_of_window
from edgebench.records.run import all_flags_of

RAILS = {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
SPIN_S = 0.3

Load = Callable[[int, int], None]


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """cpus(busy, idle) lets so many ticks pass on the machine that the feed sees."""
    stat = tmp_path / "stat"
    ticks = [1000, 5000]

    def pass_ticks(busy: int, idle: int) -> None:
        ticks[0] += busy
        ticks[1] += idle
        # Half of the busy ones as user, the rest as system time; guest time is counted in user already.
        half = ticks[0] // 2
        stat.write_text(
            f"cpu  {half} 0 {ticks[0] - half} {ticks[1]} 0 0 0 0 {half} 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
        )

    pass_ticks(0, 0)
    monkeypatch.setattr(feeds, "CPU_TIMES", stat)
    return pass_ticks


@contextlib.contextmanager
def opened(interval_ms: int = 100) -> Iterator[tuple[Source, Callable[[], Sample]]]:
    with contextlib.ExitStack() as held:
        source, read, _ = feeds.find_source(FeedRequest("simulated", interval_ms), held)
        yield source, read


def mean_rails(read: Callable[[], Sample], cpus: Load, busy: int, idle: int) -> dict[str, float]:
    samples = []
    for _ in range(400):
        cpus(busy, idle)
        samples.append(read().rails_mw)
    return {name: statistics.fmean(sample[name] for sample in samples) for name in samples[0]}


@pytest.mark.parametrize(("busy", "idle"), [(0, 20), (5, 15), (10, 10), (20, 0)])
def test_power_is_idle_plus_watts_times_load(cpus: Load, busy: int, idle: int) -> None:
    with opened() as (_, read):
        found = mean_rails(read, cpus, busy, idle)
    assert found.keys() == RAILS
    for name, (idle_mw, dynamic_mw) in feeds.SIMULATED_BOARD_MW.items():
        # Five standard errors of 400 readings with a step of noise each.
        assert found[name] == pytest.approx(idle_mw + dynamic_mw * busy / 20, abs=5 * 42 / 400**0.5)


def test_every_value_is_a_whole_step_and_the_noise_is_one_step(cpus: Load) -> None:
    with opened() as (source, read):
        values = []
        for _ in range(400):
            cpus(10, 10)
            values.append(read().rails_mw["VDD_IN"])
    assert source.quantum_mw == dict.fromkeys(feeds.SIMULATED_BOARD_MW, 40.0)
    assert all(value % 40 == 0 for value in values)
    assert 0.8 * 40 < statistics.stdev(values) < 1.3 * 40


def test_between_two_ticks_the_load_stays_and_a_counter_that_runs_back_is_no_load(cpus: Load) -> None:
    with opened(10) as (_, read):
        cpus(20, 0)
        full_mw = read().rails_mw["VDD_IN"]
        assert abs(read().rails_mw["VDD_IN"] - full_mw) < 10 * 40  # no tick since: still full
        cpus(-10, 30)
        assert read().rails_mw["VDD_IN"] < 4600 + 10 * 40


def test_the_total_is_the_boards_input_rail_and_no_part_exceeds_it(cpus: Load) -> None:
    means: dict[str, tuple[float, int]] = {}
    with opened() as (source, read):
        for busy in range(21):
            cpus(busy, 20 - busy)
            reading = parse_line(feeds.power_line(read(), means))
            assert reading.total_rail == "VDD_IN" and reading.scope == "module"
            assert sum(reading.rails.values()) <= 2 * reading.rails["VDD_IN"]
    assert source.simulated and source.source == "simulated" and source.interval_ms == 100


@pytest.mark.parametrize("text", [None, "", "intr 5 6 7\n", "cpu 1 2 3\n", "cpu  a b c d e f g h\n"])
def test_where_the_kernel_does_not_tell_its_load_there_is_no_such_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(feeds, "CPU_TIMES", tmp_path / "stat")
    with pytest.raises(FeedError, match="does not tell the load"), opened():
        pass
    choice = feeds.find_feed("simulated")
    assert choice.command is None and "does not tell the load" in (choice.reason or "")


def test_auto_never_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nothing else works; nor is it named among what was tried."""
    monkeypatch.setattr(feeds, "SOURCES", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    choice = feeds.find_feed("auto")
    assert choice.command is None and choice.source == "none"
    assert "simulated" not in (choice.reason or "")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc/stat")
def test_a_sampled_window_is_labelled_and_costs_more_under_load(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    with TegrastatsSampler(feeds.find_feed("simulated", interval_ms=20), trace_path=trace) as sampler:
        assert sampler.info.simulated and sampler.info.source == "simulated"
        assert (sampler.info.rail, sampler.info.quantum_mw) == ("VDD_IN", 40.0)
        began_s = time.monotonic()
        while time.monotonic() < began_s + SPIN_S:
            pass
        ended_s = time.monotonic()
        window = sampler.window(began_s, ended_s, 4600.0)
    assert "simulated_power" in window.flags
    # A busy core is no less than a 64th of this machine.
    assert window.energy_joule is not None and window.energy_joule > 9.0 / 64 * SPIN_S / 2
    recorded = read_trace(trace)
    assert recorded.origins[0].origin.source == "simulated"
    assert trace_of_window(recorded, began_s, ended_s).simulated


def test_a_record_whose_flag_was_lost_is_still_known_as_simulated() -> None:
    assert all_flags_of({"power_source": "simulated"}) == ["simulated_power"]
    for other in ("ina3221", None, ["simulated"]):
        assert all_flags_of({"power_source": other}) == []
