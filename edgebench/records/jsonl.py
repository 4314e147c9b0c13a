"""JSON Lines and whole files: the one reader, the one writer, and the lock that keeps a second writer away.

A line is written whole and fsynced, or not at all: whoever pulls the plug loses the run under way and no
other. A reader takes what a power cut, a crash or an editor left: a torn line is given as None, with its
number, and records glued together in one line (a line break was lost) are given one by one.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, TypeVar

from edgebench.errors import UserError

try:
    import fcntl
except ImportError:  # Windows; the judge runs there, without a lock
    fcntl = None  # type: ignore[assignment]

Json = Mapping[str, Any]
Found = TypeVar("Found", bound=Json)
# What reading a file raises where it cannot be read or, as .gz, is cut short or damaged.
UNREADABLE = (OSError, EOFError, zlib.error)
FIRST_NAME = re.compile(r'\{\s*"[^"\\]*"\s*:')  # how a record begins
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HASHED_AT_ONCE_BYTE = 1 << 20


# --- Reading ---


def read_jsonl(path: Path, glued: list[int] | None = None) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too.

    A line of records glued together gives each whole one, and its number goes into `glued` (glued_remark).
    Raises one of UNREADABLE.
    """
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(BYTE_ORDER_MARK + b" \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                parts, _ = glued_objects(line)
                if not parts:
                    yield number, None
                elif glued is not None:
                    glued.append(number)
                yield from ((number, part) for part in parts)
            else:
                yield number, record if isinstance(record, dict) else None


def glued_objects(line: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole objects of a line that holds one after another, and how many of its bytes end the last one.

    After half an object the next one is found by its beginning: all records of a file begin with the same
    name. Nothing where something else stands between them, as in an array with a record a line.

    >>> glued_objects(b'{"id": 1}{"id": 2}')
    ([{'id': 1}, {'id': 2}], 18)
    >>> glued_objects(b'{"id": 1, "text": "no e{"id": 2}'), glued_objects(b'{"id": 1},')
    (([{'id': 2}], 32), ([], 0))
    """
    mark = len(BYTE_ORDER_MARK) if line.startswith(BYTE_ORDER_MARK) else 0
    text = line[mark:].decode("utf-8", "surrogateescape").rstrip()
    start = len(text) - len(text.lstrip())
    beginning = FIRST_NAME.match(text, start)
    if beginning is None and text[start : start + 1] == "{":  # torn within its first name
        beginning = FIRST_NAME.search(text, start + 1)
        start = beginning.start() if beginning is not None else start
    found: list[dict[str, Any]] = []
    end = 0
    while beginning is not None and text[start : start + 1] == "{":
        try:
            record, end_of_it = json.JSONDecoder().raw_decode(text, start)
            text[start:end_of_it].encode()  # bytes that are no UTF-8 make it none of ours
        except (ValueError, RecursionError):
            start = text.find(beginning[0], start + 1)
            if start < 0:
                break
        else:
            found.append(record)
            end = end_of_it
            start = len(text) - len(text[end:].lstrip())
    if 0 <= start < len(text):
        return [], 0
    return found, mark + len(text[:end].encode("utf-8", "surrogateescape"))


def glued_remark(numbers: Sequence[int]) -> str:
    """That records stand glued together in these lines of a file, for the user; empty without any.

    >>> glued_remark([3, 9])
    '2 lines hold records glued together: every whole record in them is read'
    """
    if not numbers:
        return ""
    if len(numbers) == 1:
        return "1 line holds records glued together: every whole record in it is read"
    return f"{len(numbers)} lines hold records glued together: every whole record in them is read"


def first_unreadable(path: Path) -> str | None:
    """What the first line of a file that is no record is instead, with the cure; None where all are records.

    Raises one of UNREADABLE.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            bare = line.strip(BYTE_ORDER_MARK + b" \t\r\n")
            if bare and not _objects_of(line):
                is_torn = bare.startswith(b"{") and bare != b"{"
                return f"line {number} {'is half a record' if is_torn else what_bytes_are(bare)}"
    return None


def records_in(path: Path) -> list[dict[str, Any]]:
    """All records of a file, without the lines that are none. Raises one of UNREADABLE."""
    return [record for _, record in read_jsonl(path) if record is not None]


# What other programs write is known by how it begins.
OTHER_FILES = (
    (b"PK\x03\x04", "is an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook"),
    (b"PAR1", "is a Parquet file"),
    (b"GGUF", "is a model file"),
    (b"\x1f\x8b", "is compressed by gzip: name it .gz"),
    (b"\xff\xfe", "is UTF-16, as PowerShell writes it: save it as UTF-8"),
    (b"<", "is a page of HTML or XML"),
)
LOOKED_AT_BYTE = 1 << 20


def what_it_is(path: Path) -> str:
    """What a file is in which no line is a record, as the end of a sentence; empty where that is not known.

    Raises one of UNREADABLE.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(LOOKED_AT_BYTE).removeprefix(BYTE_ORDER_MARK).lstrip()
    return what_bytes_are(start) if start else "is empty"


def what_bytes_are(start: bytes) -> str:
    """What begins so, as the end of a sentence."""
    for beginning, what in OTHER_FILES:
        if start.startswith(beginning):
            return what
    if start.startswith(b"["):
        return "is one JSON array, not a record a line: jq -c '.[]' FILE > runs.jsonl makes lines of it"
    if start.startswith(b"{"):
        return what_objects(start)
    if b"," in start.partition(b"\n")[0] or b";" in start.partition(b"\n")[0]:
        return "looks like a CSV, not JSON lines"
    return "is not JSON lines"


def what_objects(start: bytes) -> str:
    """What a file that begins with an object is, if not a record a line."""
    first = start.partition(b"\n")[0].rstrip()
    if not _objects_of(first):
        return "holds its records over several lines each: jq -c . FILE > runs.jsonl makes a line of each"
    return "holds JSON lines, but of something else"


def reason_of(problem: BaseException) -> str:
    """Why a file could not be read, in the system's words: "No such file or directory"."""
    return str(getattr(problem, "strerror", None) or problem)


def last_of_each(records: Iterable[Found], key: Callable[[Found], Hashable]) -> list[Found]:
    """Of the records with the same key the last one, in the order in which the keys first appear.

    >>> last_of_each([{"k": 1, "v": 1}, {"k": 2, "v": 2}, {"k": 1, "v": 3}], lambda record: record["k"])
    [{'k': 1, 'v': 3}, {'k': 2, 'v': 2}]
    """
    found: dict[Hashable, Found] = {}
    for record in records:
        found[key(record)] = record
    return list(found.values())


def sha256_of(content: Path | str | bytes) -> str:
    """The SHA-256 in hex of a file, a text (as UTF-8) or bytes. A lone surrogate is hashed as its code."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    summed = hashlib.sha256()
    with content.open("rb") as file:
        while block := file.read(HASHED_AT_ONCE_BYTE):
            summed.update(block)
    return summed.hexdigest()


# --- Writing ---


def utc_now() -> str:
    """The time of day as RFC 3339 in UTC with milliseconds: a label, never used to compute."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def append_jsonl(path: Path, record: Json) -> None:
    """Append one record as one fsynced line; a full disk leaves no half line behind (OSError)."""
    append_whole(path, json.dumps(record, allow_nan=False).encode() + b"\n")


def append_whole(path: Path, lines: bytes) -> None:
    """Append lines, fsynced, all of them or (OSError) none."""
    with path.open("ab", buffering=0) as out:
        end = out.seek(0, os.SEEK_END)
        try:
            if out.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC).lower(), str(path))
            os.fsync(out.fileno())
        except OSError:
            out.truncate(end)
            raise


def heal_tail(path: Path) -> bool:
    """Cut off the half line that a power cut left at the file's end; whether there was one.

    A record that is whole but for its line break, which an editor took, gets that back; so does the last of
    several that are glued together, and only the half after it is cut off.
    """
    if not path.is_file():
        return False
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        start = size
        last = b""
        while start and b"\n" not in last:
            step = min(HASHED_AT_ONCE_BYTE, start)
            start -= step
            file.seek(start)
            last = file.read(step) + last
        whole = start + last.rfind(b"\n") + 1
        if whole == size:
            return False
        line = last[last.rfind(b"\n") + 1 :]
        _, kept_byte = ([], len(line)) if is_object(line) else glued_objects(line)
        is_torn = bool(line[kept_byte:].strip())
        file.truncate(whole + kept_byte)
        if kept_byte:
            file.seek(whole + kept_byte)
            file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
    return is_torn


def is_object(line: bytes) -> bool:
    """Whether a line is a JSON object, whole."""
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under another name, fsynced, then renamed.

    A text is written as UTF-8 without changing its line ends. OSError where it cannot be; then nothing is
    left of the attempt, and a file of before is untouched.
    """
    with writing_whole(path) as part:
        part.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_output(path: Path, content: str | bytes, flag: str) -> None:
    """write_whole for a file that a flag names, in a folder that is made where it is not there yet.

    UserError that names file and flag where it cannot be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as problem:
        raise UserError(_cannot_write(path, reason_of(problem), f"choose another {flag}")) from problem


def replace_records(path: Path, changed: Mapping[str, Json], key: str = "run_key") -> None:
    """Put changed records in the places of those they are of, all at once: copy, fsync, rename.

    `changed`: the record's key -> what it is now; of several lines of one key the last is replaced. All other
    lines, torn ones too, stay byte for byte; records glued to a changed one get lines of their own. OSError
    where it cannot be; then the file is as it was.
    """
    places: dict[str, tuple[int, int]] = {}
    with path.open("rb") as lines:
        for place, line in enumerate(lines):
            for within, record in enumerate(_objects_of(line)):
                name = str(record.get(key, ""))
                if name in changed:
                    places[name] = (place, within)
    changed_in: dict[int, dict[int, Json]] = {}
    for name, (place, within) in places.items():
        changed_in.setdefault(place, {})[within] = changed[name]
    with path.open("rb") as lines, writing_whole(path) as part:
        for place, line in enumerate(lines):
            if place not in changed_in:
                part.write(line)
                continue
            for within, record in enumerate(_objects_of(line)):
                now = changed_in[place].get(within, record)
                part.write(json.dumps(now, allow_nan=False).encode() + b"\n")


def _objects_of(line: bytes) -> list[dict[str, Any]]:
    """The records of a line: one, those that are glued together, or none."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return glued_objects(line)[0]
    return [record] if isinstance(record, dict) else []


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, which takes the place of `path` when the block ends without an error.

    Behind a symbolic link it is the file linked to that is replaced, and its permissions stay. A pipe or a
    device (/dev/stdout, /dev/null) is written to as it is: as root it could be replaced, for all the machine.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("wb") as out:
            yield out
        return
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            with contextlib.suppress(OSError):  # there is none yet, or the disk knows no permissions
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(problem, OSError) and problem.filename in (None, str(part)):  # a name that users know
            raise OSError(problem.errno, problem.strerror, str(path)) from problem
        raise


# --- One writer ---


@contextlib.contextmanager
def exclusive(
    path: Path, busy: str = "another start is writing it; wait for it", cure: str = ""
) -> Iterator[None]:
    """Hold `path` against a second writer, by a lock on PATH.lock that ends with the process.

    UserError `cannot write PATH: BUSY[, CURE]` where another holds it or the folder cannot be written. `busy`
    says who it is and what to do, `cure` which flag names another file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as problem:
        raise UserError(_cannot_write(path, reason_of(problem), cure)) from None
    with lock:
        try:
            hold(lock)
        except BlockingIOError:
            raise UserError(_cannot_write(path, busy, "" if cure in busy else cure)) from None
        except OSError as problem:  # a network folder without locks
            raise UserError(_cannot_write(path, reason_of(problem), cure)) from None
        yield


def hold(file: IO[Any]) -> None:
    """Lock an open file for this process until it is closed. BlockingIOError where another has it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _cannot_write(path: Path, why: str, cure: str) -> str:
    return f"cannot write {path}: {why}" + (f"; {cure}" if cure else "")
