"""Several answers decoded together: the same answers as alone, honest counts, resumable records."""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.throughput.plan import cells
from edgebench.throughput.table import read_records, rows, table_of
from tests.doors import call, command
from tests.processes import descendants
from tests.waiting import PATIENCE_S, is_gone, wait_for

ROOT = Path(__file__).resolve().parents[2]


def told(sequence: dict) -> tuple:
    return sequence["ids_sha256"], sequence["output_text"], sequence["finish_reason"]


# --- The measured mode


def throughput(*flags: object) -> subprocess.CompletedProcess[str]:
    return call("companions/throughput.py", *flags)


def started(*flags: object) -> subprocess.Popen[str]:
    """A process of its own, to be ended or to lose its engine."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command("companions/throughput.py", *flags), stderr=pipe, stdout=pipe, text=True)


def flags_for(model: Path, out: Path, *more: object) -> list[object]:
    prompts = ROOT / "data/writing_prompts_hierarchical.csv"
    return [
        "--models", model, "--prompts", prompts, "--out_jsonl", out, "--max_tokens", 12, "--n_threads", 1,
        "--repeats", 2, "--batch_sizes", "1,4", *more,
    ]  # fmt: skip


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_campaign_without_power(llama_cpp, demo_models: dict[str, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "t.jsonl"
    flags = flags_for(demo_models["llama"], out, "--source", "none")
    done = throughput(*flags)
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert [(one["batch_size"], one["repeat"]) for one in found] == [(1, 1), (4, 1), (4, 2), (1, 2)]
    for one in found:
        assert one["error"] is None and one["energy_joule"] is None and one["joule_per_token"] is None
        assert one["energy_missing"] and "no_power" in one["flags"]
        assert one["completion_tokens"] == sum(each["completion_tokens"] for each in one["sequences"])
        assert one["latency_ms"] >= one["prefill_ms"] + one["decode_ms"] > 0
        assert one["tok_per_s"] == pytest.approx(one["completion_tokens"] / one["latency_ms"] * 1000)
        assert [each["id"] for each in one["sequences"]] == [1, 2, 3, 4]
    # Four sequences at once take a quarter of the steps where all run to the same length.
    one, four = found[0], found[1]
    assert four["decode_steps"] < one["decode_steps"]
    assert list(map(told, one["sequences"])) == list(map(told, four["sequences"]))
    assert "4/4" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    # Started again it measures nothing; a repeat more is measured alone; a torn line is done again.
    before = out.read_bytes()
    assert "0 of 4" in throughput(*flags).stderr and out.read_bytes() == before
    out.write_bytes(before[:-30])
    again = throughput(*flags)
    assert "1 of 4" in again.stderr and "cut short" in again.stderr
    assert len({one["run_key"] for one in records(out)}) == 4 == len(records(out))


def test_energy_is_net_of_idle_and_simulated_power_says_so(
    llama_cpp,  # type: ignore[no-untyped-def]
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    log, out, trace = tmp_path / "power.log", tmp_path / "t.jsonl", tmp_path / "trace.csv"
    log.write_text("VDD_IN 5000mW/5000mW\n" * 50)
    # A constant feed: gross energy is 5 W times the time, and net of idle nothing is left.
    more = ["--source", f"replay:{log}", "--interval", 10, "--idle_seconds", 0.5, "--power_trace", trace]
    flags = flags_for(tiny_model("llama", mode="never"), out, *more)
    done = throughput(*flags, "--repeats", 1, "--max_tokens", 200)
    assert done.returncode == 0, done.stderr
    for one in records(out):
        seconds = one["t1_s"] - one["t0_s"]
        assert one["energy_gross_joule"] == pytest.approx(5 * seconds, rel=0.02)
        assert one["idle_mw"] == pytest.approx(5000) and abs(one["energy_joule"]) < 0.02 * seconds * 5 + 1e-9
        assert one["joule_per_token"] == pytest.approx(one["energy_joule"] / one["completion_tokens"])
        assert "simulated_power" in one["flags"] and one["power_scope"] and one["power_rail"] == "VDD_IN"
        assert one["energy_missing"] is None
    assert "SIMULATED" in done.stdout and trace.is_file()


def test_records_are_completed_by_what_idle_power_was_in_between(
    llama_cpp,  # type: ignore[no-untyped-def]
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """A board that draws half a watt more, idle too, once the first measurement is written."""
    out = tmp_path / "t.jsonl"
    watts = f"[ -s {out} ] && echo VDD_IN 5500mW || echo VDD_IN 5000mW"
    feed = f"bash -c 'while :; do {watts}; sleep 0.02; done'"
    more = ["--feed", feed, "--interval", 20, "--idle_seconds", 0.5, "--repeats", 1]
    done = throughput(*flags_for(tiny_model("llama", mode="never"), out, *more), "--max_tokens", 100)
    assert done.returncode == 0, done.stderr
    assert "idle power moved by +500 mW" in done.stderr
    found = records(out)
    assert [one["batch_size"] for one in found] == [1, 4]
    for one in found:
        assert "idle_drift" in one["flags"] and one["idle_drift_mw"] == pytest.approx(500, abs=20)
        assert 5000 < one["idle_mw"] < 5500 and one["idle_method"] == "after the model was loaded"
        assert one["joule_per_token"] == pytest.approx(one["energy_joule"] / one["completion_tokens"])


def test_a_feed_that_was_asked_for_and_fails_is_an_error(
    demo_models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "t.jsonl"
    done = throughput(*flags_for(demo_models["llama"], out, "--feed", "false"))
    assert done.returncode == 1 and "error:" in done.stderr and "--feed" in done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


def test_a_model_that_cannot_load_fails_and_the_others_go_on(
    llama_cpp,  # type: ignore[no-untyped-def]
    demo_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    bad, out = tmp_path / "bad.gguf", tmp_path / "t.jsonl"
    bad.write_bytes(demo_models["phi3"].read_bytes()[:9000])
    flags = flags_for(demo_models["llama"], out, "--source", "none", "--repeats", 1)
    flags[1:2] = [bad, demo_models["llama"]]
    done = throughput(*flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    kinds = [(one["model_id"], (one["error"] or {}).get("type")) for one in records(out)]
    assert kinds == [("bad", "model_load")] * 2 + [("tiny-llama", None)] * 2
    assert all(one["tok_per_s"] is None for one in records(out)[:2])
    assert "0 of 4" in throughput(*flags).stderr
    assert "2 of 4" in throughput(*flags, "--retry_errors").stderr
    assert "2 failed" in done.stdout


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_end_keeps_what_is_done_and_ends_every_child(
    llama_cpp,  # type: ignore[no-untyped-def]
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    ending: signal.Signals,
) -> None:
    out, log = tmp_path / "t.jsonl", tmp_path / "power.log"
    log.write_text("VDD_IN 5000mW/5000mW\n" * 50)
    more = ["--source", f"replay:{log}", "--idle_seconds", 0.5, "--repeats", 400]
    flags = flags_for(tiny_model("llama", mode="never"), out, *more)
    child = started(*flags)
    wait_for(lambda: child.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") >= 2))
    assert child.poll() is None, child.communicate()
    its_own = descendants(child.pid)
    assert its_own
    child.send_signal(ending)
    _, said = child.communicate(timeout=PATIENCE_S)
    if ending == signal.SIGINT:
        assert child.returncode == 130 and "Go on with" in said and "Traceback" not in said
    wait_for(lambda: all(map(is_gone, its_own)))
    assert all(one["error"] is None for one in records(out))


def test_a_crash_of_the_engine_costs_its_measurement(
    llama_cpp,  # type: ignore[no-untyped-def]
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "t.jsonl"
    more = ["--source", "none", "--max_tokens", 4000, "--repeats", 1]
    flags = flags_for(tiny_model("llama", mode="never"), out, *more)
    child = started(*flags)
    workers = wait_for(lambda: [pid for pid in descendants(child.pid) if is_worker(pid)])
    os.kill(workers[0], signal.SIGKILL)
    child.communicate(timeout=PATIENCE_S)
    kinds = [(one["error"] or {}).get("type") for one in records(out)]
    # Killed while loading, the model counts as one that cannot load; later, only one measurement is lost.
    assert len(kinds) == 2 and kinds[0] in ("engine_crash", "model_load") and child.returncode == 1


def is_worker(pid: int) -> bool:
    try:
        return b"edgebench.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--batch_sizes", "1,64"], ["64 prompts", "--batch_sizes"]),
        (["--n_batch", "2"], ["--n_batch"]),
        (["--levels", "L9"], ["L9"]),
        (["--models", "nowhere.gguf"], ["nowhere.gguf"]),
    ],
)
def test_flags_that_make_no_sense(tmp_path: Path, more: list[str], words: list[str]) -> None:
    out = tmp_path / "t.jsonl"
    done = throughput(*flags_for(tmp_path / "none.gguf", out, "--source", "none", *more))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not out.exists()  # refused at the start


@pytest.mark.parametrize("flag", ["--repeats", "--max_tokens", "--n-threads", "--batch_sizes"])
def test_a_number_out_of_its_range_is_a_usage_error(tmp_path: Path, flag: str) -> None:
    done = throughput(*flags_for(tmp_path / "none.gguf", tmp_path / "t.jsonl", flag, "0"))
    assert done.returncode == 2 and "usage: " in done.stderr and "at least 1" in done.stderr


def test_a_cache_that_the_model_cannot_take_is_refused_at_the_start(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "t.jsonl"
    flags = flags_for(tiny_model("llama"), out, "--source", "none", "--kv_type", "q8_0")
    done = throughput(*flags)
    assert done.returncode == 1 and "cannot take a q8_0 cache" in done.stderr, done.stderr
    assert not out.exists()


def test_another_power_mode_is_not_mixed_in(llama_cpp, demo_models: dict[str, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    flags = ["--models", str(demo_models["llama"]), "--source", "none", "--max_tokens", "4"]
    flags += ["--prompts", str(ROOT / "data/writing_prompts_hierarchical.csv"), "--repeats", "1"]
    out = tmp_path / "t.jsonl"
    flags += ["--out_jsonl", str(out)]
    assert throughput(*flags, "--batch_sizes", "1").returncode == 0
    record = json.loads(out.read_text())
    out.write_text(json.dumps(record | {"power_mode_name": "7W of another day"}) + "\n")
    before = out.read_bytes()
    done = throughput(*flags, "--batch_sizes", "1,2")
    assert done.returncode == 1 and "in power mode 7W of another day" in done.stderr, done.stderr
    assert "choose another --out_jsonl" in done.stderr and out.read_bytes() == before


def test_two_starts_on_one_output_are_refused(tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "t.jsonl"
    with out.with_name("t.jsonl.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = throughput(*flags_for(tmp_path / "none.gguf", out))
    assert done.returncode == 1 and "another start" in done.stderr


# --- The table


def made(size: int, repeat: int, rate: float, answers: str, **more: object) -> dict:
    ids = [hashlib.sha256(one.encode()).hexdigest() for one in answers]
    base = {"kind": "throughput", "model_id": "m", "quantization": "Q8_0", "flags": [], "error": None}
    base |= {"prefill_tok_per_s": 100.0, "decode_tok_per_s": rate, "joule_per_token": None}
    sequences = [{"ids_sha256": one} for one in ids]
    here = {"run_key": f"{size}-{repeat}", "batch_size": size, "tok_per_s": rate, "sequences": sequences}
    return {**base, **here, **more}


def test_the_table_has_ratio_spread_and_same_answers(tmp_path: Path) -> None:
    runs = tmp_path / "t.jsonl"
    lines = [
        made(1, 1, 10.0, "abcd"),
        made(1, 2, 12.0, "abcd"),
        made(8, 1, 33.0, "abcx", joule_per_token=0.5),
    ]
    lines.append(made(4, 1, 1.0, "abcd", error={"type": "timeout", "message": "late"}, tok_per_s=None))
    runs.write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"torn')
    keys = {str(one["run_key"]) for one in lines}
    text = table_of(runs, keys)
    assert "11.0 ± 1.4" in text and "3.00" in text and "3/4" in text and "1 failed" in text
    one, eight = rows(read_records(runs, keys)[0])
    assert (one["n"], eight["ratio"], eight["joule_per_token"], one["joule_per_token"]) == (2, 3.0, 0.5, None)


@given(sizes=st.lists(st.integers(1, 64), min_size=1, max_size=6, unique=True), repeats=st.integers(1, 7))
def test_every_size_stands_in_every_place(sizes: list[int], repeats: int) -> None:
    found = cells(sizes, repeats)
    assert sorted(found) == sorted((size, repeat) for size in sizes for repeat in range(1, repeats + 1))
    for repeat in range(repeats):
        part = found[repeat * len(sizes) : (repeat + 1) * len(sizes)]
        assert {one[1] for one in part} == {repeat + 1}
        assert part[0][0] == sizes[repeat % len(sizes)]


def test_a_mean_over_fewer_repeats_than_the_row_has_is_named() -> None:
    from edgebench.throughput.table import format_table

    def made(repeat: int, joule: float | None) -> dict:
        sequences = [{"ids_sha256": "a"}]
        known = {"model_id": "m", "quantization": None, "batch_size": 1, "sequences": sequences, "flags": []}
        return {**known, "repeat": repeat, "tok_per_s": 5.0, "joule_per_token": joule}

    text = format_table(rows([made(1, 0.5), made(2, None), made(3, -0.1)]), 0)
    assert "J/token of m batch 1: the mean of 2 of 3 repeats" in text and " 0.2 " in text
    assert "the mean of" not in format_table(rows([made(1, 0.5), made(2, -0.5)]), 0)
    assert "the mean of" not in format_table(rows([made(1, None), made(2, None)]), 0)
