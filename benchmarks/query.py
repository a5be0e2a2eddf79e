"""`gradsift query --id` on a large store: seconds of work after start-up, with a cold and a warm page cache.

    python benchmarks/query.py [--rows 1000000] [--dim 1024] [--adam] [--keep FOLDER] [--times 5] [--index ivf_sq8]

A small run is made for real, and its store is filled up with generated examples and int8 rows: their text in Parquet,
their places and pool in the catalog, their rows in shards. Then questions by id are asked, each in a process of its
own: `import` is the libraries that a look at any store loads, `work` all that comes after, `command` the whole of
`gradsift query --id ID --json`. `cold`: the files of the store are taken out of the page cache before. `--adam`: the
run's rows are of Adam's steps, with plain rows beside them, so that the catalog has two rows of each example.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from measure import machine

from gradsift.datastore import examples, features
from gradsift.datastore.engine import Transaction
from gradsift.datastore.examples import LASTING
from gradsift.datastore.rows import FeatureBlock, make_block
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store

SHARD_ROWS, TEXT_ROWS = 50_000, 32_768
CHILD = """
import json, sys, time
began = time.perf_counter()
import gradsift, gradsift.datastore.store, gradsift.pipelines.query.query, pyarrow.parquet, numpy
ready, cpu = time.perf_counter(), time.process_time()
found = gradsift.query(id=sys.argv[2], store=sys.argv[1], **json.loads(sys.argv[3]))
done = time.perf_counter()
print(json.dumps({"cpu": time.process_time() - cpu, "import": ready - began, "work": done - ready,
                  "torch": "torch" in sys.modules, "hits": len(found.hits), "index": found.index}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--adam", action="store_true")
    parser.add_argument("--keep", type=Path, help="the store's folder, made if it is not there, and kept")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--index", help="ask an index of this kind, too, which is built first")
    args = parser.parse_args()
    with place(args.keep) as folder:
        if not (folder / "store").exists():
            began = time.perf_counter()
            make(folder, args.rows, args.dim, adam=args.adam)
            print(f"made in {time.perf_counter() - began:.0f} s", flush=True)
        print(json.dumps(machine()))
        measure(folder / "store", args.times, {})
        if args.index:
            from gradsift.api import index_build

            index_build(folder / "store", kind=args.index)
            measure(folder / "store", args.times, {"index": args.index})


@contextmanager
def place(kept: Path | None) -> Iterator[Path]:
    """The folder that is kept, or one that is not."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def measure(root: Path, times: int, more: dict[str, object]) -> None:
    """Ask, and print a line for each way."""
    with Store(root, create=False) as store:
        pool = last_run(store).result.ingest.pool.used_dataset_id
        space = last_run(store).result.pool_rows[-1].space_id
        ids = features.some_with_rows(store, space, pool, times)
    for cold in (False, True):
        asked = [one(root, example, more, cold=cold) for example in ids]
        whole = [command(root, example, cold=cold) for example in ids] if not more else []
        middle = {name: statistics.median(answer[name] for answer in asked) for name in ("import", "work", "cpu")}
        loaded = any(answer["torch"] for answer in asked)
        print(
            f"{'cold' if cold else 'warm'} {json.dumps(more)}: import {middle['import']:.2f} s, "
            f"work {middle['work']:.3f} s (the most {max(answer['work'] for answer in asked):.3f}; "
            f"of the CPU {middle['cpu']:.3f}), command {statistics.median(whole or [0]):.2f} s, torch loaded: {loaded}",
            flush=True,
        )


def one(root: Path, example: str, more: dict[str, object], *, cold: bool) -> dict[str, float]:
    """What a process of its own says of a question."""
    if cold:
        forget(root)
    command = [sys.executable, "-c", CHILD, str(root), example, json.dumps(more)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(said.stdout)
    return answer


def command(root: Path, example: str, *, cold: bool) -> float:
    """Seconds of the whole command."""
    if cold:
        forget(root)
    began = time.perf_counter()
    asked = [sys.executable, "-m", "gradsift", "query", "--id", example, "--store", str(root), "--json"]
    subprocess.run(asked, capture_output=True, check=True)
    return time.perf_counter() - began


def forget(root: Path) -> None:
    """Take the files of a store out of the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make(folder: Path, rows: int, dim: int, *, adam: bool) -> None:
    """A store whose last run has so many rows."""
    from gradsift.pipelines.demo.data import write_demo_data
    from gradsift.pipelines.demo.model import make_demo_model
    from gradsift.pipelines.recipe import parse_recipe
    from gradsift.pipelines.runs.curate import curate

    write_demo_data(folder)
    make_demo_model(folder / "model", steps=3)
    recipe = {
        "name": "large",
        "pool": [{"path": str(folder / "pool.jsonl"), "rows": 200}],
        "targets": {"sql": {"val": {"path": str(folder / "val.jsonl")}}},
        "model": {"path": str(folder / "model")},
        "encoding": {"max_length": 128},
        "warmup": {"fraction": 0.2, "min_examples": 16, "epochs": 1},
        "features": {"projector": {"dim": dim}, "transform": "adam_exact" if adam else "sgd", "plain_rows": adam},
        "select": {"examples": 12},
    }
    with Store(folder / "store") as store:
        result = curate(parse_recipe(recipe), store)
        spaces = [row.space_id for row in result.rows if row.role in ("pool", "plain")]
        pool = result.ingest.pool.used_dataset_id
        ids = sorted(hashlib.md5(str(k).encode(), usedforsecurity=False).hexdigest() for k in range(rows))
        for first in range(0, rows, TEXT_ROWS):
            add_text(store, ids[first : first + TEXT_ROWS], first)
        with store.catalog.write() as db:
            (at,) = db.rows("SELECT chain FROM dataset WHERE dataset_id=?", (pool,))
            db.executemany(
                "INSERT INTO membership (chain, example_id, subtask, since, until) VALUES (?, ?, '', ?, ?)",
                ((at["chain"], name, pool, LASTING) for name in ids),
            )
            say_so(db, len(ids))
        for space in spaces:
            add_rows(store, space, ids, dim)


def say_so(db: Transaction, more: int) -> None:
    """Have the run's summary count the rows that it would have made of the larger pool."""
    (run,) = db.rows("SELECT run_id, summary FROM run WHERE summary IS NOT NULL")
    summary = json.loads(run["summary"])
    for row in summary["rows"]:
        row["ok"] += more * (row["role"] in ("pool", "plain"))
    db.execute("UPDATE run SET summary=? WHERE run_id=?", (json.dumps(summary), run["run_id"]))


def add_text(store: Store, ids: list[str], first: int) -> None:
    """Examples of two turns."""
    chats = [
        [
            {"role": "user", "content": f"Write SQL: all columns of table {first + k}, by name, without repeats. " * 3},
            {"role": "assistant", "content": f"SELECT DISTINCT * FROM table_{first + k} ORDER BY name; -- done " * 3},
        ]
        for k in range(len(ids))
    ]

    def record(db: Transaction, shard: int) -> None:
        db.executemany(
            "INSERT INTO example VALUES (?, ?, NULL, ?, ?, ?)",
            ((name, f"source-{row % 7}", shard, row, 400) for row, name in enumerate(ids)),
        )

    store.commit_file("examples", ".parquet", len(ids), lambda to: examples.write_chats(ids, chats, to), record)


def add_rows(store: Store, space: int, ids: list[str], dim: int) -> None:
    """Random int8 rows in shards."""
    rng = np.random.default_rng(0)
    columns = features.read_all(store, space, features.some_with_rows(store, space, None, 1)).signals
    size = min(SHARD_ROWS, len(ids))
    signals = pa.concat_tables([columns]).take(pa.array(np.zeros(size, np.int64)))
    drawn = make_block(ids[:size], rng.standard_normal((size, dim), np.float32), signals, "int8")
    for first in range(0, len(ids), SHARD_ROWS):
        names = ids[first : first + SHARD_ROWS]
        signs = rng.choice(np.array([-1, 1], np.int8), dim)  # other rows at the cost of a product
        n = len(names)
        block = FeatureBlock(names, drawn.vectors[:n] * signs, drawn.scale[:n], drawn.norm[:n], signals[:n])
        features.commit_rows(store, space, block, {})


if __name__ == "__main__":
    main()
