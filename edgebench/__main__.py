"""Runs a module of this package as a process of its own: `python edgebench/__main__.py MODULE WORDS…`.

Run by its path, so that it works from any folder: with `python -m` the user's folder would come first on
sys.path, and a json.py lying there would be imported in place of Python's.

What shell/lifeline.py started ends with its parent: it is armed here, before anything else runs.
"""

import os
import runpy
import sys
from pathlib import Path

HERE, ROOT = (str(folder) for folder in Path(__file__).resolve().parents[:2])
# Under -I this folder does not stand on the path; else it stands first, and its wings must not be modules.
sys.path[:] = [ROOT, *(entry for entry in sys.path if entry != HERE)]


def main() -> None:
    """Become the module named by the first word; the others are its own."""
    if "EDGEBENCH_PARENT" in os.environ:
        from edgebench.shell.lifeline import obey_parent

        obey_parent()
    module = sys.argv[1]
    del sys.argv[0]  # the module's name stands there until runpy puts its file in place
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
