"""Files without examples that left the catalog: each is written anew and takes the old one's place in one commit, in
which its task leaves the plan of the deletion (`datastore/forget.py`). What of a file the catalog does not know stays
out of the new one.

Cost: reading and writing the file. Memory: its rows, of texts a row group (`groups`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradsift.datastore import groups, tombstones
from gradsift.datastore.engine import Row, Transaction
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.identity import canonical_json
from gradsift.datastore.runs import plan_as_json, plan_from_json
from gradsift.datastore.selections import PLAN, digest_of
from gradsift.datastore.store import Store, doom


def _done(db: Transaction, kind: str, number: int) -> None:
    db.execute("DELETE FROM forgetting_task WHERE kind=? AND number=?", (kind, number))


def _table(store: Store, shard_id: int) -> pa.Table:
    with store.open(shard_id) as file:
        return pq.read_table(file, page_checksum_verification=True)


def _without(table: pa.Table, keep: pa.Array) -> pa.Table:
    """The rows to keep; of columns with a dictionary, one of these rows' values alone."""
    left = table.filter(keep)
    for k, name in enumerate(left.column_names):
        if pa.types.is_dictionary(left.schema.field(name).type):
            plain = left[name].cast(left.schema.field(name).type.value_type)
            left = left.set_column(k, name, plain.dictionary_encode())
    return left


def _write(table: pa.Table, handle: BinaryIO) -> None:
    pq.write_table(table, handle, compression="zstd", write_page_checksum=True, row_group_size=groups.GROUP_ROWS)


def _examples(store: Store, shard: int) -> None:
    """A shard of examples: its texts, and the places of those that stay."""
    left = {
        row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example WHERE shard_id=?", (shard,))
    }
    if not left:
        with store.catalog.write() as db:
            beside = db.rows("DELETE FROM attribute WHERE of_shard=? RETURNING shard_id", (shard,))
            doom(db, [row["shard_id"] for row in beside])
            doom(db, [shard])
            for row in beside:
                _done(db, "attribute", row["shard_id"])
            _done(db, "examples", shard)
        store.sweep()
        return
    wanted, ids = pa.array(sorted(left), pa.string()), list[str]()

    def fill(handle: BinaryIO) -> None:
        ids.clear()
        with store.open(shard) as opened:
            file = groups.opened(opened)
            groups.write(_kept(file, wanted, ids), file.schema_arrow, handle)
        if len(ids) != len(left):
            raise CorruptionError(f"shard {shard} does not hold the examples that the catalog lists")

    def record(db: Transaction, new: int) -> None:
        places = ((new, row, name) for row, name in enumerate(ids))
        db.executemany("UPDATE example SET shard_id=?, row=? WHERE example_id=?", places)
        db.execute("UPDATE attribute SET of_shard=? WHERE of_shard=?", (new, shard))
        _done(db, "examples", shard)

    store.commit_file("examples", ".parquet", len(left), fill, record, replaces=[shard])


def _kept(file: pq.ParquetFile, wanted: pa.Array, ids: list[str]) -> Iterator[pa.Table]:
    """The wanted rows of a shard of examples, a row group at a time; their ids are added to `ids`."""
    for _, table in groups.read(file):
        left = table.filter(pc.is_in(table["example_id"], wanted))
        ids += left["example_id"].to_pylist()
        yield left


def _attribute(store: Store, shard: int) -> None:
    """Values computed from each text: one row for each that its shard of examples still has."""
    (row,) = store.catalog.rows("SELECT of_shard FROM attribute WHERE shard_id=?", (shard,))
    held = store.catalog.rows("SELECT example_id FROM example WHERE shard_id=?", (row["of_shard"],))
    table = _table(store, shard)
    table = _without(table, pc.is_in(table["example_id"], pa.array([r["example_id"] for r in held], pa.string())))

    def record(db: Transaction, new: int) -> None:
        db.execute("UPDATE attribute SET shard_id=? WHERE shard_id=?", (new, shard))
        _done(db, "attribute", shard)

    _replace_scores(store, shard, table, record)


def larger_attributes(store: Store) -> list[int]:
    """Shards of values that have more rows than the catalog has of the examples that they lie beside."""
    rows = store.catalog.rows(
        "SELECT a.shard_id FROM attribute AS a JOIN shard AS s ON s.shard_id = a.shard_id WHERE s.rows > "
        "(SELECT count(*) FROM example AS e WHERE e.shard_id = a.of_shard) ORDER BY a.shard_id"
    )
    return [int(row["shard_id"]) for row in rows]


def _replace_scores(store: Store, shard: int, table: pa.Table, record: Callable[[Transaction, int], None]) -> None:
    store.commit_file(
        "scores", ".parquet", table.num_rows, lambda handle: _write(table, handle), record, replaces=[shard]
    )


def _features(store: Store, shard: int) -> None:
    """Rows of one or several units; a unit that has none left goes, and a shard without units with it."""
    units = store.catalog.rows("SELECT unit_id FROM unit WHERE shard_id=?", (shard,))
    kept = store.catalog.rows(
        "SELECT r.space_id, r.example_id, r.row FROM feature_row AS r JOIN unit AS u USING (unit_id) "
        "WHERE u.shard_id=? AND r.row IS NOT NULL ORDER BY r.row",
        (shard,),
    )
    empty = [
        unit["unit_id"]
        for unit in units
        if store.catalog.one("SELECT 1 FROM feature_row WHERE unit_id=? LIMIT 1", (unit["unit_id"],)) is None
    ]

    def drop_empty(db: Transaction) -> None:
        spaces = "SELECT space_id FROM unit WHERE shard_id=?"  # an index may have been built since the plan was made
        db.execute(f"DELETE FROM search_index WHERE space_id IN ({spaces})", (shard,))
        db.executemany("DELETE FROM unit WHERE unit_id=?", [(unit,) for unit in empty])
        _done(db, "features", shard)

    if len(empty) == len(units):
        with store.catalog.write() as db:
            drop_empty(db)
            doom(db, [shard])
        store.sweep()
        return
    places = np.array([row["row"] for row in kept], np.int64)
    names = [row["example_id"] for row in kept]

    def record(db: Transaction, new: int) -> None:
        moved = ((place, row["space_id"], row["example_id"]) for place, row in enumerate(kept))
        db.executemany("UPDATE feature_row SET row=? WHERE space_id=? AND example_id=?", moved)
        drop_empty(db)
        db.execute("UPDATE unit SET shard_id=? WHERE shard_id=?", (new, shard))

    store.commit_file(
        "features", ".arrow", len(kept), lambda handle: _write_rows(store, shard, places, names, handle), record,
        replaces=[shard],
    )  # fmt: skip


def _write_rows(store: Store, shard: int, places: NDArray[np.int64], names: Sequence[str], handle: BinaryIO) -> None:
    """Write the rows of a shard at some places, in order, a record batch for each that it has: readers take one at a
    time. Raises CorruptionError unless these are rows of the named examples."""
    with store.map(shard) as source:
        file, start = pa.ipc.open_file(source), 0
        with pa.ipc.new_file(handle, file.schema) as writer:
            for k in range(file.num_record_batches):
                table = pa.Table.from_batches([file.get_batch(k)])
                lo, hi = np.searchsorted(places, [start, start + table.num_rows])
                left = table.take(pa.array(places[lo:hi] - start)).combine_chunks()
                if left["example_id"].to_pylist() != list(names[lo:hi]):
                    raise CorruptionError(f"shard {shard} does not hold the examples that the catalog lists")
                writer.write_table(left)
                start += table.num_rows


def _scores(store: Store, shard: int) -> None:
    """A selection's table of scores, where it says something of any of them."""
    table = _table(store, shard)
    keep = pc.invert(pc.is_in(table["example_id"], _going(store)))

    def record(db: Transaction, new: int) -> None:
        db.execute("UPDATE selection SET scores_shard=? WHERE scores_shard=?", (new, shard))
        _done(db, "scores", shard)

    if pc.all(keep).as_py() is not False:
        with store.catalog.write() as db:
            _done(db, "scores", shard)
        return
    _replace_scores(store, shard, _without(table, keep), record)


def _going(store: Store) -> pa.Array:
    return pa.array(tombstones.going(store), pa.string())


def _selection(store: Store, number: int) -> None:
    """Record what is left of a void selection, if it is the newest of its name and target, in its place and with the
    time at which it was made; of older ones the table of scores goes."""
    void = store.catalog.one("SELECT * FROM selection WHERE selection_id=?", (number,))
    items = store.catalog.rows("SELECT * FROM selection_item WHERE selection_id=? ORDER BY rank", (number,))
    if void is None or not items or _has_later(store, void):
        with store.catalog.write() as db:
            _drop_scores(db, void)
            _done(db, "selection", number)
        store.sweep()
        return
    table = None if void["scores_shard"] is None else _table(store, void["scores_shard"])
    if table is not None:
        lost = pc.is_in(table["example_id"], _going(store))
        table = _less(table, table.filter(lost)).filter(pc.invert(lost))
        table = _without(table, pa.array(np.ones(table.num_rows, bool)))
    ids, copies = [item["example_id"] for item in items], [item["copies"] for item in items]
    digest = digest_of(ids, copies, table)

    def record(db: Transaction, shard: int | None) -> None:
        spec = canonical_json({**json.loads(void["spec"]), "stands_for": [number, void["digest"], void["created"]]})
        (new,) = db.rows(
            "INSERT INTO selection (name, target, method, digest, spec, scores_shard, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING selection_id",
            (void["name"], void["target"], void["method"], digest, spec, shard, void["created"]),
        )
        db.executemany(
            "INSERT INTO selection_item (selection_id, rank, example_id, score, copies, source, licence) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (new["selection_id"], rank, item["example_id"], item["score"], item["copies"], item["source"],
                 item["licence"])
                for rank, item in enumerate(items)
            ),
        )  # fmt: skip
        db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (number,))
        _done(db, "selection", number)

    if table is None:
        with store.catalog.write() as db:
            record(db, None)
    else:
        _replace_scores(store, void["scores_shard"], table, record)


def _has_later(store: Store, void: Row) -> bool:
    newest = store.catalog.one(
        "SELECT selection_id FROM selection WHERE name=? AND target=? ORDER BY created DESC, selection_id DESC LIMIT 1",
        (void["name"], void["target"]),
    )
    return newest is not None and newest["selection_id"] != void["selection_id"]


def _drop_scores(db: Transaction, void: Row | None) -> None:
    if void is not None and void["scores_shard"] is not None:
        db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (void["selection_id"],))
        doom(db, [void["scores_shard"]])


def _less(table: pa.Table, lost: pa.Table) -> pa.Table:
    """A mixture's details whose plan counts what was lost as lost; any other table as it is. Tokens and shares stay as
    they were realised: the lengths of what was deleted are gone."""
    text = (table.schema.metadata or {}).get(PLAN)
    if text is None:
        return table
    plan = plan_from_json(json.loads(text))
    rows = {name: lost[name].to_pylist() for name in ("part", "source", "copies")}
    gone = list(zip(rows["part"], rows["source"], rows["copies"], strict=True))
    lines = []
    for line in plan.table:
        mine = [copies for part, source, copies in gone if (part, source) == (line.part, line.source)]
        note = "; ".join(words for words in (line.note, f"{len(mine)} deleted since" if mine else "") if words)
        lines.append(replace(line, rows=line.rows - sum(mine), examples=line.examples - len(mine), note=note))
    realised = plan.realised - (sum(copies for *_, copies in gone) if plan.unit == "rows" else 0)
    plan = replace(plan, table=lines, realised=realised)
    return table.replace_schema_metadata({**table.schema.metadata, PLAN: json.dumps(plan_as_json(plan))})


ERASE: Mapping[str, Callable[[Store, int], None]] = {  # in the order in which they are done
    "examples": _examples,
    "attribute": _attribute,
    "features": _features,
    "selection": _selection,
    "scores": _scores,
}


REFERS = {  # a shard of this kind that is still in the store; older stores may have given its number to another
    "examples": "SELECT 1 FROM shard WHERE shard_id=? AND kind='examples'",
    "attribute": "SELECT 1 FROM attribute WHERE shard_id=?",
    "features": "SELECT 1 FROM shard WHERE shard_id=? AND kind='features'",
    "scores": "SELECT 1 FROM selection WHERE scores_shard=?",
}


def erase(store: Store, kind: str, number: int) -> None:
    """Do a task of the plan. What has left the store since it was planned, by a repair, needs nothing: files are made
    from what the catalog knows. Raises CorruptionError for a damaged file."""
    if kind != "selection" and store.catalog.one(REFERS[kind], (number,)) is None:
        with store.catalog.write() as db:
            _done(db, kind, number)
        return
    ERASE[kind](store, number)
