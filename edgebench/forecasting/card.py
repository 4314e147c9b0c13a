"""A model of token2metrics.py -> its model card: a Markdown page a colleague can judge it by.

Says what it was trained on (files with hashes, board, rows, ranges), its coefficients with standard errors,
its errors on held-out rows, what was left out and why, and what it must not be used for. The answer of
evaluate.py adds the full table of a cross-validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.forecasting.cautions import cautions
from edgebench.forecasting.quantities import OWN_LEVEL_TOKENS

TEXT = {
    "prefill_ms": "time to the first token [ms]",
    "decode_ms": "time of the further tokens [ms]",
    "total_ms": "latency [ms]",
    "prefill_energy_joule": "energy of the prefill [J]",
    "decode_energy_joule": "energy of the decoding [J]",
    "total_energy_joule": "energy [J]",
}
MEANING = {
    "base": "times the base model's prediction",
    "minus_per_token": "less, per token",
    "constant": "start, per request",
    "per_token_pair": "per pair of prompt tokens (attention)",
    "per_context_token": "per step and token of context (attention)",
    "per_second": "per second of prefill",
    "minus_ramp": "not drawn yet while the power rises",
    "minus_ramp_after_short_prefill": "the same, after a short prefill",
    "per_step_and_prompt_doubling": "per step and doubling of the prompt",
}


def meaning(column: str) -> str:
    """A named column in words.

    >>> meaning("per_tile_of_128"), meaning("minus_ramp_0.5_s")
    ('per further tile of 128 tokens', 'not drawn yet in the first 0.5 s')
    >>> meaning("own_level_faster_6")
    'prompts of 321 to 384 tokens faster, by'
    """
    for beginning, words in (
        ("per_tile_of_", "per further tile of {} tokens"),
        ("per_micro_batch_of_", "per further micro-batch of {} tokens"),
    ):
        if column.startswith(beginning):
            return words.format(column.removeprefix(beginning))
    if own := re.fullmatch(r"own_level_(slower|faster)_([0-9]+)", column):
        last = OWN_LEVEL_TOKENS * int(own[2])
        return f"prompts of {last - OWN_LEVEL_TOKENS + 1} to {last} tokens {own[1]}, by"
    if ramp := re.fullmatch(r"minus_ramp_([0-9.e-]+)_s", column):
        return f"not drawn yet in the first {ramp[1]} s"
    return MEANING.get(column, column)


def figure(value: float | None) -> str:
    """Four figures, or a dash for what is not known."""
    return "-" if value is None else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines] + [""]


def coefficient_rows(target: str, spec: Mapping[str, Any]) -> list[list[str]]:
    """Name, value, standard error of an analytic target; bands by the tokens they span."""
    edges, named = spec["edges"], spec["names"]
    size = len(edges) - 1
    rows = []
    for place, pair in enumerate(zip(spec["coefficients"], spec["standard_errors"], strict=True)):
        if place < len(named):
            name = meaning(named[place])
        else:
            band = (place - len(named)) % size
            # Bands no row reached repeat the last one that was.
            # A design of both phases has the prompt's bands first, the steps' after them.
            prompt = place - len(named) < size and not target.startswith("decode")
            what = "prompt token" if prompt else "step"
            name = f"per {what}, {edges[band]} to {edges[band + 1]} tokens"
        if pair[0] or place < len(named):
            rows.append([name, figure(pair[0]), figure(pair[1])])
    return rows


def option(value: Any) -> str:
    """A design's option: a number or a list of them.

    >>> option(128), option([128, 256]), option([])
    ('128', '128 and 256', 'none')
    """
    values = value if isinstance(value, list) else [value]
    return " and ".join(f"{one:g}" for one in values) or "none"


def tried_part(spec: Mapping[str, Any]) -> list[str]:
    """What each regression that was tried erred on held-out rows, and which one won by how much."""
    tried = spec.get("tried_mape_percent")
    if not tried:
        return []
    others = [off for name, off in tried.items() if name != spec["won"]]
    mine = tried[spec["won"]]
    by = f" by {min(others) - mine:+.2g} percentage points to the next" if others else ""
    if others and min(others) < mine:
        by = ", as the simplest of those between which the errors do not decide"
    lines = [f"`{spec['won']}` was chosen: held-out MAPE {figure(mine)} %{by}.", ""]
    rows = [[name, f"{figure(off)} %"] for name, off in sorted(tried.items(), key=lambda pair: pair[1])]
    rows += [[name, why] for name, why in spec.get("untried", {}).items()]
    return lines + table(["regression", "held-out MAPE"], rows)


def target_part(target: str, spec: Mapping[str, Any]) -> list[str]:
    """The section of one target."""
    lines = [f"### {TEXT[target]}", "", f"{spec['rows']} rows, {spec['regressor']} regression.", ""]
    lines += tried_part(spec)
    if spec["regressor"] == "analytic":
        options = ", ".join(f"{name} = {option(value)}" for name, value in spec["options"].items()) or "none"
        lines += [f"Design chosen on held-out rows: {options}; smoothing {spec['smoothing']:g}.", ""]
        lines += table(["coefficient", "value", "standard error"], coefficient_rows(target, spec))
    elif spec["regressor"] == "transfer":
        lines += [f"Base prediction x {figure(spec['ratio'])} + {figure(spec['per_token'])} per token.", ""]
    elif spec["regressor"] == "polynomial":
        terms = zip(spec["powers"], spec["coefficients"], strict=True)
        rows = [[f"(in/1000)^{a} (steps/1000)^{b}", figure(value)] for (a, b), value in terms]
        lines += table(["term", "coefficient"], rows)
    else:
        lines += [f"{len(spec['trees'])} trees.", ""]
    return lines


def score_part(model: Mapping[str, Any], scores: Mapping[str, Any] | None) -> list[str]:
    """Errors on held-out rows: those of a cross-validation, or what the intervals were made of."""
    if scores:
        head = ["quantity", "n", "MAPE %", "median %", "RMSE", "R2", "90 % intervals cover %"]
        names = ("mape_percent", "median_ape_percent", "rmse", "r2", "coverage_percent")
        rows = [
            [TEXT[name], str(row["n"]), *(figure(row[one]) for one in names)]
            for name, row in scores["quantities"].items()
        ]
        return [f"{scores['how']}.".capitalize(), "", *table(head, rows)]
    rows = [
        [TEXT[name], str(row["rows"]), figure(row["held_out_mape_percent"])]
        for name, row in model["intervals"].items()
    ]
    return [
        "Rows whose whole cell of repeats was left out of the fit.",
        "",
        *table(["quantity", "n", "MAPE %"], rows),
    ]


def card_of(model: Mapping[str, Any], scores: Mapping[str, Any] | None) -> str:
    """The page."""
    low, high = model["ranges"]["low"], model["ranges"]["high"]
    lines = [f"# {model['model']}", ""]
    lines += [
        f"Predicts time and energy of one request (batch 1) from its token counts. {model['regression']}.",
        "",
    ]
    lines += ["## Trained on", ""]
    lines += [f"- board: {model['board'] or 'not named in the data'}"]
    lines += [f"- {model['rows']} requests in {model['groups']} cells of equal lengths"]
    lines += [f"- prompts of {low[0]:g} to {high[0]:g} tokens, outputs of {low[1]:g} to {high[1]:g}"]
    lines += [f"- `{one['file']}`, SHA-256 {one['sha256']}" for one in model["data"]]
    lines += [f"- energy: {model['energy_scope'] or 'none: ' + str(model['no_energy_reason'])}", ""]
    if model["simulated_power"]:
        lines += ["**Its energies are of simulated power, not of a measurement.**", ""]
    lines += [f"**{line}**\n" for line in cautions(model) if "simulated" not in line]
    lines += ["## Errors on rows it was not fitted on", "", *score_part(model, scores)]
    if model["outliers"]:
        lines += ["## Left out as outliers", ""]
        lines += [
            f"- {one['where']}: {one['target']} {figure(one['value'])}" for one in model["outliers"]
        ] + [""]
    lines += ["## Coefficients", ""]
    for target, spec in model["targets"].items():
        lines += target_part(target, spec)
    lines += [
        "## Not for",
        "",
        "- another board, power mode, quantization or engine build: measure some runs and calibrate",
        "- lengths outside the ranges above: such predictions are flagged, their intervals are guesses",
        "- batches, or prompts whose beginning is already in the cache",
        "",
    ]
    return "\n".join(lines)
