"""How runs live and end: which goes on, which failed, and which lost its process and never said so.

A run that begins records who does it. One that raises records that it failed or was interrupted; one whose process is
killed records nothing, and is found by that: it has no end, and nobody alive does it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from gradsift.datastore import holders, leases, runs, versions
from gradsift.datastore.engine import Row
from gradsift.datastore.errors import GradsiftError, InputError
from gradsift.datastore.store import Store

State = Literal["running", "finished", "failed", "interrupted", "crashed"]


@dataclass(frozen=True)
class Life:
    """A run and how it stands.

    `ended` is when it finished, failed or was interrupted; of a crashed one, when it was last seen alive, as far as
    that is known, else when it began. `closed`: its end is on record, so nothing waits for it. Times are UTC, in
    seconds since 1970. `holder` is the process, as host:number, '' where an older version began it. `made` names the
    versions that the run has the first.
    """

    run_id: int
    name: str
    state: State
    started: float
    ended: float | None
    closed: bool
    holder: str
    made: tuple[str, ...] = ()

    @property
    def is_dead(self) -> bool:
        """Whether its process died and that is on record nowhere yet."""
        return self.state == "crashed" and not self.closed


def lives(store: Store) -> list[Life]:
    """All runs, the oldest first: one query for them and one for what they made."""
    made: dict[int, list[str]] = {}
    alone = versions.one_pool(store)
    for row in store.catalog.rows("SELECT run_id, kind, name, number FROM version ORDER BY kind, name"):
        made.setdefault(row["run_id"], []).append(
            versions.label(row["kind"], "" if row["kind"] == "pool" and alone else row["name"], row["number"])
        )
    held = store.catalog.rows("SELECT holder, expires FROM lease")
    now = store.catalog.now()
    return [
        _life(row, held, now, tuple(made.get(row["run_id"], ())))
        for row in store.catalog.rows(
            "SELECT run_id, name, started, finished, holder, ended, outcome FROM run ORDER BY run_id"
        )
    ]


def _life(row: Row, held: list[Row], now: float, made: tuple[str, ...]) -> Life:
    holder = row["holder"] or ""
    host, process = [*holder.split(":"), "", ""][:2]
    state, ended, closed = _state(row, [lease for lease in held if lease["holder"].startswith(f"{holder}:")], now)
    return Life(
        row["run_id"], row["name"], state, row["started"], ended, closed, f"{host}:{process}" if holder else "", made
    )


def _state(row: Row, own: list[Row], now: float) -> tuple[State, float | None, bool]:
    """(state, end, whether that is on record) of a run whose process has these leases."""
    if row["finished"] is not None:
        return "finished", row["finished"], True
    if row["outcome"] is not None:
        return row["outcome"], row["ended"], True
    here = holders.is_of_this_host(row["holder"] or "")
    alive = not holders.holder_is_dead(row["holder"]) if here else any(lease["expires"] > now for lease in own)
    if row["holder"] and alive:
        return "running", None, False
    seen = [lease["expires"] - leases.TTL_SECONDS for lease in own]
    return "crashed", max([row["started"], *seen]), False


def open_numbers(store: Store, name: str) -> list[int]:
    """Numbers of the runs of that name that have not ended, the newest first."""
    rows = store.catalog.rows(
        "SELECT run_id FROM run WHERE name=? AND finished IS NULL AND outcome IS NULL ORDER BY run_id DESC", (name,)
    )
    return [int(row["run_id"]) for row in rows]


def close_dead(store: Store) -> list[Life]:
    """Put on record that the runs whose process died have crashed, and return these. What they had done stays, and is
    used: a run of the same recipe goes on from there, whether they were closed or not."""
    dead = [life for life in lives(store) if life.is_dead]
    if not dead:
        return []
    with store.catalog.write() as db:
        for life in dead:
            db.execute(
                "UPDATE run SET outcome='crashed', ended=? WHERE run_id=? AND finished IS NULL AND outcome IS NULL",
                (life.ended, life.run_id),
            )
    return dead


@contextmanager
def ending(store: Store, run_id: int) -> Iterator[None]:
    """Put on record how the run of this block ended, if it did not finish; its error is raised in any case.

    It holds a lease of its own as long as it goes on, whether it has the store's or not: by it other hosts see that it
    lives, and a deletion or `gc` that it is at work.
    """
    try:
        with leases.held(store, f"{leases.RUN} {run_id}"):
            yield
    except BaseException as error:
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        with suppress(GradsiftError, OSError), store.catalog.write() as db:
            db.execute(
                "UPDATE run SET outcome=?, ended=? WHERE run_id=? AND finished IS NULL",
                (outcome, db.now(), run_id),
            )
        raise


@contextmanager
def started(store: Store, name: str, recipes: runs.Recipes) -> Iterator[int]:
    """The number of a run that has begun; where its input is refused, it is as if it had not."""
    run_id = runs.start(store, name, recipes)
    try:
        with ending(store, run_id):
            yield run_id
    except InputError:
        with store.catalog.write() as db:
            db.execute("DELETE FROM run WHERE run_id=?", (run_id,))
        raise
