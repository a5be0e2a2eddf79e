"""A whole run, and all that is done to its store, where the catalog is a schema of PostgreSQL."""

import psycopg
import pytest
from planted import found_in

from gradsift import api
from gradsift.datastore import examples, selections
from gradsift.datastore.store import Store
from gradsift.datastore.tables import TABLES
from gradsift.datastore.where import matching
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

WITHOUT = ("cost", "stages")  # of what a command says: seconds


def shards(store):
    rows = store.catalog.rows("SELECT kind, sha256 FROM shard WHERE kind IN ('examples', 'features', 'checkpoint')")
    return {(row["kind"], row["sha256"]) for row in rows}


def in_the_database(url, *texts):
    """Which of the texts a catalog's tables, and what the server knows of their columns, have anywhere."""
    plain, _, schema = url.partition("?schema=")
    with psycopg.connect(plain) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname=%s", [schema]).fetchall()
        parts = [f'SELECT t::text FROM "{schema}"."{name}" AS t' for (name,) in names]
        parts.append(f"SELECT s::text FROM pg_stats AS s WHERE schemaname = '{schema}'")
        held = "\n".join(row[0] for part in parts for row in connection.execute(part))
    return [text for text in texts if text in held]


@pytest.mark.slow
def test_a_store_whose_catalog_is_postgresql_does_all_that_a_folder_does(finished, catalog_url, tmp_path):
    """Run, status, query, index, selection, export, report, compaction, prune, deletion, gc: what is chosen is what a local
    store chooses, and what is deleted is in no table of the schema."""
    data, local_root, local_result = finished
    root = tmp_path / "store"
    recipe = parse_recipe(data | {"catalog_url": catalog_url, "store_url": (tmp_path / "files").as_uri()})
    with Store(recipe.place(root)) as store, Store(local_root) as local:
        result = curate(recipe, store)
        assert shards(store) == shards(local)
        assert [made.digest for made in result.made] == [made.digest for made in local_result.made]
        assert [arm.test_loss for arm in result.arms] == [arm.test_loss for arm in local_result.arms]
        chosen = selections.get(store, result.made[0].name)
        gone = chosen.example_ids[0]
        text = examples.get_messages(store, [gone])[gone][0]["content"]
        here, there = (api.status(at) for at in (root, local_root))
        assert here.keys() == there.keys()
        assert here["examples"] == there["examples"]

    assert api.query(id=gone, store=root).hits == api.query(id=gone, store=local_root).hits
    for name in set(TABLES) - {"runs", "arms", "versions"}:  # these have times and places
        here, there = (api.query_sql(f"select * from {name}", store=at) for at in (root, local_root))
        assert sorted(map(repr, here.rows())) == sorted(map(repr, there.rows())), name
    asked = "select arm, seed, test, loss, examples from arms order by arm, seed, test, loss"
    assert api.query_sql(asked, store=root).equals(api.query_sql(asked, store=local_root))
    here, there = (api.lineage(gone, store=at).examples[0] for at in (root, local_root))
    assert (here.choices, here.scores, here.marks, here.passes) == (
        there.choices,
        there.scores,
        there.marks,
        there.passes,
    )
    assert (here.places, here.datasets, here.arms, here.arms_untold) == (
        there.places, there.datasets, there.arms, there.arms_untold
    )  # fmt: skip
    assert {one.row for one in here.exports} == {one.row for one in there.exports} == {1}
    assert api.lineage("small.jsonl", rows=True, store=root) == api.lineage("small.jsonl", rows=True, store=local_root)
    where = "source = 'sql' and line < 90 and chars > 20"
    with Store(root) as store, Store(local_root) as local:
        assert matching(store, where) == matching(local, where) != []
    narrow = {"like": [gone[:9]], "unlike": chosen.example_ids[1:3], "source": ["sql", "dates"], "chars": "..400"}
    asked = [api.query(**narrow, selected_in=name, opposed=True, store=at).hits
             for at in (root, local_root) for name in (None, chosen.name)]  # fmt: skip
    assert asked[:2] == asked[2:]
    assert all(asked)
    assert not (root / "checked.txt").exists(), "files that lie apart from their catalog are read by sha256"
    with Store(root) as store, Store(local_root) as local:
        assert store.neighbours(gone, where="chars < 300") == local.neighbours(gone, where="chars < 300")
    api.index_build(root, kind="flat")
    assert [hit.example_id for hit in api.query(id=gone, index="flat", store=root).hits]
    api.export(chosen.name, tmp_path / "exported", store=root)
    api.report(store=root, out=tmp_path / "before.html")
    api.compact(root, grace_hours=0)
    api.prune(root, keep=1)
    assert api.verify(root) == []

    assert in_the_database(catalog_url, gone) == [gone]
    assert found_in(tmp_path / "files", text)
    api.delete(id=gone, exports=True, store=root)
    assert found_in(tmp_path / "files", text, gone) == []
    with Store(root) as store:
        (row,) = store.catalog.rows("SELECT example_id FROM tombstone")
        assert row["example_id"] == gone
        assert store.catalog.one("SELECT 1 FROM example WHERE example_id=?", (gone,)) is None
    assert in_the_database(catalog_url, text) == []
    api.report(store=root, out=tmp_path / "after.html")
    assert api.gc(root, grace_hours=0) == []
    assert api.verify(root) == []
