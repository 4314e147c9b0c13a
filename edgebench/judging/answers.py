"""What there is to judge: the questions, and of each model's runs the answers that count.

Owns which answer stands for a task, a model, a turn, a level and a repeat. Which runs count says
records/run.py; how two answers are put before a judge stands in games.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.prompts.thinking import split_reasoning
from edgebench.records.jsonl import UNREADABLE, first_unreadable, glued_remark, read_jsonl, reason_of
from edgebench.records.judgment import whole_number
from edgebench.records.run import all_flags_of, task_of, why_left_out
from edgebench.shell.progress import say

RUN_NAMES = {"model_id", "level", "output_text"}  # what tells a run record from the other lines of a folder


@dataclass(frozen=True)
class Question:
    """One task as its author asked it: the turns of the conversation, and reference answers where there are
    any, turn by turn.
    """

    task_id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()

    def text(self, turn: int) -> str:
        """The question of a turn, with the turns before it."""
        if turn == 1:
            return self.turns[0]
        return "\n\n".join(f"Turn {number}: {text}" for number, text in enumerate(self.turns[:turn], 1))

    def reference(self, turn: int) -> str:
        """The reference answer of a turn; empty without one."""
        return self.references[turn - 1] if turn <= len(self.references) else ""


@dataclass(frozen=True)
class Answer:
    """What the judge sees of a run: thinking removed, ends stripped. truncated: the token limit cut it."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Unit:
    """What is compared within: one turn of one task by one model."""

    task_id: str
    model_id: str
    turn: int

    @property
    def order(self) -> tuple[Any, ...]:
        """For sorting: task 99 before task 100."""
        return (self.task_id.zfill(20), self.model_id, self.turn)


Answers = dict[Unit, dict[str, dict[int, Answer]]]  # by unit, level and repeat


# --- Questions ---


def load_questions(path: Path) -> dict[str, Question]:
    """Task id -> question. UserError where the file holds none, with what it is instead."""
    questions = {}
    unreadable = 0
    try:
        for _, record in read_jsonl(path):
            unreadable += record is None
            question = question_of(record or {})
            if question is not None:
                questions[question.task_id] = question
        why = first_unreadable(path) if unreadable else None
    except UNREADABLE as problem:
        raise UserError(f"cannot read the questions: {path}: {reason_of(problem)} (--questions)") from problem
    if not questions:
        reason = f": {why}" if why else ""
        raise UserError(f"no question with question_id and turns in {path}{reason} (--questions)")
    return questions


def question_of(record: Mapping[str, Any]) -> Question | None:
    """A line of the questions file; None for one that asks nothing."""
    task = task_of(record)
    turns = texts_of(record.get("turns") or record.get("question") or record.get("prompt"))
    if task is None or not turns:
        return None
    return Question(str(task), str(record.get("category") or ""), turns, texts_of(record.get("reference")))


def texts_of(value: Any) -> tuple[str, ...]:
    """One text or several, as texts.

    >>> texts_of("2+2?"), texts_of(["a", None]), texts_of(None)
    (('2+2?',), ('a', ''), ())
    """
    if not value:
        return ()
    return tuple(str(text or "") for text in (value if isinstance(value, list) else [value]))


# --- Answers ---


def load_answers(root: Path, questions: Mapping[str, Question], left_out: Counter[str]) -> Answers:
    """The answers under `root`, a folder or one file; what is not judged is counted in `left_out`.

    Of two records of one repeat the later one counts: the later line of a file, and of two files that whose
    name comes later. Times of day are no order: a time zone or a time server turns it round.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist (--runs_root)")
    answers: Answers = {}
    for record in run_records(root, left_out):
        reason = why_unusable(record, questions)
        if reason:
            left_out[reason] += 1
            continue
        unit = Unit(str(task_of(record)), str(record["model_id"]), whole_number(record.get("turn")) or 1)
        repeats = answers.setdefault(unit, {}).setdefault(str(record["level"]), {})
        repeat = whole_number(record.get("repeat"), default=len(repeats) + 1) or 1
        answer = answer_of(record)
        if repeat in repeats and repeats[repeat] != answer:
            left_out["answers that stand twice, the later one taken"] += 1
        repeats[repeat] = answer
    return answers


def answer_of(record: Mapping[str, Any]) -> Answer:
    """What the judge sees of a run."""
    truncated = record.get("finish_reason") == "length" or "truncated_output" in all_flags_of(record)
    return Answer(split_reasoning(record["output_text"]).answer.strip(), truncated)


def run_records(root: Path, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Every run record under root, told from environment, journal and other lines by what it holds."""
    found = [root] if root.is_file() else sorted([*root.rglob("*.jsonl"), *root.rglob("*.jsonl.gz")])
    for path in found:
        unreadable = 0
        glued: list[int] = []
        try:
            for _, record in read_jsonl(path, glued):
                unreadable += record is None
                if record and record.keys() >= RUN_NAMES and task_of(record) is not None:
                    yield record
            if glued:
                say(f"{path}: {glued_remark(glued)}")
            if unreadable:
                left_out[f"unreadable lines ({path.name}: {first_unreadable(path)})"] += unreadable
        except UNREADABLE as problem:
            left_out[f"damaged files, read up to the damage ({path.name}: {reason_of(problem)})"] += 1


def why_unusable(record: Mapping[str, Any], questions: Mapping[str, Question]) -> str | None:
    """Why a run is not judged, in words to be counted; None where it is."""
    question = questions.get(str(task_of(record)))
    turn = whole_number(record.get("turn"))
    if question is None or turn is None or not 1 <= turn <= len(question.turns):
        return "records of tasks or turns that --questions does not hold"
    why = why_left_out(record.get("error"), all_flags_of(record))
    if why is not None:
        return "error records" if why.startswith("error") else f"records that no mean holds ({why})"
    if not isinstance(record["output_text"], str) or not record["level"]:
        return "records without level or answer"
    return None
