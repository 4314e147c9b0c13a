"""Plays nvidia-ml-py. FAKE_NVML: none (no driver), jetson (no power), old (no instant power), lost, card."""

import os
import time
from types import SimpleNamespace

NVML_SUCCESS, NVML_TEMPERATURE_GPU, NVML_FI_DEV_POWER_INSTANT = 0, 0, 186
STARTED_S = time.monotonic()


class NVMLError(Exception):
    pass


def mode():
    return os.environ.get("FAKE_NVML", "card")


def nvmlInit():
    if mode() == "none":
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():
    pass


def nvmlDeviceGetHandleByIndex(index):
    if index > 0:
        raise NVMLError("Invalid Argument")
    return index


def nvmlDeviceGetName(card):
    return "NVIDIA Fake 100"


def nvmlDeviceGetPowerUsage(card):
    if mode() == "jetson":
        raise NVMLError("Not Supported")
    if mode() == "lost" and time.monotonic() - STARTED_S > 0.3:
        raise NVMLError("GPU is lost")
    return 61_000


def nvmlDeviceGetFieldValues(card, fields):
    if mode() == "lost":
        return [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0))]
    if mode() == "old":
        return [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0))]
    return [SimpleNamespace(nvmlReturn=NVML_SUCCESS, value=SimpleNamespace(uiVal=72_345))]


def nvmlDeviceGetTemperature(card, sensor):
    return 55


def nvmlDeviceGetTotalEnergyConsumption(card):
    return int(72_345 * (int(time.monotonic() * 20) / 20 - STARTED_S // 1))
