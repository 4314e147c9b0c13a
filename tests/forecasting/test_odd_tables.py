"""Tables of other programs: units in other spellings, cells that are no numbers, and what is said of them."""

import logging
from pathlib import Path

import pytest

from companions.token2metrics import main
from edgebench.errors import UserError
from edgebench.forecasting.measurements import read_measurements
from edgebench.forecasting.plots import new_figure, save
from edgebench.forecasting.predicting import read_requests

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


# --- Requests to predict, and charts ---


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfInput tokens;Output Tokens;model\r\n100;10;m\r\n200;20;\r\n",
        "input_tokens\toutput_tokens\tmodel\n100.0\t10\tm\n200\t20\t\n".encode("utf-16"),
        b'input_tokens,output_tokens,note,model\n100,10,"two\nlines",m\n200,20,,\n',
    ],
)
def test_requests_are_read_as_measurements_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    found = read_requests(tmp_path / "r.csv")
    assert [(one["input_tokens"], one["output_tokens"]) for one in found] == [(100, 10), (200, 20)]
    assert found[0]["model"] == "m"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"input_tokens": 1, "output_tokens": 1}\n{"torn\n',
            "line 2 is no JSON object",
        ),
        (
            '{"input_tokens": 1e400, "output_tokens": 1}\n',
            "input_tokens is inf, not a number above 0",
        ),
        ('{"input_tokens": 0, "output_tokens": 1}\n', "request 1: input_tokens is 0, not a number above 0"),
        ('{"input_tokens": 5}\n', "request 1: no output_tokens"),
        ("", "holds no requests"),
    ],
)
def test_a_request_that_is_none_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(UserError, match=said):
        read_requests(tmp_path / "r.jsonl")


def test_a_chart_of_no_format_is_refused_and_a_full_disk_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name it .png, .svg or .pdf"):
        save(new_figure(1)[0], tmp_path / "a.txt")
    with pytest.raises(OSError, match="No space left"):
        save(new_figure(1)[0], Path("/dev/full"))
    assert list(tmp_path.iterdir()) == []
