"""Scores and selections in the store, and the results of validation arms and runs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from datastore.errors import InputError
from datastore.identity import canonical_json, digest_ids
from datastore.store import Store


@dataclass(frozen=True)
class Selection:
    """An ordered choice of examples; `scores` are None where the method gives none."""

    selection_id: int
    name: str
    target: str
    method: str
    digest: str
    example_ids: list[str]
    scores: list[float | None]


def save(
    store: Store,
    name: str,
    target: str,
    spec: Mapping[str, Any],
    ids: Sequence[str],
    scores: Sequence[float | None],
    all_scores: Mapping[str, float] | None = None,
) -> Selection:
    """Record a selection; the same spec again returns the one recorded first.

    `all_scores` (id → score of the whole pool) goes to a Parquet shard beside it.
    """
    text = canonical_json(spec)

    def record(db: Any, shard_id: int | None) -> bool:
        cursor = db.execute(
            "INSERT INTO selection (name, target, method, digest, spec, scores_shard, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (name, target, spec["method"], digest_ids(ids), text, shard_id, time.time()),
        )
        if not cursor.rowcount:
            return False
        db.executemany(
            "INSERT INTO selection_item VALUES (?, ?, ?, ?)",
            ((cursor.lastrowid, k, i, s) for k, (i, s) in enumerate(zip(ids, scores, strict=True))),
        )
        return True

    if all_scores is None:
        with store.catalog.write() as db:
            record(db, None)
    else:
        store.commit_file("scores", ".parquet", len(all_scores), lambda h: _write(all_scores, h), record)
    return find(store, spec) or _missing(name)


def _missing(name: str) -> Selection:
    raise InputError(f"selection {name} was not recorded")


def _write(scores: Mapping[str, float], handle: BinaryIO) -> None:
    table = pa.table({"example_id": list(scores), "score": pa.array(scores.values(), pa.float64())})
    pq.write_table(table, handle, compression="zstd", write_page_checksum=True)


def find(store: Store, spec: Mapping[str, Any]) -> Selection | None:
    """The selection with exactly this spec, or None."""
    row = store.catalog.one("SELECT * FROM selection WHERE spec=?", (canonical_json(spec),))
    return _load(store, row) if row else None


def get(store: Store, name: str, target: str | None = None) -> Selection:
    """The newest selection of a name (and target); raises InputError that lists what there is."""
    row = store.catalog.one(
        "SELECT * FROM selection WHERE name=? AND target=coalesce(?, target) ORDER BY selection_id DESC LIMIT 1",
        (name, target),
    )
    if row is None:
        names = ", ".join(str(r["name"]) for r in store.catalog.rows("SELECT DISTINCT name FROM selection"))
        raise InputError(f"no selection {name!r} in {store.root}; there are: {names or 'none'}")
    return _load(store, row)


def _load(store: Store, row: Any) -> Selection:
    items = store.catalog.rows(
        "SELECT example_id, score FROM selection_item WHERE selection_id=? ORDER BY rank",
        (row["selection_id"],),
    )
    return Selection(
        row["selection_id"],
        row["name"],
        row["target"],
        row["method"],
        row["digest"],
        [i["example_id"] for i in items],
        [i["score"] for i in items],
    )


def arm_result(store: Store, key: str) -> dict[str, Any] | None:
    """Recorded result of a validation arm, or None when it has not run."""
    row = store.catalog.one("SELECT result FROM arm WHERE arm_key=?", (key,))
    return json.loads(row["result"]) if row else None


def save_arm(store: Store, key: str, name: str, target: str, seed: int, spec: Mapping[str, Any], result: Any) -> None:
    """Record the result of a validation arm once."""
    with store.catalog.write() as db:
        db.execute(
            "INSERT INTO arm VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (key, name, target, seed, canonical_json(spec), canonical_json(result), time.time()),
        )


def start_run(store: Store, name: str, recipe: Mapping[str, Any]) -> int:
    """Record the start of a run; returns its id."""
    with store.catalog.write() as db:
        cursor = db.execute(
            "INSERT INTO run (name, recipe, started) VALUES (?, ?, ?)",
            (name, canonical_json(recipe), time.time()),
        )
    return int(cursor.lastrowid or 0)


def finish_run(store: Store, run_id: int, summary: Mapping[str, Any]) -> None:
    """Record the end of a run and its summary."""
    with store.catalog.write() as db:
        db.execute(
            "UPDATE run SET finished=?, summary=? WHERE run_id=?",
            (time.time(), canonical_json(summary), run_id),
        )


def last_run(store: Store) -> dict[str, Any]:
    """Newest run that finished (name, recipe, summary); raises InputError when there is none."""
    row = store.catalog.one("SELECT * FROM run WHERE finished IS NOT NULL ORDER BY run_id DESC LIMIT 1")
    if row is None:
        raise InputError(f"no run has finished in {store.root}; start one with `gradsift run RECIPE`")
    return {
        "name": row["name"],
        "recipe": json.loads(row["recipe"]),
        "summary": json.loads(row["summary"]),
        "seconds": row["finished"] - row["started"],
    }


def recipe_of(store: Store, selection: Selection) -> dict[str, Any]:
    """Recipe of the newest finished run that made a selection; raises InputError when there is none."""
    for row in store.catalog.rows("SELECT recipe, summary FROM run WHERE finished IS NOT NULL ORDER BY run_id DESC"):
        made = json.loads(row["summary"])["selections"]
        if any(s["name"] == selection.name and s["digest"] == selection.digest for s in made):
            recipe: dict[str, Any] = json.loads(row["recipe"])
            return recipe
    raise InputError(f"no finished run made {selection.name!r}; run its recipe again to its end")
