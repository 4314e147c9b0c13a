#!/usr/bin/env python3
"""Compares the NVML feed's integral with the card's own energy counter; run by hand on an NVIDIA machine.

A load in bursts runs for --seconds; meanwhile the sampler reads the nvml feed, and
nvmlDeviceGetTotalEnergyConsumption is read at t0 and t1. The load is torch if it is installed, else a
kernel built with nvcc, else none: then idle power is compared. Prints both energies and their difference,
for each of NVML's two power readings.

Example:
  python tests/bench_nvml_energy.py --seconds 60
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tegrastats_sampler as power  # noqa: E402
from edgebench.power.feeds import FeedRequest, feed_command  # noqa: E402

SETTLE_S = 3.0  # an H200 draws what it drew with a program on it for up to two seconds after its end
# Argument: seconds. Bursts of 3 s on and 1 s off, so that the edges of the power curve count.
TORCH = """
import sys, time, torch
end = time.monotonic() + float(sys.argv[1])
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
while time.monotonic() < end:
    on = time.monotonic() + 3
    while time.monotonic() < min(on, end):
        for _ in range(20):
            b = a @ a
        torch.cuda.synchronize()
    time.sleep(max(0.0, min(1.0, end - time.monotonic())))
"""
CUDA = r"""
#include <chrono>
#include <cstdlib>
#include <thread>
__global__ void burn(float *out, int n) {
    float x = threadIdx.x, y = blockIdx.x;
    for (int i = 0; i < n; i++) { x = fmaf(x, 1.0001f, y); y = fmaf(y, 0.9999f, x); }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x + y;
}
int main(int, char **argv) {
    auto now = [] { return std::chrono::steady_clock::now(); };
    auto end = now() + std::chrono::milliseconds((long)(atof(argv[1]) * 1000));
    float *out; cudaMalloc(&out, sizeof(float) * 4096 * 256);
    while (now() < end) {
        auto on = now() + std::chrono::seconds(3);
        while (now() < on && now() < end) { burn<<<4096, 256>>>(out, 20000); cudaDeviceSynchronize(); }
        if (now() < end) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}
"""


def load_command(folder: Path) -> list[str]:
    """The command of the load; empty without CUDA tools."""
    probe = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0:
        return [sys.executable, "-c", TORCH]
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc:
        (folder / "burn.cu").write_text(CUDA)
        subprocess.run([nvcc, "-O2", "-o", str(folder / "burn"), str(folder / "burn.cu")], check=True)
        return [str(folder / "burn")]
    return []


def compare(reading: str, gpu: int, interval_ms: int, seconds: float, load: list[str]) -> float:
    """Relative difference of the two energies over one load."""
    import pynvml

    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    request = FeedRequest("nvml", interval_ms, gpu=gpu, nvml_power=reading)
    choice = power.FeedChoice(tuple(feed_command(request)), "nvml", None)
    with power.TegrastatsSampler(choice, interval_ms) as sampler:
        idle = sampler.idle_baseline(5.0)
        process = subprocess.Popen([*load, str(seconds - 4)]) if load else None
        # Wait for the counter to move: it is refreshed every some ten milliseconds.
        start_mj, t0 = fresh_counter_mj(pynvml, card)
        time.sleep(seconds)
        end_mj, t1 = fresh_counter_mj(pynvml, card)
        window = sampler.window(t0, t1, idle.mean_mw)
        if process:
            process.kill()
            process.wait()
            time.sleep(SETTLE_S)
    counted_joule, gross_joule = (end_mj - start_mj) / 1000, window.energy_gross_joule or float("nan")
    difference_percent = (gross_joule / counted_joule - 1) * 100
    true_ms, gap_ms = window.power_period_ms or 0, window.power_max_gap_ms or 0
    print(f"{reading:8} {sampler.info.origin}")
    print(f"  rate     {interval_ms} ms asked for, {true_ms:.1f} ms true, longest gap {gap_ms:.0f} ms")
    print(f"  idle     {idle.mean_mw / 1000:10.2f} W ({idle.verdict})")
    print(f"  highest  {(window.power_mw_max or 0) / 1000:10.2f} W of {window.power_samples}, {window.flags}")
    print(
        f"  sampler  {gross_joule:10.2f} J in {t1 - t0:.3f} s, +-{window.energy_uncertainty_joule or 0:.2f} J"
    )
    print(f"  counter  {counted_joule:10.2f} J, the sampler is off by {difference_percent:+.3f} %")
    return gross_joule / counted_joule - 1


def fresh_counter_mj(nvml: object, card: object) -> tuple[int, float]:
    """The counter at the moment it changes: (mJ, time.monotonic())."""
    read = nvml.nvmlDeviceGetTotalEnergyConsumption  # type: ignore[attr-defined]
    before = read(card)
    while (now := read(card)) == before:
        time.sleep(0.0005)
    return now, time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the load (default: 60)")
    parser.add_argument("--interval", type=int, default=50, metavar="MS", help="of the feed (default: 50)")
    parser.add_argument("--gpu", type=int, default=0, help="which card (default: 0)")
    parser.add_argument("--readings", nargs="+", default=["instant", "mean"], help="of NVML (default: both)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = load_command(Path(folder))
        print(f"load: {' '.join(load)[:60] if load else 'none: no torch, no nvcc; idle power only'}")
        errors = {r: compare(r, args.gpu, args.interval, args.seconds, load) for r in args.readings}
    first = args.readings[0]
    print(f"{'within' if abs(errors[first]) <= 0.02 else 'NOT within'} 2 % ({first})")
    return 0 if abs(errors[first]) <= 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
