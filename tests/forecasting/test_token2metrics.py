"""Train, predict, evaluate, plan through the command line, on made and on public measurements."""

import contextlib
import csv
import io
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from companions import token2metrics as door

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "analytic-model"
SWEEP = SHARED / "llamacpp_agx_orin_llama32_1b.csv"
LENGTHS = (64, 128, 256, 512, 1024)

pytest.importorskip("scipy")


def run(*flags: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The door's main, in this process: what a command prints and how it ends."""
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(cwd or before)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = door.main([*map(str, flags)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())


def ok(*flags: object, cwd: Path | None = None) -> str:
    done = run(*flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made_rows(prefill: float = 0.3, step: float = 20.0, model: str = "made-1b") -> list[dict[str, object]]:
    """Requests whose time and energy follow the arithmetic, with a little seeded noise."""
    import random

    noise, rows = random.Random(1), []
    for prompt in LENGTHS:
        for output in LENGTHS:
            for _ in range(3):
                ttft = (10 + prefill * prompt + 1e-5 * prompt**2) * noise.gauss(1, 0.002)
                steps = output - 1
                decode = (step * steps + 0.001 * (steps * prompt + steps * (steps + 1) / 2)) * noise.gauss(
                    1, 0.001
                )
                energies = ttft * 0.02e3 * noise.gauss(1, 0.003), decode * 0.03e3 * noise.gauss(1, 0.003)
                names = ("model", "device_name", "prompt_tokens", "gen_tokens", "ttft_ms", "tpot_ms")
                values = (model, "made board", prompt, output, ttft, decode / steps)
                rows.append(dict(zip(names, values, strict=True)))
                rows[-1] |= {"prefill_energy_mj": energies[0], "decode_energy_mj": energies[1]}
    return rows


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made.csv and an analytic model of it below outputs/."""
    folder = tmp_path_factory.mktemp("trained")
    write_csv(folder / "made.csv", made_rows())
    ok("train", "--data", "made.csv", "--all-models", cwd=folder)
    return folder


def test_a_prediction_has_phases_totals_power_and_intervals_around_the_truth(trained: Path) -> None:
    row = json.loads(
        ok("predict", "--model", "made", "--input-tokens", 512, "--output-tokens", 256, "--json", cwd=trained)
    )
    steps = 255
    prefill = 10 + 0.3 * 512 + 1e-5 * 512**2
    decode = 20.0 * steps + 0.001 * (steps * 512 + steps * (steps + 1) / 2)
    truth = {"prefill_ms": prefill, "decode_ms": decode, "total_ms": prefill + decode}
    truth |= {"prefill_energy_joule": prefill * 0.02, "decode_energy_joule": decode * 0.03}
    for name, value in truth.items():
        assert row[name]["mean"] == pytest.approx(value, rel=0.01), name
        assert row[name]["low"] < row[name]["mean"] < row[name]["high"]
    assert row["power_mw"] == pytest.approx(row["total_energy_joule"]["mean"] / row["total_ms"]["mean"] * 1e6)
    assert row["extrapolated"] == [] and row["board"] == "made board"
    text = ok("predict", "--model", "made", "--input-tokens", 512, "--output-tokens", 256, cwd=trained)
    assert "mean power" in text and max(map(len, text.splitlines())) <= 80


def test_extrapolation_is_flagged_and_widens_the_interval(trained: Path) -> None:
    def predicted(prompt: int) -> dict:  # type: ignore[type-arg]
        flags = ("--model", "made", "--input-tokens", prompt, "--output-tokens", 64, "--json")
        return json.loads(ok("predict", *flags, cwd=trained))

    inside, outside = predicted(1024), predicted(8192)
    assert outside["extrapolated"] == ["input_tokens"]
    assert "extrapolated" in ok(
        "predict", "--model", "made", "--input-tokens", 8192, "--output-tokens", 64, cwd=trained
    )
    width = [
        (row["total_ms"]["high"] - row["total_ms"]["mean"]) / row["total_ms"]["mean"]
        for row in (inside, outside)
    ]
    assert width[1] > 4 * width[0]


def test_a_quantity_says_where_it_was_not_measured_though_others_were(tmp_path: Path) -> None:
    rows = made_rows()
    for row in rows:
        if int(str(row["gen_tokens"])) < 256:
            row["decode_energy_mj"] = row["prefill_energy_mj"] = ""
    write_csv(tmp_path / "made.csv", rows)
    ok("train", "--data", "made.csv", "--all-models", cwd=tmp_path)

    def predicted(output: int) -> dict:  # type: ignore[type-arg]
        flags = ("--model", "made", "--input-tokens", 256, "--output-tokens", output, "--json")
        return json.loads(ok("predict", *flags, cwd=tmp_path))

    inside, below = predicted(512), predicted(64)
    assert inside["extrapolated"] == [] and "decode_energy_joule" in below["extrapolated"]
    assert "decode_ms" not in below["extrapolated"] and "prefill_energy_joule" not in below["extrapolated"]
    width = [
        row["decode_energy_joule"]["high"] / row["decode_energy_joule"]["mean"] for row in (inside, below)
    ]
    assert width[1] - 1 > 2 * (width[0] - 1)


def test_a_table_that_names_no_model_is_of_the_model_asked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "server.csv", [{**row, "model": ""} for row in made_rows()])
    ok("train", "--data", path, "--model", "8B", "--output", tmp_path)
    flags = ("--data", path, "--model", "8b", "--model-path", tmp_path, "--json")
    assert json.loads(ok("evaluate", *flags))["model"] == "8b"
    row = json.loads(
        ok(
            *("predict", "--model", "8B", "--model-path", tmp_path),
            *("--input-tokens", 64, "--output-tokens", 64, "--json"),
        )
    )
    assert row["model"] == "8B" and row["total_ms"]["mean"] > 0


def test_longer_prompts_and_answers_never_take_less(trained: Path) -> None:
    lengths = [1, 2, 63, 64, 100, 128, 129, 500, 1024, 3000, 20000]
    lines = [{"input_tokens": p, "output_tokens": o} for p in lengths for o in lengths]
    (trained / "grid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [
        json.loads(line)
        for line in ok("batch-predict", "grid.jsonl", "--model", "made", cwd=trained).splitlines()
    ]
    time = {(row["input_tokens"], row["output_tokens"]): row["total_ms"]["mean"] for row in rows}
    for first, second in itertools.pairwise(lengths):
        for other in lengths:
            assert time[first, other] <= time[second, other] + 1e-9
            assert time[other, first] <= time[other, second] + 1e-9


def test_a_batch_names_the_request_that_is_wrong(trained: Path) -> None:
    (trained / "bad.csv").write_text("input_tokens,output_tokens\n10,5\n10,-1\n")
    done = run("batch-predict", "bad.csv", "--model", "made", cwd=trained)
    assert done.returncode == 1 and "request 2" in done.stderr and "Traceback" not in done.stderr


def test_a_batch_without_a_column_gets_the_nearest_name(trained: Path) -> None:
    (trained / "misnamed.csv").write_text("inputtokens,output_tokens\n100,5\n")
    done = run("batch-predict", "misnamed.csv", "--model", "made", cwd=trained)
    assert done.returncode == 1 and "no input_tokens" in done.stderr and "is it inputtokens?" in done.stderr


def test_a_model_is_never_scored_on_its_own_rows(trained: Path) -> None:
    flags = ("evaluate", "--data", "made.csv", "--model", "made", "--model-path", "outputs", "--json")
    answer = json.loads(ok(*flags, cwd=trained))
    assert "fitted anew" in answer["how"]
    write_csv(trained / "more.csv", made_rows(step=22.0))
    answer = json.loads(ok("evaluate", "--data", "more.csv", *flags[3:], cwd=trained))
    assert "not fitted on" in answer["how"]
    assert answer["quantities"]["decode_ms"]["mape_percent"] == pytest.approx(9, abs=1)


@pytest.mark.parametrize("kind", ["linear", "polynomial", "random_forest", "xgboost"])
def test_other_regressions_are_json_and_predict_within_reason(kind: str, trained: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("xgboost")
    ok("train", "--data", "made.csv", "--model", "made", "--regression", kind, cwd=trained)
    path = trained / "outputs" / f"made-1b_{kind}" / "models" / "model.json"
    assert json.loads(path.read_text())["regression"] == kind
    flags = ("--input-tokens", 512, "--output-tokens", 256, "--regression", kind, "--json")
    row = json.loads(ok("predict", "--model", "made", *flags, cwd=trained))
    assert row["total_ms"]["mean"] == pytest.approx(5430, rel=0.1)


def test_a_name_that_is_not_there_gets_the_nearest_one(trained: Path) -> None:
    done = run("predict", "--model", "mead-1b", "--input-tokens", 5, "--output-tokens", 5, cwd=trained)
    assert done.returncode == 1 and "did you mean made-1b" in done.stderr
    done = run("train", "--data", "missing.csv", "--all-models", cwd=trained)
    assert done.returncode == 1 and "missing.csv" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_model_is_refused(trained: Path, tmp_path: Path) -> None:
    good = json.loads((trained / "outputs" / "made-1b_best" / "models" / "model.json").read_text())
    bad = tmp_path / "model.json"
    for damage in (
        "{",
        "[]",
        json.dumps({**good, "schema_version": 99}),
        json.dumps({**good, "targets": {}}),
    ):
        bad.write_text(damage)
        flags = ("--model-path", bad, "--input-tokens", 5, "--output-tokens", 5)
        done = run("predict", "--model", "made", *flags)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_campaign_is_planned_with_the_models_own_tokenizer(
    trained: Path, tmp_path: Path, llama_cpp: object, tiny_model: Callable[..., Path]
) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question_id,category,L0,L3\n1,w,Write a poem.,Write a poem. Make it long and sad.\n")
    flags = (
        "--prompts",
        prompts,
        "--gguf",
        tiny_model("llama"),
        "--levels",
        "L0",
        "L3",
        "--output-tokens",
        100,
    )
    flags = (
        *flags,
        "--model",
        "made",
        "--model-path",
        trained / "outputs",
        "--repeats",
        2,
        "--battery-wh",
        10,
    )
    plan = json.loads(ok("plan", *flags, "--json"))
    assert plan["levels"]["L0"]["runs"] == 2 and plan["total"]["runs"] == 4
    for name in ("latency_s", "energy_joule"):
        figures = plan["total"][name]
        assert figures["low"] < figures["mean"] < figures["high"]
        assert figures["mean"] == pytest.approx(
            sum(plan["levels"][level][name]["mean"] for level in ("L0", "L3"))
        )
    assert plan["levels"]["L3"]["prompt_tokens_mean"] > plan["levels"]["L0"]["prompt_tokens_mean"]
    charge = plan["total"]["energy_joule"]["mean"] / 36000
    assert plan["cost"]["battery_charges"]["mean"] == pytest.approx(charge)
    assert any("outside the lengths" in warning for warning in plan["warnings"])
    done = run("plan", *flags[:2], "--gguf", prompts, *flags[4:])
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_run_records_of_the_collector_train_a_model_and_say_that_power_was_simulated(tmp_path: Path) -> None:
    lines = []
    for number, row in enumerate(made_rows()):
        ttft, decode = (
            float(str(row["ttft_ms"])),
            float(str(row["tpot_ms"])) * (int(str(row["gen_tokens"])) - 1),
        )
        record = {"id": number, "model_id": "made", "level": "L0", "prompt_tokens": row["prompt_tokens"]}
        record |= {"completion_tokens": row["gen_tokens"], "latency_ms": ttft + decode, "ttft_ms": ttft}
        record |= {"energy_joule": (ttft + decode) / 100, "output_text": "", "finish_reason": "length"}
        lines.append(record | {"flags": ["simulated_power"], "error": None, "power_scope": "module"})
    lines.append({**lines[0], "error": {"type": "x", "message": "y"}})
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    text = ok("train", "--data", path, "--all-models", "--output", tmp_path / "out")
    assert "75 rows" in text and "simulated power" in text
    card = (tmp_path / "out" / "made_best" / "model_card.md").read_text()
    assert "**Its energies are of simulated power" in card and "SHA-256" in card


@pytest.mark.skipif(not SWEEP.exists(), reason="the public measurements are not here")
@pytest.mark.parametrize("model", ["Q6_K", pytest.param("Q4_0", marks=pytest.mark.slow)])
def test_public_sweep_held_out_cells(model: str) -> None:
    scores = json.loads(ok("evaluate", "--data", SWEEP, "--model", model, "--json"))["quantities"]
    limits = {"prefill_ms": 2, "decode_ms": 1, "total_energy_joule": 1}
    for name, limit in limits.items():
        assert scores[name]["mape_percent"] <= limit
        assert 82 <= scores[name]["coverage_percent"] <= 97


@pytest.mark.slow
@pytest.mark.skipif(not SWEEP.exists(), reason="the public measurements are not here")
def test_public_requests_and_sweeps_beat_the_published_model() -> None:
    result = json.loads(ok("benchmark", "--data-dir", SHARED, "--seeds", 2, "--json"))
    # Percent of the measurement, whole cells or whole lengths left out: 1.5B, 8B, 14B.
    limits = {
        "prefill_ms": (1.7, 0.9, 0.7),
        "decode_ms": (0.2, 0.1, 0.1),
        "total_ms": (0.25, 0.15, 0.1),
        "decode_energy_joule": (2.5, 1.2, 0.8),
    }
    for row in result["held_out"]:
        if "published" in row:
            assert row["ours"]["median"] < row["published"]["median"]
        size = row["model"].rsplit("-", 1)[-1]
        if row["trial"] in ("cells", "lengths", "energy") and size in ("1.5B", "8B", "14B"):
            place = ("1.5B", "8B", "14B").index(size)
            assert row["ours"]["median"] <= limits[row["quantity"]][place], row
        elif row["trial"] == "cells":
            assert row["ours"]["median"] <= {"prefill_energy_joule": 0.8}.get(row["quantity"], 0.5), row
            assert 85 <= row["coverage_percent"] <= 95
    for row in result["designs"]:
        assert row["others_mape_percent"] <= 1.6
    chosen = {
        (row["size"], row["quantity"]): row["mape_percent_median"]
        for row in result["calibration"]
        if row["method"] == "chosen"
    }
    assert chosen[20, "prefill_ms"] <= 1.0 and chosen[5, "prefill_ms"] <= 2.0


@pytest.mark.slow
@pytest.mark.skipif(not SWEEP.exists(), reason="the public measurements are not here")
def test_a_transfer_with_twenty_runs_beats_those_runs_alone(tmp_path: Path) -> None:
    ok("train", "--data", SWEEP, "--model", "Q6_K", "--output", tmp_path)
    base = tmp_path / "llama-3.2-1b-q6_k_best" / "models" / "model.json"
    flags = (
        "--base",
        base,
        "--data",
        SWEEP,
        "--model",
        "Q4_0",
        "--output",
        tmp_path,
        "--curve",
        "--sizes",
        20,
    )
    curve = json.loads(ok("calibrate", *flags, "--method", "shrunk", "--json"))["curve"]
    mape = {(row["method"], row["quantity"]): row["mape_percent"] for row in curve}
    for quantity in ("prefill_ms", "decode_ms", "total_ms", "decode_energy_joule", "total_energy_joule"):
        assert mape["shrunk", quantity] < mape["alone", quantity]
