"""Greedy answers through the engine's own speculative interface, as a cross-check of ours.

Runs in an engine process of its own, which it may abort. That interface keeps the logits of the whole
context, n_ctx × vocabulary × 4 bytes: use it on small models.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgebench.engine.protocol import REFUSED, EngineFailure, ModelLoad


def decode_all(
    model_path: str, load: ModelLoad, draft_tokens: int, requests: Sequence[tuple[Sequence[int], int]]
) -> list[list[int]]:
    """Token ids of every (prompt ids, max_tokens) by prompt lookup, without the one that ends an answer.

    EngineFailure where the engine refuses.
    """
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    try:
        llm = llama_cpp.Llama(
            model_path=model_path,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=draft_tokens),
            logits_all=True,  # without it the engine fails once prompt and answer pass n_batch
            flash_attn=load.flash_attn == "on",
            verbose=False,
            n_batch=max(load.n_batch, draft_tokens + 1),  # a draft cut in two makes the engine abort
            n_ctx=load.n_ctx,
            n_gpu_layers=load.n_gpu_layers,
            n_threads=load.n_threads,
        )
        answers = [_decode(llm, ids, max_tokens) for ids, max_tokens in requests]
        llm.close()
    except (ValueError, KeyError, RuntimeError) as exc:
        raise EngineFailure(REFUSED, f"the engine's own interface refused: {exc}") from exc
    return answers


def _decode(llm: object, ids: Sequence[int], max_tokens: int) -> list[int]:
    """One answer."""
    import llama_cpp

    assert isinstance(llm, llama_cpp.Llama)
    llm.reset()
    out: list[int] = []
    for token in llm.generate(list(ids), temp=0.0, repeat_penalty=1.0):
        if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token):
            break
        out.append(int(token))
        if len(out) == max_tokens:
            break
    return out
