#!/usr/bin/env python3
"""Results out of the logs that LLM engines leave behind: one row per result, FAILED with its
cause included.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.backends.logs.story import build_parser, main
from edgebench.shell.door import open_door

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    open_door(main)
