"""What the catalog holds of itself is counted again, on either database: a changed row is told by the digest that it was
part of, where no seal tells it, and nothing that a store lives through is."""

import sqlite3
from contextlib import closing, suppress

import numpy as np
import pyarrow as pa
import pytest

import gradsift
from gradsift.datastore import arms, compact, examples, features, forget, maintenance, prune, recount, selections
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id, fingerprint
from gradsift.datastore.rows import make_block
from gradsift.datastore.selections import MASK, MIXTURE, Picks
from gradsift.pipelines.report.report import write_report
from gradsift.pipelines.runs import forget as forget_run
from gradsift.pipelines.runs.repair import mend

CHANGED = [
    ("UPDATE selection_item SET example_id=:other WHERE rank=0 AND selection_id=1", "selection plain (number 1)"),
    ("UPDATE selection_item SET copies=2 WHERE rank=1 AND selection_id=1", "selection plain (number 1)"),
    ("UPDATE selection_item SET rank=9 WHERE rank=1 AND selection_id=1", "selection plain (number 1)"),
    ("DELETE FROM selection_item WHERE rank=3 AND selection_id=1", "selection plain (number 1)"),
    ("UPDATE selection SET digest='0' WHERE selection_id=1", "selection plain (number 1)"),
    ("UPDATE selection_item SET example_id=:other WHERE rank=0 AND selection_id=2", "selection masked (number 2)"),
    ("UPDATE selection_item SET copies=1 WHERE selection_id=3", "mixture mixed (number 3)"),
    ("UPDATE membership SET subtask='x' WHERE example_id=:other", "pool p (number 1)"),
    ("DELETE FROM membership WHERE example_id=:other", "pool p (number 1)"),
    ("UPDATE dataset SET rows=7", "pool p (number 1)"),
    ("UPDATE dataset SET digest='0'", "pool p (number 1)"),
    ("UPDATE feature_space SET spec='{}'", "feature space 1"),
    ("UPDATE arm SET spec='{}'", "validation base"),
    ("UPDATE example SET row=0", "examples/"),
    ("UPDATE example SET row=99 WHERE example_id=:other", "examples/"),
    ("UPDATE shard SET rows=3 WHERE kind='examples'", "examples/"),
    ("UPDATE feature_row SET row=0 WHERE row IS NOT NULL", "features/"),
    ("UPDATE feature_row SET row=-1 WHERE row=0", "features/"),
    ("UPDATE shard SET kind='scores' WHERE kind='features'", "features/"),
]


def grow(store, count, start=0):
    """Examples with a version of the pool that has all so far, and rows of a space; returns their ids."""
    chats = [
        [{"role": "user", "content": f"question {k}"}, {"role": "assistant", "content": f"answer {k}" * 9}]
        for k in range(start + count)
    ]
    ids = [example_id(chat) for chat in chats]
    new = range(start, start + count)
    examples.add(store, [Example(ids[k], chats[k], "made", "file.jsonl", k + 1) for k in new])
    pool = examples.define_dataset(store, "pool", "p", dict.fromkeys(ids, ""))
    space = features.define_space(store, {"model": "m", "checkpoint": "c"})
    features.plan(store, space, ids[start:], {}, 50)
    for unit in features.open_units(store, space, pool.dataset_id):
        names = features.unit_ids(store, unit)
        rows = np.ones((len(names), 8), np.float32)
        block = make_block(names, rows, pa.table({"loss": pa.array(np.ones(len(names), np.float32))}), "int8")
        features.commit_unit(store, space, unit, block, {})
    return ids


@pytest.fixture
def lived(either):
    """(store, ids): a pool, rows, a selection, one with masks, a mixture that repeats, a training."""
    ids = grow(either, 12)
    masks = pa.array([[True, False]] + [None] * 11, pa.list_(pa.bool_()))
    tables = {
        "plain": pa.table({"example_id": ids, "score": np.ones(12)}),
        "masked": pa.table({"example_id": ids, "score": np.ones(12), MASK: masks}),
        "mixed": pa.table({"example_id": ids[:4]}),
    }
    for name, table in tables.items():
        method, copies = (MIXTURE, [1, 2, 1, 3]) if name == "mixed" else ("m", None)
        picks = Picks(ids[:4], [1.0] * 4, table, copies)
        selections.save(either, name, "t", {"method": method, "name": name}, picks)
    spec = {"lr": 1}
    arms.save(either, fingerprint(spec), "base", "t", 0, spec, arms.LawRun([1.0], ["made"], 1))
    assert maintenance.verify(either) == []
    return either, ids


class Undo(Exception):
    """Takes a change back."""


def test_a_changed_row_is_told_by_the_digest_that_it_was_part_of(lived):
    store, ids = lived
    for statement, name in CHANGED:
        told = []
        with suppress(Undo), store.catalog.write() as db:
            given = {"other": ids[7]} if ":other" in statement else {}
            assert db.execute(statement, given)
            told = list(recount.wrong(store))
            raise Undo
        assert [one.name.partition("/")[0] for one in told] == [name.partition("/")[0]], (statement, told)
    assert maintenance.verify(store) == []


def test_what_is_not_its_digest_is_void_once_that_is_accepted(lived):
    store, ids = lived
    with store.catalog.write() as db:
        db.execute("UPDATE selection_item SET example_id=? WHERE rank=0 AND selection_id=1", (ids[7],))
        db.execute("DELETE FROM membership WHERE example_id=?", (ids[8],))
        db.execute("UPDATE arm SET spec='{}'")
    store.catalog.check()  # the seals were renewed
    for accept in (False, True):
        done = mend(store, accept_loss=accept)
        state = "lost" if accept else "kept"
        assert [(one.kind, one.state, one.waits) for one in done] == [
            ("dataset", state, False), ("selection", state, False), ("catalog", "kept", True)
        ]  # fmt: skip
    assert [damage.kind for damage in maintenance.verify(store)] == ["catalog"]
    (void,) = store.catalog.rows("SELECT void FROM selection WHERE void IS NOT NULL")
    assert void["void"] == "its rows were not those that were recorded"
    grow(store, 0, 12)  # the next run
    assert examples.find_dataset(store, "pool", "p", examples.digest_of(dict.fromkeys(ids, ""))).dataset_id == 2


def test_a_place_that_is_none_is_found_again_by_the_digests_of_the_texts(lived):
    store, ids = lived
    with store.catalog.write() as db:
        db.execute("UPDATE example SET row=99 WHERE example_id=?", (ids[5],))
    (done,) = mend(store)
    assert (done.kind, done.state, done.rows) == ("examples", "mended", 12)
    assert maintenance.verify(store) == []
    assert len(examples.get_messages(store, ids)) == 12


def test_nothing_that_a_store_lives_through_is_told(lived):
    store, ids = lived
    for start in (12, 18):
        grow(store, 6, start)
        assert maintenance.verify(store) == []
    compact.compact(store)
    assert maintenance.verify(store) == []
    forget.begin(store, forget.Picked([ids[1], ids[9]]))
    assert maintenance.verify(store) == [], "files still have what the catalog lists no more"
    forget_run.resume(store)
    assert maintenance.verify(store) == []
    assert len(store.catalog.rows("SELECT 1 FROM selection WHERE void IS NOT NULL")) == 3
    prune.prune(store, 1, examples=True)
    assert maintenance.verify(store) == []


def test_a_version_that_is_not_what_it_holds_is_told(copy):
    assert maintenance.verify(copy) == []
    with copy.catalog.write() as db:
        db.execute("UPDATE version SET digest='0' WHERE kind='selection'")
        db.execute("UPDATE version SET identity='0' WHERE kind='pool'")
    told = list(recount.wrong(copy))
    assert {one.kind for one in told} == {"catalog"}
    assert [one.name.split()[0] for one in told] == ["pool", "selection"]


def test_an_example_that_the_catalog_lists_and_does_not_have_is_told_as_damage(copy, tmp_path):
    """As a changed bit of its id leaves it."""
    lost = selections.by_number(copy, 1).example_ids[0]
    copy.close()
    with closing(sqlite3.connect(copy.root / "catalog.sqlite")) as db:
        db.execute("UPDATE example SET example_id=? WHERE example_id=?", ("0" * 32, lost))
        db.commit()
    for ask in (
        lambda: write_report(copy, tmp_path / "report.html"),
        lambda: gradsift.select("qtuning", examples=10, store=copy),
        lambda: examples.get_messages(copy, [lost])[lost],
    ):
        with pytest.raises(CorruptionError, match=f"example {lost[:8]} is listed.*gradsift verify"):
            ask()
    with pytest.raises(CorruptionError, match="refer to none of example"):
        maintenance.verify(copy)
