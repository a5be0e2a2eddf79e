"""A map of the pool: a place in the plane for each example, by the first two principal components of its rows.

    xy = (r − mean) [v₁ v₂],  v the leading eigenvectors of the covariance of unit rows r

Rows are those of the plain gradient (rows of Adam's steps are all near each other), or embeddings. Two
dimensions keep little of thousands: what is near on the map may be far in its space. Neighbours are asked of the space.

The eigenvectors are found on a sample spread evenly over the ids, which are digests, by subspace iteration (Halko,
Martinsson and Tropp 2011, algorithm 4.4): a block of random vectors is multiplied with the covariance until its span
stands still. Then all rows are read once. What comes out is kept on this host (`datastore/kept.py`).

Cost: SAMPLE·D·SPAN·ROUNDS products and a pass over the rows; memory: the sample as stored, and some blocks. Legend:
N examples on the map, n of the sample, D dims, K vectors of the span.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import examples, features, kept, mapped, runs, tombstones
from gradsift.datastore.errors import InputError, StoreFullError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.rows import Array, unpack_int4
from gradsift.datastore.runs import Run
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.query.gradients import Gradients
from gradsift.pipelines.query.opening import open_space
from gradsift.pipelines.query.stored import StoredRows

SAMPLE = 16_384  # rows that the directions are found on, at most
SPAN, ROUNDS = 8, 12
BLOCK = 1_024  # rows that are decoded at once
VERSION = 1  # of what is kept
OF, THEN = b"gradsift.map", b"gradsift.state"  # metadata of what is kept: version and space; when its sources were read
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Block = tuple[Array, F32]  # rows as stored, and their scales
Places = Literal["gradients", "embedding", "encoder"]
By = Literal["gradients", "embedding", "encoder", "nowhere"]  # the last: examples without places
State = tuple[int, int, int]  # of a store: its last run, the newest that began, how much was deleted
KINDS: tuple[Places, ...] = ("gradients", "embedding", "encoder")


@dataclass(frozen=True)
class Map:
    """Places of the pool's members that have a row. `state` is that of the store when it was opened; `key` names this
    very map: of another pool, space or version it is another one."""

    by: By
    state: State
    key: str
    pool: int  # number of its dataset
    members: int  # of the pool, those without a row counted
    ids: pa.Array  # [N] sorted
    xy: F32  # [N, 2]; [0, 2] of examples without places
    sources: pa.DictionaryArray  # [N]


_maps: "WeakKeyDictionary[Store, dict[By, Map]]" = WeakKeyDictionary()
_alone = threading.Lock()  # two requests at once make one map


def kinds(store: Store) -> list[By]:
    """What the last run's pool can be laid out by; [] where it has no rows of any kind."""
    found: list[By] = []
    for by in KINDS:
        with suppress(InputError):
            _rows(store, by)
            found.append(by)
    return found


def _rows(store: Store, by: Places) -> tuple[int, mapped.Column]:
    """(space, column) of the rows to lay out: those that a search in it looks at. Raises InputError without them."""
    opened = open_space(store, by, by_model=False)
    if isinstance(opened, StoredRows):
        return opened.space, opened.column
    if isinstance(opened, Gradients):
        return opened.places[0].space, "vector"
    raise InputError(f"there is no map by {by!r}; there are: {', '.join(KINDS)}")


def open_map(store: Store, by: By = "gradients", progress: Progress = quiet) -> Map:
    """The map of the last run's pool: the one in memory, or kept on this host, or made now.

    Raises InputError where the run has no such rows, BusyError where an example is deleted while it is made.
    """
    last = runs.last_run(store)
    state = (last.run_id, runs.newest_number(store), tombstones.count(store))
    with _alone:
        held = _maps.setdefault(store, {})
        if by not in held or held[by].state != state:
            held.pop(by, None)  # what was deleted is in no map that is held
            held[by] = _open(store, last, state, by, progress)
        return held[by]


def _open(store: Store, last: Run, state: State, by: By, progress: Progress) -> Map:
    used = last.result.ingest.pool.used_dataset_id
    if used is None:
        raise InputError("the store's last run is of an older version; run its recipe again")
    pool, digest = examples.standing_number(store, used)
    if by == "nowhere":
        known = examples.sources_by_id(store, pool)
        names = pa.array(sorted(known), pa.string())
        sources = pa.array([known[name] for name in names.to_pylist()], pa.string()).dictionary_encode()
        key = fingerprint([digest, by])
        return Map(by, state, key, pool, len(names), names, np.empty((0, 2), np.float32), sources)
    space, column = _rows(store, by)
    of, then = f"{VERSION} {features.space_fingerprint(store, space)}", str(state)
    table = _kept(store, by, digest, of)
    if table is None:
        known = examples.sources_by_id(store, pool)
        ids = np.array(sorted(known), "S32")
        ids, xy = lay_out(mapped.open_rows(store, space, column=column), ids, progress)
        names = [name.decode() for name in ids.tolist()]
        table = pa.table({"example_id": names, "x": pa.array(xy[:, 0]), "y": pa.array(xy[:, 1])})
    elif (table.schema.metadata or {}).get(THEN) != then.encode():
        known = examples.sources_by_id(store, pool)  # a run may have read them from elsewhere since
        table = table.drop_columns("source")
    if "source" not in table.column_names:
        sources = pa.array([known.get(name) for name in table["example_id"].to_pylist()], pa.string())
        table = table.append_column("source", sources.dictionary_encode()).replace_schema_metadata({OF: of, THEN: then})
        _keep(store, by, digest, table)
    names, x, y, sources = (table[name].combine_chunks() for name in ("example_id", "x", "y", "source"))
    xy = np.stack([x.to_numpy(), y.to_numpy()], axis=1)
    return Map(by, state, fingerprint([digest, of]), pool, examples.size_of(store, pool), names, xy, sources)


def _kept(store: Store, by: By, digest: str, of: str) -> pa.Table | None:
    file = kept.open_kept(store, f"map{by}", digest)
    if file is None:
        return None
    with file:
        table = pa.ipc.open_file(file).read_all()
    return table if (table.schema.metadata or {}).get(OF) == of.encode() else None


def _keep(store: Store, by: By, digest: str, table: pa.Table) -> None:
    def fill(handle: BinaryIO) -> None:
        with pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_table(table)

    with suppress(StoreFullError, PermissionError):  # it is shown all the same, and made again the next time
        kept.keep(store, f"map{by}", digest, fill).close()


def lay_out(rows: mapped.Rows, ids: NDArray[np.bytes_], progress: Progress = quiet) -> tuple[NDArray[np.bytes_], F32]:
    """Those of the sorted ids that have a row, and [N, 2] their places. Raises InputError where none has."""
    numbers = np.full(len(ids), -1, np.int64)
    for first, part in zip(rows.starts, rows.parts, strict=False):
        names = np.array(part.ids.to_pylist(), "S32")
        at = np.searchsorted(ids, names)
        known = (at < len(ids)) & (ids[np.minimum(at, len(ids) - 1)] == names)
        numbers[at[known]] = first + np.flatnonzero(known)
    has = numbers >= 0
    if not has.any():
        raise InputError("no example of the pool has a row to lay out; run the recipe again")
    numbers, ids = numbers[has], ids[has]
    sample = numbers[:: -(-len(numbers) // SAMPLE)]
    mean, directions = _directions(rows, np.sort(sample), progress)
    order = np.argsort(numbers)  # as the rows lie
    xy = np.empty((len(numbers), 2), np.float32)
    for start in range(0, len(numbers), BLOCK):
        at = order[start : start + BLOCK]
        xy[at] = (rows.unit(numbers[at]) - mean) @ directions
        progress("map", min(start + BLOCK, len(numbers)), len(numbers))
    return ids, xy


def _directions(rows: mapped.Rows, sample: I64, progress: Progress) -> tuple[F32, F32]:
    """([D] mean, [D, 2] leading eigenvectors of the covariance) of some rows, each with its largest entry positive."""
    blocks = [rows.gather(sample[start : start + BLOCK]) for start in range(0, len(sample), BLOCK)]
    mean = np.asarray(sum(_decoded(block).sum(axis=0) for block in blocks) / len(sample), np.float32)
    dims = rows.dim
    span = np.random.default_rng(0).standard_normal((dims, min(SPAN, dims)), np.float32)
    for k in range(ROUNDS):
        span = np.linalg.qr(_times_covariance(blocks, mean, span))[0]
        progress("map: directions", k + 1, ROUNDS)
    values, vectors = np.linalg.eigh(span.T @ _times_covariance(blocks, mean, span))
    leading = (span @ vectors[:, np.argsort(-values)[:2]]).astype(np.float32)
    leading = np.pad(leading, ((0, 0), (0, 2 - leading.shape[1])))  # of rows of one dim
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), range(2)])
    return mean, leading * np.where(signs == 0, 1, signs)


def _times_covariance(blocks: Sequence[Block], mean: F32, span: F32) -> F32:
    """[D, K] covariance · span, up to a factor."""
    total = np.zeros_like(span)
    for block in blocks:
        centred = _decoded(block) - mean
        total += centred.T @ (centred @ span)
    return total


def _decoded(block: Block) -> F32:
    vectors, scale = block
    numbers = unpack_int4(vectors) if vectors.dtype == np.uint8 else vectors
    return numbers.astype(np.float32) * scale[:, None]
