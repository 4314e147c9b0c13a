#!/usr/bin/env python3
"""Non-negative least squares on relative errors: which design, which smoothing, which coefficients.

One job per line, one answer per line.

stdin   {"designs": [{"columns": [[..] ..], "named": N, "free": F} ..], "place": [row of columns per
         measurement ..], "y": [..], "fold": [..], "tokens": [..], "length": [..], "bands": B, "tolerant": ..}
stdout  {"design", "smoothing", "coefficients", "standard_errors", "held_out", "between_lengths"}

A design's columns are N named ones (the first F of them, a base to lean on, are free), then one or two
sets of B band columns. Neighbouring bands are drawn together, and with a base the other named columns towards
zero, by a penalty whose strength is chosen like the design: by rows whose cell was held out, and if tolerant
the simplest of those that no rows speak against (one standard error). Coefficients are >= 0 (scipy's nnls);
their standard errors are jackknife ones over the folds.

Example:
    python companions/solve_metrics.py < jobs.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEVELS = (0.5, 0.8, 0.9, 0.95)
SMOOTHINGS = (10.0, 0.1, 1e-2, 1e-4)  # per row; the first leaves nearly one straight line
OUTER_FOLDS = 5
NEARLY_BEST = 0.01  # among designs this close, relative, the simplest
LENGTHS_LEAST, LENGTHS_MOST = 4, 40  # of a grid of prompt lengths


def penalty_rows(columns: Floats, design: Mapping[str, Any], y: Floats, tokens: Floats, bands: int) -> Floats:
    """Rows (p, k) that each ask for zero: differences of neighbouring bands in units of a typical rate per
    token; where there is a base to lean on, the size of every other named column, too.
    """
    import numpy as np

    width, rows = columns.shape[1], []
    rate = float(np.median(y / np.maximum(tokens, 1)))
    for start in range(design["named"], width, bands):
        for place in range(start, start + bands - 1):
            row = np.zeros(width)
            row[place], row[place + 1] = 1 / rate, -1 / rate
            rows.append(row)
    if design["free"]:
        for place in range(design["free"], design["named"]):
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


def choose(job: Mapping[str, Any], rows: Ints, y: Floats, fold: Ints) -> dict[str, Any]:
    """The best design and smoothing for some measurements, rows (n,) of the designs' columns."""
    import numpy as np

    tried = []
    for number, design in enumerate(job["designs"]):
        columns = design["array"][rows]
        penalty = penalty_rows(columns, design, y, job["tokens"][rows], job["bands"])
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
        c for errors, c in tried if errors is best or (job["tolerant"] and no_worse(errors, best, fold))
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


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """Choose on all rows; and again without each outer fold, for held-out predictions that are honest.

    A choice made by the errors of the same rows would make them look smaller than those of a new cell.
    """
    import numpy as np

    rows, y, fold = np.array(job["place"]), np.array(job["y"], float), np.array(job["fold"])
    job["tokens"] = np.array(job["tokens"], float)
    for design in job["designs"]:
        design["array"] = np.array(design["columns"], float)
    choice = choose(job, rows, y, fold)
    held_out, outer = np.empty_like(y), fold % OUTER_FOLDS
    for place in np.unique(outer):
        test = outer == place
        inner = choose(job, rows[~test], y[~test], fold[~test]) if np.ptp(fold[~test]) else choice
        held_out[test] = job["designs"][inner["design"]]["array"][rows[test]] @ inner["solved"]
    columns, parts = job["designs"][choice["design"]]["array"][rows], np.array(choice["without"])
    errors = np.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))
    length = np.array(job["length"])[rows]
    return {
        "design": choice["design"],
        "smoothing": choice["smoothing"],
        "coefficients": choice["solved"].tolist(),
        "standard_errors": errors.tolist(),
        "held_out": held_out.tolist(),
        "between_lengths": between_lengths(columns, y, length, choice["penalty"]),
    }


def answer(line: str) -> dict[str, Any]:
    """Answer one line; a job that cannot be done is an answer, too."""
    try:
        return do_job(json.loads(line))
    except ImportError as exc:
        return {"error": f"{exc}; run ./run_all.sh --setup"}
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as exc:
        return {"error": f"no fit came of it ({exc!r})"}


def build_parser() -> argparse.ArgumentParser:
    """The only flag is --help: jobs come on stdin."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer jobs until stdin ends."""
    build_parser().parse_args(argv)
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
