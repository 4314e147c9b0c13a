"""Statistics over cycles: intervals against scipy's own, what counts, and when it is enough."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.experiments import costs
from edgebench.experiments import summary as summarize_cycles
from edgebench.experiments.folder import runs_in
from edgebench.stats.intervals import student_quantile


def run(task: int, energy: float | None, level: str = "L0", **more: Any) -> dict[str, Any]:
    return {
        "run_key": f"{task}{level}", "id": task, "level": level, "model_id": "m", "completion_tokens": 10,
        "latency_ms": 100.0, "energy_joule": energy, "error": None, "flags": [], "flops": None, **more,
    }  # fmt: skip


@settings(deadline=None)  # importing scipy.stats takes a second
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=10))
def test_intervals_equal_scipys(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = summarize_cycles.statistics(values)
    sem = stats.sem(values)
    if sem > 0:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=sem)
        scale = max(1.0, abs(low), abs(high))
        assert math.isclose(found["ci95_low"], low, rel_tol=1e-9, abs_tol=1e-9 * scale)
        assert math.isclose(found["ci95_high"], high, rel_tol=1e-9, abs_tol=1e-9 * scale)
        assert math.isclose(found["std"], stats.tstd(values), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("n", "t"),
    [
        (2, 12.706),
        (3, 4.303),
        (4, 3.182),
        (5, 2.776),
        (6, 2.571),
        (7, 2.447),
        (8, 2.365),
        (9, 2.306),
        (10, 2.262),
    ],
)
def test_quantiles_are_those_of_the_printed_table(n: int, t: float) -> None:
    assert round(student_quantile(n - 1), 3) == t


def test_one_cycle_has_a_mean_and_no_interval() -> None:
    found = summarize_cycles.statistics([5.0, None])
    assert (found["n"], found["mean"], found["std"], found["ci95_low"], found["cv"]) == (
        1,
        5.0,
        None,
        None,
        None,
    )


def test_energy_per_token_is_the_ratio_of_sums() -> None:
    records = [run(1, 10.0, completion_tokens=1), run(2, 10.0, completion_tokens=19)]
    values = summarize_cycles.cycle_values(records)
    assert values["joule_per_token"] == 1.0 and values["tokens_per_joule"] == 1.0


def test_what_was_not_measured_is_null_and_never_a_sum_with_a_gap() -> None:
    values = summarize_cycles.cycle_values([run(1, 10.0), run(2, None)])
    assert values["energy_joule"] is None and values["joule_per_token"] is None
    assert summarize_cycles.cycle_values([run(1, -1.0)])["tokens_per_joule"] is None
    (cell,) = summarize_cycles.cells_of([[run(1, None, energy_missing="no sensor")]])
    assert "tokens_per_joule" not in cell["metrics"]  # not measured: no reason of its own
    assert "energy_joule" not in cell["metrics"] and cell["energy_missing"] == "no sensor"


def test_a_ratio_without_a_value_in_one_cycle_has_no_mean_and_says_why() -> None:
    """5.748e+05 tokens/J came from the one of four cycles whose net energy was above zero."""
    (cell,) = summarize_cycles.cells_of([[run(1, energy)] for energy in (-1.0, 1.7e-5, -0.5, 0.0)])
    ratio = cell["metrics"]["tokens_per_joule"]
    assert (ratio["n"], ratio["mean"], ratio["std"], ratio["half_width"]) == (1, None, None, None)
    assert ratio["reason"] == "energy_joule is not above zero in cycles 1, 3, 4"
    # The energy itself is known in all of them, whatever its sign.
    energy = cell["metrics"]["energy_joule"]
    assert (energy["n"], energy["reason"]) == (4, None)
    assert energy["mean"] == pytest.approx((-1.0 + 1.7e-5 - 0.5 + 0.0) / 4)
    text = summarize_cycles.markdown(summary_of([cell]))
    assert "No tokens/J of m L0: energy_joule is not above zero in cycles 1, 3, 4." in text
    row = next(line for line in text.splitlines() if line.startswith("| m |"))
    assert row.split("|")[5].strip() == "-"


def test_a_mean_that_some_counted_cycles_lack_is_shown_with_its_n() -> None:
    (cell,) = summarize_cycles.cells_of([[run(1, energy)] for energy in (5.0, None, 6.0)])
    assert cell["cycles_counted"] == [1, 2, 3]
    assert summarize_cycles.shown(cell, "energy_joule").endswith(" (n=2)")
    assert "(n=" not in summarize_cycles.shown(cell, "latency_ms")


def summary_of(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "made", "cells": cells, "cycles": [], "mixed": {}, "until_ci": None, "flops_methods": []}


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100).filter(lambda joule: joule == 0 or abs(joule) > 1e-6), min_size=1))
def test_no_value_is_dropped_by_its_sign(energies: list[float]) -> None:
    (cell,) = summarize_cycles.cells_of([[run(1, energy)] for energy in energies])
    metrics = cell["metrics"]
    assert metrics["joule_per_token"]["n"] == metrics["energy_joule"]["n"] == len(energies)
    assert metrics["energy_joule"]["mean"] == pytest.approx(sum(energies) / len(energies), abs=1e-9)
    assert (metrics["tokens_per_joule"]["mean"] is None) == any(energy <= 0 for energy in energies)


@pytest.mark.parametrize(
    "bad",
    [
        [run(1, 10.0), run(2, 10.0, error={"type": "x"})],
        [run(1, 10.0)],
        [run(1, 10.0), run(2, 10.0, flags=["warm_cache"])],
        [],
    ],
)
def test_a_level_counts_only_where_all_its_runs_are_good(bad: list[dict[str, Any]]) -> None:
    whole = [run(1, 10.0), run(2, 12.0)]
    (cell,) = summarize_cycles.cells_of([whole, bad, whole])
    assert cell["cycles_counted"] == [1, 3]
    assert cell["metrics"]["energy_joule"]["per_cycle"] == [11.0, None, 11.0]


def made(energies: list[float]) -> list[dict[str, Any]]:
    return summarize_cycles.cells_of([[run(1, energy), run(1, energy, "P")] for energy in energies])


def test_the_stop_rule_stops_at_the_right_cycle() -> None:
    """Half-widths relative to the mean, from the t table: n = 3: 4.303 * s / sqrt(3) / mean, and so on."""
    energies = [100.0, 102.0, 98.0, 101.0, 99.0, 100.0]
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = None
    for n in range(3, len(energies) + 1):
        part = energies[:n]
        low, high = scipy_stats.t.interval(0.95, n - 1, loc=sum(part) / n, scale=scipy_stats.sem(part))
        if (high - low) / 2 <= 0.02 * sum(part) / n:
            expected = n
            break
    assert expected == 5
    reached = [summarize_cycles.decide(made(energies[:n]), "2%") for n in range(1, 7)]
    assert [one["reached"] for one in reached if one] == [False] * 4 + [True, True]
    assert reached[1] and "at least 3" in reached[1]["reason"]


def test_the_stop_rule_needs_every_level_and_energy() -> None:
    cells = summarize_cycles.cells_of([[run(1, 100.0), run(1, None, "P")]] * 4)
    decided = summarize_cycles.decide(cells, "2%")
    assert decided and not decided["reached"] and decided["reason"].startswith("m P: 0 cycles with energy")
    assert summarize_cycles.decide([], "2%")["reached"] is False  # type: ignore[index]
    assert summarize_cycles.decide(cells, None) is None


def test_a_torn_line_and_a_retried_run_do_no_harm(tmp_path: Path) -> None:
    lines = [json.dumps(run(1, 5.0, error={"type": "x"})), json.dumps(run(1, 7.0)), '{"id": 2, "le']
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    (record,) = runs_in(tmp_path / "c.jsonl")
    assert record["energy_joule"] == 7.0


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no experiment's folder"):
        summarize_cycles.sum_up(tmp_path)


def test_a_run_that_every_cycle_repeats_is_counted_in_every_cycle() -> None:
    cycles = [[run(1, 1.0), run(2, 1.0)], [run(1, 1.0)]]  # the keys of one run are alike
    counted = {
        "1L0": {"method": "exact", "confidence": "high"},
        "2L0": {"method": "rough", "confidence": "low"},
    }
    assert summarize_cycles.methods_of(cycles, counted) == [
        {"method": "exact", "confidence": "high", "runs": 2},
        {"method": "rough", "confidence": "low", "runs": 1},
    ]


def test_two_quantizations_of_one_model_are_planned_each_by_itself() -> None:
    """They have the same model_id; the quick one's runs say nothing of the slow one's."""
    config = {
        "cycles": 3,
        "power": {"idle_every": 15, "idle_seconds": 0},
        "cool_down": {"seconds": 0, "run": "0"},
    }
    records = [
        run(task, energy, model_id="m", quantization=kind, latency_ms=latency_ms)
        for kind, energy, latency_ms in (("Q8_0", 4.0, 2000.0), ("Q4_1", 1.0, 500.0))
        for task in (1, 2)
    ]
    plan = costs.from_pilot(config, records, runs_each_cycle=20)
    assert [(cell["quantization"], cell["pilot_runs"], cell["runs"]) for cell in plan["cells"]] == [
        ("Q8_0", 2, 30),
        ("Q4_1", 2, 30),
    ]
    seconds = [cell["latency_s"] for cell in plan["cells"]]
    assert [tuple(one.values()) for one in seconds] == [(60.0,) * 3, (15.0,) * 3]
    assert [cell["energy_joule"]["mean"] for cell in plan["cells"]] == [120.0, 30.0]
    whole = {"id": "x", "cycles": 3, "runs": 60, "time_s": None, "energy_joule": None, "judge": None}
    told = costs.as_text(plan | whole)
    assert "  m Q8_0 L0: 30 runs\n" in told and "  m Q4_1 L0: 30 runs\n" in told


def test_two_quantizations_of_one_model_are_loaded_twice() -> None:
    """They have the same model_id."""
    config = {
        "cycles": 1,
        "power": {"idle_every": 15, "idle_seconds": 10},
        "cool_down": {"seconds": 0, "run": "0"},
    }
    records = [
        {"model_id": "m", "quantization": kind, "load_ms": 2000.0, "idle_mw": None}
        for kind in ("Q8_0", "Q4_1")
    ]
    assert costs.overhead_s(config, records, runs=10) == pytest.approx(4.0)
