"""Names of models: which one is meant, which sizes are in one, what a file without one is called."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from edgebench.errors import UserError

LOG = logging.getLogger("token2metrics")
# Names the model sizes are called by, where more than one name has the size in it.
SHORT_NAMES = {
    "1.5b": "deepseek-r1-distill-qwen-1.5b",
    "8b": "deepseek-r1-distill-llama-8b",
    "14b": "deepseek-r1-distill-qwen-14b",
    "l1max": "l1-qwen-1.5b-max",
}
SIZE = re.compile(r"(?<![0-9.])\d+(?:\.\d+)?b(?![0-9a-z])")  # 8b, 1.5b
BOARD_FOLDER = "tegra"  # of the default places, beside "server"


def find_model(asked: str, names: Sequence[str], flag: str = "--model") -> str:
    """The one name that is meant: itself, a short name, or the only name that has it as a part.

    A size is no part of another size, and stands in file names with an underscore.

    >>> find_model("q4_0", ["llama Q4_0", "llama Q6_K"]), find_model("8B", ["qwen-1.8B", "llama_8b"])
    ('llama Q4_0', 'llama_8b')
    >>> find_model("1.5B", ["qwen_1_5b", "qwen_14b"])
    'qwen_1_5b'
    """
    folded = {name.casefold(): name for name in names}
    if asked.casefold() in folded:
        return folded[asked.casefold()]
    alike = [name for name in names if plain(name) == plain(asked)]
    parts = [plain(part) for part in asked.split()]
    within = alike or [name for name in names if all(is_part(part, plain(name)) for part in parts)]
    short = SHORT_NAMES.get(plain(asked), "")
    if short in folded and all(name.casefold() in SHORT_NAMES.values() for name in within):
        return folded[short]  # of that family alone: another 8B beside it is a question
    # The same file name in the default places: the board's is meant, the server's has "server" behind it.
    boards = [name for name in within if f"{name} server" in within] or within
    if len(boards) == 1:
        if len(within) > 1:
            LOG.info("%s %s: %s is taken, not %s", flag, asked, boards[0], f"{boards[0]} server")
        return boards[0]
    if within:
        raise UserError(f"{flag} {asked} is not one model: {', '.join(within)}; name one of them")
    near = difflib.get_close_matches(asked.casefold(), list(folded), 1, 0.3)
    hint = f"; did you mean {folded[near[0]]}?" if near else "."
    raise UserError(f"no model {asked}{hint} There are: {', '.join(names)}")


def plain(name: str) -> str:
    """A name whose sizes and separators are written in one way.

    >>> plain("Qwen_1_5B"), plain("SmolLM2-135M Q4_1") == plain("SmolLM2-135M-Q4_1")
    ('qwen-1.5b', True)
    """
    sizes = re.sub(r"(?<![0-9.])(\d+)[_p](\d+)b(?![0-9a-z])", r"\1.\2b", name.casefold())
    return re.sub(r"[-_\s]+", "-", sizes)


def is_part(part: str, name: str) -> bool:
    """Whether a name has a part; a number in it is a whole one.

    >>> is_part("8b", "qwen-1.8b"), is_part("8b", "llama-8b-q4")
    (False, True)
    """
    before = r"(?<![0-9.])" if part[:1].isdigit() else ""
    return re.search(before + re.escape(part), name) is not None


def file_names(paths: Sequence[Path], default_places: bool) -> dict[Path, str]:
    """A name for each file: its stem; where two have the same, with the folder, or with all of the path.

    In the default places the file in tegra keeps the bare stem: runs of the board are what is asked for.

    >>> files = [Path("datasets/server/llama_8b.xlsx"), Path("datasets/tegra/llama_8b.csv")]
    >>> list(file_names(files, True).values()), list(file_names(files, False).values())
    (['llama_8b server', 'llama_8b'], ['llama_8b server', 'llama_8b tegra'])
    """
    stems = {path: path.name.removesuffix(".gz").rsplit(".", 1)[0] for path in paths}
    names: dict[Path, str] = {}
    for path, stem in stems.items():
        alike = [other for other in paths if stems[other] == stem]
        folders = [other.parent.name for other in alike]
        alone = folders.count(path.parent.name) == 1
        if len(alike) == 1 or (default_places and alone and path.parent.name == BOARD_FOLDER):
            names[path] = stem
        elif alone:
            names[path] = f"{stem} {path.parent.name}".strip()
        else:
            names[path] = path.as_posix()
    return names
