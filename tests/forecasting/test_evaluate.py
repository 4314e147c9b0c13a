"""Held-out scores, transfers, benchmark, charts and cards: what they print and write."""

import logging
from pathlib import Path
from typing import Any

import pytest

from companions import token2metrics as door
from edgebench.errors import UserError
from edgebench.forecasting import plots, published, transfer
from edgebench.forecasting.apply import predict
from edgebench.forecasting.card import card_of
from edgebench.forecasting.evaluate import (
    HoldOut,
    cell_splits,
    evaluate,
    format_table,
    length_splits,
    row_splits,
    score,
)
from edgebench.forecasting.fit import Settings, fit_all
from edgebench.forecasting.model_file import read_model, write_model

ROOT = Path(__file__).resolve().parents[2]
np = pytest.importorskip("numpy")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    """A 4 x 4 grid with three repeats of times within 0.5 %, no energy."""
    generator = np.random.default_rng(0)
    counts = [[p, o - 1] for p in (64, 256, 1024, 2048) for o in (32, 64, 256, 512) for _ in range(3)]
    prefill = [(5 + 0.2 * p) * generator.normal(1, 0.005) for p, _ in counts]
    decode = [10 * steps * generator.normal(1, 0.005) for _, steps in counts]
    measured: dict[str, Any] = {"prefill_ms": prefill, "decode_ms": decode}
    measured["total_ms"] = [a + b for a, b in zip(prefill, decode, strict=True)]
    measured |= {f"{name}_energy_joule": [None] * 48 for name in ("prefill", "decode", "total")}
    where = [f"f row {place}" for place in range(48)]
    content = {"kind": "token2metrics_samples", "model": "m", "board": "b", "data": [], "energy_scope": None}
    content |= {"no_energy_reason": "no energy was measured", "simulated_power": False, "counts": counts}
    content |= {"group": [place // 3 for place in range(48)], "subject": [f"s{p % 4}" for p in range(48)]}
    content |= {
        "row_sha256": where,
        "where": where,
        "measured": measured,
        "targets": ["prefill_ms", "decode_ms"],
    }
    return content


def test_repeats_of_a_cell_never_stand_on_both_sides(samples: dict[str, Any]) -> None:
    splits = cell_splits(samples, 5, 0) + length_splits(samples, 5, 0)
    splits += row_splits(samples, HoldOut(train_rows=9, seeds=4))
    splits += row_splits(samples, HoldOut(per_subject=2, seeds=4))
    for split in splits:
        train, test = ({samples["group"][row] for row in split[side]} for side in ("train", "test"))
        assert train and test and not train & test


def test_scores_are_those_of_the_pairs_it_gives(samples: dict[str, Any]) -> None:
    answer, every = evaluate(samples, HoldOut(folds=4))
    for name in ("prefill_ms", "decode_ms", "total_ms"):
        mine = [pair for pair in every if pair["quantity"] == name]
        off = [100 * abs(pair["mean"] / pair["measured"] - 1) for pair in mine]
        row = answer["quantities"][name]
        assert row["n"] == len(mine) == 48 and row["cells"] == 16
        assert row["mape_percent"] == pytest.approx(np.mean(off)) and row["mape_percent"] < 1
        inside = [pair["low"] <= pair["measured"] <= pair["high"] for pair in mine]
        assert row["coverage_percent"] == pytest.approx(100 * np.mean(inside))
    table = format_table(evaluate(samples, HoldOut(split="lengths"))[0])
    assert "no energy: no energy was measured" in table and max(map(len, table.splitlines())) <= 80


def test_charts_and_card_are_made_and_a_bad_pair_is_an_error(
    samples: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    _, pairs = evaluate(samples, HoldOut(folds=3))
    model = fit_all(samples, Settings())
    with caplog.at_level(logging.INFO, "token2metrics"):
        plots.draw_all(pairs, tmp_path / "plots", model)
    drawn = {path.name for path in (tmp_path / "plots").glob("*.png")}
    assert {"predicted_total_ms.png", "residuals_decode_ms.png"} <= drawn
    assert "energy_surface.png" not in drawn and "no energy surface" in caplog.text
    card = card_of(model, None)
    assert "| coefficient | value | standard error |" in card and "no energy was measured" in card
    with pytest.raises(UserError, match="prediction 1 "):
        plots.draw_all([{}], tmp_path)
    with pytest.raises(UserError, match="no held-out"):
        plots.draw_all([], tmp_path)


def test_a_known_ratio_makes_a_model_without_runs_and_without_intervals(
    samples: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.json"
    write_model(base, fit_all(samples, Settings()))
    asked = transfer.Calibration(base, "board model", scale_factor=2.0, output=tmp_path)
    path, _ = transfer.calibrated(asked, transfer.read_base(base), None)
    one, two = (predict(read_model(file), [(100, 50)])[0] for file in (base, path))
    assert (
        two["total_ms"]["mean"] == pytest.approx(2 * one["total_ms"]["mean"])
        and two["total_ms"]["low"] is None
    )
    with pytest.raises(UserError, match="itself a transfer"):
        transfer.read_base(path)
    with pytest.raises(SystemExit):
        door.main(["calibrate", "--base", str(base), "--model", "m", "--scale-factor", "0"])
    assert door.main(["calibrate", "--base", str(base), "--model", "m"]) == 1
    assert "--scale-factor" in capsys.readouterr().err


def test_the_published_model_is_what_was_published() -> None:
    model = published.PUBLISHED["DeepSeek-R1-Distill-Llama-8B"]
    # 129 prompt tokens are padded to 256: 6.64521e-7 * 256^2 + 2.90355e-4 * 256 + 0.103808 s.
    assert published.prefill_ms(model, 129, 1) == pytest.approx(221.69, abs=0.01)
    assert published.decode_ms(model, 100, 10) == pytest.approx(1004.56, abs=0.01)
    with pytest.raises(UserError, match="--data-dir"):
        published.run_benchmark(published.Asked(ROOT / "docs"))


def test_a_prediction_of_zero_has_no_relative_half_width() -> None:
    """Net energy may be predicted as 0 where the runs were shorter than the noise."""
    pair = {"outlier": False, "measured": 1.0, "split": 0, "group": 0, "low": -1.0, "high": 1.0}
    zero, one = {**pair, "mean": 0.0}, {**pair, "mean": 0.5}
    assert score([zero])["half_width_percent"] is None
    assert score([zero, one])["half_width_percent"] == pytest.approx(200.0)
