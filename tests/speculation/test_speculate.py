"""Speculative decoding: the same output as plain decoding, exact counts, draft lengths that pay."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.engine import draft as draft_worker
from edgebench.speculation import cell as speculate

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "edgebench/speculation/cell.py"
WORKER = ROOT / "edgebench/engine/draft.py"
PROMPTS = ROOT / "data/writing_prompts_hierarchical.csv"
CHAIN = 214  # words of the cycle of rewire_demo_model.py

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")


def ask(requests: Sequence[dict[str, Any]], **first: Any) -> list[dict[str, Any]]:
    """The worker's answers to requests."""
    engine = {"n_ctx": 1024, "n_batch": 64, "n_gpu_layers": 0, "n_threads": 1, "flash_attn": "off"}
    drafting = {"drafter": "lookup", "draft": None, "adaptive": "off", "draft_tokens": 5}
    settings_ = {"threshold": 0.0, "temperature": 0.0, **engine, **drafting}
    lines = "".join(json.dumps(line) + "\n" for line in [{**settings_, **first}, *requests])
    done = subprocess.run([sys.executable, str(WORKER)], input=lines, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests) + 1, done.stderr
    return answers


def prompts(count: int, longest: int = 150, seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(300, 500) for _ in range(draw.randrange(2, longest))] for _ in range(count)]


def both_ways(all_ids: Sequence[list[int]], max_tokens: int, **first: Any) -> tuple[list[Any], list[Any]]:
    requests = [{"ids": ids, "max_tokens": max_tokens, "seed": 0} for ids in all_ids]
    answers = ask([{**asked, "plain": plain} for asked in requests for plain in (False, True)], **first)
    assert all(answer["ok"] for answer in answers), answers
    return answers[1::2], answers[2::2]


@pytest.fixture(scope="module")
def chain(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama", chain=True))


@pytest.fixture(scope="module")
def draft_of(tiny_model: Callable[..., Path]) -> Callable[[float], str]:
    return lambda share: str(tiny_model("llama", chain=True, draft_accept=share, n_layer=1))


@pytest.mark.parametrize("adaptive", ["off", "published", "cost"])
def test_outputs_equal_plain_decoding_with_a_draft_model(
    adaptive: str, chain: str, draft_of: Callable[[float], str]
) -> None:
    first = {"model": chain, "drafter": "model", "draft": draft_of(0.7), "adaptive": adaptive}
    drafted, plain = both_ways(prompts(34), 24, n_batch=16, **first)  # most prompts are longer than a batch
    assert [answer["token_ids"] for answer in drafted] == [answer["token_ids"] for answer in plain]
    assert sum(answer["accepted"] for answer in drafted) > 0
    assert all(answer["drafted"] == 0 and answer["steps"] == 24 for answer in plain)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "phi3", "qwen3"])
def test_outputs_equal_plain_decoding_with_prompt_lookup(arch: str, demo_models: dict[str, Path]) -> None:
    drafted, plain = both_ways(prompts(20), 40, model=str(demo_models[arch]), draft_tokens=4)
    assert [answer["token_ids"] for answer in drafted] == [answer["token_ids"] for answer in plain]
    assert [answer["finish_reason"] for answer in drafted] == [answer["finish_reason"] for answer in plain]
    for answer in drafted:  # every step says one token of the model's own; a final stop token is not listed
        said = len(answer["token_ids"]) + (answer["finish_reason"] == "stop")
        assert answer["steps"] + answer["accepted"] == said


def test_a_draft_longer_than_the_batch_is_cut(chain: str, draft_of: Callable[[float], str]) -> None:
    first = {"model": chain, "drafter": "model", "draft": draft_of(0.95), "n_batch": 8, "draft_tokens": 40}
    drafted, plain = both_ways(prompts(3), 60, **first)
    assert [answer["token_ids"] for answer in drafted] == [answer["token_ids"] for answer in plain]
    assert max(len(answer["tries"]) for answer in drafted) == 7  # the last token said takes one of the 8 rows


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("length", [1, 6])
def test_measured_acceptance_is_that_of_the_draft(
    share: float, length: int, chain: str, draft_of: Callable[[float], str]
) -> None:
    first = {"model": chain, "drafter": "model", "draft": draft_of(share), "draft_tokens": length}
    (answer,) = ask([{"ids": ids, "max_tokens": 3 * CHAIN + 1, "seed": 0} for ids in prompts(1)], **first)[1:]
    judged, accepted = sum(answer["tries"]), sum(answer["hits"])
    # Three rounds of the cycle hold each word three times: no more evidence than one round.
    half_width = 2.6 * math.sqrt(share * (1 - share) / (judged / 3))
    assert abs(accepted / judged - share) < half_width
    assert accepted == answer["accepted"] and answer["drafted"] >= judged
    assert len(answer["token_ids"]) == answer["accepted"] + answer["steps"] == 3 * CHAIN + 1


def test_an_unsure_draft_stops_itself(chain: str, draft_of: Callable[[float], str]) -> None:
    first = {"model": chain, "drafter": "model", "draft": draft_of(0.7), "draft_tokens": 6}
    ids = prompts(1)
    free, _ = both_ways(ids, 200, **first)
    sure, plain = both_ways(ids, 200, **first, threshold=0.9)
    assert sure[0]["token_ids"] == plain[0]["token_ids"]
    assert free[0]["checks"] == free[0]["stopped"] == 0
    # The made draft is less sure of each token it gets wrong: hardly a wrong one is drafted now.
    assert sure[0]["accepted"] / sure[0]["drafted"] > 0.97 > free[0]["accepted"] / free[0]["drafted"]
    stops = sure[0]["checks"] - sure[0]["drafted"]
    assert 0 < stops <= sure[0]["stopped"] <= 6 * stops


def test_the_first_token_waits_for_no_draft() -> None:
    """The drafter reads the prompt only after the model has said its first token."""
    import numpy as np

    log: list[str] = []
    row = np.eye(5, dtype=np.float32)[2]
    target = SimpleNamespace(
        n_batch=8,
        feed=lambda tokens, start, rows: log.append(f"feed {len(tokens)} for {rows}"),
        row=lambda index: row,
        keep=lambda count: None,
        is_end=lambda token: False,
        text=lambda ids: "",
    )

    def propose(context: Sequence[int], length: int, rng: random.Random) -> draft_worker.Draft:
        log.append("draft")
        return draft_worker.Draft([2, 2])

    drafter = SimpleNamespace(
        restart=lambda: None,
        behind=lambda context: len(context),
        propose=propose,
        confirm=lambda count: None,
    )
    request = {"ids": [1] * 4, "max_tokens": 4, "seed": 0}
    done = draft_worker.decode(target, drafter, draft_worker.FixedLength(2), request, 0.0)  # type: ignore[arg-type]
    assert log == ["feed 4 for 1", "draft", "feed 3 for 3"]
    assert done["token_ids"] == [2, 2, 2, 2] and done["accepted"] == 2


def test_a_draft_of_another_vocabulary_is_refused(chain: str, demo_models: dict[str, Path]) -> None:
    first = {"model": chain, "drafter": "model", "draft": str(demo_models["qwen2"])}
    (answer,) = ask([], **first)
    assert not answer["ok"] and "vocabulary" in answer["error"]


# --- How long a draft? ---


@pytest.mark.parametrize(
    ("length", "options"), [(2, [2, 4]), (5, [2, 5, 8]), (10, [5, 8, 10]), (15, [7, 8, 15]), (1, [1, 2])]
)
def test_the_published_rule(length: int, options: list[int]) -> None:
    rule = draft_worker.PublishedRule(length)
    assert rule.options == options and rule.choose(0) == options[min(1, len(options) - 1)]
    for accepted, expected in ((1.0, options[-1]), (0.0, options[0])):
        for _ in range(40):
            rule.learn(draft_worker.Step(10, 10, 10, int(10 * accepted), 0, 0))
        assert rule.choose(0) == expected


def world(
    rule: draft_worker.CostRule,
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
        step = draft_worker.Step(length, length, min(accepted + 1, length), accepted, 0, 0)
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
    rule = draft_worker.CostRule(10)
    world(rule, share, draft_ms, row_ms, 1000)
    took_ms = world(rule, share, draft_ms, row_ms, 2000, lengths := Counter())
    best_ms = min(ideal_ms(length, share, draft_ms, row_ms) for length in range(11))
    assert took_ms / 2000 < 1.06 * best_ms
    assert ideal_ms(lengths.most_common(1)[0][0], share, draft_ms, row_ms) < 1.06 * best_ms


def test_the_cost_rule_stops_drafting_and_takes_it_up_again() -> None:
    rule = draft_worker.CostRule(10)
    lost = world(rule, 0.02, 2.0, 1.0, 2000) / (2000 * 10.0)
    assert rule.length == 0 and lost < 1.05
    world(rule, 0.95, 2.0, 1.0, 3000)
    assert rule.length >= 3


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_the_cost_rule_does_not_stay_with_costs_of_a_slower_or_faster_time(share: float) -> None:
    took_ms = world(draft_worker.CostRule(10), share, 1.2, 2.5, 3000, slow_every=100)
    best_ms = min(ideal_ms(length, share, 1.2, 2.5) for length in range(11))
    assert took_ms / 3000 < 1.07 * 1.4 * best_ms  # 1.4: half of the tokens take 1.8 times as long


# --- Choosing tokens ---


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_distribution_stays_the_models(certain: bool, temperature: float) -> None:
    import numpy as np

    rng = random.Random(3)
    row = np.array([0.1, 1.2, -0.5, 0.9, 0.0], dtype=np.float32)
    wanted = draft_worker.softmax(row, temperature)
    drafted = np.array([0.05, 0.1, 0.6, 0.2, 0.05])
    counted = np.zeros(5)
    for _ in range(30_000):
        guess = 2 if certain else draft_worker.draw(drafted, rng)
        counted[draft_worker.judge_guess(row, guess, None if certain else drafted, temperature, rng)] += 1
    assert abs(counted / counted.sum() - wanted).max() < 0.012  # four standard errors


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 8))
def test_lookup_repeats_what_followed_the_longest_latest_match(context: list[int], length: int) -> None:
    drafter = draft_worker.LookupDrafter()
    drafter.restart()
    for end in range(1, len(context)):  # step by step, as in a run
        drafter.propose(context[:end], length, random.Random(0))
    found = drafter.propose(context, length, random.Random(0)).tokens
    expected: list[int] = []
    for n in draft_worker.NGRAMS:
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


# --- The command ---


def command(*flags: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def test_a_run_file_has_the_published_names_and_exact_counts(
    tmp_path: Path, chain: str, draft_of: Callable[[float], str]
) -> None:
    out = tmp_path / "sweeps/run.json"
    small = ("--requests", 3, "--batches", 2, "--max_tokens", 20, "--draft_tokens", 4, "--compare", "every")
    models = ("--model", chain, "--draft", draft_of(0.7), "--threshold", 0.5)
    done = command(*models, "--prompts", PROMPTS, "--out", out, *small)
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())
    (mode,) = run["summary"]["per_mode"]
    rows = [row for batch in run["results"] for row in batch["outputs"]]
    assert mode["nwor_mode"] == "adaptive=0,threshold=0.5" and mode["batches"] == 2 and len(rows) == 6
    assert mode["spec_num_draft_tokens"] == sum(row["drafted"] for row in rows) > 0
    assert mode["spec_acceptance_ratio"] == mode["spec_num_accepted_tokens"] / mode["spec_num_draft_tokens"]
    assert mode["tokens_stopped_by_confidence"] == sum(row["stopped"] for row in rows)
    assert mode["identical_to_plain"] == mode["compared_with_plain"] == 6
    assert all(row["first_difference"] is None for row in rows)
    assert sum(place["accepted"] for place in mode["accept_by_position"]) == mode["spec_num_accepted_tokens"]
    latencies = [batch["latency_s"] for batch in run["results"]]
    assert mode["latency_avg_s"] == pytest.approx(sum(latencies) / 2)
    assert [batch["nwor_mode"] for batch in run["plain"]] == ["vanilla", "vanilla"]
    ends = [(batch["t0_s"], batch["t1_s"]) for batch in (*run["results"], *run["plain"])]
    ordered = sorted(ends)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ordered))
    assert "Confidence early exit stats: " in done.stdout


def test_plain_decoding_is_a_run_of_its_own(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("Name three rivers.\n\nWhat is a lock?\n")
    out = tmp_path / "plain.json"
    small = ("--requests", 3, "--batches", 1, "--max_tokens", 8, "--prompt_format", "raw")
    done = command("--model", demo_models["llama"], "--plain", "--prompts", text, "--out", out, *small)
    assert done.returncode == 0, done.stderr
    run = json.loads(out.read_text())
    assert run["summary"]["per_mode"][0]["nwor_mode"] == "vanilla" and run["plain"] == []
    assert run["summary"]["per_mode"][0]["spec_acceptance_ratio"] is None
    assert sorted({row["id"] for row in run["results"][0]["outputs"]}) == [1, 3]


def test_warm_up_is_as_many_requests_as_asked_for_and_may_be_more_than_a_batch() -> None:
    asked: list[Any] = []

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["prompt"])
        return {"token_ids": [1], "t0_s": 0.0, "first_token_s": 0.1, "t1_s": 0.2}

    args = SimpleNamespace(requests=2, batches=1, warmup=5, max_tokens=4, seed=1, plain=True, compare="first")
    args.temperature, args.adaptive, args.threshold = 0.0, "off", 0.0
    known = {"id": 1, "level": "L0", "category": None, "prompt_tokens": 1, "ids": [1]}
    list(speculate.run_batches(SimpleNamespace(ask=ask), [known] * 3, args))  # type: ignore[arg-type]
    assert asked == [0, 1, 2, 0, 1, 0, 1]  # five warm-ups, then the batch


def test_the_engines_own_interface_agrees(tmp_path: Path, demo_models: dict[str, Path]) -> None:
    out = tmp_path / "run.json"
    small = ("--requests", 3, "--batches", 1, "--max_tokens", 30, "--n_batch", 32, "--warmup", 0)
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, "--cross_check", *small
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["cross_check"] == {"identical": 3, "requests": 3, "reason": None}


def test_a_draft_longer_than_the_batch_does_not_make_the_engines_own_interface_abort(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    out = tmp_path / "run.json"
    small = ("--requests", 1, "--batches", 1, "--max_tokens", 30, "--n_batch", 4, "--warmup", 0)
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, "--cross_check", *small
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["cross_check"] == {"identical": 1, "requests": 1, "reason": None}


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    (tmp_path / "file").touch()
    done = command(
        "--model", demo_models["llama"], "--prompts", PROMPTS, "--out", tmp_path / "file" / "run.json"
    )
    assert done.returncode == 1 and "error: " in done.stderr and "batch 1" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--threshold", "0.5"), "--draft"),
        (("--drafter", "model"), "--draft"),
        (("--requests", "0"), "--requests"),
        (("--n_ctx", "256", "--max_tokens", "400"), "--n_ctx"),
        (("--draft", "missing.gguf"), "missing.gguf"),
        (("--levels", "L9"), "L9"),
        (("--prompts", "/nowhere.csv"), "/nowhere.csv"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, demo_models: dict[str, Path], flags: tuple[str, ...], word: str
) -> None:
    out = tmp_path / "run.json"
    done = command("--model", demo_models["llama"], "--prompts", PROMPTS, "--out", out, *flags)
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.splitlines()[-1].startswith("error: ") and word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quantized_model_says_where_it_parts(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    rows = [
        speculate.request_row(
            {"id": 1, "level": "L0", "category": None, "prompt_tokens": 2},
            {"token_ids": ours, "t0_s": 0.0, "t1_s": 1.0, "first_token_s": 0.5},
            {"token_ids": theirs},
        )
        for ours, theirs in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 9, 3]), ([1, 2], [1, 2, 3]))
    ]
    assert [row["first_difference"] for row in rows] == [None, 1, 2]
