"""edgebench/engine/last_logits.py: the same log probabilities as with all logits kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# In a process of its own: the module changes the engine's class.
PROGRAM = """
import json, sys
import llama_cpp
from edgebench.engine.last_logits import keep_last_logits

def asked(model, text):
    said = [{"role": "user", "content": text}]
    wanted = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 9}
    reply = model.create_chat_completion(said, **wanted)
    tops = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return [[top["token"], float(top["logprob"])] for top in tops]

path, texts = sys.argv[1], ["one", "two words", "many words " * 90, "one"]
options = {"n_ctx": 512, "n_batch": 64, "verbose": False}
whole = llama_cpp.Llama(path, logits_all=True, **options)
expected = [asked(whole, text) for text in texts]
keep_last_logits()
last = llama_cpp.Llama(path, logits_all=True, **options)
found = [asked(last, text) for text in texts]
try:
    last.create_chat_completion([{"role": "user", "content": "x"}], max_tokens=2, logprobs=True)
    refused = False
except ValueError:
    refused = True
plain = last.create_chat_completion([{"role": "user", "content": "x"}], max_tokens=3)
print(json.dumps([expected, found, refused, last.scores.shape[0], plain["usage"]["completion_tokens"]]))
"""


def test_the_last_row_gives_the_numbers_of_all_rows(tiny_model: Callable[..., Path], llama_cpp: Any) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny_model("llama", mode="never"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found, refused, rows, tokens = json.loads(done.stdout.splitlines()[-1])
    for whole, last in zip(expected, found, strict=True):
        assert [token for token, _ in last] == [token for token, _ in whole]
        assert [value for _, value in last] == pytest.approx([value for _, value in whole], abs=1e-4)
    assert refused and rows == 64 and tokens == 3  # rows of a batch, not of the context
