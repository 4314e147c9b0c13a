#!/usr/bin/env python3
"""The tables of an analysis.json, ready to paste into a paper or an issue, as Markdown or JSON.

Levels, differences within tasks, prompt against answer, the judge, quality against cost, how good the data
are, where they come from. Numbers have three significant digits; a dash was not measured or cannot be
computed. J, s, tokens, mJ or ms per token, win rates in percent.

Output: Markdown on stdout, or with --json a list of tables (section, caption, heads, rows of texts,
text_columns). report_page.py shows these tables.

Example:
    python edgebench/__main__.py edgebench.reporting.tables \\
        --analysis results/analysis.json > results/tables.md
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.analysis import read_analysis
from edgebench.shell.text import DASH, fixed, p_value, percent
from edgebench.shell.text import interval as interval_text
from edgebench.shell.text import typeset as num

ROWS_SHOWN = 60  # of the runs left out
Row = Mapping[str, Any]
Table = dict[str, Any]


def between(interval: Sequence[float] | None, scale: float = 1.0, sign: bool = False) -> str:
    """An interval in another unit: each edge times `scale`."""
    return interval_text(interval, lambda edge: num(edge * scale, sign))


pct = partial(percent, dash=DASH)
p_text = partial(p_value, dash=DASH)


def pct_between(interval: Sequence[float] | None) -> str:
    """An interval of shares in percent, without digits that tasks cannot carry."""
    return interval_text(interval, lambda edge: fixed(100 * edge, 0))


def scaled(value: float | None, scale: float) -> float | None:
    """The value in another unit, or still missing."""
    return None if value is None else value / scale


def name_of(analysis: Row, row: Row) -> str:
    """The model, with its board where there are several."""
    several = len({model["board"] for model in analysis["models"]}) > 1
    name = row["model_id"] or "all models"
    return f"{name} on {row['board'] or 'unknown board'}" if several and "board" in row else str(name)


def simulated(analysis: Row) -> str:
    """What to put behind every energy that was not measured."""
    return " (simulated)" if any(model["simulated_power"] for model in analysis["models"]) else ""


def table(
    section: str, caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], texts: Sequence[int] = ()
) -> list[Table]:
    """One table, or none without rows; texts: columns that hold words."""
    cells = [[str(value) for value in row] for row in rows]
    content = {"section": section, "caption": caption, "heads": list(heads), "rows": cells}
    return [content | {"text_columns": [0, *texts]}] if cells else []


# --- sections ---


def level_tables(analysis: Row) -> list[Table]:
    """Tokens, latency, energy and win rate by model and level."""
    base, rows = analysis["settings"]["baseline"], []
    means = {
        (row["board"], row["model_id"], row["level"], row["metric"]): row for row in analysis["level_means"]
    }
    wins = {(row["model_id"], row["level"]): row for row in analysis["win_rates"] if row["against"] == base}
    nothing = dict.fromkeys(("mean", "ci95", "std_within", "win_rate"))
    for model in analysis["models"]:
        for level in analysis["levels"]:
            names = ("prompt_tokens", "completion_tokens", "latency_ms", "energy_joule")
            own = [means.get((model["board"], model["model_id"], level, name), nothing) for name in names]
            if all(row["mean"] is None for row in own):
                continue
            latency, energy = own[2:]
            win = wins.get((model["model_id"], level), nothing)
            cells = [name_of(analysis, model), level, num(own[0]["mean"]), num(own[1]["mean"])]
            cells += [
                num(scaled(latency["mean"], 1000)),
                between(latency["ci95"], 0.001),
                num(energy["mean"]),
            ]
            cells += [between(energy["ci95"]), num(energy["std_within"])]
            rows.append([*cells, pct(win["win_rate"]), pct_between(win["ci95"])])
    heads = [
        "Model",
        "Level",
        "Prompt tokens",
        "Answer tokens",
        "Latency s",
        "95 % CI",
        f"Energy J{simulated(analysis)}",
        "95 % CI",
    ]
    heads += ["± repeats J", f"Win rate against {base}", "95 % CI %"]
    return table("Levels", "Means over tasks, by model and level", heads, rows)


def paired_tables(analysis: Row) -> list[Table]:
    """Differences within tasks against the baseline, one table per metric."""
    titles = {"energy_joule": (f"Energy{simulated(analysis)}, J", 1), "latency_ms": ("Latency, s", 1000)}
    titles["completion_tokens"] = ("Answer length, tokens", 1)
    base, tables = analysis["settings"]["baseline"], []
    heads = ["Model", "Level", "Tasks", "Difference", "95 % CI", "Change %", "p", "p, Holm"]
    for metric, (title, scale) in titles.items():
        rows = []
        for row in analysis["paired"]:
            if row["metric"] == metric and row["against"] == base and row["mean_difference"] is not None:
                cells = [name_of(analysis, row), row["level"], row["n_tasks"]]
                cells += [
                    num(row["mean_difference"] / scale, sign=True),
                    between(row["ci95"], 1 / scale, sign=True),
                ]
                cells += [
                    num(row["percent"], sign=True),
                    p_text(row["wilcoxon_p"]),
                    p_text(row["p_holm"]),
                ]
                rows.append(cells)
        tables += table("Levels", f"{title}: difference to {base} within tasks", heads, rows)
    return tables


def split_tables(analysis: Row) -> list[Table]:
    """What a token costs, and the parts of the extra cost."""
    rates = []
    for row in analysis["cost_split"]:
        # Per thousand tokens J is mJ a token; a token's ms need no other unit.
        scale, cost = (
            (0.001, f"energy{simulated(analysis)}, mJ") if row["unit"] == "J" else (1, "latency, ms")
        )
        cells = [name_of(analysis, row), cost]
        for name in ("per_prompt_token", "per_output_token"):
            rate = row["coefficients"][name]
            cells += [num(scaled(rate["estimate"], scale)), between(rate["ci95"], 1 / scale)]
        rates.append([*cells, num(row["r_squared"]), row["reason"] or ""])
    heads = ["Model", "Cost", "Per prompt token", "95 % CI", "Per answer token", "95 % CI", "R²", "Remark"]
    parts = [
        [
            name_of(analysis, row),
            row["level"],
            "energy" if row["unit"] == "J" else "latency",
            pct(row["prompt_share"]),
            pct_between(row["prompt_share_ci95"]),
            row["sentence"],
        ]
        for row in analysis["cost_parts"]
        if row["sentence"]
    ]
    title, names = "Prompt or answer", ["Model", "Level", "Cost", "Prompt's share", "95 % CI %", "In words"]
    words = table(title, "The extra cost in its parts", names, parts, [2, 5])
    return table(title, "What one token costs", heads, rates, [1, 7]) + words


def at_equal_length(row: Row) -> str:
    """The length-controlled win rate with its interval; one beyond the data is marked."""
    rate = row["length_controlled_win_rate"]
    if rate is None:
        return DASH
    mark = "*" if row["length_extrapolated"] else ""
    return f"{pct(rate)} ({pct_between(row['length_controlled_ci95'])}){mark}"


def win_tables(analysis: Row) -> list[Table]:
    """Win rates against the baseline and the placebo, and strengths."""
    base, placebo, wins = analysis["settings"]["baseline"], analysis["settings"]["placebo"], []
    for row in analysis["win_rates"]:
        if row["against"] == base or (row["against"] == placebo and row["level"] != base):
            cells = [row["model_id"], f"{row['level']} against {row['against']}", row["judge_model"]]
            cells += [f"{row['wins']} / {row['ties']} / {row['losses']}", pct(row["win_rate"])]
            cells += [pct_between(row["ci95"]), p_text(row["sign_p"]), p_text(row["p_holm"])]
            wins.append([*cells, pct(row["win_rate_averaged"]), at_equal_length(row)])
    heads = ["Model", "Levels", "Judge", "Won / tied / lost", "Win rate", "95 % CI %", "p", "p, Holm"]
    heads += ["Both orders averaged", "At equal length (* never seen)"]
    strengths = [
        [
            row["model_id"],
            row["level"],
            num(row["beta"], sign=True),
            num(row["se"]),
            num(row["elo"]),
            row["reason"] or "",
        ]
        for row in analysis["bradley_terry"]
    ]
    zero = ", ".join(sorted({row["reference"] for row in analysis["bradley_terry"]}))
    title, names = (
        f"Bradley-Terry strength (log-odds; {zero} is 0)",
        ["Model", "Level", "Strength", "SE", "Elo"],
    )
    tables = table("The judge", "Win rates", heads, wins, [1, 2])
    return tables + table("The judge", title, [*names, "Remark"], strengths, [5])


def judge_tables(analysis: Row) -> list[Table]:
    """How far the judge can be trusted."""
    bias = [
        [
            name_of(analysis, row),
            row["judge_model"],
            row["pairs"],
            pct(row["consistency"]),
            num(row["first_slot_score"]),
            f"{row['first_first']} / {row['second_second']}",
            p_text(row["mcnemar_p"]),
        ]
        for row in analysis["position_bias"]
        if row["pairs"]
    ]
    heads = ["Model", "Judge", "Pairs", "Same verdict in both orders", "First-slot score"]
    heads += ["First / second both times", "p, McNemar"]
    tables = table("The judge", "Does the judge favour a slot? (0.5 is none)", heads, bias, [1])
    longer = [
        [
            name_of(analysis, row),
            row["decisive"],
            pct(row["longer_share"]),
            pct_between(row["wilson95"]),
            num(row["spearman"], sign=True),
        ]
        for row in analysis["length_effect"]
        if row["decisive"]
    ]
    heads = ["Model", "Decided pairs", "Won by the longer answer", "95 % CI %", "Rank correlation"]
    tables += table("The judge", "Does the longer answer win?", heads, longer)
    noise = [
        [
            row["judge_model"],
            row["kind"].replace("_", " "),
            row["compared"],
            pct(row["agreement"]),
            row["flips"],
            num(row["kappa"]),
        ]
        for row in analysis["judge_noise"]
        if row["compared"]
    ]
    heads = ["Judge", "Asked again", "Compared", "Same verdict", "A-B flips", "Cohen's kappa"]
    return tables + table("The judge", "Does the judge repeat itself?", heads, noise, [1])


def value_tables(analysis: Row) -> list[Table]:
    """Quality per cost and the cheapest level that is good enough."""
    rows = []
    for row in analysis["value"]:
        if row["cost_mean"] is not None:
            scale = 1000 if row["cost_unit"] == "ms" else 1
            cells = [
                name_of(analysis, row),
                row["level"],
                pct(row["quality"]),
                num(row["cost_mean"] / scale),
            ]
            for ratio in (row["quality_per_cost"], row["gain_per_extra_cost"]):
                cells.append(
                    num(
                        None if ratio is None else 100 * ratio * scale,
                        sign=ratio is not row["quality_per_cost"],
                    )
                )
            rows.append([*cells, "yes" if row["on_model_front"] else ""])
    unit = f"J{simulated(analysis)}" if any(row["cost_unit"] == "J" for row in analysis["value"]) else "s"
    heads = [
        "Model",
        "Level",
        "Win rate",
        f"Cost {unit}",
        f"Win rate % per {unit}",
        f"Gain % per extra {unit}",
    ]
    cheap = [[name_of(analysis, row), row["statement"]] for row in analysis["cheapest"] if row["statement"]]
    title = f"The cheapest level within {analysis['settings']['margin']:g} of the best win rate"
    tables = table("Quality and cost", "Quality for the money", [*heads, "On its model's front"], rows)
    return tables + table("Quality and cost", title, ["Model", "Finding"], cheap, [1])


def spread_tables(analysis: Row) -> list[Table]:
    """Trend, drift, spread between repeats."""
    section = "How good the data are"
    trend = [
        [
            name_of(analysis, row),
            row["metric"],
            row["n_tasks"],
            num(row["spearman"], sign=True),
            p_text(row["p"]),
        ]
        for row in analysis["trend"]
        if row["p"] is not None
    ]
    heads = ["Model", "Metric", "Tasks", "Rank correlation", "p (Page, increase)"]
    tables = table(section, "Trend over the ordered levels, placebo left out", heads, trend, [1])
    drift = [
        [
            name_of(analysis, row),
            row["metric"],
            num(row["slope_percent_per_hour"], sign=True),
            between(row["ci95"], sign=True),
            p_text(row["p"]),
        ]
        for row in analysis["drift"]
        if row["p"] is not None
    ]
    heads = ["Model", "Metric", "% per hour", "95 % CI", "p"]
    tables += table(section, "Drift over the campaign, within task and level", heads, drift, [1])
    noise = [
        [
            name_of(analysis, row),
            row["metric"],
            row["cells"],
            row["cells_noisy"],
            pct(row["cv_median"]),
            pct(row["cv_max"]),
        ]
        for row in analysis["variation"]
        if row["cells"] and row["metric"] != "prompt_tokens"
    ]
    heads = ["Model", "Metric", "Cells", "Noisy (10 % or more)", "Median std / mean", "Largest"]
    return tables + table(section, "Spread between repeats of one task and level", heads, noise, [1])


def source_tables(analysis: Row) -> list[Table]:
    """Flags, runs left out, boards and files."""
    section = "How good the data are"
    flags = [
        [name_of(analysis, row), row["flag"], row["runs"], "left out" if row["hard"] else "kept"]
        for row in analysis["flags"]
    ]
    tables = table(section, "Flags of the runs", ["Model", "Flag", "Runs", "In the means"], flags, [1])
    out = [
        [name_of(analysis, row), row["level"], row["id"], row["repeat"] or DASH, row["why"]]
        for row in analysis["left_out"]
    ]
    title = f"Runs left out ({len(out)}{', the first shown' if len(out) > ROWS_SHOWN else ''})"
    tables += table(section, title, ["Model", "Level", "Task", "Repeat", "Why"], out[:ROWS_SHOWN], [4])
    names = (
        "board",
        "model_id",
        "quantization",
        "power_source",
        "power_scope",
        "power_mode",
        "runs",
        "tasks",
    )
    models = [
        [model[name] if model[name] is not None else DASH for name in names] for model in analysis["models"]
    ]
    heads = ["Board", "Model", "Quantization", "Power source", "Scope", "Power mode", "Runs", "Tasks"]
    tables += table("Method and sources", "Where the numbers were measured", heads, models, [1, 2, 3, 4, 5])
    files = [[row["path"], row["kind"], row["sha256"][:16]] for row in analysis["inputs"]]
    return tables + table(
        "Method and sources", "Files", ["File", "Kind", "SHA-256, beginning"], files, [1, 2]
    )


SECTIONS = (level_tables, paired_tables, split_tables, win_tables, judge_tables, value_tables, spread_tables)


def tables_of(analysis: Row) -> list[Table]:
    """Every table that has rows."""
    return [one for build in (*SECTIONS, source_tables) for one in build(analysis)]


def markdown(tables: Iterable[Table]) -> str:
    """Tables under their sections; a bar or line break in a cell cannot break its row."""
    lines, section = [], None
    for content in tables:
        if content["section"] != section:
            section = content["section"]
            lines += [f"## {section}", ""]
        align = [
            ":--" if place in content["text_columns"] else "--:" for place in range(len(content["heads"]))
        ]
        grid = [content["heads"], align, *content["rows"]]
        lines += [f"**{content['caption']}**", ""]
        lines += [
            "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in row) + " |"
            for row in grid
        ]
        lines.append("")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--analysis", type=Path, required=True, help="analysis.json of analyze_levels.py")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        tables = tables_of(read_analysis(args.analysis))
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    text = json.dumps(tables) if args.json else markdown(tables)
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
