#!/usr/bin/env python3
"""The work that engines are to be compared on, written down once: the same model, prompt and length for all.

The prompt's token ids come from the GGUF's own vocabulary, with its chat template or as bare text.
The reference answer is llama-cpp-python's greedy one, decoded once and untimed; where the model ends its
answer before --max_tokens, that length becomes everyone's, so that an engine which cannot ignore the end of
an answer does the same work as one that can.

Writes into --work: job.json (prompt_ids, max_tokens, reference_ids, reference_ends [characters of the answer
up to and including each token], reference_margins [logits between each token and the runner-up],
prompt_sha256, model facts, settings), prompt_ids.json, prompt.txt (what text tools read) and prompt.jsonl
(what run_llamacpp_collect.py reads). Prints job.json's path.

Example:
    python companions/prepare_backends.py --model models/demo/demo-llama-F32.gguf \\
        --prompt "Why is it dark at night?" --work results/backends.work
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.shell.launch import room_command

HERE = Path(__file__).resolve().parent
CONTEXT_STEP = 256  # tokens; the engine rounds up to it
LEAST_TOKENS = 16  # fewer tell nothing of steady decoding


class PrepareError(Exception):
    """What the user can fix."""


def ask(script: str, *words: str, text: str = "") -> list[dict[str, Any]]:
    """JSON lines of a script beside this one; PrepareError with its words where it prints none."""
    done = subprocess.run(
        [*room_command(script), *words], input=text, capture_output=True, text=True, check=False
    )
    answers = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    if not answers:
        said = done.stderr.strip().splitlines() or [f"{script} ended with {done.returncode}"]
        raise PrepareError(said[-1].removeprefix("error: "))
    return answers


def prompt_ids(model: Path, prompt: str, prompt_format: str) -> list[int]:
    """Token ids the model is to read, from its vocabulary alone."""
    wanted = {"messages": [{"role": "user", "content": prompt}], "format": prompt_format, "thinking": False}
    requests = [{"op": "open", "model": str(model)}, {"op": "count", "prompt": wanted, "ids": True}]
    answers = ask("edgebench.engine.single", text="".join(json.dumps(one) + "\n" for one in requests))
    for answer in answers:
        if not answer["ok"]:
            raise PrepareError(answer["error"]["message"])
    ids: list[int] = answers[-1]["ids"]
    if not ids:
        raise PrepareError("the prompt has no tokens; give --prompt some text")
    return ids


def reference(model: Path, ids: Sequence[int], args: argparse.Namespace) -> dict[str, Any]:
    """The greedy answer, and what its tokens look like as text."""
    import llama_cpp
    import numpy as np

    room = -(-(len(ids) + args.max_tokens + 1) // CONTEXT_STEP) * CONTEXT_STEP
    engine = llama_cpp.Llama(
        str(model), n_ctx=room, n_gpu_layers=args.n_gpu_layers, n_threads=args.n_threads,
        n_threads_batch=args.n_threads, flash_attn=args.flash_attn != "off", verbose=False,
    )  # fmt: skip
    vocab = llama_cpp.llama_model_get_vocab(engine.model)
    out: list[int] = []
    margins: list[float] = []
    ended = False
    # The samplers behind temperature 0 are switched off: greedy is the largest logit and nothing else.
    for token in engine.generate(list(ids), temp=0.0, top_k=1, repeat_penalty=1.0):
        ended = bool(llama_cpp.llama_vocab_is_eog(vocab, token))
        if ended:
            break
        out.append(int(token))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(engine.ctx, -1), (engine.n_vocab(),))
        second, first = np.partition(logits, -2)[-2:]
        margins.append(float(first - second))
        if len(out) == args.max_tokens:
            break
    text = engine.detokenize(out).decode("utf-8", "ignore")
    ends = [len(engine.detokenize(out[: n + 1]).decode("utf-8", "ignore")) for n in range(len(out))]
    prompt_text = engine.detokenize(list(ids), special=True).decode("utf-8", "replace")
    if engine.metadata.get("tokenizer.ggml.add_bos_token") != "false" and ids[0] == engine.token_bos():
        # Text tools put the beginning-of-sequence token there themselves.
        prompt_text = engine.detokenize(list(ids[1:]), special=True).decode("utf-8", "replace")
    return {
        "reference_ids": out, "reference_text": text, "reference_ends": ends, "reference_ended": ended,
        "reference_margins": margins,
        "prompt_text": prompt_text, "n_ctx": room,
    }  # fmt: skip


def write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def prepare(args: argparse.Namespace) -> Path:
    """Write the job; its path."""
    if not args.model.is_file():
        raise PrepareError(f"{args.model} is not there; give --model the path of a GGUF file")
    prompt = args.prompt_file.read_text(encoding="utf-8") if args.prompt_file else args.prompt
    (facts,) = ask("edgebench.gguf.identity", "--models", str(args.model))
    if facts.get("error"):
        raise PrepareError(f"{args.model}: {facts['error']}")
    ids = prompt_ids(args.model, prompt, args.prompt_format)
    answer = reference(args.model, ids, args)
    length = len(answer["reference_ids"])
    if length < min(LEAST_TOKENS, args.max_tokens):
        raise PrepareError(
            f"the model ends its answer after {length} tokens, too few to time;"
            " choose another --prompt, or --prompt_format raw"
        )
    job = {
        "schema_version": 1, "model": str(args.model.resolve()), "model_id": args.name or facts["model_id"],
        "quantization": facts["quantization"], "model_sha256": facts["sha256"],
        "file_byte": facts["file_byte"], "read_byte_per_token": facts["read_byte_per_token"],
        "n_params": facts["n_params"], "prompt": prompt, "prompt_format": args.prompt_format,
        "prompt_ids": ids, "prompt_tokens": len(ids),
        "prompt_sha256": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "asked_tokens": args.max_tokens, "max_tokens": length, **answer,
        "n_threads": args.n_threads, "n_gpu_layers": args.n_gpu_layers, "flash_attn": args.flash_attn,
    }  # fmt: skip
    args.work.mkdir(parents=True, exist_ok=True)
    write_files(args.work, job)
    return Path(args.work) / "job.json"


def write_files(work: Path, job: Mapping[str, Any]) -> None:
    """The job, and its prompt in the forms that the engines read."""
    write_whole(work / "prompt_ids.json", json.dumps(job["prompt_ids"]) + "\n")
    write_whole(work / "prompt.txt", job["prompt_text"] + "\n")  # llama.cpp takes one newline off
    write_whole(work / "prompt.jsonl", json.dumps({"question_id": "prompt", "L0": job["prompt"]}) + "\n")
    write_whole(work / "job.json", json.dumps(job, indent=1) + "\n")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="GGUF", type=Path, required=True, help="model file")
    parser.add_argument("--work", metavar="DIR", type=Path, required=True, help="folder for the files")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", metavar="TEXT", help="what all engines are asked")
    asked.add_argument("--prompt_file", metavar="FILE", type=Path, help="the same, from a file")
    parser.add_argument(
        "--prompt_format", choices=("chat", "raw"), default="chat", help="chat template or bare text"
    )
    parser.add_argument("--max_tokens", metavar="N", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--name", metavar="MODEL", help="the model's name in the table")
    parser.add_argument("--n_gpu_layers", metavar="N", type=int, default=-1, help="(default: -1, all)")
    parser.add_argument(
        "--n_threads", metavar="N", type=int, default=max(1, (os.cpu_count() or 2) - 1),
        help="on the CPU (default: cores - 1)",
    )  # fmt: skip
    parser.add_argument("--flash_attn", choices=("auto", "on", "off"), default="auto", help="(default: auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        print(prepare(args))
    except ImportError as exc:
        print(
            f"error: the reference engine is not installed ({exc}); run ./run_all.sh --setup", file=sys.stderr
        )
        return 1
    except (PrepareError, OSError, ValueError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
