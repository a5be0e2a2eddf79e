"""Exact nearest neighbours over feature rows, streamed by shard. The reference for any index.

Legend: N rows, Q queries, D dims.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import features
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class Neighbour:
    """A row near a query: cosine of their (projected) gradients."""

    example_id: str
    cosine: float


def neighbours(store: Store, space_id: int, queries: NDArray[np.float32], k: int) -> list[list[Neighbour]]:
    """The k rows of a space with the highest cosine to each of [Q, D] unit queries, best first.

    Cost O(N·Q·D); memory one shard plus Q·k. Ties go to the smaller id. Check first that the query's space
    is comparable (`features.check_spaces`, `identity.check_comparable`).
    """
    best: list[list[Neighbour]] = [[] for _ in queries]
    for block in features.read(store, space_id):
        cosines = block.unit() @ queries.T  # [n, Q]
        for number, nearest in enumerate(best):
            top = np.argsort(-cosines[:, number], kind="stable")[:k]
            nearest += [Neighbour(block.example_ids[t], float(cosines[t, number])) for t in top]
            nearest.sort(key=lambda neighbour: (-neighbour.cosine, neighbour.example_id))
            del nearest[k:]
    return best
