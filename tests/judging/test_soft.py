"""edgebench/judging/soft.py: probabilities of A, B and Tie from whatever form an endpoint gives them in."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.judging.soft import (
    alternatives_in,
    chances_of,
    from_kept,
    kept,
    largest_unlisted,
    word_of,
)

LISTED = [("A", 0.5), (" A", 0.1), ("B", 0.2), ("Tie", 0.1), ("The", 0.05)]


def chat_form(listed: list[tuple[str, float]], said: str = "A") -> dict[str, Any]:
    """OpenAI's form, and llama-cpp-python's since 0.3.2."""
    tops = [{"token": token, "logprob": math.log(chance), "bytes": None} for token, chance in listed]
    first = next(top for top in tops if top["token"] == said)
    return {"logprobs": {"content": [{**first, "top_logprobs": tops}], "refusal": None}}


def legacy_form(listed: list[tuple[str, float]]) -> dict[str, Any]:
    tops = {token: math.log(chance) for token, chance in listed}
    (said, logprob), *_ = tops.items()
    return {
        "logprobs": {
            "tokens": [said],
            "token_logprobs": [logprob],
            "top_logprobs": [tops],
            "text_offset": [0],
        }
    }


@pytest.mark.parametrize(
    ("token", "word"),
    [
        *(
            (token, "A")
            for token in ("A", " A", "ĠA", "▁A", "**A", "\nA", "[[A", '"A', "(A", "A.", "A]]", "<A")
        ),
        *((token, "B") for token in ("B", " B", "B\n")),
        *((token, "Tie") for token in ("Tie", " Tie", "T", "tie", "TIE", "ĠTi")),
        *(
            (token, None)
            for token in ("a", " a", "b", "Answer", "The", "AB", "Time", "t", "", " ", "А", "C", "I")
        ),
    ],
)
def test_all_spellings_of_a_word_count_for_it(token: str, word: str | None) -> None:
    assert word_of(token) == word


@pytest.mark.parametrize("form", [chat_form, legacy_form])
def test_both_forms_say_the_same(form: Any) -> None:
    listed = alternatives_in(form(LISTED))
    assert listed is not None
    chances = chances_of(listed)
    assert chances is not None and chances.bounded == ()
    assert (chances.a, chances.b, chances.tie) == pytest.approx((0.6, 0.2, 0.1))
    assert chances.mass == pytest.approx(0.9) and chances.likeliest == "A"


def test_a_token_that_is_listed_twice_counts_twice() -> None:
    """Two tokens of a vocabulary may print the same."""
    chances = chances_of(alternatives_in(chat_form([("A", 0.3), ("A", 0.2), ("B", 0.4)])) or [])
    assert chances is not None and chances.a == pytest.approx(0.5)


def test_a_word_that_is_not_listed_is_bounded_not_impossible() -> None:
    chances = chances_of(alternatives_in(chat_form([("A", 0.9), ("I", 0.04), ("The", 0.02)])) or [])
    assert chances is not None and chances.bounded == ("B", "Tie")
    assert chances.b == chances.tie == pytest.approx(0.04)  # what the listed ones leave over
    assert chances.mass == pytest.approx(0.9)
    many = [("A", 0.5), *((f"w{n}", 0.02) for n in range(10))]
    chances = chances_of(alternatives_in(chat_form(many)) or [])
    assert chances is not None and chances.b == pytest.approx(0.02)  # no likelier than the last one listed


def test_openais_mark_for_not_listed_is_no_probability() -> None:
    choice = {"logprobs": {"content": [{"token": "A", "logprob": -0.01, "top_logprobs": [
        {"token": "A", "logprob": -0.01}, {"token": "B", "logprob": -9999.0}]}]}}  # fmt: skip
    chances = chances_of(alternatives_in(choice) or [])
    assert chances is not None and "B" in chances.bounded and chances.b == pytest.approx(1 - math.exp(-0.01))


def test_a_token_that_was_drawn_by_chance_makes_no_bound() -> None:
    """Servers add the token that was said to the list, however unlikely it was."""
    listed = [("A", math.log(0.6)), ("The", math.log(0.1)), ("Zebra", math.log(1e-7))]
    assert largest_unlisted(listed) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"logprobs": None},
        {"logprobs": True},
        {"logprobs": {}},
        {"logprobs": {"content": None}},
        {"logprobs": {"content": []}},
        {"logprobs": {"content": [None, 3]}},
        {"logprobs": {"content": [{"token": "A", "logprob": None, "top_logprobs": None}]}},
        {"logprobs": {"content": [{"token": "A", "logprob": float("nan"), "top_logprobs": [{}]}]}},
        {"logprobs": {"tokens": ["A"], "token_logprobs": [None], "top_logprobs": None}},
    ],
)
def test_no_log_probabilities_are_none(choice: dict[str, Any]) -> None:
    assert alternatives_in(choice) is None


def test_one_token_without_alternatives_bounds_the_others() -> None:
    choice = {"logprobs": {"content": [{"token": "B", "logprob": math.log(0.8), "top_logprobs": []}]}}
    chances = chances_of(alternatives_in(choice) or [])
    assert chances is not None and chances.b == pytest.approx(0.8) and chances.a == pytest.approx(0.2)
    assert chances.bounded == ("A", "Tie")


def test_white_space_before_the_word_is_passed_over() -> None:
    first = {"token": "\n", "logprob": -0.1, "top_logprobs": [{"token": "\n", "logprob": -0.1}]}
    second = chat_form(LISTED)["logprobs"]["content"][0]
    listed = alternatives_in({"logprobs": {"content": [first, second]}})
    assert listed and listed[0][0] == "A"


def test_a_reply_without_any_of_the_words_says_nothing() -> None:
    assert chances_of([("The", -0.1), ("I", -3.0)]) is None and chances_of([]) is None


@given(
    st.lists(
        st.tuples(st.text(max_size=3) | st.sampled_from(["A", "B", "Tie"]), st.floats(-40, 0)), max_size=30
    )
)
def test_any_list_gives_probabilities_or_none(listed: list[tuple[str, float]]) -> None:
    listed = sorted(listed, key=lambda one: -one[1])
    chances = chances_of(listed)
    assert (chances is None) == (not any(word_of(token) for token, _ in listed))
    if chances:
        assert all(chances.chance(word) > 0 for word in ("A", "B", "Tie")) and 0 <= chances.mass <= 1
        again = chances_of(from_kept(kept(listed)))
        assert again is not None
        assert again.a == pytest.approx(chances.a, rel=1e-3) or "A" in chances.bounded


def test_the_journal_keeps_what_counts() -> None:
    listed = [*((f"w{n}", -3.0 - n / 100) for n in range(40)), ("B", -6.0)]
    stored = kept(listed)
    assert len(stored) == 22 and stored[-2:] == [["w39", -3.39], ["B", -6.0]]
    assert from_kept(stored)[-1] == ("B", -6.0) and from_kept(None) == []
