"""engine/draft.py: the output of plain decoding, exact counts, draft lengths that pay, drafts that fit."""

from __future__ import annotations

import importlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llama_cpp", reason="the engine, llama-cpp-python, is not installed")
pytest.importorskip("gguf", reason="gguf, which writes the tiny models, is not installed")

from edgebench.engine import draft as drafting
from edgebench.engine import draft_rules
from edgebench.engine.protocol import (
    REFUSED,
    DraftGeneration,
    Drafting,
    EngineFailure,
    ModelLoad,
)

CHAIN = 214  # words of the cycle of rewire_demo_model.py
Open = Callable[..., drafting.DraftDecoder]


@pytest.fixture
def opened(llama_cpp: Any) -> Iterator[Open]:
    """A function that loads a model to decode with drafts."""
    open_ones: list[drafting.DraftDecoder] = []

    def load(model: str, n_batch: int = 64, **settings_: Any) -> drafting.DraftDecoder:
        settings = ModelLoad(1024, n_batch=n_batch, n_ubatch=n_batch, flash_attn="off", n_gpu_layers=0)
        decoder = drafting.DraftDecoder(model, settings, Drafting(**{"draft_tokens": 5, **settings_}))
        open_ones.append(decoder)
        return decoder

    yield load
    for one in open_ones:
        one.close()


def prompts(count: int, longest: int = 150, seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(300, 500) for _ in range(draw.randrange(2, longest))] for _ in range(count)]


def both_ways(
    decoder: drafting.DraftDecoder, all_ids: Sequence[list[int]], max_tokens: int
) -> tuple[list[DraftGeneration], list[DraftGeneration]]:
    """Every answer with drafts, and plainly."""
    requests = [drafting.DraftRequest(ids, max_tokens) for ids in all_ids]
    pairs = [(decoder.run(asked, plain=False), decoder.run(asked, plain=True)) for asked in requests]
    return [drafted for drafted, _ in pairs], [plain for _, plain in pairs]


@pytest.fixture(scope="module")
def chain(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama", chain=True))


@pytest.fixture(scope="module")
def draft_of(tiny_model: Callable[..., Path]) -> Callable[[float], str]:
    return lambda share: str(tiny_model("llama", chain=True, draft_accept=share, n_layer=1))


@pytest.mark.parametrize("adaptive", ["off", "published", "cost"])
def test_outputs_equal_plain_decoding_with_a_draft_model(
    adaptive: str, chain: str, draft_of: Callable[[float], str], opened: Open
) -> None:
    # Most prompts are longer than a batch.
    decoder = opened(chain, n_batch=16, drafter="model", draft=draft_of(0.7), adaptive=adaptive)
    drafted, plain = both_ways(decoder, prompts(14), 24)
    assert [answer.token_ids for answer in drafted] == [answer.token_ids for answer in plain]
    assert sum(answer.accepted for answer in drafted) > 0
    assert all(answer.drafted == 0 and answer.steps == 24 for answer in plain)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "phi3", "qwen3"])
def test_outputs_equal_plain_decoding_with_prompt_lookup(
    arch: str, demo_models: dict[str, Path], opened: Open
) -> None:
    drafted, plain = both_ways(opened(str(demo_models[arch]), draft_tokens=4), prompts(10), 40)
    assert [answer.token_ids for answer in drafted] == [answer.token_ids for answer in plain]
    assert [answer.finish_reason for answer in drafted] == [answer.finish_reason for answer in plain]
    for answer in drafted:  # every step says one token of the model's own; a final stop token is not listed
        said = len(answer.token_ids) + (answer.finish_reason == "stop")
        assert answer.steps + answer.accepted == said


def test_a_draft_longer_than_the_batch_is_cut(
    chain: str, draft_of: Callable[[float], str], opened: Open
) -> None:
    decoder = opened(chain, n_batch=8, drafter="model", draft=draft_of(0.95), draft_tokens=40)
    drafted, plain = both_ways(decoder, prompts(3), 60)
    assert [answer.token_ids for answer in drafted] == [answer.token_ids for answer in plain]
    assert max(len(answer.tries) for answer in drafted) == 7  # the last token said takes one of the 8 rows


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("length", [1, 6])
def test_measured_acceptance_is_that_of_the_draft(
    share: float, length: int, chain: str, draft_of: Callable[[float], str], opened: Open
) -> None:
    decoder = opened(chain, drafter="model", draft=draft_of(share), draft_tokens=length)
    answer = decoder.run(drafting.DraftRequest(prompts(1)[0], 3 * CHAIN + 1), plain=False)
    judged, accepted = sum(answer.tries), sum(answer.hits)
    # Three rounds of the cycle hold each word three times: no more evidence than one round.
    half_width = 2.6 * math.sqrt(share * (1 - share) / (judged / 3))
    assert abs(accepted / judged - share) < half_width
    assert accepted == answer.accepted and answer.drafted >= judged
    assert len(answer.token_ids) == answer.accepted + answer.steps == 3 * CHAIN + 1


def test_an_unsure_draft_stops_itself(chain: str, draft_of: Callable[[float], str], opened: Open) -> None:
    first = {"drafter": "model", "draft": draft_of(0.7), "draft_tokens": 6}
    ids = prompts(1)
    free, _ = both_ways(opened(chain, **first), ids, 200)
    sure, plain = both_ways(opened(chain, **first, threshold=0.9), ids, 200)
    assert sure[0].token_ids == plain[0].token_ids
    assert free[0].checks == free[0].stopped == 0
    # The made draft is less sure of each token it gets wrong: hardly a wrong one is drafted now.
    assert sure[0].accepted / sure[0].drafted > 0.97 > free[0].accepted / free[0].drafted
    stops = sure[0].checks - sure[0].drafted
    assert 0 < stops <= sure[0].stopped <= 6 * stops


def test_the_first_token_waits_for_no_draft() -> None:
    """The drafter reads the prompt only after the model has said its first token."""
    import numpy as np

    log: list[str] = []
    row = np.eye(5, dtype=np.float32)[2]
    target = SimpleNamespace(
        n_batch=8,
        start_cold=lambda: None,
        check_answer=lambda: None,
        feed=lambda tokens, start, rows: log.append(f"feed {len(tokens)} for {rows}"),
        row=lambda index: drafting.Row(row, 2),
        keep=lambda count: None,
        is_end=lambda token: False,
        text=lambda ids: "",
    )

    def propose(context: Sequence[int], length: int, rng: random.Random) -> drafting.Draft:
        log.append("draft")
        return drafting.Draft([2, 2])

    drafter = SimpleNamespace(
        restart=lambda: None,
        behind=lambda context: len(context),
        propose=propose,
        confirm=lambda count: None,
    )
    request = drafting.DraftRequest([1] * 4, 4)
    done = drafting.decode(target, drafter, draft_rules.FixedLength(2), request, 0.0)  # type: ignore[arg-type]
    assert log == ["feed 4 for 1", "draft", "feed 3 for 3"]
    assert done.token_ids == (2, 2, 2, 2) and done.accepted == 2


def test_a_draft_of_another_vocabulary_is_refused(
    chain: str, demo_models: dict[str, Path], opened: Open
) -> None:
    with pytest.raises(EngineFailure, match="vocabulary") as refused:
        opened(chain, drafter="model", draft=str(demo_models["qwen2"]))
    assert refused.value.kind == REFUSED


def rewired(base: str, out: Path, change: Callable[[Any, Any], None]) -> str:
    """A copy of a demo model, changed."""
    maker = importlib.import_module("rewire_demo_model")
    model = maker.read_model(Path(base))
    change(maker, model)
    maker.write_model(model, out, out.stem)
    return str(out)


def pad(maker: Any, model: Any) -> None:
    """16 tokens more than the target has, as sizes padded for the hardware give, and likely ones."""
    maker.add_pieces(model, [f"<pad{number}>" for number in range(16)])
    model.output[-16:] = 0
    model.output[-16:, model.facts["demo.channels"][0]] = 60 * model.output_unit


def move_end(_maker: Any, model: Any) -> None:
    model.facts["tokenizer.ggml.eos_token_id"] += 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_never_proposes_a_token_that_the_model_does_not_have(
    temperature: float, chain: str, draft_of: Callable[[float], str], tmp_path: Path, opened: Open
) -> None:
    draft = rewired(draft_of(1.0), tmp_path / "padded.gguf", pad)
    decoder = opened(chain, drafter="model", draft=draft, temperature=temperature)
    answer = decoder.run(drafting.DraftRequest(prompts(1)[0], 16), plain=False)
    assert 0 < answer.drafted == answer.accepted


def test_a_draft_with_another_end_of_text_is_refused(
    chain: str, draft_of: Callable[[float], str], tmp_path: Path, opened: Open
) -> None:
    with pytest.raises(EngineFailure, match="EOS"):
        opened(chain, drafter="model", draft=rewired(draft_of(1.0), tmp_path / "end.gguf", move_end))


# --- How long a draft? ---


@pytest.mark.parametrize(
    ("length", "options"), [(2, [2, 4]), (5, [2, 5, 8]), (10, [5, 8, 10]), (15, [7, 8, 15]), (1, [1, 2])]
)
def test_the_published_rule(length: int, options: list[int]) -> None:
    rule = draft_rules.PublishedRule(length)
    assert rule.options == options and rule.choose(0) == options[min(1, len(options) - 1)]
    for accepted, expected in ((1.0, options[-1]), (0.0, options[0])):
        for _ in range(40):
            rule.learn(draft_rules.Step(10, 10, 10, int(10 * accepted), 0, 0))
        assert rule.choose(0) == expected


def world(
    rule: draft_rules.CostRule,
    share: float,
    draft_ms: float,
    row_ms: float,
    tokens: int,
    lengths: Counter[int] | None = None,
    slow_every: int = 0,
) -> float:
    """Milliseconds that a rule takes for so many tokens, where each drafted one is right with chance `share`
    and a check takes 10 ms and row_ms for every row beyond the first; ±10 % of noise. Every other
    `slow_every` tokens take 1.8 times as long."""
    draw, spent_ms, said = random.Random(7), 0.0, 0
    while said < tokens:
        length = rule.choose(1)
        accepted = next((j for j in range(length) if draw.random() >= share), length)
        noise = draw.uniform(0.9, 1.1) * (1.8 if slow_every and said // slow_every % 2 else 1.0)
        step = draft_rules.Step(length, length, min(accepted + 1, length), accepted, 0, 0)
        step.draft_ms, step.verify_ms = noise * length * draft_ms, noise * (10 + row_ms * length)
        rule.learn(step)
        spent_ms += step.draft_ms + step.verify_ms
        if lengths is not None:
            lengths[length] += 1
        said += 1 + accepted
    return spent_ms


def ideal_ms(length: int, share: float, draft_ms: float, row_ms: float) -> float:
    """Expected milliseconds per token at a fixed length."""
    expected = sum(share**j for j in range(length + 1))
    return (length * draft_ms + 10 + row_ms * length) / expected


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.8, 0.95, 0.99])
@pytest.mark.parametrize(("draft_ms", "row_ms"), [(1.0, 0.1), (2.0, 1.0), (0.2, 8.0)])
def test_the_cost_rule_comes_near_the_best_length(share: float, draft_ms: float, row_ms: float) -> None:
    rule = draft_rules.CostRule(10)
    world(rule, share, draft_ms, row_ms, 1000)
    took_ms = world(rule, share, draft_ms, row_ms, 2000, lengths := Counter())
    best_ms = min(ideal_ms(length, share, draft_ms, row_ms) for length in range(11))
    assert took_ms / 2000 < 1.06 * best_ms
    assert ideal_ms(lengths.most_common(1)[0][0], share, draft_ms, row_ms) < 1.06 * best_ms


def test_the_cost_rule_stops_drafting_and_takes_it_up_again() -> None:
    rule = draft_rules.CostRule(10)
    lost = world(rule, 0.02, 2.0, 1.0, 2000) / (2000 * 10.0)
    assert rule.length == 0 and lost < 1.05
    world(rule, 0.95, 2.0, 1.0, 3000)
    assert rule.length >= 3


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_the_cost_rule_does_not_stay_with_costs_of_a_slower_or_faster_time(share: float) -> None:
    took_ms = world(draft_rules.CostRule(10), share, 1.2, 2.5, 3000, slow_every=100)
    best_ms = min(ideal_ms(length, share, 1.2, 2.5) for length in range(11))
    assert took_ms / 3000 < 1.07 * 1.4 * best_ms  # 1.4: half of the tokens take 1.8 times as long


# --- Choosing tokens ---


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("count", [8_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_the_distribution_stays_the_models(certain: bool, temperature: float, count: int) -> None:
    import numpy as np

    rng = random.Random(3)
    row = np.array([0.1, 1.2, -0.5, 0.9, 0.0], dtype=np.float32)
    wanted = drafting.softmax(row, temperature)
    drafted = np.array([0.05, 0.1, 0.6, 0.2, 0.05])
    counted = np.zeros(5)
    for _ in range(count):
        guess = 2 if certain else drafting.draw(drafted, rng)
        counted[drafting.judge_guess(row, guess, None if certain else drafted, temperature, rng)] += 1
    assert abs(counted / count - wanted).max() < 4 * math.sqrt(0.25 / count)  # four standard errors


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 8))
def test_lookup_repeats_what_followed_the_longest_latest_match(context: list[int], length: int) -> None:
    drafter = drafting.LookupDrafter()
    drafter.restart()
    for end in range(1, len(context)):  # step by step, as in a run
        drafter.propose(context[:end], length, random.Random(0))
    found = drafter.propose(context, length, random.Random(0)).tokens
    expected: list[int] = []
    for n in drafting.NGRAMS:
        ends = (
            [e for e in range(n, len(context)) if context[e - n : e] == context[-n:]]
            if n < len(context)
            else []
        )
        if ends:
            stretched = list(context)
            for j in range(length):
                stretched.append(stretched[ends[-1] + j])
            expected = stretched[len(context) :]
            break
    assert found == expected


def test_a_refusal_without_any_surplus_still_says_a_possible_token() -> None:
    """Rounding can refuse a guess where p = q: the draw is then from p, not the last token."""
    import numpy as np

    class Refusing(random.Random):
        def random(self) -> float:
            return 0.999999

    row = np.array([5.0, 5.0, -50.0], np.float32)
    drafted = drafting.softmax(row, 1.0) + 1e-5
    assert drafting.judge_guess(row, 0, drafted, 1.0, Refusing()) in (0, 1)
