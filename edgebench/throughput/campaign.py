"""The measurements of a throughput campaign: every model, at every batch size, with its power.

Each record is written the moment its measurement ends. A crash of the engine costs its measurement; a fresh
process, loaded and warmed up again, goes on. Idle power is measured with the model resident, before a model's
measurements and after them; where it has moved, their records are completed by what it was in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebench.board.facts import machine_facts
from edgebench.engine.client import MODEL_LOAD, EngineFailure, EngineProcess, Failure, Prompt
from edgebench.power.session import PowerSession
from edgebench.records.jsonl import append_jsonl, exclusive, heal_tail, reason_of, replace_records
from edgebench.shell.progress import say
from edgebench.shell.signals import uninterrupted
from edgebench.throughput.plan import Plan, PlannedModel, make_plan
from edgebench.throughput.record import BatchRecord, new_record
from edgebench.throughput.settings import Settings

CONTEXT_STEP = 256  # the engine pads a sequence's context to a multiple of this


@dataclass
class Campaign:
    """What one start holds."""

    settings: Settings
    plan: Plan
    board: dict[str, Any]
    engine: EngineProcess
    power: PowerSession
    block: list[BatchRecord] = field(default_factory=list)  # since idle power was measured last

    def prompts(self) -> list[Prompt]:
        """Every sequence, as the engine reads it."""
        return [Prompt.of_text(one.text, self.settings.prompt_format) for one in self.plan.prompts]


@dataclass(frozen=True)
class Outcome:
    """What a start has brought."""

    failures: int  # measurements that failed
    keys: frozenset[str]  # of all that it was to bring, those of earlier starts included


def measure_all(settings: Settings) -> Outcome:
    """Plan and measure. Raises UserError, OSError."""
    with exclusive(settings.out_jsonl, cure="or choose another --out_jsonl"):
        if heal_tail(settings.out_jsonl):
            say(f"{settings.out_jsonl}: its last line was cut short and is done again")
        facts = machine_facts(Path("/"))
        board = {name: facts.get(name) for name in ("board", "power_mode_name")}
        plan = make_plan(settings, board)
        say(f"{plan.due} of {plan.total} measurements to do, {len(plan.prompts)} prompts each")
        if not plan.due:
            return Outcome(0, plan.keys)
        with (
            PowerSession.start(settings.power(), say) as power,
            EngineProcess(settings.run_timeout) as engine,
        ):
            campaign = Campaign(settings, plan, board, engine, power)
            failures = sum(run_model(campaign, model) for model in plan.models if model.todo)
            return Outcome(failures, plan.keys)


def run_model(campaign: Campaign, model: PlannedModel) -> int:
    """Measure what is left for one model; the number of records with an error."""
    say(f"{model.model_id}: loading for {campaign.settings.largest_batch} sequences")
    # A model that cannot be loaded fails all that were due.
    hopeless = None if model.error is None else Failure(MODEL_LOAD, model.error).record()
    failures = 0
    for number, cell in enumerate(model.todo, 1):
        if hopeless is None and campaign.engine.loaded is None:
            hopeless = load(campaign, model)
        elif hopeless is None and campaign.power.idle_due:
            measure_idle(campaign)
        record = new_record(model, cell, campaign.board, campaign.settings.kv_unified, campaign.engine.loaded)
        record.error = hopeless
        if record.error is None:
            measure(campaign, record)
        append_jsonl(campaign.settings.out_jsonl, asdict(record))
        failures += record.error is not None
        say(f"{number}/{len(model.todo)} {record.line()}")
    if campaign.engine.loaded is not None and campaign.power.idle is not None:
        measure_idle(campaign)
    campaign.engine.end()
    return failures


def load(campaign: Campaign, model: PlannedModel) -> dict[str, str] | None:
    """Load a model, warm it up, and measure idle power beside it; the error where it cannot be loaded."""
    settings, engine, prompts = campaign.settings, campaign.engine, campaign.prompts()
    campaign.power.new_resident()
    campaign.block.clear()
    try:
        engine.open(model.path)
        longest = max(engine.count(prompt).prompt_tokens for prompt in prompts)
        needed = math.ceil((longest + settings.max_tokens) / CONTEXT_STEP) * CONTEXT_STEP
        engine.load(
            model.path,
            settings.model_load(settings.n_ctx or needed),
            warm_up=prompts[: settings.largest_batch],
        )
    except EngineFailure as failure:
        engine.end()
        return Failure(MODEL_LOAD, str(failure)).record()
    measure_idle(campaign)
    return None


def measure(campaign: Campaign, record: BatchRecord) -> None:
    """All prompts in groups of the batch size; completes the record, with its error where there is one."""
    wanted, size = campaign.prompts(), record.batch_size
    groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    record.flags += ["partial_batch"] if len(wanted) % size else []
    try:
        answer = campaign.engine.batch(groups, campaign.settings.sampling())
    except EngineFailure as failure:
        record.error = failure.failure.record()
        return
    record.take(answer, campaign.plan.prompts)
    record.take_power(campaign.power)
    campaign.block.append(record)


def measure_idle(campaign: Campaign) -> None:
    """Measure idle power. Where it has moved since the last time, complete the records in between."""
    change = campaign.power.measure_idle()
    block, campaign.block = campaign.block, []
    if change is not None and change.beyond_noise and block:
        say(
            f"idle power moved by {change.drift_mw:+.0f} mW; {len(block)} records are net of what lay between"
        )
        complete(campaign.settings.out_jsonl, block, campaign.power)


def complete(out: Path, block: Sequence[BatchRecord], power: PowerSession) -> None:
    """Put what is known now of the records' energy in their places, all at once."""
    for record in block:
        record.take_power(power)
    with uninterrupted():
        try:
            replace_records(out, {record.run_key: asdict(record) for record in block})
        except OSError as problem:
            say(f"{out}: the records keep the idle power of before ({reason_of(problem)})")
