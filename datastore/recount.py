"""Recounting: digests that the catalog holds, made again from its own rows by the functions that made them, and the
places of rows against the rows that files have. On every engine: SQLite's seals know whether the rows are those that
were committed, this knows whether they are what their digest says.

What is void is no longer what its digest says, and is left out. Scores and marks have no digest of their own: the
former are in a file that has one, what chose them is in `selection.spec`.

Cost: linear. A pass over the members of each version of a dataset and the items of each selection (about 2 µs each),
over the places of examples and of feature rows, inside the database, and the masks of selections that have some.
Memory: the largest version.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.identity import digest_text, fingerprint
from gradsift.datastore.store import Store

PLACES = {  # rows of files that the catalog lists, by kind
    "examples": "SELECT shard_id, row FROM example",
    "features": "SELECT u.shard_id, r.row FROM feature_row AS r JOIN unit AS u USING (unit_id) WHERE r.row IS NOT NULL",
}


class Wrong(NamedTuple):
    """What is not as its digest or file says: a `dataset` or `selection` (`number` is its own), a shard of `examples`
    or `features`, or, as `catalog`, what is neither."""

    number: int
    kind: str
    name: str
    problem: str


def wrong(store: Store) -> Iterator[Wrong]:
    """All that is not what it was recorded as."""
    for kind in PLACES:
        yield from _places(store, kind)
    yield from _datasets(store)
    yield from _selections(store)
    yield from _fingerprints(store)
    yield from _versions(store)


def _places(store: Store, kind: str) -> Iterator[Wrong]:
    """Shards of which the catalog lists rows that the file does not have, or one row as that of two examples."""
    rows = store.catalog.rows(
        "SELECT s.shard_id, s.kind, s.name, s.rows, count(p.row) AS listed, count(DISTINCT p.row) AS places "
        f"FROM ({PLACES[kind]}) AS p JOIN shard AS s USING (shard_id) GROUP BY s.shard_id, s.kind, s.name, s.rows "
        "HAVING s.kind <> ? OR count(DISTINCT p.row) < count(p.row) OR min(p.row) < 0 OR max(p.row) >= s.rows "
        "ORDER BY s.shard_id",
        (kind,),
    )
    for row in rows:
        if row["kind"] != kind:
            yield Wrong(0, "catalog", row["name"], f"{row['listed']:,} rows of {kind} are said to be in it")
        else:
            problem = f"the catalog lists {row['listed']:,} rows of it in {row['places']:,} places"
            yield Wrong(row["shard_id"], kind, row["name"], f"{problem}, and it has {row['rows']:,} rows")


def _datasets(store: Store) -> Iterator[Wrong]:
    for row in store.catalog.rows("SELECT * FROM dataset WHERE void IS NULL ORDER BY dataset_id"):
        number = row["dataset_id"]
        members = examples.members_of(store, number)
        if (len(members), examples.digest_of(members)) == (row["rows"], row["digest"]):
            continue
        if not _holds(store, "dataset", number):
            continue  # deleted from, or pruned, since its row was read
        name = f"{row['role']} {row['name']}{_numbers(store, 'dataset', number)}"
        problem = f"its {len(members):,} members are not the {row['rows']:,} that were recorded"
        yield Wrong(number, "dataset", name, problem)


def _selections(store: Store) -> Iterator[Wrong]:
    for row in store.catalog.rows("SELECT * FROM selection WHERE void IS NULL ORDER BY selection_id"):
        number = row["selection_id"]
        chosen = selections.by_number(store, number)
        if row["scores_shard"] is None and selections.in_table_alone(chosen):
            continue  # what its table said is lost, which is told as that
        try:
            digest = selections.recomputed(store, chosen)
        except CorruptionError:
            continue  # its table is damaged, which is told as that
        if digest == row["digest"] or not _holds(store, "selection", number):
            continue
        kind = "mixture" if row["method"] == selections.MIXTURE else "selection"
        name = f"{kind} {row['name']}{_numbers(store, 'selection', number)}"
        yield Wrong(number, "selection", name, f"its {len(chosen.example_ids):,} rows are not those that were recorded")


def _fingerprints(store: Store) -> Iterator[Wrong]:
    named = {
        "feature space": "SELECT space_id AS name, spec, fingerprint FROM feature_space ORDER BY space_id",
        "validation": "SELECT name, spec, arm_key AS fingerprint FROM arm ORDER BY created, arm_key",
    }
    for what, text in named.items():
        for row in store.catalog.rows(text):
            if digest_text(row["spec"]) != row["fingerprint"]:
                yield Wrong(0, "catalog", f"{what} {row['name']}", "its spec is not that of its fingerprint")


def _versions(store: Store) -> Iterator[Wrong]:
    rows = store.catalog.rows(
        "SELECT v.*, coalesce(d.digest, s.digest) AS held FROM version AS v LEFT JOIN dataset AS d USING (dataset_id) "
        "LEFT JOIN selection AS s USING (selection_id) ORDER BY v.kind, v.name, v.number"
    )
    for row in rows:
        held, digest = row["held"], row["digest"]
        unlike = held is not None and held.rpartition(" ")[2] != digest
        if unlike or (row["kind"] == "pool" and row["identity"] != fingerprint(["pool", digest])):
            name = f"{row['kind']} {row['name']}@{row['number']}"
            yield Wrong(0, "catalog", name, "its digest is not that of what it holds")


def _holds(store: Store, table: str, number: int) -> bool:
    return store.catalog.one(f"SELECT 1 FROM {table} WHERE {table}_id=? AND void IS NULL", (number,)) is not None


def _numbers(store: Store, table: str, number: int) -> str:
    """`@1, @2`, the versions that a dataset or selection is; where it is none, its own number."""
    rows = store.catalog.rows(f"SELECT number FROM version WHERE {table}_id=? ORDER BY number", (number,))
    return ", ".join(f"@{row['number']}" for row in rows) or f" (number {number})"
