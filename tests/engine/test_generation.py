"""What comes out is proved to be a generation: broken logits fail the answer, wherever they break."""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

import llama_cpp as engine
import numpy as np

from edgebench.engine import single
from edgebench.engine.batch import BatchDecoder
from edgebench.engine.binding import STUCK_STEPS, Watch, refuse_broken
from edgebench.engine.draft import DraftDecoder, DraftRequest
from edgebench.engine.protocol import (
    NOT_A_GENERATION,
    REFUSED,
    Drafting,
    EngineFailure,
    ModelLoad,
    Prompt,
    Sampling,
)
from tests.fakes import odd_models

Load = Callable[..., Any]
PROMPT = Prompt.of_text("Who keeps the lighthouse?", format="raw")
BROKEN: dict[str, tuple[str, Callable[[str, Any], Any], str]] = {
    "NaN in a layer": ("qwen2", odd_models.filled(math.nan, "blk.0.ffn_down.weight"), "NaN"),
    "one logit NaN": ("qwen2", odd_models.one_bad_column(math.nan), "1 of .* logits are NaN"),
    "one logit infinite": ("qwen2", odd_models.one_bad_column(math.inf), "NaN|infinite"),
    "overflow": ("qwen2", odd_models.filled(3e38, "output_norm.weight"), "NaN|infinite"),
    "all zero": ("qwen2", odd_models.filled(0.0, "output_norm.weight"), "logits are 0,"),
    "all nearly equal": ("qwen2", odd_models.filled(1e-9, "output_norm.weight"), "lie between"),
    "saturated by the soft cap": ("gemma2", odd_models.filled(1e30, "output_norm.weight"), "logits are 30,"),
    "blind": ("qwen2", odd_models.stuck, "does not depend on what was read"),
}


@pytest.fixture(params=BROKEN, scope="module")
def broken(
    request: pytest.FixtureRequest, demo_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A model with broken weights, and what its failure must name."""
    arch, change, words = BROKEN[request.param]
    path = tmp_path_factory.mktemp("broken") / "broken.gguf"
    return odd_models.changed(demo_models[arch], path, change), words


def draft_decoder(path: Path, **drafting: Any) -> DraftDecoder:
    load = ModelLoad(1024, n_batch=64, n_ubatch=64, flash_attn="off", n_gpu_layers=0)
    return DraftDecoder(str(path), load, Drafting(**drafting))


# --- Every way of decoding


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_answer(broken: tuple[Path, str], temperature: float, context_of: Load) -> None:
    path, words = broken
    with pytest.raises(EngineFailure, match=words) as failed:
        single.run(context_of(path), PROMPT, Sampling(40, temperature))
    assert failed.value.kind == NOT_A_GENERATION


def test_answers_together(broken: tuple[Path, str], context_of: Load) -> None:
    path, words = broken
    decoder = BatchDecoder(context_of(path, n_seq_max=2))
    with pytest.raises(EngineFailure, match=words) as failed:
        decoder.run([[PROMPT, Prompt.of_text("Why?", format="raw")]], Sampling(40))
    assert failed.value.kind == NOT_A_GENERATION
    decoder.close()


@pytest.mark.parametrize("plain", [True, False])
def test_an_answer_with_drafts(broken: tuple[Path, str], plain: bool) -> None:
    path, words = broken
    decoder = draft_decoder(path)
    with pytest.raises(EngineFailure, match=words) as failed:
        decoder.run(DraftRequest([300, 301, 302], 40), plain)
    assert failed.value.kind == NOT_A_GENERATION
    decoder.close()


def test_a_draft_model_whose_logits_break(demo_models: dict[str, Path], tmp_path: Path) -> None:
    change = odd_models.filled(math.nan, "blk.0.ffn_down.weight")
    draft = odd_models.changed(demo_models["llama"], tmp_path / "draft.gguf", change)
    decoder = draft_decoder(demo_models["llama"], drafter="model", draft=str(draft))
    with pytest.raises(EngineFailure, match="NaN") as failed:
        decoder.run(DraftRequest([300, 301, 302], 20), plain=False)
    assert failed.value.kind == NOT_A_GENERATION
    assert decoder.run(DraftRequest([300, 301, 302], 20), plain=True).token_ids
    decoder.close()


# --- Wherever it breaks


@pytest.mark.parametrize("step", [2, 5, 9])
def test_logits_that_break_in_the_middle(
    step: int, tiny_model: Callable[..., Path], tmp_path: Path, context_of: Load
) -> None:
    """The word that the answer has at this place is embedded as NaN: what follows is rubbish."""
    whole = tiny_model("llama", chain=True)
    ids = said_by(whole)
    at_fault = ids[step - 1]

    def change(name: str, data: Any) -> Any:
        if name == "token_embd.weight":
            data = data.copy()
            data[at_fault] = math.nan
        return data

    context = context_of(odd_models.changed(whole, tmp_path / "late.gguf", change))
    with pytest.raises(EngineFailure, match=f"^token {step + 1}: .* NaN") as failed:
        single.run(context, PROMPT, Sampling(40))
    assert failed.value.kind == NOT_A_GENERATION
    # As long as it says no rubbish it is an answer.
    assert single.run(context, PROMPT, Sampling(step)).completion_tokens == step


def said_by(path: Path) -> list[int]:
    """The ids of a model's answer."""
    decoder = draft_decoder(path)
    ids = decoder.target.model.tokenize(PROMPT.messages[0].content or "", True, False)
    said = list(decoder.run(DraftRequest(ids, 20), plain=True).token_ids)
    decoder.close()
    return said


# --- What is no language model


def test_an_encoder_says_nothing(demo_models: dict[str, Path], tmp_path: Path, context_of: Load) -> None:
    context = context_of(odd_models.bert(demo_models["qwen2"], tmp_path / "bert.gguf"), n_ctx=512)
    with pytest.raises(EngineFailure, match="embedding model") as failed:
        single.run(context, PROMPT, Sampling(4))
    assert failed.value.kind == NOT_A_GENERATION


@pytest.mark.parametrize("pooling", [1, 2, 3])
def test_a_decoder_that_is_an_embedding_model(
    pooling: int, demo_models: dict[str, Path], tmp_path: Path, context_of: Load
) -> None:
    """Qwen3-Embedding and its like: the architecture speaks, the weights do not."""
    path = odd_models.changed(
        demo_models["qwen3"], tmp_path / "embedding.gguf", metadata={"qwen3.pooling_type": pooling}
    )
    with pytest.raises(EngineFailure, match="embedding model") as failed:
        single.run(context_of(path), PROMPT, Sampling(4))
    assert failed.value.kind == NOT_A_GENERATION


def test_an_encoder_before_the_decoder_is_refused_with_a_reason(
    demo_models: dict[str, Path], tmp_path: Path, context_of: Load
) -> None:
    context = context_of(odd_models.t5(demo_models["qwen2"], tmp_path / "t5.gguf"), n_ctx=512)
    with pytest.raises(EngineFailure, match="encoder before its decoder") as failed:
        single.run(context, PROMPT, Sampling(4))
    assert failed.value.kind == REFUSED


# --- The choice, and no false alarm


def greedy_of_the_engine(logits: Any) -> int:
    """What llama.cpp's own greedy sampler takes."""
    data = (engine.llama_token_data * len(logits))()
    for token, logit in enumerate(logits):
        data[token] = engine.llama_token_data(id=token, logit=float(logit), p=0.0)
    array = engine.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    sampler = engine.llama_sampler_init_greedy()
    engine.llama_sampler_apply(sampler, ctypes.byref(array))
    engine.llama_sampler_free(sampler)
    return int(data[array.selected].id)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([-3.5, -0.0, 0.0, 1.25, 7.0]), min_size=8, max_size=60))
def test_among_equals_the_one_that_the_engine_takes(logits: list[float]) -> None:
    row = np.array([*logits, 9.0, 9.0], np.float32)  # two equals at the top, and more below
    row[: len(logits) // 2][row[: len(logits) // 2] == 7.0] = 9.0
    if np.count_nonzero(row == 9.0) > len(row) / 8:
        row = np.concatenate([row, np.full(8 * len(row), -9.0, np.float32)])
    assert Watch().best(row) == greedy_of_the_engine(row)


def test_barred_tokens_and_padding_are_no_alarm() -> None:
    row = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    row[100:600] = -np.inf  # barred
    row[900:] = 0.0  # padding of the vocabulary
    assert Watch().best(row) == int(row.argmax())


@pytest.mark.parametrize(
    "row",
    [
        np.full(500, -np.inf, np.float32),
        np.full(500, 3.25, np.float32),
        np.where(np.arange(500) % 2, 30.0, -30.0).astype(np.float32),
        (1e4 + 1e-3 * (np.arange(500) % 3)).astype(np.float32),
        np.array([*np.zeros(499), np.nan], np.float32),
        np.array([np.inf, *np.zeros(499)], np.float32),
    ],
)
def test_rows_that_no_language_model_gives(row: Any) -> None:
    with pytest.raises(EngineFailure) as failed:
        refuse_broken(row, 3)
    assert failed.value.kind == NOT_A_GENERATION and str(failed.value).startswith("token 3: ")


def test_a_word_said_again_and_again_is_an_answer_where_the_logits_move() -> None:
    watch, row = Watch(), np.random.default_rng(1).normal(0, 3, 500).astype(np.float32)
    row[7] = 20.0
    for step in range(4 * STUCK_STEPS):
        row[7] = 20.0 + step / 10
        assert watch.best(row) == 7
    watch.check_it_moved()


def test_one_word_for_ever_from_one_and_the_same_logits_is_none() -> None:
    watch, row = Watch(), np.random.default_rng(1).normal(0, 3, 500).astype(np.float32)
    for _ in range(STUCK_STEPS - 1):
        watch.best(row)
    watch.check_it_moved()  # a short answer may be that
    watch.best(row)
    with pytest.raises(EngineFailure, match="does not depend on what was read"):
        watch.check_it_moved()
