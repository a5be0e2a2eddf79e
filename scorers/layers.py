"""Which blocks of a model say of a pool what all of them say: three scores of a run of blocks, from a probe of rows.

With a row's part in block l as x_l, and W the kept blocks (a row of W is its parts side by side):

    agreement(W) = mean over targets t of the rank correlation, over pool rows i, of s_W(i, t) and s_all(i, t),
                   s_W(i, t) = mean over rows j of t of cos(x_W(i), x_W(j))
    fisher(W)    = Σ_t n_t ‖μ_t − μ‖² / Σ_t Σ_(j in t) ‖u_j − μ_t‖²,  u_j = x_W(j) / ‖x_W(j)‖ over target rows
    energy(W)    = mean over pool rows of ‖x_W(i)‖² / ‖x_all(i)‖²

All three follow from inner products within each block, since those of a run of blocks are their sums. Departures: the
Fisher score is that of unit rows, one number for a block and not one for each coordinate. That middle layers estimate
influence best is a published hint (arXiv 2511.04715; UNCONFIRMED here) and no part of the scores.
Legend: L blocks, N pool rows, Q target rows, D dims of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.statistics import spearman

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """Inner products of a probe's rows within each block, and the target of each of its target rows."""

    across: F64  # [L, N, Q] pool × target
    within: F64  # [L, Q, Q] target × target
    pool: F64  # [L, N] squared lengths
    groups: NDArray[np.int64]  # [Q]

    def cosines(self, kept: slice) -> F64:
        """[N, Q] of pool and target rows in a run of blocks; 0 where a row has no part there."""
        lengths = np.sqrt(np.outer(self.pool[kept].sum(0), self._target(kept)))
        dots = self.across[kept].sum(0)
        return _divided(dots, lengths)

    def target_cosines(self, kept: slice) -> F64:
        """[Q, Q] among target rows."""
        lengths = np.sqrt(np.outer(self._target(kept), self._target(kept)))
        dots = self.within[kept].sum(0)
        return _divided(dots, lengths)

    def _target(self, kept: slice) -> F64:
        squares: F64 = np.diagonal(self.within[kept].sum(0))
        return squares


def _divided(dots: F64, lengths: F64) -> F64:
    cosines = np.zeros_like(dots)
    np.divide(dots, lengths, out=cosines, where=lengths > 0)
    return cosines


def parts(pool: Sequence[NDArray[np.float32]], target: Sequence[NDArray[np.float32]], groups: Sequence[int]) -> Parts:
    """Inner products of [N, D] and [Q, D] rows of each block, in f64."""
    x, y = ([np.asarray(rows, np.float64) for rows in side] for side in (pool, target))
    return Parts(
        np.stack([a @ b.T for a, b in zip(x, y, strict=True)]),
        np.stack([b @ b.T for b in y]),
        np.stack([(a * a).sum(1) for a in x]),
        np.asarray(groups, np.int64),
    )


def agreement(probe: Parts, kept: slice) -> float:
    """Mean rank correlation with the scores of all blocks, from −1 to 1; a target whose scores do not vary counts 0."""
    some, whole = probe.cosines(kept), probe.cosines(slice(None))
    each = [spearman(*(s[:, probe.groups == t].mean(1) for s in (some, whole))) for t in np.unique(probe.groups)]
    return float(np.mean(np.nan_to_num(each)))


def fisher(probe: Parts, kept: slice) -> float:
    """Variance of unit rows between targets over that within them; infinite where there is none within. Raises
    Unsuitable for fewer than two targets."""
    groups = np.unique(probe.groups)
    if len(groups) < 2:
        raise Unsuitable("the Fisher score of layers compares targets; there is one")
    gram = probe.target_cosines(kept)
    total = np.trace(gram) - gram.sum() / len(gram)
    inside = sum(_spread(gram[np.ix_(own, own)]) for own in (np.flatnonzero(probe.groups == t) for t in groups))
    return float((total - inside) / inside) if inside > 0 else float("inf")


def _spread(gram: F64) -> float:
    """Σ ‖u − mean u‖² of rows with these inner products."""
    return float(np.trace(gram) - gram.sum() / len(gram))


def energy(probe: Parts, kept: slice) -> float:
    """Mean share of a pool row's squared length, from 0 to 1; rows of zeros do not count."""
    whole = probe.pool.sum(0)
    return float(np.mean(probe.pool[kept].sum(0)[whole > 0] / whole[whole > 0]))


SCORES = {"agreement": agreement, "fisher": fisher, "energy": energy}


def best(probe: Parts, choose: str, keep: float) -> tuple[slice, float]:
    """The run of ⌈keep · L⌉ blocks with the highest score, and that score; of equals the one highest up, which is the
    cheapest, since a backward ends at the lowest."""
    blocks = len(probe.pool)
    count = int(np.ceil(round(keep * blocks, 9)))
    runs = [slice(start, start + count) for start in range(blocks - count + 1)]
    scores = [round(SCORES[choose](probe, kept), 9) for kept in runs]
    at = max(range(len(runs)), key=lambda k: (scores[k], k))
    return runs[at], scores[at]
