"""What can this machine compute on? A Jetson, NVIDIA GPUs with their MIG instances, or the processor alone.

A Jetson is known by its device tree; its GPU shares the board's memory. Other NVIDIA GPUs come from NVML
(package nvidia-ml-py), and a GPU that is split into MIG instances is listed with each of them below it. A
process takes one of them by CUDA_VISIBLE_DEVICES=UUID. The processor stands last, always. What the machine
does not tell is None.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.board import facts as board_facts

KINDS = {"jetson": "Jetson", "gpu": "GPU", "mig": "MIG instance", "cpu": "CPU"}


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


@dataclass(frozen=True)
class Devices:
    """All there is to compute on, and why NVML has no say in it (None where it has)."""

    devices: list[Device]
    nvml_missing: str | None

    def as_record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def list_devices(root: Path) -> Devices:
    """What this machine, or a recorded one, computes on. UserError where root is no folder."""
    board_facts.check_root(root)
    root = root.resolve()
    facts = {**board_facts.identity(root), **board_facts.memory(root)}
    missing: str | None = "not asked: a Jetson"
    if facts["is_jetson"]:
        # NVML starts on a Jetson and knows next to nothing of its GPU; the device tree does.
        found = [jetson(facts)]
    else:
        found, missing = nvml_devices()
    return Devices([*found, processor(facts)], missing)


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


# --- NVML ---


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


# --- For people ---


def gib(value: int | None) -> str:
    """Bytes in GiB."""
    return "?" if value is None else f"{value / 2**30:.1f}"


def format_table(listed: Devices) -> str:
    """The devices for a terminal of 80 columns; UUIDs, which are longer, below their device."""
    lines = [f"{'device':14} {'index':5} {'GiB':>6} {'free':>6}  name"]
    for one in listed.devices:
        name = (one.name or "?") + (" (MIG on)" if one.mig_enabled else "")
        sizes = f"{gib(one.memory_byte):>6} {gib(one.memory_free_byte):>6}"
        lines.append(f"{KINDS[one.kind]:14} {one.index or '-':5} {sizes}  {name}")
        if one.uuid:
            lines.append(f"{'':14} {one.uuid}")
    if len(listed.devices) == 1:
        why = f" ({listed.nvml_missing})" if listed.nvml_missing else ""
        lines.append(f"no GPU{why}: the engine runs on the processor")
    return "\n".join(lines)
