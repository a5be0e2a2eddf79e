"""Rows that need not be in memory: [N, D] numbers that are read by blocks or by positions.

Whoever looks at rows takes an array or `Rows`, and gets the same from both: blocks are of a size that depends on D
alone, not on what memory there is, so that sums and products are taken in the same parts wherever the rows lie.
Legend: N rows, D dims, Q queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Where = slice | NDArray[np.int64]
BLOCK_BYTES = 64 << 20  # of f32: a block; readers hold a few of them
BLOCK_ROWS = 4096  # FAISS searches so many at a time
F32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Rows:
    """[N, D] rows: `read` gives those of a slice or of positions, as a new array of `dtype`, or as a view that nobody
    writes to. `step` rows make a block. `held`: they are an array in memory, and reading a slice costs nothing."""

    shape: tuple[int, int]
    read: Callable[[Where], Array]
    step: int
    dtype: np.dtype[Any] = F32
    held: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """(places, [n, D] rows) from the first to the last."""
        for start in range(0, len(self), self.step):
            part = slice(start, min(start + self.step, len(self)))
            yield part, self.read(part)

    def part(self, positions: NDArray[np.int64]) -> "Rows":
        """The rows at these positions, in this order, read when they are asked for."""
        return Rows((len(positions), self.shape[1]), lambda where: self.read(positions[where]), self.step, self.dtype)

    def each(self, change: Callable[[Array], Array], dims: int | None = None) -> "Rows":
        """Rows changed one by one, [n, D] → [n, `dims`], when they are read."""
        width = self.shape[1] if dims is None else dims
        return Rows((len(self), width), lambda where: change(self.read(where)), self.step, self.dtype)

    def array(self) -> Array:
        """All of them in memory."""
        out = np.empty(self.shape, self.dtype)
        for part, rows in self.blocks():
            out[part] = rows
        return out

    def within(self, limit: float) -> "Rows":
        """The same rows; in memory, where that takes at most `limit` bytes."""
        if self.held or self.nbytes > limit:
            return self
        return Rows(self.shape, self.array().__getitem__, self.step, self.dtype, held=True)

    @property
    def nbytes(self) -> int:
        """Bytes that they take in memory."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def products(self, queries: Array) -> Array:
        """[N, Q] inner products with [Q, D] queries."""
        out = np.empty((len(self), len(queries)), self.dtype)
        turned = queries.astype(self.dtype, copy=False).T
        for part, rows in self.blocks():
            if len(queries) == 1:
                out[part, 0] = rows @ turned[:, 0]  # one of them is cheaper as a vector
            else:
                np.matmul(rows, turned, out=out[part])
        return out


def rows_of(rows: "Array | Rows") -> Rows:
    """An array as `Rows`."""
    if isinstance(rows, Rows):
        return rows
    return Rows((len(rows), rows.shape[1]), rows.__getitem__, block_rows(rows.shape[1]), rows.dtype, held=True)


def block_rows(dims: int) -> int:
    """Rows of a block: 4,096, or as many as 64 MiB hold."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, dims))))


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """[N, D] rows → f32 unit rows; a zero row stays zero."""
    values = rows.astype(np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1), np.float32)
