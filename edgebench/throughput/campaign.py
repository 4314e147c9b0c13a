#!/usr/bin/env python3
"""Tokens per second and joule per token when several answers are decoded together.

The same prompts are answered at each batch size: one by one, two at a time, and
so on, every group in one llama_decode per step. A sequence that ends leaves its
batch; its place stays empty, so that a batch ends as slowly as its longest
answer. Each repeat begins with another batch size, so that a warming board does
not favour one.

Appends one JSON record per model, batch size and repeat; a second start skips
what is there. Times in ms, energy in joule (net of the idle power with the model
loaded), power in mW. tok_per_s counts answer tokens over the whole time;
decode_tok_per_s what was sampled after each sequence's first token, over the
decode time; joule_per_token is energy over answer tokens. Without power the
energy is null, with the reason in energy_missing. tabulate_throughput.py makes
the table at the end.

Example:
  python companions/throughput.py --models models/gemma-2-2b-it-Q6_K.gguf \\
      --prompts data/writing_prompts_hierarchical.csv --batch_sizes 1,2,4,8 \\
      --out_jsonl results/throughput.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import datetime
import fcntl
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

HERE = Path(__file__).resolve().parent
SAMPLER = HERE.parents[1] / "tegrastats_sampler.py"
CONTEXT_STEP = 256  # the engine pads a sequence's context to a multiple of this
SETTLE_SECONDS = 1.0  # after loading, before the idle baseline: clocks and power step down
FEED_START_SECONDS = 15.0  # a feed that gives no second sample by then is none
WARM_UP_TOKENS = 8
PR_SET_PDEATHSIG = 1
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOAD_SETTINGS = ("n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "flash_attn", "kv_type", "kv_unified")
WINDOW_FIELDS = (
    "temp_start_c", "temp_max_c", "energy_gross_joule", "energy_joule", "energy_uncertainty_joule",
    "power_mw_max", "power_mw_mean", "power_period_ms", "power_samples", "power_coverage", "power_max_gap_ms",
)  # fmt: skip
Json = Mapping[str, Any]


class ThroughputError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


class Interrupted(Exception):
    """Someone wants us to end: args[0] is the signal. What is being measured is dropped."""


@dataclass
class BatchRecord:
    """All prompts at one batch size, once. Missing is None, with a word in flags or a message in error."""

    schema_version: int = 1
    kind: str = "throughput"
    run_key: str = ""  # hash of everything that defines it
    model_id: str = ""
    quantization: str | None = None
    batch_size: int = 0  # sequences decoded together
    repeat: int = 1
    started_at: str = ""  # RFC 3339, UTC; a label, never used to compute
    board: str | None = None
    power_mode_name: str | None = None
    engine_version: str | None = None
    offloaded: str | None = None  # layers the engine put on the GPU, as it logs them: "27/27"
    n_ctx_seq: int | None = None  # tokens each sequence has room for
    kv_unified: bool = False
    load_ms: float | None = None
    prompt_tokens: int | None = None  # of all sequences
    completion_tokens: int | None = None
    decode_steps: int | None = None  # calls of llama_decode after the prompts
    t0_s: float | None = None  # monotonic seconds, as in the power trace
    t1_s: float | None = None
    latency_ms: float | None = None  # t1 - t0
    prefill_ms: float | None = None  # until every sequence of a group has its first token, over all groups
    decode_ms: float | None = None  # from there to the group's last token
    tok_per_s: float | None = None
    prefill_tok_per_s: float | None = None
    decode_tok_per_s: float | None = None
    energy_joule: float | None = None  # net of idle, may be negative
    energy_gross_joule: float | None = None
    energy_uncertainty_joule: float | None = None
    joule_per_token: float | None = None
    idle_mw: float | None = None
    idle_std_mw: float | None = None
    energy_missing: str | None = None  # why energy_joule is null
    power_source: str = "none"
    power_rail: str | None = None
    power_scope: str | None = None
    power_mw_mean: float | None = None
    power_mw_max: float | None = None
    power_samples: int | None = None
    power_period_ms: float | None = None
    power_max_gap_ms: float | None = None
    power_coverage: float | None = None  # 0 to 1
    temp_start_c: float | None = None
    temp_max_c: float | None = None
    sequences: list[dict[str, Any]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


# ---------------------------------------------------------------------------
# The plan


def batch_sizes(text: str) -> list[int]:
    """Sizes of --batch_sizes, without doubles.

    >>> batch_sizes("1,2,4,8")
    [1, 2, 4, 8]
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of at least 1, as in 1,2,4,8")
    return list(dict.fromkeys(sizes))


def companion(script: Path | str, *words: str, text: str = "") -> list[dict[str, Any]]:
    """JSON lines another script prints; ThroughputError with its own words where it prints none."""
    head = room_command(script) if isinstance(script, str) else [sys.executable, str(script)]
    done = subprocess.run([*head, *words], input=text, capture_output=True, text=True)
    try:
        lines = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        lines = []
    if not lines:
        told = done.stderr.strip().splitlines() or [f"{script} ended with status {done.returncode}"]
        raise ThroughputError(told[-1].removeprefix("error: "))
    return lines


# ---------------------------------------------------------------------------
# The output


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


@contextlib.contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keep a second start off the output, and cut off the half line a power cut left at its end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ThroughputError(
                f"{out} is being written by another start; wait, or choose another"
            ) from None
        file.seek(0)
        whole = file.read()
        if whole and not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
            say(f"{out}: its last line was cut short and is done again")
        yield


def say(text: str) -> None:
    """A line on stderr. A terminal that has gone away must not end the clean-up."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------
# Power: tegrastats_sampler.py records a trace beside us, and integrates windows of it


def end_with_parent() -> None:
    """Linux: SIGINT to the recorder when we die, even by SIGKILL, or it would write its trace for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


class Power:
    """A trace that grows while we work, or the reason why there is none."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.trace = args.power_trace or folder / "trace.csv"
        self.told, self.period_s = folder / "record.log", args.interval / 1000
        self.source: dict[str, str | None] = {"power_source": "none"}
        self.idle: dict[str, Any] = {}
        self.missing: str | None = "power measurement is switched off (--source none)"
        self.child: subprocess.Popen[bytes] | None = None
        if args.source != "none" or args.feed:
            self.start(args)
        if self.missing and (args.feed or args.source not in ("auto", "none")):
            raise ThroughputError(f"{self.missing}; check --source and --feed")
        if self.missing:
            say(f"{self.missing}; energy will be null")

    def start(self, args: argparse.Namespace) -> None:
        """Start the recorder and wait for its second sample."""
        words = ["--feed", args.feed] if args.feed else ["--source", args.source]
        words = ["record", *words, "--interval", str(args.interval), "--out", str(self.trace)]
        with self.told.open("wb") as told:
            # A session of its own: Ctrl-C in the terminal is ours to answer.
            self.child = subprocess.Popen(
                [sys.executable, str(SAMPLER), *words], stderr=told, stdout=told, start_new_session=True,
                preexec_fn=end_with_parent,
            )  # fmt: skip
        until_s = time.monotonic() + FEED_START_SECONDS
        while self.child.poll() is None and time.monotonic() < until_s:
            with contextlib.suppress(OSError, ValueError), self.trace.open(newline="") as text:
                rows = list(csv.DictReader(text))
                if len(rows) > 1:
                    names = {f"power_{name}": rows[0].get(name) for name in ("source", "rail", "scope")}
                    self.source, self.missing = names, None
                    return
            time.sleep(0.05)
        told_lines = self.told.read_text(errors="replace").strip().splitlines()
        self.missing = (told_lines or ["the power feed gave no sample"])[-1].removeprefix("error: ")

    def window(self, t0_s: float, t1_s: float) -> dict[str, Any]:
        """What `integrate` says of a stretch of the trace, asked when the trace has gone past it."""
        words = ["integrate", str(self.trace), "--t0", str(t0_s), "--t1", str(t1_s)]
        words += ["--idle_mw", str(self.idle["mean_mw"])] if self.idle else []
        told: dict[str, Any] = {}
        for _ in range(10):
            time.sleep(max(0.0, t1_s + 2 * self.period_s - time.monotonic()))
            (told,) = companion(SAMPLER, *words)
            if (
                "extrapolated_edge" not in told["flags"]
                or self.child is None
                or self.child.poll() is not None
            ):
                break
            time.sleep(self.period_s)
        return told

    def measure_idle(self, seconds: float) -> None:
        """Idle power with the model loaded and nothing to do."""
        self.idle = {}
        if self.missing is None:
            time.sleep(SETTLE_SECONDS)
            begin_s = time.monotonic()
            time.sleep(seconds)
            self.idle = self.window(begin_s, begin_s + seconds).get("baseline") or {}
            if self.idle:
                say(f"idle {self.idle['mean_mw']:.0f} mW ({self.idle['verdict']})")
            else:
                say("no idle power: too few samples; raise --idle_seconds")

    def fill(self, record: BatchRecord) -> None:
        """Energy of the record's window, or why there is none."""
        record.energy_missing = self.missing
        for name, value in self.source.items():
            setattr(record, name, value)
        if self.missing is not None or record.t0_s is None or record.t1_s is None:
            record.flags += ["no_power"] if self.missing is not None else []
            return
        told = self.window(record.t0_s, record.t1_s)
        for name in WINDOW_FIELDS:
            setattr(record, name, told.get(name))
        record.flags += told["flags"]
        record.idle_mw, record.idle_std_mw = self.idle.get("mean_mw"), self.idle.get("std_mw")
        record.flags += ["idle_unstable"] if self.idle and not self.idle["stable"] else []
        if record.energy_joule is None:
            record.energy_missing = told.get("reason") or "no idle baseline"
        elif record.completion_tokens:
            record.joule_per_token = record.energy_joule / record.completion_tokens

    def end(self) -> None:
        """End the recorder; it ends the feed."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(10)
            self.child.kill()  # nothing to a process that has ended


# ---------------------------------------------------------------------------
# The engine


class Worker:
    """batch_worker.py for one model. Whatever happens to it becomes an answer with ok false."""

    def __init__(self, run_timeout: float, folder: Path) -> None:
        self.run_timeout, self.told = run_timeout, folder / "engine.log"
        pipe = subprocess.PIPE
        with self.told.open("wb") as told:
            self.child = subprocess.Popen(
                [*room_command("edgebench.engine.batch")],
                stdin=pipe, stdout=pipe, stderr=told, text=True, start_new_session=True,
            )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer, at most run_timeout."""
        assert self.child.stdin is not None and self.child.stdout is not None
        late = threading.Timer(self.run_timeout, self.child.kill)
        late.start()
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            hung = not late.is_alive()
            late.cancel()
        if line:
            told: dict[str, Any] = json.loads(line)
            return told
        if hung:
            kind, message = "timeout", f"no answer within {self.run_timeout:g} s; raise --run_timeout"
        else:
            words = self.told.read_text(errors="replace").strip().splitlines()[-3:]
            kind = "engine_crash"
            message = f"the engine's process ended with {self.child.wait()}; {' | '.join(words)}"
        return {"ok": False, "error": {"type": kind, "message": message}}

    def end(self) -> None:
        """Kill it, and wait until its memory is free."""
        self.child.kill()
        self.child.wait()


@dataclass
class Campaign:
    """What one start holds."""

    args: argparse.Namespace
    prompts: list[dict[str, Any]]
    power: Power
    board: dict[str, Any]
    folder: Path
    worker: Worker | None = None
    loaded: dict[str, Any] = field(default_factory=dict)

    def requests(self) -> list[dict[str, str]]:
        return [{"text": one["text"], "format": self.args.prompt_format} for one in self.prompts]

    def start(self, model: Json) -> dict[str, Any]:
        """Load a model, its context sized for the longest prompt, and warm it up; the answer to `load`."""
        self.end()
        self.worker = Worker(self.args.run_timeout, self.folder)
        told = self.worker.ask(op="tokens", model=model["path"], prompts=self.requests())
        if told["ok"]:
            need = max(told["prompt_tokens"]) + self.args.max_tokens
            n_ctx_seq = self.args.n_ctx or math.ceil(need / CONTEXT_STEP) * CONTEXT_STEP
            settings = {name: getattr(self.args, name) for name in LOAD_SETTINGS}
            # All sizes run in one context: its size must not differ between the rows of a table.
            settings |= {"n_ctx_seq": n_ctx_seq, "n_seq_max": max(self.args.batch_sizes)}
            told = self.worker.ask(op="load", model=model["path"], **settings)
        if told["ok"]:
            warm = self.worker.ask(
                op="batch", groups=[self.requests()[: max(self.args.batch_sizes)]],
                max_tokens=min(WARM_UP_TOKENS, self.args.max_tokens), temperature=0, seed=0,
            )  # fmt: skip
            told = told if warm["ok"] else warm
        self.loaded = told
        return told

    def end(self) -> None:
        if self.worker is not None:
            self.worker.end()
        self.worker = None


def new_record(campaign: Campaign, model: Json, cell: Json) -> BatchRecord:
    """A record with all that is known beforehand."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    record = BatchRecord(
        **cell,
        model_id=model["model_id"],
        quantization=model["quantization"],
        started_at=now[:-6] + "Z",
        kv_unified=campaign.args.kv_unified,
        **campaign.board,
    )
    for name in ("engine_version", "offloaded", "n_ctx_seq", "load_ms"):
        setattr(record, name, campaign.loaded.get(name))
    record.error = campaign.loaded.get("error")
    return record


def measure(campaign: Campaign, record: BatchRecord) -> None:
    """All prompts in groups of the batch size; completes the record, with its error where there is one."""
    args, wanted = campaign.args, campaign.requests()
    size = record.batch_size
    groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    record.flags += ["partial_batch"] if len(wanted) % size else []
    assert campaign.worker is not None
    told = campaign.worker.ask(
        op="batch", groups=groups, max_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed
    )
    if not told["ok"]:
        record.error = told["error"]
        return
    for name in ("t0_s", "t1_s", "prefill_ms", "decode_ms"):
        setattr(record, name, told[name])
    record.decode_steps = told["steps"]
    record.sequences = [
        {"id": prompt["id"], "level": prompt["level"], **sequence}
        for prompt, sequence in zip(campaign.prompts, told["sequences"], strict=True)
    ]
    fill_rates(record)
    campaign.power.fill(record)


def fill_rates(record: BatchRecord) -> None:
    """Token counts and rates from the sequences and times; null where nothing was decoded."""
    assert record.t0_s is not None and record.t1_s is not None
    assert record.prefill_ms is not None and record.decode_ms is not None
    record.latency_ms = (record.t1_s - record.t0_s) * 1000
    record.prompt_tokens = sum(one["prompt_tokens"] for one in record.sequences)
    record.completion_tokens = sum(one["completion_tokens"] for one in record.sequences)
    record.tok_per_s = record.completion_tokens / record.latency_ms * 1000
    record.prefill_tok_per_s = record.prompt_tokens / record.prefill_ms * 1000
    # Each sequence samples its first id in the prefill; an end of sequence took its step too.
    ends = sum(one["finish_reason"] == "stop" for one in record.sequences)
    sampled = record.completion_tokens + ends - len(record.sequences)
    record.decode_tok_per_s = sampled / record.decode_ms * 1000 if sampled else None


# ---------------------------------------------------------------------------
# The campaign


def run_model(campaign: Campaign, model: Json) -> int:
    """Measure what is left for one model; the number of records with an error."""
    say(f"{model['model_id']}: loading for {max(campaign.args.batch_sizes)} sequences")
    campaign.loaded = {"error": {"type": "model_load", "message": model["error"]}} if model["error"] else {}
    failed, todo = 0, model["todo"]
    for number, cell in enumerate(todo, 1):
        # After a crash a fresh process goes on; a model that cannot load fails all that were due.
        if campaign.worker is None and not campaign.loaded.get("error"):
            if campaign.start(model)["ok"]:
                campaign.power.measure_idle(campaign.args.idle_seconds)
            else:
                campaign.loaded["error"]["type"] = "model_load"
        record = new_record(campaign, model, cell)
        if record.error is None:
            measure(campaign, record)
        append_jsonl(campaign.args.out_jsonl, asdict(record))
        failed += record.error is not None
        say(f"{number}/{len(todo)} {line_of(record)}")
        if record.error and record.error["type"] in ("engine_crash", "timeout"):
            campaign.end()
    campaign.end()
    return failed


def line_of(record: BatchRecord) -> str:
    """What a finished record says in one line."""
    text = f"{record.model_id} batch {record.batch_size} repeat {record.repeat}: "
    if record.error:
        return text + f"{record.error['type']}: {record.error['message']}"
    energy = "" if record.joule_per_token is None else f", {record.joule_per_token:.3g} J/token"
    return text + f"{record.tok_per_s:.1f} tok/s{energy}"


def measure_all(args: argparse.Namespace) -> int:
    """Plan, measure, sum up. Returns the exit code."""
    with sole_writer(args.out_jsonl), tempfile.TemporaryDirectory(prefix="throughput") as folder:
        facts = companion("edgebench.board.facts")[0]
        board = {name: facts.get(name) for name in ("board", "power_mode_name")}
        settings = json.dumps(vars(args) | board, default=str)
        header, *models = companion("edgebench.throughput.plan", text=settings)
        due, failed = sum(len(model["todo"]) for model in models), 0
        say(f"{due} of {header['total']} measurements to do, {len(header['prompts'])} prompts each")
        if due:
            power = Power(args, Path(folder))
            campaign = Campaign(args, header["prompts"], power, board, Path(folder))
            try:
                failed = sum(run_model(campaign, model) for model in models if model["todo"])
            finally:
                campaign.end()
                power.end()
    table = [*room_command("edgebench.throughput.table"), "--runs", str(args.out_jsonl)]
    subprocess.run(table)
    return 1 if failed else 0


def build_parser() -> argparse.ArgumentParser:
    """All flags; those of the collector mean what they mean there."""
    cores = max(1, (os.cpu_count() or 2) - 1)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument_group("what to run").add_argument
    add("--models", nargs="+", required=True, metavar="GGUF", help="model files")
    add("--prompts", nargs="+", required=True, metavar="FILE", help="CSV or JSONL, one column per level")
    add("--out_jsonl", type=Path, required=True, metavar="FILE", help="where the records go")
    add("--levels", nargs="+", default=["L0"], metavar="NAME", help="columns to run (default: L0)")
    add("--limit", type=int, metavar="N", help="the first N tasks (default: as the largest batch needs)")
    add("--batch_sizes", type=batch_sizes, default=[1, 2, 4, 8], metavar="N,N", help="(default: 1,2,4,8)")
    add("--repeats", type=int, default=3, metavar="N", help="of each batch size (default: 3)")
    add = parser.add_argument_group("generation").add_argument
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--max_tokens", type=int, default=128, metavar="N", help="length of answers (default: 128)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--seed", type=int, default=0, help="of draws above temperature 0")
    add = parser.add_argument_group("engine").add_argument
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: -1, all)")
    add("--n_ctx", type=int, metavar="N", help="context of each sequence (default: as the prompts need)")
    add("--n_batch", type=int, default=2048, metavar="N", help="prompt tokens per call (default: 2048)")
    add("--n_ubatch", type=int, default=512, metavar="N", help="of these at once (default: 512)")
    add("--n_threads", type=int, default=cores, metavar="N", help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="(default: auto)")
    add("--kv_type", choices=("f16", "q8_0", "f32"), default="f16", help="key/value cache (default: f16)")
    add("--kv_unified", action="store_true", help="one cache for all sequences instead of one each")
    add = parser.add_argument_group("power").add_argument
    add(
        "--source",
        "--power_source",
        default="auto",
        help="auto, tegrastats, ina3221, nvml, rapl, replay:FILE, none",
    )
    add("--feed", metavar="CMD", help="any other command that prints tegrastats lines")
    add(
        "--interval",
        "--interval_ms",
        type=int,
        default=100,
        metavar="MS",
        help="between samples (default: 100)",
    )
    add("--idle_seconds", type=float, default=10.0, metavar="S", help="of idle baseline (default: 10)")
    add("--power_trace", type=Path, metavar="FILE", help="keep every power sample in this CSV")
    add = parser.add_argument_group("course").add_argument
    add("--run_timeout", type=float, default=900.0, metavar="S", help="of one measurement (default: 900)")
    add("--retry_errors", action="store_true", help="do failed measurements again")
    return parser


def interrupt(signum: int, _frame: Any) -> None:
    """Signal handler. The second Ctrl-C of an impatient user must not tear the clean-up."""
    for one in ENDING_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    # Under nohup the hangup is ignored already, and so it stays.
    for one in ENDING_SIGNALS:
        if signal.getsignal(one) != signal.SIG_IGN:
            signal.signal(one, interrupt)
    try:
        return measure_all(args)
    except (ThroughputError, OSError) as exc:
        say(f"error: {exc}")
        return 1
    except Interrupted as exc:
        again = shlex.join([sys.executable, *sys.argv])
        say(f"stopped; every finished measurement is kept. Go on with:\n  {again}")
        return 128 + int(exc.args[0])


if __name__ == "__main__":
    sys.exit(main())
