"""The charts: valid SVG with text as text, colours a page can change, ids of their own, same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from companions import draw_charts

ROOT = Path(__file__).resolve().parents[1]
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


def draw(folder: Path, analysis: Any, *options: Any) -> dict[str, str]:
    (folder / "a.json").write_text(json.dumps(analysis))
    files = ("--analysis", folder / "a.json", "--outdir", folder / "charts", *options)
    assert draw_charts.main([str(part) for part in files]) == 0
    return {path.stem: path.read_text() for path in sorted((folder / "charts").glob("*.svg"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("charts")
    hostile = GOLDEN.read_text().replace("made-demo", "<script>alert(1)</script>$x_1$")
    return draw(folder, json.loads(hostile), "--trace", write_trace(folder / "trace.csv"))


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
            assert any(text.startswith("<script>alert(1)") for text in texts)


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
    assert draw(tmp_path, json.loads(hostile), "--trace", write_trace(tmp_path / "t.csv")) == drawn


def test_the_trace_is_cut_to_its_first_run(tmp_path: Path) -> None:
    points = draw_charts.read_trace(write_trace(tmp_path / "trace.csv"))
    assert points[0][0] == pytest.approx(158.0) and points[-1][0] == pytest.approx(169.9)
    assert {round(power / 1000) for _, power in points} == {5, 9}


def test_charts_that_the_data_do_not_allow_are_left_out(tmp_path: Path) -> None:
    analysis = json.loads(GOLDEN.read_text())
    analysis |= {"value": [], "win_rates": [], "cost_parts": []}
    for row in analysis["level_means"]:
        row["mean"] = None if row["metric"] == "energy_joule" else row["mean"]
    assert set(draw(tmp_path, analysis)) == {"latency_ms", "completion_tokens"}


@pytest.mark.parametrize(("name", "content"), [("--trace", "a,b\n1,2\n"), ("--analysis", "{}")])
def test_another_file_is_a_clear_error(
    tmp_path: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text(content)
    files = {"--analysis": GOLDEN, "--outdir": tmp_path / "charts"} | {name: tmp_path / "x"}
    assert draw_charts.main([str(part) for pair in files.items() for part in pair]) == 1
    assert capsys.readouterr().err.startswith("error: ")
