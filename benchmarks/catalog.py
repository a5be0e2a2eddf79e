"""What the catalog costs through our engine and through SQLAlchemy Core: import, a small query, 10,000 rows (ADR 7).

    python benchmarks/catalog.py [--rounds 7]

Same database, journal and durability on both sides; the best of several rounds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradsift.datastore.sqlite import SqliteEngine

ROWS, QUERIES = 10_000, 3_000


def best_ms(work, rounds):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def imported_ms(module, rounds):
    """Of a fresh interpreter, less that of one that imports nothing."""

    def run(code):
        return best_ms(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds)

    return max(0.0, run(f"import {module}") - run("pass"))


def engine(folder):
    catalog = SqliteEngine(folder / "ours.sqlite")
    leases = [(f"{k:032x}", "me", 0.0) for k in range(ROWS)]

    def insert():
        with catalog.write() as db:
            db.execute("DELETE FROM lease")
            db.executemany("INSERT INTO lease VALUES (?, ?, ?)", leases)

    def query():
        for name, _, _ in leases[:QUERIES]:
            assert catalog.one("SELECT holder FROM lease WHERE name=?", (name,))["holder"] == "me"

    def read():
        assert len([row["name"] for row in catalog.rows("SELECT name FROM lease")]) == ROWS

    return insert, query, read


def core(folder):
    import sqlalchemy as sa

    SqliteEngine(folder / "theirs.sqlite").close()
    connection = sa.create_engine(f"sqlite:///{folder}/theirs.sqlite").connect()
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.exec_driver_sql("PRAGMA synchronous=FULL")
    lease = sa.Table("lease", sa.MetaData(), autoload_with=connection)
    leases = [{"name": f"{k:032x}", "holder": "me", "expires": 0.0} for k in range(ROWS)]
    one = sa.select(lease.c.holder).where(lease.c.name == sa.bindparam("name"))

    def insert():
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(sa.delete(lease))
        connection.execute(sa.insert(lease), leases)
        connection.exec_driver_sql("COMMIT")

    def query():
        for row in leases[:QUERIES]:
            assert connection.execute(one, {"name": row["name"]}).mappings().first()["holder"] == "me"

    def read():
        assert len([row["name"] for row in connection.execute(sa.select(lease.c.name)).mappings()]) == ROWS

    return insert, query, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ours, theirs = (imported_ms(module, rounds + 2) for module in ("sqlite3", "sqlalchemy"))
    print(f"import: sqlite3 {ours:.0f} ms, sqlalchemy {theirs:.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        for side in (engine, core):
            insert, query, read = side(Path(folder))
            insert()
            print(
                f"{side.__name__}: query {1e3 * best_ms(query, rounds) / QUERIES:.1f} µs, "
                f"{ROWS:,} rows inserted {best_ms(insert, rounds):.1f} ms, read {best_ms(read, rounds):.1f} ms"
            )


if __name__ == "__main__":
    main()
