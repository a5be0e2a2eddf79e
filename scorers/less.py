"""LESS (Xia et al., ICML 2024, arXiv 2402.04333): influence of training rows on a few-shot target.

    score(z) = max_j Σ_c w̃_c · mean_{z' ∈ subtask j} ⟨ŷ_c(z), v̂_c(z')⟩,     w̃ = w / Σw

with ŷ, v̂ unit rows of checkpoint c and w_c the mean learning rate of its interval (matching.py of the released
code: weighted sum over checkpoints, then the mean within a subtask, then the max over subtasks). The mean is linear,
so it is taken over the query rows first: a row costs products with J vectors, not with all V. The released code
does not renormalise that mean, and neither do we.

Legend: N train rows, V query rows, J subtasks, C checkpoints, D dims.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.products import int8_products

F32 = NDArray[np.float32]


def subtask_means(query: F32, subtasks: Sequence[str]) -> tuple[F32, list[str]]:
    """[V, D] unit query rows → [J, D] means, and the J subtask names, sorted."""
    names = sorted(set(subtasks))
    labels = np.array([names.index(s) for s in subtasks])
    return np.stack([query[labels == j].mean(axis=0) for j in range(len(names))]), names


def checkpoint_weights(mean_lr: Sequence[float]) -> list[float]:
    """Mean learning rates → weights that sum to one; a single checkpoint has weight 1, also at rate 0 (a warm-up of one
    step ends there). Raises Unsuitable unless all are finite and, of several, one is positive."""
    rates = np.asarray(mean_lr, np.float64)
    if len(rates) == 1 and rates[0] == 0:
        return [1.0]
    if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.sum() > 0):
        raise Unsuitable(f"checkpoint weights must be finite, not negative, and not all zero: {mean_lr}")
    return [float(w) for w in rates / rates.sum()]


def similarity(train: NDArray[np.generic], means: F32, scale: F32 | None = None) -> F32:
    """[N, D] train rows × [J, D] query means → [N, J] contribution of one checkpoint. O(N·J·D).

    Rows are unit rows in f32, or stored ones (int8, float16) with their [N] scales.
    """
    if train.dtype == np.int8 and scale is not None:
        return int8_products(train.view(np.int8), scale, means)
    out: F32 = train.astype(np.float32, copy=False) @ means.T
    return out if scale is None else out * scale[:, None]
