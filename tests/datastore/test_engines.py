"""Both engines pass the suite; what is PostgreSQL's alone; and both dialects end in the same tables."""

import pytest

from gradsift.datastore.postgres import PostgresEngine
from gradsift.datastore.sqlite import SqliteEngine
from gradsift.datastore.testing_engine import EngineTests


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


def test_promise_10_both_dialects_end_in_the_same_tables_columns_and_keys(engine, tmp_path):
    lite, post = sqlite_shape(SqliteEngine(tmp_path / "catalog.sqlite")), postgres_shape(engine)
    assert post.keys() == lite.keys()
    for table in lite:
        assert {"columns": post[table][0]} == {"columns": lite[table][0]} or table == "dataset_member"
        assert (table, post[table][1:]) == (table, lite[table][1:])
