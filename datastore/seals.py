"""Seals: a number for what each table of a SQLite catalog holds, kept with every change of it.

    seal(table) = Σ xxh3_128(row) mod 2^128, over its rows

A sum knows no order, so a change costs the digests of the rows that it touches, before and after, whatever the size of
the table. Triggers of the connection call functions of ours for each of these rows, and the transaction that changes
them writes the new sums: what is committed has its seals. SQLite's own check knows whether pages and indices fit
together; a bit that makes one value another it does not know, and the seal does. The schema has a seal, too: a changed
view or default answers otherwise.

A table that something else than this engine wrote to no longer fits its seal. Seals are no defence against who means
it: who can write the catalog can write them.

Cost: 4 to 5 µs for a row of short values that is inserted or deleted, 9 with 500 characters of ASCII, 13 with 500
others, twice that where it is changed: two to five times what SQLite alone takes. The first transaction of a connection
makes three triggers for each table: 4 to 12 ms. Comparing all takes 2 µs for each row of short values.
"""

import sqlite3
from collections.abc import Iterable

from xxhash import xxh3_128_intdigest

from gradsift.datastore.head import Head

SCHEMA = "sqlite_schema"
OWN = ("seal", "head")  # they hold the numbers
_SIZE = 1 << 128
_OF_SCHEMA = (
    "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"  # ANALYZE may be run
)


class Ledger:
    """Rows that came into tables and left them since a transaction of one connection began: counts and sums."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes: dict[str, tuple[int, int]] = {}
        self._raised: BaseException | None = None
        connection.execute("PRAGMA temp_store=MEMORY")  # the triggers are the connection's own
        connection.create_function("gradsift_came", -1, self._came)
        connection.create_function("gradsift_left", -1, self._left)
        triggers = "".join(_triggers(table, _columns(connection, table)) for table in _tables(connection))
        connection.executescript(f"BEGIN; {triggers} COMMIT")  # one transaction: half the time of one for each

    def _came(self, table: str, *row: object) -> None:
        self._count(table, 1, row)

    def _left(self, table: str, *row: object) -> None:
        self._count(table, -1, row)

    def _count(self, table: str, sign: int, row: tuple[object, ...]) -> None:
        try:
            rows, total = self._changes.get(table, (0, 0))
            self._changes[table] = rows + sign, total + sign * _digest(row)
        except BaseException as error:
            self._raised = error
            raise

    def raised(self, error: BaseException) -> BaseException | None:
        """What was raised while a row was added up, which SQLite gives as an `error` of its own, without the cause;
        None where nothing was. What these functions do not see themselves came before their first line: a handler of a
        signal raised it, for Python calls it where a function begins."""
        ours = isinstance(error, sqlite3.OperationalError) and str(error) == "user-defined function raised exception"
        return KeyboardInterrupt() if ours and self._raised is None else self._raised

    def begin(self) -> None:
        """Forget what a transaction that was rolled back did."""
        self._changes.clear()
        self._raised = None

    def close(self) -> Head | None:
        """Write the new seals, just before the commit; returns how far it brings the catalog, None where nothing
        changed."""
        if not self._changes:
            return None
        for table, (rows, total) in self._changes.items():
            before = self._connection.execute("SELECT digest FROM seal WHERE name=?", (table,)).fetchone()
            self._connection.execute(
                "INSERT INTO seal VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET rows = rows + excluded.rows, digest = excluded.digest",
                (table, rows, _text(total + (int(before[0], 16) if before else 0))),
            )
        self._changes.clear()
        return Head(
            *self._connection.execute("UPDATE head SET commits = commits + 1 RETURNING catalog, commits").fetchone()
        )


def head_of(connection: sqlite3.Connection) -> Head:
    """How far a catalog has come."""
    return Head(*connection.execute("SELECT catalog, commits FROM head").fetchone())


def _triggers(table: str, columns: list[str]) -> str:
    """Those of a table; some are there where ^C ended a ledger as it began."""
    new, old = (", ".join(f'{row}."{column}"' for column in columns) for row in ("new", "old"))
    came, left = f"SELECT gradsift_came('{table}', {new});", f"SELECT gradsift_left('{table}', {old});"
    return "".join(
        f'CREATE TEMP TRIGGER IF NOT EXISTS "sealed_{event}_{table}" AFTER {event} ON main."{table}" BEGIN {calls} END;'
        for event, calls in (("INSERT", came), ("UPDATE", left + came), ("DELETE", left))
    )


def reseal(connection: sqlite3.Connection) -> None:
    """Take what the tables hold for what they should: after a migration, or where a user says so. Cost: a pass over the
    catalog."""
    connection.execute("DELETE FROM seal")
    connection.executemany(
        "INSERT INTO seal VALUES (?, ?, ?)", [(name, rows, _text(total)) for name, rows, total in _held(connection)]
    )


def broken(connection: sqlite3.Connection) -> list[str]:
    """What does not fit its seal, in words. Cost: a pass over the catalog. Run it in a transaction."""
    seals = {name: (rows, digest) for name, rows, digest in _tuples(connection, "SELECT name, rows, digest FROM seal")}
    found = []
    for name, rows, total in _held(connection):
        sealed, digest = seals.pop(name, (0, _text(0)))
        what = "the schema" if name == SCHEMA else f"table {name}"
        if rows != sealed:
            found.append(f"{what} has {rows:,} rows, and {sealed:,} were recorded")
        elif _text(total) != digest:
            found.append(f"{what} has {rows:,} rows, and they are not what was recorded")
    return found + [f"table {name} is gone" for name in seals]


def _held(connection: sqlite3.Connection) -> Iterable[tuple[str, int, int]]:
    """(name, rows, sum of their digests) of the schema and each table."""
    texts = {SCHEMA: _OF_SCHEMA}
    for table in _tables(connection):
        columns = ", ".join(f'"{column}"' for column in _columns(connection, table))
        texts[table] = f'SELECT {columns} FROM main."{table}"'
    for name, text in texts.items():
        rows = total = 0
        for row in _tuples(connection, text):
            rows, total = rows + 1, total + _digest(row)
        yield name, rows, total


def _tuples(connection: sqlite3.Connection, text: str) -> sqlite3.Cursor:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(text)


def _tables(connection: sqlite3.Connection) -> list[str]:
    text = "SELECT name FROM main.sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    return [str(name) for (name,) in _tuples(connection, text) if name not in OWN]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(name) for (name,) in _tuples(connection, f"SELECT name FROM pragma_table_info('{table}')")]


def _digest(row: tuple[object, ...]) -> int:
    """Of the tuple as `ascii` writes it, which is the same for every Python: what `repr` leaves as it is in a text
    depends on the Unicode version that a Python knows, and ASCII with escapes does not. None, whole numbers and bytes
    have one form, and so has a float: the shortest digits that give it again."""
    return xxh3_128_intdigest(ascii(row).encode("ascii"))


def _text(total: int) -> str:
    return f"{total % _SIZE:032x}"
