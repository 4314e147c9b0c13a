"""The hottest zone of the chip: one rule for the power feed, the engine's worker and the cool-down.

A zone has a name and a temperature in Celsius. Names are read as tegrastats prints them (`CPU`, `tj`) or as
the kernel does (`CPU-therm`, `tj-thermal`). Not every zone is silicon: the power supply chip of older Jetsons
shows a constant 50 or 100, and diodes on the board show the board. Those, and zones that say by their
number that they are switched off, are passed over. A chip below zero is a chip below zero.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from edgebench.board.sysfs import read_text

# Beginnings of names: PMIC, PMIC-Die, Tboard_tegra, Tdiode_tegra, iwlwifi_1. They tell nothing of the chip.
NOT_SILICON = ("pmic", "tboard", "tdiode", "iwlwifi")
SENSOR_OFF_C = -100.0  # a zone that is powered down shows -256, and nothing here is colder than this
NO_CHIP_C = 150.0  # silicon has switched itself off long before

SYSFS = Path("/sys")
SUFFIX = re.compile(r"-therm(al)?$")


def zone_name(kind: str) -> str:
    """The kernel's name of a zone as tegrastats prints it.

    >>> zone_name("tj-thermal"), zone_name("CPU-therm"), zone_name("thermal-fan-est")
    ('tj', 'CPU', 'thermal-fan-est')
    """
    return SUFFIX.sub("", kind.strip()).replace(" ", "_")


def is_silicon(name: str) -> bool:
    """Whether a zone of this name belongs to the chip.

    >>> is_silicon("CPU-therm"), is_silicon("PMIC-Die"), is_silicon("Tboard_tegra")
    (True, False, False)
    """
    return not name.strip().casefold().startswith(NOT_SILICON)


@functools.lru_cache(maxsize=1024)  # the same dozen names again with every sample
def chip_zone(name: str) -> str | None:
    """The short name of a zone of the chip; None of any other."""
    return zone_name(name) if is_silicon(name) else None


def is_reading(temp_c: float) -> bool:
    """Whether a number is a temperature. Zones that are off show -256, or exactly 0."""
    return SENSOR_OFF_C < temp_c < NO_CHIP_C and temp_c != 0


def hottest_c(temps_c: Mapping[str, float]) -> float | None:
    """The chip's temperature in Celsius: its junction (`tj`), else its hottest zone. None without one.

    >>> hottest_c({"AO-therm": 39.5, "CPU-therm": 32.0, "PMIC-Die": 100.0})
    39.5
    >>> hottest_c({"cpu": -12.5, "gpu": -256.0, "PMIC": 50.0})
    -12.5
    """
    junction_c, zones_c = None, []
    for name, temp_c in temps_c.items():
        zone = chip_zone(name)
        if zone is None or not is_reading(temp_c):
            continue
        if zone == "tj":
            junction_c = temp_c
        zones_c.append(temp_c)
    return max(zones_c, default=None) if junction_c is None else junction_c


def read_zones(sysfs: Path = SYSFS) -> dict[str, float]:
    """Every thermal zone that answers, in Celsius, by the kernel's name; `name:7` for a second of one name.

    All that the kernel shows, also what is no silicon or says by its number that it is off.
    """
    temps_c: dict[str, float] = {}
    zones = {
        zone.name.removeprefix("thermal_zone"): zone for zone in sysfs.glob("class/thermal/thermal_zone*")
    }
    for number in sorted(filter(str.isdecimal, zones), key=int):
        zone = zones[number]
        kind, text = read_text(zone / "type") or zone.name, read_text(zone / "temp")
        if re.fullmatch(r"-?\d+", text):
            name = f"{kind}:{number}" if kind in temps_c else kind
            temps_c[name] = int(text) / 1000
    return temps_c


def read_hottest_c(sysfs: Path = SYSFS) -> float | None:
    """The chip's temperature now; None where this machine shows none."""
    return hottest_c(read_zones(sysfs))
