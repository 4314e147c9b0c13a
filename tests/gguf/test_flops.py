"""Floating-point operations of a run, against a numpy forward pass that counts and numbers made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.errors import UserError
from edgebench.gguf import flops


def lengths(model: Path, prompt: int, completion: int) -> dict[str, Any]:
    """The count of one prompt and its answer."""
    return flops.count(flops.read_cost(model), prompt, completion, max(0, completion - 1)).as_record()


class Forward:
    """A decoder with a key/value cache in numpy that counts what its matrix multiplications cost."""

    def __init__(self, path: Path) -> None:
        import gguf
        import numpy

        reader = gguf.GGUFReader(path)
        meta = {key: field.contents() for key, field in reader.fields.items() if "tokenizer" not in key}
        self.np, self.flop = numpy, 0
        self.weights = {one.name: numpy.array(one.data) for one in reader.tensors}
        arch = meta["general.architecture"]
        self.layers, width = meta[f"{arch}.block_count"], meta[f"{arch}.embedding_length"]
        self.heads = meta[f"{arch}.attention.head_count"]
        self.kv_heads = meta.get(f"{arch}.attention.head_count_kv", self.heads)
        self.size = meta.get(f"{arch}.attention.key_length", width // self.heads)
        self.cache: list[list] = [[] for _ in range(self.layers)]

    def multiply(self, matrix, vector):  # type: ignore[no-untyped-def]
        result = matrix @ vector
        self.flop += 2 * matrix.shape[0] * matrix.shape[1]
        return result

    def weight(self, layer: int, name: str, vector):  # type: ignore[no-untyped-def]
        return self.multiply(self.weights[f"blk.{layer}.{name}.weight"], vector)

    def token(self, id_: int, logits: bool) -> None:
        x = self.weights["token_embd.weight"][id_]
        for layer in range(self.layers):
            if f"blk.{layer}.attn_qkv.weight" in self.weights:
                fused = self.weight(layer, "attn_qkv", x)
                at, step = self.heads * self.size, self.kv_heads * self.size
                q, k, v = fused[:at], fused[at : at + step], fused[at + step :]
            else:
                q, k, v = (self.weight(layer, name, x) for name in ("attn_q", "attn_k", "attn_v"))
            self.cache[layer].append((k.reshape(self.kv_heads, -1), v.reshape(self.kv_heads, -1)))
            seen = []
            for head, query in enumerate(q.reshape(self.heads, -1)):
                group = head * self.kv_heads // self.heads
                keys, values = (
                    self.np.stack([pair[part][group] for pair in self.cache[layer]]) for part in (0, 1)
                )
                scores = self.multiply(keys, query)
                seen.append(self.multiply(values.T, scores / (abs(scores).sum() + 1)))
            x = self.weight(layer, "attn_output", self.np.concatenate(seen))
            up = self.weight(layer, "ffn_up", x)
            gate = (
                self.weight(layer, "ffn_gate", x)
                if f"blk.{layer}.ffn_gate.weight" in self.weights
                else up[: len(up) // 2]
            )
            x = self.weight(layer, "ffn_down", gate * up[-len(gate) :])
        if logits:
            self.multiply(self.weights.get("output.weight", self.weights["token_embd.weight"]), x)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "phi3", "qwen3"])
def test_the_count_is_that_of_a_forward_pass(arch: str, demo_models: dict[str, Path]) -> None:
    prompt, completion = 7, 4
    forward = Forward(demo_models[arch])
    for place in range(prompt):
        forward.token(place, logits=place == prompt - 1)
    prefill = forward.flop
    for _ in range(completion - 1):  # the last token is sampled, not decoded
        forward.token(1, logits=True)
    told = lengths(demo_models[arch], prompt, completion)
    assert told["flops_prefill"] == prefill
    assert told["flops_decode"] == forward.flop - prefill
    assert told["flops"] == forward.flop
    assert (told["method"], told["confidence"]) == ("matmul_count", "high")


def make_gguf(path: Path, arch: str, tensors: dict[str, tuple[int, ...]], **numbers: int) -> Path:
    """A GGUF file with tensors of these numpy shapes and this metadata."""
    gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(path, arch)
    for key, value in numbers.items():
        writer.add_uint32(f"{arch}.{key.replace('__', '.')}", value)
    for name, shape in tensors.items():
        writer.add_tensor(name, numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SIZES = {"block_count": 1, "embedding_length": 8, "attention__head_count": 2}
ATTENTION = {f"blk.0.attn_{name}.weight": (8, 8) for name in ("q", "k", "v", "output")}
DENSE = {"token_embd.weight": (10, 8), "output.weight": (10, 8), **ATTENTION}


def test_of_a_mixture_the_experts_in_use_count(tmp_path: Path) -> None:
    experts = {f"blk.0.ffn_{name}_exps.weight": (4, 6, 8) for name in ("gate", "up")}
    tensors = {
        **DENSE,
        **experts,
        "blk.0.ffn_down_exps.weight": (4, 8, 6),
        "blk.0.ffn_gate_inp.weight": (4, 8),
    }
    path = make_gguf(tmp_path / "moe.gguf", "llama", tensors, **SIZES, expert_count=4, expert_used_count=2)
    told = lengths(path, 1, 2)
    per_token = 2 * (4 * 64 + 3 * 48 * 2 + 32)  # attention, three matrices of two experts, the router
    attention = 2 * 2 * (4 + 4)
    assert told["flops_prefill"] == per_token + 2 * 80 + attention
    assert told["flops_decode"] == per_token + 2 * 80 + attention * 2
    assert told["confidence"] == "high"


def test_experts_without_their_numbers_are_not_guessed(tmp_path: Path) -> None:
    tensors = {**DENSE, "blk.0.ffn_up_exps.weight": (4, 6, 8)}
    told = lengths(make_gguf(tmp_path / "moe.gguf", "llama", tensors, **SIZES), 3, 2)
    assert told["flops"] == 2 * (2 * 80 + 4 * 64 + 4 * 48) * 5
    assert (told["method"], told["confidence"]) == ("2_params_tokens", "low")
    assert "experts" in told["note"]


@pytest.mark.parametrize(
    ("tensors", "numbers", "word"),
    [
        ({**DENSE, "blk.0.strange.weight": (8, 8)}, SIZES, "strange"),
        (DENSE, {**SIZES, "ssm__conv_kernel": 4}, "ssm"),
        (DENSE, {**SIZES, "attention__kv_lora_rank": 4}, "kv_lora_rank"),
        (DENSE, {"block_count": 1}, "head_count"),
    ],
)
def test_what_is_not_known_is_counted_roughly_and_says_why(
    tmp_path: Path, tensors: dict, numbers: dict, word: str
) -> None:
    told = lengths(make_gguf(tmp_path / "m.gguf", "odd", tensors, **numbers), 3, 2)
    assert told["confidence"] == "low" and word in told["note"]
    assert told["flops"] == told["flops_prefill"] + told["flops_decode"]


def test_past_a_sliding_window_the_count_is_less_sure(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "w.gguf", "gemma2", DENSE, **SIZES, attention__sliding_window=16)
    assert lengths(path, 10, 6)["confidence"] == "high"
    assert lengths(path, 10, 8)["confidence"] == "medium"


def test_runs_get_their_count_by_model_and_an_ended_answer_a_step_more(demo_models: dict[str, Path]) -> None:
    base = {"model_id": "tiny-llama", "quantization": "F32", "prompt_tokens": 9, "completion_tokens": 3}
    records: list[dict[str, Any]] = [
        {**base, "run_key": "a", "finish_reason": "length"},
        {**base, "run_key": "b", "finish_reason": "stop"},
        {**base, "run_key": "c", "model_id": "other"},
        {**base, "run_key": "d", "completion_tokens": None},
    ]
    together = {"sequences": [records[0], records[1]], "prompt_tokens": 18, "completion_tokens": 6}
    records.append({**base, "run_key": "e", "kind": "throughput", **together})
    costs = {path: flops.read_cost(path) for path in (demo_models["llama"], demo_models["phi3"])}
    a, b, c, d, e = (count.as_record() for count in flops.count_runs(records, costs))
    assert [one["run_key"] for one in (a, b, c, d, e)] == list("abcde")
    assert e["flops"] == a["flops"] + b["flops"]
    assert (e["method"], e["confidence"]) == ("matmul_count", "high")
    assert a["flops"] == lengths(demo_models["llama"], 9, 3)["flops"]
    assert b["flops"] == lengths(demo_models["llama"], 9, 4)["flops"]
    assert c["flops"] is None and "other" in c["note"]
    assert d["flops"] is None and "token counts" in d["note"]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("m-UD-Q4_K_XL.gguf", {"model_id": "m", "quantization": "UD-Q4_K_XL"}),
        ("m-UD-Q4_K_XL.gguf", {"model_id": "m-UD", "quantization": "Q4_K_XL"}),  # of an earlier record
        ("m-fp16.gguf", {"model_id": "m", "quantization": "F16"}),
        ("m-Q4_0.gguf", {"model_id": "m-Q4_0", "quantization": "Q4_0"}),  # two files would share "m"
        ("m-Q4_0-00001-of-00002.gguf", {"model_id": "m", "quantization": "Q4_0"}),
    ],
)
def test_a_file_is_known_by_its_record(name: str, record: dict[str, str]) -> None:
    assert flops.same_model(Path(name), record)
    assert not flops.same_model(Path(name), {**record, "model_id": "other"})


@pytest.mark.parametrize("broken", ["missing", "cut", "text"])
def test_a_bad_file_is_named(broken: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    if broken == "cut":
        path.write_bytes(tiny_model("llama").read_bytes()[:5000])
    elif broken == "text":
        path.write_text("no model " * 20)
    with pytest.raises(UserError, match=r"bad\.gguf: .*check --model"):
        flops.read_cost(path)
