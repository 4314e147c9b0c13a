"""Which runs count: errors and hard flags out, superseded records, boards apart, mixtures refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from edgebench.analysis import selection
from edgebench.analysis.campaign import Request
from edgebench.analysis.selection import Measured
from edgebench.errors import UserError


def record(level: str = "L0", **changes: Any) -> dict[str, Any]:
    eight = {"id": 1, "model_id": "gemma", "level": level, "prompt_tokens": 40, "completion_tokens": 10}
    return {**eight, "latency_ms": 1000.0, "energy_joule": 5.0, "output_text": "x", **changes}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def select(
    *runs: Path, include_flagged: bool = False, allow_mixed: bool = False
) -> tuple[list[Measured], dict[str, Any]]:
    """The runs that count, model after model, and the facts."""
    request = Request([str(path) for path in runs], allow_mixed=allow_mixed)
    chosen = selection.select(request, include_flagged)
    return [run for of_model in chosen.runs for run in of_model], chosen.facts


def test_a_minimal_record_counts_under_any_name_of_its_task(tmp_path: Path) -> None:
    records = [{**record(), name: 7} for name in ("id", "question_id", "task_id")]
    for each, name in zip(records, ("id", "question_id", "task_id"), strict=True):
        if name != "id":
            del each["id"]
    rows, facts = select(write(tmp_path / "runs.jsonl", *records))
    assert [row.id for row in rows] == ["7", "7", "7"]
    assert facts["models"][0]["board"] is None and facts["models"][0]["repeats_max"] == 3


def test_errors_and_hard_flags_are_left_out_listed_and_counted(tmp_path: Path) -> None:
    runs = [
        record(),
        record("L1", error={"type": "Timeout", "message": "took too long"}, latency_ms=None),
        record("L2", flags=["warm_cache", "few_power_samples"]),
        record("L3", flags=["few_power_samples"]),
        record("P", prompt_tokens_evaluated=3),
        {"model_id": "gemma", "level": "L0"},
    ]
    path = write(tmp_path / "runs.jsonl", *runs)
    rows, facts = select(path)
    assert [row.level for row in rows] == ["L0", "L3"]
    assert {row["level"]: row["why"] for row in facts["left_out"]} == {
        "L1": "error: took too long",
        "L2": "flag: warm_cache",
        "P": "flag: prompt_not_evaluated",
    }
    counts = facts["counts"]
    assert (counts["records"], counts["used"], counts["errors"], counts["hard_flags"]) == (6, 2, 1, 2)
    assert counts["without_level_or_model"] == 1
    kept, _ = select(path, include_flagged=True)
    assert len(kept) == 5


def test_a_number_that_is_none_is_empty_never_zero(tmp_path: Path) -> None:
    odd = [float("nan"), float("inf"), -3.0, "12", True, None]
    records = [record(id=place, latency_ms=value, energy_joule=value) for place, value in enumerate(odd)]
    rows, _ = select(write(tmp_path / "runs.jsonl", *records))
    assert [row.latency_ms for row in rows] == [
        None,
        None,
        None,
        12.0,
        None,
        None,
    ]  # a number as text is read
    joules = [None, None, -3.0, 12.0, None, None]  # net energy may be negative
    assert [row.energy_joule for row in rows] == joules


def test_of_two_records_with_one_key_the_last_good_one_counts(tmp_path: Path) -> None:
    runs = [
        record(run_key="a", latency_ms=1.0, error={"message": "x"}),
        record(run_key="a", latency_ms=2.0),
        record(run_key="a", latency_ms=3.0, error={"message": "y"}),
        record(run_key="b", latency_ms=4.0),
        record(run_key="b", latency_ms=5.0),
    ]
    rows, facts = select(write(tmp_path / "runs.jsonl", *runs))
    assert [row.latency_ms for row in rows] == [2.0, 5.0]
    assert facts["counts"]["superseded"] == 3 and facts["left_out"] == []


def test_boards_become_groups_and_equal_keys_on_two_boards_are_two_runs(tmp_path: Path) -> None:
    for board in ("nano", "agx"):
        write(tmp_path / board / "runs_llamacpp.jsonl", record(run_key="a", env_id=board, power_scope=board))
        write(tmp_path / board / "runs_llamacpp.env.jsonl", {"env_id": board, "board": f"Orin {board}"})
    rows, facts = select(tmp_path / "*" / "*.jsonl")
    assert [(model["board"], model["power_scope"]) for model in facts["models"]] == [
        ("Orin agx", "agx"),
        ("Orin nano", "nano"),
    ]
    assert len(rows) == 2
    assert [row["kind"] for row in facts["inputs"]] == ["runs", "env", "runs", "env"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"power_scope": "module"}, "power scope board and module"),
        ({"quantization": "Q4_0"}, "quantization Q4_0 and Q6_K"),
        ({"env_id": "other"}, "power mode 15W and MAXN"),
    ],
)
def test_different_experiments_are_not_averaged_unless_told(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    one = record(power_scope="board", quantization="Q6_K", env_id="e")
    path = write(tmp_path / "runs.jsonl", one, {**one, "id": 2, **changes})
    envs = [
        {"env_id": name, "board": "Orin", "power_mode_name": mode}
        for name, mode in (("e", "MAXN"), ("other", "15W"))
    ]
    write(tmp_path / "runs.env.jsonl", *envs)
    with pytest.raises(UserError) as problem:
        select(path)
    assert words in str(problem.value) and "--allow_mixed" in str(problem.value)
    _, facts = select(path, allow_mixed=True)
    assert words in facts["mixed"][0]


def test_the_environment_may_hold_its_facts_under_board(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", record(env_id="e"), record(env_id="f"))
    facts = {"board": "Orin", "power_mode_name": "MAXN"}
    models = {"gemma": {"sha256": "a" * 64}}
    envs = [{"env_id": "e", "board": facts, "models": models}, {"env_id": "f", "board": facts, "models": {}}]
    write(tmp_path / "runs.env.jsonl", *envs)
    (model,) = select(path)[1]["models"]
    assert (model["board"], model["power_mode"], model["model_sha256"]) == ("Orin", "MAXN", "a" * 64)
    envs[1]["models"] = {"gemma": {"sha256": "b" * 64}}
    write(tmp_path / "runs.env.jsonl", *envs)
    with pytest.raises(UserError, match="model file aaaaaaaaaaaa and bbbbbbbbbbbb"):
        select(path)


def test_a_failed_run_under_other_conditions_mixes_nothing(tmp_path: Path) -> None:
    runs = [record(power_scope="board"), record(power_scope="module", error={"message": "x"})]
    assert len(select(write(tmp_path / "runs.jsonl", *runs))[0]) == 1


def test_gz_and_a_torn_last_line_are_read(tmp_path: Path) -> None:
    text = json.dumps(record()) + "\n" + json.dumps(record("L1"))[:30]
    (tmp_path / "runs.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    rows, facts = select(tmp_path / "runs.jsonl.gz")
    assert len(rows) == 1 and facts["counts"]["torn_lines"] == 1


def test_files_that_are_not_there_or_cut_off_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run records at"):
        select(tmp_path / "no*.jsonl")
    whole = gzip.compress(json.dumps(record()).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        select(tmp_path / "cut.jsonl.gz")


def remarks(*paths: Path) -> list[str]:
    return [row["text"] for row in select(*paths)[1]["remarks"]]


def test_numbers_as_text_are_read_and_told(tmp_path: Path) -> None:
    rows = [record(latency_ms="12.3", energy_joule=" -3e0 "), record("L1", latency_ms="40"), record("P")]
    runs, facts = select(write(tmp_path / "r.jsonl", *rows))
    assert [run.latency_ms for run in runs] == [12.3, 40.0, 1000.0] and runs[0].energy_joule == -3.0
    text = "3 numbers written as text (latency_ms, energy_joule): read as numbers"
    assert facts["remarks"] == [{"key": "numbers_as_text", "severity": "note", "text": text}]


@pytest.mark.parametrize(
    ("value", "shown", "cure"),
    [
        ("1,5", '"1,5"', "; decimals are written with a point"),
        ("ERROR", '"ERROR"', ""),
        (-1, "-1", ""),
        (True, "true", ""),
        (1e171, "1e+171", ""),  # its square is no float
        ("1e308", '"1e308"', ""),
        (["much", "too", "long", "a list"], '["much", "too", "lo…', ""),
        (10**400, "1000000000000000000…", ""),
    ],
)
def test_what_stands_in_place_of_a_number_is_missing_and_told(
    tmp_path: Path, value: Any, shown: str, cure: str
) -> None:
    path = write(tmp_path / "r.jsonl", record(latency_ms=value), record("P", latency_ms=value), record())
    assert [run.latency_ms for run in select(path)[0]] == [None, None, 1000.0]
    text = f"2 values where a number belongs, taken as missing: latency_ms ({shown}){cure}"
    assert select(path)[1]["remarks"] == [{"key": "no_numbers", "severity": "high", "text": text}]


def test_missing_and_negative_net_energy_are_no_remark(tmp_path: Path) -> None:
    rows = [record(energy_joule=-0.4, ttft_ms=None, tpot_ms=float("nan")), record("P", temp_max_c="?")]
    assert remarks(write(tmp_path / "r.jsonl", *rows)) == []


def test_superseded_records_and_a_file_given_twice_are_told(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", record(run_key="k"), record(run_key="k"), record("P"))
    two = write(tmp_path / "b.jsonl", record(run_key="k"), record(run_key="k"), record("P"))
    assert remarks(one, two) == [
        f"{two} is the same file as {one}: counted once",
        "1 record left out: the last good one of each run counts",
    ]
