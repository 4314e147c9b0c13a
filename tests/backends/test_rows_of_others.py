"""Rows that another program wrote, or an editor: a value of the wrong kind is missing, and told."""

import json
from pathlib import Path
from typing import Any

import pytest

from companions.compare_backends import main
from edgebench.backends.reading import NUMBERS, TEXTS, readable

ROW: dict[str, Any] = {
    "engine": "llama-bench", "backend": "llama.cpp", "device": "CUDA", "model": "m", "quantization": "Q8_0",
    "test": "generate", "status": "ok", "prompt_tokens": 25, "generated_tokens": 10, "n": 1, "round": 1,
    "prefill_tok_per_s": 100.0, "decode_tok_per_s": 25.5, "ttft_ms": 250.0, "tpot_ms": 39.2, "load_ms": 10.0,
    "notes": [], "flash_attn": "auto", "phase": "run", "run_key": "a", "weights": "Q8_0",
}  # fmt: skip


def table_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], *rows: dict[str, Any]) -> tuple[str, str]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["table", str(file), "--allow_differing_conditions"]) == 0
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), [], {}, -1, 0, True, 10**400])
def test_no_value_of_any_field_ends_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    rows = [
        ROW | {name: value, "run_key": name} for name in (*ROW, "cause", "settings", "conditions", "warmup")
    ]
    out, _ = table_of(tmp_path, capsys, *rows, {})
    assert "nan" not in out.split() and "inf" not in out.split()


def test_what_is_taken_as_missing_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ROW | {"decode_tok_per_s": float("nan"), "ttft_ms": "soon", "prefill_tok_per_s": "101.5"}
    out, err = table_of(tmp_path, capsys, ROW | {"engine": "other", "run_key": "b"}, odd)
    assert "rows.jsonl:2: no value of its kind in decode_tok_per_s, ttft_ms; taken as missing" in err
    assert "101.5" in out  # a number that was written as text is one


def test_a_good_row_is_as_it_was() -> None:
    assert readable(ROW) == (ROW, [])
    assert not {*NUMBERS} & {*TEXTS}
