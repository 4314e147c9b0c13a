"""Results out of the logs that LLM engines leave behind: one row per result, FAILED with its cause included.

Reads the logs of tinygrad (--timing, --benchmark), of llama.cpp's tools and server and of Ollama
(--verbose), and llama-bench's tables in all formats; finds out what failed, and why. Of several runs of the
same work in one log each row says which it is: the last one is the warm one.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from edgebench.backends.logs.failures import Episode, Failure
from edgebench.backends.logs.rows import Row, row_from
from edgebench.backends.logs.sifting import LogReader, sift
from edgebench.backends.logs.tables import read_tables
from edgebench.backends.logs.timings import read_timings

USUAL_LIMIT_BYTE = 256 << 20
DOWNLOAD = re.compile(r"downloadInProgress|trying to download|\bdownloading\b", re.IGNORECASE)
PERCENT = re.compile(r"(?<![\d.])(\d{1,3})(?:\.\d+)?%")
# Tests whose rows are runs of a process; a server's requests differ in their prompts.
RUNS = ("tokens", "perf")


def collect_events(reader: LogReader) -> list[tuple[int, Any]]:
    """Rows, starts of runs (as the row of what the log says of them) and failures, by line."""
    events: list[tuple[int, Any]] = list(reader.failures)
    starts: list[tuple[int, Mapping[str, Any]]] = []
    for event in read_timings(reader.kept):
        is_row = event["kind"] == "row"
        events.append((event["line"], row_from(event) if is_row else event["known"]))
        if not is_row:
            starts.append((event["line"], event["known"]))
    for row in read_tables(reader.tabled) if reader.has_table else []:
        at = bisect_right(starts, row["source_line"], key=lambda start: start[0]) - 1
        gpu = starts[at][1].get("gpu") if at >= 0 else None
        events.append((row["source_line"], row_from({"gpu": gpu, **row})))
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


def name_runs(rows: Sequence[Row]) -> list[Row]:
    """Rows that are several runs of one work, each with which it is; the last is the warm one.

    The first run of a process compiles, reads the model from the disk and warms the board; who runs the same
    again in one log wants the last.
    """
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.status == "ok" and row.test in RUNS:
            names = (row.backend, row.device, row.model, row.quantization, row.test, row.prompt_tokens)
            alike[names].append(place)
    named = list(rows)
    for places in alike.values():
        for number, place in enumerate(places if len(places) > 1 else (), 1):
            last = number == len(places)
            which = "the warm one" if last else "the last one is the warm one"
            note = f"run {number} of {len(places)} in this log; {which}"
            row = named[place]
            named[place] = replace(row, run=number, runs=len(places), notes=(note, *row.notes))
    return named


def parse_log(stream: IO[bytes], limit_byte: int) -> list[Row]:
    """All results of one log; at least one row, FAILED if nothing else."""
    story, notes = Story(), list[str]()
    reader = sift(stream, limit_byte, notes)
    for at, event in collect_events(reader):
        story.tell(at, event)
    end_story(story, reader, reader.read_byte)
    return [replace(row, notes=(*row.notes, *notes)) for row in name_runs(story.rows)]


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
