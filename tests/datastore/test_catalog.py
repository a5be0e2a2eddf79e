"""The catalog's engine: transactions, ids of new rows, threads, dialects, and stores of earlier versions."""

import hashlib
import json
import threading

import pytest

from gradsift import sql
from gradsift.datastore import arms, examples, features, quarantine, runs, selections
from gradsift.datastore.arms import ArmResult, Measured
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import BadRow, Example
from gradsift.datastore.overview import committed_bytes, overview
from gradsift.datastore.quarantine import Asked

RELEASED = {
    "0001_init.sql": "62fb465a487f5249b635744d19282123551aa598afce94352e789e3f64046fb0",
    "0002_mixtures.sql": "4f32e787d49a3be3a2d6e4c924d5a8ac3de397f107787866879fd1eb963c1ffe",
    "0003_provenance.sql": "45255a0a3f4edfd7c2d6fcc8475953ffd48a3ff4fede1a23c7bc35155a8cd3dc",
    "0004_living.sql": "1c8f1765c7fcfadaecf4d94c5bc9ad8cfc39974374e810c71e1307b639eb4e59",
    "0006_versions.sql": "13d0296a7b281f2f67991b8f852b7c720e63bb55f8c05980b7e3cf544239020b",
    "0007_forget.sql": "682b30ba2bbd4a8ebf30e3295f0c8c78e342d703d1d3e8759054053eedab934b",
    "0008_compact.sql": "b369c2fc2993c71617c0ebf706a4c3cb5693deaf4bbd1a7d24190dbc191a5025",
    "0009_index.sql": "c479807db37674f2989b0d449ecb369d02c8c990c5f7f1435abc2e6a28fbf4f2",
    "0010_growth.sql": "69d489f83e0d92077850c93c05409199dc1482206e76e0c9c259e98db93b82e2",
    "0011_written.sql": "f4f7f1e85bf6484ee94d4605b882d79c008a24a43aa51588cddffb2e9d6d1666",
    "0012_shard_numbers.sql": "90004566e0826468d16e0e7f764497399c1121c98766be97b12272595c16df6a",
    "0013_extra.sql": "358db1f2c57bde275b81ff034f29332515483ae1ea88ed03eb518fd087cdb427",
    "0014_quarantine.sql": "093e54b9ddc388da4c1f3c510bc02869d9797696524b7014660deea23e58eb8a",
    "0017_lives.sql": "d7c7c4502e0c972e8a4304792dbd70ba46b2b01a47094ba064a6d7007215533d",
    "0018_place.sql": "d25abc503b81cfbeb57c91fa555e9c3e69f4776d53590eea3d514d05b3e47e8d",
    "0019_seals.sql": "8ad48603f77dcdfe956dbfe415075bee4080231bc59e2c68d2e13d1ea140915a",
}
LEASE = "INSERT INTO lease VALUES (?, 'me', 0)"


def leases_of(engine):
    return [row["name"] for row in engine.rows("SELECT name FROM lease ORDER BY name")]


def test_promise_10_released_migrations_are_what_they_were():
    """A store remembers the digest of each migration and refuses to open with another."""
    now = {m.name: hashlib.sha256(m.text.encode()).hexdigest() for m in sql.migrations("sqlite")}
    assert {name: now.get(name) for name in RELEASED} == RELEASED


def test_a_transaction_is_all_or_nothing(store):
    def fail():
        with store.catalog.write() as db:
            db.execute(LEASE, ("lost",))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    with store.catalog.write() as db:
        assert db.execute(LEASE, ("kept",)) == 1
        db.executemany(LEASE, [("b",), ("a",)])
        assert db.execute("DELETE FROM lease WHERE name=?", ("b",)) == 1
    assert leases_of(store.catalog) == ["a", "kept"]


def test_a_new_row_gives_its_id_and_a_known_one_none(store):
    new = "INSERT INTO screening (spec, created) VALUES (?, 0) ON CONFLICT DO NOTHING RETURNING screening_id"
    with store.catalog.write() as db:
        assert db.one(new, ("a",))["screening_id"] == 1
        assert db.one(new, ("a",)) is None
        assert db.one(new, ("b",))["screening_id"] == 2
    assert [dict(row) for row in store.catalog.rows("SELECT screening_id, spec FROM screening ORDER BY spec")] == [
        {"screening_id": 1, "spec": "a"},
        {"screening_id": 2, "spec": "b"},
    ]


def test_a_thread_does_not_see_what_another_has_not_committed(store):
    seen = []

    def look():
        seen.append(leases_of(store.catalog))
        store.catalog.close()

    with store.catalog.write() as db:
        db.execute(LEASE, ("mine",))
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [[]]
    assert leases_of(store.catalog) == ["mine"]


def test_a_closed_engine_opens_again(store):
    store.catalog.close()
    assert leases_of(store.catalog) == []


def test_a_dialect_has_its_own_query_or_the_shared_one():
    assert "CROSS JOIN" in sql.query("members_of_shard", "sqlite")
    assert "CROSS JOIN" not in sql.query("members_of_shard", "another")
    assert sql.query("lineage", "sqlite") == sql.query("lineage", "another")
    assert sql.query_names("another") == sql.query_names("sqlite")
    with pytest.raises(FileNotFoundError):
        sql.query("no_such_query")


def refused(store):
    return [(row.dataset, row.file, row.line, row.source, row.detail) for row in quarantine.entries(store)]


def test_a_refused_row_again_replaces_the_older_entry(store):
    reading = quarantine.begin(store, "r", "pool", "r")
    quarantine.put(store, reading, [BadRow("f", 1, "s", "empty", "first", ""), BadRow("f", 2, "s", "empty", "", "")])
    quarantine.put(store, reading, [BadRow("f", 1, "t", "long", "second", "x")])
    assert refused(store) == [("r", "f", 1, "t", "second"), ("r", "f", 2, "s", "")]


def test_a_reading_that_ended_takes_out_what_it_did_not_note_of_its_own_dataset(store):
    rows = [BadRow("f", line, "s", "empty", "", "") for line in range(5)]
    for recipe, dataset in (("r", "r"), ("r", "other"), ("another", "r")):
        reading = quarantine.begin(store, recipe, "pool", dataset)
        quarantine.put(store, reading, rows)
        quarantine.end(store, reading, {"f"})
    assert len(refused(store)) == 10  # recipes that share a dataset and say the same are shown once
    reading = quarantine.begin(store, "r", "pool", "r")
    quarantine.put(store, reading, rows[:1])
    assert len(refused(store)) == 10  # not yet
    quarantine.end(store, reading, {"f"})
    counts = [store.catalog.one("SELECT count(*) AS n FROM quarantine WHERE recipe=? AND dataset=?", of)["n"]
              for of in (("r", "r"), ("r", "other"), ("another", "r"))]  # fmt: skip
    assert counts == [1, 5, 5]
    quarantine.keep(store, "r", [("pool", "r")])
    assert store.catalog.one("SELECT count(*) AS n FROM quarantine WHERE dataset='other'")["n"] == 0


def test_entries_are_read_by_pages_each_once(store, monkeypatch):
    monkeypatch.setattr(quarantine, "PAGE", 7)
    reading = quarantine.begin(store, "r", "pool", "r")
    quarantine.put(store, reading, [BadRow(f"/d/f{k % 3}", k, "s", "empty", "", "") for k in range(50)])
    assert sorted(row.line for row in quarantine.entries(store)) == list(range(50))
    assert [row.line for row in quarantine.entries(store, limit=3)] == [0, 3, 6]
    assert {row.file for row in quarantine.entries(store, Asked(file="f1"))} == {"/d/f1"}
    assert list(quarantine.entries(store, Asked(file="1"))) == []
    (kind,) = quarantine.summary(store, Asked(file="/d/f2"))
    assert (kind["rows"], kind["first"]) == (16, "/d/f2:2")


def test_promise_10_entries_of_which_the_dataset_is_not_known_go_when_their_file_is_read(store):
    with store.catalog.write() as db:
        for file in ("f", "g"):
            db.execute("INSERT INTO quarantine VALUES ('', '', '', ?, 1, 's', 'empty', '', '', 0)", (file,))
    quarantine.end(store, quarantine.begin(store, "r", "pool", "r"), {"f"})
    assert [row.file for row in quarantine.entries(store)] == ["g"]


def add(store, *names):
    chat = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    examples.add(store, [Example(name.ljust(32, "0"), chat, "made", "f", k) for k, name in enumerate(names)])


def test_an_id_is_known_by_its_start(store):
    add(store, "aa1", "aa2", "b")
    assert examples.find_prefix(store, "aa1") == "aa1".ljust(32, "0")
    for start, told in (("aa", "more than one"), ("c", "no example")):
        with pytest.raises(InputError, match=told):
            examples.find_prefix(store, start)


def test_a_feature_space_is_known_by_its_fingerprint(store):
    space = features.define_space(store, {"kind": "a"})
    assert features.space_by_fingerprint(store, features.space_fingerprint(store, space)) == space
    assert features.space_by_fingerprint(store, "other") is None


def test_facts_and_spec_of_a_selection(store):
    add(store, "a", "b")
    ids = ["b".ljust(32, "0"), "a".ljust(32, "0")]
    chosen = selections.save(
        store, "s", "t", {"method": "m", "spaces": [["x", "y"]]}, selections.Picks(ids, [1.0, 0.5])
    )
    assert selections.spec_of(store, chosen) == {"method": "m", "spaces": [["x", "y"]]}
    assert selections.facts(store, chosen) == selections.Facts(["made"] * 2, [None] * 2, [6, 6])
    assert examples.shards_of(store, ids) == [1]
    assert committed_bytes(store) > 0


def made(**more):
    pool = runs.PoolReport(1, "0" * 64, 1, 1, 0)
    return runs.RunResult("r", runs.Ingested(pool, {}, {}), **more)


def test_the_last_run_of_computed_rows(store):
    recipes = runs.Recipes({"name": "r"}, {"name": "written"})
    for result in (made(), made(base="first")):
        runs.finish(store, runs.start(store, "r", recipes), result)
    runs.start(store, "unfinished", recipes)
    assert runs.last_run(store).result.base == "first"
    assert runs.last_run(store, computed=True).result.base == ""
    assert runs.last_run(store).recipes == recipes


def test_a_result_reads_back_as_it_was_written(store):
    rows = [runs.SpaceRows("pool", 1, "p", 0, "sgd", 3, 2, {"ok": 3, "no_labels": 1})]
    versus = runs.Versus(-0.1, None, None, None, 1, 1, None, None, None, 1, "one seed")
    arm = runs.ArmRow(
        "selected", "sql", [0], 1e-3, [1.5], 1.5, None, "loss", [], None, None, 0.25, 9, 30.0, 60.0, None, 2.5, 0.5,
        curves=[[[1, 2.0], [2, None]]], versus={"random": versus},
    )  # fmt: skip
    result = made(rows=rows, arms=[arm], stages=[runs.Stage("ingest", 0.5)])
    runs.finish(store, runs.start(store, "r", runs.Recipes({}, {})), result)
    back = runs.last_run(store).result
    assert (back.arms, back.rows, back.stages) == (result.arms, result.rows, result.stages)
    assert json.loads(json.dumps(runs.as_json(back))) == json.loads(json.dumps(runs.as_json(result)))
    assert runs.as_json(result)["rows"][0]["no_labels"] == 1


def test_arms_and_runs_in_the_overview(store):
    tests = {"math": Measured(1.234567, [], []), "sql": Measured(2.0, [], [])}
    for key, lr, seed, of in (("a", 2e-3, 1, tests), ("b", 1e-3, 1, tests), ("c", None, 0, {})):
        result = ArmResult(9, 30, tests=of)
        arms.save(store, key, "less", "sql", seed, {"training": {"lr": lr}}, result)
        assert arms.find(store, key, ArmResult) == result
    assert arms.find(store, "none", ArmResult) is None
    with store.catalog.write() as db:
        db.execute("INSERT INTO run (name, recipe, started) VALUES ('r', '{}', 86400.9)")
        db.execute("INSERT INTO run (name, recipe, started, finished) VALUES ('s', '{}', 0, 59)")
    tables = overview(store)
    assert [tuple(row.values()) for row in tables["validation_arms"]] == [
        ("sql", "less", 0, None, 9, None),
        ("sql", "less", 1, 1e-3, 9, "math 1.2346, sql 2.0"),
        ("sql", "less", 1, 2e-3, 9, "math 1.2346, sql 2.0"),
    ]
    assert [(row["started_utc"], row["finished_utc"]) for row in tables["runs"]] == [
        ("1970-01-02 00:00:00", "not finished"),
        ("1970-01-01 00:00:00", "1970-01-01 00:00:59"),
    ]
