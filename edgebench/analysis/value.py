"""Quality against cost: the Pareto front of model x level, quality per joule, the cheapest level that is
good enough.

Quality is the win rate against one level of the same model, the baseline where it was judged against all
others, else the placebo; that level itself is 0.5 by definition. Cost is the mean net energy per run, or the
latency where no energy was measured. Quality compares levels of one model: it says nothing about which model
writes better.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.stats.intervals import difference_interval, mean_std

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


def cheapest_row(
    rows: Sequence[Mapping[str, Any]], quality: Quality, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The cheapest level whose quality is within the margin of the best, and whether the tasks show that it
    is.
    """
    margin = settings["margin"]
    row: dict[str, Any] = {"margin": margin, "best_level": None, "cheapest_level": None, "cost_mean": None}
    row |= {"saving_percent": None, "difference_from_best": None, "difference_ci95": None, "shown": False}
    known = [candidate for candidate in rows if both_known(candidate)]
    if len(known) < 2:
        return row | {"statement": None, "reason": "fewer than two levels have both a quality and a cost"}
    best = max(known, key=lambda candidate: (candidate["quality"], -candidate["cost_mean"]))
    # A win rate of 0.6 - 0.05 is 0.5499999999999999: a hair of slack keeps the edge inside.
    enough = [candidate for candidate in known if candidate["quality"] >= best["quality"] - margin - 1e-12]
    cheapest = min(enough, key=lambda candidate: (candidate["cost_mean"], -candidate["quality"]))
    row |= {
        "best_level": best["level"],
        "cheapest_level": cheapest["level"],
        "cost_mean": cheapest["cost_mean"],
    }
    if best["cost_mean"] > 0:
        row["saving_percent"] = 100 * (1 - cheapest["cost_mean"] / best["cost_mean"])
    if cheapest["level"] == best["level"]:
        statement = f"{best['level']} is the best level, and none within {margin:g} of it is cheaper"
        return row | {"difference_from_best": 0.0, "shown": True, "statement": statement, "reason": None}
    row |= difference(quality.scores[cheapest["level"]], quality.scores[best["level"]])
    low, high = row["difference_ci95"] or (None, None)
    row["shown"] = low is not None and low >= -margin - 1e-12
    what = "energy" if cheapest["cost_metric"] == "energy_joule" else "time"
    saving = "" if row["saving_percent"] is None else f" for {row['saving_percent']:.0f} % less {what}"
    statement = f"{cheapest['level']} is within {margin:g} of the best level, {best['level']},{saving}"
    if not row["shown"] and low is not None:
        statement += f"; too few tasks to be sure (difference {low:+.2f} to {high:+.2f})"
    return row | {"statement": statement, "reason": None}


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
            cheapest = cheapest_row(rows, quality, settings)
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
