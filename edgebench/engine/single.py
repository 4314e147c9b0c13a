#!/usr/bin/env python3
"""One model in one process: reads requests on stdin, answers each with one JSON line on stdout.

The collector starts one of these per model, so that a crash, an allocation that
is refused or a hang of the engine costs one run and not the campaign, and so
that all memory is free again before the next model is loaded.

Requests, one JSON object per line:
  {"op": "open", "model": "a.gguf"}            vocabulary only: enough to count tokens
  {"op": "count", "prompt": PROMPT}            -> prompt_tokens, prompt_sha256; with "ids": true also ids
  {"op": "load", "n_ctx": 4096, …}             weights and context -> load_ms, n_ctx, what the engine did
  {"op": "run", "prompt": PROMPT, "max_tokens": 512, "temperature": 0, "seed": 0}
                                               -> one cold, timed generation: "record" holds the
                                                  run record's fields
  {"op": "prefill", "prompt": PROMPT, "seconds": 5}
                                               -> the same prefill again and again: t0_s, t1_s, count
  {"op": "board"}                              -> temperature, clocks, throttle events
PROMPT is {"messages": [{"role", "content"}…], "format": "chat"|"raw", "thinking": false}.

Every answer has "ok"; where it is false, "error" {type, message} says why, with
the engine's own log lines. Times ending in _s are seconds of the monotonic
clock, which all processes of a machine share.

Example:
  echo '{"op": "open", "model": "models/demo/demo-llama-F32.gguf"}' | python companions/engine_worker.py
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG_LINES_KEPT = 200
WARN, ERROR = 3, 4  # ggml_log_level of this engine
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
SYS = Path("/sys")
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class EngineError(Exception):
    """The engine refused; the message carries its own log lines."""


@dataclass
class Engine:
    """The loaded model, its context, and the last lines of the engine's log."""

    path: str = ""
    model: Any = None
    vocab: Any = None
    context: Any = None
    formatter: Any = None  # renders messages; None where the file has no template that can be read
    no_template: str = ""  # why
    log: collections.deque[tuple[int, str]] = field(
        default_factory=lambda: collections.deque(maxlen=LOG_LINES_KEPT)
    )
    log_callback: Any = None  # ctypes frees a callback that nothing holds


# ---------------------------------------------------------------------------
# Loading


def keep_log(engine: Engine) -> None:
    """Collect the engine's log lines: without verbose it would hide the reason of every failure."""
    import llama_cpp

    def keep(level: int, text: bytes, _user_data: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if line.strip("."):
            engine.log.append((level, line))
            if level in (WARN, ERROR):  # also to stderr, which outlives a crash
                print(line, file=sys.stderr, flush=True)

    engine.log_callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(engine.log_callback, ctypes.c_void_p(0))


def complaints(engine: Engine) -> str:
    """The engine's warnings and errors of this request, as one line."""
    lines = [line for level, line in engine.log if level in (WARN, ERROR)]
    return "; ".join(lines[-4:]) or "the engine gave no reason"


def open_model(engine: Engine, path: str, **params: Any) -> None:
    """Load a model file; with vocab_only=True its vocabulary and metadata alone. EngineError if refused."""
    import llama_cpp

    close_model(engine)
    settings = llama_cpp.llama_model_default_params()
    for name, value in params.items():
        setattr(settings, name, value)
    engine.path = path
    engine.model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
    if not engine.model:
        raise EngineError(f"the engine cannot load {path}: {complaints(engine)}")
    engine.vocab = llama_cpp.llama_model_get_vocab(engine.model)
    try:
        engine.formatter, engine.no_template = chat_formatter(engine), "has no chat template"
    except Exception as exc:  # a template is a program of the model's author: its syntax may be anything
        engine.no_template = f"has a chat template that cannot be read ({exc})"


def close_model(engine: Engine) -> None:
    """Free context and model; a second open in one process must not hold the first one's memory."""
    import llama_cpp

    if engine.context:
        llama_cpp.llama_free(engine.context)
    if engine.model:
        llama_cpp.llama_model_free(engine.model)
    engine.context = engine.model = engine.vocab = engine.formatter = None


def chat_formatter(engine: Engine) -> Any:
    """The model's own chat template as a callable, or None where the file has none."""
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llama_cpp.llama_model_chat_template(engine.model, None)
    if not template:
        return None

    def text_of(token: int) -> str:
        text = llama_cpp.llama_vocab_get_text(engine.vocab, token) if token >= 0 else b""
        return str(text.decode("utf-8", "replace"))

    return Jinja2ChatFormatter(
        template=template.decode("utf-8", "replace"),
        bos_token=text_of(llama_cpp.llama_vocab_bos(engine.vocab)),
        eos_token=text_of(llama_cpp.llama_vocab_eos(engine.vocab)),
    )


def load(engine: Engine, request: Mapping[str, Any]) -> dict[str, Any]:
    """Load the weights and make the context; the clock sees the file mapped or read and the buffers made."""
    import llama_cpp

    began_s = time.monotonic()
    open_model(engine, engine.path, n_gpu_layers=request["n_gpu_layers"])
    settings = llama_cpp.llama_context_default_params()
    for name in ("n_ctx", "n_batch", "n_ubatch", "n_threads"):
        setattr(settings, name, request[name])
    settings.n_threads_batch = request["n_threads"]
    settings.flash_attn_type = FLASH_ATTN[request["flash_attn"]]
    settings.type_k = settings.type_v = KV_TYPES[request["kv_type"]]
    settings.no_perf = False  # the engine's own counters prove the cold prefill
    engine.context = llama_cpp.llama_init_from_model(engine.model, settings)
    if not engine.context:
        n_ctx = request["n_ctx"]
        raise EngineError(f"the engine cannot make a context of {n_ctx} tokens: {complaints(engine)}")
    return {
        "load_ms": (time.monotonic() - began_s) * 1000,
        "n_ctx": llama_cpp.llama_n_ctx(engine.context),
        **model_facts(engine),
        "engine_log": [line for level, line in engine.log if is_telling(level, line)],
    }


def is_telling(level: int, line: str) -> bool:
    """Log lines worth keeping with the environment: where the layers went, what was chosen, what failed."""
    return level in (WARN, ERROR) or bool(re.search("offload|Flash Attention|buffer size|using device", line))


def model_facts(engine: Engine) -> dict[str, Any]:
    """What the engine says of the model."""
    import llama_cpp

    text = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(engine.model, text, 256)
    return {
        "description": text.value.decode("utf-8", "replace"),
        "n_ctx_train": llama_cpp.llama_model_n_ctx_train(engine.model),
        "n_vocab": llama_cpp.llama_vocab_n_tokens(engine.vocab),
        "has_chat_template": engine.formatter is not None,
    }


# ---------------------------------------------------------------------------
# Prompts: messages -> exact token ids


def prompt_text(engine: Engine, prompt: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The text to be tokenized, and flags: the contents joined by blank lines, or the model's chat template.

    A template that refuses a system message (Gemma's does) gets it at the head of the first user message.
    """
    messages = [{**message, "content": message["content"] or ""} for message in prompt["messages"]]
    if prompt["format"] == "raw":
        return "\n\n".join(message["content"] for message in messages), []
    if engine.formatter is None:
        raise EngineError(f"{engine.path} {engine.no_template}; use --prompt_format raw")
    try:
        return render(engine, messages, prompt), []
    except Exception as refused:  # a template is a program of the model's author and may raise anything
        if messages[0]["role"] != "system":
            raise EngineError(f"{engine.path}: its chat template refused the prompt: {refused}") from refused
    merged = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
    try:
        return render(engine, [merged, *messages[2:]], prompt), ["system_in_user"]
    except Exception as refused:
        raise EngineError(f"{engine.path}: its chat template refused the prompt: {refused}") from refused


def render(engine: Engine, messages: Sequence[Mapping[str, str]], prompt: Mapping[str, Any]) -> str:
    """Apply the chat template. enable_thinking is what Qwen3's reads; others ignore it."""
    rendered = engine.formatter(messages=messages, enable_thinking=bool(prompt.get("thinking")))
    return str(rendered.prompt)


def prompt_ids(engine: Engine, prompt: Mapping[str, Any]) -> tuple[list[int], bool, list[str]]:
    """Exact prompt ids, whether the prompt leaves thinking open, and flags.

    A chat template writes its own BOS; raw text gets the one the model's metadata asks for.
    """
    text, flags = prompt_text(engine, prompt)
    raw = prompt["format"] == "raw"
    ids = tokenize(engine, text, add_special=raw, parse_special=not raw)
    return ids, text.rstrip().endswith(THINK_OPEN), flags


def tokenize(engine: Engine, text: str, add_special: bool, parse_special: bool) -> list[int]:
    """Token ids of a text."""
    import llama_cpp

    data = text.encode("utf-8", "replace")
    room = len(data) + 8
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(engine.vocab, data, len(data), ids, room, add_special, parse_special)
    if count < 0:
        raise EngineError(f"the engine cannot tokenize a prompt of {len(data)} bytes")
    return list(ids[:count])


def detokenize(engine: Engine, ids: Sequence[int]) -> str:
    """Text of token ids without special tokens; bytes that are no UTF-8 are dropped, as in the chat call."""
    import llama_cpp

    text, size = b"", 64
    for token in ids:
        piece = ctypes.create_string_buffer(size)
        length = llama_cpp.llama_token_to_piece(engine.vocab, token, piece, size, 0, False)
        if length < 0:
            piece = ctypes.create_string_buffer(-length)
            length = llama_cpp.llama_token_to_piece(engine.vocab, token, piece, -length, 0, False)
        text += piece.raw[:length]
    return text.decode("utf-8", "ignore")


def sha256_ids(ids: Sequence[int]) -> str:
    """Hash of the ids, little-endian 32-bit: what the model really reads."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little", signed=True) for token in ids)).hexdigest()


# ---------------------------------------------------------------------------
# The timed run


def make_sampler(temperature: float, seed: int) -> Any:
    """Greedy at temperature 0, else a plain draw at that temperature (no top-k, no top-p, no penalties)."""
    import llama_cpp

    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if temperature <= 0:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
    else:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_temp(temperature))
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))
    return chain


def start_cold(engine: Engine) -> None:
    """Forget every cached key and value and zero the counters: the next prompt is computed from scratch."""
    import llama_cpp

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(engine.context), True)
    llama_cpp.llama_perf_context_reset(engine.context)


def prefill(engine: Engine, ids: Any, count: int, n_batch: int) -> None:
    """Decode the prompt in batches; the engine queues them and only sampling waits for the result."""
    import llama_cpp

    for start in range(0, count, n_batch):
        size = min(n_batch, count - start)
        tokens = ctypes.cast(
            ctypes.byref(ids, start * ctypes.sizeof(ctypes.c_int32)), llama_cpp.llama_token_p
        )
        status = llama_cpp.llama_decode(engine.context, llama_cpp.llama_batch_get_one(tokens, size))
        if status:
            raise EngineError(f"the engine's decode returned {status} in the prompt: {complaints(engine)}")


def timed_run(engine: Engine, ids: Sequence[int], request: Mapping[str, Any]) -> dict[str, Any]:
    """One cold generation: {"ids", "t0_s", "first_token_s", "t1_s", "decode_steps", "finish_reason"}.

    The clock starts before the first batch of the prompt and stops when the last id is sampled. Inside the
    loop there are three engine calls and one timestamp; text is made afterwards, because turning all ids into
    text at every token is quadratic work.
    """
    import llama_cpp

    n_batch = llama_cpp.llama_n_batch(engine.context)
    decode, sample = llama_cpp.llama_decode, llama_cpp.llama_sampler_sample
    is_end, context, vocab = llama_cpp.llama_vocab_is_eog, engine.context, engine.vocab
    sampler = make_sampler(request["temperature"], request["seed"])
    prompt = (llama_cpp.llama_token * len(ids))(*ids)
    one = (llama_cpp.llama_token * 1)()
    batch = llama_cpp.llama_batch_get_one(ctypes.cast(one, llama_cpp.llama_token_p), 1)
    out: list[int] = []
    stamps_s: list[float] = []
    limit, finish, status = request["max_tokens"], "length", 0
    clock = time.monotonic
    start_cold(engine)
    t0_s = clock()
    prefill(engine, prompt, len(ids), n_batch)
    while True:
        token = sample(sampler, context, -1)  # waits for the device: the stamp is of a finished token
        stamps_s.append(clock())
        if is_end(vocab, token):
            finish = "stop"
            break
        out.append(token)
        if len(out) >= limit:
            break
        one[0] = token
        status = decode(context, batch)
        if status:
            break
    llama_cpp.llama_sampler_free(sampler)
    if status:
        raise EngineError(
            f"the engine's decode returned {status} after {len(out)} tokens: {complaints(engine)}"
        )
    return {
        "ids": out,
        "t0_s": t0_s,
        "first_token_s": stamps_s[0],
        "t1_s": stamps_s[-1],
        "decode_steps": len(stamps_s) - 1,
        "finish_reason": finish,
    }


def run(engine: Engine, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a run request: counts, times, text."""
    import llama_cpp

    ids, thinking_open, flags = prompt_ids(engine, request["prompt"])
    if not ids:
        raise EngineError("the prompt is empty")
    if len(ids) + request["max_tokens"] > llama_cpp.llama_n_ctx(engine.context):
        n_ctx = llama_cpp.llama_n_ctx(engine.context)
        raise EngineError(
            f"prompt of {len(ids)} tokens + max_tokens {request['max_tokens']} exceed the context of {n_ctx};"
            " lower --max_tokens or raise --n_ctx"
        )
    before = board_state()
    done = timed_run(engine, ids, request)
    after = board_state()
    perf = llama_cpp.llama_perf_context(engine.context)
    reasoning = split_reasoning(engine, done["ids"], thinking_open)
    fields = {
        "prompt_tokens": len(ids),
        # The counter never reports less than 1, and a prompt of one token is counted as decoding.
        "prompt_tokens_evaluated": perf.n_p_eval,
        "completion_tokens": len(done["ids"]),
        "finish_reason": done["finish_reason"],
        **{name: done[name] for name in ("t0_s", "first_token_s", "t1_s")},
        **timing(done, len(ids), perf.t_p_eval_ms + perf.t_eval_ms),
        **compare_board(before, after),
        **reasoning,
    }
    if fields["prompt_tokens_evaluated"] != len(ids):
        computed = f"{fields['prompt_tokens_evaluated']} of {len(ids)}"
        message = f"the engine computed {computed} prompt tokens in the timed run"
        fields["error"] = {"type": "warm_cache", "message": message}
    return {"record": fields, "flags": flags + outcome_flags(fields)}


def timing(done: Mapping[str, Any], prompt_tokens: int, engine_ms: float) -> dict[str, float | None]:
    """Times and rates of a finished run; null where there were too few tokens to tell."""
    latency_ms = (done["t1_s"] - done["t0_s"]) * 1000
    ttft_ms = (done["first_token_s"] - done["t0_s"]) * 1000
    steps, tokens = done["decode_steps"], len(done["ids"])
    return {
        "latency_ms": latency_ms,
        "ttft_ms": ttft_ms,
        "tpot_ms": (latency_ms - ttft_ms) / (tokens - 1) if tokens > 1 else None,
        "prefill_tok_per_s": prompt_tokens / ttft_ms * 1000,
        # Steps, not tokens: the one that sampled the end of sequence took its time too.
        "decode_tok_per_s": steps / (latency_ms - ttft_ms) * 1000 if steps else None,
        "overhead_ratio": 1 - engine_ms / latency_ms,
    }


def outcome_flags(fields: Mapping[str, Any]) -> list[str]:
    """Short words for what a reader of the record must know."""
    words = {
        "warm_cache": fields["prompt_tokens_evaluated"] != fields["prompt_tokens"],
        "truncated_output": fields["finish_reason"] == "length",
        "cut_in_thinking": fields["finish_reason"] == "length" and fields["reasoning_open"],
        "empty_output": not fields["output_text"].strip(),
        "throttled": fields["throttled"] is True,
    }
    return [word for word, holds in words.items() if holds]


def split_reasoning(engine: Engine, out: Sequence[int], thinking_open: bool) -> dict[str, Any]:
    """Part the answer from the thinking before it, by token id.

    Where thinking is open (the prompt or the output begins it) and never closed, everything is thinking: the
    output was cut off inside it.
    """
    opened = tokenize(engine, THINK_OPEN, add_special=False, parse_special=True)
    closed = tokenize(engine, THINK_CLOSE, add_special=False, parse_special=True)
    thinking_open = thinking_open or list(out[: len(opened)]) == opened
    end = end_of(out, closed)
    if end is None and not thinking_open:
        answer = detokenize(engine, out)
        return {"output_text": answer, "reasoning_text": None, "reasoning_tokens": 0, "reasoning_open": False}
    split = len(out) if end is None else end
    thinking = detokenize(engine, out[:split]).replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip()
    return {
        "output_text": detokenize(engine, out[split:]).lstrip("\n"),
        "reasoning_text": thinking,
        "reasoning_tokens": split,
        "reasoning_open": end is None,
    }


def end_of(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Index just after the first place where `part` stands in `ids`; None where it does not.

    >>> end_of([1, 2, 3, 2, 3], [2, 3])
    3
    """
    for start in range(len(ids) - len(part) + 1):
        if list(ids[start : start + len(part)]) == list(part):
            return start + len(part)
    return None


def prefill_block(engine: Engine, request: Mapping[str, Any]) -> dict[str, Any]:
    """The same cold prefill again and again for at least `seconds`: long enough for a slow power sensor."""
    import llama_cpp

    ids, _, _ = prompt_ids(engine, request["prompt"])
    prompt = (llama_cpp.llama_token * len(ids))(*ids)
    n_batch, count = llama_cpp.llama_n_batch(engine.context), 0
    t0_s = t1_s = time.monotonic()
    while t1_s - t0_s < request["seconds"]:
        start_cold(engine)
        prefill(engine, prompt, len(ids), n_batch)
        llama_cpp.llama_synchronize(engine.context)
        count, t1_s = count + 1, time.monotonic()
    return {"t0_s": t0_s, "t1_s": t1_s, "count": count, "prompt_tokens": len(ids)}


# ---------------------------------------------------------------------------
# The board around a run, read from sysfs: a tool of its own would cost more than it tells


def read_text(path: Path) -> str:
    """Text of a small file, "" where it cannot be read.

    The sensors of a Jetson's powered-down parts answer EAGAIN, of which a buffered read makes a TypeError.
    """
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        return (file.read(4096) or b"").decode("utf-8", "replace").strip()
    return ""


def read_numbers(*patterns: str) -> list[int]:
    """Numbers in the files below SYS that match."""
    texts = [read_text(path) for pattern in patterns for path in sorted(SYS.glob(pattern))]
    return [int(text) for text in texts if re.fullmatch(r"-?\d+", text)]


def board_state() -> dict[str, float | None]:
    """Hottest zone in °C, clocks, throttle events so far; null where this machine has no such file."""
    zones = [zone for zone in SYS.glob("class/thermal/thermal_zone*") if not is_no_silicon(zone)]
    temps = [int(text) for zone in zones if re.fullmatch(r"\d+", text := read_text(zone / "temp"))]
    # Over-current events of a Jetson's power monitor; thermal throttling of a PC's package.
    package = "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    events = read_numbers("class/hwmon/hwmon*/oc*_event_cnt", package)
    return {
        "temp_c": max(temps) / 1000 if temps else None,
        "cpu_khz": max(read_numbers("devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"), default=None),
        # 17000000.gpu on Orin, .ga10b on JetPack 5; gv11b, gp10b, gm20b before it; gpu-gpc-0 on Thor.
        "gpu_hz": max(read_numbers("class/devfreq/*g[pvma][u120]*/cur_freq"), default=None),
        "throttle_events": sum(events) if events else None,
    }


def is_no_silicon(zone: Path) -> bool:
    """Zones that say nothing of the chip: the power supply of older Jetsons shows a constant 50 or 100."""
    return bool(re.match(r"PMIC|Tboard|Tdiode|iwlwifi", read_text(zone / "type")))


def compare_board(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature and throttling of a run from the states on both sides of it."""
    temps_c = [state["temp_c"] for state in (before, after) if state["temp_c"] is not None]
    known = before["throttle_events"] is not None and after["throttle_events"] is not None
    return {
        "temp_start_c": before["temp_c"],
        "temp_max_c": max(temps_c, default=None),
        "throttled": after["throttle_events"] > before["throttle_events"] if known else None,
        "board_start": before,
        "board_end": after,
    }


# ---------------------------------------------------------------------------
# Requests and answers


def answer_open(engine: Engine, request: Mapping[str, Any]) -> dict[str, Any]:
    """Open the vocabulary and say which engine this is."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    open_model(engine, request["model"], vocab_only=True)
    return {
        "engine_version": llama_cpp.__version__,
        "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "system_info": llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(),
        **model_facts(engine),
    }


def answer_count(engine: Engine, request: Mapping[str, Any]) -> dict[str, Any]:
    """Count and hash a prompt's ids."""
    ids, _, flags = prompt_ids(engine, request["prompt"])
    listed = {"ids": ids} if request.get("ids") else {}
    return {"prompt_tokens": len(ids), "prompt_sha256": sha256_ids(ids), "flags": flags, **listed}


ANSWERS: dict[str, Callable[[Engine, Mapping[str, Any]], dict[str, Any]]] = {
    "open": answer_open,
    "count": answer_count,
    "load": load,
    "run": run,
    "prefill": prefill_block,
    "board": lambda _engine, _request: board_state(),
}


def answer(engine: Engine, line: str) -> dict[str, Any]:
    """Answer one request line; a failure becomes an answer too."""
    engine.log.clear()
    try:
        request = json.loads(line)
        return {"ok": True, **ANSWERS[request["op"]](engine, request)}
    except (EngineError, KeyError, ValueError, OSError, MemoryError) as exc:
        message = str(exc) if isinstance(exc, EngineError) else f"bad request: {exc!r}"
        return {"ok": False, "error": {"type": type(exc).__name__, "message": message}}


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: requests come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer requests until stdin ends."""
    build_parser().parse_args(argv)
    # Ctrl-C in a terminal reaches the whole group; the collector decides what to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The engine may print to stdout; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = Engine()
    try:
        keep_log(engine)
    except ImportError as exc:
        print(f"error: the engine is not installed ({exc}); run ./run_all.sh --setup", file=sys.stderr)
        return 1
    for line in sys.stdin:
        answers.write(json.dumps(answer(engine, line)) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
