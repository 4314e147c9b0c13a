"""What a start would refuse is known before anything is made; validate tells all of it at once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.experiments.config import effective
from edgebench.experiments.preflight import findings, runs_per_cycle
from edgebench.experiments.validate import validate
from edgebench.gguf.cache import why_it_cannot_take


@pytest.fixture
def here(tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and prompts, in which paths are relative."""
    (tmp_path / "m.gguf").write_bytes(tiny_model("llama").read_bytes())
    (tmp_path / "p.csv").write_text("question_id,L0,P\n1,a,b\n2,c,d\n3,e,f\n")
    (tmp_path / "set.txt").write_text("one\ntwo\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(text: str, *sets: str) -> list[tuple[str, str]]:
    Path("e.yaml").write_text(text)
    return [(one.kind, one.text) for one in findings(effective(Path("e.yaml"), None, sets).config)]


GOOD = "models: [m.gguf]\nprompts: [p.csv]\nlevels: [L0, P]\n"


def test_nothing_is_found_where_all_is_there(here: Path) -> None:
    assert found(GOOD) == []
    assert found("models: [m.gguf]\ndataset: {source: set.txt}\n") == []


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("prompts: [p.csv]\nlevels: [L0]\n", "wrong", "no model"),
        (GOOD.replace("m.gguf", "gone.gguf"), "absent", "models: gone.gguf does not exist"),
        (GOOD.replace("m.gguf", "TinyLlama/TinyLlama-1.1B"), "absent", "models are GGUF files"),
        (GOOD.replace("p.csv", "gone.csv"), "absent", "prompts: gone.csv does not exist"),
        (GOOD.replace("P]", "L7]"), "wrong", "no column L7"),
        (GOOD + "ids: [9]\n", "wrong", "no task 9"),
        (GOOD + "power: {source: 'replay:gone.log'}\n", "absent", "gone.log does not exist"),
        (GOOD + "judge: {serve_model: gone.gguf, questions: p.csv}\n", "doubtful", "judge.serve_model"),
        ("models: [m.gguf]\ndataset: {source: set.txt}\nlevels: [L3]\n", "wrong", "no level L3"),
        ("models: [m.gguf]\ndataset: {source: gone.txt}\n", "wrong", "no such file: gone.txt"),
        (
            "mode: throughput\nmodels: [m.gguf]\nprompts: [p.csv]\nlimit: 3\nbatch_sizes: [1, 2, 4]\n",
            "wrong",
            "a batch of 4 needs 4 prompts, and there are 3",
        ),
    ],
)
def test_each_fault_is_found_with_its_cure(here: Path, text: str, kind: str, said: str) -> None:
    (one,) = found(text)
    assert one[0] == kind and said in one[1]


def test_what_is_no_model_is_found(here: Path) -> None:
    (here / "m.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3))
    ((kind, text),) = found(GOOD)
    assert kind == "wrong" and text.startswith("models: m.gguf: ")


def test_a_set_on_a_hub_that_does_not_answer_may_answer_later(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", "none")
    ((kind, text),) = found("models: [m.gguf]\ndataset: {source: alpaca}\n")
    assert kind == "absent" and "alpaca comes from a hub" in text
    monkeypatch.setenv("HF_DATASETS_CACHE", ".")  # an earlier start may have downloaded it
    ((kind, _),) = found("models: [m.gguf]\ndataset: {source: alpaca}\n")
    assert kind == "doubtful"


def made(**metadata: Any) -> dict[str, Any]:
    return {"general.architecture": "x", "x.block_count": 1, **{f"x.{k}": v for k, v in metadata.items()}}


@pytest.mark.parametrize(
    ("metadata", "kv_type", "flash_attn", "said"),
    [
        (
            made(embedding_length=2304, **{"attention.head_count": 32}),
            "q8_0",
            "auto",
            "K heads have 72 values",
        ),
        (made(embedding_length=2048, **{"attention.head_count": 32}), "q8_0", "auto", None),
        (made(embedding_length=2304, **{"attention.head_count": 32}), "f16", "auto", None),
        (made(embedding_length=2048, **{"attention.head_count": 32}), "q8_0", "off", "needs flash attention"),
        (
            made(embedding_length=2048, **{"attention.head_count": 32, "attention.value_length": 40}),
            "q8_0",
            "on",
            "V heads have 40 values",
        ),
        ({}, "q8_0", "auto", None),
    ],
)
def test_a_quantized_cache_needs_heads_of_whole_blocks(
    metadata: dict[str, Any], kv_type: str, flash_attn: str, said: str | None
) -> None:
    problem = why_it_cannot_take(metadata, kv_type, flash_attn)
    assert problem is None if said is None else said in str(problem)


def test_validate_tells_all_faults_of_a_file_and_what_may_come(here: Path) -> None:
    Path("bad.yaml").write_text("modles: [a]\ncycles: 11\n")
    report = validate(Path("bad.yaml"))
    assert report.id is None and len(report.faults) == 2
    Path("later.yaml").write_text(GOOD.replace("m.gguf", "gone.gguf") + "fp_precision: float16\n")
    report = validate(Path("later.yaml"))
    assert report.id and not report.faults and len(report.warnings) == 2
    assert all(line.startswith("warning: later.yaml: ") for line in report.lines())


def test_runs_are_counted_where_the_prompts_are_here(here: Path) -> None:
    def runs(*sets: str) -> int | None:
        Path("e.yaml").write_text("models: [m.gguf]\nrepeats: 2\n")
        return runs_per_cycle(effective(Path("e.yaml"), None, sets).config)

    assert runs("prompts=p.csv", "levels=[L0, P]") == 12
    assert runs("dataset.source=set.txt") == 4
    assert runs("dataset.source=set.txt", "limit=1") == 2
    assert runs("dataset.source=alpaca") is None
