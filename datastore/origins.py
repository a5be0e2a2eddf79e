"""Where examples were read from: their places, what else stood in the rows there, and places that are no longer true.

A place is a file and a line. Its other columns (`extra`) are those of the row as it was last read; their text is
canonical JSON. A line that holds another chat by now is no place of the example any more: `drop_stale`. What a
selection's first export said is kept apart (`note_exported`), so that an old version comes out as it was.
"""

import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from gradsift.datastore.engine import Row, Transaction, marks, parts
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.store import Store


class Origin(NamedTuple):
    """A place of an example: file, line from 1, source and licence there, and other columns as JSON, None for none."""

    file: str
    line: int
    source: str
    licence: str | None
    extra: str | None


class Place(NamedTuple):
    """Where an exported row came from, as the export says: None for what is not known."""

    file: str | None
    line: int | None
    extra: str | None


def extra_text(extra: Mapping[str, Any]) -> str | None:
    """Other columns as the catalog holds them; None for none. A lone surrogate, which UTF-8 has not, becomes `?`."""
    return canonical_json(extra).encode("utf-8", "replace").decode("utf-8") if extra else None


def record(db: Transaction, places: Iterable[tuple[str, Origin]]) -> None:
    """Record places of (example, place); one that is known gets the source, licence and columns that it has now."""
    db.executemany(
        "INSERT INTO origin (example_id, file, line, source, licence, extra) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (example_id, file, line) DO UPDATE SET source=excluded.source, licence=excluded.licence, "
        "extra=excluded.extra WHERE origin.source <> excluded.source "
        "OR coalesce(origin.licence, '') <> coalesce(excluded.licence, '') "
        "OR coalesce(origin.extra, '') <> coalesce(excluded.extra, '')",
        ((name, *place) for name, place in places),
    )


def origins_of(store: Store, ids: Sequence[str]) -> dict[str, list[Origin]]:
    """{id: its places, by file and line}; without ids that have none."""
    found: dict[str, list[Origin]] = {}
    for part in parts(ids):
        rows = store.catalog.rows(
            "SELECT example_id, file, line, source, licence, extra FROM origin "
            f"WHERE example_id IN ({marks(part)}) ORDER BY example_id, file, line",
            part,
        )
        for row in rows:
            place = Origin(row["file"], row["line"], row["source"], row["licence"], row["extra"])
            found.setdefault(row["example_id"], []).append(place)
    return found


class Read:
    """Places that a reading found true, of any number of rows: 8 bytes each."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._sorted: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def add(self, example: str, file: str, line: int) -> None:
        """Note that a line holds an example."""
        self._keys.append(hash((example, file, line)))

    def has(self, example: str, file: str, line: int) -> bool:
        """Whether this was noted; wrong with a chance of one in 2^64 for each place that was."""
        if self._sorted is None or len(self._sorted) != len(self._keys):
            self._sorted = np.unique(np.array(self._keys, np.int64))
        key = hash((example, file, line))
        at = int(np.searchsorted(self._sorted, key))
        return at < len(self._sorted) and int(self._sorted[at]) == key


def drop_stale(store: Store, read: Read, covers: Callable[[str], bool]) -> int:
    """Drop places in files that were `read` again (those that it `covers`) and whose lines no longer hold the example;
    one that would have none left keeps the first. Returns how many.

    Cost: a pass over the places in the catalog, and a short transaction for each shard of examples that has stale ones.
    Killed anywhere, the rest goes with the next reading.
    """
    dropped = 0
    for shard in store.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples' ORDER BY shard_id"):
        rows = store.catalog.rows(
            "SELECT o.example_id, o.file, o.line FROM example AS e JOIN origin AS o USING (example_id) "
            "WHERE e.shard_id=? ORDER BY o.example_id, o.file, o.line",
            (shard["shard_id"],),
        )
        stale = list(_stale(rows, read, covers))
        if stale:
            with store.catalog.write() as db:
                db.executemany("DELETE FROM origin WHERE example_id=? AND file=? AND line=?", stale)
            dropped += len(stale)
    return dropped


def _stale(rows: Sequence[Row], read: Read, covers: Callable[[str], bool]) -> Iterator[tuple[str, str, int]]:
    for name, places in groupby(rows, key=lambda row: row["example_id"]):
        all_of = [(row["file"], row["line"]) for row in places]
        gone = [place for place in all_of if covers(place[0]) and not read.has(name, *place)]
        yield from ((name, *place) for place in (gone[1:] if len(gone) == len(all_of) else gone))


def note_exported(store: Store, selection: int, places: Sequence[Place]) -> None:
    """Keep what an export of a selection says of its rows, in rank order, if none did before and it is not void. Of
    100,000 rows with 120 bytes of columns each it was 29 bytes a row (docs/way-back.md)."""
    content = zlib.compress(json.dumps(places, ensure_ascii=False).encode("utf-8"), 1)
    with store.catalog.write() as db:
        db.execute(
            "INSERT INTO exported SELECT selection_id, ? FROM selection WHERE selection_id=? AND void IS NULL "
            "ON CONFLICT DO NOTHING",
            (content, selection),
        )


def exported(store: Store, selection: int) -> list[Place] | None:
    """What the first export of a selection said of its rows, in rank order; None where nothing did."""
    row = store.catalog.one("SELECT places FROM exported WHERE selection_id=?", (selection,))
    return None if row is None else [Place(*place) for place in json.loads(zlib.decompress(row["places"]))]
