"""Changed records in the places of old ones: all at once, and nothing else touched."""

import json
from pathlib import Path

import pytest

from edgebench.records import jsonl


def test_only_the_last_line_of_a_changed_key_is_another(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    lines = [b'{"run_key": "a", "v":   1}', b'{"torn', b'{"run_key":"b","v":1}', b'{"run_key": "a", "v": 2}']
    path.write_bytes(b"\n".join([*lines, b"", b"[1]", b'{"v": 5}']) + b"\n")
    jsonl.replace_records(path, {"a": {"run_key": "a", "v": 3}, "gone": {"run_key": "gone"}})
    changed = json.dumps({"run_key": "a", "v": 3}).encode()
    assert path.read_bytes() == b"\n".join([*lines[:3], changed, b"", b"[1]", b'{"v": 5}']) + b"\n"
    assert [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run_key": "a"}\n')

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        jsonl.replace_records(path, {"a": {"run_key": "a", "v": 3}})
    assert path.read_bytes() == b'{"run_key": "a"}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]
