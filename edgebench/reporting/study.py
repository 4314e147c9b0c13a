"""What the workbooks show: every run and every verdict as a row, and the analysis of them.

Which runs count is decided where it is decided for the analysis, too (analysis/campaign.py, by
records/run.py), and every mean, win rate and interval is the analysis's own: that of the file given, if it
was made from these very files, else one made here by the same rooms. Units: ms, J, tokens, shares 0 to 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from edgebench.analysis import campaign
from edgebench.analysis.selection import Selection, Selector
from edgebench.errors import UserError
from edgebench.records.analysis import read_analysis
from edgebench.records.flags import INVALID
from edgebench.records.jsonl import UNREADABLE, reason_of, sha256_of
from edgebench.records.judgment import Scores, read_scores
from edgebench.records.run import BEYOND_MEASURE, as_number, task_of
from edgebench.reporting.words import in_words

SLICE = 50_000  # runs that are Python objects at once
TEXTS = ("board", "task_id", "category", "level", "model_id", "flags", "error", "energy_missing", "left_out")
NUMBERS = (
    *("turn", "repeat", "prompt_tokens", "completion_tokens", "latency_ms", "ttft_ms", "tpot_ms"),
    *("energy_joule", "energy_uncertainty_joule"),
)
LONGEST_TEXT = 32_767  # characters that are kept of an error
VERDICTS = ("task_id", "category", "model_id", "pair", "winner", "judge_model", "turn")
NEEDED = ("settings", "levels", "models", "level_means", "paired", "win_rates", "inputs")


@dataclass(frozen=True)
class Wanted:
    """What is to be read, and how."""

    runs: Sequence[str]  # files, .gz files, globs
    scores: Path | None = None
    analysis: Path | None = None
    baseline: str | None = None  # None: L0, or the shortest level
    include_flagged: bool = False
    allow_mixed: bool = False


@dataclass(frozen=True)
class Study:
    """Rows and analysis of one campaign.

    runs: one row per run, with TEXTS, NUMBERS, and kept: whether it counts in means. verdicts: one row per
    verdict, with VERDICTS, level (the left one), against (the right one), score (of the left: 1, 0.5, 0) and
    winning_level.
    """

    runs: pd.DataFrame
    verdicts: pd.DataFrame
    analysis: Mapping[str, Any]  # as analysis.json has it, with the answer in words
    remarks: Sequence[str]
    provenance: Sequence[Sequence[Any]]  # rows of what, name, value
    dropped: AbstractSet[int]  # numbers of the records that a later one of the same run stands for

    @property
    def simulated(self) -> int:
        """Runs whose power was simulated or replayed."""
        return int(self.runs["flags"].str.contains("simulated_power", regex=False).sum())

    @property
    def left_out(self) -> str:
        """How many runs are in no mean, as a remark; empty where all are."""
        out = int((~self.runs["kept"]).sum())
        return f"{out:,} of {len(self.runs):,} runs left out of means: see Flags" if out else ""

    @property
    def has_boards(self) -> bool:
        """Whether the runs come from more than one board, so that its name must stand beside the model's."""
        return bool(self.runs["board"].nunique() > 1)


def read_study(wanted: Wanted, command: str = "") -> Study:
    """Everything the workbooks show; `command` is what was typed. Raises UserError."""
    pd.set_option("mode.string_storage", "python")  # pyarrow's strings cannot hold a lone surrogate
    try:
        runs, facts, selection = read_runs(wanted)
        scores = scores_of(wanted.scores)
    except UNREADABLE as problem:
        where = getattr(problem, "filename", None) or ", ".join(map(str, wanted.runs))
        raise UserError(f"cannot read {where}: {reason_of(problem)}; check --runs and --scores") from None
    runs = in_order(runs)
    verdicts = in_order(verdict_rows(scores))
    analysis, said = find_analysis(wanted, facts, runs, scores, selection)
    remarks = [*facts["remarks"], *without_scores(wanted.scores, scores), *scores.remarks, *said]
    made = {"command line": command, **{name: version(name) for name in ("pandas", "openpyxl")}}
    provenance = [*facts["provenance"], *(["aggregation", *fact] for fact in made.items())]
    study = Study(runs, verdicts, analysis, remarks, provenance, facts["dropped"])
    return replace(study, remarks=[*remarks, study.left_out]) if study.left_out else study


def runs_again(wanted: Wanted, study: Study) -> Iterator[dict[str, Any]]:
    """The runs of the study once more, each with all its fields. Raises UNREADABLE."""
    again = campaign.stream_runs(campaign.expand(wanted.runs), (), campaign.Campaign())
    return (run for number, run in enumerate(again) if number not in study.dropped)


# --- Runs ---


def read_runs(wanted: Wanted) -> tuple[pd.DataFrame, dict[str, Any], Selection | None]:
    """Every run, of one that was repeated the last good one; the facts that campaign.head tells; and what the
    analysis needs of the runs that count, unless it is there already: the files are read once.

    Raises UserError, where there is no run and where runs must not stand in one mean, and UNREADABLE.
    """
    seen = campaign.Campaign()
    selector = None if wanted.analysis else Selector(wanted.include_flagged)
    parts: list[pd.DataFrame] = []
    rows: list[list[Any]] = []
    for run in campaign.stream_runs(campaign.expand(wanted.runs), (), seen):
        rows.append(run_row(run))
        if selector:
            selector.add(run)
        if len(rows) == SLICE:
            parts.append(run_frame(rows))
            rows = []
    request = campaign.Request(
        wanted.runs, scores=wanted.scores, analysis=wanted.analysis, allow_mixed=wanted.allow_mixed
    )
    mixed = campaign.check(request, seen)
    frame = pd.concat([*parts, run_frame(rows)], ignore_index=True)
    frame = frame.drop(index=list(seen.dropped))
    frame["kept"] = (frame["left_out"] == "") | wanted.include_flagged
    facts = campaign.head(request, seen, mixed)
    selection = selector.selection(facts, seen.dropped) if selector else None
    return frame, {**facts, "dropped": seen.dropped}, selection


def run_row(run: Mapping[str, Any]) -> list[Any]:
    """TEXTS, then NUMBERS as they stand in the record."""
    error = run.get("error") or ""
    if isinstance(error, dict):
        error = f"{error.get('type') or 'error'}: {error.get('message') or 'no message'}"
    texts = [run["board"], task_of(run), run.get("category"), run["level"], run["model_id"]]
    texts += [" ".join(sorted(run["flags"])), error, run.get("energy_missing"), run["left_out"]]
    # One object for each text, however many rows hold it.
    return [sys.intern("" if text is None else str(text)[:LONGEST_TEXT]) for text in texts] + [
        run.get(name) for name in NUMBERS
    ]


def run_frame(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows as a table; "ERROR", -1 and the like are missing, and flagged."""
    raw = pd.DataFrame(rows, columns=[*TEXTS, *NUMBERS], dtype=object)
    frame = raw[list(TEXTS)].copy()
    for name in NUMBERS:
        given = raw[name]
        number = numbers_of(given)
        good = number.notna() & ((number >= 0) | (name in campaign.MAY_BE_NEGATIVE))
        invalid = given.notna() & ~good
        if invalid.any():
            frame.loc[invalid, "flags"] = (frame["flags"] + f" {INVALID}{name}").str.strip()[invalid]
        frame[name] = number.where(good)
    return frame


def numbers_of(column: pd.Series[Any]) -> pd.Series[float]:
    """A column of anything as numbers; what is none is missing."""
    if set(map(type, column)) <= {float, type(None)}:
        number = column.astype("float64")
        return number.where(number.abs() <= BEYOND_MEASURE)
    return column.map(as_number).astype("float64")


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by model, board, task, level, turn, repeat; task ids that all are whole numbers as numbers."""
    frame = frame.assign(length=frame["task_id"].str.len())  # shorter first, so that q9 comes before q10
    keys = ("model_id", "board", "length", "task_id", "level", "against", "turn", "repeat")
    keys_here = [key for key in keys if key in frame]
    frame = frame.sort_values(keys_here, kind="stable", ignore_index=True).drop(columns="length")
    whole = frame["task_id"].str.fullmatch(r"0|[1-9]\d{0,14}").all()
    return frame.astype({"task_id": "int64"}) if whole else frame


# --- Verdicts ---


def scores_of(path: Path | None) -> Scores:
    """The scores; none where no file is named, or where it is missing or empty. Raises UserError, OSError."""
    if path is None or not path.exists() or not path.stat().st_size:
        return Scores([])
    return read_scores(path)


def without_scores(path: Path | None, scores: Scores) -> list[str]:
    """Why there are no win rates."""
    if scores.rows:
        return []
    if path is None:
        return ["no --scores given: no win rates"]
    return [f"{path} holds no score: no win rates" if path.exists() else f"no scores at {path}: no win rates"]


def verdict_rows(scores: Scores) -> pd.DataFrame:
    """One row per verdict."""
    names = [*VERDICTS, "level", "against", "score", "winning_level"]
    rows = [
        [
            *(getattr(row, name) for name in VERDICTS),
            *(row.left, row.right, row.score, {"A": row.left, "B": row.right}.get(row.winner, "tie")),
        ]
        for row in scores.rows
    ]
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    return frame.astype({"score": "float64", "turn": "float64"})


# --- The analysis ---


def find_analysis(
    wanted: Wanted,
    facts: Mapping[str, Any],
    runs: pd.DataFrame,
    scores: Scores,
    selection: Selection | None,
) -> tuple[Mapping[str, Any], list[str]]:
    """The analysis of these runs and scores, and what is to be said of the file that was given."""
    remarks: list[str] = []
    if wanted.analysis:
        try:
            given = read_analysis(wanted.analysis, NEEDED)
        except UserError as problem:
            raise UserError(f"--analysis {wanted.analysis}: {problem}") from None
        other = differs(given, wanted, facts, bool(scores.rows))
        if not other:
            return given, []
        remarks = [f"{wanted.analysis} was made {other}: it is left aside; make it anew"]
    if not runs["kept"].any() and not scores.rows:
        levels = sorted(set(runs["level"]))
        return nothing_to_analyze(levels), [*remarks, "no run counts, so there is no mean"]
    from edgebench.analysis.levels import Settings, analyze  # scipy takes a second, a given analysis none

    settings = Settings(
        runs=wanted.runs,
        scores=wanted.scores if scores.rows else None,
        baseline=wanted.baseline,
        include_flagged=wanted.include_flagged,
        allow_mixed=wanted.allow_mixed,
    )
    analysis = analyze(settings, selection)
    return {**analysis, **in_words(analysis)}, remarks


def differs(given: Mapping[str, Any], wanted: Wanted, facts: Mapping[str, Any], is_judged: bool) -> str:
    """In what an analysis is not the one of these files and flags; empty where it is."""
    theirs = {kind: inputs_of(given["inputs"], kind) for kind in ("runs", "scores")}
    if theirs["runs"] != inputs_of(facts["inputs"], "runs"):
        return "from other runs than these"
    ours = {sha256_of(wanted.scores)} if is_judged and wanted.scores else set[str]()
    if theirs["scores"] != ours:
        return "from other scores than these"
    settings = given["settings"]
    for name in ("include_flagged", "allow_mixed"):
        if bool(settings.get(name)) != getattr(wanted, name):
            return f"{'without' if getattr(wanted, name) else 'with'} --{name}"
    if wanted.baseline and settings.get("baseline") != wanted.baseline:
        return f"with another --baseline, {settings.get('baseline')}"
    return ""


def inputs_of(inputs: Iterable[Mapping[str, Any]], kind: str) -> set[str]:
    """The hashes of the inputs of one kind."""
    return {str(entry.get("sha256")) for entry in inputs if entry.get("kind") == kind}


def nothing_to_analyze(levels: Sequence[str]) -> dict[str, Any]:
    """The analysis of a campaign of which no run counts."""
    empty: dict[str, Any] = {name: [] for name in ("models", "level_means", "paired", "win_rates", "inputs")}
    return {**empty, "levels": list(levels), "settings": {}, "answer": [], "caveats": []}
