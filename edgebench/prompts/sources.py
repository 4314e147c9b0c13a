"""Prompts from any file or a well-known set, as rows for a prompts CSV.

A source is a file or a name:
  *.csv *.tsv *.jsonl *.json *.parquet   rows; a file with level columns (L0 L1 L2 L3 P) keeps them all
  *.txt                                  one prompt per line
  a folder                               of save_to_disk, or of Parquet shards (train-00000-of-00002.parquet)
  alpaca gsm8k mmlu sharegpt             from a hub, through the optional package `datasets`
  owner/name                             any other set of that hub

Where there are no levels, the prompt of a row is, in this order: the column asked for; the shape of a known
set (instruction + input; question + choices; the first human turn of conversations, messages or turns); the
first column called text, prompt, question, instruction, input or content. Answers in a row are never shown to
the model. Ids are the rows' own where every row has its own, else row numbers.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import importlib.util
import io
import json
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgebench.errors import UserError
from edgebench.prompts.table import Table, is_json_lines, is_missing_number, read_json_table, read_table
from edgebench.prompts.tasks import IDENTITY, LEVELS
from edgebench.records.jsonl import write_whole

TEXT_COLUMNS = ("text", "prompt", "question", "instruction", "input", "content")
HUMAN = ("human", "user")  # who speaks first: ShareGPT's word, and the chat APIs' word
Row = Mapping[str, Any]


class LoadPromptsError(UserError):
    """What the user can fix; the message names the source, the line and the cure."""


@dataclass(frozen=True)
class Wish:
    """What is to be taken from where; the fields are the flags of companions/load_prompts.py."""

    source: str
    level: str = "L0"
    column: str | None = None
    split: str | None = None
    subset: str | None = None
    sample_size: int | None = None
    shuffle: bool = False
    seed: int = 42


@dataclass(frozen=True)
class Source:
    """All rows of a source; the table that they stand in, where there is one with lines to name."""

    rows: Sequence[Row]
    table: Table | None = None

    def use(self, columns: Sequence[str]) -> None:
        """Say which columns are taken. TableError for one that stands twice, or a cell that is spoiled there.

        Spoiled is what an Excel formula or pandas has left; a number that is NaN is a missing value.
        """
        if self.table is None:
            return
        self.table.use(columns)
        for row in self.table.rows:
            for column in columns:
                if isinstance(row.cells.get(column), str):
                    self.table.check_cell(row, column)


@dataclass(frozen=True)
class Loaded:
    """The chosen rows, one dict of columns each, and what was found on the way."""

    levels: Sequence[str]
    rows: Sequence[Mapping[str, str]]
    column: str  # what was taken for the prompt
    n_source_rows: int
    n_without_text: int

    def told(self, out: Path, asked: int | None) -> str:
        """What was taken, in one line; `asked`: how many rows were wanted."""
        text = f"{out}: {len(self.rows)} of {self.n_source_rows} rows"
        if self.n_without_text:
            text += f", {self.n_without_text} without text"
        if asked is not None and len(self.rows) < asked:
            text += f" (asked for {asked})"
        return f"{text}, column {self.column}"


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


# --- A row -> its prompt ---


def said(value: Any) -> str:
    """Text of a cell; "" for null and for what is no text or number. A NUL would break readers of the CSV."""
    if is_missing_number(value):
        return ""
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
) -> tuple[Callable[[Row], str], list[str]]:
    """(row -> prompt, which columns it takes). LoadPromptsError where no column can be meant."""
    if wanted is not None:
        return column_reader(columns, wanted, source), [wanted]
    for shape, reader in SHAPES:
        if all(column in columns for column in shape):
            return reader, list(shape)
    by_name = {column.strip().lower(): column for column in columns}
    for name in TEXT_COLUMNS:
        if name in by_name:
            return column_reader(columns, by_name[name], source), [by_name[name]]
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


def load(wish: Wish) -> Loaded:
    """Read, choose, draw. UserError where nothing can be taken; OSError where a file cannot be read."""
    if wish.sample_size is not None and wish.sample_size < 1:
        raise LoadPromptsError(f"--sample_size {wish.sample_size} must be at least 1")
    source = open_source(wish)
    rows = source.rows
    if not rows:
        raise LoadPromptsError(f"{wish.source} holds no rows")
    readers, columns = level_readers(rows, wish)
    source.use([*IDENTITY, "category", *columns])
    taken = " ".join(columns) if len(readers) > 1 else " + ".join(columns)
    tasks = make_tasks(rows, readers)
    if not tasks:
        raise LoadPromptsError(
            f"{wish.source}: column {taken} is empty in all {len(rows)} rows; try --column"
        )
    chosen = sample(tasks, wish.sample_size, wish.shuffle, wish.seed)
    return Loaded(list(readers), chosen, taken, len(rows), len(rows) - len(tasks))


def level_readers(rows: Sequence[Row], wish: Wish) -> tuple[dict[str, Callable[[Row], str]], list[str]]:
    """(level -> how its text is read from a row, the columns that are taken for it)."""
    columns = list(dict.fromkeys(name for row in rows[:1000] for name in row if name))
    levels = [level for level in LEVELS if level in columns] if wish.column is None else []
    if levels:
        return {level: column_reader(columns, level, wish.source) for level in levels}, levels
    reader, taken = prompt_reader(columns, wish.column, wish.source)
    return {wish.level: reader}, taken


def make_tasks(rows: Sequence[Row], readers: Mapping[str, Callable[[Row], str]]) -> list[dict[str, str]]:
    """One output row per prompt; rows without one are left out."""
    tasks = []
    for id_, row in zip(row_ids(rows), rows, strict=True):
        texts = {level: reader(row) for level, reader in readers.items()}
        if any(texts.values()):
            category = said(row.get("category")) or said(row.get("subject"))
            tasks.append({"question_id": id_, "category": category, "topic": said(row.get("topic")), **texts})
    return tasks


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


# --- Sources ---


def table_rows(path: Path) -> Source:
    """Rows of a CSV or JSON lines file."""
    return of_table(read_table(path))


def of_table(table: Table) -> Source:
    """A table's rows, with what tells a spoiled cell among those that are taken."""
    return Source([row.cells for row in table.rows], table)


def json_rows(path: Path) -> Source:
    """Rows of a JSON file: a list of objects, as Alpaca and ShareGPT are handed on, or else JSON lines."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return of_table(read_json_table(path))
    if not isinstance(whole, list):
        return of_table(read_json_table(path))
    for number, row in enumerate(whole, 1):
        if not isinstance(row, dict):
            raise LoadPromptsError(f"{path}: its element {number} is no JSON object; mend or delete it")
    return Source(whole)


def text_rows(path: Path) -> Source:
    """One row per line that is not blank."""
    with path.open(encoding="utf-8-sig") as lines:
        return Source([{"text": line} for line in lines if line.strip()])


def parquet_rows(path: Path) -> Source:
    """Rows of a Parquet file, through pyarrow."""
    return Source(arrow_rows([path]))


def arrow_rows(paths: Sequence[Path]) -> list[Row]:
    """Rows of Parquet files and of the Arrow files that `datasets` writes, one after the other."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as exc:
        raise LoadPromptsError(f"{paths[0]}: this needs a package: pip install pyarrow") from exc
    rows: list[Row] = []
    for path in paths:
        try:
            if path.suffix == ".arrow":
                with pyarrow.memory_map(str(path)) as file:
                    rows += ipc.open_stream(file).read_all().to_pylist()
            else:
                rows += parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as exc:
            kind = "Arrow" if path.suffix == ".arrow" else "Parquet"
            reason = str(exc).splitlines()[0]
            raise LoadPromptsError(f"{path}: not readable as {kind} ({reason}); copy it again") from exc
    return rows


# --- Folders ---

SAVED = "dataset_info.json"  # what save_to_disk of `datasets` leaves in the folder of a split
SAVED_SPLITS = "dataset_dict.json"  # and in the folder above several of them
SHARD = re.compile(r"^(?P<split>[A-Za-z0-9_]+?)(?:[-.].*)?\.parquet$")  # train-00000-of-00002.parquet


def folder_rows(folder: Path, split: str | None) -> Source:
    """Rows of a split of a folder: of save_to_disk, or of Parquet shards as a hub keeps them."""
    splits = splits_of(folder)
    if not splits:
        raise LoadPromptsError(
            f"{folder} holds no data set: neither {SAVED} of save_to_disk nor *.parquet; give a file of it"
        )
    chosen = split or ("train" if "train" in splits else None)
    if chosen is None and len(splits) == 1:
        chosen = next(iter(splits))
    if chosen not in splits:
        asked = f"has no split {chosen}" if chosen else "has several splits"
        raise LoadPromptsError(f"{folder} {asked}; choose with --split {' or '.join(sorted(splits))}")
    return Source(arrow_rows(splits[chosen]))


def splits_of(folder: Path) -> dict[str, list[Path]]:
    """{split: its files in their order}; {} where a folder holds none."""
    if (folder / SAVED).is_file():
        return {"train": saved_files(folder)}
    saved = {one.name: saved_files(one) for one in sorted(folder.iterdir()) if (one / SAVED).is_file()}
    if saved:
        return saved
    shards: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        found = SHARD.match(path.name)
        # A name of numbers alone is a shard of the split that its folder is named after.
        named = found["split"] if found and not found["split"].isdigit() else path.parent.name
        shards.setdefault(named if named != folder.name else "train", []).append(path)
    return shards


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of one split, in the order that save_to_disk wrote them in."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / str(file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(folder.glob("*.arrow"))


# --- The hub ---

HUB = "https://huggingface.co"
HUB_ANSWERS_WITHIN_S = 3.0  # the package itself tries five times, and takes half a minute to say no


def is_here(source: str) -> bool:
    """Whether a source is read from this machine, rightly or wrongly named; False for a set on a hub."""
    path = Path(source)
    if path.is_file() or (path.is_dir() and source not in SETS):
        return True
    return not (source in SETS or (re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix))


def why_no_hub(source: str) -> str | None:
    """Why a set cannot be had from a hub now, and the cure; None where it can be asked for.

    A set that an earlier start has downloaded may lie in the package's cache all the same.
    """
    if importlib.util.find_spec("datasets") is None:
        return needs_package(source)
    if not hub_answers():
        host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB).hostname
        return (
            f"{source} comes from a hub, and {host} does not answer; check the network,"
            " or download it and give the file instead of the name"
        )
    return None


def needs_package(source: str) -> str:
    """What to install for the hub."""
    return (
        f"{source} comes from a hub, which needs a package: pip install datasets;"
        " or download it and give the file instead of the name"
    )


def hub_answers() -> bool:
    """Whether the hub's host, or the proxy before it, takes a connection within a few seconds."""
    from urllib.request import getproxies  # brings HTTP and TLS along

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    proxy = getproxies().get(endpoint.scheme)
    asked = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}") if proxy else endpoint
    port = asked.port or (443 if asked.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        with (
            contextlib.suppress(OSError, UnicodeError),
            socket.create_connection((str(asked.hostname), port), HUB_ANSWERS_WITHIN_S),
        ):
            answered.set()
        over.set()

    # In a thread: the timeout of a connection does not cover the look-up of its name.
    over = threading.Event()
    threading.Thread(target=connect, daemon=True).start()
    over.wait(HUB_ANSWERS_WITHIN_S)
    return answered.is_set()


def hub_cache() -> Path:
    """Where the package keeps what it has downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets").expanduser()


def hub_rows(source: str, subset: str | None, split: str | None) -> Source:
    """Rows of a set on the hub; LoadPromptsError where the package is missing or no hub answers.

    Where the hub does not answer the package is told so, and takes the set from its cache or says no at once.
    """
    known = SETS.get(source) or NamedSet(source, source, None, "train", None, "")
    why = why_no_hub(source)
    if why is not None:
        if (
            not hub_cache().is_dir()
        ):  # nothing to look up: the package need not be imported, which takes seconds
            raise LoadPromptsError(why)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # read when the package is imported
    try:
        import datasets
    except ImportError as exc:
        raise LoadPromptsError(f"{needs_package(source)} (now: {exc})") from exc
    try:
        table = datasets.load_dataset(
            known.hub_id, subset or known.subset, split=split or known.split, data_files=known.data_file
        )
        return Source([dict(row) for row in table])
    except Exception as exc:  # the hub, its network and its scripts raise whatever they like
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise LoadPromptsError(
            why
            or f"cannot load {known.hub_id}: {reason}; check the network, --subset and --split,"
            " or download it and give the file instead of the name"
        ) from exc


READERS: dict[str, Callable[[Path], Source]] = {
    ".csv": table_rows,
    ".tsv": table_rows,
    ".jsonl": table_rows,
    ".json": json_rows,
    ".txt": text_rows,
    ".parquet": parquet_rows,
}


def open_source(wish: Wish) -> Source:
    """All rows of the source. UserError where there is none, or it cannot be read."""
    path = Path(wish.source)
    name = path.name.removesuffix(".gz")
    if path.is_file():
        # questionset.jsonl.txt is JSON lines: so the file of MT-bench questions is often called.
        suffix = ".jsonl" if is_json_lines(path) else Path(name).suffix.lower()
        if suffix not in READERS or (name != path.name and suffix != ".jsonl"):
            kinds = ", ".join(READERS)
            raise LoadPromptsError(f"{path}: prompts are read from {kinds} and .jsonl.gz; convert it")
        try:
            return READERS[suffix](path)
        except UnicodeDecodeError as exc:
            raise LoadPromptsError(f"{path}: not UTF-8 ({exc}); save it as UTF-8") from exc
    if path.is_dir() and wish.source not in SETS:
        return folder_rows(path, wish.split)
    if not is_here(wish.source):
        return hub_rows(wish.source, wish.subset, wish.split)
    near = difflib.get_close_matches(wish.source, SETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the named sets are {', '.join(SETS)}"
    raise LoadPromptsError(f"no such file: {wish.source}; {hint}")


def write_prompts(path: Path, loaded: Loaded) -> None:
    """The prompts file, whole or not at all: question_id, category, topic and one column per level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, ["question_id", "category", "topic", *loaded.levels])
    rows.writeheader()
    rows.writerows(loaded.rows)
    write_whole(path, text.getvalue())


def format_sets() -> str:
    """The named sets as a table."""
    lines = [f"{'name':9} {'from':42} {'split':6} prompts"]
    lines += [f"{one.name:9} {one.hub_id:42} {one.split:6} {one.about}" for one in SETS.values()]
    return "\n".join(lines)


def sets_as_records() -> list[dict[str, Any]]:
    """The named sets, as JSON shows them."""
    return [asdict(one) for one in SETS.values()]
