"""The catalog's SQL: numbered migrations and named read-only queries, as plain files.

    queries/<name>.sql             a query that every dialect understands
    <dialect>/NNNN_<name>.sql      a migration
    <dialect>/queries/<name>.sql   the same query where this dialect needs another text

Nothing here but loading a file by name; `datastore.engine` runs them.
"""

from importlib.resources import files
from typing import NamedTuple


class Migration(NamedTuple):
    """One numbered migration file."""

    version: int
    name: str
    text: str


def migrations(dialect: str = "sqlite") -> list[Migration]:
    """All migrations of a dialect, oldest first."""
    numbered = [f for f in (files(__package__) / dialect).iterdir() if f.name.endswith(".sql")]
    return sorted(Migration(int(f.name[:4]), f.name, f.read_text("utf-8")) for f in numbered)


def query(name: str, dialect: str = "sqlite") -> str:
    """The dialect's own text of a stored query, else the shared one. Raises FileNotFoundError for an unknown name."""
    own = files(__package__) / dialect / "queries" / f"{name}.sql"
    shared = files(__package__) / "queries" / f"{name}.sql"
    return (own if own.is_file() else shared).read_text("utf-8")


def query_names(dialect: str = "sqlite") -> list[str]:
    """Names of all stored queries of a dialect, sorted."""
    folders = (files(__package__) / "queries", files(__package__) / dialect / "queries")
    names = {f.name[:-4] for folder in folders if folder.is_dir() for f in folder.iterdir() if f.name.endswith(".sql")}
    return sorted(names)
