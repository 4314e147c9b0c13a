"""The prompts are the instrument of the study: these tests check its calibration, not its taste."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
LEVELS = ("L0", "L1", "L2", "L3", "P")
IDS = {"writing": range(1, 11), "roleplay": range(11, 21)}

PLAIN_FILES = [
    DATA / name for name in ("questionset.jsonl.txt", "demo/questionset.jsonl.txt", "demo/prompts.csv")
]

# Words per level: (fewest, most) that it adds to the level before.
ADDED_WORDS = {"L0": (25, 80), "L1": (50, 95), "L2": (70, 125), "L3": (110, 180), "P": (90, 150)}
# English prose hardly reaches 1.5 tokens a word: both turns and two answers of 512 tokens fit n_ctx 2048.
MOST_WORDS = 560

# Whatever tells a model what to do or what a good answer is. The placebo may hold none of it.
INSTRUCTION = re.compile(
    r"""\b(must|should|ought|shall|needs?|ha(?:s|ve)\sto|may\snot|do\snot|don't|never|always|only|please
    |includ\w*|avoid\w*|ensure\w*|make\ssure|remember|consider\w*|focus\w*|prefer\w*|requir\w*|try
    |write|rewrite|answer\w*|reply|respond\w*|explain\w*|describ\w*|mention|list|check|compare|calculate|use
    |give|keep|begin\swith|end\swith|start\swith|step\w*|first|second|third|finally|examples?|guide|style|tone
    |format\w*|structure\w*|words?|sentences?|paragraphs?|bullets?|limit\w*|exactly|at\s(?:most|least)
    |important\w*|essential\w*|relevant|clear\w*|plain\w*|brief\w*|concise\w*|short|long|length|detail\w*
    |careful\w*|thorough\w*|precis\w*|accura\w*|correct\w*|facts?|figures?|best|better|quality|honest\w*|polite\w*)\b""",
    re.IGNORECASE | re.VERBOSE,
)
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")


@dataclass(frozen=True)
class Task:
    question_id: int
    category: str
    topic: str
    text: dict[str, str]  # level -> the whole prompt

    def added(self, level: str) -> str:
        """What the level adds to the one before it."""
        place = LEVELS.index(level)
        return self.text[level].removeprefix(self.text[LEVELS[place - 1]]) if place else self.text[level]


def prompts_path(category: str) -> Path:
    return DATA / f"{category}_prompts_hierarchical.csv"


def load_tasks(*paths: Path) -> list[Task]:
    tasks = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines, strict=True):
                levels = {level: row[level] for level in LEVELS}
                tasks.append(Task(int(row["question_id"]), row["category"], row["topic"], levels))
    return tasks


def load_questions(path: Path) -> dict[int, dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return {question["question_id"]: question for question in map(json.loads, lines)}


TASKS = load_tasks(*map(prompts_path, IDS))
QUESTIONS = load_questions(DATA / "questionset.jsonl.txt")
DEMO_TASKS = load_tasks(DATA / "demo" / "prompts.csv")
DEMO_QUESTIONS = load_questions(DATA / "demo" / "questionset.jsonl.txt")


def task_name(task: Task) -> str:
    return f"{task.question_id}-{task.category}"


each_task = pytest.mark.parametrize("task", TASKS, ids=task_name)
each_task_and_the_demos = pytest.mark.parametrize("task", [*TASKS, *DEMO_TASKS], ids=task_name)


def word_runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    found = re.findall(r"[\w']+", text.lower())
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))


@pytest.mark.parametrize("category", IDS)
def test_prompts_file_has_the_fixed_header_and_ten_tasks_with_their_ids(category: str) -> None:
    with prompts_path(category).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, strict=True))
    assert rows[0] == ["question_id", "category", "topic", *LEVELS]
    assert [int(row[0]) for row in rows[1:]] == list(IDS[category])
    assert {row[1] for row in rows[1:]} == {category}


@pytest.mark.parametrize(
    "path",
    [*map(prompts_path, IDS), *PLAIN_FILES],
    ids=lambda path: str(path.relative_to(DATA)),
)
def test_files_are_plain_utf8_with_unix_line_ends(path: Path) -> None:
    raw = path.read_bytes()
    text = raw.decode("utf-8")
    assert b"\r" not in raw and not raw.startswith(b"\xef\xbb\xbf")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert not text.isascii(), "the data should exercise UTF-8"
    odd = {char for char in text if not char.isprintable() and char != "\n"} | {"\u00a0", "\u2028"} & set(
        text
    )
    assert not odd


def test_question_set_holds_the_same_twenty_tasks() -> None:
    assert list(QUESTIONS) == [task.question_id for task in TASKS]
    assert len(QUESTIONS) == len(TASKS) == 20
    for task in TASKS:
        question = QUESTIONS[task.question_id]
        assert set(question) <= {"question_id", "category", "turns", "reference"}
        assert question["category"] == task.category
        assert len(question["turns"]) == 2 and question["turns"][0] == task.text["L0"]
        assert 20 <= len(question["turns"][1].split()) <= 60
        assert len(question.get("reference", ["", ""])) == 2


def test_the_demo_has_four_small_tasks_of_its_own() -> None:
    assert [task.question_id for task in DEMO_TASKS] == [101, 102, 103, 104] == list(DEMO_QUESTIONS)
    assert not set(DEMO_QUESTIONS) & set(QUESTIONS)
    for task in DEMO_TASKS:
        question = DEMO_QUESTIONS[task.question_id]
        assert question["turns"][0] == task.text["L0"] and len(question["turns"]) == 2
        assert question["category"] == task.category
        # Small enough that a model of 135M parameters keeps to them.
        assert len(task.text["L0"].split()) <= 20 and len(task.text["P"].split()) <= 150


def test_most_tasks_have_a_reference_for_both_turns() -> None:
    references = [question["reference"] for question in QUESTIONS.values() if "reference" in question]
    assert len(references) >= 15
    assert all(isinstance(text, str) and len(text.split()) >= 15 for pair in references for text in pair)


@each_task_and_the_demos
def test_each_level_keeps_the_one_before_and_adds_a_paragraph(task: Task) -> None:
    assert 3 <= len(task.topic.split()) <= 8
    for shorter, longer in itertools.pairwise(LEVELS):
        assert task.text[longer].startswith(task.text[shorter] + "\n\n")
        assert task.added(longer).strip()
    for text in task.text.values():
        assert text == text.strip()


@each_task
def test_lengths_stay_in_the_design(task: Task) -> None:
    for level, (fewest, most) in ADDED_WORDS.items():
        assert fewest <= len(task.added(level).split()) <= most, level
    assert len(task.text["P"].split()) <= MOST_WORDS


def test_the_table_of_lengths_in_the_readme_is_the_measured_one() -> None:
    told = re.findall(
        r"^\| (L\d|P) \|.*\| (\d+) \((\d+) to (\d+)\) \| (\d+) \|$",
        (DATA / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    measured = []
    for level in LEVELS:
        added = [len(task.added(level).split()) for task in TASKS]
        total = sum(len(task.text[level].split()) for task in TASKS)
        row = (round(sum(added) / len(TASKS)), min(added), max(added), round(total / len(TASKS)))
        measured.append((level, *map(str, row)))
    assert told == measured


@each_task_and_the_demos
def test_placebo_holds_no_instruction_and_no_data(task: Task) -> None:
    placebo = task.added("P")
    assert INSTRUCTION.findall(placebo) == []
    assert NUMBER.findall(placebo) == []
    assert not set(placebo) & set('"°€%:;()[]|*#/'), "quotations, lists, units and headings carry information"
    assert placebo.count("\n") == 2, "one paragraph"
    assert re.findall(r"(?<![.?!] )(?<!\n)\b[A-Z]\w+", placebo) == [], "names are data too"


@each_task_and_the_demos
def test_the_instruction_words_would_be_found_where_there_are_instructions(task: Task) -> None:
    """The check above means something only if it fires on every level that does instruct."""
    for level in ("L1", "L2", "L3"):
        assert len(INSTRUCTION.findall(task.added(level))) >= 3, level


@pytest.mark.parametrize("level", LEVELS[1:])
def test_no_two_tasks_share_an_addition_or_a_long_piece_of_one(level: str) -> None:
    """Guidance that fits every task says little about any; nor is one placebo to be used twenty times."""
    owner: dict[tuple[str, ...], int] = {}
    for task in TASKS:
        for run in word_runs(task.added(level), 9):
            assert owner.setdefault(run, task.question_id) == task.question_id, " ".join(run)


@pytest.mark.parametrize(
    "task", [task for task in TASKS if "reference" in QUESTIONS[task.question_id]], ids=task_name
)
def test_no_level_gives_away_what_the_reference_expects(task: Task) -> None:
    """Figures that an answer has to work out, and the reference's own phrases, stand in no addition."""
    question = QUESTIONS[task.question_id]
    additions = "\n".join(task.added(level) for level in LEVELS[1:])
    figures = set(NUMBER.findall(re.sub(r"^\d+\. ", "", additions, flags=re.MULTILINE)))
    asked = " ".join(question["turns"])
    to_find = set(NUMBER.findall(" ".join(question["reference"]))) - set(NUMBER.findall(asked))
    assert not figures & to_find
    known = set(word_runs(asked, 6))
    phrases = set(word_runs(" ".join(question["reference"]), 6)) - known
    assert not phrases & set(word_runs(additions, 6))


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The engine's vocabularies, from models made on the spot: {file stem: Llama without its weights}."""
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="token counts need the engine: pip install llama-cpp-python"
    )
    outdir = tmp_path_factory.mktemp("tokenizer")
    made = subprocess.run(
        [sys.executable, ROOT / "models" / "make_demo_model.py", "--outdir", outdir],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    paths = sorted(outdir.glob("*.gguf"))
    assert paths
    return {
        path.stem: llama_cpp.Llama(model_path=str(path), vocab_only=True, verbose=False) for path in paths
    }


@each_task
def test_token_counts_rise_from_level_to_level(task: Task, tokenizers: dict[str, Any]) -> None:
    for name, llama in tokenizers.items():
        counts = [len(llama.tokenize(task.text[level].encode())) for level in LEVELS]
        assert all(shorter < longer for shorter, longer in itertools.pairwise(counts)), (name, counts)
        # A tokenizer that turned the text into a handful of unknowns would prove nothing.
        assert counts[-1] >= len(task.text["P"].split()), (name, counts)
