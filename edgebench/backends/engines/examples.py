"""examples/gpt2.py and llama3.py of a tinygrad checkout: their own weights, prompt and length."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgebench.backends.engines.engine import Asked, Command, Done, Engine, Job, Missing, device_of, log_row

CHECKOUT = "git clone https://github.com/tinygrad/tinygrad, then --tinygrad_dir tinygrad"


def example_commands(job: Job, asked: Asked) -> list[Command]:
    """examples/gpt2.py or llama3.py as its authors start it, with the device switch the checkout takes."""
    name = asked.engine.split(":")[0].removeprefix("tinygrad-")
    checkout = asked.tinygrad_dir
    if checkout is None or not (checkout / "examples" / f"{name}.py").is_file():
        raise Missing(f"no examples/{name}.py in {asked.tinygrad_dir or 'any checkout'}; {CHECKOUT}")
    flags = {
        "gpt2": ["--model_size", "gpt2", "--count", str(job["max_tokens"]), "--temperature", "0", "--timing"],
        "llama3": ["--size", "1B", "--no_api", "--benchmark"],
    }[name]
    if name == "gpt2":
        flags += ["--prompt", job["prompt"]]
    elif (Path(job["model"]).parent / "tokenizer.model").is_file():  # where llama3.py looks for it
        flags += ["--model", job["model"]]
    env = {"PYTHONPATH": "."}
    if device := device_of(asked.engine):
        # Newer checkouts assert on NV=1 and name DEV=NV in that message.
        env |= {"DEV": device} if takes_dev(checkout) else {device: "1"}
    python = str(asked.tinygrad_python or sys.executable)
    return [Command((python, f"examples/{name}.py", *flags), env, checkout.resolve())]


def takes_dev(checkout: Path) -> bool:
    """Does this checkout say that NV=1 is deprecated?"""
    texts = [checkout / "tinygrad" / name for name in ("device.py", "helpers.py")]
    return any("is deprecated, use DEV" in one.read_text(errors="replace") for one in texts if one.is_file())


def read_example(_job: Job, asked: Asked, done: list[Done]) -> dict[str, Any]:
    row = log_row(done[0])
    names = (
        "prefill_tok_per_s",
        "decode_tok_per_s",
        "ttft_ms",
        "tpot_ms",
        "warmup_excluded",
        "generated_tokens",
    )
    model = "GPT-2 124M" if "gpt2" in asked.engine else row["model"] or "LLaMA 3.2 1B"
    return {
        **{name: row[name] for name in names}, "model": model, "quantization": row["quantization"],
        "weights": "as the example loads them", "same_work": False,
        "notes": [*row["notes"], "weights, prompt and length are the example's: not the same work"],
    }  # fmt: skip


GPT2 = Engine("tinygrad gpt2.py", example_commands, read_example)
LLAMA3 = Engine("tinygrad llama3.py", example_commands, read_example)
