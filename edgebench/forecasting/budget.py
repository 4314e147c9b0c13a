"""What will a campaign cost? Prompts, a model file for its tokenizer, a trained model of token2metrics.py.

Every prompt of every level is counted with the model's own tokenizer and chat template, as the collector
does, and predicted; the sums per level are time [s] and energy [J] of all runs, without loading, warm-up and
idling. Nobody knows the lengths of answers beforehand: --output-tokens is what each is taken to have, or
--runs takes each level's mean from earlier run records. The interval of a sum adds up those of its runs, as
if all were off the same way: errors of a model are not independent from run to run.

Output: a table, or with --json {"levels": {L0: {"runs", "latency_s", "energy_joule"}}, "total", "warnings"};
figures are {"mean", "low", "high"}; energy is null, the reason in the warnings, where the model has none.

Example:
    python companions/token2metrics.py plan --prompts data/writing_prompts_hierarchical.csv \\
        --gguf models/demo/demo-llama-F32.gguf --model demo-llama --output-tokens 96 --battery-wh 50
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.engine.client import EngineFailure, EngineProcess, Message, Prompt
from edgebench.errors import UserError
from edgebench.forecasting.quantities import BOUNDS
from edgebench.forecasting.trained import choose_trained
from edgebench.prompts.tasks import wanted_tasks
from edgebench.records.jsonl import read_jsonl

MAX_TOKENS = 512  # the collector's default length of an answer
JOULE_PER_WH = 3600
FIGURES = {"latency_s": ("total_ms", 1e-3), "energy_joule": ("total_energy_joule", 1.0)}


@dataclass(frozen=True)
class Budget:
    """What is asked; names and meanings are those of the flags."""

    prompts: Path
    gguf: Path
    model: str
    model_path: Path = Path("outputs")
    levels: Sequence[str] | None = None
    limit: int | None = None
    output_tokens: int | None = None
    runs: Path | None = None
    repeats: int = 1
    prompt_format: str = "chat"
    system: str | None = None
    level: float = 0.9  # of the intervals
    battery_wh: float | None = None
    price_per_kwh: float | None = None
    co2_g_per_kwh: float | None = None


def read_levels(asked: Budget) -> dict[str, list[str]]:
    """Level -> its prompts, in the order of the file."""
    levels = defaultdict(list)
    for task in wanted_tasks([asked.prompts], asked.levels, limit=asked.limit):
        for level, text in task.levels.items():
            levels[level].append(text)
    return dict(levels)


# --- tokens ---


def count_tokens(asked: Budget, levels: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Level -> tokens of each prompt, counted by the engine with the model's vocabulary alone."""
    system = (Message("system", asked.system),) if asked.system else ()

    def count(engine: EngineProcess, text: str) -> int:
        prompt = Prompt((*system, Message("user", text)), asked.prompt_format)
        return engine.count(prompt).prompt_tokens

    try:
        with EngineProcess() as engine:
            engine.open(str(asked.gguf))
            return {level: [count(engine, text) for text in prompts] for level, prompts in levels.items()}
    except EngineFailure as failure:
        raise UserError(f"{failure}; check --gguf") from failure


def output_lengths(asked: Budget, levels: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Level -> output tokens of an answer, and what to warn of."""
    if asked.runs is None:
        tokens = asked.output_tokens or MAX_TOKENS
        warned = (
            []
            if asked.output_tokens
            else [
                f"every answer is taken to be {MAX_TOKENS} tokens long, the"
                " collector's limit; --output-tokens or --runs knows better"
            ]
        )
        return dict.fromkeys(levels, tokens), warned
    seen = defaultdict(list)
    for _, record in read_jsonl(asked.runs):
        if record and not record.get("error") and isinstance(record.get("completion_tokens"), int):
            seen[str(record.get("level"))].append(record["completion_tokens"])
    lacking = [level for level in levels if not seen[level]]
    if lacking and not asked.output_tokens:
        raise UserError(f"{asked.runs} has no run at {', '.join(lacking)}; give --output-tokens for them")
    known = {level: max(1, round(sum(found) / len(found))) for level, found in seen.items() if found}
    lengths = {level: known.get(level, asked.output_tokens or MAX_TOKENS) for level in levels}
    return lengths, [f"{asked.runs} has no run at {level}: {asked.output_tokens} tokens" for level in lacking]


# --- the plan ---


def predict_all(
    asked: Budget, pairs: Sequence[tuple[int, int]]
) -> tuple[dict[tuple[int, int], dict[str, Any]], dict[str, Any]]:
    """Prediction of each different pair of token counts, and the model they are of."""
    from edgebench.forecasting.apply import predict  # numpy, which a --help does not wait for

    distinct = sorted(set(pairs))
    trained = choose_trained(asked.model_path, asked.model)
    rows = predict(trained.model, distinct, asked.level)
    return dict(zip(distinct, rows, strict=True)), trained.model


def add_up(rows: Sequence[Mapping[str, Any]], repeats: int) -> dict[str, Any]:
    """Runs, time and energy of some predictions, each run `repeats` times; null where one lacks it."""
    answer: dict[str, Any] = {"runs": len(rows) * repeats}
    for name, (quantity, factor) in FIGURES.items():
        found = [row.get(quantity) for row in rows]
        sums: dict[str, float | None] = dict.fromkeys(BOUNDS)
        for bound in BOUNDS:
            values = [one[bound] for one in found if one and one[bound] is not None]
            if len(values) == len(rows):
                sums[bound] = sum(values) * factor * repeats
        answer[name] = sums
    return answer


def make_plan(asked: Budget) -> dict[str, Any]:
    """Levels, total, cost, warnings."""
    levels = read_levels(asked)
    counts = count_tokens(asked, levels)
    lengths, warnings = output_lengths(asked, list(levels))
    pairs = {level: [(count, lengths[level]) for count in counts[level]] for level in levels}
    found, model = predict_all(asked, [pair for of_level in pairs.values() for pair in of_level])
    rows = {level: [found[pair] for pair in of_level] for level, of_level in pairs.items()}
    every = [row for of_level in rows.values() for row in of_level]
    beyond = sum(bool(row["extrapolated"]) for row in every)
    if beyond:
        warnings.append(f"{beyond} of {len(every)} prompts are outside the lengths the model was trained on")
    total = add_up(every, asked.repeats)
    if total["energy_joule"]["mean"] is None:
        warnings.append(f"no energy: {model.get('no_energy_reason') or 'the model has none'}")
    if model.get("simulated_power"):
        warnings.append(
            "energies are of simulated power, not of a measurement: they and their intervals mean nothing"
            " for a board"
        )
    if total["latency_s"]["low"] is None:
        warnings.append("no intervals: the model was trained on too few lengths")
    plan: dict[str, Any] = {"model": model["model"], "level": asked.level, "repeats": asked.repeats}
    plan["levels"] = {
        level: {
            **add_up(rows[level], asked.repeats),
            "prompt_tokens_mean": sum(counts[level]) / len(counts[level]),
            "prompt_tokens_max": max(counts[level]),
            "output_tokens": lengths[level],
        }
        for level in levels
    }
    return {**plan, "total": total, "cost": cost_of(asked, total), "warnings": warnings}


def cost_of(asked: Budget, total: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of a battery, price and carbon of the total energy, as far as flags ask for them."""
    cost: dict[str, Any] = {}
    wh = {bound: None if v is None else v / JOULE_PER_WH for bound, v in total["energy_joule"].items()}
    rates = {
        "battery_charges": None if asked.battery_wh is None else 1 / asked.battery_wh,
        "price": None if asked.price_per_kwh is None else asked.price_per_kwh / 1000,
        "co2_gram": None if asked.co2_g_per_kwh is None else asked.co2_g_per_kwh / 1000,
    }
    for name, per_wh in rates.items():
        if per_wh is not None:
            cost[name] = {bound: None if v is None else v * per_wh for bound, v in wh.items()}
    return cost


# --- output ---


def shown(figure: Mapping[str, float | None]) -> str:
    """mean (low to high), or a dash."""
    if figure["mean"] is None:
        return "-"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['mean']:.4g}"
    return f"{figure['mean']:.4g} ({figure['low']:.4g}-{figure['high']:.4g})"


def format_plan(plan: Mapping[str, Any]) -> str:
    """A table of at most 80 columns."""
    lines = [f"{plan['model']}, {plan['repeats']} repeats; {plan['level']:.0%} intervals"]
    lines.append(f"{'level':8} {'runs':>5} {'in':>6} {'out':>5} {'time s':>25} {'energy J':>26}")
    for level, row in plan["levels"].items():
        figures = f"{shown(row['latency_s']):>25} {shown(row['energy_joule']):>26}"
        tokens = f"{row['prompt_tokens_mean']:>6.0f} {row['output_tokens']:>5}"
        lines.append(f"{level[:8]:8} {row['runs']:>5} {tokens} {figures}")
    total = plan["total"]
    figures = f"{shown(total['latency_s']):>25} {shown(total['energy_joule']):>26}"
    lines.append(f"{'total':8} {total['runs']:>5} {'':12} {figures}")
    longest = "  ".join(f"{level} {row['prompt_tokens_max']}" for level, row in plan["levels"].items())
    lines.append(f"longest prompt, tokens: {longest}")
    for name, figure in plan["cost"].items():
        lines.append(f"{name.replace('_', ' ')}: {shown(figure)}")
    return "\n".join([*lines, *(f"note: {warning}" for warning in plan["warnings"])])
