"""What a log says of trouble: how grave a line is, and which of many lines names the cause."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

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
# Messages that name a number and leave the reader to look it up; and those that say what is wrong.
NUMBERED = re.compile(
    r"(?:\b[Ee]rror:? -?\d+(?:, [A-Z0-9_]+)?|\b[A-Z]+_ERROR_[A-Z_]+|\b(?:code|status|errno)\W{0,3}-?\d+)\W*$"
)
TELLING = re.compile(
    r"cannot open (?:source file|shared object)|cannot find -l|no such file|not found\b|does not exist"
    r"|undefined (?:symbol|reference)|unsupported|identifier .{1,80} is undefined|out of memory",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """A line of trouble: an exception, a fatal line of an engine, or a mere complaint."""

    rank: int  # 2 exception, 1 fatal, 0 complaint
    text: str


@dataclass
class Episode:
    """The failures between two results: the last exception tells most, the first fatal line says why.

    But where the exception is a number (`Nvrtc Error 6`), the line that names the missing thing comes first.
    """

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
        told = [failure.text for failure in self.failures if TELLING.search(failure.text)]
        if words and told and NUMBERED.search(words[0]) and not TELLING.search(words[0]):
            # A compiler's exception carries its number; the file that is missing stands in a line beside it.
            return f"{told[-1]} ({words[0]})"
        before = next((f" (before it: {text})" for text in words if text != words[0]), "")
        return words[0] + before if words else ""


def is_error(text: str) -> bool:
    return bool(re.search(r"\b(?:error|fatal)\b", text, re.IGNORECASE))


def rank_of(text: str) -> int | None:
    """How grave a line of trouble is: fatal, a complaint, or neither.

    >>> rank_of("CUDA error: out of memory"), rank_of("cannot open x"), rank_of("all is well")
    (1, 0, None)
    """
    return _rank_of(FIGURES.sub("11", text))


@lru_cache(maxsize=4096)  # messages that differ in their addresses and counts alone are judged once
def _rank_of(text: str) -> int | None:
    if FATAL.search(text):
        return 1
    return 0 if COMPLAINT.search(text) else None
