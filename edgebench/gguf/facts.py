"""What a model file asks of a board: bytes to load, to cache, to read per token.

  file_byte            size of the file, of all parts of a split model [byte]; in memory the weights are as
                       large
  n_params             parameters, from the tensor shapes
  read_byte_per_token  weight bytes read to produce one token [byte]: all tensors, without the input embedding
                       (a look-up of one row) unless it is the output matrix too; of a mixture of experts only
                       the share in use
  kv_byte_per_token    key/value cache per token of context, f16 [byte]
  kv_byte              the cache at n_ctx tokens, rounded up to 256 tokens as the engine does [byte]
  compute_byte         buffer for a batch of 512 tokens: the larger of logits and attention scores, without
                       flash attention [byte]
  need_byte            file_byte + kv_byte + compute_byte

What the header does not settle is None, with the reason in `why_unknown`; a file that is no usable model has
the reason and the cure in `error`. How a header is read stands in header.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgebench.gguf.header import GgufError, Header, Tensor, read_header, whole
from edgebench.gguf.kinds import architecture, why_it_cannot_answer
from edgebench.records.jsonl import reason_of
from edgebench.shell.text import printable

DEFAULT_CONTEXT = 4096  # tokens; for the sizes that depend on a context while none is chosen
KV_ELEMENT_BYTE = 2  # the engine's cache is f16 unless told otherwise
CONTEXT_STEP = 256  # llama.cpp pads n_ctx up to a multiple of this
UBATCH_TOKENS, FLOAT_BYTE = 512, 4  # the engine's default physical batch; logits and scores are f32
MEMORY_MARGIN = 0.85  # the CUDA context and the rest of the system need the remainder
# Tables of which one row per token is looked up: their other rows are not read.
LOOKUP_TENSORS = (
    "token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "per_layer_token_embd.weight",
)


@dataclass(frozen=True)
class ModelFacts:
    """One model; units in the module docstring. `error` and `why_unknown` say why something is None."""

    model: str
    error: str | None
    architecture: str | None = None
    name: str | None = None
    file_byte: int | None = None
    n_params: int | None = None
    n_layers: int | None = None
    n_vocab: int | None = None
    n_ctx_train: int | None = None
    has_chat_template: bool | None = None
    read_byte_per_token: int | None = None
    n_ctx: int | None = None
    kv_byte_per_token: int | None = None
    kv_byte: int | None = None
    compute_byte: int | None = None
    need_byte: int | None = None
    why_unknown: str | None = None
    files: Sequence[Path] = ()  # of a split model all parts; no part of the record

    def as_record(self) -> dict[str, Any]:
        """The facts as records and JSON hold them."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "files"}


def read_facts(path: Path, n_ctx: int = DEFAULT_CONTEXT) -> ModelFacts:
    """Facts of one model at a context of n_ctx tokens; of a split one `path` is the first part.

    Never raises: what is wrong stands in `error`.
    """
    try:
        return facts_of(path, read_header(path), n_ctx)
    except GgufError as problem:
        return ModelFacts(str(path), str(problem))
    except FileNotFoundError as problem:
        return ModelFacts(str(path), f"{reason_of(problem)}; check the path")
    except (OSError, ValueError) as problem:  # ValueError: a name that no file can have
        return ModelFacts(str(path), f"{reason_of(problem)}; make the file readable")


def facts_of(path: Path, header: Header, n_ctx: int) -> ModelFacts:
    """Facts of a header that has been read."""
    meta = header.metadata
    arch = architecture(meta)
    problem = why_it_cannot_answer(header)
    if problem is not None:
        return ModelFacts(str(path), problem, arch, file_byte=header.file_byte)
    kv_token, why = kv_byte_per_token(meta)
    vocab = vocabulary(header)
    kv_byte = None if kv_token is None else kv_token * padded_context(n_ctx)
    compute = compute_byte(meta, vocab, n_ctx)
    if why is None and compute is None:
        why = f"{arch} states no vocabulary or heads"
    return ModelFacts(
        model=str(path),
        error=None,
        architecture=arch,
        name=str(meta["general.name"]) if "general.name" in meta else None,
        file_byte=header.file_byte,
        n_params=sum(tensor.elements for tensor in header.tensors) or None,
        n_layers=whole(meta, f"{arch}.block_count"),
        n_vocab=vocab,
        n_ctx_train=whole(meta, f"{arch}.context_length"),
        has_chat_template="tokenizer.chat_template" in meta,
        read_byte_per_token=read_byte_per_token(header),
        n_ctx=n_ctx,
        kv_byte_per_token=kv_token,
        kv_byte=kv_byte,
        compute_byte=compute,
        need_byte=None if kv_byte is None or compute is None else header.file_byte + kv_byte + compute,
        why_unknown=why,
        files=header.files,
    )


def padded_context(n_ctx: int) -> int:
    """Tokens the engine keeps room for when it is asked for n_ctx.

    >>> padded_context(1000), padded_context(1024)
    (1024, 1024)
    """
    return -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP


def fits(facts: ModelFacts, free_byte: int | None, margin: float = 1.0) -> bool | None:
    """Whether a model needs no more than the share `margin` of the free memory; None where that is unknown.

    >>> fits(ModelFacts("a.gguf", None, need_byte=90), 100), fits(ModelFacts("a.gguf", None), 100)
    (True, None)
    >>> fits(ModelFacts("a.gguf", None, need_byte=90), 100, MEMORY_MARGIN)
    False
    """
    if facts.need_byte is None or free_byte is None:
        return None
    return facts.need_byte <= free_byte * margin


def read_byte_per_token(header: Header) -> int | None:
    """Weight bytes one decode step reads [byte]: the numerator of the memory-bandwidth bound (a roofline).

    The input embedding is a look-up of one row, unless the model has no output matrix of its own and
    multiplies by it again (gemma, small Qwens). Of a mixture of experts only the share
    expert_used_count / expert_count is read.
    """
    if not header.tensors:
        return None
    arch = header.metadata.get("general.architecture", "")
    experts = whole(header.metadata, f"{arch}.expert_count")
    used = whole(header.metadata, f"{arch}.expert_used_count")
    share = used / experts if experts and used else 1.0
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    total = sum(
        tensor.size_byte * (share if "_exps." in tensor.name else 1.0)
        for tensor in header.tensors
        if is_read(tensor, tied)
    )
    return round(total)


def is_read(tensor: Tensor, tied: bool) -> bool:
    """Whether each token reads a tensor; `tied`: the input embedding is the output matrix, too."""
    return tensor.name not in LOOKUP_TENSORS or (tied and tensor.name == "token_embd.weight")


def per_layer(value: Any, layers: int) -> list[int] | None:
    """One number per layer from a scalar or a per-layer array (gemma 3n, OpenELM), else None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] * layers
    if isinstance(value, list) and len(value) == layers and all(isinstance(item, int) for item in value):
        return value
    return None


def kv_byte_per_token(metadata: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Cache bytes per token of context, f16, and why when it cannot be told.

    Sum over layers of kv_heads * (key_length + value_length) * 2 bytes. Sliding-window layers count in full:
    the engine keeps them so (swa_full) unless told otherwise.
    """
    arch = metadata.get("general.architecture", "")
    layers = whole(metadata, f"{arch}.block_count")
    if layers is None or not 0 < layers < 10_000:
        return None, f"{arch or 'the file'} states no usable block_count"
    if f"{arch}.attention.kv_lora_rank" in metadata or any(
        key.startswith(f"{arch}.ssm.") for key in metadata
    ):
        return None, f"{arch} keeps a compressed or recurrent state, which is not counted here"
    heads = per_layer(metadata.get(f"{arch}.attention.head_count"), layers)
    kv_heads = per_layer(metadata.get(f"{arch}.attention.head_count_kv"), layers) or heads
    embedding = whole(metadata, f"{arch}.embedding_length")
    if not heads or not kv_heads or embedding is None:
        return None, f"{arch} states no head_count or embedding_length"
    head_dim = embedding // max(1, max(heads))
    key = whole(metadata, f"{arch}.attention.key_length") or head_dim
    value = whole(metadata, f"{arch}.attention.value_length") or head_dim
    return sum(kv_heads) * (key + value) * KV_ELEMENT_BYTE, None


def vocabulary(header: Header) -> int | None:
    """Tokens of the vocabulary."""
    arch = header.metadata.get("general.architecture", "")
    listed = whole(header.metadata, "tokenizer.ggml.tokens.length")
    return whole(header.metadata, f"{arch}.vocab_size") if listed is None else listed


def compute_byte(metadata: Mapping[str, Any], vocab: int | None, n_ctx: int) -> int | None:
    """Buffer the engine's graph needs for one batch [byte]; it re-uses memory, so its largest stage counts.

    That is the logits (ubatch * vocabulary) or, without flash attention, the scores of one layer and their
    masks (ubatch * n_ctx * (heads + masks)), in f32; a sliding window has a mask of its own. For tiny models
    of five architectures the engine's own log was within 3 MiB of it.
    """
    arch = metadata.get("general.architecture", "")
    layers = whole(metadata, f"{arch}.block_count") or 0
    heads = per_layer(metadata.get(f"{arch}.attention.head_count"), min(layers, 10_000))
    if vocab is None or not heads:
        return None
    masks = 2 if whole(metadata, f"{arch}.attention.sliding_window") else 1
    return UBATCH_TOKENS * FLOAT_BYTE * max(vocab, n_ctx * (max(heads) + masks))


# --- For people ---


def format_table(facts: Sequence[ModelFacts]) -> str:
    """The facts as a table of at most 80 columns, but for errors; units in the head."""
    lines = [f"{'model':28} {'params':>8} {'file':>6} {'KV':>6} {'graph':>6} {'need':>6} {'read/token':>11}"]
    lines.append(f"{'':28} {'10^6':>8} {'GiB':>6} {'GiB':>6} {'GiB':>6} {'GiB':>6} {'10^6 byte':>11}")
    for fact in facts:
        name = printable(Path(fact.model).name.removesuffix(".gguf"))
        name = name if len(name) <= 28 else name[:25] + "..."
        if fact.error:
            lines.append(f"{name:28} {fact.error}")
            continue
        millions = [scaled(value, 1e6, 1) for value in (fact.n_params, fact.read_byte_per_token)]
        sizes = (fact.file_byte, fact.kv_byte, fact.compute_byte, fact.need_byte)
        gibibytes = " ".join(f"{scaled(size, 2**30, 2):>6}" for size in sizes)
        lines.append(f"{name:28} {millions[0]:>8} {gibibytes} {millions[1]:>11}")
        if fact.why_unknown:
            lines.append(f"  unknown: {fact.why_unknown}")
    return "\n".join(lines)


def scaled(value: int | None, unit: float, places: int) -> str:
    """A number in a larger unit; "?" for one that is not known."""
    return "?" if value is None else f"{value / unit:.{places}f}"
