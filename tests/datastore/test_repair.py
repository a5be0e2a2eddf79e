"""Mending, the catalog's side: what a damaged shard still holds, what is void after a loss, a catalog that is damaged."""

import errno
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import gradsift

from gradsift.datastore import checkpoints, examples, features, forget, maintenance, quick, repair, selections
from gradsift.datastore.attributes import attribute
from gradsift.datastore.chats import MESSAGES_TYPE
from gradsift.datastore.checkpoints import CheckpointState
from gradsift.datastore.errors import CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.rows import make_block
from gradsift.datastore.selections import Picks
from gradsift.datastore.store import Store
from gradsift.pipelines.runs import forget as forget_run
from gradsift.pipelines.runs.repair import mend


def chat(number):
    return [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}" * 9}]


def some(count, start=0):
    chats = [chat(number) for number in range(start, start + count)]
    return [Example(example_id(c), c, "made", "file.jsonl", number + 1) for number, c in enumerate(chats)]


def shard_path(store, kind="examples"):
    (row,) = store.catalog.rows("SELECT shard_id, name FROM shard WHERE kind=?", (kind,))
    return row["shard_id"], store.root / row["name"]


def test_the_row_groups_that_are_whole_are_read_from_a_damaged_file(store):
    """A text is known by its digest, so one that is still there needs no source."""
    batch = some(40)

    def write(handle):
        table = pa.table(
            {
                "example_id": [e.example_id for e in batch],
                "messages": pa.array([e.messages for e in batch], MESSAGES_TYPE),
            }
        )
        pq.write_table(table, handle, row_group_size=10, compression="zstd")

    examples.add(store, batch)
    old, _ = shard_path(store)
    store.commit_file("examples", ".parquet", 40, write, lambda db, new: db.execute(
        "UPDATE example SET shard_id=?", (new,)) and None, replaces=[old])  # fmt: skip
    shard, path = shard_path(store)
    place = pq.ParquetFile(path).metadata.row_group(2).column(2).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 30 : place + 60] = bytes(30)
    path.write_bytes(data)
    with Store(store.root) as fresh:
        held = repair.readable(fresh, shard)
        ids = [e.example_id for e in batch]
        assert {ids.index(name) for name in held} == {*range(20), *range(30, 40)}
        path.write_bytes(data[: len(data) // 2])
        assert repair.readable(fresh, shard) == {}
        path.unlink()
        assert repair.readable(fresh, shard) == {}


def test_a_changed_text_in_a_readable_file_is_not_believed(store):
    batch = some(5)
    examples.add(store, batch)
    shard, path = shard_path(store)
    chats = [e.messages for e in batch]
    chats[3] = chat(99)
    with path.open("wb") as handle:
        examples.write_chats([e.example_id for e in batch], chats, handle)
    with Store(store.root) as fresh:
        held = repair.readable(fresh, shard)
        assert [e.example_id in held for e in batch] == [True, True, True, False, True]


def lived_in(store, count=30):
    """Examples with a pool, values beside them, rows, marks and two selections; returns (examples, pool, space)."""
    batch = some(count)
    examples.add(store, batch)
    ids = [e.example_id for e in batch]
    pool = examples.define_dataset(store, "pool", "p", dict.fromkeys(ids, ""))
    list(
        attribute(store, {"what": "turns"}, pool.dataset_id, lambda chats: {"turns": pa.array([len(c) for c in chats])})
    )
    space = features.define_space(store, {"model": "m", "checkpoint": "c"})
    features.plan(store, space, pool.example_ids, {}, 10)
    for unit in features.open_units(store, space, pool.dataset_id):
        names = features.unit_ids(store, unit)
        rows = np.random.default_rng(unit).normal(size=(len(names), 8)).astype(np.float32)
        block = make_block(names, rows, pa.table({"loss": pa.array(np.ones(len(names), np.float32))}), "int8")
        features.commit_unit(store, space, unit, block, {})
    for name, chosen in (("first", ids[:4]), ("last", ids[-4:])):
        picks = Picks(chosen, [1.0] * 4, pa.table({"example_id": chosen, "score": [1.0] * 4}))
        selections.save(store, name, "t", {"method": "m", "name": name}, picks)
    return batch, pool, space


def test_a_loss_takes_down_what_had_it_and_nothing_else(store):
    batch, pool, space = lived_in(store)
    shard, path = shard_path(store)
    path.unlink()
    kept = {e.example_id: e.messages for e in batch[2:]}
    lost = [e.example_id for e in batch[:2]]
    assert repair.falls_with_examples(store, lost) == ["pool p", "2 feature rows", "selection first"]
    with pytest.raises(ValueError, match="only for a reason"):
        repair.restore_examples(store, shard, kept)
    assert repair.restore_examples(store, shard, kept, "2 were lost") == 2
    with Store(store.root) as fresh:
        assert maintenance.verify(fresh) == []
        assert examples.get_messages(fresh, [e.example_id for e in batch]) == kept
        assert (
            fresh.catalog.one("SELECT void FROM dataset WHERE dataset_id=?", (pool.dataset_id,))["void"]
            == "2 were lost"
        )
        assert sorted(examples.standing(fresh, pool.dataset_id).example_ids) == sorted(kept)
        assert sorted(features.ids_with_rows(fresh, space)) == sorted(kept)
        assert [i for block in features.read(fresh, space) for i in block.example_ids if i in lost] == []
        with pytest.raises(InputError):
            selections.get(fresh, "first")
        assert selections.get(fresh, "last").example_ids == [e.example_id for e in batch[-4:]]
        assert fresh.catalog.rows("SELECT * FROM attribute") == [], "its rows had other places"
        for table in ("selection_item", "mark", "origin", "membership"):
            assert not fresh.catalog.rows(f"SELECT 1 FROM {table} WHERE example_id IN (?, ?)", lost)
        again = some(30)
        assert examples.add(fresh, again).new == 2, "read again, they are new"


def test_a_shard_without_any_row_left_leaves(store):
    batch, pool, _ = lived_in(store)
    shard, path = shard_path(store)
    path.write_bytes(b"cut")
    assert repair.restore_examples(store, shard, {}, "all were lost") == 30
    assert not path.exists()
    with Store(store.root) as fresh:
        assert maintenance.verify(fresh) == []
        assert fresh.catalog.one("SELECT count(*) AS n FROM example")["n"] == 0


def test_other_tensors_than_those_of_a_checkpoint_are_refused(store):
    tensors = {"w": np.ones((2, 2), np.float32)}
    checkpoints.commit(store, "run", 0, 10, 1e-3, CheckpointState(tensors, tensors, tensors))
    shard, path = shard_path(store, "checkpoint")
    path.unlink()
    others = {"w": np.ones((2, 2), np.float32) + 1e-7}
    with pytest.raises(repair.Unlike):
        repair.restore_checkpoint(store, shard, CheckpointState(others, tensors, tensors))
    repair.restore_checkpoint(store, shard, CheckpointState(tensors, tensors, tensors))
    assert maintenance.verify(store) == []


def test_another_choice_than_a_selection_is_refused(store):
    batch, _, _ = lived_in(store)
    chosen = selections.get(store, "first")
    ids = [e.example_id for e in batch]
    with pytest.raises(repair.Unlike):
        repair.restore_table(store, chosen, Picks(ids[1:5], [1.0] * 4, pa.table({"example_id": ids[1:5]})))


def damage_page(path, number=3, size=4096):
    """Overwrite a page of a database, not the first."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[number * size : number * size + 200] = b"\xff" * 200
    path.write_bytes(data)


@pytest.mark.parametrize("page", [1, 3, 9])
def test_a_damaged_catalog_is_an_error_with_its_next_step(store, page):
    lived_in(store)
    store.close()
    damage_page(store.root / "catalog.sqlite", page)
    with (
        pytest.raises(CorruptionError, match=r"catalog\.sqlite is damaged .*put a copy of the store back"),
        Store(store.root) as fresh,
    ):
        maintenance.verify(fresh)


@pytest.mark.slow
def test_a_damaged_catalog_is_no_traceback(store):
    lived_in(store)
    store.close()
    damage_page(store.root / "catalog.sqlite", 9)
    for arguments in (["verify"], ["verify", "--repair"], ["verify", "--repair", "--dry-run"]):
        out = gradsift(*arguments, "-s", store.root, code=4)
        assert "Traceback" not in out.stderr
        assert "run its recipes into a new store" in " ".join(out.stderr.split())
    (store.root / "catalog.sqlite").write_bytes(b"not a database at all, but some text" * 400)
    out = gradsift("verify", "-s", store.root, code=2)
    assert "put a copy of the store back" in " ".join(out.stderr.split())


def test_a_text_whose_file_is_not_there_is_never_lost_and_can_be_deleted(store, tmp_path):
    """Of two files one is not there: the other, which can be read, lacks its text for good."""
    there = tmp_path / "there.jsonl"
    there.write_text("")
    away = tmp_path / "away.jsonl"
    batch = [Example(e.example_id, e.messages, "made", str((there, away)[n % 2]), n) for n, e in enumerate(some(4))]
    examples.add(store, batch)
    shard_path(store)[1].unlink()
    with Store(store.root) as fresh:
        (kept,) = mend(fresh, accept_loss=True)
        assert (kept.state, kept.waits, kept.lost) == ("kept", True, 4)
        assert (
            f"2 of 4 rows are in sources that cannot be read now (the first: {min(e.example_id for e in batch[1::2])[:8]}"
            in kept.done
        )
        assert str(there) not in kept.done
        with pytest.raises(CorruptionError):
            forget_run.delete(fresh, lambda _store: forget.Picked([e.example_id for e in batch[1::2]]))
        (gone,) = mend(fresh, accept_loss=True)
        assert (gone.state, gone.lost) == ("lost", 2)
        assert maintenance.verify(fresh) == []
        assert not forget.pending(fresh)


def test_shards_whose_examples_were_all_deleted_leave(store):
    """As in a deletion that was stopped between the catalog and the files."""
    batch, _, _ = lived_in(store, 10)
    forget.begin(store, forget.Picked([e.example_id for e in batch]))
    for kind in ("features", "examples"):
        shard_path(store, kind)[1].unlink()
    with Store(store.root) as fresh:
        assert {one.kind for one in maintenance.verify(fresh)} == {"examples", "features"}
        done = mend(fresh)
        assert {(one.state, one.rows, one.lost) for one in done} == {("mended", 0, 0)}
        assert maintenance.verify(fresh) == []
        assert not forget.pending(fresh)


def test_a_file_that_its_disk_cannot_read_is_damaged(store, monkeypatch):
    lived_in(store)
    shard, path = shard_path(store)

    def digests(at, of=quick.both):
        if at.samefile(path):
            raise OSError(errno.EIO, "Input/output error")
        return of(at)

    monkeypatch.setattr(quick, "both", digests)
    with Store(store.root) as fresh:
        (found,) = maintenance.verify(fresh)
        assert (found.shard_id, found.problem) == (shard, f"examples/{path.name} cannot be read from its disk any more")


def test_a_catalog_that_is_not_as_it_was_stays_so_until_that_is_accepted(store):
    lived_in(store)
    store.close()
    with sqlite3.connect(store.root / "catalog.sqlite") as connection:
        connection.execute("UPDATE example SET source='x'")
    for options in ({}, {"dry_run": True}, {"dry_run": True, "accept_loss": True}):
        with pytest.raises(CorruptionError, match=r"table example .*not what was recorded.*--accept-loss"):
            mend(store, **options)
    (taken,) = mend(store, accept_loss=True)
    assert (taken.kind, taken.state, taken.done) == ("catalog", "lost", "taken as it is")
    assert taken.problem.endswith(")"), "what is wrong, without what to do"
    assert "table example" in taken.problem
    assert mend(store) == maintenance.verify(store) == []
