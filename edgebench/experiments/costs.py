"""What an experiment will cost before it starts: time, energy, disk, and what there is to judge.

Two ways to know:

  a pilot          the experiment itself with its first tasks, one cycle, kept in OUTPUT/pilot-HASH, so that a
                   second look costs nothing. Every level of every model is taken to go on as the pilot's runs
                   did; low and high are its shortest and longest run of each level
  a trained model  of token2metrics.py: nothing is run, and its intervals are used

To the runs themselves come, with a pilot, loading, idle baselines, and the pauses that are set in seconds;
waiting for a temperature cannot be known. Energy is net of idle, and null where nothing measures it.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.config import Chosen, effective
from edgebench.experiments.preflight import refuse_unready, runs_per_cycle
from edgebench.experiments.starting import Start, check, conductor, is_left, prepare, remember
from edgebench.experiments.summary import Cell, cell_of, name_of
from edgebench.forecasting.budget import Budget, make_plan
from edgebench.power.session import PowerSettings
from edgebench.records.jsonl import records_in
from edgebench.shell import lifeline
from edgebench.shell.text import counted

ROOT = Path(__file__).resolve().parents[2]
ORDERS = 2  # the judge sees each pair both ways round
FIGURES = ("low", "mean", "high")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is to be reckoned, and how."""

    file: Path
    preset: str | None = None
    assignments: Sequence[str] = ()
    pilot_tasks: int = 2  # of each prompts file
    trained: str | None = None  # a trained model's name, instead of a pilot
    model_path: Path = Path("outputs")  # where it lies
    output_tokens: int | None = None  # with a trained model: length of answers
    price_in: float | None = None  # of a million tokens to the judge
    price_out: float | None = None

    def chosen(self, more: Sequence[str] = ()) -> Chosen:
        """The experiment's effective configuration; `more` beats it."""
        return effective(self.file, self.preset, [*self.assignments, *more])


# --- The pilot ---


def run_pilot(asked: Asked, chosen: Chosen) -> tuple[Path, list[dict[str, Any]]]:
    """Records of the experiment's first tasks, from an experiment of their own."""
    given = [f"name=pilot-{chosen.hash}", "cycles=1", "until_ci=null", "repeats=1", "warm_up=0"]
    given += ["judge=null", "aggregate=false"]
    if chosen.config["mode"] == "collect":
        given += ["ids=[]", f"limit={asked.pilot_tasks}"]
    else:
        given += ["limit=null"]
    pilot = asked.chosen(given)
    check(pilot, fresh=False)
    folder = prepare(pilot, fresh=False)
    code = 0
    if is_left(folder, Start(retry_failed=True)):
        remember(folder, Start(retry_failed=True, no_aggregate=True))
        command = conductor(folder, detached=False)
        code = lifeline.run(command, death_signal=signal.SIGTERM, stdout=subprocess.DEVNULL).returncode
    path = folder / "cycle_1.jsonl"
    good = [one for one in records_in(path) if one.get("error") is None] if path.exists() else []
    if not good:
        raise UserError(f"the pilot measured nothing (exit code {code}); {folder}/run.log says more")
    return path, good


def figures(values: Sequence[float | None], times: float) -> dict[str, float] | None:
    """{low, mean, high} of so many runs; None where one was not measured."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    return dict(
        zip(FIGURES, (times * one for one in (min(there), sum(there) / len(there), max(there))), strict=True)
    )


def add_up(parts: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Sum of {low, mean, high}; None with a gap."""
    there = [part for part in parts if part is not None]
    if not there or len(there) < len(parts):
        return None
    return {name: sum(part[name] for part in there) for name in FIGURES}


def from_pilot(config: Json, records: Sequence[Json], runs_each_cycle: int) -> dict[str, Any]:
    """The plan, from the pilot's records, summed up over what the summary tells apart, too."""
    groups: dict[Cell, list[Json]] = {}
    for record in records:
        groups.setdefault(cell_of(record), []).append(record)
    runs_each = config["cycles"] * runs_each_cycle / len(groups)  # a level that some tasks lack is rare
    cells = []
    for (model, quantization, level), here in groups.items():
        seconds = [None if one["latency_ms"] is None else one["latency_ms"] / 1000 for one in here]
        cells.append(
            {
                "model_id": model,
                "quantization": quantization or None,
                "level": level,
                "pilot_runs": len(here),
                "runs": round(runs_each),
                "latency_s": figures(seconds, runs_each),
                "energy_joule": figures([one.get("energy_joule") for one in here], runs_each),
            }
        )
    size = sum(len(json.dumps(record)) + 1 for record in records) / len(records)
    runs = config["cycles"] * runs_each_cycle
    simulated = any("simulated_power" in (one.get("flags") or ()) for one in records)
    return {
        "method": "pilot",
        "cells": cells,
        "overhead_s": overhead_s(config, records, runs),
        "disk_byte": round(size * runs),
        "warnings": ["the power is simulated, so the energy is"] if simulated else [],
    }


def overhead_s(config: Json, records: Sequence[Json], runs: int) -> float:
    """Loading, idle baselines, and pauses in seconds."""
    # Two quantizations of one model have the same model_id, and are loaded one after the other.
    loads = {
        (one["model_id"], one.get("quantization"), one.get("model_sha256")): (one.get("load_ms") or 0) / 1000
        for one in records
    }
    per_model = runs / config["cycles"] / len(loads)
    power = config["power"]
    measures = any(one.get("idle_mw") is not None for one in records)
    baseline_s = power["idle_seconds"] + PowerSettings(idle_seconds=power["idle_seconds"]).settling_s
    idle = math.ceil(per_model / power["idle_every"]) * baseline_s if measures else 0
    pauses = config["cool_down"]["seconds"] * (config["cycles"] - 1)
    between = config["cool_down"]["run"]
    pauses += float(between) * runs if not between.startswith("temp:") else 0
    return float(config["cycles"] * sum(load + idle for load in loads.values()) + pauses)


# --- A trained model ---


def from_trained(config: Json, asked: Asked) -> dict[str, Any]:
    """The plan of token2metrics.py, for one model file at a time."""
    if config["mode"] != "collect" or config["dataset"]:
        raise UserError("a trained model plans prompts files at batch 1; leave out --trained for a pilot")
    cells, warnings = [], []
    for model in config["models"]:
        for prompts in config["prompts"]:
            plan = make_plan(
                Budget(
                    prompts=Path(prompts),
                    gguf=Path(model),
                    model=str(asked.trained),
                    model_path=asked.model_path,
                    levels=config["levels"] or None,
                    limit=config["limit"],
                    output_tokens=asked.output_tokens or config["generation"]["max_tokens"],
                    repeats=config["repeats"] * config["cycles"],
                )
            )
            warnings += plan["warnings"]
            for level, one in plan["levels"].items():
                kept = {"runs": one["runs"]}
                for name in ("latency_s", "energy_joule"):  # without a figure: three nulls
                    kept[name] = one[name] if one[name] and None not in one[name].values() else None
                cell = {"model_id": Path(model).stem, "quantization": None, "level": level}
                cells.append({**cell, "pilot_runs": 0, **kept})
    return {"method": "trained", "cells": cells, "overhead_s": None, "disk_byte": None, "warnings": warnings}


# --- The whole ---


def judge_requests(config: Json, plan: Json, runs_each_cycle: int) -> int:
    """Requests to the judge: the first answer of each level against the others', both ways round."""
    levels = len({cell["level"] for cell in plan["cells"]})
    pairs = {"all": levels * (levels - 1) // 2, "baseline": levels - 1, "adjacent": levels - 1}
    each = pairs.get(config["judge"]["pairs"], len(config["judge"]["pairs"].split(",")))
    tasks = runs_each_cycle / max(1, levels * config["repeats"])
    return round(float(tasks * each * ORDERS))


def judge_cost(asked: Asked, config: Json, plan: Json, runs_each_cycle: int) -> dict[str, Any] | None:
    """Requests, and from a pilot's answers tokens and money; None where nobody judges."""
    if not config["judge"]:
        return None
    requests = judge_requests(config, plan, runs_each_cycle)
    cost: dict[str, Any] = {"requests": requests, "tokens_in": None, "tokens_out": None, "money": None}
    if "runs" not in plan.get("pilot", {}):
        return cost
    judge = config["judge"]
    command = [sys.executable, str(ROOT / "judge_pairs.py"), "--dry_run", f"--pairs={judge['pairs']}"]
    command += [f"--questions={judge['questions']}", f"--runs_root={plan['pilot']['runs']}"]
    command += [f"--model={judge['model'] or Path(judge['serve_model']).stem}"]
    with tempfile.TemporaryDirectory() as folder:
        done = lifeline.run([*command, f"--out={folder}/scores.csv"], capture_output=True, text=True)
    calls = re.search(r"^calls +([\d,]+)", done.stdout, re.M)
    tokens = re.search(r"^tokens +about ([\d,]+) in, ([\d,]+) out", done.stdout, re.M)
    if not calls or not tokens or not int(calls[1].replace(",", "")):
        return cost
    scale = requests / int(calls[1].replace(",", ""))
    came, went = (scale * int(number.replace(",", "")) for number in tokens.groups())
    cost |= {"tokens_in": round(came), "tokens_out": round(went)}
    if asked.price_in is not None and asked.price_out is not None:
        cost["money"] = (came * asked.price_in + went * asked.price_out) / 1e6
    return cost


def cost_of(asked: Asked) -> dict[str, Any]:
    """The plan of an experiment. Raises UserError, OSError."""
    chosen = asked.chosen()
    config = chosen.config
    refuse_unready(config)
    runs = runs_per_cycle(config)
    if runs is None:
        size = config["dataset"]["sample_size"]
        if not size:
            raise UserError("how many prompts? give dataset.sample_size, as in --set sample_size=100")
        runs = size * len(config["models"]) * config["repeats"] * max(1, len(config["levels"]))
    if asked.trained:
        plan = from_trained(config, asked)
    else:
        path, records = run_pilot(asked, chosen)
        plan = from_pilot(config, records, runs) | {"pilot": {"runs": str(path)}}
    latency = add_up([cell["latency_s"] for cell in plan["cells"]])
    extra = plan["overhead_s"] or 0
    return {
        "id": chosen.id,
        **plan,
        "cycles": config["cycles"],
        "runs": sum(cell["runs"] for cell in plan["cells"]),
        "time_s": latency and {name: value + extra for name, value in latency.items()},
        "energy_joule": add_up([cell["energy_joule"] for cell in plan["cells"]]),
        "judge": judge_cost(asked, config, plan, runs),
    }


def spread(found: Mapping[str, float] | None, form: Any) -> str:
    """mean (low to high)."""
    return (
        "unknown"
        if found is None
        else f"{form(found['mean'])} ({form(found['low'])} to {form(found['high'])})"
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; tenths below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))


def joule(value: float) -> str:
    """J, or Wh from a tenth of one."""
    return f"{value:.3g} J" if abs(value) < 360 else f"{value / 3600:.3g} Wh"


def judge_line(cost: Json) -> str:
    """Requests, tokens, money."""
    words = [counted(cost["requests"], "request")]
    if cost["tokens_in"] is not None:
        words.append(f"about {cost['tokens_in']:,} tokens in, {cost['tokens_out']:,} out")
    words.append(
        "money: give --price_in and --price_out" if cost["money"] is None else f"about {cost['money']:.2f}"
    )
    return ", ".join(words)


def as_text(plan: Json) -> str:
    """The plan for people, 80 columns."""
    how = "from a pilot" if plan["method"] == "pilot" else "from a trained model"
    extent = f"{counted(plan['runs'], 'run')} in up to {counted(plan['cycles'], 'cycle')}"
    lines = [f"{plan['id']}: {extent}, estimated {how}"]
    for cell in plan["cells"]:
        lines.append(f"  {name_of(cell)} {cell['level']}: {counted(cell['runs'], 'run')}")
        lines.append(f"    {spread(cell['latency_s'], duration)}, {spread(cell['energy_joule'], joule)}")
    lines.append(f"time    {spread(plan['time_s'], duration)}")
    if plan["overhead_s"] is not None:
        lines.append(f"        of it {duration(plan['overhead_s'])} loading, idle baselines and pauses")
    lines.append(f"energy  {spread(plan['energy_joule'], joule)}, net of idle")
    if plan["disk_byte"] is not None:
        lines.append(f"disk    {plan['disk_byte'] / 1e6:.2f} MB of records")
    if plan["judge"]:
        lines.append(f"judge   {judge_line(plan['judge'])}")
    lines += [f"note: {warning}" for warning in plan["warnings"]]
    return "\n".join(lines)
