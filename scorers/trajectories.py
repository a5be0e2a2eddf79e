"""S2L (Yang et al., NeurIPS 2024, `BigML-CS-UCLA/S2L`): equal shares of clusters of loss trajectories.

    share of the k-th of K clusters, smallest first = min(its size, ⌊left / (K − k)⌋),   k = 0 … K − 1

An example's trajectory is its loss at each checkpoint of a small model. FAISS k-means makes 100 clusters in 20
iterations; those of more than `least` = 2 members are served from the smallest upward, each giving an equal share of
what is left, at random. Smaller ones are left out: they give only what all others together cannot. This is done within
each source, with equal quotas in the same way (`groups`), and a source not above its quota is taken whole. So the
release does it, as two public copies of its `schedules/s2l.py` agree; the file itself was not compared (UNCONFIRMED).

Departures: k-means looks at all rows, where FAISS's default in the release samples 256 for each cluster; it takes a
loss that is not a number for 0, here that is refused. `least: 0` gives the smallest clusters their share, too.
Cost O(N·K·C) for each of 20 iterations. Legend: N examples, C checkpoints, K clusters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.budgets import even
from gradsift.scorers.kmeans import kmeans


def s2l(
    losses: NDArray[np.floating[Any]], groups: Sequence[str], size: int, seed: int, clusters: int = 100, least: int = 2
) -> NDArray[np.int64]:
    """[N, C] losses → positions of `size` examples, group by group, the smallest clusters first."""
    names = sorted(set(groups))
    label = np.array([names.index(g) for g in groups])
    budgets = even(size, [int((label == g).sum()) for g in range(len(names))])
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for g, budget in enumerate(budgets.tolist()):
        members = np.flatnonzero(label == g)
        if budget == len(members):
            chosen += members.tolist()
        elif budget:
            parts = kmeans(losses[members].astype(np.float32), clusters, seed).members()
            large = sorted((part for part in parts if len(part) > least), key=len)
            shares = even(budget, [len(part) for part in large])
            picks = [rng.permutation(part)[:share] for part, share in zip(large, shares.tolist(), strict=True)]
            small = np.concatenate([np.zeros(0, np.int64), *(part for part in parts if len(part) <= least)])
            picks.append(rng.permutation(small)[: budget - int(shares.sum())])
            chosen += members[np.concatenate(picks)].tolist()
    return np.array(chosen, np.int64)
