"""How far a campaign is: a bar on a terminal, a steady line in a log; and the way to say a line on stderr."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
from typing import Any

LINE_EVERY_S = 30.0  # in a log
CONDUCTED = "EDGEBENCH_CONDUCTED"  # environment: what started this command tells the user how to go on


class Progress:
    """Counts finished runs. Seconds are those of the monotonic clock."""

    def __init__(self, total: int, unit: str = "run") -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.first_done_s: float | None = None
        self.told_s: float | None = None
        self.bar: Any = None
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                # tqdm's own estimate would count the loading before the first run into every run.
                form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
                self.bar = tqdm(total=total, unit=unit, dynamic_ncols=True, bar_format=form)

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the end at the pace since the first run was done; None until a second one is.

        What came before the first run's end is no measure: loading, warming up and the idle baseline are in
        it.
        """
        if self.first_done_s is None or self.done < 2:
            return None
        return (now_s - self.first_done_s) / (self.done - 1) * (self.total - self.done)

    def step(self, text: str) -> None:
        """One run is done; `text` says which."""
        self.done += 1
        now_s = time.monotonic()
        if self.first_done_s is None:
            self.first_done_s = now_s
        left_s = self.left_s(now_s)
        left = "" if left_s is None else f", {datetime.timedelta(seconds=round(left_s))} left"
        if self.bar is not None:
            self.bar.set_postfix_str(text + left, refresh=False)
            self.bar.update()
            if self.done == self.total:
                self.bar.close()
        elif self.told_s is None or now_s - self.told_s >= LINE_EVERY_S or self.done == self.total:
            say(f"{self.done}/{self.total} {self.unit}s, {text}{left}")
            self.told_s = now_s


def say(text: str) -> None:
    """A line on stderr, above the bar. A terminal that has gone away must not end the clean-up."""
    bars = sys.modules.get("tqdm")
    with contextlib.suppress(OSError):
        if bars:
            bars.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def advise(text: str) -> None:
    """How to go on, on stderr; not where the command that started this one says it, for the whole."""
    if CONDUCTED not in os.environ:
        say(text)
