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
from edgebench.shell.calls import as_called

ANALYZE = as_called("companions/analyze_levels.py")

Row = Mapping[str, Any]


class Settings(TypedDict, total=False):
    """How the analysis was made."""

    baseline: str
    placebo: str | None
    seed: int
    resamples: int  # of older versions; nothing is drawn any more
    margin: float  # win rate one is ready to lose for a cheaper level
    include_flagged: bool
    allow_mixed: bool


class Caveat(TypedDict):
    """Something the reader must know before believing a number."""

    key: str
    severity: str
    text: str


class Model(TypedDict, total=False):
    """One model on one board: its conditions, and how much of it was measured."""

    board: str | None
    power_scope: str | None
    model_id: str
    model_sha256: str | None
    power_mode: str | None
    power_source: str | None
    quantization: str | None
    repeats_max: int
    runs: int
    simulated_power: bool
    tasks: int


class LevelMean(TypedDict, total=False):
    """One metric at one level: the mean over task means, with its interval over tasks."""

    board: str | None
    power_scope: str | None
    model_id: str
    level: str
    metric: str
    unit: str
    ci95: list[float] | None
    mean: float | None
    n_runs: int
    n_tasks: int
    p50: float | None  # median of single runs
    p95: float | None  # of 20 runs and more
    p95_reason: str | None
    reason: str | None
    std: float | None  # of single runs
    std_tasks: float | None  # of task means
    std_within: float | None  # between repeats of one prompt, pooled


class PairedRow(TypedDict, total=False):
    """One metric at two levels of the same tasks."""

    board: str | None
    power_scope: str | None
    model_id: str
    level: str
    against: str
    metric: str
    unit: str
    ci95: list[float] | None
    holm_family: str | None
    holm_tests: int | None
    mean_difference: float | None
    n_tasks: int
    p_holm: float | None
    percent: float | None
    percent_ci95: list[float] | None
    percent_reason: str | None  # why percent_ci95 is missing
    reason: str | None
    sign_p: float | None
    wilcoxon_p: float | None


class CostSplit(TypedDict, total=False):
    """What a prompt token and an answer token cost: estimate, se, se_ols, ci95, reason by name."""

    board: str | None
    power_scope: str | None
    model_id: str
    metric: str
    unit: str
    coefficients: dict[str, dict[str, Any]]
    n_runs: int
    n_tasks: int
    r_squared: float | None
    reason: str | None
    regressor_correlation: float | None
    residual_std: float | None


class CostPart(TypedDict, total=False):
    """Whose part the extra cost of a level is, against the baseline."""

    board: str | None
    power_scope: str | None
    model_id: str
    level: str
    against: str
    metric: str
    unit: str
    answer_part: float | None
    answer_part_ci95: list[float] | None
    answer_share: float | None
    ci95_reason: str | None  # why the parts have no interval
    extra: float | None
    measured_decode_extra: float | None
    measured_prefill_extra: float | None
    n_tasks: int
    output_tokens_extra: float | None
    prompt_part: float | None
    prompt_part_ci95: list[float] | None
    prompt_share: float | None
    prompt_share_ci95: list[float] | None
    prompt_tokens_extra: float | None
    reason: str | None
    sentence: str | None
    unexplained: float | None


class ValueRow(TypedDict, total=False):
    """Quality and cost of one level."""

    board: str | None
    power_scope: str | None
    model_id: str
    judge_model: str
    level: str
    cost_mean: float | None
    cost_metric: str
    cost_unit: str
    gain_per_extra_cost: float | None
    on_front: bool
    on_model_front: bool
    quality: float | None
    quality_against: str
    quality_ci95: list[float] | None
    quality_per_cost: float | None
    reason: str | None


class CheapestRow(TypedDict, total=False):
    """The level to take, and what shows it."""

    board: str | None
    power_scope: str | None
    model_id: str
    judge_model: str
    best_level: str | None  # the highest win rate; null where no level can be told from another
    best_not_told_from: list[str]
    best_told_from: list[str]  # levels the leading one is better than beyond chance
    cheapest_level: str | None
    cost_mean: float | None
    cost_metric: str
    cost_unit: str
    difference_ci95: list[float] | None
    difference_from_best: float | None
    margin: float  # of the win rate
    not_considered: list[dict[str, str]]  # level and reason, of each that is no choice
    reason: str | None
    saving_percent: float | None
    shown: bool
    statement: str | None


class TrendRow(TypedDict, total=False):
    """Page's trend of one metric over the ordered levels."""

    board: str | None
    power_scope: str | None
    model_id: str
    judge_model: str | None  # of the metric quality
    metric: str
    levels: list[str]
    n_tasks: int
    p: float | None
    page_l: float | None
    reason: str | None
    spearman: float | None


class DriftRow(TypedDict, total=False):
    """Change of one metric over the campaign (stats/drift.py); ci95 is of the slope per hour."""

    board: str | None
    power_scope: str | None
    model_id: str
    metric: str
    change_ci95: list[float] | None
    change_percent: float | None  # from the first to the last of the repeated runs
    ci95: list[float] | None
    hours: float | None
    n_runs: int
    notable: bool  # more than noise explains, and enough to matter
    p: float | None
    reason: str | None
    slope_percent_per_hour: float | None


class VariationRow(TypedDict, total=False):
    """How far repeats of one prompt differ: std over mean of the cells."""

    board: str | None
    power_scope: str | None
    model_id: str
    metric: str
    cells: int
    cells_noisy: int
    cv_max: float | None
    cv_median: float | None
    reason: str | None
    worst: dict[str, str] | None


class PositionBias(TypedDict, total=False):
    """Whether a judge favours a slot; model_id null: over all models."""

    model_id: str | None
    judge_model: str
    biased: bool
    consistency: float | None
    first_first: int
    first_slot_score: float | None
    mcnemar_p: float | None
    pairs: int
    partial_first: int
    partial_second: int
    reason: str | None
    second_second: int


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
    decisive_share: float | None
    decisive_wilson95: list[float] | None
    holm_family: str | None
    holm_tests: int | None
    length_controlled_ci95: list[float] | None
    length_controlled_win_rate: float | None
    length_extrapolated: bool | None
    length_gamma: float | None
    win_rate_averaged: float | None
    win_rate_averaged_ci95: list[float] | None
    win_rate_averaged_se: float | None
    win_rate_se: float | None


class Strength(TypedDict):
    """The Bradley-Terry strength of one level, of one model by one judge; against `reference`, which is 0."""

    model_id: str
    judge_model: str
    level: str
    reference: str
    beta: float | None  # log odds
    se: float | None
    elo: float | None  # 1000 + 400 / ln 10 (beta - mean beta)
    beta_davidson: float | None  # with ties as an outcome of their own
    reason: str | None


class StrengthFit(TypedDict):
    """What the strengths of one model by one judge rest on."""

    model_id: str
    judge_model: str
    levels: list[str]
    status: str  # ok, only_against_one, separated, disconnected
    statement: str  # what the status means
    components: list[list[str]]  # levels that wins link with each other
    half_win_beta: dict[str, float] | None  # where separated: after half a win for both sides of each pair
    log_likelihood: float | None
    covariance: list[list[float]] | None  # of the betas, in the order of `levels`
    davidson_nu: float | None
    order_effect_gamma: float | None  # log odds of the first slot
    order_effect_se: float | None
    order_effect_p: float | None


class LengthEffect(TypedDict):
    """Whether the longer answer wins, by one judge; model_id null: over all models."""

    model_id: str | None
    judge_model: str
    unit: str
    decisive: int  # verdicts with a winner and different lengths
    longer_won: int | None
    longer_share: float | None
    wilson95: list[float] | None
    z: float | None
    spearman: float | None
    pearson: float | None
    reason: str | None


class JudgeNoise(TypedDict):
    """Whether a judge repeats itself. kind: same_answers, or repeats of a pair, whose answers differ."""

    judge_model: str
    kind: str
    repeated_requests: int
    compared: int  # pairs of replies
    same: int | None
    flips: int | None  # A against B
    agreement: float | None
    kappa: float | None  # Cohen's
    reason: str | None


class FlagRow(TypedDict):
    """How many runs of a model carry a flag."""

    board: str | None
    model_id: str
    flag: str
    runs: int
    hard: bool  # no mean holds them


class LeftOutRun(TypedDict):
    """A run that is in no mean, and why."""

    board: str | None
    model_id: str
    level: str
    id: str
    repeat: str | None
    why: str


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
    """The whole file; the lists that have no type here are rows as their room describes them."""

    schema_version: int
    settings: Settings
    interval_methods: dict[str, str]  # how each kind of interval is made, in words
    inputs: list[dict[str, Any]]
    counts: dict[str, int]
    mixed: list[str]  # what --allow_mixed let stand in one mean
    remarks: list[Caveat]  # what the reader of the files met; they stand among the caveats, too
    flags: list[FlagRow]
    left_out: list[LeftOutRun]
    models: list[Model]
    levels: list[str]
    level_means: list[LevelMean]
    paired: list[PairedRow]
    trend: list[TrendRow]
    drift: list[DriftRow]
    variation: list[VariationRow]
    cost_split: list[CostSplit]
    cost_parts: list[CostPart]
    win_rates: list[WinRate]
    bradley_terry: list[Strength]
    bradley_terry_fits: list[StrengthFit]
    position_bias: list[PositionBias]
    length_effect: list[LengthEffect]
    judge_noise: list[JudgeNoise]
    judge_counts: dict[str, Any]
    undecided_judges: list[str]
    graded_leans: list[TakenOutLean]
    value: list[ValueRow]
    cheapest: list[CheapestRow]
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
        raise UserError(f"cannot read {path}: {reason_of(problem)}; {ANALYZE} writes it") from problem
    except ValueError as problem:
        raise UserError(
            f"{path} is not JSON ({problem}); {ANALYZE} writes the file that is wanted"
        ) from problem
    if (
        not isinstance(content, dict)
        or content.get("schema_version", 1) != 1
        or not set(needed) <= content.keys()
    ):
        raise UserError(f"{path} is no analysis of format 1: {ANALYZE} writes one")
    for table, added in ADDED_LATER.items():
        content[table] = [added | row for row in content.get(table, ())]
    return content
