"""The header of a GGUF model: its metadata and its tensors, of one file or of all parts of a split one.

Owns the format (ggml-org/ggml docs/gguf.md) and what is wrong with a file that does not follow it. Nothing
behind the header is read, with the standard library alone: a fresh board can be asked before anything is
installed, and a vocabulary of 200,000 words costs a fraction of a second. What the numbers mean for a board
stands in facts.py, what kind of model it is in kinds.py.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.shell.text import printable

# GGUF value types: struct codes of the scalars, then string and array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# A damaged count must not send the reader through gigabytes; real files stay far below these.
MAX_PAIRS, MAX_TENSORS, MAX_ELEMENTS, MAX_DIMS = 65_536, 1_000_000, 20_000_000, 8
MAX_STRING_BYTE = 2**26
KEPT_ELEMENTS = 4096  # per-layer arrays are this short; a vocabulary is walked over, not kept
LEAST_HEADER_BYTE = 24  # magic, version, two counts
# ggml type -> elements and bytes of one block, from ggml.h: enough types to prove that a file is complete.
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    20: (32, 18),
    23: (256, 136),
    30: (1, 2),
    39: (32, 17),
}
# What downloads leave in a model's place, by its first bytes: what it is, and what to do.
IN_A_MODELS_PLACE = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model: run `git lfs pull`"),
    (b"<!doctype", "a web page, not the model: download it again, from the file's own link and logged in"),
    (b"<html", "a web page, not the model: download it again, from the file's own link and logged in"),
    (b"<?xml", "an answer of the server, not the model: download it again"),
    (b"{", "a JSON text, not the model: download it again"),
    (b"PK", "a zip archive (a PyTorch model?), not a GGUF file: give the model's GGUF file"),
    (b"\x1f\x8b", "compressed by gzip: unpack it with gunzip"),
)
# Formats before GGUF, in files of little-endian numbers: ggml, ggmf, ggjt, ggla.
BEFORE_GGUF = (b"lmgg", b"fmgg", b"tjgg", b"algg")
# llama.cpp's llama_split_path: the engine finds the other parts by the name of the first.
PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
NAMED_AT_MOST = 3  # missing parts


class GgufError(UserError):
    """The file is not a complete GGUF model; the message says what it is and what to do."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: `kind` is the ggml type of its values, `size_byte` what it takes with its padding."""

    name: str
    elements: int
    kind: int
    size_byte: int


@dataclass(frozen=True)
class Header:
    """Metadata and tensors of a model; of a split one the first part's metadata and all parts' tensors.

    Long arrays are kept as their length only, under "<key>.length".
    """

    metadata: Mapping[str, Any]
    tensors: Sequence[Tensor]
    file_byte: int = 0  # of all parts
    files: Sequence[Path] = field(default=())


# --- The format ---


class Cursor:
    """Walks a memory-mapped file; reading past the end is a GgufError, not a crash."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def number(self, code: str) -> Any:
        """The next number, of a struct code."""
        try:
            (value,) = struct.unpack_from("<" + code, self.data, self.at)
        except struct.error:
            raise GgufError(f"cut off inside its header, after {self.at} bytes; download it again") from None
        self.at += struct.calcsize("<" + code)
        return value

    def skip(self, count: int) -> int:
        """Step over count bytes; return where they started."""
        start = self.at
        if count > len(self.data) - start:
            raise GgufError(f"cut off inside its header, after {start} bytes; download it again")
        self.at += count
        return start

    def string(self) -> str:
        """The next string; bytes that are no UTF-8 are replaced."""
        start = self.skip(self.count(MAX_STRING_BYTE, "bytes in one string"))
        return self.data[start : self.at].decode("utf-8", "replace")

    def count(self, limit: int, what: str) -> int:
        """The next count, which no sound file has above the limit."""
        value = int(self.number("Q"))
        if value > limit:
            raise GgufError(f"damaged: it claims {value} {what}; download it again")
        return value


def read_array(cursor: Cursor) -> tuple[int, list[Any] | None]:
    """Length and elements of an array; None for one of strings or too long to be wanted."""
    kind, length = cursor.number("I"), cursor.count(MAX_ELEMENTS, "array elements")
    if kind in SCALARS:
        start = cursor.skip(length * struct.calcsize("<" + SCALARS[kind]))
        if length > KEPT_ELEMENTS:
            return length, None
        return length, list(struct.unpack_from(f"<{length}{SCALARS[kind]}", cursor.data, start))
    if kind != STRING:
        raise GgufError(f"damaged: it holds an array of the unknown type {kind}; download it again")
    # A vocabulary: only the lengths are read, with the names bound outside the loop of 10^5 rounds.
    data, at, end, unpack = cursor.data, cursor.at, len(cursor.data), struct.Struct("<Q").unpack_from
    try:
        for _ in range(length):
            at += 8 + unpack(data, at)[0]
    except (struct.error, OverflowError):
        at = end + 1
    cursor.skip(at - cursor.at)
    return length, None


def read_metadata(cursor: Cursor, pairs: int) -> dict[str, Any]:
    """The key/value pairs of the header. Raises GgufError for a value type this format does not have."""
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key, kind = cursor.string(), cursor.number("I")
        if kind in SCALARS:
            metadata[key] = cursor.number(SCALARS[kind])
        elif kind == STRING:
            metadata[key] = cursor.string()
        elif kind == ARRAY:
            metadata[key + ".length"], elements = read_array(cursor)
            if elements is not None:
                metadata[key] = elements
        else:
            raise GgufError(f"damaged: its key {key[:60]!r} has the unknown type {kind}; download it again")
    return metadata


def read_tensor(cursor: Cursor) -> tuple[int, Tensor]:
    """A tensor with its offset in the data part [byte]; its size is the least that its values take."""
    name, dims = cursor.string(), cursor.number("I")
    if dims > MAX_DIMS:
        raise GgufError(f"damaged: its tensor {name[:60]!r} has {dims} dimensions; download it again")
    elements = math.prod(cursor.number("Q") for _ in range(dims))
    kind, offset = cursor.number("I"), cursor.number("Q")
    return offset, Tensor(name, elements, kind, least_byte(kind, elements))


def least_byte(kind: int, elements: int) -> int:
    """Bytes that values take at least: exact for the types in BLOCKS, one bit per element for others."""
    block_elements, block_byte = BLOCKS.get(kind, (8, 1))
    return elements // block_elements * block_byte


def placed(tensors: Sequence[tuple[int, Tensor]], data_byte: int) -> list[Tensor]:
    """Tensors by their offsets, each as large as the distance to the next one: padding is read, too."""
    in_order = sorted(tensors, key=lambda pair: pair[0])
    ends = [offset for offset, _ in in_order[1:]] + [data_byte]
    return [
        Tensor(tensor.name, tensor.elements, tensor.kind, end - offset)
        for (offset, tensor), end in zip(in_order, ends[: len(in_order)], strict=True)
    ]


def check_start(start: bytes, size: int) -> None:
    """Raise GgufError with the most likely cause when a file does not begin like a readable GGUF.

    `start`: its first bytes, `size`: how many it has.
    """
    if size == 0:
        raise GgufError("not a GGUF file: it is empty; download it again")
    if start[:4] != b"GGUF":
        raise GgufError(what_it_is_instead(start, size))
    if size < LEAST_HEADER_BYTE:
        raise GgufError(f"cut off: it has {size} bytes; download it again")
    version = int.from_bytes(start[4:8], "little")
    if version & 0xFFFF == 0 and version:
        raise GgufError("a big-endian GGUF, which the engine does not load here; download the usual kind")
    if version < 2:
        raise GgufError(f"GGUF version {version}; only 2 and 3 can be read: download a newer file of it")
    if version > 3:
        raise GgufError(f"GGUF version {version}; only 2 and 3 can be read: download an older file of it")


def what_it_is_instead(start: bytes, size: int) -> str:
    """What a file is that does not begin with the bytes GGUF, and what to do."""
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, meaning in IN_A_MODELS_PLACE:
        if first.startswith(beginning.lower()):
            return meaning
    if start[:4] in BEFORE_GGUF:
        return "a GGML file from before GGUF, not a GGUF file: download the model anew as GGUF"
    if not start.strip(b"\0"):
        return "not a GGUF file: it begins with zeros, as a download that has not ended; download it again"
    if start[8:9] == b"{":
        return "a safetensors file, not a GGUF file: convert it, or download the model as GGUF"
    if size < LEAST_HEADER_BYTE:
        said = start.decode("utf-8", "replace").strip()
        return f"not a GGUF file: it has {size} bytes ({printable(said)}); download it again"
    return "not a GGUF file: it does not start with the bytes GGUF; download it again"


def read_file(path: Path) -> Header:
    """Header of one file, whole model or part. GgufError for a damaged one, OSError where it cannot open."""
    if path.is_dir():
        raise GgufError(f"a folder; give the model files in it: {printable(path / '*.gguf')}")
    size = path.stat().st_size
    with path.open("rb") as file:
        check_start(file.read(64), size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = Cursor(data)
            cursor.skip(8)
            tensor_count = cursor.count(MAX_TENSORS, "tensors")
            pairs = cursor.count(MAX_PAIRS, "metadata pairs")
            metadata = read_metadata(cursor, pairs)
            tensors = [read_tensor(cursor) for _ in range(tensor_count)]
            header_byte = cursor.at
    alignment = whole(metadata, "general.alignment") or 32
    data_byte = size - -(-header_byte // alignment) * alignment
    if tensors:
        offset, last = max(tensors, key=lambda pair: pair[0])
        missing = offset + last.size_byte - data_byte
        if missing > 0:
            raise GgufError(f"cut off: {missing} bytes are missing at its end; download it again")
    return Header(metadata, placed(tensors, data_byte), size, (path,))


# --- Split models ---


def part_number(path: Path) -> int | None:
    """Which part of a split model a file is by its name, from 1; None for a name that says nothing.

    >>> part_number(Path("m/big-Q4_K_M-00002-of-00003.gguf")), part_number(Path("small.gguf"))
    (2, None)
    """
    named = PART_NAME.fullmatch(path.name)
    return int(named["number"]) if named else None


def first_part(path: Path) -> Path:
    """The path of part 1 of the split model that a file is a part of; any other path as it is."""
    named = PART_NAME.fullmatch(path.name)
    return path.with_name(f"{named['stem']}-00001-of-{named['count']}.gguf") if named else path


def one_path_a_model(paths: Sequence[Path]) -> list[Path]:
    """Paths without those that are given twice, and without the later parts of a split model.

    `models/*.gguf` hands over all parts: the first stands for them. Where it is not among them, one later
    part is left, for the message that says so.
    """
    kept: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: part_number(path) or 0):
        kept.setdefault(first_part(path).absolute(), path)
    wanted = set(kept.values())
    return [path for path in dict.fromkeys(paths) if path in wanted]


def part_files(path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    """All files of the model that begins with this one. GgufError for another part than the first.

    Also where a part is missing, or a name is not one by which the engine finds the others.
    """
    count = whole(metadata, "split.count") or 0
    if count < 2:
        return [path]
    number = (whole(metadata, "split.no") or 0) + 1
    ending = f"-{number:05d}-of-{count:05d}.gguf"
    if PART_NAME.fullmatch(path.name) is None or not path.name.endswith(ending):
        raise GgufError(f"part {number} of {count} of a split model; give its name back, which ends {ending}")
    first = first_part(path)
    if number != 1:
        lost = "" if first.is_file() else ", which is not there: download it into the same folder"
        raise GgufError(f"part {number} of {count} of a split model; give part 1: {printable(first)}{lost}")
    stem = path.name.removesuffix(ending)
    files = [path.with_name(f"{stem}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    missing = [printable(part.name) for part in files if not part.is_file()]
    if missing:
        more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        names = ", ".join(missing[:NAMED_AT_MOST]) + more
        raise GgufError(
            f"a split model of which parts are missing: {names}; download them into the same folder"
        )
    return files


def read_header(path: Path) -> Header:
    """Header of a model: of its file, or of all its parts, of which `path` is the first.

    Raises GgufError for what is no complete model, OSError for a file that cannot be opened.
    """
    first = read_file(path)
    files = part_files(path, first.metadata)
    if len(files) == 1:
        return first
    parts = [first]
    for place, file in enumerate(files[1:], 1):
        try:
            part = read_file(file)
        except GgufError as problem:
            raise GgufError(f"its part {printable(file.name)} is {problem}") from None
        if whole(part.metadata, "split.no") != place:
            raise GgufError(
                f"its part {printable(file.name)} is another one by its header; download it again"
            )
        parts.append(part)
    tensors = [tensor for part in parts for tensor in part.tensors]
    stated = whole(first.metadata, "split.tensors.count")
    if stated is not None and stated != len(tensors):
        raise GgufError(f"its parts hold {len(tensors)} tensors of {stated}; download them again")
    return Header(first.metadata, tensors, sum(part.file_byte for part in parts), files)


def whole(metadata: Mapping[str, Any], key: str) -> int | None:
    """A whole number of the metadata; a damaged file may hold anything under any key."""
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
