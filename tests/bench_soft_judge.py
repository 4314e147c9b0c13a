"""By hand: verdicts by probability against counted ones, on a made judge whose preferences are known.

    python tests/bench_soft_judge.py
    python tests/bench_soft_judge.py --journal results/demo/scores_mtbench.journal.jsonl    # and a real one

The made judge prefers the left answer of task i by d_i, normal around --effect with --spread, in log odds;
it leans to the first slot by --leans and is not quite steady (--noise, drawn anew for each call). Its word is
the likeliest of A, B and Tie, as at temperature 0. Counting reconciles both orders as judge_pairs.py does: a
win only if they agree. Both ways use the same two calls a task.

Each way has its own truth: by probability the mean of its graded preference, counted the mean score of its
words, both of a judge that does not lean and is steady. bias: mean estimate less that truth. half width: of
the 95 % interval over tasks, as the analysis makes it. calls: how many it takes until a normal interval
leaves 1/2 out, from the mean estimate and the spread over tasks; "never": the estimate is on the wrong side.
A real judge's truth is not known; what can be shown is what both ways say of the same calls.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.judging.graded import graded_pairs
from edgebench.judging.scores import reconcile
from edgebench.records.judgment import read_journal
from edgebench.stats.intervals import graded_interval, mean_std, win_rate_interval
from edgebench.stats.preference import Chances, preference_of

STUDIES = 400
POINTS = {"A": 1.0, "B": 0.0, "Tie": 0.5}


def chances(log_odds: float, ties: float) -> Chances:
    """What a judge says whose log odds for the first slot these are."""
    weights = math.exp(log_odds / 2), math.exp(-log_odds / 2), ties
    return Chances(*(weight / sum(weights) for weight in weights))


def both_ways(one: Chances, other: Chances) -> tuple[float, float]:
    """The left answer's score by probability and counted, from both orders."""
    sides = [{"A": "left", "B": "right"}.get(one.likeliest, "tie")]
    sides.append({"A": "right", "B": "left"}.get(other.likeliest, "tie"))
    return preference_of(one, other).share, POINTS[reconcile(sides) or "Tie"]


def calls_needed(mean: float, std: float, truth: float) -> str:
    """Calls, two a task, until a 95 % interval around the mean leaves 1/2 out; never on the wrong side."""
    if (mean - 0.5) * (truth - 0.5) <= 0 or std == 0:
        return "never"
    tasks = (1.96 * std / abs(mean - 0.5)) ** 2
    return "never" if tasks > 1e5 else f"{2 * max(2, math.ceil(tasks)):,}"


def made_judge(args: argparse.Namespace) -> None:
    """Print bias and width for each lean."""
    draw = np.random.default_rng(args.seed)
    ideal = [
        both_ways(chances(d, args.ties), chances(-d, args.ties))
        for d in draw.normal(args.effect, args.spread, 20_000)
    ]
    truth = [float(np.mean(column)) for column in zip(*ideal, strict=True)]
    print(
        f"made judge: effect {args.effect}, spread {args.spread}, noise {args.noise} in log odds,"
        f" {args.tasks} tasks"
    )
    print(f"truth: {truth[0]:.3f} by probability, {truth[1]:.3f} counted")
    print(
        f"{'lean':>5}  {'way':<14} {'bias':>7} {'half width':>11} {'covers truth':>13}"
        f" {'calls to leave 1/2':>19}"
    )
    for lean in args.leans:
        estimates: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
        for _ in range(STUDIES):
            noise = draw.normal(0.0, args.noise, (args.tasks, 2))
            scores = [
                both_ways(chances(d + lean + a, args.ties), chances(-d + lean + b, args.ties))
                for d, (a, b) in zip(draw.normal(args.effect, args.spread, args.tasks), noise, strict=True)
            ]
            for way, column in enumerate(zip(*scores, strict=True)):
                mean, std = mean_std(column)
                low, high = (graded_interval, win_rate_interval)[way](column).edges or (0.0, 1.0)
                estimates[way].append((mean or 0.0, std or 0.0, low, high))
        for way, name in enumerate(("by probability", "counted")):
            means, stds, lows, highs = (np.array(column) for column in zip(*estimates[way], strict=True))
            half = (highs - lows) / 2
            covered = np.mean((lows <= truth[way]) & (truth[way] <= highs))
            needed = calls_needed(float(np.mean(means)), float(np.mean(stds)), truth[way])
            bias = float(np.mean(means)) - truth[way]
            print(f"{lean:5.1f}  {name:<14} {bias:+7.3f} {np.mean(half):11.3f} {covered:13.1%} {needed:>19}")


def real_judge(path: Path) -> None:
    """Print what both ways say of the calls in a journal, level by level."""
    lines = [line for line in read_journal(path).lines if line.winner_side]
    graded = graded_pairs(lines)
    last = {line.game: line for line in lines}
    orders: dict[tuple[object, ...], dict[str | None, str | None]] = defaultdict(dict)
    for line in last.values():
        orders[line.game[:-1]][line.order] = line.winner_side
    by_pair: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for pair in graded.pairs:
        key = (pair.task_id, pair.model_id, pair.turn, pair.pair, pair.judge_model, pair.repeat)
        counted = POINTS[reconcile(list(orders[key].values())) or "Tie"]
        by_pair[pair.model_id, pair.pair].append((pair.share, counted))
    lean = graded.lean
    print(f"\n{path}: {len(graded.asked)} pairs by probability", end="")
    if lean.lean_log_odds_mean is not None:
        print(
            f", lean {lean.lean_log_odds_mean:+.2f} in log odds (sd {lean.lean_log_odds_std or 0:.2f})",
            end="",
        )
    print(f"\n{'model':<28} {'pair':<10} {'n':>3}   {'by probability':<22}  counted")
    for (model, pair), scores in sorted(by_pair.items()):
        cells = []
        for interval, column in zip(
            (graded_interval, win_rate_interval), zip(*scores, strict=True), strict=True
        ):
            low, high = interval(column).edges or (math.nan, math.nan)
            cells.append(f"{sum(column) / len(column):.3f} [{low:.3f}, {high:.3f}]")
        print(f"{model[:28]:<28} {pair:<10} {len(scores):3}   {cells[0]}   {cells[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--effect", type=float, default=0.5, help="mean preference in log odds (default: 0.5)"
    )
    parser.add_argument("--spread", type=float, default=1.0, help="of the tasks around it (default: 1)")
    parser.add_argument("--noise", type=float, default=0.3, help="of a call (default: 0.3)")
    parser.add_argument("--ties", type=float, default=0.3, help="nu, the fondness of ties (default: 0.3)")
    parser.add_argument("--leans", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0], help="log odds")
    parser.add_argument("--tasks", type=int, default=20, help="of a study (default: 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", type=Path, help="journal of judge_pairs.py --soft")
    args = parser.parse_args()
    made_judge(args)
    if args.journal:
        real_judge(args.journal)


if __name__ == "__main__":
    main()
