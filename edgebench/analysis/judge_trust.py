"""Can the judge be trusted? Position bias, length effect and noise, from the scores and the judge's journal.

Reads scores_mtbench.csv (one reconciled verdict per task, model and pair of levels), beside it the journal
(one line per reply: both slot orders, repeats); lengths of the answers come from the runs where the journal
has none. Gives position_bias, length_effect, judge_noise, judge_counts (shares 0-1, lengths in characters),
and the cleaned verdicts (score of the left level: 1 won, 0.5 tie, 0 lost) for judgments.py. What needs a file
that is not there is null with a reason.
"""

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.judging.graded import GradedPair, graded_pairs
from edgebench.records import judgment
from edgebench.records.jsonl import sha256_of
from edgebench.records.judgment import SCORE_OF_SIDE, JournalLine
from edgebench.stats.intervals import wilson
from edgebench.stats.significance import FOUND_P
from edgebench.stats.slots import lean_of

Lengths = Mapping[tuple[str, ...], int]  # characters of an answer by (model, task, turn, level)
BIASED_P = 0.05


class JudgeCheckError(UserError):
    """Something the user can put right: a missing file, a column that is not there."""


@dataclass(frozen=True)
class Verdict:
    """One reconciled judgment of `left` against `right`."""

    model_id: str
    judge_model: str
    task: str
    turn: str
    left: str
    right: str
    score: float  # of the left level: a win only if both orders agree, else a tie
    averaged: float | None = None  # of the left level: mean of both orders and all repeats
    extra_chars: int | None = None  # how much longer the left answer was

    def place(self) -> tuple[str, ...]:
        """What names the pair, whichever level stands left."""
        return (self.model_id, self.judge_model, self.task, self.turn, *sorted((self.left, self.right)))


@dataclass(frozen=True)
class Reply:
    """One judge's reply; `first` stood in slot A, score is its score (None: unparsed or failed, rule: no
    call).
    """

    model_id: str
    judge_model: str
    task: str
    turn: str
    first: str
    second: str
    repeat: str
    score: float | None
    rule: str | None
    chars: tuple[int | None, int | None]  # answer lengths of the first and the second, as the judge saw them
    answers: tuple[str, str]  # sha256 of both

    def place(self) -> tuple[str, ...]:
        """What names the pair, whichever level stands first."""
        return (self.model_id, self.judge_model, self.task, self.turn, *sorted((self.first, self.second)))

    def score_of(self, level: str) -> float:
        """The score of `level`, one of the two; call it on parsed replies only."""
        score = 0.0 if self.score is None else self.score
        return score if level == self.first else 1 - score


# --- can the judge be trusted? ---


def both_orders(replies: Sequence[Reply]) -> list[tuple[Reply, Reply]]:
    """Parsed replies to one question in both slot orders, matched repeat by repeat."""
    games: dict[tuple[str, ...], list[Reply]] = defaultdict(list)
    for reply in replies:
        if reply.score is not None and not reply.rule:
            game = (*reply.place(), reply.repeat)
            games[game].append(reply)
    return [(played[0], played[1]) for played in games.values() if len(played) == 2]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties share their mean rank."""
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values), 1):
        places[value].append(place)
    return [statistics.fmean(places[value]) for value in values]


def position_bias(matched: Sequence[tuple[Reply, Reply]]) -> dict[str, Any]:
    """Does the judge favour a slot? From pairs of replies to both slot orders.

    consistency: share with the same verdict in both orders. first_slot_score: mean score of the first slot
    over both orders, 1/2 is none. mcnemar_p: exact two-sided test of first-first against second-second.
    Source: Zheng et al. (2023), arXiv 2306.05685.
    """
    lean = lean_of([(one.score_of(one.first), two.score_of(two.first)) for one, two in matched])
    row: dict[str, Any] = {"pairs": lean.pairs}
    row |= {"first_first": lean.first_both, "second_second": lean.second_both}
    row |= {"partial_first": lean.partial_first, "partial_second": lean.partial_second}
    row |= dict.fromkeys(("consistency", "first_slot_score", "mcnemar_p"))
    row |= {"biased": False, "reason": None if lean.pairs else "no pair was judged in both orders"}
    if lean.pairs:
        row["consistency"] = lean.agree / lean.pairs
        row["first_slot_score"] = lean.first_slot_score
        row["mcnemar_p"] = lean.p_value
        row["biased"] = lean.p_value < BIASED_P
    return row


def undecided_judges(
    position_bias: Sequence[Mapping[str, Any]], win_rates: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Judges that favour a slot, over all their models, and of whose comparisons none is beyond chance.

    What such a judge prefers is where an answer stands: by its verdicts no level can be told from another.
    One that leans and finds a difference all the same is not among them: a win counts only in both orders.
    """
    judges = sorted({str(row["judge_model"]) for row in win_rates})
    undecided = []
    for judge in judges:
        own = [row for row in position_bias if row["judge_model"] == judge]
        whole = [row for row in own if row["model_id"] is None] or own
        p_values = [row["p_holm"] for row in win_rates if row["judge_model"] == judge]
        found = any(p is not None and p < FOUND_P for p in p_values)
        if whole and all(row["biased"] for row in whole) and not found:
            undecided.append(judge)
    return undecided


def length_effect(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Does the longer answer win? Share of decisive pairs it wins, Wilson interval, z, and correlations.

    Lengths in characters, as the judge sees them; pairs of equal length are left out of the share.
    """
    extra = [(v.score, d) for v in verdicts if v.score != 0.5 and (d := v.extra_chars)]
    row: dict[str, Any] = {"unit": "characters", "decisive": len(extra)}
    row |= dict.fromkeys(("longer_won", "longer_share", "wilson95", "z", "spearman", "pearson"))
    row["reason"] = None if extra else "no decisive pair whose answers differ in a known length"
    if extra:
        won, total = sum((score == 1) == (d > 0) for score, d in extra), len(extra)
        row |= {"longer_won": won, "longer_share": won / total, "wilson95": wilson(won, total)}
        row["z"] = (won - total / 2) / math.sqrt(total / 4)
    mean = [v.score if v.averaged is None else v.averaged for v in verdicts]
    points = [(score, d) for score, v in zip(mean, verdicts, strict=True) if (d := v.extra_chars) is not None]
    if len({score for score, _ in points}) > 1 and len({d for _, d in points}) > 1:
        scores, differences = zip(*points, strict=True)
        row["spearman"] = statistics.correlation(ranks(differences), ranks(scores))
        row["pearson"] = statistics.correlation(differences, scores)
    return row


def judge_noise(replies: Sequence[Reply], same_answers: bool) -> dict[str, Any]:
    """Does the judge repeat itself? Agreement, A-B flips and Cohen's kappa over replies to one question.

    same_answers: only replies to the same two answers in the same slots (the judge's own noise); else the
    repeats of a pair, whose answers differ (noise of judge and model together).
    Kappa = (observed - expected) / (1 - expected) agreement, over all pairs (earlier, later) of one
    question's replies.
    """
    asked: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for r in replies:
        if r.score is not None and not r.rule:
            question = (*r.place(), r.first, *(r.answers if same_answers else ()))
            asked[question].append(r.score)
    twice = [two for scores in asked.values() for two in itertools.combinations(scores, 2)]
    row: dict[str, Any] = {"kind": "same_answers" if same_answers else "repeats", "compared": len(twice)}
    row |= {
        "repeated_requests": sum(len(scores) > 1 for scores in asked.values()),
        "same": None,
        "agreement": None,
    }
    row |= {"flips": None, "kappa": None, "reason": None if twice else "nothing was asked twice"}
    if twice:
        same = sum(one == two for one, two in twice)
        first, second = Counter(one for one, _ in twice), Counter(two for _, two in twice)
        expected = sum(first[label] * second[label] for label in first) / len(twice) ** 2
        row |= {"same": same, "agreement": same / len(twice), "flips": sum(abs(a - b) == 1 for a, b in twice)}
        row["kappa"] = (same / len(twice) - expected) / (1 - expected) if expected < 1 else None
    return row


# --- files ---


def read_scores(path: Path) -> tuple[list[Verdict], dict[str, int]]:
    """Verdicts of a scores file, the last row of each (task, model, judge, pair, turn), and what was left
    out.
    """
    scores = judgment.read_scores(path)
    counts = {"rows": scores.read, "duplicates": scores.duplicates}
    counts["unknown_winners"] = scores.unknown_winners.total()
    counts["malformed"] = scores.malformed + counts["unknown_winners"]
    verdicts = [
        Verdict(row.model_id, row.judge_model, row.task_id, str(row.turn), row.left, row.right, row.score)
        for row in scores.rows
    ]
    return sorted(verdicts, key=Verdict.place), counts


@dataclass(frozen=True)
class Journal:
    """What a journal holds of the pairs in the scores file."""

    current: list[Reply]
    every: list[Reply]  # superseded ones too
    graded: list[GradedPair]
    counts: dict[str, Any]


def read_journal(path: Path, verdicts: Sequence[Verdict]) -> Journal:
    """Replies, preferences by probability and counts; only of pairs in the scores file.

    A later line of a game replaces the earlier one; other answers than before make the whole comparison
    stale.
    """
    planned = {verdict.place() for verdict in verdicts}
    games: dict[tuple[str, ...], dict[str, Reply]] = defaultdict(dict)
    every: list[Reply] = []
    counts: dict[str, Any] = {"journal_lines": 0, "journal_failed": 0, "journal_torn": 0}
    journal = judgment.read_journal(path)
    counts["journal_torn"] = journal.torn
    for reply in map(reply_of, journal.lines):
        counts["journal_lines"] += 1
        counts["journal_failed"] += reply.score is None
        if reply.place() not in planned:
            continue
        every.append(reply)
        where = (*reply.place(), reply.repeat)
        game = games[where]
        if any(
            sorted(old.answers) != sorted(reply.answers) or old.rule != reply.rule for old in game.values()
        ):
            game.clear()
        game[reply.first] = reply
    current = [games[key][first] for key in sorted(games) for first in sorted(games[key])]
    counts["by_rule"] = dict(sorted(Counter(reply.rule for reply in current if reply.rule).items()))
    graded = graded_pairs(line for line in journal.lines if reply_of(line).place() in planned)
    return Journal(current, every, graded.pairs, counts)


def reply_of(line: JournalLine) -> Reply:
    """One journal line as a reply seen from slot A (a rule line: from the left level)."""
    score = SCORE_OF_SIDE.get(str(line.winner_side))
    chars, answers = (line.left_chars, line.right_chars), (str(line.left_sha256), str(line.right_sha256))
    if line.order == "right_first":
        score = None if score is None else 1 - score
        chars, answers = chars[::-1], answers[::-1]
    first, second = line.levels_by_slot
    return Reply(
        model_id=line.model_id,
        judge_model=line.judge_model,
        task=line.task_id,
        turn=str(line.turn),
        first=first,
        second=second,
        repeat=str(line.repeat),
        score=score,
        rule=line.rule,
        chars=chars,
        answers=answers,
    )


def complete_verdict(
    verdict: Verdict, replies: Sequence[Reply], single_order: bool, lengths: Lengths
) -> Verdict:
    """The verdict with its averaged score and the extra length of the left answer, as far as they are known.

    A repeat with one order only is left out of the average, unless the judge was asked in one order
    throughout. A pair decided by a rule has the rule's score.
    """
    games: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        if reply.score is not None:
            games[reply.repeat].append(reply)
    whole = [game for game in games.values() if single_order or len(game) == 2 or game[0].rule]
    means = [sum(reply.score_of(verdict.left) for reply in game) / len(game) for game in whole]
    extra = None
    if replies and None not in replies[0].chars:
        first, second = (chars or 0 for chars in replies[0].chars)
        extra = first - second if replies[0].first == verdict.left else second - first
    else:
        place = (verdict.model_id, verdict.task, verdict.turn)
        left, right = lengths.get((*place, verdict.left)), lengths.get((*place, verdict.right))
        extra = left - right if left is not None and right is not None else None
    return replace(verdict, averaged=sum(means) / len(means) if means else None, extra_chars=extra)


# --- the whole check ---


def check(
    verdicts: Sequence[Verdict], current: Sequence[Reply], every: Sequence[Reply], lengths: Lengths
) -> dict[str, Any]:
    """All tables of the output, per judge and model, and pooled over models (model_id null)."""
    by_pair: dict[tuple[str, ...], list[Reply]] = defaultdict(list)
    for reply in current:
        by_pair[reply.place()].append(reply)
    single = not any(len({r.first for r in pair}) == 2 for pair in by_pair.values())
    whole = [complete_verdict(v, by_pair[v.place()], single, lengths) for v in verdicts]
    tables: dict[str, Any] = {"position_bias": [], "length_effect": [], "judge_noise": []}
    for judge in sorted({v.judge_model for v in whole}):
        models = sorted({v.model_id for v in whole if v.judge_model == judge})
        for model in [None, *models] if len(models) > 1 else models:
            identity = {"model_id": model, "judge_model": judge}
            replies = [r for r in current if r.judge_model == judge and model in (None, r.model_id)]
            own = [v for v in whole if v.judge_model == judge and model in (None, v.model_id)]
            tables["position_bias"].append(identity | position_bias(both_orders(replies)))
            tables["length_effect"].append(identity | length_effect(own))
        for same_answers in (True, False):
            sample = [r for r in (every if same_answers else current) if r.judge_model == judge]
            tables["judge_noise"].append({"judge_model": judge} | judge_noise(sample, same_answers))
    one_order = sum(
        len({r.first for r in pair if r.score is not None}) == 1 and not pair[0].rule
        for pair in by_pair.values()
    )
    tables["judge_counts"] = {"pairs_one_order_only": one_order}
    tables["verdicts"] = [asdict(v) for v in whole]
    tables["slots"] = slot_table(current)
    return tables


def slot_table(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Per model, judge and ordered pair of levels: the summed score of the first and of the second slot."""
    sums: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for r in replies:
        if r.score is not None and not r.rule:
            total = sums[r.model_id, r.judge_model, r.first, r.second]
            total[0] += r.score
            total[1] += 1 - r.score
    names = ("model_id", "judge_model", "first", "second")
    return [
        dict(zip(names, key, strict=True)) | {"first_score": a, "second_score": b}
        for key, (a, b) in sorted(sums.items())
    ]


def check_files(scores: Path, journal: Path | None = None, lengths: Lengths | None = None) -> dict[str, Any]:
    """Read, check; a journal that was not asked for and is not there is no error. Raises JudgeCheckError.

    lengths: of the answers, from the runs, where the journal has none.
    """
    stem = scores.name.removesuffix(".gz").removesuffix(".csv")
    beside = journal or scores.with_name(f"{stem}.journal.jsonl")
    try:
        verdicts, counts = read_scores(scores)
        asked = journal or beside.exists()
        found = read_journal(beside, verdicts) if asked else Journal([], [], [], {})
    except OSError as exc:
        raise JudgeCheckError(f"cannot read {exc.filename}: {exc.strerror}") from exc
    tables = check(verdicts, found.current, found.every, lengths or {})
    tables["graded"] = found.graded
    files = {"scores": scores} | ({"journal": beside} if asked else {})
    tables["inputs"] = [
        {"path": str(path), "kind": kind, "sha256": sha256_of(path)} for kind, path in files.items()
    ]
    tables["judge_counts"] |= counts | found.counts | {"has_journal": bool(found.counts)}
    return {"schema_version": 1} | tables
