#!/usr/bin/env python3
"""Watches power over SSH: what the board offers, idle power, a live view or a trace, the energy of a command.

This is what `python tegrastats_sampler.py rails|idle|record|run` calls. It chains the other scripts:
power_feed.py names the command that prints power lines, feed_keeper.py runs and stamps it,
tegrastats_sampler.py reads the lines (parse) and turns the trace into Joule (integrate). A trace is CSV, a
row per sample: t_s,power_mw,rail,scope,source,temp_c, in monotonic seconds, milliwatt and Celsius.

Example:
  python companions/power_meter.py rails
  python companions/power_meter.py idle --seconds 10
  python companions/power_meter.py record                                  # live; Ctrl-C ends it
  python companions/power_meter.py record --out trace.csv --seconds 60
  python companions/power_meter.py run -- python my_inference.py           # as `time` does, in Joule
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from edgebench.shell.launch import room_command

HERE = Path(__file__).resolve().parent
SAMPLER = HERE.parents[1] / "tegrastats_sampler.py"
POWER_FEED, FEED_KEEPER = "edgebench.power.feeds", "edgebench.power.keeper"
ANNOUNCE, ENDED = "# power_feed ", "# feed_ended: "
KEEPER_WORDS = ("feed_restarted", "stale_power")
NO_SAMPLE = {"zero_total", "implausible_power"}
NOT_SILICON = {"PMIC", "Tboard", "Tdiode", "iwlwifi"}
TRACE_FIELDS = "t_s,power_mw,rail,scope,source,temp_c"
FIRST_SAMPLE_S = 15.0
CHART_WIDTH, BLOCKS, ASCII_BLOCKS = 32, "▁▂▃▄▅▆▇█", "_.-:=+*#"
REPORT_S = 10.0  # how often a recording that is no live view says that it lives


class MeterError(Exception):
    """What the user can fix: no power source, a command that is not there, a file that cannot be written."""


class Sample(NamedTuple):
    """One valid sample."""

    t_s: float
    power_mw: float
    temp_c: float | None


@dataclass
class Meter:
    """What is known about the feed while it runs."""

    source: str
    rail: str | None = None
    scope: str | None = None
    simulated: bool = False
    end_reason: str | None = None
    rails_mw: dict[str, int] = field(default_factory=dict)
    temps_c: dict[str, float] = field(default_factory=dict)
    troubles: Counter[str] = field(default_factory=Counter)  # zero_total, stale_power, ...: how often

    def label(self) -> str:
        """Source, rail and scope in words."""
        made = ", SIMULATED" if self.simulated else ""
        return f"{self.rail} ({self.scope}) from {self.source}{made}"


def ask(command: Sequence[str]) -> dict[str, Any]:
    """The JSON object another script prints; MeterError with its own words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
    except ValueError:
        pass
    words = done.stderr.strip().splitlines() or [f"no answer from {command[1]}"]
    raise MeterError(words[-1].removeprefix("error: "))


def choose(args: argparse.Namespace) -> dict[str, Any]:
    """The command that prints power lines: command, source, reason."""
    feed = [] if args.feed is None else [f"--feed={args.feed}"]
    flags = ["--choose", "--source", args.source, "--interval", str(args.interval), *feed]
    return ask([*room_command(POWER_FEED), *flags])


def announced(meter: Meter, line: str) -> None:
    """Take over what a feed of ours says about itself."""
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(line.removeprefix(ANNOUNCE))
        meter.source, meter.simulated = said.get("source") or meter.source, said.get("simulated") is True
        meter.rail, meter.scope = meter.rail or said.get("rail"), meter.scope or said.get("scope")


def sampled(meter: Meter, t_s: float, reading: dict[str, Any]) -> Sample | None:
    """A line's sample, if it has one; what is wrong with it is counted. The rail stays that of the first."""
    meter.rails_mw, meter.temps_c = reading["rails"] or meter.rails_mw, reading["temps_c"] or meter.temps_c
    meter.rail = meter.rail or reading["total_rail"]
    if meter.rail == reading["total_rail"]:
        meter.scope = meter.scope or reading["scope"]
    names = (meter.rail or "").split("+")
    if any(name not in reading["rails"] for name in names):
        meter.troubles["rail_missing" if reading["rails"] else "no_power_line"] += 1
        return None
    flags = set(reading["flags"])
    power_mw = sum(reading["rails"][name] for name in names)
    if power_mw == 0:
        flags.add("zero_total")
    meter.troubles.update(flags)
    temps_c = reading["temps_c"]
    on_chip = [temp_c for name, temp_c in temps_c.items() if name not in NOT_SILICON]
    temp_c = temps_c.get("tj", max(on_chip, default=None))
    return None if flags & NO_SAMPLE else Sample(t_s, power_mw, temp_c)


def samples(
    meter: Meter, command: Sequence[str], interval_ms: int, stop: threading.Event
) -> Iterator[Sample]:
    """Run the feed and yield its valid samples until it ends or `stop` is set."""
    silent_s = max(2.0, 5 * interval_ms / 1000)
    keep = [*room_command(FEED_KEEPER), "--silent_s", str(silent_s), "--", *command]
    pipe = subprocess.PIPE
    # Own sessions: Ctrl-C is for us; we end the others when we have taken the last sample.
    with (
        subprocess.Popen(
            [sys.executable, str(SAMPLER), "parse", "-"], stdin=pipe, stdout=pipe, start_new_session=True
        ) as reader,
        subprocess.Popen(keep, stdin=pipe, stdout=pipe, start_new_session=True) as keeper,
    ):
        assert reader.stdin and reader.stdout and keeper.stdin and keeper.stdout
        for raw in keeper.stdout:
            if not raw.endswith(b"\n"):
                break  # the keeper was killed while it wrote
            stamp, _, text = raw.partition(b" ")
            line = text.decode("utf-8", "replace").strip()
            word = line.removeprefix("# ").partition(":")[0]
            if stop.is_set():
                break
            if line.startswith(ANNOUNCE):
                announced(meter, line)
            elif word in KEEPER_WORDS:
                meter.troubles[word] += 1
            elif line.startswith(ENDED):
                meter.end_reason = line.removeprefix(ENDED)
            else:
                reader.stdin.write(text)
                reader.stdin.flush()
                sample = sampled(meter, float(stamp), json.loads(reader.stdout.readline()))
                if sample:
                    yield sample
        else:  # its output ended: if it did not say why, it was killed
            meter.end_reason = meter.end_reason or "lost its feed_keeper.py"
        keeper.stdin.close()
        keeper.terminate()


class Recorder:
    """Samples in a thread, as rows of a trace; a context manager."""

    def __init__(self, args: argparse.Namespace, rows: IO[str], view: Any = None) -> None:
        choice = choose(args)
        if choice["command"] is None:
            raise MeterError(f"no power source: {choice['reason']}")
        self._command, self._interval_ms, self._rows, self._view = (
            choice["command"],
            args.interval,
            rows,
            view,
        )
        self.meter, self.times_s, self.error = Meter(choice["source"]), deque[float](maxlen=1000), ""
        self.count, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        deadline_s = time.monotonic() + FIRST_SAMPLE_S + 2 * self._interval_ms / 1000
        while not self.count and self._thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if not self.count:
            self.__exit__()
            if self.error:
                raise MeterError(self.error)
            rails = (
                "it prints no rail that makes a total"
                if self.meter.troubles
                else "it printed nothing in time"
            )
            said = f"it {self.meter.end_reason}" if self.meter.end_reason else rails
            raise MeterError(f"no power sample from {shlex.join(self._command)}: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(3.0 + 2 * self._interval_ms / 1000)

    def _record(self) -> None:
        meter = self.meter
        try:
            for sample in samples(meter, self._command, self._interval_ms, self._stop):
                if not self.count:
                    if self._rows is not sys.stdout:
                        with contextlib.suppress(OSError):  # a device has no length
                            self._rows.truncate(0)  # an older trace goes when there is a new one, not before
                    self._rows.write(TRACE_FIELDS + "\n")
                temp_c = "" if sample.temp_c is None else f"{sample.temp_c:g}"
                about = f"{meter.rail},{meter.scope},{meter.source},{temp_c}"
                self._rows.write(f"{sample.t_s:.6f},{sample.power_mw:.0f},{about}\n")
                self._rows.flush()
                self.times_s.append(sample.t_s)
                self.count += 1
                if self._view:
                    self._view.show(meter, sample)
        except (OSError, ValueError) as exc:
            self.error = f"the recording broke off: {exc}"

    def alive(self) -> bool:
        """Is it still sampling?"""
        return self._thread.is_alive()

    def wait_until(self, t1: float) -> None:
        """Until there is a sample after t1, or none will come."""
        while (
            self.alive()
            and self.times_s[-1] <= t1
            and time.monotonic() < t1 + 5 + 3 * self._interval_ms / 1000
        ):
            time.sleep(0.01)


class View:
    """One line on a terminal, rewritten: power, energy so far, temperature, the last seconds as a chart."""

    def __init__(self) -> None:
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        self._blocks = BLOCKS if unicode else ASCII_BLOCKS
        self._recent = deque[float](maxlen=CHART_WIDTH)
        self._energy_joule, self._last, self._shown_s = 0.0, Sample(math.nan, 0.0, None), 0.0

    def show(self, meter: Meter, sample: Sample) -> None:
        """Add a sample; redraw at most four times a second."""
        if sample.t_s > self._last.t_s:
            mean_mw = (sample.power_mw + self._last.power_mw) / 2
            self._energy_joule += mean_mw / 1000 * (sample.t_s - self._last.t_s)
        self._last = sample
        if sample.t_s - self._shown_s < 0.25:
            return
        self._shown_s = sample.t_s
        self._recent.append(sample.power_mw)
        print("\r" + self.line(meter, sample)[:79].ljust(79), end="", flush=True)

    def line(self, meter: Meter, sample: Sample) -> str:
        """Fits 80 columns: the rail is cut first."""
        low, high = min(self._recent), max(self._recent)
        step = (high - low) / (len(self._blocks) - 1) or 1.0
        chart = "".join(self._blocks[round((power_mw - low) / step)] for power_mw in self._recent)
        heat = "" if sample.temp_c is None else f" {sample.temp_c:.0f} C"
        made = " SIMULATED" if meter.simulated else ""
        numbers = f"{sample.power_mw / 1000:7.2f} W {self._energy_joule:8.1f} J{heat}{made}"
        return f"{(meter.rail or '')[:12]}{numbers} {chart}"


def integrate(trace: Path, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Energy of a window of the trace, by tegrastats_sampler.py."""
    return ask([sys.executable, str(SAMPLER), "integrate", str(trace), *flags])


def rails(args: argparse.Namespace) -> int:
    """Print what this board offers and which rail is taken for its total."""
    with tempfile.TemporaryFile("w") as rows, Recorder(args, rows) as recorder:
        time.sleep(args.seconds if args.seconds is not None else max(1.0, 12 * args.interval / 1000))
    meter, times_s = recorder.meter, list(recorder.times_s)
    periods_ms = [1000 * (b - a) for a, b in pairwise(times_s)]
    rate = f"{statistics.median(periods_ms):.1f} ms per sample" if periods_ms else "not known: one sample"
    print(f"source  {meter.source}{' (simulated)' if meter.simulated else ''}")
    print(f"total   {meter.rail}\nscope   {meter.scope}\nrate    {rate}, {args.interval} ms asked for\n")
    width = max(map(len, [*meter.rails_mw, *meter.temps_c]))
    for name, power_mw in meter.rails_mw.items():
        print(f"{name:{width}}{power_mw:9d} mW{'  total' if name in (meter.rail or '').split('+') else ''}")
    for name, temp_c in meter.temps_c.items():
        print(f"{name:{width}}{temp_c:9.1f} C")
    warn(meter)
    return 0


def idle(args: argparse.Namespace) -> int:
    """Print the idle baseline."""
    seconds = 10.0 if args.seconds is None else args.seconds
    print(f"measuring idle power for {seconds:g} s: leave the board alone", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        with trace.open("w") as rows, Recorder(args, rows) as recorder:
            t0 = time.monotonic()
            recorder.wait_until(t0 + seconds)
        window = integrate(trace, ["--t0", str(t0), "--t1", str(t0 + seconds)])
    if window["baseline"] is None:
        raise MeterError(
            f"no idle power: {window['reason']}; the feed {recorder.meter.end_reason or 'is too slow'}"
        )
    for name, value in (
        window["baseline"] | {"rail": recorder.meter.rail, "scope": recorder.meter.scope}
    ).items():
        print(f"{name:16}{value:.1f}" if isinstance(value, float) else f"{name:16}{value}")
    warn(recorder.meter)
    return 0


def warn(meter: Meter) -> None:
    """Say on stderr what was wrong with the samples, and that simulated ones are no measurement."""
    for word, count in sorted(meter.troubles.items()):
        print(f"warning: {word}: {count} times", file=sys.stderr)
    if meter.simulated:
        print("warning: simulated power: replayed, not measured here", file=sys.stderr)


def record(args: argparse.Namespace) -> int:
    """A trace to --out or a pipe, a live view on a terminal; ends at --seconds, Ctrl-C or with the feed."""
    live = args.out is None and sys.stdout.isatty()
    try:
        with contextlib.ExitStack() as held:
            if args.out:
                rows: IO[str] = held.enter_context(args.out.open("a", encoding="utf-8"))
            else:
                rows = held.enter_context(tempfile.TemporaryFile("w")) if live else sys.stdout
            recorder = held.enter_context(Recorder(args, rows, View() if live else None))
            with contextlib.suppress(KeyboardInterrupt):
                watch(recorder, math.inf if args.seconds is None else args.seconds, quiet=live)
    except OSError as exc:
        raise MeterError(f"cannot write {args.out or 'standard output'}: {exc.strerror}; see --out") from exc
    print(f"{chr(10) if live else ''}{recorder.count} samples of {recorder.meter.label()}", file=sys.stderr)
    warn(recorder.meter)
    if recorder.error or recorder.meter.end_reason:
        raise MeterError(recorder.error or f"the feed {recorder.meter.end_reason}")
    return 0


def watch(recorder: Recorder, seconds: float, quiet: bool) -> None:
    """Wait, and say now and then how far the recording is."""
    began_s = said_s = time.monotonic()
    while recorder.alive() and (now_s := time.monotonic()) < began_s + seconds:
        if now_s - said_s >= REPORT_S and not quiet:
            said_s = now_s
            print(f"{now_s - began_s:.0f} s, {recorder.count} samples", file=sys.stderr)
        time.sleep(min(0.05, max(0.0, began_s + seconds - now_s)))


def idle_before(recorder: Recorder, trace: Path, args: argparse.Namespace) -> float | None:
    """Idle power as given, else measured now; None if it is not wanted or cannot be known."""
    seconds = 3.0 if args.seconds is None else args.seconds
    if args.idle_mw is not None or seconds == 0:
        return None if args.idle_mw is None else float(args.idle_mw)
    print(f"power_meter: {seconds:g} s of idle power first (--seconds, or give --idle_mw)", file=sys.stderr)
    t0 = time.monotonic()
    recorder.wait_until(t0 + seconds)
    window = integrate(trace, ["--t0", str(t0), "--t1", str(t0 + seconds)])
    baseline = window["baseline"]
    if baseline is None:
        print(f"power_meter: idle power unknown: {window['reason']}", file=sys.stderr)
        return None
    if not baseline["stable"]:
        print(f"warning: idle power is not steady: {baseline['verdict']}", file=sys.stderr)
    return float(baseline["mean_mw"])


def run(args: argparse.Namespace) -> int:
    """Run a command and say on stderr what energy it took; its exit code is ours."""
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise MeterError("run needs a command: run -- CMD ARGS")
    if not shutil.which(words[0]):  # said before the idle power is measured, not after
        raise MeterError(f"cannot run {words[0]}: there is no such command")
    with contextlib.ExitStack() as held:
        trace = Path(held.enter_context(tempfile.TemporaryDirectory())) / "trace.csv"
        rows = held.enter_context(trace.open("w"))
        try:
            recorder = held.enter_context(Recorder(args, rows))
        except MeterError as exc:
            print(f"power_meter: energy unknown: {exc}", file=sys.stderr)
            return child(words)[0]
        idle_mw = idle_before(recorder, trace, args)
        code, t0, t1 = child(words)
        recorder.wait_until(t1)
        flags = ["--t0", str(t0), "--t1", str(t1)] + ([] if idle_mw is None else ["--idle_mw", str(idle_mw)])
        report(recorder.meter, integrate(trace, flags), t1 - t0, idle_mw)
    return code


def child(words: Sequence[str]) -> tuple[int, float, float]:
    """(exit code, t0, t1) of a command that has the terminal; Ctrl-C is for it alone."""
    t0 = time.monotonic()
    try:
        process = subprocess.Popen(words)
    except OSError as exc:
        raise MeterError(f"cannot run {words[0]}: {exc.strerror}") from exc
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return (code if code >= 0 else 128 - code), t0, time.monotonic()


def report(meter: Meter, window: dict[str, Any], seconds: float, idle_mw: float | None) -> None:
    """The energy of a window, in four lines on stderr."""
    lines = [f"time    {seconds:.3f} s"]
    if window["energy_gross_joule"] is None:
        lines.append(f"energy  unknown: {window['reason']}")
    else:
        known_to = f"known to {window['energy_uncertainty_joule']:.3f} J"
        lines.append(f"energy  {window['energy_gross_joule']:.3f} J, {known_to}")
        if idle_mw is not None:
            lines.append(f"net     {window['energy_joule']:.3f} J above idle power of {idle_mw:.0f} mW")
        highest_mw = window["power_mw_max"]
        peak = "" if highest_mw is None else f", highest sample {highest_mw:.0f} mW"
        lines.append(
            f"power   {window['power_mw_mean']:.0f} mW mean{peak}, {window['power_samples']} samples"
        )
    lines.append(f"rail    {meter.label()}")
    lines += [f"flags   {', '.join(window['flags'])}"] if window["flags"] else []
    print("\n".join(lines), file=sys.stderr)
    warn(meter)


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="rails|idle|record|run")
    feed = argparse.ArgumentParser(add_help=False)
    feed.add_argument(
        "--source", default="auto", help="auto, tegrastats, ina3221, nvml, rapl, replay:FILE, none"
    )
    feed.add_argument("--feed", metavar="CMD", help="a command that prints power lines, instead of --source")
    feed.add_argument("--interval", type=int, default=100, metavar="MS", help="10 to 60000 (default: 100)")
    for call, seconds, text in (
        (rails, "how long to look", "what this board offers, and which rail is its total"),
        (
            idle,
            "how long to measure (default: 10)",
            "mean power with nothing to do, and whether it is steady",
        ),
        (
            record,
            "how long to record (default: until Ctrl-C)",
            "a trace; without --out a live view or a pipe",
        ),
        (
            run,
            "idle power before the command (default: 3; 0: none)",
            "the energy of a command: run -- CMD ARGS",
        ),
    ):
        command = commands.add_parser(call.__name__, parents=[feed], help=text, description=text)
        command.add_argument("--seconds", type=float, help=seconds)
        command.set_defaults(call=call)
        if call is record:
            command.add_argument("--out", type=Path, metavar="CSV", help="written anew, one row per sample")
        if call is run:
            command.add_argument("--idle_mw", type=float, help="idle power, instead of measuring it first")
            command.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD ARGS", help="the command")
    return parser


def check(args: argparse.Namespace) -> None:
    """MeterError for numbers that no command can work with."""
    seconds, idle_mw = args.seconds, getattr(args, "idle_mw", None)
    if seconds is not None and not (0 < seconds < math.inf or (seconds == 0 and args.call is run)):
        raise MeterError(f"--seconds {seconds:g} does not work: give a positive number")
    if idle_mw is not None and not math.isfinite(idle_mw):
        raise MeterError(f"--idle_mw {idle_mw:g} does not work: give milliwatt")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly with a reader that has seen enough
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`
    try:
        check(args)
        code = int(args.call(args))
        sys.stdout.flush()
        return code
    except MeterError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or exiting fails on it, too
        print(f"error: cannot write standard output: {exc.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
