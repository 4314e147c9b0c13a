"""The page: self-contained, escaped, readable, honest about what it was made from."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from companions import report_page as door
from edgebench.records.analysis import ADDED_LATER
from edgebench.reporting import page as report_page
from edgebench.reporting.words import in_words
from tests.fakes.made_analysis import with_models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"
HOSTILE = "=1+1<script>alert('x')</script><img src=x onerror=alert(1)>\x1b\x00"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains about tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def runs() -> list[dict[str, Any]]:
    return [
        {
            "id": 81,
            "model_id": "made-demo",
            "level": level,
            "output_text": HOSTILE + "y" * 40_000,
            "prompt_tokens": 9,
        }
        for level in ("L0", "L3", "P")
    ]


def build(folder: Path, analysis: Any = None, *options: Any) -> str:
    analysis = analysis or json.loads(GOLDEN.read_text())
    path = folder / "runs_llamacpp.jsonl"
    path.write_text("".join(json.dumps(run) + "\n" for run in runs()))
    analysis["inputs"].append(
        {"path": "runs", "kind": "runs", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    )
    (folder / "a.json").write_text(json.dumps(analysis))
    files = ("--runs", path, "--analysis", folder / "a.json", "--out", folder / "r.html", *options)
    assert door.main([str(part) for part in files]) == 0
    return (folder / "r.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("report"))


def test_the_answer_stands_first_and_every_caveat_is_there(page: str) -> None:
    analysis, text = json.loads(GOLDEN.read_text()), Page(page).text
    places = [text.index(sentence) for sentence in analysis["answer"]]
    assert places == sorted(places) and places[0] < text.index("The charts")
    for caveat in analysis["caveats"]:
        assert caveat["text"] in text
    assert "the power was simulated or replayed" in text


def test_it_needs_no_network_and_no_script(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "img", "link", "iframe", "object"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on") and name != "src"
        assert name not in ("href", "xlink:href") or value.startswith("#")
    assert "default-src 'none'" in page and "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_model_text_is_escaped_cleaned_and_shortened(page: str) -> None:
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "\x00" not in page and "\x1b" not in page
    assert "y" * 2000 not in page and "yyy …" in page


def test_headings_labels_language_and_table_heads(page: str) -> None:
    parsed = Page(page)
    levels = [int(tag[1]) for tag in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    attributes = dict(parsed.attributes)
    assert attributes["lang"] == "en" and "viewport" in {
        value for name, value in parsed.attributes if name == "name"
    }
    assert (
        page.count('<svg role="img" aria-label="')
        == parsed.tags.count("svg")
        == parsed.tags.count("figure")
        == 6
    )
    assert page.count('role="region" tabindex="0" aria-label="') == parsed.tags.count("table")
    assert '<th scope="col"' in page
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_of_text_and_series_has_contrast_in_both_schemes() -> None:
    light, dark = (report_page.HERE / "page.css").read_text().split("@media (prefers-color-scheme: dark)")[:2]
    for block in (light, dark.split("* {")[0]):
        colours = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", block))
        pairs = [(name, paper) for name in ("--ink", "--soft", "--link") for paper in ("--paper", "--panel")]
        pairs += [(f"--c{place}", "--panel") for place in range(8)] + [("--alert", "--alert-paper")]
        for ink, paper in pairs:
            bright, dim = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)


def test_runs_other_than_the_analyzed_ones_are_called_out(tmp_path: Path, page: str) -> None:
    assert "was made from" not in Page(page).text
    build(tmp_path)
    (tmp_path / "runs_llamacpp.jsonl").write_text("{}\n")
    files = (
        "--runs",
        tmp_path / "runs_llamacpp.jsonl",
        "--analysis",
        tmp_path / "a.json",
        "--out",
        tmp_path / "r.html",
    )
    assert door.main([str(part) for part in files]) == 0
    assert "is not the file this analysis was made from" in (tmp_path / "r.html").read_text()


def test_the_environment_beside_the_runs_is_shown(tmp_path: Path) -> None:
    env = {"env_id": "e1", "board": "Orin <b>Nano</b>", "clocks": {"gpu_hz": 1020000000}, "engine": None}
    (tmp_path / "runs_llamacpp.env.jsonl").write_text(json.dumps(env) + "\n")
    text = Page(build(tmp_path)).text
    assert "Orin <b>Nano</b>" in text and "clocks.gpu_hz" in text


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    text = GOLDEN.read_text().replace("made-demo", json.dumps(HOSTILE)[1:-1]).replace('"L3"', '"<i>"')
    parsed = Page(build(tmp_path, json.loads(text)))
    assert not {"script", "img", "i"} & set(parsed.tags)


def test_scores_without_runs_and_an_empty_analysis_still_make_a_page(tmp_path: Path) -> None:
    analysis = json.loads(GOLDEN.read_text())
    tables = (
        "models",
        "level_means",
        "paired",
        "cost_split",
        "cost_parts",
        "value",
        "cheapest",
        "drift",
        "variation",
    )
    analysis |= {
        table: [] for table in (*tables, "win_rates", "bradley_terry", "position_bias", "length_effect")
    }
    assert "The answer" in Page(build(tmp_path, analysis)).text


def test_same_input_same_bytes(tmp_path: Path, page: str) -> None:
    assert build(tmp_path) == page


@pytest.mark.parametrize(
    ("analysis", "needle"), [("{}", "no analysis"), ("nonsense", "is not JSON"), (None, "cannot read")]
)
def test_what_the_user_can_fix_is_a_clear_error(
    tmp_path: Path, analysis: str | None, needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if analysis:
        (tmp_path / "a.json").write_text(analysis)
    assert door.main(["--analysis", str(tmp_path / "a.json"), "--out", str(tmp_path / "r.html")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and needle in error and not (tmp_path / "r.html").exists()
    # The file is named once, in words of ours, without the interpreter's own "[Errno 2] … : '…'".
    assert error.count("a.json") == 1 and "Errno" not in error and "analyze_levels.py" in error


def test_an_analysis_of_an_earlier_version_is_still_shown(tmp_path: Path) -> None:
    """Format 1 as it was written before fields were added to it."""
    analysis = json.loads(GOLDEN.read_text())
    for table, added in ADDED_LATER.items():
        for row in analysis.get(table, ()):
            for name in added:
                row.pop(name, None)
        if not added:
            analysis.pop(table, None)
    analysis.pop("interval_methods", None)
    assert "The answer" in Page(build(tmp_path, analysis)).text


@pytest.mark.parametrize("flag", ["--runs", "--env", "--trace"])
def test_a_file_that_is_missing_is_named_once_with_its_flag(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--analysis", GOLDEN, "--out", tmp_path / "r.html", flag, tmp_path / "gone.jsonl")
    assert door.main([str(part) for part in files]) == 1
    error = capsys.readouterr().err
    assert error.count("gone.jsonl") == 1 and "No such file" in error and flag in error
    assert "Errno" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--out", "--charts", "--tables"])
def test_a_place_that_cannot_be_written_is_named_with_its_flag(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    wanted = {"--out": tmp_path / "r.html"} | {flag: tmp_path / "file" / "gone" / "x"}
    files = ("--analysis", GOLDEN, *(part for pair in wanted.items() for part in pair))
    assert door.main([str(part) for part in files]) == 1
    error = capsys.readouterr().err
    assert error.count("gone/x") == 1 and flag in error and ".part" not in error and "Errno" not in error


def test_charts_and_tables_are_written_as_files_too(tmp_path: Path) -> None:
    build(tmp_path, None, "--charts", tmp_path / "charts", "--tables", tmp_path / "tables.md")
    assert len(list((tmp_path / "charts").glob("*.svg"))) == 6
    assert (tmp_path / "tables.md").read_text(encoding="utf-8").startswith("## Levels")


# --- any number of models


@pytest.mark.parametrize("count", [1, 4, 100, pytest.param(300, marks=pytest.mark.slow)])
def test_a_page_of_any_number_of_models(tmp_path: Path, count: int) -> None:
    analysis = with_models(json.loads(GOLDEN.read_text()), count)
    (tmp_path / "a.json").write_text(json.dumps(analysis | in_words(analysis)))
    assert door.main(["--analysis", str(tmp_path / "a.json"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.tags.count("figure") == 6
    folded = page.count('<details class="long">') + page.count('<details class="huge">')
    assert folded == 0 or count > 1
    assert page.count('<details class="short" open>') + folded == parsed.tags.count("table")
    assert ("100 models" in parsed.text, "300 models" in parsed.text) == (count == 100, count == 300)
    assert page.count(" rows</span></summary>") == folded
