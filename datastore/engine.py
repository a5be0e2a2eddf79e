"""What the store asks of a database: the catalog's engine, and the rules that every engine keeps.

SQLite (`datastore/sqlite.py`) is one, PostgreSQL (`datastore/postgres.py`) another; a further one is a subclass here,
its folder in `sql/`, and a pass of `EngineTests` (`datastore/testing_engine.py`). Nobody outside `datastore/` sees an
engine: others call plain functions of `examples`, `features`, and so on.

Statements are the SQL that SQLite and PostgreSQL share; `?` stands for a value and `:name` for a named one. One that
must differ is a file below `sql/<dialect>/queries` (see `sql.query`). Texts sort by code point, on every engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeVar

from gradsift import sql
from gradsift.datastore import holders
from gradsift.datastore.errors import BusyError, CatalogVersionError, UnavailableError
from gradsift.datastore.identity import digest_text

Parameters = Sequence[Any] | Mapping[str, Any]
Record = dict[str, Any]  # a row of an answer, copied
T = TypeVar("T")

LEFT = "something that this was made from has left {} meanwhile: deleted, pruned or compacted; run this again"
TRIES = 3  # of a transaction whose connection is lost


class Row(Protocol):
    """One row of an answer: values by column name; `dict(row)` copies it."""

    def __getitem__(self, name: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """Column names in order."""
        ...


class Transaction(Protocol):
    """What can be done inside `Engine.write`."""

    def execute(self, text: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns how many rows it inserted, changed or deleted."""
        ...

    def executemany(self, text: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each of the rows of values."""
        ...

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, or of a statement with RETURNING."""
        ...

    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first of them, or None: of `INSERT … ON CONFLICT DO NOTHING RETURNING …`, None when nothing was new."""
        ...

    def script(self, text: str) -> None:
        """Run several statements."""
        ...

    def now(self) -> float:
        """`Engine.now`, of this moment in the transaction."""
        ...


class Engine(ABC):
    """An open catalog. Safe to share between threads and across a fork: each thread of a process has its own handle."""

    dialect: ClassVar[str]  # names its folder in sql/
    migrations_table: ClassVar[str]  # makes `schema_migrations`, which holds what `migrate` did
    place: str  # for messages: where the catalog is
    read_only = False  # whether nothing can be written here: `write` raises InputError then
    guard: "Callable[[Transaction], None] | None" = None  # called as each transaction begins; raises to refuse it

    @abstractmethod
    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query, of one snapshot."""

    @abstractmethod
    def one(self, text: str, parameters: Parameters = ()) -> Row | None:
        """The first row of a query, or None."""

    @abstractmethod
    def write(self) -> AbstractContextManager[Transaction]:
        """One transaction: all of it or nothing, alone among writers from its beginning. Nothing slow belongs inside.

        Raises StoreFullError when the disk is full, BusyError when the guard refuses it, and for a row that refers to
        one which has left; UnavailableError when a server does not answer any more.
        """

    @abstractmethod
    def now(self) -> float:
        """The catalog's clock, in Unix seconds: one for all hosts, which leases and grace periods go by."""

    @abstractmethod
    def backup(self, version: int) -> None:
        """Keep a copy of the catalog as it is before migration `version`, unless there is one."""

    @abstractmethod
    def check(self) -> None:
        """Look whether the catalog itself is whole: a few passes over it. Raises CorruptionError where it is not."""

    @abstractmethod
    def accept(self) -> None:
        """Take the catalog as it is for what it should be, where it can be read and `check` says otherwise."""

    @abstractmethod
    def migrating(self, db: Transaction) -> None:
        """Called at the beginning of each migration, in its transaction. Raises CorruptionError for a catalog that is
        not what it was: `migrated` would take it as it is."""

    @abstractmethod
    def migrated(self, db: Transaction) -> None:
        """Called at the end of each migration, in its transaction."""

    @abstractmethod
    def scrub(self) -> None:
        """Leave nothing of what was deleted: in free pages, in logs, in copies from before migrations. Writes the whole
        catalog anew. Raises BusyError while others read it."""

    def ids_where(self, rows: str, predicate: str, functions: Collection[str]) -> list[str] | None:
        """Values of `key` of the rows of which a predicate of `predicates` holds, one for each row: `rows` is a SELECT
        of ours, `predicate` was let pass over its columns. None where this engine does not speak that language, or a
        string of it would be too long; raises InputError where the predicate fails on a row, or takes too long."""
        del rows, predicate, functions
        return None

    @abstractmethod
    def close(self) -> None:
        """Close this thread's handle; a later use opens it again."""

    def again(self, work: Callable[[Transaction], T]) -> T:
        """`work(db)` in a transaction, and once more in a new one when the connection is lost.

        The lost one may have been committed all the same, after which `work` must find that it is done.
        """
        for left in reversed(range(TRIES)):
            try:
                with self.write() as db:
                    return work(db)
            except UnavailableError:
                if not left:
                    raise
        raise AssertionError  # the last time returns or raises

    def named(self, name: str, **parameters: Any) -> list[Record]:
        """Rows of a stored query (`sql/`), as dicts."""
        return [dict(row) for row in self.rows(sql.query(name, self.dialect), parameters)]

    def migrate(self) -> None:
        """Bring the schema up to date. Raises CatalogVersionError for a newer catalog or an edited migration, BusyError
        while somebody of an older version may be at work."""
        known = sql.migrations(self.dialect)
        if not self.read_only:
            with self.write() as db:
                db.execute(self.migrations_table)
        applied = {row["version"]: row["sha256"] for row in self.rows("SELECT version, sha256 FROM schema_migrations")}
        if applied and max(applied) > known[-1].version:
            raise CatalogVersionError(
                f"{self.place} was written by a newer gradsift (schema {max(applied)}; this one knows "
                f"{known[-1].version}). Upgrade: pip install -U gradsift."
            )
        for migration in known:
            if migration.version not in applied:
                if self.read_only:
                    raise CatalogVersionError(
                        f"{self.place} was written by an older gradsift and is read only here: open it once where it "
                        "can be written to (`gradsift status`), which brings it up to date"
                    )
                if applied:
                    self.backup(migration.version)
                self._apply(migration, first=not applied)
            elif applied[migration.version] != digest_text(migration.text):
                raise CatalogVersionError(
                    f"migration {migration.name} differs from the one that {self.place} was made with. "
                    "Install an unmodified gradsift."
                )

    def _apply(self, migration: sql.Migration, *, first: bool) -> None:
        with self.write() as db:
            if db.one("SELECT 1 FROM schema_migrations WHERE version=?", (migration.version,)):
                return  # another process was faster
            if not first:
                self._require_idle(db)
            self.migrating(db)
            db.script(migration.text)
            db.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, digest_text(migration.text), db.now()),
            )
            self.migrated(db)

    def _require_idle(self, db: Transaction) -> None:
        """An older version that goes on would write what the migration made otherwise, and its seals would not fit."""
        if busy := holders.at_work(db.rows(holders.LEASES), db.now()):
            raise BusyError(
                f"{self.place} was written by an older gradsift, and something is still working on it ({min(busy)}): "
                "it is brought up to date when that has ended. End every process of the older version first"
            )


def parts(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """The values in order, `size` at a time: as many as one `IN (…)` takes."""
    return (values[start : start + size] for start in range(0, len(values), size))


def marks(values: Sequence[object]) -> str:
    """`?, ?, …`, one for each value: the inside of an `IN (…)`."""
    return ", ".join("?" * len(values))
