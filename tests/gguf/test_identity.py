"""companions/name_models.py: identity of model files, and hashes that are not computed twice."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.gguf import identity as name_models

SCRIPT = Path(__file__).resolve().parents[1] / "edgebench/gguf/identity.py"


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
    assert name_models.split_stem(stem) == expected


def test_files_that_would_share_an_id_keep_their_full_stems() -> None:
    named = name_models.name_models([Path("a/m-Q4_0.gguf"), Path("m-Q6_K.gguf"), Path("n-Q6_K.gguf")])
    assert [name for name, _ in named] == ["m-Q4_0", "m-Q6_K", "n"]
    with pytest.raises(name_models.NameModelsError, match="rename one"):
        name_models.name_models([Path("a/m.gguf"), Path("b/m.gguf")])


def test_an_unchanged_file_is_not_hashed_again(demo_models: dict[str, Path], tmp_path: Path) -> None:
    model, env = demo_models["llama"], tmp_path / "env.jsonl"

    def ask() -> tuple[dict, str]:
        command = [sys.executable, str(SCRIPT), "--models", str(model), "--env", str(env)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout), done.stderr

    first, said = ask()
    assert first["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest() and "hashing" in said
    env.write_text(json.dumps({"models": {"tiny-llama": first}}) + "\n")
    assert ask() == (first, "")
    env.write_text(json.dumps({"models": {"tiny-llama": {**first, "mtime_ns": 1}}}) + "\n")
    assert "hashing" in ask()[1]
