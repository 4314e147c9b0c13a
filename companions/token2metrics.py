#!/usr/bin/env python3
"""Time, energy and power of a request from its token counts: train on measured runs, predict
before the next.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.forecasting.commands import build_parser, main
from edgebench.shell.door import open_door

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    open_door(main)
