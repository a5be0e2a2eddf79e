"""Selection rules: from scores to ordered examples. Deterministic; ties go to the smaller example id.

Legend: N examples, J subtasks (or queries).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Order = NDArray[np.int64]


def by_score(scores: F64, ids: Sequence[str]) -> Order:
    """[N] scores → positions from best to worst. Raises ValueError on NaN. O(N log N)."""
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN")
    return np.lexsort((np.asarray(ids), -scores)).astype(np.int64)


def top_k(scores: F64, ids: Sequence[str], k: int) -> Order:
    """Positions of the k highest scores, best first."""
    return by_score(scores, ids)[:k]


def round_robin(matrix: F64, ids: Sequence[str], k: int) -> Order:
    """[N, J] scores: the columns take turns, each taking its best example not yet taken, until k are chosen."""
    orders = [by_score(matrix[:, j], ids) for j in range(matrix.shape[1])]
    places = [0] * len(orders)
    taken = np.zeros(len(ids), bool)
    chosen: list[int] = []
    k = min(k, len(ids))
    while len(chosen) < k:
        for j, order in enumerate(orders):
            while taken[order[places[j]]]:
                places[j] += 1
            taken[order[places[j]]] = True
            chosen.append(int(order[places[j]]))
            if len(chosen) == k:
                break
    return np.array(chosen, np.int64)


def random_k(n: int, k: int, seed: int) -> Order:
    """K of n positions in seeded random order."""
    return np.random.default_rng(seed).permutation(n)[:k].astype(np.int64)


def random_tokens(tokens: Sequence[int], budget: int, seed: int) -> Order:
    """Positions in seeded random order until their label tokens come nearest to the budget (at least one)."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    total = np.cumsum(np.asarray(tokens, np.int64)[order])
    count = int(np.abs(total - budget).argmin()) + 1
    return order[:count].astype(np.int64)
