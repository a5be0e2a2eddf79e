"""Reciprocal-rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): one order of several.

    score(z) = Σ_m w_m / (k + rank_m(z)),     rank 1 the best, k = 60

Ranks know no scale, so that cosines, log importances and BM25 can be added without fitting anything. The paper has
w = 1. Our departure: it has no ties, and equal scores share their mean rank here (a score of words is 0 for most of a
pool), so that no id is preferred. Legend: N examples, M members.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.statistics import ranks

F64 = NDArray[np.float64]
K = 60  # the paper's


def reciprocal_ranks(members: Iterable[tuple[str, float, F64]], k: float = K) -> F64:
    """[N] fused scores of M (name, weight, [N] scores where higher is better); one member's scores are held at a time.

    The order of the members does not matter but for the last bit of a sum; hand them over sorted. O(M·N log N).
    Raises Unsuitable for NaN, naming the member.
    """
    total: F64 | None = None
    for name, weight, scores in members:
        if np.isnan(scores).any():
            raise Unsuitable(f"`{name}` gave a score that is not a number")
        part = weight / (k + ranks(-scores))
        total = part if total is None else total + part
    if total is None:
        raise Unsuitable("there is nothing to fuse")
    return total
