"""In which order the levels of tasks are run, so that a drift of the board falls on all levels alike.

Owns the order and nothing else: what is run is in tasks.py, what of it is left in collecting/resume.py.
Repeats come one after the other, inside each the tasks in the order of their files. "balanced" takes the
levels of one task after the other from the rows of a Williams design, "sequential" leaves them as they
stand, "shuffled" draws all runs of a repeat at random. The seed decides, and nothing else does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from edgebench.prompts.tasks import Task

ORDERS = ("balanced", "sequential", "shuffled")


def williams_rows(levels: Sequence[str], seed: int) -> list[list[str]]:
    """Rows of a Williams design, shuffled by the seed: a Latin square balanced for carry-over.

    Over n rows (2n for an odd number of levels) every level stands in every place, and follows every other
    level, equally often. Source: E. J. Williams, Aust. J. Sci. Res. A 2 (1949) 149-168.

    >>> sorted(sum(williams_rows("AB", 0), []))
    ['A', 'A', 'B', 'B']
    """
    n = len(levels)
    draw = random.Random(seed)
    names = draw.sample(list(levels), n)
    zigzag = [zigzag_place(index, n) for index in range(n)]
    rows = []
    for shift in range(n):
        rows.append([names[(place + shift) % n] for place in zigzag])
    if n % 2:
        rows += [row[::-1] for row in rows]
    draw.shuffle(rows)
    return rows


def zigzag_place(index: int, n: int) -> int:
    """The first row of the design: 0, 1, n - 1, 2, n - 2, …, in which no difference comes twice.

    >>> [zigzag_place(index, 6) for index in range(6)]
    [0, 1, 5, 2, 4, 3]
    """
    if index == 0:
        return 0
    if index % 2:
        return (index + 1) // 2
    return n - index // 2


def level_orders(levels: Sequence[str], order: str, seed: int) -> list[list[str]]:
    """Orders of the levels, to be taken in turn by one task after the other."""
    if order == "balanced" and levels:
        return williams_rows(levels, seed)
    return [list(levels)]


def ordered_cells(
    tasks: Sequence[Task], order: str, seed: int, repeats: int
) -> Iterator[tuple[Task, str, int]]:
    """Yield (task, level, repeat) in the order they are to be run; a level that a task lacks is skipped."""
    levels = list(dict.fromkeys(level for task in tasks for level in task.levels))
    orders = level_orders(levels, order, seed)
    for repeat in range(1, repeats + 1):
        cells: list[tuple[Task, str, int]] = []
        # The next repeat goes on where this one ended: each task meets other rows of the design.
        for index, task in enumerate(tasks, start=(repeat - 1) * len(tasks)):
            row = orders[index % len(orders)]
            cells += [(task, level, repeat) for level in row if level in task.levels]
        if order == "shuffled":
            random.Random(f"{seed} {repeat}").shuffle(cells)
        yield from cells
