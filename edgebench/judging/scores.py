"""From games to rows: a win counts only if both orders agree; and what asking will cost, before it does."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from edgebench.judging.games import BOTH_EMPTY, Asking, Game, request_body
from edgebench.judging.journal import Journal
from edgebench.judging.pool import Outcome, Prices
from edgebench.records.judgment import ScoreRow
from edgebench.shell.text import counted, printable
from edgebench.stats.preference import Chances, preference_of, winner_of

CHARS_PER_TOKEN = 4.0  # English prose; for the plan's estimate only
TOKENS_OF_A_REPLY = 5.0


def reconcile(sides: Sequence[str | None]) -> str | None:
    """A, B or Tie of one comparison: a win counts only if all orders agree. None while one has no verdict.

    >>> reconcile(["left", "left"]), reconcile(["left", "right"]), reconcile(["left", None])
    ('A', 'Tie', None)
    """
    if not all(sides):
        return None
    if len(set(sides)) > 1:
        return "Tie"
    return {"left": "A", "right": "B"}.get(str(sides[0]), "Tie")


def winner_by_probability(
    played: Sequence[Game], chances: Mapping[str, Chances], margin: float
) -> str | None:
    """A, B or Tie of one comparison by the judge's preference; None without probabilities in both orders."""
    found = {game.order: chances[game.key] for game in played if game.key in chances}
    if len(found) < 2:
        return None
    return winner_of(preference_of(found["left_first"], found["right_first"]).share, margin)


def score_rows(
    games: Sequence[Game],
    side: Mapping[str, str],
    model: str,
    chances: Mapping[str, Chances] | None = None,
    margin: float = 0.0,
) -> list[ScoreRow]:
    """The CSV's rows, sorted. Of several distinct pairs of answers (--repeats all) the majority counts.

    `side`: left, right or tie by the key of a game; `model`: the judge; `chances`: of verdicts by
    probability, by the key of a game: where both orders have them, a preference within `margin` of 1/2 is a
    tie, and no other is.
    """
    votes: dict[tuple[Any, ...], list[str | None]] = defaultdict(list)
    for it, group in groupby(games, key=lambda game: game.comparison):
        if it.rule != (BOTH_EMPTY, ""):
            played = list(group)
            verdict = winner_by_probability(played, chances or {}, margin)
            verdict = verdict or reconcile([side.get(game.key) for game in played])
            votes[it.task_id, it.category, it.model_id, it.pair, it.turn].append(verdict)
    rows = []
    for (task, category, model_id, pair, turn), cast in votes.items():
        lead = cast.count("A") - cast.count("B")
        if None not in cast:
            winner = "A" if lead > 0 else "B" if lead < 0 else "Tie"
            rows.append(ScoreRow(task, category, model_id, pair, winner, model, turn))
    return sorted(rows, key=lambda row: (row.task_id.zfill(20), row.model_id, row.turn, row.pair))


def plan_lines(
    games: Sequence[Game],
    todo: Sequence[Game],
    asking: Asking,
    prices: Prices,
    daily_limit: int | None,
    left_out: Mapping[str, int],
) -> list[str]:
    """What asking `todo` costs, in calls, tokens, money and days; what rules decide; what is left out."""
    rules = Counter(game.comparison.rule[0] for game in games if game.comparison.rule)
    calls = len(games) - rules.total()
    bodies = [request_body(game, asking, fence="") for game in todo]
    texts = [message["content"] for body in bodies for message in body["messages"]]
    of_a_reply = 1.0 if asking.soft else TOKENS_OF_A_REPLY
    tokens_in, tokens_out = sum(map(len, texts)) / CHARS_PER_TOKEN, of_a_reply * len(todo)
    by_rule = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items())) or "none"
    judge = printable(asking.model)
    lines = [
        f"calls    {calls}: {calls - len(todo)} in the journal, {len(todo)} to ask {judge}",
        f"by rule  {by_rule}",
        f"tokens   about {tokens_in:,.0f} in, {tokens_out:,.0f} out (estimate)",
    ]
    cost = prices.cost(tokens_in, tokens_out)
    if cost:
        lines.append(f"cost     about {cost:,.2f} (estimate)")
    if daily_limit:
        lines.append(f"days     {len(todo) / daily_limit:,.1f} at {daily_limit} requests a day")
    return lines + [f"left out {count} {what}" for what, count in sorted(left_out.items()) if count > 0]


def lacking_lines(
    games: Sequence[Game], journal: Journal, outcome: Outcome, reasks: int, command: Sequence[str]
) -> list[str]:
    """What has no verdict, and how to go on; nothing where all is judged. `command`: the words of this run.

    A signal or a stop leaves calls unasked; those are no failures, and are told apart.
    """
    lacking = [game for game in games if game.order and game.key not in journal.side]
    if not lacking:
        return []
    unread = sum(journal.replies[game.key] > reasks for game in lacking)
    given_up = sum(game.key in outcome.given_up_keys for game in lacking)
    waiting = len(lacking) - unread - given_up
    parts = {"still to be asked": waiting, "given up": given_up, "unparseable (--reasks)": unread}
    shares = [f"{count} of them {what}" for what, count in parts.items() if count]
    lines = [f"no verdict: {counted(len(lacking), 'call')}, {', '.join(shares)}"]
    cut = {line.key for line in journal.lines if line.finish_reason == "length" and not line.winner_side}
    cut_off = sum(game.key in cut for game in lacking)
    if cut_off:
        what = "reply was" if cut_off == 1 else "replies were"
        lines.append(f"{cut_off} unparseable {what} cut at the token limit: raise --max_tokens")
    if waiting or given_up:
        lines.append(f"go on with: {' '.join(map(shell_word, command))}")
    return lines


def shell_word(word: str) -> str:
    """A word as a shell reads it, on one line whatever is in it.

    >>> print(shell_word("gpt-4o"), shell_word("a b"), shell_word("two\\nlines"))
    gpt-4o 'a b' $'two\\nlines'
    """
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        letter if letter.isprintable() else escape(letter) for letter in word.replace("\\", "\\\\")
    )
    return "$'" + escaped.replace("'", "\\'") + "'"


def escape(letter: str) -> str:
    """A character as bash's $'…' writes it."""
    return letter.encode("unicode_escape").decode()
