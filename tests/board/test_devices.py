"""What the machine offers: a Jetson, GPUs with MIG instances, or the processor alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions/board_check.py"
NVML = """
import os
from types import SimpleNamespace


class NVMLError(Exception):
    pass


GIB = 2**30
CARDS = {0: ("NVIDIA A100", "GPU-aa", 80), 1: ("NVIDIA T400", "GPU-bb", 4)}
PARTS = {0: ("NVIDIA A100 MIG 3g.40gb", "MIG-11", 40), 3: ("NVIDIA A100 MIG 1g.10gb", "MIG-22", 10)}


def nvmlInit():
    if os.environ["FAKE"] == "none":
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return 2


def nvmlDeviceGetHandleByIndex(index):
    if os.environ["FAKE"] == "lost" and index == 1:
        raise NVMLError("GPU is lost")
    return CARDS[index]


def nvmlDeviceGetMigMode(card):
    if card[1] != "GPU-aa":
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(card):
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(card, place):
    if place not in PARTS:
        raise NVMLError("Not Found")
    return PARTS[place]


def nvmlDeviceGetName(card):
    return card[0].encode()


def nvmlDeviceGetUUID(card):
    return card[1]


def nvmlDeviceGetMemoryInfo(card):
    return SimpleNamespace(total=card[2] * GIB, free=card[2] * GIB // 2)


def nvmlDeviceGetCudaComputeCapability(card):
    return (8, 0) if card[1] == "GPU-aa" else (7, 5)
"""


def ask(tmp_path: Path, fake: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pynvml.py").write_text(NVML)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "FAKE": fake}
    command = [sys.executable, str(SCRIPT), "devices", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def empty_machine(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU\n\nprocessor\t: 1\n")
    (root / "proc/meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:  6000000 kB\n")
    return root


def test_gpus_stand_with_their_instances_below_them(tmp_path: Path) -> None:
    done = ask(tmp_path, "card", "--json", "--root", str(empty_machine(tmp_path)))
    listed = json.loads(done.stdout)
    keys = [(one["kind"], one["index"], one["uuid"], one["parent"]) for one in listed["devices"]]
    assert keys == [
        ("gpu", "0", "GPU-aa", None),
        ("mig", "0:0", "MIG-11", "0"),
        ("mig", "0:3", "MIG-22", "0"),
        ("gpu", "1", "GPU-bb", None),
        ("cpu", None, None, None),
    ]
    first, part, _, second, cpu = listed["devices"]
    assert first["mig_enabled"] is True and second["mig_enabled"] is None
    assert part["memory_byte"] == 40 * 2**30 and part["cuda_arch"] == "8.0"
    assert cpu["name"] == "Some CPU, 2 cores" and cpu["memory_byte"] == 8_000_000 * 1024
    assert listed["nvml_missing"] is None


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    done = ask(tmp_path, "card", "--root", str(empty_machine(tmp_path)))
    assert "MIG instance   0:3" in done.stdout and "MIG-22" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_gpu_that_cannot_be_asked_is_still_listed(tmp_path: Path) -> None:
    done = ask(tmp_path, "lost", "--json", "--root", str(empty_machine(tmp_path)))
    lost = json.loads(done.stdout)["devices"][3]
    assert (lost["kind"], lost["index"], lost["name"], lost["memory_byte"]) == ("gpu", "1", None, None)


def test_without_a_gpu_it_says_so_and_why(tmp_path: Path) -> None:
    done = ask(tmp_path, "none", "--root", str(empty_machine(tmp_path)))
    assert done.returncode == 0
    assert "no GPU" in done.stdout and "Driver Not Loaded" in done.stdout and "Some CPU" in done.stdout


def test_a_jetson_is_known_by_its_device_tree(tmp_path: Path) -> None:
    root = empty_machine(tmp_path)
    (root / "proc/device-tree").mkdir()
    (root / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit Super\0")
    (root / "proc/device-tree/compatible").write_bytes(
        b"nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0"
    )
    listed = json.loads(ask(tmp_path, "card", "--json", "--root", str(root)).stdout)
    assert [one["kind"] for one in listed["devices"]] == ["jetson", "cpu"]
    board = listed["devices"][0]
    assert board["name"].startswith("NVIDIA Jetson Orin Nano") and board["cuda_arch"] == "8.7"
    assert board["memory_byte"] == 8_000_000 * 1024


def test_a_recorded_machine_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = ask(tmp_path, "none", "--root", str(tmp_path / "gone"))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "--root" in done.stderr


@pytest.mark.parametrize("flag", ["--json", "--root=/"])
def test_it_runs_on_this_machine(flag: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "devices", flag], capture_output=True, text=True)
    assert done.returncode == 0 and ("CPU" in done.stdout or '"cpu"' in done.stdout)
