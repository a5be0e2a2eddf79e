"""Both engines pass the suite; what is PostgreSQL's alone; and both dialects end in the same tables."""

import hashlib
import threading
import time
from urllib.parse import quote

import psycopg
import pytest
from running import python

from gradsift import sql
from gradsift.datastore import postgres as postgres_engine
from gradsift.datastore.errors import BusyError, CorruptionError, InputError, StoreFullError, UnavailableError
from gradsift.datastore.postgres import PostgresEngine
from gradsift.datastore.sqlite import SqliteEngine
from gradsift.datastore.testing_engine import LEASE, EngineTests, names, put


class TestSqlite(EngineTests):
    @pytest.fixture
    def open_engine(self, tmp_path):
        return lambda **options: SqliteEngine(tmp_path / "catalog.sqlite", **options)


class TestPostgres(EngineTests):
    @pytest.fixture
    def open_engine(self, catalog_url):
        return lambda **options: PostgresEngine(catalog_url, **options)


@pytest.fixture
def engine(catalog_url):
    opened = PostgresEngine(catalog_url)
    yield opened
    opened.close()


def sqlite_shape(engine):
    shape = {}
    for (table,) in (row.values() for row in map(dict, engine.rows(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
    ))):  # fmt: skip
        columns = {
            row["name"]: ({"INTEGER": "bigint", "TEXT": "text", "REAL": "double precision", "BLOB": "bytea"}[row["type"]],
                          bool(row["notnull"] or row["pk"]))
            for row in engine.rows(f"SELECT * FROM pragma_table_info('{table}')")
        }  # fmt: skip
        primary = [
            row["name"] for row in engine.rows(f"SELECT * FROM pragma_table_info('{table}') WHERE pk ORDER BY pk")
        ]
        keys = {tuple(primary)} if primary else set()
        indexes = set()
        for index in engine.rows(f"SELECT * FROM pragma_index_list('{table}')"):
            parts = engine.rows(f"SELECT name FROM pragma_index_info('{index['name']}') ORDER BY seqno")
            (keys if index["unique"] else indexes).add(tuple(part["name"] for part in parts))
        foreign = {}
        for row in engine.rows(f"SELECT * FROM pragma_foreign_key_list('{table}') ORDER BY id, seq"):
            foreign.setdefault(row["id"], (row["table"], row["on_delete"], []))[2].append((row["from"], row["to"]))
        shape[table] = (columns, keys, indexes, sorted((t, a, tuple(c)) for t, a, c in foreign.values()))
    return shape


def postgres_shape(engine):
    ours = "nspname=? AND relkind IN ('r', 'v')"
    of = "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    shape = {}
    for row in engine.rows(f"SELECT c.oid, relname, relkind::text AS kind {of} WHERE {ours}", (engine.schema,)):
        columns = {
            column["name"]: (column["type"], column["there"])
            for column in engine.rows(
                "SELECT attname AS name, attnotnull AS there, format_type(CASE WHEN typbasetype = 0 THEN t.oid ELSE "
                "typbasetype END, NULL) AS type FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
                "WHERE attrelid=? AND attnum > 0",
                (row["oid"],),
            )
        }
        keys, indexes = set(), set()
        for index in engine.rows(
            "SELECT indisunique OR indisexclusion AS one, array_agg(attname::text ORDER BY place) AS names "
            "FROM pg_index AS i CROSS JOIN unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place) "
            "JOIN pg_attribute AS a ON attrelid = indrelid AND attnum = number WHERE indrelid=? GROUP BY i.indexrelid, one",
            (row["oid"],),
        ):
            (keys if index["one"] else indexes).add(tuple(index["names"]))
        actions = {"c": "CASCADE", "n": "SET NULL", "a": "NO ACTION"}
        foreign = [
            (key["other"], actions[key["action"]], tuple(zip(key["mine"], key["its"], strict=True)))
            for key in engine.rows(
                "SELECT f.relname AS other, confdeltype::text AS action, "
                "(SELECT array_agg(attname::text ORDER BY place) FROM unnest(conkey) WITH ORDINALITY AS k (number, place) "
                "JOIN pg_attribute ON attrelid = conrelid AND attnum = number) AS mine, "
                "(SELECT array_agg(attname::text ORDER BY place) FROM unnest(confkey) WITH ORDINALITY AS k (number, place) "
                "JOIN pg_attribute ON attrelid = confrelid AND attnum = number) AS its "
                "FROM pg_constraint JOIN pg_class AS f ON f.oid = confrelid WHERE contype='f' AND conrelid=?",
                (row["oid"],),
            )
        ]
        shape[row["relname"]] = (columns, keys, indexes, sorted(foreign))
    return shape


def test_promise_10_the_first_migration_of_postgresql_is_what_it_was_and_later_ones_have_a_file_for_each():
    first, *later = sql.migrations("postgresql")
    assert hashlib.sha256(first.text.encode()).hexdigest() == (
        "89ddc039c62c05fc5d10d0ac6d2e76e5e9d55ee54c8ceb8ffdfc700914ce6e3e"
    )
    assert [m.name for m in later] == [m.name for m in sql.migrations("sqlite") if m.version > first.version]


def test_promise_10_both_dialects_end_in_the_same_tables_columns_and_keys(engine, tmp_path):
    lite, post = sqlite_shape(SqliteEngine(tmp_path / "catalog.sqlite")), postgres_shape(engine)
    assert lite.keys() - post.keys() == {"seal", "head"}  # PostgreSQL's server has its own ways for these
    for table in post:
        assert {"columns": post[table][0]} == {"columns": lite[table][0]} or table == "dataset_member"
        assert (table, post[table][1:]) == (table, lite[table][1:])


def server_says(state):
    """A statement that the server refuses with this SQLSTATE, as it does when it is in that trouble."""
    return f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'could not extend file'; END $$"


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ("53100", StoreFullError, "no space left for schema t_.*Nothing committed is lost: make room on its server"),
        ("XX001", CorruptionError, "the catalog in schema t_.* is damaged .*restore a backup"),
        ("42501", InputError, "cannot be written: .*The role must own the schema"),
        ("55P03", BusyError, "others have been writing to schema t_.*run this again"),
    ],
)
def test_what_the_server_says_is_said_with_the_next_step(engine, state, error, told):

    def fail():
        with engine.write() as db:
            db.execute(LEASE, ("a",))
            db.execute(server_says(state))

    with pytest.raises(error, match=told):
        fail()
    with pytest.raises(error, match=told):
        engine.rows(server_says(state))
    assert names(engine) == []


def test_an_error_that_is_passed_over_commits_nothing_and_is_told(engine):
    def pass_over():
        with engine.write() as db:
            db.execute(LEASE, ("a",))
            with pytest.raises(psycopg.Error):
                db.execute(LEASE, ("a",))

    with pytest.raises(RuntimeError, match="nothing was committed"):
        pass_over()
    assert names(engine) == []


def test_a_transaction_within_a_transaction_is_refused(engine):
    with engine.write() as db:
        db.execute(LEASE, ("a",))
        with pytest.raises(RuntimeError, match="within"):
            put(engine, "b")
    assert names(engine) == ["a"]


def test_a_text_that_postgresql_cannot_hold_is_told(engine):
    with pytest.raises(InputError, match="cannot hold the character NUL"):
        put(engine, "a\0b")
    assert names(engine) == []


def test_who_waits_too_long_for_other_writers_is_told_so(engine, catalog_url, monkeypatch):
    monkeypatch.setattr(postgres_engine, "SESSION", "SET lock_timeout = '0.1s';")
    other = PostgresEngine(catalog_url.replace("schema=", "connect_timeout=9&schema="))
    begun = threading.Event()

    def wait():
        with pytest.raises(BusyError, match="others have been writing"):
            put(other, "b")
        other.close()
        begun.set()

    with engine.write() as db:
        db.execute(LEASE, ("a",))
        threading.Thread(target=wait).start()
        assert begun.wait(60)
    assert names(engine) == ["a"]


def test_rows_that_somebody_may_still_read_are_not_called_scrubbed(engine, postgres, monkeypatch):
    """A dump that began before a deletion sees what was deleted, and so the server keeps it."""
    put(engine, "a")
    with postgres.connect() as dump:
        dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT 1")
        with engine.write() as db:
            db.execute("DELETE FROM lease")
        waited = []
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", waited.append)
            with pytest.raises(BusyError, match="may still read it; run this again when it has ended"):
                engine.scrub()
        assert waited == [0.2, 1.0, 3.0]
        dump.execute("COMMIT")
    engine.scrub()


def test_a_scrub_waits_for_who_is_about_to_end(engine, postgres, monkeypatch):
    """Such as the server's own vacuum."""
    put(engine, "a")
    with postgres.connect() as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        with engine.write() as db:
            db.execute("DELETE FROM lease")
        monkeypatch.setattr(time, "sleep", lambda _seconds: other.execute("COMMIT"))
        engine.scrub()


def test_what_was_deleted_is_in_no_file_of_the_schema_after_a_scrub(engine, postgres):
    word = "distinct-word-of-a-deleted-row"
    put(engine, *(f"{word}-{k % 2}-{k}" for k in range(2_000)))
    with engine.write() as db:
        db.execute("UPDATE lease SET holder = ?", (word,))  # a frequent value, that statistics keep
    engine.scrub()
    with engine.write() as db:
        db.execute("DELETE FROM lease")
    engine.scrub()
    with postgres.connect() as server:
        server.execute("CHECKPOINT")
        (path,) = server.execute(f"SELECT pg_relation_filepath('{engine.schema}.lease')").fetchone()
        assert server.execute("SELECT count(*) FROM pg_stats WHERE schemaname=%s AND pg_stats::text LIKE %s",
                              [engine.schema, f"%{word}%"]).fetchone() == (0,)  # fmt: skip
    assert word.encode() not in (postgres.folder / "data" / path).read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://gradsift:secret-word@127.0.0.1:1/none",
        "postgresql://gradsift@127.0.0.1:1/none?password=secret-word",
        "postgresql://gradsift:secret-word@127.0.0.1:port/none",
        "postgresql://gradsift:secret-word@[::1/none",
        "mysql://gradsift:secret-word@host/none",
        "gradsift:secret-word@host/none",
        "postgresql://gradsift:secret-word@host/none?no_such_parameter=1",
    ],
)
def test_no_message_has_a_password(url):
    with pytest.raises((InputError, UnavailableError)) as told:
        PostgresEngine(url)
    assert "secret-word" not in str(told.value)
    assert "127.0.0.1" in str(told.value) or "postgresql://host/database?schema=team" in str(told.value)


@pytest.mark.parametrize("schema", ["", "pg_own", "Team", "a-b", 'a"; DROP SCHEMA b', "é", "1st", "a" * 64])
def test_a_schema_is_a_plain_name(schema):
    with pytest.raises(InputError, match="must be a plain name"):
        PostgresEngine(f"postgresql://host/database?schema={quote(schema)}")


def test_who_is_refused_by_the_server_is_told_what_to_look_at(postgres):
    for database, role in (("none", "gradsift"), ("gradsift", "nobody")):
        url = postgres.url("x", database).replace("gradsift@", f"{role}@")
        with pytest.raises(InputError, match=r"does not exist.*The server is there: look at the role, the database"):
            PostgresEngine(url)
    with postgres.connect() as server:
        server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING latin1 LOCALE_PROVIDER libc LOCALE 'C'")
    with pytest.raises(InputError, match="encoding LATIN1; a catalog needs a database in UTF8"):
        PostgresEngine(postgres.url("x", "latin"))


def test_a_role_that_may_not_make_schemas_works_in_one_that_it_is_given(postgres):
    with postgres.connect() as server:
        server.execute("CREATE ROLE guest LOGIN")
    url = postgres.url("given").replace("gradsift@", "guest@")
    with pytest.raises(InputError, match="permission denied for database gradsift"):
        PostgresEngine(url)
    with postgres.connect() as server:
        server.execute("CREATE SCHEMA given AUTHORIZATION guest")
    engine = PostgresEngine(url)
    put(engine, "a")
    engine.scrub()
    assert names(engine) == ["a"]


def test_two_catalogs_of_a_database_do_not_meet(postgres, catalog_url):
    one, other = PostgresEngine(catalog_url), PostgresEngine(f"{catalog_url}_2")
    put(one, "a")
    with one.write() as db:
        db.execute(LEASE, ("b",))
        put(other, "c")  # does not wait for the first
    assert (names(one), names(other)) == (["a", "b"], ["c"])
    one.close()
    other.close()


def test_without_psycopg_the_command_that_installs_it_is_told():
    code = (
        "import sys; sys.modules['psycopg'] = None\nfrom pathlib import Path\n"
        "from gradsift.datastore.place import Place\nfrom gradsift.datastore.store import Store\n"
        "Store(Place(Path('x'), 'postgresql://h/d', 'file:///x'))"
    )
    assert "pip install 'gradsift[postgres]'" in python("-c", code, code=1).stderr
