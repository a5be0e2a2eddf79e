"""FAISS and nothing of the store: make an index of unit rows, ask it for candidates, write it, read it back.

| kind | memory, bytes a row | what `effort` is |
|---|---|---|
| `flat` | 4·D | (every row is looked at) |
| `ivf_flat` | 4·D + 8 | lists that are probed, of `lists` |
| `ivf_sq8` | D + 8 | lists that are probed, of `lists` |
| `hnsw` | 4·D + 8·LINKS and a little | candidates that the walk keeps (`efSearch`) |

Candidates are positions, in the order in which rows were added; their cosines are for the caller to compute from the
rows themselves. Training is decided by the sample and the seed; rows are added to an HNSW graph by one thread, so that
the same rows in the same order make the same file. Legend: N rows, D dims, Q questions, M candidates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import ann_sound
from gradsift.datastore.errors import CorruptionError

Kind = Literal["flat", "ivf_flat", "ivf_sq8", "hnsw"]
KINDS: tuple[Kind, ...] = ("flat", "ivf_flat", "ivf_sq8", "hnsw")
IVF = ("ivf_flat", "ivf_sq8")
LINKS = 32  # of a row of the graph, on each level above the first; twice as many there
BUILD_EFFORT = 100  # efConstruction
_CLASSES = {
    "flat": "IndexFlatIP",
    "ivf_flat": "IndexIVFFlat",
    "ivf_sq8": "IndexIVFScalarQuantizer",
    "hnsw": "IndexHNSWFlat",
}
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """What an index is built by. `lists` is 0 for kinds without lists; `sample` is how many rows it was trained on;
    `wished` and `effort` are what a caller decided of lists and effort (0 and None: nothing)."""

    kind: Kind
    lists: int
    sample: int
    seed: int
    wished: int = 0
    effort: int | None = None


def bytes_of(kind: Kind, rows: int, dims: int) -> int:
    """About what an index of so many rows takes, in memory and on disk."""
    codes = dims if kind == "ivf_sq8" else 4 * dims
    beside = {"flat": 0, "hnsw": 8 * LINKS + 32}.get(kind, 8)
    return rows * (codes + beside)


def make(plan: Plan, dims: int, sample: F32) -> Any:
    """An empty index, trained on [n, D] unit rows (for kinds with lists; at least as many rows as lists)."""
    faiss = _faiss()
    if plan.kind == "flat":
        return faiss.IndexFlatIP(dims)
    if plan.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dims, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_EFFORT
        return graph
    coarse = faiss.IndexFlatIP(dims)
    if plan.kind == "ivf_flat":
        index = faiss.IndexIVFFlat(coarse, dims, plan.lists, faiss.METRIC_INNER_PRODUCT)
    else:
        eight = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(coarse, dims, plan.lists, eight, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.seed, index.cp.spherical = plan.seed, True
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, max(1, len(sample))
    index.train(sample)
    return index


def add(index: Any, kind: Kind, rows: F32) -> None:
    """Add [n, D] unit rows after those that it has."""
    if kind == "hnsw":
        with _one_thread():
            index.add(rows)
    else:
        index.add(rows)


def candidates(index: Any, kind: Kind, questions: F32, count: int, effort: int) -> NDArray[np.int64]:
    """[Q, count] positions of rows that are probably the nearest to [Q, D] questions; −1 where there is no further."""
    faiss = _faiss()
    settings = None
    if kind in IVF:
        settings = faiss.SearchParametersIVF(nprobe=effort)
    if kind == "hnsw":
        settings = faiss.SearchParametersHNSW(efSearch=max(effort, count))
    _, positions = index.search(np.ascontiguousarray(questions, np.float32), count, params=settings)
    return np.asarray(positions, np.int64)


def write(index: Any, handle: BinaryIO) -> None:
    """Write an index to a handle, in pieces."""
    faiss = _faiss()
    faiss.write_index(index, faiss.PyCallbackIOWriter(handle.write))


def read(content: Iterator[bytes], plan: Plan, dims: int, rows: int, size: int) -> Any:
    """The index in these pieces of together `size` bytes, whose digests the caller has checked.

    Raises CorruptionError when they are not an index of this kind, of `rows` rows of `dims` dims, or one that may not
    be asked (`ann_sound`); and what the pieces raise.
    """
    faiss = _faiss()
    rest, left, refused = memoryview(b""), size, list[CorruptionError]()
    sizes = ann_sound.Sizes(rows, plan.lists, dims if plan.kind == "ivf_sq8" else 4 * dims)

    def piece(size: int) -> bytes:
        nonlocal rest, left
        if refused:
            return b""
        if not rest:
            try:
                rest = memoryview(next(content, b""))
            except CorruptionError as error:  # FAISS would hide it: it is given an end of the file
                refused.append(error)
        part, rest = bytes(rest[:size]), rest[size:]
        left -= len(part)
        if sizes.refuses(part, left):
            refused.append(CorruptionError("it says sizes that it has not"))
            return b""
        return part

    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(piece))
    except (RuntimeError, MemoryError) as error:
        if refused:
            raise refused[0] from None
        raise CorruptionError(f"this faiss ({faiss.__version__}) cannot read it ({str(error)[:200]})") from error
    shape = (type(index).__name__, *(getattr(index, name, None) for name in ("d", "ntotal")))  # it may be nothing
    if shape != (_CLASSES[plan.kind], dims, rows):
        raise CorruptionError(f"it is {shape}, not {(_CLASSES[plan.kind], dims, rows)}")
    if why := ann_sound.wrong(index, dims, rows, plan.lists):
        raise CorruptionError(why)
    return index


def version() -> str:
    """FAISS's version."""
    return str(_faiss().__version__)


def _faiss() -> Any:
    import faiss  # its types say nothing of what Python adds to it

    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
