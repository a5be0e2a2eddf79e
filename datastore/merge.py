"""Merging shards into one, for `datastore/compact.py`: the same rows in another file, and the catalog that says so.

Live rows alone are written; then one transaction makes all that refers to the old shards refer to the new one, if they
are still what was read. Memory: `groups.GROUP_BYTES` of rows a few times over, and about 200 bytes for each row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradsift.datastore import groups, indexes
from gradsift.datastore.engine import Transaction
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.store import NewFile, Store, doom


@dataclass(frozen=True)
class Small:
    """A shard that may be merged: its number, rows, bytes, and part of the target (a full one is 1); `dead`: it has
    rows that are not in the catalog."""

    shard_id: int
    rows: int
    bytes: int
    fill: float
    dead: bool = False


@dataclass(frozen=True)
class Group:
    """Shards that become one: of examples, or of one feature space."""

    kind: str
    of: str  # the space's fingerprint, or ''
    space_id: int
    shards: tuple[Small, ...]


def schema_of(store: Store, shard_id: int) -> pa.Schema:
    """Columns of a shard of feature rows, its digest checked."""
    with store.map(shard_id) as source:
        return pa.ipc.open_file(source).schema


@dataclass(frozen=True)
class _Live:
    """Rows of a shard that the catalog has: ids, places in the file, and the place of the first in the merged one."""

    shard_id: int
    ids: list[str]
    places: NDArray[np.int64]
    first: int

    def within(self, table: pa.Table, start: int) -> pa.Table:
        """Those of them that are in a table, which begins at row `start` of the file. Raises CorruptionError."""
        lo, hi = np.searchsorted(self.places, [start, start + table.num_rows])
        kept = table if hi - lo == table.num_rows else table.take(pa.array(self.places[lo:hi] - start))
        if kept["example_id"].to_pylist() != self.ids[lo:hi]:
            raise CorruptionError(OTHER_ROWS.format(self.shard_id))
        return kept


def _live(store: Store, shards: Sequence[Small], query: str) -> list[_Live]:
    found: list[_Live] = []
    first = 0
    for shard in shards:
        rows = store.catalog.rows(query, (shard.shard_id,))
        places = np.fromiter((row["row"] for row in rows), np.int64, len(rows))
        found.append(_Live(shard.shard_id, [row["example_id"] for row in rows], places, first))
        first += len(rows)
    return found


OTHER_ROWS = "shard {} does not hold the examples that the catalog lists"
CHANGED = "the store was changed while it was compacted; nothing was merged that is not there. Run it again"
ROWS = (
    "SELECT r.example_id, r.row FROM unit AS u JOIN feature_row AS r ON r.unit_id = u.unit_id "
    "WHERE u.shard_id=? AND r.row IS NOT NULL ORDER BY r.row"
)
EXAMPLES = "SELECT example_id, row FROM example WHERE shard_id=? ORDER BY row"
OF_SHARD = "unit_id IN (SELECT unit_id FROM unit WHERE shard_id=?)"


def merge_rows(store: Store, group: Group, grace: float) -> int:
    """Merge shards of feature rows; returns the number of the new one."""
    live = _live(store, group.shards, ROWS)
    schema = schema_of(store, next((s.shard_id for s in group.shards if s.rows), group.shards[0].shard_id))

    def record(db: Transaction, new: list[int]) -> None:
        for of in live:
            _unchanged(db, of, f"feature_row WHERE row IS NOT NULL AND {OF_SHARD}")
            db.execute("UPDATE unit SET shard_id=? WHERE shard_id=?", (new[0], of.shard_id))
        db.executemany("UPDATE feature_row SET row=? WHERE space_id=? AND example_id=?", moved)
        if rows == sum(s.rows for s in group.shards):
            indexes.merged(db, group.space_id, [of.shard_id for of in live], new[0])

    rows, moved = sum(len(of.ids) for of in live), [(place, group.space_id, name) for name, place in _places(live)]
    file = NewFile("features", ".arrow", rows, lambda handle: _write_rows(store, schema, live, handle))
    return _committed(store.commit_files([file], record, replaces=[s.shard_id for s in group.shards], grace=grace))


def _places(live: Sequence[_Live]) -> list[tuple[str, int]]:
    """(id, row of the merged shard), by id: the order of the tables that they are written to, whose pages each change
    once. In the order of the files a large table is read and written again and again."""
    return sorted((name, place) for of in live for place, name in enumerate(of.ids, of.first))


def _unchanged(db: Transaction, of: _Live, rows: str) -> None:
    """Raise CorruptionError unless a shard is still in the store, with as many rows as were read."""
    (now,) = db.rows(
        f"SELECT (SELECT count(*) FROM shard WHERE shard_id=?) AS there, count(*) AS n FROM {rows}", (of.shard_id,) * 2
    )
    if not now["there"] or now["n"] != len(of.ids):
        raise CorruptionError(CHANGED)


def _committed(made: list[int] | None) -> int:
    if made is None:
        raise CorruptionError(CHANGED)
    return made[0]


def _write_rows(store: Store, schema: pa.Schema, live: Sequence[_Live], handle: BinaryIO) -> None:
    def tables() -> Iterator[pa.Table]:
        for of in live:
            with store.map(of.shard_id) as source:
                file, start = pa.ipc.open_file(source), 0
                for k in range(file.num_record_batches):
                    table = pa.Table.from_batches([file.get_batch(k)])
                    yield of.within(table, start)
                    start += table.num_rows

    with pa.ipc.new_file(handle, schema) as writer:
        for table in groups.joined(tables()):
            writer.write_table(table)


def merge_examples(store: Store, group: Group, grace: float) -> int:
    """Merge shards of examples, and what was computed from them; returns the number of the new one."""
    live = _live(store, group.shards, EXAMPLES)
    shards = [of.shard_id for of in live]
    beside: dict[str, list[int]] = defaultdict(list)
    for shard in shards:
        for row in store.catalog.rows("SELECT spec, shard_id FROM attribute WHERE of_shard=? ORDER BY spec", (shard,)):
            beside[row["spec"]].append(row["shard_id"])
    rows, places = sum(len(of.ids) for of in live), _places(live)

    def record(db: Transaction, new: list[int]) -> None:
        for of in live:
            _unchanged(db, of, "example WHERE shard_id=?")
            sides = db.rows("DELETE FROM attribute WHERE of_shard=? RETURNING shard_id", (of.shard_id,))
            doom(db, [side["shard_id"] for side in sides if side["shard_id"] not in old], grace)  # made meanwhile
        moved = ((new[0], place, name) for name, place in places)
        db.executemany("UPDATE example SET shard_id=?, row=? WHERE example_id=?", moved)
        db.executemany(
            "INSERT INTO attribute VALUES (?, ?, ?)",
            ((spec, new[0], side) for spec, side in zip(beside, new[1:], strict=True)),
        )

    files = [
        NewFile(kind, ".parquet", rows, _parquet_of(store, live, sources))
        for kind, sources in (("examples", shards), *(("scores", sides) for sides in beside.values()))
    ]
    old = [*shards, *(side for sides in beside.values() for side in sides)]
    return _committed(store.commit_files(files, record, replaces=old, grace=grace))


def _parquet_of(store: Store, live: Sequence[_Live], sources: Sequence[int]) -> Callable[[BinaryIO], None]:
    """What writes the live rows of several Parquet shards as one; `sources` are these, or what lies beside them."""

    def tables(schema: pa.Schema) -> Iterator[pa.Table]:
        for of, source in zip(live, sources, strict=True):
            wanted, done = pa.array(of.ids, pa.string()), 0
            with store.open(source) as opened:
                for _, table in groups.read(groups.opened(opened)):
                    table = _with_all(table, schema)
                    kept = table.filter(pc.is_in(table["example_id"], wanted))
                    if kept["example_id"].to_pylist() != of.ids[done : done + kept.num_rows]:
                        raise CorruptionError(OTHER_ROWS.format(source))
                    done += kept.num_rows
                    yield kept
            if done != len(of.ids):
                raise CorruptionError(OTHER_ROWS.format(source))

    def fill(handle: BinaryIO) -> None:
        schemas = []
        for source in sources:
            with store.open(source) as opened:
                schemas.append(groups.opened(opened).schema_arrow)
        schema = pa.unify_schemas(schemas)
        groups.write(tables(schema), schema, handle)

    return fill


def _with_all(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema; those that it lacks are null."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)
