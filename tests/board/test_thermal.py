"""One hottest zone, by one rule, wherever a temperature is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.board import check, facts, thermal
from edgebench.power.sampler import TegrastatsSampler, find_feed
from edgebench.power.tegrastats import parse_line

ROOT = Path(__file__).resolve().parents[2]
FIELD_CASE = ROOT.parent / "shared/data/field-cases/collector/sys_nano"

# Zones as boards show them [C] -> the chip's temperature.
BOARDS: dict[str, tuple[dict[str, float], float | None]] = {
    "nano": ({"AO-therm": 39.5, "CPU-therm": 32, "GPU-therm": 30.5, "PMIC-Die": 100, "fan-est": 31.2}, 39.5),
    "tx2": ({"BCPU-therm": 41, "Tboard_tegra": 45, "Tdiode_tegra": 47.25, "PMIC-Die": 100}, 41),
    "xavier": ({"CPU-therm": 33.5, "AUX-therm": 32, "PMIC-Die": 50, "iwlwifi": 60, "GPU-therm": 32.5}, 33.5),
    "orin": ({"cpu-thermal": 48.3, "tj-thermal": 49.1, "cv0-thermal": -256, "soc0-thermal": 50.0}, 49.1),
    "frost": ({"CPU-therm": -12.5, "GPU-therm": -14, "PMIC-Die": 50, "Tdiode_tegra": -10}, -12.5),
    "off": ({"cpu-thermal": -256, "gpu-thermal": 0, "PMIC-Die": 100}, None),
    "zero in the frost": ({"cpu-thermal": -3.5, "gpu-thermal": 0}, -3.5),
    "wrong unit": ({"cpu-thermal": 44, "x-thermal": 44_000}, 44),
    "only the board": ({"Tboard_tegra": 30, "PMIC": 100}, None),
    "nothing": ({}, None),
}  # fmt: skip


def tree(root: Path, temps_c: dict[str, float]) -> Path:
    """A sysfs with these zones."""
    for number, (name, temp_c) in enumerate(temps_c.items()):
        zone = root / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{name}\n")
        (zone / "temp").write_text(f"{temp_c * 1000:.0f}\n")
    return root


@pytest.mark.parametrize("board", BOARDS)
def test_the_hottest_zone_of_every_board(board: str, tmp_path: Path) -> None:
    temps_c, wanted_c = BOARDS[board]
    assert thermal.hottest_c(temps_c) == wanted_c
    assert thermal.read_hottest_c(tree(tmp_path, temps_c)) == wanted_c


@pytest.mark.parametrize("board", BOARDS)
def test_a_power_line_is_as_hot_as_the_kernel_says(board: str) -> None:
    temps_c, wanted_c = BOARDS[board]
    words = [f"{thermal.zone_name(name)}@{temp_c:g}C" for name, temp_c in temps_c.items() if temp_c < 10_000]
    reading = parse_line(" ".join([*words, "VDD_IN 5000mW/5000mW"]))
    assert thermal.hottest_c(reading.temps_c) == wanted_c
    trace = TegrastatsSampler(find_feed("none"))
    trace._hear(1.0, " ".join([*words, "VDD_IN 5000mW/5000mW"]))
    trace._hear(2.0, " ".join([*words, "VDD_IN 5000mW/5000mW"]))
    assert trace.trace.window(1.0, 2.0, None).temp_max_c == wanted_c


def test_the_engine_and_the_cool_down_ask_the_same_rule(tmp_path: Path) -> None:
    """The engine's worker and the experiments' conductor had readers of their own, two of them wrong."""
    found = subprocess.run(
        ["grep", "-rlE", "thermal_zone", "--include=*.py", str(ROOT / "edgebench")],
        capture_output=True,
        text=True,
    )
    readers = {str(Path(name).relative_to(ROOT / "edgebench")) for name in found.stdout.split()}
    # facts.py lists all zones with their limits, feeds.py keeps their files open: neither chooses one.
    assert readers == {"board/thermal.py", "board/facts.py", "power/feeds.py"}


def test_the_board_check_names_the_chips_hottest_zone(tmp_path: Path) -> None:
    for path, text in tree_text(BOARDS["nano"][0]).items():
        target = tmp_path / "sys" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    heat = facts.heat(tmp_path)
    assert heat["temps_c"]["PMIC-Die"] == 100.0  # a fact, and no temperature of the chip
    assert check.check_heat(heat).message.startswith("AO-therm 40 C is the hottest of 5")


def tree_text(temps_c: dict[str, float]) -> dict[str, str]:
    """The files of such a sysfs, below it."""
    files = {}
    for number, (name, temp_c) in enumerate(temps_c.items()):
        files[f"class/thermal/thermal_zone{number}/type"] = f"{name}\n"
        files[f"class/thermal/thermal_zone{number}/temp"] = f"{temp_c * 1000:.0f}\n"
    return files


def test_zones_that_do_not_answer_are_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cpu-thermal": 40, "gpu-thermal": 60, "soc-thermal": 50})
    (root / "class/thermal/thermal_zone1/temp").unlink()  # a unit that is off: EAGAIN, as an empty pipe says
    os.mkfifo(root / "class/thermal/thermal_zone1/temp")
    (root / "class/thermal/thermal_zone2/temp").write_text("")
    writer = os.open(root / "class/thermal/thermal_zone1/temp", os.O_RDWR)
    try:
        assert thermal.read_zones(root) == {"cpu-thermal": 40.0}
    finally:
        os.close(writer)


def test_two_zones_of_one_name_are_both_seen(tmp_path: Path) -> None:
    root = tree(tmp_path, {"x86_pkg_temp": 40})
    zone = root / "class/thermal/thermal_zone10"
    zone.mkdir()
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("55000\n")
    assert thermal.read_zones(root) == {"x86_pkg_temp": 40.0, "x86_pkg_temp:10": 55.0}
    assert thermal.read_hottest_c(root) == 55.0


@pytest.mark.skipif(not FIELD_CASE.exists(), reason="needs the collected trees")
def test_a_recorded_nano_is_not_as_hot_as_its_power_supply() -> None:
    assert thermal.read_hottest_c(FIELD_CASE / "sys") == 39.5
    command = [sys.executable, str(ROOT / "tegrastats_sampler.py"), "feed", "--source", "ina3221", "--sys"]
    with subprocess.Popen(
        [*command, str(FIELD_CASE / "sys"), "--interval", "10"], stdout=subprocess.PIPE, text=True
    ) as feed:
        assert feed.stdout
        feed.stdout.readline()
        assert thermal.hottest_c(parse_line(feed.stdout.readline()).temps_c) == 39.5
        feed.terminate()
