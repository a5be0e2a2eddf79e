"""What a run settles of its recipe on the way, in its record: the layers that it chose from data."""

import json
from collections.abc import Iterator

from gradsift.datastore.identity import canonical_json
from gradsift.datastore.runs import Json
from gradsift.datastore.store import Store


def resolve(store: Store, run_id: int, resolved: Json) -> None:
    """Record a run's recipe anew, with what was settled."""
    with store.catalog.write() as db:
        db.execute("UPDATE run SET recipe=? WHERE run_id=?", (canonical_json(resolved), run_id))


def chosen_layers(store: Store) -> Iterator[tuple[Json, list[str]]]:
    """Rules by which runs, finished or not, chose the layers of their rows, and the patterns that they chose, the
    newest first."""
    for row in store.catalog.rows("SELECT recipe, written FROM run WHERE written IS NOT NULL ORDER BY run_id DESC"):
        asked, got = ((json.loads(row[k]).get("features") or {}).get("layers") for k in ("written", "recipe"))
        if isinstance(asked, dict) and isinstance(got, list):
            yield asked, got
