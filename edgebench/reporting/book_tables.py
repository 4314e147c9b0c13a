"""The tables of the workbooks as frames with named columns: rows by model, pivot, summary, flags, notes.

A column has a label for people and keeps its name in the records, which its comment and the sheet Notes tell.
Columns in which no run has a value are left away, and Notes names them. Numbers keep their full precision;
what is shown is as precise as the uncertainty. Every mean, win rate and interval is a row of the analysis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from edgebench.records.flags import what_flags_mean
from edgebench.records.run import HARD_FLAG_MEANINGS
from edgebench.reporting.cases import judges
from edgebench.reporting.sheets import Column, number_format
from edgebench.reporting.study import Study
from edgebench.shell.decimals import column_places, half_of
from edgebench.shell.text import printable

QUALITY = "score"
SHARE_FORMAT, P_FORMAT = "0.0%", '[<0.001]"< 0.001";0.000'
LOOKED_AT = 10_000  # values by which the decimals of a column are chosen
SIMULATED = "simulated"
CELL = ["model_id", "board", "task_id", "turn"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """What a workbook is about."""

    name: str  # in the records
    label: str
    unit: str = ""
    meaning: str = ""

    def header(self, what: str = "") -> str:
        """The header of a column that holds it, or a statistic of it.

        >>> Value("latency_ms", "Latency", "ms").header("mean")
        'Latency, mean [ms]'
        """
        return self.label + (f", {what}" if what else "") + (f" [{self.unit}]" if self.unit else "")


ENERGY = "Net energy: the integral of power minus idle power over the run. Noise may make it negative."
VALUES = {
    value.name: value
    for value in (
        Value("energy_joule", "Energy net of idle", "J", ENERGY),
        Value("latency_ms", "Latency", "ms", "From the first prompt batch to the last token."),
        Value("completion_tokens", "Output tokens", "", "Reasoning included, end of sequence not."),
        Value("prompt_tokens", "Prompt tokens", "", "The template's own included."),
        Value("ttft_ms", "Time to first token", "ms", "TTFT: prefill and the first token."),
        Value("tpot_ms", "Time per output token", "ms", "TPOT: after the first token."),
        Value("energy_uncertainty_joule", "Energy, uncertain by ±", "J", "How far the energy may be off."),
    )
}
BESIDE = {  # measured with the value of a workbook, in its rows and its summary
    "energy_joule": ("energy_uncertainty_joule",),
    "latency_ms": ("ttft_ms", "tpot_ms"),
}
SUMMED = ("prompt_tokens", "completion_tokens", "latency_ms", "energy_joule")  # beside each other on Summary
NAMED = {  # columns that are no measurement
    "model_id": ("Model", "The model file's name without its quantization."),
    "board": ("Board", "From the environment record beside the runs."),
    "task_id": ("Task", "id, question_id or task_id of the record."),
    "category": ("Category", "Of the task."),
    "level": ("Level", "Column of the prompts file: how much the prompt says."),
    "turn": ("Turn", "Of the conversation."),
    "repeat": ("Repeat", "Of the same run, from 1."),
    "in_means": ("In means", "no: an error or a hard flag; the row is grey and in no mean."),
    "error": ("Error", "Why the run failed."),
    "flags": ("Flags", "What must be known of the run; see the sheet Flags."),
    "pair": ("Pair", "The left and the right level."),
    "against": ("Right level", "The level on the right of the pair."),
    "winner": ("Winner", "As in the scores: A is the left level, B the right, Tie if orders disagree."),
    "winning_level": ("Winning level", "The level that won, or tie."),
    "judge_model": ("Judge", "The model that judged."),
    "n_runs": ("Runs", "That count in the mean."),
    "n_tasks": ("Tasks", "That the mean is over: each task counts once."),
    "n_left_out": ("Runs left out", "Of means, for an error or a hard flag."),
    "n_verdicts": ("Verdicts", "Pairs of answers, judged in both orders."),
    "wins": ("Won", "Verdicts for this level."),
    "ties": ("Tied", "Verdicts for neither: called a tie, or the two orders disagree."),
    "losses": ("Lost", "Verdicts for the other level."),
    "reason": ("Remark", "Why a number or an interval is missing."),
    "reference": ("Reference", "The level whose strength is 0."),
    "beta": ("Strength", "Bradley-Terry, in log odds against the reference."),
    "se": ("Standard error", "Of the strength."),
    "elo": ("Elo", "The strength on the scale of chess, mean 1000."),
    "sign_p": ("p, sign test", "Exact, two-sided."),
    "wilcoxon_p": ("p, Wilcoxon", "Signed-rank test over tasks."),
    "p_holm": ("p, Holm", "Adjusted for the number of tests."),
}


def text_column(name: str, label: str = "") -> Column:
    """A column of words or counts."""
    known, meaning = NAMED[name]
    return Column(name, label or known, meaning)


def labelled(study: Study, name: str) -> Value:
    """A value under the label it has in this study: energy that was not measured says so."""
    value = VALUES[name]
    if value.unit == "J" and study.simulated:
        return replace(value, label=f"{value.label}, {SIMULATED}")
    return value


def places_of(values: Iterable[float | None], uncertainties: Iterable[float | None] = ()) -> int:
    """The decimals of a column; NaN is missing."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return column_places(
        known, [value for value in uncertainties if value is not None and np.isfinite(value)]
    )


def has_any(column: pd.Series[Any]) -> bool:
    """Whether a column holds anything: a number or a text."""
    if column.dtype.kind in "iuf":
        return bool(column.notna().any())
    return bool((column.fillna("") != "").any())


# --- Rows of one model ---


def run_columns(study: Study, name: str) -> list[Column]:
    """The columns of a model's runs: the value itself, and those in which any run has one."""
    runs, value = study.runs, labelled(study, name)
    places = {one: shown_places(study, one) for one in (name, *BESIDE.get(name, ()))}
    if "energy_uncertainty_joule" in places:
        places["energy_uncertainty_joule"] = places["energy_joule"]
    wanted = [text_column(one) for one in ("board", "task_id", "category", "level", "turn", "repeat")]
    wanted += [Column(one, VALUES[one].label, VALUES[one].meaning) for one in SUMMED[:2] if one != name]
    for one, decimals in places.items():
        told = labelled(study, one)
        wanted.append(Column(one, told.header(), told.meaning, number_format(decimals), one == name))
    wanted += [text_column(one) for one in ("in_means", "error", "flags")]
    left_away = {column.name for column in wanted if column.name in runs and not has_any(runs[column.name])}
    left_away |= set() if study.has_boards else {"board"}
    return [column for column in wanted if column.name == value.name or column.name not in left_away]


def shown_places(study: Study, name: str) -> int:
    """The decimals in which single runs are shown."""
    runs = study.runs.head(LOOKED_AT)
    uncertain = runs["energy_uncertainty_joule"] if VALUES[name].unit == "J" else []
    return places_of(runs[name], uncertain)


def run_rows(study: Study, model: str, columns: Sequence[Column]) -> pd.DataFrame:
    """One row per run of a model; a model without any has one row that says so."""
    part = study.runs[study.runs["model_id"] == model]
    if part.empty:
        part = part.reindex([0]).assign(kept=False, error="no run of this model: only the judge knows it")
    part = part.assign(in_means=part["kept"].map({True: "yes", False: "no"}).astype(object))
    for column in columns:
        if column.name not in part:
            part[column.name] = None
    return part[[column.name for column in columns]]


VERDICT_NAMES = ("task_id", "category", "turn", "pair", "winner", "winning_level")


def verdict_columns(study: Study) -> list[Column]:
    """The columns of the verdicts on a model's answers."""
    columns = [text_column(name) for name in VERDICT_NAMES]
    meaning = "1 if the left level won, 0 if the right one, 0.5 for neither."
    columns.append(Column(QUALITY, "Score of the left level", meaning, "0.0", True))
    columns.append(text_column("judge_model"))
    empty = {name for name in ("category",) if not has_any(study.verdicts[name])}
    return [column for column in columns if column.name not in empty]


def verdict_rows(study: Study, model: str, columns: Sequence[Column]) -> pd.DataFrame:
    """One row per verdict on a model's answers; a model without any has one row that says so."""
    part = study.verdicts[study.verdicts["model_id"] == model]
    if part.empty:
        part = part.reindex([0]).astype({"pair": object}).assign(pair="no verdict on this model; see Notes")
    return part[[column.name for column in columns]]


# --- Task by level ---


def pivot(study: Study, name: str) -> tuple[pd.DataFrame, list[Column]]:
    """Task × level: mean, std and n over the repeats (or the verdicts against the reference)."""
    frame, levels = (study.runs, study.analysis["levels"]) if name != QUALITY else quality_scores(study)
    value = VALUES.get(name) or Value(QUALITY, f"Score against {reference_of(study.analysis)}")
    good = frame.loc[frame["kept"] & frame[name].notna()]
    cells = good.groupby([*CELL, "level"], dropna=False, observed=True)[name].agg(["mean", "std", "count"])
    wide = cells.unstack("level").reorder_levels(CELL)
    order = pd.MultiIndex.from_product([levels, ["mean", "std", "count"]]).swaplevel()
    index = pd.MultiIndex.from_frame(frame[CELL].drop_duplicates())
    wide = wide.reindex(index=index, columns=order)
    told = {"mean": value.header("mean"), "std": value.header("std"), "count": "n"}
    places = places_of(cells["mean"].head(LOOKED_AT), cells["std"].head(LOOKED_AT))
    if name == QUALITY:
        places = 2
    shown = []
    for what, level in order:
        as_number = number_format(0 if what == "count" else places)
        meaning = {
            "mean": "Over the repeats that count.",
            "std": "Of the repeats (n - 1).",
            "count": "How many.",
        }
        shown.append(
            Column(f"{level} {what}", f"{level}: {told[what]}", meaning[what], as_number, what == "mean")
        )
    wide.columns = pd.Index([column.name for column in shown], dtype=object)
    wide = wide.reset_index()
    kept = [text_column(one) for one in CELL] + shown
    empty = {column.name for column in shown if not wide[column.name].notna().any()}
    hidden = empty | ({"board"} if not study.has_boards else set())
    hidden |= {"turn"} if wide["turn"].nunique() < 2 else set()
    kept = [column for column in kept if column.name not in hidden]
    return wide[[column.name for column in kept]], kept


def quality_scores(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """The scores of every level that met the reference, seen from that level; and those levels."""
    reference = reference_of(study.analysis)
    judged = study.verdicts
    left, right = judged[judged["against"] == reference], judged[judged["level"] == reference]
    turned = right.assign(level=right["against"], against=right["level"], score=1.0 - right["score"])
    frame = pd.concat([left, turned], ignore_index=True).assign(board="", kept=True)
    levels = [level for level in study.analysis["levels"] if level in set(frame["level"])]
    return frame, levels


# --- Model by level, from the analysis ---


def reference_of(analysis: Row) -> str:
    """The level that win rates are against: the one that met most others; of equals the baseline, then P."""
    settings = analysis["settings"]
    partners: dict[str, set[str]] = {}
    for row in analysis["win_rates"]:
        partners.setdefault(row["against"], set()).add(row["level"])
    preferred = (settings.get("baseline"), settings.get("placebo"))
    ranks = {
        level: (len(found), level == preferred[0], level == preferred[1])
        for level, found in sorted(partners.items())
    }
    return max(ranks, key=lambda level: ranks[level], default=str(settings.get("baseline") or "L0"))


def cases(study: Study) -> list[tuple[str, str]]:
    """(model, board) of everything that has a row: runs first, then what only the judge knows."""
    runs = study.runs[["model_id", "board"]].drop_duplicates()
    found = [(model, board) for model, board in runs.itertuples(index=False, name=None)]
    known = {model for model, _ in found}
    judged = [model for model in study.verdicts["model_id"].unique() if model not in known]
    return sorted(found + [(model, "") for model in judged])


def means_of(analysis: Row) -> dict[tuple[str, str, str, str], Row]:
    """The rows of level_means by model, board, level and metric."""
    return {
        (row["model_id"], row["board"] or "", row["level"], row["metric"]): row
        for row in analysis["level_means"]
    }


def summary(study: Study, name: str) -> tuple[pd.DataFrame, list[Column]]:
    """Model × level: the statistics of the workbook's value, and beside them the means of the others."""
    return quality_summary(study) if name == QUALITY else cost_summary(study, name)


def cost_summary(study: Study, name: str) -> tuple[pd.DataFrame, list[Column]]:
    """The summary of energy, latency or output tokens."""
    analysis = study.analysis
    means, base = means_of(analysis), analysis["settings"].get("baseline")
    paired = {
        (row["model_id"], row["board"] or "", row["level"]): row
        for row in analysis["paired"]
        if row["metric"] == name and row["against"] == base
    }
    wins = first_wins(analysis)
    left_out = study.runs[~study.runs["kept"]].groupby(["model_id", "board", "level"]).size().to_dict()
    measured = set(study.runs[["model_id", "board", "level"]].itertuples(index=False, name=None))
    rows = []
    for model, board in cases(study):
        for level in analysis["levels"]:
            if (model, board, level) not in measured:
                continue
            row: dict[str, Any] = {"model_id": model, "board": board, "level": level}
            row["n_left_out"] = left_out.get((model, board, level), 0)
            row |= cost_cells(
                means.get((model, board, level, name), {}), paired.get((model, board, level), {})
            )
            others = [one for one in (*BESIDE.get(name, ()), *SUMMED) if one != name and one in VALUES]
            for other in others:
                row[f"{other} mean"] = means.get((model, board, level, other), {}).get("mean")
            row["win_rate"] = wins.get((model, level), {}).get("win_rate")
            rows.append(row)
    columns = cost_columns(study, name, base, rows)
    return as_frame(rows, columns), columns


def cost_cells(mean: Row, difference: Row) -> dict[str, Any]:
    """The cells of one level: its mean, and its difference to the baseline."""
    low, high = mean.get("ci95") or (None, None)
    low_change, high_change = difference.get("ci95") or (None, None)
    return {
        "n_runs": mean.get("n_runs"),
        "n_tasks": mean.get("n_tasks"),
        "mean": mean.get("mean"),
        "std": mean.get("std"),
        "ci95_low": low,
        "ci95_high": high,
        "mean_difference": difference.get("mean_difference"),
        "difference_low": low_change,
        "difference_high": high_change,
        "percent": difference.get("percent"),
        "p_holm": difference.get("p_holm"),
        "reason": mean.get("reason") or difference.get("reason"),
    }


def cost_columns(study: Study, name: str, base: str | None, rows: Sequence[Row]) -> list[Column]:
    """The columns of a cost's summary that hold anything."""
    value = labelled(study, name)
    halves = [half_of(ends(row, "ci95_low", "ci95_high")) for row in rows]
    shown = number_format(places_of([row["mean"] for row in rows], halves))
    halves = [half_of(ends(row, "difference_low", "difference_high")) for row in rows]
    changed = number_format(places_of([row["mean_difference"] for row in rows], halves))
    unit = f" [{value.unit}]" if value.unit else ""
    over = "95 % interval over tasks."
    columns = [text_column(one) for one in ("model_id", "board", "level", "n_runs", "n_tasks", "n_left_out")]
    columns += [
        Column("mean", value.header("mean"), f"{value.meaning} The mean of the task means.", shown, True),
        Column("std", value.header("std"), "Of single runs (n - 1).", shown),
        Column("ci95_low", f"Mean, 95 % from{unit}", over, shown),
        Column("ci95_high", f"Mean, 95 % to{unit}", over, shown),
        Column("mean_difference", f"Change to {base}{unit}", "Mean difference within tasks.", changed),
        Column("difference_low", f"Change, 95 % from{unit}", over, changed),
        Column("difference_high", f"Change, 95 % to{unit}", over, changed),
        Column("percent", f"Change to {base} [%]", "Of the mean at the baseline.", number_format(1)),
        replace(text_column("p_holm"), number_format=P_FORMAT),
    ]
    others = [one for one in (*BESIDE.get(name, ()), *SUMMED) if one != name]
    for other in others:
        told = labelled(study, other)
        decimals = number_format(places_of([row[f"{other} mean"] for row in rows]))
        columns.append(Column(f"{other} mean", told.header("mean"), told.meaning, decimals))
    columns.append(win_column(study.analysis))
    columns.append(text_column("reason"))
    return with_content(study, rows, columns, always=("mean",))


def win_column(analysis: Row) -> Column:
    """The win rate beside a cost."""
    who = judges(analysis)
    label = f"Win rate against {reference_of(analysis)}"
    if len(who) > 1:
        label += f", by {printable(who[0])}"
    return Column("win_rate", label, "Share of wins, a tie is half a win; 50 % is even.", SHARE_FORMAT)


def first_wins(analysis: Row) -> dict[tuple[str, str], Row]:
    """The win rates against the reference by model and level, of the first judge: judges are not averaged."""
    reference = reference_of(analysis)
    first = next(iter(judges(analysis)), None)
    return {
        (row["model_id"], row["level"]): row
        for row in analysis["win_rates"]
        if row["against"] == reference and row["judge_model"] == first
    }


def quality_summary(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """The summary of the judge's verdicts: one row per model, judge and level that met the reference."""
    analysis, reference = study.analysis, reference_of(study.analysis)
    means = means_of(analysis)
    boards = dict(reversed(cases(study)))
    rows = []
    order = {level: place for place, level in enumerate(analysis["levels"])}
    found = [row for row in analysis["win_rates"] if row["against"] == reference]
    key = lambda row: (row["model_id"], row["judge_model"], order.get(row["level"], 0))  # noqa: E731
    for win in sorted(found, key=key):
        cells = {
            name: win.get(name) for name in ("model_id", "judge_model", "level", "n_tasks", "n_verdicts")
        }
        cells |= win_cells(win)
        for other in SUMMED:
            place = (win["model_id"], boards.get(win["model_id"], ""), win["level"], other)
            cells[f"{other} mean"] = None if study.has_boards else means.get(place, {}).get("mean")
        rows.append(cells)
    columns = [text_column(one) for one in ("model_id", "judge_model", "level", "n_tasks", "n_verdicts")]
    columns += win_columns(f"against {reference}")
    for other in SUMMED:
        told = labelled(study, other)
        decimals = number_format(places_of([row[f"{other} mean"] for row in rows]))
        columns.append(Column(f"{other} mean", told.header("mean"), told.meaning, decimals))
    columns.append(text_column("reason"))
    if len(judges(analysis)) < 2:
        columns = [column for column in columns if column.name != "judge_model"]
    return as_frame(
        rows, kept := with_content(study, rows, columns, always=("model_id", "level", "win_rate"))
    ), kept


# Further win rates of a row: name, name of the interval, label, meaning.
OTHER_RATES = (
    (
        "graded_win_rate",
        "graded_ci95",
        "Graded win rate",
        "By the judge's probabilities, its lean to a slot taken out.",
    ),
    (
        "win_rate_averaged",
        "win_rate_averaged_ci95",
        "Win rate, orders averaged",
        "The mean of both orders and all repeats.",
    ),
)


def win_cells(win: Row) -> dict[str, Any]:
    """The cells of a win rate."""
    low, high = win.get("ci95") or (None, None)
    cells = {
        name: win.get(name) for name in ("wins", "ties", "losses", "win_rate", "sign_p", "p_holm", "reason")
    }
    cells |= {"ci95_low": low, "ci95_high": high}
    for name, interval, _, _ in OTHER_RATES:
        low, high = win.get(interval) or (None, None)
        cells |= {name: win.get(name), f"{name}_low": low, f"{name}_high": high}
    return cells


def win_columns(against: str) -> list[Column]:
    """The columns of win rates."""
    over = "95 % interval over tasks, within 0 and 100 %."
    columns = [text_column(one) for one in ("wins", "ties", "losses")]
    columns += [
        Column("win_rate", f"Win rate {against}", "Share of wins, a tie is half a win.", SHARE_FORMAT, True),
        Column("ci95_low", "Win rate, 95 % from", over, SHARE_FORMAT),
        Column("ci95_high", "Win rate, 95 % to", over, SHARE_FORMAT),
        replace(text_column("sign_p"), number_format=P_FORMAT),
        replace(text_column("p_holm"), number_format=P_FORMAT),
    ]
    for name, _, label, meaning in OTHER_RATES:
        columns += [
            Column(name, label, meaning, SHARE_FORMAT),
            Column(f"{name}_low", f"{label}, 95 % from", over, SHARE_FORMAT),
            Column(f"{name}_high", f"{label}, 95 % to", over, SHARE_FORMAT),
        ]
    return columns


# --- Further tables of the analysis ---


def win_rate_table(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """Every pair of levels, seen from both sides."""
    names = ("model_id", "judge_model", "level", "against", "n_tasks", "n_verdicts")
    rows = [{name: row.get(name) for name in names} | win_cells(row) for row in study.analysis["win_rates"]]
    columns = [text_column(name, "Against" if name == "against" else "") for name in names]
    columns += [*win_columns("of the level"), text_column("reason")]
    return as_frame(rows, kept := with_content(study, rows, columns)), kept


def strength_table(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """Bradley-Terry strengths of the levels."""
    names = ("model_id", "judge_model", "level", "reference", "beta", "se", "elo", "reason")
    rows = [{name: row.get(name) for name in names} for row in study.analysis.get("bradley_terry", [])]
    formats = {"beta": number_format(2), "se": number_format(2), "elo": number_format(0)}
    columns = [replace(text_column(one), number_format=formats.get(one, "General")) for one in names]
    return as_frame(rows, kept := with_content(study, rows, columns)), kept


WAITED = ("ttft_ms", "tpot_ms", "latency_ms")
QUANTILES = {"p50": "median", "p95": "95th percentile"}


def waiting_table(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """Median and 95th percentile of single runs: of the waits that a user notices."""
    means = means_of(study.analysis)
    rows = []
    for model, board, level in dict.fromkeys(place[:3] for place in means):
        row: dict[str, Any] = {"model_id": model, "board": board, "level": level}
        for name, what in itertools.product(WAITED, QUANTILES):
            row[f"{name} {what}"] = means.get((model, board, level, name), {}).get(what)
        rows.append(row)
    columns = [text_column(one) for one in ("model_id", "board", "level")]
    for name, (what, words) in itertools.product(WAITED, QUANTILES.items()):
        decimals = number_format(places_of([row[f"{name} {what}"] for row in rows]))
        told = labelled(study, name)
        meaning = f"Of single runs. {told.meaning}"
        columns.append(Column(f"{name} {what}", told.header(words), meaning, decimals))
    kept = with_content(study, rows, columns)
    return as_frame(rows if any(" p" in column.name for column in kept) else [], kept), kept


LEAN = {
    "pairs": Column("pairs", "Pairs", "Judged in both orders.", number_format(0)),
    "lean_log_odds_mean": Column(
        "lean_log_odds_mean", "Lean, mean", "Log odds of the first slot over the second.", number_format(2)
    ),
    "lean_log_odds_std": Column("lean_log_odds_std", "Lean, std", "Over the pairs.", number_format(2)),
    "first_slot_share": Column(
        "first_slot_share", "First slot wins", "Of two equal answers; 50 % is no lean.", SHARE_FORMAT
    ),
}


def lean_table(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """The lean to a slot that graded win rates are free of."""
    names = ("model_id", "judge_model", *LEAN)
    found = study.analysis.get("graded_leans") or []
    rows = [{name: row.get(name) for name in names} for row in found if row.get("pairs")]
    for row in rows:
        row["model_id"] = row["model_id"] or "all models"
    columns = [text_column("model_id"), text_column("judge_model"), *LEAN.values()]
    return as_frame(rows, kept := with_content(study, rows, columns)), kept


def paired_table(study: Study, name: str) -> tuple[pd.DataFrame, list[Column]]:
    """Differences of the value within tasks, against the baseline and the placebo."""
    rows = []
    for row in study.analysis["paired"]:
        if row["metric"] == name:
            low, high = row.get("ci95") or (None, None)
            names = ("model_id", "board", "level", "against", "n_tasks", "mean_difference", "percent")
            more = ("wilcoxon_p", "sign_p", "p_holm", "reason")
            cells = {one: row.get(one) for one in (*names, *more)}
            rows.append(cells | {"difference_low": low, "difference_high": high})
    value = labelled(study, name)
    halves = [half_of(ends(row, "difference_low", "difference_high")) for row in rows]
    shown = number_format(places_of([row["mean_difference"] for row in rows], halves))
    columns = [text_column(one) for one in ("model_id", "board", "level")]
    columns += [text_column("against", "Against"), text_column("n_tasks")]
    columns += [
        Column("mean_difference", value.header("difference"), "Mean over tasks.", shown),
        Column("difference_low", "Difference, 95 % from", "95 % interval over tasks.", shown),
        Column("difference_high", "Difference, 95 % to", "95 % interval over tasks.", shown),
        Column("percent", "Difference [%]", "Of the mean at the other level.", number_format(1)),
    ]
    columns += [
        replace(text_column(one), number_format=P_FORMAT) for one in ("wilcoxon_p", "sign_p", "p_holm")
    ]
    columns.append(text_column("reason"))
    return as_frame(rows, kept := with_content(study, rows, columns)), kept


def ends(row: Row, low: str, high: str) -> list[float] | None:
    """Both ends of an interval that stands in two cells."""
    return None if row[low] is None or row[high] is None else [row[low], row[high]]


def with_content(
    study: Study, rows: Sequence[Row], columns: Sequence[Column], always: Sequence[str] = ()
) -> list[Column]:
    """The columns in which any row has something; the board only where there are several."""
    hidden = set() if study.has_boards else {"board"}
    return [
        column
        for column in columns
        if column.name in always
        or (column.name not in hidden and any(row.get(column.name) not in (None, "") for row in rows))
    ]


def as_frame(rows: Sequence[Row], columns: Sequence[Column]) -> pd.DataFrame:
    """Rows as a frame with these columns."""
    return pd.DataFrame(
        [[row.get(one.name) for one in columns] for row in rows], columns=[c.name for c in columns]
    )


# --- Flags and notes ---


def flag_rows(study: Study, name: str) -> tuple[pd.DataFrame, list[Column]]:
    """Runs with an error, a missing value or a flag, what that means and what follows.

    Flags that every run carries are not repeated; `common_flags` are they.
    """
    runs = study.runs
    words = {text: frozenset(text.split()) for text in runs["flags"].unique()}
    shared = common_flags(runs)
    rest = runs["flags"].map({text: " ".join(sorted(flags - shared)) for text, flags in words.items()})
    lacks = runs[name].isna() if name in runs else pd.Series(False, index=runs.index)
    means = runs["flags"].map({text: what_flags_mean(flags - shared) for text, flags in words.items()})
    missing = runs["energy_missing"].where(runs["energy_missing"] != "", "no value, and no reason given")
    means = means.where(
        ~lacks | (means != ""), missing if name == "energy_joule" else "no value in the record"
    )
    means = means.where(
        ~lacks | (name != "energy_joule") | (runs["energy_missing"] == ""), runs["energy_missing"]
    )
    means = means.where(runs["error"] == "", runs["error"])
    follows = runs["kept"].map({True: "counts in means", False: "left out of means"}).astype(object)
    label = VALUES[name].label if name in VALUES else ""
    follows = follows.where(~(lacks & runs["kept"]), f"counts, but has no {label.lower()}: not in its means")
    listed = runs.assign(flags=rest, meaning=means, follows=follows)[
        lacks | (rest != "") | (runs["error"] != "")
    ]
    columns = [
        text_column(one) for one in ("model_id", "board", "task_id", "level", "turn", "repeat", "flags")
    ]
    columns += [
        Column("meaning", "What it means", "The error, or what the flags say."),
        Column("follows", "What follows", "Whether the run counts, and in what."),
    ]
    hidden = {one.name for one in columns if len(listed) and not has_any(listed[one.name])}
    hidden |= set() if study.has_boards else {"board"}
    kept = [column for column in columns if column.name not in hidden]
    return listed[[column.name for column in kept]], kept


def common_flags(runs: pd.DataFrame) -> frozenset[str]:
    """The flags that every run carries."""
    words = [frozenset(text.split()) for text in runs["flags"].unique()]
    return frozenset.intersection(*words) if words else frozenset()


NOTES = {
    "Colours": "The higher a value or mean, the deeper its cell; rows of runs that are in no mean are grey.",
    "Digits": "Cells hold every digit; as many are shown as the uncertainty of the column carries.",
    "Mean": "Each task counts once: the mean of the task means; a task mean is over its turns and repeats.",
    "Std": "Sample standard deviation (n - 1) of single runs; on Pivot of a task's repeats.",
    "95 % interval": "Over tasks, since the repeats of one task move together; empty where they are too few.",
    "Change": "Mean of (level - baseline) over the tasks that have both.",
    "Win rate": "Mean score of a level against the other; a win counts only if both orders agree.",
    "Pivot": "By task and level: mean and std (n - 1) over the repeats that count, and how many they are.",
    "Left out": "Runs with an error or a hard flag stand in the rows (In means: no) and on Flags.",
}


def note_rows(
    study: Study, columns: Sequence[Column], more: Iterable[str]
) -> tuple[pd.DataFrame, list[Column]]:
    """Definitions, remarks, what every column is in the records, what was left away."""
    rows = [[about, "", note] for about, note in NOTES.items()]
    rows += [["Remark", "", text] for text in [*study.remarks, *more]]
    shared = sorted(common_flags(study.runs))
    rows += [
        ["Flag of every run", flag, what_flags_mean([flag]) or "no meaning known here"] for flag in shared
    ]
    rows += [["Hard flag", flag, meaning] for flag, meaning in HARD_FLAG_MEANINGS.items()]
    rows += [
        [f"Column {column.label}", column.name, column.meaning]
        for column in dict.fromkeys(replace(column, number_format="", is_scaled=False) for column in columns)
    ]
    shown = {column.name for column in columns}
    measured = (*VALUES, "category", "turn", "repeat", "error")
    empty = [name for name in measured if name in study.runs and not has_any(study.runs[name])]
    labels = {name: value.label for name, value in VALUES.items()} | {name: NAMED[name][0] for name in NAMED}
    rows += [
        ["Column left away", name, f"{labels[name]}: no run has a value"]
        for name in empty
        if name not in shown
    ]
    frame = pd.DataFrame(rows, columns=["about", "name", "note"], dtype=object)
    return frame, [Column("about", "About"), Column("name", "Name in the records"), Column("note", "Note")]
