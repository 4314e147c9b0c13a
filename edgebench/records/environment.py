"""The environment record: one line of OUT.env.jsonl per board, power mode, engine, models and settings.

Runs that differ in one of CONDITIONS must not stand in one mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

# Of the board; a difference makes another env_id.
STABLE_BOARD = (
    "board",
    "l4t",
    "jetpack",
    "power_mode_name",
    "clocks_locked",
    "kernel",
    "cpu_model",
    "memory_total_byte",
)
CONDITIONS = ("power_scope", "simulated_power", "power_mode", "quantization", "model_sha256")  # one per mean

# What the engine chooses by itself when it loads a model -> its name for people. A difference makes another
# env_id and must not be mixed: flash attention alone was seen to change one greedy answer in seven.
ENGINE_CHOICES = {
    "flash_attn": "flash attention",
    "n_ctx": "context",
    "n_batch": "batch",
    "n_ubatch": "micro-batch",
    "n_threads": "threads",
    "n_threads_batch": "threads of the prefill",
    "kv_type_k": "key cache",
    "kv_type_v": "value cache",
    "offloaded": "layers on the GPU",
    "warnings": "engine warnings",
}


class EnvRecord(TypedDict, total=False):
    """Where and how runs were made; RunRecord.env_id names the line."""

    schema_version: int  # 1
    env_id: str  # 12 hex digits of what defines it
    created_at: str | None  # a label
    board: dict[str, Any]  # facts and checks of the machine
    engine: dict[str, Any]  # version, gpu_offload, system_info
    models: dict[str, dict[str, Any]]  # by model_id
    settings: dict[str, Any]  # the flags, without the command
    # What the engine chose by itself (ENGINE_CHOICES), by model_id; null where the model could not be loaded.
    resolved: dict[str, dict[str, Any] | None]
    power: dict[str, Any]  # source, rail, scope, period; or {"missing": reason}
    command_line: list[str]  # as it was typed


def environment_path(runs: Path) -> Path:
    """The file of environments beside a file of runs."""
    return runs.with_suffix(".env.jsonl")


def model_sha256(env: Mapping[str, Any], model_id: str) -> str | None:
    """SHA-256 of a model's file, from an environment record whose `models` is a list or keyed by model."""
    models = env.get("models")
    if isinstance(models, dict):
        named: list[tuple[Any, Any]] = list(models.items())
    else:
        named = list(enumerate(models if isinstance(models, list) else []))
    for name, facts in named:
        if isinstance(facts, dict) and model_id in (name, facts.get("model_id")):
            found = facts.get("sha256") or facts.get("model_sha256")
            return str(found) if found else None
    return None
