"""How alike selections are."""

from collections.abc import Sequence


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
