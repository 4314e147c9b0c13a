"""Non-negative least squares on relative errors: which design, which smoothing, which coefficients.

A design's columns are N named ones (the first F of them, a base to lean on, are free), then one or two
sets of B band columns. Neighbouring bands are drawn together, and with a base the other named columns towards
zero, by a penalty whose strength is chosen like the design: by rows whose cell was held out, and if tolerant
the simplest of those that no rows speak against (one standard error). Coefficients are >= 0 (scipy's nnls);
their standard errors are jackknife ones over the folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebench.errors import UserError
from edgebench.forecasting.quantities import LEVELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SMOOTHINGS = (10.0, 0.1, 1e-2, 1e-4)  # per row; the first leaves nearly one straight line
OUTER_FOLDS = 5
NEARLY_BEST = 0.01  # among designs this close, relative, the simplest
LENGTHS_LEAST, LENGTHS_MOST = 4, 40  # of a grid of prompt lengths


@dataclass(frozen=True)
class Design:
    """Columns (cells, k) that coefficients multiply: `named` ones first, of them `free` ones before all."""

    columns: Floats
    named: int
    free: int


@dataclass(frozen=True)
class Problem:
    """Measurements of one quantity, and the designs to choose from, the simplest first."""

    designs: Sequence[Design]
    place: Ints  # (n,): the row of the designs' columns that each measurement is of
    y: Floats  # (n,): the measurements, above 0
    fold: Ints  # (n,)
    tokens: Floats  # (cells,): the tokens that each cell works through
    length: Floats  # (cells,): its prompt tokens
    bands: int  # columns of one set of bands
    tolerant: bool  # the simplest design that no rows speak against, instead of the best


@dataclass(frozen=True)
class Solution:
    """What came of a problem."""

    design: int  # its place among the problem's
    smoothing: float
    coefficients: list[float]
    standard_errors: list[float]
    held_out: Floats  # (n,): predictions by fits that saw neither the row nor its cell
    between_lengths: list[float] | None  # relative errors at lengths that were left out whole, per level


def penalty_rows(columns: Floats, design: Design, y: Floats, tokens: Floats, bands: int) -> Floats:
    """Rows (p, k) that each ask for zero: differences of neighbouring bands in units of a typical rate per
    token; where there is a base to lean on, the size of every other named column, too.
    """
    import numpy as np

    width, rows = columns.shape[1], []
    rate = float(np.median(y / np.maximum(tokens, 1)))
    for start in range(design.named, width, bands):
        for place in range(start, start + bands - 1):
            row = np.zeros(width)
            row[place], row[place + 1] = 1 / rate, -1 / rate
            rows.append(row)
    if design.free:
        for place in range(design.free, design.named):
            row = np.zeros(width)
            row[place] = float(np.median(np.abs(columns[:, place]) / y))
            rows.append(row)
    return np.array(rows)


def solve(blocks: Sequence[Floats], penalty: Floats, scale: Floats) -> Floats:
    """Coefficients (k,) from triangles [W | 1] (m, k + 1) of the rows and penalty rows (p, k)."""
    import numpy as np
    from scipy.optimize import nnls

    asked = np.column_stack([penalty / scale, np.zeros(len(penalty))])
    triangle = np.asarray(np.linalg.qr(np.vstack([*blocks, asked]), mode="r"))
    solved, _ = nnls(triangle[:, :-1], triangle[:, -1], maxiter=50 * triangle.shape[1])
    return np.asarray(solved / scale)


def cross_solve(
    columns: Floats, y: Floats, fold: Ints, penalties: Sequence[Floats]
) -> list[tuple[Floats, list[Floats], Floats]]:
    """Per penalty: coefficients on all rows, those without each fold, and held-out predictions (n,).

    Each row is divided by its own value, so squared errors are relative ones. Rows are reduced to a triangle
    per fold once; leaving out a fold is leaving out its triangle.
    """
    import numpy as np

    weighted = columns / y[:, None]
    scale = np.sqrt((weighted**2).mean(axis=0))
    scale[scale == 0] = scale[scale > 0].min() if (scale > 0).any() else 1.0
    full = np.column_stack([weighted / scale, np.ones(len(y))])
    folds = np.unique(fold)
    blocks = [np.asarray(np.linalg.qr(full[fold == place], mode="r")) for place in folds]
    results = []
    for penalty in penalties:
        without = [solve(blocks[:i] + blocks[i + 1 :], penalty, scale) for i in range(len(blocks))]
        held_out = np.empty_like(y)
        for place, coefficients in zip(folds, without, strict=True):
            held_out[fold == place] = columns[fold == place] @ coefficients
        results.append((solve(blocks, penalty, scale), without, held_out))
    return results


def choose(problem: Problem, rows: Ints, y: Floats, fold: Ints) -> dict[str, Any]:
    """The best design and smoothing for some measurements, rows (n,) of the designs' columns."""
    import numpy as np

    tried = []
    for number, design in enumerate(problem.designs):
        columns = design.columns[rows]
        penalty = penalty_rows(columns, design, y, problem.tokens[rows], problem.bands)
        penalties = [math.sqrt(smoothing * len(y)) * penalty for smoothing in SMOOTHINGS]
        found = cross_solve(columns, y, fold, penalties)
        for smoothing, rows_asked, (solved, without, held_out) in zip(
            SMOOTHINGS, penalties, found, strict=True
        ):
            choice = {"design": number, "smoothing": smoothing, "penalty": rows_asked}
            choice |= {"solved": solved, "without": without}
            tried.append((np.abs(held_out / y - 1), choice))
    best = min((errors for errors, _ in tried), key=np.mean)
    # Few runs and a base to lean on: every choice is within a standard error, only the best will do.
    return next(
        c for errors, c in tried if errors is best or (problem.tolerant and no_worse(errors, best, fold))
    )


def no_worse(errors: Floats, best: Floats, fold: Ints) -> bool:
    """Whether errors (n,) exceed the best ones by no more than their standard error over folds, or 1 %."""
    import numpy as np

    more = errors - best
    by_fold = [float(more[fold == place].mean()) for place in np.unique(fold)]
    allowed = np.std(by_fold, ddof=1) / math.sqrt(len(by_fold)) if len(by_fold) > 1 else 0.0
    return bool(more.mean() <= max(float(allowed), NEARLY_BEST * float(best.mean())))


def between_lengths(columns: Floats, y: Floats, length: Floats, penalty: Floats) -> list[float] | None:
    """Relative error at a prompt length that was not measured, from leaving out each inner length; per level.

    None where lengths are no grid: there each held-out row was such a length already.
    """
    import numpy as np

    lengths, place = np.unique(length, return_inverse=True)
    if not LENGTHS_LEAST <= len(lengths) <= LENGTHS_MOST:
        return None
    ((_, _, held_out),) = cross_solve(columns, y, place, [penalty])
    inner = (place > 0) & (place < len(lengths) - 1)
    off = np.abs(y / np.maximum(held_out, 1e-12) - 1)[inner]
    return [float(np.quantile(off, level)) for level in LEVELS]


def solve_problem(problem: Problem) -> Solution:
    """Choose on all rows; and again without each outer fold, for held-out predictions that are honest.

    A choice made by the errors of the same rows would make them look smaller than those of a new cell.
    UserError where no fit comes of it.
    """
    try:
        return _solve_problem(problem)
    except ImportError as exc:
        raise UserError(f"{exc}; run ./run_all.sh --setup") from exc
    except (ValueError, IndexError, RuntimeError) as exc:  # of nnls and of matrices without a solution
        raise UserError(f"no fit came of it ({exc!r})") from exc


def _solve_problem(problem: Problem) -> Solution:
    """solve_problem, with the errors of its libraries."""
    import numpy as np

    rows, y, fold = problem.place, problem.y, problem.fold
    choice = choose(problem, rows, y, fold)
    held_out, outer = np.empty_like(y), fold % OUTER_FOLDS
    for place in np.unique(outer):
        test = outer == place
        inner = choose(problem, rows[~test], y[~test], fold[~test]) if np.ptp(fold[~test]) else choice
        held_out[test] = problem.designs[inner["design"]].columns[rows[test]] @ inner["solved"]
    columns, parts = problem.designs[choice["design"]].columns[rows], np.array(choice["without"])
    errors = np.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))
    return Solution(
        design=choice["design"],
        smoothing=choice["smoothing"],
        coefficients=choice["solved"].tolist(),
        standard_errors=errors.tolist(),
        held_out=held_out,
        between_lengths=between_lengths(columns, y, problem.length[rows], choice["penalty"]),
    )
