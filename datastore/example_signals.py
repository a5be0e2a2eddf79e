"""The signals of a single example: what the pass that made its gradient row kept beside it.

Reads one row of a mapped shard, however many rows the space has.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.features import OTHER_ROWS
from gradsift.datastore.signals import STORED
from gradsift.datastore.store import Store

NOT_SHOWN = ("example_id", "vector", "scale", "embedding")
TOKENS = ("token_nll", "token_entropy")
_NAMES = {stored: name for name, stored in STORED.items()}
MODULES = "module_norms"
MODULE_NAMES = b"gradsift.modules"  # in the schema's metadata


@dataclass(frozen=True)
class Signals:
    """What a space has of an example. `status` is that of its row (`ok`, `no_labels`, …); `values` are single numbers
    by the names that users meet, `modules` norms by layer; of its label tokens in order [T] `nll` and `entropy` in
    nats, None where the recipe keeps none."""

    status: str
    values: Mapping[str, float] = field(default_factory=dict)
    nll: list[float] | None = None
    entropy: list[float] | None = None
    modules: Mapping[str, float] = field(default_factory=dict)


def signals_of(store: Store, space_id: int, example_id: str) -> Signals | None:
    """Signals of an example in a space; None where the space never met it. Raises CorruptionError for a damaged shard.

    Cost: a look-up and a slice of a mapped shard, whose digest is checked on its first use in a process.
    """
    row = store.catalog.one(
        "SELECT r.status, r.row, u.shard_id FROM feature_row AS r LEFT JOIN unit AS u USING (unit_id) "
        "WHERE r.space_id=? AND r.example_id=?",
        (space_id, example_id),
    )
    if row is None:
        return None
    if row["row"] is None:
        return Signals(row["status"])
    found, metadata = _row(store, int(row["shard_id"]), int(row["row"]))
    if found["example_id"] != example_id:
        raise CorruptionError(OTHER_ROWS.format(row["shard_id"]))
    single = {name: value for name, value in found.items() if isinstance(value, int | float)}
    nll, entropy = (found.get(name) for name in TOKENS)
    names = json.loads(metadata.get(MODULE_NAMES, b"[]"))
    return Signals(
        row["status"],
        {_NAMES.get(name, name): float(value) for name, value in single.items()},
        nll,
        entropy,
        dict(zip(names, found.get(MODULES) or [], strict=False)),
    )


def _row(store: Store, shard_id: int, row: int) -> tuple[dict[str, Any], dict[bytes, bytes]]:
    """One row of a shard, without its vector, and the metadata of the shard's schema."""
    with store.map(shard_id) as source:
        file, first = pa.ipc.open_file(source), 0
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            if row < first + batch.num_rows:
                names = [name for name in batch.schema.names if name not in NOT_SHOWN[1:]]
                (found,) = batch.select(names).slice(row - first, 1).to_pylist()
                return found, file.schema.metadata or {}
            first += batch.num_rows
    raise CorruptionError(OTHER_ROWS.format(shard_id))
