"""Marks: which examples a screening leaves out, why, and for which other example. The examples themselves stay."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradsift.datastore import tombstones
from gradsift.datastore.engine import Row
from gradsift.datastore.engine import marks as placeholders
from gradsift.datastore.identity import Spec, canonical_json
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class Mark:
    """One example left out: `twin` is what it repeats, `similarity` is between 0 and 1 as the reason measures it."""

    example_id: str
    reason: str
    twin: str
    similarity: float


def find(store: Store, spec: Spec) -> list[Mark] | None:
    """Marks of the screening with exactly this spec, sorted by example, or None when it has not been done."""
    row = store.catalog.one("SELECT screening_id FROM screening WHERE spec=?", (canonical_json(spec),))
    return None if row is None else of_screening(store, row["screening_id"])


def save(store: Store, spec: Spec, marks: Iterable[Mark]) -> list[Mark]:
    """Record a screening and its marks in one transaction; the same spec again keeps the first. Marks
    that name an example which was deleted meanwhile are left out."""
    text = canonical_json(spec)
    with store.catalog.write() as db:
        inserted = db.one(
            "INSERT INTO screening (spec, created) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING screening_id",
            (text, db.now()),
        )
        if inserted:
            new, marks = inserted["screening_id"], list(marks)
            gone = tombstones.among(db, [name for mark in marks for name in (mark.example_id, mark.twin)])
            db.executemany(
                "INSERT INTO mark VALUES (?, ?, ?, ?, ?)",
                (
                    (new, mark.example_id, mark.reason, mark.twin, mark.similarity)
                    for mark in marks
                    if not {mark.example_id, mark.twin} & gone
                ),
            )
        row = inserted or db.rows("SELECT screening_id FROM screening WHERE spec=?", (text,))[0]
    return of_screening(store, row["screening_id"])


def number(store: Store, spec: Spec) -> int:
    """Number of a recorded screening, 0 for none."""
    row = store.catalog.one("SELECT screening_id FROM screening WHERE spec=?", (canonical_json(spec),))
    return int(row["screening_id"]) if row else 0


def of_pool(store: Store, digest: str) -> list[int]:
    """Numbers of the screenings of a pool with this digest, the newest first."""
    rows = store.catalog.rows("SELECT screening_id, spec FROM screening ORDER BY screening_id DESC")
    return [int(row["screening_id"]) for row in rows if json.loads(row["spec"]).get("pool") == digest]


def of_screening(store: Store, screening_id: int) -> list[Mark]:
    """Marks of one screening, sorted by example."""
    rows = store.catalog.rows(
        "SELECT example_id, reason, twin, similarity FROM mark WHERE screening_id=? ORDER BY example_id",
        (screening_id,),
    )
    return [_mark(row) for row in rows]


def counts(store: Store, screenings: Sequence[int]) -> dict[str, int]:
    """{reason: examples} of some screenings, the most first."""
    if not screenings:
        return {}
    rows = store.catalog.rows(
        f"SELECT reason, count(*) AS n FROM mark WHERE screening_id IN ({placeholders(screenings)}) "
        "GROUP BY reason ORDER BY n DESC, reason",
        tuple(screenings),
    )
    return {row["reason"]: int(row["n"]) for row in rows}


def page(store: Store, screenings: Sequence[int], reason: str, first: int, count: int) -> list[Mark]:
    """Marks of some screenings for one reason from a place on, the least similar first, then by example."""
    if not screenings:
        return []
    rows = store.catalog.rows(
        f"SELECT example_id, reason, twin, similarity FROM mark WHERE screening_id IN ({placeholders(screenings)}) "
        "AND reason=? ORDER BY similarity, example_id LIMIT ? OFFSET ?",
        (*screenings, reason, count, first),
    )
    return [_mark(row) for row in rows]


def of_example(store: Store, screenings: Sequence[int], example_id: str, count: int) -> list[Mark]:
    """Marks of some screenings that leave an example out or name it as the twin: its own first, then the most
    similar."""
    if not screenings:
        return []
    rows = store.catalog.rows(
        f"SELECT example_id, reason, twin, similarity FROM mark WHERE screening_id IN ({placeholders(screenings)}) "
        "AND (example_id=? OR twin=?) ORDER BY example_id=? DESC, similarity DESC, example_id LIMIT ?",
        (*screenings, example_id, example_id, example_id, count),
    )
    return [_mark(row) for row in rows]


def _mark(row: Row) -> Mark:
    return Mark(row["example_id"], row["reason"], row["twin"], row["similarity"])
