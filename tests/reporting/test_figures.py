"""Every figure of the page's tables and of the text is that of analysis.json, at the precision it is printed
with; read back from the finished page, as a reader would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from companions import report_page as door
from edgebench.reporting import terminal, words
from tests.clone import made_once
from tests.fakes.made_analysis import with_intervals, with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"
FIGURE = re.compile(r"(?<![\w.])[−+]?\d+(?:\.\d+)?(?![\w.]|\.\d)")
Row = dict[str, Any]


class Tables(HTMLParser):
    """Caption, heads and rows of every table; a first cell that is empty repeats the one above."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, tuple[list[str], list[list[str]]]] = {}
        self.caption, self.cell = "", ""
        self.heads: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.heads, self.rows = [], []
        elif tag == "tr":
            self.rows.append([])
        self.cell = "" if tag in ("td", "th", "h3") else self.cell

    def handle_endtag(self, tag: str) -> None:
        if tag == "h3":
            self.caption = self.cell
        elif tag == "th":
            self.heads.append(self.cell)
        elif tag == "td":
            above = self.rows[-2][0] if len(self.rows) > 1 and self.rows[-2] else ""
            self.rows[-1].append(self.cell or (above if not self.rows[-1] else ""))
        elif tag == "table":
            self.found[self.caption] = (self.heads, [row for row in self.rows if row])

    def handle_data(self, data: str) -> None:
        self.cell += data


def at(text: str, value: float) -> bool:
    """Whether the text is the value, rounded where the text ends."""
    places = len(text.partition(".")[2])
    sign = "+" if text.startswith("+") else ""
    rounded = f"{value:{sign}.{places}f}".replace("-", "−")
    return text == rounded or (set(rounded) <= set("−+0.") and text == rounded.lstrip("−+"))


def check(text: str, values: list[float | None], where: str) -> None:
    """Every figure of a cell against the values it must show; a dash where there are none."""
    known = [value for value in values if value is not None]
    figures = FIGURE.findall(text)
    if not known:
        assert text in ("–", ""), where
        return
    assert len(figures) == len(known), (where, text, known)
    for figure, value in zip(figures, known, strict=True):
        assert at(figure, value), (where, text, known)


Cells = Callable[[Row], list[float | None]]


def one(name: str, scale: float = 1.0) -> Cells:
    return lambda row: [None if row[name] is None else row[name] / scale]


def edges(name: str, scale: float = 1.0) -> Cells:
    return lambda row: [None] if row[name] is None else [edge / scale for edge in row[name]]


def rate(coefficient: str, scale: float) -> Cells:
    return lambda row: one("estimate", scale)(row["coefficients"][coefficient])


def rate_edges(coefficient: str, scale: float) -> Cells:
    return lambda row: edges("ci95", scale)(row["coefficients"][coefficient])


def paired(scale: float) -> dict[str, Cells]:
    return {
        "Tasks": one("n_tasks"),
        "Difference": one("mean_difference", scale),
        "95 % CI": edges("ci95", scale),
        "Change %": one("percent"),
        "95 % CI 2": edges("percent_ci95"),
    }


def waiting(unit: str, scale: float) -> dict[str, Cells]:
    return {
        "Runs": one("n_runs"),
        f"Mean {unit}": one("mean", scale),
        "95 % CI": edges("ci95", scale),
        f"p50 {unit}": one("p50", scale),
        f"p95 {unit}": one("p95", scale),
    }


def one_token(scale: float) -> dict[str, Cells]:
    return {
        "Per prompt token": rate("per_prompt_token", scale),
        "95 % CI": rate_edges("per_prompt_token", scale),
        "Per answer token": rate("per_output_token", scale),
        "95 % CI 2": rate_edges("per_output_token", scale),
        "R²": one("r_squared"),
    }


def wanted(analysis: Row) -> dict[str, tuple[list[Row], dict[str, Cells]]]:
    """Caption → the rows of analysis.json that a table shows, in order, and what each column shows."""

    def rows(table: str, **where: Any) -> list[Row]:
        return [row for row in analysis[table] if all(row[name] == is_ for name, is_ in where.items())]

    def shown(name: str) -> Callable[[Row], bool]:
        return lambda row: row[name] is not None

    differences = {
        metric: list(filter(shown("mean_difference"), rows("paired", metric=metric, against="L0")))
        for metric in ("energy_joule", "latency_ms", "completion_tokens")
    }
    wins = [
        row
        for row in analysis["win_rates"]
        if row["against"] == "L0" or row["against"] == "P" != row["level"] != "L0"
    ]
    return {
        "Energy (simulated), J: difference to L0 within tasks": (differences["energy_joule"], paired(1)),
        "Latency, s: difference to L0 within tasks": (differences["latency_ms"], paired(1000)),
        "Answer length, tokens: difference to L0 within tasks": (
            differences["completion_tokens"],
            paired(1),
        ),
        "What one token costs: energy (simulated), mJ": (
            rows("cost_split", metric="energy_joule"),
            one_token(0.001),
        ),
        "What one token costs: latency, ms": (rows("cost_split", metric="latency_ms"), one_token(1)),
        "The extra cost in its parts": (
            [row for row in analysis["cost_parts"] if row["sentence"]],
            {"Prompt's share": one("prompt_share", 0.01), "95 % CI %": edges("prompt_share_ci95", 0.01)},
        ),
        "Win rates": (
            wins,
            {
                "Won / tied / lost": lambda row: [row["wins"], row["ties"], row["losses"]],
                "Win rate": one("win_rate", 0.01),
                "95 % CI %": edges("ci95", 0.01),
                "Both orders averaged": one("win_rate_averaged", 0.01),
                "Graded": one("graded_win_rate", 0.01),
                "95 % CI % 2": edges("graded_ci95", 0.01),
            },
        ),
        "Bradley-Terry strength (log-odds; P is 0)": (
            analysis["bradley_terry"],
            {"Strength": one("beta"), "SE": one("se"), "Elo": one("elo")},
        ),
        "Does the judge favour a slot? (0.5 is none)": (
            [row for row in analysis["position_bias"] if row["pairs"]],
            {
                "Pairs": one("pairs"),
                "Same verdict in both orders": one("consistency", 0.01),
                "First-slot score": one("first_slot_score"),
            },
        ),
        "Quality for energy": (
            [row for row in rows("value", cost_metric="energy_joule") if row["cost_mean"] is not None],
            {
                "Win rate": one("quality", 0.01),
                "Cost J (simulated)": one("cost_mean"),
                "Win rate % per J (simulated)": one("quality_per_cost", 0.01),
                "Gain % per extra J (simulated)": one("gain_per_extra_cost", 0.01),
            },
        ),
        "Drift over the campaign, within task and level": (
            [row for row in analysis["drift"] if row["p"] is not None],
            {
                "Change %": one("change_percent"),
                "95 % CI": edges("change_ci95"),
                "Over hours": one("hours"),
                "% per hour": one("slope_percent_per_hour"),
            },
        ),
        **{
            caption: (
                [row for row in rows("level_means", metric=metric) if row["mean"] is not None],
                waiting(unit, scale),
            )
            for caption, metric, unit, scale in (
                ("Time to first token by model and level", "ttft_ms", "s", 1000),
                ("Time per answer token by model and level", "tpot_ms", "ms", 1),
            )
        },
        "Does the longer answer win?": (
            [row for row in analysis["length_effect"] if row["decisive"]],
            {
                "Decided pairs": one("decisive"),
                "Won by the longer answer": one("longer_share", 0.01),
                "95 % CI %": edges("wilson95", 0.01),
                "Rank correlation": one("spearman"),
            },
        ),
        "Does the judge repeat itself?": (
            [row for row in analysis["judge_noise"] if row["compared"]],
            {"Compared": one("compared"), "Same verdict": one("agreement", 0.01), "A-B flips": one("flips")},
        ),
        "Trend over the ordered levels, placebo left out": (
            [row for row in analysis["trend"] if row["p"] is not None],
            {"Tasks": one("n_tasks"), "Rank correlation": one("spearman")},
        ),
        "The lean to a slot that the graded win rates are free of": (
            analysis["graded_leans"],
            {
                "Pairs": one("pairs"),
                "The first of two equal answers would win": one("first_slot_share", 0.01),
                "Lean, log odds": one("lean_log_odds_mean"),
                "± between pairs": one("lean_log_odds_std"),
            },
        ),
        "Spread between repeats of one task and level": (
            [row for row in analysis["variation"] if row["cells"] and row["metric"] != "prompt_tokens"],
            {
                "Cells": one("cells"),
                "Noisy (10 % or more)": one("cells_noisy"),
                "Median std / mean": one("cv_median", 0.01),
                "Largest": one("cv_max", 0.01),
            },
        ),
    }


def level_rows(analysis: Row) -> Iterator[tuple[Row, dict[str, list[float | None]]]]:
    """Model, level and what the first table shows of them."""
    means = {(row["model_id"], row["level"], row["metric"]): row for row in analysis["level_means"]}
    wins = {(row["model_id"], row["level"]): row for row in analysis["win_rates"] if row["against"] == "L0"}
    for model in analysis["models"]:
        for level in analysis["levels"]:
            prompt, answer, latency, energy = (
                means[model["model_id"], level, metric]
                for metric in ("prompt_tokens", "completion_tokens", "latency_ms", "energy_joule")
            )
            won = wins.get((model["model_id"], level), {"win_rate": None, "ci95": None})
            yield (
                {"model_id": model["model_id"], "level": level},
                {
                    "Prompt tokens": [prompt["mean"]],
                    "Answer tokens": [answer["mean"]],
                    "Latency s": one("mean", 1000)(latency),
                    "95 % CI": edges("ci95", 1000)(latency),
                    "Energy J (simulated)": [energy["mean"]],
                    "95 % CI 2": edges("ci95")(energy),
                    "± repeats J": [energy["std_within"]],
                    "Win rate against L0": one("win_rate", 0.01)(won),
                    "95 % CI %": edges("ci95", 0.01)(won),
                },
            )


def numbered(heads: list[str]) -> list[str]:
    """The heads, the second of two equal ones as "HEAD 2"."""
    return [f"{head} 2" if head in heads[:place] else head for place, head in enumerate(heads)]


def made_analysis(count: int) -> Row:
    analysis = with_intervals(json.loads(GOLDEN.read_text()))
    for row in analysis["level_means"]:
        row["p95"] = row["p95"] or 1.7 * (row["p50"] or 0)
    for row in analysis["win_rates"]:
        rate = 0.1 + 0.8 * row["win_rate"]
        row |= {"graded_win_rate": rate, "graded_ci95": [rate - 0.07, rate + 0.08], "graded_reason": None}
    lean = {"model_id": None, "judge_model": "j", "pairs": 12, "first_slot_share": 0.6412}
    analysis["graded_leans"] = [lean | {"lean_log_odds_mean": 0.5812, "lean_log_odds_std": 0.2145}]
    analysis = with_models(analysis, count)
    return analysis | words.in_words(analysis)


@pytest.fixture(scope="module", params=[1, 3, 12])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Tables]:
    """An analysis of so many models, and the tables of its page."""

    def make(folder: Path) -> None:
        (folder / "a.json").write_text(json.dumps(made_analysis(request.param)))
        assert door.main(["--analysis", str(folder / "a.json"), "--out", str(folder / "r.html")]) == 0

    folder = made_once(tmp_path_factory, f"page_of_{request.param}", make)
    page = (folder / "r.html").read_text(encoding="utf-8")
    return json.loads((folder / "a.json").read_text()), Tables(page)


def test_every_figure_of_the_page_is_that_of_the_analysis(case: tuple[Row, Tables]) -> None:
    analysis, page = case
    for caption, (rows, columns) in wanted(analysis).items():
        if not rows:
            assert caption not in page.found
            continue
        heads, cells = page.found[caption]
        assert len(cells) == len(rows), caption
        for place, row in enumerate(rows):
            named = dict(zip(numbered(heads), cells[place], strict=True))
            for head, values in columns.items():
                check(named[head], values(row), f"{caption}, row {place}, {head}")


def test_every_figure_of_the_first_table_is_that_of_the_analysis(case: tuple[Row, Tables]) -> None:
    analysis, page = case
    heads, cells = page.found["Means over tasks, by model and level"]
    expected = list(level_rows(analysis))
    assert len(cells) == len(expected)
    for shown, (identity, values) in zip(cells, expected, strict=True):
        named = dict(zip(numbered(heads), shown, strict=True))
        assert named["Model"] == identity["model_id"] and named["Level"] == identity["level"]
        for head, figures in values.items():
            check(named[head], figures, f"{identity}, {head}")


def test_no_table_of_figures_is_without_its_check(case: tuple[Row, Tables]) -> None:
    """A table that is added must be added above: only those that hold no statistics may be missing."""
    analysis, page = case
    checked = {*wanted(analysis), "Means over tasks, by model and level"}
    other = {caption for caption in page.found if caption not in checked}
    assert other <= {
        "The cheapest level within 0.05 of the best win rate",
        *("Flags of the runs", "Where the numbers were measured", "Files"),
    }


def test_a_figure_that_is_not_the_analysis_s_is_found(case: tuple[Row, Tables]) -> None:
    """The check itself: one digit more or less fails."""
    analysis, _ = case
    mean = next(row["mean"] for row in analysis["level_means"] if row["metric"] == "energy_joule")
    check(f"{mean:.2f}", [mean], "")
    with pytest.raises(AssertionError):
        check(f"{mean + 0.01:.2f}", [mean], "")
    with pytest.raises(AssertionError):
        check("–", [mean], "")


def test_every_figure_of_the_split_in_the_text_is_that_of_the_analysis(case: tuple[Row, Tables]) -> None:
    analysis, _ = case
    lines = terminal.split_table(analysis)[2:]
    parts = [row for row in analysis["cost_parts"] if row["metric"] == "energy_joule"]
    for line, row in zip(lines, parts, strict=False):
        if line.startswith("  and "):
            break
        amounts = [row[name] for name in ("extra", "prompt_part", "answer_part")]
        amounts += [] if row["prompt_share"] is None else [100 * row["prompt_share"]]
        figures = re.findall(FIGURE, line.replace("-", "−").rsplit(f" {row['level']} ", 1)[1])
        assert len(figures) == len(amounts), line
        assert all(at(figure, value) for figure, value in zip(figures, amounts, strict=True)), line
