"""A judge's word as a probability: what an endpoint's `logprobs` say of A, B and Tie.

One token is asked. Its likeliest alternatives come with their log probabilities, and all spellings of a word
("A", " A", "**A", "[[A") count for it; of "Tie", which many vocabularies have in two pieces, its beginnings.
To read a judge's own distribution instead of the one word it says is the way of G-Eval (Y. Liu et al., EMNLP
2023, arXiv 2303.16634: scores weighted by their tokens' probabilities) and of AlpacaEval 2 (tatsu-lab/
alpaca_eval: a preference from the log probabilities of two one-token names).

An endpoint lists so many alternatives and no more (OpenAI 20, Azure's older versions 5). A word that is not
among them is not impossible: it is no likelier than the last one listed, nor than what the listed ones leave
over. That bound stands in for it, and the reading says so; it makes the preference smaller than it may be.

What follows from two readings, edgebench/stats/preference.py says. Pure: no request is sent here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgebench.records.judgment import JournalLine
from edgebench.stats.preference import Chances

WORDS = ("A", "B", "Tie")
TOP_LOGPROBS = 20  # OpenAI's limit, which most servers took over
FEWER_TOP_LOGPROBS = 5  # the limit of its first version, and of Azure's
LOCAL_TOP_LOGPROBS = 100  # llama-cpp-python's server lists as many as one asks for
KEPT = 20  # of the alternatives, and all that count for a word
# OpenAI writes -9999.0 for a token that is not among its 20 likeliest.
NOT_LISTED = -9000.0
SMALLEST = 1e-12
# Before a word a model may write white space, marks of its vocabulary for it, or markup.
BEFORE = " \t\r\n▁ĠĊ*_`\"'“”«»‘’([{<#>-:"
BEHIND = BEFORE + ")]}.,;!"

Alternative = tuple[str, float]  # token, natural log of its probability


def soft_fields(top_logprobs: int = TOP_LOGPROBS) -> dict[str, Any]:
    """What a request holds that asks for one token and its alternatives."""
    return {"max_tokens": 1, "logprobs": True, "top_logprobs": top_logprobs}


def word_of(token: str) -> str | None:
    """The word that a token begins or is: A, B or Tie; None for any other. A lower-case a is an article.

    >>> [word_of(token) for token in (" A", "**B", "[[A", "Tie", "T", "ĠTie", "Answer", "a", "")]
    ['A', 'B', 'A', 'Tie', 'Tie', 'Tie', None, None, None]
    """
    bare = token.lstrip(BEFORE).rstrip(BEHIND)
    if bare in ("A", "B"):
        return bare
    return "Tie" if bare in ("T", "Ti", "Tie", "TIE", "ti", "tie") else None


def alternatives_in(choice: Mapping[str, Any]) -> list[Alternative] | None:
    """The alternatives to the first token of a choice that says something, likeliest first; None: not given.

    Under logprobs a choice holds OpenAI's form (content: a list with token, logprob and top_logprobs), or the
    older one (tokens, token_logprobs and top_logprobs, a dict for each token), as llama-cpp-python's server
    had it before its pull request 1788. Tokens of nothing but white space and markup are passed over.
    """
    places = _places(choice.get("logprobs"))
    telling = [listed for said, listed in places if said.strip(BEFORE)] or [listed for _, listed in places]
    return telling[0] if telling and telling[0] else None


def _places(logprobs: Any) -> list[tuple[str, list[Alternative]]]:
    """For each token what was said and the alternatives to it."""
    if not isinstance(logprobs, Mapping):
        return []
    if isinstance(logprobs.get("content"), list):
        return [
            _place(
                place, [(one.get("token"), one.get("logprob")) for one in _mappings(place, "top_logprobs")]
            )
            for place in _mappings(logprobs, "content")
        ]
    tokens, chosen, tops = (
        listed if isinstance(listed := logprobs.get(name), list) else []
        for name in ("tokens", "token_logprobs", "top_logprobs")
    )
    tops = tops or [{}] * len(tokens)
    return [
        _place({"token": token, "logprob": logprob}, list(top.items()) if isinstance(top, Mapping) else [])
        for token, logprob, top in zip(tokens, chosen, tops, strict=False)
    ]


def _mappings(holder: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = holder.get(name)
    return [one for one in items if isinstance(one, Mapping)] if isinstance(items, list) else []


def _place(said: Mapping[str, Any], listed: Sequence[tuple[Any, Any]]) -> tuple[str, list[Alternative]]:
    token = said.get("token")
    if not any(other == token for other, _ in listed):
        listed = [*listed, (token, said.get("logprob"))]
    usable = [
        (other, float(logprob))
        for other, logprob in listed
        if isinstance(other, str)
        and isinstance(logprob, (int, float))
        and math.isfinite(logprob)
        and logprob > NOT_LISTED
    ]
    return token if isinstance(token, str) else "", sorted(usable, key=lambda one: -one[1])


def chances_of(listed: Sequence[Alternative]) -> Chances | None:
    """The judge's probabilities of A, B and Tie; None where none of them is among the alternatives.

    A word that is not among them gets the largest probability that it can have.
    """
    found = dict.fromkeys(WORDS, 0.0)
    for token, logprob in listed:
        if word := word_of(token):
            found[word] += math.exp(min(0.0, logprob))
    if not any(found.values()):
        return None
    bound = largest_unlisted(listed)
    missing = tuple(word for word in WORDS if not found[word])
    a, b, tie = (min(1.0, max(SMALLEST, found[word] or bound)) for word in WORDS)
    return Chances(a, b, tie, missing)


def largest_unlisted(listed: Sequence[Alternative]) -> float:
    """The largest probability that a token can have which is not among the alternatives.

    The last one listed may be there because it was said, not because it is likely: then the one before it
    holds as a bound, which is never too small.

    >>> round(largest_unlisted([("A", math.log(0.6)), ("B", math.log(0.3)), ("I", math.log(0.04))]), 2)
    0.06
    """
    chances = [math.exp(min(0.0, logprob)) for _, logprob in listed]
    return max(SMALLEST, min(chances[-2:][0], 1.0 - math.fsum(chances)))


def read_line(line: JournalLine, parse: Callable[[str, bool], str | None]) -> JournalLine:
    """A journal line with what its reply says: by log probabilities where it holds them, else by its words.

    parse: the verdict by slot in words and in whether the token limit cut them.
    """
    chances = chances_of(from_kept(line.logprobs))
    if chances:
        verdict: str | None = chances.likeliest
    else:
        verdict = parse(line.raw_reply or "", line.finish_reason == "length")
    return replace(
        line,
        verdict=verdict,
        winner_side=line.side_of(verdict),
        chance_a=rounded(chances.a) if chances else None,
        chance_b=rounded(chances.b) if chances else None,
        chance_tie=rounded(chances.tie) if chances else None,
        chances_bounded=list(chances.bounded) or None if chances else None,
    )


def rounded(chance: float) -> float:
    """A probability to six digits, which is more than a log probability of five decimals holds."""
    return float(f"{chance:.6g}")


def kept(listed: Sequence[Alternative]) -> list[list[Any]]:
    """The alternatives as the journal keeps them: the likeliest ones, and all that count for a word.

    The last two stay, too: they bound what is not listed.
    """
    return [
        [token, round(logprob, 5)]
        for place, (token, logprob) in enumerate(listed)
        if place < KEPT or word_of(token) or place >= len(listed) - 2
    ]


def from_kept(stored: Any) -> list[Alternative]:
    """The alternatives of a journal line; empty for a line without them."""
    pairs = stored if isinstance(stored, list) else []
    return [(str(pair[0]), float(pair[1])) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
