#!/usr/bin/env python3
"""One page that says what the longer prompt bought: report.html, self-contained, light and dark, fit to"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgebench.reporting.page import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
