"""Facts of model files: against files that the gguf package writes, and against damage."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.gguf import facts as gguf_facts
from edgebench.gguf.header import Header, Tensor, read_header
from tests.doors import call

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[2]
EMBED, VOCAB = 64, 100


def write_model(
    path: Path, arch: str = "llama", *, tied: bool = False, heads: Any = 4, kv: Any = 2, **more: Any
) -> Path:
    """A model of two layers: embedding, one F16 matrix a layer, perhaps an output matrix."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(2)
    writer.add_embedding_length(EMBED)
    writer.add_context_length(2048)
    writer.add_head_count(heads)
    if kv is not None:
        writer.add_head_count_kv(kv)
    for name, value in more.items():
        getattr(writer, name)(value)
    writer.add_token_list([f"t{index}".encode() for index in range(VOCAB)])
    writer.add_tensor("token_embd.weight", np.zeros((VOCAB, EMBED), np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", np.ones((EMBED, 128), np.float16))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((VOCAB, EMBED), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    return call("companions/board_check.py", "models", *arguments)


def test_sizes_of_a_model_with_its_own_output_matrix(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.gguf")
    facts = gguf_facts.read_facts(path, 1000)
    assert facts.error is None and facts.why_unknown is None
    assert (facts.architecture, facts.n_layers, facts.n_vocab, facts.n_ctx_train) == ("llama", 2, VOCAB, 2048)
    assert facts.n_params == 2 * VOCAB * EMBED + 2 * EMBED * 128
    assert facts.n_params == sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)
    assert facts.read_byte_per_token == 2 * EMBED * 128 * 2 + VOCAB * EMBED * 2  # the embedding is one row
    assert facts.kv_byte_per_token == 2 * 2 * (16 + 16) * 2  # layers, heads, key + value, f16
    assert facts.kv_byte == facts.kv_byte_per_token * 1024  # 1000 is rounded up
    assert facts.compute_byte == 512 * 1000 * (4 + 1) * 4  # four heads and the mask; the logits are fewer
    assert facts.need_byte == path.stat().st_size + facts.kv_byte + facts.compute_byte


def test_a_tied_embedding_is_read_in_full(tmp_path: Path) -> None:
    facts = gguf_facts.read_facts(write_model(tmp_path / "a.gguf", "gemma2", tied=True), 256)
    assert facts.read_byte_per_token == VOCAB * EMBED * 4 + 2 * EMBED * 128 * 2


@pytest.mark.parametrize(
    ("published", "layers", "kv_heads", "key_length", "kib"),
    [("Qwen1.5-1.8B", 24, 16, 128, 192), ("gemma-2-2b", 26, 4, 256, 104),
     ("Phi-3.5-mini", 32, 32, 96, 384), ("Qwen3-4B", 36, 8, 128, 144)],
)  # fmt: skip
def test_cache_of_published_configurations(
    published: str, layers: int, kv_heads: int, key_length: int, kib: int
) -> None:
    meta = {"general.architecture": "x", "x.block_count": layers, "x.embedding_length": 2048}
    meta |= {"x.attention.head_count": 16, "x.attention.head_count_kv": kv_heads}
    meta |= {"x.attention.key_length": key_length, "x.attention.value_length": key_length}
    assert gguf_facts.kv_byte_per_token(meta) == (kib * 1024, None), published


def test_heads_per_layer_and_missing_kv_heads(tmp_path: Path) -> None:
    per_layer = write_model(tmp_path / "a.gguf", heads=[4, 4], kv=[1, 3])
    assert gguf_facts.read_facts(per_layer, 256).kv_byte_per_token == (1 + 3) * (16 + 16) * 2
    full = write_model(tmp_path / "b.gguf", kv=None)
    assert gguf_facts.read_facts(full, 256).kv_byte_per_token == 2 * 4 * (16 + 16) * 2


def test_a_recurrent_state_is_unknown_not_guessed(tmp_path: Path) -> None:
    facts = gguf_facts.read_facts(write_model(tmp_path / "a.gguf", "mamba", add_ssm_state_size=16), 256)
    assert facts.kv_byte is None and facts.need_byte is None and "recurrent" in (facts.why_unknown or "")


def test_of_experts_only_the_share_in_use_is_read() -> None:
    tensors = [
        Tensor("blk.0.ffn_up_exps.weight", 100, 0, 800),
        Tensor("output.weight", 10, 0, 100),
    ]
    meta = {"general.architecture": "x", "x.expert_count": 8, "x.expert_used_count": 2}
    header = Header(meta, tensors, 900)
    assert gguf_facts.read_byte_per_token(header) == 800 * 2 // 8 + 100


def test_a_long_vocabulary_is_walked_over(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.gguf", add_token_merges=[f"a b{index}" for index in range(20_000)])
    header = read_header(path)
    assert header.metadata["tokenizer.ggml.merges.length"] == 20_000
    assert "tokenizer.ggml.merges" not in header.metadata


def test_only_the_header_of_a_huge_file_is_read(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.gguf")
    with path.open("r+b") as file:
        file.truncate(20 * 2**30)  # sparse
    facts = gguf_facts.read_facts(path, 256)
    assert facts.error is None and facts.file_byte == 20 * 2**30


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a GGUF"), (b"x" * 100, "not a GGUF"), (b"GGUF" + b"\x01\0\0\0" + b"\0" * 40, "version 1"),
     (b"GGUF" + b"\0\0\0\x03" + b"\0" * 40, "big-endian"),
     (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
     (b"GGUF" + b"\x03\0\0\0" + b"\xff" * 16, "damaged")],
)  # fmt: skip
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    done = ask(path)
    assert done.returncode == 1 and message in done.stdout and done.stderr == ""


def test_each_missing_byte_is_seen(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for missing in (1, 1000, len(whole) // 2, len(whole) - 30):
        cut.write_bytes(whole[:-missing])
        error = gguf_facts.read_facts(cut, 256).error or ""
        assert "cut off" in error and "download" in error, missing


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "source.gguf"
    whole = bytearray((source if source.exists() else write_model(source)).read_bytes())
    header = len(whole) - 2 * VOCAB * EMBED * 3
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    facts = gguf_facts.read_facts(damaged, 256)
    assert facts.error or facts.file_byte == damaged.stat().st_size


def test_json_has_one_line_per_model_and_the_exit_status_tells(tmp_path: Path) -> None:
    good, missing = write_model(tmp_path / "a.gguf"), tmp_path / "none.gguf"
    done = ask("--json", "--n_ctx", 512, good, missing)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["error"], first["n_ctx"], first["model"]) == (None, 512, str(good))
    assert "No such file" in second["error"] and second["file_byte"] is None
    assert done.returncode == 1 and ask(good).returncode == 0


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    path = write_model(tmp_path / ("a-model-with-quite-a-long-name-" * 3 + "Q6_K.gguf"))
    lines = ask(path).stdout.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80


@pytest.fixture(scope="module")
def engine_logs(llama_cpp: Any, demo_models: dict[str, Path]) -> dict[str, str]:
    """What the engine logs of each architecture when it loads a model of it."""
    load = (
        "import sys, llama_cpp\n"
        "for path in sys.argv[1:]:\n"
        "    llama_cpp.Llama(path, n_ctx=4096, n_batch=512, verbose=True).close()\n"
        "    print('=== loaded', file=sys.stderr, flush=True)\n"
    )
    words = [sys.executable, "-c", load, *map(str, demo_models.values())]
    log = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    return dict(zip(demo_models, log.split("=== loaded\n"), strict=False))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "phi3", "qwen3"])
def test_the_engine_agrees(arch: str, demo_models: dict[str, Path], engine_logs: dict[str, str]) -> None:
    """Cache and graph as the engine logs them when it loads the model."""
    caches = re.findall(r"KV buffer size = +([\d.]+) MiB", engine_logs[arch])
    graph = re.findall(r"compute buffer size = +([\d.]+) MiB", engine_logs[arch])
    facts = gguf_facts.read_facts(demo_models[arch], 4096)
    assert caches and graph
    assert facts.kv_byte == sum(map(float, caches)) * 2**20
    assert facts.compute_byte == pytest.approx(float(graph[-1]) * 2**20, abs=3 * 2**20)
