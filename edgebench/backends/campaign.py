#!/usr/bin/env python3
"""One model, several engines, one honest table.

  run            measure: the same model, prompt ids, length and temperature 0 for every engine; one warm-up
                 round kept apart, then --rounds rounds, the engines of each in a new seeded order; each run a
                 process of its own; the state of the board stored with every row
  table          rows -> table, speed-ups with intervals, where the time goes (tabulate_backends.py)
  parse          the same from logs of campaigns already run (parse_backend_logs.py)
  show-commands  the commands behind the rows, ready to run again

A second start of run skips what is there. An engine that is missing is a row with the way to get it; one
that fails or hangs in its warm-up is left out of the rounds, its last words in its row. Rates in tokens per
second, times in ms, energy in joule; null where it was not measured.

Writes ROWS.jsonl (a row per run) and a folder ROWS.work (the job, and every engine's own output).

Example:
  python companions/compare_backends.py run --model models/demo/demo-llama-F32.gguf \\
      --prompt "Why is it dark at night?" --engines llama-cpp-python llama-bench tinygrad:NV tinygrad:CUDA \\
      --out results/backends.jsonl
  python companions/compare_backends.py table results/backends.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import fcntl
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

HERE = Path(__file__).resolve().parent
SAMPLER = HERE.parents[1] / "tegrastats_sampler.py"
FEED_SECONDS = 20  # for the first power samples
END_SECONDS = 15  # for an engine to give its memory back
SETTLE_SECONDS = 1.0  # before the idle baseline
# What of the board's state decides whether two runs may be compared; the rest is kept to explain them.
DECIDING = ("board", "power_mode_name", "clocks_locked", "cpu_governor", "emc_locked", "gpu_max_hz")
STATE = (
    "power_mode_name", "clocks_locked", "cpu_governor", "emc_locked", "gpu_cur_hz", "gpu_max_hz",
    "emc_cur_hz", "swap_used_byte", "swap_total_byte", "zram", "load_1min", "memory_bandwidth_gb_per_s",
)  # fmt: skip
ENGINE_FLAGS = ("llama_bin", "tinygrad_python", "tinygrad_dir")
DEFAULT_ENGINES = ("llama-cpp-python", "llama-bench", "llama-completion", "llama-server", "tinygrad")
Json = Mapping[str, Any]


class CompareError(Exception):
    """What the user can fix."""


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


# Copied from run_llamacpp_collect.append_jsonl
def append_jsonl(path: Path, record: Json) -> None:
    """Append one record as one fsynced line; a full disk leaves no half line behind (OSError)."""
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with path.open("ab", buffering=0) as out:
        end = out.seek(0, os.SEEK_END)
        try:
            if out.write(line) != len(line):
                raise OSError(28, "no space left on device", str(path))
            os.fsync(out.fileno())
        except OSError:
            out.truncate(end)
            raise


def say(text: str) -> None:
    """A line on stderr; a terminal that has gone away must not lose a campaign."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def companion(
    script: Path | str, *words: object, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Another script of this suite, run to its end."""
    head = room_command(script) if isinstance(script, str) else [sys.executable, str(script)]
    command = [*head, *map(str, words)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines() or [f"{done.args[1]} ended with {done.returncode}"]
    return lines[-1].removeprefix("error: ")


# --- the board ---


def board_state() -> dict[str, Any]:
    """Power mode, clocks, governor, temperature, swap, as board_check.py reads them; null where it cannot."""
    done = companion("edgebench.board.check", "--json")
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        raise CompareError(f"board_check.py gave no facts: {last_words(done)}") from None
    board = facts["board"] or f"{facts['machine']} {facts['cpu_model'] or ''}".strip()
    temps = [one for one in (facts["temps_c"] or {}).values() if one is not None]
    return {"board": board, "temp_c": max(temps, default=None), **{name: facts.get(name) for name in STATE}}


def changed(before: Json, now: Json) -> list[str]:
    """What differs that decides."""
    return [
        f"{name} was {before.get(name)}, is {now[name]}" for name in DECIDING if before.get(name) != now[name]
    ]


# --- power ---


class Power:
    """A trace recorded beside the campaign, and windows of it; or the reason why there is none."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.trace, self.period_s = work / "power.csv", args.interval / 1000
        self.idle_mw: float | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.missing: str | None = "power was not measured (--source none)"
        if args.source == "none" and not args.feed:
            return
        source = ["--feed", args.feed] if args.feed else ["--source", args.source]
        words = ["record", *source, "--interval", str(args.interval), "--out", str(self.trace)]
        self.trace.unlink(missing_ok=True)
        with (work / "power.log").open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, str(SAMPLER), *words], stdout=log, stderr=log, start_new_session=True
            )
        self.missing = self.wait_for_samples(work / "power.log")
        if self.missing and (args.feed or args.source != "auto"):
            self.end()
            raise CompareError(f"{self.missing}; check --source and --feed")
        if self.missing is None:
            time.sleep(SETTLE_SECONDS + args.idle_seconds)
            now_s = time.monotonic() - 2 * self.period_s
            idle = self.integrate(now_s - args.idle_seconds, now_s).get("baseline") or {}
            self.idle_mw = idle.get("mean_mw")
        say(self.missing or f"idle power {self.idle_mw} mW")

    def wait_for_samples(self, log: Path) -> str | None:
        """None when two samples are there, else what the recorder said."""
        until_s = time.monotonic() + FEED_SECONDS
        while self.child and self.child.poll() is None and time.monotonic() < until_s:
            with contextlib.suppress(OSError, csv.Error), self.trace.open(newline="") as text:
                if sum(1 for _ in csv.DictReader(text)) > 1:
                    return None
            time.sleep(0.05)
        said = log.read_text(errors="replace").strip().splitlines() or ["the power source gave no sample"]
        return said[-1].removeprefix("error: ")

    def integrate(self, t0_s: float, t1_s: float) -> dict[str, Any]:
        idle = ["--idle_mw", self.idle_mw] if self.idle_mw is not None else []
        done = companion(SAMPLER, "integrate", self.trace, "--t0", t0_s, "--t1", t1_s, *idle)
        try:
            told: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"reason": last_words(done)}
        return told

    def fill(self, row: dict[str, Any]) -> None:
        """Energy of the row's answer, net of idle, or why there is none."""
        row |= {
            "energy_joule": None,
            "joule_per_token": None,
            "idle_mw": self.idle_mw,
            "energy_missing": self.missing,
        }
        if self.missing or row["status"] != "ok":
            return
        whole = [(row["t0_s"], row["t1_s"])] if None not in (row["t0_s"], row["t1_s"]) else []
        spans_s = row["spans_s"] or whole
        if not spans_s:
            row["energy_missing"] = "the engine does not say when its answer began and ended"
            return
        time.sleep(max(0.0, spans_s[-1][1] + 3 * self.period_s - time.monotonic()))  # samples come late
        told = [self.integrate(*span_s) for span_s in spans_s]
        joules = [one.get("energy_joule") for one in told]
        gone = next((one for one in told if one.get("energy_joule") is None), None)
        if gone is None:
            row["energy_joule"] = sum(joules)
        row["energy_missing"] = None if gone is None else gone.get("reason") or "no idle power"
        row["power_source"] = told[0].get("source")
        row["power_flags"] = sorted({flag for one in told for flag in one.get("flags") or []})
        if row["energy_joule"] is not None and row["generated_tokens"]:
            row["joule_per_token"] = row["energy_joule"] / row["generated_tokens"]

    def end(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(END_SECONDS)
            self.child.kill()


# --- the plan ---


def plan(engines: Sequence[str], rounds: int, seed: int) -> list[tuple[int, int, str]]:
    """(round, place in it, engine): round 0 is the warm-up, each further one in an order of its own.

    >>> [len({engine for r, _, engine in plan(["a", "b", "c"], 2, 0) if r == k}) for k in range(3)]
    [3, 3, 3]
    """
    draw, cells = random.Random(seed), []
    for number in range(rounds + 1):
        order = list(engines)
        if number:
            draw.shuffle(order)
        cells += [(number, place, engine) for place, engine in enumerate(order)]
    return cells


def run_key(job: Json, args: argparse.Namespace, engine: str, number: int) -> str:
    """Hash of everything that defines a run."""
    names = ("model_sha256", "prompt_sha256", "max_tokens", "n_threads", "n_gpu_layers", "flash_attn")
    parts = [job[name] for name in names]
    parts += [str(getattr(args, name)) for name in ENGINE_FLAGS if engine_reads(engine, name)]
    parts += [args.warmup, engine, number]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def engine_reads(engine: str, flag: str) -> bool:
    return engine.startswith(flag.partition("_")[0]) and engine != "llama-cpp-python"


@contextlib.contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Hold the output against a second start; close a line that a power cut left open."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CompareError(f"{out} is being written by another start; choose another --out") from None
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
                file.flush()  # rows come through other handles
        yield


def finished(out: Path, retry_errors: bool) -> dict[str, Json]:
    """Rows that need no second run, by key. A missing engine may have come: it is asked again."""
    rows = {row["run_key"]: row for _, row in read_jsonl(out) if row and "run_key" in row}
    left = ("ok",) if retry_errors else ("ok", "FAILED")
    return {key: row for key, row in rows.items() if row["status"] in left}


# --- run ---


def prepare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The job for all engines."""
    words: list[object] = ["--model", args.model, "--work", work, "--prompt_format", args.prompt_format]
    words += ["--prompt_file", args.prompt_file] if args.prompt_file else ["--prompt", args.prompt]
    for name in ("max_tokens", "n_gpu_layers", "n_threads", "flash_attn", "name"):
        if getattr(args, name) is not None:
            words += [f"--{name}", getattr(args, name)]
    done = companion("edgebench.backends.job", *words)
    if done.returncode:
        raise CompareError(last_words(done))
    job: dict[str, Any] = json.loads((work / "job.json").read_text(encoding="utf-8"))
    if job["max_tokens"] < job["asked_tokens"]:
        say(f"the model's answer ends after {job['max_tokens']} tokens: all engines make that many")
    return job


def engine_words(args: argparse.Namespace, work: Path, engine: str) -> list[str]:
    words = ["--job", str(work / "job.json"), "--engine", engine, "--warmup", str(args.warmup)]
    words += ["--timeout", str(args.timeout)]
    for name in ENGINE_FLAGS:
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return words


def measure(args: argparse.Namespace, work: Path, engine: str, label: str) -> dict[str, Any]:
    """One row of run_backend.py; if that dies, a FAILED row that says so."""
    words = [*engine_words(args, work, engine), "--label", label]
    child = subprocess.Popen(
        [*room_command("edgebench.backends.rows"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate()
    except BaseException:
        child.send_signal(signal.SIGINT)  # it ends its engine
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_SECONDS)
        child.kill()
        raise
    try:
        row: dict[str, Any] = json.loads(out)
    except ValueError:
        cause = (err.strip().splitlines() or [f"run_backend.py ended with {child.returncode}"])[-1]
        row = {"status": "FAILED", "cause": cause, "engine": engine, "backend": engine, "notes": []}
    return row


def campaign(args: argparse.Namespace, work: Path, power: Power, job: Json) -> None:
    """All rounds, row by row."""
    done, given_up = finished(args.out, args.retry_errors), set()
    cells = plan(args.engines, args.rounds, args.seed)
    began_s = time.monotonic()
    todo = [cell for cell in cells if run_key(job, args, cell[2], cell[0]) not in done]
    say(f"{len(todo)} of {len(cells)} runs to do")
    for index, (number, place, engine) in enumerate(todo):
        if engine in given_up:
            continue
        state = board_state()
        check_state(args, state, done)
        start_s, row = time.monotonic(), measure(args, work, engine, f"round{number}")
        soon = time.monotonic() - start_s < args.timeout / 2  # a hang is not waited for twice
        if number == 0 and row["status"] == "FAILED" and soon:  # a bad start must not cost all rounds
            say(f"{engine}: {outcome(row)}; once more")
            first, row = row["cause"], measure(args, work, engine, "round0-again")
            row["notes"] = [*(row.get("notes") or []), f"warm-up: a first start failed: {first}"]
        row |= {
            "run_key": run_key(job, args, engine, number), "round": number, "place": place,
            "phase": "timed" if number else "warmup", "conditions": state,
            "started_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip
        power.fill(row)
        append_jsonl(args.out, row)
        done[row["run_key"]] = row
        if row["status"] != "ok" and (number == 0 or row["status"] == "MISSING"):
            given_up.add(engine)
        left_s = (time.monotonic() - began_s) / (index + 1) * (len(todo) - index - 1)
        say(f"round {number}/{args.rounds} {engine}: {outcome(row)}; about {left_s:.0f} s left")


def check_state(args: argparse.Namespace, state: Json, done: Mapping[str, Json]) -> None:
    """CompareError if the board is no longer what it was for the rows that are there."""
    for row in done.values():
        against = changed(row.get("conditions") or state, state)
        if against and not args.allow_differing_conditions:
            raise CompareError(
                f"{args.out} was measured under other conditions: {'; '.join(against)};"
                " set them back, choose another --out, or say --allow_differing_conditions"
            )


def outcome(row: Json) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['cause'][:160]}"
    return f"decode {row['decode_tok_per_s']:.1f} tok/s in {row['wall_s']:.1f} s"


def command_run(args: argparse.Namespace) -> int:
    """Measure, then print the table."""
    if len(set(args.engines)) < len(args.engines):
        raise CompareError("an engine stands twice in --engines; tinygrad:NV and tinygrad:CUDA are two")
    work = args.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    job = prepare(args, work)
    plans = {
        one: companion("edgebench.backends.commands", *engine_words(args, work, one)) for one in args.engines
    }
    for done in plans.values():
        if done.returncode == 2:  # no engine of that name
            raise CompareError(last_words(done).partition("error: ")[2])
    if args.dry_run:
        for number, place, engine in plan(args.engines, args.rounds, args.seed):
            if number == 0:
                done = plans[engine]
                print(f"# {engine}\n{done.stdout or '# ' + done.stderr}", end="")
            elif place == 0:
                print(f"# round {number}:", end="")
            if number:
                print(f" {engine}", end="\n" if place == len(args.engines) - 1 else "")
        return 0
    with sole_writer(args.out):
        power = Power(args, work)
        try:
            campaign(args, work, power, job)
        finally:
            power.end()
    return command_table(args, [str(args.out)])


# --- the other commands ---


def command_table(args: argparse.Namespace, rows: Sequence[str], text: str | None = None) -> int:
    """tabulate_backends.py on rows, its output ours."""
    words: list[object] = [*rows]
    for name in ("bandwidth_gb_s", "table_out"):
        if getattr(args, name, None) is not None:
            words += ["--out" if name == "table_out" else f"--{name}", getattr(args, name)]
    words += [f"--{name}" for name in ("csv", "allow_differing_conditions") if getattr(args, name, False)]
    done = companion("edgebench.backends.table", *words, text=text)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def command_parse(args: argparse.Namespace) -> int:
    """Logs to rows to a table; 1 if none gave a result."""
    words: list[object] = ["--json", *args.logs]
    for name in ("device", "model"):
        words += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    done = companion("edgebench.backends.logs.story", *words)
    if not done.stdout:
        raise CompareError(last_words(done))
    status = command_table(args, ["-"], done.stdout)
    return status or done.returncode


def command_show(args: argparse.Namespace) -> int:
    """Each engine's commands, once, from the rows."""
    shown: set[str] = set()
    for _, row in read_jsonl(args.rows):
        text = "\n".join((row or {}).get("commands") or [])
        if row and text and text not in shown:
            shown.add(text)
            print(f"# {row['engine']}\n{text}")
        elif row and row.get("status") == "MISSING" and row["engine"] not in shown:
            shown.add(row["engine"])
            print(f"# {row['engine']}: {row['cause']}")
    if not shown:
        raise CompareError(f"no commands in {args.rows}; it takes the rows of `compare_backends.py run`")
    return 0


# --- the command line ---


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of run; names as in run_llamacpp_collect.py."""
    add = parser.add_argument
    add("--model", metavar="GGUF", type=Path, required=True, help="the model for all engines")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", metavar="TEXT", help="what all are asked")
    asked.add_argument("--prompt_file", metavar="FILE", type=Path, help="the same, from a file")
    add("--engines", metavar="NAME", nargs="+", default=list(DEFAULT_ENGINES), help="see backend_commands.py")
    add("--out", metavar="ROWS.jsonl", type=Path, required=True, help="where the rows go")
    add("--rounds", metavar="N", type=at_least_one, default=5, help="timed runs per engine (default: 5)")
    add("--seed", type=int, default=42, help="of the order in each round (default: 42)")
    add("--max_tokens", metavar="N", type=at_least_one, default=128, help="of each answer (default: 128)")
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--name", metavar="MODEL", help="the model's name in the table")
    add("--n_gpu_layers", metavar="N", type=int, default=-1, help="layers on the GPU (default: -1, all)")
    add("--n_threads", metavar="N", type=at_least_one, help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="of llama.cpp (default: auto)")
    add("--llama_bin", metavar="DIR", type=Path, help="llama.cpp's programs (default: PATH)")
    add("--tinygrad_python", metavar="FILE", help="Python with tinygrad (default: this one)")
    add("--tinygrad_dir", metavar="DIR", type=Path, help="a checkout of tinygrad")
    add("--warmup", metavar="N", type=int, default=2, help="answers inside a process, before (default: 2)")
    add("--timeout", metavar="S", type=float, default=900, help="of one run (default: 900)")
    add("--source", default="auto", help="of power: auto, tegrastats, ina3221, ..., none")
    add("--feed", metavar="CMD", help="a command that prints power lines, instead of --source")
    add("--interval", metavar="MS", type=at_least_one, default=100, help="between samples (default: 100)")
    add("--idle_seconds", metavar="S", type=float, default=10, help="of idle baseline (default: 10)")
    add("--retry_errors", action="store_true", help="do failed runs again")
    add("--dry_run", action="store_true", help="print commands and order, measure nothing")


def build_parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure", description="Measure engines in interleaved rounds.")
    table = commands.add_parser("table", help="rows to a table")
    table.add_argument("rows", metavar="ROWS.jsonl", nargs="+")
    parse = commands.add_parser("parse", help="logs to a table")
    parse.add_argument("logs", metavar="LOG", nargs="+")
    parse.add_argument("--device", help="of logs that do not name it")
    parse.add_argument("--model", help="of logs that do not name it")
    add_run_flags(run)
    for one in (run, table, parse):
        one.add_argument("--bandwidth_gb_s", metavar="GB/S", type=float, help="the board's memory bandwidth")
        one.add_argument("--csv", action="store_true", help="the table as CSV")
        one.add_argument("--table_out", metavar="FILE", type=Path, help="the table into a file")
        one.add_argument("--allow_differing_conditions", action="store_true", help="compare all the same")
    show = commands.add_parser("show-commands", help="commands behind the rows")
    show.add_argument("rows", metavar="ROWS.jsonl", type=Path)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.command == "run":
            return command_run(args)
        if args.command == "parse":
            return command_parse(args)
        if args.command == "show-commands":
            return command_show(args)
        return command_table(args, args.rows)
    except (CompareError, OSError) as exc:
        say(f"error: {exc}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
