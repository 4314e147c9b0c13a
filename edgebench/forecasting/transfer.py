"""A model of one machine + few runs of another -> a model of the other (server to board, model to model).

  simple_scaling   prediction x mean of the ratios measured / predicted
  median_ratio     prediction x their median
  through_origin   prediction x the least-squares slope through the origin
  two_parameter    prediction x ratio + constant per token: what scales, and what each token costs more
  shrunk           the same, and a fit of what that leaves unexplained, as far as held-out runs ask for it;
                   or the runs alone, if held-out runs like that better (default)
  --scale-factor   prediction x a ratio you know; no runs needed, and no intervals made

--curve shows how many runs it takes: for each of --sizes, random runs train, the rest test, --seeds times,
for every method and for a fit of those runs alone. With --per-subject a size is runs per subject of the data.

Output: OUTPUT/<model>_transfer/models/model.json with its card, as token2metrics.py train writes it; the
curve as a table, or with --json. Errors are MAPE of rows not trained on, in percent.

Example:
    python companions/token2metrics.py calibrate --base outputs/server_analytic/models/model.json \\
        --data board.csv --model 8B --sizes 5 20 --curve
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting.budget import rate
from edgebench.forecasting.card import card_of
from edgebench.forecasting.evaluate import HoldOut, evaluate
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.quantities import METHODS
from edgebench.forecasting.measurements import Reading, read_measurements
from edgebench.forecasting.model_file import read_model, slug, write_model
from edgebench.forecasting.samples import samples_of
from edgebench.records.jsonl import write_whole
from edgebench.shell.door import Parser
from edgebench.shell.progress import say

ALONE = "alone"  # the board's runs without the base


def read_samples(args: argparse.Namespace) -> dict[str, Any]:
    """Samples of the board's runs."""
    reading = Reading(
        assume_input_tokens=args.assume_input_tokens or None, sample_period_s=args.sample_period_s
    )
    return samples_of(read_measurements(args.data, reading), args.model, args.board)


def read_base(path: Path) -> dict[str, Any]:
    """The model of the other machine."""
    base = read_model(path)
    if base.get("base"):
        raise UserError(f"{path} is itself a transfer; give the model that was trained on the server")
    return base


def curve(
    args: argparse.Namespace, base: Mapping[str, Any], samples: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per size, method and quantity: MAPE mean and worst over the seeds."""
    rows = []
    for size in args.sizes:
        for method in (*([args.method] if args.method else METHODS), ALONE):
            drawn = {"per_subject": size} if args.per_subject else {"train_rows": size}
            settings = Settings() if method == ALONE else Settings(base=base, method=method)
            say(f"{size} runs{' per subject' if args.per_subject else ''}, {method}")
            try:
                answer, _ = evaluate(
                    samples, HoldOut(split="rows", seeds=args.seeds, settings=settings, **drawn)
                )
            except UserError as exc:
                if method != ALONE:
                    raise
                say(f"  {exc}")  # so few runs that no model of their own can be fitted
                continue
            for quantity, row in answer["quantities"].items():
                mapes = list(row["mape_percent_by_split"].values())
                found = {"mape_percent": mean(mapes), "mape_percent_worst": max(mapes), "seeds": len(mapes)}
                rows.append({"size": size, "method": method, "quantity": quantity, **found})
    return rows


def format_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """A block per quantity: methods down, sizes across; mean MAPE over the seeds (worst)."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        mine = {(row["method"], row["size"]): row for row in rows if row["quantity"] == quantity}
        lines.append(f"{quantity + ', runs:':24}" + "".join(f"{size:>16}" for size in sizes))
        for method in dict.fromkeys(method for method, _ in mine):
            cells = [mine.get((method, size)) for size in sizes]
            shown = [
                "-" if row is None else f"{row['mape_percent']:.3g} ({row['mape_percent_worst']:.3g})"
                for row in cells
            ]
            lines.append(f"  {method:22}" + "".join(f"{cell:>16}" for cell in shown))
    return "\n".join([*lines, "MAPE of rows not trained on [%], mean over the draws (worst)"])


def write_transfer(
    args: argparse.Namespace, base: Mapping[str, Any], samples: Mapping[str, Any] | None
) -> tuple[Path, dict[str, Any]]:
    """Fit the transfer to all runs, or take the given factor; write model and card. File and model."""
    if samples is None:
        model = scaled_model(args, base)
    else:
        model = fit_all(samples, Settings(base=base, method=args.method or METHODS[0]))
    folder = args.output / f"{slug(model['model'])}_transfer"
    path: Path = folder / "models" / "model.json"
    write_model(path, model)
    write_whole(folder / "model_card.md", card_of(model, None))
    return path, model


def scaled_model(args: argparse.Namespace, base: Mapping[str, Any]) -> dict[str, Any]:
    """The base times a factor the user gives: times and energies alike, no intervals."""
    spec = {
        "regressor": "transfer",
        "method": "manual",
        "ratio": args.scale_factor,
        "per_token": 0.0,
        "rows": 0,
    }
    facts = {"kind": base["kind"], "schema_version": base["schema_version"], "regression": "transfer"}
    facts |= {"model": args.model, "board": args.board, "base": base, "outliers": [], "intervals": {}}
    facts |= {
        name: base[name] for name in ("ranges", "data", "energy_scope", "no_energy_reason", "simulated_power")
    }
    facts |= {"rows": 0, "groups": 0, "training_rows": []}
    return {**facts, "targets": {target: dict(spec) for target in base["targets"]}}


def calibrate(args: argparse.Namespace) -> None:
    """Curve if asked, then the model."""
    if args.scale_factor is None and not args.data:
        raise UserError("give the board's runs with --data, or a ratio with --scale-factor")
    samples = read_samples(args) if args.data and args.scale_factor is None else None
    base = read_base(args.base)
    rows = curve(args, base, samples) if args.curve and samples else []
    path, model = write_transfer(args, base, samples)
    if args.json:
        print(json.dumps({"model": str(path), "curve": rows}))
        return
    if rows:
        print(format_curve(rows))
    for target, spec in model["targets"].items():
        print(f"{target}: {told(spec)} (n = {spec['rows']})")
    print(f"-> {path}")


def told(spec: Mapping[str, Any]) -> str:
    """A target's transfer in words."""
    if spec["regressor"] == "transfer":
        return f"base x {spec['ratio']:.5g} + {spec['per_token']:.5g} per token"
    if spec["names"][0] != "base":
        return "a fit of these runs alone"
    return f"base x {spec['coefficients'][0]:.5g}, and a fit of the rest"


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(
        prog="token2metrics.py calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base", type=Path, required=True, metavar="MODEL.json", help="trained on the other machine")
    add("--data", nargs="+", type=Path, default=[], metavar="FILE", help="runs of the board")
    add("--model", required=True, metavar="NAME", help="the model in those runs")
    add("--board", metavar="NAME", help="only rows of this board")
    add("--sample-period-s", type=float, metavar="S", help="of the power sensor behind a table")
    add("--assume-input-tokens", type=int, metavar="N", help="for tables without prompt lengths")
    add("--method", choices=METHODS, help="(default: shrunk; --curve compares all)")
    add(
        "--scale-factor",
        type=rate,
        metavar="R",
        help="a known ratio board / other machine, instead of runs",
    )
    add("--curve", action="store_true", help="error against the number of runs")
    add("--sizes", nargs="+", type=int, default=[5, 10, 20, 50], metavar="N", help="runs to try (5 10 20 50)")
    add("--per-subject", action="store_true", help="--sizes count runs per subject")
    add("--seeds", type=int, default=20, metavar="N", help="draws per size (20)")
    add("--output", type=Path, default=Path("outputs"), metavar="DIR", help="(default: outputs)")
    add("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, print."""
    args = build_parser().parse_args(argv)
    try:
        calibrate(args)
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
