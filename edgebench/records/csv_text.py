"""Text of a CSV file as Excel, pandas or a text editor leave it: its encoding, its delimiter, its records.

Commas, semicolons, tabs or bars between the cells, Excel's `sep=` line before the header, any line ends,
UTF-8 with or without BOM or UTF-16 with one, line breaks inside quotes. What the cells mean stands elsewhere.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from edgebench.errors import UserError

CELL_LIMIT_BYTE = 1 << 24  # Python's own limit of 128 KiB is less than a long placebo
DELIMITERS = (",", ";", "\t", "|")
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
# What other programs save is known by its first bytes.
NO_TEXT_FILE = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "compressed by gzip"),
)


class TableError(UserError):
    """What the user can fix; the message names the file, the line and the cure."""


def rows_of(path: Path, content: bytes, known_names: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells) of each row of a file with any text in it; `path` is for messages.

    TableError, with the line where it is known, for what is no CSV in UTF-8 or UTF-16.
    """
    lines_before, separator, text = without_separator_line(decoded(path, content))
    csv.field_size_limit(CELL_LIMIT_BYTE)
    try:
        for line, cells in csv_records(text, separator or find_delimiter(text, known_names)):
            if any(cell.strip() for cell in cells):
                yield line + lines_before, cells
    except csv.Error as problem:
        raise TableError(f"{path}: not readable as UTF-8 CSV ({problem}); check its quotes") from None


def csv_records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells) of each record."""
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1  # records.line_num is where one ends
    for cells in records:
        yield line, cells
        line = records.line_num + 1


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


def find_delimiter(text: str, known_names: Collection[str]) -> str:
    """What stands between the cells of the header: the texts below may hold any of them.

    That by which most of the known names are found; else the comma, unless the header then is one cell and is
    not with another.

    >>> known = {"question_id", "id", "L0", "L1"}
    >>> [find_delimiter(text, known) for text in ("question_id;L0, short;L1", "id,a;b,c;d", "text")]
    [';', ',', ',']
    """
    headers = {delimiter: header_cells(text, delimiter) for delimiter in DELIMITERS}
    named = {delimiter: len(set(cells).intersection(known_names)) for delimiter, cells in headers.items()}
    if any(named.values()):
        return max(DELIMITERS, key=lambda delimiter: named[delimiter])
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
