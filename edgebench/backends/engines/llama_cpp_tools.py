"""llama.cpp's programs: where they are, and what their build knows (some flags were renamed)."""

from __future__ import annotations

import shutil

from edgebench.backends.engines.engine import ASK_SECONDS, Asked, Job, Missing
from edgebench.shell import lifeline

ALL_LAYERS = 999  # older tools do not know -1
LLAMA_CPP = (
    "build it: git clone https://github.com/ggml-org/llama.cpp && cd llama.cpp &&"
    " cmake -B build -DGGML_CUDA=ON && cmake --build build --target {name};"
    " then --llama_bin llama.cpp/build/bin"
)


def tool(asked: Asked, *names: str) -> str:
    """Path of the first of these llama.cpp programs that is here."""
    for name in names:
        found = shutil.which(name, path=str(asked.llama_bin.resolve()) if asked.llama_bin else None)
        if found:
            return found
    where = str(asked.llama_bin) if asked.llama_bin else "PATH"
    raise Missing(f"no {names[0]} in {where}; {LLAMA_CPP.format(name=names[0])}")


def help_of(program: str) -> str:
    """What a tool says of its flags: they differ between builds."""
    done = lifeline.run(
        [program, "--help"],
        capture_output=True,
        text=True,
        timeout=ASK_SECONDS,
        check=False,
        errors="replace",
    )
    return f"{done.stdout}{done.stderr}"


def layers(job: Job) -> str:
    return str(ALL_LAYERS if job["n_gpu_layers"] < 0 else job["n_gpu_layers"])
