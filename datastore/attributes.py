"""Values computed once from each example's text (signatures, token counts), as side files of the examples' shards.

One side file for each examples shard and spec, so that a killed computation goes on at the shard where it was, and new
examples cost only themselves. The spec is everything that decides the values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradsift.datastore.chats import Messages, of_table
from gradsift.datastore.engine import Engine, Transaction
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.examples import read_groups
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.datastore.store import Store

Compute = Callable[[Sequence[Messages]], Mapping[str, pa.Array]]
Report = Callable[[int, int], None]


def attribute(
    store: Store, spec: Spec, dataset_id: int, compute: Compute, report: Report = lambda _done, _all: None
) -> Iterator[pa.Table]:
    """Tables of `example_id` and the values of `compute`, of a dataset's members, shard by shard.

    What is missing is computed first, a row group at a time, and committed. `report(shards done, shards)` is called
    after each. Memory is the values of one shard and the ids that were given. Shards come in the order of their
    numbers, merged ones later than what they were made of: sort by id where order matters. Shards that are merged or
    written anew meanwhile are listed again, and each member comes once; one that is deleted meanwhile may not come.
    """
    spec_digest = fingerprint(spec)
    given: list[pa.ChunkedArray] = []
    done: set[int] = set()
    waiting = _shards(store, dataset_id)
    listed_again = False
    while waiting:
        source_shard = waiting.pop(0)
        table = _values(store, spec_digest, source_shard, compute)
        members = store.catalog.named("members_of_shard", dataset_id=dataset_id, shard_id=source_shard)
        if table is None or not _is_there(store.catalog, source_shard):  # or these members are elsewhere
            waiting = [shard for shard in _shards(store, dataset_id) if shard not in done]
            listed_again = True
            continue
        wanted = [member["example_id"] for member in members]
        if len(wanted) < table.num_rows:
            table = table.filter(pc.is_in(table["example_id"], pa.array(wanted, pa.string())))
        if listed_again and given:
            table = table.filter(
                pc.invert(pc.is_in(table["example_id"], pa.chunked_array(_chunks(given), pa.string())))
            )
        done.add(source_shard)
        if table.num_rows:
            given.append(table["example_id"])
            yield table
        report(len(done), len(done) + len(waiting))


def missing(store: Store, spec: Spec, dataset_id: int) -> dict[int, int]:
    """{shard: its rows} of the shards with members of a dataset whose values are not there yet."""
    rows = store.catalog.rows(
        "SELECT s.shard_id, s.rows FROM shard AS s WHERE s.shard_id IN (SELECT e.shard_id FROM dataset_member AS m "
        "JOIN example AS e USING (example_id) WHERE m.dataset_id=?) AND NOT EXISTS "
        "(SELECT 1 FROM attribute AS a WHERE a.spec=? AND a.of_shard=s.shard_id) ORDER BY s.shard_id",
        (dataset_id, fingerprint(spec)),
    )
    return {int(row["shard_id"]): int(row["rows"]) for row in rows}


def make(store: Store, spec: Spec, shard: int, compute: Compute) -> None:
    """Have the values of a shard of examples in the store; does nothing where it has left the store."""
    _values(store, fingerprint(spec), shard, compute)


def _chunks(columns: Sequence[pa.ChunkedArray]) -> list[pa.Array]:
    return [chunk for column in columns for chunk in column.chunks]


def _shards(store: Store, dataset_id: int) -> list[int]:
    rows = store.catalog.rows(
        "SELECT DISTINCT e.shard_id FROM dataset_member AS m JOIN example AS e USING (example_id) "
        "WHERE m.dataset_id=? ORDER BY e.shard_id",
        (dataset_id,),
    )
    return [int(row["shard_id"]) for row in rows]


def _is_there(db: Engine | Transaction, shard: int) -> bool:
    return db.one("SELECT 1 FROM shard WHERE shard_id=?", (shard,)) is not None


def _values(store: Store, spec_digest: str, source_shard: int, compute: Compute) -> pa.Table | None:
    """Values of a shard of examples, computed unless they are known; None when it has left the store."""
    while _is_there(store.catalog, source_shard):
        try:
            table = _known(store, spec_digest, source_shard)
            if table is None:
                table = _make(store, spec_digest, source_shard, compute)
        except CorruptionError:
            if _is_there(store.catalog, source_shard):
                raise
            return None
        if table is not None:
            return table
    return None


def _known(store: Store, spec_digest: str, source_shard: int) -> pa.Table | None:
    beside = "SELECT shard_id FROM attribute WHERE spec=? AND of_shard=?"
    while (row := store.catalog.one(beside, (spec_digest, source_shard))) is not None:
        try:
            with store.open(row["shard_id"]) as file:
                return pq.read_table(file)
        except CorruptionError:
            now = store.catalog.one(beside, (spec_digest, source_shard))
            if now is not None and now["shard_id"] == row["shard_id"]:
                raise
    return None


def _make(store: Store, spec_digest: str, source_shard: int, compute: Compute) -> pa.Table | None:
    """Compute and commit the values of the rows that the catalog has of a shard; None when these changed meanwhile, or
    somebody else was faster."""
    parts = [
        pa.table({"example_id": chats["example_id"], **compute(of_table(chats))})
        for chats in read_groups(store, source_shard)
    ]
    table = pa.concat_tables(parts, promote_options="default")
    held = store.catalog.rows("SELECT example_id FROM example WHERE shard_id=?", (source_shard,))
    if len(held) < table.num_rows:  # of what was deleted no file may say anything
        table = table.filter(pc.is_in(table["example_id"], pa.array([row["example_id"] for row in held], pa.string())))
    if len(held) != table.num_rows:
        raise CorruptionError(f"shard {source_shard} does not hold the examples that the catalog lists")

    def record(db: Transaction, shard_id: int) -> bool:
        (now,) = db.rows("SELECT count(*) AS n FROM example WHERE shard_id=?", (source_shard,))
        if now["n"] != table.num_rows or not _is_there(db, source_shard):
            return False
        values = (spec_digest, source_shard, shard_id)
        return bool(db.execute("INSERT INTO attribute VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values))

    made = store.commit_file("scores", ".parquet", table.num_rows, lambda handle: _write(table, handle), record)
    return None if made is None else table


def _write(table: pa.Table, handle: BinaryIO) -> None:
    pq.write_table(table, handle, compression="zstd", write_page_checksum=True)
