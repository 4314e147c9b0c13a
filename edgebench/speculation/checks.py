"""What all cells of a sweep share, looked at once, before the first of them: hours later would be too late.

Files: names that the file system takes, folders that can be written. Models: both can be read, and the draft
has the target's vocabulary. Prompts: they are there at the level asked for, and fit the context.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgebench.engine.client import EngineFailure, EngineProcess
from edgebench.errors import UserError
from edgebench.records.jsonl import reason_of
from edgebench.speculation.cell import context_length
from edgebench.speculation.grids import PlannedCell
from edgebench.speculation.settings import CellSettings, Profiling
from edgebench.speculation.tokens import TextPrompt, TokenPrompt, read_prompts, token_prompts
from edgebench.speculation.traffic import NO_PROFILER

PromptsKey = tuple[tuple[str, ...], tuple[str, ...], str]  # CellSettings.prompts_key
USUAL_NAME_BYTE = 255  # of most file systems
# The longest of the files that are named after a cell: .NAME.json.PID.part, with the largest process number.
LONGEST_AROUND = len("..json.4194304.part")


def check_files(cells: Sequence[PlannedCell], outdir: Path) -> None:
    """UserError where a result could not be written."""
    for folder in dict.fromkeys(outdir / cell.grid for cell in cells):
        make_writable(folder)
        limit_byte = name_limit_byte(folder)
        for cell in cells:
            size_byte = len(os.fsencode(cell.name)) + LONGEST_AROUND
            if cell.grid == folder.name and size_byte > limit_byte:
                raise UserError(
                    f"the name {cell.name[:40]}… is {size_byte - limit_byte} bytes too long for the files of "
                    f"{folder}; shorten `name` in the grid"
                )


def make_writable(folder: Path) -> None:
    """Make a folder, and prove that a file can be made in it. UserError."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as problem:
        raise UserError(f"cannot write to {folder}: {reason_of(problem)}; give another --outdir") from problem
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def name_limit_byte(folder: Path) -> int:
    """The longest name that a folder's file system takes, in bytes."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return USUAL_NAME_BYTE


def read_texts(cells: Sequence[PlannedCell]) -> dict[PromptsKey, list[TextPrompt]]:
    """The prompts of all cells, each file and level read once. Raises UserError."""
    texts: dict[PromptsKey, list[TextPrompt]] = {}
    for cell in cells:
        key = cell.settings.prompts_key
        if key not in texts:
            texts[key] = read_prompts([Path(path) for path in cell.settings.prompts], cell.settings.levels)
    return texts


def check_models(
    cells: Sequence[PlannedCell], texts: Mapping[PromptsKey, Sequence[TextPrompt]]
) -> dict[PromptsKey, list[TokenPrompt]]:
    """The prompts as token ids. UserError where a model cannot be read or used, a prompt is too long.

    Only vocabularies are read, in an engine process of their own.
    """
    prompts: dict[PromptsKey, list[TokenPrompt]] = {}
    with EngineProcess() as engine:
        for key in dict.fromkeys(cell.settings.prompts_key for cell in cells):
            prompts[key] = token_prompts(engine, cells[0].settings.model, texts[key], key[2])
        for draft in dict.fromkeys(cell.settings.draft for cell in cells if cell.settings.draft):
            check_draft(engine, draft)
    # The one that needs most comes first: what it is told holds for all.
    for cell in sorted(cells, key=lambda one: -one.settings.max_tokens - one.settings.draft_tokens):
        check_context(cell, prompts[cell.settings.prompts_key])
    return prompts


def check_draft(engine: EngineProcess, draft: str) -> None:
    """UserError where a model cannot draft for the open one."""
    try:
        engine.check_draft(draft)
    except EngineFailure as failure:
        raise UserError(f"{failure}; give another --draft, or leave it out for prompt lookup") from failure


def check_context(cell: PlannedCell, prompts: Sequence[TokenPrompt]) -> None:
    """UserError where the longest prompt, an answer and a draft do not fit --n_ctx."""
    try:
        context_length(prompts, cell.settings)
    except UserError as problem:
        raise UserError(f"{cell.name}: {problem}") from problem


def repeats_note(
    cells: Sequence[PlannedCell], prompts: Mapping[PromptsKey, Sequence[TokenPrompt]]
) -> str | None:
    """What to know where there are more requests than prompts; None where there are not."""
    asked: list[CellSettings] = [cell.settings for cell in cells]
    repeated = [one for one in asked if one.requests > len(prompts[one.prompts_key])]
    if not repeated:
        return None
    least = min(len(prompts[one.prompts_key]) for one in repeated)
    return (
        f"{max(one.requests for one in repeated)} requests over {least} prompts: prompts come again, and the "
        f"intervals of the summary are over {least} prompts; give more with --prompts"
    )


def check_profiler(profiling: Profiling) -> str | None:
    """Why nothing can be profiled here; None where it can, or where it is not wanted."""
    if profiling.cells == "none" or shutil.which(profiling.program):
        return None
    return NO_PROFILER.format(ncu=profiling.program)
