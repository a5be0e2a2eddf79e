"""Leases: who works on what. A lease expires by itself, or at once when its holder is known to be dead.

On the holder's own system a dead process is recognised (`holders`), so that a run killed with `kill -9` can be resumed
immediately; others wait for `expires`.

Time is the catalog's (`Engine.now`): hosts whose clocks differ agree on when a lease ends.

A lease lasts two minutes after it was last renewed, or GRADSIFT_LEASE_SECONDS, the same on all hosts of a store.

A process that is held up for longer (suspended, asleep) loses its lease to whoever asks. Who lost the run's lease
commits nothing more: each transaction looks first whose it is. Who lost a unit's does not commit that unit: the
transaction asks the `Lease`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gradsift.datastore.engine import Engine, Row, Transaction
from gradsift.datastore.errors import BusyError, GradsiftError, InputError
from gradsift.datastore.holders import holder_is_dead, holder_name
from gradsift.datastore.store import Store

SECONDS = "GRADSIFT_LEASE_SECONDS"


def _seconds() -> float:
    text = os.environ.get(SECONDS, "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 5 <= seconds <= 3600:
        raise InputError(f"{SECONDS} is {text!r}: give 5 to 3600 seconds, the same on all hosts of a store")
    return seconds


TTL_SECONDS = _seconds()
RUN = "run"  # who holds this one changes the store


@dataclass(frozen=True)
class Lease:
    """A lease that was taken: what for, and by whom."""

    name: str
    holder: str

    def is_own(self, db: Engine | Transaction) -> bool:
        """Whether it is still this holder's: nobody took it since. In a transaction that stays so until its end."""
        return db.one("SELECT 1 FROM lease WHERE name=? AND holder=?", (self.name, self.holder)) is not None


def acquire(store: Store, name: str, holder: str, ttl: float = TTL_SECONDS) -> bool:
    """Take or renew a lease; False when someone alive holds it."""

    def take(db: Transaction) -> bool:
        now = db.now()
        row = db.one("SELECT holder, expires FROM lease WHERE name=?", (name,))
        if row and row["holder"] != holder and _is_live(row, now, ttl):
            return False
        db.execute(
            "INSERT INTO lease VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
            "SET holder=excluded.holder, expires=excluded.expires",
            (name, holder, now + ttl),
        )
        return True

    return store.catalog.again(take)


def _is_live(lease: Row, now: float, ttl: float) -> bool:
    # A clock that jumped must not lock a store for longer than two lifetimes.
    return now < lease["expires"] <= now + 2 * ttl and not holder_is_dead(lease["holder"])


def is_held(store: Store, name: str) -> bool:
    """Whether somebody alive has the lease."""
    row = store.catalog.one("SELECT holder, expires FROM lease WHERE name=?", (name,))
    return row is not None and _is_live(row, store.catalog.now(), TTL_SECONDS)


def all_held(store: Store, start: str) -> set[str]:
    """Names that begin with `start` of the leases that somebody alive has."""
    now = store.catalog.now()
    rows = store.catalog.rows(
        "SELECT name, holder, expires FROM lease WHERE substr(name, 1, ?) = ?", (len(start), start)
    )
    return {str(row["name"]) for row in rows if _is_live(row, now, TTL_SECONDS)}


def _renew(store: Store, name: str, holder: str, ttl: float) -> None:
    """Put the end of a lease off. One that was lost stays lost, also when it is free again: others worked meanwhile."""
    with store.catalog.write() as db:
        db.execute("UPDATE lease SET expires=? WHERE name=? AND holder=?", (db.now() + ttl, name, holder))


def _require_own(store: Store, db: Engine | Transaction, lease: Lease) -> None:
    if not lease.is_own(db):
        raise BusyError(
            f"another process took over the work on {store.root}, because this one was held up for longer than its "
            "lease; nothing was committed since. Run this again"
        )


def release(store: Store, name: str, holder: str) -> None:
    """Give a lease back; does nothing if someone else has it."""
    store.catalog.again(lambda db: db.execute("DELETE FROM lease WHERE name=? AND holder=?", (name, holder)))


@contextmanager
def held(store: Store, name: str, ttl: float = TTL_SECONDS, doing: str = "") -> Iterator[Lease | None]:
    """Hold a lease for a block, renewed by a daemon thread. Yields None where it is not free. `doing` is told to
    others.

    Where it is the run's and is lost, whatever this store writes afterwards raises BusyError, and so does the block
    that fails of anything else: what it worked on may have gone.
    """
    holder = f"{holder_name()}:{doing}" if doing else holder_name()
    if not acquire(store, name, holder, ttl):
        yield None
        return
    lease = Lease(name, holder)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(ttl / 4):
            with suppress(GradsiftError):  # a server or disk that fails: the next time is soon enough
                _renew(store, name, holder, ttl)
        store.catalog.close()  # this thread's own handle

    thread = threading.Thread(target=renew, name=f"lease-{name}", daemon=True)
    thread.start()
    before = store.catalog.guard
    if name == RUN:
        store.catalog.guard = lambda db: _require_own(store, db, lease)
    try:
        yield lease
    except Exception:
        if name == RUN:
            _require_own(store, store.catalog, lease)
        raise
    finally:
        done.set()
        thread.join()
        store.catalog.guard = before
        release(store, name, holder)


@contextmanager
def alone(store: Store, doing: str) -> Iterator[None]:
    """Hold the lease of a run for a block, so that nobody else changes the store; `doing` is a command, for messages.

    Raises BusyError, naming the holder and its work, when somebody has it.
    """
    with held(store, RUN, doing=doing) as mine:
        if not mine:
            row = store.catalog.one("SELECT holder FROM lease WHERE name=?", (RUN,))
            host, pid, _, _, work = [*(row["holder"] if row else "").split(":", 4), "", "", "", "", ""][:5]
            where = f" (process {pid} on {host})" if pid else ""
            raise BusyError(f"{work or 'a run'} is working on {store.root}{where}; {doing} when it has ended")
        yield


def require_no_other(store: Store, doing: str, db: Transaction | None = None) -> None:
    """Raise BusyError while somebody alive holds any lease but the run's, which the caller has: a worker, an export.
    In a transaction `db` nobody takes one before it ends."""
    now = (db or store.catalog).now()
    for row in (db or store.catalog).rows("SELECT * FROM lease WHERE name <> ? ORDER BY name", (RUN,)):
        if _is_live(row, now, TTL_SECONDS):
            raise BusyError(f"{row['name']} is being worked on in {store.root}; {doing} when it has ended")
