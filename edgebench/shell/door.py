"""What is the same in every door: how it reads its flags, and how it ends.

A flag is written in full, with `-` or `_` between its words as one likes: --max_tokens and --max-tokens are
one flag. A number out of its range ends with exit code 2 and the usage, as every wrong flag does. A reader
of the output who has seen enough (`--help | head -3`) ends the door without a traceback, and so does Ctrl-C:
while a door's rooms are still being read nothing can be torn, and the system answers it, by the first lines
of each door; from open_door on it ends main through every `finally`.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

from edgebench.shell.calls import as_called
from edgebench.shell.signals import Interrupted

SIGPIPE = getattr(signal, "SIGPIPE", 13)  # Windows has none; the judge runs there
READER_GONE = 128 + SIGPIPE  # as a shell says it of a program that SIGPIPE ended
CTRL_C = 128 + signal.SIGINT


# --- Flags ---


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and both spellings of every flag.

    Abbreviations are off because they take a flag for another one: `predict --output DIR` was read as
    --output-tokens. Subcommands are parsers of this class, too.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def parse_known_args(  # type: ignore[override]  # the base has overloads for a namespace of one's own
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class does; the other spelling of each flag is known without standing in the help."""
        known = self._option_string_actions
        for option, action in list(known.items()):
            for spelling in spellings(option):
                known.setdefault(spelling, action)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """As the base class does; its examples call the doors as they are called in this house."""
        return as_called(super().format_help())


def spellings(option: str) -> list[str]:
    """The ways to write a long flag.

    >>> spellings("--max_tokens"), spellings("--json"), spellings("-n")
    (['--max_tokens', '--max-tokens'], ['--json'], ['-n'])
    """
    if not option.startswith("--"):
        return [option]
    words = option[2:].replace("-", "_")
    return list(dict.fromkeys(("--" + words, "--" + words.replace("_", "-"))))


def at_least(least: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """A type for add_argument: a number, not below `least`, and finite.

    >>> at_least(1)("3"), at_least(0, float)("0.5")
    (3, 0.5)
    >>> at_least(1)("-2")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: -2 must be at least 1
    """
    return number_that(kind, lambda value: value >= least, f"must be at least {least:g}")


def above(bound: float) -> Callable[[str], Any]:
    """A type for add_argument: a number above `bound`, and finite: a length of time, a speed."""
    return number_that(float, lambda value: value > bound, f"must be above {bound:g}")


def between(low: float, high: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """A type for add_argument: a number from `low` to `high`, both included."""
    return number_that(kind, lambda value: low <= value <= high, f"must be from {low:g} to {high:g}")


def number_that(
    kind: type[int] | type[float], is_good: Callable[[float], bool], wanted: str
) -> Callable[[str], Any]:
    """A type for add_argument: a finite number that is good; `wanted` says what is."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not (math.isfinite(value) and is_good(value)):
            raise argparse.ArgumentTypeError(f"{text} {wanted}")
        return value

    return number


def engine_flags(parser: argparse.ArgumentParser, n_ctx: str) -> Callable[..., Any]:
    """The group of flags by which a model is loaded, in each door that loads one; returns its add_argument.

    n_ctx is the help of --n_ctx, whose meaning differs. One core stays free of the engine's threads.
    """
    cores = max(1, (os.cpu_count() or 2) - 1)
    add = parser.add_argument_group("engine").add_argument
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: -1, all)")
    add("--n_ctx", type=at_least(1), metavar="N", help=n_ctx)
    add(
        "--n_batch",
        type=at_least(1),
        default=2048,
        metavar="N",
        help="prompt tokens per call (default: 2048)",
    )
    add("--n_ubatch", type=at_least(1), default=512, metavar="N", help="of these at once (default: 512)")
    add("--n_threads", type=at_least(1), default=cores, metavar="N", help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="(default: auto)")
    add("--kv_type", choices=("f16", "q8_0", "f32"), default="f16", help="key/value cache (default: f16)")
    return add


# --- Ending ---


class _Results(io.TextIOWrapper):
    """stdout that ends the program, through every `finally`, when it cannot be written.

    By SystemExit, not by an OSError: the doors take that for a file of theirs.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as problem:
            self.end(problem)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as problem:
            self.end(problem)

    def end(self, problem: OSError) -> NoReturn:
        """141 without a word where the reader has gone; else 1, with the reason."""
        point_to_nothing(self)
        if isinstance(problem, BrokenPipeError):
            raise SystemExit(READER_GONE) from None
        print(f"error: cannot write standard output: {problem.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


class _Messages(io.TextIOWrapper):
    """stderr that falls silent when nobody reads it any more: a measurement goes on without its audience."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            point_to_nothing(self)
            return len(text)


def point_to_nothing(stream: TextIO) -> None:
    """What is still to be written to the stream goes nowhere, and no longer fails."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _rewrapped(stream: Any, kind: type[io.TextIOWrapper]) -> Any:
    """The stream as one of that kind; as it is where it is none of the interpreter's own."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return kind(
        stream.buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def open_door(main: Callable[[], int]) -> NoReturn:
    """Run a door's main and end with its exit code; 141 when the reader of its results has gone.

    Ctrl-C that main does not answer is 130, other ending signals as signals.py says.
    """
    sys.stdout = _rewrapped(sys.stdout, _Results)
    sys.stderr = _rewrapped(sys.stderr, _Messages)
    try:
        answer_ctrl_c(signal.default_int_handler)
        try:
            code = main()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, and not while the interpreter ends, where a failure is a traceback
    except KeyboardInterrupt:
        code = CTRL_C
    except Interrupted as interrupted:
        code = interrupted.exit_code
    finally:
        answer_ctrl_c(signal.SIG_DFL)  # only the interpreter is still to be ended
    sys.exit(code)


def answer_ctrl_c(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """From here on Ctrl-C is answered so; a shell that started us in the background keeps it from us."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
