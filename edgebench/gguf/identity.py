#!/usr/bin/env python3
"""Which model is each file? Identity and facts, one JSON line per file.

  model_id      the file's stem without its quantization; files that would share one keep full stems
  quantization  Q6_K, F16 ... as the file's name ends, or null
  sha256        of the whole file: a damaged copy loads and talks nonsense
  file_byte, mtime_ns, path, and the facts of gguf_facts.py
  error         why the file is no usable model, or null

A file of gigabytes takes its time to hash. With --env, an unchanged file's hash
(same path, size and modification time) is taken from those records.

Example:
  python companions/name_models.py --models models/gemma-2-2b-it-Q6_K.gguf
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgebench.gguf.facts import model_facts

# File-name endings that name a quantization: Q6_K, q4_k_m, IQ3_XXS, F16, BF16, MXFP4.
QUANTIZATION = re.compile(r"[-_.]((?:IQ|Q|TQ)\d+(?:_[0-9A-Z]+)*|BF16|F16|F32|MXFP4(?:_MOE)?)$", re.IGNORECASE)


DEFAULT_CONTEXT = 4096  # for the sizes that depend on one


class NameModelsError(Exception):
    """What the user can fix."""


# Copied from read_prompts.read_jsonl
def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (line number, record) per non-blank line, None for what is no JSON object; reads .gz too."""
    # Iterate the file: str.splitlines() would cut a record at U+2028.
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def split_stem(stem: str) -> tuple[str, str | None]:
    """Model id and quantization of a file's stem.

    >>> split_stem("gemma-2-2b-it-Q6_K")
    ('gemma-2-2b-it', 'Q6_K')
    >>> split_stem("qwen1.5-1.8b-chat-q6_k")
    ('qwen1.5-1.8b-chat', 'Q6_K')
    >>> split_stem("tiny")
    ('tiny', None)
    """
    found = QUANTIZATION.search(stem)
    return (stem[: found.start()], found.group(1).upper()) if found else (stem, None)


def name_models(paths: Sequence[Path]) -> list[tuple[str, str | None]]:
    """(model_id, quantization) per file; files that would share an id keep their full stems."""
    ids = [split_stem(path.stem)[0] for path in paths]
    names = [path.stem if ids.count(id_) > 1 else id_ for path, id_ in zip(paths, ids, strict=True)]
    for name, path in zip(names, paths, strict=True):
        if names.count(name) > 1:
            raise NameModelsError(
                f"two model files are called {path.stem}; rename one or leave it out of --models"
            )
    return [(name, split_stem(path.stem)[1]) for name, path in zip(names, paths, strict=True)]


def known_models(env_path: Path | None) -> dict[str, Any]:
    """Models of environment records by path."""
    records = read_jsonl(env_path) if env_path and env_path.exists() else ()
    models = [model for _, record in records if record for model in record.get("models", {}).values()]
    return {model["path"]: model for model in models if model.get("sha256")}


def read_facts(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What the header of each file says."""
    return [asdict(model_facts(path, DEFAULT_CONTEXT)) for path in paths]


def sha256_file(path: Path) -> str:
    """Hash of a file; says so on stderr, because of gigabytes one waits for it."""
    print(f"hashing {path.name} ({path.stat().st_size / 1e9:.2f} GB)", file=sys.stderr)
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def identify(path: Path, facts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, size, time and hash of one file, or its error with the cure."""
    if facts["error"]:
        cure = "; check --models" if not path.exists() else "; download or copy the file again"
        cure = "" if "download" in facts["error"] else cure
        return {**facts, "path": str(path), "error": f"{path}: {facts['error']}{cure}"}
    stat, full = path.stat(), str(path.resolve())
    state = {"file_byte": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    before = known.get(full, {})
    same = all(before.get(name) == value for name, value in state.items())
    return {**facts, "path": full, **state, "sha256": before["sha256"] if same else sha256_file(path)}


def make_entries(paths: Sequence[Path], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per file. A second copy of a model is refused: its runs would be those of the first."""
    entries: list[dict[str, Any]] = []
    for path, facts, names in zip(paths, read_facts(paths), name_models(paths), strict=True):
        entry = {"model_id": names[0], "quantization": names[1]}
        entry |= identify(path, facts, known)
        twin = next((one for one in entries if one.get("sha256") == entry.get("sha256", "")), None)
        if twin:
            entry["error"] = f"{path} is a copy of {twin['path']}; leave one out of --models"
        entries.append(entry)
    return entries


def build_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", type=Path, required=True, metavar="GGUF", help="model files")
    parser.add_argument("--env", type=Path, metavar="JSONL", help="environment records with known hashes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the entries."""
    args = build_parser().parse_args(argv)
    try:
        entries = make_entries(args.models, known_models(args.env))
    except (NameModelsError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    for entry in entries:
        print(json.dumps(entry))
    return 1 if any(entry["error"] for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
