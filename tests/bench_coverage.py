#!/usr/bin/env python3
"""Do the intervals hold what they claim? Coverage of every 95 % interval by simulation, as a table.

For each kind of interval, shape of the data and number of tasks: the share of made samples whose interval
holds the true value, of those that get an interval at all. The goal is 93 to 97 %, or no interval ("-").
Three remarks for the reader: a cell of 4,000 samples is known to +-0.7; of few and tied values more than 97
% cannot be avoided (what can be drawn is coarse); and of a win rate below 8 tasks the interval is exact,
which is 95 % at the worst truth and more at all others.

Below the table, for win rates: the worst truth of a grid of shares of won, tied and lost, by going through
all outcomes, without drawing any; and how wide the interval is on average over that grid.

Example:
    python tests/bench_coverage.py --samples 4000
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.stats.intervals import (
    Interval,
    difference_interval,
    jackknife_interval,
    mean_interval,
    ratio_interval,
    win_rate_interval,
)

TASKS = (3, 5, 8, 10, 20, 40)
GOAL = (0.93, 0.97)
Draw = Callable[[random.Random], float]
Sample = Sequence[tuple[float, float]]  # one (value, base) a task; of most kinds the base is not used


@dataclass(frozen=True)
class Case:
    """One kind of interval on one shape of data, and the truth."""

    kind: str
    shape: str
    draw: Callable[[random.Random], tuple[float, float]]
    truth: float
    interval: Callable[[Sample], Interval]


@dataclass(frozen=True)
class Coverage:
    """What became of the samples of one case at one number of tasks."""

    given: float  # share of samples with an interval
    held: float | None  # share of those whose interval holds the truth; None where none has one


def choice(values: Sequence[float], shares: Sequence[float]) -> Draw:
    return lambda draw: draw.choices(values, shares)[0]


NORMAL: Draw = lambda draw: draw.gauss(0.3, 1.0)  # noqa: E731
# name, draw, its mean
SHAPES: tuple[tuple[str, Draw, float], ...] = (
    ("normal", NORMAL, 0.3),
    ("exponential", lambda draw: draw.expovariate(1.0), 1.0),
    ("lognormal, sigma 0.5", lambda draw: draw.lognormvariate(0.0, 0.5), math.exp(0.125)),
    ("lognormal, sigma 1", lambda draw: draw.lognormvariate(0.0, 1.0), math.exp(0.5)),
    ("lognormal, mirrored", lambda draw: -draw.lognormvariate(0.0, 1.0), -math.exp(0.5)),
    ("tied: normal in whole steps", lambda draw: float(round(draw.gauss(1.0, 1.0))), 1.0),
    ("tied: 0, 1, 2, 3 alike", choice((0, 1, 2, 3), (1, 1, 1, 1)), 1.5),
    ("tied: half of them 0", choice((0, 1, 2, 3), (0.5, 0.3, 0.15, 0.05)), 0.75),
)
WIN_SHAPES = (  # name, shares of won, tied, lost
    ("even, no ties", (0.5, 0.0, 0.5)),
    ("even, half tied", (0.25, 0.5, 0.25)),
    ("60 %, a quarter tied", (0.475, 0.25, 0.275)),
    ("75 %, a third tied", (0.58, 0.34, 0.08)),
    ("90 %, few ties", (0.85, 0.1, 0.05)),
    ("97 %, few ties", (0.95, 0.05, 0.0)),
)


def values_of(sample: Sample) -> list[float]:
    return [value for value, _ in sample]


def alone(draw: Draw, rng: random.Random) -> tuple[float, float]:
    return draw(rng), 1.0


def times_as_much(base_sigma: float, step_sigma: float, rng: random.Random) -> tuple[float, float]:
    """A task that costs about 1.8 times as much at the longer prompt; tasks differ by base_sigma (log)."""
    base = rng.lognormvariate(0.0, base_sigma)
    return 1.8 * base * rng.lognormvariate(-(step_sigma**2) / 2, step_sigma), base


def ratio(sample: Sample) -> Interval:
    return ratio_interval([value for value, _ in sample], [base for _, base in sample])


def slope(sample: Sample) -> float:
    """Least-squares slope of value over base."""
    mean_x = sum(x for _, x in sample) / len(sample)
    mean_y = sum(y for y, _ in sample) / len(sample)
    below = sum((x - mean_x) ** 2 for _, x in sample)
    return sum((x - mean_x) * (y - mean_y) for y, x in sample) / below


def jackknifed_slope(sample: Sample) -> Interval:
    left_out = [slope([*sample[:place], *sample[place + 1 :]]) for place in range(len(sample))]
    return jackknife_interval(slope(sample), left_out)


def on_a_line(rng: random.Random) -> tuple[float, float]:
    x = rng.uniform(50, 400)
    return 2.0 * x + rng.gauss(0, 30), x


def cases() -> list[Case]:
    found = [
        Case("mean", name, partial(alone, draw), mean, lambda s: mean_interval(values_of(s)))
        for name, draw, mean in SHAPES
    ]
    for name, shares in WIN_SHAPES:
        truth = shares[0] + shares[1] / 2
        draw = partial(alone, choice((1.0, 0.5, 0.0), shares))
        found.append(Case("win rate", name, draw, truth, lambda s: win_rate_interval(values_of(s))))
    turns = partial(alone, choice((0.0, 0.25, 0.5, 0.75, 1.0), (0.05, 0.1, 0.2, 0.3, 0.35)))
    found.append(Case("win rate", "70 %, two turns", turns, 0.7, lambda s: win_rate_interval(values_of(s))))
    differences = choice((-1.0, -0.5, 0.0, 0.5, 1.0), (0.1, 0.15, 0.3, 0.25, 0.2))
    draw = partial(alone, differences)
    found.append(
        Case("difference of win rates", "tied", draw, 0.15, lambda s: difference_interval(values_of(s)))
    )
    for name, base_sigma, step_sigma in (("alike tasks", 0.2, 0.1), ("skewed tasks", 0.8, 0.3)):
        draw = partial(times_as_much, base_sigma, step_sigma)
        found.append(Case("ratio", name, draw, 1.8, ratio))
    return [*found, Case("jackknife (slope)", "normal errors", on_a_line, 2.0, jackknifed_slope)]


def coverage(case: Case, tasks: int, samples: int, seed: int) -> Coverage:
    """Made samples of so many tasks: which get an interval, and how often it holds the truth."""
    rng, given, held = random.Random(f"{seed} {case.kind} {case.shape} {tasks}"), 0, 0
    for _ in range(samples):
        edges = case.interval([case.draw(rng) for _ in range(tasks)]).edges
        if edges is not None:
            given += 1
            held += edges[0] - 1e-12 <= case.truth <= edges[1] + 1e-12
    return Coverage(given / samples, held / given if given else None)


@dataclass(frozen=True)
class Worst:
    """The interval of a win rate at the truth where it holds most seldom."""

    held: float
    truth: tuple[float, ...]  # the share of each score
    width: float  # mean over all truths tried


def worst_of_win_rate(tasks: int, scores: Sequence[float], truths: Sequence[tuple[float, ...]]) -> Worst:
    """Of truths (the share of each score), by all outcomes: the one whose interval holds most seldom."""
    outcomes = []
    for drawn in itertools.combinations_with_replacement(range(len(scores)), tasks):
        counts = [drawn.count(place) for place in range(len(scores))]
        ways = math.factorial(tasks) // math.prod(map(math.factorial, counts))
        edges = win_rate_interval([scores[place] for place in drawn]).edges
        assert edges is not None
        outcomes.append((counts, ways, edges))
    worst, widths = Worst(2.0, (), 0.0), 0.0
    for truth in truths:
        rate = sum(share * score for share, score in zip(truth, scores, strict=True))
        held = 0.0
        for counts, ways, (low, high) in outcomes:
            chance = ways * math.prod(map(pow, truth, counts))
            widths += chance * (high - low)
            if low - 1e-12 <= rate <= high + 1e-12:
                held += chance
        if held < worst.held:
            worst = Worst(held, truth, 0.0)
    return replace(worst, width=widths / len(truths))


def all_truths(scores: int, steps: int) -> list[tuple[float, ...]]:
    """Every way to share 1 among so many scores in so many steps."""
    bars = itertools.combinations(range(steps + scores - 1), scores - 1)
    ends = ((-1, *bar, steps + scores - 1) for bar in bars)
    return [tuple((high - low - 1) / steps for low, high in itertools.pairwise(end)) for end in ends]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4000, help="made samples a cell (default: 4000)")
    parser.add_argument("--seed", type=int, default=1, help="seed (default: 1)")
    args = parser.parse_args(argv)
    began = time.monotonic()
    print("coverage in %, of 95 % claimed; -: no interval, (n): n % of the samples get one, !: below 93\n")
    print(f"{'interval':<24}{'data':<30}" + "".join(f"{tasks:>9}" for tasks in TASKS))
    short = 0
    for case in cases():
        cells = []
        for tasks in TASKS:
            found = coverage(case, tasks, args.samples, args.seed)
            if found.held is None:
                cells.append("-")
                continue
            mark = "!" if found.held < GOAL[0] - 2 * math.sqrt(0.05 / args.samples) else ""
            short += bool(mark)
            some = f"({100 * found.given:.0f})" if found.given < 0.995 else ""
            cells.append(f"{100 * found.held:.1f}{mark}{some}")
        print(f"{case.kind:<24}{case.shape:<30}" + "".join(f"{cell:>9}" for cell in cells), flush=True)
    print("\nwin rate, the worst of all truths by enumeration, in %, and the mean width, in points")
    plain, turns = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)
    for name, scores, steps, counts in (
        ("wins, ties, losses", plain, 80, (*range(2, 13), 20)),
        ("two turns", turns, 8, range(2, 9)),
    ):
        for tasks in counts:
            worst = worst_of_win_rate(tasks, scores, all_truths(len(scores), steps))
            shares = ", ".join(f"{100 * share:.1f}" for share in worst.truth)
            print(
                f"{name}, {tasks:>2} tasks: {100 * worst.held:5.1f}, {100 * worst.width:.0f} wide; "
                f"worst at shares of {shares}",
                flush=True,
            )
    print(f"\n{short} cells below {100 * GOAL[0]:.0f} %; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
