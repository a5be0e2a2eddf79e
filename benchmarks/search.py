"""Search over generated rows, beside FAISS: exact search against IndexFlatIP and SQ8, in one interleaved run.

    python benchmarks/search.py [--rows 200000] [--dim 1024] [--rounds 5] [--results search.jsonl]

A store of int8 rows is made through the datastore, and FAISS gets the same rows: f32 in IndexFlatIP, 8 bits in SQ8. The
top 10 of 1 and of 64 questions is taken by each, on one thread, from memory (the store's from the page cache), in a new
random order each round; `read` is one pass over the stored rows. Every time is written as it comes, on the wall and of
the CPU (which says more on a machine that others use); at the end medians, the median over rounds of the ratio to exact
search, its share of the bandwidth of `read`, and how much resident memory each added. A million rows of 1,024 dims need
8 GB of memory and 3 GB of disk.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from measure import _status, machine
from numpy.typing import NDArray

from gradsift.datastore import features
from gradsift.datastore.engine import Transaction
from gradsift.datastore.mapped import open_rows
from gradsift.datastore.rows import FeatureBlock, make_block, write_block
from gradsift.datastore.search import neighbours
from gradsift.datastore.store import Store

F32 = NDArray[np.float32]
SHARD_ROWS, K, QUESTIONS = 50_000, 10, (1, 64)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SPEC = {"generated": "rows", "transform": "sgd"}


@dataclass(frozen=True)
class Report:
    """Where results go, as they come."""

    path: Path | None

    def __call__(self, **values: object) -> None:
        line = json.dumps(values)
        print(line, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(line + "\n")


def names(first: int, count: int) -> list[str]:
    """Ids of generated rows."""
    return [f"{number:032x}" for number in range(first, first + count)]


def build(store: Store, rows: int, dim: int) -> int:
    """A space of `rows` random unit rows, in shards; returns its number. The examples are rows of the catalog alone."""
    space = features.define_space(store, SPEC)

    def examples(db: Transaction, shard_id: int) -> None:
        db.executemany(
            "INSERT INTO example (example_id, source, licence, shard_id, row, chars) VALUES (?, 'made', NULL, ?, ?, 1)",
            ((name, shard_id, row) for row, name in enumerate(names(0, rows))),
        )

    store.commit_file("examples", ".parquet", rows, lambda handle: handle.write(b"none") and None, examples)
    rng = np.random.default_rng(0)
    signals = pa.table({"loss": pa.array(np.ones(min(SHARD_ROWS, rows), np.float32))})
    first_ids = names(0, len(signals))
    drawn = make_block(first_ids, rng.standard_normal((len(signals), dim), np.float32), signals, "int8")
    for first in range(0, rows, SHARD_ROWS):
        ids = names(first, min(SHARD_ROWS, rows - first))
        signs = rng.choice(np.array([-1, 1], np.int8), dim)  # other rows at the cost of a product
        size = len(ids)
        block = FeatureBlock(ids, drawn.vectors[:size] * signs, drawn.scale[:size], drawn.norm[:size], signals[:size])

        def record(db: Transaction, shard_id: int, ids: list[str] = ids) -> None:
            (unit,) = db.rows(
                "INSERT INTO unit (space_id, examples, shard_id) VALUES (?, ?, ?) RETURNING unit_id",
                (space, len(ids), shard_id),
            )
            db.executemany(
                "INSERT INTO feature_row VALUES (?, ?, ?, ?, 'ok')",
                ((space, name, unit["unit_id"], row) for row, name in enumerate(ids)),
            )

        digest = features.space_fingerprint(store, space)
        store.commit_file(
            "features", ".arrow", len(ids), lambda handle, block=block: write_block(block, digest, handle), record
        )
    return space


def timed(cases: dict[str, Callable[[], object]], rounds: int, report: Report) -> dict[str, dict[str, list[float]]]:
    """{clock: {case: seconds in each round}}, each round in a new random order; a first run is not counted."""
    order, seconds = random.Random(0), {clock: {name: [] for name in cases} for clock in CLOCKS}
    for number in range(-1, rounds):
        for name in order.sample(list(cases), len(cases)):
            starts = [clock() for clock in CLOCKS.values()]
            cases[name]()
            taken = [clock() - start for clock, start in zip(CLOCKS.values(), starts, strict=True)]
            if number >= 0:
                for clock, value in zip(CLOCKS, taken, strict=True):
                    seconds[clock][name].append(value)
                report(round=number, case=name, **dict(zip(CLOCKS, (round(t, 5) for t in taken), strict=True)))
    return seconds


def exact(store: Store, space: int, rounds: int, report: Report) -> None:
    """Exact search beside IndexFlatIP and SQ8."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    before = _status("VmRSS")
    rows = open_rows(store, space)
    questions = np.random.default_rng(1).standard_normal((max(QUESTIONS), rows.dim), np.float32)
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    answers = neighbours(store, space, questions, K)
    own = _status("VmRSS") - before

    def filled(index: "faiss.Index") -> int:
        before = _status("VmRSS")
        for part in rows.parts:
            unit = part.vectors.astype(np.float32) * part.scale[:, None]
            if not index.is_trained:
                index.train(unit)
            index.add(unit)
        del unit
        return _status("VmRSS") - before

    flat = faiss.IndexFlatIP(rows.dim)
    sq8 = faiss.IndexScalarQuantizer(rows.dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    memory = {"exact": own, "IndexFlatIP": filled(flat), "SQ8": filled(sq8)}
    report(memory_mb={name: round(size / 1e6) for name, size in memory.items()})
    report(memory_share=round(memory["exact"] / memory["IndexFlatIP"], 3))
    _, found = flat.search(questions, K)
    same = np.mean(
        [[n.example_id for n in a] == [names(int(i), 1)[0] for i in f] for a, f in zip(answers, found, strict=True)]
    )
    report(questions_with_the_answer_of_IndexFlatIP=float(same))

    cases: dict[str, Callable[[], object]] = {
        "read": lambda: [np.bitwise_or.reduce(part.vectors.reshape(-1).view(np.int64)) for part in rows.parts]
    }
    for count in QUESTIONS:
        asked = questions[:count]
        cases[f"exact {count}"] = lambda asked=asked: neighbours(store, space, asked, K)
        cases[f"IndexFlatIP {count}"] = lambda asked=asked: flat.search(asked, K)
        cases[f"SQ8 {count}"] = lambda asked=asked: sq8.search(asked, K)
    seconds = timed(cases, rounds, report)
    for clock, taken in seconds.items():
        report(clock=clock, medians={name: round(statistics.median(times), 5) for name, times in taken.items()})
        for count in QUESTIONS:
            faster = {rival: ratio(taken, f"{rival} {count}", f"exact {count}") for rival in ("IndexFlatIP", "SQ8")}
            report(clock=clock, questions=count, times_as_long=faster)
        report(clock=clock, share_of_read_bandwidth=ratio(taken, "read", "exact 1"))


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median over rounds of the ratio taken inside each round."""
    return round(statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    report = Report(args.results)
    report(rows=args.rows, dim=args.dim, machine=machine())
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:
        start = time.perf_counter()
        space = build(store, args.rows, args.dim)
        report(built_seconds=round(time.perf_counter() - start, 1))
        exact(store, space, args.rounds, report)


if __name__ == "__main__":
    main()
