#!/usr/bin/env python3
"""One model in one process that decodes several sequences together: the engine behind throughput.py.

Reads requests on stdin, answers each with one JSON line on stdout.
  {"op": "load", "model": "a.gguf", "n_seq_max": 8, "n_ctx_seq": 1024, "n_batch": 2048, "n_ubatch": 512,
   "n_threads": 2, "n_gpu_layers": -1, "flash_attn": "auto", "kv_type": "f16", "kv_unified": false}
                       -> load_ms, n_ctx_seq, engine_version, offloaded
  {"op": "tokens", "prompts": [PROMPT…]}
                       -> prompt_tokens and prompt_sha256 of each; before "load", with "model", from the
                          vocabulary alone
  {"op": "batch", "groups": [[PROMPT…]…], "max_tokens": 64, "temperature": 0, "seed": 0}
                       -> t0_s, t1_s, prefill_ms, decode_ms, steps, sequences [{prompt_tokens,
                          completion_tokens, finish_reason, ttft_ms, output_text, ids_sha256}]
PROMPT is {"text": "…", "format": "chat" or "raw"}: the model's own chat template around one user turn, or the
bare text.

The groups are decoded one after the other, each as one batch. Its prompts are
prefilled from an empty cache, one call each: a prompt fills the machine by
itself, and prompts of unequal length in one call are split into small pieces.
Then every step is one llama_decode with one token of each sequence that is still
running. A sequence that ends leaves the batch. Each keeps its keys and values
apart from the others (unless kv_unified), so that it reads what it would read
alone. Times in seconds
of the monotonic clock, which all processes of a machine share.

Example:
  echo '{"op": "tokens", "model": "models/demo/demo-llama-F32.gguf",
      "prompts": [{"text": "Hello", "format": "chat"}]}' | tr -d '\\n' | python companions/batch_worker.py
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import hashlib
import json
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FLASH_ATTN_TYPE = {"auto": -1, "off": 0, "on": 1}
CACHE_TYPE = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
CONTEXT_SETTINGS = ("n_batch", "n_ubatch", "n_threads", "n_seq_max", "kv_unified")
WARN, ERROR = 3, 4  # ggml_log_level of this engine
Json = Mapping[str, Any]


class BatchError(Exception):
    """The engine refused; the message carries its own log lines."""


@dataclass
class Stream:
    """One sequence of a batch under way."""

    number: int  # the engine's seq_id
    prompt: list[int]
    sampler: Any = None
    ids: list[int] = field(default_factory=list)  # sampled so far, end of sequence not
    last_id: int = 0
    row: int = -1  # of the batch decoded last, where its logits stand
    first_token_s: float = 0.0
    end_s: float = 0.0
    finish_reason: str | None = None


class Room:
    """The model, its context, and what the engine said last."""

    def __init__(self) -> None:
        import llama_cpp

        self.api, self.model, self.vocab, self.context = llama_cpp, None, None, None
        self.batch: Any = None
        self.log: collections.deque[tuple[int, str]] = collections.deque(maxlen=400)

        def keep(level: int, text: bytes, _data: Any) -> None:
            self.log.append((level, text.decode("utf-8", "replace").strip()))

        self.keep = llama_cpp.llama_log_callback(keep)  # held here: ctypes frees what nothing holds
        llama_cpp.llama_log_set(self.keep, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def refusal(self, what: str) -> BatchError:
        """An error with the engine's warnings and errors."""
        said = [line for level, line in self.log if level in (WARN, ERROR) and line]
        return BatchError(f"{what}: {'; '.join(said[-3:]) or 'the engine gave no reason'}")

    # --- Loading

    def open(self, path: str, **settings: Any) -> None:
        """Load a model file, whole or its vocabulary alone."""
        if self.context:
            self.api.llama_free(self.context)
        if self.model:
            self.api.llama_model_free(self.model)
        self.model = self.context = self.vocab = None
        wanted = self.api.llama_model_default_params()
        for name, value in settings.items():
            setattr(wanted, name, value)
        self.model = self.api.llama_model_load_from_file(path.encode(), wanted)
        if not self.model:
            raise self.refusal(f"the engine cannot load {path}")
        self.vocab = self.api.llama_model_get_vocab(self.model)

    def load(self, request: Json) -> dict[str, Any]:
        """Weights, and a context with room for n_seq_max sequences of n_ctx_seq tokens each."""
        began_s = time.monotonic()
        self.open(request["model"], n_gpu_layers=request["n_gpu_layers"])
        wanted = self.api.llama_context_default_params()
        for name in CONTEXT_SETTINGS:
            setattr(wanted, name, request[name])
        wanted.n_ctx = request["n_ctx_seq"] * request["n_seq_max"]
        wanted.n_threads_batch = request["n_threads"]
        wanted.flash_attn_type = FLASH_ATTN_TYPE[request["flash_attn"]]
        wanted.type_k = wanted.type_v = CACHE_TYPE[request["kv_type"]]
        wanted.no_perf = True
        self.context = self.api.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise self.refusal(f"the engine cannot make a context of {wanted.n_ctx} tokens")
        if self.batch is None:
            self.batch = self.api.llama_batch_init(request["n_batch"], 0, 1)
        text = " ".join(line for _, line in self.log)
        found = re.search(r"offloaded (\d+/\d+)", text)
        return {
            "load_ms": (time.monotonic() - began_s) * 1000,
            "n_ctx_seq": request["n_ctx_seq"],
            "engine_version": self.api.__version__,
            "offloaded": found[1] if found else None,
        }

    # --- Text and ids

    def prompt_ids(self, prompt: Json) -> list[int]:
        """Ids of a prompt. A chat template writes its own BOS; raw text gets the one the model asks for."""
        raw = prompt["format"] == "raw"
        data = (prompt["text"] if raw else self.templated(prompt["text"])).encode("utf-8", "replace")
        room = (self.api.llama_token * (len(data) + 8))()
        count = self.api.llama_tokenize(self.vocab, data, len(data), room, len(room), raw, not raw)
        if count <= 0:
            raise BatchError("a prompt is empty or cannot be tokenized")
        return list(room[:count])

    def templated(self, text: str) -> str:
        """The model's chat template around one user turn; Qwen3's reads enable_thinking."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        template = self.api.llama_model_chat_template(self.model, None)
        if not template:
            raise BatchError("the model has no chat template; use --prompt_format raw")
        marks = [
            self.api.llama_vocab_get_text(self.vocab, mark).decode("utf-8", "replace") if mark >= 0 else ""
            for mark in (self.api.llama_vocab_bos(self.vocab), self.api.llama_vocab_eos(self.vocab))
        ]
        try:
            form = Jinja2ChatFormatter(
                template.decode("utf-8", "replace"), bos_token=marks[0], eos_token=marks[1]
            )
            turn = form(messages=[{"role": "user", "content": text}], enable_thinking=False)
        except Exception as exc:  # a template is a program of the model's author and may raise anything
            raise BatchError(f"the model's chat template failed: {exc}; use --prompt_format raw") from exc
        return str(turn.prompt)

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; what is no UTF-8 is dropped."""
        wanted = (self.api.llama_token * len(ids))(*ids)
        size = 16 * len(ids) + 64
        while True:
            out = ctypes.create_string_buffer(size)
            length = self.api.llama_detokenize(self.vocab, wanted, len(ids), out, size, True, False)
            if length >= 0:
                return out.raw[:length].decode("utf-8", "ignore")
            size = -length

    def tokens(self, request: Json) -> dict[str, Any]:
        """Lengths and hashes of prompts."""
        if not self.model:
            self.open(request["model"], vocab_only=True)
        ids = [self.prompt_ids(prompt) for prompt in request["prompts"]]
        return {"prompt_tokens": [len(one) for one in ids], "prompt_sha256": [sha256_of(one) for one in ids]}

    # --- The timed batch

    def decode(self, entries: Sequence[tuple[Stream, int, int, bool]]) -> None:
        """One llama_decode: (sequence, token id, its position, whether logits are wanted) per entry."""
        batch = self.batch
        for row, (sequence, token, position, wanted) in enumerate(entries):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence.number
            batch.logits[row] = wanted
            if wanted:
                sequence.row = row
        batch.n_tokens = len(entries)
        status = self.api.llama_decode(self.context, batch)
        if status:
            raise self.refusal(f"the engine's decode returned {status} for {len(entries)} tokens")

    def take(self, sequences: Sequence[Stream], limit: int) -> list[Stream]:
        """Sample the next token of each sequence from the batch just decoded; those that go on."""
        going = []
        for sequence in sequences:
            # Waits for the device: the stamp is of a finished token.
            token = self.api.llama_sampler_sample(sequence.sampler, self.context, sequence.row)
            now_s = time.monotonic()
            sequence.first_token_s = sequence.first_token_s or now_s
            if self.api.llama_vocab_is_eog(self.vocab, token):
                sequence.finish_reason = "stop"
            else:
                sequence.ids.append(token)
                sequence.last_id = token
                if len(sequence.ids) >= limit:
                    sequence.finish_reason = "length"
            if sequence.finish_reason:
                sequence.end_s = now_s
            else:
                going.append(sequence)
        return going

    def prefill(self, sequences: Sequence[Stream], limit: int) -> list[Stream]:
        """One prompt after the other, logits for its last token alone, which the next call overwrites."""
        size, going = self.api.llama_n_batch(self.context), []
        for one in sequences:
            last = len(one.prompt) - 1
            for start in range(0, last + 1, size):
                places = range(start, min(start + size, last + 1))
                self.decode([(one, one.prompt[place], place, place == last) for place in places])
            going += self.take([one], limit)
        return going

    def sampler(self, request: Json) -> Any:
        """Greedy at temperature 0, else a plain draw. The same seed for each, as if it were alone."""
        chain = self.api.llama_sampler_chain_init(self.api.llama_sampler_chain_default_params())
        if request["temperature"] > 0:
            links = [
                self.api.llama_sampler_init_temp(request["temperature"]),
                self.api.llama_sampler_init_dist(request["seed"]),
            ]
        else:
            links = [self.api.llama_sampler_init_greedy()]
        for link in links:
            self.api.llama_sampler_chain_add(chain, link)
        return chain

    def run(self, request: Json) -> dict[str, Any]:
        """Decode group after group. The clock starts before the first prompt token and ends with the last id.

        Prompts become ids before it starts, and ids become text when it has stopped.
        """
        limit = request["max_tokens"]
        groups = [
            [Stream(number, self.prompt_ids(one), self.sampler(request)) for number, one in enumerate(group)]
            for group in request["groups"]
        ]
        room = self.api.llama_n_ctx_seq(self.context)
        longest = max(len(one.prompt) for group in groups for one in group)
        if longest + limit > room:
            raise BatchError(
                f"prompt of {longest} tokens + max_tokens {limit} exceed the {room} tokens of a sequence;"
                " lower --max_tokens or raise --n_ctx"
            )
        spans = [self.timed_group(group, limit) for group in groups]
        for one in (one for group in groups for one in group):
            self.api.llama_sampler_free(one.sampler)
        return {
            "t0_s": spans[0][0],
            "t1_s": spans[-1][2],
            "prefill_ms": sum(middle_s - begin_s for begin_s, middle_s, _, _ in spans) * 1000,
            "decode_ms": sum(end_s - middle_s for _, middle_s, end_s, _ in spans) * 1000,
            "steps": sum(steps for *_, steps in spans),
            "sequences": [
                self.described(one, span[0])
                for group, span in zip(groups, spans, strict=True)
                for one in group
            ],
        }

    def timed_group(self, group: Sequence[Stream], limit: int) -> tuple[float, float, float, int]:
        """One batch from an empty cache: begin, all first ids sampled, last id sampled [s]; steps."""
        t0_s = time.monotonic()
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        going, steps = self.prefill(group, limit), 0
        prefilled_s = max(one.first_token_s for one in group)
        while going:
            # The token sampled last stands behind the prompt and the ids before it.
            self.decode([(one, one.last_id, len(one.prompt) + len(one.ids) - 1, True) for one in going])
            going, steps = self.take(going, limit), steps + 1
        return t0_s, prefilled_s, max(one.end_s for one in group), steps

    def described(self, one: Stream, t0_s: float) -> dict[str, Any]:
        """What is told of a finished sequence."""
        return {
            "prompt_tokens": len(one.prompt),
            "completion_tokens": len(one.ids),
            "finish_reason": one.finish_reason,
            "ttft_ms": (one.first_token_s - t0_s) * 1000,
            "output_text": self.text(one.ids) if one.ids else "",
            "ids_sha256": sha256_of(one.ids),
        }


def sha256_of(ids: Sequence[int]) -> str:
    """Hash of ids as little-endian 32-bit numbers, as engine_worker.py makes it."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()


def answer(room: Room, line: str) -> dict[str, Any]:
    """Answer one request; a failure becomes an answer too."""
    room.log.clear()
    try:
        request = json.loads(line)
        answers = {"load": room.load, "tokens": room.tokens, "batch": room.run}
        return {"ok": True, **answers[request["op"]](request)}
    except BatchError as exc:
        return {"ok": False, "error": {"type": "engine", "message": str(exc)}}
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        return {"ok": False, "error": {"type": "bad_request", "message": repr(exc)}}


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: requests come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer requests until stdin ends."""
    build_parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is throughput.py's to answer
    # The engine may print to stdout; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        room = Room()
    except ImportError as exc:
        print(f"error: the engine is not installed ({exc}); run ./run_all.sh --setup", file=sys.stderr)
        return 1
    for line in sys.stdin:
        print(json.dumps(answer(room, line)), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
