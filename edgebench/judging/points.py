"""Which answer a reply gives more points, where points are all that it gives: "A: 9\\nB: 7".

Read is a reply that from its first word to its last is one number for each answer, under a heading that says
scores at most. With any other word beside them the numbers may count errors, be ranks, or judge one criterion
alone: they say nothing. Equal points are a tie.
"""

from __future__ import annotations

import json
import re
from typing import Any

from edgebench.judging.claims import NOUN

WORD = r"(?:scores?|ratings?|grades?|points|marks)"
HEAD = rf"(?:(?:the |my )?(?:(?:overall|final|total) )?(?:{WORD}|evaluation|results?)(?: are)?\s*[:=-]?\s*)?"
UNIT = r"(?:/\s*\d{1,3}|out of \d{1,3}|%|points?|pts|stars?)"


def entry(number: int) -> str:
    """One answer and its points."""
    return (
        rf"(?:{WORD} (?:for |of )?)?(?:the )?(?:{NOUN} ?)?\(?(?P<side{number}>[AB])\)?(?:['’]s)?"
        rf"(?: {WORD})?\)?"
        r"\s*(?:[:=–—-]|\b(?:scores?|scored|gets?|got|receives?|received|earns?|earned|is)\b|(?=\s\d))\s*"
        rf"(?P<points{number}>\d{{1,3}}(?:[.,]\d{{1,2}})?)\s*(?P<unit{number}>{UNIT})?"
    )


WHOLE = re.compile(rf"\W*{HEAD}{entry(1)}[\s.,;|]*(?:(?:and|vs\.?)\s+)?{entry(2)}[\s.!\"'}})\]]*", re.I)
SAYS_POINTS = re.compile(rf"\b{WORD}|{UNIT}|\bscore", re.I)
KEY_OF_POINTS = re.compile(
    rf"(?:(?:{WORD}|total|overall)[_ ]?(?:for[_ ])?)?(?:{NOUN}[_ ]?)?(?P<side>[AB])"
    rf"(?:[_ ]?(?:{WORD}|total))?",
    re.I,
)
KEY_OF_BOTH = re.compile(rf"(?:(?:overall|final|total)[_ ])?{WORD}", re.I)


def side_with_more_points(text: str) -> str | None:
    """A, B or Tie of a reply that is points alone; None for every other one.

    >>> side_with_more_points("A: 9/10, B: 7/10"), side_with_more_points("Scores: B 8, A 8")
    ('A', 'Tie')
    >>> side_with_more_points("A: 9 errors, B: 7 errors"), side_with_more_points("A: 1, B: 2")
    (None, None)
    """
    if text.lstrip().startswith("{"):
        return of_json(text)
    found = WHOLE.fullmatch(text)
    if not found or found["side1"].upper() == found["side2"].upper():
        return None
    units = ["".join(str(found[f"unit{n}"] or "").split()).lower() for n in (1, 2)]
    if units[0] != units[1]:
        return None
    points = {found[f"side{n}"].upper(): float(found[f"points{n}"].replace(",", ".")) for n in (1, 2)}
    largest = re.search(r"\d+", units[0])
    if largest and max(points.values()) > float(largest[0]):
        return None
    return leader(points, SAYS_POINTS.search(text) is not None)


def of_json(text: str) -> str | None:
    """The same of a JSON object, as {"A": 9, "B": 7} or {"scores": {...}}; texts may stand beside them."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    says_points = False
    inner = [
        value for key, value in content.items() if KEY_OF_BOTH.fullmatch(key) and isinstance(value, dict)
    ]
    if len(inner) == 1:
        others = [value for value in content.values() if value is not inner[0]]
        if not all(isinstance(value, str) for value in others):
            return None
        content, says_points = inner[0], True
    points: dict[str, float] = {}
    for key, value in content.items():
        side = KEY_OF_POINTS.fullmatch(key)
        if isinstance(value, str) and not side:
            continue
        if not side or side["side"].upper() in points or not is_points(value):
            return None
        points[side["side"].upper()] = float(value)
        says_points = says_points or SAYS_POINTS.search(key.replace("_", " ")) is not None
    return leader(points, says_points) if len(points) == 2 else None


def is_points(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def leader(points: dict[str, float], says_points: bool) -> str | None:
    """The side with more; None where 1 and 2 may be ranks."""
    if not says_points and set(points.values()) == {1.0, 2.0}:
        return None
    if points["A"] == points["B"]:
        return "Tie"
    return max(points, key=lambda side: points[side])
