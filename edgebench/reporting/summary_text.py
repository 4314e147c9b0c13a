"""Model × level for a terminal of 80 columns: the means of the workbooks, in the same digits."""

from __future__ import annotations

import textwrap

from edgebench.reporting.book_tables import cases, first_wins, means_of, reference_of
from edgebench.reporting.study import Study
from edgebench.reporting.workbooks import alarms
from edgebench.shell.decimals import half_of, in_column
from edgebench.shell.text import WIDTH, fixed, printable, text_table

HEADS = {"completion_tokens": "tokens out", "latency_ms": "latency ms", "energy_joule": "energy J"}
MODEL_WIDTH, LEVEL_WIDTH = 26, 7


def screen_lines(study: Study) -> list[str]:
    """The table, then what must be known of it."""
    means, wins = means_of(study.analysis), first_wins(study.analysis)
    names, values = [], {name: list[float | None]() for name in HEADS}
    halves = {name: list[float | None]() for name in HEADS}
    rates: list[str] = []
    for model, board in cases(study):
        for level in study.analysis["levels"]:
            rows = {name: means.get((model, board, level, name), {}) for name in HEADS}
            win = wins.get((model, level))
            if win is None and all(row.get("mean") is None for row in rows.values()):
                continue
            shown = f"{model} {board}" if study.has_boards else model
            names.append((shortened(printable(shown), MODEL_WIDTH), printable(level)[:LEVEL_WIDTH]))
            rates.append(fixed(None if win is None else win["win_rate"], 3))
            for name, row in rows.items():
                values[name].append(row.get("mean"))
                halves[name].append(half_of(row.get("ci95")))
    columns = [in_column(values[name], halves[name]) for name in HEADS]
    reference = printable(reference_of(study.analysis))[:LEVEL_WIDTH]
    heads = ["model", "level", *HEADS.values(), f"win vs {reference}"]
    table = [[*name, *cells] for name, *cells in zip(names, *columns, rates, strict=True)]
    said = [*alarms(study), *study.remarks]
    return [*text_table(heads, table, left=2), *(textwrap.fill(text, WIDTH) for text in said)]


def shortened(name: str, width: int) -> str:
    """A name no longer than that; the middle gives way: models of a family differ at the end.

    >>> shortened("SmolLM2-135M-Instruct-Q4_1", 15)
    'SmolLM2…ct-Q4_1'
    """
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return name[:head] + "…" + name[head + 1 - width :]
