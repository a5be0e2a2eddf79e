"""Exact nearest neighbours over feature rows, streamed by shard. The reference for any index.

Legend: N rows, Q queries, D dims.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import features
from gradsift.datastore.store import Store

SAMPLE = 200  # rows on each side of random pairs


@dataclass(frozen=True)
class Neighbour:
    """A row near a query: cosine of their (projected) gradients."""

    example_id: str
    cosine: float


@dataclass(frozen=True)
class Typical:
    """Quantiles of the cosines of `pairs` random pairs of rows: what is ordinary in a store, and what is high."""

    pairs: int
    median: float
    p95: float
    p99: float
    highest: float


def neighbours(
    store: Store, space_id: int, queries: NDArray[np.float32], k: int, ids: Sequence[str] | None = None
) -> list[list[Neighbour]]:
    """The k rows of a space (of the given ids, if any) with the highest cosine to each of [Q, D] unit queries, best
    first.

    Cost O(N·Q·D); memory one shard plus Q·k. Ties go to the smaller id. Check first that the query's space
    is comparable (`features.check_spaces`, `identity.check_comparable`).
    """
    best: list[list[Neighbour]] = [[] for _ in queries]
    for block in features.read(store, space_id, ids):
        cosines = block.unit() @ queries.T  # [n, Q]
        for number, nearest in enumerate(best):
            top = np.argsort(-cosines[:, number], kind="stable")[:k]
            nearest += [Neighbour(block.example_ids[t], float(cosines[t, number])) for t in top]
            nearest.sort(key=lambda neighbour: (-neighbour.cosine, neighbour.example_id))
            del nearest[k:]
    return best


def typical(store: Store, asked: int, asked_ids: Sequence[str], space_id: int, ids: Sequence[str]) -> Typical | None:
    """Cosines of random rows of a space with random rows of the space that questions are of; None without a pair.

    At most SAMPLE rows of each, drawn by a fixed seed; a row is not paired with itself.
    """
    drawn = [_sample(asked_ids, seed=0), _sample(ids, seed=1)]
    if not all(drawn):
        return None
    left, right = (features.read_all(store, s, part) for s, part in zip((asked, space_id), drawn, strict=True))
    others = np.array(left.example_ids)[:, None] != np.array(right.example_ids)[None, :]
    cosines = (left.unit() @ right.unit().T)[others]
    if not len(cosines):
        return None
    median, p95, p99 = (round(float(q), 4) for q in np.quantile(cosines, (0.5, 0.95, 0.99)))
    return Typical(len(cosines), median, p95, p99, round(float(cosines.max()), 4))


def _sample(ids: Sequence[str], seed: int) -> list[str]:
    ordered = sorted(ids)
    return sorted(ordered[k] for k in np.random.default_rng(seed).permutation(len(ordered))[:SAMPLE].tolist())
