"""A summary of sweeps -> summary.md for people.

What the document asks for first; then each folder's results against their references; acceptance by workload
within one treatment; the best configuration of each workload; identity of outputs; notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgebench.errors import UserError
from edgebench.records.account import grouped
from edgebench.records.jsonl import write_whole
from edgebench.shell.text import DASH, counted, markdown_table
from edgebench.speculation.comparing import Compared
from edgebench.speculation.findings import (
    Acceptance,
    Best,
    Finding,
    Recommendation,
    configuration_of,
    dram_saved_percent,
    has_threshold,
    latency_of,
    latency_overhead,
    stopped_percent,
    surely_less,
    workload_words,
)
from edgebench.speculation.results import Result
from edgebench.speculation.summary import Summary
from edgebench.stats.intervals import FEWEST
from edgebench.stats.ratios import Ratio

NO_ENERGY = "no energy above idle known"
POSITIONS_SHOWN = 8


# --- Numbers ---


def shown(value: float | None, form: str = ".4g") -> str:
    """A number for a table; a dash for a missing one."""
    return DASH if value is None else format(value, form)


def interval(ratio: Ratio | None) -> str:
    """A ratio and its interval.

    >>> interval(Ratio(0.5, 0.4, 0.6, 9))
    '0.500 [0.400, 0.600]'
    """
    if ratio is None or ratio.value is None:
        return DASH
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def figure(finding: Finding) -> str:
    """A finding's value with its unit and its interval.

    >>> figure(Finding("x", "t", "", "%", 12.34, 10.0, 14.7))
    '12.3 % [10.0, 14.7]'
    """
    if finding.value is None:
        return DASH
    form = {"r": "+.2f", "byte": ".4g"}.get(finding.unit, ".1f")
    unit = "" if finding.unit == "r" else f" {finding.unit}"
    if finding.low is None or finding.high is None:
        return f"{finding.value:{form}}{unit}"
    return f"{finding.value:{form}}{unit} [{finding.low:{form}}, {finding.high:{form}}]"


# --- What the document asks for ---


def findings_lines(found: Sequence[Finding]) -> list[str]:
    """Every figure by its name, one table for each."""
    lines = []
    for name, members in grouped(found, lambda one: (one.name, one.reference)).items():
        against = f", against {name[1]}" if name[1] else ""
        body = [(one.treatment, figure(one), f"{one.workloads}", one.note or DASH) for one in members]
        lines += [f"### {name[0]}{against}", ""]
        if all(one.value is None for one in members):
            told = dict.fromkeys(reason for one in members for reason in one.reasons)
            lines += [f"Not known for any of {counted(len(members), 'treatment')}: {'; '.join(told)}.", ""]
            continue
        lines += markdown_table(("treatment", "average [95 %]", "workloads", "not in it, or of what"), body)
    return lines


def bandwidth_table(compared: Sequence[Compared]) -> list[str]:
    """What a threshold saves in writes to memory and what it costs in time, cell by cell."""
    having = [one for one in compared if has_threshold(one)]
    if not having:
        return []
    body = [
        (
            one.result.name,
            shown(stopped_percent(one), ".1f"),
            shown(dram_saved_percent(one), ".1f"),
            shown(latency_overhead(one), "+.1f"),
        )
        for one in having
    ]
    header = ("early exit", "tokens stopped %", "bandwidth saved %", "latency overhead %")
    reasons = dict.fromkeys(one.result["ncu_reason"] for one in having if one.result["ncu_reason"])
    lines = ["### Bandwidth savings vs latency tradeoff", "", *markdown_table(header, body)]
    return lines + [f"No counters: {reason}.\n" for reason in reasons]


# --- The results of a folder ---


def results_table(compared: Sequence[Compared]) -> list[str]:
    """Latency, acceptance and the ratio to the reference."""
    body = [
        (
            one.result.name + (" (profiled)" if one.result.profiled else ""),
            shown(one.result["latency_avg_s"]),
            shown(one.result["spec_num_draft_tokens"], "d"),
            shown(one.result["spec_num_accepted_tokens"], "d"),
            shown(one.result["spec_acceptance_ratio"], ".3f"),
            interval(latency_of(one.main)),
            DASH if one.main is None else f"{one.main.latency.units} {one.main.unit}, {one.main.used}",
        )
        for one in compared
    ]
    header = ("result", "latency_avg_s", "drafted", "accepted", "accept_ratio", "latency ratio [95 %]", "of")
    return markdown_table(header, body)


def left_out_lines(compared: Sequence[Compared]) -> list[str]:
    """Which requests a ratio could not use, and why."""
    found = {one.result.name: one.main.left_out for one in compared if one.main and one.main.left_out}
    lines = [f"Left out of {name}: {reasons}.\n" for name, reasons in found.items()]
    missing = dict.fromkeys(
        one.main.latency.reason for one in compared if one.main and one.main.latency.reason
    )
    return lines + [f"No interval: {reason}.\n" for reason in missing]


def energy_table(compared: Sequence[Compared]) -> list[str]:
    """Energy of the cells that have it, and why the others have none."""
    having = [one for one in compared if one.result["energy_joule_per_request"] is not None]
    reasons = sorted({str(one.result["energy_reason"]) for one in compared if one.result["energy_reason"]})
    lines = [f"No energy: {reason}.\n" for reason in reasons]
    if not having:
        return lines or ["No energy was measured.\n"]
    body = [
        (
            one.result.name,
            shown(one.result["energy_joule_per_request"]),
            shown(one.result["joule_per_output_token"]),
            interval(one.energy),
            shown(one.result["emc_load_percent_mean"], ".1f"),
            power_words(one.result),
        )
        for one in having
    ]
    header = ("result", "J/request", "J/token", "energy ratio [95 %]", "EMC %", "power")
    return lines + markdown_table(header, body)


def power_words(result: Result) -> str:
    """Where the watts come from; made-up ones are always called so."""
    source = str(result["power_source"])
    return source if "simulated" in source or not result["power_simulated"] else f"{source}, simulated"


def pairs_table(compared: Sequence[Compared]) -> list[str]:
    """Each cell against fixed drafts of its length: what the rule or the threshold alone changes."""
    having = [one for one in compared if one.result.is_ours and one.fixed is not None]
    body = [
        (
            one.result.name,
            interval(latency_of(one.fixed)),
            shown(one.drafted_ratio, ".3f"),
            interval(one.fixed.throughput if one.fixed else None),
        )
        for one in having
    ]
    header = ("against fixed drafts", "latency [95 %]", "drafted", "tokens/s [95 %]")
    return markdown_table(header, body) if having else []


def folder_lines(name: str, compared: Sequence[Compared]) -> list[str]:
    """One folder of results."""
    lines = [f"## {name}", "", *results_table(compared), *left_out_lines(compared)]
    lines += [*pairs_table(compared), *energy_table(compared)]
    references = sorted({one.main.reference for one in compared if one.main})
    return lines + ([f"Ratios are against: {'; '.join(references)}.", ""] if references else [])


# --- Over all ---


def acceptance_table(found: Sequence[Acceptance]) -> list[str]:
    """Accepted of drafted tokens by workload within one treatment, and by the place in the draft."""
    body = [
        (
            one.workload,
            one.treatment,
            f"{one.drafted}",
            f"{one.ratio:.3f}",
            " ".join(shown(value, ".2f") for value in one.by_position[:POSITIONS_SHOWN]) or DASH,
        )
        for one in found
    ]
    return markdown_table(("workload", "treatment", "drafted", "accept_ratio", "by position 1, 2, …"), body)


def pick(best: Compared | None, interval_known: bool) -> str:
    """A best configuration in words."""
    if best is None:
        return "plain decoding" if interval_known else "too few prompts"
    return configuration_of(best.result)


def fastest_words(best: Best) -> str:
    """The fastest, or that several beat plain decoding and cannot be told from one another."""
    if best.fastest is None or not best.not_told_from:
        return pick(best.fastest, best.intervals_known)
    alike = [best.fastest.result, *best.not_told_from]
    return f"none can be told from another: {'; '.join(map(configuration_of, alike))}"


def best_table(found: Sequence[Best]) -> list[str]:
    """The best configuration of each workload."""
    body = []
    for best in found:
        fast, thrifty = best.fastest, best.thriftiest
        simulated = " (simulated)" if thrifty and thrifty.result["power_simulated"] else ""
        body.append(
            (
                workload_words(best.workload),
                fastest_words(best),
                interval(fast.plain.latency if fast and fast.plain else None),
                pick(thrifty, best.energy_interval_known) if best.energy_known else NO_ENERGY,
                interval(thrifty.energy if thrifty else None) + simulated,
            )
        )
    return markdown_table(("workload", "fastest", "latency", "least energy", "energy"), body)


def recommendation_lines(found: Sequence[Recommendation]) -> list[str]:
    """The treatments over all workloads, which the report's first sentence is about."""
    if not found:
        return []
    body = [(one.treatment, interval(one.latency), f"{one.latency.units}") for one in found]
    return markdown_table(("over all workloads", "latency / plain [95 %]", "workloads"), body)


def headline(summary: Summary) -> str:
    """What is to be done, in one sentence."""
    if len(summary.best) > 1:
        return recommendation(summary.recommendations)
    (best,) = summary.best
    if best.fastest is None:
        return "Nothing surely beats plain decoding." if best.intervals_known else "Too few prompts to tell."
    return f"Faster than plain decoding: {fastest_words(best)}."


def recommendation(found: Sequence[Recommendation]) -> str:
    """The configuration for all workloads, or that there is none, in one sentence."""
    known = [one for one in found if one.latency.low is not None and one.latency.high is not None]
    if not known:
        return "Too few workloads to recommend one configuration for all."
    sure = [one for one in known if surely_less(one.latency)]
    if not sure:
        open_ones = [one.treatment for one in known if one.latency.low is not None and one.latency.low < 1]
        if not open_ones:
            return "Over all workloads plain decoding is the fastest: every treatment takes longer."
        names = "; ".join(open_ones)
        return f"Over all workloads nothing surely beats plain decoding; not told from it: {names}."
    high = sure[0].latency.high or 0.0
    alike = [one for one in sure[1:] if (one.latency.low or 0.0) <= high]
    if not alike:
        return f"Over all workloads the fastest is: {sure[0].treatment}."
    names = "; ".join(one.treatment for one in [sure[0], *alike])
    return f"None can be told from another over all workloads: {names}; all beat plain decoding."


def determinism_lines(compared: Sequence[Compared]) -> list[str]:
    """Identity of outputs at temperature 0."""
    having = [
        one.result
        for one in compared
        if one.result["outputs_identical"] is not None and not one.result.is_plain
    ]
    if not having:
        return ["No outputs at temperature 0 to compare.\n"]
    body = [
        (
            result.name,
            f"{result['outputs_identical']} of {result['outputs']}",
            shown(result["first_difference_min"], "d"),
            shown(result["repeats_identical"], ".0%"),
        )
        for result in having
    ]
    header = ("result", "identical to plain", "first difference at token", "repeats itself")
    return markdown_table(header, body)


def markdown(summary: Summary) -> str:
    """The whole report."""
    lines = ["# Speculative decoding", ""]
    if summary.best:
        lines += [headline(summary), ""]
    if summary.findings:
        lines += ["## What the sweep was made for", "", *findings_lines(summary.findings)]
        lines += bandwidth_table(summary.compared)
        lines += [
            f"Averages count every workload once; their intervals are over workloads, from {FEWEST} on.",
            "",
        ]
    if summary.best:
        lines += ["## Best configuration by workload", "", *best_table(summary.best)]
        lines += [
            "Only what beats plain decoding with its whole interval is named.",
            "",
            *recommendation_lines(summary.recommendations),
        ]
    for members in grouped(summary.compared, lambda one: one.result.path.parent).values():
        lines += folder_lines(str(members[0].result["grid"]), members)
    lines += ["## Acceptance by workload", "", *acceptance_table(summary.acceptance)]
    lines += ["## Outputs at temperature 0", "", *determinism_lines(summary.compared)]
    lines += ["## Notes", "", *(f"- {note}" for note in summary.notes or ["none"]), ""]
    return "\n".join(lines)


def write_report(summary: Summary, outdir: Path, plots: bool) -> str:
    """summary.md, and the plots if wanted, into a folder; the text. Raises UserError, OSError."""
    text = markdown(summary)
    write_whole(outdir / "summary.md", text)
    if plots:
        try:
            from edgebench.speculation.plots import plot_folders
        except ImportError as exc:
            raise UserError(f"no plots: {exc}; pip install matplotlib, or --no_plots") from exc
        plot_folders(summary.compared, outdir)
    return text
