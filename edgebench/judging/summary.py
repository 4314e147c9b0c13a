"""What the judge said, and whether it can be believed: a short table from the scores and the journal.

Per model and level: pairs won, tied and lost, and the win rate against the baseline level (a tie is half a
win) with the number of tasks it rests on. Then the judge itself: how often the two orders of a pair agree,
the first-slot score (mean score of whatever stood first; 0.5 is no lean) with an exact sign test, what was
decided by rule or cut off by the token limit, and the tokens it took. Intervals and length effects are the
business of analysis/. Standard library only: this is printed on a laptop.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from edgebench.judging.graded import Graded, graded_pairs
from edgebench.judging.pool import Prices
from edgebench.records.judgment import SCORE_OF_SIDE, JournalLine, ScoreRow
from edgebench.shell.text import counted, printable, shortened, text_table
from edgebench.stats.slots import Lean, lean_of
from edgebench.stats.win_rate import win_rate_of

LITTLE_MASS = 0.5  # of the judge's probability on its three words
LEANS_P = 0.05  # two-sided, exact
NAME_LETTERS = 22  # of a model's name in the table, which is to fit in 80 columns
NAME_LETTERS_BESIDE_GRADED = 18


def counting_lines(lines: Iterable[JournalLine], rows: Sequence[ScoreRow]) -> list[JournalLine]:
    """The line that counts of each game, the last one, for the pairs that stand in the scores."""
    scored = {(row.task_id, row.model_id, row.turn, row.pair, row.judge_model) for row in rows}
    decided = [line for line in lines if line.winner_side and line.game[:5] in scored]
    return list({line.game: line for line in decided}.values())


def scores_of_levels(rows: Iterable[ScoreRow]) -> dict[tuple[str, str], list[tuple[str, str, float]]]:
    """(model, level) -> (task, level it was compared with, score: 1 won, 0.5 tied, 0 lost)."""
    found: dict[tuple[str, str], list[tuple[str, str, float]]] = defaultdict(list)
    for row in rows:
        found[row.model_id, row.left].append((row.task_id, row.right, row.score))
        found[row.model_id, row.right].append((row.task_id, row.left, 1.0 - row.score))
    return found


def measure_lean(games: Iterable[JournalLine]) -> Lean:
    """The slots, from the games that were asked (not decided by rule) in both orders."""
    sides: dict[tuple[Any, ...], dict[str, str]] = defaultdict(dict)
    for game in games:
        if game.order and game.winner_side:
            sides[game.game[:-1]][game.order] = game.winner_side
    both = [(found["left_first"], found["right_first"]) for found in sides.values() if len(found) == 2]
    return lean_of([(SCORE_OF_SIDE[one], 1.0 - SCORE_OF_SIDE[other]) for one, other in both])


def graded_scores(graded: Graded) -> dict[tuple[str, str], list[tuple[str, str, float]]]:
    """(model, level) -> (task, level it was compared with, graded preference for it)."""
    found: dict[tuple[str, str], list[tuple[str, str, float]]] = defaultdict(list)
    for pair in graded.pairs:
        found[pair.model_id, pair.left_level].append((pair.task_id, pair.right_level, pair.share))
        found[pair.model_id, pair.right_level].append((pair.task_id, pair.left_level, 1.0 - pair.share))
    return found


def rate_text(scores: Iterable[tuple[str, str, float]], baseline: str) -> str:
    """A level's win rate against the baseline and the tasks it rests on; a dash without any."""
    rate = win_rate_of((task, score) for task, other, score in scores if other == baseline)
    return f"{rate.rate:.3f} ({rate.tasks})" if rate else "-"


def interval_text(scores: Iterable[tuple[str, str, float]], baseline: str) -> str:
    """The 95 % interval of the same win rate; a dash where one task or none tells no interval."""
    rate = win_rate_of((task, score) for task, other, score in scores if other == baseline)
    return f"{rate.ci95[0]:.2f}-{rate.ci95[1]:.2f}" if rate and rate.ci95 else "-"


def table(rows: Sequence[ScoreRow], baseline: str, graded: Graded | None = None) -> list[str]:
    """One line a model and level; n is the number of tasks that a rate rests on.

    With graded preferences their win rate stands beside the counted one.
    """
    cells = []
    by_preference = graded_scores(graded) if graded else {}
    for (model, level), scores in sorted(scores_of_levels(rows).items()):
        values = [score for _, _, score in scores]
        cells.append(
            [
                shortened(printable(model), NAME_LETTERS_BESIDE_GRADED if graded else NAME_LETTERS),
                printable(level),
                values.count(1.0),
                values.count(0.5),
                values.count(0.0),
                rate_text(scores, baseline),
                interval_text(scores, baseline),
                *([rate_text(by_preference.get((model, level), ()), baseline)] if graded else []),
            ]
        )
    heads = ["model", "level", "won", "tied", "lost", f"win rate vs {printable(baseline)} (n)", "95 %"]
    if graded:
        heads[-2:] = [f"vs {printable(baseline)} (n)", "95 %", "graded (n)"]
    return text_table(heads, cells, left=2)


def about_preferences(graded: Graded, margin: float) -> list[str]:
    """Verdicts by probability: what the graded rates rest on, and the lean that was taken out of them."""
    asked, lean = graded.asked, graded.lean
    if lean.lean_log_odds_mean is None or lean.first_slot_share is None:
        return ["no pair has probabilities in both orders: all verdicts are counted"]
    free = "their winners and the graded rates are" if graded.counted_only else "winners and graded rates are"
    lines = [
        f"by probability: {counted(len(asked), 'pair')}; a preference within {margin:g} of 0.5 is a tie",
        f"lean to the first slot taken out: {lean.lean_log_odds_mean:+.2f} in log odds (of two equal answers",
        f"  the first would win {lean.first_slot_share:.0%}); {free} free of it",
    ]
    mass = median(one.mass for one in asked)
    if mass < LITTLE_MASS:
        lines += [
            f"warning: A, B and Tie together held {mass:.1%} of the judge's probability",
            "  (median): it did not mean to answer with one of them.",
            "  Better ask another judge.",
        ]
    bounded = sum(one.bounded for one in asked)
    if bounded:
        lines.append(f"{counted(bounded, 'pair')} with a word that was not listed: its bound stands in")
    if graded.counted_only:
        lines.append(f"{counted(graded.counted_only, 'pair')} without probabilities in both orders: counted")
    return lines


def about_judge(lean: Lean, is_soft: bool = False) -> list[str]:
    """The judge's own lines: consistency and lean, with a warning in plain words."""
    if lean.first_slot_score is None:
        return ["no pair was asked in both orders: whether the judge leans to one slot is not known"]
    lines = [
        f"both orders agree on {lean.agree} of {lean.pairs} pairs ({lean.agree / lean.pairs:.1%})",
        f"first-slot score {lean.first_slot_score:.3f} (0.5: no lean; p {lean.p_value:.2g})",
    ]
    if lean.p_value < LEANS_P and not is_soft:
        slot = "first" if lean.first_both > lean.second_both else "second"
        often = max(lean.first_both, lean.second_both)
        lines += [
            f"warning: this judge leans to the {slot} slot: in {often} of {lean.pairs} pairs it chose",
            f"  what was shown {slot}, in both orders. Those pairs count as ties.",
            "  Better ask another judge.",
        ]
    return lines


def about_journal(games: Sequence[JournalLine], prices: Prices) -> list[str]:
    """What rules decided, what was cut, the tokens spent and their price, who replied."""
    rules = Counter(game.rule for game in games if game.rule)
    cut = sum(bool(game.left_truncated or game.right_truncated) for game in games)
    tokens_in = sum(game.prompt_tokens or 0 for game in games)
    tokens_out = sum(game.completion_tokens or 0 for game in games)
    told = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items())) or "none"
    lines = [f"decided by rule: {told}", f"replies about an answer that the token limit cut: {cut}"]
    if tokens_in or tokens_out:
        cost = prices.cost(tokens_in, tokens_out)
        spent = f"tokens {tokens_in:,} in, {tokens_out:,} out"
        lines.append(spent + ("" if cost is None else f"; cost {cost:,.2f}"))
    models = sorted({printable(game.reply_model) for game in games if game.reply_model})
    return [*lines, f"the judge calls itself {', '.join(models)}"] if models else lines


def summary_lines(
    rows: Sequence[ScoreRow],
    journal: Iterable[JournalLine],
    baseline: str,
    prices: Prices | None = None,
    margin: float | None = None,
) -> list[str]:
    """The table of wins, and what is to be said of the judge.

    `margin`: that of verdicts by probability; None where they are counted.
    """
    if not rows:
        return ["no pair has been judged in both orders yet"]
    games = counting_lines(journal, rows)
    graded = None if margin is None else graded_pairs(games)
    is_soft = graded is not None and bool(graded.asked)
    return [
        *table(rows, baseline, graded if is_soft else None),
        *(about_preferences(graded, margin) if graded is not None and margin is not None else []),
        *about_judge(measure_lean(games), graded is not None and is_soft and not graded.counted_only),
        *about_journal(games, prices or Prices()),
    ]
