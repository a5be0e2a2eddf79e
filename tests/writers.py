"""A process that plans and commits units of a store on PostgreSQL until none is left. Arguments: the catalog's URL, the
store's folder, a file for the numbers of the units that it committed, the number of examples, seconds for each unit.

It does what a user is told to: where the server does not answer any more, the same again.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from gradsift.datastore import examples, features, leases
from gradsift.datastore.errors import UnavailableError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.postgres import PostgresEngine
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store

UNIT_ROWS = 2
SPEC = {"model": "m"}


def some_examples(count):
    chats = [
        [{"role": "user", "content": f"ask {k}"}, {"role": "assistant", "content": f"say {k}"}] for k in range(count)
    ]
    return [Example(example_id(chat), chat, "made", "file.jsonl", k) for k, chat in enumerate(chats, 1)]


def block_of(ids):
    signals = pa.table({"loss": pa.array(np.ones(len(ids), np.float32))})
    return make_block(ids, np.ones((len(ids), 64), np.float32), signals, "int8")


def plan(store, count):
    """Examples, a pool and units, as each of the writers says them; returns (space, number of the pool)."""
    batch = some_examples(count)
    examples.add(store, batch)
    pool = examples.define_dataset(store, "pool", "p", {example.example_id: "" for example in batch})
    space = features.define_space(store, SPEC)
    features.plan(store, space, pool.example_ids, {}, UNIT_ROWS)
    return space, pool.dataset_id


def work(store, count, seconds, note):
    """One go over all that is open; whether anything still is."""
    space, pool = plan(store, count)
    left = features.open_units(store, space, pool)
    for unit in left:
        with leases.held(store, f"unit {unit}") as mine:
            if mine and features.is_open(store, unit):
                block = block_of(features.unit_ids(store, unit))
                time.sleep(seconds)
                if features.commit_unit(store, space, unit, block, {}):
                    note(unit)
    return bool(left)


def main(url, root, notes, count, seconds):
    store = Store(Path(root), catalog=PostgresEngine(url))
    with Path(notes).open("w") as handle:
        more = True
        while more:
            with suppress(UnavailableError):
                more = work(store, int(count), float(seconds), lambda unit: print(unit, file=handle, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
