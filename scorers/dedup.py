"""Near-duplicates by MinHash (Broder 1997) and by embeddings (SemDeDup, Abbas et al. 2023, arXiv 2303.09540).

    MinHash:   P(min π(A) = min π(B)) = J = |A ∩ B| / |A ∪ B|     over random orders π of all shingles
    SemDeDup:  row i is a duplicate  ⇔  max_{j before i} cos(i, j) > 1 − ε,   within its cluster

MinHash: the share of P random orders in which two texts have the same first shingle estimates their Jaccard index J,
with standard error √(J(1−J)/P): 0.035 at J = 0.8 and P = 128. Two texts are compared if a band of their signatures is
equal. Rows come in order of preference, and a row is left out only for a *kept* row that is like it: a chain of texts,
each a little different from the last, does not leave out its far end.

SemDeDup: within each cluster of k-means, rows are sorted by their cosine to the centre, and a row is a duplicate when
its largest cosine to a row before it exceeds 1−ε. `keep="hard"` (the paper's choice) puts the farthest from the centre
first; as in the release, rows before it count even when they are duplicates themselves. Legend: N rows, P
permutations, b bands of r values, D dims.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.scorers.kmeans import Clusters
from gradsift.scorers.ngrams import U64, mix
from gradsift.scorers.rows import Array, Rows, rows_of

U32 = NDArray[np.uint32]
RECALL = 0.99  # of pairs exactly at the threshold that become candidates
BLOCK = 2048  # rows of a cluster compared at once
CLUSTER_BYTES = 1 << 30  # of a cluster's rows; larger ones are read by blocks


@dataclass(frozen=True)
class Twins:
    """[N] position of the row that each one repeats, −1 for rows that stay, and [N] how alike they are."""

    twin: NDArray[np.int64]
    similarity: NDArray[np.float64]


def signatures(shingles: Iterable[U64], permutations: int = 128, seed: int = 1) -> U32:
    """[N, P] MinHash signatures of sets of shingle hashes (datasketch). About 70 µs for a text of 200 words."""
    from datasketch import MinHash

    empty = MinHash(permutations, seed=seed, hashfunc=_unhashed, scheme="affine32")
    out = []
    for hashes in shingles:
        one = empty.copy()
        one.update_batch(np.unique(hashes & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        out.append(one.hashvalues)
    return np.array(out, np.uint32).reshape(-1, permutations)


def _unhashed(value: Any) -> Any:
    """Shingles are hashes already."""
    return value


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(b, r): the longest bands that still make candidates of 99 % of the pairs at the threshold."""
    best = (permutations, 1)
    for r in range(1, permutations + 1):
        b = permutations // r
        if 1 - (1 - threshold**r) ** b >= RECALL:
            best = (b, r)
    return best


def band_keys(signature: U32, threshold: float) -> U64:
    """[N, b] one hash for each band of each signature."""
    b, r = bands(threshold, signature.shape[1])
    keys = np.zeros((len(signature), b), np.uint64)
    for k in range(b):
        for j in range(k * r, (k + 1) * r):
            keys[:, k] = mix(keys[:, k] + signature[:, j].astype(np.uint64) + np.uint64(k + 1))
    return keys


def near_duplicates(signature: U32, threshold: float = 0.8) -> Twins:
    """Which rows repeat an earlier one: [N, P] signatures in order of preference, the preferred first.

    O(N·b log N) to find who shares a band, then a comparison for each candidate; memory 8·N·b bytes beside the
    signatures. The twin is the most similar kept row, ties to the earlier.
    """
    keys = band_keys(signature, threshold)
    twins = Twins(np.full(len(keys), -1, np.int64), np.zeros(len(keys)))
    kept: list[dict[int, list[int]]] = [{} for _ in range(keys.shape[1])]
    for i in np.flatnonzero(_shared(keys)).tolist():
        by_band = list(zip(kept, keys[i].tolist(), strict=True))
        candidates = {k for rows_with, key in by_band for k in rows_with.get(key, ())}
        if not _note_most_alike(twins, i, signature[i], signature, candidates, threshold):
            for rows_with, key in by_band:
                rows_with.setdefault(key, []).append(i)
    return twins


def _note_most_alike(
    twins: Twins, i: int, signature: NDArray[np.uint32], others: U32, candidates: set[int], threshold: float
) -> bool:
    """Note as row i's twin the candidate among the others that is most like it, ties to the earlier; whether one
    reaches the threshold."""
    if not candidates:
        return False
    ordered = sorted(candidates)
    alike = (others[ordered] == signature).mean(axis=1)
    best = int(alike.argmax())
    if alike[best] < threshold:
        return False
    twins.twin[i], twins.similarity[i] = ordered[best], alike[best]
    return True


def _shared(keys: U64) -> NDArray[np.bool_]:
    """[N] whether a row has any band in common with another."""
    shared = np.zeros(len(keys), bool)
    for column in keys.T:
        order = np.argsort(column, kind="stable")
        same = column[order][1:] == column[order][:-1]
        shared[order[1:][same]] = True
        shared[order[:-1][same]] = True
    return shared


def like_any(signature: U32, others: U32, threshold: float = 0.8) -> Twins:
    """The most similar of `others` ([V, P]) for each of [N, P] rows, −1 where none reaches the threshold."""
    twins = Twins(np.full(len(signature), -1, np.int64), np.zeros(len(signature)))
    if not len(others):
        return twins
    keys, theirs = band_keys(signature, threshold), band_keys(others, threshold)
    near: dict[int, set[int]] = {}
    for column, known in zip(keys.T, theirs.T, strict=True):
        by_key: dict[int, list[int]] = {}
        for v, key in enumerate(known.tolist()):
            by_key.setdefault(key, []).append(v)
        for i in np.flatnonzero(np.isin(column, known)).tolist():
            near.setdefault(i, set()).update(by_key[int(column[i])])
    for i, candidates in near.items():
        _note_most_alike(twins, i, signature[i], others, candidates, threshold)
    return twins


def semdedup(
    rows: Array | Rows,
    clusters: Clusters,
    epsilon: float = 0.05,
    keep: Literal["hard", "easy"] = "hard",
) -> Twins:
    """Semantic duplicates among [N, D] unit rows; ties in the sort go to the earlier row. O(Σ n_c²·D); memory one
    cluster's rows, at most 1 GiB of them."""
    source = rows_of(rows)
    twins = Twins(np.full(len(source), -1, np.int64), np.zeros(len(source)))
    for members, center in zip(clusters.members(), clusters.centers, strict=True):
        length = float(np.linalg.norm(center))
        close = source.part(members).products(center[None] / (length if length > 0 else 1.0))[:, 0].round(6)
        order = members[np.argsort(close if keep == "hard" else -close, kind="stable")]
        own = source.part(order).within(CLUSTER_BYTES)
        for start in range(0, len(order), BLOCK):
            block = order[start : start + BLOCK]
            best, value = _most_alike_before(own, start, start + len(block))
            repeats = value > 1 - epsilon
            twins.twin[block[repeats]] = order[best[repeats]]
            twins.similarity[block[repeats]] = np.minimum(value[repeats], 1.0)
    return twins


def _most_alike_before(rows: Rows, start: int, stop: int) -> tuple[NDArray[np.int64], Array]:
    """For each row from `start` to `stop`: ([n] place of the row before it that is most like it, the earliest of equal
    ones, [n] how alike they are); −inf for the first row."""
    block = rows.read(slice(start, stop))
    best, value = np.zeros(stop - start, np.int64), np.full(stop - start, -np.inf, rows.dtype)
    for low in range(0, stop, BLOCK):
        before = np.arange(low, min(low + BLOCK, stop))
        alike = block @ rows.read(slice(low, int(before[-1]) + 1)).T
        alike[before >= np.arange(start, stop)[:, None]] = -np.inf
        nearest = alike.argmax(axis=1)
        highest = alike[np.arange(len(block)), nearest]
        better = highest > value
        best[better], value[better] = before[nearest[better]], highest[better]
    return best, value
