"""The table and what it says: intervals from paired rounds, refusals, and no number that was not measured."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.backends.table import COLUMNS, Line, Wanted, interval, paired, read_rows, tabulate
from edgebench.errors import UserError
from edgebench.shell.text import mean_std_text

CONDITIONS = {
    "board": "Jetson AGX Orin", "power_mode_name": "MAXN", "clocks_locked": True, "temp_c": 50.0,
    "gpu_max_hz": 1_301_000_000, "swap_used_byte": 0,
}  # fmt: skip


def run_row(engine: str, number: int, rate: float, **more: Any) -> dict[str, Any]:
    """One row of a campaign, as compare_backends.py writes it."""
    backend, _, device = engine.partition(":")
    return {
        "run_key": f"{engine}{number}", "engine": engine, "backend": backend,
        "device": device or None,
        "model": "m", "quantization": "Q6_K", "status": "ok", "cause": None, "phase": "timed",
        "round": number,
        "prefill_tok_per_s": 10 * rate, "decode_tok_per_s": rate, "ttft_ms": 100.0, "tpot_ms": 1e3 / rate,
        "generated_tokens": 50, "weights": "Q6_K", "weight_read_byte": 1e9, "conditions": CONDITIONS,
        "model_sha256": "a", "prompt_sha256": "b", "asked_tokens": 50, "same_work": True,
        "notes": [], "n_threads": 4,
        "agreed_tokens": 50, "compared_tokens": 50, "first_difference": None, "agreement_by": "tokens",
        **more,
    }  # fmt: skip


def tabulated(rows: list[dict[str, Any]], **wanted: Any) -> str:
    return tabulate(rows, Wanted(**wanted), "rows.jsonl")


def text_of(text: str) -> str:
    return " ".join(text.split())


def pair(ratio: float, spread: float = 0.01, rounds: int = 5) -> list[dict[str, Any]]:
    """NV at `ratio` times CUDA's rate; both drift together by far more than they differ."""
    rows = []
    for number in range(1, rounds + 1):
        base = 30 * (1 + 0.2 * number)
        wobble = 1 + spread * (-1) ** number
        rows += [
            run_row("tinygrad:CUDA", number, base), run_row("tinygrad:NV", number, base * ratio * wobble)
        ]  # fmt: skip
    return rows


def test_paired_rounds_see_what_a_drift_would_hide() -> None:
    said = text_of(tabulated(pair(1.1)))
    found = re.search(
        r"Decode: tinygrad NV is (1\.\d+) ± (0\.\d+) times as fast as tinygrad CUDA \(95 % CI", said
    )
    assert found and float(found[1]) == pytest.approx(1.1, abs=0.01) and "5 paired rounds" in said
    assert 0 < float(found[2]) < 0.03
    assert "cannot be told apart: 1.0" in text_of(tabulated(pair(1.0)))
    # The verdict is the end of the text, the decode one before the prefill one.
    assert said.rindex("times as fast") > said.rindex("Bottleneck of")
    assert "at least 5 are wanted" in text_of(tabulated(pair(1.1, rounds=3)))
    assert "no speed-up can be stated" in text_of(tabulated(pair(1.1, rounds=1)))


def test_columns_are_the_required_six_and_more() -> None:
    text = tabulated(pair(1.1), csv=True)
    (first, *_) = csv.DictReader(io.StringIO(text))
    assert tuple(first)[:6] == COLUMNS
    assert first["n"] == "5" and "±" in first["Decode tok/s"] and first["Agreement"] == "all 50"
    assert first["J/token"] == "-" and first["joule_per_token_mean"] == ""
    mean, std = float(first["decode_tok_per_s_mean"]), float(first["decode_tok_per_s_std"])
    assert f"{mean:.2f} ± {std:.2f}" == first["Decode tok/s"]


def test_warm_up_rows_do_not_count() -> None:
    rows = [
        run_row("llama-bench", 0, 1.0, phase="warmup"),
        *(run_row("llama-bench", n, 30.0) for n in (1, 2)),
    ]
    text = tabulated(rows, csv=True)
    (only,) = csv.DictReader(io.StringIO(text))
    assert only["Decode tok/s"] == "30.00 ± 0.00" and only["n"] == "2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conditions": {**CONDITIONS, "power_mode_name": "15W"}}, "power_mode_name is 15W and MAXN"),
        ({"conditions": {**CONDITIONS, "clocks_locked": False}}, "clocks_locked"),
        ({"conditions": {**CONDITIONS, "temp_c": 75.0}}, "between 50 and 75 °C"),
        ({"model_sha256": "other"}, "model_sha256"),
        ({"prompt_sha256": "other"}, "prompt_sha256"),
        ({"asked_tokens": 9}, "asked_tokens"),
        ({"n_threads": 8}, "n_threads is 4 and 8"),
        ({"conditions": {**CONDITIONS, "gpu_max_hz": 612_000_000}}, "gpu_max_hz"),
        ({"conditions": {**CONDITIONS, "swap_used_byte": 2 << 30}}, "between 0 and 2048 MB lay in swap"),
    ],
)
def test_unlike_rows_are_refused_side_by_side(change: dict[str, Any], said: str) -> None:
    rows = pair(1.1, rounds=1)  # no interval: quick
    rows[0] |= change
    with pytest.raises(UserError, match="--allow_differing_conditions") as refused:
        tabulated(rows)
    assert said in str(refused.value)
    assert "Caution, unlike conditions" in text_of(tabulated(rows, allow_differing_conditions=True))


def test_runs_of_one_engine_at_other_settings_are_no_repeats() -> None:
    rows = [run_row("tinygrad:NV", n, 30, n_gpu_layers=layers) for n, layers in ((1, -1), (2, 8))]
    with pytest.raises(UserError, match="n_gpu_layers of tinygrad:NV is -1 and 8"):
        tabulated(rows)


def test_work_of_another_kind_gets_no_speed_up() -> None:
    rows = [row for n in range(1, 6) for row in (
        run_row("llama-cpp-python", n, 30.0 + n / 100),
        run_row("tinygrad-gpt2:NV", n, 60.0 + n / 100, same_work=False, model_sha256="other"))]  # fmt: skip
    said = text_of(tabulated(rows))
    assert "not the same work" in said and "no speed-up can be stated" in said


def test_missing_and_failed_engines_are_lines() -> None:
    gone = {"prefill_tok_per_s": None, "decode_tok_per_s": None, "ttft_ms": None, "tpot_ms": None}
    rows = [
        *pair(1.1, rounds=1),
        run_row(
            "llama-bench", 0, 1.0, status="MISSING", cause="no llama-bench; build it", phase="warmup", **gone
        ),
        run_row("tinygrad:CUDA", 6, 1.0, status="FAILED", cause="Killed", **gone),
    ]
    said = text_of(tabulated(rows))
    assert "MISSING: no llama-bench; build it" in said and "No result: llama-bench" in said
    assert "1 of 2 runs failed: FAILED: Killed" in said


def test_where_the_time_goes() -> None:
    rows = [run_row("llama-cpp-python", n, 100.0) for n in range(1, 6)]
    for row in rows:
        row |= {"first_run_ttft_ms": 3000.0}
    # 1 GB per token at 100 tok/s is 100 GB/s.
    bound = text_of(tabulated(rows, bandwidth_gb_s=125))
    assert "100.00 (80%)" in bound and "bandwidth is the bottleneck" in bound
    assert "3.0 s for its first token, 30 times a warm one: compilation" in bound
    assert "bandwidth is not the bottleneck" in text_of(tabulated(rows, bandwidth_gb_s=1000))
    assert "(80%)" not in text_of(tabulated(rows))
    # A tenth of a second of prefill, 49 tokens of 10 ms.
    assert f"prefill takes {0.1 / 0.59:.0%}" in bound


def test_the_bottleneck_is_the_largest_part_and_the_parts_are_all() -> None:
    rows = [run_row("tinygrad:NV", n, 100.0, load_ms=500.0, first_run_ttft_ms=1100.0) for n in range(1, 6)]
    said = text_of(tabulated(rows, bandwidth_gb_s=200))
    # 0.5 s of loading, 1.0 s of compiling, 0.1 s of prefill, 49 tokens of 10 ms, half of them reading.
    assert "Bottleneck of tinygrad NV: first-token compilation. Of 2.09 s" in said
    total = 500 + 1000 + 100 + 490
    for part, ms in {
        "start-up": 500,
        "first-token compilation": 1000,
        "prefill": 100,
        "reading the weights": 245,
        "launches, compute and sampling": 245,
    }.items():
        assert f"{part} {ms / total:.0%}" in said
    warm = text_of(tabulated([{**row, "first_run_ttft_ms": 110.0} for row in rows]))
    assert "compilation" not in warm.split("Bottleneck")[1] and "decoding" in warm


def log_row(device: str, rate: float, **more: Any) -> dict[str, Any]:
    """One row of a log, as parse_backend_logs.py reads it."""
    return {
        "backend": "tinygrad", "device": device, "model": "gpt2", "test": "tokens", "status": "ok",
        "decode_tok_per_s": rate, "tpot_ms": 1e3 / rate, "ttft_ms": 40.0, "generated_tokens": 100,
        "source_file": f"{device}.log", "notes": [], "settings": {}, **more,
    }  # fmt: skip


def test_logs_of_one_run_each_get_a_ratio_that_is_labelled() -> None:
    said = text_of(tabulated([log_row("NV", 38.3), log_row("CUDA", 38.8)]))
    assert (
        "Decode, one run each, out of logs: tinygrad CUDA ran at 1.01 times the rate of tinygrad NV" in said
    )
    assert "One run has no interval" in said and "times as fast" not in said
    other = text_of(tabulated([log_row("NV", 38.3), log_row("CUDA", 38.8, model="llama3")]))
    assert "one run each" not in other  # another model is another work


def test_the_warm_run_of_a_log_is_the_one_compared() -> None:
    cold = log_row("NV", 20.0, run=1, runs=2, source_line=3)
    warm = log_row("NV", 40.0, run=2, runs=2, source_line=90)
    said = text_of(tabulated([cold, warm, log_row("CUDA", 20.0)]))
    assert "tinygrad NV ran at 2 times the rate of tinygrad CUDA" in said
    assert "1 times the rate" not in said


def test_disagreement_is_named() -> None:
    rows = pair(1.1, rounds=1)
    rows[1] |= {"agreed_tokens": 7, "first_difference": 7, "margin_logit": 0.0281}
    said = text_of(tabulated(rows))
    assert "first 7 of 50" in said and "parts from llama-cpp-python's answer at token 8" in said
    assert "two best tokens are 0.028 logits apart" in said


def test_a_file_that_cannot_be_read_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*compare_backends\.py run") as caught:
            read_rows([str(path)])
        assert str(path) in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_broken_and_empty_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no rows"):
        tabulated([])
    path = tmp_path / "rows.jsonl"
    path.write_text('{"torn\n' + json.dumps(run_row("llama-bench", 1, 3.0)) + "\n")
    assert "3.00" in tabulated(read_rows([str(path)]))
    assert f"{path}:1: no row; left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="none"):
        read_rows([str(tmp_path / "none.jsonl")])


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12))
def test_an_interval_is_symmetric_in_the_two_engines(logs: list[float]) -> None:
    one, other = interval(logs), interval([-value for value in logs])
    assert one is not None and other is not None
    assert one[1] <= one[0] <= one[2]
    assert math.isclose(one[0], 1 / other[0], rel_tol=1e-9)
    assert math.isclose(math.log(one[1]), -math.log(other[2]), rel_tol=1e-9, abs_tol=1e-9) or one[1] == 0


def test_the_interval_is_students() -> None:
    """Five logs 1..5: mean 3, half width 2.776 * sd / sqrt(5)."""
    found = interval([1, 2, 3, 4, 5])
    assert found is not None
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert [math.log(one) for one in found] == pytest.approx([3, 3 - half, 3 + half])


@given(st.floats(1e-6, 1e6))
def test_figures_keep_their_value(value: float) -> None:
    assert float(mean_std_text(value)) == pytest.approx(value, rel=0.006)


def test_several_runs_of_one_round_are_averaged_and_none_is_dropped() -> None:
    """Of two campaigns in one table; the last run of a round stood for all."""

    def line(*runs: tuple[int | None, float]) -> Line:
        return Line("e", "m", [{"round": number, "decode_tok_per_s": value} for number, value in runs])

    first, second = line((1, 20.0), (2, 30.0), (None, 9.0)), line((1, 10.0), (1, 40.0), (2, 30.0), (3, 1.0))
    assert paired(first, second, "decode_tok_per_s") == pytest.approx([0.0, 0.0])
    assert paired(second, first, "decode_tok_per_s") == pytest.approx([0.0, 0.0])


def test_idle_power_of_different_states_is_told_beside_the_gross_energy() -> None:
    """An H200 idled at 121 W with a program on it, at 78 W without: J/token net of these is not alike."""
    resident = {"idle_method": "with the model resident, before the answer", "idle_mw": 120_548.0}
    before = {"idle_method": "before the engine was started", "idle_mw": 77_806.0}
    rows = [
        run_row(engine, number, 1350.0, joule_per_token=net, joule_per_token_gross=gross, **idle)
        for engine, net, gross, idle in (
            ("llama-cpp-python", 0.006, 0.11, resident), ("llama-bench", 0.038, 0.12, before),
        )
        for number in (1, 2)
    ]  # fmt: skip
    said = text_of(tabulated(rows))
    assert "J/token is net of idle power that was not measured alike: llama-cpp-python 120.5 W with" in said
    assert "Gross J/token, which is alike for all: llama-cpp-python 0.1100; llama-bench 0.1200." in said
    assert "few" not in said
    same = [{**row, **resident} for row in rows]
    assert "not measured alike" not in text_of(tabulated(same))
    thin = text_of(tabulated([{**row, "power_flags": ["few_power_samples"]} for row in same]))
    assert "J/token of llama-cpp-python, llama-bench rests on fewer than five power samples" in thin
