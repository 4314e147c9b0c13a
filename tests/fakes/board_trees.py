"""Small copies of /etc, /sys, /proc and /var as three machines have them, and an engine to go with them.

Each builder fills an empty folder and returns it; keyword arguments change what the tests vary. The values
are those the machines print: device-tree strings end in NUL, temperatures are millidegrees, absolute links
point out of the tree (as /etc/nvpmodel.conf does on a board).
"""

from __future__ import annotations

from pathlib import Path

NANO_MODES = {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}
AGX_MODES = {0: "MAXN", 1: "MODE_15W", 2: "MODE_30W", 3: "MODE_50W"}


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if not str(content).endswith("\0") else str(content))


def meminfo(total_mib: int, available_mib: int, swap_mib: int = 0, swap_used_mib: int = 0) -> str:
    rows = {"MemTotal": total_mib, "MemFree": 200, "MemAvailable": available_mib}
    rows |= {"SwapTotal": swap_mib, "SwapFree": swap_mib - swap_used_mib}
    return "\n".join(f"{name}:{value * 1024:>15} kB" for name, value in rows.items())


def nvpmodel_conf(modes: dict[int, str]) -> str:
    lines = ["# FORMAT: < POWER_MODEL ID=id_num NAME=mode_name >", "< PARAM TYPE=FILE NAME=CPU_ONLINE >"]
    for number, name in modes.items():
        lines += [f"< POWER_MODEL ID={number} NAME={name} >", "CPU_ONLINE CORE_0 1", ""]
    return "\n".join([*lines, "< PM_CONFIG DEFAULT=1 >"])


def process(root: Path, pid: int, name: str, ticks: int = 0, resident_pages: int = 100) -> None:
    """A /proc/<pid>/stat with the fields that matter: 14 utime, 15 stime, 24 rss."""
    fields = [
        str(pid),
        f"({name})",
        "S",
        *["0"] * 10,
        str(ticks),
        "0",
        *["0"] * 8,
        str(resident_pages),
        *["0"] * 28,
    ]
    write(root, {f"/proc/{pid}/stat": " ".join(fields)})


def cpu_clocks(root: Path, cores: int, low_khz: int, now_khz: int, high_khz: int, governor: str) -> None:
    rows = "\n\n".join(f"processor\t: {core}\nBogoMIPS\t: 62.50" for core in range(cores))
    write(root, {"/proc/cpuinfo": rows})
    for core in range(cores):
        folder = f"/sys/devices/system/cpu/cpu{core}/cpufreq"
        write(root, {f"{folder}/scaling_{what}_freq": khz for what, khz in
                     (("min", low_khz), ("cur", now_khz), ("max", high_khz))})  # fmt: skip
        write(root, {f"{folder}/scaling_governor": governor})


def zone(root: Path, index: int, kind: str, milli_c: int, **trips: int) -> None:
    folder = f"/sys/class/thermal/thermal_zone{index}"
    write(root, {f"{folder}/type": kind, f"{folder}/temp": milli_c})
    for number, (trip, value) in enumerate(trips.items()):
        write(root, {f"{folder}/trip_point_{number}_type": trip, f"{folder}/trip_point_{number}_temp": value})


def orin_nano_super(
    root: Path, *, mode: int = 2, revision: str = "4.3", locked: bool = True, available_mib: int = 6400
) -> Path:
    """An Orin Nano Super, 8 GB, JetPack 6.2: world-readable files only, as a user without root sees it."""
    conf = "/etc/nvpmodel/nvpmodel_p3767_0003_super.conf"
    release = f"# R36 (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64"
    write(root, {
        "/etc/nv_tegra_release": f"{release}, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot",
        conf: nvpmodel_conf(NANO_MODES),
        "/etc/nvpmodel/nvpmodel_p3767_0000.conf": nvpmodel_conf({0: "MAXN", 1: "10W", 2: "15W", 3: "25W"}),
        "/var/lib/nvpmodel/status": f"pmode:{mode:04d} fmode:fan_mode_quiet",
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
        "/proc/meminfo": meminfo(7620, available_mib, swap_mib=3810),
        "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition\t3901440\t0\t5",
        "/proc/loadavg": "0.11 0.20 0.15 1/412 2755",
        "/proc/sys/kernel/osrelease": "5.15.148-tegra",
        "/sys/kernel/nvpmodel_clk_cap/emc": 3199000000 if mode == 2 else 2133000000,
        "/sys/class/hwmon/hwmon3/name": "soctherm_oc",
        "/sys/class/hwmon/hwmon3/oc1_event_cnt": 0,
        "/sys/class/hwmon/hwmon3/oc2_event_cnt": 0,
        "/sys/class/hwmon/hwmon3/oc3_event_cnt": 7,
        "/sys/class/thermal/cooling_device0/type": "pwm-fan",
        "/sys/class/thermal/cooling_device0/cur_state": 2,
        "/sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
        "/sys/class/thermal/cooling_device1/cur_state": 0,
    })  # fmt: skip
    (root / "etc/nvpmodel.conf").symlink_to(conf)
    cpu_clocks(root, 6, 1728000 if locked else 729600, 1728000 if locked else 883200, 1728000, "schedutil")
    gpu = "/sys/class/devfreq/17000000.gpu"
    write(root, {f"{gpu}/min_freq": 1020000000 if locked else 306000000, f"{gpu}/max_freq": 1020000000})
    write(root, {f"{gpu}/cur_freq": 1020000000 if locked else 306000000})
    zone(root, 0, "cpu-thermal", 48312, passive=99000, critical=104500)
    zone(root, 1, "gpu-thermal", 47156, passive=99000)
    zone(root, 2, "cv0-thermal", -256000)
    zone(root, 8, "tj-thermal", 48312, passive=95000, hot=99000, critical=104500, active=51000)
    process(root, 1, "systemd")
    return root


def agx_orin(root: Path) -> Path:
    """An AGX Orin 64 GB on JetPack 5.1.2, in MODE_30W, clocks free, seen by root, with a desktop."""
    release = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64"
    write(root, {
        "/etc/nv_tegra_release": f"{release}, DATE: Tue Aug  1 19:57:35 UTC 2023",
        "/etc/nvpmodel.conf": nvpmodel_conf(AGX_MODES),
        "/var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "/proc/device-tree/model": "Jetson AGX Orin Developer Kit\0",
        "/proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
        "/proc/meminfo": meminfo(62800, 57000),
        "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority",
        "/proc/loadavg": "3.20 2.10 1.00 5/900 41234",
        "/proc/sys/kernel/osrelease": "5.10.120-tegra",
        "/sys/kernel/debug/bpmp/debug/clk/emc/rate": 2133000000,
        "/sys/kernel/debug/bpmp/debug/clk/emc/max_rate": 3199000000,
        "/sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked": 0,
        "/sys/class/hwmon/hwmon4/oc1_event_cnt": 3,
        "/sys/class/thermal/cooling_device4/type": "cpu-throttle-alert",
        "/sys/class/thermal/cooling_device4/cur_state": 0,
    })  # fmt: skip
    cpu_clocks(root, 8, 729600, 1113600, 1728000, "schedutil")
    gpu = "/sys/class/devfreq/17000000.ga10b"
    write(root, {f"{gpu}/min_freq": 306000000, f"{gpu}/cur_freq": 306000000, f"{gpu}/max_freq": 624750000})
    zone(root, 0, "CPU-therm", 86500, passive=99000)
    zone(root, 8, "tj-therm", 86500, passive=95000)
    process(root, 900, "Xorg", resident_pages=30000)
    process(root, 950, "gnome-shell", resident_pages=90000)
    return root


def pc(root: Path, governor: str = "powersave") -> Path:
    """A laptop: x86-64, no device tree, no nvpmodel, part of its memory swapped out."""
    write(root, {
        "/sys/class/dmi/id/sys_vendor": "LENOVO",
        "/sys/class/dmi/id/product_name": "21K5CTO1WW",
        "/proc/meminfo": meminfo(15200, 9000, swap_mib=4096, swap_used_mib=900),
        "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/swapfile\tfile\t4194300\t921600\t-2",
        "/proc/loadavg": "0.42 0.50 0.60 1/1200 99999",
        "/proc/sys/kernel/osrelease": "6.8.0-45-generic",
        "/proc/sys/kernel/arch": "x86_64",
        "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 12,
    })  # fmt: skip
    cpu_clocks(root, 4, 400000, 1200000, 4700000, governor)
    name = "AMD Ryzen 7 PRO 7840U w/ Radeon 780M Graphics"
    rows = "\n\n".join(f"processor\t: {core}\nmodel name\t: {name}" for core in range(4))
    write(root, {"/proc/cpuinfo": rows})
    zone(root, 0, "acpitz", 45000)
    zone(root, 1, "acpitz", 51000)
    return root


def engine(folder: Path, *, gpu_offload: bool, system_info: str = "CPU : NEON = 1", noise: str = "") -> Path:
    """A package llama_cpp with the three names that are asked for; put the folder on PYTHONPATH."""
    package = folder / "llama_cpp"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(
        f"import sys\n__version__ = '0.3.36'\nprint({noise!r}, file=sys.stderr)\n"
        f"def llama_supports_gpu_offload(): return {gpu_offload}\n"
        f"def llama_print_system_info(): return {system_info!r}.encode()\n"
    )
    return folder


def nvidia_smi(folder: Path, line: str) -> Path:
    """A driver tool that answers one line to a question in the right format; for the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\n[ "$2" = --format=csv,noheader,nounits ] || exit 6\n'
        f"case \"$1\" in --query-gpu=name,*) echo '{line}';; *) exit 6;; esac\n"
    )
    tool.chmod(0o755)
    return folder
