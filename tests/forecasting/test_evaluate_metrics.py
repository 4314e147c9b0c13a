"""Held-out scores, transfers, benchmark, charts and cards: what they print and write."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
np = pytest.importorskip("numpy")
pytest.importorskip("scipy")


def run(script: str, *flags: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, flags)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    path = tmp_path_factory.mktemp("samples") / "samples.json"
    path.write_text(json.dumps(content))
    return path


def test_repeats_of_a_cell_never_stand_on_both_sides(samples: Path) -> None:
    from edgebench.forecasting import evaluate as evaluate_metrics

    content = json.loads(samples.read_text())
    args = evaluate_metrics.build_parser().parse_args(["--samples", "x", "--train_rows", "9", "--seeds", "4"])
    splits = evaluate_metrics.cell_splits(content, 5, 0) + evaluate_metrics.length_splits(content)
    splits += evaluate_metrics.row_splits(content, args)
    args.per_subject = 2
    splits += evaluate_metrics.row_splits(content, args)
    for split in splits:
        train, test = ({content["group"][row] for row in split[side]} for side in ("train", "test"))
        assert train and test and not train & test


def test_scores_are_those_of_the_pairs_it_writes(samples: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    done = run(
        "edgebench/forecasting/evaluate.py", "--samples", samples, "--folds", 4, "--pairs", pairs, "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    every = [json.loads(line) for line in pairs.read_text().splitlines()]
    for name in ("prefill_ms", "decode_ms", "total_ms"):
        mine = [pair for pair in every if pair["quantity"] == name]
        off = [100 * abs(pair["mean"] / pair["measured"] - 1) for pair in mine]
        row = answer["quantities"][name]
        assert row["n"] == len(mine) == 48 and row["cells"] == 16
        assert row["mape_percent"] == pytest.approx(np.mean(off)) and row["mape_percent"] < 1
        inside = [pair["low"] <= pair["measured"] <= pair["high"] for pair in mine]
        assert row["coverage_percent"] == pytest.approx(100 * np.mean(inside))
    table = run("edgebench/forecasting/evaluate.py", "--samples", samples, "--split", "lengths").stdout
    assert "no energy: no energy was measured" in table and max(map(len, table.splitlines())) <= 80


def test_charts_and_card_are_written_and_a_bad_pair_is_an_error(samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pairs, model = tmp_path / "pairs.jsonl", tmp_path / "model.json"
    run("edgebench/forecasting/evaluate.py", "--samples", samples, "--folds", 3, "--pairs", pairs)
    assert run("edgebench/forecasting/fit.py", "fit", "--samples", samples, "--out", model).returncode == 0
    done = run(
        "edgebench/forecasting/plots.py",
        "--pairs",
        pairs,
        "--model_file",
        model,
        "--outdir",
        tmp_path / "plots",
    )
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in (tmp_path / "plots").glob("*.png")}
    assert {"predicted_total_ms.png", "residuals_decode_ms.png"} <= drawn
    assert "energy_surface.png" not in drawn and "no energy surface" in done.stderr
    card = run("edgebench/forecasting/card.py", model).stdout
    assert "| coefficient | value | standard error |" in card and "no energy was measured" in card
    pairs.write_text("{}\n")
    done = run("edgebench/forecasting/plots.py", "--pairs", pairs, "--outdir", tmp_path)
    assert done.returncode == 1 and "line 1" in done.stderr and "Traceback" not in done.stderr


def test_a_known_ratio_makes_a_model_without_runs_and_without_intervals(
    samples: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.json"
    run("edgebench/forecasting/fit.py", "fit", "--samples", samples, "--out", base)
    flags = ("--base", base, "--model", "board model", "--output", tmp_path, "--json")
    done = run("edgebench/forecasting/transfer.py", *flags, "--scale-factor", 2)
    assert done.returncode == 0, done.stderr
    path = json.loads(done.stdout)["model"]
    one, two = (
        json.loads(run("edgebench/forecasting/fit.py", "predict", p, "--tokens", 100, 50).stdout)
        for p in (base, path)
    )
    assert (
        two["total_ms"]["mean"] == pytest.approx(2 * one["total_ms"]["mean"])
        and two["total_ms"]["low"] is None
    )
    done = run("edgebench/forecasting/transfer.py", *flags)
    assert done.returncode == 1 and "--scale-factor" in done.stderr
    done = run("edgebench/forecasting/transfer.py", "--base", path, *flags[2:], "--scale-factor", 2)
    assert done.returncode == 1 and "itself a transfer" in done.stderr


def test_the_published_model_is_what_was_published() -> None:
    from edgebench.forecasting import published as benchmark

    model = benchmark.PUBLISHED["DeepSeek-R1-Distill-Llama-8B"]
    # 129 prompt tokens are padded to 256: 6.64521e-7 * 256^2 + 2.90355e-4 * 256 + 0.103808 s.
    assert benchmark.prefill_ms(model, 129, 1) == pytest.approx(221.69, abs=0.01)
    assert benchmark.decode_ms(model, 100, 10) == pytest.approx(1004.56, abs=0.01)
    assert run("edgebench/forecasting/published.py", "--data-dir", ROOT / "docs").returncode == 1
