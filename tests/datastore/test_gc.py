"""Garbage is collected beside whoever writes, on hosts whose clocks are a day off, and no live file goes."""

import threading
import time

import pytest

import gradsift
from gradsift.datastore import examples, files, holders, leases, maintenance, runs, selections
from gradsift.datastore.compact import compact
from gradsift.datastore.errors import BusyError, CorruptionError, DiskError, StoreFullError, UnavailableError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.index_build import build
from gradsift.datastore.lives import ending
from gradsift.datastore.place import Place
from gradsift.datastore.runs import Recipes
from gradsift.datastore.store import Store
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.whole import damaged
from gradsift.pipelines.runs.revalidate import revalidate

DAY = 86_400.0
CLOCK = time.time


def off(monkeypatch, seconds):
    monkeypatch.setattr(time, "time", lambda: CLOCK() + seconds)


@pytest.mark.parametrize("seconds", [-DAY, 0.0, DAY])
def test_a_young_file_is_young_whatever_the_clock_says(store, monkeypatch, seconds):
    for kind in ("features", "scores"):
        store.backend.write(kind, ".bin", lambda handle: handle.write(b"x"))
    off(monkeypatch, seconds)
    assert maintenance.collect(store) == []
    assert len(maintenance.collect(store, grace=-1)) == 2


@pytest.mark.parametrize("seconds", [-DAY, 0.0, DAY])
def test_a_holder_that_lives_is_asked_whatever_the_clock_says(either, monkeypatch, seconds):
    run_id = runs.start(either, "r", Recipes({}, {}))
    with ending(either, run_id):
        off(monkeypatch, seconds)
        with pytest.raises(BusyError, match=f"a run is working on this store .run {run_id}"):
            maintenance.collect(either, grace=-1)
    assert maintenance.collect(either, grace=-1) == []


@pytest.mark.parametrize("seconds", [-DAY, DAY])
def test_a_lease_of_another_host_goes_by_the_catalogs_clock(catalog_url, tmp_path, monkeypatch, seconds):
    with Store(Place(tmp_path / "shared", catalog_url, (tmp_path / "files").as_uri())) as store:
        assert leases.acquire(store, "run 7", "elsewhere:7:99:1")
        off(monkeypatch, seconds)
        with pytest.raises(BusyError, match="run 7"):
            maintenance.collect(store, grace=-1)
        with store.catalog.write() as db:
            db.execute("UPDATE lease SET expires = expires - 1000")
        assert maintenance.collect(store, grace=-1) == []


def test_where_nobody_knows_whether_a_holder_lives_its_lease_goes_by_the_clock(store, monkeypatch):
    """A system without /proc."""
    monkeypatch.setattr(holders, "_process_start", lambda _pid: holders.UNKNOWN)
    monkeypatch.setattr(holders, "_system", lambda: "")
    assert leases.acquire(store, "export to abc", holders.holder_name())
    with pytest.raises(BusyError, match="export to abc"):
        maintenance.collect(store)
    with store.catalog.write() as db:
        db.execute("UPDATE lease SET expires=1")
    assert maintenance.collect(store) == []


@pytest.mark.parametrize("error", [DiskError, StoreFullError, CorruptionError, UnavailableError])
def test_a_disk_that_fails_once_ends_no_lease(store, monkeypatch, error):
    renewed, renew = threading.Event(), leases._renew
    failed = []

    def once(*arguments):
        if not failed:
            failed.append(1)
            raise error("once")
        renew(*arguments)
        renewed.set()

    monkeypatch.setattr(leases, "_renew", once)
    with leases.held(store, "unit x", ttl=0.2):
        assert renewed.wait(60)


def test_a_holder_that_died_holds_up_nobody(store):
    host, _, start = holders.process_name().split(":")
    assert leases.acquire(store, "run 7", f"{host}:{2**22 + 1}:{start}:1")
    assert maintenance.collect(store, grace=-1) == []


def small(start):
    """Chats of a shard of its own."""
    for number in range(start, start + 4):
        chat = [{"role": "user", "content": f"ask {number}"}, {"role": "assistant", "content": "say"}]
        yield Example(example_id(chat), chat, "made", "f", number)


def grown(store):
    for start in range(0, 40, 4):
        examples.add(store, [*small(start)])
    return compact(store)


WORK = {
    "select": lambda store: gradsift.select("random", examples=9, store=store),
    "mix": lambda store: gradsift.mix({"examples": 9}, name="mixed", store=store),
    "index": lambda store: build(store, 1),
    "compact": grown,
}


def collected(store, monkeypatch, seconds):
    """What another process collects whose clock is off, or what it is told."""
    with monkeypatch.context() as clock, Store(store.root, create=False) as other:
        off(clock, seconds)
        try:
            return maintenance.collect(other)
        except BusyError as error:
            return str(error)


@pytest.mark.parametrize("seconds", [-DAY, DAY])
@pytest.mark.parametrize("work", WORK)
def test_beside_what_writes_nothing_is_deleted(copy, monkeypatch, work, seconds):
    """When a file is there and not yet in the catalog, another process collects with a clock that is a day off: it is
    told that somebody is at work, or finds the file too young."""
    seen = []

    def collect(step):
        if step == "renamed":
            seen.append(collected(copy, monkeypatch, seconds))

    with monkeypatch.context() as patch:
        patch.setattr(files, "failpoint", collect)
        WORK[work](copy)
    assert seen
    assert all(one == [] or "is working on this store" in one for one in seen)
    assert any(one for one in seen)  # somebody was at work
    assert maintenance.verify(copy) == []


@pytest.mark.parametrize("seconds", [-DAY, DAY])
@pytest.mark.parametrize("work", ["export", "validate"])
def test_beside_an_export_and_a_validation_nothing_is_deleted(copy, tmp_path, monkeypatch, work, seconds):
    """At each word of their progress, as above: what is half made stays, and what comes out is whole."""
    seen = []

    def collect(*_):
        seen.append(collected(copy, monkeypatch, seconds))

    if work == "export":
        chosen = selections.get(copy, "small-sql")
        folder = export(copy, chosen, runs.recipe_of(copy, chosen), tmp_path / "out", progress=collect)
        assert damaged(folder) == {}
    else:
        settings = {"seeds": [7], "epochs": 1, "test_rows": 4, "arms": ["random"]}
        assert revalidate(copy, settings, progress=collect).arms
    assert seen
    assert all("is working on this store" in one for one in seen), "not one moment without somebody who is known"
    assert maintenance.verify(copy) == []
