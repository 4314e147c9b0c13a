#!/usr/bin/env python3
"""The answer in words: three sentences and every caveat from an analysis.json, with small charts for a
terminal.

Prints what a longer prompt cost and bought, in at most 80 columns: the answer, the caveats, one table per
model with a bar per level, the judge's win rates with their intervals. Standard library only, so that it
also runs over SSH on the board. --json prints the sentences and the caveats alone, as analyze_levels.py
stores them.

Example:
    python edgebench/__main__.py edgebench.reporting.words --analysis results/analysis.json
"""

import argparse
import json
import statistics
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.analysis import read_analysis
from edgebench.shell.text import counted, first_with, number, p_value, percent, printable

WIDTH = 79
BAR = 16
SCALE = 31  # columns of a win-rate axis, 0 to 100 %
FEW_REPEATS = 3
FEW_TASKS = 10
EXPLAINED = 0.5  # R squared below which a split by tokens means little
SOFT_FLAGS = {
    "few_power_samples": "too few power samples for their length, so their energy is rough",
    "truncated_output": "the answer was cut at the token limit, so its length says nothing",
    "throttled": "the board throttled, so latency and energy are those of a hot board",
}
DRIFTS = {"energy_joule": "energy", "latency_ms": "latency", "decode_tok_per_s": "decode rate"}
Row = Mapping[str, Any]


def spread(values: Sequence[float], show: Any) -> str:
    """One value, or the range of several."""
    low, high = show(min(values)), show(max(values))
    return str(low) if low == high else f"{low} to {high}"


def case_name(analysis: Row, row: Row) -> str:
    """The model, and its board where there are several."""
    boards = {model["board"] for model in analysis["models"]}
    return printable(row["model_id"]) + (f" on {printable(row['board'])}" if len(boards) > 1 else "")


def top_level(analysis: Row) -> str | None:
    """The level with the most information: the last one before the placebo, or it where there is no other."""
    settings = analysis["settings"]
    others = [level for level in analysis["levels"] if level != settings["baseline"]]
    ordered = [level for level in others if level != settings["placebo"]] or others
    return ordered[-1] if ordered else None


# --- three sentences ---


def cost_sentence(analysis: Row, top: str) -> str:
    """What the longest informative prompt costs against the baseline."""
    base = analysis["settings"]["baseline"]
    pairs = [row for row in analysis["paired"] if (row["level"], row["against"]) == (top, base)]
    has_energy = any(row["metric"] == "energy_joule" and row["mean_difference"] is not None for row in pairs)
    metric = "energy_joule" if has_energy else "latency_ms"
    rows = [row for row in pairs if row["metric"] == metric and row["mean_difference"] is not None]
    if not rows:
        return f"What {top} costs against {base} is not known: no task was measured at both levels."
    simulated = any(model["simulated_power"] for model in analysis["models"]) and has_energy
    what = ("simulated energy" if simulated else "energy") if has_energy else "time"
    changes = [row["percent"] for row in rows if row["percent"] is not None]
    grown = token_growth(analysis, base, top)
    if len(rows) == 1:
        text = f"{grown}an answer of {case_name(analysis, rows[0])} costs "
        text += f"{in_units(rows[0], what)} {base}"
    else:
        up = sum(row["mean_difference"] > 0 for row in rows)
        text = f"{grown}the {what} of an answer rises in {up} of {len(rows)} models"
        if len(changes) < len(rows):
            scale, unit = (1000, "s") if metric == "latency_ms" else (1, "J")
            steps = [row["mean_difference"] / scale for row in rows]
            text += f" ({spread(steps, lambda value: ('+' if value > 0 else '') + number(value))} {unit})"
        else:
            middle = statistics.median(changes)
            text += f", by {spread(changes, lambda value: f'{value:+.0f} %')} (median {middle:+.0f} %)"
    return text + split_clause(analysis, top, base, metric, len(rows)) + "."


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
    if not all(tokens.values()):
        return f"At {top} "
    low, high = (statistics.mean(tokens[level]) for level in (base, top))
    if high <= low:
        return f"At {top} "
    return f"From {base} to {top} the prompt grows from {number(low)} to {number(high)} tokens, and "


def in_units(row: Row, what: str) -> str:
    """A paired difference with its interval: "3.1 J more (+120 %; 95 % CI 2.8 to 3.4)"."""
    scale, unit = (1000, "s") if row["unit"] == "ms" else (1, row["unit"])
    difference = row["mean_difference"] / scale
    detail = [] if row["percent"] is None else [f"{row['percent']:+.0f} %"]
    if row["ci95"]:
        detail.append(f"95 % CI {' to '.join(f'{edge / scale:+.3g}' for edge in row['ci95'])} {unit}")
    more = "more" if difference > 0 else "less"
    if difference == 0:
        return f"exactly as much {what} as at"
    told = f" ({'; '.join(detail)})" if detail else ""
    return f"{abs(difference):.3g} {unit}{told} {more} {what} than at"


def explained(analysis: Row, row: Row) -> float:
    """R squared of the fit that a part belongs to; 0 where there is none."""
    fit = first_with(analysis["cost_split"], **{name: row[name] for name in ("board", "model_id", "metric")})
    return 0.0 if fit is None or fit["r_squared"] is None else float(fit["r_squared"])


def split_clause(analysis: Row, top: str, base: str, metric: str, measured: int) -> str:
    """How much of the extra is prompt, how much is answer; of which models, where tokens explain not all."""
    parts = [
        row
        for row in analysis["cost_parts"]
        if (row["level"], row["against"], row["metric"]) == (top, base, metric) and row["sentence"]
        if explained(analysis, row) >= EXPLAINED
    ]
    if not parts:
        return ""
    names = [case_name(analysis, row) for row in parts]
    whose = "" if len(parts) == measured else f"for {', '.join(names)}, "
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
    rows = [row for row in analysis["win_rates"] if (row["level"], row["against"]) == (top, against)]
    if not rows:
        against = settings["placebo"]
        rows = [row for row in analysis["win_rates"] if (row["level"], row["against"]) == (top, against)]
    if not rows:
        return f"The judge did not compare {top} with {settings['baseline']}."
    rates = [row["win_rate"] for row in rows]
    beyond = [row for row in rows if row["p_holm"] is not None and row["p_holm"] < 0.05]
    if len(rows) == 1:
        row = rows[0]
        interval = f", 95 % CI {percent(row['ci95'][0])} to {percent(row['ci95'][1])}" if row["ci95"] else ""
        text = f"The judge gives {top} a win rate of {percent(row['win_rate'])} against {against}"
        text += f" ({counted(row['n_tasks'], 'task')}{interval}), "
        text += "more than chance explains" if beyond else "which chance alone could explain"
        text += f" (Holm-adjusted p {p_value(row['p_holm'])})"
    else:
        ahead = sum(rate > 0.5 for rate in rates)
        text = f"The judge prefers {top} to {against} in {ahead} of {len(rows)} models"
        text += f" (win rates {spread(rates, percent)}), beyond chance in {len(beyond) or 'none'} of them"
    return text + (placebo_clause(analysis, top) if against != settings["placebo"] else "") + "."


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
    rows = [row for row in analysis["win_rates"] if (row["level"], row["against"]) == (placebo, top)]
    if not rows:
        return ""
    rates = spread([row["win_rate"] for row in rows], percent)
    return f"; the placebo {printable(placebo)} wins {rates} against {top}"


def advice_sentence(analysis: Row, top: str) -> str:
    """The cheapest level that is good enough, or what the placebo costs where nobody judged."""
    settings = analysis["settings"]
    if is_undecided(analysis):
        return "No level can be recommended: ask another judge, or judge more tasks."
    rows = [row for row in analysis["cheapest"] if row["cheapest_level"]]
    if len(rows) == 1:
        return printable(rows[0]["statement"]) + "."
    if rows:
        levels: dict[str, list[str]] = {}
        for row in rows:
            levels.setdefault(row["cheapest_level"], []).append(case_name(analysis, row))
        named = "; ".join(f"{level} for {', '.join(levels[level])}" for level in sorted(levels))
        unsure = sum(not row["shown"] for row in rows)
        text = f"The cheapest level within {settings['margin']:g} of the best win rate is {named}"
        return text + (f" (for {unsure} of {len(rows)} the tasks are too few to be sure)." if unsure else ".")
    against = [
        row for row in analysis["paired"] if (row["level"], row["against"]) == (top, settings["placebo"])
    ]
    extra = [row for row in against if row["metric"] == "latency_ms" and row["percent"] is not None]
    if extra:
        change = spread([row["percent"] for row in extra], lambda value: f"{value:+.0f} %")
        placebo = printable(settings["placebo"])
        return f"Against the placebo {placebo}, all length and no information, {top} takes {change} time."
    missing = "costs" if analysis["win_rates"] else "scores"
    return f"No level can be recommended without {missing}."


def answer(analysis: Row) -> list[str]:
    """Exactly three sentences: cost, quality, advice."""
    top = top_level(analysis)
    if top is None:
        only = analysis["settings"]["baseline"]
        first = f"Only the level {only} was found, so there is nothing to compare."
        return [first, "No level can be judged against another.", "Run at least two levels."]
    mine = of_first_judge(analysis)
    return [cost_sentence(analysis, top), quality_sentence(mine, top), advice_sentence(mine, top)]


def judges(analysis: Row) -> list[str]:
    """Who judged."""
    return sorted({row["judge_model"] for row in analysis["win_rates"]})


def of_first_judge(analysis: Row) -> Row:
    """The analysis with one judge's verdicts, the one the charts show: judges are not averaged."""
    first = next(iter(judges(analysis)), None)
    own = {
        name: [row for row in analysis[name] if row["judge_model"] in (None, first)]
        for name in ("win_rates", "cheapest")
    }
    return {**analysis, **own}


# --- caveats ---


def caveats(analysis: Row) -> list[dict[str, str]]:
    """Everything a reader must know before believing a number, the grave ones first."""
    found = [*power_caveats(analysis), *sample_caveats(analysis), *judge_caveats(analysis)]
    found += [("mixed", "high", f"averaged together although {text}") for text in analysis["mixed"]]
    rows = [{"key": key, "severity": severity, "text": text} for key, severity, text in found]
    return sorted(rows, key=lambda row: row["severity"] != "high")


def power_caveats(analysis: Row) -> list[tuple[str, str, str]]:
    """Where the watts come from, and whether models and judge are real."""
    found = []
    models = analysis["models"]
    if any(model["simulated_power"] for model in models):
        text = "the power was simulated or replayed, not measured: no joule here is a finding"
        found.append(("simulated_power", "high", text))
    demo = [name for name in {model["model_id"] for model in models} if "demo" in name.lower()]
    if demo:
        names = ", ".join(printable(name) for name in sorted(demo))
        found.append(
            ("demo_models", "high", f"{names}: demo models have random weights, their words mean nothing")
        )
    if models and not any(
        row["metric"] == "energy_joule" and row["mean"] is not None for row in analysis["level_means"]
    ):
        found.append(("no_energy", "high", "no run has an energy: the cost shown is latency"))
    constant = {
        row["model_id"]
        for row in analysis["cost_split"]
        if row["coefficients"]["per_output_token"]["estimate"] is None and row["n_runs"]
    }
    if constant:
        names = ", ".join(printable(name) for name in sorted(constant))
        text = f"every answer of {names} has the same length: an answer token's cost cannot be told"
        found.append(("tokens_do_not_vary", "note", text))
    return found


def sample_caveats(analysis: Row) -> list[tuple[str, str, str]]:
    """Few repeats, few tasks, runs left out, noise, drift."""
    found, counts = [], analysis["counts"]
    models = analysis["models"]
    repeats = min((model["repeats_max"] for model in models), default=FEW_REPEATS)
    if repeats < FEW_REPEATS:
        text = f"repeats per task and level: {repeats}; the spread between them is hardly known"
        found.append(("few_repeats", "note", text))
    tasks = min((model["tasks"] for model in models), default=FEW_TASKS)
    if tasks < FEW_TASKS:
        found.append(("few_tasks", "high", f"{counted(tasks, 'task')}: intervals are wide, tests are weak"))
    for key, word in (("errors", "an error"), ("hard_flags", "a hard flag")):
        if counts.get(key):
            kept = "kept" if analysis["settings"]["include_flagged"] else "left out of every mean"
            name = "flagged_runs" if key == "hard_flags" else key
            found.append(
                (name, "high", f"{counts[key]} of {counts['records']} runs ended with {word} and are {kept}")
            )
    found += soft_flags(analysis)
    for metric in ("energy_joule", "latency_ms"):
        rows = [row for row in analysis["variation"] if row["metric"] == metric]
        noisy = sum(row["cells_noisy"] for row in rows)
        if noisy:
            name = "energy" if metric == "energy_joule" else "latency"
            text = f"{name} varies by 10 % or more between repeats in {noisy} of "
            found.append(("noisy_cells", "note", f"{text}{sum(row['cells'] for row in rows)} cells"))
    for row in analysis["drift"]:
        if row["p"] is not None and row["p"] < 0.01:
            slope, per = row["slope_percent_per_hour"], "per hour"
            if row["hours"] < 1:
                slope, per = slope * row["hours"], f"over the {60 * row['hours']:.0f} min of the campaign"
            what = DRIFTS.get(row["metric"], row["metric"])
            found.append(("drift", "note", f"{case_name(analysis, row)}: {what} drifts {slope:+.1f} % {per}"))
    return found


def soft_flags(analysis: Row) -> list[tuple[str, str, str]]:
    """Flags that leave a run in the means but bear on what they mean, and fits that explain little."""
    found, runs = [], analysis["counts"]["used"]
    for flag, what in SOFT_FLAGS.items():
        marked = sum(row["runs"] for row in analysis["flags"] if row["flag"] == flag)
        if marked:
            found.append(("flagged_runs", "high", f"{marked} of {runs} runs: {what}"))
    for row in analysis["cost_split"]:
        if row["r_squared"] is not None and row["r_squared"] < EXPLAINED:
            what = "energy" if row["metric"] == "energy_joule" else "latency"
            text = f"tokens explain only {percent(row['r_squared'])} of {case_name(analysis, row)}'s {what}: "
            found.append(("weak_fit", "high", text + "its split into prompt and answer means little"))
    return found


def judge_caveats(analysis: Row) -> list[tuple[str, str, str]]:
    """How far the judge can be trusted."""
    if not analysis["win_rates"]:
        return [("no_scores", "high", "no scores: nothing is said about quality")]
    found = []
    biased = [row for row in analysis["position_bias"] if row["biased"]]
    for row in (row for row in biased if row["model_id"] is None or len(analysis["position_bias"]) == 1):
        slot = "first" if row["first_slot_score"] > 0.5 else "second"
        text = f"the judge {printable(row['judge_model'])} favours the {slot} answer (first-slot score "
        text += (
            f"{row['first_slot_score']:.2f}, McNemar p {p_value(row['mcnemar_p'])}): both orders were asked "
        )
        found.append(("position_bias", "high", text + "and a win counts only if they agree"))
    if len(judges(analysis)) > 1:
        text = f"{len(judges(analysis))} judges: the answer and the charts show the verdicts of "
        found.append(("several_judges", "high", text + f"{printable(judges(analysis)[0])}, the tables all"))
    for judge in judges(analysis):
        if "demo" in judge.lower() or "stub" in judge.lower():
            found.append(
                (
                    "demo_judge",
                    "high",
                    f"the judge {printable(judge)} is a stand-in: its verdicts mean nothing",
                )
            )
    failed = analysis["judge_counts"].get("journal_failed")
    if failed:
        found.append(("judge_failures", "note", f"{failed} judge replies gave no verdict and are left out"))
    tasks = min(row["n_tasks"] for row in analysis["win_rates"])
    if tasks < FEW_TASKS <= min((model["tasks"] for model in analysis["models"]), default=FEW_TASKS):
        found.append(("few_tasks", "high", f"some win rates rest on {counted(tasks, 'task')} only"))
    text = "win rates compare levels of one model: they do not say which model writes better"
    return [*found, ("quality_is_relative", "note", text)]


# --- text for a terminal ---


def paragraphs(lines: Iterable[str], mark: str) -> list[str]:
    """Wrapped lines that hang behind a mark."""
    out: list[str] = []
    for line in lines:
        out += textwrap.wrap(printable(line), WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
    return out


def bar(value: float | None, largest: float, block: str, columns: int) -> str:
    """A bar of up to so many columns; nothing for a missing or negative value."""
    if value is None or value <= 0 or largest <= 0:
        return ""
    return block * max(1, round(columns * value / largest))


def model_table(analysis: Row, model: Row, block: str) -> list[str]:
    """One line per level: tokens, energy or latency with interval and bar."""
    own = [
        row for row in analysis["level_means"] if all(row[key] == model[key] for key in ("board", "model_id"))
    ]
    means = {(row["level"], row["metric"]): row for row in own}
    has_energy = any(row["metric"] == "energy_joule" and row["mean"] is not None for row in own)
    metric = "energy_joule" if has_energy else "latency_ms"
    unit = {"energy_joule": "J", "latency_ms": "s"}[metric]
    scale = 1000 if metric == "latency_ms" else 1
    largest = max((means[level, metric]["mean"] or 0 for level, name in means if name == metric), default=0)
    facts = [model["quantization"], model["board"], f"{model['runs']} runs", f"{model['tasks']} tasks"]
    facts += [f"{model['power_source']} power" if model["power_source"] else "no power source"]
    lines = [*paragraphs([f"{model['model_id']}: " + ", ".join(str(fact) for fact in facts if fact)], "")]
    lines.append(
        f"  {'level':<8}{'prompt':>8}{'answer':>8}{'latency s':>11}{metric_title(metric):>10}   95 % CI"
    )
    ends = {
        level: "-" if row["ci95"] is None else "..".join(number(edge / scale) for edge in row["ci95"])
        for (level, name), row in means.items()
        if name == metric
    }
    # Edges of very different size take more room: the bars then get less.
    wide = max(13, *(len(text) + 1 for text in ends.values())) if ends else 13
    for level in (level for level in analysis["levels"] if level in ends):
        row = means[level, metric]
        shown = [number(means[level, name]["mean"]) for name in ("prompt_tokens", "completion_tokens")]
        latency = means[level, "latency_ms"]["mean"]
        shown.append(number(None if latency is None else latency / 1000))
        value = number(None if row["mean"] is None else row["mean"] / scale)
        text = f"  {printable(level)[:7]:<8}{shown[0]:>8}{shown[1]:>8}{shown[2]:>11}{value + ' ' + unit:>10}"
        drawn = bar(row["mean"], largest, block, BAR + 13 - wide)
        lines.append(f"{text}   {ends[level]:<{wide}}{drawn}".rstrip())
    return lines


def metric_title(metric: str) -> str:
    """A column's title."""
    return "energy" if metric == "energy_joule" else "latency"


def split_table(analysis: Row) -> list[str]:
    """Per model and level the extra cost and the prompt's share of it; energy where it was measured, else
    latency.
    """
    energy = any(row["metric"] == "energy_joule" for row in analysis["cost_parts"])
    metric = "energy_joule" if energy else "latency_ms"
    scale, unit = (1, "J") if energy else (1000, "s")
    parts = [row for row in analysis["cost_parts"] if row["metric"] == metric]
    if not parts:
        return []
    base = printable(analysis["settings"]["baseline"])
    lines = [f"PROMPT OR ANSWER (extra {unit} against {base[:20]}, and whose part it is)"]
    for row in parts:
        extra = None if row["extra"] is None else row["extra"] / scale
        name = case_name(analysis, row)
        shares = f"{percent(row['prompt_share']):>6} prompt {percent(row['answer_share']):>6} answer"
        if row["prompt_share"] is None and row["extra"] is not None:
            halves = [number(row[part] / scale) for part in ("prompt_part", "answer_part")]
            shares = f"{halves[0]:>6} {unit} prompt {halves[1]:>6} {unit} answer"
        lines.append(f"  {name[:26]:<27}{printable(row['level'])[:7]:<8}{number(extra):>7} {unit} {shares}")
    return [*lines, ""]


def win_chart(analysis: Row, row: Row) -> str:
    """A win rate on an axis from 0 to 100 % with its interval; the bar in the middle is chance."""
    axis = [" "] * SCALE
    if row["ci95"]:
        low, high = (round(edge * (SCALE - 1)) for edge in row["ci95"])
        axis[low : high + 1] = "-" * (high + 1 - low)
    axis[SCALE // 2] = "|"
    axis[round(row["win_rate"] * (SCALE - 1))] = "o"
    name = f"{printable(row['level'])} vs {printable(row['against'])}"
    return f"  {name[:14]:<15}{percent(row['win_rate']):>6} [{''.join(axis)}] p {p_value(row['p_holm'])}"


def text_of(analysis: Row, block: str) -> str:
    """The whole answer as text."""
    lines = ["THE ANSWER", *paragraphs(analysis["answer"], "  "), ""]
    if analysis["caveats"]:
        marks = {"high": "! ", "note": "- "}
        lines.append("BEFORE YOU BELIEVE IT")
        for row in analysis["caveats"]:
            lines += paragraphs([row["text"]], "  " + marks[row["severity"]])
        lines.append("")
    if analysis["models"]:
        lines.append("COST BY LEVEL (means over tasks)")
    for model in analysis["models"]:
        lines += [*model_table(analysis, model, block), ""]
    lines += split_table(analysis)
    base = analysis["settings"]["baseline"]
    mine = of_first_judge(analysis)
    judged = [row for row in mine["win_rates"] if row["against"] == base]
    if judged:
        lines.append(f"WIN RATE AGAINST {printable(base)[:12]} (o, 95 % CI ---, chance |, Holm-adjusted p)")
        for name in sorted({row["model_id"] for row in judged}):
            lines.append(f"  {printable(name)[:70]}")
            lines += [win_chart(analysis, row) for row in judged if row["model_id"] == name]
        lines.append("")
    advice = [f"{case_name(mine, row)}: {row['statement']}" for row in mine["cheapest"] if row["statement"]]
    if advice:
        lines += ["GOOD ENOUGH AND CHEAPEST", *paragraphs(advice, "  "), ""]
    return "\n".join(lines[:-1])


def in_words(analysis: Row) -> dict[str, Any]:
    """The answer's sentences and the caveats, as analysis.json holds them."""
    return {"answer": answer(analysis), "caveats": caveats(analysis)}


def print_text(analysis: Row) -> None:
    """The whole answer on stdout, in what its encoding can hold."""
    utf8 = "utf" in (sys.stdout.encoding or "").lower()
    text = text_of(analysis, "█" if utf8 else "#")
    print(text if utf8 else text.encode("ascii", "replace").decode())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--analysis", type=Path, required=True, help="analysis.json of analyze_levels.py")
    parser.add_argument(
        "--json", action="store_true", help="print the sentences and caveats as one JSON object"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        analysis = read_analysis(args.analysis, ("settings", "levels", "level_means", "win_rates"))
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(in_words(analysis)))
    else:
        print_text(analysis)
    return 0


if __name__ == "__main__":
    sys.exit(main())
