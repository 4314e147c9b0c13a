"""The words of requirement 003 in files and flags: taken over, or answered with what stands for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.errors import UserError
from edgebench.experiments.config import Chosen, ConfigError, effective, grid_values
from edgebench.experiments.grid import write_grid


def chosen(text: str, tmp_path: Path, *sets: str, preset: str | None = None) -> Chosen:
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    return effective(file, preset, sets)


def test_a_file_in_the_documents_words(tmp_path: Path) -> None:
    text = """
model: null
models: [a.gguf]
fp_precision: float16
max_output_tokens: 128
batch_size: 1
num_processes: 1
prompt_source: {type: huggingface, dataset: alpaca, sample_size: 1000, shuffle: true}
""".replace("model: null\n", "")
    one = chosen(text, tmp_path)
    assert one.config["mode"] == "collect"
    assert one.config["generation"]["max_tokens"] == 128
    dataset = one.config["dataset"]
    assert (dataset["source"], dataset["sample_size"], dataset["shuffle"]) == ("alpaca", 1000, True)
    (note,) = one.notes
    assert note.startswith("fp_precision float16 is left out") and "NAME-F16.gguf" in note
    # In the words of here it is the same experiment.
    own = "models: [a.gguf]\ngeneration: {max_tokens: 128}\n"
    own += "dataset: {source: alpaca, sample_size: 1000, shuffle: true}\n"
    assert chosen(own, tmp_path).hash == one.hash


@pytest.mark.parametrize(
    ("text", "sets", "mode", "sizes"),
    [
        ("batch_size: 8\n", (), "throughput", [8]),
        ("batch_size: 1\n", (), "collect", [1, 2, 4, 8]),
        ("batch_size: 8\n", ("batch_size=1",), "throughput", [1]),
        ("preset: throughput\n", ("batch_size=1",), "throughput", [1]),
        ("preset: throughput\n", ("batch_size=2",), "throughput", [2]),
    ],
)
def test_a_batch_size_above_one_is_mode_throughput(
    tmp_path: Path, text: str, sets: tuple[str, ...], mode: str, sizes: list[int]
) -> None:
    config = chosen(text, tmp_path, *sets).config
    assert (config["mode"], config["batch_sizes"]) == (mode, sizes)


def test_a_sample_is_of_the_dataset_or_of_the_prompts(tmp_path: Path) -> None:
    config = chosen("dataset: {source: a.txt}\n", tmp_path, "sample_size=7").config
    assert (config["dataset"]["sample_size"], config["limit"]) == (7, None)
    config = chosen("prompts: [a.csv]\n", tmp_path, "sample_size=7").config
    assert (config["dataset"], config["limit"]) == (None, 7)
    config = chosen("prompts: [a.csv]\n", tmp_path, "dataset.source=b.txt", "sample_size=7").config
    assert (config["dataset"]["sample_size"], config["prompts"]) == (7, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fp_precision: float32", "fp_precision float32 is left out: a GGUF has the precision of its file"),
        ("quantization: true", "quantization true is left out: a GGUF is quantized or not"),
        ("quantization: false", "quantization false is left out"),
        ("num_processes: 4", "num_processes 4 is left out: one board answers in one process"),
        ("gpu_list: [0, 1]", "gpu_list 0,1 is left out"),
    ],
)
def test_what_has_no_meaning_here_is_said_in_one_line(tmp_path: Path, words: str, said: str) -> None:
    one = chosen(f"{words}\n", tmp_path)
    assert len(one.notes) == 1 and one.notes[0].startswith(said) and "\n" not in one.notes[0]
    assert one.hash == chosen("{}\n", tmp_path).hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt_source: alpaca\n", "prompt_source: has keys"),
        ("prompt_source: {type: web, dataset: a}\n", "prompt_source.type: huggingface or file, not web"),
        ("prompt_source: {dataset: a, colour: red}\n", "unknown key dataset.colour"),
        ("prompt_source: {dataset: a}\ndataset: {source: b}\n", "say the same"),
        ("max_output_tokens: 5\ngeneration: {max_tokens: 6}\n", "say the same"),
        ("max_output_tokens: many\n", "generation.max_tokens"),
        ("max_input_tokens: 64\n", "the word for it is engine.n_ctx"),
        ("model_name: a\n", "the word for it is models"),
        ("batch_size: 0\n", "batch_sizes"),
        ("batch_size: many\n", "batch_sizes"),
    ],
)
def test_a_word_that_is_used_wrongly_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen(text, tmp_path)
    assert said in str(caught.value)


def test_all_faults_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen("modles: [a]\ncycles: 11\nlimit: 0\ngeneration: {max_tokns: 5}\n", tmp_path)
    assert len(caught.value.faults) == 4
    assert "(3 more faults" in str(caught.value)


def test_a_grid_over_the_batch_size_is_one_of_mode_throughput(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("models: [a.gguf]\n")
    made = write_grid(base, ["batch_size=1,2,4,8", "max_output_tokens=16,32"], tmp_path, None)
    configs = [effective(path, None, []).config for path in made]
    assert [(one["batch_sizes"], one["generation"]["max_tokens"]) for one in configs] == [
        ([size], tokens) for size in (1, 2, 4, 8) for tokens in (16, 32)
    ]
    assert {one["mode"] for one in configs} == {"throughput"}


def test_a_grid_over_a_word_without_a_meaning_names_what_to_vary() -> None:
    with pytest.raises(UserError, match=r"vary the files: --vary models=a-F16.gguf,a-Q6_K.gguf"):
        grid_values(["fp_precision=float16,float32"])
