"""Compaction: small shards become large ones, and nothing that they say changes.

A store that grows every night gets thousands of files. Merged are shards of examples (with the values computed from
them, which lie beside them shard by shard) and the rows of each feature space. Checkpoints and tables of scores belong
to one thing each and stay as they are.

**Which.** A shard's size is its part of the target, in bytes or in rows, whichever is more; one of half the target is
full and is never rewritten. Of the others, smallest first, the longest row is merged of which the largest is at most
twice the rest together. So whatever is rewritten lies in a shard half as large again (or a full one) afterwards: a byte
is rewritten at most log₁.₅(target / first size) times in the life of a store, however often this runs, and at most
log₃ of it small shards stay. One with rows that the catalog does not have (pruned ones, those of a lost race) is
written anew in any case. It runs until nothing is left to do: the same again does nothing.

**How** (`datastore/merge.py`). New files are written under the commit protocol, from live rows alone; then one
transaction makes every row refer to them and takes the old ones out of the catalog. The files of these go `grace`
seconds later, because a reader may have their numbers. A kill leaves the store as it was before a merge or after it.

Memory: that of a merge, whatever the target. Disk: what is merged lies there twice until its grace is over. Cost: one
read and one write of what is merged, and an update of the catalog for each row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gradsift.datastore import leases
from gradsift.datastore.engine import Row
from gradsift.datastore.errors import InputError
from gradsift.datastore.merge import Group, Small, merge_examples, merge_rows, schema_of
from gradsift.datastore.store import Store, doom

TARGET_BYTES = 256 << 20  # of feature rows: a second of reading before the first is used, and of writing for a deletion
EXAMPLES_SHARE = 8  # texts are compressed, and grow by this as Python objects
MAX_ROWS = 1 << 18  # of one shard: they change in one transaction, which others wait for
GRACE_SECONDS = 3600.0
LIVE = {
    "examples": "SELECT shard_id, count(*) AS live FROM example GROUP BY shard_id",
    "features": "SELECT u.shard_id, count(r.row) AS live FROM unit AS u LEFT JOIN feature_row AS r USING (unit_id) "
    "WHERE u.shard_id IS NOT NULL GROUP BY u.shard_id",
}


@dataclass(frozen=True)
class Merge:
    """What one merge did, or would do; `bytes_after` is an estimate then."""

    kind: str
    of: str
    shards: int
    rows: int
    bytes: int
    bytes_after: int


@dataclass(frozen=True)
class Compacted:
    """All merges of a call, and the committed shards before and after it."""

    merges: list[Merge]
    shards_before: int
    shards_after: int


def compact(
    store: Store,
    *,
    target: int = TARGET_BYTES,
    grace: float = GRACE_SECONDS,
    dry_run: bool = False,
    report: Callable[[int, int], None] = lambda _done, _all: None,
) -> Compacted:
    """Merge small shards into ones of about `target` bytes of feature rows (an eighth of it for examples); their files
    go after `grace` seconds. `dry_run` changes nothing and lists the first round. `report(merges done, planned)`.

    Raises BusyError while a run or another command changes the store, CorruptionError for a damaged shard: what was
    merged before it stays merged.
    """
    if target < 1 or grace < 0:
        raise InputError("the target must be at least one byte, and the grace not negative")
    before = _count(store)
    merges: list[Merge] = []
    if dry_run:
        planned = plan(store, target)
        merges = [_merge(group, sum(s.bytes for s in group.shards)) for group in planned]
        return Compacted(merges, before, before - sum(len(group.shards) - 1 for group in planned))
    with leases.alone(store, "compact it"):
        store.sweep()
        while groups := plan(store, target):
            for waiting, group in zip(range(len(groups), 0, -1), groups, strict=True):
                made = _do(store, group, grace)
                (row,) = store.catalog.rows("SELECT bytes FROM shard WHERE shard_id=?", (made,))
                merges.append(_merge(group, row["bytes"]))
                report(len(merges), len(merges) + waiting - 1)
        return Compacted(merges, before, _count(store))


def rewrite(store: Store) -> None:
    """Write shards with rows that the catalog does not have anew, without these, and delete the old files at once, and
    those of which no example is left. The caller holds the store."""
    _drop_empty(store)
    examples = [
        Group("examples", "", 0, tuple(shards))
        for shards in _examples(store, TARGET_BYTES, _live(store, "examples")).values()
    ]
    rows = [
        Group("features", fingerprint, space_id, tuple(shards))
        for (space_id, fingerprint), shards in _rows(store, TARGET_BYTES, _live(store, "features")).items()
    ]
    for group in [*examples, *rows]:
        for shard in group.shards:
            if shard.dead:
                _do(store, replace(group, shards=(shard,)), 0.0)


def _drop_empty(store: Store) -> None:
    """Shards of examples of which the catalog has none: whoever commits one has its rows in the same transaction."""
    with store.catalog.write() as db:
        for row in db.rows(
            "SELECT shard_id FROM shard AS s WHERE kind='examples' "
            "AND NOT EXISTS (SELECT 1 FROM example AS e WHERE e.shard_id = s.shard_id)"
        ):
            beside = db.rows("DELETE FROM attribute WHERE of_shard=? RETURNING shard_id", (row["shard_id"],))
            doom(db, [*(one["shard_id"] for one in beside), row["shard_id"]])
    store.sweep()


def _do(store: Store, group: Group, grace: float) -> int:
    return (merge_examples if group.kind == "examples" else merge_rows)(store, group, grace)


def small_shards(store: Store, target: int = TARGET_BYTES) -> int:
    """How many shards the next `compact` would merge in its first round, by the catalog alone."""
    groups = [*_examples(store, target, None).values(), *_rows(store, target, None).values()]
    return sum(len(part) for shards in groups for part in choose(shards))


def plan(store: Store, target: int = TARGET_BYTES) -> list[Group]:
    """Which shards are to be merged into one each. Reads the small ones of feature rows, whose columns may differ."""
    groups = [
        Group("examples", "", 0, part)
        for shards in _examples(store, target, _live(store, "examples")).values()
        for part in choose(shards)
    ]  # fmt: skip
    for (space_id, fingerprint), shards in _rows(store, target, _live(store, "features")).items():
        if choose(shards):
            for alike in _alike(store, shards):
                groups += [Group("features", fingerprint, space_id, part) for part in choose(alike)]
    return groups


def choose(shards: Iterable[Small]) -> list[tuple[Small, ...]]:
    """Which of the shards become one, in the order of their numbers; see the module's rule. One with dead rows that is
    merged with no other stands alone: it is written anew."""
    every = list(shards)
    by_size = sorted((s for s in every if s.fill < 0.5), key=lambda s: (s.fill, s.shard_id))
    together, last = 0.0, 0
    for k, shard in enumerate(by_size):
        if shard.fill <= 2 * together:
            last = k
        together += shard.fill
    parts: list[list[Small]] = [[]]
    room = 1.0
    for shard in sorted(by_size[: last + 1], key=lambda s: s.shard_id):
        if shard.fill > room:
            parts.append([])
            room = 1.0
        parts[-1].append(shard)
        room -= shard.fill
    merged = [tuple(part) for part in parts if len(part) > 1]
    taken = {shard.shard_id for part in merged for shard in part}
    return [*merged, *((shard,) for shard in every if shard.dead and shard.shard_id not in taken)]


def _count(store: Store) -> int:
    (row,) = store.catalog.rows("SELECT count(*) AS n FROM shard")
    return int(row["n"])


def _merge(group: Group, bytes_after: int) -> Merge:
    rows, size = sum(s.rows for s in group.shards), sum(s.bytes for s in group.shards)
    return Merge(group.kind, group.of[:12], len(group.shards), rows, size, bytes_after)


def _small(row: Row, live: dict[int, int] | None, target: int) -> Small:
    return Small(
        row["shard_id"],
        row["rows"],
        row["bytes"],
        max(row["bytes"] / target, row["rows"] / MAX_ROWS),
        dead=live is not None and live.get(row["shard_id"], 0) < row["rows"],
    )


def _live(store: Store, kind: str) -> dict[int, int]:
    """{shard: rows of it that the catalog has}."""
    return {row["shard_id"]: int(row["live"]) for row in store.catalog.rows(LIVE[kind])}


def _examples(store: Store, target: int, live: dict[int, int] | None) -> dict[tuple[str, ...], list[Small]]:
    """Shards of examples by what was computed from them: merged ones have the values of all their rows, or none.
    Without `live` nobody asks which are dead."""
    beside: dict[int, list[str]] = defaultdict(list)
    for row in store.catalog.rows("SELECT of_shard, spec FROM attribute ORDER BY of_shard, spec"):
        beside[row["of_shard"]].append(row["spec"])
    found = defaultdict(list)
    for row in store.catalog.rows("SELECT shard_id, rows, bytes FROM shard WHERE kind='examples' ORDER BY shard_id"):
        found[tuple(beside[row["shard_id"]])].append(_small(row, live, max(1, target // EXAMPLES_SHARE)))
    return found


def _rows(store: Store, target: int, live: dict[int, int] | None) -> dict[tuple[int, str], list[Small]]:
    """Shards of feature rows by space."""
    found = defaultdict(list)
    for row in store.catalog.rows(
        "SELECT DISTINCT u.space_id, f.fingerprint, s.shard_id, s.rows, s.bytes FROM unit AS u "
        "JOIN shard AS s USING (shard_id) JOIN feature_space AS f ON f.space_id = u.space_id "
        "ORDER BY u.space_id, s.shard_id"
    ):
        found[row["space_id"], row["fingerprint"]].append(_small(row, live, target))
    return found


def _alike(store: Store, shards: Sequence[Small]) -> list[list[Small]]:
    """Small shards by their columns. Those without a row go with the first."""
    by_columns: dict[bytes, list[Small]] = defaultdict(list)
    empty = []
    for shard in shards:
        if shard.rows and (shard.fill < 0.5 or shard.dead):
            by_columns[schema_of(store, shard.shard_id).serialize().to_pybytes()].append(shard)
        elif not shard.rows:
            empty.append(shard)
    groups = list(by_columns.values()) or [[]]
    groups[0].extend(empty)
    return groups
