"""Values computed once from each example's text (signatures, token counts), as side files of the examples' shards.

One side file for each examples shard and spec, so that a killed computation goes on at the shard where it was, and new
examples cost only themselves. The spec is everything that decides the values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradsift.datastore.engine import Transaction
from gradsift.datastore.examples import Messages, read_groups
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.datastore.store import Store

Compute = Callable[[Sequence[Messages]], Mapping[str, pa.Array]]
Report = Callable[[int, int], None]


def attribute(
    store: Store, spec: Spec, dataset_id: int, compute: Compute, report: Report = lambda _done, _all: None
) -> Iterator[pa.Table]:
    """Tables of `example_id` and the values of `compute`, of a dataset's members, shard by shard.

    What is missing is computed first, a row group at a time, and committed. `report(shards done, shards)` is called
    after each. Memory is the values of one shard. Shards come in the order of their numbers, merged ones later than
    what they were made of: sort by id where order matters.
    """
    spec_digest = fingerprint(spec)
    shards = store.catalog.rows(
        "SELECT DISTINCT e.shard_id FROM dataset_member AS m JOIN example AS e USING (example_id) "
        "WHERE m.dataset_id=? ORDER BY e.shard_id",
        (dataset_id,),
    )
    for done, row in enumerate(shards, 1):
        source_shard = int(row["shard_id"])
        table = _known(store, spec_digest, source_shard) or _make(store, spec_digest, source_shard, compute)
        members = store.catalog.named("members_of_shard", dataset_id=dataset_id, shard_id=source_shard)
        wanted = [member["example_id"] for member in members]
        if len(wanted) < table.num_rows:
            table = table.filter(pc.is_in(table["example_id"], pa.array(wanted, pa.string())))
        yield table
        report(done, len(shards))


def _known(store: Store, spec_digest: str, source_shard: int) -> pa.Table | None:
    row = store.catalog.one("SELECT shard_id FROM attribute WHERE spec=? AND of_shard=?", (spec_digest, source_shard))
    if row is None:
        return None
    with store.open(row["shard_id"]) as file:
        return pq.read_table(file)


def _make(store: Store, spec_digest: str, source_shard: int, compute: Compute) -> pa.Table:
    parts = [
        pa.table({"example_id": chats["example_id"], **compute(chats["messages"].to_pylist())})
        for chats in read_groups(store, source_shard)
    ]
    table = pa.concat_tables(parts, promote_options="default")

    def record(db: Transaction, shard_id: int) -> bool:
        values = (spec_digest, source_shard, shard_id)
        return bool(db.execute("INSERT INTO attribute VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values))

    store.commit_file("scores", ".parquet", table.num_rows, lambda handle: _write(table, handle), record)
    return table


def _write(table: pa.Table, handle: BinaryIO) -> None:
    pq.write_table(table, handle, compression="zstd", write_page_checksum=True)
