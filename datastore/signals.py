"""Signals of gradient rows, read without their vectors: columns of mapped shards, a record batch at a time.

Names are those that a user meets: `tokens` for a shard's `n_tokens`. What is not one number for a row is a list.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore import features, runs
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.store import Store

I64 = NDArray[np.int64]
STORED = {"tokens": "n_tokens", "label_tokens": "n_label_tokens", "projected_norm": "norm"}  # others as they are called


def newest_space(store: Store) -> int | None:
    """The pool's feature space at the last checkpoint of the newest run that computed gradients, None without one."""
    for run in runs.finished(store):
        rows = [row for row in run.summary.get("rows", ()) if row.get("role") == "pool"]
        if rows:
            return int(max(rows, key=lambda row: row["checkpoint"])["space_id"])
    return None


def names_in(store: Store, space_id: int) -> set[str]:
    """Names of the signals that a space's rows have; none of a space without rows."""
    renamed = {stored: name for name, stored in STORED.items()}
    for shard_id in features.shards_of(store, space_id)[:1]:
        with store.map(shard_id) as source:
            stored = pa.ipc.open_file(source).schema.names
        return {renamed.get(name, name) for name in stored} - {"example_id", "vector", "scale"}
    return set()


def tables(store: Store, space_id: int, names: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of `example_id` and these signals, of the rows that the catalog lists; a signal that a shard lacks is left
    out. Memory: a record batch.

    Raises CorruptionError for a damaged shard.
    """
    shards = features.shards_of(store, space_id)
    whole = _lists_all(store, space_id)
    for shard_id in shards:
        listed = None if whole else _listed(store, space_id, shard_id)
        first = 0
        with store.map(shard_id) as source:
            file = pa.ipc.open_file(source)
            present = [name for name in names if STORED.get(name, name) in file.schema.names]
            stored = ["example_id", *(STORED.get(name, name) for name in present)]
            for k in range(file.num_record_batches):
                batch = file.get_batch(k)
                table = pa.table([batch.column(name) for name in stored], names=["example_id", *present])
                if listed is not None:
                    table = _kept(table, first, *listed, shard_id)
                first += batch.num_rows
                yield table


def _lists_all(store: Store, space_id: int) -> bool:
    """Whether the catalog lists every row of a space's shards: each listed one is a row of one of them, so that their
    numbers say it."""
    (there,) = store.catalog.rows(
        "SELECT coalesce(sum(rows), 0) AS n FROM shard WHERE shard_id IN (SELECT shard_id FROM unit WHERE space_id=?)",
        (space_id,),
    )
    (listed,) = store.catalog.rows(
        "SELECT count(*) AS n FROM feature_row WHERE space_id=? AND status='ok'", (space_id,)
    )
    return bool(there["n"] == listed["n"])


def _listed(store: Store, space_id: int, shard_id: int) -> tuple[list[str], I64]:
    """(ids, rows) that the catalog lists of a shard, by row."""
    rows = store.catalog.rows(
        "SELECT r.example_id, r.row FROM unit AS u JOIN feature_row AS r USING (unit_id) "
        "WHERE u.shard_id=? AND u.space_id=? AND r.row IS NOT NULL ORDER BY r.row",
        (shard_id, space_id),
    )
    return [row["example_id"] for row in rows], np.array([row["row"] for row in rows], np.int64)


def _kept(table: pa.Table, first: int, ids: Sequence[str], rows: I64, shard_id: int) -> pa.Table:
    """The listed rows of a record batch whose first row is `first`."""
    start, end = np.searchsorted(rows, [first, first + table.num_rows]).tolist()
    kept = table.take(pa.array(rows[start:end] - first))
    if kept["example_id"].to_pylist() != ids[start:end]:
        raise CorruptionError(features.OTHER_ROWS.format(shard_id))
    return kept
