"""Identity of model files: names without their quantization, and hashes that are not computed twice."""

import hashlib
from pathlib import Path

import pytest

from edgebench.gguf.identity import make_entries, name_models, split_stem


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("gemma-2-2b-it-Q6_K", ("gemma-2-2b-it", "Q6_K")),
        ("qwen1.5-1.8b-chat-q6_k", ("qwen1.5-1.8b-chat", "Q6_K")),
        ("Phi-3.5-mini-instruct-Q4_K_M", ("Phi-3.5-mini-instruct", "Q4_K_M")),
        ("Llama-3.2-1B-Instruct.IQ3_XXS", ("Llama-3.2-1B-Instruct", "IQ3_XXS")),
        ("model-f16", ("model", "F16")),
        ("gpt-oss-20b-MXFP4", ("gpt-oss-20b", "MXFP4")),
        ("Qwen3-4B", ("Qwen3-4B", None)),
        ("tiny", ("tiny", None)),
    ],
)
def test_model_id_is_the_stem_without_its_quantization(stem: str, expected: tuple[str, str | None]) -> None:
    assert split_stem(stem) == expected


def test_files_that_would_share_an_id_keep_their_full_stems() -> None:
    named = name_models([Path("a/m-Q4_0.gguf"), Path("m-Q6_K.gguf"), Path("n-Q6_K.gguf")])
    assert [name for name, _ in named] == ["m-Q4_0", "m-Q6_K", "n"]
    twins = name_models([Path("a/m.gguf"), Path("b/m.gguf"), Path("c/m-Q4_0.gguf")])
    assert [name for name, _ in twins] == ["m", "b/m", "m-Q4_0"]


def test_an_unchanged_file_is_not_hashed_again(
    demo_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = demo_models["llama"]
    (first,) = make_entries([model], {})
    assert first["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert "hashing" in capsys.readouterr().err
    known = {first["path"]: first}
    assert make_entries([model], known) == [first]
    assert capsys.readouterr().err == ""
    make_entries([model], {first["path"]: {**first, "mtime_ns": 1}})
    assert "hashing" in capsys.readouterr().err
