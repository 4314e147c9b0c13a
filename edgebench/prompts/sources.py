#!/usr/bin/env python3
"""Prompts from any file or a well-known set -> a prompts CSV that the collector reads.

SOURCE is a file or a name:
  *.csv *.jsonl *.json *.parquet   rows; a file with level columns (L0 L1 L2 L3 P) keeps them all
  *.txt                            one prompt per line
  alpaca gsm8k mmlu sharegpt       from a hub, through the optional package `datasets`
  owner/name                       any other set of that hub

Where there are no levels, the prompt of a row is, in this order: --column; the
shape of a known set (instruction + input; question + choices; the first human
turn of conversations, messages or turns); the first column called text, prompt,
question, instruction, input or content. Answers in a row are never shown to the
model. --sample_size takes the first N rows, with --shuffle N drawn by --seed.

Writes question_id, category, topic and one column per level, whole or not at
all. Ids are the rows' own where every row has its own, else row numbers.

Example:
  python companions/load_prompts.py gsm8k --sample_size 100 --shuffle --out results/gsm8k_prompts.csv
"""

from __future__ import annotations

import argparse
import csv
import difflib
import gzip
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEVELS = ("L0", "L1", "L2", "L3", "P")
IDENTITY = ("question_id", "id", "task_id")
TEXT_COLUMNS = ("text", "prompt", "question", "instruction", "input", "content")
HUMAN = ("human", "user")  # who speaks first: ShareGPT's word, and the chat APIs' word
CELL_LIMIT_BYTE = 1 << 24  # Python's own limit of 128 KiB is less than a long document
Row = Mapping[str, Any]


class LoadPromptsError(Exception):
    """What the user can fix; the message names the source, the line and the cure."""


@dataclass(frozen=True)
class NamedSet:
    """Where a well-known set lies on the hub."""

    name: str
    hub_id: str
    subset: str | None
    split: str
    data_file: str | None  # where a set is several files, the one that is meant
    about: str


SETS = {
    one.name: one
    for one in (
        NamedSet("alpaca", "tatsu-lab/alpaca", None, "train", None, "instructions"),
        NamedSet("gsm8k", "openai/gsm8k", "main", "train", None, "school arithmetic"),
        NamedSet("mmlu", "cais/mmlu", "all", "test", None, "multiple choice"),
        NamedSet(
            "sharegpt",
            "anon8231489123/ShareGPT_Vicuna_unfiltered",
            None,
            "train",
            "ShareGPT_V3_unfiltered_cleaned_split.json",
            "first human turns",
        ),
    )
}


# ---------------------------------------------------------------------------
# A row -> its prompt


def said(value: Any) -> str:
    """Text of a cell; "" for null and for what is no text or number. A NUL would break readers of the CSV."""
    return str(value).replace("\0", "").strip() if isinstance(value, (str, int, float)) else ""


def of_instruction(row: Row) -> str:
    """Alpaca: the instruction, and its input below where there is one."""
    return "\n\n".join(filter(None, (said(row["instruction"]), said(row["input"]))))


def of_choices(row: Row) -> str:
    """MMLU: the question and its choices, lettered.

    >>> of_choices({"question": "1 + 1?", "choices": ["1", "2"]})
    '1 + 1?\\n\\nA. 1\\nB. 2'
    """
    choices = [f"{chr(ord('A') + place)}. {said(choice)}" for place, choice in enumerate(row["choices"])]
    return said(row["question"]) + "\n\n" + "\n".join(choices)


def of_turns(row: Row) -> str:
    """ShareGPT and chat logs: what the human says first; "" where the human never speaks."""
    turns = row["conversations"] if "conversations" in row else row["messages"]
    for turn in turns if isinstance(turns, Sequence) and not isinstance(turns, str) else ():
        if isinstance(turn, Mapping) and (turn.get("from") or turn.get("role")) in HUMAN:
            return said(turn.get("value") or turn.get("content"))
    return ""


def of_first_turn(row: Row) -> str:
    """MT-bench and our own question set: the first of its turns."""
    turns = row["turns"]
    return said(turns[0]) if isinstance(turns, list) and turns else ""


# Columns that tell a known set -> its prompt. The first that fits counts.
SHAPES: tuple[tuple[tuple[str, ...], Callable[[Row], str]], ...] = (
    (("conversations",), of_turns),
    (("messages",), of_turns),
    (("turns",), of_first_turn),
    (("question", "choices"), of_choices),
    (("instruction", "input"), of_instruction),
)


def prompt_reader(
    columns: Sequence[str], wanted: str | None, source: str
) -> tuple[Callable[[Row], str], str]:
    """(row -> prompt, which columns it takes). LoadPromptsError where no column can be meant."""
    if wanted is not None:
        return column_reader(columns, wanted, source), wanted
    for shape, reader in SHAPES:
        if all(column in columns for column in shape):
            return reader, " + ".join(shape)
    by_name = {column.strip().lower(): column for column in columns}
    for name in TEXT_COLUMNS:
        if name in by_name:
            return column_reader(columns, by_name[name], source), by_name[name]
    raise LoadPromptsError(
        f"{source}: none of its columns ({', '.join(columns)}) is called {', '.join(TEXT_COLUMNS)};"
        " name the one to use with --column"
    )


def column_reader(columns: Sequence[str], wanted: str, source: str) -> Callable[[Row], str]:
    """row -> text of one column; the error for an unknown one names the nearest."""
    if wanted not in columns:
        by_name = {column.lower(): column for column in columns}
        near = difflib.get_close_matches(wanted.lower(), by_name, n=1, cutoff=0.4)
        hint = f"did you mean {by_name[near[0]]}? " if near else ""
        raise LoadPromptsError(f"{source} has no column {wanted}; {hint}It has: {', '.join(columns)}")
    return lambda row: said(row.get(wanted))


def make_tasks(rows: Sequence[Row], args: argparse.Namespace) -> tuple[list[str], list[dict[str, str]], str]:
    """(levels, one output row per prompt, what was taken). Rows without a prompt are left out."""
    columns = list(dict.fromkeys(name for row in rows[:1000] for name in row if name))
    levels = [level for level in LEVELS if level in columns] if args.column is None else []
    readers: dict[str, Callable[[Row], str]] = {}
    if levels:
        readers, taken = (
            {level: column_reader(columns, level, args.source) for level in levels},
            " ".join(levels),
        )
    else:
        readers[args.level], taken = prompt_reader(columns, args.column, args.source)
    ids = row_ids(rows)
    tasks = []
    for id_, row in zip(ids, rows, strict=True):
        texts = {level: reader(row) for level, reader in readers.items()}
        if any(texts.values()):
            category = said(row.get("category")) or said(row.get("subject"))
            tasks.append({"question_id": id_, "category": category, "topic": said(row.get("topic")), **texts})
    return list(readers), tasks, taken


def row_ids(rows: Sequence[Row]) -> list[str]:
    """The rows' own ids where each row has one and no two are the same, else their numbers from 1."""
    for name in IDENTITY:
        own = [said(row.get(name)) for row in rows]
        if all(own) and len(set(own)) == len(own):
            return own
    return [str(number) for number in range(1, len(rows) + 1)]


def sample(
    rows: Sequence[dict[str, str]], size: int | None, shuffle: bool, seed: int
) -> list[dict[str, str]]:
    """The first `size` rows, or as many drawn without return; the same seed draws the same rows."""
    chosen = random.Random(seed).sample(rows, len(rows)) if shuffle else list(rows)
    return chosen[:size]


# ---------------------------------------------------------------------------
# Sources


# Copied from read_prompts.read_jsonl
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


def jsonl_rows(path: Path) -> list[Row]:
    """Rows of a JSONL file; LoadPromptsError names the first line that is none."""
    rows: list[Row] = []
    for number, record in read_jsonl(path):
        if record is None:
            raise LoadPromptsError(f"{path} line {number}: not a JSON object; mend or delete that line")
        rows.append(record)
    return rows


def json_rows(path: Path) -> list[Row]:
    """Rows of a JSON file: a list of objects, as Alpaca and ShareGPT are handed on, or else JSON lines."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return jsonl_rows(path)
    if not isinstance(whole, list):
        return jsonl_rows(path)
    for number, row in enumerate(whole, 1):
        if not isinstance(row, dict):
            raise LoadPromptsError(f"{path}: its element {number} is no JSON object; mend or delete it")
    return whole


def csv_rows(path: Path) -> list[Row]:
    """Rows of a CSV file with a header line."""
    csv.field_size_limit(CELL_LIMIT_BYTE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows: list[Row] = [row for row in csv.DictReader(text, strict=True) if any(row.values())]
    except csv.Error as exc:
        raise LoadPromptsError(f"{path}: not readable as CSV ({exc}); check its quotes") from exc
    return rows


def text_rows(path: Path) -> list[Row]:
    """One row per line that is not blank."""
    with path.open(encoding="utf-8-sig") as lines:
        return [{"text": line} for line in lines if line.strip()]


def parquet_rows(path: Path) -> list[Row]:
    """Rows of a Parquet file, through pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise LoadPromptsError(f"{path}: Parquet needs a package: pip install pyarrow") from exc
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as exc:
        raise LoadPromptsError(f"{path}: not readable as Parquet ({exc})") from exc
    return rows


def hub_rows(source: str, subset: str | None, split: str | None) -> list[Row]:
    """Rows of a set on the hub; LoadPromptsError where the package is missing or no hub answers."""
    known = SETS.get(source) or NamedSet(source, source, None, "train", None, "")
    try:
        import datasets
    except ImportError as exc:
        raise LoadPromptsError(
            f"{source} comes from a hub, which needs a package: pip install datasets;"
            " or download it and give the file instead of the name"
        ) from exc
    try:
        table = datasets.load_dataset(
            known.hub_id, subset or known.subset, split=split or known.split, data_files=known.data_file
        )
        return [dict(row) for row in table]
    except Exception as exc:  # the hub, its network and its scripts raise whatever they like
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise LoadPromptsError(
            f"cannot load {known.hub_id}: {reason}; check the network, --subset and --split,"
            " or download it and give the file instead of the name"
        ) from exc


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": csv_rows,
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".txt": text_rows,
    ".parquet": parquet_rows,
}


def source_rows(args: argparse.Namespace) -> list[Row]:
    """All rows of the source."""
    path, name = Path(args.source), Path(args.source).name.removesuffix(".gz")
    if path.is_file():
        # questionset.jsonl.txt is JSON lines: so the file of MT-bench questions is often called.
        suffix = ".jsonl" if ".jsonl" in name else Path(name).suffix.lower()
        if suffix not in READERS or (name != path.name and suffix != ".jsonl"):
            kinds = ", ".join(READERS)
            raise LoadPromptsError(f"{path}: prompts are read from {kinds} and .jsonl.gz; convert it")
        try:
            return READERS[suffix](path)
        except UnicodeDecodeError as exc:
            raise LoadPromptsError(f"{path}: not UTF-8 ({exc}); save it as UTF-8") from exc
    if args.source in SETS or (re.fullmatch(r"[\w.-]+/[\w.-]+", args.source) and not path.suffix):
        return hub_rows(args.source, args.subset, args.split)
    near = difflib.get_close_matches(args.source, SETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the named sets are {', '.join(SETS)}"
    raise LoadPromptsError(f"no such file: {args.source}; {hint}")


def write_csv(path: Path, levels: Sequence[str], tasks: Sequence[Row]) -> None:
    """The prompts file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            rows = csv.DictWriter(out, ["question_id", "category", "topic", *levels])
            rows.writeheader()
            rows.writerows(tasks)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------
# Command line


def list_sets(as_json: bool) -> str:
    """The named sets, for people or as JSON."""
    if as_json:
        return json.dumps([asdict(one) for one in SETS.values()])
    lines = [f"{'name':9} {'from':42} {'split':6} prompts"]
    return "\n".join(
        lines + [f"{one.name:9} {one.hub_id:42} {one.split:6} {one.about}" for one in SETS.values()]
    )


def load(args: argparse.Namespace) -> None:
    """Read, choose, write; says on stderr what was taken."""
    if args.sample_size is not None and args.sample_size < 1:
        raise LoadPromptsError(f"--sample_size {args.sample_size} must be at least 1")
    rows = source_rows(args)
    if not rows:
        raise LoadPromptsError(f"{args.source} holds no rows")
    levels, tasks, taken = make_tasks(rows, args)
    if not tasks:
        raise LoadPromptsError(
            f"{args.source}: column {taken} is empty in all {len(rows)} rows; try --column"
        )
    chosen = sample(tasks, args.sample_size, args.shuffle, args.seed)
    write_csv(args.out, levels, chosen)
    empty = f", {len(rows) - len(tasks)} without text" if len(rows) > len(tasks) else ""
    short = f" (asked for {args.sample_size})" if len(chosen) < (args.sample_size or 0) else ""
    print(f"{args.out}: {len(chosen)} of {len(rows)} rows{empty}{short}, column {taken}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a file, a named set, or owner/name")
    parser.add_argument("--out", type=Path, metavar="CSV", help="the prompts file to write")
    parser.add_argument("--level", default="L0", metavar="NAME", help="column to write (default: L0)")
    parser.add_argument("--column", metavar="NAME", help="column to read (default: found by itself)")
    parser.add_argument("--split", metavar="NAME", help="of a set on the hub (default: see --list)")
    parser.add_argument("--subset", metavar="NAME", help="of a set on the hub")
    parser.add_argument("--sample_size", type=int, metavar="N", help="prompts to take (default: all)")
    parser.add_argument("--shuffle", action="store_true", help="draw them instead of taking the first")
    parser.add_argument("--seed", type=int, default=42, help="of the draw (default: 42)")
    parser.add_argument("--list", action="store_true", help="show the named sets")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list:
        print(list_sets(args.json))
        return 0
    if args.source is None or args.out is None:
        parser.error("give a SOURCE and --out, or --list")
    try:
        load(args)
    except (LoadPromptsError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
