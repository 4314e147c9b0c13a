"""What the longer prompt bought and what it cost: means, differences within tasks, trends, drift, spread.

Levels are compared within the same task: differences are taken task by task, intervals come from resampling
tasks (never rows), and p values are adjusted over the family of tests. What cannot be known is null with a
reason. The other rooms of this wing do their part: selection (which runs count), split (prompt against
answer), judge_trust and judgments (the judge), value (quality against cost). Units: ms, J, tokens, shares
from 0 to 1.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edgebench.analysis import judge_trust, judgments, split, value
from edgebench.analysis.campaign import Request
from edgebench.analysis.selection import Measured, Selection, select
from edgebench.errors import UserError
from edgebench.records.run import campaign_seconds
from edgebench.stats.drift import Drift, cells_of_rates, drift_of
from edgebench.stats.intervals import (
    FEWEST_FOR_P95,
    GRADED_METHOD,
    METHODS,
    mean_interval,
    mean_std,
    quantile,
    ratio_interval,
)
from edgebench.stats.significance import holm, sign_test, signed_rank_test

Floats = NDArray[np.float64]

UNITS = {
    "energy_joule": "J",
    "latency_ms": "ms",
    "completion_tokens": "tokens",
    "prompt_tokens": "tokens",
    "ttft_ms": "ms",
    "tpot_ms": "ms",
}
RATES = ("decode_tok_per_s", "tpot_ms")
DRIFT_METRICS = ("latency_ms", "energy_joule", *RATES)
# Up to so many tasks scipy's own p is exact, equal differences or not, but found by trying: a second for ten.
MOST_TRIED_BY_SCIPY = 13
NOISY_CV = 0.10  # pyperf's limit for an unstable benchmark: std at 10 % of the mean


class LevelsError(UserError):
    """Something the user can put right: a missing file, an unknown level, runs that must not be mixed."""


@dataclass
class Settings:
    """What is analyzed and how; baseline and placebo may be left to the data."""

    runs: Sequence[str] = ()  # files, .gz files, globs
    scores: Path | None = None
    journal: Path | None = None  # default: beside the scores, if there
    env: Sequence[Path] = ()
    baseline: str | None = None
    placebo: str | None = None
    margin: float = 0.05  # win rate one is ready to lose
    seed: int = 0
    resamples: int = 10_000
    include_flagged: bool = False
    allow_mixed: bool = False


@dataclass(frozen=True)
class Group:
    """The runs of one model on one board."""

    identity: Mapping[str, Any]  # board, power_scope, model_id
    runs: Sequence[Measured]

    def cells(self, metric: str) -> dict[tuple[str, str, str], list[float]]:
        """What repeats of one prompt measured, by (task, turn, level), sorted; only runs that have it."""
        found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for run in self.runs:
            value = run.value(metric)
            if value is not None:
                found[run.cell].append(value)
        return {cell: found[cell] for cell in sorted(found)}


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def by_task(cells: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Means over the turns of each task, from values by (task, turn)."""
    turns: dict[str, list[float]] = defaultdict(list)
    for (task, _), number in cells.items():
        turns[task].append(number)
    return {task: mean(values) for task, values in turns.items()}


# --- pure statistics ---


def level_mean(
    task_means: Sequence[float], runs: Sequence[float], pooled_std: float | None
) -> dict[str, Any]:
    """Mean over task means (each task counts once), with its 95 % interval over tasks.

    std: over runs (n - 1); std_tasks: over task means; std_within: between repeats of one cell, pooled. p50
    and p95: of the runs.
    """
    mean, std_tasks = mean_std(task_means)
    interval = mean_interval(task_means)
    row: dict[str, Any] = {"n_runs": len(runs), "n_tasks": len(task_means), "mean": mean}
    row |= {"std": mean_std(runs)[1], "std_tasks": std_tasks, "std_within": pooled_std}
    row |= {"ci95": interval.edges, "reason": interval.reason}
    return row | run_quantiles(runs)


def run_quantiles(runs: Sequence[float]) -> dict[str, Any]:
    """Median and 95th percentile of single runs; of few runs the latter would be the slowest one's luck."""
    row: dict[str, Any] = {"p50": quantile(runs, 0.5) if runs else None, "p95": None, "p95_reason": None}
    if len(runs) < FEWEST_FOR_P95:
        row["p95_reason"] = f"a 95th percentile needs {FEWEST_FOR_P95} runs, there are {len(runs)}"
        return row
    return row | {"p95": quantile(runs, 0.95)}


def paired_difference(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Differences within tasks: their mean with its interval, Wilcoxon's signed-rank and the exact sign test.

    values, base: means of the same tasks at two levels. percent: of the mean of `base`.
    """
    difference = [value - below for value, below in zip(values, base, strict=True)]
    interval = mean_interval(difference)
    row: dict[str, Any] = {"n_tasks": len(difference), "mean_difference": mean_std(difference)[0]}
    row |= {"ci95": interval.edges, "reason": interval.reason}
    row |= dict.fromkeys(("percent", "percent_ci95", "percent_reason", "wilcoxon_p", "sign_p"))
    # Net energy can come out at or below zero, or too near it to say: no percentage of that.
    if min(base, default=0) > 0:
        row["percent"] = 100 * (sum(values) / sum(base) - 1)
        ratio = ratio_interval(values, base)
        row["percent_ci95"] = ratio.edges and [100 * (edge - 1) for edge in ratio.edges]
        row["percent_reason"] = ratio.reason
    else:
        row["percent_reason"] = "a task's mean at the level compared with is not above zero"
    if len(difference) < 2:
        return row | {"reason": "one task only: no interval, no test"}
    if not any(difference):
        return row | {"reason": "every task has the same value at both levels: no interval, no test"}
    few = len(difference) <= MOST_TRIED_BY_SCIPY
    row["wilcoxon_p"] = signed_rank_test(difference) if few else float(stats.wilcoxon(difference).pvalue)
    row["sign_p"] = sign_test(sum(one > 0 for one in difference), sum(one < 0 for one in difference))
    return row


def page_trend(table: Floats) -> dict[str, Any]:
    """Page's L for an increase over ordered levels, from (tasks, levels), and Spearman's rho of rank against
    value.

    Source: Page (1963); one-sided p. rho is pooled over tasks after the task mean is taken off.
    """
    row: dict[str, Any] = {"n_tasks": len(table), "page_l": None, "p": None, "spearman": None, "reason": None}
    if table.shape[1] < 3 or len(table) < 2:
        return row | {"reason": "a trend needs three levels and two tasks"}
    if (table == table[:, :1]).all():
        return row | {"reason": "every task has the same value at all levels"}
    trend = stats.page_trend_test(table)
    centred = table - table.mean(axis=1, keepdims=True)
    rank = np.broadcast_to(np.arange(table.shape[1]), table.shape)
    rho = stats.spearmanr(rank.ravel(), centred.ravel()).statistic
    return row | {"page_l": float(trend.statistic), "p": float(trend.pvalue), "spearman": float(rho)}


# --- tables, one row per board, model, level and metric ---


def grouped(selection: Selection) -> list[Group]:
    """The runs by board and model."""
    names = ("board", "power_scope", "model_id")
    return [
        Group({name: model[name] for name in names}, runs)
        for model, runs in zip(selection.facts["models"], selection.runs, strict=True)
    ]


def ordered_levels(groups: Sequence[Group], judged: Iterable[str], placebo: str | None) -> list[str]:
    """Levels by their mean prompt length within tasks; levels known from the scores alone follow by name."""
    tokens: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for run in group.runs:
            of_task = tokens[run.level][run.id]
            if run.prompt_tokens is not None:
                of_task.append(run.prompt_tokens)

    def place(level: str) -> tuple[Any, ...]:
        of_tasks = [mean(values) for values in tokens.get(level, {}).values() if values]
        natural = [
            (part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", level)
        ]
        return (not of_tasks, mean(of_tasks) if of_tasks else 0.0, level == placebo, natural)

    return sorted({*tokens, *judged}, key=place)


def level_mean_rows(groups: Sequence[Group], levels: Sequence[str]) -> list[dict[str, Any]]:
    """Every metric of every level; a metric nobody measured is a row of nulls with a reason."""
    rows = []
    for group, (metric, unit) in itertools.product(groups, UNITS.items()):
        cells = group.cells(metric)
        for level in levels:
            own = {(task, turn): values for (task, turn, at), values in cells.items() if at == level}
            tasks = list(by_task({place: mean(values) for place, values in own.items()}).values())
            runs = [value for values in own.values() for value in values]
            found = level_mean(tasks, runs, pooled_std(list(own.values())))
            if not tasks:
                found["reason"] = found["p95_reason"] = f"no {metric} was measured at this level"
            rows.append({**group.identity, "level": level, "metric": metric, "unit": unit, **found})
    return rows


def pooled_std(cells: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation between the repeats of a cell, over all cells that have repeats."""
    freedom = sum(len(values) - 1 for values in cells)
    if not freedom:
        return None
    return math.sqrt(sum((value - mean(values)) ** 2 for values in cells for value in values) / freedom)


def paired_rows(groups: Sequence[Group], settings: Settings, levels: Sequence[str]) -> list[dict[str, Any]]:
    """Every level against the baseline and against the placebo, within tasks; Holm over models and levels."""
    rows = []
    for against in dict.fromkeys(level for level in (settings.baseline, settings.placebo) if level):
        others = [level for level in levels if level != against]
        for metric, unit in UNITS.items():
            family = []
            for group in groups:
                at_level: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
                for (task, turn, level), values in group.cells(metric).items():
                    at_level[level][task, turn] = mean(values)
                base_cells = at_level[against]
                for level in others:
                    own = {place: value for place, value in at_level[level].items() if place in base_cells}
                    base = by_task({place: base_cells[place] for place in own})
                    row = {**group.identity, "level": level, "against": against, "metric": metric}
                    row |= {
                        "unit": unit,
                        **paired_difference(list(by_task(own).values()), list(base.values())),
                    }
                    if not own:
                        row["reason"] = row["percent_reason"] = f"no task has {metric} at both levels"
                    family.append(row)
            rows += add_holm(family, "wilcoxon_p", f"{metric} against {against}, all models and levels")
    return rows


def add_holm(family: Sequence[dict[str, Any]], p_name: str, name: str) -> list[dict[str, Any]]:
    """The rows with the adjusted p and what it is adjusted over."""
    adjusted = holm([row[p_name] for row in family])
    tests = sum(p is not None for p in adjusted)
    return [
        row | {"p_holm": p, "holm_family": name, "holm_tests": tests}
        for row, p in zip(family, adjusted, strict=True)
    ]


def trend_rows(groups: Sequence[Group], levels: Sequence[str]) -> list[dict[str, Any]]:
    """Page's trend test of each metric over the ordered levels, in the tasks that have all of them."""
    rows = []
    for group, metric in itertools.product(groups, UNITS):
        at_level: dict[str, dict[tuple[str, str], float]] = {level: {} for level in levels}
        for (task, turn, level), values in group.cells(metric).items():
            if level in at_level:
                at_level[level][task, turn] = mean(values)
        of_tasks = [by_task(cells) for cells in at_level.values()]
        tasks = sorted(set.intersection(*map(set, of_tasks))) if of_tasks else []
        table = np.array([[of_task[task] for of_task in of_tasks] for task in tasks], dtype=float)
        identity = {**group.identity, "judge_model": None, "metric": metric, "levels": list(levels)}
        rows.append(identity | page_trend(table.reshape(len(tasks), len(levels))))
    return rows


def quality_trend(by_task: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> list[dict[str, Any]]:
    """The same test on the judge's scores by task, level by level against one level."""
    rows = []
    for own in by_task:
        judged = [level for level in levels if level in own["scores"]]
        tasks = sorted(set.intersection(*(set(own["scores"][level]) for level in judged))) if judged else []
        scores = np.array([[own["scores"][level][task] for level in judged] for task in tasks])
        row = {
            "board": None,
            "power_scope": None,
            "model_id": own["model_id"],
            "judge_model": own["judge_model"],
        }
        row |= {"metric": "quality", "levels": judged}
        rows.append(row | page_trend(scores.reshape(len(tasks), len(judged))))
    return rows


def drift_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Drift over the campaign of latency, energy, decode rate and time per token."""
    rows = []
    for group in groups:
        stamps_s, latencies_ms = [run.t_s for run in group.runs], [run.latency_ms for run in group.runs]
        times_s = campaign_seconds(stamps_s, latencies_ms)
        for metric in DRIFT_METRICS:
            known = [
                (time_s, value, run)
                for time_s, run in zip(times_s, group.runs, strict=True)
                if time_s is not None and (value := run.value(metric)) is not None
            ]
            cells: list[Hashable] = [run.cell for _, _, run in known]
            if metric in RATES:
                cells = cells_of_rates(cells, [run.level for _, _, run in known])
            found = drift_of([time_s for time_s, _, _ in known], [value for _, value, _ in known], cells)
            rows.append({**group.identity, "metric": metric, **drift_row(found)})
    return rows


def drift_row(drift: Drift) -> dict[str, Any]:
    """What analysis.json says of one metric's drift."""
    return {
        "n_runs": drift.n_runs,
        "hours": None if drift.span_s is None else drift.span_s / 3600,
        "change_percent": drift.change_percent,
        "change_ci95": drift.ci95_percent and list(drift.ci95_percent),
        "slope_percent_per_hour": drift.percent_per_hour,
        "ci95": drift.ci95_percent_per_hour,
        "p": drift.p,
        "notable": drift.is_notable,
        "reason": drift.reason if drift.n_runs else "drift needs repeats with t0_s",
    }


def variation_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """How far repeats of one cell differ: cells whose std is 10 % of the mean or more are noisy."""
    rows = []
    for group, metric in itertools.product(groups, UNITS):
        cv: dict[tuple[str, str, str], float] = {}
        for cell, values in group.cells(metric).items():
            middle, std = mean_std(values)
            if std is not None and middle:
                cv[cell] = std / abs(middle)
        row: dict[str, Any] = {**group.identity, "metric": metric, "cells": len(cv)}
        row |= {"cells_noisy": sum(one >= NOISY_CV for one in cv.values())}
        row |= {"cv_median": None, "cv_max": None, "worst": None, "reason": "no task and level was repeated"}
        if cv:
            task, _, level = max(cv, key=lambda cell: cv[cell])
            row |= {"cv_median": quantile(list(cv.values()), 0.5), "cv_max": max(cv.values())}
            row |= {"worst": {"id": task, "level": level}, "reason": None}
        rows.append(row)
    return rows


# --- files and processes ---


def plain(value: Any) -> Any:
    """For strict JSON: numpy numbers as Python's, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(analysis: Mapping[str, Any]) -> bytes:
    """The file's content, keys sorted, so that the same input gives the same bytes."""
    text = json.dumps(plain(analysis), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    # A lone surrogate in a name cannot be UTF-8; backslashreplace writes it as JSON's own \\u escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_runs(settings: Settings) -> Selection:
    """The runs that count; an empty selection without runs."""
    if settings.runs:
        request = Request(settings.runs, settings.env, allow_mixed=settings.allow_mixed)
        return select(request, settings.include_flagged)
    empty: dict[str, Any] = {"counts": {"records": 0, "used": 0}}
    lists = ("inputs", "mixed", "remarks", "flags", "left_out", "models")
    return Selection(facts=empty | {name: [] for name in lists})


def read_judge(settings: Settings, selection: Selection) -> dict[str, Any]:
    """What the check of the judge found, {} without scores."""
    if settings.scores is None:
        return {}
    return judge_trust.check_files(settings.scores, settings.journal, selection.answer_chars)


# --- the analysis ---


def resolve_references(settings: Settings, levels: Sequence[str]) -> None:
    """Fill in baseline and placebo: as told, else L0 and P where they exist, else the shortest level and
    none.
    """
    for name in ("baseline", "placebo"):
        level = getattr(settings, name)
        if level is not None and level not in levels:
            raise LevelsError(f"no level {level} in the data; --{name} can be one of {', '.join(levels)}")
    if settings.placebo is None and "P" in levels and settings.baseline != "P" and len(levels) > 1:
        settings.placebo = "P"
    if settings.baseline is None:
        settings.baseline = (
            "L0" if "L0" in levels else next(level for level in levels if level != settings.placebo)
        )


def judgment_tables(settings: Settings, judge: Mapping[str, Any]) -> dict[str, Any]:
    """Win rates and strengths, the sign tests adjusted over their family."""
    names = (
        "win_rates",
        "bradley_terry",
        "bradley_terry_fits",
        "position_bias",
        "length_effect",
        "judge_noise",
    )
    tables: dict[str, Any] = {name: judge.get(name, []) for name in names}
    tables |= {"judge_counts": {}, "undecided_judges": []}
    if any(pair.preference for pair in judge.get("graded", ())):
        tables["graded_leans"] = judgments.graded_leans(judge["graded"])
    if not judge:
        return tables
    judged = judgments.analyze(judge, settings.placebo or settings.baseline)
    tables |= {name: judged[name] for name in names[:3]} | {"judge_counts": judge["judge_counts"]}
    references = (settings.baseline, settings.placebo)
    rest = [row for row in tables["win_rates"] if row["against"] not in references]
    tables["win_rates"] = [row | {"p_holm": None, "holm_family": None, "holm_tests": None} for row in rest]
    for against in dict.fromkeys(references):
        family = [row for row in judged["win_rates"] if row["against"] == against]
        tables["win_rates"] += add_holm(
            family, "sign_p", f"win rate against {against}, all models and levels"
        )
    tables["win_rates"].sort(
        key=lambda row: tuple(row[key] for key in ("model_id", "judge_model", "against", "level"))
    )
    undecided = judge_trust.undecided_judges(tables["position_bias"], tables["win_rates"])
    return tables | {"undecided_judges": undecided}


def analyze(settings: Settings, selection: Selection | None = None) -> dict[str, Any]:
    """The whole analysis.json, but for the answer in words. Raises UserError.

    Baseline and placebo that were left open are filled in in `settings`. Whoever has read the runs already
    gives the selection of them; else they are read here, once.
    """
    if selection is None:
        selection = read_runs(settings)
    facts = selection.facts
    groups = grouped(selection)
    judge = read_judge(settings, selection)
    judged = {level for verdict in judge.get("verdicts", []) for level in (verdict["left"], verdict["right"])}
    levels = ordered_levels(groups, judged, settings.placebo)
    if not levels:
        told = ", ".join(f"{count} {name}" for name, count in sorted(facts["counts"].items()) if count)
        raise LevelsError(f"no run and no verdict left to analyze ({told or 'no records'})")
    resolve_references(settings, levels)
    ran = {run.level for group in groups for run in group.runs}
    measured = [level for level in levels if level in ran]
    names = ("baseline", "placebo", "margin", "seed", "resamples", "include_flagged", "allow_mixed")
    draft: dict[str, Any] = {
        "schema_version": 1,
        "settings": {name: getattr(settings, name) for name in names},
        "interval_methods": dict(METHODS),
        "levels": levels,
        **facts,
        **judgment_tables(settings, judge),
        "level_means": level_mean_rows(groups, measured),
        "paired": paired_rows(groups, settings, measured),
        "trend": trend_rows(groups, [level for level in measured if level != settings.placebo]),
        "drift": drift_rows(groups),
        "variation": variation_rows(groups),
        "cost_split": [],
        "cost_parts": [],
        "value": [],
        "cheapest": [],
    }
    if "graded_leans" in draft:
        draft["interval_methods"]["graded"] = GRADED_METHOD
    draft["inputs"] = facts["inputs"] + judge.get("inputs", [])
    draft = plain(draft)
    if settings.runs:
        draft |= plain(split.split(selection.runs, draft))
    if settings.runs and settings.scores:
        weighed = value.weigh(judge["verdicts"], draft)
        ordered = [level for level in levels if level != settings.placebo]
        draft["trend"] += quality_trend(weighed.pop("quality_by_task"), ordered)
        draft |= weighed
    return dict(plain(draft))
