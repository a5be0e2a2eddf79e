"""Rules from optimal transport between a target and the pool: TSDS and unbalanced Sinkhorn.

TSDS (Liu et al., NeurIPS 2024, `ZifanL/TSDS`) minimises α/C·Σ γ_ij d_ij + (1 − α)·G(γ) over plans γ that give every
target point the mass 1/M, where G caps the mass of single candidates:

    uniform:  G = M·max_ij |γ_ij − 1/(MN)|                   → each target spreads evenly over its K nearest candidates,
                                                               the same K for all targets
    kde:      G = M·max_ij ρ_i·|γ_ij − 1/(ρ_i·M·Σ1/ρ)|       → it fills its nearest in order, each up to u/ρ_i, so that
                                                               near-duplicates share

ρ is a kernel density max(0, 1 − d²/σ²) over the pool. With the caps given, the best plan fills from near to far, so the
optimum is a search over one number, which is what we do; the released code's own stopping was not compared
(UNCONFIRMED). α = 0.5, C = 5, σ = 0.75 and at most 5,000 neighbours are the release's settings. Its sampling is
multinomial with replacement; ours draws without.

Unbalanced OT (`uot`, needs the extra `ot`): cost (1 − S)/2, POT's `sinkhorn_unbalanced` with KL, reg 0.01, reg_m (∞,
1e-4); candidates are ranked by the mass that they receive. Cost: TSDS O(M·N·D) for the neighbours, then O(M·K·log K);
UOT O(M·N) for each iteration. Legend: M targets, N candidates, K neighbours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import MissingPackage, Unsuitable

F64 = NDArray[np.float64]
Array = NDArray[np.floating[Any]]


def knn_uniform(distances: Array, alpha: float = 0.5, scale: float = 5.0, most: int = 5000) -> F64:
    """[M, N] distances of targets to candidates → [N] probabilities. Raises Unsuitable without a neighbour."""
    targets, size = distances.shape
    near, ranked = _nearest(distances, most)
    k = np.arange(1, ranked.shape[1] + 1)
    cost = alpha / scale * (ranked.cumsum(axis=1) / k).mean(axis=0) + (1 - alpha) * (1 / k - 1 / size)
    best = int(cost.argmin()) + 1
    return np.asarray(np.bincount(near[:, :best].ravel(), minlength=size) / (targets * best))


def _nearest(distances: Array, most: int) -> tuple[NDArray[np.int64], F64]:
    """[M, N] distances → [M, K] candidates from near to far, at most so many, and [M, K] their distances."""
    if most < 1:
        raise Unsuitable(f"TSDS looks at one neighbour or more, not at {most}")
    near = np.argsort(distances, axis=1, kind="stable")[:, :most]
    return near, np.take_along_axis(distances.astype(np.float64), near, axis=1)


def density(rows: Array, sigma: float = 0.75, sample: int = 1000, seed: int = 0) -> F64:
    """[N] Σ max(0, 1 − d²/σ²) over a seeded sample of the rows, scaled to all; at least 1 (the row itself).

    Raises Unsuitable without a row in the sample.
    """
    if sample < 1:
        raise Unsuitable(f"a density is taken over one row or more, not over {sample}")
    size = len(rows)
    points = np.sort(np.random.default_rng(seed).permutation(size)[:sample])
    squared = (rows * rows).sum(axis=1)
    apart = squared[:, None] + squared[points] - 2 * rows @ rows[points].T
    kernel = np.maximum(0.0, 1 - np.maximum(apart, 0.0) / sigma**2)
    return np.asarray(np.maximum(1.0, kernel.sum(axis=1, dtype=np.float64) * size / len(points)))


def knn_kde(distances: Array, densities: F64, alpha: float = 0.5, scale: float = 5.0, most: int = 5000) -> F64:
    """[M, N] distances and [N] densities → [N] probabilities: TSDS with KDE. Raises Unsuitable without a neighbour."""
    targets, size = distances.shape
    near, ranked = _nearest(distances, most)
    room = 1 / densities[near]  # mass for u = 1
    filled = room.cumsum(axis=1)
    base = 1 / (targets * (1 / densities).sum())

    def plan(cap: float) -> F64:
        """[M, K] mass of each neighbour with caps cap·room: nearest first until 1/M is given."""
        upto = np.minimum(cap * filled, 1 / targets)
        return np.diff(upto, axis=1, prepend=0.0)

    def cost(cap: float) -> float:
        return float(alpha / scale * (plan(cap) * ranked).sum() + (1 - alpha) * targets * max(cap - base, 0.0))

    lowest = float((1 / (targets * filled[:, -1])).max())  # below, some target cannot give all its mass
    steps = np.geomspace(lowest, max(float((1 / (targets * room[:, 0])).max()), lowest * (1 + 1e-9)), 200)
    best = min(steps.tolist(), key=cost)
    return np.bincount(near.ravel(), weights=plan(best).ravel(), minlength=size).astype(np.float64)


def unbalanced_mass(
    similarity: Array, reg: float = 0.01, reg_queries: float = float("inf"), reg_pool: float = 1e-4
) -> F64:
    """[M, N] cosines → [N] mass that each candidate receives. Raises MissingPackage naming the extra without POT."""
    try:
        import ot
    except ImportError:
        raise MissingPackage("unbalanced transport needs POT: pip install 'gradsift[ot]'") from None
    queries, size = similarity.shape
    cost = (1 - similarity.astype(np.float64)) / 2
    plan = ot.unbalanced.sinkhorn_unbalanced(
        np.full(queries, 1 / queries),
        np.full(size, 1 / size),
        cost,
        reg,
        (reg_queries, reg_pool),
        method="sinkhorn_stabilized",
    )
    return np.asarray(plan.sum(axis=0))
