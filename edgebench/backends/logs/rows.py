"""One row per result that a log holds, and the rows as a table of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One result. Format 1; readers ignore fields they do not know."""

    schema_version: int = 1
    backend: str | None = None  # the engine: llama.cpp, tinygrad
    device: str | None = None  # what it computes on: CUDA, NV, CPU
    model: str | None = None  # as the log names it
    quantization: str | None = None  # weight type, e.g. Q6_K
    test: str | None = None  # pp512, tg128, pp8+tg4, pp512 @ d4096; tokens, perf, request, chat
    prompt_tokens: int | None = None  # tokens prefilled
    generated_tokens: int | None = None  # tokens (llama.cpp's perf lines: decode steps) the log counts
    prefill_tok_per_s: float | None = None  # tokens/s
    prefill_tok_per_s_std: float | None = None  # tokens/s, as printed
    decode_tok_per_s: float | None = None  # tokens/s after the warm-up
    decode_tok_per_s_std: float | None = None  # tokens/s, over repetitions (tables) or tokens (test "tokens")
    tok_per_s: float | None = None  # tokens/s of a test that mixes both phases
    tok_per_s_std: float | None = None  # tokens/s
    ttft_ms: float | None = None  # ms to the first token
    tpot_ms: float | None = None  # ms per steady token
    n: int | None = None  # repetitions, or steady tokens for test "tokens"
    warmup_excluded: int | None = None  # tokens left out as warm-up
    warmup_ms: float | None = None  # ms these took
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    flash_attn: bool | None = None
    build: str | None = None  # commit and number of the engine
    memory_gb_per_s: float | None = None  # GB/s the engine counts per steady token
    depth_tokens: int | None = None  # tokens in the context before the test
    settings: Mapping[str, Any] = field(default_factory=dict)  # further columns, as printed
    status: str = "ok"  # ok or FAILED
    cause: str | None = None  # of a failure: the log's own words where it has any
    source_file: str | None = None
    source_line: int | None = None  # where the result begins, counted from 1
    run: int | None = None  # which of several runs of the same work in this log; the last is the warm one
    runs: int | None = None  # how many
    notes: tuple[str, ...] = ()


def row_from(values: Mapping[str, Any]) -> Row:
    """A row of what a reader found, or of what the log has said of its run."""
    settings = dict(values.get("settings") or {})
    settings |= {name: values[name] for name in ("gpu", "load_ms") if values.get(name) is not None}
    given = {name: value for name, value in values.items() if name in Row.__dataclass_fields__}
    return Row(**{**given, "settings": settings, "notes": tuple(values.get("notes", ()))})


def show(value: float | None, std: float | None = None) -> str:
    if value is None:
        return "-"
    places = 2 if value < 10_000 else 0
    return f"{value:.{places}f}" + (f" ±{std:.{places}f}" if std is not None else "")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows for a terminal of 80 columns, with cause and notes under each."""
    yield f"{'engine':<13} {'model':<16} {'test':<10} {'prefill t/s':>14} {'decode t/s':>13} {'TTFT ms':>8}"
    source = None
    for row in rows:
        if row.source_file != source:
            source = row.source_file
            yield f"{source}:"
        engine = " ".join(part for part in (row.backend, row.device) if part) or "?"
        prefill = show(row.prefill_tok_per_s, row.prefill_tok_per_s_std)
        decode = show(row.decode_tok_per_s, row.decode_tok_per_s_std)
        what = f"{engine:<13.13} {row.model or '?':<16.16} {row.test or '-':<10.10}"
        yield f"{what} {prefill:>14} {decode:>13} {show(row.ttft_ms):>8}"
        below = [f"FAILED: {row.cause}"] if row.status == "FAILED" else []
        if row.tok_per_s:
            below.append(f"{show(row.tok_per_s, row.tok_per_s_std)} tok/s over both phases")
        for text in (*below, *row.notes):
            yield from textwrap.wrap(text, 78, initial_indent="  ", subsequent_indent="    ")
