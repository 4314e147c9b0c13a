"""Tables and run records -> tidy rows: units, missing columns, flags."""

import json
import logging
from pathlib import Path

import pytest

from edgebench.errors import UserError
from edgebench.forecasting.measurements import Reading, read_measurements
from edgebench.forecasting.samples import samples_of

ROOT = Path(__file__).resolve().parents[2]


def read(path: Path, **reading: object) -> list[dict]:  # type: ignore[type-arg]
    return read_measurements([path], Reading(**reading))  # type: ignore[arg-type]


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as told:
        read(path)
    return str(told.value)


def written(path: Path, rows: list[dict]) -> Path:  # type: ignore[type-arg]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        ("model,input_tokens,output_tokens,ttft_ms,decode_time_ms", "a,10,5,50,400", (50, 400, None)),
        ("model,prompt_tokens,generated_tokens,ttft_s,tpot_ms", "a,10,5,0.05,100", (50, 400, None)),
        ("model,prompt_tokens,completion_tokens,ttft_ms,latency_s", "a,10,5,50,0.45", (50, 400, 450)),
        # No unit in the names: 5 tokens at 12.5 per second take 400 ms, whatever the column says.
        (
            "model,input_tokens,output_tokens,ttft,decode_time,tokens_per_second",
            "a,10,5,0.05,0.4,12.5",
            (50, 400, None),
        ),
        (
            "model,input_tokens,output_tokens,ttft,decode_time,tokens_per_second",
            "a,10,5,50,400,12.5",
            (50, 400, None),
        ),
        (
            "subject,ttft,decode_time,total_time_ms,input_tokens,output_tokens",
            "law,0.05,0.4,450,10,5",
            (50, 400, 450),
        ),
    ],
)
def test_every_time_becomes_milliseconds(
    header: str, line: str, expected: tuple[float | None, ...], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{line}\n")
    (row,) = read(path)
    assert [row[name] for name in ("prefill_ms", "decode_ms", "total_ms")] == [
        None if value is None else pytest.approx(value) for value in expected
    ]
    assert row["decode_steps"] == 4


def test_the_jetson_table_has_no_prompt_lengths_and_says_what_is_learnt_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jetson.csv"
    path.write_text(
        "subset,inference_time,output_tokens,prefill,decode,tokens_per_second\nlaw,4.5,41,0.5,4.0,10\n"
    )
    with caplog.at_level(logging.INFO, "token2metrics"):
        (row,) = read(path)
    assert "decode is learnt against output tokens" in caplog.text
    assert "--assume-input-tokens" in caplog.text and "unknown_input_tokens" in row["flags"]
    assert row["decode_ms"] == pytest.approx(4000) and row["total_ms"] == pytest.approx(4500)
    (row,) = read(path, assume_input_tokens=120)
    assert row["decode_ms"] == pytest.approx(4000) and row["prefill_ms"] == pytest.approx(500)
    assert "assumed_input_tokens" in row["flags"] and row["subject"] == "law"


def test_a_server_workbook_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(
        ["subject", "question_id", "ttft", "decode_time", "total_time_ms", "input_tokens", "output_tokens"]
    )
    book.active.append(["law", 1, 50, 400, 450, 100, 41])
    book.save(tmp_path / "server.xlsx")
    (row,) = read(tmp_path / "server.xlsx")
    assert (row["prefill_ms"], row["decode_ms"], row["subject"]) == (50, 400, "law")


def test_a_misspelt_column_is_named_with_the_nearest_match(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("model,input_token,output_tokens,ttft_ms,decode_ms\na,1,2,3,4\n")
    said = complaint(path)
    assert "input_tokens" in said and "is it input_token?" in said


def test_power_rails_make_the_energies_where_a_sweep_has_none(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    header = "model,prompt_tokens,gen_tokens,ttft_ms,tpot_ms,pp_total_mw,dec_total_mw,dec_dram_mw"
    path.write_text(f"{header}\na,128,101,1000,10,20000,30000,3000\n")
    (row,) = read(path)
    assert row["prefill_energy_joule"] == pytest.approx(20.0)
    assert row["decode_energy_joule"] == pytest.approx(33.0)


def test_windows_shorter_than_two_samples_are_flagged(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        "model,input_tokens,output_tokens,decode_ms,decode_energy_j\na,9,5,400,9\na,9,50,4000,90\n"
    )
    short, long = read(path, sample_period_s=1)
    assert "too_short_for_sensor" in short["flags"] and not long["flags"]


def test_a_phase_shorter_than_two_samples_keeps_its_time_and_loses_its_energy(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = "model,input_tokens,output_tokens,ttft_ms,decode_ms,prefill_energy_j,decode_energy_j"
    path.write_text(f"{header}\na,9,50,60,4000,1,90\n")
    (row,) = read(path, sample_period_s=1)
    assert row["prefill_ms"] == 60 and row["prefill_energy_joule"] is None
    assert row["decode_energy_joule"] == 90 and row["flags"] == ["prefill_too_short_for_sensor"]


def test_without_a_time_the_readings_tell_which_windows_are_too_short(tmp_path: Path) -> None:
    path = tmp_path / "decode.csv"
    header = "model,input_tokens,output_tokens,avg_power_w,total_energy_j,energy_per_token"
    # Readings of an idle board around 50 ms of work; three around 1.5 s; seventeen.
    path.write_text(f"{header}\na,130,1,5.5,11,0.1\na,130,64,11.4,34.2,0.2\na,130,640,22.5,382.5,0.5\n")
    rows = read(path)
    assert [row["flags"] for row in rows] == [["too_short_for_sensor"], ["too_short_for_sensor"], []]
    assert read(written(tmp_path / "rows.jsonl", rows)) == rows


def test_a_hint_never_names_a_column_that_is_read_and_an_optional_one_gets_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jetson.csv"
    path.write_text("output_tokens,decode_ms\n41,4000\n")
    with caplog.at_level(logging.INFO, "token2metrics"):
        assert read(path)
    assert "is it output_tokens" not in caplog.text
    path.write_text("input_tokens,output_tokens,ttft_ms,decode_tim_ms\n9,41,50,4000\n")
    with caplog.at_level(logging.INFO, "token2metrics"):
        assert read(path)
    assert "decode_tim_ms is not read; if it is decode_ms" in caplog.text
    path.write_text("input_tokens,output_tokens,inference_time,prefill,decode\n9,41,4.5,0.5,4\n")
    said = complaint(path)
    assert str(path) in said and "decode_ms or decode_s" in said


def test_run_records_count_the_step_that_ended_the_text_and_skip_failures(tmp_path: Path) -> None:
    record = {
        "id": 1,
        "model_id": "m",
        "quantization": "Q6_K",
        "level": "L0",
        "prompt_tokens": 10,
        "completion_tokens": 5,
    }
    record |= {
        "latency_ms": 450,
        "ttft_ms": 50,
        "energy_joule": 2,
        "output_text": "x",
        "flags": [],
        "error": None,
    }
    lines = [{**record, "finish_reason": "stop"}, {**record, "finish_reason": "length"}]
    lines += [{**record, "error": {"type": "oom", "message": "no"}}]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{torn\n")
    rows = read(path)
    assert [row["decode_steps"] for row in rows] == [5, 4]
    assert {row["model"] for row in rows} == {"m Q6_K"} and rows[0]["decode_ms"] == 400
    assert read(written(tmp_path / "rows.jsonl", rows)) == rows  # rows pass through unchanged


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\xff"])
def test_what_is_no_table_is_an_error_and_no_traceback(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode("latin-1"))
    assert str(path) in complaint(path)


def test_a_log_of_power_readings_becomes_one_energy_per_request(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    long = [f"8B,law_in2048_out1_x,{at},{watt}" for at, watt in enumerate((5, 20, 20, 20, 9))]
    short = ["8B,law_in16_out1_y,0,5", "8B,law_in16_out1_y,1,6", "8B,law_in16_out1_y,2,"]
    path.write_text("\n".join(["Model,Subject,Elapsed_Seconds,Power_W", *long, *short]) + "\n")
    first, second = read(path)
    assert (first["input_tokens"], first["output_tokens"], first["total_energy_joule"]) == (2048, 1, 74)
    assert (first["flags"], first["power_period_s"], first["source_row"]) == ([], 1, 2)
    assert (second["total_energy_joule"], second["flags"]) == (11, ["too_short_for_sensor"])
    assert second["total_ms"] is None and second["source_row"] == 7
    path.write_text("Model,Subject,Elapsed_Seconds,Power_W\n8B,law,0,5\n8B,law,1,5\n")
    assert "Subject names no lengths" in complaint(path)


def test_answers_decoded_together_are_no_single_requests(tmp_path: Path) -> None:
    path = tmp_path / "parallel.csv"
    path.write_text("model,ps_factor,tokens,latency\na,4,100,2\n")
    said = complaint(path)
    assert "ps_factor says that answers were decoded together" in said and "Rename" not in said


def test_tables_that_name_no_board_are_said_to_be_taken_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("server.csv", "jetson.csv"):
        (tmp_path / name).write_text("model,input_tokens,output_tokens,ttft_ms\n8B,10,1,5\n8B,20,1,9\n")
    for files, said in ((["server.csv", "jetson.csv"], True), (["server.csv"], False)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "token2metrics"):
            samples_of(read_measurements([tmp_path / name for name in files]), "8B")
        assert ("jetson.csv, server.csv name no board" in caplog.text) == said
