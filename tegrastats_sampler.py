#!/usr/bin/env python3
"""Samples this board's power and integrates it to Joule: a library and a tool.

A child prints one line per sample: `tegrastats`, a feed of ours, or a command
of yours that prints `NAME 5040mW`; a process beside it stamps it with the
monotonic clock. Energy is the trapezoid over [t0, t1], interpolated at both
edges, minus idle power times duration. Power in mW, energy in J, time in
seconds of time.monotonic(). What cannot be known is null with a reason, never
0.

Example:
  # what this board offers
  python tegrastats_sampler.py rails
  # as `time` does, in Joule
  python tegrastats_sampler.py run -- python my_inference.py
  # live; to a file with --out trace.csv
  python tegrastats_sampler.py record
  python tegrastats_sampler.py integrate trace.csv --idle_mw 4800

As a library, without a command line:
  from tegrastats_sampler import TegrastatsSampler
  with TegrastatsSampler() as sampler:  # start(), and stop() at the end
      idle_mw = sampler.measure_idle(10.0)
      t0 = time.monotonic(); work(); t1 = time.monotonic()
      joule = sampler.integrate_energy(t0, t1, idle_mw)
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while the rest is read: no traceback

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgebench.board.thermal import hottest_c
from edgebench.power import meter
from edgebench.power.feeds import FeedChoice, FeedRequest, find_feed, print_lines
from edgebench.power.sampler import FeedInfo, Sample, TegrastatsSampler
from edgebench.power.tegrastats import TOTAL_RULES, Reading, decode_line, doubts, parse_line
from edgebench.power.trace import IdleBaseline, PowerTrace, PowerWindow, SamplerError
from edgebench.power.trace_file import TRACE_FIELDS, read_trace, trace_of_window
from edgebench.shell.door import Parser, above, at_least, between, open_door

# What a script of yours may import from here.
__all__ = [
    "TOTAL_RULES",
    "TRACE_FIELDS",
    "FeedChoice",
    "FeedInfo",
    "IdleBaseline",
    "PowerTrace",
    "PowerWindow",
    "Reading",
    "Sample",
    "SamplerError",
    "TegrastatsSampler",
    "doubts",
    "find_feed",
    "hottest_c",
    "parse_line",
]


# --- The commands


def integrate(path: Path, t0: float | None, t1: float | None, idle_mw: float | None) -> int:
    """Print energy and power of a window of a trace as JSON, and what it is as an idle baseline."""
    recorded = read_trace(path)
    if recorded.torn_line is not None:
        print(f"warning: {path} line {recorded.torn_line} is cut off and left out", file=sys.stderr)
    t_s = recorded.trace.t_s
    t0 = t0 if t0 is not None else next(iter(t_s), 0.0)
    t1 = t1 if t1 is not None else max(recorded.trace.last_s(), t0)
    if not -math.inf < t0 <= t1 < math.inf:
        raise SamplerError(f"--t0 {t0} and --t1 {t1} are no window")
    trace = trace_of_window(recorded, t0, t1)
    window = trace.window(t0, t1, idle_mw)
    idle = trace.baseline(t0, t1) if window.power_samples > 1 and t0 < t1 else None
    print(json.dumps({"t0": t0, "t1": t1} | asdict(window) | {"baseline": idle and asdict(idle)}), flush=True)
    return 0


def parse(file: str) -> int:
    """Print one JSON object per line read."""
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as lines:
        for line in lines:
            reading = parse_line(decode_line(line))
            flags = () if reading.total_mw is None else doubts(reading.total_mw, reading.rails)
            print(json.dumps(reading._asdict() | {"flags": flags}), flush=True)
    return 0


def watch(args: argparse.Namespace) -> int:
    """rails, idle, record and run: watch a feed."""
    check_numbers(args)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly with a reader that has seen enough
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`
    choice = find_feed(args.source, args.feed, args.interval)
    metering = meter.Metering(choice, args.interval, args.seconds)
    if args.command == "rails":
        return meter.rails(metering)
    if args.command == "idle":
        return meter.idle(metering)
    if args.command == "record":
        return meter.record(metering, args.out)
    return meter.run(metering, args.words, args.idle_mw)


def check_numbers(args: argparse.Namespace) -> None:
    """SamplerError for numbers that no command can work with."""
    seconds, idle_mw = args.seconds, getattr(args, "idle_mw", None)
    none_wanted = seconds == 0 and args.command == "run"
    if seconds is not None and not (0 < seconds < math.inf or none_wanted):
        raise SamplerError(f"--seconds {seconds:g} does not work: give a positive number")
    if idle_mw is not None and not math.isfinite(idle_mw):
        raise SamplerError(f"--idle_mw {idle_mw:g} does not work: give milliwatt")


def feed(args: argparse.Namespace) -> int:
    """Be a feed: print power lines until nobody reads them."""
    print_lines(FeedRequest(args.source, args.interval, args.speed, args.gpu, args.nvml_power, args.sys))
    return 0


# --- Command line


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = Parser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    add_watching(commands)
    area = commands.add_parser("integrate", help="energy of a window of a recorded trace")
    area.add_argument("file", metavar="TRACE", help="CSV with t_s and power_mw")
    area.add_argument("--t0", type=float, help="seconds, as in the trace (default: its first sample)")
    area.add_argument("--t1", type=float, help="seconds, as in the trace (default: its last sample)")
    area.add_argument("--idle_mw", type=float, help="subtracted; without it the net energy is null")
    lines = commands.add_parser("parse", help="tegrastats lines to JSON, one object per line")
    lines.add_argument("file", metavar="FILE|-", help="a log, or - for standard input")
    text = "print power lines as tegrastats does, from another sensor: for --feed"
    own = commands.add_parser("feed", help=text, description=text)
    add = own.add_argument
    add("--source", default="auto", help="auto, ina3221, nvml, rapl, simulated, replay:FILE or none")
    add(
        "--interval",
        type=between(10, 60_000),
        default=100,
        metavar="MS",
        help="10 to 60000 ms (default: 100)",
    )
    add("--speed", type=above(0), default=1.0, help="replay so many times faster (default: 1)")
    add("--gpu", type=at_least(0), default=0, help="which card, as nvidia-smi counts them (default: 0)")
    add("--nvml_power", choices=("instant", "mean"), default="instant", help="NVML's reading")
    add("--sys", type=Path, default=Path("/sys"), metavar="DIR", help="where sysfs is")
    return parser


def add_watching(commands: argparse._SubParsersAction[Parser]) -> None:
    """The commands that watch a feed, and their flags."""
    source = Parser(add_help=False)
    source.add_argument(
        "--source", default="auto", help="auto, tegrastats, ina3221, nvml, rapl, simulated, replay:FILE, none"
    )
    source.add_argument(
        "--feed", metavar="CMD", help="a command that prints power lines, instead of --source"
    )
    source.add_argument(
        "--interval", type=between(10, 60_000), default=100, metavar="MS", help="10 to 60000 (default: 100)"
    )
    for name, seconds, text in (
        ("rails", "how long to look", "what this board offers, and which rail is its total"),
        (
            "idle",
            "how long to measure (default: 10)",
            "mean power with nothing to do, and whether it is steady",
        ),
        (
            "record",
            "how long to record (default: until Ctrl-C)",
            "a trace; without --out a live view or a pipe",
        ),
        (
            "run",
            "idle power before the command (default: 3; 0: none)",
            "the energy of a command: run -- CMD ARGS",
        ),
    ):
        command = commands.add_parser(name, parents=[source], help=text, description=text)
        command.add_argument("--seconds", type=float, help=seconds)
        if name == "record":
            command.add_argument("--out", type=Path, metavar="CSV", help="written anew, one row per sample")
        if name == "run":
            command.add_argument("--idle_mw", type=float, help="idle power, instead of measuring it first")
            command.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD ARGS", help="the command")


def call(args: argparse.Namespace) -> int:
    """The command that was asked for."""
    if args.command == "integrate":
        return integrate(Path(args.file), args.t0, args.t1, args.idle_mw)
    if args.command == "parse":
        return parse(args.file)
    if args.command == "feed":
        return feed(args)
    return watch(args)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        code = call(args)
        sys.stdout.flush()
        return code
    except OSError as exc:
        if exc.filename is None:  # standard output: full, or its reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or exiting fails on it, too
        if not isinstance(exc, BrokenPipeError):
            what = f"read {exc.filename}" if exc.filename else "write standard output"
            print(f"error: cannot {what}: {exc.strerror}", file=sys.stderr)
        return 1
    except SamplerError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    open_door(main)
