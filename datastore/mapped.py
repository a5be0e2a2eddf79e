"""Rows of a space as memory maps that stay open, for searches: ids, vectors and scales, without a copy.

A shard's digest is checked on first use in a process (`Store.map`), and again when somebody wrote to it. What left the
catalog is let go at the next look.
Beside the gradient rows of a shard lie the embeddings of the same pass, where they were kept: asked for by their
column, they are rows like any other.
Legend: N rows of all shards, n rows of one, D dims.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import features
from gradsift.datastore.arrow import numbers, positions
from gradsift.datastore.engine import marks, parts
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.rows import Array, RowDtype, unpack_int4
from gradsift.datastore.store import Store

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Column = Literal["vector", "embedding"]
_STORED: dict[str, RowDtype] = {"int8": "int8", "uint8": "int4", "float16": "f16"}


@dataclass(frozen=True)
class MappedRows:
    """Rows of one record batch of a shard. `vectors` is a view of the mapped file: never write to it."""

    shard_id: int
    first: int  # row of the shard that is the first here
    ids: pa.Array  # [n] strings
    vectors: Array  # [n, D] int8 or float16, [n, D/2] uint8 for int4
    scale: F32  # [n]; 0 for a row of zeros

    def __len__(self) -> int:
        return len(self.scale)


@dataclass(frozen=True)
class Rows:
    """Rows of a space, numbered 0…N−1 by shard and row."""

    parts: tuple[MappedRows, ...]
    starts: I64  # [parts + 1] number of the first row of each; the last is N

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def dim(self) -> int:
        """D; 0 without a row."""
        if not self.parts:
            return 0
        vectors = self.parts[0].vectors
        return int(vectors.shape[1]) * (2 if vectors.dtype == np.uint8 else 1)

    @property
    def stored(self) -> RowDtype:
        """How the vectors are stored."""
        return _STORED[str(self.parts[0].vectors.dtype)] if self.parts else "int8"

    def ids(self, numbers: I64) -> list[str]:
        """Example ids of rows."""
        found = np.empty(len(numbers), object)
        for part, at, rows in self.by_part(numbers):
            found[at] = part.ids.take(positions(rows)).to_pylist()
        return list(found)

    def by_part(self, numbers: I64) -> Iterator[tuple[MappedRows, I64, I64]]:
        """(part, positions in `numbers`, rows of the part) for the parts that some of the rows are of."""
        of = np.searchsorted(self.starts, numbers, side="right") - 1
        for k in sorted(set(of.tolist())):
            at = np.flatnonzero(of == k)
            yield self.parts[k], at, numbers[at] - self.starts[k]

    def gather(self, numbers: I64) -> tuple[Array, F32]:
        """Copies of vectors and scales of rows, as stored."""
        first = self.parts[0].vectors
        vectors, scale = np.empty((len(numbers), first.shape[1]), first.dtype), np.empty(len(numbers), np.float32)
        for part, at, rows in self.by_part(numbers):
            vectors[at], scale[at] = part.vectors[rows], part.scale[rows]
        return vectors, scale

    def unit(self, numbers: I64) -> F32:
        """[c, D] unit rows; copies them."""
        vectors, scale = self.gather(numbers)
        integers = unpack_int4(vectors) if vectors.dtype == np.uint8 else vectors
        return np.asarray(integers.astype(np.float32) * scale[:, None], np.float32)

    def cosines(self, numbers: I64, queries: F32, *, exact: bool) -> NDArray[np.float64]:
        """[c] the cosine of each of c rows with the query [c, D] beside it, in float64 or float32.

        Exact ones are summed one by one and in the same order, so that equal rows have equal cosines.
        """
        vectors, scale = self.gather(numbers)
        integers = unpack_int4(vectors) if vectors.dtype == np.uint8 else vectors
        if exact:
            sums: NDArray[np.float64] = (integers.astype(np.float64) * queries).sum(axis=1)
        else:
            sums = np.einsum("cd,cd->c", integers.astype(np.float32), queries).astype(np.float64)
        return sums * scale.astype(np.float64)


class Holds(Protocol):
    """What was made of mapped rows and keeps them, as an opened index does."""

    @property
    def rows(self) -> Rows:
        """The rows."""


_open: "WeakKeyDictionary[Store, dict[tuple[int, str, Column], list[MappedRows]]]" = WeakKeyDictionary()
_beside: "WeakKeyDictionary[Store, dict[str, Holds]]" = WeakKeyDictionary()


def open_rows(store: Store, space_id: int, shards: Sequence[int] | None = None, column: Column = "vector") -> Rows:
    """The committed rows of a space, or of some of its shards. Reads each shard once in a process, to check it.

    Raises CorruptionError for a damaged shard or one of another space, InputError for a shard the space does not have,
    and for embeddings that its pass did not keep.
    """
    listed = _listed(store, space_id)
    if unknown := sorted(set(shards or ()) - set(listed)):
        raise InputError(f"shard {unknown[0]} is not of feature space {space_id}; look at the space's shards again")
    let_go(store)
    mapped = _open.setdefault(store, {})
    for shard_id in store.check({shard_id for shard_id in listed if shards is None or shard_id in shards}):
        mapped.pop((shard_id, listed[shard_id], column), None)  # changed since: what is wrong with it is told below
    digest = features.space_fingerprint(store, space_id)
    chosen: list[MappedRows] = []
    for shard_id, name in listed.items():
        if shards is None or shard_id in shards:
            held = mapped.get((shard_id, name, column))  # which another thread may let go meanwhile
            if held is None:
                held = mapped[shard_id, name, column] = _map(store, shard_id, digest, column)
            chosen += held
    return Rows(tuple(chosen), np.cumsum([0, *map(len, chosen)]))


def are_current(store: Store, space_id: int, rows: Rows) -> bool:
    """Whether the shards that these rows are of are still the space's: none was merged, rewritten or dropped."""
    return {part.shard_id for part in rows.parts} <= set(_listed(store, space_id))


def _listed(store: Store, space_id: int) -> dict[int, str]:
    """{shard: its file's name}"""
    rows = store.catalog.rows(
        "SELECT s.shard_id, s.name FROM unit AS u JOIN shard AS s USING (shard_id) WHERE u.space_id=? "
        "ORDER BY s.shard_id",
        (space_id,),
    )
    return {int(row["shard_id"]): str(row["name"]) for row in rows}


def beside(store: Store) -> dict[str, Any]:
    """{file of an index: what was opened of it}, kept from one search to the next: see `let_go`."""
    return _beside.setdefault(store, {})


def let_go(store: Store) -> None:
    """Forget maps of shards that left the catalog, and indexes that left it or hold such a map: what was deleted is to
    be gone. Every search does so first. Cost: a look at the catalog's shards."""
    kept, opened = _open.get(store, {}), _beside.get(store, {})
    if not kept and not opened:
        return
    known = {
        (int(row["shard_id"]), str(row["name"]))
        for row in store.catalog.rows("SELECT shard_id, name FROM shard WHERE kind='features'")
    }
    for key in list(kept):  # at once: other threads add to it
        if key[:2] not in known:
            kept.pop(key, None)
    names = {str(row["name"]) for row in store.catalog.rows("SELECT name FROM search_index")} if opened else set()
    mapped = {id(part) for parts in list(kept.values()) for part in parts}
    for name, one in list(opened.items()):
        if name not in names or any(id(part) not in mapped for part in one.rows.parts):
            opened.pop(name, None)


def _map(store: Store, shard_id: int, digest: str, column: Column) -> list[MappedRows]:
    """One part for each record batch; joined, they would be copied."""
    with store.map(shard_id) as source:
        file = pa.ipc.open_file(source)
        batches = [file.get_batch(k) for k in range(file.num_record_batches)]
    recorded = (file.schema.metadata or {}).get(b"gradsift.space", b"").decode()
    if recorded != digest:
        raise CorruptionError(f"shard {shard_id} holds rows of space {recorded[:12]}, not {digest[:12]}")
    if column not in file.schema.names:
        raise InputError(f"shard {shard_id} has no column {column!r}; set `features.signals.{column}: true`")
    parts, first = [], 0
    for batch in batches:
        if batch.num_rows:
            vector = batch[column]
            flat = numbers(vector.flatten()).reshape(-1, vector.type.list_size)
            if column == "vector":
                stored = numbers(batch["scale"])
                scale = np.where(np.isfinite(stored), stored, 0).astype(np.float32)  # of a row of zeros
            else:
                flat, scale = _scaled(flat)
            parts.append(MappedRows(shard_id, first, batch["example_id"], np.asarray(_Unprotected(flat)), scale))
        first += batch.num_rows
    return parts


def _scaled(rows: Array) -> tuple[Array, F32]:
    """[n, D] rows of any length, and the [n] scales that make unit rows of them; 0 for a row of zeros, and for one with
    a number that is not finite, which becomes zeros: float16 ends at 65,504."""
    lengths = np.sqrt(np.square(rows.astype(np.float64)).sum(axis=1))
    finite = np.isfinite(lengths)
    usable = finite & (lengths > 0)
    scale = np.where(usable, 1 / np.where(usable, lengths, 1), 0).astype(np.float32)
    return (rows if finite.all() else np.where(finite[:, None], rows, rows.dtype.type(0))), scale


class _Unprotected:
    """An array that claims to be writable, as torch wants it, and keeps the map alive. Nothing writes to it."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def places(store: Store, space_id: int, ids: Sequence[str] | None = None) -> dict[int, I64]:
    """{shard: sorted rows} of the committed rows of a space, or of those of some examples, as the catalog has them.

    Cost O(rows of the space), or O(ids); a question for each 500 ids.
    """
    found: dict[int, list[int]] = {}
    for shard_id, row in _places(store, space_id, ids).values():
        found.setdefault(shard_id, []).append(row)
    return {shard: np.sort(np.array(rows, np.int64)) for shard, rows in found.items()}


def _places(store: Store, space_id: int, ids: Sequence[str] | None) -> Mapping[str, tuple[int, int]]:
    """{example: (shard, row)}"""
    text = (
        "SELECT r.example_id, u.shard_id, r.row FROM feature_row AS r JOIN unit AS u USING (unit_id) "
        "WHERE r.space_id=? AND r.row IS NOT NULL"
    )
    if ids is None:
        rows = store.catalog.rows(text, (space_id,))
    else:
        rows = [
            row
            for part in parts(ids)
            for row in store.catalog.rows(f"{text} AND r.example_id IN ({marks(part)})", (space_id, *part))
        ]
    return {str(row["example_id"]): (int(row["shard_id"]), int(row["row"])) for row in rows}


def units(store: Store, space_id: int, ids: Sequence[str], column: Column = "vector") -> dict[str, F32]:
    """{example: its unit row [D]} of those examples that have one. For few: a question for each 500 ids."""
    for _ in range(2):  # shards may be merged between the two looks
        rows = open_rows(store, space_id, column=column)
        first_of = {
            part.shard_id: int(start) for part, start in zip(rows.parts, rows.starts, strict=False) if not part.first
        }
        known = _places(store, space_id, ids)
        if {shard for shard, _ in known.values()} <= set(first_of):
            break
    if not known:
        return {}
    unit = rows.unit(np.array([first_of[shard] + row for shard, row in known.values()]))
    return dict(zip(known, unit, strict=True))


def listed(store: Store, space_id: int, rows: Rows, numbers: I64) -> NDArray[np.bool_]:
    """Which of these rows are those that the catalog lists for their examples: a shard may hold more."""
    ids = rows.ids(numbers)
    known = _places(store, space_id, ids)
    of = np.searchsorted(rows.starts, numbers, side="right") - 1
    here = [
        (rows.parts[k].shard_id, rows.parts[k].first + int(n - rows.starts[k]))
        for k, n in zip(of, numbers, strict=True)
    ]
    return np.array([known.get(i) == place for i, place in zip(ids, here, strict=True)], bool)
