#!/usr/bin/env python3
"""What did the longer prompt buy, and what did it cost? The statistics of a campaign, in one JSON file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.analysis.levels import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
