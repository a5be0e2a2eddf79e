"""Promises 1–4 at the level of the store: visibility, crashes, races, full disks, damaged bytes, foreign spaces."""

import errno
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from running import ROOT, python

from gradsift.datastore import examples, features, files, holders, leases, maintenance, repair
from gradsift.datastore.attributes import attribute
from gradsift.datastore.errors import (
    BusyError,
    CatalogVersionError,
    CorruptionError,
    FeatureSpaceMismatch,
    InputError,
    StoreFullError,
)
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.rows import make_block
from gradsift.datastore.sqlite import SqliteEngine
from gradsift.datastore.store import Store

SPEC = {"model": "m", "transform": "sgd", "projector": {"dim": 64, "seed": 0}}


def some_examples(count, start=0):
    found = []
    for k in range(start, start + count):
        chat = [{"role": "user", "content": f"question {k}"}, {"role": "assistant", "content": f"answer {k}"}]
        found.append(Example(example_id(chat), chat, "made", "file.jsonl", k + 1))
    return found


def some_block(ids, dtype="int8"):
    rng = np.random.default_rng(len(ids))
    size = len(ids)
    signals = pa.table({"loss": pa.array(np.ones(size, np.float32))})
    return make_block(ids, rng.normal(size=(size, 64)).astype(np.float32), signals, dtype)


def fill(store, count=30, unit_rows=10, spec=SPEC):
    """Examples, a pool and planned units; returns (space, pool, units)."""
    batch = some_examples(count)
    examples.add(store, batch)
    pool = examples.define_dataset(store, "pool", "p", {e.example_id: "" for e in batch})
    space = features.define_space(store, spec)
    features.plan(store, space, pool.example_ids, {}, unit_rows)
    return space, pool, features.open_units(store, space, pool.dataset_id)


def compute(store, space, unit):
    return features.commit_unit(store, space, unit, some_block(features.unit_ids(store, unit)), {})


def committed_ids(store, space):
    return [i for block in features.read(store, space) for i in block.example_ids]


CRASH = """
import os, sys
sys.path[:0] = {paths!r}
from gradsift.datastore import files
from gradsift.datastore.store import Store
import test_commit_helper as t
store = Store({root!r})
space, pool, units = t.fill(store)
t.compute(store, space, units[0])
hit = []
def stop(step):
    if step == {step!r}:
        os._exit(137)
files.failpoint = stop
t.compute(store, space, units[1])
"""


@pytest.mark.parametrize("step", ["written", "synced", "renamed", "recorded", "committed"])
def test_promise_1_visible_if_and_only_if_committed(tmp_path, step):
    """A process dies at each step of the protocol; its shard is all there or not at all, and work goes on."""
    (tmp_path / "test_commit_helper.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    root = tmp_path / "store"
    code = CRASH.format(paths=[str(tmp_path), str(ROOT / "tests"), str(ROOT)], root=str(root), step=step)
    python("-c", code, code=137)
    with Store(root) as store:
        space = features.define_space(store, SPEC)
        seen = len(committed_ids(store, space))
        assert seen == (20 if step == "committed" else 10)
        assert not maintenance.verify(store)
        pool = examples.define_dataset(
            store, "pool", "p", {r["example_id"]: "" for r in store.catalog.rows("SELECT * FROM example")}
        )
        for unit in features.open_units(store, space, pool.dataset_id):
            assert compute(store, space, unit)
        assert sorted(committed_ids(store, space)) == pool.example_ids  # nothing lost, nothing twice
        orphans = maintenance.collect(store, grace=-1)
        assert len(orphans) == (0 if step == "committed" else 1)
        assert not maintenance.garbage(store, grace=-1)
        assert not maintenance.verify(store)


def test_promise_2_new_examples_alone_are_planned(store):
    space, pool, units = fill(store)
    for unit in units:
        compute(store, space, unit)
    examples.add(store, some_examples(40))
    grown = examples.define_dataset(store, "pool", "p", {e.example_id: "" for e in some_examples(40)})
    assert features.plan(store, space, grown.example_ids, {}, 100) == 10
    assert features.plan(store, space, grown.example_ids, {}, 100) == 0
    (unit,) = features.open_units(store, space, grown.dataset_id)
    assert not set(features.unit_ids(store, unit)) & set(pool.example_ids)


def test_a_lost_race_leaves_nothing(store):
    space, _, units = fill(store)
    assert compute(store, space, units[0])
    assert not compute(store, space, units[0])
    assert not maintenance.garbage(store, grace=-1)
    assert len(committed_ids(store, space)) == 10


def test_many_writers_each_row_once(store):
    space, pool, _ = fill(store, count=120, unit_rows=5)

    def work():
        own = Store(store.root)
        while units := features.open_units(own, space, pool.dataset_id):
            for unit in units:  # no leases on purpose: the key alone must hold
                compute(own, space, unit)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(committed_ids(store, space)) == pool.example_ids
    assert not maintenance.garbage(store, grace=-1)


@pytest.mark.parametrize("damage", ["head", "middle", "tail", "cut", "gone"])
def test_promise_3_damage_is_reported_before_use(store, damage, tally):
    space, pool, units = fill(store)
    for unit in units:
        compute(store, space, unit)
    row = store.catalog.one("SELECT * FROM shard WHERE kind='features' ORDER BY shard_id LIMIT 1")
    path = store.root / row["name"]
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-7])
    else:
        data[{"head": 3, "middle": len(data) // 2, "tail": len(data) - 3}[damage]] ^= 1
        path.write_bytes(data)
    with Store(store.root) as fresh:
        with pytest.raises(CorruptionError, match=f"shard {row['shard_id']} "):
            list(features.read(fresh, space))
        (found,) = maintenance.verify(fresh)
        assert found.shard_id == row["shard_id"]
        assert repair.replan(fresh, found.shard_id) == 10
        assert not maintenance.verify(fresh)
        (unit,) = features.open_units(fresh, space, pool.dataset_id)
        assert compute(fresh, space, unit)
        assert sorted(committed_ids(fresh, space)) == pool.example_ids
    tally("a shard of rows that is flipped, cut or gone", promise=3).reported()


def test_promise_3_two_shards_swapped(store):
    space, _, units = fill(store)
    for unit in units:
        compute(store, space, unit)
    one, other = [store.root / r["name"] for r in store.catalog.rows("SELECT * FROM shard WHERE kind='features'")][:2]
    one.rename(one.with_suffix(".x")), other.rename(one), one.with_suffix(".x").rename(other)
    with Store(store.root) as fresh, pytest.raises(CorruptionError):
        list(features.read(fresh, space))


def test_promise_4_rows_of_other_spaces_are_refused(store, tally):
    one = features.define_space(store, SPEC)
    adam = features.define_space(store, SPEC | {"transform": "adam_exact"})
    features.check_spaces(store, adam, one)  # train and query may differ in transform
    other = features.define_space(store, SPEC | {"projector": {"dim": 64, "seed": 1}})
    with pytest.raises(FeatureSpaceMismatch, match=r"projector\.seed: 0 against 1"):
        features.check_spaces(store, one, other)
    tally("rows of two spaces, compared", promise=4).reported()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(store, number):
    space, _, units = fill(store)
    compute(store, space, units[0])

    def fail(step):
        if step == "written":
            raise OSError(number, os.strerror(number))

    files.failpoint = fail
    with pytest.raises(StoreFullError, match="Nothing committed is lost"):
        compute(store, space, units[1])
    files.failpoint = lambda _step: None
    assert not maintenance.garbage(store, grace=-1)
    assert len(committed_ids(store, space)) == 10
    assert compute(store, space, units[1])


def test_a_really_full_disk(store, tmp_path):
    """A process that may not write files over 64 KiB: the catalog stays sound, the error is ours."""
    resource = pytest.importorskip("resource")
    space, _, units = fill(store)
    compute(store, space, units[0])

    code = (
        f"import resource, signal, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from gradsift.datastore.local import LocalFiles\nfrom pathlib import Path\nfrom gradsift.datastore.errors import StoreFullError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        f"try:\n LocalFiles(Path({str(store.root)!r})).write('features', '.arrow', lambda h: h.write(bytes(200000)))\n"
        "except StoreFullError as e:\n print('full:', e)\n"
    )
    out = python("-c", code)
    assert out.stdout.startswith("full: no space left")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    assert not maintenance.garbage(store, grace=-1)
    assert len(committed_ids(store, space)) == 10


def test_gc_keeps_the_file_of_a_live_writer(store):
    fill(store)
    (store.root / "features").mkdir(exist_ok=True)
    (store.root / "features" / "abc.arrow").write_bytes(b"renamed, not yet committed")
    assert not maintenance.collect(store)
    assert maintenance.collect(store, grace=-1) == [("features/abc.arrow", 26)]


def test_a_link_out_of_the_store_is_refused(store, tmp_path):
    space, _, units = fill(store)
    compute(store, space, units[0])
    row = store.catalog.one("SELECT * FROM shard WHERE kind='features'")
    path = store.root / row["name"]
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with Store(store.root) as fresh, pytest.raises(CorruptionError, match="leads out of the store"):
        list(features.read(fresh, space))


def test_a_lease_excludes_and_ends_with_its_process(store):
    with leases.held(store, "run") as mine:
        assert mine
        assert not leases.acquire(store, "run", "other-host:1:1:1")
    assert leases.acquire(store, "run", "other-host:1:1:1")
    assert not leases.acquire(store, "run", holders.holder_name())
    host = holders.holder_name().split(":")[0]
    assert leases.acquire(store, "dead", f"{host}:{2**22 - 3}:123:1")
    assert leases.acquire(store, "dead", holders.holder_name())  # no such process: taken over at once
    assert leases.acquire(store, "old", "other-host:1:1:1", ttl=0.01)
    time.sleep(0.05)
    assert leases.acquire(store, "old", holders.holder_name())


def test_a_host_of_the_same_name_may_be_another(store):
    """Containers with their host's name, each with processes of its own: none is dead because another does not see
    it."""
    host = holders.holder_name().split(":")[0]
    elsewhere = f"{host}:{2**22 - 3}:123@other-boot:1"
    assert leases.acquire(store, "run", elsewhere)
    assert not holders.holder_is_dead(elsewhere)
    assert not holders.is_of_this_host(elsewhere)
    assert not leases.acquire(store, "run", holders.holder_name())
    assert holders.is_of_this_host(holders.holder_name())
    assert not holders.holder_is_dead(holders.holder_name())


def test_a_clock_that_jumped_does_not_lock_the_store(store):
    with store.catalog.write() as db:
        db.execute("INSERT INTO lease VALUES ('run', 'other-host:1:1:1', ?)", (time.time() + 10 * 365 * 86_400,))
    assert leases.acquire(store, "run", holders.holder_name())


def test_who_lost_the_lease_of_a_run_commits_nothing(store):
    """A process that was suspended, while another did its work and ended."""
    with Store(store.root) as other, leases.held(store, leases.RUN):
        examples.add(store, some_examples(2))
        with other.catalog.write() as db:
            db.execute("UPDATE lease SET expires=0")
        with leases.alone(other, "delete rows"):
            examples.add(other, some_examples(3))
        leases._renew(other, leases.RUN, holders.holder_name(), leases.TTL_SECONDS)
        for write in (
            lambda: examples.add(store, some_examples(5)),
            lambda: examples.define_dataset(store, "pool", "p", {}),
            lambda: store.commit_file(
                "scores", ".parquet", 0, lambda handle: handle.write(b"x"), lambda _db, _new: None
            ),
        ):
            with pytest.raises(BusyError, match=r"another process took over the work on .*Run this again"):
                write()
    assert len(examples.known_ids(store, [e.example_id for e in some_examples(5)])) == 3
    assert maintenance.garbage(store, grace=-1) == []
    assert examples.add(store, some_examples(5)).new == 2, "its lease is over, others go on"


def test_a_lease_that_was_lost_is_not_taken_again(store):
    with leases.held(store, leases.RUN, ttl=0.2), Store(store.root) as other:
        with other.catalog.write() as db:
            db.execute("DELETE FROM lease")  # another had it, and gave it back
        time.sleep(0.2)
        assert other.catalog.rows("SELECT * FROM lease") == []


def test_work_that_fails_because_its_lease_was_lost_says_so(store):
    def work():
        with leases.held(store, leases.RUN):
            with store.catalog.write() as db:
                db.execute("DELETE FROM lease")
            raise KeyError("what another deleted")

    with pytest.raises(BusyError, match="another process took over the work"):
        work()
    with pytest.raises(KeyError, match="of its own"), leases.held(store, leases.RUN):
        raise KeyError("of its own")


def test_a_row_of_what_left_meanwhile_is_a_clear_error(store):
    with pytest.raises(BusyError, match=r"has left .*: deleted, pruned or compacted; run this again"):
        examples.define_dataset(store, "pool", "p", {"0" * 32: ""})


def test_a_newer_catalog_is_refused(store):
    with store.catalog.write() as db:
        db.execute("INSERT INTO schema_migrations VALUES (99, '0099_future.sql', 'x', 0)")
    with pytest.raises(CatalogVersionError, match="newer gradsift"):
        Store(store.root)


def test_an_edited_migration_is_refused(store):
    with store.catalog.write() as db:
        db.execute("UPDATE schema_migrations SET sha256 = 'other'")
    with pytest.raises(CatalogVersionError, match="differs"):
        Store(store.root)


def test_not_a_store(tmp_path):
    with pytest.raises(InputError, match="is not a store"):
        SqliteEngine(tmp_path / "catalog.sqlite", create=False)
    (tmp_path / "catalog.sqlite").write_bytes(b"not a database at all, but some text" * 40)
    with pytest.raises(InputError, match="cannot be opened"):
        Store(tmp_path)


def test_every_stored_query_runs(store):
    from gradsift import sql

    for name in sql.query_names():
        parameters = dict.fromkeys(re.findall(r"\B:(\w+)", sql.query(name)), 0)
        assert store.catalog.named(name, **parameters) == []


def test_exit_codes_are_distinct():
    codes = {e.exit_code for e in (InputError, CorruptionError, BusyError, StoreFullError)}
    assert len(codes) == 4


def test_a_damaged_checkpoint_takes_the_later_ones_with_it(store):
    from gradsift.datastore import checkpoints
    from gradsift.datastore.checkpoints import CheckpointState

    for ordinal in range(3):
        tensor = {"w": np.full((2, 2), ordinal, np.float32)}
        checkpoints.commit(store, "run", ordinal, 10 * (ordinal + 1), 1e-3, CheckpointState(tensor, tensor, tensor))
    first, second, _ = checkpoints.listed(store, "run")
    name = store.catalog.one("SELECT name FROM shard WHERE shard_id=?", (second.shard_id,))["name"]
    (store.root / name).write_bytes(b"\x00" * 7)
    with Store(store.root) as fresh:
        with pytest.raises(CorruptionError):
            checkpoints.load(fresh, second)
        repair.forget_checkpoints(fresh, maintenance.verify(fresh)[0].shard_id)
        assert checkpoints.listed(fresh, "run") == [first]
        assert len(fresh.catalog.rows("SELECT * FROM shard")) == 1
        assert not maintenance.verify(fresh)
        np.testing.assert_array_equal(checkpoints.load(fresh, first).adapter["w"], np.zeros((2, 2)))


def test_a_forged_name_deletes_nothing_outside(store, tmp_path):
    space, _, units = fill(store)
    compute(store, space, units[0])
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    with store.catalog.write() as db:
        db.execute("UPDATE shard SET name='../precious.txt' WHERE kind='features'")
    with Store(store.root) as fresh:
        (found,) = maintenance.verify(fresh)
        repair.replan(fresh, found.shard_id)
    (store.root / "scores").symlink_to(tmp_path)
    maintenance.collect(store, grace=-1)
    assert precious.read_text() == "mine"


def test_gc_waits_for_a_run(store):
    with leases.held(store, "run"), pytest.raises(BusyError):
        maintenance.collect(store)


def test_damaged_values_of_examples_are_dropped_and_computed_again(store):
    """Their side files share the kind of score tables, and a row of `attribute` refers to them."""
    fill(store)
    pool = examples.get_dataset(store, 1)
    calls = []

    def lengths(chats):
        calls.append(len(chats))
        return {"turns": pa.array([len(chat) for chat in chats])}

    (table,) = attribute(store, {"what": "turns"}, pool.dataset_id, lengths)
    name = store.catalog.one("SELECT name FROM shard WHERE kind='scores'")["name"]
    (store.root / name).write_bytes(b"\x00" * 7)
    with Store(store.root) as fresh:
        with pytest.raises(CorruptionError):
            list(attribute(fresh, {"what": "turns"}, pool.dataset_id, lengths))
        (damage,) = maintenance.verify(fresh)
        repair.drop_attribute(fresh, damage.shard_id)
        assert not maintenance.verify(fresh)
        assert not (fresh.root / name).exists()
        (again,) = attribute(fresh, {"what": "turns"}, pool.dataset_id, lengths)
        assert again.equals(table)
        assert calls == [30, 30]
        list(attribute(fresh, {"what": "turns"}, pool.dataset_id, lengths))
        assert calls == [30, 30]


def test_a_file_that_replaces_others_takes_their_place_in_one_commit_and_they_are_deleted(store, monkeypatch):
    """Killed between the commit and the deletion, the next sweep deletes them."""
    batch = some_examples(6)
    examples.add(store, batch[:3])
    examples.add(store, batch[3:])
    old = [row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM shard ORDER BY shard_id")]
    names = {file.name for file in store.backend.list("examples")}

    def record(db, shard_id):
        db.execute("UPDATE example SET shard_id=?", (shard_id,))

    def die(step):
        if step == "committed":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "failpoint", die)
    with pytest.raises(KeyboardInterrupt):
        store.commit_file("examples", ".parquet", 6, lambda handle: handle.write(b"new"), record, replaces=old)
    assert names < {file.name for file in store.backend.list("examples")}
    assert [row["rows"] for row in store.catalog.rows("SELECT rows FROM shard")] == [6]
    assert store.sweep() == 2
    assert not names & {file.name for file in store.backend.list("examples")}
    assert store.sweep() == 0


def test_files_that_others_may_have_opened_stay_until_their_time(store):
    examples.add(store, some_examples(3))
    (old,) = (row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM shard"))

    def record(db, shard_id):
        db.execute("UPDATE example SET shard_id=?", (shard_id,))

    new = store.commit_file(
        "examples", ".parquet", 3, lambda handle: handle.write(b"new"), record, replaces=[old], grace=60.0
    )
    assert len(list(store.backend.list("examples"))) == 2
    assert [row["shard_id"] for row in store.catalog.rows("SELECT shard_id FROM shard")] == [new]


def test_gc_collects_a_report_that_somebody_was_killed_over(store):
    (store.root / "reports").mkdir()
    half = store.root / "reports" / f".tmp-{'0' * 32}"
    half.write_text("half")
    (store.root / "reports" / "whole.html").write_text("whole")
    assert not maintenance.collect(store)
    assert maintenance.collect(store, grace=-1) == [(f"reports/{half.name}", 4)]
    assert [path.name for path in (store.root / "reports").iterdir()] == ["whole.html"]
