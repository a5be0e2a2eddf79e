"""What SQLite says of damaged pages, held locks, numbers that do not fit and disks that fail, as errors of ours."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradsift.datastore.errors import BusyError, CorruptionError, DiskError, InputError
from gradsift.datastore.files import FAILS, WRITABLE, disk_errors, has_room

DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
FAILED = ("SQLITE_IOERR", "SQLITE_CANTOPEN")
ADVICE = (
    "It cannot be made again from the other files: put a copy of the store back, or run its recipes into a new store."
)
HELD = "another process holds the catalog {}, for more than {:g} s; run this again when it has ended"
READ_ONLY = "{} is read only here: its catalog and its folder cannot be written to. {}"


def name_of(error: sqlite3.Error) -> str:
    """SQLite's own name of an error, '' where it has none."""
    return getattr(error, "sqlite_errorname", "")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds a lock."""
    return name_of(error).startswith(BUSY)


def damaged(path: Path, what: str, advice: str = "") -> CorruptionError:
    """The error for a catalog that is; what to do is not part of its `message`."""
    return CorruptionError(f"the catalog {path} is damaged ({what})", f"{ADVICE} {advice}".rstrip())


@contextmanager
def sound(path: Path, patience: float) -> Iterator[None]:
    """Raise errors of ours for those of SQLite that say something of the catalog's file: CorruptionError, BusyError (a
    lock was waited for as long as `patience` seconds), StoreFullError, DiskError, InputError where nothing may be
    written and for a number that no column holds. Other errors pass."""
    try:
        yield
    except OverflowError as error:
        raise InputError(f"a number is too large for the catalog, which holds -2^63 to 2^63 - 1: {error}") from error
    except sqlite3.DatabaseError as error:
        name = name_of(error)
        if name.startswith(DAMAGED) or str(error).startswith("Could not decode to UTF-8"):
            raise damaged(path, str(error)) from error
        if name.startswith(BUSY):
            raise BusyError(HELD.format(path, patience)) from error
        if name.startswith("SQLITE_READONLY"):
            raise InputError(READ_ONLY.format(path.parent, WRITABLE)) from error
        # A quota or a limit of this process shows as a failed write, as a disk that fails does.
        if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and not has_room(path, _size(path))):
            with disk_errors(path):
                raise OSError(errno.ENOSPC, f"the catalog cannot be written: {error}") from error
        if name.startswith(FAILED):
            raise DiskError(FAILS.format(path.parent, f"{name}: {error}")) from error
        raise


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Raise CorruptionError where a statement of this package finds other tables than its migrations made, or text
    that is none."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise damaged(path, f"text that is not UTF-8: {error}") from error
    except sqlite3.OperationalError as error:
        if name_of(error) == "SQLITE_ERROR":
            raise damaged(path, f"its tables are not as they were made: {error}") from error
        raise


def _size(path: Path) -> int:
    """Bytes of the catalog's file or of its log, whichever is larger."""
    there = (path, path.with_name(f"{path.name}-wal"))
    return max((one.stat().st_size for one in there if one.exists()), default=0)
