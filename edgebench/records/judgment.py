"""What the judge leaves, read and written here alone: the journal, a line a game; the scores, a row a pair.

A game is two answers shown in one order. The journal only grows: a later line of a game replaces the earlier
one. The scores are a CSV with SCORE_COLUMNS, one row for each pair of levels that has been judged in both
orders. Readers take files of any age and what Excel or pandas made of them; what cannot be read is counted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgebench.records.csv_text import TableError, rows_of
from edgebench.records.jsonl import read_jsonl, write_whole
from edgebench.records.run import task_id
from edgebench.shell.calls import as_called
from edgebench.shell.text import counted, printable
from edgebench.stats.preference import Chances

SCORE_COLUMNS = ("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn")
NEEDED_COLUMNS = ("task_id", "model_id", "pair", "winner")
# The left level's score for a winner as the scores file names it, after both orders are reconciled.
SCORE_OF_WINNER = {"A": 1.0, "B": 0.0, "Tie": 0.5}
SCORE_OF_SIDE = {"left": 1.0, "right": 0.0, "tie": 0.5}
WINNERS = {winner.lower(): winner for winner in SCORE_OF_WINNER}
NO_JUDGE = "unknown"  # in files that do not name theirs
# A spreadsheet takes a cell that begins so for a formula. An apostrophe before it makes it text, as in Excel;
# a text that has its own apostrophe there gets a further one, so that reading gives back what was written.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def sides_of(pair: str) -> tuple[str, str]:
    """The two levels of a pair; the second is empty where the text names no pair.

    >>> sides_of("L0_vs_P"), sides_of("L0")
    (('L0', 'P'), ('L0', ''))
    """
    left, _, right = pair.partition("_vs_")
    return left, right


def whole_number(value: Any, default: int = 1) -> int | None:
    """A turn or a repeat: 1, "1", 1.0; `default` where there is none, None for what is no number.

    >>> whole_number("2.0"), whole_number(None), whole_number(""), whole_number("two")
    (2, 1, 1, None)
    """
    number = task_id(value)
    if number is None:
        return default
    return number if isinstance(number, int) else None


# --- The scores ---


@dataclass(frozen=True)
class ScoreRow:
    """One row of scores_mtbench.csv: a pair of levels of one task and model, both orders reconciled."""

    task_id: str  # as in the question set
    category: str  # of the task
    model_id: str  # of the runs
    pair: str  # L0_vs_P: the left and the right level
    winner: str  # A = left level, B = right level, Tie
    judge_model: str  # as it was asked for
    turn: int = 1  # of the conversation, as in FastChat

    @property
    def left(self) -> str:
        """The level left of _vs_."""
        return sides_of(self.pair)[0]

    @property
    def right(self) -> str:
        """The level right of _vs_."""
        return sides_of(self.pair)[1]

    @property
    def score(self) -> float:
        """Of the left level: 1 won, 0.5 tied, 0 lost."""
        return SCORE_OF_WINNER[self.winner]

    @property
    def place(self) -> tuple[Any, ...]:
        """What names the pair, whichever level stands left: a later row of it replaces an earlier one."""
        return (self.model_id, self.judge_model, self.task_id, self.turn, *sorted((self.left, self.right)))


@dataclass(frozen=True)
class Scores:
    """The rows of a scores file that say something, the last one of each pair; and what was left out."""

    rows: list[ScoreRow]
    read: int = 0  # rows in the file
    duplicates: int = 0  # earlier rows of a pair that stands again below
    unknown_winners: Counter[str] = field(default_factory=Counter)  # neither A nor B nor Tie
    malformed: int = 0  # without task or model, or not of two levels

    @property
    def remarks(self) -> list[str]:
        """What was left out, in sentences; nothing for a file that is whole."""
        said = []
        if self.unknown_winners:
            names = ", ".join(repr(printable(name)) for name, _ in self.unknown_winners.most_common(3))
            said.append(
                f"{counted(self.unknown_winners.total(), 'row')} of the scores left out:"
                f" the winner is {names}, not A, B or Tie"
            )
        if self.malformed:
            what = counted(self.malformed, "row")
            said.append(f"{what} of the scores left out: no task, no model, or not two levels")
        if self.duplicates:
            said.append(of_repeated_rows(self.duplicates))
        return said


def of_repeated_rows(rows: int) -> str:
    """What is said of rows of a pair that stands again below."""
    what = counted(rows, "row")
    return f"{what} of the scores left out: the pair stands again below, the last row counts"


def as_cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula; `from_cell` takes it back.

    >>> as_cell("=1+1"), as_cell("'=1"), as_cell("gpt-4o"), from_cell(as_cell("'=1"))
    ("'=1+1", "''=1", 'gpt-4o', "'=1")
    """
    text = text.replace("\0", "\ufffd")  # Python 3.10's csv reads no NUL
    return "'" + text if FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` made a cell of."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Replace the CSV by rename: no reader ever sees half of it. OSError where it cannot be written."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(SCORE_COLUMNS)
    for row in rows:
        cells = [as_cell(str(getattr(row, name))) for name in SCORE_COLUMNS]
        # Python's writer sees that a line feed needs quotes, a lone carriage return it does not.
        (quoted if "\r" in "".join(cells) else plain).writerow(cells)
    write_whole(path, text.getvalue().encode("utf-8", "replace"))


def read_scores(path: Path) -> Scores:
    """The scores file of any program: commas, semicolons or tabs, with or without BOM, .gz too.

    TableError, which says what the file is instead, for one without the columns task_id, model_id, pair and
    winner; OSError, EOFError and zlib.error where it cannot be read.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [cells for _, cells in rows_of(path, content, SCORE_COLUMNS)]
    header = [name.strip() for name in lines[0]] if lines else []
    lacking = [name for name in NEEDED_COLUMNS if name not in header]
    if lacking and lines:
        writer = as_called("judge_pairs.py")
        raise TableError(
            f"{path} has no column {', '.join(lacking)}: it is no scores file; {writer} writes one"
        )
    return scores_of([dict(zip(header, cells, strict=False)) for cells in lines[1:]])


def scores_of(cells: Sequence[Mapping[str, str]]) -> Scores:
    """Rows by column name, as they stand in the file, made typed rows."""
    unknown: Counter[str] = Counter()
    found: dict[tuple[Any, ...], ScoreRow] = {}
    malformed = duplicates = 0
    for cell in cells:
        given = {name: from_cell(cell.get(name, "").strip()) for name in SCORE_COLUMNS}
        task, turn = task_id(given["task_id"]), whole_number(given["turn"])
        left, right = sides_of(given["pair"])
        winner = WINNERS.get(given["winner"].lower())
        if task is None or turn is None or not given["model_id"] or not left or not right or left == right:
            malformed += 1
        elif winner is None:
            unknown[given["winner"]] += 1
        else:
            judge = given["judge_model"] or NO_JUDGE
            names = (given["category"], given["model_id"], given["pair"], winner, judge)
            row = ScoreRow(str(task), *names, turn)
            duplicates += row.place in found
            found.pop(row.place, None)
            found[row.place] = row
    return Scores(list(found.values()), len(cells), duplicates, unknown, malformed)


# --- The journal ---


@dataclass
class JournalLine:
    """One line of the journal, format 1: one per reply, per pair decided by a rule, per request given up.

    What a line has nothing to say of is None. Fields that came later stand at the end, and are not written
    where they are None.
    """

    schema_version: int = 1  # 1
    key: str = ""  # hash of all that went into the request
    task_id: str = ""  # as in the question set
    category: str = ""  # of the task
    model_id: str = ""  # of the runs
    turn: int = 1  # of the conversation
    pair: str = ""  # L0_vs_P: the left and the right level
    repeat: int = 1  # counts distinct pairs of answers
    left_level: str = ""  # of the pair
    right_level: str = ""  # of the pair
    order: str | None = None  # left_first or right_first; None where a rule decided
    slot_a_level: str | None = None  # whose answer the judge saw first
    slot_b_level: str | None = None  # whose answer it saw second
    left_sha256: str | None = None  # of the answers as judged
    left_chars: int | None = None  # of the left answer
    left_truncated: bool | None = None  # the token limit cut it
    right_sha256: str | None = None  # as left_sha256
    right_chars: int | None = None  # of the right answer
    right_truncated: bool | None = None  # as left_truncated
    judge_model: str = ""  # as asked for
    rule: str | None = None  # why nobody was asked: identical, empty_loses
    raw_reply: str | None = None  # what the judge said, whole
    reply_model: str | None = None  # as the endpoint calls itself
    finish_reason: str | None = None  # of the reply, as the endpoint gives it
    prompt_tokens: int | None = None  # as the endpoint counts them
    completion_tokens: int | None = None  # as the endpoint counts them
    params: dict[str, Any] | None = None  # sent besides model and messages
    duration_s: float | None = None  # of the request that was answered
    error: str | None = None  # why the request was given up
    attempts: int | None = None  # HTTP requests it cost; 0: by rule, or read anew
    asked_at: str | None = None  # RFC 3339, UTC; a label
    verdict: str | None = None  # A, B, Tie by slot; None where the reply says none
    winner_side: str | None = None  # left, right, tie
    chance_a: float | None = None  # --soft: probability that the judge says A, in all spellings, by slot
    chance_b: float | None = None  # --soft: that it says B
    chance_tie: float | None = None  # --soft: that it says Tie
    chances_bounded: list[str] | None = None  # of A, B and Tie those not listed: their chance is a bound
    logprobs: list[list[Any]] | None = None  # pairs of token and natural log of its probability

    @property
    def chances(self) -> Chances | None:
        """The judge's probabilities of its three words; None where the verdict is a counted one."""
        if self.chance_a is None or self.chance_b is None or self.chance_tie is None:
            return None
        return Chances(self.chance_a, self.chance_b, self.chance_tie, tuple(self.chances_bounded or ()))

    @property
    def is_reply(self) -> bool:
        """Whether the judge has said something, be it nothing readable."""
        return self.raw_reply is not None

    @property
    def game(self) -> tuple[Any, ...]:
        """What names the game; of its lines the last one counts."""
        return (
            self.task_id,
            self.model_id,
            self.turn,
            self.pair,
            self.judge_model,
            self.repeat,
            self.order,
        )

    @property
    def levels_by_slot(self) -> tuple[str, str]:
        """The levels whose answers stood in slot A and slot B; of a rule the left and the right one."""
        if self.order == "right_first":
            return self.right_level, self.left_level
        return self.left_level, self.right_level

    def side_of(self, verdict: str | None) -> str | None:
        """What a verdict by slot says of the two levels: left, right, tie."""
        a, b = ("right", "left") if self.order == "right_first" else ("left", "right")
        return {"A": a, "B": b, "Tie": "tie"}.get(verdict or "")

    def to_dict(self) -> dict[str, Any]:
        """The line as it is written. Where nobody replied, what only a reply could fill is left out."""
        whole = {one.name: getattr(self, one.name) for one in fields(self)}
        spare = LATER_FIELDS if self.is_reply else LATER_FIELDS | OF_A_REPLY
        return {name: value for name, value in whole.items() if value is not None or name not in spare}


OF_A_REPLY = frozenset(
    ("raw_reply", "reply_model", "finish_reason", "prompt_tokens", "completion_tokens", "params")
) | {"duration_s", "error", "attempts"}
CHANCES = ("chance_a", "chance_b", "chance_tie")
LATER_FIELDS = frozenset((*CHANCES, "chances_bounded", "logprobs"))


def line_from_dict(record: Mapping[str, Any]) -> JournalLine | None:
    """A line of a journal of any age, unknown fields ignored; None for a record that is of no game."""
    known = {one.name for one in fields(JournalLine)}
    given = {name: value for name, value in record.items() if name in known and value is not None}
    left, right = sides_of(str(given.get("pair") or ""))
    given["left_level"] = str(given.get("left_level") or left)
    given["right_level"] = str(given.get("right_level") or right)
    task = task_id(given.get("task_id"))
    given["task_id"] = "" if task is None else str(task)
    for name in ("turn", "repeat"):
        given[name] = whole_number(given.get(name)) or 1
    if not isinstance(given.get("raw_reply"), str):
        given.pop("raw_reply", None)
    if given.get("winner_side") not in SCORE_OF_SIDE:
        given.pop("winner_side", None)
    for name in ("key", "model_id", "judge_model", "pair", "category"):
        given[name] = str(given.get(name) or "")
    if not all(is_chance(given.get(name)) for name in CHANCES):
        for name in LATER_FIELDS:
            given.pop(name, None)
    line = JournalLine(**given)
    return line if line.left_level and line.right_level else None


def is_chance(value: Any) -> bool:
    """Whether a value is a probability that a word can have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value <= 1.0


@dataclass(frozen=True)
class JournalFile:
    """The lines of a journal in the order of time, and how many could not be read."""

    lines: list[JournalLine]
    torn: int = 0


def read_journal(path: Path) -> JournalFile:
    """A whole journal. Raises one of records.jsonl.UNREADABLE."""
    lines: list[JournalLine] = []
    torn = 0
    for _, record in read_jsonl(path):
        line = line_from_dict(record) if record is not None else None
        if line is None:
            torn += 1
        else:
            lines.append(line)
    return JournalFile(lines, torn)


def as_line(line: JournalLine) -> bytes:
    """A journal line as bytes, with its line end."""
    return json.dumps(line.to_dict()).encode() + b"\n"


def journal_beside(scores: Path) -> Path:
    """Where the journal of a scores file stands.

    >>> journal_beside(Path("results/scores_mtbench.csv")).name, journal_beside(Path("s.csv.gz")).name
    ('scores_mtbench.journal.jsonl', 's.journal.jsonl')
    """
    stem = scores.name.removesuffix(".gz")
    return scores.with_name(stem).with_suffix(".journal.jsonl")
