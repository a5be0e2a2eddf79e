"""Exact nearest neighbours over feature rows, streamed by shard. The reference for any index.

`datastore/products.py` multiplies, `datastore/nearest.py` finds the best, `datastore/mapped.py` keeps shards mapped.
Legend: N rows, Q queries, D dims.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import examples, features, mapped
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.mapped import Column, Rows, open_rows
from gradsift.datastore.nearest import I64, Found, Mask, Part, nearest
from gradsift.datastore.neighbour import Neighbour as Neighbour
from gradsift.datastore.products import Name
from gradsift.datastore.store import Store

SAMPLE = 500  # random rows that tell what is usual
AT_ONCE = 256  # queries
SPARE = 64  # rows beyond twice those that are wanted, of which some may have left the pool
MANY = 5_000  # ids beyond which they are looked for in the shards, not in the catalog
ATTEMPTS = 5  # of a search while shards are merged or rewritten


@dataclass(frozen=True)
class Typical:
    """Quantiles of the similarities of `rows` random rows with a question: what is ordinary, what high and what low."""

    rows: int
    median: float
    p95: float
    p99: float
    highest: float
    p5: float
    p1: float
    lowest: float


def neighbours(
    store: Store,
    space_id: int,
    queries: NDArray[np.float32],
    k: int,
    ids: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    shards: Sequence[int] | None = None,
    kernel: Name | None = None,
    column: Column = "vector",
) -> list[list[Neighbour]]:
    """The k rows of a space (of the given ids, if any; without some; of the given shards, if any) with the highest
    cosine to each of [Q, D] unit queries, best first. For the lowest ask with −q: cosines then have the other sign.

    Exact: cosines are float64 sums over stored rows, ties go to the smaller id, whatever the kernel (`products.Name`;
    by default the best one here). Cost O(N·Q·D) in blocks over memory maps, each shard read once more in a process to
    check it; memory a block and Q·k. It uses as many threads as torch does (`OMP_NUM_THREADS`,
    `torch.set_num_threads`). `column`: search the embeddings that lie beside a space's gradient rows. Check first that
    the query's space is comparable (`features.check_spaces`, `identity.check_comparable`). Raises InputError for
    queries of another dimension or with numbers that are not finite, CorruptionError for a damaged shard.
    """
    return _neighbours(store, [(space_id, 1.0)], [queries], k, _Wish(ids, without, shards, kernel, column))


def neighbours_combined(
    store: Store,
    spaces: Sequence[tuple[int, float]],
    queries: Sequence[NDArray[np.float32]],
    k: int,
    ids: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    kernel: Name | None = None,
) -> list[list[Neighbour]]:
    """Like `neighbours`, of Σ weight × cosine over spaces: one (space, weight > 0) and [Q, D] unit queries for each.

    With weights that sum to 1 it is the cosine of rows √w·x of all spaces side by side, which are not stored. Rows that
    lack in one of the spaces are left out.
    """
    if not spaces or len(spaces) != len(queries):
        raise InputError("give one or more spaces, and queries for each of them")
    if not all(weight > 0 for _, weight in spaces):
        raise InputError("weights of spaces must be above 0; leave the others out")
    return _neighbours(store, spaces, queries, k, _Wish(ids, without, None, kernel))


def best_of_pool(
    store: Store,
    space: int,
    pool: int | None,
    k: int,
    search: Callable[[int, Sequence[str]], list[list[Neighbour]]],
) -> list[list[Neighbour]]:
    """The k best rows that are members of a pool (None: of all), by a search for so many rows, without some. More rows
    than are wanted are looked for first: mostly no row has left the pool, and which have is a long question to the
    catalog."""
    if pool is None:
        return search(k, ())
    count = 2 * k + SPARE
    found = search(count, ())
    members = examples.members(store, pool, {n.example_id for best in found for n in best})
    kept = [[n for n in best if n.example_id in members] for best in found]
    if all(len(inside) >= k or len(best) < count for inside, best in zip(kept, found, strict=True)):
        return [best[:k] for best in kept]
    return search(k, features.outside(store, space, pool))


def merge(lists: Iterable[Sequence[Neighbour]], k: int) -> list[Neighbour]:
    """The k best of the answers to one query from parts of the rows: best first, ties to the smaller id."""
    return sorted((n for part in lists for n in part), key=lambda n: (-n.cosine, n.example_id))[:k]


@dataclass(frozen=True)
class _Wish:
    """Which rows are looked at, and how."""

    ids: Sequence[str] | None
    without: Sequence[str]
    shards: Sequence[int] | None
    kernel: Name | None
    column: Column = "vector"


def _neighbours(
    store: Store, spaces: Sequence[tuple[int, float]], queries: Sequence[NDArray[np.float32]], k: int, wish: _Wish
) -> list[list[Neighbour]]:
    for _ in range(ATTEMPTS):
        rows = [open_rows(store, space, wish.shards, wish.column) for space, _ in spaces]
        found = _of_rows(store, spaces, rows, queries, k, wish)
        if all(mapped.are_current(store, space, held) for (space, _), held in zip(spaces, rows, strict=True)):
            return [[Neighbour(f.example_id, f.cosine) for f in best] for best in found]
    raise BusyError("the store's shards were replaced each time that it was searched; search again when that is done")


def _of_rows(
    store: Store,
    spaces: Sequence[tuple[int, float]],
    rows: Sequence[Rows],
    queries: Sequence[NDArray[np.float32]],
    k: int,
    wish: _Wish,
) -> list[list[Found]]:
    if not all(map(len, rows)):
        return [[] for _ in queries[0]]
    for asked, held in zip(queries, rows, strict=True):
        if asked.ndim != 2 or asked.shape[1] != held.dim or len(asked) != len(queries[0]):
            raise InputError(f"queries of shape {asked.shape} do not fit {len(queries[0])} × {held.dim}")
        if not np.isfinite(asked).all():
            raise InputError("a query has numbers that are not finite; leave it out")
    (first, _), *others = spaces
    known: list[Mask | None] = [None] * len(spaces)
    if wish.ids is not None or wish.without:
        some = np.ones(len(rows[0]), bool) if wish.ids is None else _mask(store, first, rows[0], wish.ids)
        known[0] = some & ~_mask(store, first, rows[0], wish.without) if wish.without else some
    found = _found(spaces, rows, queries, k, known, wish.kernel)
    if not _all_listed(store, spaces, rows, found):
        # A shard holds rows that left the catalog, and they are in the way: look up which of all rows count.
        known[1:] = [_mask(store, space, held, None) for (space, _), held in zip(others, rows[1:], strict=True)]
        listed = _mask(store, first, rows[0], None)
        known[0] = listed if known[0] is None else known[0] & listed
        found = _found(spaces, rows, queries, k, known, wish.kernel)
    return found


def _found(
    spaces: Sequence[tuple[int, float]],
    rows: Sequence[Rows],
    queries: Sequence[NDArray[np.float32]],
    k: int,
    known: Sequence[Mask | None],
    kernel: Name | None,
) -> list[list[Found]]:
    """The best rows, of those known in every space."""
    at = [None, *(_place(rows[0], other, mask) for other, mask in zip(rows[1:], known[1:], strict=True))]
    wanted = known[0]
    for place in at:
        if place is not None and (place < 0).any():
            wanted = (place >= 0) if wanted is None else wanted & (place >= 0)
    found: list[list[Found]] = []
    for start in range(0, len(queries[0]), AT_ONCE):
        asked = [np.ascontiguousarray(q[start : start + AT_ONCE], np.float32) for q in queries]
        parts = [
            Part(held, q, weight, place) for held, q, (_, weight), place in zip(rows, asked, spaces, at, strict=True)
        ]
        found += nearest(parts, wanted, k, kernel)
    return found


def _mask(store: Store, space_id: int, rows: Rows, ids: Sequence[str] | None) -> Mask:
    """[N] which rows the catalog lists, of all examples or of some; of many, rows that have left may be among them, of
    which `_all_listed` knows."""
    if ids is not None and len(ids) > MANY:
        wanted = pa.array(ids, pa.string())
        inside = [pc.is_in(part.ids, value_set=wanted) for part in rows.parts]
        return np.concatenate([part.to_numpy(zero_copy_only=False) for part in inside]) if inside else np.zeros(0, bool)
    mask = np.zeros(len(rows), bool)
    start_of: dict[int, int] = {}
    for part, start in zip(rows.parts, rows.starts.tolist(), strict=False):
        start_of.setdefault(part.shard_id, start)
    for shard_id, at in mapped.places(store, space_id, ids).items():
        if shard_id in start_of:
            mask[start_of[shard_id] + at] = True
    return mask


def _place(first: Rows, other: Rows, known: Mask | None) -> I64:
    """[N] the number in other rows of each example of the first, −1 where it has none."""
    numbers = np.arange(len(other)) if known is None else np.flatnonzero(known)
    names = pa.chunked_array([part.ids for part in other.parts])
    at = pc.index_in(
        pa.chunked_array([part.ids for part in first.parts]),
        value_set=names if known is None else names.filter(known),
    )
    found = np.concatenate([part.fill_null(-1).to_numpy(zero_copy_only=False) for part in at.chunks]).astype(np.int64)
    return np.where(found >= 0, numbers[found], -1) if len(numbers) else np.full(len(first), -1)


def _all_listed(
    store: Store, spaces: Sequence[tuple[int, float]], rows: Sequence[Rows], found: Sequence[Sequence[Found]]
) -> bool:
    """Whether the catalog lists every row that was found. If so, rows that it does not list changed nothing."""
    numbers = np.array(sorted({f.number for best in found for f in best}), np.int64)
    for c, ((space, _), held) in enumerate(zip(spaces, rows, strict=True)):
        own = numbers if c == 0 else _place(rows[0], held, None)[numbers]
        if not mapped.listed(store, space, held, own).all():
            return False
    return True


def typical(
    store: Store,
    spaces: Sequence[tuple[int, float]],
    queries: Sequence[NDArray[np.float32]],
    pool: int | None,
    without: Sequence[Collection[str]],
    column: Column = "vector",
) -> list[Typical | None]:
    """What is usual for each of Q questions: its cosines with SAMPLE rows of the spaces, added with their weights, but
    for rows of the examples in its `without`; None where there is no other row.

    `queries` are [Q, D] unit rows for each space, as for `neighbours_combined`. The rows are of members of the dataset,
    if one is given: those with the lowest ids, which are digests and so a random choice.
    """
    ids = features.some_with_rows(store, spaces[0][0], pool, SAMPLE)
    sides = [mapped.units(store, space, ids, column) for space, _ in spaces]
    ids = [i for i in ids if all(i in rows for rows in sides)]
    if not ids:
        return [None for _ in without]
    cosines = sum(
        weight * (asked @ np.stack([rows[i] for i in ids]).T)
        for asked, rows, (_, weight) in zip(queries, sides, spaces, strict=True)
    )
    return usual(np.asarray(cosines), ids, without)


def usual(
    similarities: NDArray[np.floating], ids: Sequence[str], without: Sequence[Collection[str]]
) -> list[Typical | None]:
    """Quantiles of each row of [Q, n] similarities with examples, but those in its `without`."""
    kept = [np.array([i not in set(out) for i in ids], bool) for out in without]
    return [quantiles(row[of]) if of.any() else None for row, of in zip(similarities, kept, strict=True)]


def quantiles(cosines: NDArray[np.floating]) -> Typical:
    """What is ordinary among similarities [n], of which there is one at least."""
    ordered = np.sort(cosines, axis=None)  # np.quantile loads numpy.ma for the same, which takes as long as a search
    found = np.interp(
        np.array((0, 0.01, 0.05, 0.5, 0.95, 0.99, 1)) * (cosines.size - 1), np.arange(cosines.size), ordered
    )
    lowest, p1, p5, median, p95, p99, highest = (round(float(q), 4) for q in found)
    return Typical(cosines.size, median, p95, p99, highest, p5, p1, lowest)
