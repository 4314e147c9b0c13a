#!/usr/bin/env python3
"""Does the stated uncertainty hold? Simulated loads under simulated sensors, beside their true energy.

A load of a known shape is read as tegrastats reads one: sleep the interval, read, print a lag later. The
window's energy is compared with the load's exact integral. Prints, for each shape: how many of the windows
lie within the stated uncertainty, gross and net of idle power; how much of what is stated the errors use (of
a statement that just holds 95 % use up to 1); what is stated over the window's energy; and the mean error
over it with its sign, which is the bias. Seeded.

Example:
  python tests/bench_energy_uncertainty.py --windows 4000
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.power.trace import PowerTrace

IDLE_MW = 5000.0
IDLE_SECONDS = 4.0
Piece = tuple[float, float, float, float]  # from, to [s], power at both ends [mW], linear in between


@dataclass(frozen=True)
class Sensor:
    """How the power is read."""

    interval_s: float  # slept between two samples
    lag_s: float  # from reading to printing: the period is longer by that
    quantum_mw: float
    noise_mw: float
    knows_interval: bool  # the reader asked for it, and knows it

    @property
    def period_s(self) -> float:
        """Between two samples."""
        return self.interval_s + self.lag_s


class Load:
    """Power over time, piecewise linear; idle outside its pieces."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces

    def power_mw(self, t_s: float) -> float:
        """At one moment."""
        for begin_s, end_s, begin_mw, end_mw in self.pieces:
            if begin_s <= t_s < end_s:
                return begin_mw + (end_mw - begin_mw) * (t_s - begin_s) / (end_s - begin_s)
        return IDLE_MW

    def energy_joule(self, t0: float, t1: float) -> float:
        """Exact over [t0, t1]."""
        energy_mj = IDLE_MW * (t1 - t0)
        for begin_s, end_s, _, _ in self.pieces:
            a, b = max(begin_s, t0), min(end_s, t1)
            if a < b:
                middle_mw = self.power_mw((a + b) / 2)
                energy_mj += (middle_mw - IDLE_MW) * (b - a)
        return energy_mj / 1000


Shape = Callable[[random.Random, float, float, Sensor], Load]


def edge_step(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """A program: load from t0 to t1."""
    load_mw = rng.uniform(6000, 30_000)
    return Load([(t0, t1, load_mw, load_mw)])


def inner_step(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """One change anywhere inside, the power before and after it going on beyond the window."""
    at_s = rng.uniform(t0, t1)
    before_mw, after_mw = rng.uniform(6000, 30_000), rng.uniform(6000, 30_000)
    return Load([(t0 - 9, at_s, before_mw, before_mw), (at_s, t1 + 9, after_mw, after_mw)])


def prefill_decode(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """A run: a high plateau, then a lower one, on an idle board."""
    at_s = t0 + rng.uniform(0.02, 0.5) * (t1 - t0)
    high_mw = rng.uniform(12_000, 30_000)
    low_mw = high_mw * rng.uniform(0.5, 0.9)
    return Load([(t0, at_s, high_mw, high_mw), (at_s, t1, low_mw, low_mw)])


def ramp(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """Up or down over the window, from and to idle at once."""
    ends_mw = rng.uniform(5000, 30_000), rng.uniform(5000, 30_000)
    return Load([(t0, t1, *ends_mw)])


def sine(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """A swinging load, with at least four samples a swing."""
    swing_s = sensor.period_s * rng.uniform(4, 40)
    step_s, middle_mw, high_mw = swing_s / 24, rng.uniform(9000, 20_000), rng.uniform(500, 4000)
    phase = rng.uniform(0, 2 * math.pi)

    def at(t_s: float) -> float:
        return middle_mw + high_mw * math.sin(2 * math.pi * t_s / swing_s + phase)

    count = math.ceil((t1 - t0) / step_s)
    times_s = [t0 + (t1 - t0) * k / count for k in range(count + 1)]
    return Load([(a, b, at(a), at(b)) for a, b in itertools.pairwise(times_s)])


def bursts(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """On and off at random, for a few periods each: a loop of requests."""
    return random_bursts(rng, t0, t1, sensor.period_s * rng.uniform(1, 8))


def short_bursts(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """On and off faster than the samples come: kernels between pauses."""
    return random_bursts(rng, t0, t1, sensor.period_s * rng.uniform(0.2, 1))


def random_bursts(rng: random.Random, t0: float, t1: float, mean_s: float) -> Load:
    """A load on and off, each for a time drawn around mean_s."""
    load_mw, pieces, at_s = rng.uniform(8000, 30_000), [], t0
    while at_s < t1:
        end_s = min(t1, at_s + mean_s * rng.uniform(0.5, 1.5))
        pieces.append((at_s, end_s, load_mw, load_mw))
        at_s = end_s + mean_s * rng.uniform(0.5, 1.5)
    return Load(pieces)


def steady(rng: random.Random, t0: float, t1: float, sensor: Sensor) -> Load:
    """A load that goes on before and after."""
    load_mw = rng.uniform(6000, 30_000)
    return Load([(t0 - 9, t1 + 9, load_mw, load_mw)])


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (edge_step, inner_step, prefill_decode, ramp, sine, bursts, short_bursts, steady)
}


@dataclass(frozen=True)
class Outcome:
    """One window: errors and what was stated, in J."""

    gross_error_joule: float
    net_error_joule: float
    gross_stated_joule: float
    net_stated_joule: float
    true_joule: float


def draw_sensor(rng: random.Random) -> Sensor:
    """A board's: intervals of 20 to 1000 ms, lags of 0 to 64 ms."""
    return Sensor(
        interval_s=rng.choice([0.02, 0.05, 0.1, 0.1, 0.1, 0.2, 0.5, 1.0]),
        lag_s=rng.choice([0.0, 0.006, 0.016, 0.029, 0.064]),
        quantum_mw=rng.choice([40.0, 40.0, 5.0, 898.0]),
        noise_mw=rng.choice([0.0, 20.0, 150.0]),
        knows_interval=rng.random() < 0.5,
    )


def sampled(load: Load, sensor: Sensor, begin_s: float, end_s: float, rng: random.Random) -> PowerTrace:
    """What the reader holds of [begin, end]."""
    trace = PowerTrace()
    trace.quantum_mw = sensor.quantum_mw
    trace.asked_interval_s = sensor.interval_s if sensor.knows_interval else None
    read_s = begin_s + rng.random() * sensor.period_s
    while read_s < end_s:
        power_mw = load.power_mw(read_s) + rng.gauss(0, sensor.noise_mw)
        trace.add(read_s + sensor.lag_s, round(power_mw / sensor.quantum_mw) * sensor.quantum_mw)
        read_s += sensor.period_s * (1 + abs(rng.gauss(0, 0.005)))
    return trace


def measure(shape: Shape, rng: random.Random) -> Outcome:
    """One window of this shape under a sensor."""
    sensor = draw_sensor(rng)
    periods = rng.uniform(3, 60)  # a run of a few samples to one of many
    t0 = 10 + rng.random()
    t1 = t0 + max(0.3, periods * sensor.period_s)
    load = shape(rng, t0, t1, sensor)
    idle = sampled(Load([]), sensor, -max(IDLE_SECONDS, 20 * sensor.period_s), 0.0, rng)
    baseline = idle.baseline(idle.t_s[0], idle.t_s[-1])
    trace = sampled(load, sensor, t0 - 3 * sensor.period_s - 0.2, t1 + 2 * sensor.period_s, rng)
    gross, net = trace.window(t0, t1, None), trace.window(t0, t1, baseline.mean_mw, baseline.uncertainty_mw)
    true_joule = load.energy_joule(t0, t1)
    assert gross.energy_gross_joule is not None and net.energy_joule is not None
    assert gross.energy_uncertainty_joule is not None and net.energy_uncertainty_joule is not None
    return Outcome(
        gross_error_joule=gross.energy_gross_joule - true_joule,
        net_error_joule=net.energy_joule - (true_joule - IDLE_MW / 1000 * (t1 - t0)),
        gross_stated_joule=gross.energy_uncertainty_joule,
        net_stated_joule=net.energy_uncertainty_joule,
        true_joule=true_joule,
    )


def covered(outcomes: list[Outcome]) -> tuple[float, float]:
    """Shares of windows within what is stated: of gross, of net energy."""
    gross = [abs(one.gross_error_joule) <= one.gross_stated_joule for one in outcomes]
    net = [abs(one.net_error_joule) <= one.net_stated_joule for one in outcomes]
    return statistics.fmean(gross), statistics.fmean(net)


def row(name: str, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    gross, net = covered(outcomes)
    used = sorted(abs(one.gross_error_joule) / one.gross_stated_joule for one in outcomes)
    share = statistics.fmean(one.gross_stated_joule / one.true_joule for one in outcomes)
    bias = statistics.fmean(one.gross_error_joule / one.true_joule for one in outcomes)
    middle, most = used[len(used) // 2], used[int(0.95 * len(used))]
    return f"{name:15}{gross:8.1%}{net:8.1%}{middle:9.2f}{most:8.2f}{used[-1]:8.2f}{share:9.1%}{bias:+9.2%}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=2000, help="of each shape (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    print("                 within stated    error over stated       stated     bias")
    print("shape            gross     net   median     95 %   worst  /energy  /energy")
    for name, shape in SHAPES.items():
        rng = random.Random(f"{args.seed} {name}")
        print(row(name, [measure(shape, rng) for _ in range(args.windows)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
