"""Facts of machines: recorded trees, this machine, and the programs that are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import board_trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.board import facts as board_facts
from edgebench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# What the environment record of a campaign is built from.
KEYS = [
    "schema_version", "checked_at", "board", "is_jetson", "l4t",
    "jetpack", "power_mode_name", "power_mode_id", "power_modes", "clocks_locked",
    "cpu_governor", "cpu_max_khz", "gpu_cur_hz", "gpu_max_hz", "emc_cur_hz",
    "emc_max_hz", "memory_total_byte", "memory_available_byte", "swap_total_byte", "swap_used_byte",
    "zram", "disk_free_byte", "temps_c", "throttle_counters", "load_1min",
    "kernel", "machine", "cpu_model", "cpu_cores", "python",
    "engine", "gpus", "memory_bandwidth_gb_per_s",
]  # fmt: skip
NVML = """
NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 2, 0
class NVMLError(Exception): pass
class Info: total, free = 24 << 30, 20 << 30
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlSystemGetDriverVersion(): return "550.54.15"
def nvmlDeviceGetName(card): return "NVIDIA GeForce RTX 3090"
def nvmlDeviceGetMemoryInfo(card): return Info
def nvmlDeviceGetEnforcedPowerLimit(card): return 350000
def nvmlDeviceGetMaxClockInfo(card, kind): return 9751
def nvmlDeviceGetMemoryBusWidth(card): return 384
def nvmlDeviceGetTemperature(card, kind): raise NVMLError("not supported")
"""


ASK = """
import json, sys
from pathlib import Path
from edgebench.board.facts import board_facts
print(json.dumps(board_facts(Path(sys.argv[1]))))
"""


def ask(root: Path = Path("/"), **environment: str) -> Any:
    """All facts, asked in a process that finds the packages and programs of this environment."""
    path = os.pathsep.join(filter(None, (str(ROOT), environment.pop("PYTHONPATH", None))))
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(root)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def all_but_engine(root: Path) -> dict[str, Any]:
    parts = (board_facts.identity, board_facts.power_mode, board_facts.clocks, board_facts.memory)
    return {name: value for part in parts for name, value in part(root).items()}


def test_orin_nano_super(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path / "root")
    engine = board_trees.engine(tmp_path / "engine", gpu_offload=True, system_info="CUDA : ARCHS = 870")
    facts = ask(root, PYTHONPATH=str(engine))
    assert [key for key in KEYS if key not in facts] == []
    assert facts["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts["l4t"], facts["jetpack"], facts["is_jetson"], facts["cuda_arch"]) == (
        "36.4.3",
        "6.2",
        True,
        87,
    )
    assert (facts["power_mode_name"], facts["power_mode_id"]) == ("MAXN_SUPER", 2)
    assert facts["power_modes"] == {"0": "15W", "1": "25W", "2": "MAXN_SUPER", "3": "7W"}
    assert (
        facts["clocks_locked"] is True and facts["emc_max_hz"] == 3199000000 and facts["emc_cur_hz"] is None
    )
    assert facts["memory_bandwidth_gb_per_s"] == 102.4
    assert facts["memory_total_byte"] == 7620 * 2**20 and facts["zram"] is True
    assert facts["temps_c"] == {"cpu-thermal": 48.312, "gpu-thermal": 47.156, "tj-thermal": 48.312}
    assert facts["trip_points_c"] == {"cpu-thermal": 99.0, "gpu-thermal": 99.0, "tj-thermal": 95.0}
    counters = {"oc1_event_cnt": 0, "oc2_event_cnt": 0, "oc3_event_cnt": 7, "cooling:gpu-throttle-alert": 0}
    assert facts["throttle_counters"] == counters
    answer = {"version": "0.3.36", "gpu_offload": True, "system_info": "CUDA : ARCHS = 870", "error": None}
    assert facts["engine"] == answer
    assert facts["machine"] is None and facts["disk_free_byte"] is None  # the tree does not hold them
    assert facts["gpus"] == [] and facts["cpu_cores"] == 6


def test_the_memory_clock_follows_the_power_mode(tmp_path: Path) -> None:
    facts = {**all_but_engine(board_trees.orin_nano_super(tmp_path, mode=0)), "gpus": []}
    assert facts["power_mode_name"] == "15W"
    assert board_facts.memory_bandwidth(facts) == 68.3


def test_the_four_gigabyte_nano_has_half_the_bus(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path)
    board_trees.write(root, {"/proc/meminfo": board_trees.meminfo(3400, 2500)})
    assert board_facts.memory_bandwidth({**all_but_engine(root), "gpus": []}) == 51.2


def test_agx_orin_seen_by_root(tmp_path: Path) -> None:
    facts = all_but_engine(board_trees.agx_orin(tmp_path))
    assert (facts["l4t"], facts["jetpack"]) == ("35.4.1", "5.1.2")
    assert (facts["power_mode_name"], facts["clocks_locked"]) == ("MODE_30W", False)
    assert (facts["emc_cur_hz"], facts["gpu_cur_hz"]) == (2133000000, 306000000)
    assert board_facts.memory_bandwidth({**facts, "gpus": []}) == 204.7


def test_pc(tmp_path: Path) -> None:
    root = board_trees.pc(tmp_path)
    facts = all_but_engine(root)
    assert facts["board"] == "LENOVO 21K5CTO1WW" and not facts["is_jetson"]
    assert (facts["l4t"], facts["power_mode_id"], facts["power_modes"]) == (None, None, {})
    assert facts["cpu_governor"] == "powersave" and facts["swap_used_byte"] == 900 * 2**20
    assert facts["machine"] == "x86_64" and facts["zram"] is False
    heat = board_facts.heat(root)
    assert heat["temps_c"] == {"acpitz": 45.0, "acpitz:1": 51.0}  # two zones of one name
    assert heat["throttle_counters"] == {"package_throttle_count": 12}


def test_memory_clock_of_jetpack_7(tmp_path: Path) -> None:
    names = {"min": 4266000000, "cur": 4266000000, "max": 4266000000}
    board_trees.write(tmp_path, {f"/sys/class/devfreq/bwmgr/{k}_freq": v for k, v in names.items()})
    clock = board_facts.memory_clock(tmp_path)
    assert clock == {"emc_cur_hz": 4266000000, "emc_max_hz": 4266000000, "emc_locked": True}


@pytest.mark.parametrize(
    ("low", "now", "high", "locked"),
    [(1000, 1000, 1000, True), (1000, 985, 1000, True), (1000, 600, 1000, False), (300, 1000, 1000, False),
     (1000, None, 1000, True), (None, 1000, 1000, None), (None, None, None, None)],
)  # fmt: skip
def test_held_clocks(low: int | None, now: int | None, high: int | None, locked: bool | None) -> None:
    assert board_facts.held(low, now, high) is locked


def test_other_boards_power_modes_are_not_taken(tmp_path: Path) -> None:
    board_trees.write(tmp_path, {
        "/var/lib/nvpmodel/status": "pmode:0001",
        "/etc/nvpmodel/a.conf": board_trees.nvpmodel_conf({0: "MAXN", 1: "10W"}),
        "/etc/nvpmodel/b.conf": board_trees.nvpmodel_conf({0: "15W", 1: "7W"}),
    })  # fmt: skip
    mode = board_facts.power_mode(tmp_path)
    assert (mode["power_mode_id"], mode["power_mode_name"], mode["power_modes"]) == (1, None, {})
    board_trees.write(tmp_path, {"/var/lib/nvpmodel/conf_file_path": "/etc/nvpmodel/b.conf"})
    assert board_facts.power_mode(tmp_path)["power_mode_name"] == "7W"


def test_a_sensor_that_answers_eagain_is_left_out(tmp_path: Path) -> None:
    root = board_trees.orin_nano_super(tmp_path)
    pipe = root / "sys/class/thermal/thermal_zone1/temp"
    pipe.unlink()
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # with a writer, an empty pipe gives EAGAIN as a gated unit does
    try:
        with pytest.raises(BlockingIOError):
            os.read(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), 1)
        assert "gpu-thermal" not in board_facts.heat(root)["temps_c"]
    finally:
        os.close(writer)


def test_an_empty_tree_gives_null_not_zero(tmp_path: Path) -> None:
    facts = {**all_but_engine(tmp_path), **board_facts.heat(tmp_path), **board_facts.load(tmp_path)}
    nothing = (None, False, {}, [], board_facts.platform.python_version())
    assert {k: v for k, v in facts.items() if v not in nothing} == {}
    assert facts["load_1min"] is None and facts["memory_total_byte"] is None and facts["zram"] is None


def test_links_do_not_leave_the_tree(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/loop").symlink_to("/etc/loop")
    (tmp_path / "etc/out").symlink_to("/etc/hostname")
    assert board_facts.read_text(tmp_path, "/etc/loop") is None
    assert board_facts.read_text(tmp_path, "/etc/out") is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=60), name=st.sampled_from([
    "/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel/status", "/proc/meminfo",
    "/proc/cpuinfo",
    "/sys/class/thermal/thermal_zone0/temp", "/sys/class/devfreq/17000000.gpu/max_freq", "/proc/swaps",
]))  # fmt: skip
def test_nonsense_in_any_file_is_survived(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
    board_trees.write(tmp_path, {"/sys/class/thermal/thermal_zone0/type": "soc"})
    json.dumps({**all_but_engine(tmp_path), **board_facts.heat(tmp_path), **board_facts.load(tmp_path)})


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [("36.4.3", "6.2"), ("36.4.7", "6.2.1"), ("36.5", "6.2.2"), ("36.99.1", "6.x"), ("35.4.1", "5.1.2"),
     ("32.7.1", "4.6.1"), ("39.2", "7.2"), ("99.1", None)],
)  # fmt: skip
def test_jetpack(l4t: str, jetpack: str | None) -> None:
    assert board_facts.jetpack(l4t) == jetpack


def test_an_engine_that_does_not_start(tmp_path: Path) -> None:
    package = board_trees.engine(tmp_path, gpu_offload=True) / "llama_cpp/__init__.py"
    package.write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    facts = ask(tmp_path, PYTHONPATH=str(tmp_path))
    assert facts["engine"]["version"] is None and "libcudart.so.12" in facts["engine"]["error"]


def test_an_engine_that_crashes(tmp_path: Path) -> None:
    package = board_trees.engine(tmp_path, gpu_offload=True) / "llama_cpp/__init__.py"
    package.write_text("import os\nos.kill(os.getpid(), 11)")
    facts = ask(tmp_path, PYTHONPATH=str(tmp_path))
    assert facts["engine"]["gpu_offload"] is None and facts["engine"]["error"] == "exit status -11"


def test_cards_through_nvml(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(NVML)
    board_trees.engine(tmp_path, gpu_offload=True)
    facts = ask(PYTHONPATH=str(tmp_path))
    (card,) = facts["gpus"]
    assert card["memory_bandwidth_gb_per_s"] == 936.1 and card["power_limit_w"] == 350.0
    assert card["temp_c"] is None and card["memory_free_byte"] == 20 * 2**30
    assert card["slowdown_c"] is card["throttled_by"] is None  # an older package has no such questions
    assert facts["memory_bandwidth_gb_per_s"] == 936.1
    # A CPU-only engine does not read the card's memory: its bound is another, which is not known.
    board_trees.engine(tmp_path, gpu_offload=False)
    assert ask(PYTHONPATH=str(tmp_path))["memory_bandwidth_gb_per_s"] is None


def test_a_card_that_tells_its_limit_and_what_slows_it_down(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(
        NVML + "\ndef nvmlDeviceGetTemperatureThreshold(card, kind): return {1: 89, 0: 95}[kind]"
        "\ndef nvmlDeviceGetCurrentClocksThrottleReasons(card): return 0x1 | 0x4"  # idle, and power cap
    )
    board_trees.engine(tmp_path, gpu_offload=True)
    (card,) = ask(PYTHONPATH=str(tmp_path))["gpus"]
    assert (card["slowdown_c"], card["throttled_by"]) == (89, ["power cap"])


def test_cards_through_the_drivers_tool(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError")
    board_trees.nvidia_smi(tmp_path, "NVIDIA T4, 535.161.07, 15360, 14900, [N/A], 41")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    (card,) = ask(PYTHONPATH=str(tmp_path), PATH=path)["gpus"]
    assert card["name"] == "NVIDIA T4" and card["memory_total_byte"] == 15360 * 2**20
    assert (card["power_limit_w"], card["temp_c"], card["memory_bandwidth_gb_per_s"]) == (None, 41, None)


def test_this_machine_and_its_secrets() -> None:
    facts = ask()
    assert [key for key in KEYS if key not in facts] == []
    assert facts["disk_free_byte"] > 0 and facts["memory_total_byte"] > facts["memory_available_byte"] > 0
    assert os.uname().nodename not in [value for value in facts.values() if isinstance(value, str)]
    assert not {"hostname", "serial", "uuid"} & set(facts)


def test_no_such_root() -> None:
    with pytest.raises(UserError, match="/no/such/folder is no folder"):
        board_facts.board_facts(Path("/no/such/folder"))
