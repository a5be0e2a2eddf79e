"""The k best rows of a scan: coarse products find candidates, float64 decides between them.

While rows go by, a candidate is a value and a margin: the cosine is within margin of value. The k-th highest
`value − margin` of a query is its floor, and a row whose `value + margin` is below cannot be among the k best. What is
left at the end is computed in float32, and what that leaves open in float64; ties go to the smaller id. So the answer
does not depend on the kernel, the size of blocks or the number of threads.

Legend: Q queries, N rows, n rows of a block, D dims, c candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.mapped import Rows
from gradsift.datastore.products import (
    F32,
    F64,
    FINE,
    Buffers,
    Name,
    Prepared,
    block_rows,
    choose,
    multiply,
    prepare,
    rounding,
)
from gradsift.datastore.rows import Array

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

AT_A_TIME = 1 << 20  # numbers of candidates that are computed anew
ROOM = 4096  # candidates of a query beside 16·k, above which they are told apart by a finer product
FIRST = 512  # rows of which the first floor is taken
LEAST = -1e30  # below all scores but that of a row that is not wanted
SPARSE = 0.5  # below this share of wanted rows a block is copied without the others


@dataclass(frozen=True)
class Part:
    """Rows of one space and what is asked of them; of several, cosines are added by weight."""

    rows: Rows
    queries: F32  # [Q, D]
    weight: float = 1.0
    place: I64 | None = None  # [N] the number in `rows` of each row of the first part; −1 where it has none


@dataclass(frozen=True)
class Found:
    """A row among the k best of a query."""

    cosine: float
    example_id: str
    number: int  # of the row in the first part


@dataclass
class _Pool:
    """Candidates of all queries."""

    k: int
    margin: F64  # [Q] of a coarse product
    query: I64 = field(default_factory=lambda: np.empty(0, np.int64))  # [c], as the three that follow
    number: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    value: F64 = field(default_factory=lambda: np.empty(0))
    off: F64 = field(default_factory=lambda: np.empty(0))  # margin of each: 0 once it is exact
    waiting: list[tuple[I64, I64, F64]] = field(default_factory=list)
    held: int = 0  # candidates, with those waiting
    due: int = 0  # prune when there are more

    def __post_init__(self) -> None:
        self.floor = np.full(len(self.margin), -np.inf)

    def admit(self, scores: F32, unit: F32, numbers: I64, wanted: Mask | None) -> None:
        """Take what may be among the best of [Q, n] scores; times `unit` [Q], they are cosines."""
        if wanted is not None:
            scores[:, ~wanted] = -np.inf
        new = np.flatnonzero(np.isneginf(self.floor))
        if self.k < scores.shape[1] and len(new):
            some = scores[new, : max(FIRST, 8 * self.k)]  # the k-th of a part is below that of all, and found sooner
            kth = np.partition(some, -self.k, axis=1)[:, -self.k]
            self.floor[new] = kth * unit[new] - self.margin[new]
        least = np.maximum((self.floor - self.margin) / unit, LEAST).astype(np.float32)
        above = scores >= np.nextafter(least, np.float32(-np.inf))[:, None]
        query, column = np.divmod(np.flatnonzero(above), scores.shape[1])
        value = scores[query, column].astype(np.float64) * unit[query]
        self.waiting.append((query, numbers[column], value))
        self.held += len(query)
        if self.held > self.due:
            self.prune()

    def prune(self) -> None:
        """Raise the floors, and drop what is below them."""
        if self.waiting:
            query, number, value = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
            self.query, self.number = np.concatenate([self.query, query]), np.concatenate([self.number, number])
            self.value = np.concatenate([self.value, value])
            self.off = np.concatenate([self.off, self.margin[query]])
            self.waiting = []
        lower = self.value - self.off
        span = 4 * float(np.abs(lower).max(initial=0.0)) + 1
        order = np.argsort(self.query * span - lower)  # by query, then by value: faster than two keys
        starts = np.searchsorted(self.query[order], np.arange(len(self.floor) + 1))
        full = np.flatnonzero(np.diff(starts) >= self.k)
        kth = lower[order][starts[full] + self.k - 1] - 1e-9 * span  # what the sum may have put in another order
        self.floor[full] = np.maximum(self.floor[full], kth)
        self.keep(np.flatnonzero(self.value + self.off >= self.floor[self.query]))

    def keep(self, which: I64) -> None:
        """Drop the others."""
        self.query, self.number = self.query[which], self.number[which]
        self.value, self.off = self.value[which], self.off[which]
        self.held = len(which)
        self.due = 2 * self.held + ROOM

    @property
    def crowded(self) -> bool:
        """Whether there are more candidates than ever should be."""
        return self.held > len(self.floor) * (16 * self.k + ROOM)


class _Crowded(Exception):
    """More rows lie within the margin than a finer product would cost."""


def nearest(parts: Sequence[Part], wanted: Mask | None, k: int, kernel: Name | None = None) -> list[list[Found]]:
    """For each of Q queries the k rows (of those wanted, if not all) with the highest weighted sum of cosines.

    Cost O(N·Q·D) products of small integers, then O(candidates·D) in float64: some dozens for each query, more where
    thousands of rows are nearly equal. Memory O(Q·k) and a block.
    """
    if k < 1 or not len(parts[0].rows):
        return [[] for _ in parts[0].queries]
    first = parts[0]
    kernel = kernel or choose(len(parts) * len(first.queries), len(first.rows), first.rows.dim)
    try:
        return _scanned(parts, wanted, k, kernel)
    except _Crowded:
        return _scanned(parts, wanted, k, "f32")


def _scanned(parts: Sequence[Part], wanted: Mask | None, k: int, kernel: Name | None) -> list[list[Found]]:
    prepared = [prepare(part.queries, part.rows.stored, kernel) for part in parts]
    margin = np.stack([part.weight * ready.error for part, ready in zip(parts, prepared, strict=True)]).sum(axis=0)
    pool, buffers = _Pool(k, margin), Buffers()
    coarse = any(ready.kernel not in FINE for ready in prepared)
    for numbers, mask in _blocks(parts, wanted):
        pool.admit(*_scores(parts, prepared, numbers, buffers), numbers, mask)
        if pool.crowded:
            pool.prune()
        if pool.crowded and coarse:
            raise _Crowded
        if pool.crowded:
            _settle(parts, pool)
    return _exact(parts, pool)


def _blocks(parts: Sequence[Part], wanted: Mask | None) -> Iterator[tuple[I64, Mask | None]]:
    """Numbers of the rows of each block of the first part, and which of them are wanted, where that is not all."""
    rows = parts[0].rows
    size = block_rows(max(part.rows.dim for part in parts), len(parts[0].queries))
    for first, end in zip(rows.starts[:-1].tolist(), rows.starts[1:].tolist(), strict=True):
        for start in range(first, end, size):
            numbers = np.arange(start, min(start + size, end))
            mask = None if wanted is None else wanted[numbers]
            if mask is None or mask.all():
                yield numbers, None
            elif len(parts) > 1 or mask.mean() < SPARSE:
                if mask.any():
                    yield numbers[mask], None
            else:
                yield numbers, mask


def _scores(parts: Sequence[Part], prepared: Sequence[Prepared], numbers: I64, buffers: Buffers) -> tuple[F32, F32]:
    """[Q, n] scores of rows, and what they are to be multiplied by [Q]."""
    if len(parts) == 1:
        unit = prepared[0].step * np.float32(parts[0].weight)
        return multiply(prepared[0], *_stored(parts[0], numbers), buffers), unit
    total = np.zeros((len(prepared[0].step), len(numbers)), np.float32)
    for part, ready in zip(parts, prepared, strict=True):
        products = multiply(ready, *_stored(part, numbers), buffers)
        products *= (ready.step * np.float32(part.weight))[:, None]
        total += products
    return total, np.ones(len(total), np.float32)


def _stored(part: Part, numbers: I64) -> tuple[Array, F32]:
    """Vectors and scales of rows of the first part: a view where they follow each other in a shard, else a copy."""
    own = numbers if part.place is None else part.place[numbers]
    k = int(np.searchsorted(part.rows.starts, own[0], side="right")) - 1
    start = int(own[0] - part.rows.starts[k])
    held = part.rows.parts[k]
    follow = own[-1] - own[0] == len(own) - 1 and (part.place is None or bool((np.diff(own) == 1).all()))
    if follow and start + len(own) <= len(held):
        return held.vectors[start : start + len(own)], held.scale[start : start + len(own)]
    return part.rows.gather(own)


def _cosines(parts: Sequence[Part], query: I64, number: I64, *, exact: bool) -> F64:
    """[c] weighted sums of cosines of rows with queries, in float64 or float32."""
    found = np.zeros(len(query))
    size = max(1, AT_A_TIME // max(part.rows.dim for part in parts))
    for start in range(0, len(query), size):
        span = slice(start, start + size)
        for part in parts:
            own = number[span] if part.place is None else part.place[number[span]]
            found[span] += part.weight * part.rows.cosines(own, part.queries[query[span]], exact=exact)
    return found


def _settle(parts: Sequence[Part], pool: _Pool) -> None:
    """Compute all candidates exactly and keep the k best of each query."""
    found = _exact(parts, pool)
    pool.query = np.repeat(np.arange(len(found)), [len(best) for best in found])
    pool.number = np.array([f.number for best in found for f in best], np.int64)
    pool.value = np.array([f.cosine for best in found for f in best])
    pool.off, pool.waiting = np.zeros(len(pool.query)), []
    pool.keep(np.arange(len(pool.query)))
    pool.prune()


def _exact(parts: Sequence[Part], pool: _Pool) -> list[list[Found]]:
    """The k best of each query, best first, ties by id."""
    pool.prune()
    fine = sum((p.weight * rounding(p.queries) for p in parts), np.zeros(len(pool.floor)))
    some = np.flatnonzero(pool.off > fine[pool.query])
    pool.value[some] = _cosines(parts, pool.query[some], pool.number[some], exact=False)
    pool.off[some] = fine[pool.query[some]]
    pool.prune()
    some = np.flatnonzero(pool.off)
    pool.value[some] = _cosines(parts, pool.query[some], pool.number[some], exact=True)
    order = np.lexsort((-pool.value, pool.query))
    query, number, value = pool.query[order], pool.number[order], pool.value[order]
    starts = np.searchsorted(query, np.arange(len(pool.floor) + 1))
    last = np.minimum(starts[:-1] + pool.k, starts[1:]) - 1
    tied = value >= value[np.maximum(last, 0)][query] if len(query) else np.empty(0, bool)  # the k-th, and its equals
    query, number, value = query[tied], number[tied], value[tied]
    found: list[list[Found]] = [[] for _ in pool.floor]
    for q, cosine, name, row in zip(
        query.tolist(), value.tolist(), parts[0].rows.ids(number), number.tolist(), strict=True
    ):
        found[q].append(Found(cosine, name, row))
    return [sorted(best, key=lambda f: (-f.cosine, f.example_id))[: pool.k] for best in found]
