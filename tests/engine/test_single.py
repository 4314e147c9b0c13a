"""engine/single.py against the engine itself: same tokens, same text, every prompt computed, no rubbish."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

from edgebench.engine import single
from edgebench.engine.binding import Model
from edgebench.engine.protocol import (
    EngineFailure,
    Generation,
    Message,
    Prompt,
    Sampling,
)
from edgebench.engine.reading import read_prompt

ARCHS = ("llama", "qwen2", "gemma2", "phi3", "qwen3")
QUESTION = "Who keeps the lighthouse, and what does it cost? Zürich, 12 °C, 漢字."
Load = Callable[..., Any]


def ask(context: Any, text: str, max_tokens: int = 24, **prompt: Any) -> Generation:
    """One greedy answer."""
    return single.run(context, Prompt.of_text(text, **prompt), Sampling(max_tokens))


@pytest.mark.parametrize("arch", ARCHS)
def test_tokens_and_text_are_those_of_the_engines_own_chat_call(
    arch: str, demo_models: dict[str, Path], llama_cpp: Any, context_of: Load
) -> None:
    record = ask(context_of(demo_models[arch]), QUESTION, thinking=True)
    # A context of its own per call: the engine's chat call would otherwise re-use what it has computed.
    llm = llama_cpp.Llama(str(demo_models[arch]), n_ctx=1024, n_threads=1, verbose=False)
    messages = [{"role": "user", "content": QUESTION}]
    own = llm.create_chat_completion(messages, max_tokens=24, temperature=0)
    said = own["choices"][0]["message"]["content"]
    llm.close()
    assert record.prompt_tokens == record.prompt_tokens_evaluated == own["usage"]["prompt_tokens"]
    assert record.completion_tokens == own["usage"]["completion_tokens"]
    assert record.finish_reason == own["choices"][0]["finish_reason"]
    assert record.error is None
    if record.reasoning_text is None:
        assert record.output_text == said


@pytest.mark.parametrize("arch", ARCHS)
def test_no_prompt_starts_with_two_bos(
    arch: str, demo_models: dict[str, Path], llama_cpp: Any, context_of: Load
) -> None:
    llm = llama_cpp.Llama(str(demo_models[arch]), vocab_only=True, verbose=False)
    one_word = len(llm.tokenize(b"x", add_bos=True, special=False))
    llm.close()
    context = context_of(demo_models[arch])
    # As the model's metadata asks, and not one more.
    assert ask(context, "x", 1, format="raw").prompt_tokens == one_word
    assert ask(context, "x", 1).prompt_tokens > one_word


def test_nested_prompts_are_computed_whole_in_any_order(
    demo_models: dict[str, Path], context_of: Load
) -> None:
    context = context_of(demo_models["llama"])
    texts = ["river " * n for n in (5, 50, 100, 200)]
    forth = [ask(context, text, 4) for text in texts]
    back = [ask(context, text, 4) for text in reversed(texts)]
    for one, other in zip(forth, reversed(back), strict=True):
        assert one.prompt_tokens_evaluated == one.prompt_tokens and one.error is None
        assert one.output_text == other.output_text
        assert one.prompt_ids_sha256 == other.prompt_ids_sha256
    lengths = [answer.prompt_tokens for answer in forth]
    assert lengths == sorted(set(lengths))
    assert len({answer.prompt_ids_sha256 for answer in forth}) == len(texts)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_prompts_around_a_batch_are_counted_right(
    extra: int, demo_models: dict[str, Path], context_of: Load
) -> None:
    """A last batch of one token looks like decoding to the engine's counters."""
    context = context_of(demo_models["llama"], n_batch=32, n_ubatch=32)
    counts = {n: len(read_prompt(context.model, Prompt.of_text("a" * n)).ids) for n in range(1, 120)}
    fitting = [n for n, count in counts.items() if count % 32 == extra]
    assert fitting
    answer = ask(context, "a" * fitting[0], 3)
    assert answer.prompt_tokens_evaluated == answer.prompt_tokens and answer.error is None


def test_a_refused_system_message_moves_into_the_users(
    demo_models: dict[str, Path], context_of: Load
) -> None:
    prompt = Prompt((Message("system", "Be brief."), Message("user", "Why?")))
    refused = single.run(context_of(demo_models["gemma2"]), prompt, Sampling(24))
    assert refused.flags.count("system_in_user") == 1
    taken = single.run(context_of(demo_models["llama"]), prompt, Sampling(24))
    assert "system_in_user" not in taken.flags


def test_thinking_is_split_off_by_token(tiny_model: Callable[..., Path], context_of: Load) -> None:
    context = context_of(tiny_model("qwen3", script=["The answer is A."], think=True))
    on = ask(context, "Why?", 60, thinking=True)
    off = ask(context, "Why?", 60)
    cut = ask(context, "Why?", 3, thinking=True)
    assert on.output_text == "The answer is A." == off.output_text
    assert on.reasoning_text and "<think>" not in on.reasoning_text
    assert 0 < on.reasoning_tokens < on.completion_tokens
    assert off.reasoning_tokens == 0 and off.reasoning_text is None
    assert off.prompt_tokens > on.prompt_tokens  # the template closes the thinking
    assert cut.output_text == "" and "cut_in_thinking" in cut.flags
    assert cut.reasoning_tokens == 3


def test_an_answer_of_no_tokens_is_an_answer(tiny_model: Callable[..., Path], context_of: Load) -> None:
    def answers() -> Iterator[Generation]:
        for seed in range(12):
            context = context_of(tiny_model("llama", mode="early", seed=seed))
            yield from (ask(context, f"question {n}", 40) for n in range(4))

    empty = next((answer for answer in answers() if answer.completion_tokens == 0), None)
    assert empty is not None, "no prompt of any model ended at once"
    assert empty.finish_reason == "stop" and empty.output_text == ""
    assert empty.tpot_ms is None and empty.decode_tok_per_s is None
    assert empty.ttft_ms is not None and empty.ttft_ms > 0 and "empty_output" in empty.flags
    assert empty.error is None


def test_max_tokens_is_never_passed(tiny_model: Callable[..., Path], context_of: Load) -> None:
    context = context_of(tiny_model("gemma2", mode="never"))
    for limit in (1, 2, 7):
        answer = ask(context, QUESTION, limit)
        assert answer.completion_tokens == limit
        assert answer.finish_reason == "length" and "truncated_output" in answer.flags


def test_seeded_sampling_is_repeatable_and_differs_by_seed(
    tiny_model: Callable[..., Path], context_of: Load
) -> None:
    context = context_of(tiny_model("llama", mode="never"))
    prompt = Prompt.of_text(QUESTION)
    drawn = [single.run(context, prompt, Sampling(24, 1.5, seed)).output_text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_refusals_carry_the_engines_reason(
    demo_models: dict[str, Path], tmp_path: Path, context_of: Load
) -> None:
    with pytest.raises(EngineFailure, match=r"--max_tokens .*--n_ctx") as long:
        ask(context_of(demo_models["llama"]), "river " * 2000)
    assert long.value.kind == "EngineError"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_models["llama"].read_bytes()[:-5000])
    with pytest.raises(EngineFailure, match="file bounds"):
        Model(str(broken))


def test_a_model_without_a_chat_template_says_so_and_runs_raw(
    tmp_path: Path, demo_models: dict[str, Path], context_of: Load
) -> None:
    """The template's key is overwritten in place, so that the file keeps its length."""
    model = tmp_path / "bare.gguf"
    data = demo_models["llama"].read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    model.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.that_template"))
    context = context_of(model)
    with pytest.raises(EngineFailure, match="--prompt_format raw"):
        ask(context, "Why?")
    assert ask(context, "Why?", format="raw").completion_tokens > 0


def test_a_template_that_cannot_be_read_says_so_and_runs_raw(
    tmp_path: Path, demo_models: dict[str, Path], context_of: Load
) -> None:
    model, data = tmp_path / "odd.gguf", demo_models["llama"].read_bytes()
    start = data.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4 + 8
    model.write_bytes(data[:start] + b"{% if" + data[start + 5 :])
    context = context_of(model)
    with pytest.raises(EngineFailure, match="cannot be read") as refused:
        ask(context, "Why?")
    assert "--prompt_format raw" in str(refused.value)
    assert ask(context, "Why?", format="raw").error is None


def test_a_repeated_prefill_is_counted_and_timed(demo_models: dict[str, Path], context_of: Load) -> None:
    context, prompt = context_of(demo_models["llama"]), Prompt.of_text("river " * 50)
    block = single.prefill_block(context, prompt, 0.2)
    after = single.run(context, prompt, Sampling(4))
    assert block.count >= 1 and block.t1_s - block.t0_s >= 0.2
    assert block.prompt_tokens == after.prompt_tokens_evaluated and after.error is None


def test_sensors_that_are_off_and_constants_are_no_temperatures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gated unit's sensor answers EAGAIN; the power supply's zone is a constant."""
    for n, (kind, temp) in enumerate({"cpu-thermal": "45000", "PMIC-Die": "100000", "cv0": ""}.items()):
        zone = tmp_path / f"class/thermal/thermal_zone{n}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind + "\n")
        (zone / "temp").write_text(temp + "\n")
    gated = tmp_path / "class/thermal/thermal_zone2/temp"
    real_open = Path.open

    def open_gated(path: Path, *args: object, **kwargs: object) -> object:
        if path != gated:
            return real_open(path, *args, **kwargs)
        ours, _ = pipe
        return os.fdopen(os.dup(ours), "rb", buffering=0)

    pipe = os.pipe()  # nothing to read, and not at its end: a read would block, so it answers EAGAIN
    os.set_blocking(pipe[0], False)
    monkeypatch.setattr(Path, "open", open_gated)
    assert single.board_state(tmp_path).temp_c == 45.0


def test_what_the_engine_tells_is_kept_however_much_it_says_afterwards(llama_cpp: Any) -> None:
    """A model of 36 layers on a GPU says a line a tensor between its layers' place and its last word."""
    from edgebench.engine.binding import WARN, EngineLog

    log = EngineLog()
    log.take(2, "llama_model_load: using device CUDA0 (NVIDIA H200) - 139000 MiB free")
    log.take(2, "load_tensors: offloaded 37/37 layers to GPU")
    log.take(WARN, "load: missing pre-tokenizer type, using: 'default'")
    for layer in range(5000):
        log.take(1, f"create_tensor: loading tensor blk.{layer}.attn_q.weight")
    assert log.found(r"offloaded (\d+/\d+)") == ["37/37"]
    assert log.found(r"using device (\w+ \([^)]*\))") == ["CUDA0 (NVIDIA H200)"]
    assert log.complaints() == ["load: missing pre-tokenizer type, using: 'default'"]
