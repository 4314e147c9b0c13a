#!/usr/bin/env python3
"""Run small language models over tasks written at several prompt lengths.

For every model × task × level × repeat: a cold prompt, a timed generation, the
energy of exactly that stretch of time, and the text. A second start skips what
is there. Each model runs in its own process, so that a crash costs one run.
Times in ms, energy in joule, power in mW; without power the energy is null.

Writes   OUT.jsonl       one record per run (fields: class RunRecord below)
         OUT.env.jsonl   one per environment: board, power mode, engine, models

Example:
  python run_llamacpp_collect.py --models models/gemma-2-2b-it-Q6_K.gguf \\
      --prompts data/writing_prompts_hierarchical.csv \\
      --out_jsonl results/runs_llamacpp.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebench.checking.report import check_runs
from edgebench.shell.launch import room_command

try:
    import tegrastats_sampler as power
except ImportError:
    print("error: run_llamacpp_collect.py needs tegrastats_sampler.py beside it", file=sys.stderr)
    sys.exit(1)

HERE = Path(__file__).resolve().parent
PHASE_SAMPLES = 5  # power samples inside each phase before its own integral is worth writing down
BLOCK_SECONDS = 5  # of repeated prefill: fifty samples at 100 ms
SETTLE_SECONDS = 1.0  # after loading, before the idle baseline: clocks and power step down
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENGINE_END_SECONDS = 10  # a driver may take its time to give the memory back
WINDOW_FIELDS = (
    "energy_joule", "energy_gross_joule", "energy_uncertainty_joule", "power_mw_mean", "power_mw_max",
    "power_samples", "power_period_ms", "power_max_gap_ms", "power_coverage",
)  # fmt: skip
Json = Mapping[str, Any]


class CollectError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


class Interrupted(Exception):
    """The signal of this number arrived; the run under way is not written."""


# Record format history:
# 1 - first.
@dataclass
class RunRecord:
    """One run, one line of the output. Missing is None, with a word in flags or a message in error."""

    schema_version: int = 1
    run_key: str = ""  # hash of everything that defines the run
    id: int | str = ""  # the task
    category: str | None = None
    model_id: str = ""  # file stem without its quantization
    quantization: str | None = None
    level: str = ""
    turn: int = 1  # of the conversation
    repeat: int = 1
    started_at: str = ""  # RFC 3339, UTC; a label, never used to compute
    env_id: str = ""  # line of OUT.env.jsonl
    prompt_sha256: str = ""  # of the user's text
    prompt_format: str = "chat"
    thinking: bool = False
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 0
    n_ctx: int | None = None
    n_gpu_layers: int = -1  # as asked for; -1 is all
    offloaded: str | None = None  # layers the engine put on the GPU, as it logs them: "27/27"
    prompt_tokens: int | None = None
    prompt_tokens_evaluated: int | None = None  # computed by the engine in this run: equal, or the run failed
    completion_tokens: int | None = None  # reasoning included, end of sequence not
    reasoning_tokens: int | None = None
    reasoning_open: bool | None = None  # the answer ended while still thinking
    finish_reason: str | None = None  # stop or length
    t0_s: float | None = None  # monotonic seconds, as in the power trace: first prompt batch handed over
    first_token_s: float | None = None  # first id sampled
    t1_s: float | None = None  # last id sampled
    latency_ms: float | None = None  # t1 - t0
    ttft_ms: float | None = None  # first token - t0
    tpot_ms: float | None = None  # (latency - ttft) / (completion_tokens - 1)
    prefill_tok_per_s: float | None = None  # prompt_tokens / ttft
    decode_tok_per_s: float | None = None  # decode steps / time after the first token
    load_ms: float | None = None  # of the model's process
    overhead_ratio: float | None = None  # 1 - engine time / latency
    energy_joule: float | None = None  # net of idle, may be negative
    energy_gross_joule: float | None = None
    idle_mw: float | None = None
    idle_std_mw: float | None = None
    energy_uncertainty_joule: float | None = None
    energy_prefill_joule: float | None = None
    energy_decode_joule: float | None = None
    energy_phase_method: str | None = None  # integrated or block
    joule_per_output_token: float | None = None
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
    throttled: bool | None = None  # did a throttle counter move during the run
    board_start: dict[str, Any] | None = None  # clocks, temperature, counters just before
    board_end: dict[str, Any] | None = None  # and just after
    flags: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None
    output_text: str | None = None
    reasoning_text: str | None = None


# --- The output: one record per line, whole or not at all ---


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
def locked(out: Path) -> Iterator[None]:
    """Hold the output against a second collector; the lock goes with the process, however it ends."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = out.with_name(out.name + ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        busy = isinstance(exc, BlockingIOError)
        why = "another collector is writing it; wait for it, or" if busy else f"{exc.strerror};"
        raise CollectError(f"cannot write {out}: {why} choose another --out_jsonl") from None
    with lock:
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put the ending signals off until the block is done. A mask would not: other threads would take them."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda signum, _frame: came.append(signum)) for one in ENDING_SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    for signum in came[:1]:
        signal.raise_signal(signum)


# --- The campaign ---


class Engine:
    """companions/engine_keeper.py for one model: a request, an answer, whatever happens to the engine."""

    def __init__(self, run_timeout: float, model: Json, warm_up: Json) -> None:
        kept = {"model": model["path"], "load": model["load"], "warm_up": warm_up, "run_timeout": run_timeout}
        self.hello = json.dumps(kept) + "\n"
        self.child: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer: {"ok": true, …} or {"ok": false, "error": {…}}."""
        lines = json.dumps(request) + "\n"
        if self.child is None:
            command, pipe = room_command("edgebench.engine.client"), subprocess.PIPE
            # A session of its own: Ctrl-C in the terminal is ours to answer.
            self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            lines = self.hello + lines
        assert self.child.stdin is not None and self.child.stdout is not None
        try:
            self.child.stdin.write(lines)
            self.child.stdin.flush()
            answer: dict[str, Any] = json.loads(self.child.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.end()
            message = "the process that keeps the engine was killed"
            return {"ok": False, "error": {"type": "engine_crash", "message": message}}
        return answer

    def end(self) -> None:
        """End the keeper, and with it its worker: only then is the memory free for the next model."""
        if self.child is not None:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(ENGINE_END_SECONDS)
            self.child.kill()  # nothing to a process that has ended
        self.child = None


class Progress:
    """A bar on a terminal, a line every half minute in a log."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began_s, self.told_s = total, 0, time.monotonic(), 0.0
        self.bar: Any = None
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(total=total, unit="run", dynamic_ncols=True)

    def step(self, text: str) -> None:
        """One run is done."""
        self.done += 1
        now_s = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()
            if self.done == self.total:
                self.bar.close()
        elif now_s - self.told_s >= 30 or self.done == self.total:
            left_s = (now_s - self.began_s) / self.done * (self.total - self.done)
            say(f"{self.done}/{self.total} runs, {text}, {datetime.timedelta(seconds=round(left_s))} left")
            self.told_s = now_s


def say(text: str) -> None:
    """A line on stderr, above the bar. A terminal that has gone away must not end the clean-up."""
    bars = sys.modules.get("tqdm")
    with contextlib.suppress(OSError):
        (bars.tqdm.write if bars else print)(text, file=sys.stderr)


@dataclass
class Campaign:
    """What one start of the collector holds."""

    args: argparse.Namespace
    sampler: power.TegrastatsSampler | None
    no_power: str | None  # why there is no sampler
    env_id: str
    progress: Progress
    failed: int = 0
    idle: power.IdleBaseline | None = None
    first_answers: dict[str, str] = field(default_factory=dict)  # by run_key, for second turns
    prefill_joule: dict[str, float | None] = field(default_factory=dict)  # of the block method, by prompt


def run_model(campaign: Campaign, model: Json, todo: Sequence[Json]) -> None:
    """Run what is left for one model. A crash costs its run; a model that twice cannot load, all the rest."""
    say(f"{model['model_id']}: loading, context {model['load']['n_ctx']}")
    engine, misses, campaign.idle = Engine(campaign.args.run_timeout, model, todo[0]["prompt"]), 0, None
    try:
        loaded = engine.ask(op="start")
        for index, line in enumerate(todo):
            if loaded["ok"]:
                measure_idle(campaign, index)
                cool_down(campaign.args.cooldown, engine)
            record = new_record(campaign, line, loaded)
            write(
                campaign, measure(campaign, engine, line, record) if loaded["ok"] else record, line["anchor"]
            )
            misses = misses + 1 if record.error and record.error["type"] == "model_load" else 0
            if misses:  # killed while it loaded, perhaps: the next run gets one more try
                loaded = engine.ask(op="start") if misses == 1 else {"ok": False, "error": record.error}
    finally:
        engine.end()


# --- One run ---


def new_record(campaign: Campaign, line: Json, loaded: Json) -> RunRecord:
    """A record with all that is known before the run."""
    # Wall time is a label here; every duration comes from the monotonic clock.
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    record = RunRecord(**line["record"], started_at=now[:-6] + "Z", env_id=campaign.env_id)
    record.n_ctx, record.load_ms = loaded.get("n_ctx"), loaded.get("load_ms")
    record.offloaded, record.error = loaded.get("offloaded"), loaded.get("error")
    if campaign.sampler is None:
        record.energy_missing, record.flags = campaign.no_power, ["no_power"]
    else:
        info = campaign.sampler.info
        record.power_source, record.power_rail, record.power_scope = info.source, info.rail, info.scope
    return record


def measure(campaign: Campaign, engine: Engine, line: Json, record: RunRecord) -> RunRecord:
    """Run one prompt cold and complete the record, with its error where there is one."""
    messages = [*line["prompt"]["messages"]]
    if record.turn == 2 and messages[-2]["content"] is None:
        first = campaign.first_answers.get(line["first_key"])
        if first is None:
            record.error = {"type": "no_first_turn", "message": "the first turn of this conversation failed"}
            return record
        messages[-2] = {"role": "assistant", "content": first}
    prompt = {**line["prompt"], "messages": messages}
    sampling = {name: getattr(record, name) for name in ("max_tokens", "temperature", "seed")}
    answer = engine.ask(op="run", prompt=prompt, **sampling)
    if not answer["ok"]:
        record.error = answer["error"]
        return record
    for name, value in answer["record"].items():
        setattr(record, name, value)
    record.flags += answer["flags"]
    fill_energy(record, campaign)
    fill_phases(record, campaign, engine, prompt)
    return record


def fill_energy(record: RunRecord, campaign: Campaign) -> None:
    """Energy of [t0, t1], net of the idle baseline, with its uncertainty."""
    idle = campaign.idle
    if campaign.sampler is None or record.t0_s is None or record.t1_s is None:
        return
    window = campaign.sampler.window(record.t0_s, record.t1_s, idle.mean_mw if idle else None)
    for name in WINDOW_FIELDS:
        setattr(record, name, getattr(window, name))
    record.idle_mw, record.idle_std_mw = (idle.mean_mw, idle.std_mw) if idle else (None, None)
    record.energy_missing = window.reason
    if record.energy_joule is None and not record.error:  # the feed died: what was to be measured is lacking
        record.error = {"type": "power_lost", "message": f"no energy: {window.reason}"}
    if window.temp_max_c is not None:  # the feed's own sensor, read during the run
        record.temp_start_c, record.temp_max_c = window.temp_start_c, window.temp_max_c
    record.flags += [*window.flags, *(["idle_unstable"] if idle and not idle.stable else [])]
    if record.energy_joule is not None and record.completion_tokens:
        record.joule_per_output_token = record.energy_joule / record.completion_tokens


def fill_phases(record: RunRecord, campaign: Campaign, engine: Engine, prompt: Json) -> None:
    """Energy of prefill and decode: from a block if asked for, else integrated where samples suffice."""
    sampler, idle = campaign.sampler, campaign.idle
    if sampler is None or idle is None or record.energy_joule is None:
        return
    if campaign.args.phase_energy == "block":
        key = record.model_id + record.prompt_sha256
        if key not in campaign.prefill_joule:
            block, total = engine.ask(op="prefill", prompt=prompt, seconds=BLOCK_SECONDS), None
            if block["ok"]:
                total = sampler.window(block["t0_s"], block["t1_s"], idle.mean_mw).energy_joule
            campaign.prefill_joule[key] = None if total is None else total / block["count"]
        record.energy_prefill_joule = campaign.prefill_joule[key]
        if record.energy_prefill_joule is not None:
            record.energy_decode_joule = record.energy_joule - record.energy_prefill_joule
            record.energy_phase_method = "block"
        return
    edges_s = [s for s in (record.t0_s, record.first_token_s, record.t1_s) if s is not None]
    phases = [sampler.window(*phase_s, idle.mean_mw) for phase_s in itertools.pairwise(edges_s)]
    if min(phase.power_samples or 0 for phase in phases) >= PHASE_SAMPLES:
        record.energy_prefill_joule, record.energy_decode_joule = (phase.energy_joule for phase in phases)
        record.energy_phase_method = "integrated"


def write(campaign: Campaign, record: RunRecord, is_anchor: bool) -> None:
    """Append the finished record, which no signal may cut short, and count it."""
    out, done = campaign.args.out_jsonl, asdict(record)
    text = f"{record.model_id} task {record.id} {record.level}"
    if is_anchor:
        out = out.with_suffix(".anchors.jsonl")
        # Under another name than id, so that no reader takes it for a run.
        done |= {f"anchor_{name}": done.pop(name) for name in ("id", "level", "repeat", "run_key")}
    with uninterrupted():
        append_jsonl(out, done)
        if record.turn == 1 and record.output_text is not None:
            campaign.first_answers[record.run_key] = record.output_text
        if record.error:
            campaign.failed += 1
            say(f"{text}: {record.error['type']}: {record.error['message']}")
        text += f" {record.completion_tokens} tok" if record.completion_tokens is not None else ""
        text += f" {record.energy_joule:.1f} J" if record.energy_joule is not None else ""
        campaign.progress.step(text)


# --- Between runs ---


def measure_idle(campaign: Campaign, index: int) -> None:
    """Idle power where it is due, the model resident as in runs; a dead feed is started again at once."""
    sampler, seconds = campaign.sampler, campaign.args.idle_seconds
    if sampler is None or (index % campaign.args.idle_every and campaign.idle and not sampler.end_reason):
        return
    campaign.idle = None  # until it is known again
    try:
        if sampler.end_reason:
            sampler.stop()
            sampler.start()
        time.sleep(SETTLE_SECONDS)
        campaign.idle = idle = sampler.idle_baseline(seconds)
    except power.SamplerError as exc:
        if not sampler.end_reason:  # it lives, but the flags do not fit
            raise CollectError(f"{exc}; raise --idle_seconds") from exc
        say(f"power: {exc}; energy will be null until it is back")
        return
    sampler.forget(time.monotonic() - seconds)
    lost = f"; {campaign.args.power_trace} ends early: {sampler.trace_error}" if sampler.trace_error else ""
    say(f"idle {idle.mean_mw:.0f} mW, std {idle.std_mw:.0f} ({idle.verdict}){lost}")


def cool_down(wanted: str, engine: Engine) -> None:
    """Pause by seconds, or until the hottest zone is down to temp:C."""
    seconds, _, to_c = wanted.partition("temp:")
    time.sleep(float(seconds or 0))
    answer = engine.ask(op="cool", to_c=float(to_c)) if to_c else None
    if answer and not answer["ok"] and answer["error"]["type"] == "no_temperature":
        raise CollectError(answer["error"]["message"])


# --- Command line ---


def run_companion(name: str, *arguments: str, text: str = "") -> tuple[int, str]:
    """(exit code, stdout) of a companion script; its stderr is the user's to read."""
    command, pipe = [*room_command(name), *arguments], subprocess.PIPE
    # A session of its own: Ctrl-C in the terminal is ours to answer, for it and all that it started.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as child:
        try:
            said, _ = child.communicate(text)
        except Interrupted:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, said


def start_power(args: argparse.Namespace) -> tuple[power.TegrastatsSampler | None, str | None]:
    """(sampler, None) with the feed running, or (None, why there is no power)."""
    choice = power.find_feed(args.source, args.feed, args.interval)
    if args.power_trace and choice.command:
        args.power_trace.open("a").close()  # a trace that cannot be written is no reason to go without power
    sampler = power.TegrastatsSampler(choice, args.interval, trace_path=args.power_trace)
    try:
        sampler.start()
    except power.SamplerError as exc:
        if args.feed or args.source not in ("auto", "none"):
            raise
        say(f"{exc}; energy will be null")
        return None, str(exc)
    info, simulated = sampler.info, ", SIMULATED" if sampler.info.simulated else ""
    say(f"power: {info.source}, rail {info.rail}, scope {info.scope}{simulated}")
    return sampler, None


def command_again(*left_out: str) -> str:
    """The command line of this start, without some of its flags."""
    return shlex.join([sys.executable, *(word for word in sys.argv if word not in left_out)])


def collect(args: argparse.Namespace) -> int:
    """Plan, measure, sum up. Returns the exit code."""
    settings = json.dumps({**vars(args), "command": command_again("--dry_run")}, default=str)
    with contextlib.nullcontext() if args.dry_run else locked(args.out_jsonl):
        code, plan = run_companion("edgebench.collecting.plan", text=settings)
        if code or args.dry_run:
            print(plan, end="")
            return code
        header, *todo = [json.loads(line) for line in plan.splitlines()]
        for note in header["notes"]:
            say(note)
        failed = run_campaign(args, header, todo) if todo else 0
    for error in header["errors"]:
        say(f"error: {error}")
    if header["total"]:
        print(check_runs(args.out_jsonl).as_text(), flush=True)
    return 1 if failed or header["errors"] else 0


def run_campaign(args: argparse.Namespace, header: Json, todo: Sequence[Json]) -> int:
    """Run what is left, one model after the other; the number of runs that failed."""
    sampler, no_power = start_power(args)
    info = {"missing": no_power} if sampler is None else asdict(sampler.info)
    env = {**header["env"], "power": info, "command_line": sys.argv}
    append_jsonl(args.out_jsonl.with_suffix(".env.jsonl"), env)
    campaign = Campaign(args, sampler, no_power, env["env_id"], Progress(len(todo)))
    try:
        for model in header["models"]:
            runs = [line for line in todo if line["record"]["model_id"] == model["model_id"]]
            if runs:
                run_model(campaign, model, runs)
    finally:
        if sampler is not None:
            sampler.stop()
    return campaign.failed


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    cores = max(1, (os.cpu_count() or 2) - 1)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument_group("what to run").add_argument
    add("--models", nargs="+", required=True, metavar="GGUF", help="model files")
    add("--prompts", nargs="+", required=True, metavar="FILE", help="CSV or JSONL, one column per level")
    add("--out_jsonl", type=Path, required=True, metavar="FILE", help="where the records go")
    add("--levels", nargs="+", metavar="NAME", help="columns to run (default: L0 L1 L2 L3 P)")
    add("--ids", nargs="+", metavar="ID", help="only these tasks")
    add("--limit", type=int, metavar="N", help="only the first N tasks of each prompts file")
    add("--repeats", type=int, default=1, metavar="N", help="runs of each prompt (default: 1)")
    add("--turns", type=int, choices=(1, 2), default=1, help="2: go on with the second question")
    add(
        "--questions",
        default=str(HERE / "data/questionset.jsonl.txt"),
        metavar="FILE",
        help="where --turns 2 finds it",
    )
    add(
        "--order",
        choices=("balanced", "sequential", "shuffled"),
        default="balanced",
        help="of a task's levels (default: balanced)",
    )
    add = parser.add_argument_group("generation").add_argument
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--system", metavar="TEXT", help="system message")
    add("--thinking", choices=("off", "on"), default="off", help="of reasoning models (default: off)")
    add("--max_tokens", type=int, default=512, metavar="N", help="length of answers (default: 512)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--seed", type=int, default=0, help="of the order and of draws above temperature 0")
    add = parser.add_argument_group("engine").add_argument
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: -1, all)")
    add("--n_ctx", type=int, metavar="N", help="context (default: as the longest prompt needs)")
    add("--n_batch", type=int, default=2048, metavar="N", help="prompt tokens per call (default: 2048)")
    add("--n_ubatch", type=int, default=512, metavar="N", help="of these at once (default: 512)")
    add("--n_threads", type=int, default=cores, metavar="N", help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="(default: auto)")
    add("--kv_type", choices=("f16", "q8_0", "f32"), default="f16", help="key/value cache (default: f16)")
    add("--allow_cpu", action="store_true", help="run on a Jetson whose engine cannot use the GPU")
    add = parser.add_argument_group("power").add_argument
    add("--source", default="auto", help="auto, tegrastats, ina3221, nvml, rapl, replay:FILE or none")
    add("--feed", metavar="CMD", help="any other command that prints tegrastats lines")
    add("--interval", type=int, default=100, metavar="MS", help="between samples (default: 100)")
    add("--idle_seconds", type=float, default=10.0, metavar="S", help="of idle baseline (default: 10)")
    add("--idle_every", type=int, default=50, metavar="N", help="and again every N runs (default: 50)")
    add("--phase_energy", choices=("auto", "block"), default="auto", help="block: repeat prefills 5 s")
    add("--power_trace", type=Path, metavar="FILE", help="keep every power sample in this CSV")
    add = parser.add_argument_group("course").add_argument
    add("--cooldown", default="0", metavar="S|temp:C", help="pause before each run")
    add("--anchor_every", type=int, metavar="N", help="repeat one prompt every N runs to see drift")
    add("--run_timeout", type=float, default=900.0, metavar="S", help="of one run (default: 900)")
    add("--retry_errors", action="store_true", help="do failed runs again")
    add("--fresh", action="store_true", help="rename old output and start over")
    add("--allow_mixed", action="store_true", help="add to a file measured under other conditions")
    add("--dry_run", action="store_true", help="only show runs, tokens and memory needed")
    return parser


def interrupt(signum: int, _frame: Any) -> None:
    """Signal handler. The second Ctrl-C of an impatient user must not tear the clean-up."""
    for ending in ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    for signum in ENDING_SIGNALS:
        # Under nohup the hangup is ignored already, and so it stays.
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, interrupt)
    try:
        return collect(args)
    except (CollectError, power.SamplerError) as exc:
        say(f"error: {exc}")
        return 1
    except OSError as exc:
        say(f"error: {exc}; every finished run is kept, start again when that is mended")
        return 1
    except Interrupted as exc:
        # --fresh would set aside what is finished.
        say(f"stopped; every finished run is kept. Go on with:\n  {command_again('--fresh')}")
        return 128 + int(exc.args[0])


if __name__ == "__main__":
    sys.exit(main())
