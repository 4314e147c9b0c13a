"""The models of an analysis as every exporter names and orders them, and whose verdicts are shown.

A case is one model on one board. Its board is named only where there are several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgebench.shell.text import printable

Row = Mapping[str, Any]
Key = tuple[str, str | None]

NAMES_TOLD = 4  # of a list of models in a sentence; the tables have them all


def case_name(analysis: Row, row: Row) -> str:
    """The model of a row, with its board where there are several; a row about all models says so."""
    name = printable(row["model_id"]) if row["model_id"] is not None else "all models"
    if "board" not in row or not has_several_boards(analysis):
        return name
    return f"{name} on {printable(row['board'] or 'unknown board')}"


def has_several_boards(analysis: Row) -> bool:
    """Whether a model's name alone does not say where it ran."""
    models = analysis["models"]
    return any(model["board"] != models[0]["board"] for model in models)


def key_of(row: Row) -> Key:
    """What makes a case: the model and its board; a row about the judge's verdicts has no board."""
    return row["model_id"], row.get("board")


def by_case(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """The rows of each case, in their order."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        found[key_of(row)].append(row)
    return dict(found)


def listed(names: Iterable[str], most: int = NAMES_TOLD) -> str:
    """Names for a sentence: all of them, or the first few and how many others there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e", "f"])
    ('a, b', 'a, b, c, d and 2 others')
    """
    every = list(dict.fromkeys(names))
    if len(every) <= most + 1:  # "and 1 other" is no shorter than the name
        return ", ".join(every)
    return f"{', '.join(every[:most])} and {len(every) - most} others"


def is_simulated(analysis: Row) -> bool:
    """Whether any watt was simulated or replayed."""
    return any(model["simulated_power"] for model in analysis["models"])


def cost_metric(rows: Iterable[Row], value: str = "mean") -> str:
    """The cost that stands for all: energy where any was measured, else latency."""
    measured = any(row["metric"] == "energy_joule" and row[value] is not None for row in rows)
    return "energy_joule" if measured else "latency_ms"


def cost_word(analysis: Row, metric: str) -> str:
    """What a cost is called; power that was not measured says so."""
    if metric != "energy_joule":
        return "latency"
    return "simulated energy" if is_simulated(analysis) else "energy"


def judges(analysis: Row) -> list[str]:
    """Who judged."""
    return sorted({row["judge_model"] for row in analysis["win_rates"]})


def of_first_judge(analysis: Row) -> dict[str, Any]:
    """The analysis with one judge's verdicts, which answer and charts show: judges are not averaged."""
    first = next(iter(judges(analysis)), None)
    own = {
        name: [row for row in analysis[name] if row["judge_model"] in (None, first)]
        for name in ("win_rates", "cheapest")
    }
    return {**analysis, **own}


def ordered_by_level(rows: Iterable[Row], levels: Sequence[str]) -> list[Row]:
    """Rows in the order of their levels."""
    place = {level: number for number, level in enumerate(levels)}
    return sorted(rows, key=lambda row: place[row["level"]])
