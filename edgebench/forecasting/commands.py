"""Time, energy and power of a request from its token counts: train on measured runs, predict before the next.

  train          measurements -> one model per name, as JSON, each with a model card
  predict        tokens in, tokens out -> prefill, decode and total time, energy, mean power, with intervals
  evaluate       errors and coverage on rows a model has not seen (a model is never scored on its own rows)
  batch-predict  a CSV or JSONL of token counts -> JSON lines
  calibrate      a model of one machine + few runs of another -> a model of the other
  benchmark      our fits beside a published model, on the same public measurements
  plan           prompts + GGUF + model -> what a campaign will cost
  models         the trained models there are

Data: run records of run_llamacpp_collect.py, CSV, Excel and JSON tables of requests. Times in ms, energy in
Joule, power in mW.

Example:
    python companions/token2metrics.py train --data results/runs_llamacpp.jsonl --all-models
    python companions/token2metrics.py predict --model 1b --input-tokens 512 --output-tokens 128
    python companions/token2metrics.py evaluate --data sweep.csv --model Q6_K --split lengths
"""

from __future__ import annotations

import argparse
import csv
import difflib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.forecasting import budget, plots, published, transfer
from edgebench.forecasting.card import card_of
from edgebench.forecasting.evaluate import HoldOut, format_table
from edgebench.forecasting.evaluate import evaluate as score_held_out
from edgebench.forecasting.apply import predict as predict_pairs
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.quantities import REGRESSIONS
from edgebench.forecasting.measurements import Reading, read_measurements
from edgebench.forecasting.model_file import slug, write_model
from edgebench.forecasting.samples import list_models, samples_of
from edgebench.forecasting.trained import choose_trained, trained_models
from edgebench.records.jsonl import write_whole
from edgebench.shell.door import Parser

UNITS = {"ms": "ms", "joule": "J"}
# Other words people have for token columns of a batch file.
COLUMNS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "generated_tokens"),
}


def read_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tidy rows of all --data."""
    reading = Reading(assume_input_tokens=args.assume_input_tokens, sample_period_s=args.sample_period_s)
    return read_measurements(args.data, reading)


# --- train, evaluate ---


def train(args: argparse.Namespace) -> int:
    """Train the models asked for; one that cannot be trained does not keep the others from it."""
    failed = 0
    rows = read_rows(args)
    names = sorted({entry["model"] for entry in list_models(rows)}) if args.all_models else [args.model]
    for name in names:
        try:
            train_one(args, rows, name)
        except UserError as exc:
            if not args.all_models:
                raise
            failed += 1
            print(f"error: {exc}", file=sys.stderr)
    return 1 if failed else 0


def train_one(args: argparse.Namespace, rows: Sequence[dict[str, Any]], name: str) -> None:
    """Fit, evaluate, model card, plots."""
    samples = samples_of(rows, name, args.board)
    folder = args.output / f"{slug(samples['model'])}_{args.regression}"
    path, card = folder / "models" / "model.json", folder / "model_card.md"
    settings = Settings(args.regression)
    model = fit_all(samples, settings)
    write_model(path, model)
    scores = None
    if args.cross_validate or args.plots:
        scores, pairs = score_held_out(samples, HoldOut(folds=args.folds, settings=settings))
        if args.plots:
            plots.draw_all(pairs, args.plots / slug(samples["model"]), model)
    write_whole(card, card_of(model, scores))
    print_trained(path, model, card)


def print_trained(path: Path, model: Mapping[str, Any], card: Path) -> None:
    """What came of a training, in a few lines."""
    print(
        f"{model['model']} ({model['regression']}): {model['rows']} rows, {model['groups']} cells -> {path}"
    )
    for name, interval in model["intervals"].items():
        print(f"  {name:22} held-out MAPE {interval['held_out_mape_percent']:.3g} % (n = {interval['rows']})")
    for one in model["outliers"]:
        print(f"  outlier left out: {one['where']}, {one['target']} {one['value']:g}")
    if model["no_energy_reason"]:
        print(f"  no energy: {model['no_energy_reason']}")
    if model["simulated_power"]:
        print("  energies are of simulated power, not of a measurement")
    print(f"  model card: {card}")


def evaluate(args: argparse.Namespace) -> int:
    """Score a trained model on rows it has not seen, or fits of the data's own held-out parts."""
    samples = samples_of(read_rows(args), args.model, args.board)
    wanted = HoldOut(
        split=args.split,
        folds=args.folds,
        seed=args.seed,
        train_rows=args.train_rows,
        seeds=args.seeds,
        level=args.level,
        settings=Settings(args.regression or REGRESSIONS[0]),
    )
    if args.model_path:
        trained = choose_trained(args.model_path, samples["model"], args.regression)
        answer, pairs = score_held_out(samples, wanted, trained.model, str(trained.path))
    else:
        answer, pairs = score_held_out(samples, wanted)
    print(json.dumps(answer) if args.json else format_table(answer))
    if args.plots:
        plots.draw_all(pairs, args.plots)
    return 0


# --- predict ---


def predict(args: argparse.Namespace) -> int:
    """One request."""
    model = choose_trained(args.model_path, args.model, args.regression).model
    (row,) = predict_pairs(model, [(args.input_tokens, args.output_tokens)], args.level)
    row = {"model": model["model"], **with_power(row)}
    row |= {name: model.get(name) for name in ("regression", "board", "no_energy_reason", "simulated_power")}
    print(json.dumps(row) if args.json else format_prediction(row))
    return 0


def with_power(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with power_mw, the mean over the request: predicted energy over predicted time."""
    energy, time = row.get("total_energy_joule"), row.get("total_ms")
    power = energy["mean"] / time["mean"] * 1e6 if energy and time and time["mean"] > 0 else None
    return {**row, "power_mw": power}


def format_prediction(row: Mapping[str, Any]) -> str:
    """A table of at most 80 columns."""
    where = f" on {row['board']}" if row["board"] else ""
    lines = [f"{row['model']}{where}: {row['input_tokens']} tokens in, {row['output_tokens']} out"]
    for name, value in row.items():
        if isinstance(value, dict):
            bounds = "" if value["low"] is None else f"  ({value['low']:.5g} to {value['high']:.5g})"
            unit = UNITS[name.rsplit("_", 1)[1]]
            lines.append(
                f"  {name.rsplit('_', 1)[0].replace('_', ' '):16} {value['mean']:>10.5g} {unit:2}{bounds}"
            )
    if row["power_mw"] is not None:
        lines.append(f"  {'mean power':16} {row['power_mw']:>10.5g} mW")
    lines.append(f"in brackets: {row['level']:.0%} interval of one request")
    if row["extrapolated"]:
        lines.append(f"extrapolated: {' and '.join(row['extrapolated'])} outside the measured range")
    if row["no_energy_reason"]:
        lines.append(f"no energy: {row['no_energy_reason']}")
    if row["simulated_power"]:
        lines.append("energies are of simulated power, not of a measurement")
    return "\n".join(lines)


def batch_predict(args: argparse.Namespace) -> int:
    """Every line of a file; a line of its own model takes that one."""
    requests = read_requests(args.file)
    by_model: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        name = request.get("model") or args.model
        if not name:
            raise UserError(f"{args.file}: no column model; name one model with --model")
        by_model.setdefault(name, []).append(place)
    answers: list[dict[str, Any]] = [{} for _ in requests]
    for name, places in by_model.items():
        model = choose_trained(args.model_path, name, args.regression).model
        pairs = [[requests[place][column] for column in COLUMNS] for place in places]
        for place, row in zip(places, predict_pairs(model, pairs, args.level), strict=True):
            answers[place] = {"model": model["model"], **with_power(row)}
            answers[place] |= {key: model.get(key) for key in ("no_energy_reason", "simulated_power")}
    for answer in answers:
        print(json.dumps(answer))
    return 0


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Token counts, and models where there are some, of a CSV or JSONL file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        jsonl = path.suffix == ".jsonl"
        rows = [json.loads(line) for line in lines] if jsonl else list(csv.DictReader(lines))
    except ValueError as exc:
        raise UserError(f"{path}: not readable ({exc}); save it as CSV or JSONL in UTF-8") from exc
    if not rows:
        raise UserError(f"{path} holds no requests; it needs input_tokens and output_tokens")
    requests, used = [], [name for names in COLUMNS.values() for name in names]
    for number, row in enumerate(rows, 1):
        request: dict[str, Any] = {"model": row.get("model") if isinstance(row, dict) else None}
        for column, names in COLUMNS.items():
            value = next((row[name] for name in names if isinstance(row, dict) and name in row), None)
            if value is None:
                there = [name for name in (row if isinstance(row, dict) else ()) if name not in used]
                near = difflib.get_close_matches(column, there, 1, 0.7)
                hint = f"; is it {near[0]}? Rename that column" if near else ""
                raise UserError(f"{path} request {number}: no {column} ({', '.join(names)}){hint}")
            if not re.fullmatch(r"[1-9]\d{0,8}", str(value).strip()):
                raise UserError(f"{path} request {number}: {column} is {value!r}, not a number above 0")
            request[column] = int(str(value))
        requests.append(request)
    return requests


def list_trained(args: argparse.Namespace) -> int:
    """Names and files."""
    for label, trained in trained_models(args.model_path).items():
        print(f"{label}: {trained.path}")
    return 0


# --- flags ---


class CommandParser(Parser):
    """A parser that, where a command is another room's, leaves all flags to that room."""

    room: Callable[[Sequence[str]], int] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Namespace and what is left over."""
        if self.room is None:
            return super().parse_known_args(args, namespace)
        return argparse.Namespace(run=hand_on, room=self.room, flags=list(args)), []


def hand_on(args: argparse.Namespace) -> int:
    """Run the room whose command this is. What it reads it tells in its own words, not in the log."""
    logging.getLogger("token2metrics").setLevel(logging.WARNING)
    return int(args.room(args.flags))


def add_data_flags(sub: Parser) -> None:
    """What measurements to read, and how."""
    sub.add_argument("--data", nargs="+", type=Path, required=True, metavar="FILE", help="measurements")
    sub.add_argument("--board", metavar="NAME", help="only rows of this board")
    sub.add_argument("--assume-input-tokens", type=int, metavar="N", help="for tables without prompt lengths")
    sub.add_argument("--sample-period-s", type=float, metavar="S", help="of the power sensor behind a table")
    sub.add_argument("--folds", type=int, default=10, metavar="N", help="parts of a cross-validation (10)")
    sub.add_argument("--plots", type=Path, metavar="DIR", help="draw predictions against measurements")


def build_parser() -> argparse.ArgumentParser:
    """Commands and flags."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info", help="(info)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, help_: str, outputs: bool = True) -> CommandParser:
        sub = commands.add_parser(name, help=help_)
        sub.set_defaults(run=run)
        if outputs:
            sub.add_argument(
                "--model-path",
                type=Path,
                default=Path("outputs"),
                metavar="DIR",
                help="trained models (outputs)",
            )
        return sub

    sub = add("train", train, "measurements to models", outputs=False)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--all-models", action="store_true", help="every model in the data")
    which.add_argument("--model", metavar="NAME", help="a model in the data, or a part only it has")
    sub.add_argument("--regression", choices=REGRESSIONS, default="best", help="(default: best)")
    sub.add_argument("--output", type=Path, default=Path("outputs"), metavar="DIR", help="(default: outputs)")
    sub.add_argument("--cross-validate", action="store_true", help="scores over held-out cells into the card")
    add_data_flags(sub)
    sub = add("evaluate", evaluate, "errors and coverage on unseen rows", outputs=False)
    sub.add_argument("--model", required=True, metavar="NAME", help="a model in the data")
    sub.add_argument("--model-path", type=Path, metavar="DIR", help="score a trained model")
    sub.add_argument("--regression", choices=REGRESSIONS, help="without --model-path (analytic)")
    sub.add_argument(
        "--split", choices=("cells", "lengths", "rows"), default="cells", help="what to hold out"
    )
    sub.add_argument("--train-rows", type=int, default=50, metavar="N", help="of --split rows (50)")
    sub.add_argument("--seeds", type=int, default=10, metavar="N", help="of --split rows (10)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of --split cells (0)")
    add_data_flags(sub)
    for name, run in (("predict", predict), ("batch-predict", batch_predict)):
        sub = add(name, run, "one request" if run is predict else "a file of requests, to JSON lines")
        sub.add_argument("--model", required=run is predict, metavar="NAME", help="a trained model's name")
        sub.add_argument("--regression", choices=(*REGRESSIONS, "transfer"), help="(analytic if trained)")
    commands.choices["predict"].add_argument("--input-tokens", type=int, required=True, metavar="N")
    commands.choices["predict"].add_argument("--output-tokens", type=int, required=True, metavar="M")
    commands.choices["batch-predict"].add_argument("file", type=Path, metavar="FILE", help="CSV or JSONL")
    for name in ("predict", "batch-predict", "evaluate"):
        commands.choices[name].add_argument("--level", type=float, choices=(0.5, 0.8, 0.9, 0.95), default=0.9)
    for name in ("predict", "evaluate"):
        commands.choices[name].add_argument("--json", action="store_true", help="one JSON object")
    add("models", list_trained, "the trained models there are")
    rooms = {"calibrate": transfer.main, "benchmark": published.main, "plan": budget.main}
    for name, room in rooms.items():
        commands.add_parser(name, help=f"see {name} --help").room = room
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(message)s", stream=sys.stderr)
    try:
        return int(args.run(args))
    except ImportError as exc:
        print(f"error: {exc}; run ./run_all.sh --setup", file=sys.stderr)
        return 1
    except (UserError, OSError, EOFError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
