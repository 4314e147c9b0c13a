"""What experiments have brought: the list of them, one summary, and summary and workbooks made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgebench.errors import UserError, told
from edgebench.experiments.folder import (
    command_for,
    cycle_files,
    folders,
    folders_set_aside,
    look,
    no_experiments,
)
from edgebench.experiments.summary import screen_of, sum_up
from edgebench.shell.progress import say
from edgebench.shell.text import counted

Json = Mapping[str, Any]


def states_of(output: Path, set_aside: bool) -> list[dict[str, Any]]:
    """The states of all experiments, the newest first; `set_aside`: those too that --fresh has renamed."""
    found = [*folders(output), *(folders_set_aside(output) if set_aside else [])]
    states = []
    for folder in found:
        try:
            states.append(look(folder))
        except (UserError, OSError) as problem:
            say(f"left out: {told(problem)}")
    return states


def list_line(state: Json) -> str:
    """One experiment: good runs of all, good cycles of all, what failed.

    Its folder's name stands at the end: of one that was set aside it is not the ID.
    """
    runs = f"{state['good']}/{state['total'] or '?'}"
    cycles = f"{state['completed_cycles']}/{state['cycles_total']}"
    failed = f"  ({counted(state['failed'], 'run')} failed)" if state["failed"] else ""
    status = "orphaned" if state["working"] else state["status"]
    return f"{status:<12} {runs:>11} runs  {cycles:>5} cycles  {Path(state['folder']).name}{failed}"


def raw_lines(folder: Path) -> Iterator[str]:
    """The collector's own records of all cycles, line by line."""
    for path in cycle_files(folder):
        with path.open(encoding="utf-8") as lines:
            yield from lines


def summary_json(folder: Path) -> str:
    """summary.json as it is. Raises UserError."""
    need_summary(folder)
    return (folder / "summary.json").read_text(encoding="utf-8")


def summary_text(folder: Path) -> str:
    """The summary for a terminal. Raises UserError."""
    need_summary(folder)
    return screen_of(folder)


def need_summary(folder: Path) -> None:
    """UserError where nothing has been summed up yet."""
    if not (folder / "summary.json").exists():
        raise UserError(
            f"{folder.name} has no summary yet; make one with: {command_for('aggregate', folder)} --force"
        )


# --- Summary and workbooks ---


def why_not_yet(folder: Path, force: bool) -> str | None:
    """Why an experiment is not summed up; None where it can be."""
    try:
        state = look(folder)
    except (UserError, OSError) as problem:
        return told(problem)
    if not state["done"]:
        return "nothing measured yet"
    if state["status"] not in ("completed", "failed") and not force:
        runs = f"{state['done']} of {state['total'] or '?'} runs"
        return f"{state['status']}, {runs}; sum up what is there with --force"
    return None


def aggregate_one(folder: Path, force: bool) -> int:
    """Sum up one experiment; 1 where it cannot be."""
    why = why_not_yet(folder, force)
    if why:
        say(f"{folder.name}: {why}")
        return 1
    return lay_out(folder, look(folder)["mode"])


def aggregate_all(output: Path, force: bool) -> int:
    """Sum up all that can be; the worst exit code."""
    worst = 0
    there = folders(output)
    if not there:
        say(no_experiments(output))
    for folder in there:
        why = why_not_yet(folder, force)
        if why:
            say(f"{folder.name}: {why}")
        else:
            worst = max(worst, lay_out(folder, look(folder)["mode"]))
    return worst


def lay_out(folder: Path, mode: str) -> int:
    """summary.json, summary.md, workbooks."""
    code = 0
    try:
        sum_up(folder)
    except (UserError, OSError) as exc:
        say(f"error: {told(exc)}")
        code = 1
    else:
        print(f"{folder.name}: {folder / 'summary.md'}")
    if mode == "collect":
        try:
            print("\n".join(write_workbooks(folder)))
        except UserError as problem:
            say(f"error: {problem}")
            code = 1
    return code


def write_workbooks(folder: Path) -> list[str]:
    """The four workbooks of all cycles; what is to be said of them, line by line. Raises UserError."""
    from edgebench.reporting.study import Wanted, read_study  # pandas takes a second to import
    from edgebench.reporting.summary_text import screen_lines
    from edgebench.reporting.workbooks import write_all

    scores = folder / "scores_mtbench.csv"
    wanted = Wanted([str(path) for path in cycle_files(folder)], scores if scores.exists() else None)
    study = read_study(wanted, command_for("aggregate", folder))
    written = write_all(study, folder, lambda line: say(line), cure="give the same command again when it can")
    return [*screen_lines(study), *(f"wrote {path}" for path in written)]
