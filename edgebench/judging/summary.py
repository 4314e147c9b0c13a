#!/usr/bin/env python3
"""What the judge said, and whether it can be believed: a short table from the scores and the journal.

Per model and level: pairs won, tied and lost, and the win rate against the baseline level (a tie is half a
win), with its n. Then the judge itself: how often the two orders of a pair agree, the first-slot score (mean
score of whatever stood first; 0.5 is no lean) with an exact sign test, what was decided by rule or cut off by
the token limit, and the tokens it took. judge_pairs.py prints this at its end; intervals and length effects
are the business of analyze_levels.py.

Example:
    python edgebench/__main__.py edgebench.judging.summary --scores results/scores_mtbench.csv \\
        --journal results/scores_mtbench.journal.jsonl --baseline L0
"""

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import read_jsonl
from edgebench.records.judgment import SCORE_OF_SIDE, SCORE_OF_WINNER
from edgebench.stats.slots import Lean, lean_of

LEANS_P = 0.05  # two-sided, exact


class SummaryError(UserError):
    """Something the user can put right: a file that is not there or is not what it should be."""


def read_scores(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as exc:
        raise SummaryError(f"cannot read the scores: {exc} (--scores)") from exc
    if rows and not {"model_id", "pair", "winner", "task_id", "turn"} <= rows[0].keys():
        raise SummaryError(f"{path} is no scores file: it has no columns model_id, pair, winner (--scores)")
    return rows


def read_games(path: Path, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The line that counts of each game, the last one in the file, for the pairs that stand in the scores."""
    names = ("task_id", "model_id", "turn", "pair", "judge_model")
    scored = {tuple(row[name] for name in names) for row in rows}
    games: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        for _, line in read_jsonl(path):
            if line and tuple(str(line.get(name)) for name in names) in scored and line.get("winner_side"):
                key = tuple(line.get(name) for name in (*names, "repeat", "order"))
                games.pop(key, None)
                games[key] = line
    except OSError as exc:
        raise SummaryError(f"cannot read the journal: {exc} (--journal)") from exc
    return list(games.values())


def count_wins(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], Counter[str]]:
    """(model, level) -> won, tied, lost over all reconciled pairs the level is in."""
    wins: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        left, _, right = row["pair"].partition("_vs_")
        outcome = {"A": ("won", "lost"), "B": ("lost", "won")}.get(row["winner"], ("tied", "tied"))
        wins[row["model_id"], left][outcome[0]] += 1
        wins[row["model_id"], right][outcome[1]] += 1
    return wins


def rates_against(rows: Sequence[Mapping[str, str]], baseline: str) -> dict[tuple[str, str], list[float]]:
    """(model, level) -> per task the score against the baseline level: 1 won, 0.5 tied, 0 lost."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        left, _, right = row["pair"].partition("_vs_")
        points = SCORE_OF_WINNER.get(row["winner"], 0.5)
        if right == baseline:
            scores[row["model_id"], left].append(points)
        elif left == baseline:
            scores[row["model_id"], right].append(1.0 - points)
    return scores


def measure_lean(games: Sequence[Mapping[str, Any]]) -> Lean:
    """The slots, from the games that were asked (not decided by rule) in both orders."""
    sides: dict[tuple[Any, ...], dict[str, str]] = defaultdict(dict)
    for game in games:
        if game.get("order") in ("left_first", "right_first"):
            names = ("task_id", "model_id", "turn", "pair", "repeat", "judge_model")
            sides[tuple(game.get(name) for name in names)][game["order"]] = game["winner_side"]
    both = [(found["left_first"], found["right_first"]) for found in sides.values() if len(found) == 2]
    return lean_of([(SCORE_OF_SIDE[one], 1.0 - SCORE_OF_SIDE[other]) for one, other in both])


def table(rows: Sequence[Mapping[str, str]], baseline: str) -> list[str]:
    wins, rates = count_wins(rows), rates_against(rows, baseline)
    width = max([len("model"), *(len(model) for model, _ in wins)])
    lines = [f"{'model':{width}}  level    won  tied  lost   win rate against {baseline} (n)"]
    for model, level in sorted(wins):
        count, scores = wins[model, level], rates.get((model, level), [])
        rate = f"{sum(scores) / len(scores):.3f} ({len(scores)})" if scores else "-"
        counts = f"{count['won']:5} {count['tied']:5} {count['lost']:5}"
        lines.append(f"{model:{width}}  {level:6} {counts}   {rate}")
    return lines


def about_judge(lean: Lean) -> list[str]:
    """The judge's own lines: consistency and lean, with a warning in plain words."""
    if lean.first_slot_score is None:
        return ["no pair was asked in both orders: whether the judge leans to one slot is not known"]
    lines = [
        f"both orders agree on {lean.agree} of {lean.pairs} pairs ({lean.agree / lean.pairs:.1%})",
        f"first-slot score {lean.first_slot_score:.3f} (0.5: no lean; p {lean.p_value:.2g})",
    ]
    if lean.p_value < LEANS_P:
        slot = "first" if lean.first_both > lean.second_both else "second"
        often = max(lean.first_both, lean.second_both)
        lines += [
            f"warning: this judge leans to the {slot} slot: in {often} of {lean.pairs} pairs it chose what",
            f"  was shown {slot}, in both orders. Those pairs count as ties. Better ask another judge.",
        ]
    return lines


def about_journal(
    games: Sequence[Mapping[str, Any]], price_in: float | None, price_out: float | None
) -> list[str]:
    """What rules decided, what was cut, the tokens spent and their price per million, who replied."""
    rules = Counter(str(game["rule"]) for game in games if game.get("rule"))
    cut = sum(bool(game.get("left_truncated") or game.get("right_truncated")) for game in games)
    spent = [sum(game.get(name) or 0 for game in games) for name in ("prompt_tokens", "completion_tokens")]
    told = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items())) or "none"
    lines = [f"decided by rule: {told}; replies about an answer that the token limit cut: {cut}"]
    if any(spent):
        cost = (spent[0] * (price_in or 0.0) + spent[1] * (price_out or 0.0)) / 1e6
        priced = price_in is not None or price_out is not None
        lines.append(f"tokens {spent[0]:,} in, {spent[1]:,} out" + (f"; cost {cost:,.2f}" if priced else ""))
    models = sorted({str(game["reply_model"]) for game in games if game.get("reply_model")})
    return [*lines, f"the judge calls itself {', '.join(models)}"] if models else lines


def summary_of(
    scores: Path,
    journal: Path,
    baseline: str = "L0",
    price_in: float | None = None,
    price_out: float | None = None,
) -> str:
    """The table of wins, and what is to be said of the judge. Raises SummaryError."""
    rows = read_scores(scores)
    games = read_games(journal, rows)
    if not rows:
        return "no pair has been judged in both orders yet"
    lines = [*table(rows, baseline), *about_judge(measure_lean(games))]
    return "\n".join([*lines, *about_journal(games, price_in, price_out)])


def build_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--scores", type=Path, required=True, help="scores_mtbench.csv")
    parser.add_argument(
        "--journal", type=Path, required=True, help="its journal, scores_mtbench.journal.jsonl"
    )
    parser.add_argument("--baseline", default="L0", help="level the others are compared with (default: L0)")
    parser.add_argument("--price_in", type=float, help="price of a million input tokens")
    parser.add_argument("--price_out", type=float, help="price of a million output tokens")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        print(summary_of(args.scores, args.journal, args.baseline, args.price_in, args.price_out))
    except SummaryError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
