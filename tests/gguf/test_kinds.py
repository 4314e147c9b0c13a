"""Files that are no model to be asked: each named in one line with what to do, and none stops the others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.gguf.facts import read_facts
from edgebench.gguf.header import GgufError, one_path_a_model, read_header
from edgebench.gguf.identity import identify, make_entries, split_stem, stem_of
from tests.doors import call

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[2]
FIELD_CASES = ROOT.parent / "shared/data/field-cases/collector"
# What a terminal with a language's UTF-8 locale does: text that is none ends the program.
STRICT = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
WEIGHTS = ("token_embd.weight", "output.weight")


def write_gguf(
    path: Path,
    arch: str | None = "llama",
    tensors: tuple[str, ...] = WEIGHTS,
    vocabulary: bool = True,
    **metadata: Any,
) -> Path:
    """A file of this metadata; `__` in a name stands for a dot, ARCH for the architecture."""
    writer = gguf.GGUFWriter(path, arch or "none")
    if arch is None:
        writer.kv_data[0].pop("general.architecture", None)
    if vocabulary:
        writer.add_token_list([b"a", b"b"])
    for name, value in metadata.items():
        key = name.replace("__", ".").replace("ARCH", arch or "")
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_string(key, value)
    for name in tensors:
        writer.add_tensor(name, np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary": ({"tensors": ()}, "a vocabulary without weights"),
    "mmproj": ({"arch": "clip", "general__type": "mmproj", "vocabulary": False}, "mmproj"),
    "old mmproj": ({"arch": "clip", "vocabulary": False}, "mmproj"),
    "LoRA": ({"general__type": "adapter", "adapter__type": "lora", "vocabulary": False}, "LoRA adapter"),
    "LoRA by its key": ({"adapter__type": "lora"}, "LoRA adapter"),
    "imatrix": ({"arch": "imatrix", "general__type": "imatrix", "vocabulary": False}, "importance matrix"),
    "control vector": ({"arch": "controlvector", "vocabulary": False}, "control vector"),
    "BERT": ({"arch": "bert", "ARCH__attention__causal": False}, "an embedding model (bert)"),
    "nomic": ({"arch": "nomic-bert-moe"}, "an embedding model"),
    "decoder that pools": ({"arch": "qwen3", "ARCH__pooling_type": 3}, "an embedding model (qwen3)"),
    "sees what follows": ({"arch": "newcomer", "ARCH__attention__causal": False}, "an embedding model"),
    "reranker": ({"arch": "qwen3", "ARCH__pooling_type": 4}, "a reranker or classifier"),
    "labels": (
        {"arch": "qwen2", "ARCH__classifier__output_labels": ["yes", "no"]},
        "a reranker or classifier",
    ),
    "T5 encoder": ({"arch": "t5encoder"}, "an embedding model (t5encoder)"),
    "encoder_decoder": ({"arch": "t5"}, "an encoder-decoder model (t5)"),
    "diffusion": ({"arch": "llada", "ARCH__attention__causal": False}, "a diffusion language model"),
    "images": ({"arch": "flux", "vocabulary": False}, "no language model (flux)"),
    "no architecture": ({"arch": None}, "states no architecture"),
    "voice": ({"arch": "wavtokenizer-dec"}, "a voice decoder"),
}


@pytest.mark.parametrize(("made", "words"), OTHERS.values(), ids=OTHERS)
def test_a_file_that_writes_no_text_is_named(tmp_path: Path, made: dict[str, Any], words: str) -> None:
    facts = read_facts(write_gguf(tmp_path / "a.gguf", **made))
    assert facts.error is not None and words in facts.error and "give" in facts.error
    assert "\n" not in facts.error


@pytest.mark.parametrize("arch", ["llama", "qwen3", "mamba", "a-newcomer"])
def test_what_may_write_text_is_left_to_the_engine(tmp_path: Path, arch: str) -> None:
    path = write_gguf(tmp_path / "a.gguf", arch, ARCH__pooling_type=0, ARCH__attention__causal=True)
    assert read_facts(path).error is None


NO_GGUF = {
    "empty": (b"", "it is empty"),
    "zeros": (b"\0" * 5000, "a download that has not ended"),
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "web page in capitals": (b"<HTML><HEAD>", "a web page"),
    "not found": (b"Entry not found", "15 bytes (Entry not found)"),
    "answer in JSON": (b'{"error": "Repository not found"}' * 3, "a JSON text"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + b"x" * 50, "a zip archive"),
    "gzip": (b"\x1f\x8b" + b"x" * 50, "gunzip"),
    "safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__":{}}' + b" " * 50, "safetensors"),
    "before GGUF": (b"tjgg" + b"x" * 50, "from before GGUF"),
    "version 1": (b"GGUF" + b"\x01\0\0\0" + b"\0" * 40, "version 1"),
    "big-endian": (b"GGUF" + b"\0\0\0\x03" + b"\0" * 40, "big-endian"),
    "a version to come": (b"GGUF" + b"\x09\0\0\0" + b"\0" * 40, "version 9"),
    "cut behind its magic": (b"GGUF\x03\0\0\0", "cut off"),
}


@pytest.mark.parametrize(("content", "words"), NO_GGUF.values(), ids=NO_GGUF)
def test_what_a_download_leaves_in_a_models_place_is_named(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    error = read_facts(path).error
    assert error is not None and words in error and "\n" not in error


def test_folders_missing_files_and_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "models.gguf").mkdir()
    assert "a folder" in (read_facts(tmp_path / "models.gguf").error or "")
    assert "No such file" in (read_facts(tmp_path / "none.gguf").error or "")
    assert read_facts(Path("a\0b.gguf")).error


def test_one_bad_file_stops_none_of_the_others(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    good = [demo_models["llama"], demo_models["qwen2"]]
    bad = [
        write_gguf(tmp_path / f"{number}.gguf", **made) for number, (made, _) in enumerate(OTHERS.values())
    ]
    models = identify([good[0], *bad, tmp_path / "none.gguf", good[1]], {})
    assert [model.path for model in models if model.error is None] == [str(path) for path in good]
    assert all(str(path) in str(model.error) for path, model in zip(bad, models[1:], strict=False))


def test_planning_goes_on_beside_a_vocabulary(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    """It ended with `ValueError: zip()` for all models."""
    odd = write_gguf(tmp_path / "vocab-only.gguf", tensors=())
    (tmp_path / "p.csv").write_text("question_id,L0\n1,Why?\n")
    words = ["--dry_run", "--levels", "L0", "--models", odd, demo_models["llama"]]
    words += ["--prompts", tmp_path / "p.csv", "--source", "none", "--max_tokens", 8]
    done = call("run_llamacpp_collect.py", *words, "--out_jsonl", tmp_path / "runs.jsonl")
    assert done.returncode == 1, done.stderr
    assert "vocab-only: cannot run" in done.stdout and "a vocabulary without weights" in done.stdout
    assert "tiny-llama: 1 run" in done.stdout and "Traceback" not in done.stderr


# --- Split models


def split(folder: Path, name: str, parts: int = 3) -> list[Path]:
    """A model of `parts` parts, the tensors spread over them, as gguf-split leaves it."""
    files = []
    for number in range(parts):
        metadata: dict[str, Any] = {
            "split__no": number,
            "split__count": parts,
            "split__tensors__count": 2 * parts,
        }
        if number == 0:
            metadata |= {"llama__block_count": 1, "llama__embedding_length": 32}
            metadata |= {"llama__attention__head_count": 2}
        tensors = (f"blk.{number}.attn_q.weight", WEIGHTS[number] if number < 2 else "output_norm.weight")
        path = folder / f"{name}-{number + 1:05d}-of-{parts:05d}.gguf"
        files.append(write_gguf(path, "llama", tensors, vocabulary=number == 0, **metadata))
    return files


def test_a_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    files = split(tmp_path, "big-Q4_K_M")
    facts = read_facts(files[0])
    assert facts.error is None
    assert facts.file_byte == sum(file.stat().st_size for file in files)
    assert facts.n_params == 6 * 64
    assert facts.need_byte is not None and facts.need_byte > facts.file_byte
    (entry,) = make_entries(files, {})
    assert (entry["model_id"], entry["quantization"], entry["error"]) == ("big", "Q4_K_M", None)
    assert entry["path"] == str(files[0])
    assert entry["sha256"] == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_all_parts_given_are_one_model_in_any_order(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    files = split(tmp_path, "big")
    for given in (files, files[::-1], [files[1], demo_models["llama"], files[0], files[2], files[0]]):
        assert one_path_a_model(given).count(files[0]) == 1
        assert [model.model_id for model in identify(given, {}) if "big" in model.model_id] == ["big"]
        assert all(model.error is None for model in identify(given, {}))


def test_a_changed_part_is_hashed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = split(tmp_path, "big")
    (entry,) = make_entries(files, {})
    capsys.readouterr()
    assert make_entries(files[:1], {entry["path"]: entry}) == [entry]
    assert capsys.readouterr().err == ""
    later_ns = entry["mtime_ns"] + 10**9
    os.utime(files[2], ns=(later_ns, later_ns))
    make_entries(files[:1], {entry["path"]: entry})
    assert capsys.readouterr().err.count("hashing") == 3


def test_a_later_part_given_by_hand_names_the_first(tmp_path: Path) -> None:
    files = split(tmp_path, "big")
    (model,) = identify([files[1]], {})
    assert "part 2 of 3" in str(model.error) and f"give part 1: {files[0]}" in str(model.error)
    files[0].unlink()
    models = identify(files[1:], {})
    assert len(models) == 1 and "not there" in str(models[0].error)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    files = split(tmp_path, "big")
    files[1].unlink()
    error = read_facts(files[0]).error or ""
    assert files[1].name in error and files[2].name not in error and "download" in error


def test_damage_in_a_part_names_the_part(tmp_path: Path) -> None:
    files = split(tmp_path, "big")
    content = files[2].read_bytes()
    files[2].write_bytes(content[:-40])
    assert files[2].name in (read_facts(files[0]).error or "")
    files[2].write_bytes(b"<html>")
    assert "a web page" in (read_facts(files[0]).error or "")
    shutil.copy(files[1], files[2])
    assert "another one" in (read_facts(files[0]).error or "")


def test_a_renamed_part_is_told_its_name(tmp_path: Path) -> None:
    files = split(tmp_path, "big")
    renamed = files[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GgufError, match=r"-00001-of-00003\.gguf"):
        read_header(renamed)


def test_the_engine_runs_a_split_model(tmp_path: Path, demo_models: dict[str, Path], llama_cpp: Any) -> None:
    """The field case's maker splits a tiny model in two; the collector counts and runs it from part 1."""
    maker = FIELD_CASES / "odd_ggufs.py"
    if not maker.exists():
        pytest.skip("needs the collected cases")
    subprocess.run([sys.executable, str(maker), str(demo_models["qwen2"]), str(tmp_path)], check=True)
    (tmp_path / "p.csv").write_text("question_id,L0\n1,Why?\n")
    out = tmp_path / "runs.jsonl"
    parts = sorted(tmp_path.glob("split-*.gguf"))
    words = ["--levels", "L0", "--source", "none", "--models", *parts, "--max_tokens", 4]
    done = call("run_llamacpp_collect.py", *words, "--prompts", tmp_path / "p.csv", "--out_jsonl", out)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, out.read_text().splitlines())
    assert record["model_id"] == "split" and record["error"] is None


# --- Names


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("phi-fp16", ("phi", "F16")),
        ("phi-FP32", ("phi", "F32")),
        ("phi.bf16", ("phi", "BF16")),
        ("phi_f32", ("phi", "F32")),
        ("Qwen3-0.6B-UD-Q4_K_XL", ("Qwen3-0.6B", "UD-Q4_K_XL")),
        ("Qwen3-0.6B-ud-iq1_m", ("Qwen3-0.6B", "UD-IQ1_M")),
        ("gpt-oss-20b-mxfp4", ("gpt-oss-20b", "MXFP4")),
        ("Qwen3-30B-MXFP4_MOE", ("Qwen3-30B", "MXFP4_MOE")),
        ("gemma-3-1b-NVFP4", ("gemma-3-1b", "NVFP4")),
        ("bitnet-TQ1_0", ("bitnet", "TQ1_0")),
        ("m-IQ4_NL", ("m", "IQ4_NL")),
        ("m-Q4_0_4_8", ("m", "Q4_0_4_8")),
        ("m.i1-Q4_K_M", ("m", "i1-Q4_K_M")),
        ("m-Q4_K_M-imat", ("m", "Q4_K_M")),
        ("m-Q6_K_L", ("m", "Q6_K_L")),
        ("qwen2.5-q8_0-instruct", ("qwen2.5-q8_0-instruct", None)),
        ("Q4_K_M", ("Q4_K_M", None)),
        ("deepseek-r1", ("deepseek-r1", None)),
    ],
)
def test_quantizations_as_files_name_them(stem: str, expected: tuple[str, str | None]) -> None:
    assert split_stem(stem) == expected


def test_a_name_that_is_no_utf8_has_an_id_that_every_file_can_hold(
    tmp_path: Path, demo_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xffme-\xc3\xa9-fp16.gguf"))
    try:
        shutil.copy(demo_models["llama"], path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (model,) = identify([path], {})
    assert (model.model_id, model.quantization, model.error) == ("na%FFme-é", "F16", None)
    assert json.loads(json.dumps(model.as_record()))["path"] == str(path)
    assert "hashing" in capsys.readouterr().err
    assert stem_of(path).encode("utf-8")
    for flags in ([], ["--json"]):
        command = [sys.executable, str(ROOT / "companions/board_check.py"), "models", *flags, os.fspath(path)]
        done = subprocess.run(command, capture_output=True, env=STRICT)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    command = [sys.executable, str(ROOT / "companions/board_check.py"), "--n_ctx", "99999999", "--models"]
    done = subprocess.run([*command, os.fspath(path)], capture_output=True, env=STRICT)
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr
    path.write_bytes(b"x")
    assert str(identify([path], {})[0].error).encode("utf-8")


def test_the_collector_runs_a_model_whose_name_is_no_utf8(
    tmp_path: Path, demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xffme-F32.gguf"))
    try:
        shutil.copy(demo_models["llama"], path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "p.csv").write_text("question_id,L0\n1,Why?\n")
    out = tmp_path / "runs.jsonl"
    command = [sys.executable, str(ROOT / "run_llamacpp_collect.py"), "--levels", "L0", "--source", "none"]
    command += ["--prompts", str(tmp_path / "p.csv"), "--max_tokens", "4", "--out_jsonl", str(out)]
    command += ["--models", os.fspath(path)]
    shown = subprocess.run([*command, "--dry_run"], capture_output=True, env=STRICT)
    assert shown.returncode == 0, shown.stderr
    assert os.fsencode(path) in shown.stdout  # in the command that starts it, ready to be pasted
    done = subprocess.run(command, capture_output=True, env=STRICT)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    (record,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert record["model_id"] == "na%FFme" and record["error"] is None


def test_the_same_file_twice_is_one_model_and_a_second_name_is_its_own_fault(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    one, other = tmp_path / "a" / "m.gguf", tmp_path / "b" / "m.gguf"
    for path, arch in ((one, "llama"), (other, "qwen2")):
        path.parent.mkdir()
        shutil.copy(demo_models[arch], path)
    assert [model.error for model in identify([one, one], {})] == [None]
    first, second = identify([one, other], {})
    assert first.error is None and "rename one" in str(second.error)
    assert first.model_id != second.model_id
    shutil.copy(one, tmp_path / "copy.gguf")
    first, second = identify([one, tmp_path / "copy.gguf"], {})
    assert first.error is None and "is a copy of" in str(second.error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_its_own_fault(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    path = tmp_path / "locked.gguf"
    shutil.copy(demo_models["llama"], path)
    path.chmod(0)
    locked, good = identify([path, demo_models["qwen2"]], {})
    assert "Permission denied" in str(locked.error) and good.error is None
