"""Results against their references, request by request: what a rule or a threshold costs and gains.

A cell of ours has two references. Against plain decoding (interleaved in its own process, else the plain cell
of the workload) it tells whether drafting pays; against fixed drafts of the same length without a threshold,
from the same folder, what the rule or the threshold alone changes. The original's files have no plain
decoding: there the fixed drafts of the same settings are the only reference, batch by batch.

The unit of a latency ratio is the prompt: requests of one prompt are summed first, since they repeat each
other. Energy, and the original's files, know batches only: repeats of one measurement.
Requests that one side lacks are left out with the reason, and the counts are checked to add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.records.account import Account, account, by_key, check_sum, grouped
from edgebench.speculation.results import Answer, Result
from edgebench.stats.ratios import Ratio, product_of_sums, ratio_of_repeats, ratio_of_sums

SAME_PROCESS = "plain, same process"
DRAM_WRITE = "dram__bytes_write.sum"
FEW_SAMPLES = "fewer than five power samples in a batch: more --requests or --max_tokens"
FEW_BATCHES = 3  # so many batches decoded plainly in the process tell an interval of energy by themselves


@dataclass(frozen=True)
class Comparison:
    """One result against one reference."""

    reference: str  # in words
    other: Result | None  # None: the same requests, decoded plainly in the same process
    latency: Ratio
    unit: str  # what the interval is over: prompts, batches
    used: int  # requests, or batches where a file lists no requests
    left_out: str  # how many of them are left out and why; empty where all are used
    throughput: Ratio | None = None  # output tokens per second; None where not all are counted


@dataclass(frozen=True)
class Compared:
    """A result with what it is compared with. None where there is no such reference."""

    result: Result
    plain: Comparison | None = None
    fixed: Comparison | None = None
    energy: Ratio | None = None  # against plain decoding, over batches
    energy_reason: str | None = None  # why there is no such ratio

    @property
    def main(self) -> Comparison | None:
        """Against plain decoding where there is any, else against fixed drafts."""
        return self.plain if self.result.is_ours else self.fixed

    @property
    def drafted_ratio(self) -> float | None:
        """Drafted tokens over those of fixed drafts."""
        return self._over_fixed("spec_num_draft_tokens")

    @property
    def dram_write_byte(self) -> tuple[float, float] | None:
        """Bytes written to memory: (ours, with fixed drafts), where both were profiled."""
        if self.fixed is None or self.fixed.other is None:
            return None
        ours, theirs = (
            (side["ncu_metrics"] or {}).get(DRAM_WRITE) for side in (self.result, self.fixed.other)
        )
        return (ours, theirs) if ours is not None and theirs else None

    @property
    def stopped_share(self) -> float | None:
        """Of the tokens that were to be drafted, those that the draft's confidence stopped.

        One check ends a whole draft: the share is of stopped and drafted tokens together, not of the checks.
        """
        if not self.result["total_confidence_checks"]:
            return None
        stopped = self.result["tokens_stopped_by_confidence"] or 0
        return quotient(stopped, stopped + (self.result["spec_num_draft_tokens"] or 0))

    def _over_fixed(self, column: str) -> float | None:
        if self.fixed is None or self.fixed.other is None:
            return None
        return quotient(self.result[column], self.fixed.other[column])


def quotient(value: float | None, reference: float | None) -> float | None:
    """value / reference where both are known."""
    return value / reference if value is not None and reference else None


def compare(results: Sequence[Result]) -> list[Compared]:
    """Every result with its references. Profiled results are never compared, plain ones are references."""
    return [compare_one(result, results) for result in results]


def compare_one(result: Result, results: Sequence[Result]) -> Compared:
    """One result with its references."""
    if result.profiled or result.is_plain:
        return Compared(result)
    if not result.is_ours:
        return Compared(result, fixed=against_fixed_of_the_original(result, results))
    twin = nearest(result, [other for other in results if other.is_plain and may_be_compared(result, other)])
    energy, energy_reason = energy_ratio(result, twin)
    return Compared(
        result,
        plain=against_plain(result, twin),
        fixed=against_fixed(result, results),
        energy=energy,
        energy_reason=energy_reason,
    )


def may_be_compared(result: Result, other: Result) -> bool:
    """Whether two results are of one workload, and their times mean something."""
    return not other.profiled and other.workload == result.workload


def nearest(result: Result, others: Sequence[Result]) -> Result | None:
    """The one that is to be the reference: of the same file, else of the same folder, else any.

    Where several are as near, the first one, which the result's notes tell.
    """
    choice = (
        [other for other in others if other.path == result.path]
        or [other for other in others if other.path.parent == result.path.parent]
        or list(others)
    )
    if not choice:
        return None
    if len(choice) > 1:
        unused = ", ".join(other.path.name for other in choice[1:])
        result.notes.append(f"{result.name}: compared with {choice[0].path.name}, not with {unused}")
    return choice[0]


# --- Requests ---


def pair_up(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Account[Answer]:
    """Our requests parted in those that the reference answered, too, and those left out."""
    there = by_key(theirs, lambda answer: answer.place, "request")
    batches = {batch for batch, _ in there}

    def why_not(answer: Answer) -> str | None:
        other = there.get(answer.place)
        if other is None:
            missing = "batches" if answer.place[0] not in batches else "places"
            return f"in {missing} that the reference lacks"
        if other.prompt != answer.prompt:
            return "whose prompt is another one in the reference"
        return "without a latency" if answer.latency_ms is None or other.latency_ms is None else None

    by_key(ours, lambda answer: answer.place, "request")
    return account(ours, why_not)


def lacking(ours: Sequence[Answer], theirs: Sequence[Answer]) -> str:
    """How many requests of the reference ours lack; empty where none."""
    places = {answer.place for answer in ours}
    count = sum(answer.place not in places for answer in theirs)
    return f"{count} of the reference that this result lacks" if count else ""


def compare_requests(
    reference: str, ours: Sequence[Answer], theirs: Sequence[Answer], other: Result | None
) -> Comparison:
    """Latency and throughput of our requests over theirs, prompts as units."""
    pairs = pair_up(ours, theirs)
    there = by_key(theirs, lambda answer: answer.place, "request")
    by_prompt = grouped(pairs.used, lambda answer: answer.prompt)
    check_sum(pairs.present, sum(map(len, by_prompt.values())), len(pairs.left_out))
    units = [
        (summed(group), summed([there[answer.place] for answer in group])) for group in by_prompt.values()
    ]
    rated = [
        (our_tokens, our_ms, their_tokens, their_ms)
        for (our_ms, our_tokens), (their_ms, their_tokens) in units
        if our_tokens is not None and their_tokens is not None
    ]
    return Comparison(
        reference,
        other,
        latency=ratio_of_sums([(our_ms, their_ms) for (our_ms, _), (their_ms, _) in units]),
        unit="prompts",
        used=len(pairs.used),
        left_out=", ".join(filter(None, (pairs.reasons(), lacking(ours, theirs)))),
        throughput=product_of_sums(rated, (1, -1, -1, 1)) if len(rated) == len(units) else None,
    )


def summed(answers: Sequence[Answer]) -> tuple[float, int | None]:
    """(latency in ms, output tokens) of the requests of one prompt; no tokens where one has no count."""
    tokens = [answer.output_tokens for answer in answers if answer.output_tokens is not None]
    latency_ms = sum(answer.latency_ms or 0.0 for answer in answers)
    return latency_ms, sum(tokens) if len(tokens) == len(answers) else None


def against_plain(result: Result, twin: Result | None) -> Comparison | None:
    """Against plain decoding of its own process, else of the workload's plain cell."""
    if result.plain:
        inside = compare_requests(SAME_PROCESS, result.answers, result.plain, None)
        if inside.used:
            return inside
    if twin is None:
        return None
    return compare_requests(str(twin["file"]), result.answers, twin.answers, twin)


def against_fixed(result: Result, results: Sequence[Result]) -> Comparison | None:
    """Against fixed drafts of the same length without a threshold, of the same folder."""
    fixed = [
        other
        for other in results
        if other is not result
        and other["role"] == "fixed"
        and not other["confidence_threshold"]
        and other.path.parent == result.path.parent
        and may_be_compared(result, other)
        and all(other[name] == result[name] for name in ("draft_tokens", "drafter_model"))
    ]
    other = nearest(result, fixed)
    if other is None:
        return None
    return compare_requests(str(other["file"]), result.answers, other.answers, other)


def against_fixed_of_the_original(result: Result, results: Sequence[Result]) -> Comparison | None:
    """A mode of the original against its fixed draft length without any feature, batch by batch."""
    fixed = [
        other
        for other in results
        if not other.is_ours
        and may_be_compared(result, other)
        and other["draft_tokens"] == result["draft_tokens"]
        and (other["nwor_mode"], other["scv_mode"]) == ("off", "off")
    ]
    other = nearest(result, fixed)
    if other is None or other is result:
        return None
    theirs = other.latency_s
    batches = account(
        list(result.latency_s), lambda batch: None if batch in theirs else "batches that the reference lacks"
    )
    session = "" if other.path == result.path else ", another session"
    return Comparison(
        f"fixed drafts in {other['file']}{session}",
        other,
        latency=ratio_of_repeats([(result.latency_s[batch], theirs[batch]) for batch in batches.used]),
        unit="batches",
        used=len(batches.used),
        left_out=batches.reasons(),
    )


def energy_ratio(result: Result, twin: Result | None) -> tuple[Ratio | None, str | None]:
    """(energy over that of plain decoding with batches as units, or why there is none)."""
    # A batch or two of the same process tell no interval; the plain cell's batches may.
    inside, thin = result.plain_joules, result.thin_batches
    if len(inside) < FEW_BATCHES and twin is not None:
        inside, thin = twin.joules, thin | twin.thin_batches
    both = sorted(result.joules.keys() & inside.keys())
    if not result.joules:
        return None, result["energy_reason"] or "no energy was measured"
    if not both:
        return None, "plain decoding has no energy to compare with"
    if thin.intersection(both):
        return None, FEW_SAMPLES
    pairs = [(result.joules[batch], inside[batch]) for batch in both]
    if any(joule <= 0 for pair in pairs for joule in pair):
        return None, "no more than idle within its noise: a ratio of such energies means nothing"
    return ratio_of_repeats(pairs), None


# --- The columns of summary.csv ---


def columns_of(compared: Compared) -> dict[str, Any]:
    """What the comparison adds to a result's row."""
    result, main, fixed = compared.result, compared.main, compared.fixed
    found: dict[str, Any] = {
        "reference": main.reference if main else None,
        **ratio_columns("latency_ratio", main.latency if main else None),
        "latency_ratio_units": f"{main.latency.units} {main.unit}" if main else None,
        "latency_ratio_no_interval": main.latency.reason if main else None,
        "compared_requests": main.used if main else None,
        "requests_left_out": main.left_out if main else None,
        **ratio_columns("energy_ratio", compared.energy),
        "energy_ratio_reason": compared.energy_reason,
        "stopped_ratio": compared.stopped_share,
    }
    if result.is_ours:
        writes = compared.dram_write_byte
        found |= ratio_columns("fixed_latency_ratio", fixed.latency if fixed else None)
        found |= {
            "fixed_reference": fixed.reference if fixed else None,
            "fixed_drafted_ratio": compared.drafted_ratio,
            "fixed_dram_write_ratio": writes[0] / writes[1] if writes else None,
        }
    timed = account(result.answers, lambda answer: "without a latency" if answer.latency_ms is None else None)
    found["latency_requests"] = len(timed.used) or None
    found["latency_ms_per_request"] = None
    if timed.used:
        found["latency_ms_per_request"] = sum(one.latency_ms or 0.0 for one in timed.used) / len(timed.used)
    return found


def ratio_columns(name: str, ratio: Ratio | None) -> dict[str, float | None]:
    """A ratio and the ends of its interval."""
    known = ratio or Ratio()
    return {name: known.value, f"{name}_low": known.low, f"{name}_high": known.high}
