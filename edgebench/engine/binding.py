"""The one binding to llama.cpp: model, context, tokens, logits and the choice of the next token.

Only the engine's own process imports this room, and the rooms that decode with it: single (one answer), batch
(several together), draft (with guessed tokens). Nothing here knows requests or clocks.

A refusal of the engine is an EngineFailure that carries the engine's own log lines.
"""

from __future__ import annotations

import collections
import ctypes
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgebench.engine.protocol import (
    BAD_REQUEST,
    NOT_A_GENERATION,
    NOT_COLD,
    REFUSED,
    EngineFailure,
    ModelFacts,
    ModelLoad,
    Resolved,
)
from edgebench.prompts.thinking import Piece

WARN, ERROR = 3, 4  # ggml_log_level of this engine
CONTINUED = 5  # goes on with the line before it
LOG_LINES_KEPT = 400  # of those that tell or complain
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
CONTROL_TOKEN = 1 << 3  # llama_token_attr
METADATA_BYTE = 256  # of a value of a file's header; longer ones are cut
NO_POOLING = 0  # llama_pooling_type: the logits of every token; the others sum a text up in one vector
# Where the layers went, what was chosen. A model of 36 layers says thousands of lines more, one a tensor.
TELLING = re.compile("offload|Flash Attention|flash_attn|buffer size|using device")
# Lines that no reader can act on: rows of asterisks around a warning, and blank ones.
EMPTY_LINE = re.compile(r"(\w+: )?[.*\s]*")
# A language model prefers few tokens at any place. Where one in eight is exactly as likely as the best, or
# all are nearly so, the logits are what is left of broken arithmetic: zero, equal, saturated, noise.
TIED_SHARE = 1 / 8
LEAST_SPREAD = 1e-3  # between the highest logit and the lowest
ROUNDING = 1e-6  # of a 32-bit number, with some room
LOOK_AGAIN_STEPS = 64  # a look at a whole row takes longer than the look for the highest
# One token for ever with one and the same logit: what comes out does not depend on what was read.
STUCK_STEPS = 16
STUCK_TOLERANCE = 1e-3  # of the logit: the cache rounds, and attention over equal values a little differently


# ---------------------------------------------------------------------------
# What the engine says


class EngineLog:
    """What the engine's log tells and complains of; without a callback of ours it would go to the screen."""

    def __init__(self) -> None:
        self.lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=LOG_LINES_KEPT)
        self._level = 0

        def keep(level: int, text: bytes, _user_data: Any) -> None:
            self.take(level, text.decode("utf-8", "replace").rstrip())

        self._callback = llama_cpp.llama_log_callback(keep)  # held here: ctypes frees what nothing holds

    def take(self, level: int, line: str) -> None:
        """Keep a line that tells or complains."""
        if level == CONTINUED:
            level = self._level
        self._level = level
        if EMPTY_LINE.fullmatch(line):
            return
        if level in (WARN, ERROR) or TELLING.search(line):
            self.lines.append((level, line))
        if level in (WARN, ERROR):  # also to stderr, which outlives a crash; the parent reads it
            print(line, file=sys.stderr, flush=True)

    def listen(self) -> None:
        """From now on the engine's lines come here."""
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def complaints(self) -> list[str]:
        """Warnings and errors since the last `clear`, each once."""
        return list(dict.fromkeys(line for level, line in self.lines if level in (WARN, ERROR)))

    def reason(self) -> str:
        """The last complaints as one line."""
        return "; ".join(self.complaints()[-4:]) or "the engine gave no reason"

    def telling(self) -> list[str]:
        """Lines worth keeping with the environment: where the layers went, what was chosen, what failed."""
        return [line for _, line in self.lines]

    def found(self, pattern: str) -> list[str]:
        """What the first group of `pattern` matched, line by line."""
        matches = (re.search(pattern, line) for _, line in self.lines)
        return [match[1] for match in matches if match]

    def clear(self) -> None:
        """A new request begins."""
        self.lines.clear()


LOG = EngineLog()


# ---------------------------------------------------------------------------
# A model


class Model:
    """A model file in memory, whole or its vocabulary alone."""

    def __init__(self, path: str, n_gpu_layers: int = 0, vocab_only: bool = False) -> None:
        """EngineFailure with the engine's reason where it cannot be loaded."""
        LOG.listen()
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = n_gpu_layers
        settings.vocab_only = vocab_only
        self.path = path
        self.kept: dict[str, Any] = {}  # what a reader has made of this model, such as its chat template
        # A name may hold bytes that are no text: they come back as they were.
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), settings)
        if not self.handle:
            reason = LOG.reason() if Path(path).exists() else "no such file"
            raise EngineFailure(REFUSED, f"the engine cannot load {path}: {reason}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def close(self) -> None:
        """Give its memory back. Its contexts must have been closed before."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
        self.handle = None

    # --- Facts

    def facts(self) -> ModelFacts:
        """What the engine says of itself and of the model."""
        text = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.handle, text, 256)
        return ModelFacts(
            engine_version=llama_cpp.__version__,
            gpu_offload=bool(llama_cpp.llama_supports_gpu_offload()),
            system_info=llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(),
            description=text.value.decode("utf-8", "replace"),
            n_ctx_train=llama_cpp.llama_model_n_ctx_train(self.handle),
            n_vocab=self.n_vocab,
            has_chat_template=self.chat_template() is not None,
            has_encoder=bool(llama_cpp.llama_model_has_encoder(self.handle)),
            has_decoder=bool(llama_cpp.llama_model_has_decoder(self.handle)),
            is_recurrent=bool(llama_cpp.llama_model_is_recurrent(self.handle)),
            is_hybrid=bool(llama_cpp.llama_model_is_hybrid(self.handle)),
        )

    def chat_template(self) -> str | None:
        """The template's text, None where the file has none."""
        template = llama_cpp.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text, None where there is none."""
        text = ctypes.create_string_buffer(METADATA_BYTE)
        length = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), text, METADATA_BYTE)
        return None if length < 0 else text.value.decode("utf-8", "replace")

    # --- Text and ids

    def token_text(self, token: int | None) -> str:
        """The text that stands for a token in the vocabulary, "" for none."""
        if token is None:
            return ""
        return str(llama_cpp.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace"))

    @property
    def bos(self) -> int | None:
        """Id of the beginning of a sequence; None where the file names none."""
        return self._named("bos", llama_cpp.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int | None:
        """Id of the end of a sequence; None where the file names none."""
        return self._named("eos", llama_cpp.llama_vocab_eos(self.vocab))

    def _named(self, role: str, token: int) -> int | None:
        """A token's id if the file gives it this role.

        Where it does not, the engine takes the id that is usual for this kind of vocabulary. It is right if a
        control token stands there, else it is some word.
        """
        if token < 0:
            return None
        is_control = llama_cpp.llama_vocab_get_attr(self.vocab, token) & CONTROL_TOKEN
        return int(token) if is_control or self.metadata(f"tokenizer.ggml.{role}_token_id") else None

    @property
    def adds_bos(self) -> bool:
        """Whether the file's metadata ask for a BOS before a text."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))

    @property
    def adds_eos(self) -> bool:
        """Whether the file's metadata ask for an EOS behind a text."""
        return bool(llama_cpp.llama_vocab_get_add_eos(self.vocab))

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text.

        `add_special`: with the BOS and EOS that the metadata ask for. `parse_special`: control tokens that
        are spelled out in the text are read as such.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, add_special, parse_special)
        if count < 0:
            raise EngineFailure(REFUSED, f"the engine cannot tokenize a prompt of {len(data)} bytes")
        return list(ids[:count])

    def piece(self, token: int, control: bool) -> bytes:
        """A token's spelling, which may be part of a character; of a control token b"" unless `control`."""
        size = 64
        text = ctypes.create_string_buffer(size)
        length = llama_cpp.llama_token_to_piece(self.vocab, token, text, size, 0, control)
        if length < 0:
            size = -length
            text = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self.vocab, token, text, size, 0, control)
        return text.raw[:length]

    def pieces(self, ids: Iterable[int]) -> list[Piece]:
        """The tokens of an answer, each with its spelling."""
        return [
            Piece(self.piece(token, control=True), is_control=not self.piece(token, control=False))
            for token in ids
        ]

    def spell(self, ids: Iterable[int]) -> str:
        """Text of token ids, control tokens spelled out."""
        return b"".join(self.piece(token, control=True) for token in ids).decode("utf-8", "replace")

    def text_of(self, ids: Sequence[int]) -> str:
        """Text of a whole answer, without control tokens and the space that some vocabularies begin with.

        Bytes that are no UTF-8 are dropped: the half of a character at the cut.
        """
        wanted = (llama_cpp.llama_token * max(1, len(ids)))(*ids)
        size = 16 * len(ids) + 64
        while True:
            text = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_detokenize(self.vocab, wanted, len(ids), text, size, True, False)
            if length >= 0:
                return text.raw[:length].decode("utf-8", "ignore")
            size = -length


# ---------------------------------------------------------------------------
# A context


class Context:
    """A model's working memory: decodes batches, holds logits and cache."""

    def __init__(self, model: Model, load: ModelLoad, no_perf: bool) -> None:
        """EngineFailure where there is no memory for it, or a setting does not suit the model.

        `no_perf`: without the engine's own counters. Also takes what `resolved` tells from the engine's log,
        so the log must hold the lines of this loading.
        """
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = load.n_ctx * load.n_seq_max
        settings.n_batch = load.n_batch
        settings.n_ubatch = load.n_ubatch
        settings.n_seq_max = load.n_seq_max
        settings.kv_unified = load.kv_unified
        settings.n_threads = settings.n_threads_batch = load.n_threads
        settings.flash_attn_type = FLASH_ATTN[load.flash_attn]
        settings.type_k = settings.type_v = KV_TYPES[load.kv_type]
        settings.swa_full = True  # a pruned sliding window could not take refused drafts back
        settings.no_perf = no_perf
        self.model = model
        self.n_seq_max = load.n_seq_max
        self.handle = llama_cpp.llama_init_from_model(model.handle, settings)
        if not self.handle:
            reason = LOG.reason()
            cure = "; lower --n_ctx or --n_batch" if re.search("alloc|memory", reason) else ""
            message = (
                f"{model.path}: the engine cannot make a context of {settings.n_ctx} tokens: {reason}{cure}"
            )
            raise EngineFailure(REFUSED, message)
        self.memory = llama_cpp.llama_get_memory(self.handle)
        self.n_ctx = int(llama_cpp.llama_n_ctx_seq(self.handle))
        self.n_batch = int(llama_cpp.llama_n_batch(self.handle))
        self.resolved = self._resolved(load)
        self._view: NDArray[np.float32] = np.empty(0, np.float32)
        self._view_address = 0

    def close(self) -> None:
        """Give its memory back."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
        self.handle = None

    def _resolved(self, load: ModelLoad) -> Resolved:
        """What the engine chose by itself, from its counters and its log."""
        chosen = LOG.found(r"Flash Attention.* (enabled|disabled)")
        flash_attn = load.flash_attn if load.flash_attn != "auto" else None
        if chosen:
            flash_attn = {"enabled": "on", "disabled": "off"}[chosen[-1]]
        elif LOG.found("(enabling flash_attn)"):
            flash_attn = "on"
        if LOG.found("(flash_attn is not compatible)"):
            flash_attn = "off"
        offloaded = LOG.found(r"offloaded (\d+/\d+)")
        return Resolved(
            flash_attn=flash_attn,
            n_ctx=self.n_ctx,
            n_batch=self.n_batch,
            n_ubatch=int(llama_cpp.llama_n_ubatch(self.handle)),
            n_threads=int(llama_cpp.llama_n_threads(self.handle)),
            n_threads_batch=int(llama_cpp.llama_n_threads_batch(self.handle)),
            kv_type_k=load.kv_type,
            kv_type_v=load.kv_type,
            offloaded=offloaded[-1] if offloaded else None,
            devices=tuple(dict.fromkeys(LOG.found(r"using device (\w+ \([^)]*\))"))),
            warnings=tuple(LOG.complaints()),
        )

    # --- The cache

    def start_cold(self) -> None:
        """Forget every cached key, value and state, and zero the counters: the next prompt is a first one.

        EngineFailure of kind not_cold where anything is left.
        """
        llama_cpp.llama_memory_clear(self.memory, True)
        llama_cpp.llama_perf_context_reset(self.handle)
        for sequence in range(self.n_seq_max):
            last = self.last_position(sequence)
            if last >= 0:
                raise EngineFailure(
                    NOT_COLD, f"the cache still held {last + 1} tokens of an earlier run when this one began"
                )

    def last_position(self, sequence: int = 0) -> int:
        """The highest position that the cache holds of a sequence, -1 for none.

        Holds for every kind of memory: keys and values, a sliding window, a state, or several of them.
        """
        return int(llama_cpp.llama_memory_seq_pos_max(self.memory, sequence))

    def first_position(self, sequence: int = 0) -> int:
        """The lowest one, -1 for none; above 0 in a sliding window, the last one where there is a state."""
        return int(llama_cpp.llama_memory_seq_pos_min(self.memory, sequence))

    def doubt_of_cold(self, decoded: int, sequence: int = 0) -> str | None:
        """Why the cache does not hold exactly the `decoded` tokens of this run; None where it does."""
        last = self.last_position(sequence)
        if last == decoded - 1:
            return None
        return (
            f"the cache holds {last + 1} tokens after a run that gave it {decoded}:"
            " it was not empty when the run began"
        )

    def forget_from(self, position: int) -> bool:
        """Take back the positions from `position` on; False where the memory cannot be cut (a state)."""
        return bool(llama_cpp.llama_memory_seq_rm(self.memory, 0, position, -1))

    def check_it_generates(self) -> None:
        """EngineFailure of kind not_a_generation for a model that reads texts and says none."""
        model = self.model
        if not self.memory or not llama_cpp.llama_model_has_decoder(model.handle):
            raise EngineFailure(
                NOT_A_GENERATION, f"{model.path} is an embedding model: it reads a text and says none"
            )
        if llama_cpp.llama_pooling_type(self.handle) != NO_POOLING:
            raise EngineFailure(
                NOT_A_GENERATION,
                f"{model.path} is an embedding model, its file says: it sums a text up and says none",
            )
        if llama_cpp.llama_model_has_encoder(model.handle):
            raise EngineFailure(
                REFUSED,
                f"{model.path} has an encoder before its decoder, which cannot be driven here; use a model"
                " that has a decoder alone",
            )

    # --- Logits

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """Logits (n_vocab,) of a row of the batch decoded last, in the engine's own memory.

        Waits for the device. Valid until the next decode. EngineFailure of kind not_a_generation where there
        are none.
        """
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineFailure(NOT_A_GENERATION, f"{self.model.path} gives no logits: no language model?")
        # A view costs more to make than to use, and the address hardly ever changes.
        address = ctypes.addressof(pointer.contents)
        if address != self._view_address:
            self._view = np.ctypeslib.as_array(pointer, (self.model.n_vocab,))
            self._view_address = address
        return self._view


# ---------------------------------------------------------------------------
# Choosing the next token


class Watch:
    """Looks up the highest logit of each step, and notices logits that are no language model's."""

    def __init__(self) -> None:
        self.count = 0  # rows looked at
        self._first: tuple[int, float] | None = None  # best token and its logit at the first step
        self._is_stuck = True  # it was the same at every step

    def best(self, logits: NDArray[np.float32]) -> int:
        """The id with the highest logit, the lowest among equals, as llama.cpp's greedy sampler takes it.

        EngineFailure of kind not_a_generation.
        """
        best = int(logits.argmax())  # NaN counts as the highest: a broken row cannot hide
        value = float(logits[best])
        # The lowest id wins where all are equal.
        if best == 0 or self.count % LOOK_AGAIN_STEPS == 0 or not math.isfinite(value):
            refuse_broken(logits, self.count + 1)
        self.count += 1
        if self._first is None:
            self._first = (best, value)
        if self._is_stuck:
            token, logit = self._first
            self._is_stuck = best == token and math.isclose(value, logit, rel_tol=STUCK_TOLERANCE)
        return best

    def check_it_moved(self) -> None:
        """EngineFailure of kind not_a_generation for one and the same token for ever.

        Call it when the clock has stopped.
        """
        if self._is_stuck and self._first is not None and self.count >= STUCK_STEPS:
            token, logit = self._first
            raise EngineFailure(
                NOT_A_GENERATION,
                f"token {token} {self.count} times from the first on, each time with the logit {logit:.5g}:"
                " what comes out does not depend on what was read",
            )


class Chooser:
    """Chooses the tokens of one answer.

    Greedy at temperature 0. The engine's own greedy sampler writes an array of the whole vocabulary first,
    which takes 1.3 ms of every token at 262,000 tokens; here the highest logit is looked up where the engine
    left it. Above temperature 0 a plain draw by the engine's own sampler: no top-k, no top-p, no penalties.
    """

    def __init__(self, context: Context, temperature: float, seed: int) -> None:
        self.context = context
        self.watch = Watch()
        self._sampler = None
        if temperature > 0:
            chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_temp(temperature))
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))
            self._sampler = chain

    def take(self, row: int = -1) -> int:
        """The next token, from a row of the batch decoded last. Waits for the device.

        EngineFailure of kind not_a_generation.
        """
        best = self.watch.best(self.context.logits(row))
        if self._sampler is None:
            return best
        return int(llama_cpp.llama_sampler_sample(self._sampler, self.context.handle, row))

    def close(self) -> None:
        """Give the sampler back."""
        if self._sampler is not None:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None


def refuse_broken(logits: NDArray[np.float32], step: int) -> None:
    """EngineFailure of kind not_a_generation where the logits (n_vocab,) of a step are no language model's.

    `step` counts the tokens chosen, from 1. -inf is allowed: it bars a token.
    """
    best = float(logits.max())  # NaN where there is one
    if not math.isfinite(best):
        raise EngineFailure(NOT_A_GENERATION, f"token {step}: {describe_broken(logits)}")
    tied = int(np.count_nonzero(logits == best))
    if tied > max(1, len(logits) * TIED_SHARE):
        raise EngineFailure(
            NOT_A_GENERATION,
            f"token {step}: {tied} of {len(logits)} logits are {best:.7g}, and none is higher: the model"
            " prefers no token",
        )
    spread = best - float(logits.min())
    if spread <= LEAST_SPREAD + ROUNDING * abs(best):
        raise EngineFailure(
            NOT_A_GENERATION,
            f"token {step}: all {len(logits)} logits lie between {best - spread:.7g} and {best:.7g}: the"
            " model prefers no token",
        )


def describe_broken(logits: NDArray[np.float32]) -> str:
    """What is wrong with logits whose highest is not finite.

    >>> describe_broken(np.array([1.0, np.nan, np.inf], np.float32))
    '1 of 3 logits are NaN, 1 infinite'
    """
    nan = int(np.isnan(logits).sum())
    infinite = int(np.isposinf(logits).sum())
    if not nan and not infinite:
        return f"all {len(logits)} logits are -infinite"
    return f"{nan} of {len(logits)} logits are NaN, {infinite} infinite"


# ---------------------------------------------------------------------------
# Settings


def check_settings(load: ModelLoad) -> None:
    """EngineFailure where a word is unknown."""
    for name, value, known in (
        ("flash_attn", load.flash_attn, FLASH_ATTN),
        ("kv_type", load.kv_type, KV_TYPES),
    ):
        if value not in known:
            raise EngineFailure(BAD_REQUEST, f"{name} {value!r} is none of {', '.join(known)}")
