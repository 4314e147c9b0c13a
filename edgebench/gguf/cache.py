"""Which types of key/value cache a model can take: known from its header, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.gguf.facts import per_layer
from edgebench.gguf.header import GgufError, read_header, whole

# Values in a block of each quantized type (ggml-common.h); the others take any size.
BLOCK_VALUES = {"q8_0": 32, "q4_0": 32, "q4_1": 32, "q5_0": 32, "q5_1": 32}


def head_sizes(metadata: Mapping[str, Any]) -> dict[str, int]:
    """{"K": …, "V": …}: values of a key and of a value per head; without what the header does not tell."""
    arch = metadata.get("general.architecture", "")
    layers = whole(metadata, f"{arch}.block_count") or 0
    heads = per_layer(metadata.get(f"{arch}.attention.head_count"), min(layers, 10_000))
    width = whole(metadata, f"{arch}.embedding_length")
    usual = width // max(heads) if width and heads and max(heads) else None
    sizes = {
        "K": whole(metadata, f"{arch}.attention.key_length") or usual,
        "V": whole(metadata, f"{arch}.attention.value_length") or usual,
    }
    return {name: size for name, size in sizes.items() if size}


def why_it_cannot_take(metadata: Mapping[str, Any], kv_type: str, flash_attn: str) -> str | None:
    """Why the engine would refuse this cache, and the cure; None where it takes it, or the header is silent.

    As llama.cpp src/llama-context.cpp (llama_init_from_model): a quantized cache needs heads of whole blocks,
    and flash attention for its values.

    >>> why_it_cannot_take({}, "f16", "off") is None
    True
    """
    block = BLOCK_VALUES.get(kv_type)
    if block is None:
        return None
    for name, size in head_sizes(metadata).items():
        if size % block:
            return (
                f"it cannot take a {kv_type} cache: its {name} heads have {size} values, no multiple of"
                f" {block}; use --kv_type f16"
            )
    if flash_attn == "off":
        return f"a {kv_type} cache needs flash attention; use --flash_attn auto, or --kv_type f16"
    return None


def kv_type_problem(path: Path, kv_type: str, flash_attn: str) -> str | None:
    """The same for a model file; None also for one that cannot be read, which has a fault of its own."""
    try:
        return why_it_cannot_take(read_header(path).metadata, kv_type, flash_attn)
    except (GgufError, OSError, ValueError):
        return None
