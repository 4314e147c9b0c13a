"""A summary of sweeps -> summary.md for people and a plot per grid (PNG).

The tables: each result against its reference (latency, energy; ratio below 1 is
better, with its 95 % interval), the best configuration of each workload, acceptance by workload and by
position, identity of outputs, notes. The plots: latency and energy ratio of every cell, and acceptance by
position. Latency s or ms, energy J above idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import write_whole, writing_whole
from edgebench.shell.text import DASH, markdown_table

COLOURS = {"latency": "#0b62a4", "energy": "#b3470f"}
NO_ENERGY = "no energy above idle known"
POSITION_COLUMNS = ("accept_by_position", "judged_by_position")
Row = Mapping[str, Any]


def shown(value: float | None, form: str = ".4g") -> str:
    """A number for a table; a dash for a missing one."""
    return DASH if value is None else format(value, form)


def interval(row: Row, name: str) -> str:
    """A ratio and its interval.

    >>> interval({"r": 0.5, "r_low": 0.4, "r_high": 0.6}, "r")
    '0.500 [0.400, 0.600]'
    """
    if row.get(name) is None:
        return DASH
    if row.get(f"{name}_low") is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def label(row: Row) -> str:
    """A result's name: its file, and its mode where a file has several."""
    name = str(row["file"]).removesuffix(".json")
    return name if row["role"] else f"{name} ({row['nwor_mode']}, {row['scv_mode']})"


def results_table(rows: Sequence[Row]) -> list[str]:
    """Latency, acceptance and the ratio to the reference."""
    body = [
        (
            label(row) + (" (profiled)" if row["profile_only"] else ""),
            shown(row["latency_avg_s"]),
            shown(row["spec_num_draft_tokens"], "d"),
            shown(row["spec_num_accepted_tokens"], "d"),
            shown(row["spec_acceptance_ratio"], ".3f"),
            interval(row, "latency_ratio"),
        )
        for row in rows
    ]
    header = ("result", "latency_avg_s", "drafted", "accepted", "accept_ratio", "latency ratio [95 %]")
    return markdown_table(header, body)


def energy_table(rows: Sequence[Row]) -> list[str]:
    """Energy of the cells that have it, and why the others have none."""
    having = [row for row in rows if row["energy_joule_per_request"] is not None]
    reasons = sorted({str(row["energy_reason"]) for row in rows if row["energy_reason"]})
    lines = [f"No energy: {reason}.\n" for reason in reasons]
    if not having:
        return lines or ["No energy was measured.\n"]
    body = [
        (
            label(row),
            shown(row["energy_joule_per_request"]),
            shown(row["joule_per_output_token"]),
            interval(row, "energy_ratio"),
            shown(row["emc_load_percent_mean"], ".1f"),
            f"{row['power_source']}{', simulated' if row['power_simulated'] else ''}",
        )
        for row in having
    ]
    header = ("result", "J/request", "J/token", "energy ratio [95 %]", "EMC %", "power")
    return lines + markdown_table(header, body)


def pairs_table(rows: Sequence[Row]) -> list[str]:
    """Each cell against fixed drafts of its length: what the rule or the threshold alone changes."""
    having = [row for row in rows if row["fixed_latency_ratio"] is not None]
    body = [
        (
            label(row),
            interval(row, "fixed_latency_ratio"),
            shown(row["fixed_drafted_ratio"], ".3f"),
            shown(row["stopped_ratio"], ".1%"),
            shown(row["fixed_dram_write_ratio"], ".3f"),
        )
        for row in having
    ]
    header = ("against fixed drafts", "latency [95 %]", "drafted", "stopped", "DRAM writes")
    return markdown_table(header, body) if having else []


def pick(best: Row | None, sure: bool) -> str:
    """A best configuration in words."""
    if best is None:
        return "plain decoding" if sure else "too few requests"
    words = f"{best['role']}, draft {best['draft_tokens']}"
    words += ", prompt lookup" if best.get("drafter_model") == "lookup" else ""
    return words + (f", threshold {best['confidence_threshold']}" if best["confidence_threshold"] else "")


def best_table(best: Sequence[Row]) -> list[str]:
    """The best configuration of each workload."""
    body = [
        (
            f"{row['scenario']}, {row['num_requests']} x {row['max_new_tokens']}, temp {row['temperature']}",
            pick(row["fastest"], row["intervals_known"]),
            shown(row["fastest"] and row["fastest"]["latency_ratio"], ".3f"),
            pick(row["thriftiest"], row["energy_interval_known"]) if row["energy_known"] else NO_ENERGY,
            shown(row["thriftiest"] and row["thriftiest"]["energy_ratio"], ".3f")
            + (" (simulated)" if row["thriftiest"] and row["thriftiest"]["power_simulated"] else ""),
        )
        for row in best
    ]
    return markdown_table(("workload", "fastest", "latency", "least energy", "energy"), body)


def acceptance_table(rows: Sequence[Row]) -> list[str]:
    """Accepted of drafted tokens by workload, and by the place in the draft."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["spec_num_draft_tokens"] and not row["profile_only"]:
            name = f"{row['target_model']}, {row['scenario']}, temp {row['temperature']}"
            name += f", {row['drafter_model']}" if row["drafter_model"] else ""
            groups.setdefault(name, []).append(row)
    body = []
    for name, group in groups.items():
        drafted = sum(row["spec_num_draft_tokens"] for row in group)
        accepted = sum(row["spec_num_accepted_tokens"] for row in group)
        places = " ".join(shown(value, ".2f") for value in by_position(group)[:8])
        body.append((name, f"{drafted}", f"{accepted / drafted:.3f}", places or DASH))
    return markdown_table(("workload, drafter", "drafted", "accept_ratio", "by position 1, 2, …"), body)


def by_position(rows: Sequence[Row]) -> list[float | None]:
    """Acceptance at each place of the draft over all rows, weighted with the drafts judged there."""
    longest = max((len(row["accept_by_position"]) for row in rows), default=0)
    means: list[float | None] = []
    for place in range(longest):
        pairs = []
        for row in rows:
            ratio, judged = ((row.get(n) or [])[place : place + 1] for n in POSITION_COLUMNS)
            if ratio and isinstance(ratio[0], int | float):
                pairs.append((ratio[0], judged[0] if judged and judged[0] is not None else 1))
        total = sum(weight for _, weight in pairs)
        means.append(sum(value * weight for value, weight in pairs) / total if total else None)
    return means


def determinism_lines(rows: Sequence[Row]) -> list[str]:
    """Identity of outputs at temperature 0."""
    compared = [row for row in rows if row["outputs_identical"] is not None and row["role"] != "plain"]
    if not compared:
        return ["No outputs at temperature 0 to compare.\n"]
    body = [
        (
            label(row),
            f"{row['outputs_identical']} of {row['outputs']}",
            shown(row["first_difference_min"], "d"),
            shown(row["repeats_identical"], ".0%"),
        )
        for row in compared
    ]
    header = ("result", "identical to plain", "first difference at token", "repeats itself")
    return markdown_table(header, body)


def markdown(summary: Mapping[str, Any]) -> str:
    """The whole report."""
    lines = ["# Speculative decoding", ""]
    grids: dict[str, list[Row]] = {}
    for row in summary["rows"]:
        grids.setdefault(str(row["grid"]), []).append(row)
    for grid, rows in grids.items():
        lines += [f"## {grid}", "", *results_table(rows), *pairs_table(rows), *energy_table(rows)]
        references = sorted({row["reference"] for row in rows if row["reference"]})
        lines += [f"Ratios are against: {'; '.join(references)}.", ""] if references else []
    if summary["best"]:
        lines += ["## Best configuration by workload", "", *best_table(summary["best"])]
        lines += ["Only what beats plain decoding with its whole interval is named.", ""]
    lines += ["## Acceptance", "", *acceptance_table(summary["rows"])]
    lines += ["## Outputs at temperature 0", "", *determinism_lines(summary["rows"])]
    lines += ["## Notes", "", *(f"- {note}" for note in summary["notes"] or ["none"]), ""]
    return "\n".join(lines)


def plot_grid(grid: str, rows: Sequence[Row], path: Path) -> None:
    """Ratios of every cell with intervals, and acceptance by position, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [row for row in rows if row["latency_ratio"] is not None]
    places = [row for row in rows if row["accept_by_position"]]
    figure = Figure(figsize=(11, max(3.2, 0.3 * len(compared) + 1.4)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for shift, name in ((0.12, "latency"), (-0.12, "energy")):
        for place, row in enumerate(reversed(compared)):
            ratio = row[f"{name}_ratio"]
            if ratio is None:
                continue
            low, high = (row[f"{name}_ratio_{edge}"] or ratio for edge in ("low", "high"))
            errors = [[max(ratio - low, 0.0)], [max(high - ratio, 0.0)]]
            left.errorbar(ratio, place + shift, xerr=errors, fmt="o", color=COLOURS[name], capsize=2)
    left.axvline(1.0, color="#8a939d", linestyle="--")
    left.set_yticks(range(len(compared)), [label(row) for row in reversed(compared)], fontsize=7)
    simulated = ", simulated power" if any(row["power_simulated"] for row in rows) else ""
    weighed = any(row["energy_ratio"] is not None for row in compared)
    energy = f", energy (brown{simulated})" if weighed else "; no energy"
    left.set_xlabel(f"ratio to the reference: latency (blue){energy}")
    left.set_title(grid)
    for row in places:
        values = row["accept_by_position"]
        right.plot(range(1, len(values) + 1), values, marker=".", label=label(row))
    right.set_xlabel("position in the draft")
    right.set_ylabel("accepted")
    right.set_ylim(0, 1.02)
    longest = max((len(row["accept_by_position"]) for row in places), default=0)
    right.set_xlim(0.5, max(2, longest) + 0.5)  # one position alone would get ticks like 0.94, 0.96
    right.xaxis.get_major_locator().set_params(integer=True)
    if places:
        right.legend(fontsize=6)
    with writing_whole(path) as part:
        figure.savefig(part, format="png", dpi=120)


def plot_all(rows: Sequence[Row], outdir: Path) -> None:
    """One plot per grid that has something to compare. Raises UserError without matplotlib."""
    grids: dict[str, list[Row]] = {}
    for row in rows:
        if row["latency_ratio"] is not None or row["accept_by_position"]:
            grids.setdefault(str(row["grid"]), []).append(row)
    try:
        for grid, members in grids.items():
            plot_grid(grid, members, outdir / f"{grid}.png")
    except ImportError as exc:
        raise UserError(f"no plots: {exc}; pip install matplotlib, or --no_plots") from exc


def write_report(summary: Mapping[str, Any], outdir: Path, plots: bool) -> str:
    """summary.md, and the plots if wanted, into a folder; the text. Raises UserError, OSError."""
    text = markdown(summary)
    write_whole(outdir / "summary.md", text)
    if plots:
        plot_all(summary["rows"], outdir)
    return text
