"""Result files of sweeps, ours and the original experiment's, read into typed results.

A file holds one member of summary.per_mode per mode, and results[], one entry per batch of requests; ours
also plain[], the same requests decoded plainly in the same process. Every request stands for itself: its key
is its batch and its place in it, and never the id of its prompt, which comes again when there are more
requests than prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.account import by_key

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
OWN_MODE_COLUMNS = (
    "ttft_avg_ms",
    "decode_tok_per_s",
    "tokens_stopped_by_confidence",
    "total_confidence_checks",
)
ENERGY_COLUMNS = ("energy_joule_per_request", "joule_per_output_token")
ROLES = ("plain", "fixed", "published", "cost")  # of a cell of ours
WORDS = ("scv_mode", "nwor_mode", "ncu_metrics")  # of the modes' columns; all others are numbers
PlaceInRun = tuple[int, int]  # batch, place in the batch: one request
Columns = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One request of a batch as it was answered."""

    place: PlaceInRun
    prompt: tuple[Any, Any]  # id and level: several requests may ask the same
    latency_ms: float | None
    output_tokens: int | None


@dataclass(frozen=True)
class Place:
    """A position in the draft."""

    accept_ratio: float | None
    judged: int | None  # how often a token there was judged; None in the original's files


@dataclass
class Result:
    """One mode of one file. `columns` is its row of summary.csv, to which comparing.py adds its own."""

    path: Path
    columns: Columns
    answers: list[Answer]
    plain: list[Answer]  # the same requests without drafts, in the same process
    latency_s: dict[int, float]  # by batch
    joules: dict[int, float]  # by batch, net of idle; batches that have none are not in it
    plain_joules: dict[int, float]
    thin_batches: frozenset[int]  # whose energy, or that of plain decoding beside them, has few samples
    positions: list[Place]
    cell: Mapping[str, Any] | None  # what defined it, if it is one of ours
    least_ratio: float | None  # passes of the model per output token: plain decoding takes one
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, column: str) -> Any:
        return self.columns.get(column)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Its file, and its mode there."""
        return self.path, self["nwor_mode"], self["scv_mode"]

    @property
    def is_ours(self) -> bool:
        return self["role"] is not None

    @property
    def is_plain(self) -> bool:
        return bool(self["role"] == "plain")

    @property
    def profiled(self) -> bool:
        """Whether its times are a profiler's: never compared."""
        return bool(self["profile_only"])

    @property
    def name(self) -> str:
        """Its file; with the mode where a file has several."""
        name = str(self["file"]).removesuffix(".json")
        return name if self.is_ours else f"{name} ({self['nwor_mode']}, {self['scv_mode']})"

    @property
    def workload(self) -> tuple[Any, ...]:
        """What two results must share to be compared."""
        cell = self.cell or {}
        names = ("target_model", "num_requests", "max_new_tokens", "temperature", "tensor_parallel_size")
        return (*(self[name] for name in names), self["scenario"], cell.get("levels"), cell.get("seed"))

    @property
    def treatment(self) -> tuple[Any, ...]:
        """How it drafts: what a figure may not be pooled over."""
        names = ("drafter_model", "role", "nwor_mode", "scv_mode", "draft_tokens", "confidence_threshold")
        return tuple(self[name] for name in names)


# --- Files ---


def read_documents(paths: Sequence[Path]) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """(file, document) of every result below the paths, and notes on what is none. Raises UserError.

    A file that is reached in two ways is read once.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}; give the folder of a sweep")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            files.setdefault(file.resolve(), file)
    found, notes = [], []
    for file in files.values():
        try:
            # NaN and Infinity, which other programs write, are missing.
            document = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        except (OSError, ValueError, RecursionError) as exc:
            notes.append(f"{file}: unreadable, left out ({exc})")
            continue
        summary = document.get("summary") if isinstance(document, dict) else None
        modes = summary.get("per_mode") if isinstance(summary, dict) else None
        if isinstance(modes, list) and all(isinstance(mode, dict) for mode in modes):
            found.append((file, document))
    if not found:
        raise UserError(f"no result in {', '.join(map(str, paths))}: run a grid first")
    return found, notes


def read_results(paths: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Every result below the paths, and notes on what was left out, and why. Raises UserError."""
    documents, notes = read_documents(paths)
    results = []
    for file, document in documents:
        try:
            results += results_of(file, document)
        except (LookupError, TypeError, ValueError, AttributeError, UserError) as exc:
            said = str(exc) if isinstance(exc, UserError) else repr(exc)
            notes.append(f"{file}: no result of this kind, left out ({said})")
    if not results:
        raise UserError(f"no result that can be read: {'; '.join(notes)}")
    return results, notes


def results_of(file: Path, document: Mapping[str, Any]) -> list[Result]:
    """One result per mode of a file.

    LookupError, TypeError, ValueError or AttributeError where it is none of this kind, DoubledKey where a
    mode or a batch stands there twice.
    """
    modes = document["summary"]["per_mode"]
    by_key(modes, lambda mode: (mode["nwor_mode"], mode["scv_mode"]), "mode")
    return [result_of(file, document, mode) for mode in modes]


def result_of(file: Path, document: Mapping[str, Any], mode: Mapping[str, Any]) -> Result:
    """One mode of a file. Raises as `results_of` does."""
    if not mode["latency_avg_s"] > 0:
        raise ValueError("latency_avg_s is not above 0")
    sweep, energy = document.get("sweep") or {}, mode.get("energy") or {}
    entries = [
        entry
        for entry in document.get("results") or []
        if all(entry.get(name) == mode.get(name) for name in ("nwor_mode", "scv_mode"))
    ]
    batches = by_key(numbered(entries), lambda pair: pair[0], "batch")
    plain = by_key(numbered(document.get("plain") or []), lambda pair: pair[0], "plain batch")
    config = config_columns(document)
    columns: Columns = {
        "file": file.name,
        **config,
        **{name: mode.get(name) for name in (*MODE_COLUMNS, *OWN_MODE_COLUMNS)},
        **{name: energy.get(name) for name in ENERGY_COLUMNS},
        "grid": sweep.get("grid") or file.parent.name,
        "role": sweep.get("role"),
        "power_source": energy.get("power_source"),
        "power_simulated": energy.get("simulated"),
        "energy_reason": energy.get("reason"),
        "emc_load_percent_mean": (mode.get("emc") or {}).get("emc_load_percent_mean"),
        "ncu_reason": (mode.get("ncu") or {}).get("reason"),
        **determinism(entries, config["temperature"]),
    }
    passes, tokens = mode.get("target_steps"), mode.get("output_tokens")
    cell = sweep.get("config")
    check_numbers(columns, (name for name in (*MODE_COLUMNS, *OWN_MODE_COLUMNS) if name not in WORDS))
    check_numbers(columns, (*ENERGY_COLUMNS, "draft_tokens", "confidence_threshold"))
    if columns["role"] not in (None, *ROLES):
        raise ValueError(f"the role {columns['role']!r} is none of {', '.join(ROLES)}")
    for batch, entry in batches.values():
        if not is_number(entry["latency_s"]):
            raise ValueError(f"latency_s of batch {batch} is no number")
    odd = [name for name, value in {**config, **(cell or {})}.items() if isinstance(value, dict | list)]
    if odd:
        raise ValueError(f"{odd[0]} is no single value")
    return Result(
        path=file,
        columns=columns,
        answers=answers_of(batches.values()),
        plain=answers_of(plain.values()),
        latency_s={number: entry["latency_s"] for number, entry in batches.values()},
        joules=joules_by_batch(energy.get("per_batch")),
        plain_joules=joules_by_batch(energy.get("plain_per_batch")),
        thin_batches=thin_batches([*(energy.get("per_batch") or []), *(energy.get("plain_per_batch") or [])]),
        positions=[place_of(value) for value in mode.get("accept_by_position") or []],
        cell=cell,
        least_ratio=passes / tokens if passes is not None and tokens else None,
    )


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_numbers(columns: Columns, names: Iterable[str]) -> None:
    """ValueError where one of these columns is there and is no number."""
    for name in names:
        value = columns.get(name)
        if value is not None and not is_number(value):
            raise ValueError(f"{name} is {value!r}, and no number")


def config_columns(document: Mapping[str, Any]) -> Columns:
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
        "enable_ncu": bool(document["summary"]["per_mode"][0].get("ncu_metrics")),
        "profile_only": False,
    }


# --- What stands in a file ---


def numbered(entries: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """(batch_index, entry); files without the index count their entries."""
    return [(entry.get("batch_index", place), entry) for place, entry in enumerate(entries)]


def answers_of(batches: Any) -> list[Answer]:
    """Every request of (batch, entry) pairs. The original's files list no requests."""
    return [
        answer_of((batch, place), output)
        for batch, entry in batches
        for place, output in enumerate(entry.get("outputs") or [])
    ]


def answer_of(place: PlaceInRun, output: Mapping[str, Any]) -> Answer:
    """One member of outputs."""
    latency_ms, ids = output.get("latency_ms"), output.get("token_ids")
    tokens = output.get("completion_tokens", len(ids) if isinstance(ids, list) else None)
    return Answer(
        place,
        (output.get("id"), output.get("level")),
        float(latency_ms) if isinstance(latency_ms, int | float) else None,
        tokens if isinstance(tokens, int) else None,
    )


def place_of(value: Any) -> Place:
    """A position in the draft: a mapping in our files, a bare ratio in the original's."""
    if isinstance(value, Mapping):
        return Place(value.get("accept_ratio"), value.get("judged"))
    return Place(value, None)


def thin_batches(rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Batches whose energy rests on fewer power samples than tell it."""
    return frozenset(row["batch_index"] for row in rows if "few_power_samples" in (row.get("flags") or ()))


def joules_by_batch(rows: Sequence[Mapping[str, Any]] | None) -> dict[int, float]:
    """Net energy [J] of the batches that have one. DoubledKey where one stands there twice."""
    found = by_key(rows or [], lambda row: row["batch_index"], "the energy of batch")
    return {batch: row["energy_joule"] for batch, row in found.items() if row["energy_joule"] is not None}


def determinism(entries: Sequence[Mapping[str, Any]], temperature: float | None) -> Columns:
    """At temperature 0: outputs that equal plain decoding, and prompts that came again and got the same."""
    outputs = [output for entry in entries for output in entry.get("outputs") or []]
    if temperature or not outputs:
        return dict.fromkeys(("outputs", "outputs_identical", "first_difference_min", "repeats_identical"))
    said: dict[Any, list[str]] = {}
    for output in outputs:
        said.setdefault((output.get("id"), output.get("level")), []).append(
            json.dumps(output.get("token_ids"))
        )
    again = [len(set(versions)) == 1 for versions in said.values() if len(versions) > 1]
    compared = [output for output in outputs if "first_difference" in output]
    differences = [o["first_difference"] for o in compared if o["first_difference"] is not None]
    return {
        "outputs": len(compared) or None,
        "outputs_identical": len(compared) - len(differences) if compared else None,
        "first_difference_min": min(differences, default=None),
        "repeats_identical": sum(again) / len(again) if again else None,
    }
