"""Feature rows in the catalog: spaces, units of work, coverage, and reading blocks back.

Each (space, example) has at most one `feature_row`, by primary key. `plan` puts the missing examples into
units inside one transaction, so that any number of workers agree on who computes what; `commit_unit` makes
a unit's shard visible and marks its rows in one transaction. Re-planning after new examples adds units for
those only.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from gradsift.datastore.documents import object_of
from gradsift.datastore.engine import Engine, Row, Transaction, marks, parts
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.identity import Spec, canonical_json, check_comparable, fingerprint
from gradsift.datastore.leases import Lease
from gradsift.datastore.rows import FeatureBlock, join_blocks, read_blocks, write_block
from gradsift.datastore.store import Store

OTHER_ROWS = "shard {} does not hold the examples that the catalog lists"


def define_space(store: Store, spec: Spec) -> int:
    """Id of the feature space with this spec, created if new."""
    with store.catalog.write() as db:
        db.execute(
            "INSERT INTO feature_space (fingerprint, spec, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (fingerprint(spec), canonical_json(spec), db.now()),
        )
        (row,) = db.rows("SELECT space_id FROM feature_space WHERE fingerprint=?", (fingerprint(spec),))
    return int(row["space_id"])


def space_spec(store: Store, space_id: int) -> Spec:
    """Spec of a feature space."""
    row = store.catalog.one("SELECT space_id, spec FROM feature_space WHERE space_id=?", (space_id,))
    if row is None:
        raise InputError(f"there is no feature space {space_id} in {store.root}")
    return _spec(row)


def _spec(row: Row) -> Spec:
    return object_of(row["spec"], f"the spec of space {row['space_id']}")


def space_fingerprint(store: Store, space_id: int) -> str:
    """Fingerprint of a feature space, or '' for an unknown one."""
    row = store.catalog.one("SELECT fingerprint FROM feature_space WHERE space_id=?", (space_id,))
    return str(row["fingerprint"]) if row else ""


def space_by_fingerprint(store: Store, space_digest: str) -> int | None:
    """Id of the feature space with this fingerprint, or None."""
    row = store.catalog.one("SELECT space_id FROM feature_space WHERE fingerprint=?", (space_digest,))
    return int(row["space_id"]) if row else None


def spaces_at(store: Store, checkpoint: str) -> list[tuple[int, int]]:
    """(number, rows) of the feature spaces at a checkpoint, by its digest."""
    spaces = store.catalog.rows(
        "SELECT s.space_id, s.spec, (SELECT count(*) FROM feature_row AS r WHERE r.space_id = s.space_id "
        "AND r.status = 'ok') AS n FROM feature_space AS s ORDER BY s.space_id"
    )
    return [(row["space_id"], row["n"]) for row in spaces if _spec(row).get("checkpoint") == checkpoint]


def spaces_of(store: Store, kind: str) -> list[int]:
    """Numbers of the feature spaces whose spec names this kind, such as `encoder`; gradient rows name none."""
    spaces = store.catalog.rows("SELECT space_id, spec FROM feature_space ORDER BY space_id")
    return [int(row["space_id"]) for row in spaces if _spec(row).get("kind") == kind]


def planned_in(store: Store, spec: str) -> bool:
    """Whether rows are planned in any space whose fingerprint is in this text. Cost: one pass over the rows."""
    found = store.catalog.rows(
        "SELECT fingerprint FROM feature_space AS s WHERE EXISTS "
        "(SELECT 1 FROM feature_row AS r WHERE r.space_id = s.space_id AND r.status = 'planned')"
    )
    return any(row["fingerprint"] in spec for row in found)


def check_spaces(store: Store, train: int, query: int) -> None:
    """Raise FeatureSpaceMismatch unless rows of the two spaces may be compared."""
    check_comparable(space_spec(store, train), space_spec(store, query))


def missing(store: Store, space_id: int, ids: Sequence[str]) -> list[str]:
    """Ids without a row, planned or not, in the given order. Cost: that of the ids, however many rows the space has."""
    have = _present(store.catalog, space_id, ids)
    return [i for i in ids if i not in have]


def to_come(store: Store, space_id: int, ids: Sequence[str]) -> list[str]:
    """Ids that are not computed yet, planned or not, in the given order. Cost: as `missing`."""
    have = _present(store.catalog, space_id, ids, "AND status <> 'planned'")
    return [i for i in ids if i not in have]


def unplanned(store: Store, space_id: int, dataset_id: int) -> list[str]:
    """Members of a dataset without a row, planned or not, sorted. Cost: a pass over the members inside the catalog."""
    rows = store.catalog.rows(
        "SELECT m.example_id FROM dataset_member AS m WHERE m.dataset_id = ? AND NOT EXISTS "
        "(SELECT 1 FROM feature_row AS r WHERE r.space_id = ? AND r.example_id = m.example_id) ORDER BY m.example_id",
        (dataset_id, space_id),
    )
    return [str(row["example_id"]) for row in rows]


def lacking(store: Store, space_id: int, ids: Sequence[str]) -> list[str]:
    """Ids that have neither a row nor a gradient of zero, which has none, in the given order. Cost: as `missing`."""
    have = _present(store.catalog, space_id, ids, "AND status IN ('ok', 'zero')")
    return [i for i in ids if i not in have]


def _present(db: Engine | Transaction, space_id: int, ids: Sequence[str], which: str = "") -> set[str]:
    """Those of the ids that have an entry in a space."""
    return {
        str(row["example_id"])
        for part in parts(ids)
        for row in db.rows(
            f"SELECT example_id FROM feature_row WHERE space_id=? AND example_id IN ({marks(part)}) {which}",
            (space_id, *part),
        )
    }


def commit_rows(store: Store, space_id: int, block: FeatureBlock, rejected: Mapping[str, str]) -> None:
    """Commit rows that were computed beside others, as a unit of their own; ids planned before are left as they are."""
    with store.catalog.write() as db:
        have = _present(db, space_id, [*block.example_ids, *rejected])
        todo = [i for i in [*block.example_ids, *rejected] if i not in have]
        if not todo:
            return
        unit_id = _new_unit(db, space_id, todo)
    wanted = set(todo)
    keep = np.array([k for k, name in enumerate(block.example_ids) if name in wanted], np.int64)
    commit_unit(store, space_id, unit_id, block.take(keep), {i: s for i, s in rejected.items() if i in wanted})


def _new_unit(db: Transaction, space_id: int, ids: Sequence[str]) -> int:
    """Plan the ids as one unit; returns its number."""
    (inserted,) = db.rows("INSERT INTO unit (space_id, examples) VALUES (?, ?) RETURNING unit_id", (space_id, len(ids)))
    unit_id = int(inserted["unit_id"])
    db.executemany("INSERT INTO feature_row VALUES (?, ?, ?, NULL, 'planned')", ((space_id, i, unit_id) for i in ids))
    return unit_id


def plan(store: Store, space_id: int, ids: Sequence[str], flagged: Mapping[str, str], unit_rows: int) -> int:
    """Put the missing ids into units of `unit_rows`, in the given order; returns how many were planned.

    `flagged` maps ids that cannot have a row to a status (such as 'no_labels'); they are recorded, not
    computed. Safe to call from several workers at once.
    """
    with store.catalog.write() as db:
        have = _present(db, space_id, sorted({*ids, *flagged}))
        db.executemany(
            "INSERT INTO feature_row VALUES (?, ?, NULL, NULL, ?)",
            ((space_id, i, status) for i, status in flagged.items() if i not in have),
        )
        todo = [i for i in ids if i not in have and i not in flagged]
        for start in range(0, len(todo), unit_rows):
            part = todo[start : start + unit_rows]
            _new_unit(db, space_id, part)
    return len(todo)


def open_units(store: Store, space_id: int, dataset_id: int) -> list[int]:
    """Units without a shard that hold at least one member of the dataset, oldest first. Cost: by open units."""
    return [
        int(row["unit_id"])
        for row in store.catalog.rows(
            "SELECT u.unit_id FROM unit AS u WHERE u.space_id = ? AND u.shard_id IS NULL AND EXISTS (SELECT 1 "
            "FROM feature_row AS r JOIN dataset_member AS m ON m.example_id = r.example_id "
            "WHERE r.unit_id = u.unit_id AND m.dataset_id = ?) ORDER BY u.unit_id",
            (space_id, dataset_id),
        )
    ]


def sizes(store: Store, units: Sequence[int]) -> dict[int, int]:
    """{unit: its examples}."""
    return {
        int(row["unit_id"]): int(row["examples"])
        for part in parts(units)
        for row in store.catalog.rows(f"SELECT unit_id, examples FROM unit WHERE unit_id IN ({marks(part)})", part)
    }


def is_open(store: Store, unit_id: int) -> bool:
    """Whether a unit has no shard yet."""
    return store.catalog.one("SELECT 1 FROM unit WHERE unit_id=? AND shard_id IS NULL", (unit_id,)) is not None


def unit_ids(store: Store, unit_id: int) -> list[str]:
    """Example ids of a unit, sorted."""
    return [
        str(row["example_id"])
        for row in store.catalog.rows(
            "SELECT example_id FROM feature_row WHERE unit_id=? ORDER BY example_id", (unit_id,)
        )
    ]


def commit_unit(
    store: Store,
    space_id: int,
    unit_id: int,
    block: FeatureBlock,
    rejected: Mapping[str, str],
    lease: Lease | None = None,
) -> bool:
    """Commit a unit's rows; `rejected` maps ids without a usable row to a status. Rows of examples that left the unit
    since it was read, because they were deleted, stay out of the file. `lease` is what the caller claimed the unit by.

    Returns False, leaving nothing behind, when another worker has committed the unit already, when it took the lease
    because this one was held up, or when none of the unit is left.
    """
    if lease is not None and not lease.is_own(store.catalog):
        return False  # before a file is written for nothing

    def commit(block: FeatureBlock) -> bool:
        def record(db: Transaction, shard_id: int) -> bool:
            if lease is not None and not lease.is_own(db):
                return False
            if not db.execute("UPDATE unit SET shard_id=? WHERE unit_id=? AND shard_id IS NULL", (shard_id, unit_id)):
                return False
            mark_rows(db, space_id, unit_id, block.example_ids, rejected)
            (held,) = db.rows("SELECT count(row) AS n FROM feature_row WHERE unit_id=?", (unit_id,))
            return bool(held["n"] == len(block.example_ids))

        return commit_block(store, space_id, block, record) is not None

    while not commit(block):
        if not is_open(store, unit_id) or (lease is not None and not lease.is_own(store.catalog)):
            return False
        left = set(unit_ids(store, unit_id))
        block = block.take(np.array([k for k, name in enumerate(block.example_ids) if name in left], np.int64))
    return True


def commit_block(
    store: Store, space_id: int, block: FeatureBlock, record: Callable[[Transaction, int], bool]
) -> int | None:
    """Commit rows of a space as a shard, with what `record` writes (see `Store.commit_file`); returns its number."""
    spec = space_spec(store, space_id)
    return store.commit_file(
        "features",
        ".arrow",
        len(block.example_ids),
        lambda handle: write_block(block, fingerprint(spec), handle),
        record,
    )


def mark_rows(db: Transaction, space_id: int, unit_id: int, ids: Sequence[str], rejected: Mapping[str, str]) -> None:
    """Note which row of its unit's shard each example has, and the status of those without one."""
    where = "WHERE space_id=? AND example_id=? AND unit_id=?"
    db.executemany(
        f"UPDATE feature_row SET row=?, status='ok' {where}",
        ((row, space_id, i, unit_id) for row, i in enumerate(ids)),
    )
    db.executemany(
        f"UPDATE feature_row SET row=NULL, status=? {where}",
        ((status, space_id, i, unit_id) for i, status in rejected.items()),
    )


def statuses(store: Store, space_id: int, dataset_id: int) -> dict[str, int]:
    """{status: members of the dataset}; members never planned count as 'missing'."""
    return {
        str(row["status"]): int(row["n"])
        for row in store.catalog.rows(
            "SELECT coalesce(r.status, 'missing') AS status, count(*) AS n FROM dataset_member AS m "
            "LEFT JOIN feature_row AS r ON r.example_id = m.example_id AND r.space_id = ? "
            "WHERE m.dataset_id = ? GROUP BY 1 ORDER BY 1",
            (space_id, dataset_id),
        )
    }


def shards_of(store: Store, space_id: int) -> list[int]:
    """Numbers of the committed shards of a space, sorted."""
    rows = store.catalog.rows(
        "SELECT DISTINCT shard_id FROM unit WHERE space_id=? AND shard_id IS NOT NULL ORDER BY shard_id", (space_id,)
    )
    return [int(row["shard_id"]) for row in rows]


def read(store: Store, space_id: int, ids: Sequence[str] | None = None) -> Iterator[FeatureBlock]:
    """Committed rows of a space (of the given ids only, if any), a block for each record batch of each shard: one
    that a unit made is one batch, a merged one has several of bounded size.

    Each shard's digest is checked before its first use. Raises CorruptionError for a damaged shard or
    one whose recorded space differs.
    """
    wanted = None if ids is None else set(ids)
    space_digest = fingerprint(space_spec(store, space_id))
    rows_of_shard: dict[int, dict[str, int]] = {}
    for row in store.catalog.rows(
        "SELECT u.shard_id, r.example_id, r.row FROM feature_row AS r JOIN unit AS u USING (unit_id) "
        "WHERE r.space_id = ? AND r.row IS NOT NULL ORDER BY u.shard_id, r.row",
        (space_id,),
    ):
        if wanted is None or row["example_id"] in wanted:
            rows_of_shard.setdefault(int(row["shard_id"]), {})[row["example_id"]] = int(row["row"])
    for shard_id, rows in rows_of_shard.items():
        recorded, blocks = read_blocks(store.map(shard_id))
        if recorded != space_digest:
            raise CorruptionError(f"shard {shard_id} holds rows of space {recorded[:12]}, not {space_digest[:12]}")
        names, places = list(rows), np.fromiter(rows.values(), np.int64, len(rows))
        first, done = 0, 0
        for block in blocks:
            after = first + len(block.example_ids)
            end = int(np.searchsorted(places, after))
            keep = places[done:end] - first
            if [block.example_ids[k] for k in keep] != names[done:end]:
                raise CorruptionError(OTHER_ROWS.format(shard_id))
            if len(keep):
                yield block if len(keep) == len(block.example_ids) else block.take(keep)
            first, done = after, end
        if done < len(names):
            raise CorruptionError(OTHER_ROWS.format(shard_id))


def read_all(store: Store, space_id: int, ids: Sequence[str]) -> FeatureBlock:
    """Rows of the given ids in the given order; ids without a row are left out. Holds all in memory."""
    blocks = list(read(store, space_id, ids))
    if not blocks:
        raise InputError("none of these examples has a feature row in this space; run the recipe first")
    joined = join_blocks(blocks)
    place = {name: k for k, name in enumerate(joined.example_ids)}
    return joined.take(np.array([place[i] for i in ids if i in place], np.int64))


def modules_of(store: Store, space_id: int) -> list[str]:
    """Names of the parameters whose parts lie side by side in the rows of a space, in their order; [] where a row is
    one sketch of all, and where an older version kept no names."""
    if not space_spec(store, space_id).get("projector", {}).get("per_module"):
        return []
    for shard_id in shards_of(store, space_id)[:1]:
        with store.map(shard_id) as source:
            metadata = pa.ipc.open_file(source).schema.metadata or {}
        names: list[str] = json.loads(metadata.get(b"gradsift.modules", "[]"))
        return names
    return []


def with_rows(store: Store, space_id: int, dataset_id: int) -> list[str]:
    """Members of a dataset that have a row in a space, sorted."""
    return [
        str(row["example_id"])
        for row in store.catalog.rows(
            "SELECT r.example_id FROM dataset_member AS m JOIN feature_row AS r ON r.example_id = m.example_id "
            "WHERE m.dataset_id = ? AND r.space_id = ? AND r.status = 'ok' ORDER BY r.example_id",
            (dataset_id, space_id),
        )
    ]


def ids_with_rows(store: Store, space_id: int) -> list[str]:
    """All examples that have a row in a space, sorted."""
    rows = store.catalog.rows(
        "SELECT example_id FROM feature_row WHERE space_id=? AND status='ok' ORDER BY example_id", (space_id,)
    )
    return [str(row["example_id"]) for row in rows]


def some_with_rows(store: Store, space_id: int, dataset_id: int | None, most: int, *, last: bool = False) -> list[str]:
    """At most so many examples (members of a dataset, if given) that have a row in a space: the first or last by id."""
    member = "" if dataset_id is None else f"AND {_MEMBER}"
    rows = store.catalog.rows(
        f"SELECT r.example_id FROM feature_row AS r WHERE r.space_id=? AND r.status='ok' {member} "
        f"ORDER BY r.example_id {'DESC' if last else 'ASC'} LIMIT ?",
        (space_id, *_given(dataset_id), most),
    )
    return [str(row["example_id"]) for row in rows]


def outside(store: Store, space_id: int, dataset_id: int) -> list[str]:
    """Examples that have a row in a space and are no members of a dataset. Cost O(rows of the space), in SQL."""
    rows = store.catalog.rows(
        f"SELECT r.example_id FROM feature_row AS r WHERE r.space_id=? AND r.status='ok' AND NOT {_MEMBER}",
        (space_id, dataset_id),
    )
    return [str(row["example_id"]) for row in rows]


def covers(store: Store, space_id: int, other: int, dataset_id: int | None) -> bool:
    """Whether each example (member of a dataset, if given) with a row in a space has one, or a zero, in another."""
    if space_id == other:
        return True
    member = "" if dataset_id is None else f"AND {_MEMBER}"
    lacking = store.catalog.one(
        "SELECT 1 FROM feature_row AS r WHERE r.space_id=? AND r.status='ok' AND NOT EXISTS "
        "(SELECT 1 FROM feature_row AS o WHERE o.space_id=? AND o.example_id = r.example_id "
        f"AND o.status IN ('ok', 'zero')) {member} LIMIT 1",
        (space_id, other, *_given(dataset_id)),
    )
    return lacking is None


def count(store: Store, space_id: int) -> int:
    """How many rows a space has. Cost: a fifth of that of `covers`."""
    (row,) = store.catalog.rows("SELECT count(row) AS n FROM feature_row WHERE space_id=?", (space_id,))
    return int(row["n"])


_MEMBER = "EXISTS (SELECT 1 FROM dataset_member AS m WHERE m.dataset_id=? AND m.example_id = r.example_id)"


def _given(value: int | None) -> tuple[int, ...]:
    return () if value is None else (value,)
