"""Between Arrow and NumPy without pandas: `pyarrow.array` and `Array.to_numpy` import it, where it is installed, to see
whether it is meant, which takes as long as a search."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore.errors import CorruptionError

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = {"int8": "i1", "uint8": "u1", "halffloat": "f2", "float": "f4", "double": "f8"}


def positions(numbers: NDArray[np.int64]) -> "pa.Array":
    """[n] numbers as Arrow has them, for `take`."""
    import pyarrow as pa

    held = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(held), [None, pa.py_buffer(held)])


def numbers(array: "pa.Array") -> NDArray[np.generic]:
    """[n] the numbers of an array as they lie in its memory: a view that keeps it. What is null is any number.

    Raises CorruptionError for an array of something else than numbers.
    """
    dtype = NUMBERS.get(str(array.type))
    if dtype is None:
        raise CorruptionError(f"a column of {array.type} where numbers should be. Run `gradsift verify`")
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)
