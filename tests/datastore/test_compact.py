"""Compaction: every value stays as it was, a kill loses nothing, readers go on, and the rule keeps what it says."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, python

from gradsift.datastore import (
    compact,
    examples,
    features,
    groups,
    index_build,
    index_search,
    indexes,
    leases,
    maintenance,
    merge,
    repair,
)
from gradsift.datastore.attributes import attribute
from gradsift.datastore.compact import choose
from gradsift.datastore.errors import BusyError, CorruptionError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.merge import Small
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store

PLAIN, ADAM = ({"model": "m", "transform": name, "projector": {"dim": 16, "seed": 0}} for name in ("sgd", "adam_exact"))
LENGTHS = {"what": "lengths"}


def chats(count, start=0):
    made = []
    for k in range(start, start + count):
        chat = [{"role": "user", "content": f"question {k} é"}, {"role": "assistant", "content": f"answer {k}"}]
        made.append(Example(example_id(chat), chat, f"s{k % 3}", "file.jsonl", k + 1))
    return made


def block(ids, dtype="int8"):
    rng = np.random.default_rng([int(i[:8], 16) for i in ids] or 0)
    tokens = pa.array(
        [rng.random(1 + n % 4).astype(np.float32).tolist() for n in range(len(ids))], pa.list_(pa.float32())
    )
    signals = pa.table({"loss": pa.array(rng.random(len(ids)), pa.float32()), "token_nll": tokens})
    return make_block(ids, rng.normal(size=(len(ids), 16)).astype(np.float32), signals, dtype)


def lengths(of):
    return {"chars": pa.array([sum(len(turn["content"]) for turn in chat) for chat in of], pa.int32())}


def night(store, number, per_night=20, dtype="int8"):
    """What a night adds: examples, a pool of all so far, rows of two spaces (some without), values of examples."""
    new = chats(per_night, number * per_night)
    examples.add(store, new)
    everything = {e.example_id: "" for e in chats((number + 1) * per_night)}
    pool = examples.define_dataset(store, "pool", "p", everything)
    list(attribute(store, LENGTHS, pool.dataset_id, lengths))
    for spec in (PLAIN, ADAM):
        space = features.define_space(store, spec)
        features.plan(store, space, [e.example_id for e in new], {}, 6)
        for unit in features.open_units(store, space, pool.dataset_id):
            ids = features.unit_ids(store, unit)
            rejected = {ids[0]: "non_finite"} if unit % 3 == 0 else {}
            if unit % 7 == 0:
                rejected = dict.fromkeys(ids, "zero")  # a shard without a row
            features.commit_unit(store, space, unit, block([i for i in ids if i not in rejected], dtype), rejected)
    return pool


def filled(root, nights=4, dtype="int8"):
    store = Store(root)
    for number in range(nights):
        pool = night(store, number, dtype=dtype)
    return store, pool


def everything(store):
    """All that a reader sees, by example and independent of files."""
    seen = {"statuses": {}}
    for spec in (PLAIN, ADAM):
        space = features.define_space(store, spec)
        for part in features.read(store, space):
            for k, name in enumerate(part.example_ids):
                key = (space, name)
                assert key not in seen
                row = part.take(np.array([k]))
                seen[key] = (row.vectors.tobytes(), row.scale.tobytes(), row.norm.tobytes(), row.signals.to_pylist())
        seen["statuses"][space] = {
            (r["example_id"], r["status"], r["unit_id"])
            for r in store.catalog.rows("SELECT * FROM feature_row WHERE space_id=?", (space,))
        }
    ids = [r["example_id"] for r in store.catalog.rows("SELECT example_id FROM example ORDER BY 1")]
    seen["chats"] = examples.get_messages(store, ids)
    number = store.catalog.one("SELECT max(dataset_id) AS n FROM dataset")["n"]
    values = [row for table in attribute(store, LENGTHS, number, _refuse) for row in table.to_pylist()]
    seen["values"] = sorted((row["example_id"], row["chars"]) for row in values)
    seen["datasets"] = [dict(r) for r in store.catalog.rows("SELECT * FROM dataset ORDER BY 1")]
    return seen


def _refuse(_chats):
    raise AssertionError("values of examples were computed again")


def kinds(store):
    rows = store.catalog.rows("SELECT kind, count(*) AS n FROM shard GROUP BY kind ORDER BY kind")
    return {row["kind"]: row["n"] for row in rows}


def files_of(store):
    return {file.name for kind in maintenance.KINDS for file in store.backend.list(kind)}


def committed(store):
    return {row["name"] for row in store.catalog.rows("SELECT name FROM shard")}


def places_hold(store):
    """Each example is in the row of its shard that the catalog says."""
    for shard in [r["shard_id"] for r in store.catalog.rows("SELECT shard_id FROM shard WHERE kind='examples'")]:
        names = examples.read_shard(store, shard)["example_id"].to_pylist()
        rows = store.catalog.rows("SELECT example_id, row FROM example WHERE shard_id=?", (shard,))
        assert all(names[row["row"]] == row["example_id"] for row in rows)
        assert len(rows) == len(names)


@pytest.mark.parametrize("dtype", ["int8", "int4", "f16"])
def test_nothing_that_is_stored_changes(tmp_path, dtype):
    store, pool = filled(tmp_path / "store", dtype=dtype)
    before = everything(store)
    assert sum(kinds(store).values()) > 30
    done = compact.compact(store, grace=0)
    assert kinds(store) == {"examples": 1, "features": 2, "scores": 1}
    assert done.shards_after == 4
    assert (
        done.shards_before == sum(merge.shards for merge in done.merges) + 4
    )  # beside each shard of examples its values
    assert everything(store) == before
    places_hold(store)
    assert not maintenance.verify(store)
    assert files_of(store) == committed(store)
    space = features.define_space(store, PLAIN)
    assert features.shards_of(store, space) == sorted({*features.shards_of(store, space)})
    assert not features.open_units(store, space, pool.dataset_id)
    night(store, 4)
    store.close()


def test_the_same_again_does_nothing(tmp_path):
    store, _ = filled(tmp_path / "store")
    planned = compact.compact(store, dry_run=True)
    assert kinds(store)["features"] > 20
    first = compact.compact(store)
    assert [(m.kind, m.shards) for m in planned.merges] == [(m.kind, m.shards) for m in first.merges]
    names = committed(store)
    again = compact.compact(store)
    assert (again.merges, again.shards_before) == ([], again.shards_after)
    assert committed(store) == names
    store.close()


def test_merged_files_keep_blocks_of_bounded_size(tmp_path, monkeypatch):
    store, _ = filled(tmp_path / "store")
    before = everything(store)
    monkeypatch.setattr(groups, "GROUP_BYTES", 600)
    compact.compact(store, grace=0)
    assert kinds(store)["features"] == 2
    sizes = [len(part.example_ids) for part in features.read(store, features.define_space(store, PLAIN))]
    assert len(sizes) > 5
    assert max(sizes) <= 20
    assert everything(store) == before
    store.close()


def test_large_shards_stay_and_merged_ones_keep_to_the_target(tmp_path):
    store, _ = filled(tmp_path / "store", nights=6)
    before = everything(store)
    shard = store.catalog.one("SELECT max(bytes) AS n FROM shard WHERE kind='features'")["n"]
    target = 4 * shard
    compact.compact(store, target=target, grace=0)
    sizes = [r["bytes"] for r in store.catalog.rows("SELECT bytes FROM shard WHERE kind='features'")]
    assert len(sizes) > 4
    assert max(sizes) <= target
    full = committed(store)
    assert not compact.compact(store, target=shard // 2, grace=0).merges  # each is full by this measure
    assert committed(store) == full
    assert everything(store) == before
    store.close()


def test_rows_that_the_catalog_does_not_have_are_left_behind(tmp_path):
    """A lost race and a deletion leave rows in files that nobody refers to."""
    store, _ = filled(tmp_path / "store")
    gone = chats(20)[3].example_id
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE example_id=?", (gone,))
        db.execute("DELETE FROM membership WHERE example_id=?", (gone,))
        db.execute("DELETE FROM example WHERE example_id=?", (gone,))
    before = everything(store)
    compact.compact(store, grace=0)
    assert everything(store) == before
    places_hold(store)
    for row in store.catalog.rows("SELECT shard_id, kind FROM shard"):
        with store.open(row["shard_id"]) as file:
            assert gone.encode() not in file.read() or row["kind"] != "features"
    assert gone not in {i for s in (PLAIN, ADAM) for b in features.read(store, features.define_space(store, s))
                        for i in b.example_ids}  # fmt: skip
    store.close()


CRASH = """
import os, sys
sys.path[:0] = {paths!r}
from gradsift.datastore import compact, files
from gradsift.datastore.store import Store
left = [{skip}]
def stop(step):
    if step == {step!r}:
        left[0] -= 1
        if left[0] < 0:
            os._exit(137)
files.failpoint = stop
compact.compact(Store({root!r}), grace=0)
"""


@pytest.mark.parametrize("step", ["written", "synced", "renamed", "recorded", "committed", "swept"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_promise_1_a_compaction_that_is_killed_loses_nothing(tmp_path, step, skip):
    """A process dies at each step of its first, second or third file; the next one finishes."""
    store, _ = filled(tmp_path / "store")
    before = everything(store)
    store.close()
    code = CRASH.format(paths=[str(ROOT)], root=str(tmp_path / "store"), step=step, skip=skip)
    python("-c", code, code=137)
    with Store(tmp_path / "store") as store:
        assert not maintenance.verify(store)
        assert everything(store) == before
        compact.compact(store, grace=0)
        assert everything(store) == before
        places_hold(store)
        assert kinds(store) == {"examples": 1, "features": 2, "scores": 1}
        maintenance.collect(store, grace=-1)
        assert files_of(store) == committed(store)


def test_a_reader_that_knows_the_old_shards_goes_on(tmp_path):
    """It has read their numbers, or opened one, when they are merged; their files stay for the grace, then go."""
    store, _ = filled(tmp_path / "store")
    space = features.define_space(store, PLAIN)
    wanted = everything(store)
    with Store(tmp_path / "store") as reader:
        blocks = features.read(reader, space)
        seen = [next(blocks)]
        texts = examples.shards_of(reader, [e.example_id for e in chats(80)])
        compact.compact(store)
        seen += blocks
        assert {(space, i) for b in seen for i in b.example_ids} == {key for key in wanted if key[0] == space}
        assert sum(examples.read_shard(reader, shard).num_rows for shard in texts) == 80
        assert files_of(store) > committed(store)
        maintenance.collect(store, grace=-1)  # not an orphan: it has a time of its own
        assert sum(examples.read_shard(reader, shard).num_rows for shard in texts) == 80
    with store.catalog.write() as db:
        db.execute("UPDATE doomed SET after=0")
    compact.compact(store)
    assert files_of(store) == committed(store)
    with pytest.raises(CorruptionError, match="run the command again"):
        store.open(texts[0])
    store.close()


def test_readers_and_writers_beside_it(tmp_path):
    """Compactions and nights take turns while others read: each read is whole, at any time."""
    store, _ = filled(tmp_path / "store", nights=2)
    space, done, failed = features.define_space(store, PLAIN), threading.Event(), []
    first = {i for b in features.read(store, space) for i in b.example_ids}
    texts = [e.example_id for e in chats(40)]

    def look():
        own = Store(store.root)
        while not done.is_set():
            try:
                ids = [i for b in features.read(own, space) for i in b.example_ids]
                assert len(ids) == len(set(ids))
                assert first <= set(ids)
                assert len(examples.get_messages(own, texts)) == 40
            except BaseException as error:
                failed.append(error)
                raise
        own.close()

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(2, 7):
        night(store, number)
        compact.compact(store)
    done.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert len({i for b in features.read(store, space) for i in b.example_ids}) > 100
    store.close()


def test_it_waits_for_a_run_and_for_other_work(store):
    with leases.held(store, leases.RUN), pytest.raises(BusyError, match=r"a run is working on .*; compact it when"):
        compact.compact(store)
    with leases.alone(store, "delete rows"), pytest.raises(BusyError, match=r"delete rows is .* \(process \d+ on .*\)"):
        compact.compact(store)
    assert not compact.compact(store).merges


def test_a_damaged_shard_is_named_and_nothing_is_merged_from_it(tmp_path):
    store, _ = filled(tmp_path / "store")
    row = store.catalog.rows("SELECT * FROM shard WHERE kind='features' AND rows > 0 ORDER BY shard_id")[2]
    store.close()
    path = tmp_path / "store" / row["name"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with Store(tmp_path / "store") as fresh:
        with pytest.raises(CorruptionError, match=f"shard {row['shard_id']} "):
            compact.compact(fresh)
        assert row["name"] in committed(fresh)
        repair.replan(fresh, maintenance.verify(fresh)[0].shard_id)
        compact.compact(fresh, grace=0)
        assert not maintenance.verify(fresh)


def test_a_damaged_merged_shard_becomes_small_units_of_work_again(tmp_path):
    """Units stay: what must be computed again is planned in the pieces it was."""
    store, pool = filled(tmp_path / "store")
    before, space = everything(store), features.define_space(store, PLAIN)
    compact.compact(store, grace=0)
    (shard,) = features.shards_of(store, space)
    name = store.catalog.one("SELECT name FROM shard WHERE shard_id=?", (shard,))["name"]
    store.close()
    (tmp_path / "store" / name).write_bytes(b"\0" * 7)
    with Store(tmp_path / "store") as fresh:
        repair.replan(fresh, maintenance.verify(fresh)[0].shard_id)
        units = features.open_units(fresh, space, pool.dataset_id)
        assert len(units) > 5
        for unit in units:
            ids = [r["example_id"] for r in fresh.catalog.rows(
                "SELECT example_id FROM feature_row WHERE unit_id=? AND status='planned' ORDER BY 1", (unit,))]  # fmt: skip
            features.commit_unit(fresh, space, unit, block(ids), {})
        after = everything(fresh)
        assert {key for key in after if key[0] == space} == {key for key in before if key[0] == space}


def test_values_of_a_part_of_the_shards_are_kept_and_not_mixed(tmp_path):
    """Shards with other values beside them are merged apart, so that no value is lost and none is missing."""
    store, pool = filled(tmp_path / "store")
    more = chats(10, 1000)
    examples.add(store, more[:5])
    examples.add(store, more[5:])
    before = everything(store)
    compact.compact(store, grace=0)
    assert kinds(store)["examples"] == 2
    assert everything(store) == before
    calls = []
    both = examples.define_dataset(store, "pool", "p", {e.example_id: "" for e in [*chats(80), *more]})

    def count(of):
        calls.append(len(of))
        return lengths(of)

    assert sum(t.num_rows for t in attribute(store, LENGTHS, both.dataset_id, count)) == 90
    assert calls == [10]
    store.close()


sizes = st.lists(st.floats(0.0001, 0.9), max_size=60)


@pytest.mark.parametrize("known", [True, False])
def test_values_are_given_once_each_while_shards_are_merged(tmp_path, known):
    """`gradsift mix` holds no lease: shards that it listed are merged while it computes."""
    store, pool = filled(tmp_path / "store")
    with store, Store(store.root) as other:
        spec = LENGTHS if known else {"what": "lengths anew"}
        given = []
        for table in attribute(store, spec, pool.dataset_id, lengths):
            given += zip(table["example_id"].to_pylist(), table["chars"].to_pylist(), strict=True)
            compact.compact(other, grace=0)
        assert len(examples.shards_of(store, [name for name, _ in given])) < 4, "they were merged"
        every = chats(80)
        assert sorted(given) == sorted((e.example_id, lengths([e.messages])["chars"][0].as_py()) for e in every)
        assert maintenance.verify(store) == []


def test_values_that_were_computed_during_a_merge_leave_no_file(tmp_path, monkeypatch):
    store, pool = filled(tmp_path / "store")
    with store, Store(store.root) as other:
        write, once = merge._parquet_of, iter([1])

        def beside(*args):
            if next(once, None):
                list(attribute(other, {"what": "lengths anew"}, pool.dataset_id, lengths))
            return write(*args)

        monkeypatch.setattr(merge, "_parquet_of", beside)
        compact.compact(store, grace=0)
        held = "SELECT shard_id FROM attribute UNION SELECT scores_shard FROM selection"
        left = store.catalog.rows(f"SELECT name FROM shard WHERE kind='scores' AND shard_id NOT IN ({held})")
        assert left == []
        assert sum(t.num_rows for t in attribute(store, {"what": "lengths anew"}, pool.dataset_id, lengths)) == 80


@given(sizes)
def test_the_rule_ends_and_leaves_few(fills):
    """Whatever is rewritten was small and keeps to the target; what is left is each more than twice the smaller ones."""
    shards = [Small(k, 1, 1, fill) for k, fill in enumerate(fills)]
    while parts := choose(shards):
        number = max(s.shard_id for s in shards)
        for part in parts:
            assert len(part) > 1
            assert all(s.fill < 0.5 for s in part)
            assert [s.shard_id for s in part] == sorted(s.shard_id for s in part)
            whole = sum(s.fill for s in part)
            assert whole <= 1.0 + 1e-9
            number += 1
            shards = [s for s in shards if s not in part] + [Small(number, 1, 1, whole)]
    small = sorted(s.fill for s in shards if s.fill < 0.5)
    for k, fill in enumerate(small):
        assert k == 0 or fill > 2 * sum(small[:k])


def test_a_store_that_is_compacted_every_night_rewrites_each_byte_a_few_times():
    """A thousand nights of one shard each, at a target of 256 of them."""
    shards, rewritten, random_ = [], 0.0, random.Random(0)
    total = 0.0
    for shard_id in range(1000):
        fill = random_.uniform(0.5, 1.5) / 256
        total += fill
        shards.append(Small(shard_id, 1, 1, fill))
        while parts := choose(shards):
            for part in parts:
                rewritten += sum(s.fill for s in part)
                shards = [s for s in shards if s not in part]
                shards.append(Small(10**6 + len(shards) + shard_id, 1, 1, sum(s.fill for s in part)))
        assert len([s for s in shards if s.fill < 0.5]) <= 7
    assert rewritten / total < 8.5


def test_the_file_is_one_that_the_catalog_names(tmp_path):
    store, _ = filled(tmp_path / "store", nights=2)
    started = time.time()
    compact.compact(store, grace=3600)
    after = [row["after"] for row in store.catalog.rows("SELECT after FROM doomed")]
    assert after
    assert min(after) >= started + 3600
    assert all(Path(store.root / row["name"]).is_file() for row in store.catalog.rows("SELECT name FROM doomed"))
    store.close()


def test_a_search_index_of_the_merged_rows_stays_what_it_is(tmp_path):
    """It holds the rows of the same shards in the same order; one that lacks some of them must be refreshed."""
    store, _ = filled(tmp_path / "store")
    space = features.define_space(store, PLAIN)
    index_build.build(store, space, index_build.Wish("flat"))
    question = np.concatenate([part.unit() for part in features.read(store, space)])[:3]
    before = index_search.near(store, space, question, 5, kind="flat")
    compact.compact(store, grace=0)
    index = indexes.get(store, space, "flat")
    assert indexes.state(store, index) == "fresh"
    assert [rows for _, rows in index.shards] == [len(features.ids_with_rows(store, space))]
    with Store(tmp_path / "store") as fresh:
        after = index_search.near(fresh, space, question, 5, kind="flat")
    for one, other in zip(after.neighbours, before.neighbours, strict=True):
        assert [n.example_id for n in one] == [n.example_id for n in other]
        assert [n.cosine for n in one] == pytest.approx([n.cosine for n in other], abs=1e-6)
    night(store, 4)
    assert indexes.state(store, index) == "behind"
    compact.compact(store, grace=0)  # the new ones among themselves
    assert indexes.state(store, indexes.get(store, space, "flat")) == "behind"
    for number in range(5, 8):
        night(store, number)
    compact.compact(store, grace=0)  # all of them
    assert indexes.state(store, indexes.get(store, space, "flat")) == "stale"
    store.close()


def test_a_shard_with_rows_that_the_catalog_lost_is_written_anew_whatever_its_size(tmp_path):
    """So that what was pruned is in no file for long; once, and others stay."""
    store, _ = filled(tmp_path / "store")
    compact.compact(store, grace=0)
    whole = committed(store)
    gone = chats(20)[3].example_id
    with store.catalog.write() as db:
        db.execute("DELETE FROM feature_row WHERE example_id=? AND space_id=?", (gone, 1))
    before = everything(store)
    done = compact.compact(store, target=1, grace=0)
    assert [(m.kind, m.shards) for m in done.merges] == [("features", 1)]
    assert len(whole - committed(store)) == 1
    assert everything(store) == before
    assert all(gone.encode() not in (store.root / name).read_bytes() for name in committed(store) - whole)
    assert not compact.compact(store, target=1, grace=0).merges
    store.close()
