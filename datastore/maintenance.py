"""Looking after a store: verify every byte, drop damaged shards so that they are computed again, collect garbage."""

import time
from dataclasses import dataclass
from typing import Any

from gradsift.datastore import files
from gradsift.datastore.errors import BusyError, CorruptionError
from gradsift.datastore.leases import holder_is_dead
from gradsift.datastore.store import Store

GRACE_SECONDS = 3600.0
KINDS = ("examples", "features", "checkpoint", "scores")


@dataclass(frozen=True)
class Damage:
    """A committed file that is not what the catalog says."""

    shard_id: int
    kind: str
    name: str
    problem: str


def verify(store: Store) -> list[Damage]:
    """Check size and digest of every committed file (about 1 GB/s); returns what is wrong."""
    found = []
    for row in store.catalog.rows("SELECT * FROM shard ORDER BY shard_id"):
        try:
            files.check_file(store.root, row["name"], row["bytes"], row["sha256"])
        except CorruptionError as error:
            found.append(Damage(row["shard_id"], row["kind"], row["name"], str(error)))
    return found


def drop_damaged(store: Store, damage: Damage) -> str:
    """Forget a damaged shard so that the next run makes it again; says what will happen.

    Feature rows return to their unit as planned work, a checkpoint and all later ones of its warm-up are
    forgotten, scores leave their selection. A damaged shard of examples is kept: put its file
    back from a copy, or read the sources into a new store.
    """
    shard = (damage.shard_id,)
    with store.catalog.write() as db:
        if damage.kind == "features":
            db.execute(
                "UPDATE feature_row SET row=NULL, status='planned' WHERE status='ok' AND unit_id IN "
                "(SELECT unit_id FROM unit WHERE shard_id=?)",
                shard,
            )
            db.execute("UPDATE unit SET shard_id=NULL WHERE shard_id=?", shard)
            note = "its rows will be computed again"
        elif damage.kind == "checkpoint":
            row: Any = db.execute("SELECT warmup, ordinal FROM checkpoint WHERE shard_id=?", shard).fetchone()
            if row:
                later = (row["warmup"], row["ordinal"])
                gone = db.execute("SELECT shard_id FROM checkpoint WHERE warmup=? AND ordinal>=?", later).fetchall()
                db.execute("DELETE FROM checkpoint WHERE warmup=? AND ordinal>=?", later)
                db.executemany("DELETE FROM shard WHERE shard_id=?", [(r["shard_id"],) for r in gone])
            note = "the warm-up will go on from the checkpoint before it"
        elif damage.kind == "scores":
            db.execute("UPDATE selection SET scores_shard=NULL WHERE scores_shard=?", shard)
            note = "the selection stays; its full score table is gone"
        else:
            return "kept: put the file back from a copy, or ingest its sources into a new store"
        db.execute("DELETE FROM shard WHERE shard_id=?", shard)
    _unlink(store, damage.name)
    return note


def _unlink(store: Store, name: str) -> None:
    """Delete a file of the store; names that lead elsewhere (a forged catalog, a link) are left alone."""
    path = store.root / name
    if path.parent.name in KINDS and path.parent.resolve().parent == store.root.resolve():
        path.unlink(missing_ok=True)


def garbage(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """(name, bytes) of files without a catalog row that are older than `grace` seconds.

    The grace keeps a live writer's file, renamed but not yet committed, safe.
    """
    known = {r["name"] for r in store.catalog.rows("SELECT name FROM shard")}
    oldest = time.time() - grace
    found = []
    for kind in KINDS:
        folder = store.root / kind
        real = folder.is_dir() and not folder.is_symlink()
        for path in sorted(folder.iterdir()) if real else ():
            name = f"{kind}/{path.name}"
            if path.is_file() and name not in known and path.stat().st_mtime < oldest:
                found.append((name, path.stat().st_size))
    return found


def collect(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """Delete what `garbage` lists, unless a run holds the store; returns what was deleted."""
    run = store.catalog.one("SELECT * FROM lease WHERE name='run' AND expires > ?", (time.time(),))
    if run and not holder_is_dead(run["holder"]):
        raise BusyError("a run is working on this store; collect its garbage when it has ended")
    gone = []
    for name, size in garbage(store, grace):
        if not store.catalog.one("SELECT 1 FROM shard WHERE name=?", (name,)):
            _unlink(store, name)
            gone.append((name, size))
    return gone
