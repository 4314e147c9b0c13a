"""A file may hold measurements of several settings; the table is of those that were asked for."""

import json
from pathlib import Path
from typing import Any

from edgebench.throughput.table import read_records, table_of


def made(key: str, rate: float, **more: Any) -> dict[str, Any]:
    sequences = [{"ids_sha256": "a"}]
    known = {"kind": "throughput", "model_id": "m", "quantization": None, "batch_size": 1, "flags": []}
    rates = dict.fromkeys(("tok_per_s", "prefill_tok_per_s", "decode_tok_per_s"), rate)
    return {**known, **rates, "run_key": key, "error": None, "sequences": sequences, **more}


def test_other_settings_are_in_no_mean_and_counted(tmp_path: Path) -> None:
    runs = tmp_path / "t.jsonl"
    failed = {"error": {"type": "timeout", "message": "late"}}
    lines = [made("a", 10.0), made("b", 12.0), made("other", 500.0), made("another", 500.0, **failed)]
    runs.write_text("".join(json.dumps(one) + "\n" for one in lines))
    text = table_of(runs, {"a", "b"})
    assert " 11.0 ± 1.4 " in text and "failed" not in text
    assert "2 measurements of other models or settings in this file: not in the table" in text
    assert max(map(len, text.splitlines())) <= 80
    assert [one["run_key"] for one in read_records(runs, {"a", "b"})[0]] == ["a", "b"]
    assert "other" not in table_of(runs, {one["run_key"] for one in lines})
