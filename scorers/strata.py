"""Coverage-centric sampling: a share of every stratum of difficulty (CCS, Zheng et al., ICLR 2023, arXiv 2210.15809).

    strata: bins of equal width between the lowest and the highest score that are kept; at random inside each

`ccs` is the release (`haizhongzheng/Coverage-centric-coreset-selection`): the share β of the hardest is cut, then the
bins with fewest members are served first,

    share of the k-th of K bins, fewest members first = min(its members, ⌊left / (K − k)⌋),   k = 0 … K − 1

`descending` is the sampling step of Adapt-∞ (`adymaharana/adapt-inf`): both ends are cut, at the 5th and the 95th
percentile, and the bins are served from the hardest down, each ⌈left / (K − k)⌉.

Departures. CCS: the release cuts by the lowest margin over its training (AUM), whatever score makes the strata; here
one score does both, high for hard. It sets β by hand for each budget (0.3 where a tenth is kept; the paper's other
values are UNCONFIRMED here), and its highest bin ends 1.0001 times as high. Adapt-∞: it takes the share anew only after
a bin that fell short, so it may give some more than asked for, and nothing makes up for last bins that are small; here
the rest of the window does.
Cost O(N log N). Legend: N examples, K bins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.budgets import even
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.ranking import by_score

Order = NDArray[np.int64]
Array = NDArray[np.floating[Any]]


def ccs(scores: Array, ids: Sequence[str], k: int, seed: int, bins: int = 50, hard: float = 0.3) -> Order:
    """[N] difficulties → k positions, bin by bin from the easiest. Fewer where fewer are left when the share `hard` of
    the hardest is cut. Raises Unsuitable without a bin, or for a share outside [0, 1)."""
    if not 0 <= hard < 1:
        raise Unsuitable(f"the share `hard` that is cut must be 0 or more and below 1, not {hard}")
    kept = by_score(scores, ids)[int(hard * len(scores)) :]
    members = _bins(scores, kept, bins, ids, (float(scores[kept].min()), float(scores[kept].max())))
    rng = np.random.default_rng(seed)
    shares = even(k, [len(part) for part in members])
    return np.concatenate([rng.permutation(part)[:share] for part, share in zip(members, shares.tolist(), strict=True)])


def descending(
    scores: Array, ids: Sequence[str], k: int, seed: int, bins: int = 50, cut: tuple[float, float] = (5.0, 95.0)
) -> Order:
    """[N] difficulties → k positions, from the highest bin between the percentiles `cut` down. What a small bin lacks
    comes from the later ones. Fewer than k when the window holds fewer. Raises Unsuitable without a bin."""
    low, high = bounds(scores, cut)
    inside = np.flatnonzero((scores >= low) & (scores <= high))
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for number, members in enumerate(reversed(_bins(scores, inside, bins, ids, (low, high)))):
        share = -(-(k - len(chosen)) // (bins - number))
        chosen += rng.permutation(members)[:share].tolist()
    if len(chosen) < k:  # the last bins held too few: fill from what is left, again at random
        rest = _by_id(np.setdiff1d(inside, chosen), ids)
        chosen += rng.permutation(rest)[: k - len(chosen)].tolist()
    return np.array(chosen[:k], np.int64)


def bounds(scores: Array, cut: tuple[float, float] = (5.0, 95.0)) -> tuple[float, float]:
    """The scores at the percentiles: of N sorted scores, numbers ⌊N·low/100⌋ and ⌊N·high/100⌋."""
    ranked = np.sort(scores)
    low, high = (float(ranked[min(len(ranked) - 1, int(len(ranked) * p / 100))]) for p in cut)
    return low, high


def _bins(
    scores: Array, among: Order, bins: int, ids: Sequence[str], ends: tuple[float, float]
) -> list[NDArray[np.int64]]:
    """Positions of each bin of equal width between the ends, in the order of their ids."""
    if bins < 1:
        raise Unsuitable(f"strata need one bin or more, not {bins}")
    among = _by_id(among, ids)
    place = np.clip(np.searchsorted(np.linspace(*ends, bins + 1), scores[among], side="right") - 1, 0, bins - 1)
    return [among[place == b] for b in range(bins)]


def _by_id(positions: Order, ids: Sequence[str]) -> Order:
    return positions[np.argsort(np.asarray(ids)[positions], kind="stable")]
