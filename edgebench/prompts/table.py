"""Rows of a prompts file, whoever wrote it: CSV as Excel, pandas or a text editor leave it, or JSON lines.

Owns how a table becomes rows with their line numbers, and the cells that say by their content that something
went wrong before (#REF!, nan). What a row means stands in tasks.py and sources.py.

A CSV may have commas, semicolons, tabs or bars between its cells, Excel's `sep=` line before its header, any
line ends, UTF-8 with or without BOM or UTF-16 with one, line breaks inside quotes, blank lines and rows
without text. A row may end early: Excel leaves cells out at its end where 16 rows have none there.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import read_jsonl

CELL_LIMIT_BYTE = 1 << 24  # Python's own limit of 128 KiB is less than a long placebo
DELIMITERS = (",", ";", "\t", "|")
# Column names by which a header is known, whatever stands between them.
KNOWN_NAMES = {
    "question_id", "id", "task_id", "category", "topic", "subject", "L0", "L1", "L2", "L3", "P",
    "text", "prompt", "question", "instruction", "input", "output", "content", "answer",
}  # fmt: skip
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
# Excel's error values, in any of its languages: #REF!, #BEZUG!, #NAME?, #DIV/0!; #N/A and its translations.
EXCEL_ERROR = re.compile(r"#[^\W\d_][\w/]*[!?]|#(N/A|NV|N/D|N/B)")
# As pandas writes a missing value: to_csv(na_rep=...), or str() of it.
PANDAS_MISSING = {"nan", "NaN", "-nan", "<NA>", "NaT"}
# What other programs save is known by its first bytes.
NO_TEXT_FILE = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "compressed by gzip"),
)


class TableError(UserError):
    """What the user can fix; the message names the file, the line and the cure."""


@dataclass(frozen=True)
class Row:
    """One row: its cells by column name, the line it begins at, and whether it ended before the header does.

    Names stand as in the file but without blanks around them; a cell that is absent is "".
    """

    line: int
    cells: Mapping[str, Any]
    is_short: bool = False


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the columns its header names twice."""

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]
    repeated: Sequence[str] = ()
    header_line: int = 1

    def use(self, columns: Iterable[str]) -> None:
        """Say that these columns will be read. TableError for one that the header names twice."""
        twice = [name for name in columns if name in self.repeated]
        if twice:
            where = f"{self.path} line {self.header_line}"
            raise TableError(f"{where}: two columns are called {twice[0]}; rename or delete one of them")

    def check_cell(self, row: Row, column: str) -> None:
        """TableError for a cell that holds an error value of Excel or a missing value of pandas."""
        check_cell(row.cells.get(column), f"{self.path} line {row.line}, column {column}")


def is_json_lines(path: Path) -> bool:
    """Whether a file is read as JSON lines: .jsonl, .jsonl.gz, .jsonl.txt."""
    return ".jsonl" in path.name


def read_table(path: Path) -> Table:
    """All rows of a CSV or JSONL file. TableError names the line; OSError where it cannot be opened."""
    return read_json_table(path) if is_json_lines(path) else read_csv_table(path)


def read_json_table(path: Path) -> Table:
    """Rows of a JSON lines file."""
    rows = []
    for line, record in read_jsonl(path):
        if record is None:
            raise TableError(f"{path} line {line}: not a JSON object; mend or delete that line")
        rows.append(Row(line, {name.strip(): value for name, value in record.items()}))
    return Table(path, list(dict.fromkeys(name for row in rows for name in row.cells)), rows)


# --- CSV ---


def read_csv_table(path: Path) -> Table:
    """Rows of a CSV file; rows without any text are passed over."""
    text = decoded(path, path.read_bytes())
    lines_before, separator, text = without_separator_line(text)
    delimiter = separator or find_delimiter(text)
    csv.field_size_limit(CELL_LIMIT_BYTE)
    columns: list[str] | None = None
    header_line = 1
    rows: list[Row] = []
    try:
        for line, cells in csv_records(text, delimiter):
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns, header_line = [name.strip() for name in cells], line + lines_before
                continue
            rows.append(csv_row(path, line + lines_before, columns, cells))
    except csv.Error as problem:
        raise TableError(f"{path}: not readable as UTF-8 CSV ({problem}); check its quotes") from None
    names = [name for name in columns or () if name]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    return Table(path, list(dict.fromkeys(names)), rows, repeated, header_line)


def csv_records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells) of each record."""
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1  # records.line_num is where one ends
    for cells in records:
        yield line, cells
        line = records.line_num + 1


def csv_row(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    """One record by its columns. TableError for text beyond the header, and for the header once more."""
    where = f"{path} line {line}"
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise TableError(f"{where}: not as many cells as the header has; check its quotes")
    if len(columns) > 1 and [cell.strip() for cell in cells[: len(columns)]] == list(columns):
        raise TableError(f"{where}: the header stands here again, as in joined files; delete that line")
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    by_name = {name: cell for name, cell in zip(columns, padded, strict=False) if name}
    return Row(line, by_name, len(cells) < len(columns))


def decoded(path: Path, content: bytes) -> str:
    """Text of a CSV file. TableError, with the line, for what is no UTF-8."""
    for beginning, what in NO_TEXT_FILE:
        if content.startswith(beginning):
            raise TableError(f"{path}: not readable as UTF-8 CSV (it is {what}); save it as CSV UTF-8")
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = len(re.findall(rb"\r\n|\r|\n", content[: problem.start])) + 1
        where = f"{path} line {line}" if encoding == "utf-8-sig" else str(path)
        raise TableError(f"{where}: not readable as UTF-8 CSV ({problem}); save it as CSV UTF-8") from None
    if "\0" in text:
        why = "it holds NUL characters, as UTF-16 without a mark does"
        raise TableError(f"{path}: not readable as UTF-8 CSV ({why}); save it as CSV UTF-8")
    return text


def without_separator_line(text: str) -> tuple[int, str | None, str]:
    """(lines taken off, the delimiter of Excel's first line `sep=;` or None, the text below it).

    >>> without_separator_line("sep=;\\r\\na;b")
    (1, ';', 'a;b')
    >>> without_separator_line("a;b")
    (0, None, 'a;b')
    """
    first = re.match(r"[^\r\n]*(\r\n|\r|\n|$)", text)
    assert first is not None  # it matches the empty text
    said = EXCEL_SEPARATOR.fullmatch(first[0].rstrip("\r\n"))
    return (1, said[1], text[first.end() :]) if said else (0, None, text)


def find_delimiter(text: str) -> str:
    """What stands between the cells of the header: the texts below may hold any of them.

    That by which most names are known; else the comma, unless the header then is one cell and is not with
    another.

    >>> find_delimiter("question_id;L0, short;L1"), find_delimiter("id,a;b,c;d"), find_delimiter("text")
    (';', ',', ',')
    """
    headers = {delimiter: header_cells(text, delimiter) for delimiter in DELIMITERS}
    known = {delimiter: len(KNOWN_NAMES.intersection(cells)) for delimiter, cells in headers.items()}
    if any(known.values()):
        return max(DELIMITERS, key=lambda delimiter: known[delimiter])
    if len(headers[","]) > 1:
        return ","
    return max(DELIMITERS, key=lambda delimiter: len(headers[delimiter]))


def header_cells(text: str, delimiter: str) -> list[str]:
    """The first record that holds anything; [] where it cannot be read so."""
    try:
        for _, cells in csv_records(text, delimiter):
            if any(cell.strip() for cell in cells):
                return [cell.strip() for cell in cells]
    except csv.Error:
        pass
    return []


# --- Cells that something went wrong with before ---


def check_cell(value: Any, where: str) -> None:
    """TableError, with the place, for an error value of Excel or a missing value of pandas."""
    if is_missing_number(value):
        raise TableError(f"{where}: the cell is NaN, a missing value; write the text, or leave the cell out")
    said = value.strip() if isinstance(value, str) else ""
    if EXCEL_ERROR.fullmatch(said) and said.isupper():
        raise TableError(
            f"{where}: the cell says {said}, an error of the spreadsheet; mend its formula, export again"
        )
    if said in PANDAS_MISSING:
        raise TableError(
            f"{where}: the cell says {said}, as pandas writes a missing value; empty it, or fillna('') before"
        )


def is_missing_number(value: Any) -> bool:
    """Whether a value is no number by its own account, as pandas and Parquet mark what is missing."""
    return isinstance(value, float) and math.isnan(value)
