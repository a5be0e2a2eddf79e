"""How far SQLite may go for a predicate: in time, and in the length of the strings that it makes.

A predicate may nest calls that make a text longer at each step, or look for a long pattern at every place of a text.
So the strings it makes are bounded, always; where somebody else may have written it, as over HTTP, so is its time
(`within`). SQLite looks at the clock, and for ^C, between two rows: what a row may take follows from the other bounds.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from gradsift.datastore.errors import InputError

BYTES = 1 << 16  # of a string, or as many as a row has
PATTERN = 500  # bytes of a pattern of LIKE or GLOB, where time is bounded
STEPS = 10  # of SQLite's: fewer than a row takes


@dataclass
class _Allowance:
    seconds: float
    left: float


_allowance: ContextVar[_Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let SQLite take so long for all predicates that are asked inside, in this thread and those that inherit its
    context; reading the rows is not counted."""
    token = _allowance.set(_Allowance(seconds, seconds))
    try:
        yield
    finally:
        _allowance.reset(token)


@contextmanager
def bounded(connection: sqlite3.Connection, row_bytes: int = 0) -> Iterator[None]:
    """Bound what the connection does inside; `row_bytes`: of the longest row that it reads.

    Raises InputError where its time is over, KeyboardInterrupt where the user ended it; SQLite's word for a string that
    is too long is the caller's to tell.
    """
    allowed = _allowance.get()
    began = time.monotonic()
    length = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(BYTES, row_bytes))
    pattern = connection.getlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH)
    if allowed is not None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN)

    def is_over() -> bool:
        return allowed is not None and time.monotonic() - began > allowed.left

    connection.set_progress_handler(is_over, STEPS)  # any Python function lets a signal's handler run
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
            raise
        if allowed is None or not is_over():  # the handler of ^C raised inside, where SQLite drops what is raised
            raise KeyboardInterrupt from error
        raise InputError(
            f"the predicate takes longer than the {allowed.seconds:g} seconds that it has here; ask it on the command "
            "line, where it has as long as it needs"
        ) from error
    finally:
        connection.set_progress_handler(None, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, pattern)
        if allowed is not None:
            allowed.left -= time.monotonic() - began


def bytes_of(row: Sequence[object]) -> int:
    """At most how many bytes the strings of a row have."""
    return sum(len(value) * (1 if value.isascii() else 4) for value in row if isinstance(value, str))
