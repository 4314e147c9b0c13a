"""Every prompt is computed from scratch: proved by the engine's counter and by the cache's own positions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

import llama_cpp as engine

from edgebench.engine import single
from edgebench.engine.batch import BatchDecoder
from edgebench.engine.binding import Context
from edgebench.engine.draft import DraftDecoder, DraftRequest
from edgebench.engine.protocol import (
    NOT_COLD,
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
LONGER = Prompt.of_text("Who keeps the lighthouse, and what does it cost in a year? " * 3, format="raw")
MAKERS = {
    "mamba": odd_models.mamba,  # a state
    "lfm2": odd_models.lfm2,  # a state and a cache
    "granite_hybrid": odd_models.granite_hybrid,
}
KINDS = ("llama", "gemma2", *MAKERS)  # a cache; one with a sliding window


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, demo_models: dict[str, Path], tmp_path: Path) -> Path:
    """A model of each kind of memory."""
    if request.param in demo_models:
        return demo_models[request.param]
    return MAKERS[request.param](demo_models["qwen2"], tmp_path / "odd.gguf")


def draft_decoder(path: Path) -> DraftDecoder:
    load = ModelLoad(1024, n_batch=64, n_ubatch=64, flash_attn="off", n_gpu_layers=0)
    return DraftDecoder(str(path), load, Drafting())


def clear_nothing(*_: Any) -> None:
    """In place of the engine's call."""


def test_the_same_answer_after_any_other(path: Path, context_of: Load) -> None:
    context = context_of(path, n_batch=32, n_ubatch=32)
    first = single.run(context, PROMPT, Sampling(24))
    other = single.run(context, LONGER, Sampling(24))
    again = single.run(context, PROMPT, Sampling(24))
    for answer in (first, other, again):
        assert answer.error is None and answer.prompt_tokens_evaluated == answer.prompt_tokens
    assert first.output_text == again.output_text != other.output_text
    alone = single.run(context_of(path, n_batch=32, n_ubatch=32), PROMPT, Sampling(24))
    assert alone.output_text == first.output_text


def test_answers_together_are_those_alone(path: Path, context_of: Load) -> None:
    alone = [single.run(context_of(path), prompt, Sampling(12)).output_text for prompt in (PROMPT, LONGER)]
    decoder = BatchDecoder(context_of(path, n_seq_max=2))
    for _ in range(2):
        together = decoder.run([[PROMPT, LONGER]], Sampling(12)).sequences
        assert [one.output_text.strip() for one in together] == [text.strip() for text in alone]
    decoder.close()


def test_plain_decoding_with_any_memory(path: Path) -> None:
    decoder = draft_decoder(path)
    ids = decoder.target.model.tokenize("Who keeps the lighthouse?", True, False)
    first, other, again = (decoder.run(DraftRequest(asked, 12), plain=True) for asked in (ids, ids * 3, ids))
    assert first.token_ids == again.token_ids and first.prompt_ids_sha256 == again.prompt_ids_sha256
    assert other.prompt_ids_sha256 != first.prompt_ids_sha256
    decoder.close()


def test_drafts_that_a_state_cannot_take_back_are_refused_with_the_cure(
    demo_models: dict[str, Path], tmp_path: Path
) -> None:
    decoder = draft_decoder(odd_models.mamba(demo_models["qwen2"], tmp_path / "odd.gguf"))
    ids = [300, 301, 302] * 12
    with pytest.raises(EngineFailure, match="--plain") as failed:
        for seed in range(20):  # some draft is refused by the model
            decoder.run(DraftRequest([*ids, 300 + seed], 60), plain=False)
    assert failed.value.kind == REFUSED
    assert decoder.run(DraftRequest(ids, 12), plain=True).token_ids
    decoder.close()


# --- Where the clearing does nothing


def test_a_run_that_finds_the_cache_filled_fails(
    path: Path, context_of: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(path)
    monkeypatch.setattr(engine, "llama_memory_clear", clear_nothing)
    assert single.run(context, PROMPT, Sampling(8)).error is None  # the first one
    for measure in (
        lambda: single.run(context, LONGER, Sampling(8)),
        lambda: single.prefill_block(context, PROMPT, 0.01),
    ):
        with pytest.raises(EngineFailure, match="still held") as failed:
            measure()
        assert failed.value.kind == NOT_COLD


def test_a_run_whose_cache_holds_more_than_its_own_fails(
    path: Path, context_of: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the engine's counter says that every prompt token was computed."""
    context = context_of(path)
    single.run(context, PROMPT, Sampling(8))
    monkeypatch.setattr(Context, "start_cold", lambda self: engine.llama_perf_context_reset(self.handle))
    warm = single.run(context, PROMPT, Sampling(8))
    assert warm.prompt_tokens_evaluated == warm.prompt_tokens
    assert warm.error is not None and warm.error.kind == NOT_COLD and "warm_cache" in warm.flags


def test_answers_together_that_find_the_cache_filled_fail(
    path: Path, context_of: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = BatchDecoder(context_of(path, n_seq_max=2))
    monkeypatch.setattr(engine, "llama_memory_clear", clear_nothing)
    decoder.run([[PROMPT, LONGER]], Sampling(4))
    with pytest.raises(EngineFailure, match="still held") as failed:
        decoder.run([[PROMPT]], Sampling(4))
    assert failed.value.kind == NOT_COLD
    decoder.close()


def test_an_answer_with_drafts_that_finds_the_cache_filled_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = draft_decoder(path)
    monkeypatch.setattr(engine, "llama_memory_clear", clear_nothing)
    decoder.run(DraftRequest([300, 301], 4), plain=True)
    with pytest.raises(EngineFailure, match="still held") as failed:
        decoder.run(DraftRequest([300, 301], 4), plain=True)
    assert failed.value.kind == NOT_COLD
    decoder.close()
