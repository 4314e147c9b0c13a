"""Rows of engine runs as one table, speed-ups with intervals, and where the time goes.

Columns: Backend, Model, Prefill tok/s, Decode tok/s, TTFT ms, Notes.

Takes rows of compare_backends.py, of parse_backend_logs.py, or both. Runs of one engine are one line, mean ±
sample standard deviation over n; warm-up runs are left out. Behind the six columns come n, tokens that agree
with llama-cpp-python's answer, J per token, and the weight traffic in GB/s against the board's limit.

Speed-ups: the runs of one round stand next to each other in time, so engines are compared round by round:
the mean of ln(rate A / rate B) over the rounds, with a 95 % t interval (Student 1908), turned back into a
ratio. An interval that holds 1 says that the data do not tell A from B.

Rows measured under different conditions (power mode, clocks, governor, board), or doing different work, are
refused side by side unless --allow_differing_conditions. The text is Markdown, or CSV, and sentences after it
that say what the data show.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.backends.reading import readable
from edgebench.errors import UserError
from edgebench.records.account import grouped
from edgebench.records.jsonl import read_jsonl, reason_of
from edgebench.shell.calls import as_called
from edgebench.shell.decimals import ratio_text
from edgebench.shell.progress import say
from edgebench.shell.text import mean_std_text
from edgebench.stats.intervals import mean_std, student_half_width

COLUMNS = ("Backend", "Model", "Prefill tok/s", "Decode tok/s", "TTFT ms", "Notes")
MORE = ("n", "Agreement", "J/token", "GB/s")
FIGURES = ("prefill_tok_per_s", "decode_tok_per_s", "ttft_ms", "joule_per_token")
CONDITIONS = ("board", "power_mode_name", "clocks_locked", "cpu_governor", "emc_locked", "gpu_max_hz")
WORK = ("model_sha256", "prompt_sha256", "asked_tokens", "n_threads")
OWN = ("n_gpu_layers", "flash_attn")  # each engine has its own way to say it
SWAPPED_BYTE = 512 << 20  # so much more in swap: some runs may have waited for the disk
WARMER_C = 10.0  # runs this much hotter than others may have been slowed down
LEAST_ROUNDS = 5
BOUND = 0.6  # of the bandwidth limit: decoding so near to it has little else to wait for
REFERENCE = "llama-cpp-python"
COMPILED = 2.0  # a first token that took so many times a warm one's time waited for a compiler
MOST_SINGLE = 12  # ratios of single runs that are printed
WIDTH = 100
MEASURE = as_called("compare_backends.py run")
UNRECORDED = (
    "Caution: these logs record neither power mode nor clocks, and may differ in prompt and length: the"
    f" figures are not of the same work. Measure what is to be compared with `{MEASURE}`."
)
Row = Mapping[str, Any]


# --- rows ---


@dataclass
class Line:
    """One engine on one model: its good runs, and why others failed."""

    name: str
    model: str
    runs: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)

    def setting(self, name: str) -> float | None:
        """The mean of what a log says beside its figures, load_ms for one."""
        found = [(run.get("settings") or {}).get(name) for run in self.runs]
        return mean_std([value for value in found if value is not None])[0]

    def values(self, name: str) -> list[float]:
        return [run[name] for run in self.runs if run.get(name) is not None]

    @property
    def is_cold(self) -> bool:
        """Whether a later run of the same work stands in the same log."""
        return bool(self.runs) and all((run.get("run") or 0) < (run.get("runs") or 0) for run in self.runs)

    @property
    def tests(self) -> set[str]:
        """The tests behind the rows of a log."""
        return {str(run.get("test")) for run in self.runs}

    def mean(self, name: str) -> float | None:
        return mean_std(self.values(name))[0]


def read_rows(paths: Sequence[str]) -> list[Row]:
    """All rows of the files. Raises UserError for a file that cannot be read, and says what makes one."""
    rows: list[Row] = []
    for path in paths:
        try:
            for number, row in read_jsonl(Path("/dev/stdin" if path == "-" else path)):
                if row is None:
                    say(f"{path}:{number}: no row; left out")
                    continue
                known, odd = readable(row)
                if odd:
                    say(f"{path}:{number}: no value of its kind in {', '.join(odd)}; taken as missing")
                rows.append(known)
        except OSError as exc:
            raise UserError(
                f"cannot read {path}: {reason_of(exc)}; give the --out file of `{MEASURE}`"
            ) from exc
    return rows


def last_rows(rows: Iterable[Row]) -> list[Row]:
    """The last row of each run_key, as a failed run may have been repeated; all that have none."""
    found: dict[Any, Row] = {}
    for place, row in enumerate(rows):
        if row.get("status") is not None:
            found[row.get("run_key") or place] = row
    return list(found.values())


def name_of(row: Row) -> str:
    """Engine and device, as in `tinygrad NV`."""
    words = [str(row.get("backend") or "?")]
    if row.get("device") and row["device"] not in words[0]:
        words.append(str(row["device"]))
    return " ".join(words)


def model_of(row: Row) -> str:
    model, quantization = (str(row.get(name) or "") for name in ("model", "quantization"))
    return model if quantization in model and model else f"{model} {quantization}".strip() or "?"


def gather(rows: Sequence[Row]) -> list[Line]:
    """Rows by engine and model, in the order in which they first came. Prefill and decode tests of one
    benchmark log are one line."""
    lines: dict[tuple[Any, ...], Line] = {}
    for row in rows:
        if row.get("engine"):
            line = lines.setdefault((row["engine"], model_of(row)), Line(name_of(row), model_of(row)))
            if row["status"] != "ok":
                line.failures.append(row)
            elif row.get("phase") != "warmup":
                line.name = name_of(row)  # the engine itself may have named its device
                line.runs.append(row)
            continue
        # Of a log's rows, only a prefill test and a decode test of the same settings are one line.
        names = ("flash_attn", "n_threads", "n_gpu_layers", "source_file", "depth_tokens")
        key = (name_of(row), model_of(row), *(row.get(name) for name in names))
        if key in lines and any(clash(run, row) for run in [*lines[key].runs, *lines[key].failures]):
            key = (*key, row.get("source_line"))
        line = lines.setdefault(key, Line(name_of(row), model_of(row)))
        (line.runs if row["status"] == "ok" else line.failures).append(row)
    return [line for line in lines.values() if line.runs or line.failures]


def clash(one: Row, other: Row) -> bool:
    """Two results of the same kind in one log are two lines, not two repeats; a failure is one by itself."""
    names = ("prefill_tok_per_s", "decode_tok_per_s")
    if "FAILED" in (one["status"], other["status"]):
        return True
    return any(one.get(name) is not None and other.get(name) is not None for name in names)


# --- are they comparable? ---


def differing(rows: Sequence[Row]) -> list[str]:
    """What speaks against standing side by side: each a sentence."""
    good = [row for row in rows if row["status"] == "ok"]
    found = []
    for name in CONDITIONS:
        seen = {str((row.get("conditions") or {}).get(name)) for row in good if row.get("conditions")}
        if len(seen) > 1:
            found.append(f"{name} is {' and '.join(sorted(seen))}")
    for name in WORK:
        able = [row for row in good if row.get("engine") and row.get("same_work", True)]
        seen = {str(row[name])[:12] for row in able if row.get(name)}
        if len(seen) > 1:
            found.append(f"{name} is {' and '.join(sorted(seen))}")
    for name in OWN:
        for engine in dict.fromkeys(row["engine"] for row in good if row.get("engine")):
            seen = {
                str(row[name]) for row in good if row.get("engine") == engine and row.get(name) is not None
            }
            if len(seen) > 1:
                found.append(f"{name} of {engine} is {' and '.join(sorted(seen))}")
    swaps = [(row.get("conditions") or {}).get("swap_used_byte") for row in good]
    swapped = [one for one in swaps if one is not None]
    if swapped and max(swapped) - min(swapped) > SWAPPED_BYTE:
        found.append(f"between {min(swapped) >> 20} and {max(swapped) >> 20} MB lay in swap")
    temps = [row["conditions"]["temp_c"] for row in good if (row.get("conditions") or {}).get("temp_c")]
    if temps and max(temps) - min(temps) > WARMER_C:
        found.append(f"the board was between {min(temps):.0f} and {max(temps):.0f} °C warm; let it cool down")
    return found


# --- cells ---


def cell(line: Line, name: str) -> str:
    """Mean ± std over runs; of a single row the spread its log printed."""
    values = line.values(name)
    mean, std = mean_std(values)
    if len(values) == 1:
        std = next(run.get(f"{name}_std") for run in line.runs if run.get(name) is not None)
    return mean_std_text(mean, std)


def count(line: Line) -> str:
    """Runs; of rows of a log the repetitions or tokens behind them, where it says."""
    if line.runs and not line.runs[0].get("engine"):
        return "/".join(dict.fromkeys(str(run.get("n") or "-") for run in line.runs))
    return str(len(line.runs))


def agreement(line: Line) -> str:
    """In how many leading tokens the answers are the reference's, at worst."""
    known = [run for run in line.runs if run.get("agreed_tokens") is not None]
    if not known:
        return "-"
    worst = min(known, key=lambda run: run["agreed_tokens"])
    if worst["first_difference"] is None:
        return f"all {worst['compared_tokens']}" + (" (by text)" if worst["agreement_by"] == "text" else "")
    return f"first {worst['agreed_tokens']} of {worst['compared_tokens']}"


def traffic_gb_s(line: Line) -> float | None:
    """Weight bytes read per token times tokens per second; what a log says of it where it does."""
    rates = [
        run["weight_read_byte"] * run["decode_tok_per_s"] / 1e9
        for run in line.runs
        if run.get("weight_read_byte") and run.get("decode_tok_per_s")
    ]
    return mean_std(rates)[0] or line.mean("memory_gb_per_s")


def what_was_run(run: Row) -> list[str]:
    """The test behind a row of a log, as prompts of 2 and 512 tokens are not the same work."""
    counts = [(run.get("prompt_tokens"), "prompt"), (run.get("generated_tokens"), "generated")]
    told = " and ".join(f"{number} {what}" for number, what in counts if number)
    test = run.get("test") or ""
    if run.get("tok_per_s"):
        return [f"{test}: {mean_std_text(run['tok_per_s'], run.get('tok_per_s_std'))} tok/s over both phases"]
    if any(char.isdigit() for char in test):  # pp512, tg128 @ d4096
        return [test]
    return [f"{told} tokens"] if told else []


def notes(line: Line) -> list[str]:
    """What must be known of a line, most telling first."""
    texts = [f"{row['status']}: {row.get('cause') or 'without a reason'}" for row in line.failures[:1]]
    if line.failures and line.runs:
        texts = [f"{len(line.failures)} of {len(line.failures) + len(line.runs)} runs failed: {texts[0]}"]
    for run in line.runs:
        if run.get("weights") and run["weights"] != run.get("quantization"):
            texts.append(f"weights {run['weights']}")
        if not run.get("engine"):
            texts += what_was_run(run)
        if not run.get("engine") and run.get("flash_attn") is not None:
            texts.append(f"flash attention {'on' if run['flash_attn'] else 'off'}")
        if run.get("same_work") is False:
            texts.append("not the same work")
        texts += [note for note in run.get("notes") or [] if not note.startswith(("warm-up:", "token times"))]
    flags = sorted({flag for run in line.runs for flag in run.get("power_flags") or ()})
    texts += [f"power: {', '.join(flags)}"] if flags else []
    skipped = line.values("warmup_excluded")
    if any(skipped):
        few, many = min(skipped), max(skipped)
        span = f"{few:.0f}" if few == many else f"{few:.0f} to {many:.0f}"
        texts.append(f"{span} warm-up tokens left out of decode")
    return list(dict.fromkeys(texts))


def record(line: Line, limit_gb_s: float | None) -> dict[str, str]:
    """A line of the table, all cells as text."""
    moved, joule = traffic_gb_s(line), line.mean("joule_per_token")
    share = f" ({moved / limit_gb_s:.0%})" if moved and limit_gb_s else ""
    cells = [
        line.name, line.model, *(cell(line, f"{name}_tok_per_s") for name in ("prefill", "decode")),
        cell(line, "ttft_ms"), "; ".join(notes(line)), count(line), agreement(line), mean_std_text(joule),
        mean_std_text(moved) + share,
    ]  # fmt: skip
    return dict(zip((*COLUMNS, *MORE), cells, strict=True))


# --- what the data show ---


def paired(first: Line, second: Line, name: str) -> list[float]:
    """ln(first / second) for each round that has both."""
    ours, theirs = logs_by_round(first, name), logs_by_round(second, name)
    return [log - theirs[number] for number, log in ours.items() if number in theirs]


def logs_by_round(line: Line, name: str) -> dict[int, float]:
    """Mean ln of a figure by round: of several campaigns in one table a round may have several runs."""
    known = [run for run in line.runs if run.get(name) and run.get("round") is not None]
    return {
        number: math.fsum(math.log(run[name]) for run in runs) / len(runs)
        for number, runs in grouped(known, lambda run: int(run["round"])).items()
    }


def interval(logs: Sequence[float]) -> tuple[float, float, float] | None:
    """Ratio and its 95 % interval from log ratios; None below two rounds.

    Geometric mean and t interval on the log scale: a ratio and its inverse then get the same verdict.
    """
    mean, std = mean_std(logs)
    if mean is None or std is None:
        return None
    half = student_half_width(std, len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def verdict(first: Line, second: Line, name: str, what: str) -> str | None:
    """How many times as fast is one as the other? With the interval, never from a point alone."""
    logs = paired(first, second, name)
    if logs and math.fsum(logs) < 0:  # the faster one is named first
        first, second, logs = second, first, [-one for one in logs]
    found = interval(logs)
    if found is None:
        return None
    ratio, low, high = found
    half = max(high - ratio, ratio - low)
    shown = ratio_text(ratio, half) if 2 * half < ratio else f"{ratio:.2g}"  # a wide interval is not even
    few = f"; only {len(logs)} rounds, at least {LEAST_ROUNDS} are wanted" if len(logs) < LEAST_ROUNDS else ""
    times = f"{shown} times as fast"
    basis = f"(95 % CI {low:.3g} to {high:.3g}, {len(logs)} paired rounds{few})"
    if low <= 1 <= high:
        return f"{what}: {first.name} and {second.name} cannot be told apart: {times} {basis}."
    return f"{what}: {first.name} is {times} as {second.name} {basis}."


def single_verdict(first: Line, second: Line, name: str, what: str) -> str | None:
    """The same of two logs of one run each: a ratio that is labelled as what it is."""
    fast, slow = first.mean(name), second.mean(name)
    if fast is None or slow is None:
        return None
    if fast < slow:
        first, second, fast, slow = second, first, slow, fast
    return (
        f"{what}, one run each, out of logs: {first.name} ran at {fast / slow:.3g} times the rate of"
        f" {second.name} ({fast:.4g} against {slow:.4g} tok/s). One run has no interval: whether another day"
        " gives the same order, these logs do not say."
    )


def pairs_of(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """tinygrad's devices against each other, then everyone against the reference."""
    own = [line for line in lines if line.name.startswith("tinygrad")]
    pairs = [(a, b) for n, a in enumerate(own) for b in own[n + 1 :]]
    base = next((line for line in lines if line.name.startswith(REFERENCE)), None)
    return pairs + [(line, base) for line in lines if base is not None and line is not base]


def comparisons(lines: Sequence[Line]) -> list[str]:
    """What paired rounds say; where there are none, what single runs of the same model say, as such."""
    able = [line for line in lines if line.runs and all(run.get("same_work", True) for run in line.runs)]
    texts = [
        verdict(first, second, name, what)
        for first, second in pairs_of(able)
        for name, what in (("decode_tok_per_s", "Decode"), ("prefill_tok_per_s", "Prefill"))
    ]
    return [text for text in texts if text]


def single_comparisons(lines: Sequence[Line]) -> list[str]:
    """Ratios of logs, device against device, of the same model and the same test."""
    logs = [line for line in lines if line.runs and not line.is_cold and not line.runs[0].get("engine")]
    texts = []
    for n, first in enumerate(logs):
        for second in logs[n + 1 :]:
            alike = first.model == second.model != "?" and first.tests == second.tests
            if alike and first.name != second.name:
                texts += [
                    single_verdict(first, second, name, what)
                    for name, what in (("decode_tok_per_s", "Decode"), ("prefill_tok_per_s", "Prefill"))
                ]
    return [text for text in texts if text][:MOST_SINGLE]


def where_the_time_goes(line: Line, limit_gb_s: float | None) -> str | None:
    """One line's time: compilation, prefill, bandwidth, and the rest: launch and compute."""
    tpot, ttft, tokens = line.mean("tpot_ms"), line.mean("ttft_ms"), line.mean("generated_tokens")
    texts = []
    warm_ms, skipped = line.mean("warmup_ms"), line.mean("warmup_excluded")
    if tpot and ttft and tokens and warm_ms and skipped:
        total = warm_ms + tpot * (tokens - skipped)
        # One slow token may be the prompt's: that more of them are slow is what compiling looks like.
        what = "compilation and warm-up" if skipped > 1 else "the first token, prompt and compilation,"
        takes = "take" if skipped > 1 else "takes"
        texts.append(
            f"{what} ({skipped:.0f} of {tokens:.0f} tokens) {takes} {warm_ms / total:.0%} of"
            f" the answer, the first token alone {ttft / total:.0%}"
        )
    elif tpot and ttft and tokens:
        total = ttft + tpot * (tokens - 1)
        texts.append(f"prefill takes {ttft / total:.0%} of an answer of {tokens:.0f} tokens")
    first = line.mean("first_run_ttft_ms")
    if first and ttft and first > COMPILED * ttft:
        times = f"{first / 1e3:.1f} s for its first token, {first / ttft:.0f} times a warm one"
        texts.append(f"the first run of a process waits {times}: compilation")
    moved = traffic_gb_s(line)
    if tpot and moved and limit_gb_s:
        share = moved / limit_gb_s
        rest = tpot * max(0.0, 1 - share)
        kind = "is" if share >= BOUND else "is not"
        least = (
            f"at {limit_gb_s:g} GB/s would take {tpot - rest:.2f} of {tpot:.2f} ms per token ({share:.0%})"
        )
        texts.append(
            f"reading the weights {least}: bandwidth {kind} the bottleneck, the other {rest:.2f} ms are"
            " launches, compute and sampling"
        )
    elif tpot and moved:
        texts.append(
            f"{moved:.3g} GB/s of weights; give --bandwidth_gb_s to judge it, the board does not say"
        )
    kernels = line.mean("kernels_per_token")
    if kernels:
        texts.append(f"{kernels:.0f} launches (kernels or captured graphs) per token")
    return f"{line.name}: {'; '.join(texts)}." if texts else None


def parts_of_an_answer(line: Line, limit_gb_s: float | None) -> dict[str, float]:
    """Where the time of one answer from a fresh process goes, in ms; only what was measured."""
    tpot, ttft, tokens = line.mean("tpot_ms"), line.mean("ttft_ms"), line.mean("generated_tokens")
    if not tpot or not ttft or not tokens:
        return {}
    first, warm_ms, skipped = (line.mean(n) for n in ("first_run_ttft_ms", "warmup_ms", "warmup_excluded"))
    parts = {"start-up": line.mean("load_ms") or line.setting("load_ms") or 0.0, "prefill": ttft}
    steady = tokens - 1
    if warm_ms and skipped and skipped > 1:  # of a log: the tokens that were slow beyond a steady one's time
        steady = tokens - skipped
        parts |= {"prefill": 0.0, "first-token compilation and prefill": warm_ms}
    elif first and first > COMPILED * ttft:
        parts["first-token compilation"] = first - ttft
    decoding, moved = tpot * steady, traffic_gb_s(line)
    if moved and limit_gb_s:
        reading = decoding * min(1.0, moved / limit_gb_s)
        parts |= {"reading the weights": reading, "launches, compute and sampling": decoding - reading}
    else:
        parts["decoding"] = decoding
    return {name: ms for name, ms in parts.items() if ms > 0}


def bottleneck(line: Line, limit_gb_s: float | None) -> str | None:
    """The largest part of an answer's time, and the share of every part."""
    parts = sorted(parts_of_an_answer(line, limit_gb_s).items(), key=lambda part: -part[1])
    total_ms = math.fsum(ms for _, ms in parts)
    if not parts or not total_ms:
        return None
    shares = ", ".join(f"{name} {ms / total_ms:.0%}" for name, ms in parts)
    return (
        f"Bottleneck of {line.name}: {parts[0][0]}. Of {total_ms / 1e3:.3g} s from a fresh process to its"
        f" last token: {shares}."
    )


def idle_cautions(lines: Sequence[Line]) -> list[str]:
    """What J/token hides: idle power that was measured in another state, and windows of few power samples.

    A card with a program on it idles higher than without: an H200 at 121 W against 78 W. What one engine's
    figure is net of, another's holds.
    """
    known = [line for line in lines if line.mean("joule_per_token") is not None]
    told = []
    if len({is_idle_resident(line) for line in known}) > 1:
        states = [
            f"{line.name} {(line.mean('idle_mw') or 0) / 1000:.4g} W {line.runs[0].get('idle_method')}"
            for line in known
        ]
        gross = [
            f"{line.name} {mean_std_text(line.mean('joule_per_token_gross'))}"
            for line in known
            if line.mean("joule_per_token_gross") is not None
        ]
        alike = f" Gross J/token, which is alike for all: {'; '.join(gross)}." if gross else ""
        told.append(
            f"J/token is net of idle power that was not measured alike: {'; '.join(states)}. A card with a"
            f" program on it may idle higher.{alike}"
        )
    thin = [line.name for line in known if all(has_few_samples(run) for run in line.runs)]
    if thin:
        told.append(
            f"J/token of {', '.join(thin)} rests on fewer than five power samples a run and may be far off:"
            " raise --max_tokens"
        )
    return told


def is_idle_resident(line: Line) -> bool:
    """Whether idle power is that of a process that sat still with its model."""
    return all("resident" in str(run.get("idle_method")) for run in line.runs)


def has_few_samples(run: Row) -> bool:
    return "few_power_samples" in (run.get("power_flags") or ())


def where_answers_part(line: Line) -> str | None:
    """Where a line's answer leaves the reference's, and how narrow the choice was there."""
    places = [int(one) for one in line.values("first_difference")]
    if not places:
        return None
    first = min(places)
    margins = [run.get("margin_logit") for run in line.runs if run.get("first_difference") == first]
    near = f", where its two best tokens are {margins[0]:.2g} logits apart" if margins[0] else ""
    return (
        f"{line.name} parts from {REFERENCE}'s answer at token {first + 1}{near}: at temperature 0 a"
        " narrow margin falls to another rounding or weight precision (llama.cpp rounds activations to"
        " 8 bits where weights are quantized), a wide one speaks of an error."
    )


def analysis(lines: Sequence[Line], limit_gb_s: float | None) -> list[str]:
    """Sentences from the data; the verdict comes last, where a reader of a terminal looks."""
    ran = [line for line in lines if line.runs]
    told = [where_the_time_goes(line, limit_gb_s) for line in ran]
    told += [where_answers_part(line) for line in ran]
    gone = [line.name for line in lines if not line.runs]
    told += [f"No result: {', '.join(gone)}; the notes say why."] if gone else []
    told += idle_cautions(ran)
    told += [bottleneck(line, limit_gb_s) for line in ran]
    verdicts = comparisons(lines)
    if not verdicts:
        verdicts = [
            "No two engines have paired rounds of the same work: no speed-up can be stated with an interval.",
            *single_comparisons(lines),
        ]
    return [text for text in (*told, *verdicts) if text]


# --- output ---


def markdown(records: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table, columns as wide as their cells except the notes."""
    names = list(records[0])
    clean = [[one[name].replace("|", "\\|").replace("\n", " ") for name in names] for one in records]
    # The notes are long: padding them would fill a terminal with blanks.
    widths = [
        0 if name == "Notes" else max(len(name), *(len(row[n]) for row in clean))
        for n, name in enumerate(names)
    ]
    lines = [names, ["-" * max(width, 5) for width in widths], *clean]
    return "".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |\n"
        for row in lines
    )


def figures(line: Line) -> dict[str, float | None]:
    """The numbers behind a line for CSV: mean and sample standard deviation over runs, null where none is."""
    found: dict[str, float | None] = {}
    for name in FIGURES:
        found[f"{name}_mean"], found[f"{name}_std"] = mean_std(line.values(name))
    return found


def comma_separated(records: Sequence[Mapping[str, Any]]) -> str:
    """The cells of the table as text, then the numbers behind them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def bandwidth(rows: Sequence[Row], given: float | None) -> float | None:
    """The board's memory bandwidth [GB/s]: as given, else as the check of the board knew it."""
    known = [(row.get("conditions") or {}).get("memory_bandwidth_gb_per_s") for row in rows]
    return given or next((one for one in known if one), None)


@dataclass(frozen=True)
class Wanted:
    """How the table is to look."""

    csv: bool = False  # comma-separated instead of Markdown
    bandwidth_gb_s: float | None = None  # the board's memory bandwidth; None: as its check knew it
    allow_differing_conditions: bool = False


def tabulate(given: Iterable[Row], wanted: Wanted, where: str) -> str:
    """The whole text; UserError where there is nothing, or nothing comparable. `where` the rows come from."""
    rows = last_rows(given)
    if not rows:
        raise UserError(f"no rows in {where}; measure with {MEASURE}")
    against = differing(rows)
    if against and not wanted.allow_differing_conditions:
        raise UserError(
            "these rows must not stand side by side: "
            + "; ".join(against)
            + "; measure them together, or say --allow_differing_conditions"
        )
    limit_gb_s, lines = bandwidth(rows, wanted.bandwidth_gb_s), gather(rows)
    if not lines:
        raise UserError(f"only warm-up runs so far; let {MEASURE} go on")
    records = [record(line, limit_gb_s) for line in lines]
    if wanted.csv:
        numbers = [figures(line) for line in lines]
        return comma_separated([{**one, **more} for one, more in zip(records, numbers, strict=True)])
    texts = [f"Caution, unlike conditions: {'; '.join(against)}."] if against else []
    if any(row["status"] == "ok" and not row.get("conditions") for row in rows):
        texts.append(UNRECORDED)
    texts += analysis(lines, limit_gb_s)
    items = [textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ") for text in texts]
    return markdown(records) + "\n" + "\n".join(items) + "\n"
