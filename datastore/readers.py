"""Tables of the catalog, and of the shards beside it, as Polars frames: batches with the columns that are asked for.

A reader is a function of a store and the names of columns; it gives frames that have these, and holds one at a time.
What a shard holds counts as far as the catalog lists it. Cost: one pass over what the table is made of.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from gradsift.datastore.documents import object_of
from gradsift.datastore.engine import Row
from gradsift.datastore.selections import MIXTURE
from gradsift.datastore.store import Store
from gradsift.datastore.tables import schema_of
from gradsift.datastore.where import newest_screenings

PAGE = 20_000  # rows of the catalog, at once
Frames = Iterator[pl.DataFrame]
Names = Sequence[str]
Record = Mapping[str, Any]


def of_rows(table: str, names: Names, rows: Sequence[Row | Record], **same: Any) -> pl.DataFrame:
    """Rows as a frame of a table's columns and types; `same` are values that all of them share."""
    schema = schema_of(table)
    given = {name: [row[name] for row in rows] for name in names if name not in same}
    kinds = {name: schema[name] for name in given}
    frame = pl.DataFrame(given, schema=kinds) if given else pl.DataFrame(height=len(rows))
    return frame.with_columns(pl.lit(same[name], schema[name]).alias(name) for name in names if name in same)


def pages(store: Store, listed: str, of: str, key: Sequence[str], given: Sequence[Any] = ()) -> Iterator[list[Row]]:
    """Rows of the catalog some thousand at a time: what is `listed` of a FROM clause, which may end in a WHERE that
    takes `given`; `key` are columns of it that are unique together and not null."""
    shown = ", ".join(f"{column} AS key{k}" for k, column in enumerate(key))
    names, last = ", ".join(key), list[Any]()
    joined = "AND" if " WHERE " in of else "WHERE"
    while True:
        after = f"{joined} ({names}) > ({', '.join('?' * len(key))}) " if last else ""
        rows = store.catalog.rows(
            f"SELECT {listed + ', ' if listed else ''}{shown} FROM {of} {after}ORDER BY {names} LIMIT {PAGE}",
            (*given, *last),
        )
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        last = [rows[-1][f"key{k}"] for k in range(len(key))]


def _listed(names: Names, called: Mapping[str, str]) -> str:
    return ", ".join(f"{called.get(name, name)} AS {name}" for name in names)


def origins(store: Store, names: Names) -> Frames:
    """Places of examples."""
    for rows in pages(store, _listed(names, {"id": "example_id"}), "origin", ("example_id", "file", "line")):
        yield of_rows("origins", names, rows)


def quarantine(store: Store, names: Names) -> Frames:
    """Refused rows."""
    key = ("recipe", "role", "dataset", "file", "line")
    for rows in pages(store, _listed(names, {}), "quarantine", key):
        yield of_rows("quarantine", names, rows)


def marks(store: Store, names: Names) -> Frames:
    """Marks of screenings."""
    newest = set(newest_screenings(store))
    of_catalog = [name for name in names if name not in ("screening", "newest")]
    for screening in store.catalog.rows("SELECT screening_id AS n FROM screening ORDER BY screening_id"):
        same = {"screening": screening["n"], "newest": screening["n"] in newest}
        of = "mark WHERE screening_id=?"
        for rows in pages(store, _listed(of_catalog, {"id": "example_id"}), of, ("example_id",), (screening["n"],)):
            yield of_rows("marks", names, rows, **same)


def members(store: Store, names: Names) -> Frames:
    """Members of datasets."""
    same_of = ("dataset_id", "role", "name", "version", "void")
    of_member = [name for name in names if name not in same_of]
    datasets = store.catalog.rows(
        "SELECT d.dataset_id, d.role, d.name, d.void, "
        "(SELECT max(number) FROM version AS v WHERE v.dataset_id = d.dataset_id) AS version "
        "FROM dataset AS d ORDER BY d.dataset_id"
    )
    for dataset in datasets:
        of, given = "dataset_member WHERE dataset_id=?", (dataset["dataset_id"],)
        for rows in pages(store, _listed(of_member, {"id": "example_id"}), of, ("example_id",), given):
            yield of_rows("members", names, rows, **{name: dataset[name] for name in same_of})


def choices(store: Store, *, mixtures: bool | None) -> list[dict[str, Any]]:
    """Selections, or mixtures, or (None) both: values of the columns that all their rows share, and `scores_shard`."""
    rows = store.catalog.rows(
        "SELECT s.selection_id, s.name, s.target, s.method, s.void, s.scores_shard, "
        "(SELECT max(number) FROM version AS v WHERE v.selection_id = s.selection_id) AS version "
        "FROM selection AS s ORDER BY s.selection_id"
    )
    return [dict(row) for row in rows if mixtures is None or (row["method"] == MIXTURE) == mixtures]


def _items(store: Store, names: Names, table: str, *, mixtures: bool) -> Frames:
    for choice in choices(store, mixtures=mixtures):
        of_item = [name for name in names if name not in choice]
        of, given = "selection_item WHERE selection_id=?", (choice["selection_id"],)
        for rows in pages(store, _listed(of_item, {"id": "example_id"}), of, ("rank",), given):
            yield of_rows(table, names, rows, **choice)


def selections(store: Store, names: Names) -> Frames:
    """Rows of selections."""
    yield from _items(store, names, "selections", mixtures=False)


def mixtures(store: Store, names: Names) -> Frames:
    """Rows of mixtures."""
    yield from _items(store, names, "mixtures", mixtures=True)


def versions(store: Store, names: Names) -> Frames:
    """Numbered versions, by run."""
    rows = store.catalog.rows(
        "SELECT r.run_id, v.kind, v.name, v.number AS version, CASE WHEN v.run_id = r.run_id THEN 1 ELSE 0 END AS new, "
        "v.rows, v.digest, coalesce(d.void, s.void) AS void, r.folder FROM run_version AS r "
        "JOIN version AS v USING (kind, name, number) LEFT JOIN dataset AS d USING (dataset_id) "
        "LEFT JOIN selection AS s USING (selection_id) ORDER BY r.run_id, v.kind, v.name, v.number"
    )
    yield of_rows("versions", names, [dict(row) | {"new": bool(row["new"])} for row in rows])


def of_runs(store: Store, names: Names) -> Frames:
    """Runs, one at a time: a summary may be long."""
    for number in store.catalog.rows("SELECT run_id FROM run ORDER BY run_id"):
        for row in store.catalog.rows("SELECT * FROM run WHERE run_id=?", (number["run_id"],)):
            over = row["finished"] if row["finished"] is not None else row["ended"]
            made = {
                "state": "finished" if row["finished"] is not None else row["outcome"],
                "started": utc(row["started"]),
                "finished": utc(over),
                "base": object_of(row["summary"], "`summary` of a run").get("base", "") if row["summary"] else None,
            }
            yield of_rows("runs", names, [dict(row) | made])


def arms(store: Store, names: Names) -> Frames:
    """Trainings of validations, a row for each test set; one that diverged has a row without."""
    for key in store.catalog.rows("SELECT arm_key FROM arm ORDER BY created, arm_key"):
        for row in store.catalog.rows("SELECT * FROM arm WHERE arm_key=?", (key["arm_key"],)):
            rows = list(_measured(row))
            if rows:
                yield of_rows("arms", names, rows)


def _measured(row: Row) -> Iterator[Record]:
    result, spec = json.loads(row["result"]), json.loads(row["spec"])
    if "tests" not in result:
        return  # a trial, or a run of a mixing law
    log = result.get("train") or {}
    arm = {
        "arm": row["name"], "targets": row["target"], "seed": row["seed"],
        "lr": (spec.get("training") or {}).get("lr"), "examples": result["examples"],
        "label_tokens": result["label_tokens"], "steps": log.get("steps"), "seconds": log.get("seconds"),
        "diverged": bool(result.get("diverged")), "created": utc(row["created"]),
    }  # fmt: skip
    for test, measured in (result["tests"] or {None: {}}).items():
        yield arm | {"test": test, "loss": measured.get("loss"), "score": measured.get("score")}


def utc(seconds: float | None) -> datetime | None:
    """A time of the catalog, UTC without a zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
