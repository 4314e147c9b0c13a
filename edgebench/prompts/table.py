"""Rows of a prompts file, whoever wrote it: CSV as Excel, pandas or a text editor leave it, or JSON lines.

Owns how a table becomes rows with their line numbers, and the cells that say by their content that something
went wrong before (#REF!, nan). What a row means stands in tasks.py and sources.py.

A CSV may have commas, semicolons, tabs or bars between its cells, Excel's `sep=` line before its header, any
line ends, UTF-8 with or without BOM or UTF-16 with one, line breaks inside quotes, blank lines and rows
without text. A row may end early: Excel leaves cells out at its end where 16 rows have none there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.records.csv_text import TableError, rows_of
from edgebench.records.jsonl import read_jsonl

# Column names by which a header is known, whatever stands between them.
KNOWN_NAMES = {
    "question_id", "id", "task_id", "category", "topic", "subject", "L0", "L1", "L2", "L3", "P",
    "text", "prompt", "question", "instruction", "input", "output", "content", "answer",
}  # fmt: skip
# Excel's error values, in any of its languages: #REF!, #BEZUG!, #NAME?, #DIV/0!; #N/A and its translations.
EXCEL_ERROR = re.compile(r"#[^\W\d_][\w/]*[!?]|#(N/A|NV|N/D|N/B)")
# As pandas writes a missing value: to_csv(na_rep=...), or str() of it.
PANDAS_MISSING = {"nan", "NaN", "-nan", "<NA>", "NaT"}


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
    columns: list[str] | None = None
    header_line = 1
    rows: list[Row] = []
    for line, cells in rows_of(path, path.read_bytes(), KNOWN_NAMES):
        if columns is None:
            columns, header_line = [name.strip() for name in cells], line
        else:
            rows.append(csv_row(path, line, columns, cells))
    names = [name for name in columns or () if name]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    return Table(path, list(dict.fromkeys(names)), rows, repeated, header_line)


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
