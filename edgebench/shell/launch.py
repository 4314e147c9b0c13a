"""The command line that starts a module of this package as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

LAUNCHER = Path(__file__).resolve().parents[1] / "__main__.py"


def room_command(module: str, *words: str, isolated: bool = False) -> list[str]:
    """The words to start `module` with, from any folder. `isolated`: without the user's site and variables.

    >>> room_command("edgebench.power.keeper", "--silent_s", "2")[-3:]
    ['edgebench.power.keeper', '--silent_s', '2']
    """
    switches = ["-IS"] if isolated else []
    return [sys.executable, *switches, str(LAUNCHER), module, *words]
