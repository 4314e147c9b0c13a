"""What whole repeats of an experiment say together: mean, spread and 95 % interval per model and level.

Each cycle gives one value per metric, model and level: the mean over its runs, or
for joule per token, tokens per joule and flops per second the ratio of the sums. Over cycles:

  mean, std   sample standard deviation (n - 1)
  ci95        mean ± t(0.975, n - 1) * std / sqrt(n), Student's t
  cv          std / |mean|

No value is dropped by its sign before a mean: net energy may come out at or below zero, and tokens per joule
has no meaning in such a cycle. Then it has no mean over the cycles either, and `reason` says which cycle. A
mean that some of the counted cycles lack, since nothing measured it there, is shown with its n.

A level counts in a cycle where all its runs succeeded, none of them with a flag
that makes it unfit for means, and no task is missing. What was not measured is
null. With until_ci of, say, 2%, `reached` becomes true once the interval of the
energy per answer token is within ± 2 % of its mean, in at least 3 cycles, for
every model and level.

Reads FOLDER/effective_config.json, state.json and cycle_N.jsonl; the floating-point
operations come from gguf/flops.py. Writes FOLDER/summary.json,
summary.md and flops.jsonl, a line per run.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.folder import command_for, read_config, read_json, read_state, runs_in, write_json
from edgebench.gguf import flops
from edgebench.records.jsonl import records_in, write_whole
from edgebench.records.run import all_flags_of, as_number, counts
from edgebench.shell.progress import say
from edgebench.shell.text import mean_half_width
from edgebench.stats.intervals import mean_std, student_half_width

CYCLES_FOR_INTERVAL = 3
# Of the environment's board, and of the records
CONDITIONS = (
    "board", "power_mode_name", "clocks_locked", "engine_version", "power_source", "power_rail",
    "power_scope",
)  # fmt: skip
MEANS = (
    "latency_ms", "ttft_ms", "tpot_ms", "prefill_tok_per_s", "decode_tok_per_s", "tok_per_s", "prompt_tokens",
    "completion_tokens", "energy_joule", "energy_gross_joule", "power_mw_mean", "temp_max_c", "flops",
)  # fmt: skip
# name: (numerator, denominator, factor), each summed over a cycle's runs
RATIOS = {
    "joule_per_token": ("energy_joule", "completion_tokens", 1.0),
    "tokens_per_joule": ("completion_tokens", "energy_joule", 1.0),
    "flops_per_s": ("flops", "latency_ms", 1000.0),
}
COLUMNS = (
    ("J/token", "joule_per_token"),
    ("tokens/J", "tokens_per_joule"),
    ("J", "energy_joule"),
    ("latency ms", "latency_ms"),
    ("decode tok/s", "decode_tok_per_s"),
)
MEANING = "Mean over cycles ± half of its 95 % interval (Student's t); no ± where one cycle counts."
Json = Mapping[str, Any]
Cell = tuple[str, str, str]  # model, quantization, level or batch size


# --- One cycle ---


def cell_of(record: Json) -> Cell:
    """What is compared over cycles."""
    is_batch = record.get("kind") == "throughput"
    level = f"batch {record.get('batch_size')}" if is_batch else str(record.get("level"))
    return str(record.get("model_id")), str(record.get("quantization") or ""), level


def task_of(record: Json) -> tuple[str, Any, Any]:
    return str(record.get("id")), record.get("turn"), record.get("repeat")


def is_usable(record: Json) -> bool:
    return counts(record)


def total(records: Sequence[Json], name: str) -> float | None:
    """Sum over runs; None if one of them lacks it: a sum with a gap is no sum."""
    values = [as_number(record.get(name)) for record in records]
    return None if None in values or not values else float(sum(values))  # type: ignore[arg-type]


def cycle_values(records: Sequence[Json]) -> dict[str, float | None]:
    """One value per metric of one cell in one cycle. A mean needs every run, except of times that some runs
    cannot have: an answer of one token has no time per further token.
    """
    values: dict[str, float | None] = {}
    for name in MEANS:
        if name in ("tpot_ms", "decode_tok_per_s", "temp_max_c"):
            measured = [as_number(one.get(name)) for one in records]
            values[name] = mean_std([one for one in measured if one is not None])[0]
        else:
            summed = total(records, name)
            values[name] = None if summed is None else summed / len(records)
    for name, (upper, lower, factor) in RATIOS.items():
        over, under = total(records, upper), total(records, lower)
        known = over is not None and under is not None and under > 0
        values[name] = factor * over / under if known else None  # type: ignore[operator]
    return values


def unusable(records: Sequence[Json]) -> set[str]:
    """The ratios that were measured and have no value all the same: what they divide by is not above zero."""
    found = set()
    for name, (upper, lower, _) in RATIOS.items():
        under = total(records, lower)
        if total(records, upper) is not None and under is not None and under <= 0:
            found.add(name)
    return found


# --- All cycles ---


def statistics(values: Sequence[float | None], reason: str | None = None) -> dict[str, Any]:
    """{n, mean, std, ci95_low, ci95_high, half_width, cv, per_cycle, reason} of one value per cycle.

    With a reason, why they have no mean, all but n and per_cycle is null.
    """
    there = [value for value in values if value is not None]
    mean, std = mean_std(there) if reason is None else (None, None)
    half = None if std is None else student_half_width(std, len(there))
    known = mean is not None and half is not None
    return {
        "n": len(there),
        "mean": mean,
        "std": std,
        "ci95_low": mean - half if known else None,  # type: ignore[operator]
        "ci95_high": mean + half if known else None,  # type: ignore[operator]
        "half_width": half,
        "cv": std / abs(mean) if std is not None and mean else None,
        "per_cycle": list(values),
        "reason": reason,
    }


def why_no_mean(name: str, cycles: Sequence[int]) -> str | None:
    """Why a ratio has no mean, where it has no value in these cycles."""
    if not cycles:
        return None
    where = f"cycle{'s' if len(cycles) > 1 else ''} {', '.join(map(str, cycles))}"
    return f"{RATIOS[name][1]} is not above zero in {where}"


def cells_of(cycles: Sequence[Sequence[Json]]) -> list[dict[str, Any]]:
    """One entry per model and level with the statistics of every metric; cycles: the records of each."""
    expected: dict[Cell, set[Any]] = {}
    for record in (one for records in cycles for one in records):
        expected.setdefault(cell_of(record), set()).add(task_of(record))
    found = []
    for cell in sorted(expected, key=in_order):
        by_cycle: list[dict[str, float | None]] = []
        without: dict[str, list[int]] = {name: [] for name in RATIOS}  # cycles in which a ratio has no value
        counted = []
        for n, records in enumerate(cycles, 1):
            here = [record for record in records if cell_of(record) == cell]
            whole = all(map(is_usable, here)) and {task_of(record) for record in here} == expected[cell]
            by_cycle.append(cycle_values(here) if whole else {})
            counted += [n] if whole else []
            for name in unusable(here) if whole else ():
                without[name].append(n)
        metrics = {
            name: statistics(
                [values.get(name) for values in by_cycle], why_no_mean(name, without.get(name, ()))
            )
            for name in (*MEANS, *RATIOS)
        }
        mine = [record for records in cycles for record in records if cell_of(record) == cell]
        found.append(
            {
                "model_id": cell[0],
                "quantization": cell[1] or None,
                "level": cell[2],
                "runs_per_cycle": len(expected[cell]),
                "cycles_counted": counted,
                "simulated_power": any("simulated_power" in all_flags_of(one) for one in mine),
                "energy_missing": next(
                    (one["energy_missing"] for one in mine if one.get("energy_missing")), None
                ),
                "metrics": {name: one for name, one in metrics.items() if one["n"] or one["reason"]},
            }
        )
    return found


def in_order(cell: Cell) -> tuple[Any, ...]:
    """Batch sizes as numbers, the placebo after the levels."""
    size = cell[2].removeprefix("batch ")
    number = int(size) if size != cell[2] and size.isdigit() else 0
    return cell[0], cell[1], number, cell[2]


def facts_of(environments: Sequence[Json], records: Sequence[Json]) -> Iterator[tuple[str, str]]:
    """(name, value) of all that must be the same in every cycle."""
    for env in environments:
        board, engine, models = (
            env[name] if isinstance(env.get(name), Mapping) else {} for name in ("board", "engine", "models")
        )
        yield from ((name, str(board.get(name))) for name in CONDITIONS if name in board)
        yield "engine_version", str(engine.get("version"))
        yield from ((f"file of {name}", str(one.get("sha256"))[:12]) for name, one in models.items())
    for record in (one for one in records if one.get("error") is None):
        yield from ((name, str(record[name])) for name in CONDITIONS if name in record)
        if record.get("prompt_sha256") and record.get("turn") in (None, 1):  # a second turn holds an answer
            task = f"prompt of task {record.get('id')} {record.get('level')} for {record.get('model_id')}"
            yield task, str(record["prompt_sha256"])[:12]


def differences(folder: Path, cycles: Sequence[Sequence[Json]]) -> dict[str, dict[str, list[int]]]:
    """{what was not the same in all cycles: {value: the cycles it had it in}}; their mean means nothing."""
    found: dict[str, dict[str, list[int]]] = {}
    for n, records in enumerate(cycles, 1):
        path = folder / f"cycle_{n}.env.jsonl"
        environments = records_in(path) if path.exists() else []
        for name, value in dict.fromkeys(facts_of(environments, records)):
            found.setdefault(name, {}).setdefault(value, []).append(n)
    return {name: values for name, values in found.items() if len(values) > 1}


def decide(cells: Sequence[Json], until_ci: str | None) -> dict[str, Any] | None:
    """Is the energy per token of every cell known to within the wanted share of its mean?"""
    if not until_ci:
        return None
    wanted = float(until_ci.strip().rstrip("% ")) / 100
    worst, widest, reason = None, None, None if cells else "nothing was measured"
    for cell in cells:
        where = f"{name_of(cell)} {cell['level']}"
        nothing = {"n": 0, "half_width": None, "mean": None, "reason": None}
        known = cell["metrics"].get("joule_per_token", nothing)
        if known["n"] < CYCLES_FOR_INTERVAL:
            reason = f"{where}: {known['n']} cycles with energy, at least {CYCLES_FOR_INTERVAL} are needed"
        elif not known["mean"]:
            reason = f"{where}: {known['reason'] or 'the mean is zero'}"
        elif worst is None or known["half_width"] / abs(known["mean"]) > worst:
            worst, widest = known["half_width"] / abs(known["mean"]), where
    reached = reason is None and worst is not None and worst <= wanted
    return {"wanted": wanted, "reached": reached, "widest": worst, "widest_at": widest, "reason": reason}


# --- Writing ---


def count_flops(
    config: Json, cwd: Path, cycles: Sequence[Sequence[Json]], out: Path
) -> dict[str, dict[str, Any]]:
    """{run_key: line of flops.jsonl}, which is written to out; empty where no model can be read."""
    costs = {}
    for path in (cwd / model for model in config["models"]):
        try:
            costs[path] = flops.read_cost(path)
        except UserError as problem:
            if path.exists():
                say(f"flops: error: {problem}")
    records = [record for cycle in cycles for record in cycle]
    if not costs or not records:
        return {}
    counts = [count.as_record() for count in flops.count_runs(records, costs)]
    try:
        write_whole(out, "".join(json.dumps(line) + "\n" for line in counts))
    except OSError as problem:
        say(f"flops: error: {problem}")
        return {}
    return {str(line["run_key"]): line for line in counts}


def with_flops(cycles: Sequence[Sequence[Json]], counted: Mapping[str, Json]) -> list[list[dict[str, Any]]]:
    """The records with their flops, null where they were not counted."""
    return [
        [{**one, "flops": counted.get(str(one.get("run_key")), {}).get("flops")} for one in cycle]
        for cycle in cycles
    ]


def methods_of(cycles: Sequence[Sequence[Json]], counted: Mapping[str, Json]) -> list[dict[str, Any]]:
    """How many runs were counted by which method. A run of every cycle may have the same key."""
    lines = [counted[key] for cycle in cycles for one in cycle if (key := str(one.get("run_key"))) in counted]
    number = Counter((str(line["method"]), str(line["confidence"])) for line in lines)
    return [{"method": how, "confidence": sure, "runs": runs} for (how, sure), runs in sorted(number.items())]


def shown(cell: Json, name: str) -> str:
    """1.230 ± 0.042: mean and half the 95 % interval; with n where not every counted cycle has a value."""
    metric = cell["metrics"].get(name)
    if metric is None or metric["mean"] is None:
        return "-"
    text = mean_half_width(metric["mean"], metric["half_width"])
    return text if metric["n"] == len(cell["cycles_counted"]) else f"{text} (n={metric['n']})"


def markdown(summary: Json) -> str:
    """The summary as a page with one table."""
    heads = [head for head, _ in COLUMNS]
    lines = [
        f"# {summary['name']}",
        "",
        MEANING,
        "",
        "| model | level | cycles | " + " | ".join(heads) + " | CV of J/token |",
        "| --- | --- | --- |" + " --- |" * (len(heads) + 1),
    ]
    for cell in summary["cells"]:
        metrics = cell["metrics"]
        cv = metrics.get("joule_per_token", {}).get("cv")
        values = [shown(cell, name) for _, name in COLUMNS] + ["-" if cv is None else f"{cv:.1%}"]
        lines.append(
            f"| {name_of(cell)} | {cell['level']} | {len(cell['cycles_counted'])} | "
            + " | ".join(values)
            + " |"
        )
    return "\n".join([*lines, "", *notes(summary)]) + "\n"


def name_of(cell: Json) -> str:
    """Model and quantization; files of one model that are measured together have it in their id.

    >>> name_of({"model_id": "gemma", "quantization": "Q6_K"})
    'gemma Q6_K'
    >>> name_of({"model_id": "gemma-Q6_K", "quantization": "Q6_K"})
    'gemma-Q6_K'
    """
    model, quantization = str(cell["model_id"]), cell["quantization"] or ""
    return model if model.lower().endswith(quantization.lower()) else f"{model} {quantization}"


def screen(summary: Json) -> str:
    """The summary for a terminal of 80 columns; summary.md has more columns."""
    columns = [pair for pair in COLUMNS if pair[1] in ("joule_per_token", "energy_joule", "latency_ms")]
    lines = [summary["name"], ""]
    wide = max([12, *(len(str(cell["level"])) for cell in summary["cells"])])
    for model in dict.fromkeys(name_of(cell) for cell in summary["cells"]):
        lines += [model, f"{'level':<{wide}} {'cycles':>6}" + "".join(f" {head:>18}" for head, _ in columns)]
        for cell in summary["cells"]:
            if name_of(cell) == model:
                values = "".join(f" {shown(cell, name):>18}" for _, name in columns)
                lines.append(f"{cell['level']:<{wide}} {len(cell['cycles_counted']):>6}{values}")
        lines.append("")
    texts = [MEANING, *notes(summary)]
    lines += [part for text in texts for part in (textwrap.wrap(text, 80, subsequent_indent="  ") or [""])]
    return "\n".join(lines) + "\n"


def notes(summary: Json) -> list[str]:
    """What the reader of the table must know, as lines of Markdown."""
    lines = []
    if any(cell["simulated_power"] for cell in summary["cells"]):
        lines += ["SIMULATED power, not measured here.", ""]
    for cell in summary["cells"]:
        for head, name in COLUMNS:
            reason = (cell["metrics"].get(name) or {}).get("reason")
            if reason:
                lines += [f"No {head} of {name_of(cell)} {cell['level']}: {reason}.", ""]
    for reason in sorted({cell["energy_missing"] for cell in summary["cells"] if cell["energy_missing"]}):
        lines += [f"No energy: {reason}.", ""]
    for cycle in summary["cycles"]:
        why = f" ({cycle['why']})" if cycle["why"] else ""
        lines.append(
            f"- cycle {cycle['n']}: {cycle['status']}{why}, {cycle['runs']} runs, {cycle['failed']} failed"
        )
    for name, values in summary["mixed"].items():
        where = "; ".join(f"{value} in cycle {', '.join(map(str, ns))}" for value, ns in values.items())
        lines += ["", f"MIXED: {name} is {where}. The means above are of different things."]
    until = summary["until_ci"]
    if until:
        width = "unknown" if until["widest"] is None else f"± {until['widest']:.2%} at {until['widest_at']}"
        verdict = (
            "reached"
            if until["reached"]
            else "not reached" + (f": {until['reason']}" if until["reason"] else "")
        )
        lines += [
            "",
            f"Energy per token to within ± {until['wanted']:.3g} of its mean: {verdict}; widest: {width}.",
        ]
    for method in summary["flops_methods"]:
        lines += [
            "",
            f"FLOPs by {method['method']}, confidence {method['confidence']}: {method['runs']} runs.",
        ]
    return lines


def summarize(folder: Path) -> dict[str, Any]:
    """The summary of what is there now; without times, so that a broken campaign's is the same."""
    config = read_config(folder)
    state = read_state(folder)
    paths = [folder / f"cycle_{n}.jsonl" for n in range(1, config["cycles"] + 1)]
    cycles = [runs_in(path) for path in paths]
    counted = count_flops(config, Path(state["cwd"]), cycles, folder / "flops.jsonl")
    cells = cells_of(with_flops(cycles, counted))
    mixed, until = differences(folder, cycles), decide(cells, config["until_ci"])
    if mixed and until:
        until |= {"reached": False, "reason": f"the cycles differ in {next(iter(mixed))}"}
    return {
        "schema_version": 1,
        "id": state["id"],
        "name": config["name"],
        "mode": config["mode"],
        "cycles": [
            {key: cycle.get(key) for key in ("n", "status", "runs", "failed", "why")}
            for cycle in state["cycles"]
        ],
        "until_ci": until,
        "mixed": mixed,
        "flops_methods": methods_of(cycles, counted),
        "cells": cells,
    }


def sum_up(folder: Path) -> dict[str, Any]:
    """The summary, written to summary.json and summary.md. Raises UserError, OSError."""
    summary = summarize(folder)
    write_json(folder / "summary.json", summary)
    write_whole(folder / "summary.md", markdown(summary))
    return summary


def screen_of(folder: Path) -> str:
    """summary.json for a terminal. Raises UserError."""
    again = f"make it again with: {command_for('aggregate', folder)} --force"
    try:
        return screen(read_json(folder / "summary.json"))
    except UserError:
        raise UserError(f"{folder / 'summary.json'} cannot be read; {again}") from None
    except KeyError as problem:
        raise UserError(f"{folder / 'summary.json'} lacks {problem}; {again}") from None
    except (TypeError, AttributeError, ValueError):
        raise UserError(f"{folder / 'summary.json'} is no summary; {again}") from None
