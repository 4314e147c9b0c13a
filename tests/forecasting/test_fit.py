"""The fit, its solver, its intervals, its regressors and its file check, each by what it hands over."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.intervals import intervals_of
from edgebench.forecasting.model_file import read_model, write_model

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")


def samples(gross: bool = False, energy: bool = True, spread: float = 0.0) -> dict[str, Any]:
    """A grid of 5 x 5 lengths, two repeats, exact but for `spread`; gross: one row 9 times too slow."""
    generator = np.random.default_rng(0)
    counts = [
        [p, o - 1] for p in (64, 128, 256, 512, 1024) for o in (64, 128, 256, 512, 1024) for _ in range(2)
    ]
    measured: dict[str, list[float | None]] = {name: [] for name in ("prefill_ms", "decode_ms", "total_ms")}
    for prompt, steps in counts:
        noise = generator.normal(1, spread, 2) if spread else (1, 1)
        measured["prefill_ms"].append((5 + 0.2 * prompt + 2e-5 * prompt**2) * noise[0])
        measured["decode_ms"].append(
            (10 * steps + 1e-3 * (steps * prompt + steps * (steps + 1) / 2)) * noise[1]
        )
    if gross:
        measured["prefill_ms"][7] *= 9  # type: ignore[operator]
    measured["total_ms"] = [a + b for a, b in zip(measured["prefill_ms"], measured["decode_ms"], strict=True)]  # type: ignore[operator]
    for phase in ("prefill", "decode", "total"):
        measured[f"{phase}_energy_joule"] = [v / 50 if energy else None for v in measured[f"{phase}_ms"]]  # type: ignore[operator]
    targets = [
        "prefill_ms",
        "decode_ms",
        *(["prefill_energy_joule", "decode_energy_joule"] if energy else []),
    ]
    facts = {"model": "m", "board": None, "data": [], "energy_scope": None, "simulated_power": False}
    facts |= {"no_energy_reason": None if energy else "no energy was measured"}
    group = [place // 2 for place in range(len(counts))]
    where = [f"f row {place}" for place in range(len(counts))]
    shared = {"kind": "token2metrics_samples", "counts": counts, "group": group, "measured": measured}
    return {
        **facts,
        **shared,
        "subject": [None] * 50,
        "row_sha256": where,
        "where": where,
        "targets": targets,
    }


def fit(path: Path, content: dict[str, Any], settings: Settings | None = None) -> dict[str, Any]:
    """The model of all samples, as its file has it."""
    write_model(path / "model.json", fit_all(content, settings or Settings()))
    return read_model(path / "model.json")


def test_the_arithmetic_is_found_again_and_its_coefficients_have_errors(tmp_path: Path) -> None:
    model = fit(tmp_path, samples(spread=0.001))
    decode = model["targets"]["decode_ms"]
    assert min(decode["coefficients"]) >= 0 and len(decode["standard_errors"]) == len(decode["coefficients"])
    assert decode["coefficients"][decode["names"].index("per_context_token")] == pytest.approx(1e-3, rel=0.2)
    assert model["intervals"]["total_ms"]["held_out_mape_percent"] < 0.2
    again = fit(tmp_path / "again", samples(spread=0.001))
    assert again == model  # nothing in a fit is left to chance


def test_a_gross_outlier_is_named_and_does_not_bend_the_fit(tmp_path: Path) -> None:
    model = fit(tmp_path, samples(gross=True, spread=0.002))
    assert {"prefill_ms"} <= {one["target"] for one in model["outliers"]}
    assert {one["where"] for one in model["outliers"]} == {"f row 7"}
    assert model["intervals"]["prefill_ms"]["held_out_mape_percent"] < 1


def test_without_energies_there_are_none_and_the_reason_is_kept(tmp_path: Path) -> None:
    model = fit(tmp_path, samples(energy=False))
    assert not any("energy" in target for target in model["targets"])
    assert model["no_energy_reason"] == "no energy was measured"


@pytest.mark.parametrize(
    "method", ["shrunk", "two_parameter", "simple_scaling", "median_ratio", "through_origin"]
)
def test_a_transfer_finds_the_other_machine(method: str, tmp_path: Path) -> None:
    base = fit(tmp_path / "base", samples())
    other = samples()
    for name, values in other["measured"].items():
        other["measured"][name] = [value * 1.5 for value in values]
    model = fit(tmp_path / "board", other, Settings(base=base, method=method))
    assert model["regression"] == "transfer"
    assert model["intervals"]["total_ms"]["held_out_mape_percent"] < 0.5


def test_a_model_with_a_loop_in_a_tree_or_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    good = fit(tmp_path, samples(energy=False), Settings("analytic"))
    tree = {"left": [0], "right": [0], "feature": [0], "threshold": [1.0], "value": [0.0]}
    loop = {"regressor": "trees", "start": 0.0, "weight": 1.0, "trees": [tree], "rows": 1}
    damages: list[Any] = [{**good, "targets": {"prefill_ms": loop}}, {**good, "targets": {"x": loop}}]
    damages += [{**good, "ranges": {"low": [0, 1], "high": [1, 1]}}, {**good, "kind": "pickle"}]
    for place in ("coefficients", "standard_errors"):
        spec = {**good["targets"]["prefill_ms"], place: [math.nan]}
        damages.append({**good, "targets": {"prefill_ms": spec}})
    for damage in damages:
        (tmp_path / "m.json").write_text(json.dumps(damage))
        with pytest.raises(UserError, match=r"m\.json"):
            read_model(tmp_path / "m.json")


@given(st.lists(st.floats(0.1, 1e4), min_size=3, max_size=12), st.floats(0.2, 5.0))
@hypothesis_settings(max_examples=30, deadline=None)
def test_simple_transfers_of_exact_ratios_are_exact(base: list[float], ratio: float) -> None:
    from edgebench.forecasting import regressors as fit_regressors

    x = np.column_stack([base, np.arange(1, len(base) + 1)])
    for method in ("simple_scaling", "median_ratio", "through_origin"):
        spec, predict = fit_regressors.train_transfer(method, x, ratio * x[:, 0])
        assert spec["ratio"] == pytest.approx(ratio) and np.allclose(predict(x), ratio * x[:, 0])


def test_what_cannot_be_trained_or_solved_is_said_and_not_raised_from_a_library() -> None:
    from edgebench.forecasting import regressors, solve

    fold, two = np.zeros(3, int), np.ones((3, 2))
    with pytest.raises(UserError, match="polynomial cannot be trained"):
        regressors.train("polynomial", two, np.array([1.0, math.nan, 1.0]), fold)
    with pytest.raises(UserError, match="above zero"):
        regressors.train("median_ratio", np.zeros((3, 2)), np.ones(3), fold)
    design = solve.Design(np.full((3, 2), math.nan), named=1, free=0)
    problem = solve.Problem(
        [design], np.arange(3), np.ones(3), fold, np.ones(3), np.ones(3), bands=1, tolerant=True
    )
    with pytest.raises(UserError, match="no fit came of it"):
        solve.solve_problem(problem)


def test_intervals_of_pure_noise_cover_what_they_say() -> None:
    from edgebench.forecasting import intervals as metric_intervals

    generator = np.random.default_rng(3)
    counts = np.column_stack([generator.integers(10, 1000, 4000), generator.integers(10, 1000, 4000)]).astype(
        float
    )
    relative = generator.normal(0, 0.01, 4000)
    interval = metric_intervals.make_interval(counts[:2000], relative[:2000], np.arange(2000) // 10)
    model = {"targets": {"prefill_ms": {"between_lengths": None}}, "intervals": {"prefill_ms": interval}}
    model["ranges"] = {"low": [10, 11], "high": [1000, 1001]}
    means = {"prefill_ms": np.ones(2000)}
    found = metric_intervals.bounds(model, counts[2000:], means, 0.9)["prefill_ms"]
    inside = (np.array(found["low"]) <= 1 + relative[2000:]) & (
        1 + relative[2000:] <= np.array(found["high"])
    )
    assert 0.87 <= inside.mean() <= 0.93


def test_intervals_of_few_cells_cover_a_new_cell_whose_repeats_err_alike() -> None:
    rng, cells, repeats, draws = np.random.default_rng(3), 10, 5, 400
    off = np.repeat(rng.normal(0, 0.01, cells * draws), repeats)
    group = np.repeat(np.arange(cells * draws), repeats)
    size = cells * repeats
    asked: dict[str, Any] = {"counts": [[100, 99]] * len(off), "group": group.tolist()}
    asked |= {"measured": {"decode_ms": (100 * (1 + off)).tolist()}}
    answers = [
        intervals_of(asked, range(start, start + size), {"decode_ms": [100.0] * size})
        for start in range(0, len(off), size)
    ]
    new = np.abs(rng.normal(0, 0.01, 2000))
    held = [
        np.mean(new <= one["decode_ms"]["quantiles"]["0.9"] * math.exp(one["decode_ms"]["log_spread"][0]))
        for one in answers
    ]
    assert len(held) == draws and 0.88 < np.mean(held) < 0.95


def test_select_measurements_knows_short_names_and_keeps_bad_energies_out() -> None:
    from edgebench.forecasting import samples as select_measurements
    from edgebench.forecasting.names import find_model

    names = ["DeepSeek-R1-Distill-Qwen-1.5B", "L1-Qwen-1.5B-Max", "DeepSeek-R1-Distill-Llama-8B"]
    assert find_model("1.5B", names) == names[0]
    assert find_model("L1MAX", names) == names[1]
    assert find_model("8B", names) == names[2]
    with pytest.raises(UserError, match="not one model"):
        find_model("Qwen", names)
    row: dict[str, Any] = {"flags": ["too_short_for_sensor"], "decode_steps": 4, "decode_energy_joule": 3.0}
    row |= dict.fromkeys(select_measurements.TARGETS, 3.0)
    assert select_measurements.measured_value(row, "decode_energy_joule") is None
    assert select_measurements.measured_value({**row, "flags": []}, "decode_energy_joule") == 3.0
