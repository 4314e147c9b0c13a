#!/usr/bin/env python3
"""What can this machine compute on? A Jetson, NVIDIA GPUs with their MIG instances, or the processor alone.

A Jetson is known by its device tree; its GPU shares the board's memory. Other
NVIDIA GPUs come from NVML (package nvidia-ml-py), and a GPU that is split into
MIG instances is listed with each of them below it. A process takes one of them
by CUDA_VISIBLE_DEVICES=UUID. The processor stands last, always.

Prints a table, or with --json one object: devices [{kind (jetson, gpu, mig,
cpu), index ("0", of an instance "0:1"), name, uuid, memory_byte,
memory_free_byte, parent, mig_enabled, cuda_arch}], and why NVML has no say in
`nvml_missing`. What the machine does not tell is null.

Example:
  python companions/list_devices.py --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

KINDS = {"jetson": "Jetson", "gpu": "GPU", "mig": "MIG instance", "cpu": "CPU"}


class ListDevicesError(Exception):
    """What the user can fix."""


@dataclass(frozen=True)
class Device:
    """One thing to compute on; None is what the machine does not tell."""

    kind: str  # jetson, gpu, mig, cpu
    index: str | None
    name: str | None
    uuid: str | None = None
    memory_byte: int | None = None
    memory_free_byte: int | None = None
    parent: str | None = None  # index of the GPU an instance is a part of
    mig_enabled: bool | None = None
    cuda_arch: str | None = None  # compute capability: 8.7 on Orin


def board_facts(root: Path) -> dict[str, Any]:
    """What board_facts.py, which stands beside this script, says of the machine."""
    command = [*room_command("edgebench.board.facts"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ListDevicesError(f"board_facts.py failed: {done.stderr.strip() or done.returncode}") from None
    return facts


def jetson(facts: Mapping[str, Any]) -> Device:
    """The board's GPU. Its memory is the board's: there is no other."""
    arch = facts.get("cuda_arch")
    return Device(
        "jetson",
        "0",
        facts.get("board"),
        memory_byte=facts.get("memory_total_byte"),
        memory_free_byte=facts.get("memory_available_byte"),
        cuda_arch=f"{arch // 10}.{arch % 10}" if arch else None,
    )


def processor(facts: Mapping[str, Any]) -> Device:
    """The processor, with its cores in the name."""
    cores = facts.get("cpu_cores")
    model = facts.get("cpu_model") or facts.get("machine")
    return Device(
        "cpu",
        None,
        f"{model or 'unknown'}, {cores} cores" if cores else model,
        memory_byte=facts.get("memory_total_byte"),
        memory_free_byte=facts.get("memory_available_byte"),
    )


# ---------------------------------------------------------------------------
# NVML


def text_of(value: Any) -> str:
    """NVML's strings are bytes in older versions of the package."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def nvml_devices() -> tuple[list[Device], str | None]:
    """(GPUs, each followed by its MIG instances; why NVML could not be asked)."""
    try:
        import pynvml
    except ImportError:
        return [], "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            return [one for index in range(count) for one in gpu_and_parts(pynvml, index)], None
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as exc:
        return [], f"NVML: {exc}"


def gpu_and_parts(nvml: Any, index: int) -> Iterator[Device]:
    """A GPU, then its MIG instances. One that cannot be asked is named with what it does tell."""

    def ask(question: str, *words: Any) -> Any:
        """NVML's answer, None where this driver or card has none (MIG is unknown before Ampere)."""
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            return getattr(nvml, question)(*words)
        return None

    card = ask("nvmlDeviceGetHandleByIndex", index)
    mode = ask("nvmlDeviceGetMigMode", card) if card is not None else None
    split = bool(mode[0]) if mode else None
    arch = ask("nvmlDeviceGetCudaComputeCapability", card) if card is not None else None
    cuda_arch = f"{arch[0]}.{arch[1]}" if arch else None
    yield described(ask, card, Device("gpu", str(index), None, mig_enabled=split, cuda_arch=cuda_arch))
    # The count is of places; those between instances may be empty.
    for place in range(ask("nvmlDeviceGetMaxMigDeviceCount", card) or 0 if split else 0):
        part = ask("nvmlDeviceGetMigDeviceHandleByIndex", card, place)
        if part is not None:
            blank = Device("mig", f"{index}:{place}", None, parent=str(index), cuda_arch=cuda_arch)
            yield described(ask, part, blank)


def described(ask: Callable[..., Any], handle: Any, blank: Device) -> Device:
    """The device with its name, UUID and memory."""
    if handle is None:
        return blank
    name, uuid = ask("nvmlDeviceGetName", handle), ask("nvmlDeviceGetUUID", handle)
    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    known = {
        "name": None if name is None else text_of(name),
        "uuid": None if uuid is None else text_of(uuid),
        "memory_byte": None if memory is None else int(memory.total),
        "memory_free_byte": None if memory is None else int(memory.free),
    }
    return Device(**{**asdict(blank), **known})


# ---------------------------------------------------------------------------
# Command line


def list_devices(root: Path) -> dict[str, Any]:
    """{"devices": […], "nvml_missing": why or null}."""
    facts = board_facts(root)
    missing: str | None = "not asked: a Jetson"
    if facts.get("is_jetson"):
        # NVML starts on a Jetson and knows next to nothing of its GPU; the device tree does.
        found = [jetson(facts)]
    else:
        found, missing = nvml_devices()
    return {"devices": [asdict(one) for one in [*found, processor(facts)]], "nvml_missing": missing}


def gib(value: int | None) -> str:
    return "?" if value is None else f"{value / 2**30:.1f}"


def format_table(listed: Mapping[str, Any]) -> str:
    """The devices for a terminal of 80 columns; UUIDs, which are longer, below their device."""
    lines = [f"{'device':14} {'index':5} {'GiB':>6} {'free':>6}  name"]
    for one in listed["devices"]:
        name = (one["name"] or "?") + (" (MIG on)" if one["mig_enabled"] else "")
        sizes = f"{gib(one['memory_byte']):>6} {gib(one['memory_free_byte']):>6}"
        lines.append(f"{KINDS[one['kind']]:14} {one['index'] or '-':5} {sizes}  {name}")
        if one["uuid"]:
            lines.append(f"{'':14} {one['uuid']}")
    if len(listed["devices"]) == 1:
        why = f" ({listed['nvml_missing']})" if listed["nvml_missing"] else ""
        lines.append(f"no GPU{why}: the engine runs on the processor")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="a recorded machine")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the devices."""
    args = build_parser().parse_args(argv)
    try:
        listed = list_devices(args.root)
    except (ListDevicesError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(listed) if args.json else format_table(listed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
