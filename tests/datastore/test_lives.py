"""How runs live and end: those whose process was killed are found, and nothing is said of one that goes on."""

import signal
import time

import pytest
from running import start

from gradsift.datastore import holders, leases, lives, maintenance, runs
from gradsift.datastore.errors import BusyError
from gradsift.datastore.place import Place
from gradsift.datastore.runs import Recipes
from gradsift.datastore.store import Store

RECIPES = Recipes({"name": "sums"}, {"name": "sums"})
RUN_AND_WAIT = """
import sys, time
from gradsift.datastore import leases, runs
from gradsift.datastore.runs import Recipes
from gradsift.datastore.store import Store
with Store(sys.argv[1]) as store, leases.held(store, leases.RUN):
    runs.start(store, "sums", Recipes({"name": "sums"}, {"name": "sums"}))
    print("begun", flush=True)
    time.sleep(3600)
"""


def states(store):
    return [life.state for life in lives.lives(store)]


def test_a_run_whose_process_was_killed_is_found_and_closed(store):
    process = start("-c", RUN_AND_WAIT, store.root)
    assert process.stdout.readline() == "begun\n"
    assert states(store) == ["running"]
    assert lives.close_dead(store) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (life,) = lives.lives(store)
    assert (life.state, life.is_dead, life.holder.split(":")[1]) == ("crashed", True, str(process.pid))
    assert life.started <= life.ended <= time.time()
    assert lives.close_dead(store) == [life]
    (closed,) = lives.lives(store)
    assert (closed.state, closed.closed, closed.ended) == ("crashed", True, life.ended)
    assert lives.close_dead(store) == []


@pytest.mark.parametrize(("error", "state"), [(ValueError("x"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_run_that_raises_says_how_it_ended(store, error, state):
    run_id = runs.start(store, "sums", RECIPES)
    assert states(store) == ["running"]
    with pytest.raises(type(error)), lives.ending(store, run_id):
        raise error
    assert states(store) == [state]
    assert lives.close_dead(store) == []


def test_a_run_of_another_host_lives_as_long_as_its_lease(store):
    run_id = runs.start(store, "sums", RECIPES)
    with store.catalog.write() as db:
        db.execute("UPDATE run SET holder='elsewhere:7:99' WHERE run_id=?", (run_id,))
    assert leases.acquire(store, leases.RUN, "elsewhere:7:99:1")
    assert states(store) == ["running"]
    with store.catalog.write() as db:
        db.execute("UPDATE lease SET expires = expires - 1000")
    (life,) = lives.close_dead(store)
    assert life.state == "crashed"


def test_a_run_without_the_stores_lease_is_seen_at_work(store):
    """A validation or a selection: other hosts see that it lives, and nothing is deleted beside it."""
    run_id = runs.start(store, "sums", RECIPES)
    with lives.ending(store, run_id):
        with store.catalog.write() as db:  # as another host sees it
            db.execute("UPDATE run SET holder='elsewhere:7:99'")
            db.execute("UPDATE lease SET holder='elsewhere:7:99:1'")
        assert states(store) == ["running"]
        assert lives.close_dead(store) == []
        with pytest.raises(BusyError, match="a run is working"):
            maintenance.collect(store)
        with leases.alone(store, "delete"), pytest.raises(BusyError, match=f"run {run_id} is being worked on"):
            leases.require_no_other(store, "delete")
        with store.catalog.write() as db:
            db.execute("UPDATE lease SET holder=?", (holders.holder_name(),))
    assert leases.all_held(store, "") == set()


def test_a_finished_run_has_what_it_made(finished):
    with Store(finished[1], create=False) as store:
        (life,) = lives.lives(store)
    assert (life.state, life.closed) == ("finished", True)
    assert life.made == ("pool@1", "small-sql@1")  # its pool and its selection


def test_a_run_that_an_older_version_left_open_is_dead(store):
    runs.start(store, "sums", RECIPES)
    with store.catalog.write() as db:
        db.execute("UPDATE run SET holder=NULL")
    assert [life.is_dead for life in lives.lives(store)] == [True]


def test_a_shared_catalog_knows_the_same(catalog_url, tmp_path):
    place = Place(tmp_path / "shared", catalog_url, (tmp_path / "files").as_uri())
    with Store(place) as store:
        run_id = runs.start(store, "sums", RECIPES)
        assert states(store) == ["running"]
        with store.catalog.write() as db:
            db.execute("UPDATE run SET holder='elsewhere:7:99' WHERE run_id=?", (run_id,))
        assert [life.state for life in lives.close_dead(store)] == ["crashed"]
        assert lives.close_dead(store) == []
