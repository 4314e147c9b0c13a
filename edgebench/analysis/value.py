"""Quality against cost: the Pareto front of model x level, quality per joule, the cheapest level that is
good enough.

Quality is the win rate against one level of the same model, the baseline where it was judged against all
others, else the placebo; that level itself is 0.5 by definition. Cost is the mean net energy per run, or the
latency where no energy was measured. Quality compares levels of one model: it says nothing about which model
writes better.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.stats.intervals import difference_interval, mean_std
from edgebench.stats.significance import FOUND_P, holm, sign_test

UNITS = {"energy_joule": "J", "latency_ms": "ms"}  # costs, the preferred one first
REFERENCE_QUALITY = 0.5  # a level against itself: as often ahead as behind


@dataclass
class Quality:
    """The levels of one model as one judge sees them, all against the same level."""

    against: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # level -> task -> score 0-1

    def mean(self, level: str) -> float:
        """Mean over tasks."""
        return sum(self.scores[level].values()) / len(self.scores[level])


def quality_of(verdicts: Sequence[Mapping[str, Any]], preferred: Sequence[str]) -> Quality:
    """Scores by level and task against the level most others were judged against; `preferred` wins a draw."""
    opponents: dict[str, set[str]] = defaultdict(set)
    for v in verdicts:
        opponents[v["left"]].add(v["right"])
        opponents[v["right"]].add(v["left"])
    candidates = [level for level in preferred if level in opponents] or sorted(opponents)
    against = max(candidates, key=lambda level: len(opponents[level]))
    turns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for v in verdicts:
        if against == v["right"]:
            turns[v["left"]][v["task"]].append(v["score"])
        elif against == v["left"]:
            turns[v["right"]][v["task"]].append(1 - v["score"])
    scores = {
        level: {task: sum(of) / len(of) for task, of in sorted(tasks.items())}
        for level, tasks in turns.items()
    }
    scores[against] = {task: REFERENCE_QUALITY for tasks in scores.values() for task in tasks}
    return Quality(against, scores)


def front(points: Mapping[Any, tuple[float, float]]) -> set[Any]:
    """Names of the (cost, quality) points that no other beats: none as cheap and better, none cheaper and as
    good.

    >>> sorted(front({"a": (1.0, 0.5), "b": (2.0, 0.7), "c": (3.0, 0.6)}))
    ['a', 'b']
    """
    return {
        name
        for name, (cost, quality) in points.items()
        if not any(
            other_cost <= cost and other_quality >= quality and (other_cost, other_quality) != (cost, quality)
            for other_cost, other_quality in points.values()
        )
    }


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Mean of one minus other over the tasks both have, and its interval over tasks."""
    gaps = [one[task] - other[task] for task in sorted(one.keys() & other.keys())]
    return {
        "difference_from_best": mean_std(gaps)[0],
        "difference_ci95": difference_interval(gaps).edges,
    }


def cost_of(
    model: Mapping[str, Any], level_means: Iterable[Mapping[str, Any]]
) -> tuple[str, dict[str, float]]:
    """The cost metric of a model on its board, and its mean by level."""
    own = [row for row in level_means if all(row[name] == model[name] for name in ("board", "model_id"))]
    by_metric = {
        metric: {
            row["level"]: row["mean"] for row in own if row["metric"] == metric and row["mean"] is not None
        }
        for metric in UNITS
    }
    return next(((metric, means) for metric, means in by_metric.items() if means), ("energy_joule", {}))


def value_rows(
    quality: Quality, costs: Mapping[str, float], draft: Mapping[str, Any], identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Quality and cost of each level of one model; front membership is added over all models later."""
    baseline = draft["settings"]["baseline"]
    intervals = {
        row["level"]: row["ci95"]
        for row in draft["win_rates"]
        if row["against"] == quality.against
        and all(row[name] == identity[name] for name in ("model_id", "judge_model"))
    }
    rows = []
    for level in draft["levels"]:
        row: dict[str, Any] = {"level": level, "quality_against": quality.against, "on_model_front": False}
        judged, cost = level in quality.scores, costs.get(level)
        row |= {"quality": quality.mean(level) if judged else None, "quality_ci95": intervals.get(level)}
        row |= {"cost_mean": cost, "quality_per_cost": None, "gain_per_extra_cost": None, "reason": None}
        if not judged or cost is None:
            row["reason"] = "not judged at this level" if not judged else "no cost was measured at this level"
        elif cost > 0:
            row["quality_per_cost"] = row["quality"] / cost
        else:
            row["reason"] = "net cost at or below zero: no ratio"
        if (
            judged
            and cost is not None
            and level != baseline
            and baseline in quality.scores
            and baseline in costs
        ):
            extra = cost - costs[baseline]
            gain = row["quality"] - quality.mean(baseline)
            row["gain_per_extra_cost"] = gain / extra if extra > 0 else None
        rows.append({**identity, **row})
    points = {row["level"]: (row["cost_mean"], row["quality"]) for row in rows if both_known(row)}
    best = front(points)
    return [row | {"on_model_front": row["level"] in best} for row in rows]


def both_known(row: Mapping[str, Any]) -> bool:
    """Whether a row has a place in the plane of cost and quality."""
    return row["cost_mean"] is not None and row["quality"] is not None


# --- which level to take ---


@dataclass(frozen=True)
class Lead:
    """The judged level with the highest win rate, and what shows that it is ahead."""

    level: str
    told_from: list[str]  # levels it is better than beyond chance
    not_told_from: list[str]
    beaten_by: list[str]  # of not_told_from those that win against it, judged side by side, beyond chance
    anything_told: bool  # whether any two of the levels can be told from each other

    @property
    def claim(self) -> str:
        """What may be said of the level."""
        if not self.not_told_from:
            return f"{self.level} is the best level"
        told = ", ".join(self.told_from)
        ahead = f"it can be told from {told}, not from " if told else "it cannot be told from "
        text = f"{self.level} has the highest win rate ({ahead}{', '.join(self.not_told_from)})"
        beats = "beats" if len(self.beaten_by) == 1 else "beat"
        return f"{text}, but {', '.join(self.beaten_by)} {beats} it side by side" if self.beaten_by else text


def pair_p(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Exact sign test of two levels' scores in the tasks that both have."""
    gaps = [one[task] - other[task] for task in one.keys() & other.keys()]
    return sign_test(sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps))


def lead_of(
    rows: Sequence[Mapping[str, Any]], quality: Quality, win_rates: Iterable[Mapping[str, Any]]
) -> Lead:
    """The level with the highest quality, the cheaper one of equals, and from which others it can be told.

    Two levels are told apart by their win rate against each other (adjusted after Holm, as it stands in
    analysis.json), or by the exact sign test of their scores against one opponent, Holm over all pairs. A
    level that wins against the leading one side by side is not what that one is better than, whatever both do
    against a third: judges need not be transitive.
    """
    win_rates = list(win_rates)
    judged = [row for row in rows if row["quality"] is not None]

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        return row["quality"], -math.inf if row["cost_mean"] is None else -row["cost_mean"]

    best = max(judged, key=place)["level"]
    pairs = list(itertools.combinations([row["level"] for row in judged], 2))
    adjusted = holm([pair_p(quality.scores[one], quality.scores[other]) for one, other in pairs])
    told = {frozenset(pair) for pair, p in zip(pairs, adjusted, strict=True) if p is not None and p < FOUND_P}
    told |= {
        frozenset((row["level"], row["against"]))
        for row in win_rates
        if row["p_holm"] is not None and row["p_holm"] < FOUND_P
    }
    others = [row["level"] for row in judged if row["level"] != best]
    beaten_by = beaten_side_by_side(best, win_rates)
    not_told_from = [level for level in others if {best, level} not in told or level in beaten_by]
    return Lead(
        level=best,
        told_from=[level for level in others if level not in not_told_from],
        not_told_from=not_told_from,
        beaten_by=[level for level in others if level in beaten_by],
        anything_told=any(pair <= {best, *others} for pair in told),
    )


def beaten_side_by_side(level: str, win_rates: Iterable[Mapping[str, Any]]) -> set[str]:
    """The levels that win against this one, judged side by side, beyond chance: by the adjusted p where
    there is one, else by the sign test's own.
    """
    found = set()
    for row in win_rates:
        p = row["sign_p"] if row["p_holm"] is None else row["p_holm"]
        if row["level"] == level and row["win_rate"] < 0.5 and p is not None and p < FOUND_P:
            found.add(row["against"])
    return found


def not_considered(rows: Sequence[Mapping[str, Any]], lead: str) -> list[dict[str, str]]:
    """Levels that have no place among the choices, and why; the leading one is spoken of anyway."""
    missing = []
    for row in rows:
        if both_known(row) or row["level"] == lead:
            continue
        what = "energy" if row["cost_metric"] == "energy_joule" else "time"
        lacks = ["not judged"] * (row["quality"] is None)
        lacks += [f"no {what} was measured"] * (row["cost_mean"] is None)
        missing.append({"level": row["level"], "reason": " and ".join(lacks)})
    return missing


def cheapest_row(
    rows: Sequence[Mapping[str, Any]],
    quality: Quality,
    settings: Mapping[str, Any],
    win_rates: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The cheapest level whose quality is within the margin of the best, and whether the tasks show that it
    is; nothing where no level can be told from another.
    """
    margin = settings["margin"]
    row: dict[str, Any] = {"margin": margin, "best_level": None, "cheapest_level": None, "cost_mean": None}
    row |= {"saving_percent": None, "difference_from_best": None, "difference_ci95": None, "shown": False}
    row |= {"statement": None, "best_told_from": [], "best_not_told_from": [], "not_considered": []}
    if sum(candidate["quality"] is not None for candidate in rows) < 2:
        return row | {"reason": "fewer than two levels were judged"}
    lead = lead_of(rows, quality, win_rates)
    known = [candidate for candidate in rows if both_known(candidate)]
    row |= {"best_told_from": lead.told_from, "best_not_told_from": lead.not_told_from}
    row["not_considered"] = not_considered(rows, lead.level)
    if not lead.anything_told:
        return row | {"reason": "no level can be told from another: chance alone could explain the win rates"}
    left_out = "; ".join(f"{one['level']}: {one['reason']}" for one in row["not_considered"])
    left_out = f"; not considered: {left_out}" if left_out else ""
    row["best_level"] = lead.level
    # A win rate of 0.6 - 0.05 is 0.5499999999999999: a hair of slack keeps the edge inside.
    least = quality.mean(lead.level) - margin - 1e-12
    enough = [candidate for candidate in known if candidate["quality"] >= least]
    if not enough:
        what = (
            f"{lead.claim}, but its cost was not measured, and no level with one is within {margin:g} of it"
        )
        return row | {"reason": what + left_out}
    cheapest = min(enough, key=lambda candidate: (candidate["cost_mean"], -candidate["quality"]))
    row |= {"cheapest_level": cheapest["level"], "cost_mean": cheapest["cost_mean"], "reason": None}
    if cheapest["level"] == lead.level:
        statement = f"{lead.claim}, and none within {margin:g} of it is cheaper"
        row |= {"difference_from_best": 0.0, "shown": True, "saving_percent": 0.0}
        return row | {"statement": statement + left_out}
    row |= difference(quality.scores[cheapest["level"]], quality.scores[lead.level])
    row["shown"] = row["difference_ci95"] is not None and row["difference_ci95"][0] >= -margin - 1e-12
    best_cost = next(one["cost_mean"] for one in rows if one["level"] == lead.level)
    if best_cost is not None and best_cost > 0:
        row["saving_percent"] = 100 * (1 - cheapest["cost_mean"] / best_cost)
    return row | {"statement": within_margin(row, lead, cheapest, best_cost) + left_out}


def within_margin(
    row: Mapping[str, Any], lead: Lead, cheapest: Mapping[str, Any], best_cost: float | None
) -> str:
    """That a cheaper level is nearly as good as the leading one, and how sure that is."""
    what = "energy" if cheapest["cost_metric"] == "energy_joule" else "time"
    text = f"{lead.claim}; {cheapest['level']} is within {row['margin']:g} of it"
    if best_cost is None:
        text += f" and the cheapest of those with a cost; {lead.level}'s {what} was not measured"
    elif row["saving_percent"] is not None:
        text += f" for {row['saving_percent']:.0f} % less {what}"
    if not row["shown"] and row["difference_ci95"] is not None:
        low, high = row["difference_ci95"]
        text += f"; too few tasks to be sure (difference {low:+.2f} to {high:+.2f})"
    return text


def nothing_to_choose(cheapest: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a judge by whom no level can be told from another: no level is the best or good enough."""
    unknown = ("best_level", "cheapest_level", "cost_mean", "saving_percent", "statement")
    reason = "the judge favours one slot, and none of its comparisons is beyond chance"
    return {
        **cheapest,
        **dict.fromkeys((*unknown, "difference_from_best", "difference_ci95")),
        "shown": False,
        "reason": reason,
    }


# --- all tables ---


def weigh(verdicts: Sequence[Mapping[str, Any]], draft: Mapping[str, Any]) -> dict[str, Any]:
    """All tables: per judge and model on its board, the front over the models of one board."""
    settings = draft["settings"]
    preferred = [settings[name] for name in ("baseline", "placebo") if settings[name]]
    tables: dict[str, list[dict[str, Any]]] = {"value": [], "cheapest": [], "quality_by_task": []}
    for model_id, judge in sorted({(v["model_id"], v["judge_model"]) for v in verdicts}):
        own = [v for v in verdicts if (v["model_id"], v["judge_model"]) == (model_id, judge)]
        quality = quality_of(own, preferred)
        tables["quality_by_task"].append(
            {"model_id": model_id, "judge_model": judge, "against": quality.against, "scores": quality.scores}
        )
        for model in (model for model in draft["models"] if model["model_id"] == model_id):
            metric, costs = cost_of(model, draft["level_means"])
            identity = {name: model[name] for name in ("board", "power_scope", "model_id")}
            identity |= {"judge_model": judge, "cost_metric": metric, "cost_unit": UNITS[metric]}
            rows = value_rows(quality, costs, draft, identity)
            tables["value"] += rows
            own_rates = [
                row
                for row in draft["win_rates"]
                if (row["model_id"], row["judge_model"]) == (model_id, judge)
            ]
            cheapest = cheapest_row(rows, quality, settings, own_rates)
            if judge in draft.get("undecided_judges", ()):
                cheapest = nothing_to_choose(cheapest)
            tables["cheapest"].append({**identity, **cheapest})
    planes: dict[tuple[str, ...], dict[int, tuple[float, float]]] = defaultdict(dict)
    for place, row in enumerate(tables["value"]):
        if both_known(row):
            plane = tuple(str(row[name]) for name in ("board", "judge_model", "cost_metric"))
            planes[plane][place] = (row["cost_mean"], row["quality"])
    best = {place for points in planes.values() for place in front(points)}
    tables["value"] = [row | {"on_front": place in best} for place, row in enumerate(tables["value"])]
    return dict(tables)
