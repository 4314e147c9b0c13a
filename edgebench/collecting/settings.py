"""What the user asked for, typed and checked: the flags of the collector as one value.

Owns the meaning of each flag and its limits; the flags' words and help texts are the door's. Names are those
of the flags, because they stand under these names in the environment record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.power.session import PowerSettings

# Each of these counts something, so the least that makes sense is one.
COUNTS = (
    "limit",
    "repeats",
    "max_tokens",
    "n_ctx",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "interval",
    "idle_every",
    "anchor_every",
)
MEASURES = ("temperature", "idle_seconds", "run_timeout")  # finite, and not below zero
LOAD_SETTINGS = ("n_gpu_layers", "n_batch", "n_ubatch", "n_threads", "flash_attn", "kv_type")
# What could change a run's result or its speed, and so belongs to its key.
KEY_SETTINGS = ("prompt_format", "thinking", "temperature", "max_tokens", "seed", "n_ctx", *LOAD_SETTINGS)


@dataclass(frozen=True)
class CoolDown:
    """What is waited for before each run: so many seconds, or a temperature of the hottest zone."""

    seconds: float = 0.0
    to_c: float | None = None

    @classmethod
    def parse(cls, wanted: str) -> CoolDown:
        """Read `--cooldown`; UserError with the flag's name for what is no such pause.

        >>> CoolDown.parse("2.5"), CoolDown.parse("temp:50")
        (CoolDown(seconds=2.5, to_c=None), CoolDown(seconds=0.0, to_c=50.0))
        """
        is_temperature = wanted.startswith("temp:")
        try:
            value = float(wanted.removeprefix("temp:"))
        except ValueError:
            raise UserError(
                f"--cooldown {wanted} must be seconds, or temp: and degrees, as in temp:50"
            ) from None
        check_measure("cooldown", value, wanted)
        return cls(to_c=value) if is_temperature else cls(seconds=value)


@dataclass(frozen=True)
class Settings:
    """One start of the collector. Lengths in tokens, intervals in ms, pauses and timeouts in seconds."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    out_jsonl: Path
    levels: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    limit: int | None = None
    repeats: int = 1
    turns: int = 1
    questions: str = ""
    order: str = "balanced"
    prompt_format: str = "chat"
    system: str | None = None
    thinking: str = "off"
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    n_gpu_layers: int = -1
    n_ctx: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 1
    flash_attn: str = "auto"
    kv_type: str = "f16"
    allow_cpu: bool = False
    source: str = "auto"
    feed: str | None = None
    interval: int = 100
    idle_seconds: float = 10.0
    idle_every: int = 50
    phase_energy: str = "auto"
    power_trace: Path | None = None
    cooldown: str = "0"
    anchor_every: int | None = None
    run_timeout: float = 900.0
    retry_errors: bool = False
    fresh: bool = False
    allow_mixed: bool = False
    dry_run: bool = False

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> Settings:
        """The settings of a command line (vars() of its parser's answer); UserError names a flag to mend."""
        values: dict[str, Any] = {}
        for name, value in flags.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """UserError for a number that makes no sense, by the name of its flag."""
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be at least 1")
        CoolDown.parse(self.cooldown)
        for name in MEASURES:
            check_measure(name, getattr(self, name), getattr(self, name))
        if not self.out_jsonl.name.endswith(".jsonl"):
            raise UserError(f"--out_jsonl {self.out_jsonl} must end in .jsonl")

    @property
    def power(self) -> PowerSettings:
        """The part that the power session needs."""
        return PowerSettings(
            source=self.source,
            feed=self.feed,
            interval_ms=self.interval,
            idle_seconds=self.idle_seconds,
            trace_path=self.power_trace,
        )

    def as_record(self) -> dict[str, Any]:
        """As they stand in the environment record: every flag under its name, paths as text."""
        return {name: plain(value) for name, value in dataclasses.asdict(self).items()}

    def key_conditions(self) -> dict[str, Any]:
        """Those that belong to the key of a run."""
        return {name: getattr(self, name) for name in KEY_SETTINGS}


def check_measure(name: str, value: float, shown: object) -> None:
    """UserError unless the value of a flag is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise UserError(f"--{name} {shown} must be a number of at least 0")


def plain(value: Any) -> Any:
    """A setting as JSON knows it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
