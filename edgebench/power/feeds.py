"""Feeds of ours: power lines in tegrastats' grammar from other sensors; and the choice of a feed.

Sources: ina3221 (a Jetson's sensors read from sysfs, cheaper and faster than tegrastats), nvml (an NVIDIA
card), rapl (energy counters of an x86 processor), replay:FILE (a tegrastats log or a recorded trace, labelled
simulated, from its start again when it ends), simulated (a made-up board that follows this machine's CPU
load, labelled so, never chosen by auto). A feed is a process of its own. Its first line says what follows:

  # power_feed {"format": 1, "source": "ina3221", "rail": null, "scope": null, "interval_ms": 20, ...}
  tj@43.5C VDD_IN 5040mW/5016mW VDD_CPU_GPU_CV 480mW/492mW VDD_SOC 1440mW/1441mW

Values are mW now / mean since the start. A null rail means: the board's rails are printed, and the reader
knows which of them make its total. A sensor that cannot be read is left out of its line, never printed as 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from edgebench.board.thermal import zone_name
from edgebench.power.trace import SamplerError
from edgebench.power.trace_file import TraceReader, open_text
from edgebench.shell.launch import room_command

MIN_INTERVAL_MS, MAX_INTERVAL_MS = 10, 60_000  # an INA3221 converts its three channels every 6.6 ms
INA3221_STEP_UV = 40  # over the shunt
INA3221_READ_MS = 5.0  # four rails of two registers take 4.4 ms on an AGX Orin: so old is the first of a line
NVML_MEAN_MS = 1000.0
# So long a reading stands in NVML: an H200 (driver 580.159) has a new one every 100 ms, however often asked.
NVML_REFRESH_MS = 100.0
CPU_TIMES = Path("/proc/stat")
# Idle power and what comes on top of it at full load, per rail of a board that was made up in an Orin Nano's
# order of magnitude. Nobody measured these.
SIMULATED_BOARD_MW = {
    "VDD_IN": (4600.0, 9000.0),
    "VDD_CPU_GPU_CV": (480.0, 6400.0),
    "VDD_SOC": (1440.0, 800.0),
}
SIMULATED_STEP_MW = 40.0  # as of the board's INA3221: 40 uV over 5 mOhm is 8 mA, at 5 V
TEMPERATURE_S = 1.0  # thermal zones change slowly and are slow to read: once a second is enough
LONGEST_STAMP_STEP_S = 10.0  # a larger step between two lines of a log: two logs in one file
ANNOUNCE = "# power_feed "
ALIVE_S = 1.0  # a pause in a log is no dead feed: so often it says that it lives (two silent seconds are)
NO_TEGRASTATS = "there is no tegrastats on PATH"


class FeedError(SamplerError):
    """Why a source does not work here, and what would help."""


class NoSource(FeedError):
    """There is no sensor here: nothing was mistyped."""


@dataclass(frozen=True)
class FeedRequest:
    """What shall be sampled, and how."""

    source: str = "auto"  # auto, ina3221, nvml, rapl, simulated, replay:FILE, none
    interval_ms: int = 100
    speed: float = 1.0  # of a replay
    gpu: int = 0  # as nvidia-smi counts them
    nvml_power: str = "instant"  # or mean: NVML's two readings
    sysfs: Path = Path("/sys")

    def words(self) -> list[str]:
        """The request as words of a command line; from_words() reads them."""
        return [f"{name}={value}" for name, value in vars(self).items()]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> FeedRequest:
        """The request that these words say.

        >>> FeedRequest.from_words(FeedRequest("nvml", gpu=1).words()).gpu
        1
        """
        said = dict(word.split("=", 1) for word in words)
        return cls(
            source=said["source"],
            interval_ms=int(said["interval_ms"]),
            speed=float(said["speed"]),
            gpu=int(said["gpu"]),
            nvml_power=said["nvml_power"],
            sysfs=Path(said["sysfs"]),
        )


@dataclass(frozen=True)
class FeedChoice:
    """The command that will print power lines; None where there is no power source, and why."""

    command: tuple[str, ...] | None
    source: str
    reason: str | None

    @property
    def paced_s(self) -> float | None:
        """The interval it was told to sleep between samples; None where its pace is its own."""
        words = self.command or ()
        if self.source != "tegrastats" or "--interval" not in words[:-1]:
            return None
        value = words[words.index("--interval") + 1]
        return int(value) / 1000 if value.isdigit() else None


class Sample(NamedTuple):
    """What one reading of the sensors gave; a rail that could not be read is missing."""

    rails_mw: dict[str, float]
    temps_c: dict[str, float]


@dataclass(frozen=True)
class Source:
    """The announcement of a feed."""

    source: str
    rail: str | None
    scope: str | None
    origin: str
    interval_ms: float = 0.0
    simulated: bool = False
    quantum_mw: dict[str, float] = field(default_factory=dict)  # what one step of each rail's sensor is worth
    lag_ms: float | None = None  # by how much a value may be older than its line; null: not known
    format: int = 1


Read = Callable[[], Sample]
Held = contextlib.ExitStack  # what a source holds open, and how that is given back


def read_text(path: Path) -> str:
    """Contents of a small sysfs file, or '' without it; FeedError where only root may read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError as exc:
        raise FeedError(f"no permission to read {path}: run as root, or `sudo chmod a+r {path}`") from exc
    except OSError:
        return ""


def opened(path: Path, held: Held) -> Callable[[], float]:
    """A function that reads the number in a sysfs file again and again, until `held` closes it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as exc:
        raise FeedError(
            f"cannot open {path}: {exc.strerror}; run as root, or `sudo chmod a+r {path}`"
        ) from exc
    held.callback(os.close, fd)
    return lambda: float(os.pread(fd, 64, 0))


def scaled(read: Callable[[], float], factor: float) -> Callable[[], float]:
    """The same reading in another unit."""
    return lambda: read() * factor


def power_of(voltage: Callable[[], float], current: Callable[[], float]) -> Callable[[], float]:
    """mV times mA in mW."""
    return lambda: voltage() * current() / 1000


def hwmon_rails(sysfs: Path, held: Held) -> dict[str, tuple[Callable[[], float], float | None]]:
    """Rails of the mainline drivers (JetPack 5 on): ina3221, and Thor's ina238, which is its VIN.

    hwmon numbers change from boot to boot, so chips are known by name and channels by label. Channels 4 to 7
    of an ina3221 are shunt voltages and their sum, no rails.
    """
    rails: dict[str, tuple[Callable[[], float], float | None]] = {}
    for chip in sorted(sysfs.glob("class/hwmon/hwmon*")):
        name = read_text(chip / "name")
        if name == "ina238" and (chip / "power1_input").exists():
            microwatt = opened(chip / "power1_input", held)
            rails["VIN"] = scaled(microwatt, 1 / 1000), None
        for k in (1, 2, 3) if name == "ina3221" else ():
            label = read_text(chip / f"in{k}_label").replace(" ", "_")
            if label in ("", "NC") or label in rails or read_text(chip / f"in{k}_enable") == "0":
                continue
            voltage = opened(chip / f"in{k}_input", held)
            current = opened(chip / f"curr{k}_input", held)
            step_ma = shunt_step_ma(read_text(chip / f"shunt{k}_resistor"))
            step_mw = None if step_ma is None else step_ma * readable(voltage) / 1000
            rails[label] = power_of(voltage, current), step_mw
    return rails


def shunt_step_ma(shunt_uohm: str) -> float | None:
    """What one step of an INA3221 is worth in mA at this shunt; None where the driver does not say.

    >>> shunt_step_ma("5000"), shunt_step_ma("")
    (8.0, None)
    """
    if not shunt_uohm.isdigit() or int(shunt_uohm) == 0:
        return None
    return INA3221_STEP_UV * 1000 / float(shunt_uohm)


def readable(read: Callable[[], float]) -> float:
    """The number, or 0 while the sensor cannot be read."""
    try:
        return read()
    except (OSError, ValueError):
        return 0.0


def iio_rails(sysfs: Path, held: Held) -> dict[str, tuple[Callable[[], float], float | None]]:
    """Rails of NVIDIA's driver in JetPack 4: rail_name_0..2 and in_power0..2_input in mW, at any address."""
    rails: dict[str, tuple[Callable[[], float], float | None]] = {}
    for device in sorted(sysfs.glob("bus/i2c/drivers/ina3221x/*/iio:device*")):
        for k in (0, 1, 2):
            label = read_text(device / f"rail_name_{k}").replace(" ", "_")
            if label not in ("", "NC") and label not in rails:
                rails[label] = opened(device / f"in_power{k}_input", held), None
    return rails


def thermal_zones(sysfs: Path, held: Held) -> dict[str, Callable[[], float]]:
    """Temperatures by tegrastats' names: zone `tj-thermal` is tj."""
    zones: dict[str, Callable[[], float]] = {}
    for zone in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        name = zone_name(read_text(zone / "type"))
        if name and (zone / "temp").exists():
            with contextlib.suppress(FeedError):  # a zone that may not be read is no reason to have no power
                zones[name] = opened(zone / "temp", held)
    return zones


def open_ina3221(request: FeedRequest, held: Held) -> tuple[Source, Read]:
    """The INA3221 and INA238 sensors of a Jetson, straight from sysfs."""
    rails = {**iio_rails(request.sysfs, held), **hwmon_rails(request.sysfs, held)}
    if not rails:
        raise FeedError(
            f"no ina3221 sensor below {request.sysfs}: this is no Jetson, or its driver is not loaded"
        )
    zones = thermal_zones(request.sysfs, held)
    temps_c: dict[str, float] = {}
    due_s = 0.0

    def read() -> Sample:
        nonlocal due_s
        if time.monotonic() >= due_s:
            temps_c.clear()
            temps_c.update({name: temp_mc / 1000 for name, temp_mc in read_all(zones).items()})
            due_s = time.monotonic() + TEMPERATURE_S
        return Sample(read_all({name: rail[0] for name, rail in rails.items()}), temps_c)

    quantum_mw = {name: round(step, 3) for name, (_, step) in rails.items() if step}
    source = Source("ina3221", None, None, str(request.sysfs), quantum_mw=quantum_mw, lag_ms=INA3221_READ_MS)
    return source, read


def read_all(sensors: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Every number that can be read now: a zone that is powered down answers EAGAIN, a busy bus EIO."""
    numbers = {}
    for name, read in sensors.items():
        try:
            numbers[name] = read()
        except (OSError, ValueError):
            continue
    return numbers


def shut_down(pynvml: ModuleType) -> None:
    """Let NVML go; a card that was lost meanwhile is no fault at the end."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()


def open_nvml(request: FeedRequest, held: Held) -> tuple[Source, Read]:
    """An NVIDIA card through NVML: instantaneous power where the driver has it, else its one-second mean."""
    try:
        import pynvml
    except ImportError as exc:
        raise FeedError("nvidia-ml-py is not installed: pip install nvidia-ml-py") from exc
    try:
        pynvml.nvmlInit()
        held.callback(shut_down, pynvml)
        card = pynvml.nvmlDeviceGetHandleByIndex(request.gpu)
        name = pynvml.nvmlDeviceGetName(card)
        pynvml.nvmlDeviceGetPowerUsage(card)
    except pynvml.NVMLError as exc:
        # On a Jetson NVML starts, then answers every question about power with "Not Supported".
        raise FeedError(f"NVML gives no power for GPU {request.gpu}: {exc}") from exc

    def instant_mw() -> float | None:
        answer = pynvml.nvmlDeviceGetFieldValues(card, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        return float(answer.value.uiVal) if answer.nvmlReturn == pynvml.NVML_SUCCESS else None

    # Since Ampere nvmlDeviceGetPowerUsage is the mean of the last second: its edges lag half a second behind.
    try:
        instant = request.nvml_power == "instant" and bool(instant_mw())
    except (pynvml.NVMLError, AttributeError):
        instant = False
    rail = f"GPU{request.gpu}"
    is_new = fresh_readings(request.interval_ms)

    def read() -> Sample:
        try:
            power_mw = instant_mw() if instant else float(pynvml.nvmlDeviceGetPowerUsage(card))
            temp_c = float(pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU))
        except pynvml.NVMLError as exc:
            raise FeedError(f"NVML lost GPU {request.gpu}: {exc}") from exc
        known = power_mw is not None and is_new(power_mw, time.monotonic())
        return Sample({rail: power_mw} if power_mw is not None and known else {}, {"gpu": temp_c})

    text = name.decode() if isinstance(name, bytes) else str(name)
    kind = "instantaneous" if instant else "one-second mean"
    # A mean of the last second is the power of half a second ago; how old an instant is, no driver says.
    lag_ms = None if instant else NVML_MEAN_MS / 2
    return Source("nvml", rail, "gpu", f"{text}, {kind} power", lag_ms=lag_ms), read


def fresh_readings(interval_ms: float) -> Callable[[float, float], bool]:
    """A question to each reading (value, moment in s): is it a new one of the sensor, or the last one again?

    Asked more often than it measures, a sensor repeats itself. Taken for samples, repeats would make five out
    of one and hide for how long the power is unknown. An equal value is new once a refresh has passed.
    """
    stands_s = (NVML_REFRESH_MS - interval_ms / 2) / 1000 if interval_ms < NVML_REFRESH_MS else 0.0
    last: tuple[float, float] | None = None

    def is_new(value: float, at_s: float) -> bool:
        nonlocal last
        if last is not None and value == last[0] and at_s - last[1] < stands_s:
            return False
        last = value, at_s
        return True

    return is_new


def open_rapl(request: FeedRequest, held: Held) -> tuple[Source, Read]:
    """The processor packages through RAPL: counters in uJ; power is the mean since the reading before."""
    counters: dict[str, tuple[Callable[[], float], float]] = {}
    for zone in sorted(request.sysfs.glob("class/powercap/intel-rapl:*")):
        # Top-level package zones only: core, uncore and dram are their parts, psys their whole.
        if zone.name.count(":") == 1 and read_text(zone / "name").startswith("package"):
            limit_uj = float(read_text(zone / "max_energy_range_uj") or 0)
            counters[f"PACKAGE{zone.name.split(':')[1]}"] = opened(zone / "energy_uj", held), limit_uj
    if not counters:
        raise FeedError(
            f"no RAPL package below {request.sysfs}/class/powercap: no x86 processor, or a virtual machine"
        )
    before: dict[str, tuple[float, float]] = {}

    def read() -> Sample:
        rails_mw = {}
        for name, energy_uj in read_all({name: counter[0] for name, counter in counters.items()}).items():
            t_s = time.monotonic()
            if name in before:
                used_uj = energy_uj - before[name][1]
                # The counter starts over at its limit, every few minutes under load.
                used_uj += counters[name][1] if used_uj < 0 else 0
                rails_mw[name] = used_uj / 1000 / (t_s - before[name][0])
            before[name] = t_s, energy_uj
        return Sample(rails_mw, {})

    read()
    # A mean since the reading before is the power of half an interval ago.
    source = Source(
        "rapl",
        "+".join(counters),
        "package",
        f"{request.sysfs}/class/powercap",
        lag_ms=request.interval_ms / 2,
    )
    return source, read


def cpu_times(stat: Path) -> tuple[int, int]:
    """Ticks (10 ms each) since the machine started, over all CPUs: the busy ones, and all of them.

    FeedError where the kernel does not tell.
    """
    try:
        with stat.open(encoding="ascii") as file:
            words = file.readline().split()[1:9]
        # user nice system idle iowait irq softirq steal; guest time is part of user and nice.
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, words)
    except (OSError, ValueError) as exc:
        raise FeedError(f"{stat} does not tell the load of the CPUs: this is no Linux") from exc
    busy = user + nice + system + irq + softirq
    return busy, busy + idle + iowait + steal


def open_simulated(request: FeedRequest, held: Held) -> tuple[Source, Read]:
    """A board that is not there: its power is its idle power and so many watts at the load of this machine.

    P = idle + load * dynamic for each rail, load from 0 to 1 over all CPUs since the reading before; then
    noise of one step of the sensor (a standard deviation), in whole steps.
    """
    noise = random.Random(request.interval_ms)
    before = cpu_times(CPU_TIMES)
    load = 0.0

    def read() -> Sample:
        nonlocal before, load
        now = cpu_times(CPU_TIMES)
        # Between two ticks nothing is known: the load stays what it was. Waiting times may run backwards.
        if now[1] > before[1]:
            load = min(1.0, max(0.0, (now[0] - before[0]) / (now[1] - before[1])))
            before = now
        rails_mw = {}
        for name, (idle_mw, dynamic_mw) in SIMULATED_BOARD_MW.items():
            power_mw = idle_mw + load * dynamic_mw + noise.gauss(0.0, SIMULATED_STEP_MW)
            rails_mw[name] = max(1, round(power_mw / SIMULATED_STEP_MW)) * SIMULATED_STEP_MW
        return Sample(rails_mw, {})

    source = Source(
        "simulated",
        None,
        None,
        "made up from this machine's CPU load, with an Orin Nano's rails",
        simulated=True,
        quantum_mw=dict.fromkeys(SIMULATED_BOARD_MW, SIMULATED_STEP_MW),
        lag_ms=request.interval_ms / 2,  # a mean since the reading before, as with rapl
    )
    return source, read


# In the order in which auto tries them.
SOURCES: dict[str, Callable[[FeedRequest, Held], tuple[Source, Read]]] = {
    "ina3221": open_ina3221,
    "nvml": open_nvml,
    "rapl": open_rapl,
}
# Those that measure nothing must be asked for by name.
MADE_UP: dict[str, Callable[[FeedRequest, Held], tuple[Source, Read]]] = {"simulated": open_simulated}


def find_source(request: FeedRequest, held: Held) -> tuple[Source, Read, list[str]]:
    """The source asked for, or for auto the first that works, and why not those before it.

    FeedError with the reason of each where there is none.
    """
    reasons: list[str] = []
    for name in SOURCES if request.source == "auto" else (request.source,):
        try:
            source, read = {**SOURCES, **MADE_UP}[name](request, held)
        except FeedError as exc:
            reasons.append(f"{name}: {exc}")
            continue
        return replace(source, interval_ms=request.interval_ms), read, reasons
    raise FeedError("; ".join(reasons))


def power_line(sample: Sample, means: dict[str, tuple[float, int]]) -> str:
    """One line of tegrastats' grammar; means holds (sum, count) of each rail and is brought up to date."""
    words = [f"{name}@{temp_c:g}C" for name, temp_c in sample.temps_c.items()]
    for name, power_mw in sample.rails_mw.items():
        total_mw, count = means.get(name, (0.0, 0))
        means[name] = total_mw + power_mw, count + 1
        words.append(f"{name} {power_mw:.0f}mW/{means[name][0] / means[name][1]:.0f}mW")
    return " ".join(words)


def stream(source: Source, read: Read) -> None:
    """Print a line per interval, by a clock that does not drift with the time a reading takes."""
    print(ANNOUNCE + json.dumps(asdict(source)), flush=True)
    means: dict[str, tuple[float, int]] = {}
    due_s = time.monotonic()
    while True:
        due_s = max(due_s + source.interval_ms / 1000, time.monotonic())
        time.sleep(due_s - time.monotonic() if due_s > time.monotonic() else 0)
        sample = read()
        if sample.rails_mw:
            print(power_line(sample, means), flush=True)


def load_trace(path: Path, rows: Sequence[str]) -> tuple[list[float], list[str], Source]:
    """A recorded trace: times, lines, announcement. FeedError names the row where time runs backwards."""
    times_s: list[float] = []
    lines: list[str] = []
    rail, scope = "TOTAL", None
    for row in TraceReader(path, rows):
        if times_s and not row.t_s > times_s[-1]:
            raise FeedError(f"{path} line {row.line}: time runs backwards; cut the trace there")
        named, scope = row.origin.rail or "", row.origin.scope
        rail = named if re.fullmatch(r"[A-Z][A-Z0-9_]+", named) else "TOTAL"
        heat = "" if row.temp_c is None else f"tj@{row.temp_c:g}C "
        times_s.append(row.t_s)
        lines.append(f"{heat}{rail} {row.power_mw:.0f}mW/{row.power_mw:.0f}mW")
    return times_s, lines, Source("replay", rail, scope or "board", path.name, simulated=True, lag_ms=0)


def stamp_s(line: str) -> float | None:
    """Wall-clock seconds of a line that begins as tegrastats' lines do since JetPack 5."""
    try:
        return datetime.strptime(line[:19] + "+0000", "%m-%d-%Y %H:%M:%S%z").timestamp()
    except ValueError:
        return None


def load_log(path: Path, rows: Sequence[str], interval_ms: float) -> tuple[list[float], list[str], Source]:
    """A tegrastats log, or what a feed printed: paced by its announcement, its date stamps, or --interval."""
    said: dict[str, object] = {}
    for row in rows:
        if row.startswith(ANNOUNCE):
            try:
                said = dict(json.loads(row.removeprefix(ANNOUNCE)))
            except (ValueError, TypeError) as exc:
                raise FeedError(f"{path}: its announcement is no JSON object: {row[:60]}") from exc
    lines = [row.rstrip() for row in rows if row.strip() and not row.startswith("#")]
    stamps_s = [stamp for line in lines if (stamp := stamp_s(line)) is not None]
    steps_s = [b - a for a, b in pairwise(stamps_s)]
    steps_s = [step for step in steps_s if 0 <= step <= LONGEST_STAMP_STEP_S]
    period_s = interval_ms / 1000
    if isinstance(said.get("interval_ms"), (int, float)):
        period_s = float(str(said["interval_ms"])) / 1000
    elif sum(steps_s) > 0:
        period_s = sum(steps_s) / len(steps_s)  # stamps are whole seconds: only their mean tells the period
    rail, scope = (str(said[key]) if said.get(key) else None for key in ("rail", "scope"))
    source = Source("replay", rail, scope, path.name, simulated=True, lag_ms=0)
    return [k * period_s for k in range(len(lines))], lines, source


def load_replay(request: FeedRequest) -> tuple[list[float], list[str], Source]:
    """Times in s, lines and announcement of the file behind replay:FILE."""
    path = Path(request.source.removeprefix("replay:"))
    try:
        with open_text(path) as file:
            rows = list(file)
    except OSError as exc:
        raise FeedError(f"cannot read {path}: {exc.strerror}") from exc
    is_trace = any(row.startswith("t_s,") for row in rows[:1])
    times_s, lines, source = load_trace(path, rows) if is_trace else load_log(path, rows, request.interval_ms)
    if not lines:
        raise FeedError(f"{path} has no lines to replay")
    span_s = times_s[-1] - times_s[0]
    period_s = span_s / (len(times_s) - 1) if span_s > 0 else request.interval_ms / 1000
    return times_s, lines, replace(source, interval_ms=round(period_s * 1000 / request.speed, 3))


def replay(
    times_s: list[float], lines: list[str], source: Source, speed: float
) -> Iterator[tuple[float, str]]:
    """Yield (seconds since the start, line) for ever: the log is followed by itself, one period later."""
    period_s = source.interval_ms * speed / 1000
    lap_s = times_s[-1] - times_s[0] + period_s
    lap = 0
    while True:
        for t_s, line in zip(times_s, lines, strict=True):
            yield (lap * lap_s + t_s - times_s[0] + period_s) / speed, line
        lap += 1


def stream_replay(request: FeedRequest) -> None:
    """Print the recorded lines at their own pace, times speed."""
    times_s, lines, source = load_replay(request)
    announcement = ANNOUNCE + json.dumps(asdict(source) | {"loops": True, "lines": len(lines)})
    print(announcement, flush=True)
    began_s = time.monotonic()
    for after_s, line in replay(times_s, lines, source, request.speed):
        while (wait_s := began_s + after_s - time.monotonic()) > 0:
            time.sleep(min(wait_s, ALIVE_S))
            if wait_s > ALIVE_S:
                print(announcement, flush=True)
        print(line, flush=True)


# --- Choosing a feed


def find_feed(source: str = "auto", feed: str | None = None, interval_ms: int = 100) -> FeedChoice:
    """Choose the command that prints power lines; its command is None, with the reason, where there is none.

    SamplerError for what was mistyped: source, interval, or feed (split as a shell would, run without one).
    """
    request = FeedRequest(source, interval_ms)
    check(request, ("tegrastats",))
    if feed is not None:
        return chosen_by_user(feed)
    tegrastats = shutil.which("tegrastats") if source in ("auto", "tegrastats") else None
    if tegrastats:
        return FeedChoice((tegrastats, "--interval", str(interval_ms)), "tegrastats", None)
    if source == "tegrastats":
        return FeedChoice(None, "none", NO_TEGRASTATS)
    if source == "none":
        return FeedChoice(None, "none", "power measurement is switched off")
    try:
        found = probe(request)
    except NoSource as exc:
        reason = f"{NO_TEGRASTATS}; {exc}" if source == "auto" else str(exc)
        return FeedChoice(None, "none", reason)
    source = source if source.startswith("replay:") else found.source
    return FeedChoice(tuple(feed_command(replace(request, source=source))), found.source, None)


def feed_command(request: FeedRequest) -> list[str]:
    """The command line of a feed of ours."""
    return room_command("edgebench.power.feeds", *request.words())


def probe(request: FeedRequest) -> Source:
    """Which source would be taken. NoSource without one; FeedError for a file that cannot be replayed."""
    if request.source.startswith("replay:"):
        return load_replay(request)[2]
    with contextlib.ExitStack() as held:
        try:
            return find_source(request, held)[0]
        except FeedError as exc:
            raise NoSource(str(exc)) from exc


def chosen_by_user(feed: str) -> FeedChoice:
    """The user's own command, split as a shell would, run without one."""
    try:
        words = shlex.split(feed)
    except ValueError as exc:
        raise FeedError(f"--feed {feed!r} is no command line: {exc}") from exc
    if not words or not shutil.which(words[0]):
        raise FeedError(f"--feed {feed!r}: there is no such command")
    name = "tegrastats" if Path(words[0]).name == "tegrastats" else "feed"
    return FeedChoice(tuple(words), name, None)


def check(request: FeedRequest, more: Sequence[str] = ()) -> None:
    """FeedError for a request that no source can work with; `more` are names that are good beside our own."""
    names = ("auto", *SOURCES, *MADE_UP, "none", *more)
    if request.source not in names and not re.match("replay:.", request.source):
        raise FeedError(f"unknown source {request.source!r}: give --source {', '.join(names)} or replay:FILE")
    if not MIN_INTERVAL_MS <= request.interval_ms <= MAX_INTERVAL_MS:
        low, high = MIN_INTERVAL_MS, MAX_INTERVAL_MS
        raise FeedError(
            f"an interval of {request.interval_ms} ms does not work: give --interval {low} to {high}"
        )
    if not 0 < request.speed <= 1000:
        raise FeedError(f"a speed of {request.speed:g} does not work: give --speed above 0 and at most 1000")


# --- The process


def print_lines(request: FeedRequest) -> None:
    """Be a feed: print power lines until nobody reads them. FeedError where the source does not work here."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end with the reader, at the next line
    check(request)
    if request.source == "none":
        print(ANNOUNCE + json.dumps(asdict(Source("none", None, None, "switched off"))))
    elif request.source.startswith("replay:"):
        stream_replay(request)
    else:
        with contextlib.ExitStack() as held:
            source, read, reasons = find_source(request, held)
            if request.source == "auto":
                said = "".join(f" ({reason})" for reason in reasons)
                print(f"power_feed: took {source.source}, {source.origin}{said}", file=sys.stderr)
            stream(source, read)


def main() -> int:
    """Print the power lines that the words of the command line ask for."""
    try:
        print_lines(FeedRequest.from_words(sys.argv[1:]))
    except FeedError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or exiting fails on it, too
        print(f"error: cannot write standard output: {exc.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
