"""The check of a runs file, whole: its table, its verdicts, how often each flag stands there.

`check_runs` is what the door of that name prints, and what the collector prints at its end.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebench.checking.reading import read_runs_file
from edgebench.checking.table import Row, format_rows, make_rows
from edgebench.checking.verdicts import SEVERITIES, Verdict, judge
from edgebench.shell.text import WIDTH

SCHEMA_VERSION = 1
LINES_SHOWN = 12  # of the runs file, after a verdict


@dataclass(frozen=True)
class Report:
    """What the check found."""

    path: Path
    n_runs: int
    table: list[Row]
    verdicts: list[Verdict]
    flags: Mapping[str, int]  # flag -> runs that carry it, the most frequent first

    @property
    def counts(self) -> dict[str, int]:
        """Verdicts by severity."""
        found = Counter(verdict.severity for verdict in self.verdicts)
        return {severity: found[severity] for severity in SEVERITIES}

    @property
    def exit_code(self) -> int:
        """1 if there is an error."""
        return 1 if self.counts["error"] else 0

    def as_text(self) -> str:
        """For people, 80 columns."""
        lines = [format_rows(self.table), *map(format_verdict, self.verdicts)]
        lines += [f"flags: {counted(self.flags)}", f"verdicts: {counted(self.counts)}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema_version": SCHEMA_VERSION,
            "runs": str(self.path),
            "n_runs": self.n_runs,
            "flags": dict(self.flags),
            "counts": self.counts,
            "table": [asdict(row) for row in self.table],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


def check_runs(path: Path, env_path: Path | None = None) -> Report:
    """Check a runs file against itself, its environments and physics; UserError where it cannot be read."""
    found = read_runs_file(path, env_path)
    return Report(
        path=path,
        n_runs=len(found.runs),
        table=make_rows(found.records),
        verdicts=judge(found.runs, found.broken, found.anchors, found.glued),
        flags=dict(Counter(flag for run in found.runs for flag in run.flags).most_common()),
    )


def format_verdict(verdict: Verdict) -> str:
    """One verdict, its lines indented under its severity."""
    message = f"{verdict.check}: {verdict.message}"
    if verdict.lines:
        more = ", ..." if len(verdict.lines) > LINES_SHOWN else ""
        message += f" [lines {', '.join(map(str, verdict.lines[:LINES_SHOWN]))}{more}]"
    first, *rest = textwrap.wrap(message, WIDTH - 7, break_on_hyphens=False)
    return "\n".join([f"{verdict.severity:5}  {first}", *("       " + line for line in rest)])


def counted(counts: Mapping[str, int]) -> str:
    """Names with their counts."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
