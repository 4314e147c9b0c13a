#!/usr/bin/env python3
"""Runs one cell of a sweep with its power recorded, and writes the energy into the cell's result.

The cell is a command that writes a JSON result whose batches carry t0_s and t1_s (time.monotonic). Around it
runs `tegrastats_sampler.py record`; some seconds of idle come first; `tegrastats_sampler.py integrate` weighs
each batch. The result is completed in its place, whole or not at all:

  summary.per_mode[0].energy   joule per request and per output token (net, above idle, and gross), the same
                               per batch, idle power, where the watts come from, "simulated", and where there
                               is no energy the reason
  summary.per_mode[0].emc      load of a Jetson's memory controller over the batches, percent, or the reason
  cell_wall_s                  seconds the command took, with loading

Exit status: the command's. Ends, with all it started, when its standard input closes (the sweep is gone), on
SIGTERM and on Ctrl-C. Idle power is that before the command starts; with --idle_flag the command is told to
idle once it has loaded its models, and says in its result when it did (idle: {t0_s, t1_s}).

Example:
  python companions/measure_cell.py --result run.json --trace power.csv --power_source auto -- \\
      python companions/speculate.py --model models/demo/demo-llama-F32.gguf --drafter lookup \\
      --prompts data/writing_prompts_hierarchical.csv --out run.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgebench.power.feeds import find_feed
from edgebench.power.trace import SamplerError
from edgebench.shell.launch import room_command

ROOM = Path(__file__).resolve().parent
SAMPLER = ROOM.parents[1] / "tegrastats_sampler.py"
FIRST_SAMPLE_S = 20.0  # the recorder itself gives up before that
POLL_S = 0.1
LAST_SAMPLE_S = 0.5  # a sample after t1, without which the last batch's end would be a guess
POWER = (
    "power_mw_mean",
    "power_samples",
    "power_max_gap_ms",
    "power_coverage",
    "energy_uncertainty_joule",
    "flags",
)


class MeasureError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


# ---------------------------------------------------------------------------
# The recorder


def feed_command(args: argparse.Namespace) -> list[str]:
    """The power lines' command, MeasureError where there is no source."""
    try:
        choice = find_feed(args.power_source, args.feed or None, args.interval_ms)
    except SamplerError as exc:
        raise MeasureError(str(exc)) from exc
    if choice.command is None:
        raise MeasureError(choice.reason)
    return list(choice.command)


@contextmanager
def recorder(args: argparse.Namespace, notes: dict[str, Any]) -> Iterator[None]:
    """Record power into the trace, and the feed's lines beside it; notes["reason"] says why there is none."""
    args.trace.unlink(missing_ok=True)  # one of an interrupted attempt
    if args.power_source == "none" and not args.feed:
        notes["reason"] = "no power was asked for: --power_source none"
        yield
        return
    log = args.trace.with_suffix(".feed.log")
    try:
        tee = [*room_command("edgebench.speculation.traffic"), "tee", "--out", str(log), "--"]
        feed = shlex.join([*tee, *feed_command(args)])
    except MeasureError as exc:
        notes["reason"] = str(exc)
        yield
        return
    args.trace.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SAMPLER), "record", "--out", str(args.trace), f"--feed={feed}"]
    process = subprocess.Popen(
        [*command, "--interval", str(args.interval_ms)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_samples(process, args.trace)
        yield
        time.sleep(LAST_SAMPLE_S + 2 * args.interval_ms / 1000)
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C does: the last rows are written
        try:
            _, said = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
        if process.returncode not in (0, 130):
            lost = (said.strip().splitlines() or ["it ended early"])[-1].removeprefix("error: ")
            notes["reason"] = f"the power recorder: {lost}"


def wait_for_samples(process: subprocess.Popen[str], trace: Path) -> None:
    """Return when the trace has a row, or the recorder has ended."""
    deadline_s = time.monotonic() + FIRST_SAMPLE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError):
            if trace.read_bytes().count(b"\n") >= 2:
                return
        time.sleep(0.02)


def integrate(trace: Path, t0: float, t1: float, idle_mw: float | None) -> dict[str, Any]:
    """Energy of a window of the trace; MeasureError with the reason where it cannot be read."""
    flags = ["--t0", repr(t0), "--t1", repr(t1)] + ([] if idle_mw is None else ["--idle_mw", repr(idle_mw)])
    return ask([sys.executable, str(SAMPLER), "integrate", str(trace), *flags])


def ask(words: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a script of ours prints. Raises MeasureError with its own words."""
    done = subprocess.run(words, capture_output=True, text=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as exc:
        lines = done.stderr.strip().splitlines() or [f"{words[0]} gave no answer"]
        raise MeasureError(lines[-1].removeprefix("error: ")) from exc
    return answer


# ---------------------------------------------------------------------------
# Energy


def source_of(trace: Path) -> dict[str, Any]:
    """Where the trace's watts come from, by its last row."""
    last: dict[str, str] = {}
    with trace.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            last = row
    names = {"power_source": "source", "power_rail": "rail", "power_scope": "scope"}
    return {ours: last.get(column) or None for ours, column in names.items()}


def weigh_batch(trace: Path, batch: Mapping[str, Any], idle_mw: float | None) -> dict[str, Any]:
    """Energy and power of one batch of requests, and how many requests and tokens it was."""
    window = integrate(trace, batch["t0_s"], batch["t1_s"], idle_mw)
    outputs = batch.get("outputs") or []
    row = {"batch_index": batch["batch_index"], "reason": window["reason"], "requests": len(outputs)}
    row["output_tokens"] = sum(len(output["token_ids"]) for output in outputs)
    return row | {name: window[name] for name in ("energy_joule", "energy_gross_joule", *POWER)}


def weigh(trace: Path, result: Mapping[str, Any], before: tuple[float, float]) -> dict[str, Any]:
    """The energy block of a result. Raises MeasureError where the trace cannot be read."""
    told = result.get("idle")
    t0, t1 = (told["t0_s"], told["t1_s"]) if told else before
    baseline = integrate(trace, t0, t1, None)["baseline"]
    idle_mw = baseline["mean_mw"] if baseline else None
    batches = [weigh_batch(trace, batch, idle_mw) for batch in result["results"]]
    plain = [weigh_batch(trace, batch, idle_mw) for batch in result.get("plain") or [] if "t0_s" in batch]
    known = [row for row in batches if row["energy_gross_joule"] is not None]
    gross = sum(row["energy_gross_joule"] for row in known)
    joules = sum(row["energy_joule"] or 0.0 for row in known)
    requests, tokens = (sum(row[name] for row in known) for name in ("requests", "output_tokens"))
    flags = {flag for row in batches for flag in row["flags"]}
    net_known = idle_mw is not None
    energy = {
        "energy_joule_per_request": joules / requests if requests and net_known else None,
        "energy_gross_joule_per_request": gross / requests if requests else None,
        "joule_per_output_token": joules / tokens if tokens and net_known else None,
        "joule_gross_per_output_token": gross / tokens if tokens else None,
        "idle_mw": idle_mw,
        "idle_std_mw": baseline["std_mw"] if baseline else None,
        "idle_method": f"{'after' if told else 'before'} the model was loaded",
        **source_of(trace),
        "simulated": "simulated_power" in flags,
        "flags": sorted(flags),
        "reason": None,
        "per_batch": batches,
        "plain_per_batch": plain,  # plain decoding interleaved in the same process
    }
    if not requests:
        energy["reason"] = next((row["reason"] for row in batches if row["reason"]), "no batch has a window")
    elif not net_known:
        energy["reason"] = "no idle power: too few samples before the run, see --idle_seconds"
    return energy


def emc_load(trace: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Memory-controller load over the batches, from the feed's own lines."""
    log = trace.with_suffix(".feed.log")
    windows = []
    for batch in result["results"]:
        edges = ["--t0", repr(batch["t0_s"]), "--t1", repr(batch["t1_s"])]
        windows.append(ask([*room_command("edgebench.speculation.traffic"), "emc", str(log), *edges]))
    known = [window for window in windows if window["samples"]]
    samples = sum(window["samples"] for window in known)
    mean = sum(w["emc_load_percent_mean"] * w["samples"] for w in known) / samples if samples else None
    reason = None if known else next((window["reason"] for window in windows), "no batch")
    return {
        "emc_load_percent_mean": mean,
        "emc_load_percent_max": max((window["emc_load_percent_max"] for window in known), default=None),
        "samples": samples,
        "reason": reason,
    }


def complete(args: argparse.Namespace, notes: Mapping[str, Any], idle: tuple[float, float]) -> None:
    """Write energy and EMC load into the result, whole or not at all. Raises MeasureError."""
    try:
        result = json.loads(args.result.read_text(encoding="utf-8"))
        mode = result["summary"]["per_mode"][0]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise MeasureError(f"the command wrote no result to {args.result} ({exc!r})") from exc
    mode["energy"] = mode["emc"] = {"reason": notes.get("reason") or "no power trace was written"}
    if args.trace.exists():
        works: dict[str, Callable[[], dict[str, Any]]] = {
            "energy": lambda: weigh(args.trace, result, idle),
            "emc": lambda: emc_load(args.trace, result),
        }
        for name, work in works.items():
            try:
                found = work()
                mode[name] = {**found, "reason": found["reason"] or notes.get("reason")}
            except (MeasureError, OSError, KeyError) as exc:
                mode[name] = {"reason": notes.get("reason") or f"the trace cannot be weighed: {exc}"}
    result["cell_wall_s"] = round(notes["wall_s"], 3)
    part = args.result.with_name(f".{args.result.name}.weighed")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(args.result)


# ---------------------------------------------------------------------------
# The cell


def run_cell(args: argparse.Namespace, gone: threading.Event) -> int:
    """Idle, then the command, then the weighing; the command's exit status, 130 when we are to end."""
    notes: dict[str, Any] = {}
    with recorder(args, notes):
        begin = time.monotonic()
        command = list(args.command)
        if args.trace.exists() and "reason" not in notes:
            if args.idle_flag:
                command += [args.idle_flag, str(args.idle_seconds)]
            else:
                gone.wait(args.idle_seconds)
        idle = (begin, time.monotonic())
        cell = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        while cell.poll() is None and not gone.wait(POLL_S):
            pass
        with suppress(ProcessLookupError):
            os.killpg(cell.pid, signal.SIGKILL)  # what it may have left behind, too
        status = cell.wait()
        notes["wall_s"] = time.monotonic() - idle[1]
    if gone.is_set():
        return 130
    if status == 0:
        complete(args, notes, idle)
    return status if status >= 0 else 128 - status


def end_with_parent(gone: threading.Event) -> None:
    """Set `gone` on Ctrl-C, SIGTERM, and when standard input is a pipe and closes: who started us is gone."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock would abort the interpreter's end
            pass
        gone.set()

    # A flag and not KeyboardInterrupt: two signals at once would break off the clearing up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: gone.set())
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=watch, daemon=True).start()


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--result", type=Path, required=True, help="the JSON that the command writes")
    parser.add_argument("--trace", type=Path, required=True, help="the power trace, written anew")
    parser.add_argument(
        "--power_source", default="auto", help="auto, tegrastats, ina3221, nvml, rapl, replay:FILE, none"
    )
    parser.add_argument("--feed", help="a command that prints power lines, instead of --power_source")
    parser.add_argument("--interval_ms", type=int, default=100, help="between samples (default: 100)")
    parser.add_argument("--idle_seconds", type=float, default=5.0, help="idle before it (default: 5)")
    own = (
        "the command idles by itself, for the seconds of this flag of its own; give it as --idle_flag=--NAME"
    )
    parser.add_argument("--idle_flag", metavar="FLAG", help=own)
    parser.add_argument("command", nargs="+", metavar="-- CMD")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cell."""
    args = build_parser().parse_args(argv)
    gone = threading.Event()
    try:
        end_with_parent(gone)
        return run_cell(args, gone)
    except (MeasureError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
