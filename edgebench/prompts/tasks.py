#!/usr/bin/env python3
"""Prompts files of any make -> one JSON line per task, with its text at each level.

A prompts file is a CSV or a JSONL (.jsonl, .jsonl.txt) with question_id, a
category if it likes, and one column per prompt length. UTF-8 with or without
BOM, CRLF, line breaks inside quotes, blank lines and further columns are all
fine. A level without text in a row is skipped; a level without a column is an
error, since it is more often a slip than a wish.

Each line out: id, category, levels {name: text}, second (the second question of
the conversation, from --questions), where (file and line).

Example:
  python companions/read_prompts.py --prompts data/writing_prompts_hierarchical.csv --limit 2
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError

LEVELS = ("L0", "L1", "L2", "L3", "P")
IDENTITY = ("question_id", "id", "task_id")
BEYOND = "\0"  # column name for cells to the right of the header: no file can have it
CELL_LIMIT_BYTE = 1 << 24  # Python's own limit of 128 KiB is less than a long placebo


class PromptsError(UserError):
    """What the user can fix; the message names the file, the line and the cure."""


@dataclass(frozen=True)
class Task:
    """One task."""

    id: int | str
    category: str | None
    levels: dict[str, str]  # level -> text, only those that have one
    where: str  # file and line, for messages
    second: str | None = None  # the conversation's second question


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def task_id(value: Any) -> int | str:
    """Task ids are numbers where they look like one, so that "81" of a CSV meets 81 of a JSON file."""
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d*)", text) else text


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a CSV or JSONL prompts file; PromptsError names the line."""
    if not path.is_file():
        raise PromptsError(f"no such prompts file: {path}; check --prompts")
    if ".jsonl" in path.name:
        for number, record in read_jsonl(path):
            if record is None:
                raise PromptsError(f"{path} line {number}: not a JSON object; mend or delete that line")
            yield number, record
        return
    csv.field_size_limit(CELL_LIMIT_BYTE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text, restkey=BEYOND, strict=True)
            if not rows.fieldnames:
                header = f"question_id,category,topic,{','.join(LEVELS)}"
                raise PromptsError(f"{path} is empty; it needs the header {header}")
            line = rows.line_num + 1  # where a row begins; rows.line_num is where it ends
            for row in rows:
                beyond = row.pop(BEYOND, None)
                if any(beyond or ()) or None in row.values():
                    raise PromptsError(
                        f"{path} line {line}: not as many cells as the header has; check its quotes"
                    )
                yield line, row
                line = rows.line_num + 1
    except (UnicodeDecodeError, csv.Error) as exc:
        raise PromptsError(f"{path}: not readable as UTF-8 CSV ({exc}); save it as CSV UTF-8") from exc


def read_tasks(paths: Sequence[Path], levels: Sequence[str] | None) -> list[list[Task]]:
    """Read prompts files, one list of tasks per file. PromptsError: missing columns, duplicate ids."""
    seen: dict[int | str, str] = {}
    files = []
    for path in paths:
        tasks = []
        for number, row in table_rows(path):
            task = read_task(path, number, row, levels)
            if task.id in seen:
                raise PromptsError(
                    f"{task.where}: question_id {task.id} stands already at {seen[task.id]};"
                    " give each task its own"
                )
            seen[task.id] = task.where
            tasks.append(task)
        if not tasks:
            raise PromptsError(f"{path} holds no tasks; it needs one row per task under its header")
        files.append(tasks)
    return files


def read_task(path: Path, number: int, row: Mapping[str, Any], levels: Sequence[str] | None) -> Task:
    """One row -> one task. A column that is absent is an error; a cell that is empty is a level to skip."""
    where = f"{path} line {number}"
    columns = {name.strip(): value for name, value in row.items() if name}
    identity = next((columns[name] for name in IDENTITY if columns.get(name) not in (None, "")), None)
    if identity is None:
        raise PromptsError(f"{where}: no question_id; every task needs one")
    absent = [level for level in levels or LEVELS if level not in columns]
    if absent and ".jsonl" not in path.name:
        there = [name for name in columns if name not in (*IDENTITY, "category", "topic")]
        raise PromptsError(
            f"{path} line 1: no column {', '.join(absent)}; add it, or name the levels it has:"
            f" --levels {' '.join(there)}"
        )
    texts = {level: str(columns.get(level) or "") for level in levels or LEVELS}
    given = {level: text for level, text in texts.items() if text.strip()}
    return Task(task_id(identity), str(columns.get("category") or "").strip() or None, given, where)


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
    for number, row in table_rows(path):
        if not isinstance(row.get("turns"), list) or "question_id" not in row:
            raise PromptsError(f"{path} line {number}: needs question_id and turns; check --questions")
        if len(row["turns"]) > 1:
            turns[task_id(row["question_id"])] = str(row["turns"][1])
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
    tasks = choose_tasks(read_tasks(paths, levels), ids, limit)
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


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", nargs="+", type=Path, required=True, metavar="FILE", help="CSV or JSONL files"
    )
    parser.add_argument(
        "--levels", nargs="+", metavar="NAME", help=f"columns to read (default: {' '.join(LEVELS)})"
    )
    parser.add_argument("--ids", nargs="+", metavar="ID", help="only these tasks")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N tasks of each file")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="question set with the second turns")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tasks."""
    args = build_parser().parse_args(argv)
    try:
        tasks = wanted_tasks(args.prompts, args.levels, args.ids, args.limit, args.questions)
    except (PromptsError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    wanted = len(args.levels or LEVELS)
    for task in tasks:
        print(json.dumps({**asdict(task), "skipped": wanted - len(task.levels)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
