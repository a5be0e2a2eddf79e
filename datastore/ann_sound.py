"""Whether what FAISS made of a file may be asked.

FAISS reads a file as it is and walks what it says without looking: a link to a row that is not there, or lists that are
shorter than they say, are reads outside of its memory. A file has the digest that the catalog gives it, and who can
write the catalog, of a store that came from elsewhere say, chooses both. So sizes are refused before FAISS makes room
for them (`Sizes`), and what it walks is looked at before it does (`wrong`). Legend: N rows, D dims, L lists, M links.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MARKS = 1 << 20  # numbers up to this stand in a file for no size
LISTS = (
    b"ilar"  # after which their number and the width of their rows stand, and their lengths: FAISS makes room for all
)
ALL, SOME = b"full", b"sprs"
I64 = NDArray[np.int64]


class Sizes:
    """What a file of [N, D] rows in L lists says of sizes while FAISS reads it, of `width` bytes a row in a list."""

    def __init__(self, rows: int, lists: int, width: int) -> None:
        self._rows, self._lists, self._width = rows, lists, width
        self._next: list[int] = []  # the numbers that must come
        self._kind = b""  # how the lengths of lists stand: of all, or (list, length) of those that hold something
        self._bytes, self._listed = 0, 0  # of these lengths that are to come; their sum

    def refuses(self, part: bytes, left: int) -> bool:
        """Whether a part that FAISS has read, with so many bytes after it, is a size that these cannot hold. Eight
        bytes may also be the one row that a list holds, by its number; vectors of eight bytes there are none."""
        if self._bytes:
            return self._refuses_lengths(part)
        if part == LISTS:
            self._next = [self._lists, self._width]
        if part in (ALL, SOME):
            self._kind = part
        if len(part) != 8:
            return False
        number = int.from_bytes(part, "little")
        if self._next:
            return number != self._next.pop(0)
        if self._kind:
            right = number == self._lists if self._kind == ALL else number % 2 == 0 and number <= 2 * self._lists
            self._bytes = 8 * number if right else 0
            return not right
        return number > max(left, self._rows, MARKS)

    def _refuses_lengths(self, part: bytes) -> bool:
        numbers = np.frombuffer(part[: len(part) // 8 * 8], "<u8")
        some = self._kind == SOME
        lengths = numbers[1::2] if some else numbers
        self._bytes -= len(part)
        if self._bytes <= 0:
            self._kind, self._bytes = b"", 0
        if (lengths > self._rows).any() or (some and (numbers[::2] >= self._lists).any()):
            return True
        self._listed += int(lengths.sum())
        return self._listed > self._rows


def wrong(index: Any, dims: int, rows: int, lists: int) -> str:
    """What is wrong with an index of [N, D] rows (in L lists, of kinds that have any), or ''. Cost: a look at every
    link or list entry."""
    import faiss

    name = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or not index.is_trained:
        return "it does not measure cosines"
    if name == "IndexHNSWFlat":
        return _flat(index.storage, dims, rows) or _links(index.hnsw, rows)
    if name in ("IndexIVFFlat", "IndexIVFScalarQuantizer"):
        return _flat(index.quantizer, dims, lists) or _coded(index, dims) or _lists(index, rows, lists)
    return _flat(index, dims, rows)


def _flat(index: Any, dims: int, rows: int) -> str:
    import faiss

    flat: Any = faiss.downcast_index(index) if index is not None else None
    is_flat = isinstance(flat, faiss.IndexFlat) and flat.metric_type == faiss.METRIC_INNER_PRODUCT
    if not is_flat or (flat.d, flat.ntotal) != (dims, rows):
        return "its vectors are not those of its rows"
    return (
        "" if flat.codes.size() == 4 * dims * rows and flat.code_size == 4 * dims else "it has other vectors than rows"
    )


def _links(graph: Any, rows: int) -> str:
    """Of each row its links on its levels, one after the other: `first[level]` is where those of a level begin."""
    first, levels, offsets, links = (
        _array(getattr(graph, name)) for name in ("cum_nneighbor_per_level", "levels", "offsets", "neighbors")
    )
    if len(levels) != rows or len(offsets) != rows + 1 or not len(first):
        return "its graph is not of its rows"
    if first[0] or (np.diff(first) < 0).any() or levels.min(initial=1) < 1 or levels.max(initial=1) >= len(first):
        return "its graph has levels that are none"
    if offsets[0] or offsets[-1] != len(links) or (np.diff(offsets) != first[levels]).any():
        return "links of its graph are not where they should be"
    if links.min(initial=-1) < -1 or links.max(initial=-1) >= rows:
        return "its graph has links to rows that are not there"
    place = np.arange(len(links)) - np.repeat(offsets[:-1], np.diff(offsets))
    level = np.searchsorted(first, place, side="right") - 1
    if (levels[links[links >= 0]] <= level[links >= 0]).any():
        return "its graph has links to rows that are not on their level"
    top, entry = graph.max_level, graph.entry_point
    if (rows or entry != -1) and not (0 <= entry < rows and top == levels.max() - 1 and levels[entry] == top + 1):
        return "its graph begins nowhere"
    return ""


def _coded(index: Any, dims: int) -> str:
    if not hasattr(index, "sq"):
        return "" if index.code_size == 4 * dims else "its rows are of another width"
    import faiss

    sq = index.sq
    eight = (sq.qtype, sq.d, sq.code_size) == (faiss.ScalarQuantizer.QT_8bit, dims, dims)
    trained = sq.trained.size() == 2 * dims and index.code_size == dims and not index.by_residual
    return "" if eight and trained else "its rows are of another width"


def _lists(index: Any, rows: int, lists: int) -> str:
    import faiss

    held = faiss.downcast_InvertedLists(index.invlists)
    if type(held).__name__ != "ArrayInvertedLists" or (held.nlist, index.nlist) != (lists, lists):
        return "its lists are none"
    if held.code_size != index.code_size or index.direct_map.type != 0:
        return "its lists are of another width"
    known = [faiss.rev_swig_ptr(held.get_ids(k), held.list_size(k)) for k in range(lists) if held.list_size(k)]
    listed = np.concatenate(known) if known else np.empty(0, np.int64)
    return "" if np.array_equal(np.sort(listed), np.arange(rows)) else "its lists do not hold its rows"


def _array(vector: Any) -> I64:
    import faiss

    return np.asarray(faiss.vector_to_array(vector)).astype(np.int64)
