#!/usr/bin/env python3
"""Which runs count: reads run records of one or several boards and writes one clean table of those that do.

Reads runs_llamacpp.jsonl files (or .gz, globs, minimal records of eight fields) and the environment records
beside them. Runs with an error or a hard flag are left out, listed and counted; of two records with one
run_key the last good one counts. Records of one model on one board that differ in power scope, power mode,
quantization or model file are different experiments: the script refuses to mix them unless --allow_mixed.

Output: a table (CSV, one row per run that counts: ms, J, tokens; empty is missing) and a selection (JSON:
inputs with hashes, models, counts, flags, runs left out). analyze_levels.py runs this script first.

Example:
    python companions/select_runs.py --runs results/runs_llamacpp.jsonl --table results/runs_table.csv \\
        --out results/selection.json
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# Runs that measure something else than the cold, complete answer they stand for.
HARD_FLAGS = frozenset(
    {"warm_cache", "prompt_not_evaluated", "token_mismatch", "implausible_rate", "timeout", "interrupted"}
)
NUMBERS = (
    "prompt_tokens",
    "completion_tokens",
    "latency_ms",
    "energy_joule",
    "ttft_ms",
    "energy_prefill_joule",
    "energy_decode_joule",
    "decode_tok_per_s",
)
MAY_BE_NEGATIVE = {"energy_joule", "energy_prefill_joule", "energy_decode_joule"}  # net of idle, not clamped
TABLE = ("group", "id", "turn", "level", "repeat", "t_s", *NUMBERS)
SIDE_FILES = (".env.jsonl", ".journal.jsonl")  # a glob like results/*.jsonl catches them too


class SelectError(Exception):
    """Something the user can put right: a missing file, runs that must not be averaged together."""


@dataclass(frozen=True)
class Run:
    """One record as far as the statistics need it."""

    group: tuple[str | None, str]  # board, model_id
    id: str
    turn: str
    level: str
    repeat: str | None
    t_s: float | None  # seconds since 1970, for the order of runs only
    numbers: tuple[float | None, ...]  # NUMBERS
    flags: tuple[str, ...]
    error: str | None
    run_key: str | None

    def left_out_because(self) -> str | None:
        """Why no mean may hold this run, or None."""
        hard = [flag for flag in self.flags if flag in HARD_FLAGS]
        return f"error: {self.error}" if self.error else f"flag: {', '.join(hard)}" if hard else None


@dataclass
class Facts:
    """What the records of one model on one board say about how they were measured; each a set of values
    seen.
    """

    power_scope: set[str] = field(default_factory=set)
    power_source: set[str] = field(default_factory=set)
    power_mode: set[str] = field(default_factory=set)
    quantization: set[str] = field(default_factory=set)
    model_sha256: set[str] = field(default_factory=set)
    env_id: set[str] = field(default_factory=set)
    simulated_power: set[str] = field(default_factory=set)

    def add(self, **seen: Any) -> None:
        for name, value in seen.items():
            if value is not None and value != "":
                getattr(self, name).add(str(value))


MUST_NOT_MIX = {
    "power_scope": "power scopes",
    "power_mode": "power modes",
    "quantization": "quantizations",
    "model_sha256": "model files",
}


# --- one record ---


def finite(value: Any, negative: bool) -> float | None:
    """A finite number, or None: a string, a NaN, a negative time or count is not a measurement."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if negative or value >= 0 else None


def seconds(started_at: Any) -> float | None:
    """RFC 3339 time as seconds since 1970; None if it is missing or something else."""
    try:
        # Python 3.10 does not know the Z.
        moment = datetime.fromisoformat(str(started_at).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def run_of(record: Mapping[str, Any], board: str | None) -> Run | None:
    """The run in a record, or None without a task, a model or a level."""
    task = next(
        (record[name] for name in ("id", "question_id", "task_id") if record.get(name) is not None), None
    )
    model, level = record.get("model_id"), record.get("level")
    if task in (None, "") or model in (None, "") or level in (None, ""):
        return None
    error, flags = record.get("error"), record.get("flags")
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("type") or "unnamed"
    names = [str(flag) for flag in flags] if isinstance(flags, list) else []
    evaluated = record.get("prompt_tokens_evaluated")
    if evaluated is not None and evaluated != record.get("prompt_tokens") and not HARD_FLAGS & set(names):
        names.append("prompt_not_evaluated")
    repeat = record.get("repeat")
    return Run(
        group=(board, str(model)),
        id=str(task),
        turn=str(record.get("turn") or 1),
        level=str(level),
        repeat=None if repeat is None else str(repeat),
        t_s=seconds(record.get("started_at")),
        numbers=tuple(finite(record.get(name), name in MAY_BE_NEGATIVE) for name in NUMBERS),
        flags=tuple(names),
        error=str(error) if error else None,
        run_key=None if record.get("run_key") is None else str(record["run_key"]),
    )


def board_facts(env: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an environment record says of the machine: nested under `board`, or flat."""
    inner = env.get("board")
    return inner if isinstance(inner, Mapping) else env


def board_of(env: Mapping[str, Any]) -> str | None:
    """The board an environment record names."""
    name = board_facts(env).get("board") or board_facts(env).get("name")
    return str(name) if name else None


def model_sha256(env: Mapping[str, Any], model_id: str) -> str | None:
    """The SHA-256 an environment record gives for a model's file; models keyed by model_id, or a list."""
    models = env.get("models")
    rows = models if isinstance(models, list) else []
    if isinstance(models, Mapping):
        rows = [{"model_id": name, **row} for name, row in models.items() if isinstance(row, Mapping)]
    for row in rows:
        if isinstance(row, Mapping) and row.get("model_id") == model_id:
            digest = row.get("sha256") or row.get("model_sha256")
            return str(digest) if digest else None
    return None


# --- files ---


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


def expand(patterns: Sequence[str]) -> list[Path]:
    """Files named or matched, sorted within a pattern, each once; a pattern without a file is an error."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        anchor = Path(pattern).anchor
        matches = sorted(Path(anchor or ".").glob(str(Path(pattern).relative_to(anchor))))
        matched = [Path(pattern)] if Path(pattern).exists() else matches
        if len(matched) > 1:
            matched = [path for path in matched if not path.name.removesuffix(".gz").endswith(SIDE_FILES)]
        if not matched:
            raise SelectError(f"no file {pattern}; --runs takes files, .gz files and globs")
        found |= dict.fromkeys(matched)
    return list(found)


def environments(runs: Path, extra: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Environment records by env_id: those beside a runs file, and those given; and the files they came
    from.
    """
    stem = runs.name.removesuffix(".gz").removesuffix(".jsonl")
    beside = [path for end in ("", ".gz") if (path := runs.with_name(f"{stem}.env.jsonl{end}")).exists()]
    records: dict[str, dict[str, Any]] = {}
    for path in [*extra, *beside]:
        records |= {str(record.get("env_id")): record for _, record in read_jsonl(path) if record}
    return records, [*extra, *beside]


def sha256(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass
class Campaign:
    """Everything read, over all files."""

    runs: list[Run] = field(default_factory=list)
    facts: dict[tuple[str | None, str], Facts] = field(default_factory=lambda: defaultdict(Facts))
    inputs: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    torn: int = 0
    nameless: int = 0

    def read(self, path: Path, extra_env: Sequence[Path]) -> None:
        """Add one runs file."""
        env_records, env_files = environments(path, extra_env)
        alone = next(iter(env_records.values())) if len(env_records) == 1 else {}
        before = (self.records, self.torn)
        for _, record in read_jsonl(path):
            if record is None:
                self.torn += 1
                continue
            self.records += 1
            env = env_records.get(str(record.get("env_id")), alone)
            run = run_of(record, str(record["board"]) if record.get("board") else board_of(env))
            if run is None:
                self.nameless += 1
                continue
            self.runs.append(run)
            self.note_facts(run, record, env)
        torn, records = self.torn - before[1], self.records - before[0]
        self.inputs.append(
            {
                "path": str(path),
                "kind": "runs",
                "sha256": sha256(path),
                "records": records,
                "torn_lines": torn,
            }
        )
        for env_file in env_files:
            if all(row["path"] != str(env_file) for row in self.inputs):
                self.inputs.append({"path": str(env_file), "kind": "env", "sha256": sha256(env_file)})

    def note_facts(self, run: Run, record: Mapping[str, Any], env: Mapping[str, Any]) -> None:
        """Remember under which conditions the run was measured; a run left out anyway says nothing."""
        if run.left_out_because():
            return
        simulated = "simulated_power" in run.flags or record.get("power_source") == "replay"
        self.facts[run.group].add(
            power_scope=record.get("power_scope"),
            power_source=record.get("power_source"),
            power_mode=board_facts(env).get("power_mode_name") or board_facts(env).get("power_mode"),
            quantization=record.get("quantization"),
            model_sha256=model_sha256(env, run.group[1]),
            env_id=record.get("env_id"),
            simulated_power="yes" if simulated else None,
        )


# --- the selection ---


def current(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """One run per board and run_key, the last good one, else the last; and how many that superseded."""
    kept: dict[tuple[Any, ...], Run] = {}
    for number, run in enumerate(runs):
        key = (run.group, number) if run.run_key is None else (run.group, None, run.run_key)
        before = kept.get(key)
        if before is None or not run.left_out_because() or before.left_out_because():
            kept[key] = run
    return list(kept.values()), len(runs) - len(kept)


def mixed(facts: Mapping[tuple[str | None, str], Facts]) -> list[str]:
    """One sentence per model and board whose runs were measured under different conditions."""
    sentences = []
    for (board, model), seen in sorted(facts.items(), key=lambda item: (item[0][0] or "", item[0][1])):
        for name, words in MUST_NOT_MIX.items():
            values = sorted(getattr(seen, name))
            if len(values) > 1:
                where = f"{model} on {board}" if board else model
                shown = ", ".join(value[:12] if name == "model_sha256" else value for value in values)
                sentences.append(f"{where} has runs of different {words}: {shown}")
    return sentences


def describe_models(campaign: Campaign, used: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per board and model; the row's place is the `group` of the table."""
    rows = []
    for group in sorted({run.group for run in used}, key=lambda group: (group[0] or "", group[1])):
        own = [run for run in used if run.group == group]
        seen = {
            name: "+".join(sorted(values)) or None for name, values in asdict(campaign.facts[group]).items()
        }
        cells = Counter((run.id, run.turn, run.level) for run in own)
        row: dict[str, Any] = {"board": group[0], "model_id": group[1], "runs": len(own)}
        row |= {name: seen[name] for name in ("power_scope", "power_source", "power_mode", "quantization")}
        row |= {"simulated_power": seen["simulated_power"] == "yes", "tasks": len({run.id for run in own})}
        rows.append(row | {"repeats_max": max(cells.values()), "model_sha256": seen["model_sha256"]})
    return rows


def flag_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How often each flag was seen, per board and model."""
    seen = Counter((run.group, flag) for run in runs for flag in run.flags)
    rows = [
        {"board": board, "model_id": model, "flag": flag, "runs": n, "hard": flag in HARD_FLAGS}
        for ((board, model), flag), n in seen.items()
    ]
    return sorted(rows, key=lambda row: (row["board"] or "", row["model_id"], row["flag"]))


def select(campaign: Campaign, args: argparse.Namespace) -> tuple[list[Run], dict[str, Any]]:
    """The runs that count and the selection; SelectError if different experiments would be mixed."""
    sentences = mixed(campaign.facts)
    if sentences and not args.allow_mixed:
        raise SelectError("; ".join(sentences) + ". Give the runs apart, or mix them with --allow_mixed")
    runs, superseded = current(campaign.runs)
    out = [(run, why) for run in runs if (why := run.left_out_because())]
    used = runs if args.include_flagged else [run for run in runs if not run.left_out_because()]
    left_out: list[dict[str, Any]] = [
        {"board": run.group[0], "model_id": run.group[1], "level": run.level, "id": run.id}
        | {"repeat": run.repeat, "why": why}
        for run, why in out
    ]
    counts = {"records": campaign.records, "used": len(used), "torn_lines": campaign.torn}
    counts |= {"superseded": superseded, "without_level_or_model": campaign.nameless}
    errors = sum(bool(run.error) for run, _ in out)
    counts |= {"errors": errors, "hard_flags": len(out) - errors}
    selection: dict[str, Any] = {
        "inputs": campaign.inputs,
        "counts": counts,
        "mixed": sentences,
        "flags": flag_rows(runs),
    }
    selection["left_out"] = sorted(left_out, key=lambda row: [str(value) for value in row.values()])
    return used, selection | {"models": describe_models(campaign, used)}


def write_table(path: Path, used: Sequence[Run], models: Sequence[Mapping[str, Any]]) -> None:
    """The clean table; full precision, empty is missing."""
    place = {(row["board"], row["model_id"]): number for number, row in enumerate(models)}
    # A lone surrogate in a name is no UTF-8: it is written as its escape.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
        table = csv.writer(out)
        table.writerow(TABLE)
        for run in used:
            table.writerow((place[run.group], run.id, run.turn, run.level, run.repeat, run.t_s, *run.numbers))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", required=True, help="run records: files, .gz files, globs")
    parser.add_argument("--env", nargs="*", type=Path, default=[], help="environment records elsewhere")
    parser.add_argument("--include_flagged", action="store_true", help="keep runs with errors or hard flags")
    parser.add_argument("--allow_mixed", action="store_true", help="average over different conditions")
    parser.add_argument("--table", type=Path, required=True, help="the table to write (CSV)")
    parser.add_argument("--out", type=Path, required=True, help="the selection to write (JSON)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    campaign = Campaign()
    try:
        for path in expand(args.runs):
            campaign.read(path, args.env)
        used, selection = select(campaign, args)
        write_table(args.table, used, selection["models"])
        args.out.write_text(json.dumps(selection, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except (SelectError, EOFError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: {exc.filename or args.out}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
