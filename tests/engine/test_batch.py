"""engine/batch.py: several answers decoded together are the answers alone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

from edgebench.engine import single
from edgebench.engine.batch import BatchDecoder
from edgebench.engine.protocol import (
    REFUSED,
    BatchGeneration,
    EngineFailure,
    Prompt,
    Sampling,
    SequenceAnswer,
)

ARCHS = ("llama", "qwen2", "gemma2", "phi3", "qwen3")
TEXTS = (
    "Hello there",
    "Why?",
    "Tell me of a dog and a cat that went on a very long walk together through the wood. " * 6,
    "abc",
    "What is the colour of the sky at noon?",
    "Go " * 40,
)
Load = Callable[..., Any]
Decode = Callable[..., BatchGeneration]


@pytest.fixture
def decoder_of(context_of: Load) -> Iterator[Load]:
    """A function that loads a model for several sequences."""
    open_ones: list[BatchDecoder] = []

    def load(path: Path, **settings: Any) -> BatchDecoder:
        wanted = {"n_ctx": 512, "n_seq_max": 6, "n_batch": 64, "n_ubatch": 32, "flash_attn": "auto"}
        decoder = BatchDecoder(context_of(path, **{**wanted, **settings}))
        open_ones.append(decoder)
        return decoder

    yield load
    for one in open_ones:
        one.close()


def prompts(texts: Sequence[str] = TEXTS, format: str = "chat") -> list[Prompt]:
    return [Prompt.of_text(text, format) for text in texts]


def in_groups(asked: Sequence[Prompt], size: int) -> list[Sequence[Prompt]]:
    return [asked[start : start + size] for start in range(0, len(asked), size)]


def told(sequence: SequenceAnswer) -> tuple[Any, ...]:
    return sequence.ids_sha256, sequence.output_text, sequence.finish_reason, sequence.prompt_ids_sha256


@pytest.mark.parametrize("arch", ARCHS)
def test_each_sequence_says_what_it_says_alone(
    arch: str, demo_models: dict[str, Path], decoder_of: Load
) -> None:
    """Different prompts, lengths and ends; the F32 model leaves no room for another rounding to show."""
    decoder = decoder_of(demo_models[arch])
    batches = [decoder.run(in_groups(prompts(), size), Sampling(50)) for size in (6, 4, 2, 1)]
    alone = batches.pop().sequences
    for batch in batches:
        assert list(map(told, batch.sequences)) == list(map(told, alone))
    assert len({one.prompt_tokens for one in alone}) > 3
    # Some end before the others and leave the batch: that is what must not disturb the rest.
    assert len({one.completion_tokens for one in alone}) > 1
    for one in alone:
        assert 0 < one.completion_tokens <= 50
        assert (one.finish_reason == "length") == (one.completion_tokens == 50)


@pytest.mark.parametrize("unified", [True, False])
def test_one_cache_for_all_changes_no_answer(
    unified: bool, demo_models: dict[str, Path], decoder_of: Load
) -> None:
    decoder = decoder_of(demo_models["llama"], kv_unified=unified)
    together = decoder.run([prompts()], Sampling(12))
    alone = decoder.run(in_groups(prompts(), 1), Sampling(12))
    assert list(map(told, together.sequences)) == list(map(told, alone.sequences))


@pytest.mark.parametrize("arch", ARCHS)
def test_alone_is_what_the_collectors_engine_says(
    arch: str, demo_models: dict[str, Path], decoder_of: Load, context_of: Load
) -> None:
    asked = Prompt.of_text(TEXTS[4])
    (one,) = decoder_of(demo_models[arch]).run([[asked]], Sampling(50)).sequences
    record = single.run(context_of(demo_models[arch], flash_attn="auto"), asked, Sampling(50))
    assert one.prompt_tokens == record.prompt_tokens == record.prompt_tokens_evaluated
    assert one.prompt_ids_sha256 == record.prompt_ids_sha256
    assert one.completion_tokens == record.completion_tokens
    assert one.output_text.strip() == record.output_text.strip()
    assert one.finish_reason == record.finish_reason


def test_at_a_temperature_the_draws_are_those_of_each_alone(
    demo_models: dict[str, Path], decoder_of: Load
) -> None:
    decoder, asked, warm = decoder_of(demo_models["llama"]), prompts(TEXTS[:4], "raw"), Sampling(20, 0.8, 7)
    together = decoder.run([asked], warm)
    alone = decoder.run(in_groups(asked, 1), warm)
    other = decoder.run([asked], Sampling(20, 0.8, 8))
    assert list(map(told, together.sequences)) == list(map(told, alone.sequences))
    assert list(map(told, together.sequences)) != list(map(told, other.sequences))


def test_an_answer_without_tokens_and_a_whole_batch_that_ends_at_once(
    tiny_model: Callable[..., Path], decoder_of: Load
) -> None:
    done = decoder_of(tiny_model("llama", script=["Yes."])).run([prompts(TEXTS[:3])], Sampling(50))
    assert [one.output_text for one in done.sequences] == ["Yes."] * 3
    assert [one.finish_reason for one in done.sequences] == ["stop"] * 3
    # A step chooses one id of each; the first came with the prompt, the end of sequence came last.
    assert done.steps == done.sequences[0].completion_tokens
    assert done.t1_s >= done.t0_s and done.prefill_ms > 0


def test_what_cannot_be_decoded_is_refused_with_the_cure(
    demo_models: dict[str, Path], decoder_of: Load
) -> None:
    decoder = decoder_of(demo_models["llama"], n_seq_max=2)
    for asked, words in (
        ([[Prompt.of_text("word " * 900, "raw")]], "--n_ctx"),
        ([], "empty"),
        ([prompts(TEXTS[:3])], "room for 2"),
    ):
        with pytest.raises(EngineFailure, match=words) as refused:
            decoder.run(asked, Sampling(50))
        assert refused.value.kind == REFUSED
    assert decoder.run([prompts(TEXTS[:1])], Sampling(50)).sequences
