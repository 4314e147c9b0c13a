"""Sweeps summed up: the published ones to the last digit, and made ones whose answer is known."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.speculation import summary as summarize_sweeps
from edgebench.stats.intervals import quantile

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "speculative"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published sweeps are not here")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "companions/sweep_speculative.py"), "summary", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cell(role: str, latencies_ms: list[list[float]], joules: list[float] | None = None, **more: Any) -> dict:
    """A result file: latencies by batch and request."""
    config = {
        "requests": len(latencies_ms[0]),
        "max_tokens": 8,
        "temperature": 0.0,
        "levels": "L0",
        "seed": 42,
    }
    config |= {"batches": len(latencies_ms), "role": role, "scenario": more.pop("scenario", "chat")}
    if role != "plain":
        config |= {"draft_tokens": 4, "adaptive": "off", "drafter": more.pop("drafter", "lookup")}
        config["threshold"] = more.pop("threshold", 0.0)
    results = [
        {
            "nwor_mode": role,
            "scv_mode": "off",
            "batch_index": index,
            "latency_s": sum(batch) / 1000,
            "outputs": [
                {"id": n, "latency_ms": latency_ms, "token_ids": [n], "first_difference": None}
                for n, latency_ms in enumerate(batch)
            ],
        }
        for index, batch in enumerate(latencies_ms)
    ]
    spans: list[float] = [sum(batch) / 1000 for batch in latencies_ms]
    energy: dict[str, Any] = {"reason": "no power was asked for"}
    if joules:
        energy = {
            "reason": None,
            "energy_joule_per_request": sum(joules) / len(joules),
            "joule_per_output_token": 1.0,
            "simulated": True,
            "power_source": "replay",
            "per_batch": [{"batch_index": i, "energy_joule": j} for i, j in enumerate(joules)],
        }
    mode = {
        "nwor_mode": role,
        "scv_mode": "off",
        "latency_avg_s": sum(spans) / len(spans),
        "latency_p50_s": quantile(spans, 0.5),
        "latency_p95_s": quantile(spans, 0.95),
        "spec_num_draft_tokens": 100,
        "spec_num_accepted_tokens": 60,
        "spec_acceptance_ratio": 0.6,
        "accept_by_position": [0.8, 0.4],
        "ncu_metrics": {},
        "energy": energy,
        **more.pop("mode", {}),
    }
    sweep = {"grid": "g", "name": role, "role": role, "config": config, "model": "m.gguf"}
    sweep["draft"] = more.pop("draft", None)
    return {"config": {}, "summary": {"per_mode": [mode]}, "results": results, "sweep": sweep, **more}


def summary_of(tmp_path: Path, **cells: dict) -> dict:
    folder = tmp_path / "g"
    folder.mkdir()
    for name, document in cells.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    done = run(folder, "--outdir", tmp_path / "out", "--no_plots")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    summary["by_name"] = {row["file"].removesuffix(".json"): row for row in summary["rows"]}
    summary["text"] = done.stdout
    return summary


@needs_published
def test_the_published_sweeps_give_their_published_summary_to_the_last_digit(tmp_path: Path) -> None:
    done = run(PUBLISHED / "sweeps", "--outdir", tmp_path, "--no_plots")
    assert done.returncode == 0, done.stderr
    ours = {
        (row["file"], row["scv_mode"], row["nwor_mode"]): row for row in read_csv(tmp_path / "summary.csv")
    }
    theirs = read_csv(PUBLISHED / "nwor_sweeps_summary.csv")
    assert len(theirs) == len(ours) == 31
    for row in theirs:
        mine = ours[row["file"], row["scv_mode"], row["nwor_mode"]]
        told = {name: value for name, value in row.items() if name != "commit"}
        assert {name: mine[name] for name in told} == told


@needs_published
def test_what_the_published_sweeps_tell_and_do_not_tell(tmp_path: Path) -> None:
    done = run(PUBLISHED / "sweeps", "--outdir", tmp_path, "--no_plots")
    rows = {(row["file"], row["nwor_mode"]): row for row in read_csv(tmp_path / "summary.csv")}
    adaptive = rows["scenario1_test_noearly.json", "adaptive=1,threshold=0.0"]
    assert float(adaptive["latency_ratio"]) == pytest.approx(0.5867, abs=1e-4)  # 41 % less than fixed drafts
    assert "another session" in adaptive["reference"]
    profiled = next(row for row in rows.values() if row["profile_only"] == "True")
    assert profiled["latency_ratio"] == ""
    assert "(+23%) for the same configuration" in done.stdout
    assert "no plain decoding" in done.stdout and "its latencies give" not in done.stdout


def test_a_cell_is_compared_with_plain_decoding_of_its_own_process(tmp_path: Path) -> None:
    plain = [{"batch_index": 0, "outputs": [{"id": n, "latency_ms": 200.0 * (n + 1)} for n in range(5)]}]
    latencies = [[100.0 * (n + 1) for n in range(5)]] * 3
    found = summary_of(
        tmp_path,
        run1=cell("fixed", latencies, joules=[2.0, 2.0, 2.0], plain=plain),
        plain=cell("plain", [[400.0 * (n + 1) for n in range(5)]] * 3, joules=[8.0, 8.0, 8.0]),
    )
    row = found["by_name"]["run1"]
    assert row["reference"] == "plain, same process"  # 0.5, and not 0.25 as against the other session
    assert [row[f"latency_ratio{edge}"] for edge in ("", "_low", "_high")] == pytest.approx([0.5, 0.5, 0.5])
    assert row["energy_ratio"] == pytest.approx(0.25)
    assert "simulated" in found["text"]
    (best,) = found["best"]
    assert best["fastest"]["file"] == best["thriftiest"]["file"] == "run1.json"
    assert "compare within a process" not in found["text"]


def test_without_one_the_plain_cell_of_the_same_workload_is_the_reference(tmp_path: Path) -> None:
    found = summary_of(
        tmp_path,
        run1=cell("fixed", [[110.0, 90.0, 300.0]] * 2),
        plain=cell("plain", [[100.0, 100.0, 200.0]] * 2),
        other=cell("plain", [[1.0, 1.0, 1.0]] * 2, scenario="code"),
        lonely=cell("fixed", [[1.0, 1.0, 1.0]] * 2, scenario="prose"),
    )
    row = found["by_name"]["run1"]
    assert row["reference"] == "plain.json" and row["latency_ratio"] == pytest.approx(1.25)
    assert row["latency_ratio_low"] < 1 < row["latency_ratio_high"]
    assert found["best"][0]["fastest"] is None  # slower, or not surely faster: plain decoding
    assert "| plain decoding" in found["text"]
    assert found["by_name"]["lonely"]["latency_ratio"] is None
    assert "without a plain reference: lonely.json" in found["text"]
    assert "No energy: no power was asked for" in found["text"]


def test_a_gain_larger_than_the_passes_saved_is_told_as_noise_and_not_as_the_best(tmp_path: Path) -> None:
    plain = [{"batch_index": 0, "outputs": [{"id": n, "latency_ms": 100.0} for n in range(5)]}]
    none = {
        "target_steps": 100,
        "output_tokens": 100,
        "spec_num_draft_tokens": 0,
        "spec_num_accepted_tokens": 0,
    }
    few = {"target_steps": 80, "output_tokens": 100, "spec_num_accepted_tokens": 20}
    found = summary_of(
        tmp_path,
        idle=cell("cost", [[60.0] * 5], plain=plain, mode=none),  # no draft, and 40 % less: that cannot be
        near=cell("cost", [[98.0] * 5], plain=plain, mode=none),
        quick=cell("fixed", [[60.0] * 5], plain=plain, mode=few),
        real=cell("published", [[85.0] * 5], plain=plain, mode=few),
    )
    (best,) = found["best"]
    assert best["fastest"]["file"] == "real.json"
    noisy = {note.split(":")[0] for note in found["notes"] if "not quiet" in note}
    assert noisy == {"idle.json", "quick.json"}


def test_energies_that_are_no_more_than_noise_make_no_ratio(tmp_path: Path) -> None:
    found = summary_of(
        tmp_path,
        run1=cell("fixed", [[1.0] * 3] * 3, joules=[2.0, -0.1, 2.0]),
        plain=cell("plain", [[2.0] * 3] * 3, joules=[1.0, 1.0, 1.0]),
    )
    assert found["by_name"]["run1"]["energy_ratio"] is None
    assert found["best"][0]["thriftiest"] is None and "no energy" in found["text"]


def test_a_pair_is_compared_with_fixed_drafts(tmp_path: Path) -> None:
    fixed = cell("fixed", [[100.0] * 4] * 2, mode={"ncu_metrics": {"dram__bytes_write.sum": 200.0}})
    adaptive = cell(
        "cost",
        [[80.0] * 4] * 2,
        threshold=0.5,
        mode={
            "ncu_metrics": {"dram__bytes_write.sum": 150.0},
            "spec_num_draft_tokens": 50,
            "tokens_stopped_by_confidence": 10,
            "total_confidence_checks": 40,
        },
    )
    row = summary_of(tmp_path, a=fixed, b=adaptive)["by_name"]["b"]
    names = ("fixed_latency_ratio", "fixed_drafted_ratio", "fixed_dram_write_ratio", "stopped_ratio")
    assert [row[name] for name in names] == pytest.approx([0.8, 0.5, 0.75, 10 / 60])


def test_drafters_are_kept_apart(tmp_path: Path) -> None:
    def at(judged: int, accepted: int) -> dict:
        place = {"position": 1, "judged": judged, "accepted": accepted, "accept_ratio": accepted / judged}
        return {"accept_by_position": [place]}

    found = summary_of(
        tmp_path,
        a=cell("fixed", [[100.0] * 4], mode=at(1, 1)),
        b=cell("fixed", [[300.0] * 4], mode=at(9, 3)),
        c=cell("fixed", [[50.0] * 4], drafter="model", draft="small.gguf", mode=at(5, 5)),
        d=cell("cost", [[40.0] * 4], drafter="model", draft="small.gguf"),
        p=cell("plain", [[100.0] * 4]),
    )
    assert found["by_name"]["d"]["fixed_latency_ratio"] == pytest.approx(0.8)  # c, not the lookup of a
    (lookup,) = [line for line in found["text"].splitlines() if "temp 0.0, lookup" in line]
    assert lookup.rstrip(" |").endswith("0.40")  # 4 of 10, not the mean of 1 and 1/3
    assert [note for note in found["notes"] if "same configuration" in note and "c.json" in note] == []


def test_outputs_that_differ_are_counted(tmp_path: Path) -> None:
    document = cell("fixed", [[1.0, 1.0, 1.0]] * 2)
    document["results"][1]["outputs"][0] |= {"first_difference": 17, "token_ids": [9]}
    row = summary_of(tmp_path, a=document)["by_name"]["a"]
    assert (row["outputs"], row["outputs_identical"], row["first_difference_min"]) == (6, 5, 17)
    assert row["repeats_identical"] == pytest.approx(2 / 3)


def test_plain_decoding_that_drifts_within_a_grid_is_told(tmp_path: Path) -> None:
    cells = {
        name: cell(
            "fixed",
            [[1.0] * 3] * 2,
            plain=[{"batch_index": 0, "outputs": [{"id": n, "latency_ms": ms} for n in range(3)]}],
        )
        for name, ms in (("a", 100.0), ("b", 110.0))
    }
    assert "(+10%): compare within a process only" in summary_of(tmp_path, **cells)["text"]


def test_a_summary_that_does_not_follow_from_its_batches_is_told(tmp_path: Path) -> None:
    found = summary_of(tmp_path, a=cell("fixed", [[1.0] * 3] * 2, mode={"latency_avg_s": 9.0}))
    assert "its latencies give" in found["text"]


def test_files_that_are_no_results(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    (folder / "torn.json").write_text('{"summary": ')
    (folder / "list.json").write_text("[1]")
    done = run(folder, "--outdir", tmp_path / "out")
    assert done.returncode == 1 and "run a grid first" in done.stderr
    (folder / "a.json").write_text(json.dumps(cell("plain", [[1.0]])))
    (folder / "bare.json").write_text('{"summary": {"per_mode": [{"nwor_mode": "off"}]}}')
    (folder / "odd.json").write_text(
        '{"summary": {"per_mode": [{"latency_avg_s": 1}]}, "sweep": {"grid": "g"}}'
    )
    done = run(folder, "--outdir", tmp_path / "out", "--no_plots")
    assert done.returncode == 0 and "torn.json: unreadable" in done.stdout
    assert "bare.json: no result" in done.stdout and "odd.json: no result" in done.stdout
    assert "there is no" in run(tmp_path / "none").stderr


@given(
    st.lists(
        st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)),
        min_size=3, max_size=20,
    )
)  # fmt: skip
def test_an_interval_holds_between_the_extreme_ratios(pairs: list[tuple[float, float]]) -> None:
    summarize_sweeps.RESAMPLES = 50
    ratio, low, high = summarize_sweeps.bootstrap_ratio(pairs)
    assert ratio is not None and low is not None and high is not None
    extremes = sorted(value / reference for value, reference in pairs)
    assert extremes[0] * (1 - 1e-9) <= low <= high <= extremes[-1] * (1 + 1e-9)
    assert extremes[0] * (1 - 1e-9) <= ratio <= extremes[-1] * (1 + 1e-9)


def test_too_few_pairs_tell_no_interval() -> None:
    assert summarize_sweeps.bootstrap_ratio([(1.0, 2.0), (1.0, 2.0)]) == (0.5, None, None)
    assert summarize_sweeps.bootstrap_ratio([]) == (None, None, None)
    assert summarize_sweeps.bootstrap_ratio([(1.0, 0.0)] * 4) == (None, None, None)
