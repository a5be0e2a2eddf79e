"""The catalog in SQLite: one file beside the shards, in WAL mode where the file system allows it.

Concurrency: every write is one short `BEGIN IMMEDIATE` transaction; readers see one snapshot. Cost of a
commit is one fsync of the WAL.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gradsift.datastore import inside
from gradsift.datastore.bounds import bounded
from gradsift.datastore.engine import LEFT, Engine, Parameters, Row
from gradsift.datastore.errors import BusyError, CorruptionError, InputError, NoStoreError
from gradsift.datastore.files import disk_errors, on_network

BUSY_SECONDS = 60
OF_PREDICATES = {"example", "origin"}  # tables that a predicate may look at
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
ADVICE = (
    "It cannot be made again from the other files: put a copy of the store back, or run its recipes into a new store."
)
CACHE_KIB = 65_536  # of pages that were used, for each thread; taken as needed
WAL_PAGES = 8_192  # of 4 KiB, before they are moved into the file
# A quota or size limit shows as a failed write, a full disk as SQLITE_FULL.
CANNOT_WRITE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC")


class SqliteTransaction:
    """An open transaction on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, text: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns how many rows it inserted, changed or deleted."""
        return self._connection.execute(text, parameters).rowcount

    def executemany(self, text: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each of the rows of values."""
        self._connection.executemany(text, rows)

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, or of a statement with RETURNING."""
        return self._connection.execute(text, parameters).fetchall()

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first of them, or None."""
        rows = self.rows(text, parameters)  # all of them: a statement half read would stop the commit
        return rows[0] if rows else None

    def script(self, text: str) -> None:
        """Run several statements (`executescript` would commit our transaction)."""
        for statement in _statements(text):
            self._connection.execute(statement)

    def now(self) -> float:
        """This host's clock, in Unix seconds."""
        return time.time()


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
        if not create and not path.exists():
            raise NoStoreError(
                f"{path.parent} is not a store (no {path.name}). Give --store or GRADSIFT_STORE, "
                "or make one with `gradsift run RECIPE`."
            )
        inside.require(path.parent, path)  # SQLite itself follows no link to its log
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.place = str(path)
        self._local = threading.local()
        self.migrate()

    @property
    def _connection(self) -> sqlite3.Connection:
        """This thread's connection (transactions must not mix, handles must not cross a fork)."""
        local = self._local
        if getattr(local, "connection", None) is None or local.pid != os.getpid():
            local.connection, local.pid = self._open(), os.getpid()
        connection: sqlite3.Connection = local.connection
        return connection

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            journal = "DELETE" if on_network(self.path) else "WAL"
            connection.execute(f"PRAGMA journal_mode={journal}")  # WAL needs shared memory of one host
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(DAMAGED):
                raise InputError(f"{self.path} cannot be opened as a catalog: {error}. {ADVICE}") from error
            raise InputError(f"{self.path} cannot be opened as a catalog: {error}") from error
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # no text stays behind in what a row or page had
        # Ids are digests: new rows of a large table touch a page each; with less room those would be written twice.
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
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
        connection = self._connection
        with _sound(self.path), disk_errors(self.path):
            try:
                connection.execute("BEGIN IMMEDIATE")
                transaction = SqliteTransaction(connection)
                if self.guard is not None:
                    self.guard(transaction)
                yield transaction
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if getattr(error, "sqlite_errorname", "") in CANNOT_WRITE:
                    raise OSError(errno.ENOSPC, f"the catalog cannot be written: {error}") from error
                if getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_FOREIGNKEY":
                    raise BusyError(LEFT.format(self.path.parent)) from error
                raise

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, of one snapshot."""
        with _sound(self.path):
            return self._connection.execute(text, parameters).fetchall()

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first row of a query, or None."""
        with _sound(self.path):
            row: Row | None = self._connection.execute(text, parameters).fetchone()
            return row

    def ids_where(self, rows: str, predicate: str, functions: Collection[str]) -> list[str] | None:
        """Values of `key` of the rows of which a predicate holds. An authorizer sees to it that the statement reads
        these tables alone, and calls no other function, whatever the predicate is."""

        def allow(action: int, table: str | None, called: str | None, _of: str | None, _by: str | None) -> int:
            ours = action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and table in OF_PREDICATES)
            known = action == sqlite3.SQLITE_FUNCTION and called in functions
            return sqlite3.SQLITE_OK if ours or known else sqlite3.SQLITE_DENY

        connection = self._connection
        connection.set_authorizer(allow)
        try:
            with _sound(self.path), bounded(connection):
                text = f"WITH example AS ({rows}) SELECT key FROM example WHERE (\n{predicate}\n)"
                return [row[0] for row in connection.execute(text)]
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_TOOBIG":
                return None  # perhaps of a row that is longer: who asks looks at each
            raise InputError(str(error)) from error
        finally:
            connection.set_authorizer(None)

    def now(self) -> float:
        """This host's clock, in Unix seconds: a file is not shared between hosts that work at once."""
        return time.time()

    def check(self) -> None:
        """Look whether the catalog itself is whole: one pass over it. Raises CorruptionError where it is not."""
        found = [row["integrity_check"] for row in self.rows("SELECT * FROM pragma_integrity_check(3)")]
        if found != ["ok"]:
            raise CorruptionError(_damaged(self.path, "; ".join(map(str, found))))

    def backup(self, version: int) -> None:
        """Keep a copy of the file as it is before migration `version`, unless there is one."""
        copy = inside.require(self.path.parent, self.path.with_suffix(f".before-{version:04d}.sqlite"))
        if not copy.exists():
            self._connection.execute("VACUUM INTO ?", (str(copy),))

    def scrub(self) -> None:
        """Write all of the file anew, without free pages, and empty the log; delete copies from before migrations.

        Raises BusyError while another process reads or writes the catalog, StoreFullError without room for a copy.
        """
        for copy in self.path.parent.glob(f"{self.path.stem}.before-*.sqlite*"):
            copy.unlink(missing_ok=True)
        connection = self._connection
        with disk_errors(self.path):
            try:
                connection.execute("VACUUM")
                row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                name = getattr(error, "sqlite_errorname", "")
                if name in CANNOT_WRITE:
                    raise OSError(errno.ENOSPC, f"the catalog cannot be written anew: {error}") from error
                if not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                    raise
                row = {"busy": 1}
        if row["busy"]:
            raise BusyError(f"another process is using {self.path}; run this again when it has ended")


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn SQLite's word for damaged pages into CorruptionError; other errors pass."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not getattr(error, "sqlite_errorname", "").startswith(DAMAGED):
            raise
        raise CorruptionError(_damaged(path, str(error))) from error


def _damaged(path: Path, what: str) -> str:
    return f"the catalog {path} is damaged ({what}). {ADVICE}"


def _statements(text: str) -> Iterator[str]:
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
