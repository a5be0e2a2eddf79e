"""The catalog's SQL: numbered migrations and named read-only queries, as plain files.

Nothing here but loading a file by name; `datastore.catalog` runs them.
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
    found = [f for f in (files(__package__) / dialect).iterdir() if f.name.endswith(".sql")]
    return sorted(Migration(int(f.name[:4]), f.name, f.read_text("utf-8")) for f in found)


def query(name: str) -> str:
    """The text of `queries/<name>.sql`; raises FileNotFoundError for an unknown name."""
    return (files(__package__) / "queries" / f"{name}.sql").read_text("utf-8")


def query_names() -> list[str]:
    """Names of all stored queries, sorted."""
    found = (files(__package__) / "queries").iterdir()
    return sorted(f.name[:-4] for f in found if f.name.endswith(".sql"))
