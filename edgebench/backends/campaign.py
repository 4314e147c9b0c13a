"""One job on several engines, in interleaved rounds: one row per run, with its power and the board's state.

One warm-up round is kept apart, then the rounds, the engines of each in a new seeded order; each run is a
process of its own. A second start skips what is there. An engine that is missing is a row with the way to get
it; one that fails or hangs in its warm-up is left out of the rounds.

Energy is net of idle power, measured anew beside every run: with the engine's model resident where the engine
can be told to sit still, else just before it starts; each row's idle_method says which.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgebench.backends.engines.catalogue import commands_of, engine_name, idles_by_itself
from edgebench.backends.engines.engine import Asked, Missing
from edgebench.backends.job import JobSettings, make_job
from edgebench.backends.logs.story import parse_path
from edgebench.backends.rows import measure
from edgebench.board.facts import Facts, ask_engine, machine_facts, with_engine
from edgebench.board.thermal import hottest_c
from edgebench.errors import UserError
from edgebench.power.session import PowerSession, PowerSettings
from edgebench.records.jsonl import append_jsonl, exclusive, heal_tail, read_jsonl, records_in
from edgebench.shell.calls import as_called
from edgebench.shell.progress import say

IDLE_BEFORE = "before the engine was started"
# Net of idle power and gross, of an answer and of each of its tokens.
ENERGIES = ("energy_joule", "joule_per_token", "energy_gross_joule", "joule_per_token_gross")
# What of the board's state decides whether two runs may be compared; the rest is kept to explain them.
DECIDING = ("board", "power_mode_name", "clocks_locked", "cpu_governor", "emc_locked", "gpu_max_hz")
STATE = (
    "power_mode_name", "clocks_locked", "cpu_governor", "emc_locked", "gpu_cur_hz", "gpu_max_hz",
    "emc_cur_hz", "swap_used_byte", "swap_total_byte", "zram", "load_1min", "memory_bandwidth_gb_per_s",
)  # fmt: skip
ENGINE_FLAGS = ("llama_bin", "tinygrad_python", "tinygrad_dir")
DEFAULT_ENGINES = ("llama-cpp-python", "llama-bench", "llama-completion", "llama-server", "tinygrad")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a comparison is told; names and meanings are those of the flags."""

    job: JobSettings
    engines: Sequence[str]
    out: Path
    rounds: int = 5
    seed: int = 42
    llama_bin: Path | None = None
    tinygrad_python: str | None = None
    tinygrad_dir: Path | None = None
    warmup: int = 2
    timeout_s: float = 900.0
    power: PowerSettings = field(default_factory=PowerSettings)
    retry_errors: bool = False
    allow_differing_conditions: bool = False

    def __post_init__(self) -> None:
        if len(set(self.engines)) < len(self.engines):
            raise UserError("an engine stands twice in --engines; tinygrad:NV and tinygrad:CUDA are two")
        for engine in self.engines:
            engine_name(engine)

    @property
    def work(self) -> Path:
        """The folder of the job, and of every engine's own output."""
        return self.out.with_suffix(".work")

    def asked(self, engine: str, idle_s: float = 0.0) -> Asked:
        """One engine's run."""
        return Asked(
            engine=engine_name(engine),
            work=self.work,
            warmup=self.warmup,
            timeout_s=self.timeout_s,
            idle_s=idle_s,
            llama_bin=self.llama_bin,
            tinygrad_python=self.tinygrad_python,
            tinygrad_dir=self.tinygrad_dir,
        )

    def run_key(self, job: Json, engine: str, number: int) -> str:
        """Hash of everything that defines a run."""
        names = ("model_sha256", "prompt_sha256", "max_tokens", "n_threads", "n_gpu_layers", "flash_attn")
        parts = [job[name] for name in names]
        parts += [str(getattr(self, name)) for name in ENGINE_FLAGS if engine_reads(engine, name)]
        parts += [self.warmup, engine, number]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def dry_run(self, job: Json) -> str:
        """Each engine's commands, then the order of the rounds."""
        lines = []
        for number, place, engine in plan(self.engines, self.rounds, self.seed):
            if number == 0:
                lines += [f"# {engine}", *self._commands_or_reason(job, engine)]
            elif place == 0:
                lines.append(f"# round {number}: {engine}")
            else:
                lines[-1] += f" {engine}"
        return "\n".join(lines)

    def _commands_or_reason(self, job: Json, engine: str) -> list[str]:
        try:
            return [one.shell() for one in commands_of(job, self.asked(engine))]
        except (Missing, OSError, subprocess.TimeoutExpired) as exc:
            return [f"# error: {exc}"]


def engine_reads(engine: str, flag: str) -> bool:
    """Whether a flag that names an engine's place is this engine's."""
    return engine.startswith(flag.partition("_")[0]) and engine != "llama-cpp-python"


def prepare(settings: Settings) -> dict[str, Any]:
    """The job for all engines, in its folder."""
    settings.work.mkdir(parents=True, exist_ok=True)
    job = make_job(settings.job, settings.work)
    if job["max_tokens"] < job["asked_tokens"]:
        say(f"the model's answer ends after {job['max_tokens']} tokens: all engines make that many")
    return job


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


# --- the board ---


def board_state(engine: Facts) -> dict[str, Any]:
    """Power mode, clocks, governor, temperature, swap; null where they cannot be read.

    `engine`: what the engine says of itself (facts.ask_engine).
    """
    facts = with_engine(machine_facts(Path("/")), engine)
    board = facts["board"] or f"{facts['machine']} {facts['cpu_model'] or ''}".strip()
    state = {name: facts.get(name) for name in STATE}
    return {"board": board, "temp_c": hottest_c(facts["temps_c"]), **state}


def changed(before: Json, now: Json) -> list[str]:
    """What differs that decides."""
    return [
        f"{name} was {before.get(name)}, is {now[name]}" for name in DECIDING if before.get(name) != now[name]
    ]


# --- the campaign ---


class Campaign:
    """All rounds, row by row."""

    def __init__(self, settings: Settings, job: Json) -> None:
        self.settings, self.job = settings, job
        self.done: dict[str, Json] = {}
        self.given_up: set[str] = set()

    @cached_property
    def engine_facts(self) -> Facts:
        """Asked once, before the first run: no process that loads an engine may end beside a measurement."""
        return ask_engine()

    def run(self) -> None:
        """Measure what is left. Raises UserError, OSError; every finished row is kept."""
        settings = self.settings
        with exclusive(settings.out, cure="or choose another --out"):
            heal_tail(settings.out)
            self.done = finished(settings.out, settings.retry_errors)
            power = replace(settings.power, trace_path=self.new_trace())
            with PowerSession.start(power, say) as session:
                self.measure_all(session)

    def new_trace(self) -> Path:
        """Where the power trace goes; one of an earlier start is done with."""
        path = self.settings.work / "power.csv"
        path.unlink(missing_ok=True)
        return path

    def measure_all(self, power: PowerSession) -> None:
        """Every run that is not there yet."""
        settings = self.settings
        cells = plan(settings.engines, settings.rounds, settings.seed)
        todo = [cell for cell in cells if settings.run_key(self.job, cell[2], cell[0]) not in self.done]
        say(f"{len(todo)} of {len(cells)} runs to do")
        began_s = time.monotonic()
        for index, (number, place, engine) in enumerate(todo):
            if engine in self.given_up:
                continue
            row = self.measure_one(number, place, engine, power)
            if row["status"] != "ok" and (number == 0 or row["status"] == "MISSING"):
                self.given_up.add(engine)
            left_s = (time.monotonic() - began_s) / (index + 1) * (len(todo) - index - 1)
            say(f"round {number}/{settings.rounds} {engine}: {outcome(row)}; about {left_s:.0f} s left")

    def measure_one(self, number: int, place: int, engine: str, power: PowerSession) -> dict[str, Any]:
        """One run; its row is written when this returns."""
        state = board_state(self.engine_facts)
        self.check_state(state)
        power.new_resident()
        sits_still = power.missing is None and idles_by_itself(engine)
        if not sits_still:
            power.measure_idle()
        row = self.run_engine(number, engine, self.settings.power.idle_seconds if sits_still else 0.0)
        row |= {
            "run_key": self.settings.run_key(self.job, engine, number), "round": number, "place": place,
            "phase": "timed" if number else "warmup", "conditions": state,
            "started_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip
        fill_energy(row, power)
        append_jsonl(self.settings.out, row)
        self.done[row["run_key"]] = row
        return row

    def run_engine(self, number: int, engine: str, idle_s: float) -> dict[str, Any]:
        """The engine's row; in the warm-up a bad start is tried once more, or it would cost all rounds."""
        asked = self.settings.asked(engine, idle_s)
        start_s, row = time.monotonic(), measure(self.job, asked, f"round{number}")
        soon = time.monotonic() - start_s < asked.timeout_s / 2  # a hang is not waited for twice
        if number == 0 and row["status"] == "FAILED" and soon:
            say(f"{engine}: {outcome(row)}; once more")
            first, row = row["cause"], measure(self.job, asked, "round0-again")
            row["notes"] = [*(row.get("notes") or []), f"warm-up: a first start failed: {first}"]
        return row

    def check_state(self, state: Json) -> None:
        """UserError if the board is no longer what it was for the rows that are there."""
        for row in self.done.values():
            against = changed(row.get("conditions") or state, state)
            if against and not self.settings.allow_differing_conditions:
                raise UserError(
                    f"{self.settings.out} was measured under other conditions: {'; '.join(against)};"
                    " set them back, choose another --out, or say --allow_differing_conditions"
                )


def fill_energy(row: dict[str, Any], power: PowerSession) -> None:
    """Energy of the row's answer, net of idle, or why there is none."""
    idle = row.pop("idle", None)
    if idle is not None:
        power.take_idle(idle["t0_s"], idle["t1_s"])
    elif power.idle is not None:
        row["idle_method"] = IDLE_BEFORE
    row |= dict.fromkeys(ENERGIES)
    row |= {"idle_mw": None, "energy_missing": power.missing}
    if power.missing or row["status"] != "ok":
        row["idle_method"] = None
        return
    whole = [(row["t0_s"], row["t1_s"])] if None not in (row["t0_s"], row["t1_s"]) else []
    spans_s = row["spans_s"] or whole
    if not spans_s:
        row["energy_missing"] = "the engine does not say when its answer began and ended"
        return
    told = [power.window(*span_s) for span_s in spans_s]
    joules = [one.energy_joule for one in told if one.energy_joule is not None]
    gone = next((one for one in told if one.energy_joule is None), None)
    row["idle_mw"] = told[0].idle_mw
    row["energy_missing"] = None if gone is None else gone.energy_missing or "no idle power"
    row["power_source"] = told[0].power_source
    row["power_flags"] = sorted({flag for one in told for flag in one.flags})
    if gone is None:
        row["energy_joule"] = sum(joules)
        row["energy_gross_joule"] = sum(one.energy_gross_joule or 0.0 for one in told)
        if row["generated_tokens"]:
            row["joule_per_token"] = row["energy_joule"] / row["generated_tokens"]
            row["joule_per_token_gross"] = row["energy_gross_joule"] / row["generated_tokens"]


def finished(out: Path, retry_errors: bool) -> dict[str, Json]:
    """Rows that need no second run, by key. A missing engine may have come: it is asked again."""
    rows = {row["run_key"]: row for row in (records_in(out) if out.exists() else []) if "run_key" in row}
    left = ("ok",) if retry_errors else ("ok", "FAILED")
    return {key: row for key, row in rows.items() if row["status"] in left}


def outcome(row: Json) -> str:
    """What a row says in a line."""
    if row["status"] != "ok":
        return f"{row['status']}: {row['cause'][:160]}"
    return f"decode {row['decode_tok_per_s']:.1f} tok/s in {row['wall_s']:.1f} s"


# --- the other commands ---


def logs_to_rows(logs: Sequence[str], device: str | None, model: str | None) -> list[dict[str, Any]]:
    """What is in logs of campaigns already run; device and model where a log does not name them."""
    rows = [row for path in logs for row in parse_path(path)]
    return [asdict(replace(row, device=row.device or device, model=row.model or model)) for row in rows]


def commands_in(path: Path) -> Iterator[str]:
    """Each engine's commands, once, from the rows of a file. Raises UserError where there are none."""
    shown: set[str] = set()
    for _, row in read_jsonl(path):
        text = "\n".join((row or {}).get("commands") or [])
        if row and text and text not in shown:
            shown.add(text)
            yield f"# {row['engine']}\n{text}"
        elif row and row.get("status") == "MISSING" and row["engine"] not in shown:
            shown.add(row["engine"])
            yield f"# {row['engine']}: {row['cause']}"
    if not shown:
        raise UserError(
            f"no commands in {path}; it takes the rows of `{as_called('compare_backends.py run')}`"
        )
