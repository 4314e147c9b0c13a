#!/usr/bin/env python3
"""Read the verdict out of a judge's reply: A, B or Tie, or null where it states none.

For replies that say more than one word: labels in brackets, "Final verdict: ...", JSON whole or cut off,
markup, thinking text, prose that claims a winner. What a judge quotes does not count, of several labels the
final verdict does, and there is no default: a reply that cannot be read is no tie.

stdin: one JSON value per line, the reply as a string, or an object with it under raw_reply (a journal).
stdout: one JSON value per line: "A", "B", "Tie" or null, by slot. judging/asking.py calls parse_verdict.
--journal: instead, read all stored replies of a judge's journal anew; where a request's verdict is no longer
what the journal says, a line that says so is added (attempts 0: it cost nothing). judge_pairs.py --reparse.

Example:
    python edgebench/__main__.py edgebench.judging.verdict < results/scores_mtbench.journal.jsonl \\
        | sort | uniq -c
"""

import argparse
import html
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench.prompts.thinking import without_reasoning
from edgebench.records.jsonl import append_whole

# Every rule below returns a side, AMBIGUOUS (stop looking), or None (try the next rule).
AMBIGUOUS = "?"
NOUN = r"(?:assistant|answer|response|option|model|candidate|output|chatbot)"
TIE = r"(?:an? )?(?:tied?|draw|equal(?:ity)?|[ée]galit[ée]|empate|unentschieden|平局|平手)"
LABEL = (
    rf"(?:\[\[(?P<mark>A|B|Tie)\]\]|(?P<tie>\b{TIE}\b)|\b(?P<l>[AB])\s*(?P<op>[<>=])[<>=]?\s*(?P<r>[AB])\b"
    rf"|\b(?:the )?(?P<noun>{NOUN}[ _]*)?\(?(?P<side>[AB])\b)"
)
# FastChat's [[C]] is a tie; so are Arena's [[A=B]] and "[Tie]". A bare C is no verdict.
BRACKETED = re.compile(rf"(?<!\w)(?:\[\[\s*(?P<c>C)\s*\]\]|\[{{1,2}}\s*{LABEL}[\s)]*\]{{1,2}})", re.I)
ANCHOR = (
    r"(?:\b(?:verdict|winner|decision|judge?ment|conclusion|result|choice|prefer(?:ence|red)|final|overall"
    r"|answer|better|pick|vote)\b|结论|判定|胜者)"
)
# What may stand between "verdict:" and its label; no "not" among it.
FILLER = (
    r"(?:[^\w\[]|\b(?:is|was|are|be|that|therefore|thus|hence|the|my|our|it|this|goes|go|to|for|in|favou?r|of"
    r"|final|overall|clearly|winner|verdict|better|preferred|best|choice|one|text|quality)\b){0,40}?"
)
STATED = r"(?:[\s\"'*]*[]:=|>)是–—-]|\s+(?:is|was|goes to)\b|\s*\n|\s*(?=\[\[))"
ANCHORED = re.compile(ANCHOR + STATED + FILLER + LABEL, re.I)
CRITERION = (
    r"(?:factual|accura|correct|helpful|structur|concis|clarity|relevan|depth|detail|creativ|style)\w*"
)
CRITERION_LINE = re.compile(
    rf"^[^\w\n]*(?:\d+\W+)?{CRITERION}\b[^:=|\n]{{0,30}}[:=|-][^\n.]{{0,40}}$", re.I | re.M
)
# After a label: a choice of labels ("A or B"), a condition ("A if ...") or a denial ("A is worse").
UNBINDS = re.compile(
    r"[\s\"'\])]*(?:(?:[,/|]|\bor\b|\band\b|\bvs\b)[\s,]*(?:or\s+)?[\"'\[(]*"
    rf"(?:{NOUN} )?(?:A|B|C|Tie)\b|if\b)"
    rf"|(?:['’]s)?(?: {NOUN})? (?:is|was|does|did)(?:n't| \w*ly)? ?(?:not|worse|inferior|weaker|less)\b",
    re.I,
)
# Behind a bare capital A any other lower-case word makes it an article: "A trip to Hawaii".
VERBS = (
    r"(?:is|was|has|wins?|won|because|over|by|since|as|for|due|provid\w+|gives?|gave|offers?|better|slightly"
    r"|and|or|in|with)\b"
)
SUBJECT = (
    rf"(?:(?:\b{NOUN}s? )?\(?(?<![A-Za-z0-9])(?-i:(?P<s>[AB]))(?![A-Za-z0-9])\)?(?:['’]s)?(?: {NOUN}| one)?"
    rf"|\bthe (?P<nth>first|second) {NOUN}(?: \([AB]\))?)"
)
ADVERBS = (
    r"(?:(?:is|was|does|did|has|provide[sd]?|gives?|gave|offer(?:s|ed)|comes? out|an?|the|much|far|also|still"
    r"|\w+ly|as|overall)\s+){0,6}"
)
# "better" claims a winner, "better structure" does not.
GOOD = (
    r"(?:(?:better|superior|stronger|prefer(?:able|red)|best|the winner|ahead)(?=\s*(?:$|[,.;:!)\n]"
    r"|(?:than|to|job|answer|response|choice|option|one|overall|because|since|as|for|due|here)\b"
    r"|in (?:this|general|every|all)))|wins|won|outperforms?|更[好优佳])"
)
CLAIMS = [
    re.compile(rf"{SUBJECT},?\s*{ADVERBS}(?:{GOOD}|(?P<bad>worse|inferior|weaker|loses|less \w+))", re.I),
    re.compile(
        rf"\b(?:prefer|choose|pick|select|favou?r|go with|vote for|in favou?r of|edge to|win to) {SUBJECT}",
        re.I,
    ),
    re.compile(
        rf"\b(?:better|best|superior|stronger|preferred|winning) {NOUN} (?:here )?(?:is|was) {SUBJECT}", re.I
    ),
    re.compile(rf"\b(?:so|therefore|thus|hence|ultimately|overall),? {SUBJECT}(?=\s*(?:[.!]|$))", re.I),
]
TIED = re.compile(
    r"\b(?<!not )(?:it's|is|as|call it|be|are|were|a)(?: an?| considered| essentially){0,3} (?:tied?|draw)\b"
    r"|\bno clear winner\b|\bneither \w+(?: \w+){0,3} better\b"
    r"|\b(?:are|is|were) (?:of |about |roughly )*(?:equal(?:ly good)?|the same)(?: in)?(?: quality)?"
    r"(?=\s*(?:$|[,.;!]))",
    re.I,
)
DENIED = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|hardly|if|could|might|should|whether|unless)\b|n['’]t\b", re.I
)
CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|overall|conclusion|ultimately|so|verdict|final)\b", re.I)
# A mark that is quoted, denied, or part of an instruction is not the judge's own.
NOT_OWN = re.compile(
    r"\b(?:not|says?|said|outputs?|returns?|prints?|writes?|contains?|answer with)\W*\Z", re.I
)
CONCLUDING = (
    r"\b(?:therefore|thus|hence|conclusion|ultimately|finally|but)\b[^\[]{0,200}\[\[(A|B|Tie)\]\]\W*\Z"
)
KEY = (
    r"(?:final_?|overall_?)?(?:winner|verdict|answer|choice|result|decision|judge?ment|preferred|preference"
    r"|better|better_answer|pick|overall)"
)
LOOSE_JSON = re.compile(rf"[\"']{KEY}[\"']\s*:\s*[\"']([^\"'\n,}}]+)(?:[\"']\s*([|/]|or\b))?", re.I)


def named(found: re.Match[str]) -> str | None:
    """The side a LABEL names: A, B or Tie; None where it compares a side with itself."""
    group = found.groupdict()
    if group["op"]:
        left, right = group["l"].upper(), group["r"].upper()
        return None if left == right else {"=": "Tie", ">": left, "<": right}[group["op"]]
    return "Tie" if group["tie"] or group.get("c") else str(group["mark"] or group["side"]).title()


def clean_reply(raw: str) -> str:
    """The reply without thinking, invisible characters, markup and end tokens; its marks made uniform."""
    text = unicodedata.normalize("NFKC", html.unescape(raw))
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = without_reasoning(text)
    text = re.sub(r"<\|[^|<>\n]*\|>|</s>|<(?:end_of_turn|eos)>", " ", text)
    text = re.sub(r"\\boxed\{(?:\\text\{)?\s*([^{}]*?)\s*\}{1,2}", r"[[\1]]", text)
    text = re.sub(r"^\s*(?:```|~~~)\w*\s*?$|\*\*|__|`|^\s{0,3}(?:#+|>)\s", "", text, flags=re.M)
    return BRACKETED.sub(lambda found: f"[[{named(found)}]]", text).replace("*", "").strip()


def whole_label(text: str) -> str | None:
    """The verdict of a text that is nothing but a label: "A", "Tie.", "Answer B", "A = B"; not the grade A+.

    >>> whole_label("**Tie.**"), whole_label("Answer B"), whole_label("B >> A"), whole_label("A+")
    ('Tie', 'B', 'B', None)
    """
    bare = re.sub(r"^\W+|(?<![+-])\W+$|\s\W+$", "", text)
    bare = re.sub(r"^(?:it['’]s|it is|this is|i (?:pick|choose|prefer|vote for)) ", "", bare, flags=re.I)
    found = None if re.search(r"\b[AB][+-]", text) else re.fullmatch(LABEL, bare, re.I)
    return named(found) if found else None


def winner_values(value: Any) -> Iterator[Any]:
    """Every value under a winner-like key of parsed JSON, at any depth."""
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if isinstance(item, (dict, list)):
            yield from winner_values(item)
        elif isinstance(key, str) and re.fullmatch(KEY, key, re.I):
            yield item


def json_verdict(text: str) -> str | None:
    """The winner that JSON names, whole, truncated or single-quoted; AMBIGUOUS where it names none or two."""
    values: list[Any] = []
    start = text.find("{")
    while start >= 0:
        try:
            parsed, end = json.JSONDecoder().raw_decode(text, start)
            values += winner_values(parsed)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    if not values:
        loose = LOOSE_JSON.findall(text)
        values = [None if choice else value for value, choice in loose]
    sides = {(whole_label(item) or claimed_side(item)) if isinstance(item, str) else None for item in values}
    return (sides.pop() or AMBIGUOUS) if len(sides) == 1 else AMBIGUOUS if sides else None


def anchored_label(text: str) -> str | None:
    """The label after "verdict:", "winner is", "[RESULT]": the last one, of the strongest wording."""
    weak, strong = None, None
    for found in ANCHORED.finditer(text):
        after, side = text[found.end() :], found["side"]
        if UNBINDS.match(after) or (
            side and not found["noun"] and re.match(rf" +(?!{VERBS})[a-z]|\w", after)
        ):
            continue
        if side in ("a", "b") and not re.match(r"\W*(?:\n|$)", after):
            continue
        weak = named(found) or weak
        if re.search(r"final|verdict|overall", found[0], re.I):
            strong = named(found) or strong
    return strong or weak


def marked_label(text: str) -> str | None:
    """The only [[label]] of its own, the first of "[[B]] is better than [[A]]", or a concluding one."""
    if re.search(r"\[\[(?:A|B|Tie)\]\][\"'\s]*if\b", text):
        return AMBIGUOUS  # an echo of the instructions
    marks = [
        found
        for found in re.finditer(r"\[\[(A|B|Tie)\]\]", text)
        if not NOT_OWN.search(text[max(0, found.start() - 30) : found.start()])
    ]
    sides = {found[1] for found in marks}
    if len(sides) == 2:
        compared = r"\[\[([AB])\]\] (?:is|was) (?:\w+ )?better than \[\[[AB]\]\]"
        found = re.search(compared, text) or re.search(CONCLUDING, text, re.I)
        return found[1] if found else AMBIGUOUS
    return sides.pop() if len(sides) == 1 else AMBIGUOUS if sides else None


def lone_line(text: str) -> str | None:
    """The label alone on the last or the first line, or the one that opens the reply ("A: it is ...")."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    sides = {side for side in map(whole_label, (lines[0], lines[-1])) if side}
    if sides:
        return sides.pop() if len(sides) == 1 else AMBIGUOUS
    opening = re.match(
        rf"\W*(?:{NOUN} )?([ABb]|(?i:{TIE}))\s*(?:[:–—(]|-\s|\.\s|, (?:because|since|as)\b)(.*)", text, re.S
    )
    if not opening or re.search(r"\b[AB]\s*[:(]|\b[AB]\s*=(?!\s*[AB])|^\W*[AB]\b[).]", opening[2], re.M):
        return None
    return opening[1].upper() if len(opening[1]) == 1 else "Tie"


def claimed_side(text: str) -> str | None:
    """The winner that prose claims ("A is better than B") if its conclusions, or all its claims, agree."""
    concluded: set[str] = set()
    claimed: set[str] = set()
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text):
        sides = {"Tie"} if TIED.search(sentence) else set()
        for found in () if sides else (match for claim in CLAIMS for match in claim.finditer(sentence)):
            before, after = (
                sentence[max(0, found.start() - 25) : found.end()],
                sentence[found.end() : found.end() + 60],
            )
            if DENIED.search(before) or re.match(
                rf"[^,.;]*\b(?:in|at|on|for)\b[^,.;]{{0,20}}\b{CRITERION}\b", after, re.I
            ):
                continue
            side = found["s"] or {"first": "A", "second": "B"}[found["nth"].lower()]
            sides.add({"A": "B", "B": "A"}[side] if found.groupdict().get("bad") else side)
        claimed |= sides
        concluded |= sides if CONCLUDES.search(sentence) else set()
    for chosen in (concluded, claimed):
        if len(chosen) == 1:
            return chosen.pop()
    return None


def parse_verdict(raw: str | None) -> str | None:
    """A, B or Tie as the judge's reply states it, by slot; None where it states none. There is no default."""
    text = clean_reply(raw or "")
    found = whole_label(text) or json_verdict(text)
    if not found:
        # What the judge quotes (an answer that asks for [[A]]) is not what it says.
        quoted = r"(?<![:=] )(?<![:=])[\"“][^\"“”\n]*[\"”]"
        said = re.sub(quoted, lambda found: " " if len(found[0].split()) > 2 else found[0], text)
        said = CRITERION_LINE.sub("", said) if said.strip() else text
        found = anchored_label(said) or marked_label(said) or lone_line(said) or claimed_side(said)
    return None if found == AMBIGUOUS else found


def reading(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a journal line's reply says, by slot and by level."""
    verdict = parse_verdict(line["raw_reply"])
    levels = ("left", "right") if line.get("order") == "left_first" else ("right", "left")
    sides = {"A": levels[0], "B": levels[1], "Tie": "tie"}
    return {"verdict": verdict, "winner_side": sides.get(verdict or ""), "attempts": 0}


def reread(path: Path) -> list[dict[str, Any]]:
    """The lines to add to a journal: per request the first reply that says something, where that is news."""
    found: dict[str, dict[str, Any]] = {}
    now: dict[str, Any] = {}
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a kill; judge_pairs.py cuts it off
        if isinstance(line, dict) and isinstance(line.get("raw_reply"), str) and line.get("key"):
            now[line["key"]] = line.get("verdict", "unread")
            if not found.get(line["key"], {}).get("verdict"):
                found[line["key"]] = line | reading(line)
    return [line for key, line in found.items() if line["verdict"] != now[key]]


def reread_journal(path: Path) -> None:
    """Add to a journal what its replies say to the reader of now. Raises OSError."""
    append_whole(path, "".join(json.dumps(line) + "\n" for line in reread(path)).encode())


def build_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--journal", type=Path, help="journal to read anew, added to; nothing is printed")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.journal:
            reread_journal(args.journal)
            return 0
        for line in sys.stdin:
            value = json.loads(line)
            if isinstance(value, dict):
                value = value.get("raw_reply")
            print(json.dumps(parse_verdict(value if isinstance(value, str) else None)), flush=True)
    except ValueError as exc:
        print(f"error: stdin holds a line that is not JSON: {exc}", file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    except OSError as exc:
        print(f"error: {exc} (--journal)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
