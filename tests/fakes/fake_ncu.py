"""A profiler that plays Nsight Compute: it starts the command it is given and exports counters of kernels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

START = "subprocess.check_call(command)"  # what a profiler does with the command, as a line for `run`
SCRIPT = """#!{python}
import pathlib, subprocess, sys, time
words = sys.argv[1:]
if "--import" in words:
    print({table!r})
    sys.exit()
command = words[words.index("--metrics") + 2:]
{run}
pathlib.Path(words[words.index("--export") + 1]).write_text("report")
"""


def fake_ncu(path: Path, run: str = START, written_mbyte: Sequence[int] = (3, 4)) -> Path:
    """Such a program at `path`; `run`: its lines, which know `command` and the words it was called with.

    It exports a kernel for each number of megabytes written to memory.
    """
    table = '"ID","Kernel Name","dram__bytes_write.sum"\n"","","Mbyte"\n'
    table += "".join(f'"{number}","k","{mbyte}"\n' for number, mbyte in enumerate(written_mbyte))
    path.write_text(SCRIPT.format(python=sys.executable, table=table.rstrip("\n"), run=run))
    path.chmod(0o755)
    return path
