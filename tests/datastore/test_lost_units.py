"""Whoever is held up for longer than the lease of its unit commits nothing when it goes on: another has the unit."""

import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
from running import start

from gradsift.datastore import examples, features, leases
from gradsift.datastore.place import Place
from gradsift.datastore.rows import make_block
from gradsift.datastore.store import Store

HELD_UP = """
import pickle, sys
sys.path[:0] = {paths!r}
from gradsift.datastore import features, leases
from gradsift.datastore.store import Store
import lost_units_helper as t
place, space, unit = pickle.loads({given!r})
with Store(place, create=False) as store, leases.held(store, f"unit/{{unit}}", ttl=1.0) as lease:
    ids = features.unit_ids(store, unit)
    print("claimed", flush=True)
    sys.stdin.readline()
    print(features.commit_unit(store, space, unit, t.block(ids, 1.0), {{}}, lease), flush=True)
"""


def block(ids, value):
    """Rows that say who computed them: `loss` is the value."""
    import numpy as np
    import pyarrow as pa

    signals = pa.table({"loss": pa.array(np.full(len(ids), value, np.float32))})
    return make_block(ids, np.eye(len(ids), 64, dtype=np.float32), signals, "int8")


def fill(store):
    from gradsift.datastore.examples import Example
    from gradsift.datastore.identity import example_id

    chats = [[{"role": "user", "content": f"q {k}"}, {"role": "assistant", "content": f"a {k}"}] for k in range(10)]
    examples.add(store, [Example(example_id(chat), chat, "made", "file.jsonl", k + 1) for k, chat in enumerate(chats)])
    pool = examples.define_dataset(store, "pool", "p", {example_id(chat): "" for chat in chats})
    space = features.define_space(store, {"model": "m", "transform": "sgd", "projector": {"dim": 64, "seed": 0}})
    features.plan(store, space, pool.example_ids, {}, 10)
    return space, features.open_units(store, space, pool.dataset_id)[0]


def losses(store, space):
    return [value for rows in features.read(store, space) for value in rows.signals["loss"].to_pylist()]


@pytest.fixture(params=["folder", "shared"])
def place(request, tmp_path):
    if request.param == "folder":
        return Place(tmp_path / "store")
    return Place(tmp_path / "store", request.getfixturevalue("catalog_url"), request.getfixturevalue("bucket").url())


def test_a_worker_that_was_stopped_commits_nothing_once_another_has_its_unit(place, tmp_path):
    (tmp_path / "lost_units_helper.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    with Store(place) as store:
        space, unit = fill(store)
        given = pickle.dumps((store.place, space, unit))
        paths = [str(tmp_path), str(Path(__file__).parent.parent)]
        worker = start("-c", HELD_UP.format(paths=paths, given=given), stdin=-1)
        try:
            assert worker.stdout.readline() == "claimed\n", worker.communicate()[1]
            name = f"unit/{unit}"
            assert leases.is_held(store, name)
            os.kill(worker.pid, signal.SIGSTOP)
            while leases.is_held(store, name):
                threading.Event().wait(0.05)
            with leases.held(store, name) as lease:
                assert lease
                ids = features.unit_ids(store, unit)
                os.kill(worker.pid, signal.SIGCONT)  # goes on while another has it, before that one has committed
                said, errors = worker.communicate("go on\n", timeout=3_600)
                assert said == "False\n", errors
                assert losses(store, space) == []
                assert features.commit_unit(store, space, unit, block(ids, 2.0), {}, lease)
        finally:
            worker.kill()
            worker.wait()
        assert losses(store, space) == [2.0] * 10
        assert [row["n"] for row in store.catalog.rows("SELECT count(*) AS n FROM shard WHERE kind='features'")] == [1]
        (only,) = store.backend.list("features")  # the loser's file is not there either
        assert only.finished


def test_a_lease_that_ran_out_and_that_nobody_took_still_commits(store):
    space, unit = fill(store)
    with leases.held(store, f"unit/{unit}") as lease:
        with store.catalog.write() as db:
            db.execute("UPDATE lease SET expires=0 WHERE name=?", (f"unit/{unit}",))
        assert features.commit_unit(store, space, unit, block(features.unit_ids(store, unit), 1.0), {}, lease)
    assert losses(store, space) == [1.0] * 10


def test_a_lease_that_another_took_and_gave_back_is_lost_all_the_same(store):
    space, unit = fill(store)
    with leases.held(store, f"unit/{unit}") as lease:
        with store.catalog.write() as db:
            db.execute("UPDATE lease SET expires=0 WHERE name=?", (f"unit/{unit}",))
        assert leases.acquire(store, f"unit/{unit}", "other:1:2:3")
        leases.release(store, f"unit/{unit}", "other:1:2:3")
        assert not features.commit_unit(store, space, unit, block(features.unit_ids(store, unit), 1.0), {}, lease)
    assert losses(store, space) == []
    assert features.is_open(store, unit)
