"""Sensors of every kind, played by files and modules: right rails, units and words, no invented numbers."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import tegrastats_sampler as power
from edgebench.power import feeds
from tests.doors import call, command

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
import power_trees

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "data/demo/power_replay.log"
DOOR = "tegrastats_sampler.py"
ANNOUNCE = "# power_feed "
Lines = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture(autouse=True)
def made_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made driver stands for the real one; FAKE_NVML says what it plays."""
    monkeypatch.syspath_prepend(ROOT / "tests/fakes/nvml")
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("FAKE_NVML", "none")


def process(*words: object) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a feed that is a process of its own."""
    return command(DOOR, "feed", *words), os.environ | {"PYTHONPATH": str(ROOT / "tests/fakes/nvml")}


def once(*words: object, nvml: str = "none") -> subprocess.CompletedProcess[str]:
    return call(DOOR, "feed", *words, env={"FAKE_NVML": nvml})


class Clock:
    """Stands for the module time: it goes on by what is slept."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Enough(Exception):
    """So many lines were wanted."""


class Printed(io.StringIO):
    """What a feed prints, until there is enough of it."""

    def __init__(self, clock: Clock, count: int, after: Callable[[], object] | None) -> None:
        super().__init__()
        self.clock, self.count, self.after = clock, count, after
        self.times_s: list[float] = []  # of the lines

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.endswith("\n"):
            self.times_s.append(self.clock.now_s)
            if len(self.times_s) > self.count:
                raise Enough
            if self.after and len(self.times_s) == self.count // 2 + 1:
                self.after()
        return written


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The feed's: its pauses take no time."""
    made = Clock()
    monkeypatch.setattr(feeds, "time", made)
    return made


@pytest.fixture
def print_feed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Printed]:
    """A function that is a feed, as the door is it, until it has printed its announcement and so many lines.

    `after` is called when half of them are printed.
    """

    def be_a_feed(count: int, *words: object, nvml: str = "none", after: Any = None) -> Printed:
        printed = Printed(clock, count, after)
        monkeypatch.setenv("FAKE_NVML", nvml)
        monkeypatch.setattr(sys, "stdout", printed)
        pipe_broken = signal.getsignal(signal.SIGPIPE)
        args = power.build_parser().parse_args(["feed", *map(str, words)])
        try:
            with pytest.raises(Enough):
                power.feed(args)
        finally:
            signal.signal(signal.SIGPIPE, pipe_broken)
        return printed

    return be_a_feed


@pytest.fixture
def lines_of(print_feed: Callable[..., Printed]) -> Lines:
    """A function: the announcement of a feed, and its first lines."""

    def heard(count: int, *words: object, **more: Any) -> tuple[dict[str, Any], list[str]]:
        head, *lines = print_feed(count, *words, **more).getvalue().splitlines()
        return json.loads(head.removeprefix(ANNOUNCE)), lines

    return heard


@pytest.mark.parametrize(
    ("tree", "total_mw", "rail", "scope", "rails"),
    [
        ("orin_nano", 5040, "VDD_IN", "module", {"VDD_IN": 5040, "VDD_CPU_GPU_CV": 484, "VDD_SOC": 1452}),
        (
            "agx_orin", 2793 - 399 + 3213, "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", "module",
            {"VDD_GPU_SOC": 2793, "VDD_CPU_CV": -399, "VIN_SYS_5V0": 3213, "VDDQ_VDD2_1V8AO": 301},
        ),
        (
            "thor", 16802, "VIN", "board",
            {"VDD_GPU": 0, "VDD_CPU_SOC_MSS": 5538, "VIN_SYS_5V0": 5037, "VIN": 16802},
        ),
        ("nano", 2793, "POM_5V_IN", "board", {"POM_5V_IN": 2793, "POM_5V_GPU": 76, "POM_5V_CPU": 1222}),
    ],
)  # fmt: skip
def test_sysfs_gives_every_board_its_rails(
    tree: str, total_mw: int, rail: str, scope: str, rails: dict[str, int], tmp_path: Path, lines_of: Lines
) -> None:
    getattr(power_trees, tree)(tmp_path)
    said, lines = lines_of(2, "--source", "ina3221", "--sys", tmp_path, "--interval", 10)
    assert (said["source"], said["rail"], said["simulated"], said["interval_ms"]) == (
        "ina3221",
        None,
        False,
        10,
    )
    reading = power.parse_line(lines[0])
    assert reading.rails == rails
    assert (reading.total_mw, reading.total_rail, reading.scope) == (total_mw, rail, scope)


def test_sysfs_follows_the_sensor_and_states_its_step(tmp_path: Path, lines_of: Lines) -> None:
    power_trees.orin_nano(tmp_path)
    current = tmp_path / "class/hwmon/hwmon4/curr1_input"
    said, lines = lines_of(
        20,
        "--source",
        "ina3221",
        "--sys",
        tmp_path,
        "--interval",
        10,
        after=lambda: current.write_text("2000\n"),
    )
    assert said["quantum_mw"]["VDD_IN"] == pytest.approx(40.32)  # 40 uV / 5 mOhm = 8 mA, times 5.04 V
    assert lines[0].startswith("cpu@42.937C tj@43.093C VDD_IN 5040mW/5040mW ")
    assert (
        "VDD_IN 10080mW/" in lines[-1] and "VDD_IN 10080mW/10080mW" not in lines[-1]
    )  # second: mean since start


def test_a_sensor_that_cannot_be_read_is_left_out_and_not_zero(tmp_path: Path, lines_of: Lines) -> None:
    power_trees.orin_nano(tmp_path)
    (tmp_path / "class/hwmon/hwmon4/curr2_input").write_text(
        ""
    )  # sysfs answers nothing while the bus is busy
    (tmp_path / "class/thermal/thermal_zone0/temp").write_text("")
    _, lines = lines_of(2, "--source", "ina3221", "--sys", tmp_path, "--interval", 10)
    assert set(power.parse_line(lines[1]).rails) == {"VDD_IN", "VDD_SOC"}
    assert "cpu@" not in lines[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    power_trees.nano(tmp_path)
    file = tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input"
    file.chmod(0)
    done = once("--source", "ina3221", "--sys", tmp_path)
    assert done.returncode == 1 and "sudo chmod a+r" in done.stderr and str(file) in done.stderr


@pytest.mark.parametrize(("nvml", "mw"), [("card", 72_345), ("old", 61_000)])
def test_nvml_prefers_instantaneous_power(nvml: str, mw: int, tmp_path: Path, lines_of: Lines) -> None:
    said, lines = lines_of(2, "--source", "nvml", "--interval", 10, nvml=nvml)
    assert (said["source"], said["rail"], said["scope"]) == ("nvml", "GPU0", "gpu")
    assert lines[0] == f"gpu@55C GPU0 {mw}mW/{mw}mW"
    assert ("instantaneous" in said["origin"]) == (nvml == "card")


@pytest.mark.parametrize(("interval_ms", "lines"), [(10, 3), (50, 3), (100, 12)])
def test_a_reading_that_nvml_repeats_is_no_new_sample(interval_ms: int, lines: int) -> None:
    """An H200 gave a new reading every 100 ms, however often it was asked: its repeats are no samples."""
    is_new = feeds.fresh_readings(interval_ms)
    steps = range(0, 300 if interval_ms < 100 else 1200, interval_ms)
    assert sum(is_new(78_045.0, ms / 1000) for ms in steps) == lines  # a steady card still prints
    # Another value is another reading, whenever it comes.
    assert is_new(78_367.0, 1.201) and is_new(78_045.0, 1.202)


@pytest.mark.parametrize(("nvml", "words"), [("jetson", "Not Supported"), ("none", "Library Not Found")])
def test_nvml_without_power_says_so(nvml: str, words: str) -> None:
    done = once("--source", "nvml", nvml=nvml)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""
    assert once("--source", "nvml", "--gpu", 3, nvml="card").returncode == 1


def test_a_lost_card_ends_the_feed_with_the_reason() -> None:
    done = once("--source", "nvml", "--interval", 50, nvml="lost")
    assert done.returncode == 1 and "NVML lost GPU 0: GPU is lost" in done.stderr


def test_rapl_counts_packages_once_and_survives_the_wrap(tmp_path: Path, lines_of: Lines) -> None:
    limit_uj = 10_000_000
    power_trees.rapl(tmp_path, energy_uj=9_999_000, limit_uj=limit_uj)
    counter = tmp_path / "class/powercap/intel-rapl:0/energy_uj"
    said, lines = lines_of(
        6, "--source", "rapl", "--sys", tmp_path, "--interval", 50, after=lambda: counter.write_text("4000\n")
    )
    assert (said["rail"], said["scope"]) == ("PACKAGE0", "package")
    powers = [power.parse_line(line).rails["PACKAGE0"] for line in lines]
    assert powers[0] == 0 and all(power_mw >= 0 for power_mw in powers)
    assert 0 < max(powers) <= 5 / 0.02  # 5 mJ over the wrap, and not 10 J backwards


def test_auto_says_what_it_took_and_why_not_the_others(tmp_path: Path) -> None:
    power_trees.rapl(tmp_path)
    words, env = process("--sys", tmp_path, "--interval", 10)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=env) as feed:
        assert feed.stdout and feed.stderr
        assert json.loads(feed.stdout.readline().removeprefix(ANNOUNCE))["source"] == "rapl"
        said = feed.stderr.readline()
        feed.terminate()
    assert "took rapl" in said and "ina3221: no ina3221 sensor" in said and "nvml: " in said
    nothing = once("--sys", tmp_path / "empty")
    assert nothing.returncode == 1 and all(
        f"{name}: " in nothing.stderr for name in ("ina3221", "nvml", "rapl")
    )


def test_a_look_at_what_there_is_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power_trees.rapl(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert feeds.probe(feeds.FeedRequest(sysfs=tmp_path)).source == "rapl"
    with pytest.raises(feeds.NoSource, match=r"ina3221: .*nvml: .*rapl: "):
        feeds.probe(feeds.FeedRequest(sysfs=tmp_path / "empty"))
    power_trees.orin_nano(tmp_path)
    monkeypatch.setenv("FAKE_NVML", "card")
    assert feeds.probe(feeds.FeedRequest(sysfs=tmp_path)).source == "ina3221"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_none_announces_itself_and_ends() -> None:
    done = once("--source", "none")
    assert done.returncode == 0 and json.loads(done.stdout.removeprefix(ANNOUNCE))["source"] == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "usb"], "unknown source 'usb'"),
        (["--source", "replay:"], "unknown source"),
        (["--source", "replay:/no/file"], "cannot read /no/file"),
    ],
)
def test_bad_arguments_are_clear_errors(words: list[str], message: str) -> None:
    done = once(*words)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and message in done.stderr


@pytest.mark.parametrize("words", [["--interval", "0"], ["--interval", "5"], ["--speed", "0"]])
def test_a_number_out_of_its_range_is_a_usage_error(words: list[str]) -> None:
    done = once(*words)
    assert done.returncode == 2 and "usage: " in done.stderr and words[0] in done.stderr


# --- replay


def test_the_demo_log_replays_as_simulated_power_and_loops(lines_of: Lines) -> None:
    rows = [row for row in DEMO.read_text().splitlines() if not row.startswith("#")]
    said, lines = lines_of(len(rows) + 3, "--source", f"replay:{DEMO}", "--speed", 1000)
    assert (said["source"], said["simulated"], said["rail"], said["loops"]) == (
        "replay",
        True,
        "VDD_IN",
        True,
    )
    assert said["interval_ms"] == pytest.approx(0.1) and lines[: len(rows)] == rows
    assert lines[len(rows) :] == rows[:3]
    assert "made" in DEMO.read_text().lower() and DEMO.stat().st_size < 400_000


def test_a_replay_keeps_the_pace_of_the_log(tmp_path: Path, lines_of: Lines) -> None:
    log = tmp_path / "dated.log"
    stamped = [f"05-17-2026 22:11:{k // 4 + 10:02d} RAM 1/2MB VDD_IN {5000 + k}mW/5000mW" for k in range(40)]
    log.write_text("\n".join(["junk", *stamped]) + "\n")
    said, _ = lines_of(1, "--source", f"replay:{log}", "--speed", 100)
    assert said["interval_ms"] == pytest.approx(9 / 39 * 1000 / 100, rel=0.01) and said["rail"] is None
    log.write_text("VDD_IN 5000mW/5000mW\n" * 5)
    assert lines_of(1, "--source", f"replay:{log}", "--interval", 20)[0]["interval_ms"] == 20


def test_a_recorded_trace_replays_with_its_rail_and_its_times(
    tmp_path: Path, lines_of: Lines, clock: Clock
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "t_s,power_mw,rail,scope,source,temp_c\n7.0,5000,VIN,board,tegrastats,50.5\n7.1,6000,VIN,board,tegrastats,\n"
    )
    began_s = clock.now_s
    said, lines = lines_of(4, "--source", f"replay:{trace}", "--speed", 2)
    assert clock.now_s - began_s == pytest.approx(0.2)  # 4 x 100 ms, twice as fast
    assert (said["rail"], said["scope"], said["simulated"]) == ("VIN", "board", True)
    assert lines == ["tj@50.5C VIN 5000mW/5000mW", "VIN 6000mW/6000mW"] * 2


def test_a_pause_in_a_recorded_trace_is_no_dead_feed(
    tmp_path: Path, print_feed: Callable[..., Printed]
) -> None:
    """The keeper takes silence for a dead feed; a replay says meanwhile that it lives."""
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,power_mw,rail\n" + "".join(f"{t},5000,VDD_IN\n" for t in (1.0, 1.1, 1.2, 5.7, 5.8)))
    printed = print_feed(9, "--source", f"replay:{trace}")
    lines, times_s = printed.getvalue().splitlines(), printed.times_s
    assert max(then_s - now_s for now_s, then_s in pairwise(times_s)) <= feeds.ALIVE_S + 1e-9
    silence_s = power.TegrastatsSampler(power.find_feed(f"replay:{trace}"))._silent_s
    assert silence_s >= 2 * feeds.ALIVE_S
    announced = [line for line in lines if line.startswith(ANNOUNCE)]
    # At the start, once before the first line (a mean interval of 1.2 s), and four times in the pause.
    assert len(announced) == 6 and len(set(announced)) == 1
    at_s = [t_s for t_s, line in zip(times_s, lines, strict=True) if "VDD_IN 5000mW" in line]
    assert at_s[3] - at_s[2] == pytest.approx(4.5)  # which is kept


def test_a_pause_is_a_gap_in_the_window_and_no_restart(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,power_mw,rail\n" + "".join(f"{t},5000,VDD_IN\n" for t in (1.0, 1.1, 1.2, 2.1, 2.2)))
    with power.TegrastatsSampler(power.find_feed(f"replay:{trace}")) as sampler:
        t0 = time.monotonic()
        while len(sampler.trace.t_s) < 4 and time.monotonic() < t0 + 60:
            time.sleep(0.05)
        window = sampler.window(t0, sampler.trace.last_s(), 4000.0)
    assert "power_gap" in window.flags and "feed_restarted" not in window.flags
    assert (sampler.info.source, sampler.info.rail) == ("replay", "VDD_IN")


def test_a_zone_that_may_not_be_read_is_no_reason_to_have_no_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_of: Lines
) -> None:
    power_trees.orin_nano(tmp_path)
    zone = tmp_path / "class/thermal/thermal_zone0/temp"
    zone.unlink()
    monkeypatch.chdir(zone.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as unopenable:  # even by root
        unopenable.bind(zone.name)
    power_trees.write(tmp_path / "class/thermal/thermal_zone3", {"type": "gpu-thermal", "temp": 41000})
    _, lines = lines_of(1, "--source", "ina3221", "--sys", tmp_path, "--interval", 10)
    assert "gpu@41C" in lines[0] and "cpu@" not in lines[0] and "VDD_IN 5040mW" in lines[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t_s,power_mw\n2.0,5000\n1.0,5000\n", "line 3: time runs backwards"),
        ("t_s,power_mw\n2.0,much\n", "line 2 is no sample of a trace"),
        ("", "no lines"),
        ('# power_feed {"rail\nVDD_IN 1mW\n', "announcement"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_an_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    done = once("--source", f"replay:{tmp_path / 'file'}")
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_a_sampled_replay_is_labelled_in_every_window() -> None:
    choice = power.find_feed(f"replay:{DEMO}")
    with power.TegrastatsSampler(choice) as sampler:
        t0, deadline_s = time.monotonic(), time.monotonic() + 90
        while len(sampler.trace.t_s) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        window = sampler.window(t0, sampler.trace.last_s(), None)
    assert "simulated_power" in window.flags and sampler.info.simulated
    assert (sampler.info.source, sampler.info.rail, sampler.info.origin) == ("replay", "VDD_IN", DEMO.name)
    assert 4000 < (window.power_mw_mean or 0) < 5500 and window.temp_max_c


def test_the_feed_ends_with_its_reader(tmp_path: Path) -> None:
    words, env = process("--source", f"replay:{DEMO}", "--speed", 10)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as feed:
        assert feed.stdout and feed.stderr
        feed.stdout.readline()
        feed.stdout.close()
        assert feed.wait(120) == -13 and feed.stderr.read() == b""


# --- Logs that PowerShell wrote

ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig"]
LINES = [
    "05-13-2026 12:05:24 RAM 1742/7620MB (lfb 41x4MB) CPU [1%@729] cpu@42.9C tj@43.0C VDD_IN 5040mW/5016mW",
    "05-13-2026 12:05:25 RAM 1742/7620MB (lfb 41x4MB) CPU [1%@729] cpu@42.9C tj@44.5C VDD_IN 9999mW/5016mW",
]
FIELD_CASE = ROOT.parent / "shared/data/field-cases/collector/tegrastats_utf16.log"


def parsed(log: Path, through_pipe: bool = False) -> list[dict[str, Any]]:
    done = call(DOOR, "parse", "-" if through_pipe else log, stdin=log.read_bytes())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_redirected_log_is_read_by_parse_and_by_replay(
    encoding: str, newline: str, tmp_path: Path, lines_of: Lines
) -> None:
    log = tmp_path / "some.log"
    log.write_bytes("".join(line + newline for line in LINES).encode(encoding))
    for rows in (parsed(log), parsed(log, through_pipe=True)):
        powers = [row["total_mw"] for row in rows if row["total_mw"] is not None]
        assert powers == [5040, 9999] and rows[1]["temps_c"] == {"cpu": 42.9, "tj": 44.5}
    said, lines = lines_of(3, "--source", f"replay:{log}", "--speed", 100)
    assert lines == [*LINES, LINES[0]] and said["interval_ms"] == 10  # a second between two stamps


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_feed_that_speaks_utf_16_is_heard(encoding: str, tmp_path: Path) -> None:
    log = tmp_path / "lines"
    log.write_bytes("".join(line + "\r\n" for line in LINES).encode(encoding))
    feed = f"sh -c 'while :; do cat {log}; sleep 0.02; done'"
    with power.TegrastatsSampler(power.find_feed(feed=feed, interval_ms=10), 10) as sampler:
        t0 = time.monotonic()
        deadline_s = t0 + 30
        while len(sampler.trace.t_s) < 10 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        window = sampler.window(t0, sampler.trace.last_s(), None)
    assert (sampler.info.rail, window.power_mw_max, window.temp_max_c) == ("VDD_IN", 9999, 44.5)


def test_a_hole_in_a_log_is_no_utf_16(tmp_path: Path) -> None:
    """A power cut leaves zeros where the last block was to be."""
    log = tmp_path / "some.log"
    log.write_bytes(LINES[0].encode() + b"\n" + b"\0" * 300 + b"VDD_IN 1mW/1mW\n" + b"\0VDD_IN 70mW\n")
    assert [row["total_mw"] for row in parsed(log)] == [5040, None, None]


@pytest.mark.skipif(not FIELD_CASE.exists(), reason="needs the collected log")
def test_the_field_log_is_read() -> None:
    rows = [row for row in parsed(FIELD_CASE) if row["total_mw"] is not None]
    assert rows and all(row["total_rail"] for row in rows)


@pytest.mark.parametrize(
    "said", ['{"source": "simulated"}', '{"source": "replay"}', '{"source": "x", "simulated": true}']
)
def test_power_that_was_made_up_is_labelled_however_it_says_so(said: str, tmp_path: Path) -> None:
    """In a window, in what the session says of its source, and in a trace that is integrated later."""
    lines = tmp_path / "feed.sh"
    lines.write_text(f"echo '{ANNOUNCE}{said}'\nwhile :; do echo VDD_IN 5000mW; sleep 0.01; done\n")
    trace = tmp_path / "trace.csv"
    choice = power.find_feed(feed=f"sh {lines}", interval_ms=10)
    with power.TegrastatsSampler(choice, 10, trace_path=trace) as sampler:
        t0 = time.monotonic()
        deadline_s = t0 + 30
        while sampler.trace.last_s() < t0 + 0.2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert "simulated_power" in sampler.window(t0, t0 + 0.1, None).flags and sampler.info.simulated
    if '"x"' not in said:  # a trace names its source, and no more
        done = call(DOOR, "integrate", trace)
        assert "simulated_power" in json.loads(done.stdout)["flags"]
