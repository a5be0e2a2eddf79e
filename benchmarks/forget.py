"""What a deletion costs, part by part, on generated rows: `python benchmarks/forget.py [--rows 10000,100000]`

Stores of shards of 1,000 rows (as `benchmarks/growth.py` builds them) with two selections of a tenth of the pool, each
with a table of scores of all of it; one example is deleted, then one per cent of them, from all shards of the older
half.

    pick     ids by a predicate on the catalog, and on texts
    begin    out of all tables
    clear    files without them
    close    files that left, catalog pages

Lines are written as they come, to --results too, with the files and bytes that each deletion wrote.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from growth import build, example, seconds
from measure import machine

from gradsift.datastore import forget, picks, selections
from gradsift.datastore.forget import Picked
from gradsift.datastore.store import Store


def select(store: Store, rows: int) -> None:
    """Two selections of a tenth, with scores of all."""
    ids = sorted(example(k).example_id for k in range(rows))
    for number in range(2):
        scores = pa.array(random.Random(number).random() for _ in ids)
        table = pa.table({"example_id": ids, "score": scores})
        picked = ids[number :: max(1, 10)]
        spec = {"method": "generated", "number": number}
        selections.save(store, f"s{number}", "t", spec, selections.Picks(picked, [0.0] * len(picked), table))


def files_of(store: Store) -> dict[str, int]:
    """{name: bytes} of all committed files."""
    return {row["name"]: row["bytes"] for row in store.catalog.rows("SELECT name, bytes FROM shard")}


def measure(store: Store, ids: list[str]) -> dict[str, object]:
    """Seconds of each part of a deletion, and what it wrote."""
    before = files_of(store)
    found: dict[str, object] = {
        "begin": round(seconds(lambda: forget.begin(store, Picked(ids))), 3),
        "clear": round(seconds(lambda: forget.clear(store)), 3),
        "close": round(seconds(lambda: forget.close(store)), 3),
    }
    new = {name: size for name, size in files_of(store).items() if name not in before}
    return found | {"files written": len(new), "of": len(before), "bytes written": sum(new.values()),
                    "of bytes": sum(before.values())}  # fmt: skip


def main() -> None:
    """Build, delete, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--results", type=Path, default=Path("forget.jsonl"))
    parser.add_argument("--folder", type=Path, help="where the stores are made; default: the system's folder")
    chosen = parser.parse_args()

    def note(**line: object) -> None:
        with chosen.results.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)

    note(machine=machine(), dim=chosen.dim)
    for rows in map(int, chosen.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            root = Path(folder) / "store"
            build(root, rows, chosen.dim)
            with Store(root) as store:
                select(store, rows)
                by_catalog = seconds(lambda store=store: picks.by_predicate(store, "line = 7"))
                by_text = seconds(lambda store=store: picks.by_predicate(store, "text like '%ann@example.org%'"))
                note(rows=rows, pick={"catalog": round(by_catalog, 3), "text": round(by_text, 3)})
                note(rows=rows, deleted=1, **measure(store, [example(rows // 2).example_id]))
                some = random.Random(0).sample(range(rows // 2), rows // 100)
                note(rows=rows, deleted=len(some), **measure(store, [example(k).example_id for k in some]))
                note(rows=rows, catalog=(root / "catalog.sqlite").stat().st_size)


if __name__ == "__main__":
    main()
