"""Selections and mixtures to look at, a part at a time: none of these functions reads all rows of one into memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from gradsift.datastore import versions
from gradsift.datastore.engine import Row
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.selections import MASK
from gradsift.datastore.store import Store

_LISTED = (
    "SELECT s.selection_id, s.name, s.target, s.method, s.digest, s.created, s.void, "
    "(SELECT max(number) FROM version AS v WHERE v.selection_id = s.selection_id) AS number, "
    "(SELECT count(*) FROM selection_item AS i WHERE i.selection_id = s.selection_id) AS examples, "
    "(SELECT coalesce(sum(copies), 0) FROM selection_item AS i WHERE i.selection_id = s.selection_id) AS rows "
    "FROM selection AS s"
)


@dataclass(frozen=True)
class Choice:
    """A selection or mixture without its rows. `version` is NAME@NUMBER, '' where no run gave it a number; `void` says
    why it does not hold any more; `created` is when it was last made or found again (UTC, seconds since 1970)."""

    selection_id: int
    name: str
    target: str
    method: str
    digest: str
    version: str
    examples: int
    rows: int
    created: float
    void: str | None

    @property
    def reference(self) -> str:
        """What names this one and no other: its version, else NAME@DIGEST."""
        return self.version or f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class Item:
    """A chosen example; source and licence as they were when it was chosen."""

    rank: int
    example_id: str
    score: float | None
    copies: int
    source: str
    licence: str | None
    chars: int


@dataclass(frozen=True)
class Holding:
    """A selection that an example is in, and where in it."""

    selection_id: int
    name: str
    target: str
    method: str
    version: str
    rank: int
    score: float | None
    copies: int


def choices(store: Store) -> list[Choice]:
    """All selections and mixtures, those that were made last first. Cost: one pass over their rows in the catalog."""
    catch_up(store)
    rows = store.catalog.rows(f"{_LISTED} ORDER BY s.created DESC, s.selection_id DESC")
    return [_choice(row) for row in rows]


def choice(store: Store, selection_id: int) -> Choice:
    """One of them by its number in the catalog (`selections.number_of`)."""
    catch_up(store)
    (row,) = store.catalog.rows(f"{_LISTED} WHERE s.selection_id=?", (selection_id,))
    return _choice(row)


def items(store: Store, selection_id: int, first: int, count: int) -> list[Item]:
    """Rows of a selection from a rank on, in rank order."""
    rows = store.catalog.rows(
        "SELECT i.rank, i.example_id, i.score, i.copies, coalesce(i.source, e.source) AS source, e.chars, "
        "CASE WHEN i.source IS NULL THEN e.licence ELSE i.licence END AS licence "
        "FROM selection_item AS i JOIN example AS e USING (example_id) "
        "WHERE i.selection_id=? AND i.rank >= ? ORDER BY i.rank LIMIT ?",
        (selection_id, first, count),
    )
    names = ("rank", "example_id", "score", "copies", "source", "licence", "chars")
    return [Item(**{name: row[name] for name in names}) for row in rows]


def by_source(store: Store, selection_id: int) -> Mapping[str, int]:
    """{source: rows, copies counted} of a selection, the largest first, then by name."""
    rows = store.catalog.rows(
        "SELECT coalesce(i.source, e.source) AS source, sum(i.copies) AS n "
        "FROM selection_item AS i JOIN example AS e USING (example_id) WHERE i.selection_id=? "
        "GROUP BY 1 ORDER BY n DESC, 1",
        (selection_id,),
    )
    return {row["source"]: int(row["n"]) for row in rows}


def holdings(store: Store, example_id: str) -> list[Holding]:
    """The selections and mixtures that hold an example and are not void, those that were made last first."""
    rows = store.catalog.rows(
        "SELECT s.selection_id, s.name, s.target, s.method, i.rank, i.score, i.copies, "
        "(SELECT max(number) FROM version AS v WHERE v.selection_id = s.selection_id) AS number "
        "FROM selection_item AS i JOIN selection AS s USING (selection_id) "
        "WHERE i.example_id=? AND s.void IS NULL ORDER BY s.created DESC, s.selection_id DESC",
        (example_id,),
    )
    names = ("selection_id", "name", "target", "method", "rank", "score", "copies")
    return [Holding(version=_version(row), **{name: row[name] for name in names}) for row in rows]


def columns(store: Store, selection_id: int) -> list[str]:
    """Names of what a selection's method recorded of each example of its pool; [] where it recorded nothing."""
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection_id,))
    if row is None or row["scores_shard"] is None:
        return []
    with store.open(row["scores_shard"]) as file:
        return list(pq.read_schema(file).names)


def mask_of(store: Store, selection_id: int, example_id: str) -> list[bool] | None:
    """Which label tokens of an example a selection keeps in the loss, in order; None where it prunes none of them.

    Raises CorruptionError for a damaged table. Cost: a pass over two columns of the selection's table.
    """
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection_id,))
    if row is None or row["scores_shard"] is None:
        return None
    with store.open(row["scores_shard"]) as file:
        table = pq.ParquetFile(file)
        if MASK not in table.schema_arrow.names:
            return None
        for batch in table.iter_batches(columns=["example_id", MASK]):
            at = batch["example_id"].index(example_id).as_py()
            if at >= 0:
                mask: list[bool] | None = batch[MASK][at].as_py()
                return mask
    return None


def _choice(row: Row) -> Choice:
    names = ("selection_id", "name", "target", "method", "digest", "examples", "created", "void")
    return Choice(version=_version(row), rows=int(row["rows"]), **{name: row[name] for name in names})


def _version(row: Row) -> str:
    return "" if row["number"] is None else versions.label("selection", row["name"], row["number"])
