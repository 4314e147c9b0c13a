"""What a sweep and its cells are told: the flags of the door as typed values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.session import PowerSettings

SWEPT = ("requests", "max_tokens", "temperature", "draft_tokens", "threshold")  # flags with several values


@dataclass(frozen=True)
class CellSettings:
    """Everything that one cell is decoded with."""

    model: str
    prompts: tuple[str, ...]
    levels: tuple[str, ...] = ("L0",)
    prompt_format: str = "chat"  # or raw
    draft: str | None = None  # GGUF of the drafting model
    drafter: str = "none"  # lookup, model; none is plain decoding
    adaptive: str = "off"  # off, published, cost
    draft_tokens: int = 10  # the longest draft
    threshold: float = 0.0  # a draft ends at the first token less probable than this
    temperature: float = 0.0
    requests: int = 8  # of a batch
    batches: int = 2
    warmup: int = 1  # requests before the clock
    max_tokens: int = 64
    compare: str = "first"  # which batches are decoded plainly, too: first, every, none
    cross_check: bool = False  # also ask the engine's own prompt lookup
    seed: int = 42
    n_ctx: int = 0  # 0: what prompt and answer need
    n_batch: int = 512
    n_gpu_layers: int = -1
    n_threads: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1))
    flash_attn: str = "off"

    @property
    def is_plain(self) -> bool:
        """Plain decoding: the same loop, no draft."""
        return self.drafter == "none"

    @property
    def prompts_key(self) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """What the requests' prompts are read from, and how."""
        return self.prompts, self.levels, self.prompt_format

    def shortened(self, requests: int, max_tokens: int, compare: str = "none") -> CellSettings:
        """One short batch of the same, for a pilot or a profiler."""
        return replace(self, requests=requests, max_tokens=max_tokens, batches=1, warmup=0, compare=compare)


@dataclass(frozen=True)
class GridSettings:
    """What the cells are planned from."""

    grids: tuple[str, ...]  # names of built-in grids, or paths of grid files
    model: str
    prompts: str
    draft: str | None = None
    drafter: str | None = None  # None: model with a draft, else lookup
    prompts_for: Mapping[str, str] = field(default_factory=dict)  # scenario -> file
    levels: str = "L0"
    given: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # of SWEPT: in place of the grid's own
    batches: int = 3
    warmup: int = 1
    seed: int = 42
    compare: str = "first"
    cross_check: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)  # CellSettings of the engine that were given
    measure: Mapping[str, Any] = field(default_factory=dict)  # how power is measured
    versions: Mapping[str, Any] = field(default_factory=dict)  # of what decodes


@dataclass(frozen=True)
class Profiling:
    """Memory counters by Nsight Compute."""

    cells: str = "document"  # none; document: those that the original experiment profiled; all
    program: str = "ncu"
    requests: int = 1
    max_tokens: int = 16
    timeout_s: float = 600.0


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep runs and where its results go."""

    grid: GridSettings
    outdir: Path
    power: PowerSettings = field(default_factory=PowerSettings)
    profiling: Profiling = field(default_factory=Profiling)
    cell_timeout_s: float | None = None
    dry_run: bool = False
    pilot: bool = True
    quiet: bool = False
    keeps_master_log: bool = False  # `all` writes master_experiment.log

    def __post_init__(self) -> None:
        """UserError for a number out of its range."""
        if self.power.interval_ms < 1 or self.power.idle_seconds < 0:
            raise UserError("--interval_ms must be 1 or more, --idle_seconds 0 or more")
        if self.profiling.timeout_s <= 0:
            raise UserError("--ncu_timeout must be above 0 seconds")
        if self.profiling.requests < 1 or self.profiling.max_tokens < 2:
            raise UserError("--ncu_requests must be 1 or more, --ncu_tokens 2 or more")
        if self.cell_timeout_s is not None and self.cell_timeout_s <= 0:
            raise UserError("--cell_timeout must be above 0 seconds")
