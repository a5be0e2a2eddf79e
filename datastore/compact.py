"""Compaction: small shards become large ones, and nothing that they say changes.

A store that grows every night gets thousands of files. Merged are shards of examples (with the values computed from
them, which lie beside them shard by shard) and the rows of each feature space. Checkpoints and tables of scores belong
to one thing each and stay as they are.

**Which.** A shard's size is its part of the target, in bytes or in rows, whichever is more; one of half the target is
full and is never rewritten. Of the others, smallest first, the longest row is merged of which the largest is at most
twice the rest together. So whatever is rewritten lies in a shard half as large again (or a full one) afterwards: a byte
is rewritten at most log₁.₅(target / first size) times in the life of a store, however often this runs, and at most
log₃ of it small shards stay. It runs until nothing is left to merge: the same again does nothing.

**How.** New files are written under the commit protocol, from live rows alone; then one transaction makes every row
refer to them and takes the old ones out of the catalog. The files of these go `grace` seconds later, because a reader
may have their numbers. A kill leaves the store as it was before a merge or after it.

Memory: `BATCH_BYTES` of rows a few times over, and about 200 bytes for each row of one merged shard; the target does
not matter. Disk: what is merged lies there twice until its grace is over. Cost: one read and one write of what is
merged, and an update of the catalog for each row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradsift.datastore import leases
from gradsift.datastore.engine import Transaction
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.store import NewFile, Store

TARGET_BYTES = 256 << 20  # of feature rows: a second of reading before the first is used, and of writing for a deletion
EXAMPLES_SHARE = 8  # texts are compressed, and grow by this as Python objects
MAX_ROWS = 1 << 18  # of one shard: they change in one transaction, which others wait for
BATCH_BYTES = 16 << 20  # what a reader gets at once; four times this as float32
GROUP_ROWS = 4096  # of a row group of Parquet, at most: what is read for one example
GRACE_SECONDS = 3600.0


@dataclass(frozen=True)
class Small:
    """A shard that may be merged: its number, rows, bytes, and part of the target (a full one is 1)."""

    shard_id: int
    rows: int
    bytes: int
    fill: float


@dataclass(frozen=True)
class Group:
    """Shards that become one: of examples, or of one feature space."""

    kind: str
    of: str  # the space's fingerprint, or ''
    space_id: int
    shards: tuple[Small, ...]


@dataclass(frozen=True)
class Merge:
    """What one merge did, or would do; `bytes_after` is an estimate then."""

    kind: str
    of: str
    shards: int
    rows: int
    bytes: int
    bytes_after: int


@dataclass(frozen=True)
class Compacted:
    """All merges of a call, and the committed shards before and after it."""

    merges: list[Merge]
    shards_before: int
    shards_after: int


def compact(
    store: Store,
    *,
    target: int = TARGET_BYTES,
    grace: float = GRACE_SECONDS,
    dry_run: bool = False,
    report: Callable[[int, int], None] = lambda _done, _all: None,
) -> Compacted:
    """Merge small shards into ones of about `target` bytes of feature rows (an eighth of it for examples); their files
    go after `grace` seconds. `dry_run` changes nothing and lists the first round. `report(merges done, planned)`.

    Raises BusyError while a run or another command changes the store, CorruptionError for a damaged shard: what was
    merged before it stays merged.
    """
    if target < 1 or grace < 0:
        raise InputError("the target must be at least one byte, and the grace not negative")
    before = _count(store)
    merges: list[Merge] = []
    if dry_run:
        planned = plan(store, target)
        merges = [_merge(group, sum(s.bytes for s in group.shards)) for group in planned]
        return Compacted(merges, before, before - sum(len(group.shards) - 1 for group in planned))
    with leases.alone(store, "compact it"):
        store.sweep()
        while groups := plan(store, target):
            for waiting, group in zip(range(len(groups), 0, -1), groups, strict=True):
                made = (_merge_examples if group.kind == "examples" else _merge_rows)(store, group, grace)
                (row,) = store.catalog.rows("SELECT bytes FROM shard WHERE shard_id=?", (made,))
                merges.append(_merge(group, row["bytes"]))
                report(len(merges), len(merges) + waiting - 1)
        return Compacted(merges, before, _count(store))


def small_shards(store: Store, target: int = TARGET_BYTES) -> int:
    """How many shards the next `compact` would merge in its first round, by the catalog alone."""
    groups = [*_examples(store, target).values(), *_rows(store, target).values()]
    return sum(len(part) for shards in groups for part in choose(shards))


def plan(store: Store, target: int = TARGET_BYTES) -> list[Group]:
    """Which shards are to be merged into one each. Reads the small ones of feature rows, whose columns may differ."""
    groups = [
        Group("examples", "", 0, part)
        for shards in _examples(store, target).values()
        for part in choose(shards)
    ]  # fmt: skip
    for (space_id, fingerprint), shards in _rows(store, target).items():
        if choose(shards):
            for alike in _alike(store, shards):
                groups += [Group("features", fingerprint, space_id, part) for part in choose(alike)]
    return groups


def choose(shards: Iterable[Small]) -> list[tuple[Small, ...]]:
    """Which of the shards become one, in the order of their numbers; see the module's rule."""
    by_size = sorted((s for s in shards if s.fill < 0.5), key=lambda s: (s.fill, s.shard_id))
    together, last = 0.0, 0
    for k, shard in enumerate(by_size):
        if shard.fill <= 2 * together:
            last = k
        together += shard.fill
    parts: list[list[Small]] = [[]]
    room = 1.0
    for shard in sorted(by_size[: last + 1], key=lambda s: s.shard_id):
        if shard.fill > room:
            parts.append([])
            room = 1.0
        parts[-1].append(shard)
        room -= shard.fill
    return [tuple(part) for part in parts if len(part) > 1]


def _count(store: Store) -> int:
    (row,) = store.catalog.rows("SELECT count(*) AS n FROM shard")
    return int(row["n"])


def _merge(group: Group, bytes_after: int) -> Merge:
    rows, size = sum(s.rows for s in group.shards), sum(s.bytes for s in group.shards)
    return Merge(group.kind, group.of[:12], len(group.shards), rows, size, bytes_after)


def _small(shard_id: int, rows: int, size: int, target: int) -> Small:
    return Small(shard_id, rows, size, max(size / target, rows / MAX_ROWS))


def _examples(store: Store, target: int) -> dict[tuple[str, ...], list[Small]]:
    """Shards of examples by what was computed from them: merged ones have the values of all their rows, or none."""
    beside: dict[int, list[str]] = defaultdict(list)
    for row in store.catalog.rows("SELECT of_shard, spec FROM attribute ORDER BY of_shard, spec"):
        beside[row["of_shard"]].append(row["spec"])
    found = defaultdict(list)
    for row in store.catalog.rows("SELECT shard_id, rows, bytes FROM shard WHERE kind='examples' ORDER BY shard_id"):
        shard = _small(row["shard_id"], row["rows"], row["bytes"], max(1, target // EXAMPLES_SHARE))
        found[tuple(beside[row["shard_id"]])].append(shard)
    return found


def _rows(store: Store, target: int) -> dict[tuple[int, str], list[Small]]:
    """Shards of feature rows by space."""
    found = defaultdict(list)
    for row in store.catalog.rows(
        "SELECT DISTINCT u.space_id, f.fingerprint, s.shard_id, s.rows, s.bytes FROM unit AS u "
        "JOIN shard AS s USING (shard_id) JOIN feature_space AS f ON f.space_id = u.space_id "
        "ORDER BY u.space_id, s.shard_id"
    ):
        small = _small(row["shard_id"], row["rows"], row["bytes"], target)
        found[row["space_id"], row["fingerprint"]].append(small)
    return found


def _alike(store: Store, shards: Sequence[Small]) -> list[list[Small]]:
    """Small shards by their columns. Those without a row go with the first."""
    by_columns: dict[bytes, list[Small]] = defaultdict(list)
    empty = []
    for shard in shards:
        if shard.fill < 0.5 and shard.rows:
            by_columns[_schema(store, shard.shard_id).serialize().to_pybytes()].append(shard)
        elif not shard.rows:
            empty.append(shard)
    groups = list(by_columns.values()) or [[]]
    groups[0].extend(empty)
    return groups


def _schema(store: Store, shard_id: int) -> pa.Schema:
    with store.map(shard_id) as source:
        return pa.ipc.open_file(source).schema


@dataclass(frozen=True)
class _Live:
    """Rows of a shard that the catalog has: ids, places in the file, and the place of the first in the merged one."""

    shard_id: int
    ids: list[str]
    places: NDArray[np.int64]
    first: int

    @property
    def whole(self) -> bool:
        """Whether the first rows of the file are all there, so that each moves by the same."""
        return not len(self.places) or int(self.places[-1]) == len(self.places) - 1

    @property
    def move(self) -> tuple[int, int]:
        """By how much, and of which shard."""
        return self.first, self.shard_id

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


def _merge_rows(store: Store, group: Group, grace: float) -> int:
    """Merge shards of feature rows; returns the number of the new one."""
    live = _live(store, group.shards, ROWS)
    schema = _schema(store, next((s.shard_id for s in group.shards if s.rows), group.shards[0].shard_id))

    def record(db: Transaction, new: list[int]) -> None:
        for of in live:
            _unchanged(db, of, f"feature_row WHERE row IS NOT NULL AND {OF_SHARD}")
            if of.whole:
                db.execute(f"UPDATE feature_row SET row = row + ? WHERE row IS NOT NULL AND {OF_SHARD}", of.move)
            else:
                where = "WHERE space_id=? AND example_id=?"
                moved = ((place, group.space_id, i) for place, i in enumerate(of.ids, of.first))
                db.executemany(f"UPDATE feature_row SET row=? {where}", moved)
            db.execute("UPDATE unit SET shard_id=? WHERE shard_id=?", (new[0], of.shard_id))

    rows = sum(len(of.ids) for of in live)
    file = NewFile("features", ".arrow", rows, lambda handle: _write_rows(store, schema, live, handle))
    return _committed(store.commit_files([file], record, replaces=[s.shard_id for s in group.shards], grace=grace))


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
        for table in _joined(tables()):
            writer.write_table(table)


def _joined(tables: Iterable[pa.Table], most: int | None = None) -> Iterator[pa.Table]:
    """Tables in one piece each, of about `BATCH_BYTES` and of `most` rows, if given; empty ones are left out."""
    pending: list[pa.Table] = []
    for table in tables:
        waiting = sum(t.num_rows for t in pending)
        full = sum(t.nbytes for t in pending) + table.nbytes > BATCH_BYTES
        if pending and (full or (most is not None and waiting + table.num_rows > most)):
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
        if table.num_rows:
            pending.append(table)
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _merge_examples(store: Store, group: Group, grace: float) -> int:
    """Merge shards of examples, and what was computed from them; returns the number of the new one."""
    live = _live(store, group.shards, EXAMPLES)
    shards = [of.shard_id for of in live]
    beside: dict[str, list[int]] = defaultdict(list)
    for shard in shards:
        for row in store.catalog.rows("SELECT spec, shard_id FROM attribute WHERE of_shard=? ORDER BY spec", (shard,)):
            beside[row["spec"]].append(row["shard_id"])
    rows = sum(len(of.ids) for of in live)

    def record(db: Transaction, new: list[int]) -> None:
        for of in live:
            _move_examples(db, of, new[0])
            db.execute("DELETE FROM attribute WHERE of_shard=?", (of.shard_id,))
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


def _move_examples(db: Transaction, of: _Live, new: int) -> None:
    _unchanged(db, of, "example WHERE shard_id=?")
    if of.whole:
        db.execute("UPDATE example SET shard_id=?, row = row + ? WHERE shard_id=?", (new, *of.move))
    else:
        moved = ((new, place, i) for place, i in enumerate(of.ids, of.first))
        db.executemany("UPDATE example SET shard_id=?, row=? WHERE example_id=?", moved)


def _parquet_of(store: Store, live: Sequence[_Live], sources: Sequence[int]) -> Callable[[BinaryIO], None]:
    """What writes the live rows of several Parquet shards as one; `sources` are these, or what lies beside them."""

    def tables(schema: pa.Schema) -> Iterator[pa.Table]:
        for of, source in zip(live, sources, strict=True):
            wanted, done = pa.array(of.ids, pa.string()), 0
            with store.open(source) as opened:
                for batch in _parquet(opened).iter_batches(GROUP_ROWS):
                    table = pa.Table.from_batches([batch]).cast(schema)
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
                schemas.append(_parquet(opened).schema_arrow)
        schema = pa.unify_schemas(schemas)
        with pq.ParquetWriter(handle, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in _joined(tables(schema), GROUP_ROWS):
                writer.write_table(table)

    return fill


def _parquet(source: pa.NativeFile) -> pq.ParquetFile:
    return pq.ParquetFile(source, page_checksum_verification=True)
