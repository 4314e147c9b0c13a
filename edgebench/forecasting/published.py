"""Our fits beside a published model, on the public measurements both are about, rows held out from ours.

The published model: EdgeReasoning (github.com/edge-inference/edgereasoning, commit e74ca1e), DeepSeek-R1
distillates on an AGX Orin 64 GB: prefill a Ip^2 + b Ip + c with Ip = 128 ceil(I / 128); decode O (m I + n +
m (O - 1) / 2); decode power p ln O + q. Times in s, power in W. It was fitted on these measurements; ours is
scored on rows it has not seen:

  requests   t2m_mmlu_agx_orin.csv: trained on --train-rows random requests, the rest test, --seeds times
  prompts    edgereasoning_prefill.csv: 3 to 4,097 tokens, each length left out once
  energy     edgereasoning_decode_parameters.csv: outputs of 64 tokens or more, each prompt length left out

Output: a table of mean absolute errors in percent of the measurement, or --json. Files that are not in the
folder are passed over.

Example:
    python companions/token2metrics.py benchmark --data-dir edgereasoning_data
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.evaluate import HoldOut, evaluate
from edgebench.forecasting.measurements import read_measurements
from edgebench.forecasting.samples import samples_of
from edgebench.shell.door import Parser
from edgebench.shell.progress import say

ENERGY_TOKENS_LEAST = 64  # shorter outputs are a handful of samples of a 1 Hz sensor
PAD = 128


@dataclass(frozen=True)
class Published:
    """Coefficients as published (config/analytic.yaml and analysis/ of the repository above)."""

    prefill: tuple[float, float, float]  # s per token^2, s per token, s
    decode: tuple[float, float]  # m: s per step and token of context, n: s per step
    power: tuple[float, float]  # W per ln(output token), W


PUBLISHED = {
    "DeepSeek-R1-Distill-Qwen-1.5B": Published(
        (1.56355e-7, 2.30955e-6, 0.045981),
        (1.49681e-7, 0.0236339),
        (3.2137108442982796, 0.7565375896390953),
    ),
    "DeepSeek-R1-Distill-Llama-8B": Published(
        (6.64521e-7, 2.90355e-4, 0.103808),
        (6.92022e-7, 0.100384),
        (2.701709095219641, 8.806744003175773),
    ),
    "DeepSeek-R1-Distill-Qwen-14B": Published(
        (1.23300e-6, 5.30454e-4, 0.188581),
        (1.13017e-6, 0.186554),
        (1.6193869347921934, 16.88683031734797),
    ),
}


def prefill_ms(model: Published, prompt: int, _output: int) -> float:
    """Published time to the first token."""
    padded = PAD * math.ceil(prompt / PAD)
    square, linear, start = model.prefill
    return 1000 * (square * padded**2 + linear * padded + start)


def decode_ms(model: Published, prompt: int, output: int) -> float:
    """Published decode time: a step for each output token, the context growing by one."""
    growth, step = model.decode
    return 1000 * output * (growth * prompt + step + growth * (output - 1) / 2)


def decode_energy_joule(model: Published, prompt: int, output: int) -> float:
    """Published decode power times published decode time."""
    slope, start = model.power
    return (slope * math.log(output) + start) * decode_ms(model, prompt, output) / 1000


FORMULAS: dict[str, Callable[[Published, int, int], float]] = {
    "prefill_ms": prefill_ms,
    "decode_ms": decode_ms,
    "total_ms": lambda model, prompt, output: (
        prefill_ms(model, prompt, output) + decode_ms(model, prompt, output)
    ),
    "decode_energy_joule": decode_energy_joule,
}


@dataclass(frozen=True)
class Trial:
    """One file, what to hold out of it, what to score."""

    name: str
    file: str
    hold_out: HoldOut
    quantities: tuple[str, ...]
    output_tokens_least: int = 1


def trials(args: argparse.Namespace) -> list[Trial]:
    """The three comparisons."""
    rows = HoldOut(split="rows", train_rows=args.train_rows, seeds=args.seeds)
    return [
        Trial("requests", "t2m_mmlu_agx_orin.csv", rows, ("prefill_ms", "decode_ms", "total_ms")),
        Trial("prompts", "edgereasoning_prefill.csv", HoldOut(folds=9999), ("prefill_ms",)),
        Trial(
            "energy",
            "edgereasoning_decode_parameters.csv",
            HoldOut(split="lengths"),
            ("decode_energy_joule",),
            ENERGY_TOKENS_LEAST,
        ),
    ]


def run_trial(trial: Trial, data_dir: Path) -> list[dict[str, Any]]:
    """Rows of the table from one file."""
    rows = [
        row
        for row in read_measurements([data_dir / trial.file])
        if row["output_tokens"] >= trial.output_tokens_least
    ]
    names = {row["model"] for row in rows} & set(PUBLISHED)
    table = []
    for name in (name for name in PUBLISHED if name in names):
        say(f"{trial.name}: {name}")
        answer, every = evaluate(samples_of(rows, name), trial.hold_out)
        for quantity in trial.quantities:
            mine = [pair for pair in every if pair["quantity"] == quantity]
            named = [one for one in answer["outliers"] if one["quantity"] == quantity]
            table.append({"trial": trial.name, "model": name, **compare(quantity, mine, PUBLISHED[name])})
            table[-1] |= {"how": answer["how"], "outliers": named}
            table[-1]["coverage_percent"] = answer["quantities"][quantity]["coverage_percent"]
    return table


def compare(quantity: str, pairs: Sequence[Mapping[str, Any]], model: Published) -> dict[str, Any]:
    """Ours and theirs on the same held-out rows: MAPE [%] per split, over the splits median and greatest.

    Where each split is one length, one figure over all rows says more: then all three are that one.
    """
    kept = [pair for pair in pairs if not pair["outlier"]]
    errors: dict[str, dict[str, list[float]]] = {"ours": defaultdict(list), "published": defaultdict(list)}
    for pair in kept:
        counts = pair["input_tokens"], pair["decode_steps"] + 1
        split = pair["split"] if pair["split"].startswith("seed") else "all"
        errors["ours"][split].append(100 * abs(pair["mean"] / pair["measured"] - 1))
        errors["published"][split].append(
            100 * abs(FORMULAS[quantity](model, *counts) / pair["measured"] - 1)
        )
    row: dict[str, Any] = {"quantity": quantity, "rows": len({pair["row"] for pair in kept})}
    for side, by_split in errors.items():
        mapes = [mean(values) for values in by_split.values()]
        row |= {f"{side}_mape_percent": median(mapes), f"{side}_mape_percent_worst": max(mapes)}
    return {**row, "splits": len(errors["ours"])}


def format_table(table: Sequence[Mapping[str, Any]]) -> str:
    """At most 80 columns."""
    head = f"{'':9} {'quantity':20} {'model':6} {'rows':>5}"
    lines = [f"{head} {'ours %':>8} {'worst':>7} {'published %':>12} {'cover':>6}"]
    for row in table:
        short = row["model"].rsplit("-", 1)[1]
        ours, worst = row["ours_mape_percent"], row["ours_mape_percent_worst"]
        lines.append(
            f"{row['trial']:9} {row['quantity']:20} {short:6} {row['rows']:>5} {ours:>8.3f} {worst:>7.3f}"
            f" {row['published_mape_percent']:>12.3f} {row['coverage_percent']:>6.1f}"
        )
    for row in table:
        for one in row["outliers"]:
            lines.append(
                f"outlier, in no score: {row['model']}, {one['where']},"
                f" {one['input_tokens']} tokens: {one['value']:g}"
            )
    splits = max((row["splits"] for row in table), default=1)
    lines.append(
        f"requests: median and worst of {splits} draws of training rows; MAPE of rows not trained on"
    )
    lines.append("cover: held-out rows inside our 90 % interval [%]; the published model states none")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(
        prog="token2metrics.py benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="folder of the public files"
    )
    parser.add_argument("--train-rows", type=int, default=50, metavar="N", help="requests to train on (50)")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="draws of them (20)")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparisons whose files are there."""
    args = build_parser().parse_args(argv)
    try:
        there = [trial for trial in trials(args) if (args.data_dir / trial.file).is_file()]
        if not there:
            files = ", ".join(trial.file for trial in trials(args))
            raise UserError(f"none of {files} is in {args.data_dir}; check --data-dir")
        table = [row for trial in there for row in run_trial(trial, args.data_dir)]
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(table) if args.json else format_table(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
