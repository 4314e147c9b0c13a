"""The tables of an analysis as columns of text: what the page shows and --tables writes as Markdown.

A column has one number of decimals, found from the uncertainties of its figures; the interval beside it has
the same. A dash was not measured or cannot be computed, and the row's remark says why. J, s, tokens, mJ or ms
per token, win rates in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.reporting.cases import Row, case_name, is_simulated
from edgebench.reporting.caveats import METRICS
from edgebench.shell.decimals import at_places, column_places, edges_at, half_of
from edgebench.shell.text import DASH, p_value, percent

ROWS_SHOWN = 60  # of the runs left out
FINGERPRINT = 16  # characters of a SHA-256
Edges = Sequence[float] | None

LEVELS, SPLIT, JUDGE = "Levels", "Prompt or answer", "The judge"
VALUE, DATA, SOURCES = "Quality and cost", "How good the data are", "Method and sources"


@dataclass(frozen=True)
class Column:
    """A head and one cell a row; words stand left, figures right."""

    head: str
    cells: list[str]
    is_words: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of equal length under a caption, in a section of the page; `note` says how to read them."""

    section: str
    caption: str
    columns: list[Column]
    note: str = ""

    @property
    def heads(self) -> list[str]:
        """The columns' heads."""
        return [column.head for column in self.columns]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))


# --- columns ---


def document(text: str) -> str:
    """A figure for a document: a real minus sign, and a dash for what is missing."""
    return DASH if text == "-" else text.replace("-", "−")


def words(head: str, values: Iterable[Any]) -> Column:
    """A column of names; nothing is an empty cell."""
    return Column(head, ["" if value is None else str(value) for value in values], is_words=True)


def names(head: str, values: Iterable[Any]) -> Column:
    """A column of facts; a fact nobody knows is a dash."""
    return Column(head, [DASH if value is None or value == "" else str(value) for value in values], True)


def counts(head: str, values: Iterable[Any]) -> Column:
    """A column of whole numbers, or of texts made of them."""
    return Column(head, [DASH if value is None else document(str(value)) for value in values])


def scaled(value: float | None, scale: float) -> float | None:
    """The value in another unit, or still missing."""
    return None if value is None else value / scale


def scaled_edges(ci95: Edges, scale: float) -> Edges:
    """The interval in another unit."""
    return None if ci95 is None else [edge / scale for edge in ci95]


def figures(
    head: str,
    values: Iterable[float | None],
    halves: Iterable[float | None] = (),
    sign: bool = False,
    scale: float = 1.0,
) -> Column:
    """Figures with the same decimals; `halves`: their uncertainties, in the same unit."""
    column = [scaled(value, scale) for value in values]
    places = column_places(column, [scaled(half, scale) for half in halves])
    return Column(head, [document(at_places(value, places, sign)) for value in column])


def estimates(
    head: str,
    values: Iterable[float | None],
    intervals: Iterable[Edges],
    sign: bool = False,
    scale: float = 1,
) -> list[Column]:
    """Figures and, in the next column, their 95 % intervals with the same decimals."""
    column = [scaled(value, scale) for value in values]
    edges = [scaled_edges(ci95, scale) for ci95 in intervals]
    places = column_places(column, map(half_of, edges))
    return [
        Column(head, [document(at_places(value, places, sign)) for value in column]),
        Column("95 % CI", [document(edges_at(ci95, places, sign)) for ci95 in edges]),
    ]


def percents(head: str, shares: Iterable[float | None]) -> Column:
    """Shares in whole percent."""
    return Column(head, [document(percent(share, DASH)) for share in shares])


def percent_intervals(head: str, intervals: Iterable[Edges]) -> Column:
    """Intervals of shares in whole percent."""
    return Column(head, [document(edges_at(scaled_edges(ci95, 0.01), 0)) for ci95 in intervals])


def p_values(head: str, values: Iterable[float | None]) -> Column:
    """p as people print it."""
    return Column(head, [p_value(value, DASH) for value in values])


def remarks(rows: Iterable[str | None]) -> list[Column]:
    """A column of reasons, or none where no row has any."""
    column = words("Remark", rows)
    return [column] if any(column.cells) else []


def of(rows: Iterable[Row], name: str) -> list[Any]:
    """One field of every row; nothing where a row does not have it."""
    return [row.get(name) for row in rows]


def table(section: str, caption: str, columns: Sequence[Column], note: str = "") -> list[Table]:
    """One table, or none without rows."""
    return [Table(section, caption, list(columns), note)] if columns and columns[0].cells else []


def model_column(analysis: Row, rows: Iterable[Row]) -> Column:
    """The model of each row."""
    return words("Model", (case_name(analysis, row) for row in rows))


def simulated(analysis: Row) -> str:
    """What a head adds where watts were not measured."""
    return " (simulated)" if is_simulated(analysis) else ""


# --- levels ---


def level_tables(analysis: Row) -> list[Table]:
    """Tokens, latency, energy and win rate by model and level."""
    base = analysis["settings"]["baseline"]
    nothing: Row = dict.fromkeys(("mean", "ci95", "std_within", "reason"))
    found: dict[tuple[Any, ...], Row] = {
        (row["board"], row["model_id"], row["level"], row["metric"]): row for row in analysis["level_means"]
    }
    cases = [
        {"board": model["board"], "model_id": model["model_id"], "level": level}
        for model in analysis["models"]
        for level in analysis["levels"]
    ]

    def metric_of(row: Row, metric: str) -> Row:
        return found.get((row["board"], row["model_id"], row["level"], metric), nothing)

    metrics = ("prompt_tokens", "completion_tokens", "latency_ms", "energy_joule")
    cases = [row for row in cases if any(metric_of(row, name)["mean"] is not None for name in metrics)]
    prompt, answer, latency, energy = ([metric_of(row, name) for row in cases] for name in metrics)
    judged = wins_by_judge(analysis, base, cases)
    has_repeats = any(row["std_within"] is not None for row in energy)
    spread = figures("± repeats J", of(energy, "std_within"))
    columns = [
        model_column(analysis, cases),
        words("Level", of(cases, "level")),
        figures("Prompt tokens", of(prompt, "mean")),
        figures("Answer tokens", of(answer, "mean")),
        *estimates("Latency s", of(latency, "mean"), of(latency, "ci95"), scale=1000),
        *estimates(f"Energy J{simulated(analysis)}", of(energy, "mean"), of(energy, "ci95")),
        *([spread] if has_repeats else []),
        *(
            column
            for judge, wins in judged.items()
            for column in (
                percents(f"Win rate against {base}{judge}", of(wins, "win_rate")),
                percent_intervals("95 % CI %", of(wins, "ci95")),
            )
        ),
        *remarks(
            without_doubles(reasons)
            for reasons in zip(*map(missing, (latency, energy, *judged.values())), strict=True)
        ),
    ]
    note = "Means over tasks, after repeats were averaged."
    if has_repeats:
        note += " ± repeats: standard deviation between repeats of one task."
    return table(LEVELS, "Means over tasks, by model and level", columns, note)


def wins_by_judge(analysis: Row, base: str, cases: Sequence[Row]) -> dict[str, list[Row]]:
    """The win rates of the cases, judge by judge: of several judges none stands for the others.

    By what a column's head says of the judge: nothing where there is one.
    """
    rates = [row for row in analysis["win_rates"] if row["against"] == base]
    judges = list(dict.fromkeys(row.get("judge_model") for row in rates)) or [None]
    found = {}
    for judge in judges:
        won = {(row["model_id"], row["level"]): row for row in rates if row.get("judge_model") == judge}
        head = f", by {judge}" if len(judges) > 1 else ""
        found[head] = [won.get((row["model_id"], row["level"]), {}) for row in cases]
    return found


def missing(rows: Iterable[Row]) -> list[str | None]:
    """Why a row has no interval, where it has none."""
    return [row.get("reason") if row and row["ci95"] is None else None for row in rows]


def without_doubles(reasons: Iterable[str | None]) -> str:
    """Different reasons in one cell."""
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


def waiting_tables(analysis: Row) -> list[Table]:
    """Time to first token and time per token: mean, median and 95th percentile over runs, where known."""
    by_metric = {
        metric: [
            row for row in analysis["level_means"] if row["metric"] == metric and row["mean"] is not None
        ]
        for metric in ("ttft_ms", "tpot_ms")
    }
    titles = {
        "ttft_ms": ("Time to first token by model and level", "s", 1000.0),
        "tpot_ms": ("Time per answer token by model and level", "ms", 1.0),
    }
    found = []
    for metric, rows in by_metric.items():
        caption, unit, scale = titles[metric]
        columns = [
            model_column(analysis, rows),
            words("Level", of(rows, "level")),
            counts("Runs", of(rows, "n_runs")),
            *estimates(f"Mean {unit}", of(rows, "mean"), of(rows, "ci95"), scale=scale),
        ]
        for name in ("p50", "p95"):
            if any(row.get(name) is not None for row in rows):
                columns.append(figures(f"{name} {unit}", of(rows, name), map(half_width, rows), scale=scale))
        columns += remarks(of(rows, "p95_reason"))
        note = "p50 and p95: half and 95 % of all runs are not slower; the mean is over tasks."
        has_quantiles = any(column.head.startswith("p50") for column in columns)
        found += table(LEVELS, caption, columns, note if has_quantiles else "")
    return found


def half_width(row: Row) -> float | None:
    """Half of a row's interval."""
    return half_of(row["ci95"])


def paired_tables(analysis: Row) -> list[Table]:
    """Differences within tasks against the baseline, one table per metric."""
    titles = {
        "energy_joule": (f"Energy{simulated(analysis)}, J", 1.0),
        "latency_ms": ("Latency, s", 1000.0),
        "completion_tokens": ("Answer length, tokens", 1.0),
    }
    base, tables = analysis["settings"]["baseline"], []
    for metric, (title, scale) in titles.items():
        every = [row for row in analysis["paired"] if (row["metric"], row["against"]) == (metric, base)]
        rows = [row for row in every if row["mean_difference"] is not None]
        columns = [
            model_column(analysis, rows),
            words("Level", of(rows, "level")),
            counts("Tasks", of(rows, "n_tasks")),
            *estimates("Difference", of(rows, "mean_difference"), of(rows, "ci95"), sign=True, scale=scale),
            *estimates("Change %", of(rows, "percent"), of(rows, "percent_ci95"), sign=True),
            p_values("p", of(rows, "wilcoxon_p")),
            p_values("p, Holm", of(rows, "p_holm")),
            *remarks(without_doubles((row["reason"], row["percent_reason"])) for row in rows),
        ]
        note = ""
        if len(rows) < len(every):
            note = f"Left out: {len(every) - len(rows)} rows of levels without a task in common."
        tables += table(LEVELS, f"{title}: difference to {base} within tasks", columns, note)
    return tables


# --- prompt or answer ---


def split_tables(analysis: Row) -> list[Table]:
    """What a token costs, and the parts of the extra cost."""
    tables = []
    # Per thousand tokens J is mJ a token; a token's ms need no other unit.
    titles = {"energy_joule": (f"energy{simulated(analysis)}, mJ", 0.001), "latency_ms": ("latency, ms", 1.0)}
    for metric, (title, scale) in titles.items():
        rows = [row for row in analysis["cost_split"] if row["metric"] == metric]
        columns = [model_column(analysis, rows)]
        for head, name in (
            ("Per prompt token", "per_prompt_token"),
            ("Per answer token", "per_output_token"),
        ):
            rates = [row["coefficients"][name] for row in rows]
            columns += estimates(head, of(rates, "estimate"), of(rates, "ci95"), scale=scale)
        columns += [figures("R²", of(rows, "r_squared")), *remarks(of(rows, "reason"))]
        tables += table(SPLIT, f"What one token costs: {title}", columns)
    rows = [row for row in analysis["cost_parts"] if row["sentence"]]
    columns = [
        model_column(analysis, rows),
        words("Level", of(rows, "level")),
        words("Cost", (METRICS[row["metric"]] for row in rows)),
        percents("Prompt's share", of(rows, "prompt_share")),
        percent_intervals("95 % CI %", of(rows, "prompt_share_ci95")),
        words("In words", of(rows, "sentence")),
    ]
    return tables + table(SPLIT, "The extra cost in its parts", columns)


# --- the judge ---


def at_equal_length(row: Row) -> str:
    """The length-controlled win rate with its interval; one beyond the data is marked."""
    rate = row["length_controlled_win_rate"]
    if rate is None:
        return "-"
    interval = edges_at(scaled_edges(row["length_controlled_ci95"], 0.01), 0)
    mark = "*" if row["length_extrapolated"] else ""
    return f"{percent(rate)} ({interval}){mark}"


def win_tables(analysis: Row) -> list[Table]:
    """Win rates against the baseline and the placebo, and strengths."""
    base, placebo = analysis["settings"]["baseline"], analysis["settings"]["placebo"]
    rows = [
        row
        for row in analysis["win_rates"]
        if row["against"] == base or (row["against"] == placebo and row["level"] != base)
    ]
    columns = [
        words("Model", of(rows, "model_id")),
        words("Levels", (f"{row['level']} against {row['against']}" for row in rows)),
        words("Judge", of(rows, "judge_model")),
        counts("Won / tied / lost", (f"{row['wins']} / {row['ties']} / {row['losses']}" for row in rows)),
        percents("Win rate", of(rows, "win_rate")),
        percent_intervals("95 % CI %", of(rows, "ci95")),
        p_values("p", of(rows, "sign_p")),
        p_values("p, Holm", of(rows, "p_holm")),
        *graded_columns(rows),
        percents("Both orders averaged", of(rows, "win_rate_averaged")),
        counts("At equal length", map(at_equal_length, rows)),
        *remarks(without_doubles((row["reason"], row.get("graded_reason"))) for row in rows),
    ]
    note = "A tie is half a win. At equal length: * means that equal lengths were never seen."
    if graded_columns(rows):
        note += " Graded: the mean preference by the judge's own probabilities, its lean to a slot taken out."
    return table(JUDGE, "Win rates", columns, note) + lean_tables(analysis) + strength_tables(analysis)


def graded_columns(rows: Sequence[Row]) -> list[Column]:
    """Win rates from verdicts by probability and their intervals, where the judge gave any."""
    rates = of(rows, "graded_win_rate")
    if all(rate is None for rate in rates):
        return []
    return [percents("Graded", rates), percent_intervals("95 % CI %", of(rows, "graded_ci95"))]


def lean_tables(analysis: Row) -> list[Table]:
    """The lean to a slot that graded win rates are free of."""
    rows = [row for row in analysis.get("graded_leans", ()) if row["lean_log_odds_mean"] is not None]
    columns = [
        model_column(analysis, rows),
        words("Judge", of(rows, "judge_model")),
        counts("Pairs", of(rows, "pairs")),
        percents("The first of two equal answers would win", of(rows, "first_slot_share")),
        figures("Lean, log odds", of(rows, "lean_log_odds_mean"), of(rows, "lean_log_odds_std"), sign=True),
        figures("± between pairs", of(rows, "lean_log_odds_std")),
    ]
    return table(JUDGE, "The lean to a slot that the graded win rates are free of", columns)


def strength_tables(analysis: Row) -> list[Table]:
    """Bradley-Terry strengths."""
    rows = analysis["bradley_terry"]
    zero = ", ".join(sorted({row["reference"] for row in rows}))
    columns = [
        words("Model", of(rows, "model_id")),
        words("Level", of(rows, "level")),
        figures("Strength", of(rows, "beta"), of(rows, "se"), sign=True),
        figures("SE", of(rows, "se")),
        figures("Elo", of(rows, "elo")),
        *remarks(of(rows, "reason")),
    ]
    return table(JUDGE, f"Bradley-Terry strength (log-odds; {zero} is 0)", columns)


def judge_tables(analysis: Row) -> list[Table]:
    """How far the judge can be trusted."""
    bias = [row for row in analysis["position_bias"] if row["pairs"]]
    tables = table(
        JUDGE,
        "Does the judge favour a slot? (0.5 is none)",
        [
            model_column(analysis, bias),
            words("Judge", of(bias, "judge_model")),
            counts("Pairs", of(bias, "pairs")),
            percents("Same verdict in both orders", of(bias, "consistency")),
            figures("First-slot score", of(bias, "first_slot_score")),
            counts(
                "First / second both times",
                (f"{row['first_first']} / {row['second_second']}" for row in bias),
            ),
            p_values("p, McNemar", of(bias, "mcnemar_p")),
        ],
    )
    longer = [row for row in analysis["length_effect"] if row["decisive"]]
    tables += table(
        JUDGE,
        "Does the longer answer win?",
        [
            model_column(analysis, longer),
            counts("Decided pairs", of(longer, "decisive")),
            percents("Won by the longer answer", of(longer, "longer_share")),
            percent_intervals("95 % CI %", of(longer, "wilson95")),
            figures("Rank correlation", of(longer, "spearman"), sign=True),
        ],
    )
    noise = [row for row in analysis["judge_noise"] if row["compared"]]
    return tables + table(
        JUDGE,
        "Does the judge repeat itself?",
        [
            words("Judge", of(noise, "judge_model")),
            words("Asked again", (row["kind"].replace("_", " ") for row in noise)),
            counts("Compared", of(noise, "compared")),
            percents("Same verdict", of(noise, "agreement")),
            counts("A-B flips", of(noise, "flips")),
            figures("Cohen's kappa", of(noise, "kappa")),
        ],
    )


# --- quality and cost ---


def value_tables(analysis: Row) -> list[Table]:
    """Quality per cost and the cheapest level that is good enough, a table for each unit of cost."""
    tables = []
    for metric, (unit, scale) in {"energy_joule": ("J", 1.0), "latency_ms": ("s", 1000.0)}.items():
        rows = [
            row for row in analysis["value"] if row["cost_metric"] == metric and row["cost_mean"] is not None
        ]
        named = f"{unit}{simulated(analysis)}" if unit == "J" else unit
        # A share per ms is so many percent per s: 100 times the seconds' scale.
        per = 1 / (100 * scale)
        columns = [
            model_column(analysis, rows),
            words("Level", of(rows, "level")),
            percents("Win rate", of(rows, "quality")),
            figures(f"Cost {named}", of(rows, "cost_mean"), scale=scale),
            figures(f"Win rate % per {named}", of(rows, "quality_per_cost"), scale=per),
            figures(f"Gain % per extra {named}", of(rows, "gain_per_extra_cost"), sign=True, scale=per),
            words("On its model's front", ("yes" if row["on_model_front"] else "" for row in rows)),
            *remarks(of(rows, "reason")),
        ]
        tables += table(VALUE, f"Quality for {METRICS[metric]}", columns)
    rows = analysis["cheapest"]
    findings = [row["statement"] or f"none named: {row['reason']}" for row in rows]
    caption = f"The cheapest level within {analysis['settings']['margin']:g} of the best win rate"
    columns = [
        model_column(analysis, rows),
        words("Judge", of(rows, "judge_model")),
        words("Finding", findings),
    ]
    return tables + table(VALUE, caption, columns)


# --- how good the data are ---


def spread_tables(analysis: Row) -> list[Table]:
    """Trend, drift, spread between repeats."""
    trend = [row for row in analysis["trend"] if row["p"] is not None]
    tables = table(
        DATA,
        "Trend over the ordered levels, placebo left out",
        [
            model_column(analysis, trend),
            words("Metric", (METRICS.get(row["metric"], row["metric"]) for row in trend)),
            counts("Tasks", of(trend, "n_tasks")),
            figures("Rank correlation", of(trend, "spearman"), sign=True),
            p_values("p (Page, increase)", of(trend, "p")),
        ],
    )
    drift = [row for row in analysis["drift"] if row["p"] is not None]
    tables += table(
        DATA,
        "Drift over the campaign, within task and level",
        [
            model_column(analysis, drift),
            words("Metric", (METRICS.get(row["metric"], row["metric"]) for row in drift)),
            *estimates("Change %", of(drift, "change_percent"), of(drift, "change_ci95"), sign=True),
            figures("Over hours", of(drift, "hours")),
            figures("% per hour", of(drift, "slope_percent_per_hour"), map(half_width, drift), sign=True),
            p_values("p", of(drift, "p")),
            words("Notable", ("yes" if row["notable"] else "" for row in drift)),
        ],
    )
    noise = [row for row in analysis["variation"] if row["cells"] and row["metric"] != "prompt_tokens"]
    return tables + table(
        DATA,
        "Spread between repeats of one task and level",
        [
            model_column(analysis, noise),
            words("Metric", (METRICS.get(row["metric"], row["metric"]) for row in noise)),
            counts("Cells", of(noise, "cells")),
            counts("Noisy (10 % or more)", of(noise, "cells_noisy")),
            percents("Median std / mean", of(noise, "cv_median")),
            percents("Largest", of(noise, "cv_max")),
        ],
    )


def flag_tables(analysis: Row) -> list[Table]:
    """Flags and the runs left out."""
    flags, out = analysis["flags"], analysis["left_out"]
    tables = table(
        DATA,
        "Flags of the runs",
        [
            model_column(analysis, flags),
            words("Flag", of(flags, "flag")),
            counts("Runs", of(flags, "runs")),
            words("In the means", ("left out" if row["hard"] else "kept" for row in flags)),
        ],
    )
    shown = out[:ROWS_SHOWN]
    caption = f"Runs left out ({len(out)}{', the first shown' if len(out) > len(shown) else ''})"
    return tables + table(
        DATA,
        caption,
        [
            model_column(analysis, shown),
            words("Level", of(shown, "level")),
            names("Task", of(shown, "id")),
            names("Repeat", of(shown, "repeat")),
            words("Why", of(shown, "why")),
        ],
    )


# --- where it comes from ---


def source_tables(analysis: Row) -> list[Table]:
    """Boards and files."""
    facts = {
        "Board": "board",
        "Model": "model_id",
        "Quantization": "quantization",
        "Power source": "power_source",
        "Scope": "power_scope",
        "Power mode": "power_mode",
    }
    models = analysis["models"]
    columns = [names(head, of(models, name)) for head, name in facts.items()]
    columns += [counts("Runs", of(models, "runs")), counts("Tasks", of(models, "tasks"))]
    files = analysis["inputs"]
    return table(SOURCES, "Where the numbers were measured", columns) + table(
        SOURCES,
        "Files",
        [
            words("File", of(files, "path")),
            words("Kind", of(files, "kind")),
            words("SHA-256, beginning", (row["sha256"][:FINGERPRINT] for row in files)),
        ],
    )


BUILDERS: tuple[Callable[[Row], list[Table]], ...] = (
    level_tables,
    waiting_tables,
    paired_tables,
    split_tables,
    win_tables,
    judge_tables,
    value_tables,
    spread_tables,
    flag_tables,
    source_tables,
)


def tables_of(analysis: Row) -> list[Table]:
    """Every table that has rows."""
    return [one for build in BUILDERS for one in build(analysis)]


def markdown(tables: Iterable[Table]) -> str:
    """Tables under their sections; a bar or line break in a cell cannot break its row."""
    lines: list[str] = []
    section = None
    for content in tables:
        if content.section != section:
            section = content.section
            lines += [f"## {section}", ""]
        align = [":--" if column.is_words else "--:" for column in content.columns]
        grid = [content.heads, align, *content.rows]
        lines += [f"**{content.caption}**", ""]
        lines += [
            "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in row) + " |"
            for row in grid
        ]
        lines += ["", content.note, ""] if content.note else [""]
    return "\n".join(lines)
