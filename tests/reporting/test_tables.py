"""The tables: every number as the analysis has it, missing as a dash, nothing that breaks Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.reporting import tables
from tests.fakes.made_analysis import with_intervals, with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


@pytest.fixture
def analysis() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


def cells(table: tables.Table, head: str) -> list[str]:
    return table.columns[table.heads.index(head)].cells


def captioned(analysis: dict[str, Any], caption: str) -> tables.Table:
    return next(table for table in tables.tables_of(analysis) if table.caption.startswith(caption))


def shown(value: float, text: str, sign: bool = False) -> str:
    """The value at the precision that the text was printed with."""
    places = len(text.partition(".")[2])
    return tables.document(f"{value:{'+' if sign else ''}.{places}f}")


def test_the_level_table_shows_the_means_at_their_printed_precision(analysis: dict[str, Any]) -> None:
    (table,) = tables.level_tables(analysis)
    means = {(row["level"], row["metric"]): row for row in analysis["level_means"]}
    wins = {row["level"]: row for row in analysis["win_rates"] if row["against"] == "L0"}
    metrics = {
        "Prompt tokens": ("prompt_tokens", 1.0),
        "Answer tokens": ("completion_tokens", 1.0),
        "Latency s": ("latency_ms", 1000.0),
        "Energy J (simulated)": ("energy_joule", 1.0),
    }
    for place, level in enumerate(cells(table, "Level")):
        for head, (metric, scale) in metrics.items():
            text = cells(table, head)[place]
            assert text == shown(means[level, metric]["mean"] / scale, text)
        if level in wins:
            text = cells(table, "Win rate against L0")[place]
            assert text == f"{100 * wins[level]['win_rate']:.0f} %"


def test_the_level_table_shows_the_rates_of_all_judges(analysis: dict[str, Any]) -> None:
    """It showed the last judge's alone."""
    rows = analysis["win_rates"]
    first = [dict(row) for row in rows if (row["level"], row["against"]) == ("L3", "L0")]
    assert len(first) == 1
    rows.insert(0, {**first[0], "judge_model": "zz", "win_rate": 0.123})
    (table,) = tables.level_tables(analysis)
    place = cells(table, "Level").index("L3")
    assert cells(table, "Win rate against L0, by zz")[place].startswith("12")
    told = cells(table, f"Win rate against L0, by {first[0]['judge_model']}")[place]
    assert told.startswith(f"{100 * first[0]['win_rate']:.0f}")


def test_an_interval_has_the_decimals_of_the_value_before_it(analysis: dict[str, Any]) -> None:
    analysis = with_intervals(analysis)
    means = {row["level"]: row for row in analysis["level_means"] if row["metric"] == "energy_joule"}
    for row in means.values():  # five tasks have none of their own
        row["ci95"] = [row["mean"] - 1.234, row["mean"] + 1.345]
    (table,) = tables.level_tables(analysis)
    place = table.heads.index("Energy J (simulated)")
    for level, value, interval in zip(
        cells(table, "Level"), table.columns[place].cells, table.columns[place + 1].cells, strict=True
    ):
        low, high = means[level]["ci95"]
        assert interval == f"{shown(low, value)} to {shown(high, value)}"


def figure_columns(analysis: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for table in tables.tables_of(analysis):
        for column in table.columns:
            if not column.is_words:
                yield f"{table.caption}: {column.head}", column.cells


@pytest.mark.parametrize("count", [1, 5, 40])
def test_every_column_of_figures_has_one_number_of_decimals(analysis: dict[str, Any], count: int) -> None:
    for name, texts in figure_columns(with_models(analysis, count)):
        if name.startswith("Win rates: At equal length") or "p, " in name or name.endswith(": p"):
            continue  # several figures in a cell; p says < 0.001
        figures = [text for text in texts if text.strip("−+").replace(".", "", 1).isdigit()]
        assert len({len(text.partition(".")[2]) for text in figures}) <= 1, (name, figures)


def test_every_table_is_rectangular_and_of_known_sections(analysis: dict[str, Any]) -> None:
    every = tables.tables_of(analysis)
    assert len(every) >= 12 and len({table.caption for table in every}) == len(every)
    for table in every:
        assert all(len(row) == len(table.heads) for row in table.rows)
        assert all(isinstance(cell, str) and cell != "None" for row in table.rows for cell in row)


def test_missing_is_a_dash_never_zero_and_says_why(analysis: dict[str, Any]) -> None:
    for row in analysis["level_means"]:
        if row["metric"] == "energy_joule":
            row |= {"mean": None, "ci95": None, "std_within": None, "reason": "no power source"}
    (table,) = tables.level_tables(analysis)
    assert set(cells(table, "Energy J (simulated)")) == {"–"}
    assert all("no power source" in remark for remark in cells(table, "Remark"))


def test_the_median_and_the_slow_end_of_waiting_stand_beside_the_mean(analysis: dict[str, Any]) -> None:
    for row in analysis["level_means"]:
        if row["metric"] == "ttft_ms":
            row |= {"p50": 412.0, "p95": 1630.0}
    table = captioned(analysis, "Time to first token")
    assert float(cells(table, "p50 s")[0]) == pytest.approx(0.412, abs=0.06)
    assert float(cells(table, "p95 s")[0]) == pytest.approx(1.63, abs=0.06)
    for row in analysis["level_means"]:
        row.pop("p50", None), row.pop("p95", None)
    assert "p50 s" not in captioned(analysis, "Time to first token").heads


def test_graded_win_rates_and_the_lean_taken_out_stand_beside_the_counted_ones(
    analysis: dict[str, Any],
) -> None:
    assert "Graded" not in captioned(analysis, "Win rates").heads
    for row in analysis["win_rates"]:
        row |= {"graded_win_rate": 0.71, "graded_ci95": [0.62, 0.8], "graded_reason": None}
    analysis["win_rates"][0] |= {"graded_ci95": None, "graded_reason": "two tasks only"}
    lean = {"model_id": None, "judge_model": "j", "pairs": 12, "first_slot_share": 0.64}
    analysis["graded_leans"] = [lean | {"lean_log_odds_mean": 0.58, "lean_log_odds_std": 0.21}]
    table = captioned(analysis, "Win rates")
    place = table.heads.index("Graded")
    assert set(table.columns[place].cells) == {"71 %"}
    assert set(table.columns[place + 1].cells) == {"62 to 80", "–"}
    assert "two tasks only" in " ".join(cells(table, "Remark"))
    leans = captioned(analysis, "The lean to a slot")
    assert cells(leans, "The first of two equal answers would win") == ["64 %"]
    assert cells(leans, "Lean, log odds") == ["+0.58"]


def test_levels_without_a_task_in_common_are_counted(analysis: dict[str, Any]) -> None:
    rows = [row for row in analysis["paired"] if (row["metric"], row["against"]) == ("energy_joule", "L0")]
    rows[0]["mean_difference"] = None
    table = captioned(analysis, "Energy (simulated), J: difference")
    assert len(table.rows) == len(rows) - 1 and table.note.startswith("Left out: 1 ")


def test_a_level_that_could_not_be_named_says_why(analysis: dict[str, Any]) -> None:
    analysis["cheapest"][0] |= {"statement": None, "reason": "no level can be told from another"}
    assert cells(captioned(analysis, "The cheapest level"), "Finding") == [
        "none named: no level can be told from another"
    ]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([8.0, 10.3, 12.0, 14.5], ["8.0", "10.3", "12.0", "14.5"]),
        ([-7.25, 1.0], ["−7.25", "1.00"]),
        ([0.0, None], ["0", "–"]),
    ],
)
def test_columns_are_typeset(values: list[float | None], texts: list[str]) -> None:
    assert tables.figures("J", values).cells == texts


def test_markdown_survives_hostile_names(analysis: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(analysis).replace("made-demo", "a|b\\nc"))
    lines = tables.markdown(tables.tables_of(hostile)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows and all(line.endswith("|") for line in rows)
    assert any(r"a\|b c" in line for line in rows)
    heads = [place for place, line in enumerate(lines) if line.startswith(("| :--", "| --:"))]
    for place in heads:
        below = [lines[place - 1]]
        for line in lines[place:]:
            if not line.startswith("|"):
                break
            below.append(line)
        assert len({line.replace(r"\|", "").count("|") for line in below}) == 1
    assert lines[0] == "## Levels"
