"""edgebench/prompts/thinking.py: what a model thought and what it answered, in the marks of every family."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.prompts.thinking import (
    Piece,
    Reasoned,
    opens_reasoning,
    split_pieces,
    split_reasoning,
    without_reasoning,
)

ROOT = Path(__file__).resolve().parents[2]
# Opening and closing marks, as the families' chat templates and models write them.
PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<thoughts>", "</thoughts>"),
    ("[unused16]", "[unused17]"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
]
ANALYSIS, FINAL, END = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|end|>"
NEXT = "<|start|>assistant"
PLAIN = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>[]◁▷|"))
# Ends stripped, for white space beside a mark is no one's; one word at least.
WORDS = PLAIN.map(str.strip).filter(bool)


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_every_familys_thinking_is_told_from_its_answer(opening: str, closing: str) -> None:
    whole = f"{opening}\nFirst this.\nThen that.\n{closing}\n\nThe Seine.\n"
    assert split_reasoning(whole) == Reasoned("The Seine.\n", "First this.\nThen that.", False)
    spaced = f" {opening} First. {closing} The Seine."
    assert split_reasoning(spaced) == Reasoned("The Seine.", "First.", False)
    cut = f"{opening}\nFirst this.\nThen"
    assert split_reasoning(cut) == Reasoned("", "First this.\nThen", True)
    nothing = f"{opening}\n\n{closing}\n\nThe Seine."
    assert split_reasoning(nothing) == Reasoned("The Seine.", "", False)
    no_answer = f"{opening}First this.{closing}"
    assert split_reasoning(no_answer) == Reasoned("", "First this.", False)


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thinking_that_the_prompt_opened_needs_no_opening_mark(opening: str, closing: str) -> None:
    said = f"First this.{closing}\nThe Seine."
    asked = "<|user|>\nWhich river?\n<|assistant|>\n" + opening
    assert opens_reasoning(asked) and opens_reasoning(asked + "\n")
    assert not opens_reasoning(asked + closing) and not opens_reasoning(asked + "\n\n" + closing + "\n\n")
    assert split_reasoning(said, opened_by_prompt=True) == Reasoned("The Seine.", "First this.", False)
    # A record of unknown origin does not tell how its prompt ended.
    assert split_reasoning(said) == Reasoned("The Seine.", "First this.", False)
    assert split_reasoning("First this", opened_by_prompt=True) == Reasoned("", "First this", True)
    again = f"{opening}First this.{closing}\nThe Seine."
    assert split_reasoning(again, opened_by_prompt=True) == Reasoned("The Seine.", "First this.", False)


def test_harmonys_channels_are_told_apart() -> None:
    whole = f"{ANALYSIS}User asks 2+2.{END}{NEXT}{FINAL}It is 4."
    assert split_reasoning(whole) == Reasoned("It is 4.", "User asks 2+2.", False)
    assert split_reasoning(whole + "<|return|>") == Reasoned("It is 4.", "User asks 2+2.", False)
    assert split_reasoning(f"{ANALYSIS}User asks") == Reasoned("", "User asks", True)
    assert split_reasoning(f"{FINAL}It is 4.") == Reasoned("It is 4.", None, False)
    assert split_reasoning(f"{ANALYSIS}Hm.{END}{NEXT}") == Reasoned("", "Hm.", True)
    assert split_reasoning(f"{ANALYSIS}Hm.{END}{NEXT}<|channel|>final") == Reasoned("", "Hm.", False)
    twice = f"{ANALYSIS}One.{END}{NEXT}{ANALYSIS}Two.{END}{NEXT}{FINAL}Three."
    assert split_reasoning(twice) == Reasoned("Three.", "One.\n\nTwo.", False)
    shaped = f"{ANALYSIS}One.{END}{NEXT}<|channel|>final <|constrain|>json<|message|>{{}}"
    assert split_reasoning(shaped) == Reasoned("{}", "One.", False)
    told = f"{NEXT}<|channel|>commentary<|message|>I will count.{END}{NEXT}{FINAL}4"
    assert split_reasoning(told).answer == "I will count.\n\n4"
    tool = (
        f"{ANALYSIS}a{END}{NEXT}<|channel|>commentary to=functions.x <|constrain|>json<|message|>{{}}<|call|>"
    )
    assert split_reasoning(tool).answer == ""


def test_harmony_that_the_prompt_opened_or_whose_control_tokens_are_hidden() -> None:
    assert opens_reasoning(NEXT + ANALYSIS) and not opens_reasoning(NEXT + FINAL)
    rest = f"User asks 2+2.{END}{NEXT}{FINAL}It is 4."
    assert split_reasoning(rest, opened_by_prompt=True) == Reasoned("It is 4.", "User asks 2+2.", False)
    hidden = "analysisUser asks 2+2.assistantfinalIt is 4."
    assert split_reasoning(hidden) == Reasoned("It is 4.", "User asks 2+2.", False)
    for plain in ("analysis of the final act", "The analysis is final.", "An assistant: final words"):
        assert split_reasoning(plain) == Reasoned(plain, None, False)


def test_a_mark_that_is_only_spoken_of_parts_nothing() -> None:
    for plain in (
        "Close it with `</think>` and open it with `<think>`.",
        "`<think>` begins it.",
        'The word "</think>" ends it.',
        "Write </think> once, and <think> once.",
        "Use <think> to begin and </think> to end.",
        "In a vector a[THINKING] there is no mark.",
        "1 < 2, and <b>bold</b>, <thinkers> and <|im_end|>",
    ):
        assert split_reasoning(plain) == Reasoned(plain, None, False), plain
    spoken = "<think>I must write `</think>` and <think> once.</think>Here: <think>."
    assert split_reasoning(spoken) == Reasoned(
        "Here: <think>.", "I must write `</think>` and <think> once.", False
    )


def test_thinking_within_and_after_thinking() -> None:
    nested = "<think>a<think>b</think>c</think>answer"
    assert split_reasoning(nested) == Reasoned("answer", "a<think>b</think>c", False)
    row = "<think>a</think>\n<think>b</think>\nanswer"
    assert split_reasoning(row) == Reasoned("answer", "a\n\nb", False)
    other = "<think>a [THINK] b</think>answer [/THINK]"
    assert split_reasoning(other) == Reasoned("answer [/THINK]", "a [THINK] b", False)


def test_frames_around_the_answer_are_marks_too() -> None:
    cohere = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>"
    granite = "<think>Hm.</think>\n<response>Yes.</response>"
    hunyuan = "<think>\nHm.\n</think>\n<answer>\nYes.\n</answer>"
    apriel = "Here are my reasoning steps:\nHm.\n[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]\n"
    solar = "<|think|>Hm.<|end|><|begin|>assistant<|content|>Yes."
    kimi = "<|open|>think<|sep|>Hm.<|close|>think<|sep|><|open|>response<|sep|>Yes.<|close|>response<|sep|>"
    for text in (cohere, granite, hunyuan, apriel, solar, kimi):
        answer, reasoning, still_open = split_reasoning(text)
        assert (answer.strip(), reasoning, still_open) == ("Yes.", "Hm.", False)
    assert split_reasoning("<|START_RESPONSE|>Yes.<|END_RESPONSE|>").answer == "Yes."
    for plain in ("<answer>4</answer>", "<response>ok</response> and more"):
        assert split_reasoning(plain).answer == plain
    held = "<think>a</think><answer>4</answer> or <answer>5</answer>"
    assert split_reasoning(held).answer == "<answer>4</answer> or <answer>5</answer>"
    cut = "<think>a</think><answer>It is"
    assert split_reasoning(cut) == Reasoned("It is", "a", False)


def test_long_runs_of_white_space_take_no_time() -> None:
    """A regular expression that tries each of them anew would need minutes."""
    runs = "word" + " \n" * 100_000
    for text in (
        runs + "end",
        "<think>" + runs + "</think>" + runs + "end",
        "<think>a</think><answer>" + runs,
    ):
        assert len(split_reasoning(text).answer) >= 200_000


def test_a_verdict_is_what_stands_outside_of_all_thinking() -> None:
    assert without_reasoning("B <think>or A?</think> [[B]]").split() == ["B", "[[B]]"]
    assert without_reasoning("A wins</think> no, A</think>B").strip() == "B"
    assert without_reasoning("B\n[THINK]A? A!").strip() == "B"
    assert without_reasoning("<Think>A</think><thought>A</thought>B").strip() == "B"
    assert without_reasoning(f"{ANALYSIS}A{END}{NEXT}{FINAL}B") == "B"
    for opening, closing in PAIRS:
        assert without_reasoning(f"{opening}[[A]]{closing}[[B]]").strip() == "[[B]]"
        assert without_reasoning(f"{opening}[[A]]").strip() == ""


@given(text=PLAIN)
def test_a_text_without_marks_stays_as_it_is(text: str) -> None:
    assert split_reasoning(text) == Reasoned(text, None, False)
    assert without_reasoning(text) == text
    assert split_reasoning(text, opened_by_prompt=True) == Reasoned("", text.strip(), True)


@given(thought=WORDS, answer=WORDS, pair=st.sampled_from(PAIRS), opened=st.booleans())
def test_nothing_is_lost_but_the_marks(
    thought: str, answer: str, pair: tuple[str, str], opened: bool
) -> None:
    opening, closing = pair
    said = f"{'' if opened else opening}{thought}{closing}{answer}"
    quotes = tuple("`'\"“‘«")  # a quoted mark is a word
    closing_quoted = thought.endswith(quotes) and answer.startswith(tuple("`'\"”’»"))
    if not closing_quoted and (opened or not thought.startswith(quotes)):
        assert split_reasoning(said, opened) == Reasoned(answer, thought, False)
    harmony = f"{ANALYSIS}{thought}{END}{NEXT}{FINAL}{answer}"
    assert split_reasoning(harmony) == Reasoned(answer, thought, False)


@given(text=st.text(alphabet="<>/|[] think`\n◁▷TSARé") | st.text())
def test_any_text_is_parted_without_a_word_too_many(text: str) -> None:
    for opened in (False, True):
        answer, reasoning, still_open = split_reasoning(text, opened)
        assert len(answer) + len(reasoning or "") <= len(text)
        assert not (still_open and answer)
    without_reasoning(text)


def pieces_of(*words: str) -> list[Piece]:
    """Tokens; those in braces are control tokens."""
    return [Piece(word.strip("{}").encode(), word.startswith("{")) for word in words]


def test_tokens_are_counted_and_control_tokens_are_marks_though_no_one_reads_them() -> None:
    magistral = pieces_of("{[THINK]}", "Let", " me", "{[/THINK]}", "The", " Seine", "{<pad>}", ".")
    assert split_pieces(magistral) == ("The Seine.", "Let me", False, 4)
    thought = pieces_of("{<|channel|>}", "analysis", "{<|message|>}", "Hm")
    said = pieces_of("{<|channel|>}", "final", "{<|message|>}", "It", " is", "{<|return|>}")
    harmony = [*thought, *pieces_of("{<|end|>}", "{<|start|>}", "assistant"), *said]
    assert split_pieces(harmony) == ("It is", "Hm", False, 10)
    assert split_pieces(harmony[:4]) == ("", "Hm", True, 4)
    spelled = pieces_of("<", "think", ">\n", "Hm", ".\n</", "think", ">\n\n", "Yes")
    assert split_pieces(spelled) == ("Yes", "Hm.", False, 6)  # the last of its mark begins the answer
    opened = pieces_of("Hm", "</think>", "\n\n", "Yes")
    assert split_pieces(opened, opened_by_prompt=True) == ("Yes", "Hm", False, 2)
    assert split_pieces(pieces_of("Yes", "{<pad>}", "!")) == ("Yes!", None, False, 0)
    assert split_pieces([]) == ("", None, False, 0)


def test_halves_of_characters_are_left_out_and_shift_nothing() -> None:
    seine = "Zürich ◁ 漢".encode()
    halves = [Piece(bytes([byte]), False) for byte in "é".encode() + seine]
    marks = pieces_of("◁think▷"), pieces_of("◁/think▷")
    cut = [*marks[0], *halves, *marks[1], *halves, Piece("漢".encode()[:2], False)]
    answer, reasoning, still_open, tokens = split_pieces(cut)
    assert answer == reasoning == "éZürich ◁ 漢" and not still_open
    assert tokens == len(halves) + 2


@given(words=st.lists(WORDS, min_size=1, max_size=6), thoughts=st.lists(WORDS, max_size=6))
def test_tokens_and_text_are_parted_alike(words: list[str], thoughts: list[str]) -> None:
    pieces = pieces_of("{<think>}", *(word.replace("{", "") or "a" for word in thoughts), "{</think>}")
    said = [*pieces, *(Piece(word.encode(), False) for word in words)]
    text = b"".join(piece.data for piece in said).decode()
    assert split_pieces(said)[:3] == split_reasoning(text)
    assert split_pieces(said).reasoning_tokens >= 2


def test_only_the_standard_library_is_needed() -> None:
    """The judge reads answers on a laptop."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import edgebench.prompts.thinking"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
