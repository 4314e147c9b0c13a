"""Prompt or answer: which of the two does the extra energy and latency of a level pay for?

A longer prompt costs twice: it has to be read, and it often draws a longer answer. Per model on its board
the script fits, by least squares over all runs,

    cost = per_run + per_prompt_token * prompt_tokens + per_output_token * completion_tokens

and splits the difference of each level against the baseline (within tasks) into per_prompt_token * extra
prompt tokens, per_output_token * extra output tokens, and the rest that tokens do not explain. Runs of one
task share its words, so standard errors and intervals come from leaving out one task at a time (jackknife).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.analysis.selection import Measured
from edgebench.stats.intervals import Interval, jackknife_interval

Floats = NDArray[np.float64]

METRICS = {"energy_joule": "J", "latency_ms": "ms"}
# What the engine and the power trace themselves put on the prompt and on the answer, to hold the fit against.
PHASES = {
    "energy_joule": ("energy_prefill_joule", "energy_decode_joule"),
    "latency_ms": ("ttft_ms", "decode_ms"),
}
COEFFICIENTS = ("per_run", "per_prompt_token", "per_output_token")
TOKENS = ("prompt_tokens", "completion_tokens")
ENTANGLED = 0.98  # correlation of prompt and output tokens beyond which no regression can tell them apart


@dataclass(frozen=True)
class CostFit:
    """cost = X c by least squares. Columns that do not vary are left out: their coefficient is None."""

    coefficients: tuple[float | None, ...]  # COEFFICIENTS
    se: tuple[float | None, ...]  # jackknife over tasks
    se_ols: tuple[float | None, ...]  # classical, for independent errors of one size
    left_out: (
        Floats | None
    )  # coefficients without each task in turn (tasks, COEFFICIENTS), 0 where not fitted
    r_squared: float | None
    residual_std: float | None


# --- the fit ---


def varying(tokens: Floats) -> list[int]:
    """Which coefficients can be fitted: the constant, and each token count that is not the same in all
    runs.
    """
    return [0] + [column + 1 for column in range(tokens.shape[1]) if len(set(tokens[:, column])) > 1]


def fit_cost(tokens: Floats, cost: Floats, task: NDArray[np.int64]) -> CostFit | None:
    """Least squares of cost (n,) on a constant and tokens (n, 2); task (n,) numbers the tasks. None: too few
    runs.

    Standard errors: delete-one-task jackknife, se^2 = (G - 1) / G sum_g (c_-g - mean c_-g)^2 (Cameron,
    Gelbach & Miller 2008, CV3), which holds with errors that differ in size or go together within a task.
    """
    free = varying(tokens)
    design = np.column_stack([np.ones(len(cost)), tokens])[:, free]
    if len(cost) <= len(free):
        return None
    solved, _, rank, _ = np.linalg.lstsq(design, cost, rcond=None)
    if rank < len(free):
        return None
    residual = cost - design @ solved
    variance = float(residual @ residual) / (len(cost) - len(free))
    se_ols = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    total = float(((cost - cost.mean()) ** 2).sum())
    se, without = None, None
    groups = int(task.max()) + 1
    left_out = leave_one_task_out(design, cost, task)
    if left_out is not None:
        se = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
        without = np.zeros((groups, len(COEFFICIENTS)))
        without[:, free] = left_out

    def spread(values: Any) -> tuple[float | None, ...]:
        by_place = {} if values is None else dict(zip(free, values.tolist(), strict=True))
        return tuple(by_place.get(place) for place in range(len(COEFFICIENTS)))

    r_squared = 1 - float(residual @ residual) / total if total > 0 else None
    return CostFit(spread(solved), spread(se), spread(se_ols), without, r_squared, variance**0.5)


def task_sums(design: Floats, cost: Floats, task: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """X'X (tasks, k, k) and X'y (tasks, k) of each task's runs."""
    tasks, width = int(task.max()) + 1, design.shape[1]
    squares, products = np.zeros((tasks, width, width)), np.zeros((tasks, width))
    np.add.at(squares, task, design[:, :, None] * design[:, None, :])
    np.add.at(products, task, design * cost[:, None])
    return squares, products


def solve_each(squares: Floats, products: Floats) -> Floats | None:
    """Coefficients of many normal equations (m, k, k), (m, k); None if one has no single solution."""
    # Columns of 1 and of thousands of tokens: scaled to one size, X'X keeps its precision.
    scale = np.sqrt(np.einsum("mkk->mk", squares).mean(axis=0))
    scaled = squares / scale[:, None] / scale
    # Of a scaled 3 x 3 matrix the determinant is as good a warning as the condition number, and quicker.
    if not (np.abs(np.linalg.det(scaled)) > 1e-12).all():
        return None
    return np.asarray(np.linalg.solve(scaled, (products / scale)[:, :, None])[:, :, 0] / scale)


def leave_one_task_out(design: Floats, cost: Floats, task: NDArray[np.int64]) -> Floats | None:
    """Coefficients without each task in turn (tasks, k); None if a task cannot be done without."""
    squares, products = task_sums(design, cost, task)
    if len(squares) < 2:
        return None
    return solve_each(squares.sum(axis=0) - squares, products.sum(axis=0) - products)


# --- rows ---


def split_row(runs: Sequence[Measured], metric: str) -> tuple[dict[str, Any], CostFit | None]:
    """The fit of one model as a row of cost_split; runs that have the metric and both token counts."""
    tasks = sorted({run.id for run in runs})
    row: dict[str, Any] = {"metric": metric, "unit": METRICS[metric], "n_runs": len(runs), "reason": None}
    row |= {"n_tasks": len(tasks), "r_squared": None, "residual_std": None}
    row |= {"regressor_correlation": None}
    nothing = {"estimate": None, "se": None, "se_ols": None, "ci95": None}
    if not runs:
        reason = f"no run has {metric} and both token counts"
        row["coefficients"] = {name: {**nothing, "reason": reason} for name in COEFFICIENTS}
        return row | {"reason": reason}, None
    tokens = np.array([[run.value(name) for name in TOKENS] for run in runs], dtype=float)
    cost = np.array([run.value(metric) for run in runs], dtype=float)
    place_of = {task: place for place, task in enumerate(tasks)}
    fit = fit_cost(tokens, cost, np.array([place_of[run.id] for run in runs]))
    if len(varying(tokens)) == 3:
        row["regressor_correlation"] = float(np.corrcoef(tokens.T)[0, 1])
    if fit is None:
        reason = "prompt and output tokens do not vary apart from each other, or there are too few runs"
        row["coefficients"] = {name: {**nothing, "reason": reason} for name in COEFFICIENTS}
        return row | {"reason": reason}, None
    row["coefficients"] = {}
    for place, name in enumerate(COEFFICIENTS):
        estimate = fit.coefficients[place]
        values = {"estimate": estimate, "se": fit.se[place], "se_ols": fit.se_ols[place]}
        if estimate is None:
            interval = Interval(reason=f"{TOKENS[place - 1]} is the same in all runs")
        elif fit.left_out is None:
            interval = Interval(reason="no interval: one task only, or one the fit cannot do without")
        else:
            interval = jackknife_interval(estimate, fit.left_out[:, place].tolist())
        row["coefficients"][name] = {**values, "ci95": interval.edges, "reason": interval.reason}
    if abs(row["regressor_correlation"] or 0) > ENTANGLED:
        row["reason"] = "prompt and output tokens rise together: their costs can hardly be told apart"
    return row | {"r_squared": fit.r_squared, "residual_std": fit.residual_std}, fit


Extra = dict[str, dict[str, float]]  # of each name by task: level minus baseline; tasks that lack it left out


def paired_extra(runs: Sequence[Measured], level: str, against: str, names: Sequence[str]) -> Extra:
    """Level minus baseline of each name within the tasks that have both: over the turns, of cell means."""
    found: Extra = {}
    for name in names:
        cells: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            number = run.value(name)
            if run.level in (level, against) and number is not None:
                cells[run.id, run.turn][run.level].append(number)
        turns: dict[str, list[float]] = defaultdict(list)
        for (task, _), at in cells.items():
            if len(at) == 2:
                turns[task].append(mean(at[level]) - mean(at[against]))
        found[name] = {task: mean(gaps) for task, gaps in turns.items()}
    return found


def mean(values: Iterable[float]) -> float:
    """Of at least one value."""
    known = list(values)
    return sum(known) / len(known)


def part_row(extra: Extra, metric: str, fit: CostFit, level: str, against: str) -> dict[str, Any]:
    """One level's extra cost in its parts; extra: differences by task from `paired_extra`."""
    row: dict[str, Any] = {"level": level, "against": against, "metric": metric, "unit": METRICS[metric]}
    known = sorted(extra[metric].keys() & extra[TOKENS[0]].keys() & extra[TOKENS[1]].keys())
    names = ("extra", "prompt_part", "answer_part", "unexplained", "prompt_share", "answer_share")
    row |= dict.fromkeys((*names, "prompt_part_ci95", "answer_part_ci95", "prompt_share_ci95"))
    row |= {f"{name}_extra": None for name in ("prompt_tokens", "output_tokens")}
    row |= {f"measured_{name}_extra": None for name in ("prefill", "decode")} | {"sentence": None}
    if not known:
        return row | {"n_tasks": 0, "reason": f"no task was run at {level} and at {against}"}
    cost, prompt, output = (mean(extra[name][task] for task in known) for name in (metric, *TOKENS))
    row |= {"n_tasks": len(known), "extra": cost, "reason": None}
    row |= {"prompt_tokens_extra": prompt, "output_tokens_extra": output}
    for name, phase in zip(("prefill", "decode"), PHASES[metric], strict=True):
        row[f"measured_{name}_extra"] = mean(extra[phase].values()) if extra[phase] else None
    rates = [0.0 if c is None else c for c in fit.coefficients]
    row["prompt_part"], row["answer_part"] = rates[1] * prompt, rates[2] * output
    row["unexplained"] = cost - row["prompt_part"] - row["answer_part"]
    total = row["prompt_part"] + row["answer_part"]
    if row["prompt_part"] * row["answer_part"] >= 0 and total != 0:
        row |= {"prompt_share": row["prompt_part"] / total, "answer_share": row["answer_part"] / total}
    else:
        row["reason"] = "the two parts have opposite signs, so there are no shares"
    return row | {"sentence": sentence(row)}


def parts_without_each(
    tasks: Sequence[str], metric: str, extra: Extra, left_out: Floats
) -> list[tuple[float, float]]:
    """Prompt part and answer part of one level without each task in turn, the model fitted without it, too.

    left_out: of each of the tasks. [] where one task alone has both levels.
    """
    # A task that lacks one of the two levels still helps the fit, and has no difference.
    wanted = [extra[name] for name in (metric, *TOKENS)]
    has = np.array([all(task in of_task for of_task in wanted) for task in tasks], dtype=float)
    if has.sum() < 2:
        return []
    pairs = zip(tasks, has, strict=True)
    known = np.array([[extra[name][task] if both else 0.0 for name in TOKENS] for task, both in pairs])
    means = (known.sum(axis=0) - known) / (has.sum() - has)[:, None]
    return [(float(prompt), float(answer)) for prompt, answer in left_out[:, 1:] * means]


def part_intervals(row: Mapping[str, Any], left_out: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """95 % intervals of the parts and of the prompt's share, from the parts without each task."""
    found: dict[str, Any] = {"prompt_share_ci95": None}
    for place, name in enumerate(("prompt_part", "answer_part")):
        interval = jackknife_interval(row[name], [parts[place] for parts in left_out])
        found[f"{name}_ci95"] = interval.edges
        found["ci95_reason"] = interval.reason
    totals = [sum(parts) for parts in left_out]
    if row["prompt_share"] is not None and (min(totals) > 0 or max(totals) < 0):
        shares = [parts[0] / total for parts, total in zip(left_out, totals, strict=True)]
        interval = jackknife_interval(row["prompt_share"], shares)
        found["prompt_share_ci95"] = interval.edges and [min(max(edge, 0.0), 1.0) for edge in interval.edges]
    return found


def part_rows(
    runs: Sequence[Measured], metric: str, fit: CostFit, draft: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The parts of every level that was run, with their intervals."""
    ran, base = {run.level for run in runs}, draft["settings"]["baseline"]
    tasks = sorted({run.id for run in runs})
    names = [metric, *TOKENS, *PHASES[metric]]
    rows = []
    for level in (level for level in draft["levels"] if level in ran and level != base):
        extra = paired_extra(runs, level, base, names)
        row = part_row(extra, metric, fit, level, base)
        left_out = [] if fit.left_out is None else parts_without_each(tasks, metric, extra, fit.left_out)
        if left_out:
            row |= part_intervals(row, left_out)
        else:
            row["ci95_reason"] = "no interval: one task only, or one the fit cannot do without"
        rows.append(row)
    return rows


def sentence(row: Mapping[str, Any]) -> str:
    """The split in words: "of the extra 3.1 J at L3, 22 % is prompt, 78 % is longer answer"."""

    def amount(value: float) -> str:
        scale, unit = (1000, "s") if row["unit"] == "ms" else (1, row["unit"])
        return f"{abs(value) / scale:.3g} {unit}"

    answer = "longer answer" if row["output_tokens_extra"] > 0 else "shorter answer"
    parts = {"prompt": row["prompt_part"], answer: row["answer_part"]}
    largest = max(abs(part) for part in parts.values())
    # What rounds to nothing beside the other part is not worth a word.
    parts = {name: part for name, part in parts.items() if abs(part) > 0.005 * largest}
    which = "of the extra" if row["extra"] > 0 else "of the saved"
    which = f"{which} {amount(row['extra'])} at {row['level']}"
    if not parts or abs(row["extra"]) < 1e-9:
        return f"at {row['level']}: neither the prompt nor the answer costs more"
    if len(parts) == 1:
        text = f"{which}, all is {next(iter(parts))}"
    elif row["prompt_share"] is None:
        words = [
            f"{amount(part)} {'more' if part > 0 else 'less'} for the {name}" for name, part in parts.items()
        ]
        text = f"at {row['level']}: {' and '.join(words)}"
    else:
        shares = zip(parts, (row["prompt_share"], row["answer_share"]), strict=True)
        text = f"{which}, {', '.join(f'{100 * share:.0f} % is {name}' for name, share in shares)}"
    if abs(row["unexplained"]) > 0.1 * abs(row["extra"]):
        more = "more" if row["unexplained"] > 0 else "less"
        text += f" ({amount(row['unexplained'])} {more} than tokens explain)"
    return text


def split(runs_of_models: Sequence[Sequence[Measured]], draft: Mapping[str, Any]) -> dict[str, Any]:
    """cost_split and cost_parts of every model on its board; the runs stand in the order of the models."""
    fits: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for all_runs, model in zip(runs_of_models, draft["models"], strict=True):
        identity = {name: model[name] for name in ("board", "power_scope", "model_id")}
        for metric in METRICS:
            runs = [run for run in all_runs if None not in map(run.value, (metric, *TOKENS))]
            row, fit = split_row(runs, metric)
            fits.append(identity | row)
            if fit:
                parts += [identity | part for part in part_rows(runs, metric, fit, draft)]
    return {"cost_split": fits, "cost_parts": parts}
