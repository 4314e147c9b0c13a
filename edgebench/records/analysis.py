"""analysis.json: what analyze_levels writes and report_page, show_answer and the workbooks read, as types.

Every row says which model and board it is about. A number that is not known is null, with a `reason` in its
row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of

Row = Mapping[str, Any]


class Settings(TypedDict, total=False):
    """How the analysis was made."""

    baseline: str
    placebo: str | None
    seed: int
    resamples: int
    margin: float


class Caveat(TypedDict):
    """Something the reader must know before believing a number."""

    code: str
    severity: str
    text: str


class LevelMean(TypedDict, total=False):
    """One metric at one level: the mean over task means, with its interval over tasks."""

    model_id: str
    board: str
    level: str
    metric: str
    n_runs: int
    n_tasks: int
    mean: float | None
    std: float | None
    std_tasks: float | None
    std_within: float | None
    ci95: list[float] | None
    reason: str | None


class PairedRow(TypedDict, total=False):
    """One metric at two levels of the same tasks."""

    model_id: str
    board: str
    level: str
    against: str
    metric: str
    n_tasks: int
    mean_difference: float | None
    ci95: list[float] | None
    percent: float | None
    percent_ci95: list[float] | None
    wilcoxon_p: float | None
    sign_p: float | None
    reason: str | None


class WinRate(TypedDict, total=False):
    """One level against another by one judge: counted verdicts, and beside them graded preferences.

    The graded fields are of verdicts by probability (judge_pairs.py --soft), the judge's lean to a slot taken
    out; they are missing or null where the judge gave none.
    """

    model_id: str
    judge_model: str
    level: str
    against: str
    n_tasks: int
    n_verdicts: int
    wins: int
    ties: int
    losses: int
    win_rate: float | None  # a tie is half a win
    ci95: list[float] | None
    sign_p: float | None
    p_holm: float | None
    reason: str | None
    graded_n_tasks: int
    graded_win_rate: float | None  # mean over tasks of the preference, 0 to 1
    graded_ci95: list[float] | None
    graded_reason: str | None


class TakenOutLean(TypedDict, total=False):
    """The lean to a slot that graded preferences are free of: a row of `graded_leans`."""

    model_id: str | None  # null: over all models
    judge_model: str
    pairs: int
    lean_log_odds_mean: float | None  # of the first slot over the second, natural logarithm
    lean_log_odds_std: float | None
    first_slot_share: float | None  # how often the first of two equal answers would win; 0.5 is no lean


class Verdict(TypedDict):
    """One verdict line, and the ratios it tells: of one model by level, or of one level over many models."""

    model_id: str | None
    board: str | None
    text: str
    levels: list[dict[str, Any]]


class Analysis(TypedDict, total=False):
    """The whole file; further lists are rows as their room describes them."""

    schema_version: int
    settings: Settings
    models: list[dict[str, Any]]
    levels: list[str]
    level_means: list[LevelMean]
    paired: list[PairedRow]
    win_rates: list[WinRate]
    graded_leans: list[TakenOutLean]
    answer: list[str]
    verdicts: list[Verdict]
    caveats: list[Caveat]


# Names that files of format 1 may lack, because they were added to their rows later.
ADDED_LATER: dict[str, dict[str, Any]] = {
    "level_means": dict.fromkeys(("p50", "p95", "p95_reason")),
    "paired": {"percent_reason": None},
    "drift": {"change_percent": None, "change_ci95": None, "notable": False},
    "win_rates": dict.fromkeys(("graded_win_rate", "graded_ci95", "graded_reason")),
    "verdicts": {},
    "graded_leans": {},
}


def read_analysis(
    path: Path, needed: Iterable[str] = ("settings", "levels", "level_means")
) -> dict[str, Any]:
    """The content of an analysis.json of format 1 that has the `needed` names. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UserError(
            f"cannot read {path}: {reason_of(problem)}; companions/analyze_levels.py writes it"
        ) from problem
    except ValueError as problem:
        raise UserError(
            f"{path} is not JSON ({problem}); companions/analyze_levels.py writes the file that is wanted"
        ) from problem
    if (
        not isinstance(content, dict)
        or content.get("schema_version", 1) != 1
        or not set(needed) <= content.keys()
    ):
        raise UserError(f"{path} is no analysis of format 1: companions/analyze_levels.py writes one")
    for table, added in ADDED_LATER.items():
        content[table] = [added | row for row in content.get(table, ())]
    return content
