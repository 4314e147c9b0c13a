"""judging/answers.py: which answer stands for what, and what is left out, by reason."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgebench.errors import UserError
from edgebench.judging.answers import Question, Unit, load_answers, load_questions

FIELD_CASES = Path(__file__).resolve().parents[3] / "shared" / "data" / "field-cases" / "judge"
QUESTIONS = {"81": Question("81", "writing", ("question 81", "and then?"))}


def run(level: str = "L0", text: str | None = "answer", **more: Any) -> dict[str, Any]:
    return {"id": 81, "model_id": "m", "level": level, "output_text": text, **more}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(path: Path, left_out: Counter[str] | None = None) -> dict[str, dict[int, str]]:
    answers = load_answers(path, QUESTIONS, Counter() if left_out is None else left_out)
    found = answers.get(Unit("81", "m", 1), {})
    return {level: {n: answer.text for n, answer in repeats.items()} for level, repeats in found.items()}


def test_the_later_line_counts_whatever_its_time_says(tmp_path: Path) -> None:
    old = run(text="old", repeat=1, started_at="2026-11-28T14:00:00+09:00")
    new = run(text="new", repeat=1, started_at="2026-11-28T06:00:00Z")  # later, though "06" < "14"
    left_out: Counter[str] = Counter()
    assert texts(write(tmp_path / "r.jsonl", old, new), left_out) == {"L0": {1: "new"}}
    assert left_out == {"answers that stand twice, the later one taken": 1}
    assert texts(write(tmp_path / "r.jsonl", new, old)) == {"L0": {1: "old"}}


def test_the_later_line_counts_in_the_field() -> None:
    if not (FIELD_CASES / "zones").is_dir():
        pytest.skip("the field cases are not on this machine")
    assert texts(FIELD_CASES / "zones")["L0"] == {1: "NEW answer"}


@pytest.mark.parametrize("task", [81, "81", 81.0, "81.0", " 81"])
@pytest.mark.parametrize("name", ["id", "question_id", "task_id"])
def test_a_task_is_one_in_questions_and_runs(tmp_path: Path, name: str, task: Any) -> None:
    questions = load_questions(write(tmp_path / "q.jsonl", {name: task, "turns": ["?"]}))
    record = run() | {"id": None, name: task, "turn": "1", "repeat": 2.0}
    answers = load_answers(write(tmp_path / "r.jsonl", record), questions, Counter())
    assert list(answers) == [Unit("81", "m", 1)] and list(answers[Unit("81", "m", 1)]["L0"]) == [2]


def test_what_no_mean_holds_no_judge_reads(tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    records = [
        run(error={"type": "timeout"}),
        run(flags=["warm_cache"]),
        run(prompt_tokens=9, prompt_tokens_evaluated=3),
        run(flags=["truncated_output"], text="cut"),
        run(turn=3),
        run(turn="two"),
        run(level="", text="?"),
        run(text=None),
    ]
    path = write(tmp_path / "r.jsonl", *records)
    assert texts(path, left_out) == {"L0": {1: "cut"}}
    assert left_out == {
        "error records": 1,
        "records that no mean holds (flag: warm_cache)": 1,
        "records that no mean holds (flag: prompt_not_evaluated)": 1,
        "records of tasks or turns that --questions does not hold": 2,
        "records without level or answer": 2,
    }


def test_an_earlier_good_run_stands_where_the_later_one_failed(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", run(text="good", repeat=1), run(text="", repeat=1, error="boom"))
    assert texts(path) == {"L0": {1: "good"}}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"id": 1}, {"id": 2}]\n', "is one JSON array"),
        ('[\n {"id": 1}\n]\n', "is one JSON array"),
        ('{\n "id": 1\n}\n', "holds its records over several lines each: jq -c ."),
        ('{"id": 1, "lev', "is half a record"),
        ("id,level\n81,L0\n", "looks like a CSV"),
        (b"\xff\xfe\x00", "is UTF-16"),
    ],
)
def test_what_a_refused_file_is_stands_in_the_message(
    tmp_path: Path, content: str | bytes, what: str
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    left_out: Counter[str] = Counter()
    assert texts(path, left_out) == {}
    assert f"unreadable lines (r.jsonl: line 1 {what}" in next(iter(left_out))
    with pytest.raises(UserError, match="no question with question_id and turns") as refused:
        load_questions(path)
    assert f"line 1 {what}" in str(refused.value)


def test_records_glued_together_are_judged_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(run(repeat=1)) + json.dumps(run("L1", "other", repeat=1)) + "\n")
    left_out: Counter[str] = Counter()
    assert texts(path, left_out) == {"L0": {1: "answer"}, "L1": {1: "other"}}
    assert not left_out
    told = f"{path}: 1 line holds records glued together: every whole record in it is read\n"
    assert capsys.readouterr().err == told


def test_glued_records_of_the_field_are_read() -> None:
    if not (FIELD_CASES / "concat").is_dir():
        pytest.skip("the field cases are not on this machine")
    found = texts(FIELD_CASES / "concat")
    assert list(found) == ["L0", "L1", "L2", "L3", "P"] and found["L0"][1].startswith("m answer 81 L0")
