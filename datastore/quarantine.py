"""Quarantine: rows that were refused, by the dataset that they were read for.

A reading of a dataset has a number. What it refuses is noted as it goes, and when it has come to its end, entries of
that dataset which it did not note leave: rows that are good now, lines and files that are not there any more. Killed in
between, nothing is lost: entries of the reading before it are still there, and the next reading starts over.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

from gradsift.datastore import files, tombstones
from gradsift.datastore.engine import Parameters, Record
from gradsift.datastore.examples import BadRow
from gradsift.datastore.store import Store

HIDDEN = "its text was deleted"
PAGE = 2_000  # entries that are read at once


@dataclass(frozen=True)
class Reading:
    """One reading of a dataset: `role` and `dataset` are its own, `recipe` names the recipe that it is of."""

    recipe: str
    role: str
    dataset: str
    number: int = 0


@dataclass(frozen=True)
class Entry:
    """A refused row as it is shown. Of a row that was written by an older version, role and dataset are empty."""

    role: str
    dataset: str
    file: str
    line: int
    source: str
    reason: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class Asked:
    """Which entries are wanted: None is any. `file` is a whole path, or the end of one after a slash."""

    source: str | None = None
    reason: str | None = None
    file: str | None = None


SHOWN = [field.name for field in fields(Entry)]
ANY = Asked()


def begin(store: Store, recipe: str, role: str, dataset: str) -> Reading:
    """A new reading of a dataset."""
    newest = store.catalog.one("SELECT coalesce(max(reading), 0) AS n FROM quarantine")
    return Reading(recipe, role, dataset, (newest["n"] if newest else 0) + 1)


def put(store: Store, reading: Reading, rows: Sequence[BadRow]) -> None:
    """Record refused rows; the same file and line again replaces the older entry. An excerpt that was deleted stays
    out."""
    digests = [tombstones.of_excerpt(row.excerpt) for row in rows]
    key = (reading.recipe, reading.role, reading.dataset)
    with store.catalog.write() as db:
        deleted = tombstones.among(db, digests)
        rows = [
            replace(row, excerpt="", detail=HIDDEN) if digest in deleted else row
            for row, digest in zip(rows, digests, strict=True)
        ]
        db.executemany(
            "INSERT INTO quarantine (recipe, role, dataset, file, line, source, reason, detail, excerpt, reading) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (recipe, role, dataset, file, line) DO UPDATE SET "
            "source=excluded.source, reason=excluded.reason, detail=excluded.detail, excerpt=excluded.excerpt, "
            "reading=excluded.reading",
            (
                (*key, row.file, row.line, row.source, row.reason, row.detail, row.excerpt, reading.number)
                for row in rows
            ),
        )
    files.failpoint("refused")


def end(store: Store, reading: Reading, read: Collection[str]) -> None:
    """Take out what is no longer true of a dataset that was read to its end, in one transaction: its entries of earlier
    readings, and of the files that were `read` those of which nobody knows the dataset."""
    with store.catalog.write() as db:
        db.execute(
            "DELETE FROM quarantine WHERE recipe=? AND role=? AND dataset=? AND reading<>?",
            (reading.recipe, reading.role, reading.dataset, reading.number),
        )
        db.executemany("DELETE FROM quarantine WHERE role='' AND file=?", ((file,) for file in read))


def keep(store: Store, recipe: str, datasets: Collection[tuple[str, str]]) -> None:
    """Take out entries of a recipe's datasets, (role, name), that it does not have any more."""
    known = store.catalog.rows("SELECT DISTINCT role, dataset FROM quarantine WHERE recipe=? AND role<>''", (recipe,))
    gone = [(row["role"], row["dataset"]) for row in known if (row["role"], row["dataset"]) not in datasets]
    if gone:
        with store.catalog.write() as db:
            db.executemany(
                "DELETE FROM quarantine WHERE recipe=? AND role=? AND dataset=?", ((recipe, *one) for one in gone)
            )


def entries(store: Store, asked: Asked = ANY, limit: int | None = None) -> Iterator[Entry]:
    """Entries by file and line, read some thousand at a time; at most `limit`. What recipes that share a dataset say
    alike is one."""
    return islice(_entries(store, asked), limit)


def _entries(store: Store, asked: Asked) -> Iterator[Entry]:
    where, values = _where(asked)
    key = "file, line, role, dataset, recipe"
    last: Sequence[object] = ()
    before: Entry | None = None
    while True:
        after = f" AND ({key}) > (?, ?, ?, ?, ?)" if last else ""
        rows = store.catalog.rows(
            f"SELECT * FROM quarantine WHERE {where}{after} ORDER BY {key} LIMIT {PAGE}", (*values, *last)
        )
        for row in rows:
            entry = Entry(**{name: row[name] for name in SHOWN})
            if entry != before:
                yield entry
            before = entry
        if len(rows) < PAGE:
            return
        last = [rows[-1][name] for name in key.split(", ")]


def summary(store: Store, asked: Asked = ANY) -> list[Record]:
    """[{role, dataset, source, reason, rows, first}]: how many entries there are of each kind, the most first, and
    where the first is."""
    where, values = _where(asked)
    rows = store.catalog.rows(
        f"SELECT role, dataset, source, reason, count(*) AS rows, min(file) AS file FROM "
        f"(SELECT DISTINCT {', '.join(SHOWN)} FROM quarantine WHERE {where}) AS o "
        "GROUP BY role, dataset, source, reason ORDER BY rows DESC, role, dataset, source, reason",
        values,
    )
    told = []
    for row in rows:
        one = (row["file"], row["source"], row["reason"], row["role"], row["dataset"])
        first = store.catalog.one(
            "SELECT min(line) AS n FROM quarantine WHERE file=? AND source=? AND reason=? AND role=? AND dataset=?", one
        )
        told.append({**dict(row), "first": f"{row['file']}:{first['n'] if first else 0}"})
    return [{name: value for name, value in row.items() if name != "file"} for row in told]


def _where(asked: Asked) -> tuple[str, Parameters]:
    terms, values = ["1=1"], list[str]()
    for column in ("source", "reason"):
        if (value := getattr(asked, column)) is not None:
            terms.append(f"{column}=?")
            values.append(value)
    if asked.file is not None:
        terms.append("(file=? OR substr(file, length(file) - length(?) + 1) = ?)")
        values += [asked.file, f"/{asked.file}", f"/{asked.file}"]
    return " AND ".join(terms), tuple(values)
