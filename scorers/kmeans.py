"""k-means by FAISS, seeded.

    minimise Σ_n ‖x_n − c(x_n)‖²,   c(x) the nearest of K centres

Lloyd's iterations cost O(N·K·D) each; memory is the rows and the centres.

Legend: N rows, D dims, K clusters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable

F32 = NDArray[np.float32]


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
    rows: F32, k: int, seed: int, iterations: int = 20, spherical: bool = False, max_points: int = 0
) -> Clusters:
    """Cluster [N, D] rows into at most k clusters, none of them empty.

    `max_points` rows per centre are sampled for the training (0: all rows; FAISS's own default is 256). `spherical`
    normalises the centres. Raises Unsuitable for rows with NaN or infinity.
    """
    import faiss

    rows = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise Unsuitable("k-means needs finite rows")
    k = max(1, min(k, len(rows)))
    model = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=max_points or max(1, len(rows)),
    )
    model.train(rows)
    _, nearest = model.index.search(rows, 1)
    used, labels = np.unique(nearest[:, 0], return_inverse=True)
    centers = np.zeros((len(used), rows.shape[1]), np.float32)
    for j, members in enumerate(Clusters(labels, centers).members()):
        centers[j] = rows[members].mean(axis=0, dtype=np.float64)
    if spherical:
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
    return Clusters(labels, centers)
