"""Several experiments, one after the other; several at a time only where no energy is measured.

All files are read and checked before the first folder is made. Each experiment has a conductor of its own, a
process that ends with us.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import UserError
from edgebench.experiments.config import Chosen
from edgebench.experiments.folder import command_for, look
from edgebench.experiments.starting import (
    Start,
    check,
    conductor,
    folder_of,
    has_failed_whole,
    is_left,
    prepare,
    remember,
)
from edgebench.shell import lifeline

ENDED_BY_SIGNAL = 128  # exit codes from here on: Ctrl-C ends the batch, not only the experiment


@dataclass(frozen=True)
class Outcome:
    """How one experiment of a batch ended."""

    folder: Path
    code: int | None  # None: it was left as it is
    why_left: str = ""

    def __str__(self) -> str:
        if self.code is None:
            return f"{self.folder.name}: {self.why_left}"
        return f"{self.folder.name}: {'done' if self.code == 0 else f'exit code {self.code}'}"


def matching(patterns: Sequence[str]) -> list[Path]:
    """The files of names and of patterns that the shell has left alone, each once. Raises UserError."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        base = Path(pattern).anchor
        files = sorted(Path(base).glob(str(Path(pattern).relative_to(base))))
        if not files and any(sign in pattern for sign in "*?["):
            raise UserError(f"no file matches {pattern}; see the folder with: ls {Path(pattern).parent}")
        found |= dict.fromkeys(files or [Path(pattern)])  # a name without a file is complained of when read
    return list(found)


def refuse_shared_meter(chosen: Sequence[Chosen], parallel: int) -> None:
    """UserError where experiments that run together would measure each other's energy."""
    measuring = [one.id for one in chosen if measures(one)]
    if parallel > 1 and measuring:
        raise UserError(
            f"--parallel {parallel}: {measuring[0]} measures energy, and experiments run together share one"
            " meter, so that none of them could be told from the others. Leave out --parallel, or measure"
            " times only with --source none"
        )


def measures(one: Chosen) -> bool:
    """Does an experiment measure energy?"""
    return bool(one.config["power"]["source"] != "none" or one.config["power"]["feed"])


def run_all(chosen: Sequence[Chosen], parallel: int, start: Start) -> list[Outcome]:
    """Check all, make all, run all. Raises UserError before anything is made."""
    refuse_shared_meter(chosen, parallel)
    faults = []
    for one in chosen:
        try:
            check(one, start.fresh)
        except UserError as problem:
            faults.append(f"{folder_of(one).name}: {problem}")
    if faults:
        raise UserError("\nerror: ".join(faults))
    ready = list(dict.fromkeys(prepare(one, start.fresh) for one in chosen))
    for folder in ready:
        if look(folder)["status"] != "running":
            remember(folder, start)
    # Ctrl-C is the conductors' to answer; we wait for them. A handler, unlike SIG_IGN, is not inherited.
    signal.signal(signal.SIGINT, lambda *_: None)
    if parallel > 1:
        with ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(lambda folder: run_one(folder, start), ready))
    outcomes = []
    for folder in ready:
        outcomes.append(run_one(folder, start))
        if (outcomes[-1].code or 0) >= ENDED_BY_SIGNAL:
            break
    return outcomes


def run_one(folder: Path, start: Start) -> Outcome:
    """Run what is left of one experiment."""
    state = look(folder)
    if has_failed_whole(state) and not start.retry_failed:
        return Outcome(
            folder, None, f"failed before; see {folder}/run.log, and try again with --retry_failed"
        )
    if state["status"] == "running":
        return Outcome(folder, None, f"runs already; see it with: {command_for('follow', folder)}")
    if not is_left(folder, start):
        return Outcome(folder, 0)
    # Told that we are gone, it ends its collector and writes down how far it is.
    done = lifeline.run(conductor(folder, False), death_signal=signal.SIGTERM, cwd=Path(state["cwd"]))
    return Outcome(folder, int(done.returncode))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """130 after Ctrl-C; else 1 if one did not end well, or was left as failed."""
    codes = [one.code for one in outcomes]
    if 130 in codes:
        return 130
    return int(any(code != 0 for code in codes))  # a conductor that was killed has a code below 0
