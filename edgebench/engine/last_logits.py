"""The engine's own server, giving log probabilities of a reply of one token at no price.

llama-cpp-python gives them only where it keeps the logits of every token of the context (logits_all): its
output layer runs for each prompt token, and context x vocabulary floats are kept and copied. With 629 prompt
tokens and a vocabulary of 49,152 that took 905 MB where 244 MB did without; with a vocabulary of 150,000 it
does not fit beside a model in 8 GB. The one row that a reply of one token needs, that of the last prompt
token, the engine has anyway: this module lets the server read it there. The numbers are the same
(tests/engine/test_last_logits.py).

It is a process of its own, with the server's own flags:
    python edgebench/__main__.py edgebench.engine.last_logits --config_file server.json
It relies on llama-cpp-python 0.3.36, the pinned version; a later one that names things otherwise fails with
an AttributeError at the start, not with wrong numbers.
"""

from __future__ import annotations

import sys
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.server import __main__ as server

# False would be refused where log probabilities are asked for; what is merely falsy keeps no logits either.
KEEPS_THE_LAST = 0


class LastRow:
    """The logits of the last token in the place of those of all: whatever is asked from it on is this row."""

    def __init__(self, row: Any) -> None:
        """`row`: float32 [vocabulary]."""
        self.row = row

    def __getitem__(self, _: slice) -> list[Any]:
        return [self.row]


def keep_last_logits() -> None:
    """Let every model that this process opens give log probabilities for replies of one token."""
    model_class = llama_cpp.Llama
    begin, chat = model_class.__init__, model_class.create_chat_completion
    all_logprobs = model_class.logits_to_logprobs

    def opened(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **{**options, "logits_all": False})
        assert self._logits_all is False
        self._logits_all = KEEPS_THE_LAST

    def last_row(self: Any) -> LastRow:
        logits = self._ctx.get_logits_ith(-1)
        return LastRow(np.ctypeslib.as_array(logits, shape=(self._n_vocab,)).copy())

    def logprobs_of(logits: Any, axis: int = -1) -> Any:
        return (
            LastRow(all_logprobs(logits.row)) if isinstance(logits, LastRow) else all_logprobs(logits, axis)
        )

    def one_token(self: Any, *args: Any, **options: Any) -> Any:
        if options.get("logprobs") and options.get("max_tokens") != 1:
            raise ValueError("logprobs are given here for replies of one token: max_tokens 1")
        return chat(self, *args, **options)

    model_class.__init__ = opened
    model_class.create_chat_completion = one_token
    model_class.logits_to_logprobs = staticmethod(logprobs_of)
    model_class._scores = property(last_row)


if __name__ == "__main__":
    keep_last_logits()
    sys.exit(server.main())
