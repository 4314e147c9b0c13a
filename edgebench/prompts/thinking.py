"""Where a reasoning model's thinking ends and its answer begins: the marks of all families, in one place.

The collector splits what a model says, the judge reads answers of any origin and the replies of judges that
think themselves; all three ask here. Only text goes in and out, and only the standard library is needed.

Two grammars are known. Most families put one opening and one closing mark around the thinking, at the head of
what they say (MARKS). Harmony, that of gpt-oss, gives every message a channel: analysis is thinking, final is
the answer.

A mark in quotes or backquotes is a word about the mark, not the mark. So is a closing mark that nothing
opened and that an opening one follows ("write </think> once, and <think> once").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Marks:
    """What one family writes around its thinking; regular expressions. `{tag}` in closing is the opening's.

    closes_alone: the closing mark says by itself that thinking came before it, whoever opened it.
    """

    families: str
    opening: str
    closing: str
    closes_alone: bool = True


# <think>; <seed:think>, <mm:think>, <think:opensource> and <longcat_think> are the same with a family's name.
ANY_TAG = r"(?:\w+[:_])?(?:think|thinking|thoughts?|reasoning)(?::\w+)?"
MARKS = (
    Marks(
        "DeepSeek-R1, Qwen3, QwQ, GLM, Granite, SmolLM3, Nemotron, Phi-4 reasoning; Seed-OSS, MiniMax,"
        " Hunyuan, LongCat; EXAONE Deep (thought), Reka (reasoning)",
        rf"(?i:<(?P<tag>{ANY_TAG})>)",
        r"(?i:</{tag}>)",
    ),
    Marks("Magistral, Ministral reasoning", r"\[THINK\]", r"\[/THINK\]"),
    Marks("Kimi-VL thinking", r"◁think▷", r"◁/think▷"),
    Marks("Command A reasoning, Command R7B", r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    Marks("Sky-T1, OpenThinker", r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    Marks("Gemma 4", r"<\|channel>thought\b", r"<channel\|>"),
    Marks("MedGemma", r"<unused94>thought\b", r"<unused95>"),
    Marks("Pangu", r"\[unused16\]", r"\[unused17\]"),
    Marks("Apertus", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    Marks("Kimi K3", r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>"),
    # Elsewhere <|end|> ends a turn.
    Marks("Solar Open", r"<\|think\|>", r"<\|end\|>", closes_alone=False),
    Marks("Apriel", r"Here are my reasoning steps:", r"\[BEGIN FINAL RESPONSE\]"),
)
OPENING = re.compile("|".join(f"(?:{marks.opening.replace('?P<tag>', '?:')})" for marks in MARKS))
CLOSING_ALONE = re.compile(
    "|".join(f"(?:{marks.closing.replace('{tag}', ANY_TAG)})" for marks in MARKS if marks.closes_alone)
)
# What some families write around the answer that follows; the end may be cut off.
ANSWER_FRAMES = (
    (r"<\|START_RESPONSE\|>", r"<\|END_RESPONSE\|>"),
    (r"<\|START_TEXT\|>", r"<\|END_TEXT\|>"),
    (r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>"),
    (r"<\|open\|>response<\|sep\|>", r"<\|close\|>response<\|sep\|>"),
    (r"(?:<\|begin\|>assistant)?<\|content\|>", r"<\|end\|>"),
)
# Words that an answer may use for itself, so only behind thinking.
FRAMES_BEHIND_THINKING = ((r"<response>", r"</response>"), (r"<answer>", r"</answer>"))
LONGEST_MARK = 200  # characters; a prompt is searched for one at its end alone
END_OF_FRAME = "[END FINAL RESPONSE]"  # Apriel's closing mark opens its frame

QUOTES = {"`": "`", "'": "'", '"': '"', "“": "”", "‘": "’", "«": "»"}

# Harmony: <|start|>assistant<|channel|>analysis<|message|>...<|end|>; the first <|start|>assistant stands in
# the prompt. <|call|> and <|return|> end a message, too.
CHANNELS = r"(?P<channel>analysis|commentary|final)"
MESSAGE_HEAD = re.compile(
    rf"(?:<\|start\|>\s*assistant[^<]*)?<\|channel\|>\s*{CHANNELS}\b[^<]*"
    r"(?:<\|constrain\|>[^<]*)?(?:<\|message\|>|\Z)"
)
MESSAGE_END = re.compile(r"<\|(?:end|return|call)\|>|(?=<\|start\|>|<\|channel\|>)|\Z")
CUT_HEAD = re.compile(r"<\|start\|>[^<]*(?:<\|channel\|>[^<]*)?\Z")
# The same with the control tokens gone, as engines print it that hide them.
BARE_HEAD = re.compile(r"(?:\A\s*|assistant)(?P<channel>analysis|commentary|final)")
BARE = re.compile(r"\s*analysis.*?assistantfinal", re.S)


class Reasoned(NamedTuple):
    """What a model said, parted. reasoning is None where it did not think, "" where it thought nothing."""

    answer: str
    reasoning: str | None
    still_open: bool  # it ended inside its thinking: there is no answer


class Span(NamedTuple):
    """A stretch of a text, as indices of its characters; what no span covers is marks."""

    start: int
    end: int
    is_reasoning: bool


class Piece(NamedTuple):
    """One token of an output."""

    data: bytes  # its spelling, also of a control token; may be part of a character
    is_control: bool  # not for the reader's eyes


class ReasonedTokens(NamedTuple):
    """An output parted by token; reasoning_tokens counts the marks of the thinking, too."""

    answer: str
    reasoning: str | None
    still_open: bool
    reasoning_tokens: int


# ---------------------------------------------------------------------------
# What others ask


def split_reasoning(text: str, opened_by_prompt: bool = False) -> Reasoned:
    """Part a model's words into answer and thinking.

    opened_by_prompt: the prompt ended with the opening mark, so the text begins inside the thinking. A
    closing mark that nothing opened ends thinking in any case: foreign records do not tell how their prompts
    ended.
    Nothing is lost but the marks, and the white space and line breaks beside them.

    >>> split_reasoning("<think>Let me see.</think>\\n\\nA bridge.")
    Reasoned(answer='A bridge.', reasoning='Let me see.', still_open=False)
    >>> split_reasoning("hm, hm[/THINK]Yes", opened_by_prompt=True)
    Reasoned(answer='Yes', reasoning='hm, hm', still_open=False)
    >>> split_reasoning("◁think▷never ends")
    Reasoned(answer='', reasoning='never ends', still_open=True)
    >>> split_reasoning("<|channel|>analysis<|message|>Easy.<|end|>" "<|channel|>final<|message|>4")
    Reasoned(answer='4', reasoning='Easy.', still_open=False)
    >>> split_reasoning("Close it with `</think>`.")
    Reasoned(answer='Close it with `</think>`.', reasoning=None, still_open=False)
    """
    spans, still_open = reasoning_spans(text, opened_by_prompt)
    return joined([(text[span.start : span.end], span.is_reasoning) for span in spans], still_open)


def without_reasoning(text: str) -> str:
    """The text without any thinking, wherever it stands: a judge's verdict is what it says outside of it.

    Stricter than split_reasoning, which looks for thinking at the head alone, because an answer may speak of
    the marks; each stretch leaves a space, so that no words run together.
    """
    rest = split_reasoning(text).answer
    while found := next(unquoted(OPENING, rest), None):
        end, _, _ = end_of_block(rest, found)
        rest = rest[: found.start()] + " " + rest[end:]
    *_, last = [0, *(found.end() for found in unquoted(CLOSING_ALONE, rest))]
    return rest[last:]


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with the mark that begins the thinking: the model's first word is a thought then.

    >>> opens_reasoning("<|im_start|>assistant\\n<think>\\n"), opens_reasoning("<think>\\n\\n</think>\\n\\n")
    (True, False)
    """
    end = prompt.rstrip()[-LONGEST_MARK:]
    heads = itertools.chain(OPENING.finditer(end), MESSAGE_HEAD.finditer(end))
    return any(found.end() == len(end) and not is_answer_head(found) for found in heads)


def marks_in(text: str) -> list[str]:
    """The marks of thinking that a text spells, as they stand there.

    >>> marks_in("Write </think> once, and <think> once.")
    ['<think>', '</think>']
    """
    return [found[0] for pattern in (OPENING, CLOSING_ALONE) for found in pattern.finditer(text)]


def split_pieces(pieces: Sequence[Piece], opened_by_prompt: bool = False) -> ReasonedTokens:
    """Part an output by its tokens; control tokens that are no marks are left out of both texts.

    The marks are looked for in the spelling of all tokens, because many families' marks are control tokens.
    Bytes that are no UTF-8 (the half of a character at the cut) are left out.
    """
    data = b"".join(piece.data for piece in pieces)
    text = data.decode("utf-8", "surrogateescape")
    spans, still_open = reasoning_spans(text, opened_by_prompt)
    spans = [
        Span(byte_place(text, span.start), byte_place(text, span.end), span.is_reasoning) for span in spans
    ]
    stretches = [(shown_text(pieces, span), span.is_reasoning) for span in spans]
    return ReasonedTokens(*joined(stretches, still_open), thinking_tokens(pieces, spans))


# ---------------------------------------------------------------------------
# Spans


def reasoning_spans(text: str, opened_by_prompt: bool) -> tuple[list[Span], bool]:
    """The stretches of answer and thinking in their order, and whether the text ended while thinking."""
    if MESSAGE_HEAD.match(text, behind_space(text, 0)) or (opened_by_prompt and MESSAGE_HEAD.search(text)):
        return channel_spans(text, MESSAGE_HEAD, opened_by_prompt)
    if BARE.match(text):
        return channel_spans(text, BARE_HEAD, opened_by_prompt)
    return block_spans(text, opened_by_prompt)


def block_spans(text: str, opened_by_prompt: bool) -> tuple[list[Span], bool]:
    """Blocks of thinking at the head of a text, one behind the other, and the answer after the last."""
    spans: list[Span] = []
    place = 0
    if begins_inside(text, opened_by_prompt):
        closing = next(unquoted(CLOSING_ALONE, text), None)
        if closing is None:
            return [Span(0, len(text), True)], True
        spans.append(Span(0, closing.start(), True))
        place = closing.end()
    while opening := OPENING.match(text, behind_space(text, place)):
        end, inner_end, is_closed = end_of_block(text, opening)
        spans.append(Span(opening.end(), inner_end, True))
        place = end
        if not is_closed:
            return spans, True
    if not spans:
        return [unframed(text, 0, ANSWER_FRAMES)], False
    return [*spans, unframed(text, place, ANSWER_FRAMES + FRAMES_BEHIND_THINKING)], False


def begins_inside(text: str, opened_by_prompt: bool) -> bool:
    """Whether the first word is a thought: the prompt opened the thinking, or the text only closes it.

    Some models open it again themselves.
    """
    if opened_by_prompt:
        return not OPENING.match(text, behind_space(text, 0))
    closed = any(unquoted(CLOSING_ALONE, text))
    return closed and not any(unquoted(OPENING, text))


def behind_space(text: str, place: int) -> int:
    """Index of the first character from `place` on that is no white space."""
    rest = text[place:]
    return len(text) - len(rest.lstrip())


def end_of_block(text: str, opening: re.Match[str]) -> tuple[int, int, bool]:
    """Index behind the closing mark of a block, index before it, and whether there is one.

    A block may hold blocks. A thought that only names the opening mark leaves one closing mark too few; then
    the last one that there is closes the block.
    """
    marks = next(marks for marks in MARKS if re.fullmatch(marks.opening, opening[0]))
    tag = re.fullmatch(marks.opening, opening[0])
    name = re.escape(tag.groupdict().get("tag") or "") if tag else ""
    closing = marks.closing.replace("{tag}", name)
    either = re.compile(f"(?P<close>{closing})|(?:{re.escape(opening[0])})")
    depth, last = 1, None
    for found in unquoted(either, text, opening.end()):
        if found["close"] is None:
            depth += 1
            continue
        depth -= 1
        last = found
        if depth == 0:
            break
    return (last.end(), last.start(), True) if last else (len(text), len(text), False)


def unframed(text: str, place: int, frames: Sequence[tuple[str, str]]) -> Span:
    """The answer from `place` on, without the marks that a family writes around its answers."""
    whole = Span(place, len(text), False)
    for opening, closing in frames:
        head = re.compile(opening).match(text, behind_space(text, place))
        if not head:
            continue
        closings = list(re.compile(closing).finditer(text, head.end()))
        if not closings:
            return Span(head.end(), len(text), False)
        # A frame around the whole answer, not one that the answer holds.
        if len(closings) == 1 and not text[closings[0].end() :].strip():
            return Span(head.end(), closings[0].start(), False)
        return whole
    rest = text[place:].rstrip()
    if place and rest.endswith(END_OF_FRAME):
        return Span(place, place + len(rest) - len(END_OF_FRAME), False)
    return whole


def channel_spans(text: str, head: re.Pattern[str], opened_by_prompt: bool) -> tuple[list[Span], bool]:
    """The messages of a text in Harmony's grammar; commentary without a tool to call speaks to the reader."""
    spans: list[Span] = []
    heads = list(head.finditer(text))
    if opened_by_prompt:
        spans.append(Span(0, end_of_message(text, 0, heads), True))
    for n, found in enumerate(heads):
        end = end_of_message(text, found.end(), heads[n + 1 :])
        spans.append(Span(found.end(), end, not is_answer_head(found)))
    still_open = bool(spans) and spans[-1].is_reasoning and spans[-1].end == len(text)
    return spans, still_open or (bool(spans) and spans[-1].is_reasoning and bool(CUT_HEAD.search(text)))


def end_of_message(text: str, start: int, next_heads: Sequence[re.Match[str]]) -> int:
    """Index of the mark that ends a message."""
    found = MESSAGE_END.search(text, start)
    ends = [found.start() if found else len(text), *(head.start() for head in next_heads[:1])]
    return min(ends)


def is_answer_head(head: re.Match[str]) -> bool:
    """Whether a message in this channel is for the reader. An opening without a channel is thinking."""
    channel = head.groupdict().get("channel")
    return channel == "final" or (channel == "commentary" and "to=" not in head[0])


# ---------------------------------------------------------------------------
# Texts


def unquoted(pattern: re.Pattern[str], text: str, start: int = 0) -> Iterator[re.Match[str]]:
    """Matches from `start` on that do not stand between quotation marks."""
    for found in pattern.finditer(text, start):
        before = text[max(0, found.start() - 1) : found.start()]
        after = text[found.end() : found.end() + 1]
        if not before or QUOTES.get(before) != after:
            yield found


def joined(stretches: Sequence[tuple[str, bool]], still_open: bool) -> Reasoned:
    """Answer and thinking from their stretches."""
    thoughts = [text.strip() for text, is_reasoning in stretches if is_reasoning]
    answers = [text for text, is_reasoning in stretches if not is_reasoning]
    answer = "\n\n".join(answers)
    if not thoughts:
        return Reasoned(answer, None, still_open)
    return Reasoned(answer.lstrip(), "\n\n".join(filter(None, thoughts)), still_open)


def byte_place(text: str, place: int) -> int:
    """The byte at which a character of a text stands."""
    return len(text[:place].encode("utf-8", "surrogateescape"))


def shown_text(pieces: Sequence[Piece], span: Span) -> str:
    """The readable text of the tokens in a span of bytes; of a token across its edge the part inside."""
    shown, place = b"", 0
    for piece in pieces:
        start, end = max(place, span.start), min(place + len(piece.data), span.end)
        if start < end and not piece.is_control:
            shown += piece.data[start - place : end - place]
        place += len(piece.data)
    return shown.decode("utf-8", "ignore")


def thinking_tokens(pieces: Sequence[Piece], spans: Sequence[Span]) -> int:
    """Tokens of the thinking and of its marks: those before the last answer that are part of no answer."""
    if not any(span.is_reasoning for span in spans):
        return 0
    answers = [span for span in spans if not span.is_reasoning and span.start < span.end]
    ends = [span.start for span in answers] or [sum(len(piece.data) for piece in pieces)]
    count, place = 0, 0
    for piece in pieces:
        end = place + len(piece.data)
        in_answer = any(place < span.end and end > span.start for span in answers)
        count += place < max(ends) and not in_answer
        place = end
    return count
