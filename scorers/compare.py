"""How alike selections and scores are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    one, two = set(a), set(b)
    return len(one & two) / len(one | two) if one | two else 1.0


def overlap_at(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """Share of the first k of one order that is in the first k of the other; of the shorter one if k is larger."""
    k = min(k, len(a), len(b))
    return len(set(a[:k]) & set(b[:k])) / k if k else 0.0


def expected_jaccard(size_a: int, size_b: int, pool: int) -> float:
    """Jaccard that two independent random selections of these sizes have, about: what chance alone gives."""
    both = size_a * size_b / pool
    return both / (size_a + size_b - both)


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; NaN when one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(a, b).statistic)


def partial_spearman(a: Array, b: Array, given: Array) -> float:
    """Rank correlation of a and b without what a third quantity explains of both."""
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    rest = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / rest**0.5 if rest > 0 else float("nan")
