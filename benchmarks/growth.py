"""What upkeep costs as a store grows, on generated rows through the datastore's API: no model, no text worth reading.

`python benchmarks/growth.py --rows 10000,100000,1000000 --results growth.jsonl [--only append,compact] [--rounds 3]`

    append   add 1,000 examples, plan and commit their rows: to an empty store and to the one of N rows
    pool     record the version of the pool that has them: it sorts and digests all members
    verify   read every byte
    open     open the store and ask for its last run
    status   what `gradsift status` says: it counts every example
    compact  merge shards of 1,000 rows
    delete1  delete one example, of the compacted store
    delete%  delete one per cent of them

Each round makes every size once, in a new random order, on a copy of a store that is built once; results are written as
they come, medians and exponents (log–log, between neighbouring sizes) at the end. The disk needs three times the rows:
about 4 GB for a million of 1,024 dims.
"""

import argparse
import hashlib
import itertools
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
from measure import machine

from gradsift.datastore import compact, examples, features, maintenance
from gradsift.datastore.examples import Example
from gradsift.datastore.overview import overview
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.store import Store

N_NEW = 1_000  # rows of an append, of a shard, and of a unit
APPENDS = 7  # nights in a round, each beside one in an empty store
OPERATIONS = ("append", "pool", "verify", "open", "status", "compact", "delete1", "delete%")


def example(number: int) -> Example:
    """A generated chat, its id that of a random text."""
    name = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    chat = [{"role": "user", "content": f"What is {number} in words?"}, {"role": "assistant", "content": name * 4}]
    return Example(name, chat, f"source {number % 7}", "generated.jsonl", number + 1)


def block(ids: list[str], dim: int, rng: np.random.Generator) -> FeatureBlock:
    """int8 rows as they are stored, with one signal."""
    q = rng.integers(-127, 128, (len(ids), dim), np.int8)
    scale = (1.0 / np.sqrt(np.einsum("nd,nd->n", q, q, dtype=np.float64))).astype(np.float32)
    return FeatureBlock(ids, q, scale, scale, pa.table({"loss": pa.array(scale)}))


def append(store: Store, first: int, dim: int) -> None:
    """What a night adds to the datastore: 1,000 examples and their rows, as the dataset of that night."""
    new = [example(k) for k in range(first, first + N_NEW)]
    examples.add(store, new)
    night = examples.define_dataset(store, "pool", f"night {first}", {e.example_id: "" for e in new})
    space = features.define_space(store, {"generated": dim})
    features.plan(store, space, night.example_ids, {}, N_NEW)
    rng = np.random.default_rng(first)
    for unit in features.open_units(store, space, night.dataset_id):
        features.commit_unit(store, space, unit, block(features.unit_ids(store, unit), dim, rng), {})


def build(root: Path, rows: int, dim: int) -> None:
    """A store of shards of 1,000 rows, and a pool of all of them. Nothing is synced: it only has to be there."""
    with Store(root) as store, mock.patch("os.fsync"):
        for pragma in ("synchronous=OFF", "cache_size=-1000000", "wal_autocheckpoint=100000"):
            store.catalog._connection.execute(f"PRAGMA {pragma}")
        for first in range(0, rows, N_NEW):
            append(store, first, dim)
        examples.define_dataset(store, "pool", "all", dict.fromkeys((example(k).example_id for k in range(rows)), ""))


class Took(NamedTuple):
    """Seconds of a call: on the wall, and of this process's cores, which a busy machine changes less."""

    wall: float
    cpu: float


def seconds(action: Callable[[], object]) -> Took:
    """What a call takes."""
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return Took(time.perf_counter() - start, time.process_time() - cpu)


def delete(store: Store, ids: list[str]) -> None:
    """Delete examples for good."""
    from gradsift.datastore import forget

    forget.begin(store, forget.Picked(ids))
    forget.clear(store)
    forget.close(store)


def measure(root: Path, rows: int, dim: int, number: int, only: set[str]) -> Iterator[tuple[str, Took]]:
    """(operation, what it took) on a store that may be changed."""
    store = Store(root)
    first = rows + 10_000_000 * (number + 1)
    if "append" in only:
        for night in range(APPENDS):
            start = first + (night + 1) * N_NEW
            with tempfile.TemporaryDirectory(dir=root.parent) as folder, Store(Path(folder) / "empty") as empty:
                yield "append to empty", seconds(lambda empty=empty, start=start: append(empty, start, dim))
            yield "append", seconds(lambda start=start: append(store, start, dim))
    if "pool" in only:
        members = dict.fromkeys((example(k).example_id for k in (*range(rows), *range(first, first + N_NEW))), "")
        examples.add(store, [example(k) for k in range(first, first + N_NEW)])
        yield "pool", seconds(lambda: examples.define_dataset(store, "pool", "all", members))
    if "verify" in only:
        yield "verify", seconds(lambda: maintenance.verify(store))
    if "open" in only:
        yield "open", seconds(lambda: Store(root).catalog.rows("SELECT * FROM run ORDER BY run_id DESC LIMIT 1"))
    if "status" in only:
        yield "status", seconds(lambda: overview(store))
    if {"compact", "delete1", "delete%"} & only:
        taken = seconds(lambda: compact.compact(store, grace=0))
        yield "compact", taken
    if "delete1" in only:
        yield "delete1", seconds(lambda: delete(store, [example(rows // 2).example_id]))
    if "delete%" in only:
        gone = random.Random(number).sample(range(rows // 2), rows // 100)
        yield "delete%", seconds(lambda: delete(store, [example(k).example_id for k in gone]))
    store.close()


def exponents(medians: dict[str, dict[int, float]]) -> dict[str, list[float]]:
    """{operation: slope of log seconds against log rows, between neighbouring sizes}."""
    slopes = {}
    for name, by_rows in medians.items():
        sizes = sorted(by_rows)
        pairs = itertools.pairwise(sizes)
        slopes[name] = [round(math.log(by_rows[b] / by_rows[a]) / math.log(b / a), 2) for a, b in pairs]
    return slopes


def main() -> None:
    """Build, measure, summarise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--only", default=",".join(OPERATIONS))
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("growth.jsonl"))
    parser.add_argument("--folder", type=Path, help="keep the stores here and use those that are there")
    chosen = parser.parse_args()
    sizes, only = [int(n) for n in chosen.rows.split(",")], set(chosen.only.split(","))
    found: dict[str, dict[int, list[Took]]] = {}

    def note(**line: object) -> None:
        with chosen.results.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)

    note(machine=machine(), dim=chosen.dim, rounds=chosen.rounds)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        stores = {rows: (chosen.folder or Path(folder)) / f"{rows}-{chosen.dim}" for rows in sizes}
        for rows, root in stores.items():
            if not root.exists():
                unfinished = Path(folder) / "unfinished"
                taken = seconds(lambda to=unfinished, rows=rows: build(to, rows, chosen.dim))
                unfinished.rename(root)
                note(built=rows, seconds=round(taken.wall, 2))
        for number in range(chosen.rounds):
            for rows in random.Random(number).sample(sizes, len(sizes)):
                root = Path(folder) / "round"
                if number + 1 < chosen.rounds or chosen.folder:
                    shutil.copytree(stores[rows], root)
                else:
                    stores[rows].rename(root)  # the last may be used up
                with Store(root) as warm:
                    warm.catalog.rows("SELECT count(*) FROM origin AS o JOIN feature_row AS r USING (example_id)")
                for name, taken in measure(root, rows, chosen.dim, number, only):
                    found.setdefault(name, {}).setdefault(rows, []).append(taken)
                    note(round=number, rows=rows, operation=name, wall=round(taken.wall, 4), cpu=round(taken.cpu, 4))
                shutil.rmtree(root)
    for clock in Took._fields:
        medians = {
            name: {n: statistics.median(getattr(t, clock) for t in taken) for n, taken in by_rows.items()}
            for name, by_rows in found.items()
        }
        note(clock=clock, medians={name: {n: round(t, 4) for n, t in by.items()} for name, by in medians.items()})
        note(clock=clock, exponents=exponents(medians))
        if "append" in found:
            ratios = {
                n: statistics.median(
                    getattr(large, clock) / getattr(empty, clock)
                    for large, empty in zip(found["append"][n], found["append to empty"][n], strict=True)
                )
                for n in sizes
            }
            note(clock=clock, append_ratio={n: round(r, 3) for n, r in ratios.items()})


if __name__ == "__main__":
    main()
