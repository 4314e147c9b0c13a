"""A log's bytes, line by line: what steers a terminal is taken off, what says nothing is passed over.

A campaign that fails writes hundreds of megabytes, nearly all of them the same few messages with other
numbers in them. So a line is judged by its shape, the line with every longer number and address made one: may
a line of that shape hold a result, a cell of a table, a failure? The answer is remembered, and of a line that
holds nothing no text is ever made.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple, cast

from edgebench.backends.logs.failures import EXCEPTION, Failure, rank_of
from edgebench.backends.logs.timings import what_it_says

LONGEST_LINE = 1 << 20  # bytes; a progress bar without line ends is taken in pieces of this size
LONGEST_SHAPE = 1000  # bytes; longer lines are rare, and each is judged by itself
MOST_KEPT_CHARS = 64 << 20  # of lines that may hold a result; a campaign's log has some thousand of them
MOST_FAILURES = 20_000  # failure lines; beyond it the newest takes the place of the last
MOST_SHAPES = 1 << 16
LINES_AT_ONCE = 4096
LONGEST_CAUSE = 300  # characters of a message
ENGINE_LINES = 100  # that only name the engine, kept of a run
BEFORE_A_TABLE = 500  # lines that look like parts of a table, kept until one is known to be one
ESCAPES = re.compile(
    r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|\[[0-?]*[ -/]*[@-~]?|[@-Z\\-_])|\[\d{1,2}(?:;\d{1,3})*m"
)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
FIGURES = re.compile(rb"0x[0-9a-fA-F]+|\d{2,}")  # an exit code of one digit stays what it is
TABLE_LINE = re.compile(
    r"\|.*(?:t|tok|tokens?)/s|\|\s*(?:pp|tg)\s*\d[^|]*\||avg_ts|avg_ns|llama_bench\b", re.IGNORECASE
)
TABLE_WORDS = re.compile(r"avg_|llama[_-]bench| TEXT| INTEGER| REAL|INSERT INTO|CREATE TABLE|^build: ")
TROUBLE = re.compile(
    r"error|exception|traceback|fail|kill|fault|memory|abort|hang|not found|no such|denied|timed out|refused"
    r"|misaligned|ggml_|core dumped|illegal|terminate|unable|cannot|can't|fatal|interrupt|exit",
    re.IGNORECASE,
)
UNFINISHED = re.compile(r"llama-bench: benchmark (\d{1,6})/(\d{1,6}): (.{0,60})")
TRACEBACK = "Traceback (most recent call last)"


class Shape(NamedTuple):
    """What a line of a shape may be; all False of one that says nothing."""

    has_text: bool = False
    speaks: bool = False  # of timings, or of the run itself
    in_table: bool = False  # looks like a part of a table
    is_table: bool = False  # surely is one
    is_bench: bool = False  # llama-bench's progress
    engine_only: bool = False  # says no more than which engine prints here
    traceback: bool = False  # begins one
    exception: bool = False  # ends one, or stands alone
    rank: int | None = None  # of a line of trouble
    indented: bool = False

    @property
    def silent(self) -> bool:
        """Whether no text of it is wanted, unless a traceback stands open."""
        return not (
            self.speaks
            or self.in_table
            or self.is_bench
            or self.traceback
            or self.exception
            or self.rank is not None
        )


SILENT = Shape()


def judge(text: str) -> Shape:
    """What one cleaned text may hold."""
    bare = text.strip()
    if not bare:
        return SILENT
    # A bracket also begins the time stamp of a kernel's messages.
    array = bare[0] == "[" and bare[1:].lstrip()[:1] in ("", "{", '"', "]")
    listed = array or bare[0] in '|{}]"0123456789' or text.count(",") > 2 or text.count("|") > 1
    trouble = bool(TROUBLE.search(text))
    said = what_it_says(text)
    return Shape(
        has_text=True,
        speaks=said is not None,
        engine_only=said == "engine",
        in_table=listed or bool(TABLE_WORDS.search(text)),
        is_table=bool(TABLE_LINE.search(text)),
        is_bench=bool(UNFINISHED.search(text)),
        traceback=bare.startswith(TRACEBACK),
        exception=trouble and not text[:1].isspace() and bool(EXCEPTION.match(bare[:LONGEST_CAUSE])),
        rank=rank_of(bare[:LONGEST_CAUSE]) if trouble else None,
        indented=text[:1].isspace(),
    )


def clean(raw: bytes) -> Iterator[str]:
    """The texts of a line: a carriage return begins a new one, what steers a terminal is taken off."""
    text = raw.decode("utf-8", "replace").replace("\x00", "")
    if "\x1b" in text or "m" in text:
        text = ESCAPES.sub("", text)
    for part in text.split("\r"):
        yield CONTROLS.sub("", part.rstrip("\n"))


def text_of(raw: bytes | str) -> str:
    """The one text of a line."""
    return next(clean(raw)) if isinstance(raw, bytes) else raw


@dataclass
class LogReader:
    """Takes the lines of a log; keeps those that may hold a result, and what failed."""

    kept: list[tuple[int, str]] = field(default_factory=list)  # lines that speak of runs and times
    tabled: list[tuple[int, str]] = field(default_factory=list)  # lines of tables
    kept_chars: int = 0
    has_table: bool = False
    in_traceback: bool = False
    bench: tuple[int, int, str] = (0, 0, "")  # benchmark k of n, what it was doing
    benches: int = 0  # begun in the whole log
    read_byte: int = 0
    _failed: list[tuple[int, int, bytes | str]] = field(default_factory=list)  # line, rank, text or its bytes
    _last: bytes = b""  # the last line with a text in it
    _before: deque[tuple[int, bytes | str]] = field(default_factory=lambda: deque(maxlen=BEFORE_A_TABLE))
    _shapes: dict[bytes, Shape | None] = field(default_factory=dict)  # None: several texts in one line
    _engine_lines: int = 0

    def take(self, first: int, lines: list[bytes]) -> None:
        """Lines of a log, the first of them with its number."""
        self.read_byte += sum(map(len, lines))
        shapes = self._shapes
        for line, raw, shape in zip(range(first, first + len(lines)), lines, shapes_of(lines), strict=True):
            known = shapes[shape] if shape in shapes else self._learn(raw, shape)
            if known is None:
                for text in clean(raw):
                    self._feed(line, judge(text), text)
                self._last = raw
            elif known.has_text:
                self._last = raw
                if self.in_traceback or not known.silent:
                    self._feed(line, known, raw)

    def _learn(self, raw: bytes, shape: bytes) -> Shape | None:
        """Judge the first line of a shape."""
        texts = list(clean(raw))
        # Escape codes may differ within one shape, and a long line is one of its kind.
        single = len(texts) == 1 or (len(texts) == 2 and not texts[1])
        if not single or len(raw) > LONGEST_SHAPE or b"\x1b" in raw:
            return None
        if len(self._shapes) >= MOST_SHAPES:
            self._shapes.clear()
        known = self._shapes[shape] = judge(texts[0])
        return known

    def _feed(self, line: int, shape: Shape, raw: bytes | str) -> None:
        """One line, or one text of a line, with what it may hold; its text is made where it is wanted."""
        if shape.is_bench or (shape.speaks and self._is_news(shape)):
            self._keep(self.kept, line, text_of(raw))
        if shape.in_table or shape.is_bench:
            self._keep_table(line, raw, shape)
        if shape.is_bench:
            self._count_bench(text_of(raw))
        self._note_failure(line, shape, raw)

    def _is_news(self, shape: Shape) -> bool:
        """False of the many lines that only say once more which engine it is."""
        self._engine_lines = self._engine_lines + 1 if shape.engine_only else 0
        return self._engine_lines <= ENGINE_LINES

    def _keep(self, kept: list[tuple[int, str]], line: int, text: str) -> None:
        self.kept_chars += len(text)
        if self.kept_chars <= MOST_KEPT_CHARS:
            kept.append((line, text))

    def _keep_table(self, line: int, raw: bytes | str, shape: Shape) -> None:
        if self.has_table:
            self._keep(self.tabled, line, text_of(raw))
            return
        self._before.append((line, raw))
        if shape.is_table:
            self.has_table = True
            for number, earlier in self._before:
                self._keep(self.tabled, number, text_of(earlier))
            self._before.clear()

    def _count_bench(self, text: str) -> None:
        begun = UNFINISHED.search(text)
        if begun:
            if int(begun[1]) != self.bench[0]:
                self.benches += 1
            self.bench = (int(begun[1]), int(begun[2]), begun[3].strip())

    def _note_failure(self, line: int, shape: Shape, raw: bytes | str) -> None:
        if shape.traceback:
            self.in_traceback = True
        elif shape.has_text and not shape.indented and (self.in_traceback or shape.exception):
            self.in_traceback = False
            self._add(line, 2, raw)
        elif shape.rank is not None and not self.in_traceback:
            self._add(line, shape.rank, raw)

    def _add(self, line: int, rank: int, raw: bytes | str) -> None:
        if len(self._failed) >= MOST_FAILURES:
            self._failed.pop()
        self._failed.append((line, rank, raw))

    @property
    def failures(self) -> list[tuple[int, Failure]]:
        """What failed, by line."""
        found = []
        for line, rank, raw in self._failed:
            found.append((line, Failure(rank, text_of(raw).strip()[:LONGEST_CAUSE])))
        return found

    @property
    def last_text(self) -> str:
        """The last text of the log."""
        texts = [text for text in clean(self._last) if text.strip()]
        return texts[-1] if texts else ""


def shapes_of(lines: list[bytes]) -> list[bytes]:
    """The lines with every number of two digits and more, and every address, made the same.

    >>> shapes_of([b"took 12.25 ms at 0x7f0a\\n", b"status 1"])
    [b'took 11.11 ms at 11', b'status 1']
    """
    joined = b"".join(lines)
    if joined.count(b"\n") == len(lines):  # one substitution for thousands of lines is far quicker
        return FIGURES.sub(b"11", joined).split(b"\n")[:-1]
    return [FIGURES.sub(b"11", line).rstrip(b"\n") for line in lines]


def raw_lines(stream: IO[bytes], limit_byte: int, notes: list[str]) -> Iterator[bytes]:
    """The lines of a stream of bytes; of a file beyond the limit its first and its last half of the limit."""
    size = stream.seek(0, os.SEEK_END) if stream.seekable() else 0
    if stream.seekable():
        stream.seek(0)
        magic = stream.read(2)
        stream.seek(0)
        if magic == b"\x1f\x8b":
            # A bomb of zeros unpacks to any size: the limit counts unpacked bytes, with no end to jump to.
            stream, size = cast("IO[bytes]", gzip.GzipFile(fileobj=stream)), 0
    read, jumped = 0, False
    try:
        while raw := stream.readline(LONGEST_LINE):
            yield raw
            read += len(raw)
            if size > limit_byte and not jumped and read >= limit_byte // 2:
                stream.seek(max(size - limit_byte // 2, read))
                jumped = True
                stream.readline(LONGEST_LINE)
                notes.append(f"only the first and last {limit_byte >> 21} MB of {size >> 20} MB were read")
            elif not size and read >= limit_byte:
                notes.append(f"reading stopped after {limit_byte >> 20} MB")
                return
    except (EOFError, gzip.BadGzipFile, zlib.error):
        notes.append("the gzip file is broken or cut off; what came before counts")


def sift(stream: IO[bytes], limit_byte: int, notes: list[str]) -> LogReader:
    """Read a whole log. What of it was left out is added to `notes`."""
    reader, line, lines = LogReader(), 1, []
    for raw in raw_lines(stream, limit_byte, notes):
        lines.append(raw)
        if len(lines) == LINES_AT_ONCE or len(raw) > LONGEST_SHAPE:
            reader.take(line, lines)
            line, lines = line + len(lines), []
    reader.take(line, lines)
    return reader
