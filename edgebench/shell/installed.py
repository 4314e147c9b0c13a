"""The installed commands: `judge-pairs` runs `judge_pairs` of this module (pyproject's [project.scripts]).

Each ends as the script ends, through `open_door`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NoReturn

from edgebench.shell.calls import module_of
from edgebench.shell.door import open_door


def __getattr__(name: str) -> Callable[[], NoReturn]:
    """The program of the door of that name; looked up here, so that pyproject's list is the only one."""
    module = module_of(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def main() -> int:
        return int(importlib.import_module(module).main())  # behind the door, where Ctrl-C is answered

    return lambda: open_door(main)
