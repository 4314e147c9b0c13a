"""The work that engines are to be compared on, written down once: the same model, prompt and length for all.

The prompt's token ids come from the GGUF's own vocabulary, with its chat template or as bare text. The
reference answer is the engine's greedy one, decoded once and untimed; where the model ends its answer before
max_tokens, that length becomes everyone's, so that an engine which cannot ignore the end of an answer does
the same work as one that can.

Files of a job's folder: job.json (prompt_ids, max_tokens, reference_ids, reference_ends [characters of the
answer up to and including each token], reference_margins [logits between each token and the runner-up],
prompt_sha256, model facts, settings), prompt_ids.json, prompt.txt (what text tools read) and prompt.jsonl
(what run_llamacpp_collect.py reads).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench.engine.client import EngineFailure, EngineProcess, ModelLoad, Prompt, ReferenceAnswer
from edgebench.errors import UserError
from edgebench.gguf.identity import make_entries
from edgebench.records.jsonl import write_whole

CONTEXT_STEP = 256  # tokens; the engine rounds up to it
LEAST_TOKENS = 16  # fewer tell nothing of steady decoding


@dataclass(frozen=True)
class JobSettings:
    """What all engines are asked; names and meanings are those of the flags."""

    model: Path
    prompt: str | None = None
    prompt_file: Path | None = None  # instead of prompt
    prompt_format: str = "chat"
    max_tokens: int = 128
    name: str | None = None  # the model's name in the table
    n_gpu_layers: int = -1
    n_threads: int = 1
    flash_attn: str = "auto"

    def text(self) -> str:
        """The prompt. UserError where there is no text, which some engines would answer and others refuse."""
        flag = "--prompt" if self.prompt_file is None else "--prompt_file"
        try:
            text = (
                self.prompt if self.prompt_file is None else self.prompt_file.read_text(encoding="utf-8-sig")
            )
        except UnicodeDecodeError:
            raise UserError(f"{self.prompt_file} is no text in UTF-8; give {flag} one") from None
        if not (text or "").strip():
            raise UserError(f"the prompt is empty; give {flag} some text")
        return text or ""


def read_prompt(engine: EngineProcess, settings: JobSettings, text: str) -> tuple[int, ...]:
    """Token ids the model is to read, from its vocabulary alone."""
    engine.open(str(settings.model))
    ids = engine.count(Prompt.of_text(text, settings.prompt_format), with_ids=True).ids
    if not ids:
        raise UserError("the prompt has no tokens; give --prompt some text")
    return ids


def decode_reference(
    engine: EngineProcess, settings: JobSettings, ids: Sequence[int]
) -> tuple[ReferenceAnswer, int]:
    """The greedy answer, and the context [tokens] that prompt and answer take."""
    room = -(-(len(ids) + settings.max_tokens + 1) // CONTEXT_STEP) * CONTEXT_STEP
    load = ModelLoad(
        n_ctx=room,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
        flash_attn=settings.flash_attn,
    )
    engine.load(str(settings.model), load)
    return engine.reference(ids, settings.max_tokens), room


def make_job(settings: JobSettings, work: Path) -> dict[str, Any]:
    """The job, written into its folder. Raises UserError, OSError."""
    if not settings.model.is_file():
        raise UserError(f"{settings.model} is not there; give --model the path of a GGUF file")
    prompt = settings.text()
    (facts,) = make_entries([settings.model], {})
    if facts.get("error"):
        raise UserError(f"{settings.model}: {facts['error']}")
    try:
        with EngineProcess() as engine:
            ids = read_prompt(engine, settings, prompt)
            answer, room = decode_reference(engine, settings, ids)
    except EngineFailure as failure:
        raise UserError(str(failure)) from failure
    length = len(answer.token_ids)
    if length < min(LEAST_TOKENS, settings.max_tokens):
        raise UserError(
            f"the model ends its answer after {length} tokens, too few to time;"
            " choose another --prompt, or --prompt_format raw"
        )
    job = {
        "schema_version": 1,
        "model": str(settings.model.resolve()),
        "model_id": settings.name or facts["model_id"],
        "quantization": facts["quantization"],
        "model_sha256": facts["sha256"],
        "file_byte": facts["file_byte"],
        "read_byte_per_token": facts["read_byte_per_token"],
        "n_params": facts["n_params"],
        "prompt": prompt,
        "prompt_format": settings.prompt_format,
        "prompt_ids": list(ids),
        "prompt_tokens": len(ids),
        "prompt_sha256": hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest(),
        "asked_tokens": settings.max_tokens,
        "max_tokens": length,
        "reference_ids": list(answer.token_ids),
        "reference_text": answer.text,
        "reference_ends": list(answer.ends),
        "reference_ended": answer.ended,
        "reference_margins": list(answer.margins),
        "prompt_text": answer.prompt_text,
        "n_ctx": room,
        "n_threads": settings.n_threads,
        "n_gpu_layers": settings.n_gpu_layers,
        "flash_attn": settings.flash_attn,
    }
    work.mkdir(parents=True, exist_ok=True)
    write_files(work, job)
    return job


def write_files(work: Path, job: Mapping[str, Any]) -> None:
    """The job, and its prompt in the forms that the engines read."""
    write_whole(work / "prompt_ids.json", json.dumps(job["prompt_ids"]) + "\n")
    write_whole(work / "prompt.txt", job["prompt_text"] + "\n")  # llama.cpp takes one newline off
    write_whole(work / "prompt.jsonl", json.dumps({"question_id": "prompt", "L0": job["prompt"]}) + "\n")
    write_whole(work / "job.json", json.dumps(job, indent=1) + "\n")
