"""What users bring as prompts files is read, and what cannot be read is named by file and line."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from edgebench.errors import UserError
from edgebench.prompts.tasks import Task, wanted_tasks

ROOT = Path(__file__).resolve().parents[2]
HEADER = "question_id,category,topic,L0,L1,L2,L3,P"


def tasks_of(path: Path, **choice: Any) -> list[Task]:
    return wanted_tasks([path], **choice)


def error_of(*paths: Path, **choice: Any) -> str:
    """The one line that says what is wrong with the files."""
    with pytest.raises(UserError) as caught:
        wanted_tasks(paths, **choice)
    message = str(caught.value)
    assert "\n" not in message
    return message


def row(identity: object, *levels: str) -> str:
    return f"{identity},writing,topic," + ",".join(levels)


@pytest.mark.parametrize(
    "data",
    [
        f"{HEADER}\n{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')}\n".encode(),
        f"{HEADER}\r\n{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')}\r\n".encode(),
        f"\N{BYTE ORDER MARK}{HEADER}\n{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')}".encode(),
        f"{HEADER}\n\n{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')}\n\n".encode(),
        f"extra,{HEADER},more\nx,{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')},y\n".encode(),
        f"{HEADER}\n{row(1, 'a', 'a b', 'a b c', 'a b c d', 'a b c d e')},,\n".encode(),
    ],
    ids=["LF", "CRLF", "BOM, no last newline", "blank lines", "extra columns", "empty cells beyond"],
)
def test_csv_of_any_make(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "prompts.csv"
    path.write_bytes(data)
    (task,) = tasks_of(path)
    assert task.id == 1
    assert task.levels == {"L0": "a", "L1": "a b", "L2": "a b c", "L3": "a b c d", "P": "a b c d e"}
    assert len(task.levels) == 5


def test_line_breaks_inside_quotes_and_unicode_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f'{HEADER}\n7,c,t,"a\n\n\u2028é ""q""",b,c,d,e\n', encoding="utf-8", newline="")
    assert tasks_of(path)[0].levels["L0"] == 'a\n\n\u2028é "q"'


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.txt"])
def test_jsonl_with_blank_lines_crlf_and_missing_levels(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = [{"question_id": "x-1", "L0": "a", "L1": "ab", "more": 1}, {"task_id": 2, "L0": "c", "L1": ""}]
    path.write_bytes(b"\r\n".join(json.dumps(line).encode() for line in lines) + b"\r\n\r\n")
    first, second = tasks_of(path)
    assert (first.id, first.levels) == ("x-1", {"L0": "a", "L1": "ab"})
    assert (second.id, second.levels) == (2, {"L0": "c"})


def test_an_empty_cell_is_a_level_to_skip(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\n{row(1, 'a', ' ', 'c', 'd', 'e')}\n")
    (task,) = tasks_of(path)
    assert list(task.levels) == ["L0", "L2", "L3", "P"]


def test_other_level_names_ids_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,short,long\n1,a,ab\n2,c,cd\n3,e,ef\n")
    assert [task.id for task in tasks_of(path, levels=["short", "long"], limit=2)] == [1, 2]
    assert [task.id for task in tasks_of(path, levels=["long"], ids=["3", "1"])] == [1, 3]


BAD = {
    "missing file": (None, {}, "no such prompts file"),
    "empty file": (b"", {}, "is empty"),
    "header only": (HEADER.encode(), {}, "holds no tasks"),
    "no id column": (b"L0,L1,L2,L3,P\na,b,c,d,e\n", {}, "line 2: no question_id"),
    "no level column": (b"question_id,L0,L1,L2,P\n1,a,b,c,d\n", {}, "no column L3"),
    "duplicate id": (
        f"{HEADER}\n{row(1, *'abcde')}\n{row(1, *'fghij')}\n".encode(), {}, "line 3: question_id 1 stands",
    ),
    "open quote": (f'{HEADER}\n1,w,t,"a,b,c,d,e\n'.encode(), {}, "not readable as UTF-8 CSV"),
    "latin-1": (HEADER.encode() + "\n1,w,t,é,b,c,d,e\n".encode("latin-1"), {}, "not readable as UTF-8 CSV"),
    "unknown level": (f"{HEADER}\n{row(1, *'abcde')}\n".encode(), {"levels": ["L9"]}, "no column L9"),
    "unknown id": (f"{HEADER}\n{row(1, *'abcde')}\n".encode(), {"ids": ["5"]}, "no task 5"),
    "no text at all": (f"{HEADER}\n1,w,t,,,,,\n".encode(), {}, "no task has text"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "choice", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_error_line(
    tmp_path: Path, data: bytes | None, choice: dict[str, Any], message: str
) -> None:
    path = tmp_path / "prompts.csv"
    if data is not None:
        path.write_bytes(data)
    assert message in error_of(path, **choice)


def test_a_broken_json_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 1, "L0": "a"}\n\n{"id": 2, "L0"\n')
    assert "p.jsonl line 3" in error_of(path, levels=["L0"])


def test_second_turns_come_from_the_question_set(tmp_path: Path) -> None:
    path, questions = tmp_path / "p.csv", tmp_path / "q.jsonl.txt"
    path.write_text(f"{HEADER}\n{row(1, *'abcde')}\n{row(2, *'fghij')}\n")
    questions.write_text(
        '{"question_id": "1", "turns": ["a", "and then?"]}\n{"question_id": 2, "turns": ["f", "so?"]}\n'
    )
    assert [task.second for task in tasks_of(path, questions=questions)] == ["and then?", "so?"]
    questions.write_text('{"question_id": 1, "turns": ["a", "and then?"]}\n')
    assert "no second question for task 2" in error_of(path, questions=questions)


def test_the_same_id_in_two_files_names_both(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"{HEADER}\n{row(1, *'abcde')}\n")
    message = error_of(tmp_path / "a.csv", tmp_path / "b.csv")
    assert "a.csv line 2" in message and "b.csv line 2" in message


# --- CSV as Excel, pandas and other programs leave it

FIELD_CASES = ROOT.parent / "shared/data/field-cases/collector/csv"
TWO = {"L0": "a; b", "L1": "c, d\te"}  # texts with what may stand between cells


def levels_of(path: Path, *levels: str) -> dict[int | str, dict[str, str]]:
    return {task.id: task.levels for task in tasks_of(path, levels=list(levels))}


@pytest.mark.parametrize(
    "content",
    [
        'question_id;category;L0;L1\r\n1;w;"a; b";c, d\te\r\n',
        'question_id\tcategory\tL0\tL1\r\n1\tw\ta; b\t"c, d\te"\r\n',
        'question_id|category|L0|L1\n1|w|a; b|c, d\te\n',
        'question_id,category,L0,L1\n1,w,a; b,"c, d\te"\n',
        'sep=,\r\nquestion_id,category,L0,L1\r\n1,w,a; b,"c, d\te"\r\n',
        'sep=;\r\nquestion_id;category;L0;L1\r\n1;w;"a; b";c, d\te\r\n',
        '"sep=;"\nquestion_id;category;L0;L1\n1;w;"a; b";c, d\te\n',
        'SEP=\t\nquestion_id\tcategory\tL0\tL1\n1\tw\ta; b\t"c, d\te"\n',
        'question_id,category,L0,L1\r1,w,a; b,"c, d\te"\r',
        '\r\n\r\nquestion_id,category,L0,L1\r\n1,w,a; b,"c, d\te"\r\n',
        '"question_id";"category";"L0";"L1"\n"1";"w";"a; b";"c, d\te"\n',
        'question_id,category,L0,L1,,\n1,w,a; b,"c, d\te",,\n,,,,,\n , ,,,,\n',
        'question_id;category;L0;L1;a note, or two\n1;w;"a; b";c, d\te;x\n',
    ],
    ids=[
        "semicolons", "tabs", "bars", "commas", "sep comma", "sep semicolon", "sep quoted", "sep tab",
        "CR only", "blank lines first", "all quoted", "empty rows and columns", "a comma in the header",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content.encode(encoding))
    (task,) = tasks_of(path, levels=["L0", "L1"])
    assert (task.id, task.category, task.levels) == (1, "w", TWO)


def test_utf16_of_either_byte_order_is_read_and_without_a_mark_named(tmp_path: Path) -> None:
    path, text = tmp_path / "p.csv", "question_id\tL0\n1\tgrüß\n"
    path.write_bytes(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
    assert levels_of(path, "L0") == {1: {"L0": "grüß"}}
    path.write_bytes(text.encode("utf-16-le"))
    assert "save it as CSV UTF-8" in error_of(path, levels=["L0"])


def test_rows_that_end_early_lack_their_last_levels(tmp_path: Path) -> None:
    """Excel leaves trailing cells out where 16 rows have none there."""
    path = tmp_path / "p.csv"
    full = [
        f"{number},w,Short {number}.,Longer {number}.,{'x' if number == 3 else ''}" for number in range(1, 17)
    ]
    short = [f"{number},w,Short {number}." for number in range(17, 33)]
    path.write_text("\r\n".join(["question_id,category,L0,L1,P", *full, *short]))
    levels = levels_of(path, "L0", "L1", "P")
    assert len(levels) == 32
    assert levels[3] == {"L0": "Short 3.", "L1": "Longer 3.", "P": "x"}
    assert levels[32] == {"L0": "Short 32."}


def test_a_text_torn_by_a_line_break_without_quotes_is_not_taken_for_two_tasks(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question_id,L0,L1\n1,First line\nsecond line,b\n2,c,d\n")
    assert "line 3: not as many cells as the header has" in error_of(path, levels=["L0", "L1"])


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ("question_id,L0,L0\n1,a,b\n", "line 1", "two columns are called L0"),
        ("question_id,L0, L0 \n1,a,b\n", "line 1", "two columns are called L0"),
        ("sep=,\nid,id,L0\n1,2,a\n", "line 2", "two columns are called id"),
        ("question_id,L0\n1,a\nquestion_id,L0\n2,b\n", "line 3", "the header stands here again"),
        ("question_id,L0\n1,#REF!\n", "line 2, column L0", "#REF!"),
        ('question_id,L0\n1,"a\nb"\n2,#NAME?\n', "line 4, column L0", "#NAME?"),
        ("question_id;L0\n1;#DIV/0!\n", "line 2, column L0", "#DIV/0!"),
        ("question_id,L0\n1,#N/A\n", "line 2, column L0", "#N/A"),
        ("question_id;L0\n1; #BEZUG! \n", "line 2, column L0", "#BEZUG!"),
        ("question_id;L0\n#NV;a\n", "line 2, column question_id", "#NV"),
        ("question_id,L0\n1,nan\n", "line 2, column L0", "pandas"),
        ("question_id,category,L0\n1,NaN,a\n", "line 2, column category", "pandas"),
        ("question_id,L0\nnan,a\n", "line 2, column question_id", "pandas"),
        ("question_id,L0\n1,<NA>\n", "line 2, column L0", "pandas"),
        ("question_id,L0\n1,a,b\n", "line 2", "not as many cells"),
    ],
)
def test_what_went_wrong_before_is_named_by_its_place(
    tmp_path: Path, content: str, where: str, words: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(content)
    message = error_of(path, levels=["L0"])
    assert message.startswith(f"{path} {where}: ") and words in message


def test_a_missing_number_in_json_lines_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 1, "L0": "a"}\n{"id": 2, "L0": NaN}\n')
    assert f"{path} line 2, column L0: " in error_of(path, levels=["L0"])


@pytest.mark.parametrize(
    "text", ["None", "NULL", "What is nan?", "#REF! means what?", "NA", "#wow!", "sep=;", "a;b;c", "0", "#1!"]
)
def test_texts_that_only_look_so_are_texts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"question_id,L0\n1,{text}\n")
    assert levels_of(path, "L0") == {1: {"L0": text}}


def test_faults_in_columns_that_are_not_read_stop_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question_id,L0,note,note,L1\n1,a,#REF!,nan,#REF!\n")
    assert levels_of(path, "L0") == {1: {"L0": "a"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("question_id,L0\n1,caf\xe9\n".encode("cp1252"), "line 2: not readable as UTF-8 CSV"),
        (b"PK\x03\x04rest of a workbook", "an Excel workbook"),
        (b"PAR1rest", "a Parquet file"),
    ],
)
def test_what_is_no_utf8_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    message = error_of(path, levels=["L0"])
    assert words in message and "save it as CSV UTF-8" in message


@pytest.mark.skipif(not FIELD_CASES.exists(), reason="needs the collected files")
@pytest.mark.parametrize(
    ("name", "levels", "number"),
    [
        ("excel_semicolon.csv", ["L0", "L1"], 1),
        ("excel_sep.csv", ["L0", "L1"], 1),
        ("excel_16rows.csv", ["L0", "L1"], 20),
        ("mac_cr.csv", ["L0"], 2),
        ("dup_column.csv", ["L0", "L1"], "L0"),
        ("pandas_nan.csv", ["L0", "L1"], "nan"),
        ("cp1252.csv", ["L0", "L1"], "UTF-8"),
    ],
)
def test_files_of_the_field(name: str, levels: list[str], number: int | str) -> None:
    if isinstance(number, str):
        assert number in error_of(FIELD_CASES / name, levels=levels)
    else:
        assert len(tasks_of(FIELD_CASES / name, levels=levels)) == number
