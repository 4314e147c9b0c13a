"""One layout for what argparse lays out in another way from Python 3.10 to 3.13."""

from __future__ import annotations

import re


def same_in_every_python(text: str) -> str:
    """A help text without what argparse lays out in another way from 3.10 to 3.13.

    Usage and each flag's entry stand on one line, whatever their width; a flag of two names has its
    value's name once.

    >>> same_in_every_python("usage: x [-h]\\n         [--a A]\\n")
    'usage: x [-h] [--a A]\\n'
    >>> same_in_every_python("  --a A, --b A\\n             of it\\n")
    '  --a, --b A of it\\n'
    """
    lines: list[str] = []
    for line in text.splitlines():
        in_usage = bool(lines) and lines[-1].startswith("usage: ") and line.startswith("  ")
        is_continued = bool(lines) and bool(lines[-1]) and re.match(r" {9}", line)
        if in_usage or is_continued:
            lines[-1] += " " + line.strip()
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(indent + re.sub(r" {2,}", " ", line.strip()))
    once = [
        re.sub(r"^( +--?[\w-]+) (\S+(?: \[\S+ \.\.\.\])?)(?=, --?[\w-]+ \2)", r"\1", line) for line in lines
    ]
    return "\n".join(once) + "\n"
