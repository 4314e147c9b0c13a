#!/usr/bin/env python3
"""One cold, timed generation by tinygrad: token ids in, token ids with timestamps out, as one JSON line.

Works on the language-model entry point of the tinygrad that is installed, or of a checkout: 0.13 has
tinygrad.llm, 0.12 has tinygrad.apps.llm. Which device switch that version understands, DEV=NV or NV=1, is
asked of it and not assumed. Ids go straight to the model, so that its own tokenizer, which knows few
vocabularies, is not needed and every engine gets the same prompt. No answer ends early: the model is asked
for --max_tokens tokens whatever it says.

Before the timed generation come --warmup generations of the same ids in the same process: the first compiles
the kernels, the second captures their graph. Before each, the keys and values of the last one are declared
void, as prefill would be skipped else. After it the process sits still for --idle_seconds with the model
resident, so that whoever records power knows what that draws.

Output: engine_version, entry, env, device, load_ms, warmup [{ttft_ms, total_ms}], t0_s, stamps_s [s of
time.monotonic(), one per id], ids, held_byte (weights as they lie in memory), weight_dtype,
kernels_per_token, idle {t0_s, t1_s}, or error. Exit 1 with {"error": ...} where tinygrad or the model cannot
be used.

Example:
    echo '[1, 2, 3]' | python companions/drive_tinygrad.py --model models/demo/demo-qwen3.gguf --device CPU
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENTRIES = ("tinygrad.llm.model", "tinygrad.apps.llm")  # 0.13 and later, 0.12
ASK_SECONDS = 120
CONTEXT_STEP = 256  # tokens
# What is known of failures by the line they come from: tinygrad's issues 16314 and 9065.
KNOWN = {
    "_class": "this version's NV knows no GPU of this generation; try CUDA, or a newer tinygrad",
    "cuGraph": "JIT=2 in the environment runs without CUDA graphs",
}
SETTLE_SECONDS = 1.0  # after an answer, before idle power means anything


class DriveError(Exception):
    """What the user can fix."""


def device_switch(device: str) -> dict[str, str]:
    """The environment that makes the installed tinygrad choose this device.

    0.13 asserts on CPU=1; what 0.12 makes of DEV= differs between its releases. So each is
    tried in a process; DriveError if neither does it. Newer versions take more than a name (CPU:LLVM names a
    renderer, PCI+AMD an interface): what stands beside the name is understood where the device then opens.
    """
    told = ""
    base = device.rpartition("+")[2].partition(":")[0].upper()
    code = "from tinygrad import Device; print('device:' + Device.DEFAULT)"
    switches: list[dict[str, str]] = [{"DEV": device}]
    if base == device.upper():
        switches.append({device: "1"})
    else:
        code = f"from tinygrad import Device; Device[Device.DEFAULT].renderer; {code.partition('; ')[2]}"
    for switch in switches:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **switch}, capture_output=True, text=True, timeout=ASK_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode == 0 and f"device:{base}" in done.stdout.split():
            return switch
        told = (done.stderr.strip().splitlines() or [done.stdout.strip()])[-1]
    raise DriveError(
        f"tinygrad does not take the device {device}: {told}; look at `python -m tinygrad.device`"
    )


def entry_point() -> tuple[Any, str]:
    """The module with the Transformer class, and its name; DriveError with each version's reason."""
    reasons = []
    for name in ENTRIES:
        try:
            module = importlib.import_module(name)
        except ImportError as exc:
            reasons.append(f"{name}: {exc}")
            continue
        if hasattr(module, "Transformer"):
            return module, name
    raise DriveError(
        "this tinygrad has no language model this script knows"
        f" ({'; '.join(reasons)}); pip install tinygrad==0.13.0"
    )


def load_model(module: Any, path: Path, max_context: int) -> Any:
    """The model from a GGUF file; its own reasons as DriveError."""
    from tinygrad import Tensor

    try:
        # A path as Tensor is what both versions take; realize is left as each version has it.
        model, _ = module.Transformer.from_gguf(Tensor(path), max_context)
    except (AssertionError, KeyError, ValueError, RuntimeError, TypeError, NotImplementedError) as exc:
        raise DriveError(f"tinygrad cannot load {path.name}: {type(exc).__name__}: {exc}") from exc
    return model


def forget(model: Any) -> None:
    """Declare the cached keys and values void: 0.13 would skip the part of a prompt it has just seen."""
    if hasattr(model, "_cached_tokens"):
        model._cached_tokens = []


def weights_held(model: Any) -> dict[str, Any]:
    """How the weights lie in memory: bytes of the buffers behind them, and the type the layers compute with.

    0.12 unpacks all weights to float16 when it loads; 0.13 keeps the file's blocks and unpacks them within
    the kernels, at every use. The buffers tell which, the version number would not (REALIZE=1, HALF=0).
    """
    from tinygrad import nn
    from tinygrad.uop.ops import Ops, UOp

    params = nn.state.get_parameters(model)
    roots = UOp.sink(*[param.uop for param in params]).toposort()
    # On DISK lies what was never brought to the device.
    buffers = [one for one in roots if one.op is Ops.BUFFER and "DISK" not in str(one.device)]
    held = sum(one.arg * one.dtype.itemsize if isinstance(one.arg, int) else one.nbytes() for one in buffers)
    names = sorted({str(param.dtype).removeprefix("dtypes.") for param in params})
    return {
        "held_byte": held or sum(param.nbytes() for param in params),
        "n_params": sum(param.numel() for param in params),
        "weight_dtype": "/".join(names),
        "stored_dtype": "/".join(sorted({str(one.dtype).removeprefix("dtypes.") for one in buffers})) or None,
    }


def generate(model: Any, ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """One generation from nothing; each stamp is of an id that has arrived in Python."""
    from tinygrad.helpers import GlobalCounters

    forget(model)
    out: list[int] = []
    stamps_s: list[float] = []
    kernels = 0
    t0_s = time.monotonic()
    for token in model.generate(list(ids)):
        stamps_s.append(time.monotonic())
        out.append(int(token))
        if len(out) == max_tokens:
            kernels = GlobalCounters.kernel_count
            break
        GlobalCounters.reset()
    return {"t0_s": t0_s, "stamps_s": stamps_s, "ids": out, "kernels_per_token": kernels or None}


def drive(args: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up, time; the answer."""
    ids = json.loads(args.ids.read_text() if args.ids else sys.stdin.read())
    if not ids or not all(isinstance(one, int) and one >= 0 for one in ids):
        raise DriveError("the prompt must be a JSON list of token ids, as in [1, 2, 3]; see --ids")
    if not args.model.is_file():
        raise DriveError(f"{args.model} is not there; give --model the path of a GGUF file")
    switch = device_switch(args.device) if args.device else {}
    os.environ.update(switch)  # read by tinygrad when it is imported
    module, entry = entry_point()
    from tinygrad import Device

    # A context larger than needed costs memory only; the step keeps kernels in tinygrad's cache of them.
    need = -(-(len(ids) + args.max_tokens + 1) // CONTEXT_STEP) * CONTEXT_STEP
    began_s = time.monotonic()
    model = load_model(module, args.model, args.max_context or need)
    load_ms = (time.monotonic() - began_s) * 1e3
    held = weights_held(model)  # before the first token: caches and captured graphs hang on the model later
    warm = []
    for _ in range(args.warmup):
        run = generate(model, ids, args.max_tokens)
        total_ms = (run["stamps_s"][-1] - run["t0_s"]) * 1e3
        warm.append({"ttft_ms": (run["stamps_s"][0] - run["t0_s"]) * 1e3, "total_ms": total_ms})
    timed = generate(model, ids, args.max_tokens)
    idle = sit_still(args.idle_seconds)
    return {
        "engine_version": version(), "entry": entry, "env": switch, "device": args.device or Device.DEFAULT,
        "load_ms": load_ms, "prompt_tokens": len(ids), "warmup": warm, **timed, **held, "idle": idle,
    }  # fmt: skip


def sit_still(seconds: float) -> dict[str, float] | None:
    """Wait with the model resident; between which moments [s, monotonic] only idle power was drawn."""
    if not seconds:
        return None
    time.sleep(SETTLE_SECONDS)
    t0_s = time.monotonic()
    time.sleep(seconds)
    return {"t0_s": t0_s, "t1_s": time.monotonic()}


def place_of(exc: BaseException) -> str:
    """Where it happened: file, function and the line, which may be the whole reason; what is known of it."""
    frames = [
        one for one in traceback.extract_tb(exc.__traceback__) if "tinygrad" in Path(one.filename).parts
    ]
    # A check of a return code says nothing by itself: who called it does.
    telling = [one for one in frames if one.name not in ("check", "<lambda>", "<genexpr>")] or frames
    if not telling:
        return ""
    last = telling[-1]
    line = (last.line or "").strip()
    hint = next((f"; {known}" for word, known in KNOWN.items() if word in line), "")
    return f" (in {Path(last.filename).name}, {last.name}: {line[:160]}){hint}"


def version() -> str:
    """The version of the tinygrad in use; a checkout need not be installed and then has none."""
    import importlib.metadata

    import tinygrad

    folder = Path(tinygrad.__file__).resolve().parents[1]
    try:
        installed = importlib.metadata.distribution("tinygrad")
        if Path(str(installed.locate_file("tinygrad"))).resolve().parent == folder:
            return installed.version
    except importlib.metadata.PackageNotFoundError:
        pass
    head = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--tags", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"checkout {head.stdout.strip() or folder}"


def at_least(low: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{text} must be at least {low}")
        return value

    return number


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="GGUF", type=Path, required=True, help="model file")
    parser.add_argument("--ids", metavar="FILE", type=Path, help="JSON list of token ids (default: stdin)")
    parser.add_argument(
        "--max_tokens", metavar="N", type=at_least(1), default=64, help="(default: %(default)s)"
    )
    parser.add_argument("--max_context", metavar="N", type=int, help="(default: what prompt and answer need)")
    parser.add_argument("--device", help="NV, CUDA, CPU, … (default: as tinygrad chooses)")
    parser.add_argument(
        "--warmup", metavar="N", type=at_least(0), default=2, help="generations before (default: %(default)s)"
    )
    parser.add_argument(
        "--idle_seconds", metavar="S", type=float, default=0.0, help="sit still so long after it (default: 0)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # tinygrad prints progress to stdout
    try:
        told = drive(args)
    except (DriveError, OSError, ValueError, subprocess.TimeoutExpired) as exc:
        told = {"error": f"{exc}"}
    except ImportError as exc:
        told = {"error": f"tinygrad is not installed ({exc}); pip install tinygrad==0.13.0"}
    except KeyboardInterrupt:
        return 130
    except Exception as exc:  # whatever a compiler, a driver or a kernel raises: it is this engine's result
        traceback.print_exc()  # the whole story, for the engine's own log
        reason = (str(exc).strip() or "no message").splitlines()[0]
        told = {"error": f"tinygrad failed: {type(exc).__name__}: {reason}{place_of(exc)}"}
    if "error" in told:
        print(f"error: {told['error']}", file=sys.stderr)
    print(json.dumps(told), file=answers, flush=True)
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main())
