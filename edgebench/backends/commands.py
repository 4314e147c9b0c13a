"""The commands that make an engine do a prepared job, or why it cannot here and how to get it.

Asks what is installed: the path of each program, the flags its build knows (llama-bench and llama-completion
renamed some), which Python has tinygrad, how a checkout wants its device named.

Engines:
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

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebench.errors import UserError
from edgebench.shell import lifeline
from edgebench.shell.launch import room_command

HERE = Path(__file__).resolve().parent
COLLECTOR = HERE.parents[1] / "run_llamacpp_collect.py"
ASK_SECONDS = 60
BEFORE_RUN_S = 0.5  # of the collector, between its pause and its run: it reads the prompt and proves it
SETTLE_S = 1.0  # after loading or an answer, before idle power means anything
ALL_LAYERS = 999  # older tools do not know -1
LLAMA_CPP = (
    "build it: git clone https://github.com/ggml-org/llama.cpp && cd llama.cpp &&"
    " cmake -B build -DGGML_CUDA=ON && cmake --build build --target {name};"
    " then --llama_bin llama.cpp/build/bin"
)
TINYGRAD = "pip install tinygrad==0.13.0, or name a Python or checkout by --tinygrad_python, --tinygrad_dir"
CHECKOUT = "git clone https://github.com/tinygrad/tinygrad, then --tinygrad_dir tinygrad"
Job = Mapping[str, Any]


class Missing(Exception):
    """The engine is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Asked:
    """One engine, and where its parts are."""

    engine: str  # a name of COMMANDS, with :DEVICE where it takes one
    work: Path  # the job's folder
    warmup: int = 2  # answers of a driver inside its process, before the timed one
    timeout_s: float = 900.0
    idle_s: float = 0.0  # s to sit still with the model resident, where the engine can be told to
    llama_bin: Path | None = None  # folder of llama.cpp's programs; None: PATH
    tinygrad_python: str | None = None  # a Python that has tinygrad; None: this one
    tinygrad_dir: Path | None = None  # a checkout of tinygrad

    def file(self, name: str) -> str:
        """The path of one of the job's files."""
        return str(self.work.resolve() / name)


@dataclass(frozen=True)
class Command:
    """One process to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # beyond the caller's
    cwd: Path | None = None

    def shell(self) -> str:
        """The line that does the same in a terminal."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        line = " ".join([*words, shlex.join(self.argv)])
        return f"cd {shlex.quote(str(self.cwd))} && {line}" if self.cwd else line


# --- commands, engine by engine ---


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


def collector_commands(job: Job, asked: Asked) -> list[Command]:
    # One level, one repeat, no idle baseline: the comparison measures power for all engines alike.
    argv = [
        sys.executable, str(COLLECTOR), "--models", job["model"], "--prompts", asked.file("prompt.jsonl"),
        "--levels", "L0", "--prompt_format", job["prompt_format"], "--max_tokens", str(job["max_tokens"]),
        "--n_threads", str(job["n_threads"]), "--n_gpu_layers", str(job["n_gpu_layers"]),
        "--flash_attn", job["flash_attn"], "--source", "none", "--allow_cpu", "--fresh",
        "--out_jsonl", asked.file("collector.jsonl"),
    ]  # fmt: skip
    if asked.idle_s:  # the collector waits so long with the model loaded, just before its run
        argv += ["--cooldown", f"{SETTLE_S + asked.idle_s + BEFORE_RUN_S:g}"]
    return [Command(tuple(argv))]


def bench_commands(job: Job, asked: Asked) -> list[Command]:
    program = tool(asked, "llama-bench")
    flags = help_of(program)
    switch = {
        "on": "1",
        "off": "0",
        "auto": "auto" if "auto" in flags.partition("--flash-attn")[2][:60] else "0",
    }
    common = [
        program, "-m", job["model"], "-r", "1", "-o", "jsonl", "-t", str(job["n_threads"]),
        "-ngl", layers(job), "-fa", switch[job["flash_attn"]],
    ]  # fmt: skip
    # Decoding after a prompt as long as everyone's: an empty cache is read faster.
    depth = ["-d", str(job["prompt_tokens"])] if "--n-depth" in flags else []
    if "--progress" in flags:  # tells when the timed run begins, which its energy needs
        common.append("--progress")
    return [
        Command((*common, "-p", str(job["prompt_tokens"]), "-n", "0")),
        Command((*common, "-p", "0", "-n", str(job["max_tokens"]), *depth)),
    ]


def completion_commands(job: Job, asked: Asked) -> list[Command]:
    program = tool(asked, "llama-completion", "llama-cli")
    flags = help_of(program)
    if "no-cnv" not in flags and "no-conversation" not in flags:
        raise Missing(f"{program} only chats; {LLAMA_CPP.format(name='llama-completion')}")
    fresh = ["-fa", job["flash_attn"]] if "'auto'" in flags or "on|off|auto" in flags else []
    argv = [
        program, "-m", job["model"], "-f", asked.file("prompt.txt"), "--no-escape",
        "-no-cnv", "--no-display-prompt", "--verbose-prompt", "--ignore-eos", "--temp", "0",
        "--repeat-penalty", "1.0", "-n", str(job["max_tokens"]), "-c", str(job["n_ctx"]),
        "-t", str(job["n_threads"]), "-ngl", layers(job), *fresh,
    ]  # fmt: skip
    return [Command(tuple(argv))]


def server_commands(job: Job, asked: Asked) -> list[Command]:
    argv = [
        *room_command("edgebench.backends.drive_server"), "--server", tool(asked, "llama-server"),
        "--model", job["model"], "--ids", asked.file("prompt_ids.json"),
        "--max_tokens", str(job["max_tokens"]), "--n_ctx", str(job["n_ctx"]),
        "--n_threads", str(job["n_threads"]), "--n_gpu_layers", layers(job),
        "--flash_attn", job["flash_attn"], "--warmup", str(asked.warmup), "--timeout", str(asked.timeout_s),
    ]  # fmt: skip
    return [Command((*argv, *idle_flag(asked)))]


def tinygrad_python(asked: Asked) -> tuple[str, dict[str, str]]:
    """The Python that has tinygrad, and the environment it needs for a checkout."""
    python = str(asked.tinygrad_python or sys.executable)
    env = {"PYTHONPATH": str(asked.tinygrad_dir.resolve())} if asked.tinygrad_dir else {}
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tinygrad') is None)"
    try:
        done = lifeline.run(
            [python, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except OSError as exc:
        raise Missing(f"{python} cannot be started ({exc.strerror}); {TINYGRAD}") from exc
    if done.returncode:
        raise Missing(f"{python} has no tinygrad; {TINYGRAD}")
    return python, env


def tinygrad_commands(job: Job, asked: Asked) -> list[Command]:
    python, env = tinygrad_python(asked)
    argv = [
        python, str(HERE / "drive_tinygrad.py"), "--model", job["model"],
        "--ids", asked.file("prompt_ids.json"),
        "--max_tokens", str(job["max_tokens"]), "--warmup", str(asked.warmup),
    ]  # fmt: skip
    device = device_of(asked.engine)
    return [Command((*argv, *(["--device", device] if device else []), *idle_flag(asked)), env)]


def idle_flag(asked: Asked) -> list[str]:
    """For a driver: sit still, the model resident, once the timed answer is out."""
    return ["--idle_seconds", f"{asked.idle_s:g}"] if asked.idle_s else []


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


def device_of(engine: str) -> str | None:
    return engine.partition(":")[2] or None


IDLE_BY_THEMSELVES = ("llama-cpp-python", "llama-server", "tinygrad")
COMMANDS: dict[str, Callable[[Job, Asked], list[Command]]] = {
    "llama-cpp-python": collector_commands,
    "llama-bench": bench_commands,
    "llama-completion": completion_commands,
    "llama-server": server_commands,
    "tinygrad": tinygrad_commands,
    "tinygrad-gpt2": example_commands,
    "tinygrad-llama3": example_commands,
}


def commands_of(job: Job, asked: Asked) -> list[Command]:
    """What is to be started, one after the other. Raises Missing, OSError, subprocess.TimeoutExpired."""
    return COMMANDS[asked.engine.partition(":")[0]](job, asked)


def idles_by_itself(engine: str) -> bool:
    """Whether the engine can be told to sit still with its model resident."""
    return engine.partition(":")[0] in IDLE_BY_THEMSELVES


def engine_name(text: str) -> str:
    """An engine of COMMANDS, with :DEVICE where it takes one. Raises UserError.

    >>> engine_name("llama-cli"), engine_name("tinygrad:NV"), engine_name("tinygrad:CPU:LLVM")
    ('llama-completion', 'tinygrad:NV', 'tinygrad:CPU:LLVM')
    """
    text = "llama-completion" if text == "llama-cli" else text  # its older name
    name, _, device = text.partition(":")
    if name not in COMMANDS or (device and not name.startswith("tinygrad")):
        raise UserError(f"--engines: unknown engine {text!r}; known: {', '.join(COMMANDS)}")
    # Which devices there are is tinygrad's to say, and differs between its versions: CPU:LLVM, PCI+AMD.
    if device and not re.fullmatch(r"[A-Za-z]\w*(?:[:+][\w.-]*)*", device):
        raise UserError(
            f"--engines: {device!r} is no device; write it as in tinygrad:NV or tinygrad:CPU:LLVM"
        )
    return text
