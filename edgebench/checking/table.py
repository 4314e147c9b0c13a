#!/usr/bin/env python3
"""Run records as a small table: one row per model and level.

Means over the successful runs, each over the runs that have the value (tokens
in, tokens out, TTFT in ms, decode rate in tokens per second, net energy in J);
J per output token with its standard deviation over runs. `fail` counts failed
runs that no later record replaces, `flags` the runs that carry a flag.
A `-` was not measured, a `~` marks simulated power. With --json the rows as a
JSON list on one line.

Example:
  python companions/runs_table.py --runs results/runs_llamacpp.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Column of the row -> field of the record. J per token is derived, so that minimal records have it.
MEANS = {
    "prompt_tokens_mean": "prompt_tokens",
    "completion_tokens_mean": "completion_tokens",
    "ttft_ms_mean": "ttft_ms",
    "decode_tok_per_s_mean": "decode_tok_per_s",
    "energy_joule_mean": "energy_joule",
}
HEAD = f"  {'level':8} {'n':>4} {'fail':>4} {'in':>5} {'out':>5} {'TTFT ms':>8} {'tok/s':>7} {'J net':>8}"
HEAD += f" {'J/token ± std':>15} {'flags':>5}"


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1). No values: (None, None); one value: (mean, None)."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def numbers(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The finite numbers under one name; a missing or null value is left out, never a zero."""
    found = [record.get(name) for record in records]
    return [
        float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]


def joule_per_token(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Net energy over output tokens [J] of each record that has both."""
    pairs = [
        (numbers([record], "energy_joule"), numbers([record], "completion_tokens")) for record in records
    ]
    return [energy[0] / tokens[0] for energy, tokens in pairs if energy and tokens and tokens[0] > 0]


def make_row(model: str, level: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row; values are null when no successful run has them."""
    done = [record for record in records if not record.get("error")]
    keys = {record.get("run_key") for record in done} - {None}
    failed = [record for record in records if record.get("error") and record.get("run_key") not in keys]
    row: dict[str, Any] = {"model_id": model, "level": level, "n": len(done), "failed": len(failed)}
    row |= {column: mean_std(numbers(done, name))[0] for column, name in MEANS.items()}
    row["joule_per_output_token_mean"], row["joule_per_output_token_std"] = mean_std(joule_per_token(done))
    flags = [record["flags"] for record in done if isinstance(record.get("flags"), list)]
    row["flagged"] = sum(bool(flag) for flag in flags)
    row["simulated_power"] = any("simulated_power" in flag for flag in flags)
    return row


def make_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order in which models first appear, levels by name with the placebo last."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        key = (str(record.get("model_id", "?")), str(record.get("level", "?")))
        groups.setdefault(key, []).append(record)
    rows = [make_row(model, level, group) for (model, level), group in groups.items()]
    # The order of runs is shuffled by design, that of the table is not.
    models = list(dict.fromkeys(row["model_id"] for row in rows))
    return sorted(rows, key=lambda row: (models.index(row["model_id"]), row["level"] == "P", row["level"]))


def shown(value: float | None, digits: int, mark: str = "") -> str:
    return "-" if value is None else f"{mark}{value:.{digits}f}"


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of at most 80 columns, one block per model."""
    lines, model = [], None
    for row in rows:
        if row["model_id"] != model:
            model = row["model_id"]
            lines += [model[:78], HEAD]
        mark = "~" if row["simulated_power"] else ""
        per_token = shown(row["joule_per_output_token_mean"], 3, mark)
        if row["joule_per_output_token_std"] is not None:
            per_token += f" ± {row['joule_per_output_token_std']:.3f}"
        lines.append(
            f"  {row['level'][:8]:8} {row['n']:>4} {row['failed']:>4}"
            f" {shown(row['prompt_tokens_mean'], 0):>5} {shown(row['completion_tokens_mean'], 0):>5}"
            f" {shown(row['ttft_ms_mean'], 1):>8} {shown(row['decode_tok_per_s_mean'], 1):>7}"
            f" {shown(row['energy_joule_mean'], 2, mark):>8} {per_token:>15} {row['flagged']:>5}"
        )
    if any(row["simulated_power"] for row in rows):
        lines.append("~ simulated power, not a measurement")
    return "\n".join(lines) or "no runs"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, type=Path, metavar="JSONL", help="run records")
    parser.add_argument("--json", action="store_true", help="the rows as a JSON list")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        rows = make_rows([record for _, record in read_jsonl(args.runs) if record])
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        print(f"error: {args.runs}: {reason}; --runs names the collector's output file", file=sys.stderr)
        return 1
    print(json.dumps(rows) if args.json else format_rows(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
