"""Tombstones: digests of what was deleted, so that reading its source again does not bring it back.

An example's is its id, an excerpt's of a quarantined row the digest of the excerpt. A digest cannot be read back; but
who has a text, or guesses it, can tell whether it was here.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from gradsift.datastore.engine import Engine, Transaction, marks, parts
from gradsift.datastore.identity import ID_CHARS, fingerprint
from gradsift.datastore.store import Store


def of_excerpt(excerpt: str) -> str:
    """The tombstone of a quarantined row's excerpt."""
    return fingerprint(["excerpt", excerpt])[:ID_CHARS]


def known(store: Store, digests: Sequence[str]) -> set[str]:
    """Which of the ids and digests have a tombstone."""
    return among(store.catalog, digests)


def among(db: Engine | Transaction, digests: Sequence[str]) -> set[str]:
    """`known`, inside a transaction of the caller's: what has none there is not deleted before it ends."""
    if db.one("SELECT 1 FROM tombstone LIMIT 1") is None:
        return set()
    return {
        str(row["example_id"])
        for part in parts(digests)
        for row in db.rows(f"SELECT example_id FROM tombstone WHERE example_id IN ({marks(part)})", part)
    }


def count(store: Store) -> int:
    """How many there are: what was read of examples before is to be read again where it is another number."""
    (row,) = store.catalog.rows("SELECT count(*) AS n FROM tombstone")
    return int(row["n"])


def going(store: Store) -> list[str]:
    """Ids of the deletion under way, sorted: no table has these examples any more, files may."""
    rows = store.catalog.rows("SELECT example_id FROM forgetting_example ORDER BY example_id")
    return [str(row["example_id"]) for row in rows]


def put(db: Transaction, digests: Iterable[str]) -> None:
    """Record tombstones, in a transaction of the caller's."""
    now = db.now()
    db.executemany("INSERT INTO tombstone VALUES (?, ?) ON CONFLICT DO NOTHING", ((name, now) for name in digests))


def copy(store: Store, other: Store) -> None:
    """Record a store's tombstones in another one, too."""
    with other.catalog.write() as db:
        put(db, every(store))


def matching(store: Store, start: str) -> list[str]:
    """Tombstones that begin with this."""
    rows = store.catalog.rows(
        "SELECT example_id FROM tombstone WHERE example_id >= ? AND substr(example_id, 1, length(?)) = ?",
        (start, start, start),
    )
    return [str(row["example_id"]) for row in rows]


def every(store: Store) -> list[str]:
    """All of them, sorted."""
    return [str(row["example_id"]) for row in store.catalog.rows("SELECT example_id FROM tombstone ORDER BY 1")]


def listed(store: Store) -> list[dict[str, str]]:
    """[{id, deleted_utc}], the newest first; some are digests of excerpts, which nothing tells from ids."""
    rows = store.catalog.rows("SELECT example_id, created FROM tombstone ORDER BY created DESC, example_id")
    return [{"id": str(row["example_id"]), "deleted_utc": _utc(row["created"])} for row in rows]


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def remove(store: Store, digests: Sequence[str]) -> int:
    """Take tombstones away, so that the next reading brings the examples back; returns how many there were."""
    with store.catalog.write() as db:
        return sum(db.execute("DELETE FROM tombstone WHERE example_id=?", (name,)) for name in digests)
