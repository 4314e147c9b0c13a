"""Choice models fitted by maximum likelihood: Bradley-Terry strengths, ties, and the effect of the order.

numpy and scipy are imported by the functions that need them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DIVERGED = 15.0  # a log-odds of 3 million to 1: no finite table of verdicts reaches it


@dataclass(frozen=True)
class Fit:
    """A maximum-likelihood fit: coefficients, their covariance (inverse Fisher information),
    log-likelihood.
    """

    coefficients: Floats
    covariance: Floats
    log_likelihood: float


def fit_choice(features: Floats, counts: Floats) -> Fit | None:
    """Fit P(k | g) = exp(x_gk . c) / sum_l exp(x_gl . c) by Newton's method; None where no finite maximum
    exists.

    features: (groups, outcomes, coefficients); counts: (groups, outcomes), fractions allowed (a tie as 1/2
    + 1/2). The log-likelihood is concave, so a zero gradient is the maximum (McFadden 1974, conditional
    logit).
    """
    import numpy as np

    coefficients = np.zeros(features.shape[2])
    trials = counts.sum(axis=1)
    likelihood, share = _choice_likelihood(features, counts, coefficients)
    for _ in range(200):
        gradient = np.einsum("gk,gkc->c", counts - trials[:, None] * share, features)
        mean = np.einsum("gk,gkc->gc", share, features)
        information = np.einsum("g,gk,gkc,gkd->cd", trials, share, features, features)
        information -= np.einsum("g,gc,gd->cd", trials, mean, mean)
        try:
            covariance = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            return None
        if np.abs(gradient).max(initial=0.0) <= 1e-10 * max(1.0, trials.sum()):
            return Fit(coefficients, covariance, float(likelihood))
        step = covariance @ gradient
        # A full Newton step may overshoot far from the maximum: halve it until the likelihood grows.
        for _ in range(60):
            moved, moved_share = _choice_likelihood(features, counts, coefficients + step)
            if moved >= likelihood - 1e-12 * abs(likelihood):
                break
            step = step / 2
        coefficients, likelihood, share = coefficients + step, moved, moved_share
        if not np.isfinite(coefficients).all() or np.abs(coefficients).max(initial=0.0) > DIVERGED:
            return None
    return None


def _choice_likelihood(features: Floats, counts: Floats, coefficients: Floats) -> tuple[float, Floats]:
    """Log-likelihood and the outcome shares (groups, outcomes) at these coefficients."""
    import numpy as np

    utility = features @ coefficients
    utility = utility - utility.max(axis=1, keepdims=True)
    log_share = utility - np.log(np.exp(utility).sum(axis=1, keepdims=True))
    return float((counts * log_share).sum()), np.exp(log_share)


def connection(wins: Floats) -> tuple[str, list[list[int]]]:
    """Can strengths be estimated from wins (n, n)? "ok", "separated" or "disconnected", with the components.

    A finite maximum exists exactly when every player can be reached from every other by a chain of wins
    (Zermelo 1929, Ford 1957), that is, when the graph of wins is strongly connected.
    """
    from scipy.sparse.csgraph import connected_components

    beaten = wins > 0
    for status, kind in (("disconnected", "weak"), ("separated", "strong")):
        count, label = connected_components(beaten, directed=True, connection=kind)
        if count > 1:
            members = [[i for i, of in enumerate(label) if of == part] for part in range(count)]
            return status, sorted(members)
    return "ok", [list(range(len(wins)))]


def bradley_terry(wins: Floats, reference: int, ties: Floats | None = None) -> Fit | None:
    """Strengths b with P(i beats j) = 1 / (1 + exp(b_j - b_i)), b[reference] = 0, from wins (n, n).

    wins[i, j]: how often i beat j, a tie as 1/2 to both. With `ties` (n, n, symmetric; wins then without
    them) it is Davidson's model (1970): P(tie) = v exp((b_i + b_j) / 2) / D, and log v is one more
    coefficient, the last. Coefficients: all players in order, reference included as 0 with zero variance.
    Check `connection` first.
    """
    import numpy as np

    players = len(wins)
    pairs = [(i, j) for i, j in itertools.combinations(range(players), 2)]
    outcomes, width = (2, players) if ties is None else (3, players + 1)
    features, counts = np.zeros((len(pairs), outcomes, width)), np.zeros((len(pairs), outcomes))
    for row, (i, j) in enumerate(pairs):
        features[row, 0, i] = features[row, 1, j] = 1.0
        counts[row, :2] = wins[i, j], wins[j, i]
        if ties is not None:
            features[row, 2, [i, j]], features[row, 2, -1] = 0.5, 1.0
            counts[row, 2] = ties[i, j]
    free = [k for k in range(width) if k != reference]
    fit = fit_choice(features[:, :, free], counts)
    if fit is None:
        return None
    coefficients, covariance = np.zeros(width), np.zeros((width, width))
    coefficients[free] = fit.coefficients
    covariance[np.ix_(free, free)] = fit.covariance
    return Fit(coefficients, covariance, fit.log_likelihood)


def order_effect(first_wins: Floats) -> Fit | None:
    """Bradley-Terry with an order term: logit P(first slot wins) = b_first - b_second + g; g is the last
    coefficient.

    first_wins: (n, n, 2), [i, j] = (times the first slot i won, times the second slot j won), ties as
    halves. Player 0 is the reference and left out of the coefficients. Source: Agresti (2002), section 10.6
    (home advantage).
    """
    import numpy as np

    players = len(first_wins)
    slots = [(i, j) for i, j in itertools.permutations(range(players), 2)]
    features = np.zeros((len(slots), 2, players + 1))
    for row, (i, j) in enumerate(slots):
        features[row, 0, i] = features[row, 1, j] = features[row, 0, -1] = 1.0
    counts = np.array([first_wins[i, j] for i, j in slots], dtype=float)
    return fit_choice(features[:, :, 1:], counts)
