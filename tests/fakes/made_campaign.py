#!/usr/bin/env python3
"""A made-up campaign with known coefficients: runs, environment, scores and judge journal, from a seed.

Energy = per_run + per_prompt_token * prompt tokens + per_output_token * answer tokens + noise, latency
likewise; a win of a level over another is drawn from their difference in quality plus a lean to the first
slot.

Example:
    python tests/fakes/made_campaign.py results/made --models tiny --tasks 6 --repeats 2
"""

import argparse
import csv
import hashlib
import itertools
import json
import random
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LEVELS = {"L0": 45, "L1": 130, "L2": 290, "L3": 560, "P": 900}  # prompt tokens
LONGER = {"L0": 0, "L1": 30, "L2": 90, "L3": 130, "P": 140}  # answer tokens more than at L0
QUALITY = {"L0": -0.6, "L1": 0.0, "L2": 0.55, "L3": 0.6, "P": 0.35}
ENERGY = (1.0, 0.002, 0.02)  # J: per run, per prompt token, per answer token
LATENCY = (120.0, 1.1, 31.0)  # ms
FIRST_SLOT = 0.25
EPOCH_S = 1_790_000_000.0  # wall time when the board was booted


def runs_of(model: str, place: int, args: argparse.Namespace, rng: random.Random) -> list[dict[str, Any]]:
    """All runs of one model; the n-th model costs 30 % more than the one before."""
    rows, seconds = [], EPOCH_S + 86_400 * place
    factor = 1.3**place
    for task in range(args.tasks):
        base = rng.randint(120, 320)
        tokens = {
            level: (n + rng.randint(0, 40), base + LONGER[level] + rng.randint(-30, 30))
            for level, n in LEVELS.items()
        }
        for repeat, level in itertools.product(range(1, args.repeats + 1), args.levels):
            prompt, answer = tokens[level]
            energy, latency = (c[0] + factor * (c[1] * prompt + c[2] * answer) for c in (ENERGY, LATENCY))
            energy += rng.gauss(0, args.noise)
            latency += 100 * rng.gauss(0, args.noise)
            seconds += latency / 1000 + 1
            stamp = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
            rows.append(
                {
                    "schema_version": 1, "run_key": f"{model}-{81 + task}-{level}-{repeat}",
                    "id": 81 + task, "category": "writing", "model_id": model, "quantization": "Q6_K",
                    "level": level, "turn": 1, "repeat": repeat, "started_at": stamp.replace("+00:00", "Z"),
                    "t0_s": datetime.fromisoformat(stamp).timestamp() - EPOCH_S,
                    "env_id": "env1", "prompt_tokens": prompt, "prompt_tokens_evaluated": prompt,
                    "completion_tokens": answer, "latency_ms": latency,
                    "ttft_ms": LATENCY[1] * factor * prompt,
                    "decode_tok_per_s": 1000 / (LATENCY[2] * factor), "energy_joule": energy,
                    "energy_prefill_joule": ENERGY[1] * factor * prompt, "power_source": args.power,
                    "energy_decode_joule": energy - ENERGY[1] * factor * prompt, "power_scope": "board",
                    "flags": ["simulated_power"] if args.power == "replay" else [], "error": None,
                    "output_text": ("word " * answer)[: 5 * answer - task],
                }
            )  # fmt: skip
    return rows


def judged(
    rows: list[dict[str, Any]], args: argparse.Namespace, rng: random.Random
) -> tuple[list[Any], list[Any]]:
    """Scores rows and journal lines of every pair of levels, both orders."""
    texts = {(row["model_id"], row["id"], row["level"]): row["output_text"] for row in rows}
    scores, journal = [], []
    for model, task in sorted({(row["model_id"], row["id"]) for row in rows}):
        for left, right in itertools.combinations(args.levels, 2):
            sides = []
            for order in ("left_first", "right_first"):
                lean = FIRST_SLOT if order == "left_first" else -FIRST_SLOT
                ahead = QUALITY[left] - QUALITY[right] + lean + rng.gauss(0, 0.7)
                side = "left" if ahead > 0.25 else "right" if ahead < -0.25 else "tie"
                sides.append(side)
                slots = {"left": "A", "right": "B"} if order == "left_first" else {"left": "B", "right": "A"}
                line = {"schema_version": 1, "task_id": str(task), "model_id": model, "turn": 1, "repeat": 1}
                line |= {
                    "pair": f"{left}_vs_{right}",
                    "left_level": left,
                    "right_level": right,
                    "order": order,
                }
                for name, level in (("left", left), ("right", right)):
                    text = texts[model, task, level]
                    line |= {
                        f"{name}_chars": len(text),
                        f"{name}_sha256": hashlib.sha256(text.encode()).hexdigest(),
                    }
                line |= {"judge_model": args.judge, "verdict": slots.get(side, "Tie"), "winner_side": side}
                journal.append(line | {"rule": None, "error": None})
            winner = {("left", "left"): "A", ("right", "right"): "B"}.get((sides[0], sides[1]), "Tie")
            scores.append((task, "writing", model, f"{left}_vs_{right}", winner, args.judge, 1))
    return scores, journal


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--models", nargs="+", default=["gemma-2-2b-it"])
    parser.add_argument("--levels", nargs="+", default=list(LEVELS))
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--noise", type=float, default=0.3, help="std of the energy in J; of the latency in 100 ms"
    )
    parser.add_argument("--power", default="tegrastats")
    parser.add_argument("--judge", default="gpt-4o")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows = [row for place, model in enumerate(args.models) for row in runs_of(model, place, args, rng)]
    scores, journal = judged(rows, args, rng)
    args.outdir.mkdir(parents=True, exist_ok=True)
    env = {
        "env_id": "env1",
        "board": "Jetson Orin Nano Super",
        "power_mode_name": "MAXN_SUPER",
        "l4t": "36.4.3",
    }
    for name, lines in (
        ("runs_llamacpp", rows),
        ("runs_llamacpp.env", [env]),
        ("scores_mtbench.journal", journal),
    ):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (args.outdir / f"{name}.jsonl").write_text(text, encoding="utf-8")
    with (args.outdir / "scores_mtbench.csv").open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn"))
        table.writerows(scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
