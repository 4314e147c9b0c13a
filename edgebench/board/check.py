#!/usr/bin/env python3
"""Is this machine ready to be measured, and what is it? It changes no setting.

Asks board_facts.py (the machine) and gguf_facts.py (the models), which stand
beside it, and judges the answers. Prints one line per check, each with the
command that cures it:

  ok       nothing to do
  warn     numbers will be slower, noisier or less certain than they could be
  bad      a campaign would fail or measure the wrong thing: exit status 1
  unknown  the machine does not say; `why` follows

With --json it prints one line instead: the facts of board_facts.py, the models,
and the checks; units in the names, null for what could not be read.

Example:
  python companions/board_check.py --models models/gemma-2-2b-it-Q6_K.gguf
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.board.thermal import is_silicon
from edgebench.shell.launch import room_command

WIDTH = 80
ENGINE_PIN = "llama-cpp-python==0.3.36"
MIB, GIB = 2**20, 2**30
# Releases that break a campaign: 36.4.7 limits CUDA allocations (its fix of CVE-2025-33177). Loads from
# 1.1 GB on were seen to fail with error 12; a reboot helps for a while, 36.5 for good.
BAD_L4T = {"36.4.7": "large CUDA allocations fail on it (NvMapMemAllocInternalTagged, error 12)"}
BAD_L4T_MODEL_BYTE = 1_100_000_000
TRIP_MARGIN_C = 15.0  # a campaign that starts nearer to the throttling limit reaches it
SWAP_USED_BYTE, DISK_LOW_BYTE = 64 * MIB, 1 * GIB
MEMORY_MARGIN = 0.85  # the CUDA context and the rest of the system need the remainder
SMALL_BOARD_BYTE = 9 * GIB  # "8 GB": the engine's reservation of virtual GPU memory crashes there
DESKTOP_BYTE = 200 * MIB
LOAD_LIMIT = 1.0  # of the 1-minute average: one core's worth of other work
STATUSES = ("ok", "warn", "bad", "unknown")
Facts = Mapping[str, Any]


class BoardCheckError(Exception):
    """What the user can fix."""


@dataclass(frozen=True)
class Check:
    name: str
    status: str  # one of STATUSES
    message: str
    cure: str | None = None  # one shell command


def gib(value: float) -> str:
    return f"{value / GIB:.1f} GiB"


# --- the checks: facts in, one verdict out ---


def check_board(facts: Facts) -> Check:
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
    checks = []
    for card in facts["gpus"]:
        size, speed = card["memory_total_byte"], card["memory_bandwidth_gb_per_s"]
        parts = [card["name"], f"driver {card['driver']}", gib(size) if size else None]
        parts.append(f"{speed:.0f} GB/s" if speed else None)
        checks.append(Check("GPU", "ok", ", ".join(part for part in parts if part)))
    return checks


def check_model(facts: Facts, model: Facts) -> Check:
    """Weights + cache + graph against the free memory: the board's, or that of a PC's card."""
    name = Path(model["model"]).name
    if model["error"]:
        return Check("model", "bad", f"{name}: {model['error']}")
    free, where = facts["memory_available_byte"], "memory"
    # On a Jetson, GPU and CPU share one memory; a PC's card has its own.
    cards = [card["memory_free_byte"] for card in facts["gpus"] if card["memory_free_byte"] is not None]
    if cards and facts["engine"]["gpu_offload"]:
        free, where = max(cards), "GPU memory"
    need = model["need_byte"]
    if need is None or free is None:
        why = model["why_unknown"] if need is None else f"the free {where} could not be read"
        return Check("model", "unknown", f"{name}: {why}")
    weights, cache, graph = (gib(model[part]) for part in ("file_byte", "kv_byte", "compute_byte"))
    parts = f"{weights} weights + {cache} cache + {graph} graph"
    message = f"{name}: {parts} at {model['n_ctx']} tokens = {gib(need)}; free {where} {gib(free)}"
    status = "bad" if need > free else "warn" if need > free * MEMORY_MARGIN else "ok"
    if status == "ok":
        return Check("model", status, message)
    smaller = max(256, model["n_ctx"] // 2)
    return Check("model", status, message, f"{shlex.join(rerun(model['model']))} --n_ctx {smaller}")


def rerun(model: str) -> list[str]:
    return ["python", "companions/board_check.py", "--models", model]


def check_swap(facts: Facts) -> Check:
    used, total = facts["swap_used_byte"], facts["swap_total_byte"]
    if used is None or total is None:
        return Check("swap", "unknown", "/proc/meminfo does not say")
    kind = "zram, compressed memory" if facts["zram"] else "on disk"
    if used > SWAP_USED_BYTE:
        message = f"{gib(used)} of {gib(total)} in use ({kind}): pages come back during a run and slow it"
        return Check("swap", "warn", message, "sudo swapoff -a && sudo swapon -a")
    return Check("swap", "ok", f"{gib(total)} ({kind}), none in use" if total else "none")


def check_disk(facts: Facts) -> Check:
    free = facts["disk_free_byte"]
    if free is None:
        return Check("disk", "unknown", "a recorded tree does not tell the free space")
    status, cure = ("warn", "du -xh . | sort -h | tail") if free < DISK_LOW_BYTE else ("ok", None)
    return Check("disk", status, f"{gib(free)} free in this folder", cure)


def check_heat(facts: Facts) -> Check:
    """Each zone against its own throttling limit; limits that the machine does not state are not assumed."""
    temps, trips = facts["temps_c"], facts["trip_points_c"]
    if not temps:
        return Check("temperature", "unknown", "no thermal zone could be read")
    chip = [zone for zone in temps if is_silicon(zone)] or list(temps)
    hottest = max(chip, key=lambda zone: float(temps[zone]))
    text = f"{hottest} {temps[hottest]:.0f} C is the hottest of {len(temps)}"
    margins = {zone: trips[zone] - temps[zone] for zone in temps if zone in trips}
    if not margins:
        return Check("temperature", "ok", f"{text}; no throttling limit stated")
    tight = min(margins, key=lambda zone: margins[zone])
    text += (
        f"; {tight} is {abs(margins[tight]):.0f} C {'below' if margins[tight] >= 0 else 'above'} its limit"
    )
    status = "bad" if margins[tight] <= 0 else "warn" if margins[tight] < TRIP_MARGIN_C else "ok"
    return Check(
        "temperature", status, text, None if status == "ok" else "sudo jetson_clocks --fan; sleep 300"
    )


def check_throttling(facts: Facts) -> Check:
    """Throttling now is a warning, under-voltage ever too; over-current events are normal at full power."""
    counters = facts["throttle_counters"]
    if not counters:
        return Check("throttling", "unknown", "no throttle counter here")
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
    busy, average = facts["busy_processes"], facts["load_1min"]
    if average is None:
        return Check("other load", "unknown", "/proc/loadavg does not say")
    text = f"load {average:.2f}"
    if busy:
        text += ": " + ", ".join(f"{item['name']} {item['cpu_percent']} %" for item in busy)
    status = "warn" if busy or average >= LOAD_LIMIT else "ok"
    return Check("other load", status, text, None if status == "ok" else "top -b -n 1 -o %CPU | head -15")


def check_desktop(facts: Facts) -> Check:
    if not facts["desktop"]:
        return Check("desktop", "ok", "none running")
    text = f"{', '.join(facts['desktop'])} with {gib(facts['desktop_byte'])}"
    if facts["desktop_byte"] < DESKTOP_BYTE and not facts["is_jetson"]:
        return Check("desktop", "ok", text)
    return Check("desktop", "warn", f"{text}, and GPU time", "sudo systemctl isolate multi-user.target")


def judge(facts: Facts, models: Sequence[Facts]) -> list[Check]:
    """All checks, in the order of the table."""
    largest = max((model["file_byte"] or 0 for model in models), default=0)
    checks = [check_board(facts), check_release(facts, largest), check_power_mode(facts), check_clocks(facts)]
    checks += [check_engine(facts), *check_gpus(facts), *(check_model(facts, model) for model in models)]
    checks += [check_swap(facts), check_disk(facts), check_heat(facts), check_throttling(facts)]
    checks += [check_load(facts), check_desktop(facts)]
    return [check for check in checks if check]


# --- the other scripts, and output ---


def ask(script: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """JSON objects that a script beside this one prints. Its own `error:` is passed on."""
    child = subprocess.run([*room_command(script), *arguments], capture_output=True, text=True, timeout=300)
    if not child.stdout.strip():
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise BoardCheckError(reason.removeprefix("error: "))
    return [json.loads(line) for line in child.stdout.splitlines()]


def format_cure(command: str) -> list[str]:
    """A command within the width, its line breaks escaped so that it can be pasted."""
    lines = textwrap.wrap(command, WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    head = ["          $ " + lines[0]] + ["            " + line for line in lines[1:]]
    return [line + " \\" for line in head[:-1]] + head[-1:]


def format_table(checks: Sequence[Check]) -> str:
    lines = []
    for check in checks:
        text = textwrap.wrap(f"{check.name}: {check.message}", WIDTH - 10, break_on_hyphens=False)
        lines += [f"{check.status:8}  {text[0]}"] + ["          " + line for line in text[1:]]
        lines += format_cure(check.cure) if check.cure else []
    counts = [f"{sum(check.status == status for check in checks)} {status}" for status in STATUSES]
    return "\n".join([*lines, ", ".join(counts)])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="GGUF", help="models that must fit into memory"
    )
    parser.add_argument(
        "--n_ctx", type=int, default=4096, metavar="N", help="their context (default %(default)s)"
    )
    parser.add_argument(
        "--root", default="/", metavar="DIR", help="judge a recorded copy of /etc, /sys, /proc"
    )
    parser.add_argument("--json", action="store_true", help="facts and checks as one JSON line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.n_ctx < 1:
        parser.error("--n_ctx must be at least 1")
    try:
        (facts,) = ask("edgebench.board.facts", ["--root", args.root])
        asked = ["--json", "--n_ctx", str(args.n_ctx), *args.models]
        models = ask("edgebench.gguf.facts", asked) if args.models else []
        checks = judge(facts, models)
    except (BoardCheckError, OSError, subprocess.TimeoutExpired) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({**facts, "models": models, "checks": [asdict(check) for check in checks]}))
    else:
        print(format_table(checks))
    return 1 if any(check.status == "bad" for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
