"""Results out of the logs that LLM engines leave behind: one row per result, FAILED with its cause included.

Reads the logs of tinygrad (--timing, --benchmark) and of llama.cpp's tools and server, and llama-bench's
tables in all formats; finds out what failed, and why. Progress bars, escape codes, carriage returns, NULs,
broken text, gzip and several runs in one file are no obstacle. Of a file beyond --max_mb only the beginning
and the end are read, and its rows say so. Tokens that a just-in-time compiler slowed down are kept out of the
decode figures; the notes of a row state the rule and the count.

Output: JSON lines with --json or --out, else a table. Rates in tokens per second, times in ms, null where the
log does not say. Exit 1 if no file gave a result.

Example:
    python companions/parse_backend_logs.py results/*.log
    python companions/parse_backend_logs.py run_nv.log bench.md.gz --out results/backend_rows.jsonl
"""

import argparse
import gzip
import json
import os
import re
import sys
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from edgebench.backends.logs.tables import read_tables
from edgebench.backends.logs.timings import read_timings
from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of, write_whole
from edgebench.shell.door import Parser

USUAL_LIMIT_BYTE = 256 << 20
LONGEST_LINE = 1 << 20  # bytes; a progress bar without line ends is taken in pieces of this size
MOST_KEPT_CHARS = 64 << 20  # of lines that may hold a result; a campaign's log has some thousand of them
MOST_FAILURES = 20_000  # failure lines; beyond it the newest takes the place of the last
ESCAPES = re.compile(
    r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|\[[0-?]*[ -/]*[@-~]?|[@-Z\\-_])|\[\d{1,2}(?:;\d{1,3})*m"
)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Most lines of a big log are of no interest: a search for words sorts them out.
RESULT_WORDS = (
    *(
        " ms",
        "t/s",
        "tok/s",
        "GB/s",
        "avg_",
        "using ",
        "seed =",
        "n_threads",
        "flash_attn",
        "build",
        "python",
    ),
    *("found ", "ram used", "loaded meta", "print_timing", "tokens per second", "general.name", "file type"),
    *("model ftype", "offloaded", "Device ", "llama_bench", "llama-bench", " TEXT", " INTEGER", " REAL"),
    *("INSERT INTO", "CREATE TABLE", "tokens/s", "token/s", "tok/sec", "t/sec"),
)
TROUBLE_WORDS = (
    *(
        "error",
        "exception",
        "traceback",
        "fail",
        "kill",
        "fault",
        "memory",
        "abort",
        "hang",
        "not found",
        "no such",
    ),
    *(
        "denied",
        "timed out",
        "refused",
        "misaligned",
        "ggml_",
        "core dumped",
        "illegal",
        "terminate",
        "unable",
    ),
    *("cannot", "can't", "fatal", "interrupt", "exit"),
)
TABLE_LINE = re.compile(
    r"\|.*(?:t|tok|tokens?)/s|\|\s*(?:pp|tg)\s*\d[^|]*\||avg_ts|avg_ns|llama_bench\b", re.IGNORECASE
)
TROUBLE = re.compile(
    r"error|exception|traceback|fail|kill|fault|memory|abort|hang|not found|no such|denied|timed out|refused"
    r"|misaligned|GGML_|core dumped|illegal|terminate|unable|cannot|can't|fatal|interrupt|exit",
    re.IGNORECASE,
)
EXCEPTION = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Iteration))\b(?:: .*)?$"
)
FATAL = re.compile(
    r"CUDA error|misaligned address|out of memory|illegal memory access|GGML_ASSERT|GGML_ABORT"
    r"|ggml_abort|GPU hang|segmentation fault|core dumped|bus error|illegal instruction"
    r"|error loading model|terminate called"
    r"|(?:failed|unable) to (?:load|create|allocate|init\w*) (?:the )?(?:model|context|llama|buffer|cuda)\b"
    r"|Killed process|^Killed\b|\d+ Killed\b|^Aborted\b"
    r"|exited with (?:non-zero )?(?:exit )?(?:status|code) [1-9]",
    re.IGNORECASE,
)
COMPLAINT = re.compile(
    r"\b(?:error|fatal|failed|cannot|can't|not found|no such file|denied|timed out|refused)\b", re.I
)
FIGURES = re.compile(r"0x[0-9a-fA-F]+|\d{2,}")  # an exit code of one digit stays what it is
DOWNLOAD = re.compile(r"downloadInProgress|trying to download|\bdownloading\b", re.IGNORECASE)
PERCENT = re.compile(r"(?<![\d.])(\d{1,3})(?:\.\d+)?%")
UNFINISHED = re.compile(r"llama-bench: benchmark (\d{1,6})/(\d{1,6}): (.{0,60})")


@dataclass(frozen=True)
class Row:
    """One result. Format 1; readers ignore fields they do not know."""

    schema_version: int = 1
    backend: str | None = None  # the engine: llama.cpp, tinygrad
    device: str | None = None  # what it computes on: CUDA, NV, CPU
    model: str | None = None  # as the log names it
    quantization: str | None = None  # weight type, e.g. Q6_K
    test: str | None = None  # pp512, tg128, pp8+tg4, pp512 @ d4096; tokens, perf, request, chat
    prompt_tokens: int | None = None  # tokens prefilled
    generated_tokens: int | None = None  # tokens (llama.cpp's perf lines: decode steps) the log counts
    prefill_tok_per_s: float | None = None  # tokens/s
    prefill_tok_per_s_std: float | None = None  # tokens/s, as printed
    decode_tok_per_s: float | None = None  # tokens/s after the warm-up
    decode_tok_per_s_std: float | None = None  # tokens/s, over repetitions (tables) or tokens (test "tokens")
    tok_per_s: float | None = None  # tokens/s of a test that mixes both phases
    tok_per_s_std: float | None = None  # tokens/s
    ttft_ms: float | None = None  # ms to the first token
    tpot_ms: float | None = None  # ms per steady token
    n: int | None = None  # repetitions, or steady tokens for test "tokens"
    warmup_excluded: int | None = None  # tokens left out as warm-up
    warmup_ms: float | None = None  # ms these took
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    flash_attn: bool | None = None
    build: str | None = None  # commit and number of the engine
    memory_gb_per_s: float | None = None  # GB/s the engine counts per steady token
    depth_tokens: int | None = None  # tokens in the context before the test
    settings: Mapping[str, Any] = field(default_factory=dict)  # further columns, as printed
    status: str = "ok"  # ok or FAILED
    cause: str | None = None  # of a failure: the log's own words where it has any
    source_file: str | None = None
    source_line: int | None = None  # where the result begins, counted from 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A line of trouble: an exception, a fatal line of an engine, or a mere complaint."""

    rank: int  # 2 exception, 1 fatal, 0 complaint
    text: str


@dataclass
class Episode:
    """The failures between two results: the last exception tells most, the first fatal line says why."""

    failures: list[Failure] = field(default_factory=list)
    line: int = 0

    @property
    def serious(self) -> bool:
        return any(failure.rank for failure in self.failures)

    def cause(self) -> str:
        raised = [failure.text for failure in self.failures if failure.rank == 2]
        fatal = [failure.text for failure in self.failures if failure.rank == 1]
        # Of complaints the last one speaks, a line that calls itself an error before the others.
        mild = sorted((failure.text for failure in self.failures if not failure.rank), key=is_error)
        words = [*raised[-1:], *fatal[:1], *raised[:1]] or mild[-1:]
        before = next((f" (before it: {text})" for text in words if text != words[0]), "")
        return words[0] + before if words else ""


def is_error(text: str) -> bool:
    return bool(re.search(r"\b(?:error|fatal)\b", text, re.IGNORECASE))


# --- one log, line by line ---


@dataclass
class LogReader:
    """Takes cleaned lines; keeps those that may hold a result, and what failed."""

    kept: list[tuple[int, str]] = field(default_factory=list)
    kept_chars: int = 0
    has_table: bool = False
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    in_traceback: bool = False
    last_text: str = ""
    bench: tuple[int, int, str] = (0, 0, "")  # benchmark k of n, what it was doing
    benches: int = 0  # begun in the whole log

    def feed(self, line: int, text: str, hint: bool, trouble: bool) -> None:
        self.last_text = text
        if hint:
            self.keep(line, text)
        if self.in_traceback or trouble:
            self.note_failure(line, text)

    def keep(self, line: int, text: str) -> None:
        self.kept_chars += len(text)
        if self.kept_chars <= MOST_KEPT_CHARS:
            self.kept.append((line, text))
        self.has_table = self.has_table or bool(TABLE_LINE.search(text))
        begun = UNFINISHED.search(text)
        if begun:
            if int(begun[1]) != self.bench[0]:
                self.benches += 1
            self.bench = (int(begun[1]), int(begun[2]), begun[3].strip())

    def note_failure(self, line: int, text: str) -> None:
        indented, text = text[:1].isspace(), text.strip()[:300]
        if text.startswith("Traceback (most recent call last)"):
            self.in_traceback = True
        elif not indented and (self.in_traceback or EXCEPTION.match(text)):
            self.in_traceback = False
            self.add(line, Failure(2, text))
        elif not self.in_traceback:
            rank = rank_of(FIGURES.sub("11", text))
            if rank is not None:
                self.add(line, Failure(rank, text))

    def add(self, line: int, failure: Failure) -> None:
        if len(self.failures) >= MOST_FAILURES:
            self.failures.pop()
        self.failures.append((line, failure))


@lru_cache(maxsize=4096)  # messages that differ in their addresses and counts alone are judged once
def rank_of(text: str) -> int | None:
    """How grave a line of trouble is: fatal, a complaint, or neither."""
    if FATAL.search(text):
        return 1
    return 0 if COMPLAINT.search(text) else None


def clean(raw: bytes) -> Iterator[str]:
    """The texts of a line: a carriage return begins a new one, what steers a terminal is taken off."""
    text = raw.decode("utf-8", "replace").replace("\x00", "")
    if "\x1b" in text or "m" in text:
        text = ESCAPES.sub("", text)
    for part in text.split("\r"):
        yield CONTROLS.sub("", part.rstrip("\n"))


def sift(raw: bytes) -> tuple[tuple[str, bool, bool], ...]:
    """The texts of a line that say anything, each with: may it hold a result, may it tell of a failure?"""
    sifted = []
    for text in clean(raw):
        bare = text.strip()
        if bare:
            # A bracket also begins the time stamp of a kernel's messages.
            array = bare[0] == "[" and bare[1:].lstrip()[:1] in ("", "{", '"', "]")
            listed = array or bare[0] in '|{}]"0123456789' or text.count(",") > 2 or text.count("|") > 1
            hint = listed or any(word in text for word in RESULT_WORDS)
            lowered = text.lower()
            sifted.append((text, hint, any(word in lowered for word in TROUBLE_WORDS)))
    return tuple(sifted)


sift_again = lru_cache(maxsize=4096)(sift)  # a log grows huge by saying the same again and again


# --- a whole log ---


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


def row_from(values: Mapping[str, Any]) -> Row:
    """A row of what a reader found, or of what the log has said of its run."""
    settings = dict(values.get("settings") or {})
    settings |= {name: values[name] for name in ("gpu", "load_ms") if values.get(name) is not None}
    given = {name: value for name, value in values.items() if name in Row.__dataclass_fields__}
    return Row(**{**given, "settings": settings, "notes": tuple(values.get("notes", ()))})


def collect_events(reader: LogReader) -> list[tuple[int, Any]]:
    """Rows, starts of runs (as the row of what the log says of them) and failures, by line."""
    events: list[tuple[int, Any]] = list(reader.failures)
    if not reader.kept:
        return events
    gpu: dict[str, Any] = {}
    for event in read_timings(reader.kept):
        is_row = event["kind"] == "row"
        events.append((event["line"], row_from(event) if is_row else event["known"]))
        gpu = gpu or {"gpu": event.get("known", {}).get("gpu")}
    if reader.has_table:
        tabled = read_tables(reader.kept)
        events += [(row["source_line"], row_from({**gpu, **row})) for row in tabled]
    # On one line a run starts before it fails.
    return sorted(events, key=lambda event: (event[0], isinstance(event[1], Failure)))


@dataclass
class Story:
    """What the events of a log tell: its rows, and the run that stands open at the end."""

    rows: list[Row] = field(default_factory=list)
    episode: Episode = field(default_factory=Episode)
    known: Mapping[str, Any] = field(default_factory=dict)  # of the open run
    started: int = 0  # line of a start that no result has followed

    def failed(self, line: int, cause: str) -> None:
        self.rows.append(replace(row_from(self.known), status="FAILED", cause=cause, source_line=line))

    def tell(self, line: int, event: Any) -> None:
        if isinstance(event, Failure):
            self.episode.failures.append(event)
            self.episode.line = line
            return
        if isinstance(event, Row):
            note = (f"before it in the log: {self.episode.cause()}",) if self.episode.serious else ()
            self.rows.append(replace(event, notes=(*event.notes, *note)))
            self.started = 0
        else:
            if self.episode.serious:
                self.failed(self.episode.line, self.episode.cause())
            self.known, self.started = event, line
        self.episode = Episode()


def last_words(reader: LogReader, complaint: str, recognised: bool, read: int) -> str:
    """Why a log without result or exception has none, from its last line."""
    last = reader.last_text.strip()[:160]
    share = PERCENT.findall(last)
    if not last:
        return "empty file" if not read else "nothing recognised: no text in the file"
    if DOWNLOAD.search(last):
        return f"stalled in a download: {last}"
    if complaint:
        return complaint
    if share and int(share[-1]) < 100:
        return f"the log ends at {share[-1]} % of: {last}"
    if not recognised:
        return "nothing recognised: no line of an engine or tool this script knows"
    return f"the log ends before any result; its last line: {last}"


def end_story(story: Story, reader: LogReader, read: int) -> None:
    """A FAILED row for the last run if it died, or ended without its result."""
    episode, rows = story.episode, story.rows
    line = episode.line or story.started or 1
    if episode.serious:
        story.failed(episode.line, episode.cause())
    elif reader.benches > sum(row.source_line is not None and row.backend == "llama.cpp" for row in rows):
        at, of, doing = reader.bench
        story.failed(line, f"the log ends in benchmark {at}/{of}: {doing}")
    elif not rows or story.started:
        recognised = bool(story.known) or reader.has_table
        story.failed(line, last_words(reader, episode.cause(), recognised, read))


def parse_log(stream: IO[bytes], limit_byte: int) -> list[Row]:
    """All results of one log; at least one row, FAILED if nothing else."""
    reader, story = LogReader(), Story()
    notes: list[str] = []
    read = 0
    for line, raw in enumerate(raw_lines(stream, limit_byte, notes), 1):
        read += len(raw)
        for text, hint, trouble in sift_again(raw) if len(raw) < 1000 else sift(raw):
            reader.feed(line, text, hint, trouble)
    for at, event in collect_events(reader):
        story.tell(at, event)
    end_story(story, reader, read)
    return [replace(row, notes=(*row.notes, *notes)) for row in story.rows]


def parse_path(path: str, limit_byte: int = USUAL_LIMIT_BYTE) -> list[Row]:
    """All results of one log, - for stdin; a file that cannot be read is a FAILED row."""
    if path == "-":
        return [replace(row, source_file="-") for row in parse_log(sys.stdin.buffer, limit_byte)]
    try:
        with Path(path).open("rb") as stream:
            rows = parse_log(stream, limit_byte)
    except OSError as exc:
        rows = [Row(status="FAILED", cause=f"cannot be read: {exc.strerror or exc}")]
    return [replace(row, source_file=path) for row in rows]


# --- output ---


def show(value: float | None, std: float | None = None) -> str:
    if value is None:
        return "-"
    places = 2 if value < 10_000 else 0
    return f"{value:.{places}f}" + (f" ±{std:.{places}f}" if std is not None else "")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows for a terminal of 80 columns, with cause and notes under each."""
    yield f"{'engine':<13} {'model':<16} {'test':<10} {'prefill t/s':>14} {'decode t/s':>13} {'TTFT ms':>8}"
    source = None
    for row in rows:
        if row.source_file != source:
            source = row.source_file
            yield f"{source}:"
        engine = " ".join(part for part in (row.backend, row.device) if part) or "?"
        prefill = show(row.prefill_tok_per_s, row.prefill_tok_per_s_std)
        decode = show(row.decode_tok_per_s, row.decode_tok_per_s_std)
        what = f"{engine:<13.13} {row.model or '?':<16.16} {row.test or '-':<10.10}"
        yield f"{what} {prefill:>14} {decode:>13} {show(row.ttft_ms):>8}"
        below = [f"FAILED: {row.cause}"] if row.status == "FAILED" else []
        if row.tok_per_s:
            below.append(f"{show(row.tok_per_s, row.tok_per_s_std)} tok/s over both phases")
        for text in (*below, *row.notes):
            yield from textwrap.wrap(text, 78, initial_indent="  ", subsequent_indent="    ")


def write_rows(path: Path, text: str) -> None:
    """The rows into a file, in a folder that is made for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {reason_of(problem)}; give --out a path in a folder you may write"
        ) from problem


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", metavar="LOG", nargs="+", help="log files, .gz too; - for stdin")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines instead of a table")
    parser.add_argument("--out", metavar="ROWS.jsonl", type=Path, help="write the rows there as JSON lines")
    parser.add_argument("--device", help="device of rows whose log does not name it, e.g. CUDA")
    parser.add_argument("--model", help="model of rows whose log does not name it")
    parser.add_argument(
        "--max_mb", type=int, default=256, help="MB of a log to read at most (default %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    rows = [row for path in args.logs for row in parse_path(path, max(args.max_mb, 2) << 20)]
    rows = [replace(row, device=row.device or args.device, model=row.model or args.model) for row in rows]
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    if args.out:
        write_rows(args.out, lines)
    if args.json:
        sys.stdout.write(lines)
    elif not args.out:
        print("\n".join(table(rows)))
    if any(row.status == "ok" for row in rows):
        return 0
    print("error: no log gave a result; the rows say why", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        return run(args)
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
