"""A prompt as the model reads it: messages in its chat template, or bare text, as token ids.

The one place where single, batched and drafted decoding, and counting for the plan, turn a prompt into ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.engine.binding import Model
from edgebench.engine.protocol import REFUSED, EngineFailure, Prompt

THINK_OPEN = "<think>"


@dataclass(frozen=True)
class ReadPrompt:
    """The exact ids, whether the prompt leaves thinking open, and flags for the record."""

    ids: list[int]
    thinking_open: bool
    flags: tuple[str, ...]


def read_prompt(model: Model, prompt: Prompt) -> ReadPrompt:
    """The ids of a prompt. EngineFailure where the template refuses it, or nothing is left to read.

    A chat template writes its own BOS; raw text gets the one the model's metadata ask for.
    """
    text, flags = prompt_text(model, prompt)
    raw = prompt.format == "raw"
    ids = model.tokenize(text, add_special=raw, parse_special=not raw)
    return ReadPrompt(ids, text.rstrip().endswith(THINK_OPEN), flags)


def prompt_text(model: Model, prompt: Prompt) -> tuple[str, tuple[str, ...]]:
    """The text to be tokenized, and flags.

    A template that refuses a system message (Gemma's does) gets it at the head of the first user message.
    """
    messages = [{"role": one.role, "content": one.content or ""} for one in prompt.messages]
    if prompt.format == "raw":
        return "\n\n".join(message["content"] for message in messages), ()
    formatter = chat_formatter(model)
    try:
        return render(formatter, messages, prompt), ()
    except Exception as refused:  # a template is a program of the model's author and may raise anything
        if messages[0]["role"] != "system":
            raise refusal(model, refused) from refused
    merged = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
    try:
        return render(formatter, [merged, *messages[2:]], prompt), ("system_in_user",)
    except Exception as refused:
        raise refusal(model, refused) from refused


def refusal(model: Model, refused: Exception) -> EngineFailure:
    """A template's own words."""
    return EngineFailure(REFUSED, f"{model.path}: its chat template refused the prompt: {refused}")


def chat_formatter(model: Model) -> Any:
    """The model's own chat template as a callable, read once for each model. EngineFailure without one."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    if "formatter" in model.kept:
        return model.kept["formatter"]
    template = model.chat_template()
    if template is None:
        raise EngineFailure(REFUSED, f"{model.path} has no chat template; use --prompt_format raw")
    try:
        formatter = Jinja2ChatFormatter(
            template, bos_token=model.token_text(model.bos), eos_token=model.token_text(model.eos)
        )
    except Exception as exc:  # a template is a program of the model's author: its syntax may be anything
        message = f"{model.path} has a chat template that cannot be read ({exc}); use --prompt_format raw"
        raise EngineFailure(REFUSED, message) from exc
    model.kept["formatter"] = formatter
    return formatter


def render(formatter: Any, messages: Sequence[Mapping[str, str]], prompt: Prompt) -> str:
    """Apply the chat template. enable_thinking is what Qwen3's reads; others ignore it."""
    rendered = formatter(messages=messages, enable_thinking=prompt.thinking)
    return str(rendered.prompt)
