"""The installed commands: `judge-pairs` runs `judge_pairs` of this module (pyproject's [project.scripts]).

Each ends as the script ends, through `open_door`; and as the script does, it leaves Ctrl-C to the system
until then: while the rooms are read nothing can be torn.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in, where `signal` would first read other files
from collections.abc import Callable
from typing import NoReturn

from edgebench.shell.calls import module_of


def __getattr__(name: str) -> Callable[[], NoReturn]:
    """The program of the door of that name; looked up here, so that pyproject's list is the only one."""
    module = module_of(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def command() -> NoReturn:
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        import importlib

        from edgebench.shell.door import open_door

        open_door(importlib.import_module(module).main)

    return command
