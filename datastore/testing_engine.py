"""The suite that every engine for the catalog must pass. Tests only: it imports pytest, which gradsift does not need.

class TestMine(EngineTests):
    @pytest.fixture
    def open_engine(self, tmp_path):
        return lambda **options: MyEngine(..., **options)
"""

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from gradsift import sql
from gradsift.datastore import holders
from gradsift.datastore.engine import Engine, Transaction
from gradsift.datastore.errors import BusyError, CatalogVersionError, InputError

LEASE = "INSERT INTO lease VALUES (?, 'me', 0)"
TEXTS = ["", " ", "%s", "%(name)s", ":name", "a?b", "'", "Ä", "Z", "a", "b", "z", "é", "\ue000", "😀"]

Open = Callable[..., Engine]


def names(engine: Engine | Transaction) -> list[str]:
    """Names of all leases, sorted by the engine."""
    return [row["name"] for row in engine.rows("SELECT name FROM lease ORDER BY name")]


def put(engine: Engine, *leases: str) -> None:
    """Record leases in one transaction."""
    with engine.write() as db:
        db.executemany(LEASE, [(name,) for name in leases])


def put_and_end(engine: Engine, name: str) -> None:
    """`put` in a forked process, which ends without what other libraries do at the end of theirs."""
    put(engine, name)
    os._exit(0)


class EngineTests:
    """What `Engine` promises, one test for each promise."""

    @pytest.fixture
    def open_engine(self) -> Open:
        """Opens one and the same catalog, which does not exist before. Must be overridden."""
        raise NotImplementedError("give what opens the engine to test as the fixture `open_engine`")

    @pytest.fixture
    def engine(self, open_engine: Open) -> Iterator[Engine]:
        engine = open_engine()
        yield engine
        engine.close()

    def test_a_catalog_that_is_not_there_is_made_only_where_that_is_wanted(self, open_engine: Open) -> None:
        with pytest.raises(InputError, match="gradsift run RECIPE"):
            open_engine(create=False)
        open_engine().close()
        open_engine(create=False).close()

    def test_rows_have_names_and_can_be_copied(self, engine: Engine) -> None:
        put(engine, "a")
        row = engine.one("SELECT name, expires, holder AS who FROM lease")
        assert row is not None
        assert dict(row) == {"name": "a", "expires": 0.0, "who": "me"}
        assert [*row.keys()] == ["name", "expires", "who"]
        assert engine.one("SELECT name FROM lease WHERE name='b'") is None
        assert engine.rows("SELECT name FROM lease WHERE name='b'") == []

    def test_texts_come_back_and_sort_by_code_point(self, engine: Engine) -> None:
        put(engine, *reversed(TEXTS))
        assert names(engine) == sorted(TEXTS)
        assert [
            row["name"] for row in engine.rows("SELECT name FROM lease WHERE name >= ? ORDER BY 1 DESC", ("a",))
        ] == [*sorted((text for text in TEXTS if text >= "a"), reverse=True)]

    def test_numbers_bytes_and_nothing_come_back(self, engine: Engine) -> None:
        with engine.write() as db:
            db.execute(
                "INSERT INTO run (name, recipe, started, numbered) VALUES ('r', '{}', ?, ?)", (1e9 + 0.1, 2**53 + 1)
            )
            db.execute(
                "INSERT INTO selection (name, target, method, digest, spec, created) VALUES ('', '', '', '', '', 0)"
            )
            db.execute("INSERT INTO exported SELECT selection_id, ? FROM selection", (bytes(range(256)),))
        run = engine.one("SELECT started, numbered, finished FROM run")
        assert run is not None
        assert dict(run) == {"started": 1e9 + 0.1, "numbered": 2**53 + 1, "finished": None}
        kept = engine.one("SELECT places FROM exported")
        assert kept is not None
        assert kept["places"] == bytes(range(256))
        total = engine.one("SELECT sum(numbered) AS n, avg(started) AS mean, max(numbered) AS most FROM run")
        assert total is not None
        assert dict(total) == {"n": 2**53 + 1, "mean": 1e9 + 0.1, "most": 2**53 + 1}
        assert type(total["n"]) is int

    def test_values_have_places_or_names(self, engine: Engine) -> None:
        put(engine, "a", "b", "?", ":b", "100%")
        assert engine.one("SELECT name FROM lease WHERE name=? AND holder=?", ("a", "me")) is not None
        for text in ("?", ":b", "100%"):
            assert engine.one(f"SELECT name FROM lease WHERE name='{text}' AND holder=:it", {"it": "me"}) is not None
            assert engine.one(f"SELECT name FROM lease WHERE name='{text}' AND holder=?", ("me",)) is not None
        twice = "SELECT name FROM lease WHERE name=:it OR (name='b' AND :it <> :other) -- no :this, no ?\nORDER BY name"
        assert [row["name"] for row in engine.rows(twice, {"it": "a", "other": "c"})] == ["a", "b"]

    def test_a_transaction_is_all_or_nothing(self, engine: Engine) -> None:
        def fail() -> None:
            with engine.write() as db:
                db.execute(LEASE, ("lost",))
                assert names(db) == names(engine) == ["lost"]
                raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            fail()
        with engine.write() as db:
            assert db.execute(LEASE, ("kept",)) == 1
            db.executemany(LEASE, ((name,) for name in ("b", "a")))
            assert db.execute("DELETE FROM lease WHERE name=?", ("b",)) == 1
            assert db.execute("DELETE FROM lease WHERE name=?", ("b",)) == 0
        assert names(engine) == ["a", "kept"]

    def test_a_transaction_with_an_error_in_it_is_never_half_committed(self, engine: Engine) -> None:
        put(engine, "a")
        with suppress(Exception), engine.write() as db:
            db.execute(LEASE, ("b",))
            with suppress(Exception):
                db.executemany(LEASE, [("c",), ("a",)])  # known
            db.execute(LEASE, ("d",))
        assert names(engine) in (["a"], ["a", "b", "c", "d"])

    def test_a_new_row_gives_its_number_and_a_known_one_none(self, engine: Engine) -> None:
        new = "INSERT INTO screening (spec, created) VALUES (?, 0) ON CONFLICT DO NOTHING RETURNING screening_id"
        long = "long" * 100_000
        with engine.write() as db:
            made = [db.one(new, (spec,)) for spec in ("a", "a", "b", long, long)]
        numbers = [row and row["screening_id"] for row in made]
        assert numbers[1] is numbers[4] is None
        assert sorted({n for n in numbers if n}) == [n for n in numbers if n]

    def test_a_writer_is_alone_and_sees_what_was_committed_before(self, open_engine: Open, engine: Engine) -> None:
        begun, seen = threading.Event(), []
        other = open_engine()

        def second() -> None:
            begun.set()
            with other.write() as db:
                seen.append(names(db))
                db.execute(LEASE, ("second",))
            other.close()

        thread = threading.Thread(target=second)
        with engine.write() as db:
            thread.start()
            begun.wait()
            time.sleep(0.2)  # it may come later: then it sees the same
            db.execute(LEASE, ("first",))
            assert seen == []
        thread.join()
        other.close()
        assert seen == [["first"]]
        assert names(engine) == ["first", "second"]

    def test_readers_wait_for_nobody_and_see_what_is_committed(self, engine: Engine) -> None:
        put(engine, "a")
        seen: list[list[str]] = []

        def look() -> None:
            seen.append(names(engine))
            engine.close()

        with engine.write() as db:
            db.execute(LEASE, ("b",))
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert seen == [["a"]]

    def test_the_guard_is_asked_at_the_beginning_of_each_transaction(self, engine: Engine) -> None:
        def refuse(db: Transaction) -> None:
            raise BusyError(f"there are {len(names(db))}")

        put(engine, "a")
        engine.guard = refuse
        with pytest.raises(BusyError, match="there are 1"):
            put(engine, "b")
        engine.guard = None
        put(engine, "c")
        assert names(engine) == ["a", "c"]

    def test_a_row_that_refers_to_one_which_left_is_refused_as_busy(self, engine: Engine) -> None:
        with pytest.raises(BusyError, match="has left"), engine.write() as db:
            db.execute("INSERT INTO unit (space_id, examples) VALUES (7, 1)")
        assert engine.rows("SELECT * FROM unit") == []
        put(engine, "after")

    def test_what_leaves_takes_along_what_belongs_to_it(self, engine: Engine) -> None:
        with engine.write() as db:
            db.execute("INSERT INTO screening (screening_id, spec, created) VALUES (7, 's', 0)")
            db.execute("INSERT INTO feature_space (space_id, fingerprint, spec, created) VALUES (7, 'f', '{}', 0)")
            db.execute(
                "INSERT INTO search_index (index_id, space_id, kind, name, rows, bytes, sha256, settings, measured, "
                "created) VALUES (7, 7, 'flat', 'indexes/x', 1, 1, ?, '{}', '{}', 0)",
                ("0" * 64,),
            )
            db.execute("INSERT INTO search_index_shard VALUES (7, 0, 'd', 1)")
        with engine.write() as db:
            assert db.execute("DELETE FROM feature_space WHERE space_id=7") == 1
        assert engine.rows("SELECT * FROM search_index") == engine.rows("SELECT * FROM search_index_shard") == []
        assert [row["name"] for row in engine.rows("SELECT name FROM doomed")] == ["indexes/x"]

    def test_the_number_of_a_shard_is_never_given_again(self, engine: Engine) -> None:
        insert = (
            "INSERT INTO shard (shard_id, kind, name, rows, bytes, sha256, created) "
            "SELECT last + 1, 'scores', ?, 1, 1, ?, 0 FROM shard_number RETURNING shard_id"
        )
        for k in range(3):
            with engine.write() as db:
                (row,) = db.rows(insert, (str(k), "0" * 64))
                assert row["shard_id"] == k + 1
                db.execute("DELETE FROM shard")

    def test_the_clock_goes_on_and_is_that_of_unix(self, engine: Engine) -> None:
        first = engine.now()
        with engine.write() as db:
            times = [first, db.now(), db.now(), engine.now()]
        assert times[0] <= times[1] + 1e-3
        assert times[1] <= times[2] <= times[3] + 1e-3
        assert abs(first - time.time()) < 3_600

    def test_work_that_can_be_run_twice_is_run_once_where_nothing_is_lost(self, engine: Engine) -> None:
        assert engine.again(lambda db: db.execute(LEASE, ("a",))) == 1
        assert names(engine) == ["a"]

    def test_a_closed_engine_opens_again(self, engine: Engine) -> None:
        put(engine, "a")
        engine.close()
        engine.close()
        assert names(engine) == ["a"]

    def test_a_fork_has_connections_of_its_own(self, engine: Engine) -> None:
        put(engine, "a")
        context = multiprocessing.get_context("fork")
        child = context.Process(target=put_and_end, args=(engine, "b"))
        child.start()
        child.join()
        assert child.exitcode == 0
        put(engine, "c")
        assert names(engine) == ["a", "b", "c"]

    def test_many_threads_write_and_nothing_is_lost(self, engine: Engine) -> None:
        def work() -> None:
            for _ in range(20):
                with engine.write() as db:
                    (row,) = db.rows("SELECT count(*) AS n FROM lease")
                    db.execute(LEASE, (f"{row['n']:03d}",))  # two at once would take the same name
            engine.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names(engine) == [f"{n:03d}" for n in range(80)]

    def test_many_rows_go_in_and_come_out(self, engine: Engine) -> None:
        many = [f"{n:06d}" for n in range(20_000)]
        put(engine, *many)
        assert names(engine) == many

    def test_a_catalog_of_a_newer_version_and_an_edited_migration_are_refused(
        self, open_engine: Open, engine: Engine
    ) -> None:
        last = sql.migrations(engine.dialect)[-1].version
        with engine.write() as db:
            db.execute("UPDATE schema_migrations SET sha256='0' WHERE version=?", (last,))
        with pytest.raises(CatalogVersionError, match="unmodified"):
            open_engine()
        with engine.write() as db:
            db.execute("INSERT INTO schema_migrations VALUES (9999, 'later', '0', 0)")
        with pytest.raises(CatalogVersionError, match="pip install -U"):
            open_engine()

    def test_a_catalog_that_somebody_works_on_is_not_migrated(
        self, open_engine: Open, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later = sql.Migration(9999, "9999_later.sql", "CREATE TABLE later (n INTEGER);")
        known = sql.migrations(engine.dialect)
        with engine.write() as db:
            for name, holder, expires in (
                ("run 7", holders.holder_name(), 0.0),  # asked itself, whatever the clock says
                ("export", "elsewhere:7:99:1", engine.now() - 1),
                ("dead", f"{holders.process_name().rpartition(':')[0]}:1:1", engine.now() + 60),
            ):
                db.execute("INSERT INTO lease VALUES (?, ?, ?)", (name, holder, expires))
        monkeypatch.setattr(sql, "migrations", lambda _dialect: [*known, later])
        with pytest.raises(BusyError, match=r"an older gradsift.* working on it .run 7.* End every process"):
            open_engine()
        assert engine.one("SELECT 1 FROM schema_migrations WHERE version=9999") is None
        with engine.write() as db:
            db.execute("DELETE FROM lease WHERE name='run 7'")
        open_engine().check()
        assert engine.one("SELECT 1 FROM schema_migrations WHERE version=9999") is not None

    def test_a_sound_catalog_passes_the_check_and_loses_nothing_when_it_is_scrubbed(self, engine: Engine) -> None:
        put(engine, "a", "b")
        engine.check()
        engine.scrub()
        engine.check()
        assert names(engine) == ["a", "b"]

    def test_every_stored_query_runs(self, engine: Engine) -> None:
        values = {"id": "x", "dataset_id": 1, "shard_id": 1}
        for name in sql.query_names(engine.dialect):
            takes = set(re.findall(r":(\w+)", sql.query(name, engine.dialect)))
            asked = {key: value for key, value in values.items() if key in takes}
            assert engine.named(name, **asked) == []
