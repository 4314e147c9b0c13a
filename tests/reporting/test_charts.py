"""The charts: valid SVG with text as text, colours a page can change, ids of their own, same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from edgebench.errors import UserError
from edgebench.reporting import charts, power_trace
from edgebench.reporting.cases import Row
from tests.fakes.made_analysis import with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


def write_trace(path: Path) -> Path:
    """60 s at 5 W, a run of 8 s at 9 W, 30 s at 5 W, a second run; ten samples a second."""
    lines = ["t_s,power_mw,rail,scope,source,temp_c"]
    for step in range(1200):
        busy = 600 <= step < 680 or 980 <= step < 1100
        lines.append(f"{100 + step / 10:.1f},{9000 if busy else 5000 + step % 7},VDD_IN,board,tegrastats,50")
        lines.append(f"{100 + step / 10:.1f},900,VDD_SOC,module,tegrastats,50")
    path.write_text("\n".join(lines) + "\n")
    return path


def draw(analysis: Row, trace: Path | None = None) -> dict[str, str]:
    shown = power_trace.read_trace(trace, [], []) if trace else None
    return {chart.name: charts.svg_text(chart) for chart in charts.charts(analysis, shown)}


def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("charts")
    hostile = GOLDEN.read_text().replace("made-demo", "<script>alert(1)</script>$x_1$")
    return draw(json.loads(hostile), write_trace(folder / "trace.csv"))


def test_every_chart_is_drawn_and_listed(drawn: dict[str, str]) -> None:
    assert set(drawn) == {
        "front",
        "energy_joule",
        "latency_ms",
        "completion_tokens",
        "split",
        "win_rates",
        "trace",
    }


def test_text_stays_text_and_names_are_escaped(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert texts, name
        assert "<script" not in svg and "http-equiv" not in svg
        if name in ("split", "win_rates"):
            assert "<script>al…cript>$x_1$" in texts  # neither a tag nor a formula


def test_colours_follow_the_page_and_ids_do_not_collide(drawn: dict[str, str]) -> None:
    ids: list[str] = []
    for svg in drawn.values():
        bare = re.findall(r"(?<!, )#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\(#[^)]*\)', "", svg))
        assert set(bare) <= {"#000000"}, (
            bare
        )  # black only where nothing is painted: clip paths, path defaults
        assert "var(--ink" in svg
        ids += re.findall(r'\bid="([^"]*)"', svg)
        used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
        assert {one or other for one, other in used} <= set(ids)
    assert len(ids) == len(set(ids))


def test_same_input_same_bytes(drawn: dict[str, str], tmp_path: Path) -> None:
    hostile = GOLDEN.read_text().replace("made-demo", "<script>alert(1)</script>$x_1$")
    assert draw(json.loads(hostile), write_trace(tmp_path / "t.csv")) == drawn


def test_without_stamps_the_trace_is_cut_to_its_first_busy_stretch(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"id": 1, "model_id": "m", "level": "L0", "latency_ms": 8000}\n')
    trace = power_trace.read_trace(write_trace(tmp_path / "trace.csv"), [tmp_path / "runs.jsonl"], [])
    assert trace.points[0][0] == pytest.approx(158.0) and trace.points[-1][0] == pytest.approx(169.9)
    assert {round(power / 1000) for _, power in trace.points} == {5, 9} and trace.edges == ()


def test_the_first_good_run_that_the_trace_covers_is_shown_with_its_edges(tmp_path: Path) -> None:
    stamps = {"first_token_s": 199.5, "t1_s": 210.0}
    run = {"id": 7, "model_id": "m", "level": "L2", "repeat": 1, "t0_s": 198.0, "error": None, **stamps}
    before = {**run, "id": 6, "t0_s": 10.0, "first_token_s": 11.0, "t1_s": 20.0}  # the trace began later
    failed = {**run, "id": 5, "error": {"type": "Timeout", "message": "x"}}
    spoilt = {**run, "id": 4, "t0_s": 160.0, "t1_s": 168.0}
    runs = tmp_path / "runs.jsonl"
    runs.write_text("".join(json.dumps(one) + "\n" for one in (before, failed, spoilt, run)))
    left_out = [{"model_id": "m", "level": "L2", "id": "4", "repeat": "1", "why": "flag: warm_cache"}]
    trace = power_trace.read_trace(write_trace(tmp_path / "trace.csv"), [runs], left_out)
    assert trace.edges == (198.0, 199.5, 210.0) and trace.run == "m, L2, task 7"
    assert trace.points[0][0] == pytest.approx(196.0) and trace.points[-1][0] == pytest.approx(212.0)
    chart = charts.trace_chart(golden(), trace)
    assert "The first token comes after 1.5 s" in chart.description and "task 7" in chart.reading
    texts = re.findall(r">([^<>]+)</text>", charts.svg_text(chart))
    assert {"prompt", "answer"} <= set(texts)


def test_a_run_in_a_gap_of_the_trace_is_not_shown(tmp_path: Path) -> None:
    points = [(t, 5000.0) for t in (*range(100), *range(200, 300))]
    run = {"id": 1, "model_id": "m", "level": "L0", "t0_s": 90.5, "first_token_s": 91.0, "t1_s": 210.5}
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n")
    assert power_trace.covered_run(points, [tmp_path / "runs.jsonl"], []) is None


def test_charts_that_the_data_do_not_allow_are_left_out() -> None:
    analysis = golden()
    analysis |= {"value": [], "win_rates": [], "cost_parts": []}
    for row in analysis["level_means"]:
        row["mean"] = None if row["metric"] == "energy_joule" else row["mean"]
    assert set(draw(analysis)) == {"latency_ms", "completion_tokens"}


@pytest.mark.parametrize("content", ["a,b\n1,2\n", None])
def test_another_file_is_a_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "x").write_text(content)
    with pytest.raises(UserError, match="--trace") as caught:
        power_trace.read_trace(tmp_path / "x", [], [])
    assert "Errno" not in str(caught.value) and str(caught.value).count(str(tmp_path / "x")) == 1


# --- any number of models, and values far from the rest


@pytest.mark.parametrize("count", [1, charts.ONE_BY_ONE, charts.ONE_BY_ONE + 1, 300])
def test_any_number_of_models_is_drawn(count: int) -> None:
    drawn = charts.charts(with_models(golden(), count), None)
    assert [chart.name for chart in drawn] == [
        *("front", "energy_joule", "latency_ms", "completion_tokens", "split", "win_rates")
    ]
    for chart in drawn:
        assert chart.height_inch < 13 and len(chart.description) < 1500 and len(chart.reading) < 600
        ElementTree.fromstring(charts.svg_text(chart))
        assert (f"{count} models" in chart.reading) == (count > charts.ONE_BY_ONE), chart.name


def test_a_model_has_the_same_colour_in_every_chart() -> None:
    analysis = with_models(golden(), 3)
    names = [charts.clean(model["model_id"]) for model in analysis["models"]]
    for table in ("win_rates", "value", "cost_parts"):
        analysis[table] = [
            row for row in analysis[table] if row["model_id"] != analysis["models"][1]["model_id"]
        ]
    for chart in charts.charts(analysis, None):
        words = chart.draw.keywords  # type: ignore[attr-defined]
        for series in words.get("lines") or words.get("series") or words["groups"]:
            assert names[series.number] == series.name, chart.name


def test_an_outlier_does_not_flatten_the_chart_and_is_said() -> None:
    analysis = with_models(golden(), 4)
    row = next(
        row for row in analysis["level_means"] if row["metric"] == "energy_joule" and row["level"] == "L3"
    )
    before = {chart.name: chart for chart in charts.charts(analysis, None)}
    values = [r["mean"] for r in analysis["level_means"] if r["metric"] == "energy_joule"]
    row |= {"mean": 50_000.0, "ci95": [49_000.0, 51_000.0]}
    after = {chart.name: chart for chart in charts.charts(analysis, None)}
    axis = after["energy_joule"].draw.keywords["axis"]  # type: ignore[attr-defined]
    assert axis.limits.high < 3 * max(values)
    assert (
        "Beyond the axis" in after["energy_joule"].reading and "L3 (50000 J)" in after["energy_joule"].reading
    )
    assert "Beyond the axis" not in before["energy_joule"].reading
    assert ">50000</text>" in charts.svg_text(after["energy_joule"])


def test_a_spike_of_the_sensor_does_not_flatten_the_trace() -> None:
    points = [(step / 10, 5000.0 + 3000 * (step > 500)) for step in range(1000)]
    points[700] = (70.0, 500_000.0)
    chart = charts.trace_chart(golden(), power_trace.Trace(points))
    assert "spike" in chart.reading and "500 W" in chart.reading
    calm = charts.trace_chart(golden(), power_trace.Trace([*points[:700], *points[701:]]))
    assert "spike" not in calm.reading
