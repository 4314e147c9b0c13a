"""The whole analysis: values done by hand, known truth, partial and hostile data, same bytes."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("pandas")
stats = pytest.importorskip("scipy.stats")

from companions import analyze_levels as door  # noqa: E402
from edgebench.analysis import levels as analyze_levels  # noqa: E402
from edgebench.checking.reading import read_runs_file  # noqa: E402
from edgebench.checking.verdicts import judge  # noqa: E402
from edgebench.stats.drift import drift_of  # noqa: E402
from tests.clone import made_once  # noqa: E402
from tests.doors import call  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


def record(task: Any, level: str, **changes: Any) -> dict[str, Any]:
    eight = {"id": task, "model_id": "m", "level": level, "prompt_tokens": 40, "completion_tokens": 10}
    return {**eight, "latency_ms": 1000.0, "energy_joule": 5.0, "output_text": "x", **changes}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(each) + "\n" for each in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def ask(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return call("companions/analyze_levels.py", *arguments)


def analyze(folder: Path, *arguments: Any) -> dict[str, Any]:
    """The analysis as strict JSON; its text must fit a terminal."""
    told = io.StringIO()
    files = (*arguments, "--out", folder / "analysis.json", "--resamples", 300)
    with contextlib.redirect_stdout(told):
        assert door.main([str(argument) for argument in files]) == 0
    assert max(map(len, told.getvalue().splitlines())) <= 80

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return dict(json.loads((folder / "analysis.json").read_text(), parse_constant=refuse))


def find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two made models with scores and journal, analyzed once."""

    def make(folder: Path) -> None:
        flags = ("--models", "gemma", "qwen", "--tasks", 14)
        assert call("tests/fakes/made_campaign.py", folder, *flags).returncode == 0
        analyze(folder, "--runs", folder / "runs_llamacpp.jsonl", "--scores", folder / "scores_mtbench.csv")

    folder = made_once(tmp_path_factory, "analyzed_campaign", make)
    return folder, json.loads((folder / "analysis.json").read_text())


def test_means_and_differences_by_hand(tmp_path: Path) -> None:
    # Three tasks; task 3 has no L1, so only tasks 1 and 2 are paired. Repeats are averaged first.
    runs = [
        *(record(1, "L0", repeat=r, latency_ms=value) for r, value in enumerate((100.0, 300.0))),
        record(2, "L0", latency_ms=400.0),
        record(3, "L0", latency_ms=900.0),
        *(record(1, "L1", repeat=r, latency_ms=value) for r, value in enumerate((250.0, 250.0))),
        record(2, "L1", latency_ms=500.0),
    ]
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl", runs))
    base = find(result["level_means"], metric="latency_ms", level="L0")
    assert (base["n_runs"], base["n_tasks"], base["mean"]) == (4, 3, 500.0)  # (200 + 400 + 900) / 3
    assert base["std"] == pytest.approx(np.std([100, 300, 400, 900], ddof=1))
    assert base["std_tasks"] == pytest.approx(np.std([200, 400, 900], ddof=1))
    assert base["std_within"] == pytest.approx(np.std([100, 300], ddof=1))
    assert base["ci95"] is None
    assert base["reason"] == "3 tasks: too few for an interval of a mean (8 at least)"
    assert base["p50"] == 350.0 and base["p95"] is None and "needs 20 runs" in base["p95_reason"]
    row = find(result["paired"], metric="latency_ms", level="L1", against="L0")
    assert (row["n_tasks"], row["mean_difference"]) == (2, 75.0)  # ((250 - 200) + (500 - 400)) / 2
    assert row["percent"] == pytest.approx(25.0) and (row["ci95"], row["percent_ci95"]) == (None, None)
    assert row["reason"] and row["percent_reason"]


def test_intervals_of_enough_tasks_hold_the_mean_and_quantiles_are_those_of_the_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(1000, 100, 12)
    runs = [record(t, "L0", repeat=r, latency_ms=float(base[t] + r)) for t in range(12) for r in range(2)]
    runs += [record(t, "L1", latency_ms=float(1.8 * base[t] + rng.normal(0, 20))) for t in range(12)]
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl", runs))
    mean = find(result["level_means"], metric="latency_ms", level="L0")
    half = stats.t.ppf(0.975, 11) * mean["std_tasks"] / math.sqrt(12)
    assert mean["ci95"][0] <= mean["mean"] - half and mean["mean"] + half <= mean["ci95"][1]
    assert mean["ci95"] == pytest.approx([mean["mean"] - half, mean["mean"] + half], abs=half)
    told = sorted(run["latency_ms"] for run in runs if run["level"] == "L0")
    assert (mean["p50"], mean["p95"]) == pytest.approx(tuple(np.quantile(told, [0.5, 0.95])))
    row = find(result["paired"], metric="latency_ms", level="L1", against="L0")
    assert row["percent"] == pytest.approx(80, abs=3)
    assert row["percent_ci95"][0] < row["percent"] < row["percent_ci95"][1] and row["reason"] is None


def test_time_per_token_is_read_or_made_of_what_the_record_has(tmp_path: Path) -> None:
    given = [record(t, "L0", ttft_ms=100.0, tpot_ms=7.0) for t in range(2)]
    made = [record(t, "L1", ttft_ms=100.0) for t in range(2)]  # (1000 - 100) / (10 - 1)
    none = [record(t, "L2", ttft_ms=100.0, completion_tokens=1) for t in range(2)]
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl", given + made + none))
    rows = {row["level"]: row for row in result["level_means"] if row["metric"] == "tpot_ms"}
    assert (rows["L0"]["mean"], rows["L1"]["mean"], rows["L2"]["mean"]) == (7.0, 100.0, None)
    assert "no tpot_ms" in rows["L2"]["reason"]


def test_wilcoxon_sign_and_holm_match_scipy(campaign: tuple[Path, dict[str, Any]]) -> None:
    folder, result = campaign
    runs = [json.loads(line) for line in (folder / "runs_llamacpp.jsonl").read_text().splitlines()]
    p_values = []
    for model in ("gemma", "qwen"):
        for level in ("L1", "L2", "L3", "P"):
            gaps = []
            for task in sorted({run["id"] for run in runs}):
                both = [
                    np.mean(
                        [
                            r["energy_joule"]
                            for r in runs
                            if (r["model_id"], r["id"], r["level"]) == (model, task, name)
                        ]
                    )
                    for name in (level, "L0")
                ]
                gaps.append(both[0] - both[1])
            row = find(result["paired"], metric="energy_joule", model_id=model, level=level, against="L0")
            assert row["mean_difference"] == pytest.approx(np.mean(gaps), abs=1e-9)
            assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(gaps).pvalue, abs=1e-8)
            up = sum(gap > 0 for gap in gaps)
            assert row["sign_p"] == pytest.approx(stats.binomtest(up, len(gaps)).pvalue, abs=1e-8)
            p_values.append((row["wilcoxon_p"], row["p_holm"], row["holm_tests"]))
    # Holm by its definition: the k-th smallest of 8 p values times (9 - k), never falling.
    ordered = sorted(p_values)
    running = 0.0
    for rank, (p, adjusted, tests) in enumerate(ordered):
        running = max(running, min(1.0, p * (8 - rank)))
        assert adjusted == pytest.approx(running, abs=1e-12) and tests == 8


def test_known_coefficients_and_the_split_come_back(campaign: tuple[Path, dict[str, Any]]) -> None:
    _, result = campaign
    for model, factor in (("gemma", 1.0), ("qwen", 1.3)):
        row = find(result["cost_split"], model_id=model, metric="energy_joule")
        for name, true in (("per_prompt_token", 0.002 * factor), ("per_output_token", 0.02 * factor)):
            fitted = row["coefficients"][name]
            assert abs(fitted["estimate"] - true) < 3 * fitted["se"] < 0.2 * true
        assert row["r_squared"] > 0.95
        part = find(result["cost_parts"], model_id=model, metric="energy_joule", level="L3")
        assert part["measured_prefill_extra"] == pytest.approx(part["prompt_tokens_extra"] * 0.002 * factor)
        assert part["prompt_share_ci95"][0] < part["prompt_share"] < part["prompt_share_ci95"][1]


def test_the_judges_tables_and_the_answer_are_there(campaign: tuple[Path, dict[str, Any]]) -> None:
    _, result = campaign
    assert result["levels"] == ["L0", "L1", "L2", "L3", "P"] and len(result["answer"]) == 3
    row = find(result["win_rates"], model_id="gemma", level="L3", against="L0")
    assert row["win_rate"] > 0.7 and row["p_holm"] >= row["sign_p"] and row["holm_tests"] == 8
    assert (
        find(result["bradley_terry"], model_id="gemma", level="P")["beta"] == 0
    )  # the placebo is the reference
    bias = find(result["position_bias"], model_id=None)
    assert bias["biased"] and "position_bias" in {caveat["key"] for caveat in result["caveats"]}
    trend = find(result["trend"], model_id="gemma", metric="quality")
    assert trend["levels"] == ["L0", "L1", "L2", "L3"] and trend["p"] < 0.001
    assert find(result["models"], model_id="gemma")["board"] == "Jetson Orin Nano Super"
    assert {"runs", "env", "scores", "journal"} == {row["kind"] for row in result["inputs"]}


def test_the_command_gives_the_same_bytes_as_before_and_prints_the_answer(
    campaign: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Through real processes, as the user runs it."""
    folder, result = campaign
    files = ("--runs", folder / "runs_llamacpp.jsonl", "--scores", folder / "scores_mtbench.csv")
    done = ask(*files, "--out", tmp_path / "again.json", "--resamples", 300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.json").read_bytes() == (folder / "analysis.json").read_bytes()
    assert result["answer"][0].split()[:3] == done.stdout.split()[2:5]


def test_golden_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file other scripts are tested with is what this script writes, to rounding."""
    flags = ("--models", "made-demo", "--levels", "L0", "L3", "P", "--tasks", 5, "--repeats", 2)
    made = call("tests/fakes/made_campaign.py", tmp_path, *flags, "--power", "replay")
    assert made.returncode == 0
    monkeypatch.chdir(tmp_path)
    files = ("--runs", "runs_llamacpp.jsonl", "--scores", "scores_mtbench.csv")
    if not GOLDEN.exists():  # written once; look at it before it is committed
        analyze(tmp_path, *files)
        shutil.copy(tmp_path / "analysis.json", GOLDEN)

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(
                same(one[key], other[key]) for key in one if key != "sha256"
            )
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, float) and isinstance(other, (int, float)):
            return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
        return bool(one == other)

    assert same(json.loads(GOLDEN.read_text()), analyze(tmp_path, *files))


PARTIAL = {
    "no energy": [record(t, lv, energy_joule=None) for t in range(4) for lv in ("L0", "L1")],
    "one task": [record(1, lv) for lv in ("L0", "L1", "P")],
    "one level": [record(t, "L0") for t in range(3)],
    "only a placebo": [record(t, "P") for t in range(3)],
    "a level missing for every task but one": [record(t, "L0") for t in range(3)] + [record(9, "L1")],
    "own level names": [record(t, lv) for t in range(3) for lv in ("short", "=cmd", "NA", "nul\x00")],
    "nothing but output": [
        {"id": 1, "model_id": "m", "level": lv, "output_text": "x"} for lv in ("L0", "L1")
    ],
    "net energy below zero": [record(t, lv, energy_joule=-0.1 * t) for t in range(4) for lv in ("L0", "L1")],
    "a lone surrogate": [record("\ud800", lv, model_id="m\udfff") for lv in ("L0", "L1")],
}


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_data_give_nulls_with_reasons(tmp_path: Path, name: str) -> None:
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl.gz", PARTIAL[name]))
    assert len(result["answer"]) == 3 and all(result["answer"])
    for table, value in (
        ("level_means", "mean"),
        ("paired", "mean_difference"),
        ("drift", "p"),
        ("trend", "p"),
    ):
        for row in result[table]:
            assert row[value] is not None or row["reason"], (table, row)
    assert "no_scores" in {caveat["key"] for caveat in result["caveats"]}


def test_scores_alone_are_enough_for_the_judges_part(tmp_path: Path) -> None:
    scores = "task_id,category,model_id,pair,winner,judge_model,turn\n"
    scores += "".join(f"{task},w,m,L0_vs_P,{'AB'[task % 2]},j,1\n" for task in range(6))
    (tmp_path / "s.csv").write_text(scores)
    result = analyze(tmp_path, "--scores", tmp_path / "s.csv")
    assert find(result["win_rates"], level="P", against="L0")["win_rate"] == 0.5
    assert result["level_means"] == [] and result["value"] == []


def test_an_error_row_or_a_nan_changes_no_mean(tmp_path: Path) -> None:
    good = [record(t, lv, latency_ms=100.0 + t) for t in range(4) for lv in ("L0", "L1")]
    bad = [
        record(1, "L0", latency_ms=9e9, error={"message": "boom"}),
        record(2, "L1", latency_ms=float("nan")),
    ]
    results = [
        analyze(tmp_path, "--runs", write(tmp_path / f"{len(rows)}.jsonl", rows))
        for rows in (good, [*good, *bad])
    ]
    metrics = [[row for row in result["level_means"] if row["metric"] == "latency_ms"] for result in results]
    assert metrics[0] == metrics[1]
    assert results[1]["counts"]["errors"] == 1 and len(results[1]["left_out"]) == 1


def test_two_boards_stay_apart(tmp_path: Path) -> None:
    for board, joule in (("nano", 5.0), ("agx", 9.0)):
        rows = [
            record(t, lv, energy_joule=joule, power_scope=board, env_id="e")
            for t in range(3)
            for lv in ("L0", "L1")
        ]
        write(tmp_path / f"runs_{board}.jsonl", rows)
        write(tmp_path / f"runs_{board}.env.jsonl", [{"env_id": "e", "board": board}])
    result = analyze(tmp_path, "--runs", tmp_path / "runs_*.jsonl")
    means = {(row["board"], row["mean"]) for row in result["level_means"] if row["metric"] == "energy_joule"}
    assert means == {("agx", 9.0), ("nano", 5.0)}


def test_drift_is_found_and_neither_task_nor_level_passes_for_it() -> None:
    rng = np.random.default_rng(1)
    cell = np.repeat(np.arange(50), 3)
    hours = rng.permutation(150) * 0.02
    level = np.repeat(rng.uniform(100, 900, 50), 3)
    value = level * (1 + 0.02 * hours) * (1 + rng.normal(0, 0.002, 150))
    row = analyze_levels.drift_row(drift_of((3600 * hours).tolist(), value.tolist(), cell.tolist()))
    # Percent of the cell's own mean, which drift itself has raised by about 3 %.
    assert row["slope_percent_per_hour"] == pytest.approx(1.94, abs=0.06) and row["p"] < 1e-6
    assert row["change_percent"] == pytest.approx(row["slope_percent_per_hour"] * row["hours"])
    still = analyze_levels.drift_row(
        drift_of((3600 * hours).tolist(), (level * (1 + rng.normal(0, 0.002, 150))).tolist(), cell.tolist())
    )
    assert still["ci95"][0] < 0 < still["ci95"][1] and still["notable"] is False


@pytest.mark.parametrize("way", ["steady", "clock set back", "rebooted", "sorted"])
def test_drift_is_that_of_the_monotonic_clock_however_the_wall_clock_jumps(tmp_path: Path, way: str) -> None:
    """+3 % an hour over ten hours; a time server sets the wall clock back by a day in the middle."""
    runs = []
    for n in range(60):
        day = 1 if way == "clock set back" and n >= 30 else 2
        t0_s = 600.0 * n if way != "rebooted" or n < 40 else 600.0 * (n - 39)
        runs.append(
            record(
                n % 6,
                "L0" if n % 2 else "L1",
                repeat=n // 12,
                started_at=f"2026-01-0{day}T{n // 6:02d}:00:00Z",
                t0_s=5000.0 + t0_s,
                latency_ms=1000.0 * (1 + 0.03 * n / 6),
                run_key=f"k{n}",
            )
        )
    if way == "sorted":
        runs.sort(key=lambda run: (run["id"], run["level"], run["repeat"]))
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl", runs))
    row = find(result["drift"], metric="latency_ms")
    assert row["hours"] == pytest.approx(59 / 6, abs=0.2) and row["p"] < 1e-6
    # Of the mean, which drift itself has raised.
    assert row["slope_percent_per_hour"] == pytest.approx(2.6, abs=0.1)


def test_runs_without_stamps_have_no_drift_and_a_reason(tmp_path: Path) -> None:
    runs = [record(n % 6, "L0", repeat=n // 6, started_at=f"2026-01-01T{n:02d}:00:00Z") for n in range(18)]
    result = analyze(tmp_path, "--runs", write(tmp_path / "runs.jsonl", runs))
    row = find(result["drift"], metric="latency_ms")
    assert row["slope_percent_per_hour"] is None and row["reason"] == "drift needs repeats with t0_s"


@pytest.mark.parametrize(
    ("arguments", "status", "needle"),
    [
        (["--out", "o.json"], 2, "--runs"),
        (["--runs", "none.jsonl", "--out", "o.json"], 1, "no run records at"),
        (
            ["--runs", "runs.jsonl", "--out", "o.json", "--baseline", "L9"],
            1,
            "--baseline can be one of L0, L1",
        ),
        (["--runs", "runs.jsonl", "--out", "runs.jsonl/no.json"], 1, "choose another --out"),
        (["--runs", "runs.jsonl", "--out", "o.json", "--margin", "7"], 2, "between 0 and 1"),
        (["--runs", "empty.jsonl", "--out", "o.json"], 1, "no run"),
    ],
)
def test_what_the_user_can_fix_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, needle: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("runs.jsonl"), [record(t, lv) for t in range(3) for lv in ("L0", "L1")])
    Path("empty.jsonl").touch()
    done = ask(*arguments)
    assert done.returncode == status and needle in done.stderr
    assert "Traceback" not in done.stderr and not Path("o.json").exists()


def test_mixed_power_modes_are_refused_and_told_when_allowed(tmp_path: Path) -> None:
    rows = [record(t, lv, env_id=f"e{t % 2}") for t in range(4) for lv in ("L0", "L1")]
    path = write(tmp_path / "runs.jsonl", rows)
    write(
        tmp_path / "runs.env.jsonl",
        [{"env_id": f"e{n}", "board": "b", "power_mode_name": f"mode{n}"} for n in (0, 1)],
    )
    done = ask("--runs", path, "--out", tmp_path / "o.json")
    assert (
        done.returncode == 1
        and "power mode mode0 and mode1" in done.stderr
        and "--allow_mixed" in done.stderr
    )
    result = analyze(tmp_path, "--runs", path, "--allow_mixed")
    assert "mixed" in {caveat["key"] for caveat in result["caveats"] if caveat["severity"] == "high"}


def test_the_collectors_check_and_the_analysis_tell_the_same_drift(tmp_path: Path) -> None:
    runs = []
    for n in range(60):
        tpot_ms = 40.0 * (1 + 0.1 * n / 60) * (1 + 0.01 * math.sin(7 * n))
        timing = {"t0_s": 100.0 + 2.0 * n, "ttft_ms": 100.0, "latency_ms": 100.0 + 9 * tpot_ms}
        timing |= {"tpot_ms": tpot_ms, "decode_tok_per_s": 1000 / tpot_ms}
        runs.append(record(n % 5, "L0" if n % 2 else "L1", repeat=n // 10, run_key=f"k{n}", **timing))
    path = write(tmp_path / "runs.jsonl", runs)
    row = find(analyze(tmp_path, "--runs", path)["drift"], metric="tpot_ms")
    told = next(v for v in judge(read_runs_file(path).runs) if v.check == "drift")
    assert row["notable"] and told.severity == "warn"
    assert f"{row['change_percent']:+.1f} % over 0:01:58" in told.message
