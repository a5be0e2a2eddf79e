"""Mending a store, the catalog's side: what a damaged file held, what falls with it, and putting what was made again in
its place.

`pipelines/runs/repair.py` makes things again and decides. Here each change is one commit: the new file and all that
refers to it, or nothing. So a kill leaves the damaged file listed as it was, or what stands for it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from gradsift.datastore import chats, checkpoints, examples, features, groups, selections
from gradsift.datastore.backend import StoredFile
from gradsift.datastore.chats import Messages
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.engine import Transaction, marks, parts
from gradsift.datastore.identity import example_id
from gradsift.datastore.prune import INDEXED
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.selections import Picks, Selection
from gradsift.datastore.store import Store, doom, stored_file


@dataclass(frozen=True)
class Unit:
    """Feature rows that were computed together: `ids` are its examples, with a row or without."""

    unit_id: int
    space_id: int
    ids: list[str]


class Unlike(Exception):
    """What was made again is not what was there."""


# Examples


def example_ids(store: Store, shard: int) -> list[str]:
    """Examples of a shard in the order of its rows; those that were deleted since are none."""
    rows = store.catalog.rows("SELECT example_id FROM example WHERE shard_id=? ORDER BY row", (shard,))
    return [str(row["example_id"]) for row in rows]


def origin_files(store: Store, shard: int) -> list[str]:
    """Files that examples of a shard were read from, sorted."""
    rows = store.catalog.rows(
        "SELECT DISTINCT o.file FROM example AS e JOIN origin AS o USING (example_id) WHERE e.shard_id=? ORDER BY 1",
        (shard,),
    )
    return [str(row["file"]) for row in rows if row["file"]]


def read_from(store: Store, shard: int, files: Collection[str]) -> set[str]:
    """Examples of a shard that were read from any of the files."""
    rows = store.catalog.rows(
        "SELECT e.example_id, o.file FROM example AS e JOIN origin AS o USING (example_id) WHERE e.shard_id=?", (shard,)
    )
    return {str(row["example_id"]) for row in rows if row["file"] in files}


def origin(store: Store, example: str) -> str:
    """FILE:LINE of the first place that an example was read from, "" for one without."""
    row = store.catalog.one("SELECT file, line FROM origin WHERE example_id=? ORDER BY file, line", (example,))
    return f"{row['file']}:{row['line']}" if row else ""


def readable(store: Store, shard: int) -> dict[str, Messages]:
    """What a damaged shard of examples still holds: chats whose digest is their id. A row is that row wherever it lies,
    so it need not be read again from its source."""
    found: dict[str, Messages] = {}
    try:
        with store.backend.damaged(_file(store, shard)) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                found |= _whole_rows(parquet, group)
    except Exception:  # noqa: BLE001 - whatever a damaged file does to its reader, it holds nothing then
        return found
    return found


def _whole_rows(parquet: pq.ParquetFile, group: int) -> dict[str, Messages]:
    try:
        found = [chat for table in groups.pieces(parquet, group) for chat in chats.of_table(table)]
    except Exception:  # noqa: BLE001 - see `readable`
        return {}
    return {example_id(chat): chat for chat in found if chat}


def restore_examples(store: Store, shard: int, texts: Mapping[str, Messages], why: str = "") -> int:
    """Put the texts in the place of a shard of examples, whose others are lost: they leave the store with all that
    refers to them, and versions of datasets and selections that had them are void, because of `why`. Returns how many
    are lost.

    Memory: the shard's texts. Cost: one file; with losses, a pass over feature rows, marks and selected rows.
    """
    ids = example_ids(store, shard)
    kept = [i for i in ids if i in texts]
    lost = len(ids) - len(kept)
    if lost and not why:
        raise ValueError("examples may be lost only for a reason")
    if not kept:
        with store.catalog.write() as db:
            _move_examples(db, shard, None, kept, why)
            doom(db, [shard])
        store.sweep()
        return lost
    store.commit_file(
        "examples",
        ".parquet",
        len(kept),
        lambda handle: examples.write_chats(kept, [texts[i] for i in kept], handle),
        lambda db, new: _move_examples(db, shard, new, kept, why),
        replaces=[shard],
    )
    return lost


def _move_examples(db: Transaction, old: int, new: int | None, kept: Sequence[str], why: str) -> None:
    """Make the catalog say that these examples are in the new shard, and that those left in the old are nowhere."""
    db.executemany(
        "UPDATE example SET shard_id=?, row=? WHERE example_id=?", ((new, row, i) for row, i in enumerate(kept))
    )
    lost = db.one("SELECT 1 FROM example WHERE shard_id=?", (old,)) is not None
    if new is not None and not lost:
        db.execute("UPDATE attribute SET of_shard=? WHERE of_shard=?", (new, old))
        return
    beside = db.rows("DELETE FROM attribute WHERE of_shard=? RETURNING shard_id", (old,))
    doom(db, [row["shard_id"] for row in beside])
    if lost:
        _lose(db, old, why)


def _lose(db: Transaction, shard: int, why: str) -> None:
    for name, table in INDEXED.items():  # without them each deletion would be a scan
        db.execute(f"CREATE INDEX {name} ON {table} (example_id)")
    gone = "example_id IN (SELECT example_id FROM example WHERE shard_id=?)"
    for table, held in (("dataset", "dataset_member"), ("selection", "selection_item")):
        db.execute(
            f"UPDATE {table} SET void=coalesce(void, ?) WHERE {table}_id IN "
            f"(SELECT {table}_id FROM {held} WHERE {gone})",
            (why, shard),
        )
    chosen = f"SELECT selection_id FROM selection_item WHERE {gone}"
    db.execute(f"DELETE FROM exported WHERE selection_id IN ({chosen})", (shard,))
    spaces = f"SELECT space_id FROM feature_row WHERE {gone}"
    db.execute(f"DELETE FROM search_index WHERE space_id IN ({spaces})", (shard,))  # a trigger dooms the files
    db.execute(f"DELETE FROM mark WHERE twin {gone.removeprefix('example_id ')}", (shard,))
    for table in ("selection_item", "feature_row", "mark", "membership", "origin"):
        db.execute(f"DELETE FROM {table} WHERE {gone}", (shard,))
    db.execute("DELETE FROM example WHERE shard_id=?", (shard,))
    for name in INDEXED:
        db.execute(f"DROP INDEX {name}")


def falls_with_examples(store: Store, ids: Sequence[str], gone: Collection[str] = ()) -> list[str]:
    """What examples take down when they are lost, in words; without what those that are `gone` take down anyway."""
    datasets, chosen, rows = _holders(store, ids)
    before = _holders(store, list(gone))
    versions = Counter(name for number, name in datasets.items() if number not in before[0])
    numbers = sorted(chosen - before[1])
    return [
        *(name if n == 1 else f"{name} ({n} versions)" for name, n in versions.items()),
        *([f"{rows:,} feature rows"] if rows else []),
        *(_named(store, number) for number in numbers),
        *(f"export {folder}" for folder in _exports(store, numbers)),
    ]


def _holders(store: Store, ids: Sequence[str]) -> tuple[dict[int, str], set[int], int]:
    """({number: role and name} of datasets, selections, number of feature rows) that have any of the examples."""
    datasets: dict[int, str] = {}
    chosen: set[int] = set()
    rows = 0
    for part in parts(ids):
        inside = f"example_id IN ({marks(part)})"
        found = store.catalog.rows(
            "SELECT DISTINCT d.dataset_id, d.role, d.name FROM dataset_member AS m "
            f"JOIN dataset AS d USING (dataset_id) WHERE m.{inside} AND d.void IS NULL ORDER BY d.dataset_id",
            part,
        )
        datasets |= {row["dataset_id"]: f"{row['role']} {row['name']}" for row in found}
        found = store.catalog.rows(
            "SELECT DISTINCT s.selection_id FROM selection_item AS i JOIN selection AS s USING (selection_id) "
            f"WHERE i.{inside} AND s.void IS NULL",
            part,
        )
        chosen |= {row["selection_id"] for row in found}
        counted = store.catalog.one(f"SELECT count(*) AS n FROM feature_row WHERE {inside} AND status='ok'", part)
        rows += counted["n"] if counted else 0
    return datasets, chosen, rows


def have_rows(store: Store, space: int, ids: Collection[str]) -> bool:
    """Whether any of the examples has a row, or a planned one, in a feature space."""
    held = store.catalog.rows("SELECT example_id FROM feature_row WHERE space_id=?", (space,)) if ids else []
    return any(row["example_id"] in ids for row in held)


def _named(store: Store, number: int) -> str:
    """A selection or mixture in words, by its version where it has one."""
    (row,) = store.catalog.rows("SELECT name, target FROM selection WHERE selection_id=?", (number,))
    kind = "mixture" if row["target"] == selections.MIXTURE else "selection"
    numbers = store.catalog.rows("SELECT number FROM version WHERE selection_id=? ORDER BY number", (number,))
    labels = [f"{row['name']}@{version['number']}" for version in numbers]
    return f"{kind} {', '.join(labels) or row['name']}"


def _exports(store: Store, numbers: Sequence[int]) -> list[str]:
    """Folders that selections were exported to by runs."""
    rows = store.catalog.rows(
        "SELECT DISTINCT v.selection_id, r.folder FROM run_version AS r JOIN version AS v USING (kind, name, number) "
        "WHERE r.folder IS NOT NULL AND v.selection_id IS NOT NULL ORDER BY r.folder"
    )
    return list(dict.fromkeys(str(row["folder"]) for row in rows if row["selection_id"] in numbers))


# Feature rows


def units_of(store: Store, shard: int) -> list[Unit]:
    """Units whose rows are in a shard: one, or many where it was merged."""
    rows = store.catalog.rows("SELECT unit_id, space_id FROM unit WHERE shard_id=? ORDER BY unit_id", (shard,))
    return [Unit(row["unit_id"], row["space_id"], features.unit_ids(store, row["unit_id"])) for row in rows]


def rows_of(store: Store, unit: Unit, gone: Collection[str] = ()) -> int:
    """How many rows a unit has, without those of examples that are `gone`."""
    rows = store.catalog.rows("SELECT example_id FROM feature_row WHERE unit_id=? AND status='ok'", (unit.unit_id,))
    return sum(row["example_id"] not in gone for row in rows)


def restore_unit(store: Store, shard: int, unit: Unit, block: FeatureBlock, rejected: Mapping[str, str]) -> bool:
    """Put a unit's rows, computed again, into a shard of their own; the damaged one leaves with the last unit that it
    held. Returns whether the file has the very bytes of the damaged one before that was damaged."""
    alone = store.catalog.one("SELECT count(*) AS n FROM unit WHERE shard_id=?", (shard,))
    was = store.catalog.one("SELECT sha256, bytes FROM shard WHERE shard_id=?", (shard,))

    def record(db: Transaction, new: int) -> bool:
        if not db.execute("UPDATE unit SET shard_id=? WHERE unit_id=? AND shard_id=?", (new, unit.unit_id, shard)):
            return False
        db.execute("UPDATE feature_row SET row=NULL, status='planned' WHERE unit_id=? AND status='ok'", (unit.unit_id,))
        features.mark_rows(db, unit.space_id, unit.unit_id, block.example_ids, rejected)
        if db.one("SELECT 1 FROM unit WHERE shard_id=?", (shard,)) is None:
            doom(db, [shard])
        return True

    new = features.commit_block(store, unit.space_id, block, record)
    store.sweep()
    now = store.catalog.one("SELECT sha256, bytes FROM shard WHERE shard_id=?", (new,)) if new is not None else None
    return bool(alone and alone["n"] == 1 and was and now and was["sha256"] == now["sha256"])


def drop_unit(store: Store, shard: int, unit: Unit) -> None:
    """Forget a unit without examples, and a shard with its last unit."""
    with store.catalog.write() as db:
        db.execute("DELETE FROM unit WHERE unit_id=?", (unit.unit_id,))
        if db.one("SELECT 1 FROM unit WHERE shard_id=?", (shard,)) is None:
            doom(db, [shard])
    store.sweep()


def replan(store: Store, shard: int) -> int:
    """Make rows of a shard planned work again, which the next run of their recipe computes; returns how many."""
    with store.catalog.write() as db:
        planned = db.execute(
            "UPDATE feature_row SET row=NULL, status='planned' WHERE status='ok' AND unit_id IN "
            "(SELECT unit_id FROM unit WHERE shard_id=?)",
            (shard,),
        )
        db.execute("UPDATE unit SET shard_id=NULL WHERE shard_id=?", (shard,))
        doom(db, [shard])
    store.sweep()
    return planned


def lose_rows(store: Store, shard: int) -> None:
    """Forget the rows of a shard, which nothing computes again."""
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE unit_id IN (SELECT unit_id FROM unit WHERE shard_id=?)", (shard,))
        db.execute("DELETE FROM unit WHERE shard_id=?", (shard,))
        doom(db, [shard])
    store.sweep()


# Checkpoints


def checkpoint_of(store: Store, shard: int) -> tuple[str, Checkpoint] | None:
    """(warm-up, checkpoint) that a shard holds."""
    row = store.catalog.one("SELECT warmup, ordinal FROM checkpoint WHERE shard_id=?", (shard,))
    if row is None:
        return None
    (found,) = (c for c in checkpoints.listed(store, row["warmup"]) if c.ordinal == row["ordinal"])
    return row["warmup"], found


def checkpoint_shards(store: Store, space: int) -> list[int]:
    """Shards of the checkpoint that a feature space is at; none for an encoder's."""
    digest = features.space_spec(store, space).get("checkpoint")
    rows = store.catalog.rows("SELECT shard_id FROM checkpoint WHERE digest=?", (digest,))
    return [int(row["shard_id"]) for row in rows]


def restore_checkpoint(store: Store, shard: int, state: CheckpointState) -> None:
    """Put a checkpoint's tensors, trained again, in the place of its damaged file. Raises Unlike where they are
    not those that it had."""
    found = checkpoint_of(store, shard)
    if found is None or checkpoints.tensors_digest(state) != found[1].digest:
        raise Unlike

    def record(db: Transaction, new: int) -> None:
        db.execute("UPDATE checkpoint SET shard_id=? WHERE shard_id=?", (new, shard))

    checkpoints.commit_state(store, state, record, replaces=[shard])


def falls_with_checkpoint(store: Store, warmup: str, ordinal: int, gone: Collection[str] = ()) -> list[str]:
    """What a checkpoint takes down, in words: itself and the later ones of its warm-up, whose feature spaces gain no
    row any more. Examples that are `gone` have none."""
    found = []
    for point in checkpoints.listed(store, warmup):
        if point.ordinal < ordinal:
            continue
        found.append(f"checkpoint {point.ordinal}")
        spaces = features.spaces_at(store, point.digest)
        for space, rows in spaces:
            stay = rows - _rows_in(store, space, gone)
            found.append(f"feature space {space} ({stay:,} rows stay, no new ones)")
    return found


def _rows_in(store: Store, space: int, ids: Collection[str]) -> int:
    held = store.catalog.rows("SELECT example_id FROM feature_row WHERE space_id=? AND status='ok'", (space,))
    return sum(row["example_id"] in ids for row in held) if ids else 0


def forget_checkpoints(store: Store, shard: int) -> None:
    """Forget a checkpoint and all later ones of its warm-up; the next run trains from the one before it."""
    with store.catalog.write() as db:
        row = db.one("SELECT warmup, ordinal FROM checkpoint WHERE shard_id=?", (shard,))
        if row is None:
            doom(db, [shard])
        else:
            this_and_later = (row["warmup"], row["ordinal"])
            gone = db.rows("DELETE FROM checkpoint WHERE warmup=? AND ordinal>=? RETURNING shard_id", this_and_later)
            doom(db, [point["shard_id"] for point in gone])
    store.sweep()


# Values of examples, tables of scores


def is_attribute(store: Store, shard: int) -> bool:
    """Whether a shard holds values of examples."""
    return store.catalog.one("SELECT 1 FROM attribute WHERE shard_id=?", (shard,)) is not None


def drop_attribute(store: Store, shard: int) -> None:
    """Forget values of examples, which whoever needs them computes again."""
    with store.catalog.write() as db:
        db.execute("DELETE FROM attribute WHERE shard_id=?", (shard,))
        doom(db, [shard])
    store.sweep()


def selection_of(store: Store, shard: int) -> Selection | None:
    """The selection whose table a shard is, if there is one that holds."""
    row = store.catalog.one("SELECT selection_id FROM selection WHERE scores_shard=? AND void IS NULL", (shard,))
    return None if row is None else selections.by_number(store, row["selection_id"])


def selection_numbered(store: Store, number: int) -> Selection | None:
    """The selection of a number, if it holds."""
    held = store.catalog.one("SELECT 1 FROM selection WHERE selection_id=? AND void IS NULL", (number,))
    return None if held is None else selections.by_number(store, number)


def restore_table(store: Store, selection: Selection, picks: Picks) -> None:
    """Put a selection's table, made again, in the place of the damaged or missing one. Raises Unlike where what was
    chosen is not the same."""
    if picks.details is None or selections.picks_digest(picks) != selection.digest:
        raise Unlike
    row = store.catalog.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection.selection_id,))
    old = [row["scores_shard"]] if row and row["scores_shard"] is not None else []

    def record(db: Transaction, new: int) -> None:
        db.execute("UPDATE selection SET scores_shard=? WHERE selection_id=?", (new, selection.selection_id))

    selections.commit_details(store, picks.details, record, replaces=old)


def lose_table(store: Store, selection: Selection, why: str) -> None:
    """Forget a selection's table. A mixture, and a selection with loss masks, is void then, because of `why`."""
    void = selections.in_table_alone(selection)
    with store.catalog.write() as db:
        row = db.one("SELECT scores_shard FROM selection WHERE selection_id=?", (selection.selection_id,))
        db.execute("UPDATE selection SET scores_shard=NULL WHERE selection_id=?", (selection.selection_id,))
        if void:
            db.execute(
                "UPDATE selection SET void=coalesce(void, ?) WHERE selection_id=?", (why, selection.selection_id)
            )
        if row and row["scores_shard"] is not None:
            doom(db, [row["scores_shard"]])
    store.sweep()


def falls_with_table(store: Store, selection: Selection) -> list[str]:
    """What a selection's table takes down, in words."""
    name = _named(store, selection.selection_id)
    if not selections.in_table_alone(selection):
        return [f"scores and details of {name}, which stays"]
    return [name, *(f"export {folder}" for folder in _exports(store, [selection.selection_id]))]


def void(store: Store, kind: str, number: int, why: str) -> None:
    """Make a dataset or selection (`kind`) void, because of `why`: the next run makes it again."""
    with store.catalog.write() as db:
        db.execute(f"UPDATE {kind} SET void=coalesce(void, ?) WHERE {kind}_id=?", (why, number))


def drop_unused(store: Store, shard: int) -> None:
    """Forget a file that nothing refers to but a selection that is void."""
    with store.catalog.write() as db:
        db.execute("UPDATE selection SET scores_shard=NULL WHERE scores_shard=?", (shard,))
        doom(db, [shard])
    store.sweep()


def _file(store: Store, shard: int) -> StoredFile:
    row = store.catalog.one("SELECT name, bytes, sha256 FROM shard WHERE shard_id=?", (shard,))
    if row is None:
        raise ValueError(f"there is no shard {shard}")
    return stored_file(row)
