"""companions/engine_worker.py against the engine itself: same tokens, same text, every prompt computed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.engine import single as engine_worker

ROOT = Path(__file__).resolve().parents[1]
ARCHS = ("llama", "qwen2", "gemma2", "phi3", "qwen3")
LOAD = {
    "op": "load", "n_ctx": 1024, "n_batch": 512, "n_ubatch": 512, "n_threads": 1, "flash_attn": "off",
    "kv_type": "f16", "n_gpu_layers": 0,
}  # fmt: skip
QUESTION = "Who keeps the lighthouse, and what does it cost? Zürich, 12 °C, 漢字."


def ask(model: Path, *requests: dict[str, Any], load: dict[str, Any] = LOAD) -> list[dict[str, Any]]:
    """Answers of one worker to open, load and the requests."""
    lines = [{"op": "open", "model": str(model)}, load, *requests]
    done = subprocess.run(
        [sys.executable, str(ROOT / "edgebench/engine/single.py")],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()][2:]


def run(text: str, max_tokens: int = 24, **prompt: Any) -> dict[str, Any]:
    messages = prompt.pop("messages", [{"role": "user", "content": text}])
    return {
        "op": "run", "prompt": {"messages": messages, "format": "chat", **prompt},
        "max_tokens": max_tokens, "temperature": 0, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_tokens_and_text_are_those_of_the_engines_own_chat_call(
    arch: str, demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    (answer,) = ask(demo_models[arch], run(QUESTION, thinking=True))
    record = answer["record"]
    # A context of its own per call: the engine's chat call would otherwise re-use what it has computed.
    llm = llama_cpp.Llama(str(demo_models[arch]), n_ctx=1024, n_threads=1, verbose=False)
    messages = [{"role": "user", "content": QUESTION}]
    own = llm.create_chat_completion(messages, max_tokens=24, temperature=0)
    said = own["choices"][0]["message"]["content"]
    assert record["prompt_tokens"] == record["prompt_tokens_evaluated"] == own["usage"]["prompt_tokens"]
    assert record["completion_tokens"] == own["usage"]["completion_tokens"]
    assert record["finish_reason"] == own["choices"][0]["finish_reason"]
    if record["reasoning_text"] is None:
        assert record["output_text"] == said


@pytest.mark.parametrize("arch", ARCHS)
def test_no_prompt_starts_with_two_bos(arch: str, demo_models: dict[str, Path], llama_cpp: Any) -> None:
    llm = llama_cpp.Llama(str(demo_models[arch]), vocab_only=True, verbose=False)
    (chat, raw) = ask(demo_models[arch], run("x", 1), run("x", 1, format="raw"))
    one_word = len(llm.tokenize(b"x", add_bos=True, special=False))
    assert raw["record"]["prompt_tokens"] == one_word  # as the model's metadata asks, and not one more
    assert chat["record"]["prompt_tokens"] > one_word


def test_nested_prompts_are_computed_whole_in_any_order(demo_models: dict[str, Path]) -> None:
    texts = ["river " * n for n in (5, 50, 100, 200)]
    forth = ask(demo_models["llama"], *(run(text, 4) for text in texts))
    back = ask(demo_models["llama"], *(run(text, 4) for text in reversed(texts)))
    for one, other in zip(forth, reversed(back), strict=True):
        assert one["record"]["prompt_tokens_evaluated"] == one["record"]["prompt_tokens"]
        assert one["record"]["output_text"] == other["record"]["output_text"]
    lengths = [answer["record"]["prompt_tokens"] for answer in forth]
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_prompts_around_a_batch_are_counted_right(extra: int, demo_models: dict[str, Path]) -> None:
    """A last batch of one token looks like decoding to the engine's counters."""
    small = {**LOAD, "n_batch": 32, "n_ubatch": 32}
    probe = [{"op": "count", "prompt": run("a" * n)["prompt"]} for n in range(1, 120)]
    counts = [answer["prompt_tokens"] for answer in ask(demo_models["llama"], *probe, load=small)]
    fitting = [n for n, count in enumerate(counts, 1) if count % 32 == extra]
    assert fitting
    (answer,) = ask(demo_models["llama"], run("a" * fitting[0], 3), load=small)
    assert answer["record"]["prompt_tokens_evaluated"] == answer["record"]["prompt_tokens"]


def test_a_refused_system_message_moves_into_the_users(demo_models: dict[str, Path]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (refused,) = ask(demo_models["gemma2"], run("", messages=messages))
    assert refused["flags"].count("system_in_user") == 1
    (taken,) = ask(demo_models["llama"], run("", messages=messages))
    assert "system_in_user" not in taken["flags"]


def test_thinking_is_split_off_by_token(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("qwen3", script=["The answer is A."], think=True)
    on, off, cut = ask(model, run("Why?", 60, thinking=True), run("Why?", 60), run("Why?", 3, thinking=True))
    assert on["record"]["output_text"] == "The answer is A." == off["record"]["output_text"]
    assert on["record"]["reasoning_text"] and "<think>" not in on["record"]["reasoning_text"]
    assert 0 < on["record"]["reasoning_tokens"] < on["record"]["completion_tokens"]
    assert off["record"]["reasoning_tokens"] == 0 and off["record"]["reasoning_text"] is None
    assert off["record"]["prompt_tokens"] > on["record"]["prompt_tokens"]  # the template closes the thinking
    assert cut["record"]["output_text"] == "" and "cut_in_thinking" in cut["flags"]
    assert cut["record"]["reasoning_tokens"] == 3


def test_an_answer_of_no_tokens_is_an_answer(tiny_model: Callable[..., Path]) -> None:
    for seed in range(8):
        answers = ask(
            tiny_model("llama", mode="early", seed=seed), *(run(f"question {n}", 40) for n in range(60))
        )
        empty = [answer for answer in answers if answer["record"]["completion_tokens"] == 0]
        if empty:
            break
    assert empty, "no prompt of any model ended at once"
    for answer in empty:
        record = answer["record"]
        assert record["finish_reason"] == "stop" and record["output_text"] == ""
        assert record["tpot_ms"] is None and record["decode_tok_per_s"] is None
        assert record["ttft_ms"] > 0 and "empty_output" in answer["flags"]


def test_max_tokens_is_never_passed(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("gemma2", mode="never")
    for limit, answer in zip((1, 2, 7), ask(model, *(run(QUESTION, n) for n in (1, 2, 7))), strict=True):
        assert answer["record"]["completion_tokens"] == limit
        assert answer["record"]["finish_reason"] == "length" and "truncated_output" in answer["flags"]


def test_seeded_sampling_is_repeatable_and_differs_by_seed(tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("llama", mode="never")
    requests = [{**run(QUESTION), "temperature": 1.5, "seed": seed} for seed in (1, 1, 2)]
    one, again, other = (answer["record"]["output_text"] for answer in ask(model, *requests))
    assert one == again != other


def test_refusals_are_answers_with_the_engines_reason(demo_models: dict[str, Path], tmp_path: Path) -> None:
    long, bad = ask(demo_models["llama"], run("river " * 2000), {"op": "nonsense"})
    assert (
        not long["ok"]
        and "--max_tokens" in long["error"]["message"]
        and "--n_ctx" in long["error"]["message"]
    )
    assert not bad["ok"]
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_models["llama"].read_bytes()[:-5000])
    done = subprocess.run(
        [sys.executable, str(ROOT / "edgebench/engine/single.py")],
        input=json.dumps({"op": "open", "model": str(broken)}) + "\n" + json.dumps(LOAD) + "\n",
        capture_output=True,
        text=True,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert not last["ok"] and "file bounds" in last["error"]["message"]


def test_a_model_without_a_chat_template_says_so_and_runs_raw(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    """The template's key is overwritten in place, so that the file keeps its length."""
    model = tmp_path / "bare.gguf"
    data = demo_models["llama"].read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    model.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.that_template"))
    chat, raw = ask(model, run("Why?"), run("Why?", format="raw"))
    assert not chat["ok"] and "--prompt_format raw" in chat["error"]["message"]
    assert raw["ok"] and raw["record"]["completion_tokens"] > 0


def test_a_repeated_prefill_is_counted_and_timed(demo_models: dict[str, Path]) -> None:
    request = {"op": "prefill", "prompt": run("river " * 50)["prompt"], "seconds": 0.2}
    block, after = ask(demo_models["llama"], request, run("river " * 50, 4))
    assert block["count"] >= 1 and block["t1_s"] - block["t0_s"] >= 0.2
    assert block["prompt_tokens"] == after["record"]["prompt_tokens_evaluated"]


def test_a_template_that_cannot_be_read_says_so_and_runs_raw(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    model, data = tmp_path / "odd.gguf", demo_models["llama"].read_bytes()
    start = data.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4 + 8
    model.write_bytes(data[:start] + b"{% if" + data[start + 5 :])
    chat, raw = ask(model, run("Why?"), run("Why?", format="raw"))
    assert not chat["ok"] and "cannot be read" in chat["error"]["message"]
    assert "--prompt_format raw" in chat["error"]["message"] and raw["ok"]


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
    assert engine_worker.board_state(tmp_path).temp_c == 45.0
