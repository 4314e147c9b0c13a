"""Designs: what the columns count, and that a fit finds the machine again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")

from edgebench.forecasting import designs, solve  # noqa: E402
from edgebench.forecasting.fit import Settings, fit_all  # noqa: E402
from edgebench.forecasting.quantities import LLAMA_CPP  # noqa: E402


def prefills(lengths: list[int], times: Any, engine: str | None = None) -> dict[str, Any]:
    """Samples of prompts alone, one row each."""
    none = [None] * len(lengths)
    measured = dict.fromkeys(("decode_ms", "total_ms"), none)
    measured |= {f"{phase}_energy_joule": none for phase in ("prefill", "decode", "total")}
    facts = {"model": "m", "board": None, "data": [], "engine": engine, "energy_scope": None}
    facts |= {"no_energy_reason": "no energy was measured", "simulated_power": False}
    where = [f"row {place}" for place in range(len(lengths))]
    return {
        **facts,
        "counts": [[length, 0] for length in lengths],
        "group": list(range(len(lengths))),
        "subject": none,
        "row_sha256": where,
        "where": where,
        "measured": {**measured, "prefill_ms": [float(one) for one in times]},
        "targets": ["prefill_ms"],
    }


@given(st.integers(1, 20000), st.integers(1, 20000))
def test_the_tokens_of_all_bands_are_those_between_two_lengths(one: int, other: int) -> None:
    low, high = np.array([float(min(one, other))]), np.array([float(max(one, other))])
    assert designs.band_tokens(low, high).sum() == high[0] - low[0]


@given(st.integers(1, 5000), st.sampled_from([64, 512]))
def test_a_longer_prompt_attends_to_more_pairs_and_never_to_less_than_half_the_square(
    length: int, batch: int
) -> None:
    pairs = designs.attended_pairs(np.array([length, length + 1.0]), batch)
    assert pairs[1] > pairs[0] >= length**2 / 2
    assert pairs[0] <= length**2


def test_tiles_that_no_length_shows_are_not_believed() -> None:
    grid = np.array([128.0, 256.0, 1024.0])
    assert all(
        pad > 128 for one in designs.prefill_options(grid, None) for pad in one.get("pads", [one.get("pad")])
    )
    assert {"pads": [128, 256]} in designs.prefill_options(np.array([100.0, 300.0]), None)


def test_the_staircase_of_two_tiles_and_the_slope_between_are_found_again() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(80, 900, 300).tolist()
    prompt = np.array(lengths, float)
    stairs = 30 * designs.further_tiles(prompt, 128) + 60 * designs.further_tiles(prompt, 256)
    truth = (100 + 0.3 * prompt + 2e-5 * prompt**2 + stairs) * generator.normal(1, 0.003, len(prompt))
    spec = fit_all(prefills(lengths, truth), Settings())["targets"]["prefill_ms"]
    assert spec["won"] == "analytic" and {128, 256} <= set(spec["options"]["pads"])
    found = dict(zip(spec["names"], spec["coefficients"], strict=False))
    assert found["per_tile_of_128"] == pytest.approx(30, abs=2)
    assert found["per_tile_of_256"] == pytest.approx(60, abs=3)
    assert spec["tried_mape_percent"]["analytic"] < 0.4 < 4 < spec["tried_mape_percent"]["linear"]
    assert "random_forest" in spec["untried"]


def test_micro_batches_predict_a_length_that_was_left_out() -> None:
    """Six lengths of llama.cpp's own arithmetic, one row each; the fifth is predicted from the others."""
    lengths = [128, 256, 512, 1024, 2048, 4096]
    prompt = np.array(lengths, float)
    truth = 6 + 0.2 * prompt + 9e-5 * designs.attended_pairs(prompt, 512)
    truth = truth + 17 * designs.further_tiles(prompt, 512)
    kept = [place for place in range(6) if place != 4]
    model = fit_all(prefills([lengths[p] for p in kept], truth[kept], LLAMA_CPP), Settings("analytic"))
    from edgebench.forecasting.apply import predict

    (row,) = predict(model, [(2048, 1)])
    assert row["prefill_ms"]["mean"] == pytest.approx(truth[4], rel=0.01)


def test_a_row_far_off_does_not_bend_the_fit() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(50, 2000, 120).tolist()
    truth = np.array([20 + 0.5 * length for length in lengths])
    noisy = truth * generator.normal(1, 0.002, len(truth))
    noisy[::15] *= 1.35  # below what is named an outlier
    model = fit_all(prefills(lengths, noisy), Settings("analytic"))
    from edgebench.forecasting.apply import predict

    means = np.array([row["prefill_ms"]["mean"] for row in predict(model, [(one, 1) for one in lengths])])
    assert np.median(np.abs(means / truth - 1)) < 0.005  # 2 % by plain least squares


def test_the_simplest_of_nearly_equal_choices_is_taken_and_one_far_row_decides_nothing() -> None:
    errors = np.full((3, 100), 0.01)
    errors[1] *= 0.995
    assert solve.choose(errors, tolerant=True) == 0 and solve.choose(errors, tolerant=False) == 1
    errors[0, 0] = 50.0  # a length that no choice can know
    errors[2] = 0.02
    assert solve.choose(errors, tolerant=True) in (0, 1)


def test_prompts_that_another_kernel_makes_faster_get_a_level_of_their_own() -> None:
    """As measured on a 1.5B model: from 321 tokens on a prompt takes less time than at 320."""
    generator = np.random.default_rng(2)
    lengths = generator.integers(80, 600, 400).tolist()
    prompt = np.array(lengths, float)
    truth = 40 + 0.05 * prompt + 10 * designs.further_tiles(prompt, 256)
    truth = np.where((prompt > 320) & (prompt <= 384), truth - 12, truth)
    measured = truth * generator.normal(1, 0.003, len(truth))
    model = fit_all(prefills(lengths, measured), Settings())
    from edgebench.forecasting.apply import predict

    rows = predict(model, [(320, 1), (321, 1), (384, 1), (385, 1)])
    means = [row["prefill_ms"]["mean"] for row in rows]
    assert means[0] - means[1] == pytest.approx(12, abs=1) and means[3] - means[2] == pytest.approx(12, abs=1)
    spec = model["targets"]["prefill_ms"]
    assert spec["won"] == "analytic" and spec["tried_mape_percent"]["analytic"] < 0.6
