"""Tables of other programs: units in other spellings, cells that are no numbers, and what is said of them."""

import logging
from pathlib import Path

import pytest

from companions.token2metrics import main
from edgebench.forecasting.measurements import read_measurements

LENGTHS = [(100, 10), (200, 20), (400, 10), (100, 40)]


def a_table(path: Path, head: str, *more: str) -> Path:
    lines = [f"{i},{o},{i / 1000},{(i + 20 * o) / 1000},{i / 10}" for i, o in LENGTHS]
    path.write_text("\n".join([head, *lines, *more]) + "\n")
    return path


@pytest.mark.parametrize(
    "head",
    [
        "input_tokens,output_tokens,prefill_time_s,total_s,energy_j",
        "Prompt tokens,Output tokens,TTFT (s),Latency (s),Energy (J)",
        "n_prompt,n_gen,prefill_s,total_latency_s,Total Energy [J]",
    ],
)
def test_units_in_other_spellings_are_read(tmp_path: Path, head: str) -> None:
    rows = read_measurements([a_table(tmp_path / "t.csv", head)])
    assert [(row["prefill_ms"], row["total_ms"], row["total_energy_joule"]) for row in rows] == [
        (pytest.approx(i), pytest.approx(i + 20 * o), pytest.approx(i / 10)) for i, o in LENGTHS
    ]


def test_cells_that_are_no_numbers_are_counted_and_blanks_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["100,10,inf,0.3,1e300", "100,10,soon,0.3,", "100,10,NaN,0.3,n/a", "x,10,0.1,0.3,5"]
    head = "input_tokens,output_tokens,prefill_s,total_s,energy_j"
    with caplog.at_level(logging.INFO, "token2metrics"):
        rows = read_measurements([a_table(tmp_path / "t.csv", head, *more)])
    said = caplog.text
    assert "left out 2 of 8 values of prefill_ms: no number, 'inf' for one" in said
    assert "left out 1 of 8 values of total_energy_joule: no number, '1e300' for one" in said
    assert "left out 1 of 8 values of input_tokens: no number, 'x' for one" in said
    assert [row["prefill_ms"] for row in rows[4:]] == [None, None, None]


def test_a_place_that_is_a_file_is_told_without_a_number_of_the_system(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = a_table(tmp_path / "t.csv", "input_tokens,output_tokens,prefill_s,total_s,energy_j")
    assert main(["train", "--all-models", "--data", str(table), "--output", str(table)]) == 1
    err = capsys.readouterr().err
    assert "Not a directory" in err and "Errno" not in err


def test_the_lines_of_a_training_fit_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = a_table(tmp_path / "t.csv", "input_tokens,output_tokens,prefill_s,total_s,energy_j")
    main(["train", "--all-models", "--data", str(table), "--output", str(tmp_path / "o")])
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) not in line]
    assert lines and max(map(len, lines)) <= 80
