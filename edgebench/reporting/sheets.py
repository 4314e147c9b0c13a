"""How a workbook is made: styles, tables of any length, charts. What they say stands in workbooks.py.

openpyxl lays out every sheet: header, widths, filter, colours, charts, comments. The rows of the tables are
written as text between the sheet's <sheetData> tags while the file is packed: a cell as an object costs more
than twenty times as much, and four workbooks of a million runs have fifty million cells. Source of the
format: ECMA-376, part 1, 18.3.1 (worksheets), with inline strings (18.3.1.53).

Text stays text: what begins like a formula or an error value gets the quote prefix that Excel itself gives
to such text, so that it is none even after it was edited.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.chart import LineChart, Reference, Series
from openpyxl.chart.data_source import NumDataSource, NumRef
from openpyxl.chart.error_bar import ErrorBars
from openpyxl.chart.shapes import GraphicalProperties
from openpyxl.comments import Comment
from openpyxl.drawing.line import LineProperties
from openpyxl.formatting import rule as openpyxl_rule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter

MAX_ROWS = 1_048_576  # of one sheet in the xlsx format
MAX_TEXT = 32_767  # UTF-16 units of one cell in the xlsx format
MAX_TITLE = 31  # characters of a sheet's name
SLICE = 50_000  # rows that are text at once
# A third faster than zlib's usual 6, and the file an eighth larger.
COMPRESSION = 4
ZIP64_BYTE = (
    1 << 31
)  # entries beyond it need the larger header, which Excel grumbles at where it is not needed
CELL_BYTE = 64  # of the XML of a cell, at most, beside its text
BOLD_WIDER = 1.1
NOTHING = 1e-100  # a span that no step can divide
LEAST_SPAN = 0.001  # of an axis, beside its largest value
WIDEST, NARROWEST = 100.0, 9.0  # columns, in characters
NUMERIC = "iuf"  # kinds of numpy's types
# openpyxl writes the lower error bar first; ECMA-376, 21.2.2.55, has the upper one first.
BARS_IN_ORDER = re.compile(rb"(<minus>.*?</minus>)(<plus>.*?</plus>)", re.DOTALL)
LOOKED_AT = 300  # rows of a table by which the widths are set

TITLE, HEADING = Font("Calibri", 14, bold=True), Font("Calibri", 12, bold=True)
PLAIN, BOLD, ALARM = (
    Font("Calibri"),
    Font("Calibri", bold=True),
    Font("Calibri", 11, bold=True, color="B00020"),
)
LINK = Font("Calibri", color="0B62A4", underline="single")
HEAD_FILL, GREY_FILL = PatternFill("solid", "E3E9F1"), PatternFill("solid", bgColor="D9D9D9")
HEAD_BORDER = Border(bottom=Side("thin", "8A939D"))
HEAD_LAYOUT, TEXT_LAYOUT = (
    Alignment("center", "center", wrap_text=True),
    Alignment("left", "top", wrap_text=True),
)
INDENTED = Alignment("left", indent=1)  # so that a text never touches the number before it
SCALE = {"start_type": "min", "start_color": "FFFFFF", "end_type": "max", "end_color": "F2B880"}
RULES: Any = openpyxl_rule  # its functions have no types
GREY_LINE = GraphicalProperties(ln=LineProperties(solidFill="BFC5CC"))
BAR_LINE = GraphicalProperties(ln=LineProperties(solidFill="5A6672", w=9525))


@dataclass(frozen=True)
class Column:
    """A column of a table: its name in the frame, its header, and what a reader may ask about it."""

    name: str
    label: str
    meaning: str = ""
    number_format: str = "General"
    is_scaled: bool = False  # the higher a number, the deeper its cell


@dataclass
class LongTable:
    """Rows that are written while the file is packed, below the header in row `top`."""

    sheet: Any
    frame: pd.DataFrame
    columns: Sequence[Column]
    top: int = 1


@dataclass(frozen=True)
class Line:
    """One series of a chart: the ranges in which its values stand, and how far its interval reaches."""

    label: str
    levels: str
    values: str
    below: str | None = None
    above: str | None = None


@dataclass(frozen=True)
class Axis:
    """The value axis of a chart: both ends, the step between ticks, and a format that shows it."""

    low: float
    high: float
    step: float
    number_format: str


# --- Text and numbers as cells take them ---


def clean_text(text: str, changes: Counter[str]) -> str:
    """The text as a cell can hold it; `changes` counts the texts that had to be altered, by cause.

    A text that reads as the escape of a character, "_x0041_", has its underscore escaped, or Excel would show
    "A" (ECMA-376, 22.9.2.19); Excel and LibreOffice show it as it was.

    >>> changes = Counter()
    >>> clean_text("a\\x00b", changes), dict(changes), clean_text("run_x0041_b", changes)
    ('a\\ufffdb', {'control characters': 1}, 'run_x005F_x0041_b')
    """
    clean = re.sub(r"\r\n?", "\n", text)
    clean, controls = re.subn(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", clean)
    clean, surrogates = re.subn(r"[\ud800-\udfff]", "\ufffd", clean)
    # Excel counts UTF-16 units.
    short = clean.encode("utf-16-le")[: 2 * MAX_TEXT].decode("utf-16-le", "ignore")
    causes = {"control characters": controls, "lone surrogates": surrogates, "too long": short != clean}
    changes.update(cause for cause, found in causes.items() if found)
    return re.sub(r"_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", short)


def is_risky(text: str) -> bool:
    """Whether a spreadsheet could take the text for a formula, a number or an error value.

    >>> [is_risky(text) for text in ("=1+1", "#N/A", "-", "L0")]
    [True, True, True, False]
    """
    return text[:1] in {"=", "+", "-", "@", "\t", "\n", "#"}


def free_title(wanted: str, used: set[str], suffix: str = "~{}") -> str:
    """A sheet name Excel accepts and not yet in `used` (case-insensitive), where it is added.

    >>> used = {"summary"}
    >>> free_title("a/b", used), free_title("A:B", used), free_title("Summary", used)
    ('a_b', 'A_B~2', 'Summary~2')
    """
    clean = re.sub(r"[\[\]:*?/\\\x00-\x1f\ud800-\udfff\ufffe-\U0010ffff]", "_", wanted)
    clean = clean.strip(" '") or "unnamed"
    title, number = clean[:MAX_TITLE].strip(" '"), 2
    while title.casefold() in used or title.casefold() == "history":  # Excel keeps History for itself
        ending = suffix.format(number)
        title, number = clean[: MAX_TITLE - len(ending)].strip(" '") + ending, number + 1
    used.add(title.casefold())
    return title


def number_format(places: int) -> str:
    """So many decimals, thousands apart.

    >>> number_format(0), number_format(2)
    ('#,##0', '#,##0.00')
    """
    return "#,##0" + ("." + "0" * places if places else "")


def nice_axis(low: float, high: float, ticks: int = 6) -> Axis:
    """An axis from below `low` to above `high` whose ticks are 1, 2 or 5 times a power of ten apart.

    >>> nice_axis(-0.084, 0.31)
    Axis(low=-0.1, high=0.4, step=0.1, number_format='#,##0.0')
    >>> nice_axis(0, 5230).step
    1000.0
    """
    # Values that hardly differ need no axis on which they do.
    span = max(high - low, LEAST_SPAN * max(abs(low), abs(high)))
    if span < NOTHING:
        span = 1.0
    power = math.floor(math.log10(span / ticks))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if span / (m * 10.0**power) <= ticks)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    # Rounded, or three steps of 0.1 would be 0.30000000000000004 in the file.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ends = [round(count * step, places) for count in (first, max(last, first + 1))]
    return Axis(ends[0], ends[1], round(step, places), number_format(places))


# --- Rows as text ---


class CellText:
    """What follows a cell's address: its style and its value, as XML."""

    def __init__(self, style: int, quoted_style: int, cleaned: Counter[str]) -> None:
        self.texts: dict[str, str] = {}
        self.style, self.quoted_style, self.cleaned = style, quoted_style, cleaned

    def of_text(self, value: Any) -> str:
        """A text, or nothing where there is none; each text is looked at once."""
        if value not in self.texts:
            text = clean_text(value, self.cleaned) if isinstance(value, str) else ""
            style = self.quoted_style if is_risky(text) else self.style
            space = ' xml:space="preserve"' if text != text.strip() else ""
            cell = f' s="{style}" t="inlineStr"><is><t{space}>{escape(text)}</t></is></c>'
            self.texts[value] = cell if text else ""
        return self.texts[value]

    def of_column(self, column: pd.Series[Any], style: int) -> list[str]:
        """The cells of a column: numbers in that style, missing ones are no cell at all."""
        if column.dtype.kind not in NUMERIC:
            return [self.of_text(value) for value in column]
        shown = f' s="{style}"' if style else ""
        values = column.to_numpy()
        if column.dtype.kind == "f" and not np.isfinite(values).all():
            return [
                f"{shown}><v>{value!r}</v></c>" if math.isfinite(value) else "" for value in values.tolist()
            ]
        if (
            column.dtype.kind == "f"
            and (values == values.round()).all()
            and np.abs(values).max(initial=0) < 1e15
        ):
            values = values.astype("int64")
        return [f"{shown}><v>{value!r}</v></c>" for value in values.tolist()]


def row_texts(table: LongTable, cells: CellText, styles: Sequence[int]) -> Iterator[str]:
    """The rows of a table as XML, in slices, so that a million rows stay arrays."""
    letters = [get_column_letter(number) for number in range(1, len(table.columns) + 1)]
    for start in range(0, len(table.frame), SLICE):
        part = table.frame.iloc[start : start + SLICE]
        first = table.top + 1 + start
        places = range(first, first + len(part))
        written = []
        for letter, column, style in zip(letters, table.columns, styles, strict=True):
            texts = cells.of_column(part[column.name], style)
            written.append(
                [
                    f'<c r="{letter}{place}"{text}' if text else ""
                    for place, text in zip(places, texts, strict=True)
                ]
            )
        rows = map("".join, zip(*written, strict=True))
        yield "".join(f'<row r="{place}">{row}</row>' for place, row in zip(places, rows, strict=True))


def text_size(table: LongTable) -> int:
    """How many bytes of XML the rows are, at most or nearly."""
    size = CELL_BYTE * int(table.frame.size)
    for column in table.columns:
        if table.frame[column.name].dtype.kind not in NUMERIC:
            counts = table.frame[column.name].value_counts()
            size += sum(4 * len(str(text)) * int(count) for text, count in counts.items())
    return size


# --- The workbook ---


@dataclass
class Book:
    """One workbook under way. `used` are the titles of its sheets, folded."""

    reserved: Sequence[str] = ()
    book: Any = field(default_factory=Workbook)
    used: set[str] = field(default_factory=set)
    cleaned: Counter[str] = field(default_factory=Counter)
    long: list[LongTable] = field(default_factory=list)

    def __post_init__(self) -> None:
        plain, quoted = WriteOnlyCell(self.book.active), WriteOnlyCell(self.book.active)
        plain.alignment = quoted.alignment = INDENTED
        quoted.quotePrefix = True
        self.cells = CellText(plain.style_id, quoted.style_id, self.cleaned)
        self.book.remove(self.book.active)
        self.used |= {title.casefold() for title in self.reserved}

    def sheet(self, title: str) -> Any:
        """An empty sheet that prints as wide as the page, its text in landscape."""
        sheet = self.book.create_sheet(title)
        sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
        sheet.page_setup.paperSize = sheet.PAPERSIZE_A4
        sheet.sheet_properties.pageSetUpPr.fitToPage = True
        return sheet

    def write(self, sheet: Any, row: int, column: int, value: Any, font: Any = PLAIN, **style: Any) -> Any:
        """One cell: text as text, missing as nothing."""
        cell = sheet.cell(row, column)
        if isinstance(value, str):
            text = clean_text(value, self.cleaned)
            if text:
                cell.alignment = INDENTED
                cell.value = text
                cell.data_type = "s"
                cell.quotePrefix = is_risky(text)
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            cell.value = value
        cell.font = font
        for name, setting in style.items():
            setattr(cell, name, setting)
        return cell

    def header(self, sheet: Any, row: int, columns: Sequence[Column]) -> None:
        """The header of a table, with the raw name and the meaning of each column as its comment."""
        for number, column in enumerate(columns, 1):
            look = {"fill": HEAD_FILL, "alignment": HEAD_LAYOUT, "border": HEAD_BORDER}
            cell = self.write(sheet, row, number, column.label, BOLD, **look)
            told = [
                text for text in (column.name if column.name != column.label else "", column.meaning) if text
            ]
            if told:
                text = clean_text("\n".join(told), self.cleaned)
                cell.comment = Comment(text, "edgebench", width=280, height=40 + 20 * (len(text) // 38 + 1))

    def widths(
        self, sheet: Any, columns: Sequence[Column], frame: pd.DataFrame, row: int, widest: float = WIDEST
    ) -> None:
        """Columns as wide as the words of their header and their values; the header as high as it must be."""
        lines = 1
        for number, column in enumerate(columns, 1):
            longest = math.ceil(BOLD_WIDER * max(len(word) for word in [*column.label.split(), ""]))
            shown = frame[column.name].head(LOOKED_AT)
            if shown.dtype.kind in NUMERIC:
                longest = (
                    max(longest, *(len(f"{value:,.0f}") + 4 for value in shown.abs().fillna(0)), 0)
                    if len(shown)
                    else longest
                )
            else:
                longest = max([longest, *(len(value) for value in shown if isinstance(value, str))])
            dimension = sheet.column_dimensions[get_column_letter(number)]
            # As wide as the widest table above or below it needs.
            before = dimension.width if dimension.customWidth else NARROWEST
            width = min(max(longest + 2.5, before), WIDEST if number == 1 else widest)
            dimension.width = width
            lines = max(lines, math.ceil(1.25 * len(column.label) / width))
        sheet.row_dimensions[row].height = 16 * lines + 2

    def table(
        self, title: str, frame: pd.DataFrame, columns: Sequence[Column], grey: str | None = None
    ) -> Any:
        """The frame from A1 on, with a filter, in as many sheets as it needs; the first of them.

        `grey`: a column whose rows with "no" are grey.
        """
        sheets: list[Any] = []
        self.used.add(title.casefold())
        for start in range(0, max(len(frame), 1), MAX_ROWS - 1):
            part = frame.iloc[start : start + MAX_ROWS - 1]
            sheet = self.sheet(free_title(title, self.used, " ({})") if sheets else title)
            sheets.append(sheet)
            self.header(sheet, 1, columns)
            self.widths(sheet, columns, part, 1)
            sheet.freeze_panes, sheet.print_title_rows = "A2", "1:1"
            last = max(len(part), 1) + 1
            sheet.print_area = f"A1:{get_column_letter(len(columns))}{last}"  # without a chart beside it
            sheet.auto_filter.ref = f"A1:{get_column_letter(len(columns))}{len(part) + 1}"
            paint(sheet, columns, 2, last, grey)
            self.long.append(LongTable(sheet, part, columns))
        for column in columns:  # now, so that it is known what had to be altered
            if frame[column.name].dtype.kind not in NUMERIC:
                for text in frame[column.name].unique():
                    self.cells.of_text(text)
        return sheets[0]

    def save(self, path: Path) -> None:
        """Pack the workbook. OSError where the file cannot be written."""
        skeleton = BytesIO()
        styles = {
            id(table): [style_of(table.sheet, column) for column in table.columns] for table in self.long
        }
        self.book.save(skeleton)
        tables = {table.sheet.path.removeprefix("/"): table for table in self.long}
        with (
            ZipFile(skeleton) as laid_out,
            ZipFile(path, "w", ZIP_DEFLATED, compresslevel=COMPRESSION) as packed,
        ):
            for name in laid_out.namelist():
                content = laid_out.read(name)
                if name not in tables:
                    packed.writestr(name, BARS_IN_ORDER.sub(rb"\2\1", content))
                    continue
                table = tables[name]
                head, end, tail = content.partition(b"</sheetData>")
                with packed.open(name, "w", force_zip64=text_size(table) > ZIP64_BYTE) as out:
                    out.write(with_extent(head, table))
                    for text in row_texts(table, self.cells, styles[id(table)]):
                        out.write(text.encode())
                    out.write(end + tail)


def style_of(sheet: Any, column: Column) -> int:
    """The number of the style in which a column's numbers are shown."""
    cell = WriteOnlyCell(sheet)
    cell.number_format = column.number_format
    return int(cell.style_id)


def with_extent(head: bytes, table: LongTable) -> bytes:
    """A sheet's XML up to its rows, with the extent that it will have with them."""
    last = f"{get_column_letter(len(table.columns))}{table.top + len(table.frame)}"
    return re.sub(rb'<dimension ref="[^"]*"', f'<dimension ref="A1:{last}"'.encode(), head, count=1)


def paint(sheet: Any, columns: Sequence[Column], first: int, last: int, grey: str | None = None) -> None:
    """Colours over the rows: the higher a number that is scaled, the deeper; rows with "no" in `grey` are

    grey. All scaled columns share one scale.
    """
    letters = {column.name: get_column_letter(number) for number, column in enumerate(columns, 1)}
    scaled = [letters[column.name] for column in columns if column.is_scaled]
    if scaled:
        cells = " ".join(f"{letter}{first}:{letter}{last}" for letter in scaled)
        sheet.conditional_formatting.add(cells, RULES.ColorScaleRule(**SCALE))
    if grey in letters:
        out = RULES.FormulaRule([f'${letters[grey]}{first}="no"'], fill=GREY_FILL)
        sheet.conditional_formatting.add(f"A{first}:{get_column_letter(len(columns))}{last}", out)


# --- Charts ---


def line_chart(title: str | None, lines: Sequence[Line], axis: Axis, names: tuple[str, str]) -> Any:
    """Means over the levels with their intervals, a line a model. `names`: of the levels, of the values."""
    chart: Any = LineChart()
    chart.title, chart.height, chart.width = title, 9, 18
    chart.x_axis.title, chart.y_axis.title = names
    chart.x_axis.delete, chart.y_axis.delete, chart.x_axis.tickLblPos = False, False, "low"
    chart.y_axis.majorGridlines.spPr = GREY_LINE
    chart.y_axis.number_format, chart.y_axis.majorUnit = axis.number_format, axis.step
    chart.y_axis.scaling.min, chart.y_axis.scaling.max = axis.low, axis.high
    if len(lines) == 1:
        chart.legend = None
    else:
        chart.legend.position = "b"
    for line in lines:
        series = Series(Reference(range_string=line.values), title=clean_text(line.label[:60], Counter()))
        series.smooth, series.marker.symbol, series.marker.size = False, "circle", 6
        if line.above and line.below:
            bars: Any = {"errDir": "y", "errBarType": "both", "errValType": "cust", "spPr": BAR_LINE}
            above, below = (NumDataSource(numRef=NumRef(f=cells)) for cells in (line.above, line.below))
            series.errBars = ErrorBars(**bars, plus=above, minus=below)
        chart.series.append(series)
        chart.set_categories(Reference(range_string=line.levels))
    return chart
