"""Sweeps summed up: the published ones to the last digit, and made ones whose answer is known."""

import copy
import csv
import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companions import sweep_speculative
from edgebench.speculation.summary import Summary, rows_csv, summarize
from edgebench.stats.intervals import FEWEST, mean_interval
from tests.fakes.sweep_files import cell, uneven, write

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "speculative"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published sweeps are not here")


class Told:
    """What the command wrote and said."""

    def __init__(self, outdir: Path, text: str) -> None:
        self.text = text
        self.json: dict[str, Any] = json.loads((outdir / "summary.json").read_text())
        self.by_name = {row["file"].removesuffix(".json"): row for row in self.json["rows"]}
        self.rows = read_csv(outdir / "summary.csv")
        self.findings = read_csv(outdir / "findings.csv")
        assert (outdir / "summary.md").read_text() == text.removesuffix("\n")

    def finding(self, name: str, treatment: str, reference: str | None = None) -> dict[str, str]:
        (found,) = [
            row
            for row in self.findings
            if row["name"].startswith(name)
            and row["treatment"] == treatment
            and reference in (None, row["reference"])
        ]
        return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function: the summary of made cells."""

    def summary_of(**cells: dict[str, Any]) -> Told:
        folder, outdir = write(tmp_path / "g", **cells), tmp_path / "out"
        words = ["summary", str(folder), "--outdir", str(outdir), "--no_plots"]
        assert sweep_speculative.main(words) == 0
        return Told(outdir, capsys.readouterr().out)

    return summary_of


# --- The published sweeps


@pytest.fixture(scope="module")
def published() -> Summary:
    return summarize([PUBLISHED / "sweeps"])


@needs_published
def test_the_published_sweeps_give_their_published_summary_to_the_last_digit(published: Summary) -> None:
    ours = {
        (row["file"], row["scv_mode"], row["nwor_mode"]): row
        for row in csv.DictReader(rows_csv(published).splitlines())
    }
    theirs = read_csv(PUBLISHED / "nwor_sweeps_summary.csv")
    assert len(theirs) == len(ours) == len(published.rows) == 31
    for row in theirs:
        mine = ours[row["file"], row["scv_mode"], row["nwor_mode"]]
        told = {name: value for name, value in row.items() if name != "commit"}
        assert {name: mine[name] for name in told} == told


@needs_published
def test_what_the_published_sweeps_tell_and_do_not_tell(published: Summary) -> None:
    rows = {(row["file"], row["nwor_mode"]): row for row in published.rows}
    adaptive = rows["scenario1_test_noearly.json", "adaptive=1,threshold=0.0"]
    assert adaptive["latency_ratio"] == pytest.approx(0.5867, abs=1e-4)  # 41 % less than fixed drafts
    assert "another session" in adaptive["reference"]
    profiled = next(row for row in rows.values() if row["profile_only"])
    assert profiled["latency_ratio"] is None
    notes = "\n".join(published.notes)
    assert "(+23%) for the same configuration" in notes
    assert "no plain decoding" in notes and "its latencies give" not in notes


@needs_published
def test_no_acceptance_is_pooled_over_what_differs(published: Summary) -> None:
    told = {(row["spec_num_draft_tokens"], row["spec_num_accepted_tokens"]) for row in published.rows}
    assert {(one.drafted, one.accepted) for one in published.acceptance} <= told
    assert all(one.cells == 1 for one in published.acceptance)


# --- Every request counts: recounted from the raw files in another way


def made_grid(prompts: int, seed: int = 5) -> tuple[dict[str, Any], list[list[float]], list[list[float]]]:
    """A cell of 36 requests in three batches, the first decoded plainly, too: (file, ours, plain)."""
    draw = random.Random(seed)
    pace = [draw.uniform(0.5, 1.4) for _ in range(prompts)]
    size = [draw.lognormvariate(5, 0.6) for _ in range(prompts)]

    def batch(index: int, paced: bool) -> list[float]:
        numbers = [(index * 36 + place) % prompts for place in range(36)]
        return [size[n] * (pace[n] if paced else 1) * draw.uniform(0.97, 1.03) for n in numbers]

    ours, plain = [batch(index, True) for index in range(3)], [batch(0, False)]
    return cell("fixed", ours, plain=plain, prompts=prompts), ours, plain


def ratio_and_interval(document: dict[str, Any]) -> tuple[float, float | None, float | None]:
    """Straight from the file: sums over the prompts of the first batch, and every ratio that they allow."""
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for one, other in zip(document["results"][0]["outputs"], document["plain"][0]["outputs"], strict=True):
        assert one["id"] == other["id"]
        ours[one["id"]] = ours.get(one["id"], 0.0) + one["latency_ms"]
        theirs[one["id"]] = theirs.get(one["id"], 0.0) + other["latency_ms"]
    ratio = sum(ours.values()) / sum(theirs.values())
    if len(ours) < FEWEST:
        return ratio, None, None

    def allowed(r: float) -> bool:
        edges = mean_interval([ours[prompt] - r * theirs[prompt] for prompt in ours]).edges
        return edges is not None and edges[0] <= 0 <= edges[1]

    steps = [ratio * (1 + place / 20_000) for place in range(-6_000, 6_001)]
    inside = [r for r in steps if allowed(r)]
    assert steps[0] < inside[0] and inside[-1] < steps[-1]
    return ratio, inside[0], inside[-1]


@pytest.mark.parametrize("prompts", [2, 10, 36])
def test_ratio_and_interval_are_those_of_all_requests(told: Any, prompts: int) -> None:
    document, ours, plain = made_grid(prompts)
    row = told(run1=document).by_name["run1"]
    expected = ratio_and_interval(document)
    assert row["latency_ratio"] == pytest.approx(sum(ours[0]) / sum(plain[0]), rel=1e-12)
    for edge, value in zip(("", "_low", "_high"), expected, strict=True):
        found = row[f"latency_ratio{edge}"]
        assert found == (value if value is None else pytest.approx(value, rel=2e-4 if edge else 1e-12))
    assert ("2 prompts: too few for an interval" in (row["latency_ratio_no_interval"] or "")) == (
        prompts == 2
    )
    assert row["compared_requests"] == 36 and row["latency_ratio_units"] == f"{prompts} prompts"
    assert row["latency_requests"] == 108
    everything = [latency for batch in ours for latency in batch]
    assert row["latency_ms_per_request"] == pytest.approx(statistics.fmean(everything))
    assert row["requests_left_out"] == "72 in batches that the reference lacks"


def test_requests_of_another_prompt_are_left_out_and_told(told: Any) -> None:
    document, _, _ = made_grid(10)
    document["plain"][0]["outputs"][3]["id"] = 999
    document["plain"][0]["outputs"][4]["latency_ms"] = None
    del document["plain"][0]["outputs"][30:]
    document["plain"].append({"batch_index": 9, "outputs": [{"id": 1, "level": "L0", "latency_ms": 1.0}]})
    found = told(run1=document)
    row = found.by_name["run1"]
    assert row["compared_requests"] == 28
    assert "1 of the reference that this result lacks" in row["requests_left_out"]
    for reason in (
        "1 whose prompt is another",
        "1 without a latency",
        "6 in places that the reference lacks",
    ):
        assert reason in row["requests_left_out"] and reason in found.text


def counts(summary: Summary) -> dict[str, Any]:
    """Every count that the tables tell."""
    return {
        "rows": len(summary.rows),
        "requests": [row["latency_requests"] for row in summary.rows],
        "compared": [row["compared_requests"] for row in summary.rows],
        "left_out": [row["requests_left_out"] for row in summary.rows],
        "cells": [one.cells for one in summary.findings],
        "acceptance": [one.cells for one in summary.acceptance],
        "outputs": [row["outputs"] for row in summary.rows],
        "notes": len(summary.notes),
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_doubled_key_changes_a_count_or_is_told(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Whatever is doubled (a request, a batch, an energy, a mode, a file), nothing is dropped in silence."""
    folder = tmp_path_factory.mktemp("doubled")
    cells = {
        "run1_adaptive0": made_grid(10)[0],
        "run1_adaptive1": {**made_grid(10, seed=6)[0]},
        "plain": cell("plain", made_grid(10, seed=7)[1], prompts=10, joules=[3.0, 3.1, 3.2]),
    }
    cells["run1_adaptive1"]["sweep"] = {**cells["run1_adaptive1"]["sweep"], "role": "cost"}
    for document in cells.values():
        energy = [{"batch_index": index, "energy_joule": 2.0 + index} for index in range(3)]
        document["summary"]["per_mode"][0]["energy"] = {"per_batch": energy, "energy_joule_per_request": 1.0}
    before = counts(summarize([write(folder, **cells)]))
    doubled = copy.deepcopy(cells)
    name = data.draw(st.sampled_from(sorted(cells)))
    document = doubled[name]
    what = data.draw(st.sampled_from(["request", "plain request", "batch", "energy", "mode", "file"]))
    if what == "file":
        doubled["again"] = document
    elif what == "mode":
        document["summary"]["per_mode"].append(document["summary"]["per_mode"][0])
    elif what == "energy":
        batches = document["summary"]["per_mode"][0]["energy"]["per_batch"]
        batches.append(data.draw(st.sampled_from(batches)))
    else:
        entries = document["plain" if what == "plain request" and document["plain"] else "results"]
        if what == "batch":
            entries.append(data.draw(st.sampled_from(entries)))
        else:
            outputs = data.draw(st.sampled_from(entries))["outputs"]
            place = data.draw(st.integers(0, len(outputs) - 1))
            outputs.insert(place, outputs[place])
    after = counts(summarize([write(folder, **doubled)]))
    assert after != before


# --- References


def test_a_cell_is_compared_with_plain_decoding_of_its_own_process(told: Any) -> None:
    sizes = range(1, 10)
    ours = [ms * n for ms, n in zip(uneven(100.0), sizes, strict=True)]
    found = told(
        run1=cell("fixed", [ours] * 3, joules=[2.0] * 3, plain=[[200.0 * n for n in sizes]]),
        plain=cell("plain", [[400.0 * n for n in sizes]] * 3, joules=[8.0] * 3),
    )
    row = found.by_name["run1"]
    assert row["reference"] == "plain, same process"  # 0.5, and not 0.25 as against the other session
    assert row["latency_ratio"] == pytest.approx(0.5, rel=0.01)
    assert 0.49 < row["latency_ratio_low"] < row["latency_ratio"] < row["latency_ratio_high"] < 0.51
    assert row["energy_ratio"] == pytest.approx(0.25)
    assert "simulated" in found.text
    (best,) = found.json["best"]
    assert best["fastest"]["file"] == best["thriftiest"]["file"] == "run1.json"
    assert "compare within a process" not in found.text


def test_without_one_the_plain_cell_of_the_same_workload_is_the_reference(told: Any) -> None:
    found = told(
        run1=cell("fixed", [[110.0, 90.0, 300.0] * 3] * 2),
        plain=cell("plain", [[100.0, 100.0, 290.0] * 3] * 2),
        other=cell("plain", [[1.0] * 9] * 2, scenario="code"),
        lonely=cell("fixed", [[1.0] * 9] * 2, scenario="prose"),
    )
    row = found.by_name["run1"]
    assert row["reference"] == "plain.json" and row["latency_ratio"] == pytest.approx(500 / 490)
    assert row["latency_ratio_low"] < 1 < row["latency_ratio_high"]
    assert found.json["best"][0]["fastest"] is None  # slower, or not surely faster: plain decoding
    assert "| plain decoding" in found.text
    assert found.by_name["lonely"]["latency_ratio"] is None
    assert "without a plain reference: lonely.json" in found.text
    assert "No energy: no power was asked for" in found.text


def test_of_several_references_the_first_is_taken_and_the_others_are_told(told: Any) -> None:
    found = told(
        a=cell("plain", [[100.0] * 3]), b=cell("plain", [[300.0] * 3]), run1=cell("fixed", [[90.0] * 3])
    )
    assert found.by_name["run1"]["reference"] == "a.json"
    assert "run1: compared with a.json, not with b.json" in found.text


def test_a_gain_larger_than_the_passes_saved_is_told_as_noise_and_not_as_the_best(told: Any) -> None:
    plain = [[100.0] * 9]
    none = {
        "target_steps": 100,
        "output_tokens": 100,
        "spec_num_draft_tokens": 0,
        "spec_num_accepted_tokens": 0,
    }
    few = {"target_steps": 80, "output_tokens": 100, "spec_num_accepted_tokens": 20}
    found = told(
        idle=cell("cost", [uneven(60.0)], plain=plain, mode=none),  # no draft, and 40 % less: that cannot be
        near=cell("cost", [uneven(98.0)], plain=plain, mode=none),
        quick=cell("fixed", [uneven(60.0)], plain=plain, mode=few),
        real=cell("published", [uneven(85.0)], plain=plain, mode=few),
    )
    (best,) = found.json["best"]
    assert best["fastest"]["file"] == "real.json"
    noisy = {note.split(":")[0] for note in found.json["notes"] if "not quiet" in note}
    assert noisy == {"idle.json", "quick.json"}


def test_energies_that_are_no_more_than_noise_make_no_ratio(told: Any) -> None:
    found = told(
        run1=cell("fixed", [[1.0] * 3] * 3, joules=[2.0, -0.1, 2.0]),
        plain=cell("plain", [[2.0] * 3] * 3, joules=[1.0, 1.0, 1.0]),
    )
    assert found.by_name["run1"]["energy_ratio"] is None
    assert "means nothing" in found.by_name["run1"]["energy_ratio_reason"]
    assert found.json["best"][0]["thriftiest"] is None and "no energy" in found.text


def test_energies_of_few_power_samples_make_no_ratio_and_are_named(told: Any) -> None:
    """An H200 decoded four requests in 43 ms, between two readings: no energy of theirs was seen."""
    short = cell("fixed", [[30.5] * 4], joules=[0.2], plain=[[10.8] * 4])
    short["summary"]["per_mode"][0]["energy"]["per_batch"][0]["flags"] = ["few_power_samples"]
    found = told(run1=short, plain=cell("plain", [[10.8] * 4], joules=[0.0069]))
    assert found.by_name["run1"]["energy_ratio"] is None
    assert "fewer than five power samples" in found.by_name["run1"]["energy_ratio_reason"]
    assert "energy of run1.json: fewer than five power samples in a batch" in found.text


def test_a_pair_is_compared_with_fixed_drafts(told: Any) -> None:
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
    row = told(a=fixed, b=adaptive).by_name["b"]
    names = ("fixed_latency_ratio", "fixed_drafted_ratio", "fixed_dram_write_ratio", "stopped_ratio")
    assert [row[name] for name in names] == pytest.approx([0.8, 0.5, 0.75, 10 / 60])
    assert row["latency_reduction_pct"] == pytest.approx(20) and row["token_reduction_pct"] == 50
    assert row["latency_overhead_pct"] == pytest.approx(-20) and row["bandwidth_savings_pct"] == 25
    assert row["dram_write_reduction_byte"] == 50 and row["tokens_stopped_pct"] == pytest.approx(100 / 6)
    assert row["throughput_improvement_pct"] == pytest.approx(25)
    assert row["throughput_tok_per_s"] == pytest.approx(1000 / 80)


def test_drafters_are_kept_apart(told: Any) -> None:
    def at(judged: int, accepted: int) -> dict[str, Any]:
        place = {"position": 1, "judged": judged, "accepted": accepted, "accept_ratio": accepted / judged}
        return {"accept_by_position": [place]}

    found = told(
        a=cell("fixed", [[100.0] * 4], mode=at(1, 1)),
        b=cell("fixed", [[300.0] * 4], mode=at(9, 3)),
        c=cell("fixed", [[50.0] * 4], drafter="model", draft="small.gguf", mode=at(5, 5)),
        d=cell("cost", [[40.0] * 4], drafter="model", draft="small.gguf"),
        p=cell("plain", [[100.0] * 4]),
    )
    assert found.by_name["d"]["fixed_latency_ratio"] == pytest.approx(0.8)  # c, not the lookup of a
    (lookup,) = [line for line in found.text.splitlines() if "fixed drafts, draft 4, prompt lookup" in line
                 and "200" in line]  # fmt: skip
    assert lookup.rstrip(" |").endswith("0.40")  # 4 of 10, not the mean of 1 and 1/3
    assert [note for note in found.json["notes"] if "same configuration" in note and "c.json" in note] == []


# --- What the document asks for


def workloads(role: str, latency_ms: dict[int, float], **more: Any) -> dict[str, dict[str, Any]]:
    """A cell of one treatment at several workloads (tokens)."""
    return {
        f"{role}{more.get('threshold', '')}_{tokens}".replace(".", "_"): cell(
            role, [[value] * 4], plain=[[100.0] * 4], max_tokens=tokens, **more
        )
        for tokens, value in latency_ms.items()
    }


def test_averages_are_over_workloads_with_their_interval(told: Any) -> None:
    reductions = (10, 20, 30, 15, 25, 12, 28, 20)
    lengths = [8 * (place + 1) for place in range(len(reductions))]
    fixed = workloads("fixed", dict.fromkeys(lengths, 200.0))
    cost = workloads("cost", {n: 2.0 * (100 - less) for n, less in zip(lengths, reductions, strict=True)})
    found = told(**fixed, **cost).finding("Latency reduction", "cost rule", "fixed drafts")
    assert float(found["value"]) == pytest.approx(20)
    edges = mean_interval([float(less) for less in reductions]).edges
    assert [float(found[end]) for end in ("low", "high")] == pytest.approx(edges)
    assert (found["workloads"], found["cells"], found["note"]) == ("8", "8", "")


def test_a_cell_without_its_reference_is_told_and_not_averaged(told: Any) -> None:
    found = told(**workloads("fixed", {8: 100.0}), **workloads("cost", {8: 90.0, 16: 10.0}))
    row = found.finding("Latency reduction", "cost rule", "fixed drafts")
    assert float(row["value"]) == pytest.approx(10) and row["low"] == ""
    assert row["workloads"] == "1" and row["note"] == "1 without fixed drafts of its length in its folder"


def test_acceptance_and_gain_are_correlated_over_the_workloads_of_one_treatment(told: Any) -> None:
    cells = {}
    for place, (tokens, latency_ms) in enumerate({8: 90.0, 16: 80.0, 32: 70.0, 64: 60.0, 128: 50.0}.items()):
        mode = {"spec_acceptance_ratio": 0.1 * (place + 1)}
        cells |= workloads("fixed", {tokens: latency_ms}, mode=mode)
    found = told(**cells)
    row = found.finding("Acceptance rate correlation", "fixed drafts")
    assert float(row["value"]) == pytest.approx(1.0) and row["workloads"] == "5"
    assert "### Acceptance rate correlation" in found.text


def test_the_words_of_the_document_stand_in_the_report(told: Any) -> None:
    mode = {
        "tokens_stopped_by_confidence": 25, "total_confidence_checks": 40, "spec_num_draft_tokens": 75,
        "ncu": {"reason": "Nsight Compute is not here"},
    }  # fmt: skip
    found = told(
        **workloads("fixed", {8: 100.0, 16: 100.0}),
        **workloads("fixed", {8: 103.0, 16: 105.0}, threshold=0.5, mode=mode),
    )
    for name in (
        "Latency reduction",
        "Token reduction (spec_num_draft_tokens)",
        "Throughput improvement (tokens/sec)",
        "Acceptance rate correlation",
        "DRAM write reduction",
        "Tokens stopped",
        "Latency overhead",
        "Bandwidth savings vs latency tradeoff",
        "Determinism (temp=0.0 outputs identical)",
        "Acceptance by workload",
        "Best configuration by workload",
    ):
        assert name in found.text, name
    stopped = found.finding("Tokens stopped", "fixed drafts, threshold 0.5")
    assert float(stopped["value"]) == pytest.approx(25)
    assert float(found.finding("Latency overhead", "fixed drafts, threshold 0.5")["value"]) == pytest.approx(
        4
    )
    assert "without memory counters on both sides" in found.text
    assert "Nsight Compute is not here" in found.text
    assert "8 of 8 outputs" in found.finding("Determinism", "fixed drafts")["note"]


def test_what_cannot_be_told_from_another_is_not_called_the_best(told: Any) -> None:
    draw = random.Random(3)

    def noisy(level: float) -> list[list[float]]:
        return [[level * draw.uniform(0.9, 1.1) for _ in range(12)]]

    plain = [[100.0] * 12]
    found = told(
        a=cell("fixed", noisy(60.0), plain=plain),
        b=cell("cost", noisy(60.5), plain=plain),
        c=cell("published", noisy(90.0), plain=plain),
    )
    (best,) = found.json["best"]
    assert {best["fastest"]["file"], *best["fastest_not_told_from"]} == {"a.json", "b.json"}
    assert "none can be told from another" in found.text


def test_a_clear_winner_is_named(told: Any) -> None:
    plain = [[100.0 + n for n in range(12)]]
    found = told(
        a=cell("fixed", [[60.0 + n for n in range(12)]], plain=plain),
        b=cell("cost", [[50.0 + n for n in range(12)]], plain=plain),
    )
    assert "| cost rule, draft 4, prompt lookup" in found.text
    assert "none can be told" not in found.text.split("## g")[0].split("over all")[0]


# --- What is wrong with files


def test_outputs_that_differ_are_counted(told: Any) -> None:
    document = cell("fixed", [[1.0, 1.0, 1.0]] * 2)
    document["results"][1]["outputs"][0] |= {"first_difference": 17, "token_ids": [9]}
    row = told(a=document).by_name["a"]
    assert (row["outputs"], row["outputs_identical"], row["first_difference_min"]) == (6, 5, 17)
    assert row["repeats_identical"] == pytest.approx(2 / 3)


def test_plain_decoding_that_drifts_within_a_grid_is_told(told: Any) -> None:
    cells = {
        name: cell("fixed", [[1.0] * 3] * 2, plain=[[ms] * 3]) for name, ms in (("a", 100.0), ("b", 110.0))
    }
    assert "(+10%): compare within a process only" in told(**cells).text


def test_a_summary_that_does_not_follow_from_its_batches_is_told(told: Any) -> None:
    found = told(a=cell("fixed", [[1.0] * 3] * 2, mode={"latency_avg_s": 9.0}))
    assert "its latencies give" in found.text


def test_a_batch_that_stands_there_twice_costs_the_file_and_is_told(told: Any) -> None:
    document = cell("fixed", [[1.0] * 3] * 2)
    document["results"].append(document["results"][0])
    found = told(a=document, b=cell("plain", [[1.0] * 3]))
    assert "left out (batch 0 stands there twice)" in found.text and list(found.by_name) == ["b"]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            ("summary", "per_mode", 0, "spec_num_draft_tokens"),
            "x",
            "spec_num_draft_tokens is 'x', and no number",
        ),
        (("summary", "per_mode", 0, "latency_p50_s"), [], "latency_p50_s is [], and no number"),
        (("results", 0, "latency_s"), None, "latency_s of batch 0 is no number"),
        (("results", 0, "latency_s"), float("nan"), "latency_s of batch 0 is no number"),
        (("sweep", "config", "levels"), ["L0"], "levels is no single value"),
        (("sweep", "config", "threshold"), "half", "confidence_threshold is 'half', and no number"),
        (("sweep", "role"), "extra", "the role 'extra' is none of plain, fixed, published, cost"),
    ],
)
def test_a_value_of_another_kind_costs_its_file_and_is_told(
    told: Any, place: tuple[Any, ...], value: Any, said: str
) -> None:
    document = cell("fixed", [[1.0] * 3] * 2)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    found = told(a=document, b=cell("plain", [[1.0] * 3]))
    assert said in found.text and list(found.by_name) == ["b"]


def test_nan_is_missing(told: Any) -> None:
    document = cell("fixed", [[1.0] * 3] * 2, mode={"spec_acceptance_ratio": float("nan")})
    found = told(a=document)
    assert found.by_name["a"]["spec_acceptance_ratio"] is None and "nan" not in found.text


def test_a_file_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "g", a=cell("plain", [[1.0] * 3]))
    (tmp_path / "link").symlink_to(folder)
    assert len(summarize([folder, tmp_path / "link", folder / "a.json"]).rows) == 1


def test_files_that_are_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    (folder / "torn.json").write_text('{"summary": ')
    (folder / "list.json").write_text("[1]")
    words = ["summary", str(folder), "--outdir", str(tmp_path / "out"), "--no_plots"]
    assert sweep_speculative.main(words) == 1 and "run a grid first" in capsys.readouterr().err
    write(folder, a=cell("plain", [[1.0]]))
    (folder / "bare.json").write_text('{"summary": {"per_mode": [{"nwor_mode": "off"}]}}')
    (folder / "odd.json").write_text(
        '{"summary": {"per_mode": [{"nwor_mode": "off", "scv_mode": "off", "latency_avg_s": 1}]},'
        ' "sweep": {"grid": "g"}}'
    )
    assert sweep_speculative.main(words) == 0
    out = capsys.readouterr().out
    assert "torn.json: unreadable" in out
    assert "bare.json: no result" in out and "odd.json: no result" in out
    assert sweep_speculative.main(["summary", str(tmp_path / "none")]) == 1
    assert "there is no" in capsys.readouterr().err


def spread(role: str, around_ms: float, **more: Any) -> dict[str, dict[str, Any]]:
    """One treatment at eight workloads, some of which take longer than others."""
    lengths = range(8, 72, 8)
    return workloads(role, {n: around_ms + 2 * ((n // 8 * 5) % 7) for n in lengths}, **more)


def test_the_averages_stand_beside_every_row_of_their_treatment(told: Any) -> None:
    found = told(**spread("fixed", 100.0), **spread("cost", 80.0))
    cost = [row for row in found.rows if row["role"] == "cost"]
    assert {row["average_latency_reduction_workloads"] for row in cost} == {"8"}
    of_table = found.finding("Latency reduction", "cost rule", "fixed drafts")
    for end in ("", "_low", "_high"):
        (value,) = {float(row[f"average_latency_reduction_pct{end}"]) for row in cost}
        assert value == pytest.approx(float(of_table[end.removeprefix("_") or "value"]))
    fixed = {row["average_latency_reduction_pct"] for row in found.rows if row["role"] == "fixed"}
    against_plain = found.finding("Latency reduction", "fixed drafts", "plain decoding")["value"]
    assert fixed == {against_plain}


def test_the_report_begins_with_what_is_to_be_done(told: Any) -> None:
    slow = told(**spread("fixed", 130.0))
    assert slow.text.splitlines()[2] == (
        "Over all workloads plain decoding is the fastest: every treatment takes longer."
    )


def test_over_all_workloads_the_fastest_is_named(told: Any) -> None:
    few = {"target_steps": 10, "output_tokens": 100}
    found = told(**spread("fixed", 80.0, mode=few), **spread("cost", 40.0, mode=few))
    assert found.text.splitlines()[2] == "Over all workloads the fastest is: cost rule."
