"""What n new examples cost a store of N: an empty one against one of 1,000,000. `python benchmarks/append.py [N] [n]`

Generated rows of the default shape (4,096 dims in int8, an embedding of 576, two numbers for each of 100 label
tokens) and chats of 1,000 characters, through the datastore's own calls: text (`examples.add`), planning (`missing`,
`plan`), and for each unit its ids, rows and commit (`open_units`, `is_open`, `unit_ids`, `make_block`,
`commit_unit`). No model: what is measured is the store. Each round appends other examples to a new empty store and to
the large one, in changing order; the first is not counted. The large store is filled with rows of 64 dims: nothing
reads them.

Apart stands what a run does besides, which reads all its sources anyway: the new version of the pool, and asking
which of all its members have a row.
"""

import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from measure import machine, ratio

from gradsift.datastore import examples, features
from gradsift.datastore.examples import Example
from gradsift.datastore.rows import FeatureBlock, make_block
from gradsift.datastore.store import Store

ROUNDS, UNIT_ROWS, SHARD_ROWS = 9, 256, 5_000
DIMS, HIDDEN, LABELS = 4_096, 576, 100
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(UNIT_ROWS, DIMS)).astype(np.float32)
EMBEDDING = RNG.normal(size=(UNIT_ROWS, HIDDEN)).astype(np.float16)
TOKENS = RNG.normal(size=(UNIT_ROWS, LABELS)).astype(np.float16)
TEXT = "word " * 100
SPEC = {"generated": True}


def generated(first: int, count: int, text: str) -> list[Example]:
    """Examples that no other call with other numbers gives."""
    made = []
    for k in range(first, first + count):
        name = hashlib.sha256(str(k).encode()).hexdigest()[:32]
        chat = [{"role": "user", "content": f"{k} {text}"}, {"role": "assistant", "content": f"{text} {k}"}]
        made.append(Example(name, chat, "made", "f", k))
    return made


def block(ids: list[str]) -> FeatureBlock:
    """A row for each of at most UNIT_ROWS ids."""
    count = len(ids)
    tokens = pa.array(list(TOKENS[:count]), pa.list_(pa.float16()))
    flat = pa.array(EMBEDDING[:count].reshape(-1))
    signals = {
        "loss": pa.array(ROWS[:count, 0]),
        "grad_norm": pa.array(ROWS[:count, 1]),
        "token_nll": tokens,
        "token_entropy": tokens,
        "embedding": pa.FixedSizeListArray.from_arrays(flat, HIDDEN),
    }
    return make_block(ids, ROWS[:count], pa.table(signals), "int8")


def small_block(ids: list[str]) -> FeatureBlock:
    """A row of 64 dims for each."""
    rows = RNG.normal(size=(len(ids), 64)).astype(np.float32)
    return make_block(ids, rows, pa.table({"loss": pa.array(rows[:, 0])}), "int8")


def append(store: Store, batch: list[Example]) -> None:
    """Put examples into the store and compute a row of each."""
    ids = [one.example_id for one in batch]
    examples.add(store, batch)
    new = examples.define_dataset(store, "pool", f"of {ids[0]}", dict.fromkeys(ids, ""))
    space = features.define_space(store, SPEC)
    features.plan(store, space, features.missing(store, space, ids), {}, UNIT_ROWS)
    for unit in features.open_units(store, space, new.dataset_id):
        if features.is_open(store, unit):
            features.commit_unit(store, space, unit, block(features.unit_ids(store, unit)), {})


def filled(folder: Path, rows: int) -> Store:
    """A store of so many examples with rows, written in large units, and a pool of them."""
    store = Store(folder)
    space = features.define_space(store, SPEC)
    for first in range(0, rows, SHARD_ROWS):
        batch = generated(first, min(SHARD_ROWS, rows - first), "")
        examples.add(store, batch)
        ids = [one.example_id for one in batch]
        features.commit_rows(store, space, small_block(ids), {})
    return store


def main(rows: int, new: int) -> None:
    """Fill the large store, append to both kinds in turn, and print medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        large = filled(Path(folder) / "large", rows)
        seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in ("empty", "large")}
        for number in range(ROUNDS + 1):
            stores = {"empty": Store(Path(folder) / f"empty-{number}"), "large": large}
            for name in list(stores)[:: 1 if number % 2 else -1]:
                batch = generated(rows + new * (2 * number + (name == "large")), new, TEXT)
                wall, cpu = time.perf_counter(), time.process_time()
                append(stores[name], batch)
                if number:
                    seconds[name]["wall"].append(time.perf_counter() - wall)
                    seconds[name]["cpu"].append(time.process_time() - cpu)
            stores["empty"].close()
        result: dict[str, object] = {
            "rows": rows,
            "appended": new,
            "rounds": ROUNDS,
            "seconds": {name: {c: statistics.median(v) for c, v in of.items()} for name, of in seconds.items()},
            "ratio": {clock: ratio(seconds, "large", "empty", clock) for clock in ("wall", "cpu")},
            "besides": _besides(large, rows, new),
            "machine": machine(),
        }
        large.close()
    print(json.dumps(result, indent=1))


def _besides(store: Store, rows: int, new: int) -> dict[str, float]:
    """Seconds of what a run asks of its whole pool: linear in N."""
    ids = [row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example ORDER BY example_id")]
    space = features.define_space(store, SPEC)
    examples.define_dataset(store, "pool", "all", dict.fromkeys(ids[:rows], ""))
    taken = {}
    start = time.perf_counter()
    pool = examples.define_dataset(store, "pool", "all", dict.fromkeys(ids[: rows + new], ""))
    taken["define_dataset"] = time.perf_counter() - start
    start = time.perf_counter()
    features.unplanned(store, space, pool.dataset_id)
    taken["unplanned"] = time.perf_counter() - start
    start = time.perf_counter()
    features.statuses(store, space, pool.dataset_id)
    taken["statuses"] = time.perf_counter() - start
    return taken


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1_000)
