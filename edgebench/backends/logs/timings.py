"""Timing lines of tinygrad and llama.cpp, run by run.

Reads tinygrad's --timing (ran model in, enqueue in, total) and --benchmark lines, its server's line, and the
prompt eval and eval lines of llama.cpp's tools, bindings and server, whatever prefix the version gives them;
and what a log says of itself: device, model, weight type, threads, layers on the GPU, build.

Warm-up: a just-in-time compiler makes the first tokens slow. The steady level is the median of the second
half of a run's tokens; the warm-up ends before the first three tokens in a row (or all that are left) of at
most 1.5 times that level. It is counted in warmup_excluded and kept out of the decode figures.

Events are {"kind": "row", "line": N, ...} per result and {"kind": "start", "line": N, "known": {...}} per
run; rates in tokens per second, times in ms, missing values left out. The input must be plain text: story.py
takes escape codes, progress bars and gzip off first.
"""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

MOST_EVENTS = 100_000
LEAST_MS = 1e-4  # shorter than any token: a misprint
WARM_UP_FACTOR = 1.5  # JIT tokens cost 2 to 1000 steady ones; clocks and a growing context stay below 1.5
STEADY_TOKENS = (
    3  # tinygrad compiles for the prompt, captures a graph, replays it: two quick ones prove nothing
)

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan(?:\(\w+\))?|inf(?:inity)?)"
TOKEN = re.compile(
    rf"(?:(ran model in|enqueue in|\btotal)\s+)?(?<![\w.])({NUMBER}) ms\b"
    rf"((?:,\s*(?:param\s+)?{NUMBER} (?:tok/s|GB/s|GOPS|GB|ms on GPU))*)"
)
PER_SECOND = re.compile(rf"(param\s+)?({NUMBER}) GB/s")
LOADED = re.compile(rf"loaded weights in\s+({NUMBER}) ms, ({NUMBER}) GB loaded at ({NUMBER}) GB/s")
TINY_SERVER = re.compile(rf"prefill:\s*({NUMBER}) tok/s.*?gen:\s*({NUMBER}) tok/s.*?out:\s*(\d+)")
PERF = re.compile(
    rf"\b(prompt eval|generation eval|eval|load)\s+time\s*=\s*({NUMBER})\s*ms"
    rf"(?:\s*/\s*(\d{{1,12}})\s*(?:tokens?|runs?)(?:.*?,\s*({NUMBER}) tokens per second)?)?"
)
SLOT = re.compile(r"\bid\s+(\d+)\s*\|\s*task\s+(-?\d+)")
# Ollama's --verbose block; durations as Go prints them: 1m2.5s, 130.2ms, 9µs.
OLLAMA = re.compile(
    r"^(total|load|prompt eval|eval) (duration|count|rate):\s+(\S+)(?: (?:token\(s\)|tokens/s))?\s*$"
)
GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|[µμu]s|ns)")
MS_OF_UNIT = {"h": 3.6e6, "m": 6e4, "s": 1e3, "ms": 1.0, "µs": 1e-3, "μs": 1e-3, "us": 1e-3, "ns": 1e-6}
CHAT = re.compile(rf"\[ Prompt: *({NUMBER}) t/s \| Generation: *({NUMBER}) t/s \]")

# What a log says of itself: field, line. The last saying before a result holds.
FACTS = [
    ("device", re.compile(r"\busing ([\w:+]+) backend\b")),
    ("device", re.compile(r"\b(NV|CUDA|METAL|AMD|CL|GPU|QCOM|CLANG|CPU)=1\b.*python")),
    ("device", re.compile(r"\bDEV=([\w:+]+).*python")),
    ("device", re.compile(r"ggml_(cuda|vulkan|metal|sycl|opencl)_init: found")),
    ("device", re.compile(r"using device ([A-Za-z]+)\d* \(")),
    ("gpu", re.compile(r"^\s*Device \d+: ([^,]{1,80}), compute capability")),
    ("model", re.compile(r"^using ([\w./-]+)$")),
    ("model", re.compile(r'using model "([^"]{1,200})"')),
    ("model", re.compile(r"general\.name\s+str\s+= (.{1,120})$|general\.name\s+= (.{1,120})$")),
    ("quantization", re.compile(r"(?:file type|model ftype)\s+= (?:mostly |all )?([\w-]+)")),
    ("n_threads", re.compile(r"\bn_threads\s*=\s*(\d{1,4})\b")),
    ("n_gpu_layers", re.compile(r"offloaded (\d{1,5})/\d+ layers to GPU")),
    ("flash_attn", re.compile(r"\bflash_attn\s+= (\w+)")),
    ("build", re.compile(r"^(?:main: )?build\s*[:=] *(\S+ \(\w+\))")),
]
ENGINES = {
    "tinygrad": re.compile(r"/tinygrad/|ran model in|\busing [\w:+]+ backend|loaded weights in|ram used:"),
    "llama.cpp": re.compile(r"\bggml_|\bllama[_-]\w+:|\bllm_load|\bcommon_\w+:"),
}
SETTINGS = ("load_ms", "loaded_gb", "load_gb_per_s", "gpu")  # ms, GB, GB/s, name
OF_ONE_RESULT = ("load_ms", "loaded_gb", "load_gb_per_s")  # the next result of the run did not load again
# A run has begun where one of these comes again, or comes after a result.
START = re.compile(
    r"(?P<backend>\busing [\w:+]+ backend\b)|(?P<seed>\bseed = \d)|(?P<weights>loaded weights in)"
    r"|(?P<named>using model \")|(?P<build>^main: build = |^build: .* with )|(?P<init>ggml_\w+_init: found)"
    r"|(?P<gguf>loaded meta data with)|(?P<command>\bpython3?\s+\S+\.py\b.*--)|(?P<bar>ram used:)"
    r"|(?P<tool>(?:^|[\s/])(?:llama-(?!bench:)[a-z-]+|main|server)(?:\.exe)?\s+-{1,2}\w)"
    r"|(?P<load>\bload_model: loading model)|(?P<ollama>(?:^|\s)ollama run\s)"
)
# Which program prints a result of a kind: what one said of itself is not true of another.
PROGRAMS = {"perf": "tool", "chat": "tool", "request": "server", "tokens": "tinygrad", "ollama": "ollama"}


# --- figures ---


def finite(text: str | None) -> float | None:
    """The number a text stands for; None for nan, inf and nothing."""
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def rate(count: int | None, time_ms: float | None, printed: str | None) -> float | None:
    """Tokens per second: the printed figure where it agrees with tokens and time, else the computed one."""
    if not count or not time_ms or time_ms < LEAST_MS:
        return None
    computed, said = 1e3 * count / time_ms, finite(printed)
    if not math.isfinite(computed):
        return None
    return said if said and abs(said - computed) <= 0.05 * computed else computed


def warm_up_tokens(times_ms: Sequence[float]) -> int:
    """How many tokens at the beginning are warm-up; all of them if the run never gets steady.

    >>> warm_up_tokens([4351, 2181, 334, 4.5, 4.4, 4.5, 4.4, 4.5])
    3
    """
    limit = WARM_UP_FACTOR * statistics.median(times_ms[len(times_ms) // 2 :])
    for start in range(len(times_ms)):
        if all(time <= limit for time in times_ms[start : start + STEADY_TOKENS]):
            return start
    return len(times_ms)


def steady_figures(
    times_ms: Sequence[float], gb_per_s: Sequence[float | None]
) -> tuple[dict[str, Any], list[str]]:
    """Decode figures of a run's token times, and what must be known of them."""
    skip = warm_up_tokens(times_ms)
    steady = times_ms[skip:]
    level = f"{WARM_UP_FACTOR} x the median of the second half"
    notes = [f"warm-up: the first {skip} of {len(times_ms)} tokens, before three in a row at most {level}"]
    figures: dict[str, Any] = {"ttft_ms": times_ms[0], "warmup_excluded": skip, "n": len(steady)}
    if skip:
        figures["warmup_ms"] = math.fsum(times_ms[:skip])
        # One slow token is a prompt, too: what else made it slow, a log of one run cannot say.
        what = "the prompt, and in a fresh process the compilation" if skip == 1 else "the compilation"
        notes.append(f"ttft_ms holds {what}")
    if len(steady) < STEADY_TOKENS:
        return figures, [*notes, f"steady tokens: {len(steady)}, decode is known from {STEADY_TOKENS}"]
    mean = statistics.fmean(steady)
    rates = [1e3 / time for time in steady]
    figures |= {"tpot_ms": mean, "decode_tok_per_s": 1e3 / mean}
    figures["decode_tok_per_s_std"] = statistics.stdev(rates) if len(rates) > 1 else None
    moved = [value for value in gb_per_s[skip:] if value is not None]
    figures["memory_gb_per_s"] = statistics.fmean(moved) if moved else None
    if len(steady) < 10:
        notes.append(f"only {len(steady)} steady tokens")
    slow = sum(time > 3 * statistics.median(steady) for time in steady)
    if slow:
        notes.append(f"{slow} later tokens take over 3 x the median and are counted")
    return figures, notes


def converted(name: str, value: str) -> Any:
    """A fact in the type of its field."""
    if name == "flash_attn":
        return {"1": True, "enabled": True, "0": False, "disabled": False}.get(value)
    if name in ("n_threads", "n_gpu_layers"):
        return int(value)
    return value.upper() if name == "device" else value


@lru_cache(maxsize=4096)  # a log that grows huge repeats itself
def facts_in(text: str) -> tuple[dict[str, Any], str | None]:
    """What a line says of its run, and the engine that prints such lines."""
    named: dict[str, Any] = {}
    for name, pattern in FACTS:
        found = pattern.search(text)
        if found:
            named[name] = converted(
                name, next(group for group in found.groups() if group is not None).strip()
            )
    loaded = LOADED.search(text)
    if loaded:
        named |= dict(zip(SETTINGS, map(finite, loaded.groups()), strict=False))
    return named, next((name for name, pattern in ENGINES.items() if pattern.search(text)), None)


def what_it_says(text: str) -> str | None:
    """What a line may tell: "run" of a run or its times, "engine" only who prints here; else None."""
    named, engine = facts_in(text)
    if named or START.search(text):
        return "run"
    timed = any(word in text for word in (" ms", "t/s", "tok/s", "time =", "print_timing"))
    if timed and any(pattern.search(text) for pattern in (TOKEN, TINY_SERVER, PERF, CHAT, SLOT)):
        return "run"
    if OLLAMA.match(text):
        return "run"
    return "engine" if engine else None


def go_ms(text: str) -> float | None:
    """A duration as Go prints it, in ms; None where it is none.

    >>> go_ms("1m2.5s"), go_ms("130.2ms"), go_ms("500µs"), go_ms("soon")
    (62500.0, 130.2, 0.5, None)
    """
    parts = GO_DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return math.fsum(float(number) * MS_OF_UNIT[unit] for number, unit in parts)


# --- one log, line by line ---


@dataclass
class TimingReader:
    """Takes plain lines and keeps, in their order, the results and the starts of runs."""

    events: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # of this run
    tokens: dict[str, list[tuple[float, float | None]]] = field(default_factory=dict)  # kind -> (ms, GB/s)
    token_line: int = 0  # of the first token
    last_token_line: int = 0
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)  # slot and task -> prompt eval line
    slot: str = ""

    seen: set[str] = field(default_factory=set)  # the starts this run has had
    fresh: dict[str, Any] = field(default_factory=dict)  # facts said since the last result
    program: str | None = None  # that printed the last result of this run
    ollama: dict[str, Any] = field(default_factory=dict)  # the open block of its --verbose lines

    def __post_init__(self) -> None:
        self.events.append({"kind": "start", "line": 0, "known": self.facts})

    def start(self, line: int, sign: str) -> None:
        """A new run, unless the run so far has only been announcing itself."""
        after_row = self.events[-1]["kind"] == "row"
        if after_row or (sign in self.seen and sign != "bar"):
            self.facts, self.fresh, self.seen, self.program = {}, {}, set(), None
        if not self.seen:
            self.events.append({"kind": "start", "line": line, "known": self.facts})
        self.seen.add(sign)

    def feed(self, line: int, text: str) -> None:
        if len(self.events) >= MOST_EVENTS:
            return
        sign = START.search(text)
        if sign:
            self.finish_tokens()
            self.start(line, sign.lastgroup or "")
        self.note_facts(text)
        if "print_timing" in text:  # the server names its slot in a line of its own, or before each figure
            self.note_slot(text)
        if " ms" in text or "t/s" in text or "tok/s" in text:
            self.note_perf(line, text)
            self.note_tokens(line, text)
        self.note_ollama(line, text)

    def note_facts(self, text: str) -> None:
        named, engine = facts_in(text)
        self.facts |= named
        self.fresh |= named
        if engine:
            self.facts.setdefault("backend", engine)
            self.fresh.setdefault("backend", engine)

    def row(self, line: int, **values: Any) -> None:
        """A result that ends on this line, with what the log has said of its run so far.

        What belongs to one result (its load) is used up by it; where another program prints the next one,
        what the first has said of itself is forgotten.
        """
        program = PROGRAMS.get(values.get("test", ""))
        if self.program not in (None, program):
            self.facts = dict(self.fresh)
            self.events.append({"kind": "start", "line": line, "known": self.facts})
        self.program = program
        settings = {name: self.facts[name] for name in SETTINGS if self.facts.get(name) is not None}
        known = {name: value for name, value in self.facts.items() if name not in SETTINGS}
        values = {**known, "settings": settings, **values}
        self.events.append(
            {"kind": "row", "line": line, **{k: v for k, v in values.items() if v is not None}}
        )
        self.fresh = {}
        for name in OF_ONE_RESULT:
            self.facts.pop(name, None)

    # tinygrad

    def note_tokens(self, line: int, text: str) -> None:
        for found in TOKEN.finditer(text):
            kind, time_ms, rest = found[1], finite(found[2]), found[3]
            if time_ms is None or time_ms < LEAST_MS or (kind is None and "tok/s" not in rest):
                continue
            moved = next((finite(value) for param, value in PER_SECOND.findall(rest) if not param), None)
            if not self.tokens:
                self.token_line = line
            self.last_token_line = line
            self.tokens.setdefault(kind or "step", []).append((time_ms, moved))
        served = TINY_SERVER.search(text)
        if served:
            prefill, decode = finite(served[1]), finite(served[2])
            self.row(
                line,
                backend="tinygrad",
                test="request",
                prefill_tok_per_s=prefill or None,
                decode_tok_per_s=decode or None,
                generated_tokens=int(served[3][:12]),
                n=1,
                source_line=line,
                **({} if decode else {"status": "FAILED", "cause": "the server printed no decode rate"}),
            )

    def finish_tokens(self) -> None:
        """The token times since the last start are one run."""
        kinds, self.tokens = self.tokens, {}
        series = kinds.get("step") or []
        ran, total = kinds.get("ran model in", []), kinds.get("total", [])
        label = "step"
        if not series:
            # total holds the wait for the device as well; a run cut off may have one total less.
            series, label = (
                (total, "total") if total and len(total) + 1 >= len(ran) else (ran, "ran model in")
            )
        if not series:
            return
        figures, notes = steady_figures([time for time, _ in series], [moved for _, moved in series])
        if label != "step":
            notes.append(f"token times are the lines '{label}'")
        if not figures.get("decode_tok_per_s"):
            figures |= {"status": "FAILED", "cause": "the run never gets past its warm-up"}
        at, count = self.token_line, len(series)
        self.row(
            self.last_token_line,
            backend="tinygrad",
            test="tokens",
            generated_tokens=count,
            notes=tuple(notes),
            source_line=at,
            **figures,
        )

    # llama.cpp

    def note_slot(self, text: str) -> None:
        slot = SLOT.search(text)
        if slot:
            self.slot = f"{slot[1]}/{slot[2]}"

    def note_perf(self, line: int, text: str) -> None:
        self.note_slot(text)
        for found in PERF.finditer(text):
            what, time_ms, count = found[1], finite(found[2]), int(found[3]) if found[3] else None
            if what == "load":
                self.flush_prompt(line, "")
                self.slot = ""
                self.facts["load_ms"] = self.fresh["load_ms"] = time_ms
            elif what == "prompt eval":
                self.flush_prompt(line, self.slot)
                prefill = rate(count, time_ms, found[4])
                self.prompts[self.slot] = {
                    "prompt_tokens": count,
                    "prefill_tok_per_s": prefill,
                    "ttft_ms": time_ms if prefill else None,
                    "source_line": line,
                }
            else:
                self.perf_row(line, time_ms, count, found[4])
        chat = CHAT.search(text)
        if chat:
            self.rates_row(
                line,
                "chat",
                {"prefill_tok_per_s": finite(chat[1]) or None, "source_line": line},
                finite(chat[2]),
            )

    def perf_row(self, line: int, time_ms: float | None, count: int | None, printed: str | None) -> None:
        values = self.prompts.pop(self.slot, {"source_line": line})
        decode = rate(count, time_ms, printed)
        if decode and count and time_ms:
            values["tpot_ms"] = time_ms / count
        self.rates_row(
            line, "request" if self.slot else "perf", {**values, "generated_tokens": count}, decode
        )

    def rates_row(
        self,
        line: int,
        test: str,
        values: dict[str, Any],
        decode: float | None,
        backend: str = "llama.cpp",
    ) -> None:
        if values.get("ttft_ms"):
            values["notes"] = ("ttft_ms is the prompt's evaluation alone",)
        if not decode and not values.get("prefill_tok_per_s"):
            values |= {"status": "FAILED", "cause": "the timing lines give no time above zero"}
        elif not decode:
            values["notes"] = (*values.get("notes", ()), "no decode step was timed")
        elif test != "chat" and not values.get("prefill_tok_per_s"):
            values["notes"] = (*values.get("notes", ()), "no prompt was timed")
        self.row(line, backend=backend, test=test, decode_tok_per_s=decode, n=1, **values)

    # Ollama

    def note_ollama(self, line: int, text: str) -> None:
        """A line of the block that `ollama run --verbose` prints after an answer; its last line ends it."""
        found = OLLAMA.match(text)
        if not found:
            return
        what, kind, printed = found.groups()
        if what == "total" and kind == "duration":
            self.ollama = {"source_line": line}
        self.ollama[f"{what} {kind}"] = go_ms(printed) if kind == "duration" else finite(printed)
        if (what, kind) != ("eval", "rate"):
            return
        block, self.ollama = self.ollama, {}
        count, took_ms = block.get("eval count"), block.get("eval duration")
        prompt, prompt_ms = block.get("prompt eval count"), block.get("prompt eval duration")
        # The first token comes out of the prompt's evaluation; Ollama's own rate counts all of them.
        decode = rate(int(count or 0), took_ms, printed)
        self.facts.setdefault("backend", "Ollama")
        self.facts["load_ms"] = block.get("load duration")
        values: dict[str, Any] = {
            "source_line": block.get("source_line", line),
            "prompt_tokens": int(prompt) if prompt else None,
            "prefill_tok_per_s": rate(int(prompt or 0), prompt_ms, None),
            "generated_tokens": int(count) if count else None,
            "ttft_ms": prompt_ms,
            "tpot_ms": took_ms / count if took_ms and count else None,
        }
        self.rates_row(line, "ollama", values, decode, backend="Ollama")

    def flush_prompt(self, line: int, slot: str) -> None:
        """A prompt line whose eval line never came: the run broke off, or generated nothing."""
        values = self.prompts.pop(slot, None)
        if values:
            self.rates_row(line, "request" if slot else "perf", values, None)

    def finish(self, line: int) -> None:
        self.finish_tokens()
        for slot in list(self.prompts):
            self.flush_prompt(line, slot)


def read_timings(lines: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """Results and starts of runs in numbered lines of text."""
    reader, line = TimingReader(), 0
    for line, text in lines:
        reader.feed(line, text)
    reader.finish(line)
    return reader.events
