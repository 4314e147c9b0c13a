"""Small GGUF files of kinds that go wrong: broken weights, other architectures, other metadata.

All are made of a model of make_demo_model.py, whose tokenizer they keep.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Tensors = dict[str, Any]
WIDTH, INNER, STATE, KERNEL, HEADS = 32, 64, 16, 4, 4


def read(source: Path) -> gguf.GGUFReader:
    """A file's parts, read once however often they are asked for: a file has thousands of tokens."""
    found = source.stat()
    return _read_once(source, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=32)
def _read_once(source: Path, _mtime_ns: int, _size: int) -> gguf.GGUFReader:
    return gguf.GGUFReader(source)


def write(
    path: Path,
    arch: str,
    metadata: Mapping[str, Any],
    tensors: Tensors,
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
) -> Path:
    """A GGUF of these parts. `kinds` are the types of tensors that come as the bytes of quantized blocks."""
    writer = gguf.GGUFWriter(str(path), arch)
    for key, value in metadata.items():
        if isinstance(value, gguf.ReaderField):
            kind = value.types[0]
            inner = value.types[1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value.contents(), kind, inner)
        else:
            add(writer, key, value)
    for name, data in tensors.items():
        writer.add_tensor(name, data, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One value of our own, its type by Python's."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def metadata_of(source: Path, *, tokenizer_only: bool = False) -> dict[str, Any]:
    """The metadata of a file, without what the writer writes itself."""
    fields = read(source).fields
    return {
        key: field
        for key, field in fields.items()
        if not key.startswith("GGUF.")
        and key != "general.architecture"
        and (key.startswith("tokenizer.") or not tokenizer_only)
    }


def changed(
    source: Path,
    out: Path,
    tensor: Callable[[str, Any], Any] = lambda _name, data: data,
    metadata: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
) -> Path:
    """A copy with other tensors (`tensor` is given name and data) and metadata."""
    reader = read(source)
    arch = str(reader.fields["general.architecture"].contents())
    kept = {key: value for key, value in metadata_of(source).items() if key not in drop}
    tensors = {one.name: tensor(one.name, np.array(one.data)) for one in reader.tensors}
    kinds = {one.name: one.tensor_type for one in reader.tensors if one.data.dtype == np.uint8}
    return write(out, arch, {**kept, **(metadata or {})}, tensors, kinds)


def widened(source: Path, out: Path, n_vocab: int) -> Path:
    """A copy with a vocabulary of so many tokens: those that are new are never said."""
    fields = read(source).fields
    tokens = list(fields["tokenizer.ggml.tokens"].contents())
    more = n_vocab - len(tokens)
    kinds = list(fields["tokenizer.ggml.token_type"].contents())
    metadata: dict[str, Any] = {
        "tokenizer.ggml.tokens": tokens + [f"<unused {number}>" for number in range(more)],
        "tokenizer.ggml.token_type": kinds + [int(gguf.TokenType.UNUSED)] * more,
    }
    if "tokenizer.ggml.scores" in fields:
        metadata["tokenizer.ggml.scores"] = list(fields["tokenizer.ggml.scores"].contents()) + [-1e9] * more

    def longer(name: str, data: Any) -> Any:
        if name not in ("token_embd.weight", "output.weight"):
            return data
        return np.concatenate([data, np.zeros((more, data.shape[1]), data.dtype)])

    return changed(source, out, longer, metadata)


# ---------------------------------------------------------------------------
# Broken weights


def filled(value: float, *names: str) -> Callable[[str, Any], Any]:
    """Tensors of these names hold nothing but `value`."""
    return lambda name, data: np.full_like(data, value) if name in names else data


def stuck(name: str, data: Any) -> Any:
    """Every token is embedded alike: what comes out is the same token at every place."""
    return np.repeat(data[:1], len(data), axis=0) if name == "token_embd.weight" else data


def one_bad_column(value: float) -> Callable[[str, Any], Any]:
    """One token's row of the output matrix is `value`: one logit of many."""

    def change(name: str, data: Any) -> Any:
        if name == "output.weight":
            data = data.copy()
            data[len(data) // 2] = value
        return data

    return change


# ---------------------------------------------------------------------------
# Other architectures, with seeded random weights


class Draw:
    """Seeded random matrices."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Any:
        return self.rng.normal(0, 0.3, shape).astype(np.float32)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def vocabulary(source: Path) -> int:
    return len(read(source).fields["tokenizer.ggml.tokens"].data)


def architecture(
    source: Path,
    out: Path,
    arch: str,
    settings: Mapping[str, Any],
    tensors: Tensors,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """A file of another architecture with the tokenizer of `source`."""
    metadata = metadata_of(source, tokenizer_only=True) | (more or {})
    metadata |= {f"{arch}.context_length": 8192, f"{arch}.embedding_length": WIDTH}
    metadata |= {f"{arch}.{key}": value for key, value in settings.items()}
    return write(out, arch, metadata, tensors)


def mamba(source: Path, out: Path) -> Path:
    """Recurrent: a state instead of a cache, which cannot be cut."""
    draw, rank = Draw(0), 4
    tensors = {"token_embd.weight": draw(vocabulary(source), WIDTH), "output_norm.weight": ones(WIDTH)}
    for layer in ("blk.0.", "blk.1."):
        tensors |= {
            layer + "attn_norm.weight": ones(WIDTH),
            layer + "ssm_in.weight": draw(2 * INNER, WIDTH),
            layer + "ssm_conv1d.weight": draw(INNER, KERNEL),
            layer + "ssm_conv1d.bias": draw(INNER),
            layer + "ssm_x.weight": draw(rank + 2 * STATE, INNER),
            layer + "ssm_dt.weight": draw(INNER, rank),
            layer + "ssm_dt.bias": draw(INNER),
            layer + "ssm_a": -np.abs(draw(INNER, STATE)) - 0.1,
            layer + "ssm_d": draw(INNER),
            layer + "ssm_out.weight": draw(WIDTH, INNER),
        }
    settings = {
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": 2,
        "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": INNER,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": rank,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return architecture(source, out, "mamba", settings, tensors)


def feed_forward(draw: Draw, layer: str) -> Tensors:
    """The gated feed-forward part of a layer."""
    return {
        layer + "ffn_norm.weight": ones(WIDTH),
        layer + "ffn_gate.weight": draw(INNER, WIDTH),
        layer + "ffn_up.weight": draw(INNER, WIDTH),
        layer + "ffn_down.weight": draw(WIDTH, INNER),
    }


def lfm2(source: Path, out: Path) -> Path:
    """Hybrid: one layer of short convolutions with a state, one of attention with keys and values."""
    draw, head = Draw(1), WIDTH // HEADS
    tensors = {"token_embd.weight": draw(vocabulary(source), WIDTH), "token_embd_norm.weight": ones(WIDTH)}
    tensors |= {
        "blk.0.attn_norm.weight": ones(WIDTH),
        "blk.0.shortconv.conv.weight": draw(WIDTH, KERNEL - 1),
        "blk.0.shortconv.in_proj.weight": draw(3 * WIDTH, WIDTH),
        "blk.0.shortconv.out_proj.weight": draw(WIDTH, WIDTH),
        **feed_forward(draw, "blk.0."),
        "blk.1.attn_norm.weight": ones(WIDTH),
        "blk.1.attn_q_norm.weight": ones(head),
        "blk.1.attn_k_norm.weight": ones(head),
        "blk.1.attn_q.weight": draw(WIDTH, WIDTH),
        "blk.1.attn_k.weight": draw(2 * head, WIDTH),
        "blk.1.attn_v.weight": draw(2 * head, WIDTH),
        "blk.1.attn_output.weight": draw(WIDTH, WIDTH),
        **feed_forward(draw, "blk.1."),
    }
    settings = {
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": [0, 2],
        "block_count": 2,
        "shortconv.l_cache": KERNEL - 1,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return architecture(source, out, "lfm2", settings, tensors)


def granite_hybrid(source: Path, out: Path) -> Path:
    """Hybrid: one layer of Mamba 2, one of attention."""
    draw, head, groups, inner = Draw(2), WIDTH // HEADS, 1, 2 * WIDTH
    ssm_heads = 4
    tensors = {"token_embd.weight": draw(vocabulary(source), WIDTH), "output_norm.weight": ones(WIDTH)}
    tensors |= {
        "blk.0.attn_norm.weight": ones(WIDTH),
        "blk.0.ssm_in.weight": draw(2 * inner + 2 * groups * STATE + ssm_heads, WIDTH),
        "blk.0.ssm_conv1d.weight": draw(inner + 2 * groups * STATE, KERNEL),
        "blk.0.ssm_conv1d.bias": draw(inner + 2 * groups * STATE),
        "blk.0.ssm_dt.bias": draw(ssm_heads),
        "blk.0.ssm_a": -np.abs(draw(ssm_heads, 1)) - 0.1,
        "blk.0.ssm_d": draw(ssm_heads, 1),
        "blk.0.ssm_norm.weight": ones(groups, inner // groups),
        "blk.0.ssm_out.weight": draw(WIDTH, inner),
        **feed_forward(draw, "blk.0."),
        "blk.1.attn_norm.weight": ones(WIDTH),
        "blk.1.attn_q.weight": draw(WIDTH, WIDTH),
        "blk.1.attn_k.weight": draw(2 * head, WIDTH),
        "blk.1.attn_v.weight": draw(2 * head, WIDTH),
        "blk.1.attn_output.weight": draw(WIDTH, WIDTH),
        **feed_forward(draw, "blk.1."),
    }
    settings = {
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": [0, 2],
        "block_count": 2,
        "ssm.conv_kernel": KERNEL,
        "ssm.inner_size": inner,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": ssm_heads,
        "ssm.group_count": groups,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return architecture(source, out, "granitehybrid", settings, tensors)


def bert(source: Path, out: Path) -> Path:
    """An encoder: reads a text and says none."""
    draw = Draw(3)
    tensors = {
        "token_embd.weight": draw(vocabulary(source), WIDTH),
        "position_embd.weight": draw(512, WIDTH),
        "token_types.weight": draw(2, WIDTH),
        "token_embd_norm.weight": ones(WIDTH),
        "token_embd_norm.bias": zeros(WIDTH),
        "blk.0.attn_output_norm.weight": ones(WIDTH),
        "blk.0.attn_output_norm.bias": zeros(WIDTH),
        "blk.0.ffn_up.weight": draw(INNER, WIDTH),
        "blk.0.ffn_up.bias": zeros(INNER),
        "blk.0.ffn_down.weight": draw(WIDTH, INNER),
        "blk.0.ffn_down.bias": zeros(WIDTH),
        "blk.0.layer_output_norm.weight": ones(WIDTH),
        "blk.0.layer_output_norm.bias": zeros(WIDTH),
    }
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensors[f"blk.0.{part}.weight"] = draw(WIDTH, WIDTH)
        tensors[f"blk.0.{part}.bias"] = zeros(WIDTH)
    settings = {
        "context_length": 512,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "block_count": 1,
        "attention.causal": False,
        "pooling_type": 1,
        "attention.layer_norm_epsilon": 1e-5,
    }
    return architecture(source, out, "bert", settings, tensors, {"tokenizer.ggml.token_type_count": 2})


def t5(source: Path, out: Path) -> Path:
    """An encoder and a decoder."""
    draw = Draw(4)
    tensors = {
        "token_embd.weight": draw(vocabulary(source), WIDTH),
        "enc.output_norm.weight": ones(WIDTH),
        "dec.output_norm.weight": ones(WIDTH),
    }
    for side in ("enc", "dec"):
        layer = f"{side}.blk.0."
        tensors |= {
            layer + "attn_rel_b.weight": draw(32, HEADS),
            layer + "attn_norm.weight": ones(WIDTH),
            layer + "ffn_norm.weight": ones(WIDTH),
            layer + "ffn_up.weight": draw(INNER, WIDTH),
            layer + "ffn_down.weight": draw(WIDTH, INNER),
        }
        parts = ["attn_q", "attn_k", "attn_v", "attn_o"]
        if side == "dec":
            parts += [f"cross_attn_{part}" for part in "qkvo"]
            tensors[layer + "cross_attn_norm.weight"] = ones(WIDTH)
        tensors |= {f"{layer}{part}.weight": draw(WIDTH, WIDTH) for part in parts}
    settings = {
        "context_length": 512,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.key_length": WIDTH // HEADS,
        "attention.value_length": WIDTH // HEADS,
        "block_count": 1,
        "attention.relative_buckets_count": 32,
        "decoder_start_token_id": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return architecture(source, out, "t5", settings, tensors)
