"""Stored rows put in the order of their examples, in a scratch file: what looks at all rows of a pool reads this map.

Shards hold rows in the order in which they were computed. Whoever sums or compares rows wants one order that does not
depend on that, and blocks that lie side by side; and a pool's rows may be more than memory. So they are copied once, as
they are stored, into a file without a name beside the store, which the system takes away when nobody reads it any more,
after a kill too. Its pages are a cache of the disk: they are given back when memory is short.
Legend: N examples, W stored width of a row.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import files
from gradsift.datastore.rows import Array, unpack_int4
from gradsift.datastore.store import Store

F32 = NDArray[np.float32]
Where = slice | NDArray[np.int64]


@dataclass(frozen=True)
class Laid:
    """Rows of one space in the order of the examples: [N, W] as stored, and [N] scales; zero where there is no row."""

    vectors: Array
    scale: F32

    @property
    def dims(self) -> int:
        """Number of dims of a row."""
        return int(self.vectors.shape[1]) * (2 if self.vectors.dtype == np.uint8 else 1)

    def decode(self, where: Where) -> F32:
        """The f32 rows there, as `FeatureBlock.unit` makes them."""
        vectors = self.vectors[where]
        numbers = unpack_int4(vectors) if vectors.dtype == np.uint8 else vectors
        rows: F32 = numbers.astype(np.float32)
        rows *= self.scale[where][:, None]
        return rows


def lay_out(store: Store, size: int, blocks: Iterable[tuple[NDArray[np.int64], Array, F32]]) -> Laid:
    """Copy (places, [n, W] stored rows, [n] scales) to their places among `size`, each block once read.

    Costs size·W bytes of disk, until the result is let go. Raises StoreFullError where there are not as many.
    """
    laid: Laid | None = None
    for places, vectors, scale in blocks:
        if laid is None:
            laid = Laid(_map(store.root, vectors.dtype, (size, vectors.shape[1])), np.zeros(size, np.float32))
        laid.vectors[places], laid.scale[places] = vectors, scale
    if laid is None:
        raise ValueError("there is no row to lay out")
    return laid


def _map(folder: Path, dtype: np.dtype[np.generic], shape: tuple[int, int]) -> Array:
    """Zeros in a new file without a name."""
    size = max(1, shape[0] * shape[1] * dtype.itemsize)
    with files.disk_errors(folder / "scratch"), tempfile.TemporaryFile(dir=folder) as handle:
        _reserve(handle, size)
        scratch: Array = np.memmap(handle, dtype, "r+", shape=shape)
    return scratch


def _reserve(handle: IO[bytes], size: int) -> None:
    """Take the disk's blocks now: a map of a file with holes ends the process when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), 0, size)
        return
    zeros = bytes(1 << 20)
    while (left := size - handle.tell()) > 0:
        handle.write(zeros[:left])
    handle.flush()
