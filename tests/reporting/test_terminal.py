"""The answer as text: what fits a terminal, columns that never touch, one number of decimals in each."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.reporting import terminal, words
from tests.fakes.made_analysis import with_intervals, with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"
FIGURE = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.])")


@pytest.fixture
def analysis() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


def own_rows(analysis: dict[str, Any]) -> list[dict[str, Any]]:
    model = analysis["models"][0]["model_id"]
    return [row for row in analysis["level_means"] if row["model_id"] == model]


def test_the_text_fits_80_columns_and_no_name_moves_the_cursor(analysis: dict[str, Any]) -> None:
    name = "\x1b[31m" + "very-long-model-name-" * 5
    text = json.dumps(analysis).replace("made-demo", json.dumps(name)[1:-1])
    text = text.replace('"L3"', json.dumps("a-level-with-a-long-name" * 3))
    shown = terminal.text_of(json.loads(text), "█")
    assert max(map(len, shown.splitlines())) <= 80 and "\x1b" not in shown
    assert "WIN RATE AGAINST L0" in shown and "█" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_prints_in_any_terminal(
    encoding: str, analysis: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = with_intervals(analysis)
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.print_text(analysis | words.in_words(analysis))
    screen.flush()
    text = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert text.startswith("THE ANSWER") and ("█" if encoding == "utf-8" else "####") in text
    assert ("±" if encoding == "utf-8" else "+-") in text


def test_win_rates_stand_where_they_belong_on_the_axis() -> None:
    chart = terminal.win_chart("L1", 1.0, [0.0, 1.0])
    axis = chart[chart.index("[") + 1 : chart.index("]")]
    assert (axis[0], axis[15], axis[-1], len(axis)) == ("-", "|", "o", terminal.SCALE)


@pytest.mark.parametrize(
    "edges", [[-0.000512345, 123456.0], [-123456.7, 123456.7], [1e-7, 2e-7], [-1234567.0, -0.5]]
)
def test_columns_never_touch_whatever_the_size_and_sign(analysis: dict[str, Any], edges: list[float]) -> None:
    for row in analysis["level_means"]:
        row |= {"ci95": edges, "mean": edges[0]}
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    table = [line for line in lines if re.match(r"  (level|L\d|P) ", line)]
    assert len(table) == 1 + len(analysis["levels"]) and max(map(len, lines)) <= 80
    # Two spaces between two columns: parted there, each line has as many cells as heads.
    heads = re.split(r" {2,}", table[0].strip())
    for line in table[1:]:
        cells = [cell for cell in re.split(r" {2,}", line.strip()) if not cell.startswith("#")]
        assert len(cells) == len(heads), line


def test_a_column_has_one_number_of_decimals(analysis: dict[str, Any]) -> None:
    values = iter([8.0, 10.3, 12.0, 14.52, 16.0])
    for row in own_rows(analysis):
        if row["metric"] == "energy_joule":
            row["mean"] = next(values)
            row["ci95"] = [row["mean"] - 0.7, row["mean"] + 0.7]
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    energy = [re.findall(FIGURE, line)[-3:] for line in lines if re.match(r"  (L\d|P) ", line)]
    assert energy[0] == ["8.00", "7.30", "8.70"] and energy[1] == ["10.30", "9.60", "11.00"]


def test_every_figure_of_the_cost_table_is_that_of_the_analysis(analysis: dict[str, Any]) -> None:
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    means = {(row["level"], row["metric"]): row for row in own_rows(analysis)}
    for line in (line for line in lines if re.match(r"  (L\d|P) ", line)):
        level = line.split()[0]
        energy = means[level, "energy_joule"]
        figures = [means[level, name]["mean"] for name in ("prompt_tokens", "completion_tokens")]
        figures += [means[level, "latency_ms"]["mean"] / 1000, energy["mean"], *(energy["ci95"] or [])]
        shown = re.findall(FIGURE, line.removeprefix(f"  {level}"))
        assert len(shown) == len(figures)
        for text, value in zip(shown, figures, strict=True):
            assert text == f"{value:.{len(text.partition('.')[2])}f}"


def test_levels_that_never_ran_have_no_line_and_a_model_without_any_says_so(analysis: dict[str, Any]) -> None:
    for row in own_rows(analysis):
        if row["level"] == "L3":
            row |= {"mean": None, "ci95": None}
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    assert not any(line.startswith("  L3 ") for line in lines)
    for row in own_rows(analysis):
        row |= {"mean": None, "ci95": None}
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    assert lines[-1] == "  no run that counts"


def test_a_cost_without_an_interval_says_why(analysis: dict[str, Any]) -> None:
    for row in own_rows(analysis):
        row |= {"ci95": None, "reason": "three tasks only"}
    lines = terminal.model_table(analysis, analysis["models"][0], own_rows(analysis), "#")
    assert lines[-1] == "  L0, L3, P: three tasks only"


def test_a_missing_interval_says_why(analysis: dict[str, Any]) -> None:
    for row in analysis["win_rates"]:
        row |= {"ci95": None, "reason": "one task only: no interval"}
    text = terminal.text_of(analysis, "#")
    assert "L3, P: one task only: no interval" in text


def test_graded_win_rates_stand_below_the_counted_ones(analysis: dict[str, Any]) -> None:
    assert "graded" not in terminal.text_of(analysis, "#")
    for row in analysis["win_rates"]:
        row |= {"graded_win_rate": 0.71, "graded_ci95": [0.62, 0.8], "graded_reason": None}
    lines = terminal.text_of(analysis, "#").splitlines()
    assert sum(re.match(r" {6}graded +71 %  \[", line) is not None for line in lines) == 2


@pytest.mark.parametrize("count", [1, 4, 40, 300])
def test_any_number_of_models_is_a_text_that_can_be_read(analysis: dict[str, Any], count: int) -> None:
    many = with_models(analysis, count)
    many |= words.in_words(many)
    lines = terminal.text_of(many, "#").splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 320
    hidden = count - terminal.MODELS_SHOWN
    assert any(f"{hidden} other models" in line for line in lines) == (hidden > 0)
