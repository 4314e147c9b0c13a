"""A conversation as the model reads it: the chat template's text, its ids, and the proof that they say it.

The engine's binding stays outside: this room gets a model's template and a Tokenizer of callables, so that it
can be tried without a model. What it decides:

Proof. A template is a program of the model's author. Some loop over typed parts and lose a text that comes as
a string, some skip a role. So every template is first rendered with words of our own in place of the texts,
in the shapes that templates take (strings, typed parts, the system's text in the user's), until all words are
in what comes out. Then each text itself must be found there more often than in that frame, apart from white
space, case and escapes; and in the spelling of the ids. What cannot be proved is refused.

Control tokens. The whole rendered text is tokenized with control tokens read as such, the user's part of it
too: so do the engine's own server and the model's makers, and the ids of ordinary prompts stay theirs. A text
that spells a control token, and so becomes more than text, is flagged control_tokens_in_prompt. With
--prompt_format raw they stay letters.

BOS and EOS. As the file's metadata ask for, once each, also where the template writes them itself. A BOS that
the file does not name is none (the engine's default id is some word of the vocabulary). An EOS behind the
prompt is flagged eos_after_prompt, because it tells the model that its turn is over.

Date. A template may print today's date; the caller can fix it, so that a campaign's prompts stay the ones of
its plan. The time of day is always 00:00.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import re
import struct
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgebench.engine.protocol import NOT_IN_PROMPT, REFUSED
from edgebench.prompts import thinking

RAW_CURE = "use --prompt_format raw"
# Words in place of the texts begin with it: letters alone, so that no template trims, escapes or reads them.
PROBE = "qxzvkjw"
# What the families call their switch. Seed-OSS counts tokens, and has no word for on.
SWITCHED_ON: dict[str, Any] = {"enable_thinking": True, "thinking": True}
SWITCHED_OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False, "thinking_budget": 0}
# As the engine's own chat call passes them. Some templates only look whether they are there.
NO_TOOLS: dict[str, Any] = dict.fromkeys(("functions", "function_call", "tools", "tool_choice"))
# How most families write the marks of their turns.
TURN_MARK = re.compile(r"<\|\w+\|>")
TRAINING_TAG = re.compile(r"(?P<open>\{%[-+]?)\s*(?P<end>end)?generation\s*(?P<close>[-+]?%\})")
# Words by which a user switches SmolLM3's and Qwen3's thinking in the text; a template may take them out.
TEXT_SWITCHES = ("/no_think", "/think")
SPACE_MARK = "\u2581"  # SentencePiece's letter for a space


class PromptRefused(Exception):
    """The model cannot be given this prompt. The message is for the user; kind is the record's error.type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Turn(NamedTuple):
    """A message whose content is known; that of a first answer yet to come is empty."""

    role: str
    content: str


@dataclass(frozen=True)
class Tokenizer:
    """What this room asks of a model's vocabulary."""

    tokenize: Callable[[str, bool], list[int]]  # text, whether control tokens in it are read as such
    spell: Callable[[Sequence[int]], str]  # the text of ids, control tokens spelled out
    bos: int | None  # None where the file names none
    eos: int | None
    adds_bos: bool  # the file's metadata ask for it
    adds_eos: bool


@dataclass(frozen=True)
class ReadPrompt:
    """The exact ids, whether the prompt leaves thinking open, and flags for the record."""

    ids: list[int]
    thinking_open: bool
    flags: tuple[str, ...]
    has_thinking_switch: bool = False


@dataclass(frozen=True)
class Shape:
    """How a template wants a conversation of some roles, and what it makes of it around the texts."""

    typed_roles: frozenset[str]  # roles whose content it takes as typed parts
    system_in_user: bool
    extra: dict[str, Any]  # names it is given beside the messages
    frame: str  # rendered with probe words in place of the texts


class ChatTemplate:
    """A model's chat template, and the shapes that it has been found to take."""

    def __init__(self, source: str, bos_text: str, eos_text: str) -> None:
        """PromptRefused for a source that is no template."""
        self._shapes: dict[tuple[Any, ...], Shape | PromptRefused] = {}
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._compiled = compile_template(source)
        except Exception as exc:  # a program of the model's author: its syntax may be anything
            message = f"its chat template cannot be read ({exc}); {RAW_CURE}"
            raise PromptRefused(REFUSED, message) from exc

    def render(
        self, turns: Sequence[Turn], shape: Shape, switches: dict[str, Any], today: datetime.date
    ) -> str:
        """The text of a conversation in a shape. Raises whatever the template does."""
        messages = [
            {
                "role": turn.role,
                "content": typed(turn.content) if turn.role in shape.typed_roles else turn.content,
            }
            for turn in (merged(turns) if shape.system_in_user else turns)
        ]
        midnight = datetime.datetime.combine(today, datetime.time())
        text = self._compiled.render(
            messages=messages,
            add_generation_prompt=True,
            raise_exception=raise_exception,
            strftime_now=midnight.strftime,
            **self._tokens,
            **shape.extra,
            **switches,
        )
        return str(text)

    def shape_for(self, roles: tuple[str, ...], switches: dict[str, Any], today: datetime.date) -> Shape:
        """The first shape in which every text comes out. PromptRefused with the reason if there is none."""
        key = (roles, json.dumps(switches), today)
        if key not in self._shapes:
            try:
                self._shapes[key] = self._find_shape(roles, switches, today)
            except PromptRefused as refused:
                self._shapes[key] = refused
        found = self._shapes[key]
        if isinstance(found, PromptRefused):
            raise PromptRefused(found.kind, str(found))  # a fresh one: its traceback would grow at each raise
        return found

    def _find_shape(self, roles: tuple[str, ...], switches: dict[str, Any], today: datetime.date) -> Shape:
        probes = [Turn(role, probe_word(n)) for n, role in enumerate(roles)]
        reasons: list[PromptRefused] = []
        for shape in possible_shapes(roles):
            try:
                frame = self.render(probes, shape, switches, today)
            except Exception as exc:  # a template may raise anything
                reasons.append(
                    PromptRefused(REFUSED, f"its chat template refused the prompt: {exc}; {RAW_CURE}")
                )
                continue
            lost = [turn.role for turn in probes if turn.content not in squashed(frame)]
            if not lost and not is_printed_raw(frame):
                return Shape(shape.typed_roles, shape.system_in_user, shape.extra, frame)
            if lost:
                reasons.append(lost_roles(lost))
        # The reason of the plainest shape is the one that people know.
        raise reasons[0] if reasons else lost_roles(roles)

    def has_switch(self, roles: tuple[str, ...], today: datetime.date) -> bool:
        """Whether the prompt with thinking is another one than without."""
        try:
            with_thinking = self.shape_for(roles, SWITCHED_ON, today).frame
            without = self.shape_for(roles, SWITCHED_OFF, today).frame
        except PromptRefused:
            return False
        return with_thinking != without


def compile_template(source: str) -> Any:
    """A Jinja template with what templates may use: as in transformers, which their authors try them with."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    return environment.from_string(TRAINING_TAG.sub(read_always, source))


def read_always(tag: re.Match[str]) -> str:
    """{% generation %} marks an answer for training; to us its content is text like any other."""
    return f"{tag['open']} {'endif' if tag['end'] else 'if true'} {tag['close']}"


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise ValueError(message)


# ---------------------------------------------------------------------------
# Shapes


def possible_shapes(roles: Sequence[str]) -> Iterator[Shape]:
    """Shapes to try, the plainest first: strings, typed parts for some roles, the system's text moved."""
    distinct = tuple(dict.fromkeys(roles))
    for system_in_user in (False, True) if roles[0] == "system" and "user" in roles else (False,):
        open_roles = [role for role in distinct if not (system_in_user and role == "system")]
        for count in range(len(open_roles) + 1):
            for typed_roles in itertools.combinations(open_roles, count):
                for extra in (NO_TOOLS, {}):
                    yield Shape(frozenset(typed_roles), system_in_user, extra, "")


def typed(content: str) -> list[dict[str, str]]:
    """A text as typed parts."""
    return [{"type": "text", "text": content}]


def merged(turns: Sequence[Turn]) -> list[Turn]:
    """The system's text at the head of the first user's."""
    system, user, *rest = turns
    return [Turn(user.role, f"{system.content}\n\n{user.content}"), *rest]


def probe_word(number: int) -> str:
    """A word that no template knows, and that is no part of another one.

    >>> probe_word(0), probe_word(27)
    ('qxzvkjwaq', 'qxzvkjwbbq')
    """
    times, letter = divmod(number, 26)
    return f"{PROBE}{chr(ord('a') + letter) * (times + 1)}q"


def is_printed_raw(frame: str) -> bool:
    """Whether a template printed typed parts as Python or JSON does: it takes strings."""
    return any(
        f"{quote}text{quote}:{space}{quote}{PROBE}" in frame
        for quote, space in itertools.product("'\"", ("", " "))
    )


def lost_roles(roles: Collection[str]) -> PromptRefused:
    """The refusal of a template that leaves texts out."""
    whose = " and ".join(f"the {role}'s text" for role in dict.fromkeys(roles))
    message = f"its chat template leaves out {whose}: the model would not read it; {RAW_CURE}"
    return PromptRefused(NOT_IN_PROMPT, message)


# ---------------------------------------------------------------------------
# Prompts


def read_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    thinking_on: bool,
    today: datetime.date | None = None,
) -> ReadPrompt:
    """The ids of a conversation in the model's chat template. PromptRefused where they cannot be proved.

    Flags: system_in_user, thinking_switch_missing (the template cannot do as asked), and those of
    common_flags.
    """
    today = today or datetime.date.today()
    roles = tuple(turn.role for turn in turns)
    switches = SWITCHED_ON if thinking_on else SWITCHED_OFF
    shape = template.shape_for(roles, switches, today)
    try:
        text = template.render(turns, shape, switches, today)
    except Exception as exc:  # a template may raise anything
        raise PromptRefused(REFUSED, f"its chat template refused the prompt: {exc}; {RAW_CURE}") from exc
    prove_in_text(turns, text, shape.frame)
    ids = with_edges(tokenizer.tokenize(text, True), tokenizer)
    has_switch = template.has_switch(roles, today)
    is_open = thinking.opens_reasoning(text)
    flags = {
        "system_in_user": shape.system_in_user,
        "thinking_switch_missing": not has_switch and is_open != thinking_on,
        **common_flags(turns, text, ids, tokenizer, reads_control=True),
    }
    return ReadPrompt(ids, is_open, raised(flags), has_switch)


def read_raw(tokenizer: Tokenizer, turns: Sequence[Turn], thinking_on: bool = False) -> ReadPrompt:
    """The ids of the bare texts, joined by blank lines. PromptRefused where they cannot be proved.

    Flags: thinking_switch_missing (a bare text has none), and those of common_flags.
    """
    text = "\n\n".join(turn.content for turn in turns)
    ids = with_edges(tokenizer.tokenize(text, False), tokenizer)
    is_open = thinking.opens_reasoning(text)
    flags = {
        "thinking_switch_missing": thinking_on and not is_open,
        **common_flags(turns, text, ids, tokenizer, reads_control=False),
    }
    return ReadPrompt(ids, is_open, raised(flags))


def common_flags(
    turns: Sequence[Turn], text: str, ids: Sequence[int], tokenizer: Tokenizer, reads_control: bool
) -> dict[str, bool]:
    """What holds of a prompt in either format. PromptRefused where the ids do not say the text.

    Flags: control_tokens_in_prompt, eos_after_prompt, prompt_altered_by_tokenizer (the vocabulary lacks
    characters of the text).
    """
    return {
        "control_tokens_in_prompt": any(
            spells_control(turn.content, tokenizer, reads_control) for turn in turns
        ),
        "eos_after_prompt": tokenizer.adds_eos and ids[-1:] == [tokenizer.eos],
        "prompt_altered_by_tokenizer": not proved_in_ids(turns, text, ids, tokenizer, reads_control),
    }


def raised(flags: dict[str, bool]) -> tuple[str, ...]:
    """The flags that hold."""
    return tuple(name for name, holds in flags.items() if holds)


def ids_sha256(ids: Sequence[int]) -> str:
    """Hash of a prompt's ids, each as four bytes, little-endian: what the model really reads.

    >>> ids_sha256([1, 2])[:8]
    '34fb5c82'
    """
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()


def with_edges(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids with the BOS and EOS that the metadata ask for, each once, whoever wrote them."""
    edged = list(ids)
    bos, eos = tokenizer.bos, tokenizer.eos
    if bos is not None:
        while edged[:2] == [bos, bos]:
            del edged[0]
        if tokenizer.adds_bos and first_word(edged, tokenizer) != bos:
            edged.insert(0, bos)
    if eos is not None and tokenizer.adds_eos:
        while edged[-2:] == [eos, eos]:
            del edged[-1]
        if first_word(edged[::-1], tokenizer) != eos:
            edged.append(eos)
    return edged


def first_word(ids: Iterable[int], tokenizer: Tokenizer) -> int | None:
    """The first id that is no white space: a template may begin with a line break of its own."""
    return next((token for token in ids if tokenizer.spell([token]).strip()), None)


def spells_control(content: str, tokenizer: Tokenizer, reads_control: bool) -> bool:
    """Whether a text spells tokens that are more than text to the model.

    Control tokens are those that the tokenizer reads only when it is told to. Some files declare the marks of
    thinking as ordinary added tokens instead, which it always reads; so it does the runs of spaces of others.
    """
    if reads_control and tokenizer.tokenize(content, True) != tokenizer.tokenize(content, False):
        return True
    marks = {*thinking.marks_in(content), *TURN_MARK.findall(content)}
    return any(len(tokenizer.tokenize(mark, reads_control)) == 1 for mark in marks)


# ---------------------------------------------------------------------------
# Proofs


def squashed(text: str) -> str:
    """Without white space and case, which templates may change.

    >>> squashed(" Who\\n is\\u00a0it? ")
    'whoisit?'
    """
    return "".join(text.split()).casefold()


def prove_in_text(turns: Sequence[Turn], text: str, frame: str) -> None:
    """PromptRefused for a rendered text that lacks one of the messages.

    Each must be there more often than in the frame alone: a short one might be a word of the template's.
    """
    whole = squashed(text)
    around = re.split(rf"{PROBE}[a-z]+?q", squashed(frame))
    for turn in turns:
        forms = [squashed(form) for form in allowed_forms(turn)]
        if any(not form or whole.count(form) > sum(part.count(form) for part in around) for form in forms):
            continue
        missing = next((word for word in turn.content.split() if squashed(word) not in whole), "")
        which = f", among it {missing[:40]!r}" if missing else ""
        message = (
            f"its chat template changes the {turn.role}'s text{which}: the model would read something else"
        )
        raise PromptRefused(NOT_IN_PROMPT, f"{message}; {RAW_CURE}")


def allowed_forms(turn: Turn) -> Iterator[str]:
    """What a template may rightly make of a message."""
    yield turn.content
    yield json.dumps(turn.content)[1:-1]
    yield json.dumps(turn.content, ensure_ascii=False)[1:-1]
    yield html_escaped(turn.content)
    without_switches = turn.content
    for switch in TEXT_SWITCHES:
        without_switches = without_switches.replace(switch, "")
    yield without_switches
    if turn.role == "assistant":  # thinking of earlier turns is left out
        yield thinking.without_reasoning(turn.content)


def html_escaped(text: str) -> str:
    """As Jinja's escape filter writes it."""
    for char, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(char, name)
    return text


def proved_in_ids(
    turns: Sequence[Turn], text: str, ids: Sequence[int], tokenizer: Tokenizer, reads_control: bool
) -> bool:
    """Whether the ids spell the whole text; False where the vocabulary lacks some of its characters.

    PromptRefused where they do not even spell what the tokenizer makes of a message by itself.
    """
    spelled = plain(tokenizer.spell(ids))
    if plain(text) in spelled:
        return True
    for turn in turns:
        if not plain(turn.content) or plain(turn.content) in spelled:
            continue
        alone = plain(tokenizer.spell(tokenizer.tokenize(turn.content, reads_control)))
        if not alone or alone not in spelled:
            message = f"the model's tokenizer loses the {turn.role}'s text: the model would not read it"
            raise PromptRefused(NOT_IN_PROMPT, f"{message}; check that the model file is whole")
    return False


def plain(text: str) -> str:
    """A text without what tokenizers normalize: white space, case, width and composition, accents.

    >>> plain("Zürich \\u2581ﬁ") == plain("zurich fi")
    True
    """
    if text.isascii():
        return squashed(text)
    whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no bytes
    apart = unicodedata.normalize("NFKD", whole.replace(SPACE_MARK, ""))
    return squashed("".join(char for char in apart if not unicodedata.combining(char)))
