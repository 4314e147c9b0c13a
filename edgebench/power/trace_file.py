"""A power trace on disk: CSV, a row per sample, written and read here alone.

Columns t_s (monotonic seconds), power_mw, rail, scope, source, temp_c (empty where unknown). Only the first
two are needed to read one. UTF-16 is read too: it is what a redirect in PowerShell writes.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from edgebench.power.tegrastats import TOTAL_RULES, doubts, encoding_of
from edgebench.power.trace import PowerTrace, SamplerError
from edgebench.records.run import SIMULATED_SOURCES

TRACE_FIELDS = "t_s,power_mw,rail,scope,source,temp_c"
SNIFF_BYTE = 4096
NO_HEAT = -math.inf  # of a sample without a temperature, in a trace
PROMPT_SOURCES = frozenset(("ina3221", "nvml", "replay"))  # feeds of ours print what they just read


class Origin(NamedTuple):
    """Where a row's watts come from; None where the trace does not say."""

    rail: str | None
    scope: str | None
    source: str | None

    def words(self) -> str:
        """In words, for a message."""
        return f"{self.rail or 'no rail'} ({self.scope or 'no scope'}) of {self.source or 'no source'}"


class TraceRow(NamedTuple):
    """One row."""

    line: int  # of the file, from 1
    t_s: float
    power_mw: float
    temp_c: float | None
    origin: Origin


@dataclass
class RecordedTrace:
    """A trace read back from a file."""

    path: Path
    trace: PowerTrace
    origins: list[TraceRow] = field(default_factory=list)  # the first row, and each of another origin
    torn_line: int | None = None  # the last row, if it was cut off and left out


def trace_row(
    t_s: float, power_mw: float, temp_c: float | None, rail: str | None, scope: str | None, source: str
) -> str:
    """One row, with its newline."""
    heat = "" if temp_c is None else f"{temp_c:g}"
    return f"{t_s:.6f},{power_mw:.0f},{rail},{scope},{source},{heat}\n"


class TraceReader:
    """The rows of a trace, from its lines. Once through, torn_line is the last one if it was cut off.

    A recorder that is killed, or whose disk is full, leaves part of a row: it has no newline. It is left out,
    unless all its columns are there and the power is not the last of them; then its last column is.
    """

    def __init__(self, path: Path, lines: Iterable[str]) -> None:
        self._path, self._lines = path, lines
        self._is_torn = False  # the line just read
        self.torn_line: int | None = None

    def _counted(self) -> Iterator[str]:
        for line in self._lines:
            self._is_torn = not line.endswith(("\n", "\r"))
            yield line

    def __iter__(self) -> Iterator[TraceRow]:
        """SamplerError names the line that is no sample."""
        number = 1
        reader = csv.DictReader(self._counted())
        try:
            for number, row in enumerate(reader, 2):
                if self._is_torn and (None in row.values() or "power_mw" in (reader.fieldnames or ())[-1:]):
                    self.torn_line = number
                    return
                heat = None if self._is_torn else row.get("temp_c")
                yield TraceRow(
                    line=number,
                    t_s=float(row["t_s"]),
                    power_mw=float(row["power_mw"]),
                    temp_c=float(heat) if heat else None,
                    origin=Origin(
                        row.get("rail") or None, row.get("scope") or None, row.get("source") or None
                    ),
                )
        except (KeyError, TypeError, ValueError, csv.Error) as exc:
            raise SamplerError(f"{self._path} line {number} is no sample of a trace: {exc}") from exc


def open_text(path: Path) -> IO[str]:
    """A file of samples or power lines, in the encoding that its first bytes show. OSError as open()."""
    with path.open("rb") as file:
        head = file.read(SNIFF_BYTE)
    return path.open(encoding=encoding_of(head), errors="replace", newline="")


def read_trace(path: Path) -> RecordedTrace:
    """A trace with all its samples. SamplerError names the line that is none; OSError as open()."""
    recorded = RecordedTrace(path, PowerTrace())
    trace = recorded.trace
    with open_text(path) as lines:
        rows = TraceReader(path, lines)
        for row in rows:
            try:
                trace.add(row.t_s, row.power_mw, NO_HEAT if row.temp_c is None else row.temp_c)
            except SamplerError as exc:
                raise SamplerError(f"{path} line {row.line} is no sample of a trace: {exc}") from exc
            for word in doubts(row.power_mw, {}):
                trace.notes[word].append(row.t_s)
            if not recorded.origins or row.origin != recorded.origins[-1].origin:
                recorded.origins.append(row)
    recorded.torn_line = rows.torn_line
    return recorded


def trace_of_window(recorded: RecordedTrace, t0: float, t1: float) -> PowerTrace:
    """The trace, with what is known of the source of [t0, t1].

    SamplerError if the samples in and around it are of two rails, scopes or sources: their sum means nothing.
    """
    trace = recorded.trace
    if not trace.t_s:
        return trace
    begin_s = trace.t_s[max(0, bisect_right(trace.t_s, t0) - 1)]
    end_s = trace.t_s[min(len(trace.t_s) - 1, bisect_left(trace.t_s, t1))]
    touched = [
        row
        for row, following in pairwise([*recorded.origins, None])
        if row is not None and row.t_s <= end_s and (following is None or following.t_s > begin_s)
    ]
    if len({row.origin for row in touched}) > 1:
        first, second = touched[:2]
        raise SamplerError(
            f"{recorded.path} holds two kinds of power in one window: {first.origin.words()}, then from line "
            f"{second.line} (t_s {second.t_s:g}) {second.origin.words()}; give --t0 and --t1 on one side of "
            "that line, or record each into a file of its own"
        )
    origin = touched[0].origin
    trace.quantum_mw = TOTAL_RULES.get(origin.rail or "", ("", None))[1]
    trace.simulated = origin.source in SIMULATED_SOURCES
    trace.lag_s = 0.0 if origin.source in PROMPT_SOURCES else None
    return trace
