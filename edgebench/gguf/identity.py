"""Which model is each file? Its identity in records, and the hash that tells a sound file from a damaged one.

  model_id      the file's stem without its quantization; files that would share one keep full stems
  quantization  Q6_K, F16 ... as the file's name ends, or None
  sha256        of the whole file, of a split model of all its parts one after the other: a damaged copy loads
                and talks nonsense
  error         why the file is no usable model, and what to do; or None

One file's fault is that file's alone: the others keep their identity.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebench.gguf.facts import ModelFacts, read_facts
from edgebench.gguf.header import PART_NAME, one_path_a_model
from edgebench.records.jsonl import HASHED_AT_ONCE_BYTE, reason_of
from edgebench.shell.progress import say
from edgebench.shell.text import printable

# File-name endings that name a quantization: Q6_K, q4_k_m, IQ3_XXS, TQ1_0, F16, fp16, BF16, MXFP4, NVFP4;
# with the marks of who made it: UD-Q4_K_XL (Unsloth), i1-Q4_K_M and Q4_K_M-imat (with an importance matrix).
QUANTIZATION = re.compile(
    r"[-_.](?P<made>UD-|i1-)?"
    r"(?P<type>(?:IQ|TQ|Q)\d+(?:_[0-9A-Z]+)*|BF16|FP?16|FP?32|FP8|(?:MXFP|NVFP|FP)4(?:_MOE)?)"
    r"(?:[-_.]imat(?:rix)?)?$",
    re.IGNORECASE,
)
ESCAPED_BYTE = range(0xDC80, 0xDD00)  # what Python makes of a name's bytes that are no UTF-8 (PEP 383)


@dataclass(frozen=True)
class ModelIdentity:
    """One model file: who it is, what its header says, and its hash; `error` where it cannot be used."""

    model_id: str
    quantization: str | None
    facts: ModelFacts
    path: str  # in full, of a split model of its first part; as given where the file is no usable model
    error: str | None = None
    mtime_ns: int | None = None  # of the latest part
    sha256: str | None = None

    def as_record(self) -> dict[str, Any]:
        """The model's entry in the environment record."""
        names = {"model_id": self.model_id, "quantization": self.quantization}
        record = {**names, **self.facts.as_record(), "path": self.path, "error": self.error}
        if self.sha256 is not None:
            record |= {"mtime_ns": self.mtime_ns, "sha256": self.sha256}
        return record


def identify(paths: Sequence[Path], known: Mapping[str, Mapping[str, Any]]) -> list[ModelIdentity]:
    """Identity of each model, in the order of the paths; later parts of a split model go with the first.

    `known`: entries of earlier environment records by their path; an unchanged file (same path, size and
    modification time) is not hashed again. Never raises for a file: what is wrong stands in its `error`.
    A second copy of a model is refused: its runs would be those of the first.
    """
    models: list[ModelIdentity] = []
    chosen = one_path_a_model(paths)
    for path, (model_id, quantization) in zip(chosen, name_models(chosen), strict=True):
        facts = read_facts(path)
        model = ModelIdentity(model_id, quantization, facts, str(path), in_full(path, facts.error))
        if model.error is None:
            model = with_hash(model, path, known)
        models.append(replace(model, error=model.error or twin_error(path, model, models)))
    return models


def make_entries(paths: Sequence[Path], known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The models' entries in an environment record."""
    return [model.as_record() for model in identify(paths, known)]


def in_full(path: Path, problem: str | None) -> str | None:
    """A fault with its file's name."""
    return None if problem is None else f"{printable(path)}: {problem}"


def with_hash(model: ModelIdentity, path: Path, known: Mapping[str, Mapping[str, Any]]) -> ModelIdentity:
    """The model with full path, time and hash of its files, or with the reason why they cannot be read."""
    try:
        full = str(path.resolve())
        mtime_ns = max(file.stat().st_mtime_ns for file in model.facts.files)
        before = known.get(full, {})
        same = (before.get("file_byte"), before.get("mtime_ns")) == (model.facts.file_byte, mtime_ns)
        sha256 = before.get("sha256") if same else None
        if not isinstance(sha256, str):
            sha256 = sha256_of_files(model.facts.files)
    except OSError as problem:
        return replace(model, error=in_full(path, f"{reason_of(problem)}; copy or download it again"))
    return replace(model, path=full, mtime_ns=mtime_ns, sha256=sha256)


def twin_error(path: Path, model: ModelIdentity, earlier: Sequence[ModelIdentity]) -> str | None:
    """Why a model cannot be measured beside an earlier one: its copy, or one of its name; else None."""
    for other in earlier:
        if other.sha256 is not None and other.sha256 == model.sha256:
            return f"{printable(path)} is a copy of {printable(other.path)}; leave one out of --models"
    for other in earlier:
        if other.error is None and stem_of(Path(other.path)) == stem_of(path):
            return (
                f"{printable(path)}: another of the model files is called so, too;"
                " rename one or leave it out of --models"
            )
    return None


# --- Names ---


def stem_of(path: Path) -> str:
    """A file's name without its ending, without the number of a part, and as text that any file can hold.

    >>> stem_of(Path("m/big-Q4_K_M-00001-of-00003.gguf")), stem_of(Path("tiny.gguf"))
    ('big-Q4_K_M', 'tiny')

    A byte that is no UTF-8 is written as %FF: records, tables and workbooks hold Unicode only.
    """
    part = PART_NAME.fullmatch(path.name)
    stem = part["stem"] if part else path.stem
    return "".join(f"%{ord(sign) & 0xFF:02X}" if ord(sign) in ESCAPED_BYTE else sign for sign in stem)


def split_stem(stem: str) -> tuple[str, str | None]:
    """Model id and quantization of a file's stem.

    >>> split_stem("gemma-2-2b-it-Q6_K"), split_stem("Qwen3-4B-UD-Q4_K_XL")
    (('gemma-2-2b-it', 'Q6_K'), ('Qwen3-4B', 'UD-Q4_K_XL'))
    >>> split_stem("qwen1.5-1.8b-chat-q6_k"), split_stem("phi-fp16"), split_stem("tiny")
    (('qwen1.5-1.8b-chat', 'Q6_K'), ('phi', 'F16'), ('tiny', None))
    """
    found = QUANTIZATION.search(stem)
    if found is None or found.start() == 0:
        return stem, None
    made = {"ud-": "UD-", "i1-": "i1-"}.get((found["made"] or "").lower(), "")
    # fp16 is another spelling of F16, as the type is called in the header.
    kind = re.sub(r"^FP(16|32)$", r"F\1", found["type"].upper())
    return stem[: found.start()], made + kind


def name_models(paths: Sequence[Path]) -> list[tuple[str, str | None]]:
    """(model_id, quantization) of each file; no id twice.

    Files that would share an id keep their full stems, and of files with the same stem the later ones the
    name of their folder, too.
    """
    parted = [split_stem(stem_of(path)) for path in paths]
    sharing = Counter(model_id for model_id, _ in parted)
    names: list[str] = []
    for path, (model_id, _) in zip(paths, parted, strict=True):
        name = stem_of(path) if sharing[model_id] > 1 else model_id
        while name in names:
            name = f"{stem_of(path.absolute().parent)}/{name}"
        names.append(name)
    return [(name, quantization) for name, (_, quantization) in zip(names, parted, strict=True)]


# --- Hashes ---


def sha256_of_files(files: Sequence[Path]) -> str:
    """Hash of files, one after the other; says so on stderr, because of gigabytes one waits for it."""
    digest = hashlib.sha256()
    for file in files:
        say(f"hashing {printable(file.name)} ({file.stat().st_size / 1e9:.2f} GB)")
        with file.open("rb") as data:
            while block := data.read(HASHED_AT_ONCE_BYTE):
                digest.update(block)
    return digest.hexdigest()
