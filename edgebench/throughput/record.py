"""One measurement of a throughput campaign: all prompts at one batch size, once."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgebench.engine.client import BatchGeneration, Loaded
from edgebench.power.session import PowerSession
from edgebench.throughput.plan import Cell, PlannedModel, PlannedPrompt


@dataclass
class BatchRecord:
    """All prompts at one batch size, once. Missing is None, with a word in flags or a message in error."""

    schema_version: int = 1  # 1
    kind: str = "throughput"  # tells it from a run record
    run_key: str = ""  # hash of everything that defines it
    model_id: str = ""  # file stem without its quantization
    quantization: str | None = None  # as in the run record
    batch_size: int = 0  # sequences decoded together
    repeat: int = 1  # of the same measurement, from 1
    started_at: str = ""  # RFC 3339, UTC; a label, never used to compute
    board: str | None = None  # its name
    power_mode_name: str | None = None  # of nvpmodel: MAXN_SUPER
    engine_version: str | None = None  # of llama-cpp-python
    offloaded: str | None = None  # layers the engine put on the GPU, as it logs them: "27/27"
    n_ctx_seq: int | None = None  # tokens each sequence has room for
    kv_unified: bool = False  # one cache for all sequences
    load_ms: float | None = None  # of the model
    prompt_tokens: int | None = None  # of all sequences
    completion_tokens: int | None = None  # of all sequences
    decode_steps: int | None = None  # calls of llama_decode after the prompts
    t0_s: float | None = None  # monotonic seconds, as in the power trace
    t1_s: float | None = None  # the last token of the last group
    latency_ms: float | None = None  # t1 - t0
    prefill_ms: float | None = None  # until every sequence of a group has its first token, over all groups
    decode_ms: float | None = None  # from there to the group's last token
    tok_per_s: float | None = None  # completion_tokens / latency
    prefill_tok_per_s: float | None = None  # prompt_tokens / prefill_ms
    decode_tok_per_s: float | None = None  # tokens sampled after the first of each sequence / decode_ms
    energy_joule: float | None = None  # net of idle, may be negative
    energy_gross_joule: float | None = None  # idle included
    energy_uncertainty_joule: float | None = None  # of energy_joule, either way
    joule_per_token: float | None = None  # energy_joule / completion_tokens
    idle_mw: float | None = None  # idle power that was subtracted
    idle_std_mw: float | None = None  # standard deviation of the idle samples
    idle_drift_mw: float | None = None  # over this model's measurements, where it is beyond the noise
    idle_method: str | None = None  # what the board did while idle power was measured
    energy_missing: str | None = None  # why energy_joule is null
    power_source: str = "none"  # power_… as in the run record
    power_rail: str | None = None  # the rail, or the rails that were added
    power_scope: str | None = None  # board, module, package or gpu
    power_mw_mean: float | None = None  # idle included
    power_mw_max: float | None = None  # of the samples
    power_samples: int | None = None  # in the window
    power_period_ms: float | None = None  # between two samples, median
    power_max_gap_ms: float | None = None  # the longest time without a sample
    power_coverage: float | None = None  # 0 to 1
    temp_start_c: float | None = None  # hottest zone just before
    temp_max_c: float | None = None  # hottest zone during the measurement
    sequences: list[dict[str, Any]] = field(default_factory=list)  # id, level, tokens, text of each
    flags: list[str] = field(default_factory=list)  # as in the run record
    error: dict[str, str] | None = None  # {type, message} where it failed

    def take(self, answer: BatchGeneration, prompts: Sequence[PlannedPrompt]) -> None:
        """Times, sequences, token counts and rates; null where nothing was decoded."""
        self.t0_s = answer.t0_s
        self.t1_s = answer.t1_s
        self.prefill_ms = answer.prefill_ms
        self.decode_ms = answer.decode_ms
        self.decode_steps = answer.steps
        self.sequences = [
            {"id": prompt.id, "level": prompt.level, **asdict(sequence)}
            for prompt, sequence in zip(prompts, answer.sequences, strict=True)
        ]
        self.latency_ms = (answer.t1_s - answer.t0_s) * 1000
        self.prompt_tokens = sum(one.prompt_tokens for one in answer.sequences)
        self.completion_tokens = sum(one.completion_tokens for one in answer.sequences)
        self.tok_per_s = self.completion_tokens / self.latency_ms * 1000
        self.prefill_tok_per_s = self.prompt_tokens / answer.prefill_ms * 1000
        # Each sequence samples its first id in the prefill; an end of sequence took its step too.
        ends = sum(one.finish_reason == "stop" for one in answer.sequences)
        sampled = self.completion_tokens + ends - len(answer.sequences)
        self.decode_tok_per_s = sampled / answer.decode_ms * 1000 if sampled else None

    def take_power(self, power: PowerSession) -> None:
        """Energy of the measurement's window as it is known by now, or why there is none."""
        if self.t0_s is None or self.t1_s is None:
            return
        power.window(self.t0_s, self.t1_s).fill(self)
        if self.idle_mw is not None:
            self.idle_method = "after the model was loaded"
        self.joule_per_token = None
        if self.energy_joule is not None and self.completion_tokens:
            self.joule_per_token = self.energy_joule / self.completion_tokens

    def line(self) -> str:
        """What the finished record says in one line."""
        text = f"{self.model_id} batch {self.batch_size} repeat {self.repeat}: "
        if self.error:
            return text + f"{self.error['type']}: {self.error['message']}"
        energy = "" if self.joule_per_token is None else f", {self.joule_per_token:.3g} J/token"
        return text + f"{self.tok_per_s:.1f} tok/s{energy}"


def new_record(
    model: PlannedModel, cell: Cell, board: dict[str, Any], kv_unified: bool, loaded: Loaded | None
) -> BatchRecord:
    """A record with all that is known beforehand."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    record = BatchRecord(
        run_key=cell.run_key,
        batch_size=cell.batch_size,
        repeat=cell.repeat,
        model_id=model.model_id,
        quantization=model.quantization,
        started_at=now[:-6] + "Z",
        kv_unified=kv_unified,
        board=board["board"],
        power_mode_name=board["power_mode_name"],
    )
    if loaded is not None:
        record.engine_version = loaded.facts.engine_version
        record.offloaded = loaded.offloaded
        record.n_ctx_seq = loaded.n_ctx
        record.load_ms = loaded.load_ms
    return record
