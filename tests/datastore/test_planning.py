"""Planning asks about the examples that it is given, however many rows a space has."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from gradsift.datastore import examples, features, forget, marks
from gradsift.datastore.examples import Example
from gradsift.datastore.forget import Picked
from gradsift.datastore.identity import example_id
from gradsift.datastore.marks import Mark
from gradsift.datastore.rows import make_block, read_blocks


def some_examples(count, start=0):
    chats = [[{"role": "user", "content": f"ask {k}"}] for k in range(start, start + count)]
    return [Example(example_id(chat), chat, "made", "file.jsonl", k) for k, chat in enumerate(chats, start)]


def fill(store, count, unit_rows):
    """Examples, a pool and planned units; returns (space, pool, units)."""
    batch = some_examples(count)
    examples.add(store, batch)
    pool = examples.define_dataset(store, "pool", "p", {one.example_id: "" for one in batch})
    space = features.define_space(store, {"a": 1})
    features.plan(store, space, pool.example_ids, {}, unit_rows)
    return space, pool, features.open_units(store, space, pool.dataset_id)


def compute(store, space, unit):
    ids = features.unit_ids(store, unit)
    signals = pa.table({"loss": pa.array(np.ones(len(ids), np.float32))})
    block = make_block(ids, np.ones((len(ids), 64), np.float32), signals, "int8")
    assert features.commit_unit(store, space, unit, block, {})


@pytest.fixture
def answered(store, monkeypatch):
    """How many rows the catalog answered with, by the table that was asked."""
    rows, counts = store.catalog.rows, Counter()

    def counted(text, parameters=()):
        found = rows(text, parameters)
        counts["feature_row" if "feature_row" in text else "other"] += len(found)
        return found

    monkeypatch.setattr(store.catalog, "rows", counted)
    return counts


def test_what_is_missing_and_lacking_whatever_the_number_of_ids(store):
    """1,203 ids: more than go into one query, with an odd rest; every third has a row, every ninth was planned alone."""
    batch = some_examples(1_203)
    examples.add(store, batch)
    ids = [one.example_id for one in batch]
    pool = examples.define_dataset(store, "pool", "p", dict.fromkeys(ids, ""))
    space = features.define_space(store, {"a": 1})
    features.plan(store, space, ids[::3], {ids[1]: "no_labels"}, 100)
    for unit in features.open_units(store, space, pool.dataset_id)[:-1]:
        assert features.is_open(store, unit)
        compute(store, space, unit)
        assert not features.is_open(store, unit)
    (left,) = features.open_units(store, space, pool.dataset_id)
    planned = {*ids[::3], ids[1]}
    assert features.missing(store, space, ids) == [i for i in ids if i not in planned]
    assert features.unplanned(store, space, pool.dataset_id) == sorted(i for i in ids if i not in planned)
    without = {*features.unit_ids(store, left), ids[1]}
    assert features.lacking(store, space, ids) == [i for i in ids if i not in planned or i in without]
    assert features.plan(store, space, ids, {ids[1]: "no_labels"}, 100) == len(ids) - len(planned)
    assert features.unplanned(store, space, pool.dataset_id) == []


def test_a_few_ids_of_a_large_space_are_asked_for_alone(store, answered):
    space, pool, units = fill(store, count=400, unit_rows=100)
    for unit in units:
        compute(store, space, unit)
    new = some_examples(3, start=400)
    examples.add(store, new)
    ids = [one.example_id for one in new]
    answered.clear()
    assert features.missing(store, space, [*ids, pool.example_ids[0]]) == ids
    assert features.lacking(store, space, [*ids, pool.example_ids[0]]) == ids
    features.plan(store, space, ids, {}, 10)
    assert answered["feature_row"] == 2


def test_a_unit_of_another_pool_is_none_of_this_one(store):
    space, pool, units = fill(store, count=30, unit_rows=10)
    some = examples.define_dataset(store, "pool", "some", dict.fromkeys(features.unit_ids(store, units[1])[:1], ""))
    assert features.open_units(store, space, some.dataset_id) == [units[1]]
    assert features.open_units(store, space, pool.dataset_id) == units


def test_promise_8_rows_that_were_read_before_a_deletion_are_committed_without_what_went(store):
    """A worker without the store's lease has a unit's rows in its hands while examples of it are deleted."""
    space, pool, (unit,) = fill(store, count=6, unit_rows=10)
    ids = features.unit_ids(store, unit)
    values = np.arange(6 * 64, dtype=np.float32).reshape(6, 64)
    block = make_block(ids[:5], values[:5], pa.table({"loss": pa.array(np.arange(5, dtype=np.float32))}), "int8")
    forget.begin(store, Picked([ids[1], ids[5]]))
    forget.clear(store)
    forget.close(store)
    assert features.commit_unit(store, space, unit, block, {ids[5]: "non_finite"})
    left = [ids[k] for k in (0, 2, 3, 4)]
    (shard,) = features.shards_of(store, space)
    assert [name for part in read_blocks(store.map(shard))[1] for name in part.example_ids] == left
    read = features.read_all(store, space, left)
    np.testing.assert_array_equal(read.vectors, block.vectors[[0, 2, 3, 4]])
    assert read.signals["loss"].to_pylist() == [0, 2, 3, 4]
    assert features.statuses(store, space, pool.dataset_id) == {"ok": 4}


def test_promise_8_no_mark_names_what_was_deleted_meanwhile(store):
    batch = some_examples(4)
    ids = [example.example_id for example in batch]
    examples.add(store, batch)
    forget.begin(store, Picked(ids[:1]))
    found = [Mark(ids[1], "near", ids[0], 1.0), Mark(ids[0], "near", ids[2], 1.0), Mark(ids[2], "near", ids[3], 0.9)]
    assert marks.save(store, {"what": "near"}, found) == [found[2]]


def test_promise_8_nothing_is_committed_of_a_unit_of_which_all_was_deleted(store):
    space, _, units = fill(store, count=4, unit_rows=2)
    ids = features.unit_ids(store, units[0])
    block = make_block(ids, np.ones((2, 64), np.float32), pa.table({"loss": pa.array([1.0, 1.0])}), "int8")
    forget.begin(store, Picked(ids))
    assert not features.commit_unit(store, space, units[0], block, {})
    assert features.shards_of(store, space) == []
