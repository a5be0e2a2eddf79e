"""Rules that choose rows to cover others: facility location and k-center.

    facility location:  f(S) = Σ_p max_{j∈S} s(j, p)          (greedy reaches 1 − 1/e of the best)
    k-center:           minimise max_p min_{j∈S} ‖j − p‖      (farthest first reaches twice the best; Gonzalez 1985)

Facility location is lazy (Minoux 1978): a gain can only fall, so a candidate is measured again only when its old gain
is the largest. Cost O(N·P) to start and O(P) for each measurement. Similarities that are products of rows with points
(`similarities`) are held where [N, P] takes no more than 1 GiB, else computed when they are asked for, of the
candidates that look best together, at O(P·D) each: memory is then [N] gains and 256 MiB of rows of them. For a large
pool P is a sample of it. k-center costs O(N·D) for each pick, and reads the rows at each.
Legend: N candidates, P points to cover, D dims.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.rows import Array, Rows, block_rows, rows_of

Order = NDArray[np.int64]
HELD_BYTES = 1 << 30  # of similarities; more are computed when they are asked for
TOGETHER = 64  # candidates whose similarities are computed at once
KEPT_BYTES = 256 << 20  # of similarities that were computed lately


def similarities(rows: Array | Rows, points: Array) -> Rows:
    """[N, P] products of [N, D] rows with [P, D] points, held or computed when they are read."""
    turned = np.ascontiguousarray(points.T)
    products = rows_of(rows).each(lambda part: part @ turned, len(points))
    step = min(products.step, block_rows(len(points)))
    return Rows(products.shape, products.read, step, products.dtype).within(HELD_BYTES)


def facility_location(similarity: Array | Rows, size: int) -> Order:
    """[N, P] similarities of candidates to points → `size` positions in greedy order, ties to the earlier.

    Points start covered by the worst similarity there is, so the first pick is the candidate with the largest sum.
    """
    source = rows_of(similarity)
    worst, sums = np.full(source.shape[1], np.inf), np.empty(len(source))
    for part, block in source.blocks():
        np.minimum(worst, block.min(axis=0), out=worst)
        sums[part] = block.sum(axis=1, dtype=np.float64)
    covered = worst.copy()
    heap = [(-gain, j, 0) for j, gain in enumerate((sums - worst.sum()).tolist())]
    heapq.heapify(heap)
    lately = _Lately(source)
    chosen: list[int] = []
    while heap and len(chosen) < size:
        _, j, seen = heapq.heappop(heap)
        if seen == len(chosen):
            chosen.append(j)
            np.maximum(covered, lately.row(j, heap), out=covered)
        else:
            gain = float(np.maximum(lately.row(j, heap) - covered, 0.0).sum())
            heapq.heappush(heap, (-gain, j, len(chosen)))
    return np.array(chosen, np.int64)


class _Lately:
    """Rows of similarities; where they are computed when they are asked for, those of lately are kept."""

    def __init__(self, source: Rows) -> None:
        self.source, self.kept = source, dict[int, Array]()
        self.most = max(2 * TOGETHER, KEPT_BYTES // (source.dtype.itemsize * max(1, source.shape[1])))

    def row(self, j: int, heap: list[tuple[float, int, int]]) -> Array:
        """[P] similarities of a candidate. Those at the front of the heap are read with it: most are asked for next."""
        if self.source.held:
            return np.asarray(self.source.read(slice(j, j + 1))[0])
        if j not in self.kept:
            if len(self.kept) + TOGETHER > self.most:
                self.kept = {}
            front = [other for _, other, _ in heap[: TOGETHER - 1] if other not in self.kept]
            wanted = np.array([j, *front])
            self.kept |= dict(zip(wanted.tolist(), self.source.read(wanted), strict=True))
        return self.kept[j]


def k_center(rows: Array | Rows, size: int) -> Order:
    """[N, D] rows → `size` positions, farthest first, begun with the row nearest the mean; ties to the earlier."""
    source = rows_of(rows)
    squared, total = np.empty(len(source), source.dtype), np.zeros(source.shape[1])
    for part, block in source.blocks():
        squared[part] = (block * block).sum(axis=1)
        total += block.sum(axis=0, dtype=np.float64)

    def apart(point: Array) -> Array:
        return np.asarray(np.maximum(squared - 2 * source.products(point[None])[:, 0] + point @ point, 0.0))

    def row(j: int) -> Array:
        return np.asarray(source.read(np.array([j]))[0])

    chosen = [int(apart((total / len(source)).astype(source.dtype)).argmin())]
    nearest = apart(row(chosen[0]))
    nearest[chosen[0]] = -1.0
    while len(chosen) < min(size, len(source)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart(row(chosen[-1])))
        nearest[chosen] = -1.0
    return np.array(chosen[:size], np.int64)
