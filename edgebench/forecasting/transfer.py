#!/usr/bin/env python3
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
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from edgebench.shell.launch import room_command

ROOM = Path(__file__).resolve().parent
METHODS = ("shrunk", "two_parameter", "simple_scaling", "median_ratio", "through_origin")
ALONE = "alone"  # the board's runs without the base


class CalibrateError(Exception):
    """Something the user can put right."""


def run_room(script: str, *flags: object) -> str:
    """stdout of a script of this folder; its error becomes ours."""
    done = subprocess.run([*room_command(script), *map(str, flags)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{script} ended without a word"]
        raise CalibrateError(lines[-1].removeprefix("error: "))
    return done.stdout


def read_samples(args: argparse.Namespace, folder: Path) -> Path:
    """Samples of the board's runs."""
    rows, samples = folder / "rows.jsonl", folder / "samples.json"
    assumed = ["--assume_input_tokens", args.assume_input_tokens] if args.assume_input_tokens else []
    period = [] if args.sample_period_s is None else ["--sample_period_s", args.sample_period_s]
    run_room("edgebench.forecasting.measurements", *args.data, "--out", rows, *assumed, *period)
    board = ["--board", args.board] if args.board else []
    text = run_room("edgebench.forecasting.samples", "--rows", rows, "--model", args.model, *board)
    samples.write_text(text, encoding="utf-8")
    return samples


def curve(args: argparse.Namespace, samples: Path) -> list[dict[str, Any]]:
    """One row per size, method and quantity: MAPE mean and worst over the seeds."""
    rows = []
    for size in args.sizes:
        for method in (*([args.method] if args.method else METHODS), ALONE):
            flags: list[object] = ["--samples", samples, "--split", "rows", "--seeds", args.seeds, "--json"]
            flags += ["--per_subject" if args.per_subject else "--train_rows", size]
            flags += [] if method == ALONE else ["--base", args.base, "--method", method]
            print(f"{size} runs{' per subject' if args.per_subject else ''}, {method}", file=sys.stderr)
            try:
                answer = json.loads(run_room("edgebench.forecasting.evaluate", *flags))
            except CalibrateError as exc:
                if method != ALONE:
                    raise
                print(f"  {exc}", file=sys.stderr)  # so few runs that no model of their own can be fitted
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


def write_transfer(args: argparse.Namespace, samples: Path | None) -> Path:
    """Fit the transfer to all runs, or take the given factor; write model and card."""
    named = json.loads(samples.read_text(encoding="utf-8"))["model"] if samples else args.model
    slug = re.sub(r"[^a-z0-9._]+", "-", named.casefold()).strip("-.") or "model"
    folder = args.output / f"{slug}_transfer"
    path: Path = folder / "models" / "model.json"
    if samples:
        method = args.method or METHODS[0]
        flags = ("--samples", samples, "--base", args.base, "--method", method, "--out", path)
        run_room("edgebench.forecasting.fit", "fit", *flags)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name("model.json.tmp")
        temp.write_text(json.dumps(scaled_model(args)) + "\n", encoding="utf-8")
        temp.replace(path)
    run_room("edgebench.forecasting.card", path, "--out", folder / "model_card.md")
    return path


def scaled_model(args: argparse.Namespace) -> dict[str, Any]:
    """The base times a factor the user gives: times and energies alike, no intervals."""
    run_room("edgebench.forecasting.model_file", args.base)
    base = json.loads(args.base.read_text(encoding="utf-8"))
    if base["base"]:
        raise CalibrateError(
            f"{args.base} is itself a transfer; give the model that was trained on the server"
        )
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
        raise CalibrateError("give the board's runs with --data, or a ratio with --scale-factor")
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        samples = read_samples(args, Path(folder)) if args.data and args.scale_factor is None else None
        rows = curve(args, samples) if args.curve and samples else []
        path = write_transfer(args, samples)
    if args.json:
        print(json.dumps({"model": str(path), "curve": rows}))
        return
    if rows:
        print(format_curve(rows))
    model = json.loads(path.read_text(encoding="utf-8"))
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


def factor(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
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
        type=factor,
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
    except (CalibrateError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
