"""What users bring as prompts files is read, and what cannot be read is named by file and line."""

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
