"""What the sweeps of speculative decoding came to: Markdown, CSV, JSON and a plot per grid.

Reads the result files that sweep_speculative.py leaves, and those of the original experiment (vLLM, the same
names in summary.per_mode). Into --outdir go

  summary.csv    one row per result and mode: the columns of the original's summary, then ours
  summary.json   the same rows, with acceptance by position, the best configuration of each workload, notes
  summary.md     for people, and <grid>.png, a plot per grid: both by report.py

Ratios are sums over the same requests, below 1 is better than the reference; their 95 % intervals come from a
bootstrap that draws whole requests (or batches, where a file knows no requests). The reference of our cells
is plain decoding interleaved in the same process, else the plain cell of the workload; the original has no
plain decoding, so there it is the fixed draft length of the same settings. Profiled runs are listed and never
compared. Latency s or ms, energy J above idle.

Example:
  python companions/sweep_speculative.py summary sweeps --outdir results/sweeps
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import write_whole
from edgebench.shell.door import Parser
from edgebench.speculation.report import write_report
from edgebench.stats.intervals import bootstrap_ratio, quantile

# The columns of the original's summary, in its order: where they stand in a file of the original.
CONFIG_COLUMNS = (
    "target_model",
    "drafter_model",
    "scenario",
    "num_requests",
    "draft_tokens",
    "batches",
    "temperature",
    "max_new_tokens",
    "adaptive_draft_length",
    "confidence_threshold",
    "tensor_parallel_size",
    "enable_ncu",
    "profile_only",
)
MODE_COLUMNS = (
    "scv_mode",
    "nwor_mode",
    "latency_avg_s",
    "latency_p50_s",
    "latency_p95_s",
    "nwor_tokens_committed",
    "nwor_tokens_staged",
    "nwor_writes_saved_pct",
    "spec_num_drafts",
    "spec_num_draft_tokens",
    "spec_num_accepted_tokens",
    "spec_avg_accepted_per_window",
    "spec_acceptance_ratio",
    "ncu_metrics",
)
OUR_COLUMNS = (
    "grid",
    "role",
    "latency_ms_per_request",
    "ttft_avg_ms",
    "decode_tok_per_s",
    "tokens_stopped_by_confidence",
    "total_confidence_checks",
    "energy_joule_per_request",
    "joule_per_output_token",
    "power_source",
    "power_simulated",
    "energy_reason",
    "emc_load_percent_mean",
    "reference",
    "latency_ratio",
    "latency_ratio_low",
    "latency_ratio_high",
    "energy_ratio",
    "energy_ratio_low",
    "energy_ratio_high",
    "outputs",
    "outputs_identical",
    "first_difference_min",
    "repeats_identical",
    "stopped_ratio",
    "fixed_latency_ratio",
    "fixed_latency_ratio_low",
    "fixed_latency_ratio_high",
    "fixed_drafted_ratio",
    "fixed_dram_write_ratio",
)
DRAM_WRITE = "dram__bytes_write.sum"
DRIFT = 0.05  # from here on a difference between sessions is worth a note
Row = dict[str, Any]


# ---------------------------------------------------------------------------
# Reading


def read_results(paths: Sequence[Path]) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """(file, document) of every result below the paths, and notes on what is none. Raises UserError."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}; give the folder of a sweep")
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found, notes = [], []
    for file in dict.fromkeys(files):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            notes.append(f"{file}: unreadable, left out ({exc})")
            continue
        summary = document.get("summary") if isinstance(document, dict) else None
        modes = summary.get("per_mode") if isinstance(summary, dict) else None
        if isinstance(modes, list) and all(isinstance(mode, dict) for mode in modes):
            found.append((file, document))
    if not found:
        raise UserError(f"no result in {', '.join(map(str, paths))}: run a grid first")
    return found, notes


def our_config(document: Mapping[str, Any]) -> Row:
    """The original's configuration columns for a cell of ours; its own where the file is the original's."""
    config, sweep = document.get("config") or {}, document.get("sweep")
    if not sweep:
        return {name: config.get(name) for name in CONFIG_COLUMNS}
    cell = sweep["config"]
    adaptive = {"off": 0, "published": 1, "cost": 1}.get(cell.get("adaptive"))
    return {
        "target_model": Path(sweep["model"]).name,
        "drafter_model": Path(sweep["draft"]).name if cell.get("drafter") == "model" else cell.get("drafter"),
        "scenario": cell["scenario"],
        "num_requests": cell["requests"],
        "draft_tokens": cell.get("draft_tokens"),
        "batches": cell["batches"],
        "temperature": cell["temperature"],
        "max_new_tokens": cell["max_tokens"],
        "adaptive_draft_length": adaptive,
        "confidence_threshold": cell.get("threshold"),
        "tensor_parallel_size": None,
        "enable_ncu": bool(document["summary"]["per_mode"][0].get("ncu")),
        "profile_only": False,
    }


def make_rows(file: Path, document: Mapping[str, Any]) -> list[Row]:
    """One row per mode of a file; `_` fields are for comparing and are not written."""
    sweep = document.get("sweep") or {}
    rows = []
    for mode in document["summary"]["per_mode"]:
        if not mode["latency_avg_s"] > 0:
            raise ValueError("latency_avg_s is not above 0")
        results = [
            result
            for result in document.get("results") or []
            if all(result.get(name) == mode.get(name) for name in ("nwor_mode", "scv_mode"))
        ]
        energy, emc = mode.get("energy") or {}, mode.get("emc") or {}
        row = {"file": file.name, **our_config(document)}
        row |= {name: mode.get(name) for name in (*MODE_COLUMNS, *OUR_COLUMNS)}
        row |= {name: energy.get(name) for name in ("energy_joule_per_request", "joule_per_output_token")}
        row |= {
            "grid": sweep.get("grid") or file.parent.name,
            "role": sweep.get("role"),
            "power_source": energy.get("power_source"),
            "power_simulated": energy.get("simulated"),
            "energy_reason": energy.get("reason"),
            "emc_load_percent_mean": emc.get("emc_load_percent_mean"),
            "accept_by_position": [
                place.get("accept_ratio") if isinstance(place, dict) else place
                for place in mode.get("accept_by_position") or []
            ],
            "judged_by_position": [
                place.get("judged") if isinstance(place, dict) else None
                for place in mode.get("accept_by_position") or []
            ],
            "_least": quotient(mode.get("target_steps"), mode.get("output_tokens")),
            "_path": file,
            "_results": results,
            "_plain": document.get("plain") or [],
            "_energy": joules_by_batch(energy.get("per_batch")),
            "_plain_energy": joules_by_batch(energy.get("plain_per_batch")),
            "_cell": sweep.get("config"),
            "_started": sweep.get("started_at"),
        }
        row |= determinism(results, row["temperature"])
        latencies = list(request_ms(results).values())
        row["latency_ms_per_request"] = sum(latencies) / len(latencies) if latencies else None
        rows.append(row)
    return rows


def joules_by_batch(rows: Iterable[Mapping[str, Any]] | None) -> dict[int, float]:
    """Net energy [J] of the batches that have one."""
    return {row["batch_index"]: row["energy_joule"] for row in rows or [] if row["energy_joule"] is not None}


def request_ms(results: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, Any], float]:
    """Latency [ms] by (batch, request)."""
    return {
        (result.get("batch_index"), output.get("id")): float(output["latency_ms"])
        for result in results
        for output in result.get("outputs") or []
        if isinstance(output, dict) and isinstance(output.get("latency_ms"), int | float)
    }


def determinism(results: Sequence[Mapping[str, Any]], temperature: float | None) -> Row:
    """At temperature 0: outputs that equal plain decoding, and requests that came twice and were the same."""
    outputs = [o for result in results for o in result.get("outputs") or [] if isinstance(o, dict)]
    if temperature or not outputs:
        return dict.fromkeys(("outputs", "outputs_identical", "first_difference_min", "repeats_identical"))
    texts: dict[Any, list[str]] = {}
    for output in outputs:
        texts.setdefault((output.get("id"), output.get("level")), []).append(
            json.dumps(output.get("token_ids"))
        )
    again = [len(set(versions)) == 1 for versions in texts.values() if len(versions) > 1]
    compared = [output for output in outputs if "first_difference" in output]
    differences = [o["first_difference"] for o in compared if o["first_difference"] is not None]
    return {
        "outputs": len(compared) or None,
        "outputs_identical": len(compared) - len(differences) if compared else None,
        "first_difference_min": min(differences, default=None),
        "repeats_identical": sum(again) / len(again) if again else None,
    }


# ---------------------------------------------------------------------------
# Comparing


def request_pairs(row: Row, other: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(ours, theirs) summed latency [ms] of every request, over the batches in which both decoded it."""
    ours, theirs = request_ms(row["_results"]), request_ms(other)
    sums: dict[Any, tuple[float, float]] = {}
    for key in ours.keys() & theirs.keys():
        value, reference = sums.get(key[1], (0.0, 0.0))
        sums[key[1]] = value + ours[key], reference + theirs[key]
    return [sums[name] for name in sorted(sums, key=str)]


def workload(row: Row) -> tuple[Any, ...]:
    """What two rows must share to be compared."""
    cell = row["_cell"] or {}
    names = ("target_model", "num_requests", "max_new_tokens", "temperature", "tensor_parallel_size")
    return (*(row[name] for name in names), row["scenario"], cell.get("levels"), cell.get("seed"))


def compare(rows: Sequence[Row]) -> None:
    """Fill in every row's reference and ratios."""
    for row in rows:
        if row["profile_only"] or row["role"] == "plain":
            continue
        if row["role"]:
            compare_with_plain(row, rows)
            compare_in_pair(row, rows)
        else:
            compare_with_fixed(row, rows)


def compare_with_plain(row: Row, rows: Sequence[Row]) -> None:
    """A cell of ours against plain decoding: of its own process, else of the workload's plain cell."""
    twins = [other for other in rows if other["role"] == "plain" and workload(other) == workload(row)]
    twins.sort(key=lambda other: other["_path"].parent != row["_path"].parent)
    pairs = request_pairs(row, row["_plain"])
    if pairs:
        row["reference"] = "plain, same process"
    elif twins:
        pairs, row["reference"] = request_pairs(row, twins[0]["_results"]), twins[0]["file"]
    ratio, row["latency_ratio_low"], row["latency_ratio_high"] = bootstrap_ratio(pairs)
    row["latency_ratio"] = ratio
    # A batch or two of the same process tell no interval; the plain cell's batches may.
    inside = row["_plain_energy"] if len(row["_plain_energy"]) > 2 or not twins else twins[0]["_energy"]
    joules = [(row["_energy"][i], inside[i]) for i in row["_energy"].keys() & inside.keys()]
    if any(joule <= 0 for pair in joules for joule in pair):
        joules = []  # no more than idle within its noise: a ratio of such energies means nothing
    row["energy_ratio"], row["energy_ratio_low"], row["energy_ratio_high"] = bootstrap_ratio(joules)


def compare_in_pair(row: Row, rows: Sequence[Row]) -> None:
    """A cell of ours against fixed drafts of the same length without a threshold, from the same grid."""
    stopped, checks = row["tokens_stopped_by_confidence"], row["total_confidence_checks"]
    # One check ends a whole draft: the share is of the tokens that were to be drafted.
    row["stopped_ratio"] = (
        quotient(stopped, (stopped or 0) + (row["spec_num_draft_tokens"] or 0)) if checks else None
    )
    wanted = (row["grid"], *workload(row), row["draft_tokens"], row["drafter_model"], "fixed")
    for other in rows:
        settings = (other["draft_tokens"], other["drafter_model"], other["role"])
        found = (other["grid"], *workload(other), *settings)
        if found != wanted or other["confidence_threshold"] or other is row:
            continue
        ratios = bootstrap_ratio(request_pairs(row, other["_results"]))
        names = ("fixed_latency_ratio", "fixed_latency_ratio_low", "fixed_latency_ratio_high")
        row.update(zip(names, ratios, strict=True))
        row["fixed_drafted_ratio"] = quotient(row["spec_num_draft_tokens"], other["spec_num_draft_tokens"])
        writes = [(side["ncu_metrics"] or {}).get(DRAM_WRITE) for side in (row, other)]
        row["fixed_dram_write_ratio"] = quotient(*writes)
        return


def quotient(value: float | None, reference: float | None) -> float | None:
    """value / reference where both are known."""
    return value / reference if value is not None and reference else None


def compare_with_fixed(row: Row, rows: Sequence[Row]) -> None:
    """A mode of the original against its fixed draft length without any feature, batch by batch."""
    fixed = [
        other
        for other in rows
        if not other["role"]
        and not other["profile_only"]
        and (workload(other), other["draft_tokens"]) == (workload(row), row["draft_tokens"])
        and (other["nwor_mode"], other["scv_mode"]) == ("off", "off")
    ]
    fixed.sort(key=lambda other: other["_path"] != row["_path"])
    if not fixed or fixed[0] is row:
        return
    theirs = {result["batch_index"]: result["latency_s"] for result in fixed[0]["_results"]}
    pairs = [
        (r["latency_s"], theirs[r["batch_index"]]) for r in row["_results"] if r["batch_index"] in theirs
    ]
    row["latency_ratio"], row["latency_ratio_low"], row["latency_ratio_high"] = bootstrap_ratio(pairs)
    session = "" if fixed[0]["_path"] == row["_path"] else ", another session"
    row["reference"] = f"fixed drafts in {fixed[0]['file']}{session}"


# ---------------------------------------------------------------------------
# Notes


def drift_notes(rows: Sequence[Row]) -> list[str]:
    """The same configuration in several files, and plain decoding in the course of a grid."""
    notes = []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if not row["profile_only"]:
            names = ("draft_tokens", "drafter_model", "nwor_mode", "scv_mode", "role")
            groups.setdefault((*workload(row), *(row[name] for name in names)), []).append(row)
    for same in groups.values():
        low, high = (f(same, key=lambda row: row["latency_avg_s"]) for f in (min, max))
        rise = high["latency_avg_s"] / low["latency_avg_s"] - 1
        if low["_path"] != high["_path"] and rise >= DRIFT:
            slow, fast = (
                f"{row['grid']}/{row['file']}" if row["role"] else row["file"] for row in (high, low)
            )
            notes.append(
                f"{high['nwor_mode']}: {high['latency_avg_s']:.4g} s in {slow}, "
                f"{low['latency_avg_s']:.4g} s in {fast} ({rise:+.0%}) for the same configuration: "
                "smaller differences between sessions are no effect"
            )
    cells: dict[tuple[Any, ...], list[tuple[float, str]]] = {}
    for row in rows:
        plain = [ms for key, ms in request_ms(row["_plain"]).items() if key[0] == 0]
        if plain:
            cells.setdefault((row["grid"], *workload(row)), []).append((sum(plain) / len(plain), row["file"]))
    for (grid, *_), means in cells.items():
        rise = max(means)[0] / min(means)[0] - 1
        if rise >= DRIFT:
            notes.append(
                f"{grid}: plain decoding took {min(means)[0]:.4g} ms per request beside {min(means)[1]} and "
                f"{max(means)[0]:.4g} ms beside {max(means)[1]} ({rise:+.0%}): compare within a process only"
            )
    return notes


def check_notes(rows: Sequence[Row]) -> list[str]:
    """Summaries that do not follow from their own batches, and power that was played."""
    notes = []
    for row in rows:
        latencies = [result["latency_s"] for result in row["_results"]]
        told = [row[name] for name in ("latency_avg_s", "latency_p50_s", "latency_p95_s")]
        if not latencies or None in told:
            continue
        found = [sum(latencies) / len(latencies), quantile(latencies, 0.5), quantile(latencies, 0.95)]
        if any(abs(a - b) > 1e-6 * b for a, b in zip(told, found, strict=True)):
            notes.append(
                f"{row['file']} ({row['nwor_mode']}): its latencies give mean, p50, p95 {found}, not {told}"
            )
    notes += [
        f"{row['file']}: latency ratio {row['latency_ratio']:.3f}, though it takes {row['_least']:.3f} of "
        "plain decoding's passes: the machine was not quiet, this is no gain of drafting"
        for row in filter(too_fast, rows)
    ]
    if any(row["power_simulated"] for row in rows):
        notes.append("power is simulated: these Joule are no measurement")
    lonely = [row["file"] for row in rows if row["role"] not in (None, "plain") and row["reference"] is None]
    if lonely:
        notes.append(f"without a plain reference: {', '.join(lonely)}")
    if any(row["role"] is None for row in rows):
        notes.append(
            "the original's files have no plain decoding: whether drafting pays at all they cannot tell"
        )
    return notes


def too_fast(row: Row) -> bool:
    """Whether it beats plain decoding by more than the passes it saves: none is cheaper than a plain one."""
    high, least = row["latency_ratio_high"], row["_least"]
    return bool(row["role"] and high is not None and least and high < least * (1 - DRIFT))


def may_win(row: Row) -> bool:
    """Whether a ratio below 1 can be due to drafts: some were accepted, and they allow as much."""
    return row["spec_num_accepted_tokens"] != 0 and not too_fast(row)


def best_rows(rows: Sequence[Row]) -> list[tuple[Row, Row | None, Row | None]]:
    """Per workload: (any of its rows, the fastest, the thriftiest); None where nothing surely beats plain."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["role"] and row["role"] != "plain" and row["latency_ratio"] is not None:
            groups.setdefault(workload(row), []).append(row)
    best = []
    for group in groups.values():
        picks = []
        for name in ("latency_ratio", "energy_ratio"):
            able = [row for row in group if row[f"{name}_high"] is not None and may_win(row)]
            sure = [row for row in able if row[f"{name}_high"] < 1]
            picks.append(min(sure, key=lambda row: float(row[name]), default=None))
        best.append((group[0], picks[0], picks[1]))
    return best


# ---------------------------------------------------------------------------
# Output


def described(row: Row | None) -> Row | None:
    """A configuration in short, for the list of the best."""
    if row is None:
        return None
    settings = ("file", "grid", "role", "drafter_model", "draft_tokens", "confidence_threshold")
    names = (*settings, "latency_ratio", "energy_ratio", "power_simulated")
    return {name: row[name] for name in names}


def summarize(paths: Sequence[Path]) -> dict[str, Any]:
    """Rows, best configurations and notes. Raises UserError."""
    documents, notes = read_results(paths)
    rows = []
    for file, document in documents:
        try:
            rows += make_rows(file, document)
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            notes.append(f"{file}: no result of this kind, left out ({exc!r})")
    if not rows:
        raise UserError(f"no result that can be read: {'; '.join(notes)}")
    compare(rows)
    best = [
        {
            **{name: any_row[name] for name in ("target_model", "scenario", "num_requests")},
            **{name: any_row[name] for name in ("max_new_tokens", "temperature")},
            "intervals_known": any(
                row["latency_ratio_high"] is not None for row in rows if workload(row) == workload(any_row)
            ),
            "fastest": described(fastest),
            "thriftiest": described(thriftiest),
            "energy_interval_known": any(
                row["energy_ratio_high"] is not None for row in rows if workload(row) == workload(any_row)
            ),
            "energy_known": any(
                row["energy_ratio"] is not None for row in rows if workload(row) == workload(any_row)
            ),
        }
        for any_row, fastest, thriftiest in best_rows(rows)
    ]
    shown = [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]
    return {"rows": shown, "best": best, "notes": [*notes, *check_notes(rows), *drift_notes(rows)]}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All rows, missing values empty, whole or not at all."""
    columns = ["file", *CONFIG_COLUMNS, *MODE_COLUMNS, *OUR_COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        metrics = json.dumps(row["ncu_metrics"]) if row["ncu_metrics"] is not None else None
        writer.writerow(row | {"ncu_metrics": metrics})
    write_whole(path, text.getvalue())


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(
        prog="sweep_speculative.py summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="folders or files of results")
    parser.add_argument("--outdir", type=Path, default=Path("results/sweeps"), help="default: results/sweeps")
    parser.add_argument("--no_plots", action="store_true", help="no PNG files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Summarize, write, report."""
    args = build_parser().parse_args(argv)
    try:
        summary = summarize(args.dirs)
        args.outdir.mkdir(parents=True, exist_ok=True)
        write_csv(summary["rows"], args.outdir / "summary.csv")
        write_whole(args.outdir / "summary.json", json.dumps(summary, indent=1))
        print(write_report(summary, args.outdir, not args.no_plots), flush=True)
    except BrokenPipeError:  # `| head`: the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0
