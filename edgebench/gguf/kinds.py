"""What kind of model a GGUF file holds, and why one cannot be asked for an answer.

Model folders hold more than language models: projectors, adapters, embeddings. Given by mistake, each gets
one plain line: what it is, and what to do. What is not recognized is left to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.gguf.header import Header, Tensor, whole
from edgebench.shell.text import printable

# general.type, or the architecture, of files that belong to a model but are none (gguf-py constants.GGUFType;
# llama.cpp tools/imatrix and tools/cvector-generator).
BELONGS_TO_A_MODEL = {
    "mmproj": "a projector for images or sound (mmproj), no language model; give the model it belongs to",
    "clip": "a projector for images or sound (mmproj), no language model; give the model it belongs to",
    "adapter": "a LoRA adapter, no whole model; merge it into its base with llama-export-lora and give that",
    "imatrix": "an importance matrix, a tool for quantizing and no model; give the model itself",
    "controlvector": "a control vector, no model; give the model itself",
}
# Architectures that read a text at once and write none (llama.cpp src/llama-arch.cpp).
ENCODERS = {
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
}  # fmt: skip
# Language models that fill a whole answer in at once, in rounds.
DIFFUSION = {"dream", "llada", "llada-moe", "rnd1"}
RANKING = 4  # llama.h, enum llama_pooling_type: 0 is none, 4 a score for a pair of texts
OTHER_KINDS = {
    "wavtokenizer-dec": "a voice decoder",
    "whisper": "a speech recognizer",
    "eagle3": "the draft head of another model",
}
# They write text, but read the question in an encoder first: prompt and answer do not stand in one cache.
ENCODER_DECODERS = {"t5"}


def why_it_cannot_answer(header: Header) -> str | None:
    """What a file is, if it is no model that writes text, and what to do; None for one that may.

    The architecture alone does not tell: embedding models of decoder architectures say how they pool.
    """
    metadata = header.metadata
    arch = architecture(metadata)
    if arch is None:
        return "no language model: it states no architecture; give a model that writes text"
    kind = "adapter" if "adapter.type" in metadata else metadata.get("general.type")
    belongs = BELONGS_TO_A_MODEL.get(str(kind)) or BELONGS_TO_A_MODEL.get(arch)
    if belongs is not None:
        return belongs
    other = other_model(arch, header)
    if other is not None:
        return f"{other}; give a model that writes text"
    if not metadata.get("tokenizer.ggml.tokens.length"):
        shown = printable(arch)[:60]
        return f"no language model ({shown}): it holds no vocabulary; give a model that writes text"
    if not header.tensors:
        return "a vocabulary without weights; give the whole model"
    return None


def other_model(arch: str, header: Header) -> str | None:
    """What a whole model does instead of writing text word by word; None for one that may."""
    metadata = header.metadata
    shown = printable(arch)[:60]
    if arch in OTHER_KINDS:
        return f"{OTHER_KINDS[arch]} ({shown}), no language model"
    if arch in ENCODER_DECODERS:
        return f"an encoder-decoder model ({shown}), whose prompt is not read as a decoder's is"
    if arch in DIFFUSION or "diffusion.shift_logits" in metadata:
        return f"a diffusion language model ({shown}), which does not write token by token"
    if whole(metadata, f"{arch}.pooling_type") == RANKING or has_classifier(arch, header.tensors, metadata):
        return f"a reranker or classifier ({shown}), which writes no text"
    if is_embedding(arch, metadata):
        return f"an embedding model ({shown}), which writes no text"
    return None


def architecture(metadata: Mapping[str, Any]) -> str | None:
    """The architecture's name; None where a file states none."""
    value = metadata.get("general.architecture")
    return value if isinstance(value, str) and value else None


def is_embedding(arch: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a model sums a text up in one vector: by name, by its pooling, or as it sees what follows."""
    pooling = whole(metadata, f"{arch}.pooling_type")
    return arch in ENCODERS or bool(pooling) or metadata.get(f"{arch}.attention.causal") is False


def has_classifier(arch: str, tensors: Sequence[Tensor], metadata: Mapping[str, Any]) -> bool:
    """Whether a model ends in labels instead of words."""
    names = {tensor.name for tensor in tensors}
    return f"{arch}.classifier.output_labels.length" in metadata or "cls.output.weight" in names
