"""Search indexes against exact search: recall@10 and speed, on generated rows and on those of a store.

    python benchmarks/indexes.py [--rows 20000] [--dims 1024] [--kinds ivf_sq8 hnsw] [--out table.json]
    python benchmarks/indexes.py --store STORE

Generated rows are `clustered` (300 groups, cosine of two rows of a group about 0.5) and `unclustered` (independent
normal numbers: nothing is near anything, and no index can know where to look). Of a store, the rows that a query at the
last checkpoint searches. One thread. `looked at` is the share of the lists that are probed; recall and speed are those
that `gradsift index build` measures and stores; `open` is what the first question of a process costs more: the file is
read and its digest checked.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before FAISS and torch are loaded

import faiss
import numpy as np
import pyarrow as pa
import torch
from measure import machine
from numpy.typing import NDArray

from gradsift.datastore import ann, features, indexes
from gradsift.datastore.index_build import Wish, build
from gradsift.datastore.index_search import open_index
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store
from gradsift.pipelines.query.query import searched_space

GROUPS, SHARD_ROWS = 300, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dims", type=int, default=1024)
    parser.add_argument("--kinds", nargs="+", default=list(ann.KINDS), choices=ann.KINDS)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--space", help="of the store: start of the fingerprint of another feature space")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    lines: list[dict[str, object]] = []
    print("| rows | kind | lists | looked at | recall@10 | × exact, one | × exact, 100 | build s | open s | MiB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    if args.store:
        with Store(args.store, create=False) as store:
            lines += measured(store, searched_space(store, None, args.space), "of the store", args.kinds)
    else:
        for name, groups in (("clustered", GROUPS), ("unclustered", 0)):
            with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
                lines += measured(store, generated(store, args.rows, args.dims, groups), name, args.kinds)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "faiss": ann.version(), "lines": lines}, indent=1) + "\n")


def measured(store: Store, space: int, name: str, kinds: list[ann.Kind]) -> list[dict[str, object]]:
    """Build, measure and open an index of each kind; prints a line for each."""
    lines: list[dict[str, object]] = []
    for kind in kinds:
        began = time.perf_counter()
        index = build(store, space, Wish(kind))
        seconds = time.perf_counter() - began
        with Store(store.root) as fresh:
            began = time.perf_counter()
            open_index(fresh, index)
            opening = time.perf_counter() - began
        got, lists = index.measured, index.plan.lists
        looked = f"{got.effort / lists:.2f}" if lists else "–" if kind == "flat" else f"ef {got.effort}"
        print(
            f"| {name}, {index.rows:,} | `{kind}` | {lists or '–'} | {looked} | {got.recall:.3f} | {got.speedup:.1f} | "
            f"{got.speedup_many:.1f} | {seconds:.0f} | {opening:.2f} | {index.bytes / 2**20:.0f} |",
            flush=True,
        )
        lines.append({
            "rows": index.rows, "of": name, "kind": kind, "lists": lists, "effort": got.effort, "recall": got.recall,
            "speedup": got.speedup, "speedup_many": got.speedup_many, "questions": got.questions,
            "of_targets": got.of_targets, "build_s": round(seconds, 2), "open_s": round(opening, 3),
            "bytes": index.bytes,
        })  # fmt: skip
        indexes.drop(store)
    return lines


def generated(store: Store, count: int, dims: int, groups: int) -> int:
    """Rows in shards, with as much of a catalog as a search needs; returns their space."""
    ids = sorted(hashlib.md5(str(k).encode(), usedforsecurity=False).hexdigest() for k in range(count))
    with store.catalog.write() as db:
        db.execute("INSERT INTO shard VALUES (1, 'examples', 'examples/x', 1, 1, ?, 0)", ("0" * 64,))
        db.executemany(
            "INSERT INTO example VALUES (?, ?, NULL, 1, ?, 10)", ((name, "made", k) for k, name in enumerate(ids))
        )
    space = features.define_space(store, {"generated": groups})
    features.plan(store, space, ids, {}, SHARD_ROWS)
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(max(groups, 1), dims)).astype(np.float32))
    for unit_id in [row["unit_id"] for row in store.catalog.rows("SELECT unit_id FROM unit ORDER BY unit_id")]:
        names = features.unit_ids(store, unit_id)
        rows = unit(rng.normal(size=(len(names), dims)).astype(np.float32))
        if groups:
            rows += centres[rng.integers(0, groups, len(names))]
        block = make_block(names, rows, pa.table({"loss": pa.array(np.zeros(len(names), np.float32))}), "int8")
        features.commit_unit(store, space, unit_id, block, {})
    return space


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, D] rows of length 1."""
    lengths: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


if __name__ == "__main__":
    main()
