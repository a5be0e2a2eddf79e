"""Looking after a store: verify every byte, drop damaged shards so that they are computed again, collect garbage."""

import time
from dataclasses import dataclass

from gradsift.datastore import indexes
from gradsift.datastore.engine import Transaction
from gradsift.datastore.errors import BusyError, CorruptionError
from gradsift.datastore.leases import RUN, holder_is_dead
from gradsift.datastore.store import Store, stored_file

GRACE_SECONDS = 3600.0
KINDS = ("examples", "features", "checkpoint", "scores", indexes.FOLDER)


@dataclass(frozen=True)
class Damage:
    """A committed file that is not what the catalog says."""

    shard_id: int
    kind: str
    name: str
    problem: str


def verify(store: Store) -> list[Damage]:
    """Check size and digest of every committed file (about 1 GB/s); returns what is wrong."""
    damaged = []
    for row in store.catalog.rows("SELECT * FROM shard ORDER BY shard_id"):
        try:
            store.backend.check(stored_file(row))
        except CorruptionError as error:
            damaged.append(Damage(row["shard_id"], row["kind"], row["name"], str(error)))
    checked = ((index, indexes.problem(store, index)) for index in indexes.all_of(store))
    damaged += [Damage(index.index_id, indexes.FOLDER, index.name, problem) for index, problem in checked if problem]
    return damaged


def drop_damaged(store: Store, damage: Damage) -> str:
    """Forget a damaged shard so that the next run makes it again; says what will happen.

    Feature rows return to their unit as planned work, a checkpoint and all later ones of its warm-up are
    forgotten, a selection loses its table of scores, values of examples are forgotten. A damaged shard of examples is
    kept: put its file back from a copy, or read the sources into a new store.
    """
    if damage.kind == indexes.FOLDER:
        for index in indexes.all_of(store):
            if index.name == damage.name:
                indexes.drop(store, [index.space_id], index.kind)
        return "dropped; `gradsift index build` makes it again"
    if damage.kind not in FORGET:
        return "kept: put the file back from a copy, or ingest its sources into a new store"
    with store.catalog.write() as db:
        note = FORGET[damage.kind](db, damage.shard_id)
        db.execute("DELETE FROM shard WHERE shard_id=?", (damage.shard_id,))
    _delete(store, damage.name)
    return note


def _forget_features(db: Transaction, shard_id: int) -> str:
    db.execute(
        "UPDATE feature_row SET row=NULL, status='planned' WHERE status='ok' AND unit_id IN "
        "(SELECT unit_id FROM unit WHERE shard_id=?)",
        (shard_id,),
    )
    db.execute("UPDATE unit SET shard_id=NULL WHERE shard_id=?", (shard_id,))
    return "its rows will be computed again"


def _forget_checkpoint(db: Transaction, shard_id: int) -> str:
    row = db.one("SELECT warmup, ordinal FROM checkpoint WHERE shard_id=?", (shard_id,))
    if row:
        this_and_later = (row["warmup"], row["ordinal"])
        deleted = db.rows("DELETE FROM checkpoint WHERE warmup=? AND ordinal>=? RETURNING shard_id", this_and_later)
        db.executemany("DELETE FROM shard WHERE shard_id=?", [(checkpoint["shard_id"],) for checkpoint in deleted])
    return "the warm-up will go on from the checkpoint before it"


def _forget_scores(db: Transaction, shard_id: int) -> str:
    # Values computed from each example (`attributes`) are stored under the same kind.
    if db.execute("DELETE FROM attribute WHERE shard_id=?", (shard_id,)):
        return "its values will be computed again"
    db.execute("UPDATE selection SET scores_shard=NULL WHERE scores_shard=?", (shard_id,))
    return "the selection stays; its full score table is gone"


FORGET = {"features": _forget_features, "checkpoint": _forget_checkpoint, "scores": _forget_scores}


def _delete(store: Store, name: str) -> None:
    """Delete a shard's file; a forged name may not reach the store's other files."""
    if name.split("/")[0] in KINDS:
        store.backend.delete(name)


def garbage(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """(name, bytes) of files without a catalog row that are older than `grace` seconds.

    The grace keeps a live writer's file, unfinished or not yet committed, safe. Files that were replaced have a time of
    their own, and go by `Store.sweep`.
    """
    rows = store.catalog.rows("SELECT name FROM shard UNION ALL SELECT name FROM doomed")
    known = {row["name"] for row in rows} | indexes.names(store)
    return [
        (file.name, file.bytes)
        for kind in KINDS
        for file in store.backend.list(kind)
        if file.name not in known and file.age > grace
    ]


def collect(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """Delete what `garbage` lists, unless a run holds the store; returns what was deleted."""
    run = store.catalog.one("SELECT * FROM lease WHERE name=? AND expires > ?", (RUN, time.time()))
    if run and not holder_is_dead(run["holder"]):
        raise BusyError("a run is working on this store; collect its garbage when it has ended")
    store.sweep()
    deleted = []
    for name, size in garbage(store, grace):
        if not store.catalog.one("SELECT 1 FROM shard WHERE name=?", (name,)) and name not in indexes.names(store):
            _delete(store, name)
            deleted.append((name, size))
    return deleted
