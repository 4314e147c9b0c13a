#!/usr/bin/env python3
"""Write the parts of the documentation that follow from the code: docs/records.md from the record types, and
the outputs shown under the commands of README.md and docs/*.md.

An output is a ```text block that follows a ```bash block. It is what that block prints, in a folder laid out
as after `./run_all.sh --demo`; a line of it that is only … stands for any number of lines.

Example:
    python docs/renew.py records
    python docs/renew.py outputs docs/check_runs.md     # in a clone where the demo has run
"""

import argparse
import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from edgebench.errors import UserError  # noqa: E402
from edgebench.records.flags import INVALID, SOFT_FLAG_MEANINGS  # noqa: E402
from edgebench.records.run import HARD_FLAG_MEANINGS  # noqa: E402
from tests.help_layout import same_in_every_python  # noqa: E402

# (file, class, heading, what a reader must know first)
RECORDS = (
    (
        "edgebench/records/run.py",
        "RunRecord",
        "The run record: `runs_llamacpp.jsonl`",
        "One line a run, format 1, written by `run_llamacpp_collect.py`. Every reader takes the task under "
        "`id`, `question_id` or `task_id`, ignores fields it does not know, and reads a record that has only "
        "`id`, `model_id`, `level`, `prompt_tokens`, `completion_tokens`, `latency_ms`, `energy_joule` and "
        "`output_text`.",
    ),
    (
        "edgebench/records/environment.py",
        "EnvRecord",
        "The environment record: `runs_llamacpp.env.jsonl`",
        "One line for each board, power mode, engine, set of models and settings, beside the runs. "
        "`env_id` of a run names its line.",
    ),
    (
        "edgebench/records/judgment.py",
        "ScoreRow",
        "The scores: `scores_mtbench.csv`",
        "One row for each pair of levels of one task and model, after both orders were reconciled.",
    ),
    (
        "edgebench/records/judgment.py",
        "JournalLine",
        "The judge's journal: `scores_mtbench.journal.jsonl`",
        "One line for each game, that is, for one order of a pair. It only grows; of two lines of one game "
        "the later one counts. Fields of a reply, and of verdicts by probability, stand only in lines that "
        "have them.",
    ),
    (
        "edgebench/throughput/record.py",
        "BatchRecord",
        "The throughput record: `throughput.jsonl`",
        "One line for all prompts at one batch size, once, written by `companions/throughput.py`.",
    ),
)
HEAD = """# Records: every field of every file

Made by `python docs/renew.py records` from the types in `edgebench/records/`; a test holds the two together.
One JSON object a line unless said otherwise. Missing is `null`, with a word in `flags`, a reason beside it
or a message in `error`; never 0 or −1. Units are the end of a name: `_ms`, `_s`, `_joule`, `_mw`, `_c`.

`analysis.json` is described in [analyze_levels](analyze_levels.md), an experiment's files in
[run_experiment](run_experiment.md), those of a sweep in [sweep_speculative](sweep_speculative.md), rows of
engines in [compare_backends](compare_backends.md).
"""
SECTION = re.compile(r"--- (.+) ---")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
PLACEHOLDER = "…"  # alone in a block: an output that has not been written yet
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
STAND_IN = re.compile(r"<!-- stand-in: (.+?) -->\s*\Z")  # what tests/test_docs.py puts there to run it
FREE = re.compile(r"<!-- not compared: (.+?) -->\s*\Z")


# --- records ---


@dataclass(frozen=True)
class FieldText:
    """One field of a record: its type as written, and its meaning, the comment beside or above it."""

    name: str
    type_text: str
    meaning: str
    section: str  # of the table it belongs to


def fields_of(source: str, class_name: str) -> list[FieldText]:
    """The fields of a class in source text, in order. Raises ValueError where one has no meaning."""
    tree = ast.parse(source)
    found = next(
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    fields: list[FieldText] = []
    section, line = "", found.lineno + 1
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            line = (node.end_lineno or node.lineno) + 1
            continue
        above = [comments[number] for number in range(line, node.lineno) if number in comments]
        for words in above:
            heading = SECTION.fullmatch(words)
            section = heading[1] if heading else section
        above = [words for words in above if not SECTION.fullmatch(words)]
        beside = [
            comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments
        ]
        meaning = " ".join([*beside, *above])
        if not meaning:
            raise ValueError(f"{class_name}.{node.target.id} has no comment that says what it means")
        fields.append(FieldText(node.target.id, ast.unparse(node.annotation), meaning, section))
        line = (node.end_lineno or node.lineno) + 1
    return fields


def table_of(fields: Sequence[FieldText]) -> Iterator[str]:
    """Lines of Markdown: a table, or one for each section."""
    section = None
    for one in fields:
        if one.section != section:
            section = one.section
            if section:
                yield from ("", f"### {section}")
            yield from ("", "| field | type | meaning |", "|---|---|---|")
        kind = one.type_text.replace(" | None", "").replace("|", "or")
        nullable = " or null" if "None" in one.type_text else ""
        yield f"| `{one.name}` | {kind}{nullable} | {one.meaning.replace('|', chr(92) + '|')} |"


def flags_section() -> Iterator[str]:
    """Lines of Markdown: every flag of a run, and what follows from it."""
    yield from (
        "## Flags",
        "",
        "Words in `flags` of a run record. A run with one of these is in no mean, and no judge reads it:",
    )
    yield from ("", "| flag | why |", "|---|---|")
    yield from (f"| `{flag}` | {why} |" for flag, why in HARD_FLAG_MEANINGS.items())
    yield from ("", "All others are remarks, and the run counts:", "", "| flag | what follows |", "|---|---|")
    yield from (f"| `{flag}` | {what} |" for flag, what in SOFT_FLAG_MEANINGS.items())
    yield f"| `{INVALID}…` | the record has no usable value of that field |"


def records_page() -> str:
    """docs/records.md, whole."""
    lines = [HEAD]
    for path, class_name, heading, words in RECORDS:
        fields = fields_of((ROOT / path).read_text(encoding="utf-8"), class_name)
        lines += [f"## {heading}", "", words, *table_of(fields), ""]
    lines += flags_section()
    return "\n".join(lines).rstrip("\n") + "\n"


# --- commands and their outputs ---


@dataclass(frozen=True)
class Example:
    """One ```bash block of a page."""

    page: str
    line: int  # of the page, from 1
    commands: str
    not_run: str | None  # why it cannot run after the demo
    stand_in: str | None  # what takes the place of something the demo does not leave, where a test runs it
    output: str | None  # of the ```text block that follows
    not_compared: str | None  # why that output is another one each time
    output_at: tuple[int, int] | None  # where its text stands in the page


def examples_of(page: str, text: str) -> list[Example]:
    """The ```bash blocks of a page of Markdown, with the outputs that stand right below them."""
    fences = list(FENCE.finditer(text))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        if fence[1] not in ("bash", "sh", "console"):
            continue
        before = NOT_RUN.search(text[: fence.start()])
        stand_in = STAND_IN.search(text[: fence.start()])
        output = output_at = free = None
        if after is not None and after[1] == "text":
            between = text[fence.end() : after.start()]
            free = FREE.search(between)
            if not FREE.sub("", between).strip():
                output, output_at = after[2], after.span(2)
        found.append(
            Example(
                page,
                text[: fence.start()].count("\n") + 1,
                fence[2],
                before[1] if before else None,
                stand_in[1] if stand_in else None,
                output,
                free[1] if free else None,
                output_at,
            )
        )
    return found


def agrees(shown: str, printed: str) -> bool:
    """Whether an output as a page shows it is what was printed; a line of only … stands for any lines.

    A help text agrees in whatever layout this Python's argparse gave it.

    >>> agrees("a\\n…\\nd\\n", "a\\nb\\nc\\nd\\n"), agrees("a\\nc\\n", "a\\nb\\nc\\n")
    (True, False)
    """
    if "usage: " in shown:
        shown, printed = same_in_every_python(shown), same_in_every_python(printed)
    parts = [re.escape(line.rstrip()) for line in shown.strip("\n").splitlines()]
    pattern = "\n".join(r"(?:.*\n?)*?" if part.strip() in ("…", re.escape("…")) else part for part in parts)
    pattern = pattern.replace("(?:.*\\n?)*?\n", "(?:.*\\n)*?").replace("\n(?:.*\\n?)*?", "(?:\\n.*)*?")
    text = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None


def run(
    commands: str, where: Path, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """The commands of one block in one shell that stops at the first failure; `python` is this one."""
    path = os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ["PATH"]))
    fixed = {"PATH": path, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-eu", "-c", commands],
        cwd=where,
        env={**(os.environ if environment is None else environment), **fixed},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    # Where this Python and this folder lie is nobody else's business.
    done.stdout = done.stdout.replace(sys.executable, "python").replace(f"{where}/", "")
    return done


def renew_outputs(path: Path) -> int:
    """Writes the outputs of a page anew where they changed; returns how many did. Raises UserError."""
    text = path.read_text(encoding="utf-8")
    changed: list[tuple[tuple[int, int], str]] = []
    for example in examples_of(path.name, text):  # in their order: one block makes what the next reads
        if example.not_run or example.stand_in:
            continue
        done = run(example.commands, ROOT)
        if done.returncode:
            raise UserError(f"{path.name}:{example.line}: status {done.returncode}: {done.stderr.strip()}")
        if example.output is None or example.output_at is None:
            continue
        unwritten = example.output.strip() == PLACEHOLDER
        if unwritten or not (example.not_compared or agrees(example.output, done.stdout)):
            changed.append((example.output_at, done.stdout.strip("\n") + "\n"))
    for (first, last), printed in reversed(changed):
        text = text[:first] + printed + text[last:]
    path.write_text(text, encoding="utf-8")
    return len(changed)


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("part", choices=("records", "outputs"), help="what to write anew")
    parser.add_argument(
        "pages", nargs="*", type=Path, help="pages with outputs (default: README.md, docs/*.md)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of error."""
    args = build_parser().parse_args(argv)
    try:
        if args.part == "records":
            (DOCS / "records.md").write_text(records_page(), encoding="utf-8")
        else:
            for page in args.pages or [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
                print(f"{page}: {renew_outputs(page)} outputs written anew")
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
