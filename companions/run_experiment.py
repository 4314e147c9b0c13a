#!/usr/bin/env python3
"""Written experiments: run them in cycles, leave them alone, come back to them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.experiments.commands import build_parser, main
from edgebench.shell.door import open_door

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    open_door(main)
