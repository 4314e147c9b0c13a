"""The run record of any age, and the one rule which runs count."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

import pytest

from edgebench.records import run
from edgebench.records.run import HARD_FLAGS, REQUIRED, RunRecord

MINIMAL: dict[str, Any] = {
    "id": 81,
    "model_id": "gemma-2-2b-it",
    "level": "L0",
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "latency_ms": 560.0,
    "energy_joule": 2.7,
    "output_text": "An answer.",
}


def test_a_record_with_the_eight_required_names_is_read() -> None:
    assert MINIMAL.keys() == set(REQUIRED)
    record = run.run_from_dict(MINIMAL)
    assert {name: getattr(record, name) for name in MINIMAL} == MINIMAL
    assert (record.turn, record.repeat, record.flags, record.error) == (1, 1, [], None)
    assert run.counts(MINIMAL)


@pytest.mark.parametrize("name", run.IDENTITY)
def test_the_task_stands_under_any_of_its_names(name: str) -> None:
    record = {key: value for key, value in MINIMAL.items() if key != "id"} | {name: "q7"}
    assert run.task_of(record) == run.run_from_dict(record).id == "q7"


@pytest.mark.parametrize("value", [81, "81", 81.0, " 81 ", "81.0", "81.00"])
@pytest.mark.parametrize("name", run.IDENTITY)
def test_a_task_is_one_however_its_number_is_written(name: str, value: Any) -> None:
    assert run.task_of({name: value}) == 81 and run.run_from_dict({name: value}).id == 81


@pytest.mark.parametrize("value", [None, "", " ", float("nan")])
def test_what_names_no_task_leaves_the_word_to_the_next_name(value: Any) -> None:
    assert run.task_of({"id": value, "question_id": "q7"}) == "q7" and run.task_of({"id": value}) is None


@pytest.mark.parametrize("value", ["081", "8.5", 8.5, "1e3", "q81", "８１", True])
def test_other_names_stay_as_they_are(value: Any) -> None:
    assert run.task_of({"id": value}) == str(value)


def test_a_record_comes_back_from_its_line_and_unknown_fields_are_ignored() -> None:
    record = RunRecord(id=3, flags=["truncated_output"], board_start={"temp_c": 41.0}, energy_joule=-0.1)
    line = json.loads(json.dumps(asdict(record)))
    assert run.run_from_dict(line | {"a_field_of_next_year": 1}) == record


@pytest.mark.parametrize("flag", sorted(HARD_FLAGS))
def test_a_hard_flag_leaves_a_run_out_with_its_name(flag: str) -> None:
    assert run.why_left_out(None, ["few_power_samples", flag]) == f"flag: {flag}"
    assert not run.counts(MINIMAL | {"flags": [flag]}) and not run.counts(MINIMAL | {"flags": flag})
    assert run.HARD_FLAG_MEANINGS[flag]


def test_what_follows_from_other_fields_counts_as_a_flag() -> None:
    assert run.all_flags_of(MINIMAL | {"power_source": "replay"}) == ["simulated_power"]
    assert run.all_flags_of(MINIMAL | {"prompt_tokens_evaluated": 11}) == ["prompt_not_evaluated"]
    assert not run.counts(MINIMAL | {"prompt_tokens_evaluated": 11})
    assert run.counts(MINIMAL | {"prompt_tokens_evaluated": 12, "flags": ["truncated_output"]})


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ({"type": "timeout", "message": "no answer within 900 s"}, "error: no answer within 900 s"),
        ({"type": "timeout"}, "error: timeout"),
        ({"other": 1}, "error: unnamed"),
        ("an old file's text", "error: an old file's text"),
    ],
)
def test_an_error_leaves_a_run_out_with_its_words(error: Any, why: str) -> None:
    assert run.why_left_out(error, []) == why and not run.counts(MINIMAL | {"error": error})


@pytest.mark.parametrize("seed", range(5))
def test_time_into_the_campaign_goes_on_over_a_reboot_and_is_read_from_a_sorted_file(seed: int) -> None:
    steady = [100.0 + 10 * n for n in range(30)]
    latencies = [8000.0] * 30
    assert run.campaign_seconds(steady, latencies) == [10.0 * n for n in range(30)]
    for first_s in (3.0, 60.0, 105.0, 250.0):  # the second boot's stamps beside, among and beyond the first's
        rebooted = steady[:20] + [first_s + 10 * n for n in range(10)]
        gone = run.campaign_seconds(rebooted, latencies)
        assert gone[:20] == [10.0 * n for n in range(20)] and gone[20:] == [190.0 + 10 * n for n in range(10)]
    for order in (sorted(range(30), key=lambda n: (n % 5, n)), random.Random(seed).sample(range(30), 30)):
        by_level = [steady[n] for n in order]
        assert run.campaign_seconds(by_level, latencies) == [stamp - 100.0 for stamp in by_level]
    assert run.campaign_seconds([None, 5.0, None], [1.0] * 3) == [None, 0.0, None]
    assert run.campaign_seconds([], []) == []
