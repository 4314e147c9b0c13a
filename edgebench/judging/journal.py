"""The judge's memory: every reply, on the disk before it counts, so that nothing is paid for twice.

Owns what is judged and what is lacking. The form of a line stands in records/judgment.py.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from edgebench.errors import UserError
from edgebench.judging.games import Game, journal_line
from edgebench.judging.soft import read_line
from edgebench.records.jsonl import append_whole, heal_tail, hold, reason_of, utc_now
from edgebench.records.judgment import JournalLine, as_line, read_journal
from edgebench.shell.calls import as_called
from edgebench.stats.preference import Chances

PRIVATE = (
    stat.S_IRUSR | stat.S_IWUSR
)  # answers and prompts may be anybody's: the owner reads them, nobody else


class JournalError(UserError):
    """The journal cannot be written: another one writes it, no room, no permission."""


class Journal:
    """The lines so far, and by key what they say. It only ever grows: what is in it cannot be lost."""

    def __init__(self, path: Path) -> None:
        """An empty memory; `load` fills it from the file."""
        self.path = path
        self.lines: list[JournalLine] = []
        self.side: dict[str, str] = {}  # left, right, tie
        self.chances: dict[str, Chances] = {}  # of the verdicts by probability
        self.replies: Counter[str] = Counter()  # how many have been paid for
        self._waiting: deque[JournalLine] = deque()
        self._lock = threading.Lock()

    # --- The file

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the file for this process alone, healed of a line that a kill has torn, and load it.

        A file that is still empty at the end is taken away again.
        """
        file = self._open()
        with file:
            try:
                self.load()
                yield
            finally:
                if not self.lines:
                    with suppress(OSError):
                        self.path.unlink()

    def _open(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            file = os.fdopen(os.open(self.path, how, PRIVATE), "ab", buffering=0)
            try:
                hold(file)
                with suppress(OSError):  # another's file, or a disk that knows no permissions
                    self.path.chmod(PRIVATE)  # one of before, too
                heal_tail(self.path)
            except BaseException:
                file.close()
                raise
        except BlockingIOError:
            judge = as_called("judge_pairs.py")
            raise JournalError(f"another {judge} writes {self.path}: wait, or change --out") from None
        except OSError as problem:
            raise JournalError(f"cannot write the journal: {problem} (--out)") from problem
        return file

    def load(self) -> None:
        """Read the file as it is now."""
        self.lines, self.side, self.chances, self.replies = [], {}, {}, Counter()
        if self.path.exists():
            try:
                self._note([line for line in read_journal(self.path).lines if line.key])
            except OSError as problem:
                raise JournalError(f"cannot read the journal {self.path}: {reason_of(problem)}") from problem

    def append(self, *lines: JournalLine) -> None:
        """Add lines; they are on the disk before this returns. JournalError on a full one.

        Whoever gets the lock writes and syncs all that waits: of 64 workers few need to sync.
        """
        self._waiting.extend(lines)
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not batch:
                return
            try:
                append_whole(self.path, b"".join(map(as_line, batch)))
            except OSError as problem:
                why = f"{reason_of(problem)}; make room, then run again (--out)"
                raise JournalError(f"cannot write the journal {self.path}: {why}") from problem
            self._note(batch)

    def _note(self, lines: Sequence[JournalLine]) -> None:
        self.lines += lines
        for line in lines:
            if line.is_reply:
                self.replies[line.key] += bool(line.attempts)
                self.side.pop(line.key, None)
                self.chances.pop(line.key, None)
            if line.winner_side:
                self.side[line.key] = line.winner_side
            if line.chances:
                self.chances[line.key] = line.chances

    # --- What it says

    def lacking(self, games: Sequence[Game], reasks: int) -> list[Game]:
        """The games to ask: without a verdict, and with no more unreadable replies than `reasks`."""
        return [
            game
            for game in games
            if game.order and game.key not in self.side and self.replies[game.key] <= reasks
        ]

    def sent_today(self) -> int:
        """HTTP requests of this UTC day."""
        today = [line for line in self.lines if str(line.asked_at).startswith(utc_now()[:10])]
        return sum(line.attempts or 0 for line in today)

    # --- What it adds by itself

    def reread(self, parse: Callable[[str, bool], str | None]) -> None:
        """Read all stored replies anew: of each key the first that says something counts, where that is news.

        Where the verdict is no longer what the journal says, a line that says so is added.
        """
        found: dict[str, JournalLine] = {}
        now: dict[str, tuple[Any, ...]] = {}
        for line in self.lines:
            if line.raw_reply is None:
                continue
            now[line.key] = line.verdict, line.winner_side, line.chances
            if line.key not in found or not found[line.key].verdict:
                found[line.key] = replace(read_line(line, parse), attempts=0)
        said = {key: (line.verdict, line.winner_side, line.chances) for key, line in found.items()}
        self.append(*(line for key, line in found.items() if said[key] != now[key]))

    def settle(self, games: Sequence[Game], model: str) -> None:
        """Add what rules decide, and anew what a later line of its game hides: an answer changed back."""
        last = {line.game: line.key for line in self.lines}
        known = {line.key: line for line in self.lines if line.key in self.side}
        for game in games:
            rule, side = game.comparison.rule or (None, "")
            if side and game.key not in known:
                line = journal_line(game, model)
                known[game.key] = replace(line, rule=rule, winner_side=side, asked_at=utc_now())
        counting = [known[game.key] for game in games if game.key in known]
        late = [line for line in counting if last.get(line.game) != line.key]
        self.append(*(replace(line, attempts=0) for line in late))
