"""A prompt as the model reads it: the rules of engine/template.py, applied to a model of the binding.

The one place where single, batched and drafted decoding, and counting for the plan, turn a prompt into ids.
"""

from __future__ import annotations

import datetime

from edgebench.engine.binding import Model
from edgebench.engine.protocol import REFUSED, EngineFailure, Prompt
from edgebench.engine.template import (
    RAW_CURE,
    ChatTemplate,
    PromptRefused,
    ReadPrompt,
    Tokenizer,
    Turn,
    read_chat,
    read_raw,
)


def read_prompt(model: Model, prompt: Prompt) -> ReadPrompt:
    """The exact ids of a prompt. EngineFailure where they cannot be proved to say it, with the reason."""
    turns = [Turn(message.role, message.content or "") for message in prompt.messages]
    today = None if prompt.today is None else datetime.date.fromisoformat(prompt.today)
    try:
        if prompt.format == "raw":
            return read_raw(tokenizer_of(model), turns, prompt.thinking)
        return read_chat(chat_template_of(model), tokenizer_of(model), turns, prompt.thinking, today)
    except PromptRefused as refused:
        raise EngineFailure(refused.kind, f"{model.path}: {refused}") from refused


def tokenizer_of(model: Model) -> Tokenizer:
    """What the template's room asks of a vocabulary."""
    return Tokenizer(
        tokenize=lambda text, parse_special: model.tokenize(text, False, parse_special),
        spell=model.spell,
        bos=model.bos,
        eos=model.eos,
        adds_bos=model.adds_bos,
        adds_eos=model.adds_eos,
    )


def chat_template_of(model: Model) -> ChatTemplate:
    """The model's own chat template, read once for each model. EngineFailure, PromptRefused without one."""
    template = model.kept.get("chat_template")
    if template is None:
        source = model.chat_template()
        if source is None:
            raise EngineFailure(REFUSED, f"{model.path} has no chat template; {RAW_CURE}")
        template = ChatTemplate(source, model.token_text(model.bos), model.token_text(model.eos))
        model.kept["chat_template"] = template
    assert isinstance(template, ChatTemplate)
    return template
