"""edgebench/engine/template.py: what becomes of a text on its way through a chat template to token ids.

The templates are written after the shapes of the families named; none is a copy of theirs.
"""

import datetime
import hashlib
import re
import struct
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.engine.template import (
    ChatTemplate,
    PromptRefused,
    ReadPrompt,
    Tokenizer,
    Turn,
    ids_sha256,
    read_chat,
    read_raw,
)

BOS, EOS = "<s>", "</s>"
TODAY = datetime.date(2026, 3, 14)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_DATED = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n{{ system }}"
    "<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
PHI3_WITHOUT_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "<|assistant|>\n{% elif m['role'] == 'assistant' %}{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}"
)
MISTRAL = (  # the system's text stands in the last user turn, and turns must alternate
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ (system if loop.last else '') + m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
SMOLVLM = (  # typed parts alone; a string is looped over by its letters, which have no type
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAMA_VISION = (  # a string for the system, typed parts for the others
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'system' %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif %}"
    "{% endfor %}[assistant]"
)
QWEN3 = (
    CHATML
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
DEEPSEEK_R1 = (  # opens the thinking itself and cannot be told not to; drops that of earlier turns
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}<|Assistant|><think>\n"
)
DEEPSEEK_V31 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    "{% if thinking %}<think>{% else %}</think>{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: medium<|end|>"
    "{% for m in messages %}{% if m.role == 'system' %}<|start|>developer<|message|># Instructions\n\n"
    "{{ m.content }}<|end|>{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "<|start|>assistant"
)
SMOLLM3 = CHATML.replace("{{ m['content'] }}", "{{ m['content'].replace('/no_think', '').rstrip() }}")
FAMILIES = {
    "chatml": CHATML, "llama3": LLAMA3_DATED, "gemma": GEMMA, "phi3": PHI3_WITHOUT_SYSTEM, "mistral": MISTRAL,
    "smolvlm": SMOLVLM, "llama_vision": LLAMA_VISION, "qwen3": QWEN3, "deepseek_r1": DEEPSEEK_R1,
    "deepseek_v31": DEEPSEEK_V31, "harmony": HARMONY, "smollm3": SMOLLM3,
}  # fmt: skip
SYSTEM_IN_USER = {"gemma", "phi3"}
CONTROL = (BOS, EOS, "<unk>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "Who keeps the lighthouse, and what does it cost?",
    "a",  # a word of every template's
    "  \n spaces\t around\u00a0and  within\n\n",
    "Zürich, 12 °C: <b>\"漢字\" & 'x'</b> \\ {{ m }} {% if %} 👩\u200d👧",
    "user\nassistant\nsystem",
)


class Letters:
    """A vocabulary of characters, and of whole control tokens; `added` ones are read in any text."""

    def __init__(
        self, control: Sequence[str] = CONTROL, added: Sequence[str] = (), without: str = ""
    ) -> None:
        self.words = [*control, *added]
        self.control, self.added, self.without = set(control), set(added), without

    def tokenize(self, text: str, reads_control: bool) -> list[int]:
        read = [word for word in self.words if reads_control or word in self.added]
        pattern = "|".join(map(re.escape, read))
        parts = re.split(f"({pattern})", text) if read else [text]
        ids: list[int] = []
        for part in parts:
            if part in read:
                ids.append(-1 - self.words.index(part))
            else:
                ids += [ord(char) for char in part if char not in self.without]
        return ids

    def spell(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) if token >= 0 else self.words[-1 - token] for token in ids)

    def tokenizer(self, **wanted: Any) -> Tokenizer:
        facts = {"bos": -1, "eos": -2, "adds_bos": True, "adds_eos": False, **wanted}
        return Tokenizer(tokenize=self.tokenize, spell=self.spell, **facts)


LETTERS = Letters()


def read(
    source: str, *turns: Turn, thinking_on: bool = False, tokenizer: Tokenizer | None = None
) -> ReadPrompt:
    template = ChatTemplate(source, BOS, EOS)
    return read_chat(template, tokenizer or LETTERS.tokenizer(), turns, thinking_on, TODAY)


def text_of(prompt: ReadPrompt) -> str:
    return LETTERS.spell(prompt.ids)


def user(text: str) -> Turn:
    return Turn("user", text)


SYSTEM = Turn("system", "Answer in one word, please.")


# ---------------------------------------------------------------------------
# The text is in the prompt, or the prompt is refused


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_text_reaches_the_prompt_of_every_family(family: str, text: str) -> None:
    one = text_of(read(FAMILIES[family], user(text)))
    other = text_of(read(FAMILIES[family], user(text + " Twice.")))
    assert text.strip() in one and one != other
    assert text.strip() in other and "Twice." in other


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_turn_holds_the_first_question_and_answer(family: str) -> None:
    turns = [user("Which river runs through Paris?"), Turn("assistant", "The Seine."), user("And where to?")]
    text = text_of(read(FAMILIES[family], *turns))
    places = [text.index(turn.content) for turn in turns]
    assert places == sorted(places)
    planned = [turns[0], Turn("assistant", ""), turns[2]]  # the answer is not known yet
    assert "And where to?" in text_of(read(FAMILIES[family], *planned))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_systems_text_reaches_every_prompt(family: str) -> None:
    prompt = read(FAMILIES[family], SYSTEM, user("Which river?"))
    text = text_of(prompt)
    assert SYSTEM.content in text and "Which river?" in text
    assert ("system_in_user" in prompt.flags) == (family in SYSTEM_IN_USER)
    if family in SYSTEM_IN_USER:
        assert f"{SYSTEM.content}\n\nWhich river?" in text
    longer = read(
        FAMILIES[family], SYSTEM, user("Which river?"), Turn("assistant", "Seine"), user("Where to?")
    )
    assert all(word in text_of(longer) for word in (SYSTEM.content, "Which river?", "Seine", "Where to?"))
    assert ("system_in_user" in longer.flags) == (family in SYSTEM_IN_USER)


def test_typed_parts_are_given_only_where_a_string_is_lost() -> None:
    for source in FAMILIES.values():
        assert "'type'" not in text_of(read(source, SYSTEM, user("Which river?")))
    prints_all = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert text_of(read(prints_all, user("Why?"))) == f"{BOS}user: Why?\n"


LOSING = {
    "another key": "{% for m in messages %}{{ m['role'] }}: {{ m['text'] }}{% endfor %}assistant:",
    "an empty loop": "{% for m in messages if m['role'] == 'tool' %}{{ m['content'] }}{% endfor %}assistant:",
    "a constant": "Hello",
    "the first turn only": "{{ messages[0]['content'] }} assistant:",
    "the last turn only": "{{ messages[-1]['content'] }} assistant:",
    "no answers": "{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }}{% endfor %}bot:",
    "parts of another type": (
        "{% for m in messages %}{% for p in m['content'] if p['type'] == 'input_text' %}{{ p['text'] }}"
        "{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("source", LOSING.values(), ids=LOSING)
def test_a_template_that_loses_a_text_is_refused(source: str) -> None:
    turns = user("Which river?"), Turn("assistant", "The Seine."), user("Where to?")
    with pytest.raises(PromptRefused) as refused:
        read(source, *turns)
    assert refused.value.kind == "prompt_not_in_prompt"
    assert "leaves out" in str(refused.value) and "--prompt_format raw" in str(refused.value)


CHANGING = {
    "cut off": "{% for m in messages %}{{ m['content'][:40] }}{% endfor %}",
    "the first line": "{% for m in messages %}{{ m['content'].split('\n')[0] }}{% endfor %}",
    "turned round": "{% for m in messages %}{{ m['content'][:20] | reverse }} qxz {{ m['content'] | length }}"
    "{% if m['content'] | length < 20 %}{{ m['content'] }}{% endif %}{% endfor %}",
    "a word taken out": "{% for m in messages %}{{ m['content'].replace('river', 'road') }}{% endfor %}",
}


@pytest.mark.parametrize("source", CHANGING.values(), ids=CHANGING)
def test_a_template_that_changes_a_text_is_refused(source: str) -> None:
    """Our probe comes through it whole: only the text itself can tell."""
    with pytest.raises(PromptRefused) as refused:
        read(source, user("Which river runs through Paris?\nName the sea that it reaches, too."))
    assert refused.value.kind == "prompt_not_in_prompt" and "--prompt_format raw" in str(refused.value)


def test_a_short_text_is_not_found_in_the_templates_own_words() -> None:
    drops_short = "user: {% for m in messages if m['content'] | length > 3 %}{{ m['content'] }}{% endfor %}"
    assert text_of(read(drops_short, user("user"))).count("user") == 2
    with pytest.raises(PromptRefused):
        read(drops_short, user("us"))


RIGHTFUL = {
    "trim": "{{ m['content'] | trim }}",
    "case": "{{ m['content'] | lower }}",
    "title": "{{ m['content'] | capitalize }}",
    "json": "{{ m['content'] | tojson }}",
    "html": "{{ m['content'] | escape }}",
    "one line": "{{ m['content'].split() | join(' ') }}",
    "wrapped": "{{ m['content'] | wordwrap(10) }}",
    "indented": "{{ m['content'] | indent(4) }}",
}


@pytest.mark.parametrize("filtered", RIGHTFUL.values(), ids=RIGHTFUL)
@pytest.mark.parametrize("text", TEXTS[:4])
def test_what_templates_may_do_with_a_text_is_no_reason_to_refuse(filtered: str, text: str) -> None:
    read("{% for m in messages %}" + filtered + "{% endfor %}", user(text))


def test_switches_in_the_text_and_earlier_thinking_may_be_left_out() -> None:
    assert "/no_think" not in text_of(read(SMOLLM3, user("Which river? /no_think")))
    turns = user("Which?"), Turn("assistant", "<think>hm</think>The Seine."), user("Where to?")
    text = text_of(read(DEEPSEEK_R1, *turns))
    assert "The Seine." in text and "hm" not in text


def test_tools_that_are_none_do_not_stop_a_template_that_loops_over_them() -> None:
    looping = "{% for tool in tools %}{{ tool }}{% endfor %}" + CHATML
    assert "Why?" in text_of(read(looping, user("Why?")))
    asking = "{% if tools is not none %}{{ raise_exception('no tools given') }}{% endif %}" + CHATML
    assert "Why?" in text_of(read(asking, user("Why?")))


def test_a_templates_own_refusal_is_told_in_its_words() -> None:
    with pytest.raises(PromptRefused, match="roles must alternate") as refused:
        read(MISTRAL, user("One?"), user("Two?"))
    assert refused.value.kind == "EngineError" and "--prompt_format raw" in str(refused.value)
    choosy = (
        "{% if 'x' in messages[0]['content'] %}{{ messages[0]['content'] }}{% else %}{{ 1 // 0 }}{% endif %}"
    )
    with pytest.raises(PromptRefused, match="division"):
        read(choosy, user("Why?"))
    with pytest.raises(PromptRefused, match="cannot be read"):
        ChatTemplate("{% if", BOS, EOS)


def test_the_template_of_a_training_set_is_read() -> None:
    marked = "{% for m in messages %}{% generation %}{{ m['content'] }}{%- endgeneration -%} \n{% endfor %}!"
    assert text_of(read(marked, user("Why?"))) == f"{BOS}Why?!"


@given(text=st.text(min_size=1), family=st.sampled_from(sorted(FAMILIES)))
def test_no_text_at_all_is_refused_by_a_healthy_template(text: str, family: str) -> None:
    tokenizer = Letters(control=(BOS, EOS)).tokenizer()
    prompt = read(FAMILIES[family], user(text), tokenizer=tokenizer)
    assert "prompt_altered_by_tokenizer" not in prompt.flags


# ---------------------------------------------------------------------------
# Thinking


@pytest.mark.parametrize(
    ("family", "flagged_on", "flagged_off", "open_on", "open_off"),
    [
        ("chatml", True, False, False, False),
        ("qwen3", False, False, False, False),
        ("deepseek_r1", False, True, True, True),  # it thinks, asked or not
        ("deepseek_v31", False, False, True, False),
        ("harmony", True, False, False, False),
        ("smolvlm", True, False, False, False),
    ],
)
def test_a_switch_that_the_template_lacks_is_flagged(
    family: str, flagged_on: bool, flagged_off: bool, open_on: bool, open_off: bool
) -> None:
    with_thinking = read(FAMILIES[family], user("Why?"), thinking_on=True)
    without = read(FAMILIES[family], user("Why?"), thinking_on=False)
    assert ("thinking_switch_missing" in with_thinking.flags) == flagged_on
    assert ("thinking_switch_missing" in without.flags) == flagged_off
    assert (with_thinking.thinking_open, without.thinking_open) == (open_on, open_off)
    assert (
        with_thinking.has_thinking_switch
        == without.has_thinking_switch
        == (family in ("qwen3", "deepseek_v31"))
    )


def test_a_budget_of_thinking_is_a_switch() -> None:
    seed = (
        CHATML
        + "{% if thinking_budget is defined and thinking_budget == 0 %}<seed:think></seed:think>{% endif %}"
    )
    off, on = read(seed, user("Why?")), read(seed, user("Why?"), thinking_on=True)
    assert text_of(off).endswith("</seed:think>") and text_of(on).endswith("assistant\n")
    assert not off.flags and not on.flags


# ---------------------------------------------------------------------------
# Dates


def test_a_dated_template_prints_the_day_it_is_given_and_no_time() -> None:
    template = ChatTemplate(LLAMA3_DATED, BOS, EOS)
    turns = [user("Why?")]
    days = [TODAY, TODAY, TODAY + datetime.timedelta(days=1)]
    one, same, next_day = (read_chat(template, LETTERS.tokenizer(), turns, False, day) for day in days)
    assert "Today Date: 14 Mar 2026" in text_of(one)
    assert ids_sha256(one.ids) == ids_sha256(same.ids) != ids_sha256(next_day.ids)
    clock = ChatTemplate("{{ strftime_now('%H:%M:%S') }} {{ messages[0].content }}", BOS, EOS)
    assert "00:00:00" in text_of(read_chat(clock, LETTERS.tokenizer(), turns, False))


def test_without_a_day_it_is_today() -> None:
    before = datetime.date.today()
    prompt = read_chat(ChatTemplate(LLAMA3_DATED, BOS, EOS), LETTERS.tokenizer(), [user("Why?")], False)
    days = {before, datetime.date.today()}
    assert any(day.strftime("%d %b %Y") in text_of(prompt) for day in days)


def test_the_hash_is_of_four_bytes_an_id() -> None:
    ids = [1, 2, 300, 262_143]
    assert ids_sha256(ids) == hashlib.sha256(struct.pack("<4i", *ids)).hexdigest()
    assert ids_sha256([1, 2]) != ids_sha256([2, 1]) != ids_sha256([])


# ---------------------------------------------------------------------------
# BOS and EOS


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("written", ["", "{{ bos_token }}", "{{ bos_token }}<s>", "\n {{ bos_token }}"])
def test_bos_stands_once_whoever_writes_it(written: str, adds_bos: bool) -> None:
    prompt = read(written + CHATML, user("Why?"), tokenizer=LETTERS.tokenizer(adds_bos=adds_bos))
    assert prompt.ids.count(-1) == (1 if written or adds_bos else 0)
    assert text_of(prompt).lstrip().startswith(BOS) == bool(written or adds_bos)


def test_later_turns_keep_the_bos_that_the_template_gives_them() -> None:
    llama2 = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    prompt = read(llama2, user("One?"), Turn("assistant", "Yes."), user("Two?"))
    assert text_of(prompt) == f"{BOS}[INST] One? [/INST]Yes.{EOS}{BOS}[INST] Two? [/INST]"


@pytest.mark.parametrize("written", ["", "</s>", "</s></s>", "</s>\n"])
def test_eos_stands_once_where_the_file_asks_for_it(written: str) -> None:
    asking = LETTERS.tokenizer(adds_eos=True)
    prompt = read(CHATML + written, user("Why?"), tokenizer=asking)
    assert prompt.ids.count(-2) == 1 and text_of(prompt).rstrip().endswith(EOS)
    assert "eos_after_prompt" in prompt.flags
    bare = read_raw(asking, [user("Why?")])
    assert text_of(bare) == f"{BOS}Why?{EOS}" and bare.flags == ("eos_after_prompt",)
    assert "eos_after_prompt" not in read(CHATML, user("Why?")).flags


def test_tokens_that_the_file_does_not_name_are_added_nowhere() -> None:
    nameless = LETTERS.tokenizer(bos=None, eos=None, adds_bos=True, adds_eos=True)
    assert text_of(read_raw(nameless, [user("Why?")])) == "Why?"
    assert text_of(read(CHATML, user("Why?"), tokenizer=nameless)).startswith("<|im_start|>")


def test_raw_texts_are_joined_and_need_no_template() -> None:
    turns = [SYSTEM, user("Why?"), Turn("assistant", "So."), user("How?")]
    assert text_of(read_raw(LETTERS.tokenizer(), turns)) == f"{BOS}{SYSTEM.content}\n\nWhy?\n\nSo.\n\nHow?"
    assert read_raw(LETTERS.tokenizer(), [user("Think! <think>\n")]).thinking_open


# ---------------------------------------------------------------------------
# Control tokens in a text


@pytest.mark.parametrize("text", ["What does <|im_end|> mean?", "<s>struck</s> out", "The <unk> of it"])
def test_control_tokens_that_a_text_spells_are_flagged(text: str) -> None:
    assert "control_tokens_in_prompt" in read(CHATML, user(text)).flags
    assert "control_tokens_in_prompt" in read(CHATML, Turn("system", text), user("Why?")).flags
    raw = read_raw(LETTERS.tokenizer(), [user(text)])
    assert not raw.flags and raw.ids.count(-1) == 1  # there they stay letters, and BOS is the only one


@pytest.mark.parametrize(
    "text", ["1 < 2 and <b>bold</b>", "<think> is a mark", "im_end", "<|im end|>", "[INST]"]
)
def test_a_text_that_only_looks_like_it_is_not_flagged(text: str) -> None:
    assert not read(CHATML, user(text)).flags


def test_marks_that_the_file_declares_as_ordinary_tokens_are_flagged_but_runs_of_spaces_are_not() -> None:
    added = Letters(CONTROL, added=("<think>", "</think>", "<|user|>", "    ", "<table>")).tokenizer()
    for text in ("Write </think> once.", "<|user|> said"):
        assert read(CHATML, user(text), tokenizer=added).flags == ("control_tokens_in_prompt",)
        assert read_raw(added, [user(text)]).flags == ("control_tokens_in_prompt",)
    for text in ("An    indented <table>", "a <thing>"):
        assert not read(CHATML, user(text), tokenizer=added).flags


def test_ids_of_an_ordinary_prompt_are_those_of_the_rendered_text() -> None:
    text = text_of(read(CHATML, user("Why?")))
    assert text == f"{BOS}<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert read(CHATML, user("Why?")).ids == [-1, *LETTERS.tokenize(text.removeprefix(BOS), True)]


# ---------------------------------------------------------------------------
# What tokenizers do to a text


def tokenizing(change: Callable[[str], str], longest: int | None = None) -> Tokenizer:
    """A tokenizer that changes a text before it reads it, and reads so many tokens of it at most."""

    def tokenize(text: str, reads_control: bool) -> list[int]:
        return LETTERS.tokenize(change(text), reads_control)[:longest]

    return Tokenizer(tokenize, LETTERS.spell, bos=-1, eos=-2, adds_bos=True, adds_eos=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: " " + text,  # SentencePiece
        lambda text: text.replace(" ", "\u2581"),
        lambda text: re.sub(r"\s+", " ", text).strip(),  # T5's
        lambda text: text.lower(),  # BERT's
        lambda text: unicodedata.normalize("NFKC", text),
        lambda text: unicodedata.normalize("NFD", text),
    ],
)
def test_a_tokenizer_that_normalizes_is_healthy(change: Callable[[str], str]) -> None:
    for text in TEXTS:
        prompt = read(CHATML, user(text), tokenizer=tokenizing(change))
        assert "prompt_altered_by_tokenizer" not in prompt.flags


def test_letters_that_the_vocabulary_lacks_are_flagged_and_a_lost_text_is_refused() -> None:
    lacking = Letters(without="漢字").tokenizer()
    assert read(CHATML, user("The signs 漢字 are two."), tokenizer=lacking).flags == (
        "prompt_altered_by_tokenizer",
    )
    assert not read(CHATML, user("The signs are two."), tokenizer=lacking).flags
    for prompt in (
        lambda: read(CHATML, user("漢字"), tokenizer=lacking),
        lambda: read_raw(lacking, [user("漢字")]),
    ):
        with pytest.raises(PromptRefused, match="tokenizer loses") as refused:
            prompt()
        assert refused.value.kind == "prompt_not_in_prompt"


def test_ids_that_are_not_the_texts_are_refused() -> None:
    """A tokenizer that cuts off long texts, say."""
    text = "Why is it dark at night?"
    for longest, kept in ((100, True), (31, True), (30, True), (29, False), (3, False)):
        cutting = tokenizing(str, longest)
        if kept:  # what is lost then is the template's
            flags = read(CHATML, user(text), tokenizer=cutting).flags
            assert ("prompt_altered_by_tokenizer" in flags) == (longest < 100)
            continue
        with pytest.raises(PromptRefused) as refused:
            read(CHATML, user(text), tokenizer=cutting)
        assert refused.value.kind == "prompt_not_in_prompt"


def test_half_a_surrogate_pair_is_no_reason_to_refuse() -> None:
    class Encoded(Letters):
        def tokenize(self, text: str, reads_control: bool) -> list[int]:
            return super().tokenize(text.encode("utf-8", "replace").decode(), reads_control)

    assert not read(CHATML, user("odd \ud800 one"), tokenizer=Encoded().tokenizer()).flags
