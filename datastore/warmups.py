"""Warm-ups in the catalog: what decides each, the pool that its sample was drawn from, the examples that it saw.

A store keeps the newest finished warm-up of its settings: checkpoints outlive the pool that they were drawn from, so
that rows of different days can be compared. Rows of examples that were deleted since stay in
`warmup_example`: the digest alone, so that a checkpoint that saw one can be named.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsift.datastore.engine import Row
from gradsift.datastore.examples import Dataset, get_dataset
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class WarmupRun:
    """A warm-up: its fingerprint, which its checkpoints carry; that of its settings, all that decides it but the pool;
    the pool's digest and rows; the epochs that it has when it is finished."""

    fingerprint: str
    settings: str
    pool: str
    pool_rows: int
    epochs: int


@dataclass(frozen=True)
class Shifted:
    """How a signal of the rows that came after a warm-up differs from that of the rows before them: the largest gap
    between their distribution functions and its p, the chance that one of the former is higher, both medians."""

    signal: str
    gap: float
    p: float
    higher: float
    before: float
    after: float


@dataclass(frozen=True)
class Drift:
    """A run's warm-up, and how far its pool has moved away from it.

    The warm-up trained on `trained` of `drawn_from` rows. Of the run's `rows`, `came` were not among those, and `left`
    of those are no longer there. `drift` is the largest gap that the rows that came make in the distribution of the
    whole pool's losses or gradient norms at the last checkpoint: `share` of them × their own gap, where that is no
    chance. `shifts` is empty where either side has too few rows; then `drift` is None if any row came, and the share,
    which it cannot exceed, stands for it. Above `max_drift` a new warm-up is `advised`.
    """

    warmup: str
    reused: bool  # it was finished before the run
    drawn_from: int
    trained: int
    epochs: int
    rows: int
    came: int = 0
    left: int = 0
    share: float = 0.0
    drift: float | None = 0.0
    max_drift: float = 0.0
    advised: bool = False
    shifts: Sequence[Shifted] = ()


def begin(store: Store, run: WarmupRun, trained: Sequence[str], created: float | None = None) -> None:
    """Record a warm-up and the examples that it trains on; does nothing where it is known. `created` is for one that an
    older version began."""
    with store.catalog.write() as db:
        new = db.execute(
            "INSERT INTO warmup (fingerprint, settings, pool, pool_rows, epochs, created) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                run.fingerprint,
                run.settings,
                run.pool,
                run.pool_rows,
                run.epochs,
                db.now() if created is None else created,
            ),
        )
        if new:
            seen = ((run.fingerprint, i) for i in trained)
            db.executemany("INSERT INTO warmup_example VALUES (?, ?) ON CONFLICT DO NOTHING", seen)


def finish(store: Store, fingerprint: str, when: float | None = None) -> None:
    """Make a warm-up that has all its checkpoints the one that runs of its settings use from now on."""
    with store.catalog.write() as db:
        db.execute(
            "UPDATE warmup SET finished=? WHERE fingerprint=?", (db.now() if when is None else when, fingerprint)
        )


def finished(store: Store, settings: str) -> list[WarmupRun]:
    """Warm-ups of these settings that were finished, the newest first. Checkpoints of one may have been lost since."""
    rows = store.catalog.rows(
        "SELECT * FROM warmup WHERE settings=? AND finished IS NOT NULL ORDER BY finished DESC, fingerprint",
        (settings,),
    )
    return [_run(row) for row in rows]


def find(store: Store, fingerprint: str) -> WarmupRun | None:
    """The warm-up with this fingerprint, or None."""
    row = store.catalog.one("SELECT * FROM warmup WHERE fingerprint=?", (fingerprint,))
    return None if row is None else _run(row)


def _run(row: Row) -> WarmupRun:
    return WarmupRun(row["fingerprint"], row["settings"], row["pool"], row["pool_rows"], row["epochs"])


def trained(store: Store, fingerprint: str) -> list[str]:
    """Ids that a warm-up trained on, sorted; some may have been deleted since."""
    rows = store.catalog.rows(
        "SELECT example_id FROM warmup_example WHERE fingerprint=? ORDER BY example_id", (fingerprint,)
    )
    return [str(row["example_id"]) for row in rows]


def pool_of(store: Store, run: WarmupRun) -> Dataset | None:
    """The pool that a warm-up was drawn from, without members that were deleted since; None where the store has no
    record of it any more. Cost: one pass over its members."""
    row = store.catalog.one(
        "SELECT dataset_id FROM dataset WHERE role='pool' AND digest IN (?, 'void ' || dataset_id || ' ' || ?) "
        "ORDER BY dataset_id DESC LIMIT 1",
        (run.pool, run.pool),
    )
    return None if row is None else get_dataset(store, int(row["dataset_id"]))


def whole_pool_of(store: Store, run: WarmupRun) -> Dataset | None:
    """The same with every member that it had, to train on again; None where one is gone."""
    pool = pool_of(store, run)
    if pool is None:
        return None
    members = zip(pool.example_ids, pool.subtasks, strict=True)
    return pool if digest_ids(f"{i}\t{subtask}" for i, subtask in members) == run.pool else None


@dataclass(frozen=True)
class Pool:
    """A version of a pool: its digest and how many members it had."""

    digest: str
    rows: int


def unrecorded(store: Store) -> dict[str, tuple[int, float]]:
    """{fingerprint: (checkpoints, when the last was made)} of warm-ups that an older version made, which kept their
    checkpoints alone."""
    rows = store.catalog.rows(
        "SELECT c.warmup, count(*) AS n, max(s.created) AS made FROM checkpoint AS c JOIN shard AS s USING (shard_id) "
        "WHERE NOT EXISTS (SELECT 1 FROM warmup AS w WHERE w.fingerprint = c.warmup) GROUP BY c.warmup"
    )
    return {row["warmup"]: (int(row["n"]), float(row["made"])) for row in rows}


def pools(store: Store) -> list[Pool]:
    """All versions of pools that the store has, the oldest first."""
    rows = store.catalog.rows("SELECT digest, rows FROM dataset WHERE role='pool' ORDER BY dataset_id")
    return [Pool(row["digest"].rpartition(" ")[2], int(row["rows"])) for row in rows]
