"""What a throughput campaign is told: the flags of its door, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebench.engine.client import ModelLoad, Sampling
from edgebench.errors import UserError
from edgebench.power.session import PowerSettings

AT_LEAST_ONE = ("repeats", "max_tokens", "n_batch", "n_ubatch", "n_threads", "limit", "n_ctx", "interval")


@dataclass(frozen=True)
class Settings:
    """Names and meanings are those of the flags. Raises UserError for a number that makes no sense."""

    models: Sequence[str]
    prompts: Sequence[str]
    out_jsonl: Path
    levels: Sequence[str] = ("L0",)
    limit: int | None = None  # the first so many tasks; None: as the largest batch needs
    batch_sizes: Sequence[int] = (1, 2, 4, 8)
    repeats: int = 3
    prompt_format: str = "chat"
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    n_gpu_layers: int = -1
    n_ctx: int | None = None  # of each sequence; None: as the prompts need
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 1
    flash_attn: str = "auto"
    kv_type: str = "f16"
    kv_unified: bool = False
    source: str = "auto"
    feed: str | None = None
    interval: int = 100  # ms between power samples
    idle_seconds: float = 10.0
    power_trace: Path | None = None
    run_timeout: float = 900.0  # s
    retry_errors: bool = False

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be at least 1")
        if self.largest_batch > self.n_batch:
            raise UserError(
                f"--n_batch {self.n_batch} is less than a batch of {self.largest_batch}; raise it"
            )
        if self.out_jsonl.suffix != ".jsonl":
            raise UserError(f"--out_jsonl {self.out_jsonl} must end in .jsonl")

    @property
    def largest_batch(self) -> int:
        """Sequences that are decoded together at most."""
        return max(self.batch_sizes)

    def model_load(self, n_ctx: int) -> ModelLoad:
        """How each model is loaded: all sizes run in one context, which must not differ within a table."""
        return ModelLoad(
            n_ctx=n_ctx,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            n_threads=self.n_threads,
            n_gpu_layers=self.n_gpu_layers,
            flash_attn=self.flash_attn,
            kv_type=self.kv_type,
            n_seq_max=self.largest_batch,
            kv_unified=self.kv_unified,
        )

    def sampling(self) -> Sampling:
        """How every answer is drawn."""
        return Sampling(self.max_tokens, self.temperature, self.seed)

    def power(self) -> PowerSettings:
        """The power that is measured beside it."""
        settings = PowerSettings(self.source, self.feed, self.interval, self.idle_seconds)
        return replace(settings, trace_path=self.power_trace)
