"""Targets: what lies in a store, damaged, or forged by who can write its catalog, too."""

import io
import shutil
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz import places
from fuzz.drive import target

from gradsift.datastore import (
    ann,
    attributes,
    checkpoints,
    choices,
    examples,
    features,
    runs,
    selections,
    signals,
    versions,
    where,
)  # fmt: skip
from gradsift.datastore.ann import Plan
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.maintenance import verify
from gradsift.datastore.search import neighbours
from gradsift.datastore.selects import query_sql
from gradsift.datastore.store import Store

DIMS = 8


def _seeds(kind: str):
    return lambda: [places.bytes_of(name) for _, name in places.shards(kind)[:2]]


@target("examples", _seeds("examples"), "PAR1", "example_id", "messages", "role")
def of_examples(data: bytes) -> None:
    """A forged shard of examples."""
    store, (shard, _) = places.old_store(), places.shards("examples")[0]
    ids = [row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example WHERE shard_id=?", (shard,))]
    with places.forged(shard, data):
        _each(lambda: examples.get_messages(store, ids), lambda: list(examples.read_groups(store, shard)),
              lambda: examples.read_shard(store, shard), lambda: query_sql(store, "select text from examples"))  # fmt: skip


@target("features", _seeds("features"), "ARROW1", "gradsift.space", "vector", "scale", "norm")
def of_features(data: bytes) -> None:
    """A forged shard of gradient rows."""
    store, (shard, _) = places.old_store(), places.shards("features")[0]
    (unit,) = store.catalog.rows("SELECT space_id FROM unit WHERE shard_id=?", (shard,))
    space = int(unit["space_id"])
    with places.forged(shard, data):
        _each(lambda: [block.raw() for block in features.read(store, space)], lambda: list(signals.tables(store, space, ["loss"])),
              lambda: neighbours(store, space, np.ones((1, 512), np.float32), 3), lambda: features.modules_of(store, space),
              lambda: query_sql(store, "select * from signals"))  # fmt: skip


@target("scores", _seeds("scores"), "PAR1", "example_id", "score", "loss_mask")
def of_scores(data: bytes) -> None:
    """A forged table of a selection's scores."""
    store = places.old_store()
    (row,) = store.catalog.rows(
        "SELECT selection_id, scores_shard FROM selection WHERE scores_shard IS NOT NULL ORDER BY 1 LIMIT 1"
    )
    chosen = selections.by_number(store, row["selection_id"])
    with places.forged(row["scores_shard"], data):
        _each(lambda: selections.details(store, chosen), lambda: choices.columns(store, chosen.selection_id),
              lambda: choices.mask_of(store, chosen.selection_id, chosen.example_ids[0]),
              lambda: query_sql(store, "select * from scores"), lambda: selections.plan(store, chosen))  # fmt: skip


@target("checkpoint", _seeds("checkpoint"), "F32", "adapter/", "exp_avg/", "data_offsets")
def of_checkpoint(data: bytes) -> None:
    """A forged checkpoint."""
    store = places.old_store()
    (row,) = store.catalog.rows("SELECT warmup, shard_id FROM checkpoint ORDER BY 1 LIMIT 1")
    with places.forged(row["shard_id"], data):
        checkpoints.load(store, checkpoints.listed(store, row["warmup"])[0])


@target("attribute", lambda: [_lengths()], "PAR1", "example_id", "n")
def of_attribute(data: bytes) -> None:
    """A forged side file of a shard of examples."""
    store, spec = places.old_store(), {"kind": "fuzz"}
    (dataset,) = store.catalog.rows("SELECT min(dataset_id) AS n FROM dataset")

    def compute(chats: list[Messages]) -> dict[str, pa.Array]:
        return {"n": pa.array([len(chat) for chat in chats])}

    for _ in attributes.attribute(store, spec, dataset["n"], compute):
        pass
    (row,) = store.catalog.rows(
        "SELECT shard_id FROM attribute WHERE spec=? ORDER BY of_shard LIMIT 1", (fingerprint(spec),)
    )
    with places.forged(row["shard_id"], data):
        for _ in attributes.attribute(store, spec, dataset["n"], compute):
            pass


@cache
def _lengths() -> bytes:
    store, sink = places.old_store(), io.BytesIO()
    (first,) = store.catalog.rows("SELECT min(shard_id) AS n FROM shard WHERE kind='examples'")
    ids = [
        row["example_id"]
        for row in store.catalog.rows("SELECT example_id FROM example WHERE shard_id=? ORDER BY row", (first["n"],))
    ]
    pq.write_table(pa.table({"example_id": ids, "n": [2] * len(ids)}), sink)
    return sink.getvalue()


@target("damaged", _seeds("features"))
def damaged_shard(data: bytes) -> None:
    """A damaged shard, whose digest the catalog has: told, whatever was changed."""
    store, (shard, name) = places.old_store(), places.shards("features")[2]
    original = places.bytes_of(name)
    (store.root / name).write_bytes(data)
    try:
        with Store(store.root) as again, again.open(shard) as file:
            file.read()
        assert data == original, "a damaged file was read"
    finally:
        (store.root / name).write_bytes(original)


def _rows() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(40, DIMS)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PLANS = [Plan(kind, 4 if kind in ann.IVF else 0, 40, 0) for kind in ann.KINDS]


@cache
def _indexes() -> list[bytes]:
    made = []
    for number, plan in enumerate(PLANS):
        index, sink = ann.make(plan, DIMS, _rows()), io.BytesIO()
        ann.add(index, plan.kind, _rows())
        ann.write(index, sink)
        made.append(bytes([number]) + sink.getvalue())
    return made


@target("index", _indexes, "IxFI", "IwFl", "IwSq", "IHNf", "ilar")
def index(data: bytes) -> None:
    """A forged index; its first byte says of which kind."""
    plan = PLANS[(data or b"\0")[0] % len(PLANS)]
    found = ann.read(iter([data[1:]]), plan, DIMS, 40, len(data) - 1)
    ann.candidates(found, plan.kind, _rows()[:2], 5, 4)


@cache
def _catalog() -> bytes:
    store = places.old_store()
    store.catalog.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return places.bytes_of("catalog.sqlite")


@target("catalog", lambda: [_catalog()], "SQLite format 3", "CREATE TABLE", "example", "shard")
def catalog(data: bytes) -> None:
    """A damaged or forged catalog."""
    folder = places.folder() / "catalog"
    shutil.rmtree(folder, ignore_errors=True)
    places.file("catalog/catalog.sqlite", data)
    with Store(folder) as store:
        _ask(store)


def _ask(store: Store) -> None:
    """What commands that only look ask of a store; each on its own, since the first that is refused ends a command."""
    _each(lambda: [run.result for run in runs.finished(store)], lambda: versions.log(store), lambda: choices.choices(store),
          lambda: [selections.details(store, one) for one in selections.newest(store)], lambda: where.roles(store),
          lambda: store.frame("runs").collect(), lambda: store.neighbours(np.ones(512, np.float32)), lambda: verify(store))  # fmt: skip


def _each(*calls) -> None:
    for call in calls:
        try:
            call()
        except GradsiftError:  # the next is asked all the same
            continue


COLUMNS = (("run", "summary", "run_id"), ("run", "recipe", "run_id"), ("selection", "spec", "selection_id"),
           ("feature_space", "spec", "space_id"), ("version", "change", "number"))  # fmt: skip


@cache
def _texts() -> list[bytes]:
    store = places.old_store()
    versions.log(store)  # numbers what older runs made
    return [bytes([k]) + store.catalog.rows(f"SELECT {column} AS t FROM {table} ORDER BY {key} LIMIT 1")[0]["t"].encode()
            for k, (table, column, key) in enumerate(COLUMNS)]  # fmt: skip


@target("catalog-json", _texts, "null", "[]", "{}", "rows", "space_id", "digest", "ingest", "pool", "spec")
def catalog_json(data: bytes) -> None:
    """A forged value of the catalog that holds JSON; its first byte says which."""
    store = places.old_store()
    number = (data or b"\0")[0] % len(COLUMNS)
    table, column, key = COLUMNS[number]
    (old,) = store.catalog.rows(f"SELECT {key} AS k, {column} AS t FROM {table} ORDER BY {key} LIMIT 1")
    change = f"UPDATE {table} SET {column}=? WHERE {key}=?"
    with store.catalog.write() as db:
        db.execute(change, (data[1:].decode("utf-8", "replace"), old["k"]))
    try:
        _each(lambda: [run.result for run in runs.finished(store)], lambda: versions.log(store), lambda: runs.last_run(store).result,
              lambda: [selections.plan(store, one) for one in selections.newest(store)], lambda: where.roles(store),
              lambda: store.neighbours(np.ones(512, np.float32)), lambda: store.frame("runs").collect())  # fmt: skip
    finally:
        with store.catalog.write() as db:
            db.execute(change, (old["t"], old["k"]))
