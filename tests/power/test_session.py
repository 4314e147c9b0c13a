"""Power beside a measurement: no power and why, idle that drifts, a feed that dies, fields of a record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from edgebench.errors import UserError
from edgebench.power import session as power
from edgebench.power.sampler import FeedInfo
from edgebench.power.session import PowerFields, PowerSession, PowerSettings
from edgebench.power.trace import IdleBaseline, PowerTrace, PowerWindow, SamplerError
from edgebench.records.run import RunRecord

ROOT = Path(__file__).resolve().parents[2]
QUICK = "sh -c 'while :; do echo tj@45C VDD_IN 5000mW/5000mW; sleep 0.01; done'"


@dataclass
class Record:
    """A record that has all the fields."""

    energy_joule: float | None = None
    energy_gross_joule: float | None = None
    energy_uncertainty_joule: float | None = None
    energy_missing: str | None = None
    idle_mw: float | None = None
    idle_drift_mw: float | None = None
    power_source: str = "none"
    power_rail: str | None = None
    temp_start_c: float | None = 30.0
    temp_max_c: float | None = 31.0
    flags: list[str] = field(default_factory=list)


class PlayedSampler:
    """Plays TegrastatsSampler on a trace that is made beforehand, at a clock of its own."""

    def __init__(self, trace: PowerTrace) -> None:
        self.trace, self.now_s = trace, 0.0
        self.info = FeedInfo("tegrastats", "VDD_IN", "module", 100)
        self.end_reason: str | None = None
        self.trace_error: str | None = None
        self.starts, self.dead_for = 0, 0
        self.forgotten_s: list[float] = []

    @property
    def failure(self) -> str | None:
        return self.end_reason

    def idle_baseline(self, seconds: float) -> IdleBaseline:
        if self.end_reason:
            raise SamplerError(f"no idle power: the power feed {self.end_reason}")
        baseline = self.trace.baseline(self.now_s, self.now_s + seconds)
        self.now_s += seconds
        return baseline

    def window(
        self, t0: float, t1: float, idle_mw: float | None, idle_uncertainty_mw: float | None = 0.0
    ) -> PowerWindow:
        return self.trace.window(t0, t1, idle_mw, idle_uncertainty_mw)

    def forget(self, before_t_s: float) -> None:
        self.forgotten_s.append(before_t_s)
        self.trace.forget(before_t_s)

    def stop(self) -> None:
        self.end_reason = self.end_reason or "was stopped"

    def start(self) -> None:
        self.starts += 1
        if self.starts <= self.dead_for:
            raise SamplerError("no power sample: tegrastats ended with exit code 3")
        self.end_reason = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session over a played sampler whose time passes with the samples, not with ours."""

    def begin(trace: PowerTrace, **settings: Any) -> tuple[PowerSession, PlayedSampler, list[str]]:
        sampler, said = PlayedSampler(trace), list[str]()
        monkeypatch.setattr(time, "monotonic", lambda: sampler.now_s)
        monkeypatch.setattr(time, "sleep", lambda _seconds: None)
        asked = PowerSettings(idle_seconds=10.0, **settings)
        return PowerSession(asked, sampler, None, said.append), sampler, said  # type: ignore[arg-type]

    return begin


def board(idle_mw: Any, runs: list[tuple[float, float]], end_s: float, noise_mw: float = 0.0) -> PowerTrace:
    """Samples of a board whose idle power is a function of time, and which draws 10 W more during runs."""
    trace = PowerTrace()
    trace.quantum_mw, trace.lag_s = 40.0, 0.0
    for k in range(round(end_s * 10) + 1):
        t_s = k / 10
        load_mw = 10_000 if any(t0 <= t_s < t1 for t0, t1 in runs) else 0
        trace.add(t_s, round((idle_mw(t_s) + load_mw + noise_mw * (-1) ** k) / 40) * 40)
    return trace


RUNS = [(10.05 + 10 * k, 15.05 + 10 * k) for k in range(10)]  # five seconds each, 50 J above idle
CLOSING_S, END_S = 112.0, 123.0


def measured(session: PowerSession) -> list[PowerFields]:
    return [session.window(*run) for run in RUNS]


def test_a_steady_board_keeps_its_numbers_when_its_block_closes(clock: Any) -> None:
    session, sampler, said = clock(board(lambda t_s: 5000, RUNS, END_S))
    assert session.idle_due and session.measure_idle() is None and not session.idle_due
    before = measured(session)
    sampler.now_s = CLOSING_S
    change = session.measure_idle()
    assert change is not None and change.drift_mw == pytest.approx(0, abs=1e-6) and not change.beyond_noise
    for one, then in zip(measured(session), before, strict=True):
        assert one.energy_joule == pytest.approx(then.energy_joule, abs=1e-9) and one.flags == then.flags
        assert one.energy_uncertainty_joule == pytest.approx(then.energy_uncertainty_joule)
    assert all(fields.energy_joule == pytest.approx(50, abs=0.4) for fields in before)
    assert (
        before[0].flags == () and before[0].idle_mw == pytest.approx(5000) and before[0].idle_drift_mw is None
    )
    assert said == ["idle 5000 mW, std 0 (stable)"] * 2


@pytest.mark.parametrize(
    ("idle_mw", "worst_joule"),
    [
        (lambda t_s: 5000 + 480 * t_s / 110, 0.5),  # it warms up: the line between the two follows
        (lambda t_s: 5480 - 480 * t_s / 110, 0.5),
        (lambda t_s: 5000 if t_s < 60 else 5480, 1.6),  # a clock steps up halfway: the line is half right
    ],
    ids=["creeps up", "creeps down", "steps"],
)
def test_idle_that_drifts_is_seen_interpolated_and_flagged(
    idle_mw: Any, worst_joule: float, clock: Any
) -> None:
    session, sampler, _ = clock(board(idle_mw, RUNS, END_S))
    session.measure_idle()
    before = measured(session)
    assert not any("idle_drift" in one.flags for one in before)  # nobody can know yet
    sampler.now_s = CLOSING_S
    change = session.measure_idle()
    assert change is not None and change.beyond_noise and abs(change.drift_mw) == pytest.approx(470, abs=50)
    after = measured(session)
    assert all("idle_drift" in one.flags and one.idle_drift_mw == change.drift_mw for one in after)
    errors_joule = [abs((one.energy_joule or 0) - 50) for one in after]
    assert max(errors_joule) < worst_joule < max(abs((one.energy_joule or 0) - 50) for one in before)
    for one, error_joule in zip(after, errors_joule, strict=True):
        assert one.energy_uncertainty_joule is not None and error_joule <= one.energy_uncertainty_joule
    assert [one.energy_gross_joule for one in after] == [one.energy_gross_joule for one in before]
    for one, (t0_s, t1_s) in zip(after, RUNS, strict=True):  # what was subtracted is what stands there
        assert one.energy_joule is not None and one.energy_gross_joule is not None and one.idle_mw is not None
        assert one.energy_joule == pytest.approx(one.energy_gross_joule - one.idle_mw * (t1_s - t0_s) / 1000)


@pytest.mark.parametrize("noise_mw", [60, 200])
def test_a_change_within_the_noise_is_none(noise_mw: float, clock: Any) -> None:
    session, sampler, _ = clock(board(lambda t_s: 5000 + 15 * t_s / 110, RUNS, END_S, noise_mw))
    session.measure_idle()
    sampler.now_s = CLOSING_S
    change = session.measure_idle()
    assert change is not None and not change.beyond_noise
    assert not any("idle_drift" in one.flags for one in measured(session))


def test_the_closing_baseline_opens_the_next_block(clock: Any) -> None:
    """Three baselines: each block has its own line, and a window of the open block the last baseline."""
    runs = [(20.0, 25.0), (50.0, 55.0), (80.0, 85.0)]
    session, sampler, _ = clock(board(lambda t_s: 5000 if t_s < 45 else 5400, runs, 100))
    session.measure_idle()  # 0 to 10
    sampler.now_s = 30.0
    assert not session.measure_idle().beyond_noise
    sampler.now_s = 60.0
    assert session.measure_idle().drift_mw == pytest.approx(400)
    second = session.window(*runs[1])
    assert "idle_drift" in second.flags and 5200 < (second.idle_mw or 0) < 5400
    third = session.window(*runs[2])
    assert third.idle_mw == pytest.approx(5400) and "idle_drift" not in third.flags


def test_another_resident_model_has_an_idle_power_of_its_own(clock: Any) -> None:
    session, sampler, _ = clock(board(lambda t_s: 5000 if t_s < 45 else 7000, RUNS, END_S))
    session.measure_idle()
    session.new_resident()
    assert session.idle is None and session.idle_due
    assert session.window(*RUNS[0]).energy_missing == "no idle baseline"
    sampler.now_s = CLOSING_S
    assert session.measure_idle() is None  # no change: there is nothing to compare with
    assert session.window(*RUNS[8]).idle_mw == pytest.approx(7000)


def test_the_samples_of_a_block_are_kept_until_the_next_has_closed(clock: Any) -> None:
    session, sampler, _ = clock(board(lambda t_s: 5000, RUNS, 400))
    for begin_s in (0.0, CLOSING_S, 200.0, 300.0):
        sampler.now_s = begin_s
        session.measure_idle()
        asked = session.window(*RUNS[0])
        assert (asked.energy_gross_joule is None) == (begin_s > CLOSING_S)
    assert len(sampler.trace.t_s) < 2100  # of 4000: a campaign of days stays small


def test_a_dead_feed_is_started_again_and_said_where_it_cannot_be(clock: Any) -> None:
    session, sampler, said = clock(board(lambda t_s: 5000, RUNS, END_S))
    session.measure_idle()
    sampler.end_reason, sampler.dead_for = "ended with exit code 3", 1
    assert session.idle_due and session.measure_idle() is None
    assert session.idle is None and session.idle_due
    assert said[-1].startswith("power: no power sample: ") and said[-1].endswith("null until it is back")
    assert session.window(*RUNS[0]).energy_joule is None
    assert session.measure_idle() is None and session.idle is not None and sampler.starts == 2


def test_idle_seconds_that_are_too_few_are_the_users_to_mend(clock: Any) -> None:
    trace = PowerTrace()
    trace.add(0.0, 5000)
    session, _, _ = clock(trace)
    with pytest.raises(UserError, match="too few; raise --idle_seconds"):
        session.measure_idle()


def test_a_trace_that_ends_early_is_told_with_the_baseline(clock: Any) -> None:
    session, sampler, said = clock(board(lambda t_s: 5000, RUNS, END_S), trace_path=Path("t.csv"))
    sampler.trace_error = "No space left on device"
    session.measure_idle()
    assert said == ["idle 5000 mW, std 0 (stable); t.csv ends early: No space left on device"]


def test_an_unsteady_opening_is_flagged(clock: Any) -> None:
    session, _, said = clock(board(lambda t_s: 5000 + 800 * (int(t_s) % 2), RUNS, END_S))
    session.measure_idle()
    assert "idle_unstable" in session.window(*RUNS[0]).flags and "varies" in said[0]


def test_where_the_sensors_step_is_unknown_so_is_the_uncertainty(clock: Any) -> None:
    trace = board(lambda t_s: 5000, [], END_S)
    trace.quantum_mw = None
    session, sampler, _ = clock(trace)
    session.measure_idle()
    fields = session.window(*RUNS[0])
    assert fields.energy_joule == pytest.approx(0) and fields.energy_uncertainty_joule is None
    sampler.now_s = CLOSING_S
    change = session.measure_idle()
    assert change is not None and not change.beyond_noise


@pytest.mark.parametrize(("idle_seconds", "settling_s"), [(10.0, 1.0), (1.0, 1.0), (0.25, 0.25)])
def test_the_board_settles_for_a_second_and_never_longer_than_idle_is_measured(
    idle_seconds: float, settling_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    sampler = PlayedSampler(board(lambda t_s: 5000, [], END_S))
    settings = PowerSettings(idle_seconds=idle_seconds)
    PowerSession(settings, sampler, None, slept.append).measure_idle()  # type: ignore[arg-type]
    assert slept[0] == settling_s


# --- Fields of a record


def test_fields_fill_a_record_of_any_kind(clock: Any) -> None:
    session, _, _ = clock(board(lambda t_s: 5000, RUNS, END_S))
    session.measure_idle()
    record = Record(flags=["few_power_samples"])
    session.window(*RUNS[0]).fill(record)
    session.window(*RUNS[0]).fill(record)  # once more, as when its block has closed
    assert record.energy_joule == pytest.approx(50, abs=0.4) and record.power_source == "tegrastats"
    assert record.flags == ["few_power_samples"] and record.temp_max_c == 31.0  # the feed has no sensor


def test_a_flag_that_no_longer_holds_is_withdrawn(clock: Any) -> None:
    """Idle power falls: net of the opening baseline alone a calm window was below zero."""
    session, sampler, _ = clock(board(lambda t_s: 6000 - 1000 * t_s / 110, [], END_S))
    session.measure_idle()
    record = Record(flags=["few_power_samples"])
    session.window(50.0, 55.0).fill(record)
    assert record.flags == ["few_power_samples", "negative_energy"]
    sampler.now_s = CLOSING_S
    session.measure_idle()
    session.window(49.0, 53.0).fill(record)
    assert "few_power_samples" in record.flags and "idle_drift" in record.flags
    assert ("negative_energy" in record.flags) == ((record.energy_joule or 0) < 0)
    assert abs(record.energy_joule or 9) < 0.2


def test_the_names_are_the_run_records() -> None:
    names = {one.name for one in fields(RunRecord)}
    own = {one.name for one in fields(PowerFields)}
    assert own - {"idle_drift_mw"} <= names
    assert set(power.WINDOW_FIELDS) | set(power.SOURCE_FIELDS) | set(power.HEAT_FIELDS) | {"flags"} == own


# --- With real processes


def start(said: list[str], **settings: Any) -> Any:
    return PowerSession.start(PowerSettings(idle_seconds=0.3, settle_seconds=0.0, **settings), said.append)


def wait_for_samples(session: PowerSession, count: int) -> None:
    """Until there are so many samples more."""
    assert session.trace is not None
    until_s, before = time.monotonic() + 90, len(session.trace.t_s)
    while len(session.trace.t_s) < before + count:
        assert time.monotonic() < until_s, "no samples come"
        time.sleep(0.01)


def test_a_session_measures_beside_the_work(tmp_path: Path) -> None:
    said: list[str] = []
    with start(said, feed=QUICK, interval_ms=10, trace_path=tmp_path / "new/folder/trace.csv") as session:
        assert said == ["power: feed, rail VDD_IN, scope module"] and session.missing is None
        session.new_resident()
        session.measure_idle()
        t0_s = time.monotonic()
        wait_for_samples(session, 12)
        fields = session.window(t0_s, time.monotonic())
        assert session.environment()["rail"] == "VDD_IN" and session.trace is not None
    assert fields.energy_joule == pytest.approx(0, abs=0.01) and fields.temp_max_c == 45.0
    assert (fields.power_source, fields.power_rail, fields.power_scope) == ("feed", "VDD_IN", "module")
    assert (tmp_path / "new/folder/trace.csv").read_text().count("VDD_IN") > 10


def test_a_replay_is_labelled() -> None:
    said: list[str] = []
    with start(said, source=f"replay:{ROOT / 'data/demo/power_replay.log'}") as session:
        t0_s = time.monotonic()
        time.sleep(0.3)
        assert "simulated_power" in session.window(t0_s, time.monotonic()).flags
        assert session.environment()["simulated"] is True
    assert said == ["power: replay, rail VDD_IN, scope module, SIMULATED"]


@pytest.mark.parametrize("source", ["none", "auto"])
def test_without_power_the_work_goes_on(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("edgebench.power.feeds.SOURCES", {})
    said: list[str] = []
    with start(said, source=source, trace_path=tmp_path / "no/such/trace.csv") as session:
        assert session.missing and session.missing.startswith("no power source: ")
        assert said == [f"{session.missing}; energy will be null"]
        assert not session.idle_due and session.measure_idle() is None and session.idle is None
        fields = session.window(1.0, 2.0)
    assert fields == PowerFields(energy_missing=session.missing, flags=("no_power",))
    assert session.environment() == {"missing": session.missing} and session.info.source == "none"


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "rapl"},
        {"source": "tegrastats"},
        {"feed": "false"},
        {"source": "replay:/no/such"},
        {"source": "usb"},
    ],
)
def test_what_was_asked_for_by_name_and_does_not_work_is_an_error(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "false").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "false").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if "feed" in settings else str(tmp_path))
    with pytest.raises(SamplerError), start([], **settings):
        pass


def test_a_trace_that_cannot_be_written_stops_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError), start([], feed=QUICK, trace_path=tmp_path / "file/trace.csv"):
        pass


def test_the_feeds_own_lines_are_handed_on_with_their_times() -> None:
    """A sweep keeps them, for what else they say."""
    lines: list[tuple[float, str]] = []
    settings = PowerSettings(feed=QUICK, interval_ms=10, idle_seconds=0.3, settle_seconds=0.0)
    with PowerSession.start(settings, lambda _: None, lambda t_s, line: lines.append((t_s, line))) as session:
        session.measure_idle()
        assert session.idle is not None and session.idle.mean_mw == 5000
        wait_for_samples(session, 10)
        trace = session.trace
    assert trace is not None and len(trace.t_s) > 10
    assert [t_s for t_s, line in lines if "VDD_IN 5000mW" in line] == list(trace.t_s)


def test_a_feed_that_loses_its_rail_costs_energy_and_not_the_campaign(tmp_path: Path) -> None:
    # It lives on and prints another rail. That is no fault of --idle_seconds, and totals never mix.
    gone = tmp_path / "gone"
    loop = f"while :; do if [ -e {gone} ]; then echo VIN 9000mW/9000mW; else echo VDD_IN 5000mW/5000mW; fi"
    feed = f"sh -c '{loop}; sleep 0.01; done'"
    said: list[str] = []
    settings = PowerSettings(feed=feed, interval_ms=20, idle_seconds=0.2, settle_seconds=0.0)
    with PowerSession.start(settings, said.append) as session:
        session.measure_idle()
        assert session.idle is not None and session._sampler is not None
        session._sampler._silent_s = 0.5  # two seconds otherwise
        gone.touch()
        t0_s = time.monotonic() + 0.1
        fields = session.window(t0_s, t0_s + 0.3)
        assert fields.energy_joule is None
        assert fields.energy_missing is not None
        assert fields.energy_missing.endswith("the power feed prints lines without VDD_IN")
        assert session.idle_due
        assert session.measure_idle() is None
        assert session.idle is None
        assert "energy will be null until it is back" in said[-1]
        gone.unlink()
        session.measure_idle()
        assert session.idle is not None
        assert session.info.rail == "VDD_IN"
