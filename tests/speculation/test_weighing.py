"""Energy beside a cell: what it says when there is none, and idle power that moves while it runs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgebench.power.session import PowerSettings
from edgebench.speculation.weighing import Scale

STEADY = "sh -c 'while :; do echo VDD_IN 5000mW/5000mW; sleep 0.01; done'"


def weighed(tmp_path: Path, settings: PowerSettings, work_s: float = 0.0) -> dict[str, Any]:
    """The document of a cell of one batch that only waits."""
    document: dict[str, Any] = {"summary": {"per_mode": [{}]}, "results": [], "plain": []}
    with Scale.beside(settings, tmp_path / "power" / "cell.csv") as scale:
        scale.measure_idle()
        if work_s:
            t0_s = time.monotonic()
            time.sleep(work_s)
            outputs = [{"token_ids": [1, 2, 3]}, {"token_ids": [4]}]
            batch = {"batch_index": 0, "t0_s": t0_s, "t1_s": time.monotonic(), "outputs": outputs}
            document["results"].append(batch)
        scale.measure_idle()
        scale.complete(document)
    json.dumps(document, allow_nan=False)
    return document


def energy_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["summary"]["per_mode"][0]["energy"]
    return found


def test_without_power_the_result_says_why(tmp_path: Path) -> None:
    document = weighed(tmp_path, PowerSettings("none"))
    assert "switched off" in energy_of(document)["reason"] and document["idle"] is None
    assert "switched off" in document["summary"]["per_mode"][0]["emc"]["reason"]
    assert "none.log" in energy_of(weighed(tmp_path, PowerSettings("replay:none.log")))["reason"]


def test_idle_that_was_not_measured_is_the_reason_and_gross_energy_is_known(tmp_path: Path) -> None:
    settings = PowerSettings(feed=STEADY, idle_seconds=0, interval_ms=10)
    document = weighed(tmp_path, settings, work_s=0.5)
    energy, (batch,) = energy_of(document), document["results"]
    assert energy["energy_joule_per_request"] is None and "--idle_seconds" in energy["reason"]
    assert energy["energy_gross_joule_per_request"] == pytest.approx(
        5 * (batch["t1_s"] - batch["t0_s"]) / 2, rel=0.01
    )


def test_idle_is_measured_before_and_after_the_batches(tmp_path: Path) -> None:
    """A board that idles at 5 W before the work, and at 6 W from then on."""
    warm = tmp_path / "warm"
    watts = f"[ -e {warm} ] && echo VDD_IN 6000mW || echo VDD_IN 5000mW"
    feed = f"sh -c 'while :; do {watts}; sleep 0.01; done'"
    settings = PowerSettings(feed=feed, idle_seconds=0.5, interval_ms=10, settle_seconds=0.3)
    document: dict[str, Any] = {"summary": {"per_mode": [{}]}, "results": [], "plain": []}
    with Scale.beside(settings, tmp_path / "power" / "cell.csv") as scale:
        scale.measure_idle()
        warm.touch()
        t0_s = time.monotonic()
        time.sleep(0.5)
        outputs = [{"token_ids": [1]}]
        batch = {"batch_index": 0, "t0_s": t0_s, "t1_s": time.monotonic(), "outputs": outputs}
        document["results"].append(batch)
        scale.measure_idle()
        scale.complete(document)
    (row,) = energy_of(document)["per_batch"]
    assert "idle_drift" in row["flags"] and row["idle_drift_mw"] == pytest.approx(1000, rel=0.1)
    assert 5000 < row["idle_mw"] < 6000


def test_a_trace_of_an_interrupted_attempt_is_begun_anew(tmp_path: Path) -> None:
    trace = tmp_path / "power" / "cell.csv"
    settings = PowerSettings(feed=STEADY, idle_seconds=0.3, interval_ms=10, settle_seconds=0.1)
    first, _ = (weighed(tmp_path, settings, work_s=0.2) for _ in range(2))
    assert trace.read_text().count("power_mw") == 1  # one head line
    stamps = [float(line.split()[0]) for line in trace.with_suffix(".feed.log").read_text().splitlines()]
    assert stamps == sorted(stamps) and stamps[0] > first["results"][0]["t1_s"]
