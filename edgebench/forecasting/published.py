"""Our fits beside a published model and scikit-learn's regressions, on public measurements, rows held out.

The published model: EdgeReasoning (github.com/edge-inference/edgereasoning, commit e74ca1e), DeepSeek-R1
distillates on an AGX Orin 64 GB: prefill a Ip^2 + b Ip + c with Ip = 128 ceil(I / 128); decode O (m I + n +
m (O - 1) / 2); decode power p ln O + q. Times in s, power in W. It was fitted on these measurements; ours,
and scikit-learn's Linear, Poly2 and forest, are scored on rows they have not seen, all on the same splits:

  50 rows   requests: trained on --train-rows random ones, the rest test
  cells     requests, and a llama.cpp sweep with energies: whole cells left out, five parts
  lengths   the same: whole prompt lengths left out
  sweep     prompts of 3 to 4,097 tokens, each length left out once
  energy    outputs of 64 tokens or more, each prompt length left out

Then the prefill by a design that was chosen on the other models alone, beside the model's own choice; and a
model carried from one quantization to the other with 5 and 20 runs.

Example:
    python companions/token2metrics.py benchmark --data-dir edgereasoning_data
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.forecasting.designs import prefill_options
from edgebench.forecasting.evaluate import HoldOut, outliers_of, splits_of
from edgebench.forecasting.fit import Settings, cross
from edgebench.forecasting.measurements import read_measurements
from edgebench.forecasting.quantities import ANALYTIC
from edgebench.forecasting.samples import samples_of
from edgebench.forecasting.transfer import ALONE, Calibration, curve
from edgebench.shell.progress import say

Floats = NDArray[np.float64]

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


# --- what is compared ---


@dataclass(frozen=True)
class Asked:
    """What the benchmark is told."""

    data_dir: Path
    train_rows: int = 50
    seeds: int = 20


@dataclass(frozen=True)
class Trial:
    """One file, which models of it, what to hold out, what to score."""

    name: str
    file: str
    models: tuple[str, ...]
    hold_out: HoldOut
    quantities: tuple[str, ...]
    output_tokens_least: int = 1
    drawn: bool = True  # the hold-out differs from seed to seed


REQUESTS, SWEEP, ENERGY, LLAMA_CPP_SWEEP = (
    "t2m_mmlu_agx_orin.csv",
    "edgereasoning_prefill.csv",
    "edgereasoning_decode_parameters.csv",
    "llamacpp_agx_orin_llama32_1b.csv",
)
GRID = ("Llama-3.2-1B Q6_K", "Llama-3.2-1B Q4_0")
PHASES = ("prefill_ms", "decode_ms", "total_ms")
WITH_ENERGY = (*PHASES, "prefill_energy_joule", "decode_energy_joule", "total_energy_joule")
FOREST_TREES = 30  # more change the second figure of its error and take a day
SIZES = (5, 20)  # runs to calibrate with


def trials(asked: Asked) -> list[Trial]:
    """The comparisons, whether or not their files are there."""
    cells, lengths = HoldOut(split="cells", folds=5), HoldOut(split="lengths", folds=5)
    rows = HoldOut(split="rows", train_rows=asked.train_rows, seeds=1)
    published = tuple(PUBLISHED)
    return [
        Trial("50 rows" if asked.train_rows == 50 else "rows", REQUESTS, published, rows, PHASES),
        Trial("cells", REQUESTS, published, cells, PHASES),
        Trial("lengths", REQUESTS, published, lengths, PHASES),
        Trial("sweep", SWEEP, published, lengths, ("prefill_ms",), drawn=False),
        Trial("energy", ENERGY, published, lengths, ("decode_energy_joule",), ENERGY_TOKENS_LEAST, False),
        Trial("cells", LLAMA_CPP_SWEEP, GRID, cells, WITH_ENERGY),
        Trial("lengths", LLAMA_CPP_SWEEP, GRID, lengths, WITH_ENERGY, drawn=False),
    ]


def run_benchmark(asked: Asked) -> dict[str, Any]:
    """{"held_out", "designs", "calibration": rows} of the files that are there. Raises UserError."""
    wanted = trials(asked)
    there = [trial for trial in wanted if (asked.data_dir / trial.file).is_file()]
    if not there:
        named = ", ".join(dict.fromkeys(trial.file for trial in wanted))
        raise UserError(f"none of {named} is in {asked.data_dir}; check --data-dir")
    files = {name: read_measurements([asked.data_dir / name]) for name in {trial.file for trial in there}}
    held_out = [row for trial in there for row in run_trial(trial, files[trial.file], asked.seeds)]
    designs = []
    for name, models in ((REQUESTS, tuple(PUBLISHED)), (LLAMA_CPP_SWEEP, GRID)):
        designs += designs_of_others(files[name], models) if name in files else []
    calibration = calibrations(files[LLAMA_CPP_SWEEP], asked.seeds) if LLAMA_CPP_SWEEP in files else []
    return {"held_out": held_out, "designs": designs, "calibration": calibration}


def run_trial(trial: Trial, rows: Sequence[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """Rows of the table from one file: every quantity of every model."""
    rows = [row for row in rows if row["output_tokens"] >= trial.output_tokens_least]
    names = {row["model"] for row in rows}
    table = []
    for name in (name for name in trial.models if name in names):
        say(f"{trial.file}, {trial.name}: {name}")
        samples = samples_of(rows, name)
        draws = [
            compare(trial, samples, replace(trial.hold_out, seed=seed), PUBLISHED.get(name))
            for seed in range(seeds if trial.drawn else 1)
        ]
        for quantity in trial.quantities:
            row = {"trial": trial.name, "model": name, "quantity": quantity, "draws": len(draws)}
            table.append(row | over_draws([draw[quantity] for draw in draws]))
    return table


def over_draws(draws: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median and greatest error of each method over the draws; rows and coverage of ours: the median."""
    methods = [name for name in draws[0] if name not in ("rows", "coverage_percent")]
    found: dict[str, Any] = {
        name: {"median": median(d[name] for d in draws), "worst": max(d[name] for d in draws)}
        for name in methods
    }
    return found | {name: median(d[name] for d in draws) for name in ("rows", "coverage_percent")}


def compare(
    trial: Trial, samples: Mapping[str, Any], hold_out: HoldOut, published: Published | None
) -> dict[str, dict[str, float]]:
    """Quantity -> method -> MAPE [%] over all rows that this draw holds out, outliers in no score."""
    splits = splits_of(samples, hold_out)
    if trial.hold_out.split == "rows":  # the draw is the seed's
        splits = splits_of(samples, replace(hold_out, seeds=hold_out.seed + 1))[-1:]
    answers = cross(samples, splits, Settings(), 0.9)
    outliers = outliers_of(answers)
    found: dict[str, dict[str, float]] = {}
    for quantity in trial.quantities:
        measured = np.array(samples["measured"][quantity], float)
        off: dict[str, list[Floats]] = {}
        inside: list[Floats] = []
        for split, answer in zip(splits, answers, strict=True):
            bounds = {key: np.array(v, float) for key, v in answer["predicted"][quantity].items() if v}
            test = np.array(split["test"])
            kept = np.isfinite(measured[test]) & np.array(
                [(quantity, row) not in outliers for row in split["test"]]
            )
            test, truth = test[kept], measured[test[kept]]
            means = {"ours": bounds["mean"][kept], **others(samples, quantity, split, test, published)}
            for method, mean in means.items():
                off.setdefault(method, []).append(np.abs(mean / truth - 1))
            if "low" in bounds:
                inside.append((bounds["low"][kept] <= truth) & (truth <= bounds["high"][kept]))
        found[quantity] = {name: 100 * float(np.concatenate(parts).mean()) for name, parts in off.items()}
        found[quantity]["rows"] = len(np.concatenate(off["ours"]))
        found[quantity]["coverage_percent"] = (
            100 * float(np.concatenate(inside).mean()) if inside else math.nan
        )
    return found


def others(
    samples: Mapping[str, Any],
    quantity: str,
    split: Mapping[str, Any],
    test: NDArray[np.int64],
    published: Published | None,
) -> dict[str, Floats]:
    """What the published model and scikit-learn's regressions say of the test rows."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    counts, measured = np.array(samples["counts"], float), np.array(samples["measured"][quantity], float)
    train = np.array(split["train"])
    train = train[np.isfinite(measured[train])]
    columns = [0] if quantity.startswith("prefill") else [0, 1]
    found: dict[str, Floats] = {}
    if published and quantity in FORMULAS:
        pairs = [(int(prompt), int(steps) + 1) for prompt, steps in counts[test]]
        found["published"] = np.array([FORMULAS[quantity](published, *pair) for pair in pairs])
    regressions = {
        "linear": LinearRegression(),
        "poly2": make_pipeline(PolynomialFeatures(2), LinearRegression()),
        "forest": RandomForestRegressor(FOREST_TREES, random_state=0),
    }
    for name, regression in regressions.items():
        if len(train) and len(test):
            regression.fit(counts[train][:, columns], measured[train])
            found[name] = np.asarray(regression.predict(counts[test][:, columns]))
    return found


# --- designs chosen without the model ---


def designs_of_others(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> list[dict[str, Any]]:
    """Prefill by the design that the other models' held-out lengths like best, and by its own choice."""
    there = [name for name in models if any(row["model"] == name for row in rows)]
    samples = {name: only_prefill(samples_of(rows, name)) for name in there}
    hold_out = HoldOut(split="lengths", folds=5)
    errors: dict[str, list[float]] = {}
    options: list[dict[str, Any]] = []
    for name, one in samples.items():
        lengths = np.array([prompt for prompt, _ in one["counts"]], float)
        # Levels of their own are of these lengths, no other model's.
        every = prefill_options(lengths, one["engine"])
        options = [option for option in every if "own_level" not in option]
        errors[name] = [held_out_mape(one, hold_out, option) for option in options]
    found = []
    for name, one in samples.items():
        scores = np.array([np.array(errors[o]) / min(errors[o]) for o in samples if o != name])
        place = int(np.argmin(scores.mean(axis=0)))
        found.append(
            {
                "model": name,
                "design": options[place],
                "chosen_on": [other for other in samples if other != name],
                "others_mape_percent": errors[name][place],
                "own_mape_percent": held_out_mape(one, hold_out, None),
            }
        )
    return found


def only_prefill(samples: dict[str, Any]) -> dict[str, Any]:
    return {**samples, "targets": ["prefill_ms"]}


def held_out_mape(samples: Mapping[str, Any], hold_out: HoldOut, options: Mapping[str, Any] | None) -> float:
    """MAPE [%] of prefills whose length was held out, by one design or by the fit's own choice."""
    settings = Settings(ANALYTIC, designs={"prefill_ms": options} if options else {})
    splits = splits_of(samples, hold_out)
    measured = np.array(samples["measured"]["prefill_ms"], float)
    off = [
        np.abs(np.array(answer["predicted"]["prefill_ms"]["mean"]) / measured[split["test"]] - 1)
        for split, answer in zip(splits, cross(samples, splits, settings, 0.9), strict=True)
    ]
    return 100 * float(np.concatenate(off).mean())


# --- calibration ---


def calibrations(rows: Sequence[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """One quantization's model carried to the other with few runs: rows of transfer.curve()."""
    from edgebench.forecasting.fit import fit_all

    base = fit_all(samples_of(rows, GRID[0]), Settings())
    asked = Calibration(Path(), GRID[1], sizes=SIZES, seeds=seeds)
    found = curve(asked, base, samples_of(rows, GRID[1]))
    return [row for row in found if row["method"] in ("chosen", "two_parameter", "simple_scaling", ALONE)]


# --- output ---

SHORT = {"DeepSeek-R1-Distill-Qwen-1.5B": "1.5B", "DeepSeek-R1-Distill-Llama-8B": "8B"}
SHORT |= {"DeepSeek-R1-Distill-Qwen-14B": "14B", GRID[0]: "Q6_K", GRID[1]: "Q4_0"}


def format_table(result: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """At most 80 columns."""
    widths = {"published": 9, "linear": 7, "poly2": 7, "forest": 7}
    head = " ".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'held out':8} {'quantity':15} {'model':5} {'ours %':>7} {'worst':>6} {head} {'cover':>5}"]
    for row in result["held_out"]:
        cells = [
            f"{number(row[name]['median']) if name in row else '-':>{width}}"
            for name, width in widths.items()
        ]
        lines.append(
            f"{row['trial']:8} {short(row['quantity']):15} {SHORT[row['model']]:5}"
            f" {number(row['ours']['median']):>7} {number(row['ours']['worst']):>6} {' '.join(cells)}"
            f" {row['coverage_percent']:>5.1f}"
        )
    lines += ["MAPE of rows not trained on [%], median over the draws; worst: the greatest of ours;"]
    lines += ["cover: held-out rows inside our 90 % interval [%]; the others state none", ""]
    for row in result["designs"]:
        chosen_on = ", ".join(SHORT[name] for name in row["chosen_on"])
        lines += [
            f"prefill of {SHORT[row['model']]}, whole lengths left out:"
            f" {row['own_mape_percent']:.2f} % by its own choice,",
            f"  {row['others_mape_percent']:.2f} % by the design chosen on {chosen_on}:"
            f" {told(row['design'])}",
        ]
    if result["calibration"]:
        lines += ["", f"calibrated from {SHORT[GRID[0]]} to {SHORT[GRID[1]]}, median (worst) over the draws"]
        lines += format_calibration(result["calibration"])
    return "\n".join(lines)


def format_calibration(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Quantities and sizes down, methods across."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["quantity"], row["size"], row["method"]): row for row in rows}
    lines = [f"{'quantity':15} {'runs':>4} " + " ".join(f"{name:>14}" for name in methods)]
    for quantity, size in dict.fromkeys((row["quantity"], row["size"]) for row in rows):
        shown = []
        for method in methods:
            one = cells.get((quantity, size, method))
            figures = ("mape_percent_median", "mape_percent_worst")
            shown.append("-" if one is None else "{} ({})".format(*(number(one[name]) for name in figures)))
        lines.append(f"{short(quantity):15} {size:>4} " + " ".join(f"{one:>14}" for one in shown))
    return lines


def short(quantity: str) -> str:
    """A quantity's name for a narrow column.

    >>> short("prefill_energy_joule"), short("total_ms")
    ('prefill J', 'total ms')
    """
    return quantity.replace("_energy_joule", " J").replace("_ms", " ms")


def told(options: Mapping[str, Any]) -> str:
    """A design in words.

    >>> told({"pads": [128, 256]}), told({"micro_batch": 512, "pads": []}), told({"pads": []})
    ('tiles of 128 and 256', 'micro-batches of 512', 'a slope alone')
    """
    parts = []
    if options.get("micro_batch"):
        parts.append(f"micro-batches of {options['micro_batch']:g}")
    pads = options.get("pads") or ([options["pad"]] if options.get("pad") else [])
    if pads:
        parts.append(f"tiles of {' and '.join(f'{pad:g}' for pad in pads)}")
    if options.get("own_level"):
        parts.append("levels of their own")
    return ", ".join(parts) or "a slope alone"


def number(value: float) -> str:
    """Three figures.

    >>> number(0.4567), number(12.345), number(153.2)
    ('0.457', '12.3', '153')
    """
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
