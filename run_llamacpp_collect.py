#!/usr/bin/env python3
"""Run small language models over tasks written at several prompt lengths; one JSON record per run.

For every model × task × level × repeat: a cold prompt, a timed generation at
temperature 0, the energy of exactly that stretch of time, and the text. A second
start skips what is there. Each model runs in a process of its own, so that a
crash costs one run and leaves no memory behind. Times are in milliseconds, energy
in joules, power in milliwatts; without a power source the energy is null with its
reason, and everything else is measured.

Writes   OUT.jsonl       one record per run (fields: class RunRecord below)
         OUT.env.jsonl   one record per environment: board, power mode, engine, model hashes

Example:
  python run_llamacpp_collect.py --models models/gemma-2-2b-it-Q6_K.gguf \\
      --prompts data/writing_prompts_hierarchical.csv --out_jsonl results/runs_llamacpp.jsonl
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

try:
    import tegrastats_sampler as power
except ImportError:
    print("error: run_llamacpp_collect.py needs tegrastats_sampler.py beside it", file=sys.stderr)
    sys.exit(1)

HERE = Path(__file__).resolve().parent
COMPANIONS = HERE / "companions"
PHASE_SAMPLES = 5  # power samples inside each phase before its own integral is worth writing down
BLOCK_SECONDS = 5  # of repeated prefill: fifty samples at 100 ms
SETTLE_SECONDS = 1.0  # after loading, before the idle baseline: clocks and power step down
ORDERS = ("balanced", "sequential", "shuffled")
QUESTIONS = "data/questionset.jsonl.txt"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WINDOW_FIELDS = (
    "energy_joule", "energy_gross_joule", "energy_uncertainty_joule", "power_mw_mean", "power_mw_max",
    "power_samples", "power_period_ms", "power_max_gap_ms", "power_coverage",
)  # fmt: skip


class CollectError(Exception):
    """What the user can fix; the message names the file or flag and the cure."""


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP arrived; the run under way is not written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


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


# ---------------------------------------------------------------------------
# The output: one record per line, whole or not at all


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
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
        with out.with_name(out.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        message = f"another collector is writing {out}; wait for it, or choose another --out_jsonl"
        raise CollectError(message) from None
    except OSError as exc:
        raise CollectError(f"cannot write {out}: {exc.strerror}; choose another --out_jsonl") from exc


# ---------------------------------------------------------------------------
# The campaign


class Engine:
    """companions/engine_keeper.py for one model: a request, an answer, whatever happens to the engine."""

    def __init__(
        self, args: argparse.Namespace, model: Mapping[str, Any], warm_up: Mapping[str, Any]
    ) -> None:
        kept = {"model": model["path"], "load": model["load"], "warm_up": warm_up}
        self.hello = json.dumps({**kept, "run_timeout": args.run_timeout}) + "\n"
        self.child: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer: {"ok": true, …} or {"ok": false, "error": {…}}."""
        lines = json.dumps(request) + "\n"
        if self.child is None:
            command, pipe = [sys.executable, str(COMPANIONS / "engine_keeper.py")], subprocess.PIPE
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
        """Kill the keeper; its worker dies with it and gives the memory back."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
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
        elif now_s - self.told_s >= 30 or self.done == self.total:
            left_s = (now_s - self.began_s) / self.done * (self.total - self.done)
            say(f"{self.done}/{self.total} runs, {text}, {datetime.timedelta(seconds=round(left_s))} left")
            self.told_s = now_s


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Campaign:
    """What one start of the collector holds."""

    args: argparse.Namespace
    out: Path
    sampler: power.TegrastatsSampler | None
    no_power: str | None  # why there is no sampler
    env_id: str
    progress: Progress
    failed: int = 0
    idle: power.IdleBaseline | None = None
    first_answers: dict[tuple[Any, ...], str] = field(default_factory=dict)  # for second turns
    prefill_joule: dict[str, float | None] = field(default_factory=dict)  # of the block method, by prompt


def run_model(campaign: Campaign, model: Mapping[str, Any], todo: Sequence[Mapping[str, Any]]) -> None:
    """Run what is left for one model. A crash costs its run; a model that cannot load, all that were due."""
    args = campaign.args
    say(f"{model['model_id']}: loading, context {model['load']['n_ctx']}")
    engine = Engine(args, model, todo[0]["prompt"])
    try:
        loaded = engine.ask(op="start")
        for index, line in enumerate(todo):
            if loaded["ok"]:
                if index % args.idle_every == 0:
                    measure_idle(campaign)
                cool_down(campaign, engine)
                if args.anchor_every and index % args.anchor_every == 0:
                    run_anchor(campaign, engine, todo[0], loaded)
            record = new_record(campaign, line, loaded)
            write(campaign, measure(campaign, engine, line, record) if loaded["ok"] else record)
            if record.error and record.error["type"] == "model_load":
                loaded = {"ok": False, "error": record.error}
    finally:
        engine.end()


# ---------------------------------------------------------------------------
# One run


def new_record(campaign: Campaign, line: Mapping[str, Any], loaded: Mapping[str, Any]) -> RunRecord:
    """A record with all that is known before the run."""
    record = RunRecord(**line["record"], started_at=utc_now(), env_id=campaign.env_id)
    record.n_ctx, record.load_ms = loaded.get("n_ctx"), loaded.get("load_ms")
    record.offloaded, record.error = loaded.get("offloaded"), loaded.get("error")
    if campaign.sampler is None:
        record.energy_missing, record.flags = campaign.no_power, ["no_power"]
    else:
        info = campaign.sampler.info
        record.power_source, record.power_rail, record.power_scope = info.source, info.rail, info.scope
    return record


def utc_now() -> str:
    """RFC 3339 in UTC. Wall time is a label here; every duration comes from the monotonic clock."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measure(campaign: Campaign, engine: Engine, line: Mapping[str, Any], record: RunRecord) -> RunRecord:
    """Run one prompt cold and complete the record, with its error where there is one."""
    messages = list(line["prompt"]["messages"])
    if record.turn == 2 and messages[-2]["content"] is None:
        first = campaign.first_answers.get(same_but_turn(record))
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
    if window.temp_max_c is not None:  # the feed's own sensor, read during the run
        record.temp_start_c, record.temp_max_c = window.temp_start_c, window.temp_max_c
    record.flags += window.flags
    record.flags += ["idle_unstable"] if idle and not idle.stable else []
    if record.energy_joule is not None and record.completion_tokens:
        record.joule_per_output_token = record.energy_joule / record.completion_tokens


def fill_phases(record: RunRecord, campaign: Campaign, engine: Engine, prompt: Mapping[str, Any]) -> None:
    """Energy of prefill and decode: from a block if asked for, else integrated where samples suffice."""
    sampler, idle = campaign.sampler, campaign.idle
    if sampler is None or idle is None or record.energy_joule is None:
        return
    if campaign.args.phase_energy == "block":
        key = record.model_id + record.prompt_sha256
        if key not in campaign.prefill_joule:
            block = engine.ask(op="prefill", prompt=prompt, seconds=BLOCK_SECONDS)
            window = sampler.window(block["t0_s"], block["t1_s"], idle.mean_mw) if block["ok"] else None
            total = window.energy_joule if window else None
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


def same_but_turn(record: RunRecord) -> tuple[Any, ...]:
    """What the turns of one conversation have in common."""
    return record.model_id, record.id, record.level, record.repeat


def write(campaign: Campaign, record: RunRecord) -> None:
    """Append the finished record, which no signal may cut short, and count it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        append_jsonl(campaign.out, asdict(record))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    text = f"{record.model_id} task {record.id} {record.level}"
    problem = f"{record.error['type']}: {record.error['message']}" if record.error else None
    if campaign.sampler is not None and record.energy_gross_joule is None:  # the feed has died, say
        problem = problem or f"no energy: {record.energy_missing}"
    if problem:
        campaign.failed += 1
        say(f"{text}: {problem}")
    if record.turn == 1 and not record.error:
        campaign.first_answers[same_but_turn(record)] = record.output_text or ""
    text += f" {record.completion_tokens} tok" if record.completion_tokens is not None else ""
    text += f" {record.energy_joule:.1f} J" if record.energy_joule is not None else ""
    campaign.progress.step(text)


# ---------------------------------------------------------------------------
# Between runs


def measure_idle(campaign: Campaign) -> None:
    """Idle power with the model resident and the feed running, as they are during the runs."""
    if campaign.sampler is None:
        return
    time.sleep(SETTLE_SECONDS)
    campaign.idle = idle = campaign.sampler.idle_baseline(campaign.args.idle_seconds)
    campaign.sampler.forget(time.monotonic() - campaign.args.idle_seconds)
    say(f"idle {idle.mean_mw:.0f} mW, std {idle.std_mw:.0f} ({idle.verdict})")


def cool_down(campaign: Campaign, engine: Engine) -> None:
    """Pause by seconds, or until the hottest zone is down to temp:C."""
    wanted = campaign.args.cooldown
    if not wanted.startswith("temp:"):
        time.sleep(float(wanted))
        return
    answer = engine.ask(op="cool", to_c=float(wanted[5:]))
    if not answer["ok"] and answer["error"]["type"] == "no_temperature":
        raise CollectError(answer["error"]["message"])


def run_anchor(
    campaign: Campaign, engine: Engine, line: Mapping[str, Any], loaded: Mapping[str, Any]
) -> None:
    """The same prompt every N runs, kept in OUT.anchors.jsonl: what drifts over the day shows there."""
    record = asdict(measure(campaign, engine, line, new_record(campaign, line, loaded)))
    # Under another name than id, so that no reader takes it for a run.
    anchor = {f"anchor_{name}": record.pop(name) for name in ("id", "level", "repeat", "run_key")}
    append_jsonl(campaign.out.with_suffix(".anchors.jsonl"), {**anchor, **record, "output_text": None})


# ---------------------------------------------------------------------------
# Command line


def run_companion(name: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a companion script to its end; its stderr is the user's to read."""
    script = COMPANIONS / name
    if not script.is_file():
        raise CollectError(f"run_llamacpp_collect.py needs {script}; copy the folder companions/ beside it")
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True)


def start_power(args: argparse.Namespace) -> tuple[power.TegrastatsSampler | None, str | None]:
    """(sampler, None) with the feed running, or (None, why there is no power)."""
    choice = power.find_feed(args.source, args.feed, args.interval)
    if choice.command is None:
        say(f"no power: {choice.reason}; energy will be null")
        return None, choice.reason
    sampler = power.TegrastatsSampler(choice, args.interval, trace_path=args.power_trace)
    try:
        sampler.start()
    except power.SamplerError as exc:
        if args.feed or args.source != "auto":
            raise
        say(f"no power: {exc}; energy will be null")
        return None, str(exc)
    simulated = ", SIMULATED" if sampler.info.simulated else ""
    say(f"power: {sampler.info.source}, rail {sampler.info.rail}, scope {sampler.info.scope}{simulated}")
    return sampler, None


def collect(args: argparse.Namespace) -> int:
    """Plan, measure, sum up. Returns the exit code."""
    out: Path = args.out_jsonl
    with contextlib.ExitStack() as held:
        if not args.dry_run:
            held.enter_context(locked(out))
        done = run_companion("plan_runs.py", text=json.dumps(vars(args), default=str))
        if done.returncode or args.dry_run:
            print(done.stdout, end="")
            return done.returncode
        header, *todo = [json.loads(line) for line in done.stdout.splitlines()]
        for check in header["env"]["board"]["checks"]:
            if check["status"] == "bad":
                say(f"board: {check['message']}; cure: {check['cure']}")
        if header["skipped_levels"]:
            say(f"{header['skipped_levels']} levels without text are skipped")
        if header["done"]:
            say(f"{header['done']} of {header['total']} runs are done already")
        failed = run_campaign(args, held, header, todo) if todo else 0
    for model in header["models"]:
        if model["error"]:
            print(f"error: {model['error']}", file=sys.stderr)
            failed += 1
    if header["total"]:
        print(run_companion("check_runs.py", "--runs", str(out)).stdout, end="")
    return 1 if failed else 0


def run_campaign(
    args: argparse.Namespace, held: contextlib.ExitStack, header: dict[str, Any], todo: list[dict[str, Any]]
) -> int:
    """Run what is left, one model after the other; the number of runs that failed."""
    sampler, no_power = start_power(args)
    if sampler is not None:
        held.callback(sampler.stop)
    info = {"missing": no_power} if sampler is None else asdict(sampler.info)
    env = {**header["env"], "power": info, "command_line": sys.argv}
    append_jsonl(args.out_jsonl.with_suffix(".env.jsonl"), env)
    campaign = Campaign(args, args.out_jsonl, sampler, no_power, env["env_id"], Progress(len(todo)))
    for model in header["models"]:
        runs = [line for line in todo if line["record"]["model_id"] == model["model_id"]]
        if runs:
            run_model(campaign, model, runs)
    return campaign.failed


def cooldown(text: str) -> str:
    """Type of --cooldown: seconds, or temp:C."""
    float(text.removeprefix("temp:"))
    return text


def count(text: str) -> int:
    """Type of a flag that counts: an integer of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    cores = max(1, (os.cpu_count() or 2) - 1)
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument_group("what to run").add_argument
    add("--models", nargs="+", required=True, metavar="GGUF", help="model files")
    add("--prompts", nargs="+", required=True, metavar="FILE", help="CSV or JSONL, one column per level")
    add("--out_jsonl", type=Path, required=True, metavar="FILE", help="where the records go")
    add("--levels", nargs="+", metavar="NAME", help="columns to run (default: L0 L1 L2 L3 P)")
    add("--ids", nargs="+", metavar="ID", help="only these tasks")
    add("--limit", type=count, metavar="N", help="only the first N tasks of each prompts file")
    add("--repeats", type=count, default=1, metavar="N", help="runs of each prompt (default: 1)")
    add("--turns", type=int, choices=(1, 2), default=1, help="2: go on with the second question")
    add("--questions", default=str(HERE / QUESTIONS), metavar="FILE", help="where --turns 2 finds it")
    add("--order", choices=ORDERS, default=ORDERS[0], help="of a task's levels (default: balanced)")
    add = parser.add_argument_group("generation").add_argument
    add("--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text")
    add("--system", metavar="TEXT", help="system message")
    add("--thinking", choices=("off", "on"), default="off", help="of reasoning models (default: off)")
    add("--max_tokens", type=count, default=512, metavar="N", help="length of answers (default: 512)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--seed", type=int, default=0, help="of the order and of draws above temperature 0")
    add = parser.add_argument_group("engine").add_argument
    add("--n_gpu_layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: -1, all)")
    add("--n_ctx", type=count, metavar="N", help="context (default: as the longest prompt needs)")
    add("--n_batch", type=count, default=2048, metavar="N", help="prompt tokens per call (default: 2048)")
    add("--n_ubatch", type=count, default=512, metavar="N", help="of these at once (default: 512)")
    add("--n_threads", type=count, default=cores, metavar="N", help="on the CPU (default: cores - 1)")
    add("--flash_attn", choices=("auto", "on", "off"), default="auto", help="(default: auto)")
    add("--kv_type", choices=("f16", "q8_0", "f32"), default="f16", help="key/value cache (default: f16)")
    add("--allow_cpu", action="store_true", help="run on a Jetson whose engine cannot use the GPU")
    add = parser.add_argument_group("power").add_argument
    add("--source", default="auto", help="auto, tegrastats, ina3221, nvml, rapl, replay:FILE or none")
    add("--feed", metavar="CMD", help="any other command that prints tegrastats lines")
    add("--interval", type=count, default=100, metavar="MS", help="between samples (default: 100)")
    add("--idle_seconds", type=float, default=10.0, metavar="S", help="of idle baseline (default: 10)")
    add("--idle_every", type=count, default=50, metavar="N", help="and again every N runs (default: 50)")
    add("--phase_energy", choices=("auto", "block"), default="auto", help="block: repeat prefills 5 s")
    add("--power_trace", type=Path, metavar="FILE", help="keep every power sample in this CSV")
    add = parser.add_argument_group("course").add_argument
    add("--cooldown", type=cooldown, default="0", metavar="S|temp:C", help="pause before each run")
    add("--anchor_every", type=count, metavar="N", help="repeat one prompt every N runs to see drift")
    add("--run_timeout", type=float, default=900.0, metavar="S", help="of one run (default: 900)")
    add("--retry_errors", action="store_true", help="do failed runs again")
    add("--fresh", action="store_true", help="rename old output and start over")
    add("--allow_mixed", action="store_true", help="add to a file measured under other conditions")
    add("--dry_run", action="store_true", help="only show runs, tokens and memory needed")
    return parser


def interrupt(signum: int, _frame: Any) -> None:
    """Signal handler."""
    raise Interrupted(signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    for signum in ENDING_SIGNALS:
        signal.signal(signum, interrupt)
    try:
        return collect(args)
    except (CollectError, power.SamplerError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: {exc}; every finished run is kept, start again when that is mended", file=sys.stderr)
        return 1
    except Interrupted as exc:
        command = shlex.join([sys.executable, *sys.argv])
        print(f"stopped; every finished run is kept. Go on with:\n  {command}", file=sys.stderr)
        return 128 + exc.signum


if __name__ == "__main__":
    sys.exit(main())
