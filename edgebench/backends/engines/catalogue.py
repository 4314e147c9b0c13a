"""The engines that may be compared, by the names that --engines takes.

  llama-cpp-python       run_llamacpp_collect.py, this suite's collector
  llama-bench            llama.cpp's benchmark: same lengths, but tokens of its own
  llama-completion       llama.cpp's text tool, or an older llama-cli
  llama-server           llama.cpp's server over HTTP (drive_server.py)
  tinygrad:DEVICE        tinygrad's language model on NV, CUDA, CPU, ... (drive_tinygrad.py)
  tinygrad-gpt2:DEVICE   examples/gpt2.py of a checkout: GPT-2's own weights, not the job's model
  tinygrad-llama3:DEVICE examples/llama3.py of a checkout: the weights it downloads

An engine that is not here is Missing, with the way to get it.
"""

from __future__ import annotations

import re

from edgebench.backends.engines import (
    collector,
    examples,
    llama_bench,
    llama_completion,
    llama_server,
    tinygrad,
)
from edgebench.backends.engines.engine import Asked, Command, Engine, Job
from edgebench.errors import UserError

ENGINES: dict[str, Engine] = {
    "llama-cpp-python": collector.ENGINE,
    "llama-bench": llama_bench.ENGINE,
    "llama-completion": llama_completion.ENGINE,
    "llama-server": llama_server.ENGINE,
    "tinygrad": tinygrad.ENGINE,
    "tinygrad-gpt2": examples.GPT2,
    "tinygrad-llama3": examples.LLAMA3,
}


def engine_of(name: str) -> Engine:
    """The engine behind a name, which may carry a device."""
    return ENGINES[name.partition(":")[0]]


def commands_of(job: Job, asked: Asked) -> list[Command]:
    """What is to be started, one after the other. Raises Missing, OSError, subprocess.TimeoutExpired."""
    return engine_of(asked.engine).commands(job, asked)


def idles_by_itself(engine: str) -> bool:
    """Whether the engine can be told to sit still with its model resident."""
    return engine_of(engine).idles_by_itself


def engine_name(text: str) -> str:
    """An engine of ENGINES, with :DEVICE where it takes one. Raises UserError.

    >>> engine_name("llama-cli"), engine_name("tinygrad:NV"), engine_name("tinygrad:CPU:LLVM")
    ('llama-completion', 'tinygrad:NV', 'tinygrad:CPU:LLVM')
    """
    text = "llama-completion" if text == "llama-cli" else text  # its older name
    name, _, device = text.partition(":")
    if name not in ENGINES or (device and not name.startswith("tinygrad")):
        raise UserError(f"--engines: unknown engine {text!r}; known: {', '.join(ENGINES)}")
    # Which devices there are is tinygrad's to say, and differs between its versions: CPU:LLVM, PCI+AMD.
    if device and not re.fullmatch(r"[A-Za-z]\w*(?:[:+][\w.-]*)*", device):
        raise UserError(
            f"--engines: {device!r} is no device; write it as in tinygrad:NV or tinygrad:CPU:LLVM"
        )
    return text
