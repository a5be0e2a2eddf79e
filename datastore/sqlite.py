"""The catalog in SQLite: one file beside the shards, in WAL mode where the file system allows it.

Concurrency: every write is one short `BEGIN IMMEDIATE` transaction; readers see one snapshot. Cost of a
commit is one fsync of the WAL.
"""

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from gradsift.datastore import head, inside, seals, sqlite_files
from gradsift.datastore.bounds import bounded
from gradsift.datastore.engine import LEFT, Engine, Parameters, Row, Transaction
from gradsift.datastore.errors import BusyError, CorruptionError, GradsiftError, InputError, NoStoreError
from gradsift.datastore.files import WRITABLE, disk_errors, fsync_path, make_folder, on_network
from gradsift.datastore.sqlite_errors import (
    ADVICE,
    DAMAGED,
    HELD,
    READ_ONLY,
    as_written,
    damaged,
    is_busy,
    name_of,
    sound,
)

BUSY_SECONDS = 60
OF_PREDICATES = {"example", "origin"}  # tables that a predicate may look at
ACCEPT = "Where it is as it should be, take it as it is: gradsift verify --repair --accept-loss"
ACCEPT_BEFORE = f"{ACCEPT}, with the gradsift that wrote it: this one has changed nothing"
SHOWN = 3  # of what is wrong
CACHE_KIB = 65_536  # of pages that were used, for each thread; taken as needed
WAL_PAGES = 8_192  # of 4 KiB, before they are moved into the file
READS = 5  # of a file that others change meanwhile
T = TypeVar("T")
CHANGING = "the catalog {} is read only here, and others change it again and again; run this again when they have ended"


class SqliteTransaction:
    """An open transaction on one connection. `failed`: a statement of it did, and what it did of its rows was undone,
    which the seals do not know."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.failed = False

    def execute(self, text: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns how many rows it inserted, changed or deleted."""
        with self._noting():
            return self._connection.execute(text, parameters).rowcount

    def executemany(self, text: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each of the rows of values."""
        with self._noting():
            self._connection.executemany(text, rows)

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, or of a statement with RETURNING."""
        with self._noting():
            return self._connection.execute(text, parameters).fetchall()

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first of them, or None."""
        rows = self.rows(text, parameters)  # all of them: a statement half read would stop the commit
        return rows[0] if rows else None

    def script(self, text: str) -> None:
        """Run several statements (`executescript` would commit our transaction)."""
        for statement in _statements(text):
            self.execute(statement)

    def now(self) -> float:
        """This host's clock, in Unix seconds."""
        return time.time()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error:
            self.failed = True
            raise


class SqliteEngine(Engine):
    """A SQLite catalog, opened, checked and migrated.

    Raises InputError when there is no file and `create` is False, and when the file is not a database.
    """

    dialect = "sqlite"
    migrations_table = (
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, "
        "name TEXT NOT NULL, sha256 TEXT NOT NULL, applied REAL NOT NULL) STRICT"
    )

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self.place = str(path)
        self._note = path.with_suffix(".head")
        if not path.exists():
            if not create:
                raise NoStoreError(
                    f"{path.parent} is not a store (no {path.name}). Give --store or GRADSIFT_STORE, "
                    "or make one with `gradsift run RECIPE`."
                )
            if head.noted(self._note) is not None and not path.exists():  # another process may have made it meanwhile
                raise CorruptionError(
                    f"the catalog {path} is gone: {self._note.name} beside it knows of one, and a new one would take "
                    "the store's other files for garbage. Put a copy back, or give another folder for a new store."
                )
        inside.require(path.parent, path)  # SQLite itself follows no link to its log
        with disk_errors(path):
            make_folder(path.parent)
        there = path.exists()
        self.read_only = there and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        self._local = threading.local()
        self._is_current = False  # its tables are not ours yet
        self.migrate()
        self._is_current = True

    @property
    def _connection(self) -> sqlite3.Connection:
        """This thread's connection (transactions must not mix, handles must not cross a fork)."""
        local = self._local
        if getattr(local, "connection", None) is None or local.pid != os.getpid():
            local.stamp = sqlite_files.stamp(self.path) if self.read_only else None
            local.connection, local.pid, local.ledger = self._open(), os.getpid(), None
        connection: sqlite3.Connection = local.connection
        return connection

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise BusyError(HELD.format(self.path, BUSY_SECONDS)) from error
            advice = f". {ADVICE}" if name_of(error).startswith(DAMAGED) else ""
            raise InputError(f"{self.path} cannot be opened as a catalog: {error}{advice}") from error
        except UnicodeDecodeError as error:  # SQLite's message quotes what stands there
            raise InputError(f"{self.path} cannot be opened as a catalog: its schema is no text. {ADVICE}") from error
        connection.execute("PRAGMA foreign_keys=ON")
        # Ids are digests: new rows of a large table touch a page each; with less room those would be written twice.
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return connection

    def _connect(self) -> sqlite3.Connection:
        if self.read_only:
            connection, is_watched = sqlite_files.connect_to_read(self.path, BUSY_SECONDS)
            if not is_watched:
                self._local.stamp = None
            return connection
        connection = sqlite_files.connect(self.path.absolute().as_uri(), BUSY_SECONDS)
        journal = "DELETE" if on_network(self.path) else "WAL"
        connection.execute(f"PRAGMA journal_mode={journal}")  # WAL needs shared memory of one host
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # no text stays behind in what a row or page had
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        return connection

    def close(self) -> None:
        """Close this thread's connection; a later use opens it again."""
        if getattr(self._local, "connection", None) is not None:
            self._local.connection.close()
            self._local.connection = None

    @contextmanager
    def write(self) -> Iterator[SqliteTransaction]:
        """One immediate transaction: all of it or nothing. Nothing slow belongs inside.

        Raises StoreFullError when the disk is full, BusyError when the guard refuses it, and for a row that refers to
        one which has left.
        """
        if self.read_only:
            raise InputError(READ_ONLY.format(self.path.parent, WRITABLE))
        connection = self._connection
        with sound(self.path, BUSY_SECONDS), disk_errors(self.path):
            ledger = self._ledger() if self._is_current else None
            try:
                connection.execute("BEGIN IMMEDIATE")
                transaction = SqliteTransaction(connection)
                if self.guard is not None:
                    self.guard(transaction)
                yield transaction
                if transaction.failed:
                    raise RuntimeError("an error in this transaction was passed over; nothing was committed")
                reached = None if ledger is None else self._closed(ledger)
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_FOREIGNKEY":
                    raise BusyError(LEFT.format(self.path.parent)) from error
                if ledger is not None and (raised := ledger.raised(error)):
                    raise raised from error
                with as_written(self.path):
                    raise
            finally:
                if ledger is not None:
                    ledger.begin()
        if reached is not None:
            head.note(self._note, reached)

    def _closed(self, ledger: seals.Ledger) -> head.Head | None:
        try:
            return ledger.close()
        except sqlite3.IntegrityError as error:  # of what this package wrote: no number to count on
            raise damaged(self.path, f"its seals: {error}", ACCEPT) from error

    def _ledger(self) -> seals.Ledger:
        """This thread's, which begins with a look whether the catalog has come as far as it had."""
        if self._local.ledger is None:
            if behind := self._behind():
                raise damaged(self.path, behind, ACCEPT)
            self._local.ledger = seals.Ledger(self._connection)
        ledger: seals.Ledger = self._local.ledger
        return ledger

    def _behind(self) -> str | None:
        last = head.noted(self._note)  # first: others may commit meanwhile
        return head.behind(last, seals.head_of(self._connection))

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, of one snapshot."""

        def every(connection: sqlite3.Connection) -> list[Row]:
            with as_written(self.path):
                return connection.execute(text, parameters).fetchall()

        return self._read(every)

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first row of a query, or None."""

        def first(connection: sqlite3.Connection) -> Row | None:
            with as_written(self.path):
                row: Row | None = connection.execute(text, parameters).fetchone()
            return row

        return self._read(first)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What a query gives on this thread's connection. Where SQLite does not see what others write meanwhile, the
        files are looked at afterwards, and the query is asked again of what they are now."""
        for _ in range(READS):
            try:
                with sound(self.path, BUSY_SECONDS):
                    answer = query(self._connection)
            except (sqlite3.Error, GradsiftError):
                if not self._is_stale():
                    raise
            else:
                if not self._is_stale():
                    return answer
            self.close()
        raise BusyError(CHANGING.format(self.path))

    def _is_stale(self) -> bool:
        before = self._local.stamp
        return before is not None and before != sqlite_files.stamp(self.path)

    def ids_where(self, rows: str, predicate: str, functions: Collection[str]) -> list[str] | None:
        """Values of `key` of the rows of which a predicate holds. An authorizer sees to it that the statement reads
        these tables alone, and calls no other function, whatever the predicate is."""

        def allow(action: int, table: str | None, called: str | None, _of: str | None, _by: str | None) -> int:
            ours = action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and table in OF_PREDICATES)
            known = action == sqlite3.SQLITE_FUNCTION and called in functions
            return sqlite3.SQLITE_OK if ours or known else sqlite3.SQLITE_DENY

        def ask(connection: sqlite3.Connection) -> list[str]:
            connection.set_authorizer(allow)
            try:
                with bounded(connection):
                    text = f"WITH example AS ({rows}) SELECT key FROM example WHERE (\n{predicate}\n)"
                    return [row[0] for row in connection.execute(text)]
            finally:
                connection.set_authorizer(None)

        try:
            return self._read(ask)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_TOOBIG":
                return None  # perhaps of a row that is longer: who asks looks at each
            raise InputError(str(error)) from error

    def now(self) -> float:
        """This host's clock, in Unix seconds: a file is not shared between hosts that work at once."""
        return time.time()

    def check(self) -> None:
        """Look whether the catalog is whole: its pages and indices (SQLite's own check), its references, each table
        against its seal, and whether it has come as far as it had. Raises CorruptionError where it is not.

        Cost: a few passes over it, about 4 µs for each row.
        """
        behind, found, changed = self._read(self._faults)
        told = [*filter(None, [behind]), *found, *changed]
        if told:
            more = f"; and {len(told) - SHOWN:,} more" if len(told) > SHOWN else ""
            raise damaged(self.path, "; ".join(told[:SHOWN]) + more, "" if found else ACCEPT)

    def _faults(self, _: sqlite3.Connection) -> tuple[str | None, list[str], list[str]]:
        last = head.noted(self._note)
        with self._snapshot() as connection, as_written(self.path):
            found = _unsound(connection) or _unreferred(connection)
            changed = [] if found else seals.broken(connection)
            return head.behind(last, seals.head_of(connection)), found, changed

    def accept(self) -> None:
        """Take the catalog as it is for what it should be. Raises CorruptionError where SQLite cannot read it."""
        with self._snapshot() as connection:
            if found := _unsound(connection):
                raise damaged(self.path, "; ".join(found))
        last = head.noted(self._note)
        self.close()  # a new connection has no triggers
        with sound(self.path, BUSY_SECONDS), disk_errors(self.path):
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                seals.reseal(connection)
                least = last.commits if last is not None else 0
                connection.execute("UPDATE head SET commits = max(commits, ?) + 1", (least,))
                reached = seals.head_of(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        head.note(self._note, reached)

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, for several queries of one state."""
        connection = self._connection
        with sound(self.path, BUSY_SECONDS):
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def migrating(self, db: Transaction) -> None:
        """Compare each table with its seal, which the migration will write anew. Cost: a pass over the catalog."""
        if _is_sealed(db) and (found := seals.broken(self._connection)):
            raise damaged(self.path, "; ".join(found[:SHOWN]), ACCEPT_BEFORE)

    def migrated(self, db: Transaction) -> None:
        """Seal what a migration changed."""
        if _is_sealed(db):
            seals.reseal(self._connection)

    def backup(self, version: int) -> None:
        """Keep a copy of the file as it is before migration `version`, unless there is one."""
        copy = inside.require(self.path.parent, self.path.with_suffix(f".before-{version:04d}.sqlite"))
        if copy.exists():
            return
        aside = copy.with_name(f"{copy.name}-{secrets.token_hex(8)}")  # others may be at it, or a kill cut it short
        with sound(self.path, BUSY_SECONDS), disk_errors(copy):
            try:
                self._connection.execute("VACUUM INTO ?", (str(aside),))
                fsync_path(aside)
                aside.rename(copy)
            finally:
                aside.unlink(missing_ok=True)

    def scrub(self) -> None:
        """Write all of the file anew, without free pages, and empty the log; delete copies from before migrations.

        Raises BusyError while another process reads or writes the catalog, StoreFullError without room for a copy.
        """
        for copy in self.path.parent.glob(f"{self.path.stem}.before-*.sqlite*"):
            copy.unlink(missing_ok=True)
        connection = self._connection
        with sound(self.path, BUSY_SECONDS), disk_errors(self.path):
            try:
                connection.execute("VACUUM")
                row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                row = {"busy": 1}
        if row["busy"]:
            raise BusyError(f"another process is using {self.path}; run this again when it has ended")


def _is_sealed(db: Transaction) -> bool:
    return db.one("SELECT 1 FROM sqlite_schema WHERE name='seal'") is not None


def _unsound(connection: sqlite3.Connection) -> list[str]:
    """What SQLite's own check of pages, records and indices says."""
    found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({SHOWN})")]
    return [] if found == ["ok"] else found


def _unreferred(connection: sqlite3.Connection) -> list[str]:
    """What refers to something that is not there, by SQLite's own check: one line for each pair of tables."""
    rows = connection.execute(
        'SELECT "table", parent, count(*) AS n FROM pragma_foreign_key_check GROUP BY 1, 2 ORDER BY 1, 2'
    )
    return [f"{row['n']:,} rows of {row['table']} refer to none of {row['parent']}" for row in rows]


def _statements(text: str) -> Iterator[str]:
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
