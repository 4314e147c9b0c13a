"""Can these measurements be true? Runs of a campaign held against each other and against physics.

Owns the verdicts, each with the lines of the file it concerns:
  error  a number that physics or the design forbids; the runs must be repeated
  warn   a number to explain before it is published
  ok     looked at, nothing found
  ?      cannot tell, and why
What needs a missing field is `?`, never a guess. Simulated power is named and not judged. The tests of a
run by itself are those of limits.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from edgebench.checking.limits import TestAnswer
from edgebench.checking.reading import Rows, Run, blocks, good, grouped, text
from edgebench.records.jsonl import glued_remark
from edgebench.records.run import HARD_FLAGS, campaign_seconds
from edgebench.shell.text import counted, duration
from edgebench.stats.drift import NOTABLE_PERCENT, Drift, cells_of_rates, drift_of
from edgebench.stats.intervals import mean_std

CAP_SHARE = 0.30  # of runs ended by max_tokens: beyond it, output length measures the cap
TEMP_RISE_C = 10.0
IDLE_SHARE = 0.03  # of idle power: two baselines that differ by less are the same
REPEAT_SPREAD = 0.10  # standard deviation over mean of one prompt's repeats
PROMPT_SPREAD = 1.5  # longest over shortest prompt: closer ones cannot show growth
SIMULATED, IDLE_DRIFT = "simulated_power", "idle_drift"
# Failures that come again in every further try, and what may help.
LASTING_FAILURES = {
    "not_a_generation": "another model file or build of the engine",
}
SEVERITIES = ("error", "warn", "?", "ok")
NO_RUN = "no finished run"
Test = Callable[[Run], "bool | None"]
Check = Callable[[Rows], "list[Verdict]"]


@dataclass(frozen=True)
class Verdict:
    """What one check says of the campaign."""

    check: str
    severity: str  # error, warn, ok or ?
    message: str
    lines: tuple[int, ...] = ()  # of the runs file


# --- checks: runs in, verdicts out ---


def judge_each(name: str, severity: str, rows: Rows, test: Test, message: str, why: str) -> Verdict:
    """One verdict from a test of each run: True when the run is at fault, None when it cannot be told."""
    answers = [(run, test(run)) for run in rows]
    judged = sum(answer is not None for _, answer in answers)
    found = tuple(run.line for run, answer in answers if answer)
    if found:
        return Verdict(name, severity, f"{len(found)} of {judged} runs: {message}", found)
    return Verdict(name, "ok", counted(judged, "run")) if judged else Verdict(name, "?", why)


def check_failed(runs: Rows) -> list[Verdict]:
    """Failed runs by kind, and what can be done about each."""
    kinds = Counter(run.error for run in runs if run.error).most_common()
    message = f"failed ({', '.join(f'{kind} x {count}' for kind, count in kinds)})"
    found = {kind for kind, _ in kinds}
    if found - LASTING_FAILURES.keys():
        message += "; collect with --retry_errors"
    for kind in LASTING_FAILURES:
        if kind in found:
            message += f"; {kind}: {LASTING_FAILURES[kind]}"
    why = "no run in the file"
    return [judge_each("failed runs", "error", runs, lambda run: bool(run.error), message, why)]


def check_duplicates(runs: Rows) -> list[Verdict]:
    first: dict[str, int] = {}
    for run in good(runs):
        first.setdefault(run.key, run.place)
    message = "the same run is in the file twice"
    return [judge_each("duplicates", "error", good(runs), lambda r: first[r.key] != r.place, message, NO_RUN)]


def look_up(fault_of: Mapping[int, bool | None], run: Run) -> bool | None:
    return fault_of[run.place]


def check_each_run(runs: Rows) -> list[Verdict]:
    """What limits.py found in each run by itself, one verdict per test."""
    verdicts = []
    answers = [(run, test) for run in good(runs) for test in run.limits.tests]
    for name in dict.fromkeys(test.check for _, test in answers):
        mine: dict[int, TestAnswer] = {run.place: test for run, test in answers if test.check == name}
        rows = [run for run in runs if run.place in mine]
        faults = [test for test in mine.values() if test.fault]
        why = Counter(test.message for test in mine.values()).most_common(1)[0][0]
        severity, message = (faults[0].severity, faults[0].message) if faults else ("ok", "")
        fault_of = {line: test.fault for line, test in mine.items()}
        verdicts.append(judge_each(name, severity, rows, partial(look_up, fault_of), message, why))
    return verdicts


def is_first_turn(run: Run) -> bool:
    """A second turn's prompt contains the first answer, so it is another one each time."""
    return run.cell[2] in ("", "1")


def prompt_ids(run: Run) -> str:
    """Hash of what the model read; "" in files that are older than this field."""
    return text(run.words.get("prompt_ids_sha256"))


def check_prompt_length(runs: Rows) -> list[Verdict]:
    """One prompt has one length, and the same tokens, in every repeat."""
    rows = [run for run in good(runs) if is_first_turn(run) and run["prompt_tokens"]]
    cells = grouped(rows, lambda run: (run.model_id, run.cell))
    longer = {key for key, cell in cells.items() if len({run["prompt_tokens"] for run in cell}) > 1}
    other = {key for key, cell in cells.items() if len({prompt_ids(run) for run in cell} - {""}) > 1}
    repeated = [run for cell in cells.values() if len(cell) > 1 for run in cell]
    message = "repeats of one prompt differ in prompt_tokens: prompts or template changed meanwhile"
    if other and not longer:
        message = (
            "repeats of one prompt differ in their tokens: prompts or template changed, by a date perhaps"
        )
    wrong = longer | other
    at_fault: Test = lambda run: (run.model_id, run.cell) in wrong  # noqa: E731
    return [judge_each("prompt length", "error", repeated, at_fault, message, "no prompt was run twice")]


def check_prompt_text(runs: Rows) -> list[Verdict]:
    """Different texts must reach the model as different prompts; files without the hashes have no verdict."""
    rows = [run for run in good(runs) if is_first_turn(run) and prompt_ids(run)]
    if not rows:
        return []
    texts_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in rows:
        texts_of[run.model_id, prompt_ids(run)].add(text(run.words.get("prompt_sha256")))
    message = "texts that differ reached the model as one prompt: its chat template drops them"
    at_fault: Test = lambda run: len(texts_of[run.model_id, prompt_ids(run)] - {""}) > 1  # noqa: E731
    return [judge_each("prompt text", "error", rows, at_fault, message, NO_RUN)]


def check_output_cap(runs: Rows) -> list[Verdict]:
    """Cells of model and level where the cap, not the model, ends the answers."""

    def capped(run: Run) -> bool | None:
        if run.words.get("finish_reason") is not None:
            return bool(run.words["finish_reason"] == "length")
        cap, tokens = run["max_tokens"], run["completion_tokens"]
        return None if cap is None or tokens is None else tokens >= cap

    rows = [run for run in good(runs) if capped(run) is not None]
    cells = grouped(rows, lambda run: (run.model_id, run.cell[1]))
    full = {key for key, cell in cells.items() if sum(map(bool, map(capped, cell))) >= CAP_SHARE * len(cell)}
    levels = grouped_levels(full)
    where = "; ".join(f"{model} {' '.join(names)}" for model, names in levels.items())
    message = f"cut off at max_tokens, as {CAP_SHARE:.0%} or more are of {where}: raise --max_tokens"
    why = "the records have neither finish_reason nor max_tokens"
    at_fault: Test = lambda run: bool(capped(run)) and (run.model_id, run.cell[1]) in full  # noqa: E731
    return [judge_each("output cap", "warn", rows, at_fault, message, why)]


def grouped_levels(cells: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Levels by model, both in order."""
    levels: dict[str, list[str]] = defaultdict(list)
    for model, level in sorted(cells):
        levels[model].append(level)
    return levels


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; x must not be constant.

    >>> slope([(1, 10), (2, 12), (3, 14)])
    2.0
    """
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def check_ttft(runs: Rows) -> list[Verdict]:
    """TTFT must grow with the prompt: least-squares slope of TTFT over prompt tokens, per model."""
    verdicts = []
    for model, rows in grouped(good(runs), lambda run: run.model_id).items():
        points = [(run["prompt_tokens"], run["ttft_ms"]) for run in rows]
        known = [(tokens, ttft) for tokens, ttft in points if tokens and ttft]
        lengths = [tokens for tokens, _ in known]
        if len(known) < 4 or max(lengths) < PROMPT_SPREAD * min(lengths):
            why = "too few or too similar prompt lengths" if known else "the records have no ttft_ms"
            verdicts.append(Verdict("TTFT", "?", f"{model}: {why}"))
        # A fast GPU's TTFT may hardly grow, but it never falls.
        elif (growth := slope(known)) <= 0:
            message = f"{model}: TTFT does not grow with the prompt: was it cached?"
            verdicts.append(Verdict("TTFT", "warn", message, tuple(run.line for run in rows)))
        else:
            verdicts.append(Verdict("TTFT", "ok", f"{model}: {growth:.3g} ms for each prompt token"))
    return verdicts or [Verdict("TTFT", "?", NO_RUN)]


def check_drift(runs: Rows) -> list[Verdict]:
    """Time per token over the campaign, as stats/drift.py defines drift; the analysis tells the same figure.

    Cells are repeats of one prompt, or where there are none the runs of one level.
    """
    verdicts = []
    timed = [run for run in good(runs) if run.decode_rate and HARD_FLAGS.isdisjoint(run.flags)]
    for model, rows in grouped(timed, lambda run: run.model_id).items():
        cells = cells_of_rates([run.cell for run in rows], [run.cell[1] for run in rows])
        times_s = campaign_seconds([run["t0_s"] for run in rows], [run["latency_ms"] for run in rows])
        has_stamps = any(time_s is not None for time_s in times_s)
        if not has_stamps:  # the order of the file is that of time: the span is then one of runs
            times_s = [float(place) for place in range(len(rows))]
        known = [
            (time_s, 1000 / (run.decode_rate or 1), cell)
            for time_s, run, cell in zip(times_s, rows, cells, strict=True)
            if time_s is not None
        ]
        found = drift_of(*map(list, zip(*known, strict=True))) if known else Drift(0)
        verdicts.append(drift_verdict(model, found, has_stamps, tuple(run.line for run in rows)))
    return verdicts or [Verdict("drift", "?", "the records have no decode rate")]


def anchor_drift(anchors: Rows) -> list[Verdict]:
    """The same of the anchor runs, whose lines are those of their own file."""
    found = [v for v in check_drift(anchors) if v.severity != "?"] if anchors else []
    return [Verdict("drift of anchors", v.severity, v.message) for v in found]


def drift_verdict(model: str, drift: Drift, has_stamps: bool, lines: tuple[int, ...]) -> Verdict:
    """The change with its interval, and whether it is more than noise explains and enough to matter."""
    if drift.change_percent is None or drift.span_s is None or drift.ci95_percent is None:
        return Verdict("drift", "?", f"{model}: too few comparable runs")
    over = duration(drift.span_s) if has_stamps else "the file"
    low, high = (signed(edge, 1) for edge in drift.ci95_percent)
    change = f"{signed(drift.change_percent, 1)} % over {over}"
    message = f"{model}: time per token {change} (95 % CI {low} to {high})"
    if drift.is_notable:
        return Verdict("drift", "warn", message, lines)
    small = abs(drift.change_percent) <= NOTABLE_PERCENT
    return Verdict("drift", "ok", message if small else f"{message}: noise alone could explain it")


def check_idle(runs: Rows) -> list[Verdict]:
    """Idle power that moved between two baselines; nothing to say where no run has one."""
    rows = [run for run in good(runs) if run["idle_mw"] is not None and run["energy_joule"] is not None]
    if not rows:
        return []
    if any(SIMULATED in run.flags for run in rows):
        return [Verdict("idle power", "?", "the power is simulated, so it is not judged")]
    seen = [run for run in rows if IDLE_DRIFT in run.flags]
    verdicts = []
    if seen:
        moved_mw = max((run["idle_drift_mw"] or 0.0 for run in seen), key=abs)
        message = (
            f"{len(seen)} of {len(rows)} runs: idle power moved by up to {signed(moved_mw, 0)} mW between the"
            " baselines before and after them; it is interpolated, and their energy is known less well:"
            " lower --idle_every, and let the board warm up"
        )
        verdicts.append(Verdict("idle power", "warn", message, tuple(run.line for run in seen)))
    unseen = unseen_drift([run for run in rows if IDLE_DRIFT not in run.flags])
    if unseen:
        moved_mw = max(unseen.values(), key=abs)
        message = (
            f"{len(unseen)} of {len(rows)} runs: idle power had moved by up to {signed(moved_mw, 0)} mW when"
            " it was measured again, and they keep the baseline before: their net energy is off by that much"
        )
        verdicts.append(Verdict("idle power", "warn", message, tuple(unseen)))
    count = sum(1 for _ in blocks(rows))
    return verdicts or [
        Verdict("idle power", "ok", f"{counted(len(rows), 'run')}, {counted(count, 'baseline')}")
    ]


def unseen_drift(rows: Rows) -> dict[int, float]:
    """Line -> how far idle power had moved [mW] by the model's next baseline, where that is too far."""
    moved: dict[int, float] = {}
    for block, after in pairwise(blocks(rows)):
        if after[0].model_id != block[0].model_id:
            continue
        before_mw, after_mw = block[0]["idle_mw"] or 0.0, after[0]["idle_mw"] or 0.0
        noise_mw = max(run["idle_std_mw"] or 0.0 for run in (block[0], after[0]))
        if abs(after_mw - before_mw) > max(IDLE_SHARE * abs(before_mw), noise_mw):
            moved |= {run.place: after_mw - before_mw for run in block}
    return moved


def check_temperature(runs: Rows) -> list[Verdict]:
    """Start temperatures of one model's runs: a warm board leaks more power and may throttle."""
    coolest: dict[str, float] = {}
    for run in good(runs):
        if (temp := run["temp_start_c"]) is not None:
            coolest[run.model_id] = min(temp, coolest.get(run.model_id, temp))

    def warm(run: Run) -> bool | None:
        temp = run["temp_start_c"]
        return None if temp is None else temp > coolest[run.model_id] + TEMP_RISE_C

    message = f"started more than {TEMP_RISE_C:.0f} C above the model's coolest run: add --cooldown"
    return [judge_each("temperature", "warn", good(runs), warm, message, "the records have no temp_start_c")]


def check_repeats(runs: Rows) -> list[Verdict]:
    """Repeats with equal output differ by noise alone: standard deviation of the latency over its mean."""
    rows = [run for run in good(runs) if run["latency_ms"]]
    cells = grouped(rows, lambda run: (run.model_id, run.cell, run["completion_tokens"])).values()
    repeated = [cell for cell in cells if len(cell) > 1]
    loose = set()
    for cell in repeated:
        mean, std = mean_std([run["latency_ms"] or 0 for run in cell])
        loose |= {run.place for run in cell if mean and std and std >= REPEAT_SPREAD * mean}
    message = f"latency of equal repeats spreads by {REPEAT_SPREAD:.0%} of its mean or more"
    flat = [run for cell in repeated for run in cell]
    return [
        judge_each("repeats", "warn", flat, lambda run: run.place in loose, message, "no run was repeated")
    ]


def check_environment(runs: Rows) -> list[Verdict]:
    """One table must not mix power modes, engines or model files."""
    known = [run.limits.env for run in runs if run.limits.env]
    values: dict[str, set[str]] = defaultdict(set)
    for env in known:
        for name, value in env.items():
            values[name].add(text(value)[:24])
    mixed = [
        f"{name} ({', '.join(sorted(found))})" for name, found in values.items() if len(found - {""}) > 1
    ]
    if mixed:
        return [Verdict("one environment", "warn", f"the runs mix {'; '.join(mixed)}")]
    fine = Verdict("one environment", "ok", counted(len(known), "run"))
    return [fine if known else Verdict("one environment", "?", "no environment record")]


CHECKS: tuple[Check, ...] = (
    check_failed,
    check_duplicates,
    check_each_run,
    check_prompt_length,
    check_prompt_text,
    check_output_cap,
    check_ttft,
    check_drift,
    check_idle,
    check_temperature,
    check_repeats,
    check_environment,
)


def judge(
    runs: Rows, broken: Sequence[int] = (), anchors: Rows = (), glued: Sequence[int] = ()
) -> list[Verdict]:
    """All verdicts, errors first. `broken`, `glued`: lines without a record, and with several."""
    verdicts = [verdict for check in CHECKS for verdict in check(runs)] + anchor_drift(anchors)
    as_text = [run for run in runs if run.as_text]
    if as_text:
        names = ", ".join(sorted({name for run in as_text for name in run.as_text}))
        message = f"{len(as_text)} runs have numbers written as text, read as numbers: {names}"
        verdicts.append(Verdict("numbers as text", "warn", message, tuple(run.line for run in as_text)))
    if broken:
        message = f"{len(broken)} lines are no JSON object; the collector heals a torn last line"
        verdicts.append(Verdict("unreadable lines", "warn", message, tuple(broken)))
    if remark := glued_remark(glued):
        verdicts.append(Verdict("glued records", "warn", remark, tuple(glued)))
    if any(SIMULATED in run.flags for run in runs):
        verdicts.append(Verdict("simulated power", "warn", "energy here is simulated: not a measurement"))
    return sorted(verdicts, key=lambda verdict: SEVERITIES.index(verdict.severity))


def signed(value: float, places: int) -> str:
    """A change with its sign; one that rounds to zero is +0.

    >>> signed(-0.004, 1), signed(480.2, 0), signed(-1.25, 1)
    ('+0.0', '+480', '-1.2')
    """
    shown = f"{value:+.{places}f}"
    return shown if shown.strip("+-0.") else shown.replace("-", "+")
