#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["pandas>=2.2,<4", "openpyxl>=3.1,<4", "scipy>=1.11,<2"]
# ///
"""Turn run records and a judge's scores into four Excel workbooks with one sheet per model.

Writes quality_scores.xlsx (win rates, 0 to 1, a tie is one half), energy_per_run.xlsx (J, net of idle),
latency_per_run.xlsx (ms) and output_tokens_per_run.xlsx (tokens). Runs with an error or a hard flag are in no
mean; a missing value is an empty cell with its reason in Flags. Records need id, model_id, level,
prompt_tokens, completion_tokens, latency_ms and energy_joule only.

Example:
  python aggregate_to_excels.py --runs results/runs_llamacpp.jsonl --scores results/scores_mtbench.csv
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import shlex
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.analysis.campaign import Request, gather
from edgebench.errors import UserError
from edgebench.records.jsonl import UNREADABLE, read_jsonl
from edgebench.records.judgment import SCORE_OF_WINNER
from edgebench.records.run import HARD_FLAG_MEANINGS, HARD_FLAGS, all_flags_of, task_of, was_evaluated
from edgebench.shell.door import Parser, open_door
from edgebench.stats.intervals import student_quantile

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 1_048_576  # of one sheet in the xlsx format
MAX_TEXT = 32_767  # UTF-16 units of one cell in the xlsx format
SLICE = 50_000  # rows that are Python objects at once
TEXTS = ["board", "model_id", "category", "level", "energy_missing", "task_id", "flags", "error"]
NUMBERS = ["turn", "repeat", "prompt_tokens", "completion_tokens", "latency_ms", "energy_joule"]
RUN_COLUMNS = ["board", "task_id", "category", "level", *NUMBERS[:4]]
SCORES = ["task_id", "category", "model_id", "pair", "winner", "judge_model", "turn"]
SCORE_COLUMNS = ["task_id", "category", "pair", "level", "against", "winner", "score", "judge_model", "turn"]
STATS = ["n", "n_tasks", "mean", "std", "ci95_half", "ci95_low", "ci95_high", "delta", "delta_percent"]
GROUP = ["board", "model_id", "level"]
BOOKS = {  # file: the value it is about (its name ends in its unit), title
    "quality_scores.xlsx": ("score", "Quality: win rate in pairwise judging, 0 to 1"),
    "energy_per_run.xlsx": ("energy_joule", "Energy per run, net of idle [J]"),
    "latency_per_run.xlsx": ("latency_ms", "Latency per run [ms]"),
    "output_tokens_per_run.xlsx": ("completion_tokens", "Output tokens per run"),
}
FORMATS = {  # by the first pattern that a header fits; other numbers are shown as they are
    r"percent|latency_ms|tokens [cdms]": "#,##0.0",
    r"(^|_)p($|_)": "0.0000",
    r"energy_joule|rate|beta|ci95|^se$|difference": "#,##0.000",
}
SCALE = {"start_type": "min", "start_color": "FFFFFF", "end_type": "max", "end_color": "F2B880"}
NOTES = {
    "colours": "The higher a value or mean, the deeper its cell; rows of runs that are in no mean are grey.",
    "mean": "Each task counts once: the mean of the task means; a task mean is over its turns and repeats.",
    "std": "Sample standard deviation (n - 1) of single runs or verdicts; in Pivot of a task's repeats.",
    "ci95": "Mean ± t(0.975, k - 1) * s / sqrt(k) over k task means, or one task's repeats; needs scipy.",
    "delta": "Mean of (level - baseline) over the tasks that have both; delta_percent is of the baseline.",
    "energy_joule": "Net energy: the integral of power minus idle power over the run. It may be negative.",
    "score": "1 if the judge took the left level, 0 for the right, 0.5 for a tie, or if orders disagree.",
    "win_rate": "Mean score of a level in its pairs with the level that the header names; 0.5 is even.",
    "left out": "Runs with an error or a hard flag are in the rows (in_means: no) and Flags, not in means.",
    **{f"hard flag {flag}": meaning for flag, meaning in HARD_FLAG_MEANINGS.items()},
}


class AggregateError(UserError):
    """Something that the user can put right."""


@dataclass(frozen=True)
class Campaign:
    """What the workbooks show, and where it came from."""

    runs: pd.DataFrame  # one row per run: TEXTS, NUMBERS, kept = it counts in means
    judged: pd.DataFrame  # one row per verdict; score = what the left level won: 1, 0.5, 0
    frames: dict[str, pd.DataFrame]  # value: what its means are over (of the score: pairs with one level)
    stats: dict[str, pd.DataFrame]  # value: level_stats
    names: dict[str, str]  # value: its name in headers
    levels: list[str]
    remarks: list[str]
    about: dict[str, Any]  # from analysis/campaign.py: provenance, and tables of the analysis for Summary
    hidden: list[str]  # columns that say nothing here: the board, where there is only one


def clean_text(text: str, changes: Counter[str]) -> str:
    """The text as a cell can hold it; `changes` counts the texts that had to be altered, by cause."""
    clean = re.sub(r"\r\n?", "\n", text)
    clean, controls = re.subn(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", clean)
    clean, surrogates = re.subn(r"[\ud800-\udfff]", "\ufffd", clean)
    # Excel counts UTF-16 units.
    short = clean.encode("utf-16-le")[: 2 * MAX_TEXT].decode("utf-16-le", "ignore")
    causes = {"control characters": controls, "lone surrogates": surrogates, "too long": short != clean}
    changes.update(cause for cause, found in causes.items() if found)
    return short


def free_title(wanted: str, used: set[str], suffix: str = "~{}") -> str:
    """A sheet name Excel accepts and not yet in `used` (case-insensitive), where it is added."""
    clean = re.sub(r"[\[\]:*?/\\\x00-\x1f\ud800-\udfff\ufffe-\U0010ffff]", "_", wanted)
    clean = clean.strip(" '") or "unnamed"
    title, number = clean[:31].strip(" '"), 2
    while title.casefold() in used or title.casefold() == "history":  # Excel keeps History for itself
        ending = suffix.format(number)
        title, number = clean[: 31 - len(ending)].strip(" '") + ending, number + 1
    used.add(title.casefold())
    return title


def slim(record: Mapping[str, Any]) -> list[Any] | None:
    """(run_key, *TEXTS, *NUMBERS) of a record, its numbers as they are; None without task, model or level."""
    task = task_of(record)
    if task is None or not record.get("model_id") or not record.get("level"):
        return None
    flags = set(all_flags_of(record))
    if not was_evaluated(record):  # said beside another hard flag, too: the sheet lists every reason
        flags.add("prompt_not_evaluated")
    error = record.get("error") or ""
    if isinstance(error, dict):
        error = f"{error.get('type') or 'error'}: {error.get('message') or 'no message'}"
    texts = [*(record.get(name) or "" for name in TEXTS[:5]), task, " ".join(sorted(flags)), error]
    texts = [sys.intern(str(text)[:MAX_TEXT]) for text in texts]
    return [record.get("run_key") or None, *texts, *map(record.get, NUMBERS)]


def checked(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Slim rows as a frame; "ERROR", -1 and the like are missing, and flagged; hard = left out of means."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["run_key", *TEXTS, *NUMBERS], dtype=object)
    for name in NUMBERS:
        number = frame[name].map(lambda x: x if type(x) in (int, float) and abs(x) < 1e300 else math.nan)
        good = (number >= 0) | (number.notna() & (name == "energy_joule"))
        invalid = frame[name].notna() & ~good
        frame.loc[invalid, "flags"] += f" invalid_{name}"
        frame[name] = number.where(good).astype("float64")
    hard = {words: not HARD_FLAGS.isdisjoint(words.split()) for words in frame["flags"].unique()}
    return frame.assign(hard=frame["flags"].map(hard).astype(bool) | (frame["error"] != ""))


def read_runs(path: Path) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Runs as a frame, what a gathered file says of itself, remarks. Of one run_key the last good counts."""
    import pandas as pd

    pd.set_option("mode.string_storage", "python")  # pyarrow's strings cannot hold a lone surrogate
    parts, rows, about, bad = list[pd.DataFrame](), list[list[Any]](), dict[str, Any](), 0
    for _, record in read_jsonl(path):
        if record and "provenance" in record:  # the first line of a gathered file
            about = record
        elif record and (row := slim(record)):
            rows.append(row)
        else:
            bad += 1
        if len(rows) == SLICE:
            parts, rows = [*parts, checked(rows)], []
            print(f"{len(parts) * SLICE:,} of {about.get('records', '?')} runs read", file=sys.stderr)
    frame = pd.concat([*parts, checked(rows)], ignore_index=True)
    if frame.empty:
        raise AggregateError(f"no run record in {path}; give the collector's --out_jsonl as --runs")
    known = frame["run_key"].notna()
    last = frame[known].sort_values("hard", ascending=False, kind="stable")
    last = last.drop_duplicates(["board", "run_key"], keep="last")
    kept = frame[~known | frame.index.isin(last.index)].drop(columns="run_key")
    remarks = about.get(
        "remarks", ["power scope, mode, model file not compared: analysis/campaign.py does that"]
    )
    remarks += [f"{bad:,} lines are no run record (torn, or without id, model_id or level)"] * (bad > 0)
    again = [f"{len(frame) - len(kept):,} records repeat a run: the last good one of each counts"]
    return kept, about, remarks + again * (len(kept) < len(frame))


def gathered(args: argparse.Namespace, room: Path) -> Path:
    """The file to read: what edgebench.analysis.campaign makes of --runs."""
    out = room / "gathered.jsonl"
    further = {name: getattr(args, name) for name in ("scores", "analysis", "parquet", "allow_mixed")}
    gather(Request(args.runs, **further), out)
    return out


def read_scores(path: Path | None) -> tuple[pd.DataFrame, list[str]]:
    """The judge's verdicts, one row per pair; without them an empty frame. And remarks."""
    import pandas as pd

    frame = pd.DataFrame(columns=SCORES, dtype=object)
    remark = f"no scores at {path}: no win rates" if path else "no --scores given: no win rates"
    if path and path.exists() and path.stat().st_size:
        remark = f"{path} holds no score: no win rates"
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except ValueError as exc:
            raise AggregateError(f"--scores {path} is no table: {exc}") from exc
    lacking = sorted({"task_id", "model_id", "pair", "winner"} - set(frame))
    if lacking:
        raise AggregateError(f"{path} has no column {', '.join(lacking)}; --scores wants the judge's CSV")
    frame = frame.reindex(columns=SCORES).fillna("").astype(object).assign(board="", kept=True, flags="")
    sides = frame["pair"].str.split("_vs_", n=1, expand=True).reindex(columns=[0, 1]).fillna("")
    frame["level"], frame["against"] = sides[0], sides[1]
    frame["score"] = frame["winner"].map(SCORE_OF_WINNER).astype("float64")
    usable = (frame[["task_id", "model_id", "level", "against"]] != "").all(axis=1) & frame["score"].notna()
    judged = frame[usable].drop_duplicates([*SCORES[:1], *SCORES[2:4], *SCORES[5:]], keep="last")
    judged = judged.assign(turn=pd.to_numeric(judged["turn"], errors="coerce"))
    left_out = f"{path}: {len(frame) - len(judged):,} rows repeat another or lack task, model, pair or winner"
    return judged, [left_out] * (len(judged) < len(frame)) + [remark] * judged.empty


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by model, board, task, level, turn, repeat; task ids that all are whole numbers as numbers."""
    frame = frame.assign(length=frame["task_id"].str.len())  # shorter first, so that q9 comes before q10
    keys = ("model_id", "board", "length", "task_id", "level", "against", "turn", "repeat")
    frame = frame.sort_values([key for key in keys if key in frame], kind="stable", ignore_index=True)
    whole = frame["task_id"].str.fullmatch(r"0|[1-9]\d{0,14}").all()
    return frame.astype({"task_id": "int64"}) if whole else frame


def against_reference(judged: pd.DataFrame, baseline: str) -> tuple[str, pd.DataFrame]:
    """The level compared with most others (of equals the baseline, then P); the scores of the others."""
    import pandas as pd

    pairs = {frozenset(pair) for pair in zip(judged["level"], judged["against"], strict=True)}
    partners = Counter(level for pair in pairs for level in pair)
    ranks = {level: (count, level == baseline, level == "P") for level, count in sorted(partners.items())}
    reference = max(ranks, key=lambda level: ranks[level], default="")
    left, right = judged[judged["against"] == reference], judged[judged["level"] == reference]
    turned = right.assign(level=right["against"], against=right["level"], score=1.0 - right["score"])
    return reference, pd.concat([left, turned], ignore_index=True)


def cell_means(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """mean, std (n - 1) and count over the repeats of a board, model, level, task and turn; never of NaN."""
    good = frame.loc[frame["kept"] & frame[value].notna()]
    return good.groupby([*GROUP, "task_id", "turn"], dropna=False)[value].agg(["mean", "std", "count"])


def t_quantile(n: float) -> float:
    """Student's t(0.975, n - 1); NaN for a single value, and without scipy, which the empty cells say."""
    try:
        return student_quantile(n - 1) if n > 1 else math.nan
    except ImportError:
        return math.nan


def level_stats(frame: pd.DataFrame, value: str, baseline: str) -> pd.DataFrame:
    """STATS by board, model and level: the mean of the k task means, and mean ± t(0.975, k − 1) · s / √k.

    The interval is over tasks, since the repeats of one task move together (with one task: over its repeats).
    """
    tasks = cell_means(frame, value)["mean"].groupby([*GROUP, "task_id"]).mean()
    runs = frame[frame["kept"]].groupby(GROUP)[value].agg(n="count", std="std")
    stats = tasks.groupby(GROUP).agg(n_tasks="count", mean="mean", spread="std")
    stats = stats.assign(n=runs["n"], std=runs["std"])
    many = stats["n_tasks"] > 1
    k, spread = stats["n_tasks"].where(many, stats["n"]), stats["spread"].where(many, stats["std"])
    t = k.map(t_quantile).astype("float64")
    half, mean = t * spread / k**0.5, stats["mean"]
    stats = stats.assign(ci95_half=half, ci95_low=mean - half, ci95_high=mean + half)
    base = tasks[tasks.index.get_level_values("level") == baseline].droplevel("level").rename("base")
    both = tasks.rename("other").to_frame().join(base, on=["board", "model_id", "task_id"]).dropna()
    both = both.drop(baseline, level="level", errors="ignore").groupby(GROUP)
    means, least = both.mean().reindex(stats.index), both["base"].min().reindex(stats.index)
    stats["delta"] = means["other"] - means["base"]
    # Net energy may be negative, or too near zero to say: no percentage of that.
    stats["delta_percent"] = 100 * stats["delta"] / means["base"].where(least > 0)
    return stats[STATS]


class Sheets:
    """A workbook streamed to disk: text stays text, and a long table goes on in "name (2)"."""

    def __init__(self) -> None:
        from openpyxl import Workbook, cell, chart, drawing, formatting, utils
        from openpyxl.styles import Alignment, Font, PatternFill

        self.book, self.letter, self.new_cell = Workbook(True), utils.get_column_letter, cell.WriteOnlyCell
        self.used = {"summary", "pivot", "provenance", "notes", "flags"}
        self.texts, self.cleaned = dict[str, str](), Counter[str]()
        bold, look = Font("Calibri", bold=True), Alignment("center", "top", wrap_text=True)
        self.head = {"font": bold, "fill": PatternFill("solid", "E3E9F1"), "alignment": look}
        self.big, self.alarm = Font("Calibri", 13, True), Font("Calibri", 11, True, color="B00020")
        self.rule: Any = formatting.rule
        self.spoilt = PatternFill("solid", bgColor="D9D9D9")
        self.grey = chart.shapes.GraphicalProperties(ln=drawing.line.LineProperties(solidFill="BFC5CC"))

    def cell(self, sheet: Any, value: Any, number_format: Any = None, **style: Any) -> Any:
        """What to append: plain numbers and text as they are, else a cell of fixed type or style."""
        risky = False
        if isinstance(value, float):
            value = None if math.isnan(value) else int(value) if value.is_integer() else value
        elif isinstance(value, str):
            if value not in self.texts:
                self.texts[value] = clean_text(value, self.cleaned)
            value = self.texts[value]
            # "=1+1" would become a formula, "#N/A" an error; the quote prefix keeps it text when edited.
            value, risky, number_format = value or None, value[:1] in [*"=+-@\t\n#"], None
        if value is None or not (risky or style or number_format):
            return value
        cell = self.new_cell(sheet, value=value)
        if risky:
            cell.data_type, cell.quotePrefix = "s", True
        for name, setting in {"number_format": number_format or "General", **style}.items():
            setattr(cell, name, setting)
        return cell

    def rows(self, sheet: Any, frame: pd.DataFrame) -> None:
        """Append a header and rows; in slices, so that a million rows stay arrays."""
        first = [next((form for p, form in FORMATS.items() if re.search(p, name)), None) for name in frame]
        sheet.append([self.cell(sheet, name, **self.head) for name in frame])
        for start in range(0, len(frame), SLICE):
            for row in frame.iloc[start : start + SLICE].itertuples(index=False, name=None):
                sheet.append([self.cell(sheet, *pair) for pair in zip(row, first, strict=True)])

    def add(self, title: str, frame: pd.DataFrame, top: int = 1) -> Any:
        """An empty sheet with room for the frame: column widths, and a frozen header in row `top`."""
        sheet = self.book.create_sheet(title)
        sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
        sheet.sheet_properties.pageSetUpPr.fitToPage = True
        sheet.freeze_panes = f"A{top + 1}"
        sheet.row_dimensions[top].height = 16 * max(len(name.split()) for name in frame)
        for number, name in enumerate(frame, 1):
            words = [*name.split(), "123456789", *frame[name].head(300)]
            longest = max(len(word) for word in words if isinstance(word, str))
            sheet.column_dimensions[self.letter(number)].width = min(longest + 2.5, 110)
        return sheet

    def chart(self, title: str | None, table: pd.DataFrame, top: int, name: str) -> Any:
        """Chart of rows of the table below header row `top` of Summary; a line a model, interval bars."""
        from openpyxl.chart import LineChart, Reference, Series, data_source, error_bar

        chart: Any = LineChart()
        chart.title, chart.height, chart.width, chart.y_axis.number_format = title, 9, 18, "General"
        chart.x_axis.title, chart.y_axis.title = "level", f"{name}, mean and 95 % interval"
        chart.x_axis.delete, chart.y_axis.delete, chart.x_axis.tickLblPos = False, False, "low"
        chart.y_axis.majorGridlines.spPr = self.grey
        shown = table[[f"{name} {what}" for what in ("mean", "ci95_low", "ci95_high")]]
        # A spreadsheet scales the axis without the intervals. 1.5 x, cut to one digit, is never below x.
        ends = (min(0.0, shown.min().min()), max(0.0, shown.max().max()) or 1.0)
        ends = (0.0, 2 / 3) if name.startswith("win_rate") else ends
        chart.y_axis.scaling.min, chart.y_axis.scaling.max = (float(f"{1.5 * end:.1g}") for end in ends)
        for key, group in table.groupby([one for one in ("model_id", "board") if one in table], sort=False):
            cells = {}
            for column in ("level", f"{name} mean", f"{name} ci95_half"):
                letter = self.letter(list(table).index(column) + 1)
                first, last = top + 1 + group.index[0], top + 1 + group.index[-1]
                cells[column] = f"Summary!${letter}${first}:${letter}${last}"
            label = clean_text(" ".join(key)[:60], Counter())
            series = Series(Reference(range_string=cells[f"{name} mean"]), title=label)
            half = data_source.NumDataSource(data_source.NumRef(f=cells[f"{name} ci95_half"]))
            bars: Any = {"errDir": "y", "errBarType": "both", "errValType": "cust"}
            series.errBars = error_bar.ErrorBars(**bars, plus=half, minus=half, spPr=self.grey)
            series.smooth, series.marker.symbol, series.marker.size = False, "circle", 6
            chart.series.append(series)
            chart.set_categories(Reference(range_string=cells["level"]))
        return chart

    def paint(self, sheet: Any, frame: pd.DataFrame, scaled: Sequence[str], top: int = 1) -> None:
        """Colours over the cells: the higher a number of `scaled`, the deeper; runs in no mean are grey."""
        first, last = top + 1, top + max(len(frame), 1)
        letters = {name: self.letter(number) for number, name in enumerate(frame, 1)}
        if cells := " ".join(f"{letters[name]}{first}:{letters[name]}{last}" for name in scaled):
            sheet.conditional_formatting.add(cells, self.rule.ColorScaleRule(**SCALE))
        if "in_means" in letters:
            out = self.rule.FormulaRule([f'${letters["in_means"]}{first}="no"'], fill=self.spoilt)
            sheet.conditional_formatting.add(f"A{first}:{self.letter(len(letters))}{last}", out)

    def table(self, title: str, frame: pd.DataFrame, scaled: Sequence[str] = ()) -> Any:
        """The frame from A1 on, with a filter, in as many sheets as it needs; the first of them."""
        sheets: list[Any] = []
        for start in range(0, max(len(frame), 1), MAX_ROWS - 1):
            part = frame.iloc[start : start + MAX_ROWS - 1]
            sheets.append(self.add(free_title(title, self.used, " ({})") if sheets else title, part))
            sheets[-1].auto_filter.ref = f"A1:{self.letter(len(frame.columns))}{len(part) + 1}"
            self.rows(sheets[-1], part)
            self.paint(sheets[-1], part, scaled)
        return sheets[0]


def tidy(campaign: Campaign, model: str, value: str) -> pd.DataFrame:
    """One row per run of a model, or per verdict on its answers."""
    source = campaign.judged if value == "score" else campaign.runs
    part = source[source["model_id"] == model]
    if part.empty:
        part = part.reindex([0]).assign(flags="nothing of this model here; see Notes")
    part = part.assign(in_means=part["kept"].map({True: "yes", False: "no"}))
    columns = SCORE_COLUMNS if value == "score" else [*RUN_COLUMNS, value, "in_means", "error"]
    return part[[*dict.fromkeys([*columns, "flags"])]].drop(columns=campaign.hidden, errors="ignore")


def pivot(campaign: Campaign, value: str) -> pd.DataFrame:
    """Task × level: mean, std, n over the repeats (or verdicts); a task without a good run stays, empty."""
    import pandas as pd

    frame, index = campaign.frames[value], ["model_id", "board", "task_id", "turn"]
    wide = cell_means(frame, value).unstack("level").reorder_levels(index)
    columns = pd.MultiIndex.from_product([campaign.levels, ["mean", "std", "count"]]).swaplevel()
    wide = wide.reindex(index=pd.MultiIndex.from_frame(frame[index].drop_duplicates()), columns=columns)
    shown = {what: f"{campaign.names[value]} {what}" for what in ("mean", "std")} | {"count": "n"}
    wide.columns = pd.Index([f"{level} {shown[what]}" for what, level in columns], dtype=object)
    return wide.reset_index().drop(columns=[*campaign.hidden, *["turn"] * (frame["turn"].nunique() < 2)])


def summary(campaign: Campaign, value: str) -> pd.DataFrame:
    """Model × level: the statistics of one value, and beside them the means of the others."""
    import pandas as pd

    runs, judged = campaign.runs, campaign.judged
    judged = judged[~judged["model_id"].isin(runs["model_id"])]
    pairs = pd.concat([frame[["model_id", "board"]] for frame in (runs, judged)]).drop_duplicates()
    table = pairs.merge(pd.DataFrame({"level": campaign.levels}), how="cross")
    left_out = runs.assign(n_left_out=~runs["kept"]).groupby(GROUP)["n_left_out"].sum().reset_index()
    table = table.merge(left_out, how="left", on=GROUP) if value != "score" else table
    for other in sorted(campaign.names, key=lambda name: name != value):
        on = ["model_id", "level"] if other == "score" else GROUP  # a judge reads texts, which have no board
        stats = campaign.stats[other] if other == value else campaign.stats[other][["mean"]]
        named = {name: f"{campaign.names[other]} {name}" for name in stats if name[0] != "n"}
        stats = stats.rename(columns=named).reset_index()
        table = table.merge(stats[[*on, *stats.columns[3:]]], how="left", on=on)
    return table.drop(columns=campaign.hidden)


def flag_rows(campaign: Campaign, value: str) -> pd.DataFrame:
    """Runs with an error, a missing value or a flag; flags that every run carries are not repeated."""
    runs = campaign.runs
    words = {text: set(text.split()) for text in runs["flags"].unique()}
    shared = set.intersection(*words.values())
    rest = runs["flags"].map({text: " ".join(sorted(flags - shared)) for text, flags in words.items()})
    missing = runs[value].isna() if value in runs else runs["kept"] & False
    effect = runs["kept"].map({True: "kept", False: "left out of means"})
    effect += missing.map({True: f", no {value}", False: ""})
    told = {
        text: "; ".join(HARD_FLAG_MEANINGS[w] for w in HARD_FLAG_MEANINGS if w in flags)
        for text, flags in words.items()
    }
    why = runs["energy_missing"].where(runs["energy_missing"] != "", runs["flags"])
    why = why.replace("", "null, without a reason").where(missing, runs["flags"].map(told))
    reason = runs["error"].where(runs["error"] != "", why)
    listed = runs.assign(effect=effect, reason=reason, flags=rest)[missing | (rest + runs["error"] != "")]
    columns = ["model_id", "board", "task_id", "level", "turn", "repeat", "effect", "flags", "reason"]
    return listed[columns].drop(columns=campaign.hidden)


def write_book(path: Path, campaign: Campaign, value: str, title: str) -> None:
    """One workbook. Summary comes first and is filled first, since the charts lie over its cells."""
    import pandas as pd

    sheets, table, name = Sheets(), summary(campaign, value), campaign.names[value]
    top = len(campaign.remarks) + 3
    front = sheets.add("Summary", table, top)
    for text, font in [(title, sheets.big), *((remark, sheets.alarm) for remark in campaign.remarks)]:
        front.append([sheets.cell(front, text, font=font)])
    front.append([])
    sheets.rows(front, table)
    sheets.paint(front, table, [f"{name} mean"], top)
    front.add_chart(sheets.chart(None, table, top, name), f"A{top + len(table) + 2}")
    for _ in range(21):  # room for the chart
        front.append([])
    titles = []
    for model, lines in table.groupby("model_id", sort=False):
        frame = tidy(campaign, model, value)
        titles.append((model, free_title(model, sheets.used)))
        sheet, beside = sheets.table(titles[-1][1], frame, [value]), sheets.letter(len(frame.columns) + 2)
        sheet.add_chart(sheets.chart(titles[-1][1], lines, top, name), f"{beside}2")
    blocks = [("Sheets of the models", ["model_id", "sheet"], titles)]
    blocks += [table[1:] for table in campaign.about.get("tables", []) if table[0] in (None, value)]
    for heading, columns, rows in blocks:
        front.append([sheets.cell(front, heading, font=sheets.big)])
        sheets.rows(front, pd.DataFrame(rows, columns=columns))
        front.append([])
    wide = pivot(campaign, value)
    sheets.table("Pivot", wide, [column for column in wide if column.endswith(" mean")])
    sheets.table("Provenance", pd.DataFrame(campaign.about["provenance"], columns=["what", "name", "value"]))
    sheets.table("Flags", flag_rows(campaign, value))
    changed = [f"{count} texts had {cause}: replaced or cut" for cause, count in sheets.cleaned.items()]
    notes = [*NOTES.items(), *(("remark", text) for text in [*campaign.remarks, *changed])]
    sheets.table("Notes", pd.DataFrame(notes, columns=["about", "note"]))
    sheets.book.save(path)


def compute(args: argparse.Namespace, command: Sequence[str]) -> Campaign:
    """Read everything and compute."""
    with tempfile.TemporaryDirectory() as room:
        runs, about, remarks = read_runs(gathered(args, Path(room)))
    judged, more = read_scores(args.scores)
    runs, judged = in_order(runs.assign(kept=args.include_flagged | ~runs["hard"])), in_order(judged)
    simulated, out = int(runs["flags"].str.contains("simulated_power").sum()), int((~runs["kept"]).sum())
    first = f"SIMULATED POWER in {simulated:,} of {len(runs):,} runs: their energy is no measurement"
    last = f"{out:,} of {len(runs):,} runs left out of means: see Flags"
    reference, versus = against_reference(judged, args.baseline)
    frames = {**dict.fromkeys(NUMBERS[2:], runs), "score": versus}
    stats = {value: level_stats(frame, value, args.baseline) for value, frame in frames.items()}
    del stats["score"]["delta_percent"]
    if reference == args.baseline:  # against itself a level is even
        stats["score"]["delta"] = stats["score"]["mean"] - 0.5
    facts = {"command line": shlex.join(command), **{name: version(name) for name in ("pandas", "openpyxl")}}
    about["provenance"] = [*about.get("provenance", []), *(["aggregation", *fact] for fact in facts.items())]
    names = {value: value for value in frames} | {"score": f"win_rate_vs_{reference or args.baseline}"}
    levels = sorted({*runs["level"], *judged["level"], *judged["against"]})
    remarks = [first] * (simulated > 0) + remarks + more + [last] * (out > 0)
    hidden = ["board"] if runs["board"].nunique() < 2 else []
    return Campaign(runs, judged, frames, stats, names, levels, remarks, about, hidden)


def screen_table(campaign: Campaign) -> str:
    """Model × level for 80 columns: tokens out, latency, energy, win rate."""
    table, win = summary(campaign, "prompt_tokens"), campaign.names["score"]
    heads = {"completion_tokens": "tokens out", "latency_ms": "latency ms", "energy_joule": "energy J"}
    heads[win] = f"win {win[9:]}".replace("_", " ")
    lines = [f"{'model':24} {'level':7}" + "".join(f"{head:>12}" for head in heads.values())]
    for row in table.dropna(how="all", subset=[f"{name} mean" for name in heads]).to_dict("records"):
        label = " ".join(row[name][:24] for name in ("model_id", "board") if name in row)
        shown = [f"{row[f'{name} mean']:12,.{d}f}" for name, d in zip(heads, (1, 1, 3, 3), strict=True)]
        line = [*f"{label[:24]:24} {row['level'][:7]:7}", *"".join(shown).replace(" nan", "   -")]
        lines.append("".join(sign if sign.isprintable() else "?" for sign in line))
    return "\n".join([*lines, *(textwrap.fill(text, 80) for text in campaign.remarks)])


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__)
    parser.formatter_class, option = argparse.RawDescriptionHelpFormatter, parser.add_argument
    option("--runs", nargs="+", required=True, metavar="FILE", help="run records (JSON lines, .gz; globs)")
    option("--scores", type=Path, metavar="CSV", help="the judge's scores; may be missing or empty")
    option("--analysis", type=Path, metavar="JSON", help="of companions/analyze_levels.py, shown on Summary")
    option("--outdir", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    option("--baseline", default="L0", metavar="LEVEL", help="differences are against it; default: L0")
    option("--include_flagged", action="store_true", help="keep runs with an error or hard flag in means")
    option("--allow_mixed", action="store_true", help="average over mixed power scope, mode or model file")
    option("--parquet", type=Path, metavar="DIR", help="also write the records by board and model, for SQL")
    return parser


def write_all(campaign: Campaign, outdir: Path) -> None:
    """The four workbooks; the old ones are replaced only when all four are written."""
    outdir.mkdir(parents=True, exist_ok=True)
    for name, lock in itertools.product(BOOKS, (".~lock.{}#", "~${}")):  # LibreOffice's, Excel's
        if (outdir / lock.format(name)).exists():
            raise AggregateError(f"{outdir / name} is open in a spreadsheet; close it first")
    with tempfile.TemporaryDirectory(prefix=".part.", dir=outdir) as room:
        for name, (value, title) in BOOKS.items():
            print(f"writing {name}", file=sys.stderr)
            write_book(Path(room, name), campaign, value, title)
        for name in BOOKS:
            Path(room, name).replace(outdir / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    args = build_parser().parse_args(argv)
    try:
        campaign = compute(args, [Path(__file__).name, *(sys.argv[1:] if argv is None else argv)])
        write_all(campaign, args.outdir)
    except (UserError, *UNREADABLE) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = "\n".join([screen_table(campaign), *(f"wrote {args.outdir / name}" for name in BOOKS)])
    print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    return 0


if __name__ == "__main__":
    open_door(main)
