"""Dropping old versions: what nothing kept needs any more.

Kept are, of every name, the newest versions that hold; what the last run and one that was interrupted since look at;
the newest selection of each name; the newest dataset of each step of a run (the next is recorded as what changes in
it); and checkpoints that any of these, or the next run, may ask for, with the pools that they were drawn from. Results
of validations, reports and the log stay.

All leaves the catalog in one transaction, and the files go after it: a kill leaves everything, or files that the next
`sweep` deletes. Cost: one pass over memberships; with `examples`, one over examples and feature rows.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradsift.datastore import leases, runs, versions
from gradsift.datastore.compact import rewrite
from gradsift.datastore.engine import Row, Transaction
from gradsift.datastore.errors import InputError
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.runs import Run
from gradsift.datastore.selections import NEWEST
from gradsift.datastore.store import Store, doom
from gradsift.datastore.versions import Version

INDEXED = {"prune_feature_row": "feature_row", "prune_mark": "mark", "prune_item": "selection_item"}


@dataclass(frozen=True)
class Dropped:
    """Things of one kind that go, and the bytes of their files."""

    what: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Pruned:
    """What goes (or would), and the versions that stay."""

    dropped: list[Dropped]
    kept: list[str]
    bytes: int


@dataclass(frozen=True)
class _Keep:
    """Numbers of what stays, and the time from which all stays: since an interrupted run began."""

    versions: list[Version]
    datasets: set[int]
    selections: set[int]
    spaces: set[int]
    since: float
    horizon: float  # when the oldest kept run began


@dataclass
class _Tally:
    """Counts and bytes of what was taken out of the catalog."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def doom(self, db: Transaction, what: str, shards: Sequence[int]) -> None:
        """Take shards out of the catalog and count their bytes."""
        for shard in shards:
            (row,) = db.rows("SELECT bytes FROM shard WHERE shard_id=?", (shard,))
            self.bytes[what] += row["bytes"]
        doom(db, shards)


def prune(store: Store, keep: int, *, examples: bool = False, dry_run: bool = False) -> Pruned:
    """Drop all but the newest `keep` versions of each name, with what they alone need; `examples`: also examples that
    nothing kept holds, their feature rows, and those of checkpoints that go. `dry_run` drops nothing. Bytes are those
    of whole files; of others, what stays is written anew.

    Raises InputError for `keep` below 1, BusyError while a run works on the store.
    """
    if keep < 1:
        raise InputError("--keep must be at least 1: the newest version of each name stays")
    with leases.alone(store, "prune it"):
        catch_up(store)
        kept, tally = _kept(store, keep), _Tally()
        try:
            with store.catalog.write() as db:
                _drop(db, kept, tally)
                if examples:
                    _drop_examples(db, kept, tally)
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        folders = _exports(store, {str(version) for version in kept.versions})
        for folder in folders:
            tally.counts["exports checked out"] += 1
            tally.bytes["exports checked out"] += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        if not dry_run:
            if examples:
                rewrite(store)
            store.sweep()
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
    lines = [Dropped(what, count, tally.bytes[what]) for what, count in tally.counts.items() if count]
    return Pruned(lines, [str(version) for version in kept.versions], sum(tally.bytes.values()))


class _DryRun(Exception):
    """Takes everything back."""


def _kept(store: Store, keep: int) -> _Keep:
    newest = [
        version
        for kind, name in versions.names(store)
        for version in _holding(store, kind, name)[-keep:]
    ]  # fmt: skip
    kept_runs = {run.run_id: run for run in (*_last(store), *(runs.get(store, v.run_id) for v in newest))}
    since = _interrupted(store)
    datasets = {v.content for v in newest if v.kind == "pool" and v.content is not None}
    datasets |= {i for run in kept_runs.values() for i in _datasets_of(store, run)}
    datasets |= _numbers(store.catalog.rows("SELECT max(dataset_id) AS n FROM dataset GROUP BY chain"))
    datasets |= _numbers(store.catalog.rows("SELECT dataset_id AS n FROM dataset WHERE created >= ?", (since,)))
    horizon = min((run["started"] for run in _rows_of(store, list(kept_runs))), default=0.0)
    selections = {v.content for v in newest if v.kind != "pool" and v.content is not None}
    selections |= {i for run in kept_runs.values() for i in _selections_of(store, run)}
    selections |= _numbers(store.catalog.rows(f"SELECT selection_id AS n FROM ({NEWEST}) AS newest"))
    selections |= _numbers(store.catalog.rows(  # of a run that never ended: no version, until it is too old
        "SELECT s.selection_id AS n FROM selection AS s LEFT JOIN version AS v USING (selection_id) "
        "WHERE s.void IS NULL AND v.number IS NULL AND s.created >= ?",
        (min(horizon, since),),
    ))  # fmt: skip
    spaces = {int(row["space_id"]) for run in kept_runs.values() for row in run.summary.get("rows", ())}
    spaces |= _spaces_named(store, selections)
    return _Keep(newest, datasets, selections, spaces, since, horizon)


def _holding(store: Store, kind: str, name: str) -> list[Version]:
    return [v for v in versions.numbered(store, kind, name) if v.content is not None and v.void is None]


def _last(store: Store) -> list[Run]:
    try:
        return [runs.last_run(store), runs.last_run(store, computed=True)]
    except InputError:
        return []


def _rows_of(store: Store, numbers: Sequence[int]) -> list[Row]:
    return [row for row in store.catalog.rows("SELECT run_id, started FROM run") if row["run_id"] in numbers]


def _interrupted(store: Store) -> float:
    """When the first run began that has not ended, of those after the last that did; infinity where there is none."""
    row = store.catalog.one(
        "SELECT min(started) AS started FROM run WHERE finished IS NULL AND run_id > "
        "(SELECT coalesce(max(run_id), 0) FROM run WHERE finished IS NOT NULL)"
    )
    return float("inf") if row is None or row["started"] is None else float(row["started"])


def _numbers(rows: Sequence[Row]) -> set[int]:
    return {int(row["n"]) for row in rows}


def _datasets_of(store: Store, run: Run) -> set[int]:
    """Datasets that a run names, by number or by digest."""
    ingest: Any = run.summary.get("ingest", {})
    named = {
        ingest.get("pool", {}).get("used_dataset_id"),
        (run.summary.get("cascade") or {}).get("dataset_id"),  # its shortlist
        *(row.get("dataset_id") for row in run.summary.get("rows", ())),
    }
    digests = {ingest.get("pool", {}).get("digest")}
    digests |= {of["digest"] for part in ("targets", "tests") for of in ingest.get(part, {}).values()}
    return {
        int(row["dataset_id"])
        for row in store.catalog.rows("SELECT dataset_id, digest FROM dataset")
        if row["dataset_id"] in named or row["digest"].rpartition(" ")[2] in digests
    }


def _selections_of(store: Store, run: Run) -> set[int]:
    made = [
        (one["name"], one["digest"], one.get("selection_id")) for part in runs.MADE for one in run.summary.get(part, ())
    ]
    return {
        int(row["selection_id"])
        for name, digest, number in made
        for row in store.catalog.rows(
            "SELECT selection_id FROM selection WHERE name=? AND digest=? AND selection_id=coalesce(?, selection_id)",
            (name, digest, number),
        )
    }


def _spaces_named(store: Store, selections: set[int]) -> set[int]:
    """Feature spaces that the selections looked at."""
    known = {row["fingerprint"]: int(row["space_id"]) for row in store.catalog.rows("SELECT * FROM feature_space")}
    specs = store.catalog.rows("SELECT selection_id, spec FROM selection")
    texts = {text for row in specs if row["selection_id"] in selections for text in _texts(json.loads(row["spec"]))}
    return {space for fingerprint, space in known.items() if fingerprint in texts}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _drop(db: Transaction, kept: _Keep, tally: _Tally) -> None:
    """Selections, warm-ups, datasets with the memberships that no version is left for."""
    for row in db.rows("SELECT selection_id, scores_shard FROM selection ORDER BY selection_id"):
        if row["selection_id"] not in kept.selections:
            db.execute("DELETE FROM selection WHERE selection_id=?", (row["selection_id"],))
            tally.counts["selections and mixtures"] += 1
            if row["scores_shard"] is not None:
                tally.doom(db, "selections and mixtures", [row["scores_shard"]])
    for warmup in _warmups(db, kept):
        db.execute("DELETE FROM warmup WHERE fingerprint=?", (warmup,))
        rows = db.rows("DELETE FROM checkpoint WHERE warmup=? RETURNING shard_id", (warmup,))
        tally.counts["checkpoints"] += len(rows)
        tally.doom(db, "checkpoints", [row["shard_id"] for row in rows])
    drawn = {row["pool"] for row in db.rows("SELECT pool FROM warmup")}  # pools that a warm-up is measured against
    gone = [
        row["dataset_id"]
        for row in db.rows("SELECT dataset_id, role, digest FROM dataset")
        if row["dataset_id"] not in kept.datasets
        and not (row["role"] == "pool" and row["digest"].rpartition(" ")[2] in drawn)
    ]
    db.executemany("DELETE FROM dataset WHERE dataset_id=?", [(number,) for number in gone])
    tally.counts["versions of datasets"] += len(gone)
    tally.counts["memberships in them"] += db.execute(
        "DELETE FROM membership WHERE NOT EXISTS (SELECT 1 FROM dataset AS d WHERE d.chain = membership.chain "
        "AND d.dataset_id >= membership.since AND d.dataset_id < membership.until)"
    )


def _warmups(db: Transaction, kept: _Keep) -> list[str]:
    """Fingerprints of warm-ups that nothing kept looks at, and that no later run would take up again."""
    specs = {row["space_id"]: json.loads(row["spec"]) for row in db.rows("SELECT space_id, spec FROM feature_space")}
    used = {specs[space].get("checkpoint") for space in kept.spaces if space in specs}
    reusable = {
        row["fingerprint"]
        for row in db.rows(
            "SELECT fingerprint FROM (SELECT fingerprint, row_number() OVER "
            "(PARTITION BY settings ORDER BY finished DESC, fingerprint) AS place FROM warmup "
            "WHERE finished IS NOT NULL) AS placed WHERE place = 1"
        )
    }
    rows = db.rows(  # those that have not ended may have no checkpoint yet
        "SELECT c.warmup, c.digest, s.created FROM checkpoint AS c JOIN shard AS s USING (shard_id) "
        "UNION ALL SELECT fingerprint, NULL, created FROM warmup"
    )
    needed = {row["warmup"] for row in rows if row["digest"] in used or row["created"] >= kept.since}
    return sorted({row["warmup"] for row in rows} - needed - reusable)


def _drop_examples(db: Transaction, kept: _Keep, tally: _Tally) -> None:
    """Examples that no version, target, test set or selection holds; rows of them, and of checkpoints that are gone.
    What else is in their files is written anew afterwards (`compact.rewrite`)."""
    without = _spaces_without_checkpoint(db, kept)
    _drop_indexes(db, without, tally)
    for space in without:
        tally.counts["feature rows"] += db.execute("DELETE FROM feature_row WHERE space_id=?", (space,))
    for name, table in INDEXED.items():  # of what refers to examples: without them each deletion would be a scan
        db.execute(f"CREATE INDEX {name} ON {table} (example_id)")
    gone = [
        (row["example_id"],)
        for row in db.rows(
            "SELECT e.example_id FROM example AS e JOIN shard AS s USING (shard_id) WHERE s.created < ? "
            "AND NOT EXISTS (SELECT 1 FROM membership AS m WHERE m.example_id = e.example_id) "
            "AND NOT EXISTS (SELECT 1 FROM selection_item AS i WHERE i.example_id = e.example_id)",
            (kept.since,),
        )
    ]
    one_of_them = "SELECT 1 FROM feature_row WHERE space_id=? AND example_id=? AND row IS NOT NULL"
    indexed = [row["space_id"] for row in db.rows("SELECT DISTINCT space_id FROM search_index ORDER BY space_id")]
    _drop_indexes(db, [space for space in indexed if any(db.one(one_of_them, (space, *name)) for name in gone)], tally)
    before = _count(db, "feature_row")
    db.executemany("DELETE FROM feature_row WHERE example_id=?", gone)
    tally.counts["feature rows"] += before - _count(db, "feature_row")
    db.executemany("DELETE FROM example WHERE example_id=?", gone)
    tally.counts["examples"] += len(gone)
    for row in db.rows(
        "SELECT shard_id FROM shard AS s WHERE kind='examples' AND created < ? "
        "AND NOT EXISTS (SELECT 1 FROM example AS e WHERE e.shard_id = s.shard_id)",
        (kept.since,),
    ):
        beside = db.rows("DELETE FROM attribute WHERE of_shard=? RETURNING shard_id", (row["shard_id"],))
        tally.doom(db, "examples", [*(one["shard_id"] for one in beside), row["shard_id"]])
    for name in INDEXED:
        db.execute(f"DROP INDEX {name}")
    units = db.rows(
        "DELETE FROM unit WHERE NOT EXISTS (SELECT 1 FROM feature_row AS r WHERE r.unit_id = unit.unit_id) "
        "RETURNING shard_id"
    )
    of_units = sorted({row["shard_id"] for row in units if row["shard_id"] is not None})
    tally.doom(db, "feature rows", [s for s in of_units if not db.one("SELECT 1 FROM unit WHERE shard_id=?", (s,))])
    for space in _spaces_without_checkpoint(db, kept):
        db.execute("DELETE FROM feature_space WHERE space_id=?", (space,))


def _drop_indexes(db: Transaction, spaces: Sequence[int], tally: _Tally) -> None:
    """Search indexes of these spaces: their files have the vectors that go. A trigger dooms them."""
    for space in spaces:
        for row in db.rows("DELETE FROM search_index WHERE space_id=? RETURNING bytes", (space,)):
            tally.counts["search indexes"] += 1
            tally.bytes["search indexes"] += row["bytes"]


def _count(db: Transaction, table: str) -> int:
    (row,) = db.rows(f"SELECT count(*) AS n FROM {table}")
    return int(row["n"])


def _spaces_without_checkpoint(db: Transaction, kept: _Keep) -> list[int]:
    """Spaces of checkpoints that the store no longer has."""
    have = {row["digest"] for row in db.rows("SELECT digest FROM checkpoint")}
    specs = {row["space_id"]: json.loads(row["spec"]) for row in db.rows("SELECT space_id, spec FROM feature_space")}
    return sorted(
        space for space, spec in specs.items() if "checkpoint" in spec and spec["checkpoint"] not in have
        and space not in kept.spaces
    )  # fmt: skip


def _exports(store: Store, kept: set[str]) -> list[Path]:
    """Folders that `checkout` made in the store, of versions that are not kept."""
    known = {str(v) for kind, name in versions.names(store) for v in versions.numbered(store, kind, name)}
    root = store.root / "exports"
    return [
        folder
        for folder in sorted(root.iterdir() if root.is_dir() and not root.is_symlink() else ())
        if folder.name in known - kept and not folder.is_symlink() and (folder / "manifest.json").is_file()
    ]
