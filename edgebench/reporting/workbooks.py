"""The four workbooks: which sheets they have, in which order, and what stands where on Summary.

Each is about one value: quality_scores.xlsx, energy_per_run.xlsx, latency_per_run.xlsx,
output_tokens_per_run.xlsx. Summary opens first: the answer and what must be known before it is quoted, then
model × level, a chart, and further tables of the analysis. Then a sheet a model, Pivot, Provenance, Flags and
Notes. What the tables hold stands in book_tables.py, how Excel gets it in sheets.py.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.hyperlink import Hyperlink
from openpyxl.worksheet.pagebreak import Break

from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of
from edgebench.reporting import book_tables as tables
from edgebench.reporting.book_tables import QUALITY
from edgebench.reporting.sheets import (
    ALARM,
    HEADING,
    LINK,
    TEXT_LAYOUT,
    TITLE,
    Book,
    Column,
    Line,
    free_title,
    line_chart,
    nice_axis,
    paint,
)
from edgebench.reporting.study import Study

TITLES = {
    QUALITY: "Quality: win rates in pairwise judging",
    "energy_joule": "Energy per run, net of idle [J]",
    "latency_ms": "Latency per run [ms]",
    "completion_tokens": "Output tokens per run",
}
BOOKS = {
    "quality_scores.xlsx": QUALITY,
    "energy_per_run.xlsx": "energy_joule",
    "latency_per_run.xlsx": "latency_ms",
    "output_tokens_per_run.xlsx": "completion_tokens",
}
DATA = "Chart data"
FIXED_SHEETS = ("Summary", "Pivot", "Provenance", "Flags", "Notes", DATA)
KEYS = ("model_id", "board", "judge_model")  # of a line of a chart
LOCKS = (".~lock.{}#", "~${}")  # of LibreOffice, of Excel
MOST_LINES = 8  # models that one chart can tell apart
CHART_ROWS = 20  # that a chart lies over
TEXT_WIDTH = 110.0  # characters of a line of text on Summary
FROZEN_MOST = 12  # rows above a header that may stay in sight: more would leave no room for the table
ROW_HEIGHT = 15.0  # points
WIDEST_HERE = 24.0  # characters of a column on Summary, but for the first: its tables share their columns


def write_all(
    study: Study, outdir: Path, tell: Callable[[str], None], cure: str = "name another --outdir"
) -> list[Path]:
    """The four workbooks; the old ones are replaced only when all four are written. Raises UserError.

    `tell` hears which one is being written; `cure` is what to do where the folder cannot be written.
    """
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        for name in BOOKS:
            if any((outdir / lock.format(name)).exists() for lock in LOCKS):
                raise UserError(f"{outdir / name} is open in a spreadsheet; close it first")
        with tempfile.TemporaryDirectory(prefix=".part.", dir=outdir) as room:
            for name, value in BOOKS.items():
                tell(f"writing {name}")
                write_book(Path(room, name), study, value)
            for name in BOOKS:
                Path(room, name).replace(outdir / name)
    except OSError as problem:
        why = reason_of(problem)
        raise UserError(f"cannot write the workbooks into {outdir}: {why}; {cure}") from None
    return [outdir / name for name in BOOKS]


def write_book(path: Path, study: Study, value: str) -> None:
    """One workbook. Raises OSError."""
    book = Book(reserved=FIXED_SHEETS)
    front = Front(book, study, value)
    models = model_sheets(book, study, value, front)
    front.finish(models)
    wide, columns = tables.pivot(study, value)
    book.table("Pivot", wide, columns)
    known = list(front.columns)
    source = pd.DataFrame(list(study.provenance), columns=["what", "name", "value"], dtype=object)
    book.table(
        "Provenance", source, [Column("what", "Source"), Column("name", "Field"), Column("value", "Value")]
    )
    flags, columns = tables.flag_rows(study, value)
    book.table("Flags", flags, columns)
    known += columns
    changed = [f"{count} texts had {cause}: replaced or cut" for cause, count in book.cleaned.items()]
    book.table("Notes", *tables.note_rows(study, known, changed))
    book.table(DATA, front.data, front.data_columns())
    book.save(path)


def model_sheets(book: Book, study: Study, value: str, front: Front) -> list[tuple[str, str]]:
    """A sheet with rows and a chart for each model; (model, title) of each."""
    is_judged = value == QUALITY
    columns = tables.verdict_columns(study) if is_judged else tables.run_columns(study, value)
    rows_of = tables.verdict_rows if is_judged else tables.run_rows
    front.columns += columns
    titles = []
    for model in dict.fromkeys(model for model, _ in tables.cases(study)):
        title = free_title(model, book.used)
        titles.append((model, title))
        sheet = book.table(title, rows_of(study, model, columns), columns, grey="in_means")
        if chart := front.chart(title, model):
            sheet.add_chart(chart, f"{get_column_letter(len(columns) + 2)}2")
    return titles


@dataclass
class Front:
    """The sheet Summary under way; `row` is the next free one."""

    book: Book
    study: Study
    value: str
    row: int = 1
    columns: list[Column] = field(default_factory=list)  # of every table so far, for Notes

    def __post_init__(self) -> None:
        self.sheet = self.book.sheet("Summary")
        self.frame, self.shown = tables.summary(self.study, self.value)
        self.keys = [key for key in KEYS if key in self.frame]
        self.drawn = "win_rate" if self.value == QUALITY else "mean"
        self.data = self.chart_data()
        self.more = [(heading, *table) for heading, table in self.further() if len(table[0])]
        self.width = self.fitting_columns()
        self.opening()
        self.top = self.row
        self.table(self.frame, self.shown)
        if self.top <= FROZEN_MOST:
            self.sheet.freeze_panes = f"A{self.top + 1}"
        self.picture()

    def fitting_columns(self) -> int:
        """Sets the widths of the sheet, and tells over how many columns a line of text may run."""
        for frame, columns in [(table[1], table[2]) for table in reversed(self.more)] + [
            (self.frame, self.shown)
        ]:
            self.book.widths(self.sheet, columns, frame, 1, WIDEST_HERE)
        self.sheet.row_dimensions[1].height = None
        width, count = 0.0, 0
        while width < TEXT_WIDTH and count < max(len(self.shown), 8):
            count += 1
            width += self.sheet.column_dimensions[get_column_letter(count)].width
        self.text_width = width
        return count

    def text(self, words: str, font: Any = None) -> None:
        """A line of text over the width of the page, as high as it must be."""
        style = {"alignment": TEXT_LAYOUT} | ({"font": font} if font else {})
        self.book.write(self.sheet, self.row, 1, words, **style)
        self.sheet.merge_cells(start_row=self.row, end_row=self.row, start_column=1, end_column=self.width)
        size = (font.size or 11) / 11 if font else 1.0
        lines = math.ceil(size * len(words) / self.text_width)
        self.sheet.row_dimensions[self.row].height = ROW_HEIGHT * max(1, lines) * max(1.0, size) + 2
        self.row += 1

    def opening(self) -> None:
        """Title, the alarm where power was simulated, the answer, what must be known of it."""
        study = self.study
        self.text(TITLES[self.value], TITLE)
        for words in alarms(study):
            self.text(words, ALARM)
        answer = list(study.analysis.get("answer") or [])
        if answer:
            self.row += 1
            self.text("Answer", HEADING)
            for words in [*answer, *(verdict["text"] for verdict in study.analysis.get("verdicts") or [])]:
                self.text(words)
        told = [caveat["text"] for caveat in study.analysis.get("caveats") or []]
        said = {*told, study.left_out} if told else set()
        told += [remark for remark in study.remarks if remark not in said]
        if told:
            self.row += 1
            self.text("Before it is quoted", HEADING)
            for words in told:
                self.text(f"– {words}")
        self.row += 1

    def table(self, frame: pd.DataFrame, columns: Sequence[Column]) -> None:
        """A table from column A on, below the row under way."""
        top = self.row
        self.book.header(self.sheet, top, columns)
        height = max(math.ceil(1.25 * len(one.label) / self.width_of(n)) for n, one in enumerate(columns, 1))
        self.sheet.row_dimensions[top].height = ROW_HEIGHT * height + 4
        for values in frame.itertuples(index=False, name=None):
            self.row += 1
            for number, (value, column) in enumerate(zip(values, columns, strict=True), 1):
                style = {} if column.number_format == "General" else {"number_format": column.number_format}
                self.book.write(self.sheet, self.row, number, value, **style)
        paint(self.sheet, columns, top + 1, max(self.row, top + 1))
        self.row += 2
        self.columns += columns

    def width_of(self, number: int) -> float:
        """The width of a column in characters."""
        return float(self.sheet.column_dimensions[get_column_letter(number)].width)

    def chart_data(self) -> pd.DataFrame:
        """What the charts draw: the mean of each row of Summary, and how far its interval reaches."""
        frame = self.frame.copy()
        frame["drawn"] = frame[self.drawn]
        for name, end in (("below", "ci95_low"), ("above", "ci95_high")):
            reach = frame[end].astype(float) if end in frame else pd.Series(math.nan, index=frame.index)
            frame[name] = (reach - frame["drawn"].astype(float)).abs()
        return frame

    def data_columns(self) -> list[Column]:
        """The columns of the sheet Chart data."""
        number = next((one.number_format for one in self.shown if one.name == self.drawn), "General")
        keys = [tables.text_column(key) for key in (*self.keys, "level")]
        return [
            *keys,
            Column("drawn", "Mean", "", number),
            Column("below", "Interval reaches down by", "", number),
            Column("above", "Interval reaches up by", "", number),
        ]

    def chart(self, title: str | None, model: str | None = None) -> Any:
        """The means over the levels, of one model or of all, or None where there is none."""
        if self.data.empty:  # no scores: the frame has no columns either
            return None
        frame = self.data if model is None else self.data[self.data["model_id"] == model]
        if not frame["drawn"].notna().any():
            return None
        place = {column.name: get_column_letter(n) for n, column in enumerate(self.data_columns(), 1)}
        lines = []
        for _, group in frame.groupby(self.keys, sort=False):
            rows = (2 + group.index[0], 2 + group.index[-1])
            cells = {
                name: f"'{DATA}'!${letter}${rows[0]}:${letter}${rows[1]}" for name, letter in place.items()
            }
            label = " · ".join(str(group[key].iloc[0]) for key in self.keys)
            bars = (cells["below"], cells["above"]) if group["above"].notna().any() else (None, None)
            lines.append(Line(label, cells["level"], cells["drawn"], *bars))
        mean = frame["drawn"].astype(float)
        low, high = (mean - frame["below"].fillna(0)).min(), (mean + frame["above"].fillna(0)).max()
        axis = nice_axis(min(0.0, low), max(0.0, high))
        if self.value == QUALITY:
            axis = replace(nice_axis(0.0, 1.0), number_format="0%")
        label = next(column.label for column in self.shown if column.name == self.drawn)
        return line_chart(title or "Mean, and 95 % interval over tasks", lines, axis, ("Level", label))

    def picture(self) -> None:
        """A chart of all models, or where they are too many for one a table of their means."""
        if len(self.frame.drop_duplicates(self.keys)) > MOST_LINES:
            self.matrix()
            return
        if chart := self.chart(None):
            self.sheet.row_breaks.append(Break(id=self.row - 1))
            self.sheet.add_chart(chart, f"A{self.row}")
            self.row += CHART_ROWS

    def matrix(self) -> None:
        """Model × level, the deeper the higher."""
        name = "win_rate" if self.value == QUALITY else "mean"
        keys = [key for key in ("model_id", "board", "judge_model") if key in self.frame]
        levels = [level for level in self.study.analysis["levels"] if level in set(self.frame["level"])]
        wide = (
            self.frame.pivot(index=keys, columns="level", values=name).reindex(columns=levels).reset_index()
        )
        mean = next(column for column in self.shown if column.name == name)
        columns = [tables.text_column(key) for key in keys]
        columns += [Column(level, level, mean.label, mean.number_format, True) for level in levels]
        self.text(f"{mean.label}, by model and level", HEADING)
        self.table(wide, columns)
        del self.columns[-len(levels) :]  # levels are no columns of the records

    def finish(self, models: Sequence[tuple[str, str]]) -> None:
        """Which sheet is which model, and what else the analysis says of this value."""
        self.text("Sheets of the models", HEADING)
        frame = pd.DataFrame(list(models), columns=["model_id", "sheet"], dtype=object)
        first = self.row + 1
        self.table(frame, [tables.text_column("model_id"), Column("sheet", "Sheet")])
        for number, (_, title) in enumerate(models):
            cell = self.sheet.cell(first + number, 2)
            place = title.replace("'", "''")
            cell.hyperlink = Hyperlink(ref=cell.coordinate, location=f"'{place}'!A1")
            cell.font = LINK
        for heading, frame, columns in self.more:
            self.text(heading, HEADING)
            self.table(frame, columns)

    def further(self) -> list[tuple[str, tuple[pd.DataFrame, list[Column]]]]:
        """Headings and tables below the chart."""
        if self.value == QUALITY:
            return [
                ("Win rates of all pairs", tables.win_rate_table(self.study)),
                ("Bradley-Terry strengths", tables.strength_table(self.study)),
                ("The judge's lean, taken out of graded win rates", tables.lean_table(self.study)),
            ]
        more = [("Differences within the same task", tables.paired_table(self.study, self.value))]
        if self.value == "latency_ms":
            waits = (
                "Waiting times: median and 95th percentile of single runs",
                tables.waiting_table(self.study),
            )
            more.insert(0, waits)
        return more


def alarms(study: Study) -> list[str]:
    """What stands in red at the top of every workbook."""
    if not study.simulated:
        return []
    count, total = study.simulated, len(study.runs)
    return [f"SIMULATED POWER in {count:,} of {total:,} runs: their energy is no measurement"]
