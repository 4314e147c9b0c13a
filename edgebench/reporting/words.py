"""The answer in words: three sentences and one verdict line a model, as analysis.json holds them.

A sentence names what it could not consider, and prefers no level that the data cannot tell from another. The
caveats stand in caveats.py; terminal.py prints both. Standard library only, so that it also runs over SSH on
the board.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from edgebench.reporting.cases import (
    Row,
    case_name,
    cost_metric,
    cost_word,
    judges,
    listed,
    of_first_judge,
)
from edgebench.reporting.caveats import EXPLAINED, caveats
from edgebench.shell.decimals import (
    at_places,
    column_places,
    edges_at,
    half_of,
    places_beside,
    places_of_ratios,
    ratio_text,
)
from edgebench.shell.text import counted, first_with, number, p_value, percent, printable
from edgebench.stats.intervals import quantile

CHANCE = 0.05  # Holm-adjusted p below which a difference is more than chance explains
UNITS = {"ms": ("s", 1000.0)}  # how a unit of analysis.json is said in a sentence, and how many make one
OFF_CENTRE = 0.2  # of half an interval: how far from its middle a value still reads as ±
CASES_ONE_BY_ONE = 4  # beyond so many models the verdict lines are about all of them together


def spread(values: Sequence[float], show: Any) -> str:
    """One value, or the range of several."""
    low, high = show(min(values)), show(max(values))
    return str(low) if low == high else f"{low} to {high}"


def signed_percent(value: float) -> str:
    """A change in whole percent: "+64 %"."""
    return f"{at_places(value, 0, sign=True)} %"


def top_level(analysis: Row) -> str | None:
    """The level with the most information: the last one before the placebo, or it where there is no other."""
    settings = analysis["settings"]
    others = [level for level in analysis["levels"] if level != settings["baseline"]]
    ordered = [level for level in others if level != settings["placebo"]] or others
    return ordered[-1] if ordered else None


def pairs_of(analysis: Row, level: str, against: str | None) -> list[Row]:
    """The measured differences of one level to another, of all models and metrics."""
    return [
        row
        for row in analysis["paired"]
        if (row["level"], row["against"]) == (level, against) and row["mean_difference"] is not None
    ]


# --- the three sentences ---


def answer(analysis: Row) -> list[str]:
    """Exactly three sentences: cost, quality, advice."""
    top = top_level(analysis)
    if top is None:
        only = printable(analysis["settings"]["baseline"])
        first = f"Only the level {only} was found, so there is nothing to compare."
        return [first, "No level can be judged against another.", "Run at least two levels."]
    mine = of_first_judge(analysis)
    return [cost_sentence(analysis, top), quality_sentence(mine, top), advice_sentence(mine, top)]


def cost_sentence(analysis: Row, top: str) -> str:
    """What the longest informative prompt costs against the baseline."""
    base = analysis["settings"]["baseline"]
    pairs = pairs_of(analysis, top, base)
    metric = cost_metric(pairs, "mean_difference")
    rows = [row for row in pairs if row["metric"] == metric]
    if not rows:
        return (
            f"What {printable(top)} costs against {printable(base)} is not known: "
            "no task was measured at both levels."
        )
    what = "time" if metric == "latency_ms" else cost_word(analysis, metric)
    grown = token_growth(analysis, base, top)
    if len(rows) == 1:
        text = f"{grown}an answer of {case_name(analysis, rows[0])} {in_units(rows[0], what, base)}"
    else:
        text = f"{grown}the {what} of an answer {growth_over_models(rows)}"
    return text + split_clause(analysis, top, metric, len(rows)) + "."


def token_growth(analysis: Row, base: str, top: str) -> str:
    """The growth of the prompt as the beginning of a sentence."""
    tokens = {
        level: [
            row["mean"]
            for row in analysis["level_means"]
            if (row["metric"], row["level"]) == ("prompt_tokens", level) and row["mean"] is not None
        ]
        for level in (base, top)
    }
    start = f"At {printable(top)} "
    if not all(tokens.values()):
        return start
    low, high = (statistics.mean(tokens[level]) for level in (base, top))
    if high <= low:
        return start
    return (
        f"From {printable(base)} to {printable(top)} the prompt grows from "
        f"{number(low)} to {number(high)} tokens, and "
    )


def in_units(row: Row, what: str, base: str) -> str:
    """A paired difference with its interval: "costs 3.1 J more energy than at L0 (+120 %; 95 % CI …)"."""
    unit, scale = UNITS.get(row["unit"], (row["unit"], 1.0))
    difference = row["mean_difference"] / scale
    if difference == 0:
        return f"costs exactly as much {what} as at {printable(base)}"
    ci95 = None if row["ci95"] is None else [edge / scale for edge in row["ci95"]]
    places = places_beside(difference, ci95)
    detail = [] if row["percent"] is None else [signed_percent(row["percent"])]
    if ci95:
        detail.append(f"95 % CI {edges_at(ci95, places, sign=True)} {unit}")
    elif row["reason"]:
        detail.append(row["reason"])
    more = "more" if difference > 0 else "less"
    told = f" ({'; '.join(detail)})" if detail else ""
    return f"costs {at_places(abs(difference), places)} {unit} {more} {what} than at {printable(base)}{told}"


def growth_over_models(rows: Sequence[Row]) -> str:
    """In how many models a cost rises, and by how much."""
    up = sum(row["mean_difference"] > 0 for row in rows)
    text = f"rises in {up} of {len(rows)} models"
    changes = [row["percent"] for row in rows if row["percent"] is not None]
    if len(changes) == len(rows):
        middle = statistics.median(changes)
        return f"{text}, by {spread(changes, signed_percent)} (median {signed_percent(middle)})"
    unit, scale = UNITS.get(rows[0]["unit"], (rows[0]["unit"], 1.0))
    steps = [row["mean_difference"] / scale for row in rows]
    places = column_places(steps, (half_of(row["ci95"]) for row in rows) if scale == 1 else ())
    return f"{text} ({spread(steps, lambda step: at_places(step, places, sign=True))} {unit})"


def explained(analysis: Row, row: Row) -> float:
    """R squared of the fit that a part belongs to; 0 where there is none."""
    fit = first_with(analysis["cost_split"], **{name: row[name] for name in ("board", "model_id", "metric")})
    return 0.0 if fit is None or fit["r_squared"] is None else float(fit["r_squared"])


def split_clause(analysis: Row, top: str, metric: str, measured: int) -> str:
    """How much of the extra is prompt, how much is answer; of which models, where tokens explain not all."""
    base = analysis["settings"]["baseline"]
    parts = [
        row
        for row in analysis["cost_parts"]
        if (row["level"], row["against"], row["metric"]) == (top, base, metric) and row["sentence"]
        if explained(analysis, row) >= EXPLAINED
    ]
    if not parts:
        return ""
    names = listed(case_name(analysis, row) for row in parts)
    whose = "" if len(parts) == measured else f"for {names}, "
    if len(parts) == 1:
        return f"; {whose}{printable(parts[0]['sentence'])}"
    shares = [row["prompt_share"] for row in parts if row["prompt_share"] is not None]
    if not shares:
        return ""
    shown = spread(shares, percent)
    return f"; {whose}reading the prompt is {shown} of what tokens explain, the answer's length the rest"


def quality_sentence(analysis: Row, top: str) -> str:
    """What the judge says about the longest informative prompt, and about the placebo."""
    settings = analysis["settings"]
    if not analysis["win_rates"]:
        return "No judge scored the answers, so nothing can be said about quality."
    if is_undecided(analysis):
        return undecided_sentence(analysis)
    against = settings["baseline"]
    rows = wins_of(analysis, top, against)
    if not rows:
        against = settings["placebo"]
        rows = wins_of(analysis, top, against)
    if not rows:
        return f"The judge did not compare {printable(top)} with {printable(settings['baseline'])}."
    text = wins_in_words(rows, top, against)
    return text + (placebo_clause(analysis, top) if against != settings["placebo"] else "") + "."


def wins_of(analysis: Row, level: str, against: str | None) -> list[Row]:
    """The win rates of one level against another."""
    return [row for row in analysis["win_rates"] if (row["level"], row["against"]) == (level, against)]


def wins_in_words(rows: Sequence[Row], top: str, against: str) -> str:
    """The win rate of one model with its interval, or of how many models the judge prefers the level."""
    rates = [row["win_rate"] for row in rows]
    beyond = [row for row in rows if row["p_holm"] is not None and row["p_holm"] < CHANCE]
    if len(rows) > 1:
        ahead = sum(rate > 0.5 for rate in rates)
        return (
            f"The judge prefers {printable(top)} to {printable(against)} in {ahead} of {len(rows)} models "
            f"(win rates {spread(rates, percent)}), beyond chance in {len(beyond) or 'none'} of them"
        )
    row = rows[0]
    known = row["reason"] or "no interval"
    if row["ci95"]:
        known = f"95 % CI {percent(row['ci95'][0])} to {percent(row['ci95'][1])}"
    chance = "more than chance explains" if beyond else "which chance alone could explain"
    graded = graded_in_words(row)
    tested = f" (Holm-adjusted p {p_value(row['p_holm'])})" if row["p_holm"] is not None else ""
    return (
        f"The judge gives {printable(top)} a win rate of {percent(row['win_rate'])} against "
        f"{printable(against)} ({counted(row['n_tasks'], 'task')}, {known}), {chance}{tested}{graded}"
    )


def graded_in_words(row: Row) -> str:
    """The win rate by the judge's own probabilities, as the end of a sentence; "" where it gave none."""
    if row.get("graded_win_rate") is None:
        return ""
    edges = row["graded_ci95"]
    known = f"95 % CI {percent(edges[0])} to {percent(edges[1])}" if edges else "no interval"
    rate = percent(row["graded_win_rate"])
    if row.get("graded_n_tasks", row["n_tasks"]) != row["n_tasks"]:  # not all replies held probabilities
        known = f"{counted(row['graded_n_tasks'], 'task')}, {known}"
    return f"; graded by its probabilities, its lean to a slot taken out, it is {rate} ({known})"


def is_undecided(analysis: Row) -> bool:
    """Whether the first judge favours a slot and finds nothing beyond chance (of_first_judge is applied)."""
    return bool(set(judges(analysis)) & set(analysis.get("undecided_judges", ())))


def undecided_sentence(analysis: Row) -> str:
    """That the judge's verdicts tell no level from another, and what they do tell."""
    judge = judges(analysis)[0]
    rows = [row for row in analysis["position_bias"] if row["judge_model"] == judge]
    row = next((row for row in rows if row["model_id"] is None), rows[0])
    slot = "first" if row["first_slot_score"] > 0.5 else "second"
    return (
        f"By this judge no level can be told from another: {printable(judge)} favours the {slot} of two "
        f"answers, whichever it is (both orders agree on {percent(row['consistency'])} of "
        f"{counted(row['pairs'], 'pair')}), and no win rate is beyond chance."
    )


def placebo_clause(analysis: Row, top: str) -> str:
    """Whether length without information was taken for quality."""
    placebo = analysis["settings"]["placebo"]
    rows = wins_of(analysis, placebo, top)
    if not rows:
        return ""
    rates = spread([row["win_rate"] for row in rows], percent)
    return f"; the placebo {printable(placebo)} wins {rates} against {printable(top)}"


def advice_sentence(analysis: Row, top: str) -> str:
    """The cheapest level that is good enough, or what the placebo costs where nobody judged."""
    settings = analysis["settings"]
    if is_undecided(analysis):
        return "No level can be recommended: ask another judge, or judge more tasks."
    rows = [row for row in analysis["cheapest"] if row["cheapest_level"]]
    if len(rows) == 1:
        return printable(rows[0]["statement"]) + "."
    if rows:
        return cheapest_over_models(analysis, rows)
    unknown = dict.fromkeys(row["reason"] for row in analysis["cheapest"] if row["reason"])
    if unknown and analysis["win_rates"]:
        reasons = listed(map(printable, unknown), most=1)
        if reasons.startswith("no level can be told from another"):
            return f"{reasons[0].upper()}{reasons[1:]}, so none is recommended."
        return f"No level can be recommended: {reasons}."
    extra = [
        row["percent"]
        for row in pairs_of(analysis, top, settings["placebo"])
        if row["metric"] == "latency_ms" and row["percent"] is not None
    ]
    if extra:
        placebo = printable(settings["placebo"])
        return (
            f"Against the placebo {placebo}, all length and no information, {printable(top)} takes "
            f"{spread(extra, signed_percent)} time."
        )
    missing = "costs" if analysis["win_rates"] else "scores"
    return f"No level can be recommended without {missing}."


def cheapest_over_models(analysis: Row, rows: Sequence[Row]) -> str:
    """The cheapest good level of each model, models with the same level together."""
    levels: dict[str, list[str]] = {}
    for row in rows:
        levels.setdefault(row["cheapest_level"], []).append(case_name(analysis, row))
    by_name = len(rows) <= CASES_ONE_BY_ONE
    named = "; ".join(
        f"{printable(level)} for {listed(names) if by_name else counted(len(names), 'model')}"
        for level, names in sorted(levels.items())
    )
    margin = analysis["settings"]["margin"]
    text = f"The cheapest level within {margin:g} of the best win rate is {named}"
    remarks = []
    unsure = sum(not row["shown"] for row in rows)
    if unsure:
        remarks.append(f"for {unsure} of {len(rows)} the tasks are too few to be sure")
    silent = len(analysis["cheapest"]) - len(rows)
    if silent:
        remarks.append(f"for {counted(silent, 'other')} no level can be named")
    return text + (f" ({'; '.join(remarks)})." if remarks else ".")


# --- the verdict lines ---


def times(ratio: float, ci95: Sequence[float] | None, places: int) -> str:
    """A ratio with half of its 95 % interval where it lies in the middle, else with the interval.

    >>> times(1.7956, [1.69, 1.90], 1), times(1.8, [1.5, 3.1], 1), times(2.0, None, 2)
    ('1.8 ± 0.1', '1.8 (1.5 to 3.1)', '2.00')
    """
    half = half_of(ci95)
    if ci95 is None or half is None:
        return at_places(ratio, places)
    if abs(ratio - sum(ci95) / 2) <= OFF_CENTRE * half:
        return ratio_text(ratio, half, places)
    return f"{at_places(ratio, places)} ({edges_at(ci95, places)})"


def ratio_rows(analysis: Row) -> list[dict[str, Any]]:
    """How many times the baseline's cost each level costs, of each model: the paired change as a ratio.

    ratio = 1 + percent / 100, and so its interval. Levels whose change is not known are left out.
    """
    base, metric = analysis["settings"]["baseline"], cost_metric(analysis["level_means"])
    rows = []
    for row in analysis["paired"]:
        if (row["metric"], row["against"]) != (metric, base) or row["percent"] is None:
            continue
        edges = row["percent_ci95"]
        found = {name: row[name] for name in ("board", "model_id", "level", "against", "metric")}
        found["ratio"] = 1 + row["percent"] / 100
        found["ratio_ci95"] = None if edges is None else [1 + edge / 100 for edge in edges]
        found["reason"] = row["percent_reason"]
        rows.append(found)
    return rows


def verdicts(analysis: Row) -> list[dict[str, Any]]:
    """One line a model in hyperfine's manner, or one line a level over many models; with the figures."""
    rows = ratio_rows(analysis)
    if not rows:
        return []
    base, what = printable(rows[0]["against"]), cost_word(analysis, rows[0]["metric"])
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(case_name(analysis, row), []).append(row)
    if len(cases) > CASES_ONE_BY_ONE:
        return verdicts_over_models(analysis, rows, what)
    lines, places = [], places_of_ratios(half_of(row["ratio_ci95"]) for row in rows)
    for name, own in cases.items():
        told = [times(row["ratio"], row["ratio_ci95"], places) for row in own]
        levels = [printable(row["level"]) for row in own]
        levels[0] += " costs"
        each = ", ".join(f"{level} {many}" for level, many in zip(levels, told, strict=True))
        text = f"{name}: {each} times the {what} of {base}"
        lines.append({"model_id": own[0]["model_id"], "board": own[0]["board"], "text": text, "levels": own})
    return lines


def verdict_note(lines: Sequence[Row]) -> str:
    """How to read the verdict lines: what ± is, or why there is none; "" for lines over many models."""
    ratios = [row for line in lines for row in line["levels"] if "ratio" in row]
    if any(row["ratio_ci95"] for row in ratios):
        return "± is half of the 95 % interval over tasks; an interval that is not even is written out."
    reasons = dict.fromkeys(row["reason"] for row in ratios if row.get("reason"))
    return f"Without intervals: {listed(reasons, most=1)}." if reasons else ""


def verdicts_over_models(analysis: Row, rows: Sequence[Row], what: str) -> list[dict[str, Any]]:
    """One line a level: the median over models and the middle half of them."""
    lines = []
    for level in analysis["levels"]:
        ratios = [row["ratio"] for row in rows if row["level"] == level]
        if not ratios:
            continue
        middle, low, high = (quantile(ratios, share) for share in (0.5, 0.25, 0.75))
        over = {"level": level, "against": rows[0]["against"], "metric": rows[0]["metric"]}
        over |= {"n_models": len(ratios), "ratio_median": middle, "ratio_middle_half": [low, high]}
        text = (
            f"{printable(level)} costs {at_places(middle, 2)} times the {what} of "
            f"{printable(over['against'])} (median of {counted(len(ratios), 'model')}; the middle half "
            f"{edges_at([low, high], 2)})"
        )
        lines.append({"model_id": None, "board": None, "text": text, "levels": [over]})
    return lines


def in_words(analysis: Row) -> dict[str, Any]:
    """The answer's sentences, the verdict lines and the caveats, as analysis.json holds them."""
    return {"answer": answer(analysis), "verdicts": verdicts(analysis), "caveats": caveats(analysis)}
