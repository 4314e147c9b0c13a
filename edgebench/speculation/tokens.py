"""Prompts files -> prompts with the exact token ids that a model reads.

The ids are those of the collector's runs: the model's own chat template, or the bare text. For engines and
loops that are to be given ids, so that all of them do the same work. A .txt file is one prompt per line, with
the line's number as its id and L0 as its level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebench.engine.client import EngineFailure, EngineProcess
from edgebench.engine.client import Prompt as Asked
from edgebench.errors import UserError
from edgebench.prompts.tasks import wanted_tasks


@dataclass(frozen=True)
class TextPrompt:
    """One prompt of one task at one level."""

    id: int | str
    category: str | None
    level: str
    text: str


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as the model reads it."""

    id: int | str
    category: str | None
    level: str
    ids: tuple[int, ...]

    @property
    def prompt_tokens(self) -> int:
        """How many ids it is."""
        return len(self.ids)


def text_prompts(path: Path) -> list[TextPrompt]:
    """The prompts of a text file, one per line that is not blank. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise UserError(f"cannot read {path} ({exc}); check --prompts") from exc
    texts = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    return [TextPrompt(number, None, "L0", text) for number, text in texts]


def table_prompts(paths: Sequence[Path], levels: Sequence[str]) -> list[TextPrompt]:
    """The prompts of CSV and JSONL files, task by task and level by level. Raises UserError."""
    return [
        TextPrompt(task.id, task.category, level, task.levels[level])
        for task in wanted_tasks(paths, levels)
        for level in levels
        if level in task.levels
    ]


def read_prompts(paths: Sequence[Path], levels: Sequence[str]) -> list[TextPrompt]:
    """All prompts, text files first. Raises UserError."""
    plain = [path for path in paths if path.suffix == ".txt" and not path.stem.endswith(".jsonl")]
    prompts = [prompt for path in plain for prompt in text_prompts(path)]
    others = [path for path in paths if path not in plain]
    if others:
        prompts += table_prompts(others, levels)
    if not prompts:
        raise UserError("the files hold no prompt; check --prompts and --levels")
    return prompts


def token_prompts(
    engine: EngineProcess, model: str, prompts: Sequence[TextPrompt], prompt_format: str
) -> list[TokenPrompt]:
    """The prompts with their ids, by the model's vocabulary alone. Raises UserError."""
    try:
        engine.open(model)
        counted = [engine.count(Asked.of_text(one.text, prompt_format), with_ids=True) for one in prompts]
    except EngineFailure as failure:
        raise UserError(f"{failure}; check --model and --prompt_format") from failure
    return [
        TokenPrompt(prompt.id, prompt.category, prompt.level, count.ids or ())
        for prompt, count in zip(prompts, counted, strict=True)
    ]
