#!/usr/bin/env python3
"""What a model file asks of a board: bytes to load, to cache, to read per token.

Reads the header of each GGUF file and nothing behind it, with the standard
library alone: a fresh board can be asked before anything is installed, and a
vocabulary of 200,000 words costs a fraction of a second.

  file_byte            size of the file [byte]; in memory the weights are as large
  n_params             parameters, from the tensor shapes
  read_byte_per_token  weight bytes read to produce one token [byte]: all tensors,
                       without the input embedding (a look-up of one row) unless
                       it is the output matrix too; of a mixture of experts only
                       the share in use
  kv_byte_per_token    key/value cache per token of context, f16 [byte]
  kv_byte              the cache at --n_ctx, rounded up to 256 tokens as the
                       engine does [byte]
  compute_byte         buffer for a batch of 512 tokens: the larger of logits and
                       attention scores, without flash attention [byte]
  need_byte            file_byte + kv_byte + compute_byte

Prints a table, or with --json one JSON object per model and line. What the
header does not settle is null, with the reason in `why_unknown`; a file that is
no complete model has the reason in `error`, and the exit code is 1.

Example:
  python companions/gguf_facts.py models/gemma-2-2b-it-Q6_K.gguf --n_ctx 4096
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# GGUF value types (ggml-org/ggml docs/gguf.md): struct codes of the scalars, then string and array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# A damaged count must not send the reader through gigabytes; real files stay far below these.
MAX_PAIRS, MAX_TENSORS, MAX_ELEMENTS, MAX_DIMS = 65_536, 1_000_000, 20_000_000, 8
MAX_STRING_BYTE = 2**26
KEPT_ELEMENTS = 4096  # per-layer arrays are this short; a vocabulary is walked over, not kept
KV_ELEMENT_BYTE = 2  # the engine's cache is f16 unless told otherwise
CONTEXT_STEP = 256  # llama.cpp pads n_ctx up to a multiple of this
UBATCH_TOKENS, FLOAT_BYTE = 512, 4  # the engine's default physical batch; logits and scores are f32
# ggml type -> elements and bytes of one block, from ggml.h: enough types to prove that a file is complete.
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
}
BLOCKS |= {11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136)}
BLOCKS |= {30: (1, 2), 39: (32, 17)}
# Tables of which one row per token is looked up: their other rows are not read.
LOOKUP_TENSORS = (
    "token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "per_layer_token_embd.weight",
)


class GgufError(Exception):
    """The file is not a complete GGUF model."""


@dataclass(frozen=True)
class Tensor:
    name: str
    elements: int
    kind: int  # ggml type of the values
    offset: int  # from the start of the data part [byte]


@dataclass(frozen=True)
class Header:
    """Metadata (long arrays as their length only, under "<key>.length") and tensors of one file."""

    metadata: Mapping[str, Any]
    tensors: Sequence[Tensor]
    data_byte: int  # size of the data part [byte]


@dataclass(frozen=True)
class Facts:
    """One model; units in the module docstring. `error` and `why_unknown` say why something is null."""

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


class Cursor:
    """Walks a memory-mapped file; reading past the end is a GgufError, not a crash."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + code, self.data, self.at)
        except struct.error:
            raise GgufError(f"cut off inside its header, after {self.at} bytes; download it again") from None
        self.at += struct.calcsize("<" + code)
        return value

    def skip(self, count: int) -> int:
        """Step over count bytes; return where they started."""
        start = self.at
        if count > len(self.data) - start:
            raise GgufError(f"cut off inside its header, after {start} bytes; download it again")
        self.at += count
        return start

    def string(self) -> str:
        start = self.skip(self.count(MAX_STRING_BYTE, "bytes in one string"))
        return self.data[start : self.at].decode("utf-8", "replace")

    def count(self, limit: int, what: str) -> int:
        value = int(self.number("Q"))
        if value > limit:
            raise GgufError(f"damaged: it claims {value} {what}")
        return value


def read_array(cursor: Cursor) -> tuple[int, list[Any] | None]:
    """Length and elements of an array; None for one that is nested or too long to be wanted."""
    kind, length = cursor.number("I"), cursor.count(MAX_ELEMENTS, "array elements")
    if kind in SCALARS:
        start = cursor.skip(length * struct.calcsize("<" + SCALARS[kind]))
        if length > KEPT_ELEMENTS:
            return length, None
        return length, list(struct.unpack_from(f"<{length}{SCALARS[kind]}", cursor.data, start))
    if kind != STRING:
        raise GgufError(f"damaged: it holds an array of the unknown type {kind}")
    # A vocabulary: only the lengths are read, with the names bound outside the loop of 10^5 rounds.
    data, at, end, unpack = cursor.data, cursor.at, len(cursor.data), struct.Struct("<Q").unpack_from
    try:
        for _ in range(length):
            at += 8 + unpack(data, at)[0]
    except (struct.error, OverflowError):
        at = end + 1
    cursor.skip(at - cursor.at)
    return length, None


def read_metadata(cursor: Cursor, pairs: int) -> dict[str, Any]:
    """The key/value pairs of the header. Raises GgufError for a value type this format does not have."""
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key, kind = cursor.string(), cursor.number("I")
        if kind in SCALARS:
            metadata[key] = cursor.number(SCALARS[kind])
        elif kind == STRING:
            metadata[key] = cursor.string()
        elif kind == ARRAY:
            metadata[key + ".length"], elements = read_array(cursor)
            if elements is not None:
                metadata[key] = elements
        else:
            raise GgufError(f"damaged: its key {key[:60]!r} has the unknown type {kind}")
    return metadata


def read_tensor(cursor: Cursor) -> Tensor:
    name, dims = cursor.string(), cursor.number("I")
    if dims > MAX_DIMS:
        raise GgufError(f"damaged: its tensor {name[:60]!r} has {dims} dimensions")
    elements = math.prod(cursor.number("Q") for _ in range(dims))
    return Tensor(name, elements, cursor.number("I"), cursor.number("Q"))


def least_byte(tensor: Tensor) -> int:
    """Bytes a tensor takes at least: exact for the types in BLOCKS, one bit per element for others."""
    elements, size = BLOCKS.get(tensor.kind, (8, 1))
    return tensor.elements // elements * size


def check_magic(start: bytes) -> None:
    """Raise GgufError with the most likely cause when a file does not begin like a readable GGUF."""
    if start[:4] != b"GGUF":
        if start.startswith(b"version https://git-lfs"):
            raise GgufError("a Git LFS pointer, not the model: run `git lfs pull`")
        raise GgufError("not a GGUF file: it does not start with the bytes GGUF")
    version = int.from_bytes(start[4:8], "little")
    if version & 0xFFFF == 0:
        raise GgufError("a big-endian GGUF, which the engine does not load here")
    if version not in (2, 3):
        raise GgufError(f"GGUF version {version}; only 2 and 3 can be read")


def read_header(path: Path) -> Header:
    """Header of a GGUF file. Raises GgufError for a damaged one, OSError for one that cannot be opened."""
    size = path.stat().st_size
    if size < 24:
        raise GgufError(f"not a GGUF file: it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_magic(data[:32])
        cursor = Cursor(data)
        cursor.skip(8)
        tensor_count, pairs = cursor.count(MAX_TENSORS, "tensors"), cursor.count(MAX_PAIRS, "metadata pairs")
        metadata = read_metadata(cursor, pairs)
        tensors = sorted((read_tensor(cursor) for _ in range(tensor_count)), key=lambda tensor: tensor.offset)
        alignment = whole(metadata, "general.alignment") or 32
        data_start = -(-cursor.at // alignment) * alignment
    data_byte = size - data_start
    if tensors and (missing := tensors[-1].offset + least_byte(tensors[-1]) - data_byte) > 0:
        raise GgufError(f"cut off: {missing} bytes are missing at its end; download it again")
    return Header(metadata, tensors, data_byte)


def tensor_byte(header: Header) -> dict[str, int]:
    """Bytes of each tensor, padding included: the distance to the next tensor's offset."""
    ends = [tensor.offset for tensor in header.tensors[1:]] + [header.data_byte]
    return {tensor.name: end - tensor.offset for tensor, end in zip(header.tensors, ends, strict=True)}


def read_byte_per_token(header: Header) -> int | None:
    """Weight bytes one decode step reads [byte]: the numerator of the memory-bandwidth bound (a roofline).

    The input embedding is a look-up of one row, unless the model has no output matrix of its own and
    multiplies by it again (gemma, small Qwens). Of a mixture of experts only the share
    expert_used_count / expert_count is read.
    """
    sizes = tensor_byte(header)
    if not sizes:
        return None
    arch = header.metadata.get("general.architecture", "")
    experts = whole(header.metadata, f"{arch}.expert_count")
    used = whole(header.metadata, f"{arch}.expert_used_count")
    share = used / experts if experts and used else 1.0
    tied = "output.weight" not in sizes
    total = 0.0
    for name, size in sizes.items():
        if name in LOOKUP_TENSORS and not (tied and name == "token_embd.weight"):
            continue
        total += size * (share if "_exps." in name else 1.0)
    return round(total)


def whole(metadata: Mapping[str, Any], key: str) -> int | None:
    """A whole number of the metadata; a damaged file may hold anything under any key."""
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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


def model_facts(path: Path, n_ctx: int) -> Facts:
    """Facts of one file at a context of n_ctx tokens. Never raises: what is wrong stands in `error`."""
    try:
        header, size = read_header(path), path.stat().st_size
    except GgufError as problem:
        return Facts(str(path), str(problem))
    except OSError as problem:
        return Facts(str(path), problem.strerror or str(problem))
    meta = header.metadata
    arch = str(meta.get("general.architecture", "")) or None
    if arch is None:
        return Facts(str(path), "no language model: it states no architecture", file_byte=size)
    if (parts := whole(meta, "split.count") or 0) > 1:
        message = f"one of {parts} parts: join them with llama-gguf-split --merge"
        return Facts(str(path), message, arch, file_byte=size)
    kv_token, why = kv_byte_per_token(meta)
    vocab = vocabulary(header)
    kv = None if kv_token is None else kv_token * -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP
    compute = compute_byte(meta, vocab, n_ctx)
    return Facts(
        model=str(path),
        error=None,
        architecture=arch,
        name=str(meta["general.name"]) if "general.name" in meta else None,
        file_byte=size,
        n_params=sum(tensor.elements for tensor in header.tensors) or None,
        n_layers=whole(meta, f"{arch}.block_count"),
        n_vocab=vocab,
        n_ctx_train=whole(meta, f"{arch}.context_length"),
        has_chat_template="tokenizer.chat_template" in meta,
        read_byte_per_token=read_byte_per_token(header),
        n_ctx=n_ctx,
        kv_byte_per_token=kv_token,
        kv_byte=kv,
        compute_byte=compute,
        need_byte=None if kv is None or compute is None else size + kv + compute,
        why_unknown=why or (None if compute is not None else f"{arch} states no vocabulary or heads"),
    )


def format_table(facts: Sequence[Facts]) -> str:
    """The facts as a table of at most 80 columns; units in the head."""

    def gib(value: int | None) -> str:
        return "?" if value is None else f"{value / 2**30:.2f}"

    lines = [f"{'model':28} {'params':>8} {'file':>6} {'KV':>6} {'graph':>6} {'need':>6} {'read/token':>11}"]
    lines.append(f"{'':28} {'10^6':>8} {'GiB':>6} {'GiB':>6} {'GiB':>6} {'GiB':>6} {'10^6 byte':>11}")
    for fact in facts:
        name = re.sub(r"\.gguf$", "", Path(fact.model).name)
        name = name if len(name) <= 28 else name[:25] + "..."
        if fact.error:
            lines.append(f"{name:28} {fact.error}")
            continue
        params = "?" if fact.n_params is None else f"{fact.n_params / 1e6:.1f}"
        read = "?" if fact.read_byte_per_token is None else f"{fact.read_byte_per_token / 1e6:.1f}"
        sizes = [gib(fact.file_byte), gib(fact.kv_byte), gib(fact.compute_byte), gib(fact.need_byte)]
        lines.append(f"{name:28} {params:>8} " + " ".join(f"{size:>6}" for size in sizes) + f" {read:>11}")
        if fact.why_unknown:
            lines.append(f"  unknown: {fact.why_unknown}")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="GGUF", help="model files")
    parser.add_argument(
        "--n_ctx", type=int, default=4096, metavar="N", help="context in tokens (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per model and line")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.n_ctx < 1:
        parser.error("--n_ctx must be at least 1")
    facts = [model_facts(path, args.n_ctx) for path in args.models]
    if args.json:
        for fact in facts:
            print(json.dumps(asdict(fact)))
    else:
        print(format_table(facts))
    return 1 if any(fact.error for fact in facts) else 0


if __name__ == "__main__":
    sys.exit(main())
