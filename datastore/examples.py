"""Examples in the store: canonical chats in Parquet shards, identity and provenance in the catalog."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradsift.datastore import chats, groups, origins, tombstones
from gradsift.datastore.arrow import positions
from gradsift.datastore.chats import Messages
from gradsift.datastore.engine import Transaction, marks, parts
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.identity import canonical_json, digest_ids
from gradsift.datastore.origins import Origin
from gradsift.datastore.store import Store

T = TypeVar("T")
PART_ROWS = 5_000
PART_CHARS = 64 << 20


@dataclass(frozen=True)
class Example:
    """One chat record in canonical form, with the place it was read from; `extra` is what else stood in its row, as
    plain JSON values."""

    example_id: str
    messages: Messages
    source: str
    file: str = ""
    line: int = 0
    licence: str | None = None
    subtask: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class ById(dict[str, T]):
    """What the store has of examples, by id. Whoever takes one that it does not have was told of it by another table:
    that is no KeyError."""

    def __missing__(self, name: str) -> NoReturn:
        raise CorruptionError(
            f"example {name[:8]} is listed, and the catalog does not have it. Unless it was deleted meanwhile, the "
            "catalog is damaged: run `gradsift verify`"
        )


@dataclass(frozen=True)
class BadRow:
    """A row that was refused: where, why (a short code), the detail, and a short excerpt."""

    file: str
    line: int
    source: str
    reason: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class AddReport:
    """What `add` did: how many examples were new, how many were known already, and ids of those that were left out,
    because they were deleted before."""

    new: int
    known: int
    deleted: frozenset[str] = frozenset()


def add(store: Store, batch: Sequence[Example]) -> AddReport:
    """Add examples; ones whose id is known gain an origin only, or what it has by now, and ones that were deleted stay
    out. Idempotent.

    Cost: one Parquet shard for the new ones of the batch and one transaction.
    """
    deleted = tombstones.known(store, [example.example_id for example in batch])
    while True:
        left = [example for example in batch if example.example_id not in deleted]
        first: dict[str, Example] = {}
        for example in left:
            first.setdefault(example.example_id, example)
        known = known_ids(store, list(first))
        fresh = [e for i, e in first.items() if i not in known]
        late = _commit(store, fresh, left)
        if not late:
            return AddReport(len(fresh), len(left) - len(fresh), frozenset(deleted))
        deleted |= late


def _commit(store: Store, fresh: Sequence[Example], batch: Sequence[Example]) -> set[str]:
    """Commit examples and origins, or nothing where examples were deleted since they were looked up, which it returns:
    no file may have their text."""
    late: set[str] = set()
    ids = list(dict.fromkeys(example.example_id for example in batch))

    def record(db: Transaction, shard: int | None) -> bool:
        late.update(tombstones.among(db, ids))
        if not late:
            _record(db, shard, fresh, batch)
        return not late

    if fresh:
        store.commit_file(
            "examples",
            ".parquet",
            len(fresh),
            lambda handle: write_chats([e.example_id for e in fresh], [e.messages for e in fresh], handle),
            record,
        )
    else:
        with store.catalog.write() as db:
            record(db, None)
    return late


def write_chats(ids: Sequence[str], of_ids: Sequence[Messages], handle: BinaryIO) -> None:
    """Write a shard of examples. Memory: a row group (`groups`), beside what is given."""
    more = not all(map(chats.is_plain, of_ids))
    schema = pa.schema([("example_id", pa.string()), *chats.columns(more)])
    spans = groups.spans(map(chats.weight, of_ids), groups.GROUP_ROWS, groups.GROUP_BYTES)
    tables = (
        pa.table({"example_id": pa.array(ids[a:b], pa.string()), **chats.as_columns(of_ids[a:b], more)})
        for a, b in spans
    )
    groups.write(tables, schema, handle)


def _record(db: Transaction, shard: int | None, fresh: Sequence[Example], batch: Sequence[Example]) -> None:
    db.executemany(
        "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        ((e.example_id, e.source, e.licence, shard, row, chats.chars(e.messages)) for row, e in enumerate(fresh)),
    )
    places = ((e, origins.extra_text(e.extra)) for e in batch)
    origins.record(db, ((e.example_id, Origin(e.file, e.line, e.source, e.licence, extra)) for e, extra in places))


def known_ids(store: Store, ids: Sequence[str]) -> set[str]:
    """Which of the ids the store already has."""
    return {
        str(row["example_id"])
        for part in parts(ids)
        for row in store.catalog.rows(f"SELECT example_id FROM example WHERE example_id IN ({marks(part)})", part)
    }


def members(store: Store, dataset_id: int, ids: Collection[str]) -> set[str]:
    """Which of the ids are members of a dataset."""
    return {
        str(row["example_id"])
        for part in parts(sorted(ids))
        for row in store.catalog.rows(
            f"SELECT example_id FROM dataset_member WHERE dataset_id=? AND example_id IN ({marks(part)})",
            (dataset_id, *part),
        )
    }


def find_prefix(store: Store, start: str) -> str:
    """The one example id that starts with this. Raises InputError when there is none, or more than one."""
    rows = []
    if set(start) <= set("0123456789abcdef"):  # as a range, which the key of the table answers at once
        rows = store.catalog.rows(
            "SELECT example_id FROM example WHERE example_id >= ? AND example_id < ? LIMIT 2", (start, start + "g")
        )
    if len(rows) != 1:
        raise InputError(f"{'no' if not rows else 'more than one'} example has an id starting with {start!r}")
    return str(rows[0]["example_id"])


def get_messages(store: Store, ids: Sequence[str]) -> ById[Messages]:
    """Messages of the given examples by id; unknown ids are left out. Reads the row groups that hold them, each once.

    Raises CorruptionError for a damaged shard, and for one that does not hold what the catalog says.
    """
    places: dict[int, list[tuple[int, str]]] = {}
    for part in parts(sorted(set(ids))):
        for row in store.catalog.rows(
            f"SELECT example_id, shard_id, row FROM example WHERE example_id IN ({marks(part)})", part
        ):
            places.setdefault(row["shard_id"], []).append((row["row"], row["example_id"]))
    messages = ById[Messages]()
    for shard, wanted in sorted(places.items()):
        wanted.sort()
        rows = np.array([row for row, _ in wanted], np.int64)
        done = 0
        for first, table in _groups(store, shard, rows):
            end = int(np.searchsorted(rows, first + table.num_rows))
            found = table.take(positions(rows[done:end] - first))
            names = [name for _, name in wanted[done:end]]
            if found["example_id"].to_pylist() != names:
                break
            messages.update(zip(names, chats.of_table(found), strict=True))
            done = end
        if done < len(wanted):
            raise CorruptionError(
                f"shard {shard} (examples) does not hold what the catalog says; run `gradsift verify`"
            )
    return messages


def in_parts(store: Store, ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids in parts, in order, of which each has at most `PART_ROWS` and, unless one alone has more, `PART_CHARS` of
    text: what a caller holds who reads `get_messages` of one part after the other. Unknown ids count as empty."""
    sizes = {
        row["example_id"]: int(row["chars"])
        for part in parts(ids)
        for row in store.catalog.rows(
            f"SELECT example_id, chars FROM example WHERE example_id IN ({marks(part)})", part
        )
    }
    for first, end in groups.spans((sizes.get(i, 0) for i in ids), PART_ROWS, PART_CHARS):
        yield list(ids[first:end])


def _groups(store: Store, shard_id: int, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(row of its first, row group) of a shard, in order; only those that hold one of the sorted `rows`, if given."""
    with store.open(shard_id) as opened:
        yield from groups.read(groups.opened(opened), rows)


def read_groups(store: Store, shard_id: int) -> Iterator[pa.Table]:
    """The columns of a shard of examples (`chats`), a row group at a time: at most a few thousand rows, and about
    16 MiB of text. Raises CorruptionError when it is damaged."""
    return (table for _, table in _groups(store, shard_id))


def scan(store: Store, shard_id: int = 0, row: int = 0) -> Iterator[tuple[int, int, pa.Table]]:
    """(shard, row of its first, row group) of all examples from a place on, by shard and row, each read when asked for.
    A shard that is merged or written anew meanwhile is passed over. Raises CorruptionError for a damaged one."""
    shards = store.catalog.rows(
        "SELECT shard_id, rows FROM shard WHERE kind='examples' AND shard_id >= ? ORDER BY shard_id", (shard_id,)
    )
    for number, rows in ((int(shard["shard_id"]), int(shard["rows"])) for shard in shards):
        first = row if number == shard_id else 0
        if store.catalog.one("SELECT 1 FROM shard WHERE shard_id=?", (number,)) is not None:
            wanted = np.arange(first, rows) if first else None
            yield from ((number, start, table) for start, table in _groups(store, number, wanted))


def shards_of(store: Store, ids: Sequence[str]) -> list[int]:
    """Numbers of the shards that hold any of the given examples, sorted. Raises CorruptionError where the catalog knows
    no such shard."""
    before: set[int] | None = None
    while True:
        found = {
            int(row["shard_id"])
            for part in parts(ids)
            for row in store.catalog.rows(
                f"SELECT DISTINCT shard_id FROM example WHERE example_id IN ({marks(part)})", part
            )
        }
        # Shards that were merged between two parts would be listed beside the one that has their rows now.
        if found <= {row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples'")}:
            return sorted(found)
        if found == before:
            raise CorruptionError(
                f"examples of {store.root} are in files that are none of examples; run `gradsift verify`"
            )
        before = found


def read_shard(store: Store, shard_id: int) -> pa.Table:
    """The columns of a shard of examples (`chats`). Raises CorruptionError when it is damaged."""
    with store.open(shard_id) as file:
        return pq.read_table(file, page_checksum_verification=True)


@dataclass(frozen=True)
class Dataset:
    """A version of a pool, target or test set: its members sorted by example id."""

    dataset_id: int
    role: str
    name: str
    digest: str
    example_ids: list[str]
    subtasks: list[str]


LASTING = (1 << 63) - 1  # `membership.until` of one that has not left


def digest_of(members: Mapping[str, str]) -> str:
    """Digest of a dataset with these members, {example id: subtask}."""
    return digest_ids(f"{i}\t{subtask}" for i, subtask in sorted(members.items()))


def define_dataset(store: Store, role: str, name: str, members: Mapping[str, str], lane: str = "") -> Dataset:
    """Record a version of a dataset from {example id: subtask}; the same members give the same version.

    `lane` names the step that makes it, where a run makes several datasets of one name: a version is kept as what
    changed since the newest of its lane. Cost: one row for each change, and a pass over the members.
    """
    ordered, digest = sorted(members.items()), digest_of(members)
    with store.catalog.write() as db:
        known = db.one(
            "SELECT dataset_id, void FROM dataset WHERE role=? AND name=? AND digest=?", (role, name, digest)
        )
        if known is not None and known["void"] is not None:  # it lost members since: these are another version's
            lost = f"void {known['dataset_id']} {digest}"
            db.execute("UPDATE dataset SET digest=? WHERE dataset_id=?", (lost, known["dataset_id"]))
            known = None
        dataset_id = int(known["dataset_id"]) if known else _add_version(db, (role, name, digest), members, lane)
    return Dataset(dataset_id, role, name, digest, [i for i, _ in ordered], [s for _, s in ordered])


def _add_version(db: Transaction, key: tuple[str, str, str], members: Mapping[str, str], lane: str) -> int:
    """Record a new version as its difference from the newest of its lane; returns its number."""
    role, name, digest = key
    before = db.one(
        "SELECT chain FROM dataset WHERE role=? AND name=? AND lane=? ORDER BY dataset_id DESC LIMIT 1",
        (role, name, lane),
    )
    (inserted,) = db.rows(
        "INSERT INTO dataset (role, name, digest, rows, created, lane) VALUES (?, ?, ?, ?, ?, ?) RETURNING dataset_id",
        (role, name, digest, len(members), db.now(), lane),
    )
    new = int(inserted["dataset_id"])
    chain = int(before["chain"]) if before else new
    db.execute("UPDATE dataset SET chain=? WHERE dataset_id=?", (chain, new))
    present = db.rows("SELECT example_id, subtask FROM membership WHERE chain=? AND until=?", (chain, LASTING))
    had = {row["example_id"]: row["subtask"] for row in present}
    db.executemany(
        "UPDATE membership SET until=? WHERE chain=? AND example_id=? AND until=?",
        ((new, chain, i, LASTING) for i, subtask in had.items() if members.get(i) != subtask),
    )
    db.executemany(
        "INSERT INTO membership (chain, example_id, subtask, since) VALUES (?, ?, ?, ?)",
        ((chain, i, subtask, new) for i, subtask in sorted(members.items()) if had.get(i) != subtask),
    )
    return new


def get_dataset(store: Store, dataset_id: int) -> Dataset:
    """A dataset by its number, without members that were deleted since. Raises InputError when there is none."""
    row = store.catalog.one("SELECT * FROM dataset WHERE dataset_id=?", (dataset_id,))
    if row is None:
        raise InputError(f"there is no dataset {dataset_id} in {store.root}; `gradsift prune` may have dropped it")
    members = members_of(store, dataset_id)
    return Dataset(dataset_id, row["role"], row["name"], row["digest"], list(members), list(members.values()))


def members_of(store: Store, dataset_id: int) -> dict[str, str]:
    """{id: subtask} of a dataset's members that are in the store, sorted by id."""
    members = store.catalog.rows(
        "SELECT example_id, subtask FROM dataset_member WHERE dataset_id=? ORDER BY example_id", (dataset_id,)
    )
    return {row["example_id"]: row["subtask"] for row in members}


def standing(store: Store, dataset_id: int) -> Dataset:
    """The dataset, or, where examples of it were deleted since, the version of those that are left, which is recorded
    when there is none yet. Raises InputError when there is no such dataset."""
    dataset = get_dataset(store, dataset_id)
    row = store.catalog.one("SELECT void, lane FROM dataset WHERE dataset_id=?", (dataset_id,))
    if row is None or row["void"] is None:
        return dataset
    left = dict(zip(dataset.example_ids, dataset.subtasks, strict=True))
    if not left:
        raise InputError(f"every example of {dataset.role} {dataset.name!r} was deleted ({row['void']})")
    return define_dataset(store, dataset.role, dataset.name, left, row["lane"])


def standing_number(store: Store, dataset_id: int) -> tuple[int, str]:
    """(number, digest) of what is `standing` of a dataset; its members are read only where some were deleted."""
    row = store.catalog.one("SELECT digest, void FROM dataset WHERE dataset_id=?", (dataset_id,))
    if row is not None and row["void"] is None:
        return dataset_id, str(row["digest"])
    left = standing(store, dataset_id)
    return left.dataset_id, left.digest


def size_of(store: Store, dataset_id: int) -> int:
    """How many members a dataset had when it was recorded."""
    (row,) = store.catalog.rows("SELECT rows FROM dataset WHERE dataset_id=?", (dataset_id,))
    return int(row["rows"])


def find_dataset(store: Store, role: str, name: str, digest: str) -> Dataset:
    """The version of a dataset with this digest, or what is `standing` of it. Raises InputError when the store has
    none."""
    row = store.catalog.one(
        "SELECT dataset_id FROM dataset WHERE role=? AND name=? AND digest IN (?, 'void ' || dataset_id || ' ' || ?) "
        "ORDER BY dataset_id DESC",
        (role, name, digest, digest),
    )
    if row is None:
        raise InputError(f"{role} {name!r} ({digest[:12]}) is not in {store.root}; run its recipe again")
    return standing(store, int(row["dataset_id"]))


class Provenance(NamedTuple):
    """Where an example counts as coming from, and its licence, if that is known."""

    source: str
    licence: str | None


def assign_sources(store: Store, provenance: Mapping[str, Provenance]) -> None:
    """Make the catalog say this of the examples, where it says otherwise."""
    changed = [
        (*wanted, i)
        for part in parts(list(provenance))
        for i, recorded in sources_of(store, part).items()
        if recorded != (wanted := provenance[i])
    ]
    if changed:
        with store.catalog.write() as db:
            db.executemany("UPDATE example SET source=?, licence=? WHERE example_id=?", changed)


def source_column(store: Store, dataset: Dataset) -> list[str]:
    """[N] source of each member, in the order of their ids: one pass, for large datasets."""
    rows = store.catalog.rows(
        "SELECT e.source FROM dataset_member AS m JOIN example AS e USING (example_id) WHERE m.dataset_id=? "
        "ORDER BY m.example_id",
        (dataset.dataset_id,),
    )
    known: dict[str, str] = {}
    return [known.setdefault(row["source"], row["source"]) for row in rows]


def chars_of(store: Store, dataset: Dataset) -> ById[tuple[str, int]]:
    """{id: (source, characters)} of the members, in the order of their ids."""
    rows = store.catalog.rows(
        "SELECT e.example_id, e.source, e.chars FROM dataset_member AS m JOIN example AS e USING (example_id) "
        "WHERE m.dataset_id=? ORDER BY m.example_id",
        (dataset.dataset_id,),
    )
    return ById((row["example_id"], (row["source"], row["chars"])) for row in rows)


def sources_by_id(store: Store, dataset_id: int) -> ById[str]:
    """{id: source} of all members of a dataset: one pass, for large ones."""
    rows = store.catalog.rows(
        "SELECT e.example_id, e.source FROM dataset_member AS m JOIN example AS e USING (example_id) "
        "WHERE m.dataset_id=?",
        (dataset_id,),
    )
    return ById((row["example_id"], row["source"]) for row in rows)


def provenance_digest(store: Store, dataset: Dataset) -> str:
    """Digest of the members' sources and licences, in the order of their ids."""
    rows = store.catalog.rows(
        "SELECT e.source, e.licence FROM dataset_member AS m JOIN example AS e USING (example_id) WHERE m.dataset_id=? "
        "ORDER BY m.example_id",
        (dataset.dataset_id,),
    )
    return digest_ids(canonical_json([row["source"], row["licence"]]) for row in rows)


def source_counts(store: Store, dataset: Dataset) -> dict[str, int]:
    """{source: members}, the largest first, then by name."""
    rows = store.catalog.rows(
        "SELECT e.source, count(*) AS n FROM dataset_member AS m JOIN example AS e USING (example_id) "
        "WHERE m.dataset_id=? GROUP BY e.source ORDER BY n DESC, e.source",
        (dataset.dataset_id,),
    )
    return {row["source"]: int(row["n"]) for row in rows}


def all_sources(store: Store) -> list[str]:
    """Names of the sources that examples count as coming from, sorted."""
    return [row["source"] for row in store.catalog.rows("SELECT DISTINCT source FROM example ORDER BY source")]


def sources_of(store: Store, ids: Sequence[str]) -> ById[Provenance]:
    """Source and licence of the given ids; unknown ones are left out."""
    return ById(
        (row["example_id"], Provenance(row["source"], row["licence"]))
        for part in parts(ids)
        for row in store.catalog.rows(
            f"SELECT example_id, source, licence FROM example WHERE example_id IN ({marks(part)})", part
        )
    )
