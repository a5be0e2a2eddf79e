"""Weights that prepare for the worst mixture of groups: spectral risks (Prospect, Mehta et al. 2023, arXiv 2310.13863).

    q* = argmax over q in P(σ) of  Σ qᵢ·ℓᵢ − ν·n·‖q − 1/n‖²

P(σ) is the permutahedron of the spectrum σ (ascending, summing to one): all mixtures of its orderings. Without the
shift cost (ν = 0) the largest loss gets the largest σ. With it, q is the projection of 1/n + ℓ/(2νn) onto P(σ), found
by isotonic regression after a sort: O(n log n). The constant ν·n is that of the README of `ronakdm/prospect`, where it
stands for the χ² divergence; its code takes ½·ν·n instead, and gets with ν what we get with a shift cost of ν/2. Equal
losses get equal weights here, with ν = 0, too, where the code takes them in the order of a sort. Legend: n groups.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]


def spectrum(kind: str, n: int, parameter: float) -> F64:
    """[n] ascending σ: `cvar` (1/(α·n) on the top α·n), `extremile` (r), `esrm` (ρ). Raises Unsuitable."""
    grid = np.arange(n + 1) / n
    if kind == "cvar" and 0 < parameter <= 1:
        mass = np.clip(grid - (1 - parameter), 0, None) / parameter
    elif kind == "extremile" and parameter >= 1:
        mass = grid**parameter
    elif kind == "esrm" and parameter > 0:
        mass = np.expm1(parameter * grid) / np.expm1(parameter)
    else:
        raise Unsuitable(f"no spectrum {kind!r} with parameter {parameter}; cvar takes a share, extremile 1 or more")
    return np.diff(mass)


def spectral_weights(losses: Sequence[float], sigma: F64, shift_cost: float) -> F64:
    """[n] weights q*, summing to one; equal losses get equal weights. Raises Unsuitable unless losses are finite."""
    from scipy.optimize import isotonic_regression

    loss = np.asarray(losses, np.float64)
    if not np.isfinite(loss).all():
        raise Unsuitable("losses must be finite")
    n = len(loss)
    order = np.argsort(loss, kind="stable")
    ranked = np.sort(sigma)
    if shift_cost == 0:
        q = ranked.copy()
    else:
        z = 1 / n + loss[order] / (2 * shift_cost * n)
        q = z - np.asarray(isotonic_regression(z - ranked, increasing=True).x)
    for value in np.unique(loss[order]):
        q[loss[order] == value] = q[loss[order] == value].mean()
    out = np.empty(n)
    out[order] = q
    out = np.clip(out, 0, None)
    return np.asarray(out / out.sum(), np.float64)
