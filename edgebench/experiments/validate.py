"""Would this file run? All its faults at once, and what is not there yet as warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import UserError
from edgebench.experiments.config import ConfigError, effective
from edgebench.experiments.preflight import findings


@dataclass(frozen=True)
class Report:
    """What is to be said of one file."""

    file: Path
    id: str | None  # None where the file itself is wrong
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # what may be mended before it starts, and words without a meaning here

    def lines(self) -> Iterator[str]:
        """As they are printed; each names its file."""
        for kind, texts in (("error", self.faults), ("warning", self.warnings)):
            for text in texts:
                named = text if text.startswith(f"{self.file}: ") else f"{self.file}: {text}"
                yield f"{kind}: {named}"


def validate(file: Path, preset: str | None = None) -> Report:
    """Check a file in itself, and then against the models, prompts and sets that it names."""
    try:
        chosen = effective(file, preset, [])
    except ConfigError as problem:
        return Report(file, None, tuple(problem.faults))
    except UserError as problem:
        return Report(file, None, (str(problem),))
    found = findings(chosen.config)
    faults = tuple(one.text for one in found if one.kind == "wrong")
    warnings = tuple(one.text for one in found if one.kind != "wrong")
    return Report(file, None if faults else chosen.id, faults, (*chosen.notes, *warnings))
