#!/usr/bin/env python3
"""The same requests through the engine's own speculative interface, as a cross-check of ours.

Reads one JSON object on stdin (model, n_ctx, draft_tokens, n_batch, n_gpu_layers, n_threads, flash_attn,
requests [{ids, max_tokens}]), decodes greedily with LlamaPromptLookupDecoding, prints {"answers": [[ids]…]}.
That interface keeps the logits of the whole context, n_ctx × vocabulary × 4 bytes: use it on small models.

Example:
  python companions/speculate.py --model models/demo/demo-llama-F32.gguf --cross_check \\
      --prompts data/writing_prompts_hierarchical.csv --requests 2 --out run.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def decode_all(asked: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of every request, without the one that ends an answer. ValueError for a refused model."""
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    llm = llama_cpp.Llama(
        model_path=asked["model"],
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=asked["draft_tokens"]),
        logits_all=True,  # without it the engine fails once prompt and answer pass n_batch
        flash_attn=asked["flash_attn"] == "on",
        verbose=False,
        n_batch=max(asked["n_batch"], asked["draft_tokens"] + 1),  # a draft cut in two makes the engine abort
        **{name: asked[name] for name in ("n_ctx", "n_gpu_layers", "n_threads")},
    )
    answers = []
    for request in asked["requests"]:
        llm.reset()
        out: list[int] = []
        for token in llm.generate(request["ids"], temp=0.0, repeat_penalty=1.0):
            if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token):
                break
            out.append(int(token))
            if len(out) == request["max_tokens"]:
                break
        answers.append(out)
    llm.close()
    return answers


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: the request comes on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answers; 1 where the engine refuses."""
    build_parser().parse_args(argv)
    try:
        answers = decode_all(json.load(sys.stdin))
    except (ValueError, KeyError, RuntimeError, ImportError) as exc:
        print(f"error: the engine's own interface refused: {exc}", file=sys.stderr)
        return 1
    print(json.dumps({"answers": answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
