#!/usr/bin/env python3
"""Fits time and energy of a request from its token counts, and predicts them: rows in, JSON out.

  fit      rows of read_measurements.py -> one model as JSON (no pickles), with intervals from held-out rows
  predict  a model and token counts -> one JSON line per request, with intervals, extrapolation flagged
  cross    a model per split, fitted on its training rows, predicting its test rows: for evaluations

The default regression, `analytic`, is the machine's own arithmetic, fitted by non-negative least squares on
relative errors (I prompt tokens, padded as the engine pads them; S decode steps = output tokens - 1):
  prefill  c + sum_b v_b I_b + a I^2 / 2        v_b: time per prompt token in the b-th length band
  decode   c + sum_b v_b S_b + m sum_k k        v_b: time per step while the context is in band b; m: growth
  energy   as its phase, less what a power that starts low has not drawn yet: d (1 - exp(-T_decode / tau)),
           and more of it after a short prefill: d' exp(-T_prefill / tau'); per step more after a long one
Neighbouring bands are drawn together as strongly as held-out rows like it. All coefficients are >= 0, so a
longer prompt or answer never takes less time. Other regressions (fit_regressors.py, which stands beside this
script): linear, polynomial, random_forest, xgboost.
With --base, a model of another machine is transferred: base prediction x ratio + constant per token, and, as
far as held-out rows ask for it (method `shrunk`), the columns above for what that does not explain.

Example:
    python companions/fit_metrics.py fit --rows rows.jsonl --model "Llama-3.2-1B Q6_K" --out model.json
    python companions/fit_metrics.py predict model.json --tokens 512 128
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.shell.launch import room_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

KIND, SCHEMA_VERSION = "token2metrics_model", 1
TIMES, ENERGIES = ("prefill_ms", "decode_ms"), ("prefill_energy_joule", "decode_energy_joule")
TOTALS = ("total_ms", "total_energy_joule")
TARGETS = (*TIMES, TOTALS[0], *ENERGIES, TOTALS[1])  # times first: the ramp of an energy needs them
PARTS = {TOTALS[0]: TIMES, TOTALS[1]: ENERGIES}
LEVELS = (0.5, 0.8, 0.9, 0.95)
BOUNDS = ("mean", "low", "high")
# Band edges at powers of two: attention kernels, batch and cache sizes change there.
EDGES = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 1 << 40)
PADS = (128, 1)  # tensor-core tiles and paged caches round the prompt up, mostly to 128
RAMPS_S = tuple((tau, prefill) for tau in (0.0, 0.25, 0.5, 1.0, 2.0) for prefill in (0.25, 1.0))
FOLDS, OUTLIER_ROUNDS = 12, 3
LENGTHS_MOST = 40
GROUPS_LEAST = 3
GROSS_FACTOR, GROSS_MADS = 1.5, 12.0  # an outlier is off by half, and far beyond the spread of the others
REGRESSIONS = ("analytic", "linear", "polynomial", "random_forest", "xgboost")
METHODS = ("shrunk", "two_parameter", "simple_scaling", "median_ratio", "through_origin")
FACTS = ("model", "board", "data", "energy_scope", "no_energy_reason", "simulated_power")


class FitError(Exception):
    """Something the user can put right: too few rows, a damaged model."""


# --- designs: token counts -> columns that the coefficients multiply ---


def band_tokens(low: Floats, high: Floats) -> Floats:
    """How many of the tokens low+1 .. high (n,) lie in each band (n, bands)."""
    import numpy as np

    edges = np.asarray(EDGES, float)
    inside = np.minimum(high[:, None], edges[None, 1:]) - np.maximum(low[:, None], edges[None, :-1])
    return np.asarray(np.clip(inside, 0, None))


def prefill_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Columns [constant, I^2/2, tokens per band] of requests x (n, 4): I, S, prefill s, decode s."""
    import numpy as np

    padded = options["pad"] * np.ceil(x[:, 0] / options["pad"])
    bands = band_tokens(np.zeros_like(padded), padded)
    return np.column_stack([np.ones_like(padded), padded**2 / 2, bands]), ["constant", "per_token_pair"]


def decode_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Columns [constant, sum of context lengths, steps per band], and the two of the power ramp if asked."""
    import numpy as np

    prompt, steps = x[:, 0], x[:, 1]
    columns = [np.ones_like(prompt), steps * prompt + steps * (steps + 1) / 2]
    names = ["constant", "per_context_token"]
    if "tau_s" in options:
        tau_s, prefill_tau_s = options["tau_s"], options["prefill_tau_s"]
        ramp = 1 - np.exp(-x[:, 3] / tau_s) if tau_s else np.ones_like(prompt)
        columns += [-ramp, -ramp * np.exp(-x[:, 2] / prefill_tau_s)]
        names += ["minus_ramp", "minus_ramp_after_short_prefill", "per_step_and_prompt_doubling"]
        columns.append(steps * np.log2(np.maximum(prompt, 1)))  # a long prefill leaves the board warmer
    return np.column_stack([*columns, band_tokens(prompt, prompt + steps)]), names


def total_design(x: Floats, options: Mapping[str, Any]) -> tuple[Floats, list[str]]:
    """Both phases at once, for totals that were not split: [.., tokens per band, steps per band]."""
    import numpy as np

    before, names = prefill_design(x, {"pad": options["pad"]})
    after, _ = decode_design(x, {})
    columns = [before[:, :2], after[:, 1:2], before[:, 2:], after[:, 2:]]
    return np.column_stack(columns), [*names, "per_context_token"]


DESIGNS: dict[str, Callable[[Any, Mapping[str, Any]], tuple[Any, list[str]]]] = {
    "prefill_ms": prefill_design,
    "prefill_energy_joule": prefill_design,
    "decode_ms": decode_design,
    "decode_energy_joule": decode_design,
    "total_ms": total_design,
    "total_energy_joule": total_design,
}


def design_options(target: str, lengths: Floats, hints: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The designs to choose from, the simplest first; an energy takes over the padding of its time."""
    if hints.get("options") is not None:
        return [dict(hints["options"])]
    if target.startswith("prefill"):
        # Padding that no measured length shows must not be believed.
        shown = [p for p in PADS if p == 1 or (lengths % p).any()]
        return [{"pad": p} for p in ([hints["pad"]] if hints.get("pad") else shown)]
    if target.startswith("total"):
        return [{"pad": 1}]
    if target == "decode_ms":
        return [{}]
    return [{"tau_s": tau, "prefill_tau_s": prefill} for tau, prefill in RAMPS_S]


# --- the analytic fit, whose least squares are solve_metrics.py's ---


def fit_analytic(
    target: str, x: Floats, y: Floats, fold: Ints, hints: Mapping[str, Any]
) -> tuple[dict[str, Any], Floats]:
    """Spec of the best design, and predictions (n,) of rows by fits that saw neither them nor their cell.

    hints: "pad" of the time whose energy this is; "base", predictions (n,) to lean on; its "options".
    """
    import numpy as np

    rows, place = np.unique(x, axis=0, return_inverse=True)
    first = np.array([int(np.argmax(place == one)) for one in range(len(rows))])
    designs, kinds = [], []
    leaning = [False] if hints.get("base") is None else [True, False]
    for lean in leaning:
        # Its base's ramp serves a fit of the runs alone as well; their padding may be another.
        own = {} if not lean and target == "prefill_ms" else hints
        for options in design_options(target, x[:, 0], own):
            columns, names = DESIGNS[target](rows, options)
            if lean:
                base = hints["base"][first]
                columns = np.column_stack([base, -tokens_of(target, rows), columns])
                names = ["base", "minus_per_token", *names]
            kinds.append({"options": options, "names": names})
            designs.append({"columns": columns.tolist(), "named": len(names), "free": 2 * lean})
    job = {"designs": designs, "place": place.reshape(-1).tolist(), "y": y.tolist(), "fold": fold.tolist()}
    job |= {
        "tokens": tokens_of(target, rows).tolist(),
        "length": rows[:, 0].tolist(),
        "bands": len(EDGES) - 1,
        "tolerant": len(leaning) == 1,
    }
    answer = ask_lasting("edgebench.forecasting.solve", job)
    spec = {"regressor": "analytic", "edges": list(EDGES), **kinds[answer.pop("design")]}
    held_out = np.asarray(answer.pop("held_out"), float)
    return {**spec, **answer}, held_out


def gross_outliers(predicted: Floats, y: Floats) -> NDArray[np.bool_]:
    """Rows off by a factor beyond GROSS_FACTOR and far outside the others' spread; none if they are many."""
    import numpy as np

    off = np.log(y / np.maximum(predicted, 1e-12))
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    gross = np.abs(off - np.median(off)) > max(math.log(GROSS_FACTOR), GROSS_MADS * spread)
    return np.asarray(gross if gross.sum() <= max(1, 0.05 * len(y)) else np.zeros(len(y), bool))


def tokens_of(target: str, x: Floats) -> Floats:
    """The tokens a phase works through (n,)."""
    if target.startswith("prefill"):
        return x[:, 0]
    return x[:, 1] if target.startswith("decode") else x[:, 0] + x[:, 1]


# --- prediction ---


def apply_trees(spec: Mapping[str, Any], x: Floats) -> Floats:
    """exp of the summed leaves of all trees (n,)."""
    import numpy as np

    logs, counts = np.full(len(x), float(spec["start"])), x[:, :2].astype(np.float32)
    for tree in spec["trees"]:
        left, right, feature, threshold, value = (
            np.asarray(tree[name]) for name in ("left", "right", "feature", "threshold", "value")
        )
        node: Any = np.zeros(len(x), int)
        for _ in range(len(left)):
            inner = left[node] >= 0
            if not inner.any():
                break
            goes_left = counts[np.arange(len(x)), np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        logs += spec["weight"] * value[node]
    return np.asarray(np.exp(logs))


def apply_spec(spec: Mapping[str, Any], x: Floats, target: str = "", base: Any = None) -> Floats:
    """Predictions (n,) of one target, never below zero."""
    import numpy as np

    if spec["regressor"] == "analytic":
        columns = DESIGNS[target](x, spec["options"])[0]
        if spec["names"][0] == "base":
            columns = np.column_stack([base[target], -tokens_of(target, x), columns])
        found = columns @ np.asarray(spec["coefficients"])
    elif spec["regressor"] == "polynomial":
        powers = np.asarray(spec["powers"])
        found = np.prod((x[:, None, :2] / 1000) ** powers[None], axis=2) @ np.asarray(spec["coefficients"])
    elif spec["regressor"] == "transfer":
        found = spec["ratio"] * base[target] + spec["per_token"] * tokens_of(target, x)
    else:
        found = apply_trees(spec, x)
    return np.asarray(np.maximum(found, 0.0))


def predict_parts(model: Mapping[str, Any], counts: Floats) -> dict[str, Floats]:
    """Quantity -> predictions (n,) for counts (n, 2) of prompt tokens and decode steps; totals are sums."""
    import numpy as np

    x = np.column_stack([counts, np.zeros((len(counts), 2))])
    base = predict_parts(model["base"], counts) if model.get("base") else None
    found: dict[str, Floats] = {}
    for target in TARGETS:
        spec = model["targets"].get(target)
        if spec is None:
            continue
        found[target] = apply_spec(spec, x, target, base)
        if target.startswith("decode"):
            found[target] = np.where(x[:, 1] > 0, found[target], 0.0)  # one output token: nothing is decoded
        if target in TIMES:
            x[:, 2 + TIMES.index(target)] = found[target] / 1000
    for total, (first, second) in PARTS.items():
        if total not in found and first in found and second in found:
            found[total] = found[first] + found[second]
    return {name: found[name] for name in TARGETS if name in found}


# --- training ---


def fit_model(samples: Mapping[str, Any], rows: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The model of some rows of a samples file, its intervals still to come from "held_out".

    settings: regression, base (model to transfer, or None), method of the transfer.
    """
    import numpy as np

    chosen = np.asarray(rows)
    counts, base = np.array(samples["counts"], float)[chosen], settings["base"]
    _, group = np.unique(np.array(samples["group"])[chosen], return_inverse=True)
    count = int(group.max()) + 1
    if base is None and count < GROUPS_LEAST:
        raise FitError(f"{samples['model']}: only {count} different lengths; measure at least {GROUPS_LEAST}")
    # Repeats of one cell are never in two folds.
    fold = np.random.default_rng(0).permutation(count)[group] % min(FOLDS, count)
    lengths = counts + np.array([0, 1])
    model: dict[str, Any] = {"kind": KIND, "schema_version": SCHEMA_VERSION, "base": base, "targets": {}}
    model |= {"regression": "transfer" if base else settings["regression"], "outliers": [], "intervals": {}}
    model["ranges"] = {"low": lengths.min(axis=0).tolist(), "high": lengths.max(axis=0).tolist()}
    if len(distinct := np.unique(counts[:, 0])) <= LENGTHS_MOST:
        model["ranges"]["lengths"] = distinct.tolist()
    held_out: dict[str, list[float | None]] = {}
    for target in [t for t in TARGETS if t in samples["targets"] and (base is None or t in base["targets"])]:
        measured = np.array(samples["measured"][target], float)[chosen]
        places = np.flatnonzero(np.isfinite(measured))
        if len(places) == 0 or (base is None and len(np.unique(group[places])) < GROUPS_LEAST):
            continue
        x = np.column_stack([counts[places], np.zeros((len(places), 2))])
        for column, time in enumerate(TIMES):
            if time in model["targets"]:
                x[:, 2 + column] = predict_parts(model, counts[places])[time] / 1000
        spec, predicted, kept = fit_target(target, x, measured[places], fold[places], model, settings)
        for place in chosen[places[~kept]].tolist():
            where = {"target": target, "row": place, "where": samples["where"][place]}
            model["outliers"].append({**where, "value": samples["measured"][target][place]})
        model["targets"][target] = {**spec, "rows": int(kept.sum())}
        values: list[float | None] = [None] * len(chosen)
        for place, value in zip(places[kept].tolist(), predicted.tolist(), strict=True):
            values[place] = value
        held_out[target] = values
    if not model["targets"]:
        raise FitError(
            f"{samples['model']}: no time and no energy was measured at {GROUPS_LEAST} lengths or more"
        )
    facts = {name: samples[name] for name in FACTS}
    hashes = sorted(samples["row_sha256"][place] for place in rows)
    return {
        **model,
        **facts,
        "rows": len(rows),
        "groups": count,
        "training_rows": hashes,
        "held_out": held_out,
    }


def fit_target(
    target: str, x: Floats, y: Floats, fold: Ints, model: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Floats, NDArray[np.bool_]]:
    """One target without its gross outliers: spec, held-out predictions of the kept rows, which were kept."""
    import numpy as np

    kept = np.ones(len(y), bool)
    base = predict_parts(model["base"], x[:, :2]) if model["base"] else None
    kind = settings["method"] if base else settings["regression"]
    if kind not in (REGRESSIONS[0], METHODS[0]):
        seen = x[:, :2] if base is None else np.column_stack([base[target], tokens_of(target, x)])
        job = {"regression": kind, "x": seen.tolist(), "y": y.tolist(), "fold": fold.tolist()}
        answer = ask_lasting("edgebench.forecasting.regressors", job)
        found = apply_spec(answer["spec"], x, target, base)
        # What the room hands over must predict here what it predicted there.
        if not np.allclose(found, np.maximum(answer["predicted"], 0), rtol=1e-3, atol=1e-9):
            raise FitError(
                f"{kind} hands over a model that predicts otherwise here; choose another --regression"
            )
        return answer["spec"], np.asarray(answer["held_out"], float), kept
    hints: dict[str, Any] = {"pad": model["targets"].get("prefill_ms", {}).get("options", {}).get("pad")}
    if base:
        hints["options"] = model["base"]["targets"][target].get("options")
    for _ in range(OUTLIER_ROUNDS):
        hints["base"] = base[target][kept] if base else None
        spec, held_out = fit_analytic(target, x[kept], y[kept], fold[kept], hints)
        gross = gross_outliers(apply_spec(spec, x, target, base), y)
        if not (gross & kept).any():
            break
        kept &= ~gross
    return spec, held_out, kept


# --- files ---


def read_model(path: Path) -> dict[str, Any]:
    """A model that check_model.py has found usable; FitError says what is wrong with another."""
    done = subprocess.run(
        [*room_command("edgebench.forecasting.model_file"), str(path)], capture_output=True, text=True
    )
    if done.returncode:
        raise FitError(done.stderr.strip().removeprefix("error: "))
    model: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return model


def read_samples(path: Path) -> dict[str, Any]:
    """A samples file of select_measurements.py."""
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise FitError(f"{path} is not JSON ({exc}); select_measurements.py makes samples files") from exc
    if not isinstance(samples, dict) or samples.get("kind") != "token2metrics_samples":
        raise FitError(f"{path} is no samples file; select_measurements.py makes one")
    return samples


@functools.cache
def lasting_room(script: str) -> subprocess.Popen[str]:
    """A script beside this one, started once: its libraries take seconds to import. It ends with our pipe."""
    command = room_command(script)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask_lasting(script: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """One line of JSON to a lasting room, one back. FitError with its reason."""
    room, line = lasting_room(script), ""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(job), file=room.stdin, flush=True)
        line = room.stdout.readline() if room.stdout else ""
    answer: dict[str, Any] = json.loads(line) if line else {"error": "ended without a word"}
    if "error" in answer:
        raise FitError(f"{script}, which must stand beside this script: {answer['error']}")
    return answer


def ask_room(script: str, asked: Any) -> Any:
    """JSON in, JSON out of a script beside this one."""
    command = room_command(script)
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise FitError(f"{script}, which must stand beside this script: {said[-1].removeprefix('error: ')}")
    return json.loads(done.stdout)


def with_intervals(
    samples: Mapping[str, Any], rows: Sequence[Sequence[int]], models: list[dict[str, Any]]
) -> None:
    """Give each model the intervals that its held-out rows allow."""
    jobs = [
        {"rows": [*chosen], "held_out": model.pop("held_out")}
        for chosen, model in zip(rows, models, strict=True)
    ]
    shared = {name: samples[name] for name in ("counts", "group", "measured")}
    for model, intervals in zip(
        models, ask_room("edgebench.forecasting.intervals", {**shared, "jobs": jobs}), strict=True
    ):
        model["intervals"] = intervals


def predict_all(
    models: Sequence[dict[str, Any]], counts: Sequence[Any], level: float
) -> list[dict[str, Any]]:
    """Per model: quantity -> {"mean", "low", "high"} lists, low and high null where there is no interval."""
    import numpy as np

    jobs = []
    for model, pairs in zip(models, counts, strict=True):
        means = predict_parts(model, np.array(pairs, float).reshape(-1, 2))
        between = {target: spec.get("between_lengths") for target, spec in model["targets"].items()}
        job = {"counts": pairs, "means": {name: values.tolist() for name, values in means.items()}}
        jobs.append({**job, "between": between, "intervals": model["intervals"], "ranges": model["ranges"]})
    answer: list[dict[str, Any]] = ask_room(
        "edgebench.forecasting.intervals", {"level": level, "bounds": jobs}
    )
    return answer


def write_text(path: Path, text: str) -> None:
    """Write the file whole: temp file, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temp.write_text(text, encoding="utf-8")
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


# --- commands ---


def read_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the fit is told: regression, base, method."""
    base = read_model(args.base) if args.base else None
    if base and base.get("base"):
        raise FitError(f"{args.base} is itself a transfer; give the model that was trained on the server")
    return {"regression": args.regression, "base": base, "method": args.method}


def run_fit(args: argparse.Namespace) -> None:
    """Fit all rows of a samples file."""
    samples = read_samples(args.samples)
    rows = list(range(len(samples["counts"])))
    model = fit_model(samples, rows, read_settings(args))
    with_intervals(samples, [rows], [model])
    write_text(args.out, json.dumps(model) + "\n")


def run_cross(args: argparse.Namespace) -> None:
    """Fit each split's training rows; one JSON line per split with predictions of its test rows."""
    samples, settings = read_samples(args.samples), read_settings(args)
    splits = json.loads(sys.stdin.read())
    models = [fit_model(samples, split["train"], settings) for split in splits]
    with_intervals(samples, [split["train"] for split in splits], models)
    counts = [[samples["counts"][row] for row in split["test"]] for split in splits]
    for split, model, found in zip(splits, models, predict_all(models, counts, args.level), strict=True):
        answer = {name: split[name] for name in split if name != "train"}
        print(json.dumps({**answer, "outliers": model["outliers"], "predicted": found}))


def run_predict(args: argparse.Namespace) -> None:
    """One JSON line per request: a pair of --tokens, or a line [input, output] of stdin."""
    model = read_model(args.model)
    pairs = [args.tokens] if args.tokens else [json.loads(line) for line in sys.stdin if line.strip()]
    if not all(len(pair) == 2 and all(type(v) is int and v >= 1 for v in pair) for pair in pairs):
        raise FitError("token counts are whole numbers of at least 1; check --tokens")
    (found,) = predict_all([model], [[[prompt, output - 1] for prompt, output in pairs]], args.level)
    for place, pair in enumerate(pairs):
        row: dict[str, Any] = {"input_tokens": pair[0], "output_tokens": pair[1], "level": args.level}
        row |= {
            name: {bound: values[bound] and values[bound][place] for bound in BOUNDS}
            for name, values in found.items()
        }
        limits = zip(
            ("input_tokens", "output_tokens"), pair, *map(model["ranges"].get, ("low", "high")), strict=True
        )
        beyond = [name for name, value, low, high in limits if not low <= value <= high]
        # A quantity may have been measured at fewer lengths than others: short windows have no energy.
        own = [
            name for name, values in found.items() if values.get("beyond") and values["beyond"][place] > 1e-9
        ]
        row["extrapolated"] = beyond or own
        print(json.dumps(row))


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, help_ in (
        ("fit", run_fit, "samples to a model"),
        ("cross", run_cross, "many splits, from stdin"),
    ):
        sub = commands.add_parser(name, help=help_)
        sub.add_argument(
            "--samples", type=Path, required=True, metavar="JSON", help="of select_measurements.py"
        )
        sub.add_argument("--regression", choices=REGRESSIONS, default="analytic", help="(default: analytic)")
        sub.add_argument(
            "--base", type=Path, metavar="MODEL.json", help="transfer this model of another machine"
        )
        sub.add_argument(
            "--method", choices=METHODS, default=METHODS[0], help=f"of the transfer ({METHODS[0]})"
        )
        sub.set_defaults(run=run)
    commands.choices["fit"].add_argument("--out", type=Path, required=True, metavar="JSON", help="the model")
    sub = commands.add_parser("predict", help="a model and token counts to predictions")
    sub.add_argument("model", type=Path, metavar="MODEL.json", help="of fit")
    sub.add_argument(
        "--tokens", type=int, nargs=2, metavar=("IN", "OUT"), help="(default: JSON pairs on stdin)"
    )
    sub.set_defaults(run=run_predict)
    for name in ("cross", "predict"):
        commands.choices[name].add_argument(
            "--level", type=float, choices=LEVELS, default=0.9, help="of intervals"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (FitError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
