"""The catalog in PostgreSQL: one schema of a database holds one catalog, for processes on many hosts.

Concurrency: every write begins by taking a lock of the whole catalog, as SQLite's `BEGIN IMMEDIATE` does; readers see
one snapshot for each statement and wait for nobody. A write that waited sees all that was committed before it.

A connection may be lost at any time: a server restarts, a line is cut. Reads, and writes of which nothing was sent yet,
go on over a new one, and wait up to `WAIT_SECONDS` for the server. A transaction that was under way raises
UnavailableError: `Engine.again` is for those that can be run twice.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from gradsift.datastore.engine import LEFT, Engine, Parameters, Row, Transaction
from gradsift.datastore.errors import (
    BusyError,
    CorruptionError,
    InputError,
    NoStoreError,
    StoreFullError,
    UnavailableError,
)

try:
    import psycopg
    from psycopg import errors as states
    from psycopg import pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.rows import DictRow, dict_row
except ImportError as error:
    raise InputError(f"a catalog on PostgreSQL needs psycopg ({error}): pip install 'gradsift[postgres]'") from error

SCHEMA = "gradsift"
EXAMPLE = "postgresql://host/database?schema=team"
WAIT_SECONDS = 60.0  # for a server that does not answer, of an engine that reached it before
QUEUE_SECONDS = 120  # for other writers
SCRUB_WAITS = (0.2, 1.0, 3.0)  # seconds before it is tried again to leave nothing of what was deleted
IDLE_SECONDS = 60  # a writer that was suspended in a transaction must not hold up the others for longer
# What libpq does unless the URL says otherwise: a line that is cut is noticed within about a minute.
DEFAULTS = {
    "connect_timeout": "10", "keepalives_idle": "20", "keepalives_interval": "10", "keepalives_count": "3",
    "tcp_user_timeout": "50000", "application_name": "gradsift",
}  # fmt: skip
NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision AS now"
SESSION = f"""
SET lock_timeout = '{QUEUE_SECONDS}s';
SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s';
SET statement_timeout = 0;
SET jit = off;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""
_TOKENS = re.compile(r"""('(?:[^']|'')*' | "[^"]*" | --[^\n]* | ::) | (\?) | :([a-z_]\w*)""", re.VERBOSE)


class _Connection(psycopg.Connection[DictRow]):
    def __del__(self, _warn: Any = None) -> None:
        """Threads that end leave theirs, and so do forks: libpq closes it in the process that opened it."""


class _Number(psycopg.adapt.Loader):
    """Sums of BIGINT are NUMERIC: as SQLite gives them."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


class PostgresTransaction:
    """An open transaction on one connection; `began` is the server's time at its beginning."""

    def __init__(self, connection: _Connection, began: float) -> None:
        self._connection = connection
        self._ahead = began - time.monotonic()

    def execute(self, text: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns how many rows it inserted, changed or deleted."""
        return _execute(self._connection, text, parameters).rowcount

    def executemany(self, text: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each of the rows of values, many for each answer of the server."""
        native, names = _native(text)
        self._connection.cursor().executemany(native, [_values(names, row) for row in rows])

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, or of a statement with RETURNING."""
        return [*_execute(self._connection, text, parameters).fetchall()]

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first of them, or None."""
        return _execute(self._connection, text, parameters).fetchone()

    def script(self, text: str) -> None:
        """Run several statements."""
        self._connection.execute(text.encode(), prepare=False)

    def now(self) -> float:
        """The server's clock, in Unix seconds, without asking it again."""
        return self._ahead + time.monotonic()


class PostgresEngine(Engine):
    """A catalog in a schema of a PostgreSQL database, opened and migrated.

    Parameters
    ----------
    url : str
        As libpq takes it, with one parameter of our own: `postgresql://host/database?schema=team`. The schema is
        `gradsift` unless it says otherwise. libpq finds the password in PGPASSWORD or `~/.pgpass`.
    create : bool
        Whether to make the schema and its tables where there are none.

    Raises
    ------
    InputError
        For a URL that is none, a role, password or database that the server refuses, and, when `create` is False, for a
        schema without a catalog.
    UnavailableError
        When no server answers.
    """

    dialect = "postgresql"
    migrations_table = (
        'CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT COLLATE "C" NOT NULL, '
        'sha256 TEXT COLLATE "C" NOT NULL, applied DOUBLE PRECISION NOT NULL)'
    )

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._conninfo, self.schema, self._secret = _parsed(url)
        given = conninfo_to_dict(self._conninfo)
        self.server = ",".join(str(given.get(name) or "") for name in ("host",)) or os.environ.get(
            "PGHOST", "this host"
        )
        self.place = f"schema {self.schema} of database {given.get('dbname', 'of your role')} on {self.server}"
        self._lock = int.from_bytes(hashlib.sha256(f"gradsift {self.schema}".encode()).digest()[:8], signed=True)
        self._local = threading.local()
        self._reached = False
        if not self._holds_catalog():
            if not create:
                raise NoStoreError(
                    f"there is no catalog in {self.place}. Give the right `schema` in its URL ({EXAMPLE}), or make one "
                    "with `gradsift run RECIPE`."
                )
            with self.write() as db:  # asked for first: who may not make schemas can be given one
                if not db.one("SELECT 1 FROM pg_namespace WHERE nspname=?", (self.schema,)):
                    db.execute(f'CREATE SCHEMA "{self.schema}"')
        self.migrate()

    def _holds_catalog(self) -> bool:
        row = self.one("SELECT to_regclass('schema_migrations') IS NOT NULL AS made")
        return row is not None and bool(row["made"])

    @property
    def _connection(self) -> _Connection:
        """This thread's connection (transactions must not mix, handles must not cross a fork)."""
        local = self._local
        if getattr(local, "connection", None) is None or local.pid != os.getpid():
            local.connection, local.pid, local.inside = self._open(), os.getpid(), False
        connection: _Connection = local.connection
        return connection

    def _open(self) -> _Connection:
        """A new connection. An engine that had one before waits for a server that restarts."""
        ends = time.monotonic() + (WAIT_SECONDS if self._reached else 0)
        pause = 0.05
        while True:
            try:
                connection = _Connection.connect(
                    self._conninfo, autocommit=True, row_factory=dict_row, cursor_factory=psycopg.RawCursor
                )
                connection.execute(f'SET search_path TO "{self.schema}";{SESSION}'.encode())
                break
            except psycopg.OperationalError as error:
                if time.monotonic() >= ends:
                    raise self._refused(error) from error
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            connection.close()
            raise InputError(f"{self.place} has the encoding {encoding}; a catalog needs a database in UTF8")
        connection.adapters.register_loader("numeric", _Number)
        self._reached = True
        return connection

    def _refused(self, error: psycopg.Error) -> InputError | UnavailableError:
        told = f"{self.place} cannot be opened: {self._words(error)}"
        if pq.PGconn.ping(self._conninfo.encode()) == pq.Ping.OK:
            return InputError(
                f"{told}. The server is there: look at the role, the database, the password (PGPASSWORD or ~/.pgpass) "
                "and max_connections (one for each thread that works)"
            )
        return UnavailableError(f"{told}. Look whether the server runs and this host can reach it, then run this again")

    def _words(self, error: BaseException) -> str:
        """What libpq or the server say, on one line and without the password."""
        text = " ".join(str(error).split()).rstrip(".?")
        return text.replace(self._secret, "…") if self._secret else text

    def close(self) -> None:
        """Close this thread's connection; a later use opens it again."""
        if getattr(self._local, "connection", None) is not None and self._local.pid == os.getpid():
            self._local.connection.close()
        self._local.connection = None

    @contextmanager
    def write(self) -> Iterator[PostgresTransaction]:
        """One transaction, alone among writers from its beginning. Nothing slow belongs inside.

        Raises StoreFullError when the server's disk is full, BusyError when the guard refuses it, when other writers
        take too long, and for a row that refers to one which has left; UnavailableError, saying what is known.
        """
        connection, began = self._begin()
        sent = False
        self._local.inside = True
        try:
            transaction = PostgresTransaction(connection, began)
            if self.guard is not None:
                self.guard(transaction)
            yield transaction
            sent = True
            if connection.execute("COMMIT", prepare=False).statusmessage != "COMMIT":  # it says ROLLBACK after an error
                raise RuntimeError("an error in this transaction was passed over; nothing was committed")
        except BaseException as error:
            self._roll_back(connection)
            if isinstance(error, psycopg.Error):
                raise self._meaning(error, connection, sent=sent) from error
            raise
        finally:
            self._local.inside = False

    def _begin(self) -> tuple[_Connection, float]:
        """The connection, in a transaction that has the catalog's lock, and the time. As nothing was done before it, it
        is tried again over another connection."""
        # Not in another isolation: the snapshot would be older than the lock.
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({self._lock}); {NOW}"
        ends = time.monotonic() + WAIT_SECONDS
        while True:
            connection = self._connection
            if self._local.inside:
                raise RuntimeError("a transaction within a transaction")
            try:
                (*_, cursor) = connection.execute(begin.encode(), prepare=False).results()
                return connection, float(cursor.fetchall()[0]["now"])
            except psycopg.Error as error:
                self._roll_back(connection)
                if not connection.closed or time.monotonic() >= ends:
                    raise self._meaning(error, connection) from error
                self.close()
            except BaseException:
                self._roll_back(connection)
                raise

    def _roll_back(self, connection: _Connection) -> None:
        if not connection.closed and connection.info.transaction_status != pq.TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK", prepare=False)
            except psycopg.Error:  # lost: the server rolls back by itself
                connection.close()
        if connection.closed:
            self.close()

    def _read(self, text: str, parameters: Parameters) -> list[DictRow]:
        for last in (False, True):
            connection = self._connection
            try:
                return _execute(connection, text, parameters).fetchall()
            except psycopg.Error as error:
                if last or self._local.inside or not connection.closed:
                    raise self._meaning(error, connection) from error
                self.close()
        raise AssertionError  # the second time returns or raises

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, of one snapshot."""
        return [*self._read(text, parameters)]

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self._read(text, parameters)
        return rows[0] if rows else None

    def now(self) -> float:
        """The server's clock, in Unix seconds."""
        return float(self._read(NOW, ())[0]["now"])

    def _meaning(self, error: psycopg.Error, connection: _Connection, *, sent: bool = False) -> Exception:
        """What an error of psycopg's means for a user; itself where it is ours."""
        if connection.closed:
            known = (
                "whether its last change was recorded is not known"
                if sent
                else "nothing of its last change was recorded"
            )
            return UnavailableError(
                f"the connection to {self.place} was lost ({self._words(error)}): {known}. Run the same command again "
                "when the server answers; it resumes"
            )
        match error:
            case states.ForeignKeyViolation():
                return BusyError(LEFT.format(self.place))
            case states.LockNotAvailable():
                return BusyError(f"others have been writing to {self.place} for {QUEUE_SECONDS} s; run this again")
            case states.DiskFull():
                return StoreFullError(
                    f"no space left for {self.place} ({self._words(error)}). Nothing committed is lost: make room on "
                    "its server and run the same command again; it resumes."
                )
            case states.DataCorrupted() | states.IndexCorrupted():
                return CorruptionError(
                    f"the catalog in {self.place} is damaged ({self._words(error)}). It cannot be made again from the "
                    "files: restore a backup of the database, or run its recipes into a new store."
                )
            case psycopg.DataError() if "NUL" in str(error):
                return InputError(
                    "PostgreSQL cannot hold the character NUL, which the name of a source, licence or file has here: "
                    "take it out of the data"
                )
            case states.InsufficientPrivilege() | states.ReadOnlySqlTransaction():
                return InputError(
                    f"{self.place} cannot be written: {self._words(error)}. The role must own the schema, on a "
                    "server that is not a standby"
                )
            case _:
                return error

    def backup(self, version: int) -> None:
        """Nothing: a migration is one transaction, done or not; copies are made by tools of the server (`pg_dump`)."""

    def accept(self) -> None:
        """Nothing: what `check` finds here is what the server cannot read."""

    def migrating(self, db: Transaction) -> None:
        """Nothing, as `migrated`."""

    def migrated(self, db: Transaction) -> None:
        """Nothing: there are no seals, for the server's pages have checksums."""

    def check(self) -> None:
        """Read every value of every row, checked by the server's page checksums where it has them.

        Raises CorruptionError where the server finds damage. Cost: one pass over the schema.
        """
        for table in self._tables():
            self.rows(f"SELECT sum(hashtextextended(t::text, 0)) AS digest FROM {table} AS t")

    def scrub(self) -> None:
        """Write all tables anew, without what was deleted, and their statistics, which hold frequent values.

        The server's log (WAL), its replicas and its backups are not ours to clean. Waits some seconds for older
        transactions of this database, such as the server's own vacuum. Raises BusyError while one may still read what
        was deleted, StoreFullError without room for a copy.
        """
        left = self._written_anew()
        for seconds in SCRUB_WAITS:
            if not left:
                break
            time.sleep(seconds)
            left = self._written_anew()
        for table in self._tables():
            if self.one(f"SELECT 1 FROM {table} LIMIT 1") is None:
                self._drop_statistics(table)
        if left:
            raise BusyError(
                f"a transaction in the database of {self.place} may still read it; run this again when it has ended"
            )

    def _written_anew(self) -> bool:
        """Write all tables anew; returns whether rows that were deleted had to stay."""
        connection = self._connection
        kept: list[str] = []
        connection.add_notice_handler(lambda told: kept.extend(_left_behind(told.message_detail)))
        try:
            for table in self._tables():
                connection.execute(f"VACUUM (FULL, ANALYZE, VERBOSE) {table}".encode())
        except psycopg.Error as error:
            raise self._meaning(error, connection) from error
        finally:
            self.close()  # and the handler with it
        return any(int(count) for count in kept)

    def _drop_statistics(self, table: str) -> None:
        """ANALYZE leaves those of a table that has become empty as they were; a column whose type is set has none."""
        columns = self.rows(
            "SELECT attname AS name FROM pg_attribute AS a WHERE attrelid = ?::text::regclass AND "
            "atttypid = 'code_text'::regtype AND NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.refobjid = attrelid "
            "AND d.refobjsubid = attnum AND d.classid = 'pg_rewrite'::regclass)",  # in a view: ids alone
            (table,),
        )
        for column in columns:
            with self.write() as db:
                db.execute(f'ALTER TABLE {table} ALTER COLUMN "{column["name"]}" SET DATA TYPE code_text')

    def _tables(self) -> list[str]:
        rows = self.rows("SELECT tablename AS name FROM pg_tables WHERE schemaname=? ORDER BY 1", (self.schema,))
        return [f'"{self.schema}"."{row["name"]}"' for row in rows]


def _left_behind(detail: str | None) -> list[str]:
    """How many deleted rows VACUUM could not leave out: the number at the start of what it tells."""
    return re.findall(r"\d+", detail or "")[:1]


def _parsed(url: str) -> tuple[str, str, str]:
    """The part of a URL that libpq takes, the schema that it names, and its password ('' without one)."""
    try:
        parts = urlsplit(url)
        asked = parse_qsl(parts.query, keep_blank_values=True)
        schema = dict(asked).get("schema", SCHEMA)
        others = urlencode([(name, value) for name, value in asked if name != "schema"], quote_via=quote)
        given = conninfo_to_dict(urlunsplit(parts._replace(query=others)))
    except (ValueError, psycopg.Error):
        given, parts, schema = {}, urlsplit(""), SCHEMA  # what libpq says of it may hold the password
    if parts.scheme not in ("postgresql", "postgres"):
        raise InputError(f"catalog_url must be a URL that libpq takes, such as {EXAMPLE}")
    if not re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", schema):
        raise InputError(
            f"schema={schema!r} in catalog_url must be a plain name: small letters, digits and _, not starting with pg_"
        )
    known = {name: str(value) for name, value in given.items() if value is not None}
    return make_conninfo("", **{**DEFAULTS, **known, "client_encoding": "UTF8"}), schema, known.get("password", "")


@lru_cache(maxsize=1024)
def _native(text: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with PostgreSQL's own placeholders, and the names of its values where they have names."""
    names: list[str] = []
    count = 0

    def place(token: re.Match[str]) -> str:
        nonlocal count
        if token[1]:
            return token[1]
        if token[2]:
            count += 1
            return f"${count}"
        if token[3] not in names:
            names.append(token[3])
        return f"${names.index(token[3]) + 1}"

    return _TOKENS.sub(place, text).encode(), tuple(names)


def _values(names: tuple[str, ...], parameters: Parameters) -> list[Any]:
    return [parameters[name] for name in names] if isinstance(parameters, Mapping) else [*parameters]


def _execute(connection: _Connection, text: str, parameters: Parameters) -> psycopg.Cursor[DictRow]:
    native, names = _native(text)
    return connection.execute(native, _values(names, parameters) or None)
