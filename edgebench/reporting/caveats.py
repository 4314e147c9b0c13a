"""What a reader must know before believing a number: every caveat of an analysis, the grave ones first.

A caveat about many models names the first few and counts the others. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgebench.records.judgment import of_repeated_rows
from edgebench.reporting.cases import Row, case_name, is_simulated, judges, listed
from edgebench.shell.text import counted, duration, p_value, percent, printable
from edgebench.stats.intervals import FEWEST

FEW_REPEATS = 3
FEW_TASKS = 10
EXPLAINED = 0.5  # R squared below which a split by tokens means little
SOFT_FLAGS = {
    "few_power_samples": "too few power samples for their length, so their energy is rough",
    "truncated_output": "the answer was cut at the token limit, so its length says nothing",
    "throttled": "the board throttled, so latency and energy are those of a hot board",
}
METRICS = {
    "energy_joule": "energy",
    "latency_ms": "latency",
    "decode_tok_per_s": "decode rate",
    "completion_tokens": "answer length",
    "prompt_tokens": "prompt length",
    "ttft_ms": "time to first token",
    "tpot_ms": "time per token",
}

Caveat = tuple[str, str, str]  # key, severity, text


def caveats(analysis: Row) -> list[dict[str, str]]:
    """Everything a reader must know before believing a number, the grave ones first."""
    found = [
        *power_caveats(analysis),
        *sample_caveats(analysis),
        *flag_caveats(analysis),
        *fit_caveats(analysis),
        *stability_caveats(analysis),
        *judge_caveats(analysis),
    ]
    found += [("mixed", "high", f"averaged together although {text}") for text in analysis["mixed"]]
    found += [(row["key"], row["severity"], row["text"]) for row in analysis.get("remarks", ())]
    rows = [{"key": key, "severity": severity, "text": text} for key, severity, text in found]
    return sorted(rows, key=lambda row: row["severity"] != "high")


def power_caveats(analysis: Row) -> Iterator[Caveat]:
    """Where the watts come from, and whether the models are real."""
    models = analysis["models"]
    if is_simulated(analysis):
        text = "the power was simulated or replayed, not measured: no joule here is a finding"
        yield "simulated_power", "high", text
    demo = sorted({model["model_id"] for model in models if "demo" in model["model_id"].lower()})
    if demo:
        text = f"{listed(map(printable, demo))}: demo models have random weights, their words mean nothing"
        yield "demo_models", "high", text
    means = analysis["level_means"]
    if models and not any(row["metric"] == "energy_joule" and row["mean"] is not None for row in means):
        yield "no_energy", "high", "no run has an energy: the cost shown is latency"


def sample_caveats(analysis: Row) -> Iterator[Caveat]:
    """Few repeats, few tasks, runs left out."""
    models, counts = analysis["models"], analysis["counts"]
    repeats = min((model["repeats_max"] for model in models), default=FEW_REPEATS)
    if repeats < FEW_REPEATS:
        text = f"repeats per task and level: {repeats}; the spread between them is hardly known"
        yield "few_repeats", "note", text
    tasks = min((model["tasks"] for model in models), default=FEW_TASKS)
    if tasks < FEW_TASKS:
        known = "intervals are wide" if tasks >= FEWEST else "too few for intervals of means"
        yield "few_tasks", "high", f"{counted(tasks, 'task')}: {known}, tests are weak"
    bad = (counts.get("torn_lines") or 0) + (counts.get("without_level_or_model") or 0)
    if bad:
        text = f"{counted(bad, 'line')} of the runs read as no run record (torn, or no id, model_id or level)"
        yield "lines_left_out", "high", text
    for key, word, code in (("errors", "an error", "errors"), ("hard_flags", "a hard flag", "flagged_runs")):
        if counts.get(key):
            kept = "kept" if analysis["settings"]["include_flagged"] else "left out of every mean"
            text = f"{counts[key]} of {counts['records']} runs ended with {word} and are {kept}"
            yield code, "high", text


def flag_caveats(analysis: Row) -> Iterator[Caveat]:
    """Flags that leave a run in the means but bear on what they mean."""
    used = analysis["counts"]["used"]
    for flag, what in SOFT_FLAGS.items():
        marked = sum(row["runs"] for row in analysis["flags"] if row["flag"] == flag)
        if marked:
            yield "flagged_runs", "high", f"{marked} of {used} runs: {what}"


def fit_caveats(analysis: Row) -> Iterator[Caveat]:
    """Fits of cost on tokens that cannot be made, or that explain little."""
    constant = sorted(
        {
            row["model_id"]
            for row in analysis["cost_split"]
            if row["coefficients"]["per_output_token"]["estimate"] is None and row["n_runs"]
        }
    )
    if constant:
        names = listed(map(printable, constant))
        text = f"every answer of {names} has the same length: an answer token's cost cannot be told"
        yield "tokens_do_not_vary", "note", text
    for metric in dict.fromkeys(row["metric"] for row in analysis["cost_split"]):
        weak = [
            row
            for row in analysis["cost_split"]
            if row["metric"] == metric and row["r_squared"] is not None and row["r_squared"] < EXPLAINED
        ]
        if weak:
            names = listed(f"{percent(row['r_squared'])} of {case_name(analysis, row)}'s" for row in weak)
            text = f"tokens explain only {names} {METRICS[metric]}: "
            yield "weak_fit", "high", text + "its split into prompt and answer means little"


def stability_caveats(analysis: Row) -> Iterator[Caveat]:
    """Repeats that differ, and drift over the campaign."""
    for metric in ("energy_joule", "latency_ms"):
        rows = [row for row in analysis["variation"] if row["metric"] == metric]
        noisy = sum(row["cells_noisy"] for row in rows)
        if noisy:
            cells = sum(row["cells"] for row in rows)
            text = f"{METRICS[metric]} varies by 10 % or more between repeats in {noisy} of {cells} cells"
            yield "noisy_cells", "note", text
    for metric in dict.fromkeys(row["metric"] for row in analysis["drift"]):
        drifting = [row for row in analysis["drift"] if row["metric"] == metric and row["notable"]]
        if drifting:
            drifting.sort(key=lambda row: -abs(row["change_percent"]))
            told = listed(f"{drift_in_words(row)} in {case_name(analysis, row)}" for row in drifting)
            yield "drift", "note", f"{METRICS.get(metric, metric)} drifts: {told}"


def drift_in_words(row: Row) -> str:
    """How much a metric changed over the campaign.

    >>> drift_in_words({"change_percent": -9.04, "hours": 0.25})
    '-9.0 % over 0:15:00'
    """
    return f"{row['change_percent']:+.1f} % over {duration(3600 * row['hours'])}"


def judge_caveats(analysis: Row) -> list[Caveat]:
    """How far the judge can be trusted."""
    left_out = list(left_out_caveats(analysis["judge_counts"]))
    if not analysis["win_rates"]:
        return [*left_out, ("no_scores", "high", "no scores: nothing is said about quality")]
    every = judges(analysis)
    found = [*lean_caveats(analysis), *left_out]
    if len(every) > 1:
        text = f"{len(every)} judges: the answer and the charts show the verdicts of {printable(every[0])}, "
        found.append(("several_judges", "high", text + "the tables all"))
    for judge in every:
        if "demo" in judge.lower() or "stub" in judge.lower():
            text = f"the judge {printable(judge)} is a stand-in: its verdicts mean nothing"
            found.append(("demo_judge", "high", text))
    failed = analysis["judge_counts"].get("journal_failed")
    if failed:
        found.append(("judge_failures", "note", f"{failed} judge replies gave no verdict and are left out"))
    tasks = min(row["n_tasks"] for row in analysis["win_rates"])
    if tasks < FEW_TASKS <= min((model["tasks"] for model in analysis["models"]), default=FEW_TASKS):
        found.append(("few_tasks", "high", f"some win rates rest on {counted(tasks, 'task')} only"))
    text = "win rates compare levels of one model: they do not say which model writes better"
    return [*found, ("quality_is_relative", "note", text)]


def left_out_caveats(counts: Row) -> Iterator[Caveat]:
    """Rows of the scores file that say nothing of two levels."""
    lost, unknown = counts.get("malformed") or 0, counts.get("unknown_winners") or 0
    if lost:
        whys = ["their winner is not A, B or Tie"] * bool(unknown)
        whys += ["they name no task, no model, or not two levels"] * (lost > unknown)
        text = f"{lost} of {counted(counts['rows'], 'row')} of the scores left out: {', or '.join(whys)}"
        yield "scores_left_out", "high", text
    twice = counts.get("duplicates")
    if twice:
        yield "scores_twice", "note", of_repeated_rows(twice)


def lean_caveats(analysis: Row) -> Iterator[Caveat]:
    """Judges that favour a slot: over all models, or of the only model."""
    rows: Sequence[dict[str, Any]] = analysis["position_bias"]
    for row in rows:
        if not row["biased"] or not (row["model_id"] is None or len(rows) == 1):
            continue
        slot = "first" if row["first_slot_score"] > 0.5 else "second"
        text = (
            f"the judge {printable(row['judge_model'])} favours the {slot} answer (first-slot score "
            f"{row['first_slot_score']:.2f}, McNemar p {p_value(row['mcnemar_p'])}): "
            f"{cure_of_lean(analysis, row)}"
        )
        yield "position_bias", "high", text


def cure_of_lean(analysis: Row, bias: Row) -> str:
    """What was done about a judge's lean: taken out of verdicts by probability, else turned into ties."""
    for lean in analysis.get("graded_leans", ()):
        same = (lean["model_id"], lean["judge_model"]) == (bias["model_id"], bias["judge_model"])
        if same and lean["lean_log_odds_mean"] is not None:
            free = "winners and graded win rates are free of it"
            if bias["pairs"] > lean["pairs"]:
                free = f"the other {counted(bias['pairs'] - lean['pairs'], 'pair')} are not free of it"
            return (
                f"{lean['lean_log_odds_mean']:+.2f} in log odds were taken out of its probabilities in both "
                f"orders ({counted(lean['pairs'], 'pair')}); {free}"
            )
    return "both orders were asked and a win counts only if they agree"
