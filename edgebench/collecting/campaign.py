"""The campaign: one model after the other, run after run, each record written the moment it is known.

Owns what happens between the plan and the record: loading, idle power, cooling down, the run itself, its
energy, the line in the output, and the closing of a block. The engine is engine/client.py's, power is
power/session.py's; both answer with a reason where they have no value, and the campaign goes on.

A block is the runs between two idle baselines with one model resident. Each run is written with the baseline
before it. Where the baseline after the block differs from it beyond noise, idle power is interpolated between
the two, and the block's records are replaced in the output, in one go.
"""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgebench.collecting.pace import CampaignProgress, ModelPace, Pace
from edgebench.collecting.plan import Plan, PlannedModel
from edgebench.collecting.resume import (
    PlannedRun,
    beside,
    full_key,
    other_defaults,
    with_first_answer,
)
from edgebench.collecting.settings import CoolDown
from edgebench.engine.client import (
    MODEL_LOAD,
    NO_TEMPERATURE,
    EngineFailure,
    EngineProcess,
    Failure,
    Generation,
    Loaded,
    Prompt,
    Sampling,
)
from edgebench.errors import UserError
from edgebench.power.session import PowerSession
from edgebench.records.jsonl import append_jsonl, reason_of, replace_records
from edgebench.records.run import RunRecord
from edgebench.shell.progress import say
from edgebench.shell.signals import uninterrupted
from edgebench.shell.text import counted, fixed

PHASE_SAMPLES = 5  # power samples inside each phase before its own integral is worth writing down
BLOCK_SECONDS = 5.0  # of repeated prefill: fifty samples at 100 ms
TRIES_TO_LOAD = 2  # killed while it loaded, perhaps: the next run gets one more try
RECORD_FIELDS = frozenset(one.name for one in fields(RunRecord))


@dataclass
class PrefillCost:
    """Repeated prefill of one prompt, for --phase_energy block."""

    t0_s: float
    t1_s: float
    count: int
    energy_joule: float | None = None  # of one prefill


@dataclass
class Measured:
    """A run of the open block: where its record stands and what it says."""

    path: Path
    is_anchor: bool
    record: RunRecord


class Campaign:
    """What one start of the collector holds while it measures."""

    def __init__(
        self, plan: Plan, engine: EngineProcess, power: PowerSession, command_line: Sequence[str]
    ) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.engine = engine
        self.power = power
        self.command_line = command_line
        self.cooldown = CoolDown.parse(plan.settings.cooldown)
        self.pace = Pace({model.model_id: self._pace_of(model) for model in plan.models})
        self.progress = CampaignProgress(len(plan.todo), self.pace)
        self.failed = 0
        self.refused: list[str] = []  # why models were not run whose runs could not be compared
        self.env_id = ""  # of the model as it is loaded now
        self.environments: set[str] = set()  # env_ids this start has written
        self.first_answers: dict[str, str] = {}  # by run_key, for second turns
        self.prefill_costs: dict[tuple[str, str], PrefillCost | None] = {}  # by model and prompt
        self.block: list[Measured] = []
        self.loaded: Loaded | None = None  # of the model of now, as last loaded
        self.compared: Loaded | None = None  # what has been compared with the runs in the output
        self.load_failures: list[Failure] = []  # since it was last loaded
        self.told_error: dict[str, str] | None = None  # of the run before
        self.alike = 0  # runs that failed like it
        self.changed_prompts: set[str] = set()  # models whose template writes other prompts than planned

    def _pace_of(self, model: PlannedModel) -> ModelPace:
        """What the time left is reckoned from."""
        weight = model.facts.get("read_byte_per_token") or model.facts.get("file_byte") or 1.0
        return ModelPace(len(self.plan.todo_of(model)), float(weight))

    def run_model(self, model: PlannedModel) -> None:
        """Run what is left for one model.

        A crash costs its run; a model that twice cannot be loaded, all the rest.
        """
        todo = self.plan.todo_of(model)
        assert model.load is not None
        say(f"{model.model_id}: loading, context {model.load.n_ctx}")
        self.power.new_resident()
        self.loaded = None
        self.load_failures = []
        for index, run in enumerate(todo):
            began_s = time.monotonic()
            failure = self.load(model, warm_up=todo[0].prompt)
            if self.refuses(model):
                break
            if failure is None:
                self.measure_idle(index)
                if index == 0:
                    self.pace.started(model.model_id, time.monotonic() - began_s)
                    began_s = time.monotonic()
                self.cool_down()
            record = self.new_record(run)
            if failure is None:
                failure = self.measure(run, record)
            if failure is not None:
                record.error = failure.record()
            self.write(model, run, record)
            self.pace.ran(model.model_id, time.monotonic() - began_s)
            self.tell(run, record)
        self.tell_alike(model.model_id)
        if self.block:
            self.close_block()

    # --- Loading ---

    def load(self, model: PlannedModel, warm_up: Prompt) -> Failure | None:
        """Have the model loaded and warmed up, if it is not yet; why not, where that fails."""
        if len(self.load_failures) >= TRIES_TO_LOAD:
            return self.load_failures[-1]
        assert model.load is not None
        try:
            self.loaded = self.engine.load(model.path, model.load, warm_up)
        except EngineFailure as failure:
            self.load_failures.append(failure.failure)
            return failure.failure
        self.load_failures = []
        return None

    def refuses(self, model: PlannedModel) -> bool:
        """Whether the engine chose other defaults than for this model's runs in the output; that is kept."""
        if self.loaded is self.compared or self.loaded is None or self.settings.allow_mixed:
            return False
        self.compared = self.loaded
        found = other_defaults(model.model_id, self.loaded.resolved, self.plan.before)
        if found is None:
            return False
        self.refused.append(f"{model.model_id}: {self.settings.out_jsonl} {found}")
        return True

    def enter_environment(self, model: PlannedModel) -> None:
        """Write the environment record of the model as it is loaded now, where this start has not yet."""
        resolved = None if self.loaded is None else self.loaded.resolved
        record = self.plan.environment(self.power.environment(), self.command_line, model, resolved)
        self.env_id = str(record["env_id"])
        if self.env_id not in self.environments:
            append_jsonl(beside(self.settings.out_jsonl)[1], record)
            self.environments.add(self.env_id)

    # --- One run ---

    def new_record(self, run: PlannedRun) -> RunRecord:
        """A record with all that is known before the run."""
        # Wall time is a label here; every duration comes from the monotonic clock.
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        record = RunRecord(
            run_key=run.run_key,
            id=run.task_id,
            category=run.category,
            model_id=run.model_id,
            quantization=run.quantization,
            level=run.level,
            turn=run.turn,
            repeat=run.repeat,
            started_at=now.replace("+00:00", "Z"),
            prompt_sha256=run.prompt_sha256,
            prompt_ids_sha256=run.prompt_ids_sha256 if run.turn == 1 else None,
            prompt_format=run.prompt.format,
            thinking=run.prompt.thinking,
            temperature=self.settings.temperature,
            seed=run.seed,
            max_tokens=self.settings.max_tokens,
            n_gpu_layers=self.settings.n_gpu_layers,
        )
        info = self.power.info
        record.power_source, record.power_rail, record.power_scope = info.source, info.rail, info.scope
        if self.power.missing is not None:
            record.energy_missing = self.power.missing
            record.flags.append("no_power")
        return record

    def measure(self, run: PlannedRun, record: RunRecord) -> Failure | None:
        """Run one prompt cold and complete the record; why it failed, where it did."""
        prompt = run.prompt
        if run.turn == 2 and prompt.messages[-2].content is None:
            first_answer = self.first_answers.get(run.first_key or "")
            if first_answer is None:
                return Failure("no_first_turn", "the first turn of this conversation failed")
            prompt = with_first_answer(prompt, first_answer)
        sampling = Sampling(record.max_tokens, record.temperature, record.seed)
        try:
            generation = self.engine.run(prompt, sampling)
        except EngineFailure as failure:
            if failure.kind == MODEL_LOAD:
                self.load_failures.append(failure.failure)
            return failure.failure
        self.loaded = self.engine.loaded or self.loaded
        take(record, generation)
        self.note_changed_prompt(run, record)
        self.fill_energy(record)
        self.fill_phases(record, prompt)
        if generation.error is not None:
            return generation.error
        if self.power.missing is None and record.energy_joule is None:
            # The feed died: what was to be measured is lacking.
            return Failure("power_lost", f"no energy: {record.energy_missing}")
        return None

    def note_changed_prompt(self, run: PlannedRun, record: RunRecord) -> None:
        """Give a run whose prompt is not the planned one a key of its own: a template may print the date.

        A second turn's ids were not known when it was planned; its first turn tells.
        """
        if run.turn != 1 or record.prompt_ids_sha256 in (None, run.prompt_ids_sha256):
            return
        record.run_key = full_key(run.base_key, str(record.prompt_ids_sha256))
        if run.model_id not in self.changed_prompts:
            self.changed_prompts.add(run.model_id)
            say(
                f"{run.name}: the chat template now writes another prompt than it did when this was planned"
                " (does it print the date?); from here on these are other runs"
            )

    # --- Energy ---

    def fill_energy(self, record: RunRecord) -> None:
        """Energy of [t0, t1], net of idle power, with its uncertainty."""
        if record.t0_s is None or record.t1_s is None:
            return
        self.power.window(record.t0_s, record.t1_s).fill(record)
        if record.energy_joule is not None and record.completion_tokens:
            record.joule_per_output_token = record.energy_joule / record.completion_tokens

    def fill_phases(self, record: RunRecord, prompt: Prompt) -> None:
        """Energy of prefill and decode: from a block if asked for, else integrated where samples suffice."""
        if record.energy_joule is None:
            return
        if self.settings.phase_energy == "block":
            key = (record.model_id, record.prompt_sha256)
            if key not in self.prefill_costs:
                self.prefill_costs[key] = self.measure_prefill(prompt)
            fill_phases_by_block(record, self.prefill_costs[key])
        else:
            self.integrate_phases(record)

    def measure_prefill(self, prompt: Prompt) -> PrefillCost | None:
        """Repeat the prefill for so long that a slow sensor sees it; None where the engine fails."""
        try:
            block = self.engine.prefill(prompt, BLOCK_SECONDS)
        except EngineFailure:
            return None
        cost = PrefillCost(block.t0_s, block.t1_s, block.count)
        self.weigh_prefill(cost)
        return cost

    def weigh_prefill(self, cost: PrefillCost) -> None:
        """Energy of one prefill, from the window of all of them."""
        total_joule = self.power.window(cost.t0_s, cost.t1_s).energy_joule
        cost.energy_joule = None if total_joule is None else total_joule / cost.count

    def integrate_phases(self, record: RunRecord) -> None:
        """Prefill and decode each by its own integral, where both hold enough samples."""
        if record.t0_s is None or record.first_token_s is None or record.t1_s is None:
            return
        edges_s = (record.t0_s, record.first_token_s, record.t1_s)
        phases = [self.power.window(*phase_s) for phase_s in itertools.pairwise(edges_s)]
        if min(phase.power_samples or 0 for phase in phases) >= PHASE_SAMPLES:
            record.energy_prefill_joule, record.energy_decode_joule = (phase.energy_joule for phase in phases)
            record.energy_phase_method = "integrated"

    # --- Idle power, block after block ---

    def measure_idle(self, index: int) -> None:
        """Idle power where it is due, the model resident as in runs; it closes the block before it."""
        if self.power.missing is not None:
            return
        if index % self.settings.idle_every and not self.power.idle_due:
            return
        self.close_block()

    def close_block(self) -> None:
        """Measure idle power; where it has moved beyond noise, replace the records since the one before."""
        if self.power.missing is not None:
            return
        change = self.power.measure_idle()
        block, self.block = self.block, []
        if change is None or not change.beyond_noise or not block:
            return
        for cost in self.prefill_costs.values():
            if cost is not None and cost.t0_s >= change.opening.at_s:
                self.weigh_prefill(cost)
        for measured in block:
            self.fill_energy(measured.record)
            if self.settings.phase_energy == "block":
                key = (measured.record.model_id, measured.record.prompt_sha256)
                fill_phases_by_block(measured.record, self.prefill_costs.get(key))
            else:
                self.integrate_phases(measured.record)
        self.replace(block)

    def replace(self, block: Sequence[Measured]) -> None:
        """Put the block's new records in the place of those in the output, all or none."""
        with uninterrupted():
            for path in dict.fromkeys(one.path for one in block):
                # By the stamp: anchors, and runs done again, stand there under one key several times.
                changed = {
                    str(one.record.t0_s): as_line(one.record, one.is_anchor)
                    for one in block
                    if one.path == path
                }
                try:
                    replace_records(path, changed, key="t0_s")
                except OSError as problem:
                    say(
                        f"{path}: {reason_of(problem)}; idle power moved, but the records keep that of before"
                    )

    def cool_down(self) -> None:
        """Pause by seconds, or until the hottest zone is down to a temperature."""
        time.sleep(self.cooldown.seconds)
        if self.cooldown.to_c is None:
            return
        try:
            self.engine.cool_down(self.cooldown.to_c)
        except EngineFailure as failure:
            if failure.kind == NO_TEMPERATURE:
                raise UserError(str(failure)) from None

    # --- The record ---

    def write(self, model: PlannedModel, run: PlannedRun, record: RunRecord) -> None:
        """Append the finished record, which no signal may cut short."""
        out, _, anchors = beside(self.settings.out_jsonl)
        path = anchors if run.is_anchor else out
        if self.loaded is not None:
            record.n_ctx = self.loaded.n_ctx
            record.load_ms = self.loaded.load_ms
            record.offloaded = self.loaded.offloaded
        with uninterrupted():
            self.enter_environment(model)
            record.env_id = self.env_id
            append_jsonl(path, as_line(record, run.is_anchor))
            if record.turn == 1 and record.output_text is not None:
                self.first_answers[run.run_key] = record.output_text
            if record.energy_joule is not None:
                self.block.append(Measured(path, run.is_anchor, record))
            if record.error:
                self.failed += 1

    def tell(self, run: PlannedRun, record: RunRecord) -> None:
        """One line for a failed run, unless it failed just like the one before it; and the progress."""
        if record.error and record.error == self.told_error:
            self.alike += 1
        else:
            self.tell_alike(run.model_id)
            self.told_error = record.error
            if record.error:
                say(f"{run.name}: {record.error['type']}: {record.error['message']}")
        text = run.name
        if record.completion_tokens is not None:
            text += f" {record.completion_tokens} tok"
        if record.energy_joule is not None:
            text += f" {fixed(record.energy_joule, 1)} J"
        self.progress.step(text)

    def tell_alike(self, model_id: str) -> None:
        """How many runs failed like the one before them: a broken model says the same every time."""
        if self.alike:
            say(f"{model_id}: {counted(self.alike, 'more run')} failed alike")
        self.alike = 0
        self.told_error = None


def take(record: RunRecord, generation: Generation) -> None:
    """Put what the engine says of a run into its record."""
    for name, value in generation.record_fields().items():
        if name in RECORD_FIELDS:
            setattr(record, name, value)
    record.flags += [flag for flag in generation.flags if flag not in record.flags]


def fill_phases_by_block(record: RunRecord, cost: PrefillCost | None) -> None:
    """Prefill as a block of repeated ones weighed it; decode is the rest."""
    if cost is None or cost.energy_joule is None or record.energy_joule is None:
        return
    record.energy_prefill_joule = cost.energy_joule
    record.energy_decode_joule = record.energy_joule - cost.energy_joule
    record.energy_phase_method = "block"


def as_line(record: RunRecord, is_anchor: bool) -> dict[str, Any]:
    """The record as it stands in its file; an anchor under other names: no reader must take it for a run."""
    line = asdict(record)
    if is_anchor:
        for name in ("id", "level", "repeat", "run_key"):
            line[f"anchor_{name}"] = line.pop(name)
    return line
