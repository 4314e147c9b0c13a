"""The greedy answer that other engines are compared with, decoded once and untimed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np

from edgebench.engine.binding import Chooser, Context, Model
from edgebench.engine.protocol import REFUSED, EngineFailure, ReferenceAnswer
from edgebench.engine.single import prefill


def decode(context: Context, ids: Sequence[int], max_tokens: int) -> ReferenceAnswer:
    """The answer to a prompt of token ids. EngineFailure where the engine refuses."""
    model = context.model
    prompt = (llama_cpp.llama_token * len(ids))(*ids)
    one = (llama_cpp.llama_token * 1)()
    batch = llama_cpp.llama_batch_get_one(ctypes.cast(one, llama_cpp.llama_token_p), 1)
    out: list[int] = []
    margins: list[float] = []
    chooser = Chooser(context, temperature=0.0, seed=0)
    ended = False
    context.start_cold()
    prefill(context, prompt, len(ids))
    while len(out) < max_tokens:
        token = chooser.take()
        ended = model.is_end(token)
        if ended:
            break
        out.append(token)
        second, first = np.partition(context.logits(), -2)[-2:]
        margins.append(float(first - second))
        one[0] = token
        status = llama_cpp.llama_decode(context.handle, batch)
        if status:
            raise EngineFailure(REFUSED, f"the engine's decode returned {status} after {len(out)} tokens")
    chooser.watch.check_it_moved()
    return ReferenceAnswer(
        token_ids=tuple(out),
        ended=ended,
        text=text_of(model, out),
        ends=tuple(len(text_of(model, out[: place + 1])) for place in range(len(out))),
        margins=tuple(margins),
        prompt_text=prompt_text(model, ids),
    )


def text_of(model: Model, ids: Sequence[int]) -> str:
    """An answer as a text tool prints it: no control tokens, its first space, no half characters."""
    return b"".join(model.piece(token, control=False) for token in ids).decode("utf-8", "ignore")


def prompt_text(model: Model, ids: Sequence[int]) -> str:
    """What a tool that reads text must be given, so that it reads these ids."""
    if ids and ids[0] == model.bos and model.adds_bos:
        return model.spell(ids[1:])  # such tools put the beginning-of-sequence token there themselves
    text = model.spell(ids)
    return text.removeprefix(" ") if ids and ids[0] == model.bos else text
