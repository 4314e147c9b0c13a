"""Experiment files: one to begin with, or a grid of them.

A new file has every key, a preset's values in place. A grid has one file per combination of KEY=A,B,C. Each
holds only its name, what is varied, and the base it extends, so that a later change of the base reaches them
all. Nothing is written unless every one of them is valid.

Values are written as in YAML and keep their type: 0.7, 1e-3, true, [L0, P]. A file is named by the base and
its values: exp_max_tokens_64_temperature_0.7.yaml. config.py checks keys and values.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.experiments.config import effective, grid_values, name_of
from edgebench.records.jsonl import reason_of, write_output

NAME_LENGTH = 90  # of a file without its ending: file systems allow 255 bytes
Json = Mapping[str, Any]


def as_text(content: Json, path: Path | None) -> str:
    """JSON for *.json, else YAML."""
    if path is not None and path.suffix == ".json":
        return json.dumps(content, indent=2) + "\n"
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            # JSON scalars and lists are YAML too, and need no rules about quoting.
            lines += [f"{key}:", *(f"  {inner}: {json.dumps(one)}" for inner, one in value.items())]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def new_text(preset: str | None, models: Sequence[str], out: Path | None) -> str:
    """An experiment file with every key."""
    config = effective(None, preset, [f"models={json.dumps(models or ['models/MODEL.gguf'])}"]).config
    config |= {"name": name_of(out)} if out else {}
    return as_text({key: value for key, value in config.items() if value is not None}, out)


def in_a_name(value: Any) -> str:
    """A value as part of a file's name.

    >>> in_a_name(0.7), in_a_name(["L0", "P"]), in_a_name("models/a-Q6_K.gguf")
    ('0.7', 'L0-P', 'a-Q6_K')
    """
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    text = Path(alone).stem if isinstance(alone, str) and alone.endswith(".gguf") else json.dumps(alone)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:40] or "none"


def combinations(base: Path, values: Mapping[str, Sequence[Any]], outdir: Path) -> dict[Path, dict[str, Any]]:
    """{file: content} of the whole grid."""
    extends = os.path.relpath(base.resolve(), outdir.resolve())
    files: dict[Path, dict[str, Any]] = {}
    for chosen in itertools.product(*values.values()):
        pairs = list(zip(values, chosen, strict=True))
        words = [f"{key.rpartition('.')[2]}_{in_a_name(value)}" for key, value in pairs]
        stem = "_".join([base.stem, *words])[:NAME_LENGTH].rstrip("._-")
        numbered = itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2)))
        path = next(file for name in numbered if (file := outdir / f"{name}.yaml") not in files)
        content: dict[str, Any] = {"_extends": extends, "name": name_of(path)}
        if "batch_sizes" in values:  # only that mode has them
            content["mode"] = "throughput"
        for key, value in pairs:
            section, _, name = key.rpartition(".")
            place = content.setdefault(section, {}) if section else content
            place[name] = value
        files[path] = content
    return files


def write_grid(base: Path, vary: Sequence[str], outdir: Path, preset: str | None) -> list[Path]:
    """Write the grid, all of its files or none."""
    values = grid_values(vary)
    outdir.mkdir(parents=True, exist_ok=True)
    files = combinations(base, values, outdir)
    drafts = {path.with_name(f".{path.stem}.{os.getpid()}.yaml"): path for path in files}
    try:
        for draft, path in drafts.items():
            extra = {"preset": preset} if preset else {}
            draft.write_text(as_text(files[path] | extra, path), encoding="utf-8")
        try:
            for draft in drafts:
                effective(draft, None, [])
        except UserError as exc:
            said = str(exc)
            for draft, path in drafts.items():
                said = said.replace(str(draft), str(path))
            raise UserError(f"{said}; nothing was written") from None
        for draft, path in drafts.items():
            draft.replace(path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return list(files)


def write_new(preset: str | None, models: Sequence[str], out: Path) -> None:
    """A file to begin with; never over another one. Raises UserError, OSError."""
    text = new_text(preset, models, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch(exist_ok=False)
    except FileExistsError:
        raise UserError(f"{out} exists; choose another --out") from None
    except OSError as problem:
        raise UserError(f"cannot write {out}: {reason_of(problem)}; choose another --out") from None
    try:
        write_output(out, text, "--out")
    except UserError:
        out.unlink(missing_ok=True)  # an empty file would be in the way of the next try
        raise
