"""A module for the tests of the lifeline, run as a room."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    what = sys.argv[1:]
    if what == ["touch"]:
        Path("ran").touch()
    elif what == ["environment"]:
        print({"ONES_OWN": 1, **os.environ})
    else:
        if what:
            from edgebench.shell import lifeline

            lifeline.start(["sleep", "1000"])
        reading, writing = os.pipe()
        print("runs", flush=True)
        os.read(reading, 1)  # nobody closes the other end: until we are killed
