"""Small files of the kernel, read as they must be."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_BYTE = 1 << 16


def read_text(path: Path) -> str:
    """Contents of a small file without blanks around them; empty where it cannot be read or is not ready.

    Sensors of a Jetson's powered-down parts answer EAGAIN, of which a buffered read makes a TypeError: hence
    the bare one.
    """
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(file, MAX_BYTE).decode("utf-8", "replace").strip("\0 \t\r\n")
        finally:
            os.close(file)
    return ""
