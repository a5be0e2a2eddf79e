"""Giving numbers to what runs made (`datastore/versions.py` says what they are and reads them).

Numbers are given once, by whoever asks first after a run, in the order in which runs ended; stores of older versions
get theirs in the same way. Cost, of a run: one pass over what it made and what the version before it holds.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gradsift.datastore import runs
from gradsift.datastore.engine import Row, Transaction
from gradsift.datastore.identity import canonical_json, digest_file, digest_ids, fingerprint
from gradsift.datastore.runs import Json, Moved, Run
from gradsift.datastore.store import Store

DELETED = "deleted since"  # what rows count as whose examples are gone
HELD = (  # versions with what they hold, which is null where it was pruned
    "SELECT v.*, coalesce(d.void, s.void) AS void, coalesce(d.dataset_id, s.selection_id) AS content "
    "FROM version AS v LEFT JOIN dataset AS d USING (dataset_id) LEFT JOIN selection AS s USING (selection_id) "
)


@dataclass(frozen=True)
class _Made:
    """What a run made, or what stands for it: its number in the catalog, and what tells it from another."""

    kind: str
    name: str
    content: int
    digest: str
    identity: str
    rows: int
    export: str | None = None
    spec: str = "{}"  # of a selection


def catch_up(store: Store) -> None:
    """Give numbers to what finished runs made, where they have none. Safe to call at any time and from several
    processes; each run is one transaction."""
    waiting = store.catalog.rows(
        "SELECT run_id FROM run WHERE finished IS NOT NULL AND numbered=0 ORDER BY finished, run_id"
    )
    for row in waiting:
        run = runs.get(store, row["run_id"])
        _record(store, run, [*_pool_of(store, run), *_chosen_of(store, run)], done=True)
    _record_stand_ins(store)


def _pool_of(store: Store, run: Run) -> Iterator[_Made]:
    number = run.summary.get("ingest", {}).get("pool", {}).get("used_dataset_id")
    row = store.catalog.one("SELECT * FROM dataset WHERE dataset_id=?", (number,))
    if row is not None and row["void"] is not None and _has_number(store, "dataset_id", number):
        left = _pool_left(store, row["name"], number)  # a later run's, on what is left of the pool
        yield from [] if left is None else [left]
    elif row is not None:
        digest = row["digest"].rpartition(" ")[2]
        yield _Made("pool", row["name"], row["dataset_id"], digest, fingerprint(["pool", digest]), row["rows"])


def _chosen_of(store: Store, run: Run) -> Iterator[_Made]:
    for part, kind in (("selections", "selection"), ("mixtures", "mixture")):
        for made in run.summary.get(part, ()):
            row = _recorded(store, made, "mixture" if kind == "mixture" else made["target"])
            void = row is not None and row["void"] is not None
            if row is not None and not (void and _has_number(store, "selection_id", row["selection_id"])):
                yield _of_selection(store, row, run, made.get("export"))


def _has_number(store: Store, column: str, content: int) -> bool:
    return store.catalog.one(f"SELECT 1 FROM version WHERE {column}=?", (content,)) is not None


def _recorded(store: Store, made: Json, target: str) -> Row | None:
    """The selection of a run's report; the newest of its digest where an older run notes no number."""
    return store.catalog.one(
        "SELECT * FROM selection WHERE name=? AND target=? AND digest=? "
        "ORDER BY selection_id = coalesce(?, 0) DESC, selection_id DESC LIMIT 1",
        (made["name"], target, made["digest"], made.get("selection_id")),
    )


def _of_selection(store: Store, row: Row, run: Run, export: str | None = None) -> _Made:
    resolved = run.recipes.resolved
    decided = [run.recipes.written, resolved.get("export"), resolved.get("seed")]
    kind = "mixture" if row["target"] == "mixture" else "selection"
    size = store.catalog.one(
        "SELECT coalesce(sum(copies), 0) AS n FROM selection_item WHERE selection_id=?", (row["selection_id"],)
    )
    identity = fingerprint([kind, row["digest"], row["spec"], decided])
    return _Made(
        kind, row["name"], row["selection_id"], row["digest"], identity, size["n"] if size else 0, export, row["spec"]
    )


def _record(store: Store, run: Run, made: list[_Made], *, done: bool) -> None:
    """Number what a run made, or confirm what is there, in one transaction."""
    compared = [(one, before := _newest(store, one), _change(store, before, one)) for one in made]
    with store.catalog.write() as db:
        if done and not db.execute("UPDATE run SET numbered=1 WHERE run_id=? AND numbered=0", (run.run_id,)):
            return  # another process was faster
        column = "dataset_id" if made and made[0].kind == "pool" else "selection_id"
        if not done and db.one(f"SELECT 1 FROM version WHERE {column}=?", (made[0].content,)):
            return
        for one, before, change in compared:
            last = db.one(
                "SELECT number FROM version WHERE kind=? AND name=? ORDER BY number DESC LIMIT 1", (one.kind, one.name)
            )
            number = int(last["number"]) if last else 0
            if before is None or before["identity"] != one.identity or before["void"] is not None:
                number += 1
                _insert(db, run.run_id, one, number, change)
            _note(db, run, one, number)


def _newest(store: Store, made: _Made) -> Row | None:
    return store.catalog.one(
        f"{HELD} WHERE v.kind=? AND v.name=? ORDER BY v.number DESC LIMIT 1",
        (made.kind, made.name),
    )


def _insert(db: Transaction, run_id: int, made: _Made, number: int, change: Json) -> None:
    pool = made.kind == "pool"
    db.execute(
        "INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (made.kind, made.name, number, run_id, made.identity, made.digest, made.content if pool else None,
         None if pool else made.content, made.rows, canonical_json(change)),
    )  # fmt: skip


def _note(db: Transaction, run: Run, made: _Made, number: int) -> None:
    manifest, made_by = _manifest(run, made)
    db.execute(
        "INSERT INTO run_version VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (run.run_id, made.kind, made.name, number, made.export, manifest, made_by),
    )


def _manifest(run: Run, made: _Made) -> tuple[str | None, str | None]:
    """(sha256, programs) of the manifest where a run exported, if it is still that run's."""
    path = Path(made.export or "") / "manifest.json"
    if made.export is None or not path.is_file():
        return None, None
    try:
        manifest = json.loads(path.read_text("utf-8"))
        same = manifest["lineage"] == json.loads(made.spec) and manifest["recipe"] == run.recipes.written
        same = same and manifest["selection"]["digest"] == made.digest
        return (digest_file(path), canonical_json(manifest["versions"])) if same else (None, None)
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _change(store: Store, before: Row | None, made: _Made) -> Json:
    """Rows that came and left since the version before."""
    if before is None or before["content"] is None:
        return {}
    had, has = _rows(store, made.kind, before["content"]), _rows(store, made.kind, made.content)
    came, left = _missing(has, had), _missing(had, has)
    lost = before["rows"] - sum(had.values())
    if lost:
        left[DELETED] += lost
    moved = [Moved(source, came[source], left[source]) for source in {**came, **left}]
    moved.sort(key=lambda line: (-line.came - line.left, line.source))
    return {
        "before": before["number"],
        "came": sum(came.values()),
        "left": sum(left.values()),
        "by_source": [asdict(line) for line in moved],
    }


def _rows(store: Store, kind: str, content: int) -> Mapping[tuple[str, str], int]:
    """{(example, source): rows} of a dataset or selection."""
    if kind == "pool":
        text = (
            "SELECT e.example_id, e.source, 1 AS copies FROM dataset_member AS m JOIN example AS e USING (example_id) "
            "WHERE m.dataset_id=?"
        )
    else:
        text = (
            "SELECT i.example_id, coalesce(i.source, e.source) AS source, i.copies FROM selection_item AS i "
            "JOIN example AS e USING (example_id) WHERE i.selection_id=?"
        )
    return {(row["example_id"], row["source"]): row["copies"] for row in store.catalog.rows(text, (content,))}


def _missing(these: Mapping[tuple[str, str], int], those: Mapping[tuple[str, str], int]) -> Counter[str]:
    """Rows of `these` that are not in `those`, by the source that they count as here; a change of source is none."""
    other = {example: copies for (example, _), copies in those.items()}
    found: Counter[str] = Counter()
    for (example, source), copies in these.items():
        if (more := copies - other.get(example, 0)) > 0:
            found[source] += more
    return found


def _record_stand_ins(store: Store) -> None:
    """Number what stands for versions of which examples were deleted: the same without those, under the same recipe."""
    void = store.catalog.rows(
        f"{HELD} WHERE coalesce(d.void, s.void) IS NOT NULL ORDER BY v.kind, v.name, v.number DESC"
    )
    newest = {(row["kind"], row["name"]): row for row in reversed(void)}
    for (kind, name), row in newest.items():
        later = store.catalog.one(
            "SELECT 1 FROM version WHERE kind=? AND name=? AND number > ?", (kind, name, row["number"])
        )
        if later:
            continue  # another was made since
        run = runs.get(store, row["run_id"])
        made = _pool_left(store, name, row["content"]) if kind == "pool" else _selection_left(store, row, run)
        if made is not None:
            _record(store, run, [made], done=False)


def _pool_left(store: Store, name: str, void: int) -> _Made | None:
    """What was recorded as standing for a void pool."""
    members = store.catalog.rows(
        "SELECT example_id, subtask FROM dataset_member WHERE dataset_id=? ORDER BY example_id", (void,)
    )
    digest = digest_ids(f"{member['example_id']}\t{member['subtask']}" for member in members)
    row = store.catalog.one(
        "SELECT * FROM dataset WHERE role='pool' AND name=? AND digest=? AND void IS NULL", (name, digest)
    )
    if row is None:
        return None
    return _Made("pool", row["name"], row["dataset_id"], digest, fingerprint(["pool", digest]), row["rows"])


def _selection_left(store: Store, void: Row, run: Run) -> _Made | None:
    row = store.catalog.one(
        "SELECT * FROM selection WHERE name=? AND (target='mixture') = ? AND selection_id > ? AND void IS NULL "
        "ORDER BY selection_id DESC LIMIT 1",
        (void["name"], void["kind"] == "mixture", void["content"]),
    )
    if row is None or _has_number(store, "selection_id", row["selection_id"]):
        return None
    mine, its = (
        [(item["example_id"], item["copies"]) for item in store.catalog.rows(
            "SELECT example_id, copies FROM selection_item WHERE selection_id=? ORDER BY rank", (number,)
        )]
        for number in (row["selection_id"], void["content"])
    )  # fmt: skip
    return _of_selection(store, row, run) if its in (mine, []) else None
