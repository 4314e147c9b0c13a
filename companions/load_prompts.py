#!/usr/bin/env python3
"""Prompts from any file or a well-known set -> a prompts CSV that the collector reads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.prompts.sources import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
