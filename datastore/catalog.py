"""The catalog: one SQLite database (WAL) that says what exists. Migrations come from `sql/`.

Concurrency: every write is one short `BEGIN IMMEDIATE` transaction; readers see one snapshot. Cost of a
commit is one fsync of the WAL.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradsift import sql
from gradsift.datastore.errors import CatalogVersionError, InputError
from gradsift.datastore.files import disk_errors
from gradsift.datastore.identity import digest_text

BUSY_SECONDS = 60
# A quota or size limit shows as a failed write, a full disk as SQLITE_FULL.
CANNOT_WRITE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC")
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "fuse.sshfs", "9p"}


def file_system_type(path: Path) -> str:
    """Type of the file system that holds a path, or '' where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best = ("", "")
    for line in mounts.read_text("utf-8", "replace").splitlines():
        _, point, kind, *_ = line.split()
        inside = str(path.resolve()) == point or str(path.resolve()).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


class Catalog:
    """A connection to `catalog.sqlite`, opened, checked and migrated."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        if not create and not path.exists():
            raise InputError(
                f"{path.parent} is not a store (no {path.name}). Give --store or GRADSIFT_STORE, "
                "or make one with `gradsift run RECIPE`."
            )
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._local = threading.local()
        self._migrate()

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection (transactions must not mix, handles must not cross a fork)."""
        local = self._local
        if getattr(local, "db", None) is None or local.pid != os.getpid():
            local.db, local.pid = self._open(), os.getpid()
        db: sqlite3.Connection = local.db
        return db

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            db.row_factory = sqlite3.Row
            journal = "DELETE" if file_system_type(self.path) in NETWORK_FILE_SYSTEMS else "WAL"
            db.execute(f"PRAGMA journal_mode={journal}")  # WAL needs shared memory of one host
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path} cannot be opened as a catalog: {error}") from error
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        return db

    def close(self) -> None:
        """Close this thread's connection; a later use opens it again."""
        if getattr(self._local, "db", None) is not None:
            self._local.db.close()
            self._local.db = None

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction: all of it or nothing. Nothing slow belongs inside.

        Raises StoreFullError when the disk takes no more.
        """
        db = self.db
        with disk_errors(self.path):
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if getattr(error, "sqlite_errorname", "") in CANNOT_WRITE:
                    raise OSError(errno.ENOSPC, f"the catalog cannot be written: {error}") from error
                raise

    def rows(self, text: str, parameters: Any = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self.db.execute(text, parameters).fetchall()

    def one(self, text: str, parameters: Any = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        row: sqlite3.Row | None = self.db.execute(text, parameters).fetchone()
        return row

    def named(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a stored query of `sql/queries` and return its rows as dicts."""
        return [dict(row) for row in self.rows(sql.query(name), parameters)]

    def _migrate(self) -> None:
        known = sql.migrations("sqlite")
        with self.write() as db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, "
                "name TEXT NOT NULL, sha256 TEXT NOT NULL, applied REAL NOT NULL) STRICT"
            )
        applied = {row["version"]: row for row in self.rows("SELECT * FROM schema_migrations")}
        if applied and max(applied) > known[-1].version:
            raise CatalogVersionError(
                f"{self.path} was written by a newer gradsift (schema {max(applied)}; this one knows "
                f"{known[-1].version}). Upgrade: pip install -U gradsift."
            )
        for migration in known:
            if migration.version not in applied:
                self._apply(migration, backup=bool(applied))
            elif applied[migration.version]["sha256"] != digest_text(migration.text):
                raise CatalogVersionError(
                    f"migration {migration.name} differs from the one that {self.path} was made with. "
                    "Install an unmodified gradsift."
                )

    def _apply(self, migration: sql.Migration, *, backup: bool) -> None:
        if backup:
            copy = self.path.with_suffix(f".before-{migration.version:04d}.sqlite")
            if not copy.exists():
                self.db.execute("VACUUM INTO ?", (str(copy),))
        with self.write() as db:
            if db.execute("SELECT 1 FROM schema_migrations WHERE version=?", (migration.version,)).fetchone():
                return  # another process was faster
            for statement in _statements(migration.text):
                db.execute(statement)
            db.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, digest_text(migration.text), time.time()),
            )


def _statements(text: str) -> Iterator[str]:
    """Split a migration into statements (executescript would commit our transaction)."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
