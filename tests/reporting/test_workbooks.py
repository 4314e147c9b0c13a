"""The four files: their sheets, what Summary says first, one model or forty, and what a full disk leaves."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from edgebench.errors import UserError
from edgebench.reporting import workbooks
from edgebench.reporting.study import Study
from tests.fakes.made_workbooks import FIXED, all_text, book_of, record, study_of, summary

LEVELS = ("L0", "L1", "P")


def silent(_: str) -> None:
    pass


def models(tmp_path: Path, count: int, tasks: Sequence[int] = (81, 82), **changes: Any) -> Study:
    rows = [
        record(
            id=task,
            model_id=f"m{model:02d}",
            level=level,
            latency_ms=1000.0 + 50 * k + task,
            **changes,
        )
        for model in range(count)
        for task in tasks
        for k, level in enumerate(LEVELS)
    ]
    return study_of(tmp_path, rows, "".join(f"81,w,m{n:02d},L0_vs_P,A,j,1\n" for n in range(count)))


@pytest.fixture(scope="module", params=[1, 4, 40])
def of_many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Study]:
    """(number of models, their study)"""
    return request.param, models(tmp_path_factory.mktemp("many"), request.param, tasks=(81,))


@pytest.mark.parametrize("value", ["latency_ms", "score"])
def test_a_workbook_is_whole_for_one_model_and_for_forty(
    tmp_path: Path, of_many: tuple[int, Study], value: str
) -> None:
    count, study = of_many
    book = book_of(study, tmp_path / "book.xlsx", value)
    sheets = openpyxl.load_workbook(book)
    assert sheets.sheetnames[0] == "Summary" == sheets.active.title
    assert set(sheets.sheetnames) == FIXED | {f"m{n:02d}" for n in range(count)}
    assert len(summary(book)) == count * (len(LEVELS) if value == "latency_ms" else 1)
    charts = sheets["Summary"]._charts
    assert len(charts) == (1 if count <= workbooks.MOST_LINES else 0)
    if not charts:  # forty lines in one chart tell nothing: a table of model by level stands there
        column = [cell.value for cell in sheets["Summary"]["A"]]
        assert any(str(text).endswith(", by model and level") for text in column)
    for name in [f"m{n:02d}" for n in range(count)]:
        sheet = sheets[name]
        (chart,) = sheet._charts
        assert chart.anchor._from.col >= sheet.max_column  # beside the rows, not over them
        assert sheet.freeze_panes == "A2" and sheet.auto_filter.ref.endswith(str(sheet.max_row))


def test_charts_draw_the_means_and_their_intervals(tmp_path: Path) -> None:
    places = [(task, k) for task in range(12) for k in range(3)]
    rows = [record(id=task, level=LEVELS[k], energy_joule=task / 7 + k) for task, k in places]
    study = study_of(tmp_path, rows)
    sheets = openpyxl.load_workbook(book_of(study, tmp_path / "book.xlsx", "energy_joule"))
    (chart,) = sheets["Summary"]._charts
    (line,) = chart.series
    cells = line.val.numRef.f.replace("'", "").split("!")
    drawn = [cell.value for (cell,) in sheets[cells[0]][cells[1]]]
    means = {row["level"]: row for row in study.analysis["level_means"] if row["metric"] == "energy_joule"}
    assert drawn == [means[level]["mean"] for level in study.analysis["levels"]]
    above = line.errBars.plus.numRef.f.replace("'", "").split("!")
    reach = [cell.value for (cell,) in sheets[above[0]][above[1]]]
    assert reach == pytest.approx([means[level]["ci95"][1] - means[level]["mean"] for level in LEVELS])
    axis = chart.y_axis
    assert axis.scaling.max >= max(means[level]["ci95"][1] for level in LEVELS)
    for tick in (axis.scaling.min, axis.scaling.max, axis.majorUnit):
        assert len(repr(tick)) < 8


def test_summary_begins_with_the_answer_and_what_must_be_known(tmp_path: Path) -> None:
    study = models(tmp_path, 1)
    sheet = openpyxl.load_workbook(book_of(study, tmp_path / "book.xlsx"))["Summary"]
    texts = [str(cell.value) for cell in sheet["A"] if cell.value]
    place = texts.index("Answer")
    assert texts[place + 1 : place + 4] == study.analysis["answer"]
    assert texts.index("Before it is quoted") < texts.index("Model") and texts.count("Answer") == 1
    assert all(f"– {caveat['text']}" in texts for caveat in study.analysis["caveats"])


def test_the_sheets_of_the_models_are_linked(tmp_path: Path) -> None:
    rows = [record(model_id=name) for name in ("a/b", "A:B", "Summary", "it's")]
    sheets = openpyxl.load_workbook(book_of(study_of(tmp_path, rows), tmp_path / "book.xlsx"))
    cells = [cell for cell in sheets["Summary"]["B"] if cell.hyperlink]
    links = {cell.value: cell.hyperlink.location or cell.hyperlink.target for cell in cells}
    assert set(links) == set(sheets.sheetnames) - FIXED and "Summary~2" in links
    assert links["it's"].endswith("'it''s'!A1")


@pytest.mark.parametrize("value", workbooks.BOOKS.values())
def test_simulated_power_is_said_in_every_workbook(tmp_path: Path, value: str) -> None:
    study = models(tmp_path, 1, flags=["simulated_power"])
    text = all_text(book_of(study, tmp_path / "book.xlsx", value))
    assert "SIMULATED POWER in 6 of 6 runs: their energy is no measurement" in text
    assert re.search(r"Energy net of idle, simulated(, mean)? \[J\]", text)


def test_boards_are_a_column_and_never_share_a_mean(tmp_path: Path) -> None:
    boards = {"Nano": 100.0, "AGX": 300.0}
    rows = [record(id=task, board=one, latency_ms=ms) for task in (1, 2) for one, ms in boards.items()]
    book = book_of(study_of(tmp_path, rows), tmp_path / "book.xlsx")
    means = summary(book)["Latency, mean [ms]"]
    assert means[("m", "Nano", "L0")] == 100 and means[("m", "AGX", "L0")] == 300
    frames = pd.read_excel(book, sheet_name=None)
    assert set(frames["m"]["Board"]) == {"Nano", "AGX"} == set(frames["Pivot"]["Board"])


@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_opens_hostile_workbooks(tmp_path: Path) -> None:
    names = ["=1+1", "@SUM(A1)", "a\x00b", "bad \ud800", "<script>", "x" * 300]
    places = [(name, level) for name in names for level in ("L0", "=L1")]
    rows = [record(model_id=name, id="=2+3", level=level, category="=4") for name, level in places]
    scores = '=1,=2,=1+1,L0_vs_=L1,A,"=HYPERLINK(""x"")",1\n'
    book = book_of(study_of(tmp_path, rows, scores), tmp_path / "book.xlsx")
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = ["soffice", profile, "--headless", "--convert-to", "csv", "--outdir", str(tmp_path), str(book)]
    subprocess.run(command, capture_output=True, timeout=120)
    text = (tmp_path / "book.csv").read_text(errors="replace")
    assert "=1+1" in text and "Err:" not in text


# --- files


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return models(tmp_path_factory.mktemp("study"), 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("lock", [".~lock.latency_per_run.xlsx#", "~$latency_per_run.xlsx"])
def test_a_workbook_that_is_open_elsewhere_is_not_touched(tmp_path: Path, study: Study, lock: str) -> None:
    workbooks.write_all(study, tmp_path, silent)
    (tmp_path / lock).touch()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"latency_per_run.xlsx is open in a spreadsheet; close it first"):
        workbooks.write_all(study, tmp_path, silent)
    assert contents(tmp_path) == before


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may become longer than 20 kB: what a full disk does to a workbook on its way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_replaces_nothing(tmp_path: Path, study: Study, full_disk: None) -> None:
    (tmp_path / "energy_per_run.xlsx").write_bytes(b"the old one")
    big = replace(study, runs=pd.concat([study.runs] * 300))
    told = r"cannot write the workbooks into .*: File too large; name another --outdir"
    with pytest.raises(UserError, match=told):
        workbooks.write_all(big, tmp_path, silent)
    assert contents(tmp_path) == {"energy_per_run.xlsx": b"the old one"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, study: Study) -> None:
    (tmp_path / "file").touch()
    told = r"cannot write the workbooks into .*below: Not a directory; name another --outdir"
    with pytest.raises(UserError, match=told):
        workbooks.write_all(study, tmp_path / "file" / "below", silent)
