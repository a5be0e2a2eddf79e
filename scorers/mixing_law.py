"""Data Mixing Optimization (arXiv 2508.11953): a scaling law for each domain's loss, and the weights that minimise
their sum.

    Lᵢ(w) = Cᵢ·(wᵢ·N + γᵢ·((1 − wᵢ)·N)^αᵢ)^(−βᵢ) + Eᵢ

N tokens in all; D tokens of other domains count as γ·D^α tokens of domain i, never more than D. The published units
are millions of tokens. The fit uses 4·K + 1 short runs: an equal mix, and for each domain one run with its rows scaled
by 1/3, 1/2, 2 and 3. Departure: all five numbers of a domain are fitted together (Huber loss on residuals relative to
the mean loss, δ = 0.001, several starts) where the paper fits β first and the rest by trust-constr; the objective's
details there are UNCONFIRMED. Caveats from the field: no mixing rule beats stratified sampling consistently (Aioli),
so compare with `proportional` and `uniform`. Legend: K domains, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F64 = NDArray[np.float64]
SCALES = (1 / 3, 1 / 2, 2.0, 3.0)
HUBER = 1e-3


@dataclass(frozen=True)
class Law:
    """[K] parameters of each domain's loss."""

    beta: F64
    c: F64
    gamma: F64
    alpha: F64
    e: F64

    def losses(self, weights: F64, n: float) -> F64:
        """[K] losses of a mixture of n tokens."""
        return self.at(weights * n, (1 - weights) * n)

    def at(self, own: F64, others: F64) -> F64:
        """[K] losses with [K] own and [K] other tokens."""
        effective = np.maximum(own + self.gamma * np.maximum(others, 0) ** self.alpha, 1e-12)
        return self.c * effective**-self.beta + self.e


def designs(k: int, rows: int) -> list[list[int]]:
    """[4K + 1][K] rows of each domain in each run: the equal mix first."""
    runs = [[rows] * k]
    for i in range(k):
        runs += [[max(1, round(rows * scale)) if j == i else rows for j in range(k)] for scale in SCALES]
    return runs


def best_weights(law: Law, n: float) -> F64:
    """[K] weights on the simplex with the least sum of losses (SLSQP from the equal mix; the sum is convex)."""
    from scipy.optimize import minimize

    k = len(law.beta)
    floor = 1e-6
    result = minimize(
        lambda w: float(law.losses(np.asarray(w), n).sum()),
        np.full(k, 1 / k),
        method="SLSQP",
        bounds=[(floor, 1.0)] * k,
        constraints=[{"type": "eq", "fun": lambda w: float(np.sum(w)) - 1}],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.clip(np.asarray(result.x, np.float64), 0, None)
    return np.asarray(weights / weights.sum(), np.float64)


def fit(own: F64, others: F64, losses: F64) -> Law:
    """The law of [R, K] losses of R runs with [R, K] own and other tokens. Deterministic.

    Raises Unsuitable for a loss that is not finite and positive (a run that diverged), ValueError for fewer than five
    runs.
    """
    if len(losses) < 5:
        raise ValueError(f"five numbers for each domain need at least five runs, not {len(losses)}")
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        raise Unsuitable("losses must be finite and positive")
    rows = [_fit_one(own[:, i], others[:, i], losses[:, i]) for i in range(losses.shape[1])]
    beta, c, gamma, alpha, e = np.array(rows).T
    return Law(beta, c, gamma, alpha, e)


def _fit_one(own: F64, others: F64, loss: F64) -> Sequence[float]:
    """(β, C, γ, α, E) of one domain. C and E are linear, so only (β, γ, α) are searched."""
    from scipy.optimize import minimize, nnls

    scale = float(loss.mean())
    largest = float(others.max())

    def linear(p: Sequence[float]) -> tuple[F64, F64]:
        beta, share, alpha = p
        gamma = share * largest ** (1 - alpha) if largest > 0 else 0.0  # share ≤ 1: γ·D^α ≤ D at the largest D
        effective = np.maximum(own + gamma * others**alpha, 1e-12)
        columns = np.stack([effective**-beta, np.ones(len(loss))], axis=1)
        return columns, np.asarray(nnls(columns, loss)[0])

    def objective(p: Sequence[float]) -> float:
        columns, (c, e) = linear(p)
        residual = np.abs(columns @ np.array([c, e]) - loss) / scale
        return float(np.where(residual < HUBER, residual**2 / 2, HUBER * (residual - HUBER / 2)).sum())

    starts = [(b, s, a) for b in (0.05, 0.3, 0.8) for s in (0.05, 0.5) for a in (0.5, 0.9)]
    bounds = [(1e-3, 3.0), (0.0, 1.0), (0.05, 1.0)]
    options = {"xatol": 1e-8, "fatol": 1e-16, "maxiter": 4000}
    results = [minimize(objective, s, method="Nelder-Mead", bounds=bounds, options=options) for s in starts]
    best = min(results, key=lambda r: (float(r.fun), tuple(r.x)))
    beta, share, alpha = (float(x) for x in best.x)
    _, (c, e) = linear(best.x)
    gamma = share * largest ** (1 - alpha) if largest > 0 else 0.0
    return beta, float(c), gamma, alpha, float(e)
