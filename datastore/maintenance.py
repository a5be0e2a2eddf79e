"""Looking after a store: verify every byte, collect garbage. `pipelines/runs/repair.py` mends what `verify` finds."""

from dataclasses import dataclass

from gradsift.datastore import holders, indexes, kept, recount, selections
from gradsift.datastore.backend import ADVICE
from gradsift.datastore.errors import BusyError, CorruptionError
from gradsift.datastore.local import LocalFiles
from gradsift.datastore.store import Store, stored_file

GRACE_SECONDS = 3600.0
KINDS = ("examples", "features", "checkpoint", "scores", indexes.FOLDER)


@dataclass(frozen=True)
class Damage:
    """A committed file that is not what the catalog says. `shard_id` is an index's number for an index, and 0 for a
    table that even the catalog lacks: `name` is the number of the selection then, whose masks or shares are gone. Of
    the kinds `dataset`, `selection` and `catalog` it is what `recount.Wrong` says."""

    shard_id: int
    kind: str
    name: str
    problem: str


def verify(store: Store) -> list[Damage]:
    """Check the catalog, then size and digest of every committed file (about 1 GB/s), then every digest that the
    catalog holds of its own rows (`recount`); returns what is wrong. Raises CorruptionError where the catalog itself is
    damaged.

    Cost: linear in the bytes of files, in the rows of the catalog, and in the members of all versions together.
    """
    store.catalog.check()
    damaged = []
    for row in store.catalog.rows("SELECT * FROM shard ORDER BY shard_id"):
        try:
            store.backend.check(stored_file(row))
        except CorruptionError as error:
            damaged.append(Damage(row["shard_id"], row["kind"], row["name"], str(error).removesuffix(f". {ADVICE}")))
    checked = ((index, indexes.problem(store, index)) for index in indexes.all_of(store))
    damaged += [Damage(index.index_id, indexes.FOLDER, index.name, problem) for index, problem in checked if problem]
    damaged += _without_table(store)
    found = {(one.kind, one.shard_id) for one in damaged}
    counted = (Damage(one.number, one.kind, one.name, one.problem) for one in recount.wrong(store))
    return [*damaged, *(one for one in counted if (one.kind, one.shard_id) not in found)]


def take_catalog(store: Store) -> str | None:
    """Take the catalog as it is for what it should be; returns what its check said, None where it is whole.

    Raises CorruptionError where it cannot be read, or its rows refer to others that are gone.
    """
    try:
        store.catalog.check()
    except CorruptionError as error:
        store.catalog.accept()
        store.catalog.check()
        return error.message
    return None


def _without_table(store: Store) -> list[Damage]:
    """Mixtures, and selections with loss masks, whose table was dropped."""
    bare = store.catalog.rows(
        "SELECT selection_id FROM selection WHERE scores_shard IS NULL AND void IS NULL ORDER BY selection_id"
    )
    chosen = [selections.by_number(store, row["selection_id"]) for row in bare]
    return [
        Damage(
            0,
            "scores",
            str(one.selection_id),
            f"the table with the {selections.in_table_alone(one)} of {one.name} is gone",
        )
        for one in chosen
        if selections.in_table_alone(one)
    ]


def reach(store: Store) -> None:
    """Look at the store's files, as many as one answer of a server lists. Raises InputError and UnavailableError where
    the server refuses or does not answer."""
    next(iter(store.backend.list("examples")), None)


def garbage(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """(name, bytes) of files without a catalog row that are older than `grace` seconds, and of what this host keeps of
    datasets that are gone.

    The grace keeps a live writer's file, unfinished or not yet committed, safe. Files that were replaced have a time of
    their own, and go by `Store.sweep`.
    """
    return _orphans(store, grace) + _half_written(store, grace) + kept.garbage(store, grace)


def _half_written(store: Store, grace: float) -> list[tuple[str, int]]:
    """Reports that somebody was killed over, in this host's folder."""
    reports = LocalFiles(store.root).list("reports")
    return [(file.name, file.bytes) for file in reports if not file.finished and file.age > grace]


def _collect_half_written(store: Store, grace: float) -> list[tuple[str, int]]:
    gone = _half_written(store, grace)
    for name, _ in gone:
        LocalFiles(store.root).delete(name)
    return gone


def _orphans(store: Store, grace: float) -> list[tuple[str, int]]:
    rows = store.catalog.rows("SELECT name FROM shard UNION ALL SELECT name FROM doomed")
    known = {row["name"] for row in rows} | indexes.names(store)
    return [
        (file.name, file.bytes)
        for kind in KINDS
        for file in store.backend.list(kind)
        if file.name not in known and file.age > grace
    ]


def _delete_orphan(store: Store, name: str) -> bool:
    """Delete a file without a catalog row; False when it has one by now. Its name comes from a listing of `KINDS`."""
    with store.catalog.write() as db:  # no commit of the file can come between
        if db.one("SELECT 1 FROM shard WHERE name=?", (name,)) or name in indexes.names(store):
            return False
        store.backend.delete(name)
    return True


def collect(store: Store, grace: float = GRACE_SECONDS) -> list[tuple[str, int]]:
    """Delete what `garbage` lists, unless somebody is at work, who may be writing; returns what was deleted."""
    if busy := holders.at_work(store.catalog.rows(holders.LEASES), store.catalog.now()):
        raise BusyError(f"a run is working on this store ({min(busy)}); collect its garbage when it has ended")
    store.require_own_files()
    with store.catalog.write():  # where nothing may be written that is said before a file goes
        pass
    store.sweep()
    orphans = [(name, size) for name, size in _orphans(store, grace) if _delete_orphan(store, name)]
    return orphans + _collect_half_written(store, grace) + kept.collect(store, grace)


def collect_at_once(store: Store) -> int:
    """Delete what `garbage` lists, however young, for the caller who holds the store's lease; returns how many. A
    writer beside it whose file goes is told so when it commits (`Store.commit_file`)."""
    store.require_own_files()
    orphans = _orphans(store, grace=float("-inf"))
    for name, _ in orphans:
        _delete_orphan(store, name)
    gone = _collect_half_written(store, grace=float("-inf")) + kept.collect(store, grace=float("-inf"))
    return len(orphans) + len(gone)
