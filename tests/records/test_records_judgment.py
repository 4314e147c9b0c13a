"""The judge's files: what is written is read back, and what others have made of it is read or named."""

import codecs
import csv
import dataclasses
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.records import judgment
from edgebench.records.csv_text import TableError
from edgebench.records.judgment import SCORE_COLUMNS, JournalLine, ScoreRow

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
FIELD_CASES = ROOT.parent / "shared" / "data" / "field-cases" / "judge"

HEADER = ",".join(SCORE_COLUMNS)
ROW = "81,writing,m,L0_vs_P,A,gpt-4o,1"


def scores(tmp_path: Path, text: str | bytes) -> judgment.Scores:
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return judgment.read_scores(path)


# --- the scores

NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(
    lambda name: name == name.strip()
)


@given(NAMES, NAMES, NAMES, st.sampled_from(["A", "B", "Tie"]), st.integers(1, 3))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, category: str, model: str, judge: str, winner: str, turn: int
) -> None:
    path = tmp_path_factory.mktemp("scores") / "s.csv"
    row = ScoreRow("81", category, model, "L0_vs_P", winner, judge, turn)
    judgment.write_scores(path, [row])
    found = judgment.read_scores(path)
    assert found.rows == [row] and not found.remarks


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "'=1", "''=1", "=HYPERLINK(1)"])
def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.csv"
    judgment.write_scores(path, [ScoreRow("=cmd()", name, "m", "L0_vs_P", "A", name, 1)])
    with path.open(newline="") as lines:
        cells = list(csv.reader(lines))[1]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r\n"]
    assert judgment.from_cell(cells[1]) == name


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW}\n",
        f"{HEADER}\r\n{ROW}\r\n\r\n".encode("utf-8-sig"),
        f"{HEADER}\n{ROW}\n".replace(",", ";"),
        f"sep=;\r\n{HEADER}\r\n{ROW}\r\n".replace(",", ";"),
        f"{HEADER}\n{ROW}\n".replace(",", "\t"),
        codecs.BOM_UTF16_LE + f"{HEADER}\n{ROW}\n".replace(",", "\t").encode("utf-16-le"),
        f"{HEADER}\n81.0,writing,m,L0_vs_P,A,gpt-4o,1.0\n",  # as pandas writes it
        "winner,pair,model_id,task_id,category,judge_model\na,L0_vs_P,m,81,writing,gpt-4o\n",
    ],
)
def test_a_scores_file_as_other_programs_save_it(tmp_path: Path, text: str | bytes) -> None:
    assert scores(tmp_path, text).rows == [ScoreRow("81", "writing", "m", "L0_vs_P", "A", "gpt-4o", 1)]


def test_packed(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\n{ROW}\n".encode()))
    assert len(judgment.read_scores(path).rows) == 1


@pytest.mark.parametrize("winner", ["C", "L0", "left", "", "A/B", "0"])
def test_an_unknown_winner_is_left_out_and_counted_never_a_tie(tmp_path: Path, winner: str) -> None:
    found = scores(tmp_path, f"{HEADER}\n{ROW}\n82,writing,m,L0_vs_P,{winner},gpt-4o,1\n")
    assert len(found.rows) == 1 and dict(found.unknown_winners) == {winner: 1}
    assert "1 row of the scores left out" in found.remarks[0] and repr(winner) in found.remarks[0]


def test_of_two_rows_of_a_pair_the_last_counts_whichever_level_stands_left(tmp_path: Path) -> None:
    found = scores(tmp_path, f"{HEADER}\n{ROW}\n81.0,writing,m,P_vs_L0,A,gpt-4o,1\n")
    assert [(row.pair, row.winner) for row in found.rows] == [("P_vs_L0", "A")]
    assert found.duplicates == 1 and "stands again" in found.remarks[0]


def test_rows_that_name_no_pair_are_counted(tmp_path: Path) -> None:
    bad = [",w,m,L0_vs_P,A,j,1", "81,w,,L0_vs_P,A,j,1", "81,w,m,L0,A,j,1", "81,w,m,L0_vs_L0,A,j,1", "81"]
    found = scores(tmp_path, "\n".join([HEADER, *bad, "81,w,m,L0_vs_P,A,j,two"]))
    assert not found.rows and found.malformed == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column task_id, model_id, pair, winner"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (f'{HEADER}\n81,"writing\n', "quotes"),
    ],
)
def test_what_is_no_scores_file_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(TableError, match=said):
        scores(tmp_path, text)


def test_an_empty_file_holds_no_row(tmp_path: Path) -> None:
    assert scores(tmp_path, "").rows == [] == scores(tmp_path, HEADER).rows


@pytest.mark.parametrize("case", ["german", "floatid", "nan"])
def test_scores_from_the_field(case: str) -> None:
    path = FIELD_CASES / case / "scores.csv"
    if not path.is_file():
        pytest.skip("the field cases are not on this machine")
    found = judgment.read_scores(path)
    assert found.rows and not found.remarks and {row.task_id for row in found.rows} >= {"81", "82"}


# --- the journal


def test_golden_lines_come_back_as_they_were() -> None:
    path = GOLDEN / "judge_journal.jsonl"
    written = [json.loads(line) for line in path.read_text().splitlines()]
    read = judgment.read_journal(path)
    assert read.torn == 0
    assert [line.to_dict() for line in read.lines] == written
    asked = next(line for line in read.lines if line.is_reply)
    assert list(json.loads(judgment.as_line(asked))) == list(written[0])


def test_a_line_of_another_age_is_read(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    old = {"task_id": 81.0, "model_id": "m", "pair": "L0_vs_P", "winner_side": "left", "new_field": 1}
    lines = [old, {"no": "game"}, {**old, "winner_side": "C", "raw_reply": 7, "turn": "2", "repeat": 3.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    first, last = judgment.read_journal(path).lines
    assert judgment.read_journal(path).torn == 2
    assert (first.task_id, first.left_level, first.right_level, first.winner_side) == (
        "81",
        "L0",
        "P",
        "left",
    )
    assert (last.turn, last.repeat, last.winner_side, last.is_reply) == (2, 3, None, False)


def test_sides_and_slots() -> None:
    line = JournalLine(left_level="L0", right_level="P", order="right_first")
    assert line.levels_by_slot == ("P", "L0")
    assert [line.side_of(verdict) for verdict in ("A", "B", "Tie", None)] == ["right", "left", "tie", None]
    turned = dataclasses.replace(line, order="left_first")
    assert [turned.side_of(verdict) for verdict in ("A", "B", "Tie")] == ["left", "right", "tie"]


def test_a_name_that_begins_with_a_tab_reads_back(tmp_path: Path) -> None:
    row = ScoreRow("1", "c", "\tmodel", "L0_vs_P", "A", "judge")
    judgment.write_scores(tmp_path / "scores.csv", [row])
    assert judgment.read_scores(tmp_path / "scores.csv").rows == [row]
