"""What the original experiment's document wants collected, named as there.

Adaptive drafts: latency reduction, token reduction, throughput improvement, acceptance rate correlation.
Early exit: DRAM write reduction, tokens stopped, latency overhead, bandwidth savings against latency. Both:
determinism at temperature 0, acceptance rate by workload, the best configuration.

A figure belongs to one treatment: a rule and a threshold of one drafter, in one folder. Its average is over
workloads (requests, tokens, temperature, prompts, draft length), each counted once, with its interval over
them where there are enough. Reductions are against fixed drafts of the same length without a threshold, as in
the document; where a file has plain decoding, the reduction against that stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.records.account import Account, account, check_sum, grouped
from edgebench.speculation.comparing import Compared, Comparison, compare_requests
from edgebench.speculation.results import Result
from edgebench.stats.correlation import pearson
from edgebench.stats.intervals import mean_interval, mean_std
from edgebench.stats.ratios import Ratio, geometric_mean

NO_FIXED = "without fixed drafts of its length in its folder"
NO_PLAIN = "without plain decoding of its workload"
NO_COUNTERS = "without memory counters on both sides (see --ncu)"
NO_TOKENS = "whose files count no output tokens"
# Names as in the document, and what figures are against.
LATENCY_REDUCTION, CORRELATION = "Latency reduction", "Acceptance rate correlation with latency reduction"
FIXED, PLAIN = "fixed drafts", "plain decoding"
DRIFT = 0.05  # from here on a difference between sessions is worth a note


@dataclass(frozen=True)
class Finding:
    """One figure over the workloads of a treatment. Missing is None with the reason."""

    name: str
    treatment: str
    reference: str  # what it is against; empty where it is against nothing
    unit: str  # %, byte, r (correlation)
    value: float | None
    low: float | None = None
    high: float | None = None
    workloads: int = 0
    cells: int = 0
    note: str = ""  # how many cells are left out and why; for determinism the counts
    reasons: tuple[str, ...] = ()  # why cells are left out, each once


# --- Treatments ---


def treatment_of(result: Result) -> str:
    """A rule and a threshold in words; of the original its mode."""
    if not result.is_ours:
        return f"{result['nwor_mode']}, {result['scv_mode']}"
    words = {"fixed": "fixed drafts", "published": "published rule", "cost": "cost rule", "plain": "plain"}
    threshold = result["confidence_threshold"]
    return words[result["role"]] + (f", threshold {threshold:g}" if threshold else "")


def configuration_of(result: Result) -> str:
    """A treatment with its draft length and its drafter."""
    words = treatment_of(result)
    words += f", draft {result['draft_tokens']}" if result["draft_tokens"] is not None else ""
    return words + (", prompt lookup" if result["drafter_model"] == "lookup" else "")


def workload_words(result: Result) -> str:
    """A workload in short: scenario, requests x tokens, temperature."""
    size = f"{result['num_requests']} x {result['max_new_tokens']}"
    return f"{result['scenario']}, {size}, temp {result['temperature']}"


def family_of(compared: Compared) -> tuple[Path, Any, str]:
    """What is averaged together: one treatment of one drafter in one folder."""
    result = compared.result
    return result.path.parent, result["drafter_model"], treatment_of(result)


def unit_of(compared: Compared) -> Hashable:
    """What counts once in an average: a workload and its draft length."""
    return (*compared.result.workload, compared.result["draft_tokens"])


def families(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """The cells that draft, by treatment; its name tells drafter and folder where several would be alike."""
    drafting = [one for one in compared if not one.result.is_plain and not one.result.profiled]
    found = grouped(drafting, family_of)
    check_sum(len(drafting), sum(map(len, found.values())), 0)
    folders = {folder for folder, _, _ in found}
    drafters = {drafter for _, drafter, _ in found}
    named: dict[str, list[Compared]] = {}
    for (folder, drafter, words), members in found.items():
        name = words + (f", {drafter}" if len(drafters) > 1 and drafter else "")
        name = f"{folder.name}: {name}" if len(folders) > 1 else name
        while name in named:  # two folders of one name
            name += "'"
        named[name] = members
    return named


# --- Averages over workloads ---

Measure = Callable[[Compared], float | None]
Why = Callable[[Compared], str]


def average(
    name: str,
    treatment: str,
    reference: str,
    unit: str,
    cells: Sequence[Compared],
    measure: Measure,
    why: Why,
) -> Finding:
    """The mean of a measure over workloads, with its interval; `why` says why a cell lacks it."""
    known = account(cells, lambda one: None if measure(one) is not None else why(one))
    by_workload = grouped(known.used, unit_of)
    check_sum(known.present, sum(map(len, by_workload.values())), len(known.left_out))
    values = [
        math.fsum(measure(one) or 0.0 for one in members) / len(members) for members in by_workload.values()
    ]
    low, high = mean_interval(values, "workloads").edges or (None, None)
    return Finding(
        name,
        treatment,
        reference,
        unit,
        mean_std(values)[0],
        low,
        high,
        workloads=len(values),
        cells=len(known.used),
        note=known.reasons(),
        reasons=reasons_of(known),
    )


def reasons_of(known: Account[Compared]) -> tuple[str, ...]:
    """Why cells are left out, each reason once."""
    return tuple(dict.fromkeys(reason for _, reason in known.left_out))


def reduction(ratio: Ratio | None) -> float | None:
    """Percent less than the reference."""
    return None if ratio is None or ratio.value is None else 100 * (1 - ratio.value)


def latency_of(comparison: Comparison | None) -> Ratio | None:
    """A comparison's latency ratio; None where there is no comparison."""
    return comparison.latency if comparison else None


def token_reduction(compared: Compared) -> float | None:
    """Percent fewer drafted tokens than with fixed drafts."""
    return None if compared.drafted_ratio is None else 100 * (1 - compared.drafted_ratio)


def throughput_improvement(compared: Compared) -> float | None:
    """Percent more output tokens per second than with fixed drafts."""
    ratio = compared.fixed.throughput if compared.fixed else None
    return None if ratio is None or ratio.value is None else 100 * (ratio.value - 1)


def latency_overhead(compared: Compared) -> float | None:
    """Percent more time than fixed drafts without a threshold."""
    saved = reduction(latency_of(compared.fixed))
    return None if saved is None else -saved


def stopped_percent(compared: Compared) -> float | None:
    return None if compared.stopped_share is None else 100 * compared.stopped_share


def dram_saved_percent(compared: Compared) -> float | None:
    writes = compared.dram_write_byte
    return None if writes is None else 100 * (1 - writes[0] / writes[1])


def dram_saved_byte(compared: Compared) -> float | None:
    writes = compared.dram_write_byte
    return None if writes is None else writes[1] - writes[0]


def has_threshold(compared: Compared) -> bool:
    """Whether the draft's confidence may end a draft early."""
    return bool(compared.result["confidence_threshold"])


def is_fixed(compared: Compared) -> bool:
    """Whether it is what the others are measured against."""
    result = compared.result
    if result.is_ours:
        return result["role"] == "fixed" and not has_threshold(compared)
    return (result["nwor_mode"], result["scv_mode"]) == ("off", "off")


def acceptance_correlation(treatment: str, cells: Sequence[Compared]) -> Finding:
    """How acceptance and the latency reduction go together over the workloads of one treatment."""

    def pair_of(one: Compared) -> tuple[float, float] | None:
        acceptance, gain = one.result["spec_acceptance_ratio"], reduction(latency_of(one.main))
        return None if acceptance is None or gain is None else (acceptance, gain)

    def why_not(one: Compared) -> str | None:
        return None if pair_of(one) is not None else "without an acceptance rate or a latency reduction"

    known = account(cells, why_not)
    by_workload = grouped(known.used, unit_of)
    pairs = []
    for members in by_workload.values():
        both = [pair for pair in map(pair_of, members) if pair is not None]
        pairs.append((math.fsum(x for x, _ in both) / len(both), math.fsum(y for _, y in both) / len(both)))
    found = pearson(pairs)
    reason = "" if found.value is not None else "too few workloads, or all alike"
    references = {PLAIN if one.result.is_ours else FIXED for one in known.used}
    return Finding(
        CORRELATION,
        treatment,
        " or ".join(sorted(references)),
        "r",
        found.value,
        found.low,
        found.high,
        workloads=len(pairs),
        cells=len(known.used),
        note=", ".join(filter(None, (known.reasons(), reason))),
        reasons=(*reasons_of(known), *([reason] if reason else [])),
    )


def findings(compared: Sequence[Compared]) -> list[Finding]:
    """Every figure of the document, treatment by treatment."""
    found = []
    for treatment, cells in families(compared).items():
        if cells[0].result.is_ours:
            found.append(
                average(
                    LATENCY_REDUCTION, treatment, PLAIN, "%", cells,
                    lambda one: reduction(latency_of(one.plain)), lambda _: NO_PLAIN,
                )
            )  # fmt: skip
        if not is_fixed(cells[0]):
            found += against_fixed(treatment, cells)
        if has_threshold(cells[0]):
            found += of_early_exit(treatment, cells)
        found.append(acceptance_correlation(treatment, cells))
        found += determinism(treatment, cells)
    return found


def against_fixed(treatment: str, cells: Sequence[Compared]) -> list[Finding]:
    """The document's figures of a rule."""
    measures: tuple[tuple[str, Measure], ...] = (
        (LATENCY_REDUCTION, lambda one: reduction(latency_of(one.fixed))),
        ("Token reduction (spec_num_draft_tokens)", token_reduction),
        ("Throughput improvement (tokens/sec)", throughput_improvement),
    )
    return [average(name, treatment, FIXED, "%", cells, measure, why_not_fixed) for name, measure in measures]


def why_not_fixed(compared: Compared) -> str:
    """Why a cell has no figure against fixed drafts."""
    return NO_FIXED if compared.fixed is None else NO_TOKENS


def why_no_counters(compared: Compared) -> str:
    """Why a cell has no memory counters to compare."""
    return NO_FIXED if compared.fixed is None else NO_COUNTERS


def of_early_exit(treatment: str, cells: Sequence[Compared]) -> list[Finding]:
    """The document's figures of a threshold."""
    return [
        average(
            "Tokens stopped",
            treatment,
            "",
            "%",
            cells,
            stopped_percent,
            lambda _: "whose draft made no confidence check",
        ),
        average("Latency overhead", treatment, FIXED, "%", cells, latency_overhead, why_not_fixed),
        average("DRAM write reduction", treatment, FIXED, "byte", cells, dram_saved_byte, why_no_counters),
        average("Bandwidth savings", treatment, FIXED, "%", cells, dram_saved_percent, why_no_counters),
    ]


def determinism(treatment: str, cells: Sequence[Compared]) -> list[Finding]:
    """The share of outputs at temperature 0 that equal plain decoding, over all requests compared."""
    outputs = sum(one.result["outputs"] or 0 for one in cells)
    if not outputs:
        return []
    identical = sum(one.result["outputs_identical"] or 0 for one in cells)
    compared = [one for one in cells if one.result["outputs"]]
    return [
        Finding(
            "Determinism (temp=0.0 outputs identical)",
            treatment,
            "plain decoding",
            "%",
            100 * identical / outputs,
            workloads=len(grouped(compared, unit_of)),
            cells=len(compared),
            note=f"{identical} of {outputs} outputs",
        )
    ]


# --- Acceptance ---


@dataclass(frozen=True)
class Acceptance:
    """Accepted of drafted tokens of one treatment with one draft length at one workload."""

    workload: str
    treatment: str
    cells: int
    drafted: int
    accepted: int
    by_position: tuple[float | None, ...]

    @property
    def ratio(self) -> float:
        return self.accepted / self.drafted


def acceptance(compared: Sequence[Compared]) -> list[Acceptance]:
    """Acceptance by workload, never pooled over rules, thresholds, lengths or drafters."""
    drafting = [one for one in compared if one.result["spec_num_draft_tokens"] and not one.result.profiled]
    groups = grouped(
        drafting,
        lambda one: (
            one.result.path.parent,
            one.result.workload,
            one.result.treatment,
            one.result["enable_ncu"],
        ),
    )
    check_sum(len(drafting), sum(map(len, groups.values())), 0)
    return [
        Acceptance(
            f"{members[0].result['target_model']}, {workload_words(members[0].result)}",
            configuration_of(members[0].result)
            if members[0].result.is_ours
            else f"{treatment_of(members[0].result)}, draft {members[0].result['draft_tokens']}",
            cells=len(members),
            drafted=sum(one.result["spec_num_draft_tokens"] for one in members),
            accepted=sum(one.result["spec_num_accepted_tokens"] for one in members),
            by_position=by_position([one.result for one in members]),
        )
        for members in groups.values()
    ]


def by_position(results: Sequence[Result]) -> tuple[float | None, ...]:
    """Acceptance at each place of the draft, weighted with how often a token was judged there."""
    longest = max((len(result.positions) for result in results), default=0)
    means: list[float | None] = []
    for place in range(longest):
        there = [result.positions[place] for result in results if place < len(result.positions)]
        pairs = [(one.accept_ratio, 1 if one.judged is None else one.judged) for one in there]
        total = sum(weight for ratio, weight in pairs if ratio is not None)
        sums = math.fsum(ratio * weight for ratio, weight in pairs if ratio is not None)
        means.append(sums / total if total else None)
    return tuple(means)


# --- The best configuration ---


@dataclass(frozen=True)
class Best:
    """The best configuration of one workload. `fastest` None: nothing surely beats plain decoding."""

    workload: Result  # any of its results
    fastest: Compared | None
    not_told_from: tuple[Result, ...]  # beat plain decoding, too, and the fastest does not surely beat them
    thriftiest: Compared | None
    intervals_known: bool
    energy_known: bool
    energy_interval_known: bool


def best_by_workload(compared: Sequence[Compared]) -> list[Best]:
    """Per workload of ours what is fastest and thriftiest, where its whole interval beats plain decoding."""
    candidates = [one for one in compared if one.plain is not None and one.plain.latency.value is not None]
    return [best_of(group) for group in grouped(candidates, lambda one: one.result.workload).values()]


def best_of(group: Sequence[Compared]) -> Best:
    """The best of one workload's cells."""
    able = [one for one in group if may_win(one)]
    fast = sorted(
        (one for one in able if surely_less(latency_of(one.plain))),
        key=lambda one: value_of(latency_of(one.plain)),
    )
    thrifty = sorted((one for one in able if surely_less(one.energy)), key=lambda one: value_of(one.energy))
    ends = [latency_of(one.plain) for one in group]
    return Best(
        group[0].result,
        fastest=fast[0] if fast else None,
        not_told_from=tuple(one.result for one in fast[1:] if not surely_faster(fast[0].result, one.result)),
        thriftiest=thrifty[0] if thrifty else None,
        intervals_known=any(ratio is not None and ratio.high is not None for ratio in ends),
        energy_known=any(one.energy is not None for one in group),
        energy_interval_known=any(one.energy is not None and one.energy.high is not None for one in group),
    )


def value_of(ratio: Ratio | None) -> float:
    """A ratio to sort by; what is not known comes last."""
    return math.inf if ratio is None or ratio.value is None else ratio.value


def surely_less(ratio: Ratio | None) -> bool:
    """Whether the whole interval lies below 1."""
    return ratio is not None and ratio.high is not None and ratio.high < 1


def surely_faster(result: Result, other: Result) -> bool:
    """Whether a result is faster than another one, request by request, with its whole interval."""
    return surely_less(compare_requests(other.name, result.answers, other.answers, other).latency)


def too_fast(compared: Compared) -> bool:
    """Whether it beats plain decoding by more than the passes it saves: none is cheaper than a plain one."""
    ratio, least = latency_of(compared.plain), compared.result.least_ratio
    return bool(ratio and ratio.high is not None and least and ratio.high < least * (1 - DRIFT))


def may_win(compared: Compared) -> bool:
    """Whether a ratio below 1 can be due to drafts: some were accepted, and they allow as much."""
    return compared.result["spec_num_accepted_tokens"] != 0 and not too_fast(compared)


@dataclass(frozen=True)
class Recommendation:
    """One treatment over all workloads that it was run on, against plain decoding."""

    treatment: str
    latency: Ratio  # geometric mean over workloads


def recommendations(compared: Sequence[Compared]) -> list[Recommendation]:
    """Every treatment of ours over its workloads, the fastest first."""
    found = []
    for treatment, cells in families(compared).items():
        by_workload = grouped(
            [one for one in cells if one.plain is not None and one.plain.latency.value is not None], unit_of
        )
        ratios = [
            math.exp(math.fsum(math.log(value_of(latency_of(one.plain))) for one in members) / len(members))
            for members in by_workload.values()
        ]
        if ratios:
            found.append(Recommendation(treatment, geometric_mean(ratios, "workloads")))
    return sorted(found, key=lambda one: value_of(one.latency))
