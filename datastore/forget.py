"""Deleting examples for good: out of every table at once, then out of every file, then out of the free pages.

    begin   one transaction: tombstones, the plan, versions that hold them void, all rows of them gone. From here on no
            reader sees them.
    clear   the files that hold them are written without them, one commit each (`datastore/erase.py`), and what is left
            of the newest versions is recorded in their place.
    close   files that left are deleted, catalog pages are written anew, and the plan ends.

Whoever holds the store's lease may call `clear` and `close` again after a kill: each task leaves the plan in the
transaction that does it. Reports and exports are files outside of the catalog: `pipelines/runs/forget.py` sees to them
between the two.

Cost of `begin`: one pass over `feature_row`, `mark` and `selection_item`. Of `clear`: the shards that hold a deleted
example, and the tables of scores of every selection whose pool it was in. Of `close`: the rows of each file are
counted, and the whole catalog is written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradsift.datastore import examples, files, indexes, leases, maintenance, quarantine, tombstones
from gradsift.datastore.compact import rewrite
from gradsift.datastore.engine import Transaction
from gradsift.datastore.erase import ERASE, erase, larger_attributes
from gradsift.datastore.errors import InputError
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.store import Store

OF_THESE = "IN (SELECT example_id FROM forgetting_example)"
INDEXED = {"feature_row": "example_id", "mark": "example_id", "selection_item": "example_id"}
FEW = 3  # examples up to which a pass over each table costs less than an index on it
Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Picked:
    """What is to be deleted: ids of examples, (file, line) of quarantined rows whose excerpts go as well; `gone` are
    ids that are asked for and were deleted before."""

    ids: Sequence[str]
    quarantined: Sequence[tuple[str, int]] = field(default_factory=list)
    gone: Sequence[str] = ()


def begin(store: Store, picked: Picked, *, exports: bool = False) -> None:
    """Take examples and excerpts out of every table and plan what their files need. The caller holds the store's
    lease. Raises BusyError while another process writes of the store's examples: it would write these after all."""
    catch_up(store)  # what holds them gets its numbers first
    with store.catalog.write() as db:
        leases.require_no_other(store, "gradsift delete", db)
        db.execute(
            "INSERT INTO forgetting (examples, exports, started) VALUES (?, ?, ?)",
            (len(picked.ids), int(exports), db.now()),
        )
        db.executemany("INSERT INTO forgetting_example VALUES (?) ON CONFLICT DO NOTHING", ((i,) for i in picked.ids))
        tombstones.put(db, picked.ids)
        _void(db)
        _plan(db)
        _take_out(db, many=len(picked.ids) > FEW)
        for place in picked.quarantined:
            _hide(db, place)
        files.failpoint("planned")


def _void(db: Transaction) -> None:
    """Mark the versions that hold any of them, saying why."""
    counted = {
        "dataset": "SELECT d.dataset_id AS number, count(*) AS n FROM forgetting_example AS f "
        "JOIN membership AS m USING (example_id) JOIN dataset AS d ON d.chain = m.chain AND m.since <= d.dataset_id "
        "AND m.until > d.dataset_id WHERE d.void IS NULL GROUP BY d.dataset_id",
        "selection": f"SELECT i.selection_id AS number, count(*) AS n FROM selection_item AS i "
        f"JOIN selection AS s USING (selection_id) WHERE s.void IS NULL AND i.example_id {OF_THESE} "
        "GROUP BY i.selection_id",
    }
    for table, text in counted.items():
        for row in db.rows(text):
            why = f"{row['n']:,} examples were deleted" if row["n"] > 1 else "1 example was deleted"
            db.execute(f"UPDATE {table} SET void=? WHERE {table}_id=?", (why, row["number"]))


def _plan(db: Transaction) -> None:
    """List the files that may hold any of them, and the selections that something is to stand for."""
    of_shards = f"SELECT shard_id FROM example WHERE example_id {OF_THESE}"
    tasks = {
        "examples": of_shards,
        "attribute": f"SELECT shard_id FROM attribute WHERE of_shard IN ({of_shards})",
        "features": "SELECT u.shard_id FROM feature_row AS r JOIN unit AS u USING (unit_id) "
        f"WHERE r.row IS NOT NULL AND r.example_id {OF_THESE}",
        "selection": f"SELECT selection_id FROM selection_item WHERE example_id {OF_THESE}",
        "scores": "SELECT scores_shard FROM selection WHERE scores_shard IS NOT NULL",  # also of void ones
    }
    for kind, numbers in tasks.items():
        db.execute(f"INSERT INTO forgetting_task SELECT DISTINCT '{kind}', * FROM ({numbers}) AS found WHERE true "
                   "ON CONFLICT DO NOTHING")  # fmt: skip


def _take_out(db: Transaction, *, many: bool) -> None:
    """Delete all rows of them, indexes that hold theirs, and units of work that have no other."""
    spaces = f"SELECT space_id FROM feature_row WHERE example_id {OF_THESE}"
    chosen = f"SELECT selection_id FROM selection_item WHERE example_id {OF_THESE}"
    db.execute(f"DELETE FROM exported WHERE selection_id IN ({chosen})")  # void ones: nothing checks them out
    db.execute(f"DELETE FROM search_index WHERE space_id IN ({spaces})")  # a trigger dooms the files
    with _indexed(db, many=many):
        db.execute(f"DELETE FROM mark WHERE example_id {OF_THESE} OR twin {OF_THESE}")
        for table in ("selection_item", "feature_row", "membership", "origin", "example"):
            db.execute(f"DELETE FROM {table} WHERE example_id {OF_THESE}")
    db.execute(
        "DELETE FROM unit WHERE shard_id IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM feature_row AS r WHERE r.unit_id = unit.unit_id)"
    )


@contextmanager
def _indexed(db: Transaction, *, many: bool) -> Iterator[None]:
    """Indexes of what refers to examples: without them the deletion of each would be a scan."""
    tables = INDEXED if many else {}
    for table, column in tables.items():
        db.execute(f"CREATE INDEX forget_{table} ON {table} ({column})")
    yield
    for table in tables:
        db.execute(f"DROP INDEX forget_{table}")


def _hide(db: Transaction, place: tuple[str, int]) -> None:
    """Empty what the entries of a quarantined row show, and note their digests: they stay listed with their reason."""
    shown = db.rows("SELECT DISTINCT excerpt FROM quarantine WHERE file=? AND line=? AND excerpt <> ''", place)
    tombstones.put(db, [tombstones.of_excerpt(row["excerpt"]) for row in shown])
    if shown:
        db.execute("UPDATE quarantine SET excerpt='', detail=? WHERE file=? AND line=?", (quarantine.HIDDEN, *place))


def pending(store: Store) -> bool:
    """Whether a deletion is under way that was interrupted."""
    return store.catalog.one("SELECT 1 FROM forgetting WHERE finished IS NULL") is not None


def wants_exports(store: Store) -> bool:
    """Whether the deletion under way rewrites exports."""
    return store.catalog.one("SELECT 1 FROM forgetting WHERE finished IS NULL AND exports=1") is not None


def clear(store: Store, report: Report = lambda _stage, _done, _all: None) -> None:
    """Write the files that hold any of them without them, and record what stands for the newest void versions.

    The caller holds the store's lease. Raises CorruptionError for a damaged file: nothing can be taken out of it.
    """
    tasks = store.catalog.rows("SELECT kind, number FROM forgetting_task ORDER BY kind, number")
    tasks = sorted(tasks, key=lambda task: list(ERASE).index(task["kind"]))
    for done, task in enumerate(tasks, 1):
        erase(store, task["kind"], task["number"])
        files.failpoint("erased")
        report("files and selections without them", done, len(tasks))
    _record_what_is_left(store)
    catch_up(store)


def _record_what_is_left(store: Store) -> None:
    """Stand-ins of the newest void datasets: of each step of a run, and of each pool that has a number."""
    newest = store.catalog.rows(
        "SELECT dataset_id FROM dataset AS d WHERE void IS NOT NULL AND (dataset_id = "
        "(SELECT max(dataset_id) FROM dataset AS other WHERE other.chain = d.chain) OR EXISTS "
        "(SELECT 1 FROM version AS v WHERE v.dataset_id = d.dataset_id AND v.number = "
        "(SELECT max(number) FROM version AS later WHERE later.kind = v.kind AND later.name = v.name))) "
        "ORDER BY dataset_id"
    )
    for row in newest:
        try:
            examples.standing(store, row["dataset_id"])
        except InputError:
            continue  # nothing is left of it


def close(store: Store) -> None:
    """Delete the files that left, and what killed writers left; write the catalog anew; end the plan. The caller holds
    the store's lease.

    Raises BusyError while another process reads the catalog: what was deleted may be in a page that it looks at.
    """
    rewrite(store)  # rows of a lost race, or of a pruning that was killed: the plan cannot know of them
    for index in indexes.all_of(store):
        if indexes.state(store, index) == "stale":  # it may hold vectors of what a pruning took out
            indexes.drop(store, [index.space_id], index.kind)
    for shard in larger_attributes(store):
        erase(store, "attribute", shard)
    with store.catalog.write() as db:
        db.execute("UPDATE doomed SET after=0")
    store.sweep()
    maintenance.collect_at_once(store)
    files.failpoint("collected")
    store.catalog.scrub()
    files.failpoint("scrubbed")
    with store.catalog.write() as db:
        db.execute("DELETE FROM forgetting_example")
        db.execute("UPDATE forgetting SET finished=? WHERE finished IS NULL", (db.now(),))
