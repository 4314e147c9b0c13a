"""Is this machine ready to be measured? Facts in, one verdict a check out, each with its cure.

  ok       nothing to do
  warn     numbers will be slower, noisier or less certain than they could be
  bad      a campaign would fail or measure the wrong thing
  unknown  the machine does not say; why follows

The facts of the machine are facts.py's, those of models gguf/facts.py's. No setting is changed.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.board.thermal import hottest_c, is_reading, is_silicon, zone_name
from edgebench.gguf.facts import MEMORY_MARGIN, ModelFacts, fits
from edgebench.shell.calls import as_called
from edgebench.shell.text import printable

WIDTH = 80
ENGINE_PIN = "llama-cpp-python==0.3.36"
MIB, GIB = 2**20, 2**30
# Releases that break a campaign: 36.4.7 limits CUDA allocations (its fix of CVE-2025-33177). Loads from
# 1.1 GB on were seen to fail with error 12; a reboot helps for a while, 36.5 for good.
BAD_L4T = {"36.4.7": "large CUDA allocations fail on it (NvMapMemAllocInternalTagged, error 12)"}
BAD_L4T_MODEL_BYTE = 1_100_000_000
TRIP_MARGIN_C = 15.0  # a campaign that starts nearer to the throttling limit reaches it
SWAP_USED_BYTE, DISK_LOW_BYTE = 64 * MIB, 1 * GIB
SMALL_BOARD_BYTE = 9 * GIB  # "8 GB": the engine's reservation of virtual GPU memory crashes there
DESKTOP_BYTE = 200 * MIB
LOAD_LIMIT = 1.0  # of the 1-minute average: one core's worth of other work
STATUSES = ("ok", "warn", "bad", "unknown")
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """The verdict on one thing."""

    name: str
    status: str  # one of STATUSES
    message: str
    cure: str | None = None  # one shell command


def gib(value: float) -> str:
    """Bytes in words."""
    return f"{value / GIB:.1f} GiB"


# --- the checks: facts in, one verdict out ---


def check_board(facts: Facts) -> Check:
    """What machine it is."""
    name = facts["board"] or "unknown machine"
    size = gib(facts["memory_total_byte"]) if facts["memory_total_byte"] else "?"
    cores = f"{facts['cpu_cores'] or '?'} cores, {size} memory"
    if facts["is_jetson"] and not facts["board"]:
        return Check("board", "unknown", f"a Jetson that does not tell its model ({cores})")
    return Check("board", "ok", f"{name}, {cores}, kernel {facts['kernel']}, Python {facts['python']}")


def check_release(facts: Facts, largest_model_byte: int) -> Check | None:
    """L4T and JetPack; a known-bad release is bad when a model is large enough to meet its fault."""
    if not facts["is_jetson"]:
        return None
    l4t, jetpack = facts["l4t"], facts["jetpack"]
    if l4t is None:
        return Check(
            "release", "unknown", "no /etc/nv_tegra_release (in a container? mount it from the board)"
        )
    label = f"L4T {l4t}, JetPack {jetpack or 'unknown'}"
    # A small model fits below the limit of a bad release; without --models the worst is not assumed.
    if l4t not in BAD_L4T:
        return Check("release", "ok", label)
    status = "bad" if largest_model_byte >= BAD_L4T_MODEL_BYTE else "warn"
    message = f"{label}: {BAD_L4T[l4t]}; models from 1.1 GB on. 36.5 is cured; a reboot helps for a while"
    return Check("release", status, message, "sudo apt update && sudo apt dist-upgrade && sudo reboot")


def strongest_mode(modes: Mapping[str, str]) -> str | None:
    """Id of the mode with the highest limits: MAXN_SUPER, MAXN, else most watts, then most cores.

    >>> strongest_mode({"0": "15W", "1": "25W", "2": "MAXN_SUPER", "3": "7W"})
    '2'
    >>> strongest_mode({"0": "MODE_15W_2CORE", "1": "MODE_20W_4CORE", "2": "MODE_20W_6CORE"})
    '2'
    """

    def rank(number: str) -> tuple[int, int, int]:
        name = modes[number].upper()
        watts, cores = re.search(r"(\d+)W", name), re.search(r"(\d+)_?CORE", name)
        maxn = ("MAXN" in name) + ("MAXN_SUPER" in name)
        return maxn, int(watts[1]) if watts else 0, int(cores[1]) if cores else 0

    return max(modes, key=rank) if modes else None


def check_power_mode(facts: Facts) -> Check | None:
    """The power mode by name: the ids mean something else on each board."""
    if not facts["is_jetson"]:
        return None
    number, name, modes = facts["power_mode_id"], facts["power_mode_name"], facts["power_modes"]
    best = strongest_mode(modes)
    if number is None or best is None:
        what = "the mode in force" if number is None else f"the name of mode {number}"
        return Check("power mode", "unknown", f"{what} could not be read", "sudo nvpmodel -q")
    label = f"{name or 'no name'} (id {number})"
    if name is None:
        return Check("power mode", "unknown", f"{label}: not in /etc/nvpmodel.conf", "sudo nvpmodel -q")
    if str(number) != best:
        zero = "" if best == "0" else f"; here -m 0 is {modes.get('0', 'no mode')}, not the maximum"
        message = f"{label}, the strongest is {modes[best]}{zero}"
        return Check("power mode", "warn", message, f"sudo nvpmodel -m {best}")
    if facts["super_conf_unused"]:
        return Check("power mode", "ok", f"{label}; a *_super.conf is installed but not in force")
    return Check("power mode", "ok", f"{label}, the strongest")


def check_clocks(facts: Facts) -> Check:
    """Locked clocks on a Jetson; on a PC the governor, which is all it has without root."""
    locked, governor = facts["clocks_locked"], facts["cpu_governor"]
    shown = (
        [f"CPU {facts['cpu_max_khz'] / 1e6:.2f} GHz {governor or ''}".strip()] if facts["cpu_max_khz"] else []
    )
    for label, now, high in (
        ("GPU", facts["gpu_cur_hz"], facts["gpu_max_hz"]),
        ("memory", facts["emc_cur_hz"], facts["emc_max_hz"]),
    ):
        if high:
            shown.append(f"{label} {'' if now is None else f'{now / 1e6:.0f} of '}{high / 1e6:.0f} MHz")
    text = ", ".join(shown)
    if locked:
        return Check("clocks", "ok", f"locked: {text}")
    if facts["is_jetson"]:
        if locked is None:
            return Check("clocks", "unknown", "no clock could be read", "sudo jetson_clocks --show")
        return Check("clocks", "warn", f"not locked, so they follow the load: {text}", "sudo jetson_clocks")
    if governor is None:
        return Check(
            "clocks", "unknown", "no cpufreq here (a virtual machine?), so the clocks may move unseen"
        )
    if governor == "performance":
        return Check("clocks", "ok", text)
    return Check(
        "clocks", "warn", f"governor {governor}: {text}", "sudo cpupower frequency-set -g performance"
    )


def build_command(facts: Facts) -> str:
    """The command that builds the engine for this machine's GPU."""
    options = ["-DGGML_CUDA=ON"]
    if facts[
        "cuda_arch"
    ]:  # ggml's own list has no Jetson chip; without it the kernels are compiled at each start
        options.append(f"-DCMAKE_CUDA_ARCHITECTURES={facts['cuda_arch']}")
    if facts["is_jetson"] and (facts["memory_total_byte"] or 0) < SMALL_BOARD_BYTE:
        options.append("-DGGML_CUDA_NO_VMM=ON")
    options.append("-DLLAVA_BUILD=OFF")
    pip = f"{shlex.quote(sys.executable)} -m pip install --no-cache-dir --force-reinstall {ENGINE_PIN}"
    return f'CUDACXX=/usr/local/cuda/bin/nvcc CMAKE_ARGS="{" ".join(options)}" {pip}'


def check_engine(facts: Facts) -> Check:
    """The engine and its GPU offload; whether a run used the GPU stands in the collector's log."""
    engine = facts["engine"]
    has_gpu = facts["is_jetson"] or bool(facts["gpus"])
    install = (
        build_command(facts) if has_gpu else f"{shlex.quote(sys.executable)} -m pip install {ENGINE_PIN}"
    )
    if engine["version"] is None:
        return Check("engine", "bad", f"llama-cpp-python does not start: {engine['error']}", install)
    label = f"llama-cpp-python {engine['version']}"
    if engine["gpu_offload"]:
        # "CUDA : ARCHS = 500,870": without this chip, kernels are compiled at the start of each process.
        archs = re.search(r"ARCHS\s*=\s*([\d,]+)", engine["system_info"] or "")
        wanted = facts["cuda_arch"]
        if wanted and archs and str(wanted) not in {arch[:-1] for arch in archs[1].split(",")}:
            message = f"{label} is built for the CUDA architectures {archs[1]}, not for {wanted}0"
            return Check("engine", "warn", message, install)
        return Check("engine", "ok", f"{label}, GPU offload built in")
    if not has_gpu:
        return Check("engine", "ok", f"{label}, CPU only, as this machine has no NVIDIA GPU")
    if "CUDA" in (engine["system_info"] or ""):
        reason = engine["error"] or "it found no device"
        # On a Jetson the GPU's device files belong to the groups video and render.
        cure = 'sudo usermod -aG video,render "$USER"' if facts["is_jetson"] else "nvidia-smi"
        return Check("engine", "bad", f"{label} has CUDA built in, but no GPU answers: {reason}", cure)
    message = f"{label} is a CPU-only build on a machine with a GPU"
    return Check("engine", "bad" if facts["is_jetson"] else "warn", message, install)


def check_gpus(facts: Facts) -> list[Check]:
    """The cards of a PC."""
    checks = []
    for card in facts["gpus"]:
        size, speed = card["memory_total_byte"], card["memory_bandwidth_gb_per_s"]
        parts = [card["name"], f"driver {card['driver']}", gib(size) if size else None]
        parts.append(f"{speed:.0f} GB/s" if speed else None)
        checks.append(Check("GPU", "ok", ", ".join(part for part in parts if part)))
    return checks


def check_model(facts: Facts, model: ModelFacts) -> Check:
    """Weights + cache + graph against the free memory: the board's, or that of a PC's card."""
    name = printable(Path(model.model).name)
    if model.error:
        return Check("model", "bad", f"{name}: {model.error}")
    free, where = facts["memory_available_byte"], "memory"
    # On a Jetson, GPU and CPU share one memory; a PC's card has its own.
    cards = [card["memory_free_byte"] for card in facts["gpus"] if card["memory_free_byte"] is not None]
    if cards and facts["engine"]["gpu_offload"]:
        free, where = max(cards), "GPU memory"
    if fits(model, free) is None:
        why = model.why_unknown if model.need_byte is None else f"the free {where} could not be read"
        return Check("model", "unknown", f"{name}: {why}")
    needs = (model.file_byte, model.kv_byte, model.compute_byte, model.need_byte)
    weights, cache, graph, need = (gib(part or 0) for part in needs)
    parts = f"{weights} weights + {cache} cache + {graph} graph"
    message = f"{name}: {parts} at {model.n_ctx} tokens = {need}; free {where} {gib(free)}"
    if fits(model, free, MEMORY_MARGIN):
        return Check("model", "ok", message)
    status = "warn" if fits(model, free) else "bad"
    smaller = max(256, (model.n_ctx or 0) // 2)
    return Check("model", status, message, f"{shlex.join(rerun(model.model))} --n_ctx {smaller}")


def rerun(model: str) -> list[str]:
    """The command that judges a model again."""
    return [*as_called("python companions/board_check.py").split(), "--models", model]


def check_swap(facts: Facts) -> Check:
    """Memory that has gone to swap comes back during a run."""
    used, total = facts["swap_used_byte"], facts["swap_total_byte"]
    if used is None or total is None:
        return Check("swap", "unknown", "/proc/meminfo does not say")
    kind = "zram, compressed memory" if facts["zram"] else "on disk"
    if used > SWAP_USED_BYTE:
        message = f"{gib(used)} of {gib(total)} in use ({kind}): pages come back during a run and slow it"
        return Check("swap", "warn", message, "sudo swapoff -a && sudo swapon -a")
    return Check("swap", "ok", f"{gib(total)} ({kind}), none in use" if total else "none")


def check_disk(facts: Facts) -> Check:
    """Room for the records."""
    free = facts["disk_free_byte"]
    if free is None:
        return Check("disk", "unknown", "a recorded tree does not tell the free space")
    status, cure = ("warn", "du -xh . | sort -h | tail") if free < DISK_LOW_BYTE else ("ok", None)
    return Check("disk", status, f"{gib(free)} free in this folder", cure)


def check_heat(facts: Facts) -> Check:
    """Each zone of the chip against its own throttling limit; limits it does not state are not assumed."""
    chip_c = {zone: temp for zone, temp in facts["temps_c"].items() if is_silicon(zone) and is_reading(temp)}
    trips = facts["trip_points_c"]
    temp_c = hottest_c(chip_c)
    if temp_c is None:
        return check_heat_of_cards(facts)
    of_that_heat = [zone for zone in chip_c if chip_c[zone] == temp_c]
    hottest = next((zone for zone in of_that_heat if zone_name(zone) == "tj"), of_that_heat[0])
    text = f"{hottest} {temp_c:.0f} C is the hottest of {len(facts['temps_c'])}"
    margins = {zone: trips[zone] - chip_c[zone] for zone in chip_c if zone in trips}
    if not margins:
        return Check("temperature", "ok", f"{text}; no throttling limit stated")
    tight = min(margins, key=lambda zone: margins[zone])
    side = "below" if margins[tight] >= 0 else "above"
    text += f"; {tight} is {abs(margins[tight]):.0f} C {side} its limit"
    status = "bad" if margins[tight] <= 0 else "warn" if margins[tight] < TRIP_MARGIN_C else "ok"
    cure = None if status == "ok" else "sudo jetson_clocks --fan; sleep 300"
    return Check("temperature", status, text, cure)


def check_heat_of_cards(facts: Facts) -> Check:
    """The cards' own temperatures, where the board shows none: a PC's, a virtual machine's."""
    known = [card for card in facts["gpus"] if card.get("temp_c") is not None]
    if not known:
        return Check("temperature", "unknown", "no thermal zone could be read")
    told, margins = [], []
    for card in known:
        limit_c = card.get("slowdown_c")
        told.append(f"{card['name']} {card['temp_c']} C")
        if limit_c:
            told[-1] += f", it slows down at {limit_c} C"
            margins.append(limit_c - card["temp_c"])
    tight = min(margins, default=None)
    status = "ok" if tight is None or tight >= TRIP_MARGIN_C else "warn" if tight > 0 else "bad"
    return Check("temperature", status, "; ".join(told), None if status == "ok" else "sleep 300; nvidia-smi")


def check_throttling_of_cards(facts: Facts) -> Check:
    """What the cards say of their clocks, where the board has no counter."""
    known = [card for card in facts["gpus"] if card.get("throttled_by") is not None]
    if not known:
        return Check("throttling", "unknown", "no throttle counter here")
    now = [f"{card['name']} by {', '.join(card['throttled_by'])}" for card in known if card["throttled_by"]]
    if now:
        return Check(
            "throttling", "warn", f"slowed right now: {'; '.join(now)}", "nvidia-smi -q -d PERFORMANCE"
        )
    return Check("throttling", "ok", f"none now of {', '.join(card['name'] for card in known)}")


def check_throttling(facts: Facts) -> Check:
    """Throttling now is a warning, under-voltage ever too; over-current events are normal at full power."""
    counters = facts["throttle_counters"]
    if not counters:
        return check_throttling_of_cards(facts)
    now = sorted(
        name.split(":", 1)[1] for name, value in counters.items() if name.startswith("cooling:") and value > 0
    )
    if now:
        return Check("throttling", "warn", f"slowed right now by {', '.join(now)}", "sleep 300")
    # oc3 counts up in normal use of the strongest mode; under-voltage (oc1) never should.
    if counters.get("oc1_event_cnt"):
        events = counters["oc1_event_cnt"]
        message = f"{events} under-voltage events since boot: use a stronger supply or cable, then reboot"
        return Check("throttling", "warn", message, "sudo reboot")
    seen = [f"{name.split('_')[0]} {value}" for name, value in counters.items() if "cnt" in name and value]
    return Check("throttling", "ok", f"events since boot: {', '.join(seen)}" if seen else "none")


def check_load(facts: Facts) -> Check:
    """Other work on this machine."""
    busy, average = facts["busy_processes"], facts["load_1min"]
    if average is None:
        return Check("other load", "unknown", "/proc/loadavg does not say")
    text = f"load {average:.2f}"
    if busy:
        text += ": " + ", ".join(f"{item['name']} {item['cpu_percent']} %" for item in busy)
    status = "warn" if busy or average >= LOAD_LIMIT else "ok"
    return Check("other load", status, text, None if status == "ok" else "top -b -n 1 -o %CPU | head -15")


def check_desktop(facts: Facts) -> Check:
    """A desktop takes memory and GPU time."""
    if not facts["desktop"]:
        return Check("desktop", "ok", "none running")
    text = f"{', '.join(facts['desktop'])} with {gib(facts['desktop_byte'])}"
    if facts["desktop_byte"] < DESKTOP_BYTE and not facts["is_jetson"]:
        return Check("desktop", "ok", text)
    return Check("desktop", "warn", f"{text}, and GPU time", "sudo systemctl isolate multi-user.target")


def check(facts: Facts, models: Sequence[ModelFacts] = ()) -> list[Check]:
    """All checks, in the order of the table."""
    largest = max((model.file_byte or 0 for model in models), default=0)
    checks = [
        check_board(facts),
        check_release(facts, largest),
        check_power_mode(facts),
        check_clocks(facts),
        check_engine(facts),
        *check_gpus(facts),
        *(check_model(facts, model) for model in models),
        check_swap(facts),
        check_disk(facts),
        check_heat(facts),
        check_throttling(facts),
        check_load(facts),
        check_desktop(facts),
    ]
    return [one for one in checks if one]


# --- For people ---


def format_cure(command: str) -> list[str]:
    """A command within the width, its line breaks escaped so that it can be pasted."""
    lines = textwrap.wrap(command, WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    head = ["          $ " + lines[0]] + ["            " + line for line in lines[1:]]
    return [line + " \\" for line in head[:-1]] + head[-1:]


def format_table(checks: Sequence[Check]) -> str:
    """The checks within 80 columns, then how many there are of each kind."""
    lines = []
    for check in checks:
        text = textwrap.wrap(f"{check.name}: {check.message}", WIDTH - 10, break_on_hyphens=False)
        lines += [f"{check.status:8}  {text[0]}"] + ["          " + line for line in text[1:]]
        lines += format_cure(check.cure) if check.cure else []
    counts = [f"{sum(check.status == status for check in checks)} {status}" for status in STATUSES]
    return "\n".join([*lines, ", ".join(counts)])
