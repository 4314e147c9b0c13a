"""The answer as text for a terminal of 80 columns: sentences, verdict lines, caveats, tables with bars.

A column has one number of decimals and never touches its neighbour, whatever the size and sign of its
figures. Over many models the tables of single models give way to one over all of them. Standard library only,
so that it also runs over SSH on the board.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence

from edgebench.reporting.cases import (
    Row,
    by_case,
    case_name,
    cost_metric,
    listed,
    of_first_judge,
)
from edgebench.reporting.words import verdict_note
from edgebench.shell.calls import as_called
from edgebench.shell.decimals import at_places, column_places, edges_at, half_of, in_column
from edgebench.shell.text import counted, p_value, percent, printable, shortened, text_table

WIDTH = 79
BAR = 16
SCALE = 31  # columns of a win-rate axis, 0 to 100 %
MODELS_SHOWN = 12  # one by one; beyond them the page has the rest
LEVEL_NAME, MODEL_NAME = 10, 26  # columns
UNITS = {"energy_joule": ("J", 1.0), "latency_ms": ("s", 1000.0)}


def text_of(analysis: Row, block: str) -> str:
    """The whole answer as text; `block` is the letter that bars are made of."""
    mine = of_first_judge(analysis)
    sections = [
        ["THE ANSWER", *paragraphs(analysis["answer"], "  ")],
        verdict_lines(analysis),
        caveat_lines(analysis),
        *model_sections(analysis, block),
        split_table(analysis),
        win_section(mine),
        advice_lines(mine),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def print_text(analysis: Row) -> None:
    """The whole answer on stdout, in what its encoding can hold."""
    utf8 = "utf" in (sys.stdout.encoding or "").lower()
    if utf8:
        print(text_of(analysis, "█"))
        return
    # Before the lines are wrapped: in ASCII the sign is two columns wide.
    verdicts = [{**row, "text": row["text"].replace("±", "+-")} for row in analysis.get("verdicts", [])]
    text = text_of({**analysis, "verdicts": verdicts}, "#").replace("±", "+-").replace("…", "~")
    print(text.encode("ascii", "replace").decode())


# --- pieces ---


def paragraphs(lines: Iterable[str], mark: str) -> list[str]:
    """Wrapped lines that hang behind a mark."""
    out: list[str] = []
    for line in lines:
        out += textwrap.wrap(printable(line), WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
    return out


def fitted(name: str, columns: int) -> str:
    """A name that fits so many columns and moves no cursor."""
    return shortened(printable(name), columns)


def bar(value: float | None, largest: float, block: str, columns: int) -> str:
    """A bar of up to so many columns; nothing for a missing or negative value."""
    if value is None or value <= 0 or largest <= 0 or columns < 1:
        return ""
    return block * max(1, round(columns * value / largest))


def scaled(value: float | None, scale: float) -> float | None:
    """A value in another unit."""
    return None if value is None else value / scale


def scaled_edges(ci95: Sequence[float] | None, scale: float) -> list[float] | None:
    """An interval in another unit."""
    return None if ci95 is None else [edge / scale for edge in ci95]


# --- sections ---


def verdict_lines(analysis: Row) -> list[str]:
    """How many times as much each level costs."""
    lines = [row["text"] for row in analysis.get("verdicts", [])]
    if not lines:
        return []
    note = verdict_note(analysis["verdicts"])
    return ["TIMES AS MUCH", *paragraphs(lines, "  "), *paragraphs([note] if note else [], "  ")]


def caveat_lines(analysis: Row) -> list[str]:
    """Every caveat, marked ! or - by its weight."""
    marks = {"high": "! ", "note": "- "}
    lines = []
    for row in analysis["caveats"]:
        lines += paragraphs([row["text"]], "  " + marks[row["severity"]])
    return ["BEFORE YOU BELIEVE IT", *lines] if lines else []


def model_sections(analysis: Row, block: str) -> list[list[str]]:
    """A table for each model; of many models the first few."""
    models = analysis["models"]
    if not models:
        return []
    means = by_case(analysis["level_means"])
    tables = [
        model_table(analysis, model, means.get((model["model_id"], model["board"]), []), block)
        for model in models[:MODELS_SHOWN]
    ]
    tables[0] = ["COST BY LEVEL (means over tasks)", *tables[0]]
    rest = len(models) - len(tables)
    if rest > 0:
        page = as_called("report_page.py")
        tables.append([f"  and {counted(rest, 'other model')}: {page} shows them all"])
    return tables


def model_table(analysis: Row, model: Row, own: Sequence[Row], block: str) -> list[str]:
    """One line per level: tokens, latency, energy with interval and bar; levels never run are left out."""
    facts = [model["quantization"], model["board"], counted(model["runs"], "run")]
    facts += [counted(model["tasks"], "task")]
    facts += [f"{model['power_source']} power" if model["power_source"] else "no power source"]
    title = paragraphs([f"{model['model_id']}: " + ", ".join(str(fact) for fact in facts if fact)], "")
    means = {(row["level"], row["metric"]): row for row in own}
    measured = {row["level"] for row in own if row["mean"] is not None}
    levels = [level for level in analysis["levels"] if level in measured]
    if not levels:
        return [*title, "  no run that counts"]
    columns = {"prompt": tokens_column(means, levels, "prompt_tokens")}
    columns["answer"] = tokens_column(means, levels, "completion_tokens")
    metric = cost_metric(own)
    latency, _ = cost_columns(means, levels, "latency_ms")
    cost, edges = cost_columns(means, levels, metric)
    columns["latency s"] = latency
    if metric == "energy_joule":
        columns["energy J"] = cost
    columns["95 % CI"] = edges
    names = [fitted(level, LEVEL_NAME) for level in levels]
    rows = zip(names, *columns.values(), strict=True)
    lines = text_table(["  level", *columns], [[f"  {name}", *cells] for name, *cells in rows])
    values = [means[level, metric]["mean"] for level in levels]
    largest = max((value or 0.0 for value in values), default=0.0)
    room = min(BAR, WIDTH - max(map(len, lines)) - 2)
    bars = ["", *(bar(value, largest, block, room) for value in values)]
    widest = max(map(len, lines))
    table = [f"{line:<{widest}}  {drawn}".rstrip() for line, drawn in zip(lines, bars, strict=True)]
    reasons = missing_intervals([means[level, metric] for level in levels])
    return [*title, *table, *paragraphs(reasons, "  ")]


def tokens_column(means: dict[tuple[str, str], Row], levels: Sequence[str], metric: str) -> list[str]:
    """Mean tokens by level."""
    return in_column([means[level, metric]["mean"] for level in levels])


def cost_columns(
    means: dict[tuple[str, str], Row], levels: Sequence[str], metric: str
) -> tuple[list[str], list[str]]:
    """A cost by level and its intervals, both with the decimals of their uncertainty."""
    scale = UNITS[metric][1]
    rows = [means[level, metric] for level in levels]
    values = [scaled(row["mean"], scale) for row in rows]
    edges = [scaled_edges(row["ci95"], scale) for row in rows]
    places = column_places(values, map(half_of, edges))
    return [at_places(value, places) for value in values], [edges_at(ci95, places) for ci95 in edges]


def split_table(analysis: Row) -> list[str]:
    """Per model and level the extra cost, its prompt's and its answer's part; energy where it was
    measured, else latency.
    """
    metric = cost_metric(analysis["cost_parts"], "extra")
    unit, scale = UNITS[metric]
    parts = [row for row in analysis["cost_parts"] if row["metric"] == metric and row["extra"] is not None]
    shown = first_models(parts)
    if not shown:
        return []
    base = fitted(analysis["settings"]["baseline"], LEVEL_NAME)
    amounts = [
        [scaled(row[name], scale) for row in shown] for name in ("extra", "prompt_part", "answer_part")
    ]
    places = column_places(value for column in amounts for value in column)
    levels = [fitted(row["level"], LEVEL_NAME) for row in shown]
    shares = [percent(row["prompt_share"]) for row in shown]
    texts = [[at_places(value, places) for value in column] for column in amounts]
    heads = ["level", f"extra {unit}", f"prompt {unit}", f"answer {unit}", "prompt %"]
    figures = text_table(heads, zip(levels, *texts, shares, strict=True))
    room = min(MODEL_NAME, WIDTH - max(map(len, figures)) - 4)
    names = ["model", *(fitted(case_name(analysis, row), room) for row in shown)]
    widest = max(map(len, names))
    lines = [f"  {name:<{widest}}  {line}" for name, line in zip(names, figures, strict=True)]
    rest = rest_line(parts, shown)
    return [f"PROMPT OR ANSWER (the extra {unit} against {base}, and whose part it is)", *lines, *rest]


def first_models(rows: Sequence[Row]) -> list[Row]:
    """The rows of as many models as are shown one by one."""
    return [row for own in list(by_case(rows).values())[:MODELS_SHOWN] for row in own]


def rest_line(rows: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """How many models are not shown."""
    rest = len(by_case(rows)) - len(by_case(shown))
    return [f"  and {counted(rest, 'other model')}"] if rest else []


def win_section(analysis: Row) -> list[str]:
    """Each level's win rate against the baseline on an axis, and why an interval is missing."""
    base = analysis["settings"]["baseline"]
    judged = [row for row in analysis["win_rates"] if row["against"] == base]
    shown = first_models(judged)
    if not shown:
        return []
    lines = [f"WIN RATE AGAINST {fitted(base, LEVEL_NAME)} (o, 95 % CI ---, chance |, Holm-adjusted p)"]
    for own in by_case(shown).values():
        lines.append(f"  {fitted(own[0]['model_id'], WIDTH - 2)}")
        lines += [line for row in own for line in win_charts(row)]
        lines += paragraphs(missing_intervals(own), "    ")
    return [*lines, *rest_line(judged, shown)]


def missing_intervals(rows: Sequence[Row]) -> list[str]:
    """Why levels have no interval, levels with the same reason together."""
    levels: dict[str, list[str]] = {}
    for row in rows:
        if row["ci95"] is None and row["reason"]:
            levels.setdefault(row["reason"], []).append(printable(row["level"]))
    return [f"{listed(names)}: {reason}" for reason, names in levels.items()]


def win_charts(row: Row) -> list[str]:
    """The counted win rate of a level, and below it the one by the judge's probabilities, if any."""
    name = fitted(row["level"], LEVEL_NAME)
    lines = [f"{win_chart(name, row['win_rate'], row['ci95'])}  p {p_value(row['p_holm'])}"]
    if row.get("graded_win_rate") is not None:
        chart = win_chart("  graded", row["graded_win_rate"], row["graded_ci95"])
        fewer = row.get("graded_n_tasks", row["n_tasks"]) != row["n_tasks"]
        lines.append(chart + (f"  {counted(row['graded_n_tasks'], 'task')}" if fewer else ""))
    return lines


def win_chart(name: str, rate: float, ci95: Sequence[float] | None) -> str:
    """A win rate on an axis from 0 to 100 % with its interval; the bar in the middle is chance."""
    axis = [" "] * SCALE
    if ci95:
        low, high = (round(edge * (SCALE - 1)) for edge in ci95)
        axis[low : high + 1] = "-" * (high + 1 - low)
    axis[SCALE // 2] = "|"
    axis[round(rate * (SCALE - 1))] = "o"
    return f"    {name:<{LEVEL_NAME}} {percent(rate):>5}  [{''.join(axis)}]"


def advice_lines(analysis: Row) -> list[str]:
    """What is good enough and cheapest, models of which the same is said together."""
    said: dict[str, list[str]] = {}
    for row in analysis["cheapest"]:
        if row["statement"]:
            said.setdefault(row["statement"], []).append(case_name(analysis, row))
    if not said:
        return []
    lines = [f"{listed(names)}: {statement}" for statement, names in list(said.items())[:MODELS_SHOWN]]
    rest = [f"  and {counted(len(said) - len(lines), 'other finding')}"] if len(said) > len(lines) else []
    return ["GOOD ENOUGH AND CHEAPEST", *paragraphs(lines, "  "), *rest]
