"""Sensors on disk: the sysfs trees of Jetson boards, and RAPL counters."""

from pathlib import Path


def write(folder: Path, files: dict[str, object]) -> None:
    """Write small files, as sysfs shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def orin_nano(sys: Path) -> Path:
    """JetPack 5 on: hwmon, numbers out of order, a chip that is not ours, alarms and sums of the driver."""
    write(
        sys / "class/hwmon/hwmon0",
        {"name": "tmp451", "in1_label": "VDD_IN", "in1_input": 1},
    )
    write(
        sys / "class/hwmon/hwmon4",
        {
            "name": "ina3221",
            "in1_label": "VDD_IN", "in1_input": 5040, "curr1_input": 1000, "shunt1_resistor": 5000,
            "in1_enable": 1,
            "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5040, "curr2_input": 96, "shunt2_resistor": 5000,
            "in3_label": "VDD_SOC", "in3_input": 5040, "curr3_input": 288, "shunt3_resistor": 5000,
            "in4_input": 5, "in5_input": 0, "in6_input": 1, "in7_label": "sum of shunt voltages",
            "curr1_crit_alarm": 0,
        },
    )  # fmt: skip
    write(sys / "class/thermal/thermal_zone0", {"type": "cpu-thermal", "temp": 42937})
    write(sys / "class/thermal/thermal_zone8", {"type": "tj-thermal", "temp": 43093})
    return sys


def agx_orin(sys: Path) -> Path:
    """JetPack 5: two chips, NC channels, a negative current, a disabled channel."""
    write(
        sys / "class/hwmon/hwmon3",
        {
            "name": "ina3221",
            "in1_label": "VDD_GPU_SOC", "in1_input": 19950, "curr1_input": 140, "shunt1_resistor": 2000,
            "in2_label": "VDD_CPU_CV", "in2_input": 19950, "curr2_input": -20, "shunt2_resistor": 2000,
            "in3_label": "VIN_SYS_5V0", "in3_input": 5020, "curr3_input": 640, "shunt3_resistor": 2000,
        },
    )  # fmt: skip
    write(
        sys / "class/hwmon/hwmon5",
        {
            "name": "ina3221",
            "in1_label": "NC", "in1_input": 0, "curr1_input": 0,
            "in2_label": "VDDQ_VDD2_1V8AO", "in2_input": 5020, "curr2_input": 60, "in2_enable": 1,
            "in3_label": "SPARE", "in3_input": 0, "curr3_input": 0, "in3_enable": 0,
        },
    )  # fmt: skip
    return sys


def thor(sys: Path) -> Path:
    """An INA3221 with three rails and an INA238, whose power1_input is in microwatt."""
    write(
        sys / "class/hwmon/hwmon2",
        {
            "name": "ina3221",
            "in1_label": "VDD_GPU", "in1_input": 12040, "curr1_input": 0,
            "in2_label": "VDD_CPU_SOC_MSS", "in2_input": 12040, "curr2_input": 460,
            "in3_label": "VIN_SYS_5V0", "in3_input": 5088, "curr3_input": 990,
        },
    )  # fmt: skip
    chip = {"name": "ina238", "in1_input": 19000, "curr1_input": 884, "power1_input": 16802000}
    write(sys / "class/hwmon/hwmon6", chip)
    return sys


def nano(sys: Path) -> Path:
    """JetPack 4: NVIDIA's iio driver, power in mW."""
    write(
        sys / "bus/i2c/drivers/ina3221x/6-0040/iio:device0",
        {
            "rail_name_0": "POM_5V_IN", "in_power0_input": 2793, "in_voltage0_input": 5064,
            "rail_name_1": "POM_5V_GPU", "in_power1_input": 76,
            "rail_name_2": "POM_5V_CPU", "in_power2_input": 1222,
        },
    )  # fmt: skip
    return sys


def rapl(sys: Path, energy_uj: int = 5_000_000, limit_uj: int = 262_143_328_850) -> Path:
    """One package with its core below it, psys, and the same package a second time behind mmio."""
    powercap = sys / "class/powercap"
    package = {"name": "package-0", "energy_uj": energy_uj, "max_energy_range_uj": limit_uj}
    write(powercap / "intel-rapl:0", package)
    write(powercap / "intel-rapl:0:0", {"name": "core", "energy_uj": 1, "max_energy_range_uj": limit_uj})
    write(powercap / "intel-rapl:1", {"name": "psys", "energy_uj": 1, "max_energy_range_uj": limit_uj})
    write(powercap / "intel-rapl-mmio:0", package)
    return sys
