"""What is said between a measuring command and the engine's process: requests and answers as typed values.

Both sides import this room and nothing else of each other. On the pipe every value is one JSON object
(`as_json`, `from_json`). Durations end in _ms; moments end in _s and are seconds of the monotonic clock,
which all processes of a machine share. What is not known is None.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

# Kinds of failure, as they stand in the run files under error.type.
MODEL_LOAD = "model_load"  # the process cannot be started, or the model not be loaded
ENGINE_CRASH = "engine_crash"  # the process ended by itself or was killed
TIMEOUT = "timeout"  # no answer in time; the process is ended
NOT_IN_PROMPT = "prompt_not_in_prompt"  # the template or the tokenizer loses a text, or changes it
REFUSED = "EngineError"  # the engine, or the model's template, says no; the process lives on
BAD_REQUEST = "bad_request"  # a fault of ours
WARM_CACHE = "warm_cache"  # part of the prompt was not computed in the timed run: the engine's counter
NOT_COLD = "not_cold"  # the cache holds other positions than this run's: it was not empty at the start
NOT_A_GENERATION = "not_a_generation"  # the logits are no language model's: what came out is no answer
NO_TEMPERATURE = "no_temperature"  # this machine shows none

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why there is no answer, or why the answer must not be used. `kind` is one of the words above."""

    kind: str
    message: str

    def record(self) -> dict[str, str]:
        """As it stands in a run record's `error`."""
        return {"type": self.kind, "message": self.message}


class EngineFailure(Exception):
    """A request that got no answer. `kind` is one of the words above; the text is for the user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def failure(self) -> Failure:
        return Failure(self.kind, str(self))


# ---------------------------------------------------------------------------
# What is asked


@dataclass(frozen=True)
class Message:
    """One turn. `content` None: the model's own answer to a first turn, not given yet; "" for the engine."""

    role: str
    content: str | None


@dataclass(frozen=True)
class Prompt:
    """What a model is to read: a conversation, written in its chat template, or as bare text."""

    messages: tuple[Message, ...]
    format: str = "chat"  # or "raw": the contents joined by blank lines
    thinking: bool = False  # for templates that know the switch
    today: str | None = None  # the date (2026-03-14) for templates that print one; None is that of the run

    @classmethod
    def of_text(cls, text: str, format: str = "chat", thinking: bool = False) -> Prompt:
        """A single turn of the user."""
        return cls((Message("user", text),), format, thinking)


@dataclass(frozen=True)
class ModelLoad:
    """How a model is loaded: the settings that could change a result or its speed."""

    n_ctx: int  # tokens each sequence has room for; a multiple of 256, or the engine takes another number
    n_batch: int = 2048  # prompt tokens per call
    n_ubatch: int = 512  # of these at once
    n_threads: int = 1
    n_gpu_layers: int = -1  # -1 is all
    flash_attn: str = "auto"  # auto, on, off
    kv_type: str = "f16"  # of the key/value cache: f16, q8_0, f32
    n_seq_max: int = 1  # sequences decoded together
    kv_unified: bool = False  # one cache for all sequences instead of one each


@dataclass(frozen=True)
class Drafting:
    """How the next tokens are guessed. The rule for draft lengths learns as long as the model is loaded."""

    drafter: str = "lookup"  # lookup, model, none
    draft: str | None = None  # GGUF file of the drafting model
    adaptive: str = "off"  # off, published, cost
    draft_tokens: int = 10  # the longest draft
    threshold: float = 0.0  # a draft ends at the first token less probable than this
    temperature: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn: greedy at temperature 0, else a plain draw at that temperature."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


# ---------------------------------------------------------------------------
# What is answered


@dataclass(frozen=True)
class ModelFacts:
    """What the engine says of itself and of a model whose vocabulary is open."""

    engine_version: str
    gpu_offload: bool  # the engine is built for a GPU
    system_info: str
    description: str
    n_ctx_train: int
    n_vocab: int
    has_chat_template: bool
    has_encoder: bool = False  # T5 and its like read with an encoder first
    has_decoder: bool = True
    is_recurrent: bool = False  # Mamba, RWKV: a state instead of a cache
    is_hybrid: bool = False


@dataclass(frozen=True)
class PromptCount:
    """A prompt as the model reads it."""

    prompt_tokens: int
    prompt_ids_sha256: str  # of the ids, little-endian 32-bit: what the model really reads
    flags: tuple[str, ...] = ()  # of engine/template.py: system_in_user, control_tokens_in_prompt, …
    ids: tuple[int, ...] | None = None  # where asked for


@dataclass(frozen=True)
class Resolved:
    """What the engine made of "auto" and of round numbers: conditions of a measurement like the flags are."""

    flash_attn: str | None = None  # on, off; None where the engine did not say
    n_ctx: int | None = None  # of each sequence
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    kv_type_k: str | None = None
    kv_type_v: str | None = None
    offloaded: str | None = None  # layers on the GPU, as the engine logs them: "27/27"
    devices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # the engine's own while it loaded, such as a missing pre-tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run."""

    load_ms: float  # the file mapped or read, the buffers made
    n_ctx: int  # of each sequence
    facts: ModelFacts
    resolved: Resolved
    engine_log: tuple[str, ...] = ()  # where the layers went, what was chosen, what was complained of

    @property
    def offloaded(self) -> str | None:
        return self.resolved.offloaded


@dataclass(frozen=True)
class BoardState:
    """The board at a moment, read by the engine's process just before and after a run."""

    temp_c: float | None = None  # hottest zone
    cpu_khz: int | None = None
    gpu_hz: int | None = None
    throttle_events: int | None = None  # so far


@dataclass(frozen=True)
class Generation:
    """One cold, timed answer. Where `error` is set it was measured but is no answer: a failed run."""

    prompt_tokens: int
    prompt_tokens_evaluated: int | None  # the engine's counter
    prompt_ids_sha256: str
    completion_tokens: int  # reasoning included, end of sequence not
    finish_reason: str | None  # stop, length; None where it was broken off
    t0_s: float  # first batch of the prompt handed over
    first_token_s: float | None  # first id sampled
    t1_s: float  # last id sampled
    latency_ms: float
    ttft_ms: float | None
    tpot_ms: float | None
    prefill_tok_per_s: float | None
    decode_tok_per_s: float | None
    overhead_ratio: float | None  # 1 - engine time / latency
    temp_start_c: float | None
    temp_max_c: float | None
    throttled: bool | None  # a throttle counter moved during the run
    board_start: BoardState
    board_end: BoardState
    output_text: str
    reasoning_text: str | None
    reasoning_tokens: int
    reasoning_open: bool  # it ended while still thinking
    flags: tuple[str, ...] = ()
    error: Failure | None = None

    def record_fields(self) -> dict[str, Any]:
        """The fields of a run record by their names there, all but flags and error."""
        fields = dataclasses.asdict(self)
        del fields["flags"], fields["error"]
        return fields


@dataclass(frozen=True)
class PrefillBlock:
    """The same cold prefill again and again: long enough for a slow power sensor."""

    t0_s: float
    t1_s: float
    count: int
    prompt_tokens: int


@dataclass(frozen=True)
class SequenceAnswer:
    """What one sequence of a batch said."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None
    ttft_ms: float
    output_text: str
    ids_sha256: str  # of the answer's ids
    prompt_ids_sha256: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchGeneration:
    """Groups of prompts, each group decoded together, one group after the other."""

    t0_s: float
    t1_s: float
    prefill_ms: float  # until every sequence of a group has its first token, over all groups
    decode_ms: float  # from there to the group's last token
    steps: int  # decode calls after the prompts
    sequences: tuple[SequenceAnswer, ...]  # in the order asked


@dataclass(frozen=True)
class DraftGeneration:
    """One answer decoded with drafts, and what became of them."""

    token_ids: tuple[int, ...]  # end of sequence not
    text: str
    finish_reason: str | None
    t0_s: float
    first_token_s: float
    t1_s: float
    steps: int  # passes of the model, the prompt's included
    drafted: int
    accepted: int
    stopped: int  # tokens not drafted for lack of confidence
    checks: int  # confidences looked at
    draft_ms: float  # without catch_up_ms
    verify_ms: float
    catch_up_ms: float  # the drafter reading what was said while it did not draft
    windows: int  # steps with a draft
    tries: tuple[int, ...]  # by position in the draft: how often a token there was judged
    hits: tuple[int, ...]  # and how often accepted
    lengths: dict[int, int] = field(default_factory=dict)  # draft length asked for -> steps
    prompt_ids_sha256: str = ""


@dataclass(frozen=True)
class ReferenceAnswer:
    """A greedy answer, untimed, with what is needed to compare others with it."""

    token_ids: tuple[int, ...]  # end of sequence not
    ended: bool  # the model ended it by itself
    text: str
    ends: tuple[int, ...]  # characters of the text up to and including each token
    margins: tuple[float, ...]  # logits between each token and the runner-up
    prompt_text: str  # what a tool that reads text must be given, so that it reads the same prompt ids


# ---------------------------------------------------------------------------
# On the pipe


def as_json(value: Any) -> dict[str, Any]:
    """A dataclass of this room as a JSON object."""
    return dataclasses.asdict(value)


def from_json(cls: type[T], told: Mapping[str, Any]) -> T:
    """The dataclass `cls` from its JSON object.

    TypeError where a field is lacking; unknown ones are left out.

    >>> from_json(Prompt, {"messages": [{"role": "user", "content": "Hi"}], "format": "raw"})
    Prompt(messages=(Message(role='user', content='Hi'),), format='raw', thinking=False, today=None)
    """
    hints = typing.get_type_hints(cls)
    return cls(**{name: _read(hints[name], value) for name, value in told.items() if name in hints})


def _read(kind: Any, value: Any) -> Any:
    """A JSON value as the type a field declares: JSON knows no tuples, no dataclasses, no numbers as keys."""
    if value is None:
        return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value)
    if typing.get_origin(kind) is tuple:
        return tuple(_read(typing.get_args(kind)[0], one) for one in value)
    if typing.get_origin(kind) is dict:
        key_kind = typing.get_args(kind)[0]
        return {key_kind(key): one for key, one in value.items()}
    return value
