"""The tables: every number as the analysis has it, missing as a dash, nothing that breaks Markdown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgebench.reporting import tables as tabulate

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "analysis.json"


@pytest.fixture
def analysis() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


def test_the_level_table_shows_the_means(analysis: dict[str, Any]) -> None:
    (table,) = tabulate.level_tables(analysis)
    row = next(row for row in table["rows"] if row[1] == "L3")
    mean = next(r for r in analysis["level_means"] if (r["metric"], r["level"]) == ("energy_joule", "L3"))
    win = next(r for r in analysis["win_rates"] if (r["level"], r["against"]) == ("L3", "L0"))
    assert row[table["heads"].index("Energy J (simulated)")] == f"{mean['mean']:#.3g}"
    assert row[table["heads"].index("Win rate against L0")] == f"{100 * win['win_rate']:.0f} %"


def test_every_table_is_rectangular_and_of_known_sections(analysis: dict[str, Any]) -> None:
    tables = tabulate.tables_of(analysis)
    assert len(tables) >= 12 and len({table["caption"] for table in tables}) == len(tables)
    for table in tables:
        assert all(len(row) == len(table["heads"]) for row in table["rows"])
        assert all(isinstance(cell, str) and cell != "None" for row in table["rows"] for cell in row)


def test_missing_is_a_dash_never_zero(analysis: dict[str, Any]) -> None:
    for row in analysis["level_means"]:
        if row["metric"] == "energy_joule":
            row |= {"mean": None, "ci95": None, "std_within": None, "reason": "no power source"}
    (table,) = tabulate.level_tables(analysis)
    place = table["heads"].index("Energy J (simulated)")
    assert {row[place] for row in table["rows"]} == {"–"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.04215, "0.0421"),
        (9.996, "10.0"),
        (99.96, "100"),
        (123456.0, "123456"),
        (-7.25, "−7.25"),
        (1e-9, "1.0e−09"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert tabulate.num(value) == text


def test_markdown_survives_hostile_names(analysis: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(analysis).replace("made-demo", "a|b\\nc"))
    lines = tabulate.markdown(tabulate.tables_of(hostile)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows and all(line.endswith("|") for line in rows)
    counts = {line.replace(r"\|", "").count("|") for line in rows if r"a\|b c" in line}
    assert counts and None not in counts


def test_it_prints_markdown_and_json_without_packages() -> None:
    command = [sys.executable, "-S", str(ROOT / "edgebench/reporting/tables.py"), "--analysis", str(GOLDEN)]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert text.startswith("## Levels") and "| Model | Level |" in text
    tables = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert tables[0]["section"] == "Levels"


def test_another_file_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"level_means": []}')
    assert tabulate.main(["--analysis", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
