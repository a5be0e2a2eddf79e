"""Rules from optimal transport between a target and the pool: TSDS and unbalanced Sinkhorn.

TSDS (Liu et al., NeurIPS 2024, `ZifanL/TSDS`) minimises α/C·Σ γ_ij d_ij + (1 − α)·G(γ) over plans γ that give every
target point the mass 1/M, where G caps the mass of single candidates:

    uniform:  G = M·max_ij |γ_ij − 1/(MN)|                   → each target spreads evenly over its K nearest candidates,
                                                               the same K for all targets
    kde:      G = M·max_ij ρ_i·|γ_ij − 1/(ρ_i·M·Σ1/ρ)|       → it fills its nearest in order, each up to u/ρ_i, so that
                                                               near-duplicates share

ρ is a kernel density Σ max(0, 1 − d²/σ²) over the 1,000 nearest rows (itself too) among the rows that are some target's
neighbour. With the caps given, the best plan fills from near to far, so what is left is one number u with a piecewise
linear, convex cost, whose minimum is a search among its corners: the released loop stops at the same. α = 0.5, C = 5,
σ = 0.75, 5,000 neighbours and 1,000 for the density are the release's settings.

Departures. Neighbours are exact, where the release's index (IVF, 10 probes) may miss some; the release takes N/10
neighbours at most, for targets and for the density, which small pools feel. Its sampling is multinomial with
replacement; ours draws without. A target whose neighbours cannot hold its mass within their caps spreads it over all of
them in proportion to those, where the release puts the rest on the farthest.

Unbalanced OT (`uot`, needs the extra `ot`): cost (1 − S)/2, POT's `sinkhorn_unbalanced` with KL, reg 0.01, reg_m (∞,
1e-4); candidates are ranked by the mass that they receive. Cost: TSDS O(M·N·D) for the neighbours, O(U²·D) for the
density, then O(M·K·log(M·K)); UOT O(M·N) for each iteration. Memory: TSDS [M, K] a few times, and for the density
[U, D]; UOT [M, N] a few times. Legend: M targets, N candidates, K neighbours, U different
ones among them (at most M·K and N), D dims.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import MissingPackage, Unsuitable
from gradsift.scorers.gio import distances
from gradsift.scorers.rows import Array, Rows, rows_of

F64 = NDArray[np.float64]
BLOCK = 1 << 23  # kernel values computed at a time: 32 MB


@dataclass(frozen=True)
class Near:
    """[M, K] candidates of each target from near to far, their distances, and [N] how far each candidate is from the
    nearest target."""

    places: NDArray[np.int64]
    apart: F64
    least: F64

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.least)


def nearest(target: Array, rows: Array | Rows, most: int = 5000) -> Near:
    """The `most` nearest of [N, D] rows for each of [M, D] targets, ties to the earlier. O(M·N·D), rows in blocks.
    Raises Unsuitable for less than one."""
    source = rows_of(rows)
    if most < 1:
        raise Unsuitable(f"TSDS looks at one neighbour or more, not at {most}")
    x, least = target.astype(np.float64, copy=False), np.empty(len(source))
    places, apart = np.zeros((len(x), 0), np.int64), np.zeros((len(x), 0))
    for part, block in source.blocks():
        far = distances(x, block)
        least[part] = far.min(axis=0)
        if apart.shape[1] == most:  # an equal one that comes later is not nearer
            open_ = np.flatnonzero((far < apart[:, -1:]).any(axis=0))
            far = far[:, open_]
        else:
            open_ = np.arange(far.shape[1])
        both = np.concatenate([apart, far], axis=1)
        order = np.argsort(both, axis=1, kind="stable")[:, :most]
        apart = np.take_along_axis(both, order, axis=1)
        new = np.broadcast_to(part.start + open_, far.shape)
        places = np.take_along_axis(np.concatenate([places, new], axis=1), order, axis=1)
    return Near(places, apart, least)


def knn_uniform(near: Near, alpha: float = 0.5, scale: float = 5.0) -> F64:
    """Candidates near the targets → [N] probabilities."""
    ranked, size = near.apart, near.size
    targets = len(ranked)
    k = np.arange(1, ranked.shape[1] + 1)
    cost = alpha / scale * (ranked.cumsum(axis=1) / k).mean(axis=0) + (1 - alpha) * (1 / k - 1 / size)
    best = int(cost.argmin()) + 1
    return np.asarray(np.bincount(near.places[:, :best].ravel(), minlength=size) / (targets * best))


def density(rows: Array, sigma: float = 0.75, neighbours: int = 1000) -> F64:
    """[U, D] → [U] Σ max(0, 1 − d²/σ²) over the nearest of these rows, the row itself (1) and so many in all; σ = 0:
    1 for each, as released.

    Exact but for f32 rounding of the squares, so for rows of about unit length. Cost O(U²·D): on one core 13 s for
    20,000 rows of 1,024 dims, four times as much for twice the rows. Memory: BLOCK kernel values.
    Raises Unsuitable without a neighbour or for a negative σ.
    """
    if neighbours < 1:
        raise Unsuitable(f"a density is taken over one row or more, not over {neighbours}")
    if not sigma >= 0:
        raise Unsuitable(f"the kernel's width `sigma` must be 0 or more, not {sigma}")
    if sigma == 0:
        return np.ones(len(rows))
    size = len(rows)
    scaled = np.ascontiguousarray(rows, np.float32) / np.float32(sigma)
    squared = (scaled * scaled).sum(axis=1)
    step = max(1, BLOCK // max(1, size))
    buffer, sums = np.empty((min(step, size), size), np.float32), np.empty(size)
    for start in range(0, size, step):
        part = slice(start, min(start + step, size))
        kernel = np.matmul(scaled[part], scaled.T, out=buffer[: part.stop - start])
        kernel *= 2
        kernel -= squared
        kernel += 1 - squared[part, None]
        np.clip(kernel, 0, 1, out=kernel)
        np.fill_diagonal(kernel[:, part], 1)
        sums[part] = kernel.sum(axis=1, dtype=np.float64)
        for k in np.flatnonzero(np.count_nonzero(kernel, axis=1) > neighbours):
            sums[start + k] = np.partition(kernel[k], size - neighbours)[size - neighbours :].sum(dtype=np.float64)
    return sums


def knn_kde(
    near: Near,
    rows: Array | Rows,
    sigma: float = 0.75,
    kde_neighbours: int = 1000,
    alpha: float = 0.5,
    scale: float = 5.0,
) -> F64:
    """Candidates near the targets and the [N, D] rows of all → [N] probabilities: TSDS with KDE. Raises Unsuitable
    without a neighbour for the density."""
    ranked, targets = near.apart, len(near.apart)
    listed, place = np.unique(near.places, return_inverse=True)
    crowd = density(rows_of(rows).part(listed).array(), sigma, kde_neighbours)
    room = 1 / crowd[place.reshape(ranked.shape)]  # mass for u = 1
    filled = room.cumsum(axis=1)
    spread = _best_spread(ranked, room, filled, (1 - alpha) * scale / alpha if alpha else np.inf)
    upto = np.minimum(filled / np.minimum(spread, filled[:, -1:]), 1.0) / targets
    mass = np.diff(upto, axis=1, prepend=0.0)
    return np.bincount(near.places.ravel(), weights=mass.ravel(), minlength=near.size).astype(np.float64)


def _best_spread(ranked: F64, room: F64, filled: F64, price: float) -> float:
    """The best s = 1/(M·u): the first corner at which smaller caps save less than they add to the distances.

    With caps of 1/(M·s), target j is filled by its first k_j = #{k: filled ≤ s} candidates and by a part of the next.
    [M, K] distances, rooms and their sums; a price on u, in distance.
    """
    targets, most = ranked.shape
    spent = np.pad((room * ranked).cumsum(axis=1), ((0, 0), (1, 0)))
    before = np.pad(filled, ((0, 0), (1, 0)))
    every = np.arange(targets)

    def enough(spread: float) -> bool:
        full = np.minimum((filled <= spread).sum(axis=1), most - 1)
        return bool((ranked[every, full] * before[every, full] - spent[every, full]).sum() >= price * targets)

    corners = np.unique(filled)
    return float(corners[bisect_left(range(len(corners) - 1), True, key=lambda k: enough(float(corners[k])))])


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
