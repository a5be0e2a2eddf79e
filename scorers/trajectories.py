"""S2L (Yang et al., NeurIPS 2024, `BigML-CS-UCLA/S2L`): equal shares of clusters of loss trajectories.

    share of the k-th of K clusters, smallest first = min(its size, ⌈left / (K − k)⌉),   k = 0 … K − 1

An example's trajectory is its loss at each checkpoint of a small model. FAISS k-means makes 100 clusters; clusters are
served from the smallest (of more than `least` members) upward, each giving an equal share of what is left, at random.
The released code does this within each source with equal quotas; `groups` does so.
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
    """[N, C] losses → positions of `size` examples. Clusters of at most `least` members come after the others."""
    names = sorted(set(groups))
    label = np.array([names.index(g) for g in groups])
    budgets = even(size, [int((label == g).sum()) for g in range(len(names))])
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for g, budget in enumerate(budgets):
        members = np.flatnonzero(label == g)
        if not budget:
            continue
        clustered = kmeans(losses[members].astype(np.float32), clusters, seed)
        parts = sorted(clustered.members(), key=lambda part: (len(part) <= least, len(part), int(part[0])))
        left = int(budget)
        for number, part in enumerate(parts):
            take = min(len(part), -(-left // (len(parts) - number)))
            chosen += members[rng.permutation(part)[:take]].tolist()
            left -= take
        if left > 0:  # shares are rounded up, so only tiny clusters at the end can leave something
            rest = np.setdiff1d(members, chosen)
            chosen += rng.permutation(rest)[:left].tolist()
    return np.array(chosen, np.int64)
