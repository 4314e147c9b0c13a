"""Non-negative least squares on relative errors: which design, which smoothing, which coefficients.

A design's columns are N named ones (the first F of them, a base to lean on, are free), then one or two
sets of B band columns. Neighbouring bands are drawn together, and with a base the other named columns towards
zero, by a penalty whose strength is chosen like the design: by rows whose cell was held out, and if tolerant
the simplest of those that are nearly the best. Rows far off count less (Huber's weights). Coefficients are
>= 0 (scipy's nnls); their standard errors are jackknife ones over the folds.

Quick, because a fit without a fold is the sum of all rows' products less the fold's: each design is
multiplied out once, whatever the number of folds and penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.forecasting.quantities import LEVELS
from edgebench.shell.calls import as_called

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMOOTHINGS = (1e3, 10.0, 0.1, 1e-2, 1e-4)  # per row; the first leaves nearly one straight line
NEARLY_BEST = 0.01  # among designs this close, relative, the simplest
NO_DIFFERENCE = 1e-5  # of relative errors: no clock tells it
CLIP = 5.0  # times the best choice's median error: no row counts with more
HUBER = 3.0  # times the standard deviation, from where on an error counts less
GOOD = 1.5  # designs whose error is within this factor of the best
LENGTHS_LEAST, LENGTHS_MOST = 4, 40  # of a grid of prompt lengths
RIDGE = 1e-13  # of the mean square of a column: keeps the triangle real, changes no figure


@dataclass(frozen=True)
class Design:
    """Columns (cells, k) that coefficients multiply: `named` ones first, of them `free` ones before all."""

    columns: Floats
    named: int
    free: int
    pulled: tuple[int, ...] = ()  # columns drawn towards zero as if one more row had asked for it


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
    tolerant: bool  # the simplest design that is nearly the best, instead of the best


@dataclass(frozen=True)
class Solution:
    """What came of a problem."""

    design: int  # its place among the problem's
    smoothing: float
    coefficients: list[float]
    standard_errors: list[float]
    held_out: Floats  # (n,): predictions by fits, and a choice, that saw neither the row nor its cell
    between_lengths: list[float] | None  # relative errors at lengths that were left out whole, per level


@dataclass(frozen=True)
class Choice:
    """A design with a smoothing, and what it says of rows it has not seen."""

    design: int
    smoothing: float
    solved: Floats  # (k,): on all rows
    without: Floats  # (folds, k): without each fold
    held_out: Floats  # (n,)


def penalty_rows(columns: Floats, design: Design, y: Floats, tokens: Floats, bands: int) -> Floats:
    """Rows (p, k) that each ask for zero: differences of neighbouring bands in units of a typical rate per
    token; where there is a base to lean on, the size of every other named column, too.
    """
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
    return np.array(rows).reshape(-1, width)


def solve_products(products: Floats) -> Floats:
    """Coefficients (m, k) >= 0 of least squares, from the products (m, k + 1, k + 1) of [columns | aim]."""
    from scipy.optimize import nnls

    size = products.shape[1] - 1
    diagonal = np.einsum("mii->mi", products)
    floor = RIDGE * np.maximum(diagonal[:, :size].max(axis=1, keepdims=True), 1e-300)
    diagonal[:, :size] += floor
    diagonal[:, size:] += 1e-9 * diagonal[:, size:]
    triangles = np.linalg.cholesky(products).transpose(0, 2, 1)
    return np.array(
        [nnls(one[:size, :size], one[:size, size], maxiter=50 * (size + 1))[0] for one in triangles]
    )


def cross_solve(
    columns: Floats,
    y: Floats,
    fold: Ints,
    penalty: Floats,
    strengths: Sequence[float],
    weight: Floats | None = None,
    pulled: Sequence[int] = (),
) -> list[tuple[Floats, Floats, Floats]]:
    """Per strength of the penalty: coefficients (k,) on all rows, those (folds, k) without each fold, and
    held-out predictions (n,). `fold` (n,) numbers the folds from 0 without a gap.

    Each row is divided by its own value, so squared errors are relative ones.
    """
    weighted = columns / y[:, None]
    scale = np.sqrt((weighted**2).mean(axis=0))
    scale[scale == 0] = scale[scale > 0].min() if (scale > 0).any() else 1.0
    full = np.column_stack([weighted / scale, np.ones(len(y))])
    if weight is not None:
        full *= np.sqrt(weight)[:, None]
    folds, size = int(fold.max()) + 1, columns.shape[1]
    own = np.stack([full[fold == place].T @ full[fold == place] for place in range(folds)])
    every = own.sum(axis=0)
    # The last one is of all rows; of one fold alone nothing can be left out.
    products = np.concatenate([every - own if folds > 1 else own, every[None]])
    asked = np.zeros((size + 1, size + 1))
    asked[:size, :size] = (penalty / scale).T @ (penalty / scale)
    # The typical share of a column where it is not zero: one row's worth of pull.
    for place in pulled:
        there = weighted[:, place] != 0
        share = float(np.median(np.abs(weighted[there, place]))) if there.any() else 1.0
        products[:, place, place] += (share / scale[place]) ** 2
    results = []
    for strength in strengths:
        solved = solve_products(products + strength * len(y) * asked) / scale
        held_out = np.einsum("nk,nk->n", columns, solved[fold])
        results.append((solved[-1], solved[:-1], held_out))
    return results


def try_all(problem: Problem, designs: Sequence[int], weight: Floats | None = None) -> list[Choice]:
    """These designs with every smoothing, the simplest first; rows (n,) count by their weight."""
    tried = []
    for number in designs:
        design = problem.designs[number]
        columns = design.columns[problem.place]
        penalty = penalty_rows(columns, design, problem.y, problem.tokens[problem.place], problem.bands)
        found = cross_solve(columns, problem.y, problem.fold, penalty, SMOOTHINGS, weight, design.pulled)
        tried += [Choice(number, s, *one) for s, one in zip(SMOOTHINGS, found, strict=True)]
    return tried


def errors_of(tried: Sequence[Choice], y: Floats) -> Floats:
    """Relative errors (choices, n) of held-out rows."""
    errors = np.abs(np.array([one.held_out for one in tried]) / y - 1)
    if not np.isfinite(errors).all():
        raise ValueError("measurements or columns that are not finite")
    return np.asarray(errors)


def try_again_robustly(problem: Problem, tried: list[Choice]) -> list[Choice]:
    """The designs that did well, again, with less weight on rows that the best of them is far off.

    One run in a hundred waits for something else on the board; its square would bend all coefficients
    (Huber's weights, from errors of rows that were held out).
    """
    errors = errors_of(tried, problem.y)
    off = errors[choose(errors, problem.tolerant)]
    limit = HUBER * 1.4826 * float(np.median(off))
    if limit <= NO_DIFFERENCE or not (off > limit).any():
        return tried
    weight = np.minimum(1.0, limit / np.maximum(off, limit))
    score = np.minimum(errors, limit).mean(axis=1)
    good = {one.design for one, mean in zip(tried, score, strict=True) if mean <= GOOD * score.min()}
    return try_all(problem, sorted(good), weight)


def choose(errors: Floats, tolerant: bool) -> int:
    """The row of errors (choices, n), all >= 0, whose mean is least; if tolerant, the first that is no worse.

    No worse: by no more than 1 %. A row counts with at most CLIP times the best choice's median, because one
    length far from the others, which no choice can know, must not decide for all.
    """
    if not tolerant:  # Few runs and a base to lean on: no error is far from the others.
        return int(np.argmin(errors.mean(axis=1)))
    limit = CLIP * float(np.median(errors, axis=1).min())
    score = np.minimum(errors, limit).mean(axis=1) if limit > 0 else errors.mean(axis=1)
    return int(np.flatnonzero(score <= (1 + NEARLY_BEST) * score.min() + NO_DIFFERENCE)[0])


def between_lengths(
    columns: Floats, y: Floats, length: Floats, penalty: Floats, smoothing: float
) -> list[float] | None:
    """Relative error at a prompt length that was not measured, from leaving out each inner length; per level.

    None where lengths are no grid: there each held-out row was such a length already.
    """
    lengths, place = np.unique(length, return_inverse=True)
    if not LENGTHS_LEAST <= len(lengths) <= LENGTHS_MOST:
        return None
    ((_, _, held_out),) = cross_solve(columns, y, place, penalty, [smoothing])
    inner = (place > 0) & (place < len(lengths) - 1)
    off = np.abs(y / np.maximum(held_out, 1e-12) - 1)[inner]
    return [float(np.quantile(off, level)) for level in LEVELS]


def solve_problem(problem: Problem) -> Solution:
    """Choose on all rows; and for each fold by the others, for held-out predictions that are honest.

    A choice made by the errors of the same rows would make them look smaller than those of a new cell.
    UserError where no fit comes of it.
    """
    try:
        return _solve_problem(problem)
    except ImportError as exc:
        raise UserError(f"{exc}; {as_called('run ./run_all.sh --setup')}") from exc
    except (ValueError, IndexError, RuntimeError, np.linalg.LinAlgError) as exc:
        raise UserError(f"no fit came of it ({exc!r})") from exc


def _solve_problem(problem: Problem) -> Solution:
    """solve_problem, with the errors of its libraries."""
    y, (_, fold) = problem.y, np.unique(problem.fold, return_inverse=True)
    problem = replace(problem, fold=fold)  # numbered without a gap
    tried = try_again_robustly(problem, try_all(problem, range(len(problem.designs))))
    errors = errors_of(tried, y)
    choice = tried[choose(errors, problem.tolerant)]
    held_out = choice.held_out.copy()
    for place in range(int(fold.max()) + 1):
        mine = fold == place
        if not mine.all():
            held_out[mine] = tried[choose(errors[:, ~mine], problem.tolerant)].held_out[mine]
    design, parts = problem.designs[choice.design], choice.without
    columns = design.columns[problem.place]
    penalty = penalty_rows(columns, design, y, problem.tokens[problem.place], problem.bands)
    jackknife = np.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))
    return Solution(
        design=choice.design,
        smoothing=choice.smoothing,
        coefficients=choice.solved.tolist(),
        standard_errors=jackknife.tolist(),
        held_out=held_out,
        between_lengths=between_lengths(columns, y, problem.length[problem.place], penalty, choice.smoothing),
    )
