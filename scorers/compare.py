"""How alike selections are."""

from collections.abc import Sequence


def jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    left, right = set(a), set(b)
    return len(left & right) / len(left | right) if left | right else 1.0


def overlap_at(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """Share of the first k of one order that is among the first k of the other; k is at most the shorter length."""
    k = min(k, len(a), len(b))
    return len(set(a[:k]) & set(b[:k])) / k if k else 0.0


def expected_jaccard(size_a: int, size_b: int, pool: int) -> float:
    """About the Jaccard index of two independent random selections of these sizes: what chance alone gives."""
    both = size_a * size_b / pool
    return both / (size_a + size_b - both)
