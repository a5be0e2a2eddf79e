"""What a version of a large pool costs: to record, and to ask for its members. `python benchmarks/versions.py [N]`

A pool of N generated examples, then one with 100 of them out and 1,000 others in.
"""

import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gradsift.datastore import examples, features
from gradsift.datastore.store import Store

T = TypeVar("T")


def timed(name: str, action: Callable[[], T]) -> T:
    """Do it and print its seconds."""
    start = time.perf_counter()
    value = action()
    print(f"{name:16s} {time.perf_counter() - start:8.3f} s")
    return value


def main(n: int) -> None:
    """Record two versions and ask for the second."""
    ids = sorted(hashlib.md5(str(k).encode(), usedforsecurity=False).hexdigest() for k in range(n + 1000))
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        with store.catalog.write() as db:
            db.execute("INSERT INTO shard VALUES (1, 'examples', 'examples/x', 1, 1, ?, 0)", ("0" * 64,))
            db.executemany(
                "INSERT INTO example VALUES (?, ?, NULL, 1, ?, 10)", ((i, f"s{k % 7}", k) for k, i in enumerate(ids))
            )
        space = features.define_space(store, {"generated": True})
        with store.catalog.write() as db:
            db.execute("INSERT INTO unit (unit_id, space_id, examples, shard_id) VALUES (1, ?, ?, 1)", (space, n))
            db.executemany(
                "INSERT INTO feature_row VALUES (?, ?, 1, ?, 'ok')", ((space, i, k) for k, i in enumerate(ids[:n]))
            )
        features.plan(store, space, ids[n:], {}, 32)
        first = dict.fromkeys(ids[:n], "")
        gone = set(random.Random(0).sample(ids[:n], 100))
        second = dict.fromkeys((i for i in ids if i not in gone), "")
        timed("first version", lambda: examples.define_dataset(store, "pool", "p", first))
        pool = timed("second version", lambda: examples.define_dataset(store, "pool", "p", second))
        number = pool.dataset_id
        timed("get_dataset", lambda: examples.get_dataset(store, number))
        timed("with_rows", lambda: features.with_rows(store, space, number))
        timed("statuses", lambda: features.statuses(store, space, number))
        timed("open_units", lambda: features.open_units(store, space, number))
        timed("source_column", lambda: examples.source_column(store, pool))
        print(f"catalog          {(Path(folder) / 'catalog.sqlite').stat().st_size / 2**20:8.1f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
