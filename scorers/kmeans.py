"""k-means by FAISS's search, seeded, over rows that need not be in memory.

    minimise Σ_n ‖x_n − c(x_n)‖²,   c(x) the nearest of K centres

Lloyd's iterations as FAISS has them: the same random rows to begin with, the same sums in the same order, the same
splitting of large clusters for empty ones. Labels and centres are those of `faiss.Kmeans`, which takes all rows as one
f32 array, to the bit (tests/scorers/test_streams.py), but for rows as far from one centre as from another: there
rounding decides, here as there. Iterations cost O(N·K·D) each and read the rows once; they end early when no label
changes. Memory is two [N] arrays of labels, a few [K, D] ones of centres, and a block of rows.

Legend: N rows, D dims, K clusters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.rows import Array, Rows, rows_of

F32 = NDArray[np.float32]
SPLIT_SEED, SPLIT = 1234, np.float32(1 / 1024)  # FAISS's: halves of a split cluster move apart by this share


@dataclass(frozen=True)
class Clusters:
    """[N] cluster of each row and [K, D] centres: the means of their rows (unit means, if spherical)."""

    labels: NDArray[np.int64]
    centers: F32

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[K] rows of each cluster."""
        return np.bincount(self.labels, minlength=len(self.centers))

    def members(self) -> list[NDArray[np.int64]]:
        """Positions of each cluster's rows, ascending."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.cumsum(self.sizes)[:-1])


def kmeans(
    rows: Array | Rows, k: int, seed: int, iterations: int = 20, spherical: bool = False, max_points: int = 0
) -> Clusters:
    """Cluster [N, D] rows into at most k clusters, none of them empty.

    `max_points` rows per centre are sampled for the training (0: all rows; FAISS's own default is 256). `spherical`
    normalises the centres. Raises Unsuitable for rows with NaN or infinity.
    """
    given = rows_of(rows)
    source = given.each(lambda part: np.ascontiguousarray(part, np.float32))
    if not all(np.isfinite(part).all() for _, part in source.blocks()):
        raise Unsuitable("k-means needs finite rows")
    k = max(1, min(k, len(source)))
    sample = source
    if max_points and len(source) > k * max_points:
        sample = source.part(_permutation(len(source), seed)[: k * max_points])
    labels, _, _ = _assigned(source, _trained(sample, k, seed, iterations, spherical), spherical)
    used, labels = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(used), source.shape[1]))
    for part, block in source.blocks():
        _add(sums, labels[part], block.astype(np.float64))
    sizes = np.bincount(labels, minlength=len(used))
    centers = (sums / sizes[:, None]).astype(np.float32)
    if spherical:
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
    return Clusters(labels, centers)


def _permutation(size: int, seed: int) -> NDArray[np.int64]:
    """FAISS's random order."""
    import faiss

    order = np.empty(size, np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), size, seed)  # type: ignore[attr-defined]
    return order.astype(np.int64)


def _trained(rows: Rows, k: int, seed: int, iterations: int, spherical: bool) -> F32:
    """[k, D] centres after the iterations."""
    if len(rows) == k:  # each row is its own centre
        return np.ascontiguousarray(rows.read(slice(0, k)))
    centers = np.ascontiguousarray(rows.read(_permutation(len(rows), seed + 1)[:k]))
    if spherical:
        _renormalise(centers)
    before: NDArray[np.int64] | None = None
    for _ in range(iterations):
        labels, sums, sizes = _assigned(rows, centers, spherical)
        if before is not None and sizes.all() and np.array_equal(labels, before):
            break  # the same rows have the same means
        before = labels
        centers = sums * (np.float32(1) / np.maximum(sizes, 1).astype(np.float32))[:, None]
        _split(centers, sizes.astype(np.float32), len(rows))
        if spherical:
            _renormalise(centers)
    return centers


def _assigned(rows: Rows, centers: F32, spherical: bool) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
    """([N] nearest centre of each row, [K, D] sums of each centre's rows, [K] how many)."""
    import faiss

    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(centers.shape[1])
    index.add(centers)
    labels, sums = np.empty(len(rows), np.int64), np.zeros_like(centers)
    for part, block in rows.blocks():
        labels[part] = index.search(block, 1)[1][:, 0]
        _add(sums, labels[part], block)
    return labels, sums, np.bincount(labels, minlength=len(centers))


def _add(sums: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[Any]) -> None:
    """Add each row to the sum of its label, in order."""
    import torch

    torch.from_numpy(sums).index_add_(0, torch.from_numpy(labels), torch.from_numpy(rows))


def _split(centers: F32, sizes: F32, rows: int) -> None:
    """Give each empty cluster the half of one that is drawn by its size, in place."""
    import faiss

    random = faiss.RandomGenerator(SPLIT_SEED)  # type: ignore[attr-defined]
    signs = np.where(np.arange(centers.shape[1]) % 2 == 0, SPLIT, -SPLIT)
    k = len(centers)
    for empty in np.flatnonzero(sizes == 0):
        donor = 0
        while not random.rand_float() < (sizes[donor] - np.float32(1)) / np.float32(rows - k):
            donor = (donor + 1) % k
        centers[empty] = centers[donor] * (1 + signs)
        centers[donor] *= 1 - signs
        sizes[empty] = np.float32(sizes[donor] / 2)
        sizes[donor] -= sizes[empty]


def _renormalise(centers: F32) -> None:
    import faiss

    faiss.normalize_L2(centers)
