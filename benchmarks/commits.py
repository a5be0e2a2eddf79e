"""How many units of work a second a catalog takes from 1, 2 and 8 processes at once (docs/scale.md).

    python benchmarks/commits.py [--url postgresql://user@host/database] [--seconds 3] [--rounds 2]

A commit is what the catalog does for a unit of 32 rows, without its file: the lease is taken, a shard is recorded, the
unit and its rows refer to it, the lease is given back. That is three transactions. Engines and numbers of processes
take turns; the best round counts. Schemas are made in the database and dropped.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from gradsift.datastore import examples, features, leases
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store

ROWS, UNITS = 32, 480  # of a unit; planned for all processes together
WRITERS = (1, 2, 8)
SHARD = (
    "INSERT INTO shard (shard_id, kind, name, rows, bytes, sha256, created) "
    "SELECT last + 1, 'features', ?, ?, 1, ?, 0 FROM shard_number RETURNING shard_id"
)


def plan(place):
    """A pool and its units: the space, and their numbers."""
    with Store(place) as store:
        chats = [[{"role": "user", "content": f"{k}"}] for k in range(ROWS * UNITS)]
        examples.add(store, [Example(example_id(chat), chat, "made", "f", k) for k, chat in enumerate(chats)])
        pool = examples.define_dataset(store, "pool", "p", {example_id(chat): "" for chat in chats})
        space = features.define_space(store, {"a": 1})
        features.plan(store, space, pool.example_ids, {}, ROWS)
        return space, features.open_units(store, space, pool.dataset_id)


def commit(store, space, unit, ids):
    with leases.held(store, f"unit-{unit}") as mine:
        assert mine
        with store.catalog.write() as db:
            (shard,) = db.rows(SHARD, (f"features/{unit}", ROWS, "0" * 64))
            db.execute("UPDATE unit SET shard_id=? WHERE unit_id=? AND shard_id IS NULL", (shard["shard_id"], unit))
            features.mark_rows(db, space, unit, ids, {})
            db.rows("SELECT count(row) AS n FROM feature_row WHERE unit_id=?", (unit,))


def write(place, space, units, barrier, seconds, done):
    with Store(place) as store:
        ids = {unit: features.unit_ids(store, unit) for unit in units}
        barrier.wait()
        ends, count = time.monotonic() + seconds, 0
        for unit in units:
            if time.monotonic() > ends:
                break
            commit(store, space, unit, ids[unit])
            count += 1
        done.put(count / (time.monotonic() - ends + seconds))


def per_second(place, writers, seconds):
    space, units = plan(place)
    context = multiprocessing.get_context("spawn")
    barrier, done = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=write, args=(place, space, units[k::writers], barrier, seconds, done))
        for k in range(writers)
    ]
    for process in processes:
        process.start()
    total = sum(done.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    best = {}
    for turn in range(asked.rounds):
        for writers in WRITERS:
            for engine in ("sqlite", *(["postgresql"] if asked.url else [])):
                with tempfile.TemporaryDirectory() as folder:
                    root, schema = Path(folder), f"benchmark_{turn}_{writers}"
                    url = f"{asked.url}?schema={schema}" if engine == "postgresql" else None
                    place = Place(root / "store", url, root.as_uri() if url else None)
                    key = (engine, writers)
                    best[key] = max(best.get(key, 0.0), per_second(place, writers, asked.seconds))
                    if url:
                        import psycopg

                        with psycopg.connect(asked.url, autocommit=True) as connection:
                            connection.execute(f"DROP SCHEMA {schema} CASCADE")
    for (engine, writers), value in sorted(best.items()):
        print(f"{engine:<11} {writers} processes: {value:7.0f} units a second")


if __name__ == "__main__":
    main()
