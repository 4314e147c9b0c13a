"""What the judge said: win rates, Bradley-Terry strengths, from one verdict per task and pair of levels.

Takes the cleaned verdicts of judge_trust.py. Within a task the score of a level is 1 (won), 1/2 (tie) or 0
(lost). Tasks are the sample, never rows. A win counts only if both slot orders agree; `*_averaged` takes the
mean of both orders and all repeats instead, where there is a journal. Rates and shares 0-1, strengths in
log-odds. Beside the counted win rate stands the graded one where the judge gave probabilities (judge_pairs.py
--soft): the mean of its preferences, its lean to a slot taken out (stats/preference.py).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from edgebench.judging.graded import GradedPair
from edgebench.records.analysis import TakenOutLean
from edgebench.stats.bradley_terry import bradley_terry, connection, fit_choice, order_effect
from edgebench.stats.intervals import graded_interval, mean_std, wilson, win_rate_interval
from edgebench.stats.preference import taken_out
from edgebench.stats.significance import sign_test
from edgebench.stats.win_rate import task_scores

Floats = NDArray[np.float64]

Row = Mapping[
    str, Any
]  # one verdict: model_id, judge_model, task, turn, left, right, score, averaged, extra_chars


# --- Bradley-Terry ---


def bradley_terry_rows(
    verdicts: Sequence[Row], reference: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows per level (beta, se, Elo, Davidson beta) and one row about the fit, for one model and judge.

    Elo = 1000 + 400 / ln 10 (beta - mean beta). Without a reference among the levels the first level is it.
    """
    levels = sorted({level for v in verdicts for level in (v["left"], v["right"])})
    base = levels.index(reference) if reference in levels else 0
    wins, ties = win_tables(verdicts, levels)
    status, components = connection(wins + ties / 2)
    fit = bradley_terry(wins + ties / 2, base) if status == "ok" else None
    davidson = bradley_terry(wins, base, ties) if fit and ties.any() else None
    about: dict[str, Any] = {
        "levels": levels,
        "components": [[levels[i] for i in part] for part in components],
    }
    about |= {"half_win_beta": half_win(wins + ties / 2, levels, base) if status == "separated" else None}
    about["status"], about["statement"] = describe_fit(status, (wins + ties) > 0, levels, about["components"])
    about |= {"log_likelihood": fit.log_likelihood if fit else None}
    about |= {"covariance": fit.covariance.tolist() if fit else None}
    about |= {"davidson_nu": float(np.exp(davidson.coefficients[-1])) if davidson else None}
    rows = []
    for k, level in enumerate(levels):
        row: dict[str, Any] = {
            "level": level,
            "reference": levels[base],
            "beta": None,
            "se": None,
            "elo": None,
        }
        row |= {"beta_davidson": float(davidson.coefficients[k]) if davidson else None, "reason": None}
        if fit:
            centred = float(fit.coefficients[k] - fit.coefficients.mean())
            row |= {"beta": float(fit.coefficients[k]), "se": float(np.sqrt(fit.covariance[k, k]))}
            row |= {"elo": 1000 + 400 / float(np.log(10)) * centred}
        else:
            row["reason"] = about["statement"]
        rows.append(row)
    return rows, about


def win_tables(verdicts: Sequence[Row], levels: Sequence[str]) -> tuple[Floats, Floats]:
    """Strict wins (n, n) and ties (n, n, symmetric) of the levels."""
    wins, ties = np.zeros((len(levels), len(levels))), np.zeros((len(levels), len(levels)))
    for v in verdicts:
        i, j = levels.index(v["left"]), levels.index(v["right"])
        wins[i, j] += v["score"] == 1
        wins[j, i] += v["score"] == 0
        ties[i, j] += v["score"] == 0.5
        ties[j, i] += v["score"] == 0.5
    return wins, ties


def half_win(halves: Floats, levels: Sequence[str], reference: int) -> dict[str, float] | None:
    """Strengths after half a win is added to both sides of every compared pair: finite, and shrunk."""
    fit = bradley_terry(halves + ((halves + halves.T) > 0) * 0.5, reference)
    return dict(zip(levels, fit.coefficients.tolist(), strict=True)) if fit else None


def describe_fit(
    status: str, met: NDArray[np.bool_], levels: Sequence[str], components: Sequence[Sequence[str]]
) -> tuple[str, str]:
    """The status ("only_against_one" where every pair has the same opponent) and one sentence on what it
    means.
    """
    parts = ", ".join("{" + ", ".join(part) + "}" for part in components)
    if status == "disconnected":
        return status, f"no pair links these groups of levels, so they cannot be compared: {parts}"
    if status == "separated":
        return (
            status,
            f"between these groups all verdicts go one way, so strengths would be infinite: {parts}",
        )
    opponents = (met | met.T).sum(axis=0)
    if opponents.max() == len(levels) - 1 and opponents.sum() == 2 * (len(levels) - 1):
        hub = levels[int(opponents.argmax())]
        return (
            "only_against_one",
            f"only pairs against {hub}: each strength is the logit of its win rate, no more",
        )
    return status, "wins link every level to every other"


def order_effect_row(slots: Sequence[Row]) -> dict[str, float | None]:
    """The order effect as a Bradley-Terry term (log-odds for the first slot), its SE and Wald p."""
    row: dict[str, float | None] = dict.fromkeys(("order_effect_gamma", "order_effect_se", "order_effect_p"))
    levels = sorted({level for slot in slots for level in (slot["first"], slot["second"])})
    table = np.zeros((len(levels), len(levels), 2))
    for slot in slots:
        scores = (slot["first_score"], slot["second_score"])
        table[levels.index(slot["first"]), levels.index(slot["second"])] += scores
    linked = slots and connection(table[:, :, 0] + table[:, :, 1].T)[0] == "ok"
    fit = order_effect(table) if linked else None
    if fit:
        gamma, se = float(fit.coefficients[-1]), float(np.sqrt(fit.covariance[-1, -1]))
        row |= {"order_effect_gamma": gamma, "order_effect_se": se}
        row["order_effect_p"] = float(2 * stats.norm.sf(abs(gamma) / se))
    return row


# --- win rates ---


def win_rate(scores: Sequence[float]) -> dict[str, Any]:
    """Win rate of one level from its score in each task: the mean over tasks, its SE and 95 % interval.

    SE = sd(task scores, n - 1) / sqrt(n), as AlpacaEval prints. One task: no SE and no interval.
    """
    rate, std = mean_std(scores)
    interval = win_rate_interval(scores)
    se = None if std is None else std / math.sqrt(len(scores))
    return {"rate": rate, "se": se, "ci95": interval.edges, "reason": interval.reason}


def length_controlled(scores: Sequence[float], extra_length: Sequence[float]) -> dict[str, Any] | None:
    """Win rate at equal length and the length coefficient: s(theta) of logit P(win) = theta + gamma tanh(d /
    sd(d)).

    scores: 0-1 per task; extra_length: the level's answer length minus the other's. Source: AlpacaEval 2
    (Dubois et al. 2024) without its instruction term. None where the lengths do not vary or the fit has no
    finite maximum.
    """
    difference = np.asarray(extra_length, dtype=float)
    if len(difference) < 3 or difference.std(ddof=1) == 0:
        return None
    features = np.zeros((len(difference), 2, 2))
    features[:, 0, 0], features[:, 0, 1] = 1.0, np.tanh(difference / difference.std(ddof=1))
    won = np.asarray(scores, dtype=float)
    fit = fit_choice(features, np.column_stack([won, 1 - won]))
    if fit is None:
        return None
    theta, gamma = fit.coefficients
    half = 1.959964 * np.sqrt(fit.covariance[0, 0])
    rate, low, high = map(float, special.expit([theta, theta - half, theta + half]))
    # Were all answers of one level longer, equal length was never seen: the fit reaches beyond the data.
    beyond = bool(difference.min() > 0 or difference.max() < 0)
    return {"rate": rate, "ci95": [low, high], "gamma": float(gamma), "extrapolated": beyond}


def seen_from(row: Row, level: str, name: str = "score") -> float:
    """The score of `level`, one of the two sides of the verdict."""
    score = float(row[name])
    return score if level == row["left"] else 1 - score


def by_task(verdicts: Sequence[Row], level: str, name: str = "score") -> list[float]:
    """Mean score of `level` in each task, tasks sorted; a task judged over two turns has two verdicts."""
    means = task_scores((v["task"], seen_from(v, level, name)) for v in verdicts)
    return [means[task] for task in sorted(means)]


def graded_columns(
    graded: Sequence[GradedPair], level: str, against: str, tasks: Sequence[str]
) -> dict[str, Any]:
    """The graded win rate of a level: the mean over tasks of the preference by probability.

    `tasks`: those with a counted verdict.
    """
    shares = task_scores(
        (pair.task_id, pair.share if pair.left_level == level else 1 - pair.share)
        for pair in graded
        if {pair.left_level, pair.right_level} == {level, against}
    )
    scores = [shares[task] for task in sorted(shares)]
    interval = graded_interval(scores)
    lacking = len(set(tasks) - shares.keys())
    reason = f"{lacking} of {len(set(tasks))} tasks have no probabilities in both orders" if lacking else None
    return {
        "graded_n_tasks": len(scores),
        "graded_win_rate": fmean(scores) if scores else None,
        "graded_ci95": interval.edges,
        "graded_reason": interval.reason if interval.reason and scores else reason,
    }


def graded_leans(graded: Sequence[GradedPair]) -> list[TakenOutLean]:
    """The lean to a slot that graded preferences are free of, per judge and model, and over all models."""
    rows = []
    for judge in sorted({pair.judge_model for pair in graded}):
        asked = [pair for pair in graded if pair.judge_model == judge and pair.preference]
        models = sorted({pair.model_id for pair in asked})
        for model in [None, *models] if len(models) > 1 else models:
            own = [pair.preference for pair in asked if pair.preference and model in (None, pair.model_id)]
            lean = taken_out(own)
            rows.append(
                TakenOutLean(
                    model_id=model,
                    judge_model=judge,
                    pairs=lean.pairs,
                    lean_log_odds_mean=lean.lean_log_odds_mean,
                    lean_log_odds_std=lean.lean_log_odds_std,
                    first_slot_share=lean.first_slot_share,
                )
            )
    return rows


def win_rate_rows(
    verdicts: Sequence[Row], level: str, against: str, graded: Sequence[GradedPair] = ()
) -> list[dict[str, Any]]:
    """Two rows for the verdicts of one pair of levels: `level` seen against the other, and the mirror.

    `graded`: the preferences by probability of the same model and judge, of any levels.
    """
    of_tasks = by_task(verdicts, level)
    seen = Counter(seen_from(v, level) for v in verdicts)
    row: dict[str, Any] = {
        "level": level,
        "against": against,
        "n_tasks": len(of_tasks),
        "n_verdicts": len(verdicts),
    }
    row |= {"wins": seen[1.0], "ties": seen[0.5], "losses": seen[0.0]}
    rate = win_rate(of_tasks)
    row |= {"win_rate": rate["rate"], "win_rate_se": rate["se"], "ci95": rate["ci95"]}
    row |= {"reason": rate["reason"]}
    row |= {"decisive_share": None, "decisive_wilson95": None, "sign_p": None}
    if seen[1.0] + seen[0.0]:
        decisive = seen[1.0] + seen[0.0]
        row |= {"decisive_share": seen[1.0] / decisive, "decisive_wilson95": wilson(seen[1.0], decisive)}
    ahead, behind = sum(score > 0.5 for score in of_tasks), sum(score < 0.5 for score in of_tasks)
    if ahead + behind:
        row["sign_p"] = sign_test(ahead, behind)
    else:
        row["reason"] = "no task has a winner: no sign test"
    averaged = [v for v in verdicts if v["averaged"] is not None]
    mean = win_rate(by_task(averaged, level, "averaged")) if averaged else {}
    row |= {
        f"win_rate_averaged{end}": mean.get(key)
        for end, key in (("", "rate"), ("_se", "se"), ("_ci95", "ci95"))
    }
    row |= length_row(verdicts, level)
    if graded:
        row |= graded_columns(graded, level, against, [str(v["task"]) for v in verdicts])
    return [row, mirrored(row)]


def length_row(verdicts: Sequence[Row], level: str) -> dict[str, Any]:
    """Length-controlled win rate and the coefficient, from the averaged scores where there are any."""
    known = [v for v in verdicts if v["extra_chars"] is not None]
    scores = [seen_from(v, level, "score" if v["averaged"] is None else "averaged") for v in known]
    extra = [v["extra_chars"] if level == v["left"] else -v["extra_chars"] for v in known]
    fit = length_controlled(scores, extra) or dict.fromkeys(("rate", "ci95", "gamma", "extrapolated"))
    row = {"length_controlled_win_rate": fit["rate"], "length_controlled_ci95": fit["ci95"]}
    return row | {"length_gamma": fit["gamma"], "length_extrapolated": fit["extrapolated"]}


def mirrored(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same verdicts seen from the other level."""
    turned = dict(row, level=row["against"], against=row["level"], wins=row["losses"], losses=row["wins"])
    rates = (
        "win_rate",
        "win_rate_averaged",
        "decisive_share",
        "length_controlled_win_rate",
        "graded_win_rate",
    )
    for key in (name for name in rates if name in row):
        turned[key] = None if row[key] is None else 1 - row[key]
    edges = ("ci95", "win_rate_averaged_ci95", "decisive_wilson95", "length_controlled_ci95", "graded_ci95")
    for key in (name for name in edges if name in row):
        turned[key] = None if row[key] is None else [1 - row[key][1], 1 - row[key][0]]
    return turned


# --- all tables ---


def analyze(check: Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    """All tables, per model and judge."""
    tables: dict[str, list[dict[str, Any]]] = {"win_rates": [], "bradley_terry": [], "bradley_terry_fits": []}
    for model, judge in sorted({(v["model_id"], v["judge_model"]) for v in check["verdicts"]}):
        identity = {"model_id": model, "judge_model": judge}
        own = [v for v in check["verdicts"] if (v["model_id"], v["judge_model"]) == (model, judge)]
        slots = [s for s in check["slots"] if (s["model_id"], s["judge_model"]) == (model, judge)]
        graded = graded_of(check, model, judge)
        pairs: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for v in own:
            pairs[min(v["left"], v["right"]), max(v["left"], v["right"])].append(v)
        for against, level in sorted(pairs):
            rows = win_rate_rows(pairs[against, level], level, against, graded)
            tables["win_rates"] += [identity | row for row in rows]
        rows, about = bradley_terry_rows(own, reference)
        tables["bradley_terry"] += [identity | row for row in rows]
        tables["bradley_terry_fits"].append(identity | about | order_effect_row(slots))
    return {"schema_version": 1, **tables}


def graded_of(check: Mapping[str, Any], model: str, judge: str) -> list[GradedPair]:
    """The preferences by probability of one model and judge; none where all its verdicts are counted."""
    own = [pair for pair in check.get("graded", ()) if (pair.model_id, pair.judge_model) == (model, judge)]
    return own if any(pair.preference for pair in own) else []
