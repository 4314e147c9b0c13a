"""Records, scores and workbooks for the tests of this wing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import openpyxl
import pandas as pd

import aggregate_to_excels
from edgebench.reporting import workbooks
from edgebench.reporting.study import Study, Wanted, read_study

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BOOKS = ("quality_scores", "energy_per_run", "latency_per_run", "output_tokens_per_run")
FIXED = {"Summary", "Pivot", "Provenance", "Notes", "Flags", "Chart data"}
SCORES = "task_id,category,model_id,pair,winner,judge_model,turn\n"
T_975 = {1: 12.706204736432095, 2: 4.302652729911275, 3: 3.182446305284263}  # Student's t, published tables


def record(**changes: Any) -> dict[str, Any]:
    """A record with only the eight required names, changed as asked."""
    texts = {"id": 1, "model_id": "m", "level": "L0", "output_text": "text"}
    numbers = {"prompt_tokens": 10, "completion_tokens": 20, "latency_ms": 100.0, "energy_joule": 1.0}
    return {**texts, **numbers, **changes}


def write_runs(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    lines = "".join(json.dumps(one) + "\n" for one in records)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def study_of(tmp_path: Path, records: Sequence[Mapping[str, Any]], scores: str = "", **wanted: Any) -> Study:
    """What the workbooks show of these records and rows of scores."""
    runs = write_runs(tmp_path / "runs.jsonl", records)
    judged = tmp_path / "scores.csv"
    judged.write_text(SCORES + scores if scores else "")
    return read_study(Wanted([str(runs)], judged if scores else None, **wanted))


def aggregate(outdir: Path, *arguments: object) -> Path:
    """Run the script in this process; it must succeed."""
    assert aggregate_to_excels.main([*map(str, arguments), "--outdir", str(outdir)]) == 0
    return outdir


def one_book(name: str, outdir: Path, *arguments: object) -> Path:
    """Run the script as aggregate() does, but let it write this workbook only, in a quarter of the time."""
    with mock.patch.object(workbooks, "BOOKS", {f"{name}.xlsx": workbooks.BOOKS[f"{name}.xlsx"]}):
        return aggregate(outdir, *arguments) / f"{name}.xlsx"


def book_of(study: Study, path: Path, value: str = "latency_ms") -> Path:
    """One workbook of a study."""
    workbooks.write_book(path, study, value)
    return path


def summary(book: Path) -> pd.DataFrame:
    """The table on Summary, by model and level, under the labels; above and below it are other blocks."""
    rows = pd.read_excel(book, sheet_name="Summary", header=None).values.tolist()
    top = next(i for i, row in enumerate(rows) if row[0] == "Model")
    end = next((i for i in range(top, len(rows)) if not isinstance(rows[i][0], str)), len(rows))
    frame = pd.DataFrame(rows[top + 1 : end], columns=rows[top])
    return frame.set_index([name for name in ("Model", "Board", "Level") if name in frame])


def all_text(book: Path) -> str:
    sheets = openpyxl.load_workbook(book)
    return "\n".join(
        str(cell.value) for sheet in sheets for row in sheet.iter_rows() for cell in row if cell.value
    )
