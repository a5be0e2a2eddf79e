"""SQL and predicates over a large generated store: seconds, and peak memory above what was resident before.

    python benchmarks/sql.py [--rows 1000000] [--dim 64] [--store FOLDER] [--results sql.jsonl]

A store of short chats in shards of 50,000, with a gradient row, its signals and one place each, is made through the
datastore (about a minute for a million; `--store` keeps it). Each question runs once to check digests and warm caches,
and then in a process of its own, of which the peak is told.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from gradsift.datastore import examples, features, origins, runs
from gradsift.datastore.engine import Transaction
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.rows import FeatureBlock, quantise, write_block
from gradsift.datastore.store import Store

SHARD_ROWS = 50_000
ASKED = {
    "by source": "select source, count(*), avg(loss) from examples group by 1",
    "count": "select count(*) from examples where chars > 24",
    "texts": "select count(*) from examples where text like '%777%'",
    "largest": "select id, loss from examples order by loss desc limit 10",
}
WHERE = {"catalog": "source = 's3' and chars > 24", "example": "chars > 24", "signal": "loss > 4.9"}
ONE = """
import json, sys, time
from gradsift.datastore.store import Store
from measure import peak_bytes
kind, asked, folder = sys.argv[1:]
if kind == "sql":
    from gradsift.datastore.selects import query_sql as run
else:
    from gradsift.datastore.where import matching as run
with Store(folder, create=False) as store:
    found = []
    begun, cpu = time.perf_counter(), time.process_time()
    peak = peak_bytes(lambda: found.append(len(run(store, asked))))
    print(json.dumps({"rows": found[0], "wall": round(time.perf_counter() - begun, 2),
                      "cpu": round(time.process_time() - cpu, 2), "peak_mb": round(peak / 1e6)}))
"""


def build(store: Store, rows: int, dim: int) -> None:
    """Examples with a place and a row each, of ten sources, and a run that names their space."""
    space = features.define_space(store, {"generated": "sql", "transform": "sgd", "checkpoint": "none"})
    rng = np.random.default_rng(0)
    vectors, scale = quantise(rng.standard_normal((SHARD_ROWS, dim)).astype(np.float32), "int8")
    for first in range(0, rows, SHARD_ROWS):
        numbers = range(first, min(first + SHARD_ROWS, rows))
        ids = [f"{number * 0x9E3779B97F4A7C15 % (1 << 128):032x}" for number in numbers]
        _add(store, ids, numbers)
        size = len(ids)
        signals = pa.table({"loss": pa.array(rng.uniform(0, 5, size), pa.float32()),
                            "n_tokens": pa.array(rng.integers(9, 99, size), pa.int32())})  # fmt: skip
        block = FeatureBlock(ids, vectors[:size], scale[:size], np.ones(size, np.float32), signals)

        def record(db: Transaction, shard_id: int, ids: list[str] = ids) -> None:
            unit = db.rows("INSERT INTO unit (space_id, examples, shard_id) VALUES (?, ?, ?) RETURNING unit_id",
                           (space, len(ids), shard_id))[0]["unit_id"]  # fmt: skip
            rows = ((space, name, unit, row) for row, name in enumerate(ids))
            db.executemany("INSERT INTO feature_row VALUES (?, ?, ?, ?, 'ok')", rows)

        digest = features.space_fingerprint(store, space)
        store.commit_file("features", ".arrow", size, lambda h, b=block: write_block(b, digest, h), record)
    run_id = runs.start(store, "made", runs.Recipes({}, {}))
    summary = {"name": "made", "rows": [{"role": "pool", "checkpoint": 0, "space_id": space}]}
    with store.catalog.write() as db:
        db.execute("UPDATE run SET finished=?, summary=?, numbered=1 WHERE run_id=?",
                   (time.time(), canonical_json(summary), run_id))  # fmt: skip


def _add(store: Store, ids: list[str], numbers: range) -> None:
    chats = [[{"role": "user", "content": f"What comes after {n}?"}, {"role": "assistant", "content": str(n + 1)}]
             for n in numbers]  # fmt: skip
    sources = [f"s{n % 10}" for n in numbers]

    def record(db: Transaction, shard_id: int) -> None:
        rows = zip(ids, sources, range(len(ids)), numbers, strict=True)
        db.executemany("INSERT INTO example VALUES (?, ?, 'MIT', ?, ?, ?)",
                       ((name, source, shard_id, row, 20 + len(str(n))) for name, source, row, n in rows))  # fmt: skip
        places = (origins.Origin("made.jsonl", n + 1, s, "MIT", None) for n, s in zip(numbers, sources, strict=True))
        origins.record(db, zip(ids, places, strict=True))

    store.commit_file("examples", ".parquet", len(ids), lambda h: examples.write_chats(ids, chats, h), record)


def main() -> None:
    """Build or open the store, and ask."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.store or Path(folder) / "store"
        if not root.exists():
            with Store(root) as store:
                begun = time.perf_counter()
                build(store, given.rows, given.dim)
                print(f"built in {time.perf_counter() - begun:.0f} s", flush=True)
        for kind, questions in (("sql", ASKED), ("where", WHERE)):
            for name, asked in questions.items():
                command = [sys.executable, "-c", ONE, kind, asked, str(root)]
                out = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
                line = json.dumps({"asked": f"{kind}: {name}", "of": given.rows, **json.loads(out.stdout)})
                print(line, flush=True)
                if given.results:
                    with given.results.open("a") as results:
                        results.write(line + "\n")


if __name__ == "__main__":
    main()
