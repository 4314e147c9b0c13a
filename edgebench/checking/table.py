"""Run records as a small table: one row per model and level.

Means over the successful runs, each over the runs that have the value (tokens in, tokens out, TTFT in ms,
decode rate in tokens per second, net energy in J); J per output token with its standard deviation over
runs. `fail` counts failed runs that no later record replaces, `flags` the runs that carry a flag. A `-` was
not measured, a `~` marks simulated power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.records.run import as_number, flags_of
from edgebench.shell.text import fixed
from edgebench.stats.intervals import mean_std

HEAD = f"  {'level':8} {'n':>4} {'fail':>4} {'in':>5} {'out':>5} {'TTFT ms':>8} {'tok/s':>7} {'J net':>8}"
HEAD += f" {'J/token ± std':>15} {'flags':>5}"


Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One model at one level; values are None where no successful run has them."""

    model_id: str
    level: str
    n: int  # successful runs
    failed: int
    prompt_tokens_mean: float | None
    completion_tokens_mean: float | None
    ttft_ms_mean: float | None
    decode_tok_per_s_mean: float | None
    energy_joule_mean: float | None  # net of idle
    joule_per_output_token_mean: float | None
    joule_per_output_token_std: float | None
    flagged: int  # runs that carry a flag
    simulated_power: bool


def numbers(records: Sequence[Record], name: str) -> list[float]:
    """The numbers under one name; a missing or null value is left out, never a zero."""
    found = (as_number(record.get(name)) for record in records)
    return [value for value in found if value is not None]


def joule_per_token(records: Sequence[Record]) -> list[float]:
    """Net energy over output tokens [J] of each record that has both."""
    pairs = [
        (numbers([record], "energy_joule"), numbers([record], "completion_tokens")) for record in records
    ]
    return [energy[0] / tokens[0] for energy, tokens in pairs if energy and tokens and tokens[0] > 0]


def mean_of(records: Sequence[Record], name: str) -> float | None:
    """Mean over the records that have the value."""
    return mean_std(numbers(records, name))[0]


def failed_for_good(records: Sequence[Record]) -> int:
    """Failed runs that no later record replaces: one that was tried twice in vain is one."""
    done = {record.get("run_key") for record in records if not record.get("error")} - {None}
    keys = [record.get("run_key") for record in records if record.get("error")]
    return keys.count(None) + len(set(keys) - done - {None})


def make_row(model: str, level: str, records: Sequence[Record]) -> Row:
    """One row of the table."""
    done = [record for record in records if not record.get("error")]
    # J per token is derived here, so that minimal records have it.
    per_token_mean, per_token_std = mean_std(joule_per_token(done))
    flags = [flags_of(record) for record in done]
    return Row(
        model_id=model,
        level=level,
        n=len(done),
        failed=failed_for_good(records),
        prompt_tokens_mean=mean_of(done, "prompt_tokens"),
        completion_tokens_mean=mean_of(done, "completion_tokens"),
        ttft_ms_mean=mean_of(done, "ttft_ms"),
        decode_tok_per_s_mean=mean_of(done, "decode_tok_per_s"),
        energy_joule_mean=mean_of(done, "energy_joule"),
        joule_per_output_token_mean=per_token_mean,
        joule_per_output_token_std=per_token_std,
        flagged=sum(bool(flag) for flag in flags),
        simulated_power=any("simulated_power" in flag for flag in flags),
    )


def make_rows(records: Sequence[Record]) -> list[Row]:
    """Rows in the order in which models first appear, levels by name with the placebo last."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = (str(record.get("model_id", "?")), str(record.get("level", "?")))
        groups.setdefault(key, []).append(record)
    rows = [make_row(model, level, group) for (model, level), group in groups.items()]
    # The order of runs is shuffled by design, that of the table is not.
    models = list(dict.fromkeys(row.model_id for row in rows))
    return sorted(rows, key=lambda row: (models.index(row.model_id), row.level == "P", row.level))


def shown(value: float | None, digits: int, mark: str = "") -> str:
    """A figure of the table; "-" where it was not measured."""
    return "-" if value is None else mark + fixed(value, digits)


def format_rows(rows: Sequence[Row]) -> str:
    """Table of at most 80 columns, one block per model."""
    lines: list[str] = []
    model = None
    for row in rows:
        if row.model_id != model:
            model = row.model_id
            lines += [model[:78], HEAD]
        lines.append(format_row(row))
    if any(row.simulated_power for row in rows):
        lines.append("~ simulated power, not a measurement")
    return "\n".join(lines) or "no runs"


def format_row(row: Row) -> str:
    """One line of the table."""
    mark = "~" if row.simulated_power else ""
    per_token = shown(row.joule_per_output_token_mean, 3, mark)
    if row.joule_per_output_token_std is not None:
        per_token += f" ± {row.joule_per_output_token_std:.3f}"
    return (
        f"  {row.level[:8]:8} {row.n:>4} {row.failed:>4}"
        f" {shown(row.prompt_tokens_mean, 0):>5} {shown(row.completion_tokens_mean, 0):>5}"
        f" {shown(row.ttft_ms_mean, 1):>8} {shown(row.decode_tok_per_s_mean, 1):>7}"
        f" {shown(row.energy_joule_mean, 2, mark):>8} {per_token:>15} {row.flagged:>5}"
    )
