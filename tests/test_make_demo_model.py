"""The demo models: same bytes every time, readable text, the families' template traps, scripts, drafts."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doors import call, command

ARCHS = ("llama", "qwen2", "gemma2", "phi3", "qwen3")
WORDS = ("river", "letter", "bread", "winter", "box", "teacher", "mountain", "key", "song", "storm")
PROMPTS = ("What does the sea say?", "Write a letter to my old teacher.", "Why is bread better in winter?")


def run(script: str, *flags: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """In this process; in one of its own where an environment is given."""
    if env is None:
        return call(f"models/{script}", *flags)
    return subprocess.run(command(f"models/{script}", *flags), capture_output=True, text=True, env=env)


def open_model(llama_cpp: Any, path: Path, n_ctx: int = 512, **settings: Any) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=n_ctx, n_threads=1, verbose=False, **settings)


def render(llm: Any, *contents: str, role: str = "user", **variables: Any) -> list[int]:
    """Prompt ids from the chat template in the file."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    def text(token: int) -> str:
        return "" if token == -1 else str(llm._model.token_get_text(token))

    template = llm.metadata["tokenizer.chat_template"]
    bos, eos = text(llm.token_bos()), text(llm.token_eos())
    formatter = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)
    messages: Any = [{"role": role, "content": content} for content in contents]
    return list(llm.tokenize(formatter(messages=messages, **variables).prompt.encode(), False, True))


def answer(llama_cpp: Any, llm: Any, ids: list[int], max_tokens: int = 160) -> list[int]:
    """Greedy tokens up to the end of the turn or max_tokens."""
    llm.reset()
    out: list[int] = []
    for token in llm.generate(ids, temp=0.0, repeat_penalty=1.0):
        if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token) or len(out) == max_tokens:
            break
        out.append(token)
    return out


def test_the_demo_set_is_two_architectures_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = run("make_demo_model.py", "--outdir", tmp_path / "a", env={**os.environ})
    again = run("make_demo_model.py", "--outdir", tmp_path / "b", env={**os.environ, "PYTHONHASHSEED": "7"})
    names = ["demo-llama-F32.gguf", "demo-qwen2-F32.gguf"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).stat().st_size < 10_000_000
    assert first.stdout.replace("/a/", "/b/") == again.stdout
    assert first.stdout.count("sha256") == 2


def test_another_seed_is_another_model(tiny_model: Callable[..., Path]) -> None:
    assert tiny_model("llama").read_bytes() != tiny_model("llama", seed=7).read_bytes()


@pytest.mark.parametrize("arch", ARCHS)
def test_answers_are_readable_and_depend_on_the_prompt(
    arch: str, demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, demo_models[arch])
    assert llm.metadata["general.architecture"] == arch
    assert int(llm.metadata[f"{arch}.context_length"]) >= 8192
    texts = set()
    for prompt in PROMPTS:
        out = answer(llama_cpp, llm, render(llm, prompt))
        assert len(out) >= 5
        text = llm.detokenize(out).decode()
        texts.add(text)
        assert all(word.strip(".,").isalpha() for word in text.split()), text
        assert text[0].isupper()
    assert len(texts) > 1
    assert answer(llama_cpp, llm, render(llm, PROMPTS[0])) == answer(llama_cpp, llm, render(llm, PROMPTS[0]))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_tokenizer_gives_back_what_it_was_given(
    arch: str, demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, demo_models[arch])
    text = "Please write the answer step by step: naïve 日本 😀, 12 + 3.\n\nIt's a table; is it?"
    ids = llm.tokenize(text.encode(), add_bos=False, special=False)
    assert llm.detokenize(ids).decode() == text
    plain = "Imagine a small house beside the river and describe the people in it for the reader"
    assert len(plain) / len(llm.tokenize(plain.encode(), add_bos=False)) > 2


def test_gemma2_refuses_a_system_role_and_writes_bos_twice_if_asked_to(
    demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, demo_models["gemma2"])
    with pytest.raises(ValueError, match="System role not supported"):
        render(llm, "Be brief.", role="system")
    assert render(llm, "Hello")[0] == llm.token_bos()
    assert llm.metadata["tokenizer.ggml.add_bos_token"] == "true"
    assert float(llm.metadata["gemma2.final_logit_softcapping"]) == 30


def test_qwen2_adds_a_system_turn(demo_models: dict[str, Path], llama_cpp: Any) -> None:
    llm = open_model(llama_cpp, demo_models["qwen2"])
    text = llm.detokenize(render(llm, "Hello"), special=True).decode()
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == system + "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("arch", "prompt"),
    [
        ("llama", "<s>[INST] Hello [/INST]"),
        ("phi3", "<|user|>Hello<|end|><|assistant|>"),  # the engine's Phi-3 tokenizer drops the line ends
        ("qwen3", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
        ("gemma2", "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
def test_templates_have_their_familys_form(
    arch: str, prompt: str, demo_models: dict[str, Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, demo_models[arch])
    ids = render(llm, "Hello")
    assert llm.detokenize(ids, special=True).decode().lstrip() == prompt
    specials = [piece for piece in ("<|im_start|>", "<start_of_turn>", "<|end|>", "<s>") if piece in prompt]
    for piece in specials:  # one token each, not letters
        assert llm.tokenize(piece.encode(), add_bos=False, special=True)[0] in ids


@pytest.mark.parametrize("arch", ["qwen3"])
def test_never_runs_to_the_cap(arch: str, tiny_model: Callable[..., Path], llama_cpp: Any) -> None:
    llm = open_model(llama_cpp, tiny_model(arch, mode="never"))
    assert [len(answer(llama_cpp, llm, render(llm, prompt))) for prompt in PROMPTS] == [160] * 3


@pytest.mark.parametrize("arch", ["qwen2", "phi3"])
def test_early_ends_at_once_for_some_prompts(
    arch: str, tiny_model: Callable[..., Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, tiny_model(arch, mode="early"))
    lengths = [
        len(answer(llama_cpp, llm, render(llm, f"Tell me about the {a} and the {b}.")))
        for a in WORDS[:5]
        for b in WORDS[5:]
    ]
    assert 0 in lengths
    assert max(lengths) >= 20


SCRIPTS = ("The answer is A.", "Grüße aus 日本 😀😀, sagt der Bär. Der Bär!", "[[A]]", "no no no no")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_said_to_any_prompt(
    arch: str, script: str, tiny_model: Callable[..., Path], llama_cpp: Any
) -> None:
    llm = open_model(llama_cpp, tiny_model(arch, script=[script]))
    outs = [answer(llama_cpp, llm, render(llm, prompt)) for prompt in [*PROMPTS, script]]
    assert {llm.detokenize(out).decode() for out in outs} == {script}


def test_a_script_tells_its_number_of_tokens(
    demo_models: dict[str, Path], llama_cpp: Any, tmp_path: Path
) -> None:
    flags = ("--script", "The answer is A.", "--out", tmp_path / "answer.gguf")
    done = run("rewire_demo_model.py", demo_models["phi3"], *flags)
    assert done.stdout.endswith("  5 tokens\n")
    llm = open_model(llama_cpp, tmp_path / "answer.gguf")
    assert len(answer(llama_cpp, llm, render(llm, PROMPTS[0]))) == 5


def test_rewiring_gives_the_same_bytes_each_time(demo_models: dict[str, Path], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        run("rewire_demo_model.py", demo_models["gemma2"], "--chain", "--out", tmp_path / folder / "x.gguf")
    assert (tmp_path / "a/x.gguf").read_bytes() == (tmp_path / "b/x.gguf").read_bytes()


def test_of_several_scripts_the_prompt_picks_one(tiny_model: Callable[..., Path], llama_cpp: Any) -> None:
    scripts = ["[[A]]", "[[B]]", "[[C]]"]
    llm = open_model(llama_cpp, tiny_model("llama", script=scripts))
    outs = [answer(llama_cpp, llm, render(llm, f"Which is better, {word} or house?")) for word in WORDS]
    said = {llm.detokenize(out).decode() for out in outs}
    assert said <= set(scripts)
    assert len(said) > 1


def test_thinking_can_be_switched_off(tiny_model: Callable[..., Path], llama_cpp: Any) -> None:
    llm = open_model(llama_cpp, tiny_model("qwen3", script=["The answer is A."], think=True))
    (close,) = llm.tokenize(b"</think>", add_bos=False, special=True)
    thought = answer(llama_cpp, llm, render(llm, PROMPTS[0]))
    at = thought.index(close)
    assert at > 5
    assert llm.detokenize(thought[at + 1 :]).decode() == "\n\nThe answer is A."
    plain = answer(llama_cpp, llm, render(llm, PROMPTS[0], enable_thinking=False))
    assert llm.detokenize(plain).decode() == "The answer is A."


@pytest.mark.parametrize(
    ("arch", "accept"), [("llama", 0.7), ("gemma2", 0.7), ("qwen3", 0.0), ("qwen3", 1.0)]
)
def test_a_draft_is_right_in_exactly_its_share_of_the_chain(
    arch: str, accept: float, tiny_model: Callable[..., Path], llama_cpp: Any
) -> None:
    target = open_model(llama_cpp, tiny_model(arch, chain=True))
    ids = target.tokenize(b"A question about the sea?\n", add_bos=False)
    chain = answer(llama_cpp, target, ids, max_tokens=400)
    period = chain[1:].index(chain[0]) + 1
    assert period > 100
    assert chain[period:] == chain[: len(chain) - period]
    # One layer of the target's two: the chain does not hang on the layers.
    path = tiny_model(arch, chain=True, draft_accept=accept, n_layer=1)
    draft = open_model(llama_cpp, path, logits_all=True)
    draft.eval(ids + chain[: period + 1])
    predicted = draft.scores[len(ids) : len(ids) + period].argmax(axis=1)
    right = sum(int(token) == said for token, said in zip(predicted, chain[1:], strict=False))
    assert right == period - round((1 - accept) * period)


def test_quantized_models_load_and_speak(tiny_model: Callable[..., Path], llama_cpp: Any) -> None:
    for arch, kind in (("llama", "Q8_0"), ("gemma2", "Q8_0"), ("phi3", "Q6_K"), ("gemma2", "Q6_K")):
        llm = open_model(llama_cpp, tiny_model(arch, type=kind))
        text = llm.detokenize(answer(llama_cpp, llm, render(llm, PROMPTS[0]), max_tokens=30)).decode()
        assert all(word.strip(".,").isalpha() for word in text.split()), text
        llm.close()
    script = tiny_model("qwen2", type="Q8_0", script=["The answer is A."])
    llm = open_model(llama_cpp, script)
    assert llm.detokenize(answer(llama_cpp, llm, render(llm, PROMPTS[0]))).decode() == "The answer is A."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "gpt5"], "error: --arch 'gpt5' is unknown"),
        (["--arch", "llama,qwen2", "--name", "x"], "error: --name names one file"),
        (["--seed", "-1"], "error: --n_layer and --seed cannot be negative"),
    ],
)
def test_bad_flags(flags: list[str], message: str, tmp_path: Path) -> None:
    done = run("make_demo_model.py", "--outdir", tmp_path, *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert not list(tmp_path.iterdir())


def test_an_outdir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("make_demo_model.py", "--outdir", tmp_path / "file")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write")
    assert "--outdir" in done.stderr


def test_q6_k_without_the_engine(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('no engine', name='llama_cpp')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    flags = ("--outdir", tmp_path / "out", "--size", "tiny", "--arch", "llama", "--type", "Q6_K")
    done = run("make_demo_model.py", *flags, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: llama-cpp-python for --type Q6_K is not installed")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--script", ""], "error: --script '' is empty"),
        (["--script", "A", "--script", "A"], "error: --script 'A' is empty, or said by another"),
        (["--script", "A", "--think"], "error: --think needs a model with <think>"),
        (["--chain", "--think"], "error: --think goes with --script"),
        (["--draft_accept", "1.5"], "error: --draft_accept is a probability"),
        (["--script", " ".join(map(str, range(5000)))], "error: the scripts have"),
    ],
)
def test_bad_rewiring(flags: list[str], message: str, demo_models: dict[str, Path], tmp_path: Path) -> None:
    done = run("rewire_demo_model.py", demo_models["llama"], "--out", tmp_path / "x.gguf", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_rewiring_what_is_no_demo_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    done = run("rewire_demo_model.py", path, "--chain", "--out", tmp_path / "y.gguf")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot read {path}")
    assert not (tmp_path / "y.gguf").exists()
