"""Rules that choose rows to cover others: facility location and k-center.

    facility location:  f(S) = Σ_p max_{j∈S} s(j, p)          (greedy reaches 1 − 1/e of the best)
    k-center:           minimise max_p min_{j∈S} ‖j − p‖      (farthest first reaches twice the best; Gonzalez 1985)

Facility location is lazy (Minoux 1978): a gain can only fall, so a candidate is measured again only when its old gain
is the largest. Cost O(N·P) to start and O(P) for each measurement; memory the [N, P] similarities, so for a large pool
P is a sample of it. k-center costs O(N·D) for each pick.
Legend: N candidates, P points to cover, D dims.
"""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]
Array = NDArray[np.floating[Any]]


def facility_location(similarity: Array, size: int) -> Order:
    """[N, P] similarities of candidates to points → `size` positions in greedy order, ties to the earlier.

    Points start covered by the worst similarity there is, so the first pick is the candidate with the largest sum.
    """
    worst = similarity.min(axis=0).astype(np.float64)
    covered = worst.copy()
    gains = similarity.sum(axis=1, dtype=np.float64) - worst.sum()
    heap = [(-gain, j, 0) for j, gain in enumerate(gains.tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < size:
        _, j, seen = heapq.heappop(heap)
        if seen == len(chosen):
            chosen.append(j)
            np.maximum(covered, similarity[j], out=covered)
        else:
            gain = float(np.maximum(similarity[j] - covered, 0.0).sum())
            heapq.heappush(heap, (-gain, j, len(chosen)))
    return np.array(chosen, np.int64)


def k_center(rows: Array, size: int) -> Order:
    """[N, D] rows → `size` positions, farthest first, begun with the row nearest the mean; ties to the earlier."""
    squared = (rows * rows).sum(axis=1)

    def apart(point: Array) -> Array:
        return np.asarray(np.maximum(squared - 2 * (rows @ point) + point @ point, 0.0))

    chosen = [int(apart(rows.mean(axis=0)).argmin())]
    nearest = apart(rows[chosen[0]])
    nearest[chosen[0]] = -1.0
    while len(chosen) < min(size, len(rows)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart(rows[chosen[-1]]))
        nearest[chosen] = -1.0
    return np.array(chosen[:size], np.int64)
