#!/usr/bin/env python3
"""Speculative decoding on this board: do adaptive drafts and confidence early exit pay, for
which workload?
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.shell.door import open_door
from edgebench.speculation.sweep import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    open_door(main)
