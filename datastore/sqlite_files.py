"""The files of a SQLite catalog, and how they are read where nothing can be written.

In WAL mode readers see what writers do by two files beside the catalog's own, `-wal` and `-shm`. They are there as long
as somebody has the catalog open, and are read then. Where they are not and cannot be made, the catalog's own file has
all there is, and SQLite reads it as one that nobody changes (`immutable`): it takes no locks, keeps pages that it has
read, and would mix old ones with new ones. So whoever reads it that way compares `stamp` before and after.
"""

import os
import sqlite3
import time
from pathlib import Path

from gradsift.datastore import head
from gradsift.datastore.errors import InputError
from gradsift.datastore.sqlite_errors import name_of

OPENS = 5  # while others open and close it
PAUSE_SECONDS = 0.1
UNMERGED = (
    "{} is read only here, and its catalog was not closed: {} has changes that are not in it yet. Open it once where "
    "it can be written to (`gradsift status`), or copy the folder to where it can"
)
CANNOT = ("SQLITE_CANTOPEN", "SQLITE_READONLY")  # the files beside it are not there and cannot be made


def connect(address: str, patience: float) -> sqlite3.Connection:
    """A connection of the right settings, which waits `patience` seconds for locks. Opens the file at the first
    statement."""
    connection = sqlite3.connect(address, timeout=patience, isolation_level=None, check_same_thread=False, uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def connect_to_read(path: Path, patience: float) -> tuple[sqlite3.Connection, bool]:
    """A connection that writes nothing, and whether who uses it must watch the catalog's `stamp`, taken before.

    Raises InputError where changes wait in a log that cannot be read here.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    for left in reversed(range(OPENS)):
        if (shared := _shared(path, address, patience)) is not None:
            return shared, False
        waiting = [log.name for log in _logs(path) if _size(log)]
        if not waiting:
            return connect(f"{address}&immutable=1", patience), True
        if left:
            time.sleep(PAUSE_SECONDS)
    raise InputError(UNMERGED.format(path.parent, waiting[0]))


def _shared(path: Path, address: str, patience: float) -> sqlite3.Connection | None:
    """A connection that sees what others write, if it needs no file that is not there: made by who cannot write to the
    catalog, it would keep out who can."""
    if os.access(path.parent, os.W_OK) and not all(_beside(path, end).exists() for end in ("-wal", "-shm")):
        return None
    connection = connect(address, patience)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError as error:
        connection.close()
        if not name_of(error).startswith(CANNOT):
            raise
        return None
    return connection


def stamp(path: Path) -> tuple[object, ...]:
    """What tells that somebody wrote to a catalog: its files, their sizes and times, and how far it has come."""
    return head.noted(path.with_suffix(".head")), *(_which(file) for file in (path, *_logs(path)))


def _logs(path: Path) -> list[Path]:
    """Where changes wait: of WAL mode, and of a catalog on a network file system."""
    return [_beside(path, "-wal"), _beside(path, "-journal")]


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f"{path.name}{end}")


def _which(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
