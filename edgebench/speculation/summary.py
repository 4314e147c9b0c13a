"""What the sweeps of speculative decoding came to: from result files to a summary, and its CSV and JSON.

  summary.csv    one row per result and mode: the columns of the original's summary, then ours
  findings.csv   one row per treatment and figure of the document
  summary.json   both, with acceptance by position, the best configuration of each workload, notes

Ratios are sums over the same requests, below 1 is better than the reference; their 95 % intervals are over
prompts (stats/ratios.py). Profiled runs are listed and never compared. Latency s or ms, energy J above idle.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.records.account import check_sum, grouped
from edgebench.records.jsonl import write_whole
from edgebench.speculation.comparing import FEW_SAMPLES, Compared, columns_of, compare
from edgebench.speculation.findings import (
    CORRELATION,
    DRIFT,
    FIXED,
    LATENCY_REDUCTION,
    Acceptance,
    Best,
    Finding,
    Recommendation,
    acceptance,
    best_by_workload,
    dram_saved_byte,
    dram_saved_percent,
    families,
    findings,
    has_threshold,
    latency_of,
    latency_overhead,
    recommendations,
    reduction,
    stopped_percent,
    throughput_improvement,
    token_reduction,
    too_fast,
    treatment_of,
)
from edgebench.speculation.results import (
    CONFIG_COLUMNS,
    ENERGY_COLUMNS,
    MODE_COLUMNS,
    OWN_MODE_COLUMNS,
    Result,
    read_results,
)
from edgebench.stats.intervals import quantile

OUR_COLUMNS = (
    "grid",
    "role",
    "treatment",
    "latency_ms_per_request",
    "latency_requests",
    *OWN_MODE_COLUMNS,
    *ENERGY_COLUMNS,
    "power_source",
    "power_simulated",
    "energy_reason",
    "emc_load_percent_mean",
    "reference",
    "latency_ratio",
    "latency_ratio_low",
    "latency_ratio_high",
    "latency_ratio_units",
    "latency_ratio_no_interval",
    "compared_requests",
    "requests_left_out",
    "energy_ratio",
    "energy_ratio_low",
    "energy_ratio_high",
    "energy_ratio_reason",
    "outputs",
    "outputs_identical",
    "first_difference_min",
    "repeats_identical",
    "stopped_ratio",
    "fixed_reference",
    "fixed_latency_ratio",
    "fixed_latency_ratio_low",
    "fixed_latency_ratio_high",
    "fixed_drafted_ratio",
    "fixed_dram_write_ratio",
    # Named as in the document, all of them against fixed drafts of the same length.
    "latency_reduction_pct",
    "token_reduction_pct",
    "throughput_tok_per_s",
    "throughput_improvement_pct",
    "tokens_stopped_pct",
    "latency_overhead_pct",
    "dram_write_reduction_byte",
    "bandwidth_savings_pct",
    "ncu_reason",
    # Of the row's treatment over all its workloads, as in findings.csv.
    *(f"average_latency_reduction_pct{end}" for end in ("", "_low", "_high")),
    "average_latency_reduction_workloads",
    *(f"acceptance_rate_correlation{end}" for end in ("", "_low", "_high")),
)
FINDING_COLUMNS = (
    "name", "treatment", "reference", "unit", "value", "low", "high", "workloads", "cells", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Everything the report tells."""

    compared: tuple[Compared, ...]
    rows: tuple[dict[str, Any], ...]  # of summary.csv
    findings: tuple[Finding, ...]
    acceptance: tuple[Acceptance, ...]
    best: tuple[Best, ...]
    recommendations: tuple[Recommendation, ...]
    notes: tuple[str, ...]


def summarize(paths: Sequence[Path]) -> Summary:
    """Everything that was found below the paths. Raises UserError where it is nothing."""
    results, notes = read_results(paths)
    compared = compare(results)
    found = findings(compared)
    of_treatment = treatment_columns(compared, found)
    rows = [{**row_of(one), **of_treatment.get(one.result.identity, {})} for one in compared]
    check_sum(len(results), len(rows), 0)
    for result in results:
        notes += result.notes
    return Summary(
        compared=tuple(compared),
        rows=tuple(rows),
        findings=tuple(found),
        acceptance=tuple(acceptance(compared)),
        best=tuple(best_by_workload(compared)),
        recommendations=tuple(recommendations(compared)),
        notes=(*notes, *check_notes(compared), *drift_notes(results)),
    )


def row_of(compared: Compared) -> dict[str, Any]:
    """A result's row of summary.csv."""
    result = compared.result
    tokens = [answer.output_tokens for answer in result.answers if answer.output_tokens is not None]
    total_ms = sum(answer.latency_ms or 0.0 for answer in result.answers)
    drafts = not result.is_plain and not result.profiled
    whole = bool(tokens) and len(tokens) == len(result.answers) and total_ms > 0
    return {
        **result.columns,
        **columns_of(compared),
        "treatment": treatment_of(result),
        "latency_reduction_pct": reduction(latency_of(compared.fixed)),
        "token_reduction_pct": token_reduction(compared) if drafts else None,
        "throughput_tok_per_s": 1000 * sum(tokens) / total_ms if whole else None,
        "throughput_improvement_pct": throughput_improvement(compared),
        "tokens_stopped_pct": stopped_percent(compared),
        "latency_overhead_pct": latency_overhead(compared) if has_threshold(compared) else None,
        "dram_write_reduction_byte": dram_saved_byte(compared),
        "bandwidth_savings_pct": dram_saved_percent(compared),
        "accept_by_position": [place.accept_ratio for place in result.positions],
        "judged_by_position": [place.judged for place in result.positions],
    }


def treatment_columns(
    compared: Sequence[Compared], found: Sequence[Finding]
) -> dict[tuple[Any, ...], dict[str, float | int | None]]:
    """By a result's identity: its treatment's average latency reduction and acceptance correlation.

    The reduction is the document's, against fixed drafts; that of fixed drafts is against plain decoding.
    """
    columns: dict[tuple[Any, ...], dict[str, float | int | None]] = {}
    for treatment, members in families(compared).items():
        own = [one for one in found if one.treatment == treatment]
        reductions = [one for one in own if one.name == LATENCY_REDUCTION]
        reductions.sort(key=lambda one: one.reference != FIXED)
        correlations = [one for one in own if one.name == CORRELATION]
        told: dict[str, float | int | None] = {}
        for name, finding in zip(
            ("average_latency_reduction_pct", "acceptance_rate_correlation"),
            (next(iter(reductions), None), next(iter(correlations), None)),
            strict=True,
        ):
            if finding is not None:
                told |= {name: finding.value, f"{name}_low": finding.low, f"{name}_high": finding.high}
        if reductions:
            told["average_latency_reduction_workloads"] = reductions[0].workloads
        columns |= {member.result.identity: told for member in members}
    return columns


# --- Notes ---


def drift_notes(results: Sequence[Result]) -> list[str]:
    """The same configuration in several files, and plain decoding in the course of a grid."""
    timed = [result for result in results if not result.profiled]
    notes = []
    for same in grouped(timed, lambda result: (result.workload, result.treatment)).values():
        low, high = (f(same, key=lambda result: result["latency_avg_s"]) for f in (min, max))
        rise = high["latency_avg_s"] / low["latency_avg_s"] - 1
        if low.path != high.path and rise >= DRIFT:
            slow, fast = (
                f"{one['grid']}/{one['file']}" if one.is_ours else one["file"] for one in (high, low)
            )
            notes.append(
                f"{high['nwor_mode']}: {high['latency_avg_s']:.4g} s in {slow}, "
                f"{low['latency_avg_s']:.4g} s in {fast} ({rise:+.0%}) for the same configuration: "
                "smaller differences between sessions are no effect"
            )
    beside = [(result, mean_ms) for result in results if (mean_ms := first_plain_ms(result)) is not None]
    for cells in grouped(beside, lambda pair: (pair[0].path.parent, pair[0].workload)).values():
        low_cell, high_cell = min(cells, key=lambda pair: pair[1]), max(cells, key=lambda pair: pair[1])
        rise = high_cell[1] / low_cell[1] - 1
        if rise >= DRIFT:
            notes.append(
                f"{low_cell[0]['grid']}: plain decoding took {low_cell[1]:.4g} ms per request beside "
                f"{low_cell[0]['file']} and {high_cell[1]:.4g} ms beside {high_cell[0]['file']} ({rise:+.0%})"
                ": compare within a process only"
            )
    return notes


def first_plain_ms(result: Result) -> float | None:
    """Mean latency [ms] of the requests of the first batch, decoded plainly in the same process."""
    latencies = [one.latency_ms for one in result.plain if one.place[0] == 0 and one.latency_ms is not None]
    return sum(latencies) / len(latencies) if latencies and sum(latencies) > 0 else None


def check_notes(compared: Sequence[Compared]) -> list[str]:
    """Summaries that do not follow from their own batches, and power that was played."""
    results = [one.result for one in compared]
    notes = [note for result in results if (note := recounted(result))]
    notes += [
        f"{one.result['file']}: latency ratio {one.plain.latency.value:.3f}, though it takes "
        f"{one.result.least_ratio:.3f} of plain decoding's passes: the machine was not quiet, this is no "
        "gain of drafting"
        for one in filter(too_fast, compared)
        if one.plain is not None
    ]
    if any(result["power_simulated"] for result in results):
        notes.append("power is simulated: these Joule are no measurement")
    thin = [str(result["file"]) for result in results if result.thin_batches and result.joules]
    if thin:
        notes.append(f"energy of {', '.join(thin)}: {FEW_SAMPLES}")
    lonely = [
        one.result["file"]
        for one in compared
        if one.result.is_ours and not one.result.is_plain and one.plain is None
    ]
    if lonely:
        notes.append(f"without a plain reference: {', '.join(lonely)}")
    if any(not result.is_ours for result in results):
        notes.append(
            "the original's files have no plain decoding: whether drafting pays at all they cannot tell"
        )
    return notes


def recounted(result: Result) -> str | None:
    """A note where a result's latencies are not those of its batches."""
    latencies = list(result.latency_s.values())
    told = [result[name] for name in ("latency_avg_s", "latency_p50_s", "latency_p95_s")]
    if not latencies or None in told:
        return None
    found = [sum(latencies) / len(latencies), quantile(latencies, 0.5), quantile(latencies, 0.95)]
    if all(abs(a - b) <= 1e-6 * b for a, b in zip(told, found, strict=True)):
        return None
    return f"{result['file']} ({result['nwor_mode']}): its latencies give mean, p50, p95 {found}, not {told}"


# --- Output ---


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV, missing values empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def rows_csv(summary: Summary) -> str:
    """summary.csv."""
    columns = ["file", *CONFIG_COLUMNS, *MODE_COLUMNS, *OUR_COLUMNS]
    rows = [
        row | {"ncu_metrics": None if row["ncu_metrics"] is None else json.dumps(row["ncu_metrics"])}
        for row in summary.rows
    ]
    return as_csv(columns, rows)


def described(compared: Compared | None) -> dict[str, Any] | None:
    """A configuration in short, for the list of the best."""
    if compared is None:
        return None
    result = compared.result
    settings = ("file", "grid", "role", "drafter_model", "draft_tokens", "confidence_threshold")
    return {
        **{name: result[name] for name in settings},
        "latency_ratio": compared.plain.latency.value if compared.plain else None,
        "energy_ratio": compared.energy.value if compared.energy else None,
        "power_simulated": result["power_simulated"],
    }


def best_as_json(best: Best) -> dict[str, Any]:
    """A workload's best configuration, as it stands in summary.json."""
    names = ("target_model", "scenario", "num_requests", "max_new_tokens", "temperature")
    return {
        **{name: best.workload[name] for name in names},
        "intervals_known": best.intervals_known,
        "fastest": described(best.fastest),
        "fastest_not_told_from": [result["file"] for result in best.not_told_from],
        "thriftiest": described(best.thriftiest),
        "energy_interval_known": best.energy_interval_known,
        "energy_known": best.energy_known,
    }


def as_json(summary: Summary) -> str:
    """summary.json."""
    document = {
        "rows": summary.rows,
        "findings": [asdict(finding) for finding in summary.findings],
        "acceptance": [{**asdict(one), "accept_ratio": one.ratio} for one in summary.acceptance],
        "best": [best_as_json(best) for best in summary.best],
        "recommendations": [asdict(one) for one in summary.recommendations],
        "notes": summary.notes,
    }
    return json.dumps(document, indent=1)


def write_tables(summary: Summary, outdir: Path) -> None:
    """summary.csv, findings.csv and summary.json, each whole or not at all. Raises OSError."""
    outdir.mkdir(parents=True, exist_ok=True)
    write_whole(outdir / "summary.csv", rows_csv(summary))
    write_whole(
        outdir / "findings.csv", as_csv(FINDING_COLUMNS, [asdict(finding) for finding in summary.findings])
    )
    write_whole(outdir / "summary.json", as_json(summary))
