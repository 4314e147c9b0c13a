"""Read the runs of a campaign, from one board or many, once, and decide which of them count.

Reads run records (JSON lines, .gz, globs) and the environment record beside each file
(runs_llamacpp.env.jsonl beside runs_llamacpp.jsonl). Gives each run without the answer's text and with board,
power_mode, model_sha256, answer_chars, in_means and left_out (why no mean may hold it, or null) added; then
says where everything came from: provenance (rows of what, name, value), inputs with their hashes, remarks,
counts, the conditions of each model.

A run with an error or a hard flag did not measure what was asked: in_means is false. Of two records with one
run_key on one board the last good one stays. Runs of one model on one board that differ in power scope,
simulated power, power mode, quantization or model file are refused, unless --allow_mixed. Memory grows with
the number of run_keys only, about 150 bytes each.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.analysis import Caveat
from edgebench.records.environment import CONDITIONS, model_sha256
from edgebench.records.jsonl import glued_remark, read_jsonl, what_it_is
from edgebench.records.run import BEYOND_MEASURE, HARD_FLAGS, all_flags_of, as_number, task_of, why_left_out
from edgebench.shell.text import counted, printable

TEXTS = ("id", "category", "level", "started_at", "quantization", "power_source", "power_scope", "power_rail")
NUMBERS = (
    *("turn", "repeat", "prompt_tokens", "prompt_tokens_evaluated", "completion_tokens", "reasoning_tokens"),
    *("latency_ms", "ttft_ms", "tpot_ms", "prefill_tok_per_s", "decode_tok_per_s"),
    *("energy_joule", "energy_gross_joule", "energy_uncertainty_joule", "energy_prefill_joule"),
    *("energy_decode_joule", "idle_mw", "power_mw_mean", "power_mw_max", "power_samples", "power_coverage"),
    *("temp_start_c", "temp_max_c"),
)
# The numbers that means and tests are made of.
MEASURED = (
    *("turn", "repeat", "prompt_tokens", "completion_tokens", "latency_ms", "ttft_ms", "tpot_ms"),
    *("decode_tok_per_s", "energy_joule", "energy_uncertainty_joule", "energy_prefill_joule"),
    "energy_decode_joule",
)
MAY_BE_NEGATIVE = frozenset({"energy_joule", "energy_prefill_joule", "energy_decode_joule"})  # net of idle
FIELDS = (
    "run_key",
    "env_id",
    "question_id",
    "task_id",
    "model_id",
    "flags",
    "error",
    "energy_missing",
    "t0_s",
    *TEXTS,
    *NUMBERS,
)


class GatherError(UserError):
    """Something that the user can put right."""


@dataclass(frozen=True)
class Request:
    """What is to be gathered, and how strictly."""

    runs: Sequence[str]  # files, .gz files, globs
    env: Sequence[Path] = ()  # environment records that do not lie beside the runs
    scores: Path | None = None  # for provenance only
    analysis: Path | None = None  # for provenance only
    allow_mixed: bool = False  # do not refuse different conditions in one mean


@dataclass
class Campaign:
    """What is known while the runs stream by: no record stays in memory, only keys and counts."""

    provenance: list[list[Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    conditions: dict[tuple[str, str], dict[str, set[str]]] = field(default_factory=dict)  # by board, model
    good_models: set[tuple[str, str]] = field(default_factory=set)  # that have a run which counts
    line_of_key: dict[int, int] = field(default_factory=dict)  # of the record that counts
    good: set[int] = field(default_factory=set)  # keys that have a good record
    dropped: set[int] = field(default_factory=set)  # lines that another record supersedes
    lines: int = 0
    nameless: int = 0
    torn: int = 0
    repeated_files: list[str] = field(default_factory=list)  # a sentence on each
    glued: list[str] = field(default_factory=list)  # a sentence on each file with records in one line
    as_text: Counter[str] = field(default_factory=Counter)  # numbers written as text, by field
    no_numbers: Counter[str] = field(default_factory=Counter)  # what stands where a number belongs, by field
    examples: dict[str, Any] = field(default_factory=dict)  # the first of each field of no_numbers


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of a nested object; lists as JSON text.

    >>> list(flatten({"a": {"b": 1}, "c": [1, 2]}))
    [('a.b', 1), ('c', '[1, 2]')]
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value) if isinstance(value, list) else value


def add_context(record: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that are kept, with board, power_mode, model_sha256, in_means and left_out."""
    # The collector puts what board_check.py found under "board", where the board's name is "board" again.
    facts = env["board"] if isinstance(env.get("board"), dict) else env
    modes = (one.get(name) for one in (facts, env) for name in ("power_mode_name", "power_mode"))
    flags = all_flags_of(record)
    why = why_left_out(record.get("error"), flags)
    answer = record.get("output_text")
    return {
        **{name: record[name] for name in FIELDS if name in record},
        "flags": flags,
        "board": str(record.get("board") or facts.get("board") or facts.get("name") or ""),
        "power_mode": next((mode for mode in modes if mode), None),
        "model_sha256": model_sha256(env, str(record.get("model_id"))),
        "answer_chars": len(answer.strip()) if isinstance(answer, str) else None,
        "in_means": why is None,
        "left_out": why,
    }


def note_conditions(campaign: Campaign, run: Mapping[str, Any]) -> None:
    """Remember how a model was run on a board. A run left out says nothing, nor does the power of a run
    without energy.
    """
    key = (run["board"], str(run["model_id"]))
    seen = campaign.conditions.setdefault(key, {name: set() for name in (*CONDITIONS, "power_source")})
    if not run["in_means"]:
        return
    campaign.good_models.add(key)
    values = {name: run.get(name) for name in ("power_mode", "quantization", "model_sha256")}
    if run.get("energy_joule") is not None:
        values |= {name: run.get(name) for name in ("power_scope", "power_source")}
        values["simulated_power"] = "yes" if "simulated_power" in run["flags"] else "no"
    for name, value in values.items():
        if value not in (None, ""):
            seen[name].add(str(value))


def note_key(campaign: Campaign, run: Mapping[str, Any]) -> None:
    """Remember which line has the last good record of a run."""
    if not run.get("run_key"):
        return
    key = hash((run["board"], str(run["run_key"])))
    if key in campaign.line_of_key and key in campaign.good and not run["in_means"]:
        campaign.dropped.add(campaign.lines)
        return
    if key in campaign.line_of_key:
        campaign.dropped.add(campaign.line_of_key[key])
    campaign.line_of_key[key] = campaign.lines
    if run["in_means"]:
        campaign.good.add(key)


def note_numbers(campaign: Campaign, run: Mapping[str, Any]) -> None:
    """Count the numbers that are written as text, and what is no number: -1, "ERROR", "1,5"."""
    for name in MEASURED:
        value = run.get(name)
        if value is None or (type(value) in (float, int) and 0 <= value <= BEYOND_MEASURE) or value != value:
            continue
        number = as_number(value)
        if number is None or (number < 0 and name not in MAY_BE_NEGATIVE):
            campaign.no_numbers[name] += 1
            campaign.examples.setdefault(name, value)
        elif isinstance(value, str):
            campaign.as_text[name] += 1


def noticed(campaign: Campaign) -> list[Caveat]:
    """What the reader of the files met that a reader of the means must know, once all were read."""
    told: list[Caveat] = [
        {"key": "file_twice", "severity": "note", "text": text} for text in campaign.repeated_files
    ]
    told += [{"key": "glued_records", "severity": "note", "text": text} for text in campaign.glued]
    if campaign.dropped:
        records = counted(len(campaign.dropped), "record")
        text = f"{records} left out: the last good one of each run counts"
        told.append({"key": "superseded", "severity": "note", "text": text})
    if campaign.as_text:
        numbers = counted(campaign.as_text.total(), "number")
        text = f"{numbers} written as text ({', '.join(campaign.as_text)}): read as numbers"
        told.append({"key": "numbers_as_text", "severity": "note", "text": text})
    if campaign.no_numbers:
        values = counted(campaign.no_numbers.total(), "value")
        shown = ", ".join(f"{name} ({shown_value(value)})" for name, value in campaign.examples.items())
        cure = comma_cure(campaign.examples.values())
        text = f"{values} where a number belongs, taken as missing: {shown}{cure}"
        told.append({"key": "no_numbers", "severity": "high", "text": text})
    return told


def shown_value(value: Any) -> str:
    """A value as it stands in the record, short."""
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 20 else f"{text[:19]}…")


def comma_cure(values: Iterable[Any]) -> str:
    """What helps where a decimal comma is the fault: "1,500" may be either number."""
    commas = any(isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value) for value in values)
    return "; decimals are written with a point" if commas else ""


def mixtures(campaign: Campaign) -> list[str]:
    """One sentence per difference between the runs of one model on one board."""
    names = {"model_sha256": "model file"} | {name: name.replace("_", " ") for name in CONDITIONS[:4]}
    return [
        f"{model}{f' on {board}' if board else ''}: {names[kind]} "
        + " and ".join(sorted(value[:12] if kind == "model_sha256" else value for value in seen[kind]))
        for (board, model), seen in sorted(campaign.conditions.items())
        for kind in CONDITIONS
        if len(seen[kind]) > 1
    ]


def expand(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths and globs, each once; a glob passes over environment records and journals."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        runs = [name for name in found if name == pattern or not re.search(r"\.(env|journal)\.jsonl", name)]
        if not runs:
            raise GatherError(f"no run records at {pattern}; give the collector's --out_jsonl as --runs")
        files |= {Path(name): None for name in runs}
    return list(files)


def fingerprint(path: Path) -> dict[str, Any]:
    """Path, bytes, SHA-256 and line feeds of a file."""
    digest, size, lines = hashlib.sha256(), 0, 0
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
            size, lines = size + len(block), lines + block.count(b"\n")
    return {"file": str(path), "byte": size, "sha256": digest.hexdigest(), "lines": lines}


def environments(runs: Path, extra: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The environment records given and those beside a runs file, by env_id, each with its file."""
    stem = runs.name.removesuffix(".gz").removesuffix(".jsonl")
    beside = [path for end in ("", ".gz") if (path := runs.with_name(f"{stem}.env.jsonl{end}")).exists()]
    found = ((path, env) for path in [*extra, *beside] for _, env in read_jsonl(path) if env)
    return {str(env.get("env_id")): (path, env) for path, env in found}


def progress(items: Iterable[Any], what: str, total: int | None) -> Iterator[Any]:
    """Pass the items on; a bar with ETA on a terminal (with tqdm), else a line per 200,000, on stderr."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            items = tqdm(items, desc=what, total=total, mininterval=0.5, dynamic_ncols=True)
    for count, item in enumerate(items, 1):
        yield item
        if count % 200_000 == 0 and not sys.stderr.isatty():
            print(f"{what}: {count:,}{f' of {total:,}' if total else ''}", file=sys.stderr, flush=True)


def stream_runs(files: Sequence[Path], extra: Sequence[Path], campaign: Campaign) -> Iterator[dict[str, Any]]:
    """All runs with their context; what the files and boards are goes into the campaign."""
    hashes: dict[str, Path] = {}
    for path in files:
        facts, bad = fingerprint(path), [campaign.nameless, campaign.torn]
        if facts["sha256"] in hashes:
            told = f"{path} is the same file as {hashes[facts['sha256']]}: counted once"
            campaign.repeated_files.append(told)
            continue
        hashes[facts["sha256"]], before = path, campaign.lines
        envs = environments(path, extra)
        only = next(iter(envs.values()))[1] if len(envs) == 1 else {}
        total = None if path.suffix == ".gz" else facts["lines"]
        glued: list[int] = []
        for _, record in progress(read_jsonl(path, glued), path.name, total):
            if record is None:
                campaign.torn += 1
            elif not record.get("model_id") or not record.get("level") or task_of(record) is None:
                campaign.nameless += 1
            else:
                run = add_context(record, envs.get(str(record.get("env_id")), (path, only))[1])
                note_conditions(campaign, run)
                note_key(campaign, run)
                note_numbers(campaign, run)
                campaign.lines += 1
                yield run
        if glued:
            campaign.glued.append(f"{path}: {glued_remark(glued)}")
        read, nameless, torn = campaign.lines - before, campaign.nameless - bad[0], campaign.torn - bad[1]
        note_input(campaign, {**facts, "records": read, "lines left out": nameless + torn}, envs)
        campaign.inputs[-1] |= {"records": read + nameless, "torn_lines": torn}
        campaign.inputs += env_inputs(campaign, envs)


def note_input(
    campaign: Campaign, facts: Mapping[str, Any], envs: Mapping[str, tuple[Path, dict[str, Any]]]
) -> None:
    """Provenance of a runs file and its environments, and a remark on lines that are no run record."""
    campaign.provenance += [["runs", name, value] for name, value in facts.items()]
    for key, (path, env) in envs.items():
        # Records given with --env come again with every runs file.
        if str(path) not in {row["path"] for row in campaign.inputs}:
            campaign.provenance += [[f"environment {key}", *item] for item in flatten(env)]
    campaign.inputs.append({"path": facts["file"], "kind": "runs", "sha256": facts["sha256"]})
    if bad := facts["lines left out"]:
        campaign.remarks.append(
            f"{facts['file']}: {bad:,} lines are no run record (torn, or no id, model_id or level)"
        )


def env_inputs(campaign: Campaign, envs: Mapping[str, tuple[Path, Any]]) -> list[dict[str, Any]]:
    """The environment files that are not listed yet."""
    listed = {row["path"] for row in campaign.inputs}
    files = dict.fromkeys(path for path, _ in envs.values() if str(path) not in listed)
    return [{"path": str(path), "kind": "env", "sha256": fingerprint(path)["sha256"]} for path in files]


def check(wanted: Request, campaign: Campaign) -> list[str]:
    """What --allow_mixed lets stand in one mean, once all runs were read.

    Raises GatherError where there is no run, and where runs must not stand in one mean.
    """
    if not campaign.lines:
        told = [f"{path}: it {what_it_is(path)}" for path in expand(wanted.runs)]
        raise GatherError(f"no run record in {'; '.join(told)} (--runs wants the collector's --out_jsonl)")
    mixed = mixtures(campaign)
    if mixed and not wanted.allow_mixed:
        more = f" (and {len(mixed) - 4} more)" if len(mixed) > 4 else ""
        raise GatherError(
            f"runs that must not be averaged together: {'; '.join(mixed[:4])}{more}. "
            "Give them apart (one --runs and one output each), or mix them with --allow_mixed"
        )
    return mixed


def head(wanted: Request, campaign: Campaign, mixed: Sequence[str]) -> dict[str, Any]:
    """What the runs together say of themselves, once all were read."""
    rows, told_too = campaign.provenance, noticed(campaign)
    remarks = [*campaign.remarks, *(row["text"] for row in told_too)]
    models = []
    for (board, model), seen in sorted(campaign.conditions.items()):
        values = {name: " and ".join(sorted(value)) or "unknown" for name, value in seen.items()}
        where = f"conditions of {model}{f' on {board}' if board else ''}"
        rows += [[where, name.replace("_", " "), value] for name, value in values.items()]
        named = {"board": board, "model_id": model, "in_means": (board, model) in campaign.good_models}
        models.append(named | {name: sorted(seen[name]) for name in seen})
    for name in ("scores", "analysis"):
        path = getattr(wanted, name)
        if path and path.exists():
            rows += [[name, *fact] for fact in fingerprint(path).items()]
    remarks += [f"mixed in one mean, as --allow_mixed says: {what}" for what in mixed]
    rows = [[what, name, None if value is None else str(value)] for what, name, value in rows]
    told: dict[str, Any] = {"provenance": rows, "remarks": remarks, "noticed": told_too, "mixed": [*mixed]}
    told |= {"inputs": campaign.inputs, "models": models, "hard_flags": sorted(HARD_FLAGS)}
    counts = {"torn_lines": campaign.torn, "superseded": len(campaign.dropped)}
    counts["without_level_or_model"] = campaign.nameless
    return told | {"counts": counts, "records": campaign.lines - len(campaign.dropped)}
