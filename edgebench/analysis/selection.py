"""Which runs count, as numbers for statistics: of one reading of the runs' files, in memory.

campaign.py decides: runs with an error or a hard flag are out, of two records with one run_key the last good
one counts, and different experiments are not mixed. This room keeps what statistics need of each run that
counts (ms, J, tokens; None is missing), and lists and counts what is left out.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.analysis import campaign
from edgebench.analysis.campaign import MAY_BE_NEGATIVE, Request
from edgebench.errors import UserError
from edgebench.records.run import as_number, task_of

FACTS = ("power_scope", "power_source", "power_mode", "quantization")
Group = tuple[str, str]  # board ("" is unknown), model_id
Lengths = dict[tuple[str, ...], int]  # characters of an answer by (model, task, turn, level)


class SelectError(UserError):
    """Something the user can put right: a missing file, runs that must not be averaged together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What statistics need of one run."""

    id: str  # the task
    turn: str
    level: str
    repeat: str | None
    t_s: float | None  # the monotonic stamp t0_s; it begins anew at a reboot (records/run: campaign_seconds)
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    latency_ms: float | None = None
    energy_joule: float | None = None
    ttft_ms: float | None = None
    energy_prefill_joule: float | None = None
    energy_decode_joule: float | None = None
    decode_tok_per_s: float | None = None
    tpot_ms: float | None = None  # as recorded, else from latency, TTFT and tokens

    @property
    def cell(self) -> tuple[str, str, str]:
        """Runs of one cell are repeats of one prompt."""
        return self.id, self.turn, self.level

    @property
    def decode_ms(self) -> float | None:
        """From the first token to the last."""
        if self.latency_ms is None or self.ttft_ms is None:
            return None
        return self.latency_ms - self.ttft_ms

    def value(self, metric: str) -> float | None:
        """One of the numbers by its name."""
        number: float | None = getattr(self, metric)
        return number


NUMBERS = tuple(
    name for name in Measured.__dataclass_fields__ if name not in ("id", "turn", "level", "repeat", "t_s")
)


@dataclass
class Selection:
    """The runs that count by model, in the order of `models`, and what was read and left out."""

    runs: list[list[Measured]] = field(default_factory=list)  # of each model
    answer_chars: Lengths = field(default_factory=dict)  # of the first repeat, as the judge takes it
    facts: dict[str, Any] = field(default_factory=dict)  # inputs, counts, mixed, flags, left_out, models


# --- one run ---


def finite(value: Any, negative: bool) -> float | None:
    """A finite number, or None: a word, a NaN, a negative time or count is not a measurement."""
    number = as_number(value)
    return number if number is not None and (negative or number >= 0) else None


def name_of(value: Any) -> str:
    """A name that every output can hold: a lone surrogate and a NUL stand as their escapes."""
    text = str(value).replace("\0", "\\0")
    return sys.intern(text.encode("utf-8", "backslashreplace").decode())


def measured(run: Mapping[str, Any]) -> Measured:
    """A run as campaign.stream_runs gives it."""
    numbers = {name: finite(run.get(name), name in MAY_BE_NEGATIVE) for name in NUMBERS}
    if numbers["tpot_ms"] is None:
        numbers["tpot_ms"] = time_per_token_ms(numbers)
    repeat = run.get("repeat")
    return Measured(
        id=name_of(task_of(run)),
        turn=name_of(run.get("turn") or 1),
        level=name_of(run["level"]),
        repeat=None if repeat is None else name_of(repeat),
        t_s=finite(run.get("t0_s"), negative=False),
        **numbers,
    )


def time_per_token_ms(numbers: Mapping[str, float | None]) -> float | None:
    """(latency - TTFT) / (tokens - 1), of files that are older than the field or of other programs."""
    latency_ms, ttft_ms, tokens = (numbers[name] for name in ("latency_ms", "ttft_ms", "completion_tokens"))
    if latency_ms is None or ttft_ms is None or tokens is None or tokens <= 1:
        return None
    return (latency_ms - ttft_ms) / (tokens - 1)


# --- all runs ---


@dataclass(frozen=True, slots=True)
class Line:
    """One record that was read, whether it counts or not."""

    group: Group
    run: Measured
    flags: tuple[str, ...]
    left_out: str | None


class Selector:
    """Takes the runs as they are read; whoever reads them for another end hands them on here."""

    def __init__(self, include_flagged: bool = False) -> None:
        self.include_flagged = include_flagged
        self.lines: list[Line] = []
        self.answer_chars: Lengths = {}

    def add(self, run: Mapping[str, Any]) -> None:
        """One run of campaign.stream_runs, in their order."""
        row = measured(run)
        model = str(run["model_id"])
        self.lines.append(Line((run["board"], model), row, tuple(run["flags"]), run["left_out"]))
        if run.get("answer_chars") is not None and not run.get("error"):
            place = (model, row.id, row.turn, row.level)
            self.answer_chars.setdefault(place, run["answer_chars"])

    def selection(self, head: Mapping[str, Any], dropped: set[int]) -> Selection:
        """What counts, once all is read; head and dropped are campaign.head's and Campaign's."""
        models = [facts for facts in head["models"] if self.include_flagged or facts["in_means"]]
        runs: dict[Group, list[Measured]] = {(facts["board"], facts["model_id"]): [] for facts in models}
        flags: Counter[tuple[Group, str]] = Counter()
        left_out = []
        for number, line in enumerate(self.lines):
            if number in dropped:
                continue
            flags.update((line.group, flag) for flag in line.flags)
            if line.left_out:
                named = {"board": line.group[0] or None, "model_id": line.group[1], "level": line.run.level}
                left_out.append({**named, "id": line.run.id, "repeat": line.run.repeat, "why": line.left_out})
            if self.include_flagged or not line.left_out:
                runs[line.group].append(line.run)
        facts = {
            "inputs": head["inputs"],
            "counts": counts_of(head, left_out, sum(map(len, runs.values()))),
            "mixed": head["mixed"],
            "remarks": head["noticed"],
            "flags": flag_rows(flags, head["hard_flags"]),
            "left_out": sorted(left_out, key=lambda row: [str(value) for value in row.values()]),
            "models": [model_row(facts, runs[facts["board"], facts["model_id"]]) for facts in models],
        }
        return Selection(list(runs.values()), self.answer_chars, facts)


def counts_of(head: Mapping[str, Any], left_out: Sequence[Mapping[str, Any]], used: int) -> dict[str, int]:
    """How many records were read, used, and left out for which reason."""
    errors = sum(row["why"].startswith("error: ") for row in left_out)
    counts = {"records": sum(row.get("records", 0) for row in head["inputs"]), "used": used}
    return counts | {"errors": errors, "hard_flags": len(left_out) - errors, **head["counts"]}


def flag_rows(flags: Counter[tuple[Group, str]], hard_flags: Sequence[str]) -> list[dict[str, Any]]:
    """How many runs of each model have each flag."""
    return [
        {
            "board": board or None,
            "model_id": model,
            "flag": flag,
            "runs": runs,
            "hard": flag in hard_flags,
        }
        for ((board, model), flag), runs in sorted(flags.items())
    ]


def model_row(facts: Mapping[str, Any], runs: Sequence[Measured]) -> dict[str, Any]:
    """One board and model: its conditions, and how much of it was measured."""
    row: dict[str, Any] = {"board": facts["board"] or None, "model_id": facts["model_id"]}
    row |= {name: "+".join(facts[name]) or None for name in (*FACTS, "model_sha256")}
    cells = Counter(run.cell for run in runs)
    row |= {"runs": len(runs), "tasks": len({run.id for run in runs})}
    return row | {"simulated_power": "yes" in facts["simulated_power"], "repeats_max": max(cells.values())}


def select(request: Request, include_flagged: bool = False) -> Selection:
    """Read the files once, and choose. Raises UserError."""
    selector, seen = Selector(include_flagged), campaign.Campaign()
    try:
        for run in campaign.stream_runs(campaign.expand(request.runs), request.env, seen):
            selector.add(run)
    except OSError as exc:
        raise SelectError(f"{exc.filename or 'the runs'}: {exc.strerror or exc}") from exc
    except (EOFError, zlib.error) as exc:
        raise SelectError(str(exc)) from exc
    head = campaign.head(request, seen, campaign.check(request, seen))
    return selector.selection(head, seen.dropped)
