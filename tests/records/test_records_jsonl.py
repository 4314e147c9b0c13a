"""Reading what power cuts, editors and crashes leave; writing whole or not at all; one writer at a time."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.records import jsonl

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTE = 4096  # of a file, in the tests of a full disk


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()), max_size=5)
)
def test_records_of_any_text_come_back(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "runs.jsonl"
    path.touch()
    for record in records:
        jsonl.append_jsonl(path, record)
    assert list(jsonl.read_jsonl(path)) == list(enumerate(records, 1))
    assert jsonl.records_in(path) == records


def test_what_editors_and_power_cuts_leave_is_read_around(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"line separator": "\xe2\x80\xa8"}\n[1]\nnonsense\n'
        b'{"bytes": "\xff"}\n' + b"[" * 100_000 + b'\n{"b": 2}\n{"torn": '
    )
    read = list(jsonl.read_jsonl(path))
    good = {1: {"a": 1}, 4: {"line separator": "\u2028"}, 9: {"b": 2}}
    assert read == [(number, good.get(number)) for number in (1, 4, 5, 6, 7, 8, 9, 10)]


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        (b'{"id": 1, "a": {"id": 9}}{"id": 2}', [1, 2]),
        (b'\xef\xbb\xbf {"id": 1}  {"id": 2} {"other": 3}', [1, 2, None]),
        (b'{"id": 1, "text": "torn in a te{"id": 2}', [2]),
        (b'{"id": 1, "a": {"b": 2}, {"id": 2}', [2]),
        (b'{"id": 1, "text": "\xc3{"id": 2, "text": "\xc3\xa4"}{"id": 3}', [2, 3]),
        (b'{"id": 1, "board": {"id": 2}{"id": 3, "x": 1}{"id": 4', [2, 3]),  # a nested 2 cannot be told apart
        (b'{"i{"id": 2}', [2]),
        (b'{"id": 1}{"id": 2, "te', [1]),
        (b'{"id": 1, "te', []),
        (b'{"id": 1, "board": {"temp": 2}', []),
        (b'{"id": 1},', []),  # a record a line in an array: its first line cannot be read
        (b'{"id": 1}, {"id": 2}', []),
        (b'[{"id": 1}{"id": 2}', []),
        (b'{"id": 1}{"text": "\xff"}', [1]),
        (b"{" * 100_000, []),
    ],
)
def test_records_glued_together_are_read_one_by_one(tmp_path: Path, line: bytes, ids: list[Any]) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"id": 0}\n' + line + b'\n{"id": 5}\n')
    glued: list[int] = []
    read = list(jsonl.read_jsonl(path, glued))
    assert [number for number, _ in read] == [1, *[2] * max(1, len(ids)), 3]
    assert [record and record.get("id") for _, record in read[1:-1]] == (ids or [None])
    assert glued == ([2] if ids else [])
    assert (jsonl.first_unreadable(path) is None) is bool(ids)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.lists(st.text()), max_size=3), min_size=2, max_size=4),
    st.integers(0, 200),
)
def test_of_a_torn_line_and_those_glued_to_it_no_whole_one_is_lost(
    tmp_path_factory: pytest.TempPathFactory, contents: list[Any], cut: int
) -> None:
    records: list[Any] = [{"run_key": str(place)} | content for place, content in enumerate(contents)]
    torn, *whole = [json.dumps(record).encode() for record in records]
    path = tmp_path_factory.mktemp("glued") / "runs.jsonl"
    path.write_bytes(torn[: 1 + cut % len(torn)].rstrip(b"}") + b"".join(whole) + b"\n")
    assert jsonl.records_in(path)[-len(whole) :] == records[1:]


@pytest.mark.parametrize(
    ("last", "kept", "torn"),
    [
        (b'{"a": 1}{"a": 2}', b'{"a": 1}{"a": 2}\n', False),
        (b'{"a": 1}{"a": ', b'{"a": 1}\n', True),
        (b'{"a": "x{"a": 2}', b'{"a": "x{"a": 2}\n', False),
    ],
)
def test_a_torn_tail_takes_no_whole_record_with_it(
    tmp_path: Path, last: bytes, kept: bytes, torn: bool
) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"a": 0}\n' + last)
    assert jsonl.heal_tail(path) is torn
    assert path.read_bytes() == b'{"a": 0}\n' + kept


def test_a_changed_record_that_was_glued_to_others_gets_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run_key": "z", "n": 0}{"run_key": "y"}\n{"run_key": "a", "n": 1}{"run_key": "b"}\n')
    jsonl.replace_records(path, {"a": {"run_key": "a", "n": 3}})
    expected = b'{"run_key": "z", "n": 0}{"run_key": "y"}\n{"run_key": "a", "n": 3}\n{"run_key": "b"}\n'
    assert path.read_bytes() == expected


def test_a_packed_file_is_read_and_a_cut_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl.gz"
    packed = gzip.compress(b'{"a": 1}\n' * 1000)
    path.write_bytes(packed)
    assert len(jsonl.records_in(path)) == 1000
    for broken in (packed[:-20], b"no gzip", packed[:20] + b"\xff\xff" + packed[22:]):
        path.write_bytes(broken)
        with pytest.raises(jsonl.UNREADABLE) as caught:
            jsonl.records_in(path)
        assert jsonl.reason_of(caught.value)
    with pytest.raises(jsonl.UNREADABLE) as caught:
        jsonl.records_in(tmp_path / "absent.jsonl")
    assert jsonl.reason_of(caught.value) == "No such file or directory"


def test_the_last_record_of_each_key_counts() -> None:
    records = [{"run_key": key, "n": n} for n, key in enumerate("abacb")]
    last = jsonl.last_of_each(records, lambda record: record["run_key"])
    assert [(record["run_key"], record["n"]) for record in last] == [("a", 2), ("b", 4), ("c", 3)]


def test_hashes_are_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(3 * jsonl.HASHED_AT_ONCE_BYTE + 7))
    told = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True).stdout.split()[0]
    assert jsonl.sha256_of(path) == told == jsonl.sha256_of(path.read_bytes())
    assert jsonl.sha256_of("ä") == jsonl.sha256_of("ä".encode()) and len(jsonl.sha256_of("\ud800")) == 64


@pytest.mark.parametrize("tail", [b"", b'{"torn": 1', b"\xff" * (3 << 20), b"\n"])
@pytest.mark.parametrize("head", [b"", b'{"a": 1}\n'])
def test_a_half_line_is_cut_off_and_nothing_else(tmp_path: Path, head: bytes, tail: bytes) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(head + tail)
    torn = bool(tail) and not tail.endswith(b"\n")
    assert jsonl.heal_tail(path) is torn
    assert path.read_bytes() == head + (b"" if torn else tail)
    assert not jsonl.heal_tail(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("last", [b'{"a": 2}', b'{"a": "\xc3\xa4"}', b'{"a": "' + b"x" * (3 << 20) + b'"}'])
def test_a_record_that_only_lacks_its_line_break_is_kept(tmp_path: Path, last: bytes) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"a": 1}\n' + last)
    assert not jsonl.heal_tail(path)
    assert path.read_bytes() == b'{"a": 1}\n' + last + b"\n"


def test_changed_records_take_the_places_of_the_old_ones(tmp_path: Path) -> None:
    """The last line of a key is the one that counts; torn and foreign lines stay byte for byte."""
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run_key": "a", "n": 1}\nno json\n{"run_key": "b"}\n\n{"run_key": "a", "n": 2}\n')
    jsonl.replace_records(path, {"a": {"run_key": "a", "n": 3}, "absent": {"run_key": "absent"}})
    expected = b'{"run_key": "a", "n": 1}\nno json\n{"run_key": "b"}\n\n{"run_key": "a", "n": 3}\n'
    assert path.read_bytes() == expected
    assert [one.name for one in tmp_path.iterdir()] == ["runs.jsonl"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond LIMIT_BYTE; a write that reaches it is cut short there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal that would come with it
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_records_and_leaves_no_part(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"run_key": "a"}\n')
    before = path.read_bytes()
    with pytest.raises(OSError, match="File too large"):
        jsonl.replace_records(path, {"a": {"run_key": "a", "text": "x" * 2 * LIMIT_BYTE}})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["runs.jsonl"]


@pytest.mark.parametrize("before_byte", [0, 100, LIMIT_BYTE - 10])
def test_a_full_disk_leaves_no_half_line(tmp_path: Path, full_disk: None, before_byte: int) -> None:
    path = tmp_path / "runs.jsonl"
    whole = b'{"a": 1}\n' * (before_byte // 9)
    path.write_bytes(whole)
    with pytest.raises(OSError):
        jsonl.append_jsonl(path, {"text": "x" * LIMIT_BYTE})
    assert path.read_bytes() == whole
    if before_byte < LIMIT_BYTE // 2:
        jsonl.append_jsonl(path, {"small": 1})
        assert jsonl.records_in(path)[-1] == {"small": 1}


@pytest.mark.parametrize("content", ["x" * 3 * LIMIT_BYTE, b"\0" * 3 * LIMIT_BYTE])
def test_a_full_disk_leaves_the_file_of_before_and_nothing_else(
    tmp_path: Path, full_disk: None, content: str | bytes
) -> None:
    path = tmp_path / "report.html"
    path.write_text("of before")
    with pytest.raises(OSError):
        jsonl.write_whole(path, content)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"] and path.read_text() == "of before"


def test_an_error_while_writing_leaves_the_file_of_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    path.write_text("of before")
    with pytest.raises(KeyboardInterrupt), jsonl.writing_whole(path) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == ["book.xlsx"] and path.read_text() == "of before"
    with pytest.raises(FileNotFoundError):
        jsonl.write_whole(tmp_path / "no folder" / "a.txt", "text")


def test_an_output_makes_its_folder_and_names_its_flag_where_it_cannot(tmp_path: Path) -> None:
    jsonl.write_output(tmp_path / "new" / "folder" / "a.txt", "text", "--out")
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "text"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: .*; choose another --out$"):
        jsonl.write_output(tmp_path / "file" / "a.txt", "text", "--out")


def test_a_file_behind_a_link_is_written_where_it_is(tmp_path: Path) -> None:
    # Results often lie on a larger disk, and not for everyone to read.
    real, link = tmp_path / "disk" / "runs.jsonl", tmp_path / "runs.jsonl"
    real.parent.mkdir()
    real.write_text('{"run_key": "a", "v": 1}\n')
    real.chmod(0o640)
    link.symlink_to(real)
    jsonl.replace_records(link, {"a": {"run_key": "a", "v": 2}})
    assert link.is_symlink()
    assert real.read_text() == '{"run_key": "a", "v": 2}\n'
    assert real.stat().st_mode & 0o777 == 0o640
    jsonl.write_whole(link, "x")
    assert link.is_symlink()
    assert real.read_text() == "x"


def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # stands for /dev/stdout and /dev/null, which root could replace
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    jsonl.write_whole(pipe, "one")
    assert os.read(reader, 10) == b"one"
    os.close(reader)
    assert pipe.is_fifo() and [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_file_is_written_whole_with_its_own_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    jsonl.write_whole(path, "one\r\ntwo\nä")
    assert path.read_bytes() == "one\r\ntwo\nä".encode()
    jsonl.write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"


HOLDER = """
import sys
from pathlib import Path
from edgebench.records.jsonl import exclusive
with exclusive(Path(sys.argv[1])):
    print("holds it", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_and_comes_in_when_the_first_is_gone_however(tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "runs.jsonl"
    command = [sys.executable, "-c", HOLDER, str(out)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None and holder.stdout.readline() == b"holds it\n"
    with (
        pytest.raises(UserError) as caught,
        jsonl.exclusive(out, "another collector is writing it", "choose another --out"),
    ):
        pass
    assert str(caught.value) == f"cannot write {out}: another collector is writing it; choose another --out"
    assert caught.value.exit_code == 1
    holder.kill()
    holder.communicate()
    with jsonl.exclusive(out):
        jsonl.append_jsonl(out, {"a": 1})
    with jsonl.exclusive(out):
        assert jsonl.records_in(out) == [{"a": 1}]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cure = "choose another --out_jsonl"
    with (
        pytest.raises(UserError, match=r"cannot write .*: (Not a directory|File exists); choose"),
        jsonl.exclusive(tmp_path / "file" / "runs.jsonl", cure=cure),
    ):
        pass


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        jsonl.append_jsonl(tmp_path / "runs.jsonl", {"energy_joule": float("nan")})
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'[{"id": 1},\n {"id": 2}]', "one JSON array"),
        (b'\xef\xbb\xbf[\n{"id": 1}]', "one JSON array"),
        (b'{\n "id": 1\n}\n{\n "id": 2\n}\n', "over several lines each"),
        (b'{"name": "no run"}\n', "of something else"),
        (b"id,model_id\n1,m\n", "looks like a CSV"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b"<html>", "HTML"),
        (b" \n\n", "is empty"),
        (b"free text", "is not JSON lines"),
    ],
)
def test_a_file_without_a_record_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(content)
    assert what in jsonl.what_it_is(path)
    packed = tmp_path / "runs.jsonl.gz"
    packed.write_bytes(gzip.compress(content))
    assert what in jsonl.what_it_is(packed)
