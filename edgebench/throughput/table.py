"""The records of a throughput campaign as a table: what batching buys, per model and batch size.

  tok/s    answer tokens over the whole time, mean ± sample std over the repeats
  ratio    of that mean to the smallest batch size's
  prefill  prompt tokens per second until every sequence has its first token
  decode   tokens per second after it
  J/token  energy, net of idle, per answer token; - where it was not measured, and
           a line below the table where some repeats lack it
  same     answers that are token for token those of the smallest batch size; a
           quantized model may differ, since larger batches round in another order

Records with an error are left out and counted. Of two records of one
measurement the last good one counts. Measurements of other settings that the
file holds are in no mean, and counted too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.text import counted
from edgebench.stats.intervals import mean_std
from edgebench.throughput.plan import measurements_in

NAME_WIDTH = 20
Json = Mapping[str, Any]


def read_records(path: Path, keys: Collection[str]) -> tuple[list[dict[str, Any]], int]:
    """(the last good record of each of these measurements, how many of them failed)."""
    good, bad = {}, set()
    for record in measurements_in(path):
        if record.get("run_key") in keys:
            if record.get("error") is None:
                good[record["run_key"]] = record
            else:
                bad.add(record["run_key"])
    return list(good.values()), len(bad - good.keys())


def rows(records: Sequence[Json]) -> list[dict[str, Any]]:
    """One row per model and batch size, in that order; None where nothing was measured."""
    sizes = sorted({(one["model_id"], one["quantization"] or "", one["batch_size"]) for one in records})
    first: dict[tuple[str, str], tuple[float | None, list[str]]] = {}
    found = []
    for model, quantization, size in sizes:
        cell = (model, quantization, size)
        here = [
            one for one in records if (one["model_id"], one["quantization"] or "", one["batch_size"]) == cell
        ]
        means = {
            name: mean_std([one[name] for one in here if one.get(name) is not None])
            for name in ("tok_per_s", "prefill_tok_per_s", "decode_tok_per_s", "joule_per_token")
        }
        rate, ids = means["tok_per_s"][0], [one["ids_sha256"] for one in here[0]["sequences"]]
        base, base_ids = first.setdefault((model, quantization), (rate, ids))
        found.append(
            {
                "model_id": model,
                "quantization": quantization or None,
                "batch_size": size,
                "n": len(here),
                **{name: mean for name, (mean, _) in means.items()},
                "joule_per_token_n": sum(one.get("joule_per_token") is not None for one in here),
                "tok_per_s_std": means["tok_per_s"][1],
                "ratio": rate / base if rate is not None and base else None,
                # Of other prompts there is nothing to compare.
                "same_answers": sum(map(str.__eq__, ids, base_ids)) if len(ids) == len(base_ids) else None,
                "answers": len(ids),
                "simulated_power": any("simulated_power" in one["flags"] for one in here),
            }
        )
    return found


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table_of(path: Path, keys: Collection[str]) -> str:
    """The table of these measurements in a file of records, for a terminal. Raises OSError.

    A mean of answers of 2 and of 200 tokens would be of nothing, so that other settings stay out.
    """
    records, failed = read_records(path, keys)
    others = len({one.get("run_key") for one in measurements_in(path)} - {*keys})
    return format_table(rows(records), failed, others)


def format_table(found: Sequence[Json], failed: int, others: int = 0) -> str:
    """The rows for a terminal of 80 columns; `others`: measurements of other settings in their file."""
    head = f"{'model':{NAME_WIDTH}} batch {'tok/s':>15} ratio {'prefill':>8} {'decode':>7} J/token  same"
    lines = [head]
    for row in found:
        name = row["model_id"]
        name = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."
        std = "" if row["tok_per_s_std"] is None else f" ± {row['tok_per_s_std']:.1f}"
        same = "-" if row["same_answers"] is None else f"{row['same_answers']}/{row['answers']}"
        rates = f"{shown(row['prefill_tok_per_s'], '.0f'):>8} {shown(row['decode_tok_per_s'], '.1f'):>7}"
        lines.append(
            f"{name:{NAME_WIDTH}} {row['batch_size']:>5} {shown(row['tok_per_s'], '.1f') + std:>15}"
            f" {shown(row['ratio'], '.2f'):>5} {rates} {shown(row['joule_per_token'], '.3g'):>7} {same:>5}"
        )
    for row in found:
        if 0 < row["joule_per_token_n"] < row["n"]:
            repeats = f"{row['joule_per_token_n']} of {row['n']} repeats"
            lines.append(f"J/token of {row['model_id']} batch {row['batch_size']}: the mean of {repeats}")
    if any(row["simulated_power"] for row in found):
        lines.append("SIMULATED power, not measured here")
    if failed:
        lines.append(f"{failed} failed, left out; do them again with --retry_errors")
    if others:
        lines.append(
            f"{counted(others, 'measurement')} of other models or settings in this file: not in the table"
        )
    return "\n".join(lines)
