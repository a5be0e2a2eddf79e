"""A store on an S3 server behind a network that fails: work goes on or ends in a clear error, never in wrong bytes and
never in a row without its object. And writers that are killed at each step of a commit."""

import signal
import threading
import time

import pytest
from running import ROOT, python, start

from gradsift.datastore import examples, files, maintenance
from gradsift.datastore import s3 as seam
from gradsift.datastore.errors import BusyError, CorruptionError, UnavailableError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.objects import ObjectFiles
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store, doom
from gradsift.datastore.testing import CONTENT, put

PATHS = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'datastore'}"
FAULTS = ("500", "503", "reset", "refuse", "hold", "lost")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Short waits: for answers, and between tries."""
    monkeypatch.setattr(seam, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)


@pytest.fixture
def backend(bucket, faulty, tmp_path):
    return ObjectFiles(bucket.url(faulty[0]), tmp_path / "cache")


@pytest.fixture
def place(bucket, faulty, tmp_path):
    """A store whose catalog is in a folder, and whose files are behind the proxy."""
    return Place(tmp_path / "store", None, bucket.url(faulty[0]))


def fetched(backend, file):
    """The bytes of a file, of which this host has no copy."""
    backend.keep(list)
    return backend.open(file).read()


def uses(backend, file):
    """(method, what asks S3 by it): all that a back-end asks for; the file is gone after the last."""
    return [
        ("PUT", lambda: put(backend)),
        ("HEAD", lambda: backend.there(file)),
        ("HEAD", lambda: backend.check(file)),
        ("GET", lambda: backend.check(file)),
        ("GET", lambda: fetched(backend, file)),
        ("GET", lambda: list(backend.list("features"))),
        ("DELETE", lambda: backend.delete(file.name)),
    ]


# One answer that goes wrong, and a server that is gone


@pytest.mark.parametrize("kind", [*FAULTS, "delay"])
def test_one_fault_is_outlived_by_all_that_is_asked(backend, bucket, faulty, monkeypatch, kind):
    if kind == "delay":  # a slow server is no dead one
        monkeypatch.setattr(seam, "SILENT_SECONDS", 15)
    file = put(backend)
    for method, use in uses(backend, file):
        faulty[1].plan(kind, method)
        use()
        assert not faulty[1].planned, "was not met"
    assert list(bucket.content().values()) == [CONTENT]  # of the second put


@pytest.mark.parametrize("kind", FAULTS)
def test_a_server_that_stays_away_is_a_clear_error_for_all_that_is_asked(backend, bucket, faulty, monkeypatch, kind):
    monkeypatch.setattr(seam, "ATTEMPTS", 2)
    file = put(backend)
    for method, use in uses(backend, file):
        faulty[1].plan(kind, method, times=100)
        with pytest.raises(UnavailableError, match=rf"{faulty[0]}.*same command again"):
            use()
        faulty[1].planned.clear()
    kept = {name for name, content in bucket.content().items() if content == CONTENT}
    assert kept == set(bucket.content())  # a put or a delete whose answer was lost was done, whole
    assert [path.name for path in backend.cache.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["cut", "short"])
def test_a_truncated_object_is_fetched_again(backend, faulty, kind):
    """Whether the server said how long it would be, or not."""
    file = put(backend)
    for use, expected in (
        (lambda: fetched(backend, file), CONTENT),
        (lambda: backend.check(file), None),
    ):
        faulty[1].plan(kind, "GET")
        assert use() == expected
        assert not faulty[1].planned


def test_an_object_that_comes_truncated_each_time_is_damaged_and_no_copy_is_kept(backend, faulty):
    file = put(backend)
    for use in (lambda: fetched(backend, file), lambda: backend.check(file)):
        faulty[1].plan("short", "GET", times=2)
        with pytest.raises(CorruptionError, match=f"{file.name} has {len(CONTENT) // 2} bytes"):
            use()
        assert not faulty[1].planned
    assert list(backend.cache.folder.iterdir()) == []
    assert fetched(backend, file) == CONTENT


@pytest.mark.parametrize("kind", ["cut", "short"])
def test_a_truncated_listing_is_asked_for_again_or_an_error_and_never_a_part_of_it(backend, faulty, kind):
    names = sorted(put(backend, CONTENT + bytes([k])).name for k in range(3))
    faulty[1].plan(kind, "GET", times=100)
    with pytest.raises(UnavailableError):
        list(backend.list("features"))
    faulty[1].planned.clear()
    assert [found.name for found in backend.list("features")] == names


# Commits


def chat(number):
    return [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]


def add(store, *numbers):
    examples.add(store, [Example(example_id(chat(k)), chat(k), "made", "file.jsonl", k + 1) for k in numbers])


def held(store):
    """Numbers of the examples of a store, each read from its shard."""
    ids = [row["example_id"] for row in store.catalog.rows("SELECT example_id FROM example")]
    texts = examples.get_messages(store, ids)
    return sorted(int(texts[i][0]["content"].split()[1]) for i in ids)


def is_whole(store, bucket, *numbers):
    """These examples, each once, in objects that the catalog knows, and nothing else in the bucket."""
    assert held(store) == list(numbers)
    assert maintenance.verify(store) == []
    known = {row["name"] for row in store.catalog.rows("SELECT name FROM shard")}
    assert {name for name in bucket.content() if not name.startswith("owner/")} == known
    assert bucket.uploads() == []
    return True


@pytest.mark.parametrize(
    ("kind", "method", "after"),
    [("500", "PUT", 0), ("lost", "PUT", 0), ("hold", "PUT", 0), ("reset", "HEAD", 0), ("503", "HEAD", 1)],
)
def test_a_commit_that_fails_is_none_and_the_same_again_goes_on(place, bucket, faulty, kind, method, after):
    with Store(place) as store:
        add(store, 1)
        faulty[1].plan(kind, method, times=1000, after=after)
        with pytest.raises(UnavailableError):
            add(store, 2)
        faulty[1].planned.clear()
        assert held(store) == [1]
        add(store, 2)
        assert held(store) == [1, 2]
        assert maintenance.collect(store) == []  # too young
        maintenance.collect(store, grace=-1)
        assert is_whole(store, bucket, 1, 2)


def test_a_lost_race_is_lost_quietly_also_where_its_object_cannot_be_deleted(place, bucket, faulty):
    with Store(place) as store:
        add(store, 1)
        faulty[1].plan("500", "DELETE", times=1000)
        made = store.commit_file("features", ".bin", 1, lambda handle: handle.write(CONTENT), lambda db, shard: False)
        assert made is None
        faulty[1].planned.clear()
        assert len(maintenance.collect(store, grace=-1)) == 1
        assert is_whole(store, bucket, 1)


def test_damage_on_the_way_names_the_shard_and_is_gone_when_the_network_is_well(place, faulty):
    with Store(place) as store:
        add(store, 1)
        store.backend.keep(list)
        faulty[1].plan("short", "GET", times=2)
        with pytest.raises(CorruptionError, match=r"shard 1 \(examples\).*bytes, not"):
            held(store)
        assert held(store) == [1]


CRASH = """
import os, sys
from pathlib import Path
from gradsift.datastore import files
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
import test_objects_faults as t
store = Store(Place(Path(sys.argv[1]), None, sys.argv[2]))
t.add(store, 1)
files.failpoint = lambda step: os._exit(137) if step == sys.argv[3] else None
t.add(store, 2)
"""


@pytest.mark.parametrize("step", ["written", "put", "recorded", "committed"])
def test_promise_1_visible_if_and_only_if_committed(place, bucket, step):
    """A process dies at each step; its object is part of the store or garbage, and work goes on."""
    python("-c", CRASH, place.root, place.store_url, step, code=137, PYTHONPATH=PATHS)
    with Store(place) as store:
        assert held(store) == ([1, 2] if step == "committed" else [1])
        assert {path.name for path in store.backend.cache.folder.iterdir()} <= store._digests()
        assert maintenance.verify(store) == []
        add(store, 2, 3)
        assert maintenance.collect(store) == []  # too young: its writer may be about to commit
        assert len(maintenance.collect(store, grace=-1)) == (1 if step in ("put", "recorded") else 0)
        assert is_whole(store, bucket, 1, 2, 3)


LARGE = """
import sys
from pathlib import Path
from gradsift.datastore import s3
from gradsift.datastore.place import Place
from gradsift.datastore.store import Store
s3.PART_BYTES = 5 << 20
store = Store(Place(Path(sys.argv[1]), None, sys.argv[2]))
store.commit_file("features", ".bin", 1, lambda handle: handle.write(bytes(11 << 20)), lambda db, shard: None)
"""


def test_parts_of_a_writer_that_was_killed_are_collected(place, bucket, faulty):
    """`kill -9` between two parts."""
    faulty[1].plan("hold", "PUT", after=2)  # whose files they are, and a part
    process = start("-c", LARGE, place.root, place.store_url)
    faulty[1].held.wait()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(bucket.uploads()) == 1
    with Store(place) as store:
        add(store, 1)
        assert maintenance.collect(store) == []  # too young: it may go on
        ((name, _),) = maintenance.collect(store, grace=-1)
        assert name.startswith("features/")
        assert is_whole(store, bucket, 1)
        assert list(store.backend.cache.folder.glob(".*")) == []


def test_a_writer_whose_object_was_collected_commits_nothing(place, bucket, monkeypatch):
    with Store(place) as store, Store(place) as other:
        add(store, 1)
        monkeypatch.setattr(
            files, "failpoint", lambda step: step == "put" and maintenance.collect(other, grace=-1) and None
        )
        with pytest.raises(BusyError, match="run this again"):
            add(store, 2)
        monkeypatch.undo()
        assert is_whole(store, bucket, 1)


def test_gc_deletes_nothing_that_was_committed_after_it_looked(place, bucket, monkeypatch):
    with Store(place) as store, Store(place) as other:
        at_put, go_on = threading.Event(), threading.Event()

        def step(reached):
            if reached == "put":
                at_put.set()
                go_on.wait()

        monkeypatch.setattr(files, "failpoint", step)
        writer = threading.Thread(target=add, args=(store, 1))
        writer.start()
        at_put.wait()
        listed = ObjectFiles.list

        def then_commit(self, kind):
            found = list(listed(self, kind))
            if kind == "examples":
                go_on.set()
                writer.join()
            return iter(found)

        monkeypatch.setattr(ObjectFiles, "list", then_commit)
        assert maintenance.collect(other, grace=-1) == []
        monkeypatch.undo()
        assert is_whole(store, bucket, 1)


def test_ages_are_by_the_servers_clock(place, monkeypatch):
    """A host whose clock is a day ahead collects no file that is being committed."""
    with Store(place) as store:
        put(store.backend)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        assert maintenance.garbage(store) == []


def test_a_copy_of_what_left_the_store_goes_when_another_host_opens_it(place, tmp_path):
    """Each host has copies of what it read; the catalog, in this test, is one file for both."""
    elsewhere = ObjectFiles(place.store_url, tmp_path / "elsewhere")
    with Store(place) as store, Store(place, backend=elsewhere) as other:
        add(store, 1)
        add(store, 2)
        assert held(other) == [1, 2]
        (gone, kept) = (row["sha256"] for row in store.catalog.rows("SELECT sha256 FROM shard ORDER BY shard_id"))
        with store.catalog.write() as db:
            db.execute("DELETE FROM origin WHERE line=2")
            db.execute("DELETE FROM example WHERE shard_id=1")
            doom(db, [1])
        assert store.sweep() == 1
        assert [path.name for path in store.backend.cache.folder.iterdir()] == [kept]
        assert (tmp_path / "elsewhere" / gone).exists()
    with Store(place, backend=elsewhere):
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [kept]
