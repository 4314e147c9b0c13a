"""What the judge leaves: one journal line a game, one row of the scores a pair of levels."""

from __future__ import annotations

from typing import Any, TypedDict

SCORE_COLUMNS = ("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn")
# The left level's score for a winner as the scores file names it, after both orders are reconciled.
SCORE_OF_WINNER = {"A": 1.0, "B": 0.0, "Tie": 0.5}
SCORE_OF_SIDE = {"left": 1.0, "right": 0.0, "tie": 0.5}


class ScoreRow(TypedDict):
    """One row of scores_mtbench.csv: a pair of levels of one task and model, both orders reconciled."""

    task_id: str
    category: str
    model_id: str
    pair: str  # L0_vs_P: the left and the right level
    winner: str  # A = left level, B = right level, Tie
    judge_model: str
    turn: str


class JournalLine(TypedDict, total=False):
    """One game: two answers shown in one order. A later line of the same game replaces the earlier one."""

    task_id: Any
    category: str
    model_id: str
    turn: int
    repeat: int
    pair: str
    left_level: str
    right_level: str
    order: str  # left_first or right_first; absent where a rule decided
    rule: str  # why nobody was asked: the answers are the same, one is empty, ...
    judge_model: str
    winner_side: str | None  # left, right, tie; null: no verdict could be read
    left_sha256: str
    right_sha256: str
    left_chars: int
    right_chars: int
    prompt_tokens: int | None
    completion_tokens: int | None
    reply_model: str


def sides_of(pair: str) -> tuple[str, str]:
    """The two levels of a pair.

    >>> sides_of("L0_vs_P")
    ('L0', 'P')
    """
    left, _, right = pair.partition("_vs_")
    return left, right
