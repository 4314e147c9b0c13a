#!/usr/bin/env python3
"""A request's time, energy and power from its token counts: train, then predict.

  train          measurements -> one model per name, as JSON, each with a model
                 card
  predict        tokens in, tokens out -> prefill, decode and total time,
                 energy, mean power, with intervals
  evaluate       errors and coverage on rows a model has not seen (a model is
                 never scored on its own rows)
  batch-predict  a CSV or JSONL of token counts -> JSON lines
  calibrate      a model of one machine + few runs of another -> a model of the
                 other
  plan           prompts + GGUF + model -> what a campaign will cost
  benchmark      our fits beside a published model and scikit-learn's, on the
                 same public measurements
  models         the trained models there are

Data: run records of run_llamacpp_collect.py, CSV, Excel and JSON tables of
requests; without --data those in datasets/server and datasets/tegra. Times in
ms, energy in Joule, power in mW.

Example:
    python companions/token2metrics.py train \\
        --data results/runs_llamacpp.jsonl --all-models
    python companions/token2metrics.py predict --model 1b --input-tokens 512 \\
        --output-tokens 128
    python companions/token2metrics.py evaluate --data sweep.csv \\
        --model Q6_K --split lengths
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.errors import UserError, told
from edgebench.forecasting.quantities import LEVELS, METHODS, REGRESSIONS, TRANSFER
from edgebench.shell.calls import as_called
from edgebench.shell.door import Parser, at_least, open_door
from edgebench.shell.progress import say

# Rooms are imported where a command needs them: a prediction shall not wait for scipy or matplotlib.


def read_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tidy rows of all --data, or of the default places."""
    from edgebench.forecasting.measurements import Reading, read_measurements
    from edgebench.forecasting.places import data_files

    reading = Reading(
        assume_input_tokens=args.assume_input_tokens,
        sample_period_s=args.sample_period_s,
        default_places=not args.data,
    )
    return read_measurements(data_files(args.data), reading)


def train(args: argparse.Namespace) -> int:
    """Train the models asked for; one that cannot be trained does not keep the others from it."""
    from edgebench.forecasting.training import Training, models_in, summary_of, train_one

    rows = read_rows(args)
    asked = Training(args.output, args.regression, args.board, args.folds, args.cross_validate, args.plots)
    failed = 0
    for name in models_in(rows) if args.all_models else [args.model]:
        try:
            print(summary_of(train_one(rows, name, asked)))
        except UserError as exc:
            if not args.all_models:
                raise
            failed += 1
            say(f"error: {exc}")
    return 1 if failed else 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a trained model on rows it has not seen, or fits of the data's own held-out parts."""
    from edgebench.forecasting.evaluate import HoldOut, format_table
    from edgebench.forecasting.evaluate import evaluate as score
    from edgebench.forecasting.fit import Settings
    from edgebench.forecasting.samples import samples_of
    from edgebench.forecasting.trained import choose_trained

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
    trained = choose_trained(args.model_path, samples["model"], args.regression) if args.model_path else None
    if trained:
        answer, pairs = score(samples, wanted, trained.model, str(trained.path))
    else:
        answer, pairs = score(samples, wanted)
    print(json.dumps(answer) if args.json else format_table(answer))
    if args.plots:
        from edgebench.forecasting.plots import draw_all

        draw_all(pairs, args.plots)
    return 0


def predict(args: argparse.Namespace) -> int:
    """One request."""
    from edgebench.forecasting.predicting import Wanted, format_prediction, predict_one

    wanted = Wanted(args.model, args.model_path, args.regression, args.level)
    row = predict_one(wanted, args.input_tokens, args.output_tokens)
    print(json.dumps(row) if args.json else format_prediction(row))
    if args.plot:
        from edgebench.forecasting.plots import draw_where_the_time_goes
        from edgebench.forecasting.trained import choose_trained

        model = choose_trained(args.model_path, args.model, args.regression).model
        draw_where_the_time_goes(model, args.input_tokens, args.output_tokens, args.plot)
    return 0


def batch_predict(args: argparse.Namespace) -> int:
    """Every line of a file; a line of its own model takes that one."""
    from edgebench.forecasting.predicting import Wanted, predict_file

    wanted = Wanted(args.model, args.model_path, args.regression, args.level)
    for answer in predict_file(wanted, args.file):
        print(json.dumps(answer))
    return 0


def list_trained(args: argparse.Namespace) -> int:
    """Names and files."""
    from edgebench.forecasting.trained import trained_models

    for label, path in trained_models(args.model_path).items():
        print(f"{label}: {path}")
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """Error against the number of runs if asked, then the model of the other machine."""
    from edgebench.forecasting.cautions import cautions
    from edgebench.forecasting.samples import samples_of
    from edgebench.forecasting.transfer import (
        Calibration,
        calibrated,
        curve,
        format_curve,
        read_base,
        told,
    )

    if args.scale_factor is None and not args.data:
        raise UserError("give the board's runs with --data, or a ratio with --scale-factor")
    names = ("base", "model", "board", "method", "scale_factor", "sizes", "per_subject", "seeds", "output")
    asked = Calibration(**{name: getattr(args, name) for name in names})
    samples = None
    if args.scale_factor is None:
        samples = samples_of(read_rows(args), args.model, args.board)
    base = read_base(args.base)
    rows = curve(asked, base, samples) if args.curve and samples else []
    path, model = calibrated(asked, base, samples)
    if args.json:
        print(json.dumps({"model": str(path), "curve": rows}))
        return 0
    if rows:
        print(format_curve(rows))
    for target, spec in model["targets"].items():
        print(f"{target}: {told(spec)} (n = {spec['rows']})")
    print("\n".join([*cautions(model), f"-> {path}"]))
    return 0


def benchmark(args: argparse.Namespace) -> int:
    """The comparisons whose files are there."""
    from edgebench.forecasting.published import Asked, format_table, run_benchmark

    table = run_benchmark(Asked(args.data_dir, args.train_rows, args.seeds))
    print(json.dumps(table) if args.json else format_table(table))
    return 0


def plan(args: argparse.Namespace) -> int:
    """What a campaign will cost."""
    from edgebench.forecasting.budget import Budget, format_plan, make_plan

    given = {name: value for name, value in vars(args).items() if name in Budget.__dataclass_fields__}
    made = make_plan(Budget(**given))
    print(json.dumps(made) if args.json else format_plan(made))
    return 0


# --- flags ---


def above_0(text: str) -> float:
    """A finite number above 0."""
    number = float(at_least(0, float)(text))
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def add_data_flags(sub: argparse.ArgumentParser) -> None:
    """What measurements to read, and how."""
    add = sub.add_argument
    add(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="measurements (default: all in datasets/server and datasets/tegra)",
    )
    add("--board", metavar="NAME", help="only rows of this board")
    add("--assume-input-tokens", type=at_least(1), metavar="N", help="for tables without prompt lengths")
    add("--sample-period-s", type=above_0, metavar="S", help="of the power sensor behind a table")


def add_scoring_flags(sub: argparse.ArgumentParser) -> None:
    """How rows are held out and drawn."""
    sub.add_argument("--folds", type=at_least(2), default=10, metavar="N", help="of a cross-validation (10)")
    sub.add_argument("--plots", type=Path, metavar="DIR", help="draw predictions against measurements")


def one_of(names: Sequence[str]) -> str:
    """Names as a sentence that wraps, where argparse's {a,b,c} is one word wider than a terminal.

    >>> one_of(["linear", "polynomial", "best"])
    'linear, polynomial or best'
    """
    return f"{', '.join(names[:-1])} or {names[-1]}"


def add_regression(
    sub: argparse.ArgumentParser,
    default: str | None,
    names: Sequence[str] = REGRESSIONS,
    told: str = "best",
) -> None:
    """How a quantity is fitted."""
    about = f"{one_of(names)} (default: {told})"
    sub.add_argument("--regression", choices=names, default=default, metavar="NAME", help=about)


def add_model_flags(sub: argparse.ArgumentParser, required: bool = True) -> None:
    """Which trained model is asked."""
    add = sub.add_argument
    add("--model", required=required, metavar="NAME", help="a trained model's name, or a part only it has")
    add_where(sub)
    add_regression(sub, None, (*REGRESSIONS, TRANSFER), "best, or what there is")
    add("--level", type=float, choices=LEVELS, default=0.9, help="of the intervals (0.9)")


def add_where(sub: argparse.ArgumentParser, default: Path | None = Path("outputs")) -> None:
    """Where trained models are: --output means that in every command."""
    told = f" ({default})" if default else ""
    sub.add_argument(
        "--output",
        "--model-path",
        dest="model_path",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"trained models, or one file of them{told}",
    )


def add_train_flags(sub: argparse.ArgumentParser) -> None:
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--all-models", action="store_true", help="every model in the data")
    which.add_argument("--model", metavar="NAME", help="a model in the data, or a part only it has")
    add = sub.add_argument
    add_regression(sub, REGRESSIONS[0])
    add("--output", type=Path, default=Path("outputs"), metavar="DIR", help="trained models (outputs)")
    add("--cross-validate", action="store_true", help="scores over held-out cells into the card")
    add_data_flags(sub)
    add_scoring_flags(sub)


def add_evaluate_flags(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--model", required=True, metavar="NAME", help="a model in the data")
    add_where(sub, default=None)
    add_regression(sub, None)
    add("--split", choices=("cells", "lengths", "rows"), default="cells", help="what to hold out (cells)")
    add("--train-rows", type=at_least(1), default=50, metavar="N", help="of --split rows (50)")
    add("--seeds", type=at_least(1), default=10, metavar="N", help="draws of --split rows (10)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of --split cells (0)")
    add("--level", type=float, choices=LEVELS, default=0.9, help="of the intervals (0.9)")
    add_data_flags(sub)
    add_scoring_flags(sub)


def add_calibrate_flags(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--base", type=Path, required=True, metavar="MODEL.json", help="trained on the other machine")
    add("--model", required=True, metavar="NAME", help="the model in the board's runs")
    add_data_flags(sub)
    methods = f"{one_of(METHODS)} (default: chosen; --curve compares all)"
    add("--method", choices=METHODS, metavar="NAME", help=methods)
    add("--scale-factor", type=above_0, metavar="R", help="a known ratio board / other machine, not runs")
    add("--curve", action="store_true", help="error against the number of runs")
    add("--sizes", nargs="+", type=at_least(1), default=[5, 10, 20, 50], metavar="N", help="(5 10 20 50)")
    add("--per-subject", action="store_true", help="--sizes count runs per subject")
    add("--seeds", type=at_least(1), default=20, metavar="N", help="draws per size (20)")
    add("--output", type=Path, default=Path("outputs"), metavar="DIR", help="trained models (outputs)")


def add_plan_flags(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--prompts", type=Path, required=True, metavar="CSV", help="prompts file of the collector")
    add("--gguf", type=Path, required=True, metavar="FILE", help="model file: tokenizer and chat template")
    add("--model", required=True, metavar="NAME", help="a trained model's name")
    add_where(sub)
    add("--levels", nargs="+", metavar="NAME", help="columns (default: L0 L1 L2 L3 P)")
    add("--limit", type=at_least(1), metavar="N", help="only the first N tasks")
    add("--output-tokens", type=at_least(1), metavar="N", help="length of each answer (512)")
    add("--runs", type=Path, metavar="JSONL", help="earlier run records: each level's mean length instead")
    add("--repeats", type=at_least(1), default=1, metavar="R", help="runs of each prompt (1)")
    add("--prompt-format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--system", metavar="TEXT", help="system message")
    add("--level", type=float, choices=LEVELS, default=0.9, help="of the intervals (0.9)")
    add("--battery-wh", type=above_0, metavar="WH", help="capacity: how many charges it takes")
    add("--price-per-kwh", type=above_0, metavar="X", help="what the grid's energy costs, in your currency")
    add("--co2-g-per-kwh", type=above_0, metavar="G", help="carbon of the grid's energy")


def build_parser() -> argparse.ArgumentParser:
    """Commands and flags."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info", help="(info)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subs = {
        name: commands.add_parser(
            name,
            help=told,
            description=EXPLAINED.get(name, f"{told[0].upper()}{told[1:]}."),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, (_, told) in COMMANDS.items()
    }
    add_train_flags(subs["train"])
    add_evaluate_flags(subs["evaluate"])
    add_model_flags(subs["predict"])
    subs["predict"].add_argument("--input-tokens", type=at_least(1), required=True, metavar="N")
    subs["predict"].add_argument("--output-tokens", type=at_least(1), required=True, metavar="M")
    subs["predict"].add_argument("--plot", type=Path, metavar="PNG", help="draw where the time goes")
    add_model_flags(subs["batch-predict"], required=False)
    subs["batch-predict"].add_argument("file", type=Path, metavar="FILE", help="CSV or JSONL")
    add_where(subs["models"])
    add_calibrate_flags(subs["calibrate"])
    subs["benchmark"].add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="public files")
    subs["benchmark"].add_argument("--train-rows", type=at_least(3), default=50, metavar="N", help="(50)")
    subs["benchmark"].add_argument("--seeds", type=at_least(1), default=20, metavar="N", help="draws (20)")
    add_plan_flags(subs["plan"])
    for name in ("predict", "evaluate", "calibrate", "benchmark", "plan"):
        subs[name].add_argument("--json", action="store_true", help="one JSON object")
    return parser


EXPLAINED = {
    "predict": """Time, energy and power of one request, with intervals.

An answer of M tokens is M - 1 decode steps, as if cut at a limit; one that
ends by itself takes one more.

Example:
    python companions/token2metrics.py predict --model 8B --input-tokens 100 \\
        --output-tokens 50
""",
    "calibrate": """A model of one machine + few runs of another -> a model of the other.

  simple_scaling   prediction x mean of the ratios measured / predicted
  median_ratio     prediction x their median
  through_origin   prediction x the least-squares slope through the origin
  two_parameter    prediction x ratio + constant per token: what scales, and
                   what each token costs more
  shrunk           the same, and a fit of what that leaves unexplained, as far
                   as held-out runs ask for it; or the runs alone, if held-out
                   runs like that better
  chosen           of simple_scaling, two_parameter and shrunk what the few
                   runs support (default)
  --scale-factor   prediction x a ratio you know; no runs needed, and no
                   intervals made

--curve shows how many runs it takes: for each of --sizes, random runs train,
the rest test, --seeds times, for every method and for a fit of those runs
alone. Errors are MAPE of rows not trained on, in percent.

Example:
    python companions/token2metrics.py calibrate \\
        --base outputs/server_best/models/model.json \\
        --data board.csv --model 8B --sizes 5 20 --curve
""",
    "benchmark": """Our fits beside a published model and scikit-learn's Linear, Poly2 and forest.

All on the same public measurements and the same held-out rows; files that are
not there are passed over. Mean absolute errors in percent of the measurement,
median and worst of --seeds draws.

Example:
    python companions/token2metrics.py benchmark --data-dir edgereasoning_data
""",
    "plan": """What a campaign will cost: of prompts, a tokenizer's file and a trained model.

Prompts are counted with the model's own tokenizer and chat template, as the
collector counts them; times and energies are those of the runs, without
loading, warm-up and idling. The interval of a sum adds up those of its runs,
as if all erred the same way.

Example:
    python companions/token2metrics.py plan \\
        --prompts data/writing_prompts_hierarchical.csv \\
        --gguf models/demo/demo-llama-F32.gguf --model demo-llama \\
        --output-tokens 96 --battery-wh 50
""",
}
COMMANDS = {
    "train": (train, "measurements to models"),
    "evaluate": (evaluate, "errors and coverage on unseen rows"),
    "predict": (predict, "time, energy and power of one request"),
    "batch-predict": (batch_predict, "the same of a file of requests, to JSON lines"),
    "models": (list_trained, "the trained models there are"),
    "calibrate": (calibrate, "a model of one machine and few runs of another to a model of the other"),
    "benchmark": (benchmark, "our fits beside others', on public measurements"),
    "plan": (plan, "what a campaign will cost"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(message)s", stream=sys.stderr, force=True)
    try:
        return COMMANDS[args.command][0](args)
    except ImportError as exc:
        say(f"error: {exc}; {as_called('run ./run_all.sh --setup')}")
        return 1
    except UserError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    except OSError as exc:
        say(f"error: {told(exc)}")
        return 1
    except EOFError as exc:  # a .gz that is cut short
        say(f"error: {exc}; check --data")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    open_door(main)
