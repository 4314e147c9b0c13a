"""The tasks of prompts files: each with its text at every level.

A prompts file is a CSV or a JSONL (.jsonl, .jsonl.txt) with question_id, a category if it likes, and one
column per prompt length; further columns are fine. What a CSV may look like stands in table.py. A level
without text in a row is skipped; a level without a column is an error, since it is more often a slip than a
wish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.prompts.table import Row, Table, is_json_lines, read_table
from edgebench.records.csv_text import TableError
from edgebench.records.run import task_id

LEVELS = ("L0", "L1", "L2", "L3", "P")
IDENTITY = ("question_id", "id", "task_id")


class PromptsError(TableError):
    """What the user can fix; the message names the file, the line and the cure."""


@dataclass(frozen=True)
class Task:
    """One task."""

    id: int | str
    category: str | None
    levels: dict[str, str]  # level -> text, only those that have one
    where: str  # file and line, for messages
    second: str | None = None  # the conversation's second question


# --- One file ---


def open_table(path: Path) -> Table:
    """The rows of a prompts file. PromptsError where there is none."""
    if not path.is_file():
        raise PromptsError(f"no such prompts file: {path}; check --prompts")
    return read_table(path)


def tasks_of_file(path: Path, levels: Sequence[str]) -> list[Task]:
    """The tasks of one file. PromptsError for missing columns and for a file without tasks."""
    table = open_table(path)
    if not table.columns and not is_json_lines(path):
        header = f"question_id,category,topic,{','.join(LEVELS)}"
        raise PromptsError(f"{path} is empty; it needs the header {header}")
    table.use([*IDENTITY, "category", *levels])
    tasks = [read_task(table, row, levels) for row in table.rows]
    if not tasks:
        raise PromptsError(f"{path} holds no tasks; it needs one row per task under its header")
    refuse_torn_rows(tasks, table.rows)
    return tasks


def read_task(table: Table, row: Row, levels: Sequence[str]) -> Task:
    """One row -> one task. A column that is absent is an error; a cell that is empty is a level to skip."""
    where = f"{table.path} line {row.line}"
    for name in (*IDENTITY, "category", *levels):
        table.check_cell(row, name)
    identity = identity_of(row.cells)
    if identity is None:
        raise PromptsError(f"{where}: no question_id; every task needs one")
    absent = [level for level in levels if level not in table.columns]
    if absent and not is_json_lines(table.path):
        there = [name for name in table.columns if name not in (*IDENTITY, "category", "topic")]
        raise PromptsError(
            f"{table.path} line {table.header_line}: no column {', '.join(absent)}; add it,"
            f" or name the levels it has: --levels {' '.join(there)}"
        )
    texts = {level: str(row.cells.get(level) or "") for level in levels}
    given = {level: text for level, text in texts.items() if text.strip()}
    return Task(identity, str(row.cells.get("category") or "").strip() or None, given, where)


def identity_of(cells: Mapping[str, Any]) -> int | str | None:
    """The task's id under any of its names; None without one."""
    found = (task_id(cells.get(name)) for name in IDENTITY)
    return next((task for task in found if task is not None), None)


def refuse_torn_rows(tasks: Sequence[Task], rows: Sequence[Row]) -> None:
    """PromptsError for a short row that is the rest of a torn one: no number, where all others have one.

    A text with a line break that is not in quotes falls into two rows, of which the second begins with text.
    """
    whole = [task for task, row in zip(tasks, rows, strict=True) if not row.is_short]
    if not whole or not all(isinstance(task.id, int) for task in whole):
        return
    for task, row in zip(tasks, rows, strict=True):
        if row.is_short and not isinstance(task.id, int):
            raise PromptsError(f"{task.where}: not as many cells as the header has; check its quotes")


# --- All files ---


def tasks_of_files(paths: Sequence[Path], levels: Sequence[str]) -> list[list[Task]]:
    """One list of tasks per file. PromptsError for an id that stands twice."""
    seen: dict[int | str, str] = {}
    files = []
    for path in paths:
        tasks = tasks_of_file(path, levels)
        for task in tasks:
            if task.id in seen:
                raise PromptsError(
                    f"{task.where}: question_id {task.id} stands already at {seen[task.id]};"
                    " give each task its own"
                )
            seen[task.id] = task.where
        files.append(tasks)
    return files


def choose_tasks(files: Sequence[Sequence[Task]], ids: Sequence[str] | None, limit: int | None) -> list[Task]:
    """The tasks of all files that --ids and --limit (per file) leave."""
    wanted = None if ids is None else [task_id(name) for name in ids]
    known = {task.id for tasks in files for task in tasks}
    unknown = [str(name) for name in wanted or () if name not in known]
    if unknown:
        raise PromptsError(f"no task {', '.join(unknown)} in the prompts; check --ids")
    chosen = [[task for task in tasks if wanted is None or task.id in wanted][:limit] for tasks in files]
    return [task for tasks in chosen for task in tasks]


def second_turns(path: Path) -> dict[int | str, str]:
    """Task id -> second question, from the question set."""
    turns = {}
    for row in open_table(path).rows:
        asked = row.cells.get("turns")
        task = task_id(row.cells.get("question_id"))
        if not isinstance(asked, list) or task is None:
            raise PromptsError(f"{path} line {row.line}: needs question_id and turns; check --questions")
        if len(asked) > 1:
            turns[task] = str(asked[1])
    return turns


def wanted_tasks(
    paths: Sequence[Path],
    levels: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    limit: int | None = None,
    questions: Path | None = None,
) -> list[Task]:
    """The tasks of prompts files; PromptsError where a level has no text, or a task no second turn.

    `limit`: of each file. `questions`: the question set that has the second turns.
    """
    tasks = choose_tasks(tasks_of_files(paths, levels or LEVELS), ids, limit)
    for level in levels or ():
        if not any(level in task.levels for task in tasks):
            raise PromptsError(f"no task has a level {level}; check --levels")
    if not any(task.levels for task in tasks):
        raise PromptsError(
            f"no task has text at any of the levels {' '.join(LEVELS)}; name its levels with --levels"
        )
    if questions is None:
        return tasks
    turns = second_turns(questions)
    lost = [str(task.id) for task in tasks if task.id not in turns]
    if lost:
        raise PromptsError(f"no second question for task {', '.join(lost)} in {questions}; check --questions")
    return [replace(task, second=turns[task.id]) for task in tasks]
