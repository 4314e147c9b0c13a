"""What Excel gets: text that stays text, numbers with every digit, tables of any length, charts."""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.reporting import sheets
from edgebench.reporting.sheets import Book, Column, Line, clean_text, free_title, line_chart, nice_axis

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "#N/A", "a\x00b", "bad \ud800"]
HOSTILE += ["<script>alert(1)</script>", "x" * 40_000, "a/b:c*d?[e]", "A/B:C*D?[E]", "Summary"]
HOSTILE += ["history", "'q'", "", " ", "\U0001f600" * 20, "&amp; ]]>", " spaced ", "two\nlines", "_x0041_"]


def saved(path: Path, frame: pd.DataFrame, columns: list[Column] | None = None, **how: Any) -> Path:
    book = Book()
    book.table("Data", frame, columns or [Column(str(name), str(name)) for name in frame], **how)
    book.save(path)
    return path


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.lists(st.floats(allow_nan=True, allow_infinity=False, width=64), min_size=1, max_size=8),
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], text: str
) -> None:
    path = tmp_path_factory.mktemp("sheets") / "book.xlsx"
    frame = pd.DataFrame({"number": numbers, "text": pd.Series([text] * len(numbers), dtype=object)})
    sheet = openpyxl.load_workbook(saved(path, frame))["Data"]
    read = [(a.value, b.value) for a, b in sheet.iter_rows(min_row=2, max_row=len(numbers) + 1, max_col=2)]
    shown = clean_text(text, Counter()) or None
    expected = [(None if math.isnan(number) else number, shown) for number in numbers]
    assert read == expected


def test_hostile_text_is_no_formula_and_no_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "book.xlsx", pd.DataFrame({"text": pd.Series(HOSTILE, dtype=object)}))
    cells = [cell for (cell,) in openpyxl.load_workbook(path)["Data"].iter_rows(min_row=2)]
    assert not [cell for cell in cells if cell.data_type in "fe"]
    expected = [clean_text(text, Counter()) or None for text in HOSTILE]
    assert [cell.value for cell in cells][: len(HOSTILE)] == expected
    assert [bool(cell.quotePrefix) for cell in cells[:7]] == [True] * 7
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            tree = ElementTree.fromstring(archive.read(name))
            assert not [tag for tag in tree.iter() if tag.tag.endswith("}f") and "worksheets" in name]


def test_what_had_to_be_altered_is_counted_before_the_file_is_written() -> None:
    book = Book()
    book.table("Data", pd.DataFrame({"text": pd.Series(HOSTILE, dtype=object)}), [Column("text", "Text")])
    assert book.cleaned == {"control characters": 1, "lone surrogates": 1, "too long": 1}


def test_titles_are_what_excel_takes_and_each_is_there_once() -> None:
    used = {"summary"}
    alike = [f"a-name-that-many-models-share-{n}" for n in range(10)]
    titles = [free_title(text, used) for text in [*HOSTILE, *alike]]
    assert len({title.casefold() for title in titles}) == len(titles)
    assert max(map(len, titles)) <= 31 and not [title for title in titles if set(title) & set("[]:*?/\\")]
    assert all(title.strip("'") == title and title for title in titles)


def test_numbers_have_their_columns_format_and_every_digit(tmp_path: Path) -> None:
    columns = [Column("joule", "Energy [J]", "net", "#,##0.00", True), Column("n", "n")]
    frame = pd.DataFrame({"joule": [1.23456789, math.nan, 3.0], "n": [1, 2, 3]})
    sheet = openpyxl.load_workbook(saved(tmp_path / "b.xlsx", frame, columns))["Data"]
    assert [cell.value for cell in sheet["A"]] == ["Energy [J]", 1.23456789, None, 3]
    assert sheet["A2"].number_format == "#,##0.00" and sheet["B2"].number_format == "General"
    assert sheet["A1"].comment.text == "joule\nnet" and sheet["B1"].comment is None
    (scale,) = sheet.conditional_formatting
    assert str(scale.sqref) == "A2:A4" and scale.rules[0].type == "colorScale"


def test_long_tables_go_on_in_numbered_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MAX_ROWS", 21)
    book = Book()
    book.table("m" * 31, pd.DataFrame({"task": range(50)}), [Column("task", "Task")])
    book.save(tmp_path / "book.xlsx")
    frames = pd.read_excel(tmp_path / "book.xlsx", sheet_name=None)
    parts = [frames[name] for name in ("m" * 31, "m" * 27 + " (2)", "m" * 27 + " (3)")]
    assert [len(part) for part in parts] == [20, 20, 10]
    assert pd.concat(parts)["Task"].tolist() == list(range(50))


def test_slices_give_the_same_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"number": [n / 7 for n in range(50)], "text": [f"t{n % 3}" for n in range(50)]})
    whole = pd.read_excel(saved(tmp_path / "whole.xlsx", frame))
    monkeypatch.setattr(sheets, "SLICE", 8)
    pd.testing.assert_frame_equal(whole, pd.read_excel(saved(tmp_path / "sliced.xlsx", frame)))
    pd.testing.assert_frame_equal(whole, frame)


def test_a_sheet_says_how_far_it_reaches_and_filters_all_of_it(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "book.xlsx", pd.DataFrame({"a": range(5), "b": ["yes", "no"] * 2 + ["yes"]}), grey="b"
    )
    with zipfile.ZipFile(path) as archive:
        xml = archive.read("xl/worksheets/sheet1.xml").decode()
    assert '<dimension ref="A1:B6"' in xml and '<autoFilter ref="A1:B6"' in xml
    sheet = openpyxl.load_workbook(path)["Data"]
    (rule,) = sheet.conditional_formatting
    assert str(rule.sqref) == "A2:B6" and rule.rules[0].formula == ['$B2="no"']
    assert sheet.freeze_panes == "A2"
    assert openpyxl.load_workbook(path, read_only=True)["Data"].max_row == 6


def test_an_empty_table_is_a_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "book.xlsx", pd.DataFrame({"a": [], "b": pd.Series([], dtype=object)}))
    assert pd.read_excel(path).empty


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_an_axis_holds_its_values_and_its_ticks_are_short_numbers(low: float, span: float) -> None:
    axis = nice_axis(low, low + span)
    assert axis.low <= low + 1e-6 * axis.step and axis.high >= low + span - 1e-6 * axis.step
    assert 1 <= round((axis.high - axis.low) / axis.step) <= 9
    places = len(axis.number_format.partition(".")[2])
    for tick in (axis.low, axis.high, axis.step):
        assert tick == round(tick, places) and len(repr(tick)) <= 12  # not -0.0999999999999999


def test_error_bars_are_in_the_order_of_the_format_and_name_their_cells(tmp_path: Path) -> None:
    book = Book()
    sheet = book.table("Data", pd.DataFrame({"level": ["L0"], "mean": [1.0], "half": [0.1]}), [
        Column(name, name) for name in ("level", "mean", "half")
    ])  # fmt: skip
    line = Line("model", "'Data'!$A$2:$A$2", "'Data'!$B$2:$B$2", "'Data'!$C$2:$C$2", "'Data'!$C$2:$C$2")
    sheet.add_chart(line_chart("Title", [line], nice_axis(-0.08, 0.3), ("Level", "J")), "E2")
    book.save(tmp_path / "book.xlsx")
    with zipfile.ZipFile(tmp_path / "book.xlsx") as archive:
        xml = archive.read("xl/charts/chart1.xml").decode()
    bars = xml[xml.index("<errBars>") : xml.index("</errBars>")]
    assert bars.index("<plus>") < bars.index("<minus>") and bars.count("'Data'!$C$2:$C$2") == 2
    assert re.search(r'<min val="-0.1" ?/>', xml) and re.search(r'<majorUnit val="0.1" ?/>', xml)
    assert re.search(r'<numFmt formatCode="#,##0.0" sourceLinked="0" ?/>', xml)
