"""Connections that are lost, a server that dies, and many writers: nothing is lost, and nothing is there twice."""

import time
from collections import Counter
from pathlib import Path

import pytest
import writers
from postgres import Line, Server
from running import PATIENCE, start
from writers import SPEC, UNIT_ROWS, block_of, some_examples

from gradsift.datastore import examples, features, leases, maintenance, postgres
from gradsift.datastore.errors import CorruptionError, UnavailableError
from gradsift.datastore.postgres import PostgresEngine
from gradsift.datastore.store import Store
from gradsift.datastore.testing_engine import LEASE, names, put

WRITERS = Path(writers.__file__)


def terminate(server, engine):
    """Cut off everybody who works on a catalog, as an administrator or a restart does."""
    with server.connect() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid IN "
            "(SELECT pid FROM pg_stat_activity WHERE application_name = %s)",
            [engine.schema],
        )


@pytest.fixture
def engine(postgres):
    """An engine whose connections the server can tell from others."""
    schema = f"lost_{time.monotonic_ns()}"
    opened = PostgresEngine(f"{postgres.url(schema)}&application_name={schema}")
    yield opened
    opened.close()


@pytest.fixture
def line(postgres):
    opened = Line(postgres)
    yield opened
    opened.close()


@pytest.fixture
def far(line, catalog_url):
    """An engine at the other end of a line that can be cut."""
    opened = PostgresEngine(line.url(catalog_url.partition("schema=")[2]))
    yield opened
    opened.close()


@pytest.fixture
def planned(tmp_path, far):
    """(store, space, its one unit)"""
    with Store(tmp_path / "store", catalog=far) as store:
        batch = some_examples(4)
        examples.add(store, batch)
        space = features.define_space(store, SPEC)
        features.plan(store, space, [example.example_id for example in batch], {}, 4)
        (row,) = far.rows("SELECT unit_id FROM unit")
        yield store, space, row["unit_id"]


def assert_whole(store, space, units=1):
    """Each unit has one shard, each example one row, and there is no file that nobody refers to."""
    rows = [i for block in features.read(store, space) for i in block.example_ids]
    assert len(rows) == len(set(rows)) == store.catalog.one("SELECT count(*) AS n FROM example")["n"]
    assert store.catalog.one("SELECT count(*) AS n FROM shard WHERE kind='features'")["n"] == units
    assert maintenance.verify(store) == []
    assert len(list(store.backend.list("features"))) == units


def test_a_read_goes_on_over_a_new_connection(engine, postgres):
    put(engine, "a")
    terminate(postgres, engine)
    assert names(engine) == ["a"]


def test_a_transaction_that_has_not_begun_begins_over_a_new_connection(engine, postgres):
    put(engine, "a")
    terminate(postgres, engine)
    put(engine, "b")
    assert names(engine) == ["a", "b"]


def test_a_transaction_that_is_cut_off_says_that_nothing_was_recorded(engine, postgres):
    def cut(read):
        with engine.write() as db:
            db.execute(LEASE, ("lost",))
            terminate(postgres, engine)
            names(engine if read else db)  # not over another connection: it would not see what this one wrote

    for read in (True, False):
        with pytest.raises(
            UnavailableError, match=r"nothing of its last change was recorded\. Run the same command again"
        ):
            cut(read)
        assert names(engine) == []


@pytest.mark.parametrize(("what", "known"), [("before", []), ("after", ["a"])])
def test_a_lost_answer_to_commit_leaves_it_open_whether_it_was_recorded(far, line, what, known):
    line.cut_next(what)
    with pytest.raises(UnavailableError, match="whether its last change was recorded is not known"):
        put(far, "a")
    assert names(far) == known


@pytest.mark.parametrize("what", ["before", "after"])
def test_a_shard_is_committed_once_whatever_became_of_commit(planned, line, what):
    store, space, unit = planned
    line.cut_next(what)
    assert features.commit_unit(store, space, unit, block_of(features.unit_ids(store, unit)), {})
    assert_whole(store, space)


def test_a_shard_is_committed_once_when_its_transaction_is_cut_off(tmp_path, engine, postgres):
    calls = []

    def record(db, _shard):
        db.execute(LEASE, ("with it",))
        if not calls:
            terminate(postgres, engine)
        calls.append(_shard)
        db.one("SELECT 1")

    with Store(tmp_path / "store", catalog=engine) as store:
        made = store.commit_file("scores", ".bin", 1, lambda handle: handle.write(b"x"), record)
        assert calls == [made, made]
        assert [row["shard_id"] for row in engine.rows("SELECT shard_id FROM shard")] == [made]
        assert len(list(store.backend.list("scores"))) == 1
    assert names(engine) == ["with it"]


def test_a_file_stays_until_it_is_known_that_it_was_not_committed(tmp_path, far, line, monkeypatch):
    """The answer is lost each time, and then the catalog cannot be asked: the file may be part of the store."""
    monkeypatch.setattr("gradsift.datastore.engine.TRIES", 1)
    with Store(tmp_path / "store", catalog=far) as store:
        for what, left in (("before", 0), ("after", 1)):
            line.cut_next(what)
            with pytest.raises(UnavailableError):
                store.commit_file("scores", ".bin", 1, lambda handle: handle.write(b"x"), lambda _db, _shard: None)
            assert len(list(store.backend.list("scores"))) == left == far.one("SELECT count(*) AS n FROM shard")["n"]


@pytest.mark.parametrize("what", ["before", "after"])
def test_a_lease_is_taken_and_given_back_whatever_became_of_commit(tmp_path, far, line, what):
    with Store(tmp_path / "store", catalog=far) as store:
        line.cut_next(what)
        with leases.held(store, "unit") as mine:
            assert mine
            line.cut_next(what)
        assert names(far) == []


def test_a_server_that_stays_away_is_told_after_a_while(monkeypatch):
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 0.2)
    server = Server()
    engine = PostgresEngine(server.url("away"))
    server.close()
    for use in (names, lambda engine: put(engine, "a"), lambda engine: engine.now()):
        with pytest.raises(UnavailableError, match=r"schema away of database gradsift on 127.0.0.1 .*run this again"):
            use(engine)


@pytest.fixture
def server():
    """One that may be killed."""
    made = Server(safe=True)
    yield made
    made.close()


def committed(engine):
    return engine.one("SELECT count(*) AS n FROM unit WHERE shard_id IS NOT NULL")["n"]


def run_writers(url, tmp_path, count, *, writers, seconds=0.0):
    return [
        start(
            WRITERS, url, tmp_path / "store", tmp_path / f"notes{k}", count, seconds, variables={"OMP_NUM_THREADS": "1"}
        )
        for k in range(writers)
    ]


def finish(processes, tmp_path, store, count):
    """Wait for the writers, and see that what each was told is there is there, and that it was told once."""
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    told = Counter(int(line) for path in tmp_path.glob("notes*") for line in path.read_text().split())
    (space,) = [row["space_id"] for row in store.catalog.rows("SELECT space_id FROM feature_space")]
    units = {row["unit_id"] for row in store.catalog.rows("SELECT unit_id FROM unit")}
    assert len(units) == count // UNIT_ROWS
    assert not told.keys() - units
    assert set(told.values()) == {1}
    assert_whole(store, space, count // UNIT_ROWS)
    assert store.catalog.rows("SELECT name FROM lease") == []
    return told


@pytest.mark.slow
def test_promise_3_eight_writers_lose_nothing_and_do_nothing_twice(tmp_path, catalog_url):
    processes = run_writers(catalog_url, tmp_path, 160, writers=8)
    for process in processes:
        process.wait()
    with Store(tmp_path / "store", catalog=PostgresEngine(catalog_url)) as store:
        assert sum(finish(processes, tmp_path, store, 160).values()) == 80


@pytest.mark.slow
def test_promise_3_a_server_that_is_killed_and_restarted_loses_nothing(tmp_path, server):
    """Four writers are at work when it is killed, and again when it is shut down; each goes on when it is back."""
    url = server.url("failing")
    engine = PostgresEngine(url)
    processes = run_writers(url, tmp_path, 320, writers=4, seconds=0.02)
    for part, end in ((10, server.kill), (60, server.stop)):
        while committed(engine) < part:
            time.sleep(0.01)
        end()
        server.start()
        assert committed(engine) < 160, "there is nothing left to do: the test shows nothing"
    with Store(tmp_path / "store", catalog=engine) as store:
        told = finish(processes, tmp_path, store, 320)
        # A commit whose answer was lost with its process's patience may be there without having been told.
        assert 160 - 2 * len(processes) <= len(told) <= 160
    damage(server, engine)
    with pytest.raises(CorruptionError, match=r"schema failing of database gradsift on 127.0.0.1 is damaged.*restore"):
        engine.check()


def damage(server, engine):
    """Change bytes of a table on the server's disk."""
    (row,) = engine.rows("SELECT pg_relation_filepath('feature_row') AS path")
    server.stop()
    path = server.folder / "data" / row["path"]
    content = bytearray(path.read_bytes())
    content[4000:4100] = bytes(100)
    path.write_bytes(content)
    server.start()
