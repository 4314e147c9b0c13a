"""Verdicts on campaigns: one fault is put into a sound campaign, and exactly that fault must be named."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.checking import limits, reading, report, verdicts
from edgebench.errors import UserError
from edgebench.records.run import REQUIRED
from tests.doors import call

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "companions/check_runs.py"
LEVELS = ("L0", "L1", "L2", "L3", "P")
ENV: dict[str, Any] = {
    "schema_version": 1,
    "env_id": "e1",
    "board": {
        "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "memory_bandwidth_gb_per_s": 102.4,
        "power_mode_name": "MAXN_SUPER",
        "l4t": "36.4.3",
    },
    "engine": {"version": "0.3.36"},
    "models": {"gemma": {"read_byte_per_token": 2.14e9, "kv_byte_per_token": 106_496, "sha256": "ab"}},
}
Record = dict[str, Any]


def campaign(repeats: int = 2, tasks: int = 3) -> list[Record]:
    """A sound campaign on an Orin Nano: levels in seeded order, 25 token/s with 1 % of noise."""
    rng = random.Random(7)
    records: list[Record] = []
    for repeat in range(repeats):
        for task in range(tasks):
            for level in rng.sample(range(5), 5):
                prompt, output = 40 + 100 * level + task, 200 + level
                ttft, rate = 100 + 0.8 * prompt, 25 * rng.gauss(1, 0.01)
                latency = ttft + 1000 * (output - 1) / rate
                records.append({
                    "schema_version": 1, "run_key": f"k{len(records)}", "id": task, "model_id": "gemma",
                    "level": LEVELS[level], "repeat": repeat, "turn": 1, "env_id": "e1",
                    "started_at": f"2026-01-01T00:{len(records):02d}:00Z", "t0_s": 10.0 * len(records),
                    "prompt_tokens": prompt,
                    "prompt_tokens_evaluated": prompt, "completion_tokens": output, "finish_reason": "stop",
                    "latency_ms": latency, "ttft_ms": ttft, "decode_tok_per_s": rate,
                    "energy_joule": 0.008 * latency, "energy_gross_joule": 0.013 * latency,
                    "energy_uncertainty_joule": 0.5, "power_mw_mean": 13_000.0, "power_source": "tegrastats",
                    "power_samples": 70, "power_period_ms": 106.0, "power_max_gap_ms": 130.0,
                    "power_coverage": 0.99, "temp_start_c": 50.0 + rng.random(), "throttled": False,
                    "flags": [], "error": None, "output_text": "x",
                })  # fmt: skip
    return records


def write(folder: Path, records: list[Record], *envs: Record) -> Path:
    path = folder / "runs_llamacpp.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    if envs:
        (folder / "runs_llamacpp.env.jsonl").write_text("".join(json.dumps(env) + "\n" for env in envs))
    return path


def ask(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return call("companions/check_runs.py", "--runs", path, *arguments)


def runs_of(records: list[Record], *envs: Record) -> list[reading.Run]:
    by_id = {str(env["env_id"]): env for env in envs}
    lines = enumerate(records, 1)
    return [reading.to_run(line, record, limits.limits_of(record, by_id), line) for line, record in lines]


def judge(records: list[Record], *envs: Record) -> list[verdicts.Verdict]:
    """The verdicts without a file."""
    return verdicts.judge(reading.select(runs_of(records, *envs)))


def found(records: list[Record], *envs: Record) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Check -> severity and lines, of the errors and warnings."""
    judged = judge(records, *(envs or (ENV,)))
    return {v.check: (v.severity, v.lines) for v in judged if v.severity in ("error", "warn")}


def test_a_sound_campaign(tmp_path: Path) -> None:
    done = ask(write(tmp_path, campaign(), ENV))
    assert done.returncode == 0 and done.stderr == ""
    assert "verdicts: 0 error, 0 warn, 0 ?, 17 ok" in done.stdout
    assert "flags: none" in done.stdout and "J/token" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_eight_fields_are_enough_and_nothing_is_made_up(tmp_path: Path) -> None:
    done = ask(
        write(tmp_path, [{name: record[name] for name in REQUIRED} for record in campaign()]), "--json"
    )
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["counts"]["error"] == told["counts"]["warn"] == 0
    by_check = {verdict["check"]: verdict for verdict in told["verdicts"]}
    for check in ("cold prefill", "decode rate, upper bound", "power", "TTFT", "temperature", "output cap"):
        assert by_check[check]["severity"] == "?" and by_check[check]["message"], check
    assert by_check["failed runs"]["severity"] == by_check["prompt length"]["severity"] == "ok"


FAULTS: list[tuple[str, str, Callable[[Record], Any]]] = [
    ("failed runs", "error", lambda r: r.update(error={"type": "engine_crash", "message": "signal 11"})),
    ("cold prefill", "error", lambda r: r.update(prompt_tokens_evaluated=20)),
    ("decode rate, upper bound", "error", lambda r: r.update(decode_tok_per_s=229.0)),
    ("decode rate, lower bound", "warn", lambda r: r.update(decode_tok_per_s=2.0)),
    ("power", "warn", lambda r: r.update(power_mw_mean=300.0)),
    ("J per token", "warn", lambda r: r.update(energy_gross_joule=2.7)),
    ("energy sign", "warn", lambda r: r.update(energy_joule=-3.0)),
    ("power samples", "warn", lambda r: r.update(power_coverage=0.4)),
    ("throttling", "warn", lambda r: r.update(throttled=True)),
    ("temperature", "warn", lambda r: r.update(temp_start_c=65.0)),
    ("prompt length", "error", lambda r: r.update(prompt_tokens=99, prompt_tokens_evaluated=99)),
]


@pytest.mark.parametrize(("check", "severity", "damage"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_one_faulty_run_is_found(check: str, severity: str, damage: Callable[[Record], Any]) -> None:
    records = campaign()
    damage(records[8])
    faults = found(records)
    assert faults.pop(check)[0] == severity
    assert 9 in next(v.lines for v in judge(records, ENV) if v.check == check)
    # Half of a pair of repeats now differs, which is a true finding of its own.
    assert set(faults) <= {"repeats", "drift"}


def test_every_error_gives_exit_status_1(tmp_path: Path) -> None:
    records = campaign()
    records[8]["prompt_tokens_evaluated"] = 20
    done = ask(write(tmp_path, records, ENV))
    assert done.returncode == 1
    assert done.stdout.splitlines()[7].startswith("error  cold prefill: 1 of 30 runs")  # errors come first
    assert "[lines 9]" in done.stdout


def test_a_campaign_without_resets_is_caught() -> None:
    """Each level finds the one before in the cache: TTFT falls to what the new tokens cost."""
    records = campaign()
    for record in records:
        record["prompt_tokens_evaluated"] = None
        record["ttft_ms"] = 120.0 if record["level"] == "L0" else 90.0 + random.Random(1).random()
    severity, lines = found(records)["TTFT"]
    assert severity == "warn" and len(lines) == 30


def test_ttft_needs_different_prompts() -> None:
    same = [record for record in campaign() if record["level"] == "P"]
    assert next(v for v in judge(same, ENV) if v.check == "TTFT").severity == "?"


def test_drift_over_the_campaign() -> None:
    records = campaign(repeats=3)
    for index, record in enumerate(records):
        record["decode_tok_per_s"] *= 1 - 0.2 * index / len(records)
    assert found(records)["drift"][0] == "warn"


def test_drift_of_the_anchor_runs(tmp_path: Path) -> None:
    path = write(tmp_path, campaign(), ENV)
    anchors = [
        {"anchor_id": 0, "anchor_level": "L1", "started_at": f"2026-01-01T{hour:02d}:00:00Z",
         "model_id": "gemma", "latency_ms": 9000.0, "decode_tok_per_s": 25 - 0.6 * hour,
         "flags": [], "error": None}
        for hour in range(9)
    ]  # fmt: skip
    beside = tmp_path / "runs_llamacpp.anchors.jsonl"
    beside.write_text("".join(json.dumps(anchor) + "\n" for anchor in anchors))
    done = ask(path, "--json")
    verdict = next(v for v in json.loads(done.stdout)["verdicts"] if v["check"] == "drift of anchors")
    assert verdict["severity"] == "warn" and "+" in verdict["message"] and done.returncode == 0
    beside.write_text("".join(json.dumps({**anchor, "decode_tok_per_s": 25.0}) + "\n" for anchor in anchors))
    assert "drift of anchors: gemma: time per token +0.0 %" in ask(path).stdout


def test_the_order_is_that_of_the_clock_not_of_the_file() -> None:
    records = campaign(repeats=3)
    for index, record in enumerate(records):
        record["decode_tok_per_s"] *= 1 - 0.2 * index / len(records)
    random.Random(2).shuffle(records)
    assert found(records)["drift"][0] == "warn"


def test_a_clock_that_a_time_server_sets_back_changes_nothing() -> None:
    """started_at jumps back by a day in the middle; the drift is found, and a sound campaign stays sound."""
    for change, verdict in ((0.2, "warn"), (0.0, "ok")):
        records = campaign(repeats=3)
        for index, record in enumerate(records):
            record["decode_tok_per_s"] *= 1 - change * index / len(records)
            day = 2 if index < len(records) // 2 else 1
            record["started_at"] = f"2026-01-0{day}T00:{index:02d}:00Z"
        assert next(v for v in judge(records, ENV) if v.check == "drift").severity == verdict


def test_a_reboot_sets_the_monotonic_clock_back_and_the_order_is_that_of_the_file() -> None:
    records = campaign(repeats=3)
    for index, record in enumerate(records):
        record["decode_tok_per_s"] *= 1 - 0.2 * index / len(records)
        record["t0_s"] = 10.0 * index if index < 20 else 10.0 * (index - 20)
    assert found(records)["drift"][0] == "warn"
    assert [run.line for run in reading.select(runs_of(records))] == list(range(1, len(records) + 1))


def test_without_stamps_the_order_is_that_of_the_file() -> None:
    records = campaign(repeats=3)
    for index, record in enumerate(records):
        record["decode_tok_per_s"] *= 1 - 0.2 * index / len(records)
        del record["t0_s"], record["started_at"]
    assert found(records)["drift"][0] == "warn"


def test_the_output_cap_names_every_cell() -> None:
    """Five levels of three models: all fifteen, and not the one that was not cut."""
    records = [{**record, "model_id": model} for model in ("gemma", "llama", "qwen") for record in campaign()]
    for index, record in enumerate(records):
        spared = record["model_id"] == "llama" and record["level"] == "L3"
        record.update(finish_reason="stop" if spared else "length", run_key=f"k{index}")
    verdict = next(v for v in judge(records) if v.check == "output cap")
    assert "of gemma L0 L1 L2 L3 P; llama L0 L1 L2 P; qwen L0 L1 L2 L3 P: raise" in verdict.message
    assert verdict.message.count("--max_tokens") == 1
    assert max(map(len, report.format_verdict(verdict).splitlines())) <= 80


def test_failed_runs_are_named_by_every_kind_with_a_cure_that_can_help() -> None:
    kinds = ("timeout", "engine_crash", "not_cold", "not_a_generation", "power_lost")
    records = campaign()
    for record, kind in zip(records, kinds, strict=False):
        record["error"] = {"type": kind, "message": "why"}
    message = next(v for v in judge(records, ENV) if v.check == "failed runs").message
    assert all(f"{kind} x 1" in message for kind in kinds) and message.count("--retry_errors") == 1
    for record in records[5:]:
        record["error"] = None
    broken = [{**record, "error": {"type": "not_a_generation", "message": "why"}} for record in campaign()]
    message = next(v for v in judge(broken, ENV) if v.check == "failed runs").message
    assert "not_a_generation x 30" in message and "model file" in message and "--retry_errors" not in message


def idle(records: list[Record], *idle_mw: float, std: float = 20.0) -> list[Record]:
    """The campaign in as many blocks of equal size, each with its baseline."""
    size = -(-len(records) // len(idle_mw))
    for index, record in enumerate(records):
        record.update(idle_mw=idle_mw[index // size], idle_std_mw=std, idle_drift_mw=None)
    return records


def test_idle_power_that_moved_beside_the_records_is_named() -> None:
    """Files of before the closing baseline: +480 mW halfway gave +2.5 J a run, and every check said ok."""
    severity, lines = found(idle(campaign(), 5000, 5480))["idle power"]
    assert severity == "warn" and lines == tuple(range(1, 16))  # those before the second baseline
    for steady in ((5000, 5060), (5000,), (5000, 5001, 4999)):
        assert "idle power" not in found(idle(campaign(), *steady))
    assert "idle power" not in found(idle(campaign(), 5000, 5480, std=600))  # less than its own unrest
    two_models = [*campaign(), *({**record, "model_id": "qwen", "run_key": None} for record in campaign())]
    assert "idle power" not in found(
        idle(two_models, 5000, 5480)
    )  # another model is resident: another idle power


def test_idle_drift_that_the_collector_saw_is_told_with_its_size() -> None:
    records = idle(campaign(), 5000, 5000)
    for index, record in enumerate(records[:15]):
        record.update(idle_mw=5000 + 32 * index, idle_drift_mw=480.0, flags=["idle_drift"])
    verdict = next(v for v in judge(records, ENV) if v.check == "idle power")
    assert verdict.severity == "warn" and verdict.lines == tuple(range(1, 16))
    assert "15 of 30 runs" in verdict.message and "+480 mW" in verdict.message
    assert "--idle_every" in verdict.message


def test_texts_that_reached_the_model_as_one_prompt_are_an_error() -> None:
    """A template that drops the user's text: all levels the same 15 tokens, and the campaign looks clean."""
    records = campaign()
    for record in records:
        record.update(
            prompt_sha256=f"text of {record['id']} {record['level']}", prompt_ids_sha256="always the same"
        )
    severity, lines = found(records)["prompt text"]
    assert severity == "error" and len(lines) == 30
    for record in records:
        record["prompt_ids_sha256"] = f"ids of {record['prompt_sha256']}"
    assert "prompt text" not in found(records)


def test_a_template_that_prints_the_date_is_an_error_between_repeats() -> None:
    records = campaign()
    for record in records:
        record["prompt_ids_sha256"] = f"ids of {record['id']} {record['level']} on day {record['repeat']}"
    severity, lines = found(records)["prompt length"]
    assert severity == "error" and len(lines) == 30


@pytest.mark.parametrize(
    ("choice", "values"),
    [
        ("flash_attn", ("on", "off")),
        ("n_ctx", (512, 1024)),
        ("n_threads", (4, 6)),
        ("warnings", ([], ["missing pre-tokenizer type"])),
        ("offloaded", ("27/27", "0/27")),
    ],
)
def test_other_choices_of_the_engine_are_another_environment(choice: str, values: tuple) -> None:
    envs = [
        {**ENV, "env_id": f"e{n}", "resolved": {"gemma": {"flash_attn": "on", "n_ctx": 512, choice: value}}}
        for n, value in enumerate(values, 1)
    ]
    records = campaign()
    assert "one environment" not in found(records, *envs)
    records[-1]["env_id"] = "e2"
    verdict = next(v for v in judge(records, *envs) if v.check == "one environment")
    assert verdict.severity == "warn" and "of gemma (" in verdict.message


def test_output_cap() -> None:
    records = campaign()
    placebo = [record for record in records if record["level"] == "P"]
    placebo[0]["finish_reason"] = "length"
    assert "output cap" not in found(records)  # one of six
    placebo[1]["finish_reason"] = "length"
    assert len(found(records)["output cap"][1]) == 2
    for record in records:
        record.update(finish_reason=None, max_tokens=204)  # the length of P's answers
    assert len(found(records)["output cap"][1]) == 6


def test_a_retry_replaces_its_failure_but_a_double_is_an_error() -> None:
    records = campaign()
    failed = {**records[3], "error": {"type": "timeout"}}
    assert found([failed, *records]) == {}
    assert found([*records, records[3]])["duplicates"] == ("error", (31,))
    late_failure = found([*records[:4], *records[4:], {**records[3], "error": "oom"}])
    assert late_failure["failed runs"][0] == "error"


def test_simulated_power_is_named_and_not_judged(tmp_path: Path) -> None:
    records = campaign()
    for record in records:
        record.update(
            power_source="replay", flags=["simulated_power"], power_mw_mean=900_000.0, energy_joule=-5.0
        )
    by_check = {v.check: v for v in judge(records, ENV)}
    assert by_check["simulated power"].severity == "warn"
    for check in ("power", "J per token", "energy sign", "power samples"):
        assert by_check[check].severity == "?" and "simulated" in by_check[check].message
    done = ask(write(tmp_path, records, ENV))
    assert "~" in done.stdout and "flags: 30 simulated_power" in done.stdout


def test_mixed_power_modes_are_named() -> None:
    other = json.loads(json.dumps(ENV).replace("MAXN_SUPER", "15W").replace('"e1"', '"e2"'))
    records = campaign()
    records[-1]["env_id"] = "e2"
    verdict = next(v for v in judge(records, ENV, other) if v.check == "one environment")
    assert verdict.severity == "warn" and "power mode (15W, MAXN_SUPER)" in verdict.message


def test_repeats_that_spread() -> None:
    records = campaign()
    records[0]["latency_ms"] *= 1.4
    assert found(records)["repeats"][0] == "warn"


def test_env_option_gz_and_torn_line(tmp_path: Path) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in campaign())
    path = tmp_path / "runs.jsonl.gz"
    path.write_bytes(gzip.compress((lines + '{"id": 3, "mod').encode()))
    (tmp_path / "elsewhere.jsonl").write_text(json.dumps(ENV) + "\n")
    done = ask(path, "--env", tmp_path / "elsewhere.jsonl", "--json")
    told = json.loads(done.stdout)
    by_check = {verdict["check"]: verdict for verdict in told["verdicts"]}
    assert by_check["unreadable lines"]["lines"] == [31] and done.returncode == 0
    assert by_check["decode rate, upper bound"]["severity"] == "ok" and told["n_runs"] == 30
    # The same environment is found by itself when it has the usual name.
    shutil.copy(tmp_path / "elsewhere.jsonl", tmp_path / "runs.env.jsonl")
    again = json.loads(ask(path, "--json").stdout)
    assert again["verdicts"] == told["verdicts"]


def test_an_empty_file_has_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").touch()
    done = ask(tmp_path / "runs.jsonl", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and {v["severity"] for v in told["verdicts"]} == {"?"}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    done = ask(tmp_path / "none.jsonl")
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path}/none.jsonl: No such file")
    done = ask(write(tmp_path, campaign()), "--env", tmp_path / "none.jsonl")
    assert done.returncode == 1 and "none.jsonl" in done.stderr
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 5000)[:-20])
    done = ask(tmp_path / "r.jsonl.gz")
    assert done.returncode == 1 and "Traceback" not in done.stderr


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.floats()
    | st.text(max_size=4)
    | st.just([])
    | st.just({})
)


# How long it takes to draw examples is the machine's affair.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from([*campaign(1, 1)[0], "max_tokens"]), VALUES), max_size=12))
def test_any_record_is_survived(changes: list[Record]) -> None:
    records = [{**record, **change} for record, change in zip(campaign(), changes, strict=False)]
    for verdict in judge(records, ENV):
        json.dumps(dataclasses.asdict(verdict), allow_nan=False)
        assert report.format_verdict(verdict)


@pytest.mark.parametrize("number", [1.8e154, -1e300, 10**400, 5e-324])
@pytest.mark.parametrize("name", ["latency_ms", "prompt_tokens", "energy_joule", "completion_tokens", "t0_s"])
def test_a_number_beyond_all_measure_is_survived(name: str, number: float) -> None:
    records = campaign()
    records[1][name] = number
    assert judge(records, ENV)


def test_numbers_written_as_text_are_read_and_named(tmp_path: Path) -> None:
    names = ("latency_ms", "energy_joule", "prompt_tokens", "prompt_tokens_evaluated")
    records = [record | {name: str(record[name]) for name in names} for record in campaign()]
    found = verdicts_of(tmp_path, records)
    assert found.pop("numbers as text").severity == "warn"
    plain = verdicts_of(tmp_path, campaign())
    said, expected = ({name: one.severity for name, one in every.items()} for every in (found, plain))
    assert said == expected


def verdicts_of(tmp_path: Path, records: list[Record]) -> dict[str, verdicts.Verdict]:
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "runs.env.jsonl").write_text(json.dumps(ENV) + "\n")
    return {one.check: one for one in report.check_runs(path).verdicts}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps(campaign()), "one JSON array"),
        ("id,model_id\n1,m\n", "looks like a CSV"),
    ],
)
def test_a_file_without_a_record_is_refused_for_what_it_is(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=what):
        report.check_runs(path)


def test_records_glued_together_are_judged_like_any_and_named(tmp_path: Path) -> None:
    """A crash without a line break, or `cat` of two files, the first without one."""
    records = campaign()
    first, second, *rest = [json.dumps(record) for record in records]
    path = tmp_path / "runs.jsonl"
    (tmp_path / "runs.env.jsonl").write_text(json.dumps(ENV) + "\n")
    path.write_text("\n".join([first + second, *rest]) + "\n")
    glued = report.check_runs(path)
    named = next(one for one in glued.verdicts if one.check == "glued records")
    assert (named.severity, named.lines) == ("warn", (1,))
    path.write_text("\n".join([first, second, *rest]) + "\n")
    apart = report.check_runs(path)
    assert (glued.n_runs, glued.table) == (apart.n_runs, apart.table) and glued.n_runs == len(records)
    told = [(one.check, one.severity, one.message) for one in glued.verdicts if one is not named]
    assert told == [(one.check, one.severity, one.message) for one in apart.verdicts]


def test_a_run_that_stands_twice_in_one_line_is_a_double(tmp_path: Path) -> None:
    record = json.dumps(campaign()[0])
    path = tmp_path / "runs.jsonl"
    path.write_text(record + record + "\n")
    doubles = next(one for one in report.check_runs(path).verdicts if one.check == "duplicates")
    assert (doubles.severity, doubles.lines) == ("error", (1,))
