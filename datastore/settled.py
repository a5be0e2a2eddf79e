"""What a run settles of its recipe on the way, in its record: the layers that it chose from data."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradsift.datastore.identity import canonical_json
from gradsift.datastore.runs import Json
from gradsift.datastore.store import Store


@dataclass(frozen=True)
class Settled:
    """The rule by which a run chose the layers of its rows, the patterns that it chose, and its recipe's `targets`. Of
    a finished run also the digests of these, sorted, and its notes; `digests` is None of another."""

    rule: Json
    layers: list[str]
    targets: Json
    digests: list[str] | None
    notes: Sequence[str]


def resolve(store: Store, run_id: int, resolved: Json) -> None:
    """Record a run's recipe anew, with what was settled."""
    with store.catalog.write() as db:
        db.execute("UPDATE run SET recipe=? WHERE run_id=?", (canonical_json(resolved), run_id))


def chosen_layers(store: Store) -> Iterator[Settled]:
    """Choices of layers that runs made, finished or not, the newest first."""
    asked_for = "SELECT recipe, written, summary FROM run WHERE written IS NOT NULL ORDER BY run_id DESC"
    for row in store.catalog.rows(asked_for):
        recipe, written = json.loads(row["recipe"]), json.loads(row["written"])
        asked, got = ((one.get("features") or {}).get("layers") for one in (written, recipe))
        if isinstance(asked, dict) and isinstance(got, list):
            summary = json.loads(row["summary"]) if row["summary"] else None
            of = ((summary or {}).get("ingest") or {}).get("targets") or {}
            digests = None if summary is None else sorted(one["digest"] for one in of.values())
            yield Settled(asked, got, recipe.get("targets") or {}, digests, (summary or {}).get("notes") or ())
