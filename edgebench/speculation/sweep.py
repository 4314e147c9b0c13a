"""Runs what is left of a sweep: each cell an engine process of its own, weighed, placed whole, then profiled.

Output: <outdir>/<grid>/<cell>.json, experiment.log per grid, power/ with the traces, ncu/ with the counters;
of `all` a master_experiment.log, too. A cell that is finished is skipped while its configuration, model,
prompts, engine and power settings are the same; one that no longer fits is done again, the old file kept as
<cell>.json.1 and so on. A cell is placed as soon as it is timed: whatever happens to the profiler costs
counters and no times.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.records.jsonl import exclusive, write_whole
from edgebench.shell.launch import room_command
from edgebench.shell.text import counted
from edgebench.speculation.cell import Beside, CellFailed, run_cell
from edgebench.speculation.checks import (
    PromptsKey,
    check_files,
    check_models,
    check_profiler,
    read_texts,
    repeats_note,
)
from edgebench.speculation.grids import PlannedCell, plan
from edgebench.speculation.settings import SweepSettings
from edgebench.speculation.tokens import TokenPrompt
from edgebench.speculation.traffic import ProfilerHangs, profile
from edgebench.speculation.weighing import Scale

PILOT_TOKENS = 32
BUSY = "another sweep writes to this folder; wait for it or give another --outdir"
Document = dict[str, Any]
Prompts = Mapping[PromptsKey, Sequence[TokenPrompt]]


@dataclass(frozen=True)
class Pace:
    """What time goes by."""

    cell_s: float  # per cell, beside decoding
    token_s: float  # per planned token

    def seconds_for(self, cells: Sequence[PlannedCell]) -> float:
        """How long these cells take, if every answer has its full length."""
        return len(cells) * self.cell_s + sum(cell.units for cell in cells) * self.token_s


@dataclass
class Sweep:
    """A sweep under way."""

    settings: SweepSettings
    cells: Sequence[PlannedCell]
    todo: Sequence[PlannedCell]
    prompts: Prompts = field(default_factory=dict)
    no_profiler: str | None = None  # why no cell is profiled any more

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.settings.quiet:
            print(text, file=sys.stderr, flush=True)

    def file_of(self, cell: PlannedCell) -> Path:
        """Where a cell's result belongs."""
        return file_of(cell, self.settings.outdir)

    def master(self, text: str) -> None:
        """A line for master_experiment.log, which `all` writes."""
        if self.settings.keeps_master_log:
            append_line(self.settings.outdir / "master_experiment.log", text)


def file_of(cell: PlannedCell, outdir: Path) -> Path:
    """Where a cell's result belongs."""
    return outdir / cell.grid / f"{cell.name}.json"


# --- The story ---


def run_sweep(settings: SweepSettings) -> int:
    """Run what is left of the grids; the exit status. UserError, OSError."""
    cells = plan(settings.grid)
    texts = read_texts(cells)
    todo = [cell for cell in cells if not is_done(cell, settings.outdir)]
    pace = pace_of_finished(cells, settings)
    if settings.dry_run:
        print("\n".join(plan_lines(cells, todo, pace, settings.outdir)))
        return 0
    with exclusive(settings.outdir / ".sweep", BUSY, "give another --outdir"):
        sweep = Sweep(settings, cells, todo)
        sweep.say(f"{counted(len(cells), 'cell')}, {len(cells) - len(todo)} done, {len(todo)} to do")
        check_files(cells, settings.outdir)
        if todo:
            sweep.prompts = check_models(todo, texts)
        if note := repeats_note(todo, sweep.prompts):
            sweep.say(note)
        sweep.no_profiler = check_profiler(settings.profiling)
        if sweep.no_profiler is not None and any(is_profiled(sweep, cell) for cell in todo):
            sweep.say(f"no memory counters: {sweep.no_profiler}")
        if todo and pace is None and settings.pilot:
            pace = pilot(sweep)
        if pace is not None and todo:
            sweep.say(f"about {duration(pace.seconds_for(todo))}, if every answer has its full length")
        add_counters(sweep, [cell for cell in cells if cell not in todo])
        return run_cells(sweep, pace or Pace(0.0, 1.0))


def run_cells(sweep: Sweep, pace: Pace) -> int:
    """Run cells in their order; failed ones are counted and the rest goes on."""
    todo = sweep.todo
    sweep.master(f"START {len(todo)} of {len(sweep.cells)} cells")
    spent_s, expected_s, failed = 0.0, 0.0, 0
    for number, cell in enumerate(todo, 1):
        label = f"[{number}/{len(todo)}] {cell.label}"
        begin_s = time.monotonic()
        cause = do_cell(sweep, cell, label)
        took_s = time.monotonic() - begin_s
        left_s = pace.seconds_for(todo[number:])
        if cause is None:
            spent_s, expected_s = spent_s + took_s, expected_s + pace.seconds_for([cell])
        failed += cause is not None
        eta = f", {duration(left_s * spent_s / expected_s)} left" if expected_s and left_s else ""
        sweep.say(f"{start_of_line()}{label} {'FAILED: ' + cause if cause else duration(took_s)}{eta}")
        if number == len(todo) or todo[number].grid != cell.grid:
            sweep.master(f"{cell.grid} is through, {failed} failed so far")
    if failed:
        sweep.say(f"{counted(failed, 'cell')} failed, see experiment.log; the same command does them again")
    sweep.master(f"END {len(todo) - failed} done, {failed} failed")
    return 1 if failed else 0


def do_cell(sweep: Sweep, cell: PlannedCell, label: str) -> str | None:
    """Time a cell, place its result, profile it where that is wanted; None, or the cause of its failure."""
    path = sweep.file_of(cell)
    log = path.parent / "experiment.log"
    clear_leftovers(path)
    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    append_line(log, f"{cell.name}: START {settings_words(cell)}")
    begin_s = time.monotonic()
    try:
        document = time_cell(sweep, cell, label)
    except (CellFailed, UserError) as problem:
        append_line(log, f"{cell.name}: FAILED {problem}")
        return str(problem)
    took_s = time.monotonic() - begin_s
    place(sweep, cell, document, started_at, took_s)
    mode = document["summary"]["per_mode"][0]
    reason = (mode.get("energy") or {}).get("reason")
    append_line(log, f"{cell.name}: {stats_line(document)}")
    append_line(
        log,
        f"{cell.name}: COMPLETE in {took_s:.1f} s, latency_avg_s {mode['latency_avg_s']:.4f}"
        + (f"; no energy: {reason}" if reason else ""),
    )
    if is_profiled(sweep, cell):
        profile_cell(sweep, cell, document)
        write_whole(path, json.dumps(document))
    return None


# --- One cell ---


def time_cell(sweep: Sweep, cell: PlannedCell, label: str) -> Document:
    """Decode a cell with its power beside it; its document. CellFailed, UserError, OSError."""
    settings = sweep.settings
    trace = sweep.file_of(cell).parent / "power" / f"{cell.name}.csv"
    begin_s = time.monotonic()

    def show(what: str) -> None:
        if sys.stderr.isatty() and not settings.quiet:
            number, _, name = label.partition(" ")
            text = f"{number} {what}, {duration(time.monotonic() - begin_s)}  {Path(name).name}"
            print(f"\r\033[K{text[:79]}", end="", file=sys.stderr, flush=True)

    with Scale.beside(settings.power, trace) as scale:
        beside = Beside(loaded=scale.measure_idle, decoded=scale.measure_idle, passed=show)
        prompts = sweep.prompts[cell.settings.prompts_key]
        document = run_cell(cell.settings, prompts, beside, settings.cell_timeout_s)
        document["cell_wall_s"] = round(time.monotonic() - begin_s, 3)
        scale.complete(document)
    return document


def place(sweep: Sweep, cell: PlannedCell, document: Document, started_at: str, took_s: float) -> None:
    """Give the result its identity and its place; an older one is kept beside it."""
    path = sweep.file_of(cell)
    document["sweep"] = {
        **{name: getattr(cell, name) for name in ("grid", "name", "group", "role", "units")},
        "config": dict(cell.config),
        "config_hash": cell.config_hash,
        "model": sweep.settings.grid.model,
        "draft": sweep.settings.grid.draft,
        "started_at": started_at,
        "wall_s": document["cell_wall_s"],
        "took_s": round(took_s, 3),
    }
    document["config"]["out"] = str(path)
    set_aside(path)
    write_whole(path, json.dumps(document))


def set_aside(path: Path) -> None:
    """Keep an older result under the next free number."""
    if path.exists():
        number = 1
        while (old := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.replace(old)


def clear_leftovers(path: Path) -> None:
    """Remove what a killed sweep has left of an attempt at this cell."""
    for leftover in path.parent.glob(f".{path.stem}*.part"):
        if leftover.name == f".{path.stem}.part" or leftover.name.startswith(f".{path.name}."):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def settings_words(cell: PlannedCell) -> str:
    """The settings in words, as flags: what is as usual is told, too."""
    words = {name: value for name, value in asdict(cell.settings).items() if value not in (None, False)}
    flat = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in words.items()}
    return shlex.join(word for name, value in flat.items() for word in (f"--{name}", str(value)))


def stats_line(document: Mapping[str, Any]) -> str:
    """What the draft's confidence has stopped, in the words that people grep for."""
    mode = document["summary"]["per_mode"][0]
    stopped, checks = mode.get("tokens_stopped_by_confidence") or 0, mode.get("total_confidence_checks") or 0
    # One check ends a whole draft: the share is of the tokens that were to be drafted.
    wanted = stopped + (mode.get("spec_num_draft_tokens") or 0)
    share = f"{100 * stopped / wanted:.1f}% of the tokens to draft" if checks and wanted else "none checked"
    return f"Confidence early exit stats: {stopped} tokens stopped out of {checks} checks ({share})"


# --- Memory counters ---


def is_profiled(sweep: Sweep, cell: PlannedCell) -> bool:
    """Whether a cell is to get memory counters."""
    cells = sweep.settings.profiling.cells
    return cells == "all" or (cells == "document" and cell.profiled)


def profile_cell(sweep: Sweep, cell: PlannedCell, document: Document) -> None:
    """Counters of a short profiled process of its own, into ncu_metrics; timed batches stay untouched."""
    profiling = sweep.settings.profiling
    mode = document["summary"]["per_mode"][0]
    csv = sweep.file_of(cell).parent / "ncu" / f"{cell.name}.ncu.csv"
    # Without plain decoding beside it, which would be counted, too.
    short = cell.settings.shortened(profiling.requests, profiling.max_tokens)
    if sweep.no_profiler is not None:  # which was told already
        mode["ncu"] = {"reason": sweep.no_profiler}
        return
    try:
        sweep.say(f"{start_of_line()}{cell.label}: memory counters")
        with tempfile.TemporaryDirectory() as folder:
            job = Path(folder) / "cell.json"
            job.write_text(json.dumps(asdict(replace(short, cross_check=False))), encoding="utf-8")
            inner = room_command("edgebench.speculation.cell", str(job), str(Path(folder) / "profiled.json"))
            found = profile(inner, csv, profiling.program, timeout_s=profiling.timeout_s)
        mode["ncu_metrics"] = found["metrics"]
        mode["ncu"] = {"kernels": found["kernels"], "csv": str(csv), "reason": None}
    except (UserError, OSError) as problem:
        if isinstance(problem, ProfilerHangs):
            sweep.no_profiler = (
                f"not tried: the profiler took too long at {cell.name}; the same command tries again"
            )
        mode["ncu"] = {"reason": str(problem)}
        sweep.say(f"  no memory counters: {problem}")
    reason = mode["ncu"]["reason"]
    append_line(
        csv.parent.parent / "experiment.log", f"{cell.name}: NCU {reason or 'counters in ' + str(csv)}"
    )
    mode["ncu"] |= {"requests": profiling.requests, "max_tokens": profiling.max_tokens}


def add_counters(sweep: Sweep, cells: Sequence[PlannedCell]) -> None:
    """Profile finished cells that have no counters yet; their timed batches stay as they are."""
    wanted = [cell for cell in cells if is_profiled(sweep, cell)]
    for cell in wanted if sweep.no_profiler is None else []:
        path = sweep.file_of(cell)
        document = stored(path)
        if document is None or document["summary"]["per_mode"][0].get("ncu_metrics"):
            continue
        profile_cell(sweep, cell, document)
        if document["summary"]["per_mode"][0]["ncu_metrics"]:  # else the file stays as it is
            write_whole(path, json.dumps(document))


# --- What is there ---


def stored(path: Path) -> Document | None:
    """A finished cell's document, or None."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
        return document if document["summary"]["per_mode"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_done(cell: PlannedCell, outdir: Path) -> bool:
    """Whether the cell's result is there and is one of this very configuration."""
    document = stored(file_of(cell, outdir))
    return document is not None and (document.get("sweep") or {}).get("config_hash") == cell.config_hash


# --- Time ---


def pace_of_finished(cells: Sequence[PlannedCell], settings: SweepSettings) -> Pace | None:
    """The pace of the cells of this model that are finished; None without one."""
    took_s = decoded_s = 0.0
    units = count = 0
    for grid in sorted({cell.grid for cell in cells}):
        for path in sorted((settings.outdir / grid).glob("*.json")):
            document = stored(path) or {}
            sweep = document.get("sweep") or {}
            if sweep.get("model") == settings.grid.model and sweep.get("wall_s"):
                batches = [*document.get("results", []), *(document.get("plain") or [])]
                decoded_s += sum(batch.get("latency_s") or 0.0 for batch in batches)
                took_s += sweep.get("took_s") or sweep["wall_s"]
                units, count = units + sweep["units"], count + 1
    return Pace(max(0.0, took_s - decoded_s) / count, decoded_s / units) if units else None


def pilot(sweep: Sweep) -> Pace | None:
    """The pace of a short plain run; None, with the cause on stderr, where it fails."""
    sweep.say(f"pilot: {PILOT_TOKENS} tokens, for an estimate of time")
    settings = sweep.todo[0].settings
    short = replace(settings.shortened(1, PILOT_TOKENS), drafter="none", draft=None, cross_check=False)
    begin_s = time.monotonic()
    try:
        prompts = sweep.prompts[settings.prompts_key]
        document = run_cell(short, prompts, timeout_s=sweep.settings.cell_timeout_s)
    except (CellFailed, UserError) as problem:
        sweep.say(f"pilot failed: {problem}")
        return None
    took_s = time.monotonic() - begin_s
    decoded_s = float(document["summary"]["per_mode"][0]["latency_avg_s"])
    idle_s = 2 * sweep.settings.power.idle_seconds  # before and after the batches
    return Pace(max(0.0, took_s - decoded_s) + idle_s, decoded_s / PILOT_TOKENS)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(3700)
    ('42 s', '1 h 02 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# --- Words ---


def start_of_line() -> str:
    """What clears the line that shows how far a cell is."""
    return "\r\033[K" if sys.stderr.isatty() else ""


def append_line(path: Path, text: str) -> None:
    """Append one stamped line to a log."""
    stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{stamp} {text}\n")


def plan_lines(
    cells: Sequence[PlannedCell], todo: Sequence[PlannedCell], pace: Pace | None, outdir: Path
) -> list[str]:
    """The plan for people, 80 columns."""
    open_names = {cell.label for cell in todo}
    lines: list[str] = []
    grid = None
    for cell in cells:
        if cell.grid != grid:
            grid = cell.grid
            lines.append(f"{outdir / grid}")
        state = "to do" if cell.label in open_names else "done"
        time_s = f"{duration(pace.seconds_for([cell])):>12}" if pace else ""
        lines.append(f"  {cell.name:54}{state:>7}{time_s}")
    total = f", about {duration(pace.seconds_for(todo))}" if pace else ""
    lines.append(f"{counted(len(cells), 'cell')}, {len(todo)} to do{total}")
    if todo and not pace:
        lines.append(
            "no estimate of time yet: no cell of this model is finished; a start begins with a pilot"
        )
    return lines
