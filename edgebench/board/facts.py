"""What is this machine? Board, power mode, clocks, memory, heat, load and engine.

Units stand in the names, None is what could not be read. Read from /etc, /sys, /proc and /var/lib/nvpmodel;
no root needed, no setting is changed. The engine is asked in a child process of this Python. The host name
and serial numbers are left out. check.py judges the facts, and the collector stores them.

With another root a recorded copy of those folders is read instead of this machine's; the engine and Python
are this machine's all the same.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgebench.board.thermal import is_reading
from edgebench.errors import UserError
from edgebench.shell import lifeline

SCHEMA_VERSION = 1
GIB = 2**30
# L4T -> JetPack as NVIDIA's archive pages pair them.
JETPACK = {
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4",
    "32.7.5": "4.6.5", "32.7.6": "4.6.6", "34.1.1": "5.0.1", "35.1.0": "5.0.2", "35.2.1": "5.1",
    "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4", "35.6.1": "5.1.5",
    "35.6.2": "5.1.5", "36.2.0": "6.0", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.2": "6.1.1",
    "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5.0": "6.2.2", "36.5.2": "6.2.3",
    "38.2.0": "7.0", "38.2.2": "7.0", "38.4.0": "7.1", "39.2.0": "7.2", "39.2.1": "7.2.1",
}  # fmt: skip
JETPACK_MAJOR = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
# Tegra chip -> CUDA architecture of its GPU.
CUDA_ARCH = {"tegra210": 53, "tegra186": 62, "tegra194": 72, "tegra234": 87, "tegra264": 110}
# Memory bus [bit], NVIDIA's module data sheets; the first name found in the board's model counts.
BUS_BIT = (
    ("agx", 256),
    ("thor", 256),
    ("orin", 128),
    ("xavier", 128),
    ("tx2", 128),
    ("nano", 64),
    ("tx1", 64),
)
GPU_NODES = re.compile(
    r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$|^gpu-gpc-0$"
)  # Orin JP6; JP5; Xavier; TX2; Nano; Thor
DESKTOP = {
    "Xorg",
    "Xwayland",
    "gnome-shell",
    "plasmashell",
    "kwin_wayland",
    "xfce4-session",
    "lxsession",
    "lightdm",
}
NOT_THROTTLING = re.compile(r"fan|powerclamp|tcc", re.IGNORECASE)  # cooling devices that act in normal use
MAX_CLOCK_SLACK = 0.03  # a locked CPU clock is read back from counters, a little off
BUSY_PERCENT, BUSY_SECONDS = 20.0, 0.3  # of one core; how long other processes are watched
# Runs in the child. system_info names the backends that were built in, even where no device answers.
NVML_SLOWDOWN_TEMPERATURE = 1  # NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
# nvmlClocksThrottleReasons: an idle card and clocks that a user has set are no throttling.
NVML_THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat",
    0x40: "heat",
    0x80: "power brake",
}
ENGINE_QUESTION = """
import json, llama_cpp
print(json.dumps({
    "version": llama_cpp.__version__,
    "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
    "system_info": llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(),
}))
"""
Facts = dict[str, Any]


# --- reading a file tree ---


def locate(root: Path, name: str) -> Path:
    """Path of an absolute name under root; absolute links (/etc/nvpmodel.conf is one) stay under root too."""
    path = root / name.lstrip("/")
    for _ in range(8):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return path


def read_text(root: Path, name: str) -> str | None:
    """Text of a small file, NULs and blanks stripped; None when it is absent, unreadable or not ready.

    The sensors of gated Orin units (cv0-thermal ...) answer EAGAIN, which buffered Python files turn into a
    TypeError: hence the bare read.
    """
    try:
        handle = os.open(locate(root, name), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        chunks = []
        while chunk := os.read(handle, 1 << 16):
            chunks.append(chunk)
    except OSError:
        return None
    finally:
        os.close(handle)
    return b"".join(chunks).decode("utf-8", "replace").replace("\0", " ").strip()


def read_int(root: Path, name: str) -> int | None:
    try:
        return int(read_text(root, name) or "")
    except ValueError:
        return None


def names(root: Path, pattern: str) -> list[str]:
    """Absolute names under root that match a glob, in the order of their numbers."""
    found = (f"/{path.relative_to(root)}" for path in root.glob(pattern.lstrip("/")))
    return sorted(
        found, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


# --- facts ---


def identity(root: Path) -> Facts:
    """What stays the same between two boots: board, release, kernel, processor, Python."""
    live = root == Path("/")
    compatible = read_text(root, "/proc/device-tree/compatible") or ""
    release = read_text(root, "/etc/nv_tegra_release") or ""
    # A PC has no device tree. Its DMI names are world-readable; the serial numbers beside them are not asked.
    dmi = [read_text(root, f"/sys/class/dmi/id/{part}") for part in ("sys_vendor", "product_name")]
    board = read_text(root, "/proc/device-tree/model") or " ".join(filter(None, dmi))
    chip = re.search(r"nvidia,(tegra\d+)", compatible)
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    l4t = f"{found[1]}.{found[2]}" if found else None
    cpu = re.search(r"^model name\s*:\s*(.+)$", read_text(root, "/proc/cpuinfo") or "", re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", read_text(root, "/proc/cpuinfo") or "", re.MULTILINE))
    return {
        "board": board or None,
        "is_jetson": bool(chip or found),
        "l4t": l4t,
        "jetpack": jetpack(l4t),
        "chip": chip[1] if chip else None,
        "cuda_arch": CUDA_ARCH.get(chip[1]) if chip else None,
        "kernel": read_text(root, "/proc/sys/kernel/osrelease"),
        "machine": platform.machine() if live else read_text(root, "/proc/sys/kernel/arch"),
        "cpu_model": cpu[1] if cpu else None,
        "cpu_cores": cores or None,
        "python": platform.python_version(),
    }


def jetpack(l4t: str | None) -> str | None:
    """JetPack release of an L4T release; "6.x" for an unlisted one of a known line, None for an unknown line.

    >>> jetpack("36.4.3"), jetpack("36.5"), jetpack("36.9.1"), jetpack(None)
    ('6.2', '6.2.2', '6.x', None)
    """
    if l4t is None:
        return None
    exact = JETPACK.get(l4t) or JETPACK.get(l4t + ".0")
    major = JETPACK_MAJOR.get(int(l4t.split(".")[0]))
    return exact or (f"{major}.x" if major else None)


def power_mode(root: Path) -> Facts:
    """Id and name of the nvpmodel mode in force, and the modes of the configuration in force.

    Only that configuration names the ids: /etc/nvpmodel/*.conf are other boards' as well.
    """
    conf = read_text(root, "/etc/nvpmodel.conf")
    if conf is None:
        conf = read_text(root, read_text(root, "/var/lib/nvpmodel/conf_file_path") or "/none")
    # JetPack installs one file per module here; the only one can be trusted, of several none.
    others = names(root, "/etc/nvpmodel/*.conf")
    if conf is None and len(others) == 1:
        conf = read_text(root, others[0])
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", conf or "", re.MULTILINE)
    modes = {str(int(number)): name for number, name in found}
    # "pmode:0002 fmode:quiet"; the number is padded, so names are looked up by its value.
    status = re.search(r"pmode:(\d+)", read_text(root, "/var/lib/nvpmodel/status") or "")
    mode = int(status[1]) if status else None
    return {
        "power_mode_name": modes.get(str(mode)),
        "power_mode_id": mode,
        "power_modes": modes,
        "super_conf_unused": not any("SUPER" in name for name in modes.values())
        and any("super" in o for o in others),
    }


def clocks(root: Path) -> Facts:
    """CPU, GPU and memory clocks, and whether jetson_clocks holds them (null when nothing could be read)."""
    cpus = names(root, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    limits = [
        [read_int(root, f"{cpu}/scaling_{what}_freq") for what in ("min", "cur", "max")] for cpu in cpus
    ]
    gpu = next(
        (n for n in names(root, "/sys/class/devfreq/*") if GPU_NODES.search(n.rsplit("/", 1)[1])), "/none"
    )
    gpu_limits = [read_int(root, f"{gpu}/{what}_freq") for what in ("min", "cur", "max")]
    emc = memory_clock(root)
    governors = {read_text(root, f"{cpu}/scaling_governor") for cpu in cpus} - {None}
    # jetson_clocks pins all three at once, so an unreadable one (memory, without root) does not veto.
    locks = [held(*limit) for limit in [*limits, gpu_limits]] + [emc["emc_locked"]]
    known = [lock for lock in locks if lock is not None]
    maxima = [limit[2] for limit in limits if limit[2]]
    return {
        "clocks_locked": all(known) if known else None,
        "cpu_governor": "/".join(sorted(map(str, governors))) or None,
        "cpu_max_khz": max(maxima) if maxima else None,
        "gpu_cur_hz": gpu_limits[1],
        "gpu_max_hz": gpu_limits[2],
        **emc,
    }


def held(low: int | None, now: int | None, high: int | None) -> bool | None:
    """True when a clock has no room to move and runs at its limit; None when it cannot be read."""
    if not low or not high:
        return None
    return low == high and (not now or abs(now - high) <= high * MAX_CLOCK_SLACK)


def memory_clock(root: Path) -> Facts:
    """Memory (EMC) clock [Hz]: devfreq on JetPack 7, root-only debugfs before, nvpmodel's cap for all."""
    devfreq, debug = "/sys/class/devfreq/bwmgr", "/sys/kernel/debug/bpmp/debug/clk/emc"
    # Only JetPack 7 has the devfreq node; without root JetPack 5 and 6 show the cap and not the clock.
    low, now, high = (read_int(root, f"{devfreq}/{what}_freq") for what in ("min", "cur", "max"))
    locked = held(low, now, high)
    if high is None:
        now, high = read_int(root, f"{debug}/rate"), read_int(root, f"{debug}/max_rate")
        override = read_int(root, f"{debug}/mrq_rate_locked")
        locked = None if override is None or not now else bool(override) and now == high
    cap = read_int(root, "/sys/kernel/nvpmodel_clk_cap/emc")
    if cap and 0 < cap < 10**11:  # "no cap" is written as 0 or as the largest integer
        high = min(cap, high) if high else cap
    return {"emc_cur_hz": now, "emc_max_hz": high, "emc_locked": locked}


def memory_bandwidth(facts: Facts) -> float | None:
    """Limit of the memory bus [GB/s]: clock x 2 transfers x bus width / 8, of the board or of a PC's GPU."""
    if not facts["is_jetson"]:
        limits = [gpu["memory_bandwidth_gb_per_s"] for gpu in facts["gpus"] if facts["engine"]["gpu_offload"]]
        # A CPU-only engine reads the PC's own memory, whose bus no file describes.
        return max((limit for limit in limits if limit), default=None)
    bus = next((bit for word, bit in BUS_BIT if word in (facts["board"] or "").lower()), None)
    if bus == 128 and "nano" in facts["board"].lower() and (facts["memory_total_byte"] or 8 * GIB) < 5 * GIB:
        bus = 64  # the 4 GB Orin Nano has half the memory chips
    return round(facts["emc_max_hz"] * 2 * bus / 8 / 1e9, 1) if bus and facts["emc_max_hz"] else None


def memory(root: Path) -> Facts:
    """Memory and swap [byte]; zram says whether part of the swap is compressed memory."""
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text(root, "/proc/meminfo") or "", re.MULTILINE))
    total, free = kib.get("SwapTotal"), kib.get("SwapFree")
    swaps = read_text(root, "/proc/swaps")
    return {
        "memory_total_byte": int(kib["MemTotal"]) * 1024 if "MemTotal" in kib else None,
        "memory_available_byte": int(kib["MemAvailable"]) * 1024 if "MemAvailable" in kib else None,
        "swap_total_byte": int(total) * 1024 if total else None,
        "swap_used_byte": (int(total) - int(free)) * 1024 if total and free else None,
        "zram": None if swaps is None else "zram" in swaps,
        "disk_free_byte": shutil.disk_usage(Path.cwd()).free if root == Path("/") else None,
    }


def heat(root: Path) -> Facts:
    """Temperatures and the lowest limits that slow the machine [deg C]; throttle counters since boot."""
    temps: dict[str, float] = {}
    trips: dict[str, float] = {}
    for zone in names(root, "/sys/class/thermal/thermal_zone[0-9]*"):
        kind, value = read_text(root, f"{zone}/type"), read_int(root, f"{zone}/temp")
        if not kind or value is None or not is_reading(value / 1000):  # -256 C: the unit is off
            continue
        kind = kind if kind not in temps else f"{kind}:{zone.rsplit('zone', 1)[1]}"
        temps[kind] = value / 1000
        points = [
            n for n in names(root, f"{zone}/trip_point_*_type") if read_text(root, n) in ("passive", "hot")
        ]
        # "active" trips only start the fan; an unused trip point holds 0 or a negative number.
        limits = [read_int(root, n.replace("_type", "_temp")) for n in points]
        if real := [limit for limit in limits if limit and limit > 0]:
            trips[kind] = min(real) / 1000
    return {"temps_c": temps, "trip_points_c": trips, "throttle_counters": throttle_counters(root)}


def throttle_counters(root: Path) -> dict[str, int]:
    """Over-current events since boot and the present state of the throttling devices.

    Of soctherm_oc on Orin: oc1 under-voltage, oc2 average and oc3 instantaneous over-current.
    """
    files = [(n.rsplit("/", 1)[1], n) for n in names(root, "/sys/class/hwmon/hwmon*/oc*_event_cnt")]
    for device in names(root, "/sys/class/thermal/cooling_device*"):
        kind = read_text(root, f"{device}/type")
        if kind and not NOT_THROTTLING.search(kind):
            files.append((f"cooling:{kind}", f"{device}/cur_state"))
    # x86 counts itself; on Jetson this file does not exist.
    files.append(
        ("package_throttle_count", "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
    )
    counters: dict[str, int] = {}
    for name, path in files:
        if (value := read_int(root, path)) is not None:
            counters[name] = max(value, counters.get(name, value))
    return counters


def processes(root: Path) -> Iterator[tuple[int, str, int, int]]:
    """Pid, name, CPU ticks and resident pages of each process; those that end meanwhile are left out.

    So is our own process group: the collector, and the engine it asks.
    """
    own = str(os.getpgrp()) if root == Path("/") else None
    for folder in names(root, "/proc/[0-9]*"):
        stat = read_text(root, f"{folder}/stat")
        if stat and ")" in stat:
            name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 1 :].split()
            if len(rest) > 21 and rest[2] != own:
                yield int(folder.rsplit("/", 1)[1]), name, int(rest[11]) + int(rest[12]), int(rest[21])


def load(root: Path) -> Facts:
    """Load average, busy processes (of this machine only: a recorded tree stands still), the desktop."""
    average = (read_text(root, "/proc/loadavg") or "").split()
    # The average lags by a minute; two looks at the CPU ticks show what runs now.
    before = {pid: ticks for pid, _, ticks, _ in processes(root)}
    started = time.monotonic()
    if root == Path("/"):
        time.sleep(BUSY_SECONDS)
    after = list(processes(root))
    ticks_per_s = os.sysconf("SC_CLK_TCK") * max(time.monotonic() - started, BUSY_SECONDS)
    shares = [(100 * (t - before[p]) / ticks_per_s, name) for p, name, t, _ in after if p in before]
    busy = [(share, name) for share, name in sorted(shares, reverse=True) if share >= BUSY_PERCENT]
    page = os.sysconf("SC_PAGE_SIZE")
    desktop = [(name, pages * page) for _, name, _, pages in after if name in DESKTOP]
    return {
        "load_1min": float(average[0]) if average else None,
        "busy_processes": [{"name": name, "cpu_percent": round(share)} for share, name in busy[:5]],
        "desktop": sorted({name for name, _ in desktop}),
        "desktop_byte": sum(size for _, size in desktop),
    }


# --- questions to other programs ---


def ask_engine() -> Facts:
    """The engine's version, GPU offload and build, asked in a child so that its CUDA memory is given back."""
    empty = {"version": None, "gpu_offload": None, "system_info": None, "error": None}
    try:
        child = lifeline.run(
            [sys.executable, "-c", ENGINE_QUESTION], capture_output=True, text=True, timeout=120
        )
        lines = child.stdout.strip().splitlines()
        answer = json.loads(lines[-1]) if lines and child.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError) as problem:
        return {**empty, "error": f"no answer: {problem}"}
    # CUDA reports its devices and its failures on stderr.
    noise = child.stderr.strip().splitlines()
    if not answer:
        return {**empty, "error": noise[-1] if noise else f"exit status {child.returncode}"}
    failed = [line for line in noise if "failed" in line or "error" in line.lower()]
    return {**empty, **answer, "error": failed[-1] if failed else None}


def ask_gpus() -> list[Facts]:
    """NVIDIA cards of a PC through NVML, else nvidia-smi; [] where there are none."""
    try:
        import pynvml as nvml
    except ImportError:
        return ask_nvidia_smi()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    cards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(index)

        def ask(question: str, *rest: Any, card: Any = card) -> Any:
            try:
                return getattr(nvml, question)(card, *rest)
            # "Not supported" differs from card to card, and an older package has fewer questions.
            except (nvml.NVMLError, AttributeError):
                return None

        space, limit = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetEnforcedPowerLimit")
        clock, bus = ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM), ask("nvmlDeviceGetMemoryBusWidth")
        cards.append(
            {
                "name": ask("nvmlDeviceGetName"),
                "driver": nvml.nvmlSystemGetDriverVersion(),
                "memory_total_byte": space.total if space else None,
                "memory_free_byte": space.free if space else None,
                # Both edges of the memory clock carry data, so MHz x 2 x bit / 8.
                "memory_bandwidth_gb_per_s": round(clock * 2 * bus / 8e3, 1) if clock and bus else None,
                "power_limit_w": limit / 1000 if limit else None,
                "temp_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
                "slowdown_c": ask("nvmlDeviceGetTemperatureThreshold", NVML_SLOWDOWN_TEMPERATURE),
                "throttled_by": throttle_words(ask("nvmlDeviceGetCurrentClocksThrottleReasons")),
            }
        )
    nvml.nvmlShutdown()
    return cards


def throttle_words(reasons: int | None) -> list[str] | None:
    """What slows a card down now, of NVML's bits; None where the card does not say.

    >>> throttle_words(0x1), throttle_words(0x24)
    ([], ['power cap', 'heat'])
    """
    if reasons is None:
        return None
    return list(dict.fromkeys(word for bit, word in NVML_THROTTLE_REASONS.items() if reasons & bit))


def ask_nvidia_smi() -> list[Facts]:
    """The same cards by the driver's own tool, which cannot tell the width of the memory bus."""
    fields = "name,driver_version,memory.total,memory.free,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        child = lifeline.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if child.returncode:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in child.stdout.splitlines() if line.strip()]
    return [smi_card(row) for row in rows if len(row) == 6]


def smi_card(row: Sequence[str]) -> Facts:
    """One line of nvidia-smi: MiB, W and deg C; "[N/A]" becomes null."""
    total, free, limit, temp = (float(cell) if re.fullmatch(r"[\d.]+", cell) else None for cell in row[2:])
    return {
        "name": row[0],
        "driver": row[1],
        "memory_total_byte": round(total * 2**20) if total else None,
        "memory_free_byte": round(free * 2**20) if free is not None else None,
        "memory_bandwidth_gb_per_s": None,
        "power_limit_w": limit,
        "temp_c": round(temp) if temp is not None else None,
        "slowdown_c": None,
        "throttled_by": None,
    }


def board_facts(root: Path) -> Facts:
    """All facts, in the order of the record; the engine is asked in a child. UserError where root is none."""
    check_root(root)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        engine = pool.submit(ask_engine)  # while the other processes are watched
        return with_engine(machine_facts(root), engine.result())


def check_root(root: Path) -> None:
    """UserError where a recorded machine is not there."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder; --root names a copy of /etc, /sys and /proc")


def machine_facts(root: Path) -> Facts:
    """The facts that need no engine."""
    root = root.resolve()
    facts: Facts = {
        "schema_version": SCHEMA_VERSION,
        "checked_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **identity(root),
        **power_mode(root),
        **clocks(root),
        **memory(root),
        **heat(root),
        **load(root),
    }
    # JetPack's own nvidia-smi and NVML answer "not supported" to nearly every question: no such card.
    facts["gpus"] = [] if facts["is_jetson"] or root != Path("/") else ask_gpus()
    return facts


def with_engine(machine: Facts, engine: Facts) -> Facts:
    """All facts, in the order of the record: the machine's and what its engine says of itself."""
    facts = {**machine, "engine": engine}
    facts["gpus"] = facts.pop("gpus")
    facts["memory_bandwidth_gb_per_s"] = memory_bandwidth(facts)
    return facts
